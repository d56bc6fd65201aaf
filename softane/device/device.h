// SPDX-License-Identifier: MIT
/* device.h - the map of the device: everything behind the facade that is not
 * MIL and not arithmetic. It plays the daemon, the compiler service and the
 * driver of the real engine. Plain C and pthreads; knows no Foundation.
 *
 *   device.c    the one device struct, counters, softane_version/set/get
 *   setting.c   the table of settings, environment, parsing of values
 *   answer.c    the tables of errors: what the engine would say
 *   queue.c     one serial queue per QoS level
 *   timing.c    chip profiles; makes operations take as long as measured
 *   store.c     compiled programs by identity, reference counts, eviction
 *   compile.c   files on disk -> store entry
 *   load.c      store entry -> loaded program, limits, unload
 *   eval.c      binding of surfaces to symbols, one evaluation
 *   file.c      read and write whole files
 *
 * Flow: facade -> compile / load / eval / unload -> mil, plan, exec.
 *
 * Failpoints of this part; return(c) gives the failure named here:
 *   facade.compile   1 err=( CompilationFailure )  2 err=( InvalidMILProgram )
 *                    3 err=( InvalidCompilationParam )  4 err=()
 *                    5 NO without an error object
 *   facade.load      1 code 6 (0x20004)  2 code 6 (0x50004)  5 NO without an
 *                    error object, other c: code c of the table in answer.c
 *   facade.unload    1 code 17  5 NO without an error object, other c: code c
 *   facade.eval      1 status 0x1d, statusType 9; other c < 1000: status c,
 *                    statusType 9 (14: code 23, 15: code 3);
 *                    c >= 1000: statusType c / 1000, status or payload c % 1000;
 *                    999: NO without an error object (driver refused at once)
 *   facade.error.nil the failure that happens now hands out no error object
 *   facade.save      saveModelFiles cannot write (disk full)
 *   run.nan run.zero run.flip run.stale
 *                    evaluate says YES, but the first output is NaN, zero, has
 *                    one bit flipped; stale: nothing was computed
 *   budget.take      as if the compile limit were reached
 *   queue.submit     code 3, timed out, before anything was done
 *   queue.complete   the completion is lost: status 15, code 3 (evaluate)
 *   store.get        the entry is not found
 *   store.put        the compile succeeds, its result is not kept
 *   store.evict      drops every entry that nobody uses (on each put)
 *   device.gone      the daemon restarts: all handles invalid, store empty
 *   timing.sleep     reached at each modelled wait, also with timing=off */
#ifndef SA_DEVICE_H
#define SA_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "../plan/plan.h"

/* ============================== Answers =================================== */

typedef enum {
    SA_DOMAIN_NONE = 0, /* NO without an error object */
    SA_DOMAIN_ANE,      /* com.apple.appleneuralengine */
    SA_DOMAIN_COMPILER, /* com.apple.appleneuralengine.compiler */
    SA_DOMAIN_ESPRESSO  /* com.apple.appleneuralengine.espresso */
} SaDomain;

/* What one operation answers. The fields after `ok` are set on failure only. */
typedef struct {
    bool ok;
    SaDomain domain;
    int code;
    char text[1024]; /* what the engine would say */
    SaError why;     /* the precise reason; why.code SA_OK when there is none */
} SaAnswer;

/* The operation a failure belongs to: chooses the selector in its text. */
typedef enum { SA_DO_COMPILE, SA_DO_LOAD, SA_DO_UNLOAD, SA_DO_EVAL } SaDo;

/* The word in err=( … ) of a compile failure. */
typedef enum { SA_CE_COMPILATION = 1, SA_CE_INVALID_MIL, SA_CE_PARAM, SA_CE_EMPTY } SaCompileWord;

/* All of these fill *out and return false, so that `return sa_answer_…(…)`
 * reads well. `why` may be NULL. Any thread. */
bool sa_answer_silent(SaAnswer *out, const SaError *why);
bool sa_answer_code(SaAnswer *out, SaDo what, int code, const SaError *why);
bool sa_answer_load(SaAnswer *out, unsigned detail, const SaError *why); /* code 6 with its (0x…) */
bool sa_answer_compile(SaAnswer *out, SaCompileWord word, const char *directory, const SaError *why);
bool sa_answer_espresso(SaAnswer *out, const char *directory);
bool sa_answer_status(SaAnswer *out, unsigned type, unsigned status, const SaError *why);
bool sa_answer_injected(SaAnswer *out, SaDo what, const char *directory, int code); /* see Failpoints */

const char *sa_domain_name(SaDomain d); /* NULL for SA_DOMAIN_NONE; static storage */
const char *sa_answer_text(int code);   /* text of ane code 1…29, NULL otherwise */
SaCompileWord sa_compile_word(SaStatus code);

/* ============================== Settings ================================== */

/* X(ID, "key", kind, "default"). The kinds are explained in setting.c. */
#define SA_SETTINGS(X) \
    X(COMPILE_LIMIT, "compile_limit", COUNT, "119") \
    X(LOADED_LIMIT, "loaded_limit", COUNT, "128") \
    X(LOADED_BYTES, "loaded_bytes", COUNT, "4294967296") \
    X(STORE_BYTES, "store_bytes", COUNT, "67108864") \
    X(UNLOAD_PURGES, "unload_purges", FLAG, "0") \
    X(NUMERICS, "numerics", NUMERICS, "fast") \
    X(TIMING, "timing", TIMING, "off") \
    X(TIMING_SCALE, "timing_scale", REAL, "1") \
    X(THREADS, "threads", COUNT, "0") \
    X(FAILPOINTS, "failpoints", FAILPOINTS, "") \
    X(STAGING, "staging", DIRECTORY, "") \
    X(LOG, "log", LOG, "off")

typedef enum {
#define SA_SETTING_ENUM(id, key, kind, text) SA_SET_##id,
    SA_SETTINGS(SA_SETTING_ENUM)
#undef SA_SETTING_ENUM
    SA_SET_COUNT
} SaSettingId;

/* ============================== Store ===================================== */

/* A compiled program. Counts are guarded by the device lock; the rest is
 * constant after sa_store_put. */
typedef struct SaEntry {
    char *identity;
    SaPlan *plan;
    size_t weight_bytes;   /* of BLOBFILE constants: what the engine would map */
    size_t resident_bytes; /* of the plan, here */
    int ops;               /* non-const operations */
    int procedures;
    int *first_input, *first_output; /* [procedures + 1] symbol index of a procedure's first port */
    char **blobs;          /* weight files named in the text, as written there */
    int n_blobs;
    int refs;              /* store, pins, loaded programs */
    int users;             /* pins and loaded programs: not evicted while > 0 */
    bool stored;
    uint64_t stamp;        /* last use, for eviction */
    struct SaEntry *next;
} SaEntry;

/* A plan and what belongs to it -> an entry with one use (a pin) for the
 * caller. Takes over the plan, also on failure. NULL when out of memory. */
SaEntry *sa_entry_new(const char *identity, SaPlan *plan, const SaProgram *program, size_t weight_bytes);

/* Put a fresh entry into the store; an older entry of the same identity leaves
 * it (its users keep it). Evicts unused entries above store_bytes. */
void sa_store_put(SaEntry *e);

/* Find by identity and pin. NULL when there is none. */
SaEntry *sa_store_get(const char *identity);
bool sa_store_has(const char *identity);

/* Drop one entry, or all when identity is NULL. Users keep theirs. */
void sa_store_purge(const char *identity);

/* End one use. NULL is fine. */
void sa_entry_unpin(SaEntry *e);

/* ============================== Queues ==================================== */

#define SA_QUEUES 8

int sa_queue_index(unsigned qos);    /* 0…7 */
int sa_queue_priority(unsigned qos); /* program priority */
void sa_queue_enter(unsigned qos);   /* blocks behind the operations of this level */
void sa_queue_leave(unsigned qos);

/* ============================== Timing ==================================== */

typedef struct {
    const char *name;
    double compile_ms, op_ms, mib_ms; /* compile = compile_ms + op_ms * ops + mib_ms * MiB */
    double load_ms, unload_ms;
    double floor_ms, tflops;          /* eval = floor + FLOP / tflops */
    double busy;                      /* eval factor while a compile runs */
} SaProfile;

const SaProfile *sa_profile_find(const char *name); /* NULL when unknown */
const SaProfile *sa_profile(void);                  /* of the setting; NULL = off */
uint64_t sa_now_ns(void);                           /* monotonic */
void sa_timing_wait(uint64_t start_ns, double ms);  /* until start + ms * scale; no CPU used */
double sa_timing_compile_ms(const SaProfile *p, const SaEntry *e);
void sa_timing_eval(uint64_t start_ns, double flops); /* one at a time, as on the engine */

/* ============================== Programs ================================== */

/* Where a program comes from. */
typedef struct {
    const char *identity;   /* key in the store */
    const char *directory;  /* holds the source and its weights; NULL: load by identity only */
    const char *file;       /* source inside directory; NULL = "model.mil" */
    const char *model_type; /* "kANEFModelMIL", …; NULL: the option is missing */
    bool replace;           /* compile although the identity is known */
} SaSource;

typedef struct SaLoaded {
    atomic_int users;     /* the load itself and evaluations in flight; 0 = dead */
    atomic_int holders;   /* who may still look at this struct */
    SaEntry *entry;       /* pinned while users > 0 */
    uint64_t handle;
    bool listed;          /* device lock */
    struct SaLoaded *next;
} SaLoaded;

/* Compile on the queue of `qos`. On success *pin (may be NULL) receives a use
 * of the entry, to be ended with sa_entry_unpin. Any thread. */
bool sa_device_compile(const SaSource *src, unsigned qos, SaEntry **pin, SaAnswer *out);

/* Load on the queue of `qos`; compiles first when the identity is not known
 * and a directory is given. *loaded is held for the caller: sa_loaded_release
 * frees the struct but does not unload. Any thread. */
bool sa_device_load(const SaSource *src, unsigned qos, SaLoaded **loaded, SaAnswer *out);

/* Unload on the queue of `qos`. Evaluations in flight finish. Any thread. */
bool sa_device_unload(SaLoaded *loaded, unsigned qos, SaAnswer *out);

void sa_loaded_release(SaLoaded *loaded);    /* NULL is fine */
SaLoaded *sa_loaded_find(uint64_t handle);   /* held for the caller, or NULL */
bool sa_loaded_alive(const SaLoaded *loaded); /* counts as loaded now; false for NULL */

/* Begin and end an evaluation; false when the program is gone. */
bool sa_loaded_enter(SaLoaded *loaded);
void sa_loaded_leave(SaLoaded *loaded);

/* One surface bound to a symbol. */
typedef struct {
    int symbol;
    void *base;
    size_t bytes;
} SaSlot;

typedef struct {
    SaSlot *inputs, *outputs;
    int n_inputs, n_outputs; /* 1…255 */
    int procedure;
} SaBinding;

/* Evaluate. QoS 17 and 9 run on the calling thread only. Does not use the
 * queues; the caller reports a failure there. Any thread. */
bool sa_device_eval(SaLoaded *loaded, const SaBinding *b, unsigned qos, SaAnswer *out);

/* ============================== Files ===================================== */

/* Whole file -> sa_malloc'ed bytes, zero-terminated. SA_E_IO, SA_E_LIMIT, SA_E_MEMORY. */
SaStatus sa_file_read(const char *path, size_t limit_bytes, char **bytes, size_t *count, SaError *err);
/* Written beside its final name, then renamed: readers see all or nothing. */
SaStatus sa_file_write(const char *path, const void *bytes, size_t count, SaError *err);
bool sa_file_exists(const char *path);

/* ============================== The device ================================ */

/* All state of softane that outlives a call. One per process. */
typedef struct {
    pthread_mutex_t lock;              /* settings text, store, list of loaded programs */
    char *text[SA_SET_COUNT];          /* as set; NULL = default */
    _Atomic uint64_t value[SA_SET_COUNT]; /* parsed; bits of a double for REAL */

    pthread_mutex_t queue[SA_QUEUES];

    SaEntry *store;
    size_t store_bytes;                /* of entries without users */
    size_t store_all_bytes;
    int store_entries;
    uint64_t clock;                    /* stamps */

    SaLoaded *loaded;
    uint64_t loaded_count, loaded_bytes, last_handle;

    uint64_t engine_free_ns;           /* timing: when the engine ends its last evaluation */

    _Atomic uint64_t compiles, compile_failures, loads, evals, surfaces;
    _Atomic int compiling;             /* compiles running now */
} SaDevice;

/* The device, made on first use (reads the environment). Never NULL. */
SaDevice *sa_device(void);

/* Settings as numbers. (No atomic_load in a header that Objective-C files
 * include: with GCC's headers on the path clang takes its macros, which do not
 * accept _Atomic objects.) */
static inline uint64_t sa_setting(SaSettingId id) { return sa_device()->value[id]; }
double sa_setting_real(SaSettingId id);
int sa_setting_set(SaDevice *d, const char *key, const char *value);            /* 0 or -1 */
int sa_setting_get(SaDevice *d, const char *key, char *buf, size_t cap);        /* 0 or -1 */
void sa_setting_init(SaDevice *d);                                              /* defaults, then environment */

/* Failpoint device.gone: forget every handle and the whole store. */
void sa_device_lose(void);

#endif
