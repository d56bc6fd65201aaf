// SPDX-License-Identifier: MIT
/* surfaceobject.m - _ANEIOSurfaceObject: a surface inside a request (§7). */
#import "facade.h"

@implementation _ANEIOSurfaceObject

/* Takes over one reference of the surface. NULL gives nil. */
- (id)initOwning:(IOSurfaceRef)surface startOffset:(NSNumber *)offset {
    if (!(self = [super init]))
        return nil;
    _ioSurface = surface;
    _startOffset = [(offset ? offset : [NSNumber numberWithInt:0]) retain];
    if (!surface) {
        [self release];
        return nil;
    }
    return self;
}

+ (id)objectWithIOSurface:(IOSurfaceRef)surface {
    return [self objectWithIOSurface:surface startOffset:nil];
}

+ (id)objectWithIOSurface:(IOSurfaceRef)surface startOffset:(NSNumber *)offset {
    return [[[self alloc] initOwning:(IOSurfaceRef)[(id)surface retain] startOffset:offset] autorelease];
}

/* Does not retain, but releases at the end all the same: the caller's
 * reference passes over. */
+ (id)objectWithIOSurfaceNoRetain:(IOSurfaceRef)surface startOffset:(NSNumber *)offset {
    return [[[self alloc] initOwning:surface startOffset:offset] autorelease];
}

- (void)dealloc {
    [(id)_ioSurface release];
    [_startOffset release];
    [super dealloc];
}

- (IOSurfaceRef)ioSurface { return _ioSurface; }
- (NSNumber *)startOffset { return _startOffset; } /* kept, and ignored by MIL programs */

/* ============================== Creators ================================== */

+ (IOSurfaceRef)createIOSurfaceWithWidth:(NSInteger)width
                              pixel_size:(NSInteger)pixel
                                  height:(NSInteger)height
                         bytesPerElement:(NSInteger)element {
    NSNumber *row = [NSNumber numberWithLongLong:(long long)width * pixel];
    NSDictionary *d = [NSDictionary
        dictionaryWithObjectsAndKeys:[NSNumber numberWithInteger:width], kIOSurfaceWidth,
                                     [NSNumber numberWithInteger:height], kIOSurfaceHeight,
                                     [NSNumber numberWithInteger:element], kIOSurfaceBytesPerElement, row,
                                     kIOSurfaceBytesPerRow, nil];
    return IOSurfaceCreate(d);
}

+ (IOSurfaceRef)createIOSurfaceWithWidth:(NSInteger)width pixel_size:(NSInteger)pixel height:(NSInteger)height {
    return [self createIOSurfaceWithWidth:width pixel_size:pixel height:height bytesPerElement:pixel];
}

@end
