# SPDX-License-Identifier: MIT
"""The llama2.c tokenizer file: read, encode, decode."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from ane_native.errors import ConfigError, DataError
from ane_native.tokenizer import Llama2cTokenizer, open_tokenizer

WORDS = ["he", "ll", "hell", "hello", " w", " wo", "or", "ld", "orld", " world", "aa", "aaa", "é"]


def small() -> Llama2cTokenizer:
    """Special tokens, bytes, characters, then words: the later a word, the lower its score."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [f"<0x{b:02X}>".encode() for b in range(256)]
    scores = [0.0] * len(pieces)
    characters = sorted({c for word in WORDS for c in word} | {" "})
    for c in characters:
        if c not in WORDS:
            pieces.append(c.encode())
            scores.append(-1000.0)
    for i, word in enumerate(WORDS):
        pieces.append(word.encode())
        scores.append(-float(i))
    return Llama2cTokenizer(pieces, scores)


def plain_encode(t: Llama2cTokenizer, text: str) -> list[int]:
    """llama2.c's loop: scan all pairs, merge the first best one, start again."""
    tokens = [t._ids[b" "]] if text else []
    for c in text:
        raw = c.encode("utf-8", "surrogateescape")
        tokens += [t._ids[raw]] if raw in t._ids else [b + 3 for b in raw]
    while True:
        best, at, merged = -1e10, -1, -1
        for i in range(len(tokens) - 1):
            made = t._ids.get(t._pieces[tokens[i]] + t._pieces[tokens[i + 1]])
            if made is not None and t._scores[made] > best:
                best, at, merged = t._scores[made], i, made
        if at < 0:
            return [1, *tokens]
        tokens[at : at + 2] = [merged]


def test_encoding_is_that_of_the_plain_loop() -> None:
    t = small()
    rng = np.random.default_rng(2)
    letters = np.array(list("helo wrda\u00e9\u4e16\n"))
    texts = ["", "hello world", "aaaaaaa", "hell o", "\udcff raw byte"]
    texts += ["".join(rng.choice(letters, rng.integers(1, 60))) for _ in range(300)]
    for text in texts:
        assert t.encode(text) == plain_encode(t, text), text
        assert t.encode(text, bos=False) == plain_encode(t, text)[1:], text


def test_decoding_gives_the_text_back_in_whole_characters() -> None:
    t = small()
    for text in ("hello world", "\u4e16\u754c caf\u00e9", "tab\tnew\nline", "", "  two  spaces"):
        assert "".join(t.decode(t.encode(text))) == text
    assert "".join(t.decode([0xFF + 3, 0x41 + 3])) == "\ufffdA"
    with pytest.raises(ConfigError, match="token: expected 0 to"):
        list(t.decode([99999]))


def test_a_file_survives_and_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.bin"
    small().write(path)
    back = Llama2cTokenizer.read(path)
    assert (back._pieces, back._scores) == (small()._pieces, small()._scores)
    data = path.read_bytes()
    assert struct.unpack_from("<i", data)[0] == max(map(len, back._pieces))
    for cut in (0, 3, 9, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"tokenizer\.bin"):
            Llama2cTokenizer.read(path)
    path.write_bytes(data[:8] + struct.pack("<i", -5) + data[12:])
    with pytest.raises(DataError, match="token 0: expected a length"):
        Llama2cTokenizer.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a \.bin or \.json file"):
        open_tokenizer(tmp_path / "x.model")
    with pytest.raises(DataError, match="could not be read"):
        open_tokenizer(tmp_path / "missing.bin")


def test_a_json_tokenizer_goes_there_and_back(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["hello hello world caf\u00e9"] * 20, trainer)
    made.save(str(tmp_path / "t.json"))
    t = open_tokenizer(tmp_path / "t.json")
    assert "".join(t.decode(t.encode("hello caf\u00e9 \u4e16"))) == "hello caf\u00e9 \u4e16"
