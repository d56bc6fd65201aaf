// SPDX-License-Identifier: MIT
/* mach/kern_return.h - the type of most results, and success. */
#ifndef SOFTANE_SDK_KERN_RETURN_H
#define SOFTANE_SDK_KERN_RETURN_H
typedef int kern_return_t;
#define KERN_SUCCESS 0
#define KERN_FAILURE 5
#define KERN_INVALID_ARGUMENT 4
#endif
