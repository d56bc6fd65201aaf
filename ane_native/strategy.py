# SPDX-License-Identifier: MIT
"""How a run lives with the limits of this engine, chosen from what the probe measured.

:func:`choose` is pure: a report and a few facts in, a decision with its reasons out.
:func:`measured` finds the stored report of this engine, or makes the quick probe once.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection
from dataclasses import dataclass

from ane_native import probe, restart
from ane_native.engine import Engine
from ane_native.packing import LIMITS, Limits
from ane_native.probe import Report
from ane_native.scheduler import DoubleBufferedTrainer

__all__ = ["Strategy", "abilities", "auto", "choose", "costs", "measured"]

# What a choice needs to know; the probe's other experiments are not run for it.
NEEDED = ("compile-limit", "loaded-limit", "cross-process", "procedures", "compile-cost")


@dataclass(frozen=True)
class Strategy:
    """A decision.

    Attributes:
        budget: ``none`` (nothing needs to be done), ``workers``, ``restart`` or ``stop``.
        packing: several kernels go into one program.
        limits: what a program may hold and what compiling costs, for ``packing_limits`` of the
            trainer.
        reasons: why, one sentence each, in the order they were weighed.
    """

    budget: str
    packing: bool
    reasons: tuple[str, ...]
    limits: Limits = LIMITS

    def __str__(self) -> str:
        return f"{self.budget}{', packing' if self.packing else ''}: {'; '.join(self.reasons)}"


def abilities() -> frozenset[str]:
    """What the trainer of this build can be asked for: of ``workers`` and ``packing``."""
    known = inspect.signature(DoubleBufferedTrainer.__init__).parameters
    return frozenset(name for name in ("workers", "packing") if name in known)


# =============================== Packing ========================================


def costs(report: Report | None) -> Limits | None:
    """What compiling costs by the probe's ``compile-cost``; None where it has not measured a line
    that makes sense (compiles that take next to no time are not one)."""
    if report is None:
        return None
    found = [report.value("compile-cost", key) for key in ("base_ms", "op_ms", "mib_ms")]
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in found):
        return None
    base, operation, mib = (float(v) for v in found)
    if report.value("compile-cost", "fits"):  # a share below zero is noise
        operation, mib = max(0.0, operation), max(0.0, mib)
    if not (base > 0 and operation >= 0 and mib >= 0 and operation + mib > 0):
        return None
    return dataclasses.replace(LIMITS, fixed_ms=base, operation_ms=operation, mib_ms=mib)


def _packing(report: Report, able: Collection[str]) -> tuple[bool, Limits, list[str]]:
    """Whether to pack, within which limits, and why."""
    row = report.row("procedures")
    if row is None or row["status"] != "measured":
        what = "were not tried" if row is None else f"could not be tried ({row['status']})"
        return (
            False,
            LIMITS,
            [f"no packing, the safe choice: several kernels in one program {what}"],
        )
    if not report.value("procedures", "works"):
        return False, LIMITS, ["no packing: several kernels in one program do not work here"]
    if "packing" not in able:
        return False, LIMITS, ["procedures of one program are told apart, not in this build"]
    limits = costs(report) or LIMITS
    reasons = []
    most = report.value("procedures", "most")
    if isinstance(most, int) and most >= 2:
        limits = dataclasses.replace(limits, procedures=min(most, LIMITS.procedures))
        reasons.append(
            f"packing: procedures of one program are told apart, {most} in one worked"
            + (f" ({limits.procedures} are used)" if limits.procedures < most else "")
        )
    else:
        reasons.append("packing: procedures of one program are told apart")
    loaded = report.value("loaded-limit", "limit")
    if isinstance(loaded, int) and 4 <= loaded < LIMITS.loaded:
        limits = dataclasses.replace(limits, loaded=loaded)
        reasons.append(f"{loaded} programs loaded at most, two sets must fit")
    if costs(report) is None:
        reasons.append("what a compile costs by size was not measured: figures of an M4 decide")
    else:
        reasons.append(
            f"a compile costs {limits.fixed_ms:.2f} ms + {limits.operation_ms:.3f} an operation "
            f"+ {limits.mib_ms:.2f} a MiB"
        )
    return True, limits, reasons


# =============================== The decision ===================================


def choose(
    report: Report, *, compile_limit: int | None, able: Collection[str], refused: str | None
) -> Strategy:
    """Decide.

    Args:
        report: of the probe; what it did not measure counts as not possible.
        compile_limit: compiles a process has; None: no limit.
        able: see :func:`abilities`.
        refused: why this process may not be restarted, see :func:`restart.why_not`.
    """
    packing, limits, reasons = _packing(report, able)

    def made(budget: str, why: str) -> Strategy:
        return Strategy(budget, packing, (*reasons, why), limits)

    if compile_limit is None:
        return made("none", "no limit of compiles")
    reasons.append(f"{compile_limit} compiles per process")
    if report.value("cross-process", "works"):
        if "workers" in able:
            return made("workers", "programs of another process load")
        reasons.append("programs of another process load, but this build has no workers")
    else:
        reasons.append("programs of another process were not shown to load here")
    if refused is None:
        return made("restart", "the process may be replaced")
    return made("stop", f"no restart: {refused}")


def measured(engine: Engine) -> Report:
    """The stored report of this engine and OS build; what a choice needs and it does not hold is
    made now (some seconds) and kept."""
    found = probe.find(engine)
    missing = [n for n in NEEDED if found is None or found.row(n) is None]
    if missing:
        made = probe.run(only=missing, quick=True)
        if found is not None:
            made = Report(made.about, [*found.rows, *made.rows])
        probe.remember(engine, made)
        found = made
    assert found is not None
    return found


def auto(engine: Engine) -> Strategy:
    """The decision for this process on this engine."""
    limit = engine.info()["compile_limit"]
    return choose(
        measured(engine),
        compile_limit=None if limit is None else int(str(limit)),
        able=abilities(),
        refused=restart.why_not(),
    )
