// SPDX-License-Identifier: MIT
/* weight_reload.m - are the weights of a program read again when it is loaded?
 *
 * 1. compile and evaluate with weight 2
 * 2. unload, write a file with weight 3 where the old one lay, load, evaluate
 * 3. compile with weight 3 and evaluate
 * When 2 gives what 1 gave, the weights were fixed by the compiler, and the
 * only way to train is to compile again. */
#import "engine.h"

enum { CHANNELS = 64, WIDTH = 64 };

static NSData *diagonal(float value) {
    float *w = calloc(CHANNELS * CHANNELS, sizeof *w);
    for (int i = 0; i < CHANNELS; i++)
        w[i * CHANNELS + i] = value;
    NSData *file = weight_file(w, CHANNELS * CHANNELS);
    free(w);
    return file;
}

/* The factor between input and output, or NAN when it is not the same everywhere. */
static float factor(Program *p, IOSurfaceRef out) {
    if (![p evaluate])
        return NAN;
    float y[CHANNELS * WIDTH];
    read_surface(out, y, CHANNELS * WIDTH);
    for (int i = 1; i < CHANNELS * WIDTH; i++)
        if (y[i] != y[0])
            return NAN;
    return y[0];
}

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        NSString *parameter = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]> x", CHANNELS, WIDTH];
        NSString *body = [mil_conv_constants() stringByAppendingString:mil_conv(@"y", @"x", @"w.bin", CHANNELS, CHANNELS, WIDTH)];
        NSString *text = mil_program(parameter, body, @"y");

        IOSurfaceRef in = make_surface(CHANNELS * WIDTH * 2), out = make_surface(CHANNELS * WIDTH * 2);
        float ones[CHANNELS * WIDTH];
        for (int i = 0; i < CHANNELS * WIDTH; i++)
            ones[i] = 1;
        write_surface(in, ones, CHANNELS * WIDTH);

        Program *p = [Program compile:text weights:@{@"w.bin": diagonal(2)}];
        if (!p || ![p load])
            return verdict(NO, "the first program does not load");
        [p bindInputs:@[(__bridge id)in] outputs:@[(__bridge id)out]];
        float first = factor(p, out);

        [p unload];
        NSFileManager *files = NSFileManager.defaultManager; /* unload has removed the folder */
        [files createDirectoryAtPath:[p.folder stringByAppendingPathComponent:@"weights"]
            withIntermediateDirectories:YES attributes:nil error:nil];
        [text writeToFile:[p.folder stringByAppendingPathComponent:@"model.mil"] atomically:YES
            encoding:NSUTF8StringEncoding error:nil];
        [diagonal(3) writeToFile:[p.folder stringByAppendingPathComponent:@"weights/w.bin"] atomically:YES];
        BOOL loaded = [p load];
        float again = loaded ? factor(p, out) : NAN;
        if (loaded)
            [p unload];

        Program *q = [Program compile:text weights:@{@"w.bin": diagonal(3)}];
        if (!q || ![q load])
            return verdict(NO, "the second program does not load");
        [q bindInputs:@[(__bridge id)in] outputs:@[(__bridge id)out]];
        float fresh = factor(q, out);
        [q unload];
        CFRelease(in);
        CFRelease(out);

        printf("compiled with 2:              y = %g x\n", first);
        printf("file replaced by 3, reloaded: y = %g x\n", again);
        printf("compiled with 3:              y = %g x\n", fresh);
        if (again == first)
            printf("verdict: weights are baked at compile time; a reload does not see the file\n");
        else if (again == 3)
            printf("verdict: weights are read at load time\n");
        else
            printf("verdict: the program could not be loaded again\n");
        return verdict(first == 2 && fresh == 3 && again == first, "not what baked weights would give");
    }
}
