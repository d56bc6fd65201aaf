// SPDX-License-Identifier: MIT
/* objc/objc.h - the basic types of Objective-C for programs built by softane-cc.
 *
 * Replaces the header of GCC's runtime, whose inline functions ARC does not
 * accept. The types are those of that runtime (BOOL is an unsigned char). */
#ifndef SOFTANE_SDK_OBJC_H
#define SOFTANE_SDK_OBJC_H

#include <stddef.h>
#include <stdint.h>

#define __GNU_LIBOBJC__ 20110608 /* which of its APIs GNUstep's headers may expect */

#if defined(__cplusplus)
#define OBJC_EXPORT extern "C"
#else
#define OBJC_EXPORT extern
#endif
#ifndef OBJC_EXTERN
#define OBJC_EXTERN OBJC_EXPORT
#endif

#undef BOOL
typedef unsigned char BOOL;
#if defined(__OBJC__) && __has_feature(objc_bool)
#define YES __objc_yes
#define NO __objc_no
#else
#define YES ((BOOL)1)
#define NO ((BOOL)0)
#endif

typedef struct objc_class *Class;
struct objc_object {
    Class isa;
};
typedef struct objc_object *id;
typedef const struct objc_selector *SEL;
typedef id (*IMP)(id, SEL, ...);

#ifndef __OBJC__
typedef struct objc_object Protocol;
#else
@class Protocol;
#endif

#ifndef nil
#if defined(__cplusplus)
#define nil __null
#else
#define nil ((void *)0)
#endif
#endif
#ifndef Nil
#define Nil nil
#endif

OBJC_EXPORT const char *sel_getName(SEL selector);
OBJC_EXPORT SEL sel_registerName(const char *name);
OBJC_EXPORT SEL sel_getUid(const char *name);
OBJC_EXPORT const char *object_getClassName(id object);
OBJC_EXPORT void *object_getIndexedIvars(id object);

#endif
