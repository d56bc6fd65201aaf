// SPDX-License-Identifier: MIT
/* background_compile.m - how many evaluations fit into a compile?
 *
 * The main thread evaluates without pause; programs with new weights are
 * compiled on a queue of their own and swapped in when they are ready. Each
 * answer must belong to one set of weights from the first to the last element:
 * a mixture would mean that a swap was seen half done. */
#import "engine.h"

enum { CHANNELS = 256, DEPTH = 6, WIDTH = 64, GENERATIONS = 6 };

static Program *build(int generation) {
    NSMutableString *body = [mil_conv_constants() mutableCopy];
    NSMutableDictionary *weights = [NSMutableDictionary dictionary];
    float *w = calloc(CHANNELS * CHANNELS, sizeof *w);
    NSString *from = @"x";
    for (int d = 0; d < DEPTH; d++) {
        for (int i = 0; i < CHANNELS; i++)
            w[i * CHANNELS + i] = d == 0 ? (float)generation : 1;
        NSString *to = [NSString stringWithFormat:@"y%d", d], *name = [NSString stringWithFormat:@"w%d.bin", d];
        [body appendString:mil_conv(to, from, name, CHANNELS, CHANNELS, WIDTH)];
        weights[name] = weight_file(w, CHANNELS * CHANNELS);
        from = to;
    }
    free(w);
    NSString *parameter = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]> x", CHANNELS, WIDTH];
    Program *p = [Program compile:mil_program(parameter, body, from) weights:weights];
    return p && [p load] ? p : nil;
}

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        const size_t count = CHANNELS * WIDTH;
        IOSurfaceRef in = make_surface(count * 2), out = make_surface(count * 2);
        float *values = malloc(count * sizeof *values);
        for (size_t i = 0; i < count; i++)
            values[i] = 1;
        write_surface(in, values, count);

        Program *active = build(1);
        if (!active)
            return verdict(NO, "the first program does not load");
        [active bindInputs:@[(__bridge id)in] outputs:@[(__bridge id)out]];

        dispatch_queue_attr_t utility = dispatch_queue_attr_make_with_qos_class(DISPATCH_QUEUE_SERIAL, QOS_CLASS_UTILITY, 0);
        dispatch_queue_t queue = dispatch_queue_create("compile", utility);
        int evaluations = 0, during = 0;
        BOOL ok = YES;
        for (int g = 2; ok && g <= GENERATIONS; g++) {
            __block Program *next = nil;
            dispatch_semaphore_t ready = dispatch_semaphore_create(0);
            dispatch_async(queue, ^{
                next = build(g);
                dispatch_semaphore_signal(ready);
            });
            int here = 0;
            do {
                @autoreleasepool {
                    ok = [active evaluate];
                    read_surface(out, values, count);
                    for (size_t i = 0; ok && i < count; i++)
                        ok = values[i] == (float)(g - 1);
                    here++;
                }
            } while (ok && dispatch_semaphore_wait(ready, DISPATCH_TIME_NOW) != 0);
            if (!ok) {
                dispatch_sync(queue, ^{});
                break;
            }
            evaluations += here;
            during += here - 1;
            if (!next) {
                ok = NO;
                break;
            }
            printf("generation %d: compiled in %.1f ms, %d evaluations meanwhile\n", g, next.compileMilliseconds, here - 1);
            Program *old = active;
            [next bindInputs:@[(__bridge id)in] outputs:@[(__bridge id)out]];
            active = next;
            dispatch_async(queue, ^{
                [old unload];
            });
        }
        ok = ok && [active evaluate];
        read_surface(out, values, count);
        ok = ok && values[0] == GENERATIONS && values[count - 1] == GENERATIONS;
        dispatch_sync(queue, ^{
            [active unload];
        });
        printf("%d evaluations in all, %d of them while a compile was running\n", evaluations, during);
        CFRelease(in);
        CFRelease(out);
        free(values);
        return verdict(ok && during > 0, "an evaluation failed, was mixed, or none ran during a compile");
    }
}
