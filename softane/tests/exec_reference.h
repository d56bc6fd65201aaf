// SPDX-License-Identifier: MIT
/* exec_reference.h - the operations of MIL, slow and plainly right, in double.
 *
 * An interpreter over a checked SaProgram that shares nothing with plan/ and
 * exec/ but the scalar fp16 conversions. Every value is an array of doubles;
 * what an operation gives is rounded to its declared dtype before the next one
 * sees it. Beside each value stands the error an implementation in fp32 may
 * make on top of that rounding:
 *
 *   exact        nothing: the fp32 result is what is rounded
 *   functions    1e-6 of the value (5e-6 for pow)
 *   sums         n 2^-24 of the sum of the magnitudes (products: sum |a||b|)
 *
 * Included by test_exec.c only. */
#ifndef SA_TESTS_EXEC_REFERENCE_H
#define SA_TESTS_EXEC_REFERENCE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../mil/mil.h"
#include "../plan/plan.h"

/* ============================== Values ==================================== */

typedef struct {
    SaType type;
    size_t n;
    double *y;       /* rounded */
    double *raw;     /* before the rounding */
    double *slack;   /* what fp32 arithmetic may add to the error; NULL = 0 */
} RefValue;

typedef struct {
    SaNumerics numerics;
    RefValue *v;     /* by value id */
    int n;
} Ref;

#define REF_EXACT ((SaNumerics)99) /* nothing is rounded: mathematics */

static double ref_half(double y, SaNumerics n, bool product) {
    float f = (float)y;
    if (n == REF_EXACT)
        return y;
    if (n == SA_NUMERICS_IEEE)
        return sa_half_to_float(sa_half_from_float_even(f));
    if (product && fabsf(f) >= 32768.0f)
        f = copysignf(INFINITY, f);
    return sa_half_to_float(sa_half_from_float_away(f));
}

static RefValue *ref_new(Ref *r, const SaValue *v) {
    RefValue *x = &r->v[v->id];
    x->type = v->type;
    x->n = (size_t)sa_type_count(&v->type);
    x->y = calloc(x->n, sizeof(double));
    x->raw = calloc(x->n, sizeof(double));
    x->slack = calloc(x->n, sizeof(double));
    return x;
}

static void ref_store(const Ref *r, RefValue *x, bool product) {
    for (size_t i = 0; i < x->n; i++)
        x->y[i] = x->type.dtype == SA_FP16   ? ref_half(x->raw[i], r->numerics, product)
                  : x->type.dtype == SA_FP32 ? (double)(float)x->raw[i]
                                             : x->raw[i];
}

static inline void ref_free(Ref *r) {
    for (int i = 0; i < r->n; i++) {
        free(r->v[i].y);
        free(r->v[i].raw);
        free(r->v[i].slack);
    }
    free(r->v);
}

/* ============================== Indices =================================== */

static void ref_unravel(size_t i, const SaType *t, int64_t at[SA_MAX_RANK]) {
    for (int a = t->rank - 1; a >= 0; a--) {
        at[a] = (int64_t)i % t->dim[a];
        i /= (size_t)t->dim[a];
    }
}

static size_t ref_ravel(const int64_t *at, const SaType *t) {
    size_t i = 0;
    for (int a = 0; a < t->rank; a++)
        i = i * (size_t)t->dim[a] + (size_t)at[a];
    return i;
}

/* Element of `x` seen at index `at` of an `out_rank` broadcast. */
static double ref_at(const RefValue *x, const int64_t *at, int out_rank) {
    int64_t mine[SA_MAX_RANK];
    for (int a = 0; a < x->type.rank; a++) {
        int64_t i = at[a + out_rank - x->type.rank];
        mine[a] = x->type.dim[a] == 1 ? 0 : i;
    }
    return x->y[ref_ravel(mine, &x->type)];
}

static RefValue *ref_arg(Ref *r, const SaOp *op, const char *key) {
    SaValue *v = sa_op_value(op, key);
    return v ? &r->v[v->id] : NULL;
}

static float ref_param(const SaOp *op, const char *key, float absent) {
    float f = absent;
    sa_op_float(op, key, &f);
    return f;
}

static int64_t ref_axis(const SaOp *op, const char *key, int64_t absent, int rank) {
    int64_t a = absent;
    sa_op_int(op, key, &a);
    return a < 0 ? a + rank : a;
}

/* ============================== Elementwise =============================== */

static double ref_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* One operand. *rel gets the relative error allowed. */
static double ref_unary(const SaOp *op, double x, bool ieee, double *rel) {
    *rel = 1e-6;
    float f = (float)x;
    const char *mode = "";
    double u, eps;
    switch (op->id) {
    case SA_OP_ABS: *rel = 0; return fabs(x);
    case SA_OP_SIGN: *rel = 0; return x > 0 ? 1 : x < 0 ? -1 : x;
    case SA_OP_SQRT: *rel = 0; return sqrtf(f);
    case SA_OP_SQUARE: *rel = 0; return f * f;
    case SA_OP_CEIL: *rel = 0; return ceil(x);
    case SA_OP_FLOOR: *rel = 0; return floor(x);
    case SA_OP_ROUND: *rel = 0; return rint(x);
    case SA_OP_RELU: *rel = 0; return x < 0 ? 0 : x;
    case SA_OP_RELU6: *rel = 0; return x < 0 ? 0 : x > 6 ? 6 : x;
    case SA_OP_CLIP:
        *rel = 0;
        x = x < (double)ref_param(op, "alpha", 0) ? (double)ref_param(op, "alpha", 0) : x;
        return x > (double)ref_param(op, "beta", 0) ? (double)ref_param(op, "beta", 0) : x;
    case SA_OP_THRESHOLD: *rel = 0; return x < (double)ref_param(op, "alpha", 0) ? (double)ref_param(op, "alpha", 0) : x;
    case SA_OP_LOGICAL_NOT: *rel = 0; return x == 0;
    case SA_OP_EXP: return exp(x);
    case SA_OP_EXP2: return exp2(x);
    case SA_OP_LOG: return log((double)(f + ref_param(op, "epsilon", 1e-45f)));
    case SA_OP_ERF: return erf(x);
    case SA_OP_ATAN: return atan(x);
    case SA_OP_SIN: return sin(x);
    case SA_OP_COS: return cos(x);
    case SA_OP_RSQRT: return 1.0 / sqrt((double)(f + ref_param(op, "epsilon", 1e-12f)));
    case SA_OP_INVERSE:
        eps = (double)(f + ref_param(op, "epsilon", 1e-4f));
        return eps == 0 && !ieee ? 0 : 1.0 / eps;
    case SA_OP_SIGMOID: return ref_sigmoid(x);
    case SA_OP_SIGMOID_HARD:
        u = (double)ref_param(op, "alpha", 0.2f) * x + (double)ref_param(op, "beta", 0.5f);
        return u < 0 ? 0 : u > 1 ? 1 : u;
    case SA_OP_TANH: return tanh(x);
    case SA_OP_SCALED_TANH: return (double)ref_param(op, "alpha", 1) * tanh((double)ref_param(op, "beta", 1) * x);
    case SA_OP_LEAKY_RELU: return x < 0 ? x * (double)ref_param(op, "alpha", 0.01f) : x;
    case SA_OP_ELU: return x < 0 ? (double)ref_param(op, "alpha", 1) * expm1(x) : x;
    case SA_OP_SILU: return isinf(x) ? (x > 0 ? x : -0.0) : x * ref_sigmoid(x);
    case SA_OP_SOFTPLUS: return (x > 0 ? x : 0) + log1p(exp(-fabs(x))) + (x != x ? x : 0);
    case SA_OP_SOFTSIGN: return isinf(x) ? copysign(1, x) : x / (1 + fabs(x));
    case SA_OP_GELU:
        sa_op_string(op, "mode", &mode);
        *rel = 2e-6;
        if (isinf(x))
            return x > 0 ? x : -0.0;
        if (mode[0] == 'T')
            return x * ref_sigmoid(2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
        return mode[0] == 'S' ? x * ref_sigmoid(1.702 * x) : 0.5 * x * erfc(-x / sqrt(2.0));
    default: return NAN;
    }
}

static double ref_binary(SaOpId id, double x, double y, bool ieee, double *rel) {
    float a = (float)x, b = (float)y;
    *rel = 0;
    switch (id) {
    case SA_OP_ADD: return a + b;
    case SA_OP_SUB: return a - b;
    case SA_OP_MUL: return a * b;
    case SA_OP_REAL_DIV: return b == 0 && !ieee ? 0 : a / b;
    case SA_OP_FLOOR_DIV: return b == 0 && !ieee ? 0 : floor(x / y);
    case SA_OP_MOD: return b == 0 && !ieee ? x : x - floor(x / y) * y;
    case SA_OP_POW:
        *rel = 5e-6;
        if (x == -INFINITY && fabs(y) == 0.5)
            return NAN; /* these exponents are square roots */
        return pow(x, y);
    case SA_OP_MAXIMUM: return x > y ? x : y;
    case SA_OP_MINIMUM: return x < y ? x : y;
    case SA_OP_GREATER: return x > y;
    case SA_OP_GREATER_EQUAL: return x >= y;
    case SA_OP_LESS: return x < y;
    case SA_OP_LESS_EQUAL: return x <= y;
    case SA_OP_EQUAL: return x == y;
    case SA_OP_NOT_EQUAL: return x != y;
    case SA_OP_LOGICAL_AND: return x != 0 && y != 0;
    case SA_OP_LOGICAL_OR: return x != 0 || y != 0;
    case SA_OP_LOGICAL_XOR: return (x != 0) != (y != 0);
    default: return NAN;
    }
}

static bool ref_elem(Ref *r, const SaOp *op, RefValue *out) {
    bool ieee = r->numerics == SA_NUMERICS_IEEE;
    RefValue *x = ref_arg(r, op, "x"), *y = ref_arg(r, op, "y");
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK];
        double rel = 0;
        ref_unravel(i, &out->type, at);
        if (op->id == SA_OP_SELECT)
            out->raw[i] = ref_at(ref_arg(r, op, ref_at(ref_arg(r, op, "cond"), at, out->type.rank) != 0 ? "a" : "b"), at,
                                 out->type.rank);
        else if (op->id == SA_OP_PRELU)
            out->raw[i] = x->y[i] < 0 ? (double)((float)x->y[i] * (float)ref_arg(r, op, "alpha")->y[at[1]]) : x->y[i];
        else if (y)
            out->raw[i] = ref_binary(op->id, ref_at(x, at, out->type.rank), ref_at(y, at, out->type.rank), ieee, &rel);
        else
            out->raw[i] = ref_unary(op, x->y[i], ieee, &rel);
        out->slack[i] = isfinite(out->raw[i]) ? rel * fabs(out->raw[i]) : 0;
    }
    return true;
}

static void ref_cast(const RefValue *x, RefValue *out) {
    for (size_t i = 0; i < out->n; i++) {
        double v = x->y[i], lo = out->type.dtype == SA_INT8 ? -128 : 0, hi = out->type.dtype == SA_INT8 ? 127 : 255;
        if (out->type.dtype == SA_BOOL)
            v = v != 0;
        else if (out->type.dtype == SA_INT8 || out->type.dtype == SA_UINT8)
            v = v != v ? 0 : trunc(v) < lo ? lo : trunc(v) > hi ? hi : trunc(v);
        out->raw[i] = v;
    }
}

/* ============================== Sums ====================================== */

/* Sum of products with its bound. */
static void ref_dot(RefValue *out, size_t i, double sum, double magnitude, size_t n) {
    out->raw[i] = sum;
    out->slack[i] = (double)n * 0x1p-24 * magnitude;
}

static void ref_matmul(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *y = ref_arg(r, op, "y");
    bool tx = false, ty = false;
    sa_op_bool(op, "transpose_x", &tx);
    sa_op_bool(op, "transpose_y", &ty);
    int rank = out->type.rank;
    int64_t k = x->type.dim[x->type.rank - (tx ? 2 : 1)];
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], ax[SA_MAX_RANK], ay[SA_MAX_RANK];
        double sum = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        memcpy(ax, at, sizeof at);
        memcpy(ay, at, sizeof at);
        for (int64_t p = 0; p < k; p++) {
            ax[rank - (tx ? 1 : 2)] = at[rank - 2];
            ax[rank - (tx ? 2 : 1)] = p;
            ay[rank - (ty ? 1 : 2)] = p;
            ay[rank - (ty ? 2 : 1)] = at[rank - 1];
            if (ty) {
                ay[rank - 2] = at[rank - 1];
                ay[rank - 1] = p;
            }
            double t = ref_at(x, ax, rank) * ref_at(y, ay, rank);
            sum += t;
            mag += fabs(t);
        }
        ref_dot(out, i, sum, mag, (size_t)k);
    }
}

static void ref_linear(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *w = ref_arg(r, op, "weight"), *b = ref_arg(r, op, "bias");
    size_t k = (size_t)w->type.dim[1], o = (size_t)w->type.dim[0];
    for (size_t i = 0; i < out->n; i++) {
        double sum = b ? b->y[i % o] : 0, mag = fabs(sum);
        for (size_t p = 0; p < k; p++) {
            double t = x->y[i / o * k + p] * w->y[i % o * k + p];
            sum += t;
            mag += fabs(t);
        }
        ref_dot(out, i, sum, mag, k + 1);
    }
}

static void ref_conv(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *w = ref_arg(r, op, "weight");
    int n = x->type.rank - 2;
    int64_t stride[2] = {1, 1}, dil[2] = {1, 1}, pad[4] = {0}, groups = 1, before[2] = {0, 0};
    const char *type = "valid";
    sa_op_ints(op, "strides", stride, n);
    sa_op_ints(op, "dilations", dil, n);
    sa_op_ints(op, "pad", pad, 2 * n);
    sa_op_int(op, "groups", &groups);
    sa_op_string(op, "pad_type", &type);
    for (int a = 0; a < n; a++) {
        int64_t need = (out->type.dim[2 + a] - 1) * stride[a] + (w->type.dim[2 + a] - 1) * dil[a] + 1 - x->type.dim[2 + a];
        int64_t odd = strcmp(type, "same_lower") == 0; /* the odd element goes in front */
        before[a] = type[0] == 'c' ? pad[2 * a] : type[0] == 's' && need > 0 ? (need + odd) / 2 : 0;
    }
    int64_t ci = w->type.dim[1], per = w->type.dim[0] / groups, kh = n == 2 ? w->type.dim[2] : 1, kw = w->type.dim[1 + n];
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], xa[SA_MAX_RANK], wa[SA_MAX_RANK];
        double sum = 0, mag = 0;
        ref_unravel(i, &out->type, at);
        for (int64_t c = 0; c < ci; c++)
            for (int64_t u = 0; u < kh; u++)
                for (int64_t v = 0; v < kw; v++) {
                    int64_t tap[2] = {n == 2 ? u : v, v};
                    bool inside = true;
                    xa[0] = at[0];
                    xa[1] = at[1] / per * ci + c;
                    wa[0] = at[1];
                    wa[1] = c;
                    for (int a = 0; a < n; a++) {
                        xa[2 + a] = at[2 + a] * stride[a] + tap[a] * dil[a] - before[a];
                        wa[2 + a] = tap[a];
                        inside = inside && xa[2 + a] >= 0 && xa[2 + a] < x->type.dim[2 + a];
                    }
                    double t = inside ? x->y[ref_ravel(xa, &x->type)] * w->y[ref_ravel(wa, &w->type)] : 0;
                    sum += t;
                    mag += fabs(t);
                }
        ref_dot(out, i, sum, mag, (size_t)(ci * kh * kw));
    }
}

/* ============================== Folds ===================================== */

/* Which axes an operation folds, as a mask. */
static unsigned ref_axes(const SaOp *op, const SaType *t) {
    int64_t axes[SA_MAX_RANK];
    if (op->id == SA_OP_SOFTMAX)
        return 1u << ref_axis(op, "axis", -1, t->rank);
    if (op->id == SA_OP_L2_NORM)
        return 7u << (t->rank - 3);
    int n = sa_op_ints(op, "axes", axes, SA_MAX_RANK);
    unsigned mask = n < 0 ? 31u : 0;
    for (int i = 0; i < n; i++)
        mask |= 1u << (axes[i] < 0 ? axes[i] + t->rank : axes[i]);
    return mask & ((1u << t->rank) - 1);
}

/* Index of the fold an element belongs to. */
static size_t ref_group(const int64_t *at, const SaType *t, unsigned mask, size_t *inside) {
    size_t g = 0, in = 0;
    for (int a = 0; a < t->rank; a++) {
        if (mask >> a & 1)
            in = in * (size_t)t->dim[a] + (size_t)at[a];
        else
            g = g * (size_t)t->dim[a] + (size_t)at[a];
    }
    *inside = in;
    return g;
}

/* Indices of x fold by fold, each fold in order. *len gets the members of one.
 * The caller frees the list. */
static size_t *ref_members(const RefValue *x, unsigned mask, size_t *len) {
    size_t *m = malloc(x->n * sizeof *m);
    *len = 1;
    for (int a = 0; a < x->type.rank; a++)
        *len *= mask >> a & 1 ? (size_t)x->type.dim[a] : 1;
    for (size_t i = 0; i < x->n; i++) {
        int64_t at[SA_MAX_RANK];
        size_t in, g;
        ref_unravel(i, &x->type, at);
        g = ref_group(at, &x->type, mask, &in);
        m[g * *len + in] = i;
    }
    return m;
}

static double ref_fold(SaOpId id, const RefValue *x, const size_t *m, size_t n, double *slack) {
    double s = 0, mag = 0, max = -INFINITY, min = INFINITY, prod = 1, sq = 0, e = 0;
    for (size_t i = 0; i < n; i++) {
        double v = x->y[m[i]];
        s += v;
        mag += fabs(v);
        sq += v * v;
        prod *= v;
        max = v > max ? v : max;
        min = v < min ? v : min;
    }
    for (size_t i = 0; i < n; i++)
        e += exp(x->y[m[i]] - max);
    double part = (double)(n + 2) * 0x1p-24;
    *slack = part * mag;
    switch (id) {
    case SA_OP_REDUCE_SUM: return s;
    case SA_OP_REDUCE_MEAN: *slack /= (double)n; return s / (double)n;
    case SA_OP_REDUCE_MAX: *slack = 0; return max;
    case SA_OP_REDUCE_MIN: *slack = 0; return min;
    case SA_OP_REDUCE_PROD: *slack = part * fabs(prod); return prod;
    case SA_OP_REDUCE_L1_NORM: return mag;
    case SA_OP_REDUCE_L2_NORM: *slack = part * sqrt(sq); return sqrt(sq);
    case SA_OP_REDUCE_SUM_SQUARE: *slack = part * sq; return sq;
    case SA_OP_REDUCE_LOG_SUM: *slack = part * mag / fabs(s) + 1e-6 * fabs(log(s)); return log(s);
    case SA_OP_REDUCE_LOG_SUM_EXP: *slack = part * (1 + fabs(max)); return max + log(e);
    default: return NAN;
    }
}

static void ref_reduce(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x");
    size_t n, *all = ref_members(x, ref_axes(op, &x->type), &n);
    for (size_t g = 0; g < out->n; g++)
        out->raw[g] = ref_fold(op->id, x, all + g * n, n, &out->slack[g]);
    free(all);
}

/* softmax, layer_norm, l2_norm: fold by fold. */
static void ref_norm(Ref *r, const SaOp *op, RefValue *out) {
    RefValue *x = ref_arg(r, op, "x"), *gamma = ref_arg(r, op, "gamma"), *beta = ref_arg(r, op, "beta");
    size_t n, *all = ref_members(x, ref_axes(op, &x->type), &n);
    for (size_t g = 0; g < x->n / n; g++) {
        const size_t *m = all + g * n;
        double slack, max = ref_fold(SA_OP_REDUCE_MAX, x, m, n, &slack), sum = 0, var = 0, sq = 0, e = 0;
        for (size_t i = 0; i < n; i++) {
            sum += x->y[m[i]];
            sq += x->y[m[i]] * x->y[m[i]];
            e += exp(x->y[m[i]] - max);
        }
        for (size_t i = 0; i < n; i++)
            var += pow(x->y[m[i]] - sum / (double)n, 2);
        for (size_t i = 0; i < n; i++) {
            double v = x->y[m[i]], y;
            if (op->id == SA_OP_SOFTMAX)
                y = exp(v - max) / e;
            else if (op->id == SA_OP_L2_NORM)
                y = v / sqrt(sq + (double)ref_param(op, "epsilon", 1e-6f));
            else
                y = (v - sum / (double)n) / sqrt(var / (double)n + (double)ref_param(op, "epsilon", 1e-5f)) *
                        (gamma ? gamma->y[i] : 1) + (beta ? beta->y[i] : 0);
            out->raw[m[i]] = y;
            out->slack[m[i]] = (double)(n + 16) * 0x1p-23 * (op->id == SA_OP_LAYER_NORM ? 4 + fabs(y) : fabs(y));
        }
    }
    free(all);
}

/* ============================== Movement ================================== */

/* The element of the operand that lands at `at` of the result. */
static double ref_source(Ref *r, const SaOp *op, const RefValue *x, const SaType *out, const int64_t *at) {
    int64_t src[SA_MAX_RANK] = {0}, list[2 * SA_MAX_RANK];
    int rank = x->type.rank, n;
    SaSlice s;
    switch (op->id) {
    case SA_OP_TRANSPOSE:
        sa_op_ints(op, "perm", list, SA_MAX_RANK);
        for (int a = 0; a < rank; a++)
            src[list[a] < 0 ? list[a] + rank : list[a]] = at[a];
        break;
    case SA_OP_SLICE_BY_SIZE: case SA_OP_SLICE_BY_INDEX:
        sa_op_slice(op, &s);
        for (int a = 0, k = 0; a < rank; a++)
            src[a] = s.begin[a] + s.step[a] * (s.drop[a] ? 0 : at[k++]);
        break;
    case SA_OP_TILE:
        for (int a = 0; a < rank; a++)
            src[a] = at[a] % x->type.dim[a];
        break;
    case SA_OP_REVERSE:
        n = sa_op_ints(op, "axes", list, SA_MAX_RANK);
        for (int a = 0; a < rank; a++) {
            bool turn = n < 0;
            for (int i = 0; i < n; i++)
                turn = turn || list[i] == a || list[i] + rank == a;
            src[a] = turn ? x->type.dim[a] - 1 - at[a] : at[a];
        }
        break;
    case SA_OP_PAD: {
        const char *mode = "constant";
        sa_op_string(op, "mode", &mode);
        n = sa_op_ints(op, "pad", list, 2 * SA_MAX_RANK) / 2;
        for (int a = 0; a < rank; a++) {
            int64_t d = x->type.dim[a], i = at[a] - (a >= rank - n ? list[2 * (a - rank + n)] : 0);
            if (mode[0] == 'c' && (i < 0 || i >= d))
                return (double)ref_param(op, "constant_val", 0);
            while (i < 0 || i >= d)
                i = strcmp(mode, "reflect") == 0 ? (i < 0 ? -i : 2 * (d - 1) - i) : (i < 0 ? 0 : d - 1);
            src[a] = i;
        }
        break;
    }
    case SA_OP_GATHER: {
        RefValue *idx = ref_arg(r, op, "indices");
        int axis = (int)ref_axis(op, "axis", 0, rank);
        int64_t i = (int64_t)idx->y[ref_ravel(at + axis, &idx->type)];
        for (int a = 0; a < rank; a++)
            src[a] = a < axis ? at[a] : a > axis ? at[a + idx->type.rank - 1] : i < 0 ? i + x->type.dim[a] : i;
        break;
    }
    default: /* reshape and its kind: row-major order stays */
        return x->y[ref_ravel(at, out)];
    }
    return x->y[ref_ravel(src, &x->type)];
}

static void ref_move(Ref *r, const SaOp *op, RefValue *out) {
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK];
        ref_unravel(i, &out->type, at);
        out->raw[i] = ref_source(r, op, ref_arg(r, op, "x"), &out->type, at);
    }
}

static void ref_join(Ref *r, const SaOp *op, RefValue *out) {
    const SaArg *values = sa_op_arg(op, "values");
    int axis = (int)ref_axis(op, "axis", 0, out->type.rank);
    for (size_t i = 0; i < out->n; i++) {
        int64_t at[SA_MAX_RANK], src[SA_MAX_RANK];
        ref_unravel(i, &out->type, at);
        int64_t k = 0, rest = at[axis];
        if (op->id == SA_OP_STACK) {
            k = rest;
            for (int a = 0, b = 0; a < out->type.rank; a++)
                if (a != axis)
                    src[b++] = at[a];
        } else {
            for (; rest >= values->values[k]->type.dim[axis]; k++)
                rest -= values->values[k]->type.dim[axis];
            memcpy(src, at, sizeof at);
            src[axis] = rest;
        }
        RefValue *x = &r->v[values->values[k]->id];
        out->raw[i] = x->y[ref_ravel(src, &x->type)];
    }
}

static void ref_split(Ref *r, const SaOp *op) {
    RefValue *x = ref_arg(r, op, "x");
    int axis = (int)ref_axis(op, "axis", 0, x->type.rank);
    int64_t from = 0;
    for (int k = 0; k < op->n_results; k++) {
        RefValue *out = ref_new(r, op->results[k]);
        for (size_t i = 0; i < out->n; i++) {
            int64_t at[SA_MAX_RANK];
            ref_unravel(i, &out->type, at);
            at[axis] += from;
            out->raw[i] = x->y[ref_ravel(at, &x->type)];
        }
        from += out->type.dim[axis];
        ref_store(r, out, false);
    }
}

/* ============================== The others ================================ */

#include "ops_reference.h"

/* ============================== Programs ================================== */

static void ref_const(Ref *r, const SaValue *v) {
    if (v->type.dtype == SA_STRING)
        return;
    RefValue *x = ref_new(r, v);
    for (size_t i = 0; i < x->n; i++)
        switch (v->type.dtype) {
        case SA_FP16: x->raw[i] = (double)sa_half_to_float(((const uint16_t *)v->constant->data)[i]); break;
        case SA_FP32: x->raw[i] = (double)((const float *)v->constant->data)[i]; break;
        case SA_INT32: x->raw[i] = ((const int32_t *)v->constant->data)[i]; break;
        case SA_UINT32: x->raw[i] = ((const uint32_t *)v->constant->data)[i]; break;
        case SA_INT16: x->raw[i] = ((const int16_t *)v->constant->data)[i]; break;
        case SA_UINT16: x->raw[i] = ((const uint16_t *)v->constant->data)[i]; break;
        case SA_INT8: case SA_INT4: x->raw[i] = ((const int8_t *)v->constant->data)[i]; break;
        case SA_STRING: case SA_UINT64: break;
        default: x->raw[i] = ((const uint8_t *)v->constant->data)[i]; break;
        }
    memcpy(x->y, x->raw, x->n * sizeof *x->y);
}

static void ref_op(Ref *r, const SaOp *op) {
    if (op->id == SA_OP_CONST) {
        ref_const(r, op->results[0]);
        return;
    }
    if (op->id >= SA_OP_TAN) {
        ref_more_op(r, op);
        return;
    }
    if (op->id == SA_OP_SPLIT) {
        ref_split(r, op);
        return;
    }
    RefValue *out = ref_new(r, op->results[0]);
    bool product = op->id == SA_OP_CONV || op->id == SA_OP_MATMUL || op->id == SA_OP_LINEAR;
    switch (op->id) {
    case SA_OP_CONV: ref_conv(r, op, out); break;
    case SA_OP_MATMUL: ref_matmul(r, op, out); break;
    case SA_OP_LINEAR: ref_linear(r, op, out); break;
    case SA_OP_CAST: ref_cast(ref_arg(r, op, "x"), out); break;
    case SA_OP_SOFTMAX: case SA_OP_LAYER_NORM: case SA_OP_L2_NORM: ref_norm(r, op, out); break;
    case SA_OP_CONCAT: case SA_OP_STACK: ref_join(r, op, out); break;
    case SA_OP_RESHAPE: case SA_OP_EXPAND_DIMS: case SA_OP_SQUEEZE: case SA_OP_IDENTITY: case SA_OP_TRANSPOSE:
    case SA_OP_SLICE_BY_SIZE: case SA_OP_SLICE_BY_INDEX: case SA_OP_PAD: case SA_OP_TILE: case SA_OP_REVERSE:
    case SA_OP_GATHER: ref_move(r, op, out); break;
    default:
        if (op->id >= SA_OP_REDUCE_SUM && op->id <= SA_OP_REDUCE_SUM_SQUARE)
            ref_reduce(r, op, out);
        else
            ref_elem(r, op, out);
    }
    ref_store(r, out, product);
}

/* Evaluate fn; the parameters' values must be in r already. */
static void ref_run(Ref *r, const SaFunction *fn) {
    for (int i = 0; i < fn->n_ops; i++)
        ref_op(r, &fn->ops[i]);
}

#endif
