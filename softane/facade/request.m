// SPDX-License-Identifier: MIT
/* request.m - _ANERequest: surfaces bound to symbol indices, and the rules a
 * request must keep. Nothing is validated at creation. At its first use a
 * request is turned into the C form that eval.c takes, and stays so. */
#include <stdlib.h>

#import "facade.h"

/* ============================== Rules ===================================== */

/* Source: §8.2, in that order. */
#define BUFFERS_MAX 255u
#define SYMBOL_MAX 254u
#define PROCEDURE_MAX 128u
#define STAT_TYPE_MAX 2u
#define EVENTS_MAX 64u

static bool broken(const char *rule) {
    sa_log(SA_LOG_ERROR, "request refused: %s", rule);
    return false;
}

static bool indices_ok(NSArray *indices) {
    for (NSNumber *n in indices)
        if ([n unsignedIntValue] > SYMBOL_MAX)
            return false;
    return true;
}

static bool stats_ok(id stats) {
    unsigned seen = 0;
    if (![stats isKindOfClass:[NSArray class]])
        return true;
    for (id<SaPerfStat> s in stats) {
        NSUInteger type = (NSUInteger)[s statType];
        if (type > STAT_TYPE_MAX || (seen & (1u << type)))
            return false;
        seen |= 1u << type;
    }
    return true;
}

static bool follows_rules(_ANERequest *r) {
    NSUInteger in = [r->_inputArray count], out = [r->_outputArray count];
    NSUInteger in_i = [r->_inputIndexArray count], out_i = [r->_outputIndexArray count];
    if (in == 0 || out == 0)
        return broken("no inputs or no outputs");
    if (in_i == 0 || out_i == 0)
        return broken("no input or no output indices");
    if (in > BUFFERS_MAX || out > BUFFERS_MAX || in_i > BUFFERS_MAX || out_i > BUFFERS_MAX)
        return broken("more than 255 buffers");
    if (in != in_i || out != out_i)
        return broken("counts of surfaces and indices differ");
    if (!indices_ok(r->_inputIndexArray) || !indices_ok(r->_outputIndexArray))
        return broken("symbol index above 254");
    if ([r->_procedureIndex unsignedIntValue] > PROCEDURE_MAX)
        return broken("procedure index above 128");
    if (!stats_ok(r->_perfStats))
        return broken("perfStats types");
    if (r->_sharedEvents && ([[r->_sharedEvents signalEvents] count] > EVENTS_MAX ||
                             [[r->_sharedEvents waitEvents] count] > EVENTS_MAX))
        return broken("more than 64 events");
    return true;
}

/* ============================== C form ==================================== */

static void prepared_free(SaPrepared *p) {
    if (!p)
        return;
    free(p->binding.inputs);
    free(p->objects);
    free(p);
}

/* One surface per index. An object that is no surface throws here. */
static void fill(SaSlot *slots, id *objects, NSArray *surfaces, NSArray *indices) {
    NSUInteger n = [surfaces count];
    for (NSUInteger i = 0; i < n; i++) {
        objects[i] = [surfaces objectAtIndex:i];
        SaSurface *s = sa_surface_of([(_ANEIOSurfaceObject *)objects[i] ioSurface]);
        slots[i].symbol = [[indices objectAtIndex:i] intValue];
        slots[i].base = s ? s->base : NULL;
        slots[i].bytes = s ? s->bytes : 0;
    }
}

static SaPrepared *prepare(_ANERequest *r) {
    SaPrepared *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    @autoreleasepool {
        p->valid = follows_rules(r);
        if (!p->valid)
            return p;
        NSUInteger in = [r->_inputArray count], out = [r->_outputArray count];
        p->binding.inputs = calloc(in + out, sizeof(SaSlot));
        p->objects = calloc(in + out, sizeof(id));
        if (!p->binding.inputs || !p->objects) {
            prepared_free(p);
            return NULL;
        }
        p->binding.outputs = p->binding.inputs + in;
        p->binding.n_inputs = (int)in;
        p->binding.n_outputs = (int)out;
        p->binding.procedure = [r->_procedureIndex intValue];
        @try {
            fill(p->binding.inputs, p->objects, r->_inputArray, r->_inputIndexArray);
            fill(p->binding.outputs, p->objects + in, r->_outputArray, r->_outputIndexArray);
        } @catch (id x) {
            prepared_free(p);
            @throw;
        }
    }
    return p;
}

const SaPrepared *sa_request_prepare(_ANERequest *r) {
    SaPrepared *p = __atomic_load_n(&r->_prepared, __ATOMIC_ACQUIRE);
    if (!p) {
        p = prepare(r);
        SaPrepared *first = NULL;
        if (p && !__atomic_compare_exchange_n(&r->_prepared, &first, p, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            prepared_free(p); /* two first uses at once */
            p = first;
        }
    }
    return p && p->valid ? p : NULL;
}

bool sa_request_unchanged(_ANERequest *r, const SaPrepared *p) {
    NSUInteger in = (NSUInteger)p->binding.n_inputs, out = (NSUInteger)p->binding.n_outputs;
    if ([r->_inputArray count] != in || [r->_outputArray count] != out)
        return false;
    for (NSUInteger i = 0; i < in; i++)
        if ([r->_inputArray objectAtIndex:i] != p->objects[i])
            return false;
    for (NSUInteger i = 0; i < out; i++)
        if ([r->_outputArray objectAtIndex:i] != p->objects[in + i])
            return false;
    return true;
}

/* ============================== Class ===================================== */

@implementation _ANERequest

/* Arrays are retained, not copied (§2 step 9). */
+ (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weightsBuffer
              perfStats:(id)perfStats
         procedureIndex:(NSNumber *)procedure
           sharedEvents:(id)events
      transactionHandle:(NSNumber *)transaction {
    _ANERequest *r = [[[self alloc] init] autorelease];
    r->_inputArray = [inputs retain];
    r->_inputIndexArray = [inputIndices retain];
    r->_outputArray = [outputs retain];
    r->_outputIndexArray = [outputIndices retain];
    r->_weightsBuffer = [weightsBuffer retain]; /* kept; no effect on baked weights */
    r->_perfStats = [perfStats retain];
    r->_procedureIndex = [procedure retain];
    r->_sharedEvents = [events retain];
    r->_transactionHandle = [transaction retain];
    return r;
}

/* The shorter factories of §8.1. */
#define BASE requestWithInputs:in inputIndices:ii outputs:out outputIndices:oi
+ (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
         procedureIndex:(NSNumber *)p {
    return [self BASE weightsBuffer:nil perfStats:nil procedureIndex:p sharedEvents:nil transactionHandle:nil];
}
+ (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
              perfStats:(id)stats procedureIndex:(NSNumber *)p {
    return [self BASE weightsBuffer:nil perfStats:stats procedureIndex:p sharedEvents:nil transactionHandle:nil];
}
+ (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
          weightsBuffer:(id)w procedureIndex:(NSNumber *)p {
    return [self BASE weightsBuffer:w perfStats:nil procedureIndex:p sharedEvents:nil transactionHandle:nil];
}
+ (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
          weightsBuffer:(id)w perfStats:(id)stats procedureIndex:(NSNumber *)p {
    return [self BASE weightsBuffer:w perfStats:stats procedureIndex:p sharedEvents:nil transactionHandle:nil];
}
+ (id)requestWithInputs:(NSArray *)in inputIndices:(NSArray *)ii outputs:(NSArray *)out outputIndices:(NSArray *)oi
          weightsBuffer:(id)w perfStats:(id)stats procedureIndex:(NSNumber *)p sharedEvents:(id)e {
    return [self BASE weightsBuffer:w perfStats:stats procedureIndex:p sharedEvents:e transactionHandle:nil];
}
#undef BASE

- (void)dealloc {
    sa_block_release(_completionHandler);
    prepared_free(_prepared);
    [_inputArray release];
    [_inputIndexArray release];
    [_outputArray release];
    [_outputIndexArray release];
    [_weightsBuffer release];
    [_perfStats release];
    [_procedureIndex release];
    [_sharedEvents release];
    [_transactionHandle release];
    [super dealloc];
}

- (BOOL)validate { return sa_request_prepare(self) != NULL; }

- (NSUInteger)ioSurfacesCount {
    return [_inputIndexArray count] + [_outputIndexArray count] + (_weightsBuffer ? 1 : 0);
}

- (NSArray *)inputArray { return _inputArray; }
- (NSArray *)inputIndexArray { return _inputIndexArray; }
- (NSArray *)outputArray { return _outputArray; }
- (NSArray *)outputIndexArray { return _outputIndexArray; }
- (id)weightsBuffer { return _weightsBuffer; }
- (NSNumber *)procedureIndex { return _procedureIndex; }
- (id)perfStats { return _perfStats; }
- (NSArray *)perfStatsArray { return [_perfStats isKindOfClass:[NSArray class]] ? _perfStats : nil; }
- (id)sharedEvents { return _sharedEvents; }
- (NSNumber *)transactionHandle { return _transactionHandle; }
- (void *)completionHandler { return _completionHandler; }

- (void)setCompletionHandler:(void *)block {
    void *copy = sa_block_copy(block);
    sa_block_release(_completionHandler);
    _completionHandler = copy;
}

- (void)setPerfStats:(id)stats {
    [stats retain];
    [_perfStats release];
    _perfStats = stats;
}
- (void)setSharedEvents:(id)events {
    [events retain];
    [_sharedEvents release];
    _sharedEvents = events;
}
- (void)setTransactionHandle:(NSNumber *)handle {
    [handle retain];
    [_transactionHandle release];
    _transactionHandle = handle;
}

@end
