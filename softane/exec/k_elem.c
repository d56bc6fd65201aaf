// SPDX-License-Identifier: MIT
/* k_elem.c - elementwise kernels: one value in, one value out, no memory of
 * neighbours. Broadcasting beyond "one value for all" is the executor's work.
 *
 * Definitions follow MIL; the two divisions differ only at zero: DIV is IEEE,
 * DIV_FAST gives 0 for x / 0 as the engine was seen to do. */
#include "k_math.h"

/* ============================== One operand =============================== */

SA_INLINE float one_COPY(float x, float p, float q) { (void)p; (void)q; return x; }
SA_INLINE float one_ABS(float x, float p, float q) { (void)p; (void)q; return fabsf(x); }
SA_INLINE float one_SIGN(float x, float p, float q) { (void)p; (void)q; return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x; }
SA_INLINE float one_SQRT(float x, float p, float q) { (void)p; (void)q; return sqrtf(x); }
SA_INLINE float one_SQUARE(float x, float p, float q) { (void)p; (void)q; return x * x; }
SA_INLINE float one_EXP(float x, float p, float q) { (void)p; (void)q; return m_exp(x); }
SA_INLINE float one_EXP2(float x, float p, float q) { (void)p; (void)q; return m_exp2(x); }
SA_INLINE float one_ERF(float x, float p, float q) { (void)p; (void)q; return m_erf(x); }
SA_INLINE float one_CEIL(float x, float p, float q) { (void)p; (void)q; return ceilf(x); }
SA_INLINE float one_FLOOR(float x, float p, float q) { (void)p; (void)q; return floorf(x); }
SA_INLINE float one_ROUND(float x, float p, float q) { (void)p; (void)q; return rintf(x); }
SA_INLINE float one_ATAN(float x, float p, float q) { (void)p; (void)q; return m_atan(x); }
SA_INLINE float one_SIN(float x, float p, float q) { (void)p; (void)q; return m_sin(x); }
SA_INLINE float one_COS(float x, float p, float q) { (void)p; (void)q; return m_cos(x); }
SA_INLINE float one_LOG(float x, float p, float q) { (void)q; return m_log(x + p); }
SA_INLINE float one_RSQRT(float x, float p, float q) { (void)q; return 1.0f / sqrtf(x + p); }
SA_INLINE float one_INVERSE(float x, float p, float q) { (void)q; return 1.0f / (x + p); }
SA_INLINE float one_INVERSE_FAST(float x, float p, float q) {
    (void)q;
    float d = x + p, r = 1.0f / d;
    return d == 0.0f ? 0.0f : r;
}
SA_INLINE float one_CLIP(float x, float p, float q) { float y = x < p ? p : x; return y > q ? q : y; }
SA_INLINE float one_THRESHOLD(float x, float p, float q) { (void)q; return x < p ? p : x; }
SA_INLINE float one_SIGMOID(float x, float p, float q) { (void)p; (void)q; return m_sigmoid(x); }
SA_INLINE float one_TANH(float x, float p, float q) { (void)p; (void)q; return m_tanh(x); }
SA_INLINE float one_RELU(float x, float p, float q) { (void)p; (void)q; return x < 0.0f ? 0.0f : x; }
SA_INLINE float one_RELU6(float x, float p, float q) { (void)p; (void)q; return one_CLIP(x, 0.0f, 6.0f); }
SA_INLINE float one_SILU(float x, float p, float q) {
    (void)p; (void)q;
    float y = x / (1.0f + m_exp(-x));
    return x == -INFINITY ? -0.0f : y;
}
/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): no overflow, exact tail. */
SA_INLINE float one_SOFTPLUS(float x, float p, float q) {
    (void)p; (void)q;
    return (x < 0.0f ? 0.0f : x) + m_log1p(m_exp(-fabsf(x)));
}
SA_INLINE float one_SOFTSIGN(float x, float p, float q) {
    (void)p; (void)q;
    float y = x / (1.0f + fabsf(x));
    return fabsf(x) == INFINITY ? copysignf(1.0f, x) : y;
}
SA_INLINE float one_SIGMOID_HARD(float x, float p, float q) { return one_CLIP(p * x + q, 0.0f, 1.0f); }
SA_INLINE float one_SCALED_TANH(float x, float p, float q) { return p * m_tanh(q * x); }
SA_INLINE float one_LEAKY_RELU(float x, float p, float q) { (void)q; float y = x * p; return x < 0.0f ? y : x; }
SA_INLINE float one_ELU(float x, float p, float q) { (void)q; float y = p * m_expm1(x); return x < 0.0f ? y : x; }
SA_INLINE float one_GELU(float x, float p, float q) { (void)p; (void)q; return m_gelu(x); }
/* x (1 + tanh u) / 2 = x sigmoid(2u), without the cancellation. */
SA_INLINE float one_GELU_TANH(float x, float p, float q) {
    (void)p; (void)q;
    float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x == -INFINITY ? -0.0f : x * m_sigmoid(2.0f * u);
}
SA_INLINE float one_GELU_SIGMOID(float x, float p, float q) {
    (void)p; (void)q;
    return x == -INFINITY ? -0.0f : x * m_sigmoid(1.702f * x);
}
SA_INLINE float one_NOT(float x, float p, float q) { (void)p; (void)q; return x == 0.0f ? 1.0f : 0.0f; }
SA_INLINE float one_TRUE(float x, float p, float q) { (void)p; (void)q; return x != 0.0f ? 1.0f : 0.0f; }
SA_INLINE float one_TRUNC(float x, float p, float q) {
    float y = x == x ? x : 0.0f;
    return one_CLIP(y < 0.0f ? ceilf(y) : floorf(y), p, q) + 0.0f;
}
SA_INLINE float one_POW(float x, float p, float q) { (void)q; return m_pow(x, p); }

/* Not known to run on the engine: the C library's, one by one. */
SA_INLINE float one_TAN(float x, float p, float q) { (void)p; (void)q; return tanf(x); }
SA_INLINE float one_ASIN(float x, float p, float q) { (void)p; (void)q; return asinf(x); }
SA_INLINE float one_ACOS(float x, float p, float q) { (void)p; (void)q; return acosf(x); }
SA_INLINE float one_SINH(float x, float p, float q) { (void)p; (void)q; return sinhf(x); }
SA_INLINE float one_COSH(float x, float p, float q) { (void)p; (void)q; return coshf(x); }
SA_INLINE float one_ATANH(float x, float p, float q) { (void)p; (void)q; return atanhf(x); }
SA_INLINE float one_CLAMPED_RELU(float x, float p, float q) {
    float slope = x * p, y = x < 0.0f ? slope : x;
    return y > q ? q : y;
}
SA_INLINE float one_LINE(float x, float p, float q) { return p * x + q; }
SA_INLINE float one_THRESHOLDED_RELU(float x, float p, float q) { (void)q; return x < p ? 0.0f : x; }

#define SA_AS_IS(x) (x)
#define SA_DEF_UNARY(id, name, grid, loop)                                                  \
    SA_WIDE static void name##_##id(float *d, const float *a, const float *p, size_t n) {   \
        const float p0 = p[0], p1 = p[1];                                                   \
        loop for (size_t i = 0; i < n; i++)                                                 \
            d[i] = grid(one_##id(a[i], p0, p1));                                            \
    }
#define SA_DEF_VECTOR(id) SA_DEF_UNARY(id, unary, SA_AS_IS, SA_LOOP)
#define SA_DEF_LIBC(id) SA_DEF_UNARY(id, unary, SA_AS_IS, )
SA_UNARY_VECTOR(SA_DEF_VECTOR)
SA_UNARY_LIBC(SA_DEF_LIBC)

/* With the rounding of `fast` inside the loop: short ones. Long chains of dependent
 * operations fill the scheduler of a core, and are quicker in two loops. */
#define SA_UNARY_AWAY(X) X(COPY) X(SQRT) X(SQUARE) X(RSQRT) X(INVERSE_FAST) X(LINE) X(CLIP)
#define SA_DEF_UNARY_AWAY(id) SA_DEF_UNARY(id, rounded, sa_grid_away, SA_LOOP)
SA_UNARY_AWAY(SA_DEF_UNARY_AWAY)

/* ============================== Two operands ============================== */

SA_INLINE float two_ADD(float a, float b) { return a + b; }
SA_INLINE float two_SUB(float a, float b) { return a - b; }
SA_INLINE float two_MUL(float a, float b) { return a * b; }
SA_INLINE float two_DIV(float a, float b) { return a / b; }
SA_INLINE float two_DIV_FAST(float a, float b) { float r = a / b; return b == 0.0f ? 0.0f : r; }
/* In double: a quotient of two halves that is nearly whole stays apart. */
SA_INLINE float two_FLOOR_DIV(float a, float b) { return (float)floor((double)a / (double)b); }
SA_INLINE float two_FLOOR_DIV_FAST(float a, float b) { float r = two_FLOOR_DIV(a, b); return b == 0.0f ? 0.0f : r; }
SA_INLINE float two_MOD(float a, float b) {
    return (float)((double)a - floor((double)a / (double)b) * (double)b);
}
SA_INLINE float two_MOD_FAST(float a, float b) { float r = two_MOD(a, b); return b == 0.0f ? a : r; }
SA_INLINE float two_POW(float a, float b) { return m_pow(a, b); }
SA_INLINE float two_MAX(float a, float b) { return a > b ? a : b; }
SA_INLINE float two_MIN(float a, float b) { return a < b ? a : b; }
SA_INLINE float two_GT(float a, float b) { return a > b ? 1.0f : 0.0f; }
SA_INLINE float two_GE(float a, float b) { return a >= b ? 1.0f : 0.0f; }
SA_INLINE float two_LT(float a, float b) { return a < b ? 1.0f : 0.0f; }
SA_INLINE float two_LE(float a, float b) { return a <= b ? 1.0f : 0.0f; }
SA_INLINE float two_EQ(float a, float b) { return a == b ? 1.0f : 0.0f; }
SA_INLINE float two_NE(float a, float b) { return a != b ? 1.0f : 0.0f; }
SA_INLINE float two_AND(float a, float b) { float r = b != 0.0f ? 1.0f : 0.0f; return a != 0.0f ? r : 0.0f; }
SA_INLINE float two_OR(float a, float b) { float r = b != 0.0f ? 1.0f : 0.0f; return a != 0.0f ? 1.0f : r; }
SA_INLINE float two_XOR(float a, float b) {
    float t = b != 0.0f ? 1.0f : 0.0f;
    return a != 0.0f ? 1.0f - t : t;
}
SA_INLINE float two_PRELU(float a, float b) { float y = a * b; return a < 0.0f ? y : a; }

/* vv: two vectors; vs: b is one value; sv: a is one value. */
#define SA_DEF_BINARY(id, name, grid)                                                       \
    SA_WIDE static void name##_vv_##id(float *d, const float *a, const float *b, size_t n) { \
        SA_LOOP for (size_t i = 0; i < n; i++)                                              \
            d[i] = grid(two_##id(a[i], b[i]));                                              \
    }                                                                                       \
    SA_WIDE static void name##_vs_##id(float *d, const float *a, const float *b, size_t n) { \
        const float s = *b;                                                                 \
        SA_LOOP for (size_t i = 0; i < n; i++)                                              \
            d[i] = grid(two_##id(a[i], s));                                                 \
    }                                                                                       \
    SA_WIDE static void name##_sv_##id(float *d, const float *a, const float *b, size_t n) { \
        const float s = *a;                                                                 \
        SA_LOOP for (size_t i = 0; i < n; i++)                                              \
            d[i] = grid(two_##id(s, b[i]));                                                 \
    }
#define SA_DEF_PLAIN(id) SA_DEF_BINARY(id, plain, SA_AS_IS)
SA_BINARY(SA_DEF_PLAIN)

/* The commonest ones also with the rounding of `fast` inside the loop. */
#define SA_WITH_AWAY(X) X(ADD) X(SUB) X(MUL) X(DIV_FAST)
#define SA_DEF_AWAY(id) SA_DEF_BINARY(id, away, sa_grid_away)
SA_WITH_AWAY(SA_DEF_AWAY)

/* ============================== Choosing ================================== */

SA_WIDE static void choose(float *d, const float *cond, const float *a, const float *b, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++) {
        float x = a[i], y = b[i];
        d[i] = cond[i] != 0.0f ? x : y;
    }
}

/* d[i] += w x[i step]: the inner loop of a direct convolution. */
SA_WIDE static void axpy(float *d, const float *x, float w, size_t step, size_t n) {
    if (step == 1) {
        SA_LOOP for (size_t i = 0; i < n; i++)
            d[i] += w * x[i];
        return;
    }
    for (size_t i = 0; i < n; i++)
        d[i] += w * x[i * step];
}

void SA_FN(sa_k_elem)(SaKernels *t);
void SA_FN(sa_k_elem)(SaKernels *t) {
#define SA_SET_UNARY(id) t->unary[SA_U_##id] = unary_##id;
    SA_UNARY(SA_SET_UNARY)
#define SA_SET_UNARY_AWAY(id) t->away[SA_U_##id] = rounded_##id;
    SA_UNARY_AWAY(SA_SET_UNARY_AWAY)
#define SA_SET_BINARY(id)                      \
    t->binary_vv[SA_B_##id] = plain_vv_##id;   \
    t->binary_vs[SA_B_##id] = plain_vs_##id;   \
    t->binary_sv[SA_B_##id] = plain_sv_##id;
    SA_BINARY(SA_SET_BINARY)
#define SA_SET_AWAY(id)                        \
    t->away_vv[SA_B_##id] = away_vv_##id;      \
    t->away_vs[SA_B_##id] = away_vs_##id;      \
    t->away_sv[SA_B_##id] = away_sv_##id;
    SA_WITH_AWAY(SA_SET_AWAY)
    t->select = choose;
    t->axpy = axpy;
}
