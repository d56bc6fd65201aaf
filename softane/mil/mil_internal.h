// SPDX-License-Identifier: MIT
/* mil_internal.h - what the stages of the MIL front end share with each other
 * and with nobody else: tokens, the parser's state, the operation table.
 *
 *   lex.c                        SaLexer, SaToken
 *   literal.c                    text of one literal -> bytes
 *   parse.c, parse_value.c       SaParser
 *   optable.c, refused.c         SaOpSpec
 *   type.c, type_*.c             SaRuleCtx and the rules
 *   constexpr.c                  compressed constants */
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
    SaPos deep;                              /* the last type read: of its axis above SA_MAX_RANK, or 0:0 */
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
    SA_ARG_NUMBER,   /* a scalar constant of any dtype in `dtypes` */
    SA_ARG_PAIRS,    /* int32 [n, 2] constant */
    SA_ARG_REFUSED   /* known to Core ML, refused by the engine */
} SaArgKind;

typedef struct {
    const char *key;
    SaArgKind kind;
    bool required;
    unsigned dtypes;      /* bits 1 << SaDtype; tensors only */
    const char *hint;     /* of a refused operand */
    const char *absent;   /* what an absent one means: "1 each", "-1" */
    const char *shape;    /* of a tensor that must fit others: "[C]" */
    const char *choices;  /* of a string: "valid|same|custom" */
    bool deep;            /* may have a rank above SA_MAX_RANK */
} SaOperandSpec;

typedef struct SaRuleCtx SaRuleCtx;
typedef SaStatus SaRule_(SaRuleCtx *c);
typedef SaRule_ *SaRule;

enum { SA_MAX_OPERANDS = 10 };
enum {
    SA_SPEC_REFUSED = 1,     /* the engine refuses it: E_OP unless limits say otherwise */
    SA_SPEC_CONSTEXPR = 2,   /* a compressed constant; operands may be attributes */
    SA_SPEC_MANY = 4         /* may have more than one result */
};
typedef struct {
    SaRule rule;
    const char *group;                       /* heading of the documentation */
    SaOperandSpec operands[SA_MAX_OPERANDS]; /* ended by key NULL when shorter */
    const char *shape;                       /* of the result, in words */
    const char *doc;                         /* what it computes */
    const char *source;                      /* grade and origin of what is claimed */
    const char *hint;                        /* of a refused operation: what to write instead */
    unsigned flags;
} SaOpSpec;

const SaOpSpec *sa_op_spec(SaOpId id); /* NULL for const */

/* refused.c: operations of Core ML that softane knows by name only. */
typedef struct {
    const char *name, *reason, *source;
} SaRefusedOp;
const SaRefusedOp *sa_op_refused(const char *name);  /* or NULL */
const SaRefusedOp *sa_op_refused_at(int i);          /* NULL past the last */

/* What a rule sees. It writes out[0 .. op->n_results - 1] and may assume that
 * all required operands are there and of the listed kinds and dtypes. */
struct SaRuleCtx {
    const SaOp *op;
    const SaLimits *limits;
    SaError *err;
    SaType *out;
};

/* ============================== Rules ===================================== */

/* Check one operation: operands against the table, then its rule, then the
 * declared types against the inferred ones. sa_op_types leaves out the last. */
SaStatus sa_op_infer(SaRuleCtx *c);
SaStatus sa_op_types(SaRuleCtx *c);

SaStatus sa_rule_fail(SaRuleCtx *c, SaStatus code, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
const SaType *sa_rule_type(const SaRuleCtx *c, const char *key); /* NULL when absent */
/* An axis operand into [0, rank). */
SaStatus sa_rule_axis(SaRuleCtx *c, const char *key, int64_t axis, int rank, int *out);
/* An optional list of distinct axes as a bit mask; absent = all. */
SaStatus sa_rule_axes(SaRuleCtx *c, const char *key, int rank, unsigned *mask);
/* Exactly `want` integers of an operand that is there. */
SaStatus sa_rule_ints(SaRuleCtx *c, const char *key, int64_t *out, int want);
/* `what` integers of an operand, each in [lo, hi]; absent: `absent` for all. */
SaStatus sa_rule_ints_in(SaRuleCtx *c, const char *key, int n, int64_t lo, int64_t hi, int64_t absent, int64_t *out);
/* A scalar integer in [lo, hi]; absent: `absent`. */
SaStatus sa_rule_int_in(SaRuleCtx *c, const char *key, int64_t lo, int64_t hi, int64_t absent, int64_t *out);
/* The rank of x lies in [lo, hi]. */
SaStatus sa_rule_rank(SaRuleCtx *c, const char *key, int lo, int hi);
/* An optional vector of `n` elements. */
SaStatus sa_rule_vector(SaRuleCtx *c, const char *key, int64_t n);
/* Is `word` one of "a|b|c"? */
bool sa_word_in(const char *choices, const char *word);
/* The result gets the dtype of that name. */
SaStatus sa_rule_dtype(SaRuleCtx *c, const char *name);
/* NumPy broadcast of the first `rank_a`, `rank_b` axes; false when they do not fit. */
bool sa_dims_broadcast(const int64_t *a, int rank_a, const int64_t *b, int rank_b, int64_t *out, int *rank);
/* The i-th integer of a constant; false for blobs, floats or out of range. */
bool sa_const_int_at(const SaValue *v, int64_t i, int64_t *out);

SaStatus sa_rule_same(SaRuleCtx *c);
SaStatus sa_rule_binary(SaRuleCtx *c);
SaStatus sa_rule_compare(SaRuleCtx *c);
SaStatus sa_rule_select(SaRuleCtx *c);
SaStatus sa_rule_clip(SaRuleCtx *c);
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

/* type_window.c, type_image.c, type_index.c, type_const.c */
SaRule_ sa_rule_conv_transpose, sa_rule_pool, sa_rule_resize, sa_rule_resize_to, sa_rule_upsample, sa_rule_crop, sa_rule_shuffle,
    sa_rule_space_batch, sa_rule_windows, sa_rule_flatten2d, sa_rule_channel_norm, sa_rule_lrn, sa_rule_channel_vectors,
    sa_rule_argmax, sa_rule_along, sa_rule_topk, sa_rule_argsort, sa_rule_gather_along_axis, sa_rule_gather_nd,
    sa_rule_one_hot, sa_rule_band_part, sa_rule_fill, sa_rule_fill_like, sa_rule_range, sa_rule_einsum, sa_rule_attention,
    sa_rule_quantize, sa_rule_dequantize, sa_rule_affine, sa_rule_blockwise, sa_rule_lut, sa_rule_sparse, sa_rule_constexpr_cast;

/* Constant indices of a gather against the axis; also used once blobs are read. */
SaStatus sa_gather_check_indices(const SaOp *op, SaError *err);
/* The engine has no gather by computed indices. */
SaStatus sa_rule_static_indices(SaRuleCtx *c);

#endif
