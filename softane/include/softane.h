// SPDX-License-Identifier: MIT
/* softane.h - the control surface of the software Neural Engine.
 *
 * Programs talk to softane through Apple's private class names (facade/) and
 * the IOSurface C functions (surface/). What is here is for tools and tests:
 * settings, counters, the precise reason of the last failure. The core of
 * ane_native never includes this header.
 *
 * Every setting can also be given in the environment before the library is
 * first used: SOFTANE_<KEY IN UPPER CASE>. */
#ifndef SOFTANE_H
#define SOFTANE_H

#include <stddef.h>

#define SOFTANE_EXPORT __attribute__((visibility("default")))

/* Version of softane, "MAJOR.MINOR.PATCH". Static storage. Any thread. */
SOFTANE_EXPORT const char *softane_version(void);

/* Change one setting. `value` NULL restores the default.
 *
 *   compile_limit   compiles per process; 0 = no limit            [119]
 *   loaded_limit    loaded programs per process; 0 = no limit     [128]
 *   loaded_bytes    bytes of loaded weights; 0 = no limit         [4294967296]
 *   store_bytes     compiled programs kept although not loaded    [67108864]
 *   unload_purges   1: unload drops the store entry               [0]
 *   numerics        fast | ieee | silicon, see docs/NUMERICS.md   [fast]
 *   timing          off | m1 | m3-ultra | m4 | m4-pro | m4-max | m5   [off]
 *   timing_scale    factor on every sleep, e.g. 0.1               [1]
 *   threads         threads one evaluation may use                [cores]
 *   staging         directory that stands for NSTemporaryDirectory() in
 *                   -localModelPath; "" = the real one, as programs written
 *                   for Apple's framework expect                  []
 *   failpoints      see base/failpoint.c; "" clears all           []
 *   log             off | error | info: to stderr                 [off]
 *
 * Returns 0, or -1 when the key or the value is not known. Any thread. */
SOFTANE_EXPORT int softane_set(const char *key, const char *value);

/* Read a setting or a counter as text into buf (always terminated).
 * Counters: compiles, compile_failures, loads, loaded, loaded_bytes_now,
 * evals, store_entries, store_bytes_now, surfaces.
 * Further read-only keys: blas (library in use), isa (kernel variant).
 * Returns 0, or -1 when the key is not known. Any thread. */
SOFTANE_EXPORT int softane_get(const char *key, char *buf, size_t cap);

#endif
