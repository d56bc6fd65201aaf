// SPDX-License-Identifier: MIT
/* test_hardening.c - the corpus while memory is failing, and limits on both sides.
 *
 * For every program of the corpus the n-th allocation of parse, check, plan,
 * print and run fails, for n = 0, 1, … until all go through: each attempt must
 * say E_MEMORY, or the error the program has anyway, and leave nothing behind
 * (the leak checker's business). Programs with errors fail as they always do.
 *
 * Usage: test_hardening [--full]    --full: both dialects, every n. Exit 1 on failure. */
#include "ops_harness.h"

#include "../mil/mil_internal.h"

static bool full;
static long attempts;

/* ============================== Memory ==================================== */

/* Contents for constants in files, without asking for memory. */
static const uint64_t zeros[1 << 14];

static void zero_value(const SaValue *v) {
    SaConst *c = (SaConst *)(uintptr_t)v->constant;
    if (c->blob_path && c->bytes <= sizeof zeros)
        c->data = zeros;
}

static void zero_blobs(SaProgram *p) {
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++) {
            SaOp *op = &p->functions[f].ops[i];
            if (op->id == SA_OP_CONST)
                zero_value(op->results[0]);
            for (int a = 0; a < op->n_args; a++)
                if (op->args[a].is_attribute)
                    zero_value(op->args[a].values[0]);
        }
}

static SaStatus evaluate(const SaPlan *plan) {
    static char surfaces[1 << 20];
    const void *in[64];
    void *out[64];
    size_t at = 0;
    if (sa_plan_inputs(plan, 0) > 64 || sa_plan_outputs(plan, 0) > 64)
        return SA_OK;
    for (int i = 0; i < sa_plan_inputs(plan, 0); i++, at += sa_plan_input(plan, 0, i - 1)->bytes)
        in[i] = surfaces + at;
    for (int i = 0; i < sa_plan_outputs(plan, 0); i++, at += sa_plan_output(plan, 0, i - 1)->bytes)
        out[i] = surfaces + at;
    if (at > sizeof surfaces)
        return SA_OK;
    SaRunOptions o = {.threads = 1};
    return sa_plan_run(plan, 0, in, out, &o);
}

/* Everything that can be done with a text. */
static SaStatus whole_way(const Item *it, SaError *err) {
    SaArena *arena = sa_arena_new(0);
    SaProgram *p = NULL;
    SaPlan *plan = NULL;
    char *printed = NULL;
    SaStatus st = arena ? sa_program_parse(arena, it->text, it->bytes, lenient(), &p, err) : SA_E_MEMORY;
    if (st == SA_OK)
        st = sa_program_check(arena, p, lenient(), err);
    if (st == SA_OK)
        st = sa_program_print(p, &printed);
    if (st == SA_OK) {
        zero_blobs(p);
        st = sa_plan_build(p, &plan, err);
    }
    if (st == SA_OK)
        st = evaluate(plan);
    sa_free(printed);
    sa_plan_free(plan);
    sa_arena_free(arena);
    return st;
}

static void item_survives(const char *name, const Item *it) {
    SaError err = {0};
    if (!full && strlen(name) > 6 && strcmp(name + strlen(name) - 6, "_b.mil") == 0)
        return;
    SaStatus want = whole_way(it, &err), got = SA_E_MEMORY;
    bool good = true;
    int n = 0, step = 1;
    for (; good && n < 100000; n += step) {
        char point[64];
        snprintf(point, sizeof point, "arena.alloc=%d*off->1*return", n);
        sa_failpoint_configure(point);
        got = whole_way(it, &err);
        sa_failpoint_configure("");
        attempts++;
        if (got == want)
            break;
        good = got == SA_E_MEMORY;
        step = full || n < 60 ? 1 : 1 + n / 20; /* the later ones are much alike */
    }
    char what[300];
    snprintf(what, sizeof what, "%s: %s at allocation %d, %s without", name, sa_status_name(got), n, sa_status_name(want));
    CHECK_AS(good && got == want, what);
}

/* ============================== Limits ==================================== */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"a\", \"b\"}})]\n{\n"

static SaStatus status_of(const char *text, const SaLimits *limits) {
    SaArena *arena = sa_arena_new(0);
    SaProgram *p;
    SaStatus st = sa_program_parse(arena, text, strlen(text), limits, &p, NULL);
    st = st ? st : sa_program_check(arena, p, limits, NULL);
    sa_arena_free(arena);
    return st;
}

/* `n` times a character. */
static const char *run_of(char c, int n) {
    static char buf[2][4096];
    static int which;
    char *s = buf[which++ & 1];
    memset(s, c, (size_t)n);
    s[n] = '\0';
    return s;
}

static void sizes_of_words_are_limited(void) {
    char text[9000];
    for (int over = 0; over < 2; over++) {
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [2]> x) {\ntensor<fp16, [2]> %s = abs(x=x)[name=\"y\"];\n} -> (%s);\n}\n",
                 run_of('y', SA_MAX_NAME + over), run_of('y', SA_MAX_NAME + over));
        CHECK(status_of(text, NULL) == (over ? SA_E_LIMIT : SA_OK));
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [2]> x) {\nfp16 k = const()[name=\"k\", val=fp16(%s1)];\n"
                 "tensor<fp16, [2]> y = add(x=x, y=k)[name=\"y\"];\n} -> (y);\n}\n", run_of('0', SA_MAX_NUMBER - 1 + over));
        CHECK(status_of(text, NULL) == (over ? SA_E_LIMIT : SA_OK));
    }
}

static void ranks_are_limited(void) {
    static const struct {
        const char *dims;
        SaStatus want;
    } consts[] = {{"1, 1, 1, 1, 2", SA_OK}, {"1, 1, 1, 1, 1, 2", SA_OK}, {"1, 1, 1, 1, 1, 1, 2", SA_OK}, {"1, 1, 1, 1, 1, 1, 1, 2", SA_E_LIMIT}};
    char text[2000];
    for (size_t i = 0; i < sizeof consts / sizeof *consts; i++) {
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [2]> x) {\ntensor<fp16, [%s]> k = const()[name=\"k\", val=tensor<fp16, [%s]>([1, 2])];\n"
                 "tensor<fp16, [2]> y = abs(x=x)[name=\"y\"];\n} -> (y);\n}\n", consts[i].dims, consts[i].dims);
        CHECK_AS(status_of(text, NULL) == consts[i].want, consts[i].dims);
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [%s]> x) {\ntensor<fp16, [%s]> y = abs(x=x)[name=\"y\"];\n} -> (y);\n}\n",
                 consts[i].dims, consts[i].dims);
        CHECK_AS(status_of(text, NULL) == (i == 0 ? SA_OK : SA_E_LIMIT), consts[i].dims);
    }
}

/* What the engine refuses, with and without leave. */
static void refusals_follow_the_limits(void) {
    static const char *const bodies[] = {
        "int32 k = const()[name=\"k\", val=int32(3)];\ntensor<fp16, [4, 3]> y, tensor<int32, [4, 3]> i = topk(x=x, k=k)[name=\"y\"];\n",
        "tensor<fp16, [4, 8]> y = tan(x=x)[name=\"y\"];\n",
        ("int32 a = const()[name=\"a\", val=int32(1)];\ntensor<int32, [4]> i = reduce_argmax(x=x)[name=\"i\"];\n"
         "tensor<fp16, [4, 4]> y = gather(x=x, indices=i, axis=a)[name=\"y\"];\n"),
    };
    SaLimits strict;
    sa_limits_default(&strict);
    CHECK(!strict.allow_refused);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char text[1000];
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [4, 8]> x) {\n%s} -> (y);\n}\n", bodies[i]);
        SaStatus st = status_of(text, &strict);
        CHECK_AS(st == SA_E_OP || st == SA_E_LIMIT, bodies[i]);
        CHECK_AS(status_of(text, lenient()) == SA_OK, bodies[i]);
    }
    for (int channels = 15; channels <= 16; channels++) {
        char text[1000];
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [1, %d, 4]> x) {\nint32 s = const()[name=\"s\", val=int32(3)];\n"
                 "tensor<fp16, [1, %d, 4]> y = local_response_norm(x=x, size=s)[name=\"y\"];\n} -> (y);\n}\n", channels, channels);
        CHECK(status_of(text, &strict) == (channels < 16 ? SA_OK : SA_E_LIMIT));
        CHECK(status_of(text, lenient()) == SA_OK);
    }
}

/* ---- every limit at N and N + 1 */

/* Head, `count` pieces made from a format with one number (twice), tail. Freed by the caller. */
static char *pieces(const char *head, const char *piece, int count, const char *tail) {
    size_t cap = strlen(head) + (strlen(piece) + 24) * (size_t)count + strlen(tail) + 1, n = 0;
    char *s = malloc(cap);
    n += (size_t)snprintf(s, cap, "%s", head);
    for (int i = 0; i < count; i++)
        n += (size_t)snprintf(s + n, cap - n, piece, i, i);
    snprintf(s + n, cap - n, "%s", tail);
    return s;
}

static SaStatus status_of_pieces(const char *head, const char *piece, int count, const char *tail, const SaLimits *limits) {
    char *text = pieces(head, piece, count, tail);
    SaStatus st = status_of(text, limits);
    free(text);
    return st;
}

static const char one_input[] = HEAD "func main<i>(tensor<fp16, [2]> x) {\n";
static const char one_op[] = "tensor<fp16, [2]> y%d = abs(x=x)[name=\"y%d\"];\n";

static void numbers_of_things_are_limited(void) {
    SaLimits few;
    sa_limits_default(&few);
    CHECK(few.max_ports == 255 && few.max_ops == 65536 && few.max_text_bytes == (size_t)64 << 20);
    for (int over = 0; over < 2; over++) {
        SaStatus want = over ? SA_E_LIMIT : SA_OK;
        CHECK(status_of_pieces(HEAD, "func f%d<i>(tensor<fp16, [2]> x) {\ntensor<fp16, [2]> y = abs(x=x)[name=\"y%d\"];\n} -> (y);\n",
                               SA_MAX_FUNCTIONS + over, "}\n", NULL) == want);
        CHECK(status_of_pieces(HEAD "func main<i>(", "tensor<fp16, [2]> x%d, ", few.max_ports - 1 + over,
                               "tensor<fp16, [2]> x) {\ntensor<fp16, [2]> y = abs(x=x)[name=\"y\"];\n} -> (y);\n}\n", NULL) == want);
        char *ops = pieces(one_input, one_op, few.max_ports + over, "} -> (y0");
        char *text = malloc(strlen(ops) + 3000);
        size_t n = (size_t)sprintf(text, "%s", ops);
        for (int i = 1; i < few.max_ports + over; i++)
            n += (size_t)sprintf(text + n, ", y%d", i);
        strcpy(text + n, ");\n}\n");
        CHECK(status_of(text, NULL) == want);
        free(text), free(ops);
        SaLimits nine = few;
        nine.max_ops = 9;
        CHECK(status_of_pieces(one_input, one_op, 9 + over, "} -> (y0);\n}\n", &nine) == want);
        text = pieces(one_input, one_op, 1, "} -> (y0);\n}\n");
        SaLimits bytes = few;
        bytes.max_text_bytes = strlen(text) - (size_t)over;
        CHECK(status_of(text, &bytes) == want);
        free(text);
        /* one more operand than anything takes: the limit comes before the name */
        SaStatus st = status_of_pieces(HEAD "func main<i>(tensor<fp16, [2]> x) {\ntensor<fp16, [2]> y = abs(x=x", ", a%d=x", SA_MAX_ARGS - 1 + over,
                                       ")[name=\"y\"];\n} -> (y);\n}\n", NULL);
        CHECK(over ? st == SA_E_LIMIT : st == SA_E_OPERAND);
    }
}

static SaStatus status_of_abs(const char *dims, const SaLimits *limits) {
    char text[1000];
    snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [%s]> x) {\ntensor<fp16, [%s]> y = abs(x=x)[name=\"y\"];\n} -> (y);\n}\n", dims, dims);
    return status_of(text, limits);
}

static SaStatus status_of_conv(int channels, int kernel, const SaLimits *limits) {
    char text[1200];
    snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [1, %d, 1, 32]> x) {\ntensor<fp16, [2, %d, 1, %d]> w = const()[name=\"w\", "
             "val=tensor<fp16, [2, %d, 1, %d]>(BLOBFILE(path=\"@model_path/weights/w.bin\", offset=uint64(64)))];\n"
             "tensor<fp16, [1, 2, 1, %d]> y = conv(x=x, weight=w)[name=\"y\"];\n} -> (y);\n}\n",
             channels, channels, kernel, channels, kernel, 33 - kernel);
    return status_of(text, limits);
}

static void sizes_of_tensors_are_limited(void) {
    SaLimits l;
    sa_limits_default(&l);
    CHECK(l.max_dim == 65536 && l.max_width == 65536 && l.max_conv_in == 31999 && l.max_kernel_width == 15);
    CHECK(status_of_abs("1, 65536, 1, 2", NULL) == SA_OK && status_of_abs("1, 65537, 1, 2", NULL) == SA_E_LIMIT);
    CHECK(status_of_abs("65536, 2", NULL) == SA_OK && status_of_abs("65537, 2", NULL) == SA_E_LIMIT);
    CHECK(status_of_abs("2, 65536", NULL) == SA_OK && status_of_abs("2, 65537", NULL) == SA_E_LIMIT);
    CHECK(status_of_abs("256, 65536, 65536", NULL) == SA_OK); /* 2^40 elements: SA_MAX_COUNT */
    CHECK(status_of_abs("257, 65536, 65536", NULL) == SA_E_LIMIT);
    CHECK(status_of_conv(31999, 1, NULL) == SA_OK && status_of_conv(32000, 1, NULL) == SA_E_LIMIT);
    CHECK(status_of_conv(2, 15, NULL) == SA_OK && status_of_conv(2, 16, NULL) == SA_E_LIMIT);
    l.max_width = 100; /* narrower than the other axes may be */
    CHECK(status_of_abs("101, 100", &l) == SA_OK && status_of_abs("100, 101", &l) == SA_E_LIMIT);
    l.max_conv_in = 8, l.max_kernel_width = 3;
    CHECK(status_of_conv(8, 3, &l) == SA_OK && status_of_conv(9, 3, &l) == SA_E_LIMIT && status_of_conv(8, 4, &l) == SA_E_LIMIT);
}

/* k = 3 and 4 are what the engine was seen to refuse. */
static void only_two_counts_of_topk_are_refused(void) {
    for (int k = 1; k <= 8; k++) {
        char text[1000];
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [4, 8]> x) {\nint32 k = const()[name=\"k\", val=int32(%d)];\n"
                 "tensor<fp16, [4, %d]> y, tensor<int32, [4, %d]> i = topk(x=x, k=k)[name=\"y\"];\n} -> (y);\n}\n", k, k, k);
        CHECK(status_of(text, NULL) == (k == 3 || k == 4 ? SA_E_LIMIT : SA_OK));
    }
}

/* ---- results of rank 5 and 6, whatever makes them */

static void ranks_of_results_are_limited(void) {
    static const struct {
        const char *input, *constants, *call, *fits, *over; /* result with 5 axes and with 6; %1 … %6: see words */
    } cases[] = {
        {"[4, 8]", "tensor<int32, [%1]> s = const()[name=\"s\", val=tensor<int32, [%1]>([%2])];\n", "reshape(x=x, shape=s)", "4, 1, 1, 1, 8", "4, 1, 1, 1, 1, 8"},
        {"[4, 8]", "tensor<int32, [%3]> s = const()[name=\"s\", val=tensor<int32, [%3]>([%4])];\n", "expand_dims(x=x, axes=s)", "4, 1, 1, 1, 8", "4, 1, 1, 1, 1, 8"},
        {"[%5]", "int32 a = const()[name=\"a\", val=int32(1)];\n", "stack(values=(x, x), axis=a)", "4, 2, 1, 1, 8", "4, 2, 1, 1, 1, 8"},
        {"[4, 1, 8]", "int32 a = const()[name=\"a\", val=int32(1)];\ntensor<int32, [%6]> i = const()[name=\"i\", val=tensor<int32, [%6]>([0])];\n",
         "gather(x=x, indices=i, axis=a)", "4, 1, 1, 1, 8", "4, 1, 1, 1, 1, 8"},
        {"[%5]", "int32 a = const()[name=\"a\", val=int32(1)];\nint32 s = const()[name=\"s\", val=int32(1)];\n",
         "sliding_windows(x=x, axis=a, size=s)", "4, 1, 1, 1, 8", "4, 1, 1, 1, 1, 8"},
        {"[2]", "tensor<int32, [%1]> s = const()[name=\"s\", val=tensor<int32, [%1]>([%2])];\nfp16 v = const()[name=\"v\", val=fp16(1)];\n",
         "fill(shape=s, value=v)", "4, 1, 1, 1, 8", "4, 1, 1, 1, 1, 8"},
        {"[4, 1, 1, 8]", "tensor<int32, [%6]> i = const()[name=\"i\", val=tensor<int32, [%6]>([0])];\n", "gather_nd(x=x, indices=i)", "1, 1, 1, 1, 8", "1, 1, 1, 1, 1, 8"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int over = 0; over < 2; over++) {
            const char *dims = over ? cases[c].over : cases[c].fits;
            const char *words[7] = {"", over ? "6" : "5", dims, over ? "4" : "3", over ? "1, 2, 3, 4" : "1, 2, 3",
                                    over ? "4, 1, 1, 1, 8" : "4, 1, 1, 8", over ? "1, 1, 1, 1" : "1, 1, 1"};
            char plain[1200], text[2000];
            size_t n = 0;
            snprintf(plain, sizeof plain, HEAD "func main<i>(tensor<fp16, %s> x) {\n%stensor<fp16, [%s]> y = %s[name=\"y\"];\n} -> (y);\n}\n",
                     cases[c].input, cases[c].constants, over ? "2" : dims, cases[c].call); /* a type of rank 6 cannot even be written */
            for (const char *p = plain; *p && n < sizeof text - 40; p++)
                if (*p == '%')
                    n += (size_t)snprintf(text + n, sizeof text - n, "%s", words[*++p - '0']);
                else
                    text[n++] = *p;
            text[n] = '\0';
            SaStatus st = status_of(text, NULL);
            CHECK_AS(st == (over ? SA_E_LIMIT : SA_OK), cases[c].call);
        }
}

/* ---- limits of plans */

static SaStatus plan_status(const char *text, const SaLimits *limits, SaError *err) {
    SaArena *arena = sa_arena_new(0);
    SaProgram *p;
    SaPlan *plan = NULL;
    SaStatus st = sa_program_parse(arena, text, strlen(text), limits, &p, err);
    st = st ? st : sa_program_check(arena, p, limits, err);
    if (st == SA_OK) {
        zero_blobs(p);
        st = sa_plan_build(p, &plan, err);
    }
    sa_plan_free(plan);
    sa_arena_free(arena);
    return st;
}

/* Does a plan of this text meet a limit that says so? NULL: it must meet none. */
static bool plan_meets(const char *text, const SaLimits *limits, const char *says) {
    SaError err = {0};
    SaStatus st = plan_status(text, limits, &err);
    bool good = says ? st == SA_E_LIMIT && strstr(err.text, says) : st == SA_OK;
    if (!good)
        fprintf(stderr, "  got %s: %s\n", sa_status_name(st), err.text);
    return good;
}

/* BLAS counts rows and columns in ints; no tensor of a plan has more than 2^44 bytes. */
static void sizes_of_plans_are_limited(void) {
    SaLimits wide;
    char text[2000];
    sa_limits_default(&wide);
    for (int over = 0; over < 2; over++) {
        int rows = 65535 + over; /* of 32768: 2^31 - 32768, then 2^31 */
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [%d, 32768, 2]> x) {\ntensor<fp16, [3, 2]> w = const()[name=\"w\", "
                 "val=tensor<fp16, [3, 2]>([1, 2, 3, 4, 5, 6])];\ntensor<fp16, [%d, 32768, 3]> y = linear(x=x, weight=w)[name=\"y\"];\n} -> (y);\n}\n", rows, rows);
        CHECK(plan_meets(text, &wide, over ? "a product is too large" : NULL));
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [1, 2, %d, 32768]> x) {\ntensor<fp16, [3, 2, 1, 1]> w = const()[name=\"w\", "
                 "val=tensor<fp16, [3, 2, 1, 1]>([1, 2, 3, 4, 5, 6])];\ntensor<fp16, [1, 3, %d, 32768]> y = conv(x=x, weight=w)[name=\"y\"];\n} -> (y);\n}\n", rows, rows);
        CHECK(plan_meets(text, &wide, over ? "a product is too large" : NULL));
    }
    wide.max_dim = wide.max_width = INT32_MAX; /* as max_dim=0 in a profile */
    for (int over = 0; over < 2; over++) { /* 2^42 scores, and 2^21 more */
        snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [1, 2097152, 8]> q, tensor<fp16, [1, %d, 8]> k) {\n"
                 "tensor<fp16, [1, 2097152, 8]> y = scaled_dot_product_attention(query=q, key=k, value=k)[name=\"y\"];\n} -> (y);\n}\n", 2097152 + over);
        CHECK(plan_meets(text, &wide, over ? "a tensor is too large" : NULL));
    }
    CHECK(plan_meets(HEAD "func main<i>(tensor<fp16, [512, 2147483647, 1]> q) {\n"
                     "tensor<fp16, [512, 2147483647, 1]> y = scaled_dot_product_attention(query=q, key=q, value=q)[name=\"y\"];\n} -> (y);\n}\n", &wide,
                     "too many scores")); /* 2^71 */
    wide.max_kernel_width = INT32_MAX; /* a window of 2^40 at 2^40 places */
    CHECK(plan_meets(HEAD "func main<i>(tensor<fp16, [1, 1, 1, 1]> x, tensor<fp16, [1, 1, 1048576, 1048576]> w) {\n"
                     "tensor<int32, [4]> p = const()[name=\"p\", val=tensor<int32, [4]>([1048575, 1048575, 1048575, 1048575])];\n"
                     "string t = const()[name=\"t\", val=string(\"custom\")];\n"
                     "tensor<fp16, [1, 1, 1048576, 1048576]> y = conv(x=x, weight=w, pad=p, pad_type=t)[name=\"y\"];\n} -> (y);\n}\n", &wide,
                     "a convolution is too large"));
}

/* ---- as many values as the mask has bits */

static void sparse_values_are_counted(void) {
    static const struct {
        const char *mask, *shape;
    } forms[] = {{"tensor<uint1, [2, 4]>([1, 0, 0, 0, 1, 0, 0, 1])", ""}, /* three bits each */
                 {"tensor<uint8, [1]>([145])", ", shape=tensor<uint32, [2]>([2, 4])"}};
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (int n = 2; n <= 4; n++) {
            char text[2000];
            SaError err = {0};
            snprintf(text, sizeof text, HEAD "func main<i>(tensor<fp16, [2, 4]> x) {\ntensor<fp16, [2, 4]> k = constexpr_sparse_to_dense()[name=\"k\", "
                     "nonzero_data=tensor<fp16, [%d]>([1, 2%s]), mask=%s%s];\ntensor<fp16, [2, 4]> y = add(x=x, y=k)[name=\"y\"];\n} -> (y);\n}\n",
                     n, n == 2 ? "" : n == 3 ? ", 3" : ", 3, 4", forms[f].mask, forms[f].shape);
            SaStatus st = plan_status(text, NULL, &err);
            CHECK_AS(st == (n == 3 ? SA_OK : SA_E_OPERAND), forms[f].mask);
            CHECK_AS(n == 3 || strstr(err.text, n == 2 ? "2 values, the mask asks for more" : "4 values, the mask asks for 3"), forms[f].mask);
        }
}

/* Every operation known by name only is refused by that name, and the message helps. */
static void refused_operations_say_why(void) {
    for (int i = 0; sa_op_refused_at(i); i++) {
        const SaRefusedOp *op = sa_op_refused_at(i);
        char text[1000], said[1000];
        SaError err = {0};
        SaProgram *p;
        snprintf(text, sizeof text, "%stensor<fp16, [2]> y = %s(x=x)[name=\"y\"];\n} -> (y);\n}\n", one_input, op->name);
        SaArena *arena = sa_arena_new(0);
        SaStatus st = sa_program_parse(arena, text, strlen(text), lenient(), &p, &err);
        st = st ? st : sa_program_check(arena, p, lenient(), &err);
        sa_error_format(&err, said, sizeof said);
        CHECK_AS(st == SA_E_OP && strstr(said, op->name) && strstr(said, op->reason), op->name);
        sa_arena_free(arena);
    }
}

int main(int argc, char **argv) {
    full = argc > 1 && strcmp(argv[1], "--full") == 0;
    sizes_of_words_are_limited();
    ranks_are_limited();
    refusals_follow_the_limits();
    numbers_of_things_are_limited();
    sizes_of_tensors_are_limited();
    only_two_counts_of_topk_are_refused();
    ranks_of_results_are_limited();
    sizes_of_plans_are_limited();
    sparse_values_are_counted();
    refused_operations_say_why();
    CHECK(corpus_walk("valid", "", item_survives) > 100);
    CHECK(corpus_walk("errors", "", item_survives) > 200);
    printf("%ld attempts\n", attempts);
    printf("test_hardening: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
