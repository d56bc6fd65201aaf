// SPDX-License-Identifier: MIT
/* _core_lease.c - staging directories counted across processes.
 *
 * The engine names a staging directory after the hash of what is compiled, and on a Mac
 * all directories lie in one base: two processes with equal text and weights get the same
 * one, and the engine's unload deletes it whoever else is using it.
 *
 *   <base>/<identity>/                  what is staged, and what the compiler made of it
 *   <base>/<identity>.kept/             hard links to that, while an unload deletes the name
 *   <base>/.ane_native-<uid>/
 *       owner.<pid>.<random>            locked by a process for its life
 *       <identity>.lease                a record of 64 bytes for each hold: owner, number
 *       <identity>.work                 locked while one stages, compiles, loads or unloads
 *
 * A process is alive while its owner file is locked: the kernel unlocks it with the
 * last descriptor, however the process ends, so neither a process id used again nor one
 * of another namespace deceives. A lock of a .lease file is held for microseconds (over
 * the unload: milliseconds), and records are only believed, written and removed under it.
 * Files are unlinked under their lock; who then gets a lock on a file without a name
 * looks again.
 *
 * A lock belongs to all copies of its descriptor, those of a forked child too, which may live longer
 * than its parent and cannot use the engine. So a child closes its copies at once, and locks are
 * ended by name, not by closing alone.
 *
 * In a base that belongs to this process (and its workers) alone nobody else is to be
 * told: holds are counted in memory, and there is nothing to lock. Plain C; knows no engine. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_core_lease.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "_core_pool.h"

enum {
    RECORD = 64,
    MOST_RECORDS = 1024,
    NAME = 48,            /* of an owner */
    LOCK_MS = 10000,      /* somebody was stopped while it held a short lock */
    REAP_MS = 500,        /* then a reaper goes on to the next */
    MOST_LOCKED = 256,    /* descriptors with a short lock at the same time */
    PATH_CAP = 4096
};

/* This process, as the others see it in one base. Never freed: there are few bases. */
typedef struct Owner {
    struct Owner *next;
    char *base;
    char name[NAME];
    int fd;
    pid_t pid; /* a forked child is somebody else */
} Owner;

struct AneLease {
    int refs; /* atomic */
    const Owner *owner; /* NULL: in our own base */
    uint64_t number;
    char *directory;
};

/* A directory in our own base. */
typedef struct Hold {
    struct Hold *next;
    int count;
    char directory[];
} Hold;

static pthread_mutex_t g_lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static Owner *g_owners;
static char g_own[PATH_CAP]; /* our own base, "": none */
static Hold *g_holds;
static uint64_t g_number;
static int g_locked[MOST_LOCKED]; /* descriptors + 1 of .lease and .work files, open now */

/* ============================== Fork ====================================== */

static void before_fork(void) { pthread_mutex_lock(&g_lock); }

static void after_fork(void) { pthread_mutex_unlock(&g_lock); }

static void in_child(void) {
    for (Owner *o = g_owners; o; o = o->next) {
        if (o->fd >= 0)
            close(o->fd);
        o->fd = -1;
    }
    for (int i = 0; i < MOST_LOCKED; i++) {
        if (g_locked[i])
            close(g_locked[i] - 1);
        g_locked[i] = 0;
    }
    pthread_mutex_unlock(&g_lock);
}

static void watch_forks(void) { pthread_atfork(before_fork, after_fork, in_child); }

/* Open a file that will be locked; a child closes its copy. -1 and errno. */
static int open_noted(const char *path, int flags) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pthread_mutex_lock(&g_lock);
    int at = 0;
    while (at < MOST_LOCKED && g_locked[at])
        at++;
    int fd = -1;
    errno = EMFILE;
    if (at < MOST_LOCKED && (fd = open(path, flags, 0600)) >= 0)
        g_locked[at] = fd + 1;
    int why = errno;
    pthread_mutex_unlock(&g_lock);
    errno = why;
    return fd;
}

void ane_lease_unlock(int fd) {
    if (fd < 0)
        return;
    flock(fd, LOCK_UN);
    pthread_mutex_lock(&g_lock);
    for (int i = 0; i < MOST_LOCKED; i++)
        if (g_locked[i] == fd + 1)
            g_locked[i] = 0;
    close(fd);
    pthread_mutex_unlock(&g_lock);
}

/* ============================== Names ===================================== */

/* The folder of our files in a base, made if need be: ours, and closed to others. */
static bool folder_of(const char *base, bool make, char out[PATH_CAP]) {
    struct stat st;
    int n = snprintf(out, PATH_CAP, "%s/.ane_native-%lu", base, (unsigned long)geteuid());
    if (n < 0 || n >= PATH_CAP) {
        errno = ENAMETOOLONG;
        return false;
    }
    if (make && mkdir(out, 0700) != 0 && errno != EEXIST)
        return false;
    if (lstat(out, &st) != 0)
        return false;
    errno = EPERM;
    return S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

/* "/a/b/" and "/a/b" are one base: of directory "/a/b/ID" it is "/a/b". */
static bool split(const char *directory, char base[PATH_CAP], const char **identity) {
    const char *slash = strrchr(directory, '/');
    size_t n = slash ? (size_t)(slash - directory) : 0;
    if (!slash || n == 0 || n >= PATH_CAP || !slash[1] || strlen(slash + 1) + sizeof ".lease" > NAME_MAX) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(base, directory, n);
    base[n] = 0;
    *identity = slash + 1;
    return true;
}

static bool join(char out[PATH_CAP], const char *folder, const char *name, const char *suffix) {
    int n = snprintf(out, PATH_CAP, "%s/%s%s", folder, name, suffix);
    return n > 0 && n < PATH_CAP;
}

/* ============================== Our own base ============================== */

int ane_engine_own_base(const char *base, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    size_t n = base ? strlen(base) : 0;
    if (n == 0 || n >= PATH_CAP || base[0] != '/')
        return ane_error_set(err, ANE_E_ARG, "a staging base: expected an absolute path of at most %d bytes", PATH_CAP - 1);
    pthread_mutex_lock(&g_lock);
    memcpy(g_own, base, n + 1);
    pthread_mutex_unlock(&g_lock);
    return ANE_OK;
}

/* Under the lock. */
static bool is_own_locked(const char *directory) {
    size_t n = strlen(g_own);
    return n && strncmp(directory, g_own, n) == 0 && directory[n] == '/' && !strchr(directory + n + 1, '/');
}

static bool is_own(const char *directory) {
    pthread_mutex_lock(&g_lock);
    bool own = is_own_locked(directory);
    pthread_mutex_unlock(&g_lock);
    return own;
}

static Hold **find_hold_locked(const char *directory) {
    Hold **at = &g_holds;
    while (*at && strcmp((*at)->directory, directory) != 0)
        at = &(*at)->next;
    return at;
}

/* ANE_SKIP: it lies elsewhere. */
static int take_own(const char *directory) {
    int status = ANE_SKIP;
    pthread_mutex_lock(&g_lock);
    if (is_own_locked(directory)) {
        Hold *h = *find_hold_locked(directory);
        size_t n = strlen(directory) + 1;
        if (!h && (h = calloc(1, sizeof *h + n))) {
            memcpy(h->directory, directory, n);
            h->next = g_holds;
            g_holds = h;
        }
        if (h)
            h->count++;
        status = h ? ANE_OK : ANE_E_MEMORY;
    }
    pthread_mutex_unlock(&g_lock);
    return status;
}

static void give_back_own(const char *directory) {
    pthread_mutex_lock(&g_lock);
    Hold **at = find_hold_locked(directory), *h = *at;
    if (h && --h->count == 0) {
        *at = h->next;
        free(h);
        if (access(directory, F_OK) == 0) /* under the lock: somebody may be about to stage there */
            ane_remove_tree(directory);
    }
    pthread_mutex_unlock(&g_lock);
}

/* False: it lies elsewhere. */
static bool others_own(const char *directory, int *others) {
    pthread_mutex_lock(&g_lock);
    bool own = is_own_locked(directory);
    const Hold *h = own ? *find_hold_locked(directory) : NULL;
    if (own)
        *others = h ? h->count - 1 : 0;
    pthread_mutex_unlock(&g_lock);
    return own;
}

/* ============================== Locks ===================================== */

/* An exclusive lock within `ms`; false and EWOULDBLOCK, or ECANCELED when stopped. */
static bool lock_within(int fd, int32_t ms, bool (*stop)(void *), void *context) {
    uint64_t end = ane_now_ns() + (uint64_t)ms * 1000000u;
    for (int tries = 0; flock(fd, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (errno != EINTR && errno != EWOULDBLOCK)
            return false;
        bool stopped = stop && stop(context);
        if (stopped || ane_now_ns() >= end) {
            errno = stopped ? ECANCELED : EWOULDBLOCK;
            return false;
        }
        poll(NULL, 0, tries < 8 ? 1 : 5);
    }
    return true;
}

/* Open and lock the file of a directory; it still has its name then. -1 and errno. */
static int open_locked(const char *directory, const char *suffix, bool make, int32_t ms, bool (*stop)(void *), void *context) {
    char base[PATH_CAP], folder[PATH_CAP], path[PATH_CAP];
    const char *identity;
    struct stat st;
    if (!split(directory, base, &identity))
        return -1;
    for (int tries = 0; tries < 1000; tries++) {
        if (!folder_of(base, make, folder) || !join(path, folder, identity, suffix))
            return -1;
        int fd = open_noted(path, O_RDWR | (make ? O_CREAT : 0) | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT && make)
            continue; /* the folder went: its last user ended */
        if (fd < 0)
            return -1;
        bool locked = lock_within(fd, ms, stop, context);
        int why = errno;
        if (locked && fstat(fd, &st) == 0 && st.st_nlink > 0)
            return fd;
        ane_lease_unlock(fd);
        errno = why;
        if (!locked)
            return -1;
    }
    errno = EIO;
    return -1;
}

/* ============================== Owners ==================================== */

/* Somebody's owner file is there and locked. */
static bool is_alive(const char *folder, const char *name) {
    char path[PATH_CAP];
    if (!join(path, folder, name, ""))
        return true;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno != ENOENT;
    int status;
    while ((status = flock(fd, LOCK_SH | LOCK_NB)) != 0 && errno == EINTR) {
    }
    close(fd); /* shared: two who ask do not take each other for the owner */
    return status != 0;
}

/* Appears under its name only when it is locked. */
static bool announce_once(Owner *o) {
    char folder[PATH_CAP], path[PATH_CAP], beside[PATH_CAP];
    unsigned char random[8];
    int source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    bool good = source >= 0 && read(source, random, sizeof random) == (ssize_t)sizeof random;
    if (source >= 0)
        close(source);
    if (!good || !folder_of(o->base, true, folder))
        return false;
    uint64_t bits;
    memcpy(&bits, random, sizeof bits);
    snprintf(o->name, sizeof o->name, "owner.%ld.%016llx", (long)getpid(), (unsigned long long)bits);
    if (!join(path, folder, o->name, "") || !join(beside, folder, o->name, ".new"))
        return false;
    o->fd = open(beside, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (o->fd < 0)
        return false;
    if (flock(o->fd, LOCK_EX | LOCK_NB) == 0 && rename(beside, path) == 0)
        return true;
    int why = errno;
    unlink(beside);
    close(o->fd);
    o->fd = -1;
    errno = why;
    return false;
}

/* A reaper may take the file for one of the dead before it is locked: then once more. */
static bool announce(Owner *o) {
    bool good = false;
    for (int tries = 0; tries < 8 && !good; tries++)
        good = announce_once(o);
    return good;
}

/* This process in a base; what the dead left there is removed the first time. NULL and errno. */
static const Owner *owner_of(const char *base) {
    struct stat st;
    bool fresh = false;
    pthread_mutex_lock(&g_lock);
    Owner *o = g_owners;
    while (o && (o->pid != getpid() || strcmp(o->base, base) != 0 || fstat(o->fd, &st) != 0 || st.st_nlink == 0))
        o = o->next;
    if (!o && (o = calloc(1, sizeof *o))) {
        o->pid = getpid();
        o->base = strdup(base);
        fresh = o->base && announce(o);
        if (fresh) {
            o->next = g_owners;
            g_owners = o;
        } else {
            free(o->base);
            free(o);
            o = NULL;
        }
    }
    pthread_mutex_unlock(&g_lock);
    int why = errno;
    if (fresh)
        ane_lease_reap(base);
    errno = why;
    return o;
}

/* At a normal end nothing of this process stays behind, and the folder goes with its last user. */
__attribute__((destructor)) static void leave(void) {
    char folder[PATH_CAP], path[PATH_CAP];
    for (const Owner *o = g_owners; o; o = o->next)
        if (o->pid == getpid() && folder_of(o->base, false, folder) && join(path, folder, o->name, "")) {
            unlink(path); /* dead from here on */
            ane_lease_reap(o->base);
        }
}

/* ============================== Records =================================== */

static void format_record(char out[RECORD + 1], const char *owner, uint64_t number) {
    snprintf(out, RECORD + 1, "%-41s %-21llu\n", owner, (unsigned long long)number);
}

/* Look at all records of a locked file; those of the dead are blanked. Returns the living;
 * *mine: where `record` (or NULL) stands, *blank: where one may be written. */
static int look(int fd, const char *folder, const char *record, off_t *mine, off_t *blank) {
    char at[RECORD + 1], name[RECORD + 1], none[RECORD];
    int living = 0;
    memset(none, ' ', sizeof none);
    none[RECORD - 1] = '\n';
    *mine = *blank = -1;
    off_t end = 0;
    for (int i = 0; i < MOST_RECORDS; i++) {
        off_t here = (off_t)i * RECORD;
        if (pread(fd, at, RECORD, here) != RECORD)
            break;
        at[RECORD] = 0;
        end = here + RECORD;
        if (record && memcmp(at, record, RECORD) == 0)
            *mine = here;
        size_t n = strcspn(at, " \n");
        memcpy(name, at, n);
        name[n] = 0;
        if (n && !strchr(name, '/') && is_alive(folder, name)) {
            living++;
            continue;
        }
        if (*blank < 0)
            *blank = here;
        if (n && pwrite(fd, none, RECORD, here) != RECORD)
            living++; /* cannot be removed: then it counts */
    }
    if (*blank < 0)
        *blank = end;
    return living;
}

static void trees(const char *directory, bool and_itself) {
    char kept[PATH_CAP];
    if (and_itself)
        ane_remove_tree(directory);
    if (snprintf(kept, sizeof kept, "%s.kept", directory) < (int)sizeof kept)
        ane_remove_tree(kept);
}

/* Nobody living holds it: all of it goes. Ends the lock. */
static void vanish(int fd, const char *folder, const char *directory) {
    char path[PATH_CAP];
    const char *identity = strrchr(directory, '/') + 1;
    trees(directory, true);
    if (join(path, folder, identity, ".work"))
        unlink(path);
    if (join(path, folder, identity, ".lease"))
        unlink(path);
    ane_lease_unlock(fd);
}

int ane_lease_lock(const char *directory, int *others) {
    char base[PATH_CAP], folder[PATH_CAP];
    const char *identity;
    off_t mine, blank;
    if (others_own(directory, others))
        return -1;
    *others = 1;
    int fd = open_locked(directory, ".lease", true, LOCK_MS, NULL, NULL);
    if (fd < 0)
        return -1;
    if (!split(directory, base, &identity) || !folder_of(base, false, folder)) {
        ane_lease_unlock(fd);
        return -1;
    }
    int living = look(fd, folder, NULL, &mine, &blank);
    *others = living > 0 ? living - 1 : 0;
    return fd;
}

int ane_lease_others(const char *directory) {
    int others;
    ane_lease_unlock(ane_lease_lock(directory, &others));
    return others;
}

/* ============================== Holds ===================================== */

int ane_lease_take(const char *directory, AneLease **out, AneError *err) {
    char base[PATH_CAP], folder[PATH_CAP], record[RECORD + 1];
    const char *identity = NULL;
    off_t mine, blank;
    AneLease *l = calloc(1, sizeof *l);
    int own = l && (l->directory = strdup(directory)) ? take_own(directory) : ANE_E_MEMORY;
    if (own == ANE_E_MEMORY) {
        if (l)
            free(l->directory);
        free(l);
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a staging directory");
    }
    if (own == ANE_OK) {
        l->refs = 1;
        *out = l;
        return ANE_OK;
    }
    const Owner *o = split(directory, base, &identity) ? owner_of(base) : NULL;
    int fd = o ? open_locked(directory, ".lease", true, LOCK_MS, NULL, NULL) : -1;
    if (fd >= 0 && folder_of(base, false, folder)) {
        l->refs = 1;
        l->owner = o;
        l->number = __atomic_add_fetch(&g_number, 1, __ATOMIC_RELAXED);
        format_record(record, o->name, l->number);
        int living = look(fd, folder, NULL, &mine, &blank);
        if (living == 0)
            trees(directory, true); /* of the dead, or of a build without leases: an empty start */
        else
            ane_lease_restore(directory); /* one was killed amid an unload */
        errno = EMFILE;
        if (blank < (off_t)MOST_RECORDS * RECORD && pwrite(fd, record, RECORD, blank) == RECORD) {
            ane_lease_unlock(fd);
            *out = l;
            return ANE_OK;
        }
    }
    int status = ane_error_set(err, ANE_E_IO, "cannot note the use of staging directory %s: %s", directory, strerror(errno));
    ane_lease_unlock(fd);
    free(l->directory);
    free(l);
    return status;
}

void ane_lease_retain(AneLease *l) { __atomic_add_fetch(&l->refs, 1, __ATOMIC_RELAXED); }

static void give_back(const AneLease *l) {
    char base[PATH_CAP], folder[PATH_CAP], record[RECORD + 1], none[RECORD];
    const char *identity;
    off_t mine, blank;
    if (l->owner->pid != getpid() || !split(l->directory, base, &identity))
        return;
    int fd = open_locked(l->directory, ".lease", false, LOCK_MS, NULL, NULL);
    if (fd < 0 || !folder_of(base, false, folder)) {
        ane_lease_unlock(fd); /* the base has gone, and all with it */
        return;
    }
    format_record(record, l->owner->name, l->number);
    int living = look(fd, folder, record, &mine, &blank);
    memset(none, ' ', sizeof none);
    none[RECORD - 1] = '\n';
    if (mine >= 0 && pwrite(fd, none, RECORD, mine) == RECORD)
        living--;
    if (living == 0)
        vanish(fd, folder, l->directory);
    else
        ane_lease_unlock(fd);
}

void ane_lease_release(AneLease *l) {
    if (!l || __atomic_sub_fetch(&l->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (l->owner)
        give_back(l);
    else
        give_back_own(l->directory);
    free(l->directory);
    free(l);
}

/* ============================== Work ====================================== */

int ane_lease_work(const char *directory, int32_t ms, bool (*stop)(void *), void *context, int *out, AneError *err) {
    char who[32] = "";
    *out = -1;
    if (is_own(directory))
        return ANE_OK;
    int fd = open_locked(directory, ".work", true, ms, stop, context);
    *out = fd;
    if (fd >= 0) {
        ane_lease_restore(directory); /* somebody was killed amid an unload */
        int n = snprintf(who, sizeof who, "%-20ld\n", (long)getpid());
        if (pwrite(fd, who, (size_t)n, 0) != n)
            return ANE_OK; /* only its name is not known */
        return ANE_OK;
    }
    if (errno == ECANCELED)
        return ane_error_set(err, ANE_E_CLOSED, "the trainer was closed");
    int why = errno;
    char base[PATH_CAP], folder[PATH_CAP], path[PATH_CAP];
    const char *identity;
    if (why == EWOULDBLOCK && split(directory, base, &identity) && folder_of(base, false, folder) &&
        join(path, folder, identity, ".work")) {
        int other = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        ssize_t n = other >= 0 ? read(other, who, sizeof who - 1) : 0;
        if (other >= 0)
            close(other);
        who[n > 0 ? n : 0] = 0;
        who[strcspn(who, " \n")] = 0;
        return ane_error_set(err, ANE_E_IO, "process %s has been at work in staging directory %s for more than %d ms",
                             who[0] ? who : "?", directory, ms);
    }
    return ane_error_set(err, ANE_E_IO, "cannot lock staging directory %s: %s", directory, strerror(why));
}

/* ============================== Shelter =================================== */

/* Hard links of all files below `from` in a new directory `to`. */
static bool mirror(const char *from, const char *to, int depth) {
    struct stat st;
    DIR *dir = depth < 16 && mkdir(to, 0700) == 0 ? opendir(from) : NULL;
    bool good = dir != NULL;
    for (struct dirent *e; good && (e = readdir(dir));) {
        char a[PATH_CAP], b[PATH_CAP];
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        good = join(a, from, e->d_name, "") && join(b, to, e->d_name, "") && lstat(a, &st) == 0 &&
               (S_ISDIR(st.st_mode) ? mirror(a, b, depth + 1) : linkat(AT_FDCWD, a, AT_FDCWD, b, 0) == 0);
    }
    if (dir)
        closedir(dir);
    return good;
}

bool ane_lease_shelter(const char *directory) {
    char kept[PATH_CAP];
    if (snprintf(kept, sizeof kept, "%s.kept", directory) >= (int)sizeof kept || access(directory, F_OK) != 0)
        return false;
    ane_remove_tree(kept);
    if (mirror(directory, kept, 0))
        return true;
    ane_remove_tree(kept); /* a file system without hard links: away for the time of the unload */
    return rename(directory, kept) == 0;
}

void ane_lease_restore(const char *directory) {
    char kept[PATH_CAP];
    if (snprintf(kept, sizeof kept, "%s.kept", directory) >= (int)sizeof kept || access(kept, F_OK) != 0)
        return;
    if (access(directory, F_OK) == 0 || rename(kept, directory) != 0)
        ane_remove_tree(kept);
}

/* ============================== The dead ================================== */

void ane_lease_sweep(const char *directory) {
    char base[PATH_CAP], folder[PATH_CAP];
    const char *identity;
    off_t mine, blank;
    /* made where it is not: another reaper was here, and what was written since then goes too */
    int fd = open_locked(directory, ".lease", true, REAP_MS, NULL, NULL);
    if (fd < 0)
        return;
    if (split(directory, base, &identity) && folder_of(base, false, folder) && look(fd, folder, NULL, &mine, &blank) == 0)
        vanish(fd, folder, directory);
    else
        ane_lease_unlock(fd);
}

void ane_lease_reap(const char *base) {
    char folder[PATH_CAP], path[PATH_CAP];
    DIR *dir = folder_of(base, false, folder) ? opendir(folder) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char name[NAME_MAX + 1];
        snprintf(name, sizeof name, "%s", e->d_name);
        char *dot = strrchr(name, '.');
        if (strncmp(name, "owner.", 6) == 0) {
            if (!is_alive(folder, name) && join(path, folder, name, ""))
                unlink(path); /* without a file it is as dead as before */
        } else if (dot && (strcmp(dot, ".lease") == 0 || strcmp(dot, ".work") == 0)) {
            *dot = 0;
            if (join(path, base, name, ""))
                ane_lease_sweep(path);
        }
    }
    if (dir)
        closedir(dir);
    if (dir)
        rmdir(folder); /* nobody uses it any more */
}
