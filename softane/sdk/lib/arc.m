// SPDX-License-Identifier: MIT
/* arc.m - the functions that code compiled with -fobjc-arc calls, on top of
 * retain, release and autorelease as GNUstep implements them.
 *
 * Weak references: a table from objects to the variables that refer to them;
 * -dealloc of the object clears them. One difference to Apple's runtime: an
 * object whose last strong reference is dropped by one thread at the very
 * moment another one reads a weak reference may be handed out once more. */
#import <Foundation/Foundation.h>

#include <pthread.h>

#include "sdk.h"

/* ============================== Strong ==================================== */

id objc_retain(id o) { return [o retain]; }
void objc_release(id o) { [o release]; }

id objc_autorelease(id o) {
    if (o)
        sdk_thread_enter();
    return [o autorelease];
}

id objc_retainAutorelease(id o) { return objc_autorelease([o retain]); }
id objc_autoreleaseReturnValue(id o) { return objc_autorelease(o); }
id objc_retainAutoreleaseReturnValue(id o) { return objc_autorelease([o retain]); }
id objc_retainAutoreleasedReturnValue(id o) { return [o retain]; }
id objc_unsafeClaimAutoreleasedReturnValue(id o) { return o; }

void objc_storeStrong(id *place, id o) {
    id old = *place;
    if (old == o)
        return;
    [o retain];
    *place = o;
    [old release];
}

/* ============================== Pools ===================================== */

/* GNUstep must know a thread before it uses a pool; it forgets it again at
 * the thread's end. */
void sdk_thread_enter(void) {
    static __thread bool registered;
    if (!registered) {
        registered = true;
        GSRegisterCurrentThread();
    }
}

void *objc_autoreleasePoolPush(void) {
    sdk_thread_enter();
    return [NSAutoreleasePool new];
}

void objc_autoreleasePoolPop(void *pool) { [(NSAutoreleasePool *)pool release]; }

/* ============================== Weak ====================================== */

typedef struct Weak {
    struct Weak *next;
    id object, *place;
} Weak;

enum { BUCKETS = 1024 };
static struct {
    pthread_mutex_t lock;
    Weak *bucket[BUCKETS];
} weak = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Weak **bucket_of(const void *o) { return &weak.bucket[((uintptr_t)o >> 4) % BUCKETS]; }

/* Under the lock. */
static void weak_remove(id *place) {
    if (!*place)
        return;
    for (Weak **w = bucket_of(*place); *w; w = &(*w)->next)
        if ((*w)->place == place) {
            Weak *gone = *w;
            *w = gone->next;
            free(gone);
            break;
        }
    *place = nil;
}

/* Under the lock. */
static void weak_add(id *place, id o) {
    *place = nil;
    Weak *w = o ? malloc(sizeof *w) : NULL;
    if (!w) /* out of memory: the reference is nil at once */
        return;
    *w = (Weak){.next = *bucket_of(o), .object = o, .place = place};
    *bucket_of(o) = w;
    *place = o;
}

void sdk_weak_forget(void *object) {
    pthread_mutex_lock(&weak.lock);
    for (Weak **w = bucket_of(object); *w;) {
        if ((void *)(*w)->object != object) {
            w = &(*w)->next;
            continue;
        }
        Weak *gone = *w;
        *gone->place = nil;
        *w = gone->next;
        free(gone);
    }
    pthread_mutex_unlock(&weak.lock);
}

id objc_initWeak(id *place, id o) {
    sdk_watch_deallocs();
    pthread_mutex_lock(&weak.lock);
    weak_add(place, o);
    pthread_mutex_unlock(&weak.lock);
    return o;
}

id objc_storeWeak(id *place, id o) {
    sdk_watch_deallocs();
    pthread_mutex_lock(&weak.lock);
    weak_remove(place);
    weak_add(place, o);
    pthread_mutex_unlock(&weak.lock);
    return o;
}

void objc_destroyWeak(id *place) {
    pthread_mutex_lock(&weak.lock);
    weak_remove(place);
    pthread_mutex_unlock(&weak.lock);
}

id objc_loadWeakRetained(id *place) {
    pthread_mutex_lock(&weak.lock);
    id o = [*place retain];
    pthread_mutex_unlock(&weak.lock);
    return o;
}

id objc_loadWeak(id *place) { return objc_autorelease(objc_loadWeakRetained(place)); }

void objc_copyWeak(id *to, id *from) {
    pthread_mutex_lock(&weak.lock);
    weak_add(to, *from);
    pthread_mutex_unlock(&weak.lock);
}

void objc_moveWeak(id *to, id *from) {
    pthread_mutex_lock(&weak.lock);
    id o = *from;
    weak_remove(from);
    weak_add(to, o);
    pthread_mutex_unlock(&weak.lock);
}
