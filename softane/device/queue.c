// SPDX-License-Identifier: MIT
/* queue.c - the serial queues of the client, one per QoS level.
 *
 * On the real engine compile, load, unload and failure reports of one process
 * run one after the other on the queue of their QoS; two levels overlap.
 * A queue here is a mutex: the caller's thread does the work. */
#include <errno.h>
#include <time.h>

#include "device.h"

/* ============================== QoS table ================================= */

/* Source: facts, ane-api.md §6. "0 -> 2" and "other -> 5" are read from
 * framework listings, the rest of the queue column is inferred. The priority
 * column repeats the queue column: only 0 -> 2 and other -> 5 are known. */
static const struct { unsigned qos; int queue, priority; } levels[] = {
    {33, 3, 3}, /* user interactive */
    {25, 4, 4}, /* user initiated */
    {21, 5, 5}, /* default */
    {17, 6, 6}, /* utility */
    {9, 7, 7},  /* background */
    {0, 2, 2},  /* real time */
};
#define QUEUE_OF_OTHERS 5

int sa_queue_index(unsigned qos) {
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        if (levels[i].qos == qos)
            return levels[i].queue;
    return QUEUE_OF_OTHERS;
}

int sa_queue_priority(unsigned qos) {
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        if (levels[i].qos == qos)
            return levels[i].priority;
    return QUEUE_OF_OTHERS;
}

void sa_queue_enter(unsigned qos) { pthread_mutex_lock(&sa_device()->queue[sa_queue_index(qos)]); }

void sa_queue_leave(unsigned qos) { pthread_mutex_unlock(&sa_device()->queue[sa_queue_index(qos)]); }

/* ============================== Turns ===================================== */

/* With qos_overlap=0 the daemon works for one level at a time. The lock of the
 * level is always taken first. */
bool sa_turn_begin(SaTurn *turn, SaDo what, unsigned qos, SaAnswer *out) {
    SaDevice *d = sa_device();
    sa_queue_enter(qos);
    *turn = (SaTurn){qos, !sa_setting(SA_SET_QOS_OVERLAP)};
    if (turn->service)
        pthread_mutex_lock(&d->service);
    int lost = SA_FAILPOINT("queue.submit");
    if (SA_FAILPOINT("device.gone"))
        sa_device_lose();
    if (lost)
        return sa_answer_code(out, what, 3, NULL);
    if (qos == 0 && sa_setting(SA_SET_REALTIME) == SA_REALTIME_REFUSE && !sa_setting(SA_SET_ENTITLED))
        return sa_answer_code(out, what, 2, NULL);
    return true;
}

void sa_turn_end(const SaTurn *turn) {
    if (turn->service)
        pthread_mutex_unlock(&sa_device()->service);
    sa_queue_leave(turn->qos);
}

/* ============================== Direct evaluations ======================== */

bool sa_direct_enter(unsigned qos) {
    SaDevice *d = sa_device();
    uint64_t limit = sa_setting(SA_SET_DIRECT_LIMIT), ms = sa_setting(SA_SET_DIRECT_WAIT_MS);
    unsigned *running = &d->direct[sa_queue_index(qos)];
    uint64_t end = sa_now_ns() + (ms < 1000000000 ? ms : 1000000000) * 1000000;
    struct timespec until = {.tv_sec = (time_t)(end / 1000000000), .tv_nsec = (long)(end % 1000000000)};
    int waited = 0;
    pthread_mutex_lock(&d->direct_lock);
    while (limit != 0 && *running >= limit && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&d->direct_free, &d->direct_lock, &until);
    bool entered = limit == 0 || *running < limit;
    if (entered)
        ++*running;
    pthread_mutex_unlock(&d->direct_lock);
    return entered;
}

void sa_direct_leave(unsigned qos) {
    SaDevice *d = sa_device();
    pthread_mutex_lock(&d->direct_lock);
    d->direct[sa_queue_index(qos)]--;
    pthread_cond_broadcast(&d->direct_free);
    pthread_mutex_unlock(&d->direct_lock);
}
