// SPDX-License-Identifier: MIT
/* libc.h - C functions of macOS that this system's C library lacks. */
#ifndef SOFTANE_SDK_LIBC_H
#define SOFTANE_SDK_LIBC_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Words of <sys/cdefs.h>. Included late: a few kernel headers have members of such names. */
#ifndef __unused
#define __unused __attribute__((unused))
#define __used __attribute__((used))
#define __dead2 __attribute__((noreturn))
#define __printflike(format, first) __attribute__((format(printf, format, first)))
#endif

#if defined(__cplusplus)
extern "C" {
#endif

#if defined(__GLIBC__) && (__GLIBC__ < 2 || (__GLIBC__ == 2 && __GLIBC_MINOR__ < 38))
size_t strlcpy(char *to, const char *from, size_t size);
size_t strlcat(char *to, const char *from, size_t size);
#endif

#ifndef CLOCK_UPTIME_RAW
#define CLOCK_UPTIME_RAW CLOCK_MONOTONIC
#define CLOCK_MONOTONIC_RAW_APPROX CLOCK_MONOTONIC
#define CLOCK_UPTIME_RAW_APPROX CLOCK_MONOTONIC
#endif
uint64_t clock_gettime_nsec_np(clockid_t clock);

const char *getprogname(void);

#if defined(__cplusplus)
}
#endif
#endif
