// SPDX-License-Identifier: MIT
/* ops_harness.h - from a MIL text to outputs compared with the reference: what
 * test_ops.c and test_random.c share. Weights are made up, of every dtype. */
#ifndef SA_TESTS_OPS_HARNESS_H
#define SA_TESTS_OPS_HARNESS_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../exec/exec.h"
#include "../plan/plan.h"
#include "exec_reference.h"

static int passed, failed;

static bool check_at(const char *file, int line, bool good, const char *what) {
    if (good)
        passed++;
    else if (failed++ < 40)
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    return good;
}
#define CHECK(e) check_at(__FILE__, __LINE__, (e), #e)
#define CHECK_AS(e, what) check_at(__FILE__, __LINE__, (e), (what))

/* ============================== Random data =============================== */

/* integers: small, so that fp32 arithmetic is exact */
typedef enum { INTEGERS, UNIFORM, POSITIVE, UNIT, BITS, DATA_KINDS } DataKind;
__attribute__((unused)) static const char *const data_names[DATA_KINDS] = {"integers", "uniform", "positive", "unit", "bits"};

static uint64_t seed_state = 1;

static uint32_t next_random(void) { /* splitmix64 */
    uint64_t z = seed_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}

static inline uint32_t below(uint32_t n) { return n ? next_random() % n : 0; }

static uint16_t random_half(DataKind kind) {
    uint32_t u = next_random();
    float f = (float)(u & 0xffff) / 65536.0f;
    switch (kind) {
    case INTEGERS: return sa_half_from_float_even((float)((int)(u % 7) - 3));
    case UNIFORM: return sa_half_from_float_even((f - 0.5f) * 4.0f);
    case POSITIVE: return sa_half_from_float_even(f * 4.0f + 0x1p-14f);
    case UNIT: return sa_half_from_float_even((f - 0.5f) * 1.98f);
    default: u &= 0xffff; return (uint16_t)((u & 0x7c00) == 0x7c00 ? u & 0xbfff : u);
    }
}

/* Contents for constants that lie in files: fp16 of the kind ("positive…" by
 * name: positive), fp32 alike, other dtypes any value they have. */
static void fill_value(SaArena *arena, const SaValue *v, DataKind kind) {
    SaConst *c = (SaConst *)(uintptr_t)v->constant;
    if (!c->blob_path)
        return;
    size_t n = (size_t)sa_type_count(&v->type);
    uint8_t *d = sa_arena_alloc(arena, c->bytes + 8);
    kind = kind == BITS ? UNIFORM : kind;
    kind = strncmp(v->name, "positive", 8) == 0 ? POSITIVE : kind;
    for (size_t i = 0; d && i < n; i++) {
        uint16_t h = random_half(kind);
        float f = sa_half_to_float(h);
        uint32_t u = next_random(), bits = (uint32_t)sa_dtype_bits(v->type.dtype);
        uint8_t byte = (uint8_t)(bits < 8 ? u & ((1u << bits) - 1) : u);
        if (v->type.dtype == SA_INT4 && byte > 7)
            byte |= 0xf0;
        if (v->type.dtype == SA_FP16)
            memcpy(d + i * 2, &h, 2);
        else if (v->type.dtype == SA_FP32)
            memcpy(d + i * 4, &f, 4);
        else
            memset(d + i * sa_dtype_bytes(v->type.dtype), byte, sa_dtype_bytes(v->type.dtype));
    }
    c->data = d;
}

static inline void fill_blobs(SaArena *arena, SaProgram *p, DataKind kind) {
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++) {
            SaOp *op = &p->functions[f].ops[i];
            if (op->id == SA_OP_CONST)
                fill_value(arena, op->results[0], kind);
            for (int a = 0; a < op->n_args; a++)
                if (op->args[a].is_attribute)
                    fill_value(arena, op->args[a].values[0], kind);
        }
}

/* ============================== Stages ==================================== */

typedef struct {
    SaArena *arena;
    SaProgram *program;
    SaPlan *plan;
    SaError err;
    SaStatus status;
} Built;

static const SaLimits *lenient(void) {
    static SaLimits l;
    sa_limits_default(&l);
    l.allow_refused = true;
    return &l;
}

/* Parse, check, invent weights, plan. */
static inline Built build(const char *text, size_t bytes, DataKind kind) {
    Built b = {.arena = sa_arena_new(0)};
    b.status = b.arena ? sa_program_parse(b.arena, text, bytes, lenient(), &b.program, &b.err) : SA_E_MEMORY;
    if (b.status == SA_OK)
        b.status = sa_program_check(b.arena, b.program, lenient(), &b.err);
    if (b.status == SA_OK) {
        fill_blobs(b.arena, b.program, kind);
        b.status = sa_plan_build(b.program, &b.plan, &b.err);
    }
    return b;
}

static inline void unbuild(Built *b) {
    sa_plan_free(b->plan);
    sa_arena_free(b->arena);
}

/* ============================== Surfaces ================================== */

typedef struct {
    int n_in, n_out;
    void *in[64], *out[64];
} Surfaces;

/* Byte offset of element i of a port. */
static size_t port_at(const SaPort *p, size_t i) {
    size_t w = i % (size_t)p->w, h = i / (size_t)p->w % (size_t)p->h;
    size_t c = i / (size_t)(p->w * p->h) % (size_t)p->c, n = i / (size_t)(p->w * p->h * p->c);
    return n * p->batch_stride + c * p->plane_stride + h * p->row_stride + w * sa_dtype_bytes(p->type.dtype);
}

static inline double port_get(const SaPort *p, const void *surface, size_t i) {
    const char *at = (const char *)surface + port_at(p, i);
    uint16_t h;
    float f;
    if (p->type.dtype == SA_FP16) {
        memcpy(&h, at, 2);
        return (double)sa_half_to_float(h);
    }
    memcpy(&f, at, 4);
    return (double)f;
}

static inline Surfaces surfaces_make(const SaPlan *plan, DataKind kind) {
    Surfaces s = {.n_in = sa_plan_inputs(plan, 0), .n_out = sa_plan_outputs(plan, 0)};
    for (int k = 0; k < s.n_in; k++) {
        const SaPort *p = sa_plan_input(plan, 0, k);
        s.in[k] = sa_malloc(p->bytes);
        for (size_t i = 0; s.in[k] && i < (size_t)sa_type_count(&p->type); i++) {
            uint16_t h = random_half(kind);
            float f = sa_half_to_float(h);
            memcpy((char *)s.in[k] + port_at(p, i), p->type.dtype == SA_FP16 ? (void *)&h : (void *)&f, sa_dtype_bytes(p->type.dtype));
        }
    }
    for (int k = 0; k < s.n_out; k++) {
        size_t bytes = sa_plan_output(plan, 0, k)->bytes;
        s.out[k] = sa_malloc(bytes);
        if (s.out[k])
            memset(s.out[k], 0x5a, bytes);
    }
    return s;
}

static inline void surfaces_free(Surfaces *s) {
    for (int k = 0; k < s->n_in; k++)
        sa_free(s->in[k]);
    for (int k = 0; k < s->n_out; k++)
        sa_free(s->out[k]);
}

static inline SaStatus run(const SaPlan *plan, Surfaces *s, SaNumerics numerics, int threads) {
    SaRunOptions o = {.numerics = numerics, .threads = threads};
    return sa_plan_run(plan, 0, (const void *const *)s->in, s->out, &o);
}

/* ============================== Comparison ================================ */

static inline Ref reference(const Built *b, const Surfaces *s, SaNumerics numerics) {
    const SaFunction *fn = &b->program->functions[0];
    Ref r = {.numerics = numerics, .v = calloc((size_t)fn->n_values + 1, sizeof(RefValue)), .n = fn->n_values};
    for (int i = 0; i < fn->n_params; i++) {
        RefValue *x = ref_new(&r, fn->params[i]);
        for (int k = 0; k < s->n_in; k++) {
            const SaPort *p = sa_plan_input(b->plan, 0, k);
            if (strcmp(p->name, fn->params[i]->name) == 0)
                for (size_t e = 0; e < x->n; e++)
                    x->y[e] = port_get(p, s->in[k], e);
        }
    }
    ref_run(&r, fn);
    return r;
}

/* May `got` be what the reference rounded? exact: no slack is used. */
static inline bool agrees(double got, const RefValue *x, size_t i, bool exact) {
    double want = x->y[i], raw = x->raw[i];
    if (want != want)
        return got != got;
    if (got == want)
        return true;
    if (exact || x->slack[i] == 0 || isinf(got) != isinf(want))
        return false;
    double unit = 0x1p-11 * fabs(raw) + (fabs(raw) < 0x1p-14 ? 0x1p-25 : 0); /* subnormals are rounded twice */
    if (x->type.dtype == SA_FP32)
        unit = 0x1p-24 * fabs(raw);
    return fabs(got - raw) <= unit * 1.0005 + x->slack[i] * 1.01;
}

/* Compare all outputs; prints the first difference. */
static inline bool outputs_agree(const Built *b, const Surfaces *s, const Ref *r, bool exact, const char *label) {
    const SaFunction *fn = &b->program->functions[0];
    for (int k = 0; k < s->n_out; k++) {
        const SaPort *p = sa_plan_output(b->plan, 0, k);
        for (int o = 0; o < fn->n_outputs; o++) {
            if (strcmp(fn->outputs[o]->name, p->name) != 0)
                continue;
            const RefValue *x = &r->v[fn->outputs[o]->id];
            for (size_t i = 0; i < x->n; i++)
                if (!agrees(port_get(p, s->out[k], i), x, i, exact)) {
                    fprintf(stderr, "%s: %s[%zu] = %.9g, expected %.9g (unrounded %.9g, slack %.3g)\n", label, p->name, i,
                            port_get(p, s->out[k], i), x->y[i], x->raw[i], x->slack[i]);
                    return false;
                }
        }
    }
    return true;
}

static inline bool same_outputs(const SaPlan *plan, const Surfaces *a, const Surfaces *b) {
    for (int k = 0; k < a->n_out; k++)
        if (memcmp(a->out[k], b->out[k], sa_plan_output(plan, 0, k)->bytes) != 0)
            return false;
    return true;
}

/* ============================== Corpus ==================================== */

typedef struct {
    char *all, *text;      /* text begins after the lines with # */
    size_t bytes;
    char data[64];         /* "# data:" line */
} Item;

static bool item_read(const char *path, Item *it) {
    FILE *f = fopen(path, "rb");
    memset(it, 0, sizeof *it);
    it->all = f ? malloc(1 << 20) : NULL;
    if (!it->all) {
        if (f)
            fclose(f);
        return false;
    }
    size_t n = fread(it->all, 1, (1 << 20) - 1, f);
    fclose(f);
    it->all[n] = '\0';
    for (it->text = it->all; *it->text == '#';) {
        size_t line = strcspn(it->text, "\n");
        if (strncmp(it->text, "# data: ", 8) == 0)
            snprintf(it->data, sizeof it->data, " %.*s ", (int)(line - 8), it->text + 8);
        it->text += line + (it->text[line] == '\n');
    }
    it->bytes = n - (size_t)(it->text - it->all);
    return true;
}

/* Call `each` for every .mil file of corpus/folder whose name begins with `prefix`. */
static inline int corpus_walk(const char *folder, const char *prefix, void (*each)(const char *name, const Item *it)) {
    char path[1024];
    const char *slash = strrchr(__FILE__, '/');
    int n = 0, dir = slash ? (int)(slash - __FILE__) + 1 : 0;
    snprintf(path, sizeof path, "%.*scorpus/%s", dir, __FILE__, folder);
    DIR *d = opendir(path);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        size_t length = strlen(e->d_name);
        Item it;
        if (length < 4 || strcmp(e->d_name + length - 4, ".mil") != 0 || strncmp(e->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "%.*scorpus/%s/%s", dir, __FILE__, folder, e->d_name);
        if (CHECK_AS(item_read(path, &it), path))
            each(e->d_name, &it);
        free(it.all);
        n++;
    }
    closedir(d);
    return n;
}

#endif
