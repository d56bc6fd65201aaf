// SPDX-License-Identifier: MIT
/* lower_ops.c - elementwise operations, casts, reductions, softmax, norms. */
#include <math.h>
#include <string.h>

#include "lower.h"

/* ============================== Table ===================================== */

/* Operations with one tensor operand `x` and up to two scalar parameters.
 * exact: the result of fp16 operands is on the fp16 grid anyway. */
static const struct {
    SaOpId id;
    SaUnary op, op_ieee;
    bool exact;
    const char *key[2];
    float absent[2];
} unaries[] = {
    {SA_OP_ABS, SA_U_ABS, SA_U_ABS, true, {NULL}, {0}},
    {SA_OP_SIGN, SA_U_SIGN, SA_U_SIGN, true, {NULL}, {0}},
    {SA_OP_SQRT, SA_U_SQRT, SA_U_SQRT, false, {NULL}, {0}},
    {SA_OP_RSQRT, SA_U_RSQRT, SA_U_RSQRT, false, {"epsilon"}, {1e-12f}},
    {SA_OP_INVERSE, SA_U_INVERSE_FAST, SA_U_INVERSE, false, {"epsilon"}, {1e-4f}},
    {SA_OP_SQUARE, SA_U_SQUARE, SA_U_SQUARE, false, {NULL}, {0}},
    {SA_OP_EXP, SA_U_EXP, SA_U_EXP, false, {NULL}, {0}},
    {SA_OP_EXP2, SA_U_EXP2, SA_U_EXP2, false, {NULL}, {0}},
    {SA_OP_LOG, SA_U_LOG, SA_U_LOG, false, {"epsilon"}, {1e-45f}},
    {SA_OP_ERF, SA_U_ERF, SA_U_ERF, false, {NULL}, {0}},
    {SA_OP_CEIL, SA_U_CEIL, SA_U_CEIL, true, {NULL}, {0}},
    {SA_OP_FLOOR, SA_U_FLOOR, SA_U_FLOOR, true, {NULL}, {0}},
    {SA_OP_ROUND, SA_U_ROUND, SA_U_ROUND, true, {NULL}, {0}},
    {SA_OP_ATAN, SA_U_ATAN, SA_U_ATAN, false, {NULL}, {0}},
    {SA_OP_SIN, SA_U_SIN, SA_U_SIN, false, {NULL}, {0}},
    {SA_OP_COS, SA_U_COS, SA_U_COS, false, {NULL}, {0}},
    {SA_OP_CLIP, SA_U_CLIP, SA_U_CLIP, false, {"alpha", "beta"}, {-INFINITY, INFINITY}},
    {SA_OP_THRESHOLD, SA_U_THRESHOLD, SA_U_THRESHOLD, false, {"alpha"}, {0}},
    {SA_OP_SIGMOID, SA_U_SIGMOID, SA_U_SIGMOID, false, {NULL}, {0}},
    {SA_OP_SIGMOID_HARD, SA_U_SIGMOID_HARD, SA_U_SIGMOID_HARD, false, {"alpha", "beta"}, {0.2f, 0.5f}},
    {SA_OP_TANH, SA_U_TANH, SA_U_TANH, false, {NULL}, {0}},
    {SA_OP_SCALED_TANH, SA_U_SCALED_TANH, SA_U_SCALED_TANH, false, {"alpha", "beta"}, {1.0f, 1.0f}},
    {SA_OP_RELU, SA_U_RELU, SA_U_RELU, true, {NULL}, {0}},
    {SA_OP_RELU6, SA_U_RELU6, SA_U_RELU6, true, {NULL}, {0}},
    {SA_OP_LEAKY_RELU, SA_U_LEAKY_RELU, SA_U_LEAKY_RELU, false, {"alpha"}, {0.01f}},
    {SA_OP_ELU, SA_U_ELU, SA_U_ELU, false, {"alpha"}, {1.0f}},
    {SA_OP_SILU, SA_U_SILU, SA_U_SILU, false, {NULL}, {0}},
    {SA_OP_SOFTPLUS, SA_U_SOFTPLUS, SA_U_SOFTPLUS, false, {NULL}, {0}},
    {SA_OP_SOFTSIGN, SA_U_SOFTSIGN, SA_U_SOFTSIGN, false, {NULL}, {0}},
    {SA_OP_GELU, SA_U_GELU, SA_U_GELU, false, {NULL}, {0}},
    {SA_OP_TAN, SA_U_TAN, SA_U_TAN, false, {NULL}, {0}},
    {SA_OP_ASIN, SA_U_ASIN, SA_U_ASIN, false, {NULL}, {0}},
    {SA_OP_ACOS, SA_U_ACOS, SA_U_ACOS, false, {NULL}, {0}},
    {SA_OP_SINH, SA_U_SINH, SA_U_SINH, false, {NULL}, {0}},
    {SA_OP_COSH, SA_U_COSH, SA_U_COSH, false, {NULL}, {0}},
    {SA_OP_ATANH, SA_U_ATANH, SA_U_ATANH, false, {NULL}, {0}},
    {SA_OP_CLAMPED_RELU, SA_U_CLAMPED_RELU, SA_U_CLAMPED_RELU, false, {"alpha", "beta"}, {0, 0}},
    {SA_OP_LINEAR_ACTIVATION, SA_U_LINE, SA_U_LINE, false, {"alpha", "beta"}, {1.0f, 0}},
    {SA_OP_THRESHOLDED_RELU, SA_U_THRESHOLDED_RELU, SA_U_THRESHOLDED_RELU, true, {"alpha"}, {1.0f}},
    {SA_OP_LOGICAL_NOT, SA_U_NOT, SA_U_NOT, true, {NULL}, {0}},
};

static const struct {
    SaOpId id;
    SaBinary op, op_ieee;
    bool exact;
} binaries[] = {
    {SA_OP_ADD, SA_B_ADD, SA_B_ADD, false},
    {SA_OP_SUB, SA_B_SUB, SA_B_SUB, false},
    {SA_OP_MUL, SA_B_MUL, SA_B_MUL, false},
    {SA_OP_REAL_DIV, SA_B_DIV_FAST, SA_B_DIV, false},
    {SA_OP_FLOOR_DIV, SA_B_FLOOR_DIV_FAST, SA_B_FLOOR_DIV, false},
    {SA_OP_MOD, SA_B_MOD_FAST, SA_B_MOD, false},
    {SA_OP_POW, SA_B_POW, SA_B_POW, false},
    {SA_OP_MAXIMUM, SA_B_MAX, SA_B_MAX, true},
    {SA_OP_MINIMUM, SA_B_MIN, SA_B_MIN, true},
    {SA_OP_GREATER, SA_B_GT, SA_B_GT, true},
    {SA_OP_GREATER_EQUAL, SA_B_GE, SA_B_GE, true},
    {SA_OP_LESS, SA_B_LT, SA_B_LT, true},
    {SA_OP_LESS_EQUAL, SA_B_LE, SA_B_LE, true},
    {SA_OP_EQUAL, SA_B_EQ, SA_B_EQ, true},
    {SA_OP_NOT_EQUAL, SA_B_NE, SA_B_NE, true},
    {SA_OP_LOGICAL_AND, SA_B_AND, SA_B_AND, true},
    {SA_OP_LOGICAL_OR, SA_B_OR, SA_B_OR, true},
    {SA_OP_LOGICAL_XOR, SA_B_XOR, SA_B_XOR, true},
};

/* ============================== Broadcasting ============================== */

/* Loops over `out` with operands of types in[]: axes of length 1 dropped,
 * neighbours merged where every operand allows. False when a shape does not
 * broadcast. */
static bool plan_loops(SaElem *e, const SaType *out, const SaType *const in[]) {
    size_t dim[SA_MAX_RANK], stride[3][SA_MAX_RANK];
    int n = 0;
    for (int k = 0; k < e->n_in; k++)
        if (in[k]->rank > out->rank)
            return false;
    for (int a = 0; a < out->rank; a++) {
        if (out->dim[a] == 1)
            continue;
        for (int k = 0; k < e->n_in; k++) {
            int at = a - (out->rank - in[k]->rank); /* right-aligned */
            int64_t d = at >= 0 ? in[k]->dim[at] : 1;
            if (d != 1 && d != out->dim[a])
                return false;
            ptrdiff_t dense[SA_MAX_RANK];
            sa_dense_strides(in[k], dense);
            stride[k][n] = d == 1 ? 0 : (size_t)dense[at];
        }
        dim[n++] = (size_t)out->dim[a];
    }
    for (int a = 0; a < n; a++) {
        bool merge = e->rank > 0;
        for (int k = 0; k < e->n_in && merge; k++)
            merge = e->stride[k][e->rank - 1] == stride[k][a] * dim[a];
        int to = merge ? e->rank - 1 : e->rank++;
        e->dim[to] = merge ? e->dim[to] * dim[a] : dim[a];
        for (int k = 0; k < e->n_in; k++)
            e->stride[k][to] = stride[k][a];
    }
    if (e->rank == 0)
        e->dim[e->rank++] = 1;
    e->rows = 1;
    for (int a = 0; a < e->rank - 1; a++)
        e->rows *= e->dim[a];
    return true;
}

SaStatus sa_lower_elems(SaLower *l, SaElem e, const SaRef in[], const SaType *const types[], const SaType *out_type,
                        SaRef out, SaStore store) {
    if (!plan_loops(&e, out_type, types))
        return sa_lower_fail(l, NULL, SA_E_SHAPE, "operands do not broadcast to the result");
    SaStep *s = sa_lower_step(l, SA_STEP_ELEM);
    if (!s)
        return SA_E_MEMORY;
    memcpy(s->in, in, sizeof in[0] * (size_t)e.n_in);
    s->n_in = e.n_in;
    s->out = out;
    s->store = store;
    s->count = sa_count(out_type);
    s->u.elem = e;
    return SA_OK;
}

/* Append an elementwise step over the given operand values (types may be
 * overridden, as prelu does for its slopes). */
static SaStatus append_elem(SaLower *l, const SaOp *op, SaElem e, const SaValue *const values[],
                            const SaType *const types[], SaStore store) {
    const SaValue *result = op->results[0];
    SaRef in[3], out;
    for (int k = 0; k < e.n_in; k++)
        SA_TRY(sa_lower_ref(l, values[k], &in[k]));
    SA_TRY(sa_lower_result(l, result, &out));
    SA_TRY(sa_lower_elems(l, e, in, types, &result->type, out, store));
    l->steps[l->n_steps - 1].in_place_ok = true;
    return SA_OK;
}

static SaStatus need(SaLower *l, const SaOp *op, const char *key, const SaValue **out) {
    *out = sa_op_value(op, key);
    return *out ? SA_OK : sa_lower_fail(l, op, SA_E_OPERAND, "operand '%s' is missing", key);
}

static SaStatus append_unary(SaLower *l, const SaOp *op, SaUnary fast, SaUnary ieee, float p0, float p1, SaStore store) {
    const SaValue *x;
    SA_TRY(need(l, op, "x", &x));
    SaElem e = {.form = SA_ELEM_UNARY, .op = (int)fast, .op_ieee = (int)ieee, .p = {p0, p1}, .n_in = 1,
                .half_in = x->type.dtype == SA_FP16 && store == SA_STORE_HALF};
    const SaType *type = &x->type;
    return append_elem(l, op, e, &x, &type, store);
}

/* ============================== Elementwise =============================== */

static SaStatus lower_select(SaLower *l, const SaOp *op) {
    const SaValue *v[3];
    SA_TRY(need(l, op, "cond", &v[0]));
    SA_TRY(need(l, op, "a", &v[1]));
    SA_TRY(need(l, op, "b", &v[2]));
    const SaType *types[3] = {&v[0]->type, &v[1]->type, &v[2]->type};
    SaElem e = {.form = SA_ELEM_SELECT, .n_in = 3};
    return append_elem(l, op, e, v, types, SA_STORE_EXACT);
}

/* prelu: one slope per channel (axis 1, or a single one for all). */
static SaStatus lower_prelu(SaLower *l, const SaOp *op) {
    const SaValue *v[2];
    SA_TRY(need(l, op, "x", &v[0]));
    SA_TRY(need(l, op, "alpha", &v[1]));
    SaType slopes = {.dtype = v[1]->type.dtype, .rank = v[0]->type.rank > 1 ? v[0]->type.rank - 1 : 1};
    for (int a = 0; a < slopes.rank; a++)
        slopes.dim[a] = 1;
    slopes.dim[0] = sa_type_count(&v[1]->type);
    const SaType *types[2] = {&v[0]->type, &slopes};
    SaElem e = {.form = SA_ELEM_BINARY, .op = SA_B_PRELU, .op_ieee = SA_B_PRELU, .n_in = 2};
    return append_elem(l, op, e, v, types, sa_store_of(op->results[0]));
}

/* pow with a scalar constant: the exponents that have a function of their own.
 * As roots they give NaN for -inf. Adding -0.0 changes nothing, not even -0. */
static SaStatus lower_pow_const(SaLower *l, const SaOp *op, float y) {
    SaStore store = sa_store_of(op->results[0]);
    if (y == 0.5f)
        return append_unary(l, op, SA_U_SQRT, SA_U_SQRT, 0, 0, store);
    if (y == -0.5f)
        return append_unary(l, op, SA_U_RSQRT, SA_U_RSQRT, 0.0f, 0, store);
    if (y == 2.0f)
        return append_unary(l, op, SA_U_SQUARE, SA_U_SQUARE, 0, 0, store);
    if (y == -1.0f)
        return append_unary(l, op, SA_U_INVERSE, SA_U_INVERSE, -0.0f, 0, store);
    return append_unary(l, op, SA_U_POW, SA_U_POW, y, 0, store);
}

/* Integers and bools a cast can give, as floats. */
static void cast_range(SaDtype t, float *lo, float *hi) {
    *lo = 0.0f;
    switch (t) {
    case SA_INT8: *lo = -128.0f; *hi = 127.0f; break;
    case SA_UINT8: *hi = 255.0f; break;
    case SA_INT16: *lo = -32768.0f; *hi = 32767.0f; break;
    case SA_UINT16: *hi = 65535.0f; break;
    case SA_INT32: *lo = -2147483648.0f; *hi = 2147483648.0f; break;
    default: *hi = 0x1p64f; break;
    }
}

static bool is_float(SaDtype t) { return t == SA_FP16 || t == SA_FP32; }

/* Is every value of dtype `from` a value of dtype `to` (as floats)? */
bool sa_cast_is_view(const SaOp *op) {
    const SaValue *x = sa_op_value(op, "x");
    SaDtype from = x ? x->type.dtype : SA_STRING, to = op->results[0]->type.dtype;
    bool tiny = from == SA_BOOL || from == SA_INT8 || from == SA_UINT8;
    if (from == to || to == SA_FP32)
        return true;
    if (to == SA_FP16)
        return tiny;
    float lo, hi, from_lo, from_hi = 1.0f;
    if (is_float(from) || to == SA_BOOL)
        return false;
    cast_range(to, &lo, &hi);
    if (from == SA_BOOL)
        from_lo = 0.0f;
    else
        cast_range(from, &from_lo, &from_hi);
    return from_lo >= lo && from_hi <= hi;
}

static SaStatus lower_cast(SaLower *l, const SaOp *op, int index) {
    SaDtype to = op->results[0]->type.dtype;
    if (sa_cast_is_view(op))
        return sa_lower_view(l, op, index);
    if (is_float(to))
        return append_unary(l, op, SA_U_COPY, SA_U_COPY, 0, 0, sa_store_of(op->results[0]));
    if (to == SA_BOOL)
        return append_unary(l, op, SA_U_TRUE, SA_U_TRUE, 0, 0, SA_STORE_EXACT);
    float lo, hi;
    cast_range(to, &lo, &hi);
    return append_unary(l, op, SA_U_TRUNC, SA_U_TRUNC, lo, hi, SA_STORE_EXACT);
}

static SaUnary gelu_kind(const SaOp *op) {
    const char *mode = "EXACT";
    sa_op_string(op, "mode", &mode);
    if (strcmp(mode, "TANH_APPROXIMATION") == 0)
        return SA_U_GELU_TANH;
    return strcmp(mode, "SIGMOID_APPROXIMATION") == 0 ? SA_U_GELU_SIGMOID : SA_U_GELU;
}

static SaStatus lower_unary(SaLower *l, const SaOp *op, size_t i) {
    float p[2] = {unaries[i].absent[0], unaries[i].absent[1]};
    for (int k = 0; k < 2; k++)
        if (unaries[i].key[k])
            sa_op_float(op, unaries[i].key[k], &p[k]);
    SaUnary fast = unaries[i].op, ieee = unaries[i].op_ieee;
    if (op->id == SA_OP_GELU)
        fast = ieee = gelu_kind(op);
    return append_unary(l, op, fast, ieee, p[0], p[1], unaries[i].exact ? SA_STORE_EXACT : sa_store_of(op->results[0]));
}

/* On silicon a multiplication of floor, ceil or round by a scalar constant
 * loses the scalar (ANEForge #112). */
static bool is_dropped_scalar(const SaValue *scalar, const SaValue *x) {
    return scalar->constant && sa_count(&scalar->type) == 1 && x->producer && sa_count(&x->type) > 1 &&
           (x->producer->id == SA_OP_FLOOR || x->producer->id == SA_OP_CEIL || x->producer->id == SA_OP_ROUND);
}

static SaStatus lower_binary(SaLower *l, const SaOp *op, size_t i) {
    const SaValue *v[2];
    SA_TRY(need(l, op, "x", &v[0]));
    SA_TRY(need(l, op, "y", &v[1]));
    float y;
    if (op->id == SA_OP_POW && sa_count(&v[1]->type) == 1 && sa_op_float(op, "y", &y) &&
        sa_count(&v[0]->type) == sa_count(&op->results[0]->type))
        return lower_pow_const(l, op, y);
    const SaType *types[2] = {&v[0]->type, &v[1]->type};
    int kept = op->id != SA_OP_MUL ? 0 : is_dropped_scalar(v[1], v[0]) ? 1 : is_dropped_scalar(v[0], v[1]) ? 2 : 0;
    SaElem e = {.form = SA_ELEM_BINARY, .kept = kept, .op = (int)binaries[i].op, .op_ieee = (int)binaries[i].op_ieee, .n_in = 2};
    return append_elem(l, op, e, v, types, binaries[i].exact ? SA_STORE_EXACT : sa_store_of(op->results[0]));
}

SaStatus sa_lower_elem(SaLower *l, const SaOp *op, int index) {
    if (op->id == SA_OP_SELECT)
        return lower_select(l, op);
    if (op->id == SA_OP_PRELU)
        return lower_prelu(l, op);
    if (op->id == SA_OP_CAST)
        return lower_cast(l, op, index);
    for (size_t i = 0; i < sizeof unaries / sizeof unaries[0]; i++)
        if (unaries[i].id == op->id)
            return lower_unary(l, op, i);
    for (size_t i = 0; i < sizeof binaries / sizeof binaries[0]; i++)
        if (binaries[i].id == op->id)
            return lower_binary(l, op, i);
    return sa_lower_fail(l, op, SA_E_OP, "not implemented by softane");
}

/* ============================== Folded axes =============================== */

/* The axes an operation folds, seen as the middle of [outer, len, inner].
 * When they are not neighbours (or `rows` asks for inner = 1), `order` is the
 * permutation that puts them last. */
typedef struct {
    size_t outer, len, inner;
    bool permute;
    int order[SA_MAX_RANK];
} Fold;

static Fold fold_of(const SaType *t, const bool folded[SA_MAX_RANK], bool rows) {
    Fold f = {.outer = 1, .len = 1, .inner = 1};
    int n = 0;
    bool past = false; /* a kept axis came after a folded one */
    for (int a = 0; a < t->rank; a++) {
        size_t d = (size_t)t->dim[a];
        if (!folded[a])
            f.order[n++] = a;
        if (d == 1)
            continue;
        if (folded[a]) {
            f.permute = f.permute || past;
            f.len *= d;
        } else if (f.len > 1) {
            past = true;
            f.inner *= d;
        } else {
            f.outer *= d;
        }
    }
    for (int a = 0; a < t->rank; a++)
        if (folded[a])
            f.order[n++] = a;
    if (f.permute || (rows && f.inner > 1)) {
        f.permute = true;
        f.outer *= f.inner;
        f.inner = 1;
    }
    if (f.len == 1 && !f.permute) { /* one value each: columns, not rows */
        f.inner = f.outer * f.inner;
        f.outer = 1;
    }
    return f;
}

/* Copy between x as it lies and x with the folded axes last. */
static SaStatus permuted_copy(SaLower *l, const SaType *t, const int *order, SaRef in, SaRef out, bool back) {
    ptrdiff_t dense[SA_MAX_RANK], step = 1;
    SaCopy c = {.rank = t->rank};
    sa_dense_strides(t, dense);
    for (int i = t->rank - 1; i >= 0; i--) {
        c.dim[i] = (size_t)t->dim[order[i]];
        c.d_stride[i] = back ? dense[order[i]] : step;
        c.s_stride[i] = back ? step : dense[order[i]];
        step *= (ptrdiff_t)c.dim[i];
    }
    return sa_lower_copy(l, in, out, c);
}

/* "axes", or every axis when absent. */
static SaStatus folded_axes(SaLower *l, const SaOp *op, const SaType *t, bool folded[SA_MAX_RANK]) {
    int64_t axes[SA_MAX_RANK];
    int n = sa_op_ints(op, "axes", axes, SA_MAX_RANK);
    for (int a = 0; a < SA_MAX_RANK; a++)
        folded[a] = n < 0;
    for (int i = 0; i < n; i++) {
        int64_t a = axes[i] < 0 ? axes[i] + t->rank : axes[i];
        if (a < 0 || a >= t->rank)
            return sa_lower_fail(l, op, SA_E_SHAPE, "axis out of range");
        folded[a] = true;
    }
    return SA_OK;
}

/* Append one folding step on x, permuted first if need be. `same_shape`: the
 * result looks like x (softmax, norms) and is permuted back. */
static SaStatus append_fold(SaLower *l, const SaOp *op, SaStepKind kind, const bool folded[SA_MAX_RANK],
                            SaReduce r, const SaRef extra[2], bool rows, bool same_shape) {
    const SaValue *x, *result = op->results[0];
    SA_TRY(need(l, op, "x", &x));
    Fold f = fold_of(&x->type, folded, rows);
    SaRef in, out, target;
    SA_TRY(sa_lower_ref(l, x, &in));
    if (f.permute) {
        SaRef turned;
        SA_TRY(sa_lower_slot(l, sa_count(&x->type), &turned));
        SA_TRY(permuted_copy(l, &x->type, f.order, in, turned, false));
        in = turned;
    }
    SA_TRY(sa_lower_result(l, result, &target));
    out = target;
    if (f.permute && same_shape)
        SA_TRY(sa_lower_slot(l, sa_count(&x->type), &out));
    SaStep *s = sa_lower_step(l, kind);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->n_in = 1;
    if (extra) {
        s->in[1] = extra[0];
        s->in[2] = extra[1];
        s->n_in = 3;
    }
    s->out = out;
    s->store = sa_store_of(result);
    s->count = sa_count(&result->type);
    r.outer = f.outer;
    r.len = f.len;
    r.inner = f.inner;
    s->u.reduce = r;
    return f.permute && same_shape ? permuted_copy(l, &x->type, f.order, out, target, true) : SA_OK;
}

/* ============================== Reductions, norms ========================= */

SaStatus sa_lower_reduce(SaLower *l, const SaOp *op, int index) {
    (void)index;
    bool folded[SA_MAX_RANK];
    const SaValue *x;
    SA_TRY(need(l, op, "x", &x));
    SA_TRY(folded_axes(l, op, &x->type, folded));
    SaReduce r = {.kind = (int)op->id};
    return append_fold(l, op, SA_STEP_REDUCE, folded, r, NULL, op->id == SA_OP_REDUCE_LOG_SUM_EXP, false);
}

SaStatus sa_lower_softmax(SaLower *l, const SaOp *op, int index) {
    (void)index;
    bool folded[SA_MAX_RANK] = {false};
    const SaValue *x;
    SA_TRY(need(l, op, "x", &x));
    int64_t axis = -1;
    sa_op_int(op, "axis", &axis);
    if (axis < 0)
        axis += x->type.rank;
    if (axis < 0 || axis >= x->type.rank)
        return sa_lower_fail(l, op, SA_E_SHAPE, "axis out of range");
    folded[axis] = true;
    SaReduce r = {.kind = (int)op->id};
    return append_fold(l, op, SA_STEP_SOFTMAX, folded, r, NULL, false, true);
}

/* layer_norm over `axes`; l2_norm over the last three. */
SaStatus sa_lower_norm(SaLower *l, const SaOp *op, int index) {
    (void)index;
    bool folded[SA_MAX_RANK] = {false};
    const SaValue *x, *gamma = sa_op_value(op, "gamma"), *beta = sa_op_value(op, "beta");
    SA_TRY(need(l, op, "x", &x));
    SaReduce r = {.kind = (int)op->id};
    SaRef extra[2] = {{.slot = -1}, {.slot = -1}};
    if (op->id == SA_OP_L2_NORM) {
        for (int a = 0; a < x->type.rank; a++)
            folded[a] = a >= x->type.rank - 3;
        r.eps = 1e-6f;
        sa_op_float(op, "epsilon", &r.eps);
        return append_fold(l, op, SA_STEP_NORM, folded, r, NULL, true, true);
    }
    SA_TRY(folded_axes(l, op, &x->type, folded));
    r.eps = 1e-5f;
    sa_op_float(op, "epsilon", &r.eps);
    r.has_gamma = gamma != NULL;
    r.has_beta = beta != NULL;
    if (gamma)
        SA_TRY(sa_lower_ref(l, gamma, &extra[0]));
    if (beta)
        SA_TRY(sa_lower_ref(l, beta, &extra[1]));
    return append_fold(l, op, SA_STEP_NORM, folded, r, extra, false, true);
}
