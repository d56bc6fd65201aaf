// SPDX-License-Identifier: MIT
/* optable.c - the one table of operations: operands and the rule of each.
 *
 * Operand names, their optionality and the defaults noted here are those of
 * Core ML's public description of MIL; what the engine refuses or demands
 * beyond that (conv bias, log without epsilon, gelu without mode) is marked.
 *
 * dtypes: arithmetic is fp16, as the engine has it. Operations that only move
 * elements also take fp32 and bool. fp32 otherwise enters and leaves by cast. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Shorthands ================================ */

#define BIT(d) (1u << (d))
#define F16 BIT(SA_FP16)
#define BOOLS BIT(SA_BOOL)
#define MOVED (BIT(SA_FP16) | BIT(SA_FP32) | BIT(SA_BOOL))
#define CASTS (MOVED | BIT(SA_INT8) | BIT(SA_UINT8))
#define INDEX (BIT(SA_INT8) | BIT(SA_UINT8) | BIT(SA_INT16) | BIT(SA_UINT16) | BIT(SA_INT32))

#define TENSOR(k, d) {.key = k, .kind = SA_ARG_TENSOR, .required = true, .dtypes = d}
#define CONSTANT(k, r) {.key = k, .kind = SA_ARG_CONST, .required = r, .dtypes = F16}
#define TUPLE(k, d) {.key = k, .kind = SA_ARG_TUPLE, .required = true, .dtypes = d}
#define NEED(k, what) {.key = k, .kind = SA_ARG_##what, .required = true}
#define MAY(k, what) {.key = k, .kind = SA_ARG_##what, .required = false}
#define REFUSED(k, why) {.key = k, .kind = SA_ARG_REFUSED, .hint = why}

#define UNARY {sa_rule_same, {TENSOR("x", F16)}}
#define BINARY {sa_rule_binary, {TENSOR("x", F16), TENSOR("y", F16)}}
#define COMPARE {sa_rule_compare, {TENSOR("x", F16), TENSOR("y", F16)}}
#define LOGICAL {sa_rule_binary, {TENSOR("x", BOOLS), TENSOR("y", BOOLS)}}
#define REDUCE {sa_rule_reduce, {TENSOR("x", F16), MAY("axes", INTS), MAY("keep_dims", BOOL)}}

/* ============================== Table ===================================== */

static const SaOpSpec specs[SA_OP_COUNT] = {
    /* products. conv: strides, dilations 1; groups 1; pad_type "valid" */
    [SA_OP_CONV] = {sa_rule_conv, {TENSOR("x", F16), TENSOR("weight", F16), MAY("strides", INTS),
        MAY("pad_type", STRING), MAY("pad", INTS), MAY("dilations", INTS), MAY("groups", INT),
        REFUSED("bias", "the engine refuses a bias here; use add")}},
    [SA_OP_MATMUL] = {sa_rule_matmul, {TENSOR("x", F16), TENSOR("y", F16), MAY("transpose_x", BOOL),
        MAY("transpose_y", BOOL)}},
    [SA_OP_LINEAR] = {sa_rule_linear, {TENSOR("x", F16), CONSTANT("weight", true), CONSTANT("bias", false)}},

    /* two operands, broadcast */
    [SA_OP_ADD] = BINARY, [SA_OP_SUB] = BINARY, [SA_OP_MUL] = BINARY, [SA_OP_REAL_DIV] = BINARY,
    [SA_OP_FLOOR_DIV] = BINARY, [SA_OP_MOD] = BINARY, [SA_OP_POW] = BINARY,
    [SA_OP_MAXIMUM] = BINARY, [SA_OP_MINIMUM] = BINARY,
    [SA_OP_GREATER] = COMPARE, [SA_OP_GREATER_EQUAL] = COMPARE, [SA_OP_LESS] = COMPARE,
    [SA_OP_LESS_EQUAL] = COMPARE, [SA_OP_EQUAL] = COMPARE, [SA_OP_NOT_EQUAL] = COMPARE,
    [SA_OP_LOGICAL_NOT] = {sa_rule_same, {TENSOR("x", BOOLS)}},
    [SA_OP_LOGICAL_AND] = LOGICAL, [SA_OP_LOGICAL_OR] = LOGICAL, [SA_OP_LOGICAL_XOR] = LOGICAL,
    [SA_OP_SELECT] = {sa_rule_select, {TENSOR("cond", BOOLS), TENSOR("a", F16), TENSOR("b", F16)}},

    /* one operand. rsqrt: epsilon 1e-12; inverse: 1e-4 */
    [SA_OP_ABS] = UNARY, [SA_OP_SIGN] = UNARY, [SA_OP_SQRT] = UNARY, [SA_OP_SQUARE] = UNARY,
    [SA_OP_EXP] = UNARY, [SA_OP_EXP2] = UNARY, [SA_OP_ERF] = UNARY, [SA_OP_CEIL] = UNARY,
    [SA_OP_FLOOR] = UNARY, [SA_OP_ROUND] = UNARY, [SA_OP_ATAN] = UNARY, [SA_OP_SIN] = UNARY, [SA_OP_COS] = UNARY,
    [SA_OP_RSQRT] = {sa_rule_same, {TENSOR("x", F16), MAY("epsilon", FLOAT)}},
    [SA_OP_INVERSE] = {sa_rule_same, {TENSOR("x", F16), MAY("epsilon", FLOAT)}},
    [SA_OP_LOG] = {sa_rule_same, {TENSOR("x", F16), NEED("epsilon", FLOAT)}}, /* the engine demands it */
    [SA_OP_CLIP] = {sa_rule_clip, {TENSOR("x", F16), NEED("alpha", FLOAT), NEED("beta", FLOAT)}},
    [SA_OP_THRESHOLD] = {sa_rule_same, {TENSOR("x", F16), NEED("alpha", FLOAT)}},

    /* activations. sigmoid_hard: alpha 0.2, beta 0.5; scaled_tanh: 1, 1;
     * leaky_relu: alpha 0.01; elu: 1 */
    [SA_OP_SIGMOID] = UNARY, [SA_OP_TANH] = UNARY, [SA_OP_RELU] = UNARY, [SA_OP_RELU6] = UNARY,
    [SA_OP_SILU] = UNARY, [SA_OP_SOFTPLUS] = UNARY, [SA_OP_SOFTSIGN] = UNARY,
    [SA_OP_SIGMOID_HARD] = {sa_rule_same, {TENSOR("x", F16), MAY("alpha", FLOAT), MAY("beta", FLOAT)}},
    [SA_OP_SCALED_TANH] = {sa_rule_same, {TENSOR("x", F16), MAY("alpha", FLOAT), MAY("beta", FLOAT)}},
    [SA_OP_LEAKY_RELU] = {sa_rule_same, {TENSOR("x", F16), MAY("alpha", FLOAT)}},
    [SA_OP_ELU] = {sa_rule_same, {TENSOR("x", F16), MAY("alpha", FLOAT)}},
    [SA_OP_PRELU] = {sa_rule_prelu, {TENSOR("x", F16), CONSTANT("alpha", true)}},
    [SA_OP_GELU] = {sa_rule_gelu, {TENSOR("x", F16), NEED("mode", STRING)}}, /* the engine demands it */

    /* along axes; axes absent = all, keep_dims false */
    [SA_OP_REDUCE_SUM] = REDUCE, [SA_OP_REDUCE_MEAN] = REDUCE, [SA_OP_REDUCE_MAX] = REDUCE,
    [SA_OP_REDUCE_MIN] = REDUCE, [SA_OP_REDUCE_PROD] = REDUCE, [SA_OP_REDUCE_L1_NORM] = REDUCE,
    [SA_OP_REDUCE_L2_NORM] = REDUCE, [SA_OP_REDUCE_LOG_SUM] = REDUCE, [SA_OP_REDUCE_LOG_SUM_EXP] = REDUCE,
    [SA_OP_REDUCE_SUM_SQUARE] = REDUCE,
    [SA_OP_SOFTMAX] = {sa_rule_softmax, {TENSOR("x", F16), MAY("axis", INT)}}, /* -1 */
    [SA_OP_LAYER_NORM] = {sa_rule_layer_norm, {TENSOR("x", F16), MAY("axes", INTS), CONSTANT("gamma", false),
        CONSTANT("beta", false), MAY("epsilon", FLOAT)}}, /* all axes; 1e-5 */
    [SA_OP_L2_NORM] = {sa_rule_l2_norm, {TENSOR("x", F16), MAY("epsilon", FLOAT)}}, /* last three axes; 1e-6 */

    /* movement */
    [SA_OP_IDENTITY] = {sa_rule_same, {TENSOR("x", MOVED)}},
    [SA_OP_RESHAPE] = {sa_rule_reshape, {TENSOR("x", MOVED), NEED("shape", INTS)}},
    [SA_OP_TRANSPOSE] = {sa_rule_transpose, {TENSOR("x", MOVED), NEED("perm", INTS)}},
    [SA_OP_EXPAND_DIMS] = {sa_rule_expand_dims, {TENSOR("x", MOVED), NEED("axes", INTS)}},
    [SA_OP_SQUEEZE] = {sa_rule_squeeze, {TENSOR("x", MOVED), MAY("axes", INTS)}}, /* all of size 1 */
    [SA_OP_SLICE_BY_SIZE] = {sa_rule_slice_by_size, {TENSOR("x", MOVED), NEED("begin", INTS), NEED("size", INTS)}},
    [SA_OP_SLICE_BY_INDEX] = {sa_rule_slice_by_index, {TENSOR("x", MOVED), NEED("begin", INTS), NEED("end", INTS),
        MAY("stride", INTS), MAY("begin_mask", MASK), MAY("end_mask", MASK), MAY("squeeze_mask", MASK)}},
    [SA_OP_CONCAT] = {sa_rule_concat, {TUPLE("values", MOVED), NEED("axis", INT), MAY("interleave", BOOL)}},
    [SA_OP_SPLIT] = {sa_rule_split, {TENSOR("x", MOVED), MAY("num_splits", INT), MAY("split_sizes", INTS),
        NEED("axis", INT)}},
    [SA_OP_STACK] = {sa_rule_stack, {TUPLE("values", MOVED), NEED("axis", INT)}},
    [SA_OP_PAD] = {sa_rule_pad, {TENSOR("x", F16), NEED("pad", INTS), MAY("mode", STRING),
        MAY("constant_val", FLOAT)}}, /* "constant", 0 */
    [SA_OP_TILE] = {sa_rule_tile, {TENSOR("x", MOVED), NEED("reps", INTS)}},
    [SA_OP_REVERSE] = {sa_rule_reverse, {TENSOR("x", MOVED), MAY("axes", INTS)}}, /* all */
    [SA_OP_GATHER] = {sa_rule_gather, {TENSOR("x", MOVED), TENSOR("indices", INDEX), MAY("axis", INT),
        MAY("batch_dims", INT), MAY("validate_indices", BOOL)}}, /* 0, 0 */
    [SA_OP_CAST] = {sa_rule_cast, {TENSOR("x", CASTS), NEED("dtype", STRING)}},
};

/* ============================== Access ==================================== */

static const char *const names[] = {
#define SA_OP_NAME(id, name) name,
    SA_OPS(SA_OP_NAME)
#undef SA_OP_NAME
};

/* NULL for const, which takes no operands. */
const SaOpSpec *sa_op_spec(SaOpId id) {
    return id < SA_OP_COUNT && specs[id].rule ? &specs[id] : NULL;
}

const char *sa_op_name(SaOpId id) { return id < SA_OP_COUNT ? names[id] : "?"; }

bool sa_op_lookup(const char *name, SaOpId *out) {
    for (int i = 0; i < SA_OP_COUNT; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (SaOpId)i;
            return true;
        }
    return false;
}
