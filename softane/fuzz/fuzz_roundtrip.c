// SPDX-License-Identifier: MIT
/* fuzz_roundtrip.c - what was printed parses, and prints the same again. */
#include "fuzz_common.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = fuzz_text(data, &size);
    SaArena *arena = sa_arena_new((size_t)64 << 20);
    char *first = NULL, *second = NULL;
    SaProgram *p = arena ? fuzz_program(arena, text, size) : NULL;
    if (p && sa_program_print(p, &first) == SA_OK && strlen(first) <= fuzz_limits().max_text_bytes) {
        SaProgram *q = fuzz_program(arena, first, strlen(first));
        PROMISE(q && q->n_live_ops == p->n_live_ops);
        if (sa_program_print(q, &second) == SA_OK)
            PROMISE(strcmp(first, second) == 0);
    }
    sa_free(first);
    sa_free(second);
    sa_arena_free(arena);
    return 0;
}
