// SPDX-License-Identifier: MIT
/* _cpu_loops.h - the inner loops of _cpu.c, compiled once per instruction set.
 *
 * Not a header in the usual sense: _cpu.c includes it with ANE_SUFFIX set to
 * base, avx2 and avx512. The text is plain C that compilers vectorise; the suffix
 * picks the target attribute and the row conversions of _half.h. Loops work on
 * short local arrays because those cannot overlap anything: no run-time checks,
 * and masters may be updated in place.
 *
 * Sums keep the same order on every run: 16 lanes, folded once at the end.
 *
 * Letters: D channels, T tokens, V vocabulary; matrices are [rows, T]. */

#define ANE_CAT2(a, b) a##b
#define ANE_CAT(a, b) ANE_CAT2(a, b)
#define ANE_FN(name) ANE_CAT(name, ANE_SUFFIX)
#define ANE_LOOP ANE_CAT(ANE_TARGET_, ANE_SUFFIX) static

/* ============================== Small parts =============================== */

/* out[i] = sqrt(x[i]) for LOOP_BLOCK elements. By intrinsics, because sqrtf may set
 * errno and is then not vectorised. */
ANE_LOOP inline void ANE_FN(row_sqrt_)(const float *x, float *out) {
#if ANE_LOOP_WIDTH == 16
    for (int i = 0; i < LOOP_BLOCK; i += 16) _mm512_storeu_ps(out + i, _mm512_sqrt_ps(_mm512_loadu_ps(x + i)));
#elif ANE_LOOP_WIDTH == 8
    for (int i = 0; i < LOOP_BLOCK; i += 8) _mm256_storeu_ps(out + i, _mm256_sqrt_ps(_mm256_loadu_ps(x + i)));
#elif ANE_X86
    for (int i = 0; i < LOOP_BLOCK; i += 4) _mm_storeu_ps(out + i, _mm_sqrt_ps(_mm_loadu_ps(x + i)));
#elif defined(__aarch64__)
    for (int i = 0; i < LOOP_BLOCK; i += 4) vst1q_f32(out + i, vsqrtq_f32(vld1q_f32(x + i)));
#else
    for (int i = 0; i < LOOP_BLOCK; i++) out[i] = sqrtf(x[i]);
#endif
}

/* e^x for x <= 0, relative error below 2e-7; below -87.3 the smallest normal
 * number. A NaN stays one. x is split into n ln 2 + r, |r| <= ln 2 / 2: adding
 * 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
ANE_LOOP inline float ANE_FN(exp_neg_)(float x) {
    const float magic = 12582912.0f;
    const float z = x < -87.33654f ? -87.33654f : x;
    const float shifted = z * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (z - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * ane_float_of_bits((ane_bits_of_float(shifted) + 127u) << 23);
}

ANE_LOOP inline double ANE_FN(fold_)(const double lanes[16]) {
    double sum = 0.0;
    for (int j = 0; j < 16; j++) sum += lanes[j];
    return sum;
}

/* ============================== Sums ====================================== */

/* Sum of squares in float64: no finite float can overflow it, so the result is
 * finite exactly when all of x is. */
ANE_LOOP double ANE_FN(sum_squares_)(const float *x, size_t n) {
    double lanes[16] = {0};
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 16; j++) lanes[j] += (double)x[i + (size_t)j] * (double)x[i + (size_t)j];
    }
    for (int j = 0; i < n; i++, j++) lanes[j] += (double)x[i] * (double)x[i];
    return ANE_FN(fold_)(lanes);
}

/* dw[o] += factor sum_t dy[o,t] x[o,t] for rows o: products in fp32, sums in float64. */
ANE_LOOP void ANE_FN(gain_rows_)(const uint16_t *dy, const uint16_t *x, float *dw, size_t rows, size_t count,
                                  float factor) {
    float a[LOOP_BLOCK], b[LOOP_BLOCK];
    for (size_t o = 0; o < rows; o++) {
        double lanes[16] = {0};
        for (size_t t = 0; t < count; t += LOOP_BLOCK) {
            const size_t n = count - t < LOOP_BLOCK ? count - t : LOOP_BLOCK;
            ANE_FN(ane_row_from_half_)(dy + o * count + t, a, n);
            ANE_FN(ane_row_from_half_)(x + o * count + t, b, n);
            for (size_t i = n; i % 16; i++) a[i] = b[i] = 0.0f; /* LOOP_BLOCK is a multiple of 16 */
            for (size_t i = 0; i < n; i += 16) {
                for (size_t j = 0; j < 16; j++) lanes[j] += (double)(a[i + j] * b[i + j]);
            }
        }
        dw[o] += factor * (float)ANE_FN(fold_)(lanes);
    }
}

/* ============================== AdamW ===================================== */

/* Elements [begin, end) of one tensor, one pass:
 *   m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
 *   p_out = keep p_in - rate m / (sqrt(v) unbias + eps), ahead = p_out + extrapolate (p_out - p_in),
 *   ahead_f16 and half_f16 = fp16 of ahead, or of p_out where neither is wanted, zero = 0.
 * Without extrapolation ahead is p_out to the bit: no sum turns -0 into 0. */
ANE_LOOP void ANE_FN(adam_)(const AneAdamTensor *tensor, size_t begin, size_t end, const AneAdamStep *s, uint16_t *half_f16,
                            float *zero) {
    const float keep = 1.0f - s->lr * tensor->weight_decay;
    const float b1 = s->beta1, b2 = s->beta2, c1 = 1.0f - b1, c2 = 1.0f - b2;
    const float rate = s->rate, unbias = s->unbias, eps = s->eps, scale = s->grad_scale;
    const float *const m_in = tensor->m_in ? tensor->m_in : tensor->m, *const v_in = tensor->v_in ? tensor->v_in : tensor->v;
    const float by = s->extrapolate;
    const int predict = by > 0.0f && (tensor->ahead || tensor->ahead_f16);
    /* The last block may be short: the local arrays are whole, zeros are harmless. */
    float before[LOOP_BLOCK] = {0}, p[LOOP_BLOCK], m[LOOP_BLOCK] = {0}, v[LOOP_BLOCK] = {0}, g[LOOP_BLOCK] = {0}, root[LOOP_BLOCK];
    for (size_t at = begin; at < end; at += LOOP_BLOCK) {
        const size_t n = end - at < LOOP_BLOCK ? end - at : LOOP_BLOCK;
        const size_t bytes = n * sizeof(float);
        memcpy(before, tensor->p_in + at, bytes);
        memcpy(m, m_in + at, bytes);
        memcpy(v, v_in + at, bytes);
        memcpy(g, tensor->g + at, bytes);
        for (int i = 0; i < LOOP_BLOCK; i++) {
            const float scaled = g[i] * scale;
            m[i] = b1 * m[i] + c1 * scaled;
            v[i] = b2 * v[i] + c2 * (scaled * scaled);
        }
        ANE_FN(row_sqrt_)(v, root);
        for (int i = 0; i < LOOP_BLOCK; i++) p[i] = keep * before[i] - rate * m[i] / (root[i] * unbias + eps);
        memcpy(tensor->m + at, m, bytes);
        memcpy(tensor->v + at, v, bytes);
        memcpy(tensor->p_out + at, p, bytes);
        if (predict) {
            for (int i = 0; i < LOOP_BLOCK; i++) p[i] = p[i] + by * (p[i] - before[i]);
        }
        if (tensor->ahead) memcpy(tensor->ahead + at, p, bytes);
        if (tensor->ahead_f16) ANE_FN(ane_row_to_half_)(p, tensor->ahead_f16 + at, n);
        if (half_f16) ANE_FN(ane_row_to_half_)(p, half_f16 + at, n);
        if (zero) memset(zero + at, 0, bytes);
    }
}

/* ============================== Loss ====================================== */

/* Columns [t0, t0 + n) of the logits, n <= XENT_COLS. Adds nothing up over
 * blocks: returns the sum of these columns' losses, columns in order. Three
 * passes over the block; logits are read as halves each time, which is cheaper
 * than keeping V x 64 floats; a row is read before it is written, so dlogits may
 * be the logits. */
ANE_LOOP double ANE_FN(xent_)(const XentCall *c, size_t t0, size_t n) {
    float x[XENT_COLS] = {0}, top[XENT_COLS], part[XENT_COLS], inverse[XENT_COLS];
    double total[XENT_COLS] = {0};
    for (int i = 0; i < XENT_COLS; i++) top[i] = -INFINITY;
    for (size_t row = 0; row < c->vocab; row++) {
        ANE_FN(ane_row_from_half_)(c->logits + row * c->count + t0, x, n);
        for (int i = 0; i < XENT_COLS; i++) top[i] = x[i] > top[i] ? x[i] : top[i];
    }
    /* fp32 sums of at most 64 terms, then float64. */
    for (size_t row = 0; row < c->vocab; row += 64) {
        const size_t stop = c->vocab - row < 64 ? c->vocab : row + 64;
        for (int i = 0; i < XENT_COLS; i++) part[i] = 0.0f;
        for (size_t r = row; r < stop; r++) {
            ANE_FN(ane_row_from_half_)(c->logits + r * c->count + t0, x, n);
            for (int i = 0; i < XENT_COLS; i++) part[i] += ANE_FN(exp_neg_)(x[i] - top[i]);
        }
        for (int i = 0; i < XENT_COLS; i++) total[i] += (double)part[i];
    }
    double loss = 0.0, hit[XENT_COLS]; /* what the target's entry becomes */
    for (size_t i = 0; i < n; i++) {
        const float at_target = ane_float_from_half1(c->logits[(size_t)c->targets[t0 + i] * c->count + t0 + i]);
        loss += log(total[i]) + (double)top[i] - (double)at_target;
        hit[i] = ((double)ANE_FN(exp_neg_)(at_target - top[i]) / total[i] - 1.0) * c->weight;
    }
    if (!c->dlogits) return loss;
    for (int i = 0; i < XENT_COLS; i++) inverse[i] = (float)(c->weight / total[i]);
    for (size_t row = 0; row < c->vocab; row++) {
        ANE_FN(ane_row_from_half_)(c->logits + row * c->count + t0, x, n);
        for (int i = 0; i < XENT_COLS; i++) x[i] = ANE_FN(exp_neg_)(x[i] - top[i]) * inverse[i];
        ANE_FN(ane_row_to_half_)(x, c->dlogits + row * c->count + t0, n);
    }
    for (size_t i = 0; i < n; i++) {
        c->dlogits[(size_t)c->targets[t0 + i] * c->count + t0 + i] = ane_half_from_float1((float)hit[i]);
    }
    return loss;
}

#undef ANE_LOOP
#undef ANE_FN
#undef ANE_CAT
#undef ANE_CAT2
