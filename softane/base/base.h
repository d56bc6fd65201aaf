// SPDX-License-Identifier: MIT
/* base.h - what every other part of softane stands on: statuses, errors with
 * a place, arenas, checked arithmetic, fp16 scalars, SHA-256, failpoints, log.
 * Uses libc only; knows nothing of MIL, plans or devices.
 *
 *   status.c     sa_status_name, sa_error_set
 *   arena.c      sa_arena_*
 *   half.c       sa_half_*        scalar fp16, the definition of the rounding
 *   sha256.c     sa_sha256_*
 *   failpoint.c  sa_failpoint_*
 *   log.c        sa_log */
#ifndef SA_BASE_H
#define SA_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ============================== Status ==================================== */

typedef enum {
    SA_OK = 0,
    SA_E_MEMORY,   /* out of memory */
    SA_E_SYNTAX,   /* the text does not follow the grammar */
    SA_E_NAME,     /* undefined or doubly defined identifier */
    SA_E_OP,       /* unknown operation, or one refused here */
    SA_E_OPERAND,  /* missing, unknown or ill-formed operand */
    SA_E_TYPE,     /* dtype or declared type differs from the inferred one */
    SA_E_SHAPE,    /* shapes do not fit the operation */
    SA_E_LIMIT,    /* a limit of the device or of softane */
    SA_E_BLOB,     /* a weight file is damaged or does not fit its tensor */
    SA_E_IO,       /* a file could not be read or written */
    SA_E_STATE,    /* not loaded, gone, closed */
    SA_E_BUDGET,   /* compile or load budget spent */
    SA_E_BIND,     /* surface too small, wrong symbol or procedure index */
    SA_E_INJECTED  /* a failpoint said so */
} SaStatus;

typedef struct {
    int line, col; /* 1-based; 0 = not in the text */
} SaPos;

/* The precise reason, for the log and the NSDebugDescription of an NSError. */
typedef struct {
    SaStatus code;
    SaPos pos;
    char op[48];      /* MIL operation, "" when none */
    char text[400];   /* "operand 'axis': expected int32 const, got fp16" */
} SaError;

/* Run `expr`; on failure return its status to the caller. The only macro in
 * this library that changes control flow. */
#define SA_TRY(expr) do { SaStatus s_ = (expr); if (s_ != SA_OK) return s_; } while (0)

const char *sa_status_name(SaStatus code); /* "E_SYNTAX"; static storage */

/* Fill *err (may be NULL) and return `code`. */
SaStatus sa_error_set(SaError *err, SaStatus code, SaPos pos, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* "line:col: E_SHAPE: conv: text" into buf. */
void sa_error_format(const SaError *err, char *buf, size_t cap);

/* ============================== Memory ==================================== */

/* Products and sums that must not wrap. Return false on overflow. */
static inline bool sa_mul_ok(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool sa_add_ok(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* All allocations of softane's C parts go through these (failpoint
 * "arena.alloc"). sa_malloc zeroes and aligns to 64. NULL on failure. */
void *sa_malloc(size_t bytes);
void sa_free(void *p);

/* An arena: many allocations, one free. Not thread-safe. */
typedef struct SaArena SaArena;
SaArena *sa_arena_new(size_t limit_bytes); /* NULL on failure; 0 = no limit */
void *sa_arena_alloc(SaArena *a, size_t bytes); /* zeroed, 16-aligned; NULL on failure */
void *sa_arena_alloc_raw(SaArena *a, size_t bytes); /* the same, not zeroed: to be filled at once */
char *sa_arena_strndup(SaArena *a, const char *s, size_t n);
void sa_arena_free(SaArena *a); /* NULL is fine */

/* ============================== fp16 ====================================== */

/* Scalar conversions: the definition that the vector kernels are tested
 * against. `away`: round half away from zero as the engine stores
 * (facts: first to 11 significant bits, then onto the 2^-24 grid; overflow
 * from 65520 up gives inf). `even`: IEEE, as numpy and cvt instructions do.
 * NaN stays NaN. */
uint16_t sa_half_from_float_away(float f);
uint16_t sa_half_from_float_even(float f);
float sa_half_to_float(uint16_t h);

/* ============================== SHA-256 =================================== */

typedef struct {
    uint32_t h[8];
    uint64_t bytes;
    uint8_t block[64];
    size_t fill;
} SaSha256;
void sa_sha256_init(SaSha256 *s);
void sa_sha256_update(SaSha256 *s, const void *data, size_t bytes);
void sa_sha256_final(SaSha256 *s, uint8_t out[32]);

/* ============================== Failpoints ================================ */

/* Grammar (after tikv/fail-rs): "name=[p%][cnt*]action[(arg)]->...;name2=..."
 * Actions: off, return(code), delay(ms), hold (until the point is set anew),
 * abort, kill. Terms of one point are used up from left to right; a term
 * without cnt lasts for ever. Text replaces all points; "" clears them.
 * Returns SA_OK or SA_E_SYNTAX. Any thread. */
SaStatus sa_failpoint_configure(const char *text);

/* At a point: does delay/hold/abort/kill; returns 0, or the code of
 * return(code) (1 when no code is given). Costs one load when no point is set. */
int sa_failpoint_hit(const char *name);
extern volatile int sa_failpoints_armed;
#define SA_FAILPOINT(name) (__atomic_load_n(&sa_failpoints_armed, __ATOMIC_RELAXED) ? sa_failpoint_hit(name) : 0)

/* ============================== Log ======================================= */

typedef enum { SA_LOG_OFF = 0, SA_LOG_ERROR, SA_LOG_INFO } SaLogLevel;
void sa_log_set_level(SaLogLevel level);
void sa_log(SaLogLevel level, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* one line to stderr */

#endif
