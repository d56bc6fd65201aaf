// SPDX-License-Identifier: MIT
/* step_index.c - argmax, running sums, sorting, and gathers with an index for
 * every element or row. Indices may be computed, so they are not trusted:
 * negative ones count from the end, what is still outside is moved inside. */
#include <math.h>
#include <string.h>

#include "exec.h"

typedef struct {
    const SaStep *step;
    const float *x, *index;
    float *out;
    uint32_t *scratch;
    void (*round)(float *d, const float *s, size_t n); /* NULL: nothing to do */
    size_t units, per_chunk;
} Job;

static void run_job(SaRun *r, const SaStep *s, size_t units, size_t each, SaChunkFn *fn) {
    SaRound round = sa_run_round(r, s->store);
    Job j = {.step = s, .x = sa_run_at(r, s->in[0]), .index = s->n_in > 1 ? sa_run_at(r, s->in[1]) : NULL,
             .out = sa_run_at(r, s->out), .round = round == SA_ROUND_NONE ? NULL : r->k->round[round], .units = units,
             .per_chunk = sa_units_per_chunk(each)};
    if (s->scratch.slot >= 0)
        j.scratch = (uint32_t *)(void *)sa_run_at(r, s->scratch);
    sa_parallel(r->threads, (units + j.per_chunk - 1) / j.per_chunk, fn, &j);
}

static size_t job_end(const Job *j, size_t chunk) {
    size_t end = (chunk + 1) * j->per_chunk;
    return end < j->units ? end : j->units;
}

static size_t index_of(float f, size_t axis) {
    float n = (float)axis;
    f = f < 0.0f ? f + n : f;
    return f > 0.0f ? (f >= n ? axis - 1 : (size_t)f) : 0;
}

/* ============================== Order ===================================== */

/* Numbers in an order of their own: -0 is 0, and NaN comes before all. */
static uint32_t key_of(float f) {
    uint32_t u;
    if (f != f)
        return 0;
    memcpy(&u, &f, sizeof u);
    u = u == 0x80000000u ? 0 : u;
    return u >> 31 ? ~u : u | 0x80000000u;
}

/* The first of the largest (or smallest) of each line. */
static void arg_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaExtreme *p = &j->step->u.arg;
    const SaAxis *a = &p->a;
    uint32_t flip = p->smallest ? UINT32_MAX : 0;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        const float *x = j->x + u / a->inner * a->len * a->inner + u % a->inner;
        uint32_t best = key_of(x[0]) ^ flip;
        size_t at = 0;
        for (size_t i = 1; i < a->len; i++) {
            uint32_t k = key_of(x[i * a->inner]) ^ flip;
            at = k > best ? i : at;
            best = k > best ? k : best;
        }
        j->out[u] = (float)at;
    }
}

void sa_step_arg(SaRun *r, const SaStep *s) {
    const SaAxis *a = &s->u.arg.a;
    run_job(r, s, a->outer * a->inner, a->len, arg_chunk);
}

/* Merge sort of the indices from[0 .. n-1] by key; equals keep their order. The
 * sorted list is the returned one of the two. */
static uint32_t *merge_sort(const uint32_t *key, uint32_t *from, uint32_t *to, size_t n) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n, a = lo, b = mid;
            for (size_t i = lo; i < hi; i++)
                to[i] = a < mid && (b == hi || key[from[a]] <= key[from[b]]) ? from[a++] : from[b++];
        }
        uint32_t *swap = from;
        from = to;
        to = swap;
    }
    return from;
}

static void sort_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaSort *p = &j->step->u.sort;
    size_t n = p->a.len;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        uint32_t *key = j->scratch + u * 3 * n, *index = key + n;
        for (size_t i = 0; i < n; i++) {
            uint32_t k = key_of(j->x[u * n + i]);
            key[i] = p->ascending ? k : ~k;
            index[i] = (uint32_t)i;
        }
        const uint32_t *sorted = merge_sort(key, index, index + n, n);
        for (size_t i = 0; i < p->a.count; i++)
            j->out[u * p->a.count + i] = (float)sorted[i];
    }
}

void sa_step_sort(SaRun *r, const SaStep *s) { run_job(r, s, s->u.sort.a.outer, 8 * s->u.sort.a.len, sort_chunk); }

/* ============================== Running sums ============================== */

static void scan_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaScan *p = &j->step->u.scan;
    const SaAxis *a = &p->a;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        const float *x = j->x + u * a->len * a->inner;
        float *d = j->out + u * a->len * a->inner;
        for (size_t k = 0; k < a->inner; k++) {
            float sum = 0.0f;
            for (size_t n = 0; n < a->len; n++) {
                size_t at = (p->reverse ? a->len - 1 - n : n) * a->inner + k;
                float v = x[at];
                d[at] = p->exclusive ? sum : sum + v;
                sum += v;
            }
        }
        if (j->round)
            j->round(d, d, a->len * a->inner);
    }
}

void sa_step_scan(SaRun *r, const SaStep *s) {
    const SaAxis *a = &s->u.scan.a;
    run_job(r, s, a->outer, a->len * a->inner, scan_chunk);
}

/* ============================== Gathers =================================== */

/* One line [inner] of results, each with an index of its own. */
static void pick_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaAxis *a = &j->step->u.pick.a;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        const float *x = j->x + u / a->count * a->len * a->inner, *index = j->index + u * a->inner;
        float *d = j->out + u * a->inner;
        for (size_t k = 0; k < a->inner; k++)
            d[k] = x[index_of(index[k], a->len) * a->inner + k];
    }
}

void sa_step_pick(SaRun *r, const SaStep *s) {
    const SaAxis *a = &s->u.pick.a;
    run_job(r, s, a->outer * a->count, a->inner, pick_chunk);
}

/* One slice. */
static void gather_nd_chunk(void *context, size_t chunk) {
    const Job *j = context;
    const SaGatherNd *g = &j->step->u.gather_nd;
    for (size_t u = chunk * j->per_chunk; u < job_end(j, chunk); u++) {
        size_t at = u / g->rows * g->each;
        for (size_t i = 0; i < g->named; i++)
            at += index_of(j->index[u * g->named + i], g->dim[i]) * g->stride[i];
        memcpy(j->out + u * g->slice, j->x + at, g->slice * sizeof *j->out);
    }
}

void sa_step_gather_nd(SaRun *r, const SaStep *s) {
    const SaGatherNd *g = &s->u.gather_nd;
    run_job(r, s, g->batch * g->rows, g->slice + g->named, gather_nd_chunk);
}
