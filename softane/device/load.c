// SPDX-License-Identifier: MIT
/* load.c - loaded programs: limits, handles, unload.
 *
 * A loaded program counts against the limits until it is unloaded, whatever
 * happens to the object that asked for it: dropping the last reference leaks
 * the slot, as on the real engine. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compile.h"

#define LOAD_TOO_MUCH 0x20004u              /* too many, or too large */

static const SaPos nowhere = {0, 0};

/* ============================== Holding =================================== */

void sa_loaded_release(SaLoaded *l) {
    if (l && atomic_fetch_sub(&l->holders, 1) == 1) {
        free(l->staging);
        free(l);
    }
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
    uint64_t bytes = l->entry->weight_bytes, most = sa_setting(SA_SET_PROGRAM_BYTES);
    SaStatus st = SA_OK;
    pthread_mutex_lock(&d->lock);
    if (limit != 0 && d->loaded_count >= limit)
        st = sa_error_set(err, SA_E_BUDGET, nowhere, "%llu programs are loaded, the limit",
                          (unsigned long long)limit);
    else if (l->entry->unloadable)
        st = sa_error_set(err, SA_E_BUDGET, nowhere, "compiled beyond the compile limit (compile_limit_mode)");
    else if (most != 0 && bytes > most)
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

/* Find the program, compiling it when it is not known and there are files.
 * Moves *start to the end of a compile: the load begins there. */
static bool obtain(const SaSource *src, SaEntry **entry, uint64_t *start, SaAnswer *out) {
    *entry = sa_store_get(src->identity, NULL);
    if (*entry)
        return true;
    if (!src->directory) {
        SaError why;
        sa_error_set(&why, SA_E_STATE, nowhere, "no compiled program of this identity");
        return sa_answer_code(out, SA_DO_LOAD, 17, &why);
    }
    bool done = sa_compile_run(src, entry, out);
    *start = sa_now_ns();
    return done;
}

static bool is_directory(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool load(const SaSource *src, SaLoaded **loaded, SaAnswer *out) {
    SaDevice *d = sa_device();
    SaError why = {.code = SA_OK};
    int injected = SA_FAILPOINT("facade.load");
    if (injected)
        return sa_answer_injected(out, SA_DO_LOAD, src->directory, injected);
    SaEntry *entry = NULL;
    uint64_t start = sa_now_ns();
    if (!obtain(src, &entry, &start, out))
        return false;
    SaLoaded *l = calloc(1, sizeof *l);
    if (!l) {
        sa_entry_unpin(entry);
        sa_error_set(&why, SA_E_MEMORY, nowhere, "no memory to load");
        return sa_answer_load(out, LOAD_TOO_MUCH, &why);
    }
    l->entry = entry;
    if (src->staging && sa_setting(SA_SET_STAGING_EVALS) != SA_STAGING_OFF && is_directory(src->staging))
        l->staging = strdup(src->staging); /* NULL only loses a quirk */
    atomic_store(&l->users, 1);
    atomic_store(&l->holders, 2); /* the device's list and the caller */
    if (admit(d, l, &why) != SA_OK) {
        sa_entry_unpin(entry);
        free(l->staging);
        free(l);
        sa_log(SA_LOG_ERROR, "load of %.64s refused: %s", src->identity, why.text);
        return sa_answer_load(out, LOAD_TOO_MUCH, &why);
    }
    d->loads++;
    sa_timing_step(start, SA_SET_LOAD_MS);
    *loaded = l;
    return out->ok = true;
}

bool sa_device_load(const SaSource *src, unsigned qos, SaLoaded **loaded, SaAnswer *out) {
    SaTurn turn;
    bool done = sa_turn_begin(&turn, SA_DO_LOAD, qos, out) && load(src, loaded, out);
    sa_turn_end(&turn);
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
    sa_timing_step(start, SA_SET_UNLOAD_MS);
    return out->ok = true;
}

bool sa_device_unload(SaLoaded *loaded, unsigned qos, SaAnswer *out) {
    SaTurn turn;
    bool done = sa_turn_begin(&turn, SA_DO_UNLOAD, qos, out) && unload(loaded, out);
    sa_turn_end(&turn);
    return done;
}
