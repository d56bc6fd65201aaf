// SPDX-License-Identifier: MIT
/* type_math.c - rules of the operations that compute: products, elementwise,
 * reductions, norms (windows: type_window.c). Each rule may assume what type.c has checked: required
 * operands are there, with the kinds and dtypes of the table. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Elementwise =============================== */

/* out = type of x */
SaStatus sa_rule_same(SaRuleCtx *c) {
    c->out[0] = *sa_rule_type(c, "x");
    return SA_OK;
}

/* out = broadcast of operands `a` and `b`, with the dtype of a */
static SaStatus broadcast_of(SaRuleCtx *c, const char *a, const char *b, const SaType *ta, const SaType *tb, SaType *out) {
    memset(out, 0, sizeof *out);
    out->dtype = ta->dtype;
    if (sa_dims_broadcast(ta->dim, ta->rank, tb->dim, tb->rank, out->dim, &out->rank))
        return SA_OK;
    char left[96], right[96];
    sa_type_format(ta, left, sizeof left);
    sa_type_format(tb, right, sizeof right);
    return sa_rule_fail(c, SA_E_SHAPE, b, "%s does not broadcast with %s of '%s'", right, left, a);
}

/* x and y broadcast; dtype of x (fp16, or bool for the logical ones) */
SaStatus sa_rule_binary(SaRuleCtx *c) {
    return broadcast_of(c, "x", "y", sa_rule_type(c, "x"), sa_rule_type(c, "y"), &c->out[0]);
}

/* The same, giving bool. */
SaStatus sa_rule_compare(SaRuleCtx *c) {
    SA_TRY(sa_rule_binary(c));
    c->out[0].dtype = SA_BOOL;
    return SA_OK;
}

/* cond, a and b broadcast; dtype of a */
SaStatus sa_rule_select(SaRuleCtx *c) {
    SaType both;
    SA_TRY(broadcast_of(c, "a", "b", sa_rule_type(c, "a"), sa_rule_type(c, "b"), &both));
    return broadcast_of(c, "a", "cond", &both, sa_rule_type(c, "cond"), &c->out[0]);
}

/* alpha is the lower bound, beta the upper */
SaStatus sa_rule_clip(SaRuleCtx *c) {
    float lo = 0, hi = 0;
    sa_op_float(c->op, "alpha", &lo);
    sa_op_float(c->op, "beta", &hi);
    if (lo > hi)
        return sa_rule_fail(c, SA_E_OPERAND, "beta", "is below alpha");
    return sa_rule_same(c);
}

/* alpha [C], C = axis 1 of x */
SaStatus sa_rule_prelu(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *alpha = sa_rule_type(c, "alpha");
    if (x->rank < 3)
        return sa_rule_fail(c, SA_E_SHAPE, "x", "rank 3 or more is needed, got %d", x->rank);
    if (alpha->rank != 1 || alpha->dim[0] != x->dim[1])
        return sa_rule_fail(c, SA_E_SHAPE, "alpha", "expected a vector of %lld channels", (long long)x->dim[1]);
    return sa_rule_same(c);
}

/* Same shape, dtype by name (one of the table's). The engine has no cast to int32. */
SaStatus sa_rule_cast(SaRuleCtx *c) {
    const char *to = "";
    sa_op_string(c->op, "dtype", &to);
    SA_TRY(sa_rule_same(c));
    return sa_rule_dtype(c, to);
}

/* ============================== Along axes ================================ */

/* Listed axes become 1, or go when keep_dims is false. */
SaStatus sa_rule_reduce(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaType *out = &c->out[0];
    bool keep = false;
    unsigned mask;
    SA_TRY(sa_rule_axes(c, "axes", x->rank, &mask));
    sa_op_bool(c->op, "keep_dims", &keep);
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    for (int i = 0; i < x->rank; i++) {
        bool gone = mask & (1u << i);
        if (!gone || keep)
            out->dim[out->rank++] = gone ? 1 : x->dim[i];
    }
    return SA_OK;
}

/* axis into x; type of x */
SaStatus sa_rule_softmax(SaRuleCtx *c) {
    int64_t axis = -1;
    int at;
    sa_op_int(c->op, "axis", &axis);
    SA_TRY(sa_rule_axis(c, "axis", axis, sa_rule_type(c, "x")->rank, &at));
    return sa_rule_same(c);
}

/* gamma and beta have the normalised axes of x, in order */
static SaStatus check_affine(SaRuleCtx *c, const char *key, const SaType *x, unsigned mask) {
    const SaType *t = sa_rule_type(c, key);
    if (!t)
        return SA_OK;
    int n = 0;
    bool good = true;
    for (int i = 0; i < x->rank; i++)
        if (mask & (1u << i)) {
            good = good && n < t->rank && t->dim[n] == x->dim[i];
            n++;
        }
    if (!good || n != t->rank)
        return sa_rule_fail(c, SA_E_SHAPE, key, "expected the shape of the normalised axes");
    return SA_OK;
}

/* type of x; the affine operands follow the normalised axes */
SaStatus sa_rule_layer_norm(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    unsigned mask;
    SA_TRY(sa_rule_axes(c, "axes", x->rank, &mask));
    SA_TRY(check_affine(c, "gamma", x, mask));
    SA_TRY(check_affine(c, "beta", x, mask));
    return sa_rule_same(c);
}

/* over the last three axes */
SaStatus sa_rule_l2_norm(SaRuleCtx *c) {
    if (sa_rule_type(c, "x")->rank < 3)
        return sa_rule_fail(c, SA_E_SHAPE, "x", "rank 3 or more is needed, got %d", sa_rule_type(c, "x")->rank);
    return sa_rule_same(c);
}

/* ============================== Products ================================== */

/* [.., M, K] · [.., K, N] after the flags; leading axes broadcast */
SaStatus sa_rule_matmul(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *y = sa_rule_type(c, "y");
    SaType *out = &c->out[0];
    bool tx = false, ty = false;
    if (x->rank < 2)
        return sa_rule_fail(c, SA_E_SHAPE, "x", "rank 2 or more is needed, got %d", x->rank);
    if (y->rank < 2)
        return sa_rule_fail(c, SA_E_SHAPE, "y", "rank 2 or more is needed, got %d", y->rank);
    sa_op_bool(c->op, "transpose_x", &tx);
    sa_op_bool(c->op, "transpose_y", &ty);
    /* the two last axes, seen through the flags */
    int64_t m = x->dim[x->rank - (tx ? 1 : 2)], k = x->dim[x->rank - (tx ? 2 : 1)];
    int64_t k2 = y->dim[y->rank - (ty ? 1 : 2)], n = y->dim[y->rank - (ty ? 2 : 1)];
    if (k != k2)
        return sa_rule_fail(c, SA_E_SHAPE, "y", "contracts %lld elements, x has %lld", (long long)k2, (long long)k);
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    if (!sa_dims_broadcast(x->dim, x->rank - 2, y->dim, y->rank - 2, out->dim, &out->rank))
        return sa_rule_fail(c, SA_E_SHAPE, "y", "the batch axes of x and y do not broadcast");
    out->dim[out->rank++] = m;
    out->dim[out->rank++] = n;
    return SA_OK;
}

/* x [.., I] · weight [O, I] + bias [O] -> [.., O] */
SaStatus sa_rule_linear(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *weight = sa_rule_type(c, "weight"), *bias = sa_rule_type(c, "bias");
    if (x->rank < 1)
        return sa_rule_fail(c, SA_E_SHAPE, "x", "rank 1 or more is needed");
    if (weight->rank != 2 || weight->dim[1] != x->dim[x->rank - 1])
        return sa_rule_fail(c, SA_E_SHAPE, "weight", "expected [out, %lld]", (long long)x->dim[x->rank - 1]);
    if (bias && (bias->rank != 1 || bias->dim[0] != weight->dim[0]))
        return sa_rule_fail(c, SA_E_SHAPE, "bias", "expected a vector of %lld", (long long)weight->dim[0]);
    c->out[0] = *x;
    c->out[0].dim[x->rank - 1] = weight->dim[0];
    return SA_OK;
}
