// SPDX-License-Identifier: MIT
/* test_quirk.c - what a profile or a setting does to results: limits of
 * products and slices, overflow, subnormals, table functions. One program per
 * row of docs/FIDELITY.md, small enough to know the answer; the arithmetic
 * itself is tested elsewhere. One verdict line at the end; exit 1 on failure. */
#include "device_programs.h"

#include <math.h>

#define INT(type, name, value) type " " name " = const()[name=string(\"" name "\"), val=" type "(" value ")];\n"
#define V "tensor<fp16, [1, 1, 1, 32]>"
#define W "tensor<fp16, [1, 1, 1, 64]>"

static bool set(const char *key, const char *value) { return softane_set(key, value) == 0; }

static int fresh;

/* Compile, load and evaluate a program of one output; inputs in name order, all
 * elements alike. The first element of the result. */
static float run(const char *text, int n, const float *values) {
    SaAnswer a;
    char id[32];
    uint16_t in[4][256], out[256];
    SaSlot si[4], so = {0, out, sizeof out};
    snprintf(id, sizeof id, "quirk-%d", fresh++);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 256; k++)
            in[i][k] = sa_half_from_float_even(values[i]);
        si[i] = (SaSlot){i, in[i], sizeof in[i]};
    }
    CHECK(compile_text(id, text, 0, &a));
    SaLoaded *l = load_known(id, &a);
    SaBinding b = {si, &so, n, 1, 0};
    bool ok = l && sa_device_eval(l, &b, 21, &a);
    CHECK(ok && unload(l));
    sa_store_purge(id);
    return ok ? sa_half_to_float(out[0]) : NAN;
}
#define RUN(text, ...) run(text, (int)(sizeof((float[]){__VA_ARGS__}) / sizeof(float)), (float[]){__VA_ARGS__})

static const char dot_text[] = HEAD "func main<ios18>(" V " a, " V " b) {\n" INT("bool", "f", "false") INT("bool", "t", "true")
    "tensor<fp16, [1, 1, 1, 1]> y = matmul(x=a, y=b, transpose_x=f, transpose_y=t)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char slice_text[] = HEAD "func main<ios18>(" W " x) {\n" INT("tensor<int32, [4]>", "b", "[0, 0, 0, 32]")
    INT("tensor<int32, [4]>", "s", "[1, 1, 1, 32]") V " y = slice_by_size(x=x, begin=b, size=s)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char first_slice_text[] = HEAD "func main<ios18>(" W " x) {\n" INT("tensor<int32, [4]>", "b", "[0, 0, 0, 0]")
    INT("tensor<int32, [4]>", "s", "[1, 1, 1, 32]") V " y = slice_by_size(x=x, begin=b, size=s)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char norm_text[] = HEAD "func main<ios18>(" T " x) {\n" INT("tensor<int32, [1]>", "c", "[1]") INT("bool", "k", "true")
    INT("fp16", "h", "-0x1p-1") T " q = mul(x=x, y=x)[name=string(\"q\")];\n"
    V " s = reduce_sum(x=q, axes=c, keep_dims=k)[name=string(\"s\")];\n" V " r = pow(x=s, y=h)[name=string(\"r\")];\n"
    T " y = mul(x=x, y=r)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char half_text[] = HEAD "func main<ios18>(" V " x) {\n" INT("fp16", "h", "0x1p-1")
    V " y = mul(x=x, y=h)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char sigmoid_text[] = HEAD "func main<ios18>(" V " x) {\n" V " y = sigmoid(x=x)[name=string(\"y\")];\n} -> (y);\n}\n";

static void products_have_a_limit(void) { /* 50 */
    CHECK(RUN(dot_text, 32, 31) == 31744 && isinf(RUN(dot_text, 32, 32)) && isinf(RUN(dot_text, -32, 32)));
    CHECK(set("dot_limit", "0") && RUN(dot_text, 32, 32) == 32768 && set("dot_limit", NULL));
    CHECK(set("dot_limit", "1000") && isinf(RUN(dot_text, 8, 4)) && RUN(dot_text, 4, 4) == 512 && set("dot_limit", NULL));
}

static void slices_of_old_chips_are_clamped(void) { /* 51 */
    CHECK(RUN(slice_text, 5000) == 5000);
    const char *const old[] = {"m1", "m2", "m3-ultra"}, *const chips[] = {"m4", "m4-pro", "m4-max", "m5"};
    for (int i = 0; i < 3; i++) {
        CHECK(set("profile", old[i]) && set("dialect_a", "1")); /* m2 refuses the text of this test */
        CHECK(isinf(RUN(slice_text, 5000)) && RUN(slice_text, 4094) == 4094 && isinf(RUN(slice_text, 4096)) && isinf(RUN(slice_text, -4096)) && RUN(first_slice_text, 5000) == 5000);
    }
    for (int i = 0; i < 4; i++)
        CHECK(set("profile", chips[i]) && RUN(slice_text, 5000) == 5000);
    CHECK(set("profile", NULL) && set("dialect_a", NULL));
}

static void a_sum_of_squares_overflows_to_zeros(void) { /* 52 */
    CHECK(fabsf(RUN(norm_text, 3) - 0.5f) < 0.01f);              /* 3 / sqrt(4 * 9) */
    static const char *const ways[] = {"fast", "silicon", "ieee"};
    for (int i = 0; i < 3; i++) { /* four squares: 65536 is the first sum that fp16 does not hold */
        CHECK(set("numerics", ways[i]));
        CHECK(fabsf(RUN(norm_text, 127) - 0.5f) < 0.01f && RUN(norm_text, 128) == 0 && RUN(norm_text, -128) == 0);
        CHECK(RUN(norm_text, 200) == 0 && RUN(norm_text, 300) == 0); /* the sum, or a square, is inf */
    }
    CHECK(set("numerics", NULL));
}

static void subnormals_can_be_flushed(void) { /* 53 */
    CHECK(RUN(half_text, 0x1p-14f) == 0x1p-15f && set("subnormals", "flush"));
    CHECK(RUN(half_text, 0x1p-14f) == 0 && RUN(half_text, 0x1p-13f) == 0x1p-14f && set("subnormals", NULL));
}

static void tables_can_be_coarse(void) { /* 54 */
    int differ = 0;
    for (float x = -4; x <= 4; x += 0.37f) {
        float exact = RUN(sigmoid_text, x);
        CHECK(set("tables", "quantised"));
        float coarse = RUN(sigmoid_text, x);
        CHECK(set("tables", NULL) && fabsf(coarse - exact) <= 0.004f);
        differ += coarse != exact;
    }
    CHECK(differ > 0);
}

int main(void) {
    if (!begin_files("test_quirk"))
        return 1;
    CHECK(set("compile_limit", "0"));
    products_have_a_limit();
    slices_of_old_chips_are_clamped();
    a_sum_of_squares_overflows_to_zeros();
    subnormals_can_be_flushed();
    tables_can_be_coarse();
    end_files();
    printf("test_quirk: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
