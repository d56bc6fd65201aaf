// SPDX-License-Identifier: MIT
/* _core_job.c - generations: how a set is built in the background, and retired.
 *
 * A generation's job takes the next step that can be taken, one after the other,
 * on the serial queue: bake a program all of whose weights are there; else compile,
 * load and try a baked one. Weights given all at once (submit) are thus baked
 * first, so that the caller has his arrays back as early as possible; weights
 * offered bit by bit are built as they come, and the job leaves the queue when
 * nothing is left to do yet. The last step of a set whose version was submitted
 * publishes it. A job goes to the queue only when the active set is the only other
 * one that may be loaded. */
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

#define MAX_SETS 2 /* the active one and the one being built */

enum { STAGE_WAITING, STAGE_BAKED, STAGE_LOADED };

/* ============================== Generations =============================== */

void ane_generation_free(AneGeneration *gen) {
    for (size_t i = 0; gen->files && i < gen->n_files; i++)
        ane_file_free(gen->files[i]);
    free(gen->files);
    free(gen->weights);
    free(gen->stages);
    free(gen->programs);
    free(gen->requests);
    free(gen);
}

AneGeneration *ane_generation_new(AneSched *s, int64_t version) {
    AneGeneration *gen = calloc(1, sizeof *gen);
    size_t n = (size_t)s->n_programs, w = (size_t)s->n_weights;
    if (!gen)
        return NULL;
    gen->weights = calloc(w ? w : 1, sizeof *gen->weights);
    gen->stages = calloc(n, sizeof *gen->stages);
    gen->programs = calloc(n, sizeof *gen->programs);
    gen->requests = calloc((size_t)s->n_kernels, sizeof *gen->requests);
    if (!gen->weights || !gen->stages || !gen->programs || !gen->requests) {
        ane_generation_free(gen);
        return NULL;
    }
    ane_error_clear(&gen->error);
    gen->sched = s;
    gen->version = version;
    gen->refs = 1; /* of the place it is in: offered, pending, active */
    gen->baking = true;
    return gen;
}

/* What was reserved and not compiled goes back, once. Queue only, like all that reserves. */
static void return_budget(AneGeneration *gen) {
    if (gen->reserved)
        ane_budget_return(gen->sched->n_programs - gen->compiled);
    gen->reserved = false;
}

static void compile_job(void *context);

/* Unload and free. On the compile queue; nobody else can see the generation. */
static void retire(void *context) {
    AneGeneration *gen = context;
    AneSched *s = gen->sched;
    ane_core_thread_enter();
    for (int32_t k = 0; k < s->n_kernels; k++)
        ane_request_free(gen->requests[k]);
    for (int32_t p = 0; p < s->n_programs; p++) {
        if (gen->stages[p] == STAGE_LOADED) {
            uint64_t begin = ane_now_ns();
            ane_prog_unload(gen->programs[p], s->options.background_qos, NULL);
            ane_trace_add(&s->trace, ANE_EV_UNLOAD, p, gen->version, begin, ane_now_ns());
        }
        ane_prog_release(gen->programs[p]);
    }
    return_budget(gen);
    bool started = gen->started;
    ane_generation_free(gen);
    pthread_mutex_lock(&s->lock);
    s->alive--;
    s->sets -= started;
    AneGeneration *next = ane_job_next_locked(s);
    pthread_mutex_unlock(&s->lock);
    ane_job_dispatch(next);
    dispatch_semaphore_signal(s->changed);
    ane_object_release(&s->object); /* the generation's hold on its scheduler */
}

void ane_generation_drop(AneGeneration *gen) {
    if (!gen)
        return;
    AneSched *s = gen->sched;
    pthread_mutex_lock(&s->lock);
    bool last = --gen->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (last)
        dispatch_async_f(s->queue, gen, retire);
}

/* ============================== What is to be done ======================== */

/* All weights of a program are there. Under the lock. */
static bool complete_locked(const AneGeneration *gen, int32_t p) {
    const AneSourceDef *source = &gen->sched->sources[p];
    for (int32_t b = 0; b < source->n_blobs; b++) {
        const AneBlobDef *d = &source->blobs[b];
        if ((d->weight >= 0 && !gen->weights[d->weight]) || (d->scale >= 0 && !gen->weights[d->scale]))
            return false;
    }
    return true;
}

/* The program to bake next, or -1. Under the lock. */
static int32_t to_bake_locked(const AneGeneration *gen) {
    for (int32_t p = 0; p < gen->sched->n_programs; p++)
        if (gen->stages[p] == STAGE_WAITING && complete_locked(gen, p))
            return p;
    return -1;
}

/* The program to load next, or -1. Under the lock. */
static int32_t to_load_locked(const AneGeneration *gen) {
    for (int32_t p = 0; p < gen->sched->n_programs; p++)
        if (gen->stages[p] == STAGE_BAKED)
            return p;
    return -1;
}

AneGeneration *ane_job_next_locked(AneSched *s) {
    AneGeneration *gen = s->slot == ANE_SLOT_COMPILING ? s->pending : s->slot == ANE_SLOT_EMPTY ? s->offered : NULL;
    if (!gen || gen->updating || gen->running || gen->failed || s->closing)
        return NULL;
    if (!gen->started && s->sets >= MAX_SETS) /* evaluations may hold an old set; retire() comes back here */
        return NULL;
    if (!gen->submitted && to_bake_locked(gen) < 0 && to_load_locked(gen) < 0)
        return NULL;
    s->sets += !gen->started;
    gen->started = gen->running = true;
    gen->refs++;
    return gen;
}

void ane_job_dispatch(AneGeneration *gen) {
    if (gen)
        dispatch_async_f(gen->sched->queue, gen, compile_job);
}

bool ane_generation_whole_locked(const AneGeneration *gen) { return gen->loaded == gen->sched->n_programs; }

/* ============================== Steps ===================================== */

/* An error of a whole program: of its kernel, where it has one. */
static int blame_program(const AneSched *s, int32_t p, int status, AneError *err) {
    if (status != ANE_OK) {
        err->program = p;
        err->kernel = s->kernels_of[p] == 1 ? s->first_kernel[p] : -1;
    }
    return status;
}

static int bake(AneGeneration *gen, int32_t p, AneError *err) {
    AneSched *s = gen->sched;
    uint64_t begin = ane_now_ns();
    int status = ane_prog_acquire(&s->sources[p], gen->weights, ane_update_files(gen, p), s->pool != NULL, &gen->programs[p],
                                  &gen->cost, err);
    if (status == ANE_OK && s->pool) /* it compiles while the next one is baked */
        status = ane_prog_begin(gen->programs[p], s->pool, s->options.background_qos, err);
    ane_trace_add(&s->trace, ANE_EV_BAKE, p, gen->version, begin, ane_now_ns());
    return blame_program(s, p, status, err);
}

/* Bind one kernel to the set's surfaces; try it on others when its program is new. */
static int bind(AneGeneration *gen, int32_t k, bool reused, AneError *err) {
    AneSched *s = gen->sched;
    const AneKernelDef *def = &s->kernels[k];
    AneProgram *p = gen->programs[def->program];
    int status = ane_request_make(p, def, s->inputs[k], s->outputs[k], &gen->requests[k], err);
    if (status == ANE_OK && s->options.canary && !reused) {
        uint64_t begin = ane_now_ns();
        status = ane_canary_run(s, k, p, &gen->repeats, err);
        uint64_t end = ane_now_ns();
        gen->canary_ns += end - begin;
        ane_trace_add(&s->trace, ANE_EV_CANARY, k, gen->version, begin, end);
    }
    if (status != ANE_OK) {
        err->program = def->program;
        err->kernel = k;
    }
    return status;
}

static bool stop_waiting(void *context) {
    AneGeneration *gen = context;
    pthread_mutex_lock(&gen->sched->lock);
    bool stop = gen->sched->closing || gen->withdrawn;
    pthread_mutex_unlock(&gen->sched->lock);
    return stop;
}

/* Load one program, compiling it where no worker has. */
static int load_program(AneGeneration *gen, int32_t p, AneCost *cost, AneError *err) {
    AneSched *s = gen->sched;
    uint64_t begin = ane_now_ns();
    int status = ane_prog_load(gen->programs[p], s->options.background_qos, s->pool == NULL, cost, err);
    uint64_t end = ane_now_ns();
    gen->cost.bake_ns += cost->bake_ns; /* staging files */
    gen->cost.compile_ns += cost->compile_ns;
    gen->cost.load_ns += cost->load_ns;
    gen->compiled += cost->compiled;
    gen->reused += cost->reused;
    gen->by_worker += cost->by_worker;
    if (cost->worker) { /* while other programs were baked, or others waited for */
        uint64_t staged = cost->worker_begin_ns + cost->worker_stage_ns;
        ane_trace_add_of(&s->trace, cost->worker, ANE_EV_STAGE, p, gen->version, cost->worker_begin_ns, staged);
        ane_trace_add_of(&s->trace, cost->worker, ANE_EV_COMPILE, p, gen->version, staged, staged + cost->worker_compile_ns);
    }
    if (cost->compiled)
        ane_trace_add(&s->trace, ANE_EV_COMPILE, p, gen->version, begin, begin + cost->compile_ns);
    if (status != ANE_OK)
        return blame_program(s, p, status, err);
    ane_trace_add(&s->trace, ANE_EV_LOAD, p, gen->version, end - cost->load_ns, end);
    gen->stages[p] = STAGE_LOADED; /* from here on retire() unloads it */
    return ANE_OK;
}

static void drop_requests(AneGeneration *gen, int32_t p) {
    AneSched *s = gen->sched;
    for (int32_t k = s->first_kernel[p]; k < s->n_kernels; k++)
        if (s->kernels[k].program == p) {
            ane_request_free(gen->requests[k]);
            gen->requests[k] = NULL;
        }
}

/* Compile and load one program, then bind and try all its kernels. A program that a worker
 * made and that is of no use is made again, by another worker or here. */
static int load(AneGeneration *gen, int32_t p, AneError *err) {
    AneSched *s = gen->sched;
    for (;;) {
        AneCost cost = {.stop = stop_waiting, .stop_context = gen};
        int status = load_program(gen, p, &cost, err);
        if (status != ANE_OK)
            return status;
        for (int32_t k = s->first_kernel[p]; k < s->n_kernels && status == ANE_OK; k++)
            if (s->kernels[k].program == p)
                status = bind(gen, k, cost.reused, err);
        if (status == ANE_OK && s->options.tell_apart && s->options.canary && !cost.reused && s->kernels_of[p] > 1)
            status = ane_canary_tell_apart(s, p, err);
        AneProgram *next = NULL;
        if (status == ANE_OK || !cost.by_worker ||
            ane_prog_remake(gen->programs[p], s->options.background_qos, &next, NULL) != ANE_OK) {
            ane_prog_settle(gen->programs[p]);
            return status;
        }
        drop_requests(gen, p);
        ane_prog_release(gen->programs[p]);
        gen->programs[p] = next;
        gen->stages[p] = STAGE_BAKED;
        ane_error_clear(err);
    }
}

/* ============================== The job =================================== */

/* End this run of the job. A failed set never becomes READY; after a close no set stays in
 * the slot. A set that is only offered stays where it is, failed or waiting. Under the lock. */
static void end_locked(AneGeneration *gen, int status) {
    AneSched *s = gen->sched;
    gen->running = false;
    gen->failed = status != ANE_OK;
    if (gen->failed || gen->submitted)
        gen->baking = false;
    s->failures += status != ANE_OK && status != ANE_E_CLOSED;
    s->leaving -= gen->withdrawn;
    if (gen != s->pending)
        return;
    s->slot = status == ANE_OK ? ANE_SLOT_READY : ANE_SLOT_FAILED;
    if (s->closing) {
        s->slot = ANE_SLOT_EMPTY;
        s->pending = NULL;
        gen->refs--; /* the slot's; the job's is still there */
    }
}

/* Take one step, or end the run: then false. */
static bool take_step(AneGeneration *gen, int *status) {
    AneSched *s = gen->sched;
    pthread_mutex_lock(&s->lock);
    if (*status == ANE_OK && (s->closing || gen->withdrawn))
        *status = ane_error_set(&gen->error, ANE_E_CLOSED, s->closing ? "the trainer was closed" : "the offers were withdrawn");
    int32_t baked = *status == ANE_OK ? to_bake_locked(gen) : -1;
    int32_t loaded = *status == ANE_OK && baked < 0 ? to_load_locked(gen) : -1;
    bool over = baked < 0 && loaded < 0;
    /* what a whole set did not compile goes back now, though its version may not count yet */
    bool last = over && (*status != ANE_OK || gen->submitted || ane_generation_whole_locked(gen));
    if (over && !last)
        end_locked(gen, ANE_OK); /* more weights are to come */
    pthread_mutex_unlock(&s->lock);
    if (last) {
        return_budget(gen);
        uint64_t begin = ane_now_ns();
        pthread_mutex_lock(&s->lock);
        end_locked(gen, *status);
        bool ready = gen == s->pending && s->slot == ANE_SLOT_READY;
        pthread_mutex_unlock(&s->lock);
        if (ready)
            ane_trace_add(&s->trace, ANE_EV_PUBLISH, -1, gen->version, begin, ane_now_ns());
    }
    if (over)
        return false;
    ane_background_pause(s);
    *status = baked >= 0 ? bake(gen, baked, &gen->error) : load(gen, loaded, &gen->error);
    if (*status == ANE_OK) {
        pthread_mutex_lock(&s->lock);
        if (baked >= 0) {
            gen->stages[baked] = STAGE_BAKED;
            gen->baking = ++gen->baked < s->n_programs;
        } else {
            gen->loaded++;
        }
        pthread_mutex_unlock(&s->lock);
    }
    return true;
}

static void compile_job(void *context) {
    AneGeneration *gen = context;
    AneSched *s = gen->sched;
    ane_core_thread_enter();
    uint64_t begin = ane_now_ns();
    /* With workers only what they cannot do is compiled here, and reserved one by one. */
    bool reserve = !gen->reserved && !s->pool;
    int status = reserve ? ane_budget_reserve(s->n_programs, &gen->error) : ANE_OK;
    gen->reserved = status == ANE_OK && !s->pool;
    ane_background_begin(s);
    while (take_step(gen, &status))
        gen->job_ns = gen->job_before_ns + ane_now_ns() - begin; /* published by the last step */
    uint64_t end = ane_now_ns();
    ane_trace_add(&s->trace, ANE_EV_GENERATION, -1, gen->version, begin, end);
    gen->job_before_ns = gen->job_ns;
    ane_background_end(s, true);
    ane_generation_drop(gen); /* the job's reference */
    dispatch_semaphore_signal(s->changed);
}
