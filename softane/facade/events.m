// SPDX-License-Identifier: MIT
/* events.m - shared events of a request: values to wait for before it runs,
 * values to signal when it has run. The counters are other objects: of class
 * IOSurfaceSharedEvent here, or anything else that answers signaledValue. */
#import "facade.h"

/* ============================== Counter =================================== */

SA_CLASS
@interface IOSurfaceSharedEvent : NSObject {
    _Atomic uint64_t _signaledValue;
}
@end

@implementation IOSurfaceSharedEvent
- (uint64_t)signaledValue { return _signaledValue; }
- (void)setSignaledValue:(uint64_t)value { _signaledValue = value; }
@end

/* ============================== Events ==================================== */

SA_CLASS
@interface _ANESharedWaitEvent : NSObject <SaEvent> {
    id _sharedEvent;
    uint64_t _value;
    int64_t _eventType;
}
@end

@implementation _ANESharedWaitEvent

+ (id)waitEventWithValue:(uint64_t)value sharedEvent:(id)event eventType:(int64_t)type {
    _ANESharedWaitEvent *e = [[[self alloc] init] autorelease];
    e->_value = value;
    e->_sharedEvent = [event retain];
    e->_eventType = type;
    return e;
}
+ (id)waitEventWithValue:(uint64_t)value sharedEvent:(id)event {
    return [self waitEventWithValue:value sharedEvent:event eventType:0];
}
- (void)dealloc {
    [_sharedEvent release];
    [super dealloc];
}
- (id)sharedEvent { return _sharedEvent; }
- (uint64_t)value { return _value; }
- (void)setValue:(uint64_t)value { _value = value; }
- (int64_t)eventType { return _eventType; }
@end

SA_CLASS
@interface _ANESharedSignalEvent : NSObject <SaEvent> {
    id _sharedEvent;
    uint64_t _value, _agentMask;
    unsigned int _symbolIndex;
    int64_t _eventType;
}
@end

@implementation _ANESharedSignalEvent

+ (id)signalEventWithValue:(uint64_t)value
               symbolIndex:(unsigned int)symbol
                 eventType:(int64_t)type
               sharedEvent:(id)event {
    _ANESharedSignalEvent *e = [[[self alloc] init] autorelease];
    e->_value = value;
    e->_symbolIndex = symbol;
    e->_eventType = type;
    e->_sharedEvent = [event retain];
    return e;
}
- (void)dealloc {
    [_sharedEvent release];
    [super dealloc];
}
- (id)sharedEvent { return _sharedEvent; }
- (uint64_t)value { return _value; }
- (void)setValue:(uint64_t)value { _value = value; }
- (uint64_t)agentMask { return _agentMask; }
- (void)setAgentMask:(uint64_t)mask { _agentMask = mask; }
- (unsigned int)symbolIndex { return _symbolIndex; }
- (int64_t)eventType { return _eventType; }
- (id)waitEvent { return [_ANESharedWaitEvent waitEventWithValue:_value sharedEvent:_sharedEvent]; }
@end

SA_CLASS
@interface _ANESharedEvents : NSObject <SaSharedEvents> {
    NSArray *_signalEvents, *_waitEvents;
}
@end

@implementation _ANESharedEvents

+ (id)sharedEventsWithSignalEvents:(NSArray *)signals waitEvents:(NSArray *)waits {
    _ANESharedEvents *e = [[[self alloc] init] autorelease];
    e->_signalEvents = [signals copy];
    e->_waitEvents = [waits copy];
    return e;
}
- (void)dealloc {
    [_signalEvents release];
    [_waitEvents release];
    [super dealloc];
}
- (NSArray *)signalEvents { return _signalEvents; }
- (NSArray *)waitEvents { return _waitEvents; }
@end
