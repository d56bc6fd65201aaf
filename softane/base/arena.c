// SPDX-License-Identifier: MIT
/* arena.c - the allocator hook, and arenas on top of it.
 *
 * Every allocation of softane's C parts comes through sa_malloc, so that one
 * failpoint ("arena.alloc") can make each of them fail in turn. An arena
 * allocation passes the failpoint too, although it seldom needs the system.
 * Not a general allocator: nothing can be given back to an arena singly. */
#include "base.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__) || defined(__APPLE__)
#include <sys/mman.h>
#endif

/* ============================== Blocks ==================================== */

enum { BLOCK_ALIGN = 64, ARENA_ALIGN = 16 };

/* From here on a block is mapped and unmapped by itself. A program's weights come and go
 * with every generation; in malloc's heap what outlives them keeps their memory resident
 * (600 MB after a Stories110M-shaped set was unloaded). */
#if defined(__SANITIZE_ADDRESS__) || (defined(__has_feature) && __has_feature(address_sanitizer))
static const size_t MAPPED_MIN = SIZE_MAX; /* the sanitizer watches malloc's blocks only */
#else
static const size_t MAPPED_MIN = (size_t)1 << 20;
#endif

/* Below a block, at its end: how to give it back. */
typedef struct {
    void *raw;
    size_t mapped; /* bytes; 0: of malloc */
} BlockHead;

/* Weights and workspaces: one fault and one TLB entry per 2 MB instead of 512.
 * A wish, not a need: where the system has no such pages nothing changes. */
static void prefer_huge_pages(char *at, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    enum { HUGE = 2 << 20 };
    size_t skip = (size_t)(-(uintptr_t)at & (uintptr_t)(HUGE - 1));
    if (bytes >= skip + HUGE)
        (void)madvise(at + skip, (bytes - skip) & ~(size_t)(HUGE - 1), MADV_HUGEPAGE);
#else
    (void)at;
    (void)bytes;
#endif
}

/* Mapped blocks that were given back, for the next ones: fresh pages cost a fault and
 * are cleared, more than it takes to fill them. Bounded, the oldest go first; so the
 * memory of a program is still given back, but for the last few. */
enum { KEPT = 16 };
static const size_t KEPT_BYTES = (size_t)32 << 20;
typedef struct {
    void *raw;
    size_t bytes;
} Mapped;
static struct {
    pthread_mutex_t lock;
    Mapped block[KEPT]; /* oldest first */
    int n;
    size_t bytes;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static Mapped kept_remove(int i) {
    Mapped m = kept.block[i];
    kept.n--;
    kept.bytes -= m.bytes;
    memmove(kept.block + i, kept.block + i + 1, (size_t)(kept.n - i) * sizeof m);
    return m;
}

/* A kept block that is not much larger, newest first; or a fresh one, which is zero. */
static Mapped map_block(size_t bytes, bool *fresh) {
    Mapped m = {NULL, bytes};
    *fresh = false;
    bool locked = pthread_mutex_trylock(&kept.lock) == 0; /* a forked child may find it taken for good */
    for (int i = locked ? kept.n - 1 : -1; i >= 0 && !m.raw; i--)
        if (kept.block[i].bytes >= bytes && kept.block[i].bytes - bytes <= bytes / 8)
            m = kept_remove(i);
    if (locked)
        pthread_mutex_unlock(&kept.lock);
#if defined(MAP_ANONYMOUS)
    if (!m.raw) {
        void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        m.raw = p == MAP_FAILED ? NULL : p;
        *fresh = true;
    }
#endif
    return m;
}

static void unmap_block(Mapped m) {
    Mapped drop[KEPT + 1];
    int n = 0;
    bool locked = pthread_mutex_trylock(&kept.lock) == 0;
    if (!locked || m.bytes > KEPT_BYTES / 2) {
        drop[n++] = m;
    } else {
        while (kept.n == KEPT || kept.bytes + m.bytes > KEPT_BYTES)
            drop[n++] = kept_remove(0);
        kept.block[kept.n++] = m;
        kept.bytes += m.bytes;
    }
    if (locked)
        pthread_mutex_unlock(&kept.lock);
#if defined(MAP_ANONYMOUS)
    while (n)
        n--, (void)munmap(drop[n].raw, drop[n].bytes);
#endif
}

/* All pages of what will be written from end to end, in one call instead of by faults. */
static void populate(const BlockHead *head) {
#if defined(MADV_POPULATE_WRITE)
    (void)madvise(head->raw, head->mapped, MADV_POPULATE_WRITE);
#else
    (void)head;
#endif
}

static void *block_new(size_t bytes, bool zeroed) {
    if (SA_FAILPOINT("arena.alloc"))
        return NULL;
    size_t total;
    if (!sa_add_ok(bytes, BLOCK_ALIGN + sizeof(BlockHead), &total))
        return NULL;
    bool fresh = true;
    Mapped m = total >= MAPPED_MIN ? map_block(total, &fresh) : (Mapped){NULL, 0};
    BlockHead head = {.raw = m.raw, .mapped = m.raw ? m.bytes : 0};
    if (!head.raw)
        head.raw = zeroed ? calloc(1, total) : malloc(total);
    if (!head.raw)
        return NULL;
    if (fresh) {
        prefer_huge_pages(head.raw, total);
        if (head.mapped && !zeroed)
            populate(&head);
    } else if (zeroed) {
        memset(head.raw, 0, total);
    }
    uintptr_t at = (uintptr_t)head.raw + sizeof head;
    size_t skip = (size_t)(-at & (uintptr_t)(BLOCK_ALIGN - 1));
    char *block = (char *)head.raw + sizeof head + skip;
    memcpy(block - sizeof head, &head, sizeof head);
    return block;
}

/* Zeroed bytes, 64-aligned; the caller frees them with sa_free. NULL when
 * memory is short or the failpoint says so. Any thread.
 * calloc is used instead of aligned_alloc + memset: fresh pages are zero
 * already and are not touched before use. */
void *sa_malloc(size_t bytes) { return block_new(bytes, true); }

/* Free a block of sa_malloc; NULL is fine. Any thread. */
void sa_free(void *p) {
    if (!p)
        return;
    BlockHead head;
    memcpy(&head, (char *)p - sizeof head, sizeof head);
    if (head.mapped)
        unmap_block((Mapped){head.raw, head.mapped});
    else
        free(head.raw);
}

/* ============================== Arena ===================================== */

/* Chunks are doubled from CHUNK_MIN to CHUNK_MAX bytes, so small programs stay
 * small. An allocation above a quarter of a chunk gets a chunk of its own. */
enum { CHUNK_MIN = 4096, CHUNK_MAX = 1 << 18 };

typedef struct SaChunk SaChunk;
struct SaChunk {
    SaChunk *next;
    size_t pad; /* keeps the payload 16-aligned */
};

struct SaArena {
    SaChunk *chunks;   /* all of them, newest first */
    char *at;          /* free part of the current chunk */
    size_t left;
    size_t chunk_size; /* payload of the next chunk */
    size_t used, limit; /* payload bytes asked for; limit 0 = none */
};

/* A new arena that hands out at most limit_bytes (0 = no limit).
 * NULL on failure. The arena belongs to one thread at a time. */
SaArena *sa_arena_new(size_t limit_bytes) {
    SaArena *a = sa_malloc(sizeof *a);
    if (!a)
        return NULL;
    a->limit = limit_bytes;
    a->chunk_size = CHUNK_MIN;
    return a;
}

/* Link a new chunk with `bytes` of payload; returns the payload or NULL. */
static char *chunk_add(SaArena *a, size_t bytes, bool zeroed) {
    size_t total;
    if (!sa_add_ok(bytes, sizeof(SaChunk), &total))
        return NULL;
    SaChunk *c = block_new(total, zeroed);
    if (!c)
        return NULL;
    c->next = a->chunks;
    a->chunks = c;
    return (char *)(c + 1);
}

static void *arena_take(SaArena *a, size_t bytes, bool zeroed) {
    if (SA_FAILPOINT("arena.alloc"))
        return NULL;
    size_t size, used;
    if (!sa_add_ok(bytes ? bytes : 1, ARENA_ALIGN - 1, &size))
        return NULL;
    size &= ~(size_t)(ARENA_ALIGN - 1);
    if (!sa_add_ok(a->used, size, &used) || (a->limit && used > a->limit))
        return NULL;
    char *p;
    if (size <= a->left) {
        p = a->at;
    } else if (size > a->chunk_size / 4) {
        p = chunk_add(a, size, zeroed); /* the current chunk stays in use */
        if (!p)
            return NULL;
        a->used = used;
        return p;
    } else {
        p = chunk_add(a, a->chunk_size, true);
        if (!p)
            return NULL;
        a->left = a->chunk_size;
        if (a->chunk_size < CHUNK_MAX)
            a->chunk_size *= 2;
    }
    a->at = p + size;
    a->left -= size;
    a->used = used;
    return p;
}

/* Zeroed, 16-aligned bytes that live as long as the arena. 0 bytes give a
 * valid pointer. NULL when memory is short or the limit is reached; the arena
 * stays usable. */
void *sa_arena_alloc(SaArena *a, size_t bytes) { return arena_take(a, bytes, true); }

/* The same, not zeroed: for what is written from end to end at once, as weights are. */
void *sa_arena_alloc_raw(SaArena *a, size_t bytes) { return arena_take(a, bytes, false); }

/* A terminated copy of n bytes of s. NULL on failure. */
char *sa_arena_strndup(SaArena *a, const char *s, size_t n) {
    size_t size;
    if (!sa_add_ok(n, 1, &size))
        return NULL;
    char *p = sa_arena_alloc(a, size);
    if (p && n)
        memcpy(p, s, n);
    return p;
}

/* Free the arena and all that came from it; NULL is fine. */
void sa_arena_free(SaArena *a) {
    if (!a)
        return;
    for (SaChunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        sa_free(c);
    }
    sa_free(a);
}
