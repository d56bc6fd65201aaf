// SPDX-License-Identifier: MIT
/* check.h - the checks of the SDK's test programs. */
#include <stdio.h>

static int checks_passed, checks_failed;

#define CHECK(cond) \
    do { \
        if (cond) { \
            checks_passed++; \
        } else { \
            checks_failed++; \
            printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #cond); \
        } \
    } while (0)

static inline int check_verdict(void) {
    printf("%d passed, %d failed\n", checks_passed, checks_failed);
    return checks_failed != 0;
}
