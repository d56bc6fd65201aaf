// SPDX-License-Identifier: MIT
/* null_engine.h - an engine that does nothing, behind the door of _core_internal.h.
 *
 * It lets the scheduler run without Objective-C, so that sanitizers see all of it,
 * and it watches: every program remembers the version of the weights it was baked
 * from (a weight holds its version in every element), every evaluation checks that
 * its program is loaded and not freed, and the evaluations of one chain are compared.
 * What a program's life writes and an evaluation reads is plain memory on purpose:
 * the thread sanitizer then proves the order the scheduler promises.
 *
 * A weight file whose path holds "frozen" carries no version; kernels that have
 * only such files are shared by all generations, as the real engine shares them. */
#ifndef ANE_TEST_NULL_ENGINE_H
#define ANE_TEST_NULL_ENGINE_H

#include "_core_internal.h"

#define NULL_FOREGROUND_QOS 21u /* evaluations of any other class are canaries */

/* Places where the null engine can fail, wait or be held. */
enum {
    NULL_BAKE, NULL_COMPILE, NULL_LOAD, NULL_CANARY, NULL_EVAL, NULL_REQUEST, NULL_UNLOAD, NULL_SURFACE,
    NULL_STEPS
};

/* Put everything but the gates back to the start: no failures, no delays, no limit. */
void null_reset(void);
/* Fail with this chance in millionths. Any thread, at any time, like all below. */
void null_set_chance(int step, int millionths);
/* Fail once, at the n-th call from now (1 = the next). */
void null_fail_at(int step, int n);
/* Sleep this long in each call; 0 = do not sleep. */
void null_set_delay_us(int step, int us);
void null_set_limit(int64_t limit);
/* Seed of this thread's chances. */
void null_seed(uint64_t seed);

typedef struct {
    int64_t programs_made, programs_freed, requests_made, requests_freed, surfaces_made, surfaces_freed;
    int64_t loaded, peak_loaded, compiles, evals, reserved, limit, violations;
    int64_t files_taken; /* weight files that an update had written */
} NullCounts;
void null_counts(NullCounts *out);
void null_forget_peak(void);
/* What went wrong first, "" when nothing did. */
const char *null_first_violation(void);
/* For checks of the caller; counted among the violations. */
void null_violation(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The evaluations of this thread since null_chain_begin(). */
typedef struct {
    int64_t version; /* of all of them, -1: none carried a version */
    int evals;
    bool mixed;      /* they were not of one version */
} NullChain;
void null_chain_begin(void);
NullChain null_chain_end(void);

/* false: weights are no version stamps for a while (an optimizer makes them). [true] */
void null_stamps(bool on);

/* Gates. While a gate is shut, the compile queue stops before each bake and load, or an
 * evaluating thread before each evaluation; one `allow` lets one through with a status
 * (ANE_OK, or what it shall fail with). Opening a gate lets all through. */
void null_gate_job(bool shut);
void null_gate_eval(bool shut);
/* A native update stops before it reads its gradients; any status but ANE_OK: they are not finite. */
void null_gate_update(bool shut);
bool null_update_wait(int ms);
void null_update_allow(int status);
/* Kind * 1000 + kernel of the step the compile queue stands at (NULL_BAKE or NULL_LOAD), -1 after `ms`. */
int null_job_wait(int ms);
void null_job_allow(int status);
#define NULL_THREADS 8
/* Name this thread for the gate of evaluations, 0 .. NULL_THREADS - 1. */
void null_thread(int id);
/* Number of evaluations thread `id` has been let through when it stands at the gate, -1 after `ms`. */
int null_eval_wait(int id, int ms);
void null_eval_allow(int id, int status);
/* Wait until the compile queue of this scheduler has done what it was given so far. */
void null_queue_sync(AneHandle sched);
/* Wait until the native updates that were let through have ended. */
void null_update_sync(AneHandle sched);

#endif
