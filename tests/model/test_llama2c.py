# SPDX-License-Identifier: MIT
"""llama2.c model files, and decoding with a cache against the engine."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import llama_autograd
import numpy as np
import pytest
from llama_problem import GROUPED, NORMED, lively

from ane_native import generate
from ane_native.decode import CachedDecoder
from ane_native.errors import CheckpointError, ConfigError
from ane_native.llama2c import read_llama2c, write_llama2c
from ane_native.models.llama import PRESETS, LlamaConfig, init_params

SMALL = LlamaConfig(dim=48, hidden=64, layers=2, heads=4, kv_heads=2, seq=32, vocab=70)


def llama2c_forward(path: Path, tokens: list[int]) -> np.ndarray:
    """run.c in plain numpy from the bytes of a version 0 file: logits after the last token."""
    data = path.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, _ = struct.unpack_from("<7i", data)
    numbers = np.frombuffer(data, "<f4", offset=28).astype(np.float64)
    e = dim // heads
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return numbers[at - count : at].reshape(shape)

    table = take(vocab, dim)
    att = take(layers, dim)
    wq, wk = take(layers, dim, dim), take(layers, kv_heads * e, dim)
    wv, wo = take(layers, kv_heads * e, dim), take(layers, dim, dim)
    ffn = take(layers, dim)
    w1, w2, w3 = take(layers, hidden, dim), take(layers, dim, hidden), take(layers, hidden, dim)
    final = take(dim)

    def norm(x: np.ndarray, g: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x) + 1e-5) * g

    def rotate(x: np.ndarray, pos: int) -> np.ndarray:
        x = x.copy()
        for i in range(0, len(x), 2):
            angle = pos / 10000.0 ** ((i % e) / e)
            a, b = x[i], x[i + 1]
            x[i] = a * np.cos(angle) - b * np.sin(angle)
            x[i + 1] = a * np.sin(angle) + b * np.cos(angle)
        return x

    keys: list[list[np.ndarray]] = [[] for _ in range(layers)]
    values: list[list[np.ndarray]] = [[] for _ in range(layers)]
    for pos, token in enumerate(tokens):
        x = table[token].copy()
        for i in range(layers):
            n = norm(x, att[i])
            q = rotate(wq[i] @ n, pos)
            keys[i].append(rotate(wk[i] @ n, pos))
            values[i].append(wv[i] @ n)
            out = np.zeros(dim)
            for h in range(heads):
                g = slice(h // (heads // kv_heads) * e, (h // (heads // kv_heads) + 1) * e)
                c = slice(h * e, (h + 1) * e)
                s = np.array([q[c] @ k[g] for k in keys[i]]) / np.sqrt(e)
                s = np.exp(s - s.max())
                out[c] = sum(p * v[g] for p, v in zip(s / s.sum(), values[i], strict=True))
            x = x + wo[i] @ out
            n = norm(x, ffn[i])
            h1 = w1[i] @ n
            x = x + w2[i] @ (h1 / (1 + np.exp(-h1)) * (w3[i] @ n))
    return table @ norm(x, final)


@pytest.mark.parametrize("version", [0, 1])
def test_a_model_survives_the_file(tmp_path: Path, version: int) -> None:
    weights = init_params(SMALL, np.random.default_rng(1))
    path = tmp_path / "m.bin"
    write_llama2c(path, SMALL, weights, version=version)
    config, back = read_llama2c(path)
    assert config == SMALL
    assert list(back) == list(weights)
    for name in weights:
        assert np.array_equal(back[name], weights[name]), name
    write_llama2c(tmp_path / "again.bin", config, back, version=version)
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()


def test_the_file_means_what_llama2c_reads_from_it(tmp_path: Path) -> None:
    """A version 0 file through run.c's arithmetic, against our decoder on our weights."""
    weights = {
        name: np.float32(np.float16(w * (20 if w.ndim > 1 else 1)))
        for name, w in init_params(SMALL, np.random.default_rng(3)).items()
    }
    write_llama2c(tmp_path / "m.bin", SMALL, weights)
    tokens = [3, 69, 5, 5, 11, 42, 0, 7]
    want = llama2c_forward(tmp_path / "m.bin", tokens)
    got = CachedDecoder(SMALL, weights).step(tokens)
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    weights = init_params(SMALL, np.random.default_rng(1))
    for version in (0, 1):
        write_llama2c(path, SMALL, weights, version=version)
        data = path.read_bytes()
        for cut in (0, 10, 28, 200, len(data) - 4):
            path.write_bytes(data[:cut])
            with pytest.raises(CheckpointError, match=r"m\.bin"):
                read_llama2c(path)
        path.write_bytes(data + b"1234")
        with pytest.raises(CheckpointError, match="bytes after its header"):
            read_llama2c(path)
    write_llama2c(path, SMALL, weights, version=1)
    path.write_bytes(path.read_bytes()[:4] + struct.pack("<i", 2) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="expected version 0 or 1 of the format, got 2"):
        read_llama2c(path)


def test_an_own_classifier_is_taken_only_when_it_is_the_embedding(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    weights = init_params(SMALL, np.random.default_rng(1))
    write_llama2c(path, SMALL, weights)
    data = bytearray(path.read_bytes())
    data[20:24] = struct.pack("<i", -SMALL.vocab)
    table = weights["tok_embeddings.weight"]
    path.write_bytes(bytes(data) + table.tobytes())
    assert read_llama2c(path)[0] == SMALL
    path.write_bytes(bytes(data) + (table + 1).tobytes())
    with pytest.raises(CheckpointError, match="its classifier is not its embedding"):
        read_llama2c(path)


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for config in (GROUPED, PRESETS["qwen3-0.6b"]):
        with pytest.raises(ConfigError, match=r"llama2\.c needs heads x head_width = dim"):
            write_llama2c(path, config, {})
    with pytest.raises(ConfigError, match=r"no place for the norms of q and k"):
        write_llama2c(path, dataclasses.replace(PRESETS["tiny"], qk_norm=True), {})
    assert not list(tmp_path.iterdir())


# =============================== The cache ======================================


@pytest.mark.parametrize(
    "config", [GROUPED, NORMED, PRESETS["tiny"]], ids=["grouped", "normed", "tiny"]
)
def test_steps_add_up_to_one_pass_and_to_the_whole_model(config: LlamaConfig) -> None:
    case = lively(config)
    tokens = case.tokens.tolist()
    one, many = CachedDecoder(config, case.params), CachedDecoder(config, case.params)
    losses = []
    for at, token in enumerate(tokens):
        logits = np.float64(one.step([token]))
        top = logits.max()
        losses.append(top + np.log(np.exp(logits - top).sum()) - logits[case.targets[at]])
    want, _ = llama_autograd.loss_and_gradients(config, case.params, case.tokens, case.targets)
    assert abs(float(np.mean(losses)) - want) < 1e-5
    many.step(tokens[:7])
    assert np.allclose(many.step(tokens[7:]), logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="expected 1 to 0 of them, got 1"):
        one.step([0])


def test_a_text_longer_than_the_cache_goes_on() -> None:
    config = GROUPED
    case = lively(config)
    logits = generate.cached_logits(CachedDecoder(config, case.params))
    drawn = list(generate.draw_tokens(logits, [1, 2, 3], 80, vocab=config.vocab, seed=1))
    logits = generate.cached_logits(CachedDecoder(config, case.params))
    again = list(generate.draw_tokens(logits, [1, 2, 3], 80, vocab=config.vocab, seed=1))
    assert drawn == again
    assert len(set(drawn)) > 5


def test_top_p_draws_only_from_the_nucleus() -> None:
    p = np.array([0.05, 0.5, 0.15, 0.3])

    def logits(text: object) -> np.ndarray:
        return np.log(p)

    def drawn(top_p: float) -> set[int]:
        options = {"vocab": 4, "temperature": 1.0, "top_p": top_p}
        return set(generate.draw_tokens(logits, [0], 400, **options))

    assert drawn(0.4) == {1}
    assert drawn(0.7) == {1, 3}
    assert drawn(0.9) == {1, 2, 3}
    assert drawn(1.0) == {0, 1, 2, 3}
    with pytest.raises(ConfigError, match="top_p: expected more than 0"):
        drawn(0.0)
