// SPDX-License-Identifier: MIT
/* fixed.c - what the arithmetics need around the kernels: products in fixed
 * point, another limit of products, the bits of table functions. */
#include <math.h>

#include "exec.h"

bool sa_fixed_gemm(const SaKernels *k, const SaGemmArgs *g, const SaFixedOut *o) {
    float *pack = sa_pack_scratch(k->fixed_pack_floats(g->m));
    if (pack)
        k->fixed(g, o, pack);
    return pack != NULL;
}

void sa_limit(float *d, size_t n, float limit) {
    for (size_t i = 0; limit > 0.0f && i < n; i++)
        if (fabsf(d[i]) >= limit)
            d[i] = copysignf(INFINITY, d[i]);
}

/* As few bits as the relative error allows that ANEForge publishes for the M5
 * (full_mil_vocabulary_sweep.json): rounding to b bits is within 2^-b. Those
 * below 2^-10 are no worse than fp16 itself. The engine's tables are not known;
 * this is an envelope, not a model. */
unsigned sa_table_bits(SaUnary op) {
    switch (op) {
    case SA_U_ATAN: return 6;         /* .0188 */
    case SA_U_SILU: return 7;         /* .0100 */
    case SA_U_ELU: return 8;          /* .0051 */
    case SA_U_SIGMOID: return 9;      /* .0038 */
    case SA_U_GELU: case SA_U_GELU_TANH: case SA_U_GELU_SIGMOID: return 9; /* .0024 */
    case SA_U_SCALED_TANH: return 10; /* .0017 */
    case SA_U_TANH: return 10;        /* .0013 */
    case SA_U_RSQRT: return 10;       /* .0010 */
    default: return 0;
    }
}
