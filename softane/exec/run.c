// SPDX-License-Identifier: MIT
/* run.c - one evaluation: take a workspace, load the inputs, walk the steps,
 * store the outputs, give the workspace back.
 *
 * All inputs are read before any step and all outputs written after the last,
 * so a surface may be input and output at once. Workspaces are shared by all
 * plans: the next kernel finds the memory of the last one still in cache, and
 * there are only as many as runs at the same time. */
#include "exec.h"

/* ============================== Workspaces ================================ */

/* Workspaces that are free at the moment. A place is taken by exchanging it
 * with NULL, so there is no lock that a fork could leave closed. */
enum { IDLE = 16, HEAD_BYTES = 64 };
static _Atomic(void *) idle[IDLE];

/* The capacity stands at the start of the block, before the workspace. */
static size_t capacity(const void *block) { return *(const size_t *)block; }

static void block_give(void *block) {
    for (int i = 0; i < IDLE; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&idle[i], &none, block))
            return;
    }
    sa_free(block);
}

/* The first that is large enough; else one that is too small makes room for a
 * new one, so that in the end all have the size of the largest plan. */
static void *block_take(size_t bytes) {
    void *small = NULL;
    for (int i = 0; i < IDLE; i++) {
        void *b = atomic_exchange(&idle[i], NULL);
        if (b && capacity(b) >= bytes) {
            if (small)
                block_give(small);
            return b;
        }
        if (b && small)
            block_give(b);
        else if (b)
            small = b;
    }
    sa_free(small);
    size_t total;
    size_t *b = sa_add_ok(bytes, HEAD_BYTES, &total) ? sa_malloc(total) : NULL;
    if (b)
        *b = bytes;
    return b;
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
    [SA_STEP_POOL] = sa_step_pool,
    [SA_STEP_FOLD_BACK] = sa_step_fold_back,
    [SA_STEP_LERP] = sa_step_lerp,
    [SA_STEP_LRN] = sa_step_lrn,
    [SA_STEP_ARG] = sa_step_arg,
    [SA_STEP_SCAN] = sa_step_scan,
    [SA_STEP_SORT] = sa_step_sort,
    [SA_STEP_PICK] = sa_step_pick,
    [SA_STEP_GATHER_ND] = sa_step_gather_nd,
};

static void walk(SaRun *r, const SaProc *p, const void *const *inputs, void *const *outputs) {
    for (int i = 0; i < p->n_inputs; i++)
        sa_port_load(r, &p->inputs[i], inputs[i], sa_run_at(r, p->in_ref[i]));
    bool unmasked = (r->arithmetic & SA_RUN_UNMASKED) != 0;
    for (int i = 0; i < p->n_steps && !r->failed; i += p->steps[i].pass)
        if (!(unmasked && p->steps[i].attn_mask))
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
    SaRun r = {.k = sa_kernels_get(), .numerics = options->numerics, .arithmetic = options->arithmetic,
               .dot_limit = options->dot_limit, .slice_clamp = options->slice_clamp, .threads = options->threads};
    void *block = block_take(plan->workspace);
    if (!block)
        return SA_E_MEMORY;
    r.work = (char *)block + HEAD_BYTES;
    walk(&r, &plan->procs[proc], inputs, outputs);
    block_give(block);
    return r.failed ? SA_E_MEMORY : SA_OK;
}
