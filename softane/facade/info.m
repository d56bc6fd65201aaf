// SPDX-License-Identifier: MIT
/* info.m - _ANEQoSMapper and _ANEDeviceInfo: constants that probes print. */
#include <unistd.h>

#import "facade.h"

#include "../include/softane.h"

SA_CLASS
@interface _ANEQoSMapper : NSObject
@end

@implementation _ANEQoSMapper
+ (unsigned int)aneRealTimeTaskQoS { return 0; }
+ (unsigned int)aneBackgroundTaskQoS { return 9; }
+ (unsigned int)aneUtilityTaskQoS { return 17; }
+ (unsigned int)aneDefaultTaskQoS { return 21; }
+ (unsigned int)aneUserInitiatedTaskQoS { return 25; }
+ (unsigned int)aneUserInteractiveTaskQoS { return 33; }
+ (uint64_t)queueIndexForQoS:(unsigned int)qos { return (uint64_t)sa_queue_index(qos); }
+ (int)programPriorityForQoS:(unsigned int)qos { return sa_queue_priority(qos); }
+ (uint64_t)realTimeQueueIndex { return 2; }
+ (int)realTimeProgramPriority { return 2; }
@end

SA_CLASS
@interface _ANEDeviceInfo : NSObject
@end

/* Says plainly that this is no Apple hardware. */
@implementation _ANEDeviceInfo
+ (NSString *)aneSubType { return @"softane"; }
+ (NSString *)aneArchitectureType { return @"softane"; }
+ (unsigned int)numANEs { return 1; }
+ (unsigned int)numANECores {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (unsigned int)n : 1;
}
+ (BOOL)hasANE { return YES; }
+ (BOOL)isVirtualMachine { return NO; }
+ (NSString *)buildVersion { return [NSString stringWithFormat:@"softane-%s", softane_version()]; }
+ (NSString *)productName { return @"softane"; }
@end
