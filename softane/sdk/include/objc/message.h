// SPDX-License-Identifier: MIT
/* objc/message.h - objc_msgSend and its relatives.
 *
 * Always called through a cast to the method's type:
 *     ((BOOL (*)(id, SEL, unsigned int, NSError **))objc_msgSend)(model, @selector(…), 21, &error)
 * lib/msgsend.c finds the method and jumps to it with all registers and the
 * stack as they were. A nil receiver answers 0, 0.0 or nil. */
#ifndef SOFTANE_SDK_OBJC_MESSAGE_H
#define SOFTANE_SDK_OBJC_MESSAGE_H

#include <objc/objc.h>
#include <objc/runtime.h>

struct objc_super {
#if __has_feature(objc_arc)
    __unsafe_unretained
#endif
    id receiver;
    Class super_class;
};

OBJC_EXPORT void objc_msgSend(void);
OBJC_EXPORT void objc_msgSend_fpret(void);
OBJC_EXPORT void objc_msgSend_stret(void);
OBJC_EXPORT void objc_msgSendSuper(void);
OBJC_EXPORT void objc_msgSendSuper_stret(void);

/* What GCC's runtime offers for the same purpose. */
OBJC_EXPORT IMP objc_msg_lookup(id receiver, SEL selector);
OBJC_EXPORT IMP objc_msg_lookup_super(struct objc_super *super, SEL selector);

#endif
