// SPDX-License-Identifier: MIT
/* _core_background.c - how hard the background job presses where the engine is the CPU.
 *
 * On Linux a busy third thread beside two of an evaluation slows it by more than its share,
 * and a thread of the lowest priority starves. So the job's thread begins *idle*
 * (SCHED_IDLE: it takes what evaluations leave) and becomes *full* (SCHED_OTHER) when what
 * is left of its work would no longer be done before the boundary that is expected, or at
 * once when a boundary waits. Expected: the median of the last batches. Left: the processor
 * time of the last job, times a margin that grows when a boundary waited and shrinks slowly
 * when none did.
 *
 * A process may lack the right to come back from SCHED_IDLE (RLIMIT_NICE 0 and no
 * CAP_SYS_NICE: sched(7)). Then the job stays full and pauses for a moment, at most
 * PAUSE_MOST_US at each of its steps, while an evaluation runs and there is time.
 * On a Mac the quality-of-service class of the queue does all this and nothing is done here.
 *
 * ANE_NATIVE_BACKGROUND=full leaves the thread as it is, "auto" is the default. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_core_sched.h"
#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { PAUSE_US = 50, PAUSE_MOST_US = 1000 };
#define MARGIN_LEAST 1.5
#define MARGIN_MOST 64.0

/* ============================== The system ================================ */

#ifdef __linux__

static int64_t thread_id(void) { return (int64_t)syscall(SYS_gettid); }

static bool set_policy(int64_t tid, bool idle) {
    const struct sched_param none = {0};
    return sched_setscheduler((pid_t)tid, idle ? SCHED_IDLE : SCHED_OTHER, &none) == 0;
}

/* Can a thread go there and come back? Tried on one that ends afterwards. */
static void *try_both(void *context) {
    bool *good = context;
    *good = set_policy(0, true) && set_policy(0, false);
    return NULL;
}

static int find_means(void) {
    pthread_t thread;
    bool good = false;
    if (pthread_create(&thread, NULL, try_both, &good) != 0)
        return ANE_BACKGROUND_PAUSES;
    pthread_join(thread, NULL);
    return good ? ANE_BACKGROUND_IDLE : ANE_BACKGROUND_PAUSES;
}

#else

static int64_t thread_id(void) { return 0; }
static bool set_policy(int64_t tid, bool idle) {
    (void)tid, (void)idle;
    return true;
}
static int find_means(void) { return ANE_BACKGROUND_FULL; }

#endif

static uint64_t thread_cpu_ns(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ============================== Deciding ================================== */

void ane_background_init(AneBackground *b) {
    const char *wanted = getenv("ANE_NATIVE_BACKGROUND");
    b->margin = MARGIN_LEAST;
    b->means = wanted && strcmp(wanted, "full") == 0 ? ANE_BACKGROUND_FULL : find_means();
}

static uint64_t median_batch(const AneBackground *b) {
    uint64_t sorted[ANE_BACKGROUND_BATCHES];
    int n = b->batches < ANE_BACKGROUND_BATCHES ? (int)b->batches : ANE_BACKGROUND_BATCHES;
    for (int i = 0; i < n; i++) { /* insertion: a handful */
        int at = i;
        for (; at > 0 && sorted[at - 1] > b->batch_ns[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = b->batch_ns[i];
    }
    return n ? sorted[n / 2] : 0;
}

/* Whether the job must press now. `used`: processor time of its thread so far. Under the lock. */
static bool must_press(const AneSched *s, uint64_t used) {
    const AneBackground *b = &s->background;
    if (b->means == ANE_BACKGROUND_FULL || s->wait_begin || b->waiters || s->closing || !s->active || !b->batches || !b->job_cpu_ns)
        return true; /* also when nothing is known yet */
    uint64_t left = b->job_cpu_ns > used ? b->job_cpu_ns - used : 0;
    return (double)ane_now_ns() + (double)left * b->margin >= (double)b->deadline_ns;
}

static void full_until_locked(AneSched *s, uint64_t now) {
    if (s->background.full_since)
        s->now.background_full_ns += now - s->background.full_since;
    s->background.full_since = 0;
}

/* The job's thread, full or idle. Under the lock. */
static void press_locked(AneSched *s, bool full) {
    AneBackground *b = &s->background;
    if (b->means == ANE_BACKGROUND_IDLE && b->tid && b->idle == full && set_policy(b->tid, !full))
        b->idle = !full;
    uint64_t now = ane_now_ns();
    if (full && !b->full_since)
        b->full_since = now;
    else if (!full)
        full_until_locked(s, now);
}

/* ============================== The job's thread ========================== */

void ane_background_begin(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    AneBackground *b = &s->background;
    if (!b->tid) { /* an update and the unloading of an old set may meet: the first is led */
        b->tid = thread_id();
        b->mine = pthread_self();
        b->led = true;
        b->begin_cpu_ns = thread_cpu_ns();
        b->idle = false;
        if (!b->used_ns) /* of this job, whatever boundaries come before it is done */
            b->deadline_ns = s->batch_begin + median_batch(b);
        press_locked(s, must_press(s, b->used_ns));
    }
    pthread_mutex_unlock(&s->lock);
}

static bool is_mine(const AneBackground *b) { return b->led && pthread_equal(b->mine, pthread_self()); }

void ane_background_pause(AneSched *s) {
    for (int waited = 0; waited <= PAUSE_MOST_US; waited += PAUSE_US) {
        pthread_mutex_lock(&s->lock);
        AneBackground *b = &s->background;
        bool full = true;
        if (is_mine(b)) {
            full = must_press(s, b->used_ns + thread_cpu_ns() - b->begin_cpu_ns);
            press_locked(s, full);
        }
        bool pause = !full && b->means == ANE_BACKGROUND_PAUSES && b->evals > 0;
        pthread_mutex_unlock(&s->lock);
        if (!pause)
            return;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_US * 1000L}, NULL);
    }
}

void ane_background_end(AneSched *s, bool last) {
    pthread_mutex_lock(&s->lock);
    AneBackground *b = &s->background;
    if (is_mine(b)) {
        uint64_t cpu = thread_cpu_ns() - b->begin_cpu_ns;
        press_locked(s, true); /* the thread is the pool's: as it was */
        full_until_locked(s, ane_now_ns());
        b->used_ns += cpu;
        s->now.background_cpu_ns += cpu;
        b->tid = 0;
        b->led = false;
    }
    if (last && b->used_ns) { /* update and build together are one job */
        b->job_cpu_ns = b->used_ns;
        b->used_ns = 0;
    }
    pthread_mutex_unlock(&s->lock);
}

/* ============================== The training thread ======================= */

void ane_background_wait_locked(AneSched *s, int change) {
    s->background.waiters += change;
    if (s->background.led && change >= 0)
        press_locked(s, true);
}

void ane_background_boundary_locked(AneSched *s, uint64_t batch_ns, bool waited) {
    AneBackground *b = &s->background;
    if (s->now.batch > 0) /* the first is the first compile */
        b->batch_ns[b->batches++ % ANE_BACKGROUND_BATCHES] = batch_ns;
    b->margin = waited ? b->margin * 1.5 : b->margin * 0.98;
    b->margin = b->margin < MARGIN_LEAST ? MARGIN_LEAST : b->margin > MARGIN_MOST ? MARGIN_MOST : b->margin;
}
