// SPDX-License-Identifier: MIT
/* device_programs.h - what the C tests of the device share: counting, small
 * programs, and the files they are compiled from. Included once per program. */
#ifndef SA_TEST_DEVICE_PROGRAMS_H
#define SA_TEST_DEVICE_PROGRAMS_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../device/device.h"
#include "../include/softane.h"

/* ============================== Counting ================================== */

static atomic_int passed, failed;

/* Count one property; failures name their line. */
static void check_at(const char *file, int line, bool good, const char *what) {
    if (good) {
        passed++;
    } else {
        failed++;
        fprintf(stderr, "%s:%d: %s\n", strrchr(file, '/') ? strrchr(file, '/') + 1 : file, line, what);
    }
}
#define CHECK(e) check_at(__FILE__, __LINE__, (e), #e)

static inline uint64_t counter(const char *key) {
    char buf[64];
    return softane_get(key, buf, sizeof buf) == 0 ? strtoull(buf, NULL, 10) : UINT64_MAX;
}

static inline void set_count(const char *key, uint64_t n) {
    char buf[32];
    snprintf(buf, sizeof buf, "%llu", (unsigned long long)n);
    CHECK(softane_set(key, buf) == 0);
}

static inline void sleep_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }
static inline double ms_since(uint64_t t0) { return (double)(sa_now_ns() - t0) / 1e6; }

/* ============================== Programs ================================== */

#define HEAD "program(1.3)\n[buildInfo = dict<string, string>({{\"coremlc-version\", \"3505.4.1\"}})]\n{\n"
#define T "tensor<fp16, [1, 4, 1, 32]>"
#define N (4 * 32)
#define BYTES (N * 2)
#define HALF_1 0x3c00
#define HALF_2 0x4000
#define HALF_3 0x4200
#define HALF_6 0x4600
#define WEIGHT(name) \
    T " " name " = const()[name=string(\"" name "\"), val=" T "(BLOBFILE(path=string(\"@model_path/weights/w.bin\"), offset=uint64(64)))];\n"

static const char sum_text[] = HEAD "func main<ios18>(" T " b_in, " T " a_in) {\n"
    T " y = sub(x=a_in, y=b_in)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char weight_text[] = HEAD "func main<ios18>(" T " x) {\n" WEIGHT("w")
    T " y = mul(x=x, y=w)[name=string(\"y\")];\n} -> (y);\n}\n";

/* ============================== Files ===================================== */

static char root[256]; /* temporary directory of this run */
static atomic_int made;

static inline bool begin_files(const char *name) {
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/%s.XXXXXX", tmp ? tmp : "/tmp", name);
    return mkdtemp(root) != NULL;
}

static inline void end_files(void) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    if (system(command) != 0)
        fprintf(stderr, "%s was not removed\n", root);
}

/* A new directory with `text` as its model.mil. */
static inline char *stage(const char *text) {
    char *dir = malloc(512), path[600];
    snprintf(dir, 512, "%s/p%d", root, made++);
    mkdir(dir, 0700);
    snprintf(path, sizeof path, "%s/model.mil", dir);
    CHECK(sa_file_write(path, text, strlen(text), NULL) == SA_OK);
    return dir;
}

/* A blob file with N fp16 values, laid out as the container asks. */
static inline void write_weights(const char *dir, uint16_t value) {
    char path[600];
    uint8_t f[128 + BYTES] = {0};
    uint32_t count = 1, version = 2, sentinel = 0xDEADBEEF, dtype = 1;
    uint64_t size = BYTES, at = 128;
    memcpy(f, &count, 4), memcpy(f + 4, &version, 4);
    memcpy(f + 64, &sentinel, 4), memcpy(f + 68, &dtype, 4), memcpy(f + 72, &size, 8), memcpy(f + 80, &at, 8);
    for (size_t i = 0; i < N; i++)
        memcpy(f + 128 + 2 * i, &value, 2);
    snprintf(path, sizeof path, "%s/weights", dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/weights/w.bin", dir);
    CHECK(sa_file_write(path, f, sizeof f, NULL) == SA_OK);
}

static inline SaSource source(const char *identity, const char *dir) {
    return (SaSource){.identity = identity, .directory = dir, .model_type = "kANEFModelMIL"};
}

/* Compile `text` under a new identity; weights of `value` lie beside it. */
static inline bool compile_text(const char *identity, const char *text, uint16_t value, SaAnswer *a) {
    char *dir = stage(text);
    write_weights(dir, value);
    SaSource s = source(identity, dir);
    bool ok = sa_device_compile(&s, 21, NULL, a);
    free(dir);
    return ok;
}

/* Load by identity only. */
static inline SaLoaded *load_known(const char *identity, SaAnswer *a) {
    SaSource s = source(identity, NULL);
    SaLoaded *l = NULL;
    return sa_device_load(&s, 21, &l, a) ? l : NULL;
}

static inline bool unload(SaLoaded *l) {
    SaAnswer a;
    bool ok = l && sa_device_unload(l, 21, &a);
    sa_loaded_release(l);
    return ok;
}

/* Evaluate one input and one output of N elements; the first element of the
 * result, 0xffff when the evaluation fails. */
static inline uint16_t eval_one(SaLoaded *l, uint16_t x, int procedure, SaAnswer *a) {
    uint16_t in[N], out[N];
    for (int i = 0; i < N; i++)
        in[i] = x;
    SaSlot si = {procedure, in, BYTES}, so = {procedure, out, BYTES};
    SaBinding b = {&si, &so, 1, 1, procedure};
    return l && sa_device_eval(l, &b, 21, a) ? out[0] : 0xffff;
}

#endif
