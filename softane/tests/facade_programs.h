// SPDX-License-Identifier: MIT
/* facade_programs.h - what the tests of the facade share: the private classes
 * as a program on macOS sees them, counting, small programs, surfaces. Knows
 * softane only through softane.h. Included once per program. */
#ifndef SA_TEST_FACADE_PROGRAMS_H
#define SA_TEST_FACADE_PROGRAMS_H

#pragma clang diagnostic ignored "-Wunused-function" /* each program uses some */
#pragma clang diagnostic ignored "-Wunused-const-variable"

#import <Foundation/Foundation.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../include/softane.h"

/* ============================== The door ================================== */

typedef struct __IOSurface *IOSurfaceRef;
extern IOSurfaceRef IOSurfaceCreate(const void *properties);
extern IOSurfaceRef IOSurfaceLookup(uint32_t id);
extern int IOSurfaceLock(IOSurfaceRef s, uint32_t options, uint32_t *seed);
extern int IOSurfaceUnlock(IOSurfaceRef s, uint32_t options, uint32_t *seed);
extern void *IOSurfaceGetBaseAddress(IOSurfaceRef s);
extern size_t IOSurfaceGetAllocSize(IOSurfaceRef s);
extern size_t IOSurfaceGetBytesPerRow(IOSurfaceRef s);
extern size_t IOSurfaceGetWidth(IOSurfaceRef s);
extern size_t IOSurfaceGetHeight(IOSurfaceRef s);
extern uint32_t IOSurfaceGetID(IOSurfaceRef s);
extern uint32_t IOSurfaceGetSeed(IOSurfaceRef s);
extern unsigned char IOSurfaceIsInUse(IOSurfaceRef s);
extern void IOSurfaceIncrementUseCount(IOSurfaceRef s);
extern void IOSurfaceDecrementUseCount(IOSurfaceRef s);
extern NSString *const kIOSurfaceWidth;
extern NSString *const kIOSurfaceAllocSize;

@protocol DescriptorClass
- (id)modelWithMILText:(id)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist;
- (id) new;
@end
@protocol ModelClass
- (id)inMemoryModelWithDescriptor:(id)descriptor;
@end
@protocol Model <NSObject>
- (NSString *)hexStringIdentifier;
- (void)setHexStringIdentifier:(NSString *)identity;
- (NSString *)localModelPath;
- (NSURL *)modelURL;
- (NSDictionary *)modelAttributes;
- (id)descriptor;
- (id)model;
- (id)program;
- (NSUInteger)state;
- (uint64_t)programHandle;
- (uint64_t)intermediateBufferHandle;
- (signed char)queueDepth;
- (BOOL)compiledModelExists;
- (void)purgeCompiledModel;
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned int)qos options:(NSDictionary *)options request:(id)request error:(NSError **)error;
- (BOOL)mapIOSurfacesWithRequest:(id)request cacheInference:(BOOL)cache error:(NSError **)error;
@end
@protocol InnerModel <NSObject>
- (NSUInteger)state;
- (NSDictionary *)modelAttributes;
- (NSDictionary *)procedureInfoForProcedureIndex:(unsigned int)procedure;
- (NSIndexSet *)inputSymbolIndicesForProcedureIndex:(unsigned int)procedure;
@end
@protocol InnerModelClass
- (id)modelAtURL:(NSURL *)url key:(NSString *)key;
@end
@protocol Client <NSObject>
- (id)sharedConnection; /* class method */
- (BOOL)compileModel:(id)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)loadModel:(id)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)unloadModel:(id)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)evaluateWithModel:(id)model options:(NSDictionary *)o request:(id)r qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)compiledModelExistsFor:(id)model;
- (void)purgeCompiledModel:(id)model;
@end
@protocol SurfaceClass
- (id)objectWithIOSurface:(IOSurfaceRef)surface;
- (IOSurfaceRef)ioSurface; /* of an object */
@end
@protocol Request <NSObject>
- (BOOL)validate;
- (NSUInteger)ioSurfacesCount;
- (void)setCompletionHandler:(void *)block;
@end
@protocol RequestClass
- (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weights
              perfStats:(id)stats
         procedureIndex:(NSNumber *)procedure;
@end
@protocol Info
- (NSString *)aneSubType;
- (unsigned int)numANEs;
- (BOOL)hasANE;
- (BOOL)isVirtualMachine;
- (uint64_t)queueIndexForQoS:(unsigned int)qos;
- (unsigned int)aneDefaultTaskQoS;
@end

static id named(const char *name) { return (id)NSClassFromString([NSString stringWithUTF8String:name]); }

/* ============================== Counting ================================== */

static int passed, failed;
static void check_at(const char *file, int line, bool good, const char *what) {
    if (good) {
        passed++;
    } else {
        failed++;
        fprintf(stderr, "%s:%d: %s\n", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line, what);
    }
}
#define CHECK(...) check_at(__FILE__, __LINE__, (__VA_ARGS__), #__VA_ARGS__)

static uint64_t counter(const char *key) {
    char buf[64];
    return softane_get(key, buf, sizeof buf) == 0 ? strtoull(buf, NULL, 10) : UINT64_MAX;
}
static void set_count(const char *key, uint64_t n) {
    char buf[32];
    snprintf(buf, sizeof buf, "%llu", (unsigned long long)n);
    CHECK(softane_set(key, buf) == 0);
}
static void failpoints(const char *text) { CHECK(softane_set("failpoints", text) == 0); }
static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}
static void sleep_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* ============================== Programs ================================== */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
#define T "tensor<fp16, [1, 4, 1, 32]>"
#define N (4 * 32)
#define BYTES (N * 2)
#define HALF_1 0x3c00
#define HALF_2 0x4000
#define HALF_3 0x4200
#define HALF_6 0x4600
#define HALF_MINUS_1 0xbc00

static const char sub_text[] = HEAD "func main<ios18>(" T " b_in, " T " a_in) {\n"
    T " y = sub(x=a_in, y=b_in)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char mul_text[] = HEAD "func main<ios18>(" T " x) {\n"
    T " w = const()[name=string(\"w\"), val=" T "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(64)))];\n"
    T " y = mul(x=x, y=w)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char two_text[] = HEAD "func first<ios18>(" T " x) {\n"
    T " y = add(x=x, y=x)[name=string(\"y\")];\n} -> (y);\n"
    "func second<ios18>(" T " x) {\n"
    T " y = mul(x=x, y=x)[name=string(\"y\")];\n} -> (y);\n}\n";

static NSData *text_data(const char *text) { return [NSData dataWithBytes:text length:strlen(text)]; }

/* `base` with a comment that makes its identity new. */
static NSData *unique_text(const char *base) {
    static int n;
    return text_data([[NSString stringWithFormat:@"%s// %d %d\n", base, getpid(), ++n] UTF8String]);
}

static NSData *blob(uint16_t value) {
    uint8_t f[128 + BYTES] = {1, 0, 0, 0, 2};
    uint32_t sentinel = 0xDEADBEEF, dtype = 1;
    uint64_t size = BYTES, at = 128;
    memcpy(f + 64, &sentinel, 4), memcpy(f + 68, &dtype, 4), memcpy(f + 72, &size, 8), memcpy(f + 80, &at, 8);
    for (int i = 0; i < N; i++)
        memcpy(f + 128 + 2 * i, &value, 2);
    return [NSData dataWithBytes:f length:sizeof f];
}

static NSDictionary *weights(NSData *data) {
    if (!data)
        return [NSDictionary dictionary];
    NSDictionary *inner = [NSDictionary dictionaryWithObjectsAndKeys:[NSNumber numberWithInt:0], @"offset", data, @"data", nil];
    return [NSDictionary dictionaryWithObject:inner forKey:@"@model_path/weights/w.bin"];
}

static id<Model> make_model(NSData *text, NSData *weight) {
    id d = [(id<DescriptorClass>)named("_ANEInMemoryModelDescriptor") modelWithMILText:text weights:weights(weight) optionsPlist:nil];
    return [(id<ModelClass>)named("_ANEInMemoryModel") inMemoryModelWithDescriptor:d];
}

/* What every caller must do before a compile (§2 step 4). */
static void stage(id<Model> m, NSData *text, NSData *weight) {
    NSFileManager *files = [NSFileManager defaultManager];
    NSString *dir = [m localModelPath], *sub = [dir stringByAppendingPathComponent:@"weights"];
    CHECK([files createDirectoryAtPath:sub withIntermediateDirectories:YES attributes:nil error:NULL]);
    CHECK([text writeToFile:[dir stringByAppendingPathComponent:@"model.mil"] atomically:NO]);
    if (weight)
        CHECK([weight writeToFile:[sub stringByAppendingPathComponent:@"w.bin"] atomically:NO]);
}

static id<Model> staged(const char *base, NSData *weight) {
    NSData *text = unique_text(base);
    id<Model> m = make_model(text, weight);
    stage(m, text, weight);
    return m;
}

static NSDictionary *none(void) { return [NSDictionary dictionary]; }
static bool there(NSString *path) { return [[NSFileManager defaultManager] fileExistsAtPath:path]; }
static bool compile(id<Model> m) { return [m compileWithQoS:21 options:none() error:NULL]; }
static bool load(id<Model> m) { return [m loadWithQoS:21 options:none() error:NULL]; }
static bool unload(id<Model> m) { return [m unloadWithQoS:21 error:NULL]; }

/* ============================== Surfaces ================================== */

static NSMutableArray *keep; /* surfaces of this run */

static IOSurfaceRef surface_of(size_t bytes) {
    NSNumber *b = [NSNumber numberWithUnsignedLongLong:bytes], *one = [NSNumber numberWithInt:1];
    NSDictionary *p = [NSDictionary dictionaryWithObjectsAndKeys:b, @"IOSurfaceWidth", one, @"IOSurfaceHeight", one,
                                                                 @"IOSurfaceBytesPerElement", b, @"IOSurfaceBytesPerRow", b,
                                                                 @"IOSurfaceAllocSize", [NSNumber numberWithInt:0],
                                                                 @"IOSurfacePixelFormat", nil];
    IOSurfaceRef s = IOSurfaceCreate(p);
    if (s && keep) {
        [keep addObject:(id)s];
        [(id)s release];
    } else {
        [(id)s autorelease];
    }
    return s;
}

static void fill(IOSurfaceRef s, uint16_t v) {
    IOSurfaceLock(s, 0, NULL);
    for (size_t i = 0; i < IOSurfaceGetAllocSize(s) / 2; i++)
        ((uint16_t *)IOSurfaceGetBaseAddress(s))[i] = v;
    IOSurfaceUnlock(s, 0, NULL);
}
static IOSurfaceRef filled(uint16_t v) {
    IOSurfaceRef s = surface_of(BYTES);
    fill(s, v);
    return s;
}
static bool all(IOSurfaceRef s, uint16_t v) {
    for (int i = 0; i < N; i++)
        if (((uint16_t *)IOSurfaceGetBaseAddress(s))[i] != v)
            return false;
    return true;
}
static id wrap(IOSurfaceRef s) { return [(id<SurfaceClass>)named("_ANEIOSurfaceObject") objectWithIOSurface:s]; }
static NSNumber *num(int n) { return [NSNumber numberWithInt:n]; }

static id<Request> request(NSArray *in, NSArray *ii, NSArray *out, NSArray *oi, NSNumber *procedure) {
    return [(id<RequestClass>)named("_ANERequest") requestWithInputs:in inputIndices:ii outputs:out outputIndices:oi
                                                       weightsBuffer:nil perfStats:nil procedureIndex:procedure];
}
static id<Request> unary(IOSurfaceRef x, IOSurfaceRef y) {
    return request([NSArray arrayWithObject:wrap(x)], [NSArray arrayWithObject:num(0)], [NSArray arrayWithObject:wrap(y)],
                   [NSArray arrayWithObject:num(0)], num(0));
}
static id<Request> binary(IOSurfaceRef a, int ai, IOSurfaceRef b, int bi, IOSurfaceRef y) {
    return request([NSArray arrayWithObjects:wrap(a), wrap(b), nil], [NSArray arrayWithObjects:num(ai), num(bi), nil],
                   [NSArray arrayWithObject:wrap(y)], [NSArray arrayWithObject:num(0)], num(0));
}
static bool eval(id<Model> m, id<Request> r) { return [m evaluateWithQoS:21 options:none() request:r error:NULL]; }

/* NO, with this domain (suffix), code and text. */
static bool says(NSError *e, NSString *suffix, NSInteger code, NSString *part) {
    bool good = e && [[e domain] isEqual:[@"com.apple.appleneuralengine" stringByAppendingString:suffix]] &&
                [e code] == code && [[e localizedDescription] rangeOfString:part].location != NSNotFound;
    if (!good)
        fprintf(stderr, "  got: %s\n", e ? [[NSString stringWithFormat:@"%@ %ld %@", [e domain], (long)[e code], [e localizedDescription]] UTF8String] : "nil");
    return good;
}

#endif
