// SPDX-License-Identifier: MIT
/* step_product.c - products, and what convolutions need around them.
 *
 * A chunk is a rectangle of C in one batch (or several small batches): one
 * call of sa_gemm, then bias and rounding while the rectangle is in cache. */
#include <string.h>

#include "exec.h"

/* ============================== Products ================================== */

typedef struct {
    SaRun *run;
    const SaGemm *g;
    const float *a, *b, *bias;
    float *c;
    void (*round)(float *d, const float *s, size_t n);
    size_t m_parts, n_parts;
    bool fixed;          /* the engine's arithmetic: bias and rounding are inside the product */
} GemmJob;

/* Bias, then the one rounding, over rows of the rectangle. */
static void finish(const GemmJob *j, float *c, const float *bias, size_t m0, size_t m, size_t n0, size_t n) {
    const SaGemm *g = j->g;
    const SaKernels *k = j->run->k;
    const float limit = sa_run_limit(j->run);
    if (g->bias == SA_BIAS_NONE && n == g->g.ldc) { /* one run */
        sa_limit(c, m * n, limit);
        if (j->round)
            j->round(c, c, m * n);
        return;
    }
    for (size_t i = 0; i < m; i++, c += g->g.ldc) {
        if (g->bias == SA_BIAS_ROW)
            k->binary_vs[SA_B_ADD](c, c, bias + m0 + i, n);
        else if (g->bias == SA_BIAS_COLUMN)
            k->binary_vv[SA_B_ADD](c, c, bias + n0, n);
        sa_limit(c, n, limit);
        if (j->round)
            j->round(c, c, n);
    }
}

/* The rows of a constant fp16 matrix that a rectangle needs, as fp32 in scratch of this thread. */
static const float *widened(const GemmJob *j, const float *halves, size_t at, size_t floats) {
    float *d = sa_scratch(SA_SCRATCH_WIDE, floats);
    if (d)
        j->run->k->half_to_float(d, (const uint16_t *)(const void *)halves + at, floats);
    else
        j->run->failed = true;
    return d;
}

static void rectangle(const GemmJob *j, size_t batch, size_t part) {
    const SaGemm *g = j->g;
    size_t m0 = part / j->n_parts * g->m_chunk, n0 = part % j->n_parts * g->n_chunk;
    size_t a_at = 0, b_at = 0, c_at = 0, inner = 0, rest = batch;
    for (int i = g->n_batch - 1; i >= 0; i--) {
        size_t at = rest % g->batch[i];
        rest /= g->batch[i];
        inner = i == g->n_batch - 1 ? at : inner;
        a_at += at * g->a_step[i];
        b_at += at * g->b_step[i];
        c_at += at * g->c_step[i];
    }
    SaGemmArgs x = g->g;
    x.m = g->g.m - m0 < g->m_chunk ? g->g.m - m0 : g->m_chunk;
    x.n = g->g.n - n0 < g->n_chunk ? g->g.n - n0 : g->n_chunk;
    a_at += x.ta ? m0 : m0 * x.lda;
    b_at += x.tb ? n0 * x.ldb : n0;
    x.a = g->half == SA_HALF_A ? widened(j, j->a, a_at, x.m * x.k) : j->a + a_at;
    x.b = g->half == SA_HALF_B ? widened(j, j->b, b_at, x.n * x.k) : j->b + b_at;
    if (!x.a || !x.b)
        return;
    x.c = j->c + c_at + m0 * x.ldc + n0;
    const float *bias = j->bias ? j->bias + inner * g->bias_step : NULL;
    SaFixedOut o = {.sums = g->sums, .row_bias = g->bias == SA_BIAS_ROW ? bias + m0 : NULL,
                    .column_bias = g->bias == SA_BIAS_COLUMN ? bias + n0 : NULL};
    if (!(j->fixed ? sa_fixed_gemm(j->run->k, &x, &o) : sa_gemm(j->run->k, &x))) {
        j->run->failed = true;
        return;
    }
    if (!j->fixed)
        finish(j, x.c, bias, m0, x.m, n0, x.n);
    else if ((j->run->arithmetic & SA_RUN_FLUSH) && !g->sums)
        for (size_t i = 0; i < x.m; i++)
            j->round(x.c + i * x.ldc, x.c + i * x.ldc, x.n);
}

static void gemm_chunk(void *context, size_t chunk) {
    const GemmJob *j = context;
    const SaGemm *g = j->g;
    size_t parts = j->m_parts * j->n_parts;
    if (g->b_chunk == 1) {
        rectangle(j, chunk / parts, chunk % parts);
        return;
    }
    size_t first = chunk * g->b_chunk, last = first + g->b_chunk; /* whole small products */
    for (size_t b = first; b < last && b < g->batches; b++)
        rectangle(j, b, 0);
}

void sa_step_gemm(SaRun *r, const SaStep *s) {
    const SaGemm *g = &s->u.gemm;
    if (sa_winograd_gemm(r, s))
        return;
    SaRound round = sa_run_round(r, s->store);
    GemmJob j = {.run = r, .g = g, .a = sa_run_at(r, s->in[0]), .b = sa_run_at(r, s->in[1]),
                 .bias = g->bias == SA_BIAS_NONE ? NULL : sa_run_at(r, s->in[2]), .c = sa_run_at(r, s->out),
                 .round = round == SA_ROUND_NONE ? NULL : r->k->round[round]};
    j.m_parts = (g->g.m + g->m_chunk - 1) / g->m_chunk;
    j.n_parts = (g->g.n + g->n_chunk - 1) / g->n_chunk;
    j.fixed = r->numerics == SA_NUMERICS_SILICON && (s->store == SA_STORE_PRODUCT || g->sums);
    size_t groups = (g->batches + g->b_chunk - 1) / g->b_chunk;
    sa_parallel(r->threads, groups * j.m_parts * j.n_parts, gemm_chunk, &j);
}

/* ============================== Windows =================================== */

/* Outputs o of one axis whose input o * stride + tap * dilation - pad exists:
 * [*lo, *hi). *first is the input of *lo. */
static void valid_range(const SaConv *c, int axis, size_t tap, size_t *lo, size_t *hi, size_t *first) {
    ptrdiff_t shift = (ptrdiff_t)(tap * c->dilation[axis]) - (ptrdiff_t)c->pad[axis];
    ptrdiff_t step = (ptrdiff_t)c->stride[axis], in = (ptrdiff_t)c->in[axis], out = (ptrdiff_t)c->out[axis];
    ptrdiff_t from = shift < 0 ? (-shift + step - 1) / step : 0;
    ptrdiff_t to = in > shift ? (in - shift + step - 1) / step : 0;
    from = from > out ? out : from;
    to = to > out ? out : to < from ? from : to;
    *lo = (size_t)from;
    *hi = (size_t)to;
    *first = to > from ? (size_t)(from * step + shift) : 0;
}

typedef struct {
    SaRun *run;
    const SaConv *c;
    const float *x, *w, *bias;
    float *out;
    void (*round)(float *d, const float *s, size_t n);
    size_t per_chunk, total;
} ConvJob;

/* One line of patches: the input of one channel as one tap sees it. */
static void patch_line(const SaConv *c, const float *x, float *d, size_t t0, size_t t1, size_t t2) {
    size_t lo[3], hi[3], first[3], w = c->out[2];
    valid_range(c, 0, t0, &lo[0], &hi[0], &first[0]);
    valid_range(c, 1, t1, &lo[1], &hi[1], &first[1]);
    valid_range(c, 2, t2, &lo[2], &hi[2], &first[2]);
    for (size_t i = 0; i < c->out[0]; i++)
        for (size_t j = 0; j < c->out[1]; j++, d += w) {
            if (i < lo[0] || i >= hi[0] || j < lo[1] || j >= hi[1] || lo[2] == hi[2]) {
                memset(d, 0, w * sizeof *d);
                continue;
            }
            size_t plane = first[0] + (i - lo[0]) * c->stride[0], row = first[1] + (j - lo[1]) * c->stride[1];
            const float *s = x + (plane * c->in[1] + row) * c->in[2] + first[2];
            memset(d, 0, lo[2] * sizeof *d);
            memset(d + hi[2], 0, (w - hi[2]) * sizeof *d);
            if (c->stride[2] == 1) {
                memcpy(d + lo[2], s, (hi[2] - lo[2]) * sizeof *d);
                continue;
            }
            for (size_t o = lo[2]; o < hi[2]; o++)
                d[o] = s[(o - lo[2]) * c->stride[2]];
        }
}

static void patches_chunk(void *context, size_t chunk) {
    const ConvJob *j = context;
    const SaConv *c = j->c;
    const size_t *k = c->kernel;
    size_t taps = k[0] * k[1] * k[2], out = c->out[0] * c->out[1] * c->out[2], in = c->in[0] * c->in[1] * c->in[2];
    size_t last = (chunk + 1) * j->per_chunk < j->total ? (chunk + 1) * j->per_chunk : j->total;
    for (size_t line = chunk * j->per_chunk; line < last; line++) {
        size_t t = line % taps;
        patch_line(c, j->x + line / taps * in, j->out + line * out, t / (k[1] * k[2]), t / k[2] % k[1], t % k[2]);
    }
}

void sa_step_patches(SaRun *r, const SaStep *s) {
    const SaConv *c = &s->u.conv;
    size_t out = c->out[0] * c->out[1] * c->out[2];
    if (sa_winograd_patches(r, s))
        return;
    ConvJob j = {.run = r, .c = c, .x = sa_run_at(r, s->in[0]), .out = sa_run_at(r, s->out)};
    j.total = s->count / out;
    j.per_chunk = sa_units_per_chunk(out);
    sa_parallel(r->threads, (j.total + j.per_chunk - 1) / j.per_chunk, patches_chunk, &j);
}

/* ============================== Direct ==================================== */

/* Add weight times what one tap sees of one input channel. */
static void add_tap(const SaKernels *k, const SaConv *c, float *y, const float *x, float w, size_t t0, size_t t1, size_t t2) {
    size_t lo[3], hi[3], first[3];
    valid_range(c, 0, t0, &lo[0], &hi[0], &first[0]);
    valid_range(c, 1, t1, &lo[1], &hi[1], &first[1]);
    valid_range(c, 2, t2, &lo[2], &hi[2], &first[2]);
    for (size_t i = lo[0]; i < hi[0]; i++)
        for (size_t j = lo[1]; j < hi[1]; j++) {
            size_t plane = first[0] + (i - lo[0]) * c->stride[0], row = first[1] + (j - lo[1]) * c->stride[1];
            k->axpy(y + (i * c->out[1] + j) * c->out[2] + lo[2], x + (plane * c->in[1] + row) * c->in[2] + first[2], w,
                    c->stride[2], hi[2] - lo[2]);
        }
}

/* One output channel of one image in fixed point: its patches, then a product
 * of one row. */
static void direct_fixed_chunk(void *context, size_t chunk) {
    const ConvJob *j = context;
    const SaConv *c = j->c;
    const size_t *t = c->kernel;
    size_t taps = t[0] * t[1] * t[2], out = c->out[0] * c->out[1] * c->out[2], in = c->in[0] * c->in[1] * c->in[2];
    size_t image = chunk / c->c_out, o = chunk % c->c_out, ins = c->c_in / c->groups, group = o / (c->c_out / c->groups);
    size_t k = ins * taps, room = (k * out + 15) & ~(size_t)15;
    float *y = j->out + chunk * out;
    float *patches = sa_pack_scratch(room + j->run->k->fixed_pack_floats(1));
    if (!patches) {
        j->run->failed = true;
        return;
    }
    const float *x = j->x + (image * c->c_in + group * ins) * in;
    for (size_t q = 0; q < k; q++) {
        size_t tap = q % taps;
        patch_line(c, x + q / taps * in, patches + q * out, tap / (t[1] * t[2]), tap / t[2] % t[1], tap % t[2]);
    }
    SaGemmArgs g = {.m = 1, .n = out, .k = k, .a = j->w + o * k, .b = patches, .c = y, .lda = k, .ldb = out, .ldc = out};
    SaFixedOut to = {.row_bias = j->bias ? j->bias + o : NULL};
    j->run->k->fixed(&g, &to, patches + room);
    if (j->run->arithmetic & SA_RUN_FLUSH)
        j->round(y, y, out);
}

/* One output channel of one image. */
static void direct_chunk(void *context, size_t chunk) {
    const ConvJob *j = context;
    const SaConv *c = j->c;
    const SaKernels *k = j->run->k;
    const size_t *t = c->kernel;
    size_t taps = t[0] * t[1] * t[2], out = c->out[0] * c->out[1] * c->out[2], in = c->in[0] * c->in[1] * c->in[2];
    size_t image = chunk / c->c_out, o = chunk % c->c_out, ins = c->c_in / c->groups, group = o / (c->c_out / c->groups);
    float *y = j->out + chunk * out;
    memset(y, 0, out * sizeof *y);
    for (size_t i = 0; i < ins; i++) {
        const float *x = j->x + (image * c->c_in + group * ins + i) * in, *w = j->w + (o * ins + i) * taps;
        for (size_t q = 0; q < taps; q++)
            add_tap(k, c, y, x, w[q], q / (t[1] * t[2]), q / t[2] % t[1], q % t[2]);
    }
    if (j->bias)
        k->binary_vs[SA_B_ADD](y, y, j->bias + o, out);
    sa_limit(y, out, sa_run_limit(j->run));
    if (j->round)
        j->round(y, y, out);
}

void sa_step_direct(SaRun *r, const SaStep *s) {
    const SaConv *c = &s->u.conv;
    SaRound round = sa_run_round(r, s->store);
    ConvJob j = {.run = r, .c = c, .x = sa_run_at(r, s->in[0]), .w = sa_run_at(r, s->in[1]),
                 .bias = c->has_bias ? sa_run_at(r, s->in[2]) : NULL, .out = sa_run_at(r, s->out),
                 .round = round == SA_ROUND_NONE ? NULL : r->k->round[round]};
    bool fixed = r->numerics == SA_NUMERICS_SILICON && s->store == SA_STORE_PRODUCT;
    sa_parallel(r->threads, c->n * c->c_out, fixed ? direct_fixed_chunk : direct_chunk, &j);
}
