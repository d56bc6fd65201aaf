// SPDX-License-Identifier: MIT
/* memory.m - ARC: what is released when, weak references, blocks, bridging,
 * threads and GCD. Compiled with -fobjc-arc, with the class Other in other.m. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>
#include <mach/mach.h>
#include <mach/mach_time.h>
#include <os/lock.h>
#include <sys/sysctl.h>

#include "check.h"
#import "other.h"

static _Atomic int alive;

@interface Counted : Other /* the superclass comes from another module */
@property (nonatomic, weak) Counted *peer;
@property (nonatomic, strong) id held;
@end
@implementation Counted
- (instancetype)init {
    if ((self = [super init]))
        alive++;
    return self;
}
- (void)dealloc { alive--; }
@end

static void check_arc(void) {
    alive = 0;
    @autoreleasepool {
        Counted *a = [Counted new];
        Counted *b = [Counted new];
        a.held = b;
        b.peer = a;
        CHECK(alive == 2 && a.number == 11);
        a = nil;
        CHECK(alive == 1); /* b lives, its weak peer does not */
        CHECK(b.peer == nil);
        b = nil;
        CHECK(alive == 0);
    }
    @autoreleasepool {
        NSMutableArray *list = [NSMutableArray array];
        for (int i = 0; i < 100; i++)
            [list addObject:[Counted new]];
        CHECK(alive == 100);
    }
    CHECK(alive == 0);

    __weak Counted *gone;
    @autoreleasepool {
        __strong Counted *s = [Counted new];
        gone = s;
        CHECK(gone == s);
    }
    CHECK(gone == nil && alive == 0);
    @try {
        __unused Counted *c = [Counted new];
        [NSException raise:@"X" format:@"y"];
    } @catch (NSException *e) {
        CHECK([e.name isEqual:@"X"]);
    }
}

static void check_blocks(void) {
    alive = 0;
    @autoreleasepool {
        NSMutableArray *blocks = [NSMutableArray array];
        for (int i = 0; i < 3; i++) {
            Counted *c = [Counted new];
            c.number = i;
            [blocks addObject:^int { return (int)c.number; }];
        }
        CHECK(alive == 3);
        int sum = 0;
        for (int (^b)(void) in blocks)
            sum += b();
        CHECK(sum == 3);
        id block = blocks[0];
        CHECK([block isKindOfClass:[NSObject class]] && [[block copy] isEqual:block]);
    }
    CHECK(alive == 0);
    __block int counter = 0;
    void (^up)(void) = ^{ counter += 2; };
    up();
    void (^heap)(void) = [up copy];
    heap();
    CHECK(counter == 4);
    @autoreleasepool {
        __block Counted *moved = nil;
        void (^make)(void) = ^{ moved = [Counted new]; };
        make();
        CHECK(alive == 1 && moved != nil);
    }
    CHECK(alive == 0);
    __block NSUInteger seen = 0;
    [@[@3, @4] enumerateObjectsUsingBlock:^(id o, NSUInteger i, BOOL *stop) {
        seen += [o unsignedIntegerValue] * (i + 1);
    }];
    CHECK(seen == 11);
}

static void check_bridges(void) {
    alive = 0;
    @autoreleasepool {
        CFTypeRef kept = (__bridge_retained CFTypeRef)[Counted new];
        CHECK(alive == 1);
        @autoreleasepool {
            Counted *back = (__bridge Counted *)kept;
            CHECK(back.number == 11);
        }
        CHECK(alive == 1);
        @autoreleasepool {
            Counted *owned = CFBridgingRelease(kept);
            CHECK(owned != nil);
        }
        CHECK(alive == 0);
        CFTypeRef other = CFBridgingRetain([Counted new]);
        CFRetain(other);
        CFRelease(other);
        CHECK(alive == 1);
        CFRelease(other);
        CHECK(alive == 0);
        CFRelease(NULL);
    }
    NSDictionary *d = @{@"a": @1};
    CFDictionaryRef cd = (__bridge CFDictionaryRef)d;
    CHECK(CFDictionaryGetCount(cd) == 1 && CFDictionaryGetValue(cd, CFSTR("a")) == (__bridge void *)d[@"a"]);
    int five = 5, got = 0;
    CFNumberRef n = CFNumberCreate(kCFAllocatorDefault, kCFNumberIntType, &five);
    CHECK([(__bridge NSNumber *)n isEqual:@5] && CFNumberGetValue(n, kCFNumberSInt32Type, &got) && got == 5);
    CFMutableDictionaryRef m = CFDictionaryCreateMutable(NULL, 0, &kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
    CFDictionarySetValue(m, kIOSurfaceWidth, n);
    CFDictionarySetValue(m, kIOSurfaceHeight, n);
    CFDictionarySetValue(m, kIOSurfaceBytesPerElement, n);
    CFRelease(n);
    IOSurfaceRef s = IOSurfaceCreate(m);
    CHECK(s && IOSurfaceGetWidth(s) == 5 && IOSurfaceGetAllocSize(s) >= 125);
    CFRelease(m);
    CHECK(CFGetRetainCount(s) == 1);
    @autoreleasepool {
        NSArray *holder = @[(__bridge id)s];
        CHECK(holder.count == 1 && CFGetRetainCount(s) >= 2);
    }
    CHECK(CFGetRetainCount(s) == 1);
    CHECK(IOSurfaceLock(s, kIOSurfaceLockReadOnly, NULL) == kIOReturnSuccess);
    CHECK(IOSurfaceUnlock(s, kIOSurfaceLockReadOnly, NULL) == kIOReturnSuccess);
    CFRelease(s);
    CFStringRef text = CFStringCreateWithCString(NULL, "h\303\244", kCFStringEncodingUTF8);
    CHECK(CFStringGetLength(text) == 2 && CFEqual(text, CFSTR("h\303\244")));
    CFRelease(text);
    CHECK(CFBooleanGetValue(kCFBooleanTrue) && !CFBooleanGetValue(kCFBooleanFalse));
    CHECK(CFAbsoluteTimeGetCurrent() > 7e8);
}

static void check_gcd(void) {
    alive = 0;
    dispatch_queue_t q = dispatch_queue_create("test", DISPATCH_QUEUE_SERIAL);
    dispatch_group_t g = dispatch_group_create();
    __block int total = 0;
    @autoreleasepool {
        for (int i = 1; i <= 10; i++) {
            Counted *c = [Counted new];
            dispatch_group_async(g, q, ^{
                total += i * (int)c.number;
                (void)[NSString stringWithFormat:@"%d", i]; /* needs a pool */
            });
        }
    }
    CHECK(dispatch_group_wait(g, DISPATCH_TIME_FOREVER) == 0);
    dispatch_sync(q, ^{ total += 1; });
    CHECK(total == 55 * 11 + 1);
    usleep(20000); /* the last block may still be being freed */
    CHECK(alive == 0);

    __block _Atomic int applied = 0;
    dispatch_apply(50, dispatch_get_global_queue(QOS_CLASS_USER_INITIATED, 0), ^(size_t i) { applied += (int)i; });
    CHECK(applied == 1225);
    static dispatch_once_t once;
    __block int runs = 0;
    for (int i = 0; i < 3; i++)
        dispatch_once(&once, ^{ runs++; });
    CHECK(runs == 1);

    dispatch_semaphore_t sem = dispatch_semaphore_create(0);
    uint64_t start = mach_absolute_time();
    dispatch_after(dispatch_time(DISPATCH_TIME_NOW, 20 * (int64_t)NSEC_PER_MSEC), q, ^{ dispatch_semaphore_signal(sem); });
    CHECK(dispatch_semaphore_wait(sem, dispatch_time(DISPATCH_TIME_NOW, 5 * (int64_t)NSEC_PER_SEC)) == 0);
    CHECK(mach_absolute_time() - start >= 20 * NSEC_PER_MSEC);
    dispatch_group_enter(g);
    dispatch_group_notify(g, q, ^{ dispatch_semaphore_signal(sem); });
    CHECK(dispatch_semaphore_wait(sem, dispatch_time(DISPATCH_TIME_NOW, 10 * (int64_t)NSEC_PER_MSEC)) != 0);
    dispatch_group_leave(g);
    CHECK(dispatch_semaphore_wait(sem, dispatch_time(DISPATCH_TIME_NOW, 5 * (int64_t)NSEC_PER_SEC)) == 0);
    dispatch_queue_t c = dispatch_queue_create("c", DISPATCH_QUEUE_CONCURRENT);
    __block int barrier = 0;
    dispatch_async(c, ^{ usleep(2000); });
    dispatch_barrier_sync(c, ^{ barrier = 1; });
    CHECK(barrier == 1);
    __block int threaded = 0;
    [NSThread detachNewThreadWithBlock:^{
        threaded = 1;
        dispatch_semaphore_signal(sem);
    }];
    CHECK(dispatch_semaphore_wait(sem, dispatch_time(DISPATCH_TIME_NOW, 5 * (int64_t)NSEC_PER_SEC)) == 0 && threaded);
}

static void check_system(void) {
    mach_timebase_info_data_t base;
    CHECK(mach_timebase_info(&base) == KERN_SUCCESS && base.numer && base.denom);
    char brand[256];
    size_t size = sizeof brand;
    CHECK(sysctlbyname("machdep.cpu.brand_string", brand, &size, NULL, 0) == 0 && size > 1);
    int ncpu = 0;
    size = sizeof ncpu;
    CHECK(sysctlbyname("hw.ncpu", &ncpu, &size, NULL, 0) == 0 && ncpu > 0);
    uint64_t memory = 0;
    size = sizeof memory;
    CHECK(sysctlbyname("hw.memsize", &memory, &size, NULL, 0) == 0 && memory > 1 << 20);
    CHECK(sysctlbyname("no.such.name", NULL, &size, NULL, 0) == -1 && errno == ENOENT);
    struct mach_task_basic_info info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    CHECK(task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &count) == KERN_SUCCESS);
    CHECK(info.resident_size > 1 << 20);
    os_unfair_lock lock = OS_UNFAIR_LOCK_INIT;
    os_unfair_lock_lock(&lock);
    CHECK(!os_unfair_lock_trylock(&lock));
    os_unfair_lock_unlock(&lock);
    char small[4];
    CHECK(strlcpy(small, "abcdef", sizeof small) == 6 && strcmp(small, "abc") == 0);
    CHECK(NSProcessInfo.processInfo.thermalState == NSProcessInfoThermalStateNominal);
}

int main(void) {
    @autoreleasepool {
        check_arc();
        check_blocks();
        check_bridges();
        check_gcd();
        check_system();
    }
    return check_verdict();
}
