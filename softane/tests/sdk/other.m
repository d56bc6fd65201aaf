// SPDX-License-Identifier: MIT
/* other.m - linked after its subclass, so that the subclass has to wait. */
#import "other.h"

@implementation Other {
    int _hidden; /* makes the offsets in the subclass differ from what its header shows */
    double _more;
}
- (instancetype)init {
    if ((self = [super init])) {
        _number = 11;
        _hidden = 3;
        _more = 0.5;
    }
    return self;
}
@end
