// SPDX-License-Identifier: MIT
/* _core_sched.c - two kernel sets: one trains, one compiles.
 *
 *   EMPTY --submit(v)--> COMPILING(v) --all kernels loaded, canaries right--> READY(v)
 *     ^                      |                                                  |
 *     |                      +--error--> FAILED --boundary: told once--> EMPTY  |
 *     +---------------- boundary: READY becomes active, the old one retires ----+
 *
 * One serial GCD queue at utility class does everything slow: retire, bake,
 * compile, load, canary. The training thread only exchanges pointers under the
 * lock, and waits, in slices, when the bound on staleness says so. A job goes to
 * the queue only when the active set is the only other one left, so at most two
 * sets are loaded. Plain C: the engine is reached through ane_prog_*. */
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

/* ============================== Boundary ================================== */

/* Look up a scheduler and make the caller the only one at its boundary. */
int ane_sched_enter(AneHandle h, AneSched **out, AneError *err) {
    int status = ane_handle_get(h, ANE_KIND_SCHED, (void **)out, err);
    if (status != ANE_OK)
        return status;
    AneSched *s = *out;
    pthread_mutex_lock(&s->lock);
    if (s->closing)
        status = ane_error_set(err, ANE_E_CLOSED, "the trainer is closed");
    else if (s->stepping)
        status = ane_error_set(err, ANE_E_BUSY, "another thread is at the boundary of this trainer");
    else
        s->stepping = true;
    pthread_mutex_unlock(&s->lock);
    if (status != ANE_OK)
        ane_object_release(&s->object);
    return status;
}

int ane_sched_leave(AneSched *s, int status) {
    pthread_mutex_lock(&s->lock);
    s->stepping = false;
    pthread_mutex_unlock(&s->lock);
    ane_object_release(&s->object);
    return status;
}

/* READY becomes active. Under the lock; returns the set that must be dropped after it. */
static AneGeneration *swap_locked(AneSched *s) {
    uint64_t begin = ane_now_ns();
    AneGeneration *old = s->active, *gen = s->pending;
    s->active = gen;
    s->pending = NULL;
    s->slot = ANE_SLOT_EMPTY;
    s->generations++;
    s->now.swapped = 1;
    s->now.compile_ns = gen->job_ns;
    s->now.bake_ns = gen->cost.bake_ns;
    s->now.engine_compile_ns = gen->cost.compile_ns;
    s->now.load_ns = gen->cost.load_ns;
    s->now.canary_ns = gen->canary_ns;
    s->now.canaries_repeated = gen->repeats;
    s->now.programs_compiled = gen->compiled;
    s->now.programs_reused = gen->reused;
    s->now.programs_by_workers = gen->by_worker;
    s->now.evals_during_compile = gen->evals;
    s->now.micro_steps_during_compile = gen->micro_steps;
    uint64_t end = ane_now_ns();
    s->now.swap_ns += end - begin;
    ane_trace_add(&s->trace, ANE_EV_SWAP, -1, gen->version, begin, end);
    return old;
}

/* The pending set failed: hand its error over, once, and empty the slot. Under the lock. */
static AneGeneration *take_failure_locked(AneSched *s, AneError *err, int *status) {
    AneGeneration *gen = s->pending;
    *status = gen->error.status;
    if (err)
        *err = gen->error;
    s->pending = NULL;
    s->slot = ANE_SLOT_EMPTY;
    return gen;
}

/* Updates between the active generation and `newest_then`; skipped ones changed nothing. */
static int64_t lag(const AneSched *s, int64_t newest_then) {
    return newest_then - s->active->version - (s->skips - s->active->skips_before);
}

/* True while the lag would exceed the bound. */
static bool bound_broken(const AneSched *s, int64_t newest_then) {
    if (!s->active)
        return true;
    return s->options.staleness >= 0 && lag(s, newest_then) > s->options.staleness;
}

/* A caller who does not come back for the next slice within this time does not wait: he was interrupted. */
#define WAIT_GAP_NS 200000000u

/* Account a wait that is over. Under the lock. */
static void end_wait_locked(AneSched *s, uint64_t end) {
    if (!s->wait_begin)
        return;
    s->now.wait_ns += end - s->wait_begin;
    ane_trace_add(&s->trace, ANE_EV_WAIT, -1, s->newest, s->wait_begin, end);
    s->wait_begin = 0;
}

/* Bring the slot forward until the bound holds for `newest_then` and no finished
 * set lies in it. ANE_OK: slot empty. ANE_SKIP: compiling, within the bound.
 * ANE_AGAIN: the slice is over. Negative: the pending set's error. */
static int settle(AneSched *s, int64_t newest_then, int32_t slice_ms, AneError *err) {
    dispatch_time_t until = dispatch_time(DISPATCH_TIME_NOW, (int64_t)(slice_ms > 0 ? slice_ms : 0) * 1000000);
    bool waited = false;
    for (;;) {
        AneGeneration *dropped = NULL;
        int status = ANE_OK;
        pthread_mutex_lock(&s->lock);
        uint64_t now = ane_now_ns();
        if (s->wait_begin && !waited && now - s->wait_end > WAIT_GAP_NS)
            end_wait_locked(s, s->wait_end);
        if (s->closing) { /* by another thread, while this one waited */
            status = ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
        } else if (s->slot == ANE_SLOT_READY) {
            dropped = swap_locked(s);
        } else if (s->slot == ANE_SLOT_FAILED) {
            dropped = take_failure_locked(s, err, &status);
        } else if (s->slot == ANE_SLOT_COMPILING) {
            status = bound_broken(s, newest_then) ? ANE_AGAIN : ANE_SKIP;
        }
        if (status == ANE_AGAIN && !s->wait_begin) {
            s->wait_begin = now;
            ane_background_wait_locked(s, 0);
        }
        if (status != ANE_AGAIN)
            end_wait_locked(s, now);
        pthread_mutex_unlock(&s->lock);
        ane_generation_drop(dropped);
        if (status != ANE_AGAIN)
            return status;
        waited = true;
        if (dispatch_semaphore_wait(s->changed, until) != 0) {
            pthread_mutex_lock(&s->lock);
            s->wait_end = ane_now_ns();
            pthread_mutex_unlock(&s->lock);
            return ANE_AGAIN;
        }
    }
}

int ane_sched_boundary(AneHandle sched, int32_t slice_ms, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    return ane_sched_leave(s, settle(s, s->newest + 1, slice_ms, err));
}

/* The first part of a boundary, as far as it needs no waiting. */
int ane_sched_install(AneHandle sched, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    AneGeneration *dropped = NULL;
    const bool ready = s->slot == ANE_SLOT_READY;
    if (s->closing)
        status = ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
    else if (ready)
        dropped = swap_locked(s);
    pthread_mutex_unlock(&s->lock);
    ane_generation_drop(dropped);
    return ane_sched_leave(s, status == ANE_OK && !ready ? ANE_SKIP : status);
}

/* ============================== Offers ==================================== */

/* The generation of the version to come, made now if there is none. Under `stepping`: nobody
 * else puts one there. */
static int need_offered(AneSched *s, AneGeneration **fresh, AneError *err) {
    pthread_mutex_lock(&s->lock);
    bool there = s->offered != NULL;
    int64_t version = s->newest + 1;
    pthread_mutex_unlock(&s->lock);
    *fresh = there ? NULL : ane_generation_new(s, version);
    return there || *fresh ? ANE_OK : ane_error_set(err, ANE_E_MEMORY, "out of memory for a generation");
}

/* Put these weights (NULL: not given) into the offered generation, or none of them. Under the lock. */
static int take_weights_locked(AneSched *s, AneGeneration **fresh, const void *const *weights, AneError *err) {
    for (int32_t w = 0; s->offered && weights && w < s->n_weights; w++)
        if (weights[w] && s->offered->weights[w] && s->offered->weights[w] != weights[w])
            return ane_error_set(err, ANE_E_ARG, "weight %d was offered from another array", w);
    if (!s->offered) {
        if (!*fresh) /* closed since need_offered() */
            return ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
        s->offered = *fresh;
        *fresh = NULL;
        s->alive++;
        ane_object_retain(&s->object); /* until retired */
    }
    for (int32_t w = 0; weights && w < s->n_weights; w++)
        if (weights[w] && !s->offered->weights[w]) /* one that is there may be read by the job right now */
            s->offered->weights[w] = weights[w];
    return ANE_OK;
}

/* The offered generation has all its weights: into the slot, in the state it has reached. Under the lock. */
static void submit_offered_locked(AneSched *s) {
    AneGeneration *gen = s->offered;
    s->offered = NULL;
    s->pending = gen;
    gen->submitted = true;
    gen->baking = !gen->failed && gen->baked < s->n_programs;
    s->slot = gen->failed ? ANE_SLOT_FAILED : ANE_SLOT_COMPILING;
    if (!gen->failed && !gen->running && ane_generation_whole_locked(gen))
        s->slot = ANE_SLOT_READY;
}

/* The newest version is being made by an update from now on; `gen`: for this set. Under the lock. */
static void begin_update_locked(AneSched *s, AneGeneration *gen, bool native, uint64_t begin) {
    AneUpdate *u = &s->update;
    u->state = ANE_UPDATE_RUNNING;
    u->native = native;
    u->version = s->newest;
    u->gen = gen;
    u->begin_ns = begin;
    if (gen) {
        gen->updating = true;
        gen->refs++;
    }
    ane_object_retain(&s->object); /* until it has ended */
}

/* Take version newest+1. Under `stepping`. */
int ane_sched_take(AneSched *s, const void *const *weights, unsigned how, uint64_t snapshot_ns, AneError *err) {
    uint64_t begin = ane_now_ns();
    const bool build = (how & ANE_TAKE_BUILD) != 0, update = (how & ANE_TAKE_UPDATE) != 0;
    for (int32_t w = 0; weights && w < s->n_weights; w++)
        if (!weights[w])
            return ane_error_set(err, ANE_E_ARG, "weight %d is missing", w);
    AneGeneration *fresh = NULL, *dropped = NULL, *job = NULL;
    int status = build ? need_offered(s, &fresh, err) : ANE_OK;
    if (status == ANE_OK && fresh && update)
        status = ane_update_make_files(fresh, err);
    if (status != ANE_OK) {
        if (fresh)
            ane_generation_free(fresh);
        return status;
    }
    pthread_mutex_lock(&s->lock);
    if (s->closing)
        status = ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
    else if (update && s->offered)
        status = ane_error_set(err, ANE_E_STATE, "weights of this version were offered: an update would make them");
    else if (!update && s->update.state == ANE_UPDATE_RUNNING) /* versions are made one after the other */
        status = ane_error_set(err, ANE_E_STATE, "an update is under way: call collect first");
    else if (build && s->slot != ANE_SLOT_EMPTY)
        status = ane_error_set(err, ANE_E_STATE, "a generation is pending: call boundary first");
    else if (build)
        status = take_weights_locked(s, &fresh, weights, err);
    if (status == ANE_OK) {
        s->newest++;
        s->now.submitted = build;
        s->now.snapshot_ns += snapshot_ns;
        if (build) {
            submit_offered_locked(s);
            s->pending->skips_before = s->skips;
        }
        if (update)
            begin_update_locked(s, build ? s->pending : NULL, (how & ANE_TAKE_NATIVE) != 0, begin);
        if (build) {
            job = ane_job_next_locked(s);
        } else { /* the slot is full, so nothing of it was begun */
            dropped = s->offered;
            s->offered = NULL;
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (fresh)
        ane_generation_free(fresh);
    ane_generation_drop(dropped);
    ane_job_dispatch(job);
    uint64_t end = ane_now_ns();
    pthread_mutex_lock(&s->lock);
    s->now.submit_ns += end - begin;
    int64_t version = s->newest;
    pthread_mutex_unlock(&s->lock);
    if (snapshot_ns)
        ane_trace_add(&s->trace, ANE_EV_SNAPSHOT, -1, version, begin - snapshot_ns, begin);
    ane_trace_add(&s->trace, ANE_EV_SUBMIT, -1, version, begin, end);
    return status;
}

int ane_sched_submit(AneHandle sched, const void *const *weights, uint64_t snapshot_ns, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    return ane_sched_leave(s, ane_sched_take(s, weights, weights ? ANE_TAKE_BUILD : 0, snapshot_ns, err));
}

int ane_sched_offer(AneHandle sched, const void *const *weights, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    AneGeneration *fresh = NULL, *job = NULL;
    status = need_offered(s, &fresh, err);
    if (status == ANE_OK) {
        pthread_mutex_lock(&s->lock);
        if (s->closing)
            status = ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
        else if (s->newest < 0)
            status = ane_error_set(err, ANE_E_STATE, "nothing is active yet: the first weights are submitted");
        else
            status = take_weights_locked(s, &fresh, weights, err);
        if (status == ANE_OK)
            job = ane_job_next_locked(s);
        pthread_mutex_unlock(&s->lock);
    }
    if (fresh)
        ane_generation_free(fresh);
    ane_job_dispatch(job);
    return ane_sched_leave(s, status);
}

int ane_sched_withdraw(AneHandle sched, int32_t slice_ms, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    AneGeneration *gen = s->offered;
    s->offered = NULL;
    if (gen) {
        gen->withdrawn = true;
        s->leaving += gen->running; /* its job ends at the next step */
    }
    pthread_mutex_unlock(&s->lock);
    ane_generation_drop(gen);
    dispatch_time_t until = dispatch_time(DISPATCH_TIME_NOW, (int64_t)(slice_ms > 0 ? slice_ms : 0) * 1000000);
    bool gone = false, over = false;
    while (!gone && !over) {
        pthread_mutex_lock(&s->lock);
        gone = s->leaving == 0;
        pthread_mutex_unlock(&s->lock);
        if (!gone)
            over = dispatch_semaphore_wait(s->changed, until) != 0;
    }
    return ane_sched_leave(s, gone ? ANE_OK : ANE_AGAIN);
}

static void fill_state_locked(const AneSched *s, AneSchedState *out) {
    out->slot = s->slot;
    out->newest = s->newest;
    out->active = s->active ? s->active->version : -1;
    out->pending = s->pending ? s->pending->version : -1;
    out->offered = s->offered ? s->offered->version : -1;
    out->leaving = s->leaving;
    out->failures = s->failures;
    out->generations = s->generations;
    out->oldest_needed = s->pending && s->pending->baking ? s->pending->version : s->newest + 1;
}

static void fill_stats_locked(AneSched *s, AneBatchStats *out) {
    AneBatchStats *n = &s->now;
    uint64_t end = ane_now_ns();
    n->batch = s->batch++;
    n->active = s->active ? s->active->version : -1;
    n->newest = s->newest;
    n->staleness = s->active ? lag(s, s->newest) : n->newest - n->active;
    n->batch_ns = end - s->batch_begin;
    n->evals_idle = s->idle.seen;
    n->evals_compiling = s->compiling.seen;
    ane_samples_percentiles(&s->idle, &n->idle_p50_ns, &n->idle_p90_ns, &n->idle_p99_ns);
    ane_samples_percentiles(&s->compiling, &n->compiling_p50_ns, &n->compiling_p90_ns, &n->compiling_p99_ns);
    n->failures = s->failures;
    fill_state_locked(s, &n->state);
    ane_background_boundary_locked(s, n->batch_ns, n->wait_ns > 0);
    *out = *n;
    memset(n, 0, sizeof *n);
    ane_samples_reset(&s->idle);
    ane_samples_reset(&s->compiling);
    s->batch_begin = end;
}

int ane_sched_finish(AneHandle sched, int32_t slice_ms, AneBatchStats *out, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    bool broken = bound_broken(s, s->newest);
    bool hopeless = broken && s->slot == ANE_SLOT_EMPTY;
    pthread_mutex_unlock(&s->lock);
    if (broken && !hopeless) /* a set that is READY within the bound waits for the next boundary */
        status = settle(s, s->newest, slice_ms, err);
    if (status == ANE_OK) { /* a set that failed, then an update that was skipped */
        pthread_mutex_lock(&s->lock);
        hopeless = s->slot == ANE_SLOT_EMPTY && !s->closing && bound_broken(s, s->newest);
        pthread_mutex_unlock(&s->lock);
    }
    if (hopeless)
        status = ane_error_set(err, ANE_E_STATE, "nothing is compiling that could restore the bound on staleness: submit weights");
    if (status >= 0 && status != ANE_AGAIN) {
        pthread_mutex_lock(&s->lock);
        status = s->closing ? ane_error_set(err, ANE_E_CLOSED, "the trainer was closed") : ANE_OK;
        fill_stats_locked(s, out);
        pthread_mutex_unlock(&s->lock);
        ane_budget_read(&out->compiles_used, &out->compile_limit, &out->programs_loaded);
    }
    return ane_sched_leave(s, status);
}

/* ============================== Evaluations =============================== */

/* Pin the active generation: it is not retired before ane_generation_drop(). */
static AneGeneration *pin_active(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    AneGeneration *gen = s->closing ? NULL : s->active;
    if (gen)
        gen->refs++;
    pthread_mutex_unlock(&s->lock);
    return gen;
}

/* The generation that is being built now, or NULL. Under the lock. */
static AneGeneration *building_locked(const AneSched *s) {
    if (s->slot == ANE_SLOT_COMPILING)
        return s->pending;
    return s->offered && s->offered->running ? s->offered : NULL;
}

static void count_mended_locked(AneSched *s, AneMended mended) {
    s->now.evals_retried += mended.retried;
    s->now.programs_reloaded += mended.reloaded;
}

void ane_sched_count_mended(AneSched *s, AneMended mended) {
    if (!mended.retried && !mended.reloaded)
        return;
    pthread_mutex_lock(&s->lock);
    count_mended_locked(s, mended);
    pthread_mutex_unlock(&s->lock);
}

static void count_eval(AneSched *s, uint64_t ns, bool compiling, AneMended mended) {
    pthread_mutex_lock(&s->lock);
    s->now.evals++;
    count_mended_locked(s, mended);
    s->background.evals--;
    ane_samples_add(compiling ? &s->compiling : &s->idle, ns);
    AneGeneration *built = building_locked(s);
    if (built)
        built->evals++;
    pthread_mutex_unlock(&s->lock);
}

static bool compiling_now(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    bool compiling = building_locked(s) != NULL;
    s->background.evals++; /* until count_eval */
    pthread_mutex_unlock(&s->lock);
    return compiling;
}

/* Kernels of a chain, on a generation that is held. */
static int eval_kernels(AneSched *s, AneGeneration *gen, const int32_t *kernels, int32_t n_kernels, AneError *err) {
    int status = ANE_OK;
    for (int32_t i = 0; i < n_kernels && status == ANE_OK; i++) {
        int32_t k = kernels[i];
        if (k < 0 || k >= s->n_kernels)
            return ane_error_set(err, ANE_E_ARG, "kernel %d of %d", k, s->n_kernels);
        bool compiling = compiling_now(s);
        AneMended mended = {false, false};
        uint64_t begin = ane_now_ns();
        status = ane_prog_eval(gen->programs[s->kernels[k].program], gen->requests[k], s->options.foreground_qos,
                               &mended, err);
        uint64_t end = ane_now_ns();
        count_eval(s, end - begin, compiling, mended);
        ane_trace_add(&s->trace, ANE_EV_EVAL, k, gen->version, begin, end);
        if (status != ANE_OK && err)
            err->kernel = k;
    }
    return status;
}

int ane_sched_eval_stages(AneHandle sched, const AneStage *stages, int32_t n_stages, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    AneGeneration *gen = NULL;
    int64_t work = 0;
    for (int32_t i = 0; stages && i < n_stages && status == ANE_OK; i++) {
        const AneStage *t = &stages[i];
        if (t->n_kernels < 0 || t->n_jobs < 0 || (t->n_kernels && !t->kernels) || (t->n_jobs && !t->jobs))
            status = ane_error_set(err, ANE_E_ARG, "stage %d: %d kernels and %d gradients", i, t->n_kernels, t->n_jobs);
        work += t->n_kernels;
    }
    if (status == ANE_OK && work < 1)
        status = ane_error_set(err, ANE_E_ARG, "no kernels to evaluate");
    else if (status == ANE_OK && !(gen = pin_active(s)))
        status = ane_error_set(err, ANE_E_CLOSED, "the trainer is closed, or has no generation yet");
    for (int32_t i = 0; i < n_stages && status == ANE_OK; i++) {
        status = eval_kernels(s, gen, stages[i].kernels, stages[i].n_kernels, err);
        if (status == ANE_OK && stages[i].n_jobs)
            status = ane_cpu_grad_submit(stages[i].jobs, stages[i].n_jobs, err);
    }
    if (gen)
        ane_generation_drop(gen);
    ane_object_release(&s->object);
    return status;
}

int ane_sched_eval(AneHandle sched, const int32_t *kernels, int32_t n_kernels, AneError *err) {
    const AneStage one = {kernels, kernels ? n_kernels : 0, NULL, 0};
    return ane_sched_eval_stages(sched, &one, 1, err);
}

int ane_sched_micro_step(AneHandle sched, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    s->now.micro_steps++;
    AneGeneration *built = building_locked(s);
    if (built)
        built->micro_steps++;
    pthread_mutex_unlock(&s->lock);
    ane_object_release(&s->object);
    return ANE_OK;
}

/* ============================== Questions ================================= */

int ane_sched_surface(AneHandle sched, int32_t kernel, int32_t is_output, int32_t port, AneHandle *out, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    if (kernel < 0 || kernel >= s->n_kernels || port < 0 ||
        port >= (is_output ? s->kernels[kernel].n_outputs : s->kernels[kernel].n_inputs))
        status = ane_error_set(err, ANE_E_ARG, "no port %d of kernel %d", port, kernel);
    else
        *out = (is_output ? s->output_handles : s->input_handles)[kernel][port];
    ane_object_release(&s->object);
    return status;
}

int ane_sched_state(AneHandle sched, AneSchedState *out, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    fill_state_locked(s, out);
    pthread_mutex_unlock(&s->lock);
    ane_object_release(&s->object);
    return ANE_OK;
}

int ane_sched_trace(AneHandle sched, AneEvent *out, int32_t cap, int32_t *n, int64_t *lost, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    *n = ane_trace_take(&s->trace, out, cap, lost);
    ane_object_release(&s->object);
    return ANE_OK;
}

/* ============================== Making and closing ======================== */

static void destroy_sched(AneObject *o) {
    AneSched *s = (AneSched *)o;
    for (int32_t i = 0; i < s->n_scratch; i++)
        ane_object_release(ane_surface_object(s->scratch[i].surface));
    free(s->scratch);
    ane_set_free(s);
    free(s->update.tensors);
    if (s->update_queue)
        dispatch_release(s->update_queue);
    if (s->queue)
        dispatch_release(s->queue);
    /* `changed` may stand below its first value only while someone waits: nobody does */
    if (s->changed)
        dispatch_release(s->changed);
    ane_trace_free(&s->trace);
    if (s->pool)
        ane_object_release(ane_pool_object(s->pool));
    ane_samples_free(&s->idle);
    ane_samples_free(&s->compiling);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int build_sched(AneSched *s, AneError *err) {
    if (ane_samples_init(&s->idle) != ANE_OK || ane_samples_init(&s->compiling) != ANE_OK)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a trainer");
    dispatch_queue_attr_t attr = dispatch_queue_attr_make_with_qos_class(DISPATCH_QUEUE_SERIAL, QOS_CLASS_UTILITY, 0);
    s->queue = dispatch_queue_create("ane_native.compile", attr);
    s->update_queue = dispatch_queue_create("ane_native.update", attr);
    s->changed = dispatch_semaphore_create(0);
    if (!s->queue || !s->update_queue || !s->changed)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for the compile queue");
    return ANE_OK;
}

int ane_sched_create(const AneSource *sources, int32_t n_sources, const AneKernel *kernels, int32_t n_kernels,
                     const int64_t *weight_counts, int32_t n_weights, const AneWire *wires, int32_t n_wires,
                     const AneSchedOptions *options, AneHandle *out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (!sources || n_sources < 1 || n_sources > 65536 || !kernels || n_kernels < 1 || n_kernels > 65536 || n_weights < 0 || (n_weights && !weight_counts) || n_wires < 0 ||
        (n_wires && !wires) || !options || options->staleness < -1 || options->trace < 0)
        return ane_error_set(err, ANE_E_ARG, "%d programs, %d kernels, %d weights, %d wires, staleness %d", n_sources, n_kernels, n_weights, n_wires,
                             options ? options->staleness : 0);
    AneSched *s = calloc(1, sizeof *s);
    if (!s)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a trainer");
    ane_object_init(&s->object, ANE_KIND_SCHED, destroy_sched);
    pthread_mutex_init(&s->lock, NULL);
    s->options = *options;
    s->n_programs = n_sources;
    s->n_kernels = n_kernels;
    s->n_weights = n_weights;
    s->newest = -1;
    s->batch_begin = ane_now_ns();
    ane_background_init(&s->background);
    status = ane_trace_init(&s->trace, options->trace);
    if (status != ANE_OK)
        ane_error_set(err, status, "out of memory for %d trace events", options->trace);
    else
        status = build_sched(s, err);
    if (status == ANE_OK)
        status = ane_set_make(s, sources, kernels, weight_counts, wires, n_wires, err);
    if (status == ANE_OK && options->pool)
        status = ane_handle_get(options->pool, ANE_KIND_POOL, (void **)&s->pool, err);
    if (status == ANE_OK)
        status = ane_handle_new(&s->object, out, err);
    if (status != ANE_OK)
        ane_object_release(&s->object);
    return status;
}

int ane_sched_close(AneHandle sched, int32_t slice_ms, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    AneGeneration *active = s->active, *pending = NULL, *offered = s->offered;
    s->closing = true;
    s->active = NULL;
    s->offered = NULL; /* if its job is running, that sees `closing` itself */
    if (s->pending && !s->pending->running) { /* else so does that one, and empties the slot */
        pending = s->pending;
        s->pending = NULL;
        s->slot = ANE_SLOT_EMPTY;
    }
    pthread_mutex_unlock(&s->lock);
    ane_generation_drop(active);
    ane_generation_drop(pending);
    ane_generation_drop(offered);
    dispatch_time_t until = dispatch_time(DISPATCH_TIME_NOW, (int64_t)(slice_ms > 0 ? slice_ms : 0) * 1000000);
    bool gone = false, over = false;
    while (!gone && !over) {
        pthread_mutex_lock(&s->lock);
        gone = s->alive == 0 && s->update.state != ANE_UPDATE_RUNNING;
        pthread_mutex_unlock(&s->lock);
        if (!gone)
            over = dispatch_semaphore_wait(s->changed, until) != 0;
    }
    AneObject *o;
    if (gone && ane_handle_take(sched, ANE_KIND_SCHED, &o, NULL) == ANE_OK)
        ane_object_release(o);
    ane_object_release(&s->object);
    return gone ? ANE_OK : ANE_AGAIN;
}
