// SPDX-License-Identifier: MIT
/* plan.h - from a checked program to something that runs.
 *
 *   lower.c     operations -> steps (kernel id, operand slots, parameters)
 *   fuse.c      neighbouring elementwise steps -> one pass over memory
 *   allocate.c  lifetimes -> offsets in one workspace per run
 *   run: exec/run.c walks the steps
 *
 * A plan owns all it needs (weights unpacked once, here) and keeps no pointer
 * into the program it came from. It is immutable after sa_plan_build: any
 * number of threads may run it at once. */
#ifndef SA_PLAN_H
#define SA_PLAN_H

#include "../mil/mil.h"

typedef struct SaPlan SaPlan;

/* How a port lies in a surface. Shapes are seen as [N, C, H, W], missing
 * leading axes are 1 (rank 5 folds the two outermost into N). The row is
 * dense when W * element size is a multiple of 64 bytes, else padded to one. */
typedef struct {
    const char *name;                 /* identifier, without "@output" */
    SaType type;
    int64_t n, c, h, w;
    size_t row_stride, plane_stride, batch_stride; /* bytes */
    size_t bytes;                     /* least surface size */
} SaPort;

/* Build the plan of all functions (= procedures, in text order). */
SaStatus sa_plan_build(const SaProgram *p, SaPlan **out, SaError *err);

/* The same with steps left alone that could be joined: every step passes over
 * memory by itself. Results are the same bits; for tests and benchmarks. */
SaStatus sa_plan_build_unfused(const SaProgram *p, SaPlan **out, SaError *err);

void sa_plan_free(SaPlan *plan);

int sa_plan_procedures(const SaPlan *plan);
const char *sa_plan_procedure_name(const SaPlan *plan, int proc);
/* Ports in ASCII order of their names: the engine's symbol order. */
int sa_plan_inputs(const SaPlan *plan, int proc);
int sa_plan_outputs(const SaPlan *plan, int proc);
const SaPort *sa_plan_input(const SaPlan *plan, int proc, int i);
const SaPort *sa_plan_output(const SaPlan *plan, int proc, int i);

size_t sa_plan_bytes(const SaPlan *plan);   /* resident bytes: weights and tables */
double sa_plan_flops(const SaPlan *plan, int proc); /* of products, for the timing model */

/* Both compute in fp32 and round once where a value becomes an fp16 tensor.
 *   fast  half away from zero; products with |y| >= 32768 give inf; x / 0 = 0
 *         (real_div, floor_div, inverse; x mod 0 = x)
 *   ieee  half to even; no limit on products; IEEE division
 * Elsewhere NaN and inf are IEEE's under both. fp32 tensors stay fp32. */
typedef enum { SA_NUMERICS_FAST = 0, SA_NUMERICS_IEEE, SA_NUMERICS_SILICON } SaNumerics;

/* Departures of an arithmetic; docs/NUMERICS.md says which apply where. */
enum {
    SA_RUN_WINOGRAD = 1,  /* silicon: dense 3x3 convolutions by F(2,3) along the width */
    SA_RUN_FLUSH = 2,     /* fast, silicon: subnormal fp16 results become 0 */
    SA_RUN_COARSE = 4,    /* fast, silicon: table functions keep as many bits as the engine's */
    SA_RUN_UNLIMITED = 8, /* fast: products reach 65504 whatever dot_limit is */
    SA_RUN_UNMASKED = 16  /* scaled_dot_product_attention ignores attn_mask */
};

typedef struct {
    SaNumerics numerics;
    int threads;        /* 0 = all the pool has; 1 = the calling thread only */
    unsigned arithmetic; /* SA_RUN_* */
    float dot_limit;    /* fast: products from here on are inf; 0 = 32768 */
    float slice_clamp;  /* last-axis slices with an offset: larger values are inf; 0 = none are */
} SaRunOptions;

/* Evaluate one procedure. inputs[i] / outputs[i] are the base addresses of
 * the surfaces in symbol order; sizes were checked by the caller.
 * Returns SA_OK, SA_E_MEMORY or SA_E_INJECTED. Any thread. */
SaStatus sa_plan_run(const SaPlan *plan, int proc, const void *const *inputs, void *const *outputs,
                     const SaRunOptions *options);

/* The BLAS in use ("…/libscipy_openblas.so" or "built-in") and the kernel
 * variant ("x86-64-v4"). Static storage. */
const char *sa_exec_blas(void);
const char *sa_exec_isa(void);

#endif
