# SPDX-License-Identifier: MIT
"""What a checkpoint of a run holds, and how a run goes on from one.

Tensors: the newest masters, AdamW's moments ``m.NAME`` and ``v.NAME``; where the engine was
running on other weights those, ``active.NAME``; where the newest version was handed over as a
prediction that does not run yet, ``baked.NAME``. state.json: the rest (:class:`Position`, the
model, the corpus, numbers of the optimizer).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ane_native.checkpoint import Checkpoint, save_checkpoint
from ane_native.data import Corpus, WindowSampler
from ane_native.errors import AneError, CheckpointError
from ane_native.models.llama import LlamaConfig
from ane_native.optim import AdamW

__all__ = ["EngineState", "Position", "restore", "save"]

ACTIVE, BAKED = "active.", "baked."


@dataclass(frozen=True)
class EngineState:
    """What the kernels were made from.

    Attributes:
        active: weights the next batch runs on; None: the newest masters as they are.
        baked: weights the newest version was handed over as, where that one does not run yet;
            None: the masters.
        lags: whether a newer version than the active one was handed over.
    """

    active: Mapping[str, Any] | None
    baked: Mapping[str, Any] | None
    lags: bool


@dataclass(frozen=True)
class Position:
    """Where a run stands between two batches.

    Attributes:
        updates: done so far.
        windows: state of the sampler, for the next batch.
        batch_scale: loss scale of the next batch.
        engine: what the kernels were made from.
        scales: state of the powers of two; None: there are none.
        accumulate: micro-steps of a batch; 0 in a checkpoint that does not say.
    """

    updates: int
    windows: Mapping[str, Any]
    batch_scale: float
    engine: EngineState
    scales: Mapping[str, Any] | None = None
    accumulate: int = 0


def save(folder: Path, at: Position, optimizer: AdamW, model: LlamaConfig, corpus: Corpus) -> Path:
    """Write a checkpoint of a settled optimizer; returns its directory."""
    tensors, numbers = optimizer.state_dict()
    for prefix, weights in ((ACTIVE, at.engine.active), (BAKED, at.engine.baked)):
        if weights is not None:
            tensors |= {f"{prefix}{name}": weights[name] for name in optimizer.params}
    state = {
        "updates": at.updates,
        "model": dataclasses.asdict(model),
        "corpus": corpus.fingerprint,
        "windows": at.windows,
        "optimizer": numbers,
        "vocabulary": None if corpus.compaction is None else corpus.compaction.state(),
        "active_lags": at.engine.lags,
        "batch_scale": at.batch_scale,
        "scales": at.scales,
        "accumulate": at.accumulate,
    }
    return save_checkpoint(folder / "checkpoints", at.updates, optimizer.params, tensors, state)


def restore(checkpoint: Checkpoint, optimizer: AdamW, sampler: WindowSampler) -> Position:
    """Take over a checkpoint.

    Raises:
        CheckpointError: something in it is missing or does not fit.
    """
    state = checkpoint.state
    tensors = checkpoint.optimizer
    moments = {n: t for n, t in tensors.items() if not n.startswith((ACTIVE, BAKED))}
    try:
        optimizer.load_state_dict(checkpoint.weights, moments, state["optimizer"])
        sampler.load_state_dict(state["windows"])
        updates, lags = int(state["updates"]), bool(state["active_lags"])
        batch_scale = float(state.get("batch_scale", optimizer.loss_scale.scale))
        accumulate = int(state.get("accumulate", 0))
        if accumulate < 0:
            raise ValueError(f"accumulate: expected 0 or more, got {accumulate}")
    except (KeyError, TypeError, ValueError, AneError) as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    found = []
    for prefix, what in ((ACTIVE, "active"), (BAKED, "pending")):
        part = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        if (part or (lags and prefix == ACTIVE)) and part.keys() != optimizer.params.keys():
            raise CheckpointError(
                f"{checkpoint.path}: weights of the {what} generation are missing"
            )
        found.append(part or None)
    engine = EngineState(found[0], found[1], lags)
    return Position(updates, state["windows"], batch_scale, engine, state.get("scales"), accumulate)
