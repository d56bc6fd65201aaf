// SPDX-License-Identifier: MIT
/* TargetConditionals.h - a Mac as far as conditions on the target go. __APPLE__ is not defined. */
#ifndef SOFTANE_SDK_TARGETCONDITIONALS_H
#define SOFTANE_SDK_TARGETCONDITIONALS_H
#define TARGET_OS_MAC 1
#define TARGET_OS_OSX 1
#define TARGET_OS_IPHONE 0
#define TARGET_OS_IOS 0
#define TARGET_OS_SIMULATOR 0
#define TARGET_OS_WATCH 0
#define TARGET_OS_TV 0
#if defined(__aarch64__)
#define TARGET_CPU_ARM64 1
#define TARGET_CPU_X86_64 0
#else
#define TARGET_CPU_ARM64 0
#define TARGET_CPU_X86_64 1
#endif
#endif
