// SPDX-License-Identifier: MIT
/* kernels.h - the table of vector kernels, private to exec/ and plan/.
 *
 * Every k_*.c is compiled once per ISA variant (-DSA_ISA=base|v3|v4) and fills
 * its part of a SaKernels; isa.c picks the table of this machine at first use.
 *
 *   k_convert.c  fp16 <-> fp32, rounding onto the fp16 grid
 *   k_elem.c     unary, binary and choosing operations
 *   k_reduce.c   reductions, softmax and norms over rows and over columns
 *   k_shape.c    blocked transposition, strided copies
 *   k_gemm.c     the built-in matrix product
 *   k_fixed.c    the product in the engine's fixed point, and what else `silicon` rounds
 *   k_silicon.c  functions where the engine differs from mathematics
 *
 * All tensors between steps are dense fp32 arrays. A tensor declared fp16 holds
 * only values of the fp16 grid: every kernel computes in fp32, and one of the
 * `round` functions is applied to what it stored. Comparisons give 0 and 1;
 * integers are held as floats (exact up to 2^24 in magnitude).
 * Elementwise kernels may be called with d equal to an operand. */
#ifndef SA_EXEC_KERNELS_H
#define SA_EXEC_KERNELS_H

#include "../base/base.h"

/* ============================== Operations ================================ */

/* One operand, up to two parameters p[0], p[1]. */
#define SA_UNARY(X) SA_UNARY_VECTOR(X) SA_UNARY_LIBC(X)
#define SA_UNARY_VECTOR(X) \
    X(COPY) X(ABS) X(SIGN) X(SQRT) X(SQUARE) X(EXP) X(EXP2) X(ERF) X(CEIL) X(FLOOR) X(ROUND) X(ATAN) X(SIN) X(COS) \
    X(LOG)          /* log(x + p0) */ \
    X(RSQRT)        /* 1 / sqrt(x + p0) */ \
    X(INVERSE)      /* 1 / (x + p0) */ \
    X(INVERSE_FAST) /* the same, 0 for x + p0 = 0 */ \
    X(CLIP)         /* to [p0, p1] */ \
    X(THRESHOLD)    /* max(x, p0) */ \
    X(SIGMOID) X(TANH) X(RELU) X(RELU6) X(SILU) X(SOFTPLUS) X(SOFTSIGN) \
    X(SIGMOID_HARD) /* clamp(p0 x + p1, 0, 1) */ \
    X(SCALED_TANH)  /* p0 tanh(p1 x) */ \
    X(LEAKY_RELU) X(ELU) /* slope or scale p0 below zero */ \
    X(GELU) X(GELU_TANH) X(GELU_SIGMOID) \
    X(NOT)          /* 1 - (x != 0) */ \
    X(TRUE)         /* x != 0, the cast to bool */ \
    X(TRUNC)        /* toward zero, then into [p0, p1]; NaN gives 0: the cast to integers */ \
    X(POW)          /* pow(x, p0) */ \
    X(CLAMPED_RELU) /* min(x, or p0 x below zero; p1) */ \
    X(LINE)         /* p0 x + p1 */ \
    X(THRESHOLDED_RELU) /* x, 0 below p0 */
#define SA_UNARY_LIBC(X) X(TAN) X(ASIN) X(ACOS) X(SINH) X(COSH) X(ATANH) /* not vectorised */

#define SA_BINARY(X) \
    X(ADD) X(SUB) X(MUL) X(DIV) X(DIV_FAST) X(FLOOR_DIV) X(FLOOR_DIV_FAST) X(MOD) X(MOD_FAST) X(POW) X(MAX) X(MIN) \
    X(GT) X(GE) X(LT) X(LE) X(EQ) X(NE) X(AND) X(OR) X(XOR) \
    X(PRELU) /* a, or a * b below zero */

/* Folds of one run of values. LOG_SUM, L2 and MEAN finish in the executor. */
#define SA_FOLD(X) X(SUM) X(MAX) X(MIN) X(PROD) X(ABS_SUM) X(SQUARE_SUM)

#define SA_U_ENUM(id) SA_U_##id,
#define SA_B_ENUM(id) SA_B_##id,
#define SA_F_ENUM(id) SA_F_##id,
typedef enum { SA_UNARY(SA_U_ENUM) SA_U_COUNT } SaUnary;
typedef enum { SA_BINARY(SA_B_ENUM) SA_B_COUNT } SaBinary;
typedef enum { SA_FOLD(SA_F_ENUM) SA_F_COUNT } SaFold;
#undef SA_U_ENUM
#undef SA_B_ENUM
#undef SA_F_ENUM

/* What is done to a result before it counts as stored. */
typedef enum {
    SA_ROUND_NONE,         /* declared fp32, or a value that is on the grid anyway */
    SA_ROUND_AWAY,         /* onto fp16, half away from zero (sa_half_from_float_away) */
    SA_ROUND_EVEN,         /* onto fp16, half to even */
    SA_ROUND_PRODUCT,      /* |y| >= 32768 gives inf, then AWAY: results of the product unit */
    SA_ROUND_SILICON, SA_ROUND_SILICON_PRODUCT, /* AWAY and PRODUCT, NaN becomes +inf */
    SA_ROUND_FLUSH, SA_ROUND_FLUSH_PRODUCT,     /* AWAY and PRODUCT, subnormals become 0 */
    SA_ROUND_FLUSH_SILICON, SA_ROUND_FLUSH_SILICON_PRODUCT, /* both */
    SA_ROUND_COUNT
} SaRound;

/* ============================== The table ================================= */

typedef void SaUnaryFn(float *d, const float *a, const float *p, size_t n);
typedef void SaRoundFn(float *d, const float *s, size_t n);
typedef void SaBinaryFn(float *d, const float *a, const float *b, size_t n);

/* A product C[m,n] = op(A)[m,k] * op(B)[k,n], all row-major. */
typedef struct {
    bool ta, tb;
    size_t m, n, k;
    const float *a, *b;
    float *c;
    size_t lda, ldb, ldc;
} SaGemmArgs;

/* Where a product in fixed point goes besides C. */
typedef struct {
    const float *row_bias, *column_bias; /* [m] or [n], added before the one rounding; NULL: none */
    double *raw;                         /* not NULL: [m][ld_raw] the sums in units of 2^-16; C is scratch then */
    size_t ld_raw;
    bool sums;                           /* C gets the sums as int32, INT32_MAX or _MIN when beyond */
} SaFixedOut;

/* Columns of softmax and norms: `rows` lines of `cols` values, `stride` floats apart. */
typedef struct {
    size_t rows, stride, cols;
    float *tile;      /* scratch of rows * cols floats that stays in L2, or NULL */
    SaBinaryFn *mul;  /* what scales, perhaps with the rounding inside */
    SaRoundFn *round; /* applied line by line after all else, or NULL */
} SaCols;

typedef struct {
    const char *name; /* "x86-64-v4", "x86-64-v3", "baseline" */

    /* k_convert.c */
    void (*half_to_float)(float *d, const uint16_t *s, size_t n);
    void (*half_away)(uint16_t *d, const float *s, size_t n);
    void (*half_even)(uint16_t *d, const float *s, size_t n);   /* also for values on the grid */
    void (*round[SA_ROUND_COUNT])(float *d, const float *s, size_t n);
    /* d = the half at the index that the bits of s, which are on the grid, are as a
     * half; `table` has 65536. NULL: computing is quicker here. */
    void (*lookup)(float *d, const float *s, const uint16_t *table, size_t n);

    /* k_elem.c; suffix: v = a vector, s = one value for all */
    SaUnaryFn *unary[SA_U_COUNT];
    SaUnaryFn *away[SA_U_COUNT]; /* with AWAY inside, or NULL */
    SaBinaryFn *binary_vv[SA_B_COUNT], *binary_vs[SA_B_COUNT], *binary_sv[SA_B_COUNT];
    SaBinaryFn *away_vv[SA_B_COUNT], *away_vs[SA_B_COUNT], *away_sv[SA_B_COUNT]; /* with AWAY inside, or NULL */
    void (*axpy)(float *d, const float *x, float w, size_t step, size_t n); /* d[i] += w * x[i * step] */
    void (*select)(float *d, const float *cond, const float *a, const float *b, size_t n);

    /* k_reduce.c. Rows: n values side by side. Columns: `rows` lines of `cols`
     * values, `stride` floats apart, folded line by line into acc[cols]. */
    float (*fold_row[SA_F_COUNT])(const float *x, size_t n);
    void (*fold_cols[SA_F_COUNT])(float *acc, const float *x, size_t rows, size_t stride, size_t cols);
    float (*exp_sum)(float *d, const float *x, float max, size_t n); /* d = e^(x - max), may be NULL; the sum */
    void (*scale)(float *d, const float *x, float f, size_t n);      /* d = x * f */
    void (*norm_row)(float *d, const float *x, const float *gamma, const float *beta, float eps, size_t n);
    /* gamma, beta of norm_*: [n] (rows) or [rows] (columns), or NULL = 1 and 0.
     * tmp: 2 * cols floats. */
    void (*norm_cols)(float *d, const float *x, const float *gamma, const float *beta, float eps, const SaCols *s, float *tmp);
    void (*softmax_cols)(float *d, const float *x, const SaCols *s, float *tmp);

    /* k_shape.c */
    void (*transpose)(float *d, size_t d_stride, const float *s, size_t s_stride, size_t rows, size_t cols);

    /* k_gemm.c. `pack` is scratch of gemm_pack_floats floats. */
    void (*gemm)(const SaGemmArgs *g, float *pack);
    size_t gemm_pack_floats;

    /* k_fixed.c: C = fp16(op(A) op(B) + bias) in fixed point; operands on the
     * fp16 grid. `pack` is scratch of fixed_pack_floats(m) floats. */
    void (*fixed)(const SaGemmArgs *g, const SaFixedOut *o, float *pack);
    size_t (*fixed_pack_floats)(size_t m);
    void (*fixed_store)(float *d, const double *acc, float bias, size_t n); /* raw sums -> fp16 grid */

    /* k_silicon.c */
    SaUnaryFn *odd[SA_U_COUNT]; /* instead of `unary` under silicon; NULL: the same */
    void (*coarse)(float *d, unsigned bits, size_t n); /* onto 1 < bits < 23 significant bits, in place */
} SaKernels;

/* The table of this machine, chosen once (environment SOFTANE_ISA =
 * "baseline", "x86-64-v3" or "x86-64-v4" asks for a lower one). Any thread. */
const SaKernels *sa_kernels_get(void);

/* For tests: the i-th table this CPU can run, NULL past the last; and the one
 * that sa_kernels_get returns from now on (NULL = automatic). */
const SaKernels *sa_kernels_variant(int i);
void sa_kernels_force(const SaKernels *k);

#endif
