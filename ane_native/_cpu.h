// SPDX-License-Identifier: MIT
/* _cpu.h - what _cpu.c lends to the other C files: its loops for the instruction set
 * at hand. Arguments are what the caller has checked; nothing here allocates or waits. */
#ifndef ANE_NATIVE_CPU_H
#define ANE_NATIVE_CPU_H

#include "_core.h"

/* Numbers of one AdamW update, the same for all its elements. */
typedef struct {
    float lr, beta1, beta2, eps, grad_scale;
    float extrapolate; /* updates that AneAdamTensor.ahead looks ahead */
    float rate;   /* lr / (1 - beta1^step) */
    float unbias; /* 1 / sqrt(1 - beta2^step) */
} AneAdamStep;

AneAdamStep ane_cpu_adam_step(float lr, float beta1, float beta2, float eps, int64_t step, float grad_scale, float extrapolate);

/* Elements [begin, end) of one tensor, one pass over memory. `half_f16` (or NULL) also
 * receives what is baked as fp16: what t->ahead or t->ahead_f16 do, or the new masters without them; `zero` (or NULL; it may be t->g) is set to 0. Each
 * element depends on its own index alone: any cut gives the same bits. */
void ane_cpu_adam_range(const AneAdamTensor *t, size_t begin, size_t end, const AneAdamStep *s, uint16_t *half_f16, float *zero);

/* The checks of one tensor that ane_cpu_adamw makes; `i` is for the message. */
int ane_cpu_adam_check(const AneAdamTensor *t, int32_t i, AneError *err);

/* The bake: factor (a power of two, so the product is exact) times each element, rounded to
 * nearest even. Transposed: rows [row, row + n) of weight [rows, cols] -> columns of half [cols, rows]. */
void ane_cpu_bake_plain(const float *weight, float factor, uint16_t *half_f16, size_t count);
void ane_cpu_bake_transposed(const float *weight, float factor, uint16_t *half_f16, size_t rows, size_t cols, size_t row, size_t n);
/* The same of a weight that has been rounded. */
void ane_cpu_transpose_half(const uint16_t *weight_f16, uint16_t *half_f16, size_t rows, size_t cols, size_t row, size_t n);

/* Sum of squares by the same cuts and in the same order as ane_cpu_sum_squares, on this
 * thread, calling pause(context) between cuts. */
double ane_cpu_sum_squares_here(const float *x, size_t count, void (*pause)(void *), void *context);

#endif
