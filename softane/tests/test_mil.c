// SPDX-License-Identifier: MIT
/* test_mil.c - the MIL front end: every operation once right, a corpus of
 * programs once right and once wrong in each way, weight files damaged in every
 * field, memory failing at every allocation, random damage to texts.
 *
 * Usage: test_mil [corpus directory]. One verdict line at the end; exit 1 on
 * failure. Weight files are written below $TMPDIR and removed again. */
#include "../mil/mil.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int passed, failed;

static bool check_at(int line, bool good, const char *what) {
    if (good) {
        passed++;
    } else if (failed++ < 40) {
        fprintf(stderr, "test_mil.c:%d: %s\n", line, what);
    }
    return good;
}
#define CHECK(e) check_at(__LINE__, (e), #e)

/* ============================== Running the stages ======================== */

typedef struct {
    SaArena *arena;
    SaProgram *program;
    SaError err;
    SaStatus status;
} Run;

/* The limits of most tests: also what the engine refuses, so that it is checked. */
static const SaLimits *lenient(void) {
    static SaLimits l;
    sa_limits_default(&l);
    l.allow_refused = true;
    return &l;
}

/* Parse and check; release with run_end. */
static Run run_text(const char *text, size_t bytes, const SaLimits *limits) {
    limits = limits ? limits : lenient();
    Run r = {.arena = sa_arena_new(0)};
    r.status = r.arena ? sa_program_parse(r.arena, text, bytes, limits, &r.program, &r.err) : SA_E_MEMORY;
    if (r.status == SA_OK)
        r.status = sa_program_check(r.arena, r.program, limits, &r.err);
    return r;
}

static void run_end(Run *r) { sa_arena_free(r->arena); }

/* print(parse(text)) must parse again and print the same. */
static bool round_trip(const SaProgram *p) {
    char *first = NULL, *second = NULL;
    bool same = false;
    if (sa_program_print(p, &first) != SA_OK)
        return false;
    Run r = run_text(first, strlen(first), NULL);
    if (r.status == SA_OK && sa_program_print(r.program, &second) == SA_OK)
        same = strcmp(first, second) == 0;
    if (!same) {
        char msg[600];
        sa_error_format(&r.err, msg, sizeof msg);
        fprintf(stderr, "round trip: %s\n", msg);
    }
    sa_free(first);
    sa_free(second);
    run_end(&r);
    return same;
}

/* ============================== Operations ================================ */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
#define CONST(type, n, value) type " " n " = const()[name=string(\"" n "\"), val=" type "(" value ")];\n"
#define INT(n, v) CONST("int32", n, v)
#define INTS(n, count, v) CONST("tensor<int32, [" count "]>", n, "[" v "]")
#define BOOL(n, v) CONST("bool", n, v)
#define HALF(n, v) CONST("fp16", n, v)
#define TEXT(n, v) CONST("string", n, "\"" v "\"")
#define BLOB(n, dims) CONST("tensor<fp16, [" dims "]>", n, \
    "BLOBFILE(path=string(\"@model_path/w.bin\"), offset=uint64(64))")
#define NAMED "[name=string(\"op\")];\n"
#define Y(dims) "tensor<fp16, [" dims "]> y = "

typedef struct {
    const char *params, *body, *outputs;
} Case;

#define IMAGE "tensor<fp16, [1, 4, 6, 8]> x"
#define UNARY(op) {IMAGE, Y("1, 4, 6, 8") op "(x=x)" NAMED, "y"}
#define BINARY(op) {IMAGE ", tensor<fp16, [4, 1, 8]> b", Y("1, 4, 6, 8") op "(x=b, y=x)" NAMED, "y"}
#define COMPARE(op) {IMAGE, "tensor<bool, [1, 4, 6, 8]> c = " op "(x=x, y=fp16(0.5))" NAMED \
    TEXT("t", "fp16") Y("1, 4, 6, 8") "cast(x=c, dtype=t)" NAMED, "y"}
#define LOGICAL(op) {IMAGE, "tensor<bool, [1, 4, 6, 8]> c = less(x=x, y=x)" NAMED \
    "tensor<bool, [1, 4, 6, 8]> d = " op "(x=c, y=c)" NAMED \
    Y("1, 4, 6, 8") "select(cond=d, a=x, b=fp16(0))" NAMED, "y"}
#define REDUCE(op) {IMAGE, INTS("a", "2", "-1, 1") BOOL("k", "true") Y("1, 1, 6, 1") op "(x=x, axes=a, keep_dims=k)" NAMED \
    "tensor<fp16, [1, 6]> z = " op "(x=x, axes=a)" NAMED "fp16 s = " op "(x=x)" NAMED, "y, z, s"}

static const Case cases[] = {
    {IMAGE, BLOB("w", "5, 4, 3, 3") Y("1, 5, 4, 6") "conv(x=x, weight=w)" NAMED, "y"},
    {IMAGE, BLOB("w", "8, 2, 3, 5") INTS("s", "2", "2, 3") INTS("p", "4", "1, 0, 2, 3") INTS("d", "2", "1, 2")
        INT("g", "2") TEXT("t", "custom") Y("1, 8, 3, 2")
        "conv(x=x, weight=w, strides=s, pad_type=t, pad=p, dilations=d, groups=g)" NAMED, "y"},
    {IMAGE, BLOB("w", "2, 4, 3, 3") INTS("s", "2", "4, 3") TEXT("t", "same") Y("1, 2, 2, 3")
        "conv(x=x, weight=w, strides=s, pad_type=t)" NAMED, "y"},
    {"tensor<fp16, [2, 4, 9]> x", BLOB("w", "3, 4, 2") Y("2, 3, 8") "conv(x=x, weight=w)" NAMED, "y"},
    {IMAGE ", tensor<fp16, [5, 4, 1, 1]> w", Y("1, 5, 6, 8") "conv(x=x, weight=w)" NAMED, "y"},
    {"tensor<fp16, [2, 1, 6, 8]> x, tensor<fp16, [3, 7, 8]> b", BOOL("t", "true") Y("2, 3, 6, 7")
        "matmul(x=x, y=b, transpose_y=t)" NAMED, "y"},
    {"tensor<fp16, [6, 8]> x", BOOL("t", "true") Y("8, 8") "matmul(x=x, y=x, transpose_x=t)" NAMED, "y"},
    {IMAGE, BLOB("w", "3, 8") BLOB("b", "3") Y("1, 4, 6, 3") "linear(x=x, weight=w, bias=b)" NAMED, "y"},
    BINARY("add"), BINARY("sub"), BINARY("mul"), BINARY("real_div"), BINARY("floor_div"), BINARY("mod"), BINARY("pow"),
    BINARY("maximum"), BINARY("minimum"),
    COMPARE("greater"), COMPARE("greater_equal"), COMPARE("less"), COMPARE("less_equal"), COMPARE("equal"),
    COMPARE("not_equal"),
    LOGICAL("logical_and"), LOGICAL("logical_or"), LOGICAL("logical_xor"),
    {IMAGE, "tensor<bool, [1, 4, 6, 8]> c = less(x=x, y=x)" NAMED "tensor<bool, [1, 4, 6, 8]> d = logical_not(x=c)" NAMED
        Y("1, 4, 6, 8") "select(cond=d, a=x, b=x)" NAMED, "y"},
    UNARY("abs"), UNARY("sign"), UNARY("sqrt"), UNARY("rsqrt"), UNARY("inverse"), UNARY("square"), UNARY("exp"),
    UNARY("exp2"), UNARY("erf"), UNARY("ceil"), UNARY("floor"), UNARY("round"), UNARY("atan"), UNARY("sin"), UNARY("cos"),
    UNARY("sigmoid"), UNARY("sigmoid_hard"), UNARY("tanh"), UNARY("scaled_tanh"), UNARY("relu"), UNARY("relu6"),
    UNARY("leaky_relu"), UNARY("elu"), UNARY("silu"), UNARY("softplus"), UNARY("softsign"), UNARY("softmax"),
    UNARY("layer_norm"), UNARY("l2_norm"), UNARY("identity"), UNARY("reverse"),
    {IMAGE, HALF("e", "1e-5") Y("1, 4, 6, 8") "log(x=x, epsilon=e)" NAMED, "y"},
    {IMAGE, Y("1, 4, 6, 8") "rsqrt(x=x, epsilon=fp32(0x1p-40))" NAMED, "y"},
    {IMAGE, HALF("a", "-1") HALF("b", "0x1p1") Y("1, 4, 6, 8") "clip(x=x, alpha=a, beta=b)" NAMED, "y"},
    {IMAGE, Y("1, 4, 6, 8") "threshold(x=x, alpha=fp16(0.1))" NAMED, "y"},
    {IMAGE, BLOB("a", "4") Y("1, 4, 6, 8") "prelu(x=x, alpha=a)" NAMED, "y"},
    {IMAGE, TEXT("m", "TANH_APPROXIMATION") Y("1, 4, 6, 8") "gelu(x=x, mode=m)" NAMED, "y"},
    REDUCE("reduce_sum"), REDUCE("reduce_mean"), REDUCE("reduce_max"), REDUCE("reduce_min"), REDUCE("reduce_prod"),
    REDUCE("reduce_l1_norm"), REDUCE("reduce_l2_norm"), REDUCE("reduce_log_sum"), REDUCE("reduce_log_sum_exp"),
    REDUCE("reduce_sum_square"),
    {IMAGE, INTS("a", "2", "-1, -3") BLOB("g", "4, 8") Y("1, 4, 6, 8")
        "layer_norm(x=x, axes=a, gamma=g, beta=g, epsilon=fp16(1e-4))" NAMED, "y"},
    {IMAGE, INTS("s", "3", "4, -1, 2") Y("4, 24, 2") "reshape(x=x, shape=s)" NAMED, "y"},
    {IMAGE, INTS("s", "3", "0, 0, 48") Y("1, 4, 48") "reshape(x=x, shape=s)" NAMED, "y"},
    {IMAGE, INTS("p", "4", "0, 3, -2, 1") Y("1, 8, 6, 4") "transpose(x=x, perm=p)" NAMED, "y"},
    {"tensor<fp16, [4, 6]> x", INTS("a", "3", "0, -1, 2") Y("1, 4, 1, 6, 1") "expand_dims(x=x, axes=a)" NAMED, "y"},
    {"tensor<fp16, [1, 4, 1, 6]> x", Y("4, 6") "squeeze(x=x)" NAMED INTS("a", "1", "-2")
        "tensor<fp16, [1, 4, 6]> z = squeeze(x=x, axes=a)" NAMED, "y, z"},
    {IMAGE, INTS("b", "4", "0, 1, 2, 3") INTS("s", "4", "1, 2, -1, 5") Y("1, 2, 4, 5")
        "slice_by_size(x=x, begin=b, size=s)" NAMED, "y"},
    {IMAGE, INTS("b", "4", "0, -1, 1, 7") INTS("e", "4", "1, 0, 100, -9") INTS("s", "4", "1, -2, 2, -3")
        CONST("tensor<bool, [4]>", "q", "[true, false, false, false]")
        CONST("tensor<bool, [4]>", "m", "[false, true, false, false]") Y("2, 3, 3")
        "slice_by_index(x=x, begin=b, end=e, stride=s, end_mask=m, squeeze_mask=q)" NAMED, "y"},
    {"tensor<fp16, [8]> x", INTS("z", "1", "3") INTS("s", "1", "-2") CONST("tensor<bool, [1]>", "t", "[true]") Y("4")
        "slice_by_index(x=x, begin=z, end=z, stride=s, begin_mask=t, end_mask=t)" NAMED, "y"},
    {IMAGE ", tensor<fp16, [1, 1, 6, 8]> b", INT("a", "-3") BOOL("i", "false") Y("1, 6, 6, 8")
        "concat(values=(x, b, b), axis=a, interleave=i)" NAMED, "y"},
    {IMAGE, INT("a", "1") INTS("s", "2", "1, 3") "tensor<fp16, [1, 1, 6, 8]> y, tensor<fp16, [1, 3, 6, 8]> z = "
        "split(x=x, split_sizes=s, axis=a)" NAMED, "y, z"},
    {"tensor<fp16, [4, 6]> x", INT("a", "-1") Y("4, 6, 3") "stack(values=(x, x, x), axis=a)" NAMED, "y"},
    {IMAGE, INTS("p", "4", "1, 2, 7, 0") TEXT("m", "reflect") INTS("q", "2", "3, 4") Y("1, 4, 6, 15") "pad(x=x, pad=q)" NAMED
        "tensor<fp16, [1, 4, 9, 15]> z = pad(x=x, pad=p, mode=m, constant_val=fp16(2))" NAMED, "y, z"},
    {IMAGE, INTS("r", "4", "2, 1, 1, 3") Y("2, 4, 6, 24") "tile(x=x, reps=r)" NAMED, "y"},
    {IMAGE, INTS("a", "2", "0, -1") Y("1, 4, 6, 8") "reverse(x=x, axes=a)" NAMED, "y"},
    {IMAGE, INT("a", "-1") CONST("tensor<int32, [2, 3]>", "i", "[[0, -8, 7], [1, 1, 1]]") Y("1, 4, 6, 2, 3")
        "gather(x=x, indices=i, axis=a)" NAMED, "y"},
    {"tensor<fp32, [2, 3]> x", TEXT("h", "fp16") TEXT("f", "fp32") "tensor<fp16, [2, 3]> a = cast(x=x, dtype=h)" NAMED
        "tensor<fp32, [2, 3]> y = cast(x=a, dtype=f)" NAMED, "y"},
};

static void every_operation_is_inferred(void) {
    bool seen[SA_OP_COUNT] = {false};
    static char text[8192];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const Case *k = &cases[i];
        snprintf(text, sizeof text, HEAD "func main<ios18>(%s) {\n%s} -> (%s);\n}\n", k->params, k->body,
                 k->outputs);
        Run r = run_text(text, strlen(text), NULL);
        char msg[600] = "";
        if (r.status != SA_OK)
            sa_error_format(&r.err, msg, sizeof msg);
        if (check_at(__LINE__, r.status == SA_OK, msg)) {
            CHECK(round_trip(r.program));
            for (int n = 0; n < r.program->functions[0].n_ops; n++)
                seen[r.program->functions[0].ops[n].id] = true;
        }
        run_end(&r);
    }
    for (int i = 0; i < SA_OP_TAN; i++) /* the others: corpus/valid/op_*.mil, test_ops.c */
        check_at(__LINE__, seen[i], sa_op_name((SaOpId)i));
}

/* ============================== Structure of a program ==================== */

#define MAIN(params, body, outs) HEAD "func main<ios18>(" params ") {\n" body "} -> (" outs ");\n}\n"

static void slices_resolve_as_python_does(void) {
    const char *text = MAIN(IMAGE, INTS("s", "4", "0, -1, 1, 7") INTS("e", "4", "1, 0, 100, -9") INTS("t", "4", "1, -2, 2, -3")
        Y("1, 2, 3, 3") "slice_by_index(x=x, begin=s, end=e, stride=t)" NAMED
        "tensor<fp16, [1, 2, 3, 3]> z = relu(x=y)" NAMED, "z, y");
    Run r = run_text(text, strlen(text), NULL);
    if (CHECK(r.status == SA_OK)) {
        const SaFunction *f = &r.program->functions[0];
        const SaOp *op = f->outputs[1]->producer;
        SaSlice s;
        CHECK(sa_op_slice(op, &s) && s.rank == 4);
        CHECK(s.begin[1] == 3 && s.step[1] == -2 && s.count[1] == 2); /* 3, 1 */
        CHECK(s.begin[2] == 1 && s.step[2] == 2 && s.count[2] == 3);  /* 1, 3, 5 */
        CHECK(s.begin[3] == 7 && s.step[3] == -3 && s.count[3] == 3); /* 7, 4, 1 */
        CHECK(!s.drop[0] && !sa_op_slice(f->outputs[0]->producer, &s));
    } else {
        fprintf(stderr, "%s\n", r.err.text);
    }
    run_end(&r);
}

static void programs_have_the_promised_structure(void) {
    const char *text = MAIN(IMAGE, INT("two", "2") INT("axis", "-1") HALF("k", "0.5")
        "tensor<fp16, [1, 4, 6, 4]> l, tensor<fp16, [1, 4, 6, 4]> y = split(x=x, num_splits=two, axis=axis)" NAMED, "y, l");
    Run r = run_text(text, strlen(text), NULL);
    if (!CHECK(r.status == SA_OK))
        return run_end(&r);
    const SaProgram *p = r.program;
    const SaFunction *f = &p->functions[0];
    CHECK(strcmp(p->version, "1.3") == 0 && p->dialect == 'A' && p->n_functions == 1 && p->n_live_ops == 1);
    CHECK(strcmp(f->name, "main") == 0 && strcmp(f->target, "ios18") == 0);
    CHECK(f->n_params == 1 && f->n_ops == 4 && f->n_outputs == 2 && f->n_values == 6);
    CHECK(f->params[0]->producer == NULL && f->params[0]->id == 0 && f->params[0]->constant == NULL);
    const SaOp *op = &f->ops[3];
    CHECK(op->id == SA_OP_SPLIT && op->n_results == 2 && strcmp(op->label, "op") == 0);
    CHECK(f->outputs[0] == op->results[1] && f->outputs[0]->producer == op);
    CHECK(f->ops[1].results[0]->constant && f->ops[1].results[0]->producer == &f->ops[1]);
    int64_t v = 0, list[2];
    float h = 0;
    bool b;
    const char *s;
    CHECK(sa_op_int(op, "axis", &v) && v == -1 && !sa_op_int(op, "x", &v) && !sa_op_int(op, "absent", &v));
    CHECK(!sa_op_float(op, "axis", &h) && !sa_op_bool(op, "axis", &b) && !sa_op_string(op, "axis", &s));
    CHECK(sa_op_ints(op, "axis", list, 2) == -1 && sa_op_bools(op, "axis", &b, 1) == -1);
    CHECK(sa_op_value(op, "x") == f->params[0] && sa_op_arg(op, "y") == NULL);
    char buf[64];
    sa_type_format(&f->params[0]->type, buf, sizeof buf);
    CHECK(strcmp(buf, "tensor<fp16, [1, 4, 6, 8]>") == 0);
    sa_type_format(&f->ops[1].results[0]->type, buf, sizeof buf);
    CHECK(strcmp(buf, "int32") == 0 && sa_type_count(&f->params[0]->type) == 192);
    run_end(&r);
}

/* Literals reach memory with the right bits. */
static void literals_are_exact(void) {
    static const struct {
        const char *text;
        uint16_t bits;
    } halves[] = {
        {"1", 0x3c00}, {"-2.5", 0xc100}, {"0x1.9a00000000000p-4", 0x2e68}, {"0.001302", 0x1555}, {"0.00001", 0x00a8},
        {"1e-5", 0x00a8}, {"-65504", 0xfbff}, {"65519.99", 0x7bff}, {"0x3c00", 0x3c00}, {"0x7C00", 0x7c00}, {"-0.0", 0x8000},
        {"0x1p-24", 1}, {"2049", 0x6800}, {"2051", 0x6802}, {"2049.0000001", 0x6801}, {".5", 0x3800}, {"1e-30", 0},
        {"0.00000000000000000000000000000000000000000001e44", 0x3c00}, {"0.1", 0x2e66}, {"6.10351562e-05", 0x0400},
        {"123456789012345678901234567890e-29", 0x3cf0}, {"1e0000", 0x3c00}, {"0x.8p1", 0x3c00}, {"1e-99999", 0},
    };
    char text[1024];
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        snprintf(text, sizeof text, MAIN("tensor<fp16, [2]> x", HALF("k", "%s") Y("2") "mul(x=x, y=k)" NAMED, "y"),
                 halves[i].text);
        Run r = run_text(text, strlen(text), NULL);
        uint16_t got = 0xffff;
        if (r.status == SA_OK)
            memcpy(&got, r.program->functions[0].ops[0].results[0]->constant->data, 2);
        check_at(__LINE__, got == halves[i].bits, halves[i].text);
        check_at(__LINE__, r.status == SA_OK && round_trip(r.program), halves[i].text);
        run_end(&r);
    }
    const char *all = MAIN("tensor<fp16, [2]> x",
        CONST("int8", "a", "-128") CONST("uint8", "b", "255") CONST("int16", "c", "-32768") CONST("uint16", "d", "0xFFFF")
        CONST("int32", "e", "-2147483648") CONST("uint64", "f", "18446744073709551615") CONST("bool", "g", "true")
        CONST("fp32", "h", "0.1") CONST("fp32", "i", "0x7fc00000") CONST("tensor<fp32, [2]>", "j", "[1e-45, -0x1p-149]")
        CONST("string", "s", "\"a\\\"b\\\\c\\n\\t\"") CONST("tensor<uint8, [2, 2]>", "t", "[1, 2, 3, 4]")
        Y("2") "abs(x=x)" NAMED, "y");
    Run r = run_text(all, strlen(all), NULL);
    if (CHECK(r.status == SA_OK)) {
        static const unsigned char want[] = {0x80};
        const SaOp *ops = r.program->functions[0].ops;
        float f;
        CHECK(memcmp(ops[0].results[0]->constant->data, want, 1) == 0);
        memcpy(&f, ops[7].results[0]->constant->data, 4);
        CHECK(f == 0.1f);
        CHECK(strcmp(ops[10].results[0]->constant->string, "a\"b\\c\n\t") == 0);
        CHECK(round_trip(r.program));
    }
    run_end(&r);
}

/* ============================== Corpus ==================================== */

typedef struct {
    char *all, *text; /* text begins after the lines with # */
    size_t bytes;
    char expect[512];
} Item;

static bool item_read(const char *path, Item *it) {
    FILE *f = fopen(path, "rb");
    memset(it, 0, sizeof *it);
    if (!f)
        return false;
    it->all = malloc(1 << 20);
    size_t n = it->all ? fread(it->all, 1, (1 << 20) - 1, f) : 0;
    fclose(f);
    if (!it->all)
        return false;
    it->all[n] = '\0';
    it->text = it->all;
    while (*it->text == '#') {
        size_t line = strcspn(it->text, "\n");
        if (!it->expect[0])
            snprintf(it->expect, sizeof it->expect, "%.*s", (int)line, it->text);
        it->text += line + (it->text[line] == '\n');
    }
    it->bytes = n - (size_t)(it->text - it->all);
    return true;
}

/* Does the outcome match the first line of the item? */
static bool as_expected(const Item *it, const Run *r, char *got, size_t cap) {
    char code[32], quote[256];
    int live, line, col;
    snprintf(got, cap, "ok");
    if (r->status != SA_OK)
        sa_error_format(&r->err, got, cap);
    if (sscanf(it->expect, "# expect: ok %d live operations", &live) == 1)
        return r->status == SA_OK && r->program->n_live_ops == live && round_trip(r->program);
    if (sscanf(it->expect, "# expect: error %31s at %d:%d \"%255[^\"]", code, &line, &col, quote) != 4)
        return false;
    return r->status != SA_OK && strcmp(sa_status_name(r->status), code) == 0 && r->status == r->err.code &&
           r->err.pos.line == line && r->err.pos.col == col && strstr(r->err.text, quote);
}

/* Call `each` for every .mil file of a folder, in no order; returns their number. */
static int corpus_walk(const char *corpus, const char *folder, void (*each)(const char *name, const Item *it)) {
    char path[1024];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", corpus, folder);
    DIR *d = opendir(path);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        size_t length = strlen(e->d_name);
        Item it;
        if (length < 4 || strcmp(e->d_name + length - 4, ".mil") != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s/%s", corpus, folder, e->d_name);
        if (CHECK(item_read(path, &it)))
            each(e->d_name, &it);
        free(it.all);
        n++;
    }
    closedir(d);
    return n;
}

static void item_behaves(const char *name, const Item *it) {
    char got[600], msg[2000];
    Run r = run_text(it->text, it->bytes, NULL);
    bool good = as_expected(it, &r, got, sizeof got);
    snprintf(msg, sizeof msg, "%s\n  want %s\n  got  %s", name, it->expect, got);
    check_at(__LINE__, good, msg);
    run_end(&r);
}

/* A program cut anywhere is never accepted, and the error has a place. */
static void item_cut_is_refused(const char *name, const Item *it) {
    size_t last = it->bytes;
    while (last > 0 && strchr(" \n", it->text[last - 1]))
        last--;
    bool good = true;
    for (size_t n = 0; n < last && good; n += n < 400 ? 1 : 37) {
        char *cut = malloc(n ? n : 1); /* exact size: an overrun is seen by the sanitizer */
        if (!cut)
            break;
        memcpy(cut, it->text, n);
        Run r = run_text(cut, n, NULL);
        good = r.status != SA_OK && r.program == NULL && r.err.code == r.status && r.err.pos.line > 0 && r.err.text[0];
        run_end(&r);
        free(cut);
    }
    check_at(__LINE__, good, name);
}

static uint64_t seed = 88172645463325252u;
static uint32_t rnd(uint32_t n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 11) % n);
}

/* Random damage: any status, no crash; what passes still prints and parses. */
static void item_damage_is_survived(const char *name, const Item *it) {
    static const char bits[] = "(){}[]<>,=;\"-0123456789x. \nabc";
    bool good = true;
    for (int round = 0; round < 150 && good; round++) {
        size_t n = it->bytes;
        char *text = malloc(n + 1);
        if (!text || n == 0) {
            free(text);
            break;
        }
        memcpy(text, it->text, n);
        for (uint32_t k = rnd(3) + 1; k > 0; k--) {
            uint32_t at = rnd((uint32_t)n), from = rnd((uint32_t)n), length = rnd(20);
            if (rnd(3) == 0 && at + length <= n && from + length <= n)
                memmove(text + at, text + from, length);
            else
                text[at] = bits[rnd(sizeof bits - 1)];
        }
        Run r = run_text(text, n, NULL);
        good = r.status == SA_OK ? round_trip(r.program) : r.err.text[0] != '\0';
        run_end(&r);
        free(text);
    }
    check_at(__LINE__, good, name);
}

/* The n-th allocation of parse, check and print fails, for every n. */
static void item_survives_lost_memory(const char *name, const Item *it) {
    bool good = true, finished = false;
    if (strcmp(name, "fwd_ffn_a.mil") != 0 && strcmp(name, "spelling_free.mil") != 0)
        return;
    for (int n = 0; good && !finished && n < 20000; n++) {
        char text[64], *printed = NULL;
        snprintf(text, sizeof text, "arena.alloc=%d*off->1*return", n);
        sa_failpoint_configure(text);
        Run r = run_text(it->text, it->bytes, NULL);
        if (r.status == SA_OK)
            r.status = sa_program_print(r.program, &printed);
        finished = r.status == SA_OK;
        good = finished || r.status == SA_E_MEMORY;
        sa_free(printed);
        run_end(&r);
    }
    sa_failpoint_configure("");
    check_at(__LINE__, good && finished, name);
}

/* ============================== Limits ==================================== */

/* Status of a text under changed limits. */
static SaStatus under(const SaLimits *limits, const char *text) {
    Run r = run_text(text, strlen(text), limits);
    run_end(&r);
    return r.status;
}

static void limits_hold_at_n_and_not_at_n_plus_1(void) {
    const char *text = MAIN("tensor<fp16, [1, 6, 1, 8]> x, tensor<fp16, [2]> u", BLOB("w", "6, 6, 1, 3") Y("1, 6, 1, 6")
        "conv(x=x, weight=w)" NAMED "tensor<fp16, [2]> z = abs(x=u)" NAMED, "y, z");
    SaLimits base, l;
    sa_limits_default(&base);
    CHECK(under(&base, text) == SA_OK);
#define HOLDS(field, n) do { l = base; l.field = (n); CHECK(under(&l, text) == SA_OK); \
    l.field = (n) - 1; CHECK(under(&l, text) == SA_E_LIMIT); } while (0)
    HOLDS(max_dim, 8);
    HOLDS(max_width, 8);
    HOLDS(max_conv_in, 6);
    HOLDS(max_kernel_width, 3);
    HOLDS(max_text_bytes, strlen(text));
    HOLDS(max_ops, 3);
    HOLDS(max_ports, 2);
    l = base;
    l.allow_dialect_a = false;
    CHECK(under(&l, text) == SA_E_LIMIT);
    /* the checker has limits of its own when they differ from the parser's */
    Run r = run_text(text, strlen(text), NULL);
    l = base;
    l.max_dim = 7;
    CHECK(r.status == SA_OK && sa_program_check(r.arena, r.program, &l, &r.err) == SA_E_LIMIT);
    l = base;
    l.max_ops = 2;
    CHECK(sa_program_check(r.arena, r.program, &l, &r.err) == SA_E_LIMIT);
    run_end(&r);
    char many[20000], *p = many;
    p += sprintf(p, HEAD);
    for (int i = 0; i < 129; i++)
        p += sprintf(p, "func f%d<i>(tensor<fp16,[2]> x){" Y("2") "abs(x=x)[name=\"y\"];}->(y);\n", i);
    sprintf(p, "}");
    CHECK(under(NULL, many) == SA_E_LIMIT);
    sprintf(strstr(many, "func f128"), "}");
    CHECK(under(NULL, many) == SA_OK);
}

static void failpoints_of_the_front_end_fire(void) {
    const char *text = MAIN("tensor<fp16, [2]> x", CONST("tensor<fp16, [2]>", "k", "[1, 2]") Y("2") "add(x=x, y=k)" NAMED, "y");
    static const char *const points[] = {"lex.eof=return", "parse.depth=return", "check.rule=return"};
    for (int i = 0; i < 3; i++) {
        sa_failpoint_configure(points[i]);
        CHECK(under(NULL, text) == SA_E_INJECTED);
    }
    sa_failpoint_configure("");
    CHECK(under(NULL, text) == SA_OK);
}

/* ============================== Blobs ===================================== */

static void store(uint8_t *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* One container with one blob; returns its size. Data lies at 128. */
static size_t blob_make(uint8_t *f, uint32_t code, const void *data, size_t bytes) {
    memset(f, 0, 128);
    store(f, 1, 4);
    store(f + 4, 2, 4);
    store(f + 64, 0xDEADBEEF, 4);
    store(f + 68, code, 4);
    store(f + 72, bytes, 8);
    store(f + 80, 128, 8);
    memcpy(f + 128, data, bytes);
    return 128 + bytes;
}

static const uint16_t four[4] = {0x3c00, 0x4000, 0x4200, 0x4400};

static void blobs_are_found_or_refused(void) {
    uint8_t good[136], f[400];
    const void *data;
    SaError err;
    size_t n = blob_make(good, 1, four, 8);
    CHECK(n == 136 && sa_blob_find(good, n, 64, SA_FP16, 8, &data, &err) == SA_OK && data == good + 128);
    bool cut = true;
    for (size_t i = 0; i < n; i++) {
        uint8_t *part = malloc(i ? i : 1);
        if (!part)
            break;
        memcpy(part, good, i);
        err.text[0] = '\0';
        cut &= sa_blob_find(part, i, 64, SA_FP16, 8, &data, &err) == SA_E_BLOB && !data && err.text[0];
        free(part);
    }
    CHECK(cut);
    static const uint64_t offsets[] = {0, 1, 63, 65, 72, 73, 128, 136, 137, UINT64_MAX, UINT64_MAX - 63, 1ull << 32};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
        CHECK(sa_blob_find(good, n, offsets[i], SA_FP16, 8, &data, &err) == SA_E_BLOB);
    /* one field wrong at a time: position, bytes, value */
    static const struct {
        int at, bytes;
        uint64_t value;
    } wrong[] = {
        {0, 4, 0}, {4, 4, 1}, {4, 4, 3}, {64, 4, 0xDEADBEEE}, {64, 4, 0xEFBEADDE}, {68, 4, 0}, {68, 4, 2}, {68, 4, 5},
        {72, 8, 7}, {72, 8, 9}, {72, 8, 0}, {72, 8, 0x80000}, {72, 8, UINT64_MAX}, {80, 8, 0}, {80, 8, 56}, {80, 8, 57},
        {80, 8, 64}, {80, 8, 127}, {80, 8, 129}, {80, 8, 136}, {80, 8, UINT64_MAX}, {80, 8, UINT64_MAX - 7},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        memcpy(f, good, n);
        store(f + wrong[i].at, wrong[i].value, wrong[i].bytes);
        SaStatus s = sa_blob_find(f, n, 64, SA_FP16, 8, &data, &err);
        char what[80];
        snprintf(what, sizeof what, "field at %d = %llu", wrong[i].at, (unsigned long long)wrong[i].value);
        check_at(__LINE__, s == SA_E_BLOB && !data, what);
    }
    CHECK(sa_blob_find(good, n, 64, SA_FP16, 6, &data, &err) == SA_E_BLOB);
    static const struct {
        SaDtype t;
        uint32_t code;
    } codes[] = {{SA_FP16, 1}, {SA_FP32, 2}, {SA_UINT8, 3}, {SA_INT8, 4}, {SA_INT16, 6}, {SA_UINT16, 7}, {SA_INT32, 14}};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        n = blob_make(f, codes[i].code, four, 8);
        CHECK(sa_blob_find(f, n, 64, codes[i].t, 8, &data, NULL) == SA_OK);
        CHECK(sa_blob_find(f, n, 64, SA_BOOL, 8, &data, NULL) == SA_E_BLOB);
    }
}

static bool file_write(const char *dir, const char *name, const void *data, size_t bytes) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(data, 1, bytes, f) == bytes;
    return f && fclose(f) == 0 && good;
}

/* Parse, check and bind a program with one constant of four halves. */
static SaStatus bind_one(const char *dir, const char *path, unsigned offset, SaError *err, uint16_t got[4], size_t *total) {
    char text[1024];
    snprintf(text, sizeof text, MAIN("tensor<fp16, [4]> x", CONST("tensor<fp16, [4]>", "w",
        "BLOBFILE(path=string(\"%s\"), offset=uint64(%u))") Y("4") "add(x=x, y=w)" NAMED, "y"), path, offset);
    Run r = run_text(text, strlen(text), NULL);
    if (r.status == SA_OK)
        r.status = sa_program_bind(r.arena, r.program, dir, SA_BLOB_REFUSE, total, &r.err);
    if (r.status == SA_OK)
        memcpy(got, r.program->functions[0].ops[0].results[0]->constant->data, 8);
    *err = r.err;
    run_end(&r);
    return r.status;
}

static void weights_are_bound_from_files(void) {
    char dir[512];
    uint8_t f[1024];
    uint16_t got[4] = {0};
    size_t total = 0;
    SaError err;
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/sa_mil_XXXXXX", tmp ? tmp : "/tmp");
    if (!CHECK(mkdtemp(dir) != NULL))
        return;
    char sub[600];
    snprintf(sub, sizeof sub, "%s/weights", dir);
    CHECK(mkdir(sub, 0700) == 0);
    size_t n = blob_make(f, 1, four, 8);
    CHECK(file_write(dir, "weights/w.bin", f, n));
    CHECK(bind_one(dir, "@model_path/weights/w.bin", 64, &err, got, &total) == SA_OK);
    CHECK(memcmp(got, four, 8) == 0 && total == 8);

    /* two more blobs, the last with unaligned metadata and data */
    store(f, 3, 4);
    memmove(f + 200, f + 64, 64);
    store(f + 216, 301, 8);
    memcpy(f + 301, four, 8);
    CHECK(file_write(dir, "weights/odd.bin", f, 309));
    memset(got, 0, sizeof got);
    CHECK(bind_one(dir, "@model_path/weights/odd.bin", 200, &err, got, &total) == SA_OK && memcmp(got, four, 8) == 0);

    CHECK(bind_one(dir, "@model_path/weights/odd.bin", 128, &err, got, &total) == SA_E_BLOB);
    CHECK(err.pos.line == 5 && strstr(err.text, "@model_path/weights/odd.bin") && strstr(err.text, "sentinel") &&
          strcmp(err.op, "const") == 0);
    CHECK(bind_one(dir, "@model_path/weights/none.bin", 64, &err, got, &total) == SA_E_IO);
    CHECK(bind_one(dir, "@model_path/weights", 64, &err, got, &total) == SA_E_IO);
    static const char *const outside[] = {
        "@model_path/../w.bin", "@model_path/weights/../../w.bin", "@model_path//etc/passwd", "/etc/passwd", "weights/w.bin",
        "@model_path/", "@model_path", "", "@model_path/./weights/w.bin", "@model_path/weights/", "@model_path/weights/..",
    };
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        check_at(__LINE__, bind_one(dir, outside[i], 64, &err, got, &total) == SA_E_BLOB, outside[i]);
    bool all_lost = true; /* the n-th allocation fails; a hundred are more than enough to get through */
    for (int i = 0; i < 100 && all_lost; i++) {
        char point[64];
        snprintf(point, sizeof point, "arena.alloc=%d*off->1*return", i);
        sa_failpoint_configure(point);
        SaStatus s = bind_one(dir, "@model_path/weights/odd.bin", 200, &err, got, &total);
        all_lost = s == SA_E_MEMORY;
        if (!all_lost)
            CHECK(s == SA_OK);
    }
    sa_failpoint_configure("");
    CHECK(!all_lost);
    CHECK(file_write(dir, "weights/w.bin", f, 0));
    CHECK(bind_one(dir, "@model_path/weights/w.bin", 64, &err, got, &total) == SA_E_BLOB);

    /* two constants of one file, and no interest in the reason */
    const char *twice = MAIN("tensor<fp16, [4]> x", BLOB("v", "4") BLOB("w", "4") Y("4") "add(x=v, y=w)" NAMED, "y");
    n = blob_make(f, 1, four, 8);
    CHECK(file_write(dir, "w.bin", f, n));
    Run both = run_text(twice, strlen(twice), NULL);
    CHECK(both.status == SA_OK && sa_program_bind(both.arena, both.program, dir, SA_BLOB_REFUSE, &total, NULL) == SA_OK && total == 16);
    const SaOp *ops = both.status == SA_OK ? both.program->functions[0].ops : NULL;
    CHECK(ops && ops[0].results[0]->constant->data == ops[1].results[0]->constant->data);
    CHECK(ops && sa_program_bind(both.arena, both.program, "/nowhere", SA_BLOB_REFUSE, &total, NULL) == SA_E_IO);
    run_end(&both);

    /* gather indices from a file are checked once they are known */
    const int32_t far[2] = {1, 9};
    n = blob_make(f, 14, far, 8);
    CHECK(file_write(dir, "weights/i.bin", f, n));
    const char *text = MAIN("tensor<fp16, [4]> x", CONST("tensor<int32, [2]>", "i",
        "BLOBFILE(path=string(\"@model_path/weights/i.bin\"), offset=uint64(64))") Y("2") "gather(x=x, indices=i)" NAMED, "y");
    Run r = run_text(text, strlen(text), NULL);
    CHECK(r.status == SA_OK && sa_program_bind(r.arena, r.program, dir, SA_BLOB_REFUSE, NULL, &r.err) == SA_E_OPERAND);
    run_end(&r);

    static const char *const files[] = {"weights/w.bin", "weights/odd.bin", "weights/i.bin", "w.bin", "weights", ""};
    for (int i = 0; i < 6; i++) {
        snprintf(sub, sizeof sub, "%s/%s", dir, files[i]);
        CHECK(remove(sub) == 0);
    }
}

/* ============================== Main ====================================== */

int main(int argc, char **argv) {
    char corpus[1024];
    const char *slash = strrchr(__FILE__, '/');
    if (argc > 1)
        snprintf(corpus, sizeof corpus, "%s", argv[1]);
    else /* beside this file, as the compiler was told its name */
        snprintf(corpus, sizeof corpus, "%.*scorpus", slash ? (int)(slash - __FILE__) + 1 : 0, __FILE__);

    every_operation_is_inferred();
    slices_resolve_as_python_does();
    programs_have_the_promised_structure();
    literals_are_exact();
    CHECK(corpus_walk(corpus, "valid", item_behaves) >= 15);
    CHECK(corpus_walk(corpus, "errors", item_behaves) >= 200);
    corpus_walk(corpus, "valid", item_cut_is_refused);
    corpus_walk(corpus, "valid", item_damage_is_survived);
    corpus_walk(corpus, "errors", item_damage_is_survived);
    corpus_walk(corpus, "valid", item_survives_lost_memory);
    limits_hold_at_n_and_not_at_n_plus_1();
    failpoints_of_the_front_end_fire();
    blobs_are_found_or_refused();
    weights_are_bound_from_files();
    printf("test_mil: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
