// SPDX-License-Identifier: MIT
/* type.c - one operation: are its operands those of the table, and what type
 * do its results have? Third stage: parse.c -> type.c -> check.c.
 *
 * Operands first (known, present, of the right kind), then the rule of the
 * operation, then the comparison with the declared types. The rules live in
 * the other type_*.c; the helpers they share are here. */
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
    [SA_ARG_NUMBER] = "a scalar const",
    [SA_ARG_PAIRS] = "an int32 [n, 2] const",
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

/* Does a constant fit one of the scalar and vector kinds? */
static bool kind_fits(const SaOp *op, const SaOperandSpec *s) {
    int64_t i;
    bool b;
    float f;
    double n;
    SaDtype d;
    const char *t;
    const SaValue *v = sa_op_value(op, s->key);
    switch (s->kind) {
    case SA_ARG_INT: return sa_op_int(op, s->key, &i);
    case SA_ARG_INTS: return sa_op_ints(op, s->key, &i, 1) >= 0;
    case SA_ARG_BOOL: return sa_op_bool(op, s->key, &b);
    case SA_ARG_MASK: return sa_op_bools(op, s->key, &b, 1) >= 0;
    case SA_ARG_FLOAT: return sa_op_float(op, s->key, &f);
    case SA_ARG_STRING: return sa_op_string(op, s->key, &t);
    case SA_ARG_NUMBER: return sa_op_number(op, s->key, &n, &d);
    case SA_ARG_PAIRS:
        return !v->constant->blob_path && v->type.dtype == SA_INT32 && v->type.rank == 2 && v->type.dim[1] == 2 && sa_const_int_at(v, 0, &i);
    default: return true;
    }
}

/* The dtype of a value against the mask of its row. */
static SaStatus check_dtype(SaRuleCtx *c, const SaOperandSpec *s, const SaValue *v) {
    char want[96];
    if (v->type.rank > SA_MAX_RANK && !s->deep)
        return sa_rule_fail(c, SA_E_LIMIT, s->key, "rank %d, at most %d is allowed", v->type.rank, SA_MAX_RANK);
    if (s->dtypes & (1u << v->type.dtype))
        return SA_OK;
    mask_format(s->dtypes, want, sizeof want);
    return sa_rule_fail(c, SA_E_TYPE, s->key, "expected %s, got %s", want, sa_dtype_name(v->type.dtype));
}

/* Is `word` one of "a|b|c"? */
bool sa_word_in(const char *choices, const char *word) {
    size_t n = strlen(word);
    for (const char *p = choices; n && p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return true;
    return false;
}

/* A string against the words of its row. */
static SaStatus check_choice(SaRuleCtx *c, const SaOperandSpec *s, const char *word) {
    char list[200];
    if (sa_word_in(s->choices, word) && !strchr(word, '|'))
        return SA_OK;
    size_t n = 0;
    for (const char *p = s->choices; *p && n + 3 < sizeof list; p++) {
        list[n++] = *p == '|' ? ',' : *p;
        if (*p == '|')
            list[n++] = ' ';
    }
    list[n] = '\0';
    return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected one of %s; got \"%.40s\"", list, word);
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
        if (s->kind == SA_ARG_CONST && !(sa_op_is_constexpr(c->op) ? v->constant != NULL : sa_value_is_constant(v)))
            return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected a const tensor, got the computed '%.60s'", v->name);
        return SA_OK;
    }
    if (!v->constant || !kind_fits(c->op, s)) {
        char got[96];
        sa_type_format(&v->type, got, sizeof got);
        return sa_rule_fail(c, SA_E_OPERAND, s->key, "expected %s, got %s%s", kind_names[s->kind], got,
                            !v->constant ? ", not a const" : v->constant->blob_path ? " from a file" : "");
    }
    if (s->kind == SA_ARG_NUMBER)
        return check_dtype(c, s, v);
    return s->kind == SA_ARG_STRING && s->choices ? check_choice(c, s, v->constant->string) : SA_OK;
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

/* Exactly n integers, each in [lo, hi]; an absent operand gives `absent` n times. */
SaStatus sa_rule_ints_in(SaRuleCtx *c, const char *key, int n, int64_t lo, int64_t hi, int64_t absent, int64_t *out) {
    for (int i = 0; i < n; i++)
        out[i] = absent;
    if (!sa_op_arg(c->op, key))
        return SA_OK;
    SA_TRY(sa_rule_ints(c, key, out, n));
    for (int i = 0; i < n; i++) {
        if (out[i] < lo)
            return lo == 0 ? sa_rule_fail(c, SA_E_OPERAND, key, "must not be negative, got %lld", (long long)out[i])
                           : sa_rule_fail(c, SA_E_OPERAND, key, "must be %lld or more, got %lld", (long long)lo, (long long)out[i]);
        if (out[i] > hi)
            return sa_rule_fail(c, SA_E_OPERAND, key, "must be %lld or less, got %lld", (long long)hi, (long long)out[i]);
    }
    return SA_OK;
}

/* A scalar in [lo, hi], or `absent`. */
SaStatus sa_rule_int_in(SaRuleCtx *c, const char *key, int64_t lo, int64_t hi, int64_t absent, int64_t *out) {
    *out = absent;
    if (!sa_op_int(c->op, key, out))
        return SA_OK;
    if (*out < lo || *out > hi)
        return sa_rule_fail(c, SA_E_OPERAND, key, "must lie in %lld … %lld, got %lld", (long long)lo, (long long)hi, (long long)*out);
    return SA_OK;
}

/* The rank of an operand lies in [lo, hi]. */
SaStatus sa_rule_rank(SaRuleCtx *c, const char *key, int lo, int hi) {
    int rank = sa_rule_type(c, key)->rank;
    if (rank >= lo && rank <= hi)
        return SA_OK;
    if (hi >= SA_MAX_RANK)
        return sa_rule_fail(c, SA_E_SHAPE, key, "rank %d or more is needed, got %d", lo, rank);
    if (lo == hi)
        return sa_rule_fail(c, SA_E_SHAPE, key, "rank %d is needed, got %d", lo, rank);
    return sa_rule_fail(c, SA_E_SHAPE, key, "rank %d %s %d is needed, got %d", lo, hi == lo + 1 ? "or" : "to", hi, rank);
}

/* An optional vector of n elements. */
SaStatus sa_rule_vector(SaRuleCtx *c, const char *key, int64_t n) {
    const SaType *t = sa_rule_type(c, key);
    if (!t || (t->rank == 1 && t->dim[0] == n))
        return SA_OK;
    return sa_rule_fail(c, SA_E_SHAPE, key, "expected a vector of %lld", (long long)n);
}

/* Results' first dtype by its word, which the table has admitted. */
SaStatus sa_rule_dtype(SaRuleCtx *c, const char *name) {
    for (int d = SA_FP16; d < SA_STRING; d++)
        if (strcmp(sa_dtype_name((SaDtype)d), name) == 0)
            c->out[0].dtype = (SaDtype)d;
    return SA_OK;
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

/* Operands and rule; c->out has room for the results. */
SaStatus sa_op_types(SaRuleCtx *c) {
    const SaOpSpec *spec = sa_op_spec(c->op->id);
    if (!spec)
        return sa_rule_fail(c, SA_E_OP, NULL, "no rule for this operation");
    if (SA_FAILPOINT("check.rule"))
        return sa_rule_fail(c, SA_E_INJECTED, NULL, "failpoint check.rule");
    if ((spec->flags & SA_SPEC_REFUSED) && !c->limits->allow_refused)
        return sa_rule_fail(c, SA_E_OP, NULL, "refused by the engine%s%s", spec->hint ? ": " : "", spec->hint ? spec->hint : "");
    SA_TRY(check_operands(c, spec));
    if (c->op->n_results != 1 && !(spec->flags & SA_SPEC_MANY))
        return sa_rule_fail(c, SA_E_TYPE, NULL, "declared %d results, the operation has one", c->op->n_results);
    return spec->rule(c);
}

/* The same, and what the text declares must be what was inferred. */
SaStatus sa_op_infer(SaRuleCtx *c) {
    SA_TRY(sa_op_types(c));
    return compare_results(c);
}
