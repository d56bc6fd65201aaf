// SPDX-License-Identifier: MIT
/* test_core.c - the C API of the core, used from C by several threads at once.
 *
 * One thread trains (boundary, submit, finish), one evaluates a chain of two
 * kernels all the time, one asks for states and traces. There is no Python
 * here, so the thread sanitizer sees every lock (tools/test_core.py builds core,
 * bundled GCD and softane with it). Argument: path of the engine's library. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_core.h"

static atomic_int g_passed, g_failed;

#define CHECK(cond)                                                                  \
    do {                                                                             \
        if (cond) {                                                                  \
            g_passed++;                                                              \
        } else {                                                                     \
            g_failed++;                                                              \
            printf("%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond); \
        }                                                                            \
    } while (0)

/* Status must be ANE_OK; says what the core said when it is not. */
static bool ok(int status, const AneError *err, int line) {
    if (status == ANE_OK) {
        g_passed++;
        return true;
    }
    g_failed++;
    printf("test_core.c:%d: status %d at '%s': %s %s\n", line, status, err->step, err->text, err->detail);
    return false;
}
#define OK(call) ok((call), &err, __LINE__)

/* ============================== The kernels =============================== */

enum { CHANNELS = 4, WIDTH = 32, COUNT = CHANNELS * WIDTH, STEPS = 40 };

/* y[c,s] = g[c] x[c,s]; %s makes the two texts differ. */
static const char *TEXT =
    "program(1.3)\n"
    "[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, {\"coremlc-version\", \"3505.4.1\"}, "
    "{\"coremltools-component-milinternal\", \"\"}, {\"coremltools-version\", \"9.0\"}})]\n"
    "{\n"
    "    func main<ios18>(tensor<fp16, [1, 4, 1, 32]> i00_x) {\n"
    "        tensor<fp16, [1, 4, 1, 1]> g = const()[name=string(\"g%s\"), val=tensor<fp16, [1, 4, 1, 1]>"
    "(BLOBFILE(path=string(\"@model_path/weights/g.bin\"), offset=uint64(64)))];\n"
    "        tensor<fp16, [1, 4, 1, 32]> o00_y = mul(x=i00_x, y=g)[name=string(\"o00_y\")];\n"
    "    } -> (o00_y);\n"
    "}\n";

static char g_text[2][2048];
static const AnePort g_in = {.name = "i00_x", .dtype = ANE_F16, .rank = 4, .shape = {1, CHANNELS, 1, WIDTH}};
static const AnePort g_out = {.name = "o00_y", .dtype = ANE_F16, .rank = 4, .shape = {1, CHANNELS, 1, WIDTH}};
static const AneBlob g_blob = {.path = "@model_path/weights/g.bin", .weight = 0, .rows = CHANNELS, .cols = 1};

static AneSource source(int i) {
    snprintf(g_text[i], sizeof g_text[i], TEXT, i ? "second" : "first");
    return (AneSource){.name = i ? "second" : "first", .mil = g_text[i], .mil_bytes = strlen(g_text[i]), .blobs = &g_blob, .n_blobs = 1};
}

static AneKernel kernel(int i) {
    return (AneKernel){
        .name = i ? "second" : "first", .program = i, .inputs = &g_in, .n_inputs = 1, .outputs = &g_out, .n_outputs = 1};
}

/* Weights of version v: every gain is v + 1, so the chain multiplies by (v + 1) squared. */
static float g_weights[STEPS + 1][CHANNELS];

/* ============================== One program =============================== */

static void a_program_from_c(void) {
    AneError err = {0};
    AneSource s = source(0);
    AneKernel k = kernel(0);
    float gain[CHANNELS] = {1, 2, 3, 4}, x[COUNT], y[COUNT] = {0};
    const void *weights[] = {gain};
    for (int i = 0; i < COUNT; i++)
        x[i] = (float)(i % 17);
    AneHandle p = 0, in = 0, out = 0;
    OK(ane_surface_create(&g_in, &in, &err));
    OK(ane_surface_create(&g_out, &out, &err));
    OK(ane_program_create(&s, &k, weights, 1, &p, &err));
    OK(ane_program_compile(p, 17, &err));
    OK(ane_program_load(p, 17, &err));
    OK(ane_surface_write_f32(in, x, COUNT, &err));
    OK(ane_program_eval(p, &in, 1, &out, 1, 21, &err));
    OK(ane_surface_read_f32(out, y, COUNT, &err));
    bool right = true;
    for (int i = 0; i < COUNT; i++)
        right &= y[i] == gain[i / WIDTH] * x[i];
    CHECK(right);
    OK(ane_program_unload(p, 17, &err));
    OK(ane_close(p, &err));
    CHECK(ane_close(p, &err) == ANE_E_CLOSED);
    OK(ane_close(in, &err));
    OK(ane_close(out, &err));
}

/* ============================== The scheduler ============================= */

typedef struct {
    AneHandle sched, in, out;
    int staleness;
    atomic_long evals, looks;
} Shared;

static atomic_bool g_stop;

/* Evaluates the chain; what comes out is the square of one version's gain, and never an older one. */
static void *evaluate(void *context) {
    Shared *s = context;
    AneError err = {0};
    const int32_t chain[] = {0, 1};
    float x[COUNT], y[COUNT];
    bool whole = true, forward = true;
    float last = 0;
    for (int i = 0; i < COUNT; i++)
        x[i] = 1;
    if (!OK(ane_surface_write_f32(s->in, x, COUNT, &err)))
        return NULL;
    while (!atomic_load(&g_stop)) {
        if (ane_sched_eval(s->sched, chain, 2, &err) != ANE_OK || ane_surface_read_f32(s->out, y, COUNT, &err) != ANE_OK) {
            g_failed++;
            printf("evaluate: %s\n", err.text);
            return NULL;
        }
        if (ane_sched_micro_step(s->sched, &err) != ANE_OK)
            whole = false;
        for (int i = 1; i < COUNT; i++)
            whole &= y[i] == y[0];
        int gain = 1;
        while (gain <= STEPS + 1 && (float)(gain * gain) != y[0])
            gain++;
        whole &= gain <= STEPS + 1; /* both kernels of the same version */
        forward &= y[0] >= last;
        last = y[0];
        atomic_fetch_add(&s->evals, 1);
    }
    CHECK(whole);
    CHECK(forward);
    return NULL;
}

static void *watch(void *context) {
    Shared *s = context;
    AneError err = {0};
    bool sane = true;
    int64_t traced = 0;
    while (!atomic_load(&g_stop)) {
        AneSchedState state;
        AneEngineInfo info;
        AneEvent event[64];
        int32_t n = 0;
        int64_t lost = 0;
        sane &= ane_sched_state(s->sched, &state, &err) == ANE_OK;
        int64_t behind = state.newest - state.active;
        sane &= behind >= 0 && (s->staleness < 0 || behind <= s->staleness + 1);
        sane &= ane_engine_info(&info, &err) == ANE_OK;
        sane &= ane_sched_trace(s->sched, event, 64, &n, &lost, &err) == ANE_OK;
        for (int32_t i = 0; i < n; i++)
            sane &= event[i].begin_ns <= event[i].end_ns;
        traced += n;
        atomic_fetch_add(&s->looks, 1);
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
    CHECK(sane);
    CHECK(traced > 0);
    return NULL;
}

/* The three parts of a boundary for the weights of `version`. */
static bool step(AneHandle sched, int version, AneBatchStats *stats) {
    AneError err = {0};
    const void *weights[] = {g_weights[version]};
    int status;
    while ((status = ane_sched_boundary(sched, 50, &err)) == ANE_AGAIN) {
    }
    if (status != ANE_SKIP && !OK(status))
        return false;
    if (!OK(ane_sched_submit(sched, status == ANE_SKIP ? NULL : weights, 0, &err)))
        return false;
    while ((status = ane_sched_finish(sched, 50, stats, &err)) == ANE_AGAIN) {
    }
    return OK(status);
}

/* A batch: until both threads have come round again, or have given up. */
static void both_went_on(Shared *s) {
    long evals = atomic_load(&s->evals), looks = atomic_load(&s->looks);
    for (int i = 0; i < 5000 && (atomic_load(&s->evals) == evals || atomic_load(&s->looks) == looks); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK(atomic_load(&s->evals) > evals && atomic_load(&s->looks) > looks);
}

static void training_beside_evaluation(int staleness) {
    AneError err = {0};
    AneSource sources[] = {source(0), source(1)};
    AneKernel kernels[] = {kernel(0), kernel(1)};
    const AneWire wire = {.from = 0, .output = 0, .to = 1, .input = 0};
    const AneSchedOptions options = {
        .staleness = staleness, .background_qos = 17, .foreground_qos = 21, .canary = 1, .trace = 4096};
    const int64_t counts[] = {CHANNELS};
    const void *first[] = {g_weights[0]};
    Shared s = {.staleness = staleness};
    AneBatchStats stats;
    if (!OK(ane_sched_create(sources, 2, kernels, 2, counts, 1, &wire, 1, &options, &s.sched, &err)))
        return;
    OK(ane_sched_submit(s.sched, first, 0, &err));
    int status;
    while ((status = ane_sched_finish(s.sched, 50, &stats, &err)) == ANE_AGAIN) {
    }
    OK(status);
    OK(ane_sched_surface(s.sched, 0, 0, 0, &s.in, &err));
    OK(ane_sched_surface(s.sched, 1, 1, 0, &s.out, &err));
    pthread_t evaluator, watcher;
    atomic_store(&g_stop, false);
    pthread_create(&evaluator, NULL, evaluate, &s);
    pthread_create(&watcher, NULL, watch, &s);
    bool bounded = true;
    for (int v = 1; v <= STEPS && step(s.sched, v, &stats); v++) {
        bounded &= stats.newest == v && (staleness < 0 || stats.staleness <= staleness);
        both_went_on(&s);
    }
    CHECK(bounded);
    atomic_store(&g_stop, true);
    pthread_join(evaluator, NULL);
    pthread_join(watcher, NULL);
    CHECK(stats.failures == 0);
    while ((status = ane_sched_close(s.sched, 50, &err)) == ANE_AGAIN) {
    }
    OK(status);
    AneEngineInfo info;
    OK(ane_engine_info(&info, &err));
    CHECK(info.loaded == 0);
    CHECK(ane_sched_micro_step(s.sched, &err) == ANE_E_CLOSED);
}

int main(int argc, char **argv) {
    AneError err = {0};
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int v = 0; v <= STEPS; v++)
        for (int c = 0; c < CHANNELS; c++)
            g_weights[v][c] = (float)(v + 1);
    if (argc > 1 && OK(ane_engine_open(argv[1], &err))) {
        OK(ane_engine_set_compile_limit(0, &err));
        a_program_from_c();
        training_beside_evaluation(1);
        training_beside_evaluation(0);
        training_beside_evaluation(3);
        training_beside_evaluation(-1);
    }
    printf("%d passed, %d failed\n", g_passed, g_failed);
    return argc < 2 || g_failed != 0;
}
