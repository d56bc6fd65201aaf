// SPDX-License-Identifier: MIT
/* test_numerics.c - the arithmetic of the kernels against definitions written
 * here a second time, plainly: on fp16 bits, in 128-bit integers.
 *
 *   test_numerics            short
 *   test_numerics full       more shapes
 *
 * prove_half.c tries all floats and all pairs of halves. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../exec/exec.h"

static int passed, failed;
#define CHECK(x) \
    do { if (x) passed++; else { failed++; printf("%s:%d: %s\n", __FILE__, __LINE__, #x); } } while (0)

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}
static size_t below(size_t n) { return (size_t)(next_random() >> 11) % n; }

/* ============================== The rule ================================== */

/* One product from fp16 bits, in units of 2^-16; both finite. */
static __int128 rule_product(uint16_t a, uint16_t b) {
    int ea = (a >> 10) & 31, eb = (b >> 10) & 31;
    int64_t ma = (a & 0x3ff) | (ea ? 0x400 : 0), mb = (b & 0x3ff) | (eb ? 0x400 : 0);
    ea = (ea ? ea : 1) - 15;
    eb = (eb ? eb : 1) - 15;
    if (ea + eb < -16)
        return 0;
    int shift = ea + eb - 20 + 16; /* value = ma mb 2^(ea + eb - 20) */
    int64_t m = ma * mb;
    int64_t p = shift >= 0 ? m << shift : ((m >> (-shift - 1)) + 1) >> 1; /* floor(2x) + 1, halved: half away */
    return (a ^ b) & 0x8000 ? -(__int128)p : (__int128)p;
}

/* acc, or infinity. */
typedef struct { __int128 sum; bool plus, minus; } RuleSum;

static void rule_add(RuleSum *s, uint16_t a, uint16_t b) {
    bool special = (a & 0x7c00) == 0x7c00 || (b & 0x7c00) == 0x7c00;
    if (!special) {
        s->sum += rule_product(a, b);
    } else if ((a & 0x7fff) && (b & 0x7fff)) {
        s->minus |= ((a ^ b) & 0x8000) != 0;
        s->plus |= ((a ^ b) & 0x8000) == 0;
    }
}

/* An integer times 2^-24, half away from zero, as fp16 bits. */
static uint16_t rule_store(__int128 v) {
    uint16_t sign = v < 0 ? 0x8000 : 0;
    unsigned __int128 m = v < 0 ? (unsigned __int128)-v : (unsigned __int128)v;
    if (m >= (unsigned __int128)1 << 39) /* 2^15 */
        return sign | 0x7c00;
    int drop = 0;
    while (m >> drop >= 2048)
        drop++;
    if (drop)
        m = ((m >> (drop - 1)) + 1) >> 1;
    if (m == 2048) {
        m = 1024;
        drop++;
    }
    uint16_t bits = m < 1024 ? (uint16_t)m : (uint16_t)(((drop + 1) << 10) | ((int)m & 0x3ff));
    return bits ? (uint16_t)(sign | bits) : 0; /* the sum of integers has no -0 */
}

static uint16_t rule_result(const RuleSum *s, float bias) {
    if (s->plus || s->minus)
        return s->plus ? 0x7c00 : 0xfc00;
    __int128 sum = s->sum, limit = (__int128)1 << 31;
    if (sum >= limit || sum <= -limit)
        return sum > 0 ? 0x7c00 : 0xfc00;
    return rule_store(sum * 256 + (__int128)((double)bias * 0x1p24));
}

/* ============================== Products ================================== */

/* Halves of many kinds: plain, wide, tiny, subnormal, huge, ties, special. */
static uint16_t a_half(int kind) {
    uint16_t r = (uint16_t)next_random();
    switch (kind) {
    case 0: return (uint16_t)((r & 0x83ff) | ((8 + below(8)) << 10));    /* 2^-7 .. 2 */
    case 1: return (uint16_t)((r & 0x83ff) | ((1 + below(14)) << 10));   /* small */
    case 2: return (uint16_t)((r & 0x83ff) | (below(3) << 10));          /* with subnormals */
    case 3: return (uint16_t)((r & 0x83ff) | ((22 + below(9)) << 10));   /* 128 .. 65504 */
    case 4: return (uint16_t)((r & 0x8200) | ((3 + below(14)) << 10));   /* few bits: ties */
    case 5: return (uint16_t)((r & 0x83ff) | (below(31) << 10));         /* anything finite */
    case 6: return below(8) ? (uint16_t)(r & 0x8000) : (uint16_t)(r & 0xbbff);
    case 7: return below(97) ? a_half(5) : (uint16_t)(0x7c00 | (r & 0x8200)); /* inf and NaN among them */
    default: return (uint16_t)((r & 0x03ff) | (29u << 10));              /* huge, one sign */
    }
}
enum { KINDS = 9 };

typedef struct {
    size_t m, n, k;
    bool ta, tb;
    int bias; /* 0 none, 1 rows, 2 columns */
    uint16_t *a, *b;
    float *fa, *fb, *bias_values;
    size_t lda, ldb, ldc;
} Case;

static Case case_new(size_t m, size_t n, size_t k, bool ta, bool tb, int bias, int kind_a, int kind_b) {
    Case c = {.m = m, .n = n, .k = k, .ta = ta, .tb = tb, .bias = bias};
    c.lda = (ta ? m : k) + below(3);
    c.ldb = (tb ? k : n) + below(3);
    c.ldc = n + below(3);
    size_t na = c.lda * (ta ? k : m) + 1, nb = c.ldb * (tb ? n : k) + 1, most = m > n ? m : n;
    c.a = calloc(na, 2);
    c.b = calloc(nb, 2);
    c.fa = calloc(na, 4);
    c.fb = calloc(nb, 4);
    c.bias_values = calloc(most + 1, 4);
    for (size_t i = 0; i < na; i++)
        c.fa[i] = sa_half_to_float(c.a[i] = a_half(kind_a));
    for (size_t i = 0; i < nb; i++)
        c.fb[i] = sa_half_to_float(c.b[i] = a_half(kind_b));
    for (size_t i = 0; i < most; i++)
        c.bias_values[i] = sa_half_to_float(a_half((int)below(7)));
    return c;
}

static void case_free(Case *c) {
    free(c->a);
    free(c->b);
    free(c->fa);
    free(c->fb);
    free(c->bias_values);
}

static uint16_t case_expect(const Case *c, size_t i, size_t j) {
    RuleSum s = {0};
    for (size_t p = 0; p < c->k; p++)
        rule_add(&s, c->a[c->ta ? p * c->lda + i : i * c->lda + p], c->b[c->tb ? j * c->ldb + p : p * c->ldb + j]);
    return rule_result(&s, c->bias == 1 ? c->bias_values[i] : c->bias == 2 ? c->bias_values[j] : 0.0f);
}

/* The first wrong element of a variant's product, -1 when there is none. */
static long case_run(const SaKernels *k, const Case *c, const uint16_t *expect) {
    float *y = malloc((c->m * c->ldc + 64) * 4), *pack = malloc((k->fixed_pack_floats(c->m) + 64) * 4);
    SaGemmArgs g = {.ta = c->ta, .tb = c->tb, .m = c->m, .n = c->n, .k = c->k, .a = c->fa, .b = c->fb, .c = y,
                    .lda = c->lda, .ldb = c->ldb, .ldc = c->ldc};
    SaFixedOut o = {.row_bias = c->bias == 1 ? c->bias_values : NULL,
                    .column_bias = c->bias == 2 ? c->bias_values : NULL};
    k->fixed(&g, &o, pack);
    long wrong = -1;
    for (size_t i = 0; i < c->m && wrong < 0; i++)
        for (size_t j = 0; j < c->n && wrong < 0; j++) {
            uint16_t got = sa_half_from_float_even(y[i * c->ldc + j]), want = expect[i * c->n + j];
            if (sa_half_to_float(got) != y[i * c->ldc + j] || got != (want & 0x7fff ? want : got & 0x8000))
                wrong = (long)(i * c->n + j);
        }
    free(y);
    free(pack);
    return wrong;
}

static void test_products(bool full) {
    static const size_t sizes[] = {1, 2, 7, 8, 9, 16, 31, 33, 64, 100};
    static const size_t depths[] = {0, 1, 2, 5, 64, 255, 256, 257, 700};
    for (int kind = 0; kind < KINDS * KINDS; kind++)
        for (int round = 0; round < (full ? 60 : 4); round++) {
            size_t m = sizes[below(10)], n = sizes[below(10)] * (1 + 3 * (below(8) == 0)), k = depths[below(9)];
            Case c = case_new(m, n, k, below(2), below(2), (int)below(3), kind % KINDS, kind / KINDS);
            uint16_t *expect = calloc(m * n, 2);
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++)
                    expect[i * n + j] = case_expect(&c, i, j);
            const SaKernels *v;
            for (int i = 0; (v = sa_kernels_variant(i)); i++) {
                long at = case_run(v, &c, expect);
                if (at >= 0)
                    printf("%s: %zu x %zu x %zu%s%s bias %d kinds %d %d: wrong at %ld\n", v->name, m, n, k,
                           c.ta ? " ta" : "", c.tb ? " tb" : "", c.bias, kind % KINDS, kind / KINDS, at);
                CHECK(at < 0);
            }
            free(expect);
            case_free(&c);
        }
}

/* Sums of 2^31 units and one less: infinite whatever the bias, and not. */
static void test_limit(void) {
    for (int below_it = 0; below_it < 2; below_it++)
        for (int sign = 0; sign < 2; sign++)
            for (int bias = 0; bias < 3; bias++) {
                Case c = case_new(5, 20, 2, false, false, bias, 0, 0);
                uint16_t minus = sign ? 0x8000 : 0, expect[100];
                for (size_t i = 0; i < c.m; i++) { /* 128 · 256 = 2^15, 2^-8 · 2^-8 = 2^-16 */
                    c.a[i * c.lda] = 0x5800;
                    c.a[i * c.lda + 1] = 0x1c00;
                }
                for (size_t j = 0; j < c.n; j++) {
                    c.b[j] = 0x5c00 | minus;
                    c.b[c.ldb + j] = below_it ? (uint16_t)(0x1c00 | (minus ^ 0x8000)) : 0;
                }
                for (size_t i = 0; i < c.m * c.lda; i++)
                    c.fa[i] = sa_half_to_float(c.a[i]);
                for (size_t j = 0; j < 2 * c.ldb; j++)
                    c.fb[j] = sa_half_to_float(c.b[j]);
                for (size_t i = 0; i < 20; i++)
                    c.bias_values[i] = sign ? 1000.0f : -1000.0f;
                for (size_t i = 0; i < 100; i++)
                    expect[i] = case_expect(&c, i / 20, i % 20);
                CHECK((expect[0] & 0x7fff) == (!below_it ? 0x7c00 : bias ? 0x77c1 : 0x7800)); /* just below 31768 and 32768 */
                const SaKernels *v;
                for (int i = 0; (v = sa_kernels_variant(i)); i++)
                    CHECK(case_run(v, &c, expect) < 0);
                case_free(&c);
            }
}

/* ============================== Products of `fast` ======================== */

/* |y - exact| <= 2^-11 |exact| + gamma_K sum |a b|, gamma_K = K u / (1 - K u), u =
 * 2^-24: the rounding to fp16 and fp32 sums in any order. Subnormal results add
 * the 2^-25 of their grid (twice: they are rounded twice). */
static double fast_bound(double exact, double magnitude, size_t k) {
    double ku = (double)(k + 1) * 0x1p-24, gamma = ku / (1 - ku) * magnitude;
    return 0x1p-11 * (fabs(exact) + gamma) + gamma + 0x1p-24;
}

static bool fast_case(const SaKernels *v, const Case *c) {
    float *y = calloc(c->m * c->ldc + 64, 4);
    SaGemmArgs g = {.ta = c->ta, .tb = c->tb, .m = c->m, .n = c->n, .k = c->k, .a = c->fa, .b = c->fb, .c = y,
                    .lda = c->lda, .ldb = c->ldb, .ldc = c->ldc};
    bool good = sa_gemm(v, &g);
    v->round[SA_ROUND_PRODUCT](y, y, c->m * c->ldc);
    for (size_t i = 0; i < c->m; i++)
        for (size_t j = 0; j < c->n; j++) {
            double exact = 0, magnitude = 0, got = (double)y[i * c->ldc + j];
            for (size_t p = 0; p < c->k; p++) {
                double t = (double)c->fa[c->ta ? p * c->lda + i : i * c->lda + p] *
                           (double)c->fb[c->tb ? j * c->ldb + p : p * c->ldb + j];
                exact += t;
                magnitude += fabs(t);
            }
            double bound = fast_bound(exact, magnitude, c->k);
            if (isinf(got)) /* right only from 32768 on */
                good &= fabs(exact) + bound >= 32768 && signbit(got) == signbit(exact);
            else
                good &= fabs(got - exact) <= bound && fabs(exact) - bound < 32768;
        }
    free(y);
    return good;
}

static void test_fast_products(bool full) {
    static const size_t sizes[] = {1, 3, 12, 13, 48, 65}, depths[] = {1, 7, 64, 384, 385, 1500};
    for (int kind = 0; kind < 49; kind++) /* finite kinds only */
        for (int round = 0; round < (full ? 40 : 3); round++) {
            Case c = case_new(sizes[below(6)], sizes[below(6)], depths[below(6)], below(2), below(2), 0, kind % 7, kind / 7);
            const SaKernels *v;
            for (int i = 0; (v = sa_kernels_variant(i)); i++)
                for (int blas = 0; blas < 2; blas++) {
                    sa_gemm_choose(blas != 0);
                    CHECK(fast_case(v, &c));
                }
            sa_gemm_choose(true);
            case_free(&c);
        }
}

/* ============================== Functions ================================= */

/* The coarse rounding keeps exactly its bits, whatever the sign; specials stay. */
static void test_coarse(void) {
    const SaKernels *v;
    for (int i = 0; (v = sa_kernels_variant(i)); i++) {
        float x[6] = {1.0f + 0x1p-6f, -(1.0f + 0x1p-6f), 1.0f + 0x1.fp-7f, INFINITY, 0.0f, 0x1.fffp3f};
        v->coarse(x, 6, 6);
        CHECK(x[0] == 1.03125f && x[1] == -1.03125f && x[2] == 1.0f);
        CHECK(x[3] == INFINITY && x[4] == 0.0f && x[5] == 16.0f);
        float nan = NAN;
        v->coarse(&nan, 6, 1);
        CHECK(isnan(nan));
    }
}

/* round(x) under silicon, on every half: |x| < 1024 as usual, above as fp16(|x| + 1/2) cut. */
static void test_round(void) {
    const SaKernels *v;
    const float p[2] = {0};
    for (int i = 0; (v = sa_kernels_variant(i)); i++) {
        bool good = true;
        for (uint32_t h = 0; h < 0x7c00; h++) {
            float x = sa_half_to_float((uint16_t)h), y, z, minus = -x;
            v->odd[SA_U_ROUND](&y, &x, p, 1);
            v->odd[SA_U_ROUND](&z, &minus, p, 1);
            float want = x < 1024.0f ? rintf(x) : x < 2048.0f ? x + 1.0f : x;
            good &= y == want && z == -want;
        }
        CHECK(good);
    }
}

int main(int argc, char **argv) {
    bool full = argc > 1 && strcmp(argv[1], "full") == 0;
    test_products(full);
    test_limit();
    test_fast_products(full);
    test_coarse();
    test_round();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
