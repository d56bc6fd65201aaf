// SPDX-License-Identifier: MIT
/* descriptor.m - _ANEInMemoryModelDescriptor: text and weights of a program and
 * the identity made from them. Parses nothing: only a compile validates. */
#import "facade.h"

/* ============================== Weights =================================== */

id sa_descriptor_payload(NSDictionary *inner, id *key) {
    id found = nil;
    for (id k in inner) {
        id v = [inner objectForKey:k];
        if ([v isKindOfClass:[NSData class]]) {
            found = v;
            if (key)
                *key = k;
            break;
        }
    }
    if (!found) { /* not data: what follows throws on it, as on the real class */
        id k = [[inner allKeys] objectAtIndex:0];
        found = [inner objectForKey:k];
        if (key)
            *key = k;
    }
    return found;
}

/* SHA-256 over four zero bytes and the payloads in the order of the sorted
 * outer keys (§3.2). Names and lengths are not hashed. */
static NSString *weights_hash(NSDictionary *weights) {
    static const uint8_t seed[4] = {0};
    SaSha256 h;
    uint8_t digest[32];
    sa_sha256_init(&h);
    sa_sha256_update(&h, seed, sizeof seed);
    for (NSString *key in [[weights allKeys] sortedArrayUsingSelector:@selector(compare:)]) {
        NSData *d = sa_descriptor_payload([weights objectForKey:key], NULL);
        const void *bytes = [d bytes];
        if ([d length] > 0)
            sa_sha256_update(&h, bytes, [d length]);
    }
    sa_sha256_final(&h, digest);
    return sa_facade_hex(digest);
}

/* ============================== Class ===================================== */

@implementation _ANEInMemoryModelDescriptor

- (id)init {
    [self release];
    return nil;
}

+ (id)new {
    return nil;
}

/* nil rules of §3.1. A text that is not NSData throws here: it has no bytes. */
- (id)initWithText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist isMIL:(BOOL)mil {
    if (!(self = [super init]))
        return nil;
    bool good = text && weights;
    for (id key in weights)
        if (good && [[weights objectForKey:key] isKindOfClass:[NSDictionary class]] &&
            [(NSDictionary *)[weights objectForKey:key] count] == 0) {
            sa_log(SA_LOG_ERROR, "Empty weights dictionary for index=%s", [[key description] UTF8String]);
            good = false;
        }
    if (!good) {
        sa_log(SA_LOG_ERROR, "Invalid arguments. networkText=%p : weights=%p : optionsPlist=%p", (void *)text,
               (void *)weights, (void *)plist);
        [self release];
        return nil;
    }
    @autoreleasepool {
        (void)[text bytes];
        _networkText = [text copy];
        _weights = [weights retain]; /* not copied: the caller keeps it unchanged */
        _optionsPlist = [plist copy];
        _isMILModel = mil;
        _networkTextHash = [sa_facade_hash(_networkText) retain];
        _weightsHash = [weights_hash(_weights) retain];
        _optionsPlistHash = [sa_facade_hash(_optionsPlist) retain];
    }
    return self;
}

+ (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist {
    return [[[self alloc] initWithText:text weights:weights optionsPlist:plist isMIL:YES] autorelease];
}

+ (id)modelWithNetworkDescription:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist {
    return [[[self alloc] initWithText:text weights:weights optionsPlist:plist isMIL:NO] autorelease];
}

- (void)dealloc {
    [_networkText release];
    [_weights release];
    [_optionsPlist release];
    [_networkTextHash release];
    [_weightsHash release];
    [_optionsPlistHash release];
    [super dealloc];
}

- (NSData *)networkText { return _networkText; }
- (NSDictionary *)weights { return _weights; }
- (NSData *)optionsPlist { return _optionsPlist; }
- (NSString *)networkTextHash { return _networkTextHash; }
- (NSString *)weightsHash { return _weightsHash; }
- (NSString *)optionsPlistHash { return _optionsPlistHash; }
- (BOOL)isMILModel { return _isMILModel; }

- (NSString *)hexStringIdentifier {
    return [NSString stringWithFormat:@"%@_%@_%@", _networkTextHash, _weightsHash, _optionsPlistHash];
}

- (BOOL)isEqual:(id)other {
    if (self == other)
        return YES;
    if (![other isKindOfClass:[_ANEInMemoryModelDescriptor class]])
        return NO;
    _ANEInMemoryModelDescriptor *d = other;
    return [_networkTextHash isEqual:d->_networkTextHash] && [_weightsHash isEqual:d->_weightsHash] &&
           [_optionsPlistHash isEqual:d->_optionsPlistHash];
}

- (NSUInteger)hash {
    return [_networkTextHash hash] ^ [_weightsHash hash] ^ [_optionsPlistHash hash];
}

@end
