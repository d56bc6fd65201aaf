// SPDX-License-Identifier: MIT
/* failpoint.c - named places where a test can make things go wrong.
 *
 *   text   := point (";" point)*
 *   point  := NAME "=" term ("->" term)*
 *   term   := [NUM "%"] [NUM "*"] action
 *   action := "off" | "return" ["(" INT ")"] | "delay(" MS ")" | "hold" | "abort" | "kill"
 *
 * White space around the parts is ignored. At a hit the terms are tried from
 * left to right: one that is used up, or whose chance does not come, passes
 * the hit on to the next. The variable ANE_FAILPOINTS is read at load.
 *
 * All points sit in one static table: this file must work while allocation
 * fails, so it never allocates. */
#include "base.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ============================== Table ===================================== */

enum { MAX_POINTS = 64, MAX_TERMS = 8, NAME_BYTES = 48 };

typedef enum { ACT_OFF, ACT_RETURN, ACT_DELAY, ACT_HOLD, ACT_ABORT, ACT_KILL } Action;

typedef struct {
    Action action;
    int arg;            /* return code or milliseconds */
    uint32_t chance;    /* of 1000000; 1000000 = always */
    int64_t left;       /* hits to go; -1 = for ever */
} Term;

typedef struct {
    char name[NAME_BYTES];
    Term terms[MAX_TERMS];
    int n_terms;
} Point;

volatile int sa_failpoints_armed;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static Point points[MAX_POINTS]; /* under lock, as all below */
static Point staged[MAX_POINTS]; /* being parsed; replaces points when good */
static int n_points;
static uint64_t generation;      /* counts configurations; releases holds */
static uint64_t random_state;    /* restarts with each configuration: runs repeat */

/* ============================== Parsing =================================== */

/* Past blanks and line ends. */
static void skip_space(const char **p) {
    while (**p == ' ' || **p == '\t' || **p == '\n' || **p == '\r')
        (*p)++;
}

/* Moves over `word` and following space when it is next. */
static bool take(const char **p, const char *word) {
    size_t n = strlen(word);
    if (strncmp(*p, word, n) != 0)
        return false;
    *p += n;
    skip_space(p);
    return true;
}

/* number := ["-"] DIGIT+ ; false when there is none or it exceeds an int. */
static bool take_int(const char **p, int *out) {
    const char *q = *p;
    bool minus = *q == '-';
    q += minus;
    if (*q < '0' || *q > '9')
        return false;
    int64_t n = 0;
    for (; *q >= '0' && *q <= '9'; q++) {
        n = n * 10 + (*q - '0');
        if (n > INT32_MAX)
            return false;
    }
    *out = (int)(minus ? -n : n);
    *p = q;
    skip_space(p);
    return true;
}

/* "12.5%" -> 125000 millionths. Leaves *p alone when there is no percentage;
 * false only for one that is malformed. */
static bool take_chance(const char **p, uint32_t *out) {
    const char *q = *p;
    uint64_t whole = 0, part = 0, scale = 10000;
    if (*q < '0' || *q > '9')
        return true;
    for (; *q >= '0' && *q <= '9' && whole <= 100; q++)
        whole = whole * 10 + (uint64_t)(*q - '0');
    if (*q == '.')
        for (q++; *q >= '0' && *q <= '9'; q++) {
            scale /= 10; /* digits beyond the fourth count nothing */
            part += scale * (uint64_t)(*q - '0');
        }
    skip_space(&q);
    if (*q != '%')
        return true; /* a count: read next */
    if (whole * 10000 + part > 1000000)
        return false;
    *out = (uint32_t)(whole * 10000 + part);
    *p = q + 1;
    skip_space(p);
    return true;
}

/* Optional "(" INT ")". */
static bool take_arg(const char **p, int *out, bool *given) {
    *given = false;
    if (!take(p, "("))
        return true;
    skip_space(p);
    *given = take_int(p, out);
    return *given && take(p, ")");
}

/* term, into *t */
static bool parse_term(const char **p, Term *t) {
    *t = (Term){.action = ACT_OFF, .arg = 0, .chance = 1000000, .left = -1};
    if (!take_chance(p, &t->chance))
        return false;
    int count;
    if (**p >= '0' && **p <= '9') {
        if (!take_int(p, &count) || !take(p, "*"))
            return false;
        t->left = count;
    }
    bool given;
    if (take(p, "return")) {
        t->action = ACT_RETURN;
        t->arg = 1;
        return take_arg(p, &t->arg, &given);
    }
    if (take(p, "delay")) {
        t->action = ACT_DELAY;
        return take_arg(p, &t->arg, &given) && given && t->arg >= 0;
    }
    if (take(p, "off"))
        t->action = ACT_OFF;
    else if (take(p, "hold"))
        t->action = ACT_HOLD;
    else if (take(p, "abort"))
        t->action = ACT_ABORT;
    else if (take(p, "kill"))
        t->action = ACT_KILL;
    else
        return false;
    return true;
}

/* point, into *pt */
static bool parse_point(const char **p, Point *pt) {
    size_t n = strcspn(*p, "=; \t\r\n");
    if (n == 0 || n >= NAME_BYTES)
        return false;
    memset(pt, 0, sizeof *pt);
    memcpy(pt->name, *p, n);
    *p += n;
    skip_space(p);
    if (!take(p, "="))
        return false;
    do {
        if (pt->n_terms == MAX_TERMS || !parse_term(p, &pt->terms[pt->n_terms]))
            return false;
        pt->n_terms++;
    } while (take(p, "->"));
    return true;
}

/* All points into `staged`; returns their number or -1. */
static int parse_all(const char *text) {
    const char *p = text;
    int n = 0;
    for (skip_space(&p); *p; ) {
        if (take(&p, ";"))
            continue;
        if (n == MAX_POINTS || !parse_point(&p, &staged[n]))
            return -1;
        n++;
        if (*p && *p != ';')
            return -1;
    }
    return n;
}

/* ============================== Interface ================================= */

/* Replace all points by those of `text`; "" or NULL clears. On SA_E_SYNTAX the
 * old points stay. Threads in `hold` go on after any successful call. */
SaStatus sa_failpoint_configure(const char *text) {
    pthread_mutex_lock(&lock);
    int n = parse_all(text ? text : "");
    if (n >= 0) {
        memcpy(points, staged, sizeof points[0] * (size_t)n);
        n_points = n;
        generation++;
        random_state = 0x9e3779b97f4a7c15u;
        __atomic_store_n(&sa_failpoints_armed, n > 0, __ATOMIC_RELAXED);
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return n >= 0 ? SA_OK : SA_E_SYNTAX;
}

/* Does this term act now? xorshift64, under lock. */
static bool chance_comes(uint32_t chance) {
    if (chance >= 1000000)
        return true;
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (random_state >> 11) % 1000000 < chance;
}

/* The term of `name` that takes this hit, counted down; NULL when none does. */
static const Term *choose(const char *name) {
    for (int i = 0; i < n_points; i++) {
        if (strcmp(points[i].name, name) != 0)
            continue;
        for (int k = 0; k < points[i].n_terms; k++) {
            Term *t = &points[i].terms[k];
            if (t->left == 0 || !chance_comes(t->chance))
                continue;
            if (t->left > 0)
                t->left--;
            return t;
        }
    }
    return NULL;
}

/* The whole time, signals or not. */
static void sleep_ms(int ms) {
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000L};
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
        ;
}

/* A hit; see base.h. 0, or the code of return(code). May sleep, wait for a new
 * configuration, or end the process. Any thread. */
int sa_failpoint_hit(const char *name) {
    pthread_mutex_lock(&lock);
    const Term *found = choose(name);
    Term t = found ? *found : (Term){.action = ACT_OFF};
    if (t.action == ACT_HOLD)
        for (uint64_t g = generation; g == generation;)
            pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    switch (t.action) {
    case ACT_RETURN:
        return t.arg;
    case ACT_DELAY:
        sleep_ms(t.arg);
        return 0;
    case ACT_ABORT:
        abort(); /* asked for by the test */
    case ACT_KILL:
        kill(getpid(), SIGKILL);
        return 0;
    case ACT_OFF:
    case ACT_HOLD:
        break;
    }
    return 0;
}

/* Points from the environment, once, when the library is loaded. */
__attribute__((constructor)) static void configure_from_environment(void) {
    const char *text = getenv("ANE_FAILPOINTS");
    if (text && sa_failpoint_configure(text) != SA_OK)
        sa_log(SA_LOG_ERROR, "ANE_FAILPOINTS is malformed and was ignored: %s", text);
}
