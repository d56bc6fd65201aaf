// SPDX-License-Identifier: MIT
/* literal.c - one literal -> the bytes of its dtype.
 *
 * Decimals are rounded once, to nearest even, whatever the locale of the
 * process. In a float tensor a hexadecimal *integer* (0x3c00) is the bit
 * pattern, as generators write fp16 words; a hexadecimal *float* (0x1p-3) is a
 * value. A number that does not fit its dtype is refused, never wrapped and
 * never turned into inf. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* strtod_l */
#endif
#include "mil_internal.h"

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

/* ============================== Shapes of numbers ========================= */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* 0 .. 15, or -1 for other characters. */
static int hex_value(char c) {
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The parts of a number: [-] [0x] digits [. digits] [(e|p) [sign] digits]. */
typedef struct {
    const char *digits, *end; /* first digit of the mantissa; end of the token */
    bool minus, hex, fraction, exponent;
} Number;

/* Past decimal or hexadecimal digits. */
static const char *skip_digits(const char *p, const char *end, bool hex) {
    while (p < end && (hex ? hex_value(*p) >= 0 : is_digit(*p)))
        p++;
    return p;
}

/* Check the shape of a NUMBER token. False when it is not a number. */
static bool number_scan(const SaToken *t, Number *n) {
    const char *p = t->at, *end = t->at + t->length;
    memset(n, 0, sizeof *n);
    n->end = end;
    if (p < end && *p == '-') {
        n->minus = true;
        p++;
    }
    if (end - p > 1 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        n->hex = true;
        p += 2;
    }
    n->digits = p;
    const char *q = skip_digits(p, end, n->hex);
    long count = q - p;
    if (q < end && *q == '.') {
        n->fraction = true;
        p = q + 1;
        q = skip_digits(p, end, n->hex);
        count += q - p;
    }
    if (count == 0)
        return false;
    if (q < end && (n->hex ? *q == 'p' || *q == 'P' : *q == 'e' || *q == 'E')) {
        n->exponent = true;
        q++;
        if (q < end && (*q == '+' || *q == '-'))
            q++;
        p = q;
        q = skip_digits(p, end, false);
        if (q == p)
            return false;
    }
    return q == end;
}

/* Magnitude of an integer token; false when it exceeds 64 bits. */
static bool number_magnitude(const Number *n, uint64_t *out) {
    uint64_t v = 0;
    for (const char *p = n->digits; p < n->end; p++)
        if (__builtin_mul_overflow(v, n->hex ? 16u : 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)hex_value(*p), &v))
            return false;
    *out = v;
    return true;
}

/* ============================== Values ==================================== */

/* strtod in the C locale; a host program may have set another one. */
static double c_strtod(const char *s) {
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return strtod(s, NULL);
    double d = strtod_l(s, NULL, c);
    freelocale(c);
    return d;
}

/* Nearest double of a scanned number. Short decimals are exact in one
 * multiplication or division (mantissa below 2^53, power up to 10^22). */
static double number_value(const SaToken *t, const Number *n) {
    static const double tens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    if (!n->hex) {
        uint64_t mant = 0;
        int digits = 0, scale = 0, e = 0;
        bool dot = false, minus = false;
        const char *p = n->digits;
        for (; p < n->end && (is_digit(*p) || *p == '.'); p++) {
            if (*p == '.') {
                dot = true;
                continue;
            }
            mant = mant * 10 + (uint64_t)(*p - '0');
            if (mant && ++digits > 18)
                break;
            scale -= dot;
        }
        /* 2^53 has 16 digits; with more the general conversion decides */
        if (digits <= 18 && mant <= (uint64_t)1 << 53) {
            if (p < n->end) { /* 'e' */
                p++;
                minus = *p == '-';
                p += *p == '-' || *p == '+';
                for (; p < n->end && e < 10000; p++)
                    e = e * 10 + (*p - '0');
            }
            scale += minus ? -e : e;
            if (scale >= -22 && scale <= 22) {
                double d = (double)mant;
                d = scale < 0 ? d / tens[-scale] : d * tens[scale];
                return n->minus ? -d : d;
            }
        }
    }
    char buf[SA_MAX_NUMBER + 1];
    memcpy(buf, t->at, t->length); /* the lexer keeps numbers this short */
    buf[t->length] = '\0';
    return c_strtod(buf);
}

/* A float that rounds to fp16 as the double would: rounded to odd, so that the
 * second rounding sees whether anything was lost. */
static float float_to_odd(double d) {
    float f = (float)d;
    if ((double)f == d || isinf(f) || isnan(f))
        return f;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (!(u & 1u)) /* even: the odd neighbour lies towards d */
        u += fabs((double)f) < fabs(d) ? 1u : UINT32_MAX;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* fp16 or fp32 of a scanned number. NULL, or the reason against it. */
static const char *store_float(const SaToken *t, const Number *n, SaDtype dtype, void *dst, SaStatus *code) {
    uint16_t half;
    float single;
    if (n->hex && !n->fraction && !n->exponent) { /* a word of bits */
        uint64_t bits;
        uint64_t most = dtype == SA_FP16 ? UINT16_MAX : UINT32_MAX;
        if (n->minus)
            return "a bit pattern has no sign";
        if (!number_magnitude(n, &bits) || bits > most) {
            *code = SA_E_LIMIT;
            return "the bit pattern is too wide";
        }
        half = (uint16_t)bits;
        uint32_t word = (uint32_t)bits;
        memcpy(&single, &word, sizeof single);
    } else {
        double d = number_value(t, n);
        half = sa_half_from_float_even(float_to_odd(d));
        single = (float)d;
        if (dtype == SA_FP16 ? (half & 0x7fffu) == 0x7c00u : isinf(single)) {
            *code = SA_E_LIMIT;
            return "the number is too large";
        }
    }
    if (dtype == SA_FP16)
        memcpy(dst, &half, sizeof half);
    else
        memcpy(dst, &single, sizeof single);
    return NULL;
}

/* An integer of any width, from decimal or hexadecimal digits. The bytes are
 * those of the two's complement. NULL, or the reason against it. */
static const char *store_int(const Number *n, SaDtype dtype, void *dst, SaStatus *code) {
    uint64_t v = 0, most;
    bool is_signed = dtype == SA_INT8 || dtype == SA_INT16 || dtype == SA_INT32 || dtype == SA_INT4;
    int bits = sa_dtype_bits(dtype);
    size_t bytes = sa_dtype_bytes(dtype);
    if (n->fraction || n->exponent)
        return "an integer is needed";
    most = bits == 64 ? UINT64_MAX : ((uint64_t)1 << (bits - (is_signed ? 1 : 0))) - 1;
    bool fits = number_magnitude(n, &v);
    if (n->minus)
        fits = fits && (is_signed ? v <= most + 1 : v == 0);
    else
        fits = fits && v <= most;
    if (!fits) {
        *code = SA_E_LIMIT;
        return "the number is out of range";
    }
    if (n->minus)
        v = 0 - v;
    uint8_t u8 = (uint8_t)v;
    uint16_t u16 = (uint16_t)v;
    uint32_t u32 = (uint32_t)v;
    switch (bytes) {
    case 1: memcpy(dst, &u8, 1); break;
    case 2: memcpy(dst, &u16, 2); break;
    case 4: memcpy(dst, &u32, 4); break;
    default: memcpy(dst, &v, 8); break;
    }
    return NULL;
}

/* See mil_internal.h. */
const char *sa_literal_store(const SaToken *t, SaDtype dtype, void *dst, SaStatus *code) {
    *code = SA_E_TYPE;
    if (dtype == SA_BOOL) {
        uint8_t on = sa_token_is(t, "true");
        if (!on && !sa_token_is(t, "false"))
            return "true or false is needed";
        memcpy(dst, &on, 1);
        return NULL;
    }
    if (t->kind != SA_TOK_NUMBER)
        return "a number is needed";
    Number n;
    if (!number_scan(t, &n)) {
        *code = SA_E_SYNTAX;
        return "the number is malformed";
    }
    if (dtype == SA_FP16 || dtype == SA_FP32)
        return store_float(t, &n, dtype, dst, code);
    return store_int(&n, dtype, dst, code);
}
