// SPDX-License-Identifier: MIT
/* messages.m - objc_msgSend with many signatures, and what ARC programs use:
 * compiled by softane-cc, with and without -fobjc-arc. One line per check that
 * fails, a verdict at the end. */
#import <Foundation/Foundation.h>
#import <objc/message.h>
#import <objc/runtime.h>
#include <dlfcn.h>
#include <stdarg.h>

#include "check.h"

typedef struct {
    double x, y, z, w;
} Large; /* returned in memory */
typedef struct {
    float a, b;
} Small; /* returned in a register */

@interface Target : NSObject {
    double _seed;
}
@property (nonatomic, copy) NSString *name;
@property (assign) int tally;
- (int)add:(int)a to:(int)b;
- (float)floats:(float)a :(float)b :(float)c;
- (double)eight:(double)a :(double)b :(double)c :(double)d :(double)e :(double)f :(double)g :(double)h :(double)i;
- (long)many:(long)a :(long)b :(long)c :(long)d :(long)e :(long)f :(long)g :(long)h;
- (double)mixed:(int)a :(double)b :(long)c :(float)d :(id)e :(double)f :(char)g :(double *)h :(short)i :(float)j;
- (Large)large:(double)a;
- (Small)small:(float)a;
- (long double)wide:(long double)a;
- (int)sum:(int)count, ...;
- (BOOL)fill:(NSError **)error;
- (void)throwIt;
+ (int)twice:(int)a;
@end

@implementation Target
- (instancetype)init {
    if ((self = [super init]))
        _seed = 0.5;
    return self;
}
- (int)add:(int)a to:(int)b { return a + b; }
- (float)floats:(float)a :(float)b :(float)c { return a * 100 + b * 10 + c; }
- (double)eight:(double)a :(double)b :(double)c :(double)d :(double)e :(double)f :(double)g :(double)h :(double)i {
    return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i + _seed;
}
- (long)many:(long)a :(long)b :(long)c :(long)d :(long)e :(long)f :(long)g :(long)h {
    return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f + 1000000 * g + 10000000 * h;
}
- (double)mixed:(int)a :(double)b :(long)c :(float)d :(id)e :(double)f :(char)g :(double *)h :(short)i :(float)j {
    return a + b + (double)c + d + [e doubleValue] + f + g + *h + i + j;
}
- (Large)large:(double)a { return (Large){a, a + 1, a + 2, a + 3}; }
- (Small)small:(float)a { return (Small){a, -a}; }
- (long double)wide:(long double)a { return a * 2; }
- (int)sum:(int)count, ... {
    va_list l;
    va_start(l, count);
    double s = 0;
    for (int i = 0; i < count; i++)
        s += va_arg(l, double);
    va_end(l);
    return (int)s;
}
- (BOOL)fill:(NSError **)error {
    if (error)
        *error = [NSError errorWithDomain:@"test" code:7 userInfo:@{NSLocalizedDescriptionKey: @"seven"}];
    return NO;
}
- (void)throwIt { [NSException raise:@"Thrown" format:@"from here"]; }
+ (int)twice:(int)a { return 2 * a; }
@end

@interface Derived : Target {
    int _own;
}
@end
@implementation Derived
- (instancetype)init {
    if ((self = [super init]))
        _own = 77;
    return self;
}
- (int)add:(int)a to:(int)b { return [super add:a to:b] + _own; }
@end

static void check_signatures(void) {
    Target *t = [Target new];
    CHECK(((int (*)(id, SEL, int, int))objc_msgSend)(t, @selector(add:to:), 40, 2) == 42);
    CHECK(((float (*)(id, SEL, float, float, float))objc_msgSend)(t, @selector(floats:::), 1, 2, 3) == 123);
    CHECK(((double (*)(id, SEL, double, double, double, double, double, double, double, double, double))objc_msgSend)(
              t, @selector(eight:::::::::), 1, 1, 1, 1, 1, 1, 1, 1, 2) == 54.5);
    CHECK(((long (*)(id, SEL, long, long, long, long, long, long, long, long))objc_msgSend)(
              t, @selector(many::::::::), 1, 2, 3, 4, 5, 6, 7, 8) == 87654321);
    double h = 128;
    CHECK(((double (*)(id, SEL, int, double, long, float, id, double, char, double *, short, float))objc_msgSend)(
              t, @selector(mixed::::::::::), 1, 2, 4, 8, @16, 32, 64, &h, 256, 512) == 1023);
    CHECK(((int (*)(id, SEL, int, ...))objc_msgSend)(t, @selector(sum:), 3, 1.0, 2.0, 4.0) == 7);
    CHECK(((int (*)(Class, SEL, int))objc_msgSend)([Target class], @selector(twice:), 21) == 42);
    CHECK(((int (*)(Class, SEL, int))objc_msgSend)(objc_getClass("Target"), sel_registerName("twice:"), 21) == 42);
#if defined(__x86_64__)
    Large l = ((Large (*)(id, SEL, double))objc_msgSend_stret)(t, @selector(large:), 1.5);
    long double wide = ((long double (*)(id, SEL, long double))objc_msgSend_fpret)(t, @selector(wide:), 1.25L);
    CHECK(wide == 2.5L);
#else
    Large l = ((Large (*)(id, SEL, double))objc_msgSend)(t, @selector(large:), 1.5);
#endif
    CHECK(l.x == 1.5 && l.y == 2.5 && l.z == 3.5 && l.w == 4.5);
    Small s = ((Small (*)(id, SEL, float))objc_msgSend)(t, @selector(small:), 3);
    CHECK(s.a == 3 && s.b == -3);
    Large direct = [t large:2];
    CHECK(direct.w == 5);
    CHECK([t wide:4] == 8);

    Derived *d = [Derived new];
    CHECK([d add:1 to:2] == 80);
    struct objc_super up = {d, [Target class]};
    CHECK(((int (*)(struct objc_super *, SEL, int, int))objc_msgSendSuper)(&up, @selector(add:to:), 1, 2) == 3);
    CHECK(class_getInstanceSize([Derived class]) >= class_getInstanceSize([Target class]) + sizeof(int));
}

static void check_nil(void) {
    id none = nil;
    CHECK(((int (*)(id, SEL, int, int))objc_msgSend)(none, @selector(add:to:), 40, 2) == 0);
    CHECK(((id (*)(id, SEL))objc_msgSend)(none, @selector(name)) == nil);
    CHECK(((float (*)(id, SEL, float, float, float))objc_msgSend)(none, @selector(floats:::), 1, 2, 3) == 0);
    Small s = ((Small (*)(id, SEL, float))objc_msgSend)(none, @selector(small:), 3);
    CHECK(s.a == 0 && s.b == 0);
    Target *t = nil;
    CHECK([t add:1 to:2] == 0 && [t floats:1 :2 :3] == 0 && t.name == nil);
    CHECK([t large:1].z == 0);
#if defined(__x86_64__)
    CHECK(((long double (*)(id, SEL, long double))objc_msgSend_fpret)(none, @selector(wide:), 1) == 0);
#endif
}

static void check_errors_and_exceptions(void) {
    Target *t = [Target new];
    NSError *error = nil;
    BOOL ok = ((BOOL (*)(id, SEL, NSError **))objc_msgSend)(t, @selector(fill:), &error);
    CHECK(!ok && error.code == 7 && [error.localizedDescription isEqualToString:@"seven"]);
    BOOL caught = NO, finally = NO;
    @try {
        ((void (*)(id, SEL))objc_msgSend)(t, @selector(throwIt));
    } @catch (NSException *e) {
        caught = [e.name isEqualToString:@"Thrown"];
    } @finally {
        finally = YES;
    }
    CHECK(caught && finally);
    caught = NO;
    @try {
        ((void (*)(id, SEL))objc_msgSend)(t, sel_registerName("noSuchMethodHere"));
    } @catch (NSException *e) {
        caught = YES;
    }
    CHECK(caught);
    @synchronized(t) {
        CHECK(t != nil);
    }
}

static void check_language(void) {
    NSMutableDictionary *d = [NSMutableDictionary dictionary];
    d[@"k"] = @(1.5f);
    d[@"list"] = @[@1, @"two", @YES, @(3 > 2)];
    CHECK([d[@"k"] floatValue] == 1.5f && [d[@"list"][1] isEqualToString:@"two"] && [d[@"list"] count] == 4);
    NSMutableArray *a = [@[@1, @2] mutableCopy];
    a[1] = @5;
    int sum = 0;
    for (NSNumber *n in a)
        sum += n.intValue;
    CHECK(sum == 6);
    Target *t = [Target new];
    t.name = @"n";
    t.tally = 3;
    t.tally++;
    CHECK([t.name isEqual:@"n"] && t.tally == 4 && [[t valueForKey:@"tally"] intValue] == 4);
    int reached = 0;
    if (@available(macOS 12.0, *))
        reached = 1;
    CHECK(reached);
    CHECK([t respondsToSelector:@selector(add:to:)] && [t respondsToSelector:@selector(setTally:)]);
    CHECK([NSStringFromSelector(@selector(add:to:)) isEqualToString:@"add:to:"]);
    CHECK(strcmp(class_getName([Derived class]), "Derived") == 0);
    unsigned n = 0;
    Method *list = class_copyMethodList([Target class], &n);
    int found = 0;
    for (unsigned i = 0; i < n; i++)
        found |= strcmp(sel_getName(method_getName(list[i])), "add:to:") == 0;
    free(list);
    CHECK(found && n >= 12);
    Ivar *ivars = class_copyIvarList([Derived class], &n);
    CHECK(n == 1 && strcmp(ivar_getName(ivars[0]), "_own") == 0);
    free(ivars);
    CHECK(class_getSuperclass([Derived class]) == [Target class]);
}

static void check_runtime(void) {
    static char key;
    id box = [Target new];
    objc_setAssociatedObject(box, &key, @"value", OBJC_ASSOCIATION_RETAIN_NONATOMIC);
    CHECK([objc_getAssociatedObject(box, &key) isEqual:@"value"]);
    objc_setAssociatedObject(box, &key, nil, OBJC_ASSOCIATION_RETAIN_NONATOMIC);
    CHECK(objc_getAssociatedObject(box, &key) == nil);
    CHECK(object_isClass([Target class]) && !object_isClass(box) && object_getClass(box) == [Target class]);
    unsigned n = 0;
    Class *all = objc_copyClassList(&n);
    CHECK(all && n > 50);
    free(all);
    CHECK(objc_getClass("NoSuchClassAnywhere") == Nil);

    static const char path[] = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine";
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(handle && dlsym(handle, "IOSurfaceCreate") && !dlsym(handle, "noSuchFunction"));
    CHECK(NSClassFromString(@"_ANEInMemoryModel") && objc_getClass("_ANEClient"));
    CHECK(dlopen("/System/Library/PrivateFrameworks/Espresso.framework/Espresso", RTLD_NOW) == NULL && dlerror());
    NSBundle *bundle = [NSBundle bundleWithPath:@"/System/Library/PrivateFrameworks/AppleNeuralEngine.framework"];
    CHECK([bundle load] && [bundle classNamed:@"_ANERequest"] && [bundle isLoaded]);
    CHECK([NSBundle bundleWithPath:@"/System/Library/Frameworks/None.framework"] == nil);
    CHECK([[NSBundle bundleWithPath:@"/tmp"] bundlePath] != nil);
}

int main(void) {
    @autoreleasepool {
        check_signatures();
        check_nil();
        check_errors_and_exceptions();
        check_language();
        check_runtime();
    }
    return check_verdict();
}
