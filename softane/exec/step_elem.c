// SPDX-License-Identifier: MIT
/* step_elem.c - elementwise steps: broadcasting loops around the kernels.
 *
 * The result is cut into rows (the innermost collapsed axis) and rows into
 * blocks that stay in L1, because most operations are rounded in a second
 * pass over the block. Add, sub, mul and div round in their own loop. */
#include <string.h>

#include "exec.h"

enum { BLOCK = 2048 };

typedef struct {
    const SaRun *run;
    const SaStep *step;
    const float *in[3];
    float *out;
    int op;
    void (*round)(float *d, const float *s, size_t n); /* NULL: nothing to do */
    SaUnaryFn *unary;
    unsigned bits;         /* significant bits of a table function; 0 = all */
    SaBinaryFn *vv, *vs, *sv;
    bool rounded;          /* the binary kernel rounds by itself */
    size_t per_chunk;      /* rows, or blocks of the only row */
} ElemJob;

/* ============================== One block ================================= */

/* A broadcast operand of select as a vector. */
static const float *spread(float *tmp, const float *a, size_t step, size_t n) {
    if (step || n == 1)
        return a;
    for (size_t i = 0; i < n; i++)
        tmp[i] = *a;
    return tmp;
}

static void block(const ElemJob *j, float *d, const float *const a[3], const size_t step[3], size_t n) {
    const SaKernels *k = j->run->k;
    const SaElem *e = &j->step->u.elem;
    if (e->form == SA_ELEM_UNARY) {
        j->unary(d, a[0], e->p, n);
        if (j->bits)
            k->coarse(d, j->bits, n);
    } else if (e->form == SA_ELEM_BINARY) {
        SaBinaryFn *f = n == 1 || (step[0] && step[1]) ? j->vv : step[0] ? j->vs : j->sv;
        f(d, a[0], a[1], n);
    } else {
        float tmp[3][BLOCK];
        k->select(d, spread(tmp[0], a[0], step[0], n), spread(tmp[1], a[1], step[1], n),
                  spread(tmp[2], a[2], step[2], n), n);
    }
    if (j->round && !j->rounded)
        j->round(d, d, n);
}

/* n elements of a row, from pointers that already stand there. */
static void run_of(const ElemJob *j, float *d, const float *const from[3], const size_t step[3], size_t n) {
    size_t most = j->rounded ? n : BLOCK;
    for (size_t at = 0; at < n; at += most) {
        size_t k = n - at < most ? n - at : most;
        const float *a[3];
        for (int i = 0; i < 3; i++)
            a[i] = from[i] ? from[i] + at * step[i] : NULL;
        block(j, d + at, a, step, k);
    }
}

/* ============================== Chunks ==================================== */

/* Part of the only row. */
static void flat_chunk(void *context, size_t chunk) {
    const ElemJob *j = context;
    const SaElem *e = &j->step->u.elem;
    size_t at = chunk * SA_GRAIN, n = e->dim[0] - at < SA_GRAIN ? e->dim[0] - at : SA_GRAIN;
    const float *from[3];
    size_t step[3];
    for (int i = 0; i < 3; i++) {
        step[i] = i < e->n_in ? e->stride[i][0] : 0;
        from[i] = i < e->n_in ? j->in[i] + at * step[i] : NULL;
    }
    run_of(j, j->out + at, from, step, n);
}

/* Some whole rows. `index` counts like an odometer over the outer axes. */
static void rows_chunk(void *context, size_t chunk) {
    const ElemJob *j = context;
    const SaElem *e = &j->step->u.elem;
    int last = e->rank - 1;
    size_t index[SA_ELEM_RANK], step[3] = {0}, n = e->dim[last];
    size_t first = chunk * j->per_chunk, end = first + j->per_chunk < e->rows ? first + j->per_chunk : e->rows;
    const float *from[3] = {NULL};
    size_t rest = first;
    for (int a = last - 1; a >= 0; a--) {
        index[a] = rest % e->dim[a];
        rest /= e->dim[a];
    }
    for (int i = 0; i < e->n_in; i++) {
        step[i] = e->stride[i][last];
        from[i] = j->in[i];
        for (int a = 0; a < last; a++)
            from[i] += index[a] * e->stride[i][a];
    }
    for (size_t r = first; r < end; r++) {
        run_of(j, j->out + r * n, from, step, n);
        for (int a = last - 1; a >= 0; a--) {
            for (int i = 0; i < e->n_in; i++)
                from[i] += e->stride[i][a];
            if (++index[a] < e->dim[a])
                break;
            for (int i = 0; i < e->n_in; i++)
                from[i] -= e->stride[i][a] * e->dim[a];
            index[a] = 0;
        }
    }
}

void sa_step_elem(SaRun *r, const SaStep *s) {
    const SaElem *e = &s->u.elem;
    bool silicon = r->numerics == SA_NUMERICS_SILICON;
    SaStep kept;
    if (silicon && e->kept) { /* the scalar factor is dropped */
        kept = *s;
        kept.in[0] = s->in[e->kept - 1];
        kept.u.elem.form = SA_ELEM_UNARY;
        kept.u.elem.op = SA_U_COPY;
        kept.u.elem.n_in = 1;
        memcpy(kept.u.elem.stride[0], e->stride[e->kept - 1], sizeof e->stride[0]);
        s = &kept;
        e = &kept.u.elem;
    }
    SaRound round = sa_run_round(r, s->store);
    ElemJob j = {.run = r, .step = s, .out = sa_run_at(r, s->out)};
    for (int i = 0; i < e->n_in; i++)
        j.in[i] = sa_run_at(r, s->in[i]);
    j.op = r->numerics == SA_NUMERICS_IEEE ? e->op_ieee : e->op;
    j.round = round == SA_ROUND_NONE ? NULL : r->k->round[round];
    if (e->form == SA_ELEM_UNARY) {
        j.unary = silicon && r->k->odd[j.op] ? r->k->odd[j.op] : r->k->unary[j.op];
        if ((r->arithmetic & SA_RUN_COARSE) && r->numerics != SA_NUMERICS_IEEE && s->store == SA_STORE_HALF)
            j.bits = sa_table_bits((SaUnary)j.op);
    }
    if (e->form == SA_ELEM_BINARY) {
        j.rounded = round == SA_ROUND_AWAY && r->k->away_vv[j.op];
        j.vv = j.rounded ? r->k->away_vv[j.op] : r->k->binary_vv[j.op];
        j.vs = j.rounded ? r->k->away_vs[j.op] : r->k->binary_vs[j.op];
        j.sv = j.rounded ? r->k->away_sv[j.op] : r->k->binary_sv[j.op];
    }
    if (e->rows == 1) {
        sa_parallel(r->threads, (e->dim[0] + SA_GRAIN - 1) / SA_GRAIN, flat_chunk, &j);
        return;
    }
    j.per_chunk = sa_units_per_chunk(e->dim[e->rank - 1]);
    sa_parallel(r->threads, (e->rows + j.per_chunk - 1) / j.per_chunk, rows_chunk, &j);
}
