// SPDX-License-Identifier: MIT
/* per_op.h - a run judged operation by operation: what the engine made of its
 * own operands against the reference, so that no error is carried on. For plans
 * in which every result is an output (gen_all_outputs). Needs ops_harness.h. */
#ifndef SA_TESTS_PER_OP_H
#define SA_TESTS_PER_OP_H

static long compared, skipped, operations;

/* ============================== Comparison ================================ */

static bool finite_operands(const Ref *r, const SaOp *op) {
    for (int a = 0; a < op->n_args; a++)
        for (int k = 0; k < op->args[a].count; k++) {
            const RefValue *x = &r->v[op->args[a].values[k]->id];
            for (size_t i = 0; x->y && i < x->n; i++)
                if (!isfinite(x->y[i]) || fabs(x->y[i]) > 1e4)
                    return false; /* fp32 may overflow on the way where double does not */
        }
    return true;
}

/* Results near the limits of fp16 may fall on either side. */
static bool near_a_limit(double raw) {
    double m = fabs(raw);
    return !isfinite(raw) || fabs(m - 65520) < 100 || fabs(m - 32768) < 100 || m > 65000;
}

/* The results of one operation against the reference; then the engine's own
 * values take the reference's place. */
static bool check_results(Ref *r, const SaOp *op, const SaPlan *plan, const Surfaces *s, bool exact, bool judge) {
    bool good = true;
    for (int k = 0; k < op->n_results; k++) {
        RefValue *x = &r->v[op->results[k]->id];
        for (int o = 0; o < s->n_out; o++) {
            const SaPort *p = sa_plan_output(plan, 0, o);
            if (strcmp(p->name, op->results[k]->name) != 0)
                continue;
            for (size_t i = 0; i < x->n; i++) {
                double got = port_get(p, s->out[o], i);
                bool counts = judge && !(near_a_limit(x->raw[i]) && !exact);
                compared += counts;
                skipped += !counts;
                if (counts && good && !agrees(got, x, i, exact)) {
                    fprintf(stderr, "%s %s[%zu] = %.9g, expected %.9g (unrounded %.9g, slack %.3g)\n", sa_op_name(op->id), p->name, i, got,
                            x->y[i], x->raw[i], x->slack[i]);
                    good = false;
                }
                x->y[i] = got;
            }
        }
    }
    return good;
}

static bool check_operations(const Built *b, const Surfaces *s, SaNumerics numerics, bool exact) {
    const SaFunction *fn = &b->program->functions[0];
    SaFunction none = *fn; /* parameters only */
    none.n_ops = 0;
    SaProgram empty = *b->program;
    empty.functions = &none;
    Built start = {.program = &empty, .plan = b->plan};
    Ref r = reference(&start, s, numerics);
    bool good = true;
    for (int i = 0; i < fn->n_ops && good; i++) {
        ref_op(&r, &fn->ops[i]);
        if (fn->ops[i].id == SA_OP_CONST)
            continue;
        operations++;
        good = check_results(&r, &fn->ops[i], b->plan, s, exact, exact || finite_operands(&r, &fn->ops[i]));
    }
    ref_free(&r);
    return good;
}

#endif
