// SPDX-License-Identifier: MIT
/* type_const.c - rules of quantised values and compressed constants. Each rule
 * may assume what type.c has checked: required operands are there, with the
 * kinds and dtypes of the table. What they compute: constexpr.c and the planner. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Scales ==================================== */

/* scale and zero_point: scalars, or vectors along `axis` of `data`. `always`:
 * axis is given even when both are scalars. */
static SaStatus check_scales(SaRuleCtx *c, const SaType *data, bool always) {
    static const char *const keys[2] = {"scale", "zero_point"};
    int64_t axis = 0;
    int at = 0;
    bool has_axis = sa_op_int(c->op, "axis", &axis), vectors = false;
    if (has_axis)
        SA_TRY(sa_rule_axis(c, "axis", axis, data->rank, &at));
    for (int i = 0; i < 2; i++) {
        const SaType *t = sa_rule_type(c, keys[i]);
        if (!t || t->rank == 0)
            continue;
        vectors = true;
        if (!has_axis)
            return sa_rule_fail(c, SA_E_OPERAND, keys[i], "a vector needs axis");
        SA_TRY(sa_rule_vector(c, keys[i], data->dim[at]));
    }
    const SaType *scale = sa_rule_type(c, "scale"), *zero = sa_rule_type(c, "zero_point");
    if (!always && zero && zero->rank != scale->rank)
        return sa_rule_fail(c, SA_E_SHAPE, "zero_point", "must be a scalar or a vector as scale is");
    if (!always && has_axis && !vectors)
        return sa_rule_fail(c, SA_E_OPERAND, "axis", "there is no vector it could belong to");
    return SA_OK;
}

/* ============================== Activations =============================== */

/* input -> int8 or uint8 */
SaStatus sa_rule_quantize(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "input"), *zero = sa_rule_type(c, "zero_point");
    const char *to = "";
    SA_TRY(sa_rule_rank(c, "input", 1, SA_MAX_RANK));
    SA_TRY(check_scales(c, x, false));
    sa_op_string(c->op, "output_dtype", &to);
    c->out[0] = *x;
    SA_TRY(sa_rule_dtype(c, to));
    if (zero && zero->dtype != c->out[0].dtype)
        return sa_rule_fail(c, SA_E_TYPE, "zero_point", "expected %s as output_dtype says, got %s", to, sa_dtype_name(zero->dtype));
    return SA_OK;
}

/* int8 or uint8 -> the dtype of scale */
SaStatus sa_rule_dequantize(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "input"), *zero = sa_rule_type(c, "zero_point");
    SA_TRY(sa_rule_rank(c, "input", 1, SA_MAX_RANK));
    SA_TRY(check_scales(c, x, false));
    if (zero && zero->dtype != x->dtype)
        return sa_rule_fail(c, SA_E_TYPE, "zero_point", "expected %s as input has, got %s", sa_dtype_name(x->dtype),
                            sa_dtype_name(zero->dtype));
    c->out[0] = *x;
    c->out[0].dtype = sa_rule_type(c, "scale")->dtype;
    return SA_OK;
}

/* ============================== Constants ================================= */

/* quantized_data -> the dtype of scale */
SaStatus sa_rule_affine(SaRuleCtx *c) {
    const SaType *data = sa_rule_type(c, "quantized_data");
    SA_TRY(sa_rule_rank(c, "quantized_data", 1, SA_MAX_RANK));
    SA_TRY(check_scales(c, data, true));
    c->out[0] = *data;
    c->out[0].dtype = sa_rule_type(c, "scale")->dtype;
    return SA_OK;
}

/* data, in blocks that scale and offset have one element for */
SaStatus sa_rule_blockwise(SaRuleCtx *c) {
    const SaType *data = sa_rule_type(c, "data"), *scale = sa_rule_type(c, "scale"), *offset = sa_rule_type(c, "offset");
    SA_TRY(sa_rule_rank(c, "data", 1, SA_MAX_RANK));
    SA_TRY(sa_rule_rank(c, "scale", data->rank, data->rank));
    for (int i = 0; i < data->rank; i++)
        if (data->dim[i] % scale->dim[i])
            return sa_rule_fail(c, SA_E_SHAPE, "scale", "%lld of them do not divide axis %d of data, %lld", (long long)scale->dim[i], i,
                                (long long)data->dim[i]);
    if (offset) {
        bool same = offset->rank == scale->rank;
        for (int i = 0; same && i < scale->rank; i++)
            same = offset->dim[i] == scale->dim[i];
        if (!same)
            return sa_rule_fail(c, SA_E_SHAPE, "offset", "must have the shape of scale");
        if (offset->dtype != SA_FP16 && offset->dtype != SA_FP32 && offset->dtype != data->dtype)
            return sa_rule_fail(c, SA_E_TYPE, "offset", "%s, data is %s", sa_dtype_name(offset->dtype), sa_dtype_name(data->dtype));
    }
    c->out[0] = *data;
    c->out[0].dtype = scale->dtype;
    return SA_OK;
}

/* A shape operand (uint32 vector) into c->out[0], and its elements. */
static SaStatus told_shape(SaRuleCtx *c, SaDtype dtype, int64_t *count) {
    int64_t n = sa_rule_type(c, "shape")->dim[0];
    if (n > SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "shape", "rank %lld, at most %d is allowed", (long long)n, SA_MAX_RANK);
    c->out[0] = (SaType){.dtype = dtype, .rank = (int)n};
    SA_TRY(sa_rule_ints_in(c, "shape", (int)n, 1, INT32_MAX, 1, c->out[0].dim));
    *count = 1;
    for (int i = 0; i < (int)n; i++)
        if (__builtin_mul_overflow(*count, c->out[0].dim[i], count) || *count > SA_MAX_COUNT)
            return sa_rule_fail(c, SA_E_LIMIT, "shape", "more than 2^40 elements");
    return SA_OK;
}

/* Bytes that hold `count` fields of `bits`. */
static SaStatus check_packed(SaRuleCtx *c, const char *key, int64_t count, int bits) {
    int64_t want = (count * bits + 7) / 8; /* counts are at most 2^40 */
    SA_TRY(sa_rule_rank(c, key, 1, 1));
    if (sa_rule_type(c, key)->dtype != SA_UINT8)
        return sa_rule_fail(c, SA_E_TYPE, key, "expected uint8 beside a shape");
    return sa_rule_vector(c, key, want);
}

/* log2 of a count of palette entries that some index dtype can name, or 0. */
static int palette_bits(int64_t entries) {
    for (int bits = 1; bits <= 8; bits++)
        if (entries == (int64_t)1 << bits && bits != 5 && bits != 7)
            return bits;
    return 0;
}

/* Flat form: indices packed into bytes, lut [2^n], shape told. */
static SaStatus flat_lut(SaRuleCtx *c) {
    const SaType *lut = sa_rule_type(c, "lut");
    int64_t count;
    SA_TRY(sa_rule_rank(c, "lut", 1, 1));
    int bits = palette_bits(lut->dim[0]);
    if (!bits || bits == 3)
        return sa_rule_fail(c, SA_E_SHAPE, "lut", "expected 2, 4, 16, 64 or 256 entries, got %lld", (long long)lut->dim[0]);
    SA_TRY(told_shape(c, lut->dtype, &count));
    return check_packed(c, "indices", count, bits);
}

/* lut [*blocks, 2^n, v]: each block of indices has a table of 2^n vectors of v
 * elements, which follow each other along vector_axis. Without `shape` also
 * the flat form: see above. */
SaStatus sa_rule_lut(SaRuleCtx *c) {
    const SaType *indices = sa_rule_type(c, "indices"), *lut = sa_rule_type(c, "lut");
    int64_t axis = 0;
    int at = 0, r = indices->rank;
    if (sa_op_arg(c->op, "shape"))
        return flat_lut(c);
    SA_TRY(sa_rule_rank(c, "indices", 1, SA_MAX_RANK));
    if (lut->rank != r + 2)
        return sa_rule_fail(c, SA_E_SHAPE, "lut", "rank %d is needed, got %d", r + 2, lut->rank);
    for (int i = 0; i < r; i++)
        if (indices->dim[i] % lut->dim[i])
            return sa_rule_fail(c, SA_E_SHAPE, "lut", "%lld tables do not divide axis %d of indices, %lld", (long long)lut->dim[i], i,
                                (long long)indices->dim[i]);
    if (lut->dim[r] != (int64_t)1 << sa_dtype_bits(indices->dtype))
        return sa_rule_fail(c, SA_E_SHAPE, "lut", "%lld entries for indices of %s", (long long)lut->dim[r], sa_dtype_name(indices->dtype));
    if (sa_op_int(c->op, "vector_axis", &axis))
        SA_TRY(sa_rule_axis(c, "vector_axis", axis, r, &at));
    else if (lut->dim[r + 1] > 1)
        return sa_rule_fail(c, SA_E_OPERAND, "vector_axis", "missing, the table holds vectors");
    c->out[0] = *indices;
    c->out[0].dtype = lut->dtype;
    c->out[0].dim[at] *= lut->dim[r + 1]; /* both below 2^31 */
    return SA_OK;
}

/* mask: uint1 of the result's shape, or packed into bytes with a shape told */
SaStatus sa_rule_sparse(SaRuleCtx *c) {
    const SaType *data = sa_rule_type(c, "nonzero_data"), *mask = sa_rule_type(c, "mask");
    int64_t count;
    SA_TRY(sa_rule_rank(c, "nonzero_data", 1, 1));
    if (sa_op_arg(c->op, "shape")) {
        SA_TRY(told_shape(c, data->dtype, &count));
        SA_TRY(check_packed(c, "mask", count, 1));
    } else {
        if (mask->dtype != SA_UINT1)
            return sa_rule_fail(c, SA_E_TYPE, "mask", "expected uint1, or uint8 beside a shape");
        c->out[0] = *mask;
        c->out[0].dtype = data->dtype;
        count = sa_type_count(mask);
    }
    if (data->dim[0] > count)
        return sa_rule_fail(c, SA_E_SHAPE, "nonzero_data", "%lld values for %lld elements", (long long)data->dim[0], (long long)count);
    return SA_OK;
}

/* fp16 -> fp32 */
SaStatus sa_rule_constexpr_cast(SaRuleCtx *c) {
    const char *to = "";
    sa_op_string(c->op, "output_dtype", &to);
    c->out[0] = *sa_rule_type(c, "source_val");
    return sa_rule_dtype(c, to);
}
