// SPDX-License-Identifier: MIT
/* facade.m - what all classes of the facade share: errors and hashes. */
#import "facade.h"

/* ============================== Errors ==================================== */

/* NSLocalizedDescription is what the engine says; NSDebugDescription is the
 * precise reason ("line:col: E_SHAPE: conv: …"), which only softane gives. */
NSError *sa_facade_error(const SaAnswer *a) {
    if (a->domain == SA_DOMAIN_NONE || SA_FAILPOINT("facade.error.nil"))
        return nil;
    NSMutableDictionary *info = [NSMutableDictionary dictionaryWithCapacity:3];
    NSString *text = [NSString stringWithUTF8String:a->text];
    if (text) /* nil when a path in it is not UTF-8 */
        [info setObject:text forKey:NSLocalizedDescriptionKey];
    if (a->domain == SA_DOMAIN_COMPILER)
        [info setObject:@"_ANECompiler : ANECCompile() FAILED" forKey:@"NSLocalizedFailureReason"];
    if (a->why.code != SA_OK) {
        char line[600];
        sa_error_format(&a->why, line, sizeof line);
        NSString *why = [NSString stringWithUTF8String:line];
        if (why)
            [info setObject:why forKey:@"NSDebugDescription"];
    }
    return [NSError errorWithDomain:[NSString stringWithUTF8String:sa_domain_name(a->domain)] code:a->code userInfo:info];
}

BOOL sa_facade_finish(const SaAnswer *a, NSError **error) {
    if (a->ok)
        return YES;
    NSError *e = sa_facade_error(a);
    if (e && error)
        *error = e;
    return NO;
}

/* ============================== Hashes ==================================== */

NSString *sa_facade_hex(const uint8_t digest[32]) {
    static const char digits[] = "0123456789ABCDEF";
    char text[65];
    for (int i = 0; i < 32; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    text[64] = 0;
    return [NSString stringWithUTF8String:text];
}

NSString *sa_facade_hash(NSData *data) {
    SaSha256 h;
    uint8_t digest[32];
    sa_sha256_init(&h);
    if ([data length] > 0)
        sa_sha256_update(&h, [data bytes], [data length]);
    sa_sha256_final(&h, digest);
    return sa_facade_hex(digest);
}
