// SPDX-License-Identifier: MIT
/* step_elem.c - passes of elementwise steps: broadcasting loops around the
 * kernels, one walk over memory for all steps of a pass.
 *
 * The result is cut into rows (the innermost axis of the loops) and rows into
 * blocks that stay in L1, because a block is gone over once by each step, and
 * again by the rounding of most. The commonest kernels round in their own loop.
 * What a later step of the pass alone reads stays in a register: a block of its
 * own on the stack of the thread. */
#include <string.h>

#include "exec.h"

enum { BLOCK = 2048, PASS_BLOCK = 512 };

/* One step, with all that the run decides about it. */
typedef struct {
    const float *in[3];    /* NULL: in a register */
    float *out;
    const size_t *stride[3];
    const float *p;        /* parameters of a unary operation */
    int n_in, form;
    int in_reg[3], out_reg; /* registers, where memory is NULL */
    size_t step[3];        /* of the operands along a row: 0 or 1 */
    void (*round)(float *d, const float *s, size_t n); /* NULL: nothing to do, or done by the kernel */
    SaUnaryFn *unary;
    unsigned bits;         /* significant bits of a table function; 0 = all */
    const uint16_t *table; /* results to look up instead of all this; NULL: none */
    SaBinaryFn *vv, *vs, *sv;
} ElemOp;

typedef struct {
    const SaRun *run;
    const SaElem *loops;   /* dim, rank, rows: the same for all steps */
    ElemOp op[SA_PASS_STEPS];
    int n_ops;
    size_t block;          /* elements per block */
    size_t per_chunk;      /* rows, or blocks of the only row */
} ElemJob;

typedef struct {
    _Alignas(64) float r[SA_PASS_REGISTERS][PASS_BLOCK];
} Registers;

/* ============================== One block ================================= */

/* A broadcast operand of select as a vector. */
static const float *spread(float *tmp, const float *a, size_t step, size_t n) {
    if (step || n == 1)
        return a;
    for (size_t i = 0; i < n; i++)
        tmp[i] = *a;
    return tmp;
}

static void choose(const SaKernels *k, const ElemOp *o, float *d, const float *const a[3], size_t n) {
    float tmp[3][BLOCK];
    k->select(d, spread(tmp[0], a[0], o->step[0], n), spread(tmp[1], a[1], o->step[1], n), spread(tmp[2], a[2], o->step[2], n), n);
}

static void block(const SaKernels *k, const ElemOp *o, float *d, const float *const a[3], size_t n) {
    if (o->table) {
        k->lookup(d, a[0], o->table, n);
        return;
    }
    if (o->form == SA_ELEM_UNARY) {
        o->unary(d, a[0], o->p, n);
        if (o->bits)
            k->coarse(d, o->bits, n);
    } else if (o->form == SA_ELEM_BINARY) {
        SaBinaryFn *f = n == 1 || (o->step[0] && o->step[1]) ? o->vv : o->step[0] ? o->vs : o->sv;
        f(d, a[0], a[1], n);
    } else {
        choose(k, o, d, a, n);
    }
    if (o->round)
        o->round(d, d, n);
}

/* n elements of a row, from pointers that already stand there. `to` is where
 * the row lies in every result. */
static void row(const ElemJob *j, Registers *regs, const float *from[][3], size_t to, size_t n) {
    for (size_t at = 0; at < n; at += j->block) {
        size_t len = n - at < j->block ? n - at : j->block;
        for (int m = 0; m < j->n_ops; m++) {
            const ElemOp *o = &j->op[m];
            const float *a[3] = {NULL};
            for (int i = 0; i < o->n_in; i++)
                a[i] = o->in[i] ? from[m][i] + at * o->step[i] : regs->r[o->in_reg[i]];
            block(j->run->k, o, o->out ? o->out + to + at : regs->r[o->out_reg], a, len);
        }
    }
}

/* ============================== Chunks ==================================== */

/* Part of the only row. */
static void flat_chunk(void *context, size_t chunk) {
    const ElemJob *j = context;
    size_t at = chunk * SA_GRAIN, all = j->loops->dim[j->loops->rank - 1], n = all - at < SA_GRAIN ? all - at : SA_GRAIN;
    const float *from[SA_PASS_STEPS][3];
    Registers regs;
    for (int m = 0; m < j->n_ops; m++)
        for (int i = 0; i < j->op[m].n_in; i++)
            from[m][i] = j->op[m].in[i] ? j->op[m].in[i] + at * j->op[m].step[i] : NULL;
    row(j, &regs, from, at, n);
}

/* Move all operands by `by` steps along axis `a`. */
static void move(const ElemJob *j, const float *from[][3], int a, ptrdiff_t by) {
    for (int m = 0; m < j->n_ops; m++)
        for (int i = 0; i < j->op[m].n_in; i++)
            if (j->op[m].in[i])
                from[m][i] += by * (ptrdiff_t)j->op[m].stride[i][a];
}

/* Some whole rows. `index` counts like an odometer over the outer axes. */
static void rows_chunk(void *context, size_t chunk) {
    const ElemJob *j = context;
    const SaElem *e = j->loops;
    int last = e->rank - 1;
    size_t index[SA_ELEM_RANK], n = e->dim[last];
    size_t first = chunk * j->per_chunk, end = first + j->per_chunk < e->rows ? first + j->per_chunk : e->rows;
    const float *from[SA_PASS_STEPS][3];
    Registers regs;
    for (int m = 0; m < j->n_ops; m++)
        for (int i = 0; i < 3; i++)
            from[m][i] = j->op[m].in[i];
    size_t rest = first;
    for (int a = last - 1; a >= 0; a--) {
        index[a] = rest % e->dim[a];
        rest /= e->dim[a];
        move(j, from, a, (ptrdiff_t)index[a]);
    }
    for (size_t r = first; r < end; r++) {
        row(j, &regs, from, r * n, n);
        for (int a = last - 1; a >= 0; a--) {
            move(j, from, a, 1);
            if (++index[a] < e->dim[a])
                break;
            move(j, from, a, -(ptrdiff_t)e->dim[a]);
            index[a] = 0;
        }
    }
}

/* ============================== A pass ==================================== */

static ElemOp op_of(const SaRun *r, const SaStep *s) {
    const SaElem *e = &s->u.elem;
    bool silicon = r->numerics == SA_NUMERICS_SILICON;
    int op = r->numerics == SA_NUMERICS_IEEE ? e->op_ieee : e->op, last = e->rank - 1;
    SaRound round = sa_run_round(r, s->store);
    ElemOp o = {.p = e->p, .n_in = e->n_in, .form = (int)e->form, .round = round == SA_ROUND_NONE ? NULL : r->k->round[round],
                .out = s->out_reg ? NULL : sa_run_at(r, s->out), .out_reg = s->out_reg - 1};
    for (int i = 0; i < e->n_in; i++) {
        o.in[i] = s->in_reg[i] ? NULL : sa_run_at(r, s->in[i]);
        o.in_reg[i] = s->in_reg[i] - 1;
        o.stride[i] = e->stride[i];
        o.step[i] = e->stride[i][last];
    }
    if (silicon && e->kept) { /* the scalar factor is dropped */
        o.in[0] = o.in[e->kept - 1];
        o.in_reg[0] = o.in_reg[e->kept - 1];
        o.stride[0] = o.stride[e->kept - 1];
        o.step[0] = o.step[e->kept - 1];
        o.n_in = 1;
        o.form = SA_ELEM_UNARY;
        op = SA_U_COPY;
    }
    bool away = round == SA_ROUND_AWAY;
    if (o.form == SA_ELEM_UNARY) {
        o.unary = silicon && r->k->odd[op] ? r->k->odd[op] : r->k->unary[op];
        if ((r->arithmetic & SA_RUN_COARSE) && r->numerics != SA_NUMERICS_IEEE && s->store == SA_STORE_HALF)
            o.bits = sa_table_bits((SaUnary)op);
        if (e->half_in) {
            SaTabled of = {.unary = o.unary, .round = o.round, .bits = o.bits, .p = {e->p[0], e->p[1]}};
            o.table = sa_table_of(r->k, (SaUnary)op, &of, s->count);
        }
        if (away && !o.bits && r->k->away[op]) {
            o.unary = r->k->away[op];
            o.round = NULL;
        }
    }
    if (o.form == SA_ELEM_BINARY) {
        away = away && r->k->away_vv[op];
        o.vv = away ? r->k->away_vv[op] : r->k->binary_vv[op];
        o.vs = away ? r->k->away_vs[op] : r->k->binary_vs[op];
        o.sv = away ? r->k->away_sv[op] : r->k->binary_sv[op];
        o.round = away ? NULL : o.round;
    }
    return o;
}

/* Steps s[0] .. s[pass - 1]. */
void sa_step_elem(SaRun *r, const SaStep *s) {
    ElemJob j = {.run = r, .loops = &s->u.elem, .n_ops = s->pass};
    const SaElem *e = j.loops;
    for (int m = 0; m < j.n_ops; m++)
        j.op[m] = op_of(r, &s[m]);
    j.block = j.n_ops > 1 ? PASS_BLOCK : BLOCK;
    if (e->rows == 1) {
        sa_parallel(r->threads, (e->dim[e->rank - 1] + SA_GRAIN - 1) / SA_GRAIN, flat_chunk, &j);
        return;
    }
    j.per_chunk = sa_units_per_chunk(e->dim[e->rank - 1]);
    sa_parallel(r->threads, (e->rows + j.per_chunk - 1) / j.per_chunk, rows_chunk, &j);
}
