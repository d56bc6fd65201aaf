// SPDX-License-Identifier: MIT
/* _half.h - IEEE half precision: one value, one row, and which instructions to use.
 *
 * Three versions of each row function are compiled on x86-64 (plain C, F16C
 * with AVX2, AVX-512) and one elsewhere; `ane_isa()` says which may be called.
 * All versions give the same bits for every input: conversion to half rounds to
 * nearest even and goes through subnormals to zero and through 65520 to infinity;
 * a NaN keeps its sign and the upper ten bits of its payload and becomes quiet.
 *
 *   _half.c       ane_isa, ane_cpu_half_from_float, ane_cpu_float_from_half
 *   _cpu_loops.h  the loops of _cpu.c, compiled once per instruction set */
#ifndef ANE_NATIVE_HALF_H
#define ANE_NATIVE_HALF_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__clang__) || defined(__GNUC__))
#define ANE_X86 1
#include <immintrin.h>
#else
#define ANE_X86 0
#endif
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

/* ============================== Instruction sets ========================== */

enum { ANE_ISA_BASE = 0, ANE_ISA_AVX2 = 1, ANE_ISA_AVX512 = 2 };

/* Best set this processor has (x86-64), ANE_ISA_BASE elsewhere. The variable
 * ANE_NATIVE_ISA ("base", "avx2", "avx512") may lower it, never raise it. Read
 * once per process; any thread. */
int ane_isa(void);

/* F16C is part of every processor with AVX2, but it is its own feature bit. */
#define ANE_TARGET_avx2 __attribute__((target("avx2,fma,f16c")))
#define ANE_TARGET_avx512 __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")))
#define ANE_TARGET_base

/* ============================== One value ================================= */

static inline float ane_float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t ane_bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Exact. The exponent is moved by a multiplication, which also normalises
 * subnormals; infinity and NaN get the largest exponent back by hand. */
static inline float ane_float_from_half1(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t magnitude = h & 0x7FFFu;
    uint32_t bits = ane_bits_of_float(ane_float_of_bits(magnitude << 13) * 0x1p112f);
    if (magnitude >= 0x7C00u) bits |= 0x7F800000u;
    if (magnitude > 0x7C00u) bits |= 0x00400000u;
    return ane_float_of_bits(sign | bits);
}

/* Nearest even. Normal results add "half a unit less one, plus the last kept
 * bit" to the integer image; subnormal ones let an addition to 0.5, whose unit
 * in the last place is that of a subnormal half, do the rounding. */
static inline uint16_t ane_half_from_float1(float f) {
    const uint32_t bits = ane_bits_of_float(f);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t half;
    if (magnitude > 0x7F800000u) {
        half = 0x7E00u | ((magnitude >> 13) & 0x1FFu);
    } else if (magnitude >= 0x477FF000u) { /* 65520 and above */
        half = 0x7C00u;
    } else if (magnitude < 0x38800000u) { /* below 2^-14 */
        half = ane_bits_of_float(ane_float_of_bits(magnitude) + 0.5f) - 0x3F000000u;
    } else {
        half = (magnitude + 0x0FFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    }
    return (uint16_t)(sign | half);
}

/* ============================== Rows ====================================== */

/* ane_row_from_half_X: out[i] = float of in[i];  ane_row_to_half_X: the reverse.
 * n elements, no alignment needed, in and out do not overlap. */

#if defined(__aarch64__)

static inline void ane_row_from_half_base(const uint16_t *in, float *out, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(in + i))));
    for (; i < n; i++) out[i] = ane_float_from_half1(in[i]);
}

static inline void ane_row_to_half_base(const float *in, uint16_t *out, size_t n) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in + i))));
    for (; i < n; i++) out[i] = ane_half_from_float1(in[i]);
}

#else

static inline void ane_row_from_half_base(const uint16_t *in, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ane_float_from_half1(in[i]);
}

static inline void ane_row_to_half_base(const float *in, uint16_t *out, size_t n) {
    for (size_t i = 0; i < n; i++) out[i] = ane_half_from_float1(in[i]);
}

#endif

#if ANE_X86

ANE_TARGET_avx2 static inline void ane_row_from_half_avx2(const uint16_t *in, float *out, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(in + i))));
    }
    for (; i < n; i++) out[i] = ane_float_from_half1(in[i]);
}

ANE_TARGET_avx2 static inline void ane_row_to_half_avx2(const float *in, uint16_t *out, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128((__m128i *)(void *)(out + i), h);
    }
    for (; i < n; i++) out[i] = ane_half_from_float1(in[i]);
}

ANE_TARGET_avx512 static inline void ane_row_from_half_avx512(const uint16_t *in, float *out, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(in + i))));
    }
    if (i < n) {
        const __mmask16 tail = (__mmask16)((1u << (n - i)) - 1u);
        _mm512_mask_storeu_ps(out + i, tail, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(tail, in + i)));
    }
}

ANE_TARGET_avx512 static inline void ane_row_to_half_avx512(const float *in, uint16_t *out, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i h = _mm512_cvtps_ph(_mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(void *)(out + i), h);
    }
    if (i < n) {
        const __mmask16 tail = (__mmask16)((1u << (n - i)) - 1u);
        const __m512 x = _mm512_maskz_loadu_ps(tail, in + i);
        _mm256_mask_storeu_epi16(out + i, tail, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
}

#endif
#endif
