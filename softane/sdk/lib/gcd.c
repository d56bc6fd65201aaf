// SPDX-License-Identifier: MIT
/* gcd.c - Grand Central Dispatch with blocks, over its function-pointer forms.
 *
 * A block is copied and called through one function that makes the thread
 * known to Foundation and opens an autorelease pool, as macOS does. Without a
 * libdispatch (SDK_GCD_BUNDLED) the file that ane_native brings along is
 * compiled in here, and what it lacks is added below. */
#ifdef SDK_GCD_BUNDLED
#include "../../../ane_native/_dispatch_small.c"
#else
#include "../../../ane_native/_gcd.h"
#endif

#include "sdk.h"

void dispatch_after_f(dispatch_time_t when, dispatch_queue_t queue, void *context, dispatch_function_t work);
void dispatch_barrier_async_f(dispatch_queue_t queue, void *context, dispatch_function_t work);
void dispatch_barrier_sync_f(dispatch_queue_t queue, void *context, dispatch_function_t work);
void dispatch_group_notify_f(dispatch_group_t group, dispatch_queue_t queue, void *context, dispatch_function_t work);

/* ============================== Blocks ==================================== */

typedef struct Block {
    void *isa;
    int flags, reserved;
    void (*invoke)(struct Block *, ...);
} Block;

void *_Block_copy(const void *block);
void _Block_release(const void *block);

static void call(void *context) {
    Block *b = context;
    void *pool = objc_autoreleasePoolPush();
    ((void (*)(Block *))b->invoke)(b);
    objc_autoreleasePoolPop(pool);
}

static void call_and_release(void *context) {
    call(context);
    _Block_release(context);
}

static void call_with_index(void *context, size_t i) {
    Block *b = context;
    void *pool = objc_autoreleasePoolPush();
    ((void (*)(Block *, size_t))b->invoke)(b, i);
    objc_autoreleasePoolPop(pool);
}

void dispatch_async(dispatch_queue_t q, void *block) { dispatch_async_f(q, _Block_copy(block), call_and_release); }

void dispatch_sync(dispatch_queue_t q, void *block) { dispatch_sync_f(q, block, call); }

void dispatch_apply(size_t n, dispatch_queue_t q, void *block) { dispatch_apply_f(n, q, block, call_with_index); }

void dispatch_once(dispatch_once_t *once, void *block) { dispatch_once_f(once, block, call); }

void dispatch_group_async(dispatch_group_t g, dispatch_queue_t q, void *block) {
    dispatch_group_async_f(g, q, _Block_copy(block), call_and_release);
}

void dispatch_after(dispatch_time_t when, dispatch_queue_t q, void *block) {
    dispatch_after_f(when, q, _Block_copy(block), call_and_release);
}

void dispatch_barrier_async(dispatch_queue_t q, void *block) {
    dispatch_barrier_async_f(q, _Block_copy(block), call_and_release);
}

void dispatch_barrier_sync(dispatch_queue_t q, void *block) { dispatch_barrier_sync_f(q, block, call); }

void dispatch_group_notify(dispatch_group_t g, dispatch_queue_t q, void *block) {
    dispatch_group_notify_f(g, q, _Block_copy(block), call_and_release);
}

/* ============================== With a libdispatch ======================== */

dispatch_queue_attr_t softane_sdk_concurrent(void);
dispatch_queue_t dispatch_get_main_queue(void);

#ifndef SDK_GCD_BUNDLED

extern struct dispatch_queue_attr_s _dispatch_queue_attr_concurrent;
extern struct dispatch_queue_s _dispatch_main_q;

dispatch_queue_attr_t softane_sdk_concurrent(void) { return &_dispatch_queue_attr_concurrent; }
dispatch_queue_t dispatch_get_main_queue(void) { return &_dispatch_main_q; }

#else

/* ============================== Without =================================== */

/* Queues that are asked to be concurrent are serial: allowed, only slower; and
 * every item of them is a barrier. */
dispatch_queue_attr_t softane_sdk_concurrent(void) {
    return dispatch_queue_attr_make_with_qos_class(NULL, 0, 0);
}
void dispatch_barrier_async_f(dispatch_queue_t q, void *context, dispatch_function_t work) { dispatch_async_f(q, context, work); }
void dispatch_barrier_sync_f(dispatch_queue_t q, void *context, dispatch_function_t work) { dispatch_sync_f(q, context, work); }

/* The main queue: what is submitted runs once the program calls dispatch_main(). */
static struct {
    pthread_once_t once;
    dispatch_queue_t queue;
    dispatch_semaphore_t started, never;
} main_queue = {.once = PTHREAD_ONCE_INIT};

static void main_wait(void *unused) {
    (void)unused;
    dispatch_semaphore_wait(main_queue.started, DISPATCH_TIME_FOREVER);
}

static void main_make(void) {
    main_queue.queue = dispatch_queue_create("main", NULL);
    main_queue.started = dispatch_semaphore_create(0);
    main_queue.never = dispatch_semaphore_create(0);
    dispatch_async_f(main_queue.queue, NULL, main_wait);
}

dispatch_queue_t dispatch_get_main_queue(void) {
    pthread_once(&main_queue.once, main_make);
    return main_queue.queue;
}

_Noreturn void dispatch_main(void) {
    dispatch_get_main_queue();
    dispatch_semaphore_signal(main_queue.started);
    for (;;)
        dispatch_semaphore_wait(main_queue.never, DISPATCH_TIME_FOREVER);
}

void dispatch_retain(void *object) { retain(object); }

void dispatch_group_enter(dispatch_group_t g) {
    pthread_mutex_lock(&g->lock);
    g->count++;
    pthread_mutex_unlock(&g->lock);
    retain(&g->head);
}

void dispatch_group_leave(dispatch_group_t g) { group_leave(g); }

/* Work that waits first: for a moment, or for a group. On a thread of its own. */
typedef struct {
    dispatch_time_t when;
    dispatch_group_t group;
    dispatch_queue_t queue;
    void *context;
    dispatch_function_t work;
} Later;

static void *later_main(void *argument) {
    Later *l = argument;
    if (l->group) {
        dispatch_group_wait(l->group, DISPATCH_TIME_FOREVER);
        dispatch_release(l->group);
    } else {
        dispatch_semaphore_t s = dispatch_semaphore_create(0);
        dispatch_semaphore_wait(s, l->when);
        dispatch_release(s);
    }
    dispatch_async_f(l->queue, l->context, l->work);
    free(l);
    return NULL;
}

static void later(Later what) {
    Later *l = must_alloc(sizeof *l);
    *l = what;
    pthread_t thread;
    if (pthread_create(&thread, NULL, later_main, l) != 0)
        misuse("no thread could be made");
    pthread_detach(thread);
}

void dispatch_after_f(dispatch_time_t when, dispatch_queue_t q, void *context, dispatch_function_t work) {
    later((Later){.when = when, .queue = q, .context = context, .work = work});
}

void dispatch_group_notify_f(dispatch_group_t g, dispatch_queue_t q, void *context, dispatch_function_t work) {
    retain(&g->head);
    later((Later){.group = g, .queue = q, .context = context, .work = work});
}

#endif
