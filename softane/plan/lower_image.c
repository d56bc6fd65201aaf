// SPDX-License-Identifier: MIT
/* lower_image.c - pools, transposed convolution, resizing, and what rearranges
 * the elements of images. Rearranging is one strided copy (or a view). */
#include <math.h>
#include <string.h>

#include "lower.h"

/* ============================== Windows =================================== */

/* The geometry of an operation that passed the check; leading axes are 1. */
static SaStatus pool_of(SaLower *l, const SaOp *op, SaPool *p) {
    SaWindow w;
    if (!sa_op_window(op, &w))
        return sa_lower_fail(l, op, SA_E_SHAPE, "the window does not fit");
    *p = (SaPool){.planes = 1};
    for (int i = 0; i < 3; i++) {
        int a = i - (3 - w.n);
        p->in[i] = a < 0 ? 1 : (size_t)w.in[a];
        p->out[i] = a < 0 ? 1 : (size_t)w.out[a];
        p->kernel[i] = a < 0 ? 1 : (size_t)w.kernel[a];
        p->stride[i] = a < 0 ? 1 : (size_t)w.stride[a];
        p->dilation[i] = a < 0 ? 1 : (size_t)w.dilation[a];
        p->before[i] = a < 0 ? 0 : (ptrdiff_t)w.before[a];
        p->after[i] = a < 0 ? 0 : (ptrdiff_t)w.after[a];
    }
    return SA_OK;
}

SaStatus sa_lower_pool(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in, out;
    SaPool p;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SA_TRY(pool_of(l, op, &p));
    p.planes = (size_t)(x->type.dim[0] * x->type.dim[1]);
    p.kind = op->id == SA_OP_MAX_POOL ? SA_POOL_MAX : op->id == SA_OP_AVG_POOL ? SA_POOL_MEAN : SA_POOL_L2;
    sa_op_bool(op, "exclude_padding_from_average", &p.exclude_padding);
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SaStep *s = sa_lower_step(l, SA_STEP_POOL);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->n_in = 1;
    s->out = out;
    s->count = sa_count(&op->results[0]->type);
    s->store = p.kind == SA_POOL_MAX ? SA_STORE_EXACT : sa_store_of(op->results[0]);
    s->u.pool = p;
    return SA_OK;
}

/* weight [C, O/g * taps] transposed times x [C, positions]: what every tap adds
 * for every output channel; then each is added where it belongs. */
SaStatus sa_lower_conv_transpose(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *w, *result = op->results[0];
    SaRef rx, rw, columns, out;
    SaPool p;
    int64_t groups = 1;
    size_t floats;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &rx));
    SA_TRY(sa_lower_operand(l, op, "weight", &w, &rw));
    SA_TRY(pool_of(l, op, &p));
    sa_op_int(op, "groups", &groups);
    size_t g = (size_t)groups, taps = p.kernel[0] * p.kernel[1] * p.kernel[2], at = p.in[0] * p.in[1] * p.in[2];
    size_t k = (size_t)x->type.dim[1] / g, m = (size_t)w->type.dim[1] * taps, images = (size_t)x->type.dim[0];
    if (!sa_mul_ok(images * g, m, &floats) || !sa_mul_ok(floats, at, &floats))
        return sa_lower_fail(l, op, SA_E_LIMIT, "a convolution is too large");
    SA_TRY(sa_lower_slot(l, floats, &columns));
    SaGemm product = {.n_batch = 2, .batch = {images, g}, .a_step = {0, k * m}, .b_step = {g * k * at, k * at},
                      .sums = result->type.dtype == SA_FP16,
                      .c_step = {g * m * at, m * at}, .g = {.ta = true, .m = m, .n = at, .k = k, .lda = m, .ldb = at, .ldc = at}};
    SA_TRY(sa_lower_gemm(l, op, product, rw, rx, columns, SA_STORE_EXACT));
    SA_TRY(sa_lower_result(l, result, &out));
    SaStep *s = sa_lower_step(l, SA_STEP_FOLD_BACK);
    if (!s)
        return SA_E_MEMORY;
    for (int i = 0; i < 3; i++) { /* seen from the convolution that leads back */
        size_t given = p.in[i];
        p.in[i] = p.out[i];
        p.out[i] = given;
    }
    p.planes = images * (size_t)result->type.dim[1];
    s->in[0] = columns;
    s->n_in = 1;
    s->out = out;
    s->count = sa_count(&result->type);
    s->store = result->type.dtype == SA_FP16 ? SA_STORE_PRODUCT : SA_STORE_EXACT;
    s->u.fold_back.w = p;
    return SA_OK;
}

/* ============================== Resizing ================================== */

SaAxis sa_axis_of(const SaType *t, int axis, size_t count) {
    SaAxis a = {.outer = 1, .len = (size_t)t->dim[axis], .inner = 1, .count = count};
    for (int i = 0; i < t->rank; i++)
        *(i < axis ? &a.outer : &a.inner) *= i == axis ? 1 : (size_t)t->dim[i];
    return a;
}

/* One axis of `t` to `count`: by index, or between two neighbours. */
static SaStatus resize_axis(SaLower *l, const SaType *t, int axis, size_t count, const char *sampling, SaRef in, SaRef out,
                            SaStore store) {
    SaAxis a = sa_axis_of(t, axis, count);
    SaRef table;
    float *d = NULL;
    SA_TRY(sa_lower_const(l, sampling ? 3 * count : count, &d, &table));
    for (size_t i = 0; i < count; i++) {
        if (!sampling) {
            d[i] = (float)(i * a.len / count);
            continue;
        }
        double at = sa_grid_point(sampling, (int64_t)i, (int64_t)a.len, (int64_t)count), low = floor(at);
        d[i] = (float)low;
        d[count + i] = (float)(low + 1 < (double)a.len ? low + 1 : low);
        d[2 * count + i] = (float)(at - low);
    }
    SaStep *s = sa_lower_step(l, sampling ? SA_STEP_LERP : SA_STEP_GATHER);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->in[1] = table;
    s->n_in = 2;
    s->out = out;
    s->count = a.outer * count * a.inner;
    s->store = store;
    if (sampling)
        s->u.lerp.a = a;
    else
        s->u.gather = (SaGather){.batch = 1, .outer = a.outer, .axis = a.len, .count = count, .inner = a.inner};
    return SA_OK;
}

/* Axis by axis; what is between them is not rounded. */
SaStatus sa_lower_resize(SaLower *l, const SaOp *op, int index) {
    const SaValue *x, *result = op->results[0];
    SaRef in, out;
    const char *mode = "LINEAR";
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    sa_op_string(op, "interpolation_mode", &mode);
    bool nearest = op->id == SA_OP_UPSAMPLE_NEAREST_NEIGHBOR || op->id == SA_OP_RESIZE_NEAREST_NEIGHBOR || mode[0] == 'N';
    const char *sampling = nearest ? NULL : sa_op_sampling(op);
    SaType t = x->type;
    int64_t dims = 2;
    sa_op_int(op, "resized_dims", &dims);
    bool touched[SA_MAX_RANK] = {false};
    int last = -1;
    for (int a = t.rank - (int)dims; a < t.rank; a++) {
        touched[a] = t.dim[a] != result->type.dim[a] || (sampling && sampling[0] == 'O'); /* OFFSET_CORNERS moves every axis */
        last = touched[a] ? a : last;
    }
    if (last < 0)
        return sa_lower_view(l, op, index);
    for (int a = 0; a <= last; a++) {
        if (!touched[a])
            continue;
        SaType next = t;
        next.dim[a] = result->type.dim[a];
        if (a == last)
            SA_TRY(sa_lower_result(l, result, &out));
        else
            SA_TRY(sa_lower_slot(l, sa_count(&next), &out));
        SaStore store = a == last && !nearest ? sa_store_of(result) : SA_STORE_EXACT;
        SA_TRY(resize_axis(l, &t, a, (size_t)next.dim[a], sampling, in, out, store));
        t = next;
        in = out;
    }
    return SA_OK;
}

/* ============================== Rearranging =============================== */

SaStatus sa_lower_crop(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    int64_t cut[2] = {0, 0};
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    SaCopy c = {.rank = x->type.rank};
    sa_dense_strides(&x->type, c.s_stride);
    for (int a = 0; a < c.rank; a++)
        c.dim[a] = (size_t)op->results[0]->type.dim[a];
    for (int i = 0; i < 2; i++) {
        sa_op_ints(op, i ? "crop_width" : "crop_height", cut, 2);
        c.s_offset += (ptrdiff_t)cut[0] * c.s_stride[c.rank - 2 + i];
    }
    return sa_lower_walk(l, op->results[0], in, c);
}

/* One axis of a walk. */
static void axis_add(SaCopy *c, int64_t dim, ptrdiff_t s_stride) {
    c->dim[c->rank] = (size_t)dim;
    c->s_stride[c->rank++] = s_stride;
}

/* Channels and blocks change places. [C] and [b, b] follow each other in the
 * channels in this order for pixel_*, in the other one for *_depth. */
SaStatus sa_lower_shuffle(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    bool pixel = op->id == SA_OP_PIXEL_SHUFFLE || op->id == SA_OP_PIXEL_UNSHUFFLE;
    bool deeper = op->id == SA_OP_SPACE_TO_DEPTH || op->id == SA_OP_PIXEL_UNSHUFFLE;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    const SaType *t = &x->type, *flat = deeper ? &op->results[0]->type : t; /* the one with many channels */
    const SaType *wide = deeper ? t : &op->results[0]->type;
    int64_t b = wide->dim[2] / flat->dim[2], channels = wide->dim[1];
    ptrdiff_t s[SA_MAX_RANK];
    sa_dense_strides(t, s);
    SaCopy c = {.rank = 0};
    axis_add(&c, t->dim[0], s[0]);
    if (deeper) { /* result [N, (C | b b) , H, W] */
        if (pixel)
            axis_add(&c, channels, s[1]);
        axis_add(&c, b, s[2]);
        axis_add(&c, b, s[3]);
        if (!pixel)
            axis_add(&c, channels, s[1]);
        axis_add(&c, flat->dim[2], s[2] * (ptrdiff_t)b);
        axis_add(&c, flat->dim[3], s[3] * (ptrdiff_t)b);
    } else { /* result [N, C, H, b, W, b] */
        ptrdiff_t row = s[1] * (ptrdiff_t)(pixel ? b : b * channels), column = s[1] * (ptrdiff_t)(pixel ? 1 : channels);
        axis_add(&c, channels, s[1] * (ptrdiff_t)(pixel ? b * b : 1));
        axis_add(&c, flat->dim[2], s[2]);
        axis_add(&c, b, row);
        axis_add(&c, flat->dim[3], s[3]);
        axis_add(&c, b, column);
    }
    return sa_lower_walk(l, op->results[0], in, c);
}

static void pairs_of(const SaOp *op, const char *key, int64_t out[4]) {
    const SaValue *v = sa_op_value(op, key);
    for (int i = 0; i < 4; i++)
        out[i] = ((const int32_t *)v->constant->data)[i];
}

/* x inside a larger image of zeros. */
static SaStatus zero_border(SaLower *l, const SaType *x, const int64_t edge[4], SaRef *ref, SaType *t) {
    SaRef out;
    *t = *x;
    t->dim[2] += edge[0] + edge[1];
    t->dim[3] += edge[2] + edge[3];
    SA_TRY(sa_lower_slot(l, sa_count(t), &out));
    SaStep *s = sa_lower_step(l, SA_STEP_FILL);
    if (!s)
        return SA_E_MEMORY;
    s->out = out;
    s->count = sa_count(t);
    ptrdiff_t dense[SA_MAX_RANK];
    SaCopy c = {.rank = 4};
    sa_dense_strides(t, dense);
    sa_dense_strides(x, c.s_stride);
    for (int a = 0; a < 4; a++) {
        c.dim[a] = (size_t)x->dim[a];
        c.d_stride[a] = dense[a];
    }
    c.d_offset = (ptrdiff_t)edge[0] * dense[2] + (ptrdiff_t)edge[2] * dense[3];
    SA_TRY(sa_lower_copy(l, *ref, out, c));
    *ref = out;
    return SA_OK;
}

SaStatus sa_lower_space_batch(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *result = op->results[0];
    SaRef in;
    int64_t b[2] = {1, 1}, edge[4];
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    sa_op_ints(op, "block_shape", b, 2);
    bool to_batch = op->id == SA_OP_SPACE_TO_BATCH;
    pairs_of(op, to_batch ? "paddings" : "crops", edge);
    ptrdiff_t s[SA_MAX_RANK];
    if (to_batch) { /* result [b0, b1, N, C, H / b0, W / b1] */
        SaType t = x->type;
        if (edge[0] || edge[1] || edge[2] || edge[3])
            SA_TRY(zero_border(l, &x->type, edge, &in, &t));
        sa_dense_strides(&t, s);
        SaCopy c = {.rank = 0};
        axis_add(&c, b[0], s[2]);
        axis_add(&c, b[1], s[3]);
        axis_add(&c, t.dim[0], s[0]);
        axis_add(&c, t.dim[1], s[1]);
        axis_add(&c, t.dim[2] / b[0], s[2] * (ptrdiff_t)b[0]);
        axis_add(&c, t.dim[3] / b[1], s[3] * (ptrdiff_t)b[1]);
        return sa_lower_walk(l, result, in, c);
    }
    /* the whole first: [N, C, H, b0, W, b1], then what is left of it */
    sa_dense_strides(&x->type, s);
    int64_t n = result->type.dim[0];
    SaType whole = result->type;
    SaCopy c = {.rank = 0}, part = {.rank = 4};
    axis_add(&c, n, s[0]);
    axis_add(&c, x->type.dim[1], s[1]);
    axis_add(&c, x->type.dim[2], s[2]);
    axis_add(&c, b[0], s[0] * (ptrdiff_t)(n * b[1]));
    axis_add(&c, x->type.dim[3], s[3]);
    axis_add(&c, b[1], s[0] * (ptrdiff_t)n);
    whole.dim[2] = x->type.dim[2] * b[0];
    whole.dim[3] = x->type.dim[3] * b[1];
    if (sa_type_equal(&whole, &result->type))
        return sa_lower_walk(l, result, in, c);
    SaRef all;
    SA_TRY(sa_lower_slot(l, sa_count(&whole), &all));
    ptrdiff_t step = 1;
    for (int i = c.rank - 1; i >= 0; i--) {
        c.d_stride[i] = step;
        step *= (ptrdiff_t)c.dim[i];
    }
    SA_TRY(sa_lower_copy(l, in, all, c));
    sa_dense_strides(&whole, part.s_stride);
    for (int a = 0; a < 4; a++)
        part.dim[a] = (size_t)result->type.dim[a];
    part.s_offset = (ptrdiff_t)edge[0] * part.s_stride[2] + (ptrdiff_t)edge[2] * part.s_stride[3];
    return sa_lower_walk(l, result, all, part);
}

SaStatus sa_lower_windows(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x;
    SaRef in;
    int64_t axis = 0, stride = 1;
    SA_TRY(sa_lower_operand(l, op, "x", &x, &in));
    sa_op_int(op, "axis", &axis);
    sa_op_int(op, "stride", &stride);
    axis += axis < 0 ? x->type.rank : 0;
    ptrdiff_t s[SA_MAX_RANK];
    sa_dense_strides(&x->type, s);
    SaCopy c = {.rank = 0};
    for (int a = 0; a < x->type.rank; a++) {
        axis_add(&c, op->results[0]->type.dim[a < axis ? a : a == axis ? axis : a + 1], s[a] * (ptrdiff_t)(a == axis ? stride : 1));
        if (a == axis)
            axis_add(&c, op->results[0]->type.dim[axis + 1], s[a]);
    }
    return sa_lower_walk(l, op->results[0], in, c);
}
