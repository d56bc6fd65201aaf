// SPDX-License-Identifier: MIT
/* resume_trainer.m - a trainer in C that starts itself again.
 *
 * A process may compile so many programs and no more. This trainer bakes its
 * weights anew at every step, counts, saves a checkpoint when its budget is
 * spent, and executes itself with --resume until all steps are done. Softmax
 * regression on made-up data: the logits on the engine, loss and gradients with
 * Accelerate. Each program has two procedures, one with weights in fp16, one in
 * int8 with a scale per row, and takes float surfaces: they cast. */
#import <Foundation/Foundation.h>
#import <Accelerate/Accelerate.h>
#import <IOSurface/IOSurface.h>
#import <objc/message.h>
#include <arm_neon.h>
#include <dlfcn.h>
#include <getopt.h>
#include <mach-o/dyld.h>
#include <mach/mach.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

#define INS 64      /* features */
#define OUTS 32     /* classes */
#define BATCH 64    /* samples: the width of the tensors */
#define STEPS_DEFAULT 12
#define BUDGET_DEFAULT 5
#define MAGIC 0x424c5a54u

/* ============================== Checkpoint ================================ */

typedef struct __attribute__((packed)) {
    uint32_t magic, version, step, restarts;
    float first_loss, loss;
    double wall;
    uint32_t ins, outs;
} Header;

_Static_assert(sizeof(Header) == 40, "the file format");

static bool save(const char *path, const Header *h, const float *w) {
    char *beside = NULL;
    if (asprintf(&beside, "%s.new", path) < 0)
        return false;
    FILE *f = fopen(beside, "wb");
    bool good = f && fwrite(h, sizeof *h, 1, f) == 1 && fwrite(w, sizeof *w, OUTS * INS, f) == OUTS * INS;
    if (f)
        good = fclose(f) == 0 && good;
    good = good && rename(beside, path) == 0;
    free(beside);
    return good;
}

static bool restore(const char *path, Header *h, float *w) {
    FILE *f = fopen(path, "rb");
    bool good = f && fread(h, sizeof *h, 1, f) == 1 && h->magic == MAGIC && h->ins == INS && h->outs == OUTS &&
                fread(w, sizeof *w, OUTS * INS, f) == OUTS * INS;
    if (f)
        fclose(f);
    return good;
}

/* ============================== The engine ================================ */

/* Members are held by hand: a C struct on the heap keeps no objects alive. */
typedef struct {
    CFTypeRef model, request[2];
    IOSurfaceRef in, out[2];
    char *folder;
} Kernel;

static Class gDescriptor, gModel, gRequest, gSurface;
static int gCompiles;

static bool open_engine(void) {
    if (!dlopen("/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine", RTLD_NOW | RTLD_GLOBAL))
        return false;
    gDescriptor = NSClassFromString(@"_ANEInMemoryModelDescriptor");
    gModel = NSClassFromString(@"_ANEInMemoryModel");
    gRequest = NSClassFromString(@"_ANERequest");
    gSurface = NSClassFromString(@"_ANEIOSurfaceObject");
    return gDescriptor && gModel && gRequest && gSurface;
}

static NSString *text_of_program(const float *scale) {
    NSMutableString *m = [NSMutableString string];
    [m appendString:@"program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-component-MIL\", \"3510.2.1\"}, "
                     "{\"coremlc-version\", \"3505.4.1\"}, {\"coremltools-component-milinternal\", \"\"}, {\"coremltools-version\", \"9.0\"}})]\n{\n"];
    for (int f = 0; f < 2; f++) {
        [m appendFormat:@"  func %s<ios18>(tensor<fp32, [1, %d, 1, %d]> x) {\n", f ? "logits_int8" : "logits", INS, BATCH];
        [m appendString:@"    string to16 = const()[name=string(\"to16\"), val=string(\"fp16\")];\n"
                         "    string to32 = const()[name=string(\"to32\"), val=string(\"fp32\")];\n"
                         "    string pt = const()[name=string(\"pt\"), val=string(\"valid\")];\n"
                         "    tensor<int32, [2]> st = const()[name=string(\"st\"), val=tensor<int32, [2]>([1, 1])];\n"
                         "    tensor<int32, [4]> pd = const()[name=string(\"pd\"), val=tensor<int32, [4]>([0, 0, 0, 0])];\n"
                         "    tensor<int32, [2]> dl = const()[name=string(\"dl\"), val=tensor<int32, [2]>([1, 1])];\n"
                         "    int32 gr = const()[name=string(\"gr\"), val=int32(1)];\n"];
        [m appendFormat:@"    tensor<fp16, [1, %d, 1, %d]> h = cast(x=x, dtype=to16)[name=string(\"h\")];\n", INS, BATCH];
        if (f == 0) {
            [m appendFormat:@"    tensor<fp16, [%d, %d, 1, 1]> w = const()[name=string(\"w\"), val=tensor<fp16, [%d, %d, 1, 1]>"
                             "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(64)))];\n", OUTS, INS, OUTS, INS];
        } else {
            NSMutableArray *scales = [NSMutableArray arrayWithCapacity:OUTS];
            for (int o = 0; o < OUTS; o++)
                [scales addObject:[NSString stringWithFormat:@"%a", scale[o]]]; /* hexadecimal: no digit is lost */
            [m appendFormat:@"    tensor<fp16, [%d, %d, 1, 1]> w = constexpr_affine_dequantize()[axis=int32(0), name=string(\"w\"), "
                             "quantized_data=tensor<int8, [%d, %d, 1, 1]>(BLOBFILE(path=string(\"@model_path/weights/q.bin\"), offset=uint64(64))), "
                             "scale=tensor<fp16, [%d]>([%@]), zero_point=int8(0)];\n",
                            OUTS, INS, OUTS, INS, OUTS, [scales componentsJoinedByString:@", "]];
        }
        [m appendFormat:@"    tensor<fp16, [1, %d, 1, %d]> z = conv(dilations=dl, groups=gr, pad=pd, pad_type=pt, strides=st, weight=w, x=h)"
                         "[name=string(\"z\")];\n", OUTS, BATCH];
        [m appendFormat:@"    tensor<fp32, [1, %d, 1, %d]> y = cast(x=z, dtype=to32)[name=string(\"y\")];\n  } -> (y);\n", OUTS, BATCH];
    }
    [m appendString:@"}\n"];
    return m;
}

static NSData *file_of(const void *bytes, size_t size, uint32_t dtype) {
    NSMutableData *d = [[NSMutableData alloc] initWithLength:128];
    uint8_t *p = d.mutableBytes;
    p[0] = 1, p[4] = 2;
    memcpy(p + 64, (uint32_t[]){0xDEADBEEF, dtype}, 8);
    memcpy(p + 72, (uint64_t[]){size, 128}, 16);
    [d appendBytes:bytes length:size];
    return d;
}

/* fp32 to fp16, four at a time. */
static NSData *halves(const float *w, size_t n) {
    uint16_t *h = aligned_alloc(64, n * sizeof *h);
    for (size_t i = 0; i + 4 <= n; i += 4)
        vst1_f16((__fp16 *)(void *)(h + i), vcvt_f16_f32(vld1q_f32(w + i)));
    NSData *d = file_of(h, n * sizeof *h, 1);
    free(h);
    return d;
}

/* Rows scaled to ±127. */
static NSData *bytes_and_scales(const float *w, float *scale) {
    int8_t q[OUTS * INS];
    for (int o = 0; o < OUTS; o++) {
        float most = 0;
        vDSP_maxmgv(w + o * INS, 1, &most, INS);
        scale[o] = most > 0 ? most / 127 : 1;
        for (int i = 0; i < INS; i++)
            q[o * INS + i] = (int8_t)lrintf(w[o * INS + i] / scale[o]);
    }
    return file_of(q, sizeof q, 4);
}

static IOSurfaceRef floats_surface(int rows) {
    size_t bytes = sizeof(float) * (size_t)rows * BATCH;
    CFMutableDictionaryRef d = CFDictionaryCreateMutable(kCFAllocatorDefault, 0, &kCFTypeDictionaryKeyCallBacks, &kCFTypeDictionaryValueCallBacks);
    const struct { CFStringRef key; int64_t value; } want[] = {
        {kIOSurfaceWidth, (int64_t)bytes}, {kIOSurfaceHeight, 1}, {kIOSurfaceBytesPerElement, 1}, {kIOSurfaceBytesPerRow, (int64_t)bytes},
        {kIOSurfaceAllocSize, (int64_t)bytes}, {kIOSurfacePixelFormat, 0}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        CFNumberRef n = CFNumberCreate(kCFAllocatorDefault, kCFNumberSInt64Type, &want[i].value);
        CFDictionarySetValue(d, want[i].key, n);
        CFRelease(n);
    }
    IOSurfaceRef s = IOSurfaceCreate(d);
    CFRelease(d);
    return s;
}

static void kernel_free(Kernel *k) {
    if (!k)
        return;
    if (k->model) {
        NSError *e = nil;
        ((BOOL (*)(id, SEL, unsigned int, NSError **))objc_msgSend)((__bridge id)k->model, @selector(unloadWithQoS:error:), 21, &e);
        CFBridgingRelease(k->model);
    }
    for (int i = 0; i < 2; i++) {
        if (k->request[i])
            CFRelease(k->request[i]);
        if (k->out[i])
            CFRelease(k->out[i]);
    }
    if (k->in)
        CFRelease(k->in);
    free(k->folder);
    free(k);
}

/* Bake these weights. NULL when the engine says no. */
static Kernel *kernel_new(const float *w) {
    Kernel *k = calloc(1, sizeof *k);
    @autoreleasepool {
        float scale[OUTS];
        NSDictionary *files = @{@"w.bin": halves(w, OUTS * INS), @"q.bin": bytes_and_scales(w, scale)};
        NSData *mil = [text_of_program(scale) dataUsingEncoding:NSUTF8StringEncoding];
        NSMutableDictionary *weights = [[NSMutableDictionary alloc] init];
        [files enumerateKeysAndObjectsUsingBlock:^(id name, id data, BOOL *stop) {
            weights[[NSString stringWithFormat:@"@model_path/weights/%@", name]] = @{@"offset": @0, @"data": data};
        }];
        id d = ((id (*)(Class, SEL, id, id, id))objc_msgSend)(gDescriptor, @selector(modelWithMILText:weights:optionsPlist:), mil, weights, nil);
        id m = ((id (*)(Class, SEL, id))objc_msgSend)(gModel, @selector(inMemoryModelWithDescriptor:), d);
        NSString *folder = [NSTemporaryDirectory() stringByAppendingPathComponent:((id (*)(id, SEL))objc_msgSend)(m, @selector(hexStringIdentifier))];
        k->folder = strdup(folder.fileSystemRepresentation);
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/weights", k->folder);
        mkdir(k->folder, 0755);
        mkdir(path, 0755);
        [mil writeToFile:[folder stringByAppendingPathComponent:@"model.mil"] options:0 error:NULL];
        for (NSString *name in files)
            [files[name] writeToFile:[folder stringByAppendingFormat:@"/weights/%@", name] atomically:NO];
        NSError *e = nil;
        BOOL ok = ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(m, @selector(compileWithQoS:options:error:), 21, @{}, &e);
        gCompiles++;
        ok = ok && ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(m, @selector(loadWithQoS:options:error:), 21, @{}, &e);
        if (!ok) {
            fprintf(stderr, "%s: %s\n", getprogname(), e ? [[e description] UTF8String] : "refused");
            kernel_free(k);
            return NULL;
        }
        k->model = CFBridgingRetain(m);
        k->in = floats_surface(INS);
        for (int i = 0; i < 2; i++) { /* the symbols of the second procedure follow those of the first */
            k->out[i] = floats_surface(OUTS);
            id x = ((id (*)(Class, SEL, IOSurfaceRef))objc_msgSend)(gSurface, @selector(objectWithIOSurface:), k->in);
            id y = ((id (*)(Class, SEL, IOSurfaceRef))objc_msgSend)(gSurface, @selector(objectWithIOSurface:), k->out[i]);
            id r = ((id (*)(Class, SEL, id, id, id, id, id, id, id))objc_msgSend)(gRequest,
                @selector(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:),
                [NSArray arrayWithObject:x], @[@(i)], [NSArray arrayWithObject:y], @[@(i)], nil, nil, [NSNumber numberWithInt:i]);
            k->request[i] = CFRetain((__bridge CFTypeRef)r);
        }
    }
    return k;
}

static bool kernel_run(Kernel *k, int procedure, const float *x, float *logits) {
    IOSurfaceLock(k->in, 0, NULL);
    memcpy(IOSurfaceGetBaseAddress(k->in), x, sizeof(float) * INS * BATCH);
    IOSurfaceUnlock(k->in, 0, NULL);
    NSError *e = nil;
    BOOL ok = ((BOOL (*)(id, SEL, unsigned int, id, id, NSError **))objc_msgSend)((__bridge id)k->model,
        @selector(evaluateWithQoS:options:request:error:), 21, @{}, (__bridge id)k->request[procedure], &e);
    if (!ok)
        fprintf(stderr, "evaluate: %s\n", e.localizedDescription.UTF8String);
    IOSurfaceLock(k->out[procedure], kIOSurfaceLockReadOnly, NULL);
    memcpy(logits, IOSurfaceGetBaseAddress(k->out[procedure]), sizeof(float) * OUTS * BATCH);
    IOSurfaceUnlock(k->out[procedure], kIOSurfaceLockReadOnly, NULL);
    return ok;
}

/* ============================== Mathematics =============================== */

/* Logits [OUTS, BATCH] become probabilities; the mean loss of these labels. */
static float softmax_loss(float *z, const int *label) {
    float t[OUTS * BATCH], sum, most, low, loss = 0;
    vDSP_mtrans(z, 1, t, 1, BATCH, OUTS);
    for (int b = 0; b < BATCH; b++) {
        float *row = t + b * OUTS;
        const int n = OUTS;
        vDSP_maxv(row, 1, &most, OUTS);
        low = -most;
        vDSP_vsadd(row, 1, &low, row, 1, OUTS);
        vvexpf(row, row, &n);
        vDSP_sve(row, 1, &sum, OUTS);
        vDSP_vsdiv(row, 1, &sum, row, 1, OUTS);
        loss -= logf(row[label[b]] + 1e-10f);
    }
    vDSP_mtrans(t, 1, z, 1, OUTS, BATCH);
    return loss / BATCH;
}

/* Made-up data: each class has a direction. The same for every process. */
static void make_batch(uint32_t step, float *x, int *label) {
    static float direction[OUTS][INS];
    static dispatch_once_t once;
    dispatch_once(&once, ^{
        srand48(7);
        for (int o = 0; o < OUTS; o++)
            for (int i = 0; i < INS; i++)
                direction[o][i] = (float)(2 * drand48() - 1);
    });
    srand48((long)step + 100);
    for (int b = 0; b < BATCH; b++)
        label[b] = (int)(lrand48() % OUTS);
    for (int i = 0; i < INS; i++)
        for (int b = 0; b < BATCH; b++)
            x[i * BATCH + b] = direction[label[b]][i] + 0.3f * (float)(2 * drand48() - 1);
}

static double resident_mib(void) {
    struct mach_task_basic_info info;
    mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
    if (task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &count) != KERN_SUCCESS)
        return 0;
    return (double)info.resident_size / 1048576.0;
}

/* ============================== The run =================================== */

static volatile sig_atomic_t gStop;
static void on_signal(int number) { (void)number; gStop = 1; }

int main(int argc, char *argv[]) {
    static struct option options[] = {{"resume", required_argument, NULL, 'r'}, {"steps", required_argument, NULL, 's'},
                                      {"budget", required_argument, NULL, 'b'}, {NULL, 0, NULL, 0}};
    char checkpoint[PATH_MAX] = "", self[PATH_MAX];
    uint32_t length = sizeof self;
    Header h = {.magic = MAGIC, .version = 1, .ins = INS, .outs = OUTS};
    float *w = calloc(OUTS * INS, sizeof *w);
    int steps = STEPS_DEFAULT, budget = BUDGET_DEFAULT;
    bool resumed = false;
    for (int c; (c = getopt_long(argc, argv, "r:s:b:", options, NULL)) != -1;)
        switch (c) {
        case 'r': strlcpy(checkpoint, optarg, sizeof checkpoint); resumed = true; break;
        case 's': steps = atoi(optarg); break;
        case 'b': budget = atoi(optarg); break;
        default: return 2;
        }
    if (_NSGetExecutablePath(self, &length) != 0)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGINT, on_signal);
    pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0);
    if (!open_engine()) {
        printf("FAILED no engine\n");
        return 1;
    }
    if (!resumed)
        snprintf(checkpoint, sizeof checkpoint, "%s/resume_trainer.%d.ckpt", getenv("TMPDIR") ?: "/tmp", getpid());
    else if (!restore(checkpoint, &h, w)) {
        printf("FAILED %s is no checkpoint\n", checkpoint);
        return 1;
    }
    dispatch_queue_attr_t kind = dispatch_queue_attr_make_with_qos_class(DISPATCH_QUEUE_SERIAL, QOS_CLASS_UTILITY, 0);
    dispatch_queue_t products = dispatch_queue_create("example.gradients", kind);
    dispatch_group_t group = dispatch_group_create();
    float *x = malloc(sizeof *x * INS * BATCH), *z = malloc(sizeof *z * OUTS * BATCH), *z8 = malloc(sizeof *z8 * OUTS * BATCH);
    float *grad = calloc(OUTS * INS, sizeof *grad);
    int label[BATCH];
    float off = 0, most = 0;
    uint64_t begin = clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
    while ((int)h.step < steps && gCompiles < budget && !gStop) {
        make_batch(h.step, x, label);
        Kernel *k = kernel_new(w);
        if (!k || !kernel_run(k, 0, x, z) || !kernel_run(k, 1, x, z8)) {
            printf("FAILED step %u\n", h.step);
            return 1;
        }
        float distance, size;
        vDSP_vsub(z, 1, z8, 1, z8, 1, OUTS * BATCH); /* B - A, into what the int8 procedure gave */
        vDSP_maxmgv(z8, 1, &distance, OUTS * BATCH);
        vDSP_maxmgv(z, 1, &size, OUTS * BATCH);
        off = fmaxf(off, distance), most = fmaxf(most, size);
        h.loss = softmax_loss(z, label);
        if (h.step == 0)
            h.first_loss = h.loss;
        for (int b = 0; b < BATCH; b++)
            z[label[b] * BATCH + b] -= 1; /* p - onehot */
        dispatch_group_async(group, products, ^{
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, OUTS, INS, BATCH, 1.0f / BATCH, z, BATCH, x, BATCH, 0.0f, grad, INS);
        });
        dispatch_group_wait(group, DISPATCH_TIME_FOREVER);
        cblas_saxpy(OUTS * INS, -0.5f, grad, 1, w, 1);
        h.step++;
        printf("step %2u  loss %.4f  |grad| %.4f  process %d  %.0f MiB\n", h.step, (double)h.loss,
               (double)cblas_snrm2(OUTS * INS, grad, 1), getpid(), resident_mib());
        kernel_free(k);
    }
    h.wall += (double)(clock_gettime_nsec_np(CLOCK_UPTIME_RAW) - begin) / 1e9;
    printf("int8 weights: largest distance %.4f of %.4f\n", (double)off, (double)most);
    if (off > 0.05f * fmaxf(most, 0.1f)) {
        printf("FAILED int8 and fp16 differ\n");
        return 1;
    }
    if ((int)h.step < steps && !gStop) {
        h.restarts++;
        char steps_text[16], budget_text[16];
        snprintf(steps_text, sizeof steps_text, "%d", steps);
        snprintf(budget_text, sizeof budget_text, "%d", budget);
        if (!save(checkpoint, &h, w)) {
            printf("FAILED checkpoint\n");
            return 1;
        }
        printf("%d compiles used: going on in a new process\n", gCompiles);
        fflush(stdout);
        execl(self, argv[0], "--resume", checkpoint, "--steps", steps_text, "--budget", budget_text, (char *)NULL);
        perror("execl");
        return 1;
    }
    unlink(checkpoint);
    printf("%u restarts, loss %.4f -> %.4f in %.2f s\n", h.restarts, (double)h.first_loss, (double)h.loss, h.wall);
    bool good = h.restarts == (uint32_t)((steps - 1) / budget) && h.loss < 0.5f * h.first_loss;
    printf("%s\n", good ? "ok" : "FAILED it does not learn, or did not restart");
    free(w), free(x), free(z), free(z8), free(grad);
    return good ? 0 : 1;
}
