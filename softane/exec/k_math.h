// SPDX-License-Identifier: MIT
/* k_math.h - elementary functions without branches, so that a loop over them
 * becomes vector code. Relative error below 1e-6 (test_exec.c measures it over
 * all fp16 arguments); rounding to fp16 is 5e-4.
 *
 * The coefficients were fitted for this file: weighted least squares at
 * Chebyshev nodes, reweighted until the error is level. Each is named with
 * the function it stands for and its range. */
#ifndef SA_EXEC_K_MATH_H
#define SA_EXEC_K_MATH_H

#include <math.h>

#include "k_isa.h"

/* ============================== Exponentials ============================== */

/* x rounded to an integer, ties to even; |x| < 2^22. */
SA_INLINE float m_nearest(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

/* x * 2^n in two steps, so that results may be subnormal; -252 <= n <= 254. */
SA_INLINE float m_scale(float x, int32_t n) {
    int32_t h = n >> 1;
    return x * sa_float((uint32_t)(h + 127) << 23) * sa_float((uint32_t)(n - h + 127) << 23);
}

/* NaN-safe integer of a clamped float. */
SA_INLINE int32_t m_int(float x) { return (int32_t)(x == x ? x : 0.0f); }

/* e^r for |r| <= ln2 / 2: 1 + r + r^2 P(r). */
SA_INLINE float m_exp_core(float r) {
    float p = 1.395047427e-03f;
    p = sa_fma(p, r, 8.368882684e-03f);
    p = sa_fma(p, r, 4.166620605e-02f);
    p = sa_fma(p, r, 1.666651889e-01f);
    p = sa_fma(p, r, 5.000000095e-01f);
    return 1.0f + sa_fma(r * r, p, r);
}

/* Results below 2^-126 are 0 and those from 2^127.5 on inf: fp16 ends at 2^-25
 * and 2^16, and a sum that a smaller one joins is at least 1. The integer is in
 * the low bits of the float that rounded it. */
SA_INLINE float m_exp(float x) {
    float t = sa_fma(x, 1.44269504f, 0x1.8p23f), n = t - 0x1.8p23f;
    float r = sa_fma(n, 2.12194440e-4f, sa_fma(n, -0.693359375f, x)); /* ln 2 in two parts */
    float y = m_exp_core(r) * sa_float((sa_bits(t) + 127u) << 23);
    y = x < -87.33f ? 0.0f : y;
    return x > 88.37f ? INFINITY : y;
}

/* The same for x <= 0 or NaN. */
SA_INLINE float m_exp_down(float x) {
    float t = sa_fma(x, 1.44269504f, 0x1.8p23f), n = t - 0x1.8p23f;
    float r = sa_fma(n, 2.12194440e-4f, sa_fma(n, -0.693359375f, x));
    float y = m_exp_core(r) * sa_float((sa_bits(t) + 127u) << 23);
    return x < -87.33f ? 0.0f : y;
}

SA_INLINE float m_exp2(float x) {
    float c = x > 129.0f ? 129.0f : x;
    c = c < -151.0f ? -151.0f : c;
    float n = m_nearest(c);
    return m_scale(m_exp_core((c - n) * 0.693147181f), m_int(n));
}

/* e^x - 1: x + x^2 P(x) for |x| <= 0.5. */
SA_INLINE float m_expm1(float x) {
    float p = 2.497024570e-05f;
    p = sa_fma(p, x, 1.997402069e-04f);
    p = sa_fma(p, x, 1.388854348e-03f);
    p = sa_fma(p, x, 8.333140747e-03f);
    p = sa_fma(p, x, 4.166666927e-02f);
    p = sa_fma(p, x, 1.666666746e-01f);
    p = sa_fma(p, x, 5.000000000e-01f);
    float a = x < 0.0f ? -x : x;
    return a <= 0.5f ? x + x * x * p : m_exp(x) - 1.0f;
}

/* ============================== Logarithms ================================ */

/* x = 2^e (1 + m) with m in [sqrt(1/2) - 1, sqrt(2) - 1]; x finite, positive. */
SA_INLINE float m_split(float x, float *e) {
    float tiny = x < 0x1p-126f ? 24.0f : 0.0f;
    float y = x < 0x1p-126f ? x * 0x1p24f : x;
    uint32_t u = sa_bits(y) - 0x3f3504f3u;             /* sqrt(1/2) */
    *e = (float)((int32_t)u >> 23) - tiny;
    return sa_float((u & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
}

/* log(1 + m) = m - m^2/2 + m^3 P(m). */
SA_INLINE float m_log1p_core(float m) {
    float p = 6.915290492e-02f;
    p = sa_fma(p, m, -1.178976847e-01f);
    p = sa_fma(p, m, 1.187299038e-01f);
    p = sa_fma(p, m, -1.238435611e-01f);
    p = sa_fma(p, m, 1.421865715e-01f);
    p = sa_fma(p, m, -1.666925034e-01f);
    p = sa_fma(p, m, 2.000222665e-01f);
    p = sa_fma(p, m, -2.499998661e-01f);
    p = sa_fma(p, m, 3.333331044e-01f);
    return m + (m * m * m * p - 0.5f * (m * m));
}

/* What the logarithms give outside (0, inf). */
SA_INLINE float m_log_edges(float x, float y) {
    y = x == INFINITY ? INFINITY : y;
    y = x == 0.0f ? -INFINITY : y;
    return x < 0.0f || x != x ? NAN : y;
}

SA_INLINE float m_log(float x) {
    float e, m = m_split(x, &e);
    return m_log_edges(x, (e * -2.12194440e-4f + m_log1p_core(m)) + e * 0.693359375f);
}

SA_INLINE float m_log2(float x) {
    float e, m = m_split(x, &e);
    return m_log_edges(x, m_log1p_core(m) * 1.44269504f + e);
}

/* log(1 + x), x >= 0: the error of forming 1 + x is divided out. */
SA_INLINE float m_log1p(float x) {
    float u = 1.0f + x, d = u - 1.0f;
    float y = m_log(u) * (x / (d == 0.0f ? 1.0f : d));
    return d == 0.0f ? x : y;
}

/* ============================== Sigmoid, tanh, erf ======================== */

SA_INLINE float m_sigmoid(float x) { return 1.0f / (1.0f + m_exp(-x)); }

/* tanh(x) = x P(x^2) / Q(x^2) up to 7.95, where it is 1 within 3e-7. */
SA_INLINE float m_tanh(float x) {
    float c = x > 7.95f ? 7.95f : x;
    c = c < -7.95f ? -7.95f : c;
    float z = c * c;
    float p = -6.251619935e-09f;
    p = sa_fma(p, z, 7.227011852e-06f);
    p = sa_fma(p, z, 2.705459978e-03f);
    p = sa_fma(p, z, 1.272146972e-01f);
    p = sa_fma(p, z, 1.0f);
    float q = 1.978799299e-04f;
    q = sa_fma(q, z, 2.288954291e-02f);
    q = sa_fma(q, z, 4.605469288e-01f);
    q = sa_fma(q, z, 1.0f);
    float y = c * p / q;
    y = y > 1.0f ? 1.0f : y;
    return y < -1.0f ? -1.0f : y;
}

/* erfc(x) e^(x^2) as a polynomial in t = 1 / (1 + 0.3 x), 0 <= x <= 10.5. */
SA_INLINE float m_erfc_positive(float x) {
    float c = x > 10.5f ? 10.5f : x, t = 1.0f / (1.0f + 0.3f * c);
    float p = -1.276305567e-01f;
    p = sa_fma(p, t, 4.750605259e-01f);
    p = sa_fma(p, t, -4.869581067e-01f);
    p = sa_fma(p, t, 5.129716362e-01f);
    p = sa_fma(p, t, -6.477922838e-02f);
    p = sa_fma(p, t, 1.982692586e-01f);
    p = sa_fma(p, t, 1.543558438e-01f);
    p = sa_fma(p, t, 1.693592227e-01f);
    p = sa_fma(p, t, 1.693608811e-01f);
    p = sa_fma(p, t, -9.494276684e-06f);
    return p * m_exp(-c * c);
}

/* erf(x) = x P(x^2) up to 1, 1 - erfc above. */
SA_INLINE float m_erf(float x) {
    float a = x < 0.0f ? -x : x, z = x * x;
    float p = -9.641512384e-06f;
    p = sa_fma(p, z, 1.125694655e-04f);
    p = sa_fma(p, z, -8.482828649e-04f);
    p = sa_fma(p, z, 5.220945419e-03f);
    p = sa_fma(p, z, -2.686540004e-02f);
    p = sa_fma(p, z, 1.128378197e-01f);
    p = sa_fma(p, z, -3.761263843e-01f);
    p = sa_fma(p, z, 1.128379167e+00f);
    float big = 1.0f - m_erfc_positive(a);
    big = x < 0.0f ? -big : big;
    return a <= 1.0f ? x * p : big;
}

/* x Phi(x). The lower tail comes from erfc directly: 1 + erf would cancel. */
SA_INLINE float m_gelu(float x) {
    float a = (x < 0.0f ? -x : x) * 0.707106781f;
    float tail = 0.5f * m_erfc_positive(a);
    float y = x * (x < 0.0f ? tail : 1.0f - tail);
    return x == -INFINITY ? -0.0f : y;
}

/* ============================== Angles ==================================== */

/* x = n pi/2 + r with |r| <= pi/4, good for all of fp16 (the reduction is in
 * double). n mod 4 goes to *quadrant. */
SA_INLINE float m_reduce(float x, int32_t *quadrant) {
    float a = x < 0.0f ? -x : x;
    float c = a < 1e6f ? x : 0.0f; /* beyond fp16, and inf and NaN: see the callers */
    float n = m_nearest(c * 0.636619772f);
    *quadrant = (int32_t)n & 3;
    return (float)((double)c - (double)n * 1.5707963267948966);
}

SA_INLINE float m_sin_core(float r) {
    float z = r * r;
    return r + r * z * ((-1.951729657e-04f * z + 8.332178124e-03f) * z - 1.666665494e-01f);
}

SA_INLINE float m_cos_core(float r) {
    float z = r * r;
    return 1.0f - 0.5f * z + z * z * ((2.443844734e-05f * z - 1.388736747e-03f) * z + 4.166664687e-02f);
}

SA_INLINE float m_sin_quadrant(float r, int32_t q) {
    float y = q & 1 ? m_cos_core(r) : m_sin_core(r);
    return q & 2 ? -y : y;
}

/* Arguments of 1e6 and more (fp32 programs only) are out of range: NaN. */
SA_INLINE float m_sin(float x) {
    int32_t q;
    float r = m_reduce(x, &q);
    return x < 1e6f && x > -1e6f ? m_sin_quadrant(r, q) : NAN;
}

SA_INLINE float m_cos(float x) {
    int32_t q;
    float r = m_reduce(x, &q);
    return x < 1e6f && x > -1e6f ? m_sin_quadrant(r, q + 1) : NAN;
}

/* atan(x) = x P(x^2) up to 1, pi/2 - atan(1/x) above. */
SA_INLINE float m_atan(float x) {
    float a = x < 0.0f ? -x : x, t = a > 1.0f ? 1.0f / a : a, z = t * t;
    float p = -1.753877285e-03f;
    p = sa_fma(p, z, 1.072670664e-02f);
    p = sa_fma(p, z, -3.080415301e-02f);
    p = sa_fma(p, z, 5.755165423e-02f);
    p = sa_fma(p, z, -8.377289149e-02f);
    p = sa_fma(p, z, 1.094202160e-01f);
    p = sa_fma(p, z, -1.426193135e-01f);
    p = sa_fma(p, z, 1.999826587e-01f);
    p = sa_fma(p, z, -3.333328364e-01f);
    p = sa_fma(p, z, 9.999999976e-01f);
    float y = t * p;
    y = a > 1.0f ? 1.57079633f - y : y;
    return x < 0.0f ? -y : y;
}

/* ============================== Powers ==================================== */

/* |x|^y by 2^(y log2 |x|), with C's rules for 0, negative x and whole y. The
 * error grows with |y log2 x|: 2e-6 at the ends of the fp16 range. */
SA_INLINE float m_pow(float x, float y) {
    float a = x < 0.0f ? -x : x;
    float r = m_exp2(y * m_log2(a));
    r = a == 1.0f || y == 0.0f ? 1.0f : r;
    float half = 0.5f * y, is_whole = floorf(y) == y ? 1.0f : 0.0f;
    float is_odd = floorf(half) == half ? 0.0f : is_whole;
    uint32_t flip = sa_bits(x) & (is_odd != 0.0f ? 0x80000000u : 0u); /* -1 to an odd power */
    float s = sa_float(sa_bits(r) ^ flip);
    s = is_whole != 0.0f ? s : (x < 0.0f && x != -INFINITY ? NAN : r);
    return y == 0.0f ? 1.0f : s;
}

#endif
