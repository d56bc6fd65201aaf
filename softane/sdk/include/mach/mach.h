// SPDX-License-Identifier: MIT
/* mach/mach.h - how much memory this process holds, the way it is asked on macOS. */
#ifndef SOFTANE_SDK_MACH_H
#define SOFTANE_SDK_MACH_H

#include <mach/kern_return.h>
#include <mach/mach_time.h>

typedef uint32_t mach_port_t, natural_t, task_t, task_name_t, mach_msg_type_number_t, task_flavor_t;
typedef uint64_t mach_vm_size_t, mach_vm_address_t;
typedef uintptr_t vm_size_t, vm_address_t;
typedef int integer_t;
typedef integer_t *task_info_t;
typedef int policy_t;
typedef struct {
    integer_t seconds, microseconds;
} time_value_t;

struct mach_task_basic_info {
    mach_vm_size_t virtual_size, resident_size, resident_size_max;
    time_value_t user_time, system_time; /* 0 here */
    policy_t policy;
    integer_t suspend_count;
};
typedef struct mach_task_basic_info mach_task_basic_info_data_t, *mach_task_basic_info_t;

#define MACH_TASK_BASIC_INFO 20
#define MACH_TASK_BASIC_INFO_COUNT ((mach_msg_type_number_t)(sizeof(mach_task_basic_info_data_t) / sizeof(natural_t)))
#define MACH_PORT_NULL 0

#if defined(__cplusplus)
extern "C" {
#endif
kern_return_t task_info(task_name_t task, task_flavor_t flavor, task_info_t info, mach_msg_type_number_t *count);
mach_port_t mach_task_self(void);
const char *mach_error_string(kern_return_t code);
#if defined(__cplusplus)
}
#endif
#endif
