// SPDX-License-Identifier: MIT
/* chaining.m - what chaining requests are made of. Values only: chaining needs
 * an intermediate buffer, which programs made from MIL do not have, so
 * client.m answers every one of them with code 15 (§16). */
#import "facade.h"

/* ============================== Buffers =================================== */

SA_CLASS
@interface _ANEBuffer : NSObject {
    _ANEIOSurfaceObject *_ioSurfaceObject;
    NSNumber *_symbolIndex;
    int64_t _source; /* 0 input, 1 output */
}
@end

@implementation _ANEBuffer

+ (id)bufferWithIOSurfaceObject:(_ANEIOSurfaceObject *)surface symbolIndex:(NSNumber *)symbol source:(int64_t)source {
    if (!surface)
        return nil;
    _ANEBuffer *b = [[[self alloc] init] autorelease];
    b->_ioSurfaceObject = [surface retain];
    b->_symbolIndex = [symbol retain];
    b->_source = source;
    return b;
}
- (void)dealloc {
    [_ioSurfaceObject release];
    [_symbolIndex release];
    [super dealloc];
}
- (_ANEIOSurfaceObject *)ioSurfaceObject { return _ioSurfaceObject; }
- (NSNumber *)symbolIndex { return _symbolIndex; }
- (int64_t)source { return _source; }
@end

SA_CLASS
@interface _ANEIOSurfaceOutputSets : NSObject {
    IOSurfaceRef _statsSurRef;
    NSArray *_outputBuffer;
}
@end

@implementation _ANEIOSurfaceOutputSets

+ (id)objectWithstatsSurRef:(IOSurfaceRef)stats outputBuffer:(NSArray *)buffers {
    _ANEIOSurfaceOutputSets *s = [[[self alloc] init] autorelease];
    s->_statsSurRef = (IOSurfaceRef)[(id)stats retain];
    s->_outputBuffer = [buffers retain];
    return s;
}
- (void)dealloc {
    [(id)_statsSurRef release];
    [_outputBuffer release];
    [super dealloc];
}
- (IOSurfaceRef)statsSurRef { return _statsSurRef; }
- (NSArray *)outputBuffer { return _outputBuffer; }
@end

/* ============================== Requests ================================== */

SA_CLASS
@interface _ANEChainingRequest : NSObject {
    NSArray *_inputBuffer, *_outputSets, *_signalEvents;
    id _loopbackInputSymbolIndex, _loopbackOutputSymbolIndex;
    NSNumber *_procedureIndex, *_transactionHandle, *_fwEnqueueDelay, *_memoryPoolId;
}
@end

@implementation _ANEChainingRequest

+ (id)chainingRequestWithInputs:(NSArray *)inputs
                     outputSets:(NSArray *)sets
                lbInputSymbolId:(id)input
               lbOutputSymbolId:(id)output
                 procedureIndex:(NSNumber *)procedure
                   signalEvents:(NSArray *)events
              transactionHandle:(NSNumber *)transaction
                 fwEnqueueDelay:(NSNumber *)delay
                   memoryPoolId:(NSNumber *)pool {
    _ANEChainingRequest *r = [[[self alloc] init] autorelease];
    r->_inputBuffer = [inputs retain];
    r->_outputSets = [sets retain];
    r->_loopbackInputSymbolIndex = [input retain];
    r->_loopbackOutputSymbolIndex = [output retain];
    r->_procedureIndex = [procedure retain];
    r->_signalEvents = [events retain];
    r->_transactionHandle = [transaction retain];
    r->_fwEnqueueDelay = [delay retain];
    r->_memoryPoolId = [pool retain];
    return r;
}
- (void)dealloc {
    [_inputBuffer release];
    [_outputSets release];
    [_loopbackInputSymbolIndex release];
    [_loopbackOutputSymbolIndex release];
    [_procedureIndex release];
    [_signalEvents release];
    [_transactionHandle release];
    [_fwEnqueueDelay release];
    [_memoryPoolId release];
    [super dealloc];
}
- (BOOL)validate { return [_inputBuffer count] > 0 && [_outputSets count] > 0; }
- (NSArray *)inputBuffer { return _inputBuffer; }
- (NSArray *)outputSets { return _outputSets; }
- (id)loopbackInputSymbolIndex { return _loopbackInputSymbolIndex; }
- (id)loopbackOutputSymbolIndex { return _loopbackOutputSymbolIndex; }
- (NSNumber *)procedureIndex { return _procedureIndex; }
- (NSArray *)signalEvents { return _signalEvents; }
- (NSNumber *)transactionHandle { return _transactionHandle; }
- (NSNumber *)fwEnqueueDelay { return _fwEnqueueDelay; }
- (NSNumber *)memoryPoolId { return _memoryPoolId; }
@end
