// SPDX-License-Identifier: MIT
/* os/lock.h - the unfair lock, as a lock that yields while it waits. */
#ifndef SOFTANE_SDK_OS_LOCK_H
#define SOFTANE_SDK_OS_LOCK_H
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
typedef struct os_unfair_lock_s {
    uint32_t held;
} os_unfair_lock, *os_unfair_lock_t;
#define OS_UNFAIR_LOCK_INIT ((os_unfair_lock){0})
static inline bool os_unfair_lock_trylock(os_unfair_lock_t l) { return !__atomic_exchange_n(&l->held, 1, __ATOMIC_ACQUIRE); }
static inline void os_unfair_lock_lock(os_unfair_lock_t l) {
    while (!os_unfair_lock_trylock(l))
        sched_yield();
}
static inline void os_unfair_lock_unlock(os_unfair_lock_t l) { __atomic_store_n(&l->held, 0, __ATOMIC_RELEASE); }
#endif
