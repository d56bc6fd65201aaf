// SPDX-License-Identifier: MIT
/* _core.h - the C API of ane_native for C programs: guards around _core.cdef.
 *
 * Implemented by
 *   _core.m            the door: engine, classes, budget, answers (Objective-C)
 *   _core_surface.m    surfaces
 *   _core_program.m    programs: one per identity, shared
 *   _core_stage.m      their sources and staging directories
 *   _core_bind.m       procedures, requests, evaluations
 *   _core_single.m     one program by a handle of its own
 *   _core_sched.c      double-buffer scheduler on GCD
 *   _core_canary.c     first evaluation of a new program
 *   _core_stats.c      latencies, trace
 *   _core_handle.c     handles, fork guard, errors
 *   _cpu.c             CPU part of training (BLAS, AdamW, loss)
 *   _half.c            fp16 <-> fp32, nearest even
 *   _dispatch_small.c  bundled GCD, only where no libdispatch was found */
#ifndef ANE_NATIVE_CORE_H
#define ANE_NATIVE_CORE_H

#include <stddef.h>
#include <stdint.h>

#include "_core.cdef"

#endif
