// SPDX-License-Identifier: MIT
/* status.c - names of statuses, and errors with a place in the text.
 *
 * Not an exception mechanism: functions return a status, and only the one
 * that finds a fault fills the error. Any thread; no state. */
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One row per status, in the order of the enum. */
static const char *const status_names[] = {
    [SA_OK] = "OK",
    [SA_E_MEMORY] = "E_MEMORY",
    [SA_E_SYNTAX] = "E_SYNTAX",
    [SA_E_NAME] = "E_NAME",
    [SA_E_OP] = "E_OP",
    [SA_E_OPERAND] = "E_OPERAND",
    [SA_E_TYPE] = "E_TYPE",
    [SA_E_SHAPE] = "E_SHAPE",
    [SA_E_LIMIT] = "E_LIMIT",
    [SA_E_BLOB] = "E_BLOB",
    [SA_E_IO] = "E_IO",
    [SA_E_STATE] = "E_STATE",
    [SA_E_BUDGET] = "E_BUDGET",
    [SA_E_BIND] = "E_BIND",
    [SA_E_INJECTED] = "E_INJECTED",
};

/* Name of a status; static storage, never NULL. */
const char *sa_status_name(SaStatus code) {
    size_t i = (size_t)code;
    if (i >= sizeof status_names / sizeof status_names[0] || !status_names[i])
        return "E_UNKNOWN";
    return status_names[i];
}

/* Fill *err (may be NULL) and return `code`. The op is cleared: callers that
 * know it write err->op afterwards. Overlong text is cut, never overrun. */
SaStatus sa_error_set(SaError *err, SaStatus code, SaPos pos, const char *fmt, ...) {
    if (!err)
        return code;
    va_list ap;
    va_start(ap, fmt);
    err->code = code;
    err->pos = pos;
    err->op[0] = '\0';
    if (vsnprintf(err->text, sizeof err->text, fmt, ap) < 0)
        err->text[0] = '\0';
    va_end(ap);
    return code;
}

/* "line:col: E_SHAPE: conv: text" into buf; the place and the op are left out
 * when there are none. Always terminated when cap > 0. */
void sa_error_format(const SaError *err, char *buf, size_t cap) {
    if (cap == 0)
        return;
    char place[32] = "";
    if (err->pos.line > 0)
        snprintf(place, sizeof place, "%d:%d: ", err->pos.line, err->pos.col);
    if (snprintf(buf, cap, "%s%s: %s%s%s", place, sa_status_name(err->code), err->op,
                 err->op[0] ? ": " : "", err->text) < 0)
        buf[0] = '\0';
}
