// SPDX-License-Identifier: MIT
/* client.m - _ANEClient: reads options, names the program, calls the device.
 * The in-memory wrapper goes through it as well.
 *
 * Identity of a program in the store: for an in-memory model its hash, which
 * the wrapper passes in the options; else URL and key of the model. The latter
 * says nothing about the content, so such a model is compiled anew each time. */
#import "facade.h"

/* Option keys. Source: §15. */
#define OPTION_TYPE @"kANEFModelType"
#define OPTION_SOURCE @"kANEFNetPlistFilenameKey"
#define OPTION_IN_MEMORY @"kANEFIsInMemoryModelTypeKey"
#define OPTION_CACHED @"kANEFInMemoryModelIsCachedKey"

/* ============================== Sources =================================== */

static const char *text_option(NSDictionary *options, NSString *key) {
    id v = [options objectForKey:key];
    return [v isKindOfClass:[NSString class]] ? [v UTF8String] : NULL;
}

static NSString *identity_of_url(_ANEModel *m) {
    if ([m cacheURLIdentifier])
        return [NSString stringWithFormat:@"cache:%@", [m cacheURLIdentifier]];
    return [NSString stringWithFormat:@"url:%@|%@", [[m modelURL] path], [m key]];
}

/* The strings live as long as the current autorelease pool. */
static SaSource source_of(_ANEModel *m, NSDictionary *options) {
    const char *hash = text_option(options, OPTION_IN_MEMORY);
    bool cached = [[options objectForKey:OPTION_CACHED] boolValue];
    return (SaSource){
        .identity = hash ? hash : [identity_of_url(m) UTF8String],
        .directory = cached || ![m modelURL] ? NULL : [[[m modelURL] path] fileSystemRepresentation],
        .staging = [m modelURL] ? [[[m modelURL] path] fileSystemRepresentation] : NULL,
        .file = text_option(options, OPTION_SOURCE),
        .model_type = text_option(options, OPTION_TYPE),
        .replace = hash == NULL,
    };
}

/* ============================== Class ===================================== */

@implementation _ANEClient

static _ANEClient *the_client;

+ (void)initialize {
    if (self == [_ANEClient class] && !the_client)
        the_client = [[self alloc] init];
}

+ (id)sharedConnection { return the_client; }
+ (id)sharedPrivateConnection { return the_client; }

- (id)initWithRestrictedAccessAllowed:(BOOL)allowed {
    (void)allowed;
    return [self init];
}

- (BOOL)isVirtualClient { return NO; }
- (BOOL)echo:(id)payload {
    (void)payload;
    return NO;
}
- (BOOL)beginRealTimeTask { return sa_setting(SA_SET_ENTITLED) != 0; }
- (BOOL)endRealTimeTask { return sa_setting(SA_SET_ENTITLED) != 0; }

/* ============================== Compile =================================== */

/* nil model: NO, no error. */
- (BOOL)compileModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    SaAnswer a;
    if (!model)
        return NO;
    @autoreleasepool {
        SaSource src = source_of(model, options);
        SaEntry *pin = NULL;
        if (!src.directory) /* a bare identity has nothing to compile */
            sa_answer_code(&a, SA_DO_COMPILE, 16, NULL);
        else if (sa_device_compile(&src, qos, &pin, &a)) {
            sa_entry_unpin(model->_pin);
            model->_pin = pin;
        }
    }
    return sa_facade_finish(&a, error);
}

/* ============================== Load ====================================== */

- (BOOL)loadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    SaAnswer a;
    if (!model)
        return NO;
    if ([model isLoadedNow])
        return YES;
    @autoreleasepool {
        SaSource src = source_of(model, options);
        SaLoaded *loaded = NULL;
        if (sa_device_load(&src, qos, &loaded, &a)) {
            NSDictionary *old = model->_modelAttributes;
            if (sa_loaded_enter(loaded)) { /* not if the device vanished meanwhile */
                model->_modelAttributes = [sa_facade_attributes(loaded->entry) retain];
                [old release];
                sa_loaded_leave(loaded);
            }
            [model->_program release];
            model->_program = [[_ANEProgramForEvaluation alloc] initWithLoaded:loaded];
            model->_state = 3;
            sa_entry_unpin(model->_pin); /* being loaded keeps it from now on */
            model->_pin = NULL;
        }
    }
    return sa_facade_finish(&a, error);
}

- (BOOL)unloadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    SaAnswer a;
    (void)options;
    if (!model)
        return NO;
    @autoreleasepool {
        SaLoaded *loaded = model->_program ? model->_program->_loaded : NULL;
        if (!loaded) {
            SaError why;
            sa_error_set(&why, SA_E_STATE, (SaPos){0, 0}, "the model is not loaded");
            sa_answer_code(&a, SA_DO_UNLOAD, 17, &why);
        } else if (sa_device_unload(loaded, qos, &a) || !sa_loaded_alive(loaded)) {
            [model resetOnUnload]; /* also when the device has lost it before */
        }
    }
    return sa_facade_finish(&a, error);
}

- (BOOL)doLoadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    return [self loadModel:model options:options qos:qos error:error];
}

- (BOOL)doUnloadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    return [self unloadModel:model options:options qos:qos error:error];
}

- (BOOL)loadRealTimeModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error {
    (void)qos;
    return [self loadModel:model options:options qos:0 error:error];
}

- (BOOL)unloadRealTimeModel:(_ANEModel *)model
                    options:(NSDictionary *)options
                        qos:(unsigned int)qos
                      error:(NSError **)error {
    (void)qos;
    return [self unloadModel:model options:options qos:0 error:error];
}

/* Another instance of a compiled program, with other weights. What a program
 * made from MIL does with them is not known: refused with the code that fits.
 * The order of the checks is ours. */
- (BOOL)loadModelNewInstance:(_ANEModel *)model
                     options:(NSDictionary *)options
             modelInstParams:(id)params
                         qos:(unsigned int)qos
                       error:(NSError **)error {
    SaAnswer a;
    if (!model)
        return NO;
    @autoreleasepool {
        SaSource src = source_of(model, options);
        SaTurn turn;
        if (sa_turn_begin(&turn, SA_DO_INSTANCE, qos, &a)) {
            int code = [model cacheURLIdentifier] ? 19 : ![params isKindOfClass:[_ANEModelInstanceParameters class]] ? 20
                       : !sa_store_has(src.identity) ? 18 : 21;
            sa_answer_code(&a, SA_DO_INSTANCE, code, NULL);
        }
        sa_turn_end(&turn);
    }
    return sa_facade_finish(&a, error);
}

- (BOOL)doLoadModelNewInstance:(_ANEModel *)model
                       options:(NSDictionary *)options
               modelInstParams:(id)params
                           qos:(unsigned int)qos
                         error:(NSError **)error {
    return [self loadModelNewInstance:model options:options modelInstParams:params qos:qos error:error];
}

/* ============================== Evaluate ================================== */

- (BOOL)evaluateWithModel:(_ANEModel *)model
                  options:(NSDictionary *)options
                  request:(_ANERequest *)request
                      qos:(unsigned int)qos
                    error:(NSError **)error {
    (void)options;
    return sa_program_evaluate([model program], request, qos, error);
}

/* The same as above (no gain of the direct path is proven, §16), but only so
 * many at a time on one queue index; who waits too long hears code 3 (§14). */
- (BOOL)doEvaluateDirectWithModel:(_ANEModel *)model
                          options:(NSDictionary *)options
                          request:(_ANERequest *)request
                              qos:(unsigned int)qos
                            error:(NSError **)error {
    if (!sa_direct_enter(qos)) {
        SaAnswer a;
        sa_answer_code(&a, SA_DO_DIRECT, 3, NULL);
        return sa_facade_finish(&a, error);
    }
    BOOL ok = NO;
    @try {
        ok = [self evaluateWithModel:model options:options request:request qos:qos error:error];
    } @finally { /* a surface of the wrong class throws */
        sa_direct_leave(qos);
    }
    return ok;
}

- (BOOL)evaluateRealTimeWithModel:(_ANEModel *)model
                          options:(NSDictionary *)options
                          request:(_ANERequest *)request
                            error:(NSError **)error {
    return [self doEvaluateDirectWithModel:model options:options request:request qos:0 error:error];
}

/* Programs made from MIL cannot be mapped (§4.8). */
- (BOOL)mapIOSurfacesWithModel:(_ANEModel *)model
                       request:(_ANERequest *)request
                cacheInference:(BOOL)cache
                         error:(NSError **)error {
    SaAnswer a;
    (void)request, (void)cache;
    if (!model)
        return NO;
    sa_answer_code(&a, SA_DO_MAP, 13, NULL);
    return sa_facade_finish(&a, error);
}

- (void)unmapIOSurfacesWithModel:(_ANEModel *)model request:(_ANERequest *)request { (void)model, (void)request; }

/* ============================== Chaining ================================== */

/* Programs made from MIL have no intermediate buffer, so chaining fails (§16).
 * Only the first of the three uses a queue. */
static BOOL refuse_chaining(SaDo what, _ANEModel *model, NSError **error) {
    SaAnswer a;
    if (!model)
        return NO;
    sa_answer_code(&a, what, 15, NULL);
    return sa_facade_finish(&a, error);
}

- (BOOL)enqueueSetsWithModel:(_ANEModel *)model
                   outputSet:(id)set
                     options:(NSDictionary *)options
                         qos:(unsigned int)qos
                       error:(NSError **)error {
    (void)set, (void)options, (void)qos;
    return refuse_chaining(SA_DO_ENQUEUE, model, error);
}

- (BOOL)buffersReadyWithModel:(_ANEModel *)model
                 inputBuffers:(id)buffers
                      options:(NSDictionary *)options
                          qos:(unsigned int)qos
                        error:(NSError **)error {
    (void)buffers, (void)options, (void)qos;
    return refuse_chaining(SA_DO_READY, model, error);
}

- (BOOL)prepareChainingWithModel:(_ANEModel *)model
                         options:(NSDictionary *)options
                     chainingReq:(id)request
                             qos:(unsigned int)qos
                           error:(NSError **)error {
    (void)options, (void)request;
    sa_queue_enter(qos);
    sa_queue_leave(qos);
    return refuse_chaining(SA_DO_CHAIN, model, error);
}

/* ============================== Store ===================================== */

/* These four do not use the queues (§6). */
- (BOOL)compiledModelExistsMatchingHash:(NSString *)hash {
    @autoreleasepool {
        return hash && sa_store_has([hash UTF8String]);
    }
}

- (void)purgeCompiledModelMatchingHash:(NSString *)hash {
    @autoreleasepool {
        if (hash)
            sa_store_purge([hash UTF8String]);
    }
}

- (BOOL)compiledModelExistsFor:(_ANEModel *)model {
    @autoreleasepool {
        return model && [self compiledModelExistsMatchingHash:identity_of_url(model)];
    }
}

- (void)purgeCompiledModel:(_ANEModel *)model {
    @autoreleasepool {
        if (model)
            [self purgeCompiledModelMatchingHash:identity_of_url(model)];
    }
}

@end
