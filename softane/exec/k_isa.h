// SPDX-License-Identifier: MIT
/* k_isa.h - what the k_*.c share: name mangling per ISA variant, loop hints. */
#ifndef SA_EXEC_K_ISA_H
#define SA_EXEC_K_ISA_H

#include <string.h>

#include "kernels.h"

#ifndef SA_ISA
#define SA_ISA base
#endif
#define SA_CAT2(a, b) a##_##b
#define SA_CAT(a, b) SA_CAT2(a, b)
#define SA_FN(name) SA_CAT(name, SA_ISA)

/* Before a loop whose iterations do not depend on each other. The pointers may
 * be equal (in-place work), so `restrict` would be a lie. */
#if defined(__clang__) && defined(__AVX512F__)
#define SA_LOOP _Pragma("clang loop vectorize(assume_safety) vectorize_width(16)")
#elif defined(__clang__)
#define SA_LOOP _Pragma("clang loop vectorize(assume_safety)")
#define SA_LOOP_4 _Pragma("clang loop vectorize(assume_safety) interleave_count(4)")
#elif defined(__GNUC__)
#define SA_LOOP _Pragma("GCC ivdep")
#else
#define SA_LOOP
#endif
/* Four vectors side by side: a long chain of dependent operations otherwise fills the
 * scheduler of a core, and few of them overlap. */
#ifndef SA_LOOP_4
#define SA_LOOP_4 SA_LOOP
#endif

/* At the top of a block: sums may be regrouped, a*b+c may be one instruction. */
#if defined(__clang__)
#define SA_LOOSE_SUMS _Pragma("clang fp reassociate(on)") _Pragma("clang fp contract(fast)")
#else
#define SA_LOOSE_SUMS
#endif

/* Lanes of a full register: the compiler prefers half of it under v4. */
#if defined(__AVX512F__) && defined(__clang__)
#define SA_WIDE __attribute__((min_vector_width(512)))
#else
#define SA_WIDE
#endif

/* Inlined without asking: a call left in a loop keeps it scalar. */
#define SA_INLINE static inline __attribute__((always_inline))

SA_INLINE uint32_t sa_bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

SA_INLINE float sa_float(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* a b + c, rounded once where that is one instruction. Never left to the compiler:
 * the end of a vector loop must give what its body gives. */
SA_INLINE float sa_fma(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* ============================== Rounding ================================== */

/* x onto the fp16 grid, half away from zero: first to 11 significant bits,
 * then, below 2^-14, onto multiples of 2^-24. As sa_half_from_float_away.
 * Magnitudes from `limit` (float bits) up give inf; NaN stays.
 *
 * Adding 0.5 makes 2^-24 the last place of the sum, but ties would go to even;
 * a bit far below the 11 significant ones pushes them up and nothing else. */
SA_INLINE float sa_grid_limited(float x, uint32_t limit) {
    uint32_t u = sa_bits(x), s = u & 0x80000000u, m = u ^ s;
    uint32_t r = (m + 0x1000u) & ~0x1fffu;           /* a carry moves into the exponent */
    uint32_t q = sa_bits((sa_float(r | 0x800u) + 0.5f) - 0.5f);
    uint32_t over = m > 0x7f800000u ? m : 0x7f800000u; /* NaN or inf */
    r = (int32_t)r < 0x38800000 ? q : r;             /* 2^-14; signed compares are one instruction */
    r = (int32_t)m >= (int32_t)limit ? over : r;     /* so does an r that a NaN made negative */
    return sa_float(r | s);
}

#if defined(__F16C__) && !defined(__AVX512F__)
/* The same by the instructions that convert to fp16, which round half to even: what
 * is on 11 bits with a bit far below has no ties. What is so large that the carry
 * would leave the numbers becomes inf by itself; NaN stays one. */
SA_INLINE float sa_grid_away(float x) {
    uint32_t u = sa_bits(x), r = ((u + 0x1000u) & ~0x1fffu) | 0x800u;
    r = (int32_t)(u & 0x7fffffffu) < 0x7f000000 ? r : u;
    return (float)(__fp16)sa_float(r);
}
#else
/* 65520 and above round to 65536, which is inf. */
SA_INLINE float sa_grid_away(float x) { return sa_grid_limited(x, 0x477ff000u); }
#endif

/* The product unit: |y| >= 32768 is out of its range. */
SA_INLINE float sa_grid_product(float x) { return sa_grid_limited(x, 0x47000000u); }

/* The same with IEEE ties to even. Adding 0.5 makes the grid of the sum 2^-24. */
SA_INLINE float sa_grid_even(float x) {
    uint32_t u = sa_bits(x), s = u & 0x80000000u, m = u ^ s;
    uint32_t r = (m + 0xfffu + ((m >> 13) & 1u)) & ~0x1fffu;
    float small = sa_float(m) < 0x1p-14f ? sa_float(m) : 0.0f;
    float q = (small + 0.5f) - 0.5f;
    r = m < 0x38800000u ? sa_bits(q) : r;
    r = r >= 0x47800000u ? 0x7f800000u : r;
    r = m > 0x7f800000u ? (m | 0x400000u) : r;
    return sa_float(r | s);
}

#endif
