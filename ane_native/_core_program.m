// SPDX-License-Identifier: MIT
/* _core_program.m - programs: bake, describe, stage, compile, load, unload. Binding and
 * evaluating is in _core_bind.m; one program by a handle of its own in _core_single.m.
 *
 * There is one AneProgram per identity and process, shared by all who bake the
 * same bytes: the engine keeps one staging directory per identity and unload
 * deletes it, so two owners must not unload behind each other's back; owners in
 * other processes are told apart by leases (_core_lease.c). Equal
 * kernels (frozen weights, weight-free kernels of every layer) thus cost one
 * compile. Nothing here knows of sets or generations. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#import "_core_door.h"
#include "_core_pool.h"

#define g ane_engine

enum {
    WAIT_SLICE_MS = 20, /* between two looks at whether the trainer is being closed */
    COMPILE_WORK_MS = 330000, /* another process compiles the same: more than a worker's usual deadline */
    LOAD_WORK_MS = 10000,
    MAX_RELOADS = 8
};

/* ============================== Programs: making ========================== */

static void drop_job(AneProgram *p) {
    ane_job_free(p->job);
    p->job = NULL;
    ane_segment_release(p->segment);
    p->segment = NULL;
    if (p->pool)
        ane_object_release(ane_pool_object(p->pool));
    p->pool = NULL;
}

static void destroy_program(AneProgram *p) {
    ane_thread_enter();
    @autoreleasepool {
        [(id)p->model release];
        [p->files release];
        [p->text release];
    }
    drop_job(p);
    ane_lease_release(p->lease); /* with what is staged, unless another process uses it */
    ane_free_procedures(p);
    free(p->directory);
    pthread_mutex_destroy(&p->life);
    pthread_mutex_destroy(&p->run);
    free(p);
}

/* Out of the registry, if it is in it: the next user of these bytes makes a new
 * model. Under the engine's lock. */
static void forget_locked(AneProgram *p) {
    for (AneProgram **at = &g.programs; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            return;
        }
}

static void forget(AneProgram *p) {
    pthread_mutex_lock(&g.lock);
    forget_locked(p);
    pthread_mutex_unlock(&g.lock);
}

void ane_prog_release(AneProgram *p) {
    if (!p)
        return;
    pthread_mutex_lock(&g.lock);
    bool last = --p->refs == 0;
    if (last)
        forget_locked(p);
    pthread_mutex_unlock(&g.lock);
    if (last)
        destroy_program(p);
}

const char *ane_prog_identity(const AneProgram *p) { return p->identity; }

static AneProgram *new_program(id<AneModel> model, NSData *text, NSDictionary *files, const char *identity) {
    AneProgram *p = calloc(1, sizeof *p);
    const char *path = [[model localModelPath] fileSystemRepresentation];
    if (!p || !path || !(p->directory = strdup(path))) {
        free(p);
        return NULL;
    }
    snprintf(p->identity, sizeof p->identity, "%s", identity);
    p->refs = 1;
    p->at_work = p->locked = -1;
    pthread_mutex_init(&p->life, NULL);
    pthread_mutex_init(&p->run, NULL);
    p->model = [(id)model retain];
    p->text = [text retain];
    p->files = [files retain];
    return p;
}

/* The file of one weight. `ready` (or NULL) is taken over when it is there. Returns +1. */
static NSData *make_file(const AneBlobDef *b, const void *const *weights, void **ready) {
    if (ready && *ready) {
        void *file = *ready;
        *ready = NULL;
        return ane_file_data(file, ane_blob_bytes(b));
    }
    void *file = ane_file_alloc(ane_blob_bytes(b));
    if (!file)
        return nil;
    ane_blob_write(b, weights, file);
    return ane_file_data(file, ane_blob_bytes(b));
}

/* Weight files in memory of this process. */
static int bake_here(const AneSourceDef *k, const void *const *weights, void **ready, NSDictionary **out, AneError *err) {
    NSMutableDictionary *files = [NSMutableDictionary dictionary];
    for (int32_t i = 0; i < k->n_blobs; i++) {
        const AneBlobDef *b = &k->blobs[i];
        NSData *d = make_file(b, weights, ready ? &ready[i] : NULL);
        if (!d)
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for weight file %s", b->path);
        [files setObject:d forKey:[NSString stringWithUTF8String:b->path]];
        [d release];
    }
    *out = files;
    return ANE_OK;
}

/* Text and weight files in memory that a worker can map. */
static int bake_shared(const AneSourceDef *k, const void *const *weights, void **ready, AneSegment **segment,
                       NSDictionary **out, AneError *err) {
    size_t n = (size_t)k->n_blobs;
    const char **paths = calloc(n + 1, sizeof *paths);
    size_t *bytes = calloc(n + 1, sizeof *bytes);
    int status = paths && bytes ? ANE_OK : ane_error_set(err, ANE_E_MEMORY, "out of memory for weight files");
    for (size_t i = 0; i < n && status == ANE_OK; i++) {
        paths[i] = k->blobs[i].path;
        bytes[i] = ane_blob_bytes(&k->blobs[i]);
    }
    if (status == ANE_OK)
        status = ane_segment_layout(k->mil, k->mil_bytes, paths, bytes, (uint32_t)n, segment, err);
    free(paths);
    free(bytes);
    if (status != ANE_OK)
        return status;
    const AneSegmentHead *head = ane_segment_head(*segment);
    for (size_t i = 0; i < n; i++) {
        const AneBlobDef *b = &k->blobs[i];
        uint8_t *at = (*segment)->base + head->files[i].at;
        if (ready && ready[i]) {
            memcpy(at, ready[i], ane_blob_bytes(b));
            ane_file_free(ready[i]);
            ready[i] = NULL;
        } else {
            ane_blob_write(b, weights, at);
        }
    }
    *out = ane_segment_files(*segment, head);
    return *out ? ANE_OK : ane_error_set(err, ANE_E_MEMORY, "out of memory for weight files");
}

/* One program per identity: that of these bytes, new or known; +1 reference. */
static int find_or_make(NSData *text, NSDictionary *files, AneSegment *segment, AneProgram **out, AneError *err) {
    id model = nil;
    char identity[256];
    int status = ane_model_make(text, files, &model, identity, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&g.lock);
    AneProgram *p = g.programs;
    while (p && strcmp(p->identity, identity) != 0)
        p = p->next;
    if (p) {
        p->refs++;
    } else if ((p = new_program(model, text, files, identity))) {
        if (segment)
            ane_segment_retain(p->segment = segment);
        p->next = g.programs;
        g.programs = p;
    } else {
        status = ane_error_set(err, ANE_E_MEMORY, "out of memory for a program");
    }
    pthread_mutex_unlock(&g.lock);
    [model release];
    *out = p;
    return status;
}

static int acquire(const AneSourceDef *k, const void *const *weights, void **ready, bool shared, AneProgram **out,
                   AneError *err) {
    NSDictionary *files = nil;
    AneSegment *segment = NULL;
    int status = shared ? bake_shared(k, weights, ready, &segment, &files, err) : bake_here(k, weights, ready, &files, err);
    if (status == ANE_OK)
        status = find_or_make([NSData dataWithBytes:k->mil length:k->mil_bytes], files, segment, out, err);
    ane_segment_release(segment);
    return status;
}

int ane_prog_acquire(const AneSourceDef *k, const void *const *weights, void **ready, bool shared, AneProgram **out,
                     AneCost *cost, AneError *err) {
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    for (int32_t i = 0; i < k->n_blobs; i++) {
        const AneBlobDef *b = &k->blobs[i];
        if ((b->weight >= 0 && (!weights || !weights[b->weight])) || (b->scale >= 0 && !weights[b->scale]))
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: its weight or scale was not given", k->name, b->path);
    }
    ane_thread_enter();
    uint64_t begin = ane_now_ns();
    @autoreleasepool {
        @try {
            status = acquire(k, weights, ready, shared, out, err);
        } @catch (NSException *x) {
            status = ane_threw(err, "describe", x);
        }
    }
    cost->bake_ns += ane_now_ns() - begin;
    return status;
}

/* ============================== Programs: life ============================ */

/* The worker's answer to p->job. ANE_OK: the engine knows the program now.
 * ANE_E_WORKER: compile it here. Anything else ends this program. Under p->life. */
static int await_worker(AneProgram *p, AneCost *cost, AneError *err) {
    AneAnswer answer;
    for (;;) {
        while (ane_job_wait(p->job, WAIT_SLICE_MS, &answer) == ANE_AGAIN)
            if (cost->stop && cost->stop(cost->stop_context))
                return ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
        int status = answer.error.status;
        if (status == ANE_OK) {
            cost->bake_ns += answer.bake_ns;
            cost->compile_ns += answer.compile_ns;
            cost->worker = answer.cached ? 0 : (int32_t)answer.pid;
            cost->worker_begin_ns = answer.begin_ns;
            cost->worker_stage_ns = answer.bake_ns;
            cost->worker_compile_ns = answer.compile_ns;
            if ([p->model compiledModelExists])
                return ANE_OK;
            if (ane_job_again(p->job) == ANE_OK) /* gone again, or never there */
                continue;
            return ANE_E_WORKER;
        }
        if (status == ANE_E_CLOSED)
            return ANE_E_WORKER; /* the pool was closed under a trainer that goes on */
        if (err)
            *err = answer.error;
        if (status != ANE_E_WORKER) /* the engine's compiler refused */
            p->state = PROG_GONE;
        return status;
    }
}

/* Under p->life. */
static int take_lease(AneProgram *p, AneError *err) { return p->lease ? ANE_OK : ane_lease_take(p->directory, &p->lease, err); }

/* Nobody else is at work in its directory from here on. */
static int begin_work(AneProgram *p, int32_t ms, const AneCost *cost, AneError *err) {
    return ane_lease_work(p->directory, ms, cost ? cost->stop : NULL, cost ? cost->stop_context : NULL, &p->at_work, err);
}

static void end_work(AneProgram *p) {
    ane_lease_unlock(p->locked);
    ane_lease_unlock(p->at_work);
    p->at_work = p->locked = -1;
}

int ane_prog_begin(AneProgram *p, AnePool *pool, uint32_t qos, AneError *err) {
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    ane_thread_enter();
    pthread_mutex_lock(&p->life);
    @autoreleasepool {
        @try {
            if (p->state == PROG_MADE && p->segment && !p->job && ![p->model compiledModelExists] &&
                (status = take_lease(p, err)) == ANE_OK &&
                ane_job_start(pool, p->segment, p->identity, p->lease, qos, &p->job, NULL) == ANE_OK) {
                ane_object_retain(ane_pool_object(pool));
                p->pool = pool;
            }
        } @catch (NSException *x) {
            status = ane_threw(err, "compiledModelExists", x);
        }
    }
    pthread_mutex_unlock(&p->life);
    return status;
}

/* Whether this process has a compile left. */
static bool may_compile(void) {
    if (ane_budget_reserve(1, NULL) != ANE_OK)
        return false;
    ane_budget_return(1);
    return true;
}

/* Neither a worker nor this process: what became of the workers, and of the budget. */
static int no_worker_no_budget(const AneError *why, AneError *err) {
    AneError budget;
    ane_error_clear(&budget);
    int spent = ane_budget_reserve(1, &budget);
    if (spent == ANE_OK) /* somebody gave one back meanwhile: too late */
        ane_budget_return(1);
    if (err) {
        *err = *why;
        size_t n = strlen(err->text);
        snprintf(err->text + n, sizeof err->text - n, "; and here: %s", spent == ANE_OK ? "no compile was left" : budget.text);
    }
    return ANE_E_WORKER;
}

/* What is staged need not lie in memory as well while the engine reads it: only names are left, for
 * drop_sources(). The engine's descriptor lets go by itself. */
static void keep_names(AneProgram *p) {
    NSMutableDictionary *names = [NSMutableDictionary dictionary];
    for (NSString *file in p->files)
        [names setObject:[NSData data] forKey:file];
    [p->files release];
    p->files = [names retain];
}

/* Under p->life, alone at work in its directory. */
static int stage_and_compile(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    uint64_t begin = ane_now_ns();
    int status = ane_stage(p->directory, p->text, p->files, err);
    cost->bake_ns += ane_now_ns() - begin;
    if (status != ANE_OK) {
        if (!reserved)
            ane_budget_return(1);
        return status;
    }
    keep_names(p);
    p->state = PROG_GONE; /* also when it throws: it cannot be staged again */
    NSError *e = nil;
    begin = ane_now_ns();
    BOOL ok = [p->model compileWithQoS:qos options:[NSDictionary dictionary] error:&e];
    cost->compile_ns += ane_now_ns() - begin;
    cost->compiled = true;
    pthread_mutex_lock(&g.lock);
    g.compiles++; /* attempts count, whatever they gave */
    g.compile_failures += !ok;
    g.reserved--;
    pthread_mutex_unlock(&g.lock);
    if (!ok) {
        return ane_refused(err, ANE_E_COMPILE, "compile", e, p->identity, qos, begin);
    }
    p->state = PROG_COMPILED;
    return ANE_OK;
}

/* Under p->life. The model object is spent after a failure: forget the program. */
static int compile_locked(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    if (p->state == PROG_GONE) /* doubted: lost between the bake of a set that shares it and its load */
        return p->doubted ? ane_error_set(err, ANE_E_LOST, "the engine has lost this program; the next set has a new one")
                          : ane_error_set(err, ANE_E_STATE, "this program was unloaded or failed; make a new one");
    if (p->state != PROG_MADE)
        return ANE_OK;
    int status = take_lease(p, err);
    if (status != ANE_OK)
        return status;
    if (p->job) {
        AneError why;
        ane_error_clear(&why);
        int answer = await_worker(p, cost, &why);
        if (answer == ANE_E_WORKER && !reserved && !may_compile() && ane_job_insist(p->job) == ANE_OK)
            answer = await_worker(p, cost, &why);
        if (answer == ANE_OK) {
            p->cached = p->by_worker = cost->by_worker = true;
            p->state = PROG_COMPILED;
            return ANE_OK;
        }
        if (answer != ANE_E_WORKER) {
            if (err)
                *err = why;
            return answer;
        }
        if (!reserved && !may_compile() && why.status == ANE_E_WORKER)
            return no_worker_no_budget(&why, err);
        ane_pool_count_fallback(p->pool); /* no worker could: compile here, if the budget allows */
        drop_job(p);
    }
    if ([p->model compiledModelExists]) {
        p->cached = true;
        p->state = PROG_COMPILED;
        return ANE_OK;
    }
    if (!reserved && (status = ane_budget_reserve(1, err)) != ANE_OK)
        return status;
    status = begin_work(p, COMPILE_WORK_MS, cost, err);
    if (status == ANE_OK && [p->model compiledModelExists]) { /* another process was at the same */
        if (!reserved)
            ane_budget_return(1);
        p->cached = true;
        p->state = PROG_COMPILED;
    } else if (status == ANE_OK) {
        status = stage_and_compile(p, qos, reserved, cost, err);
    } else if (!reserved) {
        ane_budget_return(1);
    }
    end_work(p);
    return status;
}

/* Weights are frozen in the program now: free them, in memory and on disk. Only
 * what we wrote goes; the compiled files must stay (measured: ddalcu/mlx-serve). */
static void drop_sources(AneProgram *p) {
    char path[4096];
    int others, lock = ane_lease_lock(p->directory, &others);
    for (NSString *file in p->files) /* another process may be about to compile what lies there */
        if (others == 0 &&
            snprintf(path, sizeof path, "%s/%s", p->directory, [file UTF8String] + strlen("@model_path/")) < (int)sizeof path)
            unlink(path);
    ane_lease_unlock(lock);
    if (p->cached && [(id)p->model respondsToSelector:@selector(setDescriptor:)])
        [p->model setDescriptor:nil]; /* a load by identity keeps the weight bytes alive */
    [p->files release];
    p->files = nil;
    drop_job(p);
}

void ane_prog_settle(AneProgram *p) {
    ane_thread_enter();
    pthread_mutex_lock(&p->life);
    @autoreleasepool {
        if (p->state == PROG_LOADED && p->files)
            drop_sources(p);
    }
    pthread_mutex_unlock(&p->life);
}

/* One load message, timed. */
static BOOL say_load(AneProgram *p, uint32_t qos, AneCost *cost, NSError **e) {
    (void)begin_work(p, LOAD_WORK_MS, cost, NULL); /* not to be had: better than no load */
    uint64_t begin = ane_now_ns();
    BOOL ok = [p->model loadWithQoS:qos options:[NSDictionary dictionary] error:e];
    cost->load_ns += ane_now_ns() - begin;
    end_work(p);
    return ok;
}

/* Under p->life. */
static int load_locked(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    if (p->state == PROG_LOADED) {
        p->loads++;
        cost->reused = true;
        return ANE_OK;
    }
    int status = compile_locked(p, qos, reserved, cost, err);
    if (status != ANE_OK)
        return status;
    uint64_t begin = ane_now_ns();
    NSError *e = nil;
    BOOL ok = say_load(p, qos, cost, &e);
    /* The entry vanished between question and load, or is of no use: compile and load once more,
     * where workers do it as often as another one may try, then here. */
    for (int tries = 0; !ok && p->cached && tries < MAX_RELOADS; tries++) {
        [p->model purgeCompiledModel];
        p->cached = p->by_worker = cost->by_worker = false;
        p->state = PROG_MADE;
        if (p->job && ane_job_again(p->job) != ANE_OK) {
            ane_pool_count_fallback(p->pool);
            drop_job(p);
        }
        if ((status = compile_locked(p, qos, reserved, cost, err)) != ANE_OK)
            return status;
        e = nil;
        ok = say_load(p, qos, cost, &e);
    }
    if (!ok) { /* compiled a moment ago, and not there any more: the engine's daemon restarted in between */
        bool lost = e && ![p->model compiledModelExists];
        status = ane_refused(err, lost ? ANE_E_LOST : e ? ANE_E_ENGINE : ANE_E_SILENT, "load", e, p->identity, qos, begin);
        p->state = PROG_GONE;
        return status;
    }
    pthread_mutex_lock(&g.lock);
    g.loads++;
    g.loaded++;
    p->counted = true;
    pthread_mutex_unlock(&g.lock);
    p->state = PROG_LOADED;
    p->loads = 1;
    if (!p->job) /* a worker's program is still on trial: ane_prog_settle() */
        drop_sources(p);
    return ane_read_procedures(p, err);
}

/* The engine deletes the staging directory with an unload, whoever else uses it: what the
 * others need is kept, and an entry of the engine's cache is theirs too. */
static BOOL say_unload(AneProgram *p, uint32_t qos, NSError **e) {
    int others = 0;
    (void)begin_work(p, LOAD_WORK_MS, NULL, NULL);
    p->locked = ane_lease_lock(p->directory, &others);
    bool kept = others > 0 && ane_lease_shelter(p->directory);
    BOOL ok = [p->model unloadWithQoS:qos error:e];
    if (kept)
        ane_lease_restore(p->directory);
    if (p->by_worker && others == 0) /* its weights are history: nobody will ask for it again */
        [p->model purgeCompiledModel];
    end_work(p);
    return ok;
}

/* Loaded no more. Under the engine's lock. */
static void uncount_locked(AneProgram *p) {
    g.loaded -= p->counted;
    p->counted = false;
}

static int unload_locked(AneProgram *p, uint32_t qos, AneError *err) {
    if (p->state != PROG_LOADED || p->loads == 0)
        return ane_error_set(err, ANE_E_STATE, "unload: this program is not loaded");
    if (--p->loads > 0)
        return ANE_OK;
    NSError *e = nil;
    uint64_t begin = ane_now_ns();
    BOOL ok = say_unload(p, qos, &e);
    p->state = PROG_GONE;
    pthread_mutex_lock(&g.lock);
    uncount_locked(p);
    pthread_mutex_unlock(&g.lock);
    return ok ? ANE_OK : ane_refused(err, e ? ANE_E_ENGINE : ANE_E_SILENT, "unload", e, p->identity, qos, begin);
}

/* A daemon that restarted has lost every handle, so programs that count as loaded are not shared
 * with new sets any more: each set made from now on has its own. They stay in use where they are,
 * and say so themselves when they are gone. */
static void doubt_all(void) {
    pthread_mutex_lock(&g.lock);
    for (AneProgram **at = &g.programs; *at;) {
        AneProgram *q = *at;
        if (q->counted) {
            q->doubted = true;
            *at = q->next;
        } else {
            at = &q->next;
        }
    }
    pthread_mutex_unlock(&g.lock);
}

/* Under p->life. */
static bool load_again(AneProgram *p, uint32_t qos) {
    AneCost unseen = {0};
    NSError *e = nil;
    @try {
        return p->state == PROG_LOADED && [p->model compiledModelExists] && say_load(p, qos, &unseen, &e);
    } @catch (NSException *x) {
        return false;
    }
}

bool ane_prog_recover(AneProgram *p, uint32_t qos) {
    pthread_mutex_lock(&p->life);
    bool loaded = load_again(p, qos);
    if (!loaded)
        doubt_all();
    pthread_mutex_lock(&g.lock);
    g.loads += loaded;
    g.reloads += loaded;
    if (!loaded)
        uncount_locked(p);
    pthread_mutex_unlock(&g.lock);
    if (!loaded)
        p->state = PROG_GONE; /* nothing to unload; its directory goes with the last who holds it */
    pthread_mutex_unlock(&p->life);
    return loaded;
}

/* The same sources once more, in a model of their own, after the program a worker made
 * of them proved to be of no use. `p` is given up; *out takes its place. Under p->life. */
static int remake_locked(AneProgram *p, uint32_t qos, AneProgram **out, AneError *err) {
    AneSegment *segment = p->segment;
    AnePool *pool = p->pool;
    AneJob *job = p->job;
    NSDictionary *files = [[p->files retain] autorelease];
    NSData *text = [[p->text retain] autorelease];
    p->segment = NULL;
    p->pool = NULL;
    p->job = NULL;
    int status = unload_locked(p, qos, err);
    forget(p); /* the new one has the same identity */
    AneProgram *made = NULL;
    if (status == ANE_OK)
        status = find_or_make(text, files, segment, &made, err);
    if (status == ANE_OK && !made->lease) {
        made->lease = p->lease;
        p->lease = NULL;
    }
    if (status == ANE_OK && ane_job_again(job) == ANE_OK) {
        made->job = job;
        made->pool = pool;
        job = NULL;
        pool = NULL;
    } else if (status == ANE_OK) {
        ane_pool_count_fallback(pool);
    }
    ane_job_free(job);
    ane_segment_release(segment);
    if (pool)
        ane_object_release(ane_pool_object(pool));
    *out = made;
    return status;
}

/* The frame of every life-cycle step: fork guard, thread, lock, pool, exceptions. */
#define LIFE_STEP(p, name, call)                      \
    int status = ane_need_open(err);                      \
    if (status != ANE_OK)                             \
        return status;                                \
    ane_thread_enter();                               \
    pthread_mutex_lock(&(p)->life);                   \
    @autoreleasepool {                                \
        @try {                                        \
            status = (call);                          \
        } @catch (NSException *x) {                   \
            status = ane_threw(err, (name), x);           \
        }                                             \
    }                                                 \
    end_work(p); /* where the engine threw */         \
    bool gone = (p)->state == PROG_GONE;              \
    pthread_mutex_unlock(&(p)->life);                 \
    if (gone)                                         \
        forget(p);                                    \
    return status

int ane_prog_compile(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    LIFE_STEP(p, "compile", compile_locked(p, qos, reserved, cost, err));
}

int ane_prog_load(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err) {
    LIFE_STEP(p, "load", load_locked(p, qos, reserved, cost, err));
}

int ane_prog_remake(AneProgram *p, uint32_t qos, AneProgram **out, AneError *err) {
    LIFE_STEP(p, "remake", p->job && p->loads == 1 ? remake_locked(p, qos, out, err) : ANE_SKIP);
}

int ane_prog_unload(AneProgram *p, uint32_t qos, AneError *err) { LIFE_STEP(p, "unload", unload_locked(p, qos, err)); }
