// SPDX-License-Identifier: MIT
/* peak.m - throughput of chains of convolutions.
 *
 * A chain of 1x1 convolutions of C to C channels is one program; what matters
 * is how many operations fit into the fixed cost of one evaluation. Each
 * weight is a cyclic shift of the channels, so that the result is known: after
 * d convolutions channel c holds what channel c - d held. */
#import "engine.h"

enum { WIDTH = 64, EVALUATIONS = 20 };

static BOOL measure(int channels, int depth) {
    size_t count = (size_t)channels * WIDTH;
    NSMutableString *body = [mil_conv_constants() mutableCopy];
    NSMutableDictionary *weights = [NSMutableDictionary dictionary];
    float *shift = calloc((size_t)channels * channels, sizeof *shift);
    for (int c = 0; c < channels; c++)
        shift[c * channels + (c + channels - 1) % channels] = 1;
    NSData *file = weight_file(shift, (size_t)channels * channels);
    free(shift);
    NSString *from = @"x";
    for (int d = 0; d < depth; d++) {
        NSString *to = [NSString stringWithFormat:@"y%d", d], *name = [NSString stringWithFormat:@"w%d.bin", d];
        [body appendString:mil_conv(to, from, name, channels, channels, WIDTH)];
        weights[name] = file;
        from = to;
    }
    NSString *parameter = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]> x", channels, WIDTH];
    Program *p = [Program compile:mil_program(parameter, body, from) weights:weights];
    if (!p || ![p load])
        return NO;

    IOSurfaceRef in = make_surface(count * 2), out = make_surface(count * 2);
    float *x = malloc(count * sizeof *x), *y = malloc(count * sizeof *y);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)((int)(i * 7 % 41) - 20);
    write_surface(in, x, count);
    [p bindInputs:@[(__bridge id)in] outputs:@[(__bridge id)out]];
    BOOL ok = [p evaluate]; /* the first one pays for everything that is done once */
    double best = INFINITY, total = 0;
    for (int i = 0; ok && i < EVALUATIONS; i++) {
        uint64_t start = mach_absolute_time();
        ok = [p evaluate];
        double ms = milliseconds(mach_absolute_time() - start);
        best = fmin(best, ms);
        total += ms;
    }
    read_surface(out, y, count);
    for (int c = 0; ok && c < channels; c++)
        for (int s = 0; ok && s < WIDTH; s++)
            ok = y[c * WIDTH + s] == x[(((c - depth) % channels + channels) % channels) * WIDTH + s];
    double operations = 2.0 * channels * channels * WIDTH * depth;
    printf("%5d channels x %2d: compile %7.1f ms, evaluate %8.3f ms (best %8.3f), %8.2f GFLOPS%s\n", channels, depth,
           p.compileMilliseconds, total / EVALUATIONS, best, operations / (best * 1e6), ok ? "" : "  WRONG");
    [p unload];
    CFRelease(in);
    CFRelease(out);
    free(x);
    free(y);
    return ok;
}

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        static const int cases[][2] = {{64, 1}, {64, 16}, {256, 1}, {256, 8}, {512, 4}};
        BOOL ok = YES;
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            ok &= measure(cases[i][0], cases[i][1]);
        return verdict(ok, "a chain failed or is wrong");
    }
}
