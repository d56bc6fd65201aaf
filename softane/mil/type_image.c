// SPDX-License-Identifier: MIT
/* type_image.c - rules of the operations that resize and rearrange images:
 * the last two axes are height and width. Each rule may assume what type.c has
 * checked: required operands are there, with the kinds and dtypes of the table. */
#include "mil_internal.h"

#include <math.h>
#include <string.h>

/* ============================== Sizes ===================================== */

/* out = x with new last two axes */
static SaStatus resized(SaRuleCtx *c, int64_t height, int64_t width) {
    const SaType *x = sa_rule_type(c, "x");
    c->out[0] = *x;
    c->out[0].dim[x->rank - 2] = height;
    c->out[0].dim[x->rank - 1] = width;
    return SA_OK;
}

/* floor(dim * factor), at least 1 and below 2^31 */
static SaStatus scaled(SaRuleCtx *c, const char *key, int64_t dim, int64_t *out) {
    double f = 1.0;
    SaDtype t;
    sa_op_number(c->op, key, &f, &t);
    double n = floor((double)dim * f);
    if (!(n >= 1.0 && n <= 2147483647.0)) /* also NaN */
        return sa_rule_fail(c, SA_E_OPERAND, key, "makes nothing, or too much, of %lld", (long long)dim);
    *out = (int64_t)n;
    return SA_OK;
}

/* upsample_*: the size is the old one times a factor */
SaStatus sa_rule_upsample(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    int64_t h, w;
    SA_TRY(sa_rule_rank(c, "x", 3, SA_MAX_RANK));
    SA_TRY(scaled(c, "scale_factor_height", x->dim[x->rank - 2], &h));
    SA_TRY(scaled(c, "scale_factor_width", x->dim[x->rank - 1], &w));
    return resized(c, h, w);
}

/* resize_*: the size is told */
SaStatus sa_rule_resize_to(SaRuleCtx *c) {
    int64_t h, w;
    SA_TRY(sa_rule_rank(c, "x", 3, SA_MAX_RANK));
    SA_TRY(sa_rule_int_in(c, "target_size_height", 1, INT32_MAX, 1, &h));
    SA_TRY(sa_rule_int_in(c, "target_size_width", 1, INT32_MAX, 1, &w));
    return resized(c, h, w);
}

/* resize: the last `resized_dims` of `shape` replace the last axes of x; 0 keeps one */
SaStatus sa_rule_resize(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *shape = sa_rule_type(c, "shape");
    int64_t size[SA_MAX_RANK], dims;
    if (shape->dim[0] > x->rank)
        return sa_rule_fail(c, SA_E_SHAPE, "shape", "has %lld elements, x has rank %d", (long long)shape->dim[0], x->rank);
    int n = (int)shape->dim[0];
    SA_TRY(sa_rule_ints_in(c, "shape", n, 0, INT32_MAX, 0, size));
    SA_TRY(sa_rule_int_in(c, "resized_dims", 1, n < 2 ? n : 2, 1, &dims));
    c->out[0] = *x;
    for (int i = 0; i < (int)dims; i++) {
        int64_t s = size[n - (int)dims + i];
        if (s > 0)
            c->out[0].dim[x->rank - (int)dims + i] = s;
    }
    return SA_OK;
}

/* ============================== Sampling ================================== */

/* See mil.h; the formulas are those of resize_bilinear's public description. */
double sa_grid_point(const char *mode, int64_t i, int64_t in, int64_t out) {
    double x = (double)i, n = (double)in, m = (double)out, at;
    if (strcmp(mode, "STRICT_ALIGN_CORNERS") == 0 || strcmp(mode, "ALIGN_CORNERS") == 0)
        at = out > 1 ? x * (n - 1) / (m - 1) : mode[0] == 'A' ? (n - 1) / 2 : 0;
    else if (strcmp(mode, "OFFSET_CORNERS") == 0)
        at = (x + 0.5) * ((in > 2 ? n - 1 : 1) / m);
    else if (strcmp(mode, "UNALIGN_CORNERS") == 0)
        at = (x + 0.5) * n / m - 0.5;
    else
        at = x * n / m; /* DEFAULT: (n - n/m) / (m - 1) is n / m */
    return at < 0 ? 0 : at > n - 1 ? n - 1 : at;
}

/* See mil.h. */
const char *sa_op_sampling(const SaOp *op) {
    const char *mode = "DEFAULT";
    bool corners = true;
    if (op->id == SA_OP_UPSAMPLE_BILINEAR) {
        sa_op_bool(op, "align_corners", &corners);
        return corners ? "STRICT_ALIGN_CORNERS" : "UNALIGN_CORNERS";
    }
    sa_op_string(op, "sampling_mode", &mode);
    return mode;
}

/* ============================== Cropping ================================== */

/* (before, after) off the last two axes */
SaStatus sa_rule_crop(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    static const char *const keys[2] = {"crop_height", "crop_width"};
    SA_TRY(sa_rule_rank(c, "x", 3, SA_MAX_RANK));
    c->out[0] = *x;
    for (int i = 0; i < 2; i++) {
        int64_t cut[2], *dim = &c->out[0].dim[x->rank - 2 + i];
        SA_TRY(sa_rule_ints_in(c, keys[i], 2, 0, INT32_MAX, 0, cut));
        if (cut[0] + cut[1] >= *dim)
            return sa_rule_fail(c, SA_E_SHAPE, keys[i], "leaves nothing of %lld", (long long)*dim);
        *dim -= cut[0] + cut[1];
    }
    return SA_OK;
}

/* ============================== Blocks ==================================== */

/* space_to_depth, pixel_unshuffle: [N, C, H, W] -> [N, C b b, H / b, W / b];
 * depth_to_space, pixel_shuffle: the way back */
SaStatus sa_rule_shuffle(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaOpId id = c->op->id;
    const char *key = id == SA_OP_PIXEL_SHUFFLE ? "upscale_factor" : id == SA_OP_PIXEL_UNSHUFFLE ? "downscale_factor" : "block_size";
    bool deeper = id == SA_OP_SPACE_TO_DEPTH || id == SA_OP_PIXEL_UNSHUFFLE;
    int64_t b;
    SA_TRY(sa_rule_rank(c, "x", 4, 4));
    SA_TRY(sa_rule_int_in(c, key, 1, 46340, 1, &b)); /* its square fits 31 bits */
    if (deeper ? x->dim[2] % b || x->dim[3] % b : x->dim[1] % (b * b))
        return sa_rule_fail(c, SA_E_SHAPE, key, "%lld does not divide %s of x", (long long)b,
                            deeper ? "height and width" : "(squared) the channels");
    c->out[0] = *x;
    c->out[0].dim[1] = deeper ? x->dim[1] * b * b : x->dim[1] / (b * b);
    for (int i = 2; i < 4; i++)
        c->out[0].dim[i] = deeper ? x->dim[i] / b : x->dim[i] * b;
    return SA_OK;
}

/* Two (before, after) pairs of an operand that is there. */
static SaStatus two_pairs(SaRuleCtx *c, const char *key, int64_t out[4]) {
    const SaValue *v = sa_op_value(c->op, key);
    if (v->type.dim[0] != 2)
        return sa_rule_fail(c, SA_E_SHAPE, key, "expected [2, 2]");
    for (int i = 0; i < 4; i++)
        if (!sa_const_int_at(v, i, &out[i]) || out[i] < 0 || out[i] > INT32_MAX)
            return sa_rule_fail(c, SA_E_OPERAND, key, "must lie between 0 and 2^31");
    return SA_OK;
}

/* space_to_batch: [N, C, H, W] padded -> [N b0 b1, C, H / b0, W / b1];
 * batch_to_space: the way back, then cropped */
SaStatus sa_rule_space_batch(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    bool to_batch = c->op->id == SA_OP_SPACE_TO_BATCH;
    const char *key = to_batch ? "paddings" : "crops";
    int64_t b[2], edge[4];
    SA_TRY(sa_rule_rank(c, "x", 4, 4));
    SA_TRY(sa_rule_ints_in(c, "block_shape", 2, 1, 46340, 1, b));
    SA_TRY(two_pairs(c, key, edge));
    c->out[0] = *x;
    if (!to_batch && x->dim[0] % (b[0] * b[1]))
        return sa_rule_fail(c, SA_E_SHAPE, "block_shape", "does not divide a batch of %lld", (long long)x->dim[0]);
    c->out[0].dim[0] = to_batch ? x->dim[0] * b[0] * b[1] : x->dim[0] / (b[0] * b[1]);
    for (int i = 0; i < 2; i++) {
        int64_t d = x->dim[2 + i], sum = edge[2 * i] + edge[2 * i + 1];
        if (to_batch && (d + sum) % b[i])
            return sa_rule_fail(c, SA_E_SHAPE, "block_shape", "%lld does not divide a padded axis of %lld", (long long)b[i],
                                (long long)(d + sum));
        if (!to_batch && sum >= d * b[i])
            return sa_rule_fail(c, SA_E_SHAPE, key, "leaves nothing of %lld", (long long)(d * b[i]));
        c->out[0].dim[2 + i] = to_batch ? (d + sum) / b[i] : d * b[i] - sum;
    }
    return SA_OK;
}

/* ============================== Windows, folding of axes ================== */

/* axis -> (windows, size) */
SaStatus sa_rule_windows(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaType *out = &c->out[0];
    int64_t axis = 0, size, stride;
    int at;
    if (x->rank == SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_LIMIT, "x", "the result has rank above %d", SA_MAX_RANK);
    sa_op_int(c->op, "axis", &axis);
    SA_TRY(sa_rule_axis(c, "axis", axis, x->rank, &at));
    SA_TRY(sa_rule_int_in(c, "size", 1, INT32_MAX, 1, &size));
    SA_TRY(sa_rule_int_in(c, "stride", 1, INT32_MAX, 1, &stride));
    if (size > x->dim[at])
        return sa_rule_fail(c, SA_E_SHAPE, "size", "a window of %lld does not fit into %lld", (long long)size,
                            (long long)x->dim[at]);
    memset(out, 0, sizeof *out);
    out->dtype = x->dtype;
    for (int i = 0; i < x->rank; i++) {
        out->dim[out->rank++] = i == at ? (x->dim[at] - size) / stride + 1 : x->dim[i];
        if (i == at)
            out->dim[out->rank++] = size;
    }
    return SA_OK;
}

/* [axes before `axis`, the rest] */
SaStatus sa_rule_flatten2d(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    int64_t axis = 1;
    sa_op_int(c->op, "axis", &axis);
    if (axis < -x->rank || axis > x->rank)
        return sa_rule_fail(c, SA_E_SHAPE, "axis", "axis %lld is outside rank %d", (long long)axis, x->rank);
    axis += axis < 0 ? x->rank : 0;
    c->out[0] = (SaType){.dtype = x->dtype, .rank = 2, .dim = {1, 1}};
    for (int i = 0; i < x->rank; i++)
        c->out[0].dim[i < axis ? 0 : 1] *= x->dim[i];
    return SA_OK;
}
