// SPDX-License-Identifier: MIT
/* step_reduce.c - reductions, softmax and norms over [outer, len, inner].
 *
 * inner = 1: rows, each folded by itself. Otherwise columns, in blocks narrow
 * enough that partial results stay in L1 and there is work for all threads.
 * Both are cut by shape alone. */
#include <math.h>
#include <string.h>

#include "exec.h"

enum { NARROW = 64, TILE_NARROW = 16, WIDE = 512, ROWS_AT_ONCE = 256, BLOCK_FLOATS = 1 << 17 };

typedef struct {
    SaRun *run;
    const SaReduce *f;
    const float *x, *gamma, *beta;
    float *out;
    SaRoundFn *round;
    bool away;                 /* round is AWAY: products have it inside */
    size_t per_chunk;          /* rows, or blocks of columns */
    size_t width, blocks;      /* columns per block, blocks per outer index */
    bool tiled;                /* a block is copied together before it is worked on */
} FoldJob;

static FoldJob job_of(SaRun *r, const SaStep *s) {
    const SaReduce *f = &s->u.reduce;
    SaRound round = sa_run_round(r, s->store);
    FoldJob j = {.run = r, .f = f, .x = sa_run_at(r, s->in[0]), .out = sa_run_at(r, s->out),
                 .gamma = f->has_gamma ? sa_run_at(r, s->in[1]) : NULL,
                 .beta = f->has_beta ? sa_run_at(r, s->in[2]) : NULL,
                 .round = round == SA_ROUND_NONE ? NULL : r->k->round[round]};
    j.away = round == SA_ROUND_AWAY;
    /* Softmax and norms go over a block three times: it should be in L2 then. What is
     * narrower than its lines is copied there. */
    j.width = f->inner > 1024 && s->kind == SA_STEP_REDUCE ? WIDE : BLOCK_FLOATS / f->len & ~(size_t)15;
    size_t narrow = s->kind != SA_STEP_REDUCE && j.width >= TILE_NARROW ? TILE_NARROW : NARROW;
    j.width = j.width < narrow ? narrow : j.width > WIDE ? WIDE : j.width;
    if (s->kind != SA_STEP_REDUCE) { /* blocks alike, and work for some threads */
        size_t parts = (f->inner + j.width - 1) / j.width;
        while (f->outer * parts < 4 && f->inner / (2 * parts) >= NARROW)
            parts *= 2;
        j.width = ((f->inner + parts - 1) / parts + 15) & ~(size_t)15;
    }
    j.width = j.width < f->inner ? j.width : f->inner;
    j.tiled = s->kind != SA_STEP_REDUCE && j.width < f->inner && j.width * f->len <= BLOCK_FLOATS;
    j.blocks = (f->inner + j.width - 1) / j.width;
    j.per_chunk = f->inner == 1 ? sa_units_per_chunk(f->len) : sa_units_per_chunk(f->len * j.width);
    if (f->inner == 1 && j.per_chunk > ROWS_AT_ONCE)
        j.per_chunk = ROWS_AT_ONCE;
    return j;
}

static void share(FoldJob *j, SaChunkFn *rows, SaChunkFn *columns) {
    size_t units = j->f->inner == 1 ? j->f->outer : j->f->outer * j->blocks;
    sa_parallel(j->run->threads, (units + j->per_chunk - 1) / j->per_chunk, j->f->inner == 1 ? rows : columns, j);
}

/* The units of a chunk: [*first, *last). */
static void units_of(const FoldJob *j, size_t chunk, size_t *first, size_t *last) {
    size_t units = j->f->inner == 1 ? j->f->outer : j->f->outer * j->blocks;
    *first = chunk * j->per_chunk;
    *last = *first + j->per_chunk < units ? *first + j->per_chunk : units;
}

/* A block of columns: its first element in x and its width. */
static size_t block_at(const FoldJob *j, size_t unit, size_t *outer, size_t *column) {
    *outer = unit / j->blocks;
    *column = unit % j->blocks * j->width;
    return j->f->inner - *column < j->width ? j->f->inner - *column : j->width;
}

/* Scratch that is not to be had is done without: the same bits, slower. */
static SaCols cols_of(const FoldJob *j, size_t n) {
    const SaKernels *k = j->run->k;
    return (SaCols){.rows = j->f->len, .stride = j->f->inner, .cols = n,
                    .tile = j->tiled ? sa_scratch(SA_SCRATCH_PACK, BLOCK_FLOATS) : NULL, .mul = k->binary_vv[SA_B_MUL], .round = j->round};
}

/* ============================== Reductions ================================ */

static SaFold fold_kind(int op) {
    switch (op) {
    case SA_OP_REDUCE_MAX: return SA_F_MAX;
    case SA_OP_REDUCE_MIN: return SA_F_MIN;
    case SA_OP_REDUCE_PROD: return SA_F_PROD;
    case SA_OP_REDUCE_L1_NORM: return SA_F_ABS_SUM;
    case SA_OP_REDUCE_L2_NORM: case SA_OP_REDUCE_SUM_SQUARE: return SA_F_SQUARE_SUM;
    default: return SA_F_SUM;
    }
}

/* What is left to do with n folded values. */
static void conclude(const FoldJob *j, float *d, size_t n) {
    const SaKernels *k = j->run->k;
    const float zero[2] = {0.0f, 0.0f};
    if (j->f->kind == SA_OP_REDUCE_MEAN)
        for (size_t i = 0; i < n; i++)
            d[i] /= (float)j->f->len;
    else if (j->f->kind == SA_OP_REDUCE_L2_NORM)
        k->unary[SA_U_SQRT](d, d, zero, n);
    else if (j->f->kind == SA_OP_REDUCE_LOG_SUM)
        (j->run->numerics == SA_NUMERICS_SILICON ? k->odd : k->unary)[SA_U_LOG](d, d, zero, n);
    if (j->round)
        j->round(d, d, n);
}

/* log of the sum of e^x, the largest taken out first. */
static float log_sum_exp(const SaKernels *k, const float *x, size_t n) {
    float max = k->fold_row[SA_F_MAX](x, n);
    if (isinf(max))
        return max;
    return max + logf(k->exp_sum(NULL, x, max, n));
}

static void reduce_rows(void *context, size_t chunk) {
    const FoldJob *j = context;
    const SaKernels *k = j->run->k;
    size_t first, last, len = j->f->len;
    units_of(j, chunk, &first, &last);
    for (size_t r = first; r < last; r++)
        j->out[r] = j->f->kind == SA_OP_REDUCE_LOG_SUM_EXP ? log_sum_exp(k, j->x + r * len, len)
                                                           : k->fold_row[fold_kind(j->f->kind)](j->x + r * len, len);
    conclude(j, j->out + first, last - first);
}

static void reduce_columns(void *context, size_t chunk) {
    const FoldJob *j = context;
    const SaReduce *f = j->f;
    size_t first, last, outer, column;
    units_of(j, chunk, &first, &last);
    for (size_t u = first; u < last; u++) {
        size_t n = block_at(j, u, &outer, &column);
        float *d = j->out + outer * f->inner + column;
        if (f->kind == SA_OP_REDUCE_LOG_SUM_EXP) /* only when nothing is folded: log(e^x) */
            memcpy(d, j->x + outer * f->inner + column, n * sizeof *d);
        else
            j->run->k->fold_cols[fold_kind(f->kind)](d, j->x + outer * f->len * f->inner + column, f->len, f->inner, n);
        conclude(j, d, n);
    }
}

void sa_step_reduce(SaRun *r, const SaStep *s) {
    FoldJob j = job_of(r, s);
    share(&j, reduce_rows, reduce_columns);
}

/* ============================== Softmax =================================== */

/* d = x f, rounded. */
static void scaled(const FoldJob *j, float *d, const float *x, float f, size_t n) {
    if (j->away) {
        j->run->k->away_vs[SA_B_MUL](d, x, &f, n);
        return;
    }
    j->run->k->scale(d, x, f, n);
    if (j->round)
        j->round(d, d, n);
}

static void softmax_rows(void *context, size_t chunk) {
    const FoldJob *j = context;
    const SaKernels *k = j->run->k;
    size_t first, last, len = j->f->len;
    units_of(j, chunk, &first, &last);
    for (size_t r = first; r < last; r++) {
        const float *x = j->x + r * len;
        float *d = j->out + r * len;
        float sum = k->exp_sum(d, x, k->fold_row[SA_F_MAX](x, len), len);
        scaled(j, d, d, 1.0f / sum, len);
    }
}

static void softmax_columns(void *context, size_t chunk) {
    const FoldJob *j = context;
    size_t first, last, outer, column;
    float tmp[2 * WIDE];
    units_of(j, chunk, &first, &last);
    for (size_t u = first; u < last; u++) {
        size_t n = block_at(j, u, &outer, &column), at = outer * j->f->len * j->f->inner + column;
        SaCols s = cols_of(j, n);
        if (j->away) {
            s.mul = j->run->k->away_vv[SA_B_MUL];
            s.round = NULL;
        }
        j->run->k->softmax_cols(j->out + at, j->x + at, &s, tmp);
    }
}

void sa_step_softmax(SaRun *r, const SaStep *s) {
    FoldJob j = job_of(r, s);
    share(&j, softmax_rows, softmax_columns);
}

/* ============================== Norms ===================================== */

static void norm_rows(void *context, size_t chunk) {
    const FoldJob *j = context;
    const SaKernels *k = j->run->k;
    size_t first, last, len = j->f->len;
    units_of(j, chunk, &first, &last);
    for (size_t r = first; r < last; r++) {
        const float *x = j->x + r * len;
        float *d = j->out + r * len;
        if (j->f->kind == SA_OP_L2_NORM) {
            scaled(j, d, x, 1.0f / sqrtf(k->fold_row[SA_F_SQUARE_SUM](x, len) + j->f->eps), len);
            continue;
        }
        k->norm_row(d, x, j->gamma, j->beta, j->f->eps, len);
        if (j->round)
            j->round(d, d, len);
    }
}

/* layer_norm, or l2_norm of single values (nothing else reaches columns). */
static void norm_columns(void *context, size_t chunk) {
    const FoldJob *j = context;
    size_t first, last, outer, column;
    float tmp[2 * WIDE];
    units_of(j, chunk, &first, &last);
    for (size_t u = first; u < last; u++) {
        size_t n = block_at(j, u, &outer, &column), at = outer * j->f->len * j->f->inner + column;
        if (j->f->kind != SA_OP_L2_NORM) {
            SaCols s = cols_of(j, n);
            j->run->k->norm_cols(j->out + at, j->x + at, j->gamma, j->beta, j->f->eps, &s, tmp);
            continue;
        }
        for (size_t i = 0; i < n; i++)
            j->out[at + i] = j->x[at + i] / sqrtf(j->x[at + i] * j->x[at + i] + j->f->eps);
        if (j->round)
            j->round(j->out + at, j->out + at, n);
    }
}

void sa_step_norm(SaRun *r, const SaStep *s) {
    FoldJob j = job_of(r, s);
    share(&j, norm_rows, norm_columns);
}
