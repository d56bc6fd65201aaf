// SPDX-License-Identifier: MIT
/* _core_internal.h - what the C files of the core share and nobody else sees.
 *
 *   handles  (_core_handle.c)  numbers -> reference-counted objects, fork guard
 *   engine   (_core.m)         the door: programs, surfaces, requests, budget
 *   sched    (_core_sched.h)   uses the two above, plain C on GCD */
#ifndef ANE_NATIVE_CORE_INTERNAL_H
#define ANE_NATIVE_CORE_INTERNAL_H

#include <stdbool.h>

#include "_core.h"

/* ============================== Errors ==================================== */

/* Fill *err (may be NULL) with a status and a text of ours; return `status`. */
int ane_error_set(AneError *err, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void ane_error_clear(AneError *err);

/* ============================== Handles =================================== */

typedef enum { ANE_KIND_SURFACE = 1, ANE_KIND_PROGRAM = 2, ANE_KIND_SCHED = 3, ANE_KIND_POOL = 4 } AneKind;

/* First member of everything a handle can name. */
typedef struct AneObject {
    AneKind kind;
    int refs;                            /* atomic */
    void (*destroy)(struct AneObject *); /* called without locks when refs reaches 0 */
} AneObject;

void ane_object_init(AneObject *o, AneKind kind, void (*destroy)(AneObject *));
void ane_object_retain(AneObject *o);
void ane_object_release(AneObject *o); /* NULL is fine */

/* ANE_E_FORKED in a forked child, else ANE_OK. The first thing every entry point asks. */
int ane_guard(AneError *err);

/* Give out a handle; the table takes over one reference. */
int ane_handle_new(AneObject *o, AneHandle *out, AneError *err);
/* Look up and retain; ANE_E_CLOSED when it is not a live handle of `kind`. */
int ane_handle_get(AneHandle h, AneKind kind, void **out, AneError *err);
/* Take out of the table: the caller now owns the table's reference. kind 0: any. */
int ane_handle_take(AneHandle h, AneKind kind, AneObject **out, AneError *err);

/* ============================== Descriptions, copied ====================== */

typedef struct {
    char *name;
    int32_t dtype, rank;
    int64_t shape[4];
    bool adjoint;
} AnePortDef;

typedef struct {
    char *path;
    int32_t weight, transform;
    int32_t dtype; /* of the weight: ANE_F32 or ANE_F16 */
    int32_t scale; /* weight whose only element is the factor, -1: none */
    int64_t rows, cols;
    uint16_t *data_f16; /* constants only */
} AneBlobDef;

typedef struct {
    char *name, *mil;
    size_t mil_bytes;
    AneBlobDef *blobs;
    int32_t n_blobs;
} AneSourceDef;

typedef struct {
    char *name, *function; /* function: NULL when it is the program's only one */
    int32_t program;
    AnePortDef *inputs, *outputs;
    int32_t n_inputs, n_outputs;
} AneKernelDef;

/* Deep copies with every check a caller can fail; ANE_E_ARG names the part. */
int ane_source_copy(const AneSource *in, int32_t n_weights, AneSourceDef *out, AneError *err);
void ane_source_free(AneSourceDef *s);
int ane_kernel_copy(const AneKernel *in, int32_t n_sources, AneKernelDef *out, AneError *err);
void ane_kernel_free(AneKernelDef *k);

/* "@model_path/weights/NAME", NAME a plain file name. */
bool ane_blob_path_ok(const char *path);

/* Layout of a port as the engine lays it out (rows padded to 64 bytes). */
void ane_port_layout(const AnePortDef *port, AneSurfaceInfo *out);

/* ============================== The door (_core.m) ======================== */

typedef struct AneSurface AneSurface;
int ane_surface_make(const AnePortDef *port, AneSurface **out, AneError *err);
const AneSurfaceInfo *ane_surface_layout(const AneSurface *s);
AneObject *ane_surface_object(AneSurface *s);

/* A program as the engine knows it: one per identity, shared by all that bake
 * the same bytes, because the engine keeps one staging directory per identity. */
typedef struct AneProgram AneProgram;
struct AnePool;

typedef struct {
    uint64_t bake_ns; /* fp16 blobs and staging files */
    uint64_t compile_ns, load_ns;
    bool compiled; /* this call compiled it */
    bool reused;   /* it was loaded already */
    bool by_worker; /* a worker compiled it */
    int32_t worker; /* its process id; 0: it found it compiled */
    uint64_t worker_begin_ns, worker_stage_ns, worker_compile_ns;
    bool (*stop)(void *context); /* asked while waiting for a worker: give up? NULL: never */
    void *stop_context;
} AneCost;

/* A weight file: a head, then the fp16 elements. */
#define ANE_BLOB_HEAD 128
void ane_blob_head(uint8_t *out, size_t count); /* _core_update.c */
void *ane_file_alloc(size_t bytes);             /* _core_file.c; to be written at once, NULL when memory is short */
void ane_file_free(void *file);

/* Bake and find or make the program of these bytes; +1 reference in *out. `files` (or NULL): weight
 * files by blob that are ready, from malloc, NULL where not; those used are taken out. `shared`: in
 * memory a worker can map. */
int ane_prog_acquire(const AneSourceDef *source, const void *const *weights, void **files, bool shared, AneProgram **out,
                     AneCost *cost, AneError *err);
/* Have a worker compile it, unless the engine knows it (needs `shared` above). ane_prog_load()
 * waits for the worker, takes what it made, and compiles here only when no worker could. */
int ane_prog_begin(AneProgram *p, struct AnePool *pool, uint32_t qos, AneError *err);
/* The program works: forget how it was made. */
void ane_prog_settle(AneProgram *p);
/* A loaded program of a worker is of no use: unload it and have the same sources compiled
 * elsewhere. *out (+1 reference, not loaded) takes the place of `p`. ANE_SKIP: not a worker's. */
int ane_prog_remake(AneProgram *p, uint32_t qos, AneProgram **out, AneError *err);
/* Compile unless the engine knows the identity; `reserved`: the budget was reserved by the caller. */
int ane_prog_compile(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err);
/* Load (compiling first if needed); every success is matched by one ane_prog_unload. */
int ane_prog_load(AneProgram *p, uint32_t qos, bool reserved, AneCost *cost, AneError *err);
int ane_prog_unload(AneProgram *p, uint32_t qos, AneError *err);
void ane_prog_release(AneProgram *p);
const char *ane_prog_identity(const AneProgram *p);

/* A request binds surfaces to a procedure of a loaded program by name; checks names and layout. */
int ane_request_make(AneProgram *p, const AneKernelDef *k, AneSurface *const *inputs, AneSurface *const *outputs, void **out,
                     AneError *err);
void ane_request_free(void *request);
/* What had to be mended on the way to a result. */
typedef struct {
    bool retried;  /* the engine cancelled the evaluation: it was tried again */
    bool reloaded; /* the engine had lost the program: it was loaded again */
} AneMended;
/* `mended` (may be NULL) is added to. ANE_E_CANCELLED, ANE_E_LOST: see ane_program_eval. */
int ane_prog_eval(AneProgram *p, void *request, uint32_t qos, AneMended *mended, AneError *err);

/* Compile budget: reserve a whole set before its first compile, give back what was not used. */
int ane_budget_reserve(int64_t n, AneError *err);
void ane_budget_return(int64_t n);
void ane_budget_read(int64_t *used, int64_t *limit, int64_t *loaded);

/* A thread must call this before it reaches the door. */
void ane_core_thread_enter(void);

#endif
