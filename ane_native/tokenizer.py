# SPDX-License-Identifier: MIT
"""Tokenizers: the llama2.c file, Hugging Face's JSON, plain bytes.

``tokenizer.bin`` of karpathy/llama2.c (its tokenizer.py writes it), little endian::

    int32 longest piece, then for every token: float32 score, int32 length, the bytes

Encoding is that program's: a space before the text, one token per character (or, for one
that is not in the table, per byte: byte b is token b + 3), then the adjacent pair whose merged
piece has the best score is merged, the leftmost of equals, until none is left. Here a heap
finds the pair, so a long text takes n log n and not n^2.
"""

from __future__ import annotations

import codecs
import heapq
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ane_native.errors import ConfigError, DataError

__all__ = ["ByteTokenizer", "Llama2cTokenizer", "Tokenizer", "open_tokenizer"]

BOS, EOS, FIRST_BYTE = 1, 2, 3
MAX_PIECE = 1 << 16  # bytes; a longer one means that the file is something else


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def vocab(self) -> int:
        """Tokens are 0..vocab-1."""

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Tokens of a text, after the one that begins a text when `bos` and there is one."""

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """Text in pieces, each as soon as its last character is complete."""


def _characters(pieces: Iterable[bytes]) -> Iterator[str]:
    """Bytes as text; bad bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        text = decoder.decode(piece)
        if text:
            yield text
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest


class ByteTokenizer:
    """Token b is byte b; no token begins a text."""

    vocab = 256

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return list(os.fsencode(text))

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        return _characters(bytes([token]) for token in tokens)


class Llama2cTokenizer:
    """A table of pieces and scores, see the head of this file.

    Args:
        pieces: the bytes of every token.
        scores: of merging to that token, as many.

    Raises:
        ValueError: fewer tokens than the special ones and the bytes, or unequal lengths.
    """

    def __init__(self, pieces: Sequence[bytes], scores: Sequence[float]) -> None:
        if len(pieces) != len(scores):
            raise ValueError(f"scores: expected {len(pieces)}, got {len(scores)}")
        if len(pieces) < FIRST_BYTE + 256:
            raise ValueError(f"pieces: expected at least {FIRST_BYTE + 256}, got {len(pieces)}")
        self._pieces, self._scores = list(pieces), list(scores)
        self._ids: dict[bytes, int] = {}
        for token, piece in enumerate(pieces):
            self._ids.setdefault(piece, token)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Llama2cTokenizer:
        """Read a ``tokenizer.bin``.

        Raises:
            DataError: it cannot be read or is not such a file; says where.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: could not be read: {error.strerror}") from error
        pieces: list[bytes] = []
        scores: list[float] = []
        at = 4
        while at < len(data):
            if at + 8 > len(data):
                raise DataError(f"{path}: token {len(pieces)}: the file ends inside it")
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            if not 0 <= length <= min(MAX_PIECE, len(data) - at):
                raise DataError(
                    f"{path}: token {len(pieces)}: expected a length of 0 to {len(data) - at}, "
                    f"got {length}"
                )
            pieces.append(data[at : at + length])
            scores.append(score)
            at += length
        try:
            return cls(pieces, scores)
        except ValueError as error:
            raise DataError(f"{path}: not a llama2.c tokenizer: {error}") from error

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the same format."""
        longest = max(map(len, self._pieces))
        parts = [struct.pack("<i", longest)]
        for piece, score in zip(self._pieces, self._scores, strict=True):
            parts += [struct.pack("<fi", score, len(piece)), piece]
        Path(path).write_bytes(b"".join(parts))

    @property
    def vocab(self) -> int:
        return len(self._pieces)

    # ------------------------------ encoding ------------------------------

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        start = [BOS] if bos else []
        if not text:
            return start
        tokens = [self._ids[b" "]] if b" " in self._ids else []
        for character in text:
            raw = character.encode("utf-8", "surrogateescape")
            known = self._ids.get(raw)
            tokens += [b + FIRST_BYTE for b in raw] if known is None else [known]
        return start + self._merge(tokens)

    def _merge(self, tokens: list[int]) -> list[int]:
        """Best score first, leftmost of equals; neighbours are a linked list."""
        count = len(tokens)
        after = [*range(1, count), -1]
        before = list(range(-1, count - 1))
        alive = [True] * count
        heap: list[tuple[float, int, int, int, int]] = []

        def consider(left: int) -> None:
            right = after[left]
            if right < 0:
                return
            merged = self._ids.get(self._pieces[tokens[left]] + self._pieces[tokens[right]])
            if merged is not None:
                entry = (-self._scores[merged], left, tokens[left], tokens[right], merged)
                heapq.heappush(heap, entry)

        for i in range(count):
            consider(i)
        while heap:
            _, left, first, second, merged = heapq.heappop(heap)
            right = after[left] if alive[left] else -1
            if right < 0 or tokens[left] != first or tokens[right] != second:
                continue  # one of the two was merged with another meanwhile
            tokens[left], alive[right] = merged, False
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            consider(left)
            if before[left] >= 0:
                consider(before[left])
        return [token for token, there in zip(tokens, alive, strict=True) if there]

    # ------------------------------ decoding ------------------------------

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        return _characters(self._bytes(tokens))

    def _bytes(self, tokens: Iterable[int]) -> Iterator[bytes]:
        previous = -1
        for token in tokens:
            if not 0 <= token < len(self._pieces):
                raise ConfigError(f"token: expected 0 to {self.vocab - 1}, got {token}")
            piece = self._pieces[token]
            raw = re.fullmatch(rb"<0x([0-9A-Fa-f]{2})>", piece)
            if raw:
                piece = bytes([int(raw[1], 16)])
            if token in (BOS, EOS):
                piece = b""
            elif previous == BOS and piece.startswith(b" "):
                piece = piece[1:]  # the space that encoding put there
            previous = token
            yield piece


class JsonTokenizer:
    """A ``tokenizer.json``, by the ``tokenizers`` package (an extra)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ConfigError(
                f"{path}: reading it needs the tokenizers package: "
                "pip install 'ane-native[tokenizers]'"
            ) from error
        try:
            self._inner: Any = tokenizers.Tokenizer.from_file(os.fspath(path))
        except Exception as error:  # the package raises Exception itself
            raise DataError(f"{path}: not a tokenizer: {error}") from error

    @property
    def vocab(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        return [int(token) for token in self._inner.encode(text, add_special_tokens=bos).ids]

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """A token is shown with what came before it: pieces join differently alone."""
        seen: list[int] = []
        shown = ""
        for token in tokens:
            seen.append(token)
            text = self._inner.decode(seen)
            if text.startswith(shown) and not text.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text
        text = self._inner.decode(seen)
        if text.startswith(shown) and text != shown:
            yield text[len(shown) :]


def open_tokenizer(path: str | os.PathLike[str] | None) -> Tokenizer:
    """``.bin``: llama2.c; ``.json``: Hugging Face; None: bytes.

    Raises:
        ConfigError: another name, or a package is missing. DataError: a damaged file.
    """
    if path is None:
        return ByteTokenizer()
    suffix = Path(path).suffix
    if suffix == ".bin":
        return Llama2cTokenizer.read(path)
    if suffix == ".json":
        return JsonTokenizer(path)
    raise ConfigError(f"tokenizer: expected a .bin or .json file, got {path}")
