// SPDX-License-Identifier: MIT
/* _core_surface.m - IOSurfaces: one per port, laid out as the engine lays out
 * tensors, with conversion on the way in and out.
 *
 * A surface is freed when its handle is closed and no view of it is left, so a
 * numpy array over its memory can never dangle. */
#include <stdlib.h>
#include <string.h>

#import "_core_door.h"

#define g ane_engine
#define SURFACE_READ_ONLY 1u /* kIOSurfaceLockReadOnly */

/* ============================== Making ==================================== */

static pthread_mutex_t g_views_lock = PTHREAD_MUTEX_INITIALIZER;
static AneSurface *g_mapped;

static void destroy_surface(AneObject *o) {
    AneSurface *s = (AneSurface *)o;
    ane_thread_enter();
    @autoreleasepool {
        [s->wrapper release];
        [(id)s->ref release];
    }
    free(s);
}

const AneSurfaceInfo *ane_surface_layout(const AneSurface *s) { return &s->info; }
AneObject *ane_surface_object(AneSurface *s) { return &s->object; }

int ane_surface_make(const AnePortDef *port, AneSurface **out, AneError *err) {
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    AneSurface *s = calloc(1, sizeof *s);
    if (!s)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a surface");
    ane_object_init(&s->object, ANE_KIND_SURFACE, destroy_surface);
    ane_port_layout(port, &s->info);
    ane_thread_enter();
    @autoreleasepool {
        NSNumber *bytes = [NSNumber numberWithUnsignedLongLong:s->info.bytes];
        NSNumber *one = [NSNumber numberWithInt:1];
        NSDictionary *properties =
            [NSDictionary dictionaryWithObjectsAndKeys:bytes, @"IOSurfaceWidth", one, @"IOSurfaceHeight", one,
                                                       @"IOSurfaceBytesPerElement", bytes, @"IOSurfaceBytesPerRow", bytes,
                                                       @"IOSurfaceAllocSize", [NSNumber numberWithInt:0],
                                                       @"IOSurfacePixelFormat", nil];
        s->ref = g.surface_create((void *)properties);
        if (s->ref)
            s->wrapper = [[(id<AneSurfaceClass>)(id)g.cls[CLS_SURFACE] objectWithIOSurface:s->ref] retain];
        s->info.base = s->ref ? g.surface_base(s->ref) : NULL;
    }
    if (!s->ref || !s->wrapper || !s->info.base || g.surface_bytes(s->ref) < s->info.bytes) {
        status = ane_error_set(err, ANE_E_MEMORY, "no surface of %zu bytes for port '%s'", s->info.bytes, port->name);
        ane_object_release(&s->object);
        return status;
    }
    if (g.surface_lock(s->ref, 0, NULL) == 0) { /* unread padding must be finite */
        if (!ane_untouched(s->info.base, s->info.bytes))
            memset(s->info.base, 0, s->info.bytes);
        g.surface_unlock(s->ref, 0, NULL);
    }
    *out = s;
    return ANE_OK;
}

int ane_surface_create(const AnePort *port, AneHandle *out, AneError *err) {
    /* a kernel with this port twice goes through all checks of a port */
    AneKernel k = {.name = "surface", .inputs = port, .n_inputs = 1, .outputs = port, .n_outputs = 1};
    AneKernelDef def;
    int status = ane_kernel_copy(&k, 1, &def, err);
    if (status != ANE_OK)
        return status;
    AneSurface *s = NULL;
    status = ane_surface_make(&def.inputs[0], &s, err);
    ane_kernel_free(&def);
    if (status == ANE_OK && (status = ane_handle_new(&s->object, out, err)) != ANE_OK)
        ane_object_release(&s->object);
    return status;
}

int ane_surface_info(AneHandle surface, AneSurfaceInfo *out, AneError *err) {
    AneSurface *s;
    int status = ane_handle_get(surface, ANE_KIND_SURFACE, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    *out = s->info;
    ane_object_release(&s->object);
    return ANE_OK;
}

int ane_surface_map(AneHandle surface, AneSurfaceInfo *out, AneError *err) {
    AneSurface *s;
    int status = ane_handle_get(surface, ANE_KIND_SURFACE, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    *out = s->info;
    pthread_mutex_lock(&g_views_lock);
    if (s->views++ == 0) {
        s->next_mapped = g_mapped;
        g_mapped = s;
        ane_object_retain(&s->object);
    }
    pthread_mutex_unlock(&g_views_lock);
    ane_object_release(&s->object);
    return ANE_OK;
}

void ane_surface_unmap(void *base) {
    AneSurface *gone = NULL;
    if (ane_guard(NULL) != ANE_OK)
        return;
    pthread_mutex_lock(&g_views_lock);
    for (AneSurface **at = &g_mapped; *at; at = &(*at)->next_mapped)
        if ((*at)->info.base == base) {
            if (--(*at)->views == 0) {
                gone = *at;
                *at = gone->next_mapped;
            }
            break;
        }
    pthread_mutex_unlock(&g_views_lock);
    if (gone)
        ane_object_release(&gone->object);
}

/* One pass over a surface's rows. `dense` has `element` bytes per value. */
typedef void (*RowCopy)(void *row, void *dense, size_t count);

static void row_from_f32(void *row, void *dense, size_t n) { ane_cpu_half_from_float(dense, row, n); }
static void row_to_f32(void *row, void *dense, size_t n) { ane_cpu_float_from_half(row, dense, n); }
static void row_put_f32(void *row, void *dense, size_t n) { memcpy(row, dense, n * 4); }
static void row_get_f32(void *row, void *dense, size_t n) { memcpy(dense, row, n * 4); }
static void row_put_f16(void *row, void *dense, size_t n) { memcpy(row, dense, n * 2); }
static void row_get_f16(void *row, void *dense, size_t n) { memcpy(dense, row, n * 2); }

static int surface_rows(AneHandle surface, void *data, size_t count, bool f32, bool write, AneError *err) {
    AneSurface *s;
    int status = ane_handle_get(surface, ANE_KIND_SURFACE, (void **)&s, err);
    if (status != ANE_OK)
        return status;
    const AneSurfaceInfo *i = &s->info;
    size_t expected = (size_t)(i->n * i->c * i->h * i->w), width = (size_t)i->w, element = f32 ? 4 : 2;
    RowCopy copy;
    if (i->dtype == ANE_F16)
        copy = f32 ? (write ? row_from_f32 : row_to_f32) : (write ? row_put_f16 : row_get_f16);
    else
        copy = write ? row_put_f32 : row_get_f32;
    if (!data || count != expected)
        status = ane_error_set(err, ANE_E_ARG, "%zu elements for a surface of %zu", count, expected);
    else if (i->dtype == ANE_F32 && !f32)
        status = ane_error_set(err, ANE_E_ARG, "half data for an fp32 surface");
    else if (g.surface_lock(s->ref, write ? 0 : SURFACE_READ_ONLY, NULL) != 0)
        status = ane_error_set(err, ANE_E_ENGINE, "the surface could not be locked");
    if (status == ANE_OK) {
        size_t rows = expected / width;
        char *row = i->base, *dense = data;
        if ((size_t)i->row_stride == width * (i->dtype == ANE_F32 ? 4 : 2)) { /* dense: one pass */
            width *= rows;
            rows = 1;
        }
        for (; rows; rows--, row += i->row_stride, dense += width * element)
            copy(row, dense, width);
        g.surface_unlock(s->ref, write ? 0 : SURFACE_READ_ONLY, NULL);
    }
    ane_object_release(&s->object);
    return status;
}

int ane_surface_write_f32(AneHandle surface, const float *data, size_t count, AneError *err) {
    return surface_rows(surface, (void *)(uintptr_t)data, count, true, true, err);
}
int ane_surface_read_f32(AneHandle surface, float *data, size_t count, AneError *err) {
    return surface_rows(surface, data, count, true, false, err);
}
int ane_surface_write_f16(AneHandle surface, const uint16_t *data, size_t count, AneError *err) {
    return surface_rows(surface, (void *)(uintptr_t)data, count, false, true, err);
}
int ane_surface_read_f16(AneHandle surface, uint16_t *data, size_t count, AneError *err) {
    return surface_rows(surface, data, count, false, false, err);
}
