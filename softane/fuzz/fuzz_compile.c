// SPDX-License-Identifier: MIT
/* fuzz_compile.c - a valid program gives a plan, and the plan runs: constants
 * from files are made up. */
#include "fuzz_common.h"

#include "../exec/exec.h"

enum { MOST = 3000, WEIGHTS = 1 << 16, PORTS = 40 };
static uint8_t weights[WEIGHTS];
static char surfaces[PORTS][1 << 18];

static bool bind(const SaValue *v) {
    SaConst *c = (SaConst *)(uintptr_t)v->constant;
    if (!c->blob_path)
        return true;
    if (c->bytes > WEIGHTS)
        return false;
    for (size_t i = 0; !weights[0] && i < WEIGHTS; i++)
        weights[i] = (uint8_t)(1 + i * 37 % 119); /* as fp16: finite */
    c->data = weights;
    return true;
}

static bool bind_all(const SaFunction *f) {
    for (int i = 0; i < f->n_ops; i++) {
        if (f->ops[i].id == SA_OP_CONST && !bind(f->ops[i].results[0]))
            return false;
        for (int a = 0; a < f->ops[i].n_args; a++)
            if (f->ops[i].args[a].is_attribute && !bind(f->ops[i].args[a].values[0]))
                return false;
    }
    return true;
}

/* A window may be large where its result is not. */
static bool cheap(const SaFunction *f) {
    for (int i = 0; i < f->n_ops; i++) {
        SaWindow w;
        if (f->ops[i].id == SA_OP_CONST || !sa_op_value(&f->ops[i], "x") || !sa_op_window(&f->ops[i], &w))
            continue;
        double work = (double)sa_type_count(&f->ops[i].results[0]->type) * (double)sa_type_count(&sa_op_value(&f->ops[i], "x")->type);
        for (int a = 0; a < w.n; a++)
            work *= (double)w.kernel[a] / (w.in[a] > 8 ? 4 : 1);
        if (work > 1e7)
            return false;
    }
    return true;
}

static void run(const SaPlan *plan, int proc, SaNumerics numerics) {
    const void *in[PORTS];
    void *out[PORTS];
    int n = sa_plan_inputs(plan, proc), m = sa_plan_outputs(plan, proc);
    if (n + m > PORTS)
        return;
    for (int i = 0; i < n + m; i++) {
        const SaPort *p = i < n ? sa_plan_input(plan, proc, i) : sa_plan_output(plan, proc, i - n);
        if (p->bytes > sizeof surfaces[i])
            return;
        if (i < n)
            in[i] = surfaces[i];
        else
            out[i - n] = surfaces[i];
    }
    SaRunOptions o = {.numerics = numerics, .threads = 1};
    SaStatus st = sa_plan_run(plan, proc, in, out, &o);
    PROMISE(st == SA_OK || st == SA_E_MEMORY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = fuzz_text(data, &size);
    SaArena *arena = sa_arena_new((size_t)64 << 20);
    SaProgram *p = arena ? fuzz_program(arena, text, size) : NULL;
    SaPlan *plan = NULL;
    bool good = p && fuzz_small(p, MOST);
    for (int f = 0; good && f < p->n_functions; f++)
        good = cheap(&p->functions[f]) && bind_all(&p->functions[f]);
    if (good) {
        SaError err = {0};
        SaStatus st = sa_plan_build(p, &plan, &err);
        PROMISE((st == SA_OK) == (plan != NULL));
        PROMISE(st == SA_OK || err.text[0]);
        for (int i = 0; st == SA_OK && i < sa_plan_procedures(plan); i++)
            for (int n = SA_NUMERICS_FAST; n <= SA_NUMERICS_SILICON; n++)
                run(plan, i, (SaNumerics)n);
    }
    sa_plan_free(plan);
    sa_arena_free(arena);
    return 0;
}
