// SPDX-License-Identifier: MIT
/* test_facade.m - the private classes, used as a program on macOS uses them:
 * by name, through typed sends, with IOSurface functions. Knows softane only
 * through softane.h (settings and counters). The numbers in comments are the
 * rows of the table of behaviours in facts, limits-and-quirks.md §9.
 * One verdict line at the end; exit 1 on failure. */
#import "facade_programs.h"

/* ============================== Identity (rows 1-5) ======================= */

static void the_identity_is_the_known_hash(void) {
    id<DescriptorClass> D = named("_ANEInMemoryModelDescriptor");
    NSDictionary *empty_inner = [NSDictionary dictionaryWithObject:none() forKey:@"@model_path/weights/w.bin"];
    CHECK([D modelWithMILText:nil weights:none() optionsPlist:nil] == nil);                    /* 1 */
    CHECK([D modelWithMILText:text_data("abc") weights:nil optionsPlist:nil] == nil);
    CHECK([D modelWithMILText:text_data("abc") weights:empty_inner optionsPlist:nil] == nil);
    CHECK([D new] == nil);
    bool threw = false;
    @try {
        [D modelWithMILText:@"abc" weights:none() optionsPlist:nil];                           /* 2 */
    } @catch (NSException *x) {
        threw = true;
    }
    CHECK(threw);

#define H_ABC @"BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
#define H_NONE @"DF3F619804A92FDB4057192DC43DD748EA778ADC52BC498CE80524C014B81119"
#define H_AB @"FEB5A3A4AC29C4F4ED0AA5DC6CB753D76BCF2DAF9867FCF103963CF434A829FA"
#define H_EMPTY @"E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
    CHECK([[make_model(text_data("abc"), nil) hexStringIdentifier] isEqual:H_ABC @"_" H_NONE @"_" H_EMPTY]); /* 3 */
    NSData *a = [NSData dataWithBytes:"\1\2" length:2], *b = [NSData dataWithBytes:"\3" length:1];
    NSDictionary *ab = [NSDictionary dictionaryWithObjectsAndKeys:[NSDictionary dictionaryWithObjectsAndKeys:b, @"data", num(0), @"offset", nil], @"b",
                                     [NSDictionary dictionaryWithObjectsAndKeys:num(0), @"offset", a, @"data", nil], @"a", nil];
    NSDictionary *named_otherwise = [NSDictionary dictionaryWithObjectsAndKeys:[NSDictionary dictionaryWithObject:a forKey:@"p"], @"x1",
                                     [NSDictionary dictionaryWithObject:b forKey:@"q"], @"x2", nil];
    id d1 = [D modelWithMILText:text_data("abc") weights:ab optionsPlist:nil];
    id d2 = [D modelWithMILText:text_data("abc") weights:named_otherwise optionsPlist:[NSData data]];
    CHECK([[d1 performSelector:@selector(hexStringIdentifier)] isEqual:H_ABC @"_" H_AB @"_" H_EMPTY]);
    CHECK([d1 isEqual:d2] && [d1 hash] == [d2 hash]); /* names do not count; nil and empty plist are one */

    id<Model> m1 = make_model(text_data("abc"), blob(HALF_2)), m2 = make_model(text_data("abc"), blob(HALF_2)); /* 4 */
    CHECK([[m1 hexStringIdentifier] isEqual:[m2 hexStringIdentifier]] && [[m1 localModelPath] isEqual:[m2 localModelPath]]);
    CHECK(![[m1 hexStringIdentifier] isEqual:[make_model(text_data("abc"), blob(HALF_3)) hexStringIdentifier]]);
    CHECK([[m1 localModelPath] isEqual:[NSTemporaryDirectory() stringByAppendingPathComponent:[m1 hexStringIdentifier]]]);
}

static void bad_text_is_noticed_at_compile_only(void) { /* 5, 39, 57 */
    id<Model> m = staged("this is no program\n", nil);
    NSError *e = nil;
    CHECK(m != nil && [m state] == 0);
    CHECK(![m compileWithQoS:21 options:none() error:&e] && says(e, @".compiler", 1, @"FAILED: err=( InvalidMILProgram )"));
    CHECK([[[e userInfo] objectForKey:@"NSDebugDescription"] hasPrefix:@"1:"]); /* line:col: … */
    CHECK([[[e userInfo] objectForKey:@"NSLocalizedFailureReason"] isEqual:@"_ANECompiler : ANECCompile() FAILED"]);
    CHECK(![m compileWithQoS:21 options:none() error:NULL] && ![m compiledModelExists]);
    unload(m);
}

/* ============================== Files (rows 6-13) ========================= */

static void compile_writes_its_files_and_drops_the_descriptor(void) { /* 6 */
    NSData *text = unique_text(mul_text), *w = blob(HALF_2);
    id<Model> m = make_model(text, w);
    stage(m, text, w);
    NSString *dir = [m localModelPath];
    CHECK([m descriptor] != nil && [m modelURL] == nil);
    CHECK(compile(m) && [m compiledModelExists] && [m state] == 0);
    CHECK([[NSData dataWithContentsOfFile:[dir stringByAppendingPathComponent:@"net.plist"]] isEqual:text]);
    CHECK([[NSData dataWithContentsOfFile:[dir stringByAppendingPathComponent:@"data"]] isEqual:w]);
    CHECK([m descriptor] == nil && [[[m modelURL] path] isEqual:dir]);
    unload(m);

    /* the source is the file that the option names */
    text = unique_text(mul_text);
    m = make_model(text, w);
    stage(m, text, w);
    dir = [m localModelPath];
    CHECK(rename([[dir stringByAppendingPathComponent:@"model.mil"] fileSystemRepresentation],
                 [[dir stringByAppendingPathComponent:@"other.mil"] fileSystemRepresentation]) == 0);
    CHECK(!compile(m));                                                                   /* 7 */
    NSDictionary *o = [NSDictionary dictionaryWithObject:@"other.mil" forKey:@"kANEFNetPlistFilenameKey"];
    CHECK([m compileWithQoS:21 options:o error:NULL]);
    unload(m);

    m = staged(mul_text, w);                                                              /* 7: weight file */
    [[NSFileManager defaultManager] removeItemAtPath:[[m localModelPath] stringByAppendingPathComponent:@"weights/w.bin"] error:NULL];
    NSError *e = nil;
    CHECK(![m compileWithQoS:21 options:none() error:&e] && says(e, @".compiler", 1, @"err=("));
    unload(m);

    m = staged(mul_text, w);                                                              /* 13 */
    failpoints("facade.save=1*return");
    e = nil;
    CHECK(![m compileWithQoS:21 options:none() error:&e] && e == nil);
    failpoints("");
    CHECK(compile(m));
    unload(m);
}

static void weights_are_frozen_at_compile(void) { /* 8, 9, 10, 11 */
    NSMutableData *w = [[blob(HALF_2) mutableCopy] autorelease];
    id<Model> m = staged(mul_text, w);
    NSString *dir = [m localModelPath], *file = [dir stringByAppendingPathComponent:@"weights/w.bin"];
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    CHECK(compile(m) && load(m) && eval(m, r) && all(y, HALF_6));
    memset((char *)[w mutableBytes] + 128, 0, BYTES);
    [blob(HALF_1) writeToFile:file atomically:NO];
    fill(y, 0);
    CHECK(eval(m, r) && all(y, HALF_6));
    CHECK([[NSFileManager defaultManager] removeItemAtPath:dir error:NULL]);
    CHECK(eval(m, r)); /* 11: staging deleted while loaded: off by default */
    stage(m, unique_text(mul_text), blob(HALF_1));
    CHECK(unload(m) && !there(dir) && [m state] == 3);                                     /* 10 */
    fill(y, 0);
    CHECK(load(m) && eval(m, r) && all(y, HALF_6) && !there(dir));                         /* 9: nothing read */

    /* the directory goes although the unload fails */
    stage(m, unique_text(mul_text), blob(HALF_1));
    failpoints("facade.unload=1*return");
    NSError *e = nil;
    CHECK(![m unloadWithQoS:21 error:&e] && says(e, @"", 17, @"unloadModel:options:qos:error:: ") && !there(dir));
    failpoints("");
    CHECK(eval(m, r) && unload(m));
}

static void load_by_identity_reads_nothing(void) { /* 9 */
    NSData *text = unique_text(mul_text), *w = blob(HALF_2);
    id<Model> m = make_model(text, w), other = make_model(text, w), forged = staged(sub_text, nil);
    stage(m, text, w);
    CHECK(compile(m) && [other compiledModelExists]);
    CHECK([[NSFileManager defaultManager] removeItemAtPath:[m localModelPath] error:NULL]);
    CHECK(load(other) && [other descriptor] != nil && !there([other localModelPath])); /* cached: the weights stay alive */
    [forged setHexStringIdentifier:[m hexStringIdentifier]];
    CHECK(load(forged) && [[[[forged modelAttributes] objectForKey:@"ANEFModelDescription"]
                               objectForKey:@"kANEFModelInputSymbolsArrayKey"] isEqual:[NSArray arrayWithObject:@"x"]]);
    CHECK(unload(forged) && unload(other));
}

static void equal_programs_share_one_directory(void) { /* 12 */
    NSData *text = unique_text(mul_text), *w = blob(HALF_2);
    id<Model> a = make_model(text, w), b = make_model(text, w);
    stage(a, text, w);
    CHECK(compile(a) && load(a) && unload(a)); /* takes b's files away */
    CHECK(!compile(b));
    stage(b, text, w);
    CHECK(compile(b) && load(b) && unload(b));
}

/* ============================== Life (rows 14-19) ========================= */

static void dropping_a_model_does_not_unload_it(void) { /* 14 */
    uint64_t loaded = counter("loaded");
    @autoreleasepool {
        id<Model> m = staged(sub_text, nil);
        CHECK(load(m));
        [[NSFileManager defaultManager] removeItemAtPath:[m localModelPath] error:NULL];
    }
    CHECK(counter("loaded") == loaded + 1);
}

static void the_states_follow_the_calls(void) { /* 15, 16, 18, 19 */
    id<Model> m = staged(sub_text, nil);
    IOSurfaceRef a = filled(HALF_3), b = filled(HALF_2), y = surface_of(BYTES);
    id<Request> r = binary(a, 0, b, 1, y);
    NSError *e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && e == nil);         /* 15 */
    CHECK([m state] == 0 && [m programHandle] == 0 && [m queueDepth] == 0 && [m program] == nil);
    CHECK(![m unloadWithQoS:21 error:&e] && e == nil);
    stage(m, unique_text(sub_text), nil); /* the failed unload removed it all the same */
    uint64_t compiles = counter("compiles");
    CHECK(load(m) && counter("compiles") == compiles + 1);                                /* 18 */
    CHECK([m state] == 3 && [m programHandle] != 0 && [m queueDepth] == 127 && [m intermediateBufferHandle] == 0);
    CHECK([m program] != nil && [(id<InnerModel>)[m model] state] == 3 && [(id)m valueForKey:@"model"] == [m model]);
    CHECK([m evaluateWithQoS:21 options:none() request:r error:&e] && e == nil && all(y, HALF_1));
    CHECK(unload(m) && [m state] == 3 && [(id<InnerModel>)[m model] state] == 4);
    CHECK([[(id<InnerModel>)[m model] modelAttributes] count] == 0);
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] &&                    /* 16 */
          says(e, @"", 23, @"status=0xe : statusType=0x9: Program not found: Program Inference error"));
    e = nil;
    CHECK(![m unloadWithQoS:21 error:&e] && says(e, @"", 17, @"model identifier not found"));

    CHECK([m compiledModelExists] && load(m) && eval(m, r) && unload(m));                 /* 19 */
    [m purgeCompiledModel];
    CHECK(![m compiledModelExists] && !load(m)); /* no entry, no files */
}

static void a_lost_device_can_be_loaded_again(void) { /* 63 */
    id<Model> m = staged(sub_text, nil);
    IOSurfaceRef a = filled(HALF_3), b = filled(HALF_2), y = surface_of(BYTES);
    id<Request> r = binary(a, 0, b, 1, y);
    NSError *e = nil;
    uint64_t loaded = counter("loaded");
    CHECK(load(m) && load(m) && counter("loaded") == loaded + 1); /* a second load takes no second slot */
    CHECK(compile(m) && eval(m, r) && unload(m) && counter("loaded") == loaded); /* nor does a compile lose the first */
    stage(m, unique_text(sub_text), nil);
    CHECK(load(m));
    failpoints("device.gone=1*return");
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && says(e, @"", 23, @"Program not found"));
    CHECK(counter("loaded") == 0 && ![m compiledModelExists]);
    failpoints("");
    CHECK(load(m) && eval(m, r) && all(y, HALF_1) && counter("loaded") == 1 && unload(m));
}

static void nil_options_lose_the_model_type(void) { /* 17 */
    id<Model> m = staged(sub_text, nil);
    NSError *e = nil;
    CHECK(![m compileWithQoS:21 options:nil error:&e] && says(e, @".espresso", -1, @"Cannot load network '"));
    e = nil;
    CHECK(![m loadWithQoS:21 options:nil error:&e] && says(e, @".espresso", -1, @"model.espresso.net'"));
    CHECK(compile(m) && load(m) && unload(m));
}

/* ============================== Queues (rows 22-27) ======================= */

typedef struct {
    id<Model> model;
    unsigned qos;
    _Atomic bool ok;
} Job;

static void *compile_job(void *arg) {
    Job *j = arg;
    GSRegisterCurrentThread();
    @autoreleasepool {
        j->ok = [j->model compileWithQoS:j->qos options:none() error:NULL];
    }
    GSUnregisterCurrentThread();
    return NULL;
}

/* Wall time of two compiles of 250 ms each. */
static double two_compiles(unsigned q1, unsigned q2) {
    Job j[2] = {{staged(sub_text, nil), q1, false}, {staged(sub_text, nil), q2, false}};
    pthread_t t[2];
    failpoints("facade.compile=delay(250)");
    double t0 = now_ms();
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, compile_job, &j[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    double ms = now_ms() - t0;
    failpoints("");
    CHECK(j[0].ok && j[1].ok);
    unload(j[0].model), unload(j[1].model);
    return ms;
}

/* A busy machine can only make the time longer: one short try of three is proof. */
static bool two_overlap(unsigned q1, unsigned q2) {
    for (int i = 0; i < 3; i++)
        if (two_compiles(q1, q2) < 480)
            return true;
    return false;
}

static void levels_are_serial_evaluations_are_not(void) {
    CHECK(two_compiles(17, 17) >= 499); /* 22 */
    CHECK(two_overlap(17, 21));         /* 23 */
    CHECK(two_compiles(42, 43) >= 499); /* 27: both are queue 5 */

    id<Model> m = staged(sub_text, nil);
    IOSurfaceRef a = filled(HALF_3), b = filled(HALF_2), y = surface_of(BYTES);
    id<Request> good = binary(a, 0, b, 1, y), bad = binary(a, 0, b, 7, y);
    CHECK(load(m));
    Job j = {staged(sub_text, nil), 17, false};
    pthread_t t;
    failpoints("facade.compile=delay(400)");
    pthread_create(&t, NULL, compile_job, &j);
    sleep_ms(30);
    double t0 = now_ms();
    for (int i = 0; i < 50; i++)
        CHECK([m evaluateWithQoS:17 options:none() request:good error:NULL]); /* 24 */
    CHECK(now_ms() - t0 < 350 && !j.ok);
    CHECK(![m evaluateWithQoS:17 options:none() request:bad error:NULL] && !j.ok); /* no pointer: no report */
    NSError *e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:bad error:&e] && e && !j.ok); /* another level */
    e = nil;
    CHECK(![m evaluateWithQoS:17 options:none() request:bad error:&e] && e && [j.model compiledModelExists]); /* 25: waited for the compile */
    pthread_join(t, NULL);
    failpoints("");
    unload(m), unload(j.model);

    CHECK(softane_set("timing", "m5") == 0); /* 26 */
    m = staged(sub_text, nil);
    t0 = now_ms();
    CHECK(compile(m) && now_ms() - t0 >= 11.9);
    t0 = now_ms();
    CHECK(load(m) && now_ms() - t0 >= 1.7);
    t0 = now_ms();
    for (int i = 0; i < 10; i++)
        CHECK(eval(m, good));
    CHECK(now_ms() - t0 >= 0.8);
    CHECK(softane_set("timing", NULL) == 0);
    unload(m);
}

/* ============================== Requests (rows 28-37) ===================== */

static NSArray *repeat(id o, int n) {
    NSMutableArray *a = [NSMutableArray array];
    while (n-- > 0)
        [a addObject:o];
    return a;
}

static void broken_requests_fail_without_an_error(void) { /* 28 */
    id<Model> m = staged(sub_text, nil);
    CHECK(load(m));
    id s = wrap(filled(HALF_1));
    NSArray *one = repeat(s, 1), *zero = repeat(num(0), 1), *empty = [NSArray array];
    id<Request> bad[] = {
        request(empty, zero, one, zero, num(0)), request(one, zero, empty, zero, num(0)),
        request(one, empty, one, zero, num(0)),  request(one, zero, one, empty, num(0)),
        request(nil, zero, one, zero, num(0)),   request(one, repeat(num(0), 2), one, zero, num(0)),
        request(one, zero, repeat(s, 2), zero, num(0)),
        request(repeat(s, 256), repeat(num(0), 256), one, zero, num(0)),
        request(one, zero, repeat(s, 256), repeat(num(0), 256), num(0)), request(one, zero, one, repeat(num(0), 2), num(0)),
        request(one, nil, one, zero, num(0)), request(one, zero, nil, zero, num(0)), request(one, zero, one, nil, num(0)),
        request(one, repeat(num(255), 1), one, zero, num(0)), request(one, zero, one, repeat(num(255), 1), num(0)),
        request(one, zero, one, zero, num(129)), nil};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        NSError *e = nil;
        CHECK(![bad[i] validate]);
        CHECK(![m evaluateWithQoS:21 options:none() request:bad[i] error:&e] && e == nil);
    }
    CHECK([request(one, zero, one, zero, nil) validate]); /* nil procedure is 0 */
    CHECK([request(one, repeat(num(254), 1), one, zero, num(128)) validate]);
    CHECK([request(repeat(s, 255), repeat(num(0), 255), one, zero, num(0)) validate]);
    CHECK([request(one, zero, repeat(s, 255), repeat(num(0), 255), num(0)) validate]);
    CHECK([request(one, zero, one, repeat(num(254), 1), num(0)) validate]);
    CHECK([request(one, zero, one, zero, num(0)) ioSurfacesCount] == 2);
    unload(m);
}

/* `n` inputs and outputs in one function, y<i> = -x<i>; or in two functions with n and m. */
static id<Model> many_ports(int n, int m) {
    NSMutableString *t = [NSMutableString stringWithUTF8String:HEAD];
    for (int f = 0; f < (m ? 2 : 1); f++) {
        int count = f ? m : n;
        [t appendFormat:@"func f%d<ios18>(", f];
        for (int i = 0; i < count; i++)
            [t appendFormat:@"%s" T " x%03d", i ? ", " : "", i];
        [t appendString:@") {\nfp16 k = const()[name=string(\"k\"), val=fp16(-1)];\n"];
        for (int i = 0; i < count; i++)
            [t appendFormat:@T " y%03d = mul(x=x%03d, y=k)[name=string(\"y%03d\")];\n", i, i, i];
        [t appendString:@"} -> ("];
        for (int i = 0; i < count; i++)
            [t appendFormat:@"%sy%03d", i ? ", " : "", i];
        [t appendString:@");\n"];
    }
    [t appendString:@"}\n"];
    return staged([t UTF8String], nil);
}

/* Surfaces of symbols first .. first + n - 1: inputs hold 1, but `odd` holds 3. */
static bool all_ports_run(id<Model> m, int first, int n, int procedure) {
    NSMutableArray *in = [NSMutableArray array], *out = [NSMutableArray array], *at = [NSMutableArray array];
    IOSurfaceRef one = filled(HALF_1), three = filled(HALF_3), y[256];
    for (int i = 0; i < n; i++) {
        [in addObject:wrap(i == n - 1 ? three : one)];
        [out addObject:wrap(y[i] = surface_of(BYTES))];
        [at addObject:num(first + i)];
    }
    bool good = eval(m, request(in, at, out, at, num(procedure)));
    for (int i = 0; good && i < n; i++)
        good = all(y[i], i == n - 1 ? 0xc200 : HALF_MINUS_1);
    return good;
}

static void requests_hold_255_surfaces(void) {
    id<Model> m = many_ports(255, 0);
    CHECK(load(m) && all_ports_run(m, 0, 255, 0) && !all_ports_run(m, 0, 256, 0) && !all_ports_run(m, 0, 254, 0) && unload(m));
    NSError *e = nil;
    m = many_ports(256, 0);
    CHECK(![m compileWithQoS:21 options:none() error:&e] && says(e, @".compiler", 1, @"err=( "));
    m = many_ports(200, 55); /* symbols run over all procedures: 254 is the last that a request can name */
    CHECK(load(m) && all_ports_run(m, 0, 200, 0) && all_ports_run(m, 200, 55, 1) && unload(m));
    m = many_ports(200, 56);
    e = nil;
    CHECK(load(m) && all_ports_run(m, 0, 200, 0) && !all_ports_run(m, 200, 56, 1) && unload(m));
}

static void symbols_are_sorted_by_name(void) { /* 29, 30, 31, 35 */
    id<Model> m = staged(sub_text, nil); /* main(b_in, a_in): y = a_in - b_in */
    CHECK(load(m));
    NSDictionary *d = [[m modelAttributes] objectForKey:@"ANEFModelDescription"];
    NSArray *ab = [NSArray arrayWithObjects:@"a_in", @"b_in", nil];
    CHECK([[d objectForKey:@"kANEFModelInputSymbolsArrayKey"] isEqual:ab]);
    CHECK([[d objectForKey:@"kANEFModelOutputSymbolsArrayKey"] isEqual:[NSArray arrayWithObject:@"y@output"]]);
    IOSurfaceRef a = filled(HALF_3), b = filled(HALF_2), y = surface_of(BYTES);
    CHECK(eval(m, binary(a, 0, b, 1, y)) && all(y, HALF_1));
    CHECK(eval(m, binary(b, 0, a, 1, y)) && all(y, HALF_MINUS_1)); /* exchanged: silently the other way */
    CHECK(eval(m, binary(b, 1, a, 0, y)) && all(y, HALF_1));       /* the order in the arrays is free */

    NSError *e = nil;
    IOSurfaceRef small = surface_of(BYTES - 2);
    CHECK(![m evaluateWithQoS:21 options:none() request:binary(a, 0, small, 1, y) error:&e] && says(e, @"", 8, @"x"));
    CHECK([[e localizedDescription] isEqual:@"processRequest:model:qos:qIndex:modelStringID:options:returnValue:error:: "
           @"ANEProgramProcessRequestDirect() Failed with status=0x1d : statusType=0x9: Program Inference error"]); /* 30 */
    CHECK([[[e userInfo] objectForKey:@"NSDebugDescription"] rangeOfString:@"b_in"].location != NSNotFound);
    CHECK(![m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 1, small) error:&e] && says(e, @"", 8, @"0x1d"));
    CHECK(![m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 2, y) error:&e] && says(e, @"", 8, @"status=0x2 "));
    CHECK(![m evaluateWithQoS:21 options:none() request:unary(a, y) error:&e] && says(e, @"", 8, @"status=0x2 "));

    IOSurfaceRef large = surface_of(BYTES * 3);                                            /* 35 */
    fill(large, 0x7e00); /* NaN behind what is read */
    memcpy(IOSurfaceGetBaseAddress(large), IOSurfaceGetBaseAddress(b), BYTES);
    CHECK(eval(m, binary(a, 0, large, 1, y)) && all(y, HALF_1));

    /* other surfaces in a request that was used before */
    NSMutableArray *in = [NSMutableArray arrayWithObjects:wrap(a), wrap(b), nil];
    id<Request> r = request(in, [NSArray arrayWithObjects:num(0), num(1), nil], repeat(wrap(y), 1), repeat(num(0), 1), num(0));
    CHECK(eval(m, r));
    [in replaceObjectAtIndex:1 withObject:wrap(a)];
    CHECK(![m evaluateWithQoS:21 options:none() request:r error:&e] && says(e, @"", 8, @"statusType=0x9"));
    CHECK(![m mapIOSurfacesWithRequest:r cacheInference:NO error:&e] && says(e, @"", 13, @"(0x12)"));
    unload(m);
}

static void attributes_describe_every_procedure(void) { /* 10 of ane-api, 31, 32 */
    id<Model> m = staged(two_text, nil);
    CHECK(load(m));
    NSDictionary *all_of = [m modelAttributes], *d = [all_of objectForKey:@"ANEFModelDescription"];
    NSArray *xx = [NSArray arrayWithObjects:@"x", @"x", nil], *yy = [NSArray arrayWithObjects:@"y@output", @"y@output", nil];
    CHECK([[d objectForKey:@"kANEFModelInputSymbolsArrayKey"] isEqual:xx] && [[d objectForKey:@"kANEFModelOutputSymbolsArrayKey"] isEqual:yy]);
    CHECK([[[d objectForKey:@"kANEFModelProcedureNameToIDMapKey"] objectForKey:@"second"] intValue] == 1);
    CHECK([[d objectForKey:@"ANEFModelInput16KAlignmentArray"] count] == 2 && [[d objectForKey:@"ANEFModelOutput16KAlignmentArray"] count] == 2);
    NSDictionary *p1 = [[d objectForKey:@"ANEFModelProcedures"] objectAtIndex:1];
    CHECK([[p1 objectForKey:@"ANEFModelProcedureID"] intValue] == 1);
    CHECK([[p1 objectForKey:@"ANEFModelInputSymbolIndexArray"] isEqual:[NSArray arrayWithObject:num(1)]]);
    CHECK([[p1 objectForKey:@"ANEFModelOutputSymbolIndexArray"] isEqual:[NSArray arrayWithObject:num(1)]]);
    CHECK([(id<InnerModel>)[m model] procedureInfoForProcedureIndex:1] == p1 && ![(id<InnerModel>)[m model] procedureInfoForProcedureIndex:2]);
    NSIndexSet *set = [(id<InnerModel>)[m model] inputSymbolIndicesForProcedureIndex:1];
    CHECK([set count] == 1 && [set containsIndex:1]);
    NSDictionary *status = [[all_of objectForKey:@"NetworkStatusList"] objectAtIndex:0];
    CHECK([[status objectForKey:@"Name"] isEqual:@"first"]);
    NSDictionary *port = [[status objectForKey:@"LiveInputList"] objectAtIndex:0];
    static const struct { const char *key; int value; } want[] = {{"Batches", 1}, {"Channels", 4}, {"Depth", 1}, {"Height", 1}, {"Width", 32},
        {"RowStride", 64}, {"PlaneStride", 64}, {"PlaneCount", 4}, {"BatchStride", 256}, {"Interleave", 1}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        CHECK([[port objectForKey:[NSString stringWithUTF8String:want[i].key]] intValue] == want[i].value);
    CHECK([[port objectForKey:@"Type"] isEqual:@"Float16"] && [[port objectForKey:@"Name"] isEqual:@"x"]);
    port = [[status objectForKey:@"LiveOutputList"] objectAtIndex:0];
    CHECK([[port objectForKey:@"Name"] isEqual:@"y@output"] && [[port objectForKey:@"Symbol"] isEqual:@"y@output"]);

    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    NSArray *in = repeat(wrap(x), 1), *out = repeat(wrap(y), 1);
    CHECK(eval(m, request(in, repeat(num(0), 1), out, repeat(num(0), 1), num(0))) && all(y, HALF_6));
    CHECK(eval(m, request(in, repeat(num(1), 1), out, repeat(num(1), 1), num(1))) && all(y, 0x4880)); /* 9 */
    NSError *e = nil;
    CHECK(![m evaluateWithQoS:21 options:none() request:request(in, repeat(num(0), 1), out, repeat(num(0), 1), num(1)) error:&e] &&
          says(e, @"", 8, @"status=0x2 : statusType=0x9"));
    unload(m);
}

static void surfaces_behave(void) { /* 37 */
    CHECK(wrap(NULL) == nil && IOSurfaceCreate(NULL) == NULL && IOSurfaceGetBaseAddress(NULL) == NULL && IOSurfaceGetAllocSize(NULL) == 0);
    CHECK(surface_of(0) == NULL && surface_of((size_t)-5) == NULL && surface_of((size_t)1 << 62) == NULL);
    CHECK(IOSurfaceCreate([NSDictionary dictionaryWithObject:num(64) forKey:kIOSurfaceAllocSize]) == NULL);
    CHECK(IOSurfaceCreate([NSDictionary dictionaryWithObject:@"64" forKey:kIOSurfaceWidth]) == NULL);
    uint64_t alive = counter("surfaces");
    @autoreleasepool {
        NSDictionary *p = [NSDictionary dictionaryWithObjectsAndKeys:num(100), @"IOSurfaceWidth", num(2), @"IOSurfaceHeight", nil];
        IOSurfaceRef s = IOSurfaceCreate(p);
        CHECK(s && IOSurfaceGetAllocSize(s) == 200 && IOSurfaceGetBytesPerRow(s) == 100 && IOSurfaceGetWidth(s) == 100 && IOSurfaceGetHeight(s) == 2);
        uint32_t seed = IOSurfaceGetSeed(s), after = 0;
        CHECK(IOSurfaceUnlock(s, 0, NULL) != 0 && IOSurfaceLock(NULL, 0, NULL) != 0);
        CHECK(IOSurfaceLock(s, 1, NULL) == 0 && IOSurfaceUnlock(s, 1, &after) == 0 && after == seed);
        CHECK(IOSurfaceLock(s, 0, NULL) == 0 && IOSurfaceUnlock(s, 0, &after) == 0 && after != seed);
        CHECK(!IOSurfaceIsInUse(s));
        IOSurfaceIncrementUseCount(s);
        CHECK(IOSurfaceIsInUse(s));
        IOSurfaceDecrementUseCount(s);
        IOSurfaceRef again = IOSurfaceLookup(IOSurfaceGetID(s));
        CHECK(again && IOSurfaceGetBaseAddress(again) == IOSurfaceGetBaseAddress(s));
        [(id)again release];
        id o = [wrap(s) retain];
        [(id)s release];
        CHECK(counter("surfaces") == alive + 1 && [(id<SurfaceClass>)o ioSurface] == s); /* the object keeps it */
        [o release];
    }
    CHECK(counter("surfaces") == alive && IOSurfaceLookup(0) == NULL);
}

/* ============================== Limits (rows 44-46) ======================= */

static void limits_answer_as_the_engine_does(void) {
    NSError *e = nil;
    set_count("compile_limit", counter("compiles") + 1);
    id<Model> a = staged(sub_text, nil), b = staged(mul_text, blob(HALF_2));
    CHECK(compile(a) && ![b compileWithQoS:21 options:none() error:&e] && says(e, @".compiler", 1, @"err=()")); /* 44 */
    CHECK(softane_set("compile_limit", "0") == 0 && compile(b));
    set_count("loaded_limit", counter("loaded") + 1);
    e = nil;
    CHECK(load(a) && ![b loadWithQoS:21 options:none() error:&e] && says(e, @"", 6, @": Program load failure (0x20004)")); /* 45 */
    CHECK(unload(a) && load(b) && unload(b));
    CHECK(softane_set("loaded_limit", NULL) == 0);
    set_count("loaded_bytes", counter("loaded_bytes_now") + BYTES - 1);
    e = nil;
    CHECK(![b loadWithQoS:21 options:none() error:&e] && says(e, @"", 6, @"(0x20004)")); /* 46 */
    CHECK(softane_set("loaded_bytes", NULL) == 0 && load(b) && unload(b));
}

/* ============================== Errors (rows 57, 58) ====================== */

static void error_pointers_are_touched_on_failure_only(void) { /* 58 */
    NSError *mark = [NSError errorWithDomain:@"mine" code:1 userInfo:nil], *e = mark;
    id<Model> m = staged(sub_text, nil);
    IOSurfaceRef a = filled(HALF_3), b = filled(HALF_2), y = surface_of(BYTES);
    CHECK([m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 1, y) error:&e] == NO && e == mark);
    CHECK([m compileWithQoS:21 options:none() error:&e] && e == mark);
    CHECK([m loadWithQoS:21 options:none() error:&e] && e == mark);
    CHECK([m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 1, y) error:&e] && e == mark);
    failpoints("facade.error.nil=return;facade.eval=1*return");
    CHECK(![m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 1, y) error:&e] && e == mark);
    failpoints("");
    CHECK([m unloadWithQoS:21 error:&e] && e == mark);
    CHECK(![m evaluateWithQoS:21 options:none() request:binary(a, 0, b, 1, y) error:NULL]); /* NULL is fine */

    m = staged(sub_text, nil);
    failpoints("facade.compile=1*return->1*return(2)->1*return(3)->1*return(4)->1*return(5);facade.load=1*return->1*return(2)->1*return(5)->1*return(4)");
    static const char *const compile_says[] = {"err=( CompilationFailure )", "err=( InvalidMILProgram )", "err=( InvalidCompilationParam )", "err=()"};
    for (int i = 0; i < 4; i++) {
        e = nil;
        CHECK(![m compileWithQoS:21 options:none() error:&e] && says(e, @".compiler", 1, [NSString stringWithUTF8String:compile_says[i]]));
    }
    e = nil;
    CHECK(![m compileWithQoS:21 options:none() error:&e] && e == nil);
    CHECK(![m loadWithQoS:21 options:none() error:&e] && says(e, @"", 6, @"(0x20004)"));
    CHECK(![m loadWithQoS:21 options:none() error:&e] && says(e, @"", 6, @"(0x50004)"));
    e = nil;
    CHECK(![m loadWithQoS:21 options:none() error:&e] && e == nil);
    CHECK(![m loadWithQoS:21 options:none() error:&e] && says(e, @"", 4, @"Program creation failure"));
    failpoints("");
    CHECK(load(m) && unload(m));
}

/* ============================== Client path ============================== */

static void the_client_path_works(void) { /* ane-api §14 */
    id<Client> client = [(id<Client>)named("_ANEClient") sharedConnection];
    id<Model> m = staged(mul_text, blob(HALF_2));
    id inner = [(id<InnerModelClass>)named("_ANEModel") modelAtURL:[NSURL fileURLWithPath:[m localModelPath]] key:@"k"];
    NSError *e = nil;
    NSDictionary *mil = [NSDictionary dictionaryWithObjectsAndKeys:@"kANEFModelMIL", @"kANEFModelType", @"model.mil", @"kANEFNetPlistFilenameKey", nil];
    CHECK(client && ![client compileModel:nil options:mil qos:21 error:&e] && e == nil);
    CHECK(![client compiledModelExistsFor:inner]);
    CHECK(![client compileModel:inner options:none() qos:21 error:&e] && says(e, @".espresso", -1, @"model.espresso.net"));
    CHECK([client compileModel:inner options:mil qos:21 error:NULL] && [client compiledModelExistsFor:inner]);
    CHECK([client loadModel:inner options:none() qos:21 error:NULL] && [(id<InnerModel>)inner state] == 3);
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    CHECK([client evaluateWithModel:inner options:none() request:unary(x, y) qos:21 error:NULL] && all(y, HALF_6));
    CHECK([client unloadModel:inner options:none() qos:21 error:NULL] && there([m localModelPath]));
    [client purgeCompiledModel:inner];
    CHECK(![client compiledModelExistsFor:inner]);
    [[NSFileManager defaultManager] removeItemAtPath:[m localModelPath] error:NULL];
}

static void the_engine_says_that_it_is_software(void) {
    id<Info> info = named("_ANEDeviceInfo"), mapper = named("_ANEQoSMapper");
    CHECK([[info aneSubType] isEqual:@"softane"] && [info numANEs] == 1 && [info hasANE] && ![info isVirtualMachine]);
    CHECK([mapper aneDefaultTaskQoS] == 21 && [mapper queueIndexForQoS:0] == 2 && [mapper queueIndexForQoS:21] == 5);
    CHECK(softane_version()[0] != 0);
}

/* ============================== Completion handler ======================== */

typedef struct HandlerBlock { /* what a compiled block looks like, without the blocks runtime */
    void *isa;
    int flags, reserved;
    void (*invoke)(struct HandlerBlock *self, BOOL ok, NSError *error);
    _Atomic int calls, oks;
    _Atomic bool elsewhere;
    pthread_t from;
} HandlerBlock;

static void handler_called(HandlerBlock *b, BOOL ok, NSError *error) {
    b->elsewhere = !pthread_equal(b->from, pthread_self());
    b->oks += ok && !error;
    b->calls++;
}

static void a_handler_is_called_on_another_thread(void) { /* 33 */
    static HandlerBlock b = {.invoke = handler_called};
    b.from = pthread_self();
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    CHECK(load(m));
    [r setCompletionHandler:&b];
    CHECK(eval(m, r));
    for (int i = 0; i < 2000 && !b.calls; i++)
        sleep_ms(1);
    CHECK(b.calls == 1 && b.oks == 1 && b.elsewhere && all(y, HALF_6));
    unload(m);
}

/* ============================== Races ===================================== */

static _Atomic bool racing;

/* Evaluate a program of one's own, over and over; ok = every result was right. */
static void *eval_job(void *arg) {
    Job *j = arg;
    GSRegisterCurrentThread();
    @autoreleasepool {
        IOSurfaceRef x = filled(HALF_3), y = filled(0);
        id<Request> r = unary(x, y);
        j->ok = true;
        while (racing)
            if (![j->model evaluateWithQoS:j->qos options:none() request:r error:NULL] || !all(y, HALF_6))
                j->ok = false;
    }
    GSUnregisterCurrentThread();
    return NULL;
}

static void programs_run_while_others_come_and_go(void) {
    NSMutableArray *mine = keep;
    keep = nil; /* not for two threads: the objects of a request keep its surfaces here */
    Job j[2] = {{staged(mul_text, blob(HALF_2)), 21, false}, {staged(mul_text, blob(HALF_2)), 17, false}};
    pthread_t t[2];
    CHECK(load(j[0].model) && load(j[1].model));
    racing = true;
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, eval_job, &j[i]);
    for (int i = 0; i < 20; i++) {
        id<Model> m = staged(mul_text, blob((uint16_t)(HALF_1 + i)));
        CHECK(compile(m) && load(m) && unload(m));
    }
    racing = false;
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    keep = mine;
    CHECK(j[0].ok && j[1].ok && unload(j[0].model) && unload(j[1].model));
}

/* ============================== Overhead ================================== */

/* Reported, and checked only against a limit that a loaded machine keeps. */
static void an_evaluation_costs_little(void) {
    id<Model> m = staged(mul_text, blob(HALF_2));
    IOSurfaceRef x = filled(HALF_3), y = surface_of(BYTES);
    id<Request> r = unary(x, y);
    CHECK(load(m) && eval(m, r));
    double best = 1e9;
    for (int round = 0; round < 20; round++) {
        double t0 = now_ms();
        for (int i = 0; i < 200; i++)
            [m evaluateWithQoS:9 options:nil request:r error:NULL];
        double us = (now_ms() - t0) * 1000 / 200;
        best = us < best ? us : best;
    }
    CHECK(best < 200);
    printf("test_facade: %.2f us per evaluation of 128 elements, best of 20\n", best);
    unload(m);
}

int main(void) {
    @autoreleasepool {
        keep = [[NSMutableArray alloc] init];
        CHECK(softane_set("compile_limit", "0") == 0);
        void (*const tests[])(void) = {
            the_identity_is_the_known_hash, bad_text_is_noticed_at_compile_only,
            compile_writes_its_files_and_drops_the_descriptor, weights_are_frozen_at_compile,
            load_by_identity_reads_nothing, equal_programs_share_one_directory, dropping_a_model_does_not_unload_it,
            the_states_follow_the_calls, a_lost_device_can_be_loaded_again, nil_options_lose_the_model_type, levels_are_serial_evaluations_are_not,
            broken_requests_fail_without_an_error, requests_hold_255_surfaces, symbols_are_sorted_by_name, attributes_describe_every_procedure,
            surfaces_behave, limits_answer_as_the_engine_does, error_pointers_are_touched_on_failure_only,
            the_client_path_works, the_engine_says_that_it_is_software, a_handler_is_called_on_another_thread,
            programs_run_while_others_come_and_go, an_evaluation_costs_little};
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
            @autoreleasepool {
                tests[i]();
            }
        }
        [keep release];
    }
    printf("test_facade: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
