// SPDX-License-Identifier: MIT
/* _core_pool.c - the trainer's side of the compile workers: jobs, and the pool as an object.
 *
 *   job     QUEUED --sent--> RUNNING --answer--> DONE
 *              ^                |
 *              +--worker died, hung, talked nonsense (at most `tries` times)
 *
 * Any thread may call what is here: it touches the queue only, under the lock, and
 * wakes the pool's thread through a pipe. Processes are that thread's alone
 * (_core_pool_process.c). Plain C. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_core_pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ============================== Jobs ====================================== */

void ane_pool_destroy_job(AneJob *j) {
    ane_lease_release(j->lease);
    ane_segment_release(j->segment);
    ane_object_release(&j->pool->object);
    free(j);
}

static void wake(AnePool *p) {
    char one = 1;
    while (write(p->wake[1], &one, 1) < 0 && errno == EINTR) {
    } /* full: it is awake */
}

static void enqueue_locked(AnePool *p, AneJob *j) {
    j->state = J_QUEUED;
    j->next = NULL;
    *p->tail = j;
    p->tail = &j->next;
}

/* First in the queue again: it has waited long enough. */
void ane_pool_requeue_locked(AnePool *p, AneJob *j) {
    j->state = J_QUEUED;
    j->next = p->head;
    if (!p->head)
        p->tail = &j->next;
    p->head = j;
}

AneJob *ane_pool_dequeue_locked(AnePool *p) {
    AneJob *j = p->head;
    if (j && !(p->head = j->next))
        p->tail = &p->head;
    return j;
}

void ane_pool_unlink_locked(AnePool *p, AneJob *j) {
    for (AneJob **at = &p->head; *at; at = &(*at)->next)
        if (*at == j) {
            *at = j->next;
            if (p->tail == &j->next)
                p->tail = at;
            return;
        }
}

/* The job is over. Returns it when the caller must destroy it after the lock. */
AneJob *ane_pool_finish_locked(AnePool *p, AneJob *j) {
    j->state = J_DONE;
    pthread_cond_broadcast(&p->done);
    return j->abandoned ? j : NULL;
}

/* How processes ended, where that is the reason, goes into the answer. */
AneJob *ane_pool_give_up_locked(AnePool *p, AneJob *j, int status, const char *why) {
    const AneError *end = &p->last_end;
    AneError *e = &j->answer.error;
    memset(&j->answer, 0, sizeof j->answer);
    if (status == ANE_E_WORKER && end->text[0]) {
        ane_error_set(e, status, "%s: %.700s", why, end->text);
        memcpy(e->domain, end->domain, sizeof e->domain);
        e->code = end->code;
    } else {
        ane_error_set(e, status, "%s", why);
    }
    snprintf(e->step, sizeof e->step, "compile");
    snprintf(e->identity, sizeof e->identity, "%s", j->identity);
    p->stats.given_up += status == ANE_E_WORKER;
    return ane_pool_finish_locked(p, j);
}

/* A worker failed at the job: another one, or nobody any more. */
AneJob *ane_pool_retry_locked(AnePool *p, AneJob *j, uint64_t serial) {
    j->avoid = serial;
    if (j->abandoned || p->closing)
        return ane_pool_give_up_locked(p, j, ANE_E_CLOSED, "the compile workers were closed");
    if (++j->failed >= p->options.tries)
        return ane_pool_give_up_locked(p, j, ANE_E_WORKER, "every compile worker that tried this program failed");
    p->stats.retries++;
    ane_pool_requeue_locked(p, j);
    return NULL;
}

int ane_job_start(AnePool *p, AneSegment *s, const char *identity, AneLease *lease, uint32_t qos, AneJob **out, AneError *err) {
    AneJob *j = calloc(1, sizeof *j);
    if (!j)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a compile job");
    ane_lease_retain(j->lease = lease);
    j->pool = p;
    j->segment = s;
    j->qos = qos;
    snprintf(j->identity, sizeof j->identity, "%s", identity);
    ane_segment_retain(s);
    ane_object_retain(&p->object);
    pthread_mutex_lock(&p->lock);
    bool closed = p->closing;
    j->number = ++p->last_job;
    if (!closed) {
        p->stats.jobs++;
        enqueue_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (closed) {
        ane_pool_destroy_job(j);
        return ane_error_set(err, ANE_E_CLOSED, "the compile workers were closed");
    }
    wake(p);
    *out = j;
    return ANE_OK;
}

/* `ms` from now for pthread_cond_timedwait; the wall clock may jump: slices are short. */
static struct timespec from_now(int32_t ms) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t ns = t.tv_nsec + (int64_t)(ms > 0 ? ms : 0) * 1000000;
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

int ane_job_wait(AneJob *j, int32_t slice_ms, AneAnswer *answer) {
    AnePool *p = j->pool;
    struct timespec until = from_now(slice_ms);
    int status = 0;
    pthread_mutex_lock(&p->lock);
    while (j->state != J_DONE && status == 0)
        status = pthread_cond_timedwait(&p->done, &p->lock, &until);
    bool done = j->state == J_DONE;
    if (done)
        *answer = j->answer;
    pthread_mutex_unlock(&p->lock);
    if (!done)
        ane_pool_help_spawn(p);
    return done ? ANE_OK : ANE_AGAIN;
}

int ane_job_again(AneJob *j) {
    AnePool *p = j->pool;
    pthread_mutex_lock(&p->lock);
    bool go = !p->closing && j->state == J_DONE && ++j->failed < p->options.tries;
    if (go) {
        p->stats.retries++;
        j->fresh = true;
        enqueue_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (go)
        wake(p);
    return go ? ANE_OK : ANE_SKIP;
}

int ane_job_insist(AneJob *j) {
    AnePool *p = j->pool;
    pthread_mutex_lock(&p->lock);
    bool go = !p->closing && j->state == J_DONE && j->unserved && !j->patient_until && p->options.patience_ms > 0;
    if (go) {
        j->unserved = false;
        j->patient_until = ane_now_ns() + (uint64_t)p->options.patience_ms * 1000000u;
        enqueue_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (go)
        wake(p);
    return go ? ANE_OK : ANE_SKIP;
}

void ane_job_free(AneJob *j) {
    if (!j)
        return;
    AnePool *p = j->pool;
    pthread_mutex_lock(&p->lock);
    bool mine = j->state == J_DONE;
    if (j->state == J_QUEUED) {
        ane_pool_unlink_locked(p, j);
        mine = true;
    }
    j->abandoned = true;
    pthread_mutex_unlock(&p->lock);
    if (mine)
        ane_pool_destroy_job(j);
}

void ane_pool_count_fallback(AnePool *p) {
    pthread_mutex_lock(&p->lock);
    p->stats.fallbacks++;
    pthread_mutex_unlock(&p->lock);
}

/* ============================== Making and closing ======================== */

static void free_strings(char **list) {
    for (char **s = list; s && *s; s++)
        free(*s);
    free(list);
}

static char **copy_strings(const char *const *list) {
    size_t n = 0;
    while (list[n])
        n++;
    char **copy = calloc(n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++)
        if (!(copy[i] = strdup(list[i]))) {
            free_strings(copy);
            return NULL;
        }
    return copy;
}

/* The last reference: a pool that was never closed still has its thread. */
static void destroy_pool(AneObject *o) {
    AnePool *p = (AnePool *)o;
    if (!p->joined) {
        pthread_mutex_lock(&p->lock);
        p->closing = true;
        pthread_mutex_unlock(&p->lock);
        wake(p);
        pthread_join(p->thread, NULL);
    }
    close(p->wake[0]);
    close(p->wake[1]);
    free_strings(p->argv);
    free_strings(p->env);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

AneObject *ane_pool_object(AnePool *p) { return &p->object; }

int ane_pool_create(const AnePoolOptions *o, AneHandle *out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (!o || !o->argv || !o->argv[0] || !o->env || o->workers < 1 || o->workers > ANE_POOL_WORKERS || o->tries < 1 || o->budget < 0 ||
        o->deadline_ms < 1 || o->patience_ms < 0)
        return ane_error_set(err, ANE_E_ARG, "%d compile workers, %d tries, budget %lld, deadline %d ms; expected 1 to %d workers",
                             o ? o->workers : 0, o ? o->tries : 0, o ? (long long)o->budget : 0, o ? o->deadline_ms : 0,
                             ANE_POOL_WORKERS);
    AnePool *p = calloc(1, sizeof *p);
    if (!p)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for compile workers");
    ane_object_init(&p->object, ANE_KIND_POOL, destroy_pool);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->done, NULL);
    p->tail = &p->head;
    ane_error_clear(&p->last_end);
    p->options = *o;
    p->options.argv = p->options.env = NULL;
    p->joined = true; /* no thread yet */
    for (int i = 0; i < ANE_POOL_PROCESSES; i++)
        p->worker[i].fd = -1;
    if (pipe(p->wake) != 0) {
        p->wake[0] = p->wake[1] = -1;
        status = ane_error_set(err, ANE_E_IO, "cannot make a pipe: %s", strerror(errno));
    }
    for (int i = 0; i < 2 && status == ANE_OK; i++) {
        fcntl(p->wake[i], F_SETFD, FD_CLOEXEC);
        fcntl(p->wake[i], F_SETFL, fcntl(p->wake[i], F_GETFL) | O_NONBLOCK);
    }
    if (status == ANE_OK && (!(p->argv = copy_strings(o->argv)) || !(p->env = copy_strings(o->env))))
        status = ane_error_set(err, ANE_E_MEMORY, "out of memory for compile workers");
    if (status == ANE_OK && pthread_create(&p->thread, NULL, ane_pool_run, p) != 0)
        status = ane_error_set(err, ANE_E_MEMORY, "cannot start the thread of the compile workers");
    else if (status == ANE_OK)
        p->joined = false;
    if (status == ANE_OK)
        status = ane_handle_new(&p->object, out, err);
    if (status != ANE_OK)
        ane_object_release(&p->object);
    return status;
}

int ane_pool_stats(AneHandle pool, AnePoolStats *out, AneError *err) {
    AnePool *p;
    int status = ane_handle_get(pool, ANE_KIND_POOL, (void **)&p, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    pthread_mutex_unlock(&p->lock);
    ane_object_release(&p->object);
    return ANE_OK;
}

int ane_pool_close(AneHandle pool, int32_t slice_ms, AneError *err) {
    AnePool *p;
    int status = ane_handle_get(pool, ANE_KIND_POOL, (void **)&p, err);
    if (status != ANE_OK)
        return status;
    struct timespec until = from_now(slice_ms);
    int waited = 0;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
    pthread_mutex_lock(&p->lock);
    while (!p->ended && waited == 0)
        waited = pthread_cond_timedwait(&p->done, &p->lock, &until);
    bool ended = p->ended;
    pthread_mutex_unlock(&p->lock);
    if (!ended)
        ane_pool_help_spawn(p);
    AneObject *o;
    if (ended && ane_handle_take(pool, ANE_KIND_POOL, &o, NULL) == ANE_OK) {
        pthread_join(p->thread, NULL);
        p->joined = true;
        ane_object_release(o);
    }
    ane_object_release(&p->object);
    return ended ? ANE_OK : ANE_AGAIN;
}
