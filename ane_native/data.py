# SPDX-License-Identifier: MIT
"""Corpora: token arrays with a training and a validation part, and random windows of them.

Three kinds, all read only:

* the Python standard library's own sources, the default: on every machine that can run this
  package, no download. Bytes as tokens.
* ``--data PATH``: a text file, or a directory of text files. Bytes as tokens.
* ``--data FILE.bin``: little-endian uint16 tokens, memory-mapped, of a stated vocabulary.

Not here: tokenizers, downloads, shuffling over epochs. Windows are drawn with replacement
from a :class:`numpy.random.Generator` whose state goes into the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import stat
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ane_native.errors import DataError
from ane_native.vocabulary import Compaction

__all__ = ["Corpus", "WindowSampler", "fixed_windows", "open_corpus"]

Tokens = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Window = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]

BYTES = 256  # vocabulary of byte corpora
SEPARATOR = b"\0"  # between files
START = 8192  # bytes in which a file of text holds none
VALID_SHARE = 10  # one part in so many is for validation
MIN_FILES = 20  # below this a directory is split by position, not by file
MAX_BYTES = 2 << 30  # of a byte corpus, which is held in memory
CHUNK = 1 << 24  # tokens looked at in one go


@dataclass(frozen=True)
class Corpus:
    """Two token arrays and what is known about them.

    Attributes:
        name: short name for reports.
        train: tokens to draw training windows from, uint8 or uint16, 1-D.
        valid: tokens never trained on.
        vocab: tokens are 0..vocab-1.
        files: how many files it was made from.
        split: how the parts were chosen, for reports.
        unigram_entropy: of all tokens, in nats per token: what a model that knows only how
            often each token occurs can reach.
        unigram_entropy_valid: the same of the validation part alone.
        compaction: set when tokens are renumbered, see :meth:`compacted`.
        fingerprint: SHA-256 of the first and last tokens and the sizes, to notice on resume
            that the corpus is another one.
    """

    name: str
    train: Tokens = field(repr=False)
    valid: Tokens = field(repr=False)
    vocab: int
    files: int
    split: str
    unigram_entropy: float
    unigram_entropy_valid: float
    fingerprint: str
    compaction: Compaction | None = None

    def compacted(self) -> Corpus:
        """The same tokens by their numbers among those that occur; the files stay as they are."""
        if self.compaction is not None or self.is_bytes:
            return self
        counts = _counts(self.train, self.vocab) + _counts(self.valid, self.vocab)
        made = Compaction.of_counts(counts)
        return dataclasses.replace(self, vocab=len(made), compaction=made)

    @property
    def lookup(self) -> npt.NDArray[np.int32] | None:
        """What windows map tokens through; None: tokens are as in the file."""
        return None if self.compaction is None else self.compaction.lookup

    @property
    def is_bytes(self) -> bool:
        """True when tokens are bytes of text."""
        return self.train.dtype == np.uint8

    def describe(self) -> str:
        """One line for people."""
        unit = "bytes" if self.is_bytes else "tokens"
        return (
            f"{self.name}: {len(self.train):,} {unit} for training, {len(self.valid):,} for "
            f"validation ({self.split}), vocabulary {self.vocab}, "
            f"unigram entropy {self.unigram_entropy:.3f} nats"
        )


# =============================== Opening ========================================


def open_corpus(
    path: str | os.PathLike[str] | None = None,
    *,
    seq: int,
    vocab: int | None = None,
    include_tests: bool = False,
) -> Corpus:
    """Open a corpus and check all of it.

    Args:
        path: a text file, a directory of text files or a ``.bin`` file of uint16 tokens;
            None takes the sources of the standard library.
        seq: tokens of a window; each part must hold at least seq + 1.
        vocab: size of the vocabulary of a ``.bin`` file (default 256). Byte corpora have 256.
        include_tests: also take the standard library's test directories.

    Raises:
        DataError: missing, unreadable, empty, too short, an odd number of bytes, or a token
            outside the vocabulary. The message names the file, what was expected and got.
    """
    if seq < 1:
        raise DataError(f"seq: expected at least 1, got {seq}")
    if path is None:
        _need_bytes(vocab, "the standard library's sources")
        root = Path(sysconfig.get_paths()["stdlib"])
        files = list(_library_files(root, include_tests))
        if not files:
            raise DataError(f"{root}: expected the standard library's .py files, found none")
        return _byte_corpus("python-stdlib", root, files, seq)
    if not os.fspath(path):
        raise DataError("data: expected a file or a directory, got ''")
    path = Path(path)
    mode = _stat(path).st_mode
    if stat.S_ISDIR(mode):
        _need_bytes(vocab, f"{path} (a directory)")
        files = list(_text_files(path))
        if not files:
            raise DataError(f"{path}: expected text files in this directory, found none")
        return _byte_corpus(path.resolve().name, path, files, seq)
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: expected a file or a directory, got {stat.filemode(mode)}")
    if path.suffix == ".bin":
        return _token_corpus(path, seq, BYTES if vocab is None else vocab)
    _need_bytes(vocab, f"{path} (a text file)")
    with _opened(path) as stream:
        at = stream.read(START).find(SEPARATOR)
    if at >= 0:
        raise DataError(
            f"{path}: expected text, got a NUL at byte {at:,} (uint16 tokens: name the file .bin)"
        )
    return _byte_corpus(path.name, path.parent, [path], seq)


def _need_bytes(vocab: int | None, what: str) -> None:
    if vocab not in (None, BYTES):
        raise DataError(
            f"{what} is read as bytes: expected a vocabulary of {BYTES}, got {vocab} "
            "(only a .bin file of uint16 tokens has another)"
        )


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path}: {reason}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path}: could not be read: {error.strerror}") from error


def _read(path: Path) -> bytes:
    with _opened(path) as stream:
        return stream.read()


# =============================== Byte corpora ===================================


def _library_files(root: Path, include_tests: bool) -> Iterator[Path]:
    """The .py files below `root` in a fixed order, without installed packages."""
    skip = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
    tests = {"test", "tests", "idle_test"}
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in skip and (include_tests or n not in tests))
        for name in sorted(files):
            file = Path(folder, name)
            if name.endswith(".py") and file.is_file():
                yield file


def _text_files(root: Path) -> Iterator[Path]:
    """Regular files below `root` that are not hidden and hold no NUL near their start."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: could not be listed: {error.strerror}") from error

    for folder, names, files in os.walk(root, onerror=fail):
        names[:] = sorted(n for n in names if not n.startswith("."))
        for name in sorted(files):
            file = Path(folder, name)
            if name.startswith(".") or not file.is_file():
                continue
            with _opened(file) as stream:
                start = stream.read(START)
            if SEPARATOR not in start:
                yield file


def _for_validation(relative: str) -> bool:
    """One file in ten, by a hash of its name: adding a file moves no other."""
    return hashlib.sha256(relative.encode("utf-8", "surrogateescape")).digest()[0] % 10 == 0


def _byte_corpus(name: str, root: Path, files: list[Path], seq: int) -> Corpus:
    """All files as bytes with a NUL after each, split by file or, when few, by position."""
    total = 0
    by_file = len(files) >= MIN_FILES
    train, valid = bytearray(), bytearray()
    for file in files:
        data = _read(file)
        total += len(data)
        if total > MAX_BYTES:
            raise DataError(
                f"{root}: expected at most {MAX_BYTES:,} bytes of text, got more at {file}; "
                "use a .bin token file, which is memory-mapped"
            )
        relative = file.relative_to(root).as_posix()
        part = valid if by_file and _for_validation(relative) else train
        part += data
        if len(files) > 1:
            part += SEPARATOR
    if total == 0:
        what = str(files[0]) if len(files) == 1 else f"{root} ({len(files)} files)"
        raise DataError(f"{what}: expected text, got 0 bytes")
    if by_file:
        split = f"one file in {VALID_SHARE}, by name"
    else:
        cut = len(train) - len(train) // VALID_SHARE
        train, valid = train[:cut], train[cut:]
        split = f"the last {100 // VALID_SHARE} %"
    where = files[0] if len(files) == 1 else root
    return _corpus(
        name,
        where,
        np.frombuffer(bytes(train), np.uint8),
        np.frombuffer(bytes(valid), np.uint8),
        vocab=BYTES,
        files=len(files),
        split=split,
        seq=seq,
    )


# =============================== Token files ====================================


def _token_corpus(path: Path, seq: int, vocab: int) -> Corpus:
    """A .bin file: mapped, every token checked once."""
    if not 1 <= vocab <= 65536:
        raise DataError(f"{path}: expected a vocabulary of 1 to 65536 (uint16), got {vocab}")
    size = _stat(path).st_size
    if size % 2:
        raise DataError(f"{path}: expected an even number of bytes (uint16 tokens), got {size}")
    if size == 0:
        raise DataError(f"{path}: expected uint16 tokens, got 0 bytes")
    try:
        tokens = np.memmap(path, dtype="<u2", mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: could not be mapped: {error}") from error
    for begin in range(0, len(tokens), CHUNK):
        part = tokens[begin : begin + CHUNK]
        if int(part.max()) >= vocab:
            at = begin + int(np.argmax(part >= vocab))
            raise DataError(f"{path}: token {at}: expected 0 to {vocab - 1}, got {int(tokens[at])}")
    cut = len(tokens) - len(tokens) // VALID_SHARE
    return _corpus(
        path.name,
        path,
        tokens[:cut],
        tokens[cut:],
        vocab=vocab,
        files=1,
        split=f"the last {100 // VALID_SHARE} %",
        seq=seq,
    )


# =============================== Finishing ======================================


def _counts(tokens: Tokens, vocab: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(vocab, np.int64)
    for begin in range(0, len(tokens), CHUNK):
        counts += np.bincount(tokens[begin : begin + CHUNK], minlength=vocab)
    return counts


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    """-sum p ln p, nats."""
    seen = counts[counts > 0]
    p = seen / seen.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


def _fingerprint(train: Tokens, valid: Tokens) -> str:
    digest = hashlib.sha256()
    for tokens in (train, valid):
        digest.update(json.dumps([len(tokens), str(tokens.dtype)]).encode())
        digest.update(np.ascontiguousarray(tokens[: 1 << 16]).tobytes())
        digest.update(np.ascontiguousarray(tokens[-(1 << 16) :]).tobytes())
    return digest.hexdigest()


def _corpus(
    name: str,
    where: Path,
    train: Tokens,
    valid: Tokens,
    *,
    vocab: int,
    files: int,
    split: str,
    seq: int,
) -> Corpus:
    for part, tokens in (("training", train), ("validation", valid)):
        if len(tokens) < seq + 1:
            raise DataError(
                f"{where}: expected at least {seq + 1} tokens in the {part} part "
                f"(seq + 1), got {len(tokens)}"
            )
    in_train, in_valid = _counts(train, vocab), _counts(valid, vocab)
    return Corpus(
        name=name,
        train=train,
        valid=valid,
        vocab=vocab,
        files=files,
        split=split,
        unigram_entropy=_entropy(in_train + in_valid),
        unigram_entropy_valid=_entropy(in_valid),
        fingerprint=_fingerprint(train, valid),
    )


# =============================== Windows ========================================


def _window(
    tokens: Tokens, start: int, seq: int, lookup: npt.NDArray[np.int32] | None = None
) -> Window:
    """Inputs and targets, both int32 [seq]; targets are the inputs moved by one."""
    part = np.asarray(tokens[start : start + seq + 1], dtype=np.int32)
    if lookup is not None:
        part = lookup[part]
    return part[:-1], part[1:]


class WindowSampler:
    """Random windows of a token array, repeatable.

    Args:
        tokens: 1-D, at least seq + 1 long.
        seq: tokens of a window.
        seed: of the generator.
        lookup: :attr:`Corpus.lookup`.

    Raises:
        DataError: fewer than seq + 1 tokens.
    """

    def __init__(
        self,
        tokens: Tokens,
        seq: int,
        seed: int,
        lookup: npt.NDArray[np.int32] | None = None,
    ) -> None:
        if len(tokens) < seq + 1:
            raise DataError(f"expected at least {seq + 1} tokens, got {len(tokens)}")
        self._tokens = tokens
        self._seq = seq
        self._lookup = lookup
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def next(self) -> Window:
        """Inputs and targets of a random window, both int32 [seq]."""
        start = int(self._rng.integers(0, len(self._tokens) - self._seq))
        return _window(self._tokens, start, self._seq, self._lookup)

    def state_dict(self) -> dict[str, Any]:
        """State of the generator: plain numbers and strings, fit for JSON."""
        state = self._rng.bit_generator.state
        return json.loads(json.dumps(state, default=int))  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            DataError: not a state of this generator.
        """
        try:
            self._rng.bit_generator.state = state
        except (TypeError, ValueError, KeyError) as error:
            raise DataError(f"state of the random generator: {error}") from error


def fixed_windows(
    tokens: Tokens, seq: int, count: int, lookup: npt.NDArray[np.int32] | None = None
) -> list[Window]:
    """`count` windows spread evenly over `tokens`, the same on every call.

    Fewer when the tokens do not hold that many windows without overlap.
    """
    count = max(1, min(count, (len(tokens) - 1) // seq))
    last = len(tokens) - seq - 1
    starts = [round(i * last / max(1, count - 1)) for i in range(count)]
    return [_window(tokens, start, seq, lookup) for start in starts]
