// SPDX-License-Identifier: MIT
/* _core_set.c - what a scheduler knows from its making to its end: the sources of
 * the programs, the kernels and their programs, one surface for each port. A wired
 * input has none of its own: it is the output, or the other input, it is wired to. */
#include <stdlib.h>
#include <string.h>

#include "_core_sched.h"

/* ============================== Descriptions ============================== */

/* Every file says the same of a weight's elements. */
static int check_dtype(AneSched *s, const AneSourceDef *source, const AneBlobDef *d, int32_t weight, int32_t dtype, AneError *err) {
    if (s->weight_dtypes[weight] && s->weight_dtypes[weight] != dtype)
        return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: weight %d is of dtype %d here and of %d elsewhere", source->name,
                             d->path, weight, dtype, s->weight_dtypes[weight]);
    s->weight_dtypes[weight] = dtype;
    return ANE_OK;
}

/* A weight has as many elements as every file that is baked from it, a scale has one. */
static int check_counts(AneSched *s, const AneSourceDef *source, AneError *err) {
    for (int32_t b = 0; b < source->n_blobs; b++) {
        const AneBlobDef *d = &source->blobs[b];
        if (d->weight >= 0 && d->rows * d->cols != s->weight_counts[d->weight])
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: %lld x %lld elements, the weight has %lld", source->name,
                                 d->path, (long long)d->rows, (long long)d->cols, (long long)s->weight_counts[d->weight]);
        if (d->scale >= 0 && s->weight_counts[d->scale] != 1)
            return ane_error_set(err, ANE_E_ARG, "kernel '%s', %s: its scale has %lld elements, expected 1", source->name, d->path,
                                 (long long)s->weight_counts[d->scale]);
        int status = d->weight >= 0 ? check_dtype(s, source, d, d->weight, d->dtype, err) : ANE_OK;
        if (status == ANE_OK && d->scale >= 0)
            status = check_dtype(s, source, d, d->scale, ANE_F32, err);
        if (status != ANE_OK)
            return status;
    }
    return ANE_OK;
}

static int copy_sources(AneSched *s, const AneSource *sources, AneError *err) {
    if (!(s->sources = calloc((size_t)s->n_programs, sizeof *s->sources)) ||
        !(s->first_kernel = malloc((size_t)s->n_programs * sizeof *s->first_kernel)) ||
        !(s->kernels_of = calloc((size_t)s->n_programs, sizeof *s->kernels_of)) ||
        !(s->told_apart = calloc((size_t)s->n_programs, sizeof *s->told_apart)) ||
        !(s->digests = calloc((size_t)s->n_kernels, sizeof *s->digests)) ||
        !(s->rungs = calloc((size_t)s->n_kernels, sizeof *s->rungs)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for sources");
    for (int32_t p = 0; p < s->n_programs; p++) {
        s->first_kernel[p] = -1;
        int status = ane_source_copy(&sources[p], s->n_weights, &s->sources[p], err);
        if (status == ANE_OK)
            status = check_counts(s, &s->sources[p], err);
        if (status != ANE_OK)
            return status;
    }
    return ANE_OK;
}

static int copy_kernels(AneSched *s, const AneKernel *kernels, AneError *err) {
    if (!(s->kernels = calloc((size_t)s->n_kernels, sizeof *s->kernels)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for kernels");
    for (int32_t k = 0; k < s->n_kernels; k++) {
        int status = ane_kernel_copy(&kernels[k], s->n_programs, &s->kernels[k], err);
        if (status != ANE_OK)
            return status;
        for (int32_t j = 0; j < k; j++)
            if (strcmp(s->kernels[j].name, s->kernels[k].name) == 0)
                return ane_error_set(err, ANE_E_ARG, "two kernels are named '%s'", s->kernels[k].name);
        int32_t p = s->kernels[k].program;
        if (s->kernels_of[p]++ == 0)
            s->first_kernel[p] = k;
    }
    for (int32_t p = 0; p < s->n_programs; p++)
        if (s->kernels_of[p] == 0)
            return ane_error_set(err, ANE_E_ARG, "program '%s' has no kernel", s->sources[p].name);
    return ANE_OK;
}

/* ============================== Surfaces ================================== */

/* A surface with a handle, or for a wired input its source's. */
static int make_port(AneSched *s, const AnePortDef *port, AneSurface *source, AneSurface **surface, AneHandle *handle,
                     AneError *err) {
    int status = ANE_OK;
    (void)s;
    if (source) {
        ane_object_retain(ane_surface_object(source));
        *surface = source;
    } else {
        status = ane_surface_make(port, surface, err);
    }
    if (status != ANE_OK)
        return status;
    ane_object_retain(ane_surface_object(*surface)); /* the handle's */
    status = ane_handle_new(ane_surface_object(*surface), handle, err);
    if (status != ANE_OK)
        ane_object_release(ane_surface_object(*surface));
    return status;
}

static int check_wire(const AneSched *s, const AneWire *w, AneError *err) {
    bool inside = w->from >= 0 && w->from < s->n_kernels && w->to >= 0 && w->to < s->n_kernels && w->output >= 0 && w->input >= 0;
    inside = inside && w->output < (w->shared ? s->kernels[w->from].n_inputs : s->kernels[w->from].n_outputs);
    if (!inside || w->input >= s->kernels[w->to].n_inputs)
        return ane_error_set(err, ANE_E_ARG, "a wire names a kernel or port that does not exist");
    AneSurfaceInfo a, b;
    const AnePortDef *side = w->shared ? s->kernels[w->from].inputs : s->kernels[w->from].outputs;
    const AnePortDef *from = &side[w->output], *to = &s->kernels[w->to].inputs[w->input];
    ane_port_layout(from, &a);
    ane_port_layout(to, &b);
    if (a.dtype != b.dtype || a.n != b.n || a.c != b.c || a.h != b.h || a.w != b.w)
        return ane_error_set(err, ANE_E_ARG, "wire %s.%s -> %s.%s: shapes or dtypes differ", s->kernels[w->from].name, from->name,
                             s->kernels[w->to].name, to->name);
    return ANE_OK;
}

/* Give the wire's target the surface of its source; an input that is shared gets one here. */
static int make_wire(AneSched *s, const AneWire *w, AneError *err) {
    int status = check_wire(s, w, err);
    if (status != ANE_OK)
        return status;
    const AneKernelDef *from = &s->kernels[w->from], *to = &s->kernels[w->to];
    if (s->inputs[w->to][w->input])
        return ane_error_set(err, ANE_E_ARG, "input '%s' of kernel '%s' is wired twice", to->inputs[w->input].name, to->name);
    if (w->shared && w->from == w->to && w->output == w->input)
        return ane_error_set(err, ANE_E_ARG, "input '%s' of kernel '%s' is wired to itself", to->inputs[w->input].name, to->name);
    if (w->shared && !s->inputs[w->from][w->output])
        status = make_port(s, &from->inputs[w->output], NULL, &s->inputs[w->from][w->output], &s->input_handles[w->from][w->output], err);
    if (status != ANE_OK)
        return status;
    AneSurface *source = w->shared ? s->inputs[w->from][w->output] : s->outputs[w->from][w->output];
    return make_port(s, NULL, source, &s->inputs[w->to][w->input], &s->input_handles[w->to][w->input], err);
}

static int make_surfaces(AneSched *s, const AneWire *wires, int32_t n_wires, AneError *err) {
    size_t n = (size_t)s->n_kernels;
    s->inputs = calloc(n, sizeof *s->inputs);
    s->outputs = calloc(n, sizeof *s->outputs);
    s->input_handles = calloc(n, sizeof *s->input_handles);
    s->output_handles = calloc(n, sizeof *s->output_handles);
    if (!s->inputs || !s->outputs || !s->input_handles || !s->output_handles)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for surfaces");
    for (int32_t k = 0; k < s->n_kernels; k++) {
        size_t n_in = (size_t)s->kernels[k].n_inputs, n_out = (size_t)s->kernels[k].n_outputs;
        s->inputs[k] = calloc(n_in, sizeof **s->inputs);
        s->outputs[k] = calloc(n_out, sizeof **s->outputs);
        s->input_handles[k] = calloc(n_in, sizeof **s->input_handles);
        s->output_handles[k] = calloc(n_out, sizeof **s->output_handles);
        if (!s->inputs[k] || !s->outputs[k] || !s->input_handles[k] || !s->output_handles[k])
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for surfaces");
        for (size_t i = 0; i < n_out; i++) {
            int status = make_port(s, &s->kernels[k].outputs[i], NULL, &s->outputs[k][i], &s->output_handles[k][i], err);
            if (status != ANE_OK)
                return status;
        }
    }
    for (int shared = 0; shared < 2; shared++) /* inputs of inputs last: their sources have surfaces by then */
        for (int32_t w = 0; w < n_wires; w++) {
            if ((wires[w].shared != 0) != (shared != 0))
                continue;
            int status = make_wire(s, &wires[w], err);
            if (status != ANE_OK)
                return status;
        }
    for (int32_t k = 0; k < s->n_kernels; k++)
        for (int32_t i = 0; i < s->kernels[k].n_inputs; i++) {
            if (s->inputs[k][i])
                continue;
            int status = make_port(s, &s->kernels[k].inputs[i], NULL, &s->inputs[k][i], &s->input_handles[k][i], err);
            if (status != ANE_OK)
                return status;
        }
    return ANE_OK;
}

/* Close the handles of one side's surfaces; wired inputs have none of their own. */
static void free_surfaces(AneSched *s) {
    for (int32_t k = 0; s->kernels && k < s->n_kernels; k++)
        for (int side = 0; side < 2; side++) {
            AneSurface **surfaces = side ? (s->outputs ? s->outputs[k] : NULL) : (s->inputs ? s->inputs[k] : NULL);
            AneHandle *handles = side ? (s->output_handles ? s->output_handles[k] : NULL)
                                      : (s->input_handles ? s->input_handles[k] : NULL);
            int32_t n = side ? s->kernels[k].n_outputs : s->kernels[k].n_inputs;
            for (int32_t i = 0; surfaces && handles && i < n; i++) {
                AneObject *o;
                if (handles[i] && ane_handle_take(handles[i], ANE_KIND_SURFACE, &o, NULL) == ANE_OK)
                    ane_object_release(o);
                if (surfaces[i])
                    ane_object_release(ane_surface_object(surfaces[i]));
            }
            free(surfaces);
            free(handles);
        }
    free(s->inputs);
    free(s->outputs);
    free(s->input_handles);
    free(s->output_handles);
}

/* ============================== Weights =================================== */

void ane_sched_snapshot(void *const *to, const void *const *from, const int64_t *bytes, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        memmove(to[i], from[i], (size_t)bytes[i]); /* may be the same array */
}

/* ============================== Both ====================================== */

int ane_set_make(AneSched *s, const AneSource *sources, const AneKernel *kernels, const int64_t *weight_counts,
                 const AneWire *wires, int32_t n_wires, AneError *err) {
    if (!(s->weight_counts = calloc((size_t)s->n_weights + 1, sizeof *s->weight_counts)) ||
        !(s->weight_dtypes = calloc((size_t)s->n_weights + 1, sizeof *s->weight_dtypes)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a trainer");
    if (s->n_weights)
        memcpy(s->weight_counts, weight_counts, (size_t)s->n_weights * sizeof *weight_counts);
    int status = copy_sources(s, sources, err);
    if (status == ANE_OK)
        status = copy_kernels(s, kernels, err);
    if (status == ANE_OK)
        status = make_surfaces(s, wires, n_wires, err);
    return status;
}

void ane_set_free(AneSched *s) {
    free_surfaces(s);
    for (int32_t p = 0; s->sources && p < s->n_programs; p++)
        ane_source_free(&s->sources[p]);
    for (int32_t k = 0; s->kernels && k < s->n_kernels; k++)
        ane_kernel_free(&s->kernels[k]);
    free(s->sources);
    free(s->first_kernel);
    free(s->kernels_of);
    free(s->told_apart);
    free(s->digests);
    free(s->rungs);
    free(s->kernels);
    free(s->weight_counts);
    free(s->weight_dtypes);
}
