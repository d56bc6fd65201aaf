// SPDX-License-Identifier: MIT
/* load.c - loaded programs: limits, handles, unload.
 *
 * A loaded program counts against the limits until it is unloaded, whatever
 * happens to the object that asked for it: dropping the last reference leaks
 * the slot, as on the real engine. */
#include <stdlib.h>

#include "compile.h"

#define LOAD_TOO_MUCH 0x20004u              /* too many, or too large */
#define PROGRAM_MAX_BYTES (2ull << 30)      /* facts: about 2 GB of weights per program */

static const SaPos nowhere = {0, 0};

/* ============================== Holding =================================== */

void sa_loaded_release(SaLoaded *l) {
    if (l && atomic_fetch_sub(&l->holders, 1) == 1)
        free(l);
}

bool sa_loaded_enter(SaLoaded *l) {
    int n = atomic_load(&l->users);
    while (n > 0)
        if (atomic_compare_exchange_weak(&l->users, &n, n + 1))
            return true;
    return false;
}

/* The last user frees the weights: an unload never waits for evaluations. */
void sa_loaded_leave(SaLoaded *l) {
    if (atomic_fetch_sub(&l->users, 1) == 1) {
        SaEntry *e = l->entry;
        l->entry = NULL;
        sa_entry_unpin(e);
    }
}

SaLoaded *sa_loaded_find(uint64_t handle) {
    SaDevice *d = sa_device();
    SaLoaded *l;
    pthread_mutex_lock(&d->lock);
    for (l = d->loaded; l && l->handle != handle; l = l->next) {
    }
    if (l)
        atomic_fetch_add(&l->holders, 1);
    pthread_mutex_unlock(&d->lock);
    return l;
}

bool sa_loaded_alive(const SaLoaded *l) {
    SaDevice *d = sa_device();
    pthread_mutex_lock(&d->lock);
    bool alive = l && l->listed;
    pthread_mutex_unlock(&d->lock);
    return alive;
}

/* ============================== Load ====================================== */

/* Take a slot and the bytes, or say why not. */
static SaStatus admit(SaDevice *d, SaLoaded *l, SaError *err) {
    uint64_t limit = sa_setting(SA_SET_LOADED_LIMIT), window = sa_setting(SA_SET_LOADED_BYTES);
    uint64_t bytes = l->entry->weight_bytes;
    SaStatus st = SA_OK;
    pthread_mutex_lock(&d->lock);
    if (limit != 0 && d->loaded_count >= limit)
        st = sa_error_set(err, SA_E_BUDGET, nowhere, "%llu programs are loaded, the limit",
                          (unsigned long long)limit);
    else if (bytes > PROGRAM_MAX_BYTES)
        st = sa_error_set(err, SA_E_LIMIT, nowhere, "the program has %llu weight bytes", (unsigned long long)bytes);
    else if (window != 0 && (bytes > window || d->loaded_bytes > window - bytes))
        st = sa_error_set(err, SA_E_BUDGET, nowhere, "%llu weight bytes are loaded, %llu more do not fit into %llu",
                          (unsigned long long)d->loaded_bytes, (unsigned long long)bytes, (unsigned long long)window);
    if (st == SA_OK) {
        l->handle = ++d->last_handle;
        l->listed = true;
        l->next = d->loaded;
        d->loaded = l;
        d->loaded_count++;
        d->loaded_bytes += bytes;
    }
    pthread_mutex_unlock(&d->lock);
    return st;
}

/* Find the program, compiling it when it is not known and there are files. */
static bool obtain(const SaSource *src, SaEntry **entry, SaAnswer *out) {
    *entry = sa_store_get(src->identity);
    if (*entry)
        return true;
    if (!src->directory) {
        SaError why;
        sa_error_set(&why, SA_E_STATE, nowhere, "no compiled program of this identity");
        return sa_answer_code(out, SA_DO_LOAD, 17, &why);
    }
    return sa_compile_run(src, entry, out);
}

static bool load(const SaSource *src, SaLoaded **loaded, SaAnswer *out) {
    SaDevice *d = sa_device();
    SaError why = {.code = SA_OK};
    int injected = SA_FAILPOINT("facade.load");
    if (injected)
        return sa_answer_injected(out, SA_DO_LOAD, src->directory, injected);
    SaEntry *entry = NULL;
    if (!obtain(src, &entry, out))
        return false;
    uint64_t start = sa_now_ns();
    SaLoaded *l = calloc(1, sizeof *l);
    if (!l) {
        sa_entry_unpin(entry);
        sa_error_set(&why, SA_E_MEMORY, nowhere, "no memory to load");
        return sa_answer_load(out, LOAD_TOO_MUCH, &why);
    }
    l->entry = entry;
    atomic_store(&l->users, 1);
    atomic_store(&l->holders, 2); /* the device's list and the caller */
    if (admit(d, l, &why) != SA_OK) {
        sa_entry_unpin(entry);
        free(l);
        sa_log(SA_LOG_ERROR, "load of %.64s refused: %s", src->identity, why.text);
        return sa_answer_load(out, LOAD_TOO_MUCH, &why);
    }
    d->loads++;
    const SaProfile *profile = sa_profile();
    sa_timing_wait(start, profile ? profile->load_ms : 0);
    *loaded = l;
    return out->ok = true;
}

bool sa_device_load(const SaSource *src, unsigned qos, SaLoaded **loaded, SaAnswer *out) {
    sa_queue_enter(qos);
    int lost = SA_FAILPOINT("queue.submit");
    if (SA_FAILPOINT("device.gone"))
        sa_device_lose();
    bool done = lost ? sa_answer_code(out, SA_DO_LOAD, 3, NULL) : load(src, loaded, out);
    sa_queue_leave(qos);
    return done;
}

/* ============================== Unload ==================================== */

static bool unload(SaLoaded *l, SaAnswer *out) {
    SaDevice *d = sa_device();
    uint64_t start = sa_now_ns();
    int injected = SA_FAILPOINT("facade.unload");
    if (injected)
        return sa_answer_injected(out, SA_DO_UNLOAD, NULL, injected);

    pthread_mutex_lock(&d->lock);
    bool listed = l->listed;
    char *purge = NULL;
    if (listed) {
        SaLoaded **p = &d->loaded;
        while (*p != l)
            p = &(*p)->next;
        *p = l->next;
        l->next = NULL;
        l->listed = false;
        d->loaded_count--;
        d->loaded_bytes -= l->entry->weight_bytes;
        if (sa_setting(SA_SET_UNLOAD_PURGES))
            purge = l->entry->identity; /* alive until sa_loaded_leave below */
    }
    pthread_mutex_unlock(&d->lock);
    if (!listed) {
        SaError why;
        sa_error_set(&why, SA_E_STATE, nowhere, "the program is not loaded");
        return sa_answer_code(out, SA_DO_UNLOAD, 17, &why);
    }
    if (purge)
        sa_store_purge(purge);
    sa_loaded_leave(l);
    sa_loaded_release(l); /* the hold of the list */
    const SaProfile *profile = sa_profile();
    sa_timing_wait(start, profile ? profile->unload_ms : 0);
    return out->ok = true;
}

bool sa_device_unload(SaLoaded *loaded, unsigned qos, SaAnswer *out) {
    sa_queue_enter(qos);
    int lost = SA_FAILPOINT("queue.submit");
    if (SA_FAILPOINT("device.gone"))
        sa_device_lose();
    bool done = lost ? sa_answer_code(out, SA_DO_UNLOAD, 3, NULL) : unload(loaded, out);
    sa_queue_leave(qos);
    return done;
}
