// SPDX-License-Identifier: MIT
/* test_dispatch.c - what ane_native expects of Grand Central Dispatch.
 *
 * The same assertions run against a real libdispatch and against the bundled
 * _dispatch_small.c (tools/test_dispatch.py builds and runs both), so the two
 * cannot drift apart. Only behaviour that both promise is asserted. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1 /* it has a thread of its own, and no forks */
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "_gcd.h"

#define MS ((int64_t)1000000)

static int g_passed, g_failed;

#define CHECK(cond)                                                                  \
    do {                                                                             \
        if (cond) {                                                                  \
            g_passed++;                                                              \
        } else {                                                                     \
            g_failed++;                                                              \
            printf("%s:%d: %s: not true: %s\n", __FILE__, __LINE__, __func__, #cond); \
        }                                                                            \
    } while (0)

/* ============================== Helpers =================================== */

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static dispatch_time_t after_ms(int64_t ms) { return dispatch_time(DISPATCH_TIME_NOW, ms * MS); }
static dispatch_queue_t serial(const char *name) { return dispatch_queue_create(name, DISPATCH_QUEUE_SERIAL); }
static dispatch_queue_t global(void) { return dispatch_get_global_queue(0, 0); }

static int thread_count(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    if (!d)
        return -1;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void count_one(void *context) { atomic_fetch_add((atomic_int *)context, 1); }
static void nothing(void *context) { (void)context; }

typedef struct {
    dispatch_semaphore_t came, go, left;
    atomic_int n;
} Gate;

static void wait_at_gate(void *context) {
    Gate *g = context;
    atomic_fetch_add(&g->n, 1);
    dispatch_semaphore_signal(g->came);
    dispatch_semaphore_wait(g->go, DISPATCH_TIME_FOREVER);
    dispatch_semaphore_signal(g->left);
}

static Gate gate_new(void) {
    return (Gate){.came = dispatch_semaphore_create(0),
                  .go = dispatch_semaphore_create(0),
                  .left = dispatch_semaphore_create(0)};
}

static void gate_free(Gate *g) {
    dispatch_release(g->came);
    dispatch_release(g->go);
    dispatch_release(g->left);
}

/* ============================== Time ====================================== */

static void time_saturates_instead_of_wrapping(void) {
    dispatch_time_t now = dispatch_time(DISPATCH_TIME_NOW, 0);
    CHECK(now != DISPATCH_TIME_NOW && now != DISPATCH_TIME_FOREVER);
    CHECK(dispatch_time(now, 5 * MS) == now + 5 * MS);
    CHECK(dispatch_time(now, -5) == now - 5);
    CHECK(dispatch_time(DISPATCH_TIME_FOREVER, -5) == DISPATCH_TIME_FOREVER);
    CHECK(dispatch_time(DISPATCH_TIME_FOREVER, 5) == DISPATCH_TIME_FOREVER);
    CHECK(dispatch_time(DISPATCH_TIME_NOW, INT64_MAX) == DISPATCH_TIME_FOREVER);
    CHECK(dispatch_time(now, INT64_MAX) == DISPATCH_TIME_FOREVER);
    dispatch_time_t past = dispatch_time(DISPATCH_TIME_NOW, INT64_MIN);
    CHECK(past != DISPATCH_TIME_NOW && past != DISPATCH_TIME_FOREVER && past < now);
    CHECK(dispatch_time(DISPATCH_TIME_NOW, 0) >= now);
}

/* ============================== Semaphores ================================ */

static void semaphore_counts_and_times_out(void) {
    dispatch_semaphore_t s = dispatch_semaphore_create(0);
    CHECK(dispatch_semaphore_create(-1) == NULL);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_NOW) != 0);
    double begin = now_ms();
    CHECK(dispatch_semaphore_wait(s, after_ms(30)) != 0);
    double took = now_ms() - begin;
    CHECK(took >= 29 && took < 2000);
    CHECK(dispatch_semaphore_wait(s, dispatch_time(DISPATCH_TIME_NOW, -5 * MS)) != 0);
    CHECK(dispatch_semaphore_signal(s) == 0); /* nobody waits: nobody is woken */
    CHECK(dispatch_semaphore_signal(s) == 0);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_NOW) == 0);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_FOREVER) == 0);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_NOW) != 0);
    dispatch_release(s);
    s = dispatch_semaphore_create(2);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_NOW) == 0);
    CHECK(dispatch_semaphore_wait(s, DISPATCH_TIME_NOW) == 0);
    CHECK(dispatch_semaphore_wait(s, after_ms(1)) != 0);
    dispatch_semaphore_signal(s);
    dispatch_semaphore_signal(s);
    dispatch_release(s);
}

typedef struct {
    dispatch_semaphore_t s;
    atomic_int got;
} Taker;

static void *take_three(void *context) {
    Taker *t = context;
    for (int i = 0; i < 3; i++)
        if (dispatch_semaphore_wait(t->s, after_ms(10000)) == 0)
            atomic_fetch_add(&t->got, 1);
    return NULL;
}

static void every_signal_wakes_exactly_one_waiter(void) {
    Taker t = {.s = dispatch_semaphore_create(0)};
    pthread_t thread[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, take_three, &t);
    for (int i = 0; i < 24; i++) {
        dispatch_semaphore_signal(t.s);
        if (i % 5 == 0)
            sleep_ms(1);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    CHECK(atomic_load(&t.got) == 24);
    CHECK(dispatch_semaphore_wait(t.s, DISPATCH_TIME_NOW) != 0);
    dispatch_release(t.s);
}

/* ============================== Serial queues ============================= */

enum { ORDERED = 2000 };
typedef struct {
    int order[ORDERED]; /* plain ints: a race would be seen by ThreadSanitizer */
    int n;
    atomic_int inside;
    int overlaps;
} Log;

typedef struct {
    Log *log;
    int number;
} Entry;

static void append(void *context) {
    Entry *e = context;
    if (atomic_fetch_add(&e->log->inside, 1) != 0)
        e->log->overlaps++;
    e->log->order[e->log->n++] = e->number;
    atomic_fetch_sub(&e->log->inside, 1);
    free(e);
}

static Entry *entry(Log *log, int number) {
    Entry *e = malloc(sizeof *e);
    if (!e)
        exit(2);
    *e = (Entry){.log = log, .number = number};
    return e;
}

static void serial_queue_keeps_order_and_never_overlaps(void) {
    Log *log = calloc(1, sizeof *log);
    dispatch_queue_t q = serial("test.order");
    for (int i = 0; i < ORDERED - 1; i++)
        dispatch_async_f(q, entry(log, i), append);
    dispatch_sync_f(q, entry(log, ORDERED - 1), append); /* comes after all of them */
    CHECK(log->n == ORDERED);
    CHECK(log->overlaps == 0);
    bool sorted = true;
    for (int i = 0; i < log->n; i++)
        sorted &= log->order[i] == i;
    CHECK(sorted);
    dispatch_release(q);
    free(log);
}

typedef struct {
    dispatch_queue_t q;
    Log *log;
    int from;
} Producer;

static void *produce(void *context) {
    Producer *p = context;
    for (int i = 0; i < 200; i++) {
        if (i % 3 == 0)
            dispatch_sync_f(p->q, entry(p->log, p->from + i), append);
        else
            dispatch_async_f(p->q, entry(p->log, p->from + i), append);
    }
    return NULL;
}

static void many_producers_on_one_serial_queue(void) {
    Log *log = calloc(1, sizeof *log);
    dispatch_queue_t q = serial("test.producers");
    Producer p[6];
    pthread_t thread[6];
    for (int i = 0; i < 6; i++) {
        p[i] = (Producer){.q = q, .log = log, .from = 1000 * i};
        pthread_create(&thread[i], NULL, produce, &p[i]);
    }
    for (int i = 0; i < 6; i++)
        pthread_join(thread[i], NULL);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(log->n == 1200 && log->overlaps == 0);
    int next[6] = {0};
    bool sorted = true;
    for (int i = 0; i < log->n; i++)
        sorted &= log->order[i] % 1000 == next[log->order[i] / 1000]++;
    CHECK(sorted); /* each producer's items are in its own order */
    dispatch_release(q);
    free(log);
}

static void note_thread(void *context) { *(pthread_t *)context = pthread_self(); }

static void sync_runs_on_the_calling_thread(void) {
    pthread_t who = 0;
    dispatch_queue_t q = serial("test.sync");
    dispatch_sync_f(q, &who, note_thread);
    CHECK(pthread_equal(who, pthread_self()));
    who = 0;
    dispatch_sync_f(global(), &who, note_thread);
    CHECK(pthread_equal(who, pthread_self()));
    Gate g = gate_new();
    dispatch_async_f(q, &g, wait_at_gate);
    dispatch_semaphore_wait(g.came, DISPATCH_TIME_FOREVER);
    dispatch_semaphore_signal(g.go); /* the queue is, or just was, busy */
    who = 0;
    dispatch_sync_f(q, &who, note_thread);
    CHECK(who != 0);
    dispatch_async_f(q, &who, note_thread);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(!pthread_equal(who, pthread_self()));
    dispatch_release(q);
    gate_free(&g);
}

typedef struct {
    dispatch_queue_t inner;
    atomic_int *count;
} Nest;

static void sync_inner(void *context) {
    Nest *n = context;
    dispatch_sync_f(n->inner, n->count, count_one);
}

static void a_queue_may_wait_for_another_queue(void) {
    atomic_int count = 0;
    dispatch_queue_t a = serial("test.a"), b = serial("test.b");
    Nest n = {.inner = b, .count = &count};
    for (int i = 0; i < 100; i++) {
        dispatch_async_f(a, &n, sync_inner);
        dispatch_async_f(b, &count, count_one);
    }
    dispatch_sync_f(a, NULL, nothing);
    dispatch_sync_f(b, NULL, nothing);
    CHECK(atomic_load(&count) == 200);
    dispatch_release(a);
    dispatch_release(b);
}

static void blocked_serial_queues_do_not_hold_up_others(void) {
    enum { N = 100 };
    Gate g = gate_new();
    dispatch_queue_t q[N];
    for (int i = 0; i < N; i++) {
        q[i] = serial("test.blocked");
        dispatch_async_f(q[i], &g, wait_at_gate);
    }
    bool all = true;
    for (int i = 0; i < N; i++)
        all &= dispatch_semaphore_wait(g.came, after_ms(20000)) == 0;
    CHECK(all); /* all of them run at the same time */
    dispatch_queue_t free_queue = serial("test.free");
    atomic_int count = 0;
    dispatch_async_f(free_queue, &count, count_one);
    dispatch_sync_f(free_queue, NULL, nothing);
    CHECK(atomic_load(&count) == 1);
    for (int i = 0; i < N; i++)
        dispatch_semaphore_signal(g.go);
    for (int i = 0; i < N; i++) {
        dispatch_sync_f(q[i], NULL, nothing);
        dispatch_release(q[i]);
    }
    dispatch_release(free_queue);
    gate_free(&g);
}

static void a_queue_made_with_a_class_is_serial_too(void) {
    Log *log = calloc(1, sizeof *log);
    dispatch_queue_attr_t attr = dispatch_queue_attr_make_with_qos_class(DISPATCH_QUEUE_SERIAL, QOS_CLASS_UTILITY, 0);
    dispatch_queue_t q = dispatch_queue_create(NULL, attr);
    for (int i = 0; i < 500; i++)
        dispatch_async_f(q, entry(log, i), append);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(log->n == 500 && log->overlaps == 0);
    dispatch_release(q);
    free(log);
}

/* ============================== Releasing ================================= */

typedef struct {
    dispatch_queue_t q;
    dispatch_semaphore_t done;
    int left;
} Chain;

static void submit_again(void *context) {
    Chain *c = context;
    if (--c->left > 0)
        dispatch_async_f(c->q, c, submit_again);
    else
        dispatch_semaphore_signal(c->done);
}

static void work_outlives_the_release_of_its_queue(void) {
    atomic_int count = 0;
    dispatch_group_t group = dispatch_group_create();
    for (int i = 0; i < 200; i++) {
        dispatch_queue_t q = serial("test.released");
        for (int j = 0; j < 5; j++)
            dispatch_group_async_f(group, q, &count, count_one);
        dispatch_release(q);
    }
    CHECK(dispatch_group_wait(group, after_ms(20000)) == 0);
    CHECK(atomic_load(&count) == 1000);
    dispatch_release(group);
    Chain c = {.q = serial("test.chain"), .done = dispatch_semaphore_create(0), .left = 1000};
    dispatch_async_f(c.q, &c, submit_again);
    CHECK(dispatch_semaphore_wait(c.done, after_ms(20000)) == 0);
    dispatch_sync_f(c.q, NULL, nothing);
    dispatch_release(c.q);
    dispatch_release(c.done);
}

static void release_queue(void *context) { dispatch_release(context); }

static void a_queue_may_be_released_by_its_own_work(void) {
    for (int i = 0; i < 200; i++) {
        dispatch_queue_t q = serial("test.suicide");
        dispatch_async_f(q, q, release_queue);
    }
    dispatch_release(global()); /* no effect */
    dispatch_sync_f(global(), NULL, nothing);
    CHECK(dispatch_get_global_queue(0, 0) != NULL);
}

static void a_group_may_be_released_with_work_inside(void) {
    Gate g = gate_new();
    dispatch_group_t group = dispatch_group_create();
    dispatch_group_async_f(group, global(), &g, wait_at_gate);
    dispatch_release(group);
    dispatch_semaphore_wait(g.came, DISPATCH_TIME_FOREVER);
    dispatch_semaphore_signal(g.go);
    dispatch_semaphore_wait(g.left, DISPATCH_TIME_FOREVER);
    CHECK(atomic_load(&g.n) == 1);
    gate_free(&g);
}

/* ============================== Groups ==================================== */

static void group_waits_for_all_of_its_work(void) {
    dispatch_group_t group = dispatch_group_create();
    CHECK(dispatch_group_wait(group, DISPATCH_TIME_NOW) == 0); /* empty */
    Gate g = gate_new();
    atomic_int count = 0;
    dispatch_queue_t q = serial("test.group");
    dispatch_group_async_f(group, q, &g, wait_at_gate);
    for (int i = 0; i < 50; i++)
        dispatch_group_async_f(group, i % 2 ? q : global(), &count, count_one);
    CHECK(dispatch_group_wait(group, DISPATCH_TIME_NOW) != 0);
    double begin = now_ms();
    CHECK(dispatch_group_wait(group, after_ms(30)) != 0);
    CHECK(now_ms() - begin >= 29);
    dispatch_semaphore_signal(g.go);
    CHECK(dispatch_group_wait(group, DISPATCH_TIME_FOREVER) == 0);
    CHECK(atomic_load(&count) == 50);
    dispatch_group_async_f(group, q, &count, count_one); /* used again */
    CHECK(dispatch_group_wait(group, after_ms(10000)) == 0);
    CHECK(atomic_load(&count) == 51);
    dispatch_semaphore_wait(g.came, DISPATCH_TIME_FOREVER);
    dispatch_release(q);
    dispatch_release(group);
    gate_free(&g);
}

static void *wait_for_group(void *context) {
    return (void *)dispatch_group_wait(context, DISPATCH_TIME_FOREVER);
}

static void every_waiter_of_a_group_is_woken(void) {
    dispatch_group_t group = dispatch_group_create();
    Gate g = gate_new();
    dispatch_group_async_f(group, global(), &g, wait_at_gate);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, wait_for_group, group);
    sleep_ms(10);
    dispatch_semaphore_signal(g.go);
    bool all = true;
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(thread[i], &result);
        all &= result == NULL;
    }
    CHECK(all);
    dispatch_semaphore_wait(g.came, DISPATCH_TIME_FOREVER);
    dispatch_release(group);
    gate_free(&g);
}

/* ============================== Concurrent queue ========================== */

static void known_identifiers_give_a_queue(void) {
    CHECK(dispatch_get_global_queue(0, 0) != NULL);
    CHECK(dispatch_get_global_queue(QOS_CLASS_USER_INITIATED, 0) != NULL);
    CHECK(dispatch_get_global_queue(QOS_CLASS_UTILITY, 0) != NULL);
    CHECK(dispatch_get_global_queue(0x1234, 0) == NULL);
    CHECK(dispatch_get_global_queue(0, 0xf0) == NULL);
}

static void blocked_work_lets_other_work_run(void) {
#ifdef ANE_GCD_BUNDLED
    enum { N = 32 };
#else
    enum { N = 5 }; /* a libdispatch adds about one thread a second */
#endif
    Gate g = gate_new();
    dispatch_group_t group = dispatch_group_create();
    for (int i = 0; i < N; i++)
        dispatch_group_async_f(group, global(), &g, wait_at_gate);
    bool all = true;
    for (int i = 0; i < N; i++)
        all &= dispatch_semaphore_wait(g.came, after_ms(20000)) == 0;
    CHECK(all); /* they all wait at once: the pool grew */
    atomic_int count = 0;
    dispatch_group_t others = dispatch_group_create();
    for (int i = 0; i < 100; i++)
        dispatch_group_async_f(others, global(), &count, count_one);
    CHECK(dispatch_group_wait(others, after_ms(20000)) == 0);
    CHECK(atomic_load(&count) == 100);
    for (int i = 0; i < N; i++)
        dispatch_semaphore_signal(g.go);
    CHECK(dispatch_group_wait(group, after_ms(20000)) == 0);
    dispatch_release(group);
    dispatch_release(others);
    gate_free(&g);
}

static void spin_5ms(void *context) {
    double until = now_ms() + 5;
    while (now_ms() < until) {
    }
    count_one(context);
}

static void busy_work_does_not_make_a_crowd(void) {
    atomic_int count = 0;
    dispatch_group_t group = dispatch_group_create();
    for (int i = 0; i < 100; i++)
        dispatch_group_async_f(group, global(), &count, spin_5ms);
    int before = thread_count(), most = 0;
    while (dispatch_group_wait(group, after_ms(5)) != 0) {
        int n = thread_count();
        most = n > most ? n : most;
    }
    CHECK(atomic_load(&count) == 100);
    CHECK(most <= before + 20 + (int)sysconf(_SC_NPROCESSORS_ONLN));
    dispatch_release(group);
}

static void short_work_of_every_kind_at_once(void) {
    atomic_int count = 0;
    dispatch_group_t group = dispatch_group_create();
    dispatch_queue_t q[10];
    for (int i = 0; i < 10; i++)
        q[i] = serial("test.mixed");
    for (int i = 0; i < 5000; i++)
        dispatch_group_async_f(group, i % 2 ? global() : q[i / 2 % 10], &count, count_one);
    CHECK(dispatch_group_wait(group, after_ms(30000)) == 0);
    CHECK(atomic_load(&count) == 5000);
    for (int i = 0; i < 10; i++)
        dispatch_release(q[i]);
    dispatch_release(group);
}

/* ============================== Apply ===================================== */

enum { APPLIED = 10000 };

static void mark(void *context, size_t i) { ((unsigned char *)context)[i]++; }

static bool each_once(const unsigned char *seen, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (seen[i] != 1)
            return false;
    return true;
}

static void apply_does_each_index_once_before_it_returns(void) {
    unsigned char *seen = calloc(1, APPLIED);
    dispatch_apply_f(APPLIED, global(), seen, mark);
    CHECK(each_once(seen, APPLIED));
    memset(seen, 0, APPLIED);
    dispatch_apply_f(0, global(), seen, mark);
    CHECK(seen[0] == 0);
    dispatch_apply_f(1, global(), seen, mark);
    CHECK(each_once(seen, 1) && seen[1] == 0);
    memset(seen, 0, APPLIED);
    dispatch_queue_t q = serial("test.apply");
    dispatch_apply_f(1000, q, seen, mark);
    CHECK(each_once(seen, 1000));
    dispatch_release(q);
    free(seen);
}

typedef struct {
    size_t *order;
    size_t n;
} Visits;

static void visit(void *context, size_t i) {
    Visits *v = context;
    v->order[v->n++] = i; /* no lock: a serial queue needs none */
}

static void apply_on_a_serial_queue_is_in_order(void) {
    size_t order[500];
    Visits v = {.order = order};
    dispatch_queue_t q = serial("test.in-order");
    dispatch_apply_f(500, q, &v, visit);
    bool sorted = v.n == 500;
    for (size_t i = 0; i < v.n; i++)
        sorted &= order[i] == i;
    CHECK(sorted);
    dispatch_release(q);
}

typedef struct {
    unsigned char seen[20][50];
} Grid;

static void mark_row(void *context, size_t i) { dispatch_apply_f(50, global(), ((Grid *)context)->seen[i], mark); }
static void mark_grid(void *context) { dispatch_apply_f(20, global(), context, mark_row); }

static void apply_may_be_nested(void) {
    Grid *grid = calloc(8, sizeof *grid);
    dispatch_group_t group = dispatch_group_create();
    for (int i = 0; i < 8; i++)
        dispatch_group_async_f(group, global(), &grid[i], mark_grid);
    CHECK(dispatch_group_wait(group, after_ms(30000)) == 0);
    bool all = true;
    for (int i = 0; i < 8; i++)
        all &= each_once(grid[i].seen[0], sizeof grid[i].seen);
    CHECK(all);
    dispatch_release(group);
    free(grid);
}

typedef struct {
    dispatch_semaphore_t meet;
    atomic_int late;
} Meeting;

/* Each of two iterations waits for the other: possible only on two threads. */
static void meet(void *context, size_t i) {
    Meeting *m = context;
    if (i == 0 && dispatch_semaphore_wait(m->meet, after_ms(10000)) != 0)
        atomic_fetch_add(&m->late, 1);
    if (i == 1)
        dispatch_semaphore_signal(m->meet);
}

static void apply_uses_more_than_one_thread(void) {
    Meeting m = {.meet = dispatch_semaphore_create(0)};
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        dispatch_apply_f(2, global(), &m, meet);
        CHECK(atomic_load(&m.late) == 0);
    }
    dispatch_release(m.meet);
}

/* ============================== Once ====================================== */

static dispatch_once_t g_once;
static int g_once_runs;

static void slow_once(void *context) {
    (void)context;
    sleep_ms(10);
    g_once_runs++;
}

static void *ask_once(void *context) {
    (void)context;
    dispatch_once_f(&g_once, NULL, slow_once);
    return (void *)(intptr_t)(g_once_runs == 1);
}

static void once_runs_once_and_all_see_it_done(void) {
    pthread_t thread[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&thread[i], NULL, ask_once, NULL);
    bool all = true;
    for (int i = 0; i < 8; i++) {
        void *seen;
        pthread_join(thread[i], &seen);
        all &= seen != NULL;
    }
    CHECK(all);
    CHECK(g_once_runs == 1);
}

/* ============================== Threads =================================== */

static void nothing_runs_before_the_first_use(void) { CHECK(thread_count() == 1); }

static void note_mask(void *context) {
    sigset_t now;
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    *(int *)context = sigismember(&now, SIGINT);
}

static void signals_are_left_to_the_programs_threads(void) {
    int blocked = -1;
    dispatch_queue_t q = serial("test.signals");
    dispatch_async_f(q, &blocked, note_mask);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(blocked == 1);
    dispatch_release(q);
}

#ifdef ANE_GCD_BUNDLED

static void idle_threads_go_away(void) {
    for (int i = 0; i < 100 && thread_count() > 1 + UNDER_TSAN; i++)
        sleep_ms(100);
    CHECK(thread_count() == 1 + UNDER_TSAN);
    atomic_int count = 0;
    dispatch_queue_t q = serial("test.again");
    dispatch_async_f(q, &count, count_one);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(atomic_load(&count) == 1);
    dispatch_release(q);
}

static void note_name(void *context) { pthread_getname_np(pthread_self(), context, 32); }

static void threads_have_names(void) {
    char name[32] = "";
    dispatch_queue_t q = serial("test.name");
    dispatch_async_f(q, name, note_name);
    dispatch_sync_f(q, NULL, nothing);
    CHECK(strncmp(name, "ane-gcd-", 8) == 0);
    dispatch_release(q);
}

/* Run f in a child whose messages are not shown; how did it end? */
static int status_in_child(void (*f)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(3);
        signal(SIGABRT, SIG_DFL);
        f();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status;
}

static void use_queue(void) { dispatch_async_f(dispatch_get_global_queue(0, 0), NULL, nothing); }

static void release_busy_semaphore(void) {
    dispatch_semaphore_t s = dispatch_semaphore_create(1);
    dispatch_semaphore_wait(s, DISPATCH_TIME_FOREVER);
    dispatch_release(s);
}

static void misuse_stops_the_process(void) {
    if (UNDER_TSAN)
        return;
    int status = status_in_child(use_queue);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    status = status_in_child(release_busy_semaphore);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

#endif

typedef void (*Test)(void);
static const struct {
    const char *name;
    Test run;
} g_tests[] = {
#define T(name) {#name, name}
    T(nothing_runs_before_the_first_use),
    T(time_saturates_instead_of_wrapping),
    T(busy_work_does_not_make_a_crowd),
    T(semaphore_counts_and_times_out),
    T(every_signal_wakes_exactly_one_waiter),
    T(serial_queue_keeps_order_and_never_overlaps),
    T(many_producers_on_one_serial_queue),
    T(sync_runs_on_the_calling_thread),
    T(a_queue_may_wait_for_another_queue),
    T(blocked_serial_queues_do_not_hold_up_others),
    T(a_queue_made_with_a_class_is_serial_too),
    T(work_outlives_the_release_of_its_queue),
    T(a_queue_may_be_released_by_its_own_work),
    T(a_group_may_be_released_with_work_inside),
    T(group_waits_for_all_of_its_work),
    T(every_waiter_of_a_group_is_woken),
    T(known_identifiers_give_a_queue),
    T(blocked_work_lets_other_work_run),
    T(short_work_of_every_kind_at_once),
    T(apply_does_each_index_once_before_it_returns),
    T(apply_on_a_serial_queue_is_in_order),
    T(apply_may_be_nested),
    T(apply_uses_more_than_one_thread),
    T(once_runs_once_and_all_see_it_done),
    T(signals_are_left_to_the_programs_threads),
#ifdef ANE_GCD_BUNDLED
    T(idle_threads_go_away),
    T(threads_have_names),
    T(misuse_stops_the_process),
#endif
};

/* test_dispatch [-v]: with -v also how long each property took to show. */
int main(int argc, char **argv) {
    bool verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
    for (size_t i = 0; i < sizeof g_tests / sizeof *g_tests; i++) {
        double begin = now_ms();
        g_tests[i].run();
        if (verbose)
            printf("%8.1f ms  %s\n", now_ms() - begin, g_tests[i].name);
    }
    printf("%d passed, %d failed\n", g_passed, g_failed);
    return g_failed != 0;
}
