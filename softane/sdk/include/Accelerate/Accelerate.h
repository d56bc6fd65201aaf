// SPDX-License-Identifier: MIT
/* Accelerate/Accelerate.h - the functions that trainers for the engine call:
 * BLAS level 1 to 3 in single precision, vDSP and vForce on floats, and
 * vImage's conversion between floats and halves. In lib/cblas.c, lib/vdsp.c. */
#ifndef SOFTANE_SDK_ACCELERATE_H
#define SOFTANE_SDK_ACCELERATE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

/* ============================== BLAS ====================================== */

enum CBLAS_ORDER { CblasRowMajor = 101, CblasColMajor = 102 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112, CblasConjTrans = 113 };
typedef enum CBLAS_ORDER CBLAS_ORDER;
typedef enum CBLAS_TRANSPOSE CBLAS_TRANSPOSE;

void cblas_sgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, enum CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha,
                 const float *a, int lda, const float *b, int ldb, float beta, float *c, int ldc);
void cblas_sgemv(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE ta, int m, int n, float alpha, const float *a, int lda,
                 const float *x, int incx, float beta, float *y, int incy);
void cblas_sger(enum CBLAS_ORDER order, int m, int n, float alpha, const float *x, int incx, const float *y, int incy,
                float *a, int lda);
float cblas_sdot(int n, const float *x, int incx, const float *y, int incy);
float cblas_snrm2(int n, const float *x, int incx);
float cblas_sasum(int n, const float *x, int incx);
int cblas_isamax(int n, const float *x, int incx);
void cblas_saxpy(int n, float alpha, const float *x, int incx, float *y, int incy);
void cblas_sscal(int n, float alpha, float *x, int incx);
void cblas_scopy(int n, const float *x, int incx, float *y, int incy);
void cblas_sswap(int n, float *x, int incx, float *y, int incy);

typedef enum { BLAS_THREADING_MULTI_THREADED, BLAS_THREADING_SINGLE_THREADED } BLAS_THREADING;
static inline int BLASSetThreading(BLAS_THREADING t) { return (void)t, 0; }

/* ============================== vDSP ====================================== */

typedef unsigned long vDSP_Length;
typedef long vDSP_Stride;

/* Arguments as on macOS: each vector with its stride, the length last. Mind
 * that vsub and vdiv take the second operand first. */
#define VEC(x) const float *x, vDSP_Stride i##x
#define OUT(x) float *x, vDSP_Stride i##x

void vDSP_vadd(VEC(a), VEC(b), OUT(c), vDSP_Length n);
void vDSP_vsub(VEC(a), VEC(b), OUT(c), vDSP_Length n); /* c = b - a */
void vDSP_vmul(VEC(a), VEC(b), OUT(c), vDSP_Length n);
void vDSP_vdiv(VEC(a), VEC(b), OUT(c), vDSP_Length n); /* c = b / a */
void vDSP_vmax(VEC(a), VEC(b), OUT(c), vDSP_Length n);
void vDSP_vmin(VEC(a), VEC(b), OUT(c), vDSP_Length n);
void vDSP_vsadd(VEC(a), const float *b, OUT(c), vDSP_Length n); /* c = a + *b */
void vDSP_vsmul(VEC(a), const float *b, OUT(c), vDSP_Length n); /* c = a * *b */
void vDSP_vsdiv(VEC(a), const float *b, OUT(c), vDSP_Length n); /* c = a / *b */
void vDSP_svdiv(const float *a, VEC(b), OUT(c), vDSP_Length n); /* c = *a / b */
void vDSP_vma(VEC(a), VEC(b), VEC(c), OUT(d), vDSP_Length n);   /* d = a b + c */
void vDSP_vmsb(VEC(a), VEC(b), VEC(c), OUT(d), vDSP_Length n);  /* d = a b - c */
void vDSP_vsma(VEC(a), const float *b, VEC(c), OUT(d), vDSP_Length n);          /* d = a *b + c */
void vDSP_vsmsa(VEC(a), const float *b, const float *c, OUT(d), vDSP_Length n); /* d = a *b + *c */
void vDSP_vam(VEC(a), VEC(b), VEC(c), OUT(d), vDSP_Length n);   /* d = (a + b) c */
void vDSP_vsbm(VEC(a), VEC(b), VEC(c), OUT(d), vDSP_Length n);  /* d = (a - b) c */
void vDSP_vintb(VEC(a), VEC(b), const float *t, OUT(c), vDSP_Length n); /* c = a + *t (b - a) */

void vDSP_vneg(VEC(a), OUT(c), vDSP_Length n);
void vDSP_vabs(VEC(a), OUT(c), vDSP_Length n);
void vDSP_vsq(VEC(a), OUT(c), vDSP_Length n);
void vDSP_vthr(VEC(a), const float *low, OUT(c), vDSP_Length n);                     /* max(a, *low) */
void vDSP_vclip(VEC(a), const float *low, const float *high, OUT(c), vDSP_Length n);
void vDSP_vfill(const float *value, OUT(c), vDSP_Length n);
void vDSP_vclr(OUT(c), vDSP_Length n);
void vDSP_vramp(const float *first, const float *step, OUT(c), vDSP_Length n);

void vDSP_dotpr(VEC(a), VEC(b), float *result, vDSP_Length n);
void vDSP_sve(VEC(a), float *result, vDSP_Length n);    /* sum */
void vDSP_svesq(VEC(a), float *result, vDSP_Length n);  /* sum of squares */
void vDSP_svemg(VEC(a), float *result, vDSP_Length n);  /* sum of magnitudes */
void vDSP_meanv(VEC(a), float *result, vDSP_Length n);
void vDSP_measqv(VEC(a), float *result, vDSP_Length n); /* mean of squares */
void vDSP_rmsqv(VEC(a), float *result, vDSP_Length n);
void vDSP_maxv(VEC(a), float *result, vDSP_Length n);   /* -inf for n = 0 */
void vDSP_minv(VEC(a), float *result, vDSP_Length n);   /* inf for n = 0 */
void vDSP_maxmgv(VEC(a), float *result, vDSP_Length n);
void vDSP_maxvi(VEC(a), float *result, vDSP_Length *index, vDSP_Length n); /* index counts the stride */
void vDSP_minvi(VEC(a), float *result, vDSP_Length *index, vDSP_Length n);
void vDSP_distancesq(VEC(a), VEC(b), float *result, vDSP_Length n);

void vDSP_mtrans(VEC(a), OUT(c), vDSP_Length rows_of_c, vDSP_Length columns_of_c);
void vDSP_mmov(const float *a, float *c, vDSP_Length columns, vDSP_Length rows, vDSP_Length a_row, vDSP_Length c_row);
void vDSP_mmul(VEC(a), VEC(b), OUT(c), vDSP_Length m, vDSP_Length n, vDSP_Length k); /* c[m,n] = a[m,k] b[k,n] */
void vDSP_vflt16(const int16_t *a, vDSP_Stride ia, OUT(c), vDSP_Length n);
void vDSP_vflt32(const int32_t *a, vDSP_Stride ia, OUT(c), vDSP_Length n);

#undef VEC
#undef OUT

/* ============================== vForce ==================================== */

#define SDK_UNARY(name) void name(float *y, const float *x, const int *n)
SDK_UNARY(vvexpf);
SDK_UNARY(vvexp2f);
SDK_UNARY(vvexpm1f);
SDK_UNARY(vvlogf);
SDK_UNARY(vvlog2f);
SDK_UNARY(vvlog10f);
SDK_UNARY(vvlog1pf);
SDK_UNARY(vvsqrtf);
SDK_UNARY(vvrsqrtf);
SDK_UNARY(vvrecf);
SDK_UNARY(vvsinf);
SDK_UNARY(vvcosf);
SDK_UNARY(vvtanf);
SDK_UNARY(vvtanhf);
SDK_UNARY(vvatanf);
SDK_UNARY(vvfabsf);
SDK_UNARY(vvfloorf);
SDK_UNARY(vvceilf);
#undef SDK_UNARY
void vvpowf(float *z, const float *y, const float *x, const int *n);  /* z = x to the power y */
void vvpowsf(float *z, const float *y, const float *x, const int *n); /* one exponent *y */
void vvdivf(float *z, const float *y, const float *x, const int *n);  /* z = y / x */
void vvsincosf(float *sine, float *cosine, const float *x, const int *n);

/* ============================== vImage ==================================== */

typedef unsigned long vImagePixelCount;
typedef long vImage_Error;
typedef uint32_t vImage_Flags;
typedef struct {
    void *data;
    vImagePixelCount height, width;
    size_t rowBytes;
} vImage_Buffer;
#define kvImageNoError 0
#define kvImageNoFlags 0
#define kvImageDoNotTile 16
vImage_Error vImageConvert_PlanarFtoPlanar16F(const vImage_Buffer *from, const vImage_Buffer *to, vImage_Flags flags);
vImage_Error vImageConvert_Planar16FtoPlanarF(const vImage_Buffer *from, const vImage_Buffer *to, vImage_Flags flags);

#if defined(__cplusplus)
}
#endif
#endif
