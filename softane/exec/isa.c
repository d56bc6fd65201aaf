// SPDX-License-Identifier: MIT
/* isa.c - the kernel tables and the choice between them.
 *
 * On x86-64 the kernels exist for the baseline, x86-64-v3 (AVX2, FMA, F16C)
 * and x86-64-v4 (AVX-512); elsewhere for the compiler's default only. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "../plan/plan.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* ============================== Tables ==================================== */

#define SA_VARIANT(isa)                                                                                       \
    void sa_k_convert_##isa(SaKernels *), sa_k_elem_##isa(SaKernels *), sa_k_reduce_##isa(SaKernels *);       \
    void sa_k_shape_##isa(SaKernels *), sa_k_gemm_##isa(SaKernels *), sa_k_fixed_##isa(SaKernels *);          \
    void sa_k_silicon_##isa(SaKernels *);                                                                     \
    static void fill_##isa(SaKernels *t) {                                                                    \
        sa_k_convert_##isa(t);                                                                                \
        sa_k_elem_##isa(t);                                                                                   \
        sa_k_reduce_##isa(t);                                                                                 \
        sa_k_shape_##isa(t);                                                                                  \
        sa_k_gemm_##isa(t);                                                                                   \
        sa_k_fixed_##isa(t);                                                                                  \
        sa_k_silicon_##isa(t);                                                                                \
    }

SA_VARIANT(base)
static bool has_base(void) { return true; }

#if defined(__x86_64__)
SA_VARIANT(v3)
SA_VARIANT(v4)

/* __builtin_cpu_supports also asks whether the system saves the registers; it
 * does not know F16C, MOVBE and LZCNT, which cpuid tells. */
static bool has_v3(void) {
    unsigned a, b, c = 0, d, c_ext = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !__get_cpuid(0x80000001u, &a, &b, &c_ext, &d))
        return false;
    bool rest = (c & bit_F16C) && (c & bit_MOVBE) && (c_ext & bit_LZCNT);
    return rest && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

static bool has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

/* Best first. */
static const struct {
    const char *name;
    bool (*runs_here)(void);
    void (*fill)(SaKernels *t);
} variants[] = {
#if defined(__x86_64__)
    {"x86-64-v4", has_v4, fill_v4},
    {"x86-64-v3", has_v3, fill_v3},
#endif
    {"baseline", has_base, fill_base},
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

static SaKernels tables[VARIANTS];
static int usable, preferred;
static _Atomic(const SaKernels *) forced;

/* ============================== Choice ==================================== */

static void choose(void) {
    const char *want = getenv("SOFTANE_ISA");
    for (int i = 0; i < VARIANTS; i++) {
        if (!variants[i].runs_here())
            continue;
        if (want && strcmp(want, variants[i].name) == 0)
            preferred = usable;
        tables[usable].name = variants[i].name;
        variants[i].fill(&tables[usable++]);
    }
}

static void choose_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
}

const SaKernels *sa_kernels_get(void) {
    const SaKernels *f = atomic_load_explicit(&forced, memory_order_relaxed);
    if (f)
        return f;
    choose_once();
    return &tables[preferred];
}

const SaKernels *sa_kernels_variant(int i) {
    choose_once();
    return i >= 0 && i < usable ? &tables[i] : NULL;
}

void sa_kernels_force(const SaKernels *k) { atomic_store(&forced, k); }

const char *sa_exec_isa(void) { return sa_kernels_get()->name; }
