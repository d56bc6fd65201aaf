// SPDX-License-Identifier: MIT
/* halves.c - _Float16, __fp16 and the functions of arm_neon.h, in plain C. */
#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "check.h"

static _Float16 twice(_Float16 x) { return (_Float16)(x * 2); }

static uint16_t bits(_Float16 h) {
    uint16_t b;
    memcpy(&b, &h, sizeof b);
    return b;
}

static void check_scalars(void) {
    CHECK(sizeof(_Float16) == 2 && sizeof(__fp16) == 2);
    CHECK((float)twice((_Float16)1.25f) == 2.5f);
    CHECK(bits((_Float16)1.0f) == 0x3c00 && bits((_Float16)-2.0f) == 0xc000);
    volatile float tie = 2049, high = 65520, tiny = 2.98023224e-8f, low = 5.9604645e-8f;
    CHECK((float)(_Float16)tie == 2048); /* half to even */
    CHECK(isinf((float)(_Float16)high));
    CHECK((float)(_Float16)tiny == 0 && bits((_Float16)low) == 1);
    volatile double above = 2049.0000001, below = -2048.9999999;
    CHECK((float)(_Float16)above == 2050); /* one rounding, not two */
    CHECK((float)(_Float16)below == -2048);
    __fp16 stored = 0.1f;
    CHECK(fabsf((float)stored - 0.1f) < 1e-4f);
    CHECK(isnan((float)(_Float16)NAN));
}

static void check_vectors(void) {
    float x[8] = {1.5f, -2.25f, 65504, 1e-7f, 0, 7, -8, 9}, y[8];
    float16_t h[8];
    vst1_f16(h, vcvt_f16_f32(vld1q_f32(x)));
    vst1q_f32(y, vcvt_f32_f16(vld1_f16(h)));
    CHECK(y[0] == 1.5f && y[1] == -2.25f && y[2] == 65504 && fabsf(y[3] - 1e-7f) < 3e-8f);
    float16x8_t all = vcombine_f16(vcvt_f16_f32(vld1q_f32(x)), vcvt_f16_f32(vld1q_f32(x + 4)));
    vst1q_f16(h, all);
    CHECK((float)h[7] == 9 && (float)h[0] == 1.5f);
    vst1q_f32(y, vcvt_f32_f16(vget_high_f16(vld1q_f16(h))));
    CHECK(y[1] == 7 && y[2] == -8);
    vst1q_f32(y, vcvt_high_f32_f16(all));
    CHECK(y[3] == 9);
    uint16_t u[4];
    vst1_u16(u, vreinterpret_u16_f16(vdup_n_f16(1.0f)));
    CHECK(u[0] == 0x3c00 && u[3] == 0x3c00);
    vst1q_f32(y, vfmaq_f32(vdupq_n_f32(1), vld1q_f32(x), vdupq_n_f32(2)));
    CHECK(y[0] == 4 && y[1] == -3.5f);
    CHECK(vaddvq_f32(vld1q_f32(x + 4)) == 8 && vmaxvq_f32(vld1q_f32(x + 4)) == 9);
    CHECK(vaddvq_f32(vmaxq_f32(vld1q_f32(x + 4), vdupq_n_f32(0))) == 16);
    CHECK(vaddvq_f32(vminq_f32(vld1q_f32(x + 4), vdupq_n_f32(0))) == -8);
    CHECK(vaddvq_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(x + 4), vdupq_n_f32(1)), 2)) == 8);
    float32x4x2_t pairs = vld2q_f32(x);
    CHECK(pairs.val[0][1] == 65504 && pairs.val[1][3] == 9);
    CHECK(vcvtq_f32_s32(vcvtq_s32_f32(vdupq_n_f32(-3.7f)))[2] == -3);
}

int main(void) {
    check_scalars();
    check_vectors();
    return check_verdict();
}
