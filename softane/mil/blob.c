// SPDX-License-Identifier: MIT
/* blob.c - weight files: container with bounds checks -> constant bytes.
 *
 * Format (little endian; public header of coremltools, version 2):
 *
 *   file  +0  u32 count   +4 u32 version = 2   +8 reserved, 64 bytes in all
 *   blob  +0  u32 0xDEADBEEF   +4 u32 dtype   +8 u64 bytes   +16 u64 data offset
 *         +24 padding bits, reserved, 64 bytes in all
 *
 * The data offset counts from the start of the file. Neither metadata nor data
 * need be aligned here (writers differ). Known wrong variants are refused with
 * the reason, or read as they are for callers who ask for that. Nothing read
 * from a file is trusted. */
#include "mil_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ============================== Container ================================= */

enum { HEADER_BYTES = 64, METADATA_BYTES = 64, BLOB_VERSION = 2 };
#define BLOB_SENTINEL 0xDEADBEEFu

/* Little endian, from any alignment, on any machine. */
static uint32_t load32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t load64(const uint8_t *p) { return load32(p) | (uint64_t)load32(p + 4) << 32; }

/* Codes of the container; 0 = none for this dtype. */
static uint32_t blob_code(SaDtype t) {
    static const uint8_t codes[] = {
        [SA_FP16] = 1, [SA_FP32] = 2, [SA_UINT8] = 3, [SA_INT8] = 4, [SA_INT16] = 6, [SA_UINT16] = 7, [SA_INT32] = 14,
        [SA_UINT32] = 15, [SA_INT4] = 8, [SA_UINT1] = 9, [SA_UINT2] = 10, [SA_UINT4] = 11, [SA_UINT3] = 12, [SA_UINT6] = 13,
        [SA_STRING] = 0,
    };
    return t >= SA_FP16 && t <= SA_STRING ? codes[t] : 0;
}

/* A reason that needs no numbers. */
static SaStatus bad_blob(SaError *err, const char *reason) {
    return sa_error_set(err, SA_E_BLOB, (SaPos){0, 0}, "%s", reason);
}

/* See mil.h. *data points into `file` and need not be aligned. */
SaStatus sa_blob_find(const uint8_t *file, size_t file_bytes, uint64_t offset, SaDtype dtype, size_t want_bytes,
                      const void **data, SaError *err) {
    *data = NULL;
    SaPos none = {0, 0};
    if (file_bytes < HEADER_BYTES)
        return sa_error_set(err, SA_E_BLOB, none, "file of %zu bytes is shorter than its header", file_bytes);
    if (load32(file + 4) != BLOB_VERSION)
        return sa_error_set(err, SA_E_BLOB, none, "container version %u, expected %d", (unsigned)load32(file + 4),
                            BLOB_VERSION);
    if (load32(file) == 0)
        return bad_blob(err, "the file says it holds no blobs");
    if (offset < HEADER_BYTES)
        return sa_error_set(err, SA_E_BLOB, none, "offset %llu lies in the file header; the first blob is at 64",
                            (unsigned long long)offset);
    if (offset > file_bytes || file_bytes - offset < METADATA_BYTES)
        return sa_error_set(err, SA_E_BLOB, none, "metadata at offset %llu reaches beyond the file of %zu bytes",
                            (unsigned long long)offset, file_bytes);
    const uint8_t *meta = file + offset;
    if (load32(meta) != BLOB_SENTINEL)
        return sa_error_set(err, SA_E_BLOB, none, "no blob sentinel at offset %llu: it must name the metadata, not the data",
                            (unsigned long long)offset);
    if (load32(meta + 4) != blob_code(dtype))
        return sa_error_set(err, SA_E_BLOB, none, "blob has dtype code %u, %s needs %u", (unsigned)load32(meta + 4),
                            sa_dtype_name(dtype), (unsigned)blob_code(dtype));
    uint64_t bytes = load64(meta + 8), at = load64(meta + 16);
    if (bytes != want_bytes)
        return sa_error_set(err, SA_E_BLOB, none, "blob has %llu bytes, the tensor needs %zu", (unsigned long long)bytes,
                            want_bytes);
    if (at > file_bytes || file_bytes - at < bytes)
        return sa_error_set(err, SA_E_BLOB, none, "data at %llu reaches beyond the file of %zu bytes",
                            (unsigned long long)at, file_bytes);
    if (at < HEADER_BYTES || (at < offset + METADATA_BYTES && at + bytes > offset))
        return sa_error_set(err, SA_E_BLOB, none, "data at %llu overlaps the header or its own metadata",
                            (unsigned long long)at);
    *data = file + at;
    return SA_OK;
}

/* Where a reader that checks nothing looks for data. A place without a sentinel
 * at 64 is a file without metadata, whose data begin there (seen with MLX-based
 * writers); elsewhere what lies there is taken for metadata: an offset that
 * names the data (128) gives garbage, as measured by mechramc/Orion #8. */
static uint64_t careless_place(const uint8_t *file, size_t file_bytes, uint64_t offset) {
    if (offset > file_bytes || file_bytes - offset < 24)
        return offset;
    const uint8_t *meta = file + offset;
    return load32(meta) != BLOB_SENTINEL && offset == HEADER_BYTES ? offset : load64(meta + 16);
}

/* See mil.h. */
SaStatus sa_blob_read_unchecked(SaArena *arena, const uint8_t *file, size_t file_bytes, uint64_t offset, size_t want_bytes,
                                const void **data, SaError *err) {
    uint64_t at = careless_place(file, file_bytes, offset);
    size_t there = at < file_bytes ? file_bytes - (size_t)at : 0;
    uint8_t *to = sa_arena_alloc(arena, want_bytes);
    *data = to;
    if (!to)
        return sa_error_set(err, SA_E_MEMORY, (SaPos){0, 0}, "out of memory");
    if (there > want_bytes)
        there = want_bytes;
    if (there)
        memcpy(to, file + at, there);
    memset(to + there, 0, want_bytes - there); /* beyond the end of a mapped file */
    return SA_OK;
}

/* ============================== Files ===================================== */

/* A file that has been read during one bind. */
typedef struct SaWeightFile SaWeightFile;
struct SaWeightFile {
    SaWeightFile *next;
    const char *path; /* as in the text */
    const uint8_t *bytes;
    size_t size;
};

/* The part after "@model_path/", or NULL. Only plain components are taken: no
 * "", "." or "..", so a path cannot leave its directory. */
static const char *relative_path(const char *path) {
    static const char prefix[] = "@model_path/";
    if (strncmp(path, prefix, sizeof prefix - 1) != 0)
        return NULL;
    path += sizeof prefix - 1;
    for (const char *p = path;;) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n <= 2 && strspn(p, ".") >= n))
            return NULL;
        if (p[n] == '\0')
            return path;
        p += n + 1;
    }
}

/* Read `size` bytes. False when the file ends early or cannot be read. */
static bool read_all(int fd, uint8_t *to, size_t size) {
    while (size) {
        size_t piece = size < (size_t)1 << 30 ? size : (size_t)1 << 30; /* some systems refuse more */
        ssize_t n = read(fd, to, piece);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        to += n;
        size -= (size_t)n;
    }
    return true;
}

/* The whole of an open regular file into the arena. */
static SaStatus load_fd(SaArena *arena, int fd, SaWeightFile *f, SaError *err) {
    struct stat st;
    SaPos none = {0, 0};
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0)
        return sa_error_set(err, SA_E_IO, none, "not a regular file");
    if ((uint64_t)st.st_size > SIZE_MAX)
        return sa_error_set(err, SA_E_LIMIT, none, "file too large");
    f->size = (size_t)st.st_size;
    uint8_t *to = sa_arena_alloc_raw(arena, f->size);
    if (!to)
        return sa_error_set(err, SA_E_MEMORY, none, "out of memory");
    if (!read_all(fd, to, f->size))
        return sa_error_set(err, SA_E_IO, none, "cannot be read to its end");
    f->bytes = to;
    return SA_OK;
}

/* Open and read directory/relative. Errors have no place and no path yet. */
static SaStatus load_file(SaArena *arena, const char *directory, const char *relative, SaWeightFile *f, SaError *err) {
    size_t a = strlen(directory), b = strlen(relative);
    SaPos none = {0, 0};
    char *full = sa_arena_alloc(arena, a + b + 2);
    if (!full)
        return sa_error_set(err, SA_E_MEMORY, none, "out of memory");
    memcpy(full, directory, a);
    full[a] = '/';
    memcpy(full + a + 1, relative, b + 1);
    int fd;
    do
        fd = open(full, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would block */
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return sa_error_set(err, SA_E_IO, none, "cannot be opened (errno %d)", errno);
    SaStatus status = load_fd(arena, fd, f, err);
    close(fd);
    return status;
}

/* ============================== Binding =================================== */

typedef struct {
    SaArena *arena;
    const char *directory;
    bool unchecked; /* SaBlobMode */
    SaWeightFile *files;
    size_t total;
    SaError *err;
} Binder;

/* Put the place and the path in front of a reason found without them. */
static SaStatus located(SaError *err, SaStatus code, const SaOp *op, const char *path) {
    if (!err)
        return code;
    SaError reason = *err;
    sa_error_set(err, code, op->pos, "%.150s: %s", path, reason.text);
    snprintf(err->op, sizeof err->op, "%s", sa_op_name(op->id));
    return code;
}

/* The file of a path, read at most once per bind. */
static SaStatus file_of(Binder *b, const char *path, SaWeightFile **out) {
    for (SaWeightFile *f = b->files; f; f = f->next)
        if (strcmp(f->path, path) == 0) {
            *out = f;
            return SA_OK;
        }
    const char *relative = relative_path(path);
    if (!relative)
        return bad_blob(b->err, "the path must begin with @model_path/ and stay inside");
    SaWeightFile *f = sa_arena_alloc(b->arena, sizeof *f);
    if (!f)
        return sa_error_set(b->err, SA_E_MEMORY, (SaPos){0, 0}, "out of memory");
    f->path = path;
    SA_TRY(load_file(b->arena, b->directory, relative, f, b->err));
    f->next = b->files;
    b->files = f;
    *out = f;
    return SA_OK;
}

/* Elements smaller than a byte follow each other without gaps, the first in the
 * lowest bits. One byte each from here on, signed ones extended. */
static void unpack_bits(uint8_t *d, const uint8_t *s, SaDtype t, size_t n) {
    unsigned bits = (unsigned)sa_dtype_bits(t), mask = (1u << bits) - 1;
    for (size_t i = 0; i < n; i++) {
        size_t bit = i * bits;
        unsigned two = s[bit / 8];
        if (bit % 8 + bits > 8)
            two |= (unsigned)s[bit / 8 + 1] << 8;
        unsigned u = two >> (bit % 8) & mask;
        d[i] = (uint8_t)(t == SA_INT4 && u > 7 ? u | 0xf0 : u);
    }
}

/* The bytes of one constant. They stay in the file's memory unless they are
 * not aligned for their dtype there. */
static SaStatus bind_const(Binder *b, const SaValue *v, SaConst *c) {
    SaWeightFile *f = NULL;
    const void *data;
    SaDtype t = v->type.dtype;
    bool small = sa_dtype_bits(t) < 8;
    size_t stored = small ? (c->bytes * (size_t)sa_dtype_bits(t) + 7) / 8 : c->bytes; /* counts are below 2^40 */
    SA_TRY(file_of(b, c->blob_path, &f));
    SA_TRY(b->unchecked ? sa_blob_read_unchecked(b->arena, f->bytes, f->size, c->blob_offset, stored, &data, b->err)
                        : sa_blob_find(f->bytes, f->size, c->blob_offset, t, stored, &data, b->err));
    if (small || (uintptr_t)data % sa_dtype_bytes(t)) {
        void *copy = sa_arena_alloc_raw(b->arena, c->bytes);
        if (!copy)
            return sa_error_set(b->err, SA_E_MEMORY, (SaPos){0, 0}, "out of memory");
        if (small)
            unpack_bits(copy, data, t, c->bytes);
        else
            memcpy(copy, data, c->bytes);
        data = copy;
    }
    c->data = data;
    if (!sa_add_ok(b->total, c->bytes, &b->total))
        return bad_blob(b->err, "weights too large");
    return SA_OK;
}

/* A constant that lies in a file, of a const operation or an attribute. */
static SaStatus bind_value(Binder *b, const SaOp *op, const SaValue *v) {
    SaConst *c = (SaConst *)(uintptr_t)v->constant; /* ours: the parser made it */
    if (!c->blob_path)
        return SA_OK;
    SaStatus status = bind_const(b, v, c);
    return status == SA_OK ? SA_OK : located(b->err, status, op, c->blob_path);
}

/* See mil.h. `p` has passed the check. After a failure some constants may be
 * bound; the program is of no use then. */
SaStatus sa_program_bind(SaArena *arena, SaProgram *p, const char *directory, SaBlobMode mode, size_t *weight_bytes,
                         SaError *err) {
    Binder b = {.arena = arena, .directory = directory, .unchecked = mode == SA_BLOB_GARBAGE, .err = err};
    if (weight_bytes)
        *weight_bytes = 0;
    for (int i = 0; i < p->n_functions; i++)
        for (int k = 0; k < p->functions[i].n_ops; k++) {
            const SaOp *op = &p->functions[i].ops[k];
            if (op->id == SA_OP_CONST)
                SA_TRY(bind_value(&b, op, op->results[0]));
            for (int a = 0; a < op->n_args; a++)
                if (op->args[a].is_attribute)
                    SA_TRY(bind_value(&b, op, op->args[a].values[0]));
            if (op->id == SA_OP_GATHER || op->id == SA_OP_GATHER_ALONG_AXIS || op->id == SA_OP_GATHER_ND)
                SA_TRY(sa_gather_check_indices(op, err)); /* they stand above it and are bound by now */
        }
    if (weight_bytes)
        *weight_bytes = b.total;
    return SA_OK;
}
