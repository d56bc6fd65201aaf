// SPDX-License-Identifier: MIT
/* fixed.c - products in the engine's fixed point, around the kernels. */
#include "exec.h"

bool sa_fixed_gemm(const SaKernels *k, const SaGemmArgs *g, const SaFixedOut *o) {
    float *pack = sa_pack_scratch(k->fixed_pack_floats(g->m));
    if (pack)
        k->fixed(g, o, pack);
    return pack != NULL;
}
