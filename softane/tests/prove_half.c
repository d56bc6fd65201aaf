// SPDX-License-Identifier: MIT
/* prove_half.c - the kernels' fp16 arithmetic against exact arithmetic, by
 * trying everything.
 *
 *   prove_half               every 61st stretch of both, a second or so
 *   prove_half full          all 2^32 floats, all 2^32 pairs of halves
 *   prove_half conversions   all 2^32 floats
 *   prove_half pairs         all 2^32 pairs
 *
 * Conversions. A rounding that is monotonic is known by the smallest float
 * that gives each half: those 2 x 31744 bounds are computed here in double,
 * exactly. Between two bounds everything must give one half.
 *
 * Pairs. Sums, differences and products of halves are exact in double. So is
 * the rounding of a double quotient: a / b that is no tie of 12 bits differs
 * from one by 1 / (b 2^k) at least, a relative 2^-24, against 2^-53. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../exec/kernels.h"

static atomic_long passed, failed;
static size_t stride = 61;

static void report(bool good, const SaKernels *k, const char *what, uint32_t a, uint32_t b) {
    if (good) {
        passed++;
    } else if (failed++ < 20) {
        printf("%s, %s: wrong at 0x%08x, 0x%08x\n", k->name, what, a, b);
    }
}

/* ============================== Work for two ============================== */

typedef struct {
    void (*run)(size_t unit);
    size_t units;
    _Atomic size_t next;
} Loop;

static void *loop_thread(void *arg) {
    Loop *l = arg;
    for (size_t u; (u = atomic_fetch_add(&l->next, stride)) < l->units;)
        l->run(u);
    return NULL;
}

static void loop(void (*run)(size_t), size_t units) {
    enum { THREADS = 4 };
    Loop l = {.run = run, .units = units};
    pthread_t t[THREADS];
    int n = 0;
    while (n < THREADS - 1 && pthread_create(&t[n], NULL, loop_thread, &l) == 0)
        n++;
    loop_thread(&l);
    while (n > 0)
        pthread_join(t[--n], NULL);
}

/* ============================== Bounds ==================================== */

enum { INF_HALF = 0x7c00, BLOCK = 8192 };
static uint32_t bounds[2][INF_HALF + 2]; /* [even][h]: bits of the least float >= 0 that gives half h */

static uint32_t bits_of(double x) {
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((double)f < x) /* the next one up: x is no float */
        u++;
    return u;
}

/* Value of the half with these bits, also of those beyond the greatest. */
static double half_value(uint32_t h) {
    uint32_t e = h >> 10;
    return e ? ldexp(1024 + (h & 0x3ff), (int)e - 25) : ldexp(h, -24);
}

/* The engine rounds to 11 significant bits first: below 2^-14 that moves the
 * bound down from the tie by half of the last of 11 places below it. */
static double bound_away(uint32_t h) {
    double tie = (half_value(h - 1) + half_value(h)) / 2;
    if (h > 1024)
        return tie;
    int e;
    double f = frexp(tie, &e); /* in [1/2, 1) */
    return tie - ldexp(1.0, e - 11 - (f == 0.5 ? 1 : 0)) / 2;
}

static void make_bounds(void) {
    for (uint32_t h = 1; h <= INF_HALF; h++) {
        double tie = (half_value(h - 1) + half_value(h)) / 2;
        bounds[0][h] = bits_of(bound_away(h));
        bounds[1][h] = bits_of(tie) + (h & 1); /* a tie goes to the even one */
    }
    bounds[0][INF_HALF + 1] = bounds[1][INF_HALF + 1] = 0x7f800001u;
}

/* ============================== Conversions =============================== */

static bool all_equal_half(const uint16_t *h, size_t n, uint16_t want) {
    uint32_t off = 0;
    for (size_t i = 0; i < n; i++)
        off |= (uint32_t)(h[i] ^ want);
    return off == 0;
}

static bool all_equal_bits(const float *f, size_t n, float want) {
    uint32_t off = 0, w, u;
    memcpy(&w, &want, sizeof w);
    for (size_t i = 0; i < n; i++) {
        memcpy(&u, &f[i], sizeof u);
        off |= u ^ w;
    }
    return off == 0;
}

static bool all_nan(const float *f, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += f[i] != f[i];
    return count == n;
}

/* The roundings derived from `away`: their loops differ, their core does not,
 * so both ends of a stretch and a sample of the rest will do. */
static void derived(const SaKernels *k, const float *x, uint32_t u, size_t n, uint16_t h) {
    float y[BLOCK];
    bool nan = (h & 0x7fff) > INF_HALF;
    float want = nan ? INFINITY : sa_half_to_float(h);
    k->round[SA_ROUND_SILICON](y, x, n);
    report(all_equal_bits(y, n, want), k, "round silicon", u, h);
    k->round[SA_ROUND_FLUSH](y, x, n);
    float flushed = fabsf(want) < 0x1p-14f ? copysignf(0.0f, want) : want;
    report(nan ? all_nan(y, n) : all_equal_bits(y, n, flushed), k, "round flush", u, h);
    uint32_t low = u & 0x7fffffffu, limit = 0x47000000u; /* 32768, the bound of no half */
    k->round[SA_ROUND_PRODUCT](y, x, n);
    want = low >= limit ? copysignf(INFINITY, x[0]) : want;
    if (nan || low >= limit || low + n <= limit)
        report(nan ? all_nan(y, n) : all_equal_bits(y, n, want), k, "round product", u, h);
}

/* The n floats x, from bits u on, all expected to give half h. */
static void stretch(const float *x, uint32_t u, size_t n, uint16_t h, bool even) {
    float y[BLOCK];
    uint16_t out[BLOCK];
    const SaKernels *k;
    bool nan = (h & 0x7fff) > INF_HALF;
    for (int v = 0; (k = sa_kernels_variant(v)); v++) {
        (even ? k->half_even : k->half_away)(out, x, n);
        report(all_equal_half(out, n, h), k, even ? "half_even" : "half_away", u, h);
        k->round[even ? SA_ROUND_EVEN : SA_ROUND_AWAY](y, x, n);
        report(nan ? all_nan(y, n) : all_equal_bits(y, n, sa_half_to_float(h)), k, "round", u, h);
        if (even)
            continue;
        size_t ends = n < 20 ? n : 20;
        derived(k, x, u, ends, h);
        derived(k, x + n - ends, u + (uint32_t)(n - ends), ends, h);
        if ((u >> 13) % 32 == 0)
            derived(k, x, u, n, h);
    }
}

/* [from, to) and its negatives, in pieces. */
static void interval(uint32_t from, uint32_t to, uint16_t h, bool even) {
    float x[BLOCK];
    for (uint32_t u = from; u < to; u += BLOCK) {
        uint32_t n = to - u < BLOCK ? to - u : BLOCK;
        for (uint32_t sign = 0; sign <= 1; sign++) {
            for (uint32_t i = 0; i < n; i++) {
                uint32_t v = (u + i) | sign << 31;
                memcpy(&x[i], &v, sizeof v);
            }
            stretch(x, u | sign << 31, n, (uint16_t)(h | sign << 15), even);
        }
    }
}

/* Everything that gives one half; NaN in pieces of 8192, which share one. A
 * quarter of all floats gives 0: cut too. */
static void conversions_unit(size_t unit) {
    enum { ZERO_PARTS = 4096, NAN_PARTS = 1024 };
    for (int even = 0; even < 2; even++) {
        uint32_t first = bounds[even][1], part = first / ZERO_PARTS + 1;
        if (unit < ZERO_PARTS) {
            uint32_t from = (uint32_t)unit * part, to = from + part;
            interval(from < first ? from : first, to < first ? to : first, 0, even);
        } else if (unit < ZERO_PARTS + NAN_PARTS) {
            uint32_t from = 0x7f800000u + (uint32_t)(unit - ZERO_PARTS) * BLOCK, to = from + BLOCK;
            uint16_t h = (uint16_t)(0x7e00u | ((from >> 13) & 0x3ffu));
            interval(from == 0x7f800000u ? from + 1 : from, to, h, even);
        } else {
            uint32_t h = (uint32_t)(unit - ZERO_PARTS - NAN_PARTS) + 1;
            interval(bounds[even][h], bounds[even][h + 1], (uint16_t)h, even);
        }
    }
}
enum { CONVERSION_UNITS = 4096 + 1024 + INF_HALF };

/* ============================== Pairs ===================================== */

static float halves[65536];

/* Exact y onto fp16, the engine's way and the IEEE way, independently of the
 * kernels: on the bits of a double. */
static inline __attribute__((always_inline)) float away(double y) {
    uint64_t u, sign;
    memcpy(&u, &y, sizeof u);
    sign = u & 0x8000000000000000u;
    u = ((u ^ sign) + (1ull << 41)) & ~((1ull << 42) - 1); /* 11 significant bits */
    double a, b;
    memcpy(&a, &u, sizeof a);
    double steps = a < 0x1p-14 ? a * 0x1p24 + 0.5 : 0.0;
    b = (double)(int32_t)steps * 0x1p-24;
    a = a < 0x1p-14 ? b : a;
    a = a >= 65536.0 ? (double)INFINITY : a;
    a = y != y ? y : a;
    memcpy(&u, &a, sizeof u);
    u |= sign;
    memcpy(&a, &u, sizeof a);
    return (float)a;
}

static inline __attribute__((always_inline)) float to_even(double y) {
    double a = fabs(y), grid;
    uint64_t u;
    memcpy(&u, &a, sizeof u);
    u = (u & 0x7ff0000000000000u) + (42ull << 52); /* 1.5 * 2^42 times the power of two below y */
    memcpy(&grid, &u, sizeof grid);
    grid = a < 0x1p-14 ? 0x1p28 : grid;
    double r = (a + 1.5 * grid) - 1.5 * grid;
    r = r >= 65536.0 ? (double)INFINITY : r;
    r = a > 1e6 ? (double)INFINITY : r;
    r = y != y ? y : r;
    return (float)copysign(r, y);
}

enum { SUM, DIFFERENCE, PRODUCT, QUOTIENT, OPERATIONS };
static const struct { SaBinary fast, ieee; const char *name; } operations[OPERATIONS] = {
    [SUM] = {SA_B_ADD, SA_B_ADD, "add"},
    [DIFFERENCE] = {SA_B_SUB, SA_B_SUB, "sub"},
    [PRODUCT] = {SA_B_MUL, SA_B_MUL, "mul"},
    [QUOTIENT] = {SA_B_DIV_FAST, SA_B_DIV, "real_div"},
};

#define EACH(expression) \
    for (int i = 0; i < 65536; i++) { \
        double b = (double)halves[i], y = expression; \
        want_even[i] = to_even(y); \
        y = op == QUOTIENT && b == 0.0 ? 0.0 : y; \
        want_away[i] = away(y); \
    }
static void expect(int op, double a, float *want_away, float *want_even) {
    switch (op) {
    case SUM: EACH(a + b) break;
    case DIFFERENCE: EACH(a - b) break;
    case PRODUCT: EACH(a * b) break;
    default: EACH(a / b) break;
    }
}

/* Equal as numbers, zeros with their signs; any NaN equals any. */
static bool same(const float *x, const float *y, uint32_t *at) {
    uint32_t off = 0;
    for (int i = 0; i < 65536; i++) {
        uint32_t u, v;
        memcpy(&u, &x[i], sizeof u);
        memcpy(&v, &y[i], sizeof v);
        u = (u & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : u;
        v = (v & 0x7fffffffu) > 0x7f800000u ? 0x7fc00000u : v;
        off |= u ^ v;
        *at = off && *at == 0 ? (uint32_t)i + 1 : *at;
    }
    return off == 0;
}

/* max and min choose an operand; with NaN either one, and of two zeros either. */
static bool chosen(const float *y, float a, bool max) {
    bool good = true;
    for (int i = 0; i < 65536; i++) {
        float b = halves[i], want = (a > b) == max ? a : b;
        good &= a != a || b != b ? y[i] != y[i] || y[i] == a || y[i] == b : y[i] == want;
    }
    return good;
}

static void check_pairs(const SaKernels *k, int op, uint32_t unit, const float *want_away, const float *want_even) {
    static _Thread_local float y[65536], z[65536];
    const float a = halves[unit];
    SaBinary fast = operations[op].fast, ieee = operations[op].ieee;
    uint32_t at = 0;
    k->away_sv[fast](y, &a, halves, 65536);
    bool good = same(y, want_away, &at);
    report(good, k, operations[op].name, unit, at - 1);
    k->binary_sv[ieee](y, &a, halves, 65536);
    k->round[SA_ROUND_EVEN](y, y, 65536);
    good = same(y, want_even, &at);
    report(good, k, operations[op].name, unit, at - 1);
    if (unit % 64 == 0) { /* the other two forms share the expression, not the loop */
        for (int i = 0; i < 65536; i++)
            z[i] = a;
        k->away_vv[fast](y, z, halves, 65536);
        report(same(y, want_away, &at), k, operations[op].name, unit, at - 1);
        k->away_vs[fast](y, halves, &a, 65536);
        k->away_vv[fast](z, halves, z, 65536);
        report(same(y, z, &at), k, operations[op].name, unit, at - 1);
    }
}

static void pairs_unit(size_t unit) {
    static _Thread_local float want_away[65536], want_even[65536], y[65536];
    const SaKernels *k;
    const float a = halves[unit];
    for (int op = 0; op < OPERATIONS; op++) {
        expect(op, (double)a, want_away, want_even);
        for (int v = 0; (k = sa_kernels_variant(v)); v++)
            check_pairs(k, op, (uint32_t)unit, want_away, want_even);
    }
    for (int v = 0; (k = sa_kernels_variant(v)); v++)
        for (int max = 0; max < 2; max++) {
            k->binary_sv[max ? SA_B_MAX : SA_B_MIN](y, &a, halves, 65536);
            report(chosen(y, a, max), k, max ? "maximum" : "minimum", (uint32_t)unit, 0);
        }
}

/* ============================== Main ====================================== */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    bool full = strcmp(what, "full") == 0, conversions = strcmp(what, "conversions") == 0, pairs = strcmp(what, "pairs") == 0;
    if (full || conversions || pairs)
        stride = 1;
    make_bounds();
    for (uint32_t h = 0; h < 65536; h++)
        halves[h] = sa_half_to_float((uint16_t)h);
    double start = seconds();
    if (!pairs)
        loop(conversions_unit, CONVERSION_UNITS);
    double middle = seconds();
    if (!conversions)
        loop(pairs_unit, 65536);
    printf("conversions %.1f s, pairs %.1f s, every %zuth\n", middle - start, seconds() - middle, stride);
    printf("%ld passed, %ld failed\n", (long)passed, (long)failed);
    return failed != 0;
}
