// SPDX-License-Identifier: MIT
/* bench_speed.c - softane beside what the machine can do, in one run: products
 * beside the bare BLAS calls, elementwise, norm and softmax steps beside STREAM's
 * copy, passes beside steps one by one, two evaluations and a compile at once.
 *
 * Both sides of every ratio are measured turn by turn, so that what else the
 * machine does meets both; the ratio is of the lower fifths. Checks nothing.
 *
 * Usage: bench_speed [rounds [cpu [STEP]]]   15
 *   cpu: one thread and its processor time, for a machine that others use too
 *   STEP: only the steps whose name begins so */
#include <math.h>
#include <pthread.h>
#include <time.h>

#include "exec_programs.h"
#include "ops_harness.h"

static int rounds = 15, threads = 0;
static const char *only; /* NULL: everything */

static bool wanted(const char *label) { return !only || strncmp(label, only, strlen(only)) == 0; }
static clockid_t clock_used = CLOCK_MONOTONIC;

/* ============================== Clock ===================================== */

static double now(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

typedef void Work(void *context);
typedef struct {
    Work *work;
    void *context;
    double seconds; /* result */
} Entry;

/* Time entries turn by turn. */
static void measure(Entry *e, int n) {
    double *t = malloc((size_t)(n * rounds) * sizeof *t);
    for (int r = -2; t && r < rounds; r++)
        for (int i = 0; i < n; i++) {
            double t0 = now();
            e[i].work(e[i].context);
            if (r >= 0)
                t[i * rounds + r] = now() - t0;
        }
    for (int i = 0; t && i < n; i++) {
        qsort(t + i * rounds, (size_t)rounds, sizeof *t, by_value);
        e[i].seconds = t[i * rounds + rounds / 5];
    }
    free(t);
}

/* ============================== STREAM ==================================== */

enum { STREAM_FLOATS = 16 << 20, STREAM_PART = 1 << 18 };
static float *stream[3];

/* The kernels of this machine, so that the loop is as wide as it may be. */
static void add_chunk(void *context, size_t chunk) {
    const SaKernels *k = context;
    size_t at = chunk * STREAM_PART;
    k->binary_vv[SA_B_ADD](stream[0] + at, stream[1] + at, stream[2] + at, STREAM_PART);
}
static void wide_copy_chunk(void *context, size_t chunk) {
    const SaKernels *k = context;
    static const float none[2];
    k->unary[SA_U_COPY](stream[0] + chunk * STREAM_PART, stream[1] + chunk * STREAM_PART, none, STREAM_PART);
}
static void stream_copy(void *c) { sa_parallel(threads, STREAM_FLOATS / STREAM_PART, wide_copy_chunk, c); }
static void stream_add(void *c) { sa_parallel(threads, STREAM_FLOATS / STREAM_PART, add_chunk, c); }
static const double STREAM_COUNT = (double)(int)STREAM_FLOATS;

/* ============================== Plans ===================================== */

typedef struct {
    Built b;
    SaPlan *plan;
    Surfaces s;
} Ready;

static void evaluate(void *context) {
    Ready *r = context;
    run(r->plan, &r->s, SA_NUMERICS_FAST, threads);
}

static Ready ready(const char *text, bool fused) {
    Ready r = {.b = build(text, strlen(text), UNIFORM)};
    if (r.b.status == SA_OK && !fused)
        r.b.status = sa_plan_build_unfused(r.b.program, &r.plan, &r.b.err);
    else
        r.plan = r.b.plan;
    if (r.b.status != SA_OK) {
        fprintf(stderr, "%s\n%s", r.b.err.text, text);
        exit(2);
    }
    r.s = surfaces_make(r.plan, UNIFORM);
    return r;
}

static void done(Ready *r) {
    surfaces_free(&r->s);
    if (r->plan != r->b.plan)
        sa_plan_free(r->plan);
    unbuild(&r->b);
}

static const char *const HEAD = "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n";

/* ============================== Products ================================== */

typedef struct {
    SaGemmArgs half[2];
} TwoHalves;

static void half_chunk(void *context, size_t chunk) { sa_gemm(sa_kernels_get(), &((const TwoHalves *)context)->half[chunk]); }
static void two_halves(void *context) { sa_parallel(threads, 2, half_chunk, context); }

/* y = conv(x, w), 1x1, beside C = W X by one BLAS call on each half of the rows. */
static void bench_product(size_t m, size_t k, size_t n) {
    char text[3000];
    snprintf(text, sizeof text, "%sfunc main<ios18>(" T("1, %zu, 1, %zu") " x) {\n" BLOB("w", "%zu, %zu, 1, 1")
             OP(T("1, %zu, 1, %zu"), "y", "conv(x=x, weight=w)") "} -> (y);\n}\n", HEAD, k, n, m, k, m, k, m, n);
    Ready r = ready(text, true);
    float *a = sa_malloc(m * k * 4), *b = sa_malloc(k * n * 4), *c = sa_malloc(m * n * 4);
    TwoHalves h;
    for (size_t i = 0; i < 2; i++)
        h.half[i] = (SaGemmArgs){.m = m / 2, .n = n, .k = k, .a = a + i * (m / 2) * k, .b = b, .c = c + i * (m / 2) * n, .lda = k, .ldb = n, .ldc = n};
    for (size_t i = 0; i < m * k; i++)
        a[i] = (float)(i % 13) / 16.0f;
    for (size_t i = 0; i < k * n; i++)
        b[i] = (float)(i % 11) / 16.0f;
    Entry e[2] = {{two_halves, &h, 0}, {evaluate, &r, 0}};
    measure(e, 2);
    double flops = 2.0 * (double)m * (double)n * (double)k;
    printf("%5zux%zux%-6zu BLAS call %8.0f us %5.0f GFLOP/s | evaluation %8.0f us %5.0f GFLOP/s | %.2f of the BLAS rate\n", m, k, n,
           e[0].seconds * 1e6, flops / e[0].seconds / 1e9, e[1].seconds * 1e6, flops / e[1].seconds / 1e9, e[0].seconds / e[1].seconds);
    done(&r);
    sa_free(a);
    sa_free(b);
    sa_free(c);
}

/* ============================== Steps ===================================== */

enum { CHANNELS = 2048, WIDTH = 8192, TIMES = 6 }; /* 64 MB per slot */

/* One operation several times over, each reading what the last made, none joined. */
static void bench_step(const char *label, const char *consts, const char *op, double bytes) {
    if (!wanted(label))
        return;
    char text[6000], prev[16] = "x";
    size_t n = (size_t)snprintf(text, sizeof text, "%sfunc main<ios18>(" T("1, %d, 1, %d") " x, " T("1, %d, 1, %d") " z) {\n%s", HEAD, CHANNELS, WIDTH, CHANNELS,
                                WIDTH, consts);
    for (int i = 0; i < TIMES; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "tensor<fp16, [1, %d, 1, %d]> v%d = ", CHANNELS, WIDTH, i);
        n += (size_t)snprintf(text + n, sizeof text - n, op, prev);
        n += (size_t)snprintf(text + n, sizeof text - n, "[name=string(\"v%d\")];\n", i);
        snprintf(prev, sizeof prev, "v%d", i);
    }
    snprintf(text + n, sizeof text - n, "} -> (%s);\n}\n", prev);
    char one[3000];
    snprintf(one, sizeof one, "%sfunc main<ios18>(" T("1, %d, 1, %d") " x, " T("1, %d, 1, %d") " z) {\n" OP(T("1, %d, 1, %d"), "y", "add(x=x, y=z)") "} -> (y);\n}\n",
             HEAD, CHANNELS, WIDTH, CHANNELS, WIDTH, CHANNELS, WIDTH);
    Ready many = ready(text, false), few = ready(one, false), fused = ready(text, true);
    Entry e[4] = {{stream_copy, (void *)(uintptr_t)sa_kernels_get(), 0}, {evaluate, &many, 0}, {evaluate, &few, 0}, {evaluate, &fused, 0}};
    measure(e, 4);
    double count = (double)(int)CHANNELS * (double)(int)WIDTH, stream_rate = 8.0 * STREAM_COUNT / e[0].seconds;
    /* ports and one add are in both programs; the add's traffic is 12 bytes at STREAM's rate */
    double step = (e[1].seconds - e[2].seconds + 12.0 * count / stream_rate) / (double)(int)TIMES, rate = bytes * count / step;
    printf("%-24s %7.2f ms  %5.1f GB/s | copy %5.1f GB/s | %3.0f %% of it | %d in passes: %.2f of the time one by one\n", label, step * 1e3, rate / 1e9,
           stream_rate / 1e9, 100 * rate / stream_rate, TIMES, e[3].seconds / e[1].seconds);
    done(&many);
    done(&few);
    done(&fused);
}

/* RMSNorm written out, as trainers have it. */
static void bench_rms(void) {
    if (!wanted("RMSNorm"))
        return;
    char text[4000];
    snprintf(text, sizeof text,
             "%sfunc main<ios18>(" T("1, %d, 1, %d") " x) {\n" VEC("a", "1", "1") BOOL("k", "true") F16("c", "0.0005") F16("e", "0.00001") F16("p", "-0.5")
             BLOB("w", "1, %d, 1, 1") OP(T("1, %d, 1, %d"), "q", "mul(x=x, y=x)") OP(T("1, 1, 1, %d"), "s", "reduce_sum(x=q, axes=a, keep_dims=k)")
             OP(T("1, 1, 1, %d"), "t", "mul(x=s, y=c)") OP(T("1, 1, 1, %d"), "u", "add(x=t, y=e)") OP(T("1, 1, 1, %d"), "r", "pow(x=u, y=p)")
             OP(T("1, %d, 1, %d"), "n", "mul(x=x, y=r)") OP(T("1, %d, 1, %d"), "y", "mul(x=n, y=w)") "} -> (y);\n}\n",
             HEAD, CHANNELS, WIDTH, CHANNELS, CHANNELS, CHANNELS, WIDTH, WIDTH, WIDTH, WIDTH, WIDTH, CHANNELS, WIDTH, CHANNELS, WIDTH);
    Ready fused = ready(text, true), apart = ready(text, false);
    Entry e[3] = {{stream_copy, (void *)(uintptr_t)sa_kernels_get(), 0}, {evaluate, &fused, 0}, {evaluate, &apart, 0}};
    measure(e, 3);
    double count = (double)(int)CHANNELS * (double)(int)WIDTH, stream_rate = 8.0 * STREAM_COUNT / e[0].seconds, bytes = 12 + 8 + 4 + 8; /* ports, square, sum, scale and gain */
    printf("%-24s %7.2f ms  %5.1f GB/s | copy %5.1f GB/s | %3.0f %% of it | passes: %.2f of the time one by one\n", "RMSNorm, with its ports", e[1].seconds * 1e3,
           bytes * count / e[1].seconds / 1e9, stream_rate / 1e9, 100 * bytes * count / e[1].seconds / stream_rate, e[1].seconds / e[2].seconds);
    done(&fused);
    done(&apart);
}

/* ============================== At once =================================== */

enum { EVALUATIONS = 12 };

typedef struct {
    Ready r;
    const char *text;
} Side;

static void *evaluate_alone(void *context) {
    Side *s = context;
    for (int i = 0; i < EVALUATIONS; i++)
        run(s->r.plan, &s->r.s, SA_NUMERICS_FAST, 1);
    return NULL;
}

static void *compile_again(void *context) {
    for (int i = 0; i < 2; i++) {
        Ready r = ready(((Side *)context)->text, true);
        done(&r);
    }
    return NULL;
}

/* Seconds of these threads together. */
static double together(void *(*const f[])(void *), Side *s, int n) {
    pthread_t t[3];
    double t0 = now();
    for (int i = 0; i < n; i++)
        pthread_create(&t[i], NULL, f[i], &s[i]);
    for (int i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    return now() - t0;
}

static void bench_at_once(const char *text) {
    Side s[3];
    for (int i = 0; i < 3; i++)
        s[i] = (Side){ready(text, true), text};
    void *(*const two[3])(void *) = {evaluate_alone, evaluate_alone, compile_again}, *(*const compile[1])(void *) = {compile_again};
    double alone = 1e9, both = 1e9, all = 1e9, made = 1e9;
    for (int r = 0; r < 5; r++) {
        double a = together(two, s, 1), b = together(two, s, 2), c = together(compile, &s[2], 1), d = together(two, s, 3);
        alone = a < alone ? a : alone;
        both = b < both ? b : both;
        made = c < made ? c : made;
        all = d < all ? d : all;
    }
    printf("at once: one thread of evaluations %.1f ms, two %.1f ms (%.2f times the work per second); with two compiles (%.1f ms alone) %.1f ms, "
           "%.2f of the time on two cores without loss\n",
           alone * 1e3, both * 1e3, 2 * alone / both, made * 1e3, all * 1e3, all / ((2 * alone + made) / 2));
    for (int i = 0; i < 3; i++)
        done(&s[i].r);
}

/* ============================== A training kernel ========================= */

static double fp16_weights(const SaProgram *p) {
    double bytes = 0;
    for (int i = 0; i < p->functions[0].n_ops; i++)
        if (p->functions[0].ops[i].id == SA_OP_CONST && p->functions[0].ops[i].results[0]->constant->blob_path)
            bytes += 2.0 * (double)sa_type_count(&p->functions[0].ops[i].results[0]->type);
    return bytes;
}

static void bench_kernel(char *text, size_t cap) {
    char *body = malloc(1 << 16);
    kD = 768, kH = 2048, kHeads = 12, kd = 64, kT = 256;
    training_kernel(0, body, 1 << 16);
    snprintf(text, cap, "%s%s}\n", HEAD, body);
    free(body);
    Ready r = ready(text, true);
    double best = 1e9;
    for (int i = 0; i < rounds; i++) {
        SaArena *a = sa_arena_new(0);
        SaProgram *p;
        SaPlan *plan = NULL;
        SaError err = {0};
        double t0 = now();
        bool good = sa_program_parse(a, text, strlen(text), lenient(), &p, &err) == SA_OK && sa_program_check(a, p, lenient(), &err) == SA_OK;
        double parsed = now() - t0;
        (void)good;
        t0 = now();
        sa_plan_build(r.b.program, &plan, &err);
        double t = parsed + now() - t0;
        best = t < best ? t : best;
        sa_plan_free(plan);
        sa_arena_free(a);
    }
    double w = fp16_weights(r.b.program);
    printf("attention kernel of Stories110M: text to plan %.2f ms; loaded %.2f MB, %.2f times its fp16 weights (%.2f MB)\n", best * 1e3,
           (double)sa_plan_bytes(r.plan) / 1e6, (double)sa_plan_bytes(r.plan) / w, w / 1e6);
    done(&r);
}

int main(int argc, char **argv) {
    static char text[1 << 17];
    rounds = argc > 1 && atoi(argv[1]) > 0 ? atoi(argv[1]) : rounds;
    bool alone = argc > 2 && strcmp(argv[2], "cpu") == 0;
    only = argc > 3 ? argv[3] : NULL;
    if (alone) {
        threads = 1;
        clock_used = CLOCK_THREAD_CPUTIME_ID;
    }
    printf("blas %s, isa %s, %d processors%s\n", sa_exec_blas(), sa_exec_isa(), sa_parallel_width(),
           alone ? ", one thread, its processor time" : "");
    for (int i = 0; i < 3; i++)
        if (!(stream[i] = sa_malloc(sizeof(float) * STREAM_FLOATS)))
            return 2;
    Entry e[2] = {{stream_copy, (void *)(uintptr_t)sa_kernels_get(), 0}, {stream_add, (void *)(uintptr_t)sa_kernels_get(), 0}};
    measure(e, 2);
    printf("STREAM, 64 MB arrays: copy %.1f GB/s, add %.1f GB/s\n", 8e-9 * STREAM_COUNT / e[0].seconds,
           12e-9 * STREAM_COUNT / e[1].seconds);
    if (!only) {
        bench_kernel(text, sizeof text);
        if (!alone)
            bench_at_once(text);
        bench_product(768, 768, 256);
        bench_product(2048, 768, 256);
        bench_product(768, 2048, 256);
        bench_product(32000, 768, 256);
    }
    rounds = rounds > 7 ? 7 : rounds;
    bench_step("mul(x, z)", "", "mul(x=%s, y=z)", 12);
    bench_step("add(x, scalar)", F16("k", "0.5"), "add(x=%s, y=k)", 8);
    bench_step("sigmoid", "", "sigmoid(x=%s)", 8);
    bench_step("tanh", "", "tanh(x=%s)", 8);
    bench_step("gelu", STR("m", "EXACT"), "gelu(x=%s, mode=m)", 8);
    bench_step("gelu, tanh form", STR("m", "TANH_APPROXIMATION"), "gelu(x=%s, mode=m)", 8);
    bench_step("gelu, sigmoid form", STR("m", "SIGMOID_APPROXIMATION"), "gelu(x=%s, mode=m)", 8);
    bench_step("silu", "", "silu(x=%s)", 8);
    bench_step("exp", "", "exp(x=%s)", 8);
    bench_step("softmax, last axis", I32("a", "-1"), "softmax(x=%s, axis=a)", 8);
    bench_step("softmax, channels", I32("a", "1"), "softmax(x=%s, axis=a)", 8);
    bench_step("layer_norm, channels", VEC("a", "1", "1"), "layer_norm(x=%s, axes=a)", 8);
    bench_step("layer_norm, last axis", VEC("a", "1", "3"), "layer_norm(x=%s, axes=a)", 8);
    bench_rms();
    return 0;
}
