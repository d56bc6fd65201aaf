// SPDX-License-Identifier: MIT
/* optable.c - the one table of operations: operands, rule, documentation.
 *
 * Operand names, their optionality and defaults are those of Core ML's public
 * description of MIL; what the engine refuses or demands beyond that (conv bias,
 * log without epsilon, gelu without mode) is marked. docs/OPS.md, the fuzzers'
 * dictionary and the generator of random programs are made from this table.
 *
 * Grades: [M] measured on a Mac by others, [D] disputed, [C] claimed, [P] the
 * public description of MIL only, [I] inferred here.
 *
 * dtypes: arithmetic is fp16, as the engine has it. Operations that only move
 * elements take others too. fp32 otherwise enters and leaves by cast. */
#include "mil_internal.h"

#include <string.h>

/* ============================== Shorthands ================================ */

#define BIT(d) (1u << (d))
#define F16 BIT(SA_FP16)
#define BOOLS BIT(SA_BOOL)
#define BYTES (BIT(SA_INT8) | BIT(SA_UINT8))
#define INDEX (BYTES | BIT(SA_INT16) | BIT(SA_UINT16) | BIT(SA_INT32))
#define FLOATS (F16 | BIT(SA_FP32))
#define MOVED (FLOATS | BOOLS | INDEX)
#define NIBBLES (BIT(SA_INT4) | BIT(SA_UINT4))
#define PALETTE (BIT(SA_UINT1) | BIT(SA_UINT2) | BIT(SA_UINT3) | BIT(SA_UINT4) | BIT(SA_UINT6) | BIT(SA_UINT8))

/* An operand: key, then what is particular to it. */
#define TENSOR(k, d, ...) {.key = k, .kind = SA_ARG_TENSOR, .required = true, .dtypes = d, __VA_ARGS__}
#define MAYTENSOR(k, d, ...) {.key = k, .kind = SA_ARG_TENSOR, .dtypes = d, __VA_ARGS__}
#define CONSTANT(k, d, ...) {.key = k, .kind = SA_ARG_CONST, .required = true, .dtypes = d, __VA_ARGS__}
#define MAYCONST(k, d, ...) {.key = k, .kind = SA_ARG_CONST, .dtypes = d, __VA_ARGS__}
#define TUPLE(k, d) {.key = k, .kind = SA_ARG_TUPLE, .required = true, .dtypes = d}
#define NEED(k, what, ...) {.key = k, .kind = SA_ARG_##what, .required = true, __VA_ARGS__}
#define MAY(k, what, d, ...) {.key = k, .kind = SA_ARG_##what, .absent = d, __VA_ARGS__}
#define REFUSE(k, why) {.key = k, .kind = SA_ARG_REFUSED, .hint = why}
#define NUMBER(k, d, r, ...) {.key = k, .kind = SA_ARG_NUMBER, .dtypes = d, .required = r, __VA_ARGS__}
#define WORDS(k, r, list, ...) {.key = k, .kind = SA_ARG_STRING, .required = r, .choices = list, __VA_ARGS__}
#define X16 TENSOR("x", F16)

#define CORE "[M] maderix/ANE, training kernels"
#define MORE "[M] ironmill, sbryngelson/ANEForge"
#define PUBLIC "[P] no measurement known"
#define NEVER "[M] refused everywhere: ironmill, sbryngelson/ANEForge"

#define UNARY(what, from) {sa_rule_same, "Elementwise", {X16}, "of x", what, .source = from}
#define UNARY_REFUSED(what, from) {sa_rule_same, "Elementwise", {X16}, "of x", what, .source = from, .flags = SA_SPEC_REFUSED}
#define BINARY(what, from) {sa_rule_binary, "Two operands", {X16, TENSOR("y", F16)}, "x and y broadcast", what, .source = from}
#define COMPARE(what) {sa_rule_compare, "Two operands", {X16, TENSOR("y", F16)}, "x and y broadcast, bool", what, .source = MORE}
#define LOGICAL(what) {sa_rule_binary, "Two operands", {TENSOR("x", BOOLS), TENSOR("y", BOOLS)}, "x and y broadcast, bool", what, \
    .source = NEVER, .hint = "multiply or maximum of casts", .flags = SA_SPEC_REFUSED}
#define REDUCE(what, from) {sa_rule_reduce, "Reductions", {X16, MAY("axes", INTS, "all"), MAY("keep_dims", BOOL, "false")}, \
    "x with the axes at 1, or without them", what, .source = from}
#define ARGMAX(what) {sa_rule_argmax, "Reductions", {X16, MAY("axis", INT, "-1"), MAY("keep_dims", BOOL, "false"), \
    WORDS("output_dtype", false, "int32|uint16", .absent = "int32")}, "x with the axis at 1, or without it", what, .source = PUBLIC}
#define POOL(what, from, ...) {sa_rule_pool, "Windows", {X16, NEED("kernel_sizes", INTS), MAY("strides", INTS, "1 each"), \
    WORDS("pad_type", true, "valid|same|custom|same_lower"), MAY("pad", INTS, "0 each"), MAY("ceil_mode", BOOL, "false"), \
    __VA_ARGS__}, "[N, C, *out]", what, .source = from}
#define PADS "valid|custom|same|same_lower"
#define SAMPLING WORDS("sampling_mode", false, "DEFAULT|STRICT_ALIGN_CORNERS|ALIGN_CORNERS|OFFSET_CORNERS|UNALIGN_CORNERS", \
    .absent = "DEFAULT")
#define FACTORS NUMBER("scale_factor_height", BIT(SA_INT32) | FLOATS, false, .absent = "1"), \
    NUMBER("scale_factor_width", BIT(SA_INT32) | FLOATS, false, .absent = "1")
#define SHUFFLE(key, shape, what, from) {sa_rule_shuffle, "Images", {TENSOR("x", MOVED), NEED(key, INT)}, shape, what, .source = from}

/* ============================== Computing ================================= */

static const SaOpSpec specs[SA_OP_COUNT] = {
    [SA_OP_CONV] = {sa_rule_conv, "Products", {X16, TENSOR("weight", F16, .shape = "[O, C / groups, *kernel]"), MAY("strides", INTS, "1 each"),
        WORDS("pad_type", false, PADS, .absent = "valid"), MAY("pad", INTS, "0 each"), MAY("dilations", INTS, "1 each"),
        MAY("groups", INT, "1"), REFUSE("bias", "the engine refuses a bias here; use add")}, "[N, O, *out]",
        "y[o, s] = sum of weight[o, i, k] x[i, stride s + dilation k - pad]; summed wide, rounded once. A weight that is computed "
        "needs groups 1 and batch 1", .source = CORE},
    [SA_OP_CONV_TRANSPOSE] = {sa_rule_conv_transpose, "Products", {X16, CONSTANT("weight", F16, .shape = "[C, O / groups, *kernel]"),
        MAY("pad", INTS, "0 each"), MAY("output_shape", INTS, "from pad_type"), WORDS("pad_type", false, "valid|custom|same", .absent = "valid"),
        MAY("strides", INTS, "1 each"), MAY("dilations", INTS, "1 each"), MAY("groups", INT, "1"),
        REFUSE("bias", "the engine refuses a bias of conv; use add")}, "[N, O, *out]",
        "The gradient of conv by its input: every x adds its weights at stride s + dilation k, then pad is cut off", .source = PUBLIC},
    [SA_OP_MATMUL] = {sa_rule_matmul, "Products", {X16, TENSOR("y", F16), MAY("transpose_x", BOOL, "false"), MAY("transpose_y", BOOL, "false")},
        "leading axes broadcast, [M, N]", "x y, batched; the flags swap the last two axes first", .source = CORE},
    [SA_OP_LINEAR] = {sa_rule_linear, "Products", {X16, CONSTANT("weight", F16, .shape = "[O, I]"), MAYCONST("bias", F16, .shape = "[O]")},
        "[.., O]", "x weight^T + bias over the last axis", .source = MORE},
    [SA_OP_EINSUM] = {sa_rule_einsum, "Products", {TUPLE("values", F16), NEED("equation", STRING)}, "[(B,) C, H, W]",
        "\"nchw,nwhu->nchu\" or \"chw,whr->chr\" in any letters: contracts the last axis of the first with axis -3 of the second; the "
        "other two axes are batch and broadcast", .source = MORE},
    [SA_OP_SCALED_DOT_PRODUCT_ATTENTION] = {sa_rule_attention, "Products", {TENSOR("query", F16), TENSOR("key", F16), TENSOR("value", F16),
        MAYTENSOR("attn_mask", F16 | BOOLS, .shape = "broadcasts to [.., L, S]")}, "[.., L, V]",
        "softmax(query key^T / sqrt(E) + attn_mask) value. A bool mask keeps where it is true. Rounded between its parts, as it would be if written out [I]",
        .source = "[M] sbryngelson/ANEForge; that attn_mask is without effect: [D] maderix/ANE"},

    /* two operands, broadcast */
    [SA_OP_ADD] = BINARY("x + y", CORE), [SA_OP_SUB] = BINARY("x - y", CORE), [SA_OP_MUL] = BINARY("x y", CORE),
    [SA_OP_REAL_DIV] = BINARY("x / y; 0 when y is 0, as the engine was seen to do (numerics ieee: inf or NaN)", CORE),
    [SA_OP_FLOOR_DIV] = BINARY("floor(x / y)", MORE), [SA_OP_POW] = BINARY("x to the power y; -0.5 serves as rsqrt", CORE),
    [SA_OP_MAXIMUM] = BINARY("the larger", MORE), [SA_OP_MINIMUM] = BINARY("the smaller", MORE),
    [SA_OP_MOD] = {sa_rule_binary, "Two operands", {X16, TENSOR("y", F16)}, "x and y broadcast", "x - floor(x / y) y", NEVER,
        "use floor_div, mul and sub", SA_SPEC_REFUSED},
    [SA_OP_GREATER] = COMPARE("x > y"), [SA_OP_GREATER_EQUAL] = COMPARE("x >= y"), [SA_OP_LESS] = COMPARE("x < y"),
    [SA_OP_LESS_EQUAL] = COMPARE("x <= y"), [SA_OP_EQUAL] = COMPARE("x = y"), [SA_OP_NOT_EQUAL] = COMPARE("x differs from y"),
    [SA_OP_LOGICAL_AND] = LOGICAL("both"), [SA_OP_LOGICAL_OR] = LOGICAL("either"), [SA_OP_LOGICAL_XOR] = LOGICAL("one of two"),
    [SA_OP_LOGICAL_NOT] = {sa_rule_same, "Elementwise", {TENSOR("x", BOOLS)}, "of x, bool", "not x", .source = MORE},
    [SA_OP_SELECT] = {sa_rule_select, "Two operands", {TENSOR("cond", BOOLS), TENSOR("a", F16), TENSOR("b", F16)}, "all three broadcast",
        "a where cond is true, else b", .source = MORE},

    /* one operand */
    [SA_OP_ABS] = UNARY("magnitude", MORE), [SA_OP_SIGN] = UNARY("-1, 0 or 1", MORE), [SA_OP_SQRT] = UNARY("square root", MORE),
    [SA_OP_SQUARE] = UNARY("x x", MORE), [SA_OP_EXP] = UNARY("e^x", MORE), [SA_OP_EXP2] = UNARY("2^x", MORE), [SA_OP_ERF] = UNARY("error function", MORE),
    [SA_OP_CEIL] = UNARY("next whole number above", MORE), [SA_OP_FLOOR] = UNARY("next whole number below", MORE),
    [SA_OP_ROUND] = UNARY("nearest whole number, half to even", MORE), [SA_OP_ATAN] = UNARY("arc tangent", MORE),
    [SA_OP_SIN] = UNARY("sine", "[M] A15 and later only: sbryngelson/ANEForge"), [SA_OP_COS] = UNARY("cosine", "[M] A15 and later only: sbryngelson/ANEForge"),
    [SA_OP_TAN] = UNARY_REFUSED("tangent", NEVER), [SA_OP_ASIN] = UNARY_REFUSED("arc sine", NEVER), [SA_OP_ACOS] = UNARY_REFUSED("arc cosine", NEVER),
    [SA_OP_SINH] = UNARY_REFUSED("hyperbolic sine", NEVER), [SA_OP_COSH] = UNARY_REFUSED("hyperbolic cosine", NEVER),
    [SA_OP_ATANH] = UNARY_REFUSED("inverse hyperbolic tangent", "[I] as its neighbours"),
    [SA_OP_RSQRT] = {sa_rule_same, "Elementwise", {X16, MAY("epsilon", FLOAT, "1e-12")}, "of x", "1 / sqrt(x + epsilon)", .source = "[D] depends on the path into the engine; pow(x, -0.5) is portable"},
    [SA_OP_INVERSE] = {sa_rule_same, "Elementwise", {X16, MAY("epsilon", FLOAT, "1e-4")}, "of x", "1 / (x + epsilon)", .source = "[D] depends on the path into the engine; real_div is portable"},
    [SA_OP_LOG] = {sa_rule_same, "Elementwise", {X16, NEED("epsilon", FLOAT)}, "of x", "ln(x + epsilon); the engine demands epsilon", .source = "[D] depends on the path into the engine"},
    [SA_OP_CLIP] = {sa_rule_clip, "Elementwise", {X16, NEED("alpha", FLOAT), NEED("beta", FLOAT)}, "of x", "x kept between alpha and beta", .source = MORE},
    [SA_OP_THRESHOLD] = {sa_rule_same, "Elementwise", {X16, NEED("alpha", FLOAT)}, "of x", "the larger of x and alpha", .source = "[M] sbryngelson/ANEForge"},

    /* activations */
    [SA_OP_SIGMOID] = UNARY("1 / (1 + e^-x)", CORE), [SA_OP_TANH] = UNARY("hyperbolic tangent", MORE), [SA_OP_RELU] = UNARY("x, 0 below 0", MORE),
    [SA_OP_RELU6] = UNARY("x kept between 0 and 6", MORE), [SA_OP_SILU] = UNARY("x sigmoid(x)", MORE), [SA_OP_SOFTPLUS] = UNARY("ln(1 + e^x)", MORE),
    [SA_OP_SOFTSIGN] = UNARY("x / (1 + |x|)", MORE),
    [SA_OP_SIGMOID_HARD] = {sa_rule_same, "Elementwise", {X16, MAY("alpha", FLOAT, "0.2"), MAY("beta", FLOAT, "0.5")}, "of x", "alpha x + beta kept between 0 and 1", .source = PUBLIC},
    [SA_OP_SCALED_TANH] = {sa_rule_same, "Elementwise", {X16, MAY("alpha", FLOAT, "1"), MAY("beta", FLOAT, "1")}, "of x", "alpha tanh(beta x)", .source = "[M] sbryngelson/ANEForge"},
    [SA_OP_LEAKY_RELU] = {sa_rule_same, "Elementwise", {X16, MAY("alpha", FLOAT, "0.01")}, "of x", "x, alpha x below 0", .source = MORE},
    [SA_OP_ELU] = {sa_rule_same, "Elementwise", {X16, MAY("alpha", FLOAT, "1")}, "of x", "x, alpha (e^x - 1) below 0", .source = MORE},
    [SA_OP_CLAMPED_RELU] = {sa_rule_same, "Elementwise", {X16, NEED("alpha", FLOAT), NEED("beta", FLOAT)}, "of x", "x, alpha x below 0; at most beta", .source = PUBLIC},
    [SA_OP_LINEAR_ACTIVATION] = {sa_rule_same, "Elementwise", {X16, NEED("alpha", FLOAT), NEED("beta", FLOAT)}, "of x", "alpha x + beta", .source = PUBLIC},
    [SA_OP_THRESHOLDED_RELU] = {sa_rule_same, "Elementwise", {X16, NEED("alpha", FLOAT)}, "of x", "x, 0 below alpha", .source = PUBLIC},
    [SA_OP_PRELU] = {sa_rule_prelu, "Elementwise", {X16, CONSTANT("alpha", F16, .shape = "[C]")}, "of x", "x, alpha[c] x below 0", .source = MORE},
    [SA_OP_SOFTPLUS_PARAMETRIC] = {sa_rule_channel_vectors, "Elementwise", {X16, CONSTANT("alpha", F16, .shape = "[C]"), CONSTANT("beta", F16, .shape = "[C]")}, "of x",
        "alpha[c] ln(1 + e^(beta[c] x))", .source = PUBLIC},
    [SA_OP_GELU] = {sa_rule_same, "Elementwise", {X16, WORDS("mode", true, "EXACT|TANH_APPROXIMATION|SIGMOID_APPROXIMATION")}, "of x",
        "x times the normal distribution at x; the engine demands mode", .source = MORE},

    /* along axes */
    [SA_OP_REDUCE_SUM] = REDUCE("sum", CORE), [SA_OP_REDUCE_MEAN] = REDUCE("mean", "[D] works for ironmill and sbryngelson/ANEForge, refused for others"), [SA_OP_REDUCE_MAX] = REDUCE("largest", MORE),
    [SA_OP_REDUCE_MIN] = REDUCE("smallest", MORE), [SA_OP_REDUCE_L1_NORM] = REDUCE("sum of magnitudes", MORE),
    [SA_OP_REDUCE_L2_NORM] = REDUCE("square root of the sum of squares", MORE), [SA_OP_REDUCE_LOG_SUM] = REDUCE("ln of the sum", MORE),
    [SA_OP_REDUCE_LOG_SUM_EXP] = REDUCE("ln of the sum of e^x", MORE), [SA_OP_REDUCE_SUM_SQUARE] = REDUCE("sum of squares", MORE),
    [SA_OP_REDUCE_PROD] = {sa_rule_reduce, "Reductions", {X16, MAY("axes", INTS, "all"), MAY("keep_dims", BOOL, "false")}, "x with the axes at 1, or without them",
        "product", .source = NEVER, .hint = "use exp of a sum of log", .flags = SA_SPEC_REFUSED},
    [SA_OP_REDUCE_ARGMAX] = ARGMAX("index of the largest, the first of equals; int32 or uint16"),
    [SA_OP_REDUCE_ARGMIN] = ARGMAX("index of the smallest, the first of equals; int32 or uint16"),
    [SA_OP_CUMSUM] = {sa_rule_along, "Reductions", {X16, MAY("axis", INT, "0"), MAY("exclusive", BOOL, "false"), MAY("reverse", BOOL, "false")}, "of x",
        "sum of all up to each (exclusive: before it), from the end when reverse", .source = NEVER, .hint = "use matmul with a triangular constant", .flags = SA_SPEC_REFUSED},
    [SA_OP_SOFTMAX] = {sa_rule_softmax, "Norms", {X16, MAY("axis", INT, "-1")}, "of x", "e^(x - max), divided by its sum", .source = CORE},
    [SA_OP_LAYER_NORM] = {sa_rule_layer_norm, "Norms", {X16, MAY("axes", INTS, "all"), MAYCONST("gamma", F16, .shape = "x at axes"), MAYCONST("beta", F16, .shape = "x at axes"),
        MAY("epsilon", FLOAT, "1e-5")}, "of x", "(x - mean) / sqrt(variance + epsilon) gamma + beta", .source = MORE},
    [SA_OP_INSTANCE_NORM] = {sa_rule_channel_norm, "Norms", {X16, MAYCONST("gamma", F16, .shape = "[C]"), MAYCONST("beta", F16, .shape = "[C]"), MAY("epsilon", FLOAT, "1e-5")},
        "of x", "layer_norm of each image and channel over its spatial axes, then gamma[c] and beta[c]", .source = MORE},
    [SA_OP_BATCH_NORM] = {sa_rule_channel_norm, "Norms", {X16, CONSTANT("mean", F16, .shape = "[C]"), CONSTANT("variance", F16, .shape = "[C]"),
        MAYCONST("gamma", F16, .shape = "[C]"), MAYCONST("beta", F16, .shape = "[C]"), MAY("epsilon", FLOAT, "1e-5")}, "of x",
        "(x - mean[c]) / sqrt(variance[c] + epsilon) gamma[c] + beta[c]", .source = "[M] sbryngelson/ANEForge"},
    [SA_OP_L2_NORM] = {sa_rule_l2_norm, "Norms", {X16, MAY("epsilon", FLOAT, "1e-6")}, "of x", "x / sqrt(sum of squares + epsilon) over the last three axes", .source = MORE},
    [SA_OP_LOCAL_RESPONSE_NORM] = {sa_rule_lrn, "Norms", {X16, NEED("size", INT), MAY("alpha", FLOAT, "1e-4"), MAY("beta", FLOAT, "0.75"), MAY("k", FLOAT, "1")}, "of x",
        "x / (k + alpha / size sum of squares)^beta over `size` channels around each: size / 2 before, (size - 1) / 2 behind. The engine refuses 16 and more channels",
        .source = "[M] sbryngelson/ANEForge"},

    /* windows */
    [SA_OP_MAX_POOL] = POOL("largest of a window; padding never wins", "[M] sbryngelson/ANEForge"),
    [SA_OP_AVG_POOL] = POOL("mean of a window; padding counts as zeros, or not at all", PUBLIC, MAY("exclude_padding_from_average", BOOL, "false")),
    [SA_OP_L2_POOL] = POOL("square root of the sum of squares of a window", PUBLIC),

    /* ============================== Moving ================================= */

    [SA_OP_IDENTITY] = {sa_rule_same, "Movement", {TENSOR("x", MOVED)}, "of x", "x", .source = MORE},
    [SA_OP_RESHAPE] = {sa_rule_reshape, "Movement", {TENSOR("x", MOVED), NEED("shape", INTS)}, "shape; 0 copies an axis, one -1 takes the rest", "row-major", .source = CORE},
    [SA_OP_TRANSPOSE] = {sa_rule_transpose, "Movement", {TENSOR("x", MOVED), NEED("perm", INTS)}, "x permuted", "axis i of the result is axis perm[i] of x", .source = CORE},
    [SA_OP_EXPAND_DIMS] = {sa_rule_expand_dims, "Movement", {TENSOR("x", MOVED), NEED("axes", INTS)}, "x with axes of 1", "axes number those of the result", .source = MORE},
    [SA_OP_SQUEEZE] = {sa_rule_squeeze, "Movement", {TENSOR("x", MOVED), MAY("axes", INTS, "all of size 1")}, "x without them", "axes of size 1 go", .source = MORE},
    [SA_OP_FLATTEN2D] = {sa_rule_flatten2d, "Movement", {TENSOR("x", MOVED), MAY("axis", INT, "1")}, "[axes before axis, the rest]", "row-major", .source = PUBLIC},
    [SA_OP_SLICE_BY_SIZE] = {sa_rule_slice_by_size, "Movement", {TENSOR("x", MOVED), NEED("begin", INTS), NEED("size", INTS)}, "size; -1 reaches to the end",
        "a part of x. Before A16 a begin above 0 on the last axis saturates at 4094", .source = CORE},
    [SA_OP_SLICE_BY_INDEX] = {sa_rule_slice_by_index, "Movement", {TENSOR("x", MOVED), NEED("begin", INTS), NEED("end", INTS),
        MAY("stride", INTS, "1 each"), MAY("begin_mask", MASK, "false"), MAY("end_mask", MASK, "false"), MAY("squeeze_mask", MASK, "false")},
        "elements taken per axis", "as Python slices; a mask takes the whole of a side, squeeze_mask drops an axis", .source = MORE},
    [SA_OP_CONCAT] = {sa_rule_concat, "Movement", {TUPLE("values", MOVED), NEED("axis", INT), MAY("interleave", BOOL, "false")}, "sizes add up along axis", "one after the other", .source = CORE},
    [SA_OP_SPLIT] = {sa_rule_split, "Movement", {TENSOR("x", MOVED), MAY("num_splits", INT, "from split_sizes"), MAY("split_sizes", INTS, "equal parts"),
        NEED("axis", INT)}, "one per part", "parts of x along axis", .source = MORE, .flags = SA_SPEC_MANY},
    [SA_OP_STACK] = {sa_rule_stack, "Movement", {TUPLE("values", MOVED), NEED("axis", INT)}, "a new axis", "one beside the other", .source = MORE},
    [SA_OP_PAD] = {sa_rule_pad, "Movement", {X16, NEED("pad", INTS), WORDS("mode", false, "constant|reflect|replicate", .absent = "constant"),
        MAY("constant_val", FLOAT, "0")}, "x with (before, after) added to its last axes", "constant_val, or x mirrored at its edge, or its edge repeated", .source = MORE},
    [SA_OP_TILE] = {sa_rule_tile, "Movement", {TENSOR("x", MOVED), NEED("reps", INTS)}, "x times reps", "x repeated", .source = MORE},
    [SA_OP_REVERSE] = {sa_rule_reverse, "Movement", {TENSOR("x", MOVED), MAY("axes", INTS, "all")}, "of x", "axes run backwards", .source = MORE},
    [SA_OP_SLIDING_WINDOWS] = {sa_rule_windows, "Movement", {TENSOR("x", MOVED), NEED("axis", INT), NEED("size", INT), MAY("stride", INT, "1")},
        "axis becomes [windows, size]", "element [i, j] is element stride i + j of the axis", .source = PUBLIC},
    [SA_OP_CAST] = {sa_rule_cast, "Movement", {TENSOR("x", MOVED), WORDS("dtype", true, "fp16|fp32|bool|int8|uint8")}, "of x, that dtype",
        "half to even, out of range to inf; to integers toward zero, kept in range. No cast to int32", .source = "[M] M4 and later, [D] on M1 and M2: maderix/ANE PR 6"},

    /* images */
    [SA_OP_UPSAMPLE_NEAREST_NEIGHBOR] = {sa_rule_upsample, "Images", {TENSOR("x", MOVED), FACTORS}, "floor(size factor)", "element i is element floor(i in / out)", .source = "[M] sbryngelson/ANEForge"},
    [SA_OP_RESIZE_NEAREST_NEIGHBOR] = {sa_rule_resize_to, "Images", {TENSOR("x", MOVED), NEED("target_size_height", INT), NEED("target_size_width", INT)},
        "the target sizes", "element i is element floor(i in / out)", .source = PUBLIC},
    [SA_OP_UPSAMPLE_BILINEAR] = {sa_rule_upsample, "Images", {X16, FACTORS, MAY("align_corners", BOOL, "true")}, "floor(size factor)",
        "resize_bilinear as STRICT_ALIGN_CORNERS, or as UNALIGN_CORNERS without align_corners", .source = PUBLIC},
    [SA_OP_RESIZE_BILINEAR] = {sa_rule_resize_to, "Images", {X16, MAY("target_size_height", INT, "1"), MAY("target_size_width", INT, "1"), SAMPLING}, "the target sizes",
        "linear between neighbours at grid points: DEFAULT i in / out; STRICT_ALIGN_CORNERS i (in - 1) / (out - 1); ALIGN_CORNERS the same, in the middle for one; "
        "OFFSET_CORNERS (i + 1/2) max(1, in - 1) / out; UNALIGN_CORNERS (i + 1/2) in / out - 1/2", .source = PUBLIC},
    [SA_OP_RESIZE] = {sa_rule_resize, "Images", {X16, NEED("shape", INTS), NEED("resized_dims", INT),
        WORDS("interpolation_mode", false, "LINEAR|NEAREST_NEIGHBOR", .absent = "LINEAR"), SAMPLING}, "the last resized_dims (1 or 2) of shape; 0 keeps an axis",
        "as resize_bilinear or resize_nearest_neighbor", .source = PUBLIC},
    [SA_OP_CROP] = {sa_rule_crop, "Images", {TENSOR("x", MOVED), NEED("crop_height", INTS), NEED("crop_width", INTS)}, "less (before, after) of the last two axes", "the inside", .source = PUBLIC},
    [SA_OP_SPACE_TO_DEPTH] = SHUFFLE("block_size", "[N, C b b, H / b, W / b]", "channel (i b + j) C + c has row i, column j of each block", "[M] sbryngelson/ANEForge"),
    [SA_OP_DEPTH_TO_SPACE] = SHUFFLE("block_size", "[N, C / (b b), H b, W b]", "undoes space_to_depth", "[M] sbryngelson/ANEForge"),
    [SA_OP_PIXEL_UNSHUFFLE] = SHUFFLE("downscale_factor", "[N, C b b, H / b, W / b]", "channel c b b + i b + j has row i, column j of each block", PUBLIC),
    [SA_OP_PIXEL_SHUFFLE] = SHUFFLE("upscale_factor", "[N, C / (b b), H b, W b]", "undoes pixel_unshuffle", "[M] sbryngelson/ANEForge"),
    [SA_OP_SPACE_TO_BATCH] = {sa_rule_space_batch, "Images", {TENSOR("x", F16), NEED("block_shape", INTS), NEED("paddings", PAIRS)},
        "[N b0 b1, C, H / b0, W / b1] of the padded x", "image (i b1 + j) N + n has row i, column j of each block", .source = PUBLIC},
    [SA_OP_BATCH_TO_SPACE] = {sa_rule_space_batch, "Images", {TENSOR("x", F16), NEED("block_shape", INTS), NEED("crops", PAIRS)},
        "[N / (b0 b1), C, H b0, W b1], cropped", "undoes space_to_batch", .source = PUBLIC},

    /* order, indices */
    [SA_OP_TOPK] = {sa_rule_topk, "Indices", {X16, MAY("k", INT, "1; -1 is all"), MAY("axis", INT, "-1"), MAY("ascending", BOOL, "false"), MAY("sort", BOOL, "true"),
        MAY("return_indices", BOOL, "true"), WORDS("output_indices_dtype", false, "int32|uint16", .absent = "int32")}, "values and indices, k along axis",
        "the k largest (or smallest) in order, the first of equals first. The engine refuses k of 3 and 4", .source = "[M] sbryngelson/ANEForge", .flags = SA_SPEC_MANY},
    [SA_OP_ARGSORT] = {sa_rule_argsort, "Indices", {X16, MAY("axis", INT, "-1"), MAY("ascending", BOOL, "false")}, "of x, int32", "indices in sorted order; equals keep theirs", .source = PUBLIC},
    [SA_OP_GATHER] = {sa_rule_gather, "Indices", {TENSOR("x", MOVED), TENSOR("indices", INDEX), MAY("axis", INT, "0"), MAY("batch_dims", INT, "0"),
        MAY("validate_indices", BOOL, "false")}, "axis replaced by those of indices", "elements of x by index, negative ones from the end", .source = "[M] constant indices only: ironmill, sbryngelson/ANEForge"},
    [SA_OP_GATHER_ALONG_AXIS] = {sa_rule_gather_along_axis, "Indices", {TENSOR("x", MOVED), TENSOR("indices", INDEX), MAY("axis", INT, "0"), MAY("validate_indices", BOOL, "false")},
        "of indices", "an index for every element of the result", .source = PUBLIC},
    [SA_OP_GATHER_ND] = {sa_rule_gather_nd, "Indices", {TENSOR("x", MOVED), TENSOR("indices", INDEX), MAY("batch_dims", INT, "0"), MAY("validate_indices", BOOL, "false")},
        "indices without their last axis, then the axes of x that it does not name", "the last axis of indices names an element or slice of x", .source = PUBLIC},
    [SA_OP_ONE_HOT] = {sa_rule_one_hot, "Indices", {TENSOR("indices", INDEX), NEED("one_hot_vector_size", INT), MAY("axis", INT, "-1"),
        NUMBER("on_value", FLOATS | BOOLS | BIT(SA_INT32), false, .absent = "1"), NUMBER("off_value", FLOATS | BOOLS | BIT(SA_INT32), false, .absent = "0")},
        "a new axis", "on_value where the position is the index, else off_value; an index outside gives off_value everywhere", .source = PUBLIC},
    [SA_OP_BAND_PART] = {sa_rule_band_part, "Indices", {X16, MAY("lower", INT, "-1"), MAY("upper", INT, "-1")}, "of x",
        "x on the diagonal, `lower` below and `upper` above it (-1: all) in the last two axes, else 0", .source = PUBLIC},
    [SA_OP_FILL] = {sa_rule_fill, "Made values", {NEED("shape", INTS), NUMBER("value", FLOATS | BOOLS | BIT(SA_INT32), true)}, "shape", "value everywhere", .source = PUBLIC},
    [SA_OP_FILL_LIKE] = {sa_rule_fill_like, "Made values", {TENSOR("ref_tensor", MOVED), NUMBER("value", FLOATS | BOOLS | BIT(SA_INT32), true)}, "of ref_tensor",
        "value everywhere", .source = PUBLIC},
    [SA_OP_RANGE_1D] = {sa_rule_range, "Made values", {NUMBER("end", FLOATS | BIT(SA_INT32), true), NUMBER("start", FLOATS | BIT(SA_INT32), true),
        NUMBER("step", FLOATS | BIT(SA_INT32), true)}, "[ceil((end - start) / step)]", "start + i step", .source = PUBLIC},

    /* quantised values, compressed constants */
    [SA_OP_QUANTIZE] = {sa_rule_quantize, "Quantised values", {TENSOR("input", F16), MAYCONST("zero_point", BYTES, .shape = "as scale"), CONSTANT("scale", F16, .shape = "scalar or [input at axis]"),
        MAY("axis", INT, "none"), WORDS("output_dtype", true, "int8|uint8")}, "of input", "round(input / scale) + zero_point, kept in range", .source = "[M] maderix/ANE on M4, [D] refused for ironmill"},
    [SA_OP_DEQUANTIZE] = {sa_rule_dequantize, "Quantised values", {TENSOR("input", BYTES), MAYCONST("zero_point", BYTES, .shape = "as scale"),
        CONSTANT("scale", FLOATS, .shape = "scalar or [input at axis]"), MAY("axis", INT, "none")}, "of input", "scale (input - zero_point)", .source = "[M] maderix/ANE on M4, [D] refused for ironmill"},
    [SA_OP_CONSTEXPR_AFFINE_DEQUANTIZE] = {sa_rule_affine, "Compressed constants", {CONSTANT("quantized_data", BYTES), CONSTANT("zero_point", BYTES | BIT(SA_FP32), .shape = "scalar or [data at axis]"),
        CONSTANT("scale", FLOATS, .shape = "scalar or [data at axis]"), NEED("axis", INT)}, "of quantized_data", "scale (quantized_data - zero_point)", .source = "[M] sbryngelson/ANEForge, [D] through the in-memory path", .flags = SA_SPEC_CONSTEXPR},
    [SA_OP_CONSTEXPR_BLOCKWISE_SHIFT_SCALE] = {sa_rule_blockwise, "Compressed constants", {CONSTANT("data", BYTES | NIBBLES | FLOATS), CONSTANT("scale", FLOATS, .shape = "divides data"),
        MAYCONST("offset", BYTES | NIBBLES | FLOATS, .shape = "as scale")}, "of data", "scale (data - offset), one of each per block", .source = "[M] oMLX on M3 to M5", .flags = SA_SPEC_CONSTEXPR},
    [SA_OP_CONSTEXPR_LUT_TO_DENSE] = {sa_rule_lut, "Compressed constants", {CONSTANT("indices", PALETTE), CONSTANT("lut", BYTES | FLOATS, .shape = "[*blocks, 2^bits, vector] or [2^bits]", .deep = true),
        MAY("vector_axis", INT, "none"), MAY("shape", INTS, "of indices")}, "of indices, times vector along vector_axis",
        "lut[index]; with `shape` indices are bytes of packed fields, the first in the lowest bits", .source = "[M] sbryngelson/ANEForge", .flags = SA_SPEC_CONSTEXPR},
    [SA_OP_CONSTEXPR_SPARSE_TO_DENSE] = {sa_rule_sparse, "Compressed constants", {CONSTANT("nonzero_data", BYTES | NIBBLES | FLOATS, .shape = "[set bits]"), CONSTANT("mask", BIT(SA_UINT1) | BIT(SA_UINT8)),
        MAY("shape", INTS, "of mask")}, "of mask, or shape", "the next of nonzero_data where mask is set, else 0; with `shape` mask is packed into bytes", .source = "[D] no measurement of the values", .flags = SA_SPEC_CONSTEXPR},
    [SA_OP_CONSTEXPR_CAST] = {sa_rule_constexpr_cast, "Compressed constants", {CONSTANT("source_val", F16), WORDS("output_dtype", true, "fp32")}, "of source_val", "the same values", .source = PUBLIC, .flags = SA_SPEC_CONSTEXPR},
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
