# SPDX-License-Identifier: MIT
"""What a run decides for itself: ``strategy="auto"`` and ``accumulate="auto"``.

The smallest accumulation. While a batch runs, one background job updates the weights and
compiles them. With a bound of n the job has n batches; so a boundary waits for nothing when

    accumulate >= margin * (update + compile) / (n * micro-step)

and the smallest whole number is taken. Times are measured once, at the start of a run: the
compile of the first set, an update on one thread, some micro-steps. Where the engine had the
first set already (its cache outlives processes) the probe's line says what a compile takes. The
result is kept in the checkpoint, and a run that goes on uses that: it may not depend on timing.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ane_native import probe, strategy
from ane_native.data import Window
from ane_native.engine import Engine
from ane_native.errors import ConfigError, StateError
from ane_native.microstep import MicroStep
from ane_native.optim import AdamW
from ane_native.packing import LIMITS, Limits, predicted_ms
from ane_native.restart import Restarted
from ane_native.scheduler import DoubleBufferedTrainer
from ane_native.train.config import TrainConfig

__all__ = ["Fit", "Settings", "decide", "fit", "fit_to"]

MARGIN = 1.1  # of the job: micro-steps beside a compile are a little slower, and so is it
MOST = 4096  # micro-steps of a batch; who needs more needs another strategy
LAPS, LEAST_S = 12, 0.3  # micro-steps measured: until either is reached, three at least

# =============================== strategy="auto" ================================


@dataclass(frozen=True)
class Settings:
    """What a run works with after its decisions.

    Attributes:
        config: with ``workers``, ``packing`` and ``budget_end`` as decided.
        limits: of packing.
    """

    config: TrainConfig
    limits: Limits = LIMITS

    def as_dict(self) -> dict[str, Any]:
        """What the next process of the same run is told."""
        decided = ("workers", "packing", "budget_end")
        return {
            "config": {name: getattr(self.config, name) for name in decided},
            "limits": dataclasses.asdict(self.limits),
        }


def decide(
    config: TrainConfig, engine: Engine, begun: Restarted | None, say: Callable[[str], None]
) -> Settings:
    """Settle ``strategy="auto"`` and say what was chosen and why.

    Args:
        begun: what the process before this one handed over: its decisions are kept.
        say: shows a line to the user.
    """
    if begun is not None:
        told = begun.keep.get("settings")
        if isinstance(told, dict):
            return Settings(dataclasses.replace(config, **told["config"]), Limits(**told["limits"]))
        return Settings(config)
    if config.strategy != "auto":
        return Settings(config)
    chosen = strategy.auto(engine)
    say(f"strategy {chosen}")
    packing = config.packing or ("auto" if chosen.packing else "off")
    workers = config.workers or ("auto" if chosen.budget == "workers" else 0)
    way = "stop" if chosen.budget == "stop" else "restart"
    return Settings(
        dataclasses.replace(config, budget_end=way, workers=workers, packing=packing),
        chosen.limits,
    )


# =============================== accumulate="auto" ==============================


@dataclass(frozen=True)
class Fit:
    """A decision.

    Attributes:
        accumulate: micro-steps of a batch.
        why: the times it was made from.
    """

    accumulate: int
    why: str


def fit(job_ms: float, micro_step_ms: float, staleness: int | None) -> int:
    """The smallest accumulation that hides a background job.

    Args:
        job_ms: update and compile.
        micro_step_ms: one micro-step.
        staleness: bound; None: the job is to fit into one batch, else the lag would grow.

    Raises:
        ConfigError: with 0 every compile is waited for, whatever the accumulation.
    """
    if staleness == 0:
        raise ConfigError(
            "accumulate: auto needs a staleness of 1 or more: with 0 every compile is waited for"
        )
    if not (micro_step_ms > 0 and job_ms >= 0):
        raise ConfigError(f"accumulate: auto cannot use {job_ms} ms and {micro_step_ms} ms")
    batches = 1 if staleness is None else staleness
    return min(MOST, max(1, math.ceil(MARGIN * job_ms / (micro_step_ms * batches))))


def _micro_step_ms(step: MicroStep, windows: Sequence[Window], loss_scale: float) -> float:
    """The median of some micro-steps after a first one. Adds to the gradients."""
    laps: list[float] = []
    begin = time.monotonic()
    while len(laps) < 4 or (len(laps) < LAPS and time.monotonic() - begin < LEAST_S):
        at = time.perf_counter_ns()
        step(*windows[len(laps) % len(windows)], loss_scale)
        laps.append((time.perf_counter_ns() - at) / 1e6)
    return statistics.median(laps[1:])


def _compile_ms(trainer: DoubleBufferedTrainer, engine: Engine) -> tuple[float, str]:
    """What a set takes to compile, and how that is known."""
    stats = trainer.stats
    assert stats is not None
    assert stats.compile_ms is not None
    made = stats.programs_compiled + stats.programs_by_workers
    if made == stats.programs:
        return stats.compile_ms, f"a set compiles in {stats.compile_ms:,.1f} ms, as the first did"
    limits = strategy.costs(probe.find(engine))
    source = "the probe"
    if limits is None:
        limits = strategy.costs(strategy.measured(engine))
        source = "a probe made now"
    if limits is not None:
        sizes = {name: w.size for name, w in trainer.active_weights.items()}
        rest = stats.compile_ms - (stats.engine_compile_ms or 0.0)
        ms = predicted_ms(trainer.packing, trainer.kernels, sizes, limits) + rest
        return ms, f"a set compiles in {ms:,.1f} ms by {source} (the engine had the first already)"
    if made:
        ms = stats.compile_ms * stats.programs / made
        return ms, f"a set compiles in {ms:,.1f} ms, by {made} programs of {stats.programs}"
    return stats.compile_ms, (
        f"the engine had the first set already and no probe has measured a compile: "
        f"{stats.compile_ms:,.1f} ms are too little"
    )


def fit_to(
    config: TrainConfig,
    trainer: DoubleBufferedTrainer,
    step: MicroStep,
    optimizer: AdamW,
    windows: Sequence[Window],
    engine: Engine,
) -> Fit:
    """Measure, and choose the accumulation of a run. Gradients are zero afterwards, and the
    weights, moments and the order of the windows are as before.

    Raises:
        ConfigError: see :func:`fit`.
    """
    fit(0.0, 1.0, config.staleness)  # before anything is measured
    compile_ms, how = _compile_ms(trainer, engine)
    micro_ms = _micro_step_ms(step, windows, config.loss_scale)
    optimizer.zero_grads()
    update_ms, said = 0.0, ""
    if config.update == "background":
        try:
            update_ms = optimizer.rehearse()
            said = f" and an update takes {update_ms:,.1f} ms"
        except StateError:  # a checkpoint that does not say what was chosen
            said = " (an update was not measured)"
    chosen = fit(compile_ms + update_ms, micro_ms, config.staleness)
    many = config.staleness or 1
    into = "a batch" if many == 1 else f"{many} batches"
    why = f"{how}{said}, a micro-step {micro_ms:,.2f} ms; with {chosen} it fits into {into}"
    if MARGIN * (compile_ms + update_ms) > chosen * micro_ms * many:
        why += f", not quite: more than {MOST} are not used"
    return Fit(chosen, why)
