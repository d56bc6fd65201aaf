// SPDX-License-Identifier: MIT
/* step_shape.c - strided copies, fills and gathers.
 *
 * The axes of a copy were collapsed when it was planned. What is innermost
 * decides: a run on both sides is a memcpy; a run on either side but along
 * different axes is a transposition in tiles; anything else goes one by one. */
#include <math.h>
#include <string.h>

#include "exec.h"

/* ============================== Copies ==================================== */

typedef struct {
    const SaRun *run;
    const float *s;
    float *d;
    float clamp;                       /* larger magnitudes become inf; 0 = none do */
    enum { BY_RUN, BY_TILE, BY_ONE } how;
    size_t dim[SA_COPY_RANK];          /* the loops around the inner part */
    ptrdiff_t d_stride[SA_COPY_RANK], s_stride[SA_COPY_RANK];
    int loops;
    size_t total, per_chunk;
    size_t n, m;                       /* inner lengths: n along d, m along s (tiles) */
    ptrdiff_t d_step, s_step;          /* BY_TILE: of m in d, of n in s; BY_ONE: of n */
} CopyJob;

static float clamped(float x, float limit) { return fabsf(x) > limit ? copysignf(INFINITY, x) : x; }

/* Any inner part, one by one. */
static void inner_clamped(const CopyJob *j, float *d, const float *s) {
    for (size_t i = 0; i < j->n; i++)
        for (size_t k = 0; k < j->m; k++) {
            ptrdiff_t a = (ptrdiff_t)i, b = (ptrdiff_t)k;
            if (j->how == BY_TILE)
                d[b * j->d_step + a] = clamped(s[a * j->s_step + b], j->clamp);
            else
                d[a * j->d_step] = clamped(s[a * j->s_step], j->clamp);
        }
}

static void inner_copy(const CopyJob *j, float *d, const float *s) {
    if (j->clamp > 0.0f) {
        inner_clamped(j, d, s);
    } else if (j->how == BY_RUN) {
        memcpy(d, s, j->n * sizeof *d);
    } else if (j->how == BY_TILE) {
        j->run->k->transpose(d, (size_t)j->d_step, s, (size_t)j->s_step, j->n, j->m);
    } else {
        for (size_t i = 0; i < j->n; i++)
            d[(ptrdiff_t)i * j->d_step] = s[(ptrdiff_t)i * j->s_step];
    }
}

static void copy_chunk(void *context, size_t chunk) {
    const CopyJob *j = context;
    size_t last = (chunk + 1) * j->per_chunk < j->total ? (chunk + 1) * j->per_chunk : j->total;
    for (size_t u = chunk * j->per_chunk; u < last; u++) {
        ptrdiff_t d_at = 0, s_at = 0;
        size_t rest = u;
        for (int a = j->loops - 1; a >= 0; a--) {
            ptrdiff_t i = (ptrdiff_t)(rest % j->dim[a]);
            rest /= j->dim[a];
            d_at += i * j->d_stride[a];
            s_at += i * j->s_stride[a];
        }
        inner_copy(j, j->d + d_at, j->s + s_at);
    }
}

/* Take axis `a` out of the loops. */
static void drop_axis(CopyJob *j, int a) {
    j->loops--;
    for (int i = a; i < j->loops; i++) {
        j->dim[i] = j->dim[i + 1];
        j->d_stride[i] = j->d_stride[i + 1];
        j->s_stride[i] = j->s_stride[i + 1];
    }
}

/* Cut an inner length into loop steps of `part`, when it divides. */
static void cut(CopyJob *j, size_t *n, size_t part, ptrdiff_t d_step, ptrdiff_t s_step) {
    if (*n <= part || *n % part)
        return;
    j->dim[j->loops] = *n / part;
    j->d_stride[j->loops] = d_step * (ptrdiff_t)part;
    j->s_stride[j->loops++] = s_step * (ptrdiff_t)part;
    *n = part;
}

/* Choose the inner part; what remains are loops. */
static void plan_copy(CopyJob *j) {
    enum { RUN_PART = SA_GRAIN, TILE_PART = 64 };
    int last = j->loops - 1, run = -1; /* run: the axis along which s is a run */
    j->n = j->m = 1;
    j->d_step = j->s_step = 1;
    j->how = BY_RUN;
    if (last < 0)
        return;
    for (int a = 0; a <= last; a++)
        run = j->s_stride[a] == 1 ? a : run;
    ptrdiff_t d_last = j->d_stride[last], s_last = j->s_stride[last];
    j->n = j->dim[last];
    if (d_last == 1 && s_last == 1) {
        drop_axis(j, last);
        cut(j, &j->n, RUN_PART, 1, 1);
    } else if (d_last == 1 && s_last > 0 && run >= 0 && j->d_stride[run] > 0) {
        j->how = BY_TILE;
        j->m = j->dim[run];
        j->d_step = j->d_stride[run];
        j->s_step = s_last;
        drop_axis(j, last);
        drop_axis(j, run);
        cut(j, &j->n, TILE_PART, 1, s_last);
    } else {
        j->how = BY_ONE;
        j->d_step = d_last;
        j->s_step = s_last;
        drop_axis(j, last);
    }
}

void sa_step_copy(SaRun *r, const SaStep *s) {
    const SaCopy *c = &s->u.copy;
    CopyJob j = {.run = r, .s = sa_run_at(r, s->in[0]) + c->s_offset, .d = sa_run_at(r, s->out) + c->d_offset, .loops = c->rank};
    memcpy(j.dim, c->dim, sizeof j.dim);
    memcpy(j.d_stride, c->d_stride, sizeof j.d_stride);
    memcpy(j.s_stride, c->s_stride, sizeof j.s_stride);
    j.clamp = c->clamped ? r->slice_clamp : 0.0f;
    plan_copy(&j);
    j.total = s->count / (j.n * j.m);
    j.per_chunk = sa_units_per_chunk(j.n * j.m);
    sa_parallel(r->threads, (j.total + j.per_chunk - 1) / j.per_chunk, copy_chunk, &j);
}

/* ============================== Fill ====================================== */

void sa_step_fill(SaRun *r, const SaStep *s) {
    float *d = sa_run_at(r, s->out), v = s->u.fill;
    r->k->round[sa_run_round(r, s->store)](&v, &v, 1);
    for (size_t i = 0; i < s->count; i++)
        d[i] = v;
}

/* ============================== Gather ==================================== */

typedef struct {
    const SaGather *g;
    const float *x, *index;
    float *d;
    size_t total, per_chunk;
} GatherJob;

/* Indices may be computed, so they are not trusted: negative ones count from
 * the end, and what is still outside is moved to the nearest element. */
static size_t index_of(float f, size_t axis) {
    float n = (float)axis;
    f = f < 0.0f ? f + n : f;
    return f > 0.0f ? (f >= n ? axis - 1 : (size_t)f) : 0;
}

static void gather_chunk(void *context, size_t chunk) {
    const GatherJob *j = context;
    const SaGather *g = j->g;
    size_t last = (chunk + 1) * j->per_chunk < j->total ? (chunk + 1) * j->per_chunk : j->total;
    for (size_t u = chunk * j->per_chunk; u < last; u++) { /* u = (batch, outer, which index) */
        size_t i = u % g->count, line = u / g->count, batch = line / g->outer;
        size_t at = index_of(j->index[batch * g->count + i], g->axis);
        memcpy(j->d + u * g->inner, j->x + (line * g->axis + at) * g->inner, g->inner * sizeof *j->d);
    }
}

void sa_step_gather(SaRun *r, const SaStep *s) {
    const SaGather *g = &s->u.gather;
    GatherJob j = {.g = g, .x = sa_run_at(r, s->in[0]), .index = sa_run_at(r, s->in[1]), .d = sa_run_at(r, s->out)};
    j.total = g->batch * g->outer * g->count;
    j.per_chunk = sa_units_per_chunk(g->inner);
    sa_parallel(r->threads, (j.total + j.per_chunk - 1) / j.per_chunk, gather_chunk, &j);
}
