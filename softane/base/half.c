// SPDX-License-Identifier: MIT
/* half.c - scalar fp16 conversions: the definition of the rounding.
 *
 * Integer arithmetic only, so the result does not depend on the rounding mode
 * or on flush-to-zero flags. Not fast: the vector kernels of exec/ are, and
 * are tested against these.
 *
 *   float32  s eeeeeeee mmmmmmmmmmmmmmmmmmmmmmm   bias 127
 *   fp16     s eeeee    mmmmmmmmmm                bias 15, grid 2^-24 below 2^-14 */
#include "base.h"

#include <string.h>

enum {
    F32_INF = 0x7f800000,
    F32_HALF_MIN = 113 << 23,  /* 2^-14, the smallest normal fp16, as float bits */
    BIAS_GAP = 112 << 10,      /* difference of the biases, at fp16's exponent */
    H_INF = 0x7c00
};

static uint32_t float_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* A quiet NaN of the same sign that keeps the upper payload bits. */
static uint16_t half_nan(uint16_t sign, uint32_t u) {
    return (uint16_t)(sign | H_INF | 0x200u | ((u >> 13) & 0x3ffu));
}

/* |x| below 2^-14 as a count of 2^-24 steps, not yet rounded: *mant is the
 * 24-bit significand and the result is mant >> shift. Returns shift; above 24
 * the value is less than half a step. `u` has no sign bit. */
static int subnormal_shift(uint32_t u, uint32_t *mant) {
    *mant = (u & 0x7fffffu) | 0x800000u; /* float subnormals have shift > 24 anyway */
    return 126 - (int)(u >> 23);
}

/* Round half away from zero, as the engine stores: first to 11 significant
 * bits, then (results below 2^-14) onto the 2^-24 grid. 65520 and above give
 * inf, because the first rounding carries into 65536. */
uint16_t sa_half_from_float_away(float f) {
    uint32_t u = float_bits(f);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > F32_INF)
        return half_nan(sign, u);
    u = (u + 0x1000u) & ~0x1fffu; /* a carry moves into the exponent, as it should */
    if (u >= F32_HALF_MIN) {
        uint32_t h = (u >> 13) - BIAS_GAP;
        return (uint16_t)(sign | (h > H_INF ? H_INF : h));
    }
    uint32_t mant;
    int shift = subnormal_shift(u, &mant);
    if (shift > 24)
        return sign;
    return (uint16_t)(sign | ((mant + (1u << (shift - 1))) >> shift));
}

/* IEEE round to nearest, ties to even. */
uint16_t sa_half_from_float_even(float f) {
    uint32_t u = float_bits(f);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > F32_INF)
        return half_nan(sign, u);
    if (u >= F32_HALF_MIN) {
        u += 0xfffu + ((u >> 13) & 1u); /* just below half, plus one when odd */
        uint32_t h = (u >> 13) - BIAS_GAP;
        return (uint16_t)(sign | (h > H_INF ? H_INF : h));
    }
    uint32_t mant;
    int shift = subnormal_shift(u, &mant);
    if (shift > 24)
        return sign;
    uint32_t odd = (mant >> shift) & 1u;
    return (uint16_t)(sign | ((mant + (1u << (shift - 1)) - 1u + odd) >> shift));
}

/* Exact: every fp16 value is a float. NaN keeps its payload and becomes quiet. */
float sa_half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 0x1fu, m = h & 0x3ffu, u;
    if (e == 0x1f) {
        u = F32_INF | (m << 13) | (m ? 0x400000u : 0u);
    } else if (e) {
        u = ((e + 112u) << 23) | (m << 13);
    } else if (m) {
        e = 113; /* normalise: move the leading bit to bit 10 */
        while (!(m & 0x400u)) {
            m <<= 1;
            e--;
        }
        u = (e << 23) | ((m & 0x3ffu) << 13);
    } else {
        u = 0;
    }
    u |= sign;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
