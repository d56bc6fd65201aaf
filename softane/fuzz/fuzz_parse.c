// SPDX-License-Identifier: MIT
/* fuzz_parse.c - parser and validator: a program, or an error that says what. */
#include "fuzz_common.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = fuzz_text(data, &size);
    SaArena *arena = sa_arena_new((size_t)64 << 20);
    if (arena)
        fuzz_program(arena, text, size);
    sa_arena_free(arena);
    return 0;
}
