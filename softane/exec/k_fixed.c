// SPDX-License-Identifier: MIT
/* k_fixed.c - the matrix product of the engine: fixed point, bit for bit.
 *
 *   exp(v) = max(exponent field of the fp16 v, 1) - 15
 *   p_k    = 0 if exp(a_k) + exp(b_k) < -16, else a_k b_k rounded half away
 *            from zero to a multiple of 2^-16
 *   acc    = sum of p_k, exact; |acc| >= 2^15 gives inf
 *   y      = acc (+ bias) rounded half away from zero to fp16
 *
 * (a model fitted to error figures that sbryngelson/ANEForge publishes; see
 * docs/NUMERICS.md). Integers, so nothing depends on order, tiles or threads.
 *
 * How it is fast. Operands are on the fp16 grid: 11 significant bits, so x =
 * a b 2^16 has 22 and is exact in fp32. Below, "unit" is the last place of
 * those 22 bits.
 *   dropped    exp(b) < -16 - exp(a) is |b| < 2^(-16 - exp(a)): one compare with
 *              a number stored beside each a; subnormal b need no care, since
 *              for exp(a) >= -2 nothing is dropped and the number is 0.
 *   tile_fma   b is stored one float step up (its lowest bit set), so a tie
 *              becomes a hair more and rounds away. a b' - x lies above 0 and
 *              below a quarter of the unit, so nothing else changes; the sum
 *              with 1.5 * 2^23 in one FMA is the rounded integer in the low bits.
 *              Needs |x| < 2^22.
 *   tile_any   without an FMA, or for larger products: x + copysign(1/2, x)
 *              truncated. From 2^22 on x is whole, from 2^23 on even: exact too.
 *   int32      sums wrap and are right in the end if |acc| < 2^31. Cauchy-
 *              Schwarz shows that: 2^16 |a| |b| + K/2 < 2^31, the norms come out
 *              of packing. Tiles where it does not are computed again:
 *   tile_wide  in double, exact below 2^53; beyond, and for inf and NaN,
 *   exact      one by one in 128-bit integers. */
#include <math.h>

#include "k_isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ============================== Vectors =================================== */

/* keep(x, b, t): x where |b| >= t, m = |b| being given; else 0.
 * whole(x): x + copysign(1/2, x) truncated; any number for |x| >= 2^31. */
#if defined(__AVX512F__)
enum { VL = 16, MR = 8 };
typedef __m512 Vec;
typedef __m512i Ints;
#define SA_HAS_FMA 1
SA_INLINE Vec v_splat(float x) { return _mm512_set1_ps(x); }
SA_INLINE Vec v_load(const float *p) { return _mm512_loadu_ps(p); }
SA_INLINE Vec v_and(Vec x, uint32_t bits) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)bits)));
}
SA_INLINE Ints i_fma(Vec a, Vec b, Vec m, Vec t, Vec magic) {
    return _mm512_castps_si512(_mm512_mask3_fmadd_ps(a, b, magic, _mm512_cmp_ps_mask(m, t, _CMP_GE_OQ)));
}
SA_INLINE Ints i_any(Vec a, Vec b, Vec m, Vec t) {
    Vec x = _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(m, t, _CMP_GE_OQ), a, b);
    Ints half = _mm512_ternarylogic_epi32(_mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000u),
                                          _mm512_set1_epi32(0x3f000000), 0xea); /* (x & sign) | 1/2 */
    return _mm512_cvttps_epi32(_mm512_add_ps(x, _mm512_castsi512_ps(half)));
}
SA_INLINE Ints i_add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
SA_INLINE Ints i_splat(int32_t x) { return _mm512_set1_epi32(x); }
SA_INLINE Ints i_load(const void *p) { return _mm512_loadu_si512(p); }
SA_INLINE void i_store(void *p, Ints x) { _mm512_storeu_si512(p, x); }

#elif defined(__AVX2__) && defined(__FMA__)
enum { VL = 8, MR = 4 };
typedef __m256 Vec;
typedef __m256i Ints;
#define SA_HAS_FMA 1
SA_INLINE Vec v_splat(float x) { return _mm256_set1_ps(x); }
SA_INLINE Vec v_load(const float *p) { return _mm256_loadu_ps(p); }
SA_INLINE Vec v_and(Vec x, uint32_t bits) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32((int)bits)));
}
SA_INLINE Vec v_keep(Vec b, Vec m, Vec t) { return _mm256_and_ps(b, _mm256_cmp_ps(m, t, _CMP_GE_OQ)); }
SA_INLINE Ints i_fma(Vec a, Vec b, Vec m, Vec t, Vec magic) {
    return _mm256_castps_si256(_mm256_fmadd_ps(a, v_keep(b, m, t), magic));
}
SA_INLINE Ints i_any(Vec a, Vec b, Vec m, Vec t) {
    Vec x = _mm256_mul_ps(a, v_keep(b, m, t));
    Vec half = _mm256_or_ps(v_and(x, 0x80000000u), _mm256_set1_ps(0.5f));
    return _mm256_cvttps_epi32(_mm256_add_ps(x, half));
}
SA_INLINE Ints i_add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
SA_INLINE Ints i_splat(int32_t x) { return _mm256_set1_epi32(x); }
SA_INLINE Ints i_load(const void *p) { return _mm256_loadu_si256(p); }
SA_INLINE void i_store(void *p, Ints x) { _mm256_storeu_si256(p, x); }

#elif defined(__x86_64__)
enum { VL = 4, MR = 4 };
typedef __m128 Vec;
typedef __m128i Ints;
SA_INLINE Vec v_splat(float x) { return _mm_set1_ps(x); }
SA_INLINE Vec v_load(const float *p) { return _mm_loadu_ps(p); }
SA_INLINE Vec v_and(Vec x, uint32_t bits) { return _mm_and_ps(x, _mm_castsi128_ps(_mm_set1_epi32((int)bits))); }
SA_INLINE Ints i_any(Vec a, Vec b, Vec m, Vec t) {
    Vec x = _mm_mul_ps(a, _mm_and_ps(b, _mm_cmpge_ps(m, t)));
    Vec half = _mm_or_ps(v_and(x, 0x80000000u), _mm_set1_ps(0.5f));
    return _mm_cvttps_epi32(_mm_add_ps(x, half));
}
SA_INLINE Ints i_add(Ints a, Ints b) { return _mm_add_epi32(a, b); }
SA_INLINE Ints i_splat(int32_t x) { return _mm_set1_epi32(x); }
SA_INLINE Ints i_load(const void *p) { return _mm_loadu_si128(p); }
SA_INLINE void i_store(void *p, Ints x) { _mm_storeu_si128(p, x); }

#else /* the compiler's vectors */
enum { VL = 4, MR = 4 };
typedef float Vec __attribute__((vector_size(16), aligned(4)));
typedef uint32_t Ints __attribute__((vector_size(16), aligned(4)));
SA_INLINE Vec v_splat(float x) { return (Vec){x, x, x, x}; }
SA_INLINE Vec v_load(const float *p) { return *(const Vec *)(const void *)p; }
SA_INLINE Vec v_and(Vec x, uint32_t bits) { return (Vec)((Ints)x & bits); }
SA_INLINE Ints i_any(Vec a, Vec b, Vec m, Vec t) {
    Vec x = a * (Vec)((Ints)b & (Ints)(m >= t));
    x += (Vec)(((Ints)x & 0x80000000u) | 0x3f000000u);
    Ints in_range = (Ints)(v_and(x, 0x7fffffffu) < 0x1p31f);
    typedef int32_t Signed __attribute__((vector_size(16), aligned(4)));
    return (Ints)__builtin_convertvector((Vec)((Ints)x & in_range), Signed);
}
SA_INLINE Ints i_add(Ints a, Ints b) { return a + b; }
SA_INLINE Ints i_splat(int32_t x) { return (Ints){0} + (uint32_t)x; }
SA_INLINE Ints i_load(const void *p) { return *(const Ints *)p; }
SA_INLINE void i_store(void *p, Ints x) { *(Ints *)p = x; }
#endif

enum {
    NR = 2 * VL,
    KC = 256,          /* length of a panel */
    NC = 256           /* columns of B packed at once */
};
static const float SMALL = 64.0f;   /* |a b| below it: tile_fma */
static const double SUM_LIMIT = 0x1p31 - 1; /* what int32 holds; the last value is kept for "beyond" */

SA_INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ============================== Tiles ===================================== */

/* Panels: a [k][2][MR], values then what |b| 2^16 must reach; b [k][NR], scaled
 * by 2^16, lowest bit set. c: int32, MR x NR. */
#if SA_HAS_FMA
SA_WIDE static void tile_fma(size_t k, const float *a, const float *b, int32_t *c, size_t ldc, bool add) {
    const Vec magic = v_splat(0x1.8p23f);
    Ints acc[MR][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++)
        acc[i][0] = acc[i][1] = i_splat((int32_t)(0u - (uint32_t)k * 0x4b400000u)); /* bits of `magic`, k times */
    for (size_t p = 0; p < k; p++, a += 2 * MR, b += NR) {
        Vec b0 = v_load(b), b1 = v_load(b + VL), m0 = v_and(b0, 0x7fffffffu), m1 = v_and(b1, 0x7fffffffu);
#pragma clang loop unroll(full)
        for (int i = 0; i < MR; i++) {
            Vec x = v_splat(a[i]), t = v_splat(a[MR + i]);
            acc[i][0] = i_add(acc[i][0], i_fma(x, b0, m0, t, magic));
            acc[i][1] = i_add(acc[i][1], i_fma(x, b1, m1, t, magic));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++, c += ldc) {
        i_store(c, add ? i_add(i_load(c), acc[i][0]) : acc[i][0]);
        i_store(c + VL, add ? i_add(i_load(c + VL), acc[i][1]) : acc[i][1]);
    }
}
#endif

SA_WIDE static void tile_any(size_t k, const float *a, const float *b, int32_t *c, size_t ldc, bool add) {
    Ints acc[MR][2];
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++)
        acc[i][0] = acc[i][1] = i_splat(0);
    for (size_t p = 0; p < k; p++, a += 2 * MR, b += NR) {
        Vec b0 = v_and(v_load(b), ~1u), b1 = v_and(v_load(b + VL), ~1u);
        Vec m0 = v_and(b0, 0x7fffffffu), m1 = v_and(b1, 0x7fffffffu);
#pragma clang loop unroll(full)
        for (int i = 0; i < MR; i++) {
            Vec x = v_splat(a[i]), t = v_splat(a[MR + i]);
            acc[i][0] = i_add(acc[i][0], i_any(x, b0, m0, t));
            acc[i][1] = i_add(acc[i][1], i_any(x, b1, m1, t));
        }
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < MR; i++, c += ldc) {
        i_store(c, add ? i_add(i_load(c), acc[i][0]) : acc[i][0]);
        i_store(c + VL, add ? i_add(i_load(c + VL), acc[i][1]) : acc[i][1]);
    }
}

static void tile(bool small, size_t k, const float *a, const float *b, int32_t *c, size_t ldc, bool add) {
#if SA_HAS_FMA
    if (small) {
        tile_fma(k, a, b, c, ldc, add);
        return;
    }
#endif
    (void)small;
    tile_any(k, a, b, c, ldc, add);
}

/* A tile that sticks out of C: computed beside it, the inner part added. */
static void tile_edge(bool small, size_t k, const float *a, const float *b, int32_t *c, size_t ldc, size_t m, size_t n,
                      bool add) {
    int32_t t[MR * NR];
    tile(small, k, a, b, t, NR, false);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = (int32_t)((uint32_t)t[i * NR + j] + (add ? (uint32_t)c[i * ldc + j] : 0u));
}

/* acc[MR][NR] += in double; exact while sums stay below 2^53. */
SA_WIDE static void tile_wide(size_t k, const float *a, const float *b, double *acc) {
    for (size_t p = 0; p < k; p++, a += 2 * MR, b += NR)
        for (size_t i = 0; i < MR; i++) {
            const float x = a[i], t = a[MR + i];
            double *d = acc + i * NR;
            SA_LOOP for (size_t j = 0; j < NR; j++) {
                float y = sa_float(sa_bits(b[j]) & ~1u);
                double w = (double)x * (double)y;
                w = trunc(w + copysign(0.5, w));
                d[j] += fabsf(y) >= t ? w : 0.0;
            }
        }
}

/* ============================== Packing =================================== */

/* A panel d[k][w], rows `step_d` apart, of a matrix whose element (p, j) lies
 * at s[p * step_p + j * step_j]; only `have` of the w columns exist. */
SA_WIDE static void gather_panel(float *d, size_t step_d, const float *s, size_t step_p, size_t step_j, size_t k,
                                 size_t w, size_t have) {
    if (step_j == 1) {
        for (size_t p = 0; p < k; p++, d += step_d, s += step_p)
            for (size_t j = 0; j < w; j++)
                d[j] = j < have ? s[j] : 0.0f;
        return;
    }
    size_t p = 0;
    if (have == w)
        for (; p + 8 <= k; p += 8) /* eight of each line at once */
            for (size_t j = 0; j < w; j++)
                for (size_t q = 0; q < 8; q++)
                    d[(p + q) * step_d + j] = s[j * step_j + p + q];
    for (; p < k; p++)
        for (size_t j = 0; j < w; j++)
            d[p * step_d + j] = j < have ? s[j * step_j + p] : 0.0f;
}

/* Thresholds; squares[MR] gets the sums of squares. Returns the greatest |a|
 * (inf for NaN). fe is the fp16 exponent + 127; 2^(-16 - exp(a)) times 2^16
 * has the exponent field 254 - fe. */
SA_WIDE static float prepare_a(float *d, size_t k, float *squares) {
    uint32_t top[MR] = {0};
    for (size_t i = 0; i < MR; i++)
        squares[i] = 0.0f;
    for (size_t p = 0; p < k; p++, d += 2 * MR)
        for (size_t i = 0; i < MR; i++) {
            uint32_t u = sa_bits(d[i]) & 0x7fffffffu, fe = u >> 23;
            fe = fe < 113u ? 113u : fe;
            d[MR + i] = sa_float(fe < 125u ? (254u - fe) << 23 : 0u);
            squares[i] += d[i] * d[i];
            top[i] = u > top[i] ? u : top[i];
        }
    uint32_t most = 0;
    for (size_t i = 0; i < MR; i++)
        most = top[i] > most ? top[i] : most;
    return sa_float(most > 0x7f800000u ? 0x7f800000u : most);
}

/* Scale and mark; the same results. */
SA_WIDE static float prepare_b(float *d, size_t k, float *squares) {
    uint32_t top[NR] = {0};
    for (size_t j = 0; j < NR; j++)
        squares[j] = 0.0f;
    for (size_t p = 0; p < k; p++, d += NR)
        for (size_t j = 0; j < NR; j++) {
            uint32_t u = sa_bits(d[j]) & 0x7fffffffu, x = sa_bits(d[j] * 0x1p16f);
            squares[j] += d[j] * d[j];
            top[j] = u > top[j] ? u : top[j];
            d[j] = sa_float(x | (u ? 1u : 0u));
        }
    uint32_t most = 0;
    for (size_t j = 0; j < NR; j++)
        most = top[j] > most ? top[j] : most;
    return sa_float(most > 0x7f800000u ? 0x7f800000u : most);
}

/* One panel of A or B; squares are added to sums[have] in double. */
static float pack_a(float *d, const SaGemmArgs *g, size_t i, size_t have, size_t p0, size_t k, double *sums) {
    float squares[MR];
    const float *s = g->ta ? g->a + p0 * g->lda + i : g->a + i * g->lda + p0;
    gather_panel(d, 2 * MR, s, g->ta ? g->lda : 1, g->ta ? 1 : g->lda, k, MR, have);
    float most = prepare_a(d, k, squares);
    for (size_t r = 0; r < have; r++)
        sums[r] += (double)squares[r];
    return most;
}

static float pack_b(float *d, const SaGemmArgs *g, size_t j, size_t have, size_t p0, size_t k, double *sums) {
    float squares[NR];
    const float *s = g->tb ? g->b + j * g->ldb + p0 : g->b + p0 * g->ldb + j;
    gather_panel(d, NR, s, g->tb ? 1 : g->ldb, g->tb ? g->ldb : 1, k, NR, have);
    float most = prepare_b(d, k, squares);
    for (size_t r = 0; r < have; r++)
        sums[r] += (double)squares[r];
    return most;
}

/* ============================== Results =================================== */

/* The exact y, a multiple of 2^-24, onto fp16. First to float by rounding to
 * odd, which keeps what the second rounding has to know. NaN (a bias) is +inf. */
SA_INLINE float stored(double y) {
    uint64_t u, low = 0x1fffffffu;
    memcpy(&u, &y, sizeof u);
    u = (u & ~low) | (u & low ? low + 1 : 0);
    double odd;
    memcpy(&odd, &u, sizeof odd);
    float f = sa_grid_product((float)odd);
    return y == y ? f : INFINITY;
}

typedef int32_t __attribute__((may_alias)) Int32InFloat;

/* The int32 sums in C become results. */
SA_WIDE static void finish_row(const SaFixedOut *o, float *c, size_t i, size_t j0, size_t n) {
    const Int32InFloat *acc = (const Int32InFloat *)(const void *)c;
    if (o->sums)
        return;
    const float row = o->row_bias ? o->row_bias[i] : 0.0f;
    if (o->raw) {
        double *raw = o->raw + i * o->ld_raw + j0;
        for (size_t j = 0; j < n; j++)
            raw[j] = acc[j];
    } else if (o->column_bias) {
        const float *bias = o->column_bias + j0;
        SA_LOOP for (size_t j = 0; j < n; j++)
            c[j] = stored((double)acc[j] * 0x1p-16 + (double)bias[j]);
    } else {
        SA_LOOP for (size_t j = 0; j < n; j++)
            c[j] = stored((double)acc[j] * 0x1p-16 + (double)row);
    }
}

/* One sum that is too large for int32, or infinite. */
static void finish_one(const SaFixedOut *o, float *c, size_t i, size_t j, double acc) {
    if (o->raw) {
        o->raw[i * o->ld_raw + j] = acc;
        return;
    }
    if (o->sums) {
        *(Int32InFloat *)(void *)c = acc >= SUM_LIMIT ? INT32_MAX : acc <= -SUM_LIMIT ? INT32_MIN : (int32_t)acc;
        return;
    }
    double y = fabs(acc) >= 0x1p31 ? copysign(INFINITY, acc) : acc * 0x1p-16;
    y += o->row_bias ? (double)o->row_bias[i] : o->column_bias ? (double)o->column_bias[j] : 0.0;
    *c = stored(y);
}

/* ============================== Large numbers ============================= */

/* One product as an integer; both finite. */
static int64_t product(float a, float b) {
    int ea, eb;
    (void)frexpf(a, &ea); /* 2^(ea - 1) <= |a| */
    (void)frexpf(b, &eb);
    ea = a == 0.0f || ea < -13 ? -13 : ea;
    eb = b == 0.0f || eb < -13 ? -13 : eb;
    double x = (double)a * (double)b * 0x1p16;
    return ea + eb - 2 < -16 ? 0 : (int64_t)(x + copysign(0.5, x));
}

/* inf and NaN operands count as infinite (times 0: as nothing); terms of both
 * signs give +inf, as probed operations of the engine do with NaN. */
static double exact(const SaGemmArgs *g, size_t i, size_t j) {
    __int128 sum = 0;
    bool plus = false, minus = false;
    for (size_t p = 0; p < g->k; p++) {
        float a = g->ta ? g->a[p * g->lda + i] : g->a[i * g->lda + p];
        float b = g->tb ? g->b[j * g->ldb + p] : g->b[p * g->ldb + j];
        if (isfinite(a) && isfinite(b)) {
            sum += product(a, b);
        } else if (a != 0.0f && b != 0.0f) {
            bool negative = signbit(a) != signbit(b);
            plus |= !negative;
            minus |= negative;
        }
    }
    return plus ? INFINITY : minus ? -INFINITY : (double)sum;
}

/* A tile of C, m x n at (i, j), whose sums int32 cannot hold for certain. */
static void again(const SaGemmArgs *g, const SaFixedOut *o, size_t i, size_t m, size_t j, size_t n, double bound,
                  float *pack) {
    double acc[MR * NR] = {0}, unused[NR];
    bool wide = bound < 0x1p53;
    float *pa = pack, *pb = pack + (size_t)2 * KC * MR;
    for (size_t p0 = 0; wide && p0 < g->k; p0 += KC) {
        size_t k = least(KC, g->k - p0);
        (void)pack_a(pa, g, i, m, p0, k, unused);
        (void)pack_b(pb, g, j, n, p0, k, unused);
        tile_wide(k, pa, pb, acc);
    }
    for (size_t r = 0; r < m; r++)
        for (size_t s = 0; s < n; s++)
            finish_one(o, g->c + (i + r) * g->ldc + j + s, i + r, j + s,
                       wide ? acc[r * NR + s] : exact(g, i + r, j + s));
}

/* ============================== Product =================================== */

/* What lies in `pack`: floats, then the sums of squares as doubles. */
typedef struct {
    float *a, *b;            /* one panel of 2 KC MR; [NC / NR] panels of KC NR */
    double *squares_a;       /* [m] */
    double squares_b[NC];
    float most_b[NC / NR];
} Work;

/* All rows of A, a panel at a time, times the packed block of B. */
static void block(const SaGemmArgs *g, Work *w, size_t j0, size_t n, size_t p0, size_t k) {
    for (size_t i = 0; i < g->m; i += MR) {
        size_t rows = least(MR, g->m - i);
        float most = pack_a(w->a, g, i, rows, p0, k, w->squares_a + i);
        for (size_t j = 0; j < n; j += NR) {
            bool small = most * w->most_b[j / NR] < SMALL;
            int32_t *c = (int32_t *)(void *)(g->c + i * g->ldc + j0 + j);
            if (rows == MR && n - j >= NR)
                tile(small, k, w->a, w->b + j * k, c, g->ldc, p0 > 0);
            else
                tile_edge(small, k, w->a, w->b + j * k, c, g->ldc, rows, least(NR, n - j), p0 > 0);
        }
    }
}

static double greatest(const double *x, size_t n) {
    double most = 0.0;
    for (size_t i = 0; i < n; i++)
        most = x[i] > most || x[i] != x[i] ? x[i] : most; /* NaN stays */
    return most;
}

/* Turn the sums of columns j0 .. j0+n-1 into results. The squares were added
 * in float, at most KC at a time: good to 1 in 10000. */
static void conclude(const SaGemmArgs *g, const SaFixedOut *o, Work *w, size_t j0, size_t n) {
    double half = 0.5 * (double)g->k;
    for (size_t i = 0; i < g->m; i += MR) {
        size_t rows = least(MR, g->m - i);
        double square = greatest(w->squares_a + i, rows);
        double whole = 65536.0 * sqrt(square * greatest(w->squares_b, n) * 1.001) + half;
        if (whole < SUM_LIMIT) {
            for (size_t r = 0; r < rows; r++)
                finish_row(o, g->c + (i + r) * g->ldc + j0, i + r, j0, n);
            continue;
        }
        for (size_t j = 0; j < n; j += NR) {
            size_t columns = least(NR, n - j);
            double bound = 65536.0 * sqrt(square * greatest(w->squares_b + j, columns) * 1.001) + half;
            if (bound < SUM_LIMIT)
                for (size_t r = 0; r < rows; r++)
                    finish_row(o, g->c + (i + r) * g->ldc + j0 + j, i + r, j0 + j, columns);
            else
                again(g, o, i, rows, j0 + j, columns, bound, w->a);
        }
    }
}

static size_t pack_floats(size_t m) { return (size_t)2 * KC * MR + (size_t)KC * NC + 2 * m + 16; }

static void fixed(const SaGemmArgs *g, const SaFixedOut *o, float *pack) {
    Work w = {.a = pack, .b = pack + (size_t)2 * KC * MR};
    w.squares_a = (double *)(void *)(w.b + (size_t)KC * NC);
    size_t parts = g->k ? (g->k + KC - 1) / KC : 1, kc = (g->k + parts - 1) / parts;
    for (size_t j0 = 0; j0 < g->n; j0 += NC) {
        size_t n = least(NC, g->n - j0);
        memset(w.squares_a, 0, g->m * sizeof *w.squares_a);
        memset(w.squares_b, 0, sizeof w.squares_b);
        for (size_t p = 0; p < parts; p++) {
            size_t p0 = p * kc, k = p0 < g->k ? least(kc, g->k - p0) : 0;
            for (size_t j = 0; j < n; j += NR)
                w.most_b[j / NR] = pack_b(w.b + j * k, g, j0 + j, least(NR, n - j), p0, k, w.squares_b + j);
            block(g, &w, j0, n, p0, k);
        }
        conclude(g, o, &w, j0, n);
    }
}

/* ============================== Stores ==================================== */

SA_WIDE static void fixed_store(float *d, const double *acc, float bias, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++) {
        double y = fabs(acc[i]) >= 0x1p31 ? copysign((double)INFINITY, acc[i]) : acc[i] * 0x1p-16;
        d[i] = stored(y + (double)bias);
    }
}

/* Round functions beside those of k_convert.c. NaN becomes +inf under
 * `silicon`: no probed operation of the engine gives NaN, several give +inf. */
SA_INLINE float no_nan(float x) { return x == x ? x : INFINITY; }
SA_INLINE float flushed(float x) { return fabsf(x) < 0x1p-14f ? copysignf(0.0f, x) : x; }

#define SA_DEF_ROUND(name, expression)                                   \
    SA_WIDE static void round_##name(float *d, const float *s, size_t n) { \
        SA_LOOP for (size_t i = 0; i < n; i++) {                         \
            float x = s[i];                                              \
            d[i] = expression;                                           \
        }                                                                \
    }
SA_DEF_ROUND(silicon, no_nan(sa_grid_away(x)))
SA_DEF_ROUND(silicon_product, no_nan(sa_grid_product(x)))
SA_DEF_ROUND(flush, flushed(sa_grid_away(x)))
SA_DEF_ROUND(flush_product, flushed(sa_grid_product(x)))
SA_DEF_ROUND(flush_silicon, no_nan(flushed(sa_grid_away(x))))
SA_DEF_ROUND(flush_silicon_product, no_nan(flushed(sa_grid_product(x))))

void SA_FN(sa_k_fixed)(SaKernels *t);
void SA_FN(sa_k_fixed)(SaKernels *t) {
    t->fixed = fixed;
    t->fixed_pack_floats = pack_floats;
    t->fixed_store = fixed_store;
    t->round[SA_ROUND_SILICON] = round_silicon;
    t->round[SA_ROUND_SILICON_PRODUCT] = round_silicon_product;
    t->round[SA_ROUND_FLUSH] = round_flush;
    t->round[SA_ROUND_FLUSH_PRODUCT] = round_flush_product;
    t->round[SA_ROUND_FLUSH_SILICON] = round_flush_silicon;
    t->round[SA_ROUND_FLUSH_SILICON_PRODUCT] = round_flush_silicon_product;
}
