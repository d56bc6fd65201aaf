// SPDX-License-Identifier: MIT
/* sha256.c - SHA-256 (FIPS 180-4), portable and with the x86 SHA instructions.
 *
 * Hashes program texts and weights for identities; megabytes per compile, so
 * the instructions are used when the processor has them (asked once).
 * Not keyed, not constant-time: identities are no secrets. */
#include "base.h"

#include <string.h>

#if defined(__x86_64__) && !defined(SA_NO_SHA_NI) && (defined(__clang__) || defined(__GNUC__))
#define HAVE_SHA_NI 1
#include <cpuid.h>
#include <immintrin.h>
#endif

/* The first 32 bits of the fractional parts of the cube roots of the first 64
 * primes. */
static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* ============================== Portable ================================== */

/* Rotate right; n in 1 .. 31. */
static uint32_t rotr(uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

static uint32_t load_be(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Mix `blocks` blocks of 64 bytes into h. */
static void mix_portable(uint32_t h[8], const uint8_t *p, size_t blocks) {
    for (; blocks; blocks--, p += 64) {
        uint32_t w[64], s[8];
        for (int i = 0; i < 16; i++)
            w[i] = load_be(p + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ (a >> 3)) + w[i - 7] +
                   (rotr(b, 17) ^ rotr(b, 19) ^ (b >> 10));
        }
        memcpy(s, h, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t e = s[4], a = s[0];
            uint32_t t1 = s[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) +
                          ((e & s[5]) ^ (~e & s[6])) + K[i] + w[i];
            uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) +
                          ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += t1; /* was d */
            s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            h[i] += s[i];
    }
}

/* ============================== x86 SHA =================================== */

#ifdef HAVE_SHA_NI
/* Four rounds take four message words plus constants; the state lies in two
 * registers as ABEF and CDGH, the order the instruction wants. The 16 words
 * of the message live in a ring of four registers. */
__attribute__((target("sha,sse4.1,ssse3")))
static void mix_sha_ni(uint32_t h[8], const uint8_t *p, size_t blocks) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i lo = _mm_loadu_si128((const __m128i *)(const void *)&h[0]); /* A B C D */
    __m128i hi = _mm_loadu_si128((const __m128i *)(const void *)&h[4]); /* E F G H */
    lo = _mm_shuffle_epi32(lo, 0xb1);                                   /* C D A B, high to low */
    hi = _mm_shuffle_epi32(hi, 0x1b);                                   /* E F G H */
    __m128i abef = _mm_alignr_epi8(lo, hi, 8);
    __m128i cdgh = _mm_blend_epi16(hi, lo, 0xf0);

    for (; blocks; blocks--, p += 64) {
        __m128i w[4], abef_in = abef, cdgh_in = cdgh;
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i cur = w[i & 3];
            __m128i wk = _mm_add_epi32(cur, _mm_load_si128((const __m128i *)(const void *)&K[4 * i]));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
            if (i < 12) { /* the words 16 further on replace these */
                __m128i n1 = w[(i + 1) & 3], n2 = w[(i + 2) & 3], n3 = w[(i + 3) & 3];
                __m128i t = _mm_add_epi32(_mm_sha256msg1_epu32(cur, n1), _mm_alignr_epi8(n3, n2, 4));
                w[i & 3] = _mm_sha256msg2_epu32(t, n3);
            }
        }
        abef = _mm_add_epi32(abef, abef_in);
        cdgh = _mm_add_epi32(cdgh, cdgh_in);
    }

    lo = _mm_shuffle_epi32(abef, 0x1b); /* back to A B C D and E F G H */
    hi = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)&h[0], _mm_blend_epi16(lo, hi, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)&h[4], _mm_alignr_epi8(hi, lo, 8));
}

/* SHA, SSSE3 and SSE4.1 present? cpuid is asked directly: the compiler's
 * helper does not know "sha" in the versions we support. */
static bool cpu_has_sha(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 9)) || !(c & (1u << 19)))
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29));
}
#endif

/* Mix whole blocks with the best code for this processor. The answer of cpuid
 * is kept; two threads may both ask, and find the same. */
static void mix(uint32_t h[8], const uint8_t *p, size_t blocks) {
#ifdef HAVE_SHA_NI
    static int kind; /* 0 = not asked, 1 = portable, 2 = instructions */
    int k = __atomic_load_n(&kind, __ATOMIC_RELAXED);
    if (k == 0) {
        k = cpu_has_sha() ? 2 : 1;
        __atomic_store_n(&kind, k, __ATOMIC_RELAXED);
    }
    if (k == 2) {
        mix_sha_ni(h, p, blocks);
        return;
    }
#endif
    mix_portable(h, p, blocks);
}

/* ============================== Interface ================================= */

/* Start a hash. One thread per SaSha256; no memory is owned. */
void sa_sha256_init(SaSha256 *s) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memset(s, 0, sizeof *s);
    memcpy(s->h, start, sizeof start);
}

/* Add bytes; any number of times, any sizes. */
void sa_sha256_update(SaSha256 *s, const void *data, size_t bytes) {
    const uint8_t *p = data;
    if (bytes == 0)
        return;
    s->bytes += bytes;
    if (s->fill) {
        size_t take = 64 - s->fill < bytes ? 64 - s->fill : bytes;
        memcpy(s->block + s->fill, p, take);
        s->fill += take;
        p += take;
        bytes -= take;
        if (s->fill < 64)
            return;
        mix(s->h, s->block, 1);
        s->fill = 0;
    }
    mix(s->h, p, bytes / 64);
    s->fill = bytes % 64;
    memcpy(s->block, p + (bytes - s->fill), s->fill);
}

/* Finish: 32 bytes, big endian. The state must be initialised again for more. */
void sa_sha256_final(SaSha256 *s, uint8_t out[32]) {
    uint64_t bits = s->bytes * 8;
    s->block[s->fill++] = 0x80;
    if (s->fill > 56) {
        memset(s->block + s->fill, 0, 64 - s->fill);
        mix(s->h, s->block, 1);
        s->fill = 0;
    }
    memset(s->block + s->fill, 0, 56 - s->fill);
    for (int i = 0; i < 8; i++)
        s->block[56 + i] = (uint8_t)(bits >> (56 - 8 * i));
    mix(s->h, s->block, 1);
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}
