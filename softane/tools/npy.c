// SPDX-License-Identifier: MIT
/* npy.c - NumPy's .npy files: versions 1 to 3, little endian, C order. What
 * does not fit exactly is refused with a reason, never guessed. */
#include "tool.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ============================== Elements ================================== */

/* Double to half in one rounding: to odd in single precision first. */
static uint16_t half_of(double d) {
    float f = (float)d;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (isfinite(f) && (double)f != d) {
        if (fabs((double)f) > fabs(d)) /* back towards zero */
            bits--;
        bits |= 1;
        memcpy(&f, &bits, sizeof f);
    }
    return sa_half_from_float_even(f);
}

static double clamp(double v, double low, double high) {
    v = isnan(v) ? 0 : nearbyint(v);
    return v < low ? low : v > high ? high : v;
}

#define SIGNED_TYPES(X) \
    X(SA_INT8, int8_t, -128.0, 127.0) X(SA_INT16, int16_t, -32768.0, 32767.0) \
    X(SA_INT32, int32_t, -2147483648.0, 2147483647.0)
#define UNSIGNED_TYPES(X) \
    X(SA_UINT8, uint8_t, 0.0, 255.0) X(SA_UINT16, uint16_t, 0.0, 65535.0) X(SA_UINT64, uint64_t, 0.0, 0x1.fffffffffffffp63)

double element_get(SaDtype t, const void *data, size_t i) {
    switch (t) {
    case SA_FP16: return (double)sa_half_to_float(((const uint16_t *)data)[i]);
    case SA_FP32: return (double)((const float *)data)[i];
    case SA_BOOL: return ((const uint8_t *)data)[i] != 0;
#define GET(id, type, low, high) case id: return (double)((const type *)data)[i];
    SIGNED_TYPES(GET)
    UNSIGNED_TYPES(GET)
    default: return NAN;
    }
}

void element_put(SaDtype t, void *data, size_t i, double v) {
    switch (t) {
    case SA_FP16: ((uint16_t *)data)[i] = half_of(v); break;
    case SA_FP32: ((float *)data)[i] = (float)v; break;
    case SA_BOOL: ((uint8_t *)data)[i] = v != 0; break;
#define PUT(id, type, low, high) case id: ((type *)data)[i] = (type)clamp(v, low, high); break;
    SIGNED_TYPES(PUT)
    UNSIGNED_TYPES(PUT)
    default: break;
    }
}

/* ============================== Shapes ==================================== */

void array_shape(const Array *a, char *buf, size_t cap) {
    size_t n = (size_t)snprintf(buf, cap, "(");
    for (int i = 0; i < a->rank && n < cap; i++)
        n += (size_t)snprintf(buf + n, cap - n, "%s%lld", i ? ", " : "", (long long)a->dim[i]);
    if (n < cap)
        snprintf(buf + n, cap - n, a->rank == 1 ? ",)" : ")");
}

bool array_fits(const Array *a, const SaType *type) {
    int i = 0, j = 0;
    for (;;) {
        while (i < a->rank && a->dim[i] == 1)
            i++;
        while (j < type->rank && type->dim[j] == 1)
            j++;
        if (i == a->rank || j == type->rank)
            return i == a->rank && j == type->rank;
        if (a->dim[i++] != type->dim[j++])
            return false;
    }
}

void array_free(Array *a) {
    free(a->value);
    a->value = NULL;
}

/* ============================== Header ==================================== */

/* The header is a dictionary in Python's words; `p` walks over it. */
static const char *blanks(const char *p) { return p + strspn(p, " \t\n"); }

static bool take(const char **p, const char *word) {
    *p = blanks(*p);
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0)
        return false;
    *p += n;
    return true;
}

/* 'text' or "text", at most cap - 1 characters without escapes. */
static bool take_string(const char **p, char *out, size_t cap) {
    *p = blanks(*p);
    char quote = **p;
    if (quote != '\'' && quote != '"')
        return false;
    const char *from = *p + 1, *to = strchr(from, quote);
    if (!to || (size_t)(to - from) >= cap || memchr(from, '\\', (size_t)(to - from)))
        return false;
    memcpy(out, from, (size_t)(to - from));
    out[to - from] = 0;
    *p = to + 1;
    return true;
}

/* (2, 3) or (2,) or (). Sets rank, dim and count; false when it is too large. */
static bool take_shape(const char **p, Array *a) {
    if (!take(p, "("))
        return false;
    a->rank = 0;
    a->count = 1;
    while (!take(p, ")")) {
        char *end;
        if (a->rank == ARRAY_MAX_RANK || **p < '0' || **p > '9')
            return false;
        errno = 0;
        unsigned long long d = strtoull(*p, &end, 10);
        if (errno || d > INT64_MAX || !sa_mul_ok(a->count, (size_t)d, &a->count))
            return false;
        a->dim[a->rank++] = (int64_t)d;
        *p = end;
        if (!take(p, ",") && *blanks(*p) != ')')
            return false;
    }
    return true;
}

typedef struct {
    char descr[16];
    bool fortran, has_descr, has_fortran, has_shape;
} Header;

/* NULL, or what is wrong. */
static const char *read_header(const char *p, Header *h, Array *a) {
    char key[32];
    if (!take(&p, "{"))
        return "the header is no dictionary";
    while (!take(&p, "}")) {
        if (!take_string(&p, key, sizeof key) || !take(&p, ":"))
            return "the header is damaged";
        if (strcmp(key, "descr") == 0 && !h->has_descr) {
            if (!take_string(&p, h->descr, sizeof h->descr))
                return "records are not supported";
            h->has_descr = true;
        } else if (strcmp(key, "fortran_order") == 0 && !h->has_fortran) {
            h->fortran = take(&p, "True");
            if (!h->fortran && !take(&p, "False"))
                return "the header is damaged";
            h->has_fortran = true;
        } else if (strcmp(key, "shape") == 0 && !h->has_shape) {
            if (!take_shape(&p, a))
                return "the shape is damaged or too large";
            h->has_shape = true;
        } else {
            return "the header has an unknown or repeated key";
        }
        if (!take(&p, ",") && *blanks(p) != '}')
            return "the header is damaged";
    }
    if (*blanks(p))
        return "there is text behind the header";
    return h->has_descr && h->has_fortran && h->has_shape ? NULL : "the header lacks a key";
}

/* ============================== Reading =================================== */

static const struct {
    const char *descr;
    size_t bytes;
} dtypes[] = {{"f2", 2}, {"f4", 4}, {"f8", 8}, {"i1", 1}, {"u1", 1}, {"i2", 2}, {"u2", 2},
              {"i4", 4}, {"u4", 4}, {"i8", 8}, {"u8", 8}, {"b1", 1}};

static double convert(const char *t, const uint8_t *p) {
    union {
        float f;
        double d;
        int16_t i2;
        int32_t i4;
        int64_t i8;
        uint16_t u2;
        uint32_t u4;
        uint64_t u8;
    } v;
    memcpy(&v, p, (size_t)(t[1] - '0') <= sizeof v ? (size_t)(t[1] - '0') : 1);
    switch (t[0]) {
    case 'f': return t[1] == '2' ? (double)sa_half_to_float(v.u2) : t[1] == '4' ? (double)v.f : v.d;
    case 'i': return t[1] == '1' ? (double)(int8_t)*p : t[1] == '2' ? v.i2 : t[1] == '4' ? v.i4 : (double)v.i8;
    case 'u': return t[1] == '1' ? *p : t[1] == '2' ? v.u2 : t[1] == '4' ? v.u4 : (double)v.u8;
    default: return *p != 0;
    }
}

/* The elements that follow the header. NULL, or what is wrong. */
static const char *read_data(FILE *f, const char *descr, Array *a) {
    size_t size = 0, bytes;
    const char *name = descr + (descr[0] == '<' || descr[0] == '|');
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(name, dtypes[i].descr) == 0)
            size = dtypes[i].bytes;
    if (descr[0] == '>')
        return "big-endian numbers are not supported";
    if (size == 0 || (descr[0] == '|') != (size == 1))
        return "this dtype is not supported";
    if (!sa_mul_ok(a->count, size, &bytes) || bytes > (size_t)1 << 40)
        return "it is too large";
    snprintf(a->dtype, sizeof a->dtype, "%s", name);
    uint8_t *raw = malloc(bytes + 1);
    a->value = malloc((a->count + 1) * sizeof *a->value);
    const char *why = NULL;
    if (!raw || !a->value)
        why = "out of memory";
    else if (fread(raw, 1, bytes, f) != bytes)
        why = "it ends before its last element";
    else if (fgetc(f) != EOF)
        why = "there are bytes behind its last element";
    for (size_t i = 0; !why && i < a->count; i++)
        a->value[i] = convert(a->dtype, raw + i * size);
    free(raw);
    return why;
}

static const char *read_file(FILE *f, Array *a) {
    uint8_t start[12];
    size_t length;
    if (fread(start, 1, 10, f) != 10 || memcmp(start, "\x93NUMPY", 6) != 0)
        return "it is no .npy file";
    if (start[6] < 1 || start[6] > 3 || start[7] != 0)
        return "its version is unknown";
    length = (size_t)start[8] | (size_t)start[9] << 8;
    if (start[6] > 1) {
        if (fread(start + 10, 1, 2, f) != 2)
            return "it ends inside its header";
        length |= (size_t)start[10] << 16 | (size_t)start[11] << 24;
    }
    if (length > 1 << 20)
        return "its header is too large";
    char *text = malloc(length + 1);
    if (!text)
        return "out of memory";
    Header h = {.descr = ""};
    const char *why = "it ends inside its header";
    if (fread(text, 1, length, f) == length && !memchr(text, 0, length)) {
        text[length] = 0;
        why = read_header(text, &h, a);
    }
    free(text);
    if (!why && h.fortran && a->rank > 1)
        why = "it is in Fortran order; save it with numpy.ascontiguousarray";
    return why ? why : read_data(f, h.descr, a);
}

bool npy_read(const char *path, Array *out) {
    *out = (Array){0};
    FILE *f = fopen(path, "rbe");
    if (!f) {
        complain("%s: %s", path, strerror(errno));
        return false;
    }
    const char *why = read_file(f, out);
    fclose(f);
    if (why) {
        complain("%s: %s", path, why);
        array_free(out);
    }
    return !why;
}

/* ============================== Writing =================================== */

static const char *descr_of(SaDtype t) {
    switch (t) {
    case SA_FP16: return "<f2";
    case SA_FP32: return "<f4";
    case SA_INT8: return "|i1";
    case SA_UINT8: return "|u1";
    case SA_INT16: return "<i2";
    case SA_UINT16: return "<u2";
    case SA_INT32: return "<i4";
    case SA_UINT64: return "<u8";
    case SA_BOOL: return "|b1";
    default: return NULL;
    }
}

bool npy_write(const char *path, const SaType *type, const void *data) {
    char text[400];
    const char *descr = descr_of(type->dtype);
    if (!descr) {
        complain("%s: %s cannot be written", path, sa_dtype_name(type->dtype));
        return false;
    }
    size_t n = (size_t)snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < type->rank; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%lld,%s", (long long)type->dim[i], i + 1 < type->rank ? " " : "");
    n += (size_t)snprintf(text + n, sizeof text - n, "), }");
    size_t total = (10 + n + 1 + 63) / 64 * 64;
    uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)((total - 10) & 255), (uint8_t)((total - 10) >> 8)};
    size_t bytes = (size_t)sa_type_count(type) * sa_dtype_bytes(type->dtype);
    FILE *f = fopen(path, "wbe");
    bool ok = f && fwrite(head, 1, 10, f) == 10 && fprintf(f, "%-*s\n", (int)(total - 11), text) == (int)(total - 10) &&
              fwrite(data, 1, bytes, f) == bytes;
    int error = errno;
    if (f && fclose(f) != 0) {
        ok = false;
        error = errno;
    }
    if (!ok)
        complain("%s: %s", path, strerror(error));
    return ok;
}
