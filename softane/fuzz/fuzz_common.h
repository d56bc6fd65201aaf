// SPDX-License-Identifier: MIT
/* fuzz_common.h - what the fuzz targets share: limits that keep one input cheap,
 * and the stages. A target is LLVMFuzzerTestOneInput; a failed promise traps. */
#ifndef SA_FUZZ_COMMON_H
#define SA_FUZZ_COMMON_H

#include "../mil/mil_internal.h"
#include "../plan/plan.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PROMISE(e) do { if (!(e)) __builtin_trap(); } while (0)

/* Small tensors, few operations, and everything softane can compute. */
static inline SaLimits fuzz_limits(void) {
    SaLimits l;
    sa_limits_default(&l);
    l.max_dim = 96;
    l.max_ops = 300;
    l.max_text_bytes = 1 << 16;
    l.allow_refused = true;
    return l;
}

/* The text without the corpus's leading lines of "#". */
static inline const char *fuzz_text(const uint8_t *data, size_t *size) {
    const char *s = (const char *)data, *end = s + *size;
    while (s < end && *s == '#') {
        const char *line = memchr(s, '\n', (size_t)(end - s));
        s = line ? line + 1 : end;
    }
    *size = (size_t)(end - s);
    return s;
}

/* Parse and check. An error must be said; the program belongs to the arena. */
static inline SaProgram *fuzz_program(SaArena *arena, const char *text, size_t size) {
    SaLimits limits = fuzz_limits();
    SaProgram *p = NULL;
    SaError err = {0};
    SaStatus st = sa_program_parse(arena, text, size, &limits, &p, &err);
    if (st == SA_OK)
        st = sa_program_check(arena, p, &limits, &err);
    PROMISE(st == SA_OK || (err.code == st && err.text[0]));
    PROMISE(err.pos.line >= 0 && err.pos.col >= 0 && strlen(err.text) < sizeof err.text);
    return st == SA_OK ? p : NULL;
}

/* Are all values small, so that a plan and a run are cheap? */
static inline bool fuzz_small(const SaProgram *p, int64_t most) {
    int64_t all = 0;
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_ops; i++)
            for (int k = 0; k < p->functions[f].ops[i].n_results; k++) {
                int64_t n = sa_type_count(&p->functions[f].ops[i].results[k]->type);
                all += n;
                if (n > most || all > 20 * most)
                    return false;
            }
    for (int f = 0; f < p->n_functions; f++)
        for (int i = 0; i < p->functions[f].n_params; i++)
            if (sa_type_count(&p->functions[f].params[i]->type) > most)
                return false;
    return true;
}

#endif
