// SPDX-License-Identifier: MIT
/* device.c - the one device struct and the control functions of softane.h.
 * The settings themselves are in setting.c; the counters are read here. */
#include "device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../include/softane.h"

#define SOFTANE_VERSION "0.1.0"

/* ============================== The device ================================ */

/* The only global of this library. */
static SaDevice the_device;
static pthread_once_t the_once = PTHREAD_ONCE_INIT;

static void device_init(void) {
    SaDevice *d = &the_device;
    pthread_mutex_init(&d->lock, NULL);
    for (int i = 0; i < SA_QUEUES; i++)
        pthread_mutex_init(&d->queue[i], NULL);
    pthread_mutex_init(&d->service, NULL);
    pthread_mutex_init(&d->direct_lock, NULL);
    pthread_condattr_t monotonic; /* cannot fail with these arguments */
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&d->direct_free, &monotonic);
    pthread_condattr_destroy(&monotonic);
    d->last_handle = 0x10000; /* handles are never 0 and never small */
    sa_setting_init(d);
}

SaDevice *sa_device(void) {
    pthread_once(&the_once, device_init);
    return &the_device;
}

void sa_device_lose(void) {
    SaDevice *d = sa_device();
    SaLoaded *lost;
    pthread_mutex_lock(&d->lock);
    lost = d->loaded;
    d->loaded = NULL;
    d->loaded_count = d->loaded_bytes = 0;
    for (SaLoaded *l = lost; l; l = l->next)
        l->listed = false;
    pthread_mutex_unlock(&d->lock);

    while (lost) {
        SaLoaded *next = lost->next;
        sa_loaded_leave(lost);   /* the use that the load took */
        sa_loaded_release(lost); /* the hold of the list */
        lost = next;
    }
    sa_store_purge(NULL);
}

/* ============================== Counters ================================== */

typedef enum {
    CT_COMPILES, CT_FAILURES, CT_LOADS, CT_LOADED, CT_LOADED_BYTES, CT_EVALS, CT_ENTRIES, CT_STORE_BYTES, CT_SURFACES,
    CT_HITS, CT_WRITES, CT_DAMAGED, CT_EVICTED
} CounterId;

static const struct { const char *key; CounterId id; } counters[] = {
    {"compiles", CT_COMPILES},           /* attempts that reached the compiler */
    {"compile_failures", CT_FAILURES},
    {"loads", CT_LOADS},
    {"loaded", CT_LOADED},
    {"loaded_bytes_now", CT_LOADED_BYTES},
    {"evals", CT_EVALS},                 /* successful ones */
    {"store_entries", CT_ENTRIES},
    {"store_bytes_now", CT_STORE_BYTES}, /* resident, loaded programs included */
    {"surfaces", CT_SURFACES},           /* alive now */
    {"shared_hits", CT_HITS},            /* programs read from files of the store */
    {"shared_writes", CT_WRITES},
    {"shared_damaged", CT_DAMAGED},      /* files found damaged, and removed */
    {"shared_evicted", CT_EVICTED},
};

static uint64_t counter_read(SaDevice *d, CounterId id) {
    switch (id) {
    case CT_COMPILES: return d->compiles;
    case CT_FAILURES: return d->compile_failures;
    case CT_LOADS: return d->loads;
    case CT_EVALS: return d->evals;
    case CT_SURFACES: return d->surfaces;
    case CT_HITS: return d->shared_hits;
    case CT_WRITES: return d->shared_writes;
    case CT_DAMAGED: return d->shared_damaged;
    case CT_EVICTED: return d->shared_evicted;
    default: break;
    }
    pthread_mutex_lock(&d->lock);
    uint64_t n = id == CT_LOADED ? d->loaded_count
               : id == CT_LOADED_BYTES ? d->loaded_bytes
               : id == CT_ENTRIES ? (uint64_t)d->store_entries
                                  : (uint64_t)d->store_all_bytes;
    pthread_mutex_unlock(&d->lock);
    return n;
}

/* ============================== Control functions ========================= */

const char *softane_version(void) { return SOFTANE_VERSION; }

int softane_set(const char *key, const char *value) { return key ? sa_setting_set(sa_device(), key, value) : -1; }

/* "default m1 …", as far as it fits. */
static int profile_names(char *buf, size_t cap) {
    size_t at = 0;
    for (int i = 0; sa_profile_name(i) && at < cap; i++) {
        int n = snprintf(buf + at, cap - at, "%s%s", i ? " " : "", sa_profile_name(i));
        at += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int softane_get(const char *key, char *buf, size_t cap) {
    if (!key || !buf || cap == 0)
        return -1;
    SaDevice *d = sa_device();
    for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
        if (strcmp(key, counters[i].key) == 0) {
            snprintf(buf, cap, "%" PRIu64, counter_read(d, counters[i].id));
            return 0;
        }
    if (strcmp(key, "blas") == 0 || strcmp(key, "isa") == 0) {
        snprintf(buf, cap, "%s", key[0] == 'b' ? sa_exec_blas() : sa_exec_isa());
        return 0;
    }
    buf[0] = 0;
    if (strcmp(key, "profiles") == 0)
        return profile_names(buf, cap);
    if (strcmp(key, "profile.values") == 0) {
        sa_setting_list(d, buf, cap);
        return 0;
    }
    if (strncmp(key, "source.", 7) == 0)
        return sa_setting_source(d, key + 7, buf, cap) ? 0 : -1;
    if (strcmp(key, "refused") == 0) {
        pthread_mutex_lock(&d->lock);
        snprintf(buf, cap, "%s", d->refused);
        pthread_mutex_unlock(&d->lock);
        return 0;
    }
    return sa_setting_get(d, key, buf, cap);
}
