// SPDX-License-Identifier: MIT
/* device.h - the map of the device: everything behind the facade that is not
 * MIL and not arithmetic. It plays the daemon, the compiler service and the
 * driver of the real engine. Plain C and pthreads; knows no Foundation.
 *
 *   device.c    the one device struct, counters, softane_version/set/get
 *   setting.c   the table of settings, environment, parsing of values
 *   profile.c   device profiles: text of a chip -> values of settings
 *   answer.c    the tables of errors: what the engine would say
 *   queue.c     one serial queue per QoS level, direct evaluations
 *   timing.c    makes operations take as long as the profile says
 *   store.c     compiled programs by identity, reference counts, eviction
 *   symbol.c    which symbol means which port (order modes)
 *   container.c store entry <-> bytes of a file
 *   shared.c    the store's files: partition, locks, damage, eviction
 *   compile.c   files on disk -> store entry
 *   quirk.c     programs this chip refuses although they are valid
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
 *   shared.get       the file of an entry is not found
 *   shared.put       the file of an entry cannot be written (disk full)
 *   shared.rename    the same, when its bytes are written already
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
typedef enum {
    SA_DO_COMPILE, SA_DO_LOAD, SA_DO_UNLOAD, SA_DO_EVAL,
    SA_DO_DIRECT, SA_DO_CHAIN, SA_DO_ENQUEUE, SA_DO_READY, SA_DO_INSTANCE, SA_DO_MAP
} SaDo;

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

/* X(ID, "key", KIND, "default", "words of a WORD"). The kinds are explained in
 * setting.c; what a setting does is written in softane.h. Default NULL: the
 * value comes from the profile, and profiles may name the key. */
#define SA_SETTINGS(X) \
    X(PROFILE, "profile", PROFILE, "default", "") \
    X(TIMING, "timing", TIMING, "off", "") \
    X(TIMING_SCALE, "timing_scale", REAL, "1", "") \
    X(JITTER, "jitter", REAL, "0", "") \
    X(SEED, "seed", COUNT, "0", "") \
    X(STORE, "store", WORD, "process", "process|shared") \
    X(STORE_DIR, "store_dir", PATH, "", "") \
    X(STORE_BYTES, "store_bytes", COUNT, "16777216", "") \
    X(STORE_DISK_BYTES, "store_disk_bytes", COUNT, "2147483648", "") \
    X(PARTITION, "partition", TEXT, "", "") \
    X(ENTITLED, "entitled", FLAG, "0", "") \
    X(VALUE_FAILS, "value_fails", COUNT, "0", "") \
    X(THREADS, "threads", COUNT, "0", "") \
    X(FAILPOINTS, "failpoints", FAILPOINTS, "", "") \
    X(STAGING, "staging", DIRECTORY, "", "") \
    X(LOG, "log", WORD, "off", "off|error|info") \
    /* limits of the compiler */ \
    X(MAX_DIM, "max_dim", COUNT, NULL, "") \
    X(MAX_WIDTH, "max_width", COUNT, NULL, "") \
    X(MAX_CONV_IN, "max_conv_in", COUNT, NULL, "") \
    X(MAX_KERNEL_WIDTH, "max_kernel_width", COUNT, NULL, "") \
    X(DIALECT_A, "dialect_a", FLAG, NULL, "") \
    X(DIALECT_B, "dialect_b", FLAG, NULL, "") \
    X(REDUCE_ZERO_FAILS, "reduce_zero_fails", FLAG, NULL, "") \
    X(SINGLE_OP_FAILS, "single_op_fails", FLAG, NULL, "") \
    X(BLOBS, "blobs", WORD, NULL, "refuse|garbage") /* SaBlobMode */ \
    /* limits of a process */ \
    X(COMPILE_LIMIT, "compile_limit", COUNT, NULL, "") \
    X(COMPILE_LIMIT_MODE, "compile_limit_mode", WORD, NULL, "refuse|load|crash") \
    X(LOADED_LIMIT, "loaded_limit", COUNT, NULL, "") \
    X(LOADED_BYTES, "loaded_bytes", COUNT, NULL, "") \
    X(PROGRAM_BYTES, "program_bytes", COUNT, NULL, "") \
    /* requests */ \
    X(ORDER, "order", WORD, NULL, "name|declaration|size|random") \
    X(PROCEDURES, "procedures", WORD, NULL, "correct|first") \
    X(WIDTH_RULE, "width_rule", WORD, NULL, "stride|fail") \
    X(THIN_CHANNELS, "thin_channels", COUNT, NULL, "") \
    X(STAGING_EVALS, "staging_evals", OFF_OR_COUNT, NULL, "") \
    X(AFTER_UNLOAD, "after_unload", WORD, NULL, "notfound|silent") \
    X(ASYNC_WAIT_MS, "async_wait_ms", COUNT, NULL, "") \
    X(DIRECT_LIMIT, "direct_limit", COUNT, NULL, "") \
    X(DIRECT_WAIT_MS, "direct_wait_ms", COUNT, NULL, "") \
    /* the daemon */ \
    X(UNLOAD_PURGES, "unload_purges", FLAG, NULL, "") \
    X(REALTIME, "realtime", WORD, NULL, "allow|refuse") \
    X(QOS_OVERLAP, "qos_overlap", FLAG, NULL, "") \
    /* numerics */ \
    X(NUMERICS, "numerics", WORD, NULL, "fast|ieee|silicon") \
    X(CONV3X3, "conv3x3", WORD, NULL, "direct|winograd") \
    X(DOT_LIMIT, "dot_limit", REAL, NULL, "") \
    X(SLICE_CLAMP, "slice_clamp", REAL, NULL, "") \
    X(SDPA_MASK, "sdpa_mask", WORD, NULL, "ignore|honour") \
    X(SUBNORMALS, "subnormals", WORD, NULL, "keep|flush") \
    X(TABLES, "tables", WORD, NULL, "exact|quantised") \
    /* timing: from COMPILE_MS to BUSY, taken from the chip that `timing` names */ \
    X(COMPILE_MS, "compile_ms", REAL, NULL, "") \
    X(OP_MS, "op_ms", REAL, NULL, "") \
    X(MIB_MS, "mib_ms", REAL, NULL, "") \
    X(FIRST_COMPILE, "first_compile", REAL, NULL, "") \
    X(PARALLEL_COMPILE, "parallel_compile", REAL, NULL, "") \
    X(LOAD_MS, "load_ms", REAL, NULL, "") \
    X(UNLOAD_MS, "unload_ms", REAL, NULL, "") \
    X(FLOOR_MS, "floor_ms", REAL, NULL, "") \
    X(TFLOPS, "tflops", REAL, NULL, "") \
    X(GBYTES_S, "gbytes_s", REAL, NULL, "") \
    X(BUSY, "busy", REAL, NULL, "")

typedef enum {
#define SA_SETTING_ENUM(id, key, kind, text, words) SA_SET_##id,
    SA_SETTINGS(SA_SETTING_ENUM)
#undef SA_SETTING_ENUM
    SA_SET_COUNT
} SaSettingId;

/* The values of the WORD settings, in the order of their words. */
enum { SA_STORE_PROCESS, SA_STORE_SHARED };
enum { SA_LIMIT_REFUSE, SA_LIMIT_LOAD, SA_LIMIT_CRASH };
enum { SA_ORDER_NAME, SA_ORDER_DECLARATION, SA_ORDER_SIZE, SA_ORDER_RANDOM };
enum { SA_PROCEDURES_CORRECT, SA_PROCEDURES_FIRST };
enum { SA_WIDTH_STRIDE, SA_WIDTH_FAIL };
enum { SA_AFTER_NOT_FOUND, SA_AFTER_SILENT };
enum { SA_REALTIME_ALLOW, SA_REALTIME_REFUSE };
#define SA_STAGING_OFF UINT64_MAX /* value of staging_evals=off */

/* What the arithmetic wants to know of the chip. Filled from the settings. */
typedef struct {
    double dot_limit;   /* products with |y| >= this become inf; 0 = no limit but fp16's */
    double slice_clamp; /* last-axis slices beyond it become inf; 0 = exact */
    bool sdpa_ignores_mask, flush_subnormals, quantised_tables, winograd;
} SaQuirks;
void sa_device_quirks(SaQuirks *out);
/* The same and `numerics`, as a run wants them. */
void sa_device_run_options(SaRunOptions *out);

/* Settings as numbers: below, with the device. */

/* ============================== Profiles ================================== */

/* What a profile says. Constant once made; freed with sa_profile_free. */
typedef struct SaProfile {
    char *name;                   /* "m4", or the path of the file */
    char *text[SA_SET_COUNT];     /* NULL: not named in this profile */
    char *source[SA_SET_COUNT];   /* the comment behind it, or NULL */
    uint64_t value[SA_SET_COUNT]; /* parsed; bits of a double for REAL */
} SaProfile;

/* Text -> profile. `name` stands in the errors ("m4:12: …", line as err->pos). */
SaStatus sa_profile_parse(const char *name, const char *text, size_t bytes, SaProfile **out, SaError *err);
/* One that is built in, by name, or a file, by a path with a '/' in it. */
SaStatus sa_profile_open(const char *name, SaProfile **out, SaError *err);
void sa_profile_free(SaProfile *p); /* NULL is fine */
/* Names of the built-in ones, ends with NULL; static storage. */
const char *sa_profile_name(int i);

/* The texts of softane/profiles, made by build.py. */
typedef struct { const char *name, *text; size_t bytes; } SaProfileText;
extern const SaProfileText sa_profile_texts[]; /* ends with name NULL */

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
    int *input_port, *output_port;   /* symbol index -> port of its procedure; NULL: the same order */
    bool *narrow;                    /* [procedures] some row is no multiple of 64 bytes */
    int64_t *thin;                   /* [procedures] most channels of a port with fewer than 32 columns */
    double *port_bytes;              /* [procedures] of all ports, for the timing model */
    char *partition;                 /* whose program it is */
    char **blobs;          /* weight files named in the text, as written there */
    int n_blobs;
    int refs;              /* store, pins, loaded programs */
    int users;             /* pins and loaded programs: not evicted while > 0 */
    bool stored;
    bool unloadable;       /* compiled beyond the limit: every load fails */
    uint64_t stamp;        /* last use, for eviction */
    struct SaEntry *next;
} SaEntry;

/* A plan and what belongs to it -> an entry with one use (a pin) for the
 * caller. Takes over the plan, also on failure. NULL when out of memory. */
SaEntry *sa_entry_new(const char *identity, SaPlan *plan, const SaProgram *program, size_t weight_bytes);

/* Put a fresh entry into the store; an older entry of the same identity leaves
 * it (its users keep it). Evicts unused entries above store_bytes. */
void sa_store_put(SaEntry *e);

/* Find by identity in the partition of the settings, and pin. With store=shared
 * an entry that another process has compiled is read from its file. NULL when
 * there is none. *read (may be NULL): it came from a file. */
SaEntry *sa_store_get(const char *identity, bool *read);
bool sa_store_has(const char *identity);

/* Drop one entry, its file too, or all entries of this process when identity
 * is NULL. Users keep theirs. */
void sa_store_purge(const char *identity);

/* End one use. NULL is fine. */
void sa_entry_unpin(SaEntry *e);

/* symbol.c: which port a symbol means. Called once, by sa_entry_new. */
bool sa_symbol_order(SaEntry *e, const SaProgram *program);
/* Port of a procedure behind its i-th symbol. */
static inline const SaPort *sa_entry_input(const SaEntry *e, int proc, int i) {
    return sa_plan_input(e->plan, proc, e->input_port ? e->input_port[e->first_input[proc] + i] : i);
}
static inline const SaPort *sa_entry_output(const SaEntry *e, int proc, int i) {
    return sa_plan_output(e->plan, proc, e->output_port ? e->output_port[e->first_output[proc] + i] : i);
}

/* ============================== Shared store ============================== */

/* The partition of the settings: who may see whose programs. */
void sa_partition_name(char *buf, size_t cap);
/* The directory of the settings, made when it does not exist. False, with the
 * reason in err, when there is none that only this user can write to. */
bool sa_shared_directory(char *buf, size_t cap, SaError *err);

/* Write, find, drop the file of an entry. `program` is bound. Failures are
 * logged: the compile has succeeded all the same. */
void sa_shared_put(const SaEntry *e, const char *text, size_t bytes, const SaProgram *program);
SaEntry *sa_shared_get(const char *identity); /* pinned, not stored; NULL when there is none */
bool sa_shared_has(const char *identity);
void sa_shared_purge(const char *identity);

/* container.c: the bytes of such a file. */
typedef bool (*SaSink)(void *to, const void *bytes, size_t count);
/* Hands all bytes to the sink; false when the sink or memory refuses. */
bool sa_container_write(const SaEntry *e, const char *machine, const char *text, size_t bytes, const SaProgram *program,
                        SaSink sink, void *to);
/* SA_E_STATE: whole, but made on another machine. Else a failure is damage. */
SaStatus sa_container_read(const uint8_t *file, size_t bytes, const char *identity, const char *machine, SaEntry **out,
                           SaError *err);
/* Does a file that begins so hold this entry? `size` is that of the file. */
bool sa_container_names(const uint8_t *head, size_t bytes, uint64_t size, const char *identity, const char *machine);
#define SA_CONTAINER_HEAD 8192 /* bytes that are enough for that */

/* ============================== Queues ==================================== */

#define SA_QUEUES 8

int sa_queue_index(unsigned qos);    /* 0…7 */
int sa_queue_priority(unsigned qos); /* program priority */
void sa_queue_enter(unsigned qos);   /* blocks behind the operations of this level */
void sa_queue_leave(unsigned qos);

/* A compile, load or unload: its turn on the queue of `qos`. False: refused
 * (real time without entitlement, lost message), *out says how. End a turn
 * whether it was refused or not. */
typedef struct { unsigned qos; bool service; } SaTurn;
bool sa_turn_begin(SaTurn *turn, SaDo what, unsigned qos, SaAnswer *out);
void sa_turn_end(const SaTurn *turn);

/* A direct evaluation: one of direct_limit places of its queue index. False
 * after direct_wait_ms. */
bool sa_direct_enter(unsigned qos);
void sa_direct_leave(unsigned qos);

/* ============================== Timing ==================================== */

uint64_t sa_now_ns(void);                           /* monotonic */
bool sa_timing_on(void);
/* Until start + ms * scale * jitter; uses no CPU, holds no lock. */
void sa_timing_wait(uint64_t start_ns, double ms);
/* The factor of the n-th wait: 1 - j … 1 + j, never negative. */
double sa_timing_jitter(uint64_t seed, uint64_t n, double j);
/* One load or unload: nothing when timing is off. */
void sa_timing_step(uint64_t start_ns, SaSettingId ms);
double sa_timing_compile_ms(const SaEntry *e);      /* without the factors below */
/* factor: first compile of the process, others running. */
void sa_timing_compile(uint64_t start_ns, const SaEntry *e, double factor);
double sa_timing_eval_ms(double flops, double bytes);
void sa_timing_eval(uint64_t start_ns, double flops, double bytes); /* one at a time, as on the engine */

/* ============================== Programs ================================== */

/* Where a program comes from. */
typedef struct {
    const char *identity;   /* key in the store */
    const char *directory;  /* holds the source and its weights; NULL: load by identity only */
    const char *file;       /* source inside directory; NULL = "model.mil" */
    const char *staging;    /* where the files of a program being loaded lie, also when load reads none; NULL: nowhere */
    const char *model_type; /* "kANEFModelMIL", …; NULL: the option is missing */
    bool replace;           /* compile although the identity is known */
} SaSource;

typedef struct SaLoaded {
    atomic_int users;     /* the load itself and evaluations in flight; 0 = dead */
    atomic_int holders;   /* who may still look at this struct */
    SaEntry *entry;       /* pinned while users > 0 */
    uint64_t handle;
    bool listed;          /* device lock */
    char *staging;        /* its directory, if there was one at load; NULL unless staging_evals is set */
    atomic_uint orphaned; /* evaluations since that has gone */
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

/* The limits of the settings, for the compiler. */
void sa_device_limits(SaLimits *out);

/* quirk.c: is this valid, bound program one that the chip refuses? */
SaStatus sa_quirk_check(const SaProgram *p, SaError *err);
/* Setting value_fails: does this compile of a text with other weights fail? */
SaStatus sa_quirk_value(const char *text, size_t bytes, SaError *err);

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
    pthread_mutex_t lock;              /* settings, store, list of loaded programs */
    char *text[SA_SET_COUNT];          /* as set; NULL = not set */
    uint64_t set_value[SA_SET_COUNT];  /* parsed text */
    _Atomic uint64_t value[SA_SET_COUNT]; /* in force; bits of a double for REAL */
    SaProfile *base, *profile, *chip;  /* default.profile; of `profile`; of `timing`. NULL: base, profile */
    char refused[500];                 /* why the last softane_set said no */

    pthread_mutex_t queue[SA_QUEUES];
    pthread_mutex_t service;           /* taken by every turn when levels do not overlap */
    pthread_mutex_t direct_lock;
    pthread_cond_t direct_free;
    unsigned direct[SA_QUEUES];        /* direct evaluations running */

    SaEntry *store;
    size_t store_bytes;                /* of entries without users */
    size_t store_all_bytes;
    int store_entries;
    uint64_t clock;                    /* stamps */

    SaLoaded *loaded;
    uint64_t loaded_count, loaded_bytes, last_handle;

    uint64_t engine_free_ns;           /* timing: when the engine ends its last evaluation */
    _Atomic uint64_t waits;            /* timing: counts the draws of jitter */

    struct SaTextCount *texts;         /* compiles per text, while value_fails is set */

    _Atomic uint64_t compiles, compile_failures, loads, evals, surfaces;
    _Atomic uint64_t shared_hits, shared_writes, shared_damaged, shared_evicted;
    _Atomic int compiling;             /* compiles running now */
    _Atomic bool compiled_once;
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
int sa_setting_find(const char *key);                                           /* SaSettingId or -1 */
const char *sa_setting_key(SaSettingId id);
bool sa_setting_in_profile(SaSettingId id);
bool sa_setting_parse(SaSettingId id, const char *text, uint64_t *out);         /* text -> value, no effect */
void sa_setting_list(SaDevice *d, char *buf, size_t cap);                       /* "key = value  # from" lines */
bool sa_setting_source(SaDevice *d, const char *key, char *buf, size_t cap);    /* where its value comes from */
void sa_setting_init(SaDevice *d);                                              /* defaults, then environment */

/* Failpoint device.gone: forget every handle and the whole store. */
void sa_device_lose(void);

#endif
