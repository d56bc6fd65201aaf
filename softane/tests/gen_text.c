// SPDX-License-Identifier: MIT
/* gen_text.c - prints random valid programs (gen_program.h), a line "// seed N" before each.
 *
 * Usage: gen_text FIRST_SEED COUNT OPERATIONS. For tests outside of C; exit 1 on failure. */
#include <stdio.h>
#include <stdlib.h>

#include "gen_program.c" /* one program, one translation unit */

int main(int argc, char **argv) {
    if (argc != 4)
        return 1;
    uint64_t first = strtoull(argv[1], NULL, 10), count = strtoull(argv[2], NULL, 10);
    for (uint64_t seed = first; seed < first + count; seed++) {
        SaArena *arena = sa_arena_new(0);
        GenOptions options = {.seed = seed, .n_ops = (int)strtol(argv[3], NULL, 10), .integers = false, .dialect = 'A'};
        SaProgram *program = arena ? gen_program(arena, &options, NULL) : NULL;
        char *text = NULL;
        bool good = program && sa_program_print(program, &text) == SA_OK;
        if (good)
            printf("// seed %llu\n%s", (unsigned long long)seed, text);
        sa_free(text);
        sa_arena_free(arena);
        if (!good)
            return 1;
    }
    return 0;
}
