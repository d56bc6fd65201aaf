// SPDX-License-Identifier: MIT
/* steps.h - what a plan is made of; private to plan/ and exec/.
 *
 *   lower.c       functions -> procedures; aliases, ports, constants
 *   lower_ops.c   operations -> steps: elementwise, reductions, shapes
 *   lower_prod.c  operations -> steps: conv, matmul, linear
 *   lower_image.c, lower_index.c, lower_norm.c   the less common operations
 *   fuse.c        neighbouring elementwise steps -> passes
 *   allocate.c    slot lifetimes -> offsets
 *   plan.c        what plan.h promises beside building and running
 *
 * A *slot* is a dense fp32 array in the workspace of a run. A *ref* points
 * into a slot or at a constant. Values that are only seen in another shape
 * (reshape, squeeze, a contiguous slice) are refs into the same slot, and the
 * operands of a contiguous concat are computed in place inside its slot. */
#ifndef SA_PLAN_STEPS_H
#define SA_PLAN_STEPS_H

#include "../exec/kernels.h"
#include "plan.h"
#include "steps_more.h"

/* ============================== References ================================ */

typedef struct {
    const float *fixed;   /* a constant; NULL: in the workspace. A product's SaGemm.half says that it is fp16 */
    int slot;             /* while lowering; -1 = none */
    size_t offset;        /* bytes: while lowering from the slot's start, afterwards from the workspace's */
} SaRef;

/* How a result counts as stored: decides its rounding, with the numerics. */
typedef enum {
    SA_STORE_EXACT,       /* declared fp32, integer, bool; or exact by nature */
    SA_STORE_HALF,        /* fp16 */
    SA_STORE_PRODUCT      /* fp16, out of a product: also limited to |y| < 32768 */
} SaStore;

/* ============================== Parameters ================================ */

#define SA_ELEM_RANK SA_MAX_RANK
#define SA_COPY_RANK 10        /* tile needs two axes per axis */

/* d = op(in...), loops collapsed as far as the broadcasts allow. Strides in
 * elements; that of the innermost axis is 0 or 1. The result is dense. */
typedef struct {
    enum { SA_ELEM_UNARY, SA_ELEM_BINARY, SA_ELEM_SELECT } form;
    int op;                    /* SaUnary or SaBinary */
    int op_ieee;               /* the one for `ieee` (divisions differ) */
    bool half_in;              /* unary: the operand is on the fp16 grid and the result is stored as fp16 */
    int kept;                  /* silicon: 1 + the only operand that counts; 0 = all do */
    float p[2];                /* parameters of a unary operation */
    int n_in, rank;
    size_t dim[SA_ELEM_RANK];
    size_t stride[3][SA_ELEM_RANK];
    size_t rows;               /* product of all axes but the innermost */
} SaElem;

/* A convolution's geometry; one- and two-dimensional ones have leading 1s. */
typedef struct {
    size_t n, c_in, c_out, groups;
    size_t in[3], out[3], kernel[3];
    size_t stride[3], dilation[3], pad[3];   /* padding before; behind follows from out */
    bool has_bias;
    bool winograd;             /* may be done by F(2,3): patches and product agree on it */
} SaConv;

/* C[b] = op(A[b]) op(B[b]) (+ bias), over up to three batch axes. */
typedef struct {
    int n_batch;
    size_t batch[3], a_step[3], b_step[3], c_step[3];
    size_t batches;
    SaGemmArgs g;              /* pointers filled in per chunk */
    size_t m_chunk, n_chunk;   /* one chunk of work is m_chunk x n_chunk of C in b_chunk batches; */
    size_t b_chunk;            /* it depends on shape and machine, never on the threads of a run */
    enum { SA_HALF_NONE, SA_HALF_A, SA_HALF_B } half; /* this operand is a constant kept as fp16, see weight_ref */
    enum { SA_BIAS_NONE, SA_BIAS_ROW, SA_BIAS_COLUMN } bias; /* in[2], one per row or column of C */
    size_t bias_step;          /* per innermost batch (conv groups) */
    bool sums;                 /* conv_transpose: not results yet, C is for FOLD_BACK */
    const SaConv *winograd;    /* of a dense 3x3 convolution with stride 1, else NULL */
} SaGemm;

/* Folds over the middle axis of [outer, len, inner]. */
typedef struct {
    size_t outer, len, inner;
    int kind;                  /* SaOpId of the reduction */
    float eps;                 /* norms; also the factor-free epsilon of l2_norm */
    bool has_gamma, has_beta;  /* layer_norm: in[1], in[2] */
} SaReduce;

/* d[i...] = s[i...] over dim; strides in elements, those of s may be negative
 * or 0. Axes are collapsed, 1s dropped; rank 0 is one element. */
typedef struct {
    int rank;
    size_t dim[SA_COPY_RANK];
    ptrdiff_t d_stride[SA_COPY_RANK], s_stride[SA_COPY_RANK];
    ptrdiff_t s_offset, d_offset; /* elements */
    bool clamped;                 /* a last-axis slice with an offset: see slice_clamp */
} SaCopy;

/* d[o, j, i] = x[o, index[j], i], per batch. in[0] = x, in[1] = indices. */
typedef struct {
    size_t batch, outer, axis, count, inner;
} SaGather;

/* ============================== Steps ===================================== */

typedef enum {
    SA_STEP_ELEM,      /* elementwise with broadcasting */
    SA_STEP_GEMM,      /* matmul, linear, conv after patches or 1x1 */
    SA_STEP_PATCHES,   /* im2col: x -> one row per weight column */
    SA_STEP_DIRECT,    /* conv with few inputs or outputs per group (depthwise) */
    SA_STEP_REDUCE,
    SA_STEP_SOFTMAX,
    SA_STEP_NORM,      /* layer_norm, l2_norm */
    SA_STEP_COPY,      /* any strided copy: transpose, slice, concat, pad, tile, reverse */
    SA_STEP_FILL,      /* one value everywhere */
    SA_STEP_GATHER,
    SA_STEP_POOL, SA_STEP_FOLD_BACK, SA_STEP_LERP, SA_STEP_LRN,              /* exec/step_image.c */
    SA_STEP_ARG, SA_STEP_SCAN, SA_STEP_SORT, SA_STEP_PICK, SA_STEP_GATHER_ND, /* exec/step_index.c */
    SA_STEP_KINDS
} SaStepKind;

/* A pass: elementwise steps that follow each other and are done block by block
 * in one walk over memory (fuse.c). All of them have the same loops. What only
 * the pass reads is no memory but one of a few registers, a block each. */
enum { SA_PASS_STEPS = 16, SA_PASS_REGISTERS = 8 };

typedef struct {
    SaStepKind kind;
    SaStore store;
    SaRef in[3], out, scratch;
    int n_in;
    int pass;          /* how many steps this and the ones behind it are done in one pass; 0: see before */
    int in_reg[3], out_reg; /* 1 + the register instead of in[], out; 0 = memory */
    bool attn_mask;    /* applies a mask in place: left out with SA_RUN_UNMASKED */
    bool in_place_ok;  /* elementwise: out may take over the place of an operand read alike */
    size_t count;      /* elements of out */
    union {
        SaElem elem;
        SaGemm gemm;
        SaConv conv;
        SaReduce reduce;
        SaCopy copy;
        SaGather gather;
        SaPool pool;
        SaFoldBack fold_back;
        SaLerp lerp;
        SaLrn lrn;
        SaExtreme arg;
        SaScan scan;
        SaSort sort;
        SaPick pick;
        SaGatherNd gather_nd;
        float fill;
    } u;
} SaStep;

/* ============================== Plan ====================================== */

typedef struct {
    char *name;
    SaPort *inputs, *outputs;      /* sorted */
    SaRef *in_ref, *out_ref;
    int n_inputs, n_outputs;
    SaStep *steps;
    int n_steps;
    double flops;
} SaProc;

struct SaPlan {
    SaArena *arena;                /* everything below; constants too */
    SaProc *procs;
    int n_procs;
    size_t workspace;              /* bytes one run needs: the greatest of all procedures */
    size_t bytes;                  /* resident: constants and tables */
};

typedef struct {
    size_t bytes;
    bool from_start, to_end;       /* a port: written before the first, read after the last step */
    bool shared;                   /* parts of it are computed by several steps: no in-place take-over */
} SaSlot;

/* Is operand k read in the order the result is written, without broadcast? */
static inline bool sa_elem_alike(const SaElem *e, int k) {
    size_t dense = 1;
    for (int a = e->rank - 1; a >= 0; a--) {
        if (e->dim[a] != 1 && e->stride[k][a] != dense)
            return false;
        dense *= e->dim[a];
    }
    return true;
}

/* Join elementwise steps into passes. Changes their loops and registers, not
 * their order. SA_E_MEMORY: nothing was changed. */
SaStatus sa_fuse(SaProc *proc, const SaSlot *slots, int n_slots);

/* Offsets for all slots of one procedure: turns the refs' offsets into offsets
 * in the workspace; *bytes gets its size. */
SaStatus sa_slots_place(SaProc *proc, const SaSlot *slots, int n_slots, size_t *bytes);

#endif
