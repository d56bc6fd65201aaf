// SPDX-License-Identifier: MIT
/* log.c - one line to stderr, in one write, so lines of threads do not mix.
 *
 * Not a logging framework: two levels and one sink. The level is the only
 * state. A line that cannot be written is lost, silently. */
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static int log_level = SA_LOG_ERROR;

/* Lines above `level` are dropped. Any thread. */
void sa_log_set_level(SaLogLevel level) {
    __atomic_store_n(&log_level, (int)level, __ATOMIC_RELAXED);
}

/* "softane: text\n". Text beyond 1000 bytes is cut. Any thread; keeps no lock
 * and allocates nothing, so it is safe while memory is short. */
void sa_log(SaLogLevel level, const char *fmt, ...) {
    if (level == SA_LOG_OFF || (int)level > __atomic_load_n(&log_level, __ATOMIC_RELAXED))
        return;
    if (SA_FAILPOINT("log.write"))
        return;
    char line[1024];
    int head = snprintf(line, sizeof line, "softane: ");
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + head, sizeof line - (size_t)head - 1, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t length = (size_t)head + (size_t)n;
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    for (size_t i = (size_t)head; i < length; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' '; /* one call, one line */
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written;
}
