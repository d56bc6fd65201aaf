// SPDX-License-Identifier: MIT
/* bench_exec.c - how long things take: products against the bare call split
 * over two threads (set SOFTANE_BLAS to compare a library with the built-in one), elementwise steps against memory, a tiny program against
 * nothing. Prints a table; checks nothing. Lower fifths of repeated runs.
 *
 * Usage: bench_exec [repetitions [fast | ieee | silicon | ratio]]
 *        ratio: fixed-point products beside the fp32 product call, one thread each, in turn; nothing else. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../exec/exec.h"
#include "../plan/plan.h"
#include "exec_programs.h"

/* ============================== Programs ================================== */

static const char *const HEAD =
    "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n";

typedef struct {
    SaArena *arena;
    SaPlan *plan;
} Built;

/* MIL text -> plan. BLOBFILE constants get small made-up values: no files. */
static Built build(const char *text) {
    Built b = {sa_arena_new(0), NULL};
    SaProgram *p = NULL;
    SaError err = {0};
    SaLimits lim;
    sa_limits_default(&lim);
    char buf[600];
    SaStatus st = sa_program_parse(b.arena, text, strlen(text), &lim, &p, &err);
    if (st == SA_OK)
        st = sa_program_check(b.arena, p, &lim, &err);
    for (int f = 0; st == SA_OK && f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++) {
            SaValue *v = p->functions[f].ops[i].n_results ? p->functions[f].ops[i].results[0] : NULL;
            if (!v || !v->constant || !v->constant->blob_path)
                continue;
            SaConst *c = (SaConst *)(uintptr_t)v->constant;
            size_t n = (size_t)sa_type_count(&v->type);
            uint16_t *h = sa_arena_alloc(b.arena, n * 2);
            for (size_t k = 0; k < n; k++)
                h[k] = sa_half_from_float_even((float)((int)(k * 7 % 13) - 6) / 64.0f);
            c->data = h;
            c->bytes = n * 2;
        }
    if (st == SA_OK)
        st = sa_plan_build(p, &b.plan, &err);
    if (st != SA_OK) {
        sa_error_format(&err, buf, sizeof buf);
        fprintf(stderr, "%s\n%s\n", buf, text);
        exit(2);
    }
    return b;
}

/* ============================== Clock ===================================== */

static int reps = 100;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static SaNumerics numerics = SA_NUMERICS_FAST;

/* Seconds of one run of procedure 0; surfaces are made here. */
static double time_plan(const SaPlan *plan, int threads) {
    const void *in[16];
    void *out[16];
    for (int i = 0; i < sa_plan_inputs(plan, 0); i++) {
        const SaPort *p = sa_plan_input(plan, 0, i);
        uint16_t *h = sa_malloc(p->bytes);
        for (size_t k = 0; k < p->bytes / 2; k++)
            h[k] = sa_half_from_float_even((float)((int)(k * 5 % 11) - 5) / 16.0f);
        in[i] = h;
    }
    for (int i = 0; i < sa_plan_outputs(plan, 0); i++)
        out[i] = sa_malloc(sa_plan_output(plan, 0, i)->bytes);
    SaRunOptions opt = {.numerics = numerics, .threads = threads};
    double *t = malloc((size_t)reps * sizeof *t);
    for (int r = -3; r < reps; r++) {
        double t0 = now();
        sa_plan_run(plan, 0, in, out, &opt);
        if (r >= 0)
            t[r] = now() - t0;
    }
    qsort(t, (size_t)reps, sizeof *t, by_value);
    double typical = t[reps / 5]; /* the lower fifth: less of what else the machine does */
    free(t);
    for (int i = 0; i < sa_plan_inputs(plan, 0); i++)
        sa_free((void *)(uintptr_t)in[i]);
    for (int i = 0; i < sa_plan_outputs(plan, 0); i++)
        sa_free(out[i]);
    return typical;
}

/* ============================== The bare product ========================== */

typedef struct {
    SaGemmArgs half[2];
} TwoHalves;

static void half_chunk(void *context, size_t chunk) {
    sa_gemm(sa_kernels_get(), &((const TwoHalves *)context)->half[chunk]);
}

/* Seconds of C[m,n] = A[m,k] B[k,n], rows split two ways, no more. */
static double time_bare(size_t m, size_t n, size_t k) {
    float *a = sa_malloc(m * k * 4), *b = sa_malloc(k * n * 4), *c = sa_malloc(m * n * 4);
    TwoHalves h;
    for (size_t i = 0; i < 2; i++)
        h.half[i] = (SaGemmArgs){.m = m / 2, .n = n, .k = k, .a = a + i * (m / 2) * k, .b = b, .c = c + i * (m / 2) * n,
                                 .lda = k, .ldb = n, .ldc = n};
    double *t = malloc((size_t)reps * sizeof *t);
    for (int r = -3; r < reps; r++) {
        double t0 = now();
        sa_parallel(0, 2, half_chunk, &h);
        if (r >= 0)
            t[r] = now() - t0;
    }
    qsort(t, (size_t)reps, sizeof *t, by_value);
    double typical = t[reps / 5]; /* the lower fifth: less of what else the machine does */
    free(t);
    sa_free(a);
    sa_free(b);
    sa_free(c);
    return typical;
}

#define CONV \
    "%s func main<ios18>(tensor<fp16, [1, %d, 1, %d]> x) {\n" \
    "tensor<fp16, [%d, %d, 1, 1]> w = const()[name=string(\"w\"), val=tensor<fp16, [%d, %d, 1, 1]>" \
    "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(64)))];\n" \
    "tensor<fp16, [1, %d, 1, %d]> y = conv(x=x, weight=w)[name=string(\"y\")];\n} -> (y);\n}\n"

static void bench_conv(int o, int i, int s) {
    char text[4000];
    snprintf(text, sizeof text, CONV, HEAD, i, s, o, i, o, i, o, s);
    Built b = build(text);
    double bare[2], plan[2], one = time_plan(b.plan, 1), flops = sa_plan_flops(b.plan, 0);
    for (int blas = 0; blas < 2; blas++) {
        sa_gemm_choose(blas == 1);
        bare[blas] = time_bare((size_t)o, (size_t)s, (size_t)i);
        plan[blas] = time_plan(b.plan, 0);
    }
    printf("conv %dx%dx%d: plan %.0f us (%.0f GFLOP/s), one thread %.0f us\n    built-in: bare two-way split %.0f us, plan %.2fx",
           o, i, s, plan[1] * 1e6, flops / plan[1] / 1e9, one * 1e6, bare[0] * 1e6, plan[0] / bare[0]);
    printf(strcmp(sa_exec_blas(), "built-in") ? "; BLAS: %.0f us, %.2fx\n" : "\n", bare[1] * 1e6, plan[1] / bare[1]);
    sa_plan_free(b.plan);
    sa_arena_free(b.arena);
}

/* ============================== Single operations ========================= */

/* One operation many times over in one program, so that ports count little. */
static void bench_op(const char *label, int c, int s, const char *consts, const char *op, double bytes_per_element) {
    enum { TIMES = 16 };
    size_t cap = 40000, n = 0;
    char *text = malloc(cap);
    n += (size_t)snprintf(text + n, cap - n, "%s func main<ios18>(tensor<fp16, [1, %d, 1, %d]> x, tensor<fp16, [1, %d, 1, %d]> z) {\n%s",
                          HEAD, c, s, c, s, consts);
    for (int i = 0; i < TIMES; i++) {
        char prev[24] = "x";
        if (i)
            snprintf(prev, sizeof prev, "v%d", i - 1);
        n += (size_t)snprintf(text + n, cap - n, "tensor<fp16, [1, %d, 1, %d]> v%d = ", c, s, i);
        n += (size_t)snprintf(text + n, cap - n, op, prev);
        n += (size_t)snprintf(text + n, cap - n, "[name=string(\"v%d\")];\n", i);
    }
    snprintf(text + n, cap - n, "} -> (v%d);\n}\n", TIMES - 1);
    Built b = build(text);
    double t[2];
    for (int k = 0; k < 2; k++)
        t[k] = time_plan(b.plan, k ? 1 : 0) / TIMES;
    double count = (double)c * (double)s;
    printf("%-28s %5dx%-4d %8.1f us  %6.2f Gelem/s  %6.1f GB/s | one thread %8.1f us %6.2f Gelem/s\n", label, c, s,
           t[0] * 1e6, count / t[0] / 1e9, count * bytes_per_element / t[0] / 1e9, t[1] * 1e6, count / t[1] / 1e9);
    sa_plan_free(b.plan);
    sa_arena_free(b.arena);
    free(text);
}

static void bench_ops(int c, int s) {
    bench_op("mul(x, z)", c, s, "", "mul(x=%s, y=z)", 12);
    bench_op("add(x, scalar)", c, s, "fp16 k = const()[name=string(\"k\"), val=fp16(0.5)];\n", "add(x=%s, y=k)", 8);
    bench_op("sigmoid", c, s, "", "sigmoid(x=%s)", 8);
    bench_op("exp", c, s, "", "exp(x=%s)", 8);
    bench_op("tanh", c, s, "", "tanh(x=%s)", 8);
    bench_op("gelu", c, s, "string m = const()[name=string(\"m\"), val=string(\"EXACT\")];\n", "gelu(x=%s, mode=m)", 8);
    bench_op("softmax, last axis", c, s, "int32 a = const()[name=string(\"a\"), val=int32(-1)];\n", "softmax(x=%s, axis=a)", 8);
    bench_op("softmax, channels", c, s, "int32 a = const()[name=string(\"a\"), val=int32(1)];\n", "softmax(x=%s, axis=a)", 8);
    bench_op("layer_norm, channels", c, s, "tensor<int32, [1]> a = const()[name=string(\"a\"), val=tensor<int32, [1]>([1])];\n",
             "layer_norm(x=%s, axes=a)", 8);
}

/* ============================== Fixed point =============================== */

/* One evaluation under `silicon`, then one fp32 product of the same shape, and
 * so on: what else the machine does falls on both. One thread each (the
 * library's own threads: OPENBLAS_NUM_THREADS=1). */
static void bench_ratio(int o, int i, int s) {
    char text[4000];
    snprintf(text, sizeof text, CONV, HEAD, i, s, o, i, o, i, o, s);
    Built b = build(text);
    size_t m = (size_t)o, k = (size_t)i, n = (size_t)s;
    uint16_t *x = sa_malloc(k * n * 2), *y = sa_malloc(m * n * 2);
    float *fa = sa_malloc(m * k * 4), *fb = sa_malloc(k * n * 4), *fc = sa_malloc(m * n * 4);
    double *fixed = malloc((size_t)reps * sizeof *fixed), *bare = malloc((size_t)reps * sizeof *bare);
    for (size_t j = 0; j < k * n; j++) {
        fb[j] = (float)((int)(j * 5 % 11) - 5) / 16.0f;
        x[j] = sa_half_from_float_even(fb[j]);
    }
    for (size_t j = 0; j < m * k; j++)
        fa[j] = (float)((int)(j * 7 % 13) - 6) / 64.0f;
    SaGemmArgs g = {.m = m, .n = n, .k = k, .a = fa, .b = fb, .c = fc, .lda = k, .ldb = n, .ldc = n};
    SaRunOptions opt = {.numerics = SA_NUMERICS_SILICON, .threads = 1};
    const void *in[] = {x};
    void *out[] = {y};
    for (int r = -2; r < reps; r++) {
        double t0 = now();
        sa_plan_run(b.plan, 0, in, out, &opt);
        double t1 = now();
        sa_gemm(sa_kernels_get(), &g);
        double t2 = now();
        if (r >= 0)
            fixed[r] = t1 - t0, bare[r] = t2 - t1;
    }
    qsort(fixed, (size_t)reps, sizeof *fixed, by_value);
    qsort(bare, (size_t)reps, sizeof *bare, by_value);
    double f = fixed[reps / 5], p = bare[reps / 5], products = (double)m * (double)n * (double)k / 1e9;
    printf("conv %dx%dx%d: silicon %.0f us (%.1f G products/s), fp32 call %.0f us (%.1f G products/s), ratio 1/%.2f\n", o, i, s,
           f * 1e6, products / f, p * 1e6, products / p, f / p);
    free(fixed), free(bare);
    sa_free(x), sa_free(y), sa_free(fa), sa_free(fb), sa_free(fc);
    sa_plan_free(b.plan);
    sa_arena_free(b.arena);
}

/* ============================== A layer =================================== */

/* The six kernels of one layer of Stories110M. */
static void bench_training(void) {
    kD = 768, kH = 2048, kHeads = 12, kd = 64, kT = 256;
    double sum = 0, flops = 0;
    for (int k = 0; k < TRAINING_KERNELS; k++) {
        char *body = malloc(1 << 16), *text = malloc(1 << 17);
        training_kernel(k, body, 1 << 16);
        snprintf(text, 1 << 17, "%s%s}\n", HEAD, body);
        double t0 = now();
        Built b = build(text);
        double built = now() - t0, all = time_plan(b.plan, 0), one = time_plan(b.plan, 1);
        printf("%-10s %7.0f us (%.0f GFLOP/s), one thread %7.0f us; text to plan %.2f ms, %.1f MB\n", training_names[k],
               all * 1e6, sa_plan_flops(b.plan, 0) / all / 1e9, one * 1e6, built * 1e3, (double)sa_plan_bytes(b.plan) / 1e6);
        sum += all;
        flops += sa_plan_flops(b.plan, 0);
        sa_plan_free(b.plan);
        sa_arena_free(b.arena);
        free(body);
        free(text);
    }
    printf("one layer  %7.0f us (%.0f GFLOP/s)\n", sum * 1e6, flops / sum / 1e9);
}

int main(int argc, char **argv) {
    if (argc > 1)
        reps = atoi(argv[1]);
    static const char *const names[] = {"fast", "ieee", "silicon"};
    for (int i = 0; argc > 2 && i < 3; i++)
        numerics = strcmp(argv[2], names[i]) == 0 ? (SaNumerics)i : numerics;
    if (reps < 1)
        reps = 1;
    printf("blas %s, isa %s, %d processors\n", sa_exec_blas(), sa_exec_isa(), sa_parallel_width());
    if (argc > 2 && strcmp(argv[2], "ratio") == 0) {
        bench_ratio(768, 768, 256);
        bench_ratio(2048, 768, 256);
        bench_ratio(768, 2048, 256);
        bench_ratio(256, 256, 256);
        return 0;
    }
    char tiny[1000];
    snprintf(tiny, sizeof tiny, "%s func main<ios18>(tensor<fp16, [1, 32, 1, 32]> x) {\n"
             "tensor<fp16, [1, 32, 1, 32]> y = add(x=x, y=x)[name=string(\"y\")];\n} -> (y);\n}\n", HEAD);
    Built b = build(tiny);
    printf("tiny program (one add of 1024): %.2f us per evaluation\n", time_plan(b.plan, 0) * 1e6);
    sa_plan_free(b.plan);
    sa_arena_free(b.arena);
    bench_conv(768, 768, 256);
    bench_conv(2048, 768, 256);
    bench_conv(768, 2048, 256);
    bench_conv(256, 256, 256);
    bench_training();
    bench_ops(768, 256);
    bench_ops(4096, 1024);
    return 0;
}
