// SPDX-License-Identifier: MIT
/* type_window.c - operations that move a window over one to three spatial axes:
 * conv, conv_transpose and the pools. Each rule may assume what type.c has
 * checked. The geometry resolved here is also what the planner executes.
 *
 *   valid      no padding
 *   custom     pad = (before, after) of each spatial axis
 *   same       out = ceil(in / stride); the odd element is padded behind
 *   same_lower the same with the odd element in front */
#include "mil_internal.h"

#include <string.h>

/* ============================== Window ==================================== */

/* Strides, dilations and padding as they are written. */
typedef struct {
    const char *type;  /* pad_type */
    int64_t pad[6];
    bool ceil_mode;
} Padding;

/* `pad` counts for pad_type "custom" only, but must always be well-formed. */
static SaStatus window_read(SaRuleCtx *c, SaWindow *w, Padding *p) {
    *p = (Padding){.type = "valid"};
    sa_op_string(c->op, "pad_type", &p->type);
    sa_op_bool(c->op, "ceil_mode", &p->ceil_mode);
    SA_TRY(sa_rule_ints_in(c, "strides", w->n, 1, INT32_MAX, 1, w->stride));
    SA_TRY(sa_rule_ints_in(c, "dilations", w->n, 1, INT32_MAX, 1, w->dilation));
    SA_TRY(sa_rule_ints_in(c, "pad", 2 * w->n, 0, INT32_MAX, 0, p->pad));
    bool custom = strcmp(p->type, "custom") == 0;
    if (custom && !sa_op_arg(c->op, "pad"))
        return sa_rule_fail(c, SA_E_OPERAND, "pad", "missing, pad_type \"custom\" needs it");
    if (!custom)
        memset(p->pad, 0, sizeof p->pad);
    return SA_OK;
}

/* Elements that all taps of one window reach over. Dims and operands are below
 * 2^31, so the product stays below 2^62. */
static int64_t reach(const SaWindow *w, int i) { return w->dilation[i] * (w->kernel[i] - 1) + 1; }

/* One axis: floor((in + pads - reach) / stride) + 1, or ceil(in / stride). */
static SaStatus window_axis(SaRuleCtx *c, const Padding *p, const char *key, int i, SaWindow *w) {
    int64_t span = reach(w, i);
    if (strncmp(p->type, "same", 4) == 0) {
        w->out[i] = (w->in[i] - 1) / w->stride[i] + 1;
        int64_t missing = (w->out[i] - 1) * w->stride[i] + span - w->in[i];
        missing = missing > 0 ? missing : 0;
        w->before[i] = p->type[4] ? missing - missing / 2 : missing / 2;
        w->after[i] = missing - w->before[i];
        return SA_OK;
    }
    w->before[i] = p->pad[2 * i];
    w->after[i] = p->pad[2 * i + 1];
    int64_t room = w->in[i] + w->before[i] + w->after[i];
    if (span > room)
        return sa_rule_fail(c, SA_E_SHAPE, key, "a window of %lld does not fit into %lld", (long long)span, (long long)room);
    w->out[i] = (room - span) / w->stride[i] + 1;
    if (p->ceil_mode && (room - span) % w->stride[i]) {
        w->out[i]++;
        bool padded = w->before[i] || w->after[i]; /* else a window may begin behind the input, and is empty */
        if (padded && (w->out[i] - 1) * w->stride[i] >= w->in[i] + w->before[i])
            w->out[i]--;
    }
    return SA_OK;
}

/* The window of x under a kernel whose sizes stand in w. */
static SaStatus window_of(SaRuleCtx *c, const SaType *x, const char *key, SaWindow *w, Padding *p) {
    SA_TRY(window_read(c, w, p));
    for (int i = 0; i < w->n; i++) {
        w->in[i] = x->dim[2 + i];
        SA_TRY(window_axis(c, p, key, i, w));
    }
    return SA_OK;
}

/* ============================== Convolution =============================== */

/* Channels and groups; `o` and `i` are the axes of weight that count outputs
 * and inputs (per group). */
static SaStatus check_channels(SaRuleCtx *c, const SaType *x, const SaType *weight, bool transposed, int64_t *out) {
    int64_t groups = 1, in = x->dim[1];
    SA_TRY(sa_rule_rank(c, "x", 3, 4));
    SA_TRY(sa_rule_rank(c, "weight", x->rank, x->rank));
    sa_op_int(c->op, "groups", &groups);
    *out = weight->dim[transposed ? 1 : 0];
    if (groups < 1 || in % groups || (!transposed && *out % groups))
        return sa_rule_fail(c, SA_E_SHAPE, "groups", "%lld groups do not divide %lld input and %lld output channels",
                            (long long)groups, (long long)in, (long long)*out);
    if (!transposed && weight->dim[1] != in / groups)
        return sa_rule_fail(c, SA_E_SHAPE, "weight", "has %lld input channels per group, expected %lld",
                            (long long)weight->dim[1], (long long)(in / groups));
    if (transposed && weight->dim[0] != in)
        return sa_rule_fail(c, SA_E_SHAPE, "weight", "has %lld input channels, expected %lld", (long long)weight->dim[0],
                            (long long)in);
    if (transposed)
        *out *= groups; /* dims are below 2^31, groups divide one */
    if (in > c->limits->max_conv_in)
        return sa_rule_fail(c, SA_E_LIMIT, "x", "%lld input channels, at most %lld are allowed", (long long)in,
                            (long long)c->limits->max_conv_in);
    if (weight->dim[weight->rank - 1] > c->limits->max_kernel_width)
        return sa_rule_fail(c, SA_E_LIMIT, "weight", "kernel width %lld, at most %lld is allowed",
                            (long long)weight->dim[weight->rank - 1], (long long)c->limits->max_kernel_width);
    return SA_OK;
}

/* The kernel's sizes are the last axes of weight. */
static void kernel_of_weight(const SaType *weight, SaWindow *w) {
    w->n = weight->rank - 2;
    for (int i = 0; i < w->n; i++)
        w->kernel[i] = weight->dim[2 + i];
}

/* x [N, C, (H,) W] · weight [O, C/groups, (kh,) kw] -> [N, O, …] */
SaStatus sa_rule_conv(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *weight = sa_rule_type(c, "weight");
    bool baked = sa_value_is_constant(sa_op_value(c->op, "weight"));
    int64_t groups = 1, out;
    SA_TRY(check_channels(c, x, weight, false, &out));
    sa_op_int(c->op, "groups", &groups);
    /* weights computed at run time pass through another path of the engine */
    if (!baked && (groups != 1 || x->dim[0] != 1)) /* seen to be refused */
        return sa_rule_fail(c, SA_E_LIMIT, "weight", "a computed weight needs groups 1 and batch 1");
    SaWindow w = {0};
    Padding p;
    kernel_of_weight(weight, &w);
    SA_TRY(window_of(c, x, "weight", &w, &p));
    c->out[0] = *x;
    c->out[0].dim[1] = out;
    for (int i = 0; i < w.n; i++)
        c->out[0].dim[2 + i] = w.out[i];
    return SA_OK;
}

/* ============================== Transposed ================================ */

/* What of the full result, (in - 1) * stride + reach elements, is kept. */
static SaStatus transposed_axis(SaRuleCtx *c, const Padding *p, int64_t wanted, int i, SaWindow *w) {
    int64_t full = (w->in[i] - 1) * w->stride[i] + reach(w, i); /* two products like that of reach(): still below 2^63 */
    int64_t cut = p->pad[2 * i] + p->pad[2 * i + 1];
    if (strcmp(p->type, "same") == 0)
        cut = full - w->in[i] * w->stride[i];
    w->out[i] = wanted > 0 ? wanted : full - cut;
    w->before[i] = strcmp(p->type, "custom") == 0 ? p->pad[2 * i] : strcmp(p->type, "same") == 0 && cut > 0 ? cut / 2 : 0;
    w->after[i] = full - w->before[i] - w->out[i];
    if (w->out[i] < 1 || w->before[i] >= full)
        return sa_rule_fail(c, SA_E_SHAPE, "pad", "cuts away all %lld elements of an axis", (long long)full);
    if (wanted > 0 && w->after[i] <= -w->stride[i]) /* else a conv would not lead back to x */
        return sa_rule_fail(c, SA_E_SHAPE, "output_shape", "%lld elements: beyond the %lld that the stride allows",
                            (long long)wanted, (long long)(full - w->before[i] + w->stride[i] - 1));
    return SA_OK;
}

/* Sizes of a transposed convolution; *out are its channels. */
static SaStatus transposed_of(SaRuleCtx *c, const SaType *x, const SaType *weight, int64_t out, SaWindow *w) {
    Padding p;
    int64_t shape[SA_MAX_RANK] = {0};
    kernel_of_weight(weight, w);
    SA_TRY(window_read(c, w, &p));
    if (sa_op_arg(c->op, "output_shape")) {
        SA_TRY(sa_rule_ints_in(c, "output_shape", x->rank, 1, INT32_MAX, 0, shape));
        if (shape[0] != x->dim[0] || shape[1] != out)
            return sa_rule_fail(c, SA_E_SHAPE, "output_shape", "must begin with %lld, %lld", (long long)x->dim[0], (long long)out);
    }
    for (int i = 0; i < w->n; i++) {
        w->in[i] = x->dim[2 + i];
        SA_TRY(transposed_axis(c, &p, shape[2 + i], i, w));
    }
    return SA_OK;
}

/* x [N, C, (H,) W] · weight [C, O/groups, (kh,) kw] -> [N, O, …] */
SaStatus sa_rule_conv_transpose(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x"), *weight = sa_rule_type(c, "weight");
    int64_t out;
    SaWindow w = {0};
    SA_TRY(check_channels(c, x, weight, true, &out));
    SA_TRY(transposed_of(c, x, weight, out, &w));
    c->out[0] = *x;
    c->out[0].dim[1] = out;
    for (int i = 0; i < w.n; i++)
        c->out[0].dim[2 + i] = w.out[i];
    return SA_OK;
}

/* ============================== Pools ===================================== */

static SaStatus pool_of(SaRuleCtx *c, const SaType *x, SaWindow *w) {
    Padding p;
    w->n = x->rank - 2;
    SA_TRY(sa_rule_ints_in(c, "kernel_sizes", w->n, 1, INT32_MAX, 1, w->kernel));
    SA_TRY(window_of(c, x, "kernel_sizes", w, &p));
    if (p.ceil_mode && strncmp(p.type, "same", 4) == 0)
        return sa_rule_fail(c, SA_E_OPERAND, "ceil_mode", "needs pad_type valid or custom");
    for (int i = 0; i < w->n; i++) {
        if (p.ceil_mode && w->before[i] != w->after[i])
            return sa_rule_fail(c, SA_E_OPERAND, "pad", "must be symmetric under ceil_mode");
        if (w->before[i] >= w->kernel[i] || w->after[i] >= w->kernel[i])
            return sa_rule_fail(c, SA_E_SHAPE, "pad", "a window of %lld would hold padding only", (long long)w->kernel[i]);
    }
    return SA_OK;
}

/* max_pool, avg_pool, l2_pool: x [N, C, *D] -> [N, C, *out] */
SaStatus sa_rule_pool(SaRuleCtx *c) {
    const SaType *x = sa_rule_type(c, "x");
    SaWindow w = {0};
    SA_TRY(sa_rule_rank(c, "x", 3, c->op->id == SA_OP_L2_POOL ? 4 : SA_MAX_RANK));
    SA_TRY(pool_of(c, x, &w));
    c->out[0] = *x;
    for (int i = 0; i < w.n; i++)
        c->out[0].dim[2 + i] = w.out[i];
    return SA_OK;
}

/* ============================== For the planner =========================== */

/* See mil.h. */
bool sa_op_window(const SaOp *op, SaWindow *out) {
    SaLimits limits;
    sa_limits_default(&limits);
    SaRuleCtx c = {.op = op, .limits = &limits};
    const SaType *x = sa_rule_type(&c, "x"), *weight = sa_rule_type(&c, "weight");
    Padding p;
    memset(out, 0, sizeof *out);
    switch (op->id) {
    case SA_OP_CONV:
        kernel_of_weight(weight, out);
        return window_of(&c, x, "weight", out, &p) == SA_OK;
    case SA_OP_CONV_TRANSPOSE: return transposed_of(&c, x, weight, op->results[0]->type.dim[1], out) == SA_OK;
    case SA_OP_MAX_POOL: case SA_OP_AVG_POOL: case SA_OP_L2_POOL: return pool_of(&c, x, out) == SA_OK;
    default: return false;
    }
}
