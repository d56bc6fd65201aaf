// SPDX-License-Identifier: MIT
/* shared.c - the files of the store: programs that one process has compiled
 * and another one loads. Only with store=shared.
 *
 *   <store_dir>/<partition>/<identity>.ane   one container each; names are hashes
 *   <store_dir>/locks/<00…3f>                one lock for each 64th of the names
 *
 * Partition: programs of another one are not seen, as on the real engine,
 * where it is the code-signing identity. Files appear whole (written beside,
 * then renamed); a damaged one counts as absent and is removed. A lock is held
 * for a rename or a removal only, so that nobody removes what has just been
 * written. When all files together exceed store_disk_bytes, those that were
 * used longest ago go.
 *
 * Who can write to the directory can run programs on this engine: it must
 * belong to the user and be closed to others, else it is not used. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../include/softane.h"
#include "device.h"

#define PATH_CAP 4096
#define FILE_MAX_BYTES ((size_t)4 << 30)
#define TEMPORARY_MAX_AGE_S 3600 /* of a writer that cannot be asked whether it lives */

static const SaPos nowhere = {0, 0};

/* ============================== Names ===================================== */

void sa_partition_name(char *buf, size_t cap) {
    SaDevice *d = sa_device();
    pthread_mutex_lock(&d->lock);
    snprintf(buf, cap, "%s", d->text[SA_SET_PARTITION] ? d->text[SA_SET_PARTITION] : "");
    pthread_mutex_unlock(&d->lock);
    if (buf[0])
        return;
    ssize_t n = readlink("/proc/self/exe", buf, cap - 1);
    if (n > 0)
        buf[n] = 0;
    else
        snprintf(buf, cap, "default");
}

/* The first `digits` hex digits of the SHA-256 of a text. */
static void hash_name(const char *text, char *buf, size_t digits) {
    static const char hex[] = "0123456789abcdef";
    SaSha256 h;
    uint8_t sum[32];
    sa_sha256_init(&h);
    sa_sha256_update(&h, text, strlen(text));
    sa_sha256_final(&h, sum);
    for (size_t i = 0; i < digits; i++)
        buf[i] = hex[i % 2 ? sum[i / 2] & 15 : sum[i / 2] >> 4];
    buf[digits] = 0;
}

/* What must be the same for a compiled program to be of use. */
static void machine_name(char *buf, size_t cap) {
    char profile[1024] = "", partition[1024];
    sa_setting_get(sa_device(), "profile", profile, sizeof profile);
    sa_partition_name(partition, sizeof partition);
    snprintf(buf, cap, "softane %s|%s|%s", softane_version(), profile, partition);
}

/* ============================== Directory ================================= */

/* Ours, a directory, and closed to others. */
static bool is_private(const char *path) {
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 077) == 0;
}

static bool make_private(const char *path) { return (mkdir(path, 0700) == 0 || errno == EEXIST) && is_private(path); }

bool sa_shared_directory(char *buf, size_t cap, SaError *err) {
    SaDevice *d = sa_device();
    pthread_mutex_lock(&d->lock);
    snprintf(buf, cap, "%s", d->text[SA_SET_STORE_DIR] ? d->text[SA_SET_STORE_DIR] : "");
    pthread_mutex_unlock(&d->lock);
    if (!buf[0]) {
        const char *run = getenv("XDG_RUNTIME_DIR"), *tmp = getenv("TMPDIR");
        unsigned uid = (unsigned)geteuid();
        if (run && run[0] == '/' && access(run, W_OK) == 0)
            snprintf(buf, cap, "%s/softane", run);
        else if (access("/dev/shm", W_OK) == 0)
            snprintf(buf, cap, "/dev/shm/softane-%u", uid);
        else
            snprintf(buf, cap, "%s/softane-%u", tmp && tmp[0] == '/' ? tmp : "/tmp", uid);
    }
    if (make_private(buf))
        return true;
    sa_error_set(err, SA_E_IO, nowhere, "'%.200s' cannot be made, is not ours or is open to others", buf);
    return false;
}

/* Where an entry lies. */
typedef struct {
    char root[PATH_CAP / 4], folder[PATH_CAP / 2], path[PATH_CAP], lock[PATH_CAP / 2];
    char machine[2200];
} Place;

/* False when the store is not shared or has no directory (logged). */
static bool place_of(const char *identity, Place *p) {
    char partition[1024], hash[65];
    SaError err = {.code = SA_OK};
    if (sa_setting(SA_SET_STORE) != SA_STORE_SHARED)
        return false;
    if (!sa_shared_directory(p->root, sizeof p->root, &err)) {
        sa_log(SA_LOG_ERROR, "shared store: %s", err.text);
        return false;
    }
    machine_name(p->machine, sizeof p->machine);
    sa_partition_name(partition, sizeof partition);
    hash_name(partition, hash, 32);
    int n = snprintf(p->folder, sizeof p->folder, "%s/%s", p->root, hash);
    hash_name(identity, hash, 64);
    int m = snprintf(p->path, sizeof p->path, "%s/%s.ane", p->folder, hash);
    unsigned stripe = (unsigned)strtoul((char[]){hash[0], hash[1], 0}, NULL, 16) & 63;
    int k = snprintf(p->lock, sizeof p->lock, "%s/locks/%02x", p->root, stripe);
    return n > 0 && (size_t)n < sizeof p->folder && m > 0 && (size_t)m < sizeof p->path && k > 0 &&
           (size_t)k < sizeof p->lock;
}

/* ============================== Locks ===================================== */

/* Exclusive between processes and threads. -1 on failure; unlock() ends it. */
static int lock_file(const Place *p, const char *path) {
    char folder[PATH_CAP];
    snprintf(folder, sizeof folder, "%s/locks", p->root);
    int fd = make_private(folder) ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
    while (fd >= 0 && flock(fd, LOCK_EX) != 0)
        if (errno != EINTR) {
            close(fd);
            return -1;
        }
    return fd;
}

/* By name: a child forked meanwhile has a copy of the descriptor, and would keep the lock. */
static void unlock(int fd) {
    flock(fd, LOCK_UN);
    close(fd);
}

static int lock_entry(const Place *p) { return lock_file(p, p->lock); }

/* ============================== Eviction ================================== */

typedef struct {
    char path[PATH_CAP];
    off_t bytes;
    struct timespec used;
} Found;

typedef struct {
    Found *found;
    size_t n, cap;
    uint64_t bytes;
} Census;

/* A temporary file ".<pid>.XXXXXX": is its writer gone? */
static bool is_stale(const char *name, const struct stat *st) {
    long pid = strtol(name + 1, NULL, 10);
    bool dead = pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
    return dead || time(NULL) - st->st_mtime > TEMPORARY_MAX_AGE_S;
}

static void count_file(Census *c, int dir, const char *folder, const char *name) {
    struct stat st;
    size_t n = strlen(name);
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
        return;
    if (name[0] == '.') {
        if (is_stale(name, &st))
            unlinkat(dir, name, 0);
        return;
    }
    if (n < 4 || strcmp(name + n - 4, ".ane") != 0)
        return;
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 64;
        Found *more = realloc(c->found, cap * sizeof *more);
        if (!more)
            return; /* evicts less this time */
        c->found = more;
        c->cap = cap;
    }
    Found *f = &c->found[c->n];
    if (snprintf(f->path, sizeof f->path, "%s/%s", folder, name) >= (int)sizeof f->path)
        return;
    f->bytes = st.st_size;
    f->used = st.st_mtim;
    c->bytes += (uint64_t)st.st_size;
    c->n++;
}

static void count_folder(Census *c, const char *folder) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        count_file(c, dirfd(dir), folder, e->d_name);
    if (dir)
        closedir(dir);
}

/* All partitions: their names have 32 digits. */
static void count_root(Census *c, const char *root) {
    char folder[PATH_CAP];
    DIR *dir = opendir(root);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strlen(e->d_name) == 32 && snprintf(folder, sizeof folder, "%s/%s", root, e->d_name) < (int)sizeof folder)
            count_folder(c, folder);
    if (dir)
        closedir(dir);
}

static int by_age(const void *a, const void *b) {
    const Found *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

/* Until all fits into store_disk_bytes; `fresh` stays. One process at a time. */
static void evict(const Place *fresh) {
    uint64_t limit = sa_setting(SA_SET_STORE_DISK_BYTES);
    char path[PATH_CAP];
    snprintf(path, sizeof path, "%s/locks/evict", fresh->root);
    int lock = limit ? lock_file(fresh, path) : -1;
    if (lock < 0)
        return;
    Census c = {0};
    count_root(&c, fresh->root);
    if (c.n)
        qsort(c.found, c.n, sizeof *c.found, by_age);
    for (size_t i = 0; i < c.n && c.bytes > limit; i++) {
        if (strcmp(c.found[i].path, fresh->path) == 0 || unlink(c.found[i].path) != 0)
            continue;
        c.bytes -= (uint64_t)c.found[i].bytes;
        sa_device()->shared_evicted++;
    }
    free(c.found);
    unlock(lock);
}

/* ============================== Put ======================================= */

static bool to_file(void *to, const void *bytes, size_t count) {
    int fd = *(int *)to;
    const char *p = bytes;
    while (count > 0) {
        ssize_t n = write(fd, p, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        count -= (size_t)n;
    }
    return true;
}

void sa_shared_put(const SaEntry *e, const char *text, size_t bytes, const SaProgram *program) {
    Place p;
    char beside[PATH_CAP];
    uint64_t limit = sa_setting(SA_SET_STORE_DISK_BYTES);
    if (!place_of(e->identity, &p) || (limit && e->weight_bytes > limit))
        return;
    int fd = -1;
    bool good = SA_FAILPOINT("shared.put") == 0 && make_private(p.folder) &&
                snprintf(beside, sizeof beside, "%s/.%ld.XXXXXX", p.folder, (long)getpid()) < (int)sizeof beside &&
                (fd = mkostemp(beside, O_CLOEXEC)) >= 0;
    good = good && sa_container_write(e, p.machine, text, bytes, program, to_file, &fd);
    if (fd >= 0)
        good = close(fd) == 0 && good;
    good = good && SA_FAILPOINT("shared.rename") == 0;
    int lock = good ? lock_entry(&p) : -1;
    good = lock >= 0 && rename(beside, p.path) == 0;
    if (lock >= 0)
        unlock(lock);
    if (!good) {
        sa_log(SA_LOG_ERROR, "shared store: '%.200s' cannot be written, errno %d", p.path, errno);
        if (fd >= 0)
            unlink(beside);
        return;
    }
    sa_device()->shared_writes++;
    evict(&p);
}

/* ============================== Get ======================================= */

/* Remove a damaged file, unless a new one has taken its place. */
static void drop_damaged(const Place *p, const struct stat *seen, const char *why) {
    int lock = lock_entry(p);
    struct stat now;
    bool same = lstat(p->path, &now) == 0 && now.st_ino == seen->st_ino && now.st_dev == seen->st_dev;
    if (lock >= 0 && same)
        unlink(p->path);
    if (lock >= 0)
        unlock(lock);
    sa_device()->shared_damaged++;
    sa_log(SA_LOG_ERROR, "shared store: '%.200s' is damaged and was removed: %s", p->path, why);
}

SaEntry *sa_shared_get(const char *identity) {
    Place p;
    char *file;
    size_t bytes;
    struct stat seen;
    SaEntry *e = NULL;
    SaError err = {.code = SA_OK};
    if (!place_of(identity, &p) || SA_FAILPOINT("shared.get") || lstat(p.path, &seen) != 0 || !S_ISREG(seen.st_mode))
        return NULL;
    SaStatus st = sa_file_read(p.path, FILE_MAX_BYTES, &file, &bytes, &err);
    if (st == SA_OK) {
        st = sa_container_read((const uint8_t *)file, bytes, identity, p.machine, &e, &err);
        sa_free(file);
    }
    if (st == SA_OK) {
        utimensat(AT_FDCWD, p.path, NULL, 0); /* used now */
        sa_device()->shared_hits++;
    } else if (st != SA_E_MEMORY && st != SA_E_STATE && st != SA_E_IO) {
        drop_damaged(&p, &seen, err.text);
    }
    return e;
}

/* Looks at the header only: what is behind it is judged by a load. */
bool sa_shared_has(const char *identity) {
    Place p;
    uint8_t head[SA_CONTAINER_HEAD];
    struct stat st;
    if (!place_of(identity, &p) || SA_FAILPOINT("shared.get"))
        return false;
    int fd = open(p.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, head, sizeof head);
    bool known = n > 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
                 sa_container_names(head, (size_t)n, (uint64_t)st.st_size, identity, p.machine);
    close(fd);
    return known;
}

void sa_shared_purge(const char *identity) {
    Place p;
    if (!place_of(identity, &p))
        return;
    int lock = lock_entry(&p);
    unlink(p.path);
    if (lock >= 0)
        unlock(lock);
}
