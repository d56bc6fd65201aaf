// SPDX-License-Identifier: MIT
/* mil_internal.h - what the stages of the MIL front end share with each other
 * and with nobody else: tokens, the parser's state, the operation table.
 *
 *   lex.c                        SaLexer, SaToken
 *   literal.c                    text of one literal -> bytes
 *   parse.c, parse_value.c       SaParser
 *   optable.c                    SaOpSpec
 *   type.c, type_*.c             SaRuleCtx and the rules */
#ifndef SA_MIL_INTERNAL_H
#define SA_MIL_INTERNAL_H

#include "mil.h"

/* Elements of one tensor; keeps every product of dims far from overflow. */
#define SA_MAX_COUNT ((int64_t)1 << 40)
#define SA_MAX_NAME 1024       /* bytes of an identifier or an operand key */
#define SA_MAX_NUMBER 512      /* characters of a number */
#define SA_MAX_ARGS 64         /* operands of one operation */
#define SA_MAX_FUNCTIONS 128   /* procedures of one program */

/* ============================== Lexer ===================================== */

typedef enum {
    SA_TOK_EOF = 256, SA_TOK_ID, SA_TOK_NUMBER, SA_TOK_STRING, SA_TOK_ARROW
} SaTokenKind; /* punctuation is its own character */

typedef struct {
    int kind;
    const char *at;   /* into the text; a string without its quotes */
    size_t length;
    SaPos pos;
} SaToken;

typedef struct {
    const char *p, *end, *line_start;
    int line;
    SaToken tok;      /* the token that comes next */
    SaError *err;
} SaLexer;

/* Move to the next token. SA_OK, SA_E_SYNTAX, SA_E_LIMIT or SA_E_INJECTED. */
SaStatus sa_lex_next(SaLexer *lx);
bool sa_token_is(const SaToken *t, const char *word);
/* A printable, shortened form for messages: "'axis'", "end of text". */
void sa_token_format(const SaToken *t, char *buf, size_t cap);

/* ============================== Literals ================================== */

/* Convert the literal `t` to `dtype` (not string) and store it at dst. NULL, or
 * the reason why it does not fit; *code is the status to report then. */
const char *sa_literal_store(const SaToken *t, SaDtype dtype, void *dst, SaStatus *code);

/* ============================== Parser ==================================== */

/* A growing array in the arena; old copies stay there until the program dies. */
typedef struct {
    void *items;
    size_t item_bytes;
    int count, cap;
} SaVec;

typedef struct {
    SaLexer lx;
    SaArena *arena;
    const SaLimits *limits;
    SaError *err;
    char dialect;
    SaVec ops, values, args, tuple, results; /* of the function or statement being read */
    SaValue **table;                         /* identifiers: open addressing */
    size_t table_cap, table_used;
    SaVec inlined;                           /* SaValue *: inline scalars still to be named */
} SaParser;

SaStatus sa_parser_fail(SaParser *ps, SaStatus code, SaPos pos, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
SaStatus sa_parser_memory(SaParser *ps);                       /* out of memory, here */
SaStatus sa_parser_expected(SaParser *ps, const char *what);   /* "expected …, got …" */
SaStatus sa_parser_take(SaParser *ps, int kind, const char *what);
SaStatus sa_parser_word(SaParser *ps, const char *word);

bool sa_word_dtype(const SaToken *t, SaDtype *out);
SaStatus sa_parse_type(SaParser *ps, SaType *out);
/* string("x"), tensor<string, []>("x") or "x". */
SaStatus sa_parse_string(SaParser *ps, const char **out);
/* TYPE "(" … ")" : a constant of any kind. */
SaStatus sa_parse_value(SaParser *ps, SaType *type, SaConst **out);

/* ============================== Operations ================================ */

typedef enum {
    SA_ARG_NONE = 0,
    SA_ARG_TENSOR,   /* any value */
    SA_ARG_CONST,    /* a constant tensor, also from a file */
    SA_ARG_TUPLE,    /* (a, b, …) */
    SA_ARG_INT,      /* named scalar constants … */
    SA_ARG_INTS,     /* … and vectors */
    SA_ARG_BOOL, SA_ARG_MASK, SA_ARG_FLOAT, SA_ARG_STRING,
    SA_ARG_REFUSED   /* known to Core ML, refused by the engine */
} SaArgKind;

typedef struct {
    const char *key;
    SaArgKind kind;
    bool required;
    unsigned dtypes;      /* bits 1 << SaDtype; tensors only */
    const char *hint;     /* of a refused operand */
} SaOperandSpec;

typedef struct SaRuleCtx SaRuleCtx;
typedef SaStatus (*SaRule)(SaRuleCtx *c);

enum { SA_MAX_OPERANDS = 8 };
typedef struct {
    SaRule rule;
    SaOperandSpec operands[SA_MAX_OPERANDS]; /* ended by key NULL when shorter */
} SaOpSpec;

const SaOpSpec *sa_op_spec(SaOpId id); /* NULL for const */

/* What a rule sees. It writes out[0 .. op->n_results - 1] and may assume that
 * all required operands are there and of the listed kinds and dtypes. */
struct SaRuleCtx {
    const SaOp *op;
    const SaLimits *limits;
    SaError *err;
    SaType *out;
};

/* ============================== Rules ===================================== */

/* Check one operation: operands against the table, then its rule. */
SaStatus sa_op_infer(SaRuleCtx *c);

SaStatus sa_rule_fail(SaRuleCtx *c, SaStatus code, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
const SaType *sa_rule_type(const SaRuleCtx *c, const char *key); /* NULL when absent */
/* An axis operand into [0, rank). */
SaStatus sa_rule_axis(SaRuleCtx *c, const char *key, int64_t axis, int rank, int *out);
/* An optional list of distinct axes as a bit mask; absent = all. */
SaStatus sa_rule_axes(SaRuleCtx *c, const char *key, int rank, unsigned *mask);
/* Exactly `want` integers of an operand that is there. */
SaStatus sa_rule_ints(SaRuleCtx *c, const char *key, int64_t *out, int want);
SaStatus sa_rule_one_of(SaRuleCtx *c, const char *key, const char *const *words);
/* NumPy broadcast of the first `rank_a`, `rank_b` axes; false when they do not fit. */
bool sa_dims_broadcast(const int64_t *a, int rank_a, const int64_t *b, int rank_b, int64_t *out, int *rank);
/* The i-th integer of a constant; false for blobs, floats or out of range. */
bool sa_const_int_at(const SaValue *v, int64_t i, int64_t *out);

SaStatus sa_rule_same(SaRuleCtx *c);
SaStatus sa_rule_binary(SaRuleCtx *c);
SaStatus sa_rule_compare(SaRuleCtx *c);
SaStatus sa_rule_select(SaRuleCtx *c);
SaStatus sa_rule_clip(SaRuleCtx *c);
SaStatus sa_rule_gelu(SaRuleCtx *c);
SaStatus sa_rule_prelu(SaRuleCtx *c);
SaStatus sa_rule_reduce(SaRuleCtx *c);
SaStatus sa_rule_softmax(SaRuleCtx *c);
SaStatus sa_rule_layer_norm(SaRuleCtx *c);
SaStatus sa_rule_l2_norm(SaRuleCtx *c);
SaStatus sa_rule_cast(SaRuleCtx *c);
SaStatus sa_rule_conv(SaRuleCtx *c);
SaStatus sa_rule_matmul(SaRuleCtx *c);
SaStatus sa_rule_linear(SaRuleCtx *c);
SaStatus sa_rule_reshape(SaRuleCtx *c);
SaStatus sa_rule_transpose(SaRuleCtx *c);
SaStatus sa_rule_expand_dims(SaRuleCtx *c);
SaStatus sa_rule_squeeze(SaRuleCtx *c);
SaStatus sa_rule_slice_by_size(SaRuleCtx *c);
SaStatus sa_rule_slice_by_index(SaRuleCtx *c);
SaStatus sa_rule_concat(SaRuleCtx *c);
SaStatus sa_rule_split(SaRuleCtx *c);
SaStatus sa_rule_stack(SaRuleCtx *c);
SaStatus sa_rule_pad(SaRuleCtx *c);
SaStatus sa_rule_tile(SaRuleCtx *c);
SaStatus sa_rule_reverse(SaRuleCtx *c);
SaStatus sa_rule_gather(SaRuleCtx *c);

/* Constant indices of a gather against the axis; also used once blobs are read. */
SaStatus sa_gather_check_indices(const SaOp *op, SaError *err);

#endif
