// SPDX-License-Identifier: MIT
/* test_pool.c - worker pool, segments and leases from C, under sanitizers, with workers that misbehave.
 *
 * The workers are this program again. They die, hang, are stopped, answer nonsense
 * and refuse, by chance; threads ask for programs, give jobs up and ask again,
 * read statistics and kill; pools are closed amid all of it. Every answer must be
 * right or a status that has a reason, and nothing may be left: no process, no
 * descriptor, no directory. A second part takes and gives back leases on few
 * directories from several threads and processes, of which some are killed: what
 * was staged under a lease is there while the lease is.
 *
 *   test_pool [--jobs N] [--seed N]                       (tools/test_pool.py builds it) */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "_core_pool.h"

extern char **environ;

enum { THREADS = 4, ROUNDS = 4, SHARED = 3, LEASE_PROCESSES = 4 };

static int g_passed, g_failed; /* atomic */

static void check(bool good, int line, const char *what) {
    __atomic_add_fetch(good ? &g_passed : &g_failed, 1, __ATOMIC_RELAXED);
    if (!good)
        printf("test_pool.c:%d: not true: %s\n", line, what);
}
#define CHECK(cond) check((cond), __LINE__, #cond)

static uint64_t next(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}
static int below(uint64_t *state, int n) { return (int)(next(state) % (uint64_t)n); }

/* ============================== A worker ================================== */

static bool get_job(AneJobMessage *m, int *segment) {
    struct iovec iov = {.iov_base = m, .iov_len = sizeof *m};
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t n;
    while ((n = recvmsg(3, &h, MSG_WAITALL)) < 0 && errno == EINTR) {
    }
    *segment = -1;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL;
    if (c)
        memcpy(segment, CMSG_DATA(c), sizeof(int));
    return n == (ssize_t)sizeof *m && m->magic == ANE_WIRE_MAGIC && m->job != 0;
}

static void say(const void *what, size_t bytes) {
    if (send(3, what, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        _exit(0);
}

/* The text of a segment: "IDENTITY\nDIRECTORY\n". Checks the file, and leaves one in the directory. */
static void work(const AneJobMessage *m, int fd, AneAnswer *a) {
    AneSegment *s;
    char text[2048] = "", *directory, *end;
    a->job = m->job;
    a->error.status = ane_segment_open(fd, (size_t)m->bytes, &s, &a->error);
    if (a->error.status != ANE_OK)
        return;
    const AneSegmentHead *head = ane_segment_head(s);
    if (head && head->n_files == 1 && head->text_bytes < sizeof text)
        memcpy(text, s->base + head->text_at, (size_t)head->text_bytes);
    if (!(directory = strchr(text, '\n')) || !(end = strchr(directory + 1, '\n')))
        _exit(9);
    *directory++ = *end = 0;
    for (uint64_t i = 0; i < head->files[0].bytes; i++)
        if (s->base[head->files[0].at + i] != (uint8_t)text[0])
            _exit(9);
    snprintf(a->identity, sizeof a->identity, "%s", text);
    int at_work;
    a->error.status = ane_lease_work(directory, 5000, NULL, NULL, &at_work, &a->error);
    if (a->error.status == ANE_OK) {
        char path[4096];
        mkdir(directory, 0700);
        snprintf(path, sizeof path, "%s/made", directory);
        int made = open(path, O_WRONLY | O_CREAT, 0600);
        ane_lease_unlock(made);
    }
    ane_lease_unlock(at_work);
    ane_segment_release(s);
}

static int be_worker(const char *own) {
    if (own)
        CHECK(ane_engine_own_base(own, NULL) == ANE_OK);
    uint64_t r = (uint64_t)getpid() * 7919 + ane_now_ns();
    AneAnswer a = {.magic = ANE_WIRE_MAGIC};
    signal(SIGPIPE, SIG_IGN);
    switch (below(&r, 40)) {
        case 0: return 3;                       /* never ready */
        case 1: say("nonsense", 8); return 0;
        case 2: a.error.status = ANE_E_OPEN; break;
    }
    say(&a, sizeof a);
    AneJobMessage m;
    int fd;
    while (get_job(&m, &fd)) {
        memset(&a, 0, sizeof a);
        a.magic = ANE_WIRE_MAGIC;
        work(&m, fd, &a);
        switch (below(&r, 30)) {
            case 0: _exit(4);
            case 1: kill(getpid(), SIGKILL); break;
            case 2: kill(getpid(), SIGSTOP); break;
            case 3: a.job++; break;
            case 4: snprintf(a.identity, sizeof a.identity, "another"); break;
            case 5: say(&a, sizeof a / 2); return 0;
            case 6: ane_error_set(&a.error, ANE_E_COMPILE, "refused"); break;
        }
        say(&a, sizeof a);
    }
    return 0;
}

/* ============================== Jobs ====================================== */

typedef struct {
    AnePool *pool;
    AneHandle handle;
    const char *base;
    uint64_t seed;
    int number, jobs;
    int *stop;
} Client;

static int g_done, g_refused, g_given_up, g_closed; /* atomic: answers by kind */

static AneSegment *make_segment(const char *identity, const char *directory, uint64_t *r) {
    char text[2048];
    size_t n = (size_t)snprintf(text, sizeof text, "%s\n%s\n", identity, directory);
    const char *path = "@model_path/weights/w.bin";
    size_t bytes = 1 + (size_t)below(r, 100000);
    AneSegment *s = NULL;
    AneError err;
    CHECK(ane_segment_layout(text, n, &path, &bytes, 1, &s, &err) == ANE_OK);
    if (s)
        memset(s->base + ane_segment_head(s)->files[0].at, identity[0], bytes);
    return s;
}

/* Wait for the answer; a few times it is not wanted any more. */
static void one_job(Client *c, uint64_t *r, int i) {
    char identity[64], directory[2048];
    if (below(r, 4)) /* equal ones meet in one directory */
        snprintf(identity, sizeof identity, "p%d_%d", c->number, i);
    else
        snprintf(identity, sizeof identity, "shared_%d", below(r, SHARED));
    snprintf(directory, sizeof directory, "%s/%s", c->base, identity);
    AneError err;
    AneLease *lease;
    AneJob *j = NULL;
    int status = ane_lease_take(directory, &lease, &err);
    CHECK(status == ANE_OK);
    if (status != ANE_OK) {
        printf("%s\n", err.text);
        return;
    }
    AneSegment *s = make_segment(identity, directory, r);
    status = s ? ane_job_start(c->pool, s, identity, lease, 17, &j, &err) : ANE_E_MEMORY;
    CHECK(status == ANE_OK || status == ANE_E_CLOSED);
    AneAnswer a;
    bool impatient = below(r, 12) == 0;
    for (int slices = 0, again = 0; j && (!impatient || slices < 3); slices++) {
        if (ane_job_wait(j, 20, &a) == ANE_AGAIN)
            continue;
        int said = a.error.status;
        if (said == ANE_OK && below(r, 10) == 0 && again++ < 2 && ane_job_again(j) == ANE_OK)
            continue; /* as if the program were of no use */
        if (said == ANE_E_WORKER && ane_job_insist(j) == ANE_OK)
            continue;
        CHECK(said == ANE_OK || said == ANE_E_COMPILE || said == ANE_E_WORKER || said == ANE_E_CLOSED);
        CHECK(said != ANE_OK || strcmp(a.identity, identity) == 0);
        if (said == ANE_OK) {
            char made[4096];
            snprintf(made, sizeof made, "%s/made", directory);
            CHECK(access(made, F_OK) == 0); /* under our lease */
        }
        CHECK(said != ANE_E_WORKER || a.error.domain[0]);
        int *kind = said == ANE_OK ? &g_done : said == ANE_E_COMPILE ? &g_refused : said == ANE_E_WORKER ? &g_given_up : &g_closed;
        __atomic_add_fetch(kind, 1, __ATOMIC_RELAXED);
        break;
    }
    ane_job_free(j);
    ane_segment_release(s);
    ane_lease_release(lease);
}

static void *be_client(void *context) {
    Client *c = context;
    uint64_t r = c->seed;
    for (int i = 0; i < c->jobs && !__atomic_load_n(c->stop, __ATOMIC_RELAXED); i++)
        one_job(c, &r, i);
    return NULL;
}

/* Reads what others read, and kills. */
static void *be_killer(void *context) {
    Client *c = context;
    uint64_t r = c->seed;
    AnePoolStats now;
    while (!__atomic_load_n(c->stop, __ATOMIC_RELAXED)) {
        if (ane_pool_stats(c->handle, &now, NULL) == ANE_OK && now.alive > 0 && below(&r, 4) == 0)
            kill(now.pids[below(&r, now.alive)], below(&r, 3) ? SIGKILL : SIGSTOP);
        poll(NULL, 0, 1 + below(&r, 60));
    }
    return NULL;
}

static int descriptors(void) {
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d));)
        n++;
    if (d)
        closedir(d);
    return n;
}

/* One pool from making to closing. `cut`: it is closed amid the work. */
static void round_of(const char *self, const char *base, bool own, int jobs, uint64_t *r, bool cut) {
    const char *argv[] = {self, "worker", own ? base : NULL, NULL};
    AnePoolOptions o = {.argv = argv,
                        .env = (const char *const *)environ,
                        .workers = 3,
                        .tries = 5,
                        .budget = below(r, 2) ? 7 : 0,
                        .deadline_ms = 500,
                        .patience_ms = 2000};
    AneError err;
    AneHandle pool = 0;
    AnePool *p = NULL;
    int before = descriptors(), stop = 0;
    CHECK(ane_pool_create(&o, &pool, &err) == ANE_OK);
    if (ane_handle_get(pool, ANE_KIND_POOL, (void **)&p, &err) != ANE_OK)
        return;
    pthread_t thread[THREADS + 1];
    Client client[THREADS + 1];
    for (int i = 0; i <= THREADS; i++) {
        client[i] = (Client){p, pool, base, next(r), i, jobs / THREADS, &stop};
        pthread_create(&thread[i], NULL, i < THREADS ? be_client : be_killer, &client[i]);
    }
    if (cut)
        poll(NULL, 0, 200 + below(r, 1500));
    for (int i = 0; i < THREADS && !cut; i++)
        pthread_join(thread[i], NULL);
    AnePoolStats s;
    CHECK(ane_pool_stats(pool, &s, &err) == ANE_OK);
    printf("  jobs %lld, compiled %lld, started %lld, deaths %lld, hangs %lld, bad answers %lld, retries %lld, given up %lld%s\n",
           (long long)s.jobs, (long long)s.compiles, (long long)s.started, (long long)s.deaths, (long long)s.hangs,
           (long long)s.bad_answers, (long long)s.retries, (long long)s.given_up, cut ? ", closed amid it" : "");
    while (ane_pool_close(pool, 50, &err) == ANE_AGAIN) {
    }
    CHECK(ane_pool_stats(pool, &s, &err) == ANE_E_CLOSED);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = cut ? 0 : THREADS; i <= THREADS; i++)
        pthread_join(thread[i], NULL);
    ane_object_release(ane_pool_object(p));
    CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
    CHECK(descriptors() == before);
}

/* ============================== Leases ==================================== */

/* Take, stage, look, give back; `forever` until killed. */
static void hold(const char *base, uint64_t *r, int times, bool forever) {
    for (int i = 0; i < times || forever; i++) {
        char directory[2048], path[4096];
        AneError err;
        AneLease *l;
        int at_work, others;
        snprintf(directory, sizeof directory, "%s/id_%d", base, below(r, SHARED));
        snprintf(path, sizeof path, "%s/file", directory);
        if (ane_lease_take(directory, &l, &err) != ANE_OK) {
            printf("%s\n", err.text);
            CHECK(false);
            return;
        }
        if (ane_lease_work(directory, 20000, NULL, NULL, &at_work, &err) == ANE_OK) {
            if (ane_lease_others(directory) == 0)
                ane_remove_tree(directory);
            mkdir(directory, 0700);
            int fd = open(path, O_WRONLY | O_CREAT, 0600);
            CHECK(fd >= 0);
            ane_lease_unlock(fd);
        } else {
            printf("%s\n", err.text);
            CHECK(false);
        }
        ane_lease_unlock(at_work);
        for (int looks = below(r, 4); looks > 0; looks--) {
            /* an unload of another has it away for a moment, under the work lock */
            int got = ane_lease_work(directory, 20000, NULL, NULL, &at_work, &err);
            CHECK(got == ANE_OK && access(path, F_OK) == 0);
            ane_lease_unlock(at_work);
        }
        if (below(r, 2) && ane_lease_work(directory, 20000, NULL, NULL, &at_work, &err) == ANE_OK) { /* an unload */
            int fd = ane_lease_lock(directory, &others);
            CHECK(fd >= 0);
            bool kept = others > 0 && ane_lease_shelter(directory);
            CHECK(kept || others == 0);
            ane_remove_tree(directory);
            if (kept)
                ane_lease_restore(directory);
            ane_lease_unlock(fd);
            ane_lease_unlock(at_work);
        }
        ane_lease_release(l);
    }
}

static void *be_holder(void *context) {
    Client *c = context;
    hold(c->base, &c->seed, c->jobs, false);
    return NULL;
}

static pid_t start(const char *self, const char *base) {
    pid_t pid = -1;
    char *argv[] = {(char *)self, "hold", (char *)base, NULL};
    CHECK(posix_spawn(&pid, self, NULL, NULL, argv, environ) == 0);
    return pid;
}

static void leases(const char *self, const char *base, int times, uint64_t *r) {
    pid_t child[LEASE_PROCESSES];
    pthread_t thread[THREADS];
    Client client[THREADS];
    int killed = 0, before = descriptors();
    for (int i = 0; i < LEASE_PROCESSES; i++)
        child[i] = start(self, base);
    for (int i = 0; i < THREADS; i++) {
        client[i] = (Client){.base = base, .seed = next(r), .jobs = times};
        pthread_create(&thread[i], NULL, be_holder, &client[i]);
    }
    for (; killed < 20; killed++) { /* beside the threads */
        poll(NULL, 0, 20 + below(r, 80));
        int i = below(r, LEASE_PROCESSES), status;
        kill(child[i], SIGKILL);
        waitpid(child[i], &status, 0);
        CHECK(WIFSIGNALED(status)); /* not: a check of its own failed */
        child[i] = start(self, base);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < LEASE_PROCESSES; i++) {
        int status;
        kill(child[i], SIGKILL);
        waitpid(child[i], &status, 0);
        CHECK(WIFSIGNALED(status));
    }
    CHECK(descriptors() == before);
    ane_lease_reap(base);
    printf("  leases: %d by threads, %d processes killed\n", times * THREADS, killed + LEASE_PROCESSES);
}

/* ============================== Main ====================================== */

/* Nothing but the files of this process, which is alive. */
static int left_in(const char *base) {
    int n = 0;
    DIR *d = opendir(base);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            printf("left in %s: %s\n", base, e->d_name);
            n++;
        }
    if (d)
        closedir(d);
    return n;
}

int main(int argc, char **argv) {
    int jobs = 200;
    uint64_t seed = 1;
    if (argc >= 2 && strcmp(argv[1], "worker") == 0)
        return be_worker(argc > 2 ? argv[2] : NULL);
    if (argc == 3 && strcmp(argv[1], "hold") == 0) {
        seed = (uint64_t)getpid() * 31 + ane_now_ns();
        hold(argv[2], &seed, 0, true);
        return 1; /* a check failed */
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--jobs") == 0)
            jobs = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            seed = strtoull(argv[i + 1], NULL, 10);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    char base[] = "/tmp/test_pool.XXXXXX";
    if (!mkdtemp(base))
        return 1;
    AneLease *l; /* opens what the process keeps */
    AneError err;
    char first[64];
    snprintf(first, sizeof first, "%s/first", base);
    CHECK(ane_lease_take(first, &l, &err) == ANE_OK);
    ane_lease_release(l);
    char own[] = "/tmp/test_pool.XXXXXX";
    if (!mkdtemp(own))
        return 1;
    CHECK(ane_engine_own_base(own, &err) == ANE_OK);
    for (int i = 0; i < ROUNDS; i++)
        round_of(argv[0], i < 2 ? base : own, i >= 2, jobs / ROUNDS, &seed, i % 2 == 1);
    CHECK(left_in(base) == 0);
    CHECK(left_in(own) == 0);
    ane_remove_tree(own);
    leases(argv[0], base, jobs, &seed);
    CHECK(left_in(base) == 0);
    ane_remove_tree(base);
    printf("answers: %d compiled, %d refused, %d given up, %d closed\n", g_done, g_refused, g_given_up, g_closed);
    CHECK(g_done > 0);
    printf("test_pool: %d passed, %d failed\n", g_passed, g_failed);
    return g_failed ? 1 : 0;
}
