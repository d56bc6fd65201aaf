// SPDX-License-Identifier: MIT
/* source.c - reading a program, and saying what is wrong with it and where. */
#include "tool.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *tool = "softane";

void complain(const char *fmt, ...) {
    va_list l;
    va_start(l, fmt);
    fprintf(stderr, "%s: ", tool);
    vfprintf(stderr, fmt, l);
    fputc('\n', stderr);
    va_end(l);
}

/* ============================== Command line ============================== */

bool option(int argc, char **argv, int *i, const char *name, const char **value) {
    size_t n = strlen(name);
    const char *word = argv[*i];
    if (strncmp(word, name, n) != 0 || (word[n] != 0 && word[n] != '='))
        return false;
    *value = word[n] ? word + n + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    if (!*value)
        complain("%s wants a value", name);
    return true;
}

bool number(const char *name, const char *text, long low, long high, long *out) {
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (errno == 0 && end != text && *end == 0 && *out >= low && *out <= high)
        return true;
    complain("%s wants a number from %ld to %ld, not '%s'", name, low, high, text);
    return false;
}

/* ============================== Errors ==================================== */

enum { WINDOW = 100 }; /* columns of a long line that are shown */

/* The line and a caret below the column. Tabs are kept in both. */
static void show_line(const Source *s, SaPos pos) {
    const char *line = s->text, *end = s->text + s->bytes;
    for (int n = 1; n < pos.line && line; n++) {
        line = memchr(line, '\n', (size_t)(end - line));
        line = line ? line + 1 : NULL;
    }
    if (!line || line >= end)
        return;
    const char *stop = memchr(line, '\n', (size_t)(end - line));
    size_t length = (size_t)((stop ? stop : end) - line), at = pos.col > 0 ? (size_t)pos.col - 1 : 0, from = 0;
    if (at > length)
        at = length;
    if (length > WINDOW && at > WINDOW / 2)
        from = at - WINDOW / 2;
    size_t shown = length - from < WINDOW ? length - from : WINDOW;
    fprintf(stderr, "  %s%.*s%s\n  ", from ? "…" : "", (int)shown, line + from, from + shown < length ? "…" : "");
    if (from)
        fputc(' ', stderr);
    for (size_t i = from; i < at; i++)
        if (((unsigned char)line[i] & 0xc0) != 0x80) /* one blank for each character, not byte */
            fputc(line[i] == '\t' ? '\t' : ' ', stderr);
    fputs("^\n", stderr);
}

void source_complain(const Source *s, const SaError *err) {
    fprintf(stderr, "%s:", s->path);
    if (err->pos.line > 0)
        fprintf(stderr, "%d:%d:", err->pos.line, err->pos.col);
    fprintf(stderr, " error: %s%s%s [%s]\n", err->op, err->op[0] ? ": " : "", err->text, sa_status_name(err->code));
    if (err->pos.line > 0 && s->text)
        show_line(s, err->pos);
}

/* ============================== Reading =================================== */

/* The whole file and a 0. NULL after a complaint. */
static char *read_text(const char *path, size_t limit, size_t *bytes) {
    FILE *f = fopen(path, "rbe");
    size_t cap = 1 << 16, n = 0, got = 1;
    char *text = f ? malloc(cap + 1) : NULL;
    while (text && got && n <= limit) {
        if (n == cap) {
            char *more = realloc(text, 2 * cap + 1);
            if (!more)
                break;
            text = more;
            cap *= 2;
        }
        got = fread(text + n, 1, cap - n, f);
        n += got;
    }
    bool bad = !f || !text || ferror(f) || got != 0;
    if (bad)
        complain("%s: %s", path, f && text && n > limit ? "too large" : strerror(errno));
    if (f)
        fclose(f);
    if (bad) {
        free(text);
        return NULL;
    }
    text[n] = 0;
    *bytes = n;
    return text;
}

bool source_open(Source *s, const char *path) {
    SaLimits limits;
    SaError err = {.code = SA_OK};
    *s = (Source){.path = path};
    sa_limits_default(&limits);
    s->text = read_text(path, limits.max_text_bytes, &s->bytes);
    if (!s->text)
        return false;
    s->arena = sa_arena_new(0);
    SaStatus st = SA_E_MEMORY;
    if (s->arena)
        st = sa_program_parse(s->arena, s->text, s->bytes, &limits, &s->program, &err);
    if (st == SA_OK)
        st = sa_program_check(s->arena, s->program, &limits, &err);
    if (st == SA_OK)
        return true;
    err.code = st;
    source_complain(s, &err);
    return false;
}

void source_free(Source *s) {
    sa_arena_free(s->arena);
    free(s->text);
    *s = (Source){.path = s->path};
}

int source_function(const Source *s, const char *name) {
    for (int i = 0; i < s->program->n_functions; i++)
        if (!name || strcmp(s->program->functions[i].name, name) == 0)
            return i;
    complain("%s: there is no function '%s'", s->path, name ? name : "");
    return -1;
}

/* ============================== Random numbers ============================ */

static uint64_t next(Random *r) {
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

Random random_start(uint64_t seed, const char *name) {
    Random r = {seed * 0xd1342543de82ef95u + 1};
    for (; *name; name++)
        r.state = (r.state ^ (unsigned char)*name) * 0x100000001b3u;
    next(&r);
    return r;
}

double random_normal(Random *r) {
    double u = ((double)(next(r) >> 11) + 0.5) * 0x1p-53, v = (double)(next(r) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}
