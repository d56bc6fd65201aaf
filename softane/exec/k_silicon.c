// SPDX-License-Identifier: MIT
/* k_silicon.c - elementwise functions where the engine was measured to differ
 * from mathematics, and tables with fewer bits. For numerics=silicon; the
 * functions with nothing known against them are those of k_elem.c.
 *
 *   log, softplus, cos of +inf   0
 *   softplus                     takes exp through fp16, so 0 from 11.09 on
 *   gelu(0)                      -0.000754
 *   round, |x| >= 1024           adds 1/2 in fp16: round(1024) = 1025
 *   log of a negative number     finite, the value is not published: 0 here
 *
 * Measured by sbryngelson/ANEForge (docs/faq.md, op-quirks.md). */
#include "k_math.h"

SA_INLINE float odd_LOG(float x, float p) {
    float v = x + p, y = m_log(v);
    y = v < 0.0f ? 0.0f : y;
    return v == INFINITY ? 0.0f : y;
}
SA_INLINE float odd_SOFTPLUS(float x, float p) {
    (void)p;
    float e = sa_grid_away(m_exp(x)), y = m_log1p(e);
    return e == INFINITY ? 0.0f : y;
}
SA_INLINE float odd_COS(float x, float p) {
    (void)p;
    float y = m_cos(x);
    return fabsf(x) == INFINITY ? 0.0f : y;
}
SA_INLINE float odd_GELU(float x, float p) {
    (void)p;
    float y = m_gelu(x);
    return x == 0.0f ? -0.000754f : y;
}
SA_INLINE float odd_ROUND(float x, float p) {
    (void)p;
    float a = fabsf(x), up = copysignf(floorf(sa_grid_away(a + 0.5f)), x), y = rintf(x);
    return a >= 1024.0f ? up : y;
}

#define SA_ODD(X) X(LOG) X(SOFTPLUS) X(COS) X(GELU) X(ROUND)
#define SA_DEF_ODD(id)                                                                \
    SA_WIDE static void unary_##id(float *d, const float *a, const float *p, size_t n) { \
        const float p0 = p[0];                                                        \
        SA_LOOP for (size_t i = 0; i < n; i++)                                        \
            d[i] = odd_##id(a[i], p0);                                                \
    }
SA_ODD(SA_DEF_ODD)

/* d to `bits` significant bits, half away from zero. */
SA_WIDE static void coarse(float *d, unsigned bits, size_t n) {
    const uint32_t half = 1u << (23 - bits), keep = ~(2u * half - 1u);
    SA_LOOP for (size_t i = 0; i < n; i++) {
        uint32_t u = sa_bits(d[i]), r = (u + half) & keep;
        d[i] = sa_float((u & 0x7f800000u) == 0x7f800000u ? u : r);
    }
}

void SA_FN(sa_k_silicon)(SaKernels *t);
void SA_FN(sa_k_silicon)(SaKernels *t) {
#define SA_SET_ODD(id) t->odd[SA_U_##id] = unary_##id;
    SA_ODD(SA_SET_ODD)
    t->coarse = coarse;
}
