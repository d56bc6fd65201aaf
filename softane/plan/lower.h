// SPDX-License-Identifier: MIT
/* lower.h - what the lower*.c share while one function is lowered. */
#ifndef SA_PLAN_LOWER_H
#define SA_PLAN_LOWER_H

#include "steps.h"

/* What is known of one value. */
typedef struct {
    SaRef ref;
    bool ready;               /* ref is valid */
    const void *half;         /* a constant of the plan as fp16, for products; NULL: not kept */
    int uses;                 /* by live operations and as outputs */
    const SaValue *home;      /* placed: the concat or stack result it is computed into, or NULL */
    size_t home_offset;       /* bytes in there */
} SaVal;

/* Marks of the backward pass, per operation. */
enum {
    SA_MARK_DEAD = 1,         /* nobody needs its results */
    SA_MARK_X_SWAPPED = 2,    /* matmul: read x before its transpose, flag flipped */
    SA_MARK_Y_SWAPPED = 4,
    SA_MARK_FLIPPED = 8,      /* matmul: computed as its transpose, which is an alias */
    SA_MARK_ALIAS = 16        /* transpose: of a flipped matmul */
};

typedef struct {
    SaArena *arena;           /* of the plan */
    SaArena *tmp;             /* of this lowering */
    const SaFunction *fn;
    SaError *err;
    SaVal *vals;              /* by value id */
    uint8_t *marks;           /* by op index */
    SaStep *steps;
    int n_steps, cap_steps;
    SaSlot *slots;
    int n_slots, cap_slots;
    size_t const_bytes;
    double flops;
    bool unfused;             /* leave elementwise steps alone */
} SaLower;

/* Stop with a message that names the operation. */
#define SA_LOWER_FAIL(l, op, code, ...) \
    return sa_lower_fail((l), (op), (code), __VA_ARGS__)
SaStatus sa_lower_fail(SaLower *l, const SaOp *op, SaStatus code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* ============================== Values and slots ========================== */

static inline int sa_result_id(const SaOp *op) { return op->results[0]->id; }
static inline size_t sa_count(const SaType *t) { return (size_t)sa_type_count(t); }

/* Where an operand lies; a constant is unpacked to fp32 on first use. */
SaStatus sa_lower_ref(SaLower *l, const SaValue *v, SaRef *out);

/* Room for a result that a step computes: its own slot, or its place in a concat. */
SaStatus sa_lower_result(SaLower *l, const SaValue *v, SaRef *out);

/* A slot of `floats` elements that is no value. */
SaStatus sa_lower_slot(SaLower *l, size_t floats, SaRef *out);

/* `v` is a view of what lies at `ref`. */
void sa_lower_alias(SaLower *l, const SaValue *v, SaRef ref);

/* Where a constant fp16 matrix lies as it is stored. *out is left alone and *half false when v is
 * not one, or was unpacked already. */
SaStatus sa_lower_half(SaLower *l, const SaValue *v, bool *half, SaRef *out);

/* fp32 constant of `floats` elements that the caller fills in. */
SaStatus sa_lower_const(SaLower *l, size_t floats, float **data, SaRef *out);

/* Append a step (zeroed but for kind); NULL when memory is short. Pointers
 * into the list are valid until the next call. */
SaStep *sa_lower_step(SaLower *l, SaStepKind kind);

static inline SaStore sa_store_of(const SaValue *v) {
    return v->type.dtype == SA_FP16 ? SA_STORE_HALF : SA_STORE_EXACT;
}

/* Dense strides of a type, in elements. */
void sa_dense_strides(const SaType *t, ptrdiff_t stride[SA_MAX_RANK]);

/* Append a copy; collapses c's axes first. */
SaStatus sa_lower_copy(SaLower *l, SaRef in, SaRef out, SaCopy c);

/* out = op(in...) elementwise over operands of these types; `e` needs form, op,
 * op_ieee, p and n_in only. out may be the place of an operand read alike. */
SaStatus sa_lower_elems(SaLower *l, SaElem e, const SaRef in[], const SaType *const types[], const SaType *out_type,
                        SaRef out, SaStore store);

/* A product whose geometry is given (chunks are chosen here). */
SaStatus sa_lower_gemm(SaLower *l, const SaOp *op, SaGemm g, SaRef a, SaRef b, SaRef out, SaStore store);

/* An operand that must be there, and where it lies. */
SaStatus sa_lower_operand(SaLower *l, const SaOp *op, const char *key, const SaValue **v, SaRef *ref);

/* The result of a walk through `in`: a view of it if that is possible, else a copy. */
SaStatus sa_lower_walk(SaLower *l, const SaValue *result, SaRef in, SaCopy c);

/* `t` seen around one axis. */
SaAxis sa_axis_of(const SaType *t, int axis, size_t count);

/* ============================== Operations ================================ */

typedef SaStatus SaLowerFn(SaLower *l, const SaOp *op, int index);
SaLowerFn sa_lower_elem, sa_lower_reduce, sa_lower_softmax, sa_lower_norm;          /* lower_ops.c */
SaLowerFn sa_lower_view, sa_lower_transpose, sa_lower_slice, sa_lower_concat;       /* lower_shape.c */
SaLowerFn sa_lower_split, sa_lower_pad, sa_lower_tile, sa_lower_reverse, sa_lower_gather;
SaLowerFn sa_lower_conv, sa_lower_matmul, sa_lower_linear;                          /* lower_prod.c */
SaLowerFn sa_lower_pool, sa_lower_conv_transpose, sa_lower_resize, sa_lower_crop;     /* lower_image.c */
SaLowerFn sa_lower_shuffle, sa_lower_space_batch, sa_lower_windows;
SaLowerFn sa_lower_argmax, sa_lower_cumsum, sa_lower_argsort, sa_lower_topk;          /* lower_index.c */
SaLowerFn sa_lower_gather_along_axis, sa_lower_gather_nd, sa_lower_one_hot, sa_lower_band_part;
SaLowerFn sa_lower_fill, sa_lower_range, sa_lower_constexpr;
SaLowerFn sa_lower_channel_norm, sa_lower_lrn, sa_lower_softplus_parametric;          /* lower_norm.c */
SaLowerFn sa_lower_quantize, sa_lower_einsum, sa_lower_attention;
bool sa_swaps_last_two(const SaOp *op);      /* a transpose that is a matmul flag */
bool sa_cast_is_view(const SaOp *op);        /* a cast that changes no value */

#endif
