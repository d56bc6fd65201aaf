// SPDX-License-Identifier: MIT
/* vdsp.c - vDSP, vForce and vImage of Accelerate.h, as loops. Sums are
 * collected in double precision, so they are at least as exact as Apple's. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sincosf */
#endif
#include <Accelerate/Accelerate.h>
#include <math.h>
#include <string.h>

#include "../../base/base.h"

#define VEC(x) const float *x, vDSP_Stride i##x
#define OUT(x) float *x, vDSP_Stride i##x
#define AT(x) x[(vDSP_Stride)i * i##x]
#define EACH for (vDSP_Length i = 0; i < n; i++)

/* ============================== Element by element ======================== */

#define TWO(name, expr) \
    void name(VEC(a), VEC(b), OUT(c), vDSP_Length n) { EACH AT(c) = expr; }
TWO(vDSP_vadd, AT(a) + AT(b))
TWO(vDSP_vsub, AT(b) - AT(a)) /* the names of vDSP: from what, minus what */
TWO(vDSP_vmul, AT(a) * AT(b))
TWO(vDSP_vdiv, AT(b) / AT(a))
TWO(vDSP_vmax, AT(a) > AT(b) ? AT(a) : AT(b))
TWO(vDSP_vmin, AT(a) < AT(b) ? AT(a) : AT(b))

#define WITH_SCALAR(name, expr) \
    void name(VEC(a), const float *b, OUT(c), vDSP_Length n) { const float s = *b; EACH AT(c) = expr; }
WITH_SCALAR(vDSP_vsadd, AT(a) + s)
WITH_SCALAR(vDSP_vsmul, AT(a) * s)
WITH_SCALAR(vDSP_vsdiv, AT(a) / s)
WITH_SCALAR(vDSP_vthr, AT(a) < s ? s : AT(a))

void vDSP_svdiv(const float *a, VEC(b), OUT(c), vDSP_Length n) { const float s = *a; EACH AT(c) = s / AT(b); }

#define THREE(name, expr) \
    void name(VEC(a), VEC(b), VEC(c), OUT(d), vDSP_Length n) { EACH AT(d) = expr; }
THREE(vDSP_vma, AT(a) * AT(b) + AT(c))
THREE(vDSP_vmsb, AT(a) * AT(b) - AT(c))
THREE(vDSP_vam, (AT(a) + AT(b)) * AT(c))
THREE(vDSP_vsbm, (AT(a) - AT(b)) * AT(c))

void vDSP_vsma(VEC(a), const float *b, VEC(c), OUT(d), vDSP_Length n) { const float s = *b; EACH AT(d) = AT(a) * s + AT(c); }
void vDSP_vsmsa(VEC(a), const float *b, const float *c, OUT(d), vDSP_Length n) {
    const float s = *b, t = *c;
    EACH AT(d) = AT(a) * s + t;
}
void vDSP_vintb(VEC(a), VEC(b), const float *t, OUT(c), vDSP_Length n) {
    const float s = *t;
    EACH AT(c) = AT(a) + s * (AT(b) - AT(a));
}

#define ONE(name, expr) \
    void name(VEC(a), OUT(c), vDSP_Length n) { EACH AT(c) = expr; }
ONE(vDSP_vneg, -AT(a))
ONE(vDSP_vabs, fabsf(AT(a)))
ONE(vDSP_vsq, AT(a) * AT(a))

void vDSP_vclip(VEC(a), const float *low, const float *high, OUT(c), vDSP_Length n) {
    const float l = *low, h = *high;
    EACH AT(c) = AT(a) < l ? l : AT(a) > h ? h : AT(a);
}
void vDSP_vfill(const float *value, OUT(c), vDSP_Length n) { const float v = *value; EACH AT(c) = v; }
void vDSP_vclr(OUT(c), vDSP_Length n) { EACH AT(c) = 0; }
void vDSP_vramp(const float *first, const float *step, OUT(c), vDSP_Length n) {
    const float f = *first, s = *step;
    EACH AT(c) = f + (float)i * s;
}
void vDSP_vflt16(const int16_t *a, vDSP_Stride ia, OUT(c), vDSP_Length n) { EACH AT(c) = AT(a); }
void vDSP_vflt32(const int32_t *a, vDSP_Stride ia, OUT(c), vDSP_Length n) { EACH AT(c) = (float)AT(a); }

/* ============================== Reductions ================================ */

#define SUM(name, expr, result) \
    void name(VEC(a), float *out, vDSP_Length n) { double s = 0; EACH s += expr; *out = (float)(result); }
SUM(vDSP_sve, (double)AT(a), s)
SUM(vDSP_svesq, (double)AT(a) * (double)AT(a), s)
SUM(vDSP_svemg, (double)fabsf(AT(a)), s)
SUM(vDSP_meanv, (double)AT(a), s / (double)n)
SUM(vDSP_measqv, (double)AT(a) * (double)AT(a), s / (double)n)
SUM(vDSP_rmsqv, (double)AT(a) * (double)AT(a), sqrt(s / (double)n))

void vDSP_dotpr(VEC(a), VEC(b), float *out, vDSP_Length n) {
    double s = 0;
    EACH s += (double)AT(a) * (double)AT(b);
    *out = (float)s;
}
void vDSP_distancesq(VEC(a), VEC(b), float *out, vDSP_Length n) {
    double s = 0;
    EACH s += ((double)AT(a) - (double)AT(b)) * ((double)AT(a) - (double)AT(b));
    *out = (float)s;
}

/* The extreme value and where it is: the first one of several. */
#define EXTREME(name, start, better, value) \
    void name(VEC(a), float *out, vDSP_Length n) { \
        float m = start; \
        EACH { float v = value; if (v better m) m = v; } \
        *out = m; \
    } \
    void name##i(VEC(a), float *out, vDSP_Length *at, vDSP_Length n) { \
        float m = start; \
        vDSP_Length k = 0; \
        EACH { float v = value; if (v better m) { m = v; k = i * (vDSP_Length)ia; } } \
        *out = m; \
        *at = k; \
    }
EXTREME(vDSP_maxv, -INFINITY, >, AT(a))
EXTREME(vDSP_minv, INFINITY, <, AT(a))
EXTREME(vDSP_maxmgv, 0, >, fabsf(AT(a)))

/* ============================== Matrices ================================== */

void vDSP_mtrans(VEC(a), OUT(c), vDSP_Length rows, vDSP_Length columns) {
    for (vDSP_Length r = 0; r < rows; r++)
        for (vDSP_Length k = 0; k < columns; k++)
            c[(vDSP_Stride)(r * columns + k) * ic] = a[(vDSP_Stride)(k * rows + r) * ia];
}

void vDSP_mmov(const float *a, float *c, vDSP_Length columns, vDSP_Length rows, vDSP_Length a_row, vDSP_Length c_row) {
    for (vDSP_Length r = 0; r < rows; r++)
        memmove(c + r * c_row, a + r * a_row, columns * sizeof *c);
}

void vDSP_mmul(VEC(a), VEC(b), OUT(c), vDSP_Length m, vDSP_Length n, vDSP_Length k) {
    if (ia == 1 && ib == 1 && ic == 1) {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)m, (int)n, (int)k, 1, a, (int)k, b, (int)n, 0, c, (int)n);
        return;
    }
    for (vDSP_Length r = 0; r < m; r++)
        for (vDSP_Length j = 0; j < n; j++) {
            double s = 0;
            for (vDSP_Length p = 0; p < k; p++)
                s += (double)a[(vDSP_Stride)(r * k + p) * ia] * (double)b[(vDSP_Stride)(p * n + j) * ib];
            c[(vDSP_Stride)(r * n + j) * ic] = (float)s;
        }
}

/* ============================== vForce ==================================== */

#define MATH(name, expr) \
    void name(float *y, const float *x, const int *n) { for (int i = 0; i < *n; i++) y[i] = expr; }
MATH(vvexpf, expf(x[i]))
MATH(vvexp2f, exp2f(x[i]))
MATH(vvexpm1f, expm1f(x[i]))
MATH(vvlogf, logf(x[i]))
MATH(vvlog2f, log2f(x[i]))
MATH(vvlog10f, log10f(x[i]))
MATH(vvlog1pf, log1pf(x[i]))
MATH(vvsqrtf, sqrtf(x[i]))
MATH(vvrsqrtf, 1 / sqrtf(x[i]))
MATH(vvrecf, 1 / x[i])
MATH(vvsinf, sinf(x[i]))
MATH(vvcosf, cosf(x[i]))
MATH(vvtanf, tanf(x[i]))
MATH(vvtanhf, tanhf(x[i]))
MATH(vvatanf, atanf(x[i]))
MATH(vvfabsf, fabsf(x[i]))
MATH(vvfloorf, floorf(x[i]))
MATH(vvceilf, ceilf(x[i]))

void vvpowf(float *z, const float *y, const float *x, const int *n) {
    for (int i = 0; i < *n; i++)
        z[i] = powf(x[i], y[i]);
}
void vvpowsf(float *z, const float *y, const float *x, const int *n) {
    for (int i = 0; i < *n; i++)
        z[i] = powf(x[i], *y);
}
void vvdivf(float *z, const float *y, const float *x, const int *n) {
    for (int i = 0; i < *n; i++)
        z[i] = y[i] / x[i];
}
void vvsincosf(float *s, float *c, const float *x, const int *n) {
    for (int i = 0; i < *n; i++) {
        float v = x[i]; /* x may be one of the results */
        s[i] = sinf(v);
        c[i] = cosf(v);
    }
}

/* ============================== vImage ==================================== */

enum { BUFFER_MISMATCH = -21774 };

vImage_Error vImageConvert_PlanarFtoPlanar16F(const vImage_Buffer *from, const vImage_Buffer *to, vImage_Flags flags) {
    (void)flags;
    if (from->height < to->height || from->width < to->width)
        return BUFFER_MISMATCH;
    for (size_t r = 0; r < to->height; r++) {
        const float *s = (const void *)((const char *)from->data + r * from->rowBytes);
        uint16_t *d = (void *)((char *)to->data + r * to->rowBytes);
        for (size_t i = 0; i < to->width; i++)
            d[i] = sa_half_from_float_even(s[i]);
    }
    return kvImageNoError;
}

vImage_Error vImageConvert_Planar16FtoPlanarF(const vImage_Buffer *from, const vImage_Buffer *to, vImage_Flags flags) {
    (void)flags;
    if (from->height < to->height || from->width < to->width)
        return BUFFER_MISMATCH;
    for (size_t r = 0; r < to->height; r++) {
        const uint16_t *s = (const void *)((const char *)from->data + r * from->rowBytes);
        float *d = (void *)((char *)to->data + r * to->rowBytes);
        for (size_t i = 0; i < to->width; i++)
            d[i] = sa_half_to_float(s[i]);
    }
    return kvImageNoError;
}
