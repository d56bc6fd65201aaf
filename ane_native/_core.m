// SPDX-License-Identifier: MIT
/* _core.m - the door: everything that is said to the Neural Engine.
 *
 * The engine is one dynamic library with Apple's private class names in it,
 * either Apple's or softane; nothing here knows which. The messages, in order
 * (each one checked, none with nil options or weights):
 *
 *   +[_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist:]
 *   +[_ANEInMemoryModel inMemoryModelWithDescriptor:]
 *   -hexStringIdentifier -localModelPath -compiledModelExists
 *   (write model.mil and weights/NAME into the local model path)
 *   -compileWithQoS:options:error:   -loadWithQoS:options:error:   -modelAttributes
 *   IOSurfaceCreate … +[_ANEIOSurfaceObject objectWithIOSurface:]
 *   +[_ANERequest requestWithInputs:…procedureIndex:]   -validate
 *   -evaluateWithQoS:options:request:error:   -unloadWithQoS:error:
 *
 * This file opens the engine, checks every class and selector, keeps the
 * compile budget and turns answers into errors. Surfaces are in
 * _core_surface.m, programs in _core_program.m, requests in _core_bind.m.
 *
 * The private methods are declared as protocols (_core_door.h), so the compiler
 * types each send for the runtime at hand. Retain/release by hand; every entry
 * that makes objects has its own pool. What the selectors do, and who measured
 * it, is in docs/PRIVATE_API.md. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#import "_core_door.h"

#ifndef ANE_GCD_NAME
#define ANE_GCD_NAME "libdispatch"
#endif

/* What must be there before the first message; anything missing is reported by name. */
static const struct {
    int cls;
    const char *name;
    bool on_class; /* a class method */
    const char *selector;
} g_needed[] = {
    {CLS_DESCRIPTOR, "_ANEInMemoryModelDescriptor", true, "modelWithMILText:weights:optionsPlist:"},
    {CLS_MODEL, "_ANEInMemoryModel", true, "inMemoryModelWithDescriptor:"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "hexStringIdentifier"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "localModelPath"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "compiledModelExists"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "purgeCompiledModel"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "modelAttributes"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "compileWithQoS:options:error:"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "loadWithQoS:options:error:"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "evaluateWithQoS:options:request:error:"},
    {CLS_MODEL, "_ANEInMemoryModel", false, "unloadWithQoS:error:"},
    {CLS_REQUEST, "_ANERequest", true,
     "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:"},
    {CLS_REQUEST, "_ANERequest", false, "validate"},
    {CLS_SURFACE, "_ANEIOSurfaceObject", true, "objectWithIOSurface:"},
};

/* ============================== Engine ==================================== */

AneEngine ane_engine = {.lock = PTHREAD_MUTEX_INITIALIZER};
#define g ane_engine

void ane_core_thread_enter(void) { ane_thread_enter(); }

/* `name` from the engine's library, else from the system's IOSurface. */
static void *surface_symbol(void *library, const char *name) {
    void *f = dlsym(library, name);
    if (!f) {
        void *system = dlopen("/System/Library/Frameworks/IOSurface.framework/IOSurface", RTLD_NOW);
        if (system)
            f = dlsym(system, name);
    }
    return f;
}

static int find_classes(AneError *err) {
    for (size_t i = 0; i < sizeof g_needed / sizeof *g_needed; i++) {
        Class c = NSClassFromString([NSString stringWithUTF8String:g_needed[i].name]);
        if (!c)
            return ane_error_set(err, ANE_E_OPEN, "%s has no class %s", g.path, g_needed[i].name);
        SEL s = NSSelectorFromString([NSString stringWithUTF8String:g_needed[i].selector]);
        bool there = g_needed[i].on_class ? [(id)c respondsToSelector:s] : [c instancesRespondToSelector:s];
        if (!there)
            return ane_error_set(err, ANE_E_OPEN, "%s: class %s does not answer %s%s", g.path, g_needed[i].name,
                                 g_needed[i].on_class ? "+" : "-", g_needed[i].selector);
        g.cls[g_needed[i].cls] = c;
    }
    return ANE_OK;
}

/* Chip and core count, for reports only: absent answers are fine. */
static void ask_device(void) {
    id info = (id)NSClassFromString(@"_ANEDeviceInfo");
    if ([info respondsToSelector:@selector(aneSubType)]) {
        NSString *chip = [(id<AneDeviceInfoClass>)info aneSubType];
        if (chip)
            snprintf(g.chip, sizeof g.chip, "%s", [chip UTF8String]);
    }
    if ([info respondsToSelector:@selector(numANEs)])
        g.engines = [(id<AneDeviceInfoClass>)info numANEs];
    if ([info respondsToSelector:@selector(numANECores)])
        g.cores = [(id<AneDeviceInfoClass>)info numANECores];
}

static int open_library(const char *path, AneError *err) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        return ane_error_set(err, ANE_E_OPEN, "cannot open the engine's library: %s", why ? why : path);
    }
    snprintf(g.path, sizeof g.path, "%s", path);
    int status = find_classes(err);
    if (status != ANE_OK)
        return status;
    *(void **)&g.surface_create = surface_symbol(library, "IOSurfaceCreate");
    *(void **)&g.surface_lock = surface_symbol(library, "IOSurfaceLock");
    *(void **)&g.surface_unlock = surface_symbol(library, "IOSurfaceUnlock");
    *(void **)&g.surface_base = surface_symbol(library, "IOSurfaceGetBaseAddress");
    *(void **)&g.surface_bytes = surface_symbol(library, "IOSurfaceGetAllocSize");
    if (!g.surface_create || !g.surface_lock || !g.surface_unlock || !g.surface_base || !g.surface_bytes)
        return ane_error_set(err, ANE_E_OPEN, "%s: no IOSurface functions", path);
    ask_device();
    g.apple = strstr(path, "AppleNeuralEngine.framework") != NULL;
    g.open = true;
    return ANE_OK;
}

int ane_engine_open(const char *path, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (!path || !*path)
        return ane_error_set(err, ANE_E_ARG, "no library named");
    ane_thread_enter();
    pthread_mutex_lock(&g.lock);
    @autoreleasepool {
        if (!g.open)
            status = open_library(path, err);
        else if (strcmp(g.path, path) != 0)
            status = ane_error_set(err, ANE_E_STATE, "this process has %s open already, asked for %s", g.path, path);
    }
    pthread_mutex_unlock(&g.lock);
    return status;
}

int ane_need_open(AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    return __atomic_load_n(&g.open, __ATOMIC_ACQUIRE) ? ANE_OK : ane_error_set(err, ANE_E_STATE, "no engine is open");
}

int ane_engine_info(AneEngineInfo *out, AneError *err) {
    memset(out, 0, sizeof *out);
    snprintf(out->gcd, sizeof out->gcd, "%s", ANE_GCD_NAME);
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    pthread_mutex_lock(&g.lock);
    memcpy(out->path, g.path, sizeof out->path);
    memcpy(out->chip, g.chip, sizeof out->chip);
    out->engine_count = g.engines;
    out->core_count = g.cores;
    out->apple = g.apple;
    out->compiles = g.compiles;
    out->compile_failures = g.compile_failures;
    out->loads = g.loads;
    out->loaded = g.loaded;
    out->evals = __atomic_load_n(&g.evals, __ATOMIC_RELAXED);
    out->evals_retried = __atomic_load_n(&g.evals_retried, __ATOMIC_RELAXED);
    out->reloads = g.reloads;
    out->compile_limit = g.compile_limit;
    pthread_mutex_unlock(&g.lock);
    return ANE_OK;
}

/* ============================== Budget ==================================== */

int ane_engine_set_compile_limit(int64_t limit, AneError *err) {
    int status = ane_guard(err);
    if (status != ANE_OK)
        return status;
    if (limit < 0)
        return ane_error_set(err, ANE_E_ARG, "compile limit %lld, expected 0 (none) or more", (long long)limit);
    pthread_mutex_lock(&g.lock);
    g.compile_limit = limit;
    pthread_mutex_unlock(&g.lock);
    return ANE_OK;
}

int ane_budget_reserve(int64_t n, AneError *err) {
    int status = ANE_OK;
    pthread_mutex_lock(&g.lock);
    if (g.compile_limit && g.compiles + g.reserved + n > g.compile_limit)
        status = ane_error_set(err, ANE_E_BUDGET,
                               "%lld programs to compile, but this process has used %lld of %lld compiles (%lld more reserved)",
                               (long long)n, (long long)g.compiles, (long long)g.compile_limit, (long long)g.reserved);
    else
        g.reserved += n;
    pthread_mutex_unlock(&g.lock);
    return status;
}

void ane_budget_return(int64_t n) {
    pthread_mutex_lock(&g.lock);
    g.reserved -= n;
    pthread_mutex_unlock(&g.lock);
}

void ane_budget_read(int64_t *used, int64_t *limit, int64_t *loaded) {
    pthread_mutex_lock(&g.lock);
    *used = g.compiles;
    *limit = g.compile_limit;
    *loaded = g.loaded;
    pthread_mutex_unlock(&g.lock);
}

/* ============================== Answers =================================== */

void ane_copy_string(char *to, size_t cap, NSString *s) {
    const char *c = [s UTF8String];
    snprintf(to, cap, "%s", c ? c : "");
}

/* The engine said NO at `step`: carry its NSError, or the lack of one, to the caller. */
int ane_refused(AneError *err, int status, const char *step, NSError *e, const char *identity, uint32_t qos, uint64_t begin) {
    if (!err)
        return status;
    ane_error_clear(err);
    err->status = status;
    err->qos = (int32_t)qos;
    err->ms = (double)(ane_now_ns() - begin) / 1e6;
    snprintf(err->step, sizeof err->step, "%s", step);
    snprintf(err->identity, sizeof err->identity, "%s", identity);
    if (e) {
        err->has_error = 1;
        err->code = (int64_t)[e code];
        ane_copy_string(err->domain, sizeof err->domain, [e domain]);
        ane_copy_string(err->text, sizeof err->text, [e localizedDescription]);
        id detail = [[e userInfo] objectForKey:@"NSDebugDescription"];
        if ([detail isKindOfClass:[NSString class]])
            ane_copy_string(err->detail, sizeof err->detail, detail);
    } else {
        snprintf(err->text, sizeof err->text, "%s: the engine answered NO and gave no error", step);
    }
    return status;
}

int ane_threw(AneError *err, const char *step, NSException *x) {
    int status = ane_error_set(err, ANE_E_EXCEPTION, "%s threw %s: %s", step, [[x name] UTF8String], [[x reason] UTF8String]);
    if (err)
        snprintf(err->step, sizeof err->step, "%s", step);
    return status;
}
