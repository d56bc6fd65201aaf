# SPDX-License-Identifier: MIT
"""What the scheduler measures, as Python sees it: a batch's figures and trace events."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

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


def batch_stats(out: Any, engine: str, packing: Packing, workers: PoolStats | None) -> BatchStats:
    """What the core measured at a boundary (``AneBatchStats``), in milliseconds.

    Part of every boundary, so the object is filled at once: a frozen class's own constructor
    sets its fields one by one, which takes most of the time of a boundary.
    """
    swapped = bool(out.swapped)
    snapshot, wait = out.snapshot_ns / 1e6, out.wait_ns / 1e6
    swap, submit = out.swap_ns / 1e6, out.submit_ns / 1e6
    stall = snapshot + wait + swap + submit
    compile_ms = out.compile_ns / 1e6 if swapped else None
    idle, compiling = out.evals_idle > 0, out.evals_compiling > 0
    limit, used = out.compile_limit, out.compiles_used
    made = object.__new__(BatchStats)
    made.__dict__.update(
        batch=out.batch,
        generation=out.active,
        newest=out.newest,
        staleness=out.staleness,
        swapped=swapped,
        submitted=bool(out.submitted),
        compile_stall_ms=stall,
        snapshot_ms=snapshot,
        wait_ms=wait,
        swap_ms=swap,
        submit_ms=submit,
        compile_ms=compile_ms,
        bake_ms=out.bake_ns / 1e6 if swapped else None,
        engine_compile_ms=out.engine_compile_ns / 1e6 if swapped else None,
        load_ms=out.load_ns / 1e6 if swapped else None,
        canary_ms=out.canary_ns / 1e6 if swapped else None,
        canaries_repeated=out.canaries_repeated,
        hidden_ms=None if compile_ms is None else max(0.0, compile_ms - stall),
        programs=len(packing.sources),
        packing=packing.fallback or packing.why,
        programs_compiled=out.programs_compiled,
        programs_reused=out.programs_reused,
        programs_by_workers=out.programs_by_workers,
        workers=workers,
        evals_during_compile=out.evals_during_compile,
        micro_steps_during_compile=out.micro_steps_during_compile,
        evals=out.evals,
        evals_retried=out.evals_retried,
        programs_reloaded=out.programs_reloaded,
        micro_steps=out.micro_steps,
        batch_ms=out.batch_ns / 1e6,
        eval_idle_p50_ms=out.idle_p50_ns / 1e6 if idle else None,
        eval_idle_p90_ms=out.idle_p90_ns / 1e6 if idle else None,
        eval_idle_p99_ms=out.idle_p99_ns / 1e6 if idle else None,
        eval_compiling_p50_ms=out.compiling_p50_ns / 1e6 if compiling else None,
        eval_compiling_p90_ms=out.compiling_p90_ns / 1e6 if compiling else None,
        eval_compiling_p99_ms=out.compiling_p99_ns / 1e6 if compiling else None,
        updates=out.updates,
        updates_skipped=out.updates_skipped,
        optimizer_ms=out.update_ns / 1e6,
        background_cpu_ms=out.background_cpu_ns / 1e6,
        background_full_ms=out.background_full_ns / 1e6,
        failures=out.failures,
        compiles_used=used,
        budget_left=max(0, limit - used) if limit else None,
        programs_loaded=out.programs_loaded,
        engine=engine,
    )
    return made
