// SPDX-License-Identifier: MIT
/* CoreML/CoreML.h - there is no Core ML here. Programs that only include the
 * header compile; the first name they use from it is an error. */
#import <Foundation/Foundation.h>
