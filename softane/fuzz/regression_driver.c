// SPDX-License-Identifier: MIT
/* regression_driver.c - a fuzz target without a fuzzer: every file named on the
 * command line, or below a directory named there, is one input.
 *
 *   fuzz_parse_replay softane/tests/corpus softane/fuzz/crashes */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv); /* not every target has one */

static int inputs;

static void replay_file(const char *path, size_t size) {
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1);
    if (f && data && fread(data, 1, size, f) == size) {
        LLVMFuzzerTestOneInput(data, size);
        inputs++;
    }
    free(data);
    if (f)
        fclose(f);
}

static void replay(const char *path, int depth) {
    struct stat st;
    if (stat(path, &st) != 0 || depth > 8)
        return;
    if (S_ISREG(st.st_mode)) {
        replay_file(path, (size_t)st.st_size);
        return;
    }
    DIR *d = S_ISDIR(st.st_mode) ? opendir(path) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        char below[2048];
        if (e->d_name[0] != '.' && snprintf(below, sizeof below, "%s/%s", path, e->d_name) < (int)sizeof below)
            replay(below, depth + 1);
    }
    if (d)
        closedir(d);
}

int main(int argc, char **argv) {
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        replay(argv[i], 0);
    printf("%d inputs\n", inputs);
    return inputs == 0;
}
