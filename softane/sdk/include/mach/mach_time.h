// SPDX-License-Identifier: MIT
/* mach/mach_time.h - a clock whose ticks are nanoseconds (factor 1/1). */
#ifndef SOFTANE_SDK_MACH_TIME_H
#define SOFTANE_SDK_MACH_TIME_H

#include <mach/kern_return.h>
#include <softane_sdk/libc.h>
#include <stdint.h>

typedef struct mach_timebase_info {
    uint32_t numer, denom;
} mach_timebase_info_data_t, *mach_timebase_info_t;

#if defined(__cplusplus)
extern "C" {
#endif
kern_return_t mach_timebase_info(mach_timebase_info_t info);
uint64_t mach_absolute_time(void);
uint64_t mach_continuous_time(void);
uint64_t mach_approximate_time(void);
kern_return_t mach_wait_until(uint64_t deadline);
#if defined(__cplusplus)
}
#endif
#endif
