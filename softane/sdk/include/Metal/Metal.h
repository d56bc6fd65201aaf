// SPDX-License-Identifier: MIT
/* Metal/Metal.h - there is no Metal here. Programs that only include the
 * header compile; the first function they use from it is an error. */
#import <Foundation/Foundation.h>

@protocol MTLDevice;
@protocol MTLBuffer;
@protocol MTLCommandQueue;
@protocol MTLSharedEvent;
