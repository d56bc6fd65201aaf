// SPDX-License-Identifier: MIT
/* k_reduce.c - reductions, softmax and norms.
 *
 * Two forms of each: along a row (values side by side; several partial sums)
 * and down columns (line after line, one partial result per column). A fold of
 * one element never depends on how the work was split over threads: splits run
 * between rows or between columns only. Sums are fp32, rounded once by the
 * caller; how the engine accumulates reductions is not known. */
#include "k_math.h"

/* ============================== Folds ===================================== */

enum { LANES = 32 }; /* partial results of a row: two full registers, at least */

SA_INLINE float fold_SUM(float acc, float x) { return acc + x; }
SA_INLINE float fold_MAX(float acc, float x) { return x > acc ? x : acc; }
SA_INLINE float fold_MIN(float acc, float x) { return x < acc ? x : acc; }
SA_INLINE float fold_PROD(float acc, float x) { return acc * x; }
SA_INLINE float fold_ABS_SUM(float acc, float x) { return acc + fabsf(x); }
SA_INLINE float fold_SQUARE_SUM(float acc, float x) { return acc + x * x; }

/* How partial results of each fold are joined, and what they start from. */
#define join_SUM fold_SUM
#define join_MAX fold_MAX
#define join_MIN fold_MIN
#define join_PROD fold_PROD
#define join_ABS_SUM fold_SUM
#define join_SQUARE_SUM fold_SUM
#define start_SUM 0.0f
#define start_MAX (-INFINITY)
#define start_MIN INFINITY
#define start_PROD 1.0f
#define start_ABS_SUM 0.0f
#define start_SQUARE_SUM 0.0f

#define SA_DEF_FOLD(id)                                                                                 \
    SA_WIDE static float row_##id(const float *x, size_t n) {                                           \
        float acc[LANES];                                                                               \
        for (int l = 0; l < LANES; l++)                                                                 \
            acc[l] = start_##id;                                                                        \
        size_t i = 0;                                                                                   \
        for (; i + LANES <= n; i += LANES)                                                              \
            for (int l = 0; l < LANES; l++)                                                             \
                acc[l] = fold_##id(acc[l], x[i + (size_t)l]);                                           \
        for (int l = 0; i < n; i++, l++)                                                                \
            acc[l] = fold_##id(acc[l], x[i]);                                                           \
        for (int w = LANES / 2; w > 0; w /= 2)                                                          \
            for (int l = 0; l < w; l++)                                                                 \
                acc[l] = join_##id(acc[l], acc[l + w]);                                                 \
        return acc[0];                                                                                  \
    }                                                                                                   \
    SA_WIDE static void cols_##id(float *acc, const float *x, size_t rows, size_t stride, size_t cols) { \
        SA_LOOP for (size_t c = 0; c < cols; c++)                                                       \
            acc[c] = start_##id;                                                                        \
        size_t r = 0;                                                                                   \
        for (; r + 4 <= rows; r += 4) { /* four lines at once: fewer passes over acc */                 \
            const float *x0 = x + r * stride, *x1 = x0 + stride, *x2 = x1 + stride, *x3 = x2 + stride;   \
            SA_LOOP for (size_t c = 0; c < cols; c++)                                                   \
                acc[c] = fold_##id(fold_##id(fold_##id(fold_##id(acc[c], x0[c]), x1[c]), x2[c]), x3[c]); \
        }                                                                                               \
        for (; r < rows; r++) {                                                                         \
            const float *x0 = x + r * stride;                                                           \
            SA_LOOP for (size_t c = 0; c < cols; c++)                                                   \
                acc[c] = fold_##id(acc[c], x0[c]);                                                      \
        }                                                                                               \
    }
SA_FOLD(SA_DEF_FOLD)

/* ============================== Softmax =================================== */

/* d (or nothing) = e^(x - max); returns the sum. */
SA_WIDE static float exp_sum(float *d, const float *x, float max, size_t n) {
    enum { BLOCK = 512 };
    float t[BLOCK], sum = 0.0f;
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t k = n - at < BLOCK ? n - at : BLOCK;
        float *to = d ? d + at : t;
        for (size_t i = 0; i < k; i += 16) /* the next row, while this one is worked on */
            __builtin_prefetch(x + n + at + i, 0, 2);
        SA_LOOP_4 for (size_t i = 0; i < k; i++)
            to[i] = m_exp_down(x[at + i] - max);
        sum += row_SUM(to, k);
    }
    return sum;
}

SA_WIDE static void scale(float *d, const float *x, float f, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++)
        d[i] = x[i] * f;
}

/* A block of columns is gone over three times. Its lines lie far apart, often in the same
 * few sets of a cache, so they are copied together first (SaCols.tile). */
enum { AHEAD = 8 }; /* lines; what is fetched before it is needed */

SA_INLINE void fetch(const float *x, size_t cols, int write) {
    for (size_t c = 0; c < cols; c += 16) {
        if (write)
            __builtin_prefetch(x + c, 1);
        else
            __builtin_prefetch(x + c, 0);
    }
}

/* tile = x, and the fold of every column. */
#define SA_DEF_GATHER(id)                                                                      \
    SA_WIDE static void gather_##id(float *acc, const float *x, const SaCols *s) {             \
        SA_LOOP for (size_t c = 0; c < s->cols; c++)                                           \
            acc[c] = start_##id;                                                               \
        for (size_t r = 0; r < s->rows; r++) {                                                 \
            const float *from = x + r * s->stride;                                             \
            float *to = s->tile + r * s->cols;                                                 \
            if (r + AHEAD < s->rows)                                                           \
                fetch(from + AHEAD * s->stride, s->cols, 0);                                   \
            SA_LOOP for (size_t c = 0; c < s->cols; c++) {                                     \
                float v = from[c];                                                             \
                to[c] = v;                                                                     \
                acc[c] = fold_##id(acc[c], v);                                                 \
            }                                                                                  \
        }                                                                                      \
    }
SA_DEF_GATHER(MAX)
SA_DEF_GATHER(SUM)

SA_WIDE static void softmax_cols(float *d, const float *x, const SaCols *s, float *tmp) {
    float *max = tmp, *sum = tmp + s->cols, *at = s->tile ? s->tile : d;
    const float *from = s->tile ? s->tile : x;
    size_t step = s->tile ? s->cols : s->stride;
    if (s->tile)
        gather_MAX(max, x, s);
    else
        cols_MAX(max, x, s->rows, s->stride, s->cols);
    SA_LOOP for (size_t c = 0; c < s->cols; c++)
        sum[c] = 0.0f;
    for (size_t r = 0; r < s->rows; r++) {
        const float *a = from + r * step;
        float *t = at + r * step;
        SA_LOOP for (size_t c = 0; c < s->cols; c++) {
            float e = m_exp_down(a[c] - max[c]);
            t[c] = e;
            sum[c] += e;
        }
    }
    SA_LOOP for (size_t c = 0; c < s->cols; c++)
        sum[c] = 1.0f / sum[c];
    for (size_t r = 0; r < s->rows; r++) {
        float *to = d + r * s->stride;
        if (s->tile && r + AHEAD < s->rows)
            fetch(to + AHEAD * s->stride, s->cols, 1);
        s->mul(to, at + r * step, sum, s->cols);
        if (s->round)
            s->round(to, to, s->cols);
    }
}

/* ============================== Layer norm ================================ */

/* The sum of (x - mean)^2, in the order of row_SQUARE_SUM. */
SA_WIDE static float row_spread(const float *x, float mean, size_t n) {
    float acc[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            acc[l] = fold_SQUARE_SUM(acc[l], x[i + (size_t)l] - mean);
    for (int l = 0; i < n; i++, l++)
        acc[l] = fold_SQUARE_SUM(acc[l], x[i] - mean);
    for (int w = LANES / 2; w > 0; w /= 2)
        for (int l = 0; l < w; l++)
            acc[l] += acc[l + w];
    return acc[0];
}

/* (x - mean) / sqrt(variance + eps) * gamma + beta along a row. The variance
 * is taken of the differences: no cancellation. */
SA_WIDE static void norm_row(float *d, const float *x, const float *gamma, const float *beta, float eps, size_t n) {
    float mean = row_SUM(x, n) / (float)n;
    float f = 1.0f / sqrtf(row_spread(x, mean, n) / (float)n + eps);
    if (gamma && beta) {
        SA_LOOP for (size_t i = 0; i < n; i++)
            d[i] = (x[i] - mean) * f * gamma[i] + beta[i];
        return;
    }
    if (gamma) {
        SA_LOOP for (size_t i = 0; i < n; i++)
            d[i] = (x[i] - mean) * f * gamma[i];
        return;
    }
    SA_LOOP for (size_t i = 0; i < n; i++)
        d[i] = (x[i] - mean) * f;
    if (beta) {
        SA_LOOP for (size_t i = 0; i < n; i++)
            d[i] += beta[i];
    }
}

SA_WIDE static void norm_cols(float *d, const float *x, const float *gamma, const float *beta, float eps, const SaCols *s,
                              float *tmp) {
    float *mean = tmp, *f = tmp + s->cols, count = (float)s->rows;
    const float *from = s->tile ? s->tile : x;
    size_t step = s->tile ? s->cols : s->stride;
    if (s->tile)
        gather_SUM(mean, x, s);
    else
        cols_SUM(mean, x, s->rows, s->stride, s->cols);
    SA_LOOP for (size_t c = 0; c < s->cols; c++) {
        mean[c] /= count;
        f[c] = 0.0f;
    }
    for (size_t r = 0; r < s->rows; r++) {
        const float *a = from + r * step;
        SA_LOOP for (size_t c = 0; c < s->cols; c++) {
            float v = a[c] - mean[c];
            f[c] += v * v;
        }
    }
    SA_LOOP for (size_t c = 0; c < s->cols; c++)
        f[c] = 1.0f / sqrtf(f[c] / count + eps);
    for (size_t r = 0; r < s->rows; r++) {
        const float g = gamma ? gamma[r] : 1.0f, b = beta ? beta[r] : 0.0f, *a = from + r * step;
        float *t = d + r * s->stride;
        if (s->tile && r + AHEAD < s->rows)
            fetch(t + AHEAD * s->stride, s->cols, 1);
        SA_LOOP for (size_t c = 0; c < s->cols; c++)
            t[c] = (a[c] - mean[c]) * f[c] * g + b;
        if (s->round)
            s->round(t, t, s->cols);
    }
}

void SA_FN(sa_k_reduce)(SaKernels *t);
void SA_FN(sa_k_reduce)(SaKernels *t) {
#define SA_SET_FOLD(id)                   \
    t->fold_row[SA_F_##id] = row_##id;    \
    t->fold_cols[SA_F_##id] = cols_##id;
    SA_FOLD(SA_SET_FOLD)
    t->exp_sum = exp_sum;
    t->scale = scale;
    t->softmax_cols = softmax_cols;
    t->norm_row = norm_row;
    t->norm_cols = norm_cols;
}
