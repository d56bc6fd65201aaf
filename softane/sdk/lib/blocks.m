// SPDX-License-Identifier: MIT
/* blocks.m - the block runtime: copies of blocks and what they captured.
 *
 * Compared with libBlocksRuntime: captured objects are retained, and a block
 * is an Objective-C object (copy, retain, release, in collections), as on
 * macOS. A libdispatch that is loaded uses these functions too. */
#import <Foundation/Foundation.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "sdk.h"

/* ============================== Layout ==================================== */

enum { /* flags of a block, given by the compiler or set here */
    B_REFS = 0xffff,
    B_NEEDS_FREE = 1 << 24, /* lives on the heap */
    B_HAS_COPY = 1 << 25,   /* the descriptor has helpers */
    B_GLOBAL = 1 << 28
};
enum { /* what a helper asks to copy */
    F_OBJECT = 3,
    F_BLOCK = 7,
    F_BYREF = 8,
    F_WEAK = 16,
    F_CALLER = 128 /* from the helper of a __block variable */
};

typedef struct {
    unsigned long reserved, size;
    void (*copy)(void *to, const void *from);
    void (*dispose)(const void *block);
} Descriptor;

typedef struct {
    void *isa;
    _Atomic int flags;
    int reserved;
    void (*invoke)(void *, ...);
    Descriptor *descriptor;
} Block;

typedef struct Byref {
    void *isa;
    struct Byref *forwarding;
    _Atomic int flags;
    unsigned size;
    void (*keep)(struct Byref *to, struct Byref *from);
    void (*destroy)(struct Byref *);
} Byref;

void *_Block_copy(const void *block);
void _Block_release(const void *block);

/* ============================== Classes =================================== */

/* A block's isa. The names that compilers know are made below: they stand for
 * these very class structures. */
@interface SoftaneBlock : NSObject
@end
@interface SoftaneStackBlock : SoftaneBlock
@end
@interface SoftaneGlobalBlock : SoftaneBlock
@end
@interface SoftaneHeapBlock : SoftaneBlock
@end

@implementation SoftaneBlock
- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    return _Block_copy(self);
}
- (id)copy { return _Block_copy(self); }
- (id)retain { return self; }
- (oneway void)release {}
- (id)autorelease { return self; }
- (NSUInteger)retainCount { return 1; }
@end

@implementation SoftaneStackBlock
@end
@implementation SoftaneGlobalBlock
@end
@implementation SoftaneHeapBlock
- (id)retain { return _Block_copy(self); }
- (oneway void)release { _Block_release(self); }
- (id)autorelease {
    [NSAutoreleasePool addObject:self];
    return self;
}
- (NSUInteger)retainCount { return (NSUInteger)(atomic_load(&((Block *)self)->flags) & B_REFS); }
@end

__asm__(".globl _NSConcreteStackBlock\n.set _NSConcreteStackBlock, _OBJC_CLASS_SoftaneStackBlock\n"
        ".globl _NSConcreteGlobalBlock\n.set _NSConcreteGlobalBlock, _OBJC_CLASS_SoftaneGlobalBlock\n"
        ".globl _NSConcreteMallocBlock\n.set _NSConcreteMallocBlock, _OBJC_CLASS_SoftaneHeapBlock\n");
extern struct objc_object _NSConcreteMallocBlock;

/* ============================== Copying =================================== */

void *_Block_copy(const void *argument) {
    Block *b = (Block *)argument;
    if (!b)
        return NULL;
    int flags = atomic_load_explicit(&b->flags, memory_order_relaxed);
    if (flags & B_GLOBAL)
        return b;
    if (flags & B_NEEDS_FREE) {
        atomic_fetch_add_explicit(&b->flags, 1, memory_order_relaxed);
        return b;
    }
    Block *copy = malloc(b->descriptor->size);
    if (!copy)
        return NULL;
    memcpy(copy, b, b->descriptor->size);
    copy->isa = &_NSConcreteMallocBlock;
    atomic_init(&copy->flags, (flags & ~B_REFS) | B_NEEDS_FREE | 1);
    if (flags & B_HAS_COPY)
        b->descriptor->copy(copy, b);
    return copy;
}

void _Block_release(const void *argument) {
    Block *b = (Block *)argument;
    if (!b || !(atomic_load_explicit(&b->flags, memory_order_relaxed) & B_NEEDS_FREE))
        return;
    if ((atomic_fetch_sub_explicit(&b->flags, 1, memory_order_acq_rel) & B_REFS) != 1)
        return;
    if (atomic_load_explicit(&b->flags, memory_order_relaxed) & B_HAS_COPY)
        b->descriptor->dispose(b);
    free(b);
}

/* A __block variable moves to the heap with the first block that is copied;
 * all who use it follow `forwarding`. Two references then: of the stack frame
 * and of the block. */
static Byref *byref_copy(Byref *from) {
    Byref *home = from->forwarding;
    if (atomic_load_explicit(&home->flags, memory_order_relaxed) & B_NEEDS_FREE) {
        atomic_fetch_add_explicit(&home->flags, 1, memory_order_relaxed);
        return home;
    }
    Byref *to = malloc(from->size);
    if (!to)
        abort(); /* the block's helper cannot fail */
    memcpy(to, from, from->size);
    int flags = atomic_load_explicit(&from->flags, memory_order_relaxed);
    to->isa = NULL;
    atomic_init(&to->flags, (flags & ~B_REFS) | B_NEEDS_FREE | 2);
    to->forwarding = to;
    from->forwarding = to;
    if (flags & B_HAS_COPY)
        from->keep(to, from);
    return to;
}

static void byref_release(Byref *b) {
    Byref *home = b->forwarding;
    if (!(atomic_load_explicit(&home->flags, memory_order_relaxed) & B_NEEDS_FREE))
        return;
    if ((atomic_fetch_sub_explicit(&home->flags, 1, memory_order_acq_rel) & B_REFS) != 1)
        return;
    if (atomic_load_explicit(&home->flags, memory_order_relaxed) & B_HAS_COPY)
        home->destroy(home);
    free(home);
}

void _Block_object_assign(void *target, const void *object, const int flags) {
    const void **to = target;
    switch (flags) {
    case F_OBJECT:
        *to = [(id)object retain];
        break;
    case F_BLOCK:
        *to = _Block_copy(object);
        break;
    case F_BYREF:
    case F_BYREF | F_WEAK:
        *to = byref_copy((Byref *)object);
        break;
    default: /* inside a __block variable: not retained without ARC */
        *to = object;
    }
}

void _Block_object_dispose(const void *object, const int flags) {
    switch (flags) {
    case F_OBJECT:
        [(id)object release];
        break;
    case F_BLOCK:
        _Block_release(object);
        break;
    case F_BYREF:
    case F_BYREF | F_WEAK:
        byref_release((Byref *)object);
        break;
    default:
        break;
    }
}

id objc_retainBlock(id block) { return _Block_copy(block); }
