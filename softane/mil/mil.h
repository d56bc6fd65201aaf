// SPDX-License-Identifier: MIT
/* mil.h - the map of the MIL front end: text in, typed program out.
 *
 *   lex.c      characters -> tokens with positions
 *   parse.c    tokens -> SaProgram (grammar only: no shapes, no limits);
 *              parse_value.c types and constants, literal.c single numbers
 *   value.c    types, and the operands of an operation
 *   optable.c  the one table of operations: operands, rules, documentation;
 *              refused.c names that are known and refused
 *   type.c     infers every result type; the rules are in type_math.c,
 *              type_window.c (conv, pools), type_shape.c, type_image.c,
 *              type_index.c and type_const.c
 *   constexpr.c  compressed weights -> plain ones
 *   check.c    validator: named constants, live outputs, device limits
 *   blob.c     weight files: container with bounds checks -> constant bytes
 *   print.c    SaProgram -> text (round trip)
 *
 * All memory of a program comes from one arena and dies with it. */
#ifndef SA_MIL_H
#define SA_MIL_H

#include "../base/base.h"

/* ============================== Types ===================================== */

#define SA_MAX_RANK 5
#define SA_DEEP_RANK 7 /* of constants only: lookup tables have two axes more than the weights */

/* The small integers exist in constants only; in memory each element has a
 * byte, in a weight file they are packed. */
typedef enum {
    SA_FP16 = 1, SA_FP32, SA_INT8, SA_UINT8, SA_INT16, SA_UINT16, SA_INT32, SA_UINT32, SA_UINT64, SA_BOOL,
    SA_INT4, SA_UINT1, SA_UINT2, SA_UINT3, SA_UINT4, SA_UINT6, SA_STRING
} SaDtype;

typedef struct {
    SaDtype dtype;
    int rank;                   /* 0 = scalar; above SA_MAX_RANK for constants only */
    int64_t dim[SA_DEEP_RANK];  /* outermost first, each >= 1 */
} SaType;

size_t sa_dtype_bytes(SaDtype t);        /* in memory: 2 for fp16 … 0 for string */
int sa_dtype_bits(SaDtype t);            /* in a weight file: 4 for int4, else 8 * bytes */
const char *sa_dtype_name(SaDtype t);    /* "fp16" */
int64_t sa_type_count(const SaType *t);  /* elements; 1 for a scalar. Types that passed the parser never overflow */
bool sa_type_equal(const SaType *a, const SaType *b);
void sa_type_format(const SaType *t, char *buf, size_t cap); /* "tensor<fp16, [1, 64, 1, 32]>" */

/* ============================== Program =================================== */

/* Every operation softane knows. X(ID, "name"). */
#define SA_OPS(X) \
    X(CONST, "const") \
    X(CONV, "conv") X(MATMUL, "matmul") X(LINEAR, "linear") \
    X(ADD, "add") X(SUB, "sub") X(MUL, "mul") X(REAL_DIV, "real_div") X(FLOOR_DIV, "floor_div") X(MOD, "mod") X(POW, "pow") \
    X(MAXIMUM, "maximum") X(MINIMUM, "minimum") \
    X(GREATER, "greater") X(GREATER_EQUAL, "greater_equal") X(LESS, "less") X(LESS_EQUAL, "less_equal") \
    X(EQUAL, "equal") X(NOT_EQUAL, "not_equal") \
    X(LOGICAL_NOT, "logical_not") X(LOGICAL_AND, "logical_and") X(LOGICAL_OR, "logical_or") X(LOGICAL_XOR, "logical_xor") \
    X(SELECT, "select") \
    X(ABS, "abs") X(SIGN, "sign") X(SQRT, "sqrt") X(RSQRT, "rsqrt") X(INVERSE, "inverse") X(SQUARE, "square") \
    X(EXP, "exp") X(EXP2, "exp2") X(LOG, "log") X(ERF, "erf") X(CEIL, "ceil") X(FLOOR, "floor") X(ROUND, "round") \
    X(ATAN, "atan") X(SIN, "sin") X(COS, "cos") X(CLIP, "clip") X(THRESHOLD, "threshold") \
    X(SIGMOID, "sigmoid") X(SIGMOID_HARD, "sigmoid_hard") X(TANH, "tanh") X(SCALED_TANH, "scaled_tanh") \
    X(RELU, "relu") X(RELU6, "relu6") X(LEAKY_RELU, "leaky_relu") X(PRELU, "prelu") X(ELU, "elu") X(SILU, "silu") \
    X(SOFTPLUS, "softplus") X(SOFTSIGN, "softsign") X(GELU, "gelu") \
    X(REDUCE_SUM, "reduce_sum") X(REDUCE_MEAN, "reduce_mean") X(REDUCE_MAX, "reduce_max") X(REDUCE_MIN, "reduce_min") \
    X(REDUCE_PROD, "reduce_prod") X(REDUCE_L1_NORM, "reduce_l1_norm") X(REDUCE_L2_NORM, "reduce_l2_norm") \
    X(REDUCE_LOG_SUM, "reduce_log_sum") X(REDUCE_LOG_SUM_EXP, "reduce_log_sum_exp") X(REDUCE_SUM_SQUARE, "reduce_sum_square") \
    X(SOFTMAX, "softmax") X(LAYER_NORM, "layer_norm") X(L2_NORM, "l2_norm") \
    X(RESHAPE, "reshape") X(TRANSPOSE, "transpose") X(EXPAND_DIMS, "expand_dims") X(SQUEEZE, "squeeze") X(IDENTITY, "identity") \
    X(SLICE_BY_SIZE, "slice_by_size") X(SLICE_BY_INDEX, "slice_by_index") X(CONCAT, "concat") X(SPLIT, "split") X(STACK, "stack") \
    X(PAD, "pad") X(TILE, "tile") X(REVERSE, "reverse") X(GATHER, "gather") X(CAST, "cast") \
    X(TAN, "tan") X(ASIN, "asin") X(ACOS, "acos") X(SINH, "sinh") X(COSH, "cosh") X(ATANH, "atanh") \
    X(CLAMPED_RELU, "clamped_relu") X(LINEAR_ACTIVATION, "linear_activation") X(THRESHOLDED_RELU, "thresholded_relu") \
    X(SOFTPLUS_PARAMETRIC, "softplus_parametric") \
    X(CONV_TRANSPOSE, "conv_transpose") X(EINSUM, "einsum") \
    X(SCALED_DOT_PRODUCT_ATTENTION, "scaled_dot_product_attention") \
    X(MAX_POOL, "max_pool") X(AVG_POOL, "avg_pool") X(L2_POOL, "l2_pool") \
    X(BATCH_NORM, "batch_norm") X(INSTANCE_NORM, "instance_norm") X(LOCAL_RESPONSE_NORM, "local_response_norm") \
    X(REDUCE_ARGMAX, "reduce_argmax") X(REDUCE_ARGMIN, "reduce_argmin") X(CUMSUM, "cumsum") \
    X(TOPK, "topk") X(ARGSORT, "argsort") \
    X(UPSAMPLE_NEAREST_NEIGHBOR, "upsample_nearest_neighbor") X(UPSAMPLE_BILINEAR, "upsample_bilinear") \
    X(RESIZE_NEAREST_NEIGHBOR, "resize_nearest_neighbor") X(RESIZE_BILINEAR, "resize_bilinear") X(RESIZE, "resize") \
    X(CROP, "crop") X(SPACE_TO_DEPTH, "space_to_depth") X(DEPTH_TO_SPACE, "depth_to_space") \
    X(PIXEL_SHUFFLE, "pixel_shuffle") X(PIXEL_UNSHUFFLE, "pixel_unshuffle") \
    X(SPACE_TO_BATCH, "space_to_batch") X(BATCH_TO_SPACE, "batch_to_space") \
    X(SLIDING_WINDOWS, "sliding_windows") X(FLATTEN2D, "flatten2d") \
    X(GATHER_ALONG_AXIS, "gather_along_axis") X(GATHER_ND, "gather_nd") \
    X(ONE_HOT, "one_hot") X(BAND_PART, "band_part") X(FILL, "fill") X(FILL_LIKE, "fill_like") X(RANGE_1D, "range_1d") \
    X(QUANTIZE, "quantize") X(DEQUANTIZE, "dequantize") \
    X(CONSTEXPR_AFFINE_DEQUANTIZE, "constexpr_affine_dequantize") \
    X(CONSTEXPR_BLOCKWISE_SHIFT_SCALE, "constexpr_blockwise_shift_scale") \
    X(CONSTEXPR_LUT_TO_DENSE, "constexpr_lut_to_dense") X(CONSTEXPR_SPARSE_TO_DENSE, "constexpr_sparse_to_dense") \
    X(CONSTEXPR_CAST, "constexpr_cast")

typedef enum {
#define SA_OP_ENUM(id, name) SA_OP_##id,
    SA_OPS(SA_OP_ENUM)
#undef SA_OP_ENUM
    SA_OP_COUNT
} SaOpId;

typedef struct SaOp SaOp;

/* The bytes of a constant, in C order, native endianness. fp16 is uint16_t
 * bits, bool is uint8_t 0/1. A BLOBFILE constant has data NULL until
 * sa_program_bind() has read it. */
typedef struct {
    const void *data;
    size_t bytes;
    const char *blob_path;   /* NULL = inline */
    uint64_t blob_offset;    /* of the blob's metadata */
    const char *string;      /* dtype string only */
} SaConst;

/* One SSA value: a parameter, a constant or the result of an operation. */
typedef struct {
    const char *name;        /* identifier */
    SaType type;
    SaPos pos;
    int id;                  /* dense, unique in its function: index for tables */
    const SaConst *constant; /* non-NULL for const results */
    SaOp *producer;          /* NULL for parameters */
} SaValue;

typedef struct {
    const char *key;         /* "x", "weight", "values" */
    SaValue **values;
    int count;               /* 1, or the length of a tuple */
    bool is_tuple;
    bool is_attribute;       /* given in the list behind the operation: one constant, without a name */
    SaPos pos;
} SaArg;

struct SaOp {
    SaOpId id;
    const char *label;       /* the name=… attribute */
    SaArg *args;
    int n_args;
    SaValue **results;
    int n_results;
    SaPos pos;
};

typedef struct {
    const char *name;        /* "main" */
    const char *target;      /* "ios18" */
    SaValue **params;
    int n_params;
    SaOp *ops;               /* in order, consts included */
    int n_ops;
    SaValue **outputs;
    int n_outputs;
    int n_values;
    SaPos pos;
} SaFunction;

typedef struct {
    const char *version;     /* "1.3" */
    char dialect;            /* 'A' (scalars) or 'B' (tensor<…, []>) */
    SaFunction *functions;
    int n_functions;
    int n_live_ops;          /* non-const ops, all functions (timing model) */
} SaProgram;

/* ============================== Operands ================================== */

/* NULL when the operand is absent. */
const SaArg *sa_op_arg(const SaOp *op, const char *key);
SaValue *sa_op_value(const SaOp *op, const char *key);

/* Read a constant operand. Return false when it is absent or not a constant of
 * a fitting dtype. Integers accept int32 (and other integer) consts; floats
 * accept fp16 and fp32. */
bool sa_op_int(const SaOp *op, const char *key, int64_t *out);
bool sa_op_bool(const SaOp *op, const char *key, bool *out);
bool sa_op_float(const SaOp *op, const char *key, float *out);
bool sa_op_string(const SaOp *op, const char *key, const char **out);
/* Writes up to cap integers, returns their number, -1 when absent. */
int sa_op_ints(const SaOp *op, const char *key, int64_t *out, int cap);
/* The same for a vector of booleans (begin_mask, …). */
int sa_op_bools(const SaOp *op, const char *key, bool *out, int cap);

/* What a slice operation takes from x, per axis of x: elements begin,
 * begin + step, … (count of them); `drop` when the axis is squeezed away. For
 * slice_by_size and slice_by_index that passed the check; false otherwise. */
typedef struct {
    int rank;
    int64_t begin[SA_MAX_RANK], step[SA_MAX_RANK], count[SA_MAX_RANK];
    bool drop[SA_MAX_RANK];
} SaSlice;
bool sa_op_slice(const SaOp *op, SaSlice *out);

/* The windows of a convolution or pool along its spatial axes; for
 * conv_transpose `before` and `after` are what is cut off the full result
 * (`after` may be negative: zeros are added). For operations that passed. */
typedef struct {
    int n;
    int64_t in[3], out[3], kernel[3], stride[3], dilation[3], before[3], after[3];
} SaWindow;
bool sa_op_window(const SaOp *op, SaWindow *out);

/* Where position i of a resized axis lies between the elements of the old one:
 * `mode` is a sampling mode of resize_bilinear. */
double sa_grid_point(const char *mode, int64_t i, int64_t in, int64_t out);
const char *sa_op_sampling(const SaOp *op); /* that mode, of any bilinear operation */

/* A scalar of any numeric dtype or bool. */
bool sa_op_number(const SaOp *op, const char *key, double *out, SaDtype *dtype);

/* Known before a run: a const, or the result of a constexpr operation. */
bool sa_value_is_constant(const SaValue *v);
bool sa_op_is_constexpr(const SaOp *op);
/* What a constexpr operation stands for, as floats of its result's dtype;
 * `out` has room for sa_type_count of it. SA_E_OPERAND when data are missing
 * or do not fit each other. */
SaStatus sa_constexpr_decode(const SaOp *op, float *out, SaError *err);

const char *sa_op_name(SaOpId id);
bool sa_op_lookup(const char *name, SaOpId *out);

/* ============================== Stages ==================================== */

/* Limits the validator enforces; a device fills it in. */
typedef struct {
    int64_t max_dim;           /* any axis [65536] */
    int64_t max_width;         /* last axis [65536] */
    int64_t max_conv_in;       /* conv input channels [31999] */
    int64_t max_kernel_width;  /* conv kernel width [15] */
    size_t max_text_bytes;     /* [64 MiB] */
    int max_ops;               /* per function [65536] */
    int max_ports;             /* inputs or outputs [255] */
    bool allow_dialect_a, allow_dialect_b;
    bool allow_refused;        /* operations and forms the engine was seen to refuse [false] */
} SaLimits;
void sa_limits_default(SaLimits *out);

/* Text -> program. No types are inferred, no limits but sizes. */
SaStatus sa_program_parse(SaArena *arena, const char *text, size_t bytes, const SaLimits *limits,
                          SaProgram **out, SaError *err);

/* Infer and compare all types, apply every rule. Read-only for the caller. */
SaStatus sa_program_check(SaArena *arena, SaProgram *p, const SaLimits *limits, SaError *err);

/* A weight file that is not as the container asks: refused, or read without a
 * look at its sentinel, dtype and size. */
typedef enum { SA_BLOB_REFUSE, SA_BLOB_GARBAGE } SaBlobMode;

/* Read all BLOBFILE constants. "@model_path" is replaced by `directory`; paths
 * that leave it are refused. Bytes come from the arena. *weight_bytes (may be
 * NULL) receives the total. */
SaStatus sa_program_bind(SaArena *arena, SaProgram *p, const char *directory, SaBlobMode mode, size_t *weight_bytes,
                         SaError *err);

/* One blob container in memory: find the blob whose metadata is at `offset`,
 * check everything, return a pointer into `file`. `dtype` must match. */
SaStatus sa_blob_find(const uint8_t *file, size_t file_bytes, uint64_t offset, SaDtype dtype, size_t want_bytes,
                      const void **data, SaError *err);

/* SA_BLOB_GARBAGE: `want_bytes` from wherever the metadata at `offset` points,
 * copied into the arena; zeros where the file has none. Fails for memory only. */
SaStatus sa_blob_read_unchecked(SaArena *arena, const uint8_t *file, size_t file_bytes, uint64_t offset, size_t want_bytes,
                                const void **data, SaError *err);

/* Program -> text, into a malloc'ed string (sa_free). */
SaStatus sa_program_print(const SaProgram *p, char **out);

#endif
