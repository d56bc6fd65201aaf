// SPDX-License-Identifier: MIT
/* _compat.h - the few differences between Apple's Foundation and GNUstep's.
 *
 * Included by _core.m only. Whatever differs is the same function on both
 * sides, so the core itself carries no platform #if. */
#ifndef ANE_NATIVE_COMPAT_H
#define ANE_NATIVE_COMPAT_H

#import <Foundation/Foundation.h>

#ifdef __APPLE__

/* Any thread may use autorelease pools. */
static inline void ane_thread_enter(void) {}

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

#endif
#endif
