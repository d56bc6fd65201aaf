// SPDX-License-Identifier: MIT
/* profile.c - device profiles: what is known of one chip, as text.
 *
 *   file   := (line "\n")*
 *   line   := [key "=" value] ["#" comment]
 *
 * The keys are those settings whose value comes from profiles (device.h); a
 * comment behind a value says where the value was found. The files of
 * softane/profiles are built into the library; a path names another one.
 * Anything else than the grammar is refused, with its line. */
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define FILE_MAX_BYTES ((size_t)1 << 16)

/* ============================== Parsing =================================== */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* [*from, *to) without blanks at either end. */
static void trim(const char **from, const char **to) {
    while (*from < *to && is_blank(**from))
        ++*from;
    while (*to > *from && is_blank((*to)[-1]))
        --*to;
}

/* "key = value" between from and to, the comment between note and end. */
static SaStatus parse_pair(SaProfile *p, const char *from, const char *to, const char *note, const char *end, SaPos pos,
                           SaError *err) {
    const char *equals = memchr(from, '=', (size_t)(to - from));
    if (!equals)
        return sa_error_set(err, SA_E_SYNTAX, pos, "%.200s:%d: expected key = value", p->name, pos.line);
    const char *key_end = equals, *value = equals + 1, *value_end = to;
    trim(&from, &key_end);
    trim(&value, &value_end);
    trim(&note, &end);
    char key[64], text[256];
    if (key_end == from || (size_t)(key_end - from) >= sizeof key || value_end == value ||
        (size_t)(value_end - value) >= sizeof text)
        return sa_error_set(err, SA_E_SYNTAX, pos, "%.200s:%d: key or value is missing or too long", p->name, pos.line);
    memcpy(key, from, (size_t)(key_end - from));
    key[key_end - from] = 0;
    memcpy(text, value, (size_t)(value_end - value));
    text[value_end - value] = 0;

    int i = sa_setting_find(key);
    SaSettingId id = (SaSettingId)i;
    if (i < 0 || !sa_setting_in_profile(id))
        return sa_error_set(err, SA_E_NAME, pos, "%.200s:%d: '%s' is no key of a profile", p->name, pos.line, key);
    if (p->text[i])
        return sa_error_set(err, SA_E_NAME, pos, "%.200s:%d: '%s' stands there twice", p->name, pos.line, key);
    bool crash = id == SA_SET_COMPILE_LIMIT_MODE && strcmp(text, "crash") == 0; /* from the environment only */
    if (crash || !sa_setting_parse(id, text, &p->value[i]))
        return sa_error_set(err, SA_E_OPERAND, pos, "%.200s:%d: '%.60s' is no value for '%s'", p->name, pos.line, text, key);
    p->text[i] = strdup(text);
    p->source[i] = end > note ? strndup(note, (size_t)(end - note)) : NULL;
    return p->text[i] && (p->source[i] || end <= note) ? SA_OK
                                                       : sa_error_set(err, SA_E_MEMORY, pos, "no memory for a profile");
}

static SaStatus parse_lines(SaProfile *p, const char *text, size_t bytes, SaError *err) {
    SaPos pos = {1, 1};
    for (const char *at = text, *stop = text + bytes; at < stop; pos.line++) {
        const char *end = memchr(at, '\n', (size_t)(stop - at));
        const char *next = end ? end + 1 : stop;
        end = end ? end : stop;
        if (memchr(at, 0, (size_t)(end - at)))
            return sa_error_set(err, SA_E_SYNTAX, pos, "%.200s:%d: a zero byte", p->name, pos.line);
        const char *hash = memchr(at, '#', (size_t)(end - at));
        const char *from = at, *to = hash ? hash : end, *note = hash ? hash + 1 : end;
        trim(&from, &to);
        if (to > from)
            SA_TRY(parse_pair(p, from, to, note, end, pos, err));
        at = next;
    }
    return SA_OK;
}

SaStatus sa_profile_parse(const char *name, const char *text, size_t bytes, SaProfile **out, SaError *err) {
    *out = NULL;
    SaPos nowhere = {0, 0};
    SaProfile *p = calloc(1, sizeof *p);
    if (!p || !(p->name = strdup(name))) {
        free(p);
        return sa_error_set(err, SA_E_MEMORY, nowhere, "no memory for a profile");
    }
    SaStatus st = parse_lines(p, text, bytes, err);
    if (st == SA_OK)
        *out = p;
    else
        sa_profile_free(p);
    return st;
}

void sa_profile_free(SaProfile *p) {
    if (!p)
        return;
    for (int i = 0; i < SA_SET_COUNT; i++) {
        free(p->text[i]);
        free(p->source[i]);
    }
    free(p->name);
    free(p);
}

/* ============================== Finding =================================== */

const char *sa_profile_name(int i) { return sa_profile_texts[i].name; }

SaStatus sa_profile_open(const char *name, SaProfile **out, SaError *err) {
    SaPos nowhere = {0, 0};
    *out = NULL;
    for (const SaProfileText *t = sa_profile_texts; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return sa_profile_parse(name, t->text, t->bytes, out, err);
    if (!strchr(name, '/'))
        return sa_error_set(err, SA_E_NAME, nowhere, "there is no profile '%.100s'", name);
    char *text;
    size_t bytes;
    SA_TRY(sa_file_read(name, FILE_MAX_BYTES, &text, &bytes, err));
    SaStatus st = sa_profile_parse(name, text, bytes, out, err);
    sa_free(text);
    return st;
}
