// SPDX-License-Identifier: MIT
/* _dispatch_small.c - the functions of _gcd.h on POSIX threads.
 *
 * Compiled into the core only where no libdispatch was found (or
 * ANE_NATIVE_GCD=bundled asks for it). It promises what libdispatch promises
 * for these functions and is tested by the same program
 * (tests/c/test_dispatch.c); it is not a general replacement: no blocks, no
 * sources, no I/O, no target queues, and a quality of service is noted but has
 * no effect, as with libdispatch on Linux.
 *
 *   One pool of threads, made when first needed, gone after a few idle seconds.
 *   A serial queue is a list; at most one thread drains it, and there is
 *   always a thread for it, so queues that block never hold up another queue.
 *   Work of the concurrent queue runs on as many threads as there are
 *   cores, plus one for each of them that sleeps in the kernel.
 *
 * Lock order: queue -> pool. Work runs without any lock. After fork() a child
 * must not use queues its parent had started: it is stopped with a sentence. */
#ifndef __APPLE__

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "_gcd.h"

#ifndef ANE_GCD_IDLE_MS
#define ANE_GCD_IDLE_MS 5000 /* an idle thread ends after this; the tests shorten it */
#endif
#define MAX_THREADS 512      /* of the pool in all */
#define MAX_CONCURRENT 64    /* that run work of the concurrent queue */
#define WATCH_MS 10          /* how often a full pool is looked at */
#define NS_PER_MS 1000000u

/* ============================== Objects =================================== */

enum { KIND_QUEUE = 0x51, KIND_GLOBAL, KIND_GROUP, KIND_SEMAPHORE };

/* First member of everything dispatch_release() takes. */
typedef struct {
    int kind;
    atomic_int refs;
} Object;

typedef struct Item Item;
struct Item {
    Item *next;
    dispatch_function_t work;
    void *context;
    struct dispatch_group_s *group; /* left when the work is done, or NULL */
    struct SyncWait *wait;          /* dispatch_sync_f: the thread that will run the work itself */
};

struct dispatch_queue_s {
    Object head;
    pthread_mutex_t lock;
    Item *first, *last;
    bool busy;                     /* some thread drains it, or it waits in the pool for one */
    pthread_t runner;              /* who runs an item now; valid while `running` */
    bool running;
    struct dispatch_queue_s *next; /* in the pool's list */
};

struct dispatch_queue_attr_s {
    unsigned int qos;
};

struct dispatch_group_s {
    Object head;
    pthread_mutex_t lock;
    pthread_cond_t empty;
    size_t count;
};

struct dispatch_semaphore_s {
    Object head;
    pthread_mutex_t lock;
    pthread_cond_t more;
    intptr_t value, original; /* value < 0: that many threads wait */
    size_t wakeups;           /* signals that belong to waiting threads */
};

/* A caller's mistake that cannot be reported otherwise, as in libdispatch. */
static _Noreturn void misuse(const char *sentence) {
    fprintf(stderr, "bundled GCD: %s\n", sentence);
    abort(); /* lint: as libdispatch does */
}

/* Zeroed memory. Waits when there is none: these functions cannot fail. */
static void *must_alloc(size_t bytes) {
    void *p;
    while (!(p = calloc(1, bytes)))
        nanosleep(&(struct timespec){.tv_nsec = 10 * NS_PER_MS}, NULL);
    return p;
}

static void retain(Object *o) { atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed); }

/* A condition variable that waits on the clock of dispatch_time(). */
static void cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

/* ============================== Time ====================================== */

#define TIME_MAX ((dispatch_time_t)(INT64_MAX >> 1)) /* the last moment that is not FOREVER */

static dispatch_time_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (dispatch_time_t)t.tv_sec * 1000000000u + (dispatch_time_t)t.tv_nsec;
}

/* A moment is nanoseconds of CLOCK_MONOTONIC. Too late becomes FOREVER, too
 * early the first moment, which is over; never NOW, which is 0. */
dispatch_time_t dispatch_time(dispatch_time_t when, int64_t delta_ns) {
    if (when == DISPATCH_TIME_FOREVER)
        return DISPATCH_TIME_FOREVER;
    dispatch_time_t base = when == DISPATCH_TIME_NOW ? now_ns() : when;
    if (base > TIME_MAX)
        return DISPATCH_TIME_FOREVER;
    int64_t sum;
    if (__builtin_add_overflow((int64_t)base, delta_ns, &sum) || sum > (int64_t)TIME_MAX)
        return DISPATCH_TIME_FOREVER;
    return sum < 1 ? 1 : (dispatch_time_t)sum;
}

/* pthread_cond_wait until a moment. Returns false when the moment has come. */
static bool cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, dispatch_time_t when) {
    if (when == DISPATCH_TIME_FOREVER) {
        pthread_cond_wait(cond, lock);
        return true;
    }
    if (when == DISPATCH_TIME_NOW)
        return false;
    struct timespec t = {.tv_sec = (time_t)(when / 1000000000u), .tv_nsec = (long)(when % 1000000000u)};
    return pthread_cond_timedwait(cond, lock, &t) == 0;
}

/* ============================== Pool ====================================== */

typedef struct {
    pid_t tid;
    bool used, concurrent; /* concurrent: runs work of the concurrent queue now */
} Worker;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ready;                        /* wake, cores and the fork handler are set up */
    bool forked;                       /* we are a child of a process that had threads */
    struct dispatch_queue_s *serial_first, *serial_last;
    Item *work_first, *work_last;      /* of the concurrent queue */
    int threads, idle, concurrent;     /* all; waiting for work; running concurrent work */
    int cores, extra;                  /* extra: threads allowed because others sleep */
    bool watching;                     /* a thread looks at the sleepers now and then */
    unsigned long serial_number;       /* for thread names */
    Worker worker[MAX_THREADS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void *worker_main(void *slot);

static void in_child(void) {
    pool.forked = true;
    pthread_mutex_init(&pool.lock, NULL); /* may have been held by a thread that is no more */
}

/* Under pool.lock. */
static void pool_prepare(void) {
    if (pool.forked)
        misuse("a forked child used a queue of its parent; use exec or spawn");
    if (pool.ready)
        return;
    cond_init(&pool.wake);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    pool.cores = n < 1 ? 1 : n > MAX_CONCURRENT ? MAX_CONCURRENT : (int)n;
    pthread_atfork(NULL, NULL, in_child);
    pool.ready = true;
}

/* Under pool.lock. One more thread; false when there are enough or none can be had. */
static bool pool_spawn(void) {
    int slot = 0;
    while (slot < MAX_THREADS && pool.worker[slot].used)
        slot++;
    if (slot == MAX_THREADS)
        return false;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigset_t all, before; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    pool.worker[slot] = (Worker){.used = true};
    int failed = pthread_create(&thread, &attr, worker_main, &pool.worker[slot]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (failed) {
        pool.worker[slot].used = false;
        if (pool.threads == 0)
            misuse("no thread could be made");
        return false;
    }
    pool.threads++;
    return true;
}

/* Under pool.lock. May one more thread run concurrent work? */
static bool may_run_concurrent(void) {
    return pool.work_first && pool.concurrent < MAX_CONCURRENT && pool.concurrent < pool.cores + pool.extra;
}

/* Under pool.lock, after work was added or a thread became busy: see to it that
 * somebody takes it, or, when it has to wait for its turn, that somebody watches. */
static void pool_poke(void) {
    bool take = pool.serial_first || may_run_concurrent();
    bool watch = pool.work_first && pool.concurrent < MAX_CONCURRENT && !pool.watching;
    if (!take && !watch)
        return;
    if (pool.idle > 0)
        pthread_cond_signal(&pool.wake);
    else
        pool_spawn();
}

/* Is the thread on a processor, or waiting for one? Unknown counts as no. */
static bool thread_runs(pid_t tid) {
#ifdef __linux__
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *name_end = strrchr(text, ')');
    return name_end && name_end[1] == ' ' && name_end[2] == 'R';
#else
    (void)tid;
    return false;
#endif
}

/* Under pool.lock, which is let go meanwhile: allow as many threads more as
 * there are threads with concurrent work that sleep. */
static void pool_watch(void) {
    pid_t tid[MAX_CONCURRENT];
    int n = 0, asleep = 0;
    for (int i = 0; i < MAX_THREADS && n < MAX_CONCURRENT; i++)
        if (pool.worker[i].used && pool.worker[i].concurrent)
            tid[n++] = pool.worker[i].tid;
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < n; i++)
        asleep += !thread_runs(tid[i]);
    pthread_mutex_lock(&pool.lock);
    pool.extra = asleep;
}

/* Under pool.lock. Waits until there may be work; false when it is time to go. */
static bool worker_wait(void) {
    bool watch = pool.work_first && !pool.watching;
    dispatch_time_t until = now_ns() + (dispatch_time_t)(watch ? WATCH_MS : ANE_GCD_IDLE_MS) * NS_PER_MS;
    pool.idle++;
    pool.watching |= watch;
    bool woken = cond_wait_until(&pool.wake, &pool.lock, until);
    pool.idle--;
    if (watch)
        pool.watching = false;
    if (woken || pool.serial_first || may_run_concurrent())
        return true;
    if (watch && pool.work_first)
        pool_watch();
    return watch || pool.work_first; /* a watcher has an idle time of its own */
}

/* ============================== Work ====================================== */

static void group_leave(struct dispatch_group_s *g);

/* Run an item and free it. Takes over the item's references. */
static void item_run(Item *item) {
    item->work(item->context);
    if (item->group)
        group_leave(item->group);
    free(item);
}

static void queue_drain(struct dispatch_queue_s *q, bool stay);

static void *worker_main(void *slot) {
    Worker *self = slot;
    pthread_mutex_lock(&pool.lock);
#ifdef __linux__
    self->tid = (pid_t)syscall(SYS_gettid);
#endif
    char name[16];
    snprintf(name, sizeof name, "ane-gcd-%lu", ++pool.serial_number % 10000000);
    pthread_setname_np(pthread_self(), name);
    for (;;) {
        if (pool.serial_first) {
            struct dispatch_queue_s *q = pool.serial_first;
            if (!(pool.serial_first = q->next))
                pool.serial_last = NULL;
            pool_poke();
            pthread_mutex_unlock(&pool.lock);
            queue_drain(q, true);
            pthread_mutex_lock(&pool.lock);
        } else if (may_run_concurrent()) {
            Item *item = pool.work_first;
            if (!(pool.work_first = item->next))
                pool.work_last = NULL;
            pool.concurrent++;
            self->concurrent = true;
            pool_poke();
            pthread_mutex_unlock(&pool.lock);
            item_run(item);
            pthread_mutex_lock(&pool.lock);
            self->concurrent = false;
            pool.concurrent--;
            if (!pool.work_first && pool.extra > 0)
                pool.extra = 0;
        } else if (!worker_wait()) {
            break;
        }
    }
    pool.threads--;
    self->used = false;
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static void pool_add_work(Item *item) {
    pthread_mutex_lock(&pool.lock);
    pool_prepare();
    item->next = NULL;
    if (pool.work_last)
        pool.work_last->next = item;
    else
        pool.work_first = item;
    pool.work_last = item;
    pool_poke();
    pthread_mutex_unlock(&pool.lock);
}

static void pool_add_queue(struct dispatch_queue_s *q) {
    pthread_mutex_lock(&pool.lock);
    pool_prepare();
    q->next = NULL;
    if (pool.serial_last)
        pool.serial_last->next = q;
    else
        pool.serial_first = q;
    pool.serial_last = q;
    pool_poke();
    pthread_mutex_unlock(&pool.lock);
}

/* ============================== Queues ==================================== */

/* References to a queue: the creator's, and one for each item in it or running. */

static struct dispatch_queue_s global_queue = {.head = {.kind = KIND_GLOBAL, .refs = 1}};

/* The thread of a dispatch_sync_f sleeps here until it is its turn. */
typedef struct SyncWait {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    bool its_turn;
} SyncWait;

dispatch_queue_attr_t dispatch_queue_attr_make_with_qos_class(dispatch_queue_attr_t attr, unsigned int qos_class, int relative) {
    static struct dispatch_queue_attr_s serial = {0};
    (void)relative;
    (void)qos_class;
    return attr ? attr : &serial;
}

dispatch_queue_t dispatch_queue_create(const char *label, dispatch_queue_attr_t attr) {
    (void)label;
    (void)attr;
    struct dispatch_queue_s *q = must_alloc(sizeof *q);
    q->head.kind = KIND_QUEUE;
    atomic_init(&q->head.refs, 1);
    pthread_mutex_init(&q->lock, NULL);
    return q;
}

/* All priorities and classes share one queue. NULL for an identifier or flag that is none. */
dispatch_queue_t dispatch_get_global_queue(intptr_t identifier, uintptr_t flags) {
    static const intptr_t known[] = {0, 2, -2, INT16_MIN, 0x21, 0x19, 0x15, 0x11, 0x09};
    if (flags & ~(uintptr_t)2) /* 2: overcommit */
        return NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] == identifier)
            return &global_queue;
    return NULL;
}

static void queue_append(struct dispatch_queue_s *q, Item *item) {
    retain(&q->head);
    item->next = NULL;
    if (q->last)
        q->last->next = item;
    else
        q->first = item;
    q->last = item;
}

static Item *queue_pop(struct dispatch_queue_s *q) {
    Item *item = q->first;
    if (item && !(q->first = item->next))
        q->last = NULL;
    return item;
}

/* Under q->lock: the first item is somebody's turn. Wakes the thread of a
 * dispatch_sync_f, or gives the queue to the pool. */
static void queue_hand_on(struct dispatch_queue_s *q) {
    SyncWait *wait = q->first->wait;
    if (!wait) {
        pool_add_queue(q);
        return;
    }
    pthread_mutex_lock(&wait->lock);
    wait->its_turn = true;
    pthread_cond_signal(&wait->turn);
    pthread_mutex_unlock(&wait->lock);
}

/* The calling thread holds the turn: run the first item; then, if `stay`, go on
 * with the next ones, else hand the turn on. An item of dispatch_sync_f is only
 * ever first for its own caller, who keeps it. */
static void queue_drain(struct dispatch_queue_s *q, bool stay) {
    bool more;
    do {
        pthread_mutex_lock(&q->lock);
        Item *item = queue_pop(q);
        q->running = true;
        q->runner = pthread_self();
        pthread_mutex_unlock(&q->lock);
        if (item->wait)
            item->work(item->context);
        else
            item_run(item);
        pthread_mutex_lock(&q->lock);
        q->running = false;
        q->busy = q->first != NULL;
        more = q->busy && stay && !q->first->wait;
        if (q->busy && !more)
            queue_hand_on(q);
        pthread_mutex_unlock(&q->lock);
        dispatch_release(q); /* the item's reference; the next item has its own */
    } while (more);
}

static void submit(struct dispatch_queue_s *q, void *context, dispatch_function_t work, struct dispatch_group_s *group) {
    Item *item = must_alloc(sizeof *item);
    item->work = work;
    item->context = context;
    item->group = group;
    if (q->head.kind == KIND_GLOBAL) {
        pool_add_work(item);
        return;
    }
    pthread_mutex_lock(&q->lock);
    queue_append(q, item);
    if (!q->busy) {
        q->busy = true;
        queue_hand_on(q);
    }
    pthread_mutex_unlock(&q->lock);
}

void dispatch_async_f(dispatch_queue_t queue, void *context, dispatch_function_t work) { submit(queue, context, work, NULL); }

/* Runs on the calling thread, after what was submitted before. */
void dispatch_sync_f(dispatch_queue_t q, void *context, dispatch_function_t work) {
    if (q->head.kind == KIND_GLOBAL) {
        work(context);
        return;
    }
    SyncWait wait = {.lock = PTHREAD_MUTEX_INITIALIZER};
    Item item = {.work = work, .context = context, .wait = &wait};
    pthread_mutex_lock(&q->lock);
    if (q->running && pthread_equal(q->runner, pthread_self()))
        misuse("dispatch_sync_f on the queue that is running: it would wait for itself");
    bool at_once = !q->busy;
    if (!at_once)
        cond_init(&wait.turn); /* before anybody can see it */
    queue_append(q, &item);
    q->busy = true;
    pthread_mutex_unlock(&q->lock);
    if (!at_once) {
        pthread_mutex_lock(&wait.lock);
        while (!wait.its_turn)
            pthread_cond_wait(&wait.turn, &wait.lock);
        pthread_mutex_unlock(&wait.lock);
        pthread_cond_destroy(&wait.turn);
    }
    queue_drain(q, false);
    pthread_mutex_destroy(&wait.lock);
}

/* ============================== Apply ===================================== */

typedef struct {
    atomic_int refs; /* the caller and each helper that has not looked yet */
    atomic_size_t next, done;
    size_t count;
    void *context;
    void (*work)(void *, size_t);
    pthread_mutex_t lock;
    pthread_cond_t finished;
} Apply;

static void apply_release(Apply *a) {
    if (atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) > 1)
        return;
    pthread_cond_destroy(&a->finished);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

/* Take numbers until there are no more. */
static void apply_share(Apply *a) {
    size_t mine = 0, i;
    while ((i = atomic_fetch_add_explicit(&a->next, 1, memory_order_relaxed)) < a->count) {
        a->work(a->context, i);
        mine++;
    }
    if (mine && atomic_fetch_add_explicit(&a->done, mine, memory_order_acq_rel) + mine == a->count) {
        pthread_mutex_lock(&a->lock);
        pthread_cond_signal(&a->finished);
        pthread_mutex_unlock(&a->lock);
    }
}

static void apply_helper(void *context) {
    apply_share(context);
    apply_release(context);
}

typedef struct {
    size_t count;
    void *context;
    void (*work)(void *, size_t);
} Loop;

static void apply_in_order(void *context) {
    Loop *loop = context;
    for (size_t i = 0; i < loop->count; i++)
        loop->work(loop->context, i);
}

/* The caller works too, so nested calls always get on. queue NULL: the concurrent one. */
void dispatch_apply_f(size_t iterations, dispatch_queue_t queue, void *context, void (*work)(void *, size_t)) {
    Loop loop = {.count = iterations, .context = context, .work = work};
    if (iterations == 0)
        return;
    if (queue && queue->head.kind != KIND_GLOBAL) {
        dispatch_sync_f(queue, &loop, apply_in_order);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool_prepare();
    size_t helpers = (size_t)pool.cores - 1;
    pthread_mutex_unlock(&pool.lock);
    if (helpers > iterations - 1)
        helpers = iterations - 1;
    if (helpers == 0) {
        apply_in_order(&loop);
        return;
    }
    Apply *a = must_alloc(sizeof *a);
    atomic_init(&a->refs, (int)helpers + 1);
    a->count = iterations;
    a->context = context;
    a->work = work;
    pthread_mutex_init(&a->lock, NULL);
    cond_init(&a->finished);
    for (size_t i = 0; i < helpers; i++)
        submit(&global_queue, a, apply_helper, NULL);
    apply_share(a);
    pthread_mutex_lock(&a->lock);
    while (atomic_load_explicit(&a->done, memory_order_acquire) < iterations)
        pthread_cond_wait(&a->finished, &a->lock);
    pthread_mutex_unlock(&a->lock);
    apply_release(a);
}

/* ============================== Groups ==================================== */

dispatch_group_t dispatch_group_create(void) {
    struct dispatch_group_s *g = must_alloc(sizeof *g);
    g->head.kind = KIND_GROUP;
    atomic_init(&g->head.refs, 1);
    pthread_mutex_init(&g->lock, NULL);
    cond_init(&g->empty);
    return g;
}

static void group_leave(struct dispatch_group_s *g) {
    pthread_mutex_lock(&g->lock);
    if (--g->count == 0)
        pthread_cond_broadcast(&g->empty);
    pthread_mutex_unlock(&g->lock);
    dispatch_release(g);
}

void dispatch_group_async_f(dispatch_group_t group, dispatch_queue_t queue, void *context, dispatch_function_t work) {
    retain(&group->head);
    pthread_mutex_lock(&group->lock);
    group->count++;
    pthread_mutex_unlock(&group->lock);
    submit(queue, context, work, group);
}

/* 0, or not 0 when the group did not become empty in time. */
intptr_t dispatch_group_wait(dispatch_group_t group, dispatch_time_t timeout) {
    pthread_mutex_lock(&group->lock);
    while (group->count && cond_wait_until(&group->empty, &group->lock, timeout)) {
    }
    bool empty = group->count == 0;
    pthread_mutex_unlock(&group->lock);
    return empty ? 0 : 1;
}

/* ============================== Semaphores ================================ */

dispatch_semaphore_t dispatch_semaphore_create(intptr_t value) {
    if (value < 0)
        return NULL;
    struct dispatch_semaphore_s *s = must_alloc(sizeof *s);
    s->head.kind = KIND_SEMAPHORE;
    atomic_init(&s->head.refs, 1);
    s->value = s->original = value;
    pthread_mutex_init(&s->lock, NULL);
    cond_init(&s->more);
    return s;
}

/* 0, or not 0 when the moment came first. */
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t s, dispatch_time_t timeout) {
    pthread_mutex_lock(&s->lock);
    bool got = --s->value >= 0;
    if (!got) {
        while (!s->wakeups && cond_wait_until(&s->more, &s->lock, timeout)) {
        }
        got = s->wakeups > 0;
        if (got)
            s->wakeups--;
        else
            s->value++; /* nobody waits here any more */
    }
    pthread_mutex_unlock(&s->lock);
    return got ? 0 : 1;
}

/* Not 0 when a thread was woken. */
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t s) {
    pthread_mutex_lock(&s->lock);
    bool wakes = s->value++ < 0;
    if (wakes) {
        s->wakeups++;
        pthread_cond_signal(&s->more);
    }
    pthread_mutex_unlock(&s->lock);
    return wakes ? 1 : 0;
}

/* ============================== Once ====================================== */

#define ONCE_RUNNING 1
#define ONCE_DONE (~(dispatch_once_t)0)

void dispatch_once_f(dispatch_once_t *predicate, void *context, dispatch_function_t function) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
    if (__atomic_load_n(predicate, __ATOMIC_ACQUIRE) == ONCE_DONE)
        return;
    pthread_mutex_lock(&lock);
    if (*predicate == 0) {
        __atomic_store_n(predicate, ONCE_RUNNING, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&lock);
        function(context);
        pthread_mutex_lock(&lock);
        __atomic_store_n(predicate, ONCE_DONE, __ATOMIC_RELEASE);
        pthread_cond_broadcast(&done);
    }
    while (__atomic_load_n(predicate, __ATOMIC_RELAXED) != ONCE_DONE)
        pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
}

/* ============================== Release =================================== */

static void queue_free(struct dispatch_queue_s *q) {
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static void group_free(struct dispatch_group_s *g) {
    pthread_cond_destroy(&g->empty);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static void semaphore_free(struct dispatch_semaphore_s *s) {
    if (s->value < s->original)
        misuse("a semaphore was released while in use");
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* Give up one reference; pending work holds its own. */
void dispatch_release(void *object) {
    Object *o = object;
    if (o->kind == KIND_GLOBAL || atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) > 1)
        return;
    switch (o->kind) {
    case KIND_QUEUE: queue_free(object); break;
    case KIND_GROUP: group_free(object); break;
    case KIND_SEMAPHORE: semaphore_free(object); break;
    default: misuse("dispatch_release of something that is not a GCD object");
    }
}

#endif
