// SPDX-License-Identifier: MIT
/* fuzz_blob.c - weight containers: what is found lies inside the file; a reader that
 * checks nothing reads nothing outside it, and finds the same in a right one.
 *
 * Input: 1 byte dtype, 2 bytes offset, 2 bytes wanted size, then the file. */
#include "fuzz_common.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 5)
        return 0;
    SaDtype dtype = (SaDtype)(data[0] % (SA_STRING + 2));
    uint64_t offset = (uint64_t)data[1] | (uint64_t)data[2] << 8;
    size_t want = (size_t)data[3] | (size_t)data[4] << 8, n = size - 5;
    uint8_t *file = malloc(n ? n : 1); /* exact: an overrun is seen */
    const void *found = NULL;
    SaError err = {0};
    if (!file)
        return 0;
    memcpy(file, data + 5, n);
    offset = offset == 0xffff ? UINT64_MAX - data[3] : offset;
    SaStatus st = sa_blob_find(file, n, offset, dtype, want, &found, &err);
    PROMISE((st == SA_OK) == (found != NULL) || (st == SA_OK && want == 0));
    PROMISE(st == SA_OK || (st == SA_E_BLOB && err.text[0]));
    if (st == SA_OK) {
        const uint8_t *p = found;
        PROMISE(p >= file + 64 && p + want <= file + n);
        volatile uint8_t sum = 0;
        for (size_t i = 0; i < want; i++)
            sum = (uint8_t)(sum + p[i]);
    }
    SaArena *arena = sa_arena_new((size_t)1 << 20);
    const void *anyway = NULL;
    SaStatus any = arena ? sa_blob_read_unchecked(arena, file, n, offset, want, &anyway, &err) : SA_E_MEMORY;
    PROMISE(any == SA_E_MEMORY || (any == SA_OK && anyway));
    PROMISE(any != SA_OK || st != SA_OK || memcmp(anyway, found, want) == 0);
    sa_arena_free(arena);
    free(file);
    return 0;
}
