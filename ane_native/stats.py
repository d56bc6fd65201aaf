# SPDX-License-Identifier: MIT
"""What the scheduler measures, as Python sees it: a batch's figures and trace events."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from . import _native
from .packing import Packing
from .workers import PoolStats

__all__ = ["BatchStats", "TraceEvent", "batch_stats", "trace_event"]

_EVENT_KINDS = {
    1: "bake", 2: "compile", 3: "load", 4: "canary", 5: "unload",
    6: "eval", 7: "wait", 8: "swap", 9: "submit", 10: "generation", 11: "update",
    12: "stage", 13: "publish", 14: "snapshot",
}  # fmt: skip
_PROGRAM_EVENTS = ("bake", "stage", "compile", "load", "unload")


@dataclass(frozen=True)
class BatchStats:
    """What one boundary measured. Times in milliseconds; nothing here is a constant.

    Attributes:
        batch: number of the batch that ended, from 0 (0 is the first compile).
        generation: version of the weights that the next batch runs on.
        newest: version of the newest weights given to ``step``.
        staleness: ``newest - generation``.
        swapped: whether a generation was installed at this boundary.
        submitted: whether a background compile was started.
        compile_stall_ms: time this thread lost to compiling: the sum of the next four.
        snapshot_ms: copying weights (0 with ``handover=True``).
        wait_ms: waiting for a compile at the bound on staleness.
        swap_ms: exchanging the sets.
        submit_ms: handing the job to the queue.
        compile_ms: the whole background job of the generation that was installed, and its
            parts; None when none was installed.
        bake_ms, engine_compile_ms, load_ms, canary_ms: parts of ``compile_ms``; baking
            includes hashing and the files the engine's compiler reads.
        hidden_ms: ``compile_ms - compile_stall_ms``, at least 0.
        canaries_repeated: evaluations of canaries beyond one for each kernel, because a result was
            not finite at first; of that generation.
        programs: of a set.
        packing: how the set's kernels are packed into programs, or why they are not.
        programs_compiled, programs_reused: in that generation; compiled by this process.
        programs_by_workers: in that generation, compiled by worker processes.
        workers: what the compile workers have done so far, None without them.
        evals_during_compile, micro_steps_during_compile: that ended while it compiled.
        evals, micro_steps: of the batch.
        evals_retried: of the batch, canaries included: cancelled by the engine (status 0x12) and
            tried again.
        programs_reloaded: in the batch: lost by the engine (its daemon restarted), loaded again from
            its cache.
        batch_ms: from the end of the last boundary to the end of this one.
        eval_idle_p50_ms, …_p90_ms, …_p99_ms: latency of evaluations that began with no compile
            running; None when there was none.
        eval_compiling_p50_ms, …: latency of those that began during a compile.
        updates, updates_skipped: background updates that ended in the batch, and how many of them
            left the weights as they were (a gradient was not finite).
        optimizer_ms: time of those updates, on the background thread.
        background_cpu_ms: processor time of the background jobs (updates and compiles in this
            process) that ended in the batch.
        background_full_ms: how long they ran at full priority; the rest of their time they took
            what evaluations left (Linux; elsewhere the system decides and this is all of it).
        failures: sets that failed to compile so far.
        compiles_used: compile attempts of this process so far.
        budget_left: compiles left in this process, None when there is no limit.
        programs_loaded: loaded programs of this process.
        engine: name of the engine; says when it is software.
    """

    batch: int
    generation: int
    newest: int
    staleness: int
    swapped: bool
    submitted: bool
    compile_stall_ms: float
    snapshot_ms: float
    wait_ms: float
    swap_ms: float
    submit_ms: float
    compile_ms: float | None
    bake_ms: float | None
    engine_compile_ms: float | None
    load_ms: float | None
    canary_ms: float | None
    canaries_repeated: int
    hidden_ms: float | None
    programs: int
    packing: str
    programs_compiled: int
    programs_reused: int
    programs_by_workers: int
    evals_during_compile: int
    micro_steps_during_compile: int
    evals: int
    evals_retried: int
    programs_reloaded: int
    micro_steps: int
    batch_ms: float
    eval_idle_p50_ms: float | None
    eval_idle_p90_ms: float | None
    eval_idle_p99_ms: float | None
    eval_compiling_p50_ms: float | None
    eval_compiling_p90_ms: float | None
    eval_compiling_p99_ms: float | None
    updates: int
    updates_skipped: int
    optimizer_ms: float
    background_cpu_ms: float
    background_full_ms: float
    failures: int
    compiles_used: int
    budget_left: int | None
    programs_loaded: int
    workers: PoolStats | None
    engine: str

    def as_dict(self) -> dict[str, object]:
        """Field name -> value, for JSON; the workers' counters as ``workers_…``."""
        made = {f.name: getattr(self, f.name) for f in fields(self)}
        workers = made.pop("workers")
        if workers is not None:
            counts = {f"workers_{k}": v for k, v in workers.as_dict().items() if k != "pids"}
            made.update(counts)
        return made


@dataclass(frozen=True)
class TraceEvent:
    """One span of the trace.

    Attributes:
        kind: ``bake stage compile load canary unload eval wait swap submit generation update
            publish snapshot``.
        kernel: name of the kernel, or of the program where the event is a program's (``bake
            stage compile load unload``); None when it concerns the whole set.
        version: version of the weights.
        begin_ns, end_ns: nanoseconds of the monotonic clock.
        thread: an identifier of the thread.
        process: process id of the compile worker where it happened; 0: this process.
    """

    kind: str
    kernel: str | None
    version: int
    begin_ns: int
    end_ns: int
    thread: int
    process: int = 0


def trace_event(e: Any, kernels: list[str], programs: list[str]) -> TraceEvent:
    """The core's event (``AneEvent``), whose index is a kernel's or a program's."""
    kind = _EVENT_KINDS[e.kind]
    names = programs if kind in _PROGRAM_EVENTS else kernels
    kernel = names[e.kernel] if e.kernel >= 0 else None
    begin, end = int(e.begin_ns), int(e.end_ns)
    return TraceEvent(kind, kernel, int(e.version), begin, end, int(e.thread), int(e.process))


@functools.cache
def _numbers() -> Callable[[Any], tuple[int, ...]]:
    """Reads the numbers of an ``AneBatchStats``, in the order of their declaration."""
    letters = {"int32_t": "i", "int64_t": "q", "uint64_t": "Q"}
    fields = _native.core().ffi.typeof("AneBatchStats").fields
    return struct.Struct("".join(letters.get(f.type.cname, "") for _, f in fields)).unpack_from


def batch_stats(
    measured: bytes, engine: str, packing: Packing, workers: PoolStats | None
) -> BatchStats:
    """What the core measured at a boundary (``AneBatchStats``, its bytes), in milliseconds.

    Part of every boundary: all numbers are read at once, and the object is filled at once (a
    frozen class's own constructor sets its fields one by one).
    """
    (
        batch, active, newest, staleness, swapped, submitted,
        snapshot_ns, wait_ns, swap_ns, submit_ns,
        compile_ns, bake_ns, engine_compile_ns, load_ns, canary_ns,
        canaries_repeated, programs_compiled, programs_reused, programs_by_workers,
        evals_during_compile, micro_steps_during_compile,
        evals, micro_steps, evals_retried, programs_reloaded, batch_ns,
        evals_idle, evals_compiling,
        idle_p50_ns, idle_p90_ns, idle_p99_ns,
        compiling_p50_ns, compiling_p90_ns, compiling_p99_ns,
        updates, updates_skipped, update_ns, background_cpu_ns, background_full_ns,
        failures, compiles_used, compile_limit, programs_loaded,
    ) = _numbers()(measured)  # fmt: skip
    snapshot, wait, swap, submit = snapshot_ns / 1e6, wait_ns / 1e6, swap_ns / 1e6, submit_ns / 1e6
    stall = snapshot + wait + swap + submit
    compile_ms = compile_ns / 1e6 if swapped else None
    made = object.__new__(BatchStats)
    values = {
        "batch": batch,
        "generation": active,
        "newest": newest,
        "staleness": staleness,
        "swapped": swapped != 0,
        "submitted": submitted != 0,
        "compile_stall_ms": stall,
        "snapshot_ms": snapshot,
        "wait_ms": wait,
        "swap_ms": swap,
        "submit_ms": submit,
        "compile_ms": compile_ms,
        "bake_ms": bake_ns / 1e6 if swapped else None,
        "engine_compile_ms": engine_compile_ns / 1e6 if swapped else None,
        "load_ms": load_ns / 1e6 if swapped else None,
        "canary_ms": canary_ns / 1e6 if swapped else None,
        "hidden_ms": None if compile_ms is None else max(0.0, compile_ms - stall),
        "programs": len(packing.sources),
        "packing": packing.fallback or packing.why,
        "programs_compiled": programs_compiled,
        "programs_reused": programs_reused,
        "programs_by_workers": programs_by_workers,
        "canaries_repeated": canaries_repeated,
        "workers": workers,
        "evals_during_compile": evals_during_compile,
        "micro_steps_during_compile": micro_steps_during_compile,
        "evals": evals,
        "evals_retried": evals_retried,
        "programs_reloaded": programs_reloaded,
        "micro_steps": micro_steps,
        "batch_ms": batch_ns / 1e6,
        "eval_idle_p50_ms": idle_p50_ns / 1e6 if evals_idle else None,
        "eval_idle_p90_ms": idle_p90_ns / 1e6 if evals_idle else None,
        "eval_idle_p99_ms": idle_p99_ns / 1e6 if evals_idle else None,
        "eval_compiling_p50_ms": compiling_p50_ns / 1e6 if evals_compiling else None,
        "eval_compiling_p90_ms": compiling_p90_ns / 1e6 if evals_compiling else None,
        "eval_compiling_p99_ms": compiling_p99_ns / 1e6 if evals_compiling else None,
        "updates": updates,
        "updates_skipped": updates_skipped,
        "optimizer_ms": update_ns / 1e6,
        "background_cpu_ms": background_cpu_ns / 1e6,
        "background_full_ms": background_full_ns / 1e6,
        "failures": failures,
        "compiles_used": compiles_used,
        "budget_left": max(0, compile_limit - compiles_used) if compile_limit else None,
        "programs_loaded": programs_loaded,
        "engine": engine,
    }
    object.__setattr__(made, "__dict__", values)
    return made
