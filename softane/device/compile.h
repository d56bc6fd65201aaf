// SPDX-License-Identifier: MIT
/* compile.h - what load.c needs of compile.c: a compile for a caller that
 * already stands in the queue. */
#ifndef SA_COMPILE_H
#define SA_COMPILE_H

#include "device.h"

/* Compile, put into the store, pin for the caller. */
bool sa_compile_run(const SaSource *src, SaEntry **pin, SaAnswer *out);

/* Is the source one this compiler takes? Fills *out when not. */
bool sa_compile_type_ok(const SaSource *src, SaAnswer *out);

#endif
