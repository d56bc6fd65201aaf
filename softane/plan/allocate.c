// SPDX-License-Identifier: MIT
/* allocate.c - lifetimes -> offsets in one workspace.
 *
 * A slot lives from the first step that writes it to the last that reads it.
 * Steps are walked in order; a slot that begins takes the smallest hole that
 * fits (recently freed memory is still in cache), a slot that ended leaves a
 * hole. An elementwise step may compute in the place of an operand that dies
 * with it. A pass of several steps counts as one: all its memory is alive at
 * once, because it runs block by block. Parallel chunks of one step never meet the next step's memory,
 * because a step ends before the next begins. */
#include <stdlib.h>
#include <string.h>

#include "steps.h"

/* ============================== Holes ===================================== */

typedef struct {
    size_t at, bytes;
} Hole;

typedef struct {
    Hole *list;      /* by address, never adjacent */
    int n;
    size_t end;      /* everything from here on is free */
} Space;

static void hole_remove(Space *s, int i) {
    memmove(&s->list[i], &s->list[i + 1], (size_t)(s->n - i - 1) * sizeof *s->list);
    s->n--;
}

static size_t space_take(Space *s, size_t bytes) {
    int best = -1;
    for (int i = 0; i < s->n; i++)
        if (s->list[i].bytes >= bytes && (best < 0 || s->list[i].bytes < s->list[best].bytes))
            best = i;
    if (best < 0) {
        int last = s->n - 1;
        size_t at = s->end;
        if (last >= 0 && s->list[last].at + s->list[last].bytes == s->end) { /* stretch the last hole */
            at = s->list[last].at;
            s->n--;
        }
        s->end = at + bytes;
        return at;
    }
    Hole *h = &s->list[best];
    size_t at = h->at;
    h->at += bytes;
    h->bytes -= bytes;
    if (h->bytes == 0)
        hole_remove(s, best);
    return at;
}

/* There are never more holes than slots plus one, the list's capacity. */
static void space_give(Space *s, size_t at, size_t bytes) {
    int i = 0;
    while (i < s->n && s->list[i].at < at)
        i++;
    bool before = i > 0 && s->list[i - 1].at + s->list[i - 1].bytes == at;
    bool behind = i < s->n && at + bytes == s->list[i].at;
    if (before && behind) {
        s->list[i - 1].bytes += bytes + s->list[i].bytes;
        hole_remove(s, i);
    } else if (before) {
        s->list[i - 1].bytes += bytes;
    } else if (behind) {
        s->list[i].at = at;
        s->list[i].bytes += bytes;
    } else {
        memmove(&s->list[i + 1], &s->list[i], (size_t)(s->n - i) * sizeof *s->list);
        s->list[i] = (Hole){at, bytes};
        s->n++;
    }
}

/* ============================== Lifetimes ================================= */

typedef struct {
    int first, last;   /* steps; first = -1: before all, last = n_steps: after all */
    size_t at;
    bool seen, placed, handed_on;
} Life;

static void touch(Life *lives, const SaRef *ref, int step) {
    if (ref->fixed || ref->slot < 0)
        return;
    Life *l = &lives[ref->slot];
    if (!l->seen || step < l->first)
        l->first = step;
    if (!l->seen || step > l->last)
        l->last = step;
    l->seen = true;
}

static void find_lives(const SaProc *proc, const SaSlot *slots, int n_slots, Life *lives) {
    for (int i = 0, at = 0; i < proc->n_steps; i++) {
        const SaStep *s = &proc->steps[i];
        at = s->pass ? i : at; /* a pass happens at its first step */
        for (int k = 0; k < s->n_in; k++)
            if (!s->in_reg[k])
                touch(lives, &s->in[k], at);
        if (!s->out_reg)
            touch(lives, &s->out, at);
        touch(lives, &s->scratch, at);
    }
    for (int i = 0; i < n_slots; i++) {
        SaRef self = {.slot = i};
        if (slots[i].from_start)
            touch(lives, &self, -1);
        if (slots[i].to_end)
            touch(lives, &self, proc->n_steps);
    }
}

/* May the result of step `i` lie where `slot` lies? Not when somebody in the
 * pass that begins at `first` reads it after i wrote there, or otherwise than
 * the result is written. */
static bool read_alike(const SaProc *proc, int first, int i, int slot) {
    for (int m = first; m < first + proc->steps[first].pass; m++) {
        const SaStep *s = &proc->steps[m];
        if (m > i && !s->out_reg && s->out.slot == slot)
            return false;
        for (int k = 0; k < s->n_in; k++)
            if (!s->in_reg[k] && !s->in[k].fixed && s->in[k].slot == slot &&
                (m > i || s->in[k].offset != 0 || !sa_elem_alike(&s->u.elem, k)))
                return false;
    }
    return true;
}

/* The operand whose memory the result of step `i` may take over, or -1: it
 * dies here, has the result's size, and whoever else reads its slot in this
 * pass reads it alike. */
static int heir_of(const SaProc *proc, const SaSlot *slots, const Life *lives, int first, int i) {
    const SaStep *s = &proc->steps[i];
    if (!s->in_place_ok || s->out_reg || s->out.offset != 0 || slots[s->out.slot].shared || lives[s->out.slot].first != first ||
        lives[s->out.slot].placed)
        return -1;
    for (int k = 0; k < s->n_in; k++) {
        const SaRef *r = &s->in[k];
        if (s->in_reg[k] || r->fixed || r->offset != 0 || r->slot == s->out.slot)
            continue;
        const Life *l = &lives[r->slot];
        if (l->last == first && l->placed && !l->handed_on && !slots[r->slot].shared &&
            slots[r->slot].bytes == slots[s->out.slot].bytes && read_alike(proc, first, i, r->slot))
            return r->slot;
    }
    return -1;
}

static void begin(Space *space, const SaSlot *slots, Life *lives, int slot) {
    Life *l = &lives[slot];
    if (l->placed)
        return;
    l->at = space_take(space, slots[slot].bytes);
    l->placed = true;
}

static void finish(Space *space, const SaSlot *slots, Life *lives, int slot) {
    Life *l = &lives[slot];
    if (!l->placed || l->handed_on)
        return;
    l->handed_on = true; /* freed once */
    space_give(space, l->at, slots[slot].bytes);
}

/* Step `i` and those in one pass with it. */
static void place_pass(const SaProc *proc, const SaSlot *slots, Life *lives, Space *space, int i) {
    int end = i + proc->steps[i].pass;
    for (int m = i; m < end; m++) {
        const SaStep *s = &proc->steps[m];
        int heir = heir_of(proc, slots, lives, i, m);
        if (heir >= 0) {
            lives[s->out.slot].at = lives[heir].at;
            lives[s->out.slot].placed = true;
            lives[heir].handed_on = true;
        }
        if (!s->out_reg)
            begin(space, slots, lives, s->out.slot);
        if (s->scratch.slot >= 0)
            begin(space, slots, lives, s->scratch.slot);
    }
    for (int m = i; m < end; m++) {
        const SaStep *s = &proc->steps[m];
        const SaRef *refs[5] = {&s->in[0], &s->in[1], &s->in[2], &s->scratch, &s->out};
        for (int k = 0; k < 5; k++)
            if (!refs[k]->fixed && refs[k]->slot >= 0 && (k >= 3 || k < s->n_in) && lives[refs[k]->slot].last == i)
                finish(space, slots, lives, refs[k]->slot);
    }
}

static void resolve(SaRef *ref, const Life *lives) {
    if (!ref->fixed && ref->slot >= 0)
        ref->offset += lives[ref->slot].at;
}

/* ============================== Placement ================================= */

/* Slots that ports are loaded into begin before all steps; those that are
 * stored from are kept to the end. */
SaStatus sa_slots_place(SaProc *proc, const SaSlot *slots, int n_slots, size_t *bytes) {
    Life *lives = sa_malloc((size_t)(n_slots + 1) * sizeof *lives);
    Hole *holes = sa_malloc((size_t)(n_slots + 2) * sizeof *holes);
    if (!lives || !holes) {
        sa_free(lives);
        sa_free(holes);
        return SA_E_MEMORY;
    }
    Space space = {.list = holes};
    find_lives(proc, slots, n_slots, lives);
    for (int i = 0; i < n_slots; i++)
        if (slots[i].from_start)
            begin(&space, slots, lives, i);
    for (int i = 0; i < proc->n_steps; i += proc->steps[i].pass)
        place_pass(proc, slots, lives, &space, i);
    for (int i = 0; i < proc->n_steps; i++) {
        SaStep *s = &proc->steps[i];
        for (int k = 0; k < s->n_in; k++)
            resolve(&s->in[k], lives);
        resolve(&s->out, lives);
        resolve(&s->scratch, lives);
    }
    for (int i = 0; i < proc->n_inputs; i++)
        resolve(&proc->in_ref[i], lives);
    for (int i = 0; i < proc->n_outputs; i++)
        resolve(&proc->out_ref[i], lives);
    *bytes = space.end;
    sa_free(lives);
    sa_free(holes);
    return SA_OK;
}
