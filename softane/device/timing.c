// SPDX-License-Identifier: MIT
/* timing.c - chip profiles: makes compile, load and evaluate take as long as
 * they took on a real chip, by sleeping. Off by default. Never computes, never
 * holds a lock while it sleeps. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "device.h"

/* ============================== Profiles ================================== */

/* Source: facts, numbers.md §9 (derived from published measurements, ±25 %).
 * m1 is M1 Pro / Max; m3-ultra takes the middle of 4.5-7.2 TFLOPS. */
static const SaProfile profiles[] = {
    /* name      compile  /op   /MiB  load unload floor tflops  busy */
    {"m1",        0,      3.40, 15.0, 4.0, 0.5,   0.20, 1.6,    1.13},
    {"m3-ultra", 20,      0.70,  5.6, 2.0, 0.5,   0.15, 5.8,    1.13},
    {"m4",       22,      0.75,  3.9, 1.8, 0.5,   0.12, 6.8,    1.19},
    {"m4-pro",   22,      0.75,  4.3, 1.8, 0.5,   0.12, 7.6,    1.19},
    {"m4-max",   22,      0.90,  3.9, 1.8, 0.5,   0.15, 7.0,    1.19},
    {"m5",       11,      0.90,  5.5, 1.7, 0.5,   0.08, 6.1,    1.15},
};

const SaProfile *sa_profile_find(const char *name) {
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++)
        if (strcmp(profiles[i].name, name) == 0)
            return &profiles[i];
    return NULL;
}

const SaProfile *sa_profile(void) { return (const SaProfile *)(uintptr_t)sa_setting(SA_SET_TIMING); }

/* ============================== Waiting =================================== */

uint64_t sa_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_until(uint64_t ns) {
    struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static uint64_t scaled_ns(double ms) { return (uint64_t)(ms * sa_setting_real(SA_SET_TIMING_SCALE) * 1e6); }

void sa_timing_wait(uint64_t start_ns, double ms) {
    (void)SA_FAILPOINT("timing.sleep"); /* delay or hold; there is nothing to fail */
    uint64_t end = start_ns + scaled_ns(ms);
    if (ms > 0 && end > sa_now_ns())
        sleep_until(end);
}

double sa_timing_compile_ms(const SaProfile *p, const SaEntry *e) {
    return p->compile_ms + p->op_ms * e->ops + p->mib_ms * ((double)e->weight_bytes / 1048576.0);
}

/* The engine runs one evaluation at a time: each one starts when the last one
 * ends. Only the modelled time is queued; the arithmetic has already run. */
void sa_timing_eval(uint64_t start_ns, double flops) {
    const SaProfile *p = sa_profile();
    if (!p)
        return;
    SaDevice *d = sa_device();
    double ms = p->floor_ms + flops / (p->tflops * 1e9);
    if (atomic_load(&d->compiling) > 0)
        ms *= p->busy;
    pthread_mutex_lock(&d->lock);
    uint64_t begin = start_ns > d->engine_free_ns ? start_ns : d->engine_free_ns;
    uint64_t end = begin + scaled_ns(ms);
    d->engine_free_ns = end;
    pthread_mutex_unlock(&d->lock);
    (void)SA_FAILPOINT("timing.sleep");
    if (end > sa_now_ns())
        sleep_until(end);
}
