// SPDX-License-Identifier: MIT
/* k_shape.c - the one data movement that is not a row copy: transposition. */
#include "k_square.h"

/* One square at (r, c). */
SA_INLINE void turn_at(float *d, size_t d_stride, const float *s, size_t s_stride, size_t r, size_t c) {
    Vec v[VL];
#pragma clang loop unroll(full)
    for (size_t i = 0; i < VL; i++)
        v[i] = vec_load(s + (r + i) * s_stride + c);
    square_turn(v);
#pragma clang loop unroll(full)
    for (size_t i = 0; i < VL; i++)
        vec_store(d + (c + i) * d_stride + r, v[i]);
}

/* d[c][r] = s[r][c]. Squares of VL x VL are turned in registers, in strips of
 * BAND source rows, so that lines of either side are met again while still in
 * L1; what is left at the edges goes one by one. Strides in floats. */
SA_WIDE static void transpose(float *d, size_t d_stride, const float *s, size_t s_stride, size_t rows, size_t cols) {
    enum { BAND = 64 };
    size_t whole_r = rows - rows % VL, whole_c = cols - cols % VL;
    for (size_t r0 = 0; r0 < whole_r; r0 += BAND) {
        size_t end = r0 + BAND < whole_r ? r0 + BAND : whole_r;
        for (size_t c = 0; c < whole_c; c += VL)
            for (size_t r = r0; r < end; r += VL)
                turn_at(d, d_stride, s, s_stride, r, c);
        for (size_t c = whole_c; c < cols; c++)
            for (size_t r = r0; r < end; r++)
                d[c * d_stride + r] = s[r * s_stride + c];
    }
    for (size_t r = whole_r; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            d[c * d_stride + r] = s[r * s_stride + c];
}

void SA_FN(sa_k_shape)(SaKernels *t);
void SA_FN(sa_k_shape)(SaKernels *t) {
    t->transpose = transpose;
}
