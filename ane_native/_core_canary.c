// SPDX-License-Identifier: MIT
/* _core_canary.c - the first evaluation of a new program, before it may train.
 *
 * It runs on surfaces of its own (never those the active set is using), on the
 * compile queue. It shows that the program loaded is one that writes all its
 * outputs with finite values; it does not show that they are right. */
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

/* Values no operation objects to: positive, small, not all alike. */
static float canary_value(size_t i) { return 0.05f + (float)(i * 2654435761u >> 22 & 255) * (0.2f / 255); }

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

static void fill_input(const AneSurfaceInfo *i) {
    if (i->dtype == ANE_F32) {
        float *f = i->base;
        for (size_t at = 0; at < i->bytes / 4; at++)
            f[at] = canary_value(at);
        return;
    }
    float line[1024];
    uint16_t *h = i->base;
    size_t n = i->bytes / 2;
    for (size_t at = 0; at < 1024; at++)
        line[at] = canary_value(at);
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

static int check_outputs(const AneKernelDef *k, AneSurface *const *outputs, AneError *err) {
    for (int32_t o = 0; o < k->n_outputs; o++) {
        bool unwritten = false;
        int64_t at = first_bad(ane_surface_layout(outputs[o]), &unwritten);
        if (at >= 0)
            return ane_error_set(err, ANE_E_CANARY, "first evaluation: output '%s' element %lld %s", k->outputs[o].name,
                                 (long long)at, unwritten ? "was not written" : "is not finite");
    }
    return ANE_OK;
}

/* FNV-1a over all results, without the padding of rows. */
static uint64_t digest_outputs(const AneKernelDef *k, AneSurface *const *outputs) {
    uint64_t h = 0xcbf29ce484222325u;
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

/* Evaluate the new program once on surfaces of its own: every output must be
 * written and finite, else the program is not to be trusted. */
int ane_canary_run(AneSched *s, const AneKernelDef *k, AneProgram *p, uint64_t *digest, AneError *err) {
    AneSurface **ports = calloc((size_t)(k->n_inputs + k->n_outputs), sizeof *ports);
    if (!ports)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for canaries");
    for (int32_t i = 0; i < s->n_scratch; i++)
        s->scratch[i].used = false;
    int status = ANE_OK;
    AneSurface **outputs = ports + k->n_inputs;
    for (int32_t i = 0; i < k->n_inputs && status == ANE_OK; i++)
        if ((ports[i] = take_scratch(s, &k->inputs[i], err)))
            fill_input(ane_surface_layout(ports[i]));
        else
            status = ANE_E_MEMORY;
    for (int32_t o = 0; o < k->n_outputs && status == ANE_OK; o++)
        if ((outputs[o] = take_scratch(s, &k->outputs[o], err)))
            mark_unwritten(ane_surface_layout(outputs[o]));
        else
            status = ANE_E_MEMORY;
    void *request = NULL;
    AneMended mended = {false, false};
    if (status == ANE_OK)
        status = ane_request_make(p, k, ports, outputs, &request, err);
    if (status == ANE_OK)
        status = ane_prog_eval(p, request, s->options.background_qos, &mended, err);
    ane_sched_count_mended(s, mended);
    if (status == ANE_OK)
        status = check_outputs(k, outputs, err);
    if (status == ANE_OK)
        *digest = digest_outputs(k, outputs);
    ane_request_free(request);
    free(ports);
    return status;
}
