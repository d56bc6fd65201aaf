// SPDX-License-Identifier: MIT
/* answer.c - what the engine says when something fails: domains, codes, texts.
 * Tables first. The texts must stay byte for byte: programs compare them.
 * Source: facts, ane-api.md §8.4 and §9; where public logs show the text of a
 * whole message, their spelling (no blank before the last colon) is used. */
#include "device.h"

#include <stdio.h>
#include <string.h>

/* ============================== Tables ==================================== */

static const char *const domain_names[] = {
    [SA_DOMAIN_NONE] = NULL,
    [SA_DOMAIN_ANE] = "com.apple.appleneuralengine",
    [SA_DOMAIN_COMPILER] = "com.apple.appleneuralengine.compiler",
    [SA_DOMAIN_ESPRESSO] = "com.apple.appleneuralengine.espresso",
};

/* Index = code. */
static const char *const code_texts[] = {
    [1] = "requires restricted access connection and (com.apple.aned.private.allow) entitlement",
    [2] = "Realtime priority requires restricted access connection and (com.apple.aned.private.allow) entitlement",
    [3] = "timed out",
    [4] = "Program creation failure",
    [5] = "Program Inference overflow",
    [6] = "Program load failure",
    [7] = "Missing code signing identity",
    [8] = "Program Inference error",
    [9] = "file access failure",
    [10] = "invalid model",
    [11] = "invalid model key",
    [12] = "system model purge not allowed",
    [13] = "Program IOSurfaces map failure (0x12)",
    [14] = "Program IOSurfaces unmap failure (0x12)",
    [15] = "Program chaining prepare error",
    [16] = "file not found",
    [17] = "model identifier not found",
    [18] = "base model identifier not found for new instance",
    [19] = "model cacheURLIdentifier for new instance should be nil",
    [20] = "invalid model instance",
    [21] = "Program load new instance failure",
    [22] = "Host too old, ANE hardware not available",
    [23] = "Program Inference error (program not found)",
    [24] = "Data not found error",
    [25] = "Not supported",
    [26] = "Bad argument error",
    [27] = "Virtualization data error",
    [28] = "Virtualization kernel call failed with error 0x0",
    [29] = "Virtualization unknown host-side error",
};
#define CODES ((int)(sizeof code_texts / sizeof code_texts[0]))

/* The selector a text begins with. */
static const char *const selectors[] = {
    [SA_DO_COMPILE] = "compileModel:options:qos:error:",
    [SA_DO_LOAD] = "loadModel:options:qos:error:",
    [SA_DO_UNLOAD] = "unloadModel:options:qos:error:",
    [SA_DO_EVAL] = "processRequest:model:qos:qIndex:modelStringID:options:returnValue:error:",
    [SA_DO_DIRECT] = "doEvaluateDirectWithModel:options:request:qos:error:",
    [SA_DO_CHAIN] = "prepareChainingWithModel:options:chainingReq:qos:error:",
    [SA_DO_ENQUEUE] = "enqueueSetsWithModel:outputSet:options:qos:error:",
    [SA_DO_READY] = "buffersReadyWithModel:inputBuffers:options:qos:error:",
    [SA_DO_INSTANCE] = "loadModelNewInstance:options:modelInstParams:qos:error:",
    [SA_DO_MAP] = "mapIOSurfacesWithModel:request:cacheInference:error:",
};

/* Code 6 comes from the daemon, under the daemon's own selector. */
static const char load_selector[] =
    "createProgramInstanceForModel:modelToken:qos:isPreCompiled:enablePowerSaving:skipPreparePhase:statsMask:"
    "memoryPoolID:enableLateLatch:modelIdentityStr:owningPid:cacheUrlIdentifier:aotCacheUrlIdentifier:error:";

static const char *const compile_words[] = {
    [SA_CE_COMPILATION] = "err=( CompilationFailure )",
    [SA_CE_INVALID_MIL] = "err=( InvalidMILProgram )",
    [SA_CE_PARAM] = "err=( InvalidCompilationParam )",
    [SA_CE_EMPTY] = "err=()",
};

/* Statuses of statusType 9 with a code of their own; all others are code 8. */
#define STATUS_NOT_FOUND 14u
#define STATUS_TIMEOUT 15u

const char *sa_domain_name(SaDomain d) { return domain_names[d]; }

const char *sa_answer_text(int code) { return code >= 1 && code < CODES ? code_texts[code] : NULL; }

/* A program that breaks a rule is invalid; one that the device cannot take
 * fails to compile. */
SaCompileWord sa_compile_word(SaStatus code) {
    switch (code) {
    case SA_E_MEMORY:
    case SA_E_LIMIT:
    case SA_E_STATE:
    case SA_E_INJECTED: return SA_CE_COMPILATION;
    case SA_E_BUDGET: return SA_CE_EMPTY;
    default: return SA_CE_INVALID_MIL;
    }
}

/* ============================== Filling =================================== */

static bool begin(SaAnswer *out, SaDomain domain, int code, const SaError *why) {
    out->ok = false;
    out->domain = domain;
    out->code = code;
    out->text[0] = 0;
    if (why)
        out->why = *why;
    else
        memset(&out->why, 0, sizeof out->why);
    return false;
}

bool sa_answer_silent(SaAnswer *out, const SaError *why) { return begin(out, SA_DOMAIN_NONE, 0, why); }

bool sa_answer_code(SaAnswer *out, SaDo what, int code, const SaError *why) {
    if (!sa_answer_text(code))
        code = 8;
    begin(out, SA_DOMAIN_ANE, code, why);
    const char *selector = code == 6 || code == 4 ? load_selector : selectors[what];
    snprintf(out->text, sizeof out->text, "%s: %s", selector, code_texts[code]);
    return false;
}

bool sa_answer_load(SaAnswer *out, unsigned detail, const SaError *why) {
    begin(out, SA_DOMAIN_ANE, 6, why);
    snprintf(out->text, sizeof out->text, "%s: %s (0x%X)", load_selector, code_texts[6], detail);
    return false;
}

bool sa_answer_compile(SaAnswer *out, SaCompileWord word, const char *directory, const SaError *why) {
    begin(out, SA_DOMAIN_COMPILER, 1, why);
    snprintf(out->text, sizeof out->text, "ANECCompile(%.800s) FAILED: %s", directory ? directory : "",
             compile_words[word]);
    return false;
}

bool sa_answer_espresso(SaAnswer *out, const char *directory) {
    SaError why;
    sa_error_set(&why, SA_E_OPERAND, (SaPos){0, 0}, "option kANEFModelType is missing: pass kANEFModelMIL");
    begin(out, SA_DOMAIN_ESPRESSO, -1, &why);
    snprintf(out->text, sizeof out->text, "_ANEEspressoIRTranslator : error Cannot load network '%.800s/model.espresso.net'",
             directory ? directory : "");
    return false;
}

/* The notification of the driver, as the framework words it. */
bool sa_answer_status(SaAnswer *out, unsigned type, unsigned status, const SaError *why) {
    const char *sel = selectors[SA_DO_EVAL];
    if (type == 19) { /* here `status` is the payload of the event */
        begin(out, SA_DOMAIN_ANE, status ? 5 : 8, why);
        if (status)
            snprintf(out->text, sizeof out->text, "%s: 0x%x: Program Inference overflow", sel, status);
        else
            snprintf(out->text, sizeof out->text, "%s: Expecting EventPayLoad 0x13: Program Inference error", sel);
        return false;
    }
    int code = status == STATUS_NOT_FOUND ? 23 : status == STATUS_TIMEOUT ? 3 : 8;
    const char *tail = code == 23 ? "Program not found: Program Inference error"
                     : code == 3  ? "Program Inference timeout: timed out"
                                  : "Program Inference error";
    begin(out, SA_DOMAIN_ANE, code, why);
    snprintf(out->text, sizeof out->text, "%s: ANEProgramProcessRequestDirect() Failed with status=0x%x : statusType=0x%x: %s",
             sel, status, type, tail);
    return false;
}

/* ============================== Failpoints ================================ */

bool sa_answer_injected(SaAnswer *out, SaDo what, const char *directory, int code) {
    SaError why;
    sa_error_set(&why, SA_E_INJECTED, (SaPos){0, 0}, "failpoint, code %d", code);
    if (what == SA_DO_EVAL) {
        if (code == 999)
            return sa_answer_silent(out, &why);
        if (code >= 1000)
            return sa_answer_status(out, (unsigned)code / 1000, (unsigned)code % 1000, &why);
        return sa_answer_status(out, 9, code == 1 ? 0x1d : (unsigned)code, &why);
    }
    if (code == 5)
        return sa_answer_silent(out, &why);
    switch (what) {
    case SA_DO_COMPILE:
        return sa_answer_compile(out, code >= 1 && code <= 4 ? (SaCompileWord)code : SA_CE_COMPILATION, directory, &why);
    case SA_DO_LOAD:
        if (code == 1 || code == 2)
            return sa_answer_load(out, code == 1 ? 0x20004 : 0x50004, &why);
        return sa_answer_code(out, what, code, &why);
    default: return sa_answer_code(out, what, code == 1 ? 17 : code, &why);
    }
}
