// SPDX-License-Identifier: MIT
/* test_store.c - compiled programs shared between processes: loading without a
 * compile, partitions, damage of every kind, eviction, crashes of writers.
 * Starts itself again as other processes. Numbers in comments are the rows of
 * docs/FIDELITY.md. One verdict line at the end; exit 1 on failure. */
#include "device_programs.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

extern char **environ;

static const char double_text[] = HEAD "func first<ios18>(" T " x) {\n" WEIGHT("w")
    T " y = mul(x=x, y=w)[name=string(\"y\")];\n} -> (y);\n"
    "func second<ios18>(" T " x) {\n" WEIGHT("v")
    T " y = add(x=x, y=v)[name=string(\"y\")];\n} -> (y);\n}\n";
static const char gather_text[] = HEAD "func main<ios18>(tensor<fp16, [4, 32]> x) {\n"
    "tensor<int32, [2]> i = const()[name=string(\"i\"), val=tensor<int32, [2]>(BLOBFILE(path=string(\"@model_path/weights/i.bin\"), offset=uint64(64)))];\n"
    "tensor<fp16, [2, 32]> y = gather(x=x, indices=i)[name=string(\"y\")];\n} -> (y);\n}\n";

static const char two_files_text[] = HEAD "func main<ios18>(" T " x) {\n" WEIGHT("w")
    T " v = const()[name=string(\"v\"), val=" T "(BLOBFILE(path=string(\"@model_path/v/weights/w.bin\"), offset=uint64(64)))];\n"
    T " p = mul(x=x, y=w)[name=string(\"p\")];\n" T " y = add(x=p, y=v)[name=string(\"y\")];\n} -> (y);\n}\n";

static char store[300]; /* store_dir */

/* ============================== Other processes =========================== */

/* Run `role` with arguments in a new process. Returns its exit status, or minus
 * the signal that ended it. `wait` false: returns the pid. */
static int process(bool wait, const char *role, const char *a, const char *b) {
    char *argv[] = {(char[]){"test_store"}, (char *)(uintptr_t)role, (char *)(uintptr_t)a, (char *)(uintptr_t)b, NULL};
    pid_t pid;
    int status;
    if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) != 0)
        return 99;
    if (!wait)
        return pid;
    while (waitpid(pid, &status, 0) < 0) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* What such a process does. 0 = as wished. */
static int child(const char *role, const char *a, const char *b) {
    SaAnswer answer;
    SaSource s = source(a, b);
    if (strcmp(role, "compile") == 0)
        return !(sa_device_compile(&s, 21, NULL, &answer) && counter("compiles") == 1);
    if (strcmp(role, "load") == 0) {
        SaLoaded *l = load_known(a, &answer);
        uint16_t y = eval_one(l, HALF_3, 0, &answer);
        return l && counter("compiles") == 0 && y == HALF_6 ? 0 : 1;
    }
    if (strcmp(role, "absent") == 0)
        return sa_store_has(a) || load_known(a, &answer) || answer.code != 17;
    if (strcmp(role, "churn") == 0) { /* compile again and again, each time writing the file */
        for (int i = 0; i < 40; i++) {
            s.replace = true;
            if (!sa_device_compile(&s, 21, NULL, &answer))
                return 1;
        }
        return counter("shared_writes") != 40;
    }
    return 98;
}

/* ============================== Files ===================================== */

/* The n-th entry file below the store (any partition); "" when there is none. */
static const char *entry_file(int nth) {
    static char path[1024];
    char folder[600];
    path[0] = 0;
    DIR *d = opendir(store);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strlen(e->d_name) != 32)
            continue;
        snprintf(folder, sizeof folder, "%s/%s", store, e->d_name);
        DIR *f = opendir(folder);
        for (struct dirent *g; f && (g = readdir(f));)
            if (strstr(g->d_name, ".ane") && nth-- == 0)
                snprintf(path, sizeof path, "%s/%s", folder, g->d_name);
        if (f)
            closedir(f);
    }
    if (d)
        closedir(d);
    return path;
}

static int count_files(const char *part) {
    char command[700];
    int n = -1;
    snprintf(command, sizeof command, "find '%s' -name '%s' | wc -l", store, part);
    FILE *p = popen(command, "r");
    if (p && fscanf(p, "%d", &n) != 1)
        n = -1;
    if (p)
        pclose(p);
    return n;
}

static void clear(void) {
    for (const char *p; (p = entry_file(0))[0];)
        unlink(p);
    sa_store_purge(NULL);
}

/* Forget what this process knows, not the files. */
static void forget(void) { sa_store_purge(NULL); }

/* ============================== Sharing =================================== */

static void one_process_compiles_another_loads(void) { /* 9, 18 */
    SaAnswer a;
    char *dir = stage(weight_text), path[600];
    write_weights(dir, HALF_2);
    CHECK(!sa_store_has("shared") && process(true, "compile", "shared", dir) == 0);
    snprintf(path, sizeof path, "rm -rf '%s'", dir);
    CHECK(system(path) == 0); /* nothing of the source is needed any more */
    CHECK(sa_store_has("shared") && process(true, "load", "shared", NULL) == 0);
    uint64_t compiles = counter("compiles");
    SaLoaded *l = load_known("shared", &a);
    CHECK(l && eval_one(l, HALF_3, 0, &a) == HALF_6 && counter("compiles") == compiles && counter("shared_hits") == 1);
    CHECK(l && l->entry->n_blobs == 1 && l->entry->ops == 1 && l->entry->weight_bytes == BYTES);
    SaLoaded *again = load_known("shared", &a);
    CHECK(again && counter("shared_hits") == 1); /* known by now */
    CHECK(unload(l) && unload(again));

    forget(); /* a compile of a known identity needs its files, and no slot */
    free(dir);
    dir = stage(weight_text);
    write_weights(dir, HALF_2);
    SaSource s = source("shared", dir);
    CHECK(sa_device_compile(&s, 21, NULL, &a) && counter("compiles") == compiles && counter("shared_hits") == 2);
    free(dir);
    CHECK(compile_text("twice", double_text, HALF_2, &a));
    forget();
    l = load_known("twice", &a);
    CHECK(l && eval_one(l, HALF_3, 0, &a) == HALF_6 && eval_one(l, HALF_3, 1, &a) == 0x4500); /* 3 * 2, 3 + 2 */
    CHECK(unload(l));
    forget(); /* 29: the order of symbols is that of the process that loads */
    CHECK(softane_set("order", "declaration") == 0 && compile_text("order", sum_text, HALF_2, &a));
    forget();
    CHECK((l = load_known("order", &a)) && strcmp(sa_entry_input(l->entry, 0, 0)->name, "b_in") == 0 && unload(l));
    forget();
    CHECK(softane_set("order", NULL) == 0);
    CHECK((l = load_known("order", &a)) && strcmp(sa_entry_input(l->entry, 0, 0)->name, "a_in") == 0 && unload(l));
    sa_shared_purge("order");
    struct stat st;
    sa_shared_purge("shared");
    CHECK(stat(entry_file(0), &st) == 0 && st.st_size < 64 * 3 + (off_t)sizeof double_text + BYTES + 600); /* the weight once */
    clear();
}

static void other_partitions_see_nothing(void) { /* 20 */
    SaAnswer a;
    char buf[1024];
    CHECK(softane_get("partition", buf, sizeof buf) == 0 && strstr(buf, "test_store")); /* the executable */
    CHECK(compile_text("mine", weight_text, HALF_2, &a) && process(true, "load", "mine", NULL) == 0);
    CHECK(softane_set("partition", "another team") == 0 && !sa_store_has("mine"));
    CHECK(!load_known("mine", &a) && a.code == 17);
    setenv("SOFTANE_PARTITION", "another team", 1);
    CHECK(process(true, "absent", "mine", NULL) == 0);
    CHECK(compile_text("mine", weight_text, HALF_1, &a) && count_files("*.ane") == 2); /* the same name, another program */
    SaLoaded *l = load_known("mine", &a);
    CHECK(eval_one(l, HALF_3, 0, &a) == HALF_3 && unload(l));
    unsetenv("SOFTANE_PARTITION");
    CHECK(softane_set("partition", NULL) == 0);
    l = load_known("mine", &a);
    CHECK(eval_one(l, HALF_3, 0, &a) == HALF_6 && unload(l));
    forget();
    CHECK(softane_set("profile", "m4") == 0 && !sa_store_has("mine") && !load_known("mine", &a)); /* another machine */
    CHECK(softane_set("profile", NULL) == 0 && sa_store_has("mine") && counter("shared_damaged") == 0);
    CHECK(softane_set("store", "process") == 0);
    CHECK(!sa_store_has("mine") && softane_set("store", "shared") == 0 && sa_store_has("mine"));
    clear();
}

static void purging_removes_the_file(void) { /* 19, 21 */
    SaAnswer a;
    CHECK(compile_text("gone", weight_text, HALF_2, &a) && count_files("*.ane") == 1);
    sa_store_purge("gone");
    CHECK(count_files("*.ane") == 0 && !sa_store_has("gone") && process(true, "absent", "gone", NULL) == 0);
    CHECK(compile_text("gone", weight_text, HALF_2, &a));
    SaLoaded *l = load_known("gone", &a);
    CHECK(unload(l) && sa_store_has("gone") && count_files("*.ane") == 1); /* kept by default */
    CHECK(softane_set("unload_purges", "1") == 0);
    l = load_known("gone", &a);
    CHECK(unload(l) && !sa_store_has("gone") && count_files("*.ane") == 0);
    CHECK(softane_set("unload_purges", NULL) == 0);

    CHECK(compile_text("restart", weight_text, HALF_2, &a)); /* 63: the daemon forgets, its files stay */
    sa_device_lose();
    CHECK(sa_store_has("restart") && (l = load_known("restart", &a)) && unload(l));
    clear();
}

/* ============================== Damage ==================================== */

static uint8_t *read_file(const char *path, size_t *bytes) {
    char *p = NULL;
    CHECK(sa_file_read(path, 1 << 24, &p, bytes, NULL) == SA_OK);
    return (uint8_t *)p;
}

static bool write_file(const char *path, const void *bytes, size_t n) { return sa_file_write(path, bytes, n, NULL) == SA_OK; }

/* Does the device take this file for the entry? It must not, must remove it. */
static bool is_refused(const char *identity, const char *path) {
    bool refused = sa_shared_get(identity) == NULL && access(path, F_OK) != 0;
    return refused;
}

static void every_damage_is_found(void) {
    SaAnswer a;
    char path[1024];
    size_t n;
    CHECK(compile_text("hurt", weight_text, HALF_2, &a));
    forget();
    snprintf(path, sizeof path, "%s", entry_file(0));
    uint8_t *whole = read_file(path, &n);
    bool cut = true, flipped = true;
    softane_set("log", "off");
    for (size_t i = 0; i < n; i++) { /* the file ends before byte i */
        CHECK(write_file(path, whole, i));
        cut = cut && is_refused("hurt", path);
    }
    for (size_t i = 0; i < n; i++) {
        whole[i] ^= (uint8_t)(1u << i % 8);
        write_file(path, whole, n);
        flipped = flipped && is_refused("hurt", path);
        whole[i] ^= (uint8_t)(1u << i % 8);
    }
    CHECK(cut && flipped && counter("shared_damaged") >= 2 * n);
    uint8_t *longer = calloc(1, n + 1);
    memcpy(longer, whole, n);
    CHECK(write_file(path, longer, n + 1) && is_refused("hurt", path));
    free(longer);
    CHECK(mkdir(path, 0700) == 0 && !sa_shared_get("hurt") && !sa_shared_has("hurt") && rmdir(path) == 0);
    CHECK(symlink("/etc/passwd", path) == 0 && !sa_shared_has("hurt") && !sa_shared_get("hurt"));
    CHECK(access("/etc/passwd", R_OK) == 0);
    unlink(path);
    CHECK(write_file(path, whole, n) && truncate(path, ((off_t)4 << 30) + 1) == 0 && is_refused("hurt", path)); /* never read */
    CHECK(mkfifo(path, 0600) == 0 && !sa_shared_has("hurt") && unlink(path) == 0);
    CHECK(write_file(path, whole, n));
    SaLoaded *l = load_known("hurt", &a);
    CHECK(eval_one(l, HALF_3, 0, &a) == HALF_6 && unload(l));
    sa_free(whole);
    clear();
}

/* A program with two weight files of one size: 2 x + 3. */
static void weights_are_told_apart(void) {
    SaAnswer a;
    char *dir = stage(two_files_text), other[600];
    write_weights(dir, HALF_2);
    snprintf(other, sizeof other, "%s/v", dir);
    CHECK(mkdir(other, 0700) == 0);
    write_weights(other, HALF_3);
    SaSource s = source("two-files", dir);
    CHECK(sa_device_compile(&s, 21, NULL, &a));
    forget();
    SaLoaded *l = load_known("two-files", &a);
    CHECK(eval_one(l, HALF_2, 0, &a) == 0x4700 && unload(l)); /* 2 · 2 + 3 */
    free(dir);
    clear();
}

/* A whole file of another program, or a part of this one, under this one's name. */
static void files_are_what_they_are_called(void) {
    SaAnswer a;
    char mine[1024], elsewhere[600];
    size_t n;
    CHECK(compile_text("mine", weight_text, HALF_2, &a));
    snprintf(mine, sizeof mine, "%s", entry_file(0));
    uint8_t *file = read_file(mine, &n);
    CHECK(unlink(mine) == 0 && compile_text("yours", weight_text, HALF_3, &a));
    forget();
    CHECK(rename(entry_file(0), mine) == 0 && !sa_shared_has("mine") && is_refused("mine", mine));
    CHECK(write_file(mine, file, n) && sa_shared_has("mine"));
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", root);
    CHECK(rename(mine, elsewhere) == 0 && symlink(elsewhere, mine) == 0 && !sa_shared_has("mine") && !sa_shared_get("mine")); /* whole, but a link */
    CHECK(unlink(mine) == 0 && unlink(elsewhere) == 0);
    CHECK(write_file(mine, file, n - 1) && !sa_shared_has("mine") && is_refused("mine", mine));
    sa_free(file);
    clear();
}

/* Give a file the checksum that its contents ask for. */
static void seal(uint8_t *file, size_t n) {
    SaSha256 h;
    sa_sha256_init(&h);
    sa_sha256_update(&h, file, n - 32);
    sa_sha256_final(&h, file + n - 32);
}

/* A hostile writer knows the format: no contents may crash the reader. */
static void hostile_contents_are_survived(const char *identity) {
    char path[1024];
    size_t n;
    SaAnswer a;
    uint32_t random = 1;
    int loaded = 0;
    snprintf(path, sizeof path, "%s", entry_file(0));
    uint8_t *whole = read_file(path, &n), *file = malloc(n);
    for (int i = 0; i < 4000; i++) {
        memcpy(file, whole, n);
        for (int k = 0; k <= i % 4; k++) {
            random = random * 1664525u + 1013904223u;
            size_t at = random >> 8;
            bool early = i % 2 == 0; /* header, names and table deserve more */
            at %= early ? 64 : n - 32;
            random = random * 1664525u + 1013904223u;
            file[at] = (uint8_t)(random >> 16);
        }
        seal(file, n);
        write_file(path, file, n);
        SaEntry *e = sa_shared_get(identity);
        if (e) { /* well-formed: then it must run */
            sa_store_put(e);
            sa_entry_unpin(e);
            SaLoaded *l = load_known(identity, &a);
            uint16_t x[N * 4] = {0}, y[N * 4];
            SaSlot in = {0, x, sizeof x}, out = {0, y, sizeof y};
            SaBinding b = {&in, &out, 1, 1, 0};
            sa_device_eval(l, &b, 21, &a);
            loaded += unload(l);
            forget();
        }
    }
    write_file(path, whole, n);
    SaEntry *e = sa_shared_get(identity);
    CHECK(e && loaded > 0);
    sa_entry_unpin(e);
    sa_free(whole);
    free(file);
    clear();
}

static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }
static uint64_t get64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* The table of weights, well sealed: one row, whose bytes are the last before the checksum. */
static void rows_must_fit(void) {
    SaAnswer a;
    char path[1024];
    size_t n;
    CHECK(compile_text("rows", weight_text, HALF_2, &a));
    forget();
    snprintf(path, sizeof path, "%s", entry_file(0));
    uint8_t *whole = read_file(path, &n), *file = malloc(n);
    uint64_t at = n - 32 - BYTES, row = at - 64; /* BYTES is a multiple of 64 */
    CHECK(get64(whole + row) == at && get64(whole + row + 8) == BYTES && whole[12] == 1);
    for (int i = 0; i < 8; i++) {
        memcpy(file, whole, n);
        switch (i) {
        case 0: put64(file + row, at + 1); break;            /* not aligned */
        case 1: put64(file + row, at - 2); break;
        case 2: put64(file + row, at + 64); break;           /* ends behind the file */
        case 3: put64(file + row, UINT64_MAX - 63); break;   /* begins behind it */
        case 4: put64(file + row + 8, BYTES - 2); break;     /* another size than the tensor's */
        case 5: put64(file + row + 8, BYTES + 2); break;
        case 6: file[12] = 0; break;                         /* fewer rows than the text names */
        case 7: file[12] = 2; break;                         /* more */
        }
        seal(file, n);
        CHECK(write_file(path, file, n) && is_refused("rows", path));
    }
    put64(memcpy(file, whole, n) == file ? file + row : file, at); /* as it was */
    seal(file, n);
    CHECK(write_file(path, file, n) && memcmp(file, whole, n) == 0);
    SaLoaded *l = load_known("rows", &a);
    CHECK(eval_one(l, HALF_3, 0, &a) == HALF_6 && unload(l));
    sa_free(whole);
    free(file);
    clear();
}

static void hostile_programs(void) {
    SaAnswer a;
    CHECK(compile_text("evil", weight_text, HALF_2, &a));
    forget();
    hostile_contents_are_survived("evil");

    char *dir = stage(gather_text), path[600];
    write_weights(dir, 0); /* makes the folder */
    uint8_t f[136] = {1, 0, 0, 0, 2};
    uint32_t sentinel = 0xDEADBEEF, dtype = 14, index[2] = {1, 3};
    uint64_t size = 8, at = 128;
    memcpy(f + 64, &sentinel, 4), memcpy(f + 68, &dtype, 4), memcpy(f + 72, &size, 8), memcpy(f + 80, &at, 8);
    memcpy(f + 128, index, 8);
    snprintf(path, sizeof path, "%s/weights/i.bin", dir);
    CHECK(write_file(path, f, sizeof f));
    SaSource s = source("evil-gather", dir);
    CHECK(sa_device_compile(&s, 21, NULL, &a));
    forget();
    free(dir);
    size_t n;
    snprintf(path, sizeof path, "%s", entry_file(0));
    uint8_t *whole = read_file(path, &n);
    uint32_t far = 4; /* one beyond the axis: must be refused like at a compile */
    memcpy(whole + n - 32 - 64, &far, 4);
    seal(whole, n);
    CHECK(write_file(path, whole, n) && is_refused("evil-gather", path));
    uint32_t good = 1;
    memcpy(whole + n - 32 - 64, &good, 4);
    seal(whole, n);
    CHECK(write_file(path, whole, n));
    sa_free(whole);
    hostile_contents_are_survived("evil-gather");
}

static void lost_memory_removes_nothing(void) {
    SaAnswer a;
    char text[64];
    int tries = 0;
    CHECK(compile_text("poor", weight_text, HALF_2, &a));
    forget();
    uint64_t damaged = counter("shared_damaged");
    SaEntry *e = NULL;
    while (!e && tries < 1000) {
        snprintf(text, sizeof text, "arena.alloc=%d*off->1*return", tries++);
        softane_set("failpoints", text);
        e = sa_shared_get("poor");
        CHECK(count_files("*.ane") == 1 || tries > 3); /* counting costs a process */
    }
    softane_set("failpoints", "");
    CHECK(e && tries > 3 && counter("shared_damaged") == damaged && count_files("*.ane") == 1);
    sa_entry_unpin(e);
    clear();
}

/* ============================== Disk ====================================== */

static void the_oldest_files_go_first(void) {
    SaAnswer a;
    char id[16];
    struct stat st;
    CHECK(compile_text("d-0", weight_text, HALF_2, &a) && stat(entry_file(0), &st) == 0);
    uint64_t one = (uint64_t)st.st_size;
    set_count("store_disk_bytes", 3 * one);
    for (int i = 1; i < 3; i++) {
        sleep_ms(5);
        snprintf(id, sizeof id, "d-%d", i);
        CHECK(compile_text(id, weight_text, HALF_2, &a));
    }
    CHECK(count_files("*.ane") == 3 && counter("shared_evicted") == 0);
    forget();
    sleep_ms(5);
    SaEntry *used = sa_store_get("d-0", NULL); /* used last: d-1 is the oldest now */
    CHECK(used != NULL);
    sa_entry_unpin(used);
    sleep_ms(5);
    CHECK(compile_text("d-3", weight_text, HALF_2, &a) && counter("shared_evicted") == 1);
    forget();
    CHECK(sa_store_has("d-0") && !sa_store_has("d-1") && sa_store_has("d-2") && sa_store_has("d-3"));
    /* seconds count before nanoseconds */
    struct timespec now = {.tv_sec = time(NULL)}, times[2] = {now, now};
    char path[1024];
    for (int i = 0; entry_file(i)[0]; i++) {
        snprintf(path, sizeof path, "%s", entry_file(i));
        times[1] = (struct timespec){now.tv_sec - 10 * (i + 1), 100 * (i + 1)}; /* the last is the oldest */
        CHECK(utimensat(AT_FDCWD, path, times, 0) == 0);
    }
    CHECK(compile_text("d-5", weight_text, HALF_2, &a) && counter("shared_evicted") == 2 && access(path, F_OK) != 0);
    set_count("store_disk_bytes", one - 1); /* less than the file, more than its weights: it stays alone */
    CHECK(compile_text("d-6", weight_text, HALF_2, &a) && count_files("*.ane") == 1);
    forget();
    CHECK(sa_store_has("d-6") && !sa_store_has("d-5"));
    set_count("store_disk_bytes", 10); /* less than one: not even written */
    CHECK(compile_text("d-4", weight_text, HALF_2, &a) && count_files("*.ane") == 1);
    softane_set("store_disk_bytes", NULL);
    clear();
}

static void a_full_disk_costs_the_file_only(void) {
    SaAnswer a;
    CHECK(softane_set("failpoints", "shared.put=1*return->1*off") == 0);
    CHECK(compile_text("full", weight_text, HALF_2, &a) && count_files("*.ane") == 0 && sa_store_has("full"));
    CHECK(softane_set("failpoints", "shared.rename=1*return") == 0 && compile_text("full-2", weight_text, HALF_2, &a));
    CHECK(count_files("*.ane") == 0 && count_files(".*.??????") == 0);
    CHECK(softane_set("failpoints", "") == 0);
    struct rlimit old, tiny = {300, 300};
    signal(SIGXFSZ, SIG_IGN);
    char *dir = stage(weight_text);
    write_weights(dir, HALF_2);
    SaSource s = source("full-3", dir);
    getrlimit(RLIMIT_FSIZE, &old);
    tiny.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_FSIZE, &tiny);
    bool compiled = sa_device_compile(&s, 21, NULL, &a);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(compiled && count_files("*.ane") == 0 && count_files(".*.??????") == 0);
    free(dir);
    clear();
}

static void a_killed_writer_leaves_nothing_behind(void) {
    SaAnswer a;
    char *dir = stage(weight_text);
    write_weights(dir, HALF_2);
    setenv("SOFTANE_FAILPOINTS", "shared.rename=kill", 1);
    CHECK(process(true, "compile", "killed", dir) == -SIGKILL);
    unsetenv("SOFTANE_FAILPOINTS");
    CHECK(count_files("*.ane") == 0 && count_files(".*.??????") == 1 && !sa_store_has("killed"));
    CHECK(compile_text("next", weight_text, HALF_2, &a) && count_files(".*.??????") == 0); /* swept by the next one */
    CHECK(process(true, "compile", "killed", dir) == 0 && sa_store_has("killed"));
    char folder[1024], other[1200]; /* a writer that lives: its file stays for an hour */
    snprintf(folder, sizeof folder, "%s", entry_file(0));
    *strrchr(folder, '/') = 0;
    snprintf(other, sizeof other, "%s/.%ld.abcdef", folder, (long)getppid());
    for (int old = 0; old < 2; old++) {
        struct timespec when = {.tv_sec = time(NULL) - (old ? 3700 : 3500)}, times[2] = {when, when};
        CHECK(write_file(other, "half", 4) && utimensat(AT_FDCWD, other, times, 0) == 0);
        CHECK(compile_text(old ? "next-1" : "next-0", weight_text, HALF_2, &a) && (access(other, F_OK) == 0) == !old);
    }
    free(dir);
    clear();
}

static void only_a_private_directory_is_used(void) {
    SaAnswer a;
    char path[400], link[400], buf[1024];
    snprintf(path, sizeof path, "%s/open", root);
    CHECK(mkdir(path, 0755) == 0 && chmod(path, 0755) == 0 && softane_set("store_dir", path) == 0);
    CHECK(compile_text("open", weight_text, HALF_2, &a)); /* works, shares nothing */
    forget();
    CHECK(!sa_store_has("open") && rmdir(path) == 0);
    snprintf(link, sizeof link, "%s/link", root);
    CHECK(symlink(store, link) == 0 && softane_set("store_dir", link) == 0);
    CHECK(compile_text("link", weight_text, HALF_2, &a));
    forget();
    CHECK(!sa_store_has("link"));
    CHECK(softane_set("store_dir", "relative") == -1 && softane_set("store_dir", "/nowhere/at/all") == 0);
    CHECK(compile_text("nowhere", weight_text, HALF_2, &a));
    setenv("XDG_RUNTIME_DIR", root, 1);
    CHECK(softane_set("store_dir", NULL) == 0 && softane_get("store_dir", buf, sizeof buf) == 0);
    snprintf(path, sizeof path, "%s/softane", root);
    CHECK(strcmp(buf, path) == 0);
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 0777) == 0700);
    CHECK(softane_set("store_dir", store) == 0);
    forget();
}

static void writers_and_readers_do_not_meet(void) {
    SaAnswer a;
    char *dir = stage(weight_text);
    write_weights(dir, HALF_2);
    CHECK(compile_text("busy", weight_text, HALF_2, &a));
    uint64_t damaged = counter("shared_damaged");
    int pid[2] = {process(false, "churn", "busy", dir), process(false, "churn", "busy", dir)}, running = 2, good = 0;
    bool right = true;
    while (running > 0) {
        forget();
        SaLoaded *l = load_known("busy", &a); /* there is always a whole file */
        right = right && eval_one(l, HALF_3, 0, &a) == HALF_6;
        unload(l);
        for (int i = 0, status; i < 2; i++)
            if (pid[i] > 0 && waitpid(pid[i], &status, WNOHANG) == pid[i]) {
                pid[i] = 0;
                running--;
                good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
            }
    }
    CHECK(right && good == 2 && counter("shared_damaged") == damaged && count_files(".*.??????") == 0);
    free(dir);
    clear();
}

static void url_programs_are_shared_too(void) { /* compiled anew each time, found by whoever knows the name */
    SaAnswer a;
    char *dir = stage(weight_text);
    write_weights(dir, HALF_2);
    SaSource s = source("url:/some/where|key", dir);
    s.replace = true;
    uint64_t compiles = counter("compiles");
    CHECK(sa_device_compile(&s, 21, NULL, &a) && sa_device_compile(&s, 21, NULL, &a) && counter("compiles") == compiles + 2);
    CHECK(count_files("*.ane") == 1 && process(true, "load", s.identity, NULL) == 0);
    free(dir);
    clear();
}

int main(int argc, char **argv) {
    if (argc > 2)
        return child(argv[1], argv[2], argc > 3 ? argv[3] : NULL);
    if (!begin_files("test_store"))
        return 1;
    snprintf(store, sizeof store, "%s/store", root);
    setenv("SOFTANE_STORE", "shared", 1);
    setenv("SOFTANE_STORE_DIR", store, 1);
    setenv("SOFTANE_COMPILE_LIMIT", "0", 1);
    one_process_compiles_another_loads();
    other_partitions_see_nothing();
    purging_removes_the_file();
    every_damage_is_found();
    weights_are_told_apart();
    files_are_what_they_are_called();
    rows_must_fit();
    hostile_programs();
    lost_memory_removes_nothing();
    the_oldest_files_go_first();
    a_full_disk_costs_the_file_only();
    a_killed_writer_leaves_nothing_behind();
    only_a_private_directory_is_used();
    writers_and_readers_do_not_meet();
    url_programs_are_shared_too();
    end_files();
    printf("test_store: %d passed, %d failed\n", passed, failed);
    return failed != 0;
}
