// SPDX-License-Identifier: MIT
/* other.h - a class that lives in a module of its own. */
#import <Foundation/Foundation.h>

@interface Other : NSObject
@property (nonatomic) long number;
@end
