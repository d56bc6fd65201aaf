// SPDX-License-Identifier: MIT
/* _core_update.c - the optimizer's step as the first part of the background job.
 *
 *   submit_update(v) -> RUNNING --masters of v written--> DONE, and v's set is built
 *                          |
 *                          +--a gradient is not finite, or it failed--> DONE, there is no set v
 *
 * One update at a time, on a serial queue of its own, so that it need not wait for the
 * compile before it; the build follows on the compile queue. AdamW, the fp16 bake and the
 * zeroing of the gradients are one pass: masters, moments and gradients are read once, and
 * what is written goes straight into the weight files of the programs. An update that began
 * always ends, also under a close: moments are changed in place.
 *
 * Not here: what gradients are, when to give up, schedules. Those are the caller's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"
#include "_cpu.h"

enum {
    UPDATE_RANGE = 32768, /* elements between two pauses: about 0.1 ms */
    PANEL_BYTES = 256 * 1024
};

/* ============================== Weight files ============================== */

/* The weight container, version 2 (apple/coremltools StorageFormat.hpp): storage
 * header, one metadata record at 64, data at 128. */
void ane_blob_head(uint8_t *out, size_t count) {
    uint32_t head[2] = {1, 2}, meta[2] = {0xDEADBEEF, 1 /* fp16 */};
    uint64_t place[2] = {count * 2, ANE_BLOB_HEAD};
    memset(out, 0, ANE_BLOB_HEAD);
    memcpy(out, head, sizeof head);
    memcpy(out + 64, meta, sizeof meta);
    memcpy(out + 72, place, sizeof place);
}

int ane_update_make_files(AneGeneration *gen, AneError *err) {
    for (int32_t p = 0; p < gen->sched->n_programs; p++)
        gen->n_files += (size_t)gen->sched->sources[p].n_blobs;
    if (!(gen->files = calloc(gen->n_files + 1, sizeof *gen->files)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for the weight files of a set");
    return ANE_OK;
}

void **ane_update_files(AneGeneration *gen, int32_t program) {
    size_t at = 0;
    for (int32_t p = 0; p < program; p++)
        at += (size_t)gen->sched->sources[p].n_blobs;
    return gen->files ? gen->files + at : NULL;
}

/* Where one tensor goes as fp16: the files that bake it. */
typedef struct {
    const AneBlobDef *blob;
    uint16_t *half_f16;
    float factor; /* the elements' scale */
} Target;

/* Make the files of weight `w` of the set, as far as memory goes: what is missing is baked
 * later from what was handed over. Returns how many, at most `cap`. */
static size_t make_files(AneGeneration *gen, int32_t w, Target *out, size_t cap) {
    AneSched *s = gen->sched;
    size_t n = 0, at = 0;
    for (int32_t p = 0; p < s->n_programs; p++)
        for (int32_t b = 0; b < s->sources[p].n_blobs; b++, at++) {
            const AneBlobDef *d = &s->sources[p].blobs[b];
            if (d->weight != w || n == cap)
                continue;
            size_t count = (size_t)(d->rows * d->cols);
            uint8_t *file = ane_file_alloc(ANE_BLOB_HEAD + count * 2);
            if (!file)
                continue;
            ane_blob_head(file, count);
            gen->files[at] = file;
            const float factor = d->scale < 0 ? 1.0f : *(const float *)gen->weights[d->scale];
            out[n++] = (Target){d, (uint16_t *)(void *)(file + ANE_BLOB_HEAD), factor};
        }
    return n;
}

/* ============================== One pass ================================== */

static void pause_here(void *context) {
    if (context) /* NULL: on the caller's own thread */
        ane_background_pause(context);
}

/* Elements of one range: whole rows of the transposed files, few enough to stay in cache. */
static size_t range_of(const Target *target, size_t n, size_t *cols) {
    *cols = 0;
    for (size_t i = 0; i < n && !*cols; i++)
        if (target[i].blob->transform == ANE_BAKE_TRANSPOSE)
            *cols = (size_t)target[i].blob->cols;
    if (!*cols)
        return UPDATE_RANGE;
    size_t rows = PANEL_BYTES / sizeof(float) / *cols / 64 * 64;
    return (rows ? rows : 64) * *cols;
}

/* Rows [row, row + n) of what is baked into a transposed file: of `rounded` where it is there. */
static void transpose(const Target *t, const uint16_t *rounded, const float *baked, size_t row, size_t n) {
    const size_t rows = (size_t)t->blob->rows, cols = (size_t)t->blob->cols;
    if (rounded)
        ane_cpu_transpose_half(rounded, t->half_f16, rows, cols, row, n);
    else
        ane_cpu_bake_transposed(baked, t->factor, t->half_f16, rows, cols, row, n);
}

static AneAdamTensor adam_tensor(const AneUpdateTensor *u) {
    return (AneAdamTensor){u->p_in, u->p_out, u->m, u->v, u->g, u->count, u->weight_decay, NULL, NULL, u->ahead, u->ahead_f16};
}

/* AdamW, bake and zero over one tensor. */
static void update_tensor(AneSched *s, AneGeneration *gen, const AneUpdateTensor *u, const AneAdamStep *step) {
    enum { TARGETS = 16 };
    Target target[TARGETS];
    const AneAdamTensor t = adam_tensor(u);
    const float *const baked = u->ahead ? u->ahead : u->p_out;
    const uint16_t *const rounded = u->ahead_f16;
    size_t n = gen && u->weight >= 0 ? make_files(gen, u->weight, target, TARGETS) : 0;
    uint16_t *plain = NULL;
    for (size_t i = 0; i < n && !plain; i++)
        if (target[i].blob->transform == ANE_BAKE_PLAIN && target[i].factor == 1.0f)
            plain = target[i].half_f16;
    size_t cols, range = range_of(target, n, &cols);
    for (size_t at = 0; at < u->count; at += range) {
        size_t end = u->count - at < range ? u->count : at + range;
        pause_here(s);
        ane_cpu_adam_range(&t, at, end, step, plain, u->g);
        for (size_t i = 0; i < n; i++) {
            const AneBlobDef *d = target[i].blob;
            if (d->transform == ANE_BAKE_PLAIN && target[i].half_f16 != plain && rounded)
                memcpy(target[i].half_f16 + at, rounded + at, (end - at) * sizeof *rounded);
            else if (d->transform == ANE_BAKE_PLAIN && target[i].half_f16 != plain)
                ane_cpu_bake_plain(baked + at, target[i].factor, target[i].half_f16 + at, end - at);
            else if (d->transform != ANE_BAKE_PLAIN && (size_t)d->cols == cols)
                transpose(&target[i], rounded, baked, at / cols, (end - at) / cols);
        }
    }
    for (size_t i = 0; i < n; i++) /* a second view of the same weight with other rows */
        if (target[i].blob->transform != ANE_BAKE_PLAIN && (size_t)target[i].blob->cols != cols)
            transpose(&target[i], rounded, baked, 0, (size_t)target[i].blob->rows);
}

/* Unscale, clip, step, bake. The same arithmetic whoever calls it. */
static void run_update(AneSched *s, AneGeneration *gen, const AneUpdateJob *job, AneUpdateResult *r) {
    uint64_t begin = ane_now_ns();
    const double sum = ane_cpu_sum_squares_here(job->gradients, job->n_gradients, pause_here, s);
    const double unscale = 1.0 / ((double)job->loss_scale * (double)job->micro_steps);
    r->applied = isfinite(sum) ? 1 : 0;
    r->grad_norm = r->applied ? sqrt(sum) * unscale : INFINITY;
    r->clip = 1.0;
    if (r->applied && job->clip > 0.0 && job->clip / (r->grad_norm + 1e-6) < 1.0)
        r->clip = job->clip / (r->grad_norm + 1e-6);
    if (r->applied) {
        const AneAdamStep step = ane_cpu_adam_step(job->lr, job->beta1, job->beta2, job->eps, job->step, (float)(unscale * r->clip), job->extrapolate);
        for (int32_t i = 0; i < job->n_tensors; i++)
            update_tensor(s, gen, &job->tensors[i], &step);
    } else {
        for (int32_t i = 0; i < job->n_tensors; i++)
            memset(job->tensors[i].g, 0, job->tensors[i].count * sizeof(float));
    }
    r->update_ns = ane_now_ns() - begin;
}

/* `counts`, `dtypes`: of a scheduler's weights; NULL: nothing is baked. */
static int check_job(const AneUpdateJob *job, int32_t n_weights, const int64_t *counts, const int32_t *dtypes, AneError *err) {
    if (!job->tensors || job->n_tensors < 1 || !job->gradients)
        return ane_error_set(err, ANE_E_ARG, "update: expected tensors and gradients, got %d tensors", job->n_tensors);
    if (!(isfinite(job->lr) && job->lr >= 0) || !(job->beta1 >= 0 && job->beta1 < 1) || !(job->beta2 >= 0 && job->beta2 < 1) ||
        !(isfinite(job->eps) && job->eps > 0) || job->step < 1 || !(isfinite(job->clip) && job->clip >= 0))
        return ane_error_set(err, ANE_E_ARG, "update: lr %g, beta1 %g, beta2 %g, eps %g, clip %g, step %lld cannot be used",
                             (double)job->lr, (double)job->beta1, (double)job->beta2, (double)job->eps, job->clip,
                             (long long)job->step);
    if (!(isfinite(job->loss_scale) && job->loss_scale > 0) || job->micro_steps < 1)
        return ane_error_set(err, ANE_E_ARG, "update: loss scale %g, %lld micro-steps: expected more than 0", job->loss_scale,
                             (long long)job->micro_steps);
    if (!(isfinite(job->extrapolate) && job->extrapolate >= 0))
        return ane_error_set(err, ANE_E_ARG, "update: extrapolate: expected 0 or more, got %g", (double)job->extrapolate);
    for (int32_t i = 0; i < job->n_tensors; i++) {
        const AneUpdateTensor *u = &job->tensors[i];
        const AneAdamTensor t = adam_tensor(u);
        int status = ane_cpu_adam_check(&t, i, err);
        if (status != ANE_OK)
            return status;
        if (u->p_in == u->p_out && counts && !u->ahead && !u->ahead_f16) /* the version before may still be read */
            return ane_error_set(err, ANE_E_ARG, "tensors[%d]: the new masters need a buffer of their own", i);
        if (u->weight < -1 || u->weight >= n_weights || (u->weight >= 0 && counts && counts[u->weight] != (int64_t)u->count))
            return ane_error_set(err, ANE_E_ARG, "tensors[%d]: %zu elements for weight %d of %d", i, u->count, u->weight, n_weights);
        const int32_t dtype = u->weight >= 0 && dtypes ? dtypes[u->weight] : 0;
        if (dtype && (dtype == ANE_F16) != (u->ahead_f16 != NULL))
            return ane_error_set(err, ANE_E_ARG, "tensors[%d]: the update writes %s, the kernels are made from %s", i,
                                 u->ahead_f16 ? "float16" : "float32", dtype == ANE_F16 ? "float16" : "float32");
    }
    return ANE_OK;
}

/* The same update on the caller's thread; nothing is baked. */
int ane_cpu_update(const AneUpdateJob *job, AneUpdateResult *out, AneError *err) {
    int status = ane_guard(err);
    if (status == ANE_OK && (!job || !out))
        status = ane_error_set(err, ANE_E_ARG, "update: expected a job and a result, got NULL");
    if (status == ANE_OK)
        status = check_job(job, INT32_MAX, NULL, NULL, err);
    if (status == ANE_OK) {
        memset(out, 0, sizeof *out);
        run_update(NULL, NULL, job, out);
    }
    return status;
}

/* ============================== In the background ========================= */

/* The update has ended: its set is built next, or there is none. Takes over the job's
 * hold on the scheduler. */
static void end_update(AneSched *s, const AneUpdateResult *r) {
    AneGeneration *empty = NULL; /* the slot's reference to a set that is not built */
    pthread_mutex_lock(&s->lock);
    AneUpdate *u = &s->update;
    AneGeneration *gen = u->gen;
    int64_t version = u->version;
    u->result = *r;
    u->result.version = version;
    u->state = ANE_UPDATE_DONE;
    u->gen = NULL;
    s->now.update_ns += r->update_ns;
    s->now.updates++;
    s->now.updates_skipped += !r->applied;
    s->skips += !r->applied;
    if (gen) {
        gen->updating = false;
        gen->skips_before = s->skips;
        gen->baking &= r->applied != 0;
    }
    if (gen && !r->applied && s->pending == gen) { /* as if it had never been asked for */
        empty = gen;
        s->pending = NULL;
        s->slot = ANE_SLOT_EMPTY;
    }
    AneGeneration *next = ane_job_next_locked(s);
    pthread_mutex_unlock(&s->lock);
    ane_job_dispatch(next);
    ane_generation_drop(empty);
    ane_generation_drop(gen);
    dispatch_semaphore_signal(s->changed);
    ane_object_release(&s->object);
}

static void update_job(void *context) {
    AneSched *s = context;
    AneUpdateResult r = {0};
    uint64_t begin = ane_now_ns();
    pthread_mutex_lock(&s->lock);
    AneGeneration *gen = s->update.gen;
    int64_t version = s->update.version;
    pthread_mutex_unlock(&s->lock);
    ane_background_begin(s);
    run_update(s, gen, &s->update.job, &r);
    ane_background_end(s, gen == NULL || !r.applied);
    ane_trace_add(&s->trace, ANE_EV_UPDATE, -1, version, begin, ane_now_ns());
    end_update(s, &r);
}

/* A copy of the job that nobody else writes; the lists are the scheduler's and reused. */
static int keep_job(AneUpdate *u, const AneUpdateJob *job, AneError *err) {
    if (job->n_tensors > u->cap) {
        AneUpdateTensor *more = realloc(u->tensors, (size_t)job->n_tensors * sizeof *more);
        if (!more)
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for an update of %d tensors", job->n_tensors);
        u->tensors = more;
        u->cap = job->n_tensors;
    }
    memcpy(u->tensors, job->tensors, (size_t)job->n_tensors * sizeof *job->tensors);
    u->job = *job;
    u->job.tensors = u->tensors;
    return ANE_OK;
}

/* Under `stepping`. */
static int submit_update(AneSched *s, const AneUpdateJob *job, const void *const *weights, bool build, AneError *err) {
    pthread_mutex_lock(&s->lock);
    bool running = s->update.state == ANE_UPDATE_RUNNING;
    pthread_mutex_unlock(&s->lock);
    if (running)
        return ane_error_set(err, ANE_E_STATE, "an update is under way: call collect first");
    int status = job ? check_job(job, s->n_weights, s->weight_counts, s->weight_dtypes, err) : ANE_OK;
    if (status == ANE_OK && job)
        status = keep_job(&s->update, job, err);
    if (status != ANE_OK)
        return status;
    status = ane_sched_take(s, weights, ANE_TAKE_UPDATE | (job ? ANE_TAKE_NATIVE : 0) | (build ? ANE_TAKE_BUILD : 0), 0, err);
    if (status != ANE_OK)
        return status;
    if (job)
        dispatch_async_f(s->update_queue, s, update_job);
    return ANE_OK;
}

int ane_sched_submit_update(AneHandle sched, const AneUpdateJob *job, const void *const *weights, int32_t build, AneError *err) {
    AneSched *s;
    int status = ane_sched_enter(sched, &s, err);
    if (status != ANE_OK)
        return status;
    if (job && build && !weights)
        status = ane_error_set(err, ANE_E_ARG, "the update's weights were not given");
    return ane_sched_leave(s, status == ANE_OK ? submit_update(s, job, weights, build != 0, err) : status);
}

int ane_sched_provide(AneHandle sched, int64_t version, const void *const *weights, int32_t failed, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    for (int32_t w = 0; weights && w < s->n_weights && status == ANE_OK; w++)
        if (!weights[w])
            status = ane_error_set(err, ANE_E_ARG, "weight %d is missing", w);
    pthread_mutex_lock(&s->lock);
    AneUpdate *u = &s->update;
    bool mine = u->state == ANE_UPDATE_RUNNING && !u->native && u->version == version;
    uint64_t begin = u->begin_ns;
    if (status == ANE_OK && !mine)
        status = ane_error_set(err, ANE_E_STATE, "no update of version %lld waits for its weights", (long long)version);
    if (status == ANE_OK && weights && u->gen && s->n_weights)
        memcpy(u->gen->weights, weights, (size_t)s->n_weights * sizeof *weights);
    pthread_mutex_unlock(&s->lock);
    if (status == ANE_OK) {
        uint64_t end = ane_now_ns();
        AneUpdateResult r = {.applied = weights != NULL, .failed = failed, .clip = 1.0, .update_ns = end - begin};
        ane_trace_add(&s->trace, ANE_EV_UPDATE, -1, version, begin, end);
        end_update(s, &r);
    }
    ane_object_release(&s->object);
    return status;
}

int ane_sched_collect(AneHandle sched, int32_t slice_ms, AneUpdateResult *out, AneError *err) {
    AneSched *s;
    int status = ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    dispatch_time_t until = dispatch_time(DISPATCH_TIME_NOW, (int64_t)(slice_ms > 0 ? slice_ms : 0) * 1000000);
    uint64_t begin = ane_now_ns();
    bool over = false, waited = false;
    do {
        pthread_mutex_lock(&s->lock);
        if (waited)
            ane_background_wait_locked(s, -1);
        const AneUpdate *u = &s->update;
        status = u->state == ANE_UPDATE_NONE ? ANE_SKIP : u->state == ANE_UPDATE_DONE ? ANE_OK : ANE_AGAIN;
        if (status == ANE_OK)
            *out = u->result;
        if (status == ANE_AGAIN && !over)
            ane_background_wait_locked(s, 1);
        pthread_mutex_unlock(&s->lock);
        if (status == ANE_AGAIN && !over) {
            waited = true;
            over = dispatch_semaphore_wait(s->changed, until) != 0;
        } else {
            break;
        }
    } while (true);
    if (waited) {
        uint64_t end = ane_now_ns();
        pthread_mutex_lock(&s->lock);
        s->now.wait_ns += end - begin;
        int64_t version = s->newest;
        pthread_mutex_unlock(&s->lock);
        ane_trace_add(&s->trace, ANE_EV_WAIT, -1, version, begin, end);
    }
    ane_object_release(&s->object);
    return status;
}
