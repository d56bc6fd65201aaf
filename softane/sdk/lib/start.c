// SPDX-License-Identifier: MIT
/* start.c - what happens before main. Linked behind every file with classes
 * (cc.py sorts by name, so keep .m files before "start"): a constructor here
 * runs when all classes of the program and of the SDK are loaded. */
#include "sdk.h"

__attribute__((constructor)) static void start(void) {
    sdk_check_modules();
    sdk_make_constants();
    sdk_watch_bundles();
    (void)objc_autoreleasePoolPush(); /* of the main thread, to its end: work outside of all pools has one on a Mac too */
}
