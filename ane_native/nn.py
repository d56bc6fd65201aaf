# SPDX-License-Identifier: MIT
"""Layers as functions of a graph's values, in the engine's layout [1, channels, 1, tokens] or,
for images, [N, channels, height, width]; and losses as functions of arrays.

A layer names its weights ``<name>.weight`` (``<name>.bias``); ``bake=False`` makes them run-time
inputs of the kernel instead of baked constants, so that both can be compared on one model.
:func:`lora` keeps the base baked and gives only its adapters as inputs: nothing is compiled
while they train.

Losses run on the CPU: sums of the engine are narrow (ANEForge docs/developer/numerics.md), a loss
wants a wide one. They return the gradient with the value, for ``step.backward``.

Letters: D channels in, O out, T tokens, N images, V classes or tokens of a vocabulary, H heads,
K key-value heads, E head dim.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ane_native import cpu, mil
from ane_native.mil import Graph, Value

if TYPE_CHECKING:
    from ane_native.autodiff_base import Back

__all__ = [
    "attention",
    "conv2d",
    "cross_entropy",
    "embedding",
    "gelu_mlp",
    "init_weights",
    "layer_norm",
    "linear",
    "lora",
    "max_pool",
    "mean_pool",
    "mse",
    "one_hot",
    "residual",
    "rms_norm",
    "rope",
    "swiglu",
]

Float = npt.NDArray[np.float32]

MASK = -30000.0  # finite in fp16 beside any score, zero after softmax


# =============================== Parameters =====================================


def _parameter(x: Value, name: str, shape: tuple[int, ...], bake: bool) -> Value:
    """A baked weight, or an input port: a matrix [O, D] as [1, O, 1, D], seen to work on hardware."""
    if bake:
        return x.graph.weight(name, shape)
    shape = (1, shape[0], 1, shape[1]) if len(shape) == 2 else shape
    port = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    for v in x.graph.inputs:
        if mil.label(v) == port and v.shape == shape:
            return v
    return x.graph.input(port, shape)


def _channels(x: Value, layer: str) -> int:
    if x.ndim != 4 or x.shape[0] != 1 or x.shape[2] != 1:
        raise ValueError(f"{layer}: operand 'x': expected shape [1, D, 1, T], got {list(x.shape)}")
    return x.shape[1]


def init_weights(graph: Graph, rng: np.random.Generator) -> dict[str, Float]:
    """First values of every named weight of a graph, in the shapes it has there, float32.

    Biases (``….bias``) are 0, gains ([1, D, 1, 1], or one axis) 1, the rest is N(0, 2 / fan-in)
    with the fan-in of a product or convolution (He et al. 2015), of an embedding N(0, 0.02).

    Args:
        graph: of layers. rng: the same state gives the same numbers, to the bit.
    """
    made: dict[str, Float] = {}
    for s in graph.statements:
        found = graph.weight_source(s.results[0]) if s.op == "const" else None
        if found is None or found[0] in made:
            continue
        name, transposed = found
        shape = s.results[0].shape
        shape = shape[:2] if shape[2:] == (1, 1) and shape[0] > 1 else shape
        shape = shape[::-1] if transposed else shape
        if name.endswith(".bias"):
            made[name] = np.zeros(shape, np.float32)
        elif len(shape) < 2 or set(shape[:1] + shape[2:]) == {1}:
            made[name] = np.ones(shape, np.float32)
        else:
            fan_in = int(np.prod(shape[1:]))
            std = 0.02 if name.endswith(".table") else (2 / fan_in) ** 0.5
            made[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
    return made


# =============================== Layers =========================================


def linear(x: Value, out: int, name: str, *, bias: bool = False, bake: bool = True) -> Value:
    """y[o, t] = sum_d W[o, d] x[d, t] (+ b[o]); W is [O, D]."""
    d = _channels(x, "linear")
    w = _parameter(x, f"{name}.weight", (out, d), bake)
    y = w @ x if bake else mil.conv(x, w.reshape(out, d, 1, 1))
    return y + _parameter(x, f"{name}.bias", (1, out, 1, 1), bake) if bias else y


def lora(x: Value, out: int, name: str, *, rank: int, alpha: float) -> Value:
    """The baked linear layer plus alpha / rank B A x; A [rank, D], B [O, rank] are inputs."""
    down = linear(x, rank, f"{name}.lora_a", bake=False)
    up = linear(down, out, f"{name}.lora_b", bake=False)
    return linear(x, out, name) + up * (alpha / rank)


def rms_norm(x: Value, name: str, *, eps: float = 1e-5, bake: bool = True) -> Value:
    """x / sqrt(mean over channels of x² + eps), times a gain per channel.

    Squares are those of x / 16, and their sum is rounded, not their mean: of x itself the sum leaves
    fp16 at an rms of sqrt(65504 / C); the mean of a small x is a few steps of fp16.
    """
    _channels(x, "rms_norm")
    return _rms_norm(x, name, eps, bake)


def _rms_norm(x: Value, name: str, eps: float, bake: bool) -> Value:
    small = x * (1 / 16)
    r = ((small * small).sum(1, keepdims=True) * (256.0 / x.shape[1]) + eps) ** -0.5
    return _over_rms(x, r) * _parameter(x, f"{name}.weight", (1, x.shape[1], 1, 1), bake)


def _over_rms(x: Value, r: Value) -> Value:
    """x r, where r is the inverse root of the mean square of x over the channels.

    Differentiated as a whole, x̂ = x r: dx = r (dx̂ - x̂ mean(dx̂ x̂)), where no factor is larger
    than the result. One by one, r³ meets the gradient before x makes it small again, and a
    gradient that a loss scale has lifted leaves fp16.
    """

    def back(b: Back) -> None:
        r, y, dy = b.s.value("y"), b.y, b.dy
        b.put("x", lambda: r * (dy - y * (dy * y).mean(1, keepdims=True)))

    y = x * r
    assert y.statement is not None
    y.statement.back = back
    return y


def layer_norm(x: Value, name: str, *, eps: float = 1e-5, bake: bool = True) -> Value:
    """Zero mean and unit variance over channels, then gain and bias per channel."""
    d = _channels(x, "layer_norm")
    centred = x - x.mean(1, keepdims=True)
    r = ((centred * centred).mean(1, keepdims=True) + eps) ** -0.5
    gain = _parameter(x, f"{name}.weight", (1, d, 1, 1), bake)
    return _over_rms(centred, r) * gain + _parameter(x, f"{name}.bias", (1, d, 1, 1), bake)


def rope(x: Value, *, theta: float = 10000.0) -> Value:
    """Rotate channel i with channel i + E/2 of [1, H, E, T] by the angle t theta^(-2i/E)."""
    _, _, e, t = x.shape
    if e % 2:
        raise ValueError(f"rope: operand 'x': expected an even head dim, got {e}")
    angle = np.outer(theta ** (-np.arange(e // 2) * 2.0 / e), np.arange(t))
    cos = np.concatenate([np.cos(angle)] * 2).reshape(1, 1, e, t)
    sin = np.concatenate([-np.sin(angle), np.sin(angle)]).reshape(1, 1, e, t)
    sin[np.abs(sin) < 2.0**-24] = 0.0  # below what fp16 holds
    cos[np.abs(cos) < 2.0**-24] = 0.0
    g, half = x.graph, e // 2
    tag = f"{e}_{t}_{theta:g}".replace(".", "p").replace("+", "")
    tables = []
    for kind, table in (("cos", cos), ("sin", sin)):
        made = [
            s.results[0]
            for s in g.statements
            if s.op == "const" and s.results[0].name == f"rope_{kind}_{tag}"
        ]
        tables.append(made[0] if made else g.weight(f"rope_{kind}_{tag}", table.shape, table))
    swapped = mil.concat((x[:, :, half:], x[:, :, :half]), 2)
    return x * tables[0] + swapped * tables[1]


def attention(
    x: Value,
    name: str,
    *,
    heads: int,
    kv_heads: int | None = None,
    theta: float | None = 10000.0,
    head_width: int | None = None,
    qk_norm: bool = False,
    eps: float = 1e-5,
    bake: bool = True,
) -> Value:
    """Causal self-attention: multi-head, or grouped-query with fewer `kv_heads`.

    Args:
        heads: H; D must be a multiple unless `head_width` is given. kv_heads: K, a divisor of H; H
            when None.
        theta: base of the RoPE frequencies, None without RoPE.
        head_width: E; D / H when None.
        qk_norm: :func:`rms_norm` of each head's q and k before RoPE, with gains
            ``<name>.q_norm.weight`` and ``<name>.k_norm.weight`` of E; eps: of it.
    """
    d, t = _channels(x, "attention"), x.shape[3]
    kv = heads if kv_heads is None else kv_heads
    if (head_width is None and d % heads) or heads % kv:
        raise ValueError(
            f"attention: expected heads that divide {d} channels and kv_heads that divide them, "
            f"got {heads} and {kv}"
        )
    e, group = d // heads if head_width is None else head_width, heads // kv
    q = linear(x, heads * e, f"{name}.wq", bake=bake).reshape(1, heads, e, t)
    k = linear(x, kv * e, f"{name}.wk", bake=bake).reshape(1, kv, e, t)
    v = linear(x, kv * e, f"{name}.wv", bake=bake).reshape(1, kv, e, t)
    if qk_norm:  # with a head's channels where norms have theirs
        q, k = (
            _rms_norm(m.transpose(0, 2, 1, 3), f"{name}.{n}_norm", eps, bake).transpose(0, 2, 1, 3)
            for n, m in (("q", q), ("k", k))
        )
    if theta is not None:
        q, k = rope(q, theta=theta), rope(k, theta=theta)
    if group > 1:  # head h reads key-value head h // group
        k = mil.tile(k.reshape(1, kv, 1, e * t), (1, 1, group, 1)).reshape(1, heads, e, t)
        v = mil.tile(v.reshape(1, kv, 1, e * t), (1, 1, group, 1)).reshape(1, heads, e, t)
    g = x.graph
    made = [s.results[0] for s in g.statements if s.results[0].name == f"causal_{t}"]
    mask = (
        made[0]
        if made
        else g.weight(f"causal_{t}", (1, 1, t, t), np.triu(np.full((t, t), MASK), 1))
    )
    p = mil.softmax(mil.matmul(q * e**-0.5, k, transpose_x=True) + mask, -1)
    y = mil.matmul(v, p, transpose_y=True).reshape(1, heads * e, 1, t)
    return linear(y, d, f"{name}.wo", bake=bake)


def swiglu(x: Value, hidden: int, name: str, *, bake: bool = True) -> Value:
    """W2 (silu(W1 x) * W3 x)."""
    d = _channels(x, "swiglu")
    gate = mil.silu(linear(x, hidden, f"{name}.w1", bake=bake))
    return linear(gate * linear(x, hidden, f"{name}.w3", bake=bake), d, f"{name}.w2", bake=bake)


def gelu_mlp(x: Value, hidden: int, name: str, *, bake: bool = True) -> Value:
    """W2 gelu(W1 x + b1) + b2."""
    d = _channels(x, "gelu_mlp")
    h = mil.gelu(linear(x, hidden, f"{name}.w1", bias=True, bake=bake), "EXACT")
    return linear(h, d, f"{name}.w2", bias=True, bake=bake)


def residual(x: Value, layer: Callable[[Value], Value]) -> Value:
    """x + layer(x); shapes must agree, for a skipped connection is never broadcast.

    Raises:
        ValueError: the layer's result has another shape.
    """
    y = layer(x)
    if y.shape != x.shape:
        raise ValueError(f"residual: expected a layer to {list(x.shape)}, got {list(y.shape)}")
    return x + y


# =============================== Images =========================================


def _image(x: Value, layer: str) -> tuple[int, int, int, int]:
    if x.ndim != 4:
        raise ValueError(f"{layer}: operand 'x': expected shape [N, D, H, W], got {list(x.shape)}")
    n, d, h, w = x.shape
    return n, d, h, w


def conv2d(
    x: Value,
    out: int,
    name: str,
    *,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = "same",
    groups: int = 1,
    bias: bool = True,
    bake: bool = True,
) -> Value:
    """A convolution over height and width, [N, D, H, W] -> [N, O, H', W'].

    Args:
        out: O. name: of its weight [O, D / groups, kernel] and bias [1, O, 1, 1].
        kernel, stride: of height and width, or one number for both. A kernel may be at most 13
            wide on M1 and 15 on M4 (measured, ANEForge op-quirks.md).
        padding: zeros at each side, ``"same"`` (the size divided by the stride, odd kernels
            only) or ``"valid"`` (none).
        groups: divides D and O; more than one need a baked weight (depthwise convolutions with
            run-time weights are refused, imperatormk/ane-train).
        bake: False: the weight is an input, which the engine takes for N = 1 only (likewise).

    Raises:
        ValueError: operand, what was expected, what came.
    """
    n, d, _, _ = _image(x, "conv2d")

    def pair(what: str, value: Any, least: int) -> tuple[int, int]:
        both = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
        if len(both) != 2 or any(not isinstance(v, int) or v < least for v in both):
            raise ValueError(
                f"conv2d: {what}: expected one or two ints from {least}, got {value!r}"
            )
        return both[0], both[1]

    size, step = pair("kernel", kernel, 1), pair("stride", stride, 1)
    if groups < 1 or d % groups or out % groups:
        raise ValueError(f"conv2d: groups: expected a divisor of {d} and {out}, got {groups}")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"conv2d: padding: expected a number, same or valid, got {padding!r}")
        if padding == "same" and not (size[0] % 2 and size[1] % 2):
            raise ValueError(f"conv2d: padding: expected odd kernels with same, got {size}")
        edge = (size[0] // 2, size[1] // 2) if padding == "same" else (0, 0)
    else:
        edge = pair("padding", padding, 0)
    if not bake and (groups > 1 or n > 1):
        raise ValueError(f"conv2d: bake=False: expected N = 1 and one group, got {n} and {groups}")
    y = mil.conv(
        x,
        _parameter(x, f"{name}.weight", (out, d // groups, *size), bake),
        strides=step,
        pad_type="custom",
        pad=(edge[0], edge[0], edge[1], edge[1]),
        groups=groups,
    )
    return y + _parameter(x, f"{name}.bias", (1, out, 1, 1), bake) if bias else y


def max_pool(x: Value, size: int = 2) -> Value:
    """The largest of each `size` x `size` square, [N, D, H, W] -> [N, D, H / size, W / size]; H
    and W are multiples of `size`."""
    _squares(x, "max_pool", size)
    return mil.max_pool(x, (size, size), strides=(size, size), pad_type="valid")


def mean_pool(x: Value, size: int | None = None) -> Value:
    """The mean of each square; without `size` of the whole image, [N, D, H, W] -> [N, D, 1, 1]."""
    if size is None:
        _image(x, "mean_pool")
        return x.mean((2, 3), keepdims=True)
    _squares(x, "mean_pool", size)
    return mil.avg_pool(
        x,
        (size, size),
        strides=(size, size),
        pad_type="valid",
        exclude_padding_from_average=False,
    )


def _squares(x: Value, layer: str, size: int) -> None:
    _, _, h, w = _image(x, layer)
    if size < 1 or h % size or w % size:
        raise ValueError(f"{layer}: size: expected a divisor of {h} and {w}, got {size}")


# =============================== Embedding ======================================

# A convolution with 32000 input channels is refused (maderix/ANE training/ane_classifier.h).
MAX_VOCAB = 31999


def embedding(hot: Value, dim: int, name: str, *, bake: bool = True) -> Value:
    """Rows of a table, as a product with one-hot columns: [1, V, 1, T] -> [1, D, 1, T].

    The engine has no gather by run-time indices (refused: ironmill, ANEForge), so what it can
    do is ``table.T @ hot``, with `hot` written by :func:`one_hot`. It costs 2 V D T operations
    and a surface of 2 V T bytes; for large vocabularies look the rows up on the CPU instead
    (:func:`ane_native.cpu.embed_forward`), as all trainers of Llamas do.

    Args:
        hot: one column for each token; V at most 31999.
        dim: D. name: of the weight ``<name>.table`` [V, D].
    """
    vocab = _channels(hot, "embedding")
    if vocab > MAX_VOCAB:
        raise ValueError(
            f"embedding: operand 'hot': expected at most {MAX_VOCAB} channels (a convolution takes "
            f"no more), got {vocab}"
        )
    table = _parameter(hot, f"{name}.table", (vocab, dim), bake)
    if bake:
        return table.T @ hot
    return mil.conv(hot, mil.transpose(table.reshape(vocab, dim, 1, 1), (1, 0, 2, 3)))


def one_hot(tokens: npt.ArrayLike, out: npt.NDArray[np.float16]) -> None:
    """Write one-hot columns into `out`, such as the surface ``step.inputs["hot"]``.

    Args:
        tokens: T ints from 0 to V - 1. out: [1, V, 1, T] or [V, T] float16, written.

    Raises:
        ValueError: a token outside, or another number of them. TypeError: no ints.
    """
    plane = out[0, :, 0] if out.ndim == 4 and out.shape[0] == out.shape[2] == 1 else out
    if plane.ndim != 2:
        raise ValueError(f"one_hot: out: expected [1, V, 1, T] or [V, T], got {list(out.shape)}")
    vocab, count = plane.shape
    index = _classes("one_hot: tokens", tokens, vocab, count)
    plane[...] = 0
    plane[index, np.arange(count)] = 1


# =============================== Losses =========================================


def _classes(what: str, given: npt.ArrayLike, classes: int, count: int) -> npt.NDArray[np.int64]:
    index = np.asarray(given)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{what}: expected ints, got {index.dtype}")
    if index.size != count:
        raise ValueError(f"{what}: expected {count} of them, got {index.size}")
    index = index.reshape(-1).astype(np.int64)
    if count and (index.min() < 0 or index.max() >= classes):
        bad = index[(index < 0) | (index >= classes)][0]
        raise ValueError(f"{what}: expected 0 to {classes - 1}, got {bad}")
    return index


def cross_entropy(
    logits: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    axis: int = 1,
    scale: float = 1.0,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Mean cross entropy in nats, and its gradient by the logits.

    Args:
        logits: any real dtype; classes along `axis`: 1 of [1, V, 1, T], [N, V, 1, 1], [N, V].
        targets: ints from 0 to V - 1, one for each place, in the order of the other axes.
        scale: factor on the gradient alone; fp16 gradients of an engine want some (loss scale).
        out: where the gradient goes, of the shape of `logits`, any float dtype: with
            ``step.adjoints["logits"]`` there it needs no copy, ``step.backward()`` no argument.

    Returns:
        (loss, gradient): ``(softmax - one-hot) scale / places``; `out`, or a new float32 array.

    Raises:
        ValueError: shapes or targets that do not fit. TypeError: targets that are no ints.
    """
    given = np.asarray(logits)
    if not -given.ndim <= axis < given.ndim:
        raise ValueError(
            f"cross_entropy: axis: expected an axis of {list(given.shape)}, got {axis}"
        )
    if out is not None and out.shape != given.shape:
        raise ValueError(
            f"cross_entropy: out: expected shape {list(given.shape)}, got {list(out.shape)}"
        )
    moved = np.moveaxis(given, axis, -1)
    classes = moved.shape[-1]
    index = _classes("cross_entropy: targets", targets, classes, given.size // max(1, classes))
    made: npt.NDArray[Any] = np.empty(given.shape, np.float32) if out is None else out
    tokens = given.ndim == 4 and given.shape[0] == given.shape[2] == 1 and axis % 4 == 1
    plain = all(v.dtype == np.float16 and v.flags.c_contiguous for v in (given, made))
    if tokens and plain:
        return cpu.cross_entropy(given, index.astype(np.int32), scale=scale, dlogits=made), made
    z = moved.reshape(-1, classes).astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1, keepdims=True)
    place = np.arange(index.size)
    loss = float((np.log(total[:, 0]) - z[place, index]).mean())
    p = e / total
    p[place, index] -= 1.0
    made[...] = np.moveaxis((p * (scale / index.size)).reshape(moved.shape), -1, axis)
    return loss, made


def mse(
    y: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    scale: float = 1.0,
    out: npt.NDArray[Any] | None = None,
) -> tuple[float, npt.NDArray[Any]]:
    """Mean squared error, and its gradient by `y`.

    Args:
        y: any real dtype and shape. target: as many elements.
        scale, out: as of :func:`cross_entropy`.

    Returns:
        (loss, gradient): mean of (y - target)², and ``2 (y - target) scale / elements`` in the
        shape of `y`; `out`, or a new float32 array.

    Raises:
        ValueError: numbers of elements that differ, or an `out` of another shape.
    """
    given, wanted = np.asarray(y), np.asarray(target)
    if given.size != wanted.size or not given.size:
        raise ValueError(f"mse: target: expected {given.size} elements, got {wanted.size}")
    if out is not None and out.shape != given.shape:
        raise ValueError(f"mse: out: expected shape {list(given.shape)}, got {list(out.shape)}")
    error = given.astype(np.float64) - wanted.reshape(given.shape)
    made = np.empty(given.shape, np.float32) if out is None else out
    made[...] = error * (2.0 * scale / given.size)
    return float(np.mean(error**2)), made
