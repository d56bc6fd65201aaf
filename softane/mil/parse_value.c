// SPDX-License-Identifier: MIT
/* parse_value.c - the lower half of the grammar: types, literals, constants.
 *
 * Both dialects are read by the same functions; SaParser.dialect decides which
 * spelling of a scalar is right, and the other one is refused, because the
 * engine refuses programs that mix them. Nothing here looks at operations. */
#include "mil_internal.h"

#include <limits.h>
#include <string.h>

/* ============================== Types ===================================== */

/* DT := fp16 | fp32 | int8 | … */
bool sa_word_dtype(const SaToken *t, SaDtype *out) {
    for (int d = SA_FP16; d <= SA_STRING; d++)
        if (sa_token_is(t, sa_dtype_name((SaDtype)d))) {
            *out = (SaDtype)d;
            return true;
        }
    return false;
}

/* DT, moving past it. Other words are an unknown type, not a syntax error. */
static SaStatus dtype(SaParser *ps, SaDtype *out) {
    if (sa_word_dtype(&ps->lx.tok, out))
        return sa_lex_next(&ps->lx);
    if (ps->lx.tok.kind != SA_TOK_ID)
        return sa_parser_expected(ps, "a data type");
    char got[64];
    sa_token_format(&ps->lx.tok, got, sizeof got);
    return sa_parser_fail(ps, SA_E_TYPE, ps->lx.tok.pos, "unknown data type %s", got);
}

/* dim := DIGIT+        1 .. limits->max_dim */
static SaStatus dim(SaParser *ps, int64_t *out) {
    const SaToken *t = &ps->lx.tok;
    int64_t most = ps->limits->max_dim < INT32_MAX ? ps->limits->max_dim : INT32_MAX, n = 0;
    if (t->kind != SA_TOK_NUMBER)
        return sa_parser_expected(ps, "a dimension");
    for (size_t i = 0; i < t->length; i++) {
        if (t->at[i] < '0' || t->at[i] > '9')
            return sa_parser_expected(ps, "a dimension in decimal digits");
        n = n * 10 + (t->at[i] - '0');
        if (n > most)
            return sa_parser_fail(ps, SA_E_LIMIT, t->pos, "dimension above %lld", (long long)most);
    }
    if (n == 0)
        return sa_parser_fail(ps, SA_E_LIMIT, t->pos, "dimension is 0");
    *out = n;
    return sa_lex_next(&ps->lx);
}

/* dims := "[" (dim ("," dim)*)? "]" */
static SaStatus dims(SaParser *ps, SaType *out) {
    int64_t count = 1;
    SA_TRY(sa_parser_take(ps, '[', "'['"));
    while (ps->lx.tok.kind != ']') {
        SaPos pos = ps->lx.tok.pos;
        int64_t d = 0;
        if (out->rank == SA_MAX_RANK) /* for constants only: the caller decides */
            ps->deep = pos;
        if (out->rank == SA_DEEP_RANK)
            return sa_parser_fail(ps, SA_E_LIMIT, pos, "rank above %d", SA_DEEP_RANK);
        SA_TRY(dim(ps, &d));
        if (d > SA_MAX_COUNT / count)
            return sa_parser_fail(ps, SA_E_LIMIT, pos, "more than 2^40 elements");
        count *= d;
        out->dim[out->rank++] = d;
        if (ps->lx.tok.kind == ',') {
            SA_TRY(sa_lex_next(&ps->lx));
            if (ps->lx.tok.kind != SA_TOK_NUMBER)
                return sa_parser_expected(ps, "a dimension");
        } else if (ps->lx.tok.kind != ']') {
            return sa_parser_expected(ps, "',' or ']'");
        }
    }
    return sa_lex_next(&ps->lx);
}

/* TYPE := "tensor" "<" DT "," "[" (INT ("," INT)*)? "]" ">" | DT
 *
 * A scalar is DT in dialect A and tensor<DT, []> in dialect B. */
SaStatus sa_parse_type(SaParser *ps, SaType *out) {
    SaPos pos = ps->lx.tok.pos;
    memset(out, 0, sizeof *out);
    ps->deep = (SaPos){0, 0};
    bool spelled = sa_token_is(&ps->lx.tok, "tensor");
    if (spelled) {
        SA_TRY(sa_lex_next(&ps->lx));
        SA_TRY(sa_parser_take(ps, '<', "'<'"));
        SA_TRY(dtype(ps, &out->dtype));
        SA_TRY(sa_parser_take(ps, ',', "','"));
        SA_TRY(dims(ps, out));
        SA_TRY(sa_parser_take(ps, '>', "'>'"));
    } else {
        SA_TRY(dtype(ps, &out->dtype));
    }
    if (out->rank == 0 && spelled != (ps->dialect == 'B'))
        return sa_parser_fail(ps, SA_E_SYNTAX, pos, "dialects mixed: in this program a scalar type is spelled %s",
                              ps->dialect == 'B' ? "tensor<type, []>" : "by its name alone");
    if (out->rank > 0 && out->dtype == SA_STRING)
        return sa_parser_fail(ps, SA_E_TYPE, pos, "tensors of strings are not supported");
    return SA_OK;
}

/* ============================== Strings =================================== */

/* A STRING token, escapes resolved, into the arena. */
static SaStatus string_token(SaParser *ps, const char **out) {
    const SaToken *t = &ps->lx.tok;
    if (t->kind != SA_TOK_STRING)
        return sa_parser_expected(ps, "a string");
    char *s = sa_arena_strndup(ps->arena, t->at, t->length);
    if (!s)
        return sa_parser_memory(ps);
    size_t n = 0;
    for (size_t i = 0; i < t->length; i++) {
        char c = t->at[i];
        if (c == '\\') { /* the lexer admits four escapes and never a lone backslash */
            c = t->at[++i];
            c = c == 'n' ? '\n' : c == 't' ? '\t' : c;
        }
        s[n++] = c;
    }
    s[n] = '\0';
    *out = s;
    return sa_lex_next(&ps->lx);
}

/* strval := string(STR) | tensor<string, []>(STR) | STR */
SaStatus sa_parse_string(SaParser *ps, const char **out) {
    if (ps->lx.tok.kind == SA_TOK_STRING)
        return string_token(ps, out);
    SaPos pos = ps->lx.tok.pos;
    SaType type;
    SA_TRY(sa_parse_type(ps, &type));
    if (type.dtype != SA_STRING)
        return sa_parser_fail(ps, SA_E_TYPE, pos, "expected string, got %s", sa_dtype_name(type.dtype));
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    SA_TRY(string_token(ps, out));
    return sa_parser_take(ps, ')', "')'");
}

/* ============================== Literals ================================== */

/* lit, stored at dst. */
static SaStatus literal(SaParser *ps, SaDtype type, void *dst) {
    SaStatus code;
    const SaToken *t = &ps->lx.tok;
    if (t->kind != SA_TOK_NUMBER && t->kind != SA_TOK_STRING && t->kind != SA_TOK_ID)
        return sa_parser_expected(ps, "a literal");
    const char *why = sa_literal_store(t, type, dst, &code);
    if (why) {
        char got[64];
        sa_token_format(t, got, sizeof got);
        return sa_parser_fail(ps, code, t->pos, "literal %s for %s: %s", got, sa_dtype_name(type), why);
    }
    return sa_lex_next(&ps->lx);
}

/* State of one list: where the next element goes. */
typedef struct {
    const SaType *type;
    char *data;
    size_t item_bytes;
    int64_t stored, total;
    bool nested;
} List;

/* list := "[" (lit ("," lit)* | list ("," list)*) "]"
 *
 * `level` is the axis this list runs along; a flat list stands for all axes.
 * Recursion ends at SA_DEEP_RANK. */
static SaStatus list(SaParser *ps, List *l, int level) {
    if (SA_FAILPOINT("parse.depth"))
        return sa_parser_fail(ps, SA_E_INJECTED, ps->lx.tok.pos, "failpoint parse.depth");
    SaPos pos = ps->lx.tok.pos;
    bool leaf = !l->nested || level == l->type->rank - 1;
    int64_t want = l->nested ? l->type->dim[level] : l->total, n = 0;
    SA_TRY(sa_parser_take(ps, '[', "'['"));
    for (;; n++) {
        if (ps->lx.tok.kind == ']' && n == 0)
            break; /* an empty list: reported as a count below */
        if (n == want)
            return sa_parser_fail(ps, SA_E_SHAPE, ps->lx.tok.pos, "more than %lld elements in a list", (long long)want);
        if (leaf) {
            if (ps->lx.tok.kind == '[')
                return sa_parser_fail(ps, SA_E_SHAPE, ps->lx.tok.pos, "list nested deeper than its type");
            SA_TRY(literal(ps, l->type->dtype, l->data + (size_t)l->stored * l->item_bytes));
            l->stored++;
        } else {
            SA_TRY(list(ps, l, level + 1));
        }
        if (ps->lx.tok.kind == ']') {
            n++;
            break;
        }
        SA_TRY(sa_parser_take(ps, ',', "',' or ']'"));
    }
    if (n != want)
        return sa_parser_fail(ps, SA_E_SHAPE, pos, "list of %lld elements, expected %lld", (long long)n, (long long)want);
    return sa_lex_next(&ps->lx);
}

/* "[" "[" next? Looks ahead in the text without moving. */
static bool list_is_nested(const SaParser *ps) {
    SaLexer ahead = ps->lx;
    ahead.err = NULL;
    return sa_lex_next(&ahead) == SA_OK && ahead.tok.kind == '[';
}

/* lit | list : the elements of an inline constant. Memory is asked for only
 * when the text that is left can hold that many literals. */
static SaStatus elements(SaParser *ps, const SaType *type, SaConst *c) {
    SaPos pos = ps->lx.tok.pos;
    List l = {.type = type, .item_bytes = sa_dtype_bytes(type->dtype), .total = sa_type_count(type)};
    /* a bomb of dims meets this before any memory is asked for */
    int64_t possible = (ps->lx.end - ps->lx.tok.at) / 2 + 1; /* "0," each */
    if (l.total > possible)
        return sa_parser_fail(ps, SA_E_SHAPE, pos, "fewer literals than the %lld elements of the type",
                              (long long)l.total);
    c->bytes = (size_t)l.total * l.item_bytes;
    l.data = sa_arena_alloc(ps->arena, c->bytes);
    if (!l.data)
        return sa_parser_memory(ps);
    c->data = l.data;
    if (ps->lx.tok.kind != '[') {
        if (l.total != 1)
            return sa_parser_fail(ps, SA_E_SHAPE, pos, "one literal for %lld elements", (long long)l.total);
        return literal(ps, type->dtype, l.data);
    }
    if (type->rank == 0)
        return sa_parser_fail(ps, SA_E_SHAPE, pos, "a list for a scalar");
    l.nested = type->rank > 1 && list_is_nested(ps);
    return list(ps, &l, 0);
}

/* ============================== Constants ================================= */

/* uint64(INT), in dialect B also tensor<uint64, []>(INT). */
static SaStatus offset_value(SaParser *ps, uint64_t *out) {
    SaPos pos = ps->lx.tok.pos;
    SaDtype d;
    if (sa_word_dtype(&ps->lx.tok, &d)) { /* generators of dialect B use this form too */
        SA_TRY(sa_lex_next(&ps->lx));
    } else {
        SaType type;
        SA_TRY(sa_parse_type(ps, &type));
        d = type.rank == 0 ? type.dtype : SA_STRING;
    }
    if (d != SA_UINT64)
        return sa_parser_fail(ps, SA_E_TYPE, pos, "offset: expected uint64");
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    SA_TRY(literal(ps, SA_UINT64, out));
    return sa_parser_take(ps, ')', "')'");
}

/* BLOB := "BLOBFILE" "(" "path" "=" strval "," "offset" "=" uint64 ")", keywords in any order */
static SaStatus blob(SaParser *ps, const SaType *type, SaConst *c) {
    SaPos pos = ps->lx.tok.pos;
    bool offset_seen = false;
    SA_TRY(sa_lex_next(&ps->lx));
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    for (int i = 0; i < 2; i++) {
        if (i > 0)
            SA_TRY(sa_parser_take(ps, ',', "','"));
        if (!c->blob_path && sa_token_is(&ps->lx.tok, "path")) {
            SA_TRY(sa_lex_next(&ps->lx));
            SA_TRY(sa_parser_take(ps, '=', "'='"));
            SA_TRY(sa_parse_string(ps, &c->blob_path));
        } else if (!offset_seen && sa_token_is(&ps->lx.tok, "offset")) {
            SA_TRY(sa_lex_next(&ps->lx));
            SA_TRY(sa_parser_take(ps, '=', "'='"));
            SA_TRY(offset_value(ps, &c->blob_offset));
            offset_seen = true;
        } else {
            return sa_parser_expected(ps, c->blob_path ? "offset=" : "path=");
        }
    }
    if (type->rank == 0 || type->dtype == SA_STRING || type->dtype == SA_BOOL || type->dtype == SA_UINT64)
        return sa_parser_fail(ps, SA_E_TYPE, pos, "BLOBFILE cannot hold this type");
    c->bytes = (size_t)sa_type_count(type) * sa_dtype_bytes(type->dtype);
    return sa_parser_take(ps, ')', "')'");
}

/* VALUE := TYPE "(" (lit | list | BLOB) ")" */
SaStatus sa_parse_value(SaParser *ps, SaType *type, SaConst **out) {
    SA_TRY(sa_parse_type(ps, type));
    SaConst *c = sa_arena_alloc(ps->arena, sizeof *c);
    if (!c)
        return sa_parser_memory(ps);
    *out = c;
    SA_TRY(sa_parser_take(ps, '(', "'('"));
    if (sa_token_is(&ps->lx.tok, "BLOBFILE")) {
        SA_TRY(blob(ps, type, c));
    } else if (type->dtype == SA_STRING) {
        SA_TRY(string_token(ps, &c->string));
        c->data = c->string;
        c->bytes = strlen(c->string);
    } else {
        SA_TRY(elements(ps, type, c));
    }
    return sa_parser_take(ps, ')', "')'");
}
