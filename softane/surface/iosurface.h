// SPDX-License-Identifier: MIT
/* iosurface.h - the IOSurface functions that softane exports, under the names
 * and with the meaning they have on macOS. An IOSurfaceRef is an object of
 * class IOSurface: retain and release work on it as CFRetain and CFRelease do.
 *
 * Differences: IOSurfaceGetAllocSize gives the size asked for, not whole
 * pages, so that a surface one byte too small is noticed; IOSurfaceLookup
 * finds surfaces of this process only. */
#ifndef SA_IOSURFACE_H
#define SA_IOSURFACE_H

#import <Foundation/Foundation.h>

#include "surface.h"

#define SA_EXPORT __attribute__((visibility("default")))

typedef struct __IOSurface *IOSurfaceRef;

/* kern_return_t-like results */
#define SA_IO_OK 0
#define SA_IO_BAD_ARGUMENT ((int)0xe00002c2)
#define SA_IO_NOT_OPEN ((int)0xe00002cd)
#define SA_IO_ERROR ((int)0xe00002bc)

SA_EXPORT extern NSString *const kIOSurfaceWidth;
SA_EXPORT extern NSString *const kIOSurfaceHeight;
SA_EXPORT extern NSString *const kIOSurfaceBytesPerElement;
SA_EXPORT extern NSString *const kIOSurfaceBytesPerRow;
SA_EXPORT extern NSString *const kIOSurfaceAllocSize;
SA_EXPORT extern NSString *const kIOSurfacePixelFormat;

/* A new surface, zero-filled, owned by the caller; NULL when a size is
 * missing, negative, contradictory or too large. `properties`: NSDictionary. */
SA_EXPORT IOSurfaceRef IOSurfaceCreate(const void *properties);
SA_EXPORT IOSurfaceRef IOSurfaceLookup(uint32_t id); /* owned by the caller, or NULL */

/* Locks count; they order nothing. Option 1 = read only. */
SA_EXPORT int IOSurfaceLock(IOSurfaceRef s, uint32_t options, uint32_t *seed);
SA_EXPORT int IOSurfaceUnlock(IOSurfaceRef s, uint32_t options, uint32_t *seed);

SA_EXPORT void *IOSurfaceGetBaseAddress(IOSurfaceRef s);
SA_EXPORT size_t IOSurfaceGetAllocSize(IOSurfaceRef s);
SA_EXPORT size_t IOSurfaceGetBytesPerRow(IOSurfaceRef s);
SA_EXPORT size_t IOSurfaceGetBytesPerElement(IOSurfaceRef s);
SA_EXPORT size_t IOSurfaceGetWidth(IOSurfaceRef s);
SA_EXPORT size_t IOSurfaceGetHeight(IOSurfaceRef s);
SA_EXPORT uint32_t IOSurfaceGetPixelFormat(IOSurfaceRef s);
SA_EXPORT uint32_t IOSurfaceGetID(IOSurfaceRef s);
SA_EXPORT uint32_t IOSurfaceGetSeed(IOSurfaceRef s);
SA_EXPORT unsigned char IOSurfaceIsInUse(IOSurfaceRef s);
SA_EXPORT void IOSurfaceIncrementUseCount(IOSurfaceRef s);
SA_EXPORT void IOSurfaceDecrementUseCount(IOSurfaceRef s);

SA_EXPORT
@interface IOSurface : NSObject {
@public
    SaSurface *_surface;
}
- (id)initWithProperties:(NSDictionary *)properties;
- (void *)baseAddress;
- (NSInteger)allocationSize;
- (uint32_t)surfaceID;
@end

/* The memory behind a reference; NULL for NULL. */
static inline SaSurface *sa_surface_of(IOSurfaceRef s) { return s ? ((IOSurface *)s)->_surface : NULL; }

#endif
