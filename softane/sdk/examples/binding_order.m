// SPDX-License-Identifier: MIT
/* binding_order.m - which surface of a request is which parameter?
 *
 * A program with the parameters q, k, v, declared in that order, computes
 * q + 10 k + 100 v. Surfaces that hold 1, 2 and 3 are bound in all six orders;
 * the results tell which parameter each slot feeds. Three programs with other
 * names and orders show what decides: the place in the text or the name. */
#import "engine.h"

enum { CHANNELS = 16, WIDTH = 32 };

static IOSurfaceRef filled(float value) {
    IOSurfaceRef s = make_surface(CHANNELS * WIDTH * 2);
    float v[CHANNELS * WIDTH];
    for (int i = 0; i < CHANNELS * WIDTH; i++)
        v[i] = value;
    write_surface(s, v, CHANNELS * WIDTH);
    return s;
}

/* The parameter that each slot feeds, as a list of names; nil on failure. */
static NSArray *slots(NSArray<NSString *> *names) {
    NSString *shape = [NSString stringWithFormat:@"tensor<fp16, [1, %d, 1, %d]>", CHANNELS, WIDTH];
    NSMutableArray *parameters = [NSMutableArray array];
    for (NSString *name in names)
        [parameters addObject:[NSString stringWithFormat:@"%@ %@", shape, name]];
    NSString *body = [NSString stringWithFormat:
        @"        fp16 ten = const()[name=string(\"ten\"), val=fp16(10)];\n"
         "        fp16 hundred = const()[name=string(\"hundred\"), val=fp16(100)];\n"
         "        %@ s1 = mul(x=%@, y=ten)[name=string(\"s1\")];\n"
         "        %@ s2 = mul(x=%@, y=hundred)[name=string(\"s2\")];\n"
         "        %@ s3 = add(x=%@, y=s1)[name=string(\"s3\")];\n"
         "        %@ out = add(x=s3, y=s2)[name=string(\"out\")];\n",
        shape, names[1], shape, names[2], shape, names[0], shape];
    Program *p = [Program compile:mil_program([parameters componentsJoinedByString:@", "], body, @"out") weights:@{}];
    if (!p || ![p load])
        return nil;

    IOSurfaceRef values[3] = {filled(1), filled(2), filled(3)}, out = make_surface(CHANNELS * WIDTH * 2);
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    NSArray *found = nil;
    BOOL same = YES;
    for (int o = 0; o < 6; o++) {
        NSMutableArray *inputs = [NSMutableArray array];
        for (int i = 0; i < 3; i++)
            [inputs addObject:(__bridge id)values[orders[o][i]]];
        [p bindInputs:inputs outputs:@[(__bridge id)out]];
        float y = 0;
        if (![p evaluate])
            return nil;
        read_surface(out, &y, 1);
        int digits[3] = {(int)y % 10, (int)y / 10 % 10, (int)y / 100}; /* what parameter 0, 1, 2 got */
        NSMutableArray *names_of_slots = [NSMutableArray array];
        for (int i = 0; i < 3; i++)
            for (int d = 0; d < 3; d++)
                if (digits[d] == orders[o][i] + 1)
                    [names_of_slots addObject:names[d]];
        same &= !found || [found isEqualToArray:names_of_slots];
        found = names_of_slots;
    }
    [p unload];
    for (int i = 0; i < 3; i++)
        CFRelease(values[i]);
    CFRelease(out);
    return same ? found : nil;
}

int main(void) {
    @autoreleasepool {
        if (!engine_open())
            return verdict(NO, "no engine");
        NSArray *programs = @[@[@"q", @"k", @"v"], @[@"weight", @"X", @"bias"], @[@"in2", @"in10", @"in1"]];
        BOOL by_name = YES, by_place = YES;
        for (NSArray *names in programs) {
            NSArray *found = slots(names);
            if (found.count != 3)
                return verdict(NO, "a slot feeds no parameter, or the order changes");
            printf("declared (%s): slots feed (%s)\n",
                   [names componentsJoinedByString:@", "].UTF8String, [found componentsJoinedByString:@", "].UTF8String);
            NSArray *sorted = [names sortedArrayUsingComparator:^NSComparisonResult(NSString *a, NSString *b) {
                return [a compare:b options:NSLiteralSearch];
            }];
            by_name &= [found isEqualToArray:sorted];
            by_place &= [found isEqualToArray:names];
        }
        printf("verdict: %s\n", by_name ? "slots are sorted by name" : by_place ? "slots follow the declaration" : "neither");
        return verdict(by_name || by_place, "no rule explains the order");
    }
}
