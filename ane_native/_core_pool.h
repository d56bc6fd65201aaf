// SPDX-License-Identifier: MIT
/* _core_pool.h - compile workers: what the trainer's side and the worker's side share.
 *
 *   _core_segment.c  a program's sources (text, weight files) in shared memory
 *   _core_pool.c     the trainer's side: jobs and their queue
 *   _core_pool_process.c  ... and the processes: started, fed, watched, replaced
 *   _core_worker.m   the worker's side: one job at a time, until its socket ends
 *
 * One Unix socket per worker. The trainer sends AneJobMessage with the segment's
 * descriptor beside it (SCM_RIGHTS); the worker says AneAnswer once when its
 * engine is open and once per job. Both sides are the same build, so structures
 * travel as they are; ANE_WIRE_MAGIC tells builds apart. */
#ifndef ANE_NATIVE_CORE_POOL_H
#define ANE_NATIVE_CORE_POOL_H

#include "_core_internal.h"
#include "_core_lease.h"

/* ============================== Segments ================================== */

/* Memory that can be handed to another process by its descriptor. It has no name
 * that could be left behind. Reference-counted; the mapping goes with the last one. */
typedef struct AneSegment {
    int refs; /* atomic */
    int fd;   /* -1 once nobody needs to be sent it */
    size_t bytes;
    uint8_t *base;
} AneSegment;

int ane_segment_make(size_t bytes, AneSegment **out, AneError *err);
/* Map what a descriptor names, read-only; the descriptor is closed in any case. */
int ane_segment_open(int fd, size_t bytes, AneSegment **out, AneError *err);
void ane_segment_retain(AneSegment *s);
void ane_segment_release(AneSegment *s); /* NULL is fine */
/* No further worker will be sent it: give the descriptor back. */
void ane_segment_seal(AneSegment *s);

/* What lies in a segment: this head, n_files entries, then the bytes they name. */
#define ANE_SEGMENT_MAGIC 0x53454E41u /* "ANES" */
#define ANE_SEGMENT_ALIGN 64u
#define ANE_SEGMENT_PATH 160u

typedef struct {
    char path[ANE_SEGMENT_PATH]; /* "@model_path/weights/NAME" */
    uint64_t at, bytes;
} AneSegmentFile;

typedef struct {
    uint32_t magic, n_files;
    uint64_t text_at, text_bytes;
    AneSegmentFile files[];
} AneSegmentHead;

/* Sizes in, places out: fills the head and copies the text. bytes[i] are of paths[i]. */
int ane_segment_layout(const char *text, size_t text_bytes, const char *const *paths, const size_t *bytes, uint32_t n_files,
                       AneSegment **out, AneError *err);
/* NULL when the head or any entry does not lie within the segment. */
const AneSegmentHead *ane_segment_head(const AneSegment *s);

/* ============================== The wire ================================== */

#define ANE_WIRE_MAGIC (0x57414E45u ^ ((uint32_t)sizeof(AneAnswer) << 8) ^ 1u)

typedef struct {
    uint32_t magic, qos;
    uint64_t job, bytes; /* bytes: size of the segment */
    uint64_t fresh;      /* 1: what the engine knows under this identity is of no use, compile it again */
} AneJobMessage;

typedef struct {
    uint32_t magic;
    int32_t cached;     /* the engine knew the identity: nothing was compiled */
    uint64_t job;       /* 0: the greeting */
    int64_t pid;        /* of the worker */
    uint64_t begin_ns;  /* when it began to stage; clock of all processes */
    uint64_t bake_ns;   /* staging files */
    uint64_t compile_ns;
    char identity[256];
    AneError error;     /* .status ANE_OK when all went well */
} AneAnswer;

/* ============================== The pool ================================== */

typedef struct AnePool AnePool;
typedef struct AneJob AneJob;

/* The pool's object, for ane_object_retain and _release. */
AneObject *ane_pool_object(AnePool *p);
/* Queue a compile of the sources in `s`, whose identity is known; the worker stages in the directory of `lease`. */
int ane_job_start(AnePool *p, AneSegment *s, const char *identity, AneLease *lease, uint32_t qos, AneJob **out, AneError *err);
/* ANE_AGAIN: not done within the slice. ANE_OK: *answer holds what came; .error.status
 * ANE_E_WORKER when no worker could do it, ANE_E_CLOSED when the pool was closed. */
int ane_job_wait(AneJob *j, int32_t slice_ms, AneAnswer *answer);
/* The program was of no use after all: the same job again, by another worker. ANE_SKIP:
 * it has been tried often enough. */
int ane_job_again(AneJob *j);
/* After ANE_E_WORKER, where the caller cannot do without: wait for a process to come up, for as
 * long as the pool's patience. ANE_SKIP: another reason than that none came up, or waited before. */
int ane_job_insist(AneJob *j);
/* Give the job up; a worker that is at it may end it. NULL is fine. */
void ane_job_free(AneJob *j);
/* A compile in this process stood in for a worker. */
void ane_pool_count_fallback(AnePool *p);

/* ============================== Helpers =================================== */

/* Remove a directory tree, as far as it goes; links are not followed. */
void ane_remove_tree(const char *path);

#endif
