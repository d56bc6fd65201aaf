// SPDX-License-Identifier: MIT
/* IOSurface/IOSurfaceRef.h - surfaces: memory the CPU and the engine share.
 *
 * The functions and most constants are softane's (surface/iosurface.h). A
 * surface is an object: CFRetain, CFRelease, __bridge all work on it. */
#ifndef SOFTANE_SDK_IOSURFACEREF_H
#define SOFTANE_SDK_IOSURFACEREF_H

#include <CoreFoundation/CoreFoundation.h>
#include <mach/kern_return.h>

typedef struct
#if __has_attribute(objc_bridge) && defined(__OBJC__)
    __attribute__((objc_bridge(IOSurface)))
#endif
    __IOSurface *IOSurfaceRef;
typedef uint32_t IOSurfaceID;
typedef kern_return_t IOReturn;

#define kIOReturnSuccess 0

/* Keys of IOSurfaceCreate that have an effect. */
CF_EXPORT const CFStringRef kIOSurfaceWidth, kIOSurfaceHeight, kIOSurfaceBytesPerElement, kIOSurfaceBytesPerRow,
    kIOSurfaceAllocSize, kIOSurfacePixelFormat;
/* Keys that are read by nobody here (lib/cf.m). */
CF_EXPORT const CFStringRef kIOSurfaceIsGlobal, kIOSurfaceName, kIOSurfaceCacheMode, kIOSurfaceOffset,
    kIOSurfaceElementWidth, kIOSurfaceElementHeight, kIOSurfacePlaneInfo;

enum { kIOSurfaceDefaultCache = 0, kIOSurfaceInhibitCache = 1, kIOSurfaceWriteThruCache = 2, kIOSurfaceCopybackCache = 3 };

typedef uint32_t IOSurfaceLockOptions;
enum { kIOSurfaceLockReadOnly = 1, kIOSurfaceLockAvoidSync = 2 };

CF_EXPORT IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties); /* released by the caller; NULL */
CF_EXPORT IOSurfaceRef IOSurfaceLookup(IOSurfaceID id);             /* of this process only */
CF_EXPORT IOReturn IOSurfaceLock(IOSurfaceRef s, IOSurfaceLockOptions options, uint32_t *seed);
CF_EXPORT IOReturn IOSurfaceUnlock(IOSurfaceRef s, IOSurfaceLockOptions options, uint32_t *seed);
CF_EXPORT void *IOSurfaceGetBaseAddress(IOSurfaceRef s);
CF_EXPORT size_t IOSurfaceGetAllocSize(IOSurfaceRef s);
CF_EXPORT size_t IOSurfaceGetBytesPerRow(IOSurfaceRef s);
CF_EXPORT size_t IOSurfaceGetBytesPerElement(IOSurfaceRef s);
CF_EXPORT size_t IOSurfaceGetWidth(IOSurfaceRef s);
CF_EXPORT size_t IOSurfaceGetHeight(IOSurfaceRef s);
CF_EXPORT uint32_t IOSurfaceGetPixelFormat(IOSurfaceRef s);
CF_EXPORT IOSurfaceID IOSurfaceGetID(IOSurfaceRef s);
CF_EXPORT uint32_t IOSurfaceGetSeed(IOSurfaceRef s);
CF_EXPORT Boolean IOSurfaceIsInUse(IOSurfaceRef s);
CF_EXPORT void IOSurfaceIncrementUseCount(IOSurfaceRef s);
CF_EXPORT void IOSurfaceDecrementUseCount(IOSurfaceRef s);
static inline size_t IOSurfaceGetPlaneCount(IOSurfaceRef s) { return (void)s, 0; }

#endif
