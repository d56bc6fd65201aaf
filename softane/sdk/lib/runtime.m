// SPDX-License-Identifier: MIT
/* runtime.m - functions of Apple's objc/runtime.h that GCC's runtime lacks:
 * associated objects, a hook on -dealloc, copied lists of classes. */
#import <Foundation/Foundation.h>

#include <objc/runtime.h>
#include <pthread.h>
#include <stdatomic.h>

#include "sdk.h"

/* ============================== Objects =================================== */

#undef object_getClass
Class object_getClass(id object) { return object ? *(Class *)(void *)object : Nil; }

BOOL object_isClass(id object) { return object && class_isMetaClass(object_getClass(object)); }

Class *objc_copyClassList(unsigned int *count) {
    int n = objc_getClassList(NULL, 0);
    Class *list = calloc((size_t)n + 1, sizeof *list);
    if (list)
        n = objc_getClassList(list, n);
    if (count)
        *count = list ? (unsigned)n : 0;
    return list;
}

/* ============================== Dealloc =================================== */

static void (*plain_dealloc)(id, SEL);
static atomic_bool associations_used;

static void watched_dealloc(id self, SEL selector) {
    sdk_weak_forget(self);
    if (associations_used)
        objc_removeAssociatedObjects(self);
    plain_dealloc(self, selector);
}

static void watch(void) {
    Method m = class_getInstanceMethod([NSObject class], @selector(dealloc));
    plain_dealloc = (void (*)(id, SEL))(void (*)(void))method_getImplementation(m);
    method_setImplementation(m, (IMP)(void (*)(void))watched_dealloc);
}

void sdk_watch_deallocs(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch);
}

/* ============================== Associations ============================== */

typedef struct Assoc {
    struct Assoc *next;
    const void *object, *key;
    id value;
    bool owned;
} Assoc;

enum { BUCKETS = 256 };
static Assoc *table[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static Assoc **bucket_of(const void *o) { return &table[((uintptr_t)o >> 4) % BUCKETS]; }

/* Takes the first association of an object out of the table; key NULL = any. */
static Assoc *take(const void *object, const void *key) {
    pthread_mutex_lock(&table_lock);
    Assoc **a = bucket_of(object);
    while (*a && ((*a)->object != object || (key && (*a)->key != key)))
        a = &(*a)->next;
    Assoc *found = *a;
    if (found)
        *a = found->next;
    pthread_mutex_unlock(&table_lock);
    return found;
}

static void drop(Assoc *a) {
    if (a && a->owned)
        [a->value release];
    free(a);
}

void objc_setAssociatedObject(id object, const void *key, id value, objc_AssociationPolicy policy) {
    sdk_watch_deallocs();
    associations_used = true;
    Assoc *fresh = value ? malloc(sizeof *fresh) : NULL;
    if (fresh) {
        bool copy = (policy & 0xff) == OBJC_ASSOCIATION_COPY_NONATOMIC;
        fresh->object = object;
        fresh->key = key;
        fresh->owned = policy != OBJC_ASSOCIATION_ASSIGN;
        fresh->value = copy ? [value copy] : fresh->owned ? [value retain] : value;
    }
    drop(take(object, key));
    if (!fresh)
        return;
    pthread_mutex_lock(&table_lock);
    fresh->next = *bucket_of(object);
    *bucket_of(object) = fresh;
    pthread_mutex_unlock(&table_lock);
}

id objc_getAssociatedObject(id object, const void *key) {
    pthread_mutex_lock(&table_lock);
    Assoc *a = *bucket_of(object);
    while (a && (a->object != (void *)object || a->key != key))
        a = a->next;
    id value = a ? (a->owned ? [[a->value retain] autorelease] : a->value) : nil;
    pthread_mutex_unlock(&table_lock);
    return value;
}

void objc_removeAssociatedObjects(id object) {
    Assoc *a;
    while ((a = take(object, NULL)))
        drop(a);
}
