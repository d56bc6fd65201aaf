// SPDX-License-Identifier: MIT
/* fuse.c - neighbouring elementwise steps -> passes.
 *
 * A pass walks over memory once: for every block of some hundred elements all
 * its steps are done, each by the kernel it would have had alone and with the
 * rounding it would have had alone, so the bits are the same. What is gained is
 * the traffic: a value that only the pass reads never leaves the L1 cache.
 *
 * Steps join while they have the same number of elements and read what the
 * pass computes element by element: nothing is moved and nothing is reordered.
 * Broadcasts differ between steps, so loops are cut where any of them is. */
#include "steps.h"

enum { MIN_ROW = 32 }; /* elements: a pass is not worth it when its rows get shorter than this */

/* ============================== Loops ===================================== */

/* Products of the innermost 1, 2, … axes, ascending; the last is all elements. */
typedef struct {
    int n;
    size_t upto[SA_ELEM_RANK];
} Cuts;

static Cuts cuts_of(const SaElem *e) {
    Cuts c = {.n = e->rank};
    size_t all = 1;
    for (int i = 0; i < e->rank; i++)
        c.upto[i] = all *= e->dim[e->rank - 1 - i];
    return c;
}

/* Loops cut wherever a or b is. False when the cuts do not nest or are too many. */
static bool merge_cuts(const Cuts *a, const Cuts *b, Cuts *out) {
    int i = 0, k = 0;
    out->n = 0;
    while (i < a->n || k < b->n) {
        size_t next = k >= b->n || (i < a->n && a->upto[i] < b->upto[k]) ? a->upto[i] : b->upto[k];
        size_t before = out->n ? out->upto[out->n - 1] : 1;
        while (i < a->n && a->upto[i] == next)
            i++;
        while (k < b->n && b->upto[k] == next)
            k++;
        if (next == before && out->n) /* an axis of length 1 */
            continue;
        if (out->n == SA_ELEM_RANK || before == 0 || next % before)
            return false;
        out->upto[out->n++] = next;
    }
    return out->n > 0;
}

/* The same elements by other loops, which are cut at least where e's are. */
static void recut(SaElem *e, const Cuts *c) {
    SaElem old = *e;
    e->rank = c->n;
    e->rows = c->upto[c->n - 1] / c->upto[0];
    size_t before = 1, old_from = 1;
    int a = old.rank - 1;
    for (int i = 0; i < c->n; i++) {
        int to = c->n - 1 - i;
        while (a > 0 && before >= old_from * old.dim[a])
            old_from *= old.dim[a--];
        e->dim[to] = c->upto[i] / before;
        for (int k = 0; k < e->n_in; k++)
            e->stride[k][to] = e->dim[to] == 1 ? 0 : old.stride[k][a] * (before / old_from);
        before = c->upto[i];
    }
}

/* ============================== Who may join ============================== */

static bool joinable(const SaStep *s) {
    return s->kind == SA_STEP_ELEM && !s->attn_mask && s->count > 0 && s->u.elem.rank > 0 && !s->out.fixed && s->out.slot >= 0;
}

static bool in_slot(const SaRef *r, int slot) { return !r->fixed && r->slot == slot; }

/* Do the results of a and b share no byte, or all? */
static bool apart_or_same(const SaStep *a, const SaStep *b) {
    if (a->out.slot != b->out.slot || a->out.offset == b->out.offset)
        return true;
    size_t bytes = a->count * sizeof(float), lo = a->out.offset, hi = b->out.offset;
    return lo < hi ? hi - lo >= bytes : lo - hi >= bytes;
}

/* Can `s` follow the steps first .. before s in their pass? What is read of a
 * slot that the pass writes must be the very element the pass is at. */
static bool follows(const SaStep *first, const SaStep *s) {
    for (const SaStep *m = first; m < s; m++) {
        if (!apart_or_same(m, s))
            return false;
        for (int k = 0; k < s->n_in; k++)
            if (in_slot(&s->in[k], m->out.slot) && (s->in[k].offset != m->out.offset || !sa_elem_alike(&s->u.elem, k)))
                return false;
        for (int k = 0; k < m->n_in; k++)
            if (in_slot(&m->in[k], s->out.slot) && (m->in[k].offset != s->out.offset || !sa_elem_alike(&m->u.elem, k)))
                return false;
    }
    return true;
}

/* How many steps from `first` on make one pass, and by what loops. */
static int pass_length(const SaStep *first, int left, Cuts *cuts) {
    int n = 1;
    if (!joinable(first))
        return 1;
    *cuts = cuts_of(&first->u.elem);
    size_t shortest = cuts->upto[0];
    for (; n < left && n < SA_PASS_STEPS; n++) {
        const SaStep *s = &first[n];
        if (!joinable(s) || s->count != first->count || !follows(first, s))
            break;
        Cuts own = cuts_of(&s->u.elem), both;
        size_t row = own.upto[0] < shortest ? own.upto[0] : shortest;
        if (!merge_cuts(cuts, &own, &both) || (both.upto[0] < MIN_ROW && (both.upto[0] < row || cuts->upto[0] != own.upto[0])))
            break;
        *cuts = both;
        shortest = row;
    }
    return n;
}

/* ============================== Registers ================================= */

typedef struct {
    int first, last;   /* steps that name the slot */
} Span;

static void span_see(Span *spans, const SaRef *r, int step) {
    if (r->fixed || r->slot < 0)
        return;
    Span *s = &spans[r->slot];
    s->first = step < s->first ? step : s->first;
    s->last = step > s->last ? step : s->last;
}

static void find_spans(const SaProc *proc, const SaSlot *slots, int n_slots, Span *spans) {
    for (int i = 0; i < n_slots; i++)
        spans[i] = (Span){slots[i].from_start ? -1 : proc->n_steps, slots[i].to_end ? proc->n_steps : -1};
    for (int i = 0; i < proc->n_steps; i++) {
        const SaStep *s = &proc->steps[i];
        for (int k = 0; k < s->n_in; k++)
            span_see(spans, &s->in[k], i);
        span_see(spans, &s->out, i);
        span_see(spans, &s->scratch, i);
    }
}

/* The register that holds what `ref` names before step `at` of the pass; 0 = none. */
static int held_in(const SaStep *pass, int at, const SaRef *ref) {
    for (int m = at - 1; m >= 0 && !ref->fixed; m--)
        if (in_slot(ref, pass[m].out.slot) && ref->offset == pass[m].out.offset)
            return pass[m].out_reg;
    return 0;
}

/* The last step of the pass that reads what step `m` computes, or m. */
static int last_reader(const SaStep *pass, int n, int m) {
    int last = m;
    for (int i = m + 1; i < n; i++) {
        for (int k = 0; k < pass[i].n_in; k++)
            if (in_slot(&pass[i].in[k], pass[m].out.slot))
                last = i;
        if (pass[i].out.slot == pass[m].out.slot)
            break;
    }
    return last;
}

/* Registers for what lives inside the pass only. When all are taken, memory. */
static void assign_registers(const SaProc *proc, const SaSlot *slots, const Span *spans, int first, int n) {
    SaStep *pass = &proc->steps[first];
    int busy_until[SA_PASS_REGISTERS];
    for (int r = 0; r < SA_PASS_REGISTERS; r++)
        busy_until[r] = -1;
    for (int m = 0; m < n; m++) {
        SaStep *s = &pass[m];
        for (int k = 0; k < s->n_in; k++)
            s->in_reg[k] = held_in(pass, m, &s->in[k]);
        const Span *life = &spans[s->out.slot];
        if (life->first < first || life->last >= first + n || slots[s->out.slot].shared)
            continue;
        for (int r = 0; r < SA_PASS_REGISTERS && !s->out_reg; r++)
            if (busy_until[r] <= m) { /* one read here for the last time may be written here */
                s->out_reg = r + 1;
                busy_until[r] = last_reader(pass, n, m);
            }
    }
}

/* ============================== A procedure =============================== */

SaStatus sa_fuse(SaProc *proc, const SaSlot *slots, int n_slots) {
    Span *spans = sa_malloc((size_t)(n_slots + 1) * sizeof *spans);
    if (!spans)
        return SA_E_MEMORY;
    find_spans(proc, slots, n_slots, spans);
    for (int i = 0, n; i < proc->n_steps; i += n) {
        Cuts cuts;
        n = pass_length(&proc->steps[i], proc->n_steps - i, &cuts);
        if (n == 1)
            continue;
        assign_registers(proc, slots, spans, i, n);
        for (int m = 0; m < n; m++) {
            recut(&proc->steps[i + m].u.elem, &cuts);
            proc->steps[i + m].pass = m ? 0 : n;
        }
    }
    sa_free(spans);
    return SA_OK;
}
