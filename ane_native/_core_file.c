// SPDX-License-Identifier: MIT
/* _core_file.c - memory of baked weight files.
 *
 * They come by the hundred with every generation and go once their programs are
 * loaded. Out of malloc's heap that memory would stay resident between whatever
 * small blocks were made in the meantime (measured: 340 MB a generation of a
 * Stories110M-shaped set), so large ones are mapped and unmapped by themselves. The
 * last few are kept for the next files: fresh pages cost a fault each and are cleared,
 * which takes longer than to bake into them. */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "_core_internal.h"

enum { MAPPED_MIN = 1 << 18, HEAD = 64 /* before the file: how it was made */, KEPT = 16 };
static const size_t KEPT_BYTES = (size_t)16 << 20;

typedef struct {
    void *at;
    size_t bytes;
} Mapped;

static struct {
    pthread_mutex_t lock;
    Mapped file[KEPT]; /* oldest first */
    int n;
    size_t bytes;
} g_kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Mapped kept_remove(int i) {
    Mapped m = g_kept.file[i];
    g_kept.n--;
    g_kept.bytes -= m.bytes;
    memmove(g_kept.file + i, g_kept.file + i + 1, (size_t)(g_kept.n - i) * sizeof m);
    return m;
}

/* Files of a size come again and again: a kept mapping of just that size, or a new one. */
static void *map_file(size_t total) {
    void *p = NULL;
    bool locked = pthread_mutex_trylock(&g_kept.lock) == 0; /* a forked child may find it taken for good */
    for (int i = locked ? g_kept.n - 1 : -1; i >= 0 && !p; i--)
        if (g_kept.file[i].bytes == total)
            p = kept_remove(i).at;
    if (locked)
        pthread_mutex_unlock(&g_kept.lock);
    if (p)
        return p;
    p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void unmap_file(void *at, size_t total) {
    Mapped drop[KEPT + 1];
    int n = 0;
    bool locked = pthread_mutex_trylock(&g_kept.lock) == 0;
    if (!locked || total > KEPT_BYTES / 2) {
        drop[n++] = (Mapped){at, total};
    } else {
        while (g_kept.n == KEPT || g_kept.bytes + total > KEPT_BYTES)
            drop[n++] = kept_remove(0);
        g_kept.file[g_kept.n++] = (Mapped){at, total};
        g_kept.bytes += total;
    }
    if (locked)
        pthread_mutex_unlock(&g_kept.lock);
    while (n--)
        (void)munmap(drop[n].at, drop[n].bytes);
}

void *ane_file_alloc(size_t bytes) {
    size_t total = bytes + HEAD, mapped = total;
    if (total < bytes)
        return NULL;
    void *p = total >= MAPPED_MIN ? map_file(total) : NULL;
    if (!p) {
        mapped = 0;
        if (!(p = malloc(total)))
            return NULL;
    }
    memcpy(p, &mapped, sizeof mapped);
    return (uint8_t *)p + HEAD;
}

void ane_file_free(void *file) {
    if (!file)
        return;
    void *p = (uint8_t *)file - HEAD;
    size_t mapped;
    memcpy(&mapped, p, sizeof mapped);
    if (mapped)
        unmap_file(p, mapped);
    else
        free(p);
}
