// SPDX-License-Identifier: MIT
/* instance.m - weights by symbol, and the parameters of a new instance of a
 * program. Values only: in a request they have no effect on baked weights (§16),
 * and new instances are refused (client.m). */
#import "facade.h"

SA_CLASS
@interface _ANEWeight : NSObject {
    NSString *_weightSymbol, *_sandboxExtension;
    NSURL *_weightURL;
    NSData *_SHACode;
}
@end

@implementation _ANEWeight

+ (id)new {
    return nil;
}
- (id)init {
    [self release];
    return nil;
}
- (id)initWithWeightSymbolAndURLSHA:(NSString *)symbol
                          weightURL:(NSURL *)url
                            SHACode:(NSData *)code
                   sandboxExtension:(NSString *)extension {
    if ((self = [super init])) {
        _weightSymbol = [symbol copy];
        _weightURL = [url copy];
        _SHACode = [code copy];
        _sandboxExtension = [extension copy];
    }
    return self;
}
+ (id)weightWithSymbolAndURLSHA:(NSString *)symbol weightURL:(NSURL *)url SHACode:(NSData *)code {
    return [[[self alloc] initWithWeightSymbolAndURLSHA:symbol weightURL:url SHACode:code sandboxExtension:nil] autorelease];
}
+ (id)weightWithSymbolAndURL:(NSString *)symbol weightURL:(NSURL *)url {
    return [self weightWithSymbolAndURLSHA:symbol weightURL:url SHACode:nil];
}
- (void)dealloc {
    [_weightSymbol release];
    [_sandboxExtension release];
    [_weightURL release];
    [_SHACode release];
    [super dealloc];
}
- (NSString *)weightSymbol { return _weightSymbol; }
- (NSURL *)weightURL { return _weightURL; }
- (NSData *)SHACode { return _SHACode; }
- (NSString *)sandboxExtension { return _sandboxExtension; }
- (void)setSandboxExtension:(NSString *)extension {
    NSString *copy = [extension copy];
    [_sandboxExtension release];
    _sandboxExtension = copy;
}
@end

SA_CLASS
@interface _ANEProcedureData : NSObject {
    NSString *_procedureSymbol;
    NSArray *_weightArray;
}
@end

@implementation _ANEProcedureData

+ (id)procedureDataWithSymbol:(NSString *)symbol weightArray:(NSArray *)weights {
    _ANEProcedureData *p = [[[self alloc] init] autorelease];
    p->_procedureSymbol = [symbol copy];
    p->_weightArray = [weights copy];
    return p;
}
- (void)dealloc {
    [_procedureSymbol release];
    [_weightArray release];
    [super dealloc];
}
- (NSString *)procedureSymbol { return _procedureSymbol; }
- (NSArray *)weightArray { return _weightArray; }
@end

@implementation _ANEModelInstanceParameters

+ (id)withProcedureData:(id)data procedureArray:(NSArray *)procedures {
    _ANEModelInstanceParameters *p = [[[self alloc] init] autorelease];
    p->_procedureData = [data retain];
    p->_procedureArray = [procedures copy];
    return p;
}
- (void)dealloc {
    [_procedureData release];
    [_procedureArray release];
    [super dealloc];
}
- (id)procedureData { return _procedureData; }
- (NSArray *)procedureArray { return _procedureArray; }
@end
