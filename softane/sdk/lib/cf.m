// SPDX-License-Identifier: MIT
/* cf.m - the functions of CoreFoundation.h, on objects of Foundation. */
#import <Foundation/Foundation.h>

#include <CoreFoundation/CoreFoundation.h>

#include "sdk.h"

/* ============================== Constants ================================= */

const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;
const CFArrayCallBacks kCFTypeArrayCallBacks;
const CFAllocatorRef kCFAllocatorDefault, kCFAllocatorSystemDefault, kCFAllocatorMalloc, kCFAllocatorNull;
CFBooleanRef kCFBooleanTrue, kCFBooleanFalse;

/* Keys for surfaces that softane does not read. */
NSString *const kIOSurfaceIsGlobal = @"IOSurfaceIsGlobal";
NSString *const kIOSurfaceName = @"IOSurfaceName";
NSString *const kIOSurfaceCacheMode = @"IOSurfaceCacheMode";
NSString *const kIOSurfaceOffset = @"IOSurfaceOffset";
NSString *const kIOSurfaceElementWidth = @"IOSurfaceElementWidth";
NSString *const kIOSurfaceElementHeight = @"IOSurfaceElementHeight";
NSString *const kIOSurfacePlaneInfo = @"IOSurfacePlaneInfo";

void sdk_make_constants(void) {
    @autoreleasepool {
        kCFBooleanTrue = (CFBooleanRef)[[NSNumber numberWithBool:YES] retain];
        kCFBooleanFalse = (CFBooleanRef)[[NSNumber numberWithBool:NO] retain];
    }
}

/* ============================== Any object ================================ */

CFTypeRef CFRetain(CFTypeRef o) { return (CFTypeRef)[(id)o retain]; }
void CFRelease(CFTypeRef o) { [(id)o release]; }
CFTypeRef CFAutorelease(CFTypeRef o) {
    sdk_thread_enter();
    return (CFTypeRef)[(id)o autorelease];
}
CFIndex CFGetRetainCount(CFTypeRef o) { return (CFIndex)[(id)o retainCount]; }
Boolean CFEqual(CFTypeRef a, CFTypeRef b) { return a == b || [(id)a isEqual:(id)b]; }
CFHashCode CFHash(CFTypeRef o) { return [(id)o hash]; }
void CFShow(CFTypeRef o) { fprintf(stderr, "%s\n", o ? [[(id)o description] UTF8String] : "(null)"); }
CFStringRef CFCopyDescription(CFTypeRef o) { return (CFStringRef)[[(id)o description] copy]; }
CFAbsoluteTime CFAbsoluteTimeGetCurrent(void) { return [NSDate timeIntervalSinceReferenceDate]; }

/* ============================== Collections =============================== */

CFDictionaryRef CFDictionaryCreate(CFAllocatorRef allocator, const void **keys, const void **values, CFIndex count,
                                   const CFDictionaryKeyCallBacks *kc, const CFDictionaryValueCallBacks *vc) {
    (void)allocator, (void)kc, (void)vc;
    return (CFDictionaryRef)[[NSDictionary alloc] initWithObjects:(id *)values forKeys:(id *)keys count:(NSUInteger)count];
}

CFMutableDictionaryRef CFDictionaryCreateMutable(CFAllocatorRef allocator, CFIndex capacity,
                                                 const CFDictionaryKeyCallBacks *kc, const CFDictionaryValueCallBacks *vc) {
    (void)allocator, (void)kc, (void)vc;
    return (CFMutableDictionaryRef)[[NSMutableDictionary alloc] initWithCapacity:(NSUInteger)capacity];
}

CFIndex CFDictionaryGetCount(CFDictionaryRef d) { return (CFIndex)[(NSDictionary *)d count]; }
const void *CFDictionaryGetValue(CFDictionaryRef d, const void *key) { return [(NSDictionary *)d objectForKey:(id)key]; }
Boolean CFDictionaryContainsKey(CFDictionaryRef d, const void *key) { return CFDictionaryGetValue(d, key) != NULL; }
void CFDictionarySetValue(CFMutableDictionaryRef d, const void *key, const void *value) {
    [(NSMutableDictionary *)d setObject:(id)value forKey:(id)key];
}
void CFDictionaryAddValue(CFMutableDictionaryRef d, const void *key, const void *value) {
    if (!CFDictionaryContainsKey(d, key))
        CFDictionarySetValue(d, key, value);
}
void CFDictionaryRemoveValue(CFMutableDictionaryRef d, const void *key) { [(NSMutableDictionary *)d removeObjectForKey:(id)key]; }

CFArrayRef CFArrayCreate(CFAllocatorRef allocator, const void **values, CFIndex count, const CFArrayCallBacks *c) {
    (void)allocator, (void)c;
    return (CFArrayRef)[[NSArray alloc] initWithObjects:(id *)values count:(NSUInteger)count];
}
CFMutableArrayRef CFArrayCreateMutable(CFAllocatorRef allocator, CFIndex capacity, const CFArrayCallBacks *c) {
    (void)allocator, (void)c;
    return (CFMutableArrayRef)[[NSMutableArray alloc] initWithCapacity:(NSUInteger)capacity];
}
CFIndex CFArrayGetCount(CFArrayRef a) { return (CFIndex)[(NSArray *)a count]; }
const void *CFArrayGetValueAtIndex(CFArrayRef a, CFIndex i) { return [(NSArray *)a objectAtIndex:(NSUInteger)i]; }
void CFArrayAppendValue(CFMutableArrayRef a, const void *value) { [(NSMutableArray *)a addObject:(id)value]; }

/* ============================== Numbers =================================== */

/* One row per type: how it is read and which accessor gives it back. */
#define NUMBER_TYPES(X) \
    X(kCFNumberSInt8Type, int8_t, numberWithChar, charValue) X(kCFNumberCharType, char, numberWithChar, charValue) \
    X(kCFNumberSInt16Type, int16_t, numberWithShort, shortValue) X(kCFNumberShortType, short, numberWithShort, shortValue) \
    X(kCFNumberSInt32Type, int32_t, numberWithInt, intValue) X(kCFNumberIntType, int, numberWithInt, intValue) \
    X(kCFNumberSInt64Type, int64_t, numberWithLongLong, longLongValue) X(kCFNumberLongType, long, numberWithLong, longValue) \
    X(kCFNumberLongLongType, long long, numberWithLongLong, longLongValue) \
    X(kCFNumberCFIndexType, CFIndex, numberWithLong, longValue) X(kCFNumberNSIntegerType, NSInteger, numberWithLong, longValue) \
    X(kCFNumberFloat32Type, float, numberWithFloat, floatValue) X(kCFNumberFloatType, float, numberWithFloat, floatValue) \
    X(kCFNumberFloat64Type, double, numberWithDouble, doubleValue) X(kCFNumberDoubleType, double, numberWithDouble, doubleValue) \
    X(kCFNumberCGFloatType, double, numberWithDouble, doubleValue)

CFNumberRef CFNumberCreate(CFAllocatorRef allocator, CFNumberType type, const void *value) {
    (void)allocator;
    sdk_thread_enter();
    switch (type) {
#define MAKE(id, ctype, make, get) \
    case id: return (CFNumberRef)[[NSNumber make:*(const ctype *)value] retain];
        NUMBER_TYPES(MAKE)
    default: return NULL;
    }
}

Boolean CFNumberGetValue(CFNumberRef n, CFNumberType type, void *value) {
    switch (type) {
#define READ(id, ctype, make, get) \
    case id: *(ctype *)value = (ctype)[(NSNumber *)n get]; return n != NULL;
        NUMBER_TYPES(READ)
    default: return false;
    }
}

Boolean CFBooleanGetValue(CFBooleanRef b) { return [(NSNumber *)b boolValue]; }

/* ============================== Strings, data ============================= */

static NSStringEncoding encoding_of(CFStringEncoding e) {
    return e == kCFStringEncodingASCII ? NSASCIIStringEncoding : NSUTF8StringEncoding;
}

CFStringRef CFStringCreateWithCString(CFAllocatorRef allocator, const char *text, CFStringEncoding e) {
    (void)allocator;
    return (CFStringRef)[[NSString alloc] initWithBytes:text length:strlen(text) encoding:encoding_of(e)];
}
CFIndex CFStringGetLength(CFStringRef s) { return (CFIndex)[(NSString *)s length]; }
Boolean CFStringGetCString(CFStringRef s, char *buffer, CFIndex size, CFStringEncoding e) {
    return [(NSString *)s getCString:buffer maxLength:(NSUInteger)size encoding:encoding_of(e)];
}
const char *CFStringGetCStringPtr(CFStringRef s, CFStringEncoding e) {
    return [(NSString *)s cStringUsingEncoding:encoding_of(e)];
}

CFDataRef CFDataCreate(CFAllocatorRef allocator, const uint8_t *bytes, CFIndex length) {
    (void)allocator;
    return (CFDataRef)[[NSData alloc] initWithBytes:bytes length:(NSUInteger)length];
}
CFIndex CFDataGetLength(CFDataRef d) { return (CFIndex)[(NSData *)d length]; }
const uint8_t *CFDataGetBytePtr(CFDataRef d) { return [(NSData *)d bytes]; }
