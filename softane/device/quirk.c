// SPDX-License-Identifier: MIT
/* quirk.c - valid programs that a chip refuses, and what the arithmetic may
 * want to know of it. Each check is one setting, so that a profile can say so. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define ZERO 1e-30f /* an operand up to this is as bad as 0 */

/* ============================== For the compiler ========================== */

static int64_t as_limit(SaSettingId id) {
    uint64_t v = sa_setting(id);
    return v == 0 || v > INT32_MAX ? INT32_MAX : (int64_t)v; /* 0 = no limit */
}

void sa_device_limits(SaLimits *out) {
    sa_limits_default(out);
    out->max_dim = as_limit(SA_SET_MAX_DIM);
    out->max_width = as_limit(SA_SET_MAX_WIDTH);
    out->max_conv_in = as_limit(SA_SET_MAX_CONV_IN);
    out->max_kernel_width = as_limit(SA_SET_MAX_KERNEL_WIDTH);
    out->allow_dialect_a = sa_setting(SA_SET_DIALECT_A) != 0;
    out->allow_dialect_b = sa_setting(SA_SET_DIALECT_B) != 0;
}

void sa_device_quirks(SaQuirks *out) {
    *out = (SaQuirks){
        .dot_limit = sa_setting_real(SA_SET_DOT_LIMIT),
        .slice_clamp = sa_setting_real(SA_SET_SLICE_CLAMP),
        .sdpa_ignores_mask = sa_setting(SA_SET_SDPA_MASK) == 0,
        .flush_subnormals = sa_setting(SA_SET_SUBNORMALS) != 0,
        .quantised_tables = sa_setting(SA_SET_TABLES) != 0,
        .winograd = sa_setting(SA_SET_CONV3X3) != 0,
    };
}

void sa_device_run_options(SaRunOptions *out) {
    SaQuirks q;
    sa_device_quirks(&q);
    out->numerics = (SaNumerics)sa_setting(SA_SET_NUMERICS);
    out->arithmetic = (q.winograd ? SA_RUN_WINOGRAD : 0u) | (q.flush_subnormals ? SA_RUN_FLUSH : 0u) |
                      (q.quantised_tables ? SA_RUN_COARSE : 0u) | (q.dot_limit > 0 ? 0u : SA_RUN_UNLIMITED) |
                      (q.sdpa_ignores_mask ? SA_RUN_UNMASKED : 0u);
    out->dot_limit = (float)q.dot_limit;
    out->slice_clamp = (float)q.slice_clamp;
}

/* ============================== A reduction times zero ==================== */

static bool is_reduction(SaOpId id) { return id >= SA_OP_REDUCE_SUM && id <= SA_OP_REDUCE_SUM_SQUARE; }

/* Is it a bound fp16 or fp32 constant of nothing but zeros? */
static bool is_zero(const SaValue *v) {
    const SaConst *c = v->constant;
    if (!c || !c->data || c->bytes == 0 || (v->type.dtype != SA_FP16 && v->type.dtype != SA_FP32))
        return false;
    size_t size = sa_dtype_bytes(v->type.dtype);
    for (size_t at = 0; at + size <= c->bytes; at += size) {
        float f;
        if (size == 2) {
            uint16_t half;
            memcpy(&half, (const char *)c->data + at, sizeof half);
            f = sa_half_to_float(half);
        } else {
            memcpy(&f, (const char *)c->data + at, sizeof f);
        }
        if (!(f <= ZERO && f >= -ZERO))
            return false;
    }
    return true;
}

/* mul(x = reduce…, y = 0), either way round. */
static bool reduction_times_zero(const SaOp *op) {
    const SaValue *x = sa_op_value(op, "x"), *y = sa_op_value(op, "y");
    if (op->id != SA_OP_MUL || !x || !y)
        return false;
    return (x->producer && is_reduction(x->producer->id) && is_zero(y)) ||
           (y->producer && is_reduction(y->producer->id) && is_zero(x));
}

/* ============================== One operation alone ====================== */

/* The only operation of a program that does something, when there is just one. */
static const SaOp *only_op(const SaProgram *p) {
    const SaOp *found = NULL;
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++) {
            const SaOp *op = &p->functions[f].ops[i];
            if (op->id == SA_OP_CONST || sa_op_is_constexpr(op))
                continue;
            if (found)
                return NULL;
            found = op;
        }
    return found;
}

/* These compile inside larger programs only. */
static bool needs_company(SaOpId id) { return id == SA_OP_RESHAPE || id == SA_OP_SLICE_BY_INDEX || id == SA_OP_TILE; }

SaStatus sa_quirk_check(const SaProgram *p, SaError *err) {
    const SaOp *only = sa_setting(SA_SET_SINGLE_OP_FAILS) ? only_op(p) : NULL;
    if (only && needs_company(only->id))
        return sa_error_set(err, SA_E_LIMIT, only->pos, "%s alone does not compile on this chip (single_op_fails)", sa_op_name(only->id));
    if (!sa_setting(SA_SET_REDUCE_ZERO_FAILS))
        return SA_OK;
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++)
            if (reduction_times_zero(&p->functions[f].ops[i]))
                return sa_error_set(err, SA_E_LIMIT, p->functions[f].ops[i].pos,
                                    "a reduction times zero does not compile on this chip (reduce_zero_fails)");
    return SA_OK;
}

/* ============================== Failures that depend on values ============ */

/* How often a text was compiled. Few: only while value_fails is set. */
typedef struct SaTextCount {
    struct SaTextCount *next;
    uint8_t digest[32];
    uint64_t compiles;
} SaTextCount;

/* The value_fails-th compile after the first of one text fails, once. */
SaStatus sa_quirk_value(const char *text, size_t bytes, SaError *err) {
    uint64_t nth = sa_setting(SA_SET_VALUE_FAILS);
    if (nth == 0)
        return SA_OK;
    SaDevice *d = sa_device();
    SaTextCount *t, *fresh = calloc(1, sizeof *fresh);
    SaPos nowhere = {0, 0};
    if (!fresh)
        return sa_error_set(err, SA_E_MEMORY, nowhere, "no memory to count compiles");
    SaSha256 h;
    sa_sha256_init(&h);
    sa_sha256_update(&h, text, bytes);
    sa_sha256_final(&h, fresh->digest);
    pthread_mutex_lock(&d->lock);
    for (t = d->texts; t && memcmp(t->digest, fresh->digest, sizeof t->digest) != 0; t = t->next) {
    }
    if (!t) {
        t = fresh;
        t->next = d->texts;
        d->texts = t;
        fresh = NULL;
    }
    bool fail = t->compiles++ == nth;
    pthread_mutex_unlock(&d->lock);
    free(fresh);
    return fail ? sa_error_set(err, SA_E_LIMIT, nowhere,
                               "failed create split by input channel: compile %llu of this text (value_fails)",
                               (unsigned long long)nth + 1)
                : SA_OK;
}
