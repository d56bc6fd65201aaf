// SPDX-License-Identifier: MIT
/* Foundation.h - as much of Foundation as the core uses, declared anew.
 *
 * Only for tools/check_macos.py, which compiles the core for macOS on machines
 * without Apple's headers. Written from the documented methods' signatures; it is
 * never on the include path of a real build, and nothing is linked against it.
 * The runtime headers (objc/, dispatch/) are the cross compiler's own. */
#ifndef ANE_NATIVE_STUB_FOUNDATION_H
#define ANE_NATIVE_STUB_FOUNDATION_H

#include <objc/NSObject.h>
#include <objc/objc.h>
#include <objc/runtime.h>

#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define NSIntegerMax LONG_MAX
#define NSUIntegerMax ULONG_MAX
#define NSNotFound NSIntegerMax

@class NSArray, NSData, NSDictionary, NSError, NSNumber, NSString;

typedef NSUInteger NSStringEncoding;
enum { NSUTF8StringEncoding = 4 };

typedef struct {
    unsigned long state;
    id __unsafe_unretained *itemsPtr;
    unsigned long *mutationsPtr;
    unsigned long extra[5];
} NSFastEnumerationState;

@protocol NSFastEnumeration
- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(id __unsafe_unretained [])buffer
                                    count:(NSUInteger)length;
@end

@protocol NSCopying
- (id)copyWithZone:(struct _NSZone *)zone;
@end

/* ============================== Strings and data ========================== */

@interface NSString : NSObject <NSCopying>
+ (instancetype)string;
+ (instancetype)stringWithUTF8String:(const char *)text;
+ (instancetype)stringWithString:(NSString *)text;
+ (instancetype)stringWithFormat:(NSString *)format, ... __attribute__((format(__NSString__, 1, 2)));
- (instancetype)initWithUTF8String:(const char *)text;
- (instancetype)initWithBytes:(const void *)bytes length:(NSUInteger)length encoding:(NSStringEncoding)encoding;
- (NSUInteger)length;
- (const char *)UTF8String;
- (const char *)fileSystemRepresentation;
- (BOOL)isEqualToString:(NSString *)other;
- (BOOL)hasPrefix:(NSString *)prefix;
- (BOOL)hasSuffix:(NSString *)suffix;
- (NSString *)stringByAppendingString:(NSString *)tail;
- (NSString *)stringByAppendingPathComponent:(NSString *)name;
- (NSData *)dataUsingEncoding:(NSStringEncoding)encoding;
@end

@interface NSConstantString : NSString
@end

@interface NSData : NSObject <NSCopying>
+ (instancetype)data;
+ (instancetype)dataWithBytes:(const void *)bytes length:(NSUInteger)length;
+ (instancetype)dataWithBytesNoCopy:(void *)bytes length:(NSUInteger)length;
+ (instancetype)dataWithBytesNoCopy:(void *)bytes length:(NSUInteger)length freeWhenDone:(BOOL)free_it;
- (instancetype)initWithBytes:(const void *)bytes length:(NSUInteger)length;
- (instancetype)initWithBytesNoCopy:(void *)bytes length:(NSUInteger)length freeWhenDone:(BOOL)free_it;
- (NSUInteger)length;
- (const void *)bytes;
- (BOOL)isEqualToData:(NSData *)other;
- (BOOL)writeToFile:(NSString *)path atomically:(BOOL)atomically;
@end

@interface NSMutableData : NSData
+ (instancetype)dataWithLength:(NSUInteger)length;
+ (instancetype)dataWithCapacity:(NSUInteger)capacity;
- (instancetype)initWithLength:(NSUInteger)length;
- (void *)mutableBytes;
- (void)setLength:(NSUInteger)length;
- (void)appendBytes:(const void *)bytes length:(NSUInteger)length;
@end

@interface NSNumber : NSObject <NSCopying>
+ (NSNumber *)numberWithBool:(BOOL)value;
+ (NSNumber *)numberWithInt:(int)value;
+ (NSNumber *)numberWithUnsignedInt:(unsigned int)value;
+ (NSNumber *)numberWithInteger:(NSInteger)value;
+ (NSNumber *)numberWithUnsignedInteger:(NSUInteger)value;
+ (NSNumber *)numberWithLong:(long)value;
+ (NSNumber *)numberWithLongLong:(long long)value;
+ (NSNumber *)numberWithUnsignedLongLong:(unsigned long long)value;
+ (NSNumber *)numberWithDouble:(double)value;
- (BOOL)boolValue;
- (int)intValue;
- (unsigned int)unsignedIntValue;
- (NSInteger)integerValue;
- (NSUInteger)unsignedIntegerValue;
- (long long)longLongValue;
- (unsigned long long)unsignedLongLongValue;
- (double)doubleValue;
@end

/* ============================== Collections =============================== */

@interface NSArray : NSObject <NSCopying, NSFastEnumeration>
+ (instancetype)array;
+ (instancetype)arrayWithObject:(id)object;
+ (instancetype)arrayWithObjects:(const id [])objects count:(NSUInteger)count;
- (NSUInteger)count;
- (id)objectAtIndex:(NSUInteger)index;
- (id)firstObject;
- (id)lastObject;
- (BOOL)containsObject:(id)object;
- (NSUInteger)indexOfObject:(id)object;
@end

@interface NSMutableArray : NSArray
+ (instancetype)arrayWithCapacity:(NSUInteger)capacity;
- (void)addObject:(id)object;
- (void)removeAllObjects;
@end

@interface NSDictionary : NSObject <NSCopying, NSFastEnumeration>
+ (instancetype)dictionary;
+ (instancetype)dictionaryWithObject:(id)object forKey:(id<NSCopying>)key;
+ (instancetype)dictionaryWithObjects:(const id [])objects forKeys:(const id<NSCopying> [])keys count:(NSUInteger)count;
+ (instancetype)dictionaryWithObjectsAndKeys:(id)first, ... __attribute__((sentinel));
- (NSUInteger)count;
- (id)objectForKey:(id)key;
- (NSArray *)allKeys;
@end

@interface NSMutableDictionary : NSDictionary
+ (instancetype)dictionaryWithCapacity:(NSUInteger)capacity;
- (void)setObject:(id)object forKey:(id<NSCopying>)key;
- (void)removeObjectForKey:(id)key;
@end

/* ============================== Errors ==================================== */

@interface NSError : NSObject
- (NSString *)domain;
- (NSInteger)code;
- (NSDictionary *)userInfo;
- (NSString *)localizedDescription;
@end

@interface NSException : NSObject
- (NSString *)name;
- (NSString *)reason;
- (NSDictionary *)userInfo;
@end

/* ============================== System ==================================== */

@interface NSFileManager : NSObject
+ (NSFileManager *)defaultManager;
- (BOOL)fileExistsAtPath:(NSString *)path;
- (BOOL)removeItemAtPath:(NSString *)path error:(NSError **)error;
- (BOOL)createDirectoryAtPath:(NSString *)path
  withIntermediateDirectories:(BOOL)all
                   attributes:(NSDictionary *)attributes
                        error:(NSError **)error;
@end

@interface NSAutoreleasePool : NSObject
- (void)drain;
@end

extern NSString *NSTemporaryDirectory(void);
extern Class NSClassFromString(NSString *name);
extern SEL NSSelectorFromString(NSString *name);
extern NSString *NSStringFromSelector(SEL selector);
extern NSString *NSStringFromClass(Class cls);
extern void NSLog(NSString *format, ...) __attribute__((format(__NSString__, 1, 2)));

#endif
