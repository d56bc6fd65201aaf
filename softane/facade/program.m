// SPDX-License-Identifier: MIT
/* program.m - _ANEProgramForEvaluation: a loaded program, and the evaluate
 * algorithm of §8.3. The path of a successful evaluation makes no objects and
 * needs no autorelease pool. */
#include <stdlib.h>
#include <time.h>

#import "facade.h"

#define QUEUE_DEPTH 127         /* §4.1 */
#define RETURN_NO_DEVICE 2u     /* §8.3 step 7 */
#define RETURN_FAILED 18u       /* §8.3 step 8 */

/* ============================== One evaluation ============================ */

/* Run and answer; the request has been validated. */
static bool run(_ANEProgramForEvaluation *program, _ANERequest *request, const SaPrepared *p, unsigned qos,
                SaAnswer *a) {
    if (!program->_loaded) /* a handle nobody knows */
        return sa_answer_status(a, 9, 14, NULL);
    if (!sa_request_unchanged(request, p)) {
        SaError why;
        sa_error_set(&why, SA_E_BIND, (SaPos){0, 0}, "other surfaces were put into a request that was used before");
        return sa_answer_status(a, 9, 0x1d, &why);
    }
    return sa_device_eval(program->_loaded, &p->binding, qos, a);
}

/* A failure with an error object is reported on the queue of this level, and so
 * waits behind a compile that runs there (§8.3 step 9). */
static BOOL report(const SaAnswer *a, unsigned qos, NSError **error) {
    NSError *e = sa_facade_error(a);
    if (e && error) {
        *error = e;
        sa_queue_enter(qos);
        sa_queue_leave(qos);
    }
    return NO;
}

/* ============================== Shared events ============================= */

static void sleep_1_ms(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

/* When a wait of async_wait_ms that begins now is over. */
static uint64_t wait_end(void) {
    uint64_t ms = sa_setting(SA_SET_ASYNC_WAIT_MS), most = 1000000000; /* eleven days */
    return sa_now_ns() + (ms < most ? ms : most) * 1000000;
}

/* The counter of an event; nil when it is not one. */
static id<SaCounter> counter_of(id<SaEvent> e) {
    id counter = [e sharedEvent];
    return [counter respondsToSelector:@selector(signaledValue)] && [counter respondsToSelector:@selector(setSignaledValue:)]
               ? counter
               : nil;
}

/* Wait until every wait event has its value; at most async_wait_ms. */
static bool await_events(id<SaSharedEvents> events) {
    uint64_t end = wait_end();
    for (id<SaEvent> e in [events waitEvents]) {
        id<SaCounter> counter = counter_of(e);
        while (counter && [counter signaledValue] < [e value]) {
            if (sa_now_ns() >= end)
                return false;
            sleep_1_ms();
        }
    }
    return true;
}

static void signal_events(id<SaSharedEvents> events) {
    for (id<SaEvent> e in [events signalEvents])
        [counter_of(e) setSignaledValue:[e value]];
}

/* ============================== Asynchronous requests ===================== */

/* What a block looks like in memory; only the function is used. */
typedef struct SaBlock {
    void *isa;
    int flags, reserved;
    void (*invoke)(struct SaBlock *self, BOOL ok, NSError *error);
} SaBlock;

typedef struct {
    _ANEProgramForEvaluation *program; /* retained */
    _ANERequest *request;              /* retained */
    id events;                         /* retained; as they were at the call, like the handler */
    SaBlock *handler;                  /* copied */
    unsigned qos;
} Job;

static void job_free(Job *j) {
    sa_block_release(j->handler);
    [j->events release];
    [j->request release];
    [j->program release];
    free(j);
}

/* A block's function is called without knowing what the block holds: never its exact type. */
__attribute__((no_sanitize("function"))) static void *job_main(void *arg) {
    Job *j = arg;
    GSRegisterCurrentThread();
    @autoreleasepool {
        SaAnswer a;
        const SaPrepared *p = sa_request_prepare(j->request);
        BOOL ok = p != NULL;
        if (ok && j->events && !await_events(j->events))
            ok = sa_answer_status(&a, 9, 15, NULL);
        ok = ok && run(j->program, j->request, p, j->qos, &a);
        if (ok && j->events)
            signal_events(j->events);
        j->program->_inFlight--; /* atomic: the slot is free before the handler runs */
        if (j->handler)
            j->handler->invoke(j->handler, ok, ok || !p ? nil : sa_facade_error(&a));
        job_free(j);
    }
    GSUnregisterCurrentThread();
    return NULL;
}

/* One of queueDepth slots, or false after the wait (§8.3 step 5). */
static bool take_slot(_ANEProgramForEvaluation *program) {
    for (uint64_t end = 0;;) {
        if (program->_inFlight++ < program->_queueDepth)
            return true;
        program->_inFlight--;
        if (end == 0)
            end = wait_end();
        if (sa_now_ns() >= end)
            return false;
        sleep_1_ms();
    }
}

/* YES means accepted: the handler hears the rest. */
static BOOL submit(_ANEProgramForEvaluation *program, _ANERequest *request, unsigned qos) {
    if (!take_slot(program))
        return NO;
    Job *j = calloc(1, sizeof *j);
    pthread_t thread;
    if (j) {
        *j = (Job){[program retain], [request retain], [request->_sharedEvents retain],
                   sa_block_copy(request->_completionHandler), qos};
        if (pthread_create(&thread, NULL, job_main, j) == 0) {
            pthread_detach(thread);
            return YES;
        }
        job_free(j);
    }
    program->_inFlight--;
    return NO;
}

/* ============================== Evaluate ================================== */

BOOL sa_program_evaluate(_ANEProgramForEvaluation *program, _ANERequest *request, unsigned qos, NSError **error) {
    const SaPrepared *p = request ? sa_request_prepare(request) : NULL;
    if (!program || !p)
        return NO; /* error untouched */
    if (request->_completionHandler || request->_sharedEvents)
        return submit(program, request, qos);
    SaAnswer a;
    if (run(program, request, p, qos, &a))
        return YES;
    return report(&a, qos, error);
}

@implementation _ANEProgramForEvaluation

- (id)initWithLoaded:(SaLoaded *)loaded {
    if ((self = [super init])) {
        _loaded = loaded;
        _programHandle = loaded ? loaded->handle : 0;
        _queueDepth = QUEUE_DEPTH;
    }
    return self;
}

+ (id)programWithHandle:(uint64_t)handle intermediateBufferHandle:(uint64_t)buffer queueDepth:(signed char)depth {
    _ANEProgramForEvaluation *p = [[[self alloc] initWithLoaded:sa_loaded_find(handle)] autorelease];
    p->_programHandle = handle;
    p->_intermediateBufferHandle = buffer;
    p->_queueDepth = depth;
    return p;
}

/* Lets go of the program; does not unload it. */
- (void)dealloc {
    sa_loaded_release(_loaded);
    [super dealloc];
}

- (uint64_t)programHandle { return _programHandle; }
- (uint64_t)intermediateBufferHandle { return _intermediateBufferHandle; }
- (signed char)queueDepth { return _queueDepth; }
- (NSInteger)requestsInFlight { return _inFlight; }
- (NSInteger)currentAsyncRequestsInFlight { return _inFlight; }

- (BOOL)processRequest:(_ANERequest *)request
                 model:(id)model
                   qos:(unsigned int)qos
                qIndex:(uint64_t)index
         modelStringID:(uint64_t)stringID
               options:(NSDictionary *)options
           returnValue:(unsigned int *)value
                 error:(NSError **)error {
    (void)model, (void)index, (void)stringID, (void)options;
    BOOL ok = sa_program_evaluate(self, request, qos, error);
    if (value)
        *value = ok ? 0 : _loaded ? RETURN_FAILED : RETURN_NO_DEVICE;
    return ok;
}

@end
