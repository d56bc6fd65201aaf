// SPDX-License-Identifier: MIT
/* test_base.c - softane/base against definitions that do not come from it:
 * published SHA vectors, fp16 by double arithmetic, the failpoint grammar
 * word by word. One verdict line at the end; exit 1 on failure. */
#include "../base/base.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int passed, failed;

/* Count one property; failures name their line. */
static void check_at(int line, bool good, const char *what) {
    if (good) {
        passed++;
    } else {
        failed++;
        if (failed <= 20)
            fprintf(stderr, "test_base.c:%d: %s\n", line, what);
    }
}
#define CHECK(e) check_at(__LINE__, (e), #e)

/* ============================== SHA-256 =================================== */

/* Hash n bytes in pieces of `step`; compare with 64 upper-case digits. */
static bool sha_is(const void *data, size_t n, size_t step, const char *want) {
    SaSha256 s;
    uint8_t out[32];
    char hex[65];
    sa_sha256_init(&s);
    for (size_t i = 0; i < n; i += step)
        sa_sha256_update(&s, (const char *)data + i, n - i < step ? n - i : step);
    sa_sha256_final(&s, out);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02X", out[i]);
    return strcmp(hex, want) == 0;
}

static void hashes_match_published_vectors(void) {
    CHECK(sha_is("", 0, 1, "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"));
    CHECK(sha_is("abc", 3, 3, "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"));
    /* the weight hashes of facts: four zero bytes, then the payloads */
    CHECK(sha_is("\0\0\0\0", 4, 4, "DF3F619804A92FDB4057192DC43DD748EA778ADC52BC498CE80524C014B81119"));
    CHECK(sha_is("\0\0\0\0\1\2\3", 7, 2, "FEB5A3A4AC29C4F4ED0AA5DC6CB753D76BCF2DAF9867FCF103963CF434A829FA"));
    /* FIPS 180-4: two blocks, and a million letters a */
    CHECK(sha_is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, 56,
                 "248D6A61D20638B8E5C026930C3E6039A33CE45964FF2167F6ECEDD419DB06C1"));
    char *a = sa_malloc(1000000);
    if (!a) {
        check_at(__LINE__, false, "memory");
        return;
    }
    memset(a, 'a', 1000000);
    static const size_t steps[] = {1, 63, 64, 65, 127, 4096, 1000000};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        CHECK(sha_is(a, 1000000, steps[i], "CDC76E5C9914FB9281A1C7E284D73E67F1809A48A497200E046D39CCC7112CD0"));
    /* every length around the block size gives the same hash in one piece and bytewise */
    bool same = true;
    for (size_t n = 0; n < 200; n++) {
        SaSha256 s, t;
        uint8_t x[32], y[32];
        sa_sha256_init(&s);
        sa_sha256_init(&t);
        sa_sha256_update(&s, a, n);
        for (size_t i = 0; i < n; i++)
            sa_sha256_update(&t, a + i, 1);
        sa_sha256_final(&s, x);
        sa_sha256_final(&t, y);
        same &= memcmp(x, y, 32) == 0;
    }
    CHECK(same);
    sa_free(a);
}

/* ============================== fp16 ====================================== */

/* Value of a half, by its definition. */
static double half_value(uint16_t h) {
    int e = (h >> 10) & 31, m = h & 1023;
    double v = e == 31 ? (m ? (double)NAN : (double)INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

/* x onto a grid of `step` (a power of two), half away from zero or to even. */
static double snap(double x, double step, bool away) {
    double q = x / step; /* exact */
    return (away ? round(q) : nearbyint(q)) * step;
}

/* The rounding rule in doubles, where each step is exact. */
static double reference(double x, bool away) {
    if (x == 0 || isnan(x) || isinf(x))
        return x;
    int e;
    frexp(x, &e); /* |x| = f * 2^e, f in [.5, 1) */
    double eleven = ldexp(1, e - 11), least = ldexp(1, -24), y;
    if (away)
        y = snap(snap(x, eleven, true), eleven > least ? eleven : least, true);
    else
        y = snap(x, eleven > least ? eleven : least, false);
    return fabs(y) >= 65520 ? copysign((double)INFINITY, x) : y;
}

static bool same_value(double a, double b) {
    return isnan(a) ? isnan(b) : a == b && signbit(a) == signbit(b);
}

static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static void halves_convert_exactly(void) {
    bool exact = true, back = true;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = sa_half_to_float((uint16_t)h);
        exact &= same_value((double)f, half_value((uint16_t)h));
        bool nan = (h & 0x7fff) > 0x7c00;
        uint16_t a = sa_half_from_float_away(f), e = sa_half_from_float_even(f);
        back &= nan ? (a & 0x7fff) > 0x7c00 && (e & 0x7fff) > 0x7c00 : a == h && e == h;
    }
    CHECK(exact);
    CHECK(back);
}

/* One float through both roundings. */
static bool rounds_right(uint32_t u) {
    double x = (double)from_bits(u);
    return same_value(half_value(sa_half_from_float_away((float)x)), reference(x, true)) &&
           same_value(half_value(sa_half_from_float_even((float)x)), reference(x, false));
}

static void floats_round_by_the_rule(void) {
    bool strided = true, edges = true;
    for (uint64_t u = 0; u < 1ull << 32; u += 2111) /* prime: all low bits occur */
        strided &= rounds_right((uint32_t)u);
    CHECK(strided);
    /* every half, every middle between halves, and the floats beside them */
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double here = half_value((uint16_t)h), next = h == 0x7bff ? 65536 : half_value((uint16_t)(h + 1));
        float at[2] = {(float)here, (float)((here + next) / 2)};
        for (int i = 0; i < 2; i++) {
            uint32_t u;
            memcpy(&u, &at[i], 4);
            for (int d = -2; d <= 2; d++) {
                edges &= rounds_right(u + (uint32_t)d);
                edges &= rounds_right((u + (uint32_t)d) ^ 0x80000000u);
            }
            /* twice rounded values: just below a middle by less than 2^-12 */
            for (int k = 1; k < 16; k++)
                edges &= rounds_right(u - (1u << k)) && rounds_right(u + (1u << k));
        }
    }
    CHECK(edges);
    CHECK(sa_half_from_float_away(65519.996f) == 0x7bff);
    CHECK(sa_half_from_float_away(65520.0f) == 0x7c00);
    CHECK(sa_half_from_float_away(-1e30f) == 0xfc00);
    CHECK(sa_half_from_float_away(2049.0f) == 0x6801); /* even gives 2048 */
    CHECK(sa_half_from_float_even(2049.0f) == 0x6800);
    CHECK(sa_half_from_float_away(0x1p-25f) == 1);
    CHECK(sa_half_from_float_even(0x1p-25f) == 0);
    CHECK(sa_half_from_float_away(0x1.fffp-26f) == 1); /* first onto 2^-25, then up */
    CHECK(sa_half_from_float_away(0x1.ffcp-26f) == 0);
    CHECK(sa_half_from_float_away(0.00001f) == 0x00a8);
}

/* ============================== Failpoints ================================ */

static void failpoint_grammar_is_kept(void) {
    static const char *const good[] = {
        "", " ", ";", "a=off", "a=return", "a=return(7)", "a=return(-3)", " a = return ( 7 ) ; b=off ",
        "a=3*return(1)->off", "a=50%return", "a=12.5%2*return->1*delay(0)->hold", "a.b-c=delay(5);;b=kill",
        "a=abort", "a=100%off", "a=0%return", "a=0*return",
    };
    static const char *const bad[] = {
        "a", "a=", "=off", "a=foo", "a=return(", "a=return()", "a=return(x)", "a=return(1", "a=delay", "a=delay(-1)",
        "a=101%off", "a=3off", "a=3*", "a=-1*off", "a=off->", "a=off off", "a=off,b=off", "a=99999999999*off",
        "a=1.5*off", "a b=off", "a=off(1)", "a=offx", "a=%off", "a=return(99999999999)",
        "a=off->off->off->off->off->off->off->off->off",
        "a234567890123456789012345678901234567890123456789=off",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(sa_failpoint_configure(good[i]) == SA_OK);
    }
    char text[1200];
    for (int over = 0; over < 2; over++) { /* 47 bytes of name, 8 terms, 64 points; and one more */
        SaStatus want = over ? SA_E_SYNTAX : SA_OK;
        snprintf(text, sizeof text, "%.*s=off", 47 + over, "n23456789012345678901234567890123456789012345678");
        CHECK(sa_failpoint_configure(text) == want);
        snprintf(text, sizeof text, "a=off%s%s", "->off->off->off->off->off->off->off", over ? "->off" : "");
        CHECK(sa_failpoint_configure(text) == want);
        int n = 0;
        for (int i = 0; i < 64 + over; i++)
            n += snprintf(text + n, sizeof text - (size_t)n, "p%d=off;", i);
        CHECK(sa_failpoint_configure(text) == want);
    }
    CHECK(sa_failpoint_configure("keep=return(5)") == SA_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_at(__LINE__, sa_failpoint_configure(bad[i]) == SA_E_SYNTAX, bad[i]);
    }
    CHECK(SA_FAILPOINT("keep") == 5); /* a refused text changes nothing */
    CHECK(sa_failpoint_configure(NULL) == SA_OK);
    CHECK(SA_FAILPOINT("keep") == 0 && !sa_failpoints_armed);
}

static void failpoint_terms_run_left_to_right(void) {
    CHECK(sa_failpoint_configure("p=2*off->1*return(4)->return") == SA_OK);
    static const int want[] = {0, 0, 4, 1, 1};
    for (int i = 0; i < 5; i++)
        CHECK(SA_FAILPOINT("p") == want[i]);
    CHECK(SA_FAILPOINT("q") == 0);
    /* a chance that misses passes on; about a quarter comes */
    CHECK(sa_failpoint_configure("p=25%return(2)->return(3)") == SA_OK);
    int twos = 0, other = 0;
    for (int i = 0; i < 10000; i++) {
        int r = SA_FAILPOINT("p");
        twos += r == 2;
        other += r != 2 && r != 3;
    }
    CHECK(twos > 2200 && twos < 2800 && other == 0);
    CHECK(sa_failpoint_configure("p=delay(20)") == SA_OK);
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    CHECK(SA_FAILPOINT("p") == 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    CHECK((double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec) >= 0.02);
    sa_failpoint_configure("");
}

static int held_state; /* 0 before, 1 in hold, 2 released */

static void *holder(void *unused) {
    __atomic_store_n(&held_state, 1, __ATOMIC_SEQ_CST);
    (void)SA_FAILPOINT("h");
    __atomic_store_n(&held_state, 2, __ATOMIC_SEQ_CST);
    return unused;
}

static void hold_waits_for_a_new_configuration(void) {
    struct timespec ms20 = {0, 20000000};
    pthread_t t;
    CHECK(sa_failpoint_configure("h=hold") == SA_OK);
    if (pthread_create(&t, NULL, holder, NULL) != 0) {
        check_at(__LINE__, false, "thread");
        return;
    }
    nanosleep(&ms20, NULL);
    CHECK(sa_failpoint_configure("broken") == SA_E_SYNTAX); /* releases nobody */
    nanosleep(&ms20, NULL);
    CHECK(__atomic_load_n(&held_state, __ATOMIC_SEQ_CST) == 1);
    CHECK(sa_failpoint_configure("") == SA_OK);
    pthread_join(t, NULL);
    CHECK(__atomic_load_n(&held_state, __ATOMIC_SEQ_CST) == 2);
}

/* ============================== Memory ==================================== */

static bool zero(const void *p, size_t n) {
    const char *c = p;
    for (size_t i = 0; i < n; i++)
        if (c[i])
            return false;
    return true;
}

static void blocks_are_zeroed_and_aligned(void) {
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = sa_malloc(sizes[i]);
        CHECK(p && (uintptr_t)p % 64 == 0 && zero(p, sizes[i]));
        if (p)
            memset(p, 0xee, sizes[i]);
        sa_free(p);
    }
    CHECK(sa_malloc(SIZE_MAX) == NULL && sa_malloc(SIZE_MAX - 70) == NULL);
    sa_free(NULL);
    size_t r;
    CHECK(!sa_mul_ok(SIZE_MAX, 2, &r) && !sa_add_ok(SIZE_MAX, 1, &r) && sa_mul_ok(3, 5, &r) && r == 15);
}

static void arenas_keep_their_limits(void) {
    SaArena *a = sa_arena_new(0);
    CHECK(a != NULL);
    if (!a)
        return;
    bool good = true;
    char *last = NULL;
    for (size_t i = 0; i < 5000; i++) { /* crosses chunks of every size */
        size_t n = i * 7 % 3001;
        char *p = sa_arena_alloc(a, n);
        good &= p && p != last && (uintptr_t)p % 16 == 0 && zero(p, n);
        if (p)
            memset(p, 0xdd, n);
        last = p;
    }
    CHECK(good);
    char *s = sa_arena_strndup(a, "hello world", 5);
    CHECK(s && strcmp(s, "hello") == 0);
    CHECK(sa_arena_alloc(a, SIZE_MAX) == NULL);
    CHECK(sa_arena_strndup(a, "x", SIZE_MAX) == NULL);
    sa_arena_free(a);
    a = sa_arena_new(1000);
    CHECK(a && sa_arena_alloc(a, 1001) == NULL);
    CHECK(a && sa_arena_alloc(a, 512) && sa_arena_alloc(a, 480) && !sa_arena_alloc(a, 16));
    sa_arena_free(a);
    sa_arena_free(NULL);
}

static void failed_allocations_leave_arenas_usable(void) {
    CHECK(sa_failpoint_configure("arena.alloc=return") == SA_OK);
    CHECK(sa_malloc(8) == NULL && sa_arena_new(0) == NULL);
    for (int n = 0; n < 40; n++) {
        char text[64];
        snprintf(text, sizeof text, "arena.alloc=%d*off->1*return", n);
        CHECK(sa_failpoint_configure(text) == SA_OK);
        SaArena *a = sa_arena_new(0);
        int lost = a == NULL;
        for (int i = 0; a && i < 20; i++) {
            char *p = sa_arena_alloc(a, (size_t)i * 300 + 1);
            lost += p == NULL;
            if (p)
                memset(p, 1, (size_t)i * 300 + 1);
        }
        CHECK(lost <= 1);
        sa_arena_free(a);
    }
    CHECK(sa_failpoint_configure("") == SA_OK);
}

/* ============================== Status ==================================== */

static void errors_name_their_place(void) {
    for (int i = SA_OK; i <= SA_E_INJECTED; i++)
        CHECK(strcmp(sa_status_name((SaStatus)i), "E_UNKNOWN") != 0);
    CHECK(strcmp(sa_status_name((SaStatus)999), "E_UNKNOWN") == 0);
    SaError e;
    char buf[128], tiny[5];
    CHECK(sa_error_set(&e, SA_E_SHAPE, (SaPos){5, 37}, "axis %d", 9) == SA_E_SHAPE);
    sa_error_format(&e, buf, sizeof buf);
    CHECK(strcmp(buf, "5:37: E_SHAPE: axis 9") == 0);
    snprintf(e.op, sizeof e.op, "conv");
    e.pos.line = 0;
    sa_error_format(&e, buf, sizeof buf);
    CHECK(strcmp(buf, "E_SHAPE: conv: axis 9") == 0);
    sa_error_format(&e, tiny, sizeof tiny);
    CHECK(strcmp(tiny, "E_SH") == 0);
    CHECK(sa_error_set(NULL, SA_E_IO, (SaPos){0, 0}, "x") == SA_E_IO);
    char big[1000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    sa_error_set(&e, SA_E_IO, (SaPos){0, 0}, "%s", big);
    CHECK(strlen(e.text) == sizeof e.text - 1);
    sa_log_set_level(SA_LOG_OFF);
    sa_log(SA_LOG_ERROR, "not seen");
}

int main(void) {
    hashes_match_published_vectors();
    halves_convert_exactly();
    floats_round_by_the_rule();
    failpoint_grammar_is_kept();
    failpoint_terms_run_left_to_right();
    hold_waits_for_a_new_configuration();
    blocks_are_zeroed_and_aligned();
    arenas_keep_their_limits();
    failed_allocations_leave_arenas_usable();
    errors_name_their_place();
    printf("test_base: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
