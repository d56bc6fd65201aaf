// SPDX-License-Identifier: MIT
/* iosurface.m - class IOSurface and the exported IOSurface functions. */
#import "iosurface.h"

NSString *const kIOSurfaceWidth = @"IOSurfaceWidth";
NSString *const kIOSurfaceHeight = @"IOSurfaceHeight";
NSString *const kIOSurfaceBytesPerElement = @"IOSurfaceBytesPerElement";
NSString *const kIOSurfaceBytesPerRow = @"IOSurfaceBytesPerRow";
NSString *const kIOSurfaceAllocSize = @"IOSurfaceAllocSize";
NSString *const kIOSurfacePixelFormat = @"IOSurfacePixelFormat";

#define READ_ONLY 1u

/* ============================== Creation ================================== */

/* One size out of the dictionary; absent leaves 0. False for what is not a
 * number, is below 0, or is an explicit 0 (except the pixel format). */
static bool take_size(NSDictionary *d, NSString *key, bool zero_ok, size_t *out) {
    id n = [d objectForKey:key];
    if (!n)
        return true;
    if (![n isKindOfClass:[NSNumber class]])
        return false;
    long long v = [n longLongValue];
    if (v < 0 || (v == 0 && !zero_ok))
        return false;
    *out = (size_t)v;
    return true;
}

static SaSurface *surface_from(NSDictionary *d) {
    SaSurfaceProps p = {0};
    SaSurface *s = NULL;
    size_t format = 0;
    if (![d isKindOfClass:[NSDictionary class]])
        return NULL;
    if (!take_size(d, kIOSurfaceWidth, false, &p.width) || !take_size(d, kIOSurfaceHeight, false, &p.height) ||
        !take_size(d, kIOSurfaceBytesPerElement, false, &p.element_bytes) ||
        !take_size(d, kIOSurfaceBytesPerRow, false, &p.row_bytes) ||
        !take_size(d, kIOSurfaceAllocSize, false, &p.bytes) || !take_size(d, kIOSurfacePixelFormat, true, &format))
        return NULL;
    p.pixel_format = (uint32_t)format;
    if (sa_surface_complete(&p) != SA_OK || sa_surface_create(&p, &s) != SA_OK)
        return NULL;
    return s;
}

@implementation IOSurface

- (id)initWithProperties:(NSDictionary *)properties {
    if ((self = [super init])) {
        _surface = surface_from(properties);
        if (!_surface) {
            [self release];
            return nil;
        }
    }
    return self;
}

- (void)dealloc {
    sa_surface_release(_surface);
    [super dealloc];
}

- (void *)baseAddress { return _surface->base; }
- (NSInteger)allocationSize { return (NSInteger)_surface->bytes; }
- (uint32_t)surfaceID { return _surface->id; }

@end

IOSurfaceRef IOSurfaceCreate(const void *properties) {
    @autoreleasepool {
        return (IOSurfaceRef)[[IOSurface alloc] initWithProperties:(NSDictionary *)properties];
    }
}

IOSurfaceRef IOSurfaceLookup(uint32_t id) {
    SaSurface *s = sa_surface_find(id);
    if (!s)
        return NULL;
    IOSurface *o = [IOSurface alloc]; /* not init: the memory exists already */
    o->_surface = s;
    return (IOSurfaceRef)o;
}

/* ============================== Locking =================================== */

int IOSurfaceLock(IOSurfaceRef ref, uint32_t options, uint32_t *seed) {
    (void)options;
    SaSurface *s = sa_surface_of(ref);
    if (!s)
        return SA_IO_BAD_ARGUMENT;
    return sa_surface_lock(s, seed) ? SA_IO_OK : SA_IO_ERROR;
}

int IOSurfaceUnlock(IOSurfaceRef ref, uint32_t options, uint32_t *seed) {
    SaSurface *s = sa_surface_of(ref);
    if (!s)
        return SA_IO_BAD_ARGUMENT;
    return sa_surface_unlock(s, !(options & READ_ONLY), seed) ? SA_IO_OK : SA_IO_NOT_OPEN;
}

/* ============================== Getters =================================== */

/* NULL answers 0, as a message to nil would. */
#define GETTER(type, name, field) \
    type name(IOSurfaceRef ref) { \
        SaSurface *s = sa_surface_of(ref); \
        return s ? s->field : 0; \
    }
GETTER(void *, IOSurfaceGetBaseAddress, base)
GETTER(size_t, IOSurfaceGetAllocSize, bytes)
GETTER(size_t, IOSurfaceGetBytesPerRow, row_bytes)
GETTER(size_t, IOSurfaceGetBytesPerElement, element_bytes)
GETTER(size_t, IOSurfaceGetWidth, width)
GETTER(size_t, IOSurfaceGetHeight, height)
GETTER(uint32_t, IOSurfaceGetPixelFormat, pixel_format)
GETTER(uint32_t, IOSurfaceGetID, id)
GETTER(uint32_t, IOSurfaceGetSeed, seed)

unsigned char IOSurfaceIsInUse(IOSurfaceRef ref) {
    SaSurface *s = sa_surface_of(ref);
    return s && s->uses > 0;
}

void IOSurfaceIncrementUseCount(IOSurfaceRef ref) {
    if (ref)
        sa_surface_of(ref)->uses++; /* atomic object */
}

void IOSurfaceDecrementUseCount(IOSurfaceRef ref) {
    if (ref)
        sa_surface_of(ref)->uses--;
}
