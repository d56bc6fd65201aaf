// SPDX-License-Identifier: MIT
/* timing.c - makes compile, load and evaluate take as long as they took on a
 * real chip, by sleeping. Off by default. The numbers come from the profile
 * that the setting `timing` names. Never computes, never holds a lock of its
 * own while it sleeps (a queue stays occupied: that is the point of it).
 *
 *   compile = (compile_ms + op_ms * operations + mib_ms * MiB of weights) * factors
 *   eval    = floor_ms + max(FLOP / tflops, bytes / gbytes_s), * busy while compiling
 *
 * With jitter j each time is multiplied by 1 - j … 1 + j. The n-th draw depends
 * on the setting seed and n only, so a run with one thread repeats. */
#include <errno.h>
#include <time.h>

#include "device.h"

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

double sa_timing_jitter(uint64_t seed, uint64_t n, double j) {
    uint64_t z = seed * 0x9e3779b97f4a7c15u + n + 1;
    z = (z ^ (z >> 32)) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u; /* splitmix64's mixing */
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    double f = 1 + j * ((double)(z >> 11) / 4503599627370496.0 - 1); /* 53 bits -> [-1, 1) */
    return f > 0 ? f : 0;
}

static uint64_t scaled_ns(double ms) {
    double j = sa_setting_real(SA_SET_JITTER);
    if (j > 0)
        ms *= sa_timing_jitter(sa_setting(SA_SET_SEED), atomic_fetch_add(&sa_device()->waits, 1), j);
    return (uint64_t)(ms * sa_setting_real(SA_SET_TIMING_SCALE) * 1e6);
}

bool sa_timing_on(void) { return sa_setting(SA_SET_TIMING) != 0; }

void sa_timing_wait(uint64_t start_ns, double ms) {
    (void)SA_FAILPOINT("timing.sleep"); /* delay or hold; there is nothing to fail */
    uint64_t end = ms > 0 ? start_ns + scaled_ns(ms) : 0;
    if (end > sa_now_ns())
        sleep_until(end);
}

void sa_timing_step(uint64_t start_ns, SaSettingId ms) {
    sa_timing_wait(start_ns, sa_timing_on() ? sa_setting_real(ms) : 0);
}

/* ============================== Compile and evaluate ====================== */

double sa_timing_compile_ms(const SaEntry *e) {
    return sa_setting_real(SA_SET_COMPILE_MS) + sa_setting_real(SA_SET_OP_MS) * e->ops +
           sa_setting_real(SA_SET_MIB_MS) * ((double)e->weight_bytes / 1048576.0);
}

void sa_timing_compile(uint64_t start_ns, const SaEntry *e, double factor) {
    sa_timing_wait(start_ns, sa_timing_on() ? sa_timing_compile_ms(e) * factor : 0);
}

static double quotient(double n, double rate) { return rate > 0 ? n / rate : 0; }

double sa_timing_eval_ms(double flops, double bytes) {
    double work = quotient(flops, sa_setting_real(SA_SET_TFLOPS) * 1e9);
    double traffic = quotient(bytes, sa_setting_real(SA_SET_GBYTES_S) * 1e6);
    return sa_setting_real(SA_SET_FLOOR_MS) + (work > traffic ? work : traffic);
}

/* The engine runs one evaluation at a time: each one starts when the last one
 * ends. Only the modelled time is queued; the arithmetic has already run. */
void sa_timing_eval(uint64_t start_ns, double flops, double bytes) {
    if (!sa_timing_on())
        return;
    SaDevice *d = sa_device();
    double ms = sa_timing_eval_ms(flops, bytes);
    if (atomic_load(&d->compiling) > 0)
        ms *= sa_setting_real(SA_SET_BUSY);
    uint64_t length = scaled_ns(ms);
    pthread_mutex_lock(&d->lock);
    uint64_t begin = start_ns > d->engine_free_ns ? start_ns : d->engine_free_ns;
    uint64_t end = begin + length;
    d->engine_free_ns = end;
    pthread_mutex_unlock(&d->lock);
    (void)SA_FAILPOINT("timing.sleep");
    if (end > sa_now_ns())
        sleep_until(end);
}
