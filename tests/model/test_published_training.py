# SPDX-License-Identifier: MIT
"""The published training run of maderix/ANE (Stories110M, random start), as far as it can be
repeated here.

Its losses need its data (TinyStories, first shard), which are not here. What is compared: the
random numbers (against libc), the published first sampling positions, the forward pass of its
two forward kernels against float32 NumPy within the published tolerances (largest relative
error 2e-2, cosine above 0.999), and the loss before the first step, which for nearly uniform
logits is ln(vocabulary) whatever the tokens are. A model of the full size, about a minute:

    python tests/model/test_published_training.py
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

import ane_native as ane
from ane_native.mil import Function, MilText, Value

Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

# =============================== Random numbers =================================

A, C, MASK = 0x5DEECE66D, 0xB, (1 << 48) - 1


class Rand48:
    """srand48 and drand48: a 48-bit linear congruence, many numbers at a time."""

    def __init__(self, seed: int) -> None:
        self.state = (seed << 16 | 0x330E) & MASK

    def draw(self, n: int) -> npt.NDArray[np.float64]:
        """The next n numbers of [0, 1)."""
        x = np.empty(n, np.uint64)
        x[0] = (self.state * A + C) & MASK
        a, c, known = A, C, 1  # `known` steps at once are x -> a x + c; products wrap at 2^64
        while known < n:
            more = min(known, n - known)
            x[known : known + more] = (x[:more] * np.uint64(a) + np.uint64(c)) & np.uint64(MASK)
            a, c, known = a * a & MASK, (a * c + c) & MASK, known + more
        self.state = int(x[-1])
        return x.astype(np.float64) / 2.0**48


@dataclass(frozen=True)
class Size:
    dim: int = 768
    hidden: int = 2048
    heads: int = 12
    seq: int = 256
    layers: int = 12
    vocab: int = 32000


SMALL = Size(dim=64, hidden=160, heads=2, seq=32, layers=2, vocab=512)


def start(size: Size, seed: int = 42) -> Weights:
    """The published start: the order of the draws is part of it. Norm gains are 1."""
    rand, d, h = Rand48(seed), size.dim, size.hidden
    by_d, by_h = np.float32(1 / math.sqrt(d)), np.float32(1 / math.sqrt(h))

    def scaled(draws: npt.NDArray[np.float64], scale: np.float32) -> Array:
        return (float(scale) * (2 * draws - 1)).astype(np.float32)

    w: Weights = {}
    for i in range(size.layers):
        for pair in (("wq", "wk"), ("wv", "wo")):
            both = scaled(rand.draw(2 * d * d), by_d).reshape(d * d, 2)
            for n, name in enumerate(pair):
                w[f"{name}{i}"] = both[:, n].reshape(d, d).copy()
        w[f"w1{i}"] = scaled(rand.draw(h * d), by_h).reshape(h, d)
        w[f"w2{i}"] = scaled(rand.draw(d * h), by_d).reshape(d, h)
        w[f"w3{i}"] = scaled(rand.draw(h * d), by_h).reshape(h, d)
    w["embed"] = scaled(rand.draw(size.vocab * d), np.float32(0.02)).reshape(size.vocab, d)
    return w


# =============================== Forward kernels ================================


def linear(f: Function, x: Value, name: str, w: Array) -> Value:
    return f.conv(x, f.weight(name, (*w.shape, 1, 1), name))


def norm(f: Function, x: Value, dim: int) -> Value:
    total = f.mul(f.reduce_sum(f.mul(x, x), (1,)), 1 / dim)
    return f.mul(x, f.pow(f.add(total, 1e-5), -0.5))


def attention(size: Size, i: int, w: Weights) -> MilText:
    """fwdAttn: o, then the taps Q, K, V, a, xn in one result. No turning of positions."""
    f = Function()
    x = f.input("x", (1, size.dim, 1, size.seq))
    xn = norm(f, x, size.dim)
    q, k, v = (linear(f, xn, n, w[f"{n}{i}"]) for n in ("wq", "wk", "wv"))
    width = size.dim // size.heads
    split = (1, size.heads, width, size.seq)
    hq, hk, hv = (f.transpose(f.reshape(z, split), (0, 1, 3, 2)) for z in (q, k, v))
    mask = np.where(np.tri(size.seq, dtype=bool), 0.0, -65504.0)
    scores = f.mul(f.matmul(hq, hk, transpose_y=True), 1 / math.sqrt(width))
    p = f.softmax(f.add(scores, f.weight("mask", (1, 1, size.seq, size.seq), mask)), -1)
    a = f.reshape(f.transpose(f.matmul(p, hv), (0, 1, 3, 2)), x.shape)
    f.output("out", f.concat((linear(f, a, "wo", w[f"wo{i}"]), q, k, v, a, xn), 1))
    return f.build()


def feed_forward(size: Size, i: int, w: Weights) -> MilText:
    """fwdFFN: y, then the taps h1, h3, gate, xn."""
    f = Function()
    xn = norm(f, f.input("x", (1, size.dim, 1, size.seq)), size.dim)
    h1, h3 = (linear(f, xn, n, w[f"{n}{i}"]) for n in ("w1", "w3"))
    gate = f.mul(f.mul(h1, f.sigmoid(h1)), h3)
    f.output("out", f.concat((linear(f, gate, "w2", w[f"w2{i}"]), h1, h3, gate, xn), 1))
    return f.build()


def run(mil: MilText, i: int, w: Weights, x: Array) -> Array:
    """One kernel on the engine: [D, T] -> [channels, T]."""
    kernel = ane.Kernel("k", mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights)
    given = {n: w[f"{n}{i}"] for n in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")}
    with ane.Program(kernel, given) as program:
        y = program.eval(x[None, :, None, :])
    return np.array(y[0] if isinstance(y, (list, tuple)) else y, np.float32)[0, :, 0]


# ---- the same in float32 NumPy


def plain_norm(x: Array) -> Array:
    return x / np.sqrt((x * x).mean(0, keepdims=True) + np.float32(1e-5))


def plain_attention(size: Size, i: int, w: Weights, x: Array) -> Array:
    xn = plain_norm(x)
    q, k, v = (w[f"{n}{i}"] @ xn for n in ("wq", "wk", "wv"))
    split = (size.heads, size.dim // size.heads, size.seq)
    hq, hk, hv = (z.reshape(split) for z in (q, k, v))
    s = np.einsum("hdt,hds->hts", hq, hk) / np.float32(math.sqrt(split[1]))
    s = np.where(np.tri(size.seq, dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    a = np.einsum("hts,hds->hdt", p, hv).reshape(size.dim, size.seq)
    return np.concatenate((w[f"wo{i}"] @ a, q, k, v, a, xn)).astype(np.float32)


def plain_feed_forward(size: Size, i: int, w: Weights, x: Array) -> Array:
    xn = plain_norm(x)
    h1, h3 = w[f"w1{i}"] @ xn, w[f"w3{i}"] @ xn
    gate = h1 / (1 + np.exp(-h1)) * h3
    return np.concatenate((w[f"w2{i}"] @ gate, h1, h3, gate, xn)).astype(np.float32)


# =============================== Comparison =====================================


def close(got: Array, want: Array) -> tuple[float, float]:
    """(largest error relative to the largest value, cosine) in float64."""
    a, b = np.float64(got).ravel(), np.float64(want).ravel()
    return float(abs(a - b).max() / abs(b).max()), float(a @ b / math.sqrt((a @ a) * (b @ b)))


def loss(size: Size, w: Weights, x: Array, targets: npt.NDArray[np.int64]) -> float:
    logits = np.float64(w["embed"] @ plain_norm(x))
    top = logits.max(0)
    at = logits[targets, np.arange(size.seq)]
    return float((top + np.log(np.exp(logits - top).sum(0)) - at).mean())


def forward(size: Size, tokens: npt.NDArray[np.int64]) -> tuple[float, float, float, float]:
    """All layers from the published start: (worst error, worst cosine, loss, NumPy's loss)."""
    w = start(size)
    x = np.ascontiguousarray(w["embed"][tokens[:-1]].T)
    free, worst, least = x, 0.0, 1.0
    for i in range(size.layers):
        for text, formula in ((attention, plain_attention), (feed_forward, plain_feed_forward)):
            got, want = run(text(size, i, w), i, w, x), formula(size, i, w, x)
            error, cosine = close(got, want)
            worst, least = max(worst, error), min(least, cosine)
            x = x + got[: size.dim]
            free = free + formula(size, i, w, free)[: size.dim]
    return worst, least, loss(size, w, x, tokens[1:]), loss(size, w, free, tokens[1:])


# =============================== Tests ==========================================


def test_random_numbers_are_those_of_libc() -> None:
    libc = ctypes.CDLL(None)
    libc.drand48.restype = ctypes.c_double
    libc.srand48(ctypes.c_long(42))
    assert [libc.drand48() for _ in range(1000)] == list(Rand48(42).draw(1000))


@pytest.mark.parametrize(
    ("step", "published"),
    [
        (0, [15380936, 7079775, 2294880, 8724983, 1675653, 17692972, 10304559, 9891692]),
        (10, [9349066, 8028106, 10237242, 1602021, 19893734, 332961, 9353300, 14367985]),
    ],
)
def test_sampling_positions_are_the_published_ones(step: int, published: list[int]) -> None:
    positions = np.floor(Rand48(42 + step).draw(len(published)) * (20658981 - 257))
    assert positions.astype(int).tolist() == published


def test_draws_come_in_pairs_then_matrices() -> None:
    """The first layer's draws, one at a time as the published loops take them."""
    size, w = SMALL, start(SMALL)
    one = iter(Rand48(42).draw(4 * size.dim**2 + 2).tolist())
    by_d = float(np.float32(1 / math.sqrt(size.dim)))
    for a, b in (("wq0", "wk0"), ("wv0", "wo0")):
        for at in range(size.dim**2):
            for name in (a, b):
                assert w[name].flat[at] == np.float32(by_d * (2 * next(one) - 1))
    by_h = float(np.float32(1 / math.sqrt(size.hidden)))
    assert w["w10"].flat[0] == np.float32(by_h * (2 * next(one) - 1))


def test_forward_pass_agrees_with_float32_within_published_tolerances(
    rng: np.random.Generator,
) -> None:
    worst, least, got, want = forward(SMALL, rng.integers(0, SMALL.vocab, SMALL.seq + 1))
    assert worst < 2e-2
    assert least > 0.999
    assert abs(got - want) < 1e-4  # what chips differ by in the published losses
    assert abs(want - math.log(SMALL.vocab)) < 0.1  # a model that knows nothing


if __name__ == "__main__":
    stories = Size()
    draws = np.random.default_rng(0).integers(0, stories.vocab, stories.seq + 1)
    error, cosine, engine_loss, numpy_loss = forward(stories, draws)
    print(f"Stories110M, published start, random tokens: largest relative error {error:.2e}, ")
    print(f"least cosine {cosine:.7f}; loss {engine_loss:.6f}, NumPy {numpy_loss:.6f}, ")
    print(f"ln(vocabulary) {math.log(stories.vocab):.6f}; published with its data 10.390698")
