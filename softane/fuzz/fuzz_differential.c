// SPDX-License-Identifier: MIT
/* fuzz_differential.c - the engine against the reference in double precision,
 * operation by operation, on every kernel variant; and against itself: variants
 * and threads change no bit of products in fixed point. */
#include "fuzz_common.h"

#include "../tests/gen_program.c" /* one program, one translation unit */
#include "../tests/ops_harness.h"
#include "../tests/per_op.h"

enum { LARGEST = 1500, PORTS_AT_MOST = 60 };

/* A window costs its size where the result is small. */
static bool affordable(const SaFunction *f) {
    for (int i = 0; i < f->n_ops; i++) {
        SaWindow w;
        const SaOp *op = &f->ops[i];
        if (op->id == SA_OP_CONST || !sa_op_value(op, "x") || !sa_op_window(op, &w))
            continue;
        double work = (double)sa_type_count(&op->results[0]->type) * (double)sa_type_count(&sa_op_value(op, "x")->type);
        for (int a = 0; a < w.n; a++)
            work *= (double)w.kernel[a] / (w.in[a] > 8 ? 4 : 1);
        if (work > 1e6)
            return false;
    }
    return true;
}

/* The reference knows fp16 and fp32 parameters. */
static bool float_ports(const SaFunction *f) {
    for (int i = 0; i < f->n_params; i++)
        if (!floats(f->params[i]))
            return false;
    return f->n_params <= PORTS_AT_MOST;
}

static void compare(Built *b, DataKind kind) {
    Surfaces first = surfaces_make(b->plan, kind);
    for (int n = SA_NUMERICS_FAST; n <= SA_NUMERICS_SILICON; n++) {
        Surfaces again = surfaces_make(b->plan, kind);
        for (int i = 0; i < first.n_in; i++)
            memcpy(again.in[i], first.in[i], sa_plan_input(b->plan, 0, i)->bytes);
        for (int v = 0; sa_kernels_variant(v); v++) {
            sa_kernels_force(sa_kernels_variant(v));
            Surfaces *s = v ? &again : &first;
            PROMISE(run(b->plan, s, (SaNumerics)n, v ? 2 : 1) == SA_OK);
            if (n != SA_NUMERICS_SILICON) /* that one has proofs of its own: test_numerics */
                PROMISE(check_operations(b, s, (SaNumerics)n, false));
        }
        sa_kernels_force(NULL);
        surfaces_free(&again);
    }
    surfaces_free(&first);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = fuzz_text(data, &size);
    Built b = {.arena = sa_arena_new((size_t)64 << 20)};
    SaProgram *p = b.arena ? fuzz_program(b.arena, text, size) : NULL;
    bool good = p && p->n_functions == 1 && fuzz_small(p, LARGEST) && affordable(p->functions) && float_ports(p->functions);
    b.program = good ? gen_all_outputs(b.arena, p) : NULL;
    if (b.program && b.program->functions[0].n_outputs > 0) {
        static bool built_in;
        if (!built_in)
            sa_gemm_choose(false);
        built_in = true;
        seed_state = 77 + size;
        DataKind kind = (DataKind)(size % 3); /* integers, uniform, positive */
        fill_blobs(b.arena, b.program, kind);
        if (sa_plan_build(b.program, &b.plan, &b.err) == SA_OK)
            compare(&b, kind);
    }
    unbuild(&b);
    return 0;
}
