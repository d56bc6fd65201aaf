// SPDX-License-Identifier: MIT
/* _core_stage.m - from weights to what a compile reads: fp16 weight files, the model
 * object of their bytes, the staging directory. Used by the programs of this process
 * and by a compile worker, which must get to the same identity from the same bytes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#import "_core_door.h"
#include "_cpu.h"
#include "_core_pool.h"

#define g ane_engine

/* ============================== Baking ==================================== */

/* A head, then the elements: ane_blob_head(). */
size_t ane_blob_bytes(const AneBlobDef *b) { return ANE_BLOB_HEAD + (size_t)(b->rows * b->cols) * 2; }

void ane_blob_write(const AneBlobDef *b, const void *const *weights, uint8_t *out) {
    size_t count = (size_t)(b->rows * b->cols);
    ane_blob_head(out, count);
    uint16_t *half = (uint16_t *)(void *)(out + ANE_BLOB_HEAD);
    const float factor = b->scale < 0 ? 1.0f : *(const float *)weights[b->scale];
    if (b->weight < 0)
        memcpy(half, b->data_f16, count * 2);
    else if (b->dtype == ANE_F16 && b->transform == ANE_BAKE_PLAIN)
        memcpy(half, weights[b->weight], count * 2);
    else if (b->dtype == ANE_F16)
        ane_cpu_transpose_half(weights[b->weight], half, (size_t)b->rows, (size_t)b->cols, 0, (size_t)b->rows);
    else if (b->transform == ANE_BAKE_PLAIN)
        ane_cpu_bake_plain(weights[b->weight], factor, half, count);
    else
        ane_cpu_bake_transposed(weights[b->weight], factor, half, (size_t)b->rows, (size_t)b->cols, 0, (size_t)b->rows);
}

/* ============================== Weight files ============================== */

/* A weight file in memory of ours, or inside a segment. The memory lives as long as
 * anybody, also the engine's descriptor, holds one of them. */
@interface AneNativeData : NSData {
    void *_owner;
    void (*_drop)(void *owner);
    const void *_at;
    NSUInteger _length;
}
- (id)initWithBytes:(const void *)at length:(size_t)length owner:(void *)owner drop:(void (*)(void *owner))drop;
@end

@implementation AneNativeData
- (id)initWithBytes:(const void *)at length:(size_t)length owner:(void *)owner drop:(void (*)(void *owner))drop {
    if (!(self = [super init]))
        return nil;
    _owner = owner;
    _drop = drop;
    _at = at;
    _length = length;
    return self;
}
/* GNUstep's -init of a subclass of NSData comes here; there is nothing to take over. */
- (id)initWithBytesNoCopy:(void *)bytes length:(NSUInteger)length freeWhenDone:(BOOL)free {
    (void)bytes, (void)length, (void)free;
    return self;
}
- (void)dealloc {
    if (_drop)
        _drop(_owner);
    [super dealloc];
}
- (const void *)bytes { return _at; }
- (NSUInteger)length { return _length; }
- (id)copyWithZone:(struct _NSZone *)zone {
    (void)zone;
    return [self retain];
}
@end

NSData *ane_file_data(void *file, size_t bytes) {
    NSData *d = [[AneNativeData alloc] initWithBytes:file length:bytes owner:file drop:ane_file_free];
    if (!d)
        ane_file_free(file);
    return d;
}

static void drop_segment(void *segment) { ane_segment_release(segment); }

NSDictionary *ane_segment_files(AneSegment *s, const AneSegmentHead *head) {
    NSMutableDictionary *files = [NSMutableDictionary dictionary];
    for (uint32_t i = 0; i < head->n_files; i++) {
        const AneSegmentFile *f = &head->files[i];
        NSData *d = [[AneNativeData alloc] initWithBytes:s->base + f->at length:(size_t)f->bytes owner:s drop:drop_segment];
        if (!d)
            return nil;
        ane_segment_retain(s);
        [files setObject:d forKey:[NSString stringWithUTF8String:f->path]];
        [d release];
    }
    return files;
}

/* ============================== Models ==================================== */

/* Descriptor and model of these bytes. *model is +1. */
int ane_model_make(NSData *text, NSDictionary *files, id *model, char identity[256], AneError *err) {
    NSMutableDictionary *weights = [NSMutableDictionary dictionary];
    for (NSString *path in files) /* one entry inside: its order cannot matter to the hash */
        [weights setObject:[NSDictionary dictionaryWithObject:[files objectForKey:path] forKey:@"data"] forKey:path];
    id descriptor = [(id<AneDescriptorClass>)(id)g.cls[CLS_DESCRIPTOR] modelWithMILText:text weights:weights optionsPlist:nil];
    if (!descriptor)
        return ane_error_set(err, ANE_E_ENGINE, "the engine made no descriptor of %zu bytes of MIL text", (size_t)[text length]);
    id<AneModel> m = [(id<AneModelClass>)(id)g.cls[CLS_MODEL] inMemoryModelWithDescriptor:descriptor];
    NSString *name = [m hexStringIdentifier];
    if (!m || !name || [name length] == 0 || [name length] > 255)
        return ane_error_set(err, ANE_E_ENGINE, "the engine made no model, or one without an identity");
    ane_copy_string(identity, 256, name);
    *model = [(id)m retain];
    return ANE_OK;
}

/* ============================== Staging =================================== */

/* `beside`: the file appears whole, because somebody may be reading one of that name. */
static int write_file(const char *directory, const char *name, NSData *data, bool beside, AneError *err) {
    char path[4096], final[4096];
    if (snprintf(path, sizeof path, "%s/%s%s", directory, name, beside ? ".new" : "") >= (int)sizeof path ||
        snprintf(final, sizeof final, "%s/%s", directory, name) >= (int)sizeof final)
        return ane_error_set(err, ANE_E_IO, "staging path too long: %s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return ane_error_set(err, ANE_E_IO, "cannot write %s: %s", path, strerror(errno));
    const char *at = [data bytes];
    size_t left = [data length];
    while (left) {
        ssize_t n = write(fd, at, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int why = errno;
            close(fd);
            return ane_error_set(err, ANE_E_IO, "cannot write %s: %s", path, n < 0 ? strerror(why) : "no progress");
        }
        at += n;
        left -= (size_t)n;
    }
    if (close(fd) != 0 || (beside && rename(path, final) != 0))
        return ane_error_set(err, ANE_E_IO, "cannot write %s: %s", path, strerror(errno));
    return ANE_OK;
}

/* model.mil and weights/NAME into an empty staging directory (stale files of an
 * earlier build can shadow the new ones: third-party engine notes). Where another
 * process uses it, what is there has the same bytes: the name is their hash. The
 * caller holds a lease (or its trainer does) and is alone at work there. */
int ane_stage(const char *directory, NSData *text, NSDictionary *files, AneError *err) {
    char weights[4096];
    if (snprintf(weights, sizeof weights, "%s/weights", directory) >= (int)sizeof weights)
        return ane_error_set(err, ANE_E_IO, "staging path too long: %s", directory);
    bool shared = ane_lease_others(directory) > 0;
    if (!shared)
        ane_remove_tree(directory);
    if ((mkdir(directory, 0700) != 0 && !(shared && errno == EEXIST)) || (mkdir(weights, 0700) != 0 && !(shared && errno == EEXIST)))
        return ane_error_set(err, ANE_E_IO, "cannot make staging directory %s: %s", directory, strerror(errno));
    int status = write_file(directory, "model.mil", text, shared, err);
    for (NSString *path in files) {
        if (status != ANE_OK)
            break;
        const char *name = [path UTF8String] + strlen("@model_path/");
        status = write_file(directory, name, [files objectForKey:path], shared, err);
    }
    return status; /* what was written goes with the lease */
}
