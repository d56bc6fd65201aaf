// SPDX-License-Identifier: MIT
/* engine.h - the few steps every example needs: open the framework, write MIL
 * text and weight files, compile, load, bind surfaces, evaluate, unload.
 *
 * Plain source for macOS (clang -fobjc-arc -framework Foundation -framework
 * IOSurface -framework Accelerate); on Linux the same text is compiled by
 * softane-cc. Nothing in it knows where it runs. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>
#import <objc/message.h>
#import <objc/runtime.h>
#include <dlfcn.h>
#include <mach/mach_time.h>

#define QOS 21u

/* ============================== Time ====================================== */

static inline double milliseconds(uint64_t ticks) {
    static mach_timebase_info_data_t base;
    if (base.denom == 0)
        mach_timebase_info(&base);
    return (double)ticks * base.numer / base.denom / 1e6;
}

/* ============================== MIL and weights =========================== */

/* A program around the statements of its body. */
static inline NSString *mil_program(NSString *parameters, NSString *body, NSString *results) {
    return [NSString stringWithFormat:
        @"program(1.3)\n"
         "[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, {\"coremlc-version\", \"3505.4.1\"}, "
         "{\"coremltools-component-milinternal\", \"\"}, {\"coremltools-version\", \"9.0\"}})]\n"
         "{\n    func main<ios18>(%@) {\n%@    } -> (%@);\n}\n", parameters, body, results];
}

/* What all convolutions of a program share. */
static inline NSString *mil_conv_constants(void) {
    return @"        string pt = const()[name=string(\"pt\"), val=string(\"valid\")];\n"
            "        tensor<int32, [2]> st = const()[name=string(\"st\"), val=tensor<int32, [2]>([1,1])];\n"
            "        tensor<int32, [4]> pd = const()[name=string(\"pd\"), val=tensor<int32, [4]>([0,0,0,0])];\n"
            "        tensor<int32, [2]> dl = const()[name=string(\"dl\"), val=tensor<int32, [2]>([1,1])];\n"
            "        int32 gr = const()[name=string(\"gr\"), val=int32(1)];\n";
}

/* y = w x, a 1x1 convolution whose weight lies in weights/<file>. */
static inline NSString *mil_conv(NSString *y, NSString *x, NSString *file, int out, int in, int width) {
    return [NSString stringWithFormat:
        @"        tensor<fp16, [%d, %d, 1, 1]> w_%@ = const()[name=string(\"w_%@\"), val=tensor<fp16, [%d, %d, 1, 1]>"
         "(BLOBFILE(path=string(\"@model_path/weights/%@\"), offset=uint64(64)))];\n"
         "        tensor<fp16, [1, %d, 1, %d]> %@ = conv(dilations=dl, groups=gr, pad=pd, pad_type=pt, strides=st, "
         "weight=w_%@, x=%@)[name=string(\"%@\")];\n", out, in, y, y, out, in, file, out, width, y, y, x, y];
}

/* Floats as a weight file: 64 bytes of header, 64 of metadata, halves. */
static inline NSData *weight_file(const float *values, size_t count) {
    NSMutableData *file = [NSMutableData dataWithLength:128 + 2 * count];
    uint8_t *b = (uint8_t *)file.mutableBytes;
    uint32_t head[2] = {1, 2}, meta[2] = {0xDEADBEEF, 1};
    uint64_t place[2] = {2 * count, 128};
    memcpy(b, head, sizeof head);
    memcpy(b + 64, meta, sizeof meta);
    memcpy(b + 72, place, sizeof place);
    _Float16 *h = (_Float16 *)(b + 128);
    for (size_t i = 0; i < count; i++)
        h[i] = (_Float16)values[i];
    return file;
}

/* ============================== A program ================================= */

static Class ANEDescriptor, ANEModel, ANERequest, ANESurface;

static BOOL engine_open(void) {
    void *framework = dlopen("/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine", RTLD_NOW);
    if (!framework) {
        printf("dlopen: %s\n", dlerror());
        return NO;
    }
    ANEDescriptor = NSClassFromString(@"_ANEInMemoryModelDescriptor");
    ANEModel = NSClassFromString(@"_ANEInMemoryModel");
    ANERequest = NSClassFromString(@"_ANERequest");
    ANESurface = NSClassFromString(@"_ANEIOSurfaceObject");
    return ANEDescriptor && ANEModel && ANERequest && ANESurface;
}

static IOSurfaceRef make_surface(size_t bytes) {
    return IOSurfaceCreate((__bridge CFDictionaryRef)@{
        (id)kIOSurfaceWidth: @(bytes),
        (id)kIOSurfaceHeight: @1,
        (id)kIOSurfaceBytesPerElement: @1,
        (id)kIOSurfaceBytesPerRow: @(bytes),
        (id)kIOSurfaceAllocSize: @(bytes),
        (id)kIOSurfacePixelFormat: @0
    });
}

static inline void write_surface(IOSurfaceRef s, const float *values, size_t count) {
    IOSurfaceLock(s, 0, NULL);
    _Float16 *h = (_Float16 *)IOSurfaceGetBaseAddress(s);
    for (size_t i = 0; i < count; i++)
        h[i] = (_Float16)values[i];
    IOSurfaceUnlock(s, 0, NULL);
}

static inline void read_surface(IOSurfaceRef s, float *values, size_t count) {
    IOSurfaceLock(s, kIOSurfaceLockReadOnly, NULL);
    const _Float16 *h = (const _Float16 *)IOSurfaceGetBaseAddress(s);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)h[i];
    IOSurfaceUnlock(s, kIOSurfaceLockReadOnly, NULL);
}

/* One compiled program and its request. */
@interface Program : NSObject
@property (nonatomic, strong) id model, request;
@property (nonatomic, copy) NSString *folder;
@property (nonatomic) double compileMilliseconds;
+ (instancetype)compile:(NSString *)text weights:(NSDictionary<NSString *, NSData *> *)weights;
- (BOOL)load;
- (void)bindInputs:(NSArray *)inputs outputs:(NSArray *)outputs;
- (BOOL)evaluate;
- (BOOL)unload;
@end

@implementation Program

/* `weights`: file name -> content. nil when the compiler refuses. */
+ (instancetype)compile:(NSString *)text weights:(NSDictionary<NSString *, NSData *> *)weights {
    @autoreleasepool {
        NSMutableDictionary *table = [NSMutableDictionary dictionary];
        for (NSString *name in weights)
            table[[@"@model_path/weights/" stringByAppendingString:name]] = @{@"offset": @0, @"data": weights[name]};
        NSData *mil = [text dataUsingEncoding:NSUTF8StringEncoding];
        id descriptor = ((id (*)(Class, SEL, id, id, id))objc_msgSend)(
            ANEDescriptor, @selector(modelWithMILText:weights:optionsPlist:), mil, table, nil);
        Program *p = [Program new];
        p.model = ((id (*)(Class, SEL, id))objc_msgSend)(ANEModel, @selector(inMemoryModelWithDescriptor:), descriptor);
        NSString *identity = ((id (*)(id, SEL))objc_msgSend)(p.model, @selector(hexStringIdentifier));
        p.folder = [NSTemporaryDirectory() stringByAppendingPathComponent:identity];
        NSFileManager *files = [NSFileManager defaultManager];
        [files createDirectoryAtPath:[p.folder stringByAppendingPathComponent:@"weights"]
            withIntermediateDirectories:YES attributes:nil error:nil];
        [mil writeToFile:[p.folder stringByAppendingPathComponent:@"model.mil"] atomically:YES];
        for (NSString *name in weights)
            [weights[name] writeToFile:[NSString stringWithFormat:@"%@/weights/%@", p.folder, name] atomically:YES];

        NSError *error = nil;
        uint64_t start = mach_absolute_time();
        BOOL ok = ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(
            p.model, @selector(compileWithQoS:options:error:), QOS, @{}, &error);
        p.compileMilliseconds = milliseconds(mach_absolute_time() - start);
        if (!ok)
            printf("compile: %s\n", error ? error.localizedDescription.UTF8String : "refused without an error");
        return ok ? p : nil;
    }
}

- (BOOL)load {
    NSError *error = nil;
    BOOL ok = ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(
        self.model, @selector(loadWithQoS:options:error:), QOS, @{}, &error);
    if (!ok)
        printf("load: %s\n", error ? error.localizedDescription.UTF8String : "refused without an error");
    return ok;
}

/* Surfaces as (__bridge id)IOSurfaceRef, in the order of the symbols. */
- (void)bindInputs:(NSArray *)inputs outputs:(NSArray *)outputs {
    NSMutableArray *in = [NSMutableArray array], *out = [NSMutableArray array];
    NSMutableArray *inIndex = [NSMutableArray array], *outIndex = [NSMutableArray array];
    for (NSUInteger i = 0; i < inputs.count; i++) {
        [in addObject:((id (*)(Class, SEL, IOSurfaceRef))objc_msgSend)(
            ANESurface, @selector(objectWithIOSurface:), (__bridge IOSurfaceRef)inputs[i])];
        [inIndex addObject:@(i)];
    }
    for (NSUInteger i = 0; i < outputs.count; i++) {
        [out addObject:((id (*)(Class, SEL, IOSurfaceRef))objc_msgSend)(
            ANESurface, @selector(objectWithIOSurface:), (__bridge IOSurfaceRef)outputs[i])];
        [outIndex addObject:@(i)];
    }
    self.request = ((id (*)(Class, SEL, id, id, id, id, id, id, id))objc_msgSend)(
        ANERequest,
        @selector(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:),
        in, inIndex, out, outIndex, nil, nil, @0);
}

- (BOOL)evaluate {
    NSError *error = nil;
    BOOL ok = ((BOOL (*)(id, SEL, unsigned int, id, id, NSError **))objc_msgSend)(
        self.model, @selector(evaluateWithQoS:options:request:error:), QOS, @{}, self.request, &error);
    if (!ok)
        printf("evaluate: %s\n", error ? error.localizedDescription.UTF8String : "refused without an error");
    return ok;
}

- (BOOL)unload {
    NSError *error = nil;
    return ((BOOL (*)(id, SEL, unsigned int, NSError **))objc_msgSend)(
        self.model, @selector(unloadWithQoS:error:), QOS, &error);
}

@end

/* ============================== The last line ============================= */

static int verdict(BOOL good, const char *why) {
    if (good)
        printf("ok\n");
    else
        printf("FAILED %s\n", why);
    return good ? 0 : 1;
}
