// SPDX-License-Identifier: MIT
/* type_index.c - rules of sorting, indexing and making values, of the norms over
 * channels, einsum and attention. Each rule may assume what type.c has checked:
 * required operands are there, with the kinds and dtypes of the table. */
#include "mil_internal.h"

#include <stdio.h>
#include <string.h>

/* ============================== Channels ================================== */

/* Optional vectors of one element per channel (axis 1). */
static SaStatus channel_vectors(SaRuleCtx *c, const char *const *keys) {
    int64_t channels = sa_rule_type(c, "x")->dim[1];
    for (; *keys; keys++)
        SA_TRY(sa_rule_vector(c, *keys, channels));
    return sa_rule_same(c);
}

/* batch_norm and instance_norm: parameters [C] */
SaStatus sa_rule_channel_norm(SaRuleCtx *c) {
    static const char *const keys[] = {"mean", "variance", "gamma", "beta", NULL};
    SA_TRY(sa_rule_rank(c, "x", 3, c->op->id == SA_OP_BATCH_NORM ? SA_MAX_RANK : 4));
    return channel_vectors(c, keys);
}

/* softplus_parametric: alpha and beta [C] */
SaStatus sa_rule_channel_vectors(SaRuleCtx *c) {
    static const char *const keys[] = {"alpha", "beta", NULL};
    SA_TRY(sa_rule_rank(c, "x", 3, SA_MAX_RANK));
    return channel_vectors(c, keys);
}

/* local_response_norm: over `size` channels */
SaStatus sa_rule_lrn(SaRuleCtx *c) {
    int64_t size;
    SA_TRY(sa_rule_rank(c, "x", 3, 4));
    SA_TRY(sa_rule_int_in(c, "size", 1, INT32_MAX, 1, &size));
    if (sa_rule_type(c, "x")->dim[1] >= 16 && !c->limits->allow_refused) /* seen by sbryngelson/ANEForge */
        return sa_rule_fail(c, SA_E_LIMIT, "x", "the engine refuses 16 or more channels here");
    return sa_rule_same(c);
}

/* ============================== Order ===================================== */

/* The optional axis operand of an operation on x. */
static SaStatus axis_of(SaRuleCtx *c, int64_t absent, int *at) {
    int64_t axis = absent;
    SA_TRY(sa_rule_rank(c, "x", 1, SA_MAX_RANK));
    sa_op_int(c->op, "axis", &axis);
    return sa_rule_axis(c, "axis", axis, sa_rule_type(c, "x")->rank, at);
}

/* cumsum: type of x */
SaStatus sa_rule_along(SaRuleCtx *c) {
    int at;
    SA_TRY(axis_of(c, 0, &at));
    return sa_rule_same(c);
}

/* reduce_argmax, reduce_argmin: the axis becomes 1 or goes; int32 or uint16 */
SaStatus sa_rule_argmax(SaRuleCtx *c) {
    const char *dtype = "int32";
    bool keep = false;
    int at;
    SA_TRY(axis_of(c, -1, &at));
    sa_op_bool(c->op, "keep_dims", &keep);
    sa_op_string(c->op, "output_dtype", &dtype);
    SA_TRY(sa_rule_same(c));
    SaType *out = &c->out[0];
    out->dim[at] = 1;
    if (!keep) {
        memmove(&out->dim[at], &out->dim[at + 1], (size_t)(out->rank - at - 1) * sizeof out->dim[0]);
        out->rank--;
    }
    return sa_rule_dtype(c, dtype);
}

/* argsort: indices, int32 */
SaStatus sa_rule_argsort(SaRuleCtx *c) {
    int at;
    SA_TRY(axis_of(c, -1, &at));
    SA_TRY(sa_rule_same(c));
    return sa_rule_dtype(c, "int32");
}

/* topk: values, and their indices unless return_indices is false */
SaStatus sa_rule_topk(SaRuleCtx *c) {
    int64_t k;
    bool indices = true;
    const char *dtype = "int32";
    int at;
    SA_TRY(axis_of(c, -1, &at));
    int64_t most = sa_rule_type(c, "x")->dim[at];
    SA_TRY(sa_rule_int_in(c, "k", -1, most, 1, &k));
    if (k == 0)
        return sa_rule_fail(c, SA_E_OPERAND, "k", "must not be 0");
    if ((k == 3 || k == 4) && !c->limits->allow_refused) /* seen by sbryngelson/ANEForge */
        return sa_rule_fail(c, SA_E_LIMIT, "k", "the engine refuses 3 and 4; take 5 and cut");
    sa_op_bool(c->op, "return_indices", &indices);
    if (!indices && sa_op_arg(c->op, "output_indices_dtype"))
        return sa_rule_fail(c, SA_E_OPERAND, "output_indices_dtype", "there are no indices to return");
    if (c->op->n_results != 1 + indices)
        return sa_rule_fail(c, SA_E_TYPE, NULL, "declared %d results, the operation has %d", c->op->n_results, 1 + indices);
    sa_op_string(c->op, "output_indices_dtype", &dtype);
    SA_TRY(sa_rule_same(c));
    c->out[0].dim[at] = k < 0 ? most : k;
    if (indices) {
        SaType values = c->out[0];
        SA_TRY(sa_rule_dtype(c, dtype));
        c->out[1] = c->out[0];
        c->out[0] = values;
    }
    return SA_OK;
}

/* ============================== Gathers =================================== */

/* No gather by computed indices was seen to run (ironmill, sbryngelson/ANEForge). */
SaStatus sa_rule_static_indices(SaRuleCtx *c) {
    if (c->limits->allow_refused || sa_value_is_constant(sa_op_value(c->op, "indices")))
        return SA_OK;
    return sa_rule_fail(c, SA_E_OP, "indices", "refused by the engine: indices must be constant");
}

/* indices like x but for the axis; result like indices */
SaStatus sa_rule_gather_along_axis(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *indices = sa_rule_type(c, "indices");
    int at;
    SA_TRY(axis_of(c, 0, &at));
    bool good = indices->rank == x->rank;
    for (int i = 0; good && i < x->rank; i++)
        good = i == at || indices->dim[i] == x->dim[i];
    if (!good)
        return sa_rule_fail(c, SA_E_SHAPE, "indices", "must have the shape of x but for axis %d", at);
    SA_TRY(sa_rule_static_indices(c));
    c->out[0] = *indices;
    c->out[0].dtype = x->dtype;
    return sa_gather_check_indices(c->op, c->err);
}

/* indices [*K, n] name the axes batch_dims … batch_dims + n - 1 of x */
SaStatus sa_rule_gather_nd(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *indices = sa_rule_type(c, "indices");
    SaType *out = &c->out[0];
    int64_t batch;
    SA_TRY(sa_rule_rank(c, "x", 1, SA_MAX_RANK));
    SA_TRY(sa_rule_rank(c, "indices", 1, SA_MAX_RANK));
    SA_TRY(sa_rule_int_in(c, "batch_dims", 0, indices->rank - 1, 0, &batch));
    int64_t named = indices->dim[indices->rank - 1];
    if (batch + named > x->rank)
        return sa_rule_fail(c, SA_E_SHAPE, "indices", "name %lld axes, x has %lld", (long long)named, (long long)(x->rank - batch));
    for (int i = 0; i < (int)batch; i++)
        if (indices->dim[i] != x->dim[i])
            return sa_rule_fail(c, SA_E_SHAPE, "indices", "batch axis %d differs from that of x", i);
    int rank = indices->rank - 1 + x->rank - (int)(batch + named);
    if (rank > SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "indices", "the result has rank %d, at most %d is allowed", rank, SA_MAX_RANK);
    SA_TRY(sa_rule_static_indices(c));
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    for (int i = 0; i < indices->rank - 1; i++)
        out->dim[out->rank++] = indices->dim[i];
    for (int i = (int)(batch + named); i < x->rank; i++)
        out->dim[out->rank++] = x->dim[i];
    return sa_gather_check_indices(c->op, c->err);
}

/* ============================== Made values =============================== */

/* indices [*D] -> a new axis of `one_hot_vector_size`; dtype of on_value */
SaStatus sa_rule_one_hot(SaRuleCtx *c) {
    const SaType *indices = sa_rule_type(c, "indices");
    SaType *out = &c->out[0];
    SaDtype on = SA_INT32, off = SA_INT32;
    double v;
    int64_t axis = -1, size;
    int at;
    if (indices->rank == SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "indices", "the result has rank above %d", SA_MAX_RANK);
    SA_TRY(sa_rule_int_in(c, "one_hot_vector_size", 1, INT32_MAX, 1, &size));
    sa_op_int(c->op, "axis", &axis);
    SA_TRY(sa_rule_axis(c, "axis", axis, indices->rank + 1, &at));
    bool has_on = sa_op_number(c->op, "on_value", &v, &on), has_off = sa_op_number(c->op, "off_value", &v, &off);
    if (has_on && has_off ? on != off : has_off)
        return sa_rule_fail(c, SA_E_TYPE, "off_value", "%s, on_value is %s", sa_dtype_name(off), sa_dtype_name(on));
    memset(out, 0, sizeof *out);
    out->dtype = on;
    out->rank = indices->rank + 1;
    for (int i = 0, k = 0; i < out->rank; i++)
        out->dim[i] = i == at ? size : indices->dim[k++];
    return SA_OK;
}

/* bands of the last two axes; type of x */
SaStatus sa_rule_band_part(SaRuleCtx *c) {
    int64_t n;
    SA_TRY(sa_rule_rank(c, "x", 2, SA_MAX_RANK));
    SA_TRY(sa_rule_int_in(c, "lower", -1, INT32_MAX, -1, &n));
    SA_TRY(sa_rule_int_in(c, "upper", -1, INT32_MAX, -1, &n));
    return sa_rule_same(c);
}

/* The dtype of a fill value. */
static SaDtype value_dtype(SaRuleCtx *c) {
    double v;
    SaDtype t = SA_FP16;
    return sa_op_number(c->op, "value", &v, &t) ? t : SA_FP16;
}

/* fill: shape is told */
SaStatus sa_rule_fill(SaRuleCtx *c) {
    int64_t n = sa_rule_type(c, "shape")->dim[0], count = 1;
    SaType *out = &c->out[0];
    if (n > SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "shape", "rank %lld, at most %d is allowed", (long long)n, SA_MAX_RANK);
    *out = (SaType){.dtype = value_dtype(c), .rank = (int)n};
    SA_TRY(sa_rule_ints_in(c, "shape", (int)n, 1, INT32_MAX, 1, out->dim));
    for (int i = 0; i < out->rank; i++)
        if (__builtin_mul_overflow(count, out->dim[i], &count) || count > SA_MAX_COUNT)
            return sa_rule_fail(c, SA_E_LIMIT, "shape", "more than 2^40 elements");
    return SA_OK;
}

/* fill_like: shape of another value */
SaStatus sa_rule_fill_like(SaRuleCtx *c) {
    c->out[0] = *sa_rule_type(c, "ref_tensor");
    c->out[0].dtype = value_dtype(c);
    return SA_OK;
}

/* range_1d: start, start + step, … before end */
SaStatus sa_rule_range(SaRuleCtx *c) {
    double start = 0, end = 0, step = 1;
    SaDtype a, b, d;
    sa_op_number(c->op, "start", &start, &a);
    sa_op_number(c->op, "end", &end, &b);
    sa_op_number(c->op, "step", &step, &d);
    if (a != b || a != d)
        return sa_rule_fail(c, SA_E_TYPE, "end", "start, end and step must have one dtype");
    double n = (end - start) / step;
    if (!(n > 0 && n <= 2147483647.0)) /* also a step of 0 and NaN */
        return sa_rule_fail(c, SA_E_OPERAND, "step", "the range is empty or endless");
    int64_t whole = (int64_t)n;
    c->out[0] = (SaType){.dtype = a, .rank = 1, .dim = {(double)whole < n ? whole + 1 : whole}};
    return SA_OK;
}

/* ============================== einsum ==================================== */

/* The letters of one side, renamed by first appearance over all sides: "0321". */
static bool einsum_side(const char **p, const char *stop, char seen[8], int *n_seen, char out[8]) {
    int n = 0;
    for (; **p && (!*stop || strncmp(*p, stop, strlen(stop)) != 0); (*p)++) {
        char ch = **p;
        int k = 0;
        if (ch == ' ')
            continue;
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z')) || n == 4)
            return false;
        while (k < *n_seen && seen[k] != ch)
            k++;
        if (k == *n_seen) {
            if (k == 6)
                return false;
            seen[(*n_seen)++] = ch;
        }
        out[n++] = (char)('0' + k);
    }
    out[n] = '\0';
    if (strncmp(*p, stop, strlen(stop)) != 0)
        return false;
    *p += strlen(stop);
    return true;
}

/* "nchw,nwhu->nchu" or "chw,whr->chr" under any names? */
static bool einsum_known(const char *equation, int rank) {
    char seen[8], all[3][8];
    int n = 0;
    const char *p = equation;
    if (!einsum_side(&p, ",", seen, &n, all[0]) || !einsum_side(&p, "->", seen, &n, all[1]) ||
        !einsum_side(&p, "", seen, &n, all[2]))
        return false;
    const char *want[3] = {"0123", "0324", "0124"}, *flat[3] = {"012", "213", "013"};
    for (int i = 0; i < 3; i++)
        if (strcmp(all[i], (rank == 4 ? want : flat)[i]) != 0)
            return false;
    return true;
}

/* [(B,) C, H, K] · [(B,) K, H, W] -> [(B,) C, H, W]; B and H broadcast */
SaStatus sa_rule_einsum(SaRuleCtx *c) {
    const SaArg *a = sa_op_arg(c->op, "values");
    const char *equation = "";
    sa_op_string(c->op, "equation", &equation);
    if (a->count != 2)
        return sa_rule_fail(c, SA_E_OPERAND, "values", "expected two, got %d", a->count);
    const SaType *x = &a->values[0]->type, *y = &a->values[1]->type;
    int r = x->rank;
    if (r != y->rank || (r != 3 && r != 4))
        return sa_rule_fail(c, SA_E_SHAPE, "values", "both need rank 3 or 4, got %d and %d", r, y->rank);
    if (!einsum_known(equation, r))
        return sa_rule_fail(c, SA_E_OPERAND, "equation", "expected \"%s\"; got \"%.40s\"", r == 4 ? "nchw,nwhu->nchu" : "chw,whr->chr",
                            equation);
    if (x->dim[r - 1] != y->dim[r - 3])
        return sa_rule_fail(c, SA_E_SHAPE, "values", "contracts %lld and %lld elements", (long long)x->dim[r - 1],
                            (long long)y->dim[r - 3]);
    c->out[0] = *x;
    c->out[0].dim[r - 1] = y->dim[r - 1];
    for (int i = r - 2; i >= 0; i -= 2) { /* H, then B */
        if (x->dim[i] != y->dim[i] && x->dim[i] != 1 && y->dim[i] != 1)
            return sa_rule_fail(c, SA_E_SHAPE, "values", "axis %d does not broadcast", i);
        c->out[0].dim[i] = x->dim[i] == 1 ? y->dim[i] : x->dim[i];
        if (r == 3)
            break;
    }
    return SA_OK;
}

/* ============================== Attention ================================= */

/* query [*B, L, E], key [*B, S, E], value [*B, S, V] (+ attn_mask) -> [*B, L, V] */
SaStatus sa_rule_attention(SaRuleCtx *c) {
    const SaType *q = sa_rule_type(c, "query"), *k = sa_rule_type(c, "key"), *v = sa_rule_type(c, "value");
    const SaType *mask = sa_rule_type(c, "attn_mask");
    int r = q->rank;
    SA_TRY(sa_rule_rank(c, "query", 3, SA_MAX_RANK));
    SA_TRY(sa_rule_rank(c, "key", r, r));
    SA_TRY(sa_rule_rank(c, "value", r, r));
    for (int i = 0; i < r - 2; i++)
        if (k->dim[i] != q->dim[i] || v->dim[i] != q->dim[i])
            return sa_rule_fail(c, SA_E_SHAPE, k->dim[i] != q->dim[i] ? "key" : "value", "batch axis %d differs from the query's", i);
    if (k->dim[r - 1] != q->dim[r - 1])
        return sa_rule_fail(c, SA_E_SHAPE, "key", "vectors of %lld, the query's have %lld", (long long)k->dim[r - 1],
                            (long long)q->dim[r - 1]);
    if (v->dim[r - 2] != k->dim[r - 2])
        return sa_rule_fail(c, SA_E_SHAPE, "value", "%lld of them for %lld keys", (long long)v->dim[r - 2], (long long)k->dim[r - 2]);
    if (mask) {
        SaType scores = *q, out;
        scores.dim[r - 1] = k->dim[r - 2];
        bool good = mask->rank >= 1 && mask->dim[mask->rank - 1] == k->dim[r - 2] &&
                    sa_dims_broadcast(scores.dim, r, mask->dim, mask->rank, out.dim, &out.rank) && out.rank == r;
        for (int i = 0; good && i < r; i++)
            good = out.dim[i] == scores.dim[i];
        if (!good)
            return sa_rule_fail(c, SA_E_SHAPE, "attn_mask", "does not broadcast to the scores, %lld by %lld",
                                (long long)scores.dim[r - 2], (long long)scores.dim[r - 1]);
    }
    c->out[0] = *q;
    c->out[0].dim[r - 1] = v->dim[r - 1];
    return SA_OK;
}
