// SPDX-License-Identifier: MIT
/* test_sched_storm.h - part of test_sched.c: many threads for a long time, and what a
 * boundary costs. Threads talk to each other through relaxed atomics only, so that
 * nothing but the scheduler itself orders them. */

enum { EVALUATORS = 2, LIFE_SWAPS = 500 };

typedef struct {
    AneHandle h;
    bool stop;
    int64_t evals, refused, polls, events;
    int64_t version_seen; /* highest of any evaluation, relaxed */
} Life;

typedef struct {
    Life *life;
    int id;
} Worker;

static void *evaluate_on(void *context) {
    Worker *w = context;
    Life *l = w->life;
    int64_t last = -1;
    null_seed(0x51ed27 + (uint64_t)w->id);
    while (!GET(l->stop)) {
        AneError err;
        null_chain_begin();
        int status = ane_sched_eval(l->h, CHAIN, KERNELS, &err);
        NullChain c = null_chain_end();
        if (status == ANE_E_CLOSED)
            break;
        if (status != ANE_OK) {
            ADD(l->refused, 1);
            CHECK(status == ANE_E_ENGINE);
        }
        if (c.mixed || (c.version >= 0 && c.version < last))
            FAIL("one chain, one version, never older than the last");
        if (c.version >= 0)
            last = c.version;
        ADD(l->evals, c.evals);
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    return NULL;
}

static void *ask_on(void *context) {
    Life *l = ((Worker *)context)->life;
    int64_t active = -1, newest = -1;
    AneEvent events[64];
    while (!GET(l->stop)) {
        AneSchedState s;
        int32_t n;
        int64_t lost;
        if (ane_sched_state(l->h, &s, NULL) != ANE_OK || ane_sched_trace(l->h, events, 64, &n, &lost, NULL) != ANE_OK)
            break;
        bool closed = s.active < 0 && active >= 0;
        if ((s.active < active && !closed) || s.newest < newest || s.active > s.newest || s.pending > s.newest)
            FAIL("versions only grow");
        if ((s.slot == ANE_SLOT_EMPTY) != (s.pending < 0) || (s.pending >= 0 && s.pending <= s.active))
            FAIL("an empty slot holds nothing, a full one something newer");
        if (s.oldest_needed > s.newest + 1)
            FAIL("nobody needs the future");
        for (int32_t i = 0; i < n; i++)
            if (events[i].begin_ns > events[i].end_ns || events[i].kind < ANE_EV_BAKE || events[i].kind > ANE_EV_SNAPSHOT)
                FAIL("a trace event begins before it ends");
        if (!closed) {
            active = s.active;
            newest = s.newest;
        }
        (void)ane_sched_micro_step(l->h, NULL);
        ADD(l->polls, 1);
        ADD(l->events, n);
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return NULL;
}

static void *close_suddenly(void *context) {
    Life *l = ((Worker *)context)->life;
    nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    int status = close_all(l->h);
    CHECK(status == ANE_OK || status == ANE_E_CLOSED); /* the stepping thread may have been quicker */
    return NULL;
}

/* What must be so when a boundary has returned. */
static void check_boundary(Stepper *t, const AneBatchStats *s, int32_t staleness) {
    if (s->staleness != s->newest - s->active || (staleness >= 0 && s->staleness > staleness))
        FAIL("the bound on staleness holds after a boundary");
    if (staleness < 0 && s->wait_ns && s->batch)
        FAIL("without a bound nothing waits");
    null_chain_begin();
    int status = ane_sched_eval(t->h, CHAIN, KERNELS, NULL);
    NullChain c = null_chain_end();
    if (c.mixed || (status == ANE_OK && c.version != s->active))
        FAIL("the next batch runs on the generation that was reported");
}

/* One scheduler from its making to its end; `sudden`: another thread closes it in the middle. */
static void live(int32_t staleness, int64_t swaps, uint64_t seed, bool sudden, Stepper *t, Life *total) {
    Life life = {0};
    AneError err;
    AneBatchStats stats;
    CHECK(make(staleness, true, 256, &life.h, &err) == ANE_OK);
    stepper_init(t, life.h, seed);
    t->impatient = true;
    Worker worker[EVALUATORS + 2];
    pthread_t thread[EVALUATORS + 2];
    int n = 0;
    bool started = false;
    int64_t tries = 0;
    while (t->swaps < swaps) {
        int status = ANE_OK;
        for (uint64_t some = dice(t, 4); some > 0 && status == ANE_OK; some--)
            status = offer_some(t, &err);
        if (status == ANE_OK)
            status = step(t, (int32_t)dice(t, 3), &stats, &err);
        t->steps++;
        if (status == ANE_E_CLOSED)
            break;
        t->left += status == ANE_AGAIN;
        t->errors += status < 0;
        if (status == ANE_OK) {
            t->swaps += stats.swapped;
            check_boundary(t, &stats, staleness);
            if (dice(t, 2))
                reuse_sets(t);
        }
        if (status == ANE_OK && !started) { /* there is a generation: the others may come */
            started = true;
            for (; n < EVALUATORS + 1 + sudden; n++) {
                worker[n] = (Worker){&life, n};
                pthread_create(&thread[n], NULL, n < EVALUATORS ? evaluate_on : n == EVALUATORS ? ask_on : close_suddenly, &worker[n]);
            }
        }
        if (++tries > 1000 * (swaps + 1000)) {
            FAIL("the scheduler gets on");
            break;
        }
    }
    if (dice(t, 2)) /* closing under running evaluations, or after them */
        SET(life.stop, true);
    int closed = close_all(life.h);
    CHECK(closed == ANE_OK || (sudden && closed == ANE_E_CLOSED));
    SET(life.stop, true);
    for (int i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
    total->evals += life.evals;
    total->refused += life.refused;
    total->polls += life.polls;
    total->events += life.events;
    check_clean();
}

static void storm(int64_t swaps, uint64_t seed) {
    static const int32_t bounds[] = {0, 1, 2, -1};
    static Stepper t;
    uint64_t begin_all = ane_now_ns();
    int64_t all = 0;
    for (size_t b = 0; b < 4; b++) {
        Life total = {0};
        int64_t made = 0, errors = 0, left = 0, lives = 0, steps = 0;
        null_reset();
        for (int s = NULL_BAKE; s <= NULL_REQUEST; s++)
            null_set_chance(s, s == NULL_EVAL ? 1000 : 2000);
        uint64_t begin = ane_now_ns();
        while (made < swaps / 4) {
            int64_t want = swaps / 4 - made < LIFE_SWAPS ? swaps / 4 - made : LIFE_SWAPS;
            live(bounds[b], want, seed + (uint64_t)(lives * 4) + b, lives % 8 == 7, &t, &total);
            lives++;
            made += t.swaps;
            errors += t.errors;
            left += t.left;
            steps += t.steps;
        }
        double seconds = (double)(ane_now_ns() - begin) / 1e9;
        NullCounts n;
        null_counts(&n);
        CHECK(n.peak_loaded <= 2 * KERNELS);
        all += made;
        printf("staleness %2d: %lld swaps in %lld boundaries of %lld schedulers, %lld failed sets, %lld waits left, "
               "%lld evaluations (%lld refused), %lld questions, %lld trace events, at most %lld programs loaded, %.0f swaps/s\n",
               bounds[b], (long long)made, (long long)steps, (long long)lives, (long long)errors, (long long)left,
               (long long)total.evals, (long long)total.refused, (long long)total.polls, (long long)total.events,
               (long long)n.peak_loaded, (double)made / seconds);
        fflush(stdout);
    }
    double seconds = (double)(ane_now_ns() - begin_all) / 1e9;
    printf("storm: %lld swaps in %.1f s, %.0f swaps/s\n", (long long)all, seconds, (double)all / seconds);
}

/* ============================== Cost ====================================== */

/* Time of boundary + submit + finish on the stepping thread, nobody else there: with a set that is
 * ready at each boundary, and with `evals` evaluations between two boundaries. */
static void cost_of(int32_t staleness, int evals) {
    enum { ROUNDS = 1000 };
    static uint64_t spent[ROUNDS], waited[ROUNDS], evaluated[ROUNDS];
    static Stepper t;
    AneHandle h = start(&t, staleness);
    AneBatchStats s;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t begin = ane_now_ns();
        for (int e = 0; e < evals; e += KERNELS)
            CHECK(ane_sched_eval(h, CHAIN, KERNELS, NULL) == ANE_OK);
        evaluated[i] = evals ? (ane_now_ns() - begin) / (uint64_t)evals : 0;
        wait_published(h);
        begin = ane_now_ns();
        CHECK(step(&t, 50, &s, NULL) == ANE_OK);
        spent[i] = ane_now_ns() - begin - s.wait_ns;
        waited[i] = s.wait_ns;
    }
    CHECK(close_all(h) == ANE_OK);
    qsort(spent, ROUNDS, sizeof *spent, by_size);
    qsort(waited, ROUNDS, sizeof *waited, by_size);
    qsort(evaluated, ROUNDS, sizeof *evaluated, by_size);
    printf("cost, staleness %2d, %4d evaluations per boundary: boundary p50 %.1f us, p99 %.1f us (waits apart: p50 %.1f us); "
           "evaluation p50 %llu ns\n",
           staleness, evals, (double)spent[ROUNDS / 2] / 1e3, (double)spent[ROUNDS * 99 / 100] / 1e3,
           (double)waited[ROUNDS / 2] / 1e3, (unsigned long long)evaluated[ROUNDS / 2]);
}

static void measure_cost(void) {
    cost_of(1, 0);
    cost_of(1, 64);
    cost_of(1, 1024);
    cost_of(-1, 64);
    cost_of(1, 8192);
    cost_of(0, 64);
}
