// SPDX-License-Identifier: MIT
/* test_fuse.c - passes of elementwise steps (plan/fuse.c): the same bits as the
 * steps one by one, in every arithmetic, on one thread and on two.
 *
 *   written   programs as trainers have them; how many passes each becomes
 *   graphs    random elementwise graphs over one shape, with every kind of
 *             broadcast, sizes around a block and around a chunk
 *   random    the programs of gen_program.h, where passes meet everything else
 *
 * Usage: test_fuse [graphs [programs [first seed]]]. Exit 1 on failure. */
#include "gen_program.c" /* one program, one translation unit */

#include "ops_harness.h"

#include "../exec/exec.h"
#include "../plan/steps.h"

static long passes_seen, steps_joined, registers_seen;

/* ============================== Comparison ================================ */

static int passes_of(const SaPlan *plan) {
    int n = 0;
    for (int i = 0; i < plan->procs[0].n_steps; i++)
        n += plan->procs[0].steps[i].pass != 0;
    return n;
}

static void count_passes(const SaPlan *plan) {
    for (int i = 0; i < plan->procs[0].n_steps; i++) {
        const SaStep *s = &plan->procs[0].steps[i];
        passes_seen += s->pass > 1;
        steps_joined += s->pass != 1;
        registers_seen += s->out_reg != 0;
    }
}

static const struct {
    SaNumerics numerics;
    unsigned arithmetic;
} settings[] = {
    {SA_NUMERICS_FAST, 0}, {SA_NUMERICS_IEEE, 0}, {SA_NUMERICS_SILICON, 0}, {SA_NUMERICS_FAST, SA_RUN_FLUSH},
    {SA_NUMERICS_FAST, SA_RUN_COARSE | SA_RUN_UNLIMITED}, {SA_NUMERICS_SILICON, SA_RUN_FLUSH | SA_RUN_COARSE | SA_RUN_UNMASKED},
};

/* Steps joined, functions of fp16 looked up; or neither: the same outputs. */
static bool same_bits(const Built *b, DataKind kind) {
    SaPlan *apart = NULL;
    SaError err = {0};
    if (!CHECK(sa_plan_build_unfused(b->program, &apart, &err) == SA_OK))
        return false;
    bool good = passes_of(apart) == apart->procs[0].n_steps;
    Surfaces one = surfaces_make(b->plan, kind), two = surfaces_make(b->plan, kind);
    for (int k = 0; k < one.n_in; k++)
        memcpy(two.in[k], one.in[k], sa_plan_input(b->plan, 0, k)->bytes);
    for (size_t i = 0; i < sizeof settings / sizeof settings[0] && good; i++)
        for (int threads = 1; threads <= 2 && good; threads++) {
            SaRunOptions o = {.numerics = settings[i].numerics, .arithmetic = settings[i].arithmetic, .threads = threads};
            sa_tables_choose(SA_TABLES_ALWAYS);
            good = sa_plan_run(b->plan, 0, (const void *const *)one.in, one.out, &o) == SA_OK;
            sa_tables_choose(SA_TABLES_NEVER);
            good = good && sa_plan_run(apart, 0, (const void *const *)two.in, two.out, &o) == SA_OK && same_outputs(apart, &one, &two);
            if (!good)
                fprintf(stderr, "setting %zu, %d threads: fused and unfused differ\n", i, threads);
        }
    surfaces_free(&one);
    surfaces_free(&two);
    sa_plan_free(apart);
    count_passes(b->plan);
    return good;
}

static void check_text(const char *text, DataKind kind, int steps, int passes) {
    Built b = build(text, strlen(text), kind);
    if (!CHECK_AS(b.status == SA_OK, b.err.text))
        fprintf(stderr, "%s", text);
    if (b.status == SA_OK) {
        int n = b.plan->procs[0].n_steps, p = passes_of(b.plan);
        bool good = same_bits(&b, kind) && (steps < 0 || (n == steps && p == passes));
        if (!CHECK_AS(good, "fused and unfused"))
            fprintf(stderr, "%d steps in %d passes, expected %d in %d\n%s", n, p, steps, passes, text);
    }
    unbuild(&b);
}

/* ============================== Written =================================== */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
#define FUNC(params) HEAD "func main<ios18>(" params ") {\n"
#define END(outs) "} -> (" outs ");\n}\n"
#define T(dims) "tensor<fp16, [" dims "]>"
#define OP(type, id, expr) type " " id " = " expr "[name=string(\"" id "\")];\n"
#define F16(id, v) "fp16 " id " = const()[name=string(\"" id "\"), val=fp16(" v ")];\n"
#define BLOB(id, dims) T(dims) " " id " = const()[name=string(\"" id "\"), val=" T(dims) \
    "(BLOBFILE(path=string(\"@model_path/weights/" id ".bin\"), offset=uint64(64)))];\n"
#define AXIS1 "tensor<int32, [1]> a = const()[name=string(\"a\"), val=tensor<int32, [1]>([1])];\n" \
    "bool k = const()[name=string(\"k\"), val=bool(true)];\n"
#define X "1, 96, 1, 128"
#define S "1, 1, 1, 128"

static const struct {
    int steps, passes;
    const char *text;
} written[] = {
    /* SwiGLU's product; its gradient */
    {2, 1, FUNC(T(X) " x, " T(X) " z") OP(T(X), "s", "sigmoid(x=x)") OP(T(X), "y", "mul(x=s, y=z)") END("y")},
    {4, 1, FUNC(T(X) " x, " T(X) " z") F16("one", "1") OP(T(X), "s", "sigmoid(x=x)") OP(T(X), "m", "sub(x=one, y=s)")
               OP(T(X), "n", "mul(x=s, y=m)") OP(T(X), "y", "mul(x=n, y=z)") END("y, s")},
    /* RMSNorm: square | sum | small ones in one pass | scale and gain in one */
    {7, 4, FUNC(T(X) " x") AXIS1 F16("c", "0.0104") F16("e", "0.00001") F16("p", "-0.5") BLOB("w", "1, 96, 1, 1")
               OP(T(X), "q", "mul(x=x, y=x)") OP(T(S), "s", "reduce_sum(x=q, axes=a, keep_dims=k)") OP(T(S), "t", "mul(x=s, y=c)")
               OP(T(S), "u", "add(x=t, y=e)") OP(T(S), "r", "pow(x=u, y=p)") OP(T(X), "n", "mul(x=x, y=r)") OP(T(X), "y", "mul(x=n, y=w)") END("y")},
    /* rows of 128, then all: cut where the broadcast is; the result takes the place of x */
    {3, 1, FUNC(T(X) " x, " T(S) " z") OP(T(X), "s", "add(x=x, y=z)") OP(T(X), "t", "square(x=s)") OP(T(X), "y", "mul(x=t, y=x)") END("y")},
    /* what is read shifted is memory, and another pass */
    {3, 3, FUNC(T("1, 2, 64, 64") " x") OP(T("1, 2, 64, 64"), "s", "square(x=x)")
               "tensor<int32, [4]> b = const()[name=string(\"b\"), val=tensor<int32, [4]>([0, 1, 0, 0])];\n"
               "tensor<int32, [4]> z = const()[name=string(\"z\"), val=tensor<int32, [4]>([1, 1, 64, 64])];\n"
               OP(T("1, 1, 64, 64"), "h", "slice_by_size(x=s, begin=b, size=z)") OP(T("1, 1, 64, 64"), "y", "exp(x=h)")
               OP(T("1, 2, 64, 64"), "v", "mul(x=s, y=h)") END("y, v")},
    /* a view between; a cast that rounds; a choice */
    {5, 1, FUNC(T(X) " x, tensor<fp32, [" X "]> z") F16("h", "0.25") "string g = const()[name=string(\"g\"), val=string(\"fp16\")];\n"
               "tensor<int32, [4]> d = const()[name=string(\"d\"), val=tensor<int32, [4]>([1, 96, 128, 1])];\n"
               OP(T(X), "r", "mul(x=x, y=x)") OP(T(X), "w", "cast(x=z, dtype=g)") OP("tensor<bool, [" X "]>", "c", "less(x=r, y=h)")
               OP(T(X), "e", "select(cond=c, a=r, b=w)") OP(T("1, 96, 128, 1"), "v", "reshape(x=e, shape=d)")
               OP(T("1, 96, 128, 1"), "y", "tanh(x=v)") END("y")},
    /* a dropped scalar of silicon in a pass */
    {3, 1, FUNC(T(X) " x") F16("h", "3") OP(T(X), "f", "floor(x=x)") OP(T(X), "m", "mul(x=f, y=h)") OP(T(X), "y", "add(x=m, y=x)") END("y")},
};

/* ============================== Graphs ==================================== */

static const char *const functions[] = {
    "square(x=%s)", "sigmoid(x=%s)", "tanh(x=%s)", "exp(x=%s)", "relu(x=%s)", "abs(x=%s)", "floor(x=%s)", "silu(x=%s)", "softplus(x=%s)",
    "cos(x=%s)",
};
static const char *const operators[] = {"add", "sub", "mul", "real_div", "maximum", "minimum"};

/* A random graph over [1, C, 1, S]: operands are what came before, parameters,
 * constants, and vectors along either axis. */
static void random_graph(char *text, size_t cap, uint64_t seed) {
    static const int sides[] = {1, 2, 3, 16, 31, 32, 33, 64, 100, 511, 512, 513, 700, 2049};
    seed_state = seed * 7919 + 1;
    int c = sides[below(9)], s = sides[below(14)], made = 0, ops = 2 + (int)below(22);
    size_t n = (size_t)snprintf(text, cap, FUNC(T("1, %d, 1, %d") " x, " T("1, %d, 1, %d") " z, " T("1, 1, 1, %d") " row, " T("1, %d, 1, 1") " col")
                                F16("k", "0.5") BLOB("g", "1, %d, 1, 1"), c, s, c, s, s, c, c, c);
    static const char *const outside[] = {"x", "z", "row", "col", "k", "g"};
    for (; made < ops; made++) {
        char a[16], b[16], expr[80];
        int back = made < 6 ? made : 6;
        snprintf(a, sizeof a, "v%d", made - 1 - (int)below((uint32_t)(back ? back : 1)));
        if (!made || below(5) == 0)
            snprintf(a, sizeof a, "%s", outside[below(2)]);
        snprintf(b, sizeof b, "v%d", made - 1 - (int)below((uint32_t)(back ? back : 1)));
        if (!made || below(2))
            snprintf(b, sizeof b, "%s", outside[below(6)]);
        if (below(3) == 0)
            snprintf(expr, sizeof expr, functions[below(sizeof functions / sizeof functions[0])], a);
        else
            snprintf(expr, sizeof expr, "%s(x=%s, y=%s)", operators[below(6)], below(2) ? a : b, a);
        if (strchr(expr, 'y') && below(2))
            snprintf(expr, sizeof expr, "%s(x=%s, y=%s)", operators[below(6)], a, b);
        n += (size_t)snprintf(text + n, cap - n, OP(T("1, %d, 1, %d"), "v%d", "%s"), c, s, made, expr, made);
    }
    if (made > 2 && below(3) == 0) /* a value inside is an output too */
        snprintf(text + n, cap - n, END("v%d, v%d"), made - 1, made / 2);
    else
        snprintf(text + n, cap - n, END("v%d"), made - 1);
}

/* ============================== Random programs =========================== */

static void random_program(uint64_t seed) {
    GenOptions o = {.seed = seed, .n_ops = 5 + (int)(seed % 25), .integers = false, .dialect = 'A'};
    SaArena *arena = sa_arena_new(0);
    char *text = NULL;
    bool seen[SA_OP_COUNT] = {false};
    SaProgram *p = arena ? gen_program(arena, &o, seen) : NULL;
    if (CHECK(p && sa_program_print(p, &text) == SA_OK)) {
        seed_state = seed;
        check_text(text, seed % 3 == 0 ? BITS : seed % 3 == 1 ? UNIFORM : POSITIVE, -1, 0);
    }
    sa_free(text);
    sa_arena_free(arena);
}

int main(int argc, char **argv) {
    long graphs = argc > 1 ? atol(argv[1]) : 600, programs = argc > 2 ? atol(argv[2]) : 1000, first = argc > 3 ? atol(argv[3]) : 1;
    sa_gemm_choose(false);
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++)
        for (int kind = UNIFORM; kind <= BITS; kind++)
            check_text(written[i].text, (DataKind)kind, written[i].steps, written[i].passes);
    char *text = malloc(1 << 16);
    for (long i = 0; text && i < graphs && failed < 5; i++) {
        random_graph(text, 1 << 16, (uint64_t)(first + i));
        check_text(text, i % 2 ? BITS : UNIFORM, -1, 0);
    }
    free(text);
    long by_graphs = passes_seen;
    CHECK_AS(by_graphs > graphs / 2, "most graphs have a pass");
    for (long i = 0; i < programs && failed < 5; i++)
        random_program((uint64_t)(first + i));
    CHECK_AS(programs < 100 || passes_seen - by_graphs > programs / 50, "random programs have passes");
    printf("%ld steps in %ld passes, %ld results in registers\n", steps_joined, passes_seen, registers_seen);
    printf("test_fuse: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
