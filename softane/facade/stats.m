// SPDX-License-Identifier: MIT
/* stats.m - performance statistics. Consumer systems hand out none: the mask
 * is taken and forgotten, buffers stay zero (§16), and so it is here. */
#import "facade.h"

SA_CLASS
@interface _ANEPerformanceStats : NSObject {
    uint64_t _hwExecutionTime; /* ns, as given to the factory */
    NSData *_perfCounterData, *_pStatsRawData;
}
@end

@implementation _ANEPerformanceStats

+ (id)new {
    return nil;
}
- (id)init {
    [self release];
    return nil;
}

- (id)initWithHardwareExecution:(uint64_t)ns perfCounterData:(NSData *)counters ANEStatsRawData:(NSData *)raw {
    if ((self = [super init])) {
        _hwExecutionTime = ns;
        _perfCounterData = [counters retain];
        _pStatsRawData = [raw retain];
    }
    return self;
}

+ (id)statsWithHardwareExecutionNS:(uint64_t)ns {
    return [[[self alloc] initWithHardwareExecution:ns perfCounterData:nil ANEStatsRawData:nil] autorelease];
}
+ (id)statsWithReconstructed:(NSData *)counters hardwareExecutionNS:(uint64_t)ns {
    return [[[self alloc] initWithHardwareExecution:ns perfCounterData:counters ANEStatsRawData:nil] autorelease];
}
+ (id)statsWithReconstructed:(NSData *)counters hardwareExecutionNS:(uint64_t)ns aneStatsRawData:(NSData *)raw {
    return [[[self alloc] initWithHardwareExecution:ns perfCounterData:counters ANEStatsRawData:raw] autorelease];
}

/* The buffer that a driver would have filled: not read, nothing was measured. */
+ (id)statsWithRequestPerformanceBuffer:(void **)buffer statsBufferSize:(unsigned int *)size {
    return buffer && size ? [self statsWithHardwareExecutionNS:0] : nil;
}

/* No bit makes the driver measure. */
+ (unsigned int)driverMaskForANEFMask:(unsigned int)mask {
    (void)mask;
    return 0;
}

- (void)dealloc {
    [_perfCounterData release];
    [_pStatsRawData release];
    [super dealloc];
}
- (uint64_t)hwExecutionTime { return _hwExecutionTime; }
- (NSData *)perfCounterData { return _perfCounterData; }
- (NSData *)pStatsRawData { return _pStatsRawData; }
- (NSDictionary *)performanceCounters { return [NSDictionary dictionary]; }
- (NSString *)stringForPerfCounter:(int)counter {
    (void)counter;
    return nil;
}
- (void)emitPerfcounterSignpostsWithModelStringID:(uint64_t)stringID { (void)stringID; }
@end

/* What a request wants in its array perfStats. */
SA_CLASS
@interface _ANEPerformanceStatsIOSurface : NSObject <SaPerfStat> {
    _ANEIOSurfaceObject *_stats;
    NSInteger _statType;
}
@end

@implementation _ANEPerformanceStatsIOSurface

+ (id)objectWithIOSurface:(_ANEIOSurfaceObject *)surface statType:(NSInteger)type {
    if (!surface)
        return nil;
    _ANEPerformanceStatsIOSurface *s = [[[self alloc] init] autorelease];
    s->_stats = [surface retain];
    s->_statType = type;
    return s;
}
- (void)dealloc {
    [_stats release];
    [super dealloc];
}
- (_ANEIOSurfaceObject *)stats { return _stats; }
- (NSInteger)statType { return _statType; }
@end
