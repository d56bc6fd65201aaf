// SPDX-License-Identifier: MIT
/* gen_program.h - random valid MIL programs, driven by the table of operations.
 *
 * An operation is taken from the table, its operands are made up by kind and
 * name, and the table's own rule says whether they fit and what comes out; if
 * not, it is tried again. So every operation of the table takes part, and a new
 * one needs help here only if chance hardly ever meets its rule. */
#ifndef SA_TESTS_GEN_PROGRAM_H
#define SA_TESTS_GEN_PROGRAM_H

#include "../mil/mil_internal.h"

typedef struct {
    uint64_t seed;
    int n_ops;             /* wanted, constants not counted; at most GEN_MAX_OPS */
    bool integers;         /* only operations that are exact on small integers, all values at most 2048 */
    char dialect;          /* 'A' or 'B' */
} GenOptions;

enum { GEN_MAX_OPS = 40 };

/* A program of one function; memory from the arena. Outputs are its results
 * that nobody reads. NULL when memory is short. `seen` (may be NULL) is marked
 * with the operations used. */
SaProgram *gen_program(SaArena *arena, const GenOptions *options, bool seen[SA_OP_COUNT]);

/* The same function with every fp16 and fp32 result an output. */
SaProgram *gen_all_outputs(SaArena *arena, const SaProgram *p);

#endif
