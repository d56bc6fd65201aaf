// SPDX-License-Identifier: MIT
/* fuzz_request.m - requests of any shape: the answer is the one that the rules
 * written out here give, and nothing outside of the bound tensors is touched.
 *
 * Input: program, qos, procedure (2 bytes), numbers of inputs, input indices,
 * outputs, output indices, a byte of extras; then 2 bytes for every surface
 * (its kind) and for every index. Missing bytes are 0. */
#import "../tests/facade_programs.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PROMISE(e) do { if (!(e)) { fprintf(stderr, "broken: %s\n", #e); __builtin_trap(); } } while (0)

/* ============================== Programs ================================== */

enum { PROGRAMS = 3, MOST = 6 };
static const char *const texts[PROGRAMS] = {mul_text, sub_text, two_text};
static const int n_inputs[PROGRAMS] = {1, 2, 1}, n_procedures[PROGRAMS] = {1, 1, 2};
static id<Model> models[PROGRAMS];

/* Kinds of surfaces: exact, larger, one byte short, tiny, and two odd objects. */
enum { EXACT, LARGE, SHORT, TINY, NOTHING, KINDS };
static const size_t sizes[KINDS] = {BYTES, 4 * BYTES, BYTES - 1, 1, 0};
static IOSurfaceRef pool[2][MOST + 1][TINY + 1]; /* [output][slot][kind] */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    @autoreleasepool {
        keep = [[NSMutableArray alloc] init];
        softane_set("threads", "1");
        for (int i = 0; i < PROGRAMS; i++) {
            models[i] = [staged(texts[i], i == 0 ? blob(HALF_2) : nil) retain];
            PROMISE(compile(models[i]) && load(models[i]));
        }
        for (int o = 0; o < 2; o++)
            for (int i = 0; i <= MOST; i++)
                for (int k = 0; k <= TINY; k++)
                    PROMISE((pool[o][i][k] = surface_of(sizes[k])) != NULL);
    }
    return 0;
}

/* ============================== Requests ================================== */

typedef struct {
    const uint8_t *p, *end;
} Bytes;
static unsigned byte(Bytes *b) { return b->p < b->end ? *b->p++ : 0; }
static unsigned two(Bytes *b) {
    unsigned low = byte(b);
    return low | byte(b) << 8;
}
/* Mostly small, sometimes at the limit of 255, sometimes no array at all (-1). */
static int count(Bytes *b) {
    unsigned n = byte(b);
    return n < 0xf0 ? (int)(n % (MOST + 1)) : n < 0xf8 ? (int)(250 + n % 8) : n == 0xff ? -1 : 0;
}

typedef struct {
    int n, kind[300], index[300];
} Side;

/* ---- the answer a request must get: 0 good, 0x1d, 0x2; refused without an error */
enum { REFUSED = -1 };

static bool counts_hold(int n, int indices) { return n > 0 && n <= 255 && n == indices; }

static int side_status(const Side *s, int first, int ports) {
    bool bound[4] = {false};
    for (int i = 0; i < s->n; i++) {
        int at = s->index[i] - first;
        if (at < 0 || at >= ports || bound[at])
            return 0x2;
        if (sizes[s->kind[i]] < BYTES)
            return 0x1d;
        bound[at] = true;
    }
    return s->n == ports ? 0 : 0x2;
}

static int expected(int program, unsigned procedure, const Side *in, int in_indices, const Side *out, int out_indices) {
    if (!counts_hold(in->n, in_indices) || !counts_hold(out->n, out_indices) || procedure > 128)
        return REFUSED;
    for (int i = 0; i < in->n; i++)
        if ((unsigned)in->index[i] > 254)
            return REFUSED;
    for (int i = 0; i < out->n; i++)
        if ((unsigned)out->index[i] > 254)
            return REFUSED;
    unsigned n = (unsigned)n_procedures[program];
    if (procedure >= n && !(n == 1 && procedure < 16))
        return 0x2;
    int at = procedure < n ? (int)procedure : 0;
    int status = side_status(in, at * n_inputs[program], n_inputs[program]);
    return status ? status : side_status(out, at, 1);
}

static NSArray *surfaces(Bytes *b, int n, bool output, Side *s) {
    NSMutableArray *a = [NSMutableArray array];
    s->n = n < 0 ? 0 : n;
    for (int i = 0; i < n; i++) {
        int kind = (int)(two(b) % 16);
        s->kind[i] = kind = kind > NOTHING ? EXACT : kind;
        IOSurfaceRef surface = kind == NOTHING ? NULL : pool[output][i > MOST ? MOST : i][kind];
        id object = surface ? wrap(surface) : [[[(Class)named("_ANEIOSurfaceObject") alloc] init] autorelease];
        [a addObject:object];
    }
    return n < 0 ? nil : a;
}

static NSArray *indices(Bytes *b, int n, Side *s) {
    NSMutableArray *a = [NSMutableArray array];
    for (int i = 0; i < n; i++) {
        unsigned v = two(b);
        int index = v < 0x8000 ? (int)(v % 300) : v < 0xf000 ? (int)(v % 4) : -(int)(v % 3) - 1;
        if (i < 300)
            s->index[i] = index;
        [a addObject:num(index)];
    }
    return n < 0 ? nil : a;
}

/* ============================== One input ================================= */

static void paint(void) {
    for (int i = 0; i <= MOST; i++)
        for (int k = 0; k <= TINY; k++)
            for (int o = 0; o < 2; o++)
                memset(IOSurfaceGetBaseAddress(pool[o][i][k]), o ? 0x5a : 0x3c, sizes[k]);
}

/* Not recorded, nor inlined where it would be: a branch for every byte of every surface says nothing about a request. */
__attribute__((noinline, no_sanitize("coverage"))) static bool still(IOSurfaceRef s, size_t from, size_t to, uint8_t v) {
    const uint8_t *p = IOSurfaceGetBaseAddress(s);
    for (size_t i = from; i < to; i++)
        if (p[i] != v)
            return false;
    return true;
}

/* Only the first tensor of a bound output may have changed. */
__attribute__((noinline, no_sanitize("coverage"))) static void nothing_else_changed(const Side *out, bool good) {
    for (int i = 0; i <= MOST; i++)
        for (int k = 0; k <= TINY; k++) {
            bool mine = good && i == 0 && out->kind[0] == k;
            PROMISE(still(pool[0][i][k], 0, sizes[k], 0x3c));
            PROMISE(still(pool[1][i][k], mine ? BYTES : 0, sizes[k], 0x5a));
        }
}

static void one(Bytes b) {
    int program = (int)(byte(&b) % PROGRAMS);
    static const unsigned levels[] = {21, 33, 25, 17, 9, 0, 5};
    unsigned qos = levels[byte(&b) % 7], procedure = two(&b);
    procedure = procedure < 0x100 ? procedure % 4 : procedure % 140;
    int n[4];
    for (int i = 0; i < 4; i++)
        n[i] = count(&b);
    n[1] = n[1] > MOST || n[1] < 0 ? n[1] : byte(&b) & 1 ? n[1] : n[0]; /* mostly they agree */
    n[3] = n[3] > MOST || n[3] < 0 ? n[3] : byte(&b) & 1 ? n[3] : n[2];
    unsigned extras = byte(&b);
    static Side in, out;
    memset(&in, 0, sizeof in), memset(&out, 0, sizeof out);
    NSArray *xs = surfaces(&b, n[0], false, &in), *xi = indices(&b, n[1], &in);
    NSArray *ys = surfaces(&b, n[2], true, &out), *yi = indices(&b, n[3], &out);
    id<Request> r = [(id<RequestClass>)named("_ANERequest") requestWithInputs:xs inputIndices:xi outputs:ys outputIndices:yi
                                                                weightsBuffer:extras & 1 ? wrap(pool[0][0][EXACT]) : nil
                                                                    perfStats:extras & 2 ? [NSArray array] : nil
                                                               procedureIndex:extras & 4 && procedure == 0 ? nil : num((int)procedure)];
    int want = expected(program, procedure, &in, n[1] < 0 ? 0 : n[1], &out, n[3] < 0 ? 0 : n[3]);
    paint();
    for (int again = 0; again < 2; again++) { /* the second time from its C form */
        NSError *e = nil;
        PROMISE([r validate] == (want != REFUSED));
        BOOL ok = [models[program] evaluateWithQoS:qos options:none() request:r error:&e];
        PROMISE(ok == (want == 0));
        PROMISE((e != nil) == (want > 0) && (!e || [e code] == 8));
        NSString *status = [NSString stringWithFormat:@"0x%x", want];
        PROMISE(!e || [[e localizedDescription] rangeOfString:status].location != NSNotFound);
    }
    nothing_else_changed(&out, want == 0);
    if (want == 0) { /* 0x3c3c is 1.0586: 2x, x - x, 2x and x * x */
        uint16_t y = *(uint16_t *)IOSurfaceGetBaseAddress(pool[1][0][out.kind[0]]);
        PROMISE(y == (program == 1 ? 0 : program == 2 && procedure == 1 ? 0x3c7c : 0x403c));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    @autoreleasepool {
        one((Bytes){data, data + size});
    }
    return 0;
}
