// SPDX-License-Identifier: MIT
/* tool.h - the map of the tools: what softane-run and softane-dump share.
 *
 *   run.c      softane-run: evaluate a program on given or made-up inputs
 *   dump.c     softane-dump: the typed program, the plan, the memory map
 *   source.c   reading a program; errors with the line and a caret
 *   weights.c  where the weights of a program come from
 *   npy.c      NumPy's files, numbers of any dtype
 *
 * Programs, not a library: they print and exit. Exit status 0, 1 for a failure,
 * 2 for a wrong command line. */
#ifndef SOFTANE_TOOL_H
#define SOFTANE_TOOL_H

#include "../plan/plan.h"

enum { EXIT_GOOD = 0, EXIT_BAD = 1, EXIT_USAGE = 2 };

/* Print "NAME: text" to stderr. `tool` is set first by each main. */
extern const char *tool;
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ============================== Command line ============================== */

/* The value of option `name` at argv[*i]: "--name value" (moves *i) or
 * "--name=value". False when argv[*i] is another word; *value is NULL when the
 * value is missing. */
bool option(int argc, char **argv, int *i, const char *name, const char **value);

/* A whole number in [low, high]. False, with a complaint, for anything else. */
bool number(const char *name, const char *text, long low, long high, long *out);

/* ============================== Programs ================================== */

typedef struct {
    const char *path;
    char *text; /* sa_file-like: terminated by a 0 */
    size_t bytes;
    SaArena *arena;
    SaProgram *program;
} Source;

/* Read, parse and check. False after a complaint. source_free in any case. */
bool source_open(Source *s, const char *path);
void source_free(Source *s);

/* The error as compilers print it: place, text, line, caret. */
void source_complain(const Source *s, const SaError *err);

/* Index of a function; -1 after a complaint. NULL is the first one. */
int source_function(const Source *s, const char *name);

/* ============================== Random numbers ============================ */

/* A small generator: the same numbers everywhere for the same seed. */
typedef struct {
    uint64_t state;
} Random;
Random random_start(uint64_t seed, const char *name); /* a stream for each name */
double random_normal(Random *r);

/* ============================== Weights =================================== */

typedef struct {
    const char *name, *value; /* "w.bin", "w.npy" | "zeros" | "random" */
} Given;

typedef struct {
    const char *directory; /* stands for @model_path; NULL: that of the program */
    const char *all;       /* "zeros" or "random" for every file that is not named; NULL: read them */
    const Given *given;
    int n_given;
    uint64_t seed;
} Weights;

/* Fill in every constant that lies in a file. False after a complaint. */
bool weights_bind(const Source *s, const Weights *w, size_t *bytes);

/* ============================== Arrays ==================================== */

#define ARRAY_MAX_RANK 16

/* Numbers read from a file, C order. */
typedef struct {
    int rank;
    int64_t dim[ARRAY_MAX_RANK];
    size_t count;
    char dtype[4]; /* "f2", "i4", "b1" … */
    double *value; /* malloc'ed */
} Array;

bool npy_read(const char *path, Array *out); /* false after a complaint */
void array_free(Array *a);
bool npy_write(const char *path, const SaType *type, const void *data);

/* Same shape, apart from axes of size 1? */
bool array_fits(const Array *a, const SaType *type);
void array_shape(const Array *a, char *buf, size_t cap); /* "(1, 64, 1, 32)" */

/* One element of a dense array of a dtype. Conversions round to nearest even
 * and saturate integers. */
double element_get(SaDtype t, const void *data, size_t i);
void element_put(SaDtype t, void *data, size_t i, double value);

#endif
