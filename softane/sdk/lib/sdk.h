// SPDX-License-Identifier: MIT
/* sdk.h - the map of the SDK's library, which softane-cc links into programs.
 *
 *   msgsend.c     objc_msgSend and its relatives
 *   module.c      loads classes compiled for GNUstep's runtime into GCC's
 *   arc.m         what code compiled with -fobjc-arc calls
 *   blocks.m      blocks, as objects that retain what they captured
 *   runtime.m     functions of objc/runtime.h that GCC's runtime lacks
 *   cf.m          CoreFoundation as far as ANE programs use it
 *   platform.c    dlopen of the framework, mach time, sysctl, fp16 helpers
 *   gcd.c         Grand Central Dispatch with blocks
 *   cblas.c vdsp.c  Accelerate
 *   foundation.m  methods that GNUstep's Foundation lacks
 *   start.c       what happens before main
 *
 * Compiled without ARC, for GCC's runtime, as C as far as possible. */
#ifndef SOFTANE_SDK_H
#define SOFTANE_SDK_H

#include <stdbool.h>
#include <stddef.h>

struct objc_class;

#ifndef __OBJC__
/* The runtime's functions as C sees them. */
struct SdkSuper {
    void *receiver;
    struct objc_class *super_class;
};
typedef void (*SdkImp)(void);
SdkImp objc_msg_lookup(void *receiver, const void *selector);
SdkImp objc_msg_lookup_super(struct SdkSuper *super, const void *selector);
struct objc_class *objc_lookUpClass(const char *name);
size_t class_getInstanceSize(struct objc_class *c);
#endif

/* module.c: aborts with a sentence when a class waits for its superclass. */
void sdk_check_modules(void);

/* cf.m: the constants that are objects. */
void sdk_make_constants(void);

/* foundation.m: [NSBundle bundleWithPath:] knows the frameworks that are linked. */
void sdk_watch_bundles(void);

/* arc.m: make the calling thread known to Foundation; a pool for its work. */
void sdk_thread_enter(void);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);

/* runtime.m: -[NSObject dealloc] tells these before an object is freed. */
void sdk_watch_deallocs(void);       /* from now on; any thread */
void sdk_weak_forget(void *object);  /* arc.m */

#endif
