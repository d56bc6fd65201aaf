// SPDX-License-Identifier: MIT
/* table.c - functions of one fp16 value as tables of 65536 results.
 *
 * A value that is declared fp16 has only 65536 bit patterns, and on AVX2 to look
 * up its result takes 3 to 4 ns per 8 elements where to compute and round it takes
 * 6 (sigmoid) to 14 (gelu). A table is filled by the kernel and the rounding that
 * it replaces, so the bits are the same, in every arithmetic.
 *
 * A table is made when so many elements went through a function that it pays,
 * and then stays: 128 KB each, at most SA_TABLES of them in a process, shared by
 * all programs. What finds no place or no memory is computed. Any thread. */
#include <pthread.h>
#include <string.h>

#include "exec.h"

enum { HALVES = 1 << 16, SA_TABLES = 32, WORTH_ELEMENTS = 1 << 18 };

/* Functions that take longer to compute than to look up. */
#define SLOW(X) \
    X(EXP) X(EXP2) X(ERF) X(ATAN) X(SIN) X(COS) X(LOG) X(SIGMOID) X(SILU) X(SOFTPLUS) X(SCALED_TANH) X(ELU) X(GELU) X(GELU_TANH) \
    X(GELU_SIGMOID) X(POW) SA_UNARY_LIBC(X)
#define SLOW_ENTRY(id) [SA_U_##id] = true,
static const bool slow[SA_U_COUNT] = {SLOW(SLOW_ENTRY)};

typedef struct {
    SaTabled of;
    _Atomic size_t seen;              /* elements so far, while there are no values */
    _Atomic(uint16_t *) values;
} Table;

static struct {
    pthread_mutex_t lock;             /* for who appends or fills */
    atomic_int n;                     /* tables below are complete but for their values */
    Table table[SA_TABLES];
    atomic_int use;                   /* SaTablesUse */
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

void sa_tables_choose(SaTablesUse use) {
    int n = atomic_exchange(&all.n, 0);
    for (int i = 0; i < n; i++) {
        sa_free(atomic_load(&all.table[i].values));
        atomic_store(&all.table[i].values, NULL);
        atomic_store(&all.table[i].seen, 0);
    }
    atomic_store(&all.use, (int)use);
}

static bool same(const SaTabled *a, const SaTabled *b) {
    return a->unary == b->unary && a->round == b->round && a->bits == b->bits && memcmp(a->p, b->p, sizeof a->p) == 0;
}

static Table *find(const SaTabled *of) {
    int n = atomic_load_explicit(&all.n, memory_order_acquire);
    for (int i = 0; i < n; i++)
        if (same(&all.table[i].of, of))
            return &all.table[i];
    return NULL;
}

/* Under the lock. */
static Table *append(const SaTabled *of) {
    int n = atomic_load(&all.n);
    Table *t = find(of);
    if (t || n == SA_TABLES)
        return t;
    all.table[n].of = *of;
    atomic_store_explicit(&all.n, n + 1, memory_order_release);
    return &all.table[n];
}

/* The results of all halves; under the lock. */
static void fill(const SaKernels *k, Table *t) {
    enum { BLOCK = 512 };
    uint16_t *values = atomic_load(&t->values) ? NULL : sa_malloc(HALVES * sizeof *values);
    for (size_t at = 0; values && at < HALVES; at += BLOCK) {
        uint16_t half[BLOCK];
        float x[BLOCK];
        for (size_t i = 0; i < BLOCK; i++)
            half[i] = (uint16_t)(at + i);
        k->half_to_float(x, half, BLOCK);
        t->of.unary(x, x, t->of.p, BLOCK);
        if (t->of.bits)
            k->coarse(x, t->of.bits, BLOCK);
        t->of.round(x, x, BLOCK);
        k->half_even(values + at, x, BLOCK); /* exact: they are on the grid */
    }
    if (values)
        atomic_store_explicit(&t->values, values, memory_order_release);
}

const uint16_t *sa_table_of(const SaKernels *k, SaUnary op, const SaTabled *of, size_t count) {
    int use = atomic_load_explicit(&all.use, memory_order_relaxed);
    if (!k->lookup || !slow[op] || !of->round || use == SA_TABLES_NEVER)
        return NULL;
    Table *t = find(of);
    if (!t) {
        pthread_mutex_lock(&all.lock);
        t = append(of);
        pthread_mutex_unlock(&all.lock);
    }
    const uint16_t *values = t ? atomic_load_explicit(&t->values, memory_order_acquire) : NULL;
    if (!t || values)
        return values;
    if (atomic_fetch_add_explicit(&t->seen, count, memory_order_relaxed) + count < WORTH_ELEMENTS && use != SA_TABLES_ALWAYS)
        return NULL;
    pthread_mutex_lock(&all.lock);
    fill(k, t);
    pthread_mutex_unlock(&all.lock);
    return atomic_load_explicit(&t->values, memory_order_acquire);
}
