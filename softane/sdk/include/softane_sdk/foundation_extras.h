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
#ifndef NS_NOESCAPE
#define NS_NOESCAPE __attribute__((noescape))
#endif
#ifndef NS_SWIFT_NAME
#define NS_SWIFT_NAME(name)
#endif
#ifndef NS_DESIGNATED_INITIALIZER
#define NS_DESIGNATED_INITIALIZER
#endif
#ifndef NS_UNAVAILABLE
#define NS_UNAVAILABLE __attribute__((unavailable))
#endif
#ifndef NS_REQUIRES_SUPER
#define NS_REQUIRES_SUPER
#endif
#ifndef NS_VALID_UNTIL_END_OF_SCOPE
#define NS_VALID_UNTIL_END_OF_SCOPE __attribute__((objc_precise_lifetime))
#endif
#ifndef NS_FORMAT_FUNCTION
#define NS_FORMAT_FUNCTION(f, a)
#endif
#ifndef NS_FORMAT_ARGUMENT
#define NS_FORMAT_ARGUMENT(a)
#endif
#ifndef NS_RETURNS_RETAINED
#define NS_RETURNS_RETAINED __attribute__((ns_returns_retained))
#define NS_RETURNS_NOT_RETAINED __attribute__((ns_returns_not_retained))
#endif
#ifndef NS_CLOSED_ENUM
#define NS_CLOSED_ENUM(type, name) NS_ENUM(type, name)
#endif
#ifndef NS_STRING_ENUM
#define NS_STRING_ENUM
#define NS_TYPED_ENUM
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
