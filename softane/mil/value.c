// SPDX-License-Identifier: MIT
/* value.c - questions about types and about the operands of an operation.
 *
 * Read-only and without state; used by the rules and by everything behind the
 * front end. No function here reports errors: absent or unfitting is false. */
#include "mil_internal.h"

#include <stdio.h>
#include <string.h>

/* ============================== Types ===================================== */

/* One row per dtype. */
static const struct {
    const char *name;
    size_t bytes;
    int bits; /* in a weight file */
} dtypes[] = {
    [SA_FP16] = {"fp16", 2, 16},   [SA_FP32] = {"fp32", 4, 32},     [SA_INT8] = {"int8", 1, 8},
    [SA_UINT8] = {"uint8", 1, 8},  [SA_INT16] = {"int16", 2, 16},   [SA_UINT16] = {"uint16", 2, 16},
    [SA_INT32] = {"int32", 4, 32}, [SA_UINT32] = {"uint32", 4, 32}, [SA_UINT64] = {"uint64", 8, 64},
    [SA_BOOL] = {"bool", 1, 8},    [SA_INT4] = {"int4", 1, 4},      [SA_UINT1] = {"uint1", 1, 1},
    [SA_UINT2] = {"uint2", 1, 2},  [SA_UINT3] = {"uint3", 1, 3},    [SA_UINT4] = {"uint4", 1, 4},
    [SA_UINT6] = {"uint6", 1, 6},  [SA_STRING] = {"string", 0, 0},
};

/* Bytes of one element; 0 for strings and for no dtype at all. */
size_t sa_dtype_bytes(SaDtype t) { return t >= SA_FP16 && t <= SA_STRING ? dtypes[t].bytes : 0; }
/* Bits of one element in a weight file; 0 as above. */
int sa_dtype_bits(SaDtype t) { return t >= SA_FP16 && t <= SA_STRING ? dtypes[t].bits : 0; }
/* The word of the text; static storage. */
const char *sa_dtype_name(SaDtype t) { return t >= SA_FP16 && t <= SA_STRING ? dtypes[t].name : "?"; }

/* Elements; 1 for a scalar. */
int64_t sa_type_count(const SaType *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* Same dtype, rank and dims. */
bool sa_type_equal(const SaType *a, const SaType *b) {
    if (a->dtype != b->dtype || a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

/* "tensor<fp16, [1, 64, 1, 32]>", a scalar "fp16". Always terminated. */
void sa_type_format(const SaType *t, char *buf, size_t cap) {
    char dims[SA_DEEP_RANK * 24 + 1] = "";
    size_t n = 0;
    if (t->rank == 0) {
        snprintf(buf, cap, "%s", sa_dtype_name(t->dtype));
        return;
    }
    for (int i = 0; i < t->rank && n < sizeof dims; i++)
        n += (size_t)snprintf(dims + n, sizeof dims - n, "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    snprintf(buf, cap, "tensor<%s, [%s]>", sa_dtype_name(t->dtype), dims);
}

/* ============================== Operands ================================== */

/* The operand of that name, or NULL. */
const SaArg *sa_op_arg(const SaOp *op, const char *key) {
    for (int i = 0; i < op->n_args; i++)
        if (strcmp(op->args[i].key, key) == 0)
            return &op->args[i];
    return NULL;
}

/* The value of an operand that is no tuple. */
SaValue *sa_op_value(const SaOp *op, const char *key) {
    const SaArg *a = sa_op_arg(op, key);
    return a && !a->is_tuple && a->count == 1 ? a->values[0] : NULL;
}

/* The value of an operand when it is an inline constant of this rank. */
static const SaValue *inline_const(const SaOp *op, const char *key, int rank) {
    const SaValue *v = sa_op_value(op, key);
    return v && v->constant && v->constant->data && !v->constant->blob_path && v->type.rank == rank ? v : NULL;
}

/* The i-th element as an integer. False for other dtypes and values above
 * INT64_MAX; `v` may be a constant from a file once it has been read. */
bool sa_const_int_at(const SaValue *v, int64_t i, int64_t *out) {
    if (!v || !v->constant || !v->constant->data || i < 0 || i >= sa_type_count(&v->type))
        return false;
    size_t bytes = sa_dtype_bytes(v->type.dtype);
    const char *p = (const char *)v->constant->data + (size_t)i * bytes;
    uint64_t raw = 0;
    uint16_t u16;
    uint32_t u32;
    switch (v->type.dtype) {
    case SA_INT8: case SA_INT4: *out = (int8_t)*p; return true;
    case SA_UINT8: case SA_UINT1: case SA_UINT2: case SA_UINT3: case SA_UINT4: case SA_UINT6:
        *out = (uint8_t)*p;
        return true;
    case SA_INT16: memcpy(&u16, p, 2); *out = (int16_t)u16; return true;
    case SA_UINT16: memcpy(&u16, p, 2); *out = u16; return true;
    case SA_INT32: memcpy(&u32, p, 4); *out = (int32_t)u32; return true;
    case SA_UINT32: memcpy(&u32, p, 4); *out = u32; return true;
    case SA_UINT64:
        memcpy(&raw, p, 8);
        *out = (int64_t)raw;
        return raw <= INT64_MAX;
    default: return false;
    }
}

/* A scalar of an integer dtype. */
bool sa_op_int(const SaOp *op, const char *key, int64_t *out) {
    return sa_const_int_at(inline_const(op, key, 0), 0, out);
}

/* A scalar bool. */
bool sa_op_bool(const SaOp *op, const char *key, bool *out) {
    const SaValue *v = inline_const(op, key, 0);
    if (!v || v->type.dtype != SA_BOOL)
        return false;
    *out = *(const uint8_t *)v->constant->data != 0;
    return true;
}

/* A scalar fp16 or fp32; fp16 becomes the float of equal value. */
bool sa_op_float(const SaOp *op, const char *key, float *out) {
    const SaValue *v = inline_const(op, key, 0);
    if (!v)
        return false;
    if (v->type.dtype == SA_FP32) {
        memcpy(out, v->constant->data, sizeof *out);
        return true;
    }
    if (v->type.dtype != SA_FP16)
        return false;
    uint16_t half;
    memcpy(&half, v->constant->data, sizeof half);
    *out = sa_half_to_float(half);
    return true;
}

/* A scalar of any dtype but string, as a double (integers up to 2^53 exactly). */
bool sa_op_number(const SaOp *op, const char *key, double *out, SaDtype *dtype) {
    const SaValue *v = inline_const(op, key, 0);
    int64_t i;
    float f;
    bool b;
    if (!v || v->type.dtype == SA_STRING)
        return false;
    *dtype = v->type.dtype;
    if (sa_op_float(op, key, &f))
        *out = (double)f;
    else if (sa_op_bool(op, key, &b))
        *out = b;
    else if (sa_op_int(op, key, &i))
        *out = (double)i;
    else
        return false;
    return true;
}

/* A string; it lives as long as the program. */
bool sa_op_string(const SaOp *op, const char *key, const char **out) {
    const SaValue *v = inline_const(op, key, 0);
    if (!v || v->type.dtype != SA_STRING)
        return false;
    *out = v->constant->string;
    return true;
}

/* At most cap integers of a vector; the number of all its elements may be
 * larger. -1 when absent, not inline or not of integers. */
int sa_op_ints(const SaOp *op, const char *key, int64_t *out, int cap) {
    const SaValue *v = inline_const(op, key, 1);
    int64_t first;
    if (!v || !sa_const_int_at(v, 0, &first))
        return -1;
    int n = v->type.dim[0] < cap ? (int)v->type.dim[0] : cap;
    for (int i = 0; i < n; i++)
        if (!sa_const_int_at(v, i, &out[i]))
            return -1;
    return n;
}

/* At most cap booleans of a vector, as sa_op_ints. */
int sa_op_bools(const SaOp *op, const char *key, bool *out, int cap) {
    const SaValue *v = inline_const(op, key, 1);
    if (!v || v->type.dtype != SA_BOOL)
        return -1;
    int n = v->type.dim[0] < cap ? (int)v->type.dim[0] : cap;
    for (int i = 0; i < n; i++)
        out[i] = ((const uint8_t *)v->constant->data)[i] != 0;
    return n;
}
