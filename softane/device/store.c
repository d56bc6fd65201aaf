// SPDX-License-Identifier: MIT
/* store.c - compiled programs by identity: what the daemon's table is on the
 * real engine. In memory, per process; with store=shared each entry also has a
 * file that other processes of the same partition can load (shared.c).
 *
 * An entry lives while the store, a pin or a loaded program refers to it.
 * Eviction takes the least recently used entries without users until the rest
 * of those fits into the setting store_bytes. Counts are guarded by the device
 * lock; plans are freed after it is released. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

/* ============================== Entries =================================== */

static void entry_free(SaEntry *e) {
    if (!e)
        return;
    for (int i = 0; i < e->n_blobs; i++)
        free(e->blobs[i]);
    free(e->blobs);
    free(e->first_input);
    free(e->first_output);
    free(e->input_port);
    free(e->output_port);
    free(e->narrow);
    free(e->thin);
    free(e->port_bytes);
    free(e->partition);
    free(e->identity);
    sa_plan_free(e->plan);
    free(e);
}

/* Remember the weight files, once each, so that a later compile of the same
 * identity can be refused when one has gone. */
static bool note_blobs(SaEntry *e, const SaProgram *p) {
    for (int f = 0; f < p->n_functions; f++)
        for (int o = 0; o < p->functions[f].n_ops; o++) {
            const SaOp *op = &p->functions[f].ops[o];
            for (int r = 0; r < op->n_results; r++) {
                const SaConst *c = op->results[r]->constant;
                if (!c || !c->blob_path)
                    continue;
                bool known = false;
                for (int i = 0; i < e->n_blobs && !known; i++)
                    known = strcmp(e->blobs[i], c->blob_path) == 0;
                if (known)
                    continue;
                char **more = realloc(e->blobs, (size_t)(e->n_blobs + 1) * sizeof *more);
                if (!more)
                    return false;
                e->blobs = more;
                if (!(e->blobs[e->n_blobs] = strdup(c->blob_path)))
                    return false;
                e->n_blobs++;
            }
        }
    return true;
}

/* Symbols of all procedures form one list; remember where each one begins. */
static bool note_symbols(SaEntry *e) {
    size_t n = (size_t)e->procedures + 1;
    e->first_input = calloc(n, sizeof(int));
    e->first_output = calloc(n, sizeof(int));
    if (!e->first_input || !e->first_output)
        return false;
    for (int p = 0; p < e->procedures; p++) {
        e->first_input[p + 1] = e->first_input[p] + sa_plan_inputs(e->plan, p);
        e->first_output[p + 1] = e->first_output[p] + sa_plan_outputs(e->plan, p);
    }
    return true;
}

static void note_port(SaEntry *e, int proc, const SaPort *port) {
    if ((size_t)port->w * sa_dtype_bytes(port->type.dtype) % 64 != 0)
        e->narrow[proc] = true;
    if (port->w < 32 && port->c > e->thin[proc])
        e->thin[proc] = port->c;
    e->port_bytes[proc] += (double)port->bytes;
}

/* What the width rule and the timing model ask at every evaluation. */
static bool note_ports(SaEntry *e) {
    size_t n = (size_t)e->procedures + 1;
    e->narrow = calloc(n, sizeof *e->narrow);
    e->thin = calloc(n, sizeof *e->thin);
    e->port_bytes = calloc(n, sizeof *e->port_bytes);
    if (!e->narrow || !e->thin || !e->port_bytes)
        return false;
    for (int p = 0; p < e->procedures; p++) {
        for (int i = 0; i < sa_plan_inputs(e->plan, p); i++)
            note_port(e, p, sa_plan_input(e->plan, p, i));
        for (int i = 0; i < sa_plan_outputs(e->plan, p); i++)
            note_port(e, p, sa_plan_output(e->plan, p, i));
    }
    return true;
}

static bool note_partition(SaEntry *e) {
    char name[1024];
    sa_partition_name(name, sizeof name);
    e->partition = strdup(name);
    return e->partition != NULL;
}

SaEntry *sa_entry_new(const char *identity, SaPlan *plan, const SaProgram *program, size_t weight_bytes) {
    SaEntry *e = calloc(1, sizeof *e);
    if (!e) {
        sa_plan_free(plan);
        return NULL;
    }
    e->plan = plan;
    e->identity = strdup(identity);
    e->weight_bytes = weight_bytes;
    e->resident_bytes = sa_plan_bytes(plan);
    e->ops = program->n_live_ops;
    e->procedures = sa_plan_procedures(plan);
    e->refs = e->users = 1;
    if (!e->identity || !note_partition(e) || !note_symbols(e) || !note_ports(e) || !note_blobs(e, program) ||
        !sa_symbol_order(e, program)) {
        entry_free(e);
        return NULL;
    }
    return e;
}

/* ============================== Under the lock ============================ */

static SaEntry *find(SaDevice *d, const char *identity, const char *partition) {
    for (SaEntry *e = d->store; e; e = e->next)
        if (strcmp(e->identity, identity) == 0 && strcmp(e->partition, partition) == 0)
            return e;
    return NULL;
}

/* A first user takes the entry out of what may be evicted. */
static void use(SaDevice *d, SaEntry *e) {
    if (e->users++ == 0 && e->stored)
        d->store_bytes -= e->resident_bytes;
    e->refs++;
    e->stamp = ++d->clock;
}

/* Take out of the store. Returns the entry when nobody refers to it any more:
 * the caller chains it and frees after unlocking. */
static SaEntry *take_out(SaDevice *d, SaEntry *e) {
    SaEntry **p = &d->store;
    while (*p != e)
        p = &(*p)->next;
    *p = e->next;
    e->next = NULL;
    e->stored = false;
    d->store_entries--;
    d->store_all_bytes -= e->resident_bytes;
    if (e->users == 0)
        d->store_bytes -= e->resident_bytes;
    return --e->refs == 0 ? e : NULL;
}

/* Evict until the unused entries fit into `limit`. Returns the dead, chained. */
static SaEntry *evict(SaDevice *d, uint64_t limit) {
    SaEntry *dead = NULL;
    while (d->store_bytes > limit) {
        SaEntry *oldest = NULL;
        for (SaEntry *e = d->store; e; e = e->next)
            if (e->users == 0 && e->resident_bytes > 0 && (!oldest || e->stamp < oldest->stamp))
                oldest = e;
        if (!oldest)
            break;
        SaEntry *gone = take_out(d, oldest);
        if (gone) {
            gone->next = dead;
            dead = gone;
        }
    }
    return dead;
}

static void free_chain(SaEntry *dead) {
    while (dead) {
        SaEntry *next = dead->next;
        entry_free(dead);
        dead = next;
    }
}

/* ============================== Store ===================================== */

void sa_store_put(SaEntry *e) {
    if (SA_FAILPOINT("store.put"))
        return; /* the caller's pin is all that keeps it */
    SaDevice *d = sa_device();
    uint64_t limit = SA_FAILPOINT("store.evict") ? 0 : sa_setting(SA_SET_STORE_BYTES);
    pthread_mutex_lock(&d->lock);
    SaEntry *old = find(d, e->identity, e->partition);
    SaEntry *replaced = old ? take_out(d, old) : NULL;
    e->next = d->store;
    d->store = e;
    e->stored = true;
    e->refs++;
    e->stamp = ++d->clock;
    d->store_entries++;
    d->store_all_bytes += e->resident_bytes;
    SaEntry *dead = evict(d, limit);
    pthread_mutex_unlock(&d->lock);
    free_chain(replaced);
    free_chain(dead);
}

/* In memory only. */
static SaEntry *pinned(const char *identity) {
    SaDevice *d = sa_device();
    char partition[1024];
    sa_partition_name(partition, sizeof partition);
    pthread_mutex_lock(&d->lock);
    SaEntry *e = find(d, identity, partition);
    if (e)
        use(d, e);
    pthread_mutex_unlock(&d->lock);
    return e;
}

SaEntry *sa_store_get(const char *identity, bool *read) {
    if (read)
        *read = false;
    if (SA_FAILPOINT("store.get"))
        return NULL;
    SaEntry *e = pinned(identity);
    if (!e && (e = sa_shared_get(identity))) {
        sa_store_put(e);
        if (read)
            *read = true;
    }
    return e;
}

bool sa_store_has(const char *identity) {
    if (SA_FAILPOINT("store.get"))
        return false;
    SaDevice *d = sa_device();
    char partition[1024];
    sa_partition_name(partition, sizeof partition);
    pthread_mutex_lock(&d->lock);
    bool known = find(d, identity, partition) != NULL;
    pthread_mutex_unlock(&d->lock);
    return known || sa_shared_has(identity);
}

void sa_store_purge(const char *identity) {
    SaDevice *d = sa_device();
    SaEntry *dead = NULL;
    char partition[1024];
    sa_partition_name(partition, sizeof partition);
    if (identity)
        sa_shared_purge(identity);
    pthread_mutex_lock(&d->lock);
    for (SaEntry *e = d->store, *next; e; e = next) {
        next = e->next;
        if (identity && (strcmp(e->identity, identity) != 0 || strcmp(e->partition, partition) != 0))
            continue;
        SaEntry *gone = take_out(d, e);
        if (gone) {
            gone->next = dead;
            dead = gone;
        }
    }
    pthread_mutex_unlock(&d->lock);
    free_chain(dead);
}

void sa_entry_unpin(SaEntry *e) {
    if (!e)
        return;
    SaDevice *d = sa_device();
    SaEntry *dead = NULL;
    pthread_mutex_lock(&d->lock);
    e->users--;
    e->refs--;
    if (e->refs == 0) {
        dead = e;
        dead->next = NULL;
    } else if (e->users == 0 && e->stored) {
        e->stamp = ++d->clock;
        d->store_bytes += e->resident_bytes;
        dead = evict(d, sa_setting(SA_SET_STORE_BYTES));
    }
    pthread_mutex_unlock(&d->lock);
    free_chain(dead);
}
