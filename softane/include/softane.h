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
 *   profile         the device: the name of a built-in profile (default, m1, m2,
 *                   m3-ultra, m4, m4-pro, m4-max, m5) or the path of a file;
 *                   gives the defaults of the second table         [default]
 *   timing          off | on | a profile: on takes the profile's numbers [off]
 *   timing_scale    factor on every sleep, e.g. 0.1               [1]
 *   jitter          every sleep varies by this share, e.g. 0.2    [0]
 *   seed            of jitter and of order=random                 [0]
 *   store           process | shared: shared keeps a file of each compiled
 *                   program, which other processes can load       [process]
 *   store_dir       where; must belong to the user and be closed to others:
 *                   who can write there can run programs here     [$XDG_RUNTIME_DIR/softane,
 *                   else /dev/shm/softane-<uid>, else in the temporary directory]
 *   store_bytes     compiled programs kept although not loaded    [16777216]
 *   store_disk_bytes  all files of store_dir; 0 = no limit        [2147483648]
 *   partition       programs of another partition are not found; stands for
 *                   the code-signing identity                     [path of the program]
 *   entitled        1: as if com.apple.aned.private.allow were there [0]
 *   value_fails     n: the n-th compile after the first of one text fails,
 *                   once; 0 = off                                 [0]
 *   threads         threads one evaluation may use                [cores]
 *   staging         directory that stands for NSTemporaryDirectory() in
 *                   -localModelPath; "" = the real one, as programs written
 *                   for Apple's framework expect                  []
 *   failpoints      see base/failpoint.c; "" clears all           []
 *   log             off | error | info: to stderr                 [off]
 *
 * The default of these comes from the profile; the defaults given are those of
 * default.profile, which says where each one comes from. 0 = no limit.
 *
 *   max_dim max_width max_conv_in max_kernel_width   compiler     [65536 65536 31999 15]
 *   dialect_a dialect_b   1: the compiler takes it                [1 1]
 *   reduce_zero_fails   1: a reduction times 0 does not compile   [1]
 *   single_op_fails     1: a program of one reshape, slice_by_index or tile
 *                   and nothing else does not compile             [0]
 *   blobs           weight files with a wrong offset, sentinel, dtype or size:
 *                   refuse | garbage (what lies there is read)    [refuse]
 *   compile_limit   compiles per process                          [119]
 *   compile_limit_mode  what a compile beyond it does: refuse | load (it says
 *                   YES, its load fails) | crash (only by SOFTANE_COMPILE_LIMIT_MODE) [refuse]
 *   loaded_limit    loaded programs per process                   [128]
 *   loaded_bytes    bytes of loaded weights                       [4294967296]
 *   program_bytes   bytes of weights of one program               [2147483648]
 *   order           of symbols: name | declaration | size | random; fixed when
 *                   a program is compiled, or loaded from a file  [name]
 *   procedures      correct | first: procedure 0 runs whatever is asked for [correct]
 *   width_rule      rows that are no multiple of 64 bytes: stride (padded) |
 *                   fail (status 0x1d)                            [stride]
 *   thin_channels   channels that a port with fewer than 32 columns may have,
 *                   else status 0x1d                              [0]
 *   staging_evals   off | n: so many evaluations are good after the directory
 *                   of a loaded program was deleted               [off]
 *   after_unload    evaluate after unload: notfound (code 23) | silent [notfound]
 *   async_wait_ms   wait for one of 127 places, and for an event  [10000]
 *   direct_limit direct_wait_ms   direct evaluations of one queue [2 30000]
 *   unload_purges   1: unload drops the store entry               [0]
 *   realtime        QoS 0 without entitlement: allow | refuse (code 2) [allow]
 *   qos_overlap     0: one compile, load or unload at a time      [1]
 *   numerics        fast | ieee | silicon, see docs/NUMERICS.md   [fast]
 *   conv3x3         direct | winograd: how silicon does dense 3x3 convolutions [direct]
 *   dot_limit       results of products from here on become inf (fast) [32768]
 *   slice_clamp     larger values in a last-axis slice with an offset become inf [0]
 *   subnormals      keep | flush: subnormal fp16 results become 0 (fast, silicon) [keep]
 *   tables          exact | quantised: table functions keep as many bits as the
 *                   engine's published error allows (fast, silicon) [exact]
 *   sdpa_mask       ignore | honour: attn_mask of scaled_dot_product_attention [ignore]
 *   compile_ms op_ms mib_ms first_compile parallel_compile load_ms unload_ms
 *   floor_ms tflops gbytes_s busy   the timing model, see device/timing.c
 *
 * Returns 0, or -1 when the key or the value is not known; nothing has changed
 * then, and softane_get("refused") says why. Any thread. */
SOFTANE_EXPORT int softane_set(const char *key, const char *value);

/* Read a setting or a counter as text into buf (always terminated).
 * Counters: compiles, compile_failures, loads, loaded, loaded_bytes_now,
 * evals, store_entries, store_bytes_now, surfaces, shared_hits, shared_writes,
 * shared_damaged, shared_evicted.
 * Further read-only keys: blas (library in use), isa (kernel variant), profiles
 * (names), profile.values (lines "key = value  # set | profile" of all keys of
 * the second table; 4096 bytes hold them), source.<key> (where its value comes
 * from), refused (why the last softane_set said no).
 * Returns 0, or -1 when the key is not known. Any thread. */
SOFTANE_EXPORT int softane_get(const char *key, char *buf, size_t cap);

#endif
