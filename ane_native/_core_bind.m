// SPDX-License-Identifier: MIT
/* _core_bind.m - what a loaded program says of its procedures, requests that bind
 * surfaces to one of them by name, and evaluation.
 *
 * A program has a procedure for each function of its text. Which number an
 * evaluation must name, and which symbol index is which port, is read from the
 * loaded program's attributes and never counted out. */
#include <stdlib.h>
#include <string.h>

#import "_core_door.h"

#define g ane_engine

void ane_free_procedures(AneProgram *p) {
    for (int at = 0; p->procedures && at < p->n_procedures; at++) {
        AneProcedure *f = &p->procedures[at];
        for (int side = 0; side < 2; side++) {
            for (int i = 0; f->symbol[side] && i < f->n_symbols[side]; i++)
                free(f->symbol[side][i]);
            free(f->symbol[side]);
            free(f->index[side]);
        }
        free(f->name);
    }
    free(p->procedures);
    p->procedures = NULL;
    p->n_procedures = 0;
}

/* ============================== Attributes ================================ */

/* Name of a symbol without the "@output" that the engine adds to results. */
static char *plain_name(NSString *symbol) {
    const char *s = [symbol UTF8String];
    const char *at = s ? strchr(s, '@') : NULL;
    return s ? strndup(s, at ? (size_t)(at - s) : strlen(s)) : NULL;
}

static int read_side(AneProcedure *p, int side, NSArray *symbols, NSArray *indices, AneError *err) {
    NSUInteger n = [indices count];
    p->symbol[side] = calloc(n ? n : 1, sizeof(char *));
    p->index[side] = calloc(n ? n : 1, sizeof(int));
    if (!p->symbol[side] || !p->index[side])
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for symbols");
    p->n_symbols[side] = (int)n;
    for (NSUInteger i = 0; i < n; i++) {
        NSUInteger at = [[indices objectAtIndex:i] unsignedIntegerValue];
        if (at >= [symbols count])
            return ane_error_set(err, ANE_E_BIND, "symbol index %lu of %lu", (unsigned long)at, (unsigned long)[symbols count]);
        p->index[side][i] = (int)at;
        if (!(p->symbol[side][i] = plain_name([symbols objectAtIndex:at])))
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for symbols");
    }
    return ANE_OK;
}

/* The name a procedure is known by: the map's key for its number; where there is no
 * map, the name that its entry in the list of networks carries. */
static NSString *procedure_name(NSDictionary *map, NSArray *networks, NSUInteger at, int number) {
    for (NSString *name in map)
        if ([[map objectForKey:name] intValue] == number)
            return name;
    return map || at >= [networks count] ? nil : [(NSDictionary *)[networks objectAtIndex:at] objectForKey:@"Name"];
}

/* Procedures and their symbols from the loaded program's own arrays. The symbol arrays run
 * over all procedures and names may repeat; each procedure has indices of its own. Numbers
 * need not follow the order of the text (both measured: third-party notes on banks of
 * procedures), so nothing is assumed about either. */
int ane_read_procedures(AneProgram *p, AneError *err) {
    NSDictionary *description = [[p->model modelAttributes] objectForKey:@"ANEFModelDescription"];
    NSArray *inputs = [description objectForKey:@"kANEFModelInputSymbolsArrayKey"];
    NSArray *outputs = [description objectForKey:@"kANEFModelOutputSymbolsArrayKey"];
    NSArray *procedures = [description objectForKey:@"ANEFModelProcedures"];
    if (!inputs || !outputs || [procedures count] == 0)
        return ane_error_set(err, ANE_E_BIND, "the loaded program has no symbol arrays in its attributes");
    NSDictionary *map = [description objectForKey:@"kANEFModelProcedureNameToIDMapKey"];
    NSArray *networks = [[p->model modelAttributes] objectForKey:@"NetworkStatusList"];
    NSUInteger n = [procedures count];
    if (!(p->procedures = calloc(n, sizeof *p->procedures)))
        return ane_error_set(err, ANE_E_MEMORY, "out of memory for procedures");
    p->n_procedures = (int)n;
    int status = ANE_OK;
    for (NSUInteger i = 0; i < n && status == ANE_OK; i++) {
        NSDictionary *entry = [procedures objectAtIndex:i];
        AneProcedure *f = &p->procedures[i];
        NSNumber *said = [entry objectForKey:@"ANEFModelProcedureID"];
        f->number = said ? [said intValue] : (int)i;
        NSString *name = procedure_name(map, networks, i, f->number);
        const char *text = name ? [name UTF8String] : NULL;
        if (!(f->name = strdup(text ? text : "")))
            return ane_error_set(err, ANE_E_MEMORY, "out of memory for procedures");
        status = read_side(f, 0, inputs, [entry objectForKey:@"ANEFModelInputSymbolIndexArray"], err);
        if (status == ANE_OK)
            status = read_side(f, 1, outputs, [entry objectForKey:@"ANEFModelOutputSymbolIndexArray"], err);
    }
    return status;
}

/* The procedure of a kernel: by its function's name, or the only one there is. */
int ane_find_procedure(const AneProgram *p, const AneKernelDef *k, const AneProcedure **out, AneError *err) {
    if (!k->function && p->n_procedures == 1) {
        *out = &p->procedures[0];
        return ANE_OK;
    }
    for (int i = 0; k->function && i < p->n_procedures; i++)
        if (strcmp(p->procedures[i].name, k->function) == 0) {
            *out = &p->procedures[i];
            return ANE_OK;
        }
    return ane_error_set(err, ANE_E_BIND, "the program has %d procedures, and none is named '%s'", p->n_procedures,
                         k->function ? k->function : "(no name was given)");
}

/* ============================== Requests ================================== */

/* Strides the engine reports for a port must be those our surfaces were laid out by. */
static int check_layout(AneProgram *p, const AneProcedure *f, int side, const AnePortDef *port, const AneSurfaceInfo *ours,
                        AneError *err) {
    NSArray *status = [[p->model modelAttributes] objectForKey:@"NetworkStatusList"];
    NSDictionary *network = p->n_procedures == 1 && [status count] ? [status objectAtIndex:0] : nil;
    for (NSDictionary *entry in status)
        if (!network && strcmp([[entry objectForKey:@"Name"] UTF8String] ? [[entry objectForKey:@"Name"] UTF8String] : "", f->name) == 0)
            network = entry;
    if (!network)
        return ANE_OK; /* older systems may not say */
    NSArray *live = [network objectForKey:side ? @"LiveOutputList" : @"LiveInputList"];
    for (NSDictionary *entry in live) {
        char *name = plain_name([entry objectForKey:@"Symbol"] ? [entry objectForKey:@"Symbol"] : [entry objectForKey:@"Name"]);
        bool mine = name && strcmp(name, port->name) == 0;
        free(name);
        if (!mine)
            continue;
        const struct {
            NSString *key;
            int64_t value;
        } expect[] = {{@"Channels", ours->c}, {@"Height", ours->h}, {@"Width", ours->w},
                      {@"RowStride", ours->row_stride}, {@"PlaneStride", ours->plane_stride}};
        for (size_t i = 0; i < sizeof expect / sizeof *expect; i++) {
            NSNumber *said = [entry objectForKey:expect[i].key];
            if (said && [said longLongValue] != expect[i].value)
                return ane_error_set(err, ANE_E_BIND, "port '%s': the program says %s %lld, the declared shape gives %lld",
                                     port->name, [expect[i].key UTF8String], [said longLongValue], (long long)expect[i].value);
        }
        return ANE_OK;
    }
    return ANE_OK;
}

/* Surfaces and symbol indices of one side, by name. */
static int bind_side(AneProgram *p, const AneProcedure *f, int side, const AnePortDef *ports, int32_t n, AneSurface *const *surfaces,
                     NSMutableArray *objects, NSMutableArray *indices, AneError *err) {
    const char *what = side ? "output" : "input";
    if (n != f->n_symbols[side])
        return ane_error_set(err, ANE_E_BIND, "%d %ss declared, the program has %d", n, what, f->n_symbols[side]);
    for (int32_t i = 0; i < n; i++) {
        int at = 0;
        while (at < f->n_symbols[side] && strcmp(f->symbol[side][at], ports[i].name) != 0)
            at++;
        if (at == f->n_symbols[side])
            return ane_error_set(err, ANE_E_BIND, "the program has no %s '%s' (its first is '%s')", what, ports[i].name,
                                 f->n_symbols[side] ? f->symbol[side][0] : "");
        int status = check_layout(p, f, side, &ports[i], &surfaces[i]->info, err);
        if (status != ANE_OK)
            return status;
        [objects addObject:surfaces[i]->wrapper];
        [indices addObject:[NSNumber numberWithInt:f->index[side][at]]];
    }
    return ANE_OK;
}

static int make_request(AneProgram *p, const AneKernelDef *k, AneSurface *const *inputs, AneSurface *const *outputs, void **out,
                        AneError *err) {
    NSMutableArray *in = [NSMutableArray array], *in_at = [NSMutableArray array];
    NSMutableArray *res = [NSMutableArray array], *res_at = [NSMutableArray array];
    const AneProcedure *f = NULL;
    int status = ane_find_procedure(p, k, &f, err);
    if (status == ANE_OK)
        status = bind_side(p, f, 0, k->inputs, k->n_inputs, inputs, in, in_at, err);
    if (status == ANE_OK)
        status = bind_side(p, f, 1, k->outputs, k->n_outputs, outputs, res, res_at, err);
    if (status != ANE_OK)
        return status;
    id<AneRequest> r = [(id<AneRequestClass>)(id)g.cls[CLS_REQUEST] requestWithInputs:in
                                                                           inputIndices:in_at
                                                                                outputs:res
                                                                          outputIndices:res_at
                                                                          weightsBuffer:nil
                                                                              perfStats:nil
                                                                         procedureIndex:[NSNumber numberWithInt:f->number]];
    if (!r || ![r validate])
        return ane_error_set(err, ANE_E_BIND, "the engine does not accept a request with %d inputs and %d outputs", k->n_inputs,
                             k->n_outputs);
    *out = [(id)r retain];
    return ANE_OK;
}

int ane_request_make(AneProgram *p, const AneKernelDef *k, AneSurface *const *inputs, AneSurface *const *outputs, void **out,
                     AneError *err) {
    int status = ane_need_open(err);
    if (status != ANE_OK)
        return status;
    ane_thread_enter();
    @autoreleasepool {
        @try {
            status = make_request(p, k, inputs, outputs, out, err);
        } @catch (NSException *x) {
            status = ane_threw(err, "bind", x);
        }
    }
    return status;
}

void ane_request_free(void *request) {
    if (!request)
        return;
    ane_thread_enter();
    @autoreleasepool {
        [(id)request release];
    }
}

/* ============================== Evaluation ================================ */

/* The driver cancelled the request: status 0x12, seen on macOS 27 when the engine powered
 * down as it came (third-party power notes). Nothing is wrong with program or request. */
static bool was_cancelled(NSError *e) {
    const char *text = [[e localizedDescription] UTF8String];
    return text && strstr(text, "status=0x12 ");
}

/* The inputs are as they were before a cancelled evaluation: none of their surfaces is an output too. */
static bool inputs_are_whole(id<AneRequest> r) {
    if (![r respondsToSelector:@selector(inputArray)] || ![r respondsToSelector:@selector(outputArray)])
        return false;
    NSArray *outputs = [r outputArray];
    for (id surface in [r inputArray])
        if ([outputs containsObject:surface])
            return false;
    return true;
}

/* The daemon does not know the handle: it restarted. */
static bool was_lost(NSError *e) {
    const char *text = [[e localizedDescription] UTF8String];
    return e && [e code] == 23 && text && strstr(text, "Program not found");
}

static BOOL say_evaluate(AneProgram *p, id<AneRequest> request, uint32_t qos, NSError **e) {
    *e = nil;
    return [p->model evaluateWithQoS:qos options:[NSDictionary dictionary] request:request error:e];
}

/* Under p->run. Each cure is tried once. */
static int evaluate(AneProgram *p, id<AneRequest> request, uint32_t qos, AneMended *mended, AneError *err) {
    NSError *e = nil;
    uint64_t begin = ane_now_ns();
    BOOL ok = say_evaluate(p, request, qos, &e);
    if (!ok && was_lost(e) && ane_prog_recover(p, qos)) {
        mended->reloaded = true;
        ok = say_evaluate(p, request, qos, &e);
    }
    if (!ok && was_cancelled(e) && inputs_are_whole(request)) {
        mended->retried = true;
        __atomic_add_fetch(&g.evals_retried, 1, __ATOMIC_RELAXED);
        ok = say_evaluate(p, request, qos, &e);
    }
    if (ok)
        return ANE_OK;
    int status = was_cancelled(e) ? ANE_E_CANCELLED : was_lost(e) ? ANE_E_LOST : e ? ANE_E_ENGINE : ANE_E_SILENT;
    return ane_refused(err, status, "evaluate", e, p->identity, qos, begin);
}

int ane_prog_eval(AneProgram *p, void *request, uint32_t qos, AneMended *mended, AneError *err) {
    int status = ANE_OK;
    AneMended unseen;
    ane_thread_enter();
    pthread_mutex_lock(&p->run);
    @autoreleasepool {
        @try {
            status = evaluate(p, (id)request, qos, mended ? mended : &unseen, err);
        } @catch (NSException *x) {
            status = ane_threw(err, "evaluate", x);
        }
    }
    pthread_mutex_unlock(&p->run);
    __atomic_add_fetch(&g.evals, 1, __ATOMIC_RELAXED);
    return status;
}
