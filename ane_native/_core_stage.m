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

void ane_blob_write(const AneBlobDef *b, const float *weight, uint8_t *out) {
    size_t count = (size_t)(b->rows * b->cols);
    ane_blob_head(out, count);
    uint16_t *half = (uint16_t *)(void *)(out + ANE_BLOB_HEAD);
    if (b->weight < 0)
        memcpy(half, b->data_f16, count * 2);
    else if (b->transform == ANE_BAKE_PLAIN)
        ane_cpu_half_from_float(weight, half, count);
    else
        ane_cpu_bake_transposed(weight, half, (size_t)b->rows, (size_t)b->cols, 0, (size_t)b->rows);
}

/* ============================== Shared sources ============================ */

/* A weight file inside a segment. The mapping lives as long as anybody, also
 * the engine's descriptor, holds one of them. */
@interface AneNativeSegmentData : NSData {
    AneSegment *_segment;
    const void *_at;
    NSUInteger _length;
}
- (id)initWithSegment:(AneSegment *)segment at:(size_t)at length:(size_t)length;
@end

@implementation AneNativeSegmentData
- (id)initWithSegment:(AneSegment *)segment at:(size_t)at length:(size_t)length {
    if (!(self = [super init]))
        return nil;
    ane_segment_retain(segment);
    _segment = segment;
    _at = segment->base + at;
    _length = length;
    return self;
}
/* GNUstep's -init of a subclass of NSData comes here; there is nothing to take over. */
- (id)initWithBytesNoCopy:(void *)bytes length:(NSUInteger)length freeWhenDone:(BOOL)free {
    (void)bytes, (void)length, (void)free;
    return self;
}
- (void)dealloc {
    ane_segment_release(_segment);
    [super dealloc];
}
- (const void *)bytes { return _at; }
- (NSUInteger)length { return _length; }
- (id)copyWithZone:(struct _NSZone *)zone {
    (void)zone;
    return [self retain];
}
@end

NSDictionary *ane_segment_files(AneSegment *s, const AneSegmentHead *head) {
    NSMutableDictionary *files = [NSMutableDictionary dictionary];
    for (uint32_t i = 0; i < head->n_files; i++) {
        const AneSegmentFile *f = &head->files[i];
        NSData *d = [[AneNativeSegmentData alloc] initWithSegment:s at:(size_t)f->at length:(size_t)f->bytes];
        if (!d)
            return nil;
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

static int write_file(const char *directory, const char *name, NSData *data, AneError *err) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
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
    if (close(fd) != 0)
        return ane_error_set(err, ANE_E_IO, "cannot write %s: %s", path, strerror(errno));
    return ANE_OK;
}

/* model.mil and weights/NAME into an empty staging directory (stale files of an
 * earlier build can shadow the new ones: third-party engine notes). */
int ane_stage(const char *directory, NSData *text, NSDictionary *files, AneError *err) {
    char weights[4096];
    if (snprintf(weights, sizeof weights, "%s/weights", directory) >= (int)sizeof weights)
        return ane_error_set(err, ANE_E_IO, "staging path too long: %s", directory);
    ane_remove_tree(directory);
    if (mkdir(directory, 0700) != 0 || mkdir(weights, 0700) != 0)
        return ane_error_set(err, ANE_E_IO, "cannot make staging directory %s: %s", directory, strerror(errno));
    int status = write_file(directory, "model.mil", text, err);
    for (NSString *path in files) {
        if (status != ANE_OK)
            break;
        const char *name = [path UTF8String] + strlen("@model_path/");
        status = write_file(directory, name, [files objectForKey:path], err);
    }
    if (status != ANE_OK)
        ane_remove_tree(directory);
    return status;
}
