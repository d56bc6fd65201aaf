// SPDX-License-Identifier: MIT
/* gen_program.c - see gen_program.h. */
#include "gen_program.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ============================== State ===================================== */

enum { MAX_STATEMENTS = 800, MAX_VALUES = 1600, MAX_PARAMS = 12, MAX_COUNT = 4096, MAX_SIDE = 96 };

typedef struct {
    SaArena *arena;
    uint64_t random;
    bool integers, failed;
    SaFunction *f;
    SaValue *values[MAX_VALUES];
    double bound[MAX_VALUES];       /* magnitude, when integers */
    int uses[MAX_VALUES];
    int names;
    SaLimits limits;
} Gen;

static uint32_t rnd(Gen *g, uint32_t n) {
    uint64_t z = g->random += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return n ? (uint32_t)((z ^ (z >> 31)) >> 20) % n : 0;
}

static bool chance(Gen *g, uint32_t percent) { return rnd(g, 100) < percent; }
static int64_t between(Gen *g, int64_t lo, int64_t hi) { return lo + (int64_t)rnd(g, (uint32_t)(hi - lo + 1)); }

static void *need(Gen *g, size_t bytes) {
    static char nothing[1 << 16]; /* so that a failure needs no care where it happens */
    void *p = sa_arena_alloc(g->arena, bytes ? bytes : 1);
    g->failed = g->failed || !p;
    return p ? p : nothing;
}

__attribute__((format(printf, 2, 3))) static const char *text(Gen *g, const char *fmt, ...) {
    char buf[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, sizeof buf, fmt, ap);
    va_end(ap);
    char *s = need(g, strlen(buf) + 1);
    if (!g->failed)
        memcpy(s, buf, strlen(buf) + 1);
    return s;
}

/* ============================== Values ==================================== */

static SaValue *value_new(Gen *g, SaType type, const char *name, double bound) {
    SaValue *v = need(g, sizeof *v);
    g->failed = g->failed || g->f->n_values >= MAX_VALUES - 1;
    if (g->failed)
        return v;
    *v = (SaValue){.name = name, .type = type, .id = g->f->n_values};
    g->values[v->id] = v;
    g->bound[v->id] = bound;
    g->f->n_values++;
    return v;
}

static SaOp *op_new(Gen *g, SaOpId id) {
    g->failed = g->failed || g->f->n_ops >= MAX_STATEMENTS;
    SaOp *op = &g->f->ops[g->failed ? 0 : g->f->n_ops++];
    *op = (SaOp){.id = id};
    return op;
}

/* Element i of a constant. Integers stay within [lo, hi]. */
static void put_element(Gen *g, SaDtype t, void *data, size_t i, int64_t lo, int64_t hi) {
    int64_t n = between(g, lo, hi);
    float f = g->integers ? (float)between(g, -3, 3) : ((float)rnd(g, 4096) - 2048.0f) / 1024.0f;
    uint16_t h = sa_half_from_float_even(f), u16 = (uint16_t)n;
    uint32_t u32 = (uint32_t)n;
    f = sa_half_to_float(h);
    switch (sa_dtype_bytes(t)) {
    case 1: ((uint8_t *)data)[i] = (uint8_t)n; break;
    case 2: memcpy((char *)data + 2 * i, t == SA_FP16 ? &h : &u16, 2); break;
    default: memcpy((char *)data + 4 * i, t == SA_FP32 ? (void *)&f : (void *)&u32, 4);
    }
}

/* All values a dtype has, for constants without a meaning. */
static void whole_range(SaDtype t, int64_t *lo, int64_t *hi) {
    int bits = sa_dtype_bits(t);
    bool is_signed = t == SA_INT8 || t == SA_INT4;
    *lo = is_signed ? -((int64_t)1 << (bits - 1)) : 0;
    *hi = t == SA_BOOL ? 1 : bits > 8 ? 3 : ((int64_t)1 << (is_signed ? bits - 1 : bits)) - 1;
}

/* A constant statement; the value's data are inline, or said to be in a file. */
static SaValue *const_new(Gen *g, SaType type, bool file, int64_t lo, int64_t hi) {
    size_t n = (size_t)sa_type_count(&type);
    SaConst *c = need(g, sizeof *c);
    if (g->failed)
        return g->values[0];
    c->bytes = n * sa_dtype_bytes(type.dtype);
    c->data = need(g, c->bytes);
    for (size_t i = 0; i < n && !g->failed; i++)
        put_element(g, type.dtype, (void *)(uintptr_t)c->data, i, lo, hi);
    SaOp *op = op_new(g, SA_OP_CONST);
    const char *name = text(g, "c%d", g->names++);
    if (file && type.rank > 0 && type.dtype != SA_BOOL) {
        c->blob_path = text(g, "@model_path/weights/%s.bin", name);
        c->blob_offset = 64;
    }
    SaValue *v = value_new(g, type, name, fmax(3, fmax(fabs((double)lo), fabs((double)hi))));
    v->constant = c;
    v->producer = op;
    op->label = name;
    op->results = need(g, sizeof *op->results);
    op->results[0] = v;
    op->n_results = 1;
    return v;
}

static SaType type_of(SaDtype t, int rank, const int64_t *dims) {
    SaType type = {.dtype = t, .rank = rank};
    for (int i = 0; i < rank; i++)
        type.dim[i] = dims[i];
    return type;
}

/* A tensor constant of any contents. */
static SaValue *tensor_const(Gen *g, SaDtype t, int rank, const int64_t *dims) {
    int64_t lo, hi;
    whole_range(t, &lo, &hi);
    return const_new(g, type_of(t, rank, dims), chance(g, 40), lo, hi);
}

static SaValue *int_const(Gen *g, int64_t v) { return const_new(g, type_of(SA_INT32, 0, NULL), false, v, v); }

static SaValue *ints_const(Gen *g, int n, const int64_t *v) {
    int64_t dim = n;
    SaValue *c = const_new(g, type_of(SA_INT32, 1, &dim), false, 0, 0);
    for (int i = 0; i < n && !g->failed; i++)
        ((int32_t *)(uintptr_t)c->constant->data)[i] = (int32_t)v[i];
    return c;
}

static SaValue *float_const(Gen *g, float f) {
    SaValue *c = const_new(g, type_of(chance(g, 80) ? SA_FP16 : SA_FP32, 0, NULL), false, 0, 0);
    uint16_t h = sa_half_from_float_even(f);
    if (!g->failed)
        memcpy((void *)(uintptr_t)c->constant->data, c->type.dtype == SA_FP16 ? (void *)&h : (void *)&f, sa_dtype_bytes(c->type.dtype));
    g->bound[c->id] = fabs((double)f);
    return c;
}

static SaValue *string_const(Gen *g, const char *s) {
    SaValue *c = const_new(g, type_of(SA_STRING, 0, NULL), false, 0, 0);
    if (!g->failed) {
        ((SaConst *)(uintptr_t)c->constant)->string = text(g, "%s", s);
        ((SaConst *)(uintptr_t)c->constant)->data = c->constant->string;
    }
    return c;
}

/* A parameter: takes the place of a constant anywhere. */
static SaValue *param_new(Gen *g, SaType type) {
    SaValue *v = value_new(g, type, text(g, "p%d", g->names++), 3);
    if (!g->failed)
        g->f->params[g->f->n_params++] = v;
    return v;
}

/* A value of exactly this type: an old one, a new parameter or a constant. */
static SaValue *fitting(Gen *g, SaType type) {
    for (int tries = 0; tries < 20; tries++) {
        SaValue *v = g->values[rnd(g, (uint32_t)g->f->n_values)];
        if (!v->constant && sa_type_equal(&v->type, &type) && chance(g, 70))
            return v;
    }
    bool port = type.dtype == SA_FP16 && type.rank > 0;
    if (port && g->f->n_params < MAX_PARAMS && chance(g, 50))
        return param_new(g, type);
    return tensor_const(g, type.dtype, type.rank, type.dim);
}

/* A value to work on: made in a run, of a dtype in the mask, rather late than early. */
static SaValue *some_value(Gen *g, unsigned dtypes) {
    SaValue *best = NULL;
    for (int tries = 0; tries < 12; tries++) {
        SaValue *v = g->values[rnd(g, (uint32_t)g->f->n_values)];
        if (v->constant || sa_value_is_constant(v) || !(dtypes >> v->type.dtype & 1) || sa_type_count(&v->type) > MAX_COUNT)
            continue;
        if (!best || v->id > best->id)
            best = v;
    }
    return best;
}

/* ============================== Operands by name ========================== */

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static int64_t pick_int(Gen *g, const SaOp *op, const char *key, const SaType *x) {
    int rank = x ? x->rank : 2;
    if (is(key, "axis") || is(key, "vector_axis"))
        return op->id == SA_OP_EINSUM ? 0 : between(g, -rank, rank > 0 ? rank - 1 : 0);
    if (is(key, "groups"))
        return chance(g, 60) || rank < 2 ? 1 : chance(g, 50) ? x->dim[1] : 2;
    if (is(key, "k"))
        return chance(g, 20) ? -1 : between(g, 1, 6);
    if (is(key, "num_splits"))
        return op->n_results;
    if (is(key, "one_hot_vector_size") || is(key, "target_size_height") || is(key, "target_size_width"))
        return between(g, 1, 7);
    if (is(key, "lower") || is(key, "upper"))
        return between(g, -1, 3);
    if (is(key, "batch_dims"))
        return 0;
    return between(g, 1, 3); /* sizes, blocks, strides, resized_dims */
}

/* Numbers whose product is `count`. */
static int factors(Gen *g, int64_t count, int64_t *out) {
    int n = (int)between(g, 1, 5);
    for (int i = 0; i < n - 1; i++) {
        int64_t d = between(g, 1, 6);
        out[i] = count % d == 0 ? d : 1;
        count /= out[i];
    }
    out[n - 1] = count;
    return n;
}

static int pick_slice(Gen *g, const char *key, const SaType *x, int64_t *v) {
    for (int i = 0; i < x->rank; i++)
        v[i] = is(key, "begin") ? between(g, 0, x->dim[i] / 2)
               : is(key, "size") ? (chance(g, 30) ? -1 : between(g, 1, x->dim[i] / 2 + 1))
               : is(key, "end")  ? between(g, x->dim[i] / 2 + 1, x->dim[i])
                                 : between(g, 1, 2);
    return x->rank;
}

static int pick_ints(Gen *g, const SaOp *op, const char *key, const SaType *x, int64_t v[10]) {
    int rank = x ? x->rank : 2, n = 0, spatial = rank > 2 ? rank - 2 : 1;
    if (is(key, "perm")) {
        for (int i = 0; i < rank; i++)
            v[i] = i;
        for (int i = rank - 1; i > 0; i--) {
            int k = (int)rnd(g, (uint32_t)i + 1);
            int64_t t = v[i];
            v[i] = v[k];
            v[k] = t;
        }
        return rank;
    }
    if (is(key, "axes")) {
        int of = op->id == SA_OP_EXPAND_DIMS ? rank + 1 : rank;
        for (int i = 0; i < of; i++)
            if (chance(g, op->id == SA_OP_EXPAND_DIMS ? 30 : 50) && n < (op->id == SA_OP_EXPAND_DIMS ? 1 : 5))
                v[n++] = chance(g, 50) ? i : i - of;
        if (n == 0)
            v[n++] = of > 0 ? (int64_t)rnd(g, (uint32_t)of) : 0;
        return n;
    }
    if (is(key, "begin") || is(key, "size") || is(key, "end") || (is(key, "stride") && op->id == SA_OP_SLICE_BY_INDEX))
        return pick_slice(g, key, x, v);
    if (is(key, "shape") && op->id == SA_OP_RESHAPE)
        return factors(g, sa_type_count(x), v);
    if (is(key, "split_sizes")) {
        int64_t axis = 0;
        sa_op_int(op, "axis", &axis);
        int64_t left = rank ? x->dim[(axis + rank) % rank] : 1;
        for (n = 0; n < op->n_results - 1; n++) {
            v[n] = left > op->n_results - n ? between(g, 1, left - (op->n_results - 1 - n)) : 1;
            left -= v[n];
        }
        v[n++] = left;
        return n;
    }
    n = is(key, "reps") ? rank : is(key, "pad") ? 2 * spatial : is(key, "shape") ? (int)between(g, 1, 3) : 0;
    n = n ? n : is(key, "crop_height") || is(key, "crop_width") || is(key, "block_shape") ? 2 : spatial;
    if (is(key, "pad") && op->id == SA_OP_PAD)
        n = 2 * (int)between(g, 1, rank > 0 ? rank : 1);
    int64_t lo = is(key, "pad") || is(key, "crop_height") || is(key, "crop_width") ? 0 : 1;
    for (int i = 0; i < n; i++)
        v[i] = between(g, lo, lo == 0 ? 2 : is(key, "shape") ? 5 : is(key, "kernel_sizes") ? 3 : 2);
    return n;
}

static const char *pick_word(Gen *g, const SaOperandSpec *s, const SaType *x) {
    char word[64] = "";
    if (!s->choices)
        return text(g, "%s", x && x->rank == 4 ? "nchw,nwhu->nchu" : "chw,whr->chr");
    int n = 1;
    for (const char *p = s->choices; *p; p++)
        n += *p == '|';
    const char *p = s->choices;
    for (int i = (int)rnd(g, (uint32_t)n); i > 0; i--)
        p += strcspn(p, "|") + 1;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(p, "|"), p);
    return text(g, "%s", word);
}

static SaValue *pick_number(Gen *g, const SaOp *op, const SaOperandSpec *s) {
    bool range = op->id == SA_OP_RANGE_1D, factor = strncmp(s->key, "scale", 5) == 0;
    int64_t lo = range ? (is(s->key, "end") ? 5 : 1) : factor ? 1 : 0, hi = range ? (is(s->key, "end") ? 9 : 2) : factor ? 2 : 3;
    if (factor && chance(g, 30)) {
        SaValue *v = float_const(g, 1.5f);
        return v;
    }
    if (factor || op->id == SA_OP_ONE_HOT)
        return int_const(g, between(g, lo, hi));
    SaValue *v = const_new(g, type_of(SA_FP16, 0, NULL), false, 0, 0);
    uint16_t h = sa_half_from_float_even((float)between(g, lo, hi));
    if (!g->failed)
        memcpy((void *)(uintptr_t)v->constant->data, &h, 2);
    return v;
}

static float pick_float(Gen *g, const SaOp *op, const char *key) {
    static const float some[] = {0.5f, 1.0f, 1.5f, 0.25f, 2.0f};
    if (is(key, "epsilon"))
        return chance(g, 50) ? 0.5f : 0x1p-7f;
    if (op->id == SA_OP_CLIP)
        return is(key, "alpha") ? (float)-between(g, 0, 2) : (float)between(g, 0, 3);
    return g->integers ? (float)between(g, 0, 2) : some[rnd(g, 5)];
}

/* ============================== Shapes that must fit ====================== */

/* The shape of a constant operand, from the other operands' types. Rank -1:
 * nothing sensible. */
static SaType const_shape(Gen *g, const SaOp *op, const SaOperandSpec *s, SaDtype t) {
    const SaValue *xv = op->n_args ? op->args[0].values[0] : NULL;
    const SaType *x = xv ? &xv->type : NULL;
    int64_t groups = 1, d[7] = {1, 1, 1, 1, 1, 1, 1};
    int rank = x ? x->rank : 0;
    sa_op_int(op, "groups", &groups);
    if (is(s->key, "weight") && op->id == SA_OP_LINEAR) {
        d[0] = between(g, 1, 6);
        d[1] = rank ? x->dim[rank - 1] : 1;
        return type_of(t, 2, d);
    }
    if (is(s->key, "weight")) {
        bool back = op->id == SA_OP_CONV_TRANSPOSE;
        int64_t in = rank > 1 ? x->dim[1] : 1, per = groups > 0 && in % groups == 0 ? in / groups : in;
        d[back ? 1 : 0] = between(g, 1, 3) * (back ? 1 : groups);
        d[back ? 0 : 1] = back ? in : per;
        for (int i = 2; i < rank; i++)
            d[i] = between(g, 1, 3);
        return type_of(t, rank, d);
    }
    if (is(s->key, "bias")) {
        const SaType *w = &sa_op_value(op, "weight")->type;
        return type_of(t, 1, w->dim);
    }
    if (op->id == SA_OP_LAYER_NORM) {
        int64_t axes[5];
        int n = sa_op_ints(op, "axes", axes, 5), k = 0;
        for (int i = 0; i < rank; i++) {
            bool listed = n < 0;
            for (int j = 0; j < n; j++)
                listed = listed || axes[j] == i || axes[j] + rank == i;
            if (listed)
                d[k++] = x->dim[i];
        }
        return type_of(t, k, d);
    }
    if (is(s->key, "scale") || is(s->key, "zero_point") || is(s->key, "offset")) {
        const SaValue *scale = sa_op_value(op, "scale");
        int64_t axis = 0;
        if (op->id == SA_OP_CONSTEXPR_BLOCKWISE_SHIFT_SCALE) {
            for (int i = 0; i < rank; i++)
                d[i] = is(s->key, "offset") ? scale->type.dim[i] : chance(g, 50) ? 1 : x->dim[i];
            return type_of(t, rank, d);
        }
        bool vector = sa_op_int(op, "axis", &axis) && rank > 0;
        d[0] = vector ? x->dim[(axis + rank) % rank] : 1;
        return type_of(t, vector ? 1 : 0, d);
    }
    if (is(s->key, "lut")) { /* behind indices */
        for (int i = 0; i < rank; i++)
            d[i] = chance(g, 60) ? 1 : x->dim[i];
        d[rank] = (int64_t)1 << sa_dtype_bits(x->dtype);
        d[rank + 1] = sa_op_arg(op, "vector_axis") && chance(g, 50) ? 2 : 1;
        return type_of(t, rank + 2, d);
    }
    if (is(s->key, "mask")) {
        d[0] = x->dim[0];
        return type_of(t, 1, d);
    }
    if (op->n_args > 0 && rank > 1 && !(sa_op_spec(op->id)->flags & SA_SPEC_CONSTEXPR)) { /* one per channel */
        d[0] = x->dim[1];
        return type_of(t, 1, d);
    }
    rank = (int)between(g, 1, 4); /* the data of a compressed constant */
    for (int i = 0; i < rank; i++)
        d[i] = between(g, 1, 4);
    if (is(s->key, "nonzero_data"))
        return type_of(t, 1, d);
    return type_of(t, rank, d);
}

static SaDtype some_dtype(Gen *g, unsigned mask) {
    for (;;) {
        SaDtype t = (SaDtype)between(g, SA_FP16, SA_STRING - 1);
        if (mask >> t & 1)
            return t;
    }
}

/* The type a second tensor operand should have beside x. */
static SaType beside(Gen *g, const SaOp *op, const char *key, const SaType *x, SaDtype t) {
    SaType y = *x;
    int r = x->rank;
    y.dtype = t;
    if (op->id == SA_OP_MATMUL && r >= 2) {
        bool tx = false, ty = false;
        sa_op_bool(op, "transpose_x", &tx);
        sa_op_bool(op, "transpose_y", &ty);
        int64_t k = x->dim[r - (tx ? 2 : 1)];
        y.dim[r - (ty ? 1 : 2)] = k;
        y.dim[r - (ty ? 2 : 1)] = between(g, 1, 8);
        return y;
    }
    if (op->id == SA_OP_SCALED_DOT_PRODUCT_ATTENTION && r < 2)
        return y; /* refused by its rule */
    if (is(key, "key") || is(key, "value")) {
        const SaValue *k = sa_op_value(op, "key");
        y.dim[r - 2] = k ? k->type.dim[r - 2] : between(g, 1, 8);
        if (k)
            y.dim[r - 1] = between(g, 1, 8);
        return y;
    }
    if (is(key, "attn_mask")) {
        const SaValue *k = sa_op_value(op, "key");
        SaType m = {.dtype = t, .rank = 2, .dim = {chance(g, 60) ? x->dim[r - 2] : 1, k->type.dim[r - 2]}};
        return m;
    }
    if (is(key, "weight")) { /* of conv, computed */
        SaOperandSpec s = {.key = "weight"};
        return const_shape(g, op, &s, t);
    }
    if (is(key, "indices")) {
        if (op->id == SA_OP_GATHER_ALONG_AXIS) {
            int64_t axis = 0;
            sa_op_int(op, "axis", &axis);
            if (r)
                y.dim[(axis + r) % r] = between(g, 1, 5);
            return y;
        }
        int64_t d[2] = {between(g, 1, 4), between(g, 1, r > 2 ? 2 : 1)};
        return type_of(t, op->id == SA_OP_GATHER ? (int)between(g, 0, 1) : 2, d);
    }
    for (int i = 0; i < r; i++) /* broadcast */
        if (chance(g, 25))
            y.dim[i] = 1;
    if (r > 1 && chance(g, 20)) {
        memmove(&y.dim[0], &y.dim[1], sizeof y.dim[0] * (size_t)(r - 1));
        y.rank--;
    }
    if (chance(g, 15))
        y.rank = 0;
    return y;
}

/* ============================== One operation ============================= */

static void arg_add(Gen *g, SaOp *op, const char *key, SaValue *v) {
    SaArg *a = &op->args[op->n_args++];
    *a = (SaArg){.key = key, .count = 1};
    a->values = need(g, sizeof *a->values);
    a->values[0] = v;
}

/* Indices into x that exist. */
static SaValue *indices_const(Gen *g, const SaOp *op, SaType type, const SaType *x) {
    int64_t axis = 0, most = INT32_MAX;
    sa_op_int(op, "axis", &axis);
    for (int i = 0; i < x->rank; i++)
        most = op->id == SA_OP_GATHER_ND || i == (axis + x->rank) % (x->rank ? x->rank : 1) ? (x->dim[i] < most ? x->dim[i] : most) : most;
    bool is_signed = type.dtype == SA_INT32 || type.dtype == SA_INT16 || type.dtype == SA_INT8;
    return const_new(g, type, false, is_signed ? -most : 0, most - 1);
}

static void fill_tuple(Gen *g, SaOp *op, const SaOperandSpec *s) {
    SaArg *a = &op->args[op->n_args++];
    SaValue *x = some_value(g, s->dtypes);
    int n = op->id == SA_OP_EINSUM ? 2 : (int)between(g, 1, 3);
    *a = (SaArg){.key = s->key, .count = n, .is_tuple = true, .values = need(g, 3 * sizeof *a->values)};
    if (!x)
        x = param_new(g, type_of(SA_FP16, 1, (int64_t[]){3}));
    a->values[0] = x;
    for (int i = 1; i < n; i++) {
        SaType t = x->type;
        if (op->id == SA_OP_EINSUM && t.rank >= 3) {
            t.dim[t.rank - 3] = x->type.dim[t.rank - 1];
            t.dim[t.rank - 1] = between(g, 1, 6);
            if (chance(g, 30))
                t.dim[t.rank - 2] = 1;
        }
        a->values[i] = chance(g, 40) && op->id != SA_OP_EINSUM ? x : fitting(g, t);
    }
}

/* One operand that is a tensor. */
static SaValue *tensor_operand(Gen *g, SaOp *op, const SaOperandSpec *s, const SaType *x) {
    if (!x) {
        SaValue *v = some_value(g, s->dtypes);
        if (v)
            return v;
        SaDtype t = some_dtype(g, s->dtypes);
        return t == SA_FP16 ? param_new(g, type_of(t, 3, (int64_t[]){2, 3, 4})) : tensor_const(g, t, 2, (int64_t[]){2, 3});
    }
    SaDtype t = is(s->key, "attn_mask") || is(s->key, "indices") ? some_dtype(g, s->dtypes) : s->dtypes >> x->dtype & 1 ? x->dtype : some_dtype(g, s->dtypes);
    SaType type = beside(g, op, s->key, x, t);
    if (is(s->key, "indices"))
        return indices_const(g, op, type, x);
    return fitting(g, type);
}

static void operand_add(Gen *g, SaOp *op, const SaOperandSpec *s) {
    const SaValue *first = op->n_args ? op->args[0].values[0] : NULL;
    const SaType *x = first ? &first->type : NULL;
    int64_t list[10] = {0}, pair[4];
    SaValue *v = NULL;
    switch (s->kind) {
    case SA_ARG_TENSOR: v = tensor_operand(g, op, s, x); break;
    case SA_ARG_CONST: {
        SaDtype t = op->id == SA_OP_QUANTIZE || op->id == SA_OP_DEQUANTIZE ? (is(s->key, "scale") ? SA_FP16 : SA_INT8) : some_dtype(g, s->dtypes);
        if (is(s->key, "offset") || is(s->key, "zero_point"))
            t = first->type.dtype;
        if (is(s->key, "mask"))
            t = SA_UINT1;
        SaType type = const_shape(g, op, s, t);
        v = tensor_const(g, t, type.rank, type.dim);
        for (size_t i = 0; is(s->key, "mask") && i < v->constant->bytes; i++)
            ((uint8_t *)(uintptr_t)v->constant->data)[i] = 1; /* as many as there are values */
        if (is(s->key, "mask") || is(s->key, "variance") || is(s->key, "scale")) {
            SaConst *c = (SaConst *)(uintptr_t)v->constant;
            c->blob_path = NULL; /* contents matter: made here */
            for (int64_t i = 0; is(s->key, "variance") && i < type.dim[0]; i++)
                ((uint16_t *)(uintptr_t)c->data)[i] &= 0x7fff;
            for (int64_t i = 0; is(s->key, "scale") && t == SA_FP16 && i < sa_type_count(&type); i++)
                ((uint16_t *)(uintptr_t)c->data)[i] = sa_half_from_float_even((float)between(g, 1, 2));
        }
        break;
    }
    case SA_ARG_INT: v = int_const(g, pick_int(g, op, s->key, x)); break;
    case SA_ARG_INTS: v = ints_const(g, pick_ints(g, op, s->key, x, list), list); break;
    case SA_ARG_BOOL: v = const_new(g, type_of(SA_BOOL, 0, NULL), false, 0, is(s->key, "interleave") ? 0 : 1); break;
    case SA_ARG_MASK: v = const_new(g, type_of(SA_BOOL, 1, (int64_t[]){x && x->rank ? x->rank : 1}), false, 0, 1); break;
    case SA_ARG_FLOAT: v = float_const(g, pick_float(g, op, s->key)); break;
    case SA_ARG_STRING: v = string_const(g, pick_word(g, s, x)); break;
    case SA_ARG_NUMBER: v = pick_number(g, op, s); break;
    case SA_ARG_PAIRS:
        for (int i = 0; i < 4; i++)
            pair[i] = between(g, 0, 1);
        v = const_new(g, type_of(SA_INT32, 2, (int64_t[]){2, 2}), false, 0, 0);
        for (int i = 0; i < 4 && !g->failed; i++)
            ((int32_t *)(uintptr_t)v->constant->data)[i] = (int32_t)pair[i];
        break;
    default: return;
    }
    arg_add(g, op, s->key, v);
}

/* Operands that others depend on come first. */
static const char *const early[] = {"axis", "axes", "groups", "transpose_x", "transpose_y", "indices", "vector_axis"};

static void operands_add(Gen *g, SaOp *op, const SaOpSpec *spec) {
    op->args = need(g, SA_MAX_OPERANDS * sizeof *op->args);
    for (int pass = 0; pass < 3; pass++) /* the first one, the early ones, the rest */
        for (int i = 0; i < SA_MAX_OPERANDS && spec->operands[i].key && !g->failed; i++) {
            const SaOperandSpec *s = &spec->operands[i];
            bool soon = false;
            for (size_t k = 0; k < sizeof early / sizeof *early; k++)
                soon = soon || is(early[k], s->key);
            if ((i == 0 ? 0 : soon ? 1 : 2) != pass || s->kind == SA_ARG_REFUSED)
                continue;
            bool flat = is(s->key, "shape") && (spec->flags & SA_SPEC_CONSTEXPR); /* another form; the corpus has it */
            if (!s->required && (flat || is(s->key, "output_shape") || chance(g, 50)))
                continue;
            if (s->kind == SA_ARG_TUPLE)
                fill_tuple(g, op, s);
            else
                operand_add(g, op, s);
        }
}

/* ============================== Magnitudes ================================ */

static double bound_of(Gen *g, const SaOp *op, const char *key) {
    const SaValue *v = sa_op_value(op, key);
    return v ? g->bound[v->id] : 0;
}

/* Bound of an operation that is exact on integers; -1 for others. */
static double result_bound(Gen *g, const SaOp *op, const SaType *out) {
    double x = bound_of(g, op, "x"), y = bound_of(g, op, "y"), w = bound_of(g, op, "weight"), most = 0;
    const SaType *xt = sa_op_value(op, "x") ? &sa_op_value(op, "x")->type : NULL, *wt = sa_op_value(op, "weight") ? &sa_op_value(op, "weight")->type : NULL;
    double folded = xt && sa_type_count(out) ? (double)sa_type_count(xt) / (double)sa_type_count(out) : 1;
    bool tx = false, ceil_mode = false;
    float f[2] = {0, 0};
    sa_op_bool(op, "transpose_x", &tx);
    sa_op_bool(op, "ceil_mode", &ceil_mode); /* may leave a window empty: -inf */
    if (ceil_mode)
        return -1;
    sa_op_float(op, "alpha", &f[0]);
    sa_op_float(op, "beta", &f[1]);
    double a = fabs((double)f[0]), b = fabs((double)f[1]);
    for (int i = 0; i < op->n_args; i++)
        for (int k = 0; k < op->args[i].count; k++)
            most = fmax(most, g->bound[op->args[i].values[k]->id]);
    if (strcmp(sa_op_spec(op->id)->group, "Movement") == 0)
        return op->id == SA_OP_CAST || op->id == SA_OP_PAD ? most + 3 : most;
    switch (op->id) {
    case SA_OP_ADD: case SA_OP_SUB: return x + y;
    case SA_OP_MUL: return x * y;
    case SA_OP_SQUARE: return x * x;
    case SA_OP_MAXIMUM: case SA_OP_MINIMUM: case SA_OP_SELECT: return most;
    case SA_OP_ABS: case SA_OP_RELU: case SA_OP_CEIL: case SA_OP_FLOOR: case SA_OP_ROUND: case SA_OP_SIGN: case SA_OP_RELU6:
    case SA_OP_REDUCE_MAX: case SA_OP_REDUCE_MIN: case SA_OP_MAX_POOL: case SA_OP_BAND_PART: case SA_OP_CROP: case SA_OP_SPACE_TO_DEPTH:
    case SA_OP_DEPTH_TO_SPACE: case SA_OP_PIXEL_SHUFFLE: case SA_OP_PIXEL_UNSHUFFLE: case SA_OP_SPACE_TO_BATCH: case SA_OP_BATCH_TO_SPACE:
    case SA_OP_UPSAMPLE_NEAREST_NEIGHBOR: case SA_OP_RESIZE_NEAREST_NEIGHBOR: case SA_OP_GATHER: case SA_OP_GATHER_ALONG_AXIS:
    case SA_OP_GATHER_ND: return x;
    case SA_OP_CLIP: case SA_OP_THRESHOLD: case SA_OP_THRESHOLDED_RELU: return x + a + b;
    case SA_OP_CLAMPED_RELU: case SA_OP_LINEAR_ACTIVATION: return x * fmax(a, 1) + b;
    case SA_OP_PRELU: return 3 * x;
    case SA_OP_TOPK: case SA_OP_REDUCE_ARGMAX: case SA_OP_REDUCE_ARGMIN: case SA_OP_ARGSORT: return fmax(x, MAX_SIDE);
    case SA_OP_ONE_HOT: case SA_OP_FILL: case SA_OP_FILL_LIKE: return 3;
    case SA_OP_RANGE_1D: return 12;
    case SA_OP_REDUCE_SUM: case SA_OP_REDUCE_L1_NORM: return folded * x;
    case SA_OP_REDUCE_SUM_SQUARE: return folded * x * x;
    case SA_OP_CUMSUM: return (double)MAX_SIDE * x;
    case SA_OP_MATMUL: return (double)xt->dim[xt->rank - (tx ? 2 : 1)] * x * y;
    case SA_OP_LINEAR: return (double)xt->dim[xt->rank - 1] * x * w + bound_of(g, op, "bias");
    case SA_OP_CONV: return (double)sa_type_count(wt) / (double)wt->dim[0] * x * w;
    case SA_OP_CONV_TRANSPOSE: return (double)sa_type_count(wt) / (double)wt->dim[1] * x * w;
    case SA_OP_CONSTEXPR_LUT_TO_DENSE: case SA_OP_CONSTEXPR_SPARSE_TO_DENSE: case SA_OP_CONSTEXPR_CAST: return most;
    default: return out->dtype == SA_BOOL ? 1 : -1;
    }
}

/* ============================== Program =================================== */

/* How many results an operation is declared to have. */
static int results_of(Gen *g, SaOpId id) { return id == SA_OP_SPLIT || id == SA_OP_TOPK ? (int)between(g, 1, 3) : 1; }

/* Try one operation; the constants of a failed attempt are taken back. */
static bool try_op(Gen *g, SaOpId id, bool seen[]) {
    const SaOpSpec *spec = sa_op_spec(id);
    int n_ops = g->f->n_ops, n_values = g->f->n_values, n_params = g->f->n_params;
    SaType out[4] = {{0}};
    SaOp op = {.id = id, .n_results = results_of(g, id)};
    operands_add(g, &op, spec);
    SaRuleCtx c = {.op = &op, .limits = &g->limits, .out = out};
    bool good = !g->failed && sa_op_types(&c) == SA_OK;
    double bound = 0;
    for (int i = 0; good && i < op.n_results; i++) {
        good = sa_type_count(&out[i]) <= MAX_COUNT && out[i].rank <= SA_MAX_RANK;
        for (int k = 0; k < out[i].rank; k++)
            good = good && out[i].dim[k] <= MAX_SIDE;
        if (g->integers && good)
            bound = result_bound(g, &op, &out[i]);
        good = good && bound >= 0 && bound <= 2048;
    }
    if (!good) {
        g->f->n_ops = n_ops;
        g->f->n_values = n_values;
        g->f->n_params = n_params;
        return false;
    }
    SaOp *o = op_new(g, id);
    o->args = op.args;
    o->n_args = op.n_args;
    o->n_results = op.n_results;
    o->results = need(g, sizeof *o->results * (size_t)op.n_results);
    for (int i = 0; i < op.n_results && !g->failed; i++) {
        o->results[i] = value_new(g, out[i], text(g, "v%d", g->names++), bound);
        o->results[i]->producer = o;
    }
    o->label = g->failed ? "" : o->results[0]->name;
    for (int i = 0; i < o->n_args; i++)
        for (int k = 0; k < o->args[i].count; k++)
            g->uses[o->args[i].values[k]->id]++;
    if (seen)
        seen[id] = true;
    return true;
}

static bool floats(const SaValue *v) { return v->type.dtype == SA_FP16 || v->type.dtype == SA_FP32; }

static void first_params(Gen *g) {
    int64_t d[5];
    for (int i = 0; i < 3; i++) {
        int rank = (int)between(g, i == 0 ? 4 : 1, i == 0 ? 4 : 5);
        for (int k = 0; k < rank; k++)
            d[k] = k == 0 && rank > 3 ? between(g, 1, 2) : between(g, 1, rank < 3 ? 40 : rank < 5 ? 8 : 4);
        param_new(g, type_of(i == 2 && chance(g, 30) ? SA_FP32 : SA_FP16, rank, d));
    }
}

SaProgram *gen_program(SaArena *arena, const GenOptions *options, bool seen[SA_OP_COUNT]) {
    Gen *g = sa_arena_alloc(arena, sizeof *g);
    SaProgram *p = sa_arena_alloc(arena, sizeof *p);
    SaFunction *f = sa_arena_alloc(arena, sizeof *f);
    if (!g || !p || !f)
        return NULL;
    *g = (Gen){.arena = arena, .random = options->seed * 0x2545f4914f6cdd1dull + 1, .integers = options->integers, .f = f};
    sa_limits_default(&g->limits);
    g->limits.allow_refused = true;
    *f = (SaFunction){.name = "main", .target = options->dialect == 'B' ? "ios16" : "ios18"};
    f->ops = need(g, MAX_STATEMENTS * sizeof *f->ops);
    f->params = need(g, (MAX_PARAMS + 4 * GEN_MAX_OPS) * sizeof *f->params);
    f->outputs = need(g, MAX_VALUES * sizeof *f->outputs);
    if (g->failed)
        return NULL;
    first_params(g);
    int made = 0;
    for (int tries = 0; made < options->n_ops && made < GEN_MAX_OPS && tries < 4000 && !g->failed && f->n_params < MAX_PARAMS + 40; tries++) {
        SaOpId id = (SaOpId)rnd(g, SA_OP_COUNT);
        for (int again = 0; sa_op_spec(id) && again < 4; again++)
            if (try_op(g, id, seen)) {
                made++;
                break;
            }
    }
    for (int i = 0; i < f->n_values; i++) { /* results that nobody reads; at least the last */
        SaValue *v = g->values[i];
        if (floats(v) && v->producer && !sa_value_is_constant(v) && g->uses[i] == 0 && f->n_outputs < 60)
            f->outputs[f->n_outputs++] = v;
    }
    for (int i = f->n_values - 1; i >= 0 && f->n_outputs == 0; i--)
        if (floats(g->values[i]) && g->values[i]->producer && !sa_value_is_constant(g->values[i]))
            f->outputs[f->n_outputs++] = g->values[i];
    *p = (SaProgram){.version = options->dialect == 'B' ? "1.0" : "1.3", .dialect = options->dialect, .functions = f, .n_functions = 1};
    return g->failed || f->n_outputs == 0 ? NULL : p;
}

SaProgram *gen_all_outputs(SaArena *arena, const SaProgram *p) {
    SaProgram *q = sa_arena_alloc(arena, sizeof *q);
    SaFunction *f = sa_arena_alloc(arena, sizeof *f);
    if (!q || !f)
        return NULL;
    *q = *p;
    *f = p->functions[0];
    q->functions = f;
    f->outputs = sa_arena_alloc(arena, ((size_t)f->n_values + 1) * sizeof *f->outputs);
    f->n_outputs = 0;
    for (int i = 0; f->outputs && i < f->n_ops; i++)
        for (int k = 0; k < f->ops[i].n_results; k++)
            if (floats(f->ops[i].results[k]) && !sa_value_is_constant(f->ops[i].results[k]) && f->n_outputs < 60)
                f->outputs[f->n_outputs++] = f->ops[i].results[k];
    return f->outputs ? q : NULL;
}
