// SPDX-License-Identifier: MIT
/* objc/blocks_runtime.h - asked for by GNUstep's headers when blocks are on. */
#include <Block.h>
