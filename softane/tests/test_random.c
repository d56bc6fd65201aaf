// SPDX-License-Identifier: MIT
/* test_random.c - random programs (gen_program.h), each of them
 *
 *   printed, parsed and printed again: the same text;
 *   run as it is, on one thread and on two: the same bits;
 *   run with all its results as outputs: the same bits, although less is merged;
 *   checked operation by operation: what the engine made of its own operands
 *     against the reference, so that no error is carried on; bit for bit where
 *     the graph is made of integers.
 *
 * Usage: test_random [programs [first seed]]   2000 from seed 1. Exit 1 on failure. */
#include "gen_program.c" /* one program, one translation unit */

#include "ops_harness.h"
#include "per_op.h"

static bool seen[SA_OP_COUNT];

/* ============================== Runs ====================================== */

/* Copy the inputs of one run into another's, by name. */
static void same_inputs(const SaPlan *from, const Surfaces *a, const SaPlan *to, Surfaces *b) {
    for (int i = 0; i < a->n_in; i++)
        for (int k = 0; k < b->n_in; k++)
            if (strcmp(sa_plan_input(from, 0, i)->name, sa_plan_input(to, 0, k)->name) == 0)
                memcpy(b->in[k], a->in[i], sa_plan_input(to, 0, k)->bytes);
}

/* Outputs of `a` are outputs of `b` too, with the same bits. */
static bool contained(const SaPlan *pa, const Surfaces *a, const SaPlan *pb, const Surfaces *b) {
    bool good = true;
    for (int i = 0; i < a->n_out; i++)
        for (int k = 0; k < b->n_out; k++)
            if (strcmp(sa_plan_output(pa, 0, i)->name, sa_plan_output(pb, 0, k)->name) == 0)
                good = good && memcmp(a->out[i], b->out[k], sa_plan_output(pa, 0, i)->bytes) == 0;
    return good;
}

/* ============================== One program =============================== */

/* print(parse(text)) is the text. */
static bool prints_the_same(const char *text) {
    SaArena *a = sa_arena_new(0);
    SaProgram *p;
    SaError err = {0};
    char *again = NULL;
    bool good = a && sa_program_parse(a, text, strlen(text), lenient(), &p, &err) == SA_OK && sa_program_check(a, p, lenient(), &err) == SA_OK &&
                sa_program_print(p, &again) == SA_OK && strcmp(text, again) == 0;
    if (err.code)
        fprintf(stderr, "%d:%d %s: %s\n", err.pos.line, err.pos.col, err.op, err.text);
    sa_free(again);
    sa_arena_free(a);
    return good;
}

static bool run_both(const char *text, const char *all, DataKind kind, bool exact) {
    seed_state = 99;
    Built b = build(text, strlen(text), kind);
    seed_state = 99; /* the same weights: they are filled in order */
    Built c = build(all, strlen(all), kind);
    bool good = b.status == SA_OK && c.status == SA_OK;
    if (!good)
        fprintf(stderr, "%s: %s\n", b.status ? b.err.op : c.err.op, b.status ? b.err.text : c.err.text);
    if (good) {
        Surfaces one = surfaces_make(b.plan, kind), two = surfaces_make(b.plan, kind), full = surfaces_make(c.plan, kind);
        same_inputs(b.plan, &one, b.plan, &two);
        same_inputs(b.plan, &one, c.plan, &full);
        for (int n = SA_NUMERICS_FAST; n <= SA_NUMERICS_IEEE && good; n++) {
            good = run(b.plan, &one, (SaNumerics)n, 1) == SA_OK && run(b.plan, &two, (SaNumerics)n, 2) == SA_OK &&
                   run(c.plan, &full, (SaNumerics)n, 2) == SA_OK;
            if (good && !same_outputs(b.plan, &one, &two))
                good = (fprintf(stderr, "one and two threads differ\n"), false);
            if (good && !contained(b.plan, &one, c.plan, &full))
                good = (fprintf(stderr, "more outputs change a result\n"), false);
            good = good && check_operations(&c, &full, (SaNumerics)n, exact);
        }
        surfaces_free(&one);
        surfaces_free(&two);
        surfaces_free(&full);
    }
    unbuild(&b);
    unbuild(&c);
    return good;
}

static bool program_holds(uint64_t seed) {
    GenOptions o = {.seed = seed, .n_ops = 3 + (int)(seed % 17), .integers = seed % 3 == 0, .dialect = seed % 5 == 0 ? 'B' : 'A'};
    SaArena *arena = sa_arena_new(0);
    char *text = NULL, *all = NULL;
    SaProgram *p = gen_program(arena, &o, seen), *q = p ? gen_all_outputs(arena, p) : NULL;
    bool good = true;
    if (q && sa_program_print(p, &text) == SA_OK && sa_program_print(q, &all) == SA_OK) {
        good = prints_the_same(text) && prints_the_same(all);
        good = good && run_both(text, all, o.integers ? INTEGERS : seed % 2 ? UNIFORM : POSITIVE, o.integers);
        if (!good)
            fprintf(stderr, "--- seed %llu\n%s", (unsigned long long)seed, text);
    }
    sa_free(text);
    sa_free(all);
    sa_arena_free(arena);
    return good;
}

int main(int argc, char **argv) {
    long n = argc > 1 ? atol(argv[1]) : 2000, first = argc > 2 ? atol(argv[2]) : 1;
    sa_gemm_choose(false); /* a BLAS may sum in another order when an operand is transposed */
    for (long i = 0; i < n && failed < 5; i++)
        CHECK_AS(program_holds((uint64_t)(first + i)), "a random program");
    int met = 0, ops = 0;
    for (int i = 1; i < SA_OP_COUNT; i++) {
        met += seen[i];
        ops++;
        if (n >= 2000)
            CHECK_AS(seen[i], sa_op_name((SaOpId)i));
    }
    printf("%d of %d operations met, %ld checked, %ld values compared, %ld passed over\n", met, ops, operations, compared, skipped);
    printf("test_random: %d passed, %d failed\n", passed, failed);
    return failed ? 1 : 0;
}
