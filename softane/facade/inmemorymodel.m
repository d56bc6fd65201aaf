// SPDX-License-Identifier: MIT
/* inmemorymodel.m - _ANEInMemoryModel: the wrapper most programs use (§4).
 * Owns the files in the temporary directory and the state; what it asks of the
 * engine goes through _ANEClient. */
#import "facade.h"

@implementation _ANEInMemoryModel

/* ============================== Making ==================================== */

- (id)initWithDesctiptor:(_ANEInMemoryModelDescriptor *)descriptor { /* sic */
    if (!(self = [super init]))
        return nil;
    _descriptor = [descriptor retain]; /* nil is taken: the first use of the path throws */
    _hexStringIdentifier = [[descriptor hexStringIdentifier] copy];
    _isMILModel = [descriptor isMILModel];
    _modelAttributes = [[NSDictionary alloc] init];
    _sharedConnection = [[_ANEClient sharedConnection] retain];
    _string_id = (uint64_t)[descriptor hash];
    if ([descriptor optionsPlist])
        _compilerOptionsFileName = @"compiler_options.plist";
    return self;
}

+ (id)inMemoryModelWithDescriptor:(_ANEInMemoryModelDescriptor *)descriptor {
    return [[[self alloc] initWithDesctiptor:descriptor] autorelease];
}

/* Does not unload: the loaded program goes on counting (§4.7). */
- (void)dealloc {
    _state = 5;
    [_descriptor release];
    [_hexStringIdentifier release];
    [_modelAttributes release];
    [_sharedConnection release];
    [_modelURL release];
    [_localModelPath release];
    [_model release];
    [_program release];
    [super dealloc];
}

/* ============================== Files ===================================== */

- (NSString *)localModelPath {
    if (!_hexStringIdentifier)
        [NSException raise:NSInvalidArgumentException format:@"_ANEInMemoryModel without a descriptor has no path"];
    if (!_localModelPath) { /* kept: the setting may change while the model lives */
        char staging[1024] = "";
        sa_setting_get(sa_device(), "staging", staging, sizeof staging);
        NSString *base = staging[0] ? [NSString stringWithUTF8String:staging] : NSTemporaryDirectory();
        _localModelPath = [[base stringByAppendingPathComponent:_hexStringIdentifier] copy];
    }
    return _localModelPath;
}

static bool write_data(NSData *data, NSString *directory, NSString *name) {
    SaError err = {.code = SA_OK};
    const void *bytes = [data bytes];
    NSString *path = [directory stringByAppendingPathComponent:name];
    SaStatus st = SA_FAILPOINT("facade.save")
                      ? sa_error_set(&err, SA_E_INJECTED, (SaPos){0, 0}, "failpoint facade.save")
                      : sa_file_write([path fileSystemRepresentation], bytes, [data length], &err);
    if (st != SA_OK)
        sa_log(SA_LOG_ERROR, "saveModelFiles: %s", err.text);
    return st == SA_OK;
}

/* One file per inner key. Upstream's dictionaries all say "data", so each
 * weight would overwrite the last one: only the survivor is written. */
static bool write_weights(NSDictionary *weights, NSString *directory) {
    NSMutableDictionary *files = [NSMutableDictionary dictionary];
    for (NSString *outer in [[weights allKeys] sortedArrayUsingSelector:@selector(compare:)]) {
        id name = nil;
        NSData *data = sa_descriptor_payload([weights objectForKey:outer], &name);
        [files setObject:data forKey:name];
    }
    for (NSString *name in files)
        if (!write_data([files objectForKey:name], directory, name))
            return false;
    return true;
}

/* §4.2. nil when something cannot be written; writes nothing the second time. */
- (NSURL *)saveModelFiles {
    if (_modelURL)
        return _modelURL;
    @autoreleasepool {
        NSString *path = [self localModelPath];
        bool good = [[NSFileManager defaultManager] createDirectoryAtPath:path
                                              withIntermediateDirectories:YES
                                                               attributes:nil
                                                                    error:NULL];
        good = good && write_data([_descriptor networkText], path, @"net.plist");
        if (good && _compilerOptionsFileName)
            good = write_data([_descriptor optionsPlist], path, _compilerOptionsFileName);
        good = good && write_weights([_descriptor weights], path);
        if (good) {
            _modelURL = [[NSURL fileURLWithPath:path isDirectory:YES] retain];
            [_descriptor release]; /* this frees the weights */
            _descriptor = nil;
        }
    }
    return _modelURL;
}

/* ============================== Compile and load ========================== */

/* §4.3: the caller's options plus what makes the daemon see an in-memory MIL
 * model. nil stays nil, and with it the model type is lost. */
- (NSDictionary *)compilerOptionsWithOptions:(NSDictionary *)options isCompiledModelCached:(BOOL)cached {
    NSMutableDictionary *all = [[options mutableCopy] autorelease];
    [all setObject:_isMILModel ? @"kANEFModelMIL" : @"kANEFModelANECIR" forKey:@"kANEFModelType"];
    [all setObject:_hexStringIdentifier forKey:@"kANEFIsInMemoryModelTypeKey"];
    [all setObject:[NSNumber numberWithBool:cached] forKey:@"kANEFInMemoryModelIsCachedKey"];
    if (_compilerOptionsFileName)
        [all setObject:_compilerOptionsFileName forKey:@"kANEFCompilerOptionsFilenameKey"];
    return all;
}

/* A fresh inner model, unless the one at hand is fresh. */
- (_ANEModel *)freshModelAtURL:(NSURL *)url {
    if (!_model || _model->_state != 1) {
        [_model release];
        _model = [[_ANEModel modelAtURL:url key:@""] retain];
    }
    return _model;
}

/* Errors are made below, in pools that end before they are handed out: each
 * heavy method keeps the error alive over the end of its own pool. */
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    BOOL ok = NO;
    NSError *e = nil;
    @autoreleasepool {
        NSURL *url = [self saveModelFiles];
        _ANEModel *target = nil;
        if (url) /* a loaded inner model stays: it is what unload must reach */
            target = [_model isLoadedNow] ? [_ANEModel modelAtURL:url key:@""] : [self freshModelAtURL:url];
        if (target)
            ok = [_sharedConnection compileModel:target
                                         options:[self compilerOptionsWithOptions:options isCompiledModelCached:NO]
                                             qos:qos
                                           error:&e];
        [e retain];
    }
    [e autorelease];
    if (e && error)
        *error = e;
    return ok;
}

/* Copy what the loaded inner model knows. */
- (void)adopt {
    [_modelAttributes release];
    _modelAttributes = [[_model modelAttributes] retain];
    [_program release];
    _program = [[_model program] retain];
    _programHandle = [_model programHandle];
    _intermediateBufferHandle = [_model intermediateBufferHandle];
    _queueDepth = [_model queueDepth];
    _state = 3;
}

/* §4.5: a known identity reads no file. */
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    BOOL ok = NO;
    NSError *e = nil;
    @autoreleasepool {
        if ([_model isLoadedNow])
            return YES;
        BOOL cached = [self compiledModelExists];
        NSURL *url = cached ? [NSURL fileURLWithPath:[self localModelPath] isDirectory:YES] : [self saveModelFiles];
        if (url)
            ok = [_sharedConnection loadModel:[self freshModelAtURL:url]
                                      options:[self compilerOptionsWithOptions:options isCompiledModelCached:cached]
                                          qos:qos
                                        error:&e];
        if (ok)
            [self adopt];
        [e retain];
    }
    [e autorelease];
    if (e && error)
        *error = e;
    return ok;
}

/* §4.6: the directory goes whatever the engine answers; program, state and URL
 * of the wrapper stay. */
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error {
    BOOL ok = NO;
    NSError *e = nil;
    @autoreleasepool {
        NSString *path = [self localModelPath];
        NSDictionary *options = [self compilerOptionsWithOptions:[NSDictionary dictionary] isCompiledModelCached:NO];
        ok = [_sharedConnection unloadModel:_model options:options qos:qos error:&e];
        [[NSFileManager defaultManager] removeItemAtPath:path error:NULL];
        [e retain];
    }
    [e autorelease];
    if (e && error)
        *error = e;
    return ok;
}

- (BOOL)compiledModelExists { return [_sharedConnection compiledModelExistsMatchingHash:_hexStringIdentifier]; }
- (void)purgeCompiledModel { [_sharedConnection purgeCompiledModelMatchingHash:_hexStringIdentifier]; }

/* ============================== Evaluate ================================== */

- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(_ANERequest *)request
                  error:(NSError **)error {
    (void)options;
    return sa_program_evaluate(_program, request, qos, error);
}

/* Programs made from MIL cannot be mapped (§4.8). */
- (BOOL)mapIOSurfacesWithRequest:(_ANERequest *)request cacheInference:(BOOL)cache error:(NSError **)error {
    SaAnswer a;
    (void)request, (void)cache;
    sa_answer_code(&a, SA_DO_MAP, 13, NULL);
    return sa_facade_finish(&a, error);
}

- (void)unmapIOSurfacesWithRequest:(_ANERequest *)request { (void)request; }

/* ============================== Getters and setters ======================= */

- (NSString *)hexStringIdentifier { return _hexStringIdentifier; }
- (NSURL *)modelURL { return _modelURL; }
- (NSDictionary *)modelAttributes { return _modelAttributes; }
- (NSUInteger)state { return _state; }
- (uint64_t)programHandle { return _programHandle; }
- (uint64_t)intermediateBufferHandle { return _intermediateBufferHandle; }
- (signed char)queueDepth { return _queueDepth; }
- (unsigned int)perfStatsMask { return _perfStatsMask; }
- (_ANEProgramForEvaluation *)program { return _program; }
- (_ANEModel *)model { return _model; }
- (uint64_t)string_id { return _string_id; }
- (NSString *)compilerOptionsFileName { return _compilerOptionsFileName; }
- (_ANEInMemoryModelDescriptor *)descriptor { return _descriptor; }
- (_ANEClient *)sharedConnection { return _sharedConnection; }
- (BOOL)isMILModel { return _isMILModel; }

#define OBJECT_SETTER(name, type, field) \
    -(void)name : (type *)value { \
        [value retain]; \
        [field release]; \
        field = value; \
    }
OBJECT_SETTER(setHexStringIdentifier, NSString, _hexStringIdentifier)
OBJECT_SETTER(setModelURL, NSURL, _modelURL)
OBJECT_SETTER(setModelAttributes, NSDictionary, _modelAttributes)
OBJECT_SETTER(setDescriptor, _ANEInMemoryModelDescriptor, _descriptor)
OBJECT_SETTER(setProgram, _ANEProgramForEvaluation, _program)
OBJECT_SETTER(setModel, _ANEModel, _model)
- (void)setState:(NSUInteger)state { _state = state; }
- (void)setPerfStatsMask:(unsigned int)mask { _perfStatsMask = mask; }
- (void)setProgramHandle:(uint64_t)handle { _programHandle = handle; }
- (void)setIntermediateBufferHandle:(uint64_t)handle { _intermediateBufferHandle = handle; }
- (void)setQueueDepth:(signed char)depth { _queueDepth = depth; }

@end
