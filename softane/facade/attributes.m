// SPDX-License-Identifier: MIT
/* attributes.m - modelAttributes of a loaded program: which symbol index means
 * which port, and how a port lies in its surface (§10). Both spellings of keys
 * ("ANEF…" and "kANEF…Key") are literal.
 *
 * Symbol arrays run over all procedures, one after the other; names may repeat. */
#import "facade.h"

/* Names of element types. Only "Float16" is known from the real engine; the
 * others follow its pattern. */
static NSString *type_name(SaDtype t) {
    switch (t) {
    case SA_FP16: return @"Float16";
    case SA_FP32: return @"Float32";
    case SA_INT8: return @"Int8";
    case SA_UINT8: return @"UInt8";
    case SA_INT16: return @"Int16";
    case SA_UINT16: return @"UInt16";
    case SA_INT32: return @"Int32";
    case SA_UINT64: return @"UInt64";
    case SA_BOOL: return @"Bool";
    default: return @"Unknown";
    }
}

static NSNumber *number(uint64_t n) { return [NSNumber numberWithUnsignedLongLong:n]; }

/* Outputs carry the suffix; it stays with the name in both fields. */
static NSString *symbol_name(const SaPort *p, bool output) {
    return [NSString stringWithFormat:output ? @"%s@output" : @"%s", p->name];
}

static NSDictionary *port_info(const SaPort *p, bool output) {
    NSString *name = symbol_name(p, output);
    return [NSDictionary dictionaryWithObjectsAndKeys:name, @"Name", name, @"Symbol", type_name(p->type.dtype), @"Type",
                                                      number((uint64_t)p->n), @"Batches", number((uint64_t)p->c),
                                                      @"Channels", number(1), @"Depth", number((uint64_t)p->h),
                                                      @"Height", number((uint64_t)p->w), @"Width",
                                                      number(p->batch_stride), @"BatchStride", number(p->batch_stride),
                                                      @"DepthStride", number(p->plane_stride), @"PlaneStride",
                                                      number(p->row_stride), @"RowStride", number((uint64_t)p->c),
                                                      @"PlaneCount", number(1), @"Interleave", nil];
}

/* One side of one procedure, appended to the arrays over all procedures. */
static NSArray *side_info(const SaEntry *e, int proc, bool output, NSMutableArray *symbols, NSMutableArray *align,
                          NSMutableArray *indices) {
    int n = output ? sa_plan_outputs(e->plan, proc) : sa_plan_inputs(e->plan, proc);
    NSMutableArray *list = [NSMutableArray arrayWithCapacity:(NSUInteger)n];
    for (int i = 0; i < n; i++) {
        const SaPort *p = output ? sa_entry_output(e, proc, i) : sa_entry_input(e, proc, i);
        [indices addObject:number([symbols count])];
        [symbols addObject:symbol_name(p, output)];
        [align addObject:number(0)];
        [list addObject:port_info(p, output)];
    }
    return list;
}

NSDictionary *sa_facade_attributes(const SaEntry *e) {
    const SaPlan *plan = e->plan;
    NSMutableArray *in = [NSMutableArray array], *out = [NSMutableArray array];
    NSMutableArray *in_align = [NSMutableArray array], *out_align = [NSMutableArray array];
    NSMutableArray *procedures = [NSMutableArray array], *status = [NSMutableArray array];
    NSMutableDictionary *ids = [NSMutableDictionary dictionary];
    for (int p = 0; p < sa_plan_procedures(plan); p++) {
        NSMutableArray *in_index = [NSMutableArray array], *out_index = [NSMutableArray array];
        NSString *name = [NSString stringWithUTF8String:sa_plan_procedure_name(plan, p)];
        NSArray *inputs = side_info(e, p, false, in, in_align, in_index);
        NSArray *outputs = side_info(e, p, true, out, out_align, out_index);
        [procedures addObject:[NSDictionary dictionaryWithObjectsAndKeys:number((uint64_t)p), @"ANEFModelProcedureID",
                                                                         in_index, @"ANEFModelInputSymbolIndexArray",
                                                                         out_index, @"ANEFModelOutputSymbolIndexArray",
                                                                         nil]];
        [status addObject:[NSDictionary dictionaryWithObjectsAndKeys:name, @"Name", inputs, @"LiveInputList", outputs,
                                                                     @"LiveOutputList", nil]];
        [ids setObject:number((uint64_t)p) forKey:name];
    }
    NSDictionary *description = [NSDictionary
        dictionaryWithObjectsAndKeys:in_align, @"ANEFModelInput16KAlignmentArray", out_align,
                                     @"ANEFModelOutput16KAlignmentArray", procedures, @"ANEFModelProcedures", in,
                                     @"kANEFModelInputSymbolsArrayKey", out, @"kANEFModelOutputSymbolsArrayKey", ids,
                                     @"kANEFModelProcedureNameToIDMapKey", nil];
    return [NSDictionary dictionaryWithObjectsAndKeys:description, @"ANEFModelDescription", status, @"NetworkStatusList", nil];
}
