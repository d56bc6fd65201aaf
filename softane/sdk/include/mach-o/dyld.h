// SPDX-License-Identifier: MIT
/* mach-o/dyld.h - where this program lies. */
#ifndef SOFTANE_SDK_DYLD_H
#define SOFTANE_SDK_DYLD_H
#include <stdint.h>
#if defined(__cplusplus)
extern "C"
#endif
int _NSGetExecutablePath(char *buffer, uint32_t *size); /* 0, or -1 and the size it needs */
#endif
