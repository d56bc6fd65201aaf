// SPDX-License-Identifier: MIT
/* exec.h - the private map of exec/.
 *
 *   run.c        sa_plan_run: workspace, load ports, walk the steps, store ports
 *   step_*.c     one file per family of steps
 *   port.c       surfaces <-> fp32 slots
 *   pool.c       sa_parallel: chunks of work over our own threads
 *   blas.c       sa_gemm: a BLAS found at first use, or the built-in product
 *   fixed.c      products in the engine's fixed point; fixed_winograd.c 3x3 ones
 *   table.c      functions of one fp16 value by looking them up
 *   isa.c        which kernel table this CPU gets
 *   k_*.c        kernels, see kernels.h */
#ifndef SA_EXEC_EXEC_H
#define SA_EXEC_EXEC_H

#include <stdatomic.h>

#include "../plan/steps.h"
#include "kernels.h"

/* ============================== Threads =================================== */

typedef void SaChunkFn(void *context, size_t chunk);

/* Call fn(context, 0 .. chunks-1), each once, on up to `threads` threads
 * (0 = all). Returns when all are done. What a chunk is must not depend on the
 * number of threads, so results do not either. When the pool serves somebody
 * else, or after fork, the caller does everything itself. Any thread; not from
 * inside a chunk. */
void sa_parallel(int threads, size_t chunks, SaChunkFn *fn, void *context);

/* Threads a call can use at most, the caller included: the processors this
 * process may run on. Starts no thread. */
int sa_parallel_width(void);

/* ============================== Products ================================== */

/* C = op(A) op(B) on the calling thread. False when the built-in product needs
 * scratch and there is none (out of memory). */
bool sa_gemm(const SaKernels *k, const SaGemmArgs *g);

/* The same in the engine's fixed point, with bias and rounding. */
bool sa_fixed_gemm(const SaKernels *k, const SaGemmArgs *g, const SaFixedOut *o);

/* Scratch of this thread, valid until its next call of the same kind; NULL when memory is short. */
typedef enum { SA_SCRATCH_PACK, SA_SCRATCH_WIDE, SA_SCRATCH_KINDS } SaScratch;
float *sa_scratch(SaScratch kind, size_t floats);
static inline float *sa_pack_scratch(size_t floats) { return sa_scratch(SA_SCRATCH_PACK, floats); }

/* For tests: false = the built-in product even where a BLAS was found. */
void sa_gemm_choose(bool blas);

/* ============================== One run =================================== */

/* What the steps of one evaluation share. Lives on the caller's stack. */
typedef struct {
    const SaKernels *k;
    char *work;                /* the workspace of this run */
    SaNumerics numerics;
    unsigned arithmetic;       /* SA_RUN_* */
    float dot_limit, slice_clamp; /* as in SaRunOptions */
    int threads;
    atomic_bool failed;        /* set by a chunk that had no memory */
} SaRun;

static inline float *sa_run_at(const SaRun *r, SaRef ref) {
    return ref.fixed ? (float *)(uintptr_t)ref.fixed : (float *)(void *)(r->work + ref.offset);
}

/* A limit of products that the rounding does not know; 0: there is none. */
static inline float sa_run_limit(const SaRun *r) {
    bool own = r->numerics == SA_NUMERICS_FAST && !(r->arithmetic & SA_RUN_UNLIMITED) && r->dot_limit != 32768.0f;
    return own ? r->dot_limit : 0.0f;
}

/* Values from `limit` on become inf; limit 0: nothing is done. */
void sa_limit(float *d, size_t n, float limit);

/* Significant bits of a table function's results, 0 = all. */
unsigned sa_table_bits(SaUnary op);

/* ============================== Tables ==================================== */

/* A function of one operand with what follows it: all that decides its result. */
typedef struct {
    SaUnaryFn *unary;
    SaRoundFn *round;          /* NULL: not rounded to fp16, and so in no table */
    unsigned bits;             /* as sa_table_bits */
    float p[2];
} SaTabled;

/* Its results for all halves, for k->lookup; NULL: compute it. `count`: how many
 * elements it is wanted for now. The operand must be on the fp16 grid. Any thread. */
const uint16_t *sa_table_of(const SaKernels *k, SaUnary op, const SaTabled *of, size_t count);

/* For tests, while nothing runs: forget all tables, and from now on make them
 * when they pay, never, or at the first use. */
typedef enum { SA_TABLES_WORTH, SA_TABLES_NEVER, SA_TABLES_ALWAYS } SaTablesUse;
void sa_tables_choose(SaTablesUse use);

/* The rounding of a result stored as `store`, under the run's numerics. */
static inline SaRound sa_run_round(const SaRun *r, SaStore store) {
    if (store == SA_STORE_EXACT)
        return SA_ROUND_NONE;
    if (r->numerics == SA_NUMERICS_IEEE)
        return SA_ROUND_EVEN;
    bool flush = (r->arithmetic & SA_RUN_FLUSH) != 0;
    bool limited = store == SA_STORE_PRODUCT && !(r->arithmetic & SA_RUN_UNLIMITED) && sa_run_limit(r) == 0.0f;
    if (r->numerics == SA_NUMERICS_SILICON) {
        if (store == SA_STORE_PRODUCT)
            return flush ? SA_ROUND_FLUSH_SILICON_PRODUCT : SA_ROUND_SILICON_PRODUCT;
        return flush ? SA_ROUND_FLUSH_SILICON : SA_ROUND_SILICON;
    }
    if (flush)
        return limited ? SA_ROUND_FLUSH_PRODUCT : SA_ROUND_FLUSH;
    return limited ? SA_ROUND_PRODUCT : SA_ROUND_AWAY;
}

/* Elements worth handing to another thread; also the size of a chunk. */
enum { SA_GRAIN = 16384 };

/* How many units of `each` elements go into a chunk. */
static inline size_t sa_units_per_chunk(size_t each) { return each >= SA_GRAIN ? 1 : SA_GRAIN / (each ? each : 1); }

typedef void SaStepFn(SaRun *r, const SaStep *s);
SaStepFn sa_step_elem, sa_step_gemm, sa_step_patches, sa_step_direct, sa_step_reduce, sa_step_softmax, sa_step_norm,
    sa_step_copy, sa_step_fill, sa_step_gather, sa_step_pool, sa_step_fold_back, sa_step_lerp, sa_step_lrn, sa_step_arg,
    sa_step_scan, sa_step_sort, sa_step_pick, sa_step_gather_nd;

/* The two steps of a 3x3 convolution by Winograd's F(2,3); false: it is not
 * eligible or not asked for, and nothing was done. */
bool sa_winograd_patches(SaRun *r, const SaStep *s);
bool sa_winograd_gemm(SaRun *r, const SaStep *s);

/* Surfaces: fp32 slot <-> port. */
void sa_port_load(SaRun *r, const SaPort *port, const void *surface, float *slot);
void sa_port_store(SaRun *r, const SaPort *port, const float *slot, void *surface);

#endif
