// SPDX-License-Identifier: MIT
/* weights.c - where the weights of a program come from.
 *
 * Files are read by the compiler itself (sa_program_bind), also those that were
 * given otherwise: they are written into a directory of their own first, as
 * weight files, so that everything passes the checks that real ones pass. */
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MODEL_PATH "@model_path/"
enum { PATH_CAP = 4096, HEADER_BYTES = 64, METADATA_BYTES = 64, MAX_PARTS = 4096 };

/* ============================== What the program wants ==================== */

/* One constant in a file. */
typedef struct {
    const char *path; /* as in the text */
    uint64_t offset;
    const SaType *type;
    SaPos pos;
} Part;

typedef struct {
    Part part[MAX_PARTS];
    int n;
    bool full;
} Parts;

static void add_part(Parts *parts, const SaValue *v) {
    const SaConst *c = v->constant;
    if (!c || !c->blob_path)
        return;
    for (int i = 0; i < parts->n; i++)
        if (parts->part[i].offset == c->blob_offset && strcmp(parts->part[i].path, c->blob_path) == 0)
            return;
    parts->full |= parts->n == MAX_PARTS;
    if (!parts->full)
        parts->part[parts->n++] = (Part){c->blob_path, c->blob_offset, &v->type, v->pos};
}

static void find_parts(const SaProgram *p, Parts *parts) {
    for (int f = 0; f < p->n_functions; f++)
        for (int o = 0; o < p->functions[f].n_ops; o++) {
            const SaOp *op = &p->functions[f].ops[o];
            for (int r = 0; r < op->n_results; r++)
                add_part(parts, op->results[r]);
            for (int a = 0; a < op->n_args; a++)
                for (int v = 0; v < op->args[a].count; v++)
                    add_part(parts, op->args[a].values[v]);
        }
}

/* ============================== Making files ============================== */

/* dtype names and their codes in a weight file. */
static const struct {
    const char *name;
    uint32_t code;
    unsigned bits;
} codes[] = {{"fp16", 1, 16},  {"fp32", 2, 32}, {"uint8", 3, 8}, {"int8", 4, 8},  {"int16", 6, 16},
             {"uint16", 7, 16}, {"int4", 8, 4},  {"uint1", 9, 1}, {"uint2", 10, 2}, {"uint4", 11, 4},
             {"uint3", 12, 3},  {"uint6", 13, 6}, {"int32", 14, 32}, {"uint32", 15, 32}};

static bool code_of(const SaType *t, uint32_t *code, size_t *bytes) {
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strcmp(codes[i].name, sa_dtype_name(t->dtype)) == 0) {
            *code = codes[i].code;
            *bytes = ((size_t)sa_type_count(t) * codes[i].bits + 7) / 8;
            return true;
        }
    complain("weights of dtype %s cannot be made up", sa_dtype_name(t->dtype));
    return false;
}

/* The elements of one part. `kind`: zeros, random, or an .npy file. */
static bool fill(const Part *p, const char *kind, uint64_t seed, void *data) {
    size_t count = (size_t)sa_type_count(p->type);
    bool whole_bytes = sa_dtype_bytes(p->type->dtype) > 0 && p->type->dtype != SA_STRING;
    if (strcmp(kind, "zeros") == 0)
        return true; /* the memory is zero */
    if (!whole_bytes || strncmp(sa_dtype_name(p->type->dtype), "fp", 2) != 0) {
        if (strcmp(kind, "random") == 0)
            return true; /* integers: tables and masks, of which random ones may be invalid */
    }
    if (strcmp(kind, "random") == 0) {
        /* as a layer would be initialised: by the elements that add up to one result */
        double fan = (double)count / (double)(p->type->rank > 1 ? p->type->dim[0] : 1);
        double scale = p->type->rank > 1 && fan > 1 ? 1 / sqrt(fan) : 1;
        Random r = random_start(seed, p->path);
        for (size_t i = 0; i < count; i++)
            element_put(p->type->dtype, data, i, scale * random_normal(&r));
        return true;
    }
    Array a;
    char have[200], want[200];
    if (!npy_read(kind, &a))
        return false;
    bool fits = array_fits(&a, p->type);
    if (!fits) {
        array_shape(&a, have, sizeof have);
        sa_type_format(p->type, want, sizeof want);
        complain("%s has the shape %s, but %s is %s", kind, have, p->path, want);
    }
    for (size_t i = 0; fits && i < count; i++)
        element_put(p->type->dtype, data, i, a.value[i]);
    array_free(&a);
    return fits;
}

static bool make_folders(char *path) {
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = 0;
        int failed = mkdir(path, 0700);
        *p = '/';
        if (failed && errno != EEXIST)
            return false;
    }
    return true;
}

static bool write_bytes(const char *path, const void *data, size_t bytes) {
    FILE *f = fopen(path, "wbe");
    bool ok = f && fwrite(data, 1, bytes, f) == bytes;
    if (f && fclose(f) != 0)
        ok = false;
    if (!ok)
        complain("%s: %s", path, strerror(errno));
    return ok;
}

/* The weight file `name` of the program, with all parts it has. */
static bool make_file(const Parts *parts, const char *name, const char *kind, uint64_t seed, const char *target) {
    size_t total = HEADER_BYTES;
    uint32_t count = 0;
    for (int i = 0; i < parts->n; i++) {
        const Part *p = &parts->part[i];
        uint32_t code;
        size_t bytes, end;
        if (strcmp(p->path, name) != 0)
            continue;
        if (!code_of(p->type, &code, &bytes))
            return false;
        if (!sa_add_ok((size_t)p->offset, METADATA_BYTES + bytes, &end) || end > (size_t)1 << 40) {
            complain("%s: offset %llu is too large", name, (unsigned long long)p->offset);
            return false;
        }
        total = end > total ? end : total;
        count++;
    }
    if (count > 1 && strcmp(kind, "zeros") != 0 && strcmp(kind, "random") != 0) {
        complain("%s holds %u tensors; one .npy file cannot stand for it", name, count);
        return false;
    }
    uint8_t *file = sa_malloc(total);
    bool ok = file != NULL;
    if (ok) {
        memcpy(file, (uint32_t[2]){count, 2}, 8);
        for (int i = 0; ok && i < parts->n; i++) {
            const Part *p = &parts->part[i];
            uint32_t code;
            size_t bytes;
            if (strcmp(p->path, name) != 0)
                continue;
            ok = code_of(p->type, &code, &bytes);
            uint8_t *meta = file + p->offset;
            memcpy(meta, (uint32_t[2]){0xdeadbeef, code}, 8);
            memcpy(meta + 8, (uint64_t[2]){bytes, p->offset + METADATA_BYTES}, 16);
            ok = ok && fill(p, kind, seed, meta + METADATA_BYTES);
        }
        ok = ok && write_bytes(target, file, total);
    }
    sa_free(file);
    return ok;
}

/* ============================== A directory of our own ==================== */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

/* Does "w.bin", "weights/w.bin" or the whole path name this file? */
static bool names(const char *name, const char *path) {
    size_t n = strlen(name), m = strlen(path);
    return n <= m && strcmp(path + m - n, name) == 0 && (n == m || path[m - n - 1] == '/');
}

static const char *kind_of(const Weights *w, const char *path) {
    for (int i = 0; i < w->n_given; i++)
        if (names(w->given[i].name, path))
            return w->given[i].value;
    return w->all;
}

/* Every file the program names: made, or linked from the directory. */
static bool stage(const Parts *parts, const Weights *w, const char *directory, const char *folder) {
    char target[PATH_CAP], from[PATH_CAP];
    for (int i = 0; i < parts->n; i++) {
        const char *path = parts->part[i].path;
        bool first = true;
        for (int k = 0; k < i; k++)
            first &= strcmp(parts->part[k].path, path) != 0;
        if (!first || strncmp(path, MODEL_PATH, sizeof MODEL_PATH - 1) != 0 || strstr(path, ".."))
            continue; /* the compiler says what is wrong with such a path */
        const char *relative = path + sizeof MODEL_PATH - 1, *kind = kind_of(w, path);
        if (snprintf(target, sizeof target, "%s/%s", folder, relative) >= (int)sizeof target || !make_folders(target)) {
            complain("%s: cannot be staged", path);
            return false;
        }
        if (kind) {
            if (!make_file(parts, path, kind, w->seed, target))
                return false;
            continue;
        }
        snprintf(from, sizeof from, "%s/%s", directory, relative);
        char *real = realpath(from, NULL);
        if (real && symlink(real, target) != 0)
            complain("%s: %s", target, strerror(errno));
        free(real); /* one that is missing is reported by the compiler */
    }
    return true;
}

/* Names on the command line that no file has are mistakes. */
static bool all_known(const Parts *parts, const Weights *w) {
    for (int i = 0; i < w->n_given; i++) {
        bool known = false;
        for (int k = 0; k < parts->n; k++)
            known |= names(w->given[i].name, parts->part[k].path);
        if (!known) {
            complain("the program has no weight file '%s'", w->given[i].name);
            return false;
        }
    }
    return true;
}

bool weights_bind(const Source *s, const Weights *w, size_t *bytes) {
    char folder[PATH_CAP], own[PATH_CAP] = ".";
    const char *slash = strrchr(s->path, '/'), *directory = w->directory;
    if (!directory && slash)
        snprintf(own, sizeof own, "%.*s", (int)(slash - s->path + (slash == s->path)), s->path);
    directory = directory ? directory : own;
    Parts *parts = sa_malloc(sizeof *parts);
    bool ok = parts != NULL, staged = false;
    if (ok) {
        find_parts(s->program, parts);
        if (parts->full)
            complain("the program has more than %d weights", MAX_PARTS);
        ok = !parts->full && all_known(parts, w);
    }
    if (ok && (w->n_given || w->all)) {
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/softane-weights-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
        staged = mkdtemp(folder) != NULL;
        if (!staged)
            complain("%s: %s", folder, strerror(errno));
        ok = staged && stage(parts, w, directory, folder);
    }
    SaError err = {.code = SA_OK};
    if (ok) {
        SaStatus st = sa_program_bind(s->arena, s->program, staged ? folder : directory, SA_BLOB_REFUSE, bytes, &err);
        ok = st == SA_OK;
        err.code = st;
        if (!ok)
            source_complain(s, &err);
    }
    if (staged)
        nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    sa_free(parts);
    return ok;
}
