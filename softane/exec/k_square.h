// SPDX-License-Identifier: MIT
/* k_square.h - vectors of the variant's width, and a square of them turned in
 * registers. What packing (k_gemm.c) and transposition (k_shape.c) are made of. */
#ifndef SA_EXEC_K_SQUARE_H
#define SA_EXEC_K_SQUARE_H

#include "k_isa.h"

#if defined(__AVX512F__)
enum { VL = 16 };
#elif defined(__AVX__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif

typedef float Vec __attribute__((vector_size(VL * sizeof(float)), aligned(4)));

/* a0 b0 a1 b1 ... of the lower or the upper halves. */
#if defined(__AVX512F__)
#define SA_LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define SA_HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
enum { SQUARE_ROUNDS = 4 };
#elif defined(__AVX__)
#define SA_LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define SA_HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
enum { SQUARE_ROUNDS = 3 };
#else
#define SA_LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define SA_HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
enum { SQUARE_ROUNDS = 2 };
#endif

SA_INLINE Vec vec_load(const float *p) { return *(const Vec *)(const void *)p; }
SA_INLINE void vec_store(float *p, Vec v) { *(Vec *)(void *)p = v; }

/* Transpose v[VL] in place. Each round interleaves the first half of the
 * vectors with the second: the bits of (vector, lane) turn by one place, and
 * after log2(VL) rounds vector and lane have changed places. */
SA_INLINE void square_turn(Vec v[VL]) {
    Vec t[VL];
#pragma clang loop unroll(full)
    for (int r = 0; r < SQUARE_ROUNDS; r++) {
#pragma clang loop unroll(full)
        for (int i = 0; i < VL / 2; i++) {
            t[2 * i] = SA_LOW(v[i], v[i + VL / 2]);
            t[2 * i + 1] = SA_HIGH(v[i], v[i + VL / 2]);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < VL; i++)
            v[i] = t[i];
    }
}

#endif
