// SPDX-License-Identifier: MIT
/* platform.c - macOS as ANE programs see it: dlopen of frameworks, the clock,
 * facts about the machine, conversions of half-precision numbers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <errno.h>
#include <mach-o/dyld.h>
#include <mach/mach.h>
#include <softane_sdk/libc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "../../base/base.h"

/* ============================== dlopen ==================================== */

/* Calls of the program come here (the linker's --wrap=dlopen). The engine's
 * framework is softane, which is linked; frameworks whose functions are linked
 * too answer with the program itself. */
void *__real_dlopen(const char *path, int flags);
void *__wrap_dlopen(const char *path, int flags) {
    static const char *const own[] = {"/IOSurface.framework/", "/Accelerate.framework/", "/Foundation.framework/",
                                      "/CoreFoundation.framework/", "/vecLib.framework/", "libobjc", "libSystem"};
    if (path && strstr(path, "AppleNeuralEngine.framework"))
        return __real_dlopen("libsoftane.so", flags); /* found by its soname: it is loaded */
    for (size_t i = 0; path && strncmp(path, "/System/", 8) == 0 && i < sizeof own / sizeof own[0]; i++)
        if (strstr(path, own[i]))
            return __real_dlopen(NULL, flags);
    if (path && strncmp(path, "/usr/lib/lib", 12) == 0 && strstr(path, ".dylib"))
        return __real_dlopen(NULL, flags);
    return __real_dlopen(path, flags);
}

/* ============================== Time ====================================== */

uint64_t clock_gettime_nsec_np(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

kern_return_t mach_timebase_info(mach_timebase_info_t info) {
    *info = (mach_timebase_info_data_t){.numer = 1, .denom = 1};
    return KERN_SUCCESS;
}
uint64_t mach_absolute_time(void) { return clock_gettime_nsec_np(CLOCK_MONOTONIC); }
uint64_t mach_continuous_time(void) { return clock_gettime_nsec_np(CLOCK_BOOTTIME); }
uint64_t mach_approximate_time(void) { return mach_absolute_time(); }
kern_return_t mach_wait_until(uint64_t deadline) {
    struct timespec t = {.tv_sec = (time_t)(deadline / 1000000000u), .tv_nsec = (long)(deadline % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
    return KERN_SUCCESS;
}

/* ============================== The process =============================== */

mach_port_t mach_task_self(void) { return 1; }
const char *mach_error_string(kern_return_t code) { return code == KERN_SUCCESS ? "(os/kern) successful" : "(os/kern) failure"; }

/* A value in kB of a line "Name:  123 kB" in /proc/self/status; 0 = not there. */
static uint64_t status_bytes(const char *name) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, name, strlen(name)) == 0 && sscanf(line + strlen(name), ": %llu kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb * 1024;
}

kern_return_t task_info(task_name_t task, task_flavor_t flavor, task_info_t info, mach_msg_type_number_t *count) {
    if (task != mach_task_self() || flavor != MACH_TASK_BASIC_INFO || *count < MACH_TASK_BASIC_INFO_COUNT)
        return KERN_INVALID_ARGUMENT;
    struct mach_task_basic_info b = {.virtual_size = status_bytes("VmSize"), .resident_size = status_bytes("VmRSS"),
                                     .resident_size_max = status_bytes("VmHWM")};
    memcpy(info, &b, sizeof b);
    *count = MACH_TASK_BASIC_INFO_COUNT;
    return KERN_SUCCESS;
}

int _NSGetExecutablePath(char *buffer, uint32_t *size) {
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        return -1;
    if ((uint32_t)n + 1 > *size) {
        *size = (uint32_t)n + 1;
        return -1;
    }
    memcpy(buffer, path, (size_t)n);
    buffer[n] = 0;
    return 0;
}

const char *getprogname(void) { return program_invocation_short_name; }

/* ============================== sysctl ==================================== */

static void cpu_name(char *out, size_t cap) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(out, cap, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(out, cap, "%s", colon + 2);
        break;
    }
    if (f)
        fclose(f);
}

static int answer(const void *value, size_t bytes, void *old, size_t *size) {
    if (!size)
        return old ? (errno = EFAULT, -1) : 0;
    if (old && *size < bytes)
        return errno = ENOMEM, -1;
    if (old)
        memcpy(old, value, bytes);
    *size = bytes;
    return 0;
}

int sysctlbyname(const char *name, void *old, size_t *old_size, void *fresh, size_t fresh_size) {
    (void)fresh_size;
    if (fresh)
        return errno = EPERM, -1;
    struct utsname u;
    uname(&u);
    char text[256] = "";
    if (strcmp(name, "machdep.cpu.brand_string") == 0)
        cpu_name(text, sizeof text);
    else if (strcmp(name, "hw.model") == 0 || strcmp(name, "hw.machine") == 0)
        snprintf(text, sizeof text, "%s", u.machine);
    else if (strcmp(name, "kern.osrelease") == 0)
        snprintf(text, sizeof text, "%s", u.release);
    else if (strcmp(name, "kern.osversion") == 0)
        snprintf(text, sizeof text, "%s", u.sysname);
    if (text[0])
        return answer(text, strlen(text) + 1, old, old_size);
    if (strcmp(name, "hw.ncpu") == 0 || strcmp(name, "hw.logicalcpu") == 0 || strcmp(name, "hw.physicalcpu") == 0 ||
        strcmp(name, "hw.activecpu") == 0) {
        int n = (int)sysconf(_SC_NPROCESSORS_ONLN);
        return answer(&n, sizeof n, old, old_size);
    }
    uint64_t n = 0;
    if (strcmp(name, "hw.memsize") == 0)
        n = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    else if (strcmp(name, "hw.pagesize") == 0)
        n = (uint64_t)sysconf(_SC_PAGESIZE);
    else
        return errno = ENOENT, -1;
    if (old && old_size && *old_size == 4) { /* asked for as an int, which macOS allows */
        uint32_t small = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
        return answer(&small, sizeof small, old, old_size);
    }
    return answer(&n, sizeof n, old, old_size);
}

/* ============================== Strings =================================== */

/* Weak: newer C libraries have them. */
__attribute__((weak)) size_t strlcpy(char *to, const char *from, size_t size) {
    size_t n = strlen(from);
    if (size) {
        size_t take = n < size - 1 ? n : size - 1;
        memcpy(to, from, take);
        to[take] = 0;
    }
    return n;
}

__attribute__((weak)) size_t strlcat(char *to, const char *from, size_t size) {
    size_t have = strnlen(to, size);
    if (have == size)
        return size + strlen(from);
    size_t n = strlen(from), take = n < size - have - 1 ? n : size - have - 1;
    memcpy(to + have, from, take);
    to[have + take] = 0;
    return have + n;
}

/* ============================== Half precision ============================ */

/* What clang calls for __fp16 when the processor's own instructions were not
 * allowed. Halves travel as 16-bit integers. */
float __gnu_h2f_ieee(uint16_t h) { return sa_half_to_float(h); }
uint16_t __gnu_f2h_ieee(float f) { return sa_half_from_float_even(f); }

#if defined(__clang_major__) && __clang_major__ < 15 && defined(__x86_64__)
/* Double to half in one rounding: first to odd in single precision. */
uint16_t __truncdfhf2(double d) {
    float f = (float)d;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (f == f && (double)f != d && !(bits & 1)) { /* inexact: towards zero, then the last bit set */
        if ((f < 0 ? -(double)f : (double)f) > (d < 0 ? -d : d) && f != 0)
            bits--;
        bits |= 1;
        memcpy(&f, &bits, sizeof f);
    }
    return sa_half_from_float_even(f);
}
#endif
