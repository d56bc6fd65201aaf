# SPDX-License-Identifier: MIT
"""Vocabulary compaction: train only the tokens that occur, and undo it on export.

A corpus of one domain uses part of a tokenizer's vocabulary. The rows of the embedding and
of the classifier that it never touches cost time and memory in every micro-step. A
:class:`Compaction` numbers the tokens that occur from 0 up, in ascending order, together with
a few that do not: so that their count is a multiple of 32, and so that at least one row learns
what it means never to be the answer. On export that row stands for every token left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.errors import CheckpointError, ConfigError

__all__ = ["Compaction"]

MULTIPLE = 32

Ids = npt.NDArray[np.int32]


class Compaction:
    """An exact map between the tokens of a vocabulary and those that are trained.

    Args:
        size: tokens of the whole vocabulary, V.
        kept: token ids that are trained, ascending, int32.
        unused: position in `kept` of one that does not occur; None: all of V are kept.

    Attributes:
        lookup: int32 [V], the trained number of a token, -1 for one left out.

    Raises:
        ValueError: ids that are not ascending or outside the vocabulary.
    """

    def __init__(self, size: int, kept: Ids, unused: int | None) -> None:
        kept = np.asarray(kept, np.int32)
        if kept.ndim != 1 or not len(kept) or np.any(np.diff(kept) <= 0):
            raise ValueError("kept: expected token ids in ascending order")
        if kept[0] < 0 or kept[-1] >= size:
            raise ValueError(f"kept: expected ids of 0 to {size - 1}, got {kept[0]} to {kept[-1]}")
        if unused is None and len(kept) != size:
            raise ValueError("unused: expected a position, because tokens are left out")
        if unused is not None and not 0 <= unused < len(kept):
            raise ValueError(f"unused: expected 0 to {len(kept) - 1}, got {unused}")
        self.size, self.kept, self.unused = size, kept, unused
        self.lookup = np.full(size, -1, np.int32)
        self.lookup[kept] = np.arange(len(kept), dtype=np.int32)

    @classmethod
    def of_counts(cls, counts: npt.NDArray[np.integer[Any]]) -> Compaction:
        """From how often each token of the vocabulary occurs."""
        size = len(counts)
        occurs = np.flatnonzero(counts)
        wanted = min(size, -(-(len(occurs) + 1) // MULTIPLE) * MULTIPLE)
        spare = np.flatnonzero(counts == 0)[: wanted - len(occurs)]
        kept = np.sort(np.concatenate([occurs, spare])).astype(np.int32)
        unused = int(np.searchsorted(kept, spare[0])) if len(kept) < size else None
        return cls(size, kept, unused)

    def __len__(self) -> int:
        return len(self.kept)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compaction) and self.state() == other.state()

    __hash__ = None  # type: ignore[assignment]

    # ------------------------------ tokens and rows ------------------------------

    def compact(self, tokens: npt.ArrayLike) -> Ids:
        """Tokens by their trained numbers.

        Raises:
            ConfigError: one that is outside the vocabulary or was not trained.
        """
        given = np.asarray(tokens, np.int64)
        outside = (given < 0) | (given >= self.size)
        made = np.where(outside, -1, self.lookup[np.where(outside, 0, given)])
        if np.any(made < 0):
            token = int(given[made < 0][0])
            raise ConfigError(f"token {token}: the model was trained without it")
        return made.astype(np.int32)

    def expand(self, tokens: npt.ArrayLike) -> Ids:
        """The tokens of trained numbers."""
        return np.asarray(self.kept[np.asarray(tokens, np.int64)], np.int32)

    def take_rows(self, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[V, D] -> [kept, D], a copy."""
        if table.shape[0] != self.size:
            raise ValueError(f"table: expected {self.size} rows, got {table.shape[0]}")
        return np.ascontiguousarray(table[self.kept])

    def expand_rows(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[kept, D] -> [V, D]; tokens left out get the row of one that never occurred."""
        if rows.shape[0] != len(self.kept):
            raise ValueError(f"rows: expected {len(self.kept)}, got {rows.shape[0]}")
        table = np.empty((self.size, *rows.shape[1:]), rows.dtype)
        if self.unused is not None:
            table[:] = rows[self.unused]
        table[self.kept] = rows
        return table

    # ------------------------------ state ------------------------------

    def state(self) -> dict[str, Any]:
        """Plain numbers, fit for JSON: kept ids as runs of [first, count]."""
        starts = np.flatnonzero(np.diff(self.kept, prepend=self.kept[0] - 2) != 1)
        counts = np.diff(np.append(starts, len(self.kept)))
        runs = [[int(self.kept[s]), int(n)] for s, n in zip(starts, counts, strict=True)]
        return {"size": self.size, "runs": runs, "unused": self.unused}

    @classmethod
    def of_state(cls, state: Mapping[str, Any], where: object) -> Compaction:
        """The inverse of :meth:`state`.

        Raises:
            CheckpointError: it is not one; names `where` it stood.
        """
        try:
            size, unused = int(state["size"]), state["unused"]
            runs = [(int(first), int(count)) for first, count in state["runs"]]
            if sum(count for _, count in runs) > size or any(count < 1 for _, count in runs):
                raise ValueError("more ids than tokens")
            kept = np.concatenate([np.arange(a, a + n, dtype=np.int32) for a, n in runs])
            return cls(size, kept, None if unused is None else int(unused))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"{where}: vocabulary: {error}") from error
