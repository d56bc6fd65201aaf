// SPDX-License-Identifier: MIT
/* _core_pool.c - the trainer's side of the compile workers.
 *
 *   job     QUEUED --sent--> RUNNING --answer--> DONE
 *              ^                |
 *              +--worker died, hung, talked nonsense (at most `tries` times)
 *
 *   worker  STARTING --greeting--> IDLE <--> BUSY      --budget used--> LEAVING --exit--> free
 *              +----------- dies, hangs, is killed: ----------------------> reaped ------^
 *
 * One thread per pool owns the processes: it spawns them (posix_spawn, never
 * fork), sends jobs, reads answers, keeps the deadlines and reaps. Everybody
 * else only touches the queue, under the lock, and wakes it through a pipe.
 * A worker whose budget nears its end gets its successor started ahead of time.
 * Workers live in process groups of their own: a Ctrl-C at the terminal does not
 * reach them. They end when their socket ends. Plain C. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_core_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* there SO_NOSIGPIPE is set on the socket */
#endif

enum {
    MAX_WORKERS = 64,
    MAX_PROCESSES = 128,     /* with the successors */
    WORKER_FD = 3,           /* where a worker finds its socket */
    START_MS = 60000,        /* from spawn to greeting, at most */
    LEAVE_MS = 1000,         /* from the end of its socket to the end of a worker */
    POLL_MS = 200,           /* a child whose exit is due is looked at this often */
    BAD_STARTS = 4,          /* processes in a row that never greeted: jobs are given up */
    BROKEN_MS = 5000         /* ... for this long, then starting is tried again */
};

typedef enum { W_FREE, W_STARTING, W_IDLE, W_BUSY, W_LEAVING } WorkerState;
typedef enum { J_QUEUED, J_RUNNING, J_DONE } JobState;

struct AneJob {
    AneJob *next; /* in the queue */
    AnePool *pool;
    AneSegment *segment;
    char identity[256];
    char *directory;    /* where the worker stages */
    uint32_t qos;
    uint64_t number;
    /* under the pool's lock */
    JobState state;
    int failed;         /* workers that failed at it */
    uint64_t avoid;     /* serial of the last one */
    bool questioned;    /* refused by a worker that was not fresh: asked once more */
    bool fresh;         /* what was made before was of no use */
    bool abandoned;     /* the caller has gone: freed when done */
    bool left_behind;   /* ... while a worker was at it: nobody else removes its files */
    AneAnswer answer;
};

typedef struct {
    WorkerState state;
    pid_t pid;
    int fd;
    uint64_t serial;
    uint64_t until;     /* deadline: greeting, answer, or exit */
    int64_t compiles;
    AneJob *job;
    bool killed;
    size_t have;        /* bytes of `answer` read so far */
    AneAnswer answer;
} Worker;

struct AnePool {
    AneObject object;
    pthread_mutex_t lock;
    pthread_cond_t done; /* a job is done, or the thread has ended */
    pthread_t thread;
    bool joined, closing, ended;
    int wake[2];
    AneJob *head, **tail;
    AnePoolStats stats;
    uint64_t last_job, last_serial;
    /* fixed */
    AnePoolOptions options;
    char **argv, **env;
    /* of the thread */
    Worker worker[MAX_PROCESSES];
    int bad_starts;
    uint64_t start_after; /* spawn nothing before */
    uint64_t broken_until;
};

/* ============================== Jobs ====================================== */

static void destroy_job(AneJob *j) {
    if (j->left_behind)
        ane_remove_tree(j->directory);
    free(j->directory);
    ane_segment_release(j->segment);
    ane_object_release(&j->pool->object);
    free(j);
}

static void wake(AnePool *p) {
    char one = 1;
    while (write(p->wake[1], &one, 1) < 0 && errno == EINTR) {
    } /* full: it is awake */
}

static void enqueue_locked(AnePool *p, AneJob *j) {
    j->state = J_QUEUED;
    j->next = NULL;
    *p->tail = j;
    p->tail = &j->next;
}

/* First in the queue again: it has waited long enough. */
static void requeue_locked(AnePool *p, AneJob *j) {
    j->state = J_QUEUED;
    j->next = p->head;
    if (!p->head)
        p->tail = &j->next;
    p->head = j;
}

static AneJob *dequeue_locked(AnePool *p) {
    AneJob *j = p->head;
    if (j && !(p->head = j->next))
        p->tail = &p->head;
    return j;
}

/* The job is over. Returns it when the caller must destroy it after the lock. */
static AneJob *finish_locked(AnePool *p, AneJob *j) {
    j->state = J_DONE;
    pthread_cond_broadcast(&p->done);
    return j->abandoned ? j : NULL;
}

static AneJob *give_up_locked(AnePool *p, AneJob *j, int status, const char *why) {
    memset(&j->answer, 0, sizeof j->answer);
    ane_error_set(&j->answer.error, status, "%s", why);
    snprintf(j->answer.error.step, sizeof j->answer.error.step, "compile");
    snprintf(j->answer.error.identity, sizeof j->answer.error.identity, "%s", j->identity);
    p->stats.given_up += status == ANE_E_WORKER;
    return finish_locked(p, j);
}

/* A worker failed at the job: another one, or nobody any more. */
static AneJob *retry_locked(AnePool *p, AneJob *j, uint64_t serial) {
    j->avoid = serial;
    if (j->abandoned || p->closing)
        return give_up_locked(p, j, ANE_E_CLOSED, "the compile workers were closed");
    if (++j->failed >= p->options.tries)
        return give_up_locked(p, j, ANE_E_WORKER, "every compile worker that tried this program failed");
    p->stats.retries++;
    requeue_locked(p, j);
    return NULL;
}

int ane_job_start(AnePool *p, AneSegment *s, const char *identity, const char *directory, uint32_t qos, AneJob **out,
                  AneError *err) {
    AneJob *j = calloc(1, sizeof *j);
    if (!j || !(j->directory = strdup(directory))) {
        free(j);
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a compile job");
    }
    j->pool = p;
    j->segment = s;
    j->qos = qos;
    snprintf(j->identity, sizeof j->identity, "%s", identity);
    ane_segment_retain(s);
    ane_object_retain(&p->object);
    pthread_mutex_lock(&p->lock);
    bool closed = p->closing;
    j->number = ++p->last_job;
    if (!closed) {
        p->stats.jobs++;
        enqueue_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (closed) {
        destroy_job(j);
        return ane_error_set(err, ANE_E_CLOSED, "the compile workers were closed");
    }
    wake(p);
    *out = j;
    return ANE_OK;
}

/* `ms` from now for pthread_cond_timedwait; the wall clock may jump: slices are short. */
static struct timespec from_now(int32_t ms) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    int64_t ns = t.tv_nsec + (int64_t)(ms > 0 ? ms : 0) * 1000000;
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

int ane_job_wait(AneJob *j, int32_t slice_ms, AneAnswer *answer) {
    AnePool *p = j->pool;
    struct timespec until = from_now(slice_ms);
    int status = 0;
    pthread_mutex_lock(&p->lock);
    while (j->state != J_DONE && status == 0)
        status = pthread_cond_timedwait(&p->done, &p->lock, &until);
    bool done = j->state == J_DONE;
    if (done)
        *answer = j->answer;
    pthread_mutex_unlock(&p->lock);
    return done ? ANE_OK : ANE_AGAIN;
}

int ane_job_again(AneJob *j) {
    AnePool *p = j->pool;
    pthread_mutex_lock(&p->lock);
    bool go = !p->closing && j->state == J_DONE && ++j->failed < p->options.tries;
    if (go) {
        p->stats.retries++;
        j->fresh = true;
        enqueue_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (go)
        wake(p);
    return go ? ANE_OK : ANE_SKIP;
}

void ane_job_free(AneJob *j) {
    if (!j)
        return;
    AnePool *p = j->pool;
    pthread_mutex_lock(&p->lock);
    bool mine = j->state == J_DONE;
    if (j->state == J_QUEUED) {
        for (AneJob **at = &p->head; *at; at = &(*at)->next)
            if (*at == j) {
                *at = j->next;
                if (p->tail == &j->next)
                    p->tail = at;
                break;
            }
        mine = true;
    }
    j->abandoned = true;
    j->left_behind = !mine;
    pthread_mutex_unlock(&p->lock);
    if (mine)
        destroy_job(j);
}

void ane_pool_count_fallback(AnePool *p) {
    pthread_mutex_lock(&p->lock);
    p->stats.fallbacks++;
    pthread_mutex_unlock(&p->lock);
}

/* ============================== Spawning ================================== */

static void set_flags(int fd) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
#ifdef SO_NOSIGPIPE
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
#endif
}

static int make_pair(int pair[2]) {
#ifdef SOCK_CLOEXEC
    int status = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
#else
    int status = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
#endif
    if (status != 0)
        return -1;
    set_flags(pair[0]);
    set_flags(pair[1]);
    if (pair[1] <= WORKER_FD) { /* dup2 onto itself would keep close-on-exec on some systems */
        int above = fcntl(pair[1], F_DUPFD_CLOEXEC, WORKER_FD + 1);
        close(pair[1]);
        pair[1] = above;
        if (above < 0) {
            close(pair[0]);
            return -1;
        }
    }
    fcntl(pair[0], F_SETFL, fcntl(pair[0], F_GETFL) | O_NONBLOCK);
    return 0;
}

/* argv in a process group of its own, its socket at WORKER_FD, nothing on its
 * standard input, its standard output on our standard error; 0 or an errno. */
static int spawn(const AnePool *p, int socket, pid_t *pid) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int why = posix_spawn_file_actions_init(&files);
    if (why != 0)
        return why;
    if ((why = posix_spawnattr_init(&attr)) != 0) {
        posix_spawn_file_actions_destroy(&files);
        return why;
    }
    short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
#ifdef POSIX_SPAWN_CLOEXEC_DEFAULT
    flags |= POSIX_SPAWN_CLOEXEC_DEFAULT;
    posix_spawn_file_actions_addinherit_np(&files, 2);
#endif
    sigemptyset(&none);
    sigfillset(&all);
    sigdelset(&all, SIGKILL);
    sigdelset(&all, SIGSTOP);
    posix_spawnattr_setflags(&attr, flags);
    posix_spawnattr_setpgroup(&attr, 0);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, 2, 1);
    posix_spawn_file_actions_adddup2(&files, socket, WORKER_FD);
    why = posix_spawn(pid, p->argv[0], &files, &attr, p->argv, p->env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&files);
    return why;
}

static void start_worker(AnePool *p, uint64_t now) {
    Worker *w = p->worker;
    while (w < p->worker + MAX_PROCESSES && w->state != W_FREE)
        w++;
    int pair[2];
    pid_t pid = -1;
    if (w == p->worker + MAX_PROCESSES)
        return;
    bool good = make_pair(pair) == 0;
    if (good) {
        good = spawn(p, pair[1], &pid) == 0;
        close(pair[1]);
        if (!good)
            close(pair[0]);
    }
    if (!good) {
        p->bad_starts++;
        p->start_after = now + 100000000u;
        return;
    }
    memset(w, 0, sizeof *w);
    w->pid = pid;
    w->fd = pair[0];
    w->until = now + (uint64_t)START_MS * 1000000u;
    w->state = W_STARTING;
    pthread_mutex_lock(&p->lock);
    w->serial = ++p->last_serial;
    p->stats.started++;
    pthread_mutex_unlock(&p->lock);
}

/* ============================== Ends of workers =========================== */

static void hang_up(Worker *w) {
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}

static void kill_worker(Worker *w) {
    if (!w->killed)
        kill(w->pid, SIGKILL);
    w->killed = true;
}

typedef enum { END_DEATH, END_HANG, END_NONSENSE } End;

/* It will never answer again. Its job goes elsewhere; the process is reaped later. */
static void lose_worker(AnePool *p, Worker *w, End end, uint64_t now) {
    bool started = w->state != W_STARTING;
    AneJob *job = w->job, *over = NULL;
    kill_worker(w);
    hang_up(w);
    w->job = NULL;
    w->state = W_LEAVING;
    w->until = now + (uint64_t)LEAVE_MS * 1000000u;
    pthread_mutex_lock(&p->lock);
    p->stats.deaths += end == END_DEATH;
    p->stats.hangs += end == END_HANG;
    p->stats.bad_answers += end == END_NONSENSE;
    if (job)
        over = retry_locked(p, job, w->serial);
    pthread_mutex_unlock(&p->lock);
    if (over)
        destroy_job(over);
    if (!started) {
        p->bad_starts++;
        p->start_after = now + (uint64_t)(50 << (p->bad_starts < 6 ? p->bad_starts : 6)) * 1000000u;
    }
}

/* An idle worker is told to go. Without this word it would take the end of its socket for our death. */
static void say_goodbye(Worker *w) {
    AneJobMessage m = {.magic = ANE_WIRE_MAGIC};
    if (send(w->fd, &m, sizeof m, MSG_NOSIGNAL) != (ssize_t)sizeof m)
        kill_worker(w);
    hang_up(w);
}

static void retire_worker(AnePool *p, Worker *w, uint64_t now) {
    say_goodbye(w);
    w->state = W_LEAVING;
    w->until = now + (uint64_t)LEAVE_MS * 1000000u;
    pthread_mutex_lock(&p->lock);
    p->stats.replaced++;
    pthread_mutex_unlock(&p->lock);
}

/* waitpid for this child only: others belong to whoever started them. */
static void reap(AnePool *p, uint64_t now) {
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++) {
        if (w->state != W_LEAVING)
            continue;
        pid_t got = waitpid(w->pid, NULL, WNOHANG);
        if (got == w->pid || (got < 0 && errno == ECHILD)) /* ECHILD: the process ignores SIGCHLD */
            w->state = W_FREE;
        else if (now > w->until)
            kill_worker(w);
    }
}

/* ============================== Talking =================================== */

static bool send_job(Worker *w, const AneJob *j) {
    AneJobMessage m = {.magic = ANE_WIRE_MAGIC, .qos = j->qos, .job = j->number, .bytes = j->segment->bytes, .fresh = j->fresh};
    struct iovec iov = {.iov_base = &m, .iov_len = sizeof m};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &j->segment->fd, sizeof(int));
    ssize_t n;
    while ((n = sendmsg(w->fd, &h, MSG_NOSIGNAL)) < 0 && errno == EINTR) {
    }
    return n == (ssize_t)sizeof m; /* an idle worker's socket is empty: it takes all or is dead */
}

/* A refusal by a worker with a past may be the fault of that past (a limit of the
 * process): a second worker is asked. The engine's own answer stands then. */
static bool worth_asking_again(const AneJob *j, const Worker *w, int status) {
    bool engine = status == ANE_E_COMPILE || status == ANE_E_ENGINE || status == ANE_E_SILENT || status == ANE_E_BUDGET;
    return engine && !j->questioned && w->compiles > 1;
}

static void take_answer(AnePool *p, Worker *w, uint64_t now) {
    const AneAnswer *a = &w->answer;
    AneJob *j = w->job, *over = NULL;
    w->have = 0;
    if (w->state == W_STARTING && a->magic == ANE_WIRE_MAGIC && a->job == 0 && a->error.status == ANE_OK) {
        w->state = W_IDLE;
        p->bad_starts = 0;
        return;
    }
    int status = a->error.status;
    bool sane = w->state == W_BUSY && a->magic == ANE_WIRE_MAGIC && a->job == j->number && status <= ANE_OK &&
                (status != ANE_OK || strncmp(a->identity, j->identity, sizeof a->identity) == 0);
    if (!sane) {
        lose_worker(p, w, END_NONSENSE, now);
        return;
    }
    w->job = NULL;
    w->state = W_IDLE;
    w->compiles += !a->cached;
    bool suspect = false;
    pthread_mutex_lock(&p->lock);
    if (status == ANE_OK) {
        p->stats.compiles += !a->cached;
        p->stats.cached += a->cached != 0;
        j->answer = *a;
        j->avoid = w->serial; /* should the program be of no use after all */
        over = finish_locked(p, j);
    } else if (worth_asking_again(j, w, status) && !j->abandoned && !p->closing) {
        suspect = j->questioned = true;
        p->stats.retries++;
        j->avoid = w->serial;
        requeue_locked(p, j);
    } else {
        p->stats.refused++;
        j->answer = *a;
        over = finish_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (over)
        destroy_job(over);
    if (suspect)
        retire_worker(p, w, now);
}

/* What has come; a full answer is taken at once. */
static void read_worker(AnePool *p, Worker *w, uint64_t now) {
    while (w->fd >= 0) {
        ssize_t n = recv(w->fd, (char *)&w->answer + w->have, sizeof w->answer - w->have, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (n <= 0) {
            lose_worker(p, w, END_DEATH, now);
            return;
        }
        w->have += (size_t)n;
        if (w->have == sizeof w->answer)
            take_answer(p, w, now);
    }
}

/* ============================== The thread ================================ */

static bool has_budget(const AnePool *p, const Worker *w) {
    return p->options.budget == 0 || w->compiles + (w->state == W_BUSY) < p->options.budget;
}

/* Compiles left at which the successor is started: an eighth, at least two. */
static bool near_end(const AnePool *p, const Worker *w) {
    int64_t budget = p->options.budget, lead = budget / 8 > 2 ? budget / 8 : 2;
    return budget != 0 && w->compiles + (w->state == W_BUSY) + lead >= budget;
}

/* As many workers with a future as there should be. */
static void keep_staffed(AnePool *p, uint64_t now) {
    int with_future = 0, all = 0;
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++) {
        bool works = w->state == W_STARTING || w->state == W_IDLE || w->state == W_BUSY;
        all += w->state != W_FREE;
        with_future += works && !(w->state != W_STARTING && near_end(p, w));
        if (w->state == W_IDLE && !has_budget(p, w))
            retire_worker(p, w, now);
    }
    if (now < p->start_after || now < p->broken_until)
        return;
    for (; with_future < p->options.workers && all < MAX_PROCESSES && now >= p->start_after; with_future++, all++)
        start_worker(p, now);
}

/* The idle worker to use for a job: the one nearest its end, not the one that failed at it. */
static Worker *choose(AnePool *p, const AneJob *j) {
    Worker *best = NULL;
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++)
        if (w->state == W_IDLE && has_budget(p, w) && w->serial != j->avoid && (!best || w->compiles > best->compiles))
            best = w;
    return best;
}

static int count(const AnePool *p, WorkerState state) {
    int n = 0;
    for (int i = 0; i < MAX_PROCESSES; i++)
        n += p->worker[i].state == state;
    return n;
}

static void hand_out(AnePool *p, uint64_t now) {
    while (count(p, W_BUSY) < p->options.workers) {
        pthread_mutex_lock(&p->lock);
        AneJob *j = p->head;
        Worker *w = j ? choose(p, j) : NULL;
        /* nobody else there, and nobody coming: the one that failed may try again */
        if (j && !w && j->avoid && count(p, W_STARTING) == 0 && count(p, W_BUSY) == 0)
            for (Worker *any = p->worker; any < p->worker + MAX_PROCESSES && !w; any++)
                if (any->state == W_IDLE && has_budget(p, any))
                    w = any;
        if (w) {
            dequeue_locked(p);
            j->state = J_RUNNING;
        }
        pthread_mutex_unlock(&p->lock);
        if (!w)
            return;
        w->job = j;
        w->state = W_BUSY;
        w->until = now + (uint64_t)p->options.deadline_ms * 1000000u;
        if (!send_job(w, j))
            lose_worker(p, w, END_DEATH, now);
    }
}

static void keep_deadlines(AnePool *p, uint64_t now) {
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++)
        if ((w->state == W_BUSY || w->state == W_STARTING) && now > w->until)
            lose_worker(p, w, END_HANG, now);
}

/* No process comes up: whoever waits must not wait for ever. */
static void give_up_if_broken(AnePool *p, uint64_t now) {
    if (p->bad_starts >= BAD_STARTS && now >= p->broken_until) {
        p->bad_starts = 0;
        p->broken_until = now + (uint64_t)BROKEN_MS * 1000000u;
    }
    if (now >= p->broken_until || count(p, W_IDLE) + count(p, W_BUSY) + count(p, W_STARTING) > 0)
        return;
    for (;;) {
        pthread_mutex_lock(&p->lock);
        AneJob *j = dequeue_locked(p);
        AneJob *over = j ? give_up_locked(p, j, ANE_E_WORKER, "no compile worker can be started") : NULL;
        pthread_mutex_unlock(&p->lock);
        if (over)
            destroy_job(over);
        if (!j)
            return;
    }
}

static void show(AnePool *p) {
    pthread_mutex_lock(&p->lock);
    p->stats.alive = p->stats.idle = 0;
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (p->worker[i].state != W_FREE) {
            p->stats.idle += p->worker[i].state == W_IDLE;
            p->stats.pids[p->stats.alive++] = (int32_t)p->worker[i].pid;
        }
    pthread_mutex_unlock(&p->lock);
}

/* Milliseconds until something is due without being told. */
static int next_due(const AnePool *p, uint64_t now) {
    uint64_t due = now + 10000000000u;
    bool waiting = false;
    for (const Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++) {
        if ((w->state == W_BUSY || w->state == W_STARTING) && w->until < due)
            due = w->until;
        waiting |= w->state == W_LEAVING;
    }
    if (now < p->start_after && p->start_after < due)
        due = p->start_after;
    int64_t ms = due > now ? (int64_t)((due - now) / 1000000u) + 1 : 0;
    return waiting && ms > POLL_MS ? POLL_MS / 20 : (int)ms; /* an exit is a matter of milliseconds */
}

static void wait_for_news(AnePool *p, uint64_t now) {
    struct pollfd fds[MAX_PROCESSES + 1] = {{.fd = p->wake[0], .events = POLLIN}};
    Worker *of[MAX_PROCESSES + 1];
    nfds_t n = 1;
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++)
        if (w->fd >= 0 && w->state != W_FREE) {
            of[n] = w;
            fds[n++] = (struct pollfd){.fd = w->fd, .events = POLLIN};
        }
    if (poll(fds, n, next_due(p, now)) <= 0)
        return;
    char drain[64];
    if (fds[0].revents)
        while (read(p->wake[0], drain, sizeof drain) == (ssize_t)sizeof drain) {
        }
    now = ane_now_ns();
    for (nfds_t i = 1; i < n; i++)
        if (fds[i].revents)
            read_worker(p, of[i], now);
}

/* Every job is answered, every process ended and reaped. */
static void wind_up(AnePool *p) {
    uint64_t now = ane_now_ns();
    for (Worker *w = p->worker; w < p->worker + MAX_PROCESSES; w++) {
        if (w->state == W_FREE || w->state == W_LEAVING)
            continue;
        AneJob *over = NULL;
        pthread_mutex_lock(&p->lock);
        if (w->job)
            over = give_up_locked(p, w->job, ANE_E_CLOSED, "the compile workers were closed");
        pthread_mutex_unlock(&p->lock);
        if (over)
            destroy_job(over);
        w->job = NULL;
        if (w->state == W_IDLE)
            say_goodbye(w);
        else
            kill_worker(w);
        hang_up(w);
        w->state = W_LEAVING;
        w->until = now + (uint64_t)LEAVE_MS * 1000000u;
    }
    for (;;) {
        pthread_mutex_lock(&p->lock);
        AneJob *j = dequeue_locked(p);
        AneJob *over = j ? give_up_locked(p, j, ANE_E_CLOSED, "the compile workers were closed") : NULL;
        pthread_mutex_unlock(&p->lock);
        if (over)
            destroy_job(over);
        if (!j)
            break;
    }
    while (count(p, W_LEAVING) > 0) {
        reap(p, ane_now_ns());
        show(p);
        if (count(p, W_LEAVING) > 0)
            poll(NULL, 0, 2);
    }
}

static void *run_pool(void *context) {
    AnePool *p = context;
    sigset_t all;
    sigfillset(&all); /* signals are the training thread's */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (;;) {
        uint64_t now = ane_now_ns();
        pthread_mutex_lock(&p->lock);
        bool closing = p->closing;
        pthread_mutex_unlock(&p->lock);
        if (closing)
            break;
        reap(p, now);
        keep_deadlines(p, now);
        keep_staffed(p, now);
        hand_out(p, now);
        give_up_if_broken(p, now);
        show(p);
        wait_for_news(p, now);
    }
    wind_up(p);
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_broadcast(&p->done);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ============================== Making and closing ======================== */

static void free_strings(char **list) {
    for (char **s = list; s && *s; s++)
        free(*s);
    free(list);
}

static char **copy_strings(const char *const *list) {
    size_t n = 0;
    while (list[n])
        n++;
    char **copy = calloc(n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < n; i++)
        if (!(copy[i] = strdup(list[i]))) {
            free_strings(copy);
            return NULL;
        }
    return copy;
}

/* The last reference: a pool that was never closed still has its thread. */
static void destroy_pool(AneObject *o) {
    AnePool *p = (AnePool *)o;
    if (!p->joined) {
        pthread_mutex_lock(&p->lock);
        p->closing = true;
        pthread_mutex_unlock(&p->lock);
        wake(p);
        pthread_join(p->thread, NULL);
    }
    close(p->wake[0]);
    close(p->wake[1]);
    free_strings(p->argv);
    free_strings(p->env);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

AneObject *ane_pool_object(AnePool *p) { return &p->object; }

int ane_pool_create(const AnePoolOptions *o, AneHandle *out, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (!o || !o->argv || !o->argv[0] || !o->env || o->workers < 1 || o->workers > MAX_WORKERS || o->tries < 1 || o->budget < 0 ||
        o->deadline_ms < 1)
        return ane_error_set(err, ANE_E_ARG, "%d compile workers, %d tries, budget %lld, deadline %d ms; expected 1 to %d workers",
                             o ? o->workers : 0, o ? o->tries : 0, o ? (long long)o->budget : 0, o ? o->deadline_ms : 0,
                             MAX_WORKERS);
    AnePool *p = calloc(1, sizeof *p);
    if (!p)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for compile workers");
    ane_object_init(&p->object, ANE_KIND_POOL, destroy_pool);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->done, NULL);
    p->tail = &p->head;
    p->options = *o;
    p->options.argv = p->options.env = NULL;
    p->joined = true; /* no thread yet */
    for (int i = 0; i < MAX_PROCESSES; i++)
        p->worker[i].fd = -1;
    if (pipe(p->wake) != 0) {
        p->wake[0] = p->wake[1] = -1;
        status = ane_error_set(err, ANE_E_IO, "cannot make a pipe: %s", strerror(errno));
    }
    for (int i = 0; i < 2 && status == ANE_OK; i++) {
        fcntl(p->wake[i], F_SETFD, FD_CLOEXEC);
        fcntl(p->wake[i], F_SETFL, fcntl(p->wake[i], F_GETFL) | O_NONBLOCK);
    }
    if (status == ANE_OK && (!(p->argv = copy_strings(o->argv)) || !(p->env = copy_strings(o->env))))
        status = ane_error_set(err, ANE_E_MEMORY, "out of memory for compile workers");
    if (status == ANE_OK && pthread_create(&p->thread, NULL, run_pool, p) != 0)
        status = ane_error_set(err, ANE_E_MEMORY, "cannot start the thread of the compile workers");
    else if (status == ANE_OK)
        p->joined = false;
    if (status == ANE_OK)
        status = ane_handle_new(&p->object, out, err);
    if (status != ANE_OK)
        ane_object_release(&p->object);
    return status;
}

int ane_pool_stats(AneHandle pool, AnePoolStats *out, AneError *err) {
    AnePool *p;
    int status = ane_handle_get(pool, ANE_KIND_POOL, (void **)&p, err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    pthread_mutex_unlock(&p->lock);
    ane_object_release(&p->object);
    return ANE_OK;
}

int ane_pool_close(AneHandle pool, int32_t slice_ms, AneError *err) {
    AnePool *p;
    int status = ane_handle_get(pool, ANE_KIND_POOL, (void **)&p, err);
    if (status != ANE_OK)
        return status;
    struct timespec until = from_now(slice_ms);
    int waited = 0;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_mutex_unlock(&p->lock);
    wake(p);
    pthread_mutex_lock(&p->lock);
    while (!p->ended && waited == 0)
        waited = pthread_cond_timedwait(&p->done, &p->lock, &until);
    bool ended = p->ended;
    pthread_mutex_unlock(&p->lock);
    AneObject *o;
    if (ended && ane_handle_take(pool, ANE_KIND_POOL, &o, NULL) == ANE_OK) {
        pthread_join(p->thread, NULL);
        p->joined = true;
        ane_object_release(o);
    }
    ane_object_release(&p->object);
    return ended ? ANE_OK : ANE_AGAIN;
}
