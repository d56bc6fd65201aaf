// SPDX-License-Identifier: MIT
/* setting.c - settings: one table, one parser per kind, the environment.
 * What each setting does is written in softane.h; nothing acts here except
 * the log level and the failpoints, which live in base/. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

/* ============================== Kinds ===================================== */

typedef enum {
    KIND_COUNT,     /* decimal number >= 0 */
    KIND_FLAG,      /* 0 or 1 */
    KIND_REAL,      /* finite number >= 0 */
    KIND_NUMERICS,  /* fast | ieee | silicon */
    KIND_TIMING,    /* off or the name of a profile */
    KIND_FAILPOINTS,
    KIND_DIRECTORY, /* absolute path of a directory, or empty */
    KIND_LOG        /* off | error | info */
} Kind;

static const struct { const char *key, *text; Kind kind; } settings[SA_SET_COUNT] = {
#define ROW(id, key, kind, text) [SA_SET_##id] = {key, text, KIND_##kind},
    SA_SETTINGS(ROW)
#undef ROW
};

static bool parse_count(const char *text, uint64_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') /* strtoull would take signs and blanks */
        return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    *out = n;
    return errno == 0 && *end == 0;
}

static bool parse_word(const char *text, const char *const *words, uint64_t *out) {
    for (uint64_t i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

static bool is_directory(const char *path) {
    struct stat s;
    return path[0] == '/' && stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Text -> value, without any effect. */
static bool parse_value(Kind kind, const char *text, uint64_t *out) {
    static const char *const numerics[] = {"fast", "ieee", "silicon", NULL};
    static const char *const levels[] = {"off", "error", "info", NULL};
    double real;
    char *end;
    *out = 0;
    switch (kind) {
    case KIND_COUNT: return parse_count(text, out);
    case KIND_FLAG: return parse_count(text, out) && *out <= 1;
    case KIND_NUMERICS: return parse_word(text, numerics, out);
    case KIND_LOG: return parse_word(text, levels, out);
    case KIND_TIMING:
        *out = (uint64_t)(uintptr_t)sa_profile_find(text);
        return *out != 0 || strcmp(text, "off") == 0;
    case KIND_REAL:
        real = strtod(text, &end);
        if (end == text || *end != 0 || !(real >= 0 && real <= 1e6))
            return false;
        memcpy(out, &real, sizeof real);
        return true;
    case KIND_FAILPOINTS: return true; /* base checks the grammar */
    case KIND_DIRECTORY: return !*text || is_directory(text);
    }
    return false;
}

/* Parse and put into force. Called without the device lock. */
static bool apply(SaDevice *d, SaSettingId id, const char *text) {
    uint64_t v;
    if (!parse_value(settings[id].kind, text, &v))
        return false;
    if (id == SA_SET_FAILPOINTS && sa_failpoint_configure(text) != SA_OK)
        return false;
    if (id == SA_SET_LOG)
        sa_log_set_level((SaLogLevel)v);
    atomic_store_explicit(&d->value[id], v, memory_order_relaxed);
    return true;
}

/* ============================== Set and get =============================== */

static int find(const char *key) {
    for (int i = 0; i < SA_SET_COUNT; i++)
        if (strcmp(settings[i].key, key) == 0)
            return i;
    return -1;
}

int sa_setting_set(SaDevice *d, const char *key, const char *value) {
    int i = find(key);
    if (i < 0)
        return -1;
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy)
        return -1;
    if (!apply(d, (SaSettingId)i, value ? value : settings[i].text)) {
        free(copy);
        return -1;
    }
    pthread_mutex_lock(&d->lock);
    char *old = d->text[i];
    d->text[i] = copy;
    pthread_mutex_unlock(&d->lock);
    free(old);
    return 0;
}

int sa_setting_get(SaDevice *d, const char *key, char *buf, size_t cap) {
    int i = find(key);
    if (i < 0)
        return -1;
    if (i == SA_SET_THREADS && sa_setting(SA_SET_THREADS) == 0) { /* 0 = all cores: say how many */
        snprintf(buf, cap, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
        return 0;
    }
    pthread_mutex_lock(&d->lock);
    snprintf(buf, cap, "%s", d->text[i] ? d->text[i] : settings[i].text);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

double sa_setting_real(SaSettingId id) {
    uint64_t bits = sa_setting(id);
    double real;
    memcpy(&real, &bits, sizeof real);
    return real;
}

/* ============================== Environment =============================== */

/* SOFTANE_<KEY>; the failpoints of all layers may also come in one variable. */
static const char *environment(SaSettingId id) {
    char name[64] = "SOFTANE_";
    size_t n = strlen(name);
    for (const char *k = settings[id].key; *k && n < sizeof name - 1; k++)
        name[n++] = (char)(*k >= 'a' && *k <= 'z' ? *k - 'a' + 'A' : *k);
    name[n] = 0;
    const char *text = getenv(name);
    return !text && id == SA_SET_FAILPOINTS ? getenv("ANE_FAILPOINTS") : text;
}

/* Runs once, before any other thread can see the device. */
void sa_setting_init(SaDevice *d) {
    for (int i = 0; i < SA_SET_COUNT; i++) {
        SaSettingId id = (SaSettingId)i;
        const char *text = environment(id);
        if (text && apply(d, id, text)) {
            d->text[i] = strdup(text); /* NULL only hurts softane_get */
            continue;
        }
        if (text)
            sa_log(SA_LOG_ERROR, "bad value '%s' of setting '%s' in the environment, default kept", text,
                   settings[i].key);
        if (id != SA_SET_FAILPOINTS) /* nothing to clear */
            apply(d, id, settings[i].text);
    }
}
