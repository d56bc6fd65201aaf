// SPDX-License-Identifier: MIT
/* steps_more.h - parameters of the steps of lower_image.c, lower_index.c and
 * lower_norm.c; part of steps.h. Sizes in elements. */
#ifndef SA_PLAN_STEPS_MORE_H
#define SA_PLAN_STEPS_MORE_H

#include "../mil/mil.h"

/* Something done along the middle axis of [outer, len, inner]; the result has
 * `count` elements there. */
typedef struct {
    size_t outer, len, inner, count;
} SaAxis;

/* Windows over planes; one- and two-dimensional ones have leading 1s. */
typedef struct {
    size_t planes;
    size_t in[3], out[3], kernel[3], stride[3], dilation[3];
    ptrdiff_t before[3], after[3];
    enum { SA_POOL_MAX, SA_POOL_MEAN, SA_POOL_L2 } kind;
    bool exclude_padding;
} SaPool;

/* conv_transpose: what every tap gave is added where it belongs. `w` is the
 * geometry of the convolution that leads back: `out` are the given positions,
 * `in` the result's. in[0] = [planes, taps, out]. */
typedef struct {
    SaPool w;
} SaFoldBack;

/* d = x[lo] (1 - f) + x[hi] f along an axis; in[1] = lo, hi and f, count each. */
typedef struct {
    SaAxis a;
} SaLerp;

/* local_response_norm: x / (k + scale sum of squares)^beta over neighbours. */
typedef struct {
    SaAxis a;
    size_t size;
    float scale, beta, k;
} SaLrn;

/* Index of the largest (or smallest) along an axis. */
typedef struct {
    SaAxis a;
    bool smallest;
} SaExtreme;

/* Running sums. */
typedef struct {
    SaAxis a;
    bool exclusive, reverse;
} SaScan;

/* Indices of the first `count` in order; inner = 1. scratch: 3 words per element. */
typedef struct {
    SaAxis a;
    bool ascending;
} SaSort;

/* d[o, j, i] = x[o, index[o, j, i], i]; in[1] = indices. */
typedef struct {
    SaAxis a;
} SaPick;

/* gather_nd: each row of `named` indices picks `slice` elements of its batch. */
typedef struct {
    size_t batch, rows, named, slice, each; /* each: elements of x in one batch */
    size_t dim[SA_MAX_RANK], stride[SA_MAX_RANK];
} SaGatherNd;

#endif
