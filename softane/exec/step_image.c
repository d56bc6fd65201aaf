// SPDX-License-Identifier: MIT
/* step_image.c - pools, the second half of conv_transpose, linear resizing and
 * local response normalisation.
 *
 * A window is walked tap by tap: each tap adds to (or competes with) a whole row
 * of results, so the inner loop runs along the width. Chunks are planes or rows;
 * every result is computed by one chunk, in an order that the shape decides. */
#include <math.h>
#include <string.h>

#include "exec.h"

/* ============================== Windows =================================== */

/* Outputs o of one axis whose input o * stride + tap * dilation - before exists:
 * [lo, hi); `first` is the input of lo. */
typedef struct {
    size_t lo, hi, first;
} Span;

static Span span_of(const SaPool *p, int axis, size_t tap) {
    ptrdiff_t shift = (ptrdiff_t)(tap * p->dilation[axis]) - p->before[axis], step = (ptrdiff_t)p->stride[axis];
    ptrdiff_t in = (ptrdiff_t)p->in[axis], out = (ptrdiff_t)p->out[axis];
    ptrdiff_t lo = shift < 0 ? (step - 1 - shift) / step : 0, hi = in > shift ? (in - shift + step - 1) / step : 0;
    hi = hi < out ? hi : out;
    if (lo >= hi)
        return (Span){0, 0, 0};
    return (Span){(size_t)lo, (size_t)hi, (size_t)(lo * step + shift)};
}

/* One row of results, `n` of them, from inputs `step` apart. */
static void pool_row(const SaKernels *k, const SaPool *p, float *d, const float *x, size_t step, size_t n) {
    if (p->kind == SA_POOL_L2) {
        for (size_t i = 0; i < n; i++)
            d[i] += x[i * step] * x[i * step];
    } else if (step == 1) {
        k->binary_vv[p->kind == SA_POOL_MAX ? SA_B_MAX : SA_B_ADD](d, d, x, n);
    } else if (p->kind == SA_POOL_MAX) {
        for (size_t i = 0; i < n; i++)
            d[i] = d[i] > x[i * step] ? d[i] : x[i * step];
    } else {
        for (size_t i = 0; i < n; i++)
            d[i] += x[i * step];
    }
}

/* All that one tap contributes to a plane. */
static void pool_tap(const SaKernels *k, const SaPool *p, float *d, const float *x, const Span s[3]) {
    for (size_t i = s[0].lo; i < s[0].hi; i++)
        for (size_t j = s[1].lo; j < s[1].hi; j++) {
            size_t plane = s[0].first + (i - s[0].lo) * p->stride[0], row = s[1].first + (j - s[1].lo) * p->stride[1];
            pool_row(k, p, d + (i * p->out[1] + j) * p->out[2] + s[2].lo,
                     x + (plane * p->in[1] + row) * p->in[2] + s[2].first, p->stride[2], s[2].hi - s[2].lo);
        }
}

/* Taps of the window at o that count for its mean: inside the input, or inside
 * the input and its padding. */
static size_t taps_inside(const SaPool *p, int axis, size_t o) {
    ptrdiff_t in = (ptrdiff_t)p->in[axis], lo = 0, hi = in;
    size_t n = 0;
    if (!p->exclude_padding) {
        lo = -p->before[axis];
        hi = in + p->after[axis];
    }
    for (size_t t = 0; t < p->kernel[axis]; t++) {
        ptrdiff_t at = (ptrdiff_t)(o * p->stride[axis] + t * p->dilation[axis]) - p->before[axis];
        n += at >= lo && at < hi;
    }
    return n;
}

typedef struct {
    SaRun *run;
    const SaStep *step;
    const float *x, *table;
    float *out;
    void (*round)(float *d, const float *s, size_t n); /* NULL: nothing to do */
    size_t units, per_chunk;
} Job;

static Job job_of(SaRun *r, const SaStep *s, size_t units, size_t each) {
    SaRound round = sa_run_round(r, s->store);
    return (Job){.run = r, .step = s, .x = sa_run_at(r, s->in[0]), .table = s->n_in > 1 ? sa_run_at(r, s->in[1]) : NULL,
                 .out = sa_run_at(r, s->out), .round = round == SA_ROUND_NONE ? NULL : r->k->round[round], .units = units,
                 .per_chunk = sa_units_per_chunk(each)};
}

static void share(Job *j, SaChunkFn *fn) { sa_parallel(j->run->threads, (j->units + j->per_chunk - 1) / j->per_chunk, fn, j); }

static size_t job_end(const Job *j, size_t chunk) {
    size_t end = (chunk + 1) * j->per_chunk;
    return end < j->units ? end : j->units;
}

static void pool_conclude(const Job *j, float *d, size_t n) {
    const SaPool *p = &j->step->u.pool;
    if (p->kind == SA_POOL_L2) {
        const float zero[2] = {0.0f, 0.0f};
        j->run->k->unary[SA_U_SQRT](d, d, zero, n);
    } else if (p->kind == SA_POOL_MEAN) {
        for (size_t i = 0; i < p->out[0]; i++)
            for (size_t q = 0; q < p->out[1]; q++) {
                size_t rows = taps_inside(p, 0, i) * taps_inside(p, 1, q);
                float *row = d + (i * p->out[1] + q) * p->out[2];
                for (size_t o = 0; o < p->out[2]; o++) {
                    size_t taps = rows * taps_inside(p, 2, o);
                    row[o] /= taps ? (float)taps : 1.0f; /* ceil_mode may leave a window empty */
                }
            }
    }
    if (j->round)
        j->round(d, d, n);
}

static void pool_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaPool *p = &j->step->u.pool;
    size_t in = p->in[0] * p->in[1] * p->in[2], out = p->out[0] * p->out[1] * p->out[2];
    for (size_t c = chunk * j->per_chunk; c < job_end(j, chunk); c++) {
        float *d = j->out + c * out;
        for (size_t i = 0; i < out; i++)
            d[i] = p->kind == SA_POOL_MAX ? -INFINITY : 0.0f;
        for (size_t t0 = 0; t0 < p->kernel[0]; t0++)
            for (size_t t1 = 0; t1 < p->kernel[1]; t1++)
                for (size_t t2 = 0; t2 < p->kernel[2]; t2++) {
                    const Span s[3] = {span_of(p, 0, t0), span_of(p, 1, t1), span_of(p, 2, t2)};
                    pool_tap(j->run->k, p, d, j->x + c * in, s);
                }
        pool_conclude(j, d, out);
    }
}

void sa_step_pool(SaRun *r, const SaStep *s) {
    const SaPool *p = &s->u.pool;
    size_t work = p->out[0] * p->out[1] * p->out[2] * p->kernel[0] * p->kernel[1] * p->kernel[2];
    Job j = job_of(r, s, p->planes, work);
    share(&j, pool_chunk);
}

/* ============================== Folding back ============================== */

/* Add what one tap gave, at the positions it came from. */
static void fold_tap(const SaPool *p, float *y, const float *x, const Span s[3]) {
    for (size_t i = s[0].lo; i < s[0].hi; i++)
        for (size_t j = s[1].lo; j < s[1].hi; j++) {
            size_t plane = s[0].first + (i - s[0].lo) * p->stride[0], row = s[1].first + (j - s[1].lo) * p->stride[1];
            float *to = y + (plane * p->in[1] + row) * p->in[2] + s[2].first;
            const float *from = x + (i * p->out[1] + j) * p->out[2] + s[2].lo;
            for (size_t o = 0; o < s[2].hi - s[2].lo; o++)
                to[o * p->stride[2]] += from[o];
        }
}

static void fold_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaPool *p = &j->step->u.fold_back.w;
    size_t in = p->in[0] * p->in[1] * p->in[2], out = p->out[0] * p->out[1] * p->out[2];
    for (size_t c = chunk * j->per_chunk; c < job_end(j, chunk); c++) {
        const float *x = j->x + c * p->kernel[0] * p->kernel[1] * p->kernel[2] * out;
        float *y = j->out + c * in;
        memset(y, 0, in * sizeof *y);
        for (size_t t0 = 0; t0 < p->kernel[0]; t0++)
            for (size_t t1 = 0; t1 < p->kernel[1]; t1++)
                for (size_t t2 = 0; t2 < p->kernel[2]; t2++, x += out) {
                    const Span s[3] = {span_of(p, 0, t0), span_of(p, 1, t1), span_of(p, 2, t2)};
                    fold_tap(p, y, x, s);
                }
        if (j->round)
            j->round(y, y, in);
    }
}

/* The same under silicon: the sums of the taps are integers, or beyond. */
static void fold_fixed_tap(const SaPool *p, double *y, const float *x, const Span s[3]) {
    typedef int32_t __attribute__((may_alias)) Sum;
    for (size_t i = s[0].lo; i < s[0].hi; i++)
        for (size_t j = s[1].lo; j < s[1].hi; j++) {
            size_t plane = s[0].first + (i - s[0].lo) * p->stride[0], row = s[1].first + (j - s[1].lo) * p->stride[1];
            double *to = y + (plane * p->in[1] + row) * p->in[2] + s[2].first;
            const Sum *from = (const Sum *)(const void *)(x + (i * p->out[1] + j) * p->out[2] + s[2].lo);
            for (size_t o = 0; o < s[2].hi - s[2].lo; o++) {
                double sum = from[o] == INT32_MAX ? (double)INFINITY : from[o] == INT32_MIN ? -(double)INFINITY : from[o];
                to[o * p->stride[2]] += sum;
            }
        }
}

static void fold_fixed_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaPool *p = &j->step->u.fold_back.w;
    size_t in = p->in[0] * p->in[1] * p->in[2], out = p->out[0] * p->out[1] * p->out[2];
    double *acc = (double *)(void *)sa_pack_scratch(2 * in);
    if (!acc)
        j->run->failed = true;
    for (size_t c = chunk * j->per_chunk; acc && c < job_end(j, chunk); c++) {
        const float *x = j->x + c * p->kernel[0] * p->kernel[1] * p->kernel[2] * out;
        float *y = j->out + c * in;
        memset(acc, 0, in * sizeof *acc);
        for (size_t t0 = 0; t0 < p->kernel[0]; t0++)
            for (size_t t1 = 0; t1 < p->kernel[1]; t1++)
                for (size_t t2 = 0; t2 < p->kernel[2]; t2++, x += out) {
                    const Span s[3] = {span_of(p, 0, t0), span_of(p, 1, t1), span_of(p, 2, t2)};
                    fold_fixed_tap(p, acc, x, s);
                }
        j->run->k->fixed_store(y, acc, 0.0f, in);
        if (j->run->arithmetic & SA_RUN_FLUSH)
            j->round(y, y, in);
    }
}

void sa_step_fold_back(SaRun *r, const SaStep *s) {
    const SaPool *p = &s->u.fold_back.w;
    size_t work = p->out[0] * p->out[1] * p->out[2] * p->kernel[0] * p->kernel[1] * p->kernel[2];
    Job j = job_of(r, s, p->planes, work);
    bool fixed = r->numerics == SA_NUMERICS_SILICON && s->store == SA_STORE_PRODUCT;
    share(&j, fixed ? fold_fixed_chunk : fold_chunk);
}

/* ============================== Linear resizing =========================== */

/* One line [count, inner] from [len, inner]. */
static void lerp_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaAxis *a = &j->step->u.lerp.a;
    const float *lo = j->table, *hi = lo + a->count, *f = hi + a->count;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        const float *x = j->x + u * a->len * a->inner;
        float *d = j->out + u * a->count * a->inner;
        for (size_t i = 0; i < a->count; i++, d += a->inner) {
            const float *p = x + (size_t)lo[i] * a->inner, *q = x + (size_t)hi[i] * a->inner;
            for (size_t k = 0; k < a->inner; k++)
                d[k] = p[k] * (1.0f - f[i]) + q[k] * f[i];
        }
        if (j->round)
            j->round(d - a->count * a->inner, d - a->count * a->inner, a->count * a->inner);
    }
}

void sa_step_lerp(SaRun *r, const SaStep *s) {
    const SaAxis *a = &s->u.lerp.a;
    Job j = job_of(r, s, a->outer, a->count * a->inner);
    share(&j, lerp_chunk);
}

/* ============================== Local response ============================ */

/* One channel of one image. */
static void lrn_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaLrn *l = &j->step->u.lrn;
    const SaAxis *a = &l->a;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        size_t c = u % a->len, before = l->size / 2, behind = (l->size - 1) / 2;
        size_t first = c > before ? c - before : 0, last = a->len - 1 - c > behind ? c + behind : a->len - 1;
        const float *image = j->x + (u - c) * a->inner, *x = image + c * a->inner;
        float *d = j->out + u * a->inner;
        for (size_t i = 0; i < a->inner; i++) {
            float sum = 0.0f;
            for (size_t q = first; q <= last; q++)
                sum += image[q * a->inner + i] * image[q * a->inner + i];
            d[i] = x[i] / powf(l->k + l->scale * sum, l->beta);
        }
        if (j->round)
            j->round(d, d, a->inner);
    }
}

void sa_step_lrn(SaRun *r, const SaStep *s) {
    const SaLrn *l = &s->u.lrn;
    Job j = job_of(r, s, l->a.outer * l->a.len, l->a.inner * (l->size < l->a.len ? l->size : l->a.len));
    share(&j, lrn_chunk);
}
