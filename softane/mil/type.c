// SPDX-License-Identifier: MIT
/* type.c - one operation: are its operands those of the table, and what type
 * do its results have? Third stage: parse.c -> type.c -> check.c.
 *
 * Operands first (known, present, of the right kind), then the rule of the
 * operation, then the comparison with the declared types. The rules live in
 * type_math.c and type_shape.c; the helpers they share are here. */
#include "mil_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ============================== Errors ==================================== */

/* Report a fault of operand `key` (NULL: of the operation). Returns `code`. */
SaStatus sa_rule_fail(SaRuleCtx *c, SaStatus code, const char *key, const char *fmt, ...) {
    char text[sizeof ((SaError *)0)->text];
    const SaArg *a = key ? sa_op_arg(c->op, key) : NULL;
    int n = 0;
    if (key)
        n = snprintf(text, sizeof text, "operand '%.60s': ", key);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    sa_error_set(c->err, code, a ? a->pos : c->op->pos, "%s", text);
    if (c->err)
        snprintf(c->err->op, sizeof c->err->op, "%s", sa_op_name(c->op->id));
    return code;
}

/* ============================== Operands ================================== */

static const char *const kind_names[] = {
    [SA_ARG_NONE] = "nothing",
    [SA_ARG_TENSOR] = "a value",
    [SA_ARG_CONST] = "a const tensor",
    [SA_ARG_TUPLE] = "a tuple of values",
    [SA_ARG_INT] = "an int32 scalar const",
    [SA_ARG_INTS] = "an int32 vector const",
    [SA_ARG_BOOL] = "a bool scalar const",
    [SA_ARG_MASK] = "a bool vector const",
    [SA_ARG_FLOAT] = "an fp16 or fp32 scalar const",
    [SA_ARG_STRING] = "a string const",
    [SA_ARG_REFUSED] = "nothing",
};

/* "fp16 or fp32": the dtypes of a mask, for messages. */
static void mask_format(unsigned mask, char *buf, size_t cap) {
    size_t n = 0;
    buf[0] = '\0';
    for (int d = SA_FP16; d <= SA_STRING && n < cap; d++)
        if (mask & (1u << d))
            n += (size_t)snprintf(buf + n, cap - n, "%s%s", n ? " or " : "", sa_dtype_name((SaDtype)d));
}

/* Does a value fit one of the scalar and vector kinds? */
static bool kind_fits(const SaOp *op, const SaOperandSpec *s) {
    int64_t i;
    bool b;
    float f;
    const char *t;
    switch (s->kind) {
    case SA_ARG_INT: return sa_op_int(op, s->key, &i);
    case SA_ARG_INTS: return sa_op_ints(op, s->key, &i, 1) >= 0;
    case SA_ARG_BOOL: return sa_op_bool(op, s->key, &b);
    case SA_ARG_MASK: return sa_op_bools(op, s->key, &b, 1) >= 0;
    case SA_ARG_FLOAT: return sa_op_float(op, s->key, &f);
    case SA_ARG_STRING: return sa_op_string(op, s->key, &t);
    default: return true;
    }
}

/* The dtype of a value against the mask of its row. */
static SaStatus check_dtype(SaRuleCtx *c, const SaOperandSpec *s, const SaValue *v) {
    char want[96];
    if (s->dtypes & (1u << v->type.dtype))
        return SA_OK;
    mask_format(s->dtypes, want, sizeof want);
    return sa_rule_fail(c, SA_E_TYPE, s->key, "expected %s, got %s", want, sa_dtype_name(v->type.dtype));
}

/* One given operand against its row of the table. */
static SaStatus check_operand(SaRuleCtx *c, const SaOperandSpec *s, const SaArg *a) {
    if (s->kind == SA_ARG_REFUSED)
        return sa_rule_fail(c, SA_E_OPERAND, s->key, "%s", s->hint);
    if (a->is_tuple != (s->kind == SA_ARG_TUPLE))
        return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected %s, got %s", kind_names[s->kind],
                            a->is_tuple ? "a tuple" : "a single value");
    const SaValue *v = a->values[0];
    if (s->kind == SA_ARG_TENSOR || s->kind == SA_ARG_CONST || s->kind == SA_ARG_TUPLE) {
        for (int i = 0; i < a->count; i++)
            SA_TRY(check_dtype(c, s, a->values[i]));
        if (s->kind == SA_ARG_CONST && !v->constant)
            return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected a const tensor, got the computed '%.60s'", v->name);
        return SA_OK;
    }
    if (!kind_fits(c->op, s)) {
        char got[96];
        sa_type_format(&v->type, got, sizeof got);
        return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected %s, got %s%s", kind_names[s->kind], got,
                            !v->constant ? ", not a const" : v->constant->blob_path ? " from a file" : "");
    }
    return SA_OK;
}

/* The row of an operand, or NULL. */
static const SaOperandSpec *find_operand(const SaOpSpec *spec, const char *key) {
    for (int i = 0; i < SA_MAX_OPERANDS && spec->operands[i].key; i++)
        if (strcmp(spec->operands[i].key, key) == 0)
            return &spec->operands[i];
    return NULL;
}

/* All operands of an operation: none unknown, none missing, each of its kind. */
static SaStatus check_operands(SaRuleCtx *c, const SaOpSpec *spec) {
    const SaOp *op = c->op;
    for (int i = 0; i < op->n_args; i++) {
        const SaOperandSpec *s = find_operand(spec, op->args[i].key);
        if (!s)
            return sa_rule_fail(c, SA_E_OPERAND, op->args[i].key, "unknown to this operation");
        SA_TRY(check_operand(c, s, &op->args[i]));
    }
    for (int i = 0; i < SA_MAX_OPERANDS && spec->operands[i].key; i++)
        if (spec->operands[i].required && !sa_op_arg(op, spec->operands[i].key))
            return sa_rule_fail(c, SA_E_OPERAND, spec->operands[i].key, "missing, expected %s",
                                kind_names[spec->operands[i].kind]);
    return SA_OK;
}

/* ============================== Helpers of rules ========================== */

/* Type of an operand that is no tuple, or NULL. */
const SaType *sa_rule_type(const SaRuleCtx *c, const char *key) {
    const SaValue *v = sa_op_value(c->op, key);
    return v ? &v->type : NULL;
}

/* An axis, negative ones counted from the end, into [0, rank). */
SaStatus sa_rule_axis(SaRuleCtx *c, const char *key, int64_t axis, int rank, int *out) {
    if (axis < -rank || axis >= rank)
        return sa_rule_fail(c, SA_E_SHAPE, key, "axis %lld is outside rank %d", (long long)axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return SA_OK;
}

/* Exactly `want` integers. */
SaStatus sa_rule_ints(SaRuleCtx *c, const char *key, int64_t *out, int want) {
    const SaType *t = sa_rule_type(c, key);
    if (t->rank != 1 || t->dim[0] != want || sa_op_ints(c->op, key, out, want) != want)
        return sa_rule_fail(c, SA_E_SHAPE, key, "expected %d elements, got %lld", want,
                            (long long)(t->rank == 1 ? t->dim[0] : 1));
    return SA_OK;
}

/* Distinct axes as a bit mask; an absent operand means all of them. */
SaStatus sa_rule_axes(SaRuleCtx *c, const char *key, int rank, unsigned *mask) {
    const SaType *t = sa_rule_type(c, key);
    *mask = 0;
    if (!t) {
        *mask = (1u << rank) - 1;
        return SA_OK;
    }
    const SaValue *v = sa_op_value(c->op, key);
    for (int64_t i = 0; i < t->dim[0]; i++) {
        int64_t axis;
        int at = 0;
        if (!sa_const_int_at(v, i, &axis))
            return sa_rule_fail(c, SA_E_OPERAND, key, "an axis cannot be read");
        SA_TRY(sa_rule_axis(c, key, axis, rank, &at));
        if (*mask & (1u << at))
            return sa_rule_fail(c, SA_E_SHAPE, key, "axis %d is given twice", at);
        *mask |= 1u << at;
    }
    return SA_OK;
}

/* A string operand, when given, must be one of `words` (ended by NULL). */
SaStatus sa_rule_one_of(SaRuleCtx *c, const char *key, const char *const *words) {
    const char *got;
    char list[160] = "";
    size_t n = 0;
    if (!sa_op_string(c->op, key, &got))
        return SA_OK;
    for (; *words; words++) {
        if (strcmp(*words, got) == 0)
            return SA_OK;
        if (n < sizeof list)
            n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", *words);
    }
    return sa_rule_fail(c, SA_E_OPERAND, key, "expected one of %s; got \"%.40s\"", list, got);
}

/* NumPy broadcast: aligned at the last axis, 1 stretches. */
bool sa_dims_broadcast(const int64_t *a, int rank_a, const int64_t *b, int rank_b, int64_t *out, int *rank) {
    int r = rank_a > rank_b ? rank_a : rank_b;
    for (int i = 1; i <= r; i++) { /* from the last axis */
        int64_t x = i <= rank_a ? a[rank_a - i] : 1, y = i <= rank_b ? b[rank_b - i] : 1;
        if (x != y && x != 1 && y != 1)
            return false;
        out[r - i] = x == 1 ? y : x;
    }
    *rank = r;
    return true;
}

/* ============================== Inference ================================= */

/* Declared against inferred. */
static SaStatus compare_results(SaRuleCtx *c) {
    for (int i = 0; i < c->op->n_results; i++) {
        const SaValue *v = c->op->results[i];
        if (sa_type_equal(&v->type, &c->out[i]))
            continue;
        char declared[96], inferred[96];
        sa_type_format(&v->type, declared, sizeof declared);
        sa_type_format(&c->out[i], inferred, sizeof inferred);
        sa_rule_fail(c, SA_E_TYPE, NULL, "result '%.60s': declared %s, inferred %s", v->name, declared, inferred);
        if (c->err)
            c->err->pos = v->pos;
        return SA_E_TYPE;
    }
    return SA_OK;
}

/* Check one operation; c->out has room for its results. */
SaStatus sa_op_infer(SaRuleCtx *c) {
    const SaOpSpec *spec = sa_op_spec(c->op->id);
    if (!spec)
        return sa_rule_fail(c, SA_E_OP, NULL, "no rule for this operation");
    if (SA_FAILPOINT("check.rule"))
        return sa_rule_fail(c, SA_E_INJECTED, NULL, "failpoint check.rule");
    SA_TRY(check_operands(c, spec));
    if (c->op->n_results != 1 && c->op->id != SA_OP_SPLIT)
        return sa_rule_fail(c, SA_E_TYPE, NULL, "declared %d results, the operation has one", c->op->n_results);
    SA_TRY(spec->rule(c));
    return compare_results(c);
}
