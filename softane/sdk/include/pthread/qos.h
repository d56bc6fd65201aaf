// SPDX-License-Identifier: MIT
/* pthread/qos.h - classes of quality of service; noted by nobody here. */
#ifndef SOFTANE_SDK_QOS_H
#define SOFTANE_SDK_QOS_H
#include <pthread.h>
typedef unsigned int qos_class_t;
enum {
    QOS_CLASS_USER_INTERACTIVE = 0x21,
    QOS_CLASS_USER_INITIATED = 0x19,
    QOS_CLASS_DEFAULT = 0x15,
    QOS_CLASS_UTILITY = 0x11,
    QOS_CLASS_BACKGROUND = 0x09,
    QOS_CLASS_UNSPECIFIED = 0x00
};
static inline int pthread_set_qos_class_self_np(qos_class_t c, int relative) { return (void)c, (void)relative, 0; }
static inline qos_class_t qos_class_self(void) { return QOS_CLASS_DEFAULT; }
#endif
