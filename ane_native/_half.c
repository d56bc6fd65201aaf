// SPDX-License-Identifier: MIT
/* _half.c - fp32 <-> fp16 for whole arrays, and the choice of instructions.
 *
 * The rows themselves are in _half.h, so that other loops can inline them. The
 * functions here run on the calling thread: one thread nearly fills the memory
 * bus, and the bake that uses them has a queue of its own. */
#include "_half.h"

#include <stdlib.h>

#include "_cpu.h"
#if ANE_X86
#include <cpuid.h>
#endif

/* ============================== Instruction sets ========================== */

#if ANE_X86

/* Which register halves the operating system saves: bits of XCR0. */
static uint32_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Feature bits are read here rather than by __builtin_cpu_supports, which does
 * not know F16C in every compiler we accept. */
static int detect(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return ANE_ISA_BASE;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned need = fma | osxsave | avx | f16c;
    if ((c & need) != need) return ANE_ISA_BASE;
    const uint32_t state = saved_state();
    if ((state & 0x06u) != 0x06u) return ANE_ISA_BASE; /* XMM and YMM */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return ANE_ISA_BASE;
    if (!(b & (1u << 5))) return ANE_ISA_BASE; /* AVX2 */
    /* AVX512 F, DQ, BW, VL; and the mask and upper registers saved. */
    const unsigned wide = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
    if ((b & wide) == wide && (state & 0xE6u) == 0xE6u) return ANE_ISA_AVX512;
    return ANE_ISA_AVX2;
}

#else

static int detect(void) { return ANE_ISA_BASE; }

#endif

int ane_isa(void) {
    static int cached; /* 0: not known yet, else set + 1; every thread computes the same */
    const int known = __atomic_load_n(&cached, __ATOMIC_RELAXED);
    if (known) return known - 1;
    int isa = detect();
    const char *wish = getenv("ANE_NATIVE_ISA");
    if (wish && !strcmp(wish, "base")) isa = ANE_ISA_BASE;
    if (wish && !strcmp(wish, "avx2") && isa > ANE_ISA_AVX2) isa = ANE_ISA_AVX2;
    __atomic_store_n(&cached, isa + 1, __ATOMIC_RELAXED);
    return isa;
}

/* ============================== Arrays ==================================== */

/* out_f16[i] = in[i] rounded to nearest even. NULL with count 0 is fine. Any thread. */
void ane_cpu_half_from_float(const float *in, uint16_t *out_f16, size_t count) {
    if (!in || !out_f16) return;
#if ANE_X86
    if (ane_isa() == ANE_ISA_AVX512) {
        ane_row_to_half_avx512(in, out_f16, count);
        return;
    }
    if (ane_isa() == ANE_ISA_AVX2) {
        ane_row_to_half_avx2(in, out_f16, count);
        return;
    }
#endif
    ane_row_to_half_base(in, out_f16, count);
}

/* out[i] = in_f16[i], exactly. NULL with count 0 is fine. Any thread. */
void ane_cpu_float_from_half(const uint16_t *in_f16, float *out, size_t count) {
    if (!in_f16 || !out) return;
#if ANE_X86
    if (ane_isa() == ANE_ISA_AVX512) {
        ane_row_from_half_avx512(in_f16, out, count);
        return;
    }
    if (ane_isa() == ANE_ISA_AVX2) {
        ane_row_from_half_avx2(in_f16, out, count);
        return;
    }
#endif
    ane_row_from_half_base(in_f16, out, count);
}

uint16_t ane_cpu_half_peak(const uint16_t *in_f16, size_t count) {
    uint16_t peak = 0;
    for (size_t i = 0; i < count; i++) {
        const uint16_t magnitude = in_f16[i] & 0x7FFFu;
        if (magnitude > peak) peak = magnitude;
    }
    return peak;
}

/* ============================== The bake ================================== */

/* out[c][r] = in[r][c] for an 8 x 8 block of halves. */
static void transpose8(const uint16_t *in, size_t in_step, uint16_t *out, size_t out_step) {
#if ANE_X86
    __m128i r[8], s[8];
    for (size_t i = 0; i < 8; i++) r[i] = _mm_loadu_si128((const __m128i *)(const void *)(in + i * in_step));
    for (int i = 0; i < 4; i++) {
        s[i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        s[i + 4] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) { /* s[2i], s[2i+1]: rows 0-3 and 4-7 of a half of the columns */
        r[i] = _mm_unpacklo_epi32(s[2 * i], s[2 * i + 1]);
        r[i + 4] = _mm_unpackhi_epi32(s[2 * i], s[2 * i + 1]);
    }
    /* r[0], r[1]: columns 0 1 of rows 0-3, 4-7; r[4], r[5]: columns 2 3; r[2], r[3]: 4 5; r[6], r[7]: 6 7 */
    static const int low[4] = {0, 4, 2, 6};
    for (size_t i = 0; i < 4; i++) {
        const int a = low[i];
        _mm_storeu_si128((__m128i *)(void *)(out + 2 * i * out_step), _mm_unpacklo_epi64(r[a], r[a + 1]));
        _mm_storeu_si128((__m128i *)(void *)(out + (2 * i + 1) * out_step), _mm_unpackhi_epi64(r[a], r[a + 1]));
    }
#else
    for (size_t i = 0; i < 8; i++)
        for (size_t j = 0; j < 8; j++) out[i * out_step + j] = in[j * in_step + i];
#endif
}

void ane_cpu_bake_plain(const float *weight, float factor, uint16_t *half_f16, size_t count) {
    enum { RUN = 1024 };
    float scaled[RUN];
    if (factor == 1.0f) {
        ane_cpu_half_from_float(weight, half_f16, count);
        return;
    }
    for (size_t at = 0; at < count; at += RUN) {
        const size_t n = count - at < RUN ? count - at : RUN;
        for (size_t i = 0; i < n; i++) scaled[i] = weight[at + i] * factor;
        ane_cpu_half_from_float(scaled, half_f16 + at, n);
    }
}

enum { TILE = 64 }; /* rows and columns that are turned at a time */

/* nr rows and nc columns over the diagonal, in blocks of 8 x 8. */
static void transpose_tile(const uint16_t *in, size_t in_step, size_t nr, size_t nc, uint16_t *out, size_t out_step) {
    for (size_t c = 0; c < nc; c += 8)
        for (size_t r = 0; r < nr; r += 8) {
            if (c + 8 <= nc && r + 8 <= nr) {
                transpose8(in + r * in_step + c, in_step, out + c * out_step + r, out_step);
                continue;
            }
            for (size_t i = 0; i < 8 && c + i < nc; i++)
                for (size_t j = 0; j < 8 && r + j < nr; j++) out[(c + i) * out_step + r + j] = in[(r + j) * in_step + c + i];
        }
}

/* Tiles go to fp16 in a local array first. */
void ane_cpu_bake_transposed(const float *weight, float factor, uint16_t *half_f16, size_t rows, size_t cols, size_t row, size_t n) {
    uint16_t tile[TILE * TILE];
    for (size_t r0 = row; r0 < row + n; r0 += TILE) {
        const size_t nr = row + n - r0 < TILE ? row + n - r0 : TILE;
        for (size_t c0 = 0; c0 < cols; c0 += TILE) {
            const size_t nc = cols - c0 < TILE ? cols - c0 : TILE;
            for (size_t i = 0; i < nr; i++) ane_cpu_bake_plain(weight + (r0 + i) * cols + c0, factor, tile + i * TILE, nc);
            transpose_tile(tile, TILE, nr, nc, half_f16 + c0 * rows + r0, rows);
        }
    }
}

void ane_cpu_transpose_half(const uint16_t *weight_f16, uint16_t *half_f16, size_t rows, size_t cols, size_t row, size_t n) {
    for (size_t r0 = row; r0 < row + n; r0 += TILE)
        for (size_t c0 = 0; c0 < cols; c0 += TILE)
            transpose_tile(weight_f16 + r0 * cols + c0, cols, row + n - r0 < TILE ? row + n - r0 : TILE,
                           cols - c0 < TILE ? cols - c0 : TILE, half_f16 + c0 * rows + r0, rows);
}
