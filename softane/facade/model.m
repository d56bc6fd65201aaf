// SPDX-License-Identifier: MIT
/* model.m - _ANEModel: a program on disk or loaded, as the client sees it. */
#import "facade.h"

@implementation _ANEModel

+ (id)modelAtURL:(NSURL *)url key:(NSString *)key modelAttributes:(NSDictionary *)attributes {
    if (!url || !key)
        return nil;
    _ANEModel *m = [[[self alloc] init] autorelease];
    m->_modelURL = [url retain];
    m->_key = [key copy];
    m->_modelAttributes = [(attributes ? attributes : [NSDictionary dictionary]) retain];
    m->_state = 1;
    m->_string_id = (uint64_t)[[url absoluteString] hash];
    return m;
}

+ (id)modelAtURL:(NSURL *)url key:(NSString *)key {
    return [self modelAtURL:url key:key modelAttributes:nil];
}

+ (id)modelAtURLWithSourceURL:(NSURL *)url
                    sourceURL:(NSURL *)source
                          key:(NSString *)key
           cacheURLIdentifier:(NSString *)identifier {
    _ANEModel *m = [self modelAtURL:url key:key];
    if (m) {
        m->_sourceURL = [source retain];
        m->_cacheURLIdentifier = [identifier copy];
    }
    return m;
}

/* A model that has nothing but its name in the store: it can be loaded only. */
+ (id)modelWithCacheURLIdentifier:(NSString *)identifier {
    if (!identifier)
        return nil;
    _ANEModel *m = [[[self alloc] init] autorelease];
    m->_cacheURLIdentifier = [identifier copy];
    m->_key = @"";
    m->_modelAttributes = [[NSDictionary alloc] init];
    m->_state = 1;
    m->_string_id = (uint64_t)[identifier hash];
    return m;
}

- (void)dealloc {
    sa_entry_unpin(_pin);
    [_modelURL release];
    [_sourceURL release];
    [_cacheURLIdentifier release];
    [_key release];
    [_modelAttributes release];
    [_program release];
    [super dealloc];
}

/* ============================== Getters =================================== */

- (NSURL *)modelURL { return _modelURL; }
- (NSURL *)sourceURL { return _sourceURL; }
- (NSString *)key { return _key; }
- (NSString *)cacheURLIdentifier { return _cacheURLIdentifier; }
- (NSDictionary *)modelAttributes { return _modelAttributes; }
- (NSUInteger)state { return _state; }
- (_ANEProgramForEvaluation *)program { return _program; }
- (id)mapper { return nil; } /* surfaces need no mapping here */
- (uint64_t)string_id { return _string_id; }
- (uint64_t)programHandle { return [_program programHandle]; }
- (uint64_t)intermediateBufferHandle { return [_program intermediateBufferHandle]; }
- (signed char)queueDepth { return [_program queueDepth]; }
- (unsigned int)perfStatsMask { return _perfStatsMask; }
- (void)setPerfStatsMask:(unsigned int)mask { _perfStatsMask = mask; }

/* 64 hex digits of URL and key: stable for equal models. */
- (NSString *)getUUID {
    NSString *s = [NSString stringWithFormat:@"%@|%@", [_modelURL absoluteString], _key];
    return sa_facade_hash([s dataUsingEncoding:NSUTF8StringEncoding]);
}

/* Attributes emptied, handles and queueDepth zeroed (§4.1). */
- (void)resetOnUnload {
    _state = 4;
    [_program release];
    _program = nil;
    [_modelAttributes release];
    _modelAttributes = [[NSDictionary alloc] init];
}

- (BOOL)isLoadedNow { return _state == 3 && _program && sa_loaded_alive(_program->_loaded); }

/* ============================== Procedures ================================ */

- (NSDictionary *)procedureInfoForProcedureIndex:(unsigned int)procedure {
    NSArray *all = [[_modelAttributes objectForKey:@"ANEFModelDescription"] objectForKey:@"ANEFModelProcedures"];
    for (NSDictionary *info in all)
        if ([[info objectForKey:@"ANEFModelProcedureID"] unsignedIntValue] == procedure)
            return info;
    return nil;
}

/* A set: the order of symbols is lost, as on the real class. */
- (NSIndexSet *)indicesOf:(unsigned int)procedure key:(NSString *)key {
    NSMutableIndexSet *set = [NSMutableIndexSet indexSet];
    for (NSNumber *n in [[self procedureInfoForProcedureIndex:procedure] objectForKey:key])
        [set addIndex:[n unsignedIntegerValue]];
    return set;
}

- (NSIndexSet *)inputSymbolIndicesForProcedureIndex:(unsigned int)procedure {
    return [self indicesOf:procedure key:@"ANEFModelInputSymbolIndexArray"];
}

- (NSIndexSet *)outputSymbolIndicesForProcedureIndex:(unsigned int)procedure {
    return [self indicesOf:procedure key:@"ANEFModelOutputSymbolIndexArray"];
}

@end
