// SPDX-License-Identifier: MIT
/* k_gemm.c - the built-in matrix product, single-threaded, fp32.
 *
 * Used when no BLAS is found, and when the BLAS found does not use the vector
 * width of this CPU. Classic blocking: a block of B is packed into panels of
 * NR columns and a block of A into panels of MR rows, zero-filled at the edges;
 * an MR x NR tile of C then lives in registers while k runs. The order of the
 * sum over k depends on k only, never on m, n or the position in C. */
#include "k_square.h"

/* ============================== Tile ====================================== */

#if defined(__AVX512F__)
enum { MR = 12 };
#elif defined(__AVX__)
enum { MR = 6 };
#elif defined(__aarch64__)
enum { MR = 8 };
#else
enum { MR = 4 };
#endif
enum {
    NR = 2 * VL,
    KC = 384,          /* length of a panel: MR x KC stays in L1 */
    MC = 8 * MR,       /* rows of A packed at once */
    NC = 256           /* columns of B packed at once: KC x NC stays in L2 */
};

SA_INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* c[MR][NR] (+)= panel a [k][MR] * panel b [k][NR]. */
SA_WIDE static void tile(size_t k, const float *a, const float *b, float *c, size_t ldc, bool add) {
    SA_LOOSE_SUMS
    Vec acc[MR][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++)
        acc[i][0] = acc[i][1] = (Vec){0};
    for (size_t p = 0; p < k; p++, a += MR, b += NR) {
        Vec b0 = vec_load(b), b1 = vec_load(b + VL);
#pragma clang loop unroll(full)
        for (int i = 0; i < MR; i++) {
            acc[i][0] += a[i] * b0;
            acc[i][1] += a[i] * b1;
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++) {
        Vec *to = (Vec *)(void *)(c + (size_t)i * ldc);
        to[0] = add ? to[0] + acc[i][0] : acc[i][0];
        to[1] = add ? to[1] + acc[i][1] : acc[i][1];
    }
}

/* A tile that sticks out of C: computed beside it, the inner part copied. */
SA_WIDE static void tile_edge(size_t k, const float *a, const float *b, float *c, size_t ldc, size_t m, size_t n, bool add) {
    float t[MR * NR];
    tile(k, a, b, t, NR, false);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = add ? c[i * ldc + j] + t[i * NR + j] : t[i * NR + j];
}

/* ============================== Packing =================================== */

/* A panel d[k][w] of a matrix whose element (p, j) of the panel lies at
 * s[p * step + j]; only `have` of the w columns exist. */
SA_WIDE static void pack_rows(float *d, const float *s, size_t step, size_t k, size_t w, size_t have) {
    if (have == w) {
        for (size_t p = 0; p < k; p++, d += w, s += step)
            for (size_t j = 0; j < w; j++)
                d[j] = s[j];
        return;
    }
    for (size_t p = 0; p < k; p++, d += w, s += step)
        for (size_t j = 0; j < w; j++)
            d[j] = j < have ? s[j] : 0.0f;
}

/* `w` values side by side; w is at most VL, and the panel ends behind them. */
SA_INLINE void store_some(float *d, Vec v, size_t w) {
    float t[VL];
    vec_store(t, v);
    memcpy(d, t, w * sizeof *d);
}

/* The same when (p, j) lies at s[j * step + p]: squares of VL x VL are turned in
 * registers, lines that do not exist are zeros. */
SA_WIDE static void pack_columns(float *d, const float *s, size_t step, size_t k, size_t w, size_t have) {
    size_t p = 0;
    for (; p + VL <= k; p += VL)
        for (size_t j0 = 0; j0 < w; j0 += VL) {
            Vec v[VL];
            size_t cols = least(VL, w - j0);
#pragma clang loop unroll(full)
            for (size_t j = 0; j < VL; j++)
                v[j] = j0 + j < have ? vec_load(s + (j0 + j) * step + p) : (Vec){0};
            square_turn(v);
#pragma clang loop unroll(full)
            for (size_t q = 0; q < VL; q++) {
                /* a full vector may run over into what is stored next */
                if (cols == VL || q + 1 < VL)
                    vec_store(d + (p + q) * w + j0, v[q]);
                else
                    store_some(d + (p + q) * w + j0, v[q], cols);
            }
        }
    for (; p < k; p++)
        for (size_t j = 0; j < w; j++)
            d[p * w + j] = j < have ? s[j * step + p] : 0.0f;
}

/* ============================== Product =================================== */

static void pack_a(float *d, const SaGemmArgs *g, size_t i0, size_t m, size_t p0, size_t k) {
    for (size_t i = 0; i < m; i += MR, d += MR * k) {
        size_t have = least(MR, m - i);
        if (g->ta)
            pack_rows(d, g->a + p0 * g->lda + i0 + i, g->lda, k, MR, have);
        else
            pack_columns(d, g->a + (i0 + i) * g->lda + p0, g->lda, k, MR, have);
    }
}

static void pack_b(float *d, const SaGemmArgs *g, size_t j0, size_t n, size_t p0, size_t k) {
    for (size_t j = 0; j < n; j += NR, d += NR * k) {
        size_t have = least(NR, n - j);
        if (g->tb)
            pack_columns(d, g->b + (j0 + j) * g->ldb + p0, g->ldb, k, NR, have);
        else
            pack_rows(d, g->b + p0 * g->ldb + j0 + j, g->ldb, k, NR, have);
    }
}

/* `pack` holds KC * (MC + NC) floats. k = 0 stores zeros. */
static void gemm(const SaGemmArgs *g, float *pack) {
    float *pa = pack, *pb = pack + (size_t)KC * MC;
    size_t parts = (g->k + KC - 1) / KC, kc = parts ? (g->k + parts - 1) / parts : 0;
    if (!parts)
        for (size_t i = 0; i < g->m; i++)
            memset(g->c + i * g->ldc, 0, g->n * sizeof *g->c);
    for (size_t j0 = 0; j0 < g->n; j0 += NC) {
        size_t n = least(NC, g->n - j0);
        for (size_t p0 = 0; p0 < g->k; p0 += kc) {
            size_t k = least(kc, g->k - p0);
            pack_b(pb, g, j0, n, p0, k);
            for (size_t i0 = 0; i0 < g->m; i0 += MC) {
                size_t m = least(MC, g->m - i0);
                pack_a(pa, g, i0, m, p0, k);
                for (size_t i = 0; i < m; i += MR)
                    for (size_t j = 0; j < n; j += NR) {
                        float *c = g->c + (i0 + i) * g->ldc + j0 + j;
                        if (m - i >= MR && n - j >= NR)
                            tile(k, pa + i * k, pb + j * k, c, g->ldc, p0 > 0);
                        else
                            tile_edge(k, pa + i * k, pb + j * k, c, g->ldc, least(MR, m - i), least(NR, n - j), p0 > 0);
                    }
            }
        }
    }
}

void SA_FN(sa_k_gemm)(SaKernels *t);
void SA_FN(sa_k_gemm)(SaKernels *t) {
    t->gemm = gemm;
    t->gemm_pack_floats = (size_t)KC * (MC + NC);
}
