// SPDX-License-Identifier: MIT
/* test_exec.c - plans and kernels against exec_reference.h.
 *
 * Programs are MIL text; weights are made up. Each runs under both numerics,
 * on every kernel variant of this CPU, with one thread and with all, on small
 * integers (exact) and on random values (within the rounding of the result
 * plus the error bound of the reference). Then what is not about values:
 * ports, concurrency, allocation, failure, fork, the training kernels.
 *
 * Usage: test_exec [--full]   --full: all 2^32 floats through the conversions
 * One verdict line at the end; exit 1 on failure. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../exec/exec.h"
#include "../plan/plan.h"
#include "exec_reference.h"
#include "exec_programs.h"

static atomic_int passed, failed;
static bool full;

/* Count one property; failures name their line. */
static bool check_at(int line, bool good, const char *what) {
    if (good) {
        passed++;
    } else {
        failed++;
        fprintf(stderr, "test_exec.c:%d: %s\n", line, what);
    }
    return good;
}
#define CHECK(e) check_at(__LINE__, (e), #e)

/* ============================== Random data =============================== */

typedef enum { INTEGERS, UNIFORM, POSITIVE, BITS, DATA_KINDS } DataKind;

static uint64_t seed_state = 1;

static uint32_t next_random(void) { /* splitmix64 */
    uint64_t z = seed_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}

static uint16_t random_half(DataKind kind) {
    uint32_t u = next_random();
    switch (kind) {
    case INTEGERS: return sa_half_from_float_even((float)((int)(u % 7) - 3));
    case UNIFORM: return sa_half_from_float_even(((float)(u & 0xffff) / 65536.0f - 0.5f) * 4.0f);
    case POSITIVE: return sa_half_from_float_even((float)((u & 0xffff) + 1) / 16384.0f);
    default: u &= 0xffff; return (uint16_t)((u & 0x7c00) == 0x7c00 ? u & 0xbfff : u);
    }
}

/* ============================== Programs ================================== */

typedef struct {
    SaArena *arena;
    SaProgram *program;
    SaPlan *plan;
} Built;

/* Give BLOBFILE constants random contents. */
static void fill_blobs(SaArena *arena, SaProgram *p, DataKind kind) {
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++) {
            SaOp *op = &p->functions[f].ops[i];
            if (op->id != SA_OP_CONST || !op->results[0]->constant->blob_path)
                continue;
            SaConst *c = (SaConst *)(uintptr_t)op->results[0]->constant;
            size_t n = (size_t)sa_type_count(&op->results[0]->type);
            uint16_t *h = sa_arena_alloc(arena, n * 2);
            for (size_t k = 0; k < n; k++)
                h[k] = random_half(kind);
            c->data = h;
            c->bytes = n * 2;
        }
}

/* NULL plan when a stage refuses the text; the reason goes to stderr. */
static Built build(const char *body, DataKind kind) {
    Built b = {sa_arena_new(0), NULL, NULL};
    size_t cap = strlen(body) + 400;
    char *text = sa_arena_alloc(b.arena, cap), reason[600];
    snprintf(text, cap, "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n%s}\n", body);
    SaError err = {0};
    SaLimits lim;
    sa_limits_default(&lim);
    lim.allow_refused = true; /* what the engine refuses is computed, and so tested */
    SaStatus st = sa_program_parse(b.arena, text, strlen(text), &lim, &b.program, &err);
    if (st == SA_OK)
        st = sa_program_check(b.arena, b.program, &lim, &err);
    if (st == SA_OK) {
        fill_blobs(b.arena, b.program, kind);
        st = sa_plan_build(b.program, &b.plan, &err);
    }
    if (st != SA_OK) {
        sa_error_format(&err, reason, sizeof reason);
        fprintf(stderr, "%s: %s\n%s\n", sa_status_name(st), reason, body);
    }
    return b;
}

static void unbuild(Built *b) {
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

static double port_get(const SaPort *p, const void *surface, size_t i) {
    const char *at = (const char *)surface + port_at(p, i);
    uint16_t h;
    float f;
    memcpy(&h, at, 2);
    if (p->type.dtype == SA_FP16)
        return (double)sa_half_to_float(h);
    memcpy(&f, at, 4);
    return (double)f;
}

static Surfaces surfaces_make(const SaPlan *plan, DataKind kind) {
    Surfaces s = {.n_in = sa_plan_inputs(plan, 0), .n_out = sa_plan_outputs(plan, 0)};
    for (int k = 0; k < s.n_in; k++) {
        const SaPort *p = sa_plan_input(plan, 0, k);
        s.in[k] = sa_malloc(p->bytes);
        for (size_t i = 0; i < (size_t)sa_type_count(&p->type); i++) {
            uint16_t h = random_half(kind);
            float f = sa_half_to_float(h) * 1.000123f;
            memcpy((char *)s.in[k] + port_at(p, i), p->type.dtype == SA_FP16 ? (void *)&h : (void *)&f, sa_dtype_bytes(p->type.dtype));
        }
    }
    for (int k = 0; k < s.n_out; k++) {
        size_t bytes = sa_plan_output(plan, 0, k)->bytes;
        s.out[k] = sa_malloc(bytes);
        memset(s.out[k], 0x5a, bytes);
    }
    return s;
}

static void surfaces_free(Surfaces *s) {
    for (int k = 0; k < s->n_in; k++)
        sa_free(s->in[k]);
    for (int k = 0; k < s->n_out; k++)
        sa_free(s->out[k]);
}

static SaStatus run(const SaPlan *plan, Surfaces *s, SaNumerics numerics, int threads) {
    SaRunOptions o = {.numerics = numerics, .threads = threads};
    return sa_plan_run(plan, 0, (const void *const *)s->in, s->out, &o);
}

/* ============================== Comparison ================================ */

static Ref reference(const Built *b, const Surfaces *s, SaNumerics numerics) {
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
static bool agrees(double got, const RefValue *x, size_t i, bool exact) {
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
static bool outputs_agree(const Built *b, const Surfaces *s, const Ref *r, bool exact, const char *label) {
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

static bool same_outputs(const SaPlan *plan, const Surfaces *a, const Surfaces *b) {
    for (int k = 0; k < a->n_out; k++)
        if (memcmp(a->out[k], b->out[k], sa_plan_output(plan, 0, k)->bytes) != 0)
            return false;
    return true;
}

/* Under `silicon`, with every departure of the arithmetic, the number of
 * threads does not change a bit (what the bits are: test_numerics.c, tests/soft). */
static void check_silicon(int line, const Built *b, Surfaces *s) {
    SaRunOptions o = {.numerics = SA_NUMERICS_SILICON, .slice_clamp = 2.0f};
    for (int v = 0; sa_kernels_variant(v); v++)
        for (o.arithmetic = 0; o.arithmetic < 8; o.arithmetic += 7) {
            sa_kernels_force(sa_kernels_variant(v));
            Surfaces once = surfaces_make(b->plan, INTEGERS);
            bool good = true;
            for (o.threads = 0; o.threads < 2; o.threads++)
                good &= sa_plan_run(b->plan, 0, (const void *const *)s->in, o.threads ? s->out : once.out, &o) == SA_OK;
            check_at(line, good && same_outputs(b->plan, s, &once), "silicon");
            surfaces_free(&once);
        }
}

/* One program on one kind of data, every way it can be run. */
static void check_program(int line, const char *body, DataKind kind, bool exact) {
    Built b = build(body, kind);
    if (!check_at(line, b.plan != NULL, "the program builds")) {
        unbuild(&b);
        return;
    }
    Surfaces s = surfaces_make(b.plan, kind);
    for (int numerics = SA_NUMERICS_FAST; numerics <= SA_NUMERICS_IEEE; numerics++) {
        Ref r = reference(&b, &s, (SaNumerics)numerics);
        for (int v = 0; sa_kernels_variant(v); v++) {
            sa_kernels_force(sa_kernels_variant(v));
            for (int threads = 0; threads < 2; threads++)
                for (int blas = 0; blas < 2; blas++) {
                    sa_gemm_choose(blas == 1);
                    bool good = run(b.plan, &s, (SaNumerics)numerics, threads) == SA_OK &&
                                outputs_agree(&b, &s, &r, exact, sa_kernels_variant(v)->name);
                    check_at(line, good, body);
                }
        }
        ref_free(&r);
    }
    check_silicon(line, &b, &s);
    sa_kernels_force(NULL);
    sa_gemm_choose(true);
    surfaces_free(&s);
    unbuild(&b);
}

/* ============================== Conversions =============================== */

static bool same_float(float a, float b) { return memcmp(&a, &b, sizeof a) == 0; }

static void check_halves(const SaKernels *k) {
    enum { N = 65536 };
    uint16_t *h = sa_malloc(N * 2), *back = sa_malloc(N * 2);
    float *f = sa_malloc(N * 4);
    bool widen = true, narrow = true;
    for (size_t i = 0; i < N; i++)
        h[i] = (uint16_t)i;
    k->half_to_float(f, h, N);
    for (size_t i = 0; i < N; i++)
        widen = widen && same_float(f[i], sa_half_to_float(h[i]));
    k->half_even(back, f, N);
    for (size_t i = 0; i < N; i++)
        narrow = narrow && back[i] == sa_half_from_float_even(f[i]);
    CHECK(widen);
    CHECK(narrow);
    sa_free(h);
    sa_free(back);
    sa_free(f);
}

/* Floats from `first` in steps of `stride` through all four conversions. */
static void check_floats(const SaKernels *k, uint64_t first, uint64_t stride) {
    enum { N = 4099 };
    static float f[N], g[N], p[N], e[N];
    static uint16_t away[N], even[N];
    bool good = true;
    for (uint64_t at = first; at < 1ull << 32 && good;) {
        size_t n = 0;
        for (; n < N && at < 1ull << 32; n++, at += stride) {
            uint32_t u = (uint32_t)at;
            memcpy(&f[n], &u, 4);
        }
        k->half_away(away, f, n);
        k->half_even(even, f, n);
        k->round[SA_ROUND_AWAY](g, f, n);
        k->round[SA_ROUND_EVEN](e, f, n);
        k->round[SA_ROUND_PRODUCT](p, f, n);
        for (size_t i = 0; i < n && good; i++) {
            uint16_t a = sa_half_from_float_away(f[i]), v = sa_half_from_float_even(f[i]);
            bool limit = fabsf(f[i]) >= 32768.0f;
            float product = limit ? copysignf(INFINITY, f[i]) : sa_half_to_float(a);
            good = away[i] == a && even[i] == v;
            if (f[i] != f[i])
                good = good && g[i] != g[i] && e[i] != e[i] && p[i] != p[i];
            else
                good = good && same_float(g[i], sa_half_to_float(a)) && same_float(e[i], sa_half_to_float(v)) &&
                       same_float(p[i], product);
            if (!good)
                fprintf(stderr, "%s: %a -> %04x %04x, expected %04x %04x; %a %a %a\n", k->name, (double)f[i], away[i],
                        even[i], a, v, (double)g[i], (double)e[i], (double)p[i]);
        }
    }
    CHECK(good);
}

static void test_conversions(void) {
    for (int v = 0; sa_kernels_variant(v); v++) {
        const SaKernels *k = sa_kernels_variant(v);
        check_halves(k);
        check_floats(k, 0, full ? 1 : 9973);
        for (uint32_t e = 0; e < 256 && !full; e++) { /* around every fp16 tie */
            check_floats(k, ((uint64_t)e << 23) | 0xffe, 1ull << 32);
            for (uint32_t d = 0; d < 4; d++)
                check_floats(k, ((uint64_t)e << 23) + 0xfffu + d, 0x2000ull * 521);
        }
    }
}

/* ============================== Functions over all halves ================= */

/* Looked up or computed: the same bits, for every half and every arithmetic. */
static void check_looked_up(const Built *b, Surfaces *s, const char *op) {
    static const unsigned arithmetic[] = {0, SA_RUN_FLUSH, SA_RUN_COARSE, SA_RUN_FLUSH | SA_RUN_COARSE};
    uint16_t *computed = malloc(65536 * sizeof *computed);
    bool good = computed != NULL;
    for (int numerics = 0; numerics < 3 && good; numerics++)
        for (size_t i = 0; i < sizeof arithmetic / sizeof arithmetic[0] && good; i++) {
            SaRunOptions o = {.numerics = (SaNumerics)numerics, .arithmetic = arithmetic[i]};
            sa_tables_choose(SA_TABLES_NEVER);
            good = sa_plan_run(b->plan, 0, (const void *const *)s->in, s->out, &o) == SA_OK;
            memcpy(computed, s->out[0], 65536 * sizeof *computed);
            sa_tables_choose(SA_TABLES_ALWAYS);
            good = good && sa_plan_run(b->plan, 0, (const void *const *)s->in, s->out, &o) == SA_OK &&
                   memcmp(computed, s->out[0], 65536 * sizeof *computed) == 0;
        }
    sa_tables_choose(SA_TABLES_WORTH);
    free(computed);
    check_at(__LINE__, good, op);
}

/* Every unary operation on all 65536 halves, except where the reference says
 * NaN and a function of the engine would not. */
static void test_functions(void) {
    for (size_t i = 0; i < sizeof unary_programs / sizeof unary_programs[0]; i++) {
        char body[3000];
        snprintf(body, sizeof body, "func main<ios18>(tensor<fp16, [1, 64, 1, 1024]> x) {\n%s"
                 "tensor<fp16, [1, 64, 1, 1024]> y = %s[name=string(\"y\")];\n} -> (y);\n",
                 unary_programs[i].consts, unary_programs[i].op);
        Built b = build(body, UNIFORM);
        if (!CHECK(b.plan != NULL)) {
            unbuild(&b);
            continue;
        }
        Surfaces s = surfaces_make(b.plan, UNIFORM);
        for (size_t k = 0; k < 65536; k++)
            ((uint16_t *)s.in[0])[k] = (uint16_t)k;
        for (int numerics = 0; numerics < 2; numerics++) {
            Ref r = reference(&b, &s, (SaNumerics)numerics);
            for (int v = 0; sa_kernels_variant(v); v++) {
                sa_kernels_force(sa_kernels_variant(v));
                bool good = run(b.plan, &s, (SaNumerics)numerics, 0) == SA_OK &&
                            outputs_agree(&b, &s, &r, false, unary_programs[i].op);
                check_at(__LINE__, good, unary_programs[i].op);
            }
            ref_free(&r);
        }
        sa_kernels_force(NULL);
        check_looked_up(&b, &s, unary_programs[i].op);
        surfaces_free(&s);
        unbuild(&b);
    }
}

/* A table is made when it pays, once, and as many as there is room for. */
static void test_tables(void) {
    const SaKernels *k = sa_kernels_get();
    SaTabled of = {.unary = k->unary[SA_U_EXP], .round = k->round[SA_ROUND_AWAY]};
    sa_tables_choose(SA_TABLES_WORTH);
    CHECK(sa_table_of(k, SA_U_EXP, &of, 1000) == NULL); /* not yet */
    const uint16_t *t = sa_table_of(k, SA_U_EXP, &of, 1 << 20);
    CHECK((t != NULL) == (k->lookup != NULL) && sa_table_of(k, SA_U_EXP, &of, 1) == t);
    CHECK(sa_table_of(k, SA_U_RELU, &(SaTabled){.unary = k->unary[SA_U_RELU], .round = of.round}, 1 << 20) == NULL);
    CHECK(sa_table_of(k, SA_U_EXP, &(SaTabled){.unary = of.unary}, 1 << 20) == NULL);
    int made = 0;
    for (int i = 0; i < 100; i++) {
        SaTabled other = {.unary = k->unary[SA_U_POW], .round = of.round, .p = {(float)i, 0}};
        const uint16_t *u = sa_table_of(k, SA_U_POW, &other, 1 << 20);
        made += u != NULL;
        CHECK(u != t || !u);
    }
    CHECK(!k->lookup || (made > 1 && made < 100 && sa_table_of(k, SA_U_EXP, &of, 1) == t));
    sa_tables_choose(SA_TABLES_WORTH);
}

static void test_programs(void) {
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        seed_state = 1000 + i;
        if (programs[i].kinds & 1)
            check_program(__LINE__, programs[i].text, INTEGERS, !(programs[i].kinds & 8));
        if (programs[i].kinds & 2)
            check_program(__LINE__, programs[i].text, UNIFORM, false);
        if (programs[i].kinds & 4)
            check_program(__LINE__, programs[i].text, POSITIVE, false);
        if (programs[i].kinds & 16)
            check_program(__LINE__, programs[i].text, BITS, false);
    }
}

/* Products of many sizes, so that every edge of the blocking is met. */
static void test_product_sizes(void) {
    static const int sizes[][3] = {{1, 1, 1}, {1, 64, 3}, {5, 3, 7}, {12, 32, 32}, {13, 33, 31}, {47, 31, 100}, {96, 64, 385},
                                   {97, 257, 65}, {200, 300, 17}, {300, 40, 770}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int flags = 0; flags < 4; flags++) {
            int m = sizes[i][0], n = sizes[i][1], k = sizes[i][2], tx = flags & 1, ty = flags >> 1;
            char body[1200];
            snprintf(body, sizeof body, "func main<ios18>(tensor<fp16, [%d, %d]> x, tensor<fp16, [%d, %d]> z) {\n"
                     "bool tx = const()[name=string(\"tx\"), val=bool(%s)];\nbool ty = const()[name=string(\"ty\"), val=bool(%s)];\n"
                     "tensor<fp16, [%d, %d]> y = matmul(x=x, y=z, transpose_x=tx, transpose_y=ty)[name=string(\"y\")];\n} -> (y);\n",
                     tx ? k : m, tx ? m : k, ty ? n : k, ty ? k : n, tx ? "true" : "false", ty ? "true" : "false", m, n);
            check_program(__LINE__, body, INTEGERS, true);
            check_program(__LINE__, body, UNIFORM, false);
        }
}

/* Weights that are constants stay fp16 where a product can widen them chunk by chunk: the plan is
 * no larger than they are, and the results are those of fp32 copies. */
static void test_half_weights(void) {
    enum { ROWS = 320, COLS = 192 };
#define W2(name, a, b) "tensor<fp16, [" a ", " b "]> " name " = const()[name=string(\"" name "\"), val=tensor<fp16, [" a ", " b \
    "]>(BLOBFILE(path=string(\"@model_path/weights/" name ".bin\"), offset=uint64(64)))];\n"
#define FLAG(name, value) "bool " name " = const()[name=string(\"" name "\"), val=bool(" value ")];\n"
    static const struct {
        const char *body;
        bool half;
    } cases[] = {
        /* W x: rows of A lie together */
        {"func main<ios18>(tensor<fp16, [192, 96]> x) {\n" W2("w", "320", "192")
         "tensor<fp16, [320, 96]> y = matmul(x=w, y=x)[name=string(\"y\")];\n} -> (y);\n", true},
        /* x W^T: rows of B */
        {"func main<ios18>(tensor<fp16, [96, 192]> x) {\n" FLAG("f", "false") FLAG("t", "true") W2("w", "320", "192")
         "tensor<fp16, [96, 320]> y = matmul(x=x, y=w, transpose_x=f, transpose_y=t)[name=string(\"y\")];\n} -> (y);\n", true},
        {"func main<ios18>(tensor<fp16, [96, 192]> x) {\n" W2("w", "320", "192")
         "tensor<fp16, [96, 320]> y = linear(x=x, weight=w)[name=string(\"y\")];\n} -> (y);\n", true},
        /* W^T x: not rows of anything */
        {"func main<ios18>(tensor<fp16, [320, 96]> x) {\n" FLAG("f", "false") FLAG("t", "true") W2("w", "320", "192")
         "tensor<fp16, [192, 96]> y = matmul(x=w, y=x, transpose_x=t, transpose_y=f)[name=string(\"y\")];\n} -> (y);\n", false},
        /* few columns: widening would cost as much as the product */
        {"func main<ios18>(tensor<fp16, [192, 8]> x) {\n" W2("w", "320", "192")
         "tensor<fp16, [320, 8]> y = matmul(x=w, y=x)[name=string(\"y\")];\n} -> (y);\n", false},
        /* one matrix for two products, and once more for something else */
        {"func main<ios18>(tensor<fp16, [192, 96]> x, tensor<fp16, [192, 64]> u) {\n" W2("w", "320", "192")
         "tensor<fp16, [320, 96]> y = matmul(x=w, y=x)[name=string(\"y\")];\n"
         "tensor<fp16, [320, 64]> z = matmul(x=w, y=u)[name=string(\"z\")];\n} -> (y, z);\n", true},
        {"func main<ios18>(tensor<fp16, [192, 96]> x) {\n" W2("w", "320", "192")
         "tensor<fp16, [320, 96]> y = matmul(x=w, y=x)[name=string(\"y\")];\n"
         "tensor<fp16, [320, 192]> z = relu(x=w)[name=string(\"z\")];\n} -> (y, z);\n", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_program(__LINE__, cases[i].body, INTEGERS, true);
        check_program(__LINE__, cases[i].body, UNIFORM, false);
        Built b = build(cases[i].body, UNIFORM);
        if (CHECK(b.plan != NULL)) {
            size_t halves = (size_t)ROWS * COLS * 2;
            bool kept = sa_plan_bytes(b.plan) < halves + halves / 2;
            CHECK(kept == cases[i].half);
        }
        unbuild(&b);
    }
#undef W2
#undef FLAG
}

/* ============================== Training kernels ========================== */

/* ||got - want|| / ||want|| over all outputs. */
static double relative_error(const Built *b, const Surfaces *s, const Ref *r) {
    double num = 0, den = 0;
    const SaFunction *fn = &b->program->functions[0];
    const RefValue *x = &r->v[fn->outputs[0]->id];
    for (size_t i = 0; i < x->n; i++) {
        num += pow(port_get(sa_plan_output(b->plan, 0, 0), s->out[0], i) - x->y[i], 2);
        den += x->y[i] * x->y[i];
    }
    return sqrt(num / den);
}

/* Against exact mathematics, as the published tolerances are meant: the largest error below
 * 2e-2 of the largest value, the cosine above 0.999 (comparisons of these kernels with fp32 on
 * real chips: maderix/ANE). Returns whether both hold. */
static bool within_published(const Built *b, const Surfaces *s) {
    Ref r = reference(b, s, REF_EXACT);
    double most = 0, off = 0, xx = 0, yy = 0, xy = 0;
    const RefValue *x = &r.v[b->program->functions[0].outputs[0]->id];
    for (size_t i = 0; i < x->n; i++) {
        double got = port_get(sa_plan_output(b->plan, 0, 0), s->out[0], i), want = x->y[i];
        most = fmax(most, fabs(want));
        off = fmax(off, fabs(got - want));
        xx += want * want, yy += got * got, xy += got * want;
    }
    ref_free(&r);
    bool good = most > 0 && off / most < 2e-2 && xy / sqrt(xx * yy) > 0.999;
    if (!good)
        fprintf(stderr, "  largest error %.3g of %.3g, cosine %.6f\n", off, most, xy / sqrt(xx * yy));
    return good;
}

static void test_training_kernels(void) {
    for (int k = 0; k < TRAINING_KERNELS; k++) {
        char *body = malloc(1 << 16);
        training_kernel(k, body, 1 << 16);
        seed_state = 77;
        Built b = build(body, UNIFORM);
        if (CHECK(b.plan != NULL)) {
            Surfaces s = surfaces_make(b.plan, UNIFORM), one = surfaces_make(b.plan, UNIFORM);
            memcpy(one.in[0], s.in[0], sa_plan_input(b.plan, 0, 0)->bytes);
            Ref r = reference(&b, &s, SA_NUMERICS_FAST);
            CHECK(run(b.plan, &s, SA_NUMERICS_FAST, 0) == SA_OK);
            CHECK(run(b.plan, &one, SA_NUMERICS_FAST, 1) == SA_OK);
            CHECK(same_outputs(b.plan, &s, &one));
            CHECK(within_published(&b, &s));
            CHECK(run(b.plan, &one, SA_NUMERICS_SILICON, 0) == SA_OK && within_published(&b, &one));
            double e = relative_error(&b, &s, &r);
            if (!CHECK(e < 1.5e-3))
                fprintf(stderr, "training kernel %d: relative error %.3g\n", k, e);
            CHECK(sa_plan_flops(b.plan, 0) > 0 || k == 4);
            ref_free(&r);
            surfaces_free(&s);
            surfaces_free(&one);
        }
        unbuild(&b);
        free(body);
    }
}

/* ============================== Edges ===================================== */

/* y of a program with one fp16 input x and output y, all of x set to `in`. */
static double constant_run(const char *body, float in, SaNumerics numerics) {
    Built b = build(body, UNIFORM);
    if (!CHECK(b.plan != NULL))
        return NAN;
    Surfaces s = surfaces_make(b.plan, UNIFORM);
    for (size_t i = 0; i < sa_plan_input(b.plan, 0, 0)->bytes / 2; i++)
        ((uint16_t *)s.in[0])[i] = sa_half_from_float_even(in);
    CHECK(run(b.plan, &s, numerics, 0) == SA_OK);
    double y = port_get(sa_plan_output(b.plan, 0, 0), s.out[0], 0);
    surfaces_free(&s);
    unbuild(&b);
    return y;
}

static void test_edges(void) {
    const char *ones = "func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {\n"
                       "bool t = const()[name=string(\"t\"), val=bool(true)];\n"
                       "tensor<fp16, [1, 4, 1, 1]> y = matmul(x=x, y=x, transpose_y=t)[name=string(\"y\")];\n} -> (y);\n";
    CHECK(constant_run(ones, 31.984375f, SA_NUMERICS_FAST) == 32736.0);   /* 32 * 31.984^2 = 32736.0 */
    CHECK(isinf(constant_run(ones, 32.0f, SA_NUMERICS_FAST)));            /* 32768: out of the product unit */
    CHECK(constant_run(ones, 32.0f, SA_NUMERICS_IEEE) == 32768.0);
    const char *zero_over_zero = "func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {\n"
                                 "tensor<fp16, [1, 4, 1, 32]> y = real_div(x=x, y=x)[name=string(\"y\")];\n} -> (y);\n";
    CHECK(constant_run(zero_over_zero, 0.0f, SA_NUMERICS_FAST) == 0.0);
    CHECK(isnan(constant_run(zero_over_zero, 0.0f, SA_NUMERICS_IEEE)));
    const char *tie = "func main<ios18>(tensor<fp16, [1, 4, 1, 32]> x) {\nfp16 k = const()[name=string(\"k\"), val=fp16(2048)];\n"
                      "tensor<fp16, [1, 4, 1, 32]> y = add(x=x, y=k)[name=string(\"y\")];\n} -> (y);\n";
    CHECK(constant_run(tie, 1.0f, SA_NUMERICS_FAST) == 2050.0);           /* 2049 lies between 2048 and 2050 */
    CHECK(constant_run(tie, 1.0f, SA_NUMERICS_IEEE) == 2048.0);
}

static void test_ports(void) {
    Built b = build("func main<ios18>(tensor<fp16, [1, 2, 3, 31]> x, tensor<fp16, [2, 2, 2, 1, 32]> W, tensor<fp16, [5]> k) {\n"
                    "tensor<fp16, [1, 2, 3, 31]> b_ = relu(x=x)[name=string(\"b\")];\n"
                    "tensor<fp16, [2, 2, 2, 1, 32]> a_ = relu(x=W)[name=string(\"a\")];\n"
                    "tensor<fp16, [5]> Z = relu(x=k)[name=string(\"z\")];\n} -> (b_, a_, Z);\n", UNIFORM);
    if (!CHECK(b.plan != NULL))
        return;
    const SaPort *w = sa_plan_input(b.plan, 0, 0), *k = sa_plan_input(b.plan, 0, 1), *x = sa_plan_input(b.plan, 0, 2);
    CHECK(strcmp(w->name, "W") == 0 && strcmp(k->name, "k") == 0 && strcmp(x->name, "x") == 0);
    CHECK(strcmp(sa_plan_output(b.plan, 0, 0)->name, "Z") == 0 && strcmp(sa_plan_output(b.plan, 0, 2)->name, "b_") == 0);
    CHECK(x->row_stride == 64 && x->plane_stride == 192 && x->batch_stride == 384 && x->bytes == 384);
    CHECK(w->n == 4 && w->c == 2 && w->h == 1 && w->w == 32 && w->row_stride == 64 && w->bytes == 512);
    CHECK(k->w == 5 && k->h == 1 && k->bytes == 64);
    CHECK(sa_plan_procedures(b.plan) == 1 && strcmp(sa_plan_procedure_name(b.plan, 0), "main") == 0);
    CHECK(sa_plan_input(b.plan, 0, 3) == NULL && sa_plan_output(b.plan, 1, 0) == NULL && sa_plan_inputs(b.plan, -1) == 0);
    CHECK(sa_plan_bytes(b.plan) > 0);
    CHECK(sa_plan_run(b.plan, 7, NULL, NULL, NULL) == SA_E_BIND);
    unbuild(&b);
}

/* After one run a plan needs no memory; before it, each failure is reported. */
static void test_allocation(void) {
    char *body = malloc(1 << 16);
    training_kernel(0, body, 1 << 16);
    Built b = build(body, UNIFORM);
    if (!CHECK(b.plan != NULL))
        return;
    Surfaces s = surfaces_make(b.plan, UNIFORM);
    CHECK(run(b.plan, &s, SA_NUMERICS_FAST, 1) == SA_OK);
    CHECK(sa_failpoint_configure("arena.alloc=return") == SA_OK);
    CHECK(run(b.plan, &s, SA_NUMERICS_FAST, 1) == SA_OK);
    sa_failpoint_configure("exec.run=return");
    CHECK(run(b.plan, &s, SA_NUMERICS_FAST, 1) == SA_E_INJECTED);
    SaStatus st = SA_E_MEMORY;
    int n = 0;
    for (; n < 3000 && st != SA_OK; n++) {
        char text[64];
        SaPlan *p = NULL;
        SaError err;
        snprintf(text, sizeof text, n ? "arena.alloc=%d*off->1*return" : "arena.alloc=1*return", n);
        sa_failpoint_configure(text);
        st = sa_plan_build(b.program, &p, &err);
        sa_failpoint_configure("");
        if (st != SA_OK && (st != SA_E_MEMORY || p))
            break;
        sa_plan_free(p);
    }
    CHECK(st == SA_OK && n > 5);
    surfaces_free(&s);
    unbuild(&b);
    free(body);
}

/* ============================== Threads, fork ============================= */

typedef struct {
    const SaPlan *plan;
    Surfaces s;
    const Surfaces *want;
    int threads;
    bool good;
} Racer;

static void *race(void *arg) {
    Racer *r = arg;
    r->good = true;
    for (int i = 0; i < 20; i++)
        r->good = r->good && run(r->plan, &r->s, SA_NUMERICS_FAST, r->threads) == SA_OK && same_outputs(r->plan, &r->s, r->want);
    return NULL;
}

static void test_concurrent_runs(void) {
    enum { N = 6 };
    char *body = malloc(1 << 16);
    for (int k = 0; k < TRAINING_KERNELS; k += 3) {
        training_kernel(k, body, 1 << 16);
        Built b = build(body, UNIFORM);
        if (!CHECK(b.plan != NULL))
            return;
        Surfaces want = surfaces_make(b.plan, UNIFORM);
        CHECK(run(b.plan, &want, SA_NUMERICS_FAST, 1) == SA_OK);
        Racer r[N];
        pthread_t t[N];
        for (int i = 0; i < N; i++) {
            r[i] = (Racer){.plan = b.plan, .s = surfaces_make(b.plan, UNIFORM), .want = &want, .threads = i % 3};
            memcpy(r[i].s.in[0], want.in[0], sa_plan_input(b.plan, 0, 0)->bytes);
        }
        for (int i = 0; i < N; i++)
            pthread_create(&t[i], NULL, race, &r[i]);
        for (int i = 0; i < N; i++) {
            pthread_join(t[i], NULL);
            CHECK(r[i].good);
            surfaces_free(&r[i].s);
        }
        surfaces_free(&want);
        unbuild(&b);
    }
    free(body);
}

typedef struct {
    atomic_int count[1000];
} Tally;

static void tally_chunk(void *context, size_t chunk) { atomic_fetch_add(&((Tally *)context)->count[chunk], 1); }

static void test_pool(void) {
    bool good = true;
    for (size_t round = 0; round < 3000; round++) {
        Tally *t = calloc(1, sizeof *t);
        size_t n = round % 1000;
        sa_parallel((int)(round % 4), n, tally_chunk, t);
        for (size_t i = 0; i < 1000; i++)
            good = good && atomic_load(&t->count[i]) == (i < n);
        free(t);
        if (round % 500 == 0)
            usleep(2000); /* let the workers fall asleep */
    }
    CHECK(good);
}

static void test_fork(void) {
    char *body = malloc(1 << 16);
    training_kernel(1, body, 1 << 16);
    Built b = build(body, UNIFORM);
    if (!CHECK(b.plan != NULL))
        return;
    Surfaces s = surfaces_make(b.plan, UNIFORM), want = surfaces_make(b.plan, UNIFORM);
    memcpy(s.in[0], want.in[0], sa_plan_input(b.plan, 0, 0)->bytes);
    CHECK(run(b.plan, &want, SA_NUMERICS_FAST, 0) == SA_OK);
    pid_t pid = fork();
    if (pid == 0)
        _exit(run(b.plan, &s, SA_NUMERICS_FAST, 0) == SA_OK && same_outputs(b.plan, &s, &want) ? 0 : 1);
    int status = 1;
    waitpid(pid, &status, 0);
    CHECK(status == 0);
    surfaces_free(&s);
    surfaces_free(&want);
    unbuild(&b);
    free(body);
}

int main(int argc, char **argv) {
    full = argc > 1 && strcmp(argv[1], "--full") == 0;
    test_pool();
    test_conversions();
    test_functions();
    test_tables();
    test_programs();
    test_product_sizes();
    test_half_weights();
    test_training_kernels();
    test_edges();
    test_ports();
    test_allocation();
    test_concurrent_runs();
    test_fork();
    printf("exec (%s): %d passed, %d failed\n", sa_exec_isa(), passed, failed);
    return failed != 0;
}
