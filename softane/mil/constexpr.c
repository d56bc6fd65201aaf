// SPDX-License-Identifier: MIT
/* constexpr.c - compressed weights -> plain ones: what the constexpr_* operations
 * stand for. Called once per weight, when the plan is made.
 *
 * Sums and products are fp32 and rounded once to the result's dtype, half to
 * even: the compiler unpacks on the CPU before the engine sees anything. Nothing
 * from a file is trusted; sizes were checked by the rules, contents are not. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Constants ================================= */

bool sa_op_is_constexpr(const SaOp *op) {
    const SaOpSpec *spec = sa_op_spec(op->id);
    return spec && (spec->flags & SA_SPEC_CONSTEXPR);
}

/* Known before a run. */
bool sa_value_is_constant(const SaValue *v) { return v->constant || (v->producer && sa_op_is_constexpr(v->producer)); }

/* Element i of a constant whose data are there, as a float. */
static float element(const SaValue *v, size_t i) {
    uint16_t half;
    float f;
    int64_t n = 0;
    const char *data = v->constant->data;
    switch (v->type.dtype) {
    case SA_FP16: memcpy(&half, data + i * 2, 2); return sa_half_to_float(half);
    case SA_FP32: memcpy(&f, data + i * 4, 4); return f;
    default: sa_const_int_at(v, (int64_t)i, &n); return (float)n;
    }
}

/* The value of an operand whose data are needed; missing data are an error. */
static SaStatus data_of(const SaOp *op, const char *key, const SaValue **out, SaError *err) {
    const SaValue *v = sa_op_value(op, key);
    SaRuleCtx c = {.op = op, .err = err};
    *out = v;
    if (v && (!v->constant || !v->constant->data))
        return sa_rule_fail(&c, SA_E_OPERAND, key, "has no data");
    return SA_OK;
}

/* Onto the values that the result's dtype has. */
static void to_dtype(const SaType *t, float *d, size_t n) {
    for (size_t i = 0; t->dtype == SA_FP16 && i < n; i++)
        d[i] = sa_half_to_float(sa_half_from_float_even(d[i]));
}

/* ============================== Blocks ==================================== */

/* Walks over all elements of `t` in order; for each, the element of an operand
 * that has one per block (dims divide those of t). */
typedef struct {
    const SaType *t;
    int64_t at[SA_DEEP_RANK], block[SA_DEEP_RANK];
    size_t stride[SA_DEEP_RANK]; /* of the operand */
} Walk;

/* `dims`: of the operand, as many as t has; `inner`: its elements per block. */
static Walk walk_new(const SaType *t, const int64_t *dims, size_t inner) {
    Walk w = {.t = t};
    for (int i = t->rank - 1; i >= 0; i--) {
        w.block[i] = t->dim[i] / dims[i];
        w.stride[i] = inner;
        inner *= (size_t)dims[i];
    }
    return w;
}

static size_t walk_here(const Walk *w) {
    size_t i = 0;
    for (int a = 0; a < w->t->rank; a++)
        i += (size_t)(w->at[a] / w->block[a]) * w->stride[a];
    return i;
}

static void walk_next(Walk *w) {
    for (int a = w->t->rank - 1; a >= 0; a--) {
        if (++w->at[a] < w->t->dim[a])
            return;
        w->at[a] = 0;
    }
}

/* ============================== Scales ==================================== */

/* scale * (data - zero), the two given per block. */
static void affine(const SaValue *data, const SaValue *scale, Walk ws, const SaValue *zero, Walk wz, float *out) {
    size_t n = (size_t)sa_type_count(&data->type);
    for (size_t i = 0; i < n; i++) {
        float z = zero ? element(zero, walk_here(&wz)) : 0.0f;
        out[i] = element(scale, walk_here(&ws)) * (element(data, i) - z);
        walk_next(&ws);
        walk_next(&wz);
    }
}

/* A scalar, or a vector along one axis, seen as blocks of `data`. */
static Walk along_axis(const SaType *data, const SaValue *v, int axis) {
    int64_t dims[SA_DEEP_RANK];
    for (int i = 0; i < data->rank; i++)
        dims[i] = v && v->type.rank == 1 && i == axis ? data->dim[i] : 1;
    return walk_new(data, dims, 1);
}

static SaStatus decode_affine(const SaOp *op, float *out, SaError *err) {
    const SaValue *data, *scale, *zero;
    int64_t axis = 0;
    SA_TRY(data_of(op, "quantized_data", &data, err));
    SA_TRY(data_of(op, "scale", &scale, err));
    SA_TRY(data_of(op, "zero_point", &zero, err));
    sa_op_int(op, "axis", &axis);
    int at = (int)(axis < 0 ? axis + data->type.rank : axis);
    affine(data, scale, along_axis(&data->type, scale, at), zero, along_axis(&data->type, zero, at), out);
    return SA_OK;
}

static SaStatus decode_blockwise(const SaOp *op, float *out, SaError *err) {
    const SaValue *data, *scale, *offset;
    SA_TRY(data_of(op, "data", &data, err));
    SA_TRY(data_of(op, "scale", &scale, err));
    SA_TRY(data_of(op, "offset", &offset, err));
    Walk w = walk_new(&data->type, scale->type.dim, 1);
    affine(data, scale, w, offset, w, out);
    return SA_OK;
}

/* ============================== Tables, masks ============================= */

/* Field i of `bits` bits, the first in the lowest bits of the first byte. */
static unsigned field(const uint8_t *s, size_t i, unsigned bits) {
    size_t bit = i * bits;
    unsigned two = s[bit / 8];
    if (bit % 8 + bits > 8)
        two |= (unsigned)s[bit / 8 + 1] << 8;
    return two >> (bit % 8) & ((1u << bits) - 1);
}

static SaStatus decode_lut(const SaOp *op, float *out, SaError *err) {
    const SaValue *indices, *lut;
    const SaType *t = &op->results[0]->type;
    size_t n = (size_t)sa_type_count(t);
    SA_TRY(data_of(op, "indices", &indices, err));
    SA_TRY(data_of(op, "lut", &lut, err));
    if (sa_op_arg(op, "shape")) { /* the flat form: one table for all */
        unsigned bits = (unsigned)__builtin_ctzll((unsigned long long)lut->type.dim[0]);
        for (size_t i = 0; i < n; i++)
            out[i] = element(lut, field(indices->constant->data, i, bits));
        return SA_OK;
    }
    int64_t axis = 0, picked;
    int r = indices->type.rank;
    sa_op_int(op, "vector_axis", &axis);
    int at = (int)(axis < 0 ? axis + r : axis);
    size_t entries = (size_t)lut->type.dim[r], vector = (size_t)lut->type.dim[r + 1], inner = 1;
    for (int i = at + 1; i < r; i++)
        inner *= (size_t)indices->type.dim[i];
    size_t along = inner * (size_t)indices->type.dim[at];
    Walk w = walk_new(&indices->type, lut->type.dim, entries * vector);
    for (size_t i = 0; i < n / vector; i++) {
        /* element v of the vector lies v steps of `inner` behind the first */
        size_t first = i / along * along * vector + i % along / inner * vector * inner + i % inner;
        sa_const_int_at(indices, (int64_t)i, &picked);
        size_t from = walk_here(&w) + ((size_t)picked & (entries - 1)) * vector;
        for (size_t v = 0; v < vector; v++)
            out[first + v * inner] = element(lut, from + v);
        walk_next(&w);
    }
    return SA_OK;
}

static SaStatus decode_sparse(const SaOp *op, float *out, SaError *err) {
    const SaValue *data, *mask;
    size_t n = (size_t)sa_type_count(&op->results[0]->type), used = 0;
    SaRuleCtx c = {.op = op, .err = err};
    SA_TRY(data_of(op, "nonzero_data", &data, err));
    SA_TRY(data_of(op, "mask", &mask, err));
    size_t given = (size_t)data->type.dim[0];
    const uint8_t *m = mask->constant->data;
    for (size_t i = 0; i < n; i++) {
        bool set = mask->type.dtype == SA_UINT1 ? m[i] & 1 : field(m, i, 1);
        if (set && used == given)
            return sa_rule_fail(&c, SA_E_OPERAND, "nonzero_data", "%zu values, the mask asks for more", given);
        out[i] = set ? element(data, used++) : 0.0f;
    }
    if (used < given)
        return sa_rule_fail(&c, SA_E_OPERAND, "nonzero_data", "%zu values, the mask asks for %zu", given, used);
    return SA_OK;
}

/* ============================== Entry ===================================== */

/* See mil.h. */
SaStatus sa_constexpr_decode(const SaOp *op, float *out, SaError *err) {
    const SaType *t = &op->results[0]->type;
    const SaValue *v = NULL;
    SaRuleCtx c = {.op = op, .err = err};
    size_t n = (size_t)sa_type_count(t);
    switch (op->id) {
    case SA_OP_CONSTEXPR_AFFINE_DEQUANTIZE: SA_TRY(decode_affine(op, out, err)); break;
    case SA_OP_CONSTEXPR_BLOCKWISE_SHIFT_SCALE: SA_TRY(decode_blockwise(op, out, err)); break;
    case SA_OP_CONSTEXPR_LUT_TO_DENSE: SA_TRY(decode_lut(op, out, err)); break;
    case SA_OP_CONSTEXPR_SPARSE_TO_DENSE: SA_TRY(decode_sparse(op, out, err)); break;
    case SA_OP_CONSTEXPR_CAST:
        SA_TRY(data_of(op, "source_val", &v, err));
        for (size_t i = 0; i < n; i++)
            out[i] = element(v, i);
        break;
    default: return sa_rule_fail(&c, SA_E_OP, NULL, "is no constant");
    }
    to_dtype(t, out, n);
    return SA_OK;
}
