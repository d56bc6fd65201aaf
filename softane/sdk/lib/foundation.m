// SPDX-License-Identifier: MIT
/* foundation.m - methods that GNUstep's Foundation lacks; see
 * include/softane_sdk/foundation_extras.h. */
#import <Foundation/Foundation.h>

#include "sdk.h"

@implementation NSProcessInfo (SoftaneExtras)
- (SoftaneThermalState)thermalState { return NSProcessInfoThermalStateNominal; }
- (BOOL)isLowPowerModeEnabled { return NO; }
@end

/* What a thread made with a block runs. */
@interface SoftaneBlockRunner : NSObject {
@public
    void (^_block)(void);
}
- (void)run;
@end

@implementation SoftaneBlockRunner
- (void)run {
    @autoreleasepool {
        _block();
    }
}
- (void)dealloc {
    Block_release(_block);
    [super dealloc];
}
@end

static SoftaneBlockRunner *runner(void (^block)(void)) {
    SoftaneBlockRunner *r = [[SoftaneBlockRunner new] autorelease];
    r->_block = Block_copy(block);
    return r;
}

@implementation NSThread (SoftaneExtras)
+ (void)detachNewThreadWithBlock:(void (^)(void))block {
    [NSThread detachNewThreadSelector:@selector(run) toTarget:runner(block) withObject:nil];
}
- (instancetype)initWithBlock:(void (^)(void))block {
    return [self initWithTarget:runner(block) selector:@selector(run) object:nil];
}
@end

@implementation NSString (SoftaneExtras)
- (BOOL)localizedStandardContainsString:(NSString *)other {
    NSUInteger options = NSCaseInsensitiveSearch;
    return [self rangeOfString:other options:options].location != NSNotFound;
}
@end
