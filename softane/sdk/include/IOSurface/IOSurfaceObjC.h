// SPDX-License-Identifier: MIT
/* IOSurface/IOSurfaceObjC.h - class IOSurface, as far as softane has it. */
#ifndef SOFTANE_SDK_IOSURFACEOBJC_H
#define SOFTANE_SDK_IOSURFACEOBJC_H

#include <IOSurface/IOSurfaceRef.h>
#import <Foundation/NSDictionary.h>
#import <Foundation/NSObject.h>

@interface IOSurface : NSObject
- (instancetype)initWithProperties:(NSDictionary *)properties;
- (void *)baseAddress;
- (NSInteger)allocationSize;
- (IOSurfaceID)surfaceID;
@end

#endif
