// SPDX-License-Identifier: MIT
/* _core_stats.c - what the scheduler measures: percentiles of a batch's
 * evaluations, and the ring of trace events. Knows no states. */
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

/* ============================== Samples =================================== */

int ane_samples_init(AneSamples *s) {
    memset(s, 0, sizeof *s);
    return (s->ns = malloc(ANE_MAX_SAMPLES * sizeof *s->ns)) ? ANE_OK : ANE_E_MEMORY;
}

void ane_samples_free(AneSamples *s) { free(s->ns); }

void ane_samples_reset(AneSamples *s) {
    s->seen = 0;
    s->kept = 0;
}

void ane_samples_add(AneSamples *s, uint64_t ns) {
    int64_t at = s->seen++;
    if (s->kept < ANE_MAX_SAMPLES)
        s->ns[s->kept++] = ns;
    else /* overwrite in rounds of a stride coprime to the size: spreads over the batch */
        s->ns[(uint64_t)at * 2654435761u % ANE_MAX_SAMPLES] = ns;
}

/* Bring the k-th smallest of ns[lo..hi] to its place, smaller ones before it (Hoare's FIND):
 * a boundary after thousands of evaluations must not sort them all. */
static uint64_t find_rank(uint64_t *ns, int32_t lo, int32_t hi, int32_t k) {
    while (lo < hi) {
        uint64_t pivot = ns[k];
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (ns[i] < pivot)
                i++;
            while (ns[j] > pivot)
                j--;
            if (i <= j) {
                uint64_t swap = ns[i];
                ns[i++] = ns[j];
                ns[j--] = swap;
            }
        }
        if (j < k)
            lo = i;
        if (i > k)
            hi = j;
    }
    return ns[k];
}

void ane_samples_percentiles(AneSamples *s, uint64_t *p50, uint64_t *p90, uint64_t *p99) {
    *p50 = *p90 = *p99 = 0;
    if (!s->kept)
        return;
    int32_t last = s->kept - 1; /* nearest rank */
    int32_t at50 = last / 2, at90 = (int32_t)((int64_t)last * 90 / 100), at99 = (int32_t)((int64_t)last * 99 / 100);
    *p50 = find_rank(s->ns, 0, last, at50);
    *p90 = find_rank(s->ns, at50, last, at90);
    *p99 = find_rank(s->ns, at90, last, at99);
}

/* ============================== Trace ===================================== */

int ane_trace_init(AneTrace *t, int32_t cap) {
    memset(t, 0, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->cap = cap;
    if (cap && !(t->events = malloc((size_t)cap * sizeof *t->events)))
        return ANE_E_MEMORY;
    return ANE_OK;
}

void ane_trace_free(AneTrace *t) {
    free(t->events);
    pthread_mutex_destroy(&t->lock);
}

void ane_trace_add(AneTrace *t, int32_t kind, int32_t kernel, int64_t version, uint64_t begin_ns, uint64_t end_ns) {
    ane_trace_add_of(t, 0, kind, kernel, version, begin_ns, end_ns);
}

void ane_trace_add_of(AneTrace *t, int32_t process, int32_t kind, int32_t kernel, int64_t version, uint64_t begin_ns,
                      uint64_t end_ns) {
    if (!t->cap)
        return;
    pthread_mutex_lock(&t->lock);
    if (t->count < t->cap)
        t->events[t->count++] = (AneEvent){.kind = kind,
                                             .kernel = kernel,
                                             .process = process,
                                             .version = version,
                                             .begin_ns = begin_ns,
                                             .end_ns = end_ns,
                                             .thread = (uint64_t)(uintptr_t)pthread_self()};
    else
        t->lost++;
    pthread_mutex_unlock(&t->lock);
}

int32_t ane_trace_take(AneTrace *t, AneEvent *out, int32_t cap, int64_t *lost) {
    pthread_mutex_lock(&t->lock);
    int32_t n = t->count < cap ? t->count : cap;
    if (n > 0) {
        memcpy(out, t->events, (size_t)n * sizeof *out);
        memmove(t->events, t->events + n, (size_t)(t->count - n) * sizeof *out);
        t->count -= n;
    }
    *lost = t->lost;
    t->lost = 0;
    pthread_mutex_unlock(&t->lock);
    return n;
}
