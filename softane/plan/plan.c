// SPDX-License-Identifier: MIT
/* plan.c - reading and freeing a plan. Building is lower.c, running exec/run.c. */
#include "steps.h"

/* NULL is fine. Nobody may be running the plan. */
void sa_plan_free(SaPlan *plan) {
    if (!plan)
        return;
    sa_arena_free(plan->arena);
    sa_free(plan);
}

static const SaProc *proc_of(const SaPlan *plan, int proc) {
    return proc >= 0 && proc < plan->n_procs ? &plan->procs[proc] : NULL;
}

int sa_plan_procedures(const SaPlan *plan) { return plan->n_procs; }

/* NULL, 0 or NULL outside the range, as below. */
const char *sa_plan_procedure_name(const SaPlan *plan, int proc) {
    const SaProc *p = proc_of(plan, proc);
    return p ? p->name : NULL;
}

int sa_plan_inputs(const SaPlan *plan, int proc) {
    const SaProc *p = proc_of(plan, proc);
    return p ? p->n_inputs : 0;
}

int sa_plan_outputs(const SaPlan *plan, int proc) {
    const SaProc *p = proc_of(plan, proc);
    return p ? p->n_outputs : 0;
}

const SaPort *sa_plan_input(const SaPlan *plan, int proc, int i) {
    const SaProc *p = proc_of(plan, proc);
    return p && i >= 0 && i < p->n_inputs ? &p->inputs[i] : NULL;
}

const SaPort *sa_plan_output(const SaPlan *plan, int proc, int i) {
    const SaProc *p = proc_of(plan, proc);
    return p && i >= 0 && i < p->n_outputs ? &p->outputs[i] : NULL;
}

size_t sa_plan_bytes(const SaPlan *plan) { return plan->bytes; }

double sa_plan_flops(const SaPlan *plan, int proc) {
    const SaProc *p = proc_of(plan, proc);
    return p ? p->flops : 0.0;
}
