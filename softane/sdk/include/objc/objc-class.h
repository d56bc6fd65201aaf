// SPDX-License-Identifier: MIT
/* objc/objc-class.h - the old name of runtime.h and message.h. */
#include <objc/runtime.h>
#include <objc/message.h>
