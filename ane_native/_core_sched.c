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

/* ============================== Generations =============================== */

#define MAX_ALIVE 2 /* the active set and the one being built */

static void free_generation(AneGeneration *gen) {
    free(gen->weights);
    free(gen->programs);
    free(gen->requests);
    free(gen);
}

static AneGeneration *new_generation(AneSched *s, const float *const *weights, int64_t version) {
    AneGeneration *gen = calloc(1, sizeof *gen);
    size_t n = (size_t)s->n_kernels, w = (size_t)s->n_weights;
    if (!gen)
        return NULL;
    gen->weights = calloc(w ? w : 1, sizeof *gen->weights);
    gen->programs = calloc(n, sizeof *gen->programs);
    gen->requests = calloc(n, sizeof *gen->requests);
    if (!gen->weights || !gen->programs || !gen->requests) {
        free_generation(gen);
        return NULL;
    }
    if (w)
        memcpy(gen->weights, weights, w * sizeof *weights);
    gen->sched = s;
    gen->version = version;
    gen->refs = 2; /* the slot and the job */
    gen->baking = true;
    return gen;
}

static void compile_job(void *context);

/* Unload and free. On the compile queue; nobody else can see the generation. */
static void retire(void *context) {
    AneGeneration *gen = context;
    AneSched *s = gen->sched;
    ane_core_thread_enter();
    for (int32_t k = 0; k < s->n_kernels; k++) {
        ane_request_free(gen->requests[k]);
        if (!gen->programs[k])
            continue;
        uint64_t begin = ane_now_ns();
        ane_prog_unload(gen->programs[k], s->options.background_qos, NULL);
        ane_prog_release(gen->programs[k]);
        ane_trace_add(&s->trace, ANE_EV_UNLOAD, k, gen->version, begin, ane_now_ns());
    }
    free_generation(gen);
    pthread_mutex_lock(&s->lock);
    s->alive--;
    AneGeneration *next = s->alive <= MAX_ALIVE ? s->deferred : NULL;
    if (next)
        s->deferred = NULL;
    pthread_mutex_unlock(&s->lock);
    if (next)
        dispatch_async_f(s->queue, next, compile_job);
    dispatch_semaphore_signal(s->changed);
    ane_object_release(&s->object); /* the generation's hold on its scheduler */
}

/* Give up `n` references; the last one sends it to the queue. Without the lock. */
static void drop_generation(AneGeneration *gen) {
    AneSched *s = gen->sched;
    pthread_mutex_lock(&s->lock);
    bool last = --gen->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (last)
        dispatch_async_f(s->queue, gen, retire);
}

/* ============================== Background job ============================ */

static bool is_closing(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    bool closing = s->closing;
    pthread_mutex_unlock(&s->lock);
    return closing;
}

/* One kernel: compile and load its program, bind the set's surfaces, canary. */
static int build_kernel(AneGeneration *gen, int32_t k, AneProgram *p, AneError *err) {
    AneSched *s = gen->sched;
    const AneKernelDef *def = &s->kernels[k];
    uint32_t qos = s->options.background_qos;
    AneCost cost = {0};
    uint64_t begin = ane_now_ns();
    int status = ane_prog_load(p, qos, true, &cost, err);
    uint64_t end = ane_now_ns();
    gen->cost.bake_ns += cost.bake_ns; /* staging files */
    gen->cost.compile_ns += cost.compile_ns;
    gen->cost.load_ns += cost.load_ns;
    gen->compiled += cost.compiled;
    gen->reused += cost.reused;
    if (cost.compiled)
        ane_trace_add(&s->trace, ANE_EV_COMPILE, k, gen->version, begin, begin + cost.compile_ns);
    if (status != ANE_OK)
        return status;
    ane_trace_add(&s->trace, ANE_EV_LOAD, k, gen->version, end - cost.load_ns, end);
    gen->programs[k] = p; /* from here on retire() unloads it */
    status = ane_request_make(p, def, s->inputs[k], s->outputs[k], &gen->requests[k], err);
    if (status == ANE_OK && s->options.canary && !cost.reused) {
        begin = ane_now_ns();
        status = ane_canary_run(s, def, p, err);
        end = ane_now_ns();
        gen->canary_ns += end - begin;
        ane_trace_add(&s->trace, ANE_EV_CANARY, k, gen->version, begin, end);
    }
    return status;
}

/* Bake every kernel first, so that the caller's weights are free as early as possible. */
static int bake_all(AneGeneration *gen, AneProgram **made, AneError *err) {
    AneSched *s = gen->sched;
    int status = ANE_OK;
    for (int32_t k = 0; k < s->n_kernels && status == ANE_OK; k++) {
        uint64_t begin = ane_now_ns();
        if (is_closing(s))
            status = ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
        else
            status = ane_prog_acquire(&s->kernels[k], gen->weights, &made[k], &gen->cost, err);
        if (status != ANE_OK && err)
            err->kernel = k;
        ane_trace_add(&s->trace, ANE_EV_BAKE, k, gen->version, begin, ane_now_ns());
    }
    pthread_mutex_lock(&s->lock);
    gen->baking = false;
    pthread_mutex_unlock(&s->lock);
    return status;
}

static int build_all(AneGeneration *gen, AneError *err) {
    AneSched *s = gen->sched;
    int status = ane_budget_reserve(s->n_kernels, err);
    if (status != ANE_OK)
        return status;
    AneProgram **made = calloc((size_t)s->n_kernels, sizeof *made);
    status = made ? bake_all(gen, made, err) : ane_error_set(err, ANE_E_MEMORY, "out of memory for a kernel set");
    for (int32_t k = 0; made && k < s->n_kernels && status == ANE_OK; k++) {
        status = is_closing(s) ? ane_error_set(err, ANE_E_CLOSED, "the trainer was closed") : build_kernel(gen, k, made[k], err);
        if (status != ANE_OK)
            err->kernel = k;
    }
    for (int32_t k = 0; made && k < s->n_kernels; k++)
        if (!gen->programs[k])
            ane_prog_release(made[k]);
    free(made);
    ane_budget_return(s->n_kernels - gen->compiled);
    return status;
}

/* Publish the outcome. A failed set never becomes READY; after a close no set stays in the slot. */
static void publish(AneGeneration *gen, int status) {
    AneSched *s = gen->sched;
    pthread_mutex_lock(&s->lock);
    gen->baking = false;
    s->slot = status == ANE_OK ? ANE_SLOT_READY : ANE_SLOT_FAILED;
    s->failures += status != ANE_OK && status != ANE_E_CLOSED;
    if (s->closing) {
        s->slot = ANE_SLOT_EMPTY;
        s->pending = NULL;
        gen->refs--; /* the slot's; the job's is still there */
    }
    pthread_mutex_unlock(&s->lock);
    drop_generation(gen); /* the job's reference */
    dispatch_semaphore_signal(s->changed);
}

static void compile_job(void *context) {
    AneGeneration *gen = context;
    AneSched *s = gen->sched;
    ane_core_thread_enter();
    uint64_t begin = ane_now_ns();
    ane_error_clear(&gen->error);
    int status = build_all(gen, &gen->error);
    uint64_t end = ane_now_ns();
    gen->job_ns = end - begin;
    ane_trace_add(&s->trace, ANE_EV_GENERATION, -1, gen->version, begin, end);
    publish(gen, status);
}

/* ============================== Boundary ================================== */

/* Look up a scheduler and make the caller the only one at its boundary. */
static int enter_boundary(AneHandle h, AneSched **out, AneError *err) {
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

static int leave_boundary(AneSched *s, int status) {
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
    s->now.programs_compiled = gen->compiled;
    s->now.programs_reused = gen->reused;
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

/* True while `newest_then - active` would exceed the bound. */
static bool bound_broken(const AneSched *s, int64_t newest_then) {
    if (!s->active)
        return true;
    return s->options.staleness >= 0 && newest_then - s->active->version > s->options.staleness;
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
        if (status == ANE_AGAIN && !s->wait_begin)
            s->wait_begin = now;
        if (status != ANE_AGAIN)
            end_wait_locked(s, now);
        pthread_mutex_unlock(&s->lock);
        if (dropped)
            drop_generation(dropped);
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
    int status = enter_boundary(sched, &s, err);
    if (status != ANE_OK)
        return status;
    return leave_boundary(s, settle(s, s->newest + 1, slice_ms, err));
}

/* Take version newest+1. Under `stepping`. */
static int submit(AneSched *s, const float *const *weights, uint64_t snapshot_ns, AneError *err) {
    uint64_t begin = ane_now_ns();
    for (int32_t w = 0; weights && w < s->n_weights; w++)
        if (!weights[w])
            return ane_error_set(err, ANE_E_ARG, "weight %d is missing", w);
    AneGeneration *gen = NULL;
    if (weights && !(gen = new_generation(s, weights, s->newest + 1)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a generation");
    int status = ANE_OK;
    bool later = false;
    pthread_mutex_lock(&s->lock);
    if (gen && s->slot != ANE_SLOT_EMPTY) {
        status = ane_error_set(err, ANE_E_STATE, "a generation is pending: call boundary first");
    } else {
        s->newest++;
        s->now.submitted = gen != NULL;
        s->now.snapshot_ns += snapshot_ns;
        if (gen) {
            s->pending = gen;
            s->slot = ANE_SLOT_COMPILING;
            later = ++s->alive > MAX_ALIVE;
            if (later) /* evaluations may hold an old set for longer; retire() goes on from here */
                s->deferred = gen;
            ane_object_retain(&s->object); /* until retired */
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (gen && status != ANE_OK) {
        free_generation(gen);
    } else if (gen && !later) {
        dispatch_async_f(s->queue, gen, compile_job);
    }
    uint64_t end = ane_now_ns();
    pthread_mutex_lock(&s->lock);
    s->now.submit_ns += end - begin;
    pthread_mutex_unlock(&s->lock);
    ane_trace_add(&s->trace, ANE_EV_SUBMIT, -1, s->newest, begin, end);
    return status;
}

int ane_sched_submit(AneHandle sched, const float *const *weights, uint64_t snapshot_ns, AneError *err) {
    AneSched *s;
    int status = enter_boundary(sched, &s, err);
    if (status != ANE_OK)
        return status;
    return leave_boundary(s, submit(s, weights, snapshot_ns, err));
}

static void fill_stats_locked(AneSched *s, AneBatchStats *out) {
    AneBatchStats *n = &s->now;
    uint64_t end = ane_now_ns();
    n->batch = s->batch++;
    n->active = s->active ? s->active->version : -1;
    n->newest = s->newest;
    n->staleness = n->newest - n->active;
    n->batch_ns = end - s->batch_begin;
    n->evals_idle = s->idle.seen;
    n->evals_compiling = s->compiling.seen;
    ane_samples_percentiles(&s->idle, &n->idle_p50_ns, &n->idle_p90_ns, &n->idle_p99_ns);
    ane_samples_percentiles(&s->compiling, &n->compiling_p50_ns, &n->compiling_p90_ns, &n->compiling_p99_ns);
    n->failures = s->failures;
    *out = *n;
    memset(n, 0, sizeof *n);
    ane_samples_reset(&s->idle);
    ane_samples_reset(&s->compiling);
    s->batch_begin = end;
}

int ane_sched_finish(AneHandle sched, int32_t slice_ms, AneBatchStats *out, AneError *err) {
    AneSched *s;
    int status = enter_boundary(sched, &s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    bool broken = bound_broken(s, s->newest);
    bool hopeless = broken && s->slot == ANE_SLOT_EMPTY;
    pthread_mutex_unlock(&s->lock);
    if (hopeless)
        status = ane_error_set(err, ANE_E_STATE, "nothing is compiling that could restore the bound on staleness");
    else if (broken) /* a set that is READY within the bound waits for the next boundary */
        status = settle(s, s->newest, slice_ms, err);
    if (status >= 0 && status != ANE_AGAIN) {
        pthread_mutex_lock(&s->lock);
        status = s->closing ? ane_error_set(err, ANE_E_CLOSED, "the trainer was closed") : ANE_OK;
        fill_stats_locked(s, out);
        pthread_mutex_unlock(&s->lock);
        ane_budget_read(&out->compiles_used, &out->compile_limit, &out->programs_loaded);
    }
    return leave_boundary(s, status);
}

/* ============================== Evaluations =============================== */

/* Pin the active generation: it is not retired before drop_generation(). */
static AneGeneration *pin_active(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    AneGeneration *gen = s->closing ? NULL : s->active;
    if (gen)
        gen->refs++;
    pthread_mutex_unlock(&s->lock);
    return gen;
}

static void count_eval(AneSched *s, uint64_t ns, bool compiling) {
    pthread_mutex_lock(&s->lock);
    s->now.evals++;
    ane_samples_add(compiling ? &s->compiling : &s->idle, ns);
    if (s->slot == ANE_SLOT_COMPILING && s->pending)
        s->pending->evals++;
    pthread_mutex_unlock(&s->lock);
}

static bool compiling_now(AneSched *s) {
    pthread_mutex_lock(&s->lock);
    bool compiling = s->slot == ANE_SLOT_COMPILING;
    pthread_mutex_unlock(&s->lock);
    return compiling;
}

int ane_sched_eval(AneHandle sched, const int32_t *kernels, int32_t n_kernels, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    AneGeneration *gen = NULL;
    if (!kernels || n_kernels < 1)
        status = ane_error_set(err, ANE_E_ARG, "no kernels to evaluate");
    else if (!(gen = pin_active(s)))
        status = ane_error_set(err, ANE_E_CLOSED, "the trainer is closed, or has no generation yet");
    for (int32_t i = 0; i < n_kernels && status == ANE_OK; i++) {
        int32_t k = kernels[i];
        if (k < 0 || k >= s->n_kernels) {
            status = ane_error_set(err, ANE_E_ARG, "kernel %d of %d", k, s->n_kernels);
            break;
        }
        bool compiling = compiling_now(s);
        uint64_t begin = ane_now_ns();
        status = ane_prog_eval(gen->programs[k], gen->requests[k], s->options.foreground_qos, err);
        uint64_t end = ane_now_ns();
        count_eval(s, end - begin, compiling);
        ane_trace_add(&s->trace, ANE_EV_EVAL, k, gen->version, begin, end);
        if (status != ANE_OK && err)
            err->kernel = k;
    }
    if (gen)
        drop_generation(gen);
    ane_object_release(&s->object);
    return status;
}

int ane_sched_micro_step(AneHandle sched, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&s->lock);
    s->now.micro_steps++;
    if (s->slot == ANE_SLOT_COMPILING && s->pending)
        s->pending->micro_steps++;
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
    out->slot = s->slot;
    out->newest = s->newest;
    out->active = s->active ? s->active->version : -1;
    out->pending = s->pending ? s->pending->version : -1;
    out->failures = s->failures;
    out->generations = s->generations;
    out->oldest_needed = s->pending && s->pending->baking ? s->pending->version : s->newest + 1;
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

/* Close the handles of one side's surfaces; wired inputs have none of their own. */
static void free_surfaces(AneSched *s) {
    for (int32_t k = 0; s->kernels && k < s->n_kernels; k++)
        for (int side = 0; side < 2; side++) {
            AneSurface **surfaces = side ? (s->outputs ? s->outputs[k] : NULL) : (s->inputs ? s->inputs[k] : NULL);
            AneHandle *handles = side ? (s->output_handles ? s->output_handles[k] : NULL)
                                      : (s->input_handles ? s->input_handles[k] : NULL);
            int32_t n = side ? s->kernels[k].n_outputs : s->kernels[k].n_inputs;
            for (int32_t i = 0; surfaces && handles && i < n; i++) {
                AneObject *o;
                if (handles[i] && ane_handle_take(handles[i], ANE_KIND_SURFACE, &o, NULL) == ANE_OK)
                    ane_object_release(o);
                if (surfaces[i])
                    ane_object_release(ane_surface_object(surfaces[i]));
            }
            free(surfaces);
            free(handles);
        }
    free(s->inputs);
    free(s->outputs);
    free(s->input_handles);
    free(s->output_handles);
}

static void destroy_sched(AneObject *o) {
    AneSched *s = (AneSched *)o;
    free_surfaces(s);
    for (int32_t i = 0; i < s->n_scratch; i++)
        ane_object_release(ane_surface_object(s->scratch[i].surface));
    free(s->scratch);
    for (int32_t k = 0; s->kernels && k < s->n_kernels; k++)
        ane_kernel_free(&s->kernels[k]);
    free(s->kernels);
    free(s->weight_counts);
    if (s->queue)
        dispatch_release(s->queue);
    /* `changed` may stand below its first value only while someone waits: nobody does */
    if (s->changed)
        dispatch_release(s->changed);
    ane_trace_free(&s->trace);
    ane_samples_free(&s->idle);
    ane_samples_free(&s->compiling);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int copy_kernels(AneSched *s, const AneKernel *kernels, AneError *err) {
    for (int32_t k = 0; k < s->n_kernels; k++) {
        int status = ane_kernel_copy(&kernels[k], s->n_weights, &s->kernels[k], err);
        if (status != ANE_OK)
            return status;
        for (int32_t j = 0; j < k; j++)
            if (strcmp(s->kernels[j].name, s->kernels[k].name) == 0)
                return ane_error_set(err, ANE_E_ARG, "two kernels are named '%s'", s->kernels[k].name);
        for (int32_t b = 0; b < s->kernels[k].n_blobs; b++) {
            const AneBlobDef *d = &s->kernels[k].blobs[b];
            if (d->weight >= 0 && d->rows * d->cols != s->weight_counts[d->weight])
                return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: %lld x %lld elements, the weight has %lld",
                                     s->kernels[k].name, d->path, (long long)d->rows, (long long)d->cols,
                                     (long long)s->weight_counts[d->weight]);
        }
    }
    return ANE_OK;
}

/* A surface with a handle, or for a wired input its source's. */
static int make_port(AneSched *s, const AnePortDef *port, AneSurface *source, AneSurface **surface, AneHandle *handle,
                     AneError *err) {
    int status = ANE_OK;
    (void)s;
    if (source) {
        ane_object_retain(ane_surface_object(source));
        *surface = source;
    } else {
        status = ane_surface_make(port, surface, err);
    }
    if (status != ANE_OK)
        return status;
    ane_object_retain(ane_surface_object(*surface)); /* the handle's */
    status = ane_handle_new(ane_surface_object(*surface), handle, err);
    if (status != ANE_OK)
        ane_object_release(ane_surface_object(*surface));
    return status;
}

static int check_wire(const AneSched *s, const AneWire *w, AneError *err) {
    if (w->from < 0 || w->from >= s->n_kernels || w->to < 0 || w->to >= s->n_kernels || w->output < 0 ||
        w->output >= s->kernels[w->from].n_outputs || w->input < 0 || w->input >= s->kernels[w->to].n_inputs)
        return ane_error_set(err, ANE_E_ARG, "a wire names a kernel or port that does not exist");
    AneSurfaceInfo a, b;
    const AnePortDef *from = &s->kernels[w->from].outputs[w->output], *to = &s->kernels[w->to].inputs[w->input];
    ane_port_layout(from, &a);
    ane_port_layout(to, &b);
    if (a.dtype != b.dtype || a.n != b.n || a.c != b.c || a.h != b.h || a.w != b.w)
        return ane_error_set(err, ANE_E_ARG, "wire %s.%s -> %s.%s: shapes or dtypes differ", s->kernels[w->from].name, from->name,
                             s->kernels[w->to].name, to->name);
    return ANE_OK;
}

static int make_surfaces(AneSched *s, const AneWire *wires, int32_t n_wires, AneError *err) {
    size_t n = (size_t)s->n_kernels;
    s->inputs = calloc(n, sizeof *s->inputs);
    s->outputs = calloc(n, sizeof *s->outputs);
    s->input_handles = calloc(n, sizeof *s->input_handles);
    s->output_handles = calloc(n, sizeof *s->output_handles);
    if (!s->inputs || !s->outputs || !s->input_handles || !s->output_handles)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for surfaces");
    for (int32_t k = 0; k < s->n_kernels; k++) {
        size_t n_in = (size_t)s->kernels[k].n_inputs, n_out = (size_t)s->kernels[k].n_outputs;
        s->inputs[k] = calloc(n_in, sizeof **s->inputs);
        s->outputs[k] = calloc(n_out, sizeof **s->outputs);
        s->input_handles[k] = calloc(n_in, sizeof **s->input_handles);
        s->output_handles[k] = calloc(n_out, sizeof **s->output_handles);
        if (!s->inputs[k] || !s->outputs[k] || !s->input_handles[k] || !s->output_handles[k])
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for surfaces");
        for (size_t i = 0; i < n_out; i++) {
            int status = make_port(s, &s->kernels[k].outputs[i], NULL, &s->outputs[k][i], &s->output_handles[k][i], err);
            if (status != ANE_OK)
                return status;
        }
    }
    for (int32_t w = 0; w < n_wires; w++) {
        int status = check_wire(s, &wires[w], err);
        if (status != ANE_OK)
            return status;
        if (s->inputs[wires[w].to][wires[w].input])
            return ane_error_set(err, ANE_E_ARG, "input '%s' of kernel '%s' is wired twice",
                                 s->kernels[wires[w].to].inputs[wires[w].input].name, s->kernels[wires[w].to].name);
        status = make_port(s, NULL, s->outputs[wires[w].from][wires[w].output], &s->inputs[wires[w].to][wires[w].input],
                           &s->input_handles[wires[w].to][wires[w].input], err);
        if (status != ANE_OK)
            return status;
    }
    for (int32_t k = 0; k < s->n_kernels; k++)
        for (int32_t i = 0; i < s->kernels[k].n_inputs; i++) {
            if (s->inputs[k][i])
                continue;
            int status = make_port(s, &s->kernels[k].inputs[i], NULL, &s->inputs[k][i], &s->input_handles[k][i], err);
            if (status != ANE_OK)
                return status;
        }
    return ANE_OK;
}

static int build_sched(AneSched *s, const AneKernel *kernels, const int64_t *weight_counts, const AneWire *wires, int32_t n_wires,
                       AneError *err) {
    if (ane_samples_init(&s->idle) != ANE_OK || ane_samples_init(&s->compiling) != ANE_OK ||
        !(s->kernels = calloc((size_t)s->n_kernels, sizeof *s->kernels)) ||
        !(s->weight_counts = calloc((size_t)s->n_weights + 1, sizeof *s->weight_counts)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a trainer");
    if (s->n_weights)
        memcpy(s->weight_counts, weight_counts, (size_t)s->n_weights * sizeof *weight_counts);
    int status = copy_kernels(s, kernels, err);
    if (status == ANE_OK)
        status = make_surfaces(s, wires, n_wires, err);
    if (status != ANE_OK)
        return status;
    dispatch_queue_attr_t attr = dispatch_queue_attr_make_with_qos_class(DISPATCH_QUEUE_SERIAL, QOS_CLASS_UTILITY, 0);
    s->queue = dispatch_queue_create("ane_native.compile", attr);
    s->changed = dispatch_semaphore_create(0);
    if (!s->queue || !s->changed)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for the compile queue");
    return ANE_OK;
}

int ane_sched_create(const AneKernel *kernels, int32_t n_kernels, const int64_t *weight_counts, int32_t n_weights,
                     const AneWire *wires, int32_t n_wires, const AneSchedOptions *options, AneHandle *out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (!kernels || n_kernels < 1 || n_kernels > 65536 || n_weights < 0 || (n_weights && !weight_counts) || n_wires < 0 ||
        (n_wires && !wires) || !options || options->staleness < -1 || options->trace < 0)
        return ane_error_set(err, ANE_E_ARG, "%d kernels, %d weights, %d wires, staleness %d", n_kernels, n_weights, n_wires,
                             options ? options->staleness : 0);
    AneSched *s = calloc(1, sizeof *s);
    if (!s)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a trainer");
    ane_object_init(&s->object, ANE_KIND_SCHED, destroy_sched);
    pthread_mutex_init(&s->lock, NULL);
    s->options = *options;
    s->n_kernels = n_kernels;
    s->n_weights = n_weights;
    s->newest = -1;
    s->batch_begin = ane_now_ns();
    status = ane_trace_init(&s->trace, options->trace);
    if (status != ANE_OK)
        ane_error_set(err, status, "out of memory for %d trace events", options->trace);
    else
        status = build_sched(s, kernels, weight_counts, wires, n_wires, err);
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
    AneGeneration *active = s->active, *pending = NULL;
    s->closing = true;
    s->active = NULL;
    if (s->slot == ANE_SLOT_READY || s->slot == ANE_SLOT_FAILED) { /* a running job sees `closing` itself */
        pending = s->pending;
        s->pending = NULL;
        s->slot = ANE_SLOT_EMPTY;
    }
    pthread_mutex_unlock(&s->lock);
    if (active)
        drop_generation(active);
    if (pending)
        drop_generation(pending);
    dispatch_time_t until = dispatch_time(DISPATCH_TIME_NOW, (int64_t)(slice_ms > 0 ? slice_ms : 0) * 1000000);
    bool gone = false, over = false;
    while (!gone && !over) {
        pthread_mutex_lock(&s->lock);
        gone = s->alive == 0;
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
