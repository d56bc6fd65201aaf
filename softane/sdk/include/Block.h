// SPDX-License-Identifier: MIT
/* Block.h - copying blocks. The functions are in lib/blocks.m: unlike those of
 * libBlocksRuntime they retain the objects a block has captured. */
#ifndef SOFTANE_SDK_BLOCK_H
#define SOFTANE_SDK_BLOCK_H

#if defined(__cplusplus)
extern "C" {
#endif

void *_Block_copy(const void *block);
void _Block_release(const void *block);
void _Block_object_assign(void *target, const void *object, const int flags);
void _Block_object_dispose(const void *object, const int flags);
extern void *_NSConcreteGlobalBlock[32];
extern void *_NSConcreteStackBlock[32];

#if defined(__cplusplus)
}
#endif

#define Block_copy(...) ((__typeof(__VA_ARGS__))_Block_copy((const void *)(__VA_ARGS__)))
#define Block_release(...) _Block_release((const void *)(__VA_ARGS__))

#endif
