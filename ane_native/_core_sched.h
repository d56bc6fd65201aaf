// SPDX-License-Identifier: MIT
/* _core_sched.h - the inside of the double-buffer scheduler, for its files:
 *
 *   _core_sched.c  slots, boundary, background job, retiring (who is active when)
 *   _core_canary.c the first evaluation of a new program
 *   _core_stats.c  what was measured: latencies per batch, trace ring
 *
 * Everything below `lock` is guarded by it. It is held for state changes only:
 * never across a message to the engine, never across a wait. */
#ifndef ANE_NATIVE_CORE_SCHED_H
#define ANE_NATIVE_CORE_SCHED_H

#include <pthread.h>

#include "_core_internal.h"
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
int32_t ane_trace_take(AneTrace *t, AneEvent *out, int32_t cap, int64_t *lost);

/* ============================== Scheduler ================================= */

typedef struct AneSched AneSched;

/* One version of the weights and the loaded kernel set baked from it.
 * refs: 1 for the slot it sits in, 1 per evaluation under way, 1 for the job
 * that compiles it. At 0 it is retired on the compile queue. */
typedef struct {
    AneSched *sched;
    int64_t version;
    int refs;
    bool baking;                  /* the weights are still being read */
    const float **weights;        /* pointers of the caller */
    AneProgram **programs;        /* loaded ones, by kernel; NULL where not yet */
    void **requests;
    AneError error;               /* why it failed */
    uint64_t job_ns;              /* whole background job */
    AneCost cost;
    uint64_t canary_ns;
    int64_t compiled, reused;
    int64_t evals, micro_steps;   /* that ended while it was compiling */
} AneGeneration;

/* A surface for canaries, shared by all kernels of the set (they run one at a time). */
typedef struct {
    AneSurface *surface;
    bool used; /* by the kernel at hand */
} AneScratch;

struct AneSched {
    AneObject object;
    AneSchedOptions options;
    AneKernelDef *kernels;
    int32_t n_kernels, n_weights;
    int64_t *weight_counts;
    AneSurface ***inputs, ***outputs;    /* [kernel][port]; wired inputs are their source's output */
    AneHandle **input_handles, **output_handles;
    AneScratch *scratch;                 /* compile queue only */
    int32_t n_scratch;
    dispatch_queue_t queue;              /* serial, utility */
    dispatch_semaphore_t changed;        /* signalled when a job ends or a generation is gone */
    AneTrace trace;

    pthread_mutex_t lock;
    int32_t slot;                        /* ANE_SLOT_* of the pending one */
    AneGeneration *active, *pending;
    int64_t newest;
    AneGeneration *deferred;             /* pending, not yet on the queue: an older set is still loaded */
    int64_t alive;                       /* generations not yet retired, jobs included */
    bool closing, stepping;
    int64_t failures, generations;
    uint64_t wait_begin, wait_end;       /* of the wait under way, 0 = none; end of its last slice */
    uint64_t batch_begin;
    int64_t batch;
    AneBatchStats now;                   /* filled during the batch, handed out by finish */
    AneSamples idle, compiling;
};

/* Evaluate `p` once on scratch surfaces; ANE_E_CANARY when an output was not
 * written or is not finite. Compile queue only. */
int ane_canary_run(AneSched *s, const AneKernelDef *k, AneProgram *p, AneError *err);

#endif
