// SPDX-License-Identifier: MIT
/* _core_canary.c - the first evaluation of a new program, before it may train.
 *
 * It runs on surfaces of its own (never those the active set is using), on the
 * compile queue. It shows that the program loaded is one that writes all its
 * outputs with finite values; it does not show that they are right.
 *
 * Its inputs have nothing to do with each other, so that a sound program may
 * leave fp16's range on them. What is not finite is therefore looked at again:
 * the same inputs must give the same bits (else the engine is at fault), and
 * then some smaller inputs must give finite results (else the weights are). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

/* Values no operation objects to: positive, small, not all alike. */
static float canary_value(size_t i) { return 0.05f + (float)(i * 2654435761u >> 22 & 255) * (0.2f / 255); }

/* What they are multiplied with, as powers of two, in the order they are tried. The backward of a
 * model is linear in its adjoints, which come first; then taps, which meet in products and in sums
 * over all tokens (probabilities of attention that do not add up to 1). The usual size is tried
 * first because bad weights show best there: where an engine takes infinity times 0 as nothing,
 * what has become 0 on the way hides them. */
enum { RUNGS = 3 };
typedef struct {
    int inputs, adjoints;
} Rung;
static const Rung FORWARD[RUNGS] = {{0, 0}, {-4, 0}, {-8, 0}}, BACKWARD[RUNGS] = {{0, -6}, {-4, 0}, {-10, -6}};

static const Rung *rungs_of(const AneKernelDef *k) {
    for (int32_t i = 0; i < k->n_inputs; i++)
        if (k->inputs[i].adjoint)
            return BACKWARD;
    return FORWARD;
}

#define UNWRITTEN_F16 0x7D5Au     /* a NaN no operation produces */
#define UNWRITTEN_F32 0x7FA5A5A5u

/* A scratch surface with this port's layout that the kernel at hand does not use yet. */
static AneSurface *take_scratch(AneSched *s, const AnePortDef *port, AneError *err) {
    AneSurfaceInfo want;
    ane_port_layout(port, &want);
    for (int32_t i = 0; i < s->n_scratch; i++) {
        const AneSurfaceInfo *have = ane_surface_layout(s->scratch[i].surface);
        bool same = have->dtype == want.dtype && have->n == want.n && have->c == want.c && have->h == want.h && have->w == want.w;
        if (!s->scratch[i].used && same) { /* the bytes alone would do, but a port is checked by its layout */
            s->scratch[i].used = true;
            return s->scratch[i].surface;
        }
    }
    AneScratch *more = realloc(s->scratch, (size_t)(s->n_scratch + 1) * sizeof *more);
    if (!more) {
        ane_error_set(err, ANE_E_MEMORY, "out of memory for canaries");
        return NULL;
    }
    s->scratch = more;
    AneSurface *made;
    if (ane_surface_make(port, &made, err) != ANE_OK)
        return NULL;
    s->scratch[s->n_scratch++] = (AneScratch){made, true};
    return made;
}

static void fill_input(const AneSurfaceInfo *i, int exponent) {
    float factor = ldexpf(1.0f, exponent);
    if (i->dtype == ANE_F32) {
        float *f = i->base;
        for (size_t at = 0; at < i->bytes / 4; at++)
            f[at] = canary_value(at) * factor;
        return;
    }
    float line[1024];
    uint16_t *h = i->base;
    size_t n = i->bytes / 2;
    for (size_t at = 0; at < 1024; at++)
        line[at] = canary_value(at) * factor;
    for (size_t at = 0; at < n; at += 1024)
        ane_cpu_half_from_float(line, h + at, n - at < 1024 ? n - at : 1024);
}

static void mark_unwritten(const AneSurfaceInfo *i) {
    if (i->dtype == ANE_F32)
        for (size_t at = 0; at < i->bytes / 4; at++)
            ((uint32_t *)i->base)[at] = UNWRITTEN_F32;
    else
        for (size_t at = 0; at < i->bytes / 2; at++)
            ((uint16_t *)i->base)[at] = UNWRITTEN_F16;
}

/* First element of the tensor that was not written or is not finite, -1 when all are right. */
static int64_t first_bad(const AneSurfaceInfo *i, bool *unwritten) {
    int64_t rows = i->n * i->c * i->h;
    for (int64_t r = 0; r < rows; r++) {
        const char *row = (const char *)i->base + r * i->row_stride;
        for (int64_t x = 0; x < i->w; x++) {
            bool bad;
            if (i->dtype == ANE_F32) {
                uint32_t bits = ((const uint32_t *)(const void *)row)[x];
                bad = (bits & 0x7F800000u) == 0x7F800000u;
                *unwritten = bits == UNWRITTEN_F32;
            } else {
                uint16_t bits = ((const uint16_t *)(const void *)row)[x];
                bad = (bits & 0x7C00u) == 0x7C00u;
                *unwritten = bits == UNWRITTEN_F16;
            }
            if (bad)
                return r * i->w + x;
        }
    }
    return -1;
}

/* ANE_E_CANARY names the first output that is wrong; *unwritten where one was not written at all. */
static int check_outputs(const AneKernelDef *k, AneSurface *const *outputs, bool *unwritten, AneError *err) {
    int status = ANE_OK;
    for (int32_t o = 0; o < k->n_outputs && !*unwritten; o++) {
        int64_t at = first_bad(ane_surface_layout(outputs[o]), unwritten);
        if (at >= 0 && (status == ANE_OK || *unwritten))
            status = ane_error_set(err, ANE_E_CANARY, "first evaluation: output '%s' element %lld %s", k->outputs[o].name,
                                   (long long)at, *unwritten ? "was not written" : "is not finite");
    }
    return status;
}

#define FNV_BASIS 0xcbf29ce484222325u

/* FNV-1a over all results, without the padding of rows; goes on from `h`. */
static uint64_t digest_outputs(const AneKernelDef *k, AneSurface *const *outputs, uint64_t h) {
    for (int32_t o = 0; o < k->n_outputs; o++) {
        const AneSurfaceInfo *i = ane_surface_layout(outputs[o]);
        int64_t rows = i->n * i->c * i->h, halves = i->w * (i->dtype == ANE_F32 ? 2 : 1);
        for (int64_t r = 0; r < rows; r++) {
            const uint16_t *row = (const uint16_t *)(const void *)((const char *)i->base + r * i->row_stride);
            for (int64_t x = 0; x < halves; x++)
                h = (h ^ row[x]) * 0x100000001b3u;
        }
    }
    return h;
}

static bool same_side(const AnePortDef *a, int32_t n_a, const AnePortDef *b, int32_t n_b) {
    bool same = n_a == n_b;
    for (int32_t i = 0; same && i < n_a; i++) {
        AneSurfaceInfo x, y;
        ane_port_layout(&a[i], &x);
        ane_port_layout(&b[i], &y);
        same = x.dtype == y.dtype && x.n == y.n && x.c == y.c && x.h == y.h && x.w == y.w;
    }
    return same;
}

int ane_canary_tell_apart(AneSched *s, int32_t p, AneError *err) {
    for (int32_t b = s->first_kernel[p]; !s->told_apart[p] && b < s->n_kernels; b++) {
        const AneKernelDef *kb = &s->kernels[b];
        for (int32_t a = s->first_kernel[p]; kb->program == p && a < b; a++) {
            const AneKernelDef *ka = &s->kernels[a];
            if (ka->program != p || s->digests[a] != s->digests[b] || !ka->function || !kb->function ||
                strcmp(ka->function, kb->function) == 0 || !same_side(ka->inputs, ka->n_inputs, kb->inputs, kb->n_inputs) ||
                !same_side(ka->outputs, ka->n_outputs, kb->outputs, kb->n_outputs))
                continue;
            ane_error_set(err, ANE_E_CANARY,
                          "first evaluation: its procedure and that of kernel '%s' give the same results; the engine may run "
                          "one procedure for all",
                          ka->name);
            err->kernel = b;
            err->program = p;
            return ANE_E_CANARY;
        }
    }
    s->told_apart[p] = true;
    return ANE_OK;
}

/* ============================== The evaluations =========================== */

typedef struct {
    AneSched *sched;
    const AneKernelDef *kernel;
    AneProgram *program;
    void *request;
    AneSurface **inputs, **outputs;
} Canary;

static int take_ports(const Canary *c, AneError *err) {
    const AneKernelDef *k = c->kernel;
    for (int32_t i = 0; i < c->sched->n_scratch; i++)
        c->sched->scratch[i].used = false;
    for (int32_t i = 0; i < k->n_inputs; i++)
        if (!(c->inputs[i] = take_scratch(c->sched, &k->inputs[i], err)))
            return ANE_E_MEMORY;
    for (int32_t o = 0; o < k->n_outputs; o++)
        if (!(c->outputs[o] = take_scratch(c->sched, &k->outputs[o], err)))
            return ANE_E_MEMORY;
    return ANE_OK;
}

/* One evaluation with inputs of one size. */
static int evaluate(const Canary *c, Rung rung, bool *unwritten, AneError *err) {
    const AneKernelDef *k = c->kernel;
    for (int32_t i = 0; i < k->n_inputs; i++)
        fill_input(ane_surface_layout(c->inputs[i]), k->inputs[i].adjoint ? rung.adjoints : rung.inputs);
    for (int32_t o = 0; o < k->n_outputs; o++)
        mark_unwritten(ane_surface_layout(c->outputs[o]));
    AneMended mended = {false, false};
    int status = ane_prog_eval(c->program, c->request, c->sched->options.background_qos, &mended, err);
    ane_sched_count_mended(c->sched, mended);
    return status == ANE_OK ? check_outputs(k, c->outputs, unwritten, err) : status;
}

/* More about an error that was set. */
static int say(AneError *err, const char *more) {
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, "%s", more);
    return err->status;
}

/* As many evaluations as it takes: one, unless its results are not finite. The first rung is the
 * one that was right the last time. */
static int climb(const Canary *c, uint8_t *rung, uint64_t *digest, int64_t *repeats, AneError *err) {
    const Rung *rungs = rungs_of(c->kernel);
    uint64_t h = FNV_BASIS;
    for (int n = 0, first = *rung; n < RUNGS; n++) {
        bool unwritten = false;
        int at = (first + n) % RUNGS;
        int status = evaluate(c, rungs[at], &unwritten, err);
        *repeats += n > 0;
        if (status != ANE_OK && (status != ANE_E_CANARY || unwritten))
            return status;
        uint64_t before = h;
        h = digest_outputs(c->kernel, c->outputs, before);
        if (status == ANE_OK) {
            *rung = (uint8_t)at;
            *digest = h;
            return ANE_OK;
        }
        if (n > 0)
            continue;
        AneError again;
        status = evaluate(c, rungs[at], &unwritten, &again);
        ++*repeats;
        if (status != ANE_OK && (status != ANE_E_CANARY || unwritten)) {
            *err = again;
            return status;
        }
        if (digest_outputs(c->kernel, c->outputs, before) != h)
            return say(err, ", and the same evaluation again gives other results");
    }
    return say(err, ", nor with smaller inputs");
}

int ane_canary_run(AneSched *s, int32_t k, AneProgram *p, int64_t *repeats, AneError *err) {
    const AneKernelDef *def = &s->kernels[k];
    AneSurface **ports = calloc((size_t)(def->n_inputs + def->n_outputs), sizeof *ports);
    if (!ports)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for canaries");
    Canary c = {s, def, p, NULL, ports, ports + def->n_inputs};
    int status = take_ports(&c, err);
    if (status == ANE_OK)
        status = ane_request_make(p, def, c.inputs, c.outputs, &c.request, err);
    /* procedures whose digests are to be compared must have seen the same inputs */
    bool compared = s->options.tell_apart && s->kernels_of[def->program] > 1 && !s->told_apart[def->program];
    if (compared)
        s->rungs[k] = 0;
    if (status == ANE_OK)
        status = climb(&c, &s->rungs[k], &s->digests[k], repeats, err);
    ane_request_free(c.request);
    free(ports);
    return status;
}
