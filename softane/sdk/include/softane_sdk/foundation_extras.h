// SPDX-License-Identifier: MIT
/* foundation_extras.h - methods of Apple's Foundation that GNUstep 1.28 lacks
 * and small programs use. Implemented in lib/foundation.m. */
#ifndef SOFTANE_SDK_FOUNDATION_EXTRAS_H
#define SOFTANE_SDK_FOUNDATION_EXTRAS_H

#import <Foundation/NSArray.h>
#import <Foundation/NSData.h>
#import <Foundation/NSDictionary.h>
#import <Foundation/NSError.h>
#import <Foundation/NSProcessInfo.h>
#import <Foundation/NSString.h>
#import <Foundation/NSThread.h>
#import <Foundation/NSURL.h>

#ifndef NS_ASSUME_NONNULL_BEGIN
#define NS_ASSUME_NONNULL_BEGIN
#define NS_ASSUME_NONNULL_END
#endif
#ifndef NS_RETURNS_INNER_POINTER
#define NS_RETURNS_INNER_POINTER
#endif

typedef NSInteger SoftaneThermalState;
enum { NSProcessInfoThermalStateNominal, NSProcessInfoThermalStateFair, NSProcessInfoThermalStateSerious, NSProcessInfoThermalStateCritical };

@interface NSProcessInfo (SoftaneExtras)
- (SoftaneThermalState)thermalState; /* always nominal */
- (BOOL)isLowPowerModeEnabled;       /* always NO */
@end

@interface NSThread (SoftaneExtras)
+ (void)detachNewThreadWithBlock:(void (^)(void))block;
- (instancetype)initWithBlock:(void (^)(void))block;
@end

@interface NSString (SoftaneExtras)
- (BOOL)localizedStandardContainsString:(NSString *)other;
@end

#endif
