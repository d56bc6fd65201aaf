// SPDX-License-Identifier: MIT
/* _gcd.h - the part of Grand Central Dispatch that ane_native uses.
 *
 * On a Mac this is the system's header. Elsewhere the same functions are
 * declared here, because neither a Swift toolchain's headers (they drag in its
 * own CoreFoundation) nor Debian 12 offer a usable <dispatch/dispatch.h>; they
 * come from a libdispatch found at build time, or from _dispatch_small.c. Only
 * the function-pointer forms are used: no blocks, so nothing captures and
 * nothing is retained behind our back. */
#ifndef ANE_NATIVE_GCD_H
#define ANE_NATIVE_GCD_H

#ifdef __APPLE__
#include <dispatch/dispatch.h>
#else

#include <stddef.h>
#include <stdint.h>

typedef struct dispatch_queue_s *dispatch_queue_t;
typedef struct dispatch_queue_attr_s *dispatch_queue_attr_t;
typedef struct dispatch_group_s *dispatch_group_t;
typedef struct dispatch_semaphore_s *dispatch_semaphore_t;
typedef uint64_t dispatch_time_t;
typedef long dispatch_once_t;
typedef void (*dispatch_function_t)(void *);

#define DISPATCH_TIME_NOW ((dispatch_time_t)0)
#define DISPATCH_TIME_FOREVER (~(dispatch_time_t)0)
#define DISPATCH_QUEUE_SERIAL ((dispatch_queue_attr_t)0)
#define QOS_CLASS_USER_INITIATED 0x19u
#define QOS_CLASS_UTILITY 0x11u

dispatch_queue_attr_t dispatch_queue_attr_make_with_qos_class(dispatch_queue_attr_t attr, unsigned int qos_class, int relative);
dispatch_queue_t dispatch_queue_create(const char *label, dispatch_queue_attr_t attr);
dispatch_queue_t dispatch_get_global_queue(intptr_t identifier, uintptr_t flags); /* identifier 0: default priority */
void dispatch_async_f(dispatch_queue_t queue, void *context, dispatch_function_t work);
void dispatch_sync_f(dispatch_queue_t queue, void *context, dispatch_function_t work);
void dispatch_apply_f(size_t iterations, dispatch_queue_t queue, void *context, void (*work)(void *, size_t));
dispatch_group_t dispatch_group_create(void);
void dispatch_group_async_f(dispatch_group_t group, dispatch_queue_t queue, void *context, dispatch_function_t work);
intptr_t dispatch_group_wait(dispatch_group_t group, dispatch_time_t timeout);
dispatch_semaphore_t dispatch_semaphore_create(intptr_t value);
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t timeout);
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
dispatch_time_t dispatch_time(dispatch_time_t when, int64_t delta_ns);
void dispatch_once_f(dispatch_once_t *predicate, void *context, dispatch_function_t function);
void dispatch_release(void *object); /* libdispatch declares a union of object types; the ABI is one pointer */

#endif
#endif
