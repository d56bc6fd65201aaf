// SPDX-License-Identifier: MIT
/* compile.c - the compiler service: a directory on disk -> a store entry.
 *
 * Flow: budget -> read the text -> parse -> check -> read the weight files ->
 * plan -> store. Everything is read from disk, nothing from the caller's
 * memory: what is compiled is what lies in the directory now. */
#include "compile.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define SOURCE_NAME "model.mil"
#define MODEL_PATH "@model_path"
#define PATH_CAP 4200

static const SaPos nowhere = {0, 0};

/* ============================== Source ==================================== */

/* directory/file into buf. The name comes from the caller's options: it must
 * stay inside the directory. */
static SaStatus source_path(const SaSource *src, char *buf, size_t cap, SaError *err) {
    const char *name = src->file ? src->file : SOURCE_NAME;
    if (name[0] == 0 || name[0] == '/' || strstr(name, ".."))
        return sa_error_set(err, SA_E_OPERAND, nowhere, "source file name '%s' leaves the directory", name);
    int n = snprintf(buf, cap, "%s/%s", src->directory, name);
    if (n < 0 || (size_t)n >= cap)
        return sa_error_set(err, SA_E_IO, nowhere, "path of '%s' is too long", name);
    return SA_OK;
}

/* A known identity needs no compile, but its files must be there: the real
 * service looks for them before it looks into its cache. */
static SaStatus files_present(const SaSource *src, const char *source, const SaEntry *e, SaError *err) {
    char path[PATH_CAP];
    if (!sa_file_exists(source))
        return sa_error_set(err, SA_E_IO, nowhere, "'%s' is missing", source);
    for (int i = 0; i < e->n_blobs; i++) {
        const char *blob = e->blobs[i];
        size_t prefix = strlen(MODEL_PATH);
        bool relative = strncmp(blob, MODEL_PATH, prefix) == 0;
        snprintf(path, sizeof path, "%s%s", relative ? src->directory : "", relative ? blob + prefix : blob);
        if (!sa_file_exists(path))
            return sa_error_set(err, SA_E_IO, nowhere, "weight file '%s' is missing", path);
    }
    return SA_OK;
}

bool sa_compile_type_ok(const SaSource *src, SaAnswer *out) {
    if (!src->model_type || strcmp(src->model_type, "kANEFModelCoreML") == 0)
        return sa_answer_espresso(out, src->directory);
    if (strcmp(src->model_type, "kANEFModelMIL") != 0) {
        SaError why;
        sa_error_set(&why, SA_E_OPERAND, nowhere, "model type %s: only kANEFModelMIL is compiled", src->model_type);
        return sa_answer_code(out, SA_DO_COMPILE, 25, &why);
    }
    return true;
}

/* ============================== Budget ==================================== */

/* Every attempt that reaches the compiler counts, also one that then fails;
 * a cache hit does not. (Which attempts the real engine counts is not known.)
 * Beyond the limit: refused, or *unloadable, or the process ends. */
static SaStatus budget_take(bool *unloadable, SaError *err) {
    SaDevice *d = sa_device();
    uint64_t limit = sa_setting(SA_SET_COMPILE_LIMIT), mode = sa_setting(SA_SET_COMPILE_LIMIT_MODE);
    bool refuse = SA_FAILPOINT("budget.take") != 0;
    pthread_mutex_lock(&d->lock);
    if (limit != 0 && d->compiles >= limit)
        refuse = true;
    if (!refuse)
        d->compiles++;
    pthread_mutex_unlock(&d->lock);
    *unloadable = refuse && mode == SA_LIMIT_LOAD;
    if (*unloadable)
        return SA_OK;
    if (refuse && mode == SA_LIMIT_CRASH) {
        sa_log(SA_LOG_ERROR, "compile limit reached; the environment asks for a crash");
        raise(SIGSEGV);
    }
    return refuse ? sa_error_set(err, SA_E_BUDGET, nowhere, "compile limit of this process reached (%llu)",
                                 (unsigned long long)limit)
                  : SA_OK;
}

/* ============================== Pipeline ================================== */

/* Text -> entry, and its file. `arena` holds everything that dies with the
 * compile. */
static SaStatus build(const SaSource *src, SaArena *arena, const char *text, size_t bytes, const SaLimits *limits,
                      bool unloadable, SaEntry **out, SaError *err) {
    SaProgram *program;
    SaPlan *plan;
    size_t weight_bytes = 0;
    SA_TRY(sa_program_parse(arena, text, bytes, limits, &program, err));
    SA_TRY(sa_program_check(arena, program, limits, err));
    SA_TRY(sa_program_bind(arena, program, src->directory, (SaBlobMode)sa_setting(SA_SET_BLOBS), &weight_bytes, err));
    SA_TRY(sa_quirk_check(program, err));
    SA_TRY(sa_quirk_value(text, bytes, err));
    SA_TRY(sa_plan_build(program, &plan, err));
    *out = sa_entry_new(src->identity, plan, program, weight_bytes);
    if (!*out)
        return sa_error_set(err, SA_E_MEMORY, nowhere, "no memory for the store entry");
    (*out)->unloadable = unloadable;
    if (!unloadable)
        sa_shared_put(*out, text, bytes, program);
    return SA_OK;
}

static SaStatus compile(const SaSource *src, const char *path, SaEntry **out, SaError *err) {
    char *text;
    size_t bytes;
    SaLimits limits;
    bool unloadable;
    sa_device_limits(&limits);
    SA_TRY(budget_take(&unloadable, err));
    SA_TRY(sa_file_read(path, limits.max_text_bytes, &text, &bytes, err));
    SaArena *arena = sa_arena_new(0);
    SaStatus st = arena ? build(src, arena, text, bytes, &limits, unloadable, out, err)
                        : sa_error_set(err, SA_E_MEMORY, nowhere, "no memory to compile");
    sa_arena_free(arena);
    sa_free(text);
    return st;
}

/* Log the precise reason, count, answer. */
static bool refuse(const SaSource *src, SaCompileWord word, const SaError *why, SaAnswer *out) {
    char line[600];
    sa_error_format(why, line, sizeof line);
    sa_log(SA_LOG_ERROR, "compile of %.64s failed: %s", src->identity, line);
    sa_device()->compile_failures++;
    return sa_answer_compile(out, word, src->directory, why);
}

/* ============================== Entry points ============================== */

bool sa_compile_run(const SaSource *src, SaEntry **pin, SaAnswer *out) {
    SaDevice *d = sa_device();
    SaError why = {.code = SA_OK};
    uint64_t start = sa_now_ns();
    int injected = SA_FAILPOINT("facade.compile");
    if (injected) {
        d->compile_failures++;
        return sa_answer_injected(out, SA_DO_COMPILE, src->directory, injected);
    }
    if (!sa_compile_type_ok(src, out))
        return false;

    char path[PATH_CAP];
    if (source_path(src, path, sizeof path, &why) != SA_OK)
        return refuse(src, SA_CE_PARAM, &why, out);

    SaEntry *known = src->replace ? NULL : sa_store_get(src->identity, NULL);
    if (known) {
        if (files_present(src, path, known, &why) != SA_OK) {
            sa_entry_unpin(known);
            return refuse(src, sa_compile_word(why.code), &why, out);
        }
        sa_timing_step(start, SA_SET_LOAD_MS);
        *pin = known;
        return out->ok = true;
    }

    double factor = atomic_fetch_add(&d->compiling, 1) > 0 ? sa_setting_real(SA_SET_PARALLEL_COMPILE) : 1;
    if (!atomic_exchange(&d->compiled_once, true))
        factor *= sa_setting_real(SA_SET_FIRST_COMPILE);
    SaStatus st = compile(src, path, pin, &why);
    if (st == SA_OK)
        sa_timing_compile(start, *pin, factor);
    atomic_fetch_sub(&d->compiling, 1);
    if (st != SA_OK) {
        why.code = st;
        return refuse(src, sa_compile_word(st), &why, out);
    }
    sa_store_put(*pin);
    sa_log(SA_LOG_INFO, "compiled %.64s: %d operations, %zu weight bytes, %.3f ms", src->identity,
           (*pin)->ops, (*pin)->weight_bytes, (double)(sa_now_ns() - start) / 1e6);
    return out->ok = true;
}

bool sa_device_compile(const SaSource *src, unsigned qos, SaEntry **pin, SaAnswer *out) {
    SaEntry *mine = NULL;
    SaTurn turn;
    bool done = sa_turn_begin(&turn, SA_DO_COMPILE, qos, out) && sa_compile_run(src, &mine, out);
    sa_turn_end(&turn);
    if (done && pin)
        *pin = mine;
    else if (done)
        sa_entry_unpin(mine);
    return done;
}
