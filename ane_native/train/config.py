# SPDX-License-Identifier: MIT
"""Settings of a training run, and the named ones; see docs/TRAINING.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ane_native.errors import ConfigError
from ane_native.loggers import logger_names
from ane_native.models.llama import PRESETS
from ane_native.optim import LossScale
from ane_native.workers import MOST_WORKERS

__all__ = ["RUNS", "TrainConfig", "config_from"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; checked when made.

    Attributes:
        model: name in :data:`ane_native.models.llama.PRESETS`.
        data: corpus, see :func:`ane_native.data.open_corpus`; None: the standard library.
        vocab: vocabulary of a ``.bin`` corpus; None: the model's.
        compact_vocab: train only the tokens of a ``.bin`` corpus that occur in it.
        init: llama2.c model file to start from instead of random weights; None: random.
        include_tests: with the standard library, also its tests.
        updates: weight updates of the whole run.
        accumulate: micro-steps (windows) per update; ``"auto"``: the smallest number with which
            update and compile fit into a batch, measured once at the start of the run
            (:mod:`ane_native.train.adapt`).
        staleness: see :class:`DoubleBufferedTrainer`.
        lr, warmup, lr_floor: schedule, see :func:`ane_native.optim.warmup_cosine`.
        weight_decay, clip, beta1, beta2: see :class:`ane_native.optim.AdamW`.
        loss_scale, loss_scale_interval: see :class:`ane_native.optim.LossScale`.
        scaling: ``"auto"``: every baked matrix carries a power of two chosen from the ranges
            seen, and so do the gradients on the engine; ``loss_scale`` is then a constant of the
            fp32 gradients (docs/SCALING.md). ``"off"``: the loss scale alone.
        seed: of the initial weights and of the windows.
        valid_every: updates between two validations; 0: only at the start and the end.
        valid_windows: windows of a validation.
        save_every: updates between two checkpoints; 0: only at the end.
        sync_updates: updates with ``staleness=0`` after the run, to compare stalls.
        sample_tokens: length of the sample printed after the run; 0: none.
        compile_limit: compiles this process may make; None: softane's limit is lifted,
            Apple's is what it is. 0: none is counted.
        budget_end: when the process cannot compile another set: ``"restart"`` executes the
            same command again (:mod:`ane_native.restart`), ``"stop"`` saves and ends.
        workers: processes that compile (:class:`ane_native.workers.WorkerPool`): a number, "auto",
            or 0: this process compiles. With workers softane's limit is not lifted.
        packing: kernels in few programs: ``"auto"``, ``"off"``, or about how many programs; None:
            off, unless ``strategy`` chooses. The weights are the same to the bit.
        strategy: None, or ``"auto"``: how the budget is lived with is chosen from what the
            probe measured (:mod:`ane_native.strategy`); replaces ``budget_end``, and sets
            ``workers`` and ``packing`` where none was asked for. softane's limit is not lifted.
        timing: softane's timing ("off", "m4", ...); None leaves it as it is.
        log: "tensorboard", "wandb" or both with a comma: they get every record, too
            (:mod:`ane_native.loggers`).
        trace_events: events kept in trace.json; 0: no trace.
        update: where AdamW runs: ``"background"``, in the job that compiles its result, or
            ``"foreground"``, before the boundary. The weights are the same to the bit with
            ``staleness`` 0 and 1.
        overlap_exact: with ``staleness=0``, ``clip=0`` and ``update="foreground"``: run AdamW and
            begin compiles for each layer as its gradients become final
            (:mod:`ane_native.train.overlap`). The weights are the same to the bit.
        extrapolate: with ``staleness`` other than 0: make kernels from the weights predicted for
            the update they will first be used at, ``w + s (w - w_previous)``, s the delay
            (docs/STALENESS.md). Checkpoints and results are the masters all the same.
        overlap_gradients: queue weight gradients while the backward chain runs.
        cut: ``"layers"``: four kernels a layer, cut by hand; ``"auto"``: the model as a graph, cut by
            the cost model with the limits of this engine (docs/PARTITION.md). The weights differ by
            roundings.
    """

    model: str = "demo"
    data: str | None = None
    vocab: int | None = None
    compact_vocab: bool = False
    init: str | None = None
    include_tests: bool = False
    updates: int = 480
    accumulate: int | str = 6
    staleness: int | None = 1
    lr: float = 4e-4
    warmup: int = 20
    lr_floor: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    beta1: float = 0.7
    beta2: float = 0.95
    loss_scale: float = 1024.0
    loss_scale_interval: int = 200
    seed: int = 0
    valid_every: int = 25
    valid_windows: int = 24
    save_every: int = 0
    sync_updates: int = 0
    sample_tokens: int = 0
    compile_limit: int | None = None
    budget_end: str = "restart"
    workers: int | str = 0
    packing: int | str | None = None
    strategy: str | None = None
    timing: str | None = None
    log: str | None = None
    trace_events: int = 60_000
    update: str = "background"
    overlap_exact: bool = True
    extrapolate: bool = True
    overlap_gradients: bool = True
    scaling: str = "off"
    cut: str = "layers"

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or self.model not in PRESETS:
            raise ConfigError(f"model: expected one of {', '.join(PRESETS)}, got {self.model!r}")
        least = {"updates": 1, "accumulate": 1, "valid_windows": 1}
        least |= dict.fromkeys(
            ("warmup", "valid_every", "save_every", "sync_updates", "sample_tokens", "seed"), 0
        )
        least |= {"trace_events": 0, "loss_scale_interval": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if name == "accumulate" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name}: expected {low} or more, got {value!r}")
        for name in ("staleness", "compile_limit"):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 0
            ):
                raise ConfigError(f"{name}: expected 0 or more, or none, got {value!r}")
        for name in ("lr", "lr_floor", "weight_decay", "clip", "beta1", "beta2", "loss_scale"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"{name}: expected a number, got {value!r}")
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: expected 0 or more, got {value!r}")
        for name in ("data", "timing", "init", "log"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name}: expected a text or none, got {value!r}")
        if self.vocab is not None and (
            isinstance(self.vocab, bool) or not isinstance(self.vocab, int) or self.vocab < 1
        ):
            raise ConfigError(f"vocab: expected 1 or more, or none, got {self.vocab!r}")
        if self.data == "":
            raise ConfigError("data: expected a file or a directory, got ''")
        if self.workers != "auto" and (
            isinstance(self.workers, bool)
            or not isinstance(self.workers, int)
            or not 0 <= self.workers <= MOST_WORKERS
        ):
            raise ConfigError(
                f"workers: expected 0 to {MOST_WORKERS} or auto, got {self.workers!r}"
            )
        logger_names(self.log)
        for name in (
            *("overlap_exact", "extrapolate", "overlap_gradients"),
            *("compact_vocab", "include_tests"),
        ):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}: expected true or false, got {getattr(self, name)!r}")
        if self.packing not in (None, "auto", "off") and (
            isinstance(self.packing, bool) or not isinstance(self.packing, int) or self.packing < 1
        ):
            raise ConfigError(f"packing: expected auto, off or 1 or more, got {self.packing!r}")
        if self.accumulate == "auto" and self.staleness == 0:
            raise ConfigError(
                "accumulate: auto needs a staleness of 1 or more: with 0 every compile is waited for"
            )
        if self.update not in ("background", "foreground"):
            raise ConfigError(f"update: expected background or foreground, got {self.update!r}")
        if self.scaling not in ("auto", "off"):
            raise ConfigError(f"scaling: expected auto or off, got {self.scaling!r}")
        if self.cut not in ("layers", "auto"):
            raise ConfigError(f"cut: expected layers or auto, got {self.cut!r}")
        if self.cut == "auto" and self.scaling == "auto":
            raise ConfigError("scaling: auto needs kernels cut by layers, got cut auto")
        if self.budget_end not in ("restart", "stop"):
            raise ConfigError(f"budget_end: expected restart or stop, got {self.budget_end!r}")
        if self.strategy not in (None, "auto"):
            raise ConfigError(f"strategy: expected auto or none, got {self.strategy!r}")
        if self.lr == 0:
            raise ConfigError("lr: expected more than 0, got 0")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name}: expected less than 1, got {getattr(self, name)!r}")
        LossScale(self.loss_scale)  # refuses what is no power of two

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, for JSON."""
        return dataclasses.asdict(self)


RUNS: dict[str, TrainConfig] = {
    "demo": TrainConfig(sync_updates=10, sample_tokens=200),
    "tiny": TrainConfig(
        model="tiny", updates=20, accumulate=2, warmup=5, valid_every=10, valid_windows=8
    ),
    **{
        name: TrainConfig(
            model=name,
            updates=1000,
            accumulate=16,
            compact_vocab=True,
            lr=5e-4,
            warmup=100,
            beta1=0.9,
            save_every=50,
        )
        for name in ("stories15m", "stories42m", "stories110m", "qwen3-0.6b")
    },
}
"""Named settings of runs: ``--preset`` of the command line."""


def config_from(values: Mapping[str, Any], where: object) -> TrainConfig:
    """A configuration from JSON.

    Raises:
        ConfigError: unknown or unusable settings; names `where` they stand.
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown settings {', '.join(unknown)}")
    try:
        return TrainConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
