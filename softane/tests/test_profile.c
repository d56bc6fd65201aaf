// SPDX-License-Identifier: MIT
/* test_profile.c - device profiles: every file is complete and says where its
 * values come from, settings override them, bad files are refused with their
 * line, and the limits of a chip reach the compiler. Numbers in comments are
 * the rows of docs/FIDELITY.md. One verdict line at the end; exit 1 on failure. */
#include "device_programs.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static char *get(const char *key) {
    static char buf[4096];
    CHECK(softane_get(key, buf, sizeof buf) == 0);
    return buf;
}
static bool is(const char *key, const char *value) { return strcmp(get(key), value) == 0; }
static bool refused(const char *key, const char *value, const char *why) {
    return softane_set(key, value) == -1 && strstr(get("refused"), why);
}

/* ============================== Files ===================================== */

static void every_profile_is_complete(void) {
    SaError err = {.code = SA_OK};
    SaProfile *p = NULL;
    int n = 0;
    CHECK(is("profiles", "default m1 m2 m3-ultra m4 m4-max m4-pro m5"));
    for (; sa_profile_name(n); n++) {
        CHECK(sa_profile_open(sa_profile_name(n), &p, &err) == SA_OK && strcmp(p->name, sa_profile_name(n)) == 0);
        for (int i = 0; p && i < SA_SET_COUNT; i++) {
            if (!sa_setting_in_profile((SaSettingId)i))
                CHECK(!p->text[i]);
            else if (n == 0 || (i >= SA_SET_COMPILE_MS && i <= SA_SET_BUSY && strcmp(sa_setting_key((SaSettingId)i), "first_compile") &&
                                strcmp(sa_setting_key((SaSettingId)i), "parallel_compile") && strcmp(sa_setting_key((SaSettingId)i), "unload_ms")))
                CHECK(p->text[i] != NULL); /* default names all, a chip at least its own times */
            CHECK(!p->text[i] || (p->source[i] && strncmp(p->source[i], "source: ", 8) == 0 && strlen(p->source[i]) > 12));
        }
        sa_profile_free(p);
    }
    CHECK(n == 8);
    CHECK(sa_profile_open("m9", &p, &err) == SA_E_NAME && !p && strstr(err.text, "m9"));
}

static void settings_override_profiles(void) {
    CHECK(is("profile", "default") && is("max_width", "65536") && is("slice_clamp", "0"));
    CHECK(softane_set("profile", "m1") == 0 && is("profile", "m1") && is("max_width", "16384") && is("slice_clamp", "4094"));
    CHECK(sa_setting(SA_SET_MAX_WIDTH) == 16384 && sa_setting_real(SA_SET_SLICE_CLAMP) == 4094);
    CHECK(is("compile_limit", "119")); /* not named there: from default */
    CHECK(strstr(get("source.max_width"), "ANEForge") && strstr(get("source.compile_limit"), "maderix"));
    CHECK(strstr(get("profile.values"), "\nmax_width = 16384  # m1\n") && strstr(get("profile.values"), "compile_limit = 119  # default\n"));
    CHECK(softane_set("max_width", "20000") == 0 && sa_setting(SA_SET_MAX_WIDTH) == 20000);
    CHECK(is("source.max_width", "set by the user") && strstr(get("profile.values"), "\nmax_width = 20000  # set\n"));
    CHECK(softane_set("profile", "m5") == 0 && sa_setting(SA_SET_MAX_WIDTH) == 20000 && is("tflops", "6.1"));
    CHECK(softane_set("max_width", NULL) == 0 && sa_setting(SA_SET_MAX_WIDTH) == 65536);
    CHECK(softane_set("profile", NULL) == 0 && is("profile", "default") && is("tflops", "6.8"));
    CHECK(strlen(get("profile.values")) < 4000 && strstr(get("profile.values"), "busy = ")); /* the last key is there */
    char small[20];
    CHECK(softane_get("profile.values", small, sizeof small) == 0 && strlen(small) < sizeof small);
    CHECK(softane_get("source.profile", small, sizeof small) == -1);

    SaQuirks q;
    sa_device_quirks(&q);
    CHECK(q.dot_limit == 32768 && q.slice_clamp == 0 && q.sdpa_ignores_mask && !q.flush_subnormals && !q.quantised_tables);
    CHECK(softane_set("subnormals", "flush") == 0 && softane_set("tables", "quantised") == 0 && softane_set("sdpa_mask", "honour") == 0);
    CHECK(softane_set("profile", "m2") == 0);
    sa_device_quirks(&q);
    CHECK(q.slice_clamp == 4094 && !q.sdpa_ignores_mask && q.flush_subnormals && q.quantised_tables);
    const char *const keys[] = {"subnormals", "tables", "sdpa_mask", "profile"};
    for (int i = 0; i < 4; i++)
        CHECK(softane_set(keys[i], NULL) == 0);
}

static void timing_takes_the_chips_numbers(void) {
    CHECK(softane_set("timing", "m1") == 0 && is("op_ms", "3.4") && is("max_width", "65536") && sa_timing_on());
    CHECK(softane_set("profile", "m5") == 0 && is("op_ms", "3.4")); /* timing names its own chip */
    CHECK(softane_set("timing", "on") == 0 && is("op_ms", "0.9") && sa_timing_on());
    CHECK(softane_set("op_ms", "7") == 0 && sa_setting_real(SA_SET_OP_MS) == 7);
    CHECK(softane_set("timing", "off") == 0 && !sa_timing_on() && softane_set("timing", NULL) == 0 && is("timing", "off"));
    CHECK(softane_set("op_ms", NULL) == 0 && softane_set("profile", NULL) == 0);
    CHECK(refused("timing", "m9", "there is no profile 'm9'") && refused("timing", "", "timing") && is("timing", "off"));
}

static void bad_files_are_refused_with_their_line(void) {
    static const struct { const char *text, *why; } bad[] = {
        {"max_dim = 5\nmax_width 6\n", ":2: expected key = value"},
        {"# a comment\n\n= 5\n", ":3: key or value is missing"},
        {"max_dim =   # source: nowhere\n", ":1: key or value is missing"},
        {"max_dim = -1\n", ":1: '-1' is no value for 'max_dim'"},
        {"order = name\norder = size\n", ":2: 'order' stands there twice"},
        {"order = sideways\n", ":1: 'sideways' is no value for 'order'"},
        {"order = \n", ":1:"},
        {"tflops = nan\n", ":1:"},
        {"tflops = 1e9\n", ":1:"},
        {"dialect_a = 2", ":1:"},
        {"staging_evals = on\n", ":1:"},
        {"compile_limit_mode = crash\n", ":1:"},
        {"threads = 1\n", ":1: 'threads' is no key of a profile"},
        {"profile = m1\n", ":1: 'profile' is no key"},
        {"max_dims = 1\n", ":1: 'max_dims' is no key"},
        {"max_dim = 1 2\n", ":1:"},
    };
    char path[600], line[400], want[700];
    snprintf(path, sizeof path, "%s/x.profile", root);
    CHECK(softane_set("profile", "m1") == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(sa_file_write(path, bad[i].text, strlen(bad[i].text), NULL) == SA_OK);
        snprintf(want, sizeof want, "%s%s", path, bad[i].why);
        CHECK(refused("profile", path, want) && is("profile", "m1") && is("max_width", "16384"));
    }
    memset(line, 'k', sizeof line);
    memcpy(line + 300, " = 1\n", 5);
    CHECK(sa_file_write(path, line, 305, NULL) == SA_OK && refused("profile", path, ":1: key or value is missing or too long"));
    CHECK(sa_file_write(path, "max_dim = 1\0\n", 13, NULL) == SA_OK && refused("profile", path, ":1: a zero byte"));
    CHECK(refused("profile", "/nowhere/x.profile", "cannot open") && refused("profile", "/", "") && refused("profile", "", "profile"));
    char *big = calloc(1, (1 << 16) + 1);
    memset(big, '\n', (1 << 16) + 1);
    CHECK(sa_file_write(path, big, (1 << 16) + 1, NULL) == SA_OK && refused("profile", path, "has 65537 bytes, more than 65536"));
    CHECK(sa_file_write(path, big, 1 << 16, NULL) == SA_OK && softane_set("profile", path) == 0 && softane_set("profile", "m1") == 0);
    free(big);
    for (int over = 0; over < 2; over++) { /* keys of 63 bytes, values of 255: none has so many, so the message tells */
        memset(line, 'k', sizeof line);
        memcpy(line + 63 + over, " = 1\n", 5);
        CHECK(sa_file_write(path, line, (size_t)(68 + over), NULL) == SA_OK);
        CHECK(refused("profile", path, over ? "missing or too long" : "kkk' is no key of a profile"));
        memset(line, '1', sizeof line);
        memcpy(line, "order=", 6);
        CHECK(sa_file_write(path, line, (size_t)(6 + 255 + over), NULL) == SA_OK);
        CHECK(refused("profile", path, over ? "missing or too long" : "111' is no value for 'order'"));
    }
    char *words = calloc(1, 3001);
    memset(words, 'p', 3000);
    CHECK(refused("store_dir", words, "store_dir")); /* relative */
    words[0] = '/';
    CHECK(refused("store_dir", words, "store_dir"));
    words[2999] = 0;
    CHECK(softane_set("store_dir", words) == 0 && softane_set("store_dir", NULL) == 0);
    words[1000] = 0;
    CHECK(refused("partition", words, "partition"));
    words[999] = 0;
    CHECK(softane_set("partition", words) == 0 && softane_set("partition", NULL) == 0);
    free(words);
    CHECK(softane_set("tflops", "1000000") == 0 && refused("tflops", "1000001", "tflops") && softane_set("tflops", NULL) == 0);
    CHECK(refused("no_such", "1", "there is no setting 'no_such'") && refused("order", "up", "name|declaration|size|random"));

    static const char good[] = "  max_dim=77\t# why not\r\n#\n\n order\t=  random\nunload_purges = 1";
    CHECK(sa_file_write(path, good, sizeof good - 1, NULL) == SA_OK && softane_set("profile", path) == 0);
    CHECK(is("max_dim", "77") && is("order", "random") && is("unload_purges", "1") && is("source.max_dim", "why not"));
    CHECK(is("source.order", "") && is("max_width", "65536") && is("profile", path));
    CHECK(softane_set("profile", NULL) == 0);

    uint32_t random = 7; /* no text may do harm */
    for (int i = 0; i < 3000; i++) {
        char text[64];
        static const char alphabet[] = "max_dim=order \t\n\r#09.kname";
        for (size_t k = 0; k < sizeof text; k++) {
            random = random * 1664525u + 1013904223u;
            text[k] = i % 2 ? alphabet[(random >> 16) % (sizeof alphabet - 1)] : (char)(random >> 16);
        }
        SaProfile *p;
        SaError err;
        if (sa_profile_parse("random", text, random >> 26, &p, &err) == SA_OK)
            sa_profile_free(p);
    }
    CHECK(true);
}

/* ============================== Limits of the compiler ==================== */

#define RELU(shape) HEAD "func main<ios18>(tensor<fp16, " shape "> x) {\ntensor<fp16, " shape "> y = relu(x=x)[name=string(\"y\")];\n} -> (y);\n}\n"
#define SCALAR(type, name, value) type " " name " = const()[name=string(\"" name "\"), val=" type "(" value ")];\n"

static int fresh;

/* Does `text` compile? `says` = the word the engine must use when it does not. */
static bool compiles(const char *text, const char *says) {
    char id[32];
    SaAnswer a;
    snprintf(id, sizeof id, "limit-%d", fresh++);
    bool ok = compile_text(id, text, HALF_2, &a);
    sa_store_purge(id);
    return says ? !ok && a.code == 1 && strstr(a.text, says) : ok;
}

/* conv of [1, in, 1, 64] with a kernel of `width` columns, dialect B. */
static char *conv(int in, int width) {
    static char text[1 << 20];
    int n = snprintf(text, sizeof text,
                     HEAD "func main<ios18>(tensor<fp16, [1, %d, 1, 64]> x) {\n"
                     "string t = const()[name=string(\"t\"), val=string(\"same\")];\n"
                     "tensor<int32, [2]> s = const()[name=string(\"s\"), val=tensor<int32, [2]>([1, 1])];\n"
                     "tensor<int32, [4]> p = const()[name=string(\"p\"), val=tensor<int32, [4]>([0, 0, 0, 0])];\n"
                     "tensor<int32, [2]> d = const()[name=string(\"d\"), val=tensor<int32, [2]>([1, 1])];\n"
                     "int32 g = const()[name=string(\"g\"), val=int32(1)];\n"
                     "tensor<fp16, [1, %d, 1, %d]> w = const()[name=string(\"w\"), val=tensor<fp16, [1, %d, 1, %d]>([",
                     in, in, width, in, width);
    for (int i = 0; i < in * width; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, i ? ", 0x1p+0" : "0x1p+0");
    snprintf(text + n, sizeof text - (size_t)n,
             "])];\ntensor<fp16, [1, 1, 1, 64]> y = conv(x=x, weight=w, pad_type=t, strides=s, pad=p, dilations=d, groups=g)[name=string(\"y\")];\n} -> (y);\n}\n");
    return text;
}

static void limits_are_those_of_the_chip(void) { /* 40 */
    CHECK(compiles(RELU("[1, 1, 1, 65536]"), NULL) && compiles(RELU("[1, 1, 1, 65537]"), "CompilationFailure"));
    CHECK(compiles(conv(8, 15), NULL) && compiles(conv(8, 16), "CompilationFailure"));
    CHECK(compiles(conv(31999, 1), NULL) && compiles(conv(32000, 1), "CompilationFailure"));
    CHECK(softane_set("profile", "m1") == 0);
    CHECK(compiles(RELU("[1, 1, 1, 16384]"), NULL) && compiles(RELU("[1, 1, 1, 16385]"), "CompilationFailure"));
    CHECK(compiles(RELU("[1, 16385, 1, 1]"), NULL) && compiles(RELU("[1, 65537, 1, 1]"), "CompilationFailure"));
    CHECK(compiles(conv(8, 13), NULL) && compiles(conv(8, 14), "CompilationFailure"));
    CHECK(softane_set("max_dim", "100") == 0 && compiles(RELU("[1, 101, 1, 32]"), "CompilationFailure") && compiles(RELU("[1, 100, 1, 32]"), NULL));
    CHECK(softane_set("max_dim", NULL) == 0 && softane_set("profile", NULL) == 0);
    CHECK(compiles(RELU("[1, 1, 1, 1, 1, 8]"), "err=( ")); /* rank 6 */
}

static void dialects_are_those_of_the_chip(void) { /* 38 */
    static const char a[] = HEAD "func main<ios18>(" T " x) {\n" SCALAR("fp16", "k", "0x1p+1")
        T " y = mul(x=x, y=k)[name=string(\"y\")];\n} -> (y);\n}\n";
    static const char b[] = "program(1.0)\n[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
        "func main<ios16>(" T " x) {\n" T " y = relu(x=x)[name=tensor<string, []>(\"y\")];\n} -> (y);\n}\n";
    static const char mixed[] = HEAD "func main<ios18>(" T " x) {\n" T " y = relu(x=x)[name=tensor<string, []>(\"y\")];\n} -> (y);\n}\n";
    CHECK(compiles(a, NULL));
    CHECK(softane_set("dialect_a", "0") == 0 && compiles(a, "CompilationFailure") && softane_set("dialect_a", NULL) == 0);
    CHECK(softane_set("profile", "m2") == 0 && compiles(a, "CompilationFailure") && softane_set("profile", NULL) == 0);
    CHECK(compiles(b, NULL) && compiles(mixed, "InvalidMILProgram"));
    CHECK(softane_set("dialect_b", "0") == 0 && compiles(b, "CompilationFailure") && compiles(a, NULL));
    CHECK(softane_set("dialect_b", NULL) == 0);
}

static void other_types_are_refused(void) { /* 41 */
#define TYPED(t) HEAD "func main<ios18>(tensor<" t ", [1, 4, 1, 32]> x) {\ntensor<" t ", [1, 4, 1, 32]> y = relu(x=x)[name=string(\"y\")];\n} -> (y);\n}\n"
    CHECK(compiles(TYPED("fp16"), NULL));
    CHECK(compiles(TYPED("bf16"), "err=( ") && compiles(TYPED("int8"), "err=( ") && compiles(TYPED("int4"), "err=( "));
    char *text = conv(8, 3); /* the same in fp32 */
    for (char *at; (at = strstr(text, "fp16"));)
        memcpy(at, "fp32", 4);
    CHECK(compiles(text, "err=( "));
}

static void a_reduction_times_zero_fails(void) { /* 42 */
#define REDUCED(k) HEAD "func main<ios18>(" T " x) {\n" \
    "tensor<int32, [1]> ax = const()[name=string(\"ax\"), val=tensor<int32, [1]>([1])];\n" SCALAR("bool", "kd", "true") \
    SCALAR("fp16", "k", k) "tensor<fp16, [1, 1, 1, 32]> r = reduce_sum(x=x, axes=ax, keep_dims=kd)[name=string(\"r\")];\n" \
    "tensor<fp16, [1, 1, 1, 32]> y = mul(x=r, y=k)[name=string(\"y\")];\n} -> (y);\n}\n"
    CHECK(compiles(REDUCED("0x0p+0"), "CompilationFailure") && compiles(REDUCED("0x1p+0"), NULL));
    CHECK(compiles(REDUCED("-0x0p+0"), "CompilationFailure") && compiles(REDUCED("1e-30"), "CompilationFailure")); /* fp16 rounds it to 0 */
    static const char zero_first[] = HEAD "func main<ios18>(" T " x) {\n"
        "tensor<int32, [1]> ax = const()[name=string(\"ax\"), val=tensor<int32, [1]>([1])];\n" SCALAR("bool", "kd", "true")
        SCALAR("fp16", "k", "0x0p+0") "tensor<fp16, [1, 1, 1, 32]> r = reduce_max(x=x, axes=ax, keep_dims=kd)[name=string(\"r\")];\n"
        "tensor<fp16, [1, 1, 1, 32]> y = mul(x=k, y=r)[name=string(\"y\")];\n} -> (y);\n}\n";
    CHECK(compiles(zero_first, "CompilationFailure")); /* either way round, any reduction */
    CHECK(softane_set("reduce_zero_fails", "0") == 0 && compiles(REDUCED("0x0p+0"), NULL));
    CHECK(softane_set("reduce_zero_fails", NULL) == 0);
    static const char relu_zero[] = HEAD "func main<ios18>(" T " x) {\n" SCALAR("fp16", "k", "0x0p+0") /* no reduction: fine */
        T " r = relu(x=x)[name=string(\"r\")];\n" T " y = mul(x=k, y=r)[name=string(\"y\")];\n} -> (y);\n}\n";
    CHECK(compiles(relu_zero, NULL));
}

static void one_operation_alone_may_fail(void) {
    static const char *const alone[] = {
        "tensor<int32, [2]> s = const()[name=string(\"s\"), val=tensor<int32, [2]>([4, 32])];\ntensor<fp16, [4, 32]> y = reshape(x=%s, shape=s)[name=string(\"y\")];\n",
        "tensor<int32, [4]> b = const()[name=string(\"b\"), val=tensor<int32, [4]>([0, 0, 0, 0])];\n"
        "tensor<int32, [4]> e = const()[name=string(\"e\"), val=tensor<int32, [4]>([1, 2, 1, 32])];\n"
        "tensor<fp16, [1, 2, 1, 32]> y = slice_by_index(x=%s, begin=b, end=e)[name=string(\"y\")];\n",
        "tensor<int32, [4]> n = const()[name=string(\"n\"), val=tensor<int32, [4]>([1, 2, 1, 1])];\ntensor<fp16, [1, 8, 1, 32]> y = tile(x=%s, reps=n)[name=string(\"y\")];\n",
        T " y = abs(x=%s)[name=string(\"y\")];\n",
    };
    for (int i = 0; i < 4; i++)
        for (int company = 0; company < 2; company++)
            for (int strict = 0; strict < 2; strict++) {
                char body[800], text[1600];
                snprintf(body, sizeof body, alone[i], company ? "h" : "x");
                snprintf(text, sizeof text, HEAD "func main<ios18>(" T " x) {\n%s%s} -> (y);\n}\n", company ? T " h = relu(x=x)[name=string(\"h\")];\n" : "", body);
                CHECK(softane_set("single_op_fails", strict ? "1" : NULL) == 0);
                CHECK(compiles(text, strict && !company && i < 3 ? "CompilationFailure" : NULL));
            }
    CHECK(softane_set("single_op_fails", NULL) == 0);
}

/* A weight file that was made in one of the known wrong ways. */
static bool wrong_blob(size_t at, uint8_t value) {
    char *dir = stage(weight_text), path[600];
    write_weights(dir, HALF_2);
    snprintf(path, sizeof path, "%s/weights/w.bin", dir);
    char *f;
    size_t n;
    CHECK(sa_file_read(path, 1 << 20, &f, &n, NULL) == SA_OK);
    f[at] = (char)value;
    CHECK(sa_file_write(path, f, n, NULL) == SA_OK);
    sa_free(f);
    SaSource s = source("blob", dir);
    SaAnswer a;
    bool bad = !sa_device_compile(&s, 21, NULL, &a) && a.code == 1 && strstr(a.text, "InvalidMILProgram") && a.why.code == SA_E_BLOB;
    free(dir);
    return bad;
}

static void wrong_weight_files_are_refused(void) { /* 43 */
    static const char at_128[] = HEAD "func main<ios18>(" T " x) {\n" T " w = const()[name=string(\"w\"), val=" T
        "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(128)))];\n" T " y = mul(x=x, y=w)[name=string(\"y\")];\n} -> (y);\n}\n";
    CHECK(compiles(at_128, "InvalidMILProgram"));  /* names the data, not the metadata */
    CHECK(wrong_blob(64, 0) && wrong_blob(72, 1)); /* no sentinel, another size */
    CHECK(wrong_blob(4, 0) && wrong_blob(68, 2));  /* another version, another dtype */
}

/* A file made by `bytes` for weight_text, compiled under blobs=garbage and run
 * on ones: the first and the last result, or 0xffff when a call failed. */
static void garbage(const char *text, const uint8_t *bytes, size_t n, uint16_t got[2]) {
    static int runs;
    char *dir = stage(text), path[600], id[32];
    write_weights(dir, HALF_2);
    snprintf(path, sizeof path, "%s/weights/w.bin", dir);
    CHECK(sa_file_write(path, bytes, n, NULL) == SA_OK);
    snprintf(id, sizeof id, "garbage-%d", runs++);
    SaSource s = source(id, dir);
    SaAnswer a;
    uint16_t in[N], out[N];
    got[0] = got[1] = 0xffff;
    for (int i = 0; i < N; i++)
        in[i] = HALF_1;
    SaSlot si = {0, in, BYTES}, so = {0, out, BYTES};
    SaBinding b = {&si, &so, 1, 1, 0};
    if (sa_device_compile(&s, 21, NULL, &a)) {
        SaLoaded *l = load_known(id, &a);
        if (l && sa_device_eval(l, &b, 21, &a))
            got[0] = out[0], got[1] = out[N - 1];
        unload(l);
    }
    free(dir);
}

static void wrong_weight_files_can_be_read_as_they_are(void) { /* 43, blobs=garbage */
    static const char at_128[] = HEAD "func main<ios18>(" T " x) {\n" T " w = const()[name=string(\"w\"), val=" T
        "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(128)))];\n" T " y = mul(x=x, y=w)[name=string(\"y\")];\n} -> (y);\n}\n";
    uint8_t good[128 + BYTES] = {1, 0, 0, 0, 2}, f[128 + BYTES];
    uint32_t sentinel = 0xDEADBEEF, dtype = 1;
    uint64_t size = BYTES, at = 128;
    memcpy(good + 64, &sentinel, 4), memcpy(good + 68, &dtype, 4), memcpy(good + 72, &size, 8), memcpy(good + 80, &at, 8);
    for (int i = 0; i < N; i++)
        memcpy(good + 128 + 2 * i, &(uint16_t){HALF_3}, 2);
    uint16_t got[2];
    CHECK(softane_set("blobs", "junk") != 0 && softane_set("blobs", "garbage") == 0);
    garbage(weight_text, good, sizeof good, got); /* a right file is read right */
    CHECK(got[0] == HALF_3 && got[1] == HALF_3);
    memcpy(f, good, sizeof f), f[72] = 1; /* another size: the data are where they were */
    garbage(weight_text, f, sizeof f, got);
    CHECK(got[0] == HALF_3 && got[1] == HALF_3);
    memcpy(f, good, sizeof f), memset(f + 72, 0, 16), f[74] = 8; /* byte 10 of the metadata set, no offset: the file's start */
    garbage(weight_text, f, sizeof f, got);
    CHECK(got[0] == 1 && got[1] == HALF_3); /* the count of blobs, a subnormal; then weights from 128 on */
    memcpy(f, good, sizeof f), memmove(f + 64, f + 128, BYTES); /* no metadata: data from 64 */
    garbage(weight_text, f, 64 + BYTES, got);
    CHECK(got[0] == HALF_3 && got[1] == HALF_3);
    garbage(weight_text, good, 128 + 64, got); /* cut short: zeros */
    CHECK(got[0] == HALF_3 && got[1] == 0);
    garbage(at_128, good, sizeof good, got); /* the data taken for metadata: they point far beyond the file */
    CHECK(got[0] == 0 && got[1] == 0);
    CHECK(softane_set("blobs", NULL) == 0);
    garbage(at_128, good, sizeof good, got);
    CHECK(got[0] == 0xffff); /* and by default all this is refused */
}

static void values_can_decide_whether_a_text_compiles(void) { /* 48 */
    SaAnswer a;
    CHECK(softane_set("value_fails", "3") == 0);
    char id[16];
    for (int i = 0; i < 7; i++) { /* the same text, other weights each time */
        snprintf(id, sizeof id, "value-%d", i);
        bool ok = compile_text(id, weight_text, (uint16_t)(HALF_1 + i), &a);
        CHECK(ok == (i != 3));
        if (!ok)
            CHECK(strstr(a.text, "err=( CompilationFailure )") && strstr(a.why.text, "split by input channel"));
    }
    CHECK(compile_text("value-other", sum_text, HALF_1, &a)); /* another text counts for itself */
    CHECK(softane_set("value_fails", NULL) == 0);
}

/* ============================== Limits of a process ======================= */

static void compiles_beyond_the_limit_have_three_forms(void) { /* 44 */
    SaAnswer a;
    set_count("compile_limit", counter("compiles"));
    CHECK(!compile_text("over-1", sum_text, 0, &a) && a.domain == SA_DOMAIN_COMPILER && a.code == 1 && !sa_store_has("over-1"));
    CHECK(softane_set("compile_limit_mode", "load") == 0);
    uint64_t loaded = counter("loaded");
    CHECK(compile_text("over-2", sum_text, 0, &a) && sa_store_has("over-2") && !load_known("over-2", &a));
    CHECK(a.domain == SA_DOMAIN_ANE && a.code == 6 && strstr(a.text, "(0x20004)") && counter("loaded") == loaded);
    CHECK(refused("compile_limit_mode", "crash", "environment only") && is("compile_limit_mode", "load"));
    CHECK(softane_set("compile_limit_mode", NULL) == 0 && softane_set("compile_limit", "0") == 0);
    sa_store_purge("over-2");
    CHECK(compile_text("over-2", sum_text, 0, &a));
    SaLoaded *l = load_known("over-2", &a);
    CHECK(l && unload(l));

    char *argv[] = {(char[]){"test_profile"}, root, NULL};
    int status = 0;
    pid_t pid;
    setenv("SOFTANE_COMPILE_LIMIT_MODE", "crash", 1);
    setenv("SOFTANE_COMPILE_LIMIT", "1", 1);
    CHECK(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) == 0 && waitpid(pid, &status, 0) == pid);
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) || (WIFEXITED(status) && WEXITSTATUS(status) == 77)); /* 77: a sanitizer caught it */
    unsetenv("SOFTANE_COMPILE_LIMIT_MODE");
    unsetenv("SOFTANE_COMPILE_LIMIT");
}

static void crash_handler(int signal_number) {
    (void)signal_number;
    _exit(77);
}

static void large_programs_are_refused(void) { /* 45, 46, 47 */
    SaAnswer a;
    CHECK(is("program_bytes", "2147483648") && is("loaded_bytes", "4294967296") && is("loaded_limit", "128"));
    set_count("program_bytes", BYTES - 1);
    CHECK(compile_text("large", weight_text, HALF_2, &a) && !load_known("large", &a) && a.code == 6 && strstr(a.text, "(0x20004)"));
    set_count("program_bytes", BYTES);
    SaLoaded *l = load_known("large", &a);
    CHECK(l && unload(l) && softane_set("program_bytes", NULL) == 0);
    set_count("loaded_bytes", BYTES - 1);
    CHECK(!load_known("large", &a) && a.code == 6 && strstr(a.text, "(0x20004)") && softane_set("loaded_bytes", NULL) == 0);
    set_count("loaded_limit", 1);
    l = load_known("large", &a);
    CHECK(l && !load_known("large", &a) && a.code == 6 && strstr(a.text, "(0x20004)"));
    CHECK(unload(l) && softane_set("loaded_limit", NULL) == 0);
}

int main(int argc, char **argv) {
    if (argc > 1) { /* the process that is to crash, with files of its own in the other's directory */
        SaAnswer a;
        signal(SIGSEGV, crash_handler);
        snprintf(root, sizeof root, "%s", argv[1]);
        made = 1000000;
        return compile_text("first", sum_text, 0, &a) && compile_text("second", sum_text, 0, &a) ? 0 : 1;
    }
    if (!begin_files("test_profile"))
        return 1;
    setenv("SOFTANE_COMPILE_LIMIT", "0", 1);
    softane_set("log", "off");
    CHECK(softane_set("compile_limit", NULL) == 0);
    unsetenv("SOFTANE_COMPILE_LIMIT");
    every_profile_is_complete();
    settings_override_profiles();
    timing_takes_the_chips_numbers();
    bad_files_are_refused_with_their_line();
    CHECK(softane_set("compile_limit", "0") == 0);
    limits_are_those_of_the_chip();
    dialects_are_those_of_the_chip();
    other_types_are_refused();
    a_reduction_times_zero_fails();
    one_operation_alone_may_fail();
    wrong_weight_files_are_refused();
    wrong_weight_files_can_be_read_as_they_are();
    values_can_decide_whether_a_text_compiles();
    compiles_beyond_the_limit_have_three_forms();
    large_programs_are_refused();
    end_files();
    printf("test_profile: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
