// SPDX-License-Identifier: MIT
/* _core_file.c - memory of baked weight files.
 *
 * They come by the hundred with every generation and go once their programs are
 * loaded. Out of malloc's heap that memory would stay resident between whatever
 * small blocks were made in the meantime (measured: 340 MB a generation of a
 * Stories110M-shaped set), so large ones are mapped and unmapped by themselves. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "_core_internal.h"

enum { MAPPED_MIN = 1 << 18, HEAD = 64 /* before the file: how it was made */ };

void *ane_file_alloc(size_t bytes) {
    size_t total = bytes + HEAD, mapped = total;
    void *p = MAP_FAILED;
    if (total < bytes)
        return NULL;
    if (total >= MAPPED_MIN)
        p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (p == MAP_FAILED) {
        mapped = 0;
        if (!(p = calloc(1, total)))
            return NULL;
    }
    memcpy(p, &mapped, sizeof mapped);
    return (uint8_t *)p + HEAD;
}

void ane_file_free(void *file) {
    if (!file)
        return;
    void *p = (uint8_t *)file - HEAD;
    size_t mapped;
    memcpy(&mapped, p, sizeof mapped);
    if (mapped)
        (void)munmap(p, mapped);
    else
        free(p);
}
