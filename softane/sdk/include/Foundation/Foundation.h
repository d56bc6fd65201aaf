// SPDX-License-Identifier: MIT
/* Foundation/Foundation.h - GNUstep's Foundation, and what programs for macOS
 * get beside it from the same line: CoreFoundation, GCD, the C library. */
#ifndef SOFTANE_SDK_FOUNDATION_H
#define SOFTANE_SDK_FOUNDATION_H

#include <TargetConditionals.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include_next <Foundation/Foundation.h>

#include <CoreFoundation/CoreFoundation.h>
#include <dispatch/dispatch.h>
#include <objc/message.h>
#include <objc/runtime.h>
#include <softane_sdk/libc.h>
#import <softane_sdk/foundation_extras.h>

#endif
