// SPDX-License-Identifier: MIT
/* test_contract.m - the rest of the contract, through the private classes:
 * quirks that a setting switches on, asynchronous requests and their events,
 * the direct and the real-time path, classes that exist and refuse, errors of
 * every notification, faults of every operation. Numbers in comments are the
 * rows of docs/FIDELITY.md. One verdict line at the end; exit 1 on failure. */
#import "facade_programs.h"

/* ============================== More of the door ========================== */

@protocol AnyClient <NSObject>
- (id)sharedConnection; /* class method */
- (BOOL)loadModel:(id)m options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)compileModel:(id)m options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)unloadModel:(id)m options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)loadRealTimeModel:(id)m options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)unloadRealTimeModel:(id)m options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)evaluateRealTimeWithModel:(id)m options:(NSDictionary *)o request:(id)r error:(NSError **)e;
- (BOOL)doEvaluateDirectWithModel:(id)m options:(NSDictionary *)o request:(id)r qos:(unsigned int)q error:(NSError **)e;
- (BOOL)beginRealTimeTask;
- (BOOL)endRealTimeTask;
- (BOOL)echo:(id)payload;
- (BOOL)prepareChainingWithModel:(id)m options:(NSDictionary *)o chainingReq:(id)c qos:(unsigned int)q error:(NSError **)e;
- (BOOL)enqueueSetsWithModel:(id)m outputSet:(id)s options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)buffersReadyWithModel:(id)m inputBuffers:(id)b options:(NSDictionary *)o qos:(unsigned int)q error:(NSError **)e;
- (BOOL)loadModelNewInstance:(id)m options:(NSDictionary *)o modelInstParams:(id)p qos:(unsigned int)q error:(NSError **)e;
- (BOOL)mapIOSurfacesWithModel:(id)m request:(id)r cacheInference:(BOOL)c error:(NSError **)e;
@end
@protocol Factories
- (id)modelAtURL:(NSURL *)url key:(NSString *)key;
- (id)modelAtURLWithSourceURL:(NSURL *)url sourceURL:(NSURL *)s key:(NSString *)key cacheURLIdentifier:(NSString *)c;
- (id)modelWithCacheURLIdentifier:(NSString *)c;
- (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
          weightsBuffer:(id)w perfStats:(id)s procedureIndex:(NSNumber *)p sharedEvents:(id)e;
- (id)statsWithHardwareExecutionNS:(uint64_t)ns;
- (id)statsWithReconstructed:(id)d hardwareExecutionNS:(uint64_t)ns aneStatsRawData:(id)raw;
- (id)statsWithRequestPerformanceBuffer:(void **)b statsBufferSize:(unsigned int *)n;
- (unsigned int)driverMaskForANEFMask:(unsigned int)mask;
- (id)objectWithIOSurface:(id)surface statType:(NSInteger)type;
- (id)bufferWithIOSurfaceObject:(id)s symbolIndex:(NSNumber *)i source:(int64_t)source;
- (id)objectWithstatsSurRef:(IOSurfaceRef)s outputBuffer:(NSArray *)b;
- (id)chainingRequestWithInputs:(id)in outputSets:(id)s lbInputSymbolId:(id)i lbOutputSymbolId:(id)o procedureIndex:(id)p
                   signalEvents:(id)e transactionHandle:(id)t fwEnqueueDelay:(id)d memoryPoolId:(id)m;
- (id)signalEventWithValue:(uint64_t)v symbolIndex:(unsigned int)i eventType:(int64_t)t sharedEvent:(id)e;
- (id)waitEventWithValue:(uint64_t)v sharedEvent:(id)e;
- (id)waitEventWithValue:(uint64_t)v sharedEvent:(id)e eventType:(int64_t)t;
- (id)sharedEventsWithSignalEvents:(NSArray *)s waitEvents:(NSArray *)w;
- (id)weightWithSymbolAndURL:(NSString *)s weightURL:(NSURL *)u;
- (id)procedureDataWithSymbol:(NSString *)s weightArray:(NSArray *)w;
- (id)withProcedureData:(id)d procedureArray:(NSArray *)p;
- (id)programWithHandle:(uint64_t)h intermediateBufferHandle:(uint64_t)b queueDepth:(signed char)d;
@end
@protocol Values
- (uint64_t)hwExecutionTime;
- (NSDictionary *)performanceCounters;
- (NSData *)perfCounterData;
- (NSInteger)statType;
- (id)stats;
- (BOOL)validate;
- (int64_t)source;
- (uint64_t)value;
- (unsigned int)symbolIndex;
- (id)waitEvent;
- (id)sharedEvent;
- (NSString *)weightSymbol;
- (NSURL *)weightURL;
- (NSInteger)requestsInFlight;
- (uint64_t)signaledValue;
- (void)setSignaledValue:(uint64_t)v;
- (void)setPerfStatsMask:(unsigned int)mask;
- (unsigned int)perfStatsMask;
- (BOOL)processRequest:(id)r model:(id)m qos:(unsigned int)q qIndex:(uint64_t)i modelStringID:(uint64_t)s
               options:(NSDictionary *)o returnValue:(unsigned int *)v error:(NSError **)e;
@end

static id<AnyClient> client(void) { return [(id<AnyClient>)named("_ANEClient") sharedConnection]; }
static id factory(const char *name) { return named(name); }
static bool set(const char *key, const char *value) { return softane_set(key, value) == 0; }
static NSArray *one(id o) { return [NSArray arrayWithObject:o]; }
static NSDictionary *mil_options(void) {
    return [NSDictionary dictionaryWithObjectsAndKeys:@"kANEFModelMIL", @"kANEFModelType", @"model.mil", @"kANEFNetPlistFilenameKey", nil];
}

/* An _ANEModel of the client path whose files lie where an in-memory model put
 * them; the pool owns it. */
static id plain_model(id<Model> files) {
    return [(id<Factories>)named("_ANEModel") modelAtURL:[NSURL fileURLWithPath:[files localModelPath]] key:@"k"];
}
static void drop_files(id<Model> m) { [[NSFileManager defaultManager] removeItemAtPath:[m localModelPath] error:NULL]; }

/* ============================== Files and store =========================== */

static void deleted_staging_is_missed_later(void) { /* 11 */
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    NSError *e = nil;
    CHECK(set("staging_evals", "1"));
    id<Model> m = staged(mul_text, blob(HALF_2));
    CHECK(load(m) && eval(m, r));
    drop_files(m);
    CHECK(eval(m, r) && all(y, HALF_6)); /* one is good */
    for (int i = 0; i < 3; i++) {
        e = nil;
        CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && says(e, @"", 8, @"statusType=0x9: Program Inference error"));
    }
    CHECK(unload(m));
    /* The same when load reads nothing, because the program was compiled before: the daemon has it from there. */
    CHECK(set("staging_evals", "2"));
    m = staged(mul_text, blob(HALF_2));
    CHECK(compile(m) && load(m));
    for (int i = 0; i < 5; i++)
        CHECK(eval(m, r)); /* nothing has gone */
    drop_files(m);
    CHECK(eval(m, r) && eval(m, r) && !eval(m, r));
    CHECK(unload(m));
    /* Where there was no directory, none can be missed (9). */
    m = staged(mul_text, blob(HALF_2));
    CHECK(compile(m));
    drop_files(m);
    CHECK(load(m));
    for (int i = 0; i < 5; i++)
        CHECK(eval(m, r));
    CHECK(unload(m));
    CHECK(set("staging_evals", NULL));
    m = staged(mul_text, blob(HALF_2));
    CHECK(load(m));
    drop_files(m);
    for (int i = 0; i < 3; i++)
        CHECK(eval(m, r)); /* off: never missed */
    CHECK(unload(m));
}

static void partitions_and_purges_are_seen_by_the_classes(void) { /* 19, 20, 21 */
    char dir[200], command[300];
    snprintf(dir, sizeof dir, "/tmp/test_contract-%d", getpid());
    CHECK(set("store", "shared") && set("store_dir", dir));
    NSData *text = unique_text(mul_text), *w = blob(HALF_2);
    id<Model> m = make_model(text, w), other = make_model(text, w);
    stage(m, text, w);
    CHECK(compile(m) && [m compiledModelExists] && counter("shared_writes") > 0);
    CHECK(set("partition", "somebody else") && ![m compiledModelExists]);
    NSError *e = nil;
    CHECK(set("partition", NULL) && [other compiledModelExists]);
    drop_files(m);
    CHECK(load(other) && unload(other) && [other compiledModelExists]); /* kept */
    CHECK(set("unload_purges", "1"));
    CHECK(load(other) && unload(other) && ![other compiledModelExists] && ![m compiledModelExists]);
    CHECK(![other loadWithQoS:21 options:none() error:&e]);
    CHECK(set("unload_purges", NULL));
    stage(m, text, w);
    CHECK(compile(m) && [m compiledModelExists]);
    [other purgeCompiledModel];
    CHECK(![m compiledModelExists]);
    CHECK(set("store", NULL) && set("store_dir", NULL));
    drop_files(m);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    CHECK(system(command) == 0);
}

static void after_unload_has_two_forms(void) { /* 16 */
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    id<Model> m = staged(mul_text, blob(HALF_2));
    NSError *e = nil;
    CHECK(load(m) && unload(m));
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && says(e, @"", 23, @"Program not found"));
    CHECK(set("after_unload", "silent"));
    e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && e == nil && set("after_unload", NULL));
}

/* ============================== Symbols =================================== */

/* y = b - a * c, with ports of three sizes, declared in no order at all. */
static const char three_text[] = HEAD "func main<ios18>(tensor<fp16, [1, 4, 1, 32]> m_b, tensor<fp16, [1, 1, 1, 32]> z_a, tensor<fp16, [1, 4, 1, 32]> a_c) {\n"
    "tensor<fp16, [1, 4, 1, 32]> t = mul(x=z_a, y=a_c)[name=string(\"t\")];\n"
    "tensor<fp16, [1, 4, 1, 32]> q = sub(x=m_b, y=t)[name=string(\"q\")];\n"
    "tensor<fp16, [1, 4, 1, 32]> d = add(x=m_b, y=t)[name=string(\"d\")];\n} -> (q, d);\n}\n";

/* Bind by name, as every careful caller does; right results? */
static bool bound_by_name(id<Model> m, NSString **order) {
    NSDictionary *d = [[m modelAttributes] objectForKey:@"ANEFModelDescription"];
    NSArray *ins = [d objectForKey:@"kANEFModelInputSymbolsArrayKey"], *outs = [d objectForKey:@"kANEFModelOutputSymbolsArrayKey"];
    IOSurfaceRef b = filled(HALF_6), a = filled(HALF_2), c = filled(HALF_1), q = surface_of(BYTES), dd = surface_of(BYTES);
    NSArray *names = [NSArray arrayWithObjects:@"m_b", @"z_a", @"a_c", nil];
    NSArray *in = [NSArray arrayWithObjects:wrap(b), wrap(a), wrap(c), nil], *out = [NSArray arrayWithObjects:wrap(q), wrap(dd), nil];
    NSMutableArray *ii = [NSMutableArray array], *oi = [NSMutableArray array];
    for (NSString *name in names)
        [ii addObject:num((int)[ins indexOfObject:name])];
    [oi addObject:num((int)[outs indexOfObject:@"q@output"])];
    [oi addObject:num((int)[outs indexOfObject:@"d@output"])];
    *order = [NSString stringWithFormat:@"%@ -> %@", [ins componentsJoinedByString:@" "], [outs componentsJoinedByString:@" "]];
    return eval(m, request(in, ii, out, oi, num(0))) && all(q, 0x4400) && all(dd, 0x4800); /* 6 - 2, 6 + 2 */
}

static void symbols_come_in_any_order(void) { /* 29 */
    static const struct { const char *mode, *want; } modes[] = {
        {"name", "a_c m_b z_a -> d@output q@output"},
        {"declaration", "m_b z_a a_c -> q@output d@output"},
        {"size", "z_a a_c m_b -> d@output q@output"}, /* 64, 256, 256 bytes */
    };
    NSString *order;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        CHECK(set("order", modes[i].mode));
        id<Model> m = staged(three_text, nil);
        CHECK(load(m) && bound_by_name(m, &order));
        CHECK([order isEqual:[NSString stringWithUTF8String:modes[i].want]]);
        CHECK(unload(m));
    }
    NSMutableSet *seen = [NSMutableSet set];
    CHECK(set("order", "random"));
    for (int seed = 0; seed < 12; seed++) {
        NSString *again;
        set_count("seed", (uint64_t)seed);
        NSData *text = text_data([[NSString stringWithFormat:@"%s// order %d\n", three_text, seed] UTF8String]);
        id<Model> m = make_model(text, nil);
        stage(m, text, nil);
        CHECK(load(m) && bound_by_name(m, &order) && unload(m));
        [seen addObject:order];
        [m purgeCompiledModel];
        m = make_model(text, nil);
        stage(m, text, nil);
        CHECK(load(m) && bound_by_name(m, &again) && [again isEqual:order] && unload(m)); /* repeats */
    }
    CHECK([seen count] >= 4);
    CHECK(set("order", NULL) && set("seed", NULL));
}

static void the_first_procedure_can_answer_for_all(void) { /* 32 */
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Model> m = staged(two_text, nil);
    CHECK(load(m));
    id<Request> second = request(one(wrap(x)), one(num(1)), one(wrap(y)), one(num(1)), num(1));
    CHECK(eval(m, second) && all(y, 0x4880)); /* 3 * 3 */
    CHECK(set("procedures", "first") && eval(m, second) && all(y, HALF_6)); /* 3 + 3, and no error */
    NSDictionary *d = [[m modelAttributes] objectForKey:@"ANEFModelDescription"];
    CHECK([[d objectForKey:@"ANEFModelProcedures"] count] == 2);
    CHECK(set("procedures", NULL) && eval(m, second) && all(y, 0x4880) && unload(m));
}

static void narrow_rows_are_padded_or_refused(void) { /* 36 */
#define NARROW "tensor<fp16, [1, 4, 1, 16]>"
    static const char narrow[] = HEAD "func main<ios18>(" NARROW " x) {\n" NARROW " y = add(x=x, y=x)[name=string(\"y\")];\n} -> (y);\n}\n";
    id<Model> m = staged(narrow, nil), wide = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_1), y = surface_of(BYTES), packed = surface_of(4 * 16 * 2);
    uint16_t *p = IOSurfaceGetBaseAddress(x), *q = IOSurfaceGetBaseAddress(y);
    NSError *e = nil;
    CHECK(load(m) && load(wide));
    for (int c = 0; c < 4; c++) /* a row is 64 bytes apart from the next: half of it padding */
        for (int w = 0; w < 32; w++)
            p[c * 32 + w] = w < 16 ? HALF_3 : HALF_1;
    CHECK(eval(m, unary(x, y)) && q[0] == HALF_6 && q[15] == HALF_6 && q[3 * 32 + 15] == HALF_6);
    CHECK(![m evaluateWithQoS:21 options:none() request:unary(packed, y) error:&e] && says(e, @"", 8, @"status=0x1d"));
    CHECK(set("width_rule", "fail"));
    e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:unary(x, y) error:&e] && says(e, @"", 8, @"status=0x1d : statusType=0x9"));
    CHECK(eval(wide, unary(x, y)) && set("width_rule", NULL) && unload(m) && unload(wide));
}

static id<Model> thin(int channels, int columns) {
    NSString *t = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]>", channels, columns];
    return staged([[NSString stringWithFormat:@"%sfunc main<ios18>(%@ x) {\n%@ y = abs(x=x)[name=string(\"y\")];\n} -> (y);\n}\n", HEAD, t, t] UTF8String], nil);
}

static void many_channels_of_few_columns_may_fail(void) {
    static const struct { int channels, columns; bool fails; } cases[] = {{768, 1, false}, {769, 1, true}, {769, 31, true}, {1024, 32, false}, {768, 33, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        id<Model> m = thin(cases[i].channels, cases[i].columns);
        IOSurfaceRef x = surface_of(1024 * 128), y = surface_of(1024 * 128);
        NSError *e = nil;
        CHECK(load(m) && eval(m, unary(x, y)) && set("thin_channels", "768"));
        bool ok = [m evaluateWithQoS:21 options:none() request:unary(x, y) error:&e];
        CHECK(cases[i].fails ? !ok && says(e, @"", 8, @"status=0x1d : statusType=0x9") : ok && !e);
        CHECK(set("thin_channels", NULL) && unload(m));
    }
}

/* ============================== Asynchronous requests ===================== */

typedef struct HandlerBlock {
    void *isa;
    int flags, reserved;
    void (*invoke)(struct HandlerBlock *self, BOOL ok, NSError *error);
    _Atomic int calls, oks, code;
} HandlerBlock;

static void handler_called(HandlerBlock *b, BOOL ok, NSError *error) {
    b->oks += ok && !error;
    b->code = (int)[error code];
    b->calls++;
}

static bool reaches(_Atomic int *n, int value) {
    for (int i = 0; i < 10000 && *n < value; i++)
        sleep_ms(1);
    return *n == value;
}

static void a_full_queue_says_no_without_an_error(void) { /* 34 */
    static HandlerBlock b = {.invoke = handler_called};
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    NSError *e = nil;
    CHECK(load(m) && [m queueDepth] == 127 && set("async_wait_ms", "50"));
    [r setCompletionHandler:&b];
    failpoints("facade.eval=hold");
    bool accepted = true;
    for (int i = 0; i < 127; i++)
        accepted = accepted && eval(m, r);
    CHECK(accepted && [(id<Values>)[m program] requestsInFlight] == 127);
    double t0 = now_ms();
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && e == nil && now_ms() - t0 >= 50);
    failpoints("");
    CHECK(reaches(&b.calls, 127) && b.oks == 127 && [(id<Values>)[m program] requestsInFlight] == 0);
    CHECK(eval(m, r) && reaches(&b.calls, 128)); /* room again */
    failpoints("facade.eval=1*return(18)");
    CHECK(eval(m, r) && reaches(&b.calls, 129) && b.code == 8 && b.oks == 128); /* accepted; the handler hears of the failure */
    failpoints("");
    CHECK(set("async_wait_ms", NULL) && unload(m));
}

static void events_are_waited_for_and_signalled(void) {
    id<Factories> F = factory("_ANESharedEvents");
    id<Values> gate = [[[(Class)named("IOSurfaceSharedEvent") alloc] init] autorelease], done = [[[(Class)named("IOSurfaceSharedEvent") alloc] init] autorelease];
    id wait = [(id<Factories>)named("_ANESharedWaitEvent") waitEventWithValue:5 sharedEvent:gate];
    id signal = [(id<Factories>)named("_ANESharedSignalEvent") signalEventWithValue:9 symbolIndex:0 eventType:0 sharedEvent:done];
    id events = [F sharedEventsWithSignalEvents:one(signal) waitEvents:one(wait)];
    CHECK([(id<Values>)wait value] == 5 && [(id<Values>)signal value] == 9 && [(id<Values>)signal sharedEvent] == (id)done);
    CHECK([(id<Values>)[(id<Values>)signal waitEvent] value] == 9);
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    NSArray *zero = one(num(0));
    id r = [(id<Factories>)named("_ANERequest") requestWithInputs:one(wrap(x)) inputIndices:zero outputs:one(wrap(y)) outputIndices:zero
                                                    weightsBuffer:nil perfStats:nil procedureIndex:num(0) sharedEvents:events];
    CHECK(load(m) && eval(m, r)); /* accepted at once */
    sleep_ms(20);
    CHECK([done signaledValue] == 0 && all(y, 0));
    [gate setSignaledValue:5];
    for (int i = 0; i < 5000 && [done signaledValue] != 9; i++)
        sleep_ms(1);
    CHECK([done signaledValue] == 9 && all(y, HALF_6));

    static HandlerBlock b = {.invoke = handler_called}; /* an event that never comes */
    [gate setSignaledValue:0];
    [done setSignaledValue:0];
    [(id<Request>)r setCompletionHandler:&b];
    CHECK(set("async_wait_ms", "30") && eval(m, r) && reaches(&b.calls, 1));
    CHECK(b.oks == 0 && b.code == 3 && [done signaledValue] == 0 && set("async_wait_ms", NULL));

    NSMutableArray *many = [NSMutableArray array]; /* 28: at most 64 */
    for (int i = 0; i < 64; i++)
        [many addObject:signal];
    id request64 = [(id<Factories>)named("_ANERequest") requestWithInputs:one(wrap(x)) inputIndices:zero outputs:one(wrap(y)) outputIndices:zero
                        weightsBuffer:nil perfStats:nil procedureIndex:num(0) sharedEvents:[F sharedEventsWithSignalEvents:many waitEvents:nil]];
    CHECK([(id<Request>)request64 validate]);
    [many addObject:signal];
    id request65 = [(id<Factories>)named("_ANERequest") requestWithInputs:one(wrap(x)) inputIndices:zero outputs:one(wrap(y)) outputIndices:zero
                        weightsBuffer:nil perfStats:nil procedureIndex:num(0) sharedEvents:[F sharedEventsWithSignalEvents:many waitEvents:nil]];
    CHECK(![(id<Request>)request65 validate] && unload(m));
}

/* ============================== Direct and real time ====================== */

typedef struct {
    id model, request;
    unsigned qos;
    _Atomic int state; /* 1 running, 2 YES, 3 NO */
} Direct;

static void *direct_job(void *arg) {
    Direct *d = arg;
    GSRegisterCurrentThread();
    @autoreleasepool {
        d->state = 1;
        d->state = [client() doEvaluateDirectWithModel:d->model options:none() request:d->request qos:d->qos error:NULL] ? 2 : 3;
    }
    GSUnregisterCurrentThread();
    return NULL;
}

static void two_direct_evaluations_run_on_a_queue(void) { /* ane-api §14 */
    id<Model> files = staged(mul_text, blob(HALF_2));
    id m = plain_model(files);
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    NSError *e = nil;
    CHECK([client() compileModel:m options:mil_options() qos:21 error:NULL] && [client() loadModel:m options:none() qos:21 error:NULL]);
    CHECK([client() doEvaluateDirectWithModel:m options:none() request:r qos:21 error:NULL] && all(y, HALF_6));
    CHECK(set("direct_wait_ms", "60"));
    Direct d[2] = {{m, r, 21, 0}, {m, r, 21, 0}};
    pthread_t t[2];
    CHECK([r validate]);
    failpoints("facade.eval=hold");
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, direct_job, &d[i]);
    CHECK(reaches(&d[0].state, 1) && reaches(&d[1].state, 1));
    sleep_ms(100); /* both stand in the evaluation by now */
    double t0 = now_ms();
    CHECK(![client() doEvaluateDirectWithModel:m options:none() request:r qos:21 error:&e] && now_ms() - t0 >= 60);
    CHECK(says(e, @"", 3, @"doEvaluateDirectWithModel:options:request:qos:error:: timed out"));
    t0 = now_ms();
    CHECK(set("direct_limit", "0")); /* no limit: would be held with the others, so only the setting is checked */
    failpoints("");
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    CHECK(d[0].state == 2 && d[1].state == 2);
    CHECK(set("direct_limit", NULL) && [client() doEvaluateDirectWithModel:m options:none() request:r qos:21 error:NULL]);
    CHECK([client() evaluateRealTimeWithModel:m options:none() request:r error:NULL]);
    e = nil;
    CHECK(![client() doEvaluateDirectWithModel:nil options:none() request:r qos:21 error:&e] && e == nil);
    NSArray *zero = one(num(0)); /* an object of the wrong class throws; the place must come back */
    for (int i = 0; i < 3; i++) {
        @try {
            [client() doEvaluateDirectWithModel:m options:none() request:request(one(@"no surface"), zero, one(wrap(y)), zero, num(0)) qos:21 error:NULL];
        } @catch (id thrown) {
        }
    }
    CHECK([client() doEvaluateDirectWithModel:m options:none() request:r qos:21 error:NULL]);
    CHECK(set("direct_wait_ms", NULL) && [client() unloadModel:m options:none() qos:21 error:NULL]);
    drop_files(files);
}

static void real_time_may_need_an_entitlement(void) {
    id<Model> files = staged(mul_text, blob(HALF_2));
    id m = plain_model(files);
    NSError *e = nil;
    CHECK([client() compileModel:m options:mil_options() qos:0 error:NULL]); /* allowed by default, as measured */
    CHECK(![client() beginRealTimeTask] && ![client() endRealTimeTask]);
    CHECK(set("realtime", "refuse"));
    CHECK(![client() compileModel:m options:mil_options() qos:0 error:&e] &&
          says(e, @"", 2, @"compileModel:options:qos:error:: Realtime priority requires restricted access connection and (com.apple.aned.private.allow) entitlement"));
    CHECK(![client() loadRealTimeModel:m options:none() qos:21 error:&e] && says(e, @"", 2, @"loadModel:options:qos:error:: Realtime"));
    CHECK([client() loadModel:m options:none() qos:21 error:NULL]);
    CHECK(![client() unloadRealTimeModel:m options:none() qos:21 error:&e] && says(e, @"", 2, @"unloadModel:"));
    CHECK([client() unloadModel:m options:none() qos:21 error:NULL]);
    CHECK(set("entitled", "1") && [client() beginRealTimeTask] && [client() endRealTimeTask]);
    CHECK([client() compileModel:m options:mil_options() qos:0 error:NULL] && [client() loadRealTimeModel:m options:none() qos:21 error:NULL]);
    CHECK([client() unloadRealTimeModel:m options:none() qos:21 error:NULL]);
    CHECK(set("entitled", NULL) && set("realtime", NULL));
    drop_files(files);
}

/* ============================== Classes that refuse ======================= */

static void chaining_is_refused(void) {
    id<Model> files = staged(mul_text, blob(HALF_2));
    id m = plain_model(files);
    NSError *e = nil;
    IOSurfaceRef x = filled(HALF_3);
    id buffer = [(id<Factories>)named("_ANEBuffer") bufferWithIOSurfaceObject:wrap(x) symbolIndex:num(0) source:1];
    id sets = [(id<Factories>)named("_ANEIOSurfaceOutputSets") objectWithstatsSurRef:x outputBuffer:one(buffer)];
    id chain = [(id<Factories>)named("_ANEChainingRequest") chainingRequestWithInputs:one(buffer) outputSets:one(sets) lbInputSymbolId:num(0)
                                        lbOutputSymbolId:num(0) procedureIndex:num(0) signalEvents:nil transactionHandle:num(1) fwEnqueueDelay:num(0) memoryPoolId:num(0)];
    CHECK([(id<Values>)buffer source] == 1 && [(id<Values>)chain validate] && [sets valueForKey:@"outputBuffer"] != nil);
    CHECK(![(id<Factories>)named("_ANEBuffer") bufferWithIOSurfaceObject:nil symbolIndex:num(0) source:0]);
    CHECK(![client() prepareChainingWithModel:m options:none() chainingReq:chain qos:21 error:&e] &&
          says(e, @"", 15, @"prepareChainingWithModel:options:chainingReq:qos:error:: Program chaining prepare error"));
    CHECK(![client() enqueueSetsWithModel:m outputSet:sets options:none() qos:21 error:&e] && says(e, @"", 15, @"enqueueSetsWithModel:"));
    CHECK(![client() buffersReadyWithModel:m inputBuffers:one(buffer) options:none() qos:21 error:&e] && says(e, @"", 15, @"buffersReadyWithModel:"));
    CHECK(![client() mapIOSurfacesWithModel:m request:unary(x, x) cacheInference:YES error:&e] && says(e, @"", 13, @"(0x12)"));
    e = nil;
    CHECK(![client() prepareChainingWithModel:nil options:none() chainingReq:chain qos:21 error:&e] && e == nil && ![client() echo:@"x"]);
    drop_files(files);
}

static void statistics_stay_zero(void) {
    id<Factories> S = factory("_ANEPerformanceStats");
    unsigned int size = 64;
    void *buffer = &size;
    CHECK([(Class)named("_ANEPerformanceStats") new] == nil && [[(Class)named("_ANEPerformanceStats") alloc] init] == nil);
    CHECK([(id<Values>)[S statsWithHardwareExecutionNS:7] hwExecutionTime] == 7);
    CHECK([(id<Values>)[S statsWithReconstructed:nil hardwareExecutionNS:8 aneStatsRawData:nil] hwExecutionTime] == 8);
    id<Values> s = [S statsWithRequestPerformanceBuffer:&buffer statsBufferSize:&size];
    CHECK(s && [s hwExecutionTime] == 0 && [[s performanceCounters] count] == 0 && [s perfCounterData] == nil);
    CHECK(![S statsWithRequestPerformanceBuffer:NULL statsBufferSize:&size] && [S driverMaskForANEFMask:0xffffffff] == 0);

    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES), stats = surface_of(BYTES);
    id<Factories> P = factory("_ANEPerformanceStatsIOSurface");
    id good = [P objectWithIOSurface:wrap(stats) statType:1], bad = [P objectWithIOSurface:wrap(stats) statType:3];
    CHECK([(id<Values>)good statType] == 1 && [(id<Values>)good stats] != nil && ![P objectWithIOSurface:nil statType:0]);
    id<Model> m = staged(mul_text, blob(HALF_2));
    NSArray *zero = one(num(0)), *two = [NSArray arrayWithObjects:good, good, nil];
    id<Factories> R = factory("_ANERequest");
    CHECK(load(m));
    [(id<Values>)m setPerfStatsMask:0xffffffff];
    CHECK([(id<Values>)m perfStatsMask] == 0xffffffff);
#define WITH(stat) [R requestWithInputs:one(wrap(x)) inputIndices:zero outputs:one(wrap(y)) outputIndices:zero weightsBuffer:nil perfStats:stat procedureIndex:num(0) sharedEvents:nil]
    CHECK(eval(m, WITH(one(good))) && all(y, HALF_6) && all(stats, 0)); /* nothing is handed out */
    CHECK(!eval(m, WITH(one(bad))) && !eval(m, WITH(two)));             /* 28 */
    CHECK(unload(m));
}

static void weights_are_not_swapped(void) {
    id<Values> w = [(id<Factories>)named("_ANEWeight") weightWithSymbolAndURL:@"w" weightURL:[NSURL fileURLWithPath:@"/tmp/w.bin"]];
    CHECK([[w weightSymbol] isEqual:@"w"] && [[[w weightURL] path] isEqual:@"/tmp/w.bin"] && [(Class)named("_ANEWeight") new] == nil);
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES), other = filled(HALF_1);
    NSArray *zero = one(num(0));
    id r = [(id<Factories>)named("_ANERequest") requestWithInputs:one(wrap(x)) inputIndices:zero outputs:one(wrap(y)) outputIndices:zero
                                                    weightsBuffer:wrap(other) perfStats:nil procedureIndex:num(0) sharedEvents:nil];
    CHECK(load(m) && eval(m, r) && all(y, HALF_6) && [(id<Request>)r ioSurfacesCount] == 3); /* no effect */
    CHECK(unload(m));

    id<Model> files = staged(mul_text, blob(HALF_2));
    id model = plain_model(files);
    id data = [(id<Factories>)named("_ANEProcedureData") procedureDataWithSymbol:@"main" weightArray:one(w)];
    id params = [(id<Factories>)named("_ANEModelInstanceParameters") withProcedureData:data procedureArray:one(data)];
    NSError *e = nil;
#define INSTANCE(model, params) [client() loadModelNewInstance:model options:mil_options() modelInstParams:params qos:21 error:&e]
    CHECK(!INSTANCE(nil, params) && e == nil);
    CHECK(!INSTANCE(model, nil) && says(e, @"", 20, @"loadModelNewInstance:options:modelInstParams:qos:error:: invalid model instance"));
    CHECK(!INSTANCE(model, params) && says(e, @"", 18, @"base model identifier not found for new instance"));
    CHECK([client() compileModel:model options:mil_options() qos:21 error:NULL]);
    CHECK(!INSTANCE(model, params) && says(e, @"", 21, @"Program load new instance failure"));
    id cached = [(id<Factories>)named("_ANEModel") modelAtURLWithSourceURL:[NSURL fileURLWithPath:[files localModelPath]] sourceURL:nil key:@"k" cacheURLIdentifier:@"c"];
    CHECK(!INSTANCE(cached, params) && says(e, @"", 19, @"model cacheURLIdentifier for new instance should be nil"));

    CHECK([client() compileModel:cached options:mil_options() qos:21 error:NULL]); /* found again by its name alone */
    id bare = [(id<Factories>)named("_ANEModel") modelWithCacheURLIdentifier:@"c"], unknown = [(id<Factories>)named("_ANEModel") modelWithCacheURLIdentifier:@"d"];
    CHECK([client() loadModel:bare options:none() qos:21 error:NULL] && [client() unloadModel:bare options:none() qos:21 error:NULL]);
    CHECK(![client() loadModel:unknown options:none() qos:21 error:&e] && says(e, @"", 17, @"model identifier not found"));
    CHECK(![client() compileModel:bare options:mil_options() qos:21 error:&e] && says(e, @"", 16, @"file not found"));
    drop_files(files);
}

/* ============================== Errors and faults ========================= */

static void every_notification_has_its_error(void) { /* 59 */
    static const struct { int injected, code; const char *text; } table[] = {
        {0x1d, 8, "status=0x1d : statusType=0x9: Program Inference error"},
        {0x02, 8, "status=0x2 : statusType=0x9: Program Inference error"},
        {0x12, 8, "status=0x12 : statusType=0x9: Program Inference error"},
        {0x16, 8, "status=0x16 : statusType=0x9: Program Inference error"},
        {14, 23, "status=0xe : statusType=0x9: Program not found: Program Inference error"},
        {15, 3, "status=0xf : statusType=0x9: Program Inference timeout: timed out"},
        {8005, 8, "status=0x5 : statusType=0x8: Program Inference error"},
        {19033, 5, ": 0x21: Program Inference overflow"},
        {19000, 8, "Expecting EventPayLoad 0x13: Program Inference error"},
    };
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    char text[64];
    unsigned int value = 99;
    CHECK(load(m));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        NSError *e = nil;
        snprintf(text, sizeof text, "facade.eval=1*return(%d)", table[i].injected);
        failpoints(text);
        CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && says(e, @"", table[i].code, [NSString stringWithUTF8String:table[i].text]));
        CHECK([[e localizedDescription] hasPrefix:@"processRequest:model:qos:qIndex:modelStringID:options:returnValue:error:: "]);
    }
    failpoints("facade.eval=1*return(999)");
    NSError *e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && e == nil); /* refused at once */
    failpoints("facade.eval=1*return(18)");
    id<Values> p = [m program];
    CHECK(![p processRequest:r model:nil qos:21 qIndex:5 modelStringID:0 options:none() returnValue:&value error:&e] && value == 18);
    CHECK([p processRequest:r model:nil qos:21 qIndex:5 modelStringID:0 options:none() returnValue:&value error:NULL] && value == 0);
    failpoints("");
    id<Values> dead = [(id<Factories>)named("_ANEProgramForEvaluation") programWithHandle:12345 intermediateBufferHandle:0 queueDepth:127];
    CHECK(![dead processRequest:r model:nil qos:21 qIndex:5 modelStringID:0 options:none() returnValue:&value error:&e] && value == 2);
    CHECK(unload(m));
}

static void the_nth_operation_fails_and_the_rest_work(void) { /* 13, 60, 62, 64 */
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    NSError *e = nil;
    failpoints("facade.compile=2*off->1*return;facade.load=1*off->1*return;facade.unload=1*off->1*return");
    id<Model> m[3];
    for (int i = 0; i < 3; i++) {
        m[i] = staged(mul_text, blob(HALF_2));
        CHECK(compile(m[i]) == (i != 2)); /* the third compile */
    }
    CHECK(load(m[0]) && !load(m[1]) && load(m[1])); /* the second load, once */
    CHECK(eval(m[0], r) && eval(m[1], r));          /* what is loaded stays good */
    CHECK(unload(m[0]) && ![m[1] unloadWithQoS:21 error:&e] && says(e, @"", 17, @"model identifier not found"));
    CHECK(!there([m[1] localModelPath]) && unload(m[1])); /* 10: the directory goes all the same */
    CHECK(compile(m[2]));

    failpoints("facade.save=1*return"); /* disk full: bare NO */
    id<Model> full = staged(mul_text, blob(HALF_2));
    e = nil;
    CHECK(![full compileWithQoS:21 options:none() error:&e] && e == nil && compile(full) && load(full));

    failpoints("facade.eval=3*off->1*return(18)"); /* cancelled: the next try is good */
    for (int i = 0; i < 5; i++) {
        e = nil;
        fill(y, 0);
        BOOL ok = [full evaluateWithQoS:21 options:none() request:r error:&e];
        CHECK(i == 3 ? !ok && says(e, @"", 8, @"status=0x12") && all(y, 0) : ok && all(y, HALF_6));
    }
    failpoints("run.zero=1*return->1*off;run.nan=1*off->1*return;run.stale=2*off->1*return;run.flip=3*off->1*return");
    CHECK(eval(full, r) && all(y, 0));      /* YES, and zeros */
    CHECK(eval(full, r) && all(y, 0xffff)); /* YES, and NaN */
    fill(y, HALF_1);
    CHECK(eval(full, r) && all(y, HALF_1)); /* YES, and what was there before */
    failpoints("run.flip=1*return");
    CHECK(eval(full, r));
    int bits = 0;
    const uint16_t *q = IOSurfaceGetBaseAddress(y);
    for (int i = 0; i < N; i++)
        bits += __builtin_popcount(q[i] ^ HALF_6);
    CHECK(bits == 1); /* YES, and one bit of all of them is another */
    failpoints("facade.eval=delay(60)");
    double t0 = now_ms();
    CHECK(eval(full, r) && now_ms() - t0 >= 60);
    failpoints("arena.alloc=1*return"); /* memory is short once */
    id<Model> poor = staged(mul_text, blob(HALF_2));
    CHECK(!compile(poor));
    failpoints("");
    CHECK(compile(poor) && load(poor) && eval(poor, r) && all(y, HALF_6) && unload(poor) && unload(full));
}

typedef struct {
    id<Model> model;
    _Atomic int state;
} Compile;

static void *compile_job(void *arg) {
    Compile *c = arg;
    GSRegisterCurrentThread();
    @autoreleasepool {
        c->state = 1;
        c->state = [c->model compileWithQoS:17 options:none() error:NULL] ? 2 : 3;
    }
    GSUnregisterCurrentThread();
    return NULL;
}

static void a_compile_that_hangs_stops_its_own_queue_only(void) { /* 61, 23, 24 */
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    CHECK(load(m));
    Compile c = {staged(mul_text, blob(HALF_1)), 0};
    pthread_t t;
    failpoints("facade.compile=hold");
    pthread_create(&t, NULL, compile_job, &c);
    CHECK(reaches(&c.state, 1));
    sleep_ms(30);
    CHECK(eval(m, r) && [m evaluateWithQoS:17 options:none() request:r error:NULL] && c.state == 1);
    CHECK([m unloadWithQoS:21 error:NULL] && c.state == 1); /* another level */
    failpoints(""); /* ends the hold */
    pthread_join(t, NULL);
    CHECK(c.state == 2);
    drop_files(c.model);
}

static void equal_programs_share_their_files(void) { /* 12 */
    NSData *text = unique_text(mul_text), *w = blob(HALF_2);
    id<Model> a = make_model(text, w);
    stage(a, text, w);
    CHECK(compile(a) && load(a));
    stage(a, text, w);
    Compile c = {make_model(text, w), 0};
    pthread_t t;
    failpoints("facade.compile=hold");
    pthread_create(&t, NULL, compile_job, &c);
    CHECK(reaches(&c.state, 1));
    sleep_ms(50); /* it is held before it looks for its files */
    CHECK(unload(a));
    failpoints("");
    pthread_join(t, NULL);
    CHECK(c.state == 3);
}

static void levels_can_be_made_to_wait_for_each_other(void) { /* 23 */
    Compile c = {staged(mul_text, blob(HALF_1)), 0};
    pthread_t t;
    CHECK(set("qos_overlap", "0"));
    failpoints("facade.compile=1*delay(300)");
    pthread_create(&t, NULL, compile_job, &c);
    CHECK(reaches(&c.state, 1));
    sleep_ms(50);
    id<Model> m = staged(mul_text, blob(HALF_2));
    CHECK(compile(m) && [c.model compiledModelExists]); /* QoS 21 waited for QoS 17 */
    pthread_join(t, NULL);
    failpoints("");
    CHECK(c.state == 2 && set("qos_overlap", NULL));
    drop_files(c.model);
    drop_files(m);
}

int main(void) {
    @autoreleasepool {
        keep = [[NSMutableArray alloc] init];
        CHECK(set("compile_limit", "0"));
        void (*const tests[])(void) = {
            deleted_staging_is_missed_later, partitions_and_purges_are_seen_by_the_classes, after_unload_has_two_forms,
            symbols_come_in_any_order, the_first_procedure_can_answer_for_all, narrow_rows_are_padded_or_refused, many_channels_of_few_columns_may_fail,
            a_full_queue_says_no_without_an_error, events_are_waited_for_and_signalled, two_direct_evaluations_run_on_a_queue,
            real_time_may_need_an_entitlement, chaining_is_refused, statistics_stay_zero, weights_are_not_swapped,
            every_notification_has_its_error, the_nth_operation_fails_and_the_rest_work,
            a_compile_that_hangs_stops_its_own_queue_only, equal_programs_share_their_files, levels_can_be_made_to_wait_for_each_other};
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
            @autoreleasepool {
                tests[i]();
            }
        }
        [keep release];
    }
    printf("test_contract: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
