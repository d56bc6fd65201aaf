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

/* ============================== Frameworks ================================ */

/* What [NSBundle bundleWithPath:] gives for a framework of macOS that is
 * linked here: loading it succeeds, classes are found by name. */
@interface SoftaneFramework : NSObject {
@public
    NSString *_path;
}
@end

@implementation SoftaneFramework
- (void)dealloc {
    [_path release];
    [super dealloc];
}
- (BOOL)load { return YES; }
- (BOOL)loadAndReturnError:(NSError **)error {
    (void)error;
    return YES;
}
- (BOOL)isLoaded { return YES; }
- (BOOL)unload { return NO; }
- (NSString *)bundlePath { return _path; }
- (NSString *)bundleIdentifier {
    NSString *name = [[_path lastPathComponent] stringByDeletingPathExtension];
    return [@"com.apple." stringByAppendingString:name];
}
- (Class)classNamed:(NSString *)name { return NSClassFromString(name); }
- (Class)principalClass { return Nil; }
@end

@implementation NSBundle (SoftaneExtras)
+ (NSBundle *)softane_bundleWithPath:(NSString *)path {
    static NSString *const own[] = {@"AppleNeuralEngine.framework", @"IOSurface.framework", @"Accelerate.framework"};
    for (size_t i = 0; [path hasPrefix:@"/System/Library/"] && i < sizeof own / sizeof own[0]; i++)
        if ([path rangeOfString:own[i]].location != NSNotFound) {
            SoftaneFramework *f = [[SoftaneFramework new] autorelease];
            f->_path = [path copy];
            return (NSBundle *)(id)f;
        }
    return [self softane_bundleWithPath:path]; /* the one of Foundation: they were exchanged */
}
@end

void sdk_watch_bundles(void) {
    Method plain = class_getClassMethod([NSBundle class], @selector(bundleWithPath:));
    Method own = class_getClassMethod([NSBundle class], @selector(softane_bundleWithPath:));
    method_exchangeImplementations(plain, own);
}
