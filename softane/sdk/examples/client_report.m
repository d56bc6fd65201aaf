// SPDX-License-Identifier: MIT
/* client_report.m - the engine without the wrapper: _ANEModel and _ANEClient.
 *
 * What a probe does on a machine it does not know. Classes and their methods by
 * reflection, the device, the table of QoS levels; a program of two procedures
 * compiled through the client, found in the cache, loaded, described by its
 * attributes; evaluated at once, in real time, directly, through the loaded
 * program itself, and with a completion handler on another thread. The last
 * lines are a report in JSON. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>
#import <objc/message.h>
#import <objc/runtime.h>
#include <dlfcn.h>
#include <mach/mach_time.h>
#include <os/lock.h>
#include <sys/sysctl.h>

static NSString *const kFramework = @"/System/Library/PrivateFrameworks/AppleNeuralEngine.framework";
enum { kChannels = 8, kWidth = 64, kBytes = kChannels * kWidth * 2 };

#define SEND(type, ...) ((type (*)(id, SEL, ##__VA_ARGS__))objc_msgSend)

typedef NS_ENUM(NSInteger, ReportState) { ReportStateGood, ReportStateBad };

/* ============================== What it found ============================= */

@interface Report : NSObject
@property (nonatomic, readonly) NSMutableDictionary<NSString *, id> *entries;
@property (nonatomic) ReportState state;
+ (instancetype)sharedReport;
- (void)setEntry:(id)value named:(NSString *)name;
- (BOOL)expect:(BOOL)condition because:(NSString *)format, ... NS_FORMAT_FUNCTION(2, 3);
@end

@implementation Report {
    os_unfair_lock _lock;
}

+ (instancetype)sharedReport {
    static Report *shared;
    static dispatch_once_t once;
    dispatch_once(&once, ^{
        shared = [[self alloc] init];
    });
    return shared;
}

- (instancetype)init {
    if ((self = [super init])) {
        _entries = [NSMutableDictionary new];
        _lock = OS_UNFAIR_LOCK_INIT;
    }
    return self;
}

- (void)setEntry:(id)value named:(NSString *)name {
    os_unfair_lock_lock(&_lock);
    self.entries[name] = value ?: [NSNull null];
    os_unfair_lock_unlock(&_lock);
}

- (BOOL)expect:(BOOL)condition because:(NSString *)format, ... {
    if (!condition) {
        va_list arguments;
        va_start(arguments, format);
        NSString *text = [[NSString alloc] initWithFormat:format arguments:arguments];
        va_end(arguments);
        fprintf(stderr, "not so: %s\n", text.UTF8String);
        self.state = ReportStateBad;
    }
    return condition;
}

@end

/* ============================== Reflection ================================ */

/* Names of a class's own methods, "+" before those of the class. */
static NSArray<NSString *> *MethodsOf(Class cls) {
    NSMutableArray *names = [NSMutableArray array];
    for (int meta = 0; meta < 2; meta++) {
        unsigned int count = 0;
        Method *list = class_copyMethodList(meta ? object_getClass((id)cls) : cls, &count);
        for (unsigned int i = 0; i < count; i++)
            [names addObject:[(meta ? @"+" : @"-") stringByAppendingString:NSStringFromSelector(method_getName(list[i]))]];
        free(list);
    }
    return [names sortedArrayUsingComparator:^NSComparisonResult(NSString *a, NSString *b) {
        return [a compare:b options:NSLiteralSearch];
    }];
}

static void LookAround(Report *report) {
    NSMutableDictionary *counts = [NSMutableDictionary dictionary];
    for (NSString *name in @[@"_ANEClient", @"_ANEModel", @"_ANERequest", @"_ANEIOSurfaceObject", @"_ANEProgramForEvaluation"]) {
        Class cls = objc_getClass(name.UTF8String);
        if (![report expect:cls != Nil because:@"there is a class %@", name])
            continue;
        NSArray *methods = MethodsOf(cls);
        counts[name] = @(methods.count);
        [report expect:methods.count > 3 because:@"%@ has methods, not %lu", name, (unsigned long)methods.count];
    }
    [report setEntry:counts named:@"methods"];
    [report expect:[MethodsOf(objc_getClass("_ANEClient")) containsObject:@"+sharedConnection"] because:@"the client has a connection"];

    Class info = NSClassFromString(@"_ANEDeviceInfo"), mapper = NSClassFromString(@"_ANEQoSMapper");
    uint64_t memory = 0;
    size_t length = sizeof memory;
    if (sysctlbyname("hw.memsize", &memory, &length, NULL, 0) != 0)
        memory = 0;
    [report setEntry:@{
        @"architecture": [info performSelector:@selector(aneArchitectureType)],
        @"engines": @(SEND(unsigned int)(info, @selector(numANEs))),
        @"cores": @(SEND(unsigned int)(info, @selector(numANECores))),
        @"memory GiB": @((double)memory / (1 << 30)),
        @"processors": @([[NSProcessInfo processInfo] activeProcessorCount]),
    } named:@"device"];
    NSMutableDictionary *queues = [NSMutableDictionary dictionary];
    for (NSNumber *qos in @[@0, @9, @17, @21, @25, @33, @42])
        queues[qos.stringValue] = @(SEND(uint64_t, unsigned int)(mapper, @selector(queueIndexForQoS:), qos.unsignedIntValue));
    [report setEntry:queues named:@"queues"];
    [report expect:[queues[@"0"] isEqual:@2] && [queues[@"42"] isEqual:@5] because:@"real time is queue 2, nonsense queue 5: %@", queues];
}

/* ============================== The program =============================== */

static NSString *const kShape = @"tensor<fp16, [1, 8, 1, 64]>";

/* Two procedures: doubled and negated. */
static NSString *ProgramText(void) {
    NSMutableString *text = [NSMutableString stringWithString:
        @"program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, {\"coremlc-version\", \"3505.4.1\"}, "
         "{\"coremltools-component-milinternal\", \"\"}, {\"coremltools-version\", \"9.0\"}})]\n{\n"];
    NSDictionary<NSString *, NSNumber *> *factors = @{@"doubled": @2, @"negated": @-1};
    for (NSString *name in [factors.allKeys sortedArrayUsingSelector:@selector(compare:)]) {
        [text appendFormat:@"    func %@<ios18>(%@ x) {\n", name, kShape];
        [text appendFormat:@"        fp16 k = const()[name=string(\"k\"), val=fp16(%.1f)];\n", factors[name].doubleValue];
        [text appendFormat:@"        %@ y = mul(x=x, y=k)[name=string(\"%@_y\")];\n    } -> (y);\n", kShape, name];
    }
    [text appendString:@"}\n"];
    return [text copy];
}

CF_RETURNS_RETAINED static IOSurfaceRef NewSurface(void) {
    NSDictionary *properties = @{
        (__bridge NSString *)kIOSurfaceWidth: @(kBytes), (__bridge NSString *)kIOSurfaceHeight: @1,
        (__bridge NSString *)kIOSurfaceBytesPerElement: @1, (__bridge NSString *)kIOSurfaceBytesPerRow: @(kBytes),
        (__bridge NSString *)kIOSurfaceAllocSize: @(kBytes), (__bridge NSString *)kIOSurfacePixelFormat: @0,
    };
    return IOSurfaceCreate((__bridge CFDictionaryRef)properties);
}

static id Wrapped(IOSurfaceRef surface) {
    return ((id (*)(Class, SEL, IOSurfaceRef))objc_msgSend)(NSClassFromString(@"_ANEIOSurfaceObject"), @selector(objectWithIOSurface:), surface);
}

/* The request of one procedure; symbol indices as the loaded model tells them. */
static id RequestFor(id model, unsigned int procedure, IOSurfaceRef x, IOSurfaceRef y) {
    NSDictionary *info = SEND(id, unsigned int)(model, @selector(procedureInfoForProcedureIndex:), procedure);
    NSArray *in = info[@"ANEFModelInputSymbolIndexArray"], *out = info[@"ANEFModelOutputSymbolIndexArray"];
    SEL make = NSSelectorFromString(@"requestWithInputs:inputIndices:outputs:outputIndices:procedureIndex:");
    return ((id (*)(Class, SEL, id, id, id, id, id))objc_msgSend)(NSClassFromString(@"_ANERequest"), make,
        @[Wrapped(x)], in, @[Wrapped(y)], out, @(procedure));
}

static BOOL Holds(IOSurfaceRef surface, float value) {
    BOOL all = YES;
    IOSurfaceLock(surface, kIOSurfaceLockReadOnly, NULL);
    const _Float16 *h = IOSurfaceGetBaseAddress(surface);
    for (size_t i = 0; i < kBytes / sizeof *h; i++)
        all = all && (float)h[i] == value;
    IOSurfaceUnlock(surface, kIOSurfaceLockReadOnly, NULL);
    return all;
}

static void Fill(IOSurfaceRef surface, float value) {
    IOSurfaceLock(surface, 0, NULL);
    _Float16 *h = IOSurfaceGetBaseAddress(surface);
    for (size_t i = 0; i < IOSurfaceGetAllocSize(surface) / sizeof *h; i++)
        h[i] = (_Float16)value;
    IOSurfaceUnlock(surface, 0, NULL);
}

/* ============================== Evaluations =============================== */

/* Every way to evaluate the same request; what each gave and how long it took. */
static void EvaluateEachWay(Report *report, id client, id model, IOSurfaceRef x, IOSurfaceRef y) {
    mach_timebase_info_data_t base;
    mach_timebase_info(&base);
    id program = SEND(id)(model, @selector(program)), request = RequestFor(model, 0, x, y);
    NSNumber *stringID = [model valueForKey:@"string_id"];
    NSDictionary<NSString *, BOOL (^)(NSError **)> *ways = @{
        @"plain": ^BOOL(NSError **e) {
            return SEND(BOOL, id, id, id, unsigned int, NSError **)(client, @selector(evaluateWithModel:options:request:qos:error:), model, @{}, request, 21, e);
        },
        @"direct": ^BOOL(NSError **e) {
            return SEND(BOOL, id, id, id, unsigned int, NSError **)(client, @selector(doEvaluateDirectWithModel:options:request:qos:error:), model, @{}, request, 21, e);
        },
        @"real time": ^BOOL(NSError **e) {
            return SEND(BOOL, id, id, id, NSError **)(client, @selector(evaluateRealTimeWithModel:options:request:error:), model, @{}, request, e);
        },
        @"program": ^BOOL(NSError **e) {
            unsigned int answer = 99;
            BOOL ok = SEND(BOOL, id, id, unsigned int, uint64_t, uint64_t, id, unsigned int *, NSError **)(program,
                @selector(processRequest:model:qos:qIndex:modelStringID:options:returnValue:error:), request, model, 21, 5,
                stringID.unsignedLongLongValue, @{}, &answer, e);
            return ok && answer == 0;
        },
    };
    NSMutableDictionary *times = [NSMutableDictionary dictionary];
    [ways enumerateKeysAndObjectsUsingBlock:^(NSString *name, BOOL (^evaluate)(NSError **), BOOL *stop) {
        (void)stop;
        Fill(y, 0);
        NSError *error = nil;
        uint64_t begin = mach_absolute_time();
        BOOL ok = evaluate(&error);
        times[name] = @((double)(mach_absolute_time() - begin) * base.numer / base.denom / 1e3);
        [report expect:ok && Holds(y, 6) because:@"%@ gives 6 (%@)", name, error.localizedDescription];
    }];
    [report setEntry:times named:@"microseconds"];
}

/* YES at once; the handler comes from elsewhere. */
static void EvaluateLater(Report *report, id client, id model, IOSurfaceRef x, IOSurfaceRef y) {
    id request = RequestFor(model, 1, x, y);
    dispatch_semaphore_t done = dispatch_semaphore_create(0);
    __block BOOL good = NO, elsewhere = NO;
    NSThread *mine = [NSThread currentThread];
    void (^handler)(BOOL, NSError *) = ^(BOOL ok, NSError *error) {
        good = ok && error == nil;
        elsewhere = [NSThread currentThread] != mine;
        dispatch_semaphore_signal(done);
    };
    SEND(void, id)(request, NSSelectorFromString(@"setCompletionHandler:"), handler);
    NSError *error = nil;
    BOOL accepted = SEND(BOOL, id, id, id, unsigned int, NSError **)(client, @selector(evaluateWithModel:options:request:qos:error:), model, @{}, request, 21, &error);
    long late = dispatch_semaphore_wait(done, dispatch_time(DISPATCH_TIME_NOW, (int64_t)(20 * NSEC_PER_SEC)));
    [report expect:accepted && late == 0 && good && elsewhere because:@"the handler is called with YES on another thread"];
    [report expect:Holds(y, -3) because:@"the second procedure negates"];
}

/* What must fail, and how. */
static void FailOnPurpose(Report *report, id client, id model, IOSurfaceRef x, IOSurfaceRef y) {
    id request = ((id (*)(Class, SEL, id, id, id, id, id))objc_msgSend)(NSClassFromString(@"_ANERequest"),
        NSSelectorFromString(@"requestWithInputs:inputIndices:outputs:outputIndices:procedureIndex:"), @[Wrapped(x)], @[@0], @[Wrapped(y)], @[@0], @1);
    NSError *error = nil;
    BOOL ok = SEND(BOOL, id, id, id, unsigned int, NSError **)(client, @selector(evaluateWithModel:options:request:qos:error:), model, @{}, request, 21, &error);
    [report expect:!ok && error.code == 8 && [error.localizedDescription rangeOfString:@"status=0x2"].location != NSNotFound
           because:@"symbols of another procedure are refused with 0x2: %@", error];
    error = nil;
    ok = SEND(BOOL, id, id, id, unsigned int, NSError **)(client, @selector(prepareChainingWithModel:options:chainingReq:qos:error:), model, @{}, nil, 21, &error);
    [report expect:!ok && error.code == 15 because:@"chaining is refused with 15: %@", error];
    @try {
        ((id (*)(Class, SEL, id, id, id))objc_msgSend)(NSClassFromString(@"_ANEInMemoryModelDescriptor"),
            NSSelectorFromString(@"modelWithMILText:weights:optionsPlist:"), @"text as a string", @{}, nil);
        [report expect:NO because:@"text as a string throws"];
    } @catch (NSException *exception) {
        [report setEntry:exception.name named:@"thrown"];
    } @finally {
        [report setEntry:@YES named:@"tried"];
    }
}

/* ============================== The whole life ============================ */

static void LiveOnce(Report *report) {
    NSURL *folder = [[NSURL fileURLWithPath:NSTemporaryDirectory() isDirectory:YES] URLByAppendingPathComponent:[[NSUUID UUID] UUIDString]];
    NSFileManager *files = NSFileManager.defaultManager;
    NSError *error = nil;
    [report expect:[files createDirectoryAtURL:folder withIntermediateDirectories:YES attributes:nil error:&error] because:@"%@", error];
    [report expect:[ProgramText() writeToURL:[folder URLByAppendingPathComponent:@"model.mil"] atomically:YES encoding:NSUTF8StringEncoding error:&error]
           because:@"%@", error];

    id client = [NSClassFromString(@"_ANEClient") performSelector:@selector(sharedConnection)];
    id model = ((id (*)(Class, SEL, id, id))objc_msgSend)(NSClassFromString(@"_ANEModel"), NSSelectorFromString(@"modelAtURL:key:"), folder, @"report");
    NSDictionary *options = @{@"kANEFModelType": @"kANEFModelMIL", @"kANEFNetPlistFilenameKey": @"model.mil"};
    BOOL known = SEND(BOOL, id)(client, @selector(compiledModelExistsFor:), model);
    BOOL compiled = SEND(BOOL, id, id, unsigned int, NSError **)(client, @selector(compileModel:options:qos:error:), model, options, 17, &error);
    [report expect:!known && compiled && SEND(BOOL, id)(client, @selector(compiledModelExistsFor:), model) because:@"a compile makes it known: %@", error];
    BOOL loaded = SEND(BOOL, id, id, unsigned int, NSError **)(client, @selector(loadModel:options:qos:error:), model, @{}, 21, &error);
    if (![report expect:loaded because:@"it loads: %@", error])
        return;
    NSDictionary *attributes = [model valueForKey:@"modelAttributes"], *description = attributes[@"ANEFModelDescription"];
    [report setEntry:description[@"kANEFModelProcedureNameToIDMapKey"] named:@"procedures"];
    [report setEntry:[description valueForKeyPath:@"kANEFModelOutputSymbolsArrayKey"] named:@"outputs"];
    [report expect:[[attributes valueForKeyPath:@"NetworkStatusList.Name"] isEqual:@[@"doubled", @"negated"]] because:@"two networks: %@", attributes];

    IOSurfaceRef x = NewSurface(), y = NewSurface();
    Fill(x, 3);
    EvaluateEachWay(report, client, model, x, y);
    EvaluateLater(report, client, model, x, y);
    FailOnPurpose(report, client, model, x, y);
    CFRelease(x);
    CFRelease(y);
    [report expect:SEND(BOOL, id, id, unsigned int, NSError **)(client, @selector(unloadModel:options:qos:error:), model, @{}, 21, &error) because:@"it unloads: %@", error];
    [report expect:[[model valueForKey:@"state"] integerValue] == 4 because:@"its state is 4"];
    SEND(void, id)(client, @selector(purgeCompiledModel:), model);
    [report expect:!SEND(BOOL, id)(client, @selector(compiledModelExistsFor:), model) because:@"purged is forgotten"];
    [files removeItemAtURL:folder error:NULL];
}

int main(void) {
    @autoreleasepool {
        NSBundle *framework = [NSBundle bundleWithPath:kFramework];
        if (![framework load] && !dlopen([kFramework stringByAppendingPathComponent:@"AppleNeuralEngine"].fileSystemRepresentation, RTLD_LAZY)) {
            printf("FAILED no engine: %s\n", dlerror());
            return EXIT_FAILURE;
        }
        Report *report = [Report sharedReport];
        LookAround(report);
        LiveOnce(report);
        NSError *error = nil;
        NSData *json = [NSJSONSerialization dataWithJSONObject:report.entries options:NSJSONWritingPrettyPrinted error:&error];
        NSString *text = [[NSString alloc] initWithData:json encoding:NSUTF8StringEncoding];
        puts(text.UTF8String ?: error.description.UTF8String);
        puts(report.state == ReportStateGood ? "ok" : "FAILED");
        return report.state == ReportStateGood ? EXIT_SUCCESS : EXIT_FAILURE;
    }
}
