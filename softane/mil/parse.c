// SPDX-License-Identifier: MIT
/* parse.c - MIL text -> SaProgram: the upper half of the grammar.
 *
 * Second stage of the front end: lex.c -> parse.c -> type.c -> check.c.
 * Knows the grammar and the scope of names, nothing else: no shapes, no rules.
 * One function per grammar symbol; its production is written above it.
 * All memory comes from the caller's arena and is freed with it.
 *
 * An operand may be an inline fp16 or fp32 scalar. The parser turns it into a
 * const operation of its own in front of the statement, so that every later
 * stage sees named constants only. */
#include "mil_internal.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ============================== Errors ==================================== */

/* Fill the parser's error; returns `code`, so it can end a function. */
SaStatus sa_parser_fail(SaParser *ps, SaStatus code, SaPos pos, const char *fmt, ...) {
    char text[sizeof ((SaError *)0)->text];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return sa_error_set(ps->err, code, pos, "%s", text);
}

/* The same, about an operation. */
static SaStatus fail_op(SaParser *ps, SaStatus code, SaPos pos, const SaToken *op, const char *text) {
    sa_error_set(ps->err, code, pos, "%s", text);
    if (ps->err)
        snprintf(ps->err->op, sizeof ps->err->op, "%.*s", (int)op->length, op->at);
    return code;
}

/* Out of memory, at the token that comes next. */
SaStatus sa_parser_memory(SaParser *ps) {
    return sa_parser_fail(ps, SA_E_MEMORY, ps->lx.tok.pos, "out of memory");
}

/* "expected WHAT, got TOKEN", at the token that comes next. */
SaStatus sa_parser_expected(SaParser *ps, const char *what) {
    char got[64];
    sa_token_format(&ps->lx.tok, got, sizeof got);
    return sa_parser_fail(ps, SA_E_SYNTAX, ps->lx.tok.pos, "expected %s, got %s", what, got);
}

/* Move past a token of this kind. */
SaStatus sa_parser_take(SaParser *ps, int kind, const char *what) {
    if (ps->lx.tok.kind != kind)
        return sa_parser_expected(ps, what);
    return sa_lex_next(&ps->lx);
}

/* Move past this word. */
SaStatus sa_parser_word(SaParser *ps, const char *word) {
    if (!sa_token_is(&ps->lx.tok, word))
        return sa_parser_expected(ps, word);
    return sa_lex_next(&ps->lx);
}

/* ============================== Vectors =================================== */

static void vec_init(SaVec *v, size_t item_bytes) {
    *v = (SaVec){.item_bytes = item_bytes};
}

/* A new zeroed item at the end, or NULL. */
static void *vec_push(SaParser *ps, SaVec *v) {
    if (v->count == v->cap) {
        int cap = v->cap ? v->cap * 2 : 8;
        size_t bytes;
        if (v->cap > INT_MAX / 2 || !sa_mul_ok((size_t)cap, v->item_bytes, &bytes))
            return NULL;
        void *items = sa_arena_alloc(ps->arena, bytes);
        if (!items)
            return NULL;
        if (v->count)
            memcpy(items, v->items, (size_t)v->count * v->item_bytes);
        v->items = items;
        v->cap = cap;
    }
    void *slot = (char *)v->items + (size_t)v->count++ * v->item_bytes;
    memset(slot, 0, v->item_bytes);
    return slot;
}

/* An exact copy of the items in the arena; NULL on failure. */
static void *vec_copy(SaParser *ps, const SaVec *v) {
    void *items = sa_arena_alloc(ps->arena, (size_t)v->count * v->item_bytes);
    if (items && v->count)
        memcpy(items, v->items, (size_t)v->count * v->item_bytes);
    return items;
}

/* Append a pointer. */
static bool vec_push_pointer(SaParser *ps, SaVec *v, void *p) {
    void **slot = vec_push(ps, v);
    if (slot)
        *slot = p;
    return slot != NULL;
}

/* ============================== Names ===================================== */

/* FNV-1a with its upper bits folded down: the table masks the lower ones. */
static size_t name_hash(const char *s, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return (size_t)(h ^ (h >> 29));
}

/* The slot of a name: taken by it, or free. The table is never full. */
static SaValue **table_slot(SaParser *ps, const char *s, size_t n) {
    size_t i = name_hash(s, n) & (ps->table_cap - 1);
    while (ps->table[i] && (strlen(ps->table[i]->name) != n || memcmp(ps->table[i]->name, s, n) != 0))
        i = (i + 1) & (ps->table_cap - 1);
    return &ps->table[i];
}

/* Double the table of names. On failure the old one stays. */
static SaStatus table_grow(SaParser *ps) {
    SaValue **old = ps->table;
    size_t old_cap = ps->table_cap;
    ps->table = sa_arena_alloc(ps->arena, old_cap * 2 * sizeof *ps->table);
    if (!ps->table) {
        ps->table = old;
        return sa_parser_memory(ps);
    }
    ps->table_cap = old_cap * 2;
    for (size_t i = 0; i < old_cap; i++)
        if (old[i])
            *table_slot(ps, old[i]->name, strlen(old[i]->name)) = old[i];
    return SA_OK;
}

/* Words that mean something else where an identifier may stand. */
static bool reserved(const SaToken *t) {
    SaDtype d;
    return sa_word_dtype(t, &d) || sa_token_is(t, "tensor") || sa_token_is(t, "true") || sa_token_is(t, "false");
}

/* ID, which must not be reserved, into the arena. */
static SaStatus identifier(SaParser *ps, const char *what, const char **out) {
    if (ps->lx.tok.kind != SA_TOK_ID || reserved(&ps->lx.tok))
        return sa_parser_expected(ps, what);
    *out = sa_arena_strndup(ps->arena, ps->lx.tok.at, ps->lx.tok.length);
    if (!*out)
        return sa_parser_memory(ps);
    return sa_lex_next(&ps->lx);
}

/* A new value without a name in the scope. NULL when memory is short. */
static SaValue *value_new(SaParser *ps, SaType type, SaPos pos) {
    SaValue *v = sa_arena_alloc(ps->arena, sizeof *v);
    if (!v || !vec_push_pointer(ps, &ps->values, v))
        return NULL;
    v->name = "";
    v->type = type;
    v->pos = pos;
    v->id = ps->values.count - 1;
    return v;
}

/* Enter a value under its name. Doubly defined names are refused. */
static SaStatus define(SaParser *ps, SaValue *v) {
    SaValue **slot = table_slot(ps, v->name, strlen(v->name));
    if (*slot)
        return sa_parser_fail(ps, SA_E_NAME, v->pos, "'%.60s' is already defined at %d:%d", v->name,
                              (*slot)->pos.line, (*slot)->pos.col);
    *slot = v;
    if (++ps->table_used * 2 > ps->table_cap)
        return table_grow(ps);
    return SA_OK;
}

/* ID that is defined. */
static SaStatus use(SaParser *ps, SaValue **out) {
    const SaToken *t = &ps->lx.tok;
    if (t->kind != SA_TOK_ID || reserved(t))
        return sa_parser_expected(ps, "an identifier");
    *out = *table_slot(ps, t->at, t->length);
    if (!*out)
        return sa_parser_fail(ps, SA_E_NAME, t->pos, "'%.*s' is not defined", (int)(t->length < 60 ? t->length : 60),
                              t->at);
    return sa_lex_next(&ps->lx);
}

/* ============================== Statements ================================ */

/* A new operation at the end of the function. */
static SaStatus op_new(SaParser *ps, SaOp **out) {
    if (ps->ops.count >= ps->limits->max_ops)
        return sa_parser_fail(ps, SA_E_LIMIT, ps->lx.tok.pos, "more than %d operations", ps->limits->max_ops);
    *out = vec_push(ps, &ps->ops);
    return *out ? SA_OK : sa_parser_memory(ps);
}

/* An inline scalar becomes a const operation; it is named when all names of
 * the function are known. */
static SaStatus inline_scalar(SaParser *ps, const SaToken *op_name, const SaToken *key, SaValue **out) {
    SaPos pos = ps->lx.tok.pos;
    const SaToken *t = &ps->lx.tok;
    char text[160];
    SaDtype d;
    snprintf(text, sizeof text, "operand '%.*s': expected the name of a const, got an inline literal",
             (int)(key->length < 60 ? key->length : 60), key->at);
    bool typed = sa_token_is(t, "tensor") || sa_word_dtype(t, &d);
    if (!typed)
        return fail_op(ps, SA_E_OPERAND, pos, op_name, text);
    /* read the type to judge it, then go back and read the whole value */
    SaType type;
    SaLexer start = ps->lx;
    SA_TRY(sa_parse_type(ps, &type));
    if (type.rank > 0 || (type.dtype != SA_FP16 && type.dtype != SA_FP32))
        return fail_op(ps, SA_E_OPERAND, pos, op_name, text);
    ps->lx = start;
    SaConst *c;
    SaOp *op;
    SA_TRY(sa_parse_value(ps, &type, &c));
    SA_TRY(op_new(ps, &op));
    SaValue *v = value_new(ps, type, pos);
    SaValue **results = sa_arena_alloc(ps->arena, sizeof *results);
    if (!v || !results || !vec_push_pointer(ps, &ps->inlined, v))
        return sa_parser_memory(ps);
    v->constant = c;
    results[0] = v;
    *op = (SaOp){.id = SA_OP_CONST, .results = results, .n_results = 1, .pos = pos};
    *out = v;
    return SA_OK;
}

/* A new operand of the statement; its key is the token that comes next. */
static SaStatus arg_new(SaParser *ps, const SaToken *op_name, SaArg **out) {
    const SaToken key = ps->lx.tok;
    for (int i = 0; i < ps->args.count; i++)
        if (sa_token_is(&key, ((SaArg *)ps->args.items)[i].key))
            return fail_op(ps, SA_E_OPERAND, key.pos, op_name, "operand given twice");
    if (ps->args.count == SA_MAX_ARGS) /* the search above stays short */
        return fail_op(ps, SA_E_LIMIT, key.pos, op_name, "too many operands");
    SaArg *a = vec_push(ps, &ps->args);
    char *name = sa_arena_strndup(ps->arena, key.at, key.length);
    if (!a || !name)
        return sa_parser_memory(ps);
    a->key = name;
    a->pos = key.pos;
    SA_TRY(sa_lex_next(&ps->lx));
    *out = a;
    return sa_parser_take(ps, '=', "'='");
}

/* kw := ID "=" (ID | "(" ID ("," ID)* ")" | inline scalar) */
static SaStatus operand(SaParser *ps, const SaToken *op_name) {
    const SaToken key = ps->lx.tok;
    if (key.kind != SA_TOK_ID)
        return sa_parser_expected(ps, "an operand");
    SaArg *a = NULL;
    SA_TRY(arg_new(ps, op_name, &a));
    ps->tuple.count = 0;
    SaValue *v;
    if (ps->lx.tok.kind == '(') {
        a->is_tuple = true;
        do {
            SA_TRY(sa_lex_next(&ps->lx));
            SA_TRY(use(ps, &v));
            if (!vec_push_pointer(ps, &ps->tuple, v))
                return sa_parser_memory(ps);
        } while (ps->lx.tok.kind == ',');
        SA_TRY(sa_parser_take(ps, ')', "',' or ')'"));
    } else {
        int kind = ps->lx.tok.kind;
        if (kind == SA_TOK_NUMBER || kind == SA_TOK_STRING || (kind == SA_TOK_ID && reserved(&ps->lx.tok)))
            SA_TRY(inline_scalar(ps, op_name, &key, &v));
        else
            SA_TRY(use(ps, &v));
        if (!vec_push_pointer(ps, &ps->tuple, v))
            return sa_parser_memory(ps);
    }
    a->count = ps->tuple.count;
    a->values = vec_copy(ps, &ps->tuple);
    return a->values ? SA_OK : sa_parser_memory(ps);
}

/* The attributes a statement has been given. */
typedef struct {
    const char *name;
    SaConst *value;
    SaType type;
    SaPos value_pos;
} Attributes;

/* An operand of a constexpr operation, given as an attribute: a constant that
 * has no name in the scope. */
static SaStatus operand_attribute(SaParser *ps, const SaToken *op_name) {
    SaArg *a = NULL;
    SaType type;
    SaConst *c;
    SA_TRY(arg_new(ps, op_name, &a));
    SaPos pos = ps->lx.tok.pos;
    SA_TRY(sa_parse_value(ps, &type, &c));
    SaValue *v = value_new(ps, type, pos);
    a->values = sa_arena_alloc(ps->arena, sizeof *a->values);
    if (!v || !a->values)
        return sa_parser_memory(ps);
    v->name = a->key;
    v->constant = c;
    a->values[0] = v;
    a->count = 1;
    a->is_attribute = true;
    return SA_OK;
}

/* attr := ID "=" VALUE          name; val of const; the operands of constexpr operations */
static SaStatus attribute(SaParser *ps, const SaToken *op_name, SaOpId id, Attributes *at) {
    const SaToken key = ps->lx.tok;
    const SaOpSpec *spec = sa_op_spec(id);
    bool name = sa_token_is(&key, "name"), val = id == SA_OP_CONST && sa_token_is(&key, "val");
    if (key.kind != SA_TOK_ID)
        return sa_parser_expected(ps, "an attribute");
    if (!name && spec && (spec->flags & SA_SPEC_CONSTEXPR))
        return operand_attribute(ps, op_name);
    if (!name && !val)
        return fail_op(ps, SA_E_OPERAND, key.pos, op_name, "unknown attribute");
    if ((name && at->name) || (val && at->value))
        return fail_op(ps, SA_E_OPERAND, key.pos, op_name, "attribute given twice");
    SA_TRY(sa_lex_next(&ps->lx));
    SA_TRY(sa_parser_take(ps, '=', "'='"));
    if (name)
        return sa_parse_string(ps, &at->name);
    at->value_pos = ps->lx.tok.pos;
    return sa_parse_value(ps, &at->type, &at->value);
}

/* results := TYPE ID ("," TYPE ID)*
 *
 * *deep gets the place of an axis above SA_MAX_RANK, which only consts have. */
static SaStatus results(SaParser *ps, SaPos *deep) {
    ps->results.count = 0;
    *deep = (SaPos){0, 0};
    for (;;) {
        SaType type;
        SA_TRY(sa_parse_type(ps, &type));
        SaPos pos = ps->lx.tok.pos;
        if (ps->deep.line && !deep->line)
            *deep = ps->deep;
        const char *name = NULL;
        SA_TRY(identifier(ps, "the name of a result", &name));
        SaValue *v = value_new(ps, type, pos);
        if (!v || !vec_push_pointer(ps, &ps->results, v))
            return sa_parser_memory(ps);
        v->name = name;
        if (ps->lx.tok.kind != ',')
            return SA_OK;
        SA_TRY(sa_lex_next(&ps->lx));
    }
}

/* The value of a const statement into its result. */
static SaStatus finish_const(SaParser *ps, const SaToken *op_name, const Attributes *at) {
    SaValue *v = *(SaValue **)ps->results.items;
    if (ps->args.count)
        return fail_op(ps, SA_E_OPERAND, ((SaArg *)ps->args.items)[0].pos, op_name, "const takes no operands");
    if (ps->results.count != 1)
        return fail_op(ps, SA_E_TYPE, op_name->pos, op_name, "const has one result");
    if (!at->value)
        return fail_op(ps, SA_E_OPERAND, op_name->pos, op_name, "missing attribute 'val'");
    if (!sa_type_equal(&v->type, &at->type)) {
        char declared[96], got[96], text[256];
        sa_type_format(&v->type, declared, sizeof declared);
        sa_type_format(&at->type, got, sizeof got);
        snprintf(text, sizeof text, "value: declared %s, got %s", declared, got);
        return fail_op(ps, SA_E_TYPE, at->value_pos, op_name, text);
    }
    v->constant = at->value;
    return SA_OK;
}

static SaStatus too_deep(SaParser *ps, SaPos pos) {
    return sa_parser_fail(ps, SA_E_LIMIT, pos, "rank above %d", SA_MAX_RANK);
}

/* Not in the table: never heard of, or known to be of no use. */
static SaStatus unknown_op(SaParser *ps, const SaToken *op_name, const char *name) {
    const SaRefusedOp *r = sa_op_refused(name);
    return fail_op(ps, SA_E_OP, op_name->pos, op_name, r ? r->reason : "unknown operation");
}

/* stmt := results "=" OP "(" (kw ("," kw)*)? ")" "[" attr ("," attr)* "]" ";" */
static SaStatus statement(SaParser *ps) {
    SaPos deep;
    SA_TRY(results(ps, &deep));
    SA_TRY(sa_parser_take(ps, '=', "'='"));
    const SaToken op_name = ps->lx.tok;
    char name[64] = ""; /* longer words are no operations */
    SaOpId id;
    if (op_name.kind != SA_TOK_ID)
        return sa_parser_expected(ps, "an operation");
    if (op_name.length < sizeof name)
        memcpy(name, op_name.at, op_name.length);
    if (!sa_op_lookup(name, &id))
        return unknown_op(ps, &op_name, name);
    if (deep.line && id != SA_OP_CONST)
        return too_deep(ps, deep);
    SA_TRY(sa_lex_next(&ps->lx));

    SA_TRY(sa_parser_take(ps, '(', "'('"));
    ps->args.count = 0;
    if (ps->lx.tok.kind != ')') {
        SA_TRY(operand(ps, &op_name));
        while (ps->lx.tok.kind == ',') {
            SA_TRY(sa_lex_next(&ps->lx));
            SA_TRY(operand(ps, &op_name));
        }
    }
    SA_TRY(sa_parser_take(ps, ')', "',' or ')'"));

    /* attributes: the name is demanded of every operation, consts need val too */
    Attributes at = {0};
    if (ps->lx.tok.kind != '[')
        return fail_op(ps, SA_E_SYNTAX, ps->lx.tok.pos, &op_name, "expected [name=…] after the operands");
    do {
        SA_TRY(sa_lex_next(&ps->lx));
        SA_TRY(attribute(ps, &op_name, id, &at));
    } while (ps->lx.tok.kind == ',');
    SA_TRY(sa_parser_take(ps, ']', "',' or ']'"));
    SA_TRY(sa_parser_take(ps, ';', "';'"));
    if (!at.name)
        return fail_op(ps, SA_E_OPERAND, op_name.pos, &op_name, "missing attribute 'name'");
    if (id == SA_OP_CONST)
        SA_TRY(finish_const(ps, &op_name, &at));

    /* results become visible only now: a statement cannot use its own */
    SaOp *op;
    SA_TRY(op_new(ps, &op));
    *op = (SaOp){.id = id, .label = at.name, .n_args = ps->args.count, .n_results = ps->results.count,
                 .pos = op_name.pos};
    op->args = vec_copy(ps, &ps->args);
    op->results = vec_copy(ps, &ps->results);
    if (!op->args || !op->results)
        return sa_parser_memory(ps);
    for (int i = 0; i < op->n_results; i++)
        SA_TRY(define(ps, op->results[i]));
    return SA_OK;
}

/* ============================== Functions ================================= */

/* params := "(" (TYPE ID ("," TYPE ID)*)? ")" */
static SaStatus parameters(SaParser *ps, SaFunction *f) {
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    ps->results.count = 0;
    SaPos deep = {0, 0};
    if (ps->lx.tok.kind != ')')
        SA_TRY(results(ps, &deep));
    if (deep.line)
        return too_deep(ps, deep);
    SA_TRY(sa_parser_take(ps, ')', "',' or ')'"));
    f->n_params = ps->results.count;
    f->params = vec_copy(ps, &ps->results);
    if (!f->params)
        return sa_parser_memory(ps);
    for (int i = 0; i < f->n_params; i++)
        SA_TRY(define(ps, f->params[i]));
    if (f->n_params > ps->limits->max_ports)
        return sa_parser_fail(ps, SA_E_LIMIT, f->params[ps->limits->max_ports]->pos, "more than %d inputs",
                              ps->limits->max_ports);
    return SA_OK;
}

/* outputs := "->" "(" ID ("," ID)* ")" ";" */
static SaStatus outputs(SaParser *ps, SaFunction *f) {
    SA_TRY(sa_parser_take(ps, SA_TOK_ARROW, "'->'"));
    if (ps->lx.tok.kind != '(')
        return sa_parser_expected(ps, "'('");
    ps->tuple.count = 0;
    do {
        SA_TRY(sa_lex_next(&ps->lx));
        SaPos pos = ps->lx.tok.pos;
        SaValue *v;
        SA_TRY(use(ps, &v));
        if (ps->tuple.count >= ps->limits->max_ports)
            return sa_parser_fail(ps, SA_E_LIMIT, pos, "more than %d outputs", ps->limits->max_ports);
        for (int i = 0; i < ps->tuple.count; i++)
            if (((SaValue **)ps->tuple.items)[i] == v)
                return sa_parser_fail(ps, SA_E_NAME, pos, "'%.60s' is returned twice", v->name);
        if (v->constant || v->id < f->n_params)
            return sa_parser_fail(ps, SA_E_NAME, pos, "'%.60s' is no result of an operation: it is optimised away",
                                  v->name);
        if (!vec_push_pointer(ps, &ps->tuple, v))
            return sa_parser_memory(ps);
    } while (ps->lx.tok.kind == ',');
    SA_TRY(sa_parser_take(ps, ')', "',' or ')'"));
    SA_TRY(sa_parser_take(ps, ';', "';'"));
    f->n_outputs = ps->tuple.count;
    f->outputs = vec_copy(ps, &ps->tuple);
    return f->outputs ? SA_OK : sa_parser_memory(ps);
}

/* Names for the inline scalars that no identifier of the function has. */
static SaStatus name_inlined(SaParser *ps) {
    unsigned n = 0;
    for (int i = 0; i < ps->inlined.count; i++) {
        SaValue *v = ((SaValue **)ps->inlined.items)[i];
        char name[32];
        do
            snprintf(name, sizeof name, "inline_%u", n++);
        while (*table_slot(ps, name, strlen(name)));
        v->name = sa_arena_strndup(ps->arena, name, strlen(name));
        if (!v->name)
            return sa_parser_memory(ps);
        SA_TRY(define(ps, v));
    }
    return SA_OK;
}

/* func := "func" ID "<" ID ">" params "{" stmt* "}" outputs */
static SaStatus function(SaParser *ps, SaFunction *f) {
    /* each function is a scope of its own */
    vec_init(&ps->ops, sizeof(SaOp));
    vec_init(&ps->values, sizeof(SaValue *));
    vec_init(&ps->inlined, sizeof(SaValue *));
    ps->table_cap = 64;
    ps->table_used = 0;
    ps->table = sa_arena_alloc(ps->arena, ps->table_cap * sizeof *ps->table);
    if (!ps->table)
        return sa_parser_memory(ps);

    SA_TRY(sa_parser_word(ps, "func"));
    f->pos = ps->lx.tok.pos;
    SA_TRY(identifier(ps, "the name of a function", &f->name));
    SA_TRY(sa_parser_take(ps, '<', "'<'"));
    SA_TRY(identifier(ps, "a target such as ios18", &f->target));
    SA_TRY(sa_parser_take(ps, '>', "'>'"));
    SA_TRY(parameters(ps, f));
    SA_TRY(sa_parser_take(ps, '{', "'{'"));
    while (ps->lx.tok.kind != '}')
        SA_TRY(statement(ps));
    SA_TRY(sa_lex_next(&ps->lx));
    SA_TRY(outputs(ps, f));
    SA_TRY(name_inlined(ps));

    f->n_ops = ps->ops.count;
    f->ops = vec_copy(ps, &ps->ops);
    f->n_values = ps->values.count;
    if (!f->ops)
        return sa_parser_memory(ps);
    for (int i = 0; i < f->n_ops; i++) /* the operations stay where they are from here on */
        for (int k = 0; k < f->ops[i].n_results; k++) {
            f->ops[i].results[k]->producer = &f->ops[i];
            if (!f->ops[i].label)
                f->ops[i].label = f->ops[i].results[k]->name;
        }
    return SA_OK;
}

/* ============================== Program =================================== */

/* string type of buildInfo: string (dialect A) or tensor<string, []> (B). */
static SaStatus info_type(SaParser *ps, char *dialect) {
    char d = 'A';
    if (sa_token_is(&ps->lx.tok, "tensor")) {
        d = 'B';
        SA_TRY(sa_lex_next(&ps->lx));
        SA_TRY(sa_parser_take(ps, '<', "'<'"));
        SA_TRY(sa_parser_word(ps, "string"));
        SA_TRY(sa_parser_take(ps, ',', "','"));
        SA_TRY(sa_parser_take(ps, '[', "'['"));
        SA_TRY(sa_parser_take(ps, ']', "']'"));
        SA_TRY(sa_parser_take(ps, '>', "'>'"));
    } else {
        SA_TRY(sa_parser_word(ps, "string"));
    }
    *dialect = d;
    return SA_OK;
}

/* buildinfo := "[" "buildInfo" "=" "dict" "<" TYPE "," TYPE ">" "(" "{" pair ("," pair)* "}" ")" "]"
 * pair      := "{" STR "," STR "}"
 *
 * Decides the dialect; its strings are not checked by anyone. */
static SaStatus build_info(SaParser *ps) {
    SaPos pos = ps->lx.tok.pos;
    char value_dialect;
    if (ps->lx.tok.kind != '[')
        return sa_parser_expected(ps, "[buildInfo = …]");
    SA_TRY(sa_lex_next(&ps->lx));
    SA_TRY(sa_parser_word(ps, "buildInfo"));
    SA_TRY(sa_parser_take(ps, '=', "'='"));
    SA_TRY(sa_parser_word(ps, "dict"));
    SA_TRY(sa_parser_take(ps, '<', "'<'"));
    SA_TRY(info_type(ps, &ps->dialect));
    SA_TRY(sa_parser_take(ps, ',', "','"));
    SaPos value_pos = ps->lx.tok.pos;
    SA_TRY(info_type(ps, &value_dialect));
    if (value_dialect != ps->dialect)
        return sa_parser_fail(ps, SA_E_SYNTAX, value_pos, "dialects mixed in the type of buildInfo");
    SA_TRY(sa_parser_take(ps, '>', "'>'"));
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    if (ps->lx.tok.kind != '{')
        return sa_parser_expected(ps, "'{'");
    do {
        SA_TRY(sa_lex_next(&ps->lx));
        SA_TRY(sa_parser_take(ps, '{', "'{'"));
        SA_TRY(sa_parser_take(ps, SA_TOK_STRING, "a string"));
        SA_TRY(sa_parser_take(ps, ',', "','"));
        SA_TRY(sa_parser_take(ps, SA_TOK_STRING, "a string"));
        SA_TRY(sa_parser_take(ps, '}', "'}'"));
    } while (ps->lx.tok.kind == ',');
    SA_TRY(sa_parser_take(ps, '}', "',' or '}'"));
    SA_TRY(sa_parser_take(ps, ')', "')'"));
    SA_TRY(sa_parser_take(ps, ']', "']'"));
    if (ps->dialect == 'A' ? !ps->limits->allow_dialect_a : !ps->limits->allow_dialect_b)
        return sa_parser_fail(ps, SA_E_LIMIT, pos, "this device does not take dialect %c", ps->dialect);
    return SA_OK;
}

/* NUM of the form 1.3 */
static SaStatus version(SaParser *ps, const char **out) {
    const SaToken *t = &ps->lx.tok;
    int dots = 0;
    bool good = t->kind == SA_TOK_NUMBER && t->length <= 16 && t->at[0] != '.' && t->at[t->length - 1] != '.';
    for (size_t i = 0; good && i < t->length; i++) {
        dots += t->at[i] == '.';
        good = t->at[i] == '.' || (t->at[i] >= '0' && t->at[i] <= '9');
    }
    if (!good || dots != 1)
        return sa_parser_expected(ps, "a version such as 1.3");
    *out = sa_arena_strndup(ps->arena, t->at, t->length);
    return *out ? sa_lex_next(&ps->lx) : sa_parser_memory(ps);
}

/* program := "program" "(" NUM ")" buildinfo "{" func+ "}" */
static SaStatus program(SaParser *ps, SaProgram *p) {
    SaVec functions;
    vec_init(&functions, sizeof(SaFunction));
    SA_TRY(sa_lex_next(&ps->lx));
    SA_TRY(sa_parser_word(ps, "program"));
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    SA_TRY(version(ps, &p->version));
    SA_TRY(sa_parser_take(ps, ')', "')'"));
    SA_TRY(build_info(ps));
    p->dialect = ps->dialect;
    SA_TRY(sa_parser_take(ps, '{', "'{'"));
    do {
        if (functions.count == SA_MAX_FUNCTIONS)
            return sa_parser_fail(ps, SA_E_LIMIT, ps->lx.tok.pos, "more than %d functions", SA_MAX_FUNCTIONS);
        SaFunction *f = vec_push(ps, &functions);
        if (!f)
            return sa_parser_memory(ps);
        SA_TRY(function(ps, f));
        for (int i = 0; i < functions.count - 1; i++)
            if (strcmp(((SaFunction *)functions.items)[i].name, f->name) == 0)
                return sa_parser_fail(ps, SA_E_NAME, f->pos, "function '%.60s' is already defined", f->name);
        for (int i = 0; i < f->n_ops; i++)
            p->n_live_ops += f->ops[i].id != SA_OP_CONST;
    } while (ps->lx.tok.kind != '}');
    SA_TRY(sa_lex_next(&ps->lx));
    if (ps->lx.tok.kind != SA_TOK_EOF)
        return sa_parser_expected(ps, "end of text");
    p->functions = functions.items;
    p->n_functions = functions.count;
    return SA_OK;
}

/* See mil.h. `limits` may be NULL. The text need not be terminated and is not
 * referred to afterwards. On failure *out is NULL and the arena may hold parts. */
SaStatus sa_program_parse(SaArena *arena, const char *text, size_t bytes, const SaLimits *limits,
                          SaProgram **out, SaError *err) {
    SaLimits standard;
    *out = NULL;
    if (!limits) {
        sa_limits_default(&standard);
        limits = &standard;
    }
    if (bytes > limits->max_text_bytes || bytes > INT_MAX - 2)
        return sa_error_set(err, SA_E_LIMIT, (SaPos){0, 0}, "text of %zu bytes, at most %zu are allowed", bytes,
                            limits->max_text_bytes);
    SaParser ps = {.lx = {.p = text, .end = text + bytes, .line_start = text, .line = 1, .err = err},
                   .arena = arena, .limits = limits, .err = err};
    vec_init(&ps.args, sizeof(SaArg));
    vec_init(&ps.tuple, sizeof(SaValue *));
    vec_init(&ps.results, sizeof(SaValue *));
    SaProgram *p = sa_arena_alloc(arena, sizeof *p);
    if (!p)
        return sa_parser_memory(&ps);
    SA_TRY(program(&ps, p));
    *out = p;
    return SA_OK;
}
