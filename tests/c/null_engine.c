// SPDX-License-Identifier: MIT
/* null_engine.c - see null_engine.h. Programs and requests are checked by a magic word that
 * freeing them destroys. Counters are relaxed atomics and locks are taken on the compile
 * queue only: a lock here would order threads that the scheduler itself must order, and
 * hide its mistakes from the thread sanitizer. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_core_sched.h"
#include "null_engine.h"

#define PROGRAM_MAGIC 0x50726f67u
#define REQUEST_MAGIC 0x52657175u
#define GONE_MAGIC 0xdeaddeadu

struct AneSurface {
    AneObject object;
    AneSurfaceInfo info;
};

struct AneProgram {
    uint32_t magic;
    int refs, loads;    /* under g_lock */
    AneProgram *next;   /* registry of shared ones, same lock */
    char identity[64];
    int64_t version;    /* baked in; -1: none */
    bool shared, bad_output;
    bool loaded;        /* plain: written by load and unload, read by evaluations */
};

typedef struct {
    uint32_t magic;
    AneProgram *program;
    int32_t n_outputs;
    AneSurface *outputs[8];
} Request;

static struct {
    NullCounts n;
    int chance[NULL_STEPS], fail_at[NULL_STEPS], delay_us[NULL_STEPS];
    char first[256];
} g;
static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; /* programs; compile queue only */
static AneProgram *g_shared;

#define ADD(what, by) __atomic_add_fetch(&(what), (by), __ATOMIC_RELAXED)
#define GET(what) __atomic_load_n(&(what), __ATOMIC_RELAXED)
#define SET(what, to) __atomic_store_n(&(what), (to), __ATOMIC_RELAXED)

static __thread uint64_t t_random;
static __thread NullChain t_chain;
static __thread int t_id = -1;

/* ============================== Watching ================================== */

void null_violation(const char *fmt, ...) {
    char text[sizeof g.first];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (ADD(g.n.violations, 1) == 1)
        memcpy(g.first, text, sizeof text);
}

const char *null_first_violation(void) { return g.first; }

void null_counts(NullCounts *out) {
    int64_t *from = (int64_t *)&g.n, *to = (int64_t *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = GET(from[i]);
}

void null_forget_peak(void) {
    SET(g.n.peak_loaded, GET(g.n.loaded));
}

void null_chain_begin(void) { t_chain = (NullChain){.version = -1}; }
NullChain null_chain_end(void) { return t_chain; }

/* ============================== Failing =================================== */

void null_reset(void) {
    for (int i = 0; i < NULL_STEPS; i++) {
        SET(g.chance[i], 0);
        SET(g.fail_at[i], 0);
        SET(g.delay_us[i], 0);
    }
    SET(g.n.limit, 0);
    SET(g.n.compiles, 0);
    null_forget_peak();
}

void null_set_chance(int step, int millionths) { SET(g.chance[step], millionths); }
void null_fail_at(int step, int n) { SET(g.fail_at[step], n); }
void null_set_delay_us(int step, int us) { SET(g.delay_us[step], us); }
void null_set_limit(int64_t limit) { SET(g.n.limit, limit); }
static bool g_unstamped;
void null_stamps(bool on) { SET(g_unstamped, !on); }
void null_seed(uint64_t seed) { t_random = seed; }

static uint64_t random_next(void) {
    if (!t_random)
        t_random = 0x9e3779b97f4a7c15u ^ (uint64_t)(uintptr_t)&t_random;
    t_random ^= t_random << 13;
    t_random ^= t_random >> 7;
    t_random ^= t_random << 17;
    return t_random >> 11;
}

/* Whether this call fails; sleeps as told. */
static bool fails(int step) {
    bool fail = random_next() % 1000000 < (uint64_t)GET(g.chance[step]);
    if (GET(g.fail_at[step]) > 0 && ADD(g.fail_at[step], -1) == 0)
        fail = true;
    int us = GET(g.delay_us[step]);
    if (us)
        nanosleep(&(struct timespec){.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L}, NULL);
    return fail;
}

/* ============================== Gates ===================================== */

typedef struct {
    bool waiting, allowed;
    int at, status, passed;
} Post;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool job_shut, eval_shut, update_shut;
    Post job, update, eval[NULL_THREADS];
} g_gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* Stand at a post until let through; returns the status that was given. */
static int pass(const bool *shut, Post *p, int at) {
    if (!GET(*shut))
        return ANE_OK;
    pthread_mutex_lock(&g_gate.lock);
    int status = ANE_OK;
    if (*shut) {
        p->at = at;
        p->waiting = true;
        p->allowed = false;
        pthread_cond_broadcast(&g_gate.changed);
        while (*shut && !p->allowed)
            pthread_cond_wait(&g_gate.changed, &g_gate.lock);
        status = p->allowed ? p->status : ANE_OK;
        p->allowed = p->waiting = false;
        p->passed++;
        pthread_cond_broadcast(&g_gate.changed);
    }
    pthread_mutex_unlock(&g_gate.lock);
    return status;
}

static bool arrived(const Post *p, int ms) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    while (!p->waiting || p->allowed)
        if (pthread_cond_timedwait(&g_gate.changed, &g_gate.lock, &until) != 0)
            return false;
    return true;
}

static void allow(Post *p, int status) {
    pthread_mutex_lock(&g_gate.lock);
    p->status = status;
    p->allowed = true;
    pthread_cond_broadcast(&g_gate.changed);
    pthread_mutex_unlock(&g_gate.lock);
}

static void shut(bool *gate, bool value) {
    pthread_mutex_lock(&g_gate.lock);
    SET(*gate, value);
    pthread_cond_broadcast(&g_gate.changed);
    pthread_mutex_unlock(&g_gate.lock);
}

void null_gate_job(bool value) { shut(&g_gate.job_shut, value); }
void null_gate_eval(bool value) { shut(&g_gate.eval_shut, value); }
void null_gate_update(bool value) { shut(&g_gate.update_shut, value); }
void null_update_allow(int status) { allow(&g_gate.update, status); }
void null_job_allow(int status) { allow(&g_gate.job, status); }
void null_eval_allow(int id, int status) { allow(&g_gate.eval[id], status); }

int null_job_wait(int ms) {
    pthread_mutex_lock(&g_gate.lock);
    int at = arrived(&g_gate.job, ms) ? g_gate.job.at : -1;
    pthread_mutex_unlock(&g_gate.lock);
    return at;
}

bool null_update_wait(int ms) {
    pthread_mutex_lock(&g_gate.lock);
    bool there = arrived(&g_gate.update, ms);
    pthread_mutex_unlock(&g_gate.lock);
    return there;
}

int null_eval_wait(int id, int ms) {
    pthread_mutex_lock(&g_gate.lock);
    int passed = arrived(&g_gate.eval[id], ms) ? g_gate.eval[id].passed : -1;
    pthread_mutex_unlock(&g_gate.lock);
    return passed;
}

void null_thread(int id) {
    t_id = id;
    pthread_mutex_lock(&g_gate.lock);
    g_gate.eval[id] = (Post){0};
    pthread_mutex_unlock(&g_gate.lock);
}

static void nothing(void *context) { (void)context; }

void null_queue_sync(AneHandle sched) {
    AneSched *s;
    if (ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, NULL) != ANE_OK)
        return;
    for (int i = 0; i < 4; i++) /* a job gives its set to the queue, whose end lets the next job in */
        dispatch_sync_f(s->queue, NULL, nothing);
    ane_object_release(&s->object);
}

void null_update_sync(AneHandle sched) {
    AneSched *s;
    if (ane_handle_get(sched, ANE_KIND_SCHED, (void **)&s, NULL) != ANE_OK)
        return;
    dispatch_sync_f(s->update_queue, NULL, nothing);
    ane_object_release(&s->object);
}

/* The linker puts this in the place of the first thing a native update does (--wrap): there it
 * can be held, and told that a gradient is not finite. */
double __real_ane_cpu_sum_squares_here(const float *x, size_t n, void (*pause)(void *), void *context);
double __wrap_ane_cpu_sum_squares_here(const float *x, size_t n, void (*pause)(void *), void *context);
double __wrap_ane_cpu_sum_squares_here(const float *x, size_t n, void (*pause)(void *), void *context) {
    int status = pass(&g_gate.update_shut, &g_gate.update, 0);
    double sum = __real_ane_cpu_sum_squares_here(x, n, pause, context);
    return status == ANE_OK ? sum : INFINITY;
}

/* The number a kernel's name ends with. */
static int number_of(const char *name) {
    const char *p = name + strcspn(name, "0123456789");
    return (int)strtol(p, NULL, 10);
}

/* ============================== Surfaces ================================== */

static void destroy_surface(AneObject *o) {
    AneSurface *s = (AneSurface *)o;
    free(s->info.base);
    free(s);
    ADD(g.n.surfaces_freed, 1);
}

int ane_surface_make(const AnePortDef *port, AneSurface **out, AneError *err) {
    AneSurface *s = fails(NULL_SURFACE) ? NULL : calloc(1, sizeof *s);
    if (!s)
        return ane_error_set(err, ANE_E_MEMORY, "no surface for port '%s'", port->name);
    ane_port_layout(port, &s->info);
    if (!(s->info.base = calloc(1, s->info.bytes))) {
        free(s);
        return ane_error_set(err, ANE_E_MEMORY, "no memory for port '%s'", port->name);
    }
    ane_object_init(&s->object, ANE_KIND_SURFACE, destroy_surface);
    ADD(g.n.surfaces_made, 1);
    *out = s;
    return ANE_OK;
}

const AneSurfaceInfo *ane_surface_layout(const AneSurface *s) { return &s->info; }
AneObject *ane_surface_object(AneSurface *s) { return &s->object; }

/* ============================== Programs ================================== */

/* The version all elements hold; reading them is what races with a caller who was told too early. */
static int64_t version_of(const AneSourceDef *k, const AneBlobDef *b, const float *weight) {
    int64_t count = b->rows * b->cols;
    for (int64_t i = 1; i < count; i++)
        if (weight[i] != weight[0]) {
            null_violation("kernel %s, %s: element 0 is of version %g, element %lld of %g", k->name, b->path,
                           (double)weight[0], (long long)i, (double)weight[i]);
            break;
        }
    return (int64_t)weight[0];
}

/* Element i of a weight as a bake rounds it. */
static uint16_t rounded(const AneBlobDef *b, const void *const *weights, size_t i) {
    if (b->dtype == ANE_F16)
        return ((const uint16_t *)weights[b->weight])[i];
    const float factor = b->scale < 0 ? 1.0f : *(const float *)weights[b->scale];
    const float scaled = ((const float *)weights[b->weight])[i] * factor;
    uint16_t half;
    ane_cpu_half_from_float(&scaled, &half, 1);
    return half;
}

/* A file that the update wrote holds what a bake of the same weight would. Takes it over. */
static void check_file(const AneSourceDef *k, const AneBlobDef *b, const void *const *weights, void **file) {
    uint8_t head[ANE_BLOB_HEAD];
    size_t rows = (size_t)b->rows, cols = (size_t)b->cols;
    ane_blob_head(head, rows * cols);
    const uint16_t *half = (const uint16_t *)(const void *)((uint8_t *)*file + ANE_BLOB_HEAD);
    bool good = memcmp(head, *file, sizeof head) == 0;
    for (size_t i = 0; i < rows * cols && good; i++)
        good = half[b->transform == ANE_BAKE_PLAIN ? i : i % cols * rows + i / cols] == rounded(b, weights, i);
    if (!good)
        null_violation("kernel %s, %s: the update's file is not what a bake writes", k->name, b->path);
    ADD(g.n.files_taken, 1);
    ane_file_free(*file);
    *file = NULL;
}

static int64_t stamp(const AneSourceDef *k, const void *const *weights, void **files) {
    int64_t version = -1;
    for (int32_t i = 0; i < k->n_blobs && files; i++)
        if (files[i])
            check_file(k, &k->blobs[i], weights, &files[i]);
    for (int32_t i = 0; i < k->n_blobs; i++) {
        const AneBlobDef *b = &k->blobs[i];
        if (b->weight < 0 || strstr(b->path, "frozen"))
            continue;
        if (GET(g_unstamped)) { /* one of its own for each bake: nothing is shared */
            for (int64_t e = 0; e < b->rows * b->cols; e++)
                if ((rounded(b, weights, (size_t)e) & 0x7FFFu) > 0x7C00u)
                    null_violation("kernel %s, %s: element %lld is not a number", k->name, b->path, (long long)e);
            version = 0;
            continue;
        }
        int64_t v = version_of(k, b, weights[b->weight]);
        if (version >= 0 && v != version)
            null_violation("kernel %s was baked from versions %lld and %lld", k->name, (long long)version, (long long)v);
        version = v;
    }
    return version;
}

/* Nothing of this engine is compiled by workers. */
int ane_prog_begin(AneProgram *p, struct AnePool *pool, uint32_t qos, AneError *err) {
    (void)p, (void)pool, (void)qos;
    return ane_error_set(err, ANE_E_STATE, "the null engine has no workers");
}
void ane_prog_settle(AneProgram *p) { (void)p; }
int ane_prog_remake(AneProgram *p, uint32_t qos, AneProgram **out, AneError *err) {
    (void)p, (void)qos, (void)out, (void)err;
    return ANE_SKIP;
}
AneObject *ane_pool_object(struct AnePool *p) { return (AneObject *)(void *)p; }

int ane_prog_acquire(const AneSourceDef *k, const void *const *weights, void **files, bool shared, AneProgram **out,
                     AneCost *cost, AneError *err) {
    (void)shared;
    int status = pass(&g_gate.job_shut, &g_gate.job, NULL_BAKE * 1000 + number_of(k->name));
    if (status != ANE_OK || fails(NULL_BAKE))
        return ane_error_set(err, status != ANE_OK ? status : ANE_E_ENGINE, "bake of %s failed", k->name);
    cost->bake_ns++;
    int64_t version = stamp(k, weights, files);
    AneProgram *made = calloc(1, sizeof *made);
    if (!made)
        return ane_error_set(err, ANE_E_MEMORY, "no memory for a program");
    pthread_mutex_lock(&g_lock);
    AneProgram *p = g_shared;
    while (version < 0 && p && strcmp(p->identity, k->name) != 0)
        p = p->next;
    if (version < 0 && p) {
        p->refs++;
    } else {
        p = made;
        made = NULL;
        *p = (AneProgram){.magic = PROGRAM_MAGIC, .refs = 1, .version = version, .shared = version < 0};
        snprintf(p->identity, sizeof p->identity, "%s", k->name);
        if (p->shared) {
            p->next = g_shared;
            g_shared = p;
        }
        ADD(g.n.programs_made, 1);
    }
    pthread_mutex_unlock(&g_lock);
    free(made);
    *out = p;
    return ANE_OK;
}

/* Under the lock. */
static void forget(AneProgram *p) {
    for (AneProgram **at = &g_shared; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            return;
        }
}

void ane_prog_release(AneProgram *p) {
    if (!p)
        return;
    pthread_mutex_lock(&g_lock);
    bool last = --p->refs == 0;
    bool still = last && p->loads > 0;
    if (last) {
        forget(p);
        ADD(g.n.programs_freed, 1);
    }
    pthread_mutex_unlock(&g_lock);
    if (p->magic != PROGRAM_MAGIC || still)
        null_violation("a program was freed %s", still ? "while loaded" : "twice");
    if (last) {
        p->magic = GONE_MAGIC;
        free(p);
    }
}

const char *ane_prog_identity(const AneProgram *p) { return p->identity; }

int ane_prog_compile(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    (void)qos;
    if (!reserved)
        null_violation("%s is compiled without a reserved budget", p->identity);
    int64_t used = ADD(g.n.compiles, 1), limit = GET(g.n.limit);
    if (ADD(g.n.reserved, -1) < 0 || (limit && used > limit))
        null_violation("%s is compiled beyond the budget", p->identity);
    cost->compiled = true;
    cost->compile_ns++;
    return fails(NULL_COMPILE) ? ane_error_set(err, ANE_E_COMPILE, "compile of %s failed", p->identity) : ANE_OK;
}

int ane_prog_load(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    int status = pass(&g_gate.job_shut, &g_gate.job, NULL_LOAD * 1000 + number_of(p->identity));
    bool fail = fails(NULL_LOAD);
    pthread_mutex_lock(&g_lock);
    bool reused = p->loads > 0;
    p->loads += reused;
    pthread_mutex_unlock(&g_lock);
    if (reused) {
        cost->reused = true;
        return ANE_OK;
    }
    int compiled = ane_prog_compile(p, qos, reserved, cost, err);
    if (compiled == ANE_OK && (fail || (status != ANE_OK && status != ANE_E_CANARY)))
        compiled = ane_error_set(err, status == ANE_OK ? ANE_E_ENGINE : status, "load of %s failed", p->identity);
    pthread_mutex_lock(&g_lock);
    if (compiled != ANE_OK) {
        forget(p); /* spent, as with the real engine */
    } else {
        p->loads = 1;
        if (ADD(g.n.loaded, 1) > GET(g.n.peak_loaded))
            SET(g.n.peak_loaded, GET(g.n.loaded));
    }
    pthread_mutex_unlock(&g_lock);
    cost->load_ns++;
    if (compiled == ANE_OK) {
        p->bad_output = status == ANE_E_CANARY || fails(NULL_CANARY);
        p->loaded = true;
    }
    return compiled;
}

int ane_prog_unload(AneProgram *p, uint32_t qos, AneError *err) {
    (void)qos;
    (void)fails(NULL_UNLOAD);
    if (p->magic != PROGRAM_MAGIC)
        null_violation("a freed program is unloaded");
    pthread_mutex_lock(&g_lock);
    bool wrong = p->loads < 1, last = --p->loads == 0;
    if (last) {
        ADD(g.n.loaded, -1);
        forget(p); /* its model object is spent */
    }
    pthread_mutex_unlock(&g_lock);
    if (wrong)
        null_violation("%s is unloaded more often than loaded", p->identity);
    if (last)
        p->loaded = false;
    return wrong ? ane_error_set(err, ANE_E_STATE, "not loaded") : ANE_OK;
}

/* ============================== Requests ================================== */

int ane_request_make(AneProgram *p, const AneKernelDef *k, AneSurface *const *inputs, AneSurface *const *outputs, void **out,
                     AneError *err) {
    (void)inputs;
    if (!p->loaded)
        null_violation("a request is made for %s, which is not loaded", p->identity);
    Request *r = fails(NULL_REQUEST) || k->n_outputs > 8 ? NULL : calloc(1, sizeof *r);
    if (!r)
        return ane_error_set(err, ANE_E_BIND, "no request for %s", p->identity);
    *r = (Request){.magic = REQUEST_MAGIC, .program = p, .n_outputs = k->n_outputs};
    for (int32_t i = 0; i < k->n_outputs; i++)
        r->outputs[i] = outputs[i];
    ADD(g.n.requests_made, 1);
    *out = r;
    return ANE_OK;
}

void ane_request_free(void *request) {
    Request *r = request;
    if (!r)
        return;
    if (r->magic != REQUEST_MAGIC)
        null_violation("a request is freed twice");
    r->magic = GONE_MAGIC;
    free(r);
    ADD(g.n.requests_freed, 1);
}

/* Only a canary (whose class differs from the evaluations') writes outputs: several threads may
 * evaluate on the same surfaces here, which a real user must not do. */
int ane_prog_eval(AneProgram *p, void *request, uint32_t qos, AneMended *mended, AneError *err) {
    (void)mended; /* nothing is cancelled or lost here */
    bool canary = qos != NULL_FOREGROUND_QOS;
    int status = !canary && t_id >= 0 ? pass(&g_gate.eval_shut, &g_gate.eval[t_id], 0) : ANE_OK;
    Request *r = request;
    if (p->magic != PROGRAM_MAGIC || r->magic != REQUEST_MAGIC || r->program != p)
        null_violation("an evaluation of a freed program or with a foreign request");
    if (!p->loaded)
        null_violation("an evaluation of %s, which is not loaded", p->identity);
    if (!canary) {
        t_chain.evals++;
        t_chain.mixed |= t_chain.version >= 0 && p->version >= 0 && p->version != t_chain.version;
        if (p->version >= 0)
            t_chain.version = p->version;
    }
    for (int32_t i = 0; canary && !p->bad_output && i < r->n_outputs; i++)
        memset(r->outputs[i]->info.base, 0, r->outputs[i]->info.bytes);
    bool fail = !canary && fails(NULL_EVAL);
    if (!p->loaded || p->magic != PROGRAM_MAGIC)
        null_violation("a program was unloaded during its evaluation");
    ADD(g.n.evals, 1);
    if (fail || status != ANE_OK)
        return ane_error_set(err, status != ANE_OK ? status : ANE_E_ENGINE, "evaluation failed");
    return ANE_OK;
}

/* ============================== Budget ==================================== */

int ane_budget_reserve(int64_t n, AneError *err) {
    int64_t limit = GET(g.n.limit), reserved = ADD(g.n.reserved, n);
    bool over = limit && GET(g.n.compiles) + reserved > limit;
    if (over)
        ADD(g.n.reserved, -n);
    return over ? ane_error_set(err, ANE_E_BUDGET, "no budget for %lld programs", (long long)n) : ANE_OK;
}

void ane_budget_return(int64_t n) {
    if (ADD(g.n.reserved, -n) < 0)
        null_violation("more budget is returned than was reserved");
}

void ane_budget_read(int64_t *used, int64_t *limit, int64_t *loaded) {
    *used = GET(g.n.compiles);
    *limit = GET(g.n.limit);
    *loaded = GET(g.n.loaded);
}

void ane_core_thread_enter(void) {}
