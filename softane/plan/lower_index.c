// SPDX-License-Identifier: MIT
/* lower_index.c - sorting, running sums, gathers, and values made from nothing. */
#include <math.h>
#include <string.h>

#include "lower.h"

/* ============================== Along an axis ============================= */

/* "axis" of x, counted from the front. */
static int axis_of(const SaOp *op, const SaType *x, int64_t absent) {
    int64_t axis = absent;
    sa_op_int(op, "axis", &axis);
    return (int)(axis < 0 ? axis + x->rank : axis);
}

/* A step on x that has one operand and one result. */
static SaStatus append(SaLower *l, SaStepKind kind, SaRef in, SaRef out, const SaType *type, SaStore store, SaStep **step) {
    SaStep *s = sa_lower_step(l, kind);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->n_in = 1;
    s->out = out;
    s->count = sa_count(type);
    s->store = store;
    *step = s;
    return SA_OK;
}

SaStatus sa_lower_argmax(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in, out;
    SaStep *s;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SA_TRY(append(l, SA_STEP_ARG, in, out, &op->results[0]->type, SA_STORE_EXACT, &s));
    s->u.arg = (SaExtreme){.a = sa_axis_of(&x->type, axis_of(op, &x->type, -1), 1), .smallest = op->id == SA_OP_REDUCE_ARGMIN};
    return SA_OK;
}

SaStatus sa_lower_cumsum(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in, out;
    SaStep *s;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SA_TRY(append(l, SA_STEP_SCAN, in, out, &x->type, sa_store_of(op->results[0]), &s));
    int axis = axis_of(op, &x->type, 0);
    s->u.scan.a = sa_axis_of(&x->type, axis, (size_t)x->type.dim[axis]);
    sa_op_bool(op, "exclusive", &s->u.scan.exclusive);
    sa_op_bool(op, "reverse", &s->u.scan.reverse);
    return SA_OK;
}

/* ============================== Sorting =================================== */

/* d = s seen with `axis` last (or, `back`, the other way round). `t` is the
 * type with the axis in its place. */
static SaStatus axis_last(SaLower *l, const SaType *t, int axis, SaRef in, SaRef out, bool back) {
    ptrdiff_t dense[SA_MAX_RANK], step = 1;
    SaCopy c = {.rank = t->rank};
    sa_dense_strides(t, dense);
    for (int i = t->rank - 1; i >= 0; i--) {
        int a = i == t->rank - 1 ? axis : i < axis ? i : i + 1;
        c.dim[i] = (size_t)t->dim[a];
        c.d_stride[i] = back ? dense[a] : step;
        c.s_stride[i] = back ? step : dense[a];
        step *= (ptrdiff_t)c.dim[i];
    }
    return sa_lower_copy(l, in, out, c);
}

/* Indices of the first elements in order along `axis`; `t` is the result's type. */
static SaStatus append_sort(SaLower *l, const SaOp *op, const SaValue *x, SaRef in, int axis, const SaType *t, SaRef out) {
    bool ascending = false, last = axis == x->type.rank - 1;
    size_t words;
    SaRef sorted = out, scratch;
    SaStep *s;
    sa_op_bool(op, "ascending", &ascending);
    if (!sa_mul_ok(sa_count(&x->type), 3, &words))
        return sa_lower_fail(l, op, SA_E_LIMIT, "too much to sort");
    if (!last) {
        SaRef turned;
        SA_TRY(sa_lower_slot(l, sa_count(&x->type), &turned));
        SA_TRY(axis_last(l, &x->type, axis, in, turned, false));
        SA_TRY(sa_lower_slot(l, sa_count(t), &sorted));
        in = turned;
    }
    SA_TRY(sa_lower_slot(l, words, &scratch));
    SA_TRY(append(l, SA_STEP_SORT, in, sorted, t, SA_STORE_EXACT, &s));
    SaAxis a = sa_axis_of(&x->type, axis, (size_t)t->dim[axis]);
    s->scratch = scratch;
    s->u.sort = (SaSort){.a = {.outer = a.outer * a.inner, .len = a.len, .inner = 1, .count = a.count}, .ascending = ascending};
    return last ? SA_OK : axis_last(l, t, axis, sorted, out, true);
}

/* d[o, j, i] = x[o, index, i] */
static SaStatus append_pick(SaLower *l, const SaType *x, int axis, const SaType *t, SaRef in, SaRef indices, SaRef out) {
    SaStep *s;
    SA_TRY(append(l, SA_STEP_PICK, in, out, t, SA_STORE_EXACT, &s));
    s->in[1] = indices;
    s->n_in = 2;
    s->u.pick.a = sa_axis_of(x, axis, (size_t)t->dim[axis]);
    return SA_OK;
}

SaStatus sa_lower_argsort(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in, out;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return append_sort(l, op, x, in, axis_of(op, &x->type, -1), &op->results[0]->type, out);
}

SaStatus sa_lower_topk(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *values = op->results[0];
    SaRef in, indices, out;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    int axis = axis_of(op, &x->type, -1);
    if (op->n_results > 1)
        SA_TRY(sa_lower_result(l, op->results[1], &indices));
    else
        SA_TRY(sa_lower_slot(l, sa_count(&values->type), &indices));
    SA_TRY(append_sort(l, op, x, in, axis, &values->type, indices));
    if (l->vals[values->id].uses == 0)
        return SA_OK;
    SA_TRY(sa_lower_result(l, values, &out));
    return append_pick(l, &x->type, axis, &values->type, in, indices, out);
}

/* ============================== Gathers =================================== */

SaStatus sa_lower_gather_along_axis(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *idx;
    SaRef in, indices, out;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_operand(l, op, "indices", &idx, &indices));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return append_pick(l, &x->type, axis_of(op, &x->type, 0), &op->results[0]->type, in, indices, out);
}

SaStatus sa_lower_gather_nd(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *idx;
    SaRef in, indices, out;
    SaStep *s;
    int64_t batch = 0;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(sa_lower_operand(l, op, "indices", &idx, &indices));
    sa_op_int(op, "batch_dims", &batch);
    SaGatherNd g = {.batch = 1, .rows = 1, .named = (size_t)idx->type.dim[idx->type.rank - 1], .slice = 1, .each = 1};
    for (int i = 0; i < idx->type.rank - 1; i++)
        *(i < batch ? &g.batch : &g.rows) *= (size_t)idx->type.dim[i];
    for (int i = x->type.rank - 1; i >= (int)batch; i--) {
        int k = i - (int)batch;
        if (k < (int)g.named) {
            g.dim[k] = (size_t)x->type.dim[i];
            g.stride[k] = g.each;
        } else {
            g.slice *= (size_t)x->type.dim[i];
        }
        g.each *= (size_t)x->type.dim[i];
    }
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SA_TRY(append(l, SA_STEP_GATHER_ND, in, out, &op->results[0]->type, SA_STORE_EXACT, &s));
    s->in[1] = indices;
    s->n_in = 2;
    s->u.gather_nd = g;
    return SA_OK;
}

/* ============================== Made values =============================== */

/* A constant of one element. */
static SaStatus scalar(SaLower *l, double v, SaRef *out) {
    float *d = NULL;
    SA_TRY(sa_lower_const(l, 1, &d, out));
    d[0] = (float)v;
    return SA_OK;
}

static double number(const SaOp *op, const char *key, double absent) {
    SaDtype t;
    sa_op_number(op, key, &absent, &t);
    return absent;
}

/* 1 where the position on the new axis is the index; then on and off for 1 and 0. */
SaStatus sa_lower_one_hot(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *idx;
    const SaType *t = &op->results[0]->type;
    SaRef in[3], hit, out;
    SA_TRY(sa_lower_operand(l, op, "indices", &idx, &in[0]));
    int64_t axis = -1;
    sa_op_int(op, "axis", &axis);
    axis += axis < 0 ? t->rank : 0;
    SaType seen = *t, position = *t, one = {.dtype = t->dtype};
    seen.dim[axis] = 1;
    for (int i = 0; i < t->rank; i++)
        position.dim[i] = i == axis ? t->dim[i] : 1;
    float *d = NULL;
    SA_TRY(sa_lower_const(l, (size_t)t->dim[axis], &d, &in[1]));
    for (int64_t i = 0; i < t->dim[axis]; i++)
        d[i] = (float)i;
    SaElem equal = {.form = SA_ELEM_BINARY, .op = SA_B_EQ, .op_ieee = SA_B_EQ, .n_in = 2};
    const SaType *types[3] = {&seen, &position, &one};
    double on = number(op, "on_value", 1), off = number(op, "off_value", 0);
    if (on == 1 && off == 0) {
        SA_TRY(sa_lower_result(l, op->results[0], &out));
        return sa_lower_elems(l, equal, in, types, t, out, SA_STORE_EXACT);
    }
    SA_TRY(sa_lower_slot(l, sa_count(t), &hit));
    SA_TRY(sa_lower_elems(l, equal, in, types, t, hit, SA_STORE_EXACT));
    SaElem choose = {.form = SA_ELEM_SELECT, .n_in = 3};
    types[0] = t;
    types[1] = &one;
    in[0] = hit;
    SA_TRY(scalar(l, on, &in[1]));
    SA_TRY(scalar(l, off, &in[2]));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return sa_lower_elems(l, choose, in, types, t, out, SA_STORE_EXACT);
}

SaStatus sa_lower_band_part(SaLower *l, const SaOp *op, int index) {
    const SaValue *x;
    SaRef in[3], out;
    int64_t lower = -1, upper = -1;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in[1]));
    sa_op_int(op, "lower", &lower);
    sa_op_int(op, "upper", &upper);
    int64_t rows = x->type.dim[x->type.rank - 2], columns = x->type.dim[x->type.rank - 1];
    if (lower < 0 && upper < 0)
        return sa_lower_view(l, op, index);
    float *d = NULL;
    SA_TRY(sa_lower_const(l, (size_t)(rows * columns), &d, &in[0]));
    for (int64_t i = 0; i < rows * columns; i++) {
        int64_t below = i / columns - i % columns; /* rows below the diagonal */
        d[i] = (lower < 0 || below <= lower) && (upper < 0 || -below <= upper) ? 1.0f : 0.0f;
    }
    SA_TRY(scalar(l, 0, &in[2]));
    SaType mask = {.dtype = SA_BOOL, .rank = 2, .dim = {rows, columns}}, one = {.dtype = x->type.dtype};
    const SaType *types[3] = {&mask, &x->type, &one};
    SaElem choose = {.form = SA_ELEM_SELECT, .n_in = 3};
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return sa_lower_elems(l, choose, in, types, &x->type, out, SA_STORE_EXACT);
}

/* fill, fill_like */
SaStatus sa_lower_fill(SaLower *l, const SaOp *op, int index) {
    (void)index;
    SaRef out;
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SaStep *s = sa_lower_step(l, SA_STEP_FILL);
    if (!s)
        return SA_E_MEMORY;
    s->out = out;
    s->count = sa_count(&op->results[0]->type);
    s->u.fill = (float)number(op, "value", 0);
    return SA_OK;
}

SaStatus sa_lower_range(SaLower *l, const SaOp *op, int index) {
    (void)index;
    double start = number(op, "start", 0), step = number(op, "step", 1);
    const SaType *t = &op->results[0]->type;
    float *d = NULL;
    SaRef ref;
    SA_TRY(sa_lower_const(l, sa_count(t), &d, &ref));
    for (size_t i = 0; i < sa_count(t); i++) {
        float v = (float)(start + (double)i * step);
        d[i] = t->dtype == SA_FP16 ? sa_half_to_float(sa_half_from_float_even(v)) : v;
    }
    sa_lower_alias(l, op->results[0], ref);
    return SA_OK;
}

/* A compressed weight becomes a plain one, here and once. */
SaStatus sa_lower_constexpr(SaLower *l, const SaOp *op, int index) {
    (void)index;
    float *d = NULL;
    SaRef ref;
    SA_TRY(sa_lower_const(l, sa_count(&op->results[0]->type), &d, &ref));
    SA_TRY(sa_constexpr_decode(op, d, l->err));
    sa_lower_alias(l, op->results[0], ref);
    return SA_OK;
}
