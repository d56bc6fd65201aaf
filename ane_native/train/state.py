# SPDX-License-Identifier: MIT
"""What a checkpoint of a run holds, and how a run goes on from one.

Tensors: the newest masters, AdamW's moments ``m.NAME`` and ``v.NAME``, and where the engine was
running on other weights those, ``active.NAME``. state.json: the rest (:class:`Position`, the
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

__all__ = ["Position", "restore", "save"]

ACTIVE = "active."


@dataclass(frozen=True)
class Position:
    """Where a run stands between two batches.

    Attributes:
        updates: done so far.
        windows: state of the sampler, for the next batch.
        batch_scale: loss scale of the next batch.
        active: weights the next batch runs on; None: the newest masters.
    """

    updates: int
    windows: Mapping[str, Any]
    batch_scale: float
    active: Mapping[str, Any] | None


def save(folder: Path, at: Position, optimizer: AdamW, model: LlamaConfig, corpus: Corpus) -> Path:
    """Write a checkpoint of a settled optimizer; returns its directory."""
    tensors, numbers = optimizer.state_dict()
    if at.active is not None:
        tensors |= {f"{ACTIVE}{name}": at.active[name] for name in optimizer.params}
    state = {
        "updates": at.updates,
        "model": dataclasses.asdict(model),
        "corpus": corpus.fingerprint,
        "windows": at.windows,
        "optimizer": numbers,
        "vocabulary": None if corpus.compaction is None else corpus.compaction.state(),
        "active_lags": at.active is not None,
        "batch_scale": at.batch_scale,
    }
    return save_checkpoint(folder / "checkpoints", at.updates, optimizer.params, tensors, state)


def restore(checkpoint: Checkpoint, optimizer: AdamW, sampler: WindowSampler) -> Position:
    """Take over a checkpoint.

    Raises:
        CheckpointError: something in it is missing or does not fit.
    """
    state = checkpoint.state
    tensors = checkpoint.optimizer
    moments = {n: t for n, t in tensors.items() if not n.startswith(ACTIVE)}
    try:
        optimizer.load_state_dict(checkpoint.weights, moments, state["optimizer"])
        sampler.load_state_dict(state["windows"])
        updates, lags = int(state["updates"]), bool(state["active_lags"])
        batch_scale = float(state.get("batch_scale", optimizer.loss_scale.scale))
    except (KeyError, TypeError, ValueError, AneError) as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error
    active = {n[len(ACTIVE) :]: t for n, t in tensors.items() if n.startswith(ACTIVE)}
    if lags and active.keys() != optimizer.params.keys():
        raise CheckpointError(
            f"{checkpoint.path}: the weights of the active generation are missing"
        )
    return Position(updates, state["windows"], batch_scale, active if lags else None)
