// SPDX-License-Identifier: MIT
/* CoreFoundation/CoreFoundation.h - the part of CoreFoundation that programs
 * for the engine use. Every reference is an object of Foundation ("toll-free"
 * in both directions); the functions are in lib/cf.m. */
#ifndef SOFTANE_SDK_COREFOUNDATION_H
#define SOFTANE_SDK_COREFOUNDATION_H

#include <TargetConditionals.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
#define CF_EXPORT extern "C"
#else
#define CF_EXPORT extern
#endif

/* Ownership and nullability, as the public headers annotate them; the analyzer and ARC read the first two. */
#if __has_attribute(cf_returns_retained)
#define CF_RETURNS_RETAINED __attribute__((cf_returns_retained))
#define CF_RETURNS_NOT_RETAINED __attribute__((cf_returns_not_retained))
#define CF_CONSUMED __attribute__((cf_consumed))
#else
#define CF_RETURNS_RETAINED
#define CF_RETURNS_NOT_RETAINED
#define CF_CONSUMED
#endif
#define CF_ASSUME_NONNULL_BEGIN
#define CF_ASSUME_NONNULL_END
#define CF_IMPLICIT_BRIDGING_ENABLED
#define CF_IMPLICIT_BRIDGING_DISABLED
#define CF_INLINE static inline
#define CF_ENUM(type, name) enum name : type name; enum name : type
#define CF_OPTIONS(type, name) enum name : type name; enum name : type

/* ============================== Types ===================================== */

#if __has_attribute(objc_bridge) && defined(__OBJC__)
#define SDK_BRIDGED(class) __attribute__((objc_bridge(class)))
#define SDK_BRIDGED_MUTABLE(class) __attribute__((objc_bridge_mutable(class)))
#else
#define SDK_BRIDGED(class)
#define SDK_BRIDGED_MUTABLE(class)
#endif

typedef const void *CFTypeRef;
typedef const struct SDK_BRIDGED(NSString) __CFString *CFStringRef;
typedef struct SDK_BRIDGED_MUTABLE(NSMutableString) __CFString *CFMutableStringRef;
typedef const struct SDK_BRIDGED(NSDictionary) __CFDictionary *CFDictionaryRef;
typedef struct SDK_BRIDGED_MUTABLE(NSMutableDictionary) __CFDictionary *CFMutableDictionaryRef;
typedef const struct SDK_BRIDGED(NSArray) __CFArray *CFArrayRef;
typedef struct SDK_BRIDGED_MUTABLE(NSMutableArray) __CFArray *CFMutableArrayRef;
typedef const struct SDK_BRIDGED(NSNumber) __CFNumber *CFNumberRef;
typedef const struct SDK_BRIDGED(NSNumber) __CFBoolean *CFBooleanRef;
typedef const struct SDK_BRIDGED(NSData) __CFData *CFDataRef;
typedef struct SDK_BRIDGED_MUTABLE(NSMutableData) __CFData *CFMutableDataRef;
typedef const struct SDK_BRIDGED(NSURL) __CFURL *CFURLRef;
typedef struct SDK_BRIDGED(NSError) __CFError *CFErrorRef;
typedef const struct __CFAllocator *CFAllocatorRef;
#undef SDK_BRIDGED
#undef SDK_BRIDGED_MUTABLE

typedef long CFIndex;
typedef unsigned long CFTypeID, CFOptionFlags, CFHashCode;
typedef unsigned char Boolean;
typedef double CFTimeInterval, CFAbsoluteTime;
typedef uint32_t CFStringEncoding;
typedef CFIndex CFNumberType;
typedef struct {
    CFIndex location, length;
} CFRange;
static inline CFRange CFRangeMake(CFIndex location, CFIndex length) { return (CFRange){location, length}; }

#ifndef TRUE
#define TRUE 1
#define FALSE 0
#endif

enum {
    kCFNumberSInt8Type = 1, kCFNumberSInt16Type, kCFNumberSInt32Type, kCFNumberSInt64Type, kCFNumberFloat32Type,
    kCFNumberFloat64Type, kCFNumberCharType, kCFNumberShortType, kCFNumberIntType, kCFNumberLongType,
    kCFNumberLongLongType, kCFNumberFloatType, kCFNumberDoubleType, kCFNumberCFIndexType, kCFNumberNSIntegerType,
    kCFNumberCGFloatType
};
enum { kCFStringEncodingASCII = 0x0600, kCFStringEncodingUTF8 = 0x08000100 };

/* Only their addresses count: what a collection holds is always an object. */
typedef struct {
    CFIndex version;
} CFDictionaryKeyCallBacks, CFDictionaryValueCallBacks, CFArrayCallBacks;
CF_EXPORT const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
CF_EXPORT const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;
CF_EXPORT const CFArrayCallBacks kCFTypeArrayCallBacks;

CF_EXPORT const CFAllocatorRef kCFAllocatorDefault, kCFAllocatorSystemDefault, kCFAllocatorMalloc, kCFAllocatorNull;
CF_EXPORT CFBooleanRef kCFBooleanTrue, kCFBooleanFalse; /* set before main */

/* ============================== Any object ================================ */

/* CFRetain and CFRelease of NULL do nothing here (a crash on macOS). */
CF_EXPORT CFTypeRef CFRetain(CFTypeRef object);
CF_EXPORT void CFRelease(CFTypeRef object);
CF_EXPORT CFTypeRef CFAutorelease(CFTypeRef object);
CF_EXPORT CFIndex CFGetRetainCount(CFTypeRef object);
CF_EXPORT Boolean CFEqual(CFTypeRef a, CFTypeRef b);
CF_EXPORT CFHashCode CFHash(CFTypeRef object);
CF_EXPORT void CFShow(CFTypeRef object); /* to stderr */
CF_EXPORT CFStringRef CFCopyDescription(CFTypeRef object);
CF_EXPORT CFAbsoluteTime CFAbsoluteTimeGetCurrent(void);

#if defined(__OBJC__)
#if __has_feature(objc_arc)
#define CFSTR(text) ((__bridge CFStringRef)(@"" text ""))
static inline CFTypeRef CFBridgingRetain(id object) { return (__bridge_retained CFTypeRef)object; }
static inline id CFBridgingRelease(CFTypeRef object) { return (__bridge_transfer id)object; }
#else
#define CFSTR(text) ((CFStringRef)(@"" text ""))
static inline CFTypeRef CFBridgingRetain(id object) { return CFRetain((CFTypeRef)object); }
static inline id CFBridgingRelease(CFTypeRef object) { return (id)CFAutorelease(object); }
#endif
#endif

/* ============================== Dictionaries, arrays ====================== */

CF_EXPORT CFDictionaryRef CFDictionaryCreate(CFAllocatorRef allocator, const void **keys, const void **values, CFIndex count,
                                             const CFDictionaryKeyCallBacks *kc, const CFDictionaryValueCallBacks *vc);
CF_EXPORT CFMutableDictionaryRef CFDictionaryCreateMutable(CFAllocatorRef allocator, CFIndex capacity,
                                                           const CFDictionaryKeyCallBacks *kc,
                                                           const CFDictionaryValueCallBacks *vc);
CF_EXPORT CFIndex CFDictionaryGetCount(CFDictionaryRef d);
CF_EXPORT const void *CFDictionaryGetValue(CFDictionaryRef d, const void *key);
CF_EXPORT Boolean CFDictionaryContainsKey(CFDictionaryRef d, const void *key);
CF_EXPORT void CFDictionarySetValue(CFMutableDictionaryRef d, const void *key, const void *value);
CF_EXPORT void CFDictionaryAddValue(CFMutableDictionaryRef d, const void *key, const void *value);
CF_EXPORT void CFDictionaryRemoveValue(CFMutableDictionaryRef d, const void *key);

CF_EXPORT CFArrayRef CFArrayCreate(CFAllocatorRef allocator, const void **values, CFIndex count, const CFArrayCallBacks *c);
CF_EXPORT CFMutableArrayRef CFArrayCreateMutable(CFAllocatorRef allocator, CFIndex capacity, const CFArrayCallBacks *c);
CF_EXPORT CFIndex CFArrayGetCount(CFArrayRef a);
CF_EXPORT const void *CFArrayGetValueAtIndex(CFArrayRef a, CFIndex i);
CF_EXPORT void CFArrayAppendValue(CFMutableArrayRef a, const void *value);

/* ============================== Numbers, strings, data ==================== */

CF_EXPORT CFNumberRef CFNumberCreate(CFAllocatorRef allocator, CFNumberType type, const void *value); /* NULL: unknown type */
CF_EXPORT Boolean CFNumberGetValue(CFNumberRef n, CFNumberType type, void *value);
CF_EXPORT Boolean CFBooleanGetValue(CFBooleanRef b);

CF_EXPORT CFStringRef CFStringCreateWithCString(CFAllocatorRef allocator, const char *text, CFStringEncoding encoding);
CF_EXPORT CFIndex CFStringGetLength(CFStringRef s);
CF_EXPORT Boolean CFStringGetCString(CFStringRef s, char *buffer, CFIndex size, CFStringEncoding encoding);
CF_EXPORT const char *CFStringGetCStringPtr(CFStringRef s, CFStringEncoding encoding);

CF_EXPORT CFDataRef CFDataCreate(CFAllocatorRef allocator, const uint8_t *bytes, CFIndex length);
CF_EXPORT CFIndex CFDataGetLength(CFDataRef d);
CF_EXPORT const uint8_t *CFDataGetBytePtr(CFDataRef d);

#endif
