// SPDX-License-Identifier: MIT
/* test_sched_update.h - part of test_sched.c: updates as the first part of the job. The
 * masters are a reference computed by ane_cpu_update on another copy: equal to the bit after
 * every update that was collected. */

/* A training thread whose optimizer is the scheduler's. WEIGHTS - 1 tensors are trained. */
enum { TRAINED = WEIGHTS - 1, BUFFERS = 4 };
typedef struct {
    AneHandle h;
    float p[BUFFERS][WEIGHTS][COUNT], m[TRAINED][COUNT], v[TRAINED][COUNT], g[2][TRAINED][COUNT];
    uint16_t half[BUFFERS][TRAINED][COUNT]; /* handed over in place of p, and p[0] is updated in place, with g_dtype ANE_F16 */
    int64_t version[BUFFERS]; /* of the weights in it, -1: free */
    int newest, target, gradients;
    int64_t steps, taken, skipped, applied;
    bool under_way, built;
    struct {
        float p[TRAINED][COUNT], m[TRAINED][COUNT], v[TRAINED][COUNT], g[TRAINED][COUNT];
        int64_t steps;
        AneUpdateResult result;
    } want;
    uint64_t random;
    bool impatient;
} Learner;

static uint64_t toss(Learner *l, uint64_t sides) {
    l->random = l->random * 6364136223846793005u + 1442695040888963407u;
    return (l->random >> 33) % sides;
}

static AneUpdateJob describe(AneUpdateTensor *t, const float *g, int64_t steps) {
    return (AneUpdateJob){.tensors = t, .n_tensors = TRAINED, .gradients = g, .n_gradients = TRAINED * COUNT, .lr = 0.01f,
                          .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .clip = 1.0, .loss_scale = 8.0, .micro_steps = 2,
                          .step = steps + 1};
}

/* New gradients, poisoned now and then, and what must come of them. */
static void learn(Learner *l) {
    float(*g)[COUNT] = l->g[l->gradients];
    for (int w = 0; w < TRAINED; w++)
        for (int i = 0; i < COUNT; i++) {
            CHECK(g[w][i] == 0.0f); /* zeroed for reuse */
            g[w][i] = (float)toss(l, 1000) - 500.0f;
        }
    if (toss(l, 5) == 0)
        g[toss(l, TRAINED)][toss(l, COUNT)] = INFINITY;
    memcpy(l->want.g, g, sizeof l->want.g);
    AneUpdateTensor t[TRAINED];
    for (int w = 0; w < TRAINED; w++)
        t[w] = (AneUpdateTensor){.p_in = l->want.p[w],
                                 .p_out = l->want.p[w],
                                 .m = l->want.m[w],
                                 .v = l->want.v[w],
                                 .g = l->want.g[w],
                                 .count = COUNT,
                                 .weight_decay = 0.1f,
                                 .weight = -1,
                                 .ahead = NULL};
    const AneUpdateJob job = describe(t, l->want.g[0], l->want.steps);
    CHECK(ane_cpu_update(&job, &l->want.result, NULL) == ANE_OK);
    l->want.steps += l->want.result.applied;
}

static bool same(const void *a, const void *b, size_t n) { return memcmp(a, b, n) == 0; }

static float (*masters(Learner *l))[COUNT] { return l->p[g_dtype == ANE_F16 ? 0 : l->newest]; }

/* What is handed over are the newest masters, rounded. */
static bool is_rounded(Learner *l) {
    uint16_t want[TRAINED][COUNT];
    ane_cpu_half_from_float(masters(l)[0], want[0], TRAINED * COUNT);
    return g_dtype != ANE_F16 || same(l->half[l->newest], want, sizeof want);
}

/* Take note of an update that has ended. ANE_AGAIN when the slice was too short. */
static int collect(Learner *l, int32_t slice_ms) {
    AneUpdateResult r;
    int status = ane_sched_collect(l->h, slice_ms, &r, NULL);
    if (status != ANE_OK || !l->under_way)
        return status;
    l->under_way = false;
    CHECK(r.version == l->taken && r.applied == l->want.result.applied && !r.failed);
    CHECK(same(&r.grad_norm, &l->want.result.grad_norm, sizeof r.grad_norm) && r.clip == l->want.result.clip);
    if (r.applied) {
        l->version[l->target] = l->built ? r.version : 0; /* 0: nobody reads it */
        l->newest = l->target;
        l->steps++;
    } else {
        l->version[l->target] = -1;
    }
    l->applied += r.applied;
    l->skipped += !r.applied;
    CHECK(same(masters(l), l->want.p, sizeof l->want.p) && is_rounded(l) && same(l->m, l->want.m, sizeof l->m) && same(l->v, l->want.v, sizeof l->v));
    return ANE_OK;
}

static int submit_learner(Learner *l, bool build, AneError *err) {
    AneSchedState s;
    int status = ane_sched_state(l->h, &s, err);
    if (status != ANE_OK)
        return status;
    l->target = -1;
    for (int b = 0; b < BUFFERS && l->target < 0; b++)
        if (b != l->newest && (l->version[b] < 0 || l->version[b] < s.oldest_needed))
            l->target = b;
    CHECK(l->target >= 0);
    if (l->target < 0)
        return ANE_E_STATE;
    learn(l);
    const bool rounded = g_dtype == ANE_F16;
    float(*from)[COUNT] = masters(l), (*to)[COUNT] = rounded ? from : l->p[l->target], (*g)[COUNT] = l->g[l->gradients];
    AneUpdateTensor t[TRAINED];
    const void *pointers[WEIGHTS];
    for (int w = 0; w < TRAINED; w++)
        t[w] = (AneUpdateTensor){.p_in = from[w],
                                 .p_out = to[w],
                                 .m = l->m[w],
                                 .v = l->v[w],
                                 .g = g[w],
                                 .count = COUNT,
                                 .weight_decay = 0.1f,
                                 .weight = w,
                                 .ahead_f16 = rounded ? l->half[l->target][w] : NULL};
    for (int w = 0; w < WEIGHTS; w++)
        pointers[w] = rounded && w < TRAINED ? (const void *)l->half[l->target][w] : to[w];
    l->version[l->target] = s.newest + 1;
    const AneUpdateJob job = describe(t, g[0], l->steps);
    status = ane_sched_submit_update(l->h, &job, pointers, build, err);
    if (status == ANE_OK) {
        l->taken = s.newest + 1;
        l->under_way = true;
        l->built = build;
        l->gradients ^= 1;
    } else { /* the reference must forget this one, too: only a close gets here */
        l->version[l->target] = -1;
    }
    return status;
}

/* One boundary with an update. ANE_AGAIN: left in the middle of a wait. */
static int step_learner(Learner *l, int32_t slice_ms, AneBatchStats *out, AneError *err) {
    int status = install(l->h, toss(l, 4) == 0, err);
    if (status < 0)
        return status;
    while ((status = collect(l, slice_ms)) == ANE_AGAIN)
        if (l->impatient && toss(l, 4) == 0)
            return ANE_AGAIN;
    if (status < 0)
        return status;
    while ((status = ane_sched_boundary(l->h, slice_ms, err)) == ANE_AGAIN)
        if (l->impatient && toss(l, 4) == 0)
            return ANE_AGAIN;
    if (status >= 0)
        status = submit_learner(l, status != ANE_SKIP, err);
    if (status < 0)
        return status;
    while ((status = ane_sched_finish(l->h, slice_ms, out, err)) == ANE_AGAIN)
        if (l->impatient && toss(l, 4) == 0)
            return ANE_AGAIN;
    return status;
}

static AneHandle start_learner(Learner *l, int32_t staleness, uint64_t seed) {
    AneError err;
    AneBatchStats stats;
    memset(l, 0, sizeof *l);
    l->random = seed;
    for (int b = 1; b < BUFFERS; b++)
        l->version[b] = -1;
    for (int b = 0; b < BUFFERS; b++)
        for (int w = 0; w < WEIGHTS; w++)
            for (int i = 0; i < COUNT; i++)
                l->p[b][w][i] = w < TRAINED ? 1.0f : 7.0f;
    memcpy(l->want.p, l->p[0], sizeof l->want.p);
    const void *pointers[WEIGHTS];
    ane_cpu_half_from_float(l->p[0][0], l->half[0][0], TRAINED * COUNT);
    for (int w = 0; w < WEIGHTS; w++)
        pointers[w] = g_dtype == ANE_F16 && w < TRAINED ? (const void *)l->half[0][w] : l->p[0][w];
    CHECK(make(staleness, true, 256, &l->h, &err) == ANE_OK);
    CHECK(ane_sched_submit(l->h, pointers, 0, &err) == ANE_OK);
    int status;
    while ((status = ane_sched_finish(l->h, 50, &stats, &err)) == ANE_AGAIN) {
    }
    CHECK(status == ANE_OK && stats.active == 0);
    return l->h;
}

static void collect_all(Learner *l) {
    int status;
    while ((status = collect(l, 50)) == ANE_AGAIN) {
    }
    CHECK(status == ANE_OK || status == ANE_SKIP);
}

/* ============================== Single promises =========================== */

static void updates_in_the_background_are_those_of_the_foreground_to_the_bit(void) {
    static Learner l;
    for (int32_t run = -1; run < 7; run++) {
        const int32_t staleness = run < 3 ? run : run - 4;
        g_dtype = run < 3 ? ANE_F32 : ANE_F16;
        null_reset();
        null_stamps(false);
        AneBatchStats s = {0};
        AneHandle h = start_learner(&l, staleness, 7 + (uint64_t)staleness);
        NullCounts before, after;
        null_counts(&before);
        for (int i = 0; i < 200; i++) {
            AneError err = {0};
            int status = step_learner(&l, 50, &s, &err);
            CHECK(status == ANE_OK);
            if (status != ANE_OK)
                printf("staleness %d, update %d: status %d: %s\n", staleness, i, status, err.text);
            CHECK(staleness < 0 || s.staleness <= staleness);
            CHECK(ane_sched_eval(h, CHAIN, KERNELS, NULL) == ANE_OK);
        }
        collect_all(&l);
        null_counts(&after);
        CHECK(l.applied > 100 && l.skipped > 10 && l.applied + l.skipped == 200);
        CHECK(after.files_taken > before.files_taken); /* the bake is the update's */
        CHECK(close_all(h) == ANE_OK);
        null_stamps(true);
        check_clean();
    }
    g_dtype = ANE_F32;
}

static void an_update_writes_what_the_kernels_are_made_from(void) {
    static Learner l;
    AneError err;
    for (int i = 0; i < 2; i++) {
        null_reset();
        null_stamps(false);
        g_dtype = i ? ANE_F16 : ANE_F32;
        AneHandle h = start_learner(&l, 1, 3);
        CHECK(ane_sched_boundary(h, 50, &err) == ANE_OK);
        g_dtype = i ? ANE_F32 : ANE_F16; /* the learner takes them for the other */
        CHECK(submit_learner(&l, true, &err) == ANE_E_ARG);
        CHECK(strstr(err.text, i ? "the update writes float32, the kernels are made from float16"
                                 : "the update writes float16, the kernels are made from float32") != NULL);
        CHECK(close_all(h) == ANE_OK);
        null_stamps(true);
        check_clean();
    }
    g_dtype = ANE_F32;
}

static void one_update_at_a_time_and_none_is_asked_for_nothing(void) {
    static Learner l;
    AneUpdateResult r;
    AneError err;
    null_reset();
    AneHandle h = start_learner(&l, 1, 3);
    CHECK(ane_sched_collect(h, 0, &r, &err) == ANE_SKIP);
    CHECK(ane_sched_provide(h, 0, NULL, 0, &err) == ANE_E_STATE);
    CHECK(ane_sched_boundary(h, 50, &err) == ANE_OK);
    CHECK(ane_sched_submit_update(h, NULL, NULL, 1, &err) == ANE_OK);
    CHECK(ane_sched_collect(h, 0, &r, &err) == ANE_AGAIN);
    CHECK(ane_sched_submit_update(h, NULL, NULL, 1, &err) == ANE_E_STATE);
    CHECK(ane_sched_provide(h, 2, NULL, 0, &err) == ANE_E_STATE); /* another version */
    CHECK(ane_sched_close(h, 10, &err) == ANE_AGAIN); /* it is waited for */
    CHECK(ane_sched_provide(h, 1, NULL, 1, &err) == ANE_OK);
    CHECK(close_all(h) == ANE_OK);
    check_clean();
}

static void a_version_that_is_provided_is_built_and_one_that_is_not_leaves_no_lag(void) {
    AneError err;
    AneBatchStats s;
    AneUpdateResult r;
    Stepper t;
    AneHandle h = start(&t, 1);
    static float data[WEIGHTS][COUNT];
    fill(data, 1);
    const void *pointers[WEIGHTS];
    for (int w = 0; w < WEIGHTS; w++)
        pointers[w] = data[w];
    CHECK(ane_sched_boundary(h, 50, &err) == ANE_OK);
    CHECK(ane_sched_submit_update(h, NULL, NULL, 1, &err) == ANE_OK);
    CHECK(ane_sched_finish(h, 50, &s, &err) == ANE_OK && s.staleness == 1);
    CHECK(ane_sched_provide(h, 1, pointers, 0, &err) == ANE_OK);
    CHECK(ane_sched_collect(h, 50, &r, &err) == ANE_OK && r.applied && r.version == 1);
    wait_published(h);
    CHECK(ane_sched_boundary(h, 50, &err) == ANE_OK);
    CHECK(ane_sched_submit_update(h, NULL, NULL, 1, &err) == ANE_OK);
    CHECK(ane_sched_finish(h, 50, &s, &err) == ANE_OK && s.swapped && s.active == 1 && s.staleness == 1);
    CHECK(ane_sched_provide(h, 2, NULL, 1, &err) == ANE_OK);
    CHECK(ane_sched_collect(h, 50, &r, &err) == ANE_OK && !r.applied && r.failed);
    CHECK(state_of(h).slot == ANE_SLOT_EMPTY);
    CHECK(ane_sched_boundary(h, 50, &err) == ANE_OK);
    CHECK(ane_sched_finish(h, 50, &s, &err) == ANE_OK && s.active == 1 && s.staleness == 0 && s.updates_skipped == 1);
    CHECK(close_all(h) == ANE_OK);
    check_clean();
}

/* ============================== Storm ===================================== */

/* Updates, evaluations, failing sets, waits left, closing in the middle: to the bit all along. */
static void update_storm(int64_t updates, uint64_t seed) {
    static Learner l;
    static const int32_t bounds[] = {0, 1, 2, -1};
    int64_t done = 0, lives = 0, skipped = 0, errors = 0;
    uint64_t begin = ane_now_ns();
    null_reset();
    null_stamps(false);
    while (done < updates) {
        null_set_chance(NULL_BAKE, 0);
        null_set_chance(NULL_COMPILE, 0);
        g_dtype = (lives + lives / 4) % 2 ? ANE_F16 : ANE_F32;
        AneHandle h = start_learner(&l, bounds[lives % 4], seed + (uint64_t)lives);
        l.impatient = true;
        for (int c = NULL_BAKE; c <= NULL_COMPILE; c++)
            null_set_chance(c, 2000);
        Life life = {.h = h};
        Worker worker[3];
        pthread_t thread[3];
        bool sudden = lives % 8 == 7;
        int n = 0;
        for (; n < 2 + sudden; n++) {
            worker[n] = (Worker){&life, n};
            pthread_create(&thread[n], NULL, n == 0 ? evaluate_on : n == 1 ? ask_on : close_suddenly, &worker[n]);
        }
        for (int i = 0; i < 500; i++) {
            AneBatchStats s;
            AneError err;
            int status = step_learner(&l, (int32_t)toss(&l, 3), &s, &err);
            if (status == ANE_E_CLOSED)
                break;
            errors += status < 0;
            if (status == ANE_OK && bounds[lives % 4] >= 0 && s.staleness > bounds[lives % 4])
                FAIL("the bound on staleness holds after a boundary");
        }
        SET(life.stop, true);
        if (!sudden)
            collect_all(&l);
        int closed = close_all(h);
        CHECK(closed == ANE_OK || (sudden && closed == ANE_E_CLOSED));
        for (int i = 0; i < n; i++)
            pthread_join(thread[i], NULL);
        done += l.applied + l.skipped;
        skipped += l.skipped;
        lives++;
        check_clean();
    }
    g_dtype = ANE_F32;
    null_reset();
    null_stamps(true);
    printf("updates: %lld (%lld skipped) of %lld schedulers, %lld failed sets, %.0f/s\n", (long long)done, (long long)skipped,
           (long long)lives, (long long)errors, (double)done / ((double)(ane_now_ns() - begin) / 1e9));
}
