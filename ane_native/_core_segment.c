// SPDX-License-Identifier: MIT
/* _core_segment.c - a program's sources in memory that another process can map.
 *
 * On Linux a memfd, elsewhere a shm_open() whose name is taken back at once: when
 * the last process that maps it ends, however it ends, the memory is gone.
 * What is read back is not trusted: a worker maps what a descriptor gives it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "_core_pool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ============================== Life ====================================== */

/* A new descriptor without a name; -1 and errno. */
static int nameless(void) {
#ifdef __linux__
    return memfd_create("ane_native", MFD_CLOEXEC);
#else
    static int serial; /* atomic */
    char name[32];
    snprintf(name, sizeof name, "/ane.%ld.%d", (long)getpid(), __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED));
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); /* close-on-exec by definition */
    if (fd >= 0)
        shm_unlink(name);
    return fd;
#endif
}

static int map(int fd, size_t bytes, bool write, AneSegment **out, AneError *err) {
    AneSegment *s = calloc(1, sizeof *s);
    if (!s) {
        close(fd);
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a segment");
    }
    void *base = mmap(NULL, bytes, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        int why = errno;
        close(fd);
        free(s);
        return ane_error_set(err, ANE_E_MEMORY, "cannot map %zu bytes of shared memory: %s", bytes, strerror(why));
    }
    s->refs = 1;
    s->fd = fd;
    s->bytes = bytes;
    s->base = base;
    *out = s;
    return ANE_OK;
}

int ane_segment_make(size_t bytes, AneSegment **out, AneError *err) {
    int fd = nameless();
    if (fd < 0)
        return ane_error_set(err, ANE_E_MEMORY, "cannot make shared memory: %s", strerror(errno));
    int status;
    while ((status = ftruncate(fd, (off_t)bytes)) != 0 && errno == EINTR) {
    }
    if (status != 0) {
        int why = errno;
        close(fd);
        return ane_error_set(err, ANE_E_MEMORY, "cannot make %zu bytes of shared memory: %s", bytes, strerror(why));
    }
    return map(fd, bytes, true, out, err);
}

int ane_segment_open(int fd, size_t bytes, AneSegment **out, AneError *err) {
    struct stat st;
    if (bytes < sizeof(AneSegmentHead) || fstat(fd, &st) != 0 || st.st_size < 0 || (uint64_t)st.st_size < bytes) {
        close(fd);
        return ane_error_set(err, ANE_E_ARG, "a segment of %zu bytes was announced, a smaller one came", bytes);
    }
    int status = map(fd, bytes, false, out, err);
    if (status == ANE_OK)
        ane_segment_seal(*out);
    return status;
}

void ane_segment_retain(AneSegment *s) { __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED); }

void ane_segment_seal(AneSegment *s) {
    int fd = s->fd;
    s->fd = -1;
    if (fd >= 0)
        close(fd);
}

void ane_segment_release(AneSegment *s) {
    if (!s || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    ane_segment_seal(s);
    munmap(s->base, s->bytes);
    free(s);
}

/* ============================== Content =================================== */

static size_t align(size_t n) { return (n + ANE_SEGMENT_ALIGN - 1) & ~(size_t)(ANE_SEGMENT_ALIGN - 1); }

int ane_segment_layout(const char *text, size_t text_bytes, const char *const *paths, const size_t *bytes, uint32_t n_files,
                       AneSegment **out, AneError *err) {
    size_t text_at = align(sizeof(AneSegmentHead) + n_files * sizeof(AneSegmentFile));
    size_t total = align(text_at + text_bytes);
    for (uint32_t i = 0; i < n_files; i++) {
        if (strlen(paths[i]) >= ANE_SEGMENT_PATH)
            return ane_error_set(err, ANE_E_ARG, "weight file '%s': path of more than %u bytes", paths[i], ANE_SEGMENT_PATH - 1);
        total = align(total + bytes[i]);
    }
    int status = ane_segment_make(total, out, err);
    if (status != ANE_OK)
        return status;
    AneSegmentHead *head = (AneSegmentHead *)(void *)(*out)->base;
    head->magic = ANE_SEGMENT_MAGIC;
    head->n_files = n_files;
    head->text_at = text_at;
    head->text_bytes = text_bytes;
    memcpy((*out)->base + text_at, text, text_bytes);
    size_t at = align(text_at + text_bytes);
    for (uint32_t i = 0; i < n_files; i++) {
        snprintf(head->files[i].path, ANE_SEGMENT_PATH, "%s", paths[i]);
        head->files[i].at = at;
        head->files[i].bytes = bytes[i];
        at = align(at + bytes[i]);
    }
    return ANE_OK;
}

const AneSegmentHead *ane_segment_head(const AneSegment *s) {
    const AneSegmentHead *head = (const AneSegmentHead *)(const void *)s->base;
    uint64_t n = s->bytes;
    if (n < sizeof *head || head->magic != ANE_SEGMENT_MAGIC ||
        head->n_files > (n - sizeof *head) / sizeof(AneSegmentFile) || head->text_at > n || head->text_bytes > n - head->text_at)
        return NULL;
    for (uint32_t i = 0; i < head->n_files; i++) {
        const AneSegmentFile *f = &head->files[i];
        if (f->at > n || f->bytes > n - f->at || !memchr(f->path, 0, sizeof f->path) || !ane_blob_path_ok(f->path))
            return NULL;
    }
    return head;
}

/* ============================== Trees ===================================== */

static void remove_at(int parent, const char *name, int depth) {
    if (unlinkat(parent, name, 0) == 0 || depth > 16)
        return;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir && fd >= 0)
        close(fd);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            remove_at(dirfd(dir), e->d_name, depth + 1);
    if (dir)
        closedir(dir);
    unlinkat(parent, name, AT_REMOVEDIR);
}

void ane_remove_tree(const char *path) { remove_at(AT_FDCWD, path, 0); }
