// SPDX-License-Identifier: MIT
/* surface.h - shared memory of fixed size, in plain C. The IOSurface functions
 * and class on top of it are in iosurface.h / iosurface.m.
 *
 * A surface is a memfd mapping: whole pages, zero-filled, at a fixed address
 * until the last reference goes. */
#ifndef SA_SURFACE_H
#define SA_SURFACE_H

#include <stdatomic.h>
#include <stdint.h>

#include "../base/base.h"

#define SA_SURFACE_MAX_BYTES ((size_t)1 << 34) /* 16 GiB */

typedef struct SaSurface {
    atomic_int refs;
    uint32_t id;              /* never 0 */
    void *base;
    size_t bytes;             /* as asked for: what the engine checks */
    size_t mapped;            /* whole pages */
    size_t width, height, element_bytes, row_bytes;
    uint32_t pixel_format;
    _Atomic uint32_t seed;    /* changes when somebody unlocks after writing */
    atomic_int locks, uses;
    struct SaSurface *next;   /* registry */
} SaSurface;

/* What IOSurfaceCreate is asked for; 0 = not given. */
typedef struct {
    size_t width, height, element_bytes, row_bytes, bytes;
    uint32_t pixel_format;
} SaSurfaceProps;

/* Fill in what is not given (element 1 byte, dense rows, height * row) and
 * check. width and height are needed. */
SaStatus sa_surface_complete(SaSurfaceProps *p);

/* One reference for the caller. Properties must be complete. Any thread. */
SaStatus sa_surface_create(const SaSurfaceProps *p, SaSurface **out);
SaSurface *sa_surface_find(uint32_t id); /* one more reference, or NULL */
void sa_surface_retain(SaSurface *s);
void sa_surface_release(SaSurface *s);   /* NULL is fine */

/* Locks count and order nothing. Unlock returns false when there is no lock.
 * *seed (may be NULL) receives the seed after the call. */
bool sa_surface_lock(SaSurface *s, uint32_t *seed); /* false: failpoint surface.lock */
bool sa_surface_unlock(SaSurface *s, bool wrote, uint32_t *seed);

#endif
