// SPDX-License-Identifier: MIT
/* container.c - a compiled program as the bytes of a file, and back.
 *
 * The file holds what a program is made from, not the plan: its text and the
 * bytes of its weights, taken out of their files. Reading one is parsing,
 * checking and planning again, which is a load and no compile.
 *
 *   +0   "softane\0"   +8 u32 version = 1   +12 u32 number of weights
 *   +16  u64 bytes of the file   +24 u32 machine   +28 u32 identity
 *   +32  u64 text bytes   +40 zero up to 64
 *   +64  machine, identity, text, one after the other
 *   then, each at the next multiple of 64:
 *        u64 at, u64 bytes of every BLOBFILE constant in the order of the text
 *        the weights, equal ones once
 *   end  SHA-256 of all that comes before
 *
 * Little endian. `machine` names the build, the profile and the partition: a
 * file of another one is not damaged but does not count. Nothing that was read
 * is trusted; a wrong byte anywhere makes the checksum fail, and a right
 * checksum over wrong contents leads to refusals of the parser. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

enum { HEAD_BYTES = 64, ROW_BYTES = 16, SUM_BYTES = 32, VERSION = 1, ALIGN = 64 };
static const uint8_t magic[8] = "softane";
static const SaPos nowhere = {0, 0};

/* ============================== Numbers =================================== */

static void store32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}
static void store64(uint8_t *p, uint64_t v) {
    store32(p, (uint32_t)v);
    store32(p + 4, (uint32_t)(v >> 32));
}
static uint32_t load32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t load64(const uint8_t *p) { return load32(p) | (uint64_t)load32(p + 4) << 32; }

static uint64_t aligned(uint64_t n) { return (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1); }

/* ============================== Weights of a program ====================== */

/* The next BLOBFILE constant at or after (*f, *o), or NULL. */
static SaConst *next_weight(const SaProgram *p, int *f, int *o) {
    for (; *f < p->n_functions; ++*f, *o = 0)
        while (*o < p->functions[*f].n_ops) {
            const SaOp *op = &p->functions[*f].ops[(*o)++];
            const SaConst *c = op->id == SA_OP_CONST && op->n_results > 0 ? op->results[0]->constant : NULL;
            if (c && c->blob_path)
                return (SaConst *)(uintptr_t)c; /* the program's owner is our caller */
        }
    return NULL;
}

static uint32_t count_weights(const SaProgram *p) {
    uint32_t n = 0;
    for (int f = 0, o = 0; next_weight(p, &f, &o);)
        n++;
    return n;
}

/* ============================== Writing =================================== */

/* One weight on its way into a file. */
typedef struct {
    const SaConst *c;
    uint64_t at;
    uint32_t index; /* in the order of the text */
} Row;

static int by_data(const void *a, const void *b) {
    const Row *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->c->data, q = (uintptr_t)y->c->data;
    if (p != q)
        return p < q ? -1 : 1;
    return x->c->bytes != y->c->bytes ? (x->c->bytes < y->c->bytes ? -1 : 1)
                                      : (x->index < y->index ? -1 : x->index > y->index);
}
static int by_index(const void *a, const void *b) {
    const Row *x = a, *y = b;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* The sink, the hash and where we are. */
typedef struct {
    SaSink sink;
    void *to;
    SaSha256 sum;
    uint64_t at;
    bool good;
} Out;

static void put(Out *o, const void *bytes, size_t count) {
    if (!o->good || count == 0)
        return;
    sa_sha256_update(&o->sum, bytes, count);
    o->good = o->sink(o->to, bytes, count);
    o->at += count;
}

static void pad(Out *o) {
    static const uint8_t zeros[ALIGN];
    put(o, zeros, (size_t)(aligned(o->at) - o->at));
}

static void put_rows(Out *o, const Row *rows, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint8_t row[ROW_BYTES];
        store64(row, rows[i].at);
        store64(row + 8, rows[i].c->bytes);
        put(o, row, sizeof row);
    }
    pad(o);
    uint64_t next = o->at;
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].at == next) { /* later rows of the same bytes point backwards */
            put(o, rows[i].c->data, rows[i].c->bytes);
            pad(o);
            next = o->at;
        }
}

/* Places in the file: the first row of some bytes, in text order, has them. */
static uint64_t place(Row *rows, uint32_t n, uint64_t at) {
    qsort(rows, n, sizeof *rows, by_data);
    for (uint32_t i = 0, first = 0; i < n; i++) {
        if (rows[i].c->data != rows[first].c->data || rows[i].c->bytes != rows[first].c->bytes)
            first = i;
        rows[i].at = rows[first].index; /* for now: who has them */
    }
    qsort(rows, n, sizeof *rows, by_index);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].at == i) {
            rows[i].at = at;
            at = aligned(at + rows[i].c->bytes);
        } else {
            rows[i].at = rows[rows[i].at].at; /* an earlier row, placed already */
        }
    return at;
}

bool sa_container_write(const SaEntry *e, const char *machine, const char *text, size_t bytes, const SaProgram *program,
                        SaSink sink, void *to) {
    uint32_t n = count_weights(program), i = 0;
    Row *rows = calloc((size_t)n + 1, sizeof *rows);
    if (!rows)
        return false;
    SaConst *c;
    for (int f = 0, o = 0; (c = next_weight(program, &f, &o)); i++)
        rows[i] = (Row){.c = c, .index = i};
    size_t machine_bytes = strlen(machine), identity_bytes = strlen(e->identity);
    uint64_t table = aligned(HEAD_BYTES + machine_bytes + identity_bytes + (uint64_t)bytes);
    uint64_t end = place(rows, n, aligned(table + (uint64_t)n * ROW_BYTES));

    Out o = {.sink = sink, .to = to, .good = true};
    sa_sha256_init(&o.sum);
    uint8_t head[HEAD_BYTES] = {0}, sum[SUM_BYTES];
    memcpy(head, magic, sizeof magic);
    store32(head + 8, VERSION);
    store32(head + 12, n);
    store64(head + 16, end + SUM_BYTES);
    store32(head + 24, (uint32_t)machine_bytes);
    store32(head + 28, (uint32_t)identity_bytes);
    store64(head + 32, bytes);
    put(&o, head, sizeof head);
    put(&o, machine, machine_bytes);
    put(&o, e->identity, identity_bytes);
    put(&o, text, bytes);
    pad(&o);
    put_rows(&o, rows, n);
    free(rows);
    sa_sha256_final(&o.sum, sum);
    return o.good && o.at == end && sink(to, sum, sizeof sum);
}

/* ============================== Reading =================================== */

/* Where the parts of a file lie. */
typedef struct {
    uint32_t n;
    const char *machine, *identity, *text;
    size_t machine_bytes, identity_bytes, text_bytes, table;
} Layout;

static bool equals(const char *a, size_t n, const char *b) { return strlen(b) == n && memcmp(a, b, n) == 0; }

/* The header and the two names; the text may reach beyond `bytes`. */
static bool layout_head(const uint8_t *file, size_t bytes, uint64_t size, Layout *l) {
    if (bytes < HEAD_BYTES || memcmp(file, magic, sizeof magic) != 0 || load32(file + 8) != VERSION ||
        load64(file + 16) != size || size < HEAD_BYTES + SUM_BYTES)
        return false;
    l->n = load32(file + 12);
    l->machine_bytes = load32(file + 24);
    l->identity_bytes = load32(file + 28);
    uint64_t text = load64(file + 32);
    if (text > size || l->machine_bytes + l->identity_bytes > bytes - HEAD_BYTES) /* two u32: no overflow */
        return false;
    l->text_bytes = (size_t)text;
    l->machine = (const char *)file + HEAD_BYTES;
    l->identity = l->machine + l->machine_bytes;
    l->text = l->identity + l->identity_bytes;
    uint64_t table = aligned(HEAD_BYTES + (uint64_t)l->machine_bytes + l->identity_bytes + text);
    if (table > size - SUM_BYTES || (size - SUM_BYTES - table) / ROW_BYTES < l->n)
        return false;
    l->table = (size_t)table;
    return true;
}

bool sa_container_names(const uint8_t *head, size_t bytes, uint64_t size, const char *identity, const char *machine) {
    Layout l;
    return layout_head(head, bytes, size, &l) && equals(l.machine, l.machine_bytes, machine) &&
           equals(l.identity, l.identity_bytes, identity);
}

/* Give every BLOBFILE constant its bytes in the file. */
static SaStatus attach(const SaProgram *p, const uint8_t *file, size_t end, const Layout *l, size_t *weight_bytes,
                       SaError *err) {
    uint32_t i = 0;
    SaConst *c;
    for (int f = 0, o = 0; (c = next_weight(p, &f, &o)); i++) {
        const uint8_t *row = file + l->table + (size_t)i * ROW_BYTES;
        if (i >= l->n)
            return sa_error_set(err, SA_E_BLOB, nowhere, "the text names more weights than the file holds");
        uint64_t at = load64(row), bytes = load64(row + 8);
        if (bytes != c->bytes || at % ALIGN != 0 || at > end || end - at < bytes)
            return sa_error_set(err, SA_E_BLOB, nowhere, "weight %u does not fit its tensor or the file", (unsigned)i);
        c->data = file + at;
        if (!sa_add_ok(*weight_bytes, c->bytes, weight_bytes))
            return sa_error_set(err, SA_E_BLOB, nowhere, "weights too large");
    }
    return i == l->n ? SA_OK : sa_error_set(err, SA_E_BLOB, nowhere, "the file holds more weights than the text names");
}

/* A bind that opens no file: what it has to check beside the bytes is checked
 * on constants whose paths are hidden for so long. */
static SaStatus check_bound(SaArena *arena, SaProgram *p, SaError *err) {
    const char **paths = sa_arena_alloc(arena, ((size_t)count_weights(p) + 1) * sizeof *paths);
    if (!paths)
        return sa_error_set(err, SA_E_MEMORY, nowhere, "out of memory");
    SaConst **bound = sa_arena_alloc(arena, ((size_t)count_weights(p) + 1) * sizeof *bound);
    if (!bound)
        return sa_error_set(err, SA_E_MEMORY, nowhere, "out of memory");
    size_t n = 0;
    SaConst *c;
    for (int f = 0, o = 0; (c = next_weight(p, &f, &o)); n++) {
        bound[n] = c;
        paths[n] = c->blob_path;
    }
    for (size_t i = 0; i < n; i++)
        bound[i]->blob_path = NULL;
    SaStatus st = sa_program_bind(arena, p, "", SA_BLOB_REFUSE, NULL, err);
    for (size_t i = 0; i < n; i++)
        bound[i]->blob_path = paths[i];
    return st;
}

static SaStatus rebuild(SaArena *arena, const uint8_t *file, size_t end, const Layout *l, const char *identity,
                        SaEntry **out, SaError *err) {
    SaLimits limits;
    SaProgram *program;
    SaPlan *plan;
    size_t weight_bytes = 0;
    sa_device_limits(&limits);
    SA_TRY(sa_program_parse(arena, l->text, l->text_bytes, &limits, &program, err));
    SA_TRY(sa_program_check(arena, program, &limits, err));
    SA_TRY(attach(program, file, end, l, &weight_bytes, err));
    SA_TRY(check_bound(arena, program, err));
    SA_TRY(sa_plan_build(program, &plan, err));
    *out = sa_entry_new(identity, plan, program, weight_bytes);
    return *out ? SA_OK : sa_error_set(err, SA_E_MEMORY, nowhere, "no memory for the store entry");
}

/* `file` must be aligned for any dtype. */
SaStatus sa_container_read(const uint8_t *file, size_t bytes, const char *identity, const char *machine, SaEntry **out,
                           SaError *err) {
    Layout l;
    SaSha256 h;
    uint8_t sum[SUM_BYTES];
    *out = NULL;
    if (!layout_head(file, bytes, bytes, &l))
        return sa_error_set(err, SA_E_BLOB, nowhere, "the header is damaged or the file is cut");
    size_t end = bytes - SUM_BYTES;
    sa_sha256_init(&h);
    sa_sha256_update(&h, file, end);
    sa_sha256_final(&h, sum);
    if (memcmp(sum, file + end, sizeof sum) != 0)
        return sa_error_set(err, SA_E_BLOB, nowhere, "the checksum does not fit");
    if (!equals(l.machine, l.machine_bytes, machine))
        return sa_error_set(err, SA_E_STATE, nowhere, "compiled for another machine");
    if (!equals(l.identity, l.identity_bytes, identity))
        return sa_error_set(err, SA_E_BLOB, nowhere, "the program of another identity");
    SaArena *arena = sa_arena_new(0);
    SaStatus st = arena ? rebuild(arena, file, end, &l, identity, out, err)
                        : sa_error_set(err, SA_E_MEMORY, nowhere, "no memory to load");
    sa_arena_free(arena);
    return st;
}
