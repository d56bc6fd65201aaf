// SPDX-License-Identifier: MIT
/* k_convert.c - fp16 <-> fp32 and rounding onto the fp16 grid, in vectors.
 *
 * Bit-equal to the scalar definitions in base/half.c (tests compare all
 * halves and, on request, all floats). Rounding is done on the float's bits;
 * what is left for the conversion instruction is exact. */
#include "k_isa.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

/* ============================== fp16 -> fp32 ============================== */

/* Shifted into place, the bits are the value times 2^-112; the product is
 * exact, subnormals included. Only inf and NaN need their exponent set. */
SA_INLINE float half_bits_to_float(uint16_t h) {
    uint32_t m = (uint32_t)(h & 0x7fffu) << 13, s = (uint32_t)(h & 0x8000u) << 16;
    uint32_t r = sa_bits(sa_float(m) * 0x1p112f);
    r = m >= 0x0f800000u ? (m | 0x7f800000u) : r;
    r = m > 0x0f800000u ? (r | 0x400000u) : r;
    return sa_float(r | s);
}

static void half_to_float(float *d, const uint16_t *s, size_t n) {
    size_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm512_storeu_ps(d + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(s + i))));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(s + i))));
#endif
    SA_LOOP for (size_t j = i; j < n; j++)
        d[j] = half_bits_to_float(s[j]);
}

/* ============================== fp32 -> fp16 ============================== */

/* A float that is on the fp16 grid, as fp16 bits. Exact. */
SA_INLINE uint16_t grid_to_half_bits(float x) {
    uint32_t u = sa_bits(x), s = (u >> 16) & 0x8000u, m = u & 0x7fffffffu;
    float small = sa_float(m) < 0x1p-14f ? sa_float(m) : 0.0f;
    uint32_t sub = (uint32_t)(int32_t)(small * 0x1p24f);
    uint32_t r = (m >> 13) - (112u << 10);
    r = m < 0x38800000u ? sub : r;
    r = m == 0x7f800000u ? 0x7c00u : r;
    r = m > 0x7f800000u ? (0x7e00u | ((m >> 13) & 0x3ffu)) : r;
    return (uint16_t)(r | s);
}

#define SA_TO_HALF(name, grid)                                                                              \
    static void name(uint16_t *d, const float *s, size_t n) {                                               \
        enum { BLOCK = 512 };                                                                               \
        float t[BLOCK];                                                                                     \
        for (size_t at = 0; at < n; at += BLOCK) {                                                          \
            size_t k = n - at < BLOCK ? n - at : BLOCK;                                                     \
            SA_LOOP for (size_t i = 0; i < k; i++)                                                          \
                t[i] = grid(s[at + i]);                                                                     \
            grid_to_half(d + at, t, k);                                                                     \
        }                                                                                                   \
    }

static void grid_to_half(uint16_t *d, const float *s, size_t n) {
    size_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(void *)(d + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(d + i), _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    SA_LOOP for (size_t j = i; j < n; j++)
        d[j] = grid_to_half_bits(s[j]);
}

SA_TO_HALF(half_away, sa_grid_away)

/* Half to even is what the instruction does by itself. */
#if defined(__F16C__)
static void half_even(uint16_t *d, const float *s, size_t n) {
    size_t whole = n & ~(size_t)15;
    grid_to_half(d, s, whole);
    for (size_t i = whole; i < n; i++)
        d[i] = grid_to_half_bits(sa_grid_even(s[i]));
}
#else
SA_TO_HALF(half_even, sa_grid_even)
#endif

/* ============================== Lookup ==================================== */

#if defined(__F16C__) && !defined(__AVX512F__)
/* Loads one by one: the gather instruction is slower here, and would need 32 bits. */
static void lookup(float *d, const float *s, const uint16_t *table, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT), r;
        uint64_t a = (uint64_t)_mm_cvtsi128_si64(h), b = (uint64_t)_mm_extract_epi64(h, 1);
        r = _mm_cvtsi32_si128(table[a & 0xffff]);
        r = _mm_insert_epi16(r, table[a >> 16 & 0xffff], 1);
        r = _mm_insert_epi16(r, table[a >> 32 & 0xffff], 2);
        r = _mm_insert_epi16(r, table[a >> 48], 3);
        r = _mm_insert_epi16(r, table[b & 0xffff], 4);
        r = _mm_insert_epi16(r, table[b >> 16 & 0xffff], 5);
        r = _mm_insert_epi16(r, table[b >> 32 & 0xffff], 6);
        r = _mm_insert_epi16(r, table[b >> 48], 7);
        _mm256_storeu_ps(d + i, _mm256_cvtph_ps(r));
    }
    for (; i < n; i++)
        d[i] = half_bits_to_float(table[grid_to_half_bits(s[i])]);
}
#endif

/* ============================== On the grid =============================== */

static void round_none(float *d, const float *s, size_t n) {
    if (d != s)
        memmove(d, s, n * sizeof *d);
}

SA_WIDE static void round_away(float *d, const float *s, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++)
        d[i] = sa_grid_away(s[i]);
}

SA_WIDE static void round_even(float *d, const float *s, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++)
        d[i] = sa_grid_even(s[i]);
}

SA_WIDE static void round_product(float *d, const float *s, size_t n) {
    SA_LOOP for (size_t i = 0; i < n; i++)
        d[i] = sa_grid_product(s[i]);
}

void SA_FN(sa_k_convert)(SaKernels *t);
void SA_FN(sa_k_convert)(SaKernels *t) {
    t->half_to_float = half_to_float;
    t->half_away = half_away;
    t->half_even = half_even;
#if defined(__F16C__) && !defined(__AVX512F__)
    t->lookup = lookup;
#endif
    t->round[SA_ROUND_NONE] = round_none;
    t->round[SA_ROUND_AWAY] = round_away;
    t->round[SA_ROUND_EVEN] = round_even;
    t->round[SA_ROUND_PRODUCT] = round_product;
}
