# SPDX-License-Identifier: MIT
"""Vocabulary compaction: an exact map, and back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ane_native.data import WindowSampler, fixed_windows, open_corpus
from ane_native.errors import CheckpointError, ConfigError
from ane_native.vocabulary import Compaction


def some(size: int = 500, occurring: int = 70) -> Compaction:
    rng = np.random.default_rng(4)
    counts = np.zeros(size, np.int64)
    counts[rng.choice(size, occurring, replace=False)] = 1
    return Compaction.of_counts(counts)


@pytest.mark.parametrize("occurring", [1, 31, 32, 63, 64, 470, 499, 500])
def test_every_token_that_occurs_is_kept_and_one_that_does_not(occurring: int) -> None:
    rng = np.random.default_rng(occurring)
    counts = np.zeros(500, np.int64)
    there = rng.choice(500, occurring, replace=False)
    counts[there] = 3
    made = Compaction.of_counts(counts)
    assert set(there) <= set(made.kept)
    assert len(made) % 32 == 0 or len(made) == 500
    assert len(made) <= occurring + 32
    if made.unused is None:
        assert len(made) == 500
    else:
        assert counts[made.kept[made.unused]] == 0


def test_tokens_and_rows_go_there_and_back() -> None:
    made = some()
    assert np.array_equal(made.expand(made.compact(made.kept)), made.kept)
    table = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32)
    back = made.expand_rows(made.take_rows(table))
    assert np.array_equal(back[made.kept], table[made.kept])
    left_out = np.setdiff1d(np.arange(500), made.kept)
    assert made.unused is not None
    unused = table[made.kept[made.unused]]
    assert np.array_equal(back[left_out], np.tile(unused, (len(left_out), 1)))


def test_a_token_left_out_is_named() -> None:
    made = some()
    token = int(np.setdiff1d(np.arange(500), made.kept)[0])
    with pytest.raises(ConfigError, match=f"token {token}: the model was trained without it"):
        made.compact([int(made.kept[0]), token])
    with pytest.raises(ConfigError, match="token 500"):
        made.compact([500])


def test_state_survives_json_and_damage_is_said() -> None:
    made = some()
    state = json.loads(json.dumps(made.state()))
    assert Compaction.of_state(state, "here") == made
    runs = state["runs"]
    for damage in (
        {"size": 1},
        {"runs": runs[::-1]},
        {"runs": [[0, -1]]},
        {"runs": []},
        {"runs": [[0, 10**12]]},
        {"unused": 500},
        {"runs": "x"},
    ):
        with pytest.raises(CheckpointError, match="here: vocabulary"):
            Compaction.of_state({**state, **damage}, "here")


def test_windows_of_a_compacted_corpus_are_those_of_the_file(tmp_path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "t.bin"
    rng.choice(rng.choice(30000, 40, replace=False), 3000).astype("<u2").tofile(path)
    whole = open_corpus(path, seq=32, vocab=32000)
    made = whole.compacted()
    assert made.compaction is not None
    assert made.vocab == 64
    assert made.fingerprint == whole.fingerprint
    a = WindowSampler(whole.train, 32, 5)
    b = WindowSampler(made.train, 32, 5, made.lookup)
    pairs = [(a.next(), b.next()) for _ in range(5)]
    fixed = fixed_windows(made.valid, 32, 3, made.lookup)
    pairs += list(zip(fixed_windows(whole.valid, 32, 3), fixed, strict=True))
    for plain, compact in pairs:
        for x, y in zip(plain, compact, strict=True):
            assert y.dtype == np.int32
            assert y.max() < 64
            assert np.array_equal(made.compaction.expand(y), x)
