// SPDX-License-Identifier: MIT
/* _cpu.c - the part of training that the engine does not do.
 *
 * Embedding, cross entropy, weight gradients, AdamW. Not here: anything a kernel
 * computes, and any policy (when to clip, what to skip): that is Python's.
 *
 * Work is cut by sizes alone, never by how many threads there are, and partial
 * sums are added in the order of the cuts: the same arguments give the same bits.
 * The BLAS is asked to stay on one thread; a BLAS with threads of its own loses
 * more than half its speed when a compile takes one core (measured), products cut
 * here and spread by GCD do not.
 *
 *   BLAS        dlopen, one symbol, one small product as a check
 *   Embedding   [V,D] fp32 or fp16 table -> [D,T] fp16, and back into fp32
 *   Loss        [V,T] fp16 logits -> float64 loss, fp16 dlogits
 *   Gradients   a GCD group; dw += dy x^T by sgemm, gains by row products
 *   Optimizer   sum of squares, AdamW in one pass
 *
 * All functions may be called from any thread. */
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "_core_internal.h"
#include "_cpu.h"
#include "_gcd.h"
#include "_half.h"

enum {
    LOOP_BLOCK = 256,      /* elements of the loops' local arrays; a multiple of 16 */
    XENT_COLS = 64,        /* columns of one block of the loss: two cache lines of a row */
    XENT_TASKS = 256,      /* partial losses kept on the stack */
    SUM_TASKS = 256,       /* partial sums kept on the stack */
    ADAM_CHUNK = 32768,    /* elements of one task of AdamW */
    TILE = 16              /* tokens gathered at a time by the embedding */
};
#define GRAD_TASK_FLOPS 96e6 /* about one millisecond; the last task to end is waited for */

typedef struct {
    const uint16_t *logits;  /* [V,T] */
    const int32_t *targets;  /* [T] */
    uint16_t *dlogits;       /* [V,T] or NULL */
    size_t vocab, count, columns; /* columns: of one task */
    double weight;           /* scale / count */
    double *partial;         /* one per task */
} XentCall;

/* ============================== Loops per instruction set ================= */

#define ANE_SUFFIX base
#define ANE_LOOP_WIDTH 4
#include "_cpu_loops.h"
#undef ANE_SUFFIX
#undef ANE_LOOP_WIDTH

#if ANE_X86
#define ANE_SUFFIX avx2
#define ANE_LOOP_WIDTH 8
#include "_cpu_loops.h"
#undef ANE_SUFFIX
#undef ANE_LOOP_WIDTH
#define ANE_SUFFIX avx512
#define ANE_LOOP_WIDTH 16
#include "_cpu_loops.h"
#undef ANE_SUFFIX
#undef ANE_LOOP_WIDTH
#endif

typedef struct {
    double (*sum_squares)(const float *x, size_t n);
    void (*gain_rows)(const uint16_t *dy, const uint16_t *x, float *dw, size_t rows, size_t count, float factor);
    void (*adam)(const AneAdamTensor *tensor, size_t begin, size_t end, const AneAdamStep *s, uint16_t *half_f16, float *zero);
    double (*xent)(const XentCall *c, size_t t0, size_t n);
} Loops;

static const Loops *loops(void) {
    static const Loops table[] = {
        {sum_squares_base, gain_rows_base, adam_base, xent_base},
#if ANE_X86
        {sum_squares_avx2, gain_rows_avx2, adam_avx2, xent_avx2},
        {sum_squares_avx512, gain_rows_avx512, adam_avx512, xent_avx512},
#endif
    };
    return &table[ane_isa()];
}

static dispatch_queue_t pool(void) { return dispatch_get_global_queue(0, 0); }

/* Run work(context, 0 .. n-1), on this thread alone when there is only one. */
static void spread(size_t n, void *context, void (*work)(void *, size_t)) {
    if (n == 1) {
        work(context, 0);
    } else if (n > 1) {
        dispatch_apply_f(n, pool(), context, work);
    }
}

/* ============================== Arguments ================================= */

static int bad_pointer(AneError *err, const char *name, const void *p, size_t align) {
    if (!p) return ane_error_set(err, ANE_E_ARG, "%s: expected a pointer, got NULL", name);
    if ((uintptr_t)p % align) {
        return ane_error_set(err, ANE_E_ARG, "%s: expected an address that is a multiple of %zu, got %p", name, align, p);
    }
    return ANE_OK;
}

/* Sizes that meet in one array: each >= 1 and within `limit`, and the product within memory. */
static int bad_sizes(AneError *err, const char *name, int64_t a, int64_t b, int64_t limit) {
    if (a < 1 || b < 1 || a > limit || b > limit) {
        return ane_error_set(err, ANE_E_ARG, "%s: expected sizes from 1 to %lld, got %lld x %lld", name, (long long)limit,
                             (long long)a, (long long)b);
    }
    if (a > (int64_t)(SIZE_MAX / 64) / b) {
        return ane_error_set(err, ANE_E_ARG, "%s: %lld x %lld elements are too many", name, (long long)a, (long long)b);
    }
    return ANE_OK;
}

/* A power of two that is a normal float, and its inverse too. */
static int bad_exponent(AneError *err, const char *name, int32_t exponent) {
    if (exponent < -120 || exponent > 120)
        return ane_error_set(err, ANE_E_ARG, "%s: expected -120 to 120, got %d", name, (int)exponent);
    return ANE_OK;
}

/* Do [a, a+n) and [b, b+m) share memory? Lengths in bytes. */
static int overlap(const void *a, size_t n, const void *b, size_t m) {
    return (uintptr_t)a < (uintptr_t)b + m && (uintptr_t)b < (uintptr_t)a + n;
}

static int bad_tokens(AneError *err, const char *name, const int32_t *tokens, int64_t vocab, int64_t count) {
    for (int64_t t = 0; t < count; t++) {
        if (tokens[t] < 0 || tokens[t] >= vocab) {
            return ane_error_set(err, ANE_E_ARG, "%s[%lld]: expected 0 to %lld, got %d", name, (long long)t,
                                 (long long)(vocab - 1), (int)tokens[t]);
        }
    }
    return ANE_OK;
}

#define TRY(expr)                          \
    do {                                   \
        const int s_ = (expr);             \
        if (s_ != ANE_OK) return s_;       \
    } while (0)

/* ============================== BLAS ====================================== */

/* Every BLAS accepted here takes 32-bit integers; the check product below would
 * not survive a library that reads 64-bit ones. */
typedef void (*Sgemm)(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda,
                      const float *b, int ldb, float beta, float *c, int ldc);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

static pthread_mutex_t blas_lock = PTHREAD_MUTEX_INITIALIZER;
static Sgemm blas_sgemm;     /* set once, under blas_lock; read by atomic load */
static char blas_path[1024]; /* complete before blas_sgemm is set */

/* Object pointers and function pointers are not convertible in C; dlsym needs it. */
static Sgemm symbol_sgemm(void *library) {
    static const char *const names[] = {"scipy_cblas_sgemm", "cblas_sgemm"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *found = dlsym(library, names[i]);
        Sgemm f = NULL;
        if (found) {
            memcpy(&f, &found, sizeof f);
            return f;
        }
    }
    return NULL;
}

static void set_one_thread(void *library) {
    static const char *const names[] = {"scipy_openblas_set_num_threads", "openblas_set_num_threads",
                                        "bli_thread_set_num_threads"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *found = dlsym(library, names[i]);
        if (!found) continue;
        if (i == 2) { /* BLIS counts in its own 64-bit integers */
            void (*set)(int64_t);
            memcpy(&set, &found, sizeof set);
            set(1);
        } else {
            void (*set)(int);
            memcpy(&set, &found, sizeof set);
            set(1);
        }
        return;
    }
}

/* [2,3] x [2,3]^T + ones, exact in fp32. */
static int product_is_right(Sgemm f) {
    const float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, -1, 2, 1, 0}, want[4] = {-1, 5, -1, 14};
    float c[4] = {1, 1, 1, 1};
    f(ROW_MAJOR, NO_TRANS, TRANS, 2, 2, 3, 1.0f, a, 3, b, 3, 1.0f, c, 2);
    return !memcmp(c, want, sizeof want);
}

static int open_library(const char *path, AneError *err) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return ane_error_set(err, ANE_E_OPEN, "BLAS %s: %s", path, why ? why : "could not be opened");
    }
    Sgemm f = symbol_sgemm(library);
    if (!f) {
        dlclose(library);
        return ane_error_set(err, ANE_E_OPEN, "BLAS %s: expected cblas_sgemm or scipy_cblas_sgemm, found neither", path);
    }
    set_one_thread(library);
    if (!product_is_right(f)) {
        return ane_error_set(err, ANE_E_OPEN, "BLAS %s: a 2x3x2 product came out wrong (a library with 64-bit integers?)", path);
    }
    strncpy(blas_path, path, sizeof blas_path - 1);
    __atomic_store_n(&blas_sgemm, f, __ATOMIC_RELEASE);
    return ANE_OK; /* the library stays open until the process ends */
}

/* `path` may be NULL: Accelerate on a Mac, the usual names elsewhere. A second
 * call with the same path, or NULL, does nothing; with another: ANE_E_STATE. */
int ane_cpu_open_blas(const char *path, AneError *err) {
#ifdef __APPLE__
    static const char *const usual[] = {"/System/Library/Frameworks/Accelerate.framework/Accelerate"};
#else
    static const char *const usual[] = {"libopenblas.so.0", "libopenblas.so", "libcblas.so.3", "libblas.so.3"};
#endif
    TRY(ane_guard(err));
    if (path && (!*path || strlen(path) >= sizeof blas_path)) {
        return ane_error_set(err, ANE_E_ARG, "BLAS path: expected 1 to %zu bytes, got %zu", sizeof blas_path - 1, strlen(path));
    }
    pthread_mutex_lock(&blas_lock);
    int status = ANE_OK;
    if (blas_sgemm) {
        if (path && strcmp(path, blas_path)) {
            status = ane_error_set(err, ANE_E_STATE, "BLAS %s: %s is open already in this process", path, blas_path);
        }
    } else if (path) {
        status = open_library(path, err);
    } else {
        for (size_t i = 0; i < sizeof usual / sizeof usual[0]; i++) {
            status = open_library(usual[i], err);
            if (status == ANE_OK) break;
        }
    }
    pthread_mutex_unlock(&blas_lock);
    return status;
}

const char *ane_cpu_blas(void) { return __atomic_load_n(&blas_sgemm, __ATOMIC_ACQUIRE) ? blas_path : ""; }

/* ============================== Embedding ================================= */

/* Memory bound and small beside a kernel: one thread. Both directions go through
 * tiles of 16 tokens, so the table is read by rows and x written by runs. */

static int embed_check(const int32_t *tokens, int64_t vocab, int64_t dim, int64_t count, const uint16_t *x_f16, AneError *err) {
    TRY(bad_pointer(err, "tokens", tokens, sizeof *tokens));
    TRY(bad_pointer(err, "x_f16", x_f16, sizeof *x_f16));
    TRY(bad_sizes(err, "table [vocab, dim]", vocab, dim, INT32_MAX));
    TRY(bad_sizes(err, "x [dim, count]", dim, count, INT32_MAX));
    return bad_tokens(err, "tokens", tokens, vocab, count);
}

int ane_cpu_embed_forward(const float *table, const int32_t *tokens, int64_t vocab, int64_t dim, int64_t count,
                          uint16_t *x_f16, AneError *err) {
    TRY(bad_pointer(err, "table", table, sizeof *table));
    TRY(embed_check(tokens, vocab, dim, count, x_f16, err));
    const size_t width = (size_t)dim, total = (size_t)count;
    float tile[TILE][TILE]; /* [d, t] */
    for (size_t t = 0; t < total; t += TILE) {
        const size_t nt = total - t < TILE ? total - t : TILE;
        for (size_t d = 0; d < width; d += TILE) {
            const size_t nd = width - d < TILE ? width - d : TILE;
            for (size_t i = 0; i < nt; i++) {
                const float *row = table + (size_t)tokens[t + i] * width + d;
                for (size_t j = 0; j < nd; j++) tile[j][i] = row[j];
            }
            for (size_t j = 0; j < nd; j++) ane_cpu_half_from_float(tile[j], x_f16 + (d + j) * total + t, nt);
        }
    }
    return ANE_OK;
}

int ane_cpu_embed_forward_half(const uint16_t *table_f16, const int32_t *tokens, int64_t vocab, int64_t dim, int64_t count,
                               uint16_t *x_f16, AneError *err) {
    TRY(bad_pointer(err, "table_f16", table_f16, sizeof *table_f16));
    TRY(embed_check(tokens, vocab, dim, count, x_f16, err));
    const size_t width = (size_t)dim, total = (size_t)count;
    for (size_t t = 0; t < total; t += TILE) {
        const size_t nt = total - t < TILE ? total - t : TILE;
        for (size_t d = 0; d < width; d += TILE) {
            const size_t nd = width - d < TILE ? width - d : TILE;
            for (size_t i = 0; i < nt; i++) {
                const uint16_t *row = table_f16 + (size_t)tokens[t + i] * width + d;
                for (size_t j = 0; j < nd; j++) x_f16[(d + j) * total + t + i] = row[j];
            }
        }
    }
    return ANE_OK;
}

int ane_cpu_embed_backward(const uint16_t *dx_f16, const int32_t *tokens, int64_t vocab, int64_t dim, int64_t count,
                           int32_t exponent, float *dtable, AneError *err) {
    TRY(bad_pointer(err, "dtable", dtable, sizeof *dtable));
    TRY(bad_pointer(err, "tokens", tokens, sizeof *tokens));
    TRY(bad_pointer(err, "dx_f16", dx_f16, sizeof *dx_f16));
    TRY(bad_sizes(err, "dtable [vocab, dim]", vocab, dim, INT32_MAX));
    TRY(bad_sizes(err, "dx [dim, count]", dim, count, INT32_MAX));
    TRY(bad_tokens(err, "tokens", tokens, vocab, count));
    TRY(bad_exponent(err, "exponent", exponent));
    const size_t width = (size_t)dim, total = (size_t)count;
    const float factor = ldexpf(1.0f, exponent);
    float tile[TILE][TILE]; /* [d, t] */
    for (size_t t = 0; t < total; t += TILE) {
        const size_t nt = total - t < TILE ? total - t : TILE;
        for (size_t d = 0; d < width; d += TILE) {
            const size_t nd = width - d < TILE ? width - d : TILE;
            for (size_t j = 0; j < nd; j++) ane_cpu_float_from_half(dx_f16 + (d + j) * total + t, tile[j], nt);
            for (size_t i = 0; i < nt; i++) { /* ascending tokens: a fixed order of sums */
                float *row = dtable + (size_t)tokens[t + i] * width + d;
                for (size_t j = 0; j < nd; j++) row[j] += factor * tile[j][i];
            }
        }
    }
    return ANE_OK;
}

/* ============================== Loss ====================================== */

static void xent_task(void *context, size_t i) {
    const XentCall *c = context;
    const size_t begin = i * c->columns;
    const size_t end = c->count - begin < c->columns ? c->count : begin + c->columns;
    double sum = 0.0;
    for (size_t t = begin; t < end; t += XENT_COLS) {
        sum += loops()->xent(c, t, end - t < XENT_COLS ? end - t : XENT_COLS);
    }
    c->partial[i] = sum;
}

int ane_cpu_cross_entropy(const uint16_t *logits_f16, const int32_t *targets, int64_t vocab, int64_t count, float scale,
                          uint16_t *dlogits_f16, double *loss, AneError *err) {
    TRY(ane_guard(err));
    TRY(bad_pointer(err, "logits_f16", logits_f16, sizeof *logits_f16));
    TRY(bad_pointer(err, "targets", targets, sizeof *targets));
    TRY(bad_pointer(err, "loss", loss, sizeof *loss));
    if (dlogits_f16) TRY(bad_pointer(err, "dlogits_f16", dlogits_f16, sizeof *dlogits_f16));
    TRY(bad_sizes(err, "logits [vocab, count]", vocab, count, INT32_MAX));
    TRY(bad_tokens(err, "targets", targets, vocab, count));
    if (!isfinite(scale)) return ane_error_set(err, ANE_E_ARG, "scale: expected a finite number, got %g", (double)scale);
    double partial[XENT_TASKS];
    const size_t total = (size_t)count;
    size_t columns = (total + XENT_TASKS - 1) / XENT_TASKS;
    columns = (columns + XENT_COLS - 1) / XENT_COLS * XENT_COLS;
    const size_t tasks = (total + columns - 1) / columns;
    XentCall call = {logits_f16, targets, dlogits_f16, (size_t)vocab, total, columns, (double)scale / (double)count, partial};
    spread(tasks, &call, xent_task);
    double sum = 0.0;
    for (size_t i = 0; i < tasks; i++) sum += partial[i];
    *loss = sum / (double)count;
    return ANE_OK;
}

/* ============================== Gradients: scratch ======================== */

/* Buffers for taps converted to fp32. A task takes one, makes it larger when it
 * must, and puts it back: as many exist as tasks ever ran at once. */
typedef struct Scratch {
    struct Scratch *next;
    float *data;
    size_t capacity; /* floats */
} Scratch;

static pthread_mutex_t grad_lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static Scratch *scratch_free;
static struct Batch *grad_batches; /* submitted since the last wait, newest first */
static dispatch_group_t grad_group;
static int grad_failed;            /* first failure since the last wait */
static pthread_cond_t grad_ended = PTHREAD_COND_INITIALIZER; /* all tasks of a submit have */

static void scratch_give(Scratch *s) {
    pthread_mutex_lock(&grad_lock);
    s->next = scratch_free;
    scratch_free = s;
    pthread_mutex_unlock(&grad_lock);
}

/* NULL when memory is short. */
static Scratch *scratch_take(size_t floats) {
    pthread_mutex_lock(&grad_lock);
    Scratch *s = scratch_free;
    if (s) scratch_free = s->next;
    pthread_mutex_unlock(&grad_lock);
    if (!s) s = calloc(1, sizeof *s);
    if (!s || s->capacity >= floats) return s;
    void *data = NULL;
    free(s->data);
    s->data = NULL;
    s->capacity = 0;
    if (posix_memalign(&data, 64, floats * sizeof(float))) {
        scratch_give(s);
        return NULL;
    }
    s->data = data;
    s->capacity = floats;
    return s;
}

/* ============================== Gradients: tasks ========================== */

/* One submit: a copy of its jobs and the tasks cut from them. Kept until the
 * wait, which frees it: tasks and the check for shared dw read it until then. */
typedef struct {
    struct Batch *batch;
    const AneGradJob *job;
    size_t row, rows;
} GradTask;
typedef struct Batch {
    struct Batch *next;
    AneGradJob *jobs;
    GradTask *tasks;
    size_t n_jobs, n_tasks;
    size_t left; /* tasks that have not ended, atomic */
} Batch;

static void batch_free(Batch *b) {
    if (!b) return;
    free(b->jobs);
    free(b->tasks);
    free(b);
}

/* Rows of one task: enough of them for GRAD_TASK_FLOPS, by size alone. */
static size_t task_rows(const AneGradJob *j) {
    const double row_flops = 2.0 * (double)(j->cols ? j->cols : 8) * (double)j->count;
    const double wanted = ceil((double)j->rows * row_flops / GRAD_TASK_FLOPS); /* tasks */
    const size_t rows = (size_t)ceil((double)j->rows / (wanted < 1.0 ? 1.0 : wanted));
    const size_t even = (rows + 15) / 16 * 16;
    return even < (size_t)j->rows ? even : (size_t)j->rows;
}

/* dw[row.., :] += 2^exponent dy[row.., :] x^T. */
static int grad_product(const AneGradJob *j, size_t row, size_t rows) {
    const size_t count = (size_t)j->count, cols = (size_t)j->cols;
    Scratch *s = scratch_take((rows + cols) * count);
    if (!s) return ANE_E_MEMORY;
    float *dy = s->data, *x = s->data + rows * count;
    ane_cpu_float_from_half(j->dy_f16 + row * count, dy, rows * count);
    ane_cpu_float_from_half(j->x_f16, x, cols * count);
    const Sgemm sgemm = __atomic_load_n(&blas_sgemm, __ATOMIC_ACQUIRE);
    sgemm(ROW_MAJOR, NO_TRANS, TRANS, (int)rows, (int)cols, (int)count, ldexpf(1.0f, j->exponent), dy, (int)count, x, (int)count, 1.0f,
          j->dw + row * cols, (int)cols);
    scratch_give(s);
    return ANE_OK;
}

static void grad_task(void *context) {
    const GradTask *task = context;
    const AneGradJob *j = task->job;
    int status = ANE_OK;
    if (j->cols) {
        status = grad_product(j, task->row, task->rows);
    } else {
        const size_t at = task->row * (size_t)j->count;
        loops()->gain_rows(j->dy_f16 + at, j->x_f16 + at, j->dw + task->row, task->rows, (size_t)j->count,
                           ldexpf(1.0f, j->exponent));
    }
    if (status != ANE_OK) {
        pthread_mutex_lock(&grad_lock);
        if (!grad_failed) grad_failed = status;
        pthread_mutex_unlock(&grad_lock);
    }
    if (__atomic_sub_fetch(&task->batch->left, 1, __ATOMIC_ACQ_REL) == 0) { /* ane_cpu_grad_wait_for may be waiting */
        pthread_mutex_lock(&grad_lock);
        pthread_cond_broadcast(&grad_ended);
        pthread_mutex_unlock(&grad_lock);
    }
}

/* ============================== Gradients: submit and wait ================ */

static size_t dw_bytes(const AneGradJob *j) { return (size_t)j->rows * (size_t)(j->cols ? j->cols : 1) * sizeof(float); }

static int job_check(const AneGradJob *j, int32_t i, AneError *err) {
    char name[48];
    snprintf(name, sizeof name, "jobs[%d].dy_f16", (int)i);
    TRY(bad_pointer(err, name, j->dy_f16, sizeof *j->dy_f16));
    snprintf(name, sizeof name, "jobs[%d].x_f16", (int)i);
    TRY(bad_pointer(err, name, j->x_f16, sizeof *j->x_f16));
    snprintf(name, sizeof name, "jobs[%d].dw", (int)i);
    TRY(bad_pointer(err, name, j->dw, sizeof *j->dw));
    snprintf(name, sizeof name, "jobs[%d] [rows, count]", (int)i);
    TRY(bad_sizes(err, name, j->rows, j->count, INT32_MAX));
    if (j->cols < 0) return ane_error_set(err, ANE_E_ARG, "jobs[%d].cols: expected 0 or more, got %lld", (int)i, (long long)j->cols);
    snprintf(name, sizeof name, "jobs[%d].exponent", (int)i);
    TRY(bad_exponent(err, name, j->exponent));
    if (!j->cols) return ANE_OK;
    snprintf(name, sizeof name, "jobs[%d] [rows, cols]", (int)i);
    TRY(bad_sizes(err, name, j->rows, j->cols, INT32_MAX));
    snprintf(name, sizeof name, "jobs[%d] [cols, count]", (int)i);
    TRY(bad_sizes(err, name, j->cols, j->count, INT32_MAX));
    if (!*ane_cpu_blas()) return ane_error_set(err, ANE_E_STATE, "no BLAS is open: call ane_cpu_open_blas first");
    return ANE_OK;
}

static int shares_dw(const AneGradJob *a, const AneGradJob *b, AneError *err) {
    if (!overlap(a->dw, dw_bytes(a), b->dw, dw_bytes(b))) return ANE_OK;
    return ane_error_set(err, ANE_E_ARG, "two jobs write the same dw (%p, %lld x %lld): wait for the first", (void *)a->dw,
                         (long long)a->rows, (long long)a->cols);
}

/* Cut checked jobs into tasks. NULL when memory is short. */
static Batch *batch_new(const AneGradJob *jobs, size_t n_jobs) {
    Batch *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    for (size_t i = 0; i < n_jobs; i++) {
        const size_t rows = task_rows(&jobs[i]);
        b->n_tasks += ((size_t)jobs[i].rows + rows - 1) / rows;
    }
    b->n_jobs = n_jobs;
    b->left = b->n_tasks;
    b->jobs = calloc(n_jobs, sizeof *b->jobs);
    b->tasks = calloc(b->n_tasks, sizeof *b->tasks);
    if (!b->jobs || !b->tasks) {
        batch_free(b);
        return NULL;
    }
    memcpy(b->jobs, jobs, n_jobs * sizeof *jobs);
    GradTask *task = b->tasks;
    for (size_t i = 0; i < n_jobs; i++) {
        const size_t total = (size_t)jobs[i].rows, rows = task_rows(&jobs[i]);
        for (size_t row = 0; row < total; row += rows) {
            *task++ = (GradTask){b, &b->jobs[i], row, total - row < rows ? total - row : rows};
        }
    }
    return b;
}

/* All jobs are queued or, on an error, none. Two jobs between two waits may not
 * write the same dw: the order of their sums would be left to chance. */
int ane_cpu_grad_submit(const AneGradJob *jobs, int32_t n_jobs, AneError *err) {
    TRY(ane_guard(err));
    if (n_jobs < 0) return ane_error_set(err, ANE_E_ARG, "n_jobs: expected 0 or more, got %d", (int)n_jobs);
    if (n_jobs == 0) return ANE_OK;
    TRY(bad_pointer(err, "jobs", jobs, sizeof(void *)));
    for (int32_t i = 0; i < n_jobs; i++) {
        TRY(job_check(&jobs[i], i, err));
        for (int32_t k = 0; k < i; k++) TRY(shares_dw(&jobs[i], &jobs[k], err));
    }
    Batch *b = batch_new(jobs, (size_t)n_jobs);
    if (!b) return ane_error_set(err, ANE_E_MEMORY, "%d gradient jobs: out of memory", (int)n_jobs);
    int status = ANE_OK;
    pthread_mutex_lock(&grad_lock);
    if (!grad_group) grad_group = dispatch_group_create();
    if (!grad_group) status = ane_error_set(err, ANE_E_MEMORY, "no dispatch group: out of memory");
    for (const Batch *old = grad_batches; old && status == ANE_OK; old = old->next) {
        for (size_t i = 0; i < (size_t)n_jobs && status == ANE_OK; i++) {
            for (size_t k = 0; k < old->n_jobs && status == ANE_OK; k++) status = shares_dw(&jobs[i], &old->jobs[k], err);
        }
    }
    if (status == ANE_OK) {
        b->next = grad_batches;
        grad_batches = b;
        for (size_t i = 0; i < b->n_tasks; i++) dispatch_group_async_f(grad_group, pool(), &b->tasks[i], grad_task);
    }
    pthread_mutex_unlock(&grad_lock);
    if (status != ANE_OK) batch_free(b);
    return status;
}

static int failed_products(int failed, AneError *err) {
    if (!failed) return ANE_OK;
    return ane_error_set(err, failed, "a weight gradient ran out of memory: the gradients of this micro-step are incomplete");
}

/* Whether a submit that writes a dw of these has not ended. Under grad_lock. */
static bool adding_locked(const AneGradJob *jobs, size_t n_jobs) {
    for (const Batch *b = grad_batches; b; b = b->next) {
        if (!__atomic_load_n(&b->left, __ATOMIC_ACQUIRE)) continue;
        for (size_t k = 0; k < b->n_jobs; k++) {
            for (size_t i = 0; i < n_jobs; i++) {
                if (overlap(jobs[i].dw, dw_bytes(&jobs[i]), b->jobs[k].dw, dw_bytes(&b->jobs[k]))) return true;
            }
        }
    }
    return false;
}

/* Holds no batch across the wait: ane_cpu_grad_wait may free it meanwhile. */
int ane_cpu_grad_wait_for(const AneGradJob *jobs, int32_t n_jobs, int32_t slice_ms, AneError *err) {
    TRY(ane_guard(err));
    if (n_jobs < 0) return ane_error_set(err, ANE_E_ARG, "n_jobs: expected 0 or more, got %d", (int)n_jobs);
    if (slice_ms < 0) return ane_error_set(err, ANE_E_ARG, "slice_ms: expected 0 or more, got %d", (int)slice_ms);
    if (n_jobs == 0) return ANE_OK;
    TRY(bad_pointer(err, "jobs", jobs, sizeof(void *)));
    for (int32_t i = 0; i < n_jobs; i++) TRY(job_check(&jobs[i], i, err));
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += slice_ms / 1000;
    until.tv_nsec += (long)(slice_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&grad_lock);
    bool adding, over = slice_ms == 0;
    while ((adding = adding_locked(jobs, (size_t)n_jobs)) && !over) {
        over = pthread_cond_timedwait(&grad_ended, &grad_lock, &until) != 0;
    }
    const int failed = adding ? ANE_OK : grad_failed;
    pthread_mutex_unlock(&grad_lock);
    return adding ? ANE_AGAIN : failed_products(failed, err);
}

/* ANE_AGAIN after slice_ms (0: only look) while jobs run. Reports the first
 * failure since the last wait, once: every dw of that span is then in doubt. */
int ane_cpu_grad_wait(int32_t slice_ms, AneError *err) {
    TRY(ane_guard(err));
    if (slice_ms < 0) return ane_error_set(err, ANE_E_ARG, "slice_ms: expected 0 or more, got %d", (int)slice_ms);
    pthread_mutex_lock(&grad_lock);
    const dispatch_group_t group = grad_group;
    pthread_mutex_unlock(&grad_lock);
    if (!group) return ANE_OK;
    const dispatch_time_t until = slice_ms ? dispatch_time(DISPATCH_TIME_NOW, (int64_t)slice_ms * 1000000) : DISPATCH_TIME_NOW;
    if (dispatch_group_wait(group, until)) return ANE_AGAIN;
    /* Another thread may have submitted meanwhile: look again under the lock. */
    pthread_mutex_lock(&grad_lock);
    if (dispatch_group_wait(group, DISPATCH_TIME_NOW)) {
        pthread_mutex_unlock(&grad_lock);
        return ANE_AGAIN;
    }
    Batch *done = grad_batches;
    const int failed = grad_failed;
    grad_batches = NULL;
    grad_failed = ANE_OK;
    pthread_mutex_unlock(&grad_lock);
    while (done) {
        Batch *next = done->next;
        batch_free(done);
        done = next;
    }
    return failed_products(failed, err);
}

/* ============================== Optimizer ================================= */

typedef struct {
    const float *x;
    size_t count, chunk;
    double partial[SUM_TASKS];
} SumCall;

static void sum_task(void *context, size_t i) {
    SumCall *c = context;
    const size_t begin = i * c->chunk;
    const size_t n = c->count - begin < c->chunk ? c->count - begin : c->chunk;
    c->partial[i] = loops()->sum_squares(c->x + begin, n);
}

static size_t sum_chunk(size_t count) { return ((count + SUM_TASKS - 1) / SUM_TASKS + 16383) / 16384 * 16384; }

int ane_cpu_sum_squares(const float *x, size_t count, double *out, int32_t *finite, AneError *err) {
    TRY(ane_guard(err));
    TRY(bad_pointer(err, "out", out, sizeof *out));
    TRY(bad_pointer(err, "finite", finite, sizeof *finite));
    *out = 0.0;
    *finite = 1;
    if (count == 0) return ANE_OK;
    TRY(bad_pointer(err, "x", x, sizeof *x));
    if (count > SIZE_MAX / 64) return ane_error_set(err, ANE_E_ARG, "count: %zu elements are too many", count);
    SumCall call = {.x = x, .count = count};
    call.chunk = sum_chunk(count);
    const size_t tasks = (count + call.chunk - 1) / call.chunk;
    spread(tasks, &call, sum_task);
    double sum = 0.0;
    for (size_t i = 0; i < tasks; i++) sum += call.partial[i];
    *out = sum;
    *finite = isfinite(sum) ? 1 : 0;
    return ANE_OK;
}

double ane_cpu_sum_squares_here(const float *x, size_t count, void (*pause)(void *), void *context) {
    double sum = 0.0;
    for (size_t begin = 0, chunk = sum_chunk(count); begin < count; begin += chunk) {
        pause(context);
        sum += loops()->sum_squares(x + begin, count - begin < chunk ? count - begin : chunk);
    }
    return sum;
}

AneAdamStep ane_cpu_adam_step(float lr, float beta1, float beta2, float eps, int64_t step, float grad_scale, float extrapolate) {
    const double fix1 = 1.0 - pow((double)beta1, (double)step), fix2 = 1.0 - pow((double)beta2, (double)step);
    AneAdamStep s = {lr, beta1, beta2, eps, grad_scale, extrapolate, 0.0f, 0.0f};
    s.rate = (float)((double)lr / fix1);
    s.unbias = (float)(1.0 / sqrt(fix2));
    return s;
}

void ane_cpu_adam_range(const AneAdamTensor *t, size_t begin, size_t end, const AneAdamStep *s, uint16_t *half_f16, float *zero) {
    loops()->adam(t, begin, end, s, half_f16, zero);
}

typedef struct {
    const AneAdamTensor *tensors;
    const size_t *first; /* [n_tensors + 1] first chunk of each tensor */
    size_t n_tensors;
    AneAdamStep step;
} AdamCall;

static void adam_task(void *context, size_t chunk) {
    const AdamCall *c = context;
    size_t low = 0, high = c->n_tensors; /* first[low] <= chunk < first[high] */
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if (c->first[middle] <= chunk) {
            low = middle;
        } else {
            high = middle;
        }
    }
    const AneAdamTensor *t = &c->tensors[low];
    const size_t begin = (chunk - c->first[low]) * ADAM_CHUNK;
    loops()->adam(t, begin, t->count - begin < ADAM_CHUNK ? t->count : begin + ADAM_CHUNK, &c->step, NULL, NULL);
}

int ane_cpu_adam_check(const AneAdamTensor *t, int32_t i, AneError *err) {
    enum { P_IN, P_OUT, M, V, G, M_IN, V_IN, AHEAD, AHEAD_F16, ARRAYS };
    const void *const arrays[] = {t->p_in, t->p_out, t->m, t->v, t->g, t->m_in, t->v_in, t->ahead, t->ahead_f16};
    static const char *const names[] = {"p_in", "p_out", "m", "v", "g", "m_in", "v_in", "ahead", "ahead_f16"};
    static const unsigned may_be_null = 1u << M_IN | 1u << V_IN | 1u << AHEAD | 1u << AHEAD_F16;
    static const unsigned written = 1u << P_OUT | 1u << M | 1u << V | 1u << AHEAD | 1u << AHEAD_F16;
    static const int before[ARRAYS] = {[P_OUT] = P_IN, [M_IN] = M, [V_IN] = V, [P_IN] = -1, [M] = -1,
                                       [V] = -1, [G] = -1, [AHEAD] = -1, [AHEAD_F16] = -1};
    size_t size[ARRAYS]; /* of an element */
    for (int k = 0; k < ARRAYS; k++) size[k] = k == AHEAD_F16 ? sizeof(uint16_t) : sizeof(float);
    if (t->count > SIZE_MAX / 64) return ane_error_set(err, ANE_E_ARG, "tensors[%d].count: %zu is too many", (int)i, t->count);
    if (!isfinite(t->weight_decay) || t->weight_decay < 0.0f) {
        return ane_error_set(err, ANE_E_ARG, "tensors[%d].weight_decay: expected 0 or more, got %g", (int)i,
                             (double)t->weight_decay);
    }
    for (int k = 0; k < ARRAYS && t->count; k++) {
        if (!arrays[k] && may_be_null >> k & 1) continue;
        if (!arrays[k] || (uintptr_t)arrays[k] % size[k]) { /* names are made only to be told: this is asked at every update */
            char name[48];
            snprintf(name, sizeof name, "tensors[%d].%s", (int)i, names[k]);
            return bad_pointer(err, name, arrays[k], size[k]);
        }
        /* Nothing that is written may lie over another array; p_out may be p_in itself, m_in m. */
        for (int j = 0; j < k; j++) {
            if (!((written >> j | written >> k) & 1) || !arrays[j]) continue;
            if (before[k] == j && arrays[j] == arrays[k]) continue;
            if (overlap(arrays[j], t->count * size[j], arrays[k], t->count * size[k])) {
                return ane_error_set(err, ANE_E_ARG, "tensors[%d].%s overlaps %s", (int)i, names[k], names[j]);
            }
        }
    }
    return ANE_OK;
}

int ane_cpu_adamw(const AneAdamTensor *tensors, int32_t n_tensors, float lr, float beta1, float beta2, float eps, int64_t step,
                  float grad_scale, float extrapolate, AneError *err) {
    TRY(ane_guard(err));
    if (n_tensors < 0) return ane_error_set(err, ANE_E_ARG, "n_tensors: expected 0 or more, got %d", (int)n_tensors);
    if (!isfinite(lr) || lr < 0.0f) return ane_error_set(err, ANE_E_ARG, "lr: expected 0 or more, got %g", (double)lr);
    if (!(beta1 >= 0.0f && beta1 < 1.0f)) return ane_error_set(err, ANE_E_ARG, "beta1: expected [0, 1), got %g", (double)beta1);
    if (!(beta2 >= 0.0f && beta2 < 1.0f)) return ane_error_set(err, ANE_E_ARG, "beta2: expected [0, 1), got %g", (double)beta2);
    if (!isfinite(eps) || eps <= 0.0f) return ane_error_set(err, ANE_E_ARG, "eps: expected more than 0, got %g", (double)eps);
    if (step < 1) return ane_error_set(err, ANE_E_ARG, "step: expected 1 or more, got %lld", (long long)step);
    if (!isfinite(grad_scale)) return ane_error_set(err, ANE_E_ARG, "grad_scale: expected a finite number, got %g", (double)grad_scale);
    if (!isfinite(extrapolate) || extrapolate < 0.0f) {
        return ane_error_set(err, ANE_E_ARG, "extrapolate: expected 0 or more, got %g", (double)extrapolate);
    }
    if (n_tensors == 0) return ANE_OK;
    TRY(bad_pointer(err, "tensors", tensors, sizeof(void *)));
    for (int32_t i = 0; i < n_tensors; i++) TRY(ane_cpu_adam_check(&tensors[i], i, err));
    size_t *first = calloc((size_t)n_tensors + 1, sizeof *first);
    if (!first) return ane_error_set(err, ANE_E_MEMORY, "%d tensors: out of memory", (int)n_tensors);
    for (int32_t i = 0; i < n_tensors; i++) first[i + 1] = first[i] + (tensors[i].count + ADAM_CHUNK - 1) / ADAM_CHUNK;
    AdamCall call = {tensors, first, (size_t)n_tensors, ane_cpu_adam_step(lr, beta1, beta2, eps, step, grad_scale, extrapolate)};
    spread(first[n_tensors], &call, adam_task);
    free(first);
    return ANE_OK;
}
