// SPDX-License-Identifier: MIT
/* _core_pool_internal.h - the inside of a worker pool, for its two files:
 *
 *   _core_pool.c          jobs and their queue, making and closing a pool (any thread)
 *   _core_pool_process.c  the processes: started, fed, watched, replaced, reaped (the pool's own thread) */
#ifndef ANE_NATIVE_CORE_POOL_INTERNAL_H
#define ANE_NATIVE_CORE_POOL_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "_core_pool.h"

enum {
    ANE_POOL_WORKERS = 64,
    ANE_POOL_PROCESSES = 128 /* with the successors */
};

typedef enum { J_QUEUED, J_RUNNING, J_DONE } JobState;

struct AneJob {
    AneJob *next; /* in the queue */
    AnePool *pool;
    AneSegment *segment;
    char identity[256];
    AneLease *lease;    /* on the directory where the worker stages: until it has answered or is dead */
    uint32_t qos;
    uint64_t number;
    /* under the pool's lock */
    JobState state;
    int failed;         /* workers that failed at it */
    uint64_t avoid;     /* serial of the last one */
    bool questioned;    /* refused by a worker that was not fresh: asked once more */
    bool fresh;         /* what was made before was of no use */
    bool abandoned;     /* the caller has gone: freed when done */
    bool unserved;      /* given up because no process came up */
    uint64_t patient_until; /* no process comes up: wait so long; 0: do not */
    AneAnswer answer;
};

/* STARTING --greeting--> IDLE <--> BUSY; LEAVING until reaped. */
typedef enum { W_FREE, W_STARTING, W_IDLE, W_BUSY, W_LEAVING } WorkerState;

typedef struct {
    WorkerState state;
    pid_t pid;
    int fd;
    uint64_t serial;
    uint64_t until;     /* deadline: greeting, answer, or exit */
    uint64_t greeted;   /* when; 0: not yet */
    int64_t compiles, answers;
    AneJob *job;
    bool killed;
    size_t have;        /* bytes of `answer` read so far */
    AneAnswer answer;
} Worker;

struct AnePool {
    AneObject object;
    pthread_mutex_t lock;
    pthread_cond_t done; /* a job is done, or the thread has ended */
    pthread_t thread;
    bool joined, closing, ended;
    int wake[2];
    AneJob *head, **tail;
    AnePoolStats stats;
    uint64_t last_job, last_serial;
    uint64_t spawning;   /* since when the thread is inside a spawn; 0: it is not */
    long thread_id;      /* of the thread, Linux only */
    /* fixed */
    AnePoolOptions options;
    char **argv, **env;
    /* of the thread */
    Worker worker[ANE_POOL_PROCESSES];
    int bad_starts;       /* processes in a row that never greeted */
    int early_ends;       /* ... or that ended soon after, without an answer */
    uint64_t start_after; /* spawn nothing before */
    AneError last_end;    /* how the last process ended that should not have: domain, code, text */
};

/* ============================== Jobs (_core_pool.c) ======================= */

void ane_pool_destroy_job(AneJob *j); /* without the lock */
/* First in the queue again; out of the queue (NULL: empty); out of its middle. Under the lock. */
void ane_pool_requeue_locked(AnePool *p, AneJob *j);
AneJob *ane_pool_dequeue_locked(AnePool *p);
void ane_pool_unlink_locked(AnePool *p, AneJob *j);
/* The job is over. Returns it when the caller must destroy it after the lock. */
AneJob *ane_pool_finish_locked(AnePool *p, AneJob *j);
AneJob *ane_pool_give_up_locked(AnePool *p, AneJob *j, int status, const char *why);
/* A worker failed at the job: another one, or nobody any more. Returns as finish does. */
AneJob *ane_pool_retry_locked(AnePool *p, AneJob *j, uint64_t serial);

/* ============================== The thread (_core_pool_process.c) ========= */

void *ane_pool_run(void *pool);
/* For those who wait for the thread: a spawn returns when the child executes its program, and a
 * child that somebody stops before that would hold up the thread for ever. It is continued. */
void ane_pool_help_spawn(AnePool *p);

#endif
