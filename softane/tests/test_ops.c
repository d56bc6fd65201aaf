// SPDX-License-Identifier: MIT
/* test_ops.c - every operation against the reference.
 *
 * The programs are corpus/valid/op_NAME_a.mil and _b.mil, one per operation and
 * dialect; their "# data:" line says on which data they run: integers (exact),
 * integers~ (not exact), uniform, positive, unit, bits. Each runs under both
 * numerics, on every kernel variant of this CPU, on one thread and on all.
 *
 * Usage: test_ops [name]     only files whose name begins so. Exit 1 on failure. */
#include "ops_harness.h"

#include <sys/stat.h>
#include <unistd.h>

static bool seen[SA_OP_COUNT];

/* ============================== Programs ================================== */

static void check_run(const char *name, const Built *b, Surfaces *s, bool exact) {
    for (int numerics = SA_NUMERICS_FAST; numerics <= SA_NUMERICS_IEEE; numerics++) {
        Ref r = reference(b, s, (SaNumerics)numerics);
        for (int v = 0; sa_kernels_variant(v); v++) {
            char label[128];
            sa_kernels_force(sa_kernels_variant(v));
            snprintf(label, sizeof label, "%s %s %d", name, sa_kernels_variant(v)->name, numerics);
            for (int threads = 0; threads < 2; threads++)
                CHECK_AS(run(b->plan, s, (SaNumerics)numerics, threads) == SA_OK && outputs_agree(b, s, &r, exact, label), label);
        }
        ref_free(&r);
    }
    sa_kernels_force(NULL);
}

static void item_computes(const char *name, const Item *it) {
    char word[32];
    int kinds = 0;
    for (int kind = 0; kind < DATA_KINDS; kind++) {
        snprintf(word, sizeof word, " %s", data_names[kind]);
        const char *at = strstr(it->data, word);
        if (!at)
            continue;
        kinds++;
        seed_state = 1000 + (uint64_t)kind;
        Built b = build(it->text, it->bytes, (DataKind)kind);
        char reason[600] = "";
        sa_error_format(&b.err, reason, sizeof reason);
        if (CHECK_AS(b.status == SA_OK, name)) {
            for (int i = 0; i < b.program->functions[0].n_ops; i++)
                seen[b.program->functions[0].ops[i].id] = true;
            Surfaces s = surfaces_make(b.plan, (DataKind)kind);
            check_run(name, &b, &s, kind == INTEGERS && at[strlen(word)] != '~');
            surfaces_free(&s);
        } else {
            fprintf(stderr, "  %s\n", reason);
        }
        unbuild(&b);
    }
    CHECK_AS(kinds > 0, name);
}

/* ============================== Attention ================================= */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
#define T(dims) "tensor<fp16, [" dims "]>"

/* Fused attention gives what its parts give, to the bit. */
static void attention_is_its_decomposition(void) {
    const char *text = HEAD "func main<ios18>(" T("2, 3, 33, 16") " q, " T("2, 3, 17, 16") " k, " T("2, 3, 17, 7") " v, " T("33, 17") " m) {\n"
        "fp16 s = const()[name=\"s\", val=fp16(0.25)];\nbool t = const()[name=\"t\", val=bool(true)];\n"
        "int32 a = const()[name=\"a\", val=int32(-1)];\n"
        T("2, 3, 33, 17") " s0 = matmul(x=q, y=k, transpose_y=t)[name=\"s0\"];\n" T("2, 3, 33, 17") " s1 = mul(x=s0, y=s)[name=\"s1\"];\n"
        T("2, 3, 33, 17") " s2 = add(x=s1, y=m)[name=\"s2\"];\n" T("2, 3, 33, 17") " p = softmax(x=s2, axis=a)[name=\"p\"];\n"
        T("2, 3, 33, 7") " y = matmul(x=p, y=v)[name=\"y\"];\n"
        T("2, 3, 33, 7") " z = scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m)[name=\"z\"];\n} -> (y, z);\n}\n";
    Built b = build(text, strlen(text), UNIFORM);
    if (CHECK(b.status == SA_OK)) {
        Surfaces s = surfaces_make(b.plan, UNIFORM);
        for (int n = SA_NUMERICS_FAST; n <= SA_NUMERICS_SILICON; n++) {
            CHECK(run(b.plan, &s, (SaNumerics)n, 0) == SA_OK);
            CHECK(memcmp(s.out[0], s.out[1], sa_plan_output(b.plan, 0, 0)->bytes) == 0);
        }
        surfaces_free(&s);
    }
    unbuild(&b);
}

/* ============================== Weight files ============================== */

static void put_le(uint8_t *p, uint64_t v, int bytes) {
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* A table of 2^bits numbers, looked up by packed indices 0, 1, 2, … from a file. */
static void packed_indices_are_read_low_bits_first(void) {
    static const struct {
        const char *name;
        unsigned bits, code;
    } dtypes[] = {{"uint1", 1, 9}, {"uint2", 2, 10}, {"uint3", 3, 12}, {"uint4", 4, 11}, {"uint6", 6, 13}, {"uint8", 8, 3}};
    enum { N = 19 };
    char dir[] = "/tmp/sa_ops_XXXXXX", path[128], text[8192];
    if (!CHECK(mkdtemp(dir) != NULL))
        return;
    snprintf(path, sizeof path, "%s/i.bin", dir);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        uint8_t file[256] = {0};
        unsigned bits = dtypes[d].bits, entries = 1u << bits;
        size_t bytes = (N * bits + 7) / 8;
        for (unsigned i = 0; i < N; i++)
            for (unsigned b = 0; b < bits; b++)
                file[128 + (i * bits + b) / 8] |= (uint8_t)((i * 7 % entries >> b & 1u) << ((i * bits + b) % 8));
        put_le(file, 1, 4);
        put_le(file + 4, 2, 4);
        put_le(file + 64, 0xDEADBEEF, 4);
        put_le(file + 68, dtypes[d].code, 4);
        put_le(file + 72, bytes, 8);
        put_le(file + 80, 128, 8);
        FILE *f = fopen(path, "wb");
        CHECK(f && fwrite(file, 1, 128 + bytes, f) == 128 + bytes);
        if (f)
            fclose(f);
        int n = snprintf(text, sizeof text, HEAD "func main<ios18>(" T("19") " x) {\ntensor<%s, [19]> i = const()[name=\"i\", val=tensor<%s, [19]>"
                         "(BLOBFILE(path=string(\"@model_path/i.bin\"), offset=uint64(64)))];\n"
                         "tensor<fp16, [1, %u, 1]> l = const()[name=\"l\", val=tensor<fp16, [1, %u, 1]>([", dtypes[d].name, dtypes[d].name, entries, entries);
        for (unsigned i = 0; i < entries; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, "%s%u", i ? ", " : "", i * 2 + 1);
        snprintf(text + n, sizeof text - (size_t)n, "])];\n" T("19") " k = constexpr_lut_to_dense(indices=i, lut=l)[name=\"k\"];\n"
                 T("19") " y = add(x=x, y=k)[name=\"y\"];\n} -> (y);\n}\n");
        Built b = {.arena = sa_arena_new(0)};
        size_t total = 0;
        b.status = sa_program_parse(b.arena, text, strlen(text), NULL, &b.program, &b.err);
        b.status = b.status ? b.status : sa_program_check(b.arena, b.program, NULL, &b.err);
        b.status = b.status ? b.status : sa_program_bind(b.arena, b.program, dir, SA_BLOB_REFUSE, &total, &b.err);
        b.status = b.status ? b.status : sa_plan_build(b.program, &b.plan, &b.err);
        if (CHECK_AS(b.status == SA_OK, dtypes[d].name)) {
            Surfaces s = surfaces_make(b.plan, INTEGERS);
            bool good = run(b.plan, &s, SA_NUMERICS_FAST, 1) == SA_OK;
            for (unsigned i = 0; i < N; i++)
                good = good && port_get(sa_plan_output(b.plan, 0, 0), s.out[0], i) ==
                                   port_get(sa_plan_input(b.plan, 0, 0), s.in[0], i) + (double)(i * 7 % entries * 2 + 1);
            CHECK_AS(good, dtypes[d].name);
            surfaces_free(&s);
        } else {
            fprintf(stderr, "  %s\n", b.err.text);
        }
        unbuild(&b);
        CHECK(truncate(path, (off_t)(128 + bytes - 1)) == 0); /* a byte short */
        b = (Built){.arena = sa_arena_new(0)};
        CHECK(sa_program_parse(b.arena, text, strlen(text), NULL, &b.program, &b.err) == SA_OK &&
              sa_program_check(b.arena, b.program, NULL, &b.err) == SA_OK);
        CHECK(sa_program_bind(b.arena, b.program, dir, SA_BLOB_REFUSE, &total, &b.err) == SA_E_BLOB);
        unbuild(&b);
    }
    unlink(path);
    rmdir(dir);
}

/* ============================== Refused by default ======================== */

static void refused_operations_say_so(void) {
    static const char *const names[] = {"mod", "tan", "reduce_prod", "cumsum", "logical_and", "where", "neg", "non_zero", "lstm", "scatter_nd"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[512];
        snprintf(text, sizeof text, HEAD "func main<ios18>(" T("2, 2") " x) {\n" T("2, 2") " y = %s(x=x)[name=\"y\"];\n} -> (y);\n}\n", names[i]);
        SaArena *a = sa_arena_new(0);
        SaProgram *p;
        SaError err = {0};
        SaStatus st = sa_program_parse(a, text, strlen(text), NULL, &p, &err);
        st = st ? st : sa_program_check(a, p, NULL, &err);
        CHECK_AS(st == SA_E_OP && strstr(err.text, "refused by the engine"), names[i]);
        sa_arena_free(a);
    }
}

int main(int argc, char **argv) {
    CHECK(corpus_walk("valid", argc > 1 ? argv[1] : "op_", item_computes) > 0);
    for (int i = 1; i < SA_OP_COUNT && argc < 2; i++)
        CHECK_AS(seen[i], sa_op_name((SaOpId)i));
    attention_is_its_decomposition();
    packed_indices_are_read_low_bits_first();
    refused_operations_say_so();
    printf("test_ops: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
