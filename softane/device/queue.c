// SPDX-License-Identifier: MIT
/* queue.c - the serial queues of the client, one per QoS level.
 *
 * On the real engine compile, load, unload and failure reports of one process
 * run one after the other on the queue of their QoS; two levels overlap.
 * A queue here is a mutex: the caller's thread does the work. */
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
