// SPDX-License-Identifier: MIT
/* run.c - one evaluation: take a workspace, load the inputs, walk the steps,
 * store the outputs, give the workspace back.
 *
 * All inputs are read before any step and all outputs written after the last,
 * so a surface may be input and output at once. A plan keeps the workspaces
 * of past runs; a run that finds one allocates nothing. */
#include "exec.h"

/* ============================== Workspaces ================================ */

static void *workspace_take(SaPlan *plan) {
    for (int i = 0; i < SA_IDLE_WORKSPACES; i++) {
        void *w = atomic_exchange(&plan->idle[i], NULL);
        if (w)
            return w;
    }
    return sa_malloc(plan->workspace ? plan->workspace : 64);
}

static void workspace_give(SaPlan *plan, void *w) {
    for (int i = 0; i < SA_IDLE_WORKSPACES; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&plan->idle[i], &none, w))
            return;
    }
    sa_free(w);
}

/* ============================== Steps ===================================== */

static SaStepFn *const executors[SA_STEP_KINDS] = {
    [SA_STEP_ELEM] = sa_step_elem,
    [SA_STEP_GEMM] = sa_step_gemm,
    [SA_STEP_PATCHES] = sa_step_patches,
    [SA_STEP_DIRECT] = sa_step_direct,
    [SA_STEP_REDUCE] = sa_step_reduce,
    [SA_STEP_SOFTMAX] = sa_step_softmax,
    [SA_STEP_NORM] = sa_step_norm,
    [SA_STEP_COPY] = sa_step_copy,
    [SA_STEP_FILL] = sa_step_fill,
    [SA_STEP_GATHER] = sa_step_gather,
};

static void walk(SaRun *r, const SaProc *p, const void *const *inputs, void *const *outputs) {
    for (int i = 0; i < p->n_inputs; i++)
        sa_port_load(r, &p->inputs[i], inputs[i], sa_run_at(r, p->in_ref[i]));
    for (int i = 0; i < p->n_steps && !r->failed; i++)
        executors[p->steps[i].kind](r, &p->steps[i]);
    for (int i = 0; i < p->n_outputs && !r->failed; i++)
        sa_port_store(r, &p->outputs[i], sa_run_at(r, p->out_ref[i]), outputs[i]);
}

SaStatus sa_plan_run(const SaPlan *plan, int proc, const void *const *inputs, void *const *outputs,
                     const SaRunOptions *options) {
    static const SaRunOptions defaults;
    if (!options)
        options = &defaults;
    if (proc < 0 || proc >= plan->n_procs)
        return SA_E_BIND;
    if (SA_FAILPOINT("exec.run"))
        return SA_E_INJECTED;
    SaPlan *own = (SaPlan *)(uintptr_t)plan; /* only its list of idle workspaces changes, atomically */
    SaRun r = {.k = sa_kernels_get(), .numerics = options->numerics, .threads = options->threads};
    r.work = workspace_take(own);
    if (!r.work)
        return SA_E_MEMORY;
    walk(&r, &plan->procs[proc], inputs, outputs);
    workspace_give(own, r.work);
    return r.failed ? SA_E_MEMORY : SA_OK;
}
