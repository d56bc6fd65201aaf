// SPDX-License-Identifier: MIT
/* _core_worker.m - a compile worker: sources in, the engine's compiled program and its
 * identity out, until the socket ends.
 *
 * It compiles and never loads: what it made stays in the engine's cache, from where
 * the trainer loads it. The staging directory is the trainer's (same path, same
 * identity), who holds a lease on it and removes it. An unload here could purge the
 * entry (libane measured that), so there is none.
 *
 * A second thread watches the socket and the parent. When the trainer has died, in
 * whatever way, the worker removes the trainer's staging base, or in a base of several
 * owners what the dead hold there, and ends, also from the middle of a compile. SIGINT is ignored: a Ctrl-C is the trainer's business. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#import "_core_door.h"

#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif
#ifndef MSG_CMSG_CLOEXEC
#define MSG_CMSG_CLOEXEC 0
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum {
    WATCH_MS = 200,       /* between two looks at the parent */
    ORPHAN_MS = 2000,     /* from the end of the socket until we must have another parent */
    WORK_MS = 3600000,    /* somebody else compiles the same: the pool's deadline comes first */
    EXIT_OK = 0, EXIT_BAD = 1
};

/* ============================== The trainer's end ========================= */

typedef struct {
    int fd;
    pid_t owner;
    const char *reap;
    pthread_mutex_t lock;  /* held for good once the end has begun */
    char directory[4096]; /* of the last job, under the lock; "" before the first */
} Watch;

static Watch g_watch = {.lock = PTHREAD_MUTEX_INITIALIZER}; /* outlives every return */

/* What the dead trainer held in a base that others use too. A compile of ours, or of a sister,
 * may be writing there for a moment longer, also after somebody else has reaped it. */
static void leave_shared(Watch *w) {
    char base[sizeof w->directory];
    memcpy(base, w->directory, sizeof base);
    char *slash = strrchr(base, '/');
    if (!slash)
        return;
    *slash = 0;
    for (int i = 0; i < 3; i++) {
        ane_lease_sweep(w->directory);
        ane_lease_reap(base);
        poll(NULL, 0, 5);
    }
}

/* The socket ended without a goodbye. While the trainer's memory is being torn down its
 * descriptors are closed before we get another parent: wait for that. */
static void end_as_orphan(Watch *w) {
    for (int ms = 0; ms < ORPHAN_MS && getppid() == w->owner; ms += 5)
        poll(NULL, 0, 5);
    pthread_mutex_lock(&w->lock); /* the other thread must neither end us amid this nor begin a job */
    if (getppid() != w->owner && w->reap)
        for (int i = 0; i < 3 && access(w->reap, F_OK) == 0; i++)
            ane_remove_tree(w->reap); /* a sister worker may be writing there for a moment longer */
    else if (getppid() != w->owner)
        leave_shared(w);
    _exit(EXIT_OK); /* lint: a compile may be under way in the other thread */
}

static void *watch(void *context) {
    Watch *w = context;
    for (;;) {
        struct pollfd p = {.fd = w->fd, .events = POLLRDHUP};
        int n = poll(&p, 1, WATCH_MS);
        if ((n > 0 && p.revents) || getppid() != w->owner)
            end_as_orphan(w);
    }
    return NULL;
}

/* ============================== The wire ================================== */

/* The next job and its descriptor (-1: none came). False at the end, or at a goodbye. */
static bool receive(int fd, AneJobMessage *m, int *segment) {
    size_t have = 0;
    *segment = -1;
    while (have < sizeof *m) {
        struct iovec iov = {.iov_base = (char *)m + have, .iov_len = sizeof *m - have};
        union {
            struct cmsghdr head;
            char space[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t n = recvmsg(fd, &h, MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int))) {
                memcpy(segment, CMSG_DATA(c), sizeof(int));
                fcntl(*segment, F_SETFD, FD_CLOEXEC);
            }
        have += (size_t)n;
    }
    return m->magic == ANE_WIRE_MAGIC && m->job != 0;
}

static bool answer(int fd, const AneAnswer *a) {
    size_t sent = 0;
    while (sent < sizeof *a) {
        ssize_t n = send(fd, (const char *)a + sent, sizeof *a - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        sent += (size_t)n;
    }
    return true;
}

/* ============================== One job =================================== */

static int stage_and_compile(id<AneModel> model, const char *directory, NSData *text, NSDictionary *files, uint32_t qos,
                             AneAnswer *out) {
    uint64_t begin = out->begin_ns = ane_now_ns();
    int status = ane_stage(directory, text, files, &out->error);
    out->bake_ns = ane_now_ns() - begin;
    if (status != ANE_OK)
        return status;
    NSError *e = nil;
    begin = ane_now_ns();
    BOOL ok = [model compileWithQoS:qos options:[NSDictionary dictionary] error:&e];
    out->compile_ns = ane_now_ns() - begin;
    return ok ? ANE_OK : ane_refused(&out->error, ANE_E_COMPILE, "compile", e, out->identity, qos, begin);
}

/* *at_work: what the caller unlocks, whatever happened. */
static int compile(id<AneModel> model, NSData *text, NSDictionary *files, uint32_t qos, bool fresh, int *at_work, AneAnswer *out) {
    if (fresh)
        [model purgeCompiledModel];
    if ([model compiledModelExists]) {
        out->cached = 1;
        return ANE_OK;
    }
    const char *directory = [[model localModelPath] fileSystemRepresentation];
    if (!directory)
        return ane_error_set(&out->error, ANE_E_ENGINE, "the model has no staging path");
    if (directory[0] == '/') {
        pthread_mutex_lock(&g_watch.lock);
        snprintf(g_watch.directory, sizeof g_watch.directory, "%s", directory);
        pthread_mutex_unlock(&g_watch.lock);
    }
    int status = ane_lease_work(directory, WORK_MS, NULL, NULL, at_work, &out->error);
    if (status != ANE_OK)
        return status;
    if (!fresh && [model compiledModelExists]) /* another process was at the same */
        out->cached = 1;
    else
        status = stage_and_compile(model, directory, text, files, qos, out);
    return status;
}

static int serve(const AneJobMessage *m, int fd, int *at_work, AneAnswer *out) {
    AneSegment *segment = NULL;
    if (fd < 0)
        return ane_error_set(&out->error, ANE_E_ARG, "a job came without its segment");
    int status = ane_segment_open(fd, (size_t)m->bytes, &segment, &out->error);
    if (status != ANE_OK)
        return status;
    const AneSegmentHead *head = ane_segment_head(segment);
    id model = nil;
    if (!head) {
        status = ane_error_set(&out->error, ANE_E_ARG, "the segment is damaged");
    } else {
        NSData *text = [NSData dataWithBytes:segment->base + head->text_at length:(NSUInteger)head->text_bytes];
        NSDictionary *files = ane_segment_files(segment, head);
        status = files ? ane_model_make(text, files, &model, out->identity, &out->error)
                       : ane_error_set(&out->error, ANE_E_MEMORY, "out of memory for weight files");
        if (status == ANE_OK)
            status = compile(model, text, files, m->qos, m->fresh != 0, at_work, out);
    }
    [model release]; /* never loaded: nothing to unload */
    ane_segment_release(segment);
    return status;
}

static void serve_guarded(const AneJobMessage *m, int fd, AneAnswer *out) {
    memset(out, 0, sizeof *out);
    out->magic = ANE_WIRE_MAGIC;
    out->job = m->job;
    out->pid = (int64_t)getpid();
    int status, at_work = -1;
    @autoreleasepool {
        @try {
            status = serve(m, fd, &at_work, out);
        } @catch (NSException *x) {
            status = ane_threw(&out->error, "compile", x);
        }
    }
    ane_lease_unlock(at_work);
    out->error.status = status;
}

/* ============================== Life ====================================== */

int ane_worker_main(int32_t fd, const char *engine, int64_t owner, const char *reap) {
    Watch *w = &g_watch;
    static AneAnswer out;
    pthread_t thread;
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    w->fd = fd;
    w->owner = (pid_t)owner;
    w->reap = reap && *reap ? reap : NULL;
    if (w->reap && ane_engine_own_base(w->reap, NULL) != ANE_OK)
        return EXIT_BAD;
    if (pthread_create(&thread, NULL, watch, w) != 0)
        return EXIT_BAD;
    pthread_detach(thread);
    ane_core_thread_enter();
    out.magic = ANE_WIRE_MAGIC;
    out.error.status = ane_engine_open(engine, &out.error);
    if (!answer(fd, &out) || out.error.status != ANE_OK)
        return EXIT_BAD;
    AneJobMessage m;
    int segment;
    while (receive(fd, &m, &segment)) {
        serve_guarded(&m, segment, &out);
        if (!answer(fd, &out))
            break;
    }
    if (m.magic == ANE_WIRE_MAGIC && m.job == 0)
        return EXIT_OK; /* a goodbye */
    end_as_orphan(w);
    return EXIT_OK;
}
