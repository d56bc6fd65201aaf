// SPDX-License-Identifier: MIT
/* _compat.h - the few differences between Apple's Foundation and GNUstep's.
 *
 * Included by _core.m only. Whatever differs is the same function on both
 * sides, so the core itself carries no platform #if. */
#ifndef ANE_NATIVE_COMPAT_H
#define ANE_NATIVE_COMPAT_H

#import <Foundation/Foundation.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#ifdef __APPLE__

/* Any thread may use autorelease pools. */
static inline void ane_thread_enter(void) {}

/* Not known for IOSurfaces: no. */
static inline bool ane_untouched(const void *base, size_t bytes) {
    (void)base, (void)bytes;
    return false;
}

#else

/* GNUstep must know a thread before it uses an autorelease pool. Its own
 * thread-exit hook forgets the thread again. */
static inline void ane_thread_enter(void) {
    static __thread int registered;
    if (!registered) {
        GSRegisterCurrentThread();
        registered = 1;
    }
}

/* Fresh shared memory of which nobody has touched a page: it reads as zeros. To
 * clear it would cost a fault per page before anything uses it. */
static inline bool ane_untouched(const void *base, size_t bytes) {
#ifdef __linux__
    enum { AT_ONCE = 4096 };
    unsigned char there[AT_ONCE];
    size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (bytes + page - 1) / page;
    if ((uintptr_t)base % page || pages > AT_ONCE || mincore((void *)(uintptr_t)base, bytes, there) != 0)
        return false;
    for (size_t i = 0; i < pages; i++)
        if (there[i] & 1)
            return false;
    return true;
#else
    (void)base, (void)bytes;
    return false;
#endif
}

#endif
#endif
