// SPDX-License-Identifier: MIT
/* lex.c - characters -> tokens with positions. First stage of the front end.
 *
 *   ID      [A-Za-z_][A-Za-z0-9_]*
 *   NUMBER  ["-"] (digits with "." and exponent | 0x… with or without p)
 *   STRING  " … "   with \" \\ \n \t; no raw line end inside
 *   ARROW   ->
 *   others  ( ) { } [ ] < > , = ;
 *
 * White space is free. A comment runs from // to the end of its line and counts
 * as white space: generators use one to give equal programs distinct
 * identities. Block comments do not exist. Bytes outside ASCII may occur only in
 * strings and comments, NUL nowhere. Columns count bytes, from 1. */
#include "mil_internal.h"

#include <stdio.h>
#include <string.h>

/* ============================== Classes =================================== */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

/* Place of the next character. */
static SaPos here(const SaLexer *lx) {
    return (SaPos){lx->line, (int)(lx->p - lx->line_start) + 1};
}

/* Past white space and comments. */
static void skip_blank(SaLexer *lx) {
    while (lx->p < lx->end) {
        char c = *lx->p;
        if (c == '\n') {
            lx->p++;
            lx->line++;
            lx->line_start = lx->p;
        } else if (c == ' ' || c == '\t' || c == '\r') {
            lx->p++;
        } else if (c == '/' && lx->end - lx->p > 1 && lx->p[1] == '/') {
            while (lx->p < lx->end && *lx->p != '\n' && *lx->p != '\0')
                lx->p++;
        } else {
            return;
        }
    }
}

/* ============================== Tokens ==================================== */

/* A sign belongs to a number only at its start and after an exponent letter. */
static void scan_number(SaLexer *lx) {
    const char *p = lx->p;
    if (*p == '-')
        p++;
    bool hex = lx->end - p > 1 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
    for (char before = 0; p < lx->end; before = *p++) {
        bool exponent = hex ? (before == 'p' || before == 'P') : (before == 'e' || before == 'E');
        if (!is_digit(*p) && !is_letter(*p) && *p != '.' && !(exponent && (*p == '+' || *p == '-')))
            break;
    }
    lx->p = p;
}

/* The opening quote is next; on success p stands after the closing one. */
static SaStatus scan_string(SaLexer *lx) {
    lx->tok.at = ++lx->p;
    for (; lx->p < lx->end && *lx->p != '\n' && *lx->p != '\0'; lx->p++) {
        if (*lx->p == '"') {
            lx->tok.length = (size_t)(lx->p - lx->tok.at);
            lx->p++;
            return SA_OK;
        }
        if (*lx->p == '\\' && lx->end - lx->p > 1) {
            if (!memchr("\"\\nt", lx->p[1], 4))
                return sa_error_set(lx->err, SA_E_SYNTAX, here(lx), "unknown escape in a string");
            lx->p++;
        }
    }
    return sa_error_set(lx->err, SA_E_SYNTAX, lx->tok.pos, "string without an end");
}

/* Move to the next token; see mil_internal.h. */
SaStatus sa_lex_next(SaLexer *lx) {
    skip_blank(lx);
    SaToken *t = &lx->tok;
    t->pos = here(lx);
    t->at = lx->p;
    t->length = 0;
    if (lx->p == lx->end) {
        t->kind = SA_TOK_EOF;
        if (SA_FAILPOINT("lex.eof"))
            return sa_error_set(lx->err, SA_E_INJECTED, t->pos, "failpoint lex.eof");
        return SA_OK;
    }
    char c = *lx->p, next = lx->end - lx->p > 1 ? lx->p[1] : '\0';
    if (is_letter(c)) {
        t->kind = SA_TOK_ID;
        while (lx->p < lx->end && (is_letter(*lx->p) || is_digit(*lx->p)))
            lx->p++;
    } else if (is_digit(c) || (c == '.' && is_digit(next)) || (c == '-' && (is_digit(next) || next == '.'))) {
        t->kind = SA_TOK_NUMBER;
        scan_number(lx);
    } else if (c == '"') {
        t->kind = SA_TOK_STRING;
        return scan_string(lx);
    } else if (c == '-' && next == '>') {
        t->kind = SA_TOK_ARROW;
        lx->p += 2;
    } else if (c != '\0' && strchr("(){}[]<>,=;", c)) {
        t->kind = (unsigned char)c;
        lx->p++;
    } else {
        return sa_error_set(lx->err, SA_E_SYNTAX, t->pos, "unexpected byte 0x%02x", (unsigned)(unsigned char)c);
    }
    t->length = (size_t)(lx->p - t->at);
    if (t->kind == SA_TOK_ID && t->length > SA_MAX_NAME)
        return sa_error_set(lx->err, SA_E_LIMIT, t->pos, "identifier longer than %d bytes", SA_MAX_NAME);
    if (t->kind == SA_TOK_NUMBER && t->length > SA_MAX_NUMBER)
        return sa_error_set(lx->err, SA_E_LIMIT, t->pos, "number longer than %d characters", SA_MAX_NUMBER);
    return SA_OK;
}

/* Is the token the identifier `word`? */
bool sa_token_is(const SaToken *t, const char *word) {
    return t->kind == SA_TOK_ID && t->length == strlen(word) && memcmp(t->at, word, t->length) == 0;
}

/* A printable, shortened form for messages. */
void sa_token_format(const SaToken *t, char *buf, size_t cap) {
    if (t->kind == SA_TOK_EOF) {
        snprintf(buf, cap, "end of text");
        return;
    }
    char shown[33];
    size_t n = t->length < sizeof shown - 1 ? t->length : sizeof shown - 1;
    for (size_t i = 0; i < n; i++)
        shown[i] = t->at[i] >= ' ' && t->at[i] < 127 ? t->at[i] : '?';
    shown[n] = '\0';
    const char *quote = t->kind == SA_TOK_STRING ? "\"" : "'";
    snprintf(buf, cap, "%s%s%s%s", quote, shown, n < t->length ? "…" : "", quote);
}
