# SPDX-License-Identifier: MIT
"""How a run lives with the compile budget of this engine, chosen from what the probe measured.

:func:`choose` is pure: a report and a few facts in, a decision with its reasons out.
:func:`measured` finds the stored report of this engine, or makes the quick probe once.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass

from ane_native import probe, restart
from ane_native.engine import Engine
from ane_native.probe import Report
from ane_native.scheduler import DoubleBufferedTrainer

__all__ = ["Strategy", "abilities", "choose", "measured"]

# What a choice needs to know; the probe's other experiments are not run for it.
NEEDED = ("compile-limit", "loaded-limit", "cross-process", "procedures")


@dataclass(frozen=True)
class Strategy:
    """A decision.

    Attributes:
        budget: ``none`` (nothing needs to be done), ``workers``, ``restart`` or ``stop``.
        packing: several kernels go into one program.
        reasons: why, one sentence each, in the order they were weighed.
    """

    budget: str
    packing: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.budget}{', packing' if self.packing else ''}: {'; '.join(self.reasons)}"


def abilities() -> frozenset[str]:
    """What the trainer of this build can be asked for: of ``workers`` and ``packing``."""
    known = inspect.signature(DoubleBufferedTrainer.__init__).parameters
    return frozenset(name for name in ("workers", "packing") if name in known)


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
    reasons = []
    packing = False
    if report.value("procedures", "works"):
        packing = "packing" in able
        reasons.append(
            "procedures of one program are told apart" + ("" if packing else ", not in this build")
        )
    else:
        reasons.append("several kernels in one program were not shown to work here")
    if compile_limit is None:
        return Strategy("none", packing, (*reasons, "no limit of compiles"))
    reasons.append(f"{compile_limit} compiles per process")
    if report.value("cross-process", "works"):
        if "workers" in able:
            return Strategy("workers", packing, (*reasons, "programs of another process load"))
        reasons.append("programs of another process load, but this build has no workers")
    else:
        reasons.append("programs of another process were not shown to load here")
    if refused is None:
        return Strategy("restart", packing, (*reasons, "the process may be replaced"))
    return Strategy("stop", packing, (*reasons, f"no restart: {refused}"))


def measured(engine: Engine) -> Report:
    """The stored report of this engine and OS build; without one, the needed experiments are
    made now (some seconds) and kept."""
    found = probe.find(engine)
    if found is None:
        found = probe.run(only=NEEDED, quick=True)
        probe.remember(engine, found)
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
