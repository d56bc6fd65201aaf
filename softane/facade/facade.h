// SPDX-License-Identifier: MIT
/* facade.h - the map of the facade: Apple's private class names over the
 * device. The only Objective-C of softane besides class IOSurface; retain and
 * release by hand, no blocks, no ARC.
 *
 *   facade.m          NSError from an answer, hashes as text
 *   descriptor.m      _ANEInMemoryModelDescriptor: text, weights, identity
 *   inmemorymodel.m   _ANEInMemoryModel: the wrapper most programs use
 *   model.m           _ANEModel: what is loaded, its attributes
 *   client.m          _ANEClient: options -> device; the wrapper goes through it
 *   program.m         _ANEProgramForEvaluation: one evaluation, completion
 *   request.m         _ANERequest, its validation and its C form
 *   surfaceobject.m   _ANEIOSurfaceObject
 *   attributes.m      modelAttributes of a loaded program
 *   events.m          _ANESharedEvents, its signal and wait events
 *   stats.m           _ANEPerformanceStats: all zero, as on consumer systems
 *   chaining.m        what chaining requests are made of; chaining is refused
 *   instance.m        _ANEWeight and the parameters of new instances; refused
 *   info.m            _ANEQoSMapper, _ANEDeviceInfo
 *   exports.map       which symbols the library shows
 *
 * The contract is facts, ane-api.md; section numbers in comments mean it.
 * Objects are used as on the real framework: methods of one model from one
 * thread at a time, different models from any threads. A thread that Foundation
 * did not start must be registered by the caller (GSRegisterCurrentThread). */
#ifndef SA_FACADE_H
#define SA_FACADE_H

#import <Foundation/Foundation.h>

#include "../device/device.h"
#import "../surface/iosurface.h"

#define SA_CLASS __attribute__((visibility("default")))

@class _ANEClient, _ANEModel, _ANEProgramForEvaluation, _ANERequest;

/* What is asked of objects whose class may be another program's. */
@protocol SaPerfStat
- (NSInteger)statType;
@end
@protocol SaSharedEvents
- (NSArray *)signalEvents;
- (NSArray *)waitEvents;
@end
@protocol SaEvent
- (id)sharedEvent;
- (uint64_t)value;
@end
@protocol SaCounter /* IOSurfaceSharedEvent, MTLSharedEvent */
- (uint64_t)signaledValue;
- (void)setSignaledValue:(uint64_t)value;
@end

/* ============================== Shared ==================================== */

/* The error object of a failure, autoreleased; nil when the engine gives none. */
NSError *sa_facade_error(const SaAnswer *a);

/* Answer -> BOOL. Writes *error on failure with an error object, never else. */
BOOL sa_facade_finish(const SaAnswer *a, NSError **error);

/* SHA-256 as 64 upper-case hex digits. */
NSString *sa_facade_hex(const uint8_t digest[32]);
NSString *sa_facade_hash(NSData *data); /* nil hashes as empty data */

/* A block is no object here: the blocks runtime copies it if the program has
 * one. NULL is fine. */
extern void *_Block_copy(const void *block) __attribute__((weak));
extern void _Block_release(const void *block) __attribute__((weak));
static inline void *sa_block_copy(void *block) { return block && _Block_copy ? _Block_copy(block) : block; }
static inline void sa_block_release(void *block) {
    if (block && _Block_release)
        _Block_release(block);
}

/* modelAttributes (§10) of a loaded program. Autoreleased. */
NSDictionary *sa_facade_attributes(const SaEntry *entry);

/* ============================== Classes =================================== */

SA_CLASS
@interface _ANEInMemoryModelDescriptor : NSObject {
@public
    NSData *_networkText;
    NSDictionary *_weights;
    NSData *_optionsPlist;
    NSString *_networkTextHash, *_weightsHash, *_optionsPlistHash;
    BOOL _isMILModel;
}
+ (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist;
+ (id)modelWithNetworkDescription:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist;
- (NSData *)networkText;
- (NSDictionary *)weights;
- (NSData *)optionsPlist;
- (NSString *)networkTextHash;
- (NSString *)weightsHash;
- (NSString *)optionsPlistHash;
- (BOOL)isMILModel;
- (NSString *)hexStringIdentifier;
@end

/* The one entry of an inner weights dictionary that holds the bytes: the first
 * NSData, whatever the order of enumeration; *key (may be NULL) its key. */
id sa_descriptor_payload(NSDictionary *inner, id *key);

SA_CLASS
@interface _ANEIOSurfaceObject : NSObject {
@public
    IOSurfaceRef _ioSurface;
    NSNumber *_startOffset;
}
+ (id)objectWithIOSurface:(IOSurfaceRef)surface;
+ (id)objectWithIOSurface:(IOSurfaceRef)surface startOffset:(NSNumber *)offset;
+ (id)objectWithIOSurfaceNoRetain:(IOSurfaceRef)surface startOffset:(NSNumber *)offset;
+ (IOSurfaceRef)createIOSurfaceWithWidth:(NSInteger)width pixel_size:(NSInteger)pixel height:(NSInteger)height;
+ (IOSurfaceRef)createIOSurfaceWithWidth:(NSInteger)width
                              pixel_size:(NSInteger)pixel
                                  height:(NSInteger)height
                         bytesPerElement:(NSInteger)element;
- (IOSurfaceRef)ioSurface;
- (NSNumber *)startOffset;
@end

/* A request in the form eval.c takes. Made once, at the first use. */
typedef struct SaPrepared {
    bool valid; /* the rules of §8.2 */
    SaBinding binding;
    id *objects; /* as seen then, inputs first: a later change is an error */
} SaPrepared;

SA_CLASS
@interface _ANERequest : NSObject {
@public
    NSArray *_inputArray, *_inputIndexArray, *_outputArray, *_outputIndexArray;
    id _weightsBuffer, _perfStats, _sharedEvents;
    NSNumber *_procedureIndex, *_transactionHandle;
    void *_completionHandler;
    SaPrepared *_prepared; /* set once, atomically */
}
+ (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weightsBuffer
              perfStats:(id)perfStats
         procedureIndex:(NSNumber *)procedure
           sharedEvents:(id)events
      transactionHandle:(NSNumber *)transaction;
- (BOOL)validate;
@end

/* NULL when a rule of §8.2 is broken (or memory is short). Owned by the request. */
const SaPrepared *sa_request_prepare(_ANERequest *request);
/* Are the objects still those of the first use? */
bool sa_request_unchanged(_ANERequest *request, const SaPrepared *p);

SA_CLASS
@interface _ANEProgramForEvaluation : NSObject {
@public
    SaLoaded *_loaded; /* held; NULL when the handle was not known */
    uint64_t _programHandle, _intermediateBufferHandle;
    signed char _queueDepth;
    atomic_int _inFlight;
}
+ (id)programWithHandle:(uint64_t)handle intermediateBufferHandle:(uint64_t)buffer queueDepth:(signed char)depth;
- (id)initWithLoaded:(SaLoaded *)loaded; /* takes over the hold */
- (uint64_t)programHandle;
- (uint64_t)intermediateBufferHandle;
- (signed char)queueDepth;
- (BOOL)processRequest:(_ANERequest *)request
                 model:(id)model
                   qos:(unsigned int)qos
                qIndex:(uint64_t)index
         modelStringID:(uint64_t)stringID
               options:(NSDictionary *)options
           returnValue:(unsigned int *)value
                 error:(NSError **)error;
@end

/* Evaluate as §8.3 says, for the wrapper and for the client. */
BOOL sa_program_evaluate(_ANEProgramForEvaluation *program, _ANERequest *request, unsigned qos, NSError **error);

SA_CLASS
@interface _ANEModel : NSObject {
@public
    NSURL *_modelURL;
    NSURL *_sourceURL;
    NSString *_key;
    NSString *_cacheURLIdentifier; /* the name in the store, when it is given */
    NSDictionary *_modelAttributes;
    NSUInteger _state; /* 1 created, 3 loaded, 4 unloaded */
    _ANEProgramForEvaluation *_program;
    uint64_t _string_id;
    unsigned int _perfStatsMask;
    SaEntry *_pin; /* the compiled program, until it is loaded */
}
+ (id)modelAtURL:(NSURL *)url key:(NSString *)key;
+ (id)modelAtURL:(NSURL *)url key:(NSString *)key modelAttributes:(NSDictionary *)attributes;
+ (id)modelAtURLWithSourceURL:(NSURL *)url
                    sourceURL:(NSURL *)source
                          key:(NSString *)key
           cacheURLIdentifier:(NSString *)identifier;
+ (id)modelWithCacheURLIdentifier:(NSString *)identifier;
- (NSURL *)modelURL;
- (NSURL *)sourceURL;
- (NSString *)key;
- (NSString *)cacheURLIdentifier;
- (NSDictionary *)modelAttributes;
- (NSUInteger)state;
- (_ANEProgramForEvaluation *)program;
- (uint64_t)programHandle;
- (uint64_t)intermediateBufferHandle;
- (signed char)queueDepth;
- (NSDictionary *)procedureInfoForProcedureIndex:(unsigned int)procedure;
- (NSIndexSet *)inputSymbolIndicesForProcedureIndex:(unsigned int)procedure;
- (NSIndexSet *)outputSymbolIndicesForProcedureIndex:(unsigned int)procedure;
- (void)resetOnUnload;
- (BOOL)isLoadedNow; /* own: loaded, and the device has not vanished since */
@end

SA_CLASS
@interface _ANEClient : NSObject
+ (id)sharedConnection;
- (BOOL)compileModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)loadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)unloadModel:(_ANEModel *)model options:(NSDictionary *)options qos:(unsigned int)qos error:(NSError **)error;
- (BOOL)evaluateWithModel:(_ANEModel *)model
                  options:(NSDictionary *)options
                  request:(_ANERequest *)request
                      qos:(unsigned int)qos
                    error:(NSError **)error;
- (BOOL)compiledModelExistsFor:(_ANEModel *)model;
- (BOOL)compiledModelExistsMatchingHash:(NSString *)hash;
- (void)purgeCompiledModel:(_ANEModel *)model;
- (void)purgeCompiledModelMatchingHash:(NSString *)hash;
@end

SA_CLASS
@interface _ANEModelInstanceParameters : NSObject {
@public
    id _procedureData;
    NSArray *_procedureArray;
}
+ (id)withProcedureData:(id)data procedureArray:(NSArray *)procedures;
@end

SA_CLASS
@interface _ANEInMemoryModel : NSObject {
    /* order of the ivars as on the real class (§4.1); nobody should rely on it */
    signed char _queueDepth;
    BOOL _isMILModel;
    unsigned int _perfStatsMask;
    NSDictionary *_modelAttributes;
    NSString *_hexStringIdentifier;
    uint64_t _intermediateBufferHandle;
    _ANEClient *_sharedConnection;
    NSURL *_modelURL;
    NSString *_compilerOptionsFileName;
    _ANEModel *_model;
    uint64_t _string_id;
    uint64_t _programHandle;
    _ANEProgramForEvaluation *_program;
    NSUInteger _state; /* 0 new, 3 loaded (and after unload), 5 in dealloc */
    _ANEInMemoryModelDescriptor *_descriptor;
    NSString *_localModelPath; /* ours */
}
+ (id)inMemoryModelWithDescriptor:(_ANEInMemoryModelDescriptor *)descriptor;
@end

#endif
