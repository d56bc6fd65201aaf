// SPDX-License-Identifier: MIT
/* module.c - lets GCC's Objective-C runtime load what clang emits for GNUstep's.
 *
 * softane-cc compiles programs with -fobjc-runtime=gnustep-1.6, because clang
 * allows ARC, subscripting and late variable offsets for that runtime and not
 * for GCC's. The two formats are nearly the same; at start each module of the
 * program passes through here (the linker's --wrap=__objc_exec_class) and is
 * adjusted in place:
 *   - module and protocols get the version numbers GCC's runtime wants
 *   - a flag bit of classes, which means something else there, is cleared
 *   - sizes and offsets of instance variables, given relative to the end of
 *     the superclass, become absolute
 * A module with a class whose superclass is not known yet waits for it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdk.h"

/* ============================== The two formats =========================== */

enum { GCC_VERSION = 8, NEW_VERSION_LEAST = 9, GCC_PROTOCOL = 2 };
enum { FLAG_CLASS = 1, FLAG_META = 2, FLAGS_SHARED = FLAG_CLASS | FLAG_META };

typedef struct {
    const char *name, *types;
    int offset;
} IvarEntry;

typedef struct {
    int count;
    IvarEntry list[];
} IvarList;

typedef struct ProtocolList ProtocolList;

typedef struct Protocol_ {
    uintptr_t isa; /* before loading: the version */
    const char *name;
    ProtocolList *protocols;
    /* method lists follow: the same in both formats as far as GCC's reads */
} Protocol_;

struct ProtocolList {
    ProtocolList *next;
    size_t count;
    Protocol_ *list[];
};

/* As emitted; the first thirteen words are GCC's struct objc_class. */
typedef struct Class_ {
    struct Class_ *isa;
    const char *super_name; /* the runtime puts the class here */
    const char *name;
    long version;
    unsigned long info;
    long instance_size; /* new format: minus the size of what this class adds */
    IvarList *ivars;
    void *methods, *dtable, *subclasses, *sibling;
    ProtocolList *protocols;
    void *gc;
    long abi; /* from here on new */
    int **ivar_offsets;
    void *properties;
} Class_;

typedef struct {
    const char *name, *class_name;
    void *instance_methods, *class_methods;
    ProtocolList *protocols;
} Category_;

typedef struct {
    unsigned long selector_count;
    void *selectors;
    unsigned short class_count, category_count;
    void *defs[]; /* classes, categories, statics */
} Symtab;

typedef struct {
    unsigned long version, size;
    const char *name;
    Symtab *symtab;
} Module;

void __real___objc_exec_class(Module *m);
void __wrap___objc_exec_class(Module *m);

/* ============================== Adjusting ================================= */

static void fix_protocols(ProtocolList *l) {
    for (; l; l = l->next)
        for (size_t i = 0; i < l->count; i++) {
            Protocol_ *p = l->list[i];
            if (!p || p->isa < 3 || p->isa > 16) /* fixed before, or loaded: a pointer */
                continue;
            p->isa = GCC_PROTOCOL;
            fix_protocols(p->protocols);
        }
}

static Class_ *class_in(const Symtab *s, const char *name) {
    for (unsigned i = 0; i < s->class_count; i++)
        if (strcmp(((Class_ *)s->defs[i])->name, name) == 0)
            return s->defs[i];
    return NULL;
}

/* The instance size of a superclass; -1 when it is not known yet. */
static long super_size(const Symtab *s, const char *name) {
    Class_ *own = class_in(s, name);
    if (own)
        return own->instance_size > 0 ? own->instance_size : -1;
    struct objc_class *c = objc_lookUpClass(name);
    return c ? (long)class_getInstanceSize(c) : -1;
}

/* False when the superclass is not known yet. */
static bool fix_class(const Symtab *s, Class_ *c) {
    if (c->instance_size <= 0) {
        long base = c->super_name ? super_size(s, c->super_name) : 0;
        if (base < 0)
            return false;
        for (int i = 0; c->ivars && i < c->ivars->count; i++) {
            c->ivars->list[i].offset += (int)base;
            if (c->ivar_offsets && c->ivar_offsets[i])
                *c->ivar_offsets[i] = c->ivars->list[i].offset;
        }
        c->instance_size = base - c->instance_size;
    }
    return true;
}

/* True when the module may be given to the runtime. */
static bool fix_classes(Symtab *s) {
    bool more = true;
    while (more) { /* superclasses may come after their subclasses */
        more = false;
        unsigned waiting = 0;
        for (unsigned i = 0; i < s->class_count; i++) {
            Class_ *c = s->defs[i];
            bool had = c->instance_size > 0;
            if (!fix_class(s, c))
                waiting++;
            else if (!had)
                more = true;
        }
        if (waiting == 0)
            return true;
    }
    return false;
}

static bool load(Module *m) {
    Symtab *s = m->symtab;
    if (!fix_classes(s))
        return false;
    for (unsigned i = 0; i < s->class_count; i++) {
        Class_ *c = s->defs[i];
        c->info &= FLAGS_SHARED;
        c->isa->info &= FLAGS_SHARED;
        fix_protocols(c->protocols);
        fix_protocols(c->isa->protocols);
    }
    for (unsigned i = 0; i < s->category_count; i++)
        fix_protocols(((Category_ *)s->defs[s->class_count + i])->protocols);
    m->version = GCC_VERSION;
    m->size = sizeof *m;
    __real___objc_exec_class(m);
    return true;
}

/* ============================== Waiting =================================== */

typedef struct Waiting {
    Module *module;
    struct Waiting *next;
} Waiting;

static Waiting *waiting;

/* Runs in constructors: one thread. */
void __wrap___objc_exec_class(Module *m) {
    if (m->version < NEW_VERSION_LEAST) {
        __real___objc_exec_class(m); /* compiled for GCC's runtime */
        return;
    }
    if (!load(m)) {
        Waiting *w = malloc(sizeof *w);
        if (!w)
            abort();
        *w = (Waiting){.module = m, .next = waiting};
        waiting = w;
        return;
    }
    for (Waiting **w = &waiting; *w;) {
        if (!load((*w)->module)) {
            w = &(*w)->next;
            continue;
        }
        Waiting *done = *w;
        *w = done->next;
        free(done);
        w = &waiting; /* it may have been what another one waits for */
    }
}

/* Called once all constructors have run: a missing superclass is a broken program. */
void sdk_check_modules(void) {
    if (!waiting)
        return;
    fprintf(stderr, "softane sdk: %s: the superclass of one of its classes does not exist\n", waiting->module->name);
    abort();
}

/* ============================== Super ===================================== */

/* clang calls this for [super …] of the new format: it wants a slot that holds
 * the method at the fifth place. It is read at once, by the same thread. */
typedef struct {
    void *owner, *cached_for;
    const char *types;
    int version;
    SdkImp method;
} Slot;

Slot *objc_slot_lookup_super(struct SdkSuper *super, const void *selector) {
    static __thread Slot slot;
    slot.method = objc_msg_lookup_super(super, selector);
    return &slot;
}

/* The same for ordinary messages, when -fobjc-legacy-dispatch is given. */
Slot *objc_msg_lookup_sender(void **receiver, const void *selector, void *sender) {
    static __thread Slot slot;
    (void)sender;
    slot.method = objc_msg_lookup(*receiver, selector);
    return &slot;
}
