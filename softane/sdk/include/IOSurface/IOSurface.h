// SPDX-License-Identifier: MIT
/* IOSurface/IOSurface.h - the C functions, and the class for Objective-C. */
#ifndef SOFTANE_SDK_IOSURFACE_H
#define SOFTANE_SDK_IOSURFACE_H

#include <IOSurface/IOSurfaceRef.h>
#if defined(__OBJC__)
#import <IOSurface/IOSurfaceObjC.h>
#endif

#endif
