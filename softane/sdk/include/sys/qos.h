// SPDX-License-Identifier: MIT
/* sys/qos.h - see pthread/qos.h. */
#include <pthread/qos.h>
