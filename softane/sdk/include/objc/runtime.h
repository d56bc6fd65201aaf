// SPDX-License-Identifier: MIT
/* objc/runtime.h - looking at classes, methods and variables by name.
 *
 * Functions of GCC's runtime with Apple's signatures; the few it lacks are in
 * lib/runtime.m (marked *). Lists named copy… are freed with free(). */
#ifndef SOFTANE_SDK_OBJC_RUNTIME_H
#define SOFTANE_SDK_OBJC_RUNTIME_H

#include <objc/objc.h>
#include <stdlib.h> /* as Apple's, indirectly: programs call free() on the lists */

/* ============================== Types ===================================== */

typedef struct objc_property *objc_property_t;
typedef struct objc_property *Property;
typedef struct objc_method *Method;
typedef struct objc_category *Category;
typedef struct objc_ivar *Ivar;

struct objc_method_description {
    SEL name;
    char *types;
};

typedef struct {
    const char *name, *value;
} objc_property_attribute_t;

typedef uintptr_t objc_AssociationPolicy;
enum {
    OBJC_ASSOCIATION_ASSIGN = 0,
    OBJC_ASSOCIATION_RETAIN_NONATOMIC = 1,
    OBJC_ASSOCIATION_COPY_NONATOMIC = 3,
    OBJC_ASSOCIATION_RETAIN = 01401,
    OBJC_ASSOCIATION_COPY = 01403
};

/* Letters of type encodings. */
#define _C_ID '@'
#define _C_CLASS '#'
#define _C_SEL ':'
#define _C_CHR 'c'
#define _C_UCHR 'C'
#define _C_SHT 's'
#define _C_USHT 'S'
#define _C_INT 'i'
#define _C_UINT 'I'
#define _C_LNG 'l'
#define _C_ULNG 'L'
#define _C_LNG_LNG 'q'
#define _C_ULNG_LNG 'Q'
#define _C_FLT 'f'
#define _C_DBL 'd'
#define _C_LNG_DBL 'D'
#define _C_BFLD 'b'
#define _C_BOOL 'B'
#define _C_VOID 'v'
#define _C_UNDEF '?'
#define _C_PTR '^'
#define _C_CHARPTR '*'
#define _C_ATOM '%'
#define _C_ARY_B '['
#define _C_ARY_E ']'
#define _C_UNION_B '('
#define _C_UNION_E ')'
#define _C_STRUCT_B '{'
#define _C_STRUCT_E '}'
#define _C_VECTOR '!'
#define _C_COMPLEX 'j'
#define _C_CONST 'r'
#define _C_IN 'n'
#define _C_INOUT 'N'
#define _C_OUT 'o'
#define _C_BYCOPY 'O'
#define _C_BYREF 'R'
#define _C_ONEWAY 'V'
#define _C_GCINVISIBLE '|'
#define _F_CONST 0x01
#define _F_IN 0x01
#define _F_OUT 0x02
#define _F_INOUT 0x03
#define _F_BYCOPY 0x04
#define _F_BYREF 0x08
#define _F_ONEWAY 0x10
#define _F_GCINVISIBLE 0x20

/* ============================== Selectors ================================= */

OBJC_EXPORT BOOL sel_isEqual(SEL a, SEL b);
OBJC_EXPORT const char *sel_getTypeEncoding(SEL selector);
OBJC_EXPORT SEL sel_registerTypedName(const char *name, const char *types);

/* ============================== Classes =================================== */

OBJC_EXPORT Class objc_getClass(const char *name); /* nil when there is none */
OBJC_EXPORT Class objc_lookUpClass(const char *name);
OBJC_EXPORT Class objc_getMetaClass(const char *name);
OBJC_EXPORT Class objc_getRequiredClass(const char *name);
OBJC_EXPORT int objc_getClassList(Class *list, int count);
OBJC_EXPORT Class *objc_copyClassList(unsigned int *count); /* * */

OBJC_EXPORT const char *class_getName(Class c);
OBJC_EXPORT BOOL class_isMetaClass(Class c);
OBJC_EXPORT Class class_getSuperclass(Class c);
OBJC_EXPORT int class_getVersion(Class c);
OBJC_EXPORT void class_setVersion(Class c, int version);
OBJC_EXPORT size_t class_getInstanceSize(Class c);
OBJC_EXPORT id class_createInstance(Class c, size_t extra) __attribute__((ns_returns_retained));

OBJC_EXPORT Class objc_allocateClassPair(Class super, const char *name, size_t extra);
OBJC_EXPORT void objc_registerClassPair(Class c);
OBJC_EXPORT void objc_disposeClassPair(Class c);

/* ============================== Objects =================================== */

/* * Inline in GCC's header, a function here. */
OBJC_EXPORT Class object_getClass(id object);
OBJC_EXPORT BOOL object_isClass(id object); /* * */
OBJC_EXPORT Class object_setClass(id object, Class c);
OBJC_EXPORT id object_getIvar(id object, Ivar variable);
OBJC_EXPORT void object_setIvar(id object, Ivar variable, id value);
#if !__has_feature(objc_arc)
OBJC_EXPORT id object_copy(id object, size_t extra);
OBJC_EXPORT id object_dispose(id object);
OBJC_EXPORT Ivar object_getInstanceVariable(id object, const char *name, void **value);
OBJC_EXPORT Ivar object_setInstanceVariable(id object, const char *name, void *value);
#endif

OBJC_EXPORT void objc_setAssociatedObject(id object, const void *key, id value, objc_AssociationPolicy policy); /* * */
OBJC_EXPORT id objc_getAssociatedObject(id object, const void *key);                                            /* * */
OBJC_EXPORT void objc_removeAssociatedObjects(id object);                                                       /* * */

/* ============================== Methods =================================== */

OBJC_EXPORT Method class_getInstanceMethod(Class c, SEL selector);
OBJC_EXPORT Method class_getClassMethod(Class c, SEL selector);
OBJC_EXPORT IMP class_getMethodImplementation(Class c, SEL selector);
OBJC_EXPORT BOOL class_respondsToSelector(Class c, SEL selector);
OBJC_EXPORT BOOL class_addMethod(Class c, SEL selector, IMP imp, const char *types);
OBJC_EXPORT IMP class_replaceMethod(Class c, SEL selector, IMP imp, const char *types);
OBJC_EXPORT Method *class_copyMethodList(Class c, unsigned int *count);
OBJC_EXPORT SEL method_getName(Method m);
OBJC_EXPORT IMP method_getImplementation(Method m);
OBJC_EXPORT IMP method_setImplementation(Method m, IMP imp);
OBJC_EXPORT void method_exchangeImplementations(Method a, Method b);
OBJC_EXPORT const char *method_getTypeEncoding(Method m);
OBJC_EXPORT struct objc_method_description *method_getDescription(Method m);
OBJC_EXPORT unsigned int method_getNumberOfArguments(Method m);
OBJC_EXPORT char *method_copyReturnType(Method m);
OBJC_EXPORT char *method_copyArgumentType(Method m, unsigned int index);
OBJC_EXPORT void method_getReturnType(Method m, char *buffer, size_t size);
OBJC_EXPORT void method_getArgumentType(Method m, unsigned int index, char *buffer, size_t size);

/* ============================== Variables ================================= */

OBJC_EXPORT Ivar class_getInstanceVariable(Class c, const char *name);
OBJC_EXPORT Ivar class_getClassVariable(Class c, const char *name);
OBJC_EXPORT Ivar *class_copyIvarList(Class c, unsigned int *count);
OBJC_EXPORT BOOL class_addIvar(Class c, const char *name, size_t size, unsigned char log2_align, const char *types);
OBJC_EXPORT const char *ivar_getName(Ivar v);
OBJC_EXPORT ptrdiff_t ivar_getOffset(Ivar v);
OBJC_EXPORT const char *ivar_getTypeEncoding(Ivar v);

/* GCC's runtime keeps no properties: empty lists. */
OBJC_EXPORT objc_property_t class_getProperty(Class c, const char *name);
OBJC_EXPORT objc_property_t *class_copyPropertyList(Class c, unsigned int *count);
OBJC_EXPORT const char *property_getName(objc_property_t p);
OBJC_EXPORT const char *property_getAttributes(objc_property_t p);

/* ============================== Protocols ================================= */

OBJC_EXPORT Protocol *objc_getProtocol(const char *name);
OBJC_EXPORT const char *protocol_getName(Protocol *p);
OBJC_EXPORT BOOL protocol_isEqual(Protocol *a, Protocol *b);
OBJC_EXPORT BOOL protocol_conformsToProtocol(Protocol *a, Protocol *b);
OBJC_EXPORT BOOL class_addProtocol(Class c, Protocol *p);
OBJC_EXPORT BOOL class_conformsToProtocol(Class c, Protocol *p);
OBJC_EXPORT struct objc_method_description protocol_getMethodDescription(Protocol *p, SEL selector, BOOL required,
                                                                         BOOL instance);

OBJC_EXPORT void objc_enumerationMutation(id collection);

#endif
