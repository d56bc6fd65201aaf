// SPDX-License-Identifier: MIT
/* _core_sched.h - the inside of the double-buffer scheduler, for its files:
 *
 *   _core_sched.c  slots, boundary, evaluations (who is active when)
 *   _core_job.c    generations: the background job that builds them, retiring
 *   _core_update.c the optimizer's step before a job
 *   _core_set.c    sources, kernels, surfaces and wires: what never changes
 *   _core_canary.c the first evaluation of a new program
 *   _core_stats.c  what was measured: latencies per batch, trace ring
 *
 * Everything below `lock` is guarded by it. It is held for state changes only:
 * never across a message to the engine, never across a wait. */
#ifndef ANE_NATIVE_CORE_SCHED_H
#define ANE_NATIVE_CORE_SCHED_H

#include <pthread.h>

#include "_core_internal.h"
#include "_core_pool.h"
#include "_gcd.h"

/* ============================== Measurements ============================== */

#define ANE_MAX_SAMPLES 8192

/* Durations of one batch; beyond the cap a fixed stride is kept, so that the
 * percentiles stay those of the whole batch. */
typedef struct {
    uint64_t *ns; /* ANE_MAX_SAMPLES, allocated once */
    int64_t seen;
    int32_t kept;
} AneSamples;

int ane_samples_init(AneSamples *s);
void ane_samples_free(AneSamples *s);
void ane_samples_add(AneSamples *s, uint64_t ns);
/* Reorders; 0 where nothing was measured. */
void ane_samples_percentiles(AneSamples *s, uint64_t *p50, uint64_t *p90, uint64_t *p99);
void ane_samples_reset(AneSamples *s);

/* A ring of events with a lock of its own: recorded from any thread. */
typedef struct {
    pthread_mutex_t lock;
    AneEvent *events;
    int32_t cap, count;
    int64_t lost;
} AneTrace;

int ane_trace_init(AneTrace *t, int32_t cap);
void ane_trace_free(AneTrace *t);
void ane_trace_add(AneTrace *t, int32_t kind, int32_t kernel, int64_t version, uint64_t begin_ns, uint64_t end_ns);
void ane_trace_add_of(AneTrace *t, int32_t process, int32_t kind, int32_t kernel, int64_t version, uint64_t begin_ns,
                      uint64_t end_ns);
int32_t ane_trace_take(AneTrace *t, AneEvent *out, int32_t cap, int64_t *lost);

/* ============================== Scheduler ================================= */

typedef struct AneSched AneSched;

/* One version of the weights and the loaded kernel set baked from it.
 * refs: 1 for the place it is in (offered, pending, active), 1 per evaluation under
 * way, 1 for its job while it is on the queue. At 0 it is retired on the queue. */
typedef struct {
    AneSched *sched;
    int64_t version;
    /* guarded by the scheduler's lock */
    int refs;
    bool started;                 /* its job began once: it counts among the sets */
    bool running;                 /* its job is on the queue */
    bool submitted;               /* all weights are there, the version counts */
    bool withdrawn;               /* offered, and then not wanted */
    bool failed;                  /* `error` says why; the job is not run again */
    bool updating;                /* the weights are still being made: no job yet */
    bool baking;                  /* the weights are still being read */
    int64_t skips_before;         /* updates skipped so far when its weights were made */
    int32_t baked, loaded;        /* programs that are; each baked one is loaded later */
    const void **weights;         /* pointers of the caller; NULL where not given yet */
    int64_t evals, micro_steps;   /* that ended while its job was on the queue */
    /* written by the job alone, read by others when it has ended */
    uint8_t *stages;              /* by program: waiting, baked, loaded (written under the lock) */
    AneProgram **programs;        /* NULL where not baked */
    void **requests;              /* by kernel */
    bool reserved;                /* the budget of the whole set */
    void **files;                 /* weight files that the update wrote, by program and blob; NULL: bake */
    size_t n_files;
    AneError error;               /* why it failed */
    uint64_t job_ns, job_before_ns; /* time on the queue; of earlier runs */
    AneCost cost;
    uint64_t canary_ns;
    int64_t compiled, reused, by_worker, repeats; /* repeats: of canaries */
} AneGeneration;

/* A surface for canaries, shared by all kernels of the set (they run one at a time). */
typedef struct {
    AneSurface *surface;
    bool used; /* by the kernel at hand */
} AneScratch;

/* The update under way, or the last one. `job` and `tensors` are its thread's while it is
 * RUNNING, everything else is guarded by the lock. */
enum { ANE_UPDATE_NONE = 0, ANE_UPDATE_RUNNING = 1, ANE_UPDATE_DONE = 2 };
typedef struct {
    int32_t state;
    bool native;                  /* by update_job; else somebody provides the weights */
    int64_t version;
    AneGeneration *gen;           /* whose weights it makes, referenced; NULL: none is to be built */
    uint64_t begin_ns;
    AneUpdateJob job;
    AneUpdateTensor *tensors;
    int32_t cap;
    AneUpdateResult result;
} AneUpdate;

/* How hard the background presses (_core_background.c). Guarded by the lock. */
enum { ANE_BACKGROUND_BATCHES = 8 };
enum { ANE_BACKGROUND_FULL = 0, ANE_BACKGROUND_IDLE = 1, ANE_BACKGROUND_PAUSES = 2 };
typedef struct {
    int means;                    /* ANE_BACKGROUND_* */
    bool led, idle;               /* a thread is led; it is idle now */
    pthread_t mine;
    int64_t tid;                  /* of that thread, 0: none */
    uint64_t begin_cpu_ns, used_ns, job_cpu_ns; /* of that thread; of the job so far; of the last whole job */
    uint64_t deadline_ns;         /* when the boundary after its begin is expected */
    uint64_t full_since;
    uint64_t batch_ns[ANE_BACKGROUND_BATCHES];
    int64_t batches;
    double margin;
    int waiters, evals;           /* boundaries that wait for the update; evaluations under way */
} AneBackground;

struct AneSched {
    AneObject object;
    AneSchedOptions options;
    AnePool *pool;                       /* compiles, NULL: this process does */
    AneSourceDef *sources;               /* by program */
    int32_t *first_kernel, *kernels_of;  /* by program: first kernel, how many */
    bool *told_apart;                    /* by program, queue only: its procedures were seen to differ */
    uint64_t *digests;                   /* by kernel, queue only: of its last canary's results */
    uint8_t *rungs;                      /* by kernel, queue only: how small its last canary's inputs were */
    AneKernelDef *kernels;
    int32_t n_programs, n_kernels, n_weights;
    int64_t *weight_counts;
    int32_t *weight_dtypes;              /* ANE_F32 or ANE_F16, as the files say; 0: no kernel bakes it */
    AneSurface ***inputs, ***outputs;    /* [kernel][port]; wired inputs are their source's output */
    AneHandle **input_handles, **output_handles;
    AneScratch *scratch;                 /* compile queue only */
    int32_t n_scratch;
    dispatch_queue_t queue;              /* serial, utility */
    dispatch_queue_t update_queue;       /* the same, for updates */
    dispatch_semaphore_t changed;        /* signalled when a job ends or a generation is gone */
    AneTrace trace;

    pthread_mutex_t lock;
    int32_t slot;                        /* ANE_SLOT_* of the pending one */
    AneGeneration *active, *pending;
    AneGeneration *offered;              /* of version newest + 1, before it is submitted */
    int64_t newest;
    AneBackground background;
    AneUpdate update;
    int64_t skips;                       /* updates that left the weights as they were */
    int64_t alive;                       /* generations not yet retired */
    int32_t sets;                        /* of those: that may have programs loaded */
    int32_t leaving;                     /* withdrawn sets whose job has not ended */
    bool closing, stepping;
    int64_t failures, generations;
    uint64_t wait_begin, wait_end;       /* of the wait under way, 0 = none; end of its last slice */
    uint64_t batch_begin;
    int64_t batch;
    AneBatchStats now;                   /* filled during the batch, handed out by finish */
    AneSamples idle, compiling;
};

/* ============================== Jobs (_core_job.c) ======================== */

/* A generation without weights; NULL: no memory. The caller counts it (`alive`). */
AneGeneration *ane_generation_new(AneSched *s, int64_t version);
void ane_generation_free(AneGeneration *gen); /* one that was never counted */
/* Give up one reference; the last one sends it to the queue to be retired. Without the lock; NULL is fine. */
void ane_generation_drop(AneGeneration *gen);
/* Every program is loaded and tried. Under the lock. */
bool ane_generation_whole_locked(const AneGeneration *gen);
/* The generation whose job may go to the queue now, taken note of; NULL: none. Under the
 * lock; after it, ane_job_dispatch. */
AneGeneration *ane_job_next_locked(AneSched *s);
void ane_job_dispatch(AneGeneration *gen); /* NULL is fine */

/* ============================== Boundary (_core_sched.c) ================== */

/* Look up a scheduler and make the caller the only one at its boundary; undo it. */
int ane_sched_enter(AneHandle h, AneSched **out, AneError *err);
int ane_sched_leave(AneSched *s, int status); /* returns `status` */

/* What an evaluation needed besides, counted in the batch that is running. */
void ane_sched_count_mended(AneSched *s, AneMended mended);

/* Take version newest+1, between the two above: with BUILD a set of it is built, with UPDATE an
 * update makes its weights first (NULL: not known yet), with NATIVE update_job does. */
enum { ANE_TAKE_BUILD = 1, ANE_TAKE_UPDATE = 2, ANE_TAKE_NATIVE = 4 };
int ane_sched_take(AneSched *s, const void *const *weights, unsigned how, uint64_t snapshot_ns, AneError *err);

/* ============================== Background (_core_background.c) =========== */

void ane_background_init(AneBackground *b);
/* Around what a background thread does for the scheduler, and between its steps. `last`: the job is whole. */
void ane_background_begin(AneSched *s);
void ane_background_pause(AneSched *s);
void ane_background_end(AneSched *s, bool last);
/* A boundary begins (+1) or ends (-1) to wait; a batch has ended. Under the lock. */
void ane_background_wait_locked(AneSched *s, int change);
void ane_background_boundary_locked(AneSched *s, uint64_t batch_ns, bool waited);

/* ============================== Updates (_core_update.c) ================== */

/* Places for the weight files of all programs, filled by an update. */
int ane_update_make_files(AneGeneration *gen, AneError *err);
void **ane_update_files(AneGeneration *gen, int32_t program); /* NULL: there are none */

/* ============================== Sets (_core_set.c) ======================== */

/* Copy and check descriptions, make surfaces. Of what was made before an error, ane_set_free. */
int ane_set_make(AneSched *s, const AneSource *sources, const AneKernel *kernels, const int64_t *weight_counts,
                 const AneWire *wires, int32_t n_wires, AneError *err);
void ane_set_free(AneSched *s);

/* ============================== Canary (_core_canary.c) =================== */

/* Evaluate kernel `k` of the new program `p` on scratch surfaces; ANE_E_CANARY when an output was
 * not written, or is not finite with inputs of any size. Its digest is of all results. *repeats
 * grows by the evaluations after the first. Compile queue only. */
int ane_canary_run(AneSched *s, int32_t k, AneProgram *p, int64_t *repeats, AneError *err);

/* Whether the canaries of program p's kernels, all just run, show different procedures at work;
 * ANE_E_CANARY names two that do not. */
int ane_canary_tell_apart(AneSched *s, int32_t p, AneError *err);

#endif
