# SPDX-License-Identifier: MIT
"""Corpora: what is taken, how it is split, and that every bad input is refused by name."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from ane_native.data import WindowSampler, fixed_windows, open_corpus
from ane_native.errors import AneError, DataError


def tokens_file(path: Path, values: list[int] | np.ndarray) -> Path:
    np.asarray(values, "<u2").tofile(path)
    return path


# =============================== The default corpus =============================


def test_the_standard_library_is_a_corpus_and_the_same_every_time() -> None:
    first, second = (open_corpus(seq=256) for _ in range(2))
    assert len(first.train) > 5_000_000
    assert first.fingerprint == second.fingerprint
    assert first.train.tobytes() == second.train.tobytes()
    assert first.vocab == 256
    assert b"import" in first.train[:200_000].tobytes()


def test_its_parts_are_one_tenth_and_nine_tenths_by_file() -> None:
    corpus = open_corpus(seq=256)
    share = len(corpus.valid) / (len(corpus.valid) + len(corpus.train))
    assert 0.03 < share < 0.25
    # no file is in both: validation files do not occur in the training part
    text = corpus.train.tobytes()
    files = corpus.valid.tobytes().split(b"\0")
    long = [f for f in files if len(f) > 2000]
    assert long
    assert not any(f in text for f in long)


def test_its_tests_are_taken_only_when_asked_for() -> None:
    plain = open_corpus(seq=256)
    whole = open_corpus(seq=256, include_tests=True)
    assert whole.files >= plain.files


# =============================== Text ===========================================


def test_a_text_file_is_bytes_with_its_last_tenth_for_validation(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(bytes(range(1, 256)) * 10)
    corpus = open_corpus(path, seq=16)
    assert corpus.train.tobytes() + corpus.valid.tobytes() == path.read_bytes()
    assert len(corpus.valid) == 255
    assert corpus.unigram_entropy == pytest.approx(math.log(255))
    assert corpus.is_bytes


def test_a_directory_is_its_text_files_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("second " * 50)
    (tmp_path / "a.txt").write_text("first " * 50)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c").write_text("third " * 50)
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / ".hidden").write_text("no")
    os.mkfifo(tmp_path / "pipe")  # must not be opened: it would wait for ever
    corpus = open_corpus(tmp_path, seq=8)
    assert corpus.files == 3
    text = corpus.train.tobytes() + corpus.valid.tobytes()
    assert text.index(b"first") < text.index(b"second") < text.index(b"third")
    assert b"PNG" not in text


def test_many_files_are_split_by_file_and_a_new_file_moves_no_other(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i:03d}.txt").write_text(f"file {i:03d};" * 20)
    before = open_corpus(tmp_path, seq=8)
    valid = set(before.valid.tobytes().split(b"\0"))
    (tmp_path / "zzz.txt").write_text("another;" * 20)
    after = open_corpus(tmp_path, seq=8)
    assert valid <= set(after.valid.tobytes().split(b"\0"))
    assert 0 < len(valid) < 60


# =============================== Token files ====================================


def test_a_bin_file_is_mapped_and_split_by_position(tmp_path: Path) -> None:
    values = np.arange(1000) % 300
    corpus = open_corpus(tokens_file(tmp_path / "t.bin", values), seq=8, vocab=300)
    assert isinstance(corpus.train, np.memmap)
    assert np.concatenate([corpus.train, corpus.valid]).tolist() == values.tolist()
    assert not corpus.is_bytes
    assert corpus.vocab == 300


def test_a_token_outside_the_vocabulary_is_named_with_its_place(tmp_path: Path) -> None:
    values = np.zeros(1000, int)
    values[777] = 300
    path = tokens_file(tmp_path / "t.bin", values)
    with pytest.raises(DataError, match=r"t\.bin: token 777: expected 0 to 299, got 300"):
        open_corpus(path, seq=8, vocab=300)


# =============================== Bad input ======================================


def empty(p: Path) -> None:
    p.write_bytes(b"")


def odd(p: Path) -> None:
    p.write_bytes(b"abc")


def short(p: Path) -> None:
    p.write_bytes(b"ab" * 50)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("none.txt", None, "No such file"),
        ("none.bin", None, "No such file"),
        ("empty.txt", empty, "0 bytes"),
        ("empty.bin", empty, "0 bytes"),
        ("odd.bin", odd, "even number of bytes (uint16 tokens), got 3"),
        ("short.txt", short, "at least 65 tokens in the validation part"),
        ("short.bin", short, "expected 0 to 255"),
        ("folder", Path.mkdir, "found none"),
        ("pipe", os.mkfifo, "expected a file or a directory"),
        ("nul\0name", None, "null"),
        ("x" * 5000, None, "too long"),
    ],
)
def test_bad_input_is_refused_with_its_name(
    name: str, make: object, said: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if make is not None:
        make(path)  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        open_corpus(path, seq=64)
    assert said in str(caught.value)
    assert name in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AneError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x" * 1000)
    path.chmod(0)
    with pytest.raises(DataError, match=r"secret\.txt"):
        open_corpus(path, seq=8)


def test_a_vocabulary_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x" * 1000)
    with pytest.raises(DataError, match="expected a vocabulary of 256, got 512"):
        open_corpus(path, seq=8, vocab=512)
    with pytest.raises(DataError, match="1 to 65536"):
        open_corpus(tokens_file(tmp_path / "t.bin", [1] * 100), seq=8, vocab=70000)


# =============================== Windows ========================================


def test_windows_are_the_text_moved_by_one_and_reach_both_ends() -> None:
    tokens = np.arange(20, dtype=np.uint8)
    sampler = WindowSampler(tokens, 4, seed=1)
    starts = set()
    for _ in range(500):
        x, y = sampler.next()
        assert x.dtype == y.dtype == np.int32
        assert (y == x + 1).all()
        starts.add(int(x[0]))
    assert starts == set(range(16))


def test_a_sampler_continues_from_its_saved_state() -> None:
    tokens = np.arange(256, dtype=np.uint8)
    sampler = WindowSampler(tokens, 8, seed=5)
    for _ in range(3):
        sampler.next()
    state = json.loads(json.dumps(sampler.state_dict()))
    want = [sampler.next()[0].tolist() for _ in range(20)]
    other = WindowSampler(tokens, 8, seed=6)
    other.load_state_dict(state)
    assert [other.next()[0].tolist() for _ in range(20)] == want
    with pytest.raises(DataError):
        other.load_state_dict({"bit_generator": "PCG64", "state": 3})


def test_fixed_windows_are_spread_and_do_not_overlap() -> None:
    tokens = np.arange(101, dtype=np.uint8)
    windows = fixed_windows(tokens, 10, 5)
    starts = [int(x[0]) for x, _ in windows]
    assert starts[0] == 0
    assert starts[-1] == 90
    assert all(b - a >= 10 for a, b in zip(starts, starts[1:], strict=False))
    assert len(fixed_windows(tokens, 10, 500)) == 10
    assert len(fixed_windows(tokens[:11], 10, 5)) == 1
