// SPDX-License-Identifier: MIT
/* sys/sysctl.h - the names that programs print about a machine:
 * hw.ncpu hw.logicalcpu hw.physicalcpu hw.activecpu hw.memsize hw.pagesize
 * hw.model hw.machine machdep.cpu.brand_string kern.osversion kern.osrelease.
 * Any other name answers -1 with ENOENT. */
#ifndef SOFTANE_SDK_SYSCTL_H
#define SOFTANE_SDK_SYSCTL_H
#include <stddef.h>
#include <sys/types.h>
#if defined(__cplusplus)
extern "C"
#endif
int sysctlbyname(const char *name, void *old, size_t *old_size, void *fresh, size_t fresh_size);
#endif
