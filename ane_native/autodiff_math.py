# SPDX-License-Identifier: MIT
"""Derivatives of elementwise operations, reductions and norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from ane_native.autodiff_base import Back, Rule, along, channel, kept, stretch, unbroadcast
from ane_native.mil import Graph, Value

# =============================== Elementwise ====================================

Slope: TypeAlias = Callable[[Back, Graph, Value, Value, Value], Value]


def unary(slope: Slope) -> Rule:
    """dx = slope(b, g, x, y, dy)."""

    def rule(b: Back) -> None:
        b.put("x", lambda: slope(b, b.g, b.x, b.y, b.dy))

    return rule


def silu_back(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
    s = g.sigmoid(x)
    return dy * (s * (1.0 + x * (1.0 - s)))


def gelu_back(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
    mode = b.p("mode")
    if mode == "EXACT":
        phi = g.exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
        return dy * ((g.erf(x * math.sqrt(0.5)) * 0.5 + 0.5) + x * phi)
    if mode == "SIGMOID_APPROXIMATION":
        s = g.sigmoid(x * 1.702)
        return dy * (s * (1.0 + x * 1.702 * (1.0 - s)))
    c = math.sqrt(2 / math.pi)
    t = g.tanh((x + x * x * x * 0.044715) * c)
    inner = (x * x * (3 * 0.044715) + 1.0) * c
    return dy * ((t + 1.0) * 0.5 + x * 0.5 * (1.0 - t * t) * inner)


def between(g: Graph, v: Value, low: float, high: float, dy: Value) -> Value:
    return g.select(g.less(v, high), g.select(g.greater(v, low), dy, 0.0), 0.0)


def per_channel_back(b: Back) -> None:
    """prelu, softplus_parametric: x, and the vectors alpha and beta."""
    g, x, dy = b.g, b.x, b.dy
    alpha = channel(g, b.s.value("alpha"), x.ndim)

    def vector(v: Value) -> Value:
        axes = [i for i in range(x.ndim) if i != 1]
        return g.reduce_sum(v, axes, keep_dims=False)

    if b.s.op == "prelu":
        b.put("x", lambda: g.select(g.less(x, 0.0), dy * alpha, dy))
        b.put("alpha", lambda: vector(g.select(g.less(x, 0.0), dy * x, 0.0)))
        return
    beta = channel(g, b.s.value("beta"), x.ndim)
    b.put("x", lambda: dy * alpha * beta * g.sigmoid(beta * x))
    b.put("alpha", lambda: vector(dy * g.softplus(beta * x)))
    b.put("beta", lambda: vector(dy * alpha * x * g.sigmoid(beta * x)))


def add_back(b: Back) -> None:
    b.put("x", lambda: b.dy)
    b.put("y", lambda: b.dy)


def sub_back(b: Back) -> None:
    b.put("x", lambda: b.dy)
    b.put("y", lambda: -b.dy)


def mul_back(b: Back) -> None:
    x, y = b.s.value("x"), b.s.value("y")
    b.put("x", lambda: b.dy * y)
    b.put("y", lambda: b.dy * x)


def div_back(b: Back) -> None:
    y = b.s.value("y")
    b.put("x", lambda: b.dy / y)
    b.put("y", lambda: -(b.dy * (b.y / y)))


def mod_back(b: Back) -> None:
    x, y = b.s.value("x"), b.s.value("y")
    b.put("x", lambda: b.dy)
    b.put("y", lambda: -(b.dy * b.g.floor_div(x, y)))


def pow_back(b: Back) -> None:
    g, x, y = b.g, b.s.value("x"), b.s.value("y")
    literal = y.statement.literal if y.statement is not None else None

    def dx() -> Value:
        if isinstance(literal, float) and literal in (-0.5, -1.0):
            # by the result, which is kept anyway and is the smaller number where x is small
            cube = b.y * b.y * b.y if literal == -0.5 else b.y * b.y
            return b.dy * (cube * literal)
        if isinstance(literal, float):
            return g.mul(b.dy, g.mul(g.pow(x, literal - 1.0), literal))
        return b.dy * (y * g.pow(x, y - 1.0))

    b.put("x", dx)
    b.put("y", lambda: b.dy * (b.y * g.log(x, 0.0)))


def extreme_back(b: Back) -> None:
    """maximum, minimum: ties go to x."""
    x, y = b.s.value("x"), b.s.value("y")
    first = b.g.greater_equal if b.s.op == "maximum" else b.g.less_equal
    b.put("x", lambda: b.g.select(first(x, y), b.dy, 0.0))
    b.put("y", lambda: b.g.select(first(x, y), 0.0, b.dy))


def select_back(b: Back) -> None:
    cond = b.s.value("cond")
    b.put("a", lambda: b.g.select(cond, b.dy, 0.0))
    b.put("b", lambda: b.g.select(cond, 0.0, b.dy))


def cast_back(b: Back) -> None:
    if b.y.dtype not in ("fp16", "fp32"):
        b.fail(f"the result is {b.y.dtype}")
    b.put("x", lambda: b.g.cast(b.dy, b.x.dtype))


# =============================== Along axes =====================================


def reduction(slope: Callable[[Back, Graph, Value, Value, Value], Value]) -> Rule:
    """dx from x, the kept result and the kept adjoint."""

    def rule(b: Back) -> None:
        b.put(
            "x",
            lambda: stretch(b.g, slope(b, b.g, b.x, kept(b, b.y), kept(b, b.dy)), b.x.shape),
        )

    return rule


def reduce_extreme_back(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
    """Ties share alike."""
    hit = g.cast(g.equal(x, y), "fp16")
    axes = [i for i in range(x.ndim) if x.shape[i] != y.shape[i]]
    count = g.reduce_sum(hit, axes, keep_dims=True) if axes else hit
    return hit * (dy / count)


def cumsum_back(b: Back) -> None:
    flags = {k: b.p(k, False) for k in ("exclusive", "reverse")}
    b.put(
        "x",
        lambda: b.g.cumsum(
            b.dy, b.p("axis", 0), exclusive=flags["exclusive"], reverse=not flags["reverse"]
        ),
    )


def softmax_back(b: Back) -> None:
    g, y, dy = b.g, b.y, b.dy
    b.put("x", lambda: y * (dy - g.reduce_sum(y * dy, (b.p("axis", -1),), keep_dims=True)))


def _normalised(b: Back, axes: Sequence[int], gamma: Value | None, shape: Sequence[int]) -> None:
    """layer_norm and instance_norm: y = xhat gamma + beta, xhat = (x - mean) r."""
    g, x, dy = b.g, b.x, b.dy
    n = math.prod(x.shape[a] for a in axes)
    eps = b.p("epsilon", 1e-5)

    def mean(v: Value) -> Value:
        return g.reduce_sum(v, axes, keep_dims=True) * (1.0 / n)

    def xhat() -> tuple[Value, Value]:
        centred = x - mean(x)
        r = g.pow(mean(centred * centred) + eps, -0.5)
        return centred * r, r

    def dx() -> Value:
        u = dy if gamma is None else dy * g.reshape(gamma, shape)
        h, r = xhat()
        return r * (u - mean(u) - h * mean(u * h))

    def fold(v: Value, key: str) -> Value:
        return g.reshape(unbroadcast(g, v, shape), b.s.value(key).shape)

    b.put("x", dx)
    b.put("gamma", lambda: fold(dy * xhat()[0], "gamma"))
    b.put("beta", lambda: fold(dy, "beta"))


def layer_norm_back(b: Back) -> None:
    axes = b.p("axes")
    axes = sorted(range(b.x.ndim) if axes is None else {a % b.x.ndim for a in axes})
    gamma = b.s.operands.get("gamma")
    shape = [n if i in axes else 1 for i, n in enumerate(b.x.shape)]
    _normalised(b, axes, gamma if isinstance(gamma, Value) else None, shape)


def instance_norm_back(b: Back) -> None:
    gamma = b.s.operands.get("gamma")
    shape = [1, b.x.shape[1], *(1,) * (b.x.ndim - 2)]
    _normalised(b, range(2, b.x.ndim), gamma if isinstance(gamma, Value) else None, shape)


def batch_norm_back(b: Back) -> None:
    g, x, dy = b.g, b.x, b.dy
    axes = [i for i in range(x.ndim) if i != 1]
    eps = b.p("epsilon", 1e-5)
    gamma = b.s.operands.get("gamma")
    r = g.pow(b.s.value("variance") + eps, -0.5)
    scale = r * gamma if isinstance(gamma, Value) else r

    def vector(v: Value) -> Value:
        return g.reduce_sum(v, axes, keep_dims=False)

    def centred() -> Value:
        return x - channel(g, b.s.value("mean"), x.ndim)

    b.put("x", lambda: dy * channel(g, scale, x.ndim))
    b.put("beta", lambda: vector(dy))
    b.put("gamma", lambda: vector(dy * centred()) * r)
    b.put("mean", lambda: -(vector(dy) * scale))
    b.put("variance", lambda: vector(dy * centred()) * scale * r * r * -0.5)


def l2_norm_back(b: Back) -> None:
    g, x, y, dy = b.g, b.x, b.y, b.dy
    axes = (-3, -2, -1)

    def dx() -> Value:
        r = g.pow(g.reduce_sum(x * x, axes, keep_dims=True) + b.p("epsilon", 1e-6), -0.5)
        return r * (dy - y * g.reduce_sum(y * dy, axes, keep_dims=True))

    b.put("x", dx)


def lrn_back(b: Back) -> None:
    g, x, dy = b.g, b.x, b.dy
    size, channels = b.p("size"), b.x.shape[1]
    alpha, beta, k = b.p("alpha", 1e-4), b.p("beta", 0.75), b.p("k", 1.0)
    band = np.zeros((channels, channels))
    for c in range(channels):
        band[c, max(0, c - size // 2) : c + (size - 1) // 2 + 1] = 1

    def dx() -> Value:
        u = g.add(g.mul(along(g, x * x, 1, band), alpha / size), k)
        spread = along(g, dy * x * g.pow(u, -beta - 1.0), 1, band.T)
        return g.sub(dy * g.pow(u, -beta), g.mul(x * spread, 2 * alpha * beta / size))

    b.put("x", dx)
