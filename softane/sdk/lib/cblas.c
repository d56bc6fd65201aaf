// SPDX-License-Identifier: MIT
/* cblas.c - the BLAS of Accelerate.h.
 *
 * Products use a BLAS when one is found (environment SOFTANE_BLAS = a path or
 * "built-in"; scipy's OpenBLAS beside ane_native; the system's), else loops
 * written here. Vector functions are always loops: they are bound by memory. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Accelerate/Accelerate.h>
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdk.h"

/* ============================== A found library =========================== */

typedef void Sgemm(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);

static Sgemm *found;

static bool try_library(const char *path) {
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *f = lib ? dlsym(lib, "scipy_cblas_sgemm") : NULL;
    if (lib && !f)
        f = dlsym(lib, "cblas_sgemm");
    if (f && f != (void *)(uintptr_t)cblas_sgemm)
        memcpy(&found, &f, sizeof f);
    return found != NULL;
}

static void find(void) {
    const char *env = getenv("SOFTANE_BLAS");
    char path[4096];
    Dl_info here;
    void *softane = dlsym(RTLD_DEFAULT, "softane_version");
    if (env && env[0]) {
        if (strcmp(env, "built-in") == 0 || try_library(env))
            return;
    }
    if (softane && dladdr(softane, &here) && here.dli_fname && strrchr(here.dli_fname, '/')) {
        int dir = (int)(strrchr(here.dli_fname, '/') - here.dli_fname);
        snprintf(path, sizeof path, "%.*s/../scipy_openblas32/lib/libscipy_openblas.so", dir, here.dli_fname);
        if (try_library(path))
            return;
    }
    (void)(try_library("libopenblas.so.0") || try_library("libcblas.so.3"));
}

static Sgemm *library(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
    return found;
}

/* ============================== Products ================================== */

/* c[m,n] += alpha op(a) op(b), row-major. */
static void product(bool ta, bool tb, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                    float *c, int ldc) {
    for (int i = 0; i < m; i++) {
        float *row = c + (size_t)i * (size_t)ldc;
        if (tb) {
            for (int j = 0; j < n; j++) {
                const float *bj = b + (size_t)j * (size_t)ldb;
                float sum = 0;
                for (int p = 0; p < k; p++)
                    sum += (ta ? a[(size_t)p * (size_t)lda + (size_t)i] : a[(size_t)i * (size_t)lda + (size_t)p]) * bj[p];
                row[j] += alpha * sum;
            }
            continue;
        }
        for (int p = 0; p < k; p++) {
            float f = alpha * (ta ? a[(size_t)p * (size_t)lda + (size_t)i] : a[(size_t)i * (size_t)lda + (size_t)p]);
            const float *bp = b + (size_t)p * (size_t)ldb;
            for (int j = 0; j < n; j++)
                row[j] += f * bp[j];
        }
    }
}

void cblas_sgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc) {
    Sgemm *lib = library();
    if (lib) {
        lib((int)order, (int)ta, (int)tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
        return;
    }
    if (order == CblasColMajor) { /* the transposed product, row-major */
        cblas_sgemm(CblasRowMajor, tb, ta, n, m, k, alpha, b, ldb, a, lda, beta, c, ldc);
        return;
    }
    for (int i = 0; i < m; i++) {
        float *row = c + (size_t)i * (size_t)ldc;
        for (int j = 0; j < n; j++)
            row[j] = beta == 0 ? 0 : beta * row[j]; /* beta 0: what was there, NaN too, is not read */
    }
    product(ta != CblasNoTrans, tb != CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, c, ldc);
}

/* The first element of a vector whose stride is negative lies at its end. */
static const float *first(const float *x, int n, int inc) { return inc < 0 ? x + (ptrdiff_t)(1 - n) * inc : x; }
static float *first_out(float *x, int n, int inc) { return inc < 0 ? x + (ptrdiff_t)(1 - n) * inc : x; }

void cblas_sgemv(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, int m, int n, float alpha, const float *a, int lda,
                 const float *x, int incx, float beta, float *y, int incy) {
    bool by_rows = (order == CblasRowMajor) == (ta == CblasNoTrans); /* y[i] = a[i, :] . x in memory order */
    int out = ta == CblasNoTrans ? m : n, in = ta == CblasNoTrans ? n : m;
    x = first(x, in, incx);
    y = first_out(y, out, incy);
    for (int i = 0; i < out; i++) {
        float sum = 0;
        for (int j = 0; j < in; j++)
            sum += a[by_rows ? (ptrdiff_t)i * lda + j : (ptrdiff_t)j * lda + i] * x[(ptrdiff_t)j * incx];
        float *d = y + (ptrdiff_t)i * incy;
        *d = alpha * sum + (beta == 0 ? 0 : beta * *d);
    }
}

void cblas_sger(enum CBLAS_ORDER order, int m, int n, float alpha, const float *x, int incx, const float *y, int incy,
                float *a, int lda) {
    x = first(x, m, incx);
    y = first(y, n, incy);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            a[order == CblasRowMajor ? (ptrdiff_t)i * lda + j : (ptrdiff_t)j * lda + i] +=
                alpha * x[(ptrdiff_t)i * incx] * y[(ptrdiff_t)j * incy];
}

/* ============================== Vectors =================================== */

float cblas_sdot(int n, const float *x, int incx, const float *y, int incy) {
    double sum = 0;
    x = first(x, n, incx);
    y = first(y, n, incy);
    for (int i = 0; i < n; i++)
        sum += (double)x[(ptrdiff_t)i * incx] * (double)y[(ptrdiff_t)i * incy];
    return (float)sum;
}

float cblas_snrm2(int n, const float *x, int incx) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)x[(ptrdiff_t)i * incx] * (double)x[(ptrdiff_t)i * incx];
    return (float)sqrt(sum);
}

float cblas_sasum(int n, const float *x, int incx) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += (double)fabsf(x[(ptrdiff_t)i * incx]);
    return (float)sum;
}

int cblas_isamax(int n, const float *x, int incx) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (fabsf(x[(ptrdiff_t)i * incx]) > fabsf(x[(ptrdiff_t)best * incx]))
            best = i;
    return best;
}

void cblas_saxpy(int n, float alpha, const float *x, int incx, float *y, int incy) {
    x = first(x, n, incx);
    y = first_out(y, n, incy);
    for (int i = 0; i < n; i++)
        y[(ptrdiff_t)i * incy] += alpha * x[(ptrdiff_t)i * incx];
}

void cblas_sscal(int n, float alpha, float *x, int incx) {
    for (int i = 0; i < n; i++)
        x[(ptrdiff_t)i * incx] *= alpha;
}

void cblas_scopy(int n, const float *x, int incx, float *y, int incy) {
    x = first(x, n, incx);
    y = first_out(y, n, incy);
    for (int i = 0; i < n; i++)
        y[(ptrdiff_t)i * incy] = x[(ptrdiff_t)i * incx];
}

void cblas_sswap(int n, float *x, int incx, float *y, int incy) {
    x = first_out(x, n, incx);
    y = first_out(y, n, incy);
    for (int i = 0; i < n; i++) {
        float t = x[(ptrdiff_t)i * incx];
        x[(ptrdiff_t)i * incx] = y[(ptrdiff_t)i * incy];
        y[(ptrdiff_t)i * incy] = t;
    }
}
