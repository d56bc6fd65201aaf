// SPDX-License-Identifier: MIT
/* _core_single.m - one program by a handle of its own (ane_program_*), and closing handles.
 *
 * For callers without a scheduler: the handle holds its source, its one kernel, and one reference
 * to the shared program of _core_program.m, with how far this owner has brought it. Every step is
 * that file's; nothing is said to the engine here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#import "_core_door.h"

/* ============================== Handles =================================== */

/* What a program handle names: its source and its one kernel, the shared program and
 * how far this owner has brought it. */
typedef struct {
    AneObject object;
    pthread_mutex_t lock;
    AneSourceDef source;
    AneKernelDef kernel;
    AneProgram *program;
    AneCost cost;
    int32_t state; /* AneProgramInfo.state */
    void *request; /* of the last evaluation, with its surfaces */
    AneSurface **bound;
} ProgramRef;

static void drop_request(ProgramRef *r) {
    ane_request_free(r->request);
    r->request = NULL;
    for (int32_t i = 0; r->bound && i < r->kernel.n_inputs + r->kernel.n_outputs; i++)
        ane_object_release((AneObject *)r->bound[i]);
    free(r->bound);
    r->bound = NULL;
}

static void destroy_ref(AneObject *o) {
    ProgramRef *r = (ProgramRef *)o;
    drop_request(r);
    if (r->state == 2)
        ane_prog_unload(r->program, 21, NULL);
    ane_prog_release(r->program);
    ane_source_free(&r->source);
    ane_kernel_free(&r->kernel);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

int ane_program_create(const AneSource *source, const AneKernel *kernel, const void *const *weights, int32_t n_weights,
                       AneHandle *out, AneError *err) {
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    if (!source || !kernel)
        return ane_error_set(err, ANE_E_ARG, "a program needs a source and a kernel");
    ProgramRef *r = calloc(1, sizeof *r);
    if (!r)
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for a program");
    ane_object_init(&r->object, ANE_KIND_PROGRAM, destroy_ref);
    pthread_mutex_init(&r->lock, NULL);
    status = ane_source_copy(source, n_weights, &r->source, err);
    if (status == ANE_OK)
        status = ane_kernel_copy(kernel, 1, &r->kernel, err);
    if (status == ANE_OK)
        status = ane_prog_acquire(&r->source, weights, NULL, false, &r->program, &r->cost, err);
    if (status == ANE_OK)
        status = ane_handle_new(&r->object, out, err);
    if (status != ANE_OK)
        ane_object_release(&r->object);
    return status;
}

/* Look the handle up and lock it; every use ends with done(). */
static int program_ref(AneHandle program, ProgramRef **out, AneError *err) {
    int status = ane_handle_get(program, ANE_KIND_PROGRAM, (void **)out, err);
    if (status == ANE_OK)
        pthread_mutex_lock(&(*out)->lock);
    return status;
}

static int done(ProgramRef *r, int status) {
    pthread_mutex_unlock(&r->lock);
    ane_object_release(&r->object);
    return status;
}

/* ============================== Steps ===================================== */

int ane_program_compile(AneHandle program, uint32_t qos, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    if (r->state != 0)
        return done(r, r->state == 1 ? ANE_OK : ane_error_set(err, ANE_E_STATE, "compile: this program was loaded before"));
    status = ane_prog_compile(r->program, qos, false, &r->cost, err);
    if (status == ANE_OK)
        r->state = 1;
    return done(r, status);
}

int ane_program_load(AneHandle program, uint32_t qos, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    if (r->state >= 2)
        return done(r, ane_error_set(err, ANE_E_STATE, "load: this program is loaded or was unloaded"));
    status = ane_prog_load(r->program, qos, false, &r->cost, err);
    if (status == ANE_OK)
        r->state = 2;
    return done(r, status);
}

int ane_program_unload(AneHandle program, uint32_t qos, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    if (r->state != 2)
        return done(r, ane_error_set(err, ANE_E_STATE, "unload: this program is not loaded"));
    drop_request(r);
    r->state = 3;
    return done(r, ane_prog_unload(r->program, qos, err));
}

/* ============================== Questions ================================= */

int ane_program_info(AneHandle program, AneProgramInfo *out, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    memset(out, 0, sizeof *out);
    snprintf(out->identity, sizeof out->identity, "%s", r->program->identity);
    out->state = r->state;
    pthread_mutex_lock(&r->program->life);
    out->cached = r->program->cached || r->cost.reused;
    const AneProcedure *f;
    if (ane_find_procedure(r->program, &r->kernel, &f, NULL) == ANE_OK) {
        out->n_inputs = f->n_symbols[0];
        out->n_outputs = f->n_symbols[1];
    }
    pthread_mutex_unlock(&r->program->life);
    out->bake_ns = r->cost.bake_ns;
    out->compile_ns = r->cost.compile_ns;
    out->load_ns = r->cost.load_ns;
    return done(r, ANE_OK);
}

int ane_program_symbol(AneHandle program, int32_t is_output, int32_t i, char *buf, size_t cap, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    int side = is_output ? 1 : 0;
    const AneProcedure *f = NULL;
    if (r->state != 2)
        status = ane_error_set(err, ANE_E_STATE, "symbols are known once the program is loaded");
    else
        status = ane_find_procedure(r->program, &r->kernel, &f, err);
    if (f && (i < 0 || i >= f->n_symbols[side]))
        status = ane_error_set(err, ANE_E_ARG, "symbol %d of %d", i, f->n_symbols[side]);
    else if (f)
        snprintf(buf, cap, "%s", f->symbol[side][i]);
    return done(r, status);
}

/* ============================== Evaluation ================================ */

/* Retain the surfaces of one side; each must fit its port. */
static int take_surfaces(const AnePortDef *ports, const AneHandle *handles, int32_t n, AneSurface **out, AneError *err) {
    for (int32_t i = 0; i < n; i++) {
        int status = ane_handle_get(handles[i], ANE_KIND_SURFACE, (void **)&out[i], err);
        if (status != ANE_OK)
            return status;
        AneSurfaceInfo want;
        ane_port_layout(&ports[i], &want);
        const AneSurfaceInfo *got = &out[i]->info;
        if (got->dtype != want.dtype || got->n != want.n || got->c != want.c || got->h != want.h || got->w != want.w)
            return ane_error_set(err, ANE_E_ARG, "port '%s': expected [%lld, %lld, %lld, %lld], got a surface of [%lld, %lld, %lld, %lld]",
                                 ports[i].name, (long long)want.n, (long long)want.c, (long long)want.h, (long long)want.w,
                                 (long long)got->n, (long long)got->c, (long long)got->h, (long long)got->w);
    }
    return ANE_OK;
}

int ane_program_eval(AneHandle program, const AneHandle *inputs, int32_t n_inputs, const AneHandle *outputs, int32_t n_outputs,
                     uint32_t qos, AneError *err) {
    ProgramRef *r;
    int status = program_ref(program, &r, err);
    if (status != ANE_OK)
        return status;
    const AneKernelDef *k = &r->kernel;
    if (r->state != 2)
        return done(r, ane_error_set(err, ANE_E_STATE, "evaluate: this program is not loaded"));
    if (n_inputs != k->n_inputs || n_outputs != k->n_outputs || !inputs || !outputs)
        return done(r, ane_error_set(err, ANE_E_ARG, "kernel '%s' has %d inputs and %d outputs, got %d and %d", k->name,
                                     k->n_inputs, k->n_outputs, n_inputs, n_outputs));
    size_t n = (size_t)(n_inputs + n_outputs);
    AneSurface **surfaces = calloc(n, sizeof *surfaces);
    if (!surfaces)
        return done(r, ane_error_set(err, ANE_E_MEMORY, "out of memory for a request"));
    status = take_surfaces(k->inputs, inputs, n_inputs, surfaces, err);
    if (status == ANE_OK)
        status = take_surfaces(k->outputs, outputs, n_outputs, surfaces + n_inputs, err);
    bool same = r->bound && status == ANE_OK && memcmp(r->bound, surfaces, n * sizeof *surfaces) == 0;
    if (status != ANE_OK || same) {
        for (size_t i = 0; i < n; i++)
            ane_object_release((AneObject *)surfaces[i]);
        free(surfaces);
    } else { /* requests cannot be rebound: make a new one and keep it with its surfaces */
        drop_request(r);
        r->bound = surfaces;
        status = ane_request_make(r->program, k, surfaces, surfaces + n_inputs, &r->request, err);
        if (status != ANE_OK)
            drop_request(r);
    }
    if (status == ANE_OK)
        status = ane_prog_eval(r->program, r->request, qos, NULL, err);
    return done(r, status);
}

/* ============================== Closing =================================== */

int ane_close(AneHandle handle, AneError *err) {
    AneObject *o;
    int status = ane_handle_take(handle, ANE_KIND_PROGRAM, &o, NULL);
    if (status == ANE_E_CLOSED)
        status = ane_handle_take(handle, ANE_KIND_SURFACE, &o, err);
    if (status == ANE_OK)
        ane_object_release(o);
    return status == ANE_E_FORKED ? ane_guard(err) : status;
}
