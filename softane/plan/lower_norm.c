// SPDX-License-Identifier: MIT
/* lower_norm.c - operations made of several steps: norms over channels, einsum,
 * attention, quantisation.
 *
 * What lies between the steps of a norm or a quantisation is fp32. Attention is
 * rounded between its parts as if it were written out in MIL [I]: so it gives
 * what the decomposition gives that programs use instead. */
#include <math.h>
#include <string.h>

#include "lower.h"

/* ============================== Helpers =================================== */

/* [1, C, 1, …] as x has it, for a vector of channels. */
static SaType channels_of(const SaType *x) {
    SaType t = {.dtype = x->dtype, .rank = x->rank - 1};
    for (int i = 0; i < t.rank; i++)
        t.dim[i] = i == 0 ? x->dim[1] : 1;
    return t;
}

/* out = op(a, b), broadcast to `t`; a may lie in the place of out. */
static SaStatus two(SaLower *l, SaBinary fast, SaBinary ieee, const SaType *t, SaRef a, const SaType *ta, SaRef b, const SaType *tb,
                    SaRef out, SaStore store) {
    SaElem e = {.form = SA_ELEM_BINARY, .op = (int)fast, .op_ieee = (int)ieee, .n_in = 2};
    const SaRef in[2] = {a, b};
    const SaType *types[2] = {ta, tb};
    return sa_lower_elems(l, e, in, types, t, out, store);
}

static SaStatus one(SaLower *l, SaUnary f, float p, float q, const SaType *t, SaRef a, SaRef out, SaStore store) {
    SaElem e = {.form = SA_ELEM_UNARY, .op = (int)f, .op_ieee = (int)f, .p = {p, q}, .n_in = 1};
    return sa_lower_elems(l, e, &a, &t, t, out, store);
}

/* The data of a constant operand as floats, or NULL when it is absent. */
static SaStatus floats_of(SaLower *l, const SaOp *op, const char *key, const float **out) {
    SaRef ref;
    const SaValue *v = sa_op_value(op, key);
    *out = NULL;
    if (!v)
        return SA_OK;
    SA_TRY(sa_lower_ref(l, v, &ref));
    *out = ref.fixed;
    return *out ? SA_OK : sa_lower_fail(l, op, SA_E_OPERAND, "operand '%s' is no constant", key);
}

/* ============================== Norms ===================================== */

/* x scale[c] + shift[c] */
static SaStatus batch_norm(SaLower *l, const SaOp *op, const SaValue *x, SaRef in, float eps) {
    const float *mean, *variance, *gamma, *beta;
    SA_TRY(floats_of(l, op, "mean", &mean));
    SA_TRY(floats_of(l, op, "variance", &variance));
    SA_TRY(floats_of(l, op, "gamma", &gamma));
    SA_TRY(floats_of(l, op, "beta", &beta));
    SaType c = channels_of(&x->type);
    size_t n = (size_t)x->type.dim[1];
    float *centre = NULL, *scale = NULL, *shift = NULL;
    SaRef r_centre, r_scale, r_shift, out;
    SA_TRY(sa_lower_const(l, n, &centre, &r_centre));
    SA_TRY(sa_lower_const(l, n, &scale, &r_scale));
    SA_TRY(sa_lower_const(l, n, &shift, &r_shift));
    for (size_t i = 0; i < n; i++) {
        centre[i] = mean[i];
        scale[i] = (float)((gamma ? (double)gamma[i] : 1.0) / sqrt((double)variance[i] + (double)eps));
        shift[i] = beta ? beta[i] : 0.0f;
    }
    SaStore half = sa_store_of(op->results[0]);
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SA_TRY(two(l, SA_B_SUB, SA_B_SUB, &x->type, in, &x->type, r_centre, &c, out, SA_STORE_EXACT));
    SA_TRY(two(l, SA_B_MUL, SA_B_MUL, &x->type, out, &x->type, r_scale, &c, out, beta ? SA_STORE_EXACT : half));
    return beta ? two(l, SA_B_ADD, SA_B_ADD, &x->type, out, &x->type, r_shift, &c, out, half) : SA_OK;
}

/* layer_norm over the spatial axes, then one factor and one summand per channel. */
static SaStatus instance_norm(SaLower *l, const SaOp *op, const SaValue *x, SaRef in, float eps) {
    const SaValue *gamma = sa_op_value(op, "gamma"), *beta = sa_op_value(op, "beta");
    SaType c = channels_of(&x->type);
    SaStore half = sa_store_of(op->results[0]);
    SaRef out, r;
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SaStep *s = sa_lower_step(l, SA_STEP_NORM);
    if (!s)
        return SA_E_MEMORY;
    size_t planes = (size_t)(x->type.dim[0] * x->type.dim[1]);
    s->in[0] = in;
    s->n_in = 1;
    s->out = out;
    s->count = sa_count(&x->type);
    s->store = gamma || beta ? SA_STORE_EXACT : half;
    s->u.reduce = (SaReduce){.outer = planes, .len = s->count / planes, .inner = 1, .kind = (int)SA_OP_LAYER_NORM, .eps = eps};
    if (gamma) {
        SA_TRY(sa_lower_ref(l, gamma, &r));
        SA_TRY(two(l, SA_B_MUL, SA_B_MUL, &x->type, out, &x->type, r, &c, out, beta ? SA_STORE_EXACT : half));
    }
    if (beta) {
        SA_TRY(sa_lower_ref(l, beta, &r));
        SA_TRY(two(l, SA_B_ADD, SA_B_ADD, &x->type, out, &x->type, r, &c, out, half));
    }
    return SA_OK;
}

SaStatus sa_lower_channel_norm(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    float eps = 1e-5f;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    sa_op_float(op, "epsilon", &eps);
    return op->id == SA_OP_BATCH_NORM ? batch_norm(l, op, x, in, eps) : instance_norm(l, op, x, in, eps);
}

SaStatus sa_lower_lrn(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in, out;
    int64_t size = 1;
    float alpha = 1e-4f;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    sa_op_int(op, "size", &size);
    sa_op_float(op, "alpha", &alpha);
    SaStep *s = sa_lower_step(l, SA_STEP_LRN);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->n_in = 1;
    s->out = out;
    s->count = sa_count(&x->type);
    s->store = sa_store_of(op->results[0]);
    s->u.lrn = (SaLrn){.a = sa_axis_of(&x->type, 1, (size_t)x->type.dim[1]), .size = (size_t)size, .scale = alpha / (float)size,
                       .beta = 0.75f, .k = 1.0f};
    sa_op_float(op, "beta", &s->u.lrn.beta);
    sa_op_float(op, "k", &s->u.lrn.k);
    return SA_OK;
}

/* alpha[c] softplus(beta[c] x) */
SaStatus sa_lower_softplus_parametric(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *alpha, *beta;
    SaRef in, a, b, out;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_operand(l, op, "alpha", &alpha, &a));
    SA_TRY(sa_lower_operand(l, op, "beta", &beta, &b));
    SaType c = channels_of(&x->type);
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SA_TRY(two(l, SA_B_MUL, SA_B_MUL, &x->type, in, &x->type, b, &c, out, SA_STORE_EXACT));
    SA_TRY(one(l, SA_U_SOFTPLUS, 0, 0, &x->type, out, out, SA_STORE_EXACT));
    return two(l, SA_B_MUL, SA_B_MUL, &x->type, out, &x->type, a, &c, out, sa_store_of(op->results[0]));
}

/* ============================== Quantisation ============================== */

/* A scalar, or a vector along `axis`, as it broadcasts with x. */
static SaType along(const SaOp *op, const SaType *x, const SaValue *v) {
    int64_t axis = 0;
    sa_op_int(op, "axis", &axis);
    axis += axis < 0 ? x->rank : 0;
    SaType t = {.dtype = v->type.dtype, .rank = v->type.rank ? x->rank : 0};
    for (int i = 0; i < t.rank; i++)
        t.dim[i] = i == axis ? v->type.dim[0] : 1;
    return t;
}

/* quantize, dequantize */
SaStatus sa_lower_quantize(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *scale, *zero = sa_op_value(op, "zero_point");
    const SaType *out_type = &op->results[0]->type;
    SaRef in, rs, rz = {.slot = -1}, out;
    SA_TRY(sa_lower_operand(l, op, "input", &x, &in));
    SA_TRY(sa_lower_operand(l, op, "scale", &scale, &rs));
    SaType ts = along(op, &x->type, scale), tz = ts;
    if (zero) {
        SA_TRY(sa_lower_ref(l, zero, &rz));
        tz = along(op, &x->type, zero);
    }
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    if (op->id == SA_OP_DEQUANTIZE) {
        if (zero)
            SA_TRY(two(l, SA_B_SUB, SA_B_SUB, out_type, in, &x->type, rz, &tz, out, SA_STORE_EXACT));
        return two(l, SA_B_MUL, SA_B_MUL, out_type, zero ? out : in, &x->type, rs, &ts, out, sa_store_of(op->results[0]));
    }
    float lo = out_type->dtype == SA_INT8 ? -128.0f : 0.0f, hi = out_type->dtype == SA_INT8 ? 127.0f : 255.0f;
    SA_TRY(two(l, SA_B_DIV_FAST, SA_B_DIV, out_type, in, &x->type, rs, &ts, out, SA_STORE_EXACT));
    SA_TRY(one(l, SA_U_ROUND, 0, 0, out_type, out, out, SA_STORE_EXACT));
    if (zero)
        SA_TRY(two(l, SA_B_ADD, SA_B_ADD, out_type, out, out_type, rz, &tz, out, SA_STORE_EXACT));
    return one(l, SA_U_TRUNC, lo, hi, out_type, out, out, SA_STORE_EXACT); /* whole already: kept in range, NaN to 0 */
}

/* ============================== Products ================================== */

/* A [B, C, H, K] and B [B, K, H, W]: one product per (b, h), read where they lie. */
SaStatus sa_lower_einsum(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaArg *values = sa_op_arg(op, "values");
    const SaType *x = &values->values[0]->type, *y = &values->values[1]->type, *t = &op->results[0]->type;
    SaRef a, b, out;
    int r = t->rank;
    SA_TRY(sa_lower_ref(l, values->values[0], &a));
    SA_TRY(sa_lower_ref(l, values->values[1], &b));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    size_t c = (size_t)x->dim[r - 3], k = (size_t)x->dim[r - 1], w = (size_t)y->dim[r - 1], h = (size_t)t->dim[r - 2];
    size_t hx = (size_t)x->dim[r - 2], hy = (size_t)y->dim[r - 2], batch = r == 4 ? (size_t)t->dim[0] : 1;
    SaGemm g = {.n_batch = 2, .batch = {batch, h},
                .a_step = {r == 4 && x->dim[0] > 1 ? c * hx * k : 0, hx > 1 ? k : 0},
                .b_step = {r == 4 && y->dim[0] > 1 ? k * hy * w : 0, hy > 1 ? w : 0},
                .c_step = {c * h * w, w},
                .g = {.m = c, .n = w, .k = k, .lda = hx * k, .ldb = hy * w, .ldc = h * w}};
    return sa_lower_gemm(l, op, g, a, b, out, SA_STORE_PRODUCT);
}

/* One product of all batches of [.., m, k] and [.., k, n] (tb: [.., n, k]). */
static SaStatus batched(SaLower *l, const SaOp *op, size_t batch, size_t m, size_t n, size_t k, bool tb, SaRef a, SaRef b, SaRef out) {
    SaGemm g = {.n_batch = 1, .batch = {batch}, .a_step = {m * k}, .b_step = {k * n}, .c_step = {m * n},
                .g = {.tb = tb, .m = m, .n = n, .k = k, .lda = k, .ldb = tb ? k : n, .ldc = n}};
    return sa_lower_gemm(l, op, g, a, b, out, SA_STORE_PRODUCT);
}

/* mask added to the scores, or -inf where a bool one is false. */
static SaStatus apply_mask(SaLower *l, const SaValue *mask, const SaType *t, SaRef scores) {
    SaRef m;
    SA_TRY(sa_lower_ref(l, mask, &m));
    if (mask->type.dtype != SA_BOOL)
        return two(l, SA_B_ADD, SA_B_ADD, t, scores, t, m, &mask->type, scores, SA_STORE_HALF);
    SaRef in[3] = {m, scores};
    SaType scalar = {.dtype = SA_FP16};
    const SaType *types[3] = {&mask->type, t, &scalar};
    float *d = NULL;
    SA_TRY(sa_lower_const(l, 1, &d, &in[2]));
    *d = -INFINITY;
    SaElem e = {.form = SA_ELEM_SELECT, .n_in = 3};
    return sa_lower_elems(l, e, in, types, t, scores, SA_STORE_EXACT);
}

SaStatus sa_lower_attention(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *q, *k, *v, *mask = sa_op_value(op, "attn_mask");
    SaRef rq, rk, rv, scores, weights, factor, out;
    SA_TRY(sa_lower_operand(l, op, "query", &q, &rq));
    SA_TRY(sa_lower_operand(l, op, "key", &k, &rk));
    SA_TRY(sa_lower_operand(l, op, "value", &v, &rv));
    int r = q->type.rank;
    size_t rows = (size_t)q->type.dim[r - 2], keys = (size_t)k->type.dim[r - 2], width = (size_t)q->type.dim[r - 1];
    size_t batch = sa_count(&q->type) / (rows * width), count;
    SaType t = q->type, scalar = {.dtype = SA_FP16};
    t.dim[r - 1] = k->type.dim[r - 2];
    if (!sa_mul_ok(batch * rows, keys, &count))
        return sa_lower_fail(l, op, SA_E_LIMIT, "too many scores");
    float *d = NULL;
    SA_TRY(sa_lower_const(l, 1, &d, &factor));
    *d = sa_half_to_float(sa_half_from_float_even((float)(1.0 / sqrt((double)width))));
    SA_TRY(sa_lower_slot(l, count, &scores));
    SA_TRY(sa_lower_slot(l, count, &weights));
    SA_TRY(batched(l, op, batch, rows, keys, width, true, rq, rk, scores));
    SA_TRY(two(l, SA_B_MUL, SA_B_MUL, &t, scores, &t, factor, &scalar, scores, SA_STORE_HALF));
    if (mask) {
        SA_TRY(apply_mask(l, mask, &t, scores));
        l->steps[l->n_steps - 1].attn_mask = true;
    }
    SaStep *s = sa_lower_step(l, SA_STEP_SOFTMAX);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = scores;
    s->n_in = 1;
    s->out = weights;
    s->count = count;
    s->store = SA_STORE_HALF;
    s->u.reduce = (SaReduce){.outer = batch * rows, .len = keys, .inner = 1, .kind = (int)SA_OP_SOFTMAX};
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return batched(l, op, batch, rows, (size_t)v->type.dim[r - 1], keys, false, weights, rv, out);
}
