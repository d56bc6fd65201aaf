// SPDX-License-Identifier: MIT
/* test_sched.c - the double-buffer scheduler on the null engine, in C.
 *
 *   test_sched [--swaps N] [--seed N]
 *
 * First single promises, one function each, with the null engine's gates; then a
 * storm: one thread steps, others evaluate chains, ask and close, compiles fail at
 * random, for each bound on staleness, until N sets were installed; then what a
 * boundary costs. tools/test_sched.py builds it plain and under sanitizers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_core_sched.h"
#include "null_engine.h"

#define GET(what) __atomic_load_n(&(what), __ATOMIC_RELAXED)
#define SET(what, to) __atomic_store_n(&(what), (to), __ATOMIC_RELAXED)
#define ADD(what, by) __atomic_add_fetch(&(what), (by), __ATOMIC_RELAXED)
#define LONG_MS 20000 /* nothing here takes as long, however busy the machine */

static int64_t g_passed, g_failed;

static void check_at(bool good, const char *what, const char *where, int line) {
    if (good) {
        ADD(g_passed, 1);
    } else if (ADD(g_failed, 1) <= 20) {
        printf("line %d: %s: not true: %s\n", line, where, what);
        fflush(stdout);
    }
}
#define CHECK(cond) check_at((cond), #cond, __func__, __LINE__)
#define FAIL(promise) check_at(false, promise, __func__, __LINE__)

/* ============================== Failing allocations ======================= */

/* The test program is linked with --wrap: the n-th allocation from now fails, once. */
static int g_oom_at;
static bool oom(void) { return GET(g_oom_at) > 0 && ADD(g_oom_at, -1) == 0; }

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_malloc(size_t bytes) { return oom() ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t n, size_t bytes) { return oom() ? NULL : __real_calloc(n, bytes); }
void *__wrap_realloc(void *old, size_t bytes) { return oom() ? NULL : __real_realloc(old, bytes); }

/* ============================== The kernel set ============================ */

static int32_t g_dtype = ANE_F32; /* of the weights that kernels bake, but for the frozen one */

/* Three kernels in a wired chain; k0 and k1 share a weight; k3 bakes frozen weights only. */
enum { KERNELS = 4, WEIGHTS = 5, COUNT = 32, SETS = 3 };
static const int32_t CHAIN[KERNELS] = {0, 1, 2, 3};

static AnePort port(const char *name) {
    return (AnePort){.name = name, .dtype = ANE_F16, .rank = 4, .shape = {1, 4, 1, 32}};
}

/* A weight file of `rows` rows. */
static AneBlob blob_of(const char *path, int32_t weight, int64_t rows) {
    return (AneBlob){.path = path, .weight = weight, .transform = ANE_BAKE_PLAIN, .rows = rows, .cols = COUNT / rows};
}

static int make(int32_t staleness, bool canary, int32_t trace, AneHandle *out, AneError *err) {
    static const char *const name[KERNELS] = {"k0", "k1", "k2", "k3"};
    AnePort in = port("x"), result = port("y");
    AneBlob blob[] = {blob_of("@model_path/weights/a", 0, 4), blob_of("@model_path/weights/b", 1, 1),
                      blob_of("@model_path/weights/b", 1, 1), blob_of("@model_path/weights/c", 2, 1),
                      blob_of("@model_path/weights/d", 3, 1), blob_of("@model_path/weights/frozen", 4, 1)};
    static const int first[KERNELS] = {0, 2, 4, 5}, blobs[KERNELS] = {2, 2, 1, 1};
    for (int b = 0; b < 5; b++)
        blob[b].dtype = g_dtype;
    blob[0].transform = g_dtype == ANE_F16 ? ANE_BAKE_TRANSPOSE : ANE_BAKE_PLAIN;
    AneSource source[KERNELS];
    AneKernel kernel[KERNELS];
    for (int k = 0; k < KERNELS; k++) {
        source[k] = (AneSource){.name = name[k], .mil = "null", .mil_bytes = 4, .blobs = &blob[first[k]], .n_blobs = blobs[k]};
        kernel[k] = (AneKernel){
            .name = name[k], .program = k, .function = NULL, .inputs = &in, .n_inputs = 1, .outputs = &result, .n_outputs = 1};
    }
    const int64_t counts[WEIGHTS] = {COUNT, COUNT, COUNT, COUNT, COUNT};
    const AneWire wires[] = {{.from = 0, .output = 0, .to = 1, .input = 0, .shared = 0},
                             {.from = 1, .output = 0, .to = 2, .input = 0, .shared = 0}};
    const AneSchedOptions options = {.staleness = staleness,
                                     .background_qos = 17,
                                     .foreground_qos = NULL_FOREGROUND_QOS,
                                     .canary = canary,
                                     .trace = trace,
                                     .pool = 0,
                                     .tell_apart = 0};
    return ane_sched_create(source, KERNELS, kernel, KERNELS, counts, WEIGHTS, wires, 2, &options, out, err);
}

/* A training thread: its weights are a few sets it writes again as soon as it may. */
typedef struct {
    AneHandle h;
    float data[SETS][WEIGHTS][COUNT];
    int64_t version[SETS]; /* handed over with, -1: free */
    bool impatient;        /* leaves waits in the middle now and then, as after Ctrl-C */
    uint64_t random;
    int64_t steps, swaps, errors, left, offers, withdrawn;
    int offered; /* the set that is being offered, -1: none */
} Stepper;

static uint64_t dice(Stepper *t, uint64_t sides) {
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return (t->random >> 11) % sides;
}

static void stepper_init(Stepper *t, AneHandle h, uint64_t seed) {
    memset(t, 0, sizeof *t);
    t->h = h;
    t->random = seed * 0x9e3779b97f4a7c15u | 1;
    t->offered = -1;
    for (int i = 0; i < SETS; i++)
        t->version[i] = -1;
}

static void fill(float (*set)[COUNT], float value) {
    for (int w = 0; w < WEIGHTS; w++)
        for (int i = 0; i < COUNT; i++)
            set[w][i] = w == 4 ? 7.0f : value;
}

/* Overwrite every set the scheduler says it no longer reads. */
static void reuse_sets(Stepper *t) {
    AneSchedState s;
    if (ane_sched_state(t->h, &s, NULL) != ANE_OK)
        return;
    for (int i = 0; i < SETS; i++)
        if (t->version[i] >= 0 && t->version[i] < s.oldest_needed) {
            for (int w = 0; w < WEIGHTS - 1; w++)
                for (int e = 0; e < COUNT; e++)
                    t->data[i][w][e] = (float)(-1 - e);
            t->version[i] = -1;
        }
}

/* The set that is being offered, or a free one, filled for the version to come. */
static int take_set(Stepper *t, const AneSchedState *s) {
    reuse_sets(t);
    int i = t->offered;
    if (i >= 0)
        return i;
    for (i = 0; i < SETS && t->version[i] >= 0;)
        i++;
    CHECK(i < SETS);
    if (i == SETS)
        return -1;
    fill(t->data[i], (float)(s->newest + 1));
    return i;
}

/* Offer some weights of the version to come, or take all offers back. ANE_AGAIN: left in the middle. */
static int offer_some(Stepper *t, AneError *err) {
    AneSchedState s;
    int status = ane_sched_state(t->h, &s, err);
    if (status != ANE_OK || s.newest < 0)
        return status;
    if (t->offered >= 0 && dice(t, 8) == 0) {
        while ((status = ane_sched_withdraw(t->h, (int32_t)dice(t, 3), err)) == ANE_AGAIN)
            ;
        if (status == ANE_OK) { /* nobody reads it: write it at once */
            t->version[t->offered] = -1;
            fill(t->data[t->offered], -7.0f);
            t->offered = -1;
            t->withdrawn++;
        }
        return status;
    }
    int i = take_set(t, &s);
    if (i < 0)
        return ANE_E_STATE;
    const void *pointers[WEIGHTS];
    for (int w = 0; w < WEIGHTS; w++)
        pointers[w] = dice(t, 2) ? t->data[i][w] : NULL;
    status = ane_sched_offer(t->h, dice(t, 16) ? pointers : NULL, err);
    if (status == ANE_OK) {
        t->version[i] = s.newest + 1;
        t->offered = i;
        t->offers++;
    }
    return status;
}

static int submit(Stepper *t, AneError *err) {
    AneSchedState s;
    int status = ane_sched_state(t->h, &s, err);
    if (status != ANE_OK)
        return status;
    int i = take_set(t, &s);
    if (i < 0)
        return ANE_E_STATE;
    const void *pointers[WEIGHTS];
    for (int w = 0; w < WEIGHTS; w++)
        pointers[w] = t->data[i][w];
    t->offered = -1;
    t->version[i] = s.newest + 1;
    return ane_sched_submit(t->h, pointers, 0, err);
}

/* What is ready is installed before the boundary, now and then. */
static int install(AneHandle h, bool wanted, AneError *err) {
    int status = wanted ? ane_sched_install(h, err) : ANE_SKIP;
    return status == ANE_SKIP ? ANE_OK : status;
}

/* One boundary in slices. ANE_AGAIN: left in the middle of a wait. */
static int step(Stepper *t, int32_t slice_ms, AneBatchStats *out, AneError *err) {
    int status = install(t->h, dice(t, 2) == 0, err);
    if (status < 0)
        return status;
    while ((status = ane_sched_boundary(t->h, slice_ms, err)) == ANE_AGAIN)
        if (t->impatient && dice(t, 4) == 0)
            return ANE_AGAIN;
    if (status < 0)
        return status;
    if (status == ANE_SKIP) { /* what was offered is dropped; nothing of it was begun */
        if (t->offered >= 0)
            t->version[t->offered] = -1;
        t->offered = -1;
    }
    status = status == ANE_SKIP ? ane_sched_submit(t->h, NULL, 0, err) : submit(t, err);
    if (status < 0)
        return status;
    while ((status = ane_sched_finish(t->h, slice_ms, out, err)) == ANE_AGAIN)
        if (t->impatient && dice(t, 4) == 0)
            return ANE_AGAIN;
    return status;
}

static int close_all(AneHandle h) {
    int status = ANE_AGAIN;
    for (int i = 0; i < LONG_MS / 50 && status == ANE_AGAIN; i++)
        status = ane_sched_close(h, 50, NULL);
    return status;
}

/* Made and freed are equal, nothing is loaded, the budget is back. */
static void check_clean(void) {
    NullCounts n;
    null_counts(&n);
    for (int i = 0; i < 2000 && n.surfaces_made != n.surfaces_freed; i++) { /* the queue lets go last */
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        null_counts(&n);
    }
    CHECK(n.programs_made == n.programs_freed);
    CHECK(n.requests_made == n.requests_freed);
    CHECK(n.surfaces_made == n.surfaces_freed);
    CHECK(n.loaded == 0);
    CHECK(n.reserved == 0);
    CHECK(n.violations == 0);
    if (n.violations)
        printf("null engine: %lld violations, the first: %s\n", (long long)n.violations, null_first_violation());
}

/* A scheduler with version 0 installed; the caller closes it. */
static AneHandle start(Stepper *t, int32_t staleness) {
    AneHandle h = 0;
    AneError err;
    AneBatchStats stats;
    null_reset();
    CHECK(make(staleness, true, 0, &h, &err) == ANE_OK);
    stepper_init(t, h, 1);
    CHECK(step(t, 50, &stats, &err) == ANE_OK && stats.active == 0);
    return h;
}

static AneSchedState state_of(AneHandle h) {
    AneSchedState s = {0};
    CHECK(ane_sched_state(h, &s, NULL) == ANE_OK);
    return s;
}

/* Poll until the slot is no longer COMPILING. */
static void wait_published(AneHandle h) {
    AneSchedState s;
    for (int i = 0; i < LONG_MS && ane_sched_state(h, &s, NULL) == ANE_OK && s.slot == ANE_SLOT_COMPILING; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ============================== Single promises =========================== */

static void staleness_is_what_was_asked_for(void) {
    for (int32_t n = 0; n < 3; n++) {
        Stepper t;
        AneHandle h = start(&t, n);
        for (int i = 1; i < 20; i++) {
            AneBatchStats s;
            CHECK(step(&t, 50, &s, NULL) == ANE_OK);
            CHECK(s.newest == i && s.staleness <= n && (n > 1 || s.staleness == n));
            null_chain_begin();
            CHECK(ane_sched_eval(h, CHAIN, KERNELS, NULL) == ANE_OK);
            NullChain c = null_chain_end();
            CHECK(!c.mixed && c.evals == KERNELS && c.version == s.active);
        }
        CHECK(close_all(h) == ANE_OK);
        check_clean();
    }
}

/* Every step of every kernel of a set fails once: the error comes once, the old set stays, the next step goes on. */
static void a_failing_set_is_told_once_and_never_becomes_active(void) {
    static const int steps[] = {NULL_BAKE, NULL_COMPILE, NULL_LOAD, NULL_CANARY, NULL_REQUEST};
    for (int32_t staleness = -1; staleness < 3; staleness++)
        for (size_t f = 0; f < sizeof steps / sizeof *steps; f++)
            for (int n = 1; n <= KERNELS - (steps[f] != NULL_BAKE); n++) { /* the frozen kernel is only baked again */
                Stepper t;
                AneHandle h = start(&t, staleness);
                AneBatchStats s;
                AneError err;
                null_fail_at(steps[f], steps[f] == NULL_REQUEST ? 2 * n - 1 : n);
                int status = step(&t, 50, &s, &err); /* staleness 0 hears of it here, the others at the next */
                if (status == ANE_OK) {
                    wait_published(h);
                    CHECK(state_of(h).slot == ANE_SLOT_FAILED);
                    status = step(&t, 50, &s, &err);
                }
                CHECK(status < 0 && err.status == status && err.kernel == n - 1);
                CHECK(state_of(h).active == 0 && state_of(h).failures == 1 && state_of(h).slot == ANE_SLOT_EMPTY);
                null_chain_begin();
                CHECK(ane_sched_eval(h, CHAIN, KERNELS, NULL) == ANE_OK && null_chain_end().version == 0);
                CHECK(step(&t, 50, &s, &err) == ANE_OK && s.failures == 1);
                CHECK(staleness < 0 || s.staleness <= staleness);
                CHECK(close_all(h) == ANE_OK);
                check_clean();
            }
}

static void the_budget_of_a_set_is_reserved_first(void) {
    Stepper t;
    AneHandle h = start(&t, 1);
    AneBatchStats s;
    AneError err;
    NullCounts before, after;
    null_counts(&before);
    null_set_limit(before.compiles + KERNELS - 1);
    CHECK(step(&t, 50, &s, &err) == ANE_OK);
    wait_published(h);
    null_counts(&after);
    CHECK(after.compiles == before.compiles && after.reserved == 0);
    CHECK(step(&t, 50, &s, &err) == ANE_E_BUDGET);
    null_set_limit(before.compiles + KERNELS); /* one set, of which the frozen kernel costs nothing */
    CHECK(step(&t, 50, &s, &err) == ANE_OK && s.active == 2);
    CHECK(s.compiles_used == before.compiles + KERNELS - 1);
    CHECK(close_all(h) == ANE_OK);
    check_clean();
}

typedef struct {
    AneHandle h;
    int id, status;
    NullChain chain;
} Evaluation;

static void *evaluate_once(void *context) {
    Evaluation *e = context;
    null_thread(e->id);
    SET(e->status, 1); /* named: the gate may be asked */
    null_chain_begin();
    int status = ane_sched_eval(e->h, CHAIN, KERNELS, NULL);
    e->chain = null_chain_end();
    SET(e->status, status);
    return NULL;
}

/* An evaluation of the oldest set still runs while two boundaries pass. */
static void at_most_two_sets_are_loaded_while_an_old_evaluation_runs(void) {
    Stepper t;
    AneHandle h = start(&t, -1);
    AneBatchStats s;
    NullCounts n;
    Evaluation e = {.h = h, .id = 0};
    pthread_t thread;
    null_forget_peak();
    null_gate_eval(true);
    pthread_create(&thread, NULL, evaluate_once, &e);
    while (GET(e.status) != 1)
        sched_yield();
    CHECK(null_eval_wait(0, LONG_MS) == 0);
    CHECK(step(&t, 50, &s, NULL) == ANE_OK);
    wait_published(h);
    CHECK(step(&t, 50, &s, NULL) == ANE_OK && s.active == 1); /* version 2 is given to the queue */
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    null_counts(&n);
    CHECK(n.peak_loaded <= 2 * KERNELS);
    CHECK(state_of(h).slot == ANE_SLOT_COMPILING);
    null_gate_eval(false);
    pthread_join(thread, NULL);
    CHECK(e.status == ANE_OK && !e.chain.mixed && e.chain.version == 0);
    wait_published(h); /* the evaluation's end let the next set be built */
    CHECK(state_of(h).slot == ANE_SLOT_READY);
    CHECK(close_all(h) == ANE_OK);
    null_counts(&n);
    CHECK(n.peak_loaded <= 2 * KERNELS);
    check_clean();
}

static void *finish_slowly(void *context) {
    Evaluation *e = context;
    AneBatchStats s;
    int status;
    while ((status = ane_sched_finish(e->h, LONG_MS, &s, NULL)) == ANE_E_BUSY) /* the main thread looked */
        sched_yield();
    SET(e->status, status);
    return NULL;
}

/* Another thread closes while a boundary waits, and the job ends well all the same: the
 * boundary must not install its set (nobody would ever drop it), nor report a batch. */
static void closing_ends_a_waiting_boundary_with_an_error(void) {
    for (int passes = 1; passes <= 2 * KERNELS; passes++) { /* the job is held before its n-th step meanwhile */
        Stepper t;
        AneHandle h = start(&t, 0);
        Evaluation e = {.h = h, .status = ANE_AGAIN};
        pthread_t thread;
        null_gate_job(true);
        CHECK(ane_sched_boundary(h, 0, NULL) == ANE_OK && submit(&t, NULL) == ANE_OK);
        for (int i = 1; i < passes; i++) {
            CHECK(null_job_wait(LONG_MS) >= 0);
            null_job_allow(ANE_OK);
        }
        CHECK(null_job_wait(LONG_MS) >= 0);
        pthread_create(&thread, NULL, finish_slowly, &e);
        AneBatchStats ignored;
        while (ane_sched_finish(h, 0, &ignored, NULL) != ANE_E_BUSY) /* until it stands in its wait */
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        CHECK(ane_sched_close(h, 0, NULL) == ANE_AGAIN);
        null_gate_job(false);
        pthread_join(thread, NULL);
        CHECK(e.status == ANE_E_CLOSED);
        CHECK(close_all(h) == ANE_OK);
        check_clean();
    }
}

/* Close with a time limit: what the job had built meanwhile is unloaded without a second call. */
static void a_close_that_was_given_up_still_unloads_everything(void) {
    Stepper t;
    AneHandle h = start(&t, 1);
    NullCounts n;
    null_gate_job(true);
    CHECK(ane_sched_boundary(h, 0, NULL) == ANE_OK && submit(&t, NULL) == ANE_OK);
    for (int i = 0; i < 2 * KERNELS - 1; i++) {
        CHECK(null_job_wait(LONG_MS) >= 0);
        null_job_allow(ANE_OK);
    }
    CHECK(null_job_wait(LONG_MS) == NULL_LOAD * 1000 + KERNELS - 1); /* after the last look at `closing` */
    CHECK(ane_sched_close(h, 0, NULL) == ANE_AGAIN);
    null_gate_job(false);
    for (int i = 0; i < LONG_MS; i++) {
        null_counts(&n);
        if (!n.loaded)
            break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    CHECK(n.loaded == 0 && n.programs_made == n.programs_freed);
    CHECK(close_all(h) == ANE_OK);
    check_clean();
}

/* The time between an interrupted wait and the next step is not waiting. */
static void an_interrupted_wait_counts_only_what_was_waited(void) {
    Stepper t;
    AneHandle h = start(&t, 0);
    AneBatchStats s;
    null_gate_job(true);
    CHECK(ane_sched_boundary(h, 0, NULL) == ANE_OK && submit(&t, NULL) == ANE_OK);
    CHECK(null_job_wait(LONG_MS) >= 0);
    CHECK(ane_sched_finish(h, 20, &s, NULL) == ANE_AGAIN); /* and here comes Ctrl-C */
    uint64_t away = ane_now_ns();
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    null_gate_job(false);
    wait_published(h);
    away = ane_now_ns() - away;
    uint64_t back = ane_now_ns();
    CHECK(step(&t, 50, &s, NULL) == ANE_OK);
    back = ane_now_ns() - back;
    CHECK(s.wait_ns >= 20000000 && s.wait_ns < away + back);
    CHECK(s.wait_ns < away);
    CHECK(close_all(h) == ANE_OK);
    check_clean();
}

static void a_weight_is_of_one_dtype_and_what_is_rounded_takes_no_scale(void) {
    AnePort in = port("x"), result = port("y");
    const int64_t counts[] = {COUNT, 1};
    const AneSchedOptions options = {1, 17, NULL_FOREGROUND_QOS, false, 0, 0, 0};
    static const struct {
        int32_t dtype[2], scale;
        const char *said;
    } cases[] = {{{ANE_F16, ANE_F32}, 0, "weight 0 is of dtype 2 here and of 1 elsewhere"},
                 {{0, ANE_F16}, 0, "weight 0 is of dtype 1 here and of 2 elsewhere"},
                 {{ANE_F16, ANE_F16}, 2, "a weight of dtype 1 with a scale, expected ANE_F32"},
                 {{3, 3}, 0, "a weight of dtype 3, expected ANE_F32 or ANE_F16"},
                 {{0, ANE_F32}, 2, ""},
                 {{ANE_F16, ANE_F16}, 0, ""}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        AneBlob blob[2];
        for (int b = 0; b < 2; b++) {
            blob[b] = blob_of(b ? "@model_path/weights/b" : "@model_path/weights/a", 0, 1);
            blob[b].scale = cases[i].scale;
            blob[b].dtype = cases[i].dtype[b];
        }
        const AneSource source = {"k", "null", 4, blob, 2};
        const AneKernel kernel = {"k", 0, NULL, &in, 1, &result, 1};
        AneError err = {0};
        AneHandle h;
        int status = ane_sched_create(&source, 1, &kernel, 1, counts, 2, NULL, 0, &options, &h, &err);
        CHECK(status == (*cases[i].said ? ANE_E_ARG : ANE_OK));
        if (*cases[i].said)
            CHECK(strstr(err.text, cases[i].said) != NULL);
        if (status == ANE_OK)
            CHECK(close_all(h) == ANE_OK);
    }
    check_clean();
}

static void wrong_calls_get_a_status(void) {
    Stepper t;
    AneHandle h = start(&t, -1);
    AneBatchStats s;
    const int32_t wrong[] = {0, KERNELS};
    const void *missing[WEIGHTS] = {0};
    null_gate_job(true);
    CHECK(ane_sched_submit(h, missing, 0, NULL) == ANE_E_ARG);
    CHECK(ane_sched_boundary(h, 0, NULL) == ANE_OK && submit(&t, NULL) == ANE_OK);
    CHECK(submit(&t, NULL) == ANE_E_STATE);
    CHECK(ane_sched_boundary(h, 0, NULL) == ANE_SKIP);
    CHECK(ane_sched_eval(h, wrong, 2, NULL) == ANE_E_ARG);
    CHECK(ane_sched_eval(h, wrong, 0, NULL) == ANE_E_ARG);
    null_gate_job(false);
    CHECK(close_all(h) == ANE_OK);
    CHECK(ane_sched_boundary(h, 0, NULL) == ANE_E_CLOSED && ane_sched_finish(h, 0, &s, NULL) == ANE_E_CLOSED);
    CHECK(ane_sched_eval(h, CHAIN, 1, NULL) == ANE_E_CLOSED && ane_sched_micro_step(h, NULL) == ANE_E_CLOSED);
    CHECK(ane_sched_close(h, 0, NULL) == ANE_E_CLOSED);
    check_clean();
}

/* The n-th allocation fails, for every n of a whole life: a status, nothing leaked, or it did not matter. */
static void every_allocation_may_fail(void) {
    bool reached = true;
    int n = 0;
    for (n = 1; reached; n++) {
        AneHandle h = 0;
        AneBatchStats s;
        AneError err;
        Stepper t;
        null_reset();
        SET(g_oom_at, n);
        if (make(1, true, 64, &h, &err) == ANE_OK) {
            stepper_init(&t, h, 1);
            for (int i = 0; i < 4; i++) {
                int status = step(&t, 50, &s, &err);
                CHECK(status == ANE_OK || status == ANE_E_MEMORY || status == ANE_E_BIND || status == ANE_E_STATE);
            }
            (void)ane_sched_eval(h, CHAIN, KERNELS, NULL);
            CHECK(close_all(h) == ANE_OK);
        } else {
            CHECK(err.status == ANE_E_MEMORY);
        }
        reached = GET(g_oom_at) <= 0;
        SET(g_oom_at, 0);
        check_clean();
    }
    printf("allocations of one life failed one by one: %d\n", n - 2);
    CHECK(n > 100);
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Against sorting, for few and many samples with and without equal ones. */
static void percentiles_are_those_of_the_sorted_samples(void) {
    Stepper t;
    stepper_init(&t, 0, 7);
    AneSamples s;
    CHECK(ane_samples_init(&s) == ANE_OK);
    uint64_t *sorted = malloc(ANE_MAX_SAMPLES * sizeof *sorted);
    for (int n = 1; sorted && n <= ANE_MAX_SAMPLES; n += 1 + n / 3)
        for (uint64_t sides = 1; sides < 1u << 20; sides *= 8) {
            ane_samples_reset(&s);
            for (int i = 0; i < n; i++) {
                sorted[i] = dice(&t, sides) + (sides == 8 ? (uint64_t)i : 0);
                ane_samples_add(&s, sorted[i]);
            }
            uint64_t p[3];
            ane_samples_percentiles(&s, &p[0], &p[1], &p[2]);
            qsort(sorted, (size_t)n, sizeof *sorted, by_size);
            int last = n - 1;
            CHECK(p[0] == sorted[last / 2] && p[1] == sorted[last * 90 / 100] && p[2] == sorted[last * 99 / 100]);
        }
    free(sorted);
    ane_samples_free(&s);
}

#include "test_sched_storm.h"
#include "test_sched_update.h"
#include "test_sched_grad.h"

static const struct {
    const char *name;
    void (*run)(void);
} g_tests[] = {
#define TEST(f) {#f, f}
    TEST(staleness_is_what_was_asked_for),
    TEST(a_failing_set_is_told_once_and_never_becomes_active),
    TEST(the_budget_of_a_set_is_reserved_first),
    TEST(at_most_two_sets_are_loaded_while_an_old_evaluation_runs),
    TEST(closing_ends_a_waiting_boundary_with_an_error),
    TEST(a_close_that_was_given_up_still_unloads_everything),
    TEST(an_interrupted_wait_counts_only_what_was_waited),
    TEST(wrong_calls_get_a_status),
    TEST(percentiles_are_those_of_the_sorted_samples),
    TEST(a_weight_is_of_one_dtype_and_what_is_rounded_takes_no_scale),
    TEST(updates_in_the_background_are_those_of_the_foreground_to_the_bit),
    TEST(an_update_writes_what_the_kernels_are_made_from),
    TEST(one_update_at_a_time_and_none_is_asked_for_nothing),
    TEST(a_version_that_is_provided_is_built_and_one_that_is_not_leaves_no_lag),
    TEST(a_gradient_that_was_waited_for_alone_is_whole_and_left_alone),
    TEST(every_allocation_may_fail),
};

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int64_t swaps = 20000;
    uint64_t seed = 1;
    bool cost_only = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--swaps") == 0 && i + 1 < argc)
            swaps = strtoll(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--cost") == 0)
            cost_only = true;
    }
    for (size_t i = 0; !cost_only && i < sizeof g_tests / sizeof *g_tests; i++) {
        int64_t before = GET(g_failed);
        g_tests[i].run();
        if (GET(g_failed) != before)
            printf("FAILED: %s\n", g_tests[i].name);
    }
    if (!cost_only) {
        storm(swaps, seed);
        update_storm(swaps / 4, seed);
    }
    measure_cost();
    printf("%lld passed, %lld failed\n", (long long)g_passed, (long long)g_failed);
    return g_failed ? 1 : 0;
}
