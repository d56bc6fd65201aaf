// SPDX-License-Identifier: MIT
/* arm_neon.h - on x86-64: the vector types and functions that programs for the
 * engine use, mostly to convert between floats and halves. On aarch64 this is
 * the compiler's own header. Written with vector extensions: what the compiler
 * makes of them depends on -march. */
#if defined(__aarch64__)
#include_next <arm_neon.h>
#else
#ifndef SOFTANE_SDK_ARM_NEON_H
#define SOFTANE_SDK_ARM_NEON_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SDK_FN static inline __attribute__((always_inline, unused))

typedef __fp16 float16_t;
typedef float float32_t;
typedef double float64_t;
typedef float32_t float32x2_t __attribute__((vector_size(8)));
typedef float32_t float32x4_t __attribute__((vector_size(16)));
typedef float64_t float64x2_t __attribute__((vector_size(16)));
typedef float16_t float16x4_t __attribute__((vector_size(8)));
typedef float16_t float16x8_t __attribute__((vector_size(16)));
typedef int8_t int8x16_t __attribute__((vector_size(16)));
typedef uint8_t uint8x16_t __attribute__((vector_size(16)));
typedef int16_t int16x4_t __attribute__((vector_size(8)));
typedef int16_t int16x8_t __attribute__((vector_size(16)));
typedef uint16_t uint16x4_t __attribute__((vector_size(8)));
typedef uint16_t uint16x8_t __attribute__((vector_size(16)));
typedef int32_t int32x4_t __attribute__((vector_size(16)));
typedef uint32_t uint32x4_t __attribute__((vector_size(16)));
typedef struct {
    float32x4_t val[2];
} float32x4x2_t;

/* ============================== Load, store, fill ========================= */

#define SDK_MEMORY(vec, scalar, q, suffix) \
    SDK_FN vec vld1##q##_##suffix(const scalar *p) { vec v; memcpy(&v, p, sizeof v); return v; } \
    SDK_FN void vst1##q##_##suffix(scalar *p, vec v) { memcpy(p, &v, sizeof v); } \
    SDK_FN vec vdup##q##_n_##suffix(scalar x) { \
        scalar a[sizeof(vec) / sizeof(scalar)]; \
        for (unsigned i = 0; i < sizeof(vec) / sizeof(scalar); i++) a[i] = x; \
        vec v; memcpy(&v, a, sizeof v); return v; \
    }
SDK_MEMORY(float32x4_t, float32_t, q, f32)
SDK_MEMORY(float32x2_t, float32_t, , f32)
SDK_MEMORY(float64x2_t, float64_t, q, f64)
SDK_MEMORY(int16x4_t, int16_t, , s16)
SDK_MEMORY(int16x8_t, int16_t, q, s16)
SDK_MEMORY(uint16x4_t, uint16_t, , u16)
SDK_MEMORY(uint16x8_t, uint16_t, q, u16)
SDK_MEMORY(int32x4_t, int32_t, q, s32)
SDK_MEMORY(uint32x4_t, uint32_t, q, u32)
SDK_MEMORY(int8x16_t, int8_t, q, s8)
SDK_MEMORY(uint8x16_t, uint8_t, q, u8)

/* Halves are passed by bits: a parameter of type __fp16 is not allowed everywhere. */
SDK_FN float16x4_t vld1_f16(const float16_t *p) { float16x4_t v; memcpy(&v, p, sizeof v); return v; }
SDK_FN float16x8_t vld1q_f16(const float16_t *p) { float16x8_t v; memcpy(&v, p, sizeof v); return v; }
SDK_FN void vst1_f16(float16_t *p, float16x4_t v) { memcpy(p, &v, sizeof v); }
SDK_FN void vst1q_f16(float16_t *p, float16x8_t v) { memcpy(p, &v, sizeof v); }
SDK_FN float16x4_t vdup_n_f16(float x) { float16_t h = (float16_t)x; return (float16x4_t){h, h, h, h}; }
SDK_FN float16x8_t vdupq_n_f16(float x) { float16_t h = (float16_t)x; return (float16x8_t){h, h, h, h, h, h, h, h}; }
#define vmovq_n_f32 vdupq_n_f32
#define vmovq_n_f16 vdupq_n_f16

/* ============================== Halves and floats ========================= */

SDK_FN float16x4_t vcvt_f16_f32(float32x4_t v) {
    return (float16x4_t){(float16_t)v[0], (float16_t)v[1], (float16_t)v[2], (float16_t)v[3]};
}
SDK_FN float32x4_t vcvt_f32_f16(float16x4_t v) { return (float32x4_t){(float)v[0], (float)v[1], (float)v[2], (float)v[3]}; }
SDK_FN float16x4_t vget_low_f16(float16x8_t v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
SDK_FN float16x4_t vget_high_f16(float16x8_t v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }
SDK_FN float16x8_t vcombine_f16(float16x4_t a, float16x4_t b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7); }
SDK_FN float16x8_t vcvt_high_f16_f32(float16x4_t low, float32x4_t v) { return vcombine_f16(low, vcvt_f16_f32(v)); }
SDK_FN float32x4_t vcvt_high_f32_f16(float16x8_t v) { return vcvt_f32_f16(vget_high_f16(v)); }

#define SDK_REINTERPRET(to, from, q, a, b) \
    SDK_FN to vreinterpret##q##_##a##_##b(from x) { to v; memcpy(&v, &x, sizeof v); return v; }
SDK_REINTERPRET(float16x4_t, uint16x4_t, , f16, u16)
SDK_REINTERPRET(uint16x4_t, float16x4_t, , u16, f16)
SDK_REINTERPRET(float16x8_t, uint16x8_t, q, f16, u16)
SDK_REINTERPRET(uint16x8_t, float16x8_t, q, u16, f16)
SDK_REINTERPRET(float32x4_t, uint32x4_t, q, f32, u32)
SDK_REINTERPRET(uint32x4_t, float32x4_t, q, u32, f32)
SDK_REINTERPRET(float32x4_t, int32x4_t, q, f32, s32)
SDK_REINTERPRET(int32x4_t, float32x4_t, q, s32, f32)

/* ============================== Arithmetic ================================ */

SDK_FN float32x4_t vaddq_f32(float32x4_t a, float32x4_t b) { return a + b; }
SDK_FN float32x4_t vsubq_f32(float32x4_t a, float32x4_t b) { return a - b; }
SDK_FN float32x4_t vmulq_f32(float32x4_t a, float32x4_t b) { return a * b; }
SDK_FN float32x4_t vdivq_f32(float32x4_t a, float32x4_t b) { return a / b; }
SDK_FN float32x4_t vnegq_f32(float32x4_t a) { return -a; }
SDK_FN float32x4_t vmulq_n_f32(float32x4_t a, float b) { return a * vdupq_n_f32(b); }
SDK_FN float32x4_t vmlaq_f32(float32x4_t c, float32x4_t a, float32x4_t b) { return c + a * b; }
SDK_FN float32x4_t vmlsq_f32(float32x4_t c, float32x4_t a, float32x4_t b) { return c - a * b; }
SDK_FN float32x4_t vfmaq_f32(float32x4_t c, float32x4_t a, float32x4_t b) {
    return (float32x4_t){fmaf(a[0], b[0], c[0]), fmaf(a[1], b[1], c[1]), fmaf(a[2], b[2], c[2]), fmaf(a[3], b[3], c[3])};
}
SDK_FN float32x4_t vfmsq_f32(float32x4_t c, float32x4_t a, float32x4_t b) { return vfmaq_f32(c, -a, b); }
SDK_FN float32x4_t vfmaq_n_f32(float32x4_t c, float32x4_t a, float b) { return vfmaq_f32(c, a, vdupq_n_f32(b)); }
SDK_FN float32x4_t vmlaq_n_f32(float32x4_t c, float32x4_t a, float b) { return c + a * vdupq_n_f32(b); }
SDK_FN float32x4_t vsqrtq_f32(float32x4_t a) { return (float32x4_t){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
SDK_FN float32x4_t vabsq_f32(float32x4_t a) { return (float32x4_t){fabsf(a[0]), fabsf(a[1]), fabsf(a[2]), fabsf(a[3])}; }
SDK_FN float32x4_t vmaxq_f32(float32x4_t a, float32x4_t b) {
    for (int i = 0; i < 4; i++)
        a[i] = a[i] > b[i] || a[i] != a[i] ? a[i] : b[i];
    return a;
}
SDK_FN float32x4_t vminq_f32(float32x4_t a, float32x4_t b) {
    for (int i = 0; i < 4; i++)
        a[i] = a[i] < b[i] || a[i] != a[i] ? a[i] : b[i];
    return a;
}
SDK_FN float vaddvq_f32(float32x4_t a) { return (a[0] + a[1]) + (a[2] + a[3]); }
SDK_FN float vmaxvq_f32(float32x4_t a) { return fmaxf(fmaxf(a[0], a[1]), fmaxf(a[2], a[3])); }
SDK_FN float vminvq_f32(float32x4_t a) { return fminf(fminf(a[0], a[1]), fminf(a[2], a[3])); }
SDK_FN float32x4_t vcvtq_f32_s32(int32x4_t a) { return (float32x4_t){(float)a[0], (float)a[1], (float)a[2], (float)a[3]}; }
SDK_FN int32x4_t vcvtq_s32_f32(float32x4_t a) {
    return (int32x4_t){(int32_t)a[0], (int32_t)a[1], (int32_t)a[2], (int32_t)a[3]};
}
SDK_FN float32x2_t vget_low_f32(float32x4_t a) { return __builtin_shufflevector(a, a, 0, 1); }
SDK_FN float32x2_t vget_high_f32(float32x4_t a) { return __builtin_shufflevector(a, a, 2, 3); }
SDK_FN float32x4_t vcombine_f32(float32x2_t a, float32x2_t b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3); }
SDK_FN float32x4x2_t vld2q_f32(const float *p) {
    float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4);
    return (float32x4x2_t){{__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(a, b, 1, 3, 5, 7)}};
}
#define vgetq_lane_f32(v, i) ((v)[i])
#define vgetq_lane_u16(v, i) ((v)[i])
#define vget_lane_u16(v, i) ((v)[i])

#undef SDK_MEMORY
#undef SDK_REINTERPRET
#undef SDK_FN
#endif
#endif
