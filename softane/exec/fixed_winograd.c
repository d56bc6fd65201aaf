// SPDX-License-Identifier: MIT
/* fixed_winograd.c - dense 3x3 convolutions, stride 1, as the M5 family does
 * them: Winograd's F(2,3) along the width, in the engine's fixed point.
 *
 *   d0..d3  four neighbours of an input row, from column 2j - pad on
 *   V       fp16(d0 - d2), fp16(d1 + d2), fp16(d2 - d1), fp16(d1 - d3)
 *   U       g0, fp16((g0 + g1 + g2) / 2), fp16((g0 - g1 + g2) / 2), g2
 *   m_i     sum of U_i V_i over channels and the three rows, in fixed point
 *   y       m0 + m1 + m2 at column 2j, m1 - m2 - m3 at 2j + 1; rounded here
 *
 * The step that would make patches writes V into their slot, the product step
 * does the rest. Shapes: V [4][channel, row][y, j], U [4][c_out][channel, row]. */
#include <math.h>
#include <string.h>

#include "exec.h"

static bool asked_for(const SaRun *r) {
    return r->numerics == SA_NUMERICS_SILICON && (r->arithmetic & SA_RUN_WINOGRAD);
}

static size_t pairs_of(const SaConv *c) { return (c->out[2] + 1) / 2; }

/* ============================== Inputs ==================================== */

typedef struct {
    SaRun *run;
    const SaConv *c;
    const float *x;
    float *v;
} InputJob;

/* V of one input row, for all pairs of columns: v[i * step + j]. `row` holds
 * the row between zeros, 2 pairs + 2 values. */
static void transform_row(const SaKernels *k, const float *row, size_t pairs, float *v, size_t step) {
    for (size_t j = 0; j < pairs; j++) {
        const float *d = row + 2 * j;
        v[j] = d[0] - d[2];
        v[step + j] = d[1] + d[2];
        v[2 * step + j] = d[2] - d[1];
        v[3 * step + j] = d[1] - d[3];
    }
    for (size_t i = 0; i < 4; i++)
        k->round[SA_ROUND_SILICON](v + i * step, v + i * step, pairs);
}

/* One channel of one image as one row of the kernel sees it. */
static void input_chunk(void *context, size_t chunk) {
    const InputJob *job = context;
    const SaConv *c = job->c;
    size_t line = chunk % (3 * c->c_in), image = chunk / (3 * c->c_in), tap = line % 3;
    size_t pairs = pairs_of(c), w = c->in[2], pad = c->pad[2], step = 3 * c->c_in * c->out[1] * pairs;
    size_t width = 2 * pairs + 2, room = pad < width ? width - pad : 0;
    const float *x = job->x + (image * c->c_in + line / 3) * c->in[1] * w;
    float *v = job->v + image * 9 * c->c_in * c->out[1] * c->out[2] + line * c->out[1] * pairs;
    float *row = sa_pack_scratch(width);
    if (!row) {
        job->run->failed = true;
        return;
    }
    memset(row, 0, width * sizeof *row);
    for (size_t y = 0; y < c->out[1]; y++, v += pairs) {
        size_t at = y + tap; /* in the padded image */
        if (at < c->pad[1] || at - c->pad[1] >= c->in[1]) {
            for (size_t i = 0; i < 4; i++)
                memset(v + i * step, 0, pairs * sizeof *v);
            continue;
        }
        memcpy(row + (width - room), x + (at - c->pad[1]) * w, (w < room ? w : room) * sizeof *row);
        transform_row(job->run->k, row, pairs, v, step);
    }
}

bool sa_winograd_patches(SaRun *r, const SaStep *s) {
    const SaConv *c = &s->u.conv;
    if (!asked_for(r) || !c->winograd)
        return false;
    InputJob j = {.run = r, .c = c, .x = sa_run_at(r, s->in[0]), .v = sa_run_at(r, s->out)};
    sa_parallel(r->threads, c->n * c->c_in * 3, input_chunk, &j);
    return true;
}

/* ============================== Weights =================================== */

/* Double to float, what the rounding to fp16 must know kept: rounding to odd. */
static float odd(double y) {
    uint64_t u, low = 0x1fffffffu;
    memcpy(&u, &y, sizeof u);
    u = (u & ~low) | (u & low ? low + 1 : 0);
    memcpy(&y, &u, sizeof y);
    return (float)y;
}

enum { ROWS = 32, COLUMNS = 512 }; /* of one chunk of the product */

typedef struct {
    SaRun *run;
    const SaConv *c;
    const float *w, *v, *bias;
    float *u, *out;
    void (*round)(float *d, const float *s, size_t n);  /* NULL: rounded already */
    size_t m_parts, n_parts;
} ProductJob;

/* U of one output channel. */
static void weight_chunk(void *context, size_t o) {
    const ProductJob *j = context;
    size_t lines = 3 * j->c->c_in, step = j->c->c_out * lines;
    const float *g = j->w + o * 3 * lines;
    float *u = j->u + o * lines;
    for (size_t i = 0; i < lines; i++, g += 3) {
        double g0 = (double)g[0], g1 = (double)g[1], g2 = (double)g[2];
        u[i] = g[0];
        u[step + i] = odd((g0 + g1 + g2) * 0.5);
        u[2 * step + i] = odd((g0 - g1 + g2) * 0.5);
        u[3 * step + i] = g[2];
    }
    for (size_t i = 1; i < 3; i++)
        j->run->k->round[SA_ROUND_SILICON](u + i * step, u + i * step, lines);
}

/* ============================== Products ================================== */

/* raw [4][ROWS][COLUMNS] -> the results of one output channel, columns q0 ..
 * q0 + n - 1 of the (y, j) plane. */
static void combine(const ProductJob *job, const double *raw, size_t o, size_t q0, size_t n, float *y) {
    enum { STEP = ROWS * COLUMNS };
    const SaConv *c = job->c;
    double sum[COLUMNS];
    float even[COLUMNS], odd_ones[COLUMNS], bias = job->bias ? job->bias[o] : 0.0f;
    size_t pairs = pairs_of(c), w = c->out[2];
    for (size_t q = 0; q < n; q++)
        sum[q] = raw[q] + raw[STEP + q] + raw[2 * STEP + q];
    job->run->k->fixed_store(even, sum, bias, n);
    for (size_t q = 0; q < n; q++)
        sum[q] = raw[STEP + q] - raw[2 * STEP + q] - raw[3 * STEP + q];
    job->run->k->fixed_store(odd_ones, sum, bias, n);
    if (job->round) {
        job->round(even, even, n);
        job->round(odd_ones, odd_ones, n);
    }
    size_t line = q0 / pairs, j = q0 % pairs;
    for (size_t q = 0; q < n; q++) {
        float *d = y + line * w + 2 * j;
        d[0] = even[q];
        if (2 * j + 1 < w)
            d[1] = odd_ones[q];
        if (++j == pairs) {
            j = 0;
            line++;
        }
    }
}

static void product_chunk(void *context, size_t chunk) {
    const ProductJob *j = context;
    const SaConv *c = j->c;
    size_t plane = c->out[1] * c->out[2], lines = 3 * c->c_in, all = c->out[1] * pairs_of(c);
    size_t n_part = chunk % j->n_parts, m_part = chunk / j->n_parts % j->m_parts, image = chunk / j->n_parts / j->m_parts;
    size_t o = m_part * ROWS, q = n_part * COLUMNS;
    size_t m = c->c_out - o < ROWS ? c->c_out - o : ROWS, n = all - q < COLUMNS ? all - q : COLUMNS;
    enum { STEP = ROWS * COLUMNS };
    float *scratch = sa_pack_scratch((size_t)9 * STEP + j->run->k->fixed_pack_floats(ROWS));
    if (!scratch) {
        j->run->failed = true;
        return;
    }
    double *raw = (double *)(void *)scratch; /* then one product's float scratch, then its packing */
    for (size_t i = 0; i < 4; i++) {
        SaGemmArgs g = {.m = m, .n = n, .k = lines, .a = j->u + (i * c->c_out + o) * lines,
                        .b = j->v + image * 9 * c->c_in * plane + i * lines * all + q,
                        .c = scratch + (size_t)8 * STEP, .lda = lines, .ldb = all, .ldc = COLUMNS};
        SaFixedOut to = {.raw = raw + i * STEP, .ld_raw = COLUMNS};
        j->run->k->fixed(&g, &to, scratch + (size_t)9 * STEP);
    }
    for (size_t r = 0; r < m; r++)
        combine(j, raw + r * COLUMNS, o + r, q, n, j->out + (image * c->c_out + o + r) * plane);
}

bool sa_winograd_gemm(SaRun *r, const SaStep *s) {
    const SaConv *c = s->u.gemm.winograd;
    size_t bytes;
    if (!c || !asked_for(r))
        return false;
    ProductJob j = {.run = r, .c = c, .w = sa_run_at(r, s->in[0]), .v = sa_run_at(r, s->in[1]),
                    .bias = c->has_bias ? sa_run_at(r, s->in[2]) : NULL, .out = sa_run_at(r, s->out)};
    if (r->arithmetic & SA_RUN_FLUSH)
        j.round = r->k->round[sa_run_round(r, s->store)];
    j.m_parts = (c->c_out + ROWS - 1) / ROWS;
    j.n_parts = (c->out[1] * pairs_of(c) + COLUMNS - 1) / COLUMNS;
    j.u = sa_mul_ok(c->c_out * c->c_in, 12 * sizeof(float), &bytes) ? sa_malloc(bytes) : NULL;
    if (!j.u) {
        r->failed = true;
        return true;
    }
    sa_parallel(r->threads, c->c_out, weight_chunk, &j);
    sa_parallel(r->threads, c->n * j.m_parts * j.n_parts, product_chunk, &j);
    sa_free(j.u);
    return true;
}
