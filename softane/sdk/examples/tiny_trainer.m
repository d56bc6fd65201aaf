// SPDX-License-Identifier: MIT
/* tiny_trainer.m - regression with two layers, its weights baked and compiled
 * again at every step.
 *
 * The engine computes h = relu(W1 x) and y = W2 h for a batch that lies in the
 * columns; the CPU computes the loss, the gradients (BLAS) and the update with
 * momentum. The target is a network of the same shape with other weights. */
#import "engine.h"
#include <Accelerate/Accelerate.h>
#include <arm_neon.h>

enum { IN = 16, HIDDEN = 64, OUT = 8, BATCH = 64, STEPS = 40 };
static const float RATE = 0.08f, MOMENTUM = 0.8f;

static uint64_t seed = 42;
static float uniform(float range) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return ((float)(seed >> 40) / (float)(1 << 24) * 2 - 1) * range;
}

static void fill(float *w, size_t count, float range) {
    for (size_t i = 0; i < count; i++)
        w[i] = uniform(range);
}

/* Floats into a surface and back, four at a time. The counts are multiples of 4. */
static void store_half(IOSurfaceRef s, const float *x, int count) {
    IOSurfaceLock(s, 0, NULL);
    float16_t *h = IOSurfaceGetBaseAddress(s);
    for (int i = 0; i < count; i += 4)
        vst1_f16(h + i, vcvt_f16_f32(vld1q_f32(x + i)));
    IOSurfaceUnlock(s, 0, NULL);
}

static void load_half(IOSurfaceRef s, float *x, int count) {
    IOSurfaceLock(s, kIOSurfaceLockReadOnly, NULL);
    const float16_t *h = IOSurfaceGetBaseAddress(s);
    for (int i = 0; i < count; i += 4)
        vst1q_f32(x + i, vcvt_f32_f16(vld1_f16(h + i)));
    IOSurfaceUnlock(s, kIOSurfaceLockReadOnly, NULL);
}

/* Both results in one program: outputs are bound in the order of their names. */
static NSString *network(void) {
    NSMutableString *body = [mil_conv_constants() mutableCopy];
    [body appendString:mil_conv(@"a", @"x", @"w1.bin", HIDDEN, IN, BATCH)];
    [body appendFormat:@"        tensor<fp16, [1, %d, 1, %d]> h = relu(x=a)[name=string(\"h\")];\n", HIDDEN, BATCH];
    [body appendString:mil_conv(@"y", @"h", @"w2.bin", OUT, HIDDEN, BATCH)];
    return mil_program([NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]> x", IN, BATCH], body, @"h, y");
}

/* v = momentum v - rate g; w += v */
static void update(float *w, float *v, const float *g, size_t count) {
    float rate = -RATE;
    vDSP_vsmul(v, 1, &MOMENTUM, v, 1, count);
    vDSP_vsma(g, 1, &rate, v, 1, v, 1, count);
    vDSP_vadd(w, 1, v, 1, w, 1, count);
}

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        static float w1[HIDDEN * IN], w2[OUT * HIDDEN], v1[HIDDEN * IN], v2[OUT * HIDDEN];
        static float g1[HIDDEN * IN], g2[OUT * HIDDEN], t1[HIDDEN * IN], t2[OUT * HIDDEN];
        static float x[IN * BATCH], h[HIDDEN * BATCH], y[OUT * BATCH], target[OUT * BATCH], dh[HIDDEN * BATCH];
        fill(w1, HIDDEN * IN, 0.4f);
        fill(w2, OUT * HIDDEN, 0.2f);
        fill(t1, HIDDEN * IN, 0.4f);
        fill(t2, OUT * HIDDEN, 0.2f);
        fill(x, IN * BATCH, 1);

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, HIDDEN, BATCH, IN, 1, t1, IN, x, BATCH, 0, h, BATCH);
        float zero = 0;
        vDSP_vthr(h, 1, &zero, h, 1, HIDDEN * BATCH);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, OUT, BATCH, HIDDEN, 1, t2, HIDDEN, h, BATCH, 0, target, BATCH);

        IOSurfaceRef sx = make_surface(sizeof x / 2), sh = make_surface(sizeof h / 2), sy = make_surface(sizeof y / 2);
        store_half(sx, x, IN * BATCH);
        float first = 0, loss = 0;
        double compiling = 0, evaluating = 0;
        BOOL ok = YES;
        for (int step = 0; ok && step < STEPS; step++) {
            @autoreleasepool {
                Program *p = [Program compile:network() weights:@{@"w1.bin": weight_file(w1, HIDDEN * IN),
                                                                  @"w2.bin": weight_file(w2, OUT * HIDDEN)}];
                if (!p || ![p load])
                    return verdict(NO, "a step does not compile");
                compiling += p.compileMilliseconds;
                [p bindInputs:@[(__bridge id)sx] outputs:@[(__bridge id)sh, (__bridge id)sy]];
                uint64_t start = mach_absolute_time();
                ok = [p evaluate];
                evaluating += milliseconds(mach_absolute_time() - start);
                [p unload];
            }
            load_half(sh, h, HIDDEN * BATCH);
            load_half(sy, y, OUT * BATCH);

            /* dy = (y - target) / batch, in place; loss = mean of squares */
            vDSP_vsub(target, 1, y, 1, y, 1, OUT * BATCH);
            vDSP_measqv(y, 1, &loss, OUT * BATCH);
            float scale = 1.0f / BATCH;
            vDSP_vsmul(y, 1, &scale, y, 1, OUT * BATCH);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, OUT, HIDDEN, BATCH, 1, y, BATCH, h, BATCH, 0, g2, HIDDEN);
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, HIDDEN, BATCH, OUT, 1, w2, HIDDEN, y, BATCH, 0, dh, BATCH);
            for (int i = 0; i < HIDDEN * BATCH; i++)
                dh[i] = h[i] > 0 ? dh[i] : 0;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, HIDDEN, IN, BATCH, 1, dh, BATCH, x, BATCH, 0, g1, IN);
            update(w1, v1, g1, HIDDEN * IN);
            update(w2, v2, g2, OUT * HIDDEN);
            if (step == 0)
                first = loss;
            if (step % 8 == 0 || step == STEPS - 1)
                printf("step %2d: loss %.5f\n", step, loss);
        }
        printf("%d compiles, %.2f ms each; %.3f ms for each evaluation\n", STEPS, compiling / STEPS, evaluating / STEPS);
        CFRelease(sx);
        CFRelease(sh);
        CFRelease(sy);
        return verdict(ok && isfinite(loss) && loss < first / 5, "the loss does not fall");
    }
}
