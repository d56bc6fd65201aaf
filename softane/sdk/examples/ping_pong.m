// SPDX-License-Identifier: MIT
/* ping_pong.m - two programs that share their surfaces.
 *
 * Program A computes y = x / 2, program B x = y + 1. The output surface of
 * each is the input surface of the other, and the CPU touches neither between
 * evaluations: 2 is the number that both leave alone. */
#import "engine.h"

enum { CHANNELS = 32, WIDTH = 64, ROUNDS = 40 };

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        size_t count = CHANNELS * WIDTH;
        NSString *shape = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]>", CHANNELS, WIDTH];

        float *half = calloc(CHANNELS * CHANNELS, sizeof *half);
        for (int i = 0; i < CHANNELS; i++)
            half[i * CHANNELS + i] = 0.5f;
        NSString *bodyA = [mil_conv_constants() stringByAppendingString:mil_conv(@"y", @"x", @"half.bin", CHANNELS, CHANNELS, WIDTH)];
        Program *a = [Program compile:mil_program([shape stringByAppendingString:@" x"], bodyA, @"y")
                              weights:@{@"half.bin": weight_file(half, CHANNELS * CHANNELS)}];
        NSString *bodyB = [NSString stringWithFormat:
            @"        fp16 one = const()[name=string(\"one\"), val=fp16(1)];\n"
             "        %@ z = add(x=y, y=one)[name=string(\"z\")];\n", shape];
        Program *b = [Program compile:mil_program([shape stringByAppendingString:@" y"], bodyB, @"z") weights:@{}];
        free(half);
        if (!a || !b || ![a load] || ![b load])
            return verdict(NO, "the programs do not load");

        IOSurfaceRef x = make_surface(count * 2), y = make_surface(count * 2);
        [a bindInputs:@[(__bridge id)x] outputs:@[(__bridge id)y]];
        [b bindInputs:@[(__bridge id)y] outputs:@[(__bridge id)x]];

        float *values = malloc(count * sizeof *values);
        for (size_t i = 0; i < count; i++)
            values[i] = (float)(i % 100) - 50;
        write_surface(x, values, count);

        uint64_t start = mach_absolute_time();
        BOOL ok = YES;
        float worst = 0;
        for (int r = 0; ok && r < ROUNDS; r++) {
            ok = [a evaluate] && [b evaluate];
            read_surface(x, values, count);
            worst = 0;
            for (size_t i = 0; i < count; i++)
                worst = fmaxf(worst, fabsf(values[i] - 2));
            if (r < 4 || r == ROUNDS - 1)
                printf("round %2d: largest distance from 2 is %g\n", r + 1, worst);
        }
        printf("%.3f ms for each pair of evaluations\n", milliseconds(mach_absolute_time() - start) / ROUNDS);
        [a unload];
        [b unload];
        CFRelease(x);
        CFRelease(y);
        free(values);
        return verdict(ok && worst < 0.01f, "it does not settle at 2");
    }
}
