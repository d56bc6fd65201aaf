// SPDX-License-Identifier: MIT
/* k_shape.c - the one data movement that is not a row copy: transposition. */
#include "k_isa.h"

/* d[c][r] = s[r][c]. Works on 16 x 16 tiles held in L1, so that both sides are
 * touched in whole cache lines. Strides in floats. */
SA_WIDE static void transpose(float *d, size_t d_stride, const float *s, size_t s_stride, size_t rows, size_t cols) {
    enum { T = 16 };
    size_t r = 0;
    for (; r + T <= rows; r += T) {
        size_t c = 0;
        for (; c + T <= cols; c += T) {
            float t[T][T];
            for (size_t i = 0; i < T; i++)
                memcpy(t[i], s + (r + i) * s_stride + c, sizeof t[i]);
            for (size_t j = 0; j < T; j++) {
                float *to = d + (c + j) * d_stride + r;
                for (size_t i = 0; i < T; i++)
                    to[i] = t[i][j];
            }
        }
        for (; c < cols; c++)
            for (size_t i = 0; i < T; i++)
                d[c * d_stride + r + i] = s[(r + i) * s_stride + c];
    }
    for (; r < rows; r++)
        for (size_t c = 0; c < cols; c++)
            d[c * d_stride + r] = s[r * s_stride + c];
}

void SA_FN(sa_k_shape)(SaKernels *t);
void SA_FN(sa_k_shape)(SaKernels *t) {
    t->transpose = transpose;
}
