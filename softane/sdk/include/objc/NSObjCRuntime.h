// SPDX-License-Identifier: MIT
/* objc/NSObjCRuntime.h - NSInteger and friends, which GNUstep declares. */
#import <Foundation/NSObjCRuntime.h>
