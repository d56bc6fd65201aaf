# SPDX-License-Identifier: MIT
"""Loss of a finished model on a corpus: the forward kernels, compiled once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ane_native import cpu
from ane_native.data import Window, fixed_windows, open_corpus
from ane_native.errors import ConfigError, DataError
from ane_native.generate import engine_forward, load_model

__all__ = ["Evaluation", "evaluate_checkpoint"]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_checkpoint` found.

    Attributes:
        loss: mean, nats per token.
        error: standard error of the mean, from the spread over the windows.
        windows, tokens: how many were scored.
        corpus: description of it.
    """

    loss: float
    error: float
    windows: int
    tokens: int
    corpus: str

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(self.loss)


def evaluate_checkpoint(
    path: str | os.PathLike[str],
    data: str | None = None,
    *,
    windows: int = 0,
    part: str = "valid",
) -> Evaluation:
    """Score a model on windows that do not overlap.

    Args:
        path: what :func:`ane_native.generate.load_model` takes.
        data: corpus, see :func:`ane_native.data.open_corpus`; None: the standard library.
        windows: how many, spread evenly; 0: all there are.
        part: "valid" or "train" of the corpus, cut as a training run cuts it.

    Raises:
        CheckpointError, DataError: what the message says; a token that the model has no row for
            is a DataError.
    """
    if part not in ("valid", "train"):
        raise ConfigError(f"part: expected valid or train, got {part!r}")
    if windows < 0:
        raise ConfigError(f"windows: expected 0 or more, got {windows}")
    config, weights, compaction = load_model(path)
    is_tokens = data is not None and data.endswith(".bin")
    vocab = (config.vocab if compaction is None else compaction.size) if is_tokens else None
    corpus = open_corpus(data, seq=config.seq, vocab=vocab)
    if not is_tokens and compaction is None and config.vocab < 256:
        raise DataError(f"data: expected a .bin file of at most {config.vocab} tokens, got bytes")
    lookup = None
    if compaction is not None:
        lookup = np.full(max(compaction.size, 256), -1, np.int32)
        lookup[compaction.kept] = np.arange(len(compaction), dtype=np.int32)
        used = np.unique(getattr(corpus, part))
        missing = used[lookup[used] < 0]
        if missing.size:
            raise DataError(
                f"data: {missing.size} tokens, the first {int(missing[0])}, did not occur in the "
                "corpus of the training run, and the model has no rows for them"
            )
    tokens = getattr(corpus, part)
    most = max(1, (len(tokens) - 1) // config.seq)
    chosen = fixed_windows(tokens, config.seq, windows or most, lookup)
    with engine_forward(config, weights) as forward:
        losses = np.array(list(_losses(forward, chosen)))
    error = float(losses.std(ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else math.nan
    return Evaluation(
        float(losses.mean()), error, len(losses), len(losses) * config.seq, corpus.describe()
    )


def _losses(forward: object, windows: list[Window]) -> Iterator[float]:
    assert callable(forward)
    for tokens, targets in windows:
        yield cpu.cross_entropy(forward(tokens), targets)
