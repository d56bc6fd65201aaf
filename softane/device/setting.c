// SPDX-License-Identifier: MIT
/* setting.c - settings: one table, one parser per kind, the environment.
 * What each setting does is written in softane.h; nothing acts here except
 * the log level and the failpoints, which live in base/.
 *
 * The value in force of a key: what was set (by softane_set or the
 * environment); else what the profile says; else default.profile; else the
 * default of the table. Values in force are kept as numbers, so that reading
 * one costs a load; they are made anew whenever something is set. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

/* ============================== Kinds ===================================== */

typedef enum {
    KIND_COUNT,        /* decimal number >= 0 */
    KIND_OFF_OR_COUNT, /* off, or a number */
    KIND_FLAG,         /* 0 or 1 */
    KIND_REAL,         /* finite number >= 0 */
    KIND_WORD,         /* one of the words of the row */
    KIND_TIMING,       /* off, on, or the name of a profile */
    KIND_PROFILE,      /* name or path of a profile */
    KIND_FAILPOINTS,
    KIND_DIRECTORY,    /* absolute path of a directory, or empty */
    KIND_PATH,         /* absolute path, or empty */
    KIND_TEXT
} Kind;

static const struct { const char *key, *text, *words; Kind kind; } settings[SA_SET_COUNT] = {
#define ROW(id, key, kind, text, words) [SA_SET_##id] = {key, text, words, KIND_##kind},
    SA_SETTINGS(ROW)
#undef ROW
};

int sa_setting_find(const char *key) {
    for (int i = 0; i < SA_SET_COUNT; i++)
        if (strcmp(settings[i].key, key) == 0)
            return i;
    return -1;
}

const char *sa_setting_key(SaSettingId id) { return settings[id].key; }

bool sa_setting_in_profile(SaSettingId id) { return settings[id].text == NULL; }

static bool is_timing(SaSettingId id) { return id >= SA_SET_COMPILE_MS && id <= SA_SET_BUSY; }

/* ============================== Parsing =================================== */

static bool parse_count(const char *text, uint64_t *out) {
    char *end;
    if (text[0] < '0' || text[0] > '9') /* strtoull would take signs and blanks */
        return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    *out = n;
    return errno == 0 && *end == 0;
}

/* "a|b|c": the number of the word that is `text`. */
static bool parse_word(const char *text, const char *words, uint64_t *out) {
    size_t n = strlen(text);
    for (uint64_t i = 0; n > 0 && words; i++) {
        size_t length = strcspn(words, "|");
        *out = i;
        if (length == n && strncmp(words, text, n) == 0)
            return true;
        words = words[length] ? words + length + 1 : NULL;
    }
    return false;
}

static bool parse_real(const char *text, uint64_t *out) {
    char *end;
    double real = strtod(text, &end);
    if (end == text || *end != 0 || !(real >= 0 && real <= 1e6))
        return false;
    memcpy(out, &real, sizeof real);
    return true;
}

static bool is_directory(const char *path) {
    struct stat s;
    return path[0] == '/' && stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Profiles are opened elsewhere: their value is only whether one is named. */
bool sa_setting_parse(SaSettingId id, const char *text, uint64_t *out) {
    *out = 0;
    switch (settings[id].kind) {
    case KIND_COUNT: return parse_count(text, out);
    case KIND_OFF_OR_COUNT:
        *out = SA_STAGING_OFF;
        return strcmp(text, "off") == 0 || (parse_count(text, out) && *out != SA_STAGING_OFF);
    case KIND_FLAG: return parse_count(text, out) && *out <= 1;
    case KIND_REAL: return parse_real(text, out);
    case KIND_WORD: return parse_word(text, settings[id].words, out);
    case KIND_TIMING: *out = strcmp(text, "off") != 0; return *text != 0;
    case KIND_PROFILE: return *text != 0;
    case KIND_FAILPOINTS: return true; /* base checks the grammar */
    case KIND_DIRECTORY: return !*text || is_directory(text);
    case KIND_PATH: return !*text || (text[0] == '/' && strlen(text) < 3000);
    case KIND_TEXT: return strlen(text) < 1000;
    }
    return false;
}

/* ============================== In force ================================== */

/* Which profile a key is taken from when it is not set. Under the lock. */
static const SaProfile *profile_of(const SaDevice *d, SaSettingId id) {
    const SaProfile *p = is_timing(id) && d->chip ? d->chip : d->profile;
    return p && p->text[id] ? p : d->base;
}

/* All values anew. Under the lock, or before anybody can see the device. */
static void refresh(SaDevice *d) {
    for (int i = 0; i < SA_SET_COUNT; i++) {
        SaSettingId id = (SaSettingId)i;
        uint64_t v = d->set_value[i];
        if (!d->text[i] && sa_setting_in_profile(id)) {
            const SaProfile *p = profile_of(d, id);
            v = p ? p->value[i] : 0;
        } else if (!d->text[i]) {
            sa_setting_parse(id, settings[i].text, &v);
        }
        atomic_store_explicit(&d->value[i], v, memory_order_relaxed);
    }
}

/* The text in force. Under the lock. */
static const char *text_of(const SaDevice *d, SaSettingId id) {
    if (d->text[id])
        return d->text[id];
    if (!sa_setting_in_profile(id))
        return settings[id].text;
    const SaProfile *p = profile_of(d, id);
    return p && p->text[id] ? p->text[id] : "";
}

/* ============================== Set ======================================= */

static int refuse(SaDevice *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(SaDevice *d, const char *fmt, ...) {
    char line[sizeof d->refused];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    sa_log(SA_LOG_ERROR, "setting refused: %s", line);
    pthread_mutex_lock(&d->lock);
    memcpy(d->refused, line, sizeof line);
    pthread_mutex_unlock(&d->lock);
    return -1;
}

/* The profile that a value of `profile` or `timing` means; NULL for the words
 * that mean none. */
static SaStatus open_profile(SaSettingId id, const char *text, SaProfile **out, SaError *err) {
    *out = NULL;
    bool none = id == SA_SET_TIMING ? strcmp(text, "off") == 0 || strcmp(text, "on") == 0 : false;
    return none ? SA_OK : sa_profile_open(text, out, err);
}

/* `value` NULL: back to the default. */
static int set(SaDevice *d, SaSettingId id, const char *value) {
    const char *key = settings[id].key;
    uint64_t v = 0;
    SaProfile *opened = NULL;
    if (value && !sa_setting_parse(id, value, &v))
        return refuse(d, "%s: '%.100s' is no %s%s", key, value,
                      settings[id].kind == KIND_WORD ? "word of " : "value for it", settings[id].words);
    if (id == SA_SET_FAILPOINTS && sa_failpoint_configure(value ? value : "") != SA_OK)
        return refuse(d, "failpoints: the text does not follow the grammar");
    bool profile = id == SA_SET_PROFILE || id == SA_SET_TIMING;
    if (profile && value) {
        SaError err = {.code = SA_OK};
        if (open_profile(id, value, &opened, &err) != SA_OK)
            return refuse(d, "%s: %.400s", key, err.text);
    }
    char *copy = value ? strdup(value) : NULL;
    if (value && !copy) {
        sa_profile_free(opened);
        return refuse(d, "%s: no memory", key);
    }
    pthread_mutex_lock(&d->lock);
    char *old = d->text[id];
    SaProfile *closed = NULL;
    d->text[id] = copy;
    d->set_value[id] = v;
    if (profile) {
        SaProfile **slot = id == SA_SET_TIMING ? &d->chip : &d->profile;
        closed = *slot;
        *slot = opened;
    }
    refresh(d);
    pthread_mutex_unlock(&d->lock);
    sa_profile_free(closed);
    free(old);
    if (id == SA_SET_LOG)
        sa_log_set_level((SaLogLevel)sa_setting(SA_SET_LOG));
    return 0;
}

int sa_setting_set(SaDevice *d, const char *key, const char *value) {
    int i = sa_setting_find(key);
    if (i < 0)
        return refuse(d, "there is no setting '%.100s'", key);
    if (i == SA_SET_COMPILE_LIMIT_MODE && value && strcmp(value, "crash") == 0) /* not by accident */
        return refuse(d, "compile_limit_mode: crash is taken from the environment only");
    return set(d, (SaSettingId)i, value);
}

/* ============================== Get ======================================= */

int sa_setting_get(SaDevice *d, const char *key, char *buf, size_t cap) {
    int i = sa_setting_find(key);
    if (i < 0)
        return -1;
    if (i == SA_SET_THREADS && sa_setting(SA_SET_THREADS) == 0) { /* 0 = all cores: say how many */
        snprintf(buf, cap, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
        return 0;
    }
    pthread_mutex_lock(&d->lock);
    snprintf(buf, cap, "%s", text_of(d, (SaSettingId)i));
    pthread_mutex_unlock(&d->lock);
    if (buf[0] == 0 && i == SA_SET_PARTITION)
        sa_partition_name(buf, cap);
    if (buf[0] == 0 && i == SA_SET_STORE_DIR && sa_setting(SA_SET_STORE) == SA_STORE_SHARED)
        sa_shared_directory(buf, cap, NULL);
    return 0;
}

/* Everything a profile may name, one line each; what does not fit is left out. */
void sa_setting_list(SaDevice *d, char *buf, size_t cap) {
    size_t at = 0;
    buf[0] = 0;
    pthread_mutex_lock(&d->lock);
    for (int i = 0; i < SA_SET_COUNT; i++) {
        if (!sa_setting_in_profile((SaSettingId)i))
            continue;
        const SaProfile *p = profile_of(d, (SaSettingId)i);
        int n = snprintf(buf + at, cap - at, "%s = %s  # %s\n", settings[i].key, text_of(d, (SaSettingId)i),
                         d->text[i] ? "set" : p ? p->name : "");
        if (n < 0 || (size_t)n >= cap - at) {
            buf[at] = 0;
            break;
        }
        at += (size_t)n;
    }
    pthread_mutex_unlock(&d->lock);
}

bool sa_setting_source(SaDevice *d, const char *key, char *buf, size_t cap) {
    int i = sa_setting_find(key);
    if (i < 0 || !sa_setting_in_profile((SaSettingId)i))
        return false;
    pthread_mutex_lock(&d->lock);
    const SaProfile *p = profile_of(d, (SaSettingId)i);
    const char *source = p && p->source[i] ? p->source[i] : "";
    snprintf(buf, cap, "%s", d->text[i] ? "set by the user" : source);
    pthread_mutex_unlock(&d->lock);
    return true;
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

/* Runs once, before any other thread can see the device; sa_device() must not
 * be called from here. */
void sa_setting_init(SaDevice *d) {
    SaError err = {.code = SA_OK};
    if (sa_profile_open("default", &d->base, &err) != SA_OK) /* memory; a test reads every file */
        sa_log(SA_LOG_ERROR, "default.profile: %s", err.text);
    refresh(d);
    for (int i = 0; i < SA_SET_COUNT; i++) {
        SaSettingId id = (SaSettingId)i;
        const char *text = environment(id);
        if (!text)
            continue;
        uint64_t v;
        SaProfile *opened = NULL;
        bool good = sa_setting_parse(id, text, &v);
        if (good && id == SA_SET_FAILPOINTS)
            good = sa_failpoint_configure(text) == SA_OK;
        err.text[0] = 0;
        if (good && (id == SA_SET_PROFILE || id == SA_SET_TIMING))
            good = open_profile(id, text, &opened, &err) == SA_OK;
        char *copy = good ? strdup(text) : NULL;
        if (!copy) {
            sa_log(SA_LOG_ERROR, "bad value '%s' of setting '%s' in the environment, default kept. %s", text,
                   settings[i].key, err.text);
            sa_profile_free(opened);
            continue;
        }
        d->text[i] = copy;
        d->set_value[i] = v;
        if (opened)
            *(id == SA_SET_TIMING ? &d->chip : &d->profile) = opened;
    }
    refresh(d);
    sa_log_set_level((SaLogLevel)atomic_load(&d->value[SA_SET_LOG]));
}
