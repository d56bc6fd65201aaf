// SPDX-License-Identifier: MIT
/* lower_prod.c - conv, matmul and linear become one batched product each.
 *
 *   1x1 conv     W[O,I] x[I,S] per image and group, directly
 *   other conv   patches (im2col) first; few channels per group: a direct loop
 *   matmul       transposes are flags; a transpose next to it vanishes
 *   linear       x[rows,I] W[O,I]^T
 *
 * How a product is cut into chunks is decided here, from its shape and the
 * number of processors, never from the threads of a run: so results do not
 * depend on those. */
#include <string.h>

#include "../exec/exec.h"
#include "lower.h"

/* ============================== Chunks ==================================== */

/* A chunk should be worth some 20 us, and large products get two per thread so
 * that a core taken away costs little. Measured (m x n x k, two threads): four
 * chunks of 192 rows for 768x256x768 cost 2 % more than two halves (B is packed
 * for each); 256x256x256 is best in halves, batches of 256x256x64 as whole
 * heads. Rows are cut in multiples of the register tile. */
static const double CHUNK_MIN_FLOPS = 4e6, CHUNK_MAX_FLOPS = 2e8, LARGE_FLOPS_PER_THREAD = 4e7;
enum { ROW_GRAIN = 12, COLUMN_GRAIN = 64 };

static size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static size_t round_up(size_t a, size_t grain) { return ceil_div(a, grain) * grain; }

static void choose_chunks(SaGemm *g) {
    size_t m = g->g.m, n = g->g.n, want = (size_t)sa_parallel_width();
    double one = 2.0 * (double)m * (double)n * (double)g->g.k, all = one * (double)g->batches;
    if (all > (double)want * LARGE_FLOPS_PER_THREAD)
        want *= 2;
    g->m_chunk = m;
    g->n_chunk = n;
    g->b_chunk = 1;
    if (one < CHUNK_MIN_FLOPS) { /* several small products per chunk */
        double per = one > 0 ? CHUNK_MIN_FLOPS / one : 1e9;
        g->b_chunk = per < (double)g->batches ? (size_t)per + 1 : g->batches;
        return;
    }
    size_t parts = ceil_div(want, g->batches);
    if (all / (double)(parts * g->batches) > CHUNK_MAX_FLOPS)
        parts = (size_t)(one / CHUNK_MAX_FLOPS) + 1;
    size_t most = (size_t)(one / CHUNK_MIN_FLOPS);
    parts = parts > most ? most : parts;
    if (parts < 2)
        return;
    if (m >= 8 * ROW_GRAIN && m * 2 >= n)
        g->m_chunk = round_up(ceil_div(m, parts), ROW_GRAIN);
    else
        g->n_chunk = round_up(ceil_div(n, parts), COLUMN_GRAIN);
}

/* A matrix of weights stays fp16 when the rows that a chunk reads lie together: they are widened
 * as the chunk begins, and the fp32 copy is as large as the chunk, not as the matrix. That pays
 * when each weight meets enough columns. */
enum { HALF_MIN_COLUMNS = 32 };
static const size_t HALF_MAX_FLOATS = (size_t)4 << 20;

static SaStatus weight_ref(SaLower *l, const SaValue *v, SaGemm *g, bool is_b, SaRef *out) {
    SaGemm cut = *g;
    cut.batches = 1;
    for (int i = 0; i < cut.n_batch; i++)
        cut.batches *= cut.batch[i];
    choose_chunks(&cut);
    size_t rows = is_b ? cut.n_chunk : cut.m_chunk, columns = is_b ? cut.m_chunk : cut.n_chunk, floats;
    bool together = is_b ? g->g.tb && g->g.ldb == g->g.k : !g->g.ta && g->g.lda == g->g.k, half = false;
    if (together && g->half == SA_HALF_NONE && !g->winograd && columns >= HALF_MIN_COLUMNS &&
        sa_mul_ok(rows, g->g.k, &floats) && floats <= HALF_MAX_FLOATS)
        SA_TRY(sa_lower_half(l, v, &half, out));
    if (!half)
        return sa_lower_ref(l, v, out);
    g->half = is_b ? SA_HALF_B : SA_HALF_A;
    return SA_OK;
}

/* Fill in and append a product step. in[2] is the bias, if any. */
static SaStatus append_gemm(SaLower *l, const SaOp *op, SaGemm g, SaRef a, SaRef b, SaRef bias, SaRef out) {
    enum { BLAS_MAX = 0x7fffffff };
    if (g.g.m > BLAS_MAX || g.g.n > BLAS_MAX || g.g.k > BLAS_MAX || g.g.lda > BLAS_MAX || g.g.ldb > BLAS_MAX ||
        g.g.ldc > BLAS_MAX)
        return sa_lower_fail(l, op, SA_E_LIMIT, "a product is too large");
    g.batches = 1;
    for (int i = 0; i < g.n_batch; i++)
        g.batches *= g.batch[i];
    choose_chunks(&g);
    SaStep *s = sa_lower_step(l, SA_STEP_GEMM);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = a;
    s->in[1] = b;
    s->n_in = 2;
    if (g.bias != SA_BIAS_NONE) {
        s->in[2] = bias;
        s->n_in = 3;
    }
    s->out = out;
    s->store = op->results[0]->type.dtype == SA_FP16 ? SA_STORE_PRODUCT : SA_STORE_EXACT;
    s->count = sa_count(&op->results[0]->type);
    s->u.gemm = g;
    l->flops += 2.0 * (double)g.g.m * (double)g.g.n * (double)g.g.k * (double)g.batches;
    return SA_OK;
}

static SaStatus operand(SaLower *l, const SaOp *op, const char *key, const SaValue **v) {
    *v = sa_op_value(op, key);
    return *v ? SA_OK : sa_lower_fail(l, op, SA_E_OPERAND, "operand '%s' is missing", key);
}

static SaStatus optional_ref(SaLower *l, const SaOp *op, const char *key, bool *has, SaRef *ref) {
    const SaValue *v = sa_op_value(op, key);
    *has = v != NULL;
    *ref = (SaRef){.slot = -1};
    return v ? sa_lower_ref(l, v, ref) : SA_OK;
}

/* ============================== Convolution =============================== */

/* n integers of a const operand into the last n of three; `absent` otherwise. */
static void spatial(const SaOp *op, const char *key, int n, int64_t absent, size_t out[3]) {
    int64_t v[3] = {absent, absent, absent};
    if (sa_op_ints(op, key, v, 3) != n)
        for (int i = 0; i < 3; i++)
            v[i] = absent;
    for (int i = 0; i < 3; i++)
        out[i] = i < 3 - n ? 1 : (size_t)v[i - (3 - n)];
}

static SaStatus conv_geometry(SaLower *l, const SaOp *op, const SaType *x, const SaType *w, SaConv *c) {
    const SaType *y = &op->results[0]->type;
    int n = x->rank - 2;
    if (n < 1 || n > 3 || w->rank != x->rank || y->rank != x->rank)
        return sa_lower_fail(l, op, SA_E_SHAPE, "conv needs one to three spatial axes");
    int64_t groups = 1;
    sa_op_int(op, "groups", &groups);
    *c = (SaConv){.n = (size_t)x->dim[0], .c_in = (size_t)x->dim[1], .c_out = (size_t)w->dim[0], .groups = (size_t)groups};
    spatial(op, "strides", n, 1, c->stride);
    spatial(op, "dilations", n, 1, c->dilation);
    const char *type = "valid";
    sa_op_string(op, "pad_type", &type);
    int64_t pad[6] = {0};
    sa_op_ints(op, "pad", pad, 6);
    for (int i = 0; i < 3; i++) {
        int a = i - (3 - n);
        c->in[i] = a >= 0 ? (size_t)x->dim[2 + a] : 1;
        c->out[i] = a >= 0 ? (size_t)y->dim[2 + a] : 1;
        c->kernel[i] = a >= 0 ? (size_t)w->dim[2 + a] : 1;
        if (a >= 0 && strcmp(type, "custom") == 0)
            c->pad[i] = (size_t)pad[2 * a];
        size_t reach = (c->out[i] - 1) * c->stride[i] + c->dilation[i] * (c->kernel[i] - 1) + 1;
        size_t missing = reach > c->in[i] ? reach - c->in[i] : 0;
        if (a >= 0 && strcmp(type, "same") == 0)
            c->pad[i] = missing / 2; /* the odd one goes behind */
        if (a >= 0 && strcmp(type, "same_lower") == 0)
            c->pad[i] = missing - missing / 2;
    }
    if (groups < 1 || c->c_in % c->groups || c->c_out % c->groups || w->dim[1] * groups != x->dim[1])
        return sa_lower_fail(l, op, SA_E_SHAPE, "groups do not fit the channels");
    return SA_OK;
}

static bool is_pointwise(const SaConv *c) {
    for (int i = 0; i < 3; i++)
        if (c->kernel[i] != 1 || c->stride[i] != 1 || c->pad[i] != 0 || c->out[i] != c->in[i])
            return false;
    return true;
}

/* Dense, 3x3, stride 1: what one family of chips does by F(2,3). One column
 * would not leave room for the transform in the slot of the patches. */
static bool fits_winograd(const SaConv *c) {
    return c->groups == 1 && c->in[0] == 1 && c->out[0] == 1 && c->kernel[0] == 1 && c->kernel[1] == 3 && c->kernel[2] == 3 &&
           c->stride[1] == 1 && c->stride[2] == 1 && c->dilation[1] == 1 && c->dilation[2] == 1 && c->out[2] > 1;
}

static size_t volume(const size_t v[3]) { return v[0] * v[1] * v[2]; }

/* x -> [n, c_in * taps, positions]: one row per column of the weight matrix. */
static SaStatus append_patches(SaLower *l, const SaConv *c, SaRef x, SaRef *out) {
    size_t floats;
    if (!sa_mul_ok(c->n * c->c_in, volume(c->kernel), &floats) || !sa_mul_ok(floats, volume(c->out), &floats))
        return sa_lower_fail(l, NULL, SA_E_LIMIT, "a convolution is too large");
    SA_TRY(sa_lower_slot(l, floats, out));
    SaStep *s = sa_lower_step(l, SA_STEP_PATCHES);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = x;
    s->n_in = 1;
    s->out = *out;
    s->count = floats;
    s->u.conv = *c;
    return SA_OK;
}

/* Each output channel sees few inputs, or few outputs share them: a matrix
 * product would be all edges. */
static SaStatus append_direct(SaLower *l, const SaOp *op, const SaConv *c, SaRef x, SaRef w, SaRef bias, SaRef out) {
    SaStep *s = sa_lower_step(l, SA_STEP_DIRECT);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = x;
    s->in[1] = w;
    s->in[2] = bias;
    s->n_in = c->has_bias ? 3 : 2;
    s->out = out;
    s->store = op->results[0]->type.dtype == SA_FP16 ? SA_STORE_PRODUCT : SA_STORE_EXACT;
    s->count = sa_count(&op->results[0]->type);
    s->u.conv = *c;
    l->flops += 2.0 * (double)s->count * (double)(c->c_in / c->groups * volume(c->kernel));
    return SA_OK;
}

SaStatus sa_lower_conv(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *w;
    SaConv c;
    SaRef rx, rw, bias, out;
    SA_TRY(operand(l, op, "x", &x));
    SA_TRY(operand(l, op, "weight", &w));
    SA_TRY(conv_geometry(l, op, &x->type, &w->type, &c));
    SA_TRY(sa_lower_ref(l, x, &rx));
    SA_TRY(optional_ref(l, op, "bias", &c.has_bias, &bias));
    size_t taps = volume(c.kernel), k = c.c_in / c.groups * taps, m = c.c_out / c.groups, n = volume(c.out);
    if (c.groups > 1 && (m < 4 || k < 4)) {
        SA_TRY(sa_lower_ref(l, w, &rw));
        SA_TRY(sa_lower_result(l, op->results[0], &out));
        return append_direct(l, op, &c, rx, rw, bias, out);
    }
    c.winograd = fits_winograd(&c) && op->results[0]->type.dtype == SA_FP16;
    if (!is_pointwise(&c))
        SA_TRY(append_patches(l, &c, rx, &rx));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    SaGemm g = {.n_batch = 2, .batch = {c.n, c.groups}, .a_step = {0, m * k}, .b_step = {c.groups * k * n, k * n},
                .c_step = {c.c_out * n, m * n}, .g = {.m = m, .n = n, .k = k, .lda = k, .ldb = n, .ldc = n},
                .bias = c.has_bias ? SA_BIAS_ROW : SA_BIAS_NONE, .bias_step = m};
    if (c.winograd) {
        SaConv *kept = sa_arena_alloc(l->arena, sizeof *kept);
        if (!kept)
            return SA_E_MEMORY;
        *kept = c;
        g.winograd = kept;
    }
    SA_TRY(weight_ref(l, w, &g, false, &rw));
    return append_gemm(l, op, g, rw, rx, bias, out);
}

/* ============================== Matmul, linear ============================ */

/* Batch axes of x and y (all but the last two), broadcast to those of the
 * result; neighbours merged. False when more than three remain. */
static bool batch_axes(SaGemm *g, const SaType *x, const SaType *y, const int64_t *out, int n_out) {
    size_t x_step = (size_t)(x->dim[x->rank - 1] * x->dim[x->rank - 2]);
    size_t y_step = (size_t)(y->dim[y->rank - 1] * y->dim[y->rank - 2]), c_step = g->g.m * g->g.n;
    size_t dim[SA_MAX_RANK], xs[SA_MAX_RANK], ys[SA_MAX_RANK], cs[SA_MAX_RANK];
    int n = 0; /* from the innermost outwards */
    for (int i = n_out - 1; i >= 0; i--) {
        int ax = i - n_out + x->rank - 2, ay = i - n_out + y->rank - 2;
        size_t dx = ax >= 0 ? (size_t)x->dim[ax] : 1, dy = ay >= 0 ? (size_t)y->dim[ay] : 1, d = (size_t)out[i];
        if ((dx != 1 && dx != d) || (dy != 1 && dy != d))
            return false;
        if (d > 1) {
            size_t sx = dx > 1 ? x_step : 0, sy = dy > 1 ? y_step : 0;
            if (n > 0 && sx == xs[n - 1] * dim[n - 1] && sy == ys[n - 1] * dim[n - 1]) {
                dim[n - 1] *= d;
            } else {
                dim[n] = d;
                xs[n] = sx;
                ys[n] = sy;
                cs[n++] = c_step;
            }
        }
        x_step *= dx;
        y_step *= dy;
        c_step *= d;
    }
    for (int i = 0; i < n && n <= 3; i++) {
        g->batch[i] = dim[n - 1 - i];
        g->a_step[i] = xs[n - 1 - i];
        g->b_step[i] = ys[n - 1 - i];
        g->c_step[i] = cs[n - 1 - i];
    }
    g->n_batch = n;
    return n <= 3;
}

/* One left operand for many right ones that follow each other is one product
 * only when C's batches follow too; rows of A can always be joined when B is
 * the same for all of them. */
static void join_batch_into_rows(SaGemm *g) {
    if (g->n_batch == 1 && g->b_step[0] == 0 && !g->g.ta && g->a_step[0] == g->g.m * g->g.lda &&
        g->c_step[0] == g->g.m * g->g.ldc) {
        g->g.m *= g->batch[0];
        g->n_batch = 0;
    }
}

/* C^T = B^T A^T: the same product with its result transposed. */
static void flip(SaGemm *g, const SaValue **a, const SaValue **b) {
    SaGemm o = *g;
    const SaValue *was = *a;
    *a = *b;
    *b = was;
    g->g.m = o.g.n;
    g->g.n = o.g.m;
    g->g.ta = !o.g.tb;
    g->g.tb = !o.g.ta;
    g->g.lda = o.g.ldb;
    g->g.ldb = o.g.lda;
    g->g.ldc = o.g.m;
    memcpy(g->a_step, o.b_step, sizeof o.b_step);
    memcpy(g->b_step, o.a_step, sizeof o.a_step);
}

/* A matmul operand, read from before a swap of its last two axes if marked.
 * A vector becomes a matrix of one row (x) or one column (y). */
static SaStatus matmul_operand(SaLower *l, const SaOp *op, const char *key, bool swapped, bool is_y, bool *transposed,
                               SaType *type, const SaValue **out) {
    const SaValue *v;
    char flag[16] = "transpose_x";
    flag[10] = key[0];
    SA_TRY(operand(l, op, key, &v));
    *transposed = false;
    sa_op_bool(op, flag, transposed);
    if (swapped) {
        SA_TRY(operand(l, v->producer, "x", &v));
        *transposed = !*transposed;
    }
    *type = v->type;
    if (type->rank == 1) {
        *type = (SaType){.dtype = v->type.dtype, .rank = 2, .dim = {1, v->type.dim[0]}};
        *transposed = is_y;
    }
    if (type->rank < 2)
        return sa_lower_fail(l, op, SA_E_SHAPE, "operand '%s' is a scalar", key);
    *out = v;
    return SA_OK;
}

SaStatus sa_lower_matmul(SaLower *l, const SaOp *op, int index) {
    SaType x, y;
    const SaValue *va, *vb;
    SaRef a, b, out;
    bool tx, ty;
    uint8_t marks = l->marks[index];
    SA_TRY(matmul_operand(l, op, "x", (marks & SA_MARK_X_SWAPPED) != 0, false, &tx, &x, &va));
    SA_TRY(matmul_operand(l, op, "y", (marks & SA_MARK_Y_SWAPPED) != 0, true, &ty, &y, &vb));
    int64_t x0 = x.dim[x.rank - 2], x1 = x.dim[x.rank - 1], y0 = y.dim[y.rank - 2], y1 = y.dim[y.rank - 1];
    SaGemm g = {.g = {.ta = tx, .tb = ty, .m = (size_t)(tx ? x1 : x0), .k = (size_t)(tx ? x0 : x1),
                      .n = (size_t)(ty ? y0 : y1), .lda = (size_t)x1, .ldb = (size_t)y1}};
    g.g.ldc = g.g.n;
    if ((size_t)(ty ? y1 : y0) != g.g.k)
        return sa_lower_fail(l, op, SA_E_SHAPE, "the inner lengths differ");
    int64_t batch[SA_MAX_RANK];
    int n = (x.rank > y.rank ? x.rank : y.rank) - 2;
    for (int i = 0; i < n; i++) {
        int ax = i - n + x.rank - 2, ay = i - n + y.rank - 2;
        int64_t dx = ax >= 0 ? x.dim[ax] : 1, dy = ay >= 0 ? y.dim[ay] : 1;
        batch[i] = dx > dy ? dx : dy;
    }
    if (!batch_axes(&g, &x, &y, batch, n))
        return sa_lower_fail(l, op, SA_E_SHAPE, "the batch axes do not broadcast");
    join_batch_into_rows(&g);
    if (marks & SA_MARK_FLIPPED)
        flip(&g, &va, &vb);
    SA_TRY(weight_ref(l, va, &g, false, &a));
    SA_TRY(weight_ref(l, vb, &g, true, &b));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    return append_gemm(l, op, g, a, b, (SaRef){.slot = -1}, out);
}

SaStatus sa_lower_linear(SaLower *l, const SaOp *op, int index) {
    (void)index;
    const SaValue *x, *w;
    SaRef rx, rw, bias, out;
    bool has_bias;
    SA_TRY(operand(l, op, "x", &x));
    SA_TRY(operand(l, op, "weight", &w));
    if (w->type.rank != 2 || x->type.rank < 1 || x->type.dim[x->type.rank - 1] != w->type.dim[1])
        return sa_lower_fail(l, op, SA_E_SHAPE, "weight does not fit x");
    SA_TRY(sa_lower_ref(l, x, &rx));
    SA_TRY(optional_ref(l, op, "bias", &has_bias, &bias));
    SA_TRY(sa_lower_result(l, op->results[0], &out));
    size_t k = (size_t)w->type.dim[1], n = (size_t)w->type.dim[0];
    SaGemm g = {.g = {.tb = true, .m = sa_count(&x->type) / k, .n = n, .k = k, .lda = k, .ldb = k, .ldc = n},
                .bias = has_bias ? SA_BIAS_COLUMN : SA_BIAS_NONE};
    SA_TRY(weight_ref(l, w, &g, true, &rw));
    return append_gemm(l, op, g, rx, rw, bias, out);
}

/* See lower.h. */
SaStatus sa_lower_gemm(SaLower *l, const SaOp *op, SaGemm g, SaRef a, SaRef b, SaRef out, SaStore store) {
    SA_TRY(append_gemm(l, op, g, a, b, (SaRef){.slot = -1}, out));
    l->steps[l->n_steps - 1].store = store;
    l->steps[l->n_steps - 1].count = g.g.m * g.g.n;
    for (int i = 0; i < g.n_batch; i++)
        l->steps[l->n_steps - 1].count *= g.batch[i];
    return SA_OK;
}
