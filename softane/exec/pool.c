// SPDX-License-Identifier: MIT
/* pool.c - a small thread pool that shares out the chunks of one loop.
 *
 * One job at a time; a caller that finds the pool taken does its own work.
 * Chunks are claimed one by one from a shared ticket, so a core that is taken
 * away delays one chunk and not half of the loop. Idle workers spin for some
 * 2000 pauses (a following step comes within microseconds), then sleep.
 *
 * Started at the first use, never at load; never torn down: at exit workers
 * sleep in a wait and own nothing. After fork the child has no workers and
 * does everything on the calling thread.
 *
 * The ticket is one 64-bit word, (generation << 32) | next chunk. A worker
 * reads it, reads the job, and claims a chunk by compare-and-swap on the whole
 * word. The caller closes the ticket (index CLOSED) before it changes the job,
 * so a successful claim proves that the job read belongs to that generation.
 * No worker touches the job after its last chunk is counted as done. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "exec.h"

enum { SPINS = 2000, MAX_WORKERS = 63 };
#define CLOSED 0xffffffffu

static struct {
    atomic_flag taken;             /* by the caller whose job runs */
    atomic_bool forked;            /* this process is a child of the one with the workers */
    int workers;                   /* written once, before any job */

    _Atomic uint64_t ticket;
    _Atomic(SaChunkFn *) fn;
    _Atomic(void *) context;
    _Atomic size_t chunks;
    atomic_int helpers;            /* workers 0 .. helpers-1 may take part */
    _Atomic size_t left;           /* chunks not finished */

    atomic_int sleepers;           /* workers in wait_work */
    atomic_bool caller_sleeps;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
} pool = {.taken = ATOMIC_FLAG_INIT, .ticket = CLOSED, .lock = PTHREAD_MUTEX_INITIALIZER,
          .work = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* ============================== Claiming ================================== */

/* Do one chunk of the current job. False when there is none to be had. */
static bool work_one(int helper) {
    uint64_t t = atomic_load_explicit(&pool.ticket, memory_order_acquire);
    for (;;) {
        uint32_t i = (uint32_t)t;
        SaChunkFn *fn = atomic_load_explicit(&pool.fn, memory_order_acquire);
        void *context = atomic_load_explicit(&pool.context, memory_order_acquire);
        size_t n = atomic_load_explicit(&pool.chunks, memory_order_acquire);
        int helpers = atomic_load_explicit(&pool.helpers, memory_order_acquire);
        if (i == CLOSED || i >= n || helper >= helpers)
            return false;
        if (!atomic_compare_exchange_weak_explicit(&pool.ticket, &t, t + 1, memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(context, i);
        if (atomic_fetch_sub_explicit(&pool.left, 1, memory_order_seq_cst) == 1 && atomic_load(&pool.caller_sleeps)) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_signal(&pool.done);
            pthread_mutex_unlock(&pool.lock);
        }
        return true;
    }
}

static uint32_t generation(void) {
    return (uint32_t)(atomic_load_explicit(&pool.ticket, memory_order_seq_cst) >> 32);
}

/* Until a generation other than `seen`: spin, then sleep. Returns it. */
static uint32_t wait_work(uint32_t seen) {
    for (int i = 0; i < SPINS; i++) {
        if (generation() != seen)
            return generation();
        pause_cpu();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleepers, 1);
    while (generation() == seen)
        pthread_cond_wait(&pool.work, &pool.lock);
    atomic_fetch_sub(&pool.sleepers, 1);
    pthread_mutex_unlock(&pool.lock);
    return generation();
}

static void *worker(void *arg) {
    int helper = (int)(intptr_t)arg;
    uint32_t seen = 0;
    for (;;) {
        seen = wait_work(seen);
        while (work_one(helper)) {
        }
    }
    return NULL;
}

/* ============================== Start ===================================== */

static int processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

static void child_after_fork(void) { atomic_store(&pool.forked, true); }

/* Workers take no signals: those are the application's business. A thread that
 * cannot be made is done without. */
static void start(void) {
    pthread_atfork(NULL, NULL, child_after_fork);
    int want = sa_parallel_width() - 1;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; i < want; i++) {
        pthread_t t;
        if (pthread_create(&t, NULL, worker, (void *)(intptr_t)i) != 0)
            break;
        pthread_detach(t);
        pool.workers++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* True when there are workers to share with. */
static bool start_once(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (atomic_load_explicit(&pool.forked, memory_order_relaxed))
        return false;
    pthread_once(&once, start);
    return pool.workers > 0;
}

/* Starts nothing: plans ask for it. */
int sa_parallel_width(void) {
    static atomic_int known;
    int n = atomic_load_explicit(&known, memory_order_relaxed);
    if (n == 0) {
        n = processors();
        n = n > MAX_WORKERS + 1 ? MAX_WORKERS + 1 : n;
        atomic_store_explicit(&known, n, memory_order_relaxed);
    }
    return n;
}

/* ============================== One job =================================== */

/* Publish the job under the next generation and wake who sleeps. */
static void open_job(size_t chunks, int helpers, SaChunkFn *fn, void *context) {
    uint64_t next = (uint64_t)(generation() + 1u) << 32;
    atomic_store_explicit(&pool.ticket, (next - (1ull << 32)) | CLOSED, memory_order_seq_cst);
    atomic_store_explicit(&pool.fn, fn, memory_order_release);
    atomic_store_explicit(&pool.context, context, memory_order_release);
    atomic_store_explicit(&pool.chunks, chunks, memory_order_release);
    atomic_store_explicit(&pool.helpers, helpers, memory_order_release);
    atomic_store_explicit(&pool.left, chunks, memory_order_release);
    atomic_store_explicit(&pool.ticket, next, memory_order_seq_cst);
    if (atomic_load_explicit(&pool.sleepers, memory_order_seq_cst)) {
        pthread_mutex_lock(&pool.lock); /* a worker about to sleep has checked the ticket or will */
        pthread_cond_broadcast(&pool.work);
        pthread_mutex_unlock(&pool.lock);
    }
}

static bool job_done(void) { return atomic_load_explicit(&pool.left, memory_order_seq_cst) == 0; }

static void wait_done(void) {
    for (int i = 0; i < SPINS; i++) {
        if (job_done())
            return;
        pause_cpu();
    }
    atomic_store(&pool.caller_sleeps, true);
    pthread_mutex_lock(&pool.lock);
    while (!job_done())
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    atomic_store(&pool.caller_sleeps, false);
}

void sa_parallel(int threads, size_t chunks, SaChunkFn *fn, void *context) {
    bool alone = threads == 1 || chunks < 2 || chunks >= CLOSED || !start_once();
    if (alone || atomic_flag_test_and_set_explicit(&pool.taken, memory_order_acquire)) {
        for (size_t i = 0; i < chunks; i++)
            fn(context, i);
        return;
    }
    int helpers = threads > 0 && threads - 1 < pool.workers ? threads - 1 : pool.workers;
    open_job(chunks, helpers, fn, context);
    while (work_one(-1)) {
    }
    wait_done();
    atomic_flag_clear_explicit(&pool.taken, memory_order_release);
}
