# SPDX-License-Identifier: MIT
"""Layers as functions of a graph's values, in the engine's layout [1, channels, 1, tokens].

A layer names its weights ``<name>.weight`` (``<name>.bias``); ``bake=False`` makes them run-time
inputs of the kernel instead of baked constants, so that both can be compared on one model.
:func:`lora` keeps the base baked and gives only its adapters as inputs: nothing is compiled
while they train.

Letters: D channels in, O out, T tokens, H heads, K key-value heads, E head dim.
"""

from __future__ import annotations

import re

import numpy as np

from ane_native import mil
from ane_native.mil import Value

__all__ = ["attention", "gelu_mlp", "layer_norm", "linear", "lora", "rms_norm", "rope", "swiglu"]

MASK = -30000.0  # finite in fp16 beside any score, zero after softmax


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
    """x / sqrt(mean over channels of x² + eps), times a gain per channel."""
    d = _channels(x, "rms_norm")
    r = ((x * x).mean(1, keepdims=True) + eps) ** -0.5
    return x * r * _parameter(x, f"{name}.weight", (1, d, 1, 1), bake)


def layer_norm(x: Value, name: str, *, eps: float = 1e-5, bake: bool = True) -> Value:
    """Zero mean and unit variance over channels, then gain and bias per channel."""
    d = _channels(x, "layer_norm")
    centred = x - x.mean(1, keepdims=True)
    r = ((centred * centred).mean(1, keepdims=True) + eps) ** -0.5
    gain = _parameter(x, f"{name}.weight", (1, d, 1, 1), bake)
    return centred * r * gain + _parameter(x, f"{name}.bias", (1, d, 1, 1), bake)


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
    bake: bool = True,
) -> Value:
    """Causal self-attention: multi-head, or grouped-query with fewer `kv_heads`.

    Args:
        heads: H; D must be a multiple. kv_heads: K, a divisor of H; H when None.
        theta: base of the RoPE frequencies, None without RoPE.
    """
    d, t = _channels(x, "attention"), x.shape[3]
    kv = heads if kv_heads is None else kv_heads
    if d % heads or heads % kv:
        raise ValueError(
            f"attention: expected heads that divide {d} channels and kv_heads that divide them, "
            f"got {heads} and {kv}"
        )
    e, group = d // heads, heads // kv
    q = linear(x, d, f"{name}.wq", bake=bake).reshape(1, heads, e, t)
    k = linear(x, kv * e, f"{name}.wk", bake=bake).reshape(1, kv, e, t)
    v = linear(x, kv * e, f"{name}.wv", bake=bake).reshape(1, kv, e, t)
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
    y = mil.matmul(v, p, transpose_y=True).reshape(1, d, 1, t)
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
