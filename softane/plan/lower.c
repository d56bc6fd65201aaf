// SPDX-License-Identifier: MIT
/* lower.c - functions -> procedures: the frame of the lowering.
 *
 * Backward over the operations: which are needed, which transposes can be
 * flags of a matmul, which values can be computed inside a later concat.
 * Forward: every operation becomes no step (a view), one, or a few
 * (lower_ops.c, lower_shape.c, lower_prod.c). Then allocate.c places the slots.
 * Nothing here computes; the only data touched are constants. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lower.h"

/* ============================== Table of operations ======================= */

/* Absent: const. A NULL here would be an operation that softane cannot run. */
static SaLowerFn *const lowerings[SA_OP_COUNT] = {
    [SA_OP_CONV] = sa_lower_conv,
    [SA_OP_MATMUL] = sa_lower_matmul,
    [SA_OP_LINEAR] = sa_lower_linear,
    [SA_OP_REDUCE_SUM] = sa_lower_reduce,
    [SA_OP_REDUCE_MEAN] = sa_lower_reduce,
    [SA_OP_REDUCE_MAX] = sa_lower_reduce,
    [SA_OP_REDUCE_MIN] = sa_lower_reduce,
    [SA_OP_REDUCE_PROD] = sa_lower_reduce,
    [SA_OP_REDUCE_L1_NORM] = sa_lower_reduce,
    [SA_OP_REDUCE_L2_NORM] = sa_lower_reduce,
    [SA_OP_REDUCE_LOG_SUM] = sa_lower_reduce,
    [SA_OP_REDUCE_LOG_SUM_EXP] = sa_lower_reduce,
    [SA_OP_REDUCE_SUM_SQUARE] = sa_lower_reduce,
    [SA_OP_SOFTMAX] = sa_lower_softmax,
    [SA_OP_LAYER_NORM] = sa_lower_norm,
    [SA_OP_L2_NORM] = sa_lower_norm,
    [SA_OP_RESHAPE] = sa_lower_view,
    [SA_OP_EXPAND_DIMS] = sa_lower_view,
    [SA_OP_SQUEEZE] = sa_lower_view,
    [SA_OP_IDENTITY] = sa_lower_view,
    [SA_OP_TRANSPOSE] = sa_lower_transpose,
    [SA_OP_SLICE_BY_SIZE] = sa_lower_slice,
    [SA_OP_SLICE_BY_INDEX] = sa_lower_slice,
    [SA_OP_CONCAT] = sa_lower_concat,
    [SA_OP_STACK] = sa_lower_concat,
    [SA_OP_SPLIT] = sa_lower_split,
    [SA_OP_PAD] = sa_lower_pad,
    [SA_OP_TILE] = sa_lower_tile,
    [SA_OP_REVERSE] = sa_lower_reverse,
    [SA_OP_GATHER] = sa_lower_gather,
    [SA_OP_MAX_POOL] = sa_lower_pool,
    [SA_OP_AVG_POOL] = sa_lower_pool,
    [SA_OP_L2_POOL] = sa_lower_pool,
    [SA_OP_CONV_TRANSPOSE] = sa_lower_conv_transpose,
    [SA_OP_UPSAMPLE_NEAREST_NEIGHBOR] = sa_lower_resize,
    [SA_OP_UPSAMPLE_BILINEAR] = sa_lower_resize,
    [SA_OP_RESIZE_NEAREST_NEIGHBOR] = sa_lower_resize,
    [SA_OP_RESIZE_BILINEAR] = sa_lower_resize,
    [SA_OP_RESIZE] = sa_lower_resize,
    [SA_OP_CROP] = sa_lower_crop,
    [SA_OP_SPACE_TO_DEPTH] = sa_lower_shuffle,
    [SA_OP_DEPTH_TO_SPACE] = sa_lower_shuffle,
    [SA_OP_PIXEL_SHUFFLE] = sa_lower_shuffle,
    [SA_OP_PIXEL_UNSHUFFLE] = sa_lower_shuffle,
    [SA_OP_SPACE_TO_BATCH] = sa_lower_space_batch,
    [SA_OP_BATCH_TO_SPACE] = sa_lower_space_batch,
    [SA_OP_SLIDING_WINDOWS] = sa_lower_windows,
    [SA_OP_FLATTEN2D] = sa_lower_view,
    [SA_OP_REDUCE_ARGMAX] = sa_lower_argmax,
    [SA_OP_REDUCE_ARGMIN] = sa_lower_argmax,
    [SA_OP_CUMSUM] = sa_lower_cumsum,
    [SA_OP_ARGSORT] = sa_lower_argsort,
    [SA_OP_TOPK] = sa_lower_topk,
    [SA_OP_GATHER_ALONG_AXIS] = sa_lower_gather_along_axis,
    [SA_OP_GATHER_ND] = sa_lower_gather_nd,
    [SA_OP_ONE_HOT] = sa_lower_one_hot,
    [SA_OP_BAND_PART] = sa_lower_band_part,
    [SA_OP_FILL] = sa_lower_fill,
    [SA_OP_FILL_LIKE] = sa_lower_fill,
    [SA_OP_RANGE_1D] = sa_lower_range,
    [SA_OP_BATCH_NORM] = sa_lower_channel_norm,
    [SA_OP_INSTANCE_NORM] = sa_lower_channel_norm,
    [SA_OP_LOCAL_RESPONSE_NORM] = sa_lower_lrn,
    [SA_OP_SOFTPLUS_PARAMETRIC] = sa_lower_softplus_parametric,
    [SA_OP_QUANTIZE] = sa_lower_quantize,
    [SA_OP_DEQUANTIZE] = sa_lower_quantize,
    [SA_OP_EINSUM] = sa_lower_einsum,
    [SA_OP_SCALED_DOT_PRODUCT_ATTENTION] = sa_lower_attention,
    [SA_OP_CONSTEXPR_AFFINE_DEQUANTIZE] = sa_lower_constexpr,
    [SA_OP_CONSTEXPR_BLOCKWISE_SHIFT_SCALE] = sa_lower_constexpr,
    [SA_OP_CONSTEXPR_LUT_TO_DENSE] = sa_lower_constexpr,
    [SA_OP_CONSTEXPR_SPARSE_TO_DENSE] = sa_lower_constexpr,
    [SA_OP_CONSTEXPR_CAST] = sa_lower_constexpr,
};

/* Everything not listed is elementwise. */
static SaLowerFn *lowering_of(SaOpId id) { return lowerings[id] ? lowerings[id] : sa_lower_elem; }

SaStatus sa_lower_fail(SaLower *l, const SaOp *op, SaStatus code, const char *fmt, ...) {
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    sa_error_set(l->err, code, op ? op->pos : (SaPos){0, 0}, "%s", text);
    if (l->err && op)
        snprintf(l->err->op, sizeof l->err->op, "%s", sa_op_name(op->id));
    return code;
}

/* ============================== Slots and steps =========================== */

/* Grow an array of the temporary arena to hold one more. */
static void *grown(SaLower *l, void *old, int n, int *cap, size_t item) {
    if (n < *cap)
        return old;
    int more = *cap ? *cap * 2 : 64;
    void *p = sa_arena_alloc(l->tmp, (size_t)more * item);
    if (p && n)
        memcpy(p, old, (size_t)n * item);
    if (p)
        *cap = more;
    return p;
}

SaStep *sa_lower_step(SaLower *l, SaStepKind kind) {
    SaStep *list = grown(l, l->steps, l->n_steps, &l->cap_steps, sizeof *list);
    if (!list)
        return NULL;
    l->steps = list;
    SaStep *s = &list[l->n_steps++];
    memset(s, 0, sizeof *s);
    s->kind = kind;
    s->pass = 1;
    s->scratch.slot = -1;
    for (int i = 0; i < 3; i++)
        s->in[i].slot = -1;
    return s;
}

/* More than any memory; and a million of them, all alive at once, add up without overflow. */
#define SLOT_MAX_BYTES ((size_t)1 << 44)

SaStatus sa_lower_slot(SaLower *l, size_t floats, SaRef *out) {
    size_t bytes;
    if (!sa_mul_ok(floats, sizeof(float), &bytes) || bytes > SLOT_MAX_BYTES)
        return sa_lower_fail(l, NULL, SA_E_LIMIT, "a tensor is too large");
    SaSlot *list = grown(l, l->slots, l->n_slots, &l->cap_slots, sizeof *list);
    if (!list)
        return SA_E_MEMORY;
    l->slots = list;
    list[l->n_slots] = (SaSlot){.bytes = (bytes + 63) & ~(size_t)63};
    *out = (SaRef){.slot = l->n_slots++};
    return SA_OK;
}

SaStatus sa_lower_result(SaLower *l, const SaValue *v, SaRef *out) {
    SaVal *val = &l->vals[v->id];
    if (val->ready) { /* a concat whose first operand came before it */
        *out = val->ref;
        return SA_OK;
    }
    if (val->home) {
        SA_TRY(sa_lower_result(l, val->home, out));
        out->offset += val->home_offset;
        l->slots[out->slot].shared = true;
    } else {
        SA_TRY(sa_lower_slot(l, sa_count(&v->type), out));
    }
    sa_lower_alias(l, v, *out);
    return SA_OK;
}

void sa_lower_alias(SaLower *l, const SaValue *v, SaRef ref) {
    l->vals[v->id].ref = ref;
    l->vals[v->id].ready = true;
}

/* ============================== Constants ================================= */

SaStatus sa_lower_const(SaLower *l, size_t floats, float **data, SaRef *out) {
    size_t bytes;
    if (!sa_mul_ok(floats, sizeof(float), &bytes))
        return sa_lower_fail(l, NULL, SA_E_LIMIT, "a constant is too large");
    *data = sa_arena_alloc(l->arena, bytes ? bytes : sizeof(float));
    if (!*data)
        return SA_E_MEMORY;
    l->const_bytes += bytes;
    *out = (SaRef){.fixed = *data, .slot = -1};
    return SA_OK;
}

/* n elements of `dtype` at any alignment, as floats. False for a dtype that no
 * operation computes with. */
static bool unpack(float *d, const void *src, SaDtype dtype, size_t n) {
    const uint8_t *s = src;
#define SA_UNPACK(type)                              \
    for (size_t i = 0; i < n; i++) {                 \
        type x;                                      \
        memcpy(&x, s + i * sizeof x, sizeof x);      \
        d[i] = (float)x;                             \
    }                                                \
    break
    switch (dtype) {
    case SA_FP16: {
        uint16_t block[512];
        for (size_t at = 0; at < n; at += 512) {
            size_t k = n - at < 512 ? n - at : 512;
            memcpy(block, s + at * 2, k * 2);
            sa_kernels_get()->half_to_float(d + at, block, k);
        }
        break;
    }
    case SA_FP32: memcpy(d, s, n * sizeof *d); break;
    case SA_INT8: SA_UNPACK(int8_t);
    case SA_UINT8: SA_UNPACK(uint8_t);
    case SA_BOOL: SA_UNPACK(uint8_t);
    case SA_INT16: SA_UNPACK(int16_t);
    case SA_UINT16: SA_UNPACK(uint16_t);
    case SA_INT32: SA_UNPACK(int32_t);
    case SA_UINT64: SA_UNPACK(uint64_t);
    default: return false;
    }
#undef SA_UNPACK
    return true;
}

SaStatus sa_lower_ref(SaLower *l, const SaValue *v, SaRef *out) {
    SaVal *val = &l->vals[v->id];
    if (!val->ready) {
        const SaConst *c = v->constant;
        size_t n = sa_count(&v->type), want = n * sa_dtype_bytes(v->type.dtype);
        if (!c || !c->data || c->bytes < want || v->type.rank > SA_MAX_RANK)
            return sa_lower_fail(l, NULL, SA_E_OPERAND, "'%s' has no data", v->name);
        float *d = NULL;
        SA_TRY(sa_lower_const(l, n, &d, &val->ref));
        if (!unpack(d, c->data, v->type.dtype, n))
            return sa_lower_fail(l, NULL, SA_E_TYPE, "'%s': no operation takes a %s", v->name, sa_dtype_name(v->type.dtype));
        val->ready = true;
    }
    *out = val->ref;
    return SA_OK;
}

/* Below this the copy is not worth a thought, nor is the pass that widens it. */
enum { HALF_MIN = 16384 };

SaStatus sa_lower_half(SaLower *l, const SaValue *v, bool *half, SaRef *out) {
    SaVal *val = &l->vals[v->id];
    const SaConst *c = v->constant;
    size_t n = sa_count(&v->type), bytes;
    *half = false;
    if (val->ready || v->type.dtype != SA_FP16 || n < HALF_MIN || !sa_mul_ok(n, 2, &bytes) || !c || !c->data || c->bytes < bytes)
        return SA_OK;
    if (!val->half) {
        void *d = sa_arena_alloc_raw(l->arena, bytes);
        if (!d)
            return SA_E_MEMORY;
        memcpy(d, c->data, bytes);
        l->const_bytes += bytes;
        val->half = d;
    }
    *half = true;
    *out = (SaRef){.fixed = val->half, .slot = -1};
    return SA_OK;
}

/* ============================== Copies ==================================== */

void sa_dense_strides(const SaType *t, ptrdiff_t stride[SA_MAX_RANK]) {
    ptrdiff_t step = 1;
    for (int i = t->rank - 1; i >= 0; i--) {
        stride[i] = step;
        step *= (ptrdiff_t)t->dim[i];
    }
}

SaStatus sa_lower_copy(SaLower *l, SaRef in, SaRef out, SaCopy c) {
    int n = 0;
    size_t count = 1;
    for (int i = 0; i < c.rank; i++) {
        count *= c.dim[i];
        if (c.dim[i] == 1)
            continue;
        ptrdiff_t len = (ptrdiff_t)c.dim[i];
        if (n > 0 && c.d_stride[n - 1] == c.d_stride[i] * len && c.s_stride[n - 1] == c.s_stride[i] * len) {
            c.dim[n - 1] *= c.dim[i];
            c.d_stride[n - 1] = c.d_stride[i];
            c.s_stride[n - 1] = c.s_stride[i];
        } else {
            c.dim[n] = c.dim[i];
            c.d_stride[n] = c.d_stride[i];
            c.s_stride[n] = c.s_stride[i];
            n++;
        }
    }
    c.rank = n;
    SaStep *s = sa_lower_step(l, SA_STEP_COPY);
    if (!s)
        return SA_E_MEMORY;
    s->in[0] = in;
    s->n_in = 1;
    s->out = out;
    s->count = count;
    s->u.copy = c;
    return SA_OK;
}

/* ============================== Backward pass ============================= */

static const SaOp *producer_of(const SaValue *v) { return v && v->producer ? v->producer : NULL; }

/* The operations whose result is its first operand seen differently. */
static bool is_view(const SaLower *l, const SaOp *op) {
    int i = (int)(op - l->fn->ops);
    switch (op->id) {
    case SA_OP_RESHAPE: case SA_OP_EXPAND_DIMS: case SA_OP_SQUEEZE: case SA_OP_IDENTITY: case SA_OP_FLATTEN2D: return true;
    case SA_OP_CAST: return sa_cast_is_view(op);
    case SA_OP_TRANSPOSE: return (l->marks[i] & SA_MARK_ALIAS) != 0;
    default: return false;
    }
}

static void count_uses(SaLower *l, const SaOp *op, int by) {
    for (int a = 0; a < op->n_args; a++)
        for (int k = 0; k < op->args[a].count; k++)
            l->vals[op->args[a].values[k]->id].uses += by;
}

/* A matmul operand that comes from a swap of its last two axes is read from
 * before the swap. */
static void fold_operand(SaLower *l, const SaOp *op, const char *key, uint8_t mark) {
    const SaValue *v = sa_op_value(op, key);
    const SaOp *t = producer_of(v);
    if (!t || t->id != SA_OP_TRANSPOSE || !sa_swaps_last_two(t))
        return;
    l->marks[op - l->fn->ops] |= mark;
    l->vals[v->id].uses--;
    l->vals[sa_op_value(t, "x")->id].uses++;
}

/* Compute the operands of a concat inside its result, where their bytes form
 * one run there: all axes before the joined one have length 1. */
static void place_operands(SaLower *l, const SaOp *op) {
    const SaValue *result = op->results[0];
    const SaArg *values = sa_op_arg(op, "values");
    int64_t axis = 0;
    bool interleave = false;
    sa_op_int(op, "axis", &axis);
    sa_op_bool(op, "interleave", &interleave);
    if (axis < 0)
        axis += result->type.rank;
    if (!values || interleave)
        return;
    for (int64_t i = 0; i < axis; i++)
        if (result->type.dim[i] != 1)
            return;
    size_t offset = 0;
    for (int k = 0; k < values->count; k++) {
        const SaValue *v = values->values[k];
        size_t bytes = sa_count(&v->type) * sizeof(float);
        while (producer_of(v) && is_view(l, producer_of(v)))
            v = sa_op_value(producer_of(v), "x");
        const SaOp *p = producer_of(v);
        if (p && p->id != SA_OP_CONST && !l->vals[v->id].home) { /* of no effect if it turns out a view */
            l->vals[v->id].home = result;
            l->vals[v->id].home_offset = offset;
        }
        offset += bytes;
    }
}

/* Dead operations, folded transposes, places. Users come after producers, so
 * one pass from the end sees every use first. */
static void look_back(SaLower *l) {
    const SaFunction *fn = l->fn;
    for (int i = 0; i < fn->n_ops; i++)
        count_uses(l, &fn->ops[i], 1);
    for (int i = 0; i < fn->n_outputs; i++)
        l->vals[fn->outputs[i]->id].uses++;
    for (int i = fn->n_ops - 1; i >= 0; i--) {
        const SaOp *op = &fn->ops[i];
        int uses = 0;
        for (int r = 0; r < op->n_results; r++)
            uses += l->vals[op->results[r]->id].uses;
        if (uses == 0) {
            l->marks[i] |= SA_MARK_DEAD;
            count_uses(l, op, -1);
            continue;
        }
        if (op->id == SA_OP_MATMUL) {
            fold_operand(l, op, "x", SA_MARK_X_SWAPPED);
            fold_operand(l, op, "y", SA_MARK_Y_SWAPPED);
        } else if (op->id == SA_OP_TRANSPOSE && sa_swaps_last_two(op)) {
            const SaValue *x = sa_op_value(op, "x");
            const SaOp *m = producer_of(x);
            if (m && m->id == SA_OP_MATMUL && x->type.rank >= 2 && l->vals[x->id].uses == 1) {
                l->marks[i] |= SA_MARK_ALIAS;
                l->marks[m - fn->ops] |= SA_MARK_FLIPPED;
            }
        }
    }
    for (int i = fn->n_ops - 1; i >= 0; i--)
        if (!(l->marks[i] & SA_MARK_DEAD) && (fn->ops[i].id == SA_OP_CONCAT || fn->ops[i].id == SA_OP_STACK))
            place_operands(l, &fn->ops[i]);
}

/* ============================== Ports ===================================== */

/* What exec/port.c can load and store. */
static bool port_dtype(SaDtype t) {
    switch (t) {
    case SA_FP16: case SA_FP32: case SA_INT8: case SA_UINT8: case SA_INT16: case SA_UINT16: case SA_INT32:
    case SA_UINT64: case SA_BOOL: return true;
    default: return false;
    }
}

static void port_layout(SaPort *p) {
    const SaType *t = &p->type;
    int64_t d[4] = {1, 1, 1, 1};
    for (int i = 0; i < t->rank; i++) /* right-aligned; rank 5 folds into N */
        d[i + 4 - t->rank < 0 ? 0 : i + 4 - t->rank] *= t->dim[i];
    p->n = d[0];
    p->c = d[1];
    p->h = d[2];
    p->w = d[3];
    size_t row = (size_t)p->w * sa_dtype_bytes(t->dtype);
    p->row_stride = (row + 63) & ~(size_t)63;
    p->plane_stride = p->row_stride * (size_t)p->h;
    p->batch_stride = p->plane_stride * (size_t)p->c;
    p->bytes = p->batch_stride * (size_t)p->n;
}

typedef struct {
    SaPort port;
    SaRef ref;
} PortRef;

static int by_name(const void *a, const void *b) {
    const PortRef *x = a, *y = b;
    return strcmp(x->port.name, y->port.name);
}

/* Sorted ports of `values`, with where they lie. */
static SaStatus make_ports(SaLower *l, SaValue **values, int n, SaPort **ports, SaRef **refs) {
    PortRef *list = sa_arena_alloc(l->tmp, (size_t)(n ? n : 1) * sizeof *list);
    *ports = sa_arena_alloc(l->arena, (size_t)(n ? n : 1) * sizeof **ports);
    *refs = sa_arena_alloc(l->arena, (size_t)(n ? n : 1) * sizeof **refs);
    if (!list || !*ports || !*refs)
        return SA_E_MEMORY;
    for (int i = 0; i < n; i++) {
        const SaValue *v = values[i];
        list[i].port = (SaPort){.name = sa_arena_strndup(l->arena, v->name, strlen(v->name)), .type = v->type};
        if (!list[i].port.name)
            return SA_E_MEMORY;
        if (!port_dtype(v->type.dtype))
            return sa_lower_fail(l, NULL, SA_E_TYPE, "port '%s' is a %s", v->name, sa_dtype_name(v->type.dtype));
        port_layout(&list[i].port);
        SA_TRY(sa_lower_ref(l, v, &list[i].ref));
    }
    qsort(list, (size_t)n, sizeof *list, by_name);
    for (int i = 0; i < n; i++) {
        (*ports)[i] = list[i].port;
        (*refs)[i] = list[i].ref;
    }
    return SA_OK;
}

static SaStatus lower_inputs(SaLower *l, SaProc *proc) {
    for (int i = 0; i < l->fn->n_params; i++) {
        const SaValue *v = l->fn->params[i];
        SaRef ref;
        SA_TRY(sa_lower_slot(l, sa_count(&v->type), &ref));
        l->slots[ref.slot].from_start = true;
        sa_lower_alias(l, v, ref);
    }
    proc->n_inputs = l->fn->n_params;
    return make_ports(l, l->fn->params, l->fn->n_params, &proc->inputs, &proc->in_ref);
}

static SaStatus lower_outputs(SaLower *l, SaProc *proc) {
    proc->n_outputs = l->fn->n_outputs;
    SA_TRY(make_ports(l, l->fn->outputs, l->fn->n_outputs, &proc->outputs, &proc->out_ref));
    for (int i = 0; i < proc->n_outputs; i++)
        if (!proc->out_ref[i].fixed)
            l->slots[proc->out_ref[i].slot].to_end = true;
    return SA_OK;
}

/* ============================== A function, a program ===================== */

static SaStatus lower_ops(SaLower *l) {
    for (int i = 0; i < l->fn->n_ops; i++) {
        const SaOp *op = &l->fn->ops[i];
        if (op->id == SA_OP_CONST || (l->marks[i] & SA_MARK_DEAD))
            continue;
        SaStatus st = lowering_of(op->id)(l, op, i);
        if (st != SA_OK)
            return st == SA_E_MEMORY ? sa_lower_fail(l, op, st, "out of memory") : st;
    }
    return SA_OK;
}

static SaStatus lower_function(SaPlan *plan, SaArena *tmp, const SaFunction *fn, SaProc *proc, bool unfused, SaError *err) {
    SaLower l = {.arena = plan->arena, .tmp = tmp, .fn = fn, .err = err, .unfused = unfused};
    l.vals = sa_arena_alloc(tmp, (size_t)(fn->n_values + 1) * sizeof *l.vals);
    l.marks = sa_arena_alloc(tmp, (size_t)fn->n_ops + 1);
    proc->name = sa_arena_strndup(plan->arena, fn->name, strlen(fn->name));
    if (!l.vals || !l.marks || !proc->name)
        return SA_E_MEMORY;
    look_back(&l);
    SA_TRY(lower_inputs(&l, proc));
    SA_TRY(lower_ops(&l));
    SA_TRY(lower_outputs(&l, proc));
    proc->n_steps = l.n_steps;
    proc->steps = sa_arena_alloc(plan->arena, (size_t)(l.n_steps + 1) * sizeof *proc->steps);
    if (!proc->steps)
        return SA_E_MEMORY;
    if (l.n_steps)
        memcpy(proc->steps, l.steps, (size_t)l.n_steps * sizeof *proc->steps);
    proc->flops = l.flops;
    size_t work = 0;
    if (!l.unfused)
        SA_TRY(sa_fuse(proc, l.slots, l.n_slots));
    SA_TRY(sa_slots_place(proc, l.slots, l.n_slots, &work));
    if (work > plan->workspace)
        plan->workspace = work;
    plan->bytes += l.const_bytes + (size_t)l.n_steps * sizeof *proc->steps;
    return SA_OK;
}

static SaStatus lower_program(SaPlan *plan, const SaProgram *p, bool unfused, SaError *err) {
    plan->procs = sa_arena_alloc(plan->arena, (size_t)(p->n_functions + 1) * sizeof *plan->procs);
    if (!plan->procs)
        return SA_E_MEMORY;
    plan->n_procs = p->n_functions;
    for (int i = 0; i < p->n_functions; i++) {
        SaArena *tmp = sa_arena_new(0);
        SaStatus st = tmp ? lower_function(plan, tmp, &p->functions[i], &plan->procs[i], unfused, err) : SA_E_MEMORY;
        sa_arena_free(tmp);
        SA_TRY(st);
    }
    return SA_OK;
}

static SaStatus build(const SaProgram *p, bool unfused, SaPlan **out, SaError *err) {
    *out = NULL;
    SaPlan *plan = sa_malloc(sizeof *plan);
    if (plan)
        plan->arena = sa_arena_new(0);
    SaStatus st = plan && plan->arena ? lower_program(plan, p, unfused, err) : SA_E_MEMORY;
    if (st == SA_OK) {
        plan->bytes += sizeof *plan;
        *out = plan;
        return SA_OK;
    }
    if (st == SA_E_MEMORY)
        sa_error_set(err, st, (SaPos){0, 0}, "out of memory while building the plan");
    sa_plan_free(plan);
    return st;
}

/* The caller frees *out with sa_plan_free. On failure *out is NULL and *err
 * (may be NULL) tells why. Any thread. */
SaStatus sa_plan_build(const SaProgram *p, SaPlan **out, SaError *err) { return build(p, false, out, err); }

SaStatus sa_plan_build_unfused(const SaProgram *p, SaPlan **out, SaError *err) { return build(p, true, out, err); }
