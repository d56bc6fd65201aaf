// SPDX-License-Identifier: MIT
/* _core_door.h - what the Objective-C files of the core share: the private
 * methods as protocols, the state of the open engine, how answers become
 * errors. Included by the Objective-C files only. */
#ifndef ANE_NATIVE_CORE_DOOR_H
#define ANE_NATIVE_CORE_DOOR_H

#include <pthread.h>

#import "_compat.h"

#include "_core_internal.h"
#include "_core_pool.h"

/* ============================== The private classes ======================= */

@protocol AneDescriptorClass
- (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)options;
@end

@protocol AneModelClass
- (id)inMemoryModelWithDescriptor:(id)descriptor;
@end

@protocol AneModel <NSObject>
- (NSString *)hexStringIdentifier;
- (NSString *)localModelPath;
- (BOOL)compiledModelExists;
- (void)purgeCompiledModel;
- (NSDictionary *)modelAttributes;
- (void)setDescriptor:(id)descriptor;
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned int)qos options:(NSDictionary *)options request:(id)request error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error;
@end

@protocol AneRequest <NSObject>
- (BOOL)validate;
- (NSArray *)inputArray;
- (NSArray *)outputArray;
@end

@protocol AneRequestClass
- (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weightsBuffer
              perfStats:(id)perfStats
         procedureIndex:(NSNumber *)procedure;
@end

@protocol AneSurfaceClass
- (id)objectWithIOSurface:(void *)surface;
@end

@protocol AneDeviceInfoClass
- (NSString *)aneSubType;
- (int)numANEs;
- (int)numANECores;
@end

/* ============================== Engine state ============================== */

enum { CLS_DESCRIPTOR, CLS_MODEL, CLS_REQUEST, CLS_SURFACE, CLS_COUNT };

/* One per process, because classes are. `lock` guards opening, the counters and
 * the registry of programs; it is never held across a message to the engine
 * except while opening. */
typedef struct {
    pthread_mutex_t lock;
    bool open;
    char path[1024];
    char chip[64];
    int32_t engines, cores, apple;
    Class cls[CLS_COUNT];
    void *(*surface_create)(void *properties);
    int (*surface_lock)(void *surface, uint32_t options, uint32_t *seed);
    int (*surface_unlock)(void *surface, uint32_t options, uint32_t *seed);
    void *(*surface_base)(void *surface);
    size_t (*surface_bytes)(void *surface);
    int64_t compiles, compile_failures, loads, loaded, evals, evals_retried, reloads;
    int64_t compile_limit, reserved;
    AneProgram *programs; /* every live program, by identity */
} AneEngine;

extern AneEngine ane_engine;

/* ============================== Surfaces ================================== */

struct AneSurface {
    AneObject object;
    void *ref;  /* IOSurfaceRef, an object on both systems */
    id wrapper; /* _ANEIOSurfaceObject */
    AneSurfaceInfo info;
    AneSurface *next_mapped; /* list of surfaces with views out */
    int views;
};

/* ============================== Programs ================================== */

typedef enum { PROG_MADE, PROG_COMPILED, PROG_LOADED, PROG_GONE } AneProgState;

/* One procedure of a loaded program, as its attributes describe it. */
typedef struct {
    char *name;       /* of the function; "" where the engine does not say */
    int number;       /* what a request calls it */
    int n_symbols[2]; /* inputs, outputs */
    char **symbol[2];
    int *index[2];    /* symbol index for the request */
} AneProcedure;

struct AneProgram {
    int refs;         /* under ane_engine.lock */
    AneProgram *next; /* registry, same lock */
    id<AneModel> model;
    NSDictionary *files; /* weight path -> NSData, until the program is loaded */
    NSData *text;
    char identity[256];
    char *directory;      /* staging: the model's own localModelPath */
    AneLease *lease;      /* on it, from before the first file until nothing is loaded */
    int at_work, locked;  /* descriptors, -1: see _core_lease.h; none outlives a step under `life` */
    pthread_mutex_t life; /* compile, load, unload */
    pthread_mutex_t run;  /* evaluations of one program are serial */
    AneProgState state;
    bool counted;         /* among those loaded; under ane_engine.lock */
    bool doubted;         /* the engine lost programs while this was loaded: shared no more; same lock */
    bool cached;          /* the engine knew the identity */
    bool by_worker;       /* ... because a worker of ours compiled it */
    AneSegment *segment;  /* the sources, where a pool compiles; until nobody needs them */
    AneJob *job;          /* a worker's, until the program has proved to be of use */
    AnePool *pool;        /* whose job; a reference */
    int loads;            /* load calls not yet matched by an unload */
    int n_procedures;     /* of the loaded program */
    AneProcedure *procedures;
};

/* The engine no longer knows the loaded program: load it again from the engine's cache. False: it is
 * not there either, and all that were loaded at this time are shared with nobody new. */
bool ane_prog_recover(AneProgram *p, uint32_t qos);

void ane_free_procedures(AneProgram *p);

/* Fill in p->procedures from the attributes of a program just loaded. */
int ane_read_procedures(AneProgram *p, AneError *err);

/* The procedure of a kernel: by its function's name, or the only one there is. */
int ane_find_procedure(const AneProgram *p, const AneKernelDef *k, const AneProcedure **out, AneError *err);

/* ============================== Sources (_core_stage.m) =================== */

/* Size of a weight file, and the file: fp16 bytes of `weight` (constants: their own) in the engine's container. */
size_t ane_blob_bytes(const AneBlobDef *b);

/* A file of ane_file_alloc, which is freed with the object. +1; nil frees it at once. */
NSData *ane_file_data(void *file, size_t bytes);
void ane_blob_write(const AneBlobDef *b, const void *const *weights, uint8_t *out);

/* Weight path -> NSData inside the segment, autoreleased; nil: no memory. */
NSDictionary *ane_segment_files(AneSegment *s, const AneSegmentHead *head);

/* Descriptor and model of these bytes. *model is +1. */
int ane_model_make(NSData *text, NSDictionary *files, id *model, char identity[256], AneError *err);

/* model.mil and the weight files into an empty staging directory. */
int ane_stage(const char *directory, NSData *text, NSDictionary *files, AneError *err);

/* ============================== Helpers =================================== */

/* ANE_OK, ANE_E_FORKED, or ANE_E_STATE when no engine is open. */
int ane_need_open(AneError *err);

/* The engine said NO at `step`: carry its NSError, or the lack of one, to the caller. */
int ane_refused(AneError *err, int status, const char *step, NSError *e, const char *identity, uint32_t qos, uint64_t begin);

/* The engine threw at `step`. */
int ane_threw(AneError *err, const char *step, NSException *x);

/* UTF-8 of `s` (nil: "") into to[cap]. */
void ane_copy_string(char *to, size_t cap, NSString *s);

#endif
