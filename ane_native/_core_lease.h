// SPDX-License-Identifier: MIT
/* _core_lease.h - who uses a staging directory: see _core_lease.c. Any thread may call any of it. */
#ifndef ANE_NATIVE_CORE_LEASE_H
#define ANE_NATIVE_CORE_LEASE_H

#include "_core_internal.h"

/* A hold on a staging directory, in the name of this process. Reference-counted here;
 * counted in a file where other processes see it. */
typedef struct AneLease AneLease;

int ane_lease_take(const char *directory, AneLease **out, AneError *err);
void ane_lease_retain(AneLease *l);
/* The last holder of all processes removes the directory. NULL is fine. */
void ane_lease_release(AneLease *l);

/* Nobody else may take or release a hold until the unlock. Returns a descriptor; -1: there is nobody
 * to lock out (our own base), or it is not to be had. *others: holds of the living beside one,
 * which is the caller's (or its trainer's); 1 when it is not known. */
int ane_lease_lock(const char *directory, int *others);
/* The same for a look. */
int ane_lease_others(const char *directory);

/* Alone among the processes that stage, compile, load or unload there, for at most `ms` of waiting;
 * `stop` (or NULL) is asked meanwhile. ANE_E_IO names who is at it, ANE_E_CLOSED: stopped. */
int ane_lease_work(const char *directory, int32_t ms, bool (*stop)(void *), void *context, int *out, AneError *err);
/* End of either; -1 is fine. */
void ane_lease_unlock(int fd);

/* Under the lock: what lies in the directory is kept although its name is about to be deleted,
 * and is there again after the second call. False: it could not be kept. */
bool ane_lease_shelter(const char *directory);
void ane_lease_restore(const char *directory);

/* Remove what dead processes hold in a base; or one directory, if nobody living holds it. */
void ane_lease_reap(const char *base);
void ane_lease_sweep(const char *directory);

#endif
