// SPDX-License-Identifier: MIT
/* lower_shape.c - operations that move values without changing them. Those
 * whose result is one run of their operand are views and cost nothing. */
#include <math.h>
#include <string.h>

#include "lower.h"

/* ============================== Views ===================================== */

SaStatus sa_lower_operand(SaLower *l, const SaOp *op, const char *key, const SaValue **v, SaRef *ref) {
    *v = sa_op_value(op, key);
    if (!*v)
        return sa_lower_fail(l, op, SA_E_OPERAND, "operand '%s' is missing", key);
    return sa_lower_ref(l, *v, ref);
}

SaStatus sa_lower_view(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef ref;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &ref));
    sa_lower_alias(l, op->results[0], ref);
    return SA_OK;
}

/* `ref`, further on by `floats`. */
static SaRef moved(SaRef ref, size_t floats) {
    if (ref.fixed)
        ref.fixed += floats;
    else
        ref.offset += floats * sizeof(float);
    return ref;
}

/* Does a walk with these source strides read one run from start to end? */
static bool is_one_run(const SaCopy *c) {
    if (c->clamped)
        return false;
    ptrdiff_t step = 1;
    for (int i = c->rank - 1; i >= 0; i--) {
        if (c->dim[i] != 1 && c->s_stride[i] != step)
            return false;
        step *= (ptrdiff_t)c->dim[i];
    }
    return true;
}

/* The result as a view if the walk allows, else by a copy. Fills d_stride. */
SaStatus sa_lower_walk(SaLower *l, const SaValue *result, SaRef in, SaCopy c) {
    if (is_one_run(&c)) {
        sa_lower_alias(l, result, moved(in, (size_t)c.s_offset));
        return SA_OK;
    }
    ptrdiff_t step = 1;
    for (int i = c.rank - 1; i >= 0; i--) {
        c.d_stride[i] = step;
        step *= (ptrdiff_t)c.dim[i];
    }
    SaRef out;
    SA_TRY(sa_lower_result(l, result, &out));
    return sa_lower_copy(l, in, out, c);
}

/* An axis operand, counted from the front. */
static SaStatus axis_of(SaLower *l, const SaOp *op, int64_t absent, int rank, int *axis) {
    int64_t a = absent;
    sa_op_int(op, "axis", &a);
    if (a < 0)
        a += rank;
    if (a < 0 || a >= rank)
        return sa_lower_fail(l, op, SA_E_SHAPE, "axis out of range");
    *axis = (int)a;
    return SA_OK;
}

/* ============================== Transpose ================================= */

/* The permutation of a transpose, counted from the front; false when damaged. */
static bool perm_of(const SaOp *op, int rank, int perm[SA_MAX_RANK]) {
    int64_t p[SA_MAX_RANK];
    if (sa_op_ints(op, "perm", p, SA_MAX_RANK) != rank)
        return false;
    for (int i = 0; i < rank; i++) {
        perm[i] = (int)(p[i] < 0 ? p[i] + rank : p[i]);
        if (perm[i] < 0 || perm[i] >= rank)
            return false;
    }
    return true;
}

bool sa_swaps_last_two(const SaOp *op) {
    int rank = op->results[0]->type.rank, perm[SA_MAX_RANK];
    if (rank < 2 || !perm_of(op, rank, perm))
        return false;
    for (int i = 0; i < rank - 2; i++)
        if (perm[i] != i)
            return false;
    return perm[rank - 2] == rank - 1 && perm[rank - 1] == rank - 2;
}

SaStatus sa_lower_transpose(SaLower *l, const SaOp *op, int index) {
    if (l->marks[index] & SA_MARK_ALIAS)
        return sa_lower_view(l, op, index);
    const SaValue *x;
    SaRef in;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    int rank = x->type.rank, perm[SA_MAX_RANK];
    if (!perm_of(op, rank, perm))
        return sa_lower_fail(l, op, SA_E_OPERAND, "perm is not a permutation of the axes");
    ptrdiff_t dense[SA_MAX_RANK];
    sa_dense_strides(&x->type, dense);
    SaCopy c = {.rank = rank};
    for (int i = 0; i < rank; i++) {
        c.dim[i] = (size_t)x->type.dim[perm[i]];
        c.s_stride[i] = dense[perm[i]];
    }
    return sa_lower_walk(l, op->results[0], in, c);
}

/* ============================== Slices ==================================== */

SaStatus sa_lower_slice(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    SaSlice slice;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    if (!sa_op_slice(op, &slice))
        return sa_lower_fail(l, op, SA_E_OPERAND, "the slice leaves x");
    ptrdiff_t dense[SA_MAX_RANK];
    sa_dense_strides(&x->type, dense);
    SaCopy c = {.rank = x->type.rank};
    c.clamped = c.rank > 0 && slice.begin[c.rank - 1] > 0 && x->type.dtype == SA_FP16;
    for (int a = 0; a < c.rank; a++) {
        c.dim[a] = (size_t)slice.count[a];
        c.s_stride[a] = dense[a] * (ptrdiff_t)slice.step[a];
        c.s_offset += dense[a] * (ptrdiff_t)slice.begin[a];
    }
    return sa_lower_walk(l, op->results[0], in, c);
}

SaStatus sa_lower_split(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    int axis = 0;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(axis_of(l, op, 0, x->type.rank, &axis));
    ptrdiff_t dense[SA_MAX_RANK], at = 0;
    sa_dense_strides(&x->type, dense);
    for (int r = 0; r < op->n_results; r++) {
        SaCopy c = {.rank = x->type.rank, .s_offset = at * dense[axis]};
        for (int a = 0; a < c.rank; a++) {
            c.dim[a] = (size_t)(a == axis ? op->results[r]->type.dim[a] : x->type.dim[a]);
            c.s_stride[a] = dense[a];
        }
        at += (ptrdiff_t)c.dim[axis];
        if (at > x->type.dim[axis])
            return sa_lower_fail(l, op, SA_E_SHAPE, "the parts are longer than the axis");
        if (l->vals[op->results[r]->id].uses > 0)
            SA_TRY(sa_lower_walk(l, op->results[r], in, c));
    }
    return SA_OK;
}

/* ============================== Joining =================================== */

static bool same_place(SaRef a, SaRef b) { return !a.fixed && !b.fixed && a.slot == b.slot && a.offset == b.offset; }

/* concat and stack. Operands that were computed in their place need nothing. */
SaStatus sa_lower_concat(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *result = op->results[0];
    const SaArg *values = sa_op_arg(op, "values");
    bool interleave = false, stack = op->id == SA_OP_STACK;
    int axis = 0;
    SA_TRY(axis_of(l, op, 0, result->type.rank, &axis));
    sa_op_bool(op, "interleave", &interleave);
    if (!values)
        return sa_lower_fail(l, op, SA_E_OPERAND, "operand 'values' is missing");
    SaRef out;
    SA_TRY(sa_lower_result(l, result, &out));
    ptrdiff_t dense[SA_MAX_RANK], at = 0;
    sa_dense_strides(&result->type, dense);
    for (int k = 0; k < values->count; k++) {
        const SaValue *v = values->values[k];
        SaCopy c = {.rank = result->type.rank};
        ptrdiff_t step = 1;
        for (int a = c.rank - 1; a >= 0; a--) {
            int64_t mine = stack ? (a == axis ? 1 : result->type.dim[a]) : v->type.dim[a];
            c.dim[a] = (size_t)mine;
            c.d_stride[a] = dense[a] * (interleave && a == axis ? values->count : 1);
            c.s_stride[a] = step;
            step *= (ptrdiff_t)mine;
        }
        SaRef in, to = moved(out, (size_t)(at * dense[axis]));
        at += interleave ? 1 : (ptrdiff_t)c.dim[axis];
        SA_TRY(sa_lower_ref(l, v, &in));
        if (!same_place(in, to))
            SA_TRY(sa_lower_copy(l, in, to, c));
    }
    return SA_OK;
}

/* ============================== Padding =================================== */

/* reflect and replicate: index of the source for position i of a padded axis. */
static int64_t mirrored(int64_t i, int64_t dim, bool reflect) {
    if (!reflect || dim == 1)
        return i < 0 ? 0 : i >= dim ? dim - 1 : i;
    int64_t period = 2 * (dim - 1);
    i %= period;
    i = i < 0 ? i + period : i;
    return i < dim ? i : period - i;
}

/* One axis at a time by gathering; the last one writes the result. */
static SaStatus pad_by_index(SaLower *l, const SaOp *op, SaRef in, const int64_t before[], const int64_t after[], bool reflect) {
    const SaValue *x = sa_op_value(op, "x"), *result = op->results[0];
    SaType t = x->type;
    int last = -1;
    for (int a = 0; a < t.rank; a++)
        last = before[a] || after[a] ? a : last;
    for (int a = 0; a <= last; a++) {
        if (!before[a] && !after[a])
            continue;
        SaGather g = {.batch = 1, .outer = 1, .axis = (size_t)t.dim[a], .inner = 1};
        g.count = (size_t)(t.dim[a] + before[a] + after[a]);
        for (int i = 0; i < t.rank; i++)
            *(i < a ? &g.outer : &g.inner) *= i == a ? 1 : (size_t)t.dim[i];
        SaRef idx, out;
        float *d;
        SA_TRY(sa_lower_const(l, g.count, &d, &idx));
        for (size_t i = 0; i < g.count; i++)
            d[i] = (float)mirrored((int64_t)i - before[a], t.dim[a], reflect);
        t.dim[a] = (int64_t)g.count;
        if (a == last)
            SA_TRY(sa_lower_result(l, result, &out));
        else
            SA_TRY(sa_lower_slot(l, sa_count(&t), &out));
        SaStep *s = sa_lower_step(l, SA_STEP_GATHER);
        if (!s)
            return SA_E_MEMORY;
        s->in[0] = in;
        s->in[1] = idx;
        s->n_in = 2;
        s->out = out;
        s->count = sa_count(&t);
        s->u.gather = g;
        in = out;
    }
    return SA_OK;
}

SaStatus sa_lower_pad(SaLower *l, const SaOp *op, int index) {
    const SaValue *x, *result = op->results[0];
    SaRef in, out;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    int rank = x->type.rank;
    int64_t pad[2 * SA_MAX_RANK], before[SA_MAX_RANK] = {0}, after[SA_MAX_RANK] = {0};
    int n = sa_op_ints(op, "pad", pad, 2 * SA_MAX_RANK);
    if (n < 0 || n % 2 || n / 2 > rank)
        return sa_lower_fail(l, op, SA_E_OPERAND, "pad needs two entries per padded axis");
    bool any = false;
    for (int i = 0; i < n / 2; i++) { /* the last n/2 axes */
        int a = rank - n / 2 + i;
        before[a] = pad[2 * i];
        after[a] = pad[2 * i + 1];
        any = any || before[a] || after[a];
        if (before[a] < 0 || after[a] < 0)
            return sa_lower_fail(l, op, SA_E_OPERAND, "negative padding");
    }
    if (!any)
        return sa_lower_view(l, op, index);
    const char *mode = "constant";
    sa_op_string(op, "mode", &mode);
    if (strcmp(mode, "constant") != 0)
        return pad_by_index(l, op, in, before, after, strcmp(mode, "reflect") == 0);
    float value = 0.0f;
    sa_op_float(op, "constant_val", &value);
    SA_TRY(sa_lower_result(l, result, &out));
    SaStep *s = sa_lower_step(l, SA_STEP_FILL);
    if (!s)
        return SA_E_MEMORY;
    s->out = out;
    s->count = sa_count(&result->type);
    s->store = sa_store_of(result);
    s->u.fill = value;
    SaCopy c = {.rank = rank};
    ptrdiff_t d_dense[SA_MAX_RANK], s_dense[SA_MAX_RANK];
    sa_dense_strides(&result->type, d_dense);
    sa_dense_strides(&x->type, s_dense);
    for (int a = 0; a < rank; a++) {
        c.dim[a] = (size_t)x->type.dim[a];
        c.d_stride[a] = d_dense[a];
        c.s_stride[a] = s_dense[a];
        c.d_offset += (ptrdiff_t)before[a] * d_dense[a];
    }
    return sa_lower_copy(l, in, out, c);
}

/* ============================== Tile, reverse, gather ===================== */

SaStatus sa_lower_tile(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *result = op->results[0];
    SaRef in;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    ptrdiff_t dense[SA_MAX_RANK];
    sa_dense_strides(&x->type, dense);
    SaCopy c = {.rank = 2 * x->type.rank}; /* (copy, position) per axis */
    for (int a = 0; a < x->type.rank; a++) {
        c.dim[2 * a] = (size_t)(result->type.dim[a] / x->type.dim[a]);
        c.dim[2 * a + 1] = (size_t)x->type.dim[a];
        c.s_stride[2 * a + 1] = dense[a];
    }
    return sa_lower_walk(l, result, in, c);
}

SaStatus sa_lower_reverse(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    int rank = x->type.rank;
    int64_t axes[SA_MAX_RANK];
    int n = sa_op_ints(op, "axes", axes, SA_MAX_RANK);
    SaCopy c = {.rank = rank};
    sa_dense_strides(&x->type, c.s_stride);
    for (int a = 0; a < rank; a++) {
        bool turn = n < 0;
        for (int i = 0; i < n; i++)
            turn = turn || axes[i] == a || axes[i] + rank == a;
        c.dim[a] = (size_t)x->type.dim[a];
        if (turn) {
            c.s_offset += c.s_stride[a] * (ptrdiff_t)(x->type.dim[a] - 1);
            c.s_stride[a] = -c.s_stride[a];
        }
    }
    return sa_lower_walk(l, op->results[0], in, c);
}

/* x[.., index, ..] along one axis; the first batch_dims axes run in step. */
SaStatus sa_lower_gather(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *idx;
    SaRef in[2], out;
    int axis = 0;
    int64_t batch_dims = 0;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in[0]));
    SA_TRY(sa_lower_operand(l, op, "indices", &idx, &in[1]));
    SA_TRY(axis_of(l, op, 0, x->type.rank, &axis));
    sa_op_int(op, "batch_dims", &batch_dims);
    if (batch_dims < 0 || batch_dims > axis || batch_dims > idx->type.rank)
        return sa_lower_fail(l, op, SA_E_SHAPE, "batch_dims out of range");
    SaGather g = {.batch = 1, .outer = 1, .axis = (size_t)x->type.dim[axis], .count = 1, .inner = 1};
    for (int a = 0; a < x->type.rank; a++) {
        size_t d = (size_t)x->type.dim[a];
        *(a < batch_dims ? &g.batch : a < axis ? &g.outer : &g.inner) *= a == axis ? 1 : d;
    }
    for (int a = (int)batch_dims; a < idx->type.rank; a++)
        g.count *= (size_t)idx->type.dim[a];
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SaStep *s = sa_lower_step(l, SA_STEP_GATHER);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in[0];
    s->in[1] = in[1];
    s->n_in = 2;
    s->out = out;
    s->count = sa_count(&op->results[0]->type);
    s->u.gather = g;
    return SA_OK;
}
