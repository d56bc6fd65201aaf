// SPDX-License-Identifier: MIT
/* _core_pool_process.c - the processes of a worker pool, owned by the pool's thread.
 *
 *   worker  STARTING --greeting--> IDLE <--> BUSY      --budget used--> LEAVING --exit--> free
 *              +----------- dies, hangs, is killed: ----------------------> reaped ------^
 *
 * The thread spawns them (posix_spawn, never fork), sends jobs, reads answers, keeps
 * the deadlines and reaps. A worker whose budget nears its end gets its successor
 * started ahead of time. Where processes do not come up, or end at once, the next
 * start waits: 50 ms, doubled each time, at most BACK_OFF_MS. How the last one ended
 * is kept, for whoever has to be told.
 * Workers live in process groups of their own: a Ctrl-C at the terminal does not
 * reach them. They end when their socket ends. Plain C. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_core_pool_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* there SO_NOSIGPIPE is set on the socket */
#endif

enum {
    WORKER_FD = 3,           /* where a worker finds its socket */
    SPAWN_MS = 1000,         /* a spawn that takes longer is helped */
    START_MS = 60000,        /* from spawn to greeting, at most */
    LEAVE_MS = 1000,         /* from the end of its socket to the end of a worker */
    EXIT_MS = 10,            /* a child whose exit is due is looked at this often */
    END_MS = 20,             /* a socket ended by itself: so long for an exit status before the kill */
    SOON_MS = 1000,          /* a worker that ends so soon after its greeting ends "at once" */
    BAD_STARTS = 4,          /* processes in a row that never greeted: jobs are given up */
    BACK_OFF_MS = 5000       /* between two starts, at most */
};

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

void ane_pool_help_spawn(AnePool *p) {
#ifdef __linux__
    char path[64], text[4096];
    pthread_mutex_lock(&p->lock);
    uint64_t since = p->spawning;
    bool late = since && ane_now_ns() > since + (uint64_t)SPAWN_MS * 1000000u;
    if (late)
        p->spawning = ane_now_ns(); /* again in as long */
    snprintf(path, sizeof path, "/proc/self/task/%ld/children", p->thread_id);
    int fd = late ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    /* children of that thread: nobody else reaps them, so a number is still theirs */
    for (char *at = text, *end; late; at = end) {
        long pid = strtol(at, &end, 10);
        if (end == at)
            break;
        bool known = false;
        for (int i = 0; i < p->stats.alive; i++)
            known |= p->stats.pids[i] == pid;
        if (!known && pid > 1)
            kill((pid_t)pid, SIGCONT);
    }
    pthread_mutex_unlock(&p->lock);
#else
    (void)p; /* there the system call makes the process whole */
#endif
}

/* A process did not come up, or ended at once: the next start waits, longer each time. */
static void back_off(AnePool *p, uint64_t now) {
    int n = p->bad_starts + p->early_ends;
    int64_t ms = n < 8 ? (int64_t)25 << n : BACK_OFF_MS;
    p->start_after = now + (uint64_t)(ms < BACK_OFF_MS ? ms : BACK_OFF_MS) * 1000000u;
}

static void could_not_start(AnePool *p, const char *step, int why, uint64_t now) {
    pthread_mutex_lock(&p->lock);
    ane_error_set(&p->last_end, ANE_E_WORKER, "%s %.300s: %s (errno %d)", step, p->argv[0], strerror(why), why);
    snprintf(p->last_end.domain, sizeof p->last_end.domain, "spawn");
    p->last_end.code = why;
    pthread_mutex_unlock(&p->lock);
    p->bad_starts++;
    back_off(p, now);
}

static void start_worker(AnePool *p, uint64_t now) {
    Worker *w = p->worker;
    while (w < p->worker + ANE_POOL_PROCESSES && w->state != W_FREE)
        w++;
    int pair[2];
    pid_t pid = -1;
    if (w == p->worker + ANE_POOL_PROCESSES)
        return;
    if (make_pair(pair) != 0) {
        could_not_start(p, "no socket for", errno, now);
        return;
    }
    pthread_mutex_lock(&p->lock);
    p->spawning = now;
    pthread_mutex_unlock(&p->lock);
    int why = spawn(p, pair[1], &pid);
    pthread_mutex_lock(&p->lock);
    p->spawning = 0;
    pthread_mutex_unlock(&p->lock);
    close(pair[1]);
    if (why != 0) {
        close(pair[0]);
        could_not_start(p, "cannot start", why, now);
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

/* A worker's socket has ended: its exit status, if it comes at once. True: it is reaped. */
static bool exit_status(const Worker *w, int *status) {
    for (int ms = 0; ms <= END_MS; ms += 2) {
        pid_t got = waitpid(w->pid, status, WNOHANG);
        if (got == w->pid)
            return true;
        if (got < 0) /* ECHILD: the process ignores SIGCHLD, there is no status */
            return false;
        poll(NULL, 0, 2);
    }
    return false;
}

/* Keep how it ended. Under the lock. */
static void note_end_locked(AnePool *p, const Worker *w, End end, bool reaped, int status) {
    AneError *e = &p->last_end;
    const char *when = w->greeted ? "" : " before it was ready";
    const char *kind = "worker";
    long pid = (long)w->pid;
    if (end == END_NONSENSE && !w->greeted && w->answer.magic == ANE_WIRE_MAGIC && w->answer.error.status != ANE_OK) {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld: %.600s", pid, w->answer.error.text);
        e->code = w->answer.error.status;
        kind = "engine";
    } else if (end == END_NONSENSE) {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld gave an answer that cannot be right", pid);
        kind = "answer";
    } else if (end == END_HANG) {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld did not answer%s in time", pid, w->greeted ? "" : " its start");
        kind = "hang";
    } else if (reaped && WIFEXITED(status)) {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld (%.300s) ended with exit status %d%s", pid, p->argv[0],
                      WEXITSTATUS(status), when);
        e->code = WEXITSTATUS(status);
        kind = "exit";
    } else if (reaped && WIFSIGNALED(status)) {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld (%.300s) was ended by signal %d%s", pid, p->argv[0], WTERMSIG(status), when);
        e->code = WTERMSIG(status);
        kind = "signal";
    } else {
        ane_error_set(e, ANE_E_WORKER, "compile worker %ld (%.300s) closed its socket%s", pid, p->argv[0], when);
    }
    snprintf(e->domain, sizeof e->domain, "%s", kind);
}

/* It will never answer again. Its job goes elsewhere; the process is reaped, now or later. */
static void lose_worker(AnePool *p, Worker *w, End end, uint64_t now) {
    AneJob *job = w->job, *over = NULL;
    int status = 0;
    bool reaped = end == END_DEATH && exit_status(w, &status);
    if (!reaped)
        kill_worker(w);
    hang_up(w);
    w->job = NULL;
    w->state = reaped ? W_FREE : W_LEAVING;
    w->until = now + (uint64_t)LEAVE_MS * 1000000u;
    pthread_mutex_lock(&p->lock);
    p->stats.deaths += end == END_DEATH;
    p->stats.hangs += end == END_HANG;
    p->stats.bad_answers += end == END_NONSENSE;
    note_end_locked(p, w, end, reaped, status);
    if (job)
        over = ane_pool_retry_locked(p, job, w->serial);
    pthread_mutex_unlock(&p->lock);
    if (over)
        ane_pool_destroy_job(over);
    if (!w->greeted)
        p->bad_starts++;
    else if (!job && w->answers == 0 && now - w->greeted < (uint64_t)SOON_MS * 1000000u)
        p->early_ends++; /* with a job, the job's tries are the bound */
    else
        return;
    back_off(p, now);
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
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++) {
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
        w->greeted = now;
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
    w->answers++;
    p->early_ends = 0;
    bool suspect = false;
    pthread_mutex_lock(&p->lock);
    if (status == ANE_OK) {
        p->stats.compiles += !a->cached;
        p->stats.cached += a->cached != 0;
        j->answer = *a;
        j->avoid = w->serial; /* should the program be of no use after all */
        over = ane_pool_finish_locked(p, j);
    } else if (worth_asking_again(j, w, status) && !j->abandoned && !p->closing) {
        suspect = j->questioned = true;
        p->stats.retries++;
        j->avoid = w->serial;
        ane_pool_requeue_locked(p, j);
    } else {
        p->stats.refused++;
        j->answer = *a;
        over = ane_pool_finish_locked(p, j);
    }
    pthread_mutex_unlock(&p->lock);
    if (over)
        ane_pool_destroy_job(over);
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
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++) {
        bool works = w->state == W_STARTING || w->state == W_IDLE || w->state == W_BUSY;
        all += w->state != W_FREE;
        with_future += works && !(w->state != W_STARTING && near_end(p, w));
        if (w->state == W_IDLE && !has_budget(p, w))
            retire_worker(p, w, now);
    }
    for (; with_future < p->options.workers && all < ANE_POOL_PROCESSES && now >= p->start_after; with_future++, all++) {
        start_worker(p, now);
        if (p->bad_starts >= BAD_STARTS)
            return; /* one is enough to see whether they come up again */
    }
}

/* The idle worker to use for a job: the one nearest its end, not the one that failed at it. */
static Worker *choose(AnePool *p, const AneJob *j) {
    Worker *best = NULL;
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++)
        if (w->state == W_IDLE && has_budget(p, w) && w->serial != j->avoid && (!best || w->compiles > best->compiles))
            best = w;
    return best;
}

static int count(const AnePool *p, WorkerState state) {
    int n = 0;
    for (int i = 0; i < ANE_POOL_PROCESSES; i++)
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
            for (Worker *any = p->worker; any < p->worker + ANE_POOL_PROCESSES && !w; any++)
                if (any->state == W_IDLE && has_budget(p, any))
                    w = any;
        if (w) {
            ane_pool_dequeue_locked(p);
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
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++)
        if ((w->state == W_BUSY || w->state == W_STARTING) && now > w->until)
            lose_worker(p, w, END_HANG, now);
}

static bool is_broken(const AnePool *p) {
    return p->bad_starts >= BAD_STARTS && count(p, W_IDLE) + count(p, W_BUSY) + count(p, W_STARTING) == 0;
}

/* No process comes up: whoever waits must not wait for ever. Those that said they can
 * wait are given their time. */
static void give_up_if_broken(AnePool *p, uint64_t now) {
    while (is_broken(p)) {
        pthread_mutex_lock(&p->lock);
        AneJob *j = p->head, *over = NULL;
        while (j && now < j->patient_until)
            j = j->next;
        if (j) {
            ane_pool_unlink_locked(p, j);
            j->unserved = true;
            over = ane_pool_give_up_locked(p, j, ANE_E_WORKER, "no compile worker can be started");
        }
        pthread_mutex_unlock(&p->lock);
        if (over)
            ane_pool_destroy_job(over);
        if (!j)
            return;
    }
}

static void show(AnePool *p) {
    pthread_mutex_lock(&p->lock);
    p->stats.alive = p->stats.idle = 0;
    for (int i = 0; i < ANE_POOL_PROCESSES; i++)
        if (p->worker[i].state != W_FREE) {
            p->stats.idle += p->worker[i].state == W_IDLE;
            p->stats.pids[p->stats.alive++] = (int32_t)p->worker[i].pid;
        }
    pthread_mutex_unlock(&p->lock);
}

/* Milliseconds until something is due without being told. */
static int next_due(AnePool *p, uint64_t now) {
    uint64_t due = now + 10000000000u;
    bool waiting = false;
    for (const Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++) {
        if ((w->state == W_BUSY || w->state == W_STARTING) && w->until < due)
            due = w->until;
        waiting |= w->state == W_LEAVING;
    }
    if (now < p->start_after && p->start_after < due)
        due = p->start_after;
    if (is_broken(p)) {
        pthread_mutex_lock(&p->lock);
        for (const AneJob *j = p->head; j; j = j->next)
            if (j->patient_until < due)
                due = j->patient_until;
        pthread_mutex_unlock(&p->lock);
    }
    int64_t ms = due > now ? (int64_t)((due - now) / 1000000u) + 1 : 0;
    return waiting && ms > EXIT_MS ? EXIT_MS : (int)ms;
}

static void wait_for_news(AnePool *p, uint64_t now) {
    struct pollfd fds[ANE_POOL_PROCESSES + 1] = {{.fd = p->wake[0], .events = POLLIN}};
    Worker *of[ANE_POOL_PROCESSES + 1];
    nfds_t n = 1;
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++)
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
    for (Worker *w = p->worker; w < p->worker + ANE_POOL_PROCESSES; w++) {
        if (w->state == W_FREE || w->state == W_LEAVING)
            continue;
        AneJob *over = NULL;
        pthread_mutex_lock(&p->lock);
        if (w->job)
            over = ane_pool_give_up_locked(p, w->job, ANE_E_CLOSED, "the compile workers were closed");
        pthread_mutex_unlock(&p->lock);
        if (over)
            ane_pool_destroy_job(over);
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
        AneJob *j = ane_pool_dequeue_locked(p);
        AneJob *over = j ? ane_pool_give_up_locked(p, j, ANE_E_CLOSED, "the compile workers were closed") : NULL;
        pthread_mutex_unlock(&p->lock);
        if (over)
            ane_pool_destroy_job(over);
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

void *ane_pool_run(void *context) {
    AnePool *p = context;
    sigset_t all;
#ifdef __linux__
    pthread_mutex_lock(&p->lock);
    p->thread_id = syscall(SYS_gettid);
    pthread_mutex_unlock(&p->lock);
#endif
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

