// SPDX-License-Identifier: MIT
/* blas.c - the matrix product of one thread: a BLAS if there is one.
 *
 * With AVX-512 the built-in product is used, unless SOFTANE_BLAS names another:
 * it runs at 88 % of the peak (OpenBLAS at 94 % where it knows the CPU, at half
 * of that where it does not), and no library is loaded whose own threads spin
 * for a while at the start. Elsewhere a BLAS is looked for at the first product:
 *   1. environment SOFTANE_BLAS: a path, or "built-in"
 *   2. environment SOFTANE_BLAS_HINT: a path somebody knows of (the Python package
 *      names its wheel), then ../scipy_openblas32/lib/ beside this library
 *   3. SA_DEFAULT_BLAS, when the build defines it
 *   4. the system: libopenblas.so.0, libcblas.so.3; Accelerate on macOS
 * It is set to one thread through its own function: products are split over
 * our pool (two thread pools on the same cores spoil each other). Other copies
 * of OpenBLAS in the process (numpy's) are not touched. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exec.h"

/* ============================== The library =============================== */

typedef void SgemmFn(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                     const float *b, int ldb, float beta, float *c, int ldc);
enum { ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112 };

/* Names under which builds of OpenBLAS export themselves; "" is any BLAS. */
static const char *const prefixes[] = {"scipy_", ""};

static struct {
    SgemmFn *sgemm;      /* NULL: built-in only */
    char name[512];
} blas;

static atomic_int choice = 1; /* sa_gemm_choose */

static void *symbol(void *lib, const char *prefix, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return dlsym(lib, full);
}

/* Function pointers out of dlsym without an ISO C warning. */
#define SA_FUNCTION(to, from) do { void *p_ = (from); memcpy(&(to), &p_, sizeof p_); } while (0)

/* Open one candidate; true when it has what is needed. */
static bool try_library(const char *path) {
    void *lib = path[0] ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!lib)
        return false;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
        SA_FUNCTION(blas.sgemm, symbol(lib, prefixes[i], "cblas_sgemm"));
        if (!blas.sgemm)
            continue;
        void (*set_threads)(int) = NULL;
        SA_FUNCTION(set_threads, symbol(lib, prefixes[i], "openblas_set_num_threads"));
        if (set_threads)
            set_threads(1);
        snprintf(blas.name, sizeof blas.name, "%s", path);
        return true;
    }
    dlclose(lib);
    return false;
}

/* The wheel scipy-openblas32 beside the package this library lies in. */
static bool try_neighbour(void) {
    Dl_info here;
    if (!dladdr((void *)(uintptr_t)&sa_gemm, &here) || !here.dli_fname)
        return false;
    const char *slash = strrchr(here.dli_fname, '/');
    int dir = slash ? (int)(slash - here.dli_fname) : 0;
    char path[512];
#if defined(__APPLE__)
    const char *file = "libscipy_openblas.dylib";
#else
    const char *file = "libscipy_openblas.so";
#endif
    int n = snprintf(path, sizeof path, "%.*s/../scipy_openblas32/lib/%s", dir, slash ? here.dli_fname : "", file);
    return slash && n > 0 && (size_t)n < sizeof path && try_library(path);
}

static void find(void) {
    const char *env = getenv("SOFTANE_BLAS");
    snprintf(blas.name, sizeof blas.name, "built-in");
    if (env && strcmp(env, "built-in") == 0)
        return;
    if (env && env[0]) {
        if (try_library(env))
            return;
        sa_log(SA_LOG_ERROR, "SOFTANE_BLAS=%s: no BLAS there; looking elsewhere", env);
    }
    const char *hint = getenv("SOFTANE_BLAS_HINT");
    if (strcmp(sa_kernels_get()->name, "x86-64-v4") == 0 || (hint && try_library(hint)) || try_neighbour())
        return;
#if defined(SA_DEFAULT_BLAS)
    if (try_library(SA_DEFAULT_BLAS))
        return;
#endif
#if defined(__APPLE__)
    (void)try_library("/System/Library/Frameworks/Accelerate.framework/Accelerate");
#else
    (void)(try_library("libopenblas.so.0") || try_library("libcblas.so.3"));
#endif
}

static void find_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
}

static bool use_blas(void) {
    find_once();
    return blas.sgemm && atomic_load_explicit(&choice, memory_order_relaxed) != 0;
}

const char *sa_exec_blas(void) {
    return use_blas() ? blas.name : "built-in";
}

void sa_gemm_choose(bool use) { atomic_store(&choice, use); }

/* ============================== Scratch =================================== */

/* The built-in product needs half a megabyte per thread and widened weights up to a
 * few, kept until the thread ends. */
static pthread_key_t scratch_keys[SA_SCRATCH_KINDS];
static bool scratch_keys_made;

static void make_keys(void) {
    for (int i = 0; i < SA_SCRATCH_KINDS; i++)
        if (pthread_key_create(&scratch_keys[i], sa_free) != 0)
            return;
    scratch_keys_made = true;
}

float *sa_scratch(SaScratch kind, size_t floats) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_keys);
    if (!scratch_keys_made)
        return NULL;
    size_t *p = pthread_getspecific(scratch_keys[kind]); /* size, then the floats 64 bytes on */
    if (p && *p >= floats)
        return (float *)(void *)((char *)p + 64);
    sa_free(p);
    p = sa_malloc(64 + floats * sizeof(float));
    if (p)
        *p = floats;
    pthread_setspecific(scratch_keys[kind], p);
    return p ? (float *)(void *)((char *)p + 64) : NULL;
}

/* ============================== Product =================================== */

bool sa_gemm(const SaKernels *k, const SaGemmArgs *g) {
    if (g->k > 0 && use_blas()) {
        blas.sgemm(ROW_MAJOR, g->ta ? TRANSPOSED : PLAIN, g->tb ? TRANSPOSED : PLAIN, (int)g->m, (int)g->n, (int)g->k,
                   1.0f, g->a, (int)g->lda, g->b, (int)g->ldb, 0.0f, g->c, (int)g->ldc);
        return true;
    }
    float *pack = sa_pack_scratch(k->gemm_pack_floats);
    if (pack)
        k->gemm(g, pack);
    return pack != NULL;
}
