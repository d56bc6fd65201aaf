# SPDX-License-Identifier: MIT
"""All boundaries of a trainer added up, and the table a person reads: ``trainer.report()``.

Memory does not grow with the run: times go into sums and into histograms of fixed size, whose
percentiles are right to 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .stats import BatchStats, batch_stats
from .workers import PoolStats

__all__ = ["Histogram", "Totals", "TrainerReport", "make_report"]

_PARTS = ("wait_ms", "snapshot_ms", "swap_ms", "submit_ms")
_STEPS = ("bake_ms", "engine_compile_ms", "load_ms", "canary_ms")
_SUMMED = (
    *("micro_steps", "evals", "evals_retried", "evals_during_compile"),
    *("micro_steps_during_compile", "updates", "updates_skipped", "optimizer_ms", "batch_ms"),
    *("background_cpu_ms", "background_full_ms", "programs_compiled", "programs_reused"),
    *("programs_by_workers", "compile_stall_ms", *_PARTS),
)
_SPREAD = (
    *("batch_ms", "compile_stall_ms", "compile_ms"),
    *(f"eval_{kind}_{p}_ms" for kind in ("idle", "compiling") for p in ("p50", "p99")),
)


class Histogram:
    """Counts of milliseconds in classes 5 % wide, from a nanosecond to a day."""

    RATIO = math.log(1.05)
    LEAST_MS, MOST_MS = 1e-6, 86_400_000.0

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.seen = 0
        self.most = 0.0

    def add(self, ms: float) -> None:
        """Count one value; those outside the range count at its ends."""
        held = min(max(ms, self.LEAST_MS), self.MOST_MS)
        at = math.floor(math.log(held) / self.RATIO)
        self.counts[at] = self.counts.get(at, 0) + 1
        self.seen += 1
        self.most = max(self.most, ms)

    def percentile(self, share: float) -> float | None:
        """Nearest-rank percentile: the middle of its class, at most the largest value. None of
        nothing."""
        rank = max(1, math.ceil(share / 100 * self.seen))
        for at in sorted(self.counts):
            rank -= self.counts[at]
            if rank <= 0:
                middle = math.exp((at + 0.5) * self.RATIO)
                return min(middle, self.most)
        return None


class Totals:
    """Adds up boundaries. The first generation is counted apart: nothing could hide it."""

    def __init__(self) -> None:
        self.batches = self.generations = self.installed = self.staleness_most = 0
        self.loaded_most = 0
        self.sums = dict.fromkeys((*_SUMMED, *_STEPS, "compile_ms", "hidden_ms"), 0.0)
        self.spread = {name: Histogram() for name in _SPREAD}
        self.first: BatchStats | None = None
        self.last: BatchStats | None = None
        self._waiting: list[BatchStats | tuple[Any, ...]] = []

    def add(self, stats: BatchStats) -> None:
        """Count a boundary."""
        self._wait(stats)

    def add_raw(self, *measured: Any) -> None:
        """The same for what :func:`batch_stats` is given, an ``AneBatchStats`` as bytes. Costs next
        to nothing: they are added up some hundred at a time, and are small until then."""
        self._wait(measured)

    def _wait(self, one: BatchStats | tuple[Any, ...]) -> None:
        self._waiting.append(one)
        if len(self._waiting) >= 256:
            self.fold()

    def fold(self) -> None:
        """Add up what waits."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            stats = batch_stats(*one) if isinstance(one, tuple) else one
            self._fold(stats.__dict__)
            self.first, self.last = self.first or stats, stats

    def _fold(self, s: Mapping[str, Any]) -> None:
        self.loaded_most = max(self.loaded_most, s["programs_loaded"])
        if self.first is None:
            return
        self.batches += 1
        self.generations += s["submitted"]
        self.installed += s["swapped"]
        self.staleness_most = max(self.staleness_most, s["staleness"])
        sums, spread = self.sums, self.spread
        for name in _SUMMED:
            sums[name] += s[name]
        if s["swapped"]:
            for name in (*_STEPS, "compile_ms", "hidden_ms"):
                sums[name] += s[name]
        for name in _SPREAD:
            if s[name] is not None:
                spread[name].add(s[name])


@dataclass(frozen=True)
class TrainerReport:
    """What a trainer has done so far. ``print`` shows it as a table. Times in milliseconds; a
    value that was not measured is None.

    Attributes:
        engine: its name, says when it is software.
        kernels, programs, packing, packing_fallback: how the set is compiled; why packing was
            given up, None where it was not.
        staleness_bound, staleness, staleness_most: allowed (None: any), now, the most there was.
        batches: boundaries after the first generation. batch_ms, batch_p50_ms, batch_p99_ms: all
            of them together, and each.
        micro_steps, evals, evals_retried: all. evals_during_compile,
            micro_steps_during_compile: that ended while a generation was compiled which was
            installed later.
        generations, installed, failures: begun after the first one, in use since, failed.
        generation, newest: versions of the active set and of the newest weights.
        first_compile_ms: the first generation, which has to be waited for.
        compile_ms, compile_p50_ms, compile_p99_ms: background jobs of the generations that were
            installed; bake_ms, engine_compile_ms, load_ms, canary_ms: their parts.
        stall_ms, stall_p50_ms, stall_p99_ms: time the training thread lost at boundaries;
            wait_ms, snapshot_ms, swap_ms, submit_ms: its parts. stall_share: of batch_ms.
        hidden_ms, hidden_share: compile_ms that no boundary waited for.
        eval_…_p50_ms, eval_…_p99_ms: medians over the batches of their p50 and p99, with no
            compile running and beside one.
        updates, updates_skipped, optimizer_ms: in the background.
        background_cpu_ms, background_full_ms: see :class:`BatchStats`.
        programs_compiled, programs_reused, programs_by_workers: all generations but the first.
        compiles_used, compile_limit: of this process; None: no limit.
        programs_loaded, programs_loaded_most: of this process, now and the most at a boundary.
        workers: the pool's counters, None without workers.
        restarts: of this process by :mod:`ane_native.restart`.
    """

    engine: str
    kernels: int
    programs: int
    packing: str
    packing_fallback: str | None
    staleness_bound: int | None
    staleness: int
    staleness_most: int
    batches: int
    batch_ms: float
    batch_p50_ms: float | None
    batch_p99_ms: float | None
    micro_steps: int
    micro_steps_during_compile: int
    evals: int
    evals_retried: int
    evals_during_compile: int
    generations: int
    installed: int
    failures: int
    generation: int
    newest: int
    first_compile_ms: float | None
    compile_ms: float
    compile_p50_ms: float | None
    compile_p99_ms: float | None
    bake_ms: float
    engine_compile_ms: float
    load_ms: float
    canary_ms: float
    stall_ms: float
    stall_p50_ms: float | None
    stall_p99_ms: float | None
    wait_ms: float
    snapshot_ms: float
    swap_ms: float
    submit_ms: float
    stall_share: float | None
    hidden_ms: float
    hidden_share: float | None
    eval_idle_p50_ms: float | None
    eval_idle_p99_ms: float | None
    eval_compiling_p50_ms: float | None
    eval_compiling_p99_ms: float | None
    updates: int
    updates_skipped: int
    optimizer_ms: float
    background_cpu_ms: float
    background_full_ms: float
    programs_compiled: int
    programs_reused: int
    programs_by_workers: int
    compiles_used: int
    compile_limit: int | None
    programs_loaded: int
    programs_loaded_most: int
    workers: PoolStats | None
    restarts: int

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, for JSON."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Name and text of each line."""
        rows = [("engine", self.engine), *_set_rows(self), *_time_rows(self), *_work_rows(self)]
        return [(name, text) for name, text in rows if text]

    def __str__(self) -> str:
        rows = self.rows()
        wide = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(wide)}  {text}" for name, text in rows)


def make_report(
    totals: Totals,
    *,
    kernels: int,
    packing_fallback: str | None,
    staleness_bound: int | None,
    restarts: int,
) -> TrainerReport:
    """The report of boundaries added up; there was at least one."""
    totals.fold()
    first, last, sums, spread = totals.first, totals.last, totals.sums, totals.spread
    assert first is not None
    assert last is not None
    values: dict[str, Any] = {name: sums[name] for name in (*_SUMMED, *_STEPS, "compile_ms")}
    counts = {f.name for f in fields(TrainerReport) if f.type == "int"}
    values = {n: int(v) if n in counts else v for n, v in values.items()}
    for name in _SPREAD[:3]:
        short = {"compile_stall_ms": "stall_ms"}.get(name, name)[: -len("_ms")]
        for p in (50, 99):
            values[f"{short}_p{p}_ms"] = spread[name].percentile(p)
    values |= {name: spread[name].percentile(50) for name in _SPREAD[3:]}
    values["stall_ms"] = stall = values.pop("compile_stall_ms")
    wall, compiled, hidden = sums["batch_ms"], sums["compile_ms"], sums["hidden_ms"]
    left = last.budget_left
    return TrainerReport(
        engine=last.engine,
        kernels=kernels,
        programs=last.programs,
        packing=last.packing if packing_fallback is None else "one program for each kernel",
        packing_fallback=packing_fallback,
        staleness_bound=staleness_bound,
        staleness=last.staleness,
        staleness_most=totals.staleness_most,
        batches=totals.batches,
        generations=totals.generations,
        installed=totals.installed,
        failures=last.failures,
        generation=last.generation,
        newest=last.newest,
        first_compile_ms=first.compile_ms,
        stall_share=stall / wall if wall else None,
        hidden_ms=hidden,
        hidden_share=hidden / compiled if compiled else None,
        compiles_used=last.compiles_used,
        compile_limit=None if left is None else left + last.compiles_used,
        programs_loaded=last.programs_loaded,
        programs_loaded_most=totals.loaded_most,
        workers=last.workers,
        restarts=restarts,
        **values,
    )


# =============================== For people =====================================


def _ms(value: float | None) -> str:
    """Milliseconds as a person says them."""
    if value is None:
        return "-"
    if value >= 10_000:
        return f"{value / 1000:,.1f} s"
    if value >= 0.1 or value == 0:
        return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} ms"
    return f"{value * 1000:.1f} µs"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _many(count: int, one: str, several: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _parts(report: TrainerReport, names: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{said} {_ms(getattr(report, name))}" for name, said in names)


def _set_rows(r: TrainerReport) -> list[tuple[str, str]]:
    bound = "any number of" if r.staleness_bound is None else f"at most {r.staleness_bound}"
    packing = r.packing if r.packing_fallback is None else f"given up: {r.packing_fallback}"
    failed = f"; {r.failures} failed" if r.failures else ""
    return [
        ("programs", f"{_many(r.kernels, 'kernel')} in {_many(r.programs, 'program')}"),
        ("packing", packing if r.packing_fallback or r.programs < r.kernels else "off"),
        (
            "generations",
            f"{r.generations:,} begun after the first, {r.installed:,} installed{failed}; "
            f"running version {r.generation} of {r.newest}",
        ),
        (
            "staleness",
            f"{r.staleness} now, {r.staleness_most} at most so far; {bound} allowed",
        ),
    ]


def _time_rows(r: TrainerReport) -> list[tuple[str, str]]:
    if not r.batches:
        return [("first compile", f"{_ms(r.first_compile_ms)}; no batch has ended yet")]
    stall = [("wait_ms", "waiting"), ("snapshot_ms", "copying")]
    stall += [("swap_ms", "exchanging"), ("submit_ms", "handing over")]
    steps = [("bake_ms", "bake"), ("engine_compile_ms", "compile"), ("load_ms", "load")]
    rows = [
        (
            "batches",
            f"{r.batches:,} in {_ms(r.batch_ms)}; p50 {_ms(r.batch_p50_ms)}, "
            f"p99 {_ms(r.batch_p99_ms)}",
        ),
        (
            "stall",
            f"{_ms(r.stall_ms)}, {_share(r.stall_share)} of the time; p50 {_ms(r.stall_p50_ms)}, "
            f"p99 {_ms(r.stall_p99_ms)}; {_parts(r, stall)}",
        ),
    ]
    compiled = f"first {_ms(r.first_compile_ms)}"
    if r.installed:
        parts = _parts(r, [*steps, ("canary_ms", "canary")])
        compiled += (
            f"; then {_ms(r.compile_ms)} in {_many(r.installed, 'set')}: p50 "
            f"{_ms(r.compile_p50_ms)}, p99 {_ms(r.compile_p99_ms)}; {parts}"
        )
    rows.append(("compile", compiled))
    rows.append(("hidden", f"{_ms(r.hidden_ms)}, {_share(r.hidden_share)} of all compiling"))
    return rows


def _work_rows(r: TrainerReport) -> list[tuple[str, str]]:
    rows = []
    if r.batches:
        micro = f" and {_many(r.micro_steps_during_compile, 'micro-step')}" * bool(r.micro_steps)
        rows += [
            (
                "evaluations",
                f"{r.evals:,}: idle p50 {_ms(r.eval_idle_p50_ms)}, p99 {_ms(r.eval_idle_p99_ms)}; "
                f"while compiling p50 {_ms(r.eval_compiling_p50_ms)}, "
                f"p99 {_ms(r.eval_compiling_p99_ms)}; {r.evals_retried} tried again",
            ),
            ("overlap", f"{_many(r.evals_during_compile, 'evaluation')}{micro} beside a compile"),
        ]
    if r.updates:
        each = _ms(r.optimizer_ms / r.updates)
        rows.append(
            (
                "updates",
                f"{r.updates:,} in the background, {each} each; {r.updates_skipped} skipped",
            )
        )
    if r.background_cpu_ms:
        rows.append(
            (
                "background",
                f"{_ms(r.background_cpu_ms)} of processor time, "
                f"{_ms(r.background_full_ms)} at full priority",
            )
        )
    budget = f"{r.compiles_used:,} compiles used, no limit"
    if r.compile_limit is not None:
        left = r.compile_limit - r.compiles_used
        budget = f"{r.compiles_used:,} of {r.compile_limit:,} compiles used, {max(0, left):,} left"
    again = f"; restarted {_many(r.restarts, 'time')}" if r.restarts else ""
    rows += [
        ("budget", budget + again),
        (
            "made by",
            f"this process {r.programs_compiled:,}, workers {r.programs_by_workers:,}, "
            f"reused {r.programs_reused:,}" * bool(r.batches),
        ),
        ("loaded", f"{_many(r.programs_loaded, 'program')}, {r.programs_loaded_most:,} at most"),
        ("workers", "none" if r.workers is None else _workers(r.workers)),
    ]
    return rows


def _workers(w: PoolStats) -> str:
    lost = ", ".join(
        f"{count} {said}"
        for count, said in (
            (w.replaced, "replaced at the end of their budget"),
            (w.deaths, "died"),
            (w.hangs, "hung"),
            (w.bad_answers, "gave a wrong answer"),
        )
        if count
    )
    tried = f"{w.retries} retried, {w.fallbacks} compiled here instead"
    return (
        f"{w.alive} of {w.started} started alive{'; ' + lost if lost else ''}; "
        f"{w.compiles:,} compiled, {w.cached:,} cached, {tried}"
    )
