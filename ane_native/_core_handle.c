// SPDX-License-Identifier: MIT
/* _core_handle.c - handles, the fork guard, errors and copies of descriptions.
 *
 * A handle is (serial << 32 | slot + 1). The slot's serial changes whenever the
 * slot is emptied, so a stale number is recognised, and a lookup returns a
 * retained object, so closing in one thread never frees what another uses.
 * Plain C; knows neither the engine nor the scheduler. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "_core_internal.h"

/* ============================== Errors ==================================== */

void ane_error_clear(AneError *err) {
    if (err) {
        memset(err, 0, sizeof *err);
        err->kernel = -1;
        err->program = -1;
    }
}

int ane_error_set(AneError *err, int status, const char *fmt, ...) {
    if (!err)
        return status;
    ane_error_clear(err);
    err->status = status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    return status;
}

uint64_t ane_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ============================== Fork guard ================================ */

static volatile int g_forked;

static void forked(void) { g_forked = 1; }

static void watch_forks(void) { pthread_atfork(NULL, NULL, forked); }

int ane_guard(AneError *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (g_forked)
        return ane_error_set(err, ANE_E_FORKED,
                             "the engine and its handles do not survive fork(): start the child by spawn or exec, "
                             "or open the engine only in the child");
    pthread_once(&once, watch_forks);
    return ANE_OK;
}

/* ============================== Objects =================================== */

void ane_object_init(AneObject *o, AneKind kind, void (*destroy)(AneObject *)) {
    o->kind = kind;
    o->refs = 1;
    o->destroy = destroy;
}

void ane_object_retain(AneObject *o) { __atomic_add_fetch(&o->refs, 1, __ATOMIC_RELAXED); }

void ane_object_release(AneObject *o) {
    if (o && __atomic_sub_fetch(&o->refs, 1, __ATOMIC_ACQ_REL) == 0)
        o->destroy(o);
}

/* ============================== Table ===================================== */

typedef struct {
    AneObject *object; /* NULL = free */
    uint32_t serial;
} Slot;

static struct {
    pthread_mutex_t lock;
    Slot *slots;
    uint32_t count, next; /* next: where to look for a free slot */
} g_table = {.lock = PTHREAD_MUTEX_INITIALIZER};

int ane_handle_new(AneObject *o, AneHandle *out, AneError *err) {
    pthread_mutex_lock(&g_table.lock);
    uint32_t at = g_table.next;
    while (at < g_table.count && g_table.slots[at].object)
        at++;
    if (at == g_table.count) {
        uint32_t count = g_table.count ? g_table.count * 2 : 64;
        Slot *slots = realloc(g_table.slots, count * sizeof *slots);
        if (!slots) {
            pthread_mutex_unlock(&g_table.lock);
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for handles");
        }
        memset(slots + g_table.count, 0, (count - g_table.count) * sizeof *slots);
        g_table.slots = slots;
        g_table.count = count;
    }
    g_table.slots[at].object = o;
    g_table.next = at + 1;
    *out = (uint64_t)g_table.slots[at].serial << 32 | (at + 1);
    pthread_mutex_unlock(&g_table.lock);
    return ANE_OK;
}

/* The live slot of a handle or NULL. Under the lock. */
static Slot *find(AneHandle h, AneKind kind) {
    uint32_t at = (uint32_t)h - 1;
    if ((uint32_t)h == 0 || at >= g_table.count)
        return NULL;
    Slot *s = &g_table.slots[at];
    if (!s->object || s->serial != (uint32_t)(h >> 32) || (kind && s->object->kind != kind))
        return NULL;
    return s;
}

static int not_live(AneHandle h, AneError *err) {
    return ane_error_set(err, ANE_E_CLOSED, "handle %#llx is closed or of another kind", (unsigned long long)h);
}

int ane_handle_get(AneHandle h, AneKind kind, void **out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&g_table.lock);
    Slot *s = find(h, kind);
    if (s) {
        ane_object_retain(s->object);
        *out = s->object;
    }
    pthread_mutex_unlock(&g_table.lock);
    return s ? ANE_OK : not_live(h, err);
}

int ane_handle_take(AneHandle h, AneKind kind, AneObject **out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&g_table.lock);
    Slot *s = find(h, kind);
    if (s) {
        *out = s->object;
        s->object = NULL;
        s->serial++;
        uint32_t at = (uint32_t)(s - g_table.slots);
        if (at < g_table.next)
            g_table.next = at;
    }
    pthread_mutex_unlock(&g_table.lock);
    return s ? ANE_OK : not_live(h, err);
}

/* ============================== Descriptions ============================== */

#define MAX_PORTS 255
#define MAX_BLOBS 4096
#define MAX_ELEMENTS ((int64_t)1 << 33)

static char *copy_text(const char *s, size_t bytes) {
    char *c = malloc(bytes + 1);
    if (c) {
        memcpy(c, s, bytes);
        c[bytes] = 0;
    }
    return c;
}

static int copy_ports(const char *kernel, const char *what, const AnePort *in, int32_t n, AnePortDef **out, int32_t *n_out,
                      AneError *err) {
    if (n < 1 || n > MAX_PORTS || !in)
        return ane_error_set(err, ANE_E_ARG, "kernel '%s': %d %ss, expected 1 to %d", kernel, n, what, MAX_PORTS);
    if (!(*out = calloc((size_t)n, sizeof **out)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for ports");
    *n_out = n;
    for (int32_t i = 0; i < n; i++) {
        AnePortDef *p = &(*out)[i];
        if (!in[i].name || !*in[i].name)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s': %s %d has no name", kernel, what, i);
        if (in[i].rank < 1 || in[i].rank > 4)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s '%s': rank %d, expected 1 to 4", kernel, what, in[i].name,
                                 in[i].rank);
        if (in[i].dtype != ANE_F16 && in[i].dtype != ANE_F32)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s '%s': dtype %d, expected fp16 or fp32", kernel, what,
                                 in[i].name, in[i].dtype);
        int64_t elements = 1;
        for (int32_t d = 0; d < in[i].rank; d++) {
            int64_t n_d = in[i].shape[d];
            if (n_d < 1 || n_d > 65536 || (elements *= n_d) > MAX_ELEMENTS)
                return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s '%s': axis %d is %lld, expected 1 to 65536", kernel, what,
                                     in[i].name, d, (long long)n_d);
            p->shape[d] = n_d;
        }
        for (int32_t j = 0; j < i; j++)
            if (strcmp(in[i].name, in[j].name) == 0)
                return ane_error_set(err, ANE_E_ARG, "kernel '%s': two %ss named '%s'", kernel, what, in[i].name);
        p->dtype = in[i].dtype;
        p->rank = in[i].rank;
        p->adjoint = in[i].adjoint != 0;
        if (!(p->name = copy_text(in[i].name, strlen(in[i].name))))
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for port names");
    }
    return ANE_OK;
}

/* "@model_path/weights/NAME": a plain file name inside the staging directory. */
bool ane_blob_path_ok(const char *path) {
    static const char prefix[] = "@model_path/weights/";
    if (!path || strncmp(path, prefix, sizeof prefix - 1) != 0)
        return false;
    const char *name = path + sizeof prefix - 1;
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < 128;
}

static int copy_blobs(const AneSource *in, int32_t n_weights, AneSourceDef *out, AneError *err) {
    if (in->n_blobs < 0 || in->n_blobs > MAX_BLOBS || (in->n_blobs && !in->blobs))
        return ane_error_set(err, ANE_E_ARG, "kernel '%s': %d weight files, expected 0 to %d", out->name, in->n_blobs, MAX_BLOBS);
    if (in->n_blobs && !(out->blobs = calloc((size_t)in->n_blobs, sizeof *out->blobs)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for weight files");
    out->n_blobs = in->n_blobs;
    for (int32_t i = 0; i < in->n_blobs; i++) {
        const AneBlob *b = &in->blobs[i];
        AneBlobDef *d = &out->blobs[i];
        if (!ane_blob_path_ok(b->path))
            return ane_error_set(err, ANE_E_ARG, "kernel '%s': weight file '%s', expected @model_path/weights/NAME", out->name,
                                 b->path ? b->path : "");
        if (b->rows < 1 || b->cols < 1 || b->rows > MAX_ELEMENTS / b->cols)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: %lld x %lld elements", out->name, b->path, (long long)b->rows,
                                 (long long)b->cols);
        if (b->weight >= n_weights || (b->weight < 0 && !b->data_f16))
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: weight index %d of %d", out->name, b->path, b->weight,
                                 n_weights);
        if (b->transform != ANE_BAKE_PLAIN && b->transform != ANE_BAKE_TRANSPOSE)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: transform %d", out->name, b->path, b->transform);
        for (int32_t j = 0; j < i; j++)
            if (strcmp(out->blobs[j].path, b->path) == 0)
                return ane_error_set(err, ANE_E_ARG, "kernel '%s': weight file %s given twice", out->name, b->path);
        d->weight = b->weight < 0 ? -1 : b->weight;
        if (b->scale < 0 || b->scale > n_weights || (b->scale && b->weight < 0))
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: scale %d of %d weights, expected 0 or 1 + an index", out->name,
                                 b->path, b->scale, n_weights);
        if (b->dtype != 0 && b->dtype != ANE_F32 && !(b->dtype == ANE_F16 && !b->scale))
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: a weight of dtype %d%s, expected ANE_F32%s", out->name, b->path,
                                 b->dtype, b->scale ? " with a scale" : "", b->scale ? "" : " or ANE_F16");
        d->scale = b->scale - 1;
        d->dtype = b->dtype == ANE_F16 ? ANE_F16 : ANE_F32;
        d->transform = b->transform;
        d->rows = b->rows;
        d->cols = b->cols;
        if (!(d->path = copy_text(b->path, strlen(b->path))))
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for weight paths");
        if (d->weight < 0) {
            size_t bytes = (size_t)(b->rows * b->cols) * sizeof *b->data_f16;
            if (!(d->data_f16 = malloc(bytes)))
                return ane_error_set(err, ANE_E_MEMORY, "out of memory for constant %s", b->path);
            memcpy(d->data_f16, b->data_f16, bytes);
        }
    }
    return ANE_OK;
}

static int copy_source(const AneSource *in, int32_t n_weights, AneSourceDef *out, AneError *err) {
    if (!in->name || !*in->name)
        return ane_error_set(err, ANE_E_ARG, "a program has no name");
    if (!(out->name = copy_text(in->name, strlen(in->name))))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for program names");
    if (!in->mil || !in->mil_bytes)
        return ane_error_set(err, ANE_E_ARG, "kernel '%s' has no MIL text", in->name);
    if (!(out->mil = copy_text(in->mil, in->mil_bytes)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for MIL text");
    out->mil_bytes = in->mil_bytes;
    return copy_blobs(in, n_weights, out, err);
}

int ane_source_copy(const AneSource *in, int32_t n_weights, AneSourceDef *out, AneError *err) {
    memset(out, 0, sizeof *out);
    int status = copy_source(in, n_weights, out, err);
    if (status != ANE_OK)
        ane_source_free(out);
    return status;
}

void ane_source_free(AneSourceDef *s) {
    free(s->name);
    free(s->mil);
    for (int32_t i = 0; s->blobs && i < s->n_blobs; i++) {
        free(s->blobs[i].path);
        free(s->blobs[i].data_f16);
    }
    free(s->blobs);
    memset(s, 0, sizeof *s);
}

static int copy_kernel(const AneKernel *in, int32_t n_sources, AneKernelDef *out, AneError *err) {
    if (!in->name || !*in->name)
        return ane_error_set(err, ANE_E_ARG, "a kernel has no name");
    if (!(out->name = copy_text(in->name, strlen(in->name))))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for kernel names");
    if (in->program < 0 || in->program >= n_sources)
        return ane_error_set(err, ANE_E_ARG, "kernel '%s': program %d of %d", in->name, in->program, n_sources);
    out->program = in->program;
    if (in->function && !(out->function = copy_text(in->function, strlen(in->function))))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for function names");
    int status = copy_ports(out->name, "input", in->inputs, in->n_inputs, &out->inputs, &out->n_inputs, err);
    if (status == ANE_OK)
        status = copy_ports(out->name, "output", in->outputs, in->n_outputs, &out->outputs, &out->n_outputs, err);
    return status;
}

int ane_kernel_copy(const AneKernel *in, int32_t n_sources, AneKernelDef *out, AneError *err) {
    memset(out, 0, sizeof *out);
    int status = copy_kernel(in, n_sources, out, err);
    if (status != ANE_OK)
        ane_kernel_free(out);
    return status;
}

static void free_ports(AnePortDef *ports, int32_t n) {
    for (int32_t i = 0; ports && i < n; i++)
        free(ports[i].name);
    free(ports);
}

void ane_kernel_free(AneKernelDef *k) {
    free(k->name);
    free(k->function);
    free_ports(k->inputs, k->n_inputs);
    free_ports(k->outputs, k->n_outputs);
    memset(k, 0, sizeof *k);
}

/* Rows are dense when they are a multiple of 64 bytes long, else padded to one
 * (measured on hardware by jafreck/ironmill: [1,4,1,4] fp16 has RowStride 64). */
void ane_port_layout(const AnePortDef *port, AneSurfaceInfo *out) {
    int64_t dim[4] = {1, 1, 1, 1};
    for (int32_t i = 0; i < port->rank; i++)
        dim[4 - port->rank + i] = port->shape[i];
    memset(out, 0, sizeof *out);
    int64_t element = port->dtype == ANE_F32 ? 4 : 2;
    out->dtype = port->dtype;
    out->n = dim[0];
    out->c = dim[1];
    out->h = dim[2];
    out->w = dim[3];
    out->row_stride = (dim[3] * element + 63) / 64 * 64;
    out->plane_stride = out->row_stride * dim[2];
    out->batch_stride = out->plane_stride * dim[1];
    out->bytes = (size_t)(out->batch_stride * dim[0]);
}
