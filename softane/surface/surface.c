// SPDX-License-Identifier: MIT
/* surface.c - memory of surfaces and their registry by number. */
#include "surface.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../device/device.h"

/* The registry is process-wide, as surface numbers are system-wide on macOS. */
static struct {
    pthread_mutex_t lock;
    SaSurface *first;
    uint32_t last_id;
} registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ============================== Properties ================================ */

SaStatus sa_surface_complete(SaSurfaceProps *p) {
    size_t least;
    if (p->width == 0 || p->height == 0)
        return SA_E_BIND;
    if (p->element_bytes == 0)
        p->element_bytes = 1;
    if (!sa_mul_ok(p->width, p->element_bytes, &least))
        return SA_E_LIMIT;
    if (p->row_bytes == 0)
        p->row_bytes = least;
    if (p->row_bytes < least)
        return SA_E_BIND;
    if (!sa_mul_ok(p->row_bytes, p->height, &least))
        return SA_E_LIMIT;
    if (p->bytes == 0)
        p->bytes = least;
    if (p->bytes < least)
        return SA_E_BIND;
    return p->bytes > SA_SURFACE_MAX_BYTES ? SA_E_LIMIT : SA_OK;
}

/* ============================== Memory ==================================== */

/* Anonymous file, mapped; the descriptor is closed at once, so thousands of
 * surfaces do not use up descriptors. */
static void *map_pages(size_t bytes) {
    int fd = memfd_create("IOSurface", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *p = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0)
        p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

SaStatus sa_surface_create(const SaSurfaceProps *props, SaSurface **out) {
    if (SA_FAILPOINT("surface.create"))
        return SA_E_INJECTED;
    SaSurface *s = calloc(1, sizeof *s);
    if (!s)
        return SA_E_MEMORY;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    s->bytes = props->bytes;
    if (SA_FAILPOINT("surface.short")) /* smaller than asked: binding must notice */
        s->bytes = (s->bytes + 1) / 2;
    s->mapped = (props->bytes + page - 1) / page * page;
    s->base = map_pages(s->mapped);
    if (!s->base) {
        free(s);
        return SA_E_MEMORY;
    }
    s->width = props->width;
    s->height = props->height;
    s->element_bytes = props->element_bytes;
    s->row_bytes = props->row_bytes;
    s->pixel_format = props->pixel_format;
    atomic_store(&s->refs, 1);
    pthread_mutex_lock(&registry.lock);
    s->id = ++registry.last_id;
    s->next = registry.first;
    registry.first = s;
    pthread_mutex_unlock(&registry.lock);
    sa_device()->surfaces++;
    *out = s;
    return SA_OK;
}

/* ============================== References ================================ */

SaSurface *sa_surface_find(uint32_t id) {
    pthread_mutex_lock(&registry.lock);
    SaSurface *s = registry.first;
    while (s && s->id != id)
        s = s->next;
    if (s) /* refs > 0: a release to 0 unlinks under this lock */
        atomic_fetch_add(&s->refs, 1);
    pthread_mutex_unlock(&registry.lock);
    return s;
}

void sa_surface_retain(SaSurface *s) { atomic_fetch_add(&s->refs, 1); }

void sa_surface_release(SaSurface *s) {
    if (!s)
        return;
    pthread_mutex_lock(&registry.lock);
    bool last = atomic_fetch_sub(&s->refs, 1) == 1;
    if (last) {
        SaSurface **p = &registry.first;
        while (*p != s)
            p = &(*p)->next;
        *p = s->next;
    }
    pthread_mutex_unlock(&registry.lock);
    if (!last)
        return;
    munmap(s->base, s->mapped);
    free(s);
    sa_device()->surfaces--;
}

/* ============================== Locking =================================== */

bool sa_surface_lock(SaSurface *s, uint32_t *seed) {
    if (SA_FAILPOINT("surface.lock"))
        return false;
    atomic_fetch_add(&s->locks, 1);
    if (seed)
        *seed = atomic_load(&s->seed);
    return true;
}

bool sa_surface_unlock(SaSurface *s, bool wrote, uint32_t *seed) {
    int n = atomic_load(&s->locks);
    do {
        if (n <= 0)
            return false;
    } while (!atomic_compare_exchange_weak(&s->locks, &n, n - 1));
    if (wrote)
        atomic_fetch_add(&s->seed, 1);
    if (seed)
        *seed = atomic_load(&s->seed);
    return true;
}
