# SPDX-License-Identifier: MIT
"""Derivatives, one rule per operation: adjoint of the result -> adjoints of the operands.

A rule gets a :class:`Back` and calls :meth:`Back.put` for each operand it knows the adjoint of;
what is put is built only when somebody wants it. Formulas are those of the textbooks; where
the derivative jumps (relu at 0, ties of a maximum) the comments say which value is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ane_native.errors import AneError
from ane_native.mil import Graph, Statement, Value
from ane_native.mil_rules import Window, window
from ane_native.mil_rules_shape import grid_points, slices

__all__ = ["NOT_DIFFERENTIABLE", "RULES", "ZERO", "Back", "NotDifferentiable"]


class NotDifferentiable(AneError, ValueError):  # noqa: N818
    """A derivative was asked of an operation that has none; the message says which and why."""


class Back:
    """One operation on the way back.

    Attributes:
        g: the joint graph. s: the operation. dys: adjoints of its results, None where zero.
    """

    def __init__(
        self,
        g: Graph,
        s: Statement,
        dys: Sequence[Value | None],
        wanted: Callable[[Value], bool],
        give: Callable[[Value, Value], None],
    ) -> None:
        self.g, self.s, self.dys = g, s, dys
        self._wanted, self._give = wanted, give

    @property
    def dy(self) -> Value:
        """Adjoint of the only result."""
        assert self.dys[0] is not None
        return self.dys[0]

    @property
    def x(self) -> Value:
        return self.s.value("x")

    @property
    def y(self) -> Value:
        return self.s.results[0]

    def p(self, key: str, absent: Any = None) -> Any:
        """A constant operand."""
        return self.s.params.get(key, absent)

    def wants(self, value: Value) -> bool:
        return self._wanted(value)

    def put(self, operand: str | Value, make: Callable[[], Value]) -> None:
        """The adjoint of an operand, summed over the axes it was broadcast along."""
        if isinstance(operand, str):
            if operand not in self.s.operands:
                return
            value = self.s.value(operand)
        else:
            value = operand
        if self._wanted(value):
            self._give(value, unbroadcast(self.g, make(), value.shape))

    def fail(self, why: str) -> None:
        raise NotDifferentiable(f"{self.s.op}: not differentiable: {why}")


Rule: TypeAlias = Callable[[Back], None]

# =============================== Helpers ========================================


def unbroadcast(g: Graph, v: Value, shape: Sequence[int]) -> Value:
    """Sum over the axes that a value of `shape` was stretched along."""
    shape = tuple(shape)
    if v.shape == shape:
        return v
    extra = v.ndim - len(shape)
    axes = [*range(extra)]
    axes += [i + extra for i, n in enumerate(shape) if n == 1 and v.shape[i + extra] != 1]
    if axes:
        v = g.reduce_sum(v, axes, keep_dims=True)
    return v if v.shape == shape else g.reshape(v, shape) if shape else g.squeeze(v)


def kept(b: Back, v: Value) -> Value:
    """A result of a reduction with the reduced axes at size 1."""
    axes = b.p("axes")
    axes = range(b.x.ndim) if axes is None else [a % b.x.ndim for a in axes]
    shape = tuple(1 if i in axes else n for i, n in enumerate(b.x.shape))
    return v if v.shape == shape else b.g.reshape(v, shape)


def stretch(g: Graph, v: Value, shape: Sequence[int]) -> Value:
    """Repeat axes of size 1 up to `shape` (ranks are equal)."""
    reps = tuple(n if m == 1 else 1 for m, n in zip(v.shape, shape, strict=True))
    return v if set(reps) == {1} else g.tile(v, reps)


def along(g: Graph, v: Value, axis: int, matrix: Any) -> Value:
    """y = matrix v along one axis, by a product with a constant."""
    m = g.const(np.asarray(matrix, np.float64))
    if v.ndim == 1:
        return g.reshape(g.matmul(m, g.reshape(v, (v.size, 1))), (len(matrix),))
    if axis == v.ndim - 1:
        return g.matmul(v, m, transpose_y=True)
    order = [i for i in range(v.ndim) if i != axis]
    order.insert(v.ndim - 2, axis)
    moved = v if order == list(range(v.ndim)) else g.transpose(v, order)
    made = g.matmul(m, moved)
    return made if moved is v else g.transpose(made, [order.index(i) for i in range(v.ndim)])


def picks(index: Any, size: int) -> Any:
    """The matrix of y[i] = x[index[i]]."""
    return np.eye(size)[np.asarray(index).reshape(-1)]


def channel(g: Graph, v: Value, rank: int) -> Value:
    """[C] as [1, C, 1, …]."""
    return g.reshape(v, (1, v.shape[0], *(1,) * (rank - 2)))


def win(b: Back) -> Window:
    types = {k: v.type for k, v in b.s.operands.items() if isinstance(v, Value)}
    return window(b.s.op, types, b.s.params)


def pads(w: Window) -> list[int]:
    return [max(n, 0) for pair in zip(w.before, w.after, strict=True) for n in pair]


# =============================== Elementwise ====================================

Slope: TypeAlias = Callable[[Back, Graph, Value, Value, Value], Value]


def _unary(slope: Slope) -> Rule:
    """dx = slope(b, g, x, y, dy)."""

    def rule(b: Back) -> None:
        b.put("x", lambda: slope(b, b.g, b.x, b.y, b.dy))

    return rule


def _silu(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
    s = g.sigmoid(x)
    return dy * (s * (1.0 + x * (1.0 - s)))


def _gelu(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
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


def _between(g: Graph, v: Value, low: float, high: float, dy: Value) -> Value:
    return g.select(g.less(v, high), g.select(g.greater(v, low), dy, 0.0), 0.0)


def _per_channel(b: Back) -> None:
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


def _add(b: Back) -> None:
    b.put("x", lambda: b.dy)
    b.put("y", lambda: b.dy)


def _sub(b: Back) -> None:
    b.put("x", lambda: b.dy)
    b.put("y", lambda: -b.dy)


def _mul(b: Back) -> None:
    x, y = b.s.value("x"), b.s.value("y")
    b.put("x", lambda: b.dy * y)
    b.put("y", lambda: b.dy * x)


def _div(b: Back) -> None:
    y = b.s.value("y")
    b.put("x", lambda: b.dy / y)
    b.put("y", lambda: -(b.dy * (b.y / y)))


def _mod(b: Back) -> None:
    x, y = b.s.value("x"), b.s.value("y")
    b.put("x", lambda: b.dy)
    b.put("y", lambda: -(b.dy * b.g.floor_div(x, y)))


def _pow(b: Back) -> None:
    g, x, y = b.g, b.s.value("x"), b.s.value("y")
    literal = y.statement.literal if y.statement is not None else None

    def dx() -> Value:
        if isinstance(literal, float):
            return g.mul(b.dy, g.mul(g.pow(x, literal - 1.0), literal))
        return b.dy * (y * g.pow(x, y - 1.0))

    b.put("x", dx)
    b.put("y", lambda: b.dy * (b.y * g.log(x, 0.0)))


def _extreme(b: Back) -> None:
    """maximum, minimum: ties go to x."""
    x, y = b.s.value("x"), b.s.value("y")
    first = b.g.greater_equal if b.s.op == "maximum" else b.g.less_equal
    b.put("x", lambda: b.g.select(first(x, y), b.dy, 0.0))
    b.put("y", lambda: b.g.select(first(x, y), 0.0, b.dy))


def _select(b: Back) -> None:
    cond = b.s.value("cond")
    b.put("a", lambda: b.g.select(cond, b.dy, 0.0))
    b.put("b", lambda: b.g.select(cond, 0.0, b.dy))


def _cast(b: Back) -> None:
    if b.y.dtype not in ("fp16", "fp32"):
        b.fail(f"the result is {b.y.dtype}")
    b.put("x", lambda: b.g.cast(b.dy, b.x.dtype))


# =============================== Along axes =====================================


def _reduction(slope: Callable[[Back, Graph, Value, Value, Value], Value]) -> Rule:
    """dx from x, the kept result and the kept adjoint."""

    def rule(b: Back) -> None:
        b.put(
            "x",
            lambda: stretch(b.g, slope(b, b.g, b.x, kept(b, b.y), kept(b, b.dy)), b.x.shape),
        )

    return rule


def _reduce_extreme(b: Back, g: Graph, x: Value, y: Value, dy: Value) -> Value:
    """Ties share alike."""
    hit = g.cast(g.equal(x, y), "fp16")
    axes = [i for i in range(x.ndim) if x.shape[i] != y.shape[i]]
    count = g.reduce_sum(hit, axes, keep_dims=True) if axes else hit
    return hit * (dy / count)


def _cumsum(b: Back) -> None:
    flags = {k: b.p(k, False) for k in ("exclusive", "reverse")}
    b.put(
        "x",
        lambda: b.g.cumsum(
            b.dy, b.p("axis", 0), exclusive=flags["exclusive"], reverse=not flags["reverse"]
        ),
    )


def _softmax(b: Back) -> None:
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


def _layer_norm(b: Back) -> None:
    axes = b.p("axes")
    axes = sorted(range(b.x.ndim) if axes is None else {a % b.x.ndim for a in axes})
    gamma = b.s.operands.get("gamma")
    shape = [n if i in axes else 1 for i, n in enumerate(b.x.shape)]
    _normalised(b, axes, gamma if isinstance(gamma, Value) else None, shape)


def _instance_norm(b: Back) -> None:
    gamma = b.s.operands.get("gamma")
    shape = [1, b.x.shape[1], *(1,) * (b.x.ndim - 2)]
    _normalised(b, range(2, b.x.ndim), gamma if isinstance(gamma, Value) else None, shape)


def _batch_norm(b: Back) -> None:
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


def _l2_norm(b: Back) -> None:
    g, x, y, dy = b.g, b.x, b.y, b.dy
    axes = (-3, -2, -1)

    def dx() -> Value:
        r = g.pow(g.reduce_sum(x * x, axes, keep_dims=True) + b.p("epsilon", 1e-6), -0.5)
        return r * (dy - y * g.reduce_sum(y * dy, axes, keep_dims=True))

    b.put("x", dx)


def _lrn(b: Back) -> None:
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


# =============================== Products =======================================


def _matmul(b: Back) -> None:
    g, x, y, dy = b.g, b.s.value("x"), b.s.value("y"), b.dy
    tx, ty = b.p("transpose_x", False), b.p("transpose_y", False)
    if tx:
        b.put("x", lambda: g.matmul(y, dy, transpose_x=ty, transpose_y=True))
    else:
        b.put("x", lambda: g.matmul(dy, y, transpose_y=not ty))
    if ty:
        b.put("y", lambda: g.matmul(dy, x, transpose_x=True, transpose_y=tx))
    else:
        b.put("y", lambda: g.matmul(x, dy, transpose_x=not tx))


def _linear(b: Back) -> None:
    g, x, w, dy = b.g, b.x, b.s.value("weight"), b.dy
    rows = x.size // x.shape[-1]

    def flat(v: Value) -> Value:
        return g.reshape(v, (rows, v.shape[-1]))

    b.put("x", lambda: g.reshape(g.matmul(flat(dy), w), x.shape))
    b.put("weight", lambda: g.matmul(flat(dy), flat(x), transpose_x=True))
    b.put("bias", lambda: g.reduce_sum(flat(dy), (0,), keep_dims=False))


def _einsum(b: Back) -> None:
    g, dy = b.g, b.dy
    pair = b.s.operands["values"]
    assert isinstance(pair, tuple)
    x, y = pair
    order = (0, 2, 1, 3) if x.ndim == 4 else (1, 0, 2)
    flip = (0, 2, 1, 3) if x.ndim == 4 else (1, 0, 2)

    def t(v: Value) -> Value:
        return g.transpose(v, order)

    b.put(x, lambda: g.transpose(g.matmul(t(dy), t(y), transpose_y=True), flip))
    b.put(y, lambda: g.transpose(g.matmul(t(x), t(dy), transpose_x=True), flip))


def _attention(b: Back) -> None:
    g, dy = b.g, b.dy
    q, k, v = (b.s.value(key) for key in ("query", "key", "value"))
    mask = b.s.operands.get("attn_mask")
    scale = q.shape[-1] ** -0.5
    made: dict[str, Value] = {}

    def prob() -> Value:
        if "p" not in made:
            s = g.matmul(q * scale, k, transpose_y=True)
            if isinstance(mask, Value):
                s = g.select(mask, s, -30000.0) if mask.dtype == "bool" else s + mask
            made["p"] = g.softmax(s, -1)
        return made["p"]

    def ds() -> Value:
        if "ds" not in made:
            p, dp = prob(), g.matmul(dy, v, transpose_y=True)
            made["ds"] = p * (dp - g.reduce_sum(p * dp, (-1,), keep_dims=True))
        return made["ds"]

    b.put("value", lambda: g.matmul(prob(), dy, transpose_x=True))
    b.put("query", lambda: g.matmul(ds(), k) * scale)
    b.put("key", lambda: g.matmul(ds(), q, transpose_x=True) * scale)
    b.put("attn_mask", ds)


def conv_weight(g: Graph, x: Value, dy: Value, w: Window, groups: int) -> Value:
    """dW [O, I / groups, *kernel] = sum over positions of dy[o] x[i, shifted]: products."""
    if any(pads(w)):
        x = g.pad(x, pads(w))
    n, channels, out = x.shape[0], x.shape[1], dy.shape[1]
    parts = []
    for offset in np.ndindex(*w.kernel):
        begin = [0, 0, *(o * d for o, d in zip(offset, w.dilation, strict=True))]
        end = [n, channels]
        end += [
            b + (m - 1) * s + 1 for b, m, s in zip(begin[2:], w.size_out, w.stride, strict=True)
        ]
        part = g.slice_by_index(x, begin, end, stride=(1, 1, *w.stride))
        flat = g.reshape(part, (n, groups, channels // groups, -1))
        made = g.matmul(g.reshape(dy, (n, groups, out // groups, -1)), flat, transpose_y=True)
        parts.append(g.reduce_sum(made, (0,), keep_dims=False))
    stacked = g.stack(parts, 3)  # [groups, O/groups, I/groups, kernel]
    return g.reshape(stacked, (out, channels // groups, *w.kernel))


def _conv(b: Back) -> None:
    g, x, w, dy = b.g, b.x, b.s.value("weight"), b.dy
    groups, area = b.p("groups", 1), win(b)
    point = set(area.kernel) == {1} and set(area.stride) == {1} and not any(pads(area))

    def dx() -> Value:
        turned = (w.shape[1], w.shape[0], *w.shape[2:])
        if point and groups == 1 and g.weight_source(w) is not None:
            return g.conv(dy, g.weight_view(w, turned, transpose=True))
        if point and groups == 1:
            order = (1, 0, *range(2, w.ndim))
            if w.is_constant or dy.shape[0] == 1:
                return g.conv(dy, g.transpose(w, order))
        if not w.is_constant:
            b.fail("the weight is computed and the kernel is larger than 1")
        return g.conv_transpose(
            dy,
            w,
            pad=pads(area),
            output_shape=x.shape,
            pad_type="custom",
            strides=area.stride,
            dilations=area.dilation,
            groups=groups,
        )

    b.put("x", dx)
    b.put("weight", lambda: conv_weight(g, x, dy, area, groups))


def _conv_transpose(b: Back) -> None:
    g, x, w, dy, area = b.g, b.x, b.s.value("weight"), b.dy, win(b)
    groups = b.p("groups", 1)
    way = Window(
        area.size_out,
        area.size_in,
        area.kernel,
        area.stride,
        area.dilation,
        area.before,
        area.after,
    )
    b.put(
        "x",
        lambda: g.conv(
            dy,
            w,
            strides=area.stride,
            pad_type="custom",
            pad=pads(area),
            dilations=area.dilation,
            groups=groups,
        ),
    )
    b.put("weight", lambda: conv_weight(g, dy, x, way, groups))


# =============================== Pools ==========================================


def _spread(g: Graph, dy: Value, weight: Any, area: Window, shape: Sequence[int]) -> Value:
    """Every dy into its window, channel by channel."""
    return g.conv_transpose(
        dy,
        weight,
        pad=pads(area),
        output_shape=shape,
        pad_type="custom",
        strides=area.stride,
        dilations=area.dilation,
        groups=shape[1],
    )


def _avg_pool(b: Back) -> None:
    g, x, dy, area = b.g, b.x, b.dy, win(b)
    if x.ndim > 4:
        b.fail("rank 5 has no transposed convolution")
    ones = np.ones((x.shape[1], 1, *area.kernel))

    def scale() -> Value:
        counts = np.ones(area.size_out)
        for i, n in enumerate(area.size_in):
            first = np.arange(area.size_out[i]) * area.stride[i] - area.before[i]
            low, high = 0, n
            if not b.p("exclude_padding_from_average", False):
                low, high = -area.before[i], n + max(area.after[i], 0)
            inside = np.minimum(first + area.kernel[i], high) - np.maximum(first, low)
            counts *= inside.reshape([-1 if k == i else 1 for k in range(len(area.size_in))])
        share = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)  # a window may be empty
        return g.const(share.reshape((1, 1, *area.size_out)))

    b.put("x", lambda: _spread(g, dy * scale(), ones, area, x.shape))


def _l2_pool(b: Back) -> None:
    g, x, y, dy, area = b.g, b.x, b.y, b.dy, win(b)
    ones = np.ones((x.shape[1], 1, *area.kernel))
    b.put("x", lambda: x * _spread(g, dy / y, ones, area, x.shape))


def _max_pool(b: Back) -> None:
    """Ties share alike. One-hot kernels take the elements of each window apart."""
    g, x, y, dy, area = b.g, b.x, b.y, b.dy, win(b)
    if x.ndim > 4:
        b.fail("rank 5 has no transposed convolution")
    channels, taps = x.shape[1], math.prod(area.kernel)
    one_hot = np.tile(np.eye(taps).reshape(taps, 1, *area.kernel), (channels, *(1,) * (x.ndim - 1)))
    n, size = x.shape[0], area.size_out

    def dx() -> Value:
        reach = [
            max(0, (o - 1) * s + k - i - b0)
            for o, s, k, i, b0 in zip(
                size, area.stride, area.kernel, area.size_in, area.before, strict=True
            )
        ]
        edge = [m for pair in zip(area.before, reach, strict=True) for m in pair]
        wide = g.pad(x, edge, constant_val=-30000.0) if any(edge) else x
        apart = g.conv(wide, one_hot, strides=area.stride, groups=channels)
        flat = (n, channels, taps, math.prod(size))
        top = (n, channels, 1, math.prod(size))
        hit = g.cast(g.equal(g.reshape(apart, flat), g.reshape(y, top)), "fp16")
        share = g.reshape(dy, top) / g.reduce_sum(hit, (2,), keep_dims=True)
        parts = g.reshape(hit * share, (n, channels * taps, *size))
        return _spread(g, parts, one_hot, area, x.shape)

    b.put("x", dx)


# =============================== Movement =======================================


def _reshape(b: Back) -> None:
    b.put("x", lambda: b.g.reshape(b.dy, b.x.shape) if b.x.shape else b.g.squeeze(b.dy))


def _transpose(b: Back) -> None:
    perm = [p % b.x.ndim for p in b.p("perm")]
    b.put("x", lambda: b.g.transpose(b.dy, [perm.index(i) for i in range(len(perm))]))


def _slice(b: Back) -> None:
    g, x = b.g, b.x
    taken, _ = slices(b.s.op, x.shape, b.s.params)

    def dx() -> Value:
        full = [
            len(range(*t.indices(n))) if isinstance(t, slice) else 1
            for t, n in zip(taken, x.shape, strict=True)
        ]
        v = b.dy if list(b.dy.shape) == full else g.reshape(b.dy, full)
        edge = []
        for axis, (t, n) in enumerate(zip(taken, x.shape, strict=True)):
            index = np.arange(n)[t] if isinstance(t, slice) else np.array([t])
            if len(index) == 1 or (index[1] - index[0] == 1):
                edge += [int(index[0]), n - 1 - int(index[-1])]
                continue
            v = along(g, v, axis, picks(index, n).T)
            edge += [0, 0]
        return g.pad(v, edge) if any(edge) else v

    b.put("x", dx)


def _cut(g: Graph, v: Value, axis: int, at: int, size: int) -> Value:
    begin, sizes = [0] * v.ndim, list(v.shape)
    begin[axis], sizes[axis] = at, size
    return v if list(v.shape) == sizes else g.slice_by_size(v, begin, sizes)


def _concat(b: Back) -> None:
    values = b.s.operands["values"]
    assert isinstance(values, tuple)
    axis, at = b.p("axis") % b.y.ndim, 0
    for v in values:
        b.put(v, partial(_cut, b.g, b.dy, axis, at, v.shape[axis]))
        at += v.shape[axis]


def _stack(b: Back) -> None:
    values = b.s.operands["values"]
    assert isinstance(values, tuple)
    axis = b.p("axis") % b.y.ndim

    def one(i: int, v: Value) -> Value:
        return b.g.reshape(_cut(b.g, b.dy, axis, i, 1), v.shape)

    for i, v in enumerate(values):
        b.put(v, partial(one, i, v))


def _split(b: Back) -> None:
    g = b.g

    def dx() -> Value:
        parts = [
            g.fill(r.shape, 0.0) if d is None else d
            for r, d in zip(b.s.results, b.dys, strict=True)
        ]
        return g.concat(parts, b.p("axis"))

    b.put("x", dx)


def _pad(b: Back) -> None:
    g, x, told = b.g, b.x, b.p("pad")
    first = x.ndim - len(told) // 2
    mode = b.p("mode", "constant")

    def dx() -> Value:
        v = b.dy
        for i in range(len(told) // 2):
            low, high, n = told[2 * i], told[2 * i + 1], x.shape[first + i]
            if mode == "constant":
                v = _cut(g, v, first + i, low, n)
            elif low or high:
                index = np.pad(
                    np.arange(n), (low, high), "reflect" if mode == "reflect" else "edge"
                )
                v = along(g, v, first + i, picks(index, n).T)
        return v

    b.put("x", dx)


def _tile(b: Back) -> None:
    def dx() -> Value:
        v = b.dy
        for axis, (n, r) in enumerate(zip(b.x.shape, b.p("reps"), strict=True)):
            if n == 1 and r > 1:
                v = b.g.reduce_sum(v, (axis,), keep_dims=True)
            elif r > 1:
                v = along(b.g, v, axis, np.tile(np.eye(n), (1, r)))
        return v

    b.put("x", dx)


def _reverse(b: Back) -> None:
    axes = b.p("axes")
    b.put("x", lambda: b.g.reverse(b.dy, range(b.x.ndim) if axes is None else axes))


def _windows(b: Back) -> None:
    g, x = b.g, b.x
    axis, size, stride = b.p("axis") % x.ndim, b.p("size"), b.p("stride", 1)
    count = b.y.shape[axis]
    index = (np.arange(count)[:, None] * stride + np.arange(size)).reshape(-1)

    def dx() -> Value:
        flat = (*x.shape[:axis], count * size, *x.shape[axis + 1 :])
        return along(g, g.reshape(b.dy, flat), axis, picks(index, x.shape[axis]).T)

    b.put("x", dx)


def _crop(b: Back) -> None:
    b.put("x", lambda: b.g.pad(b.dy, [*b.p("crop_height"), *b.p("crop_width")]))


def _shuffle(b: Back) -> None:
    g, op = b.g, b.s.op
    made: dict[str, Callable[[], Value]] = {
        "space_to_depth": lambda: g.depth_to_space(b.dy, b.p("block_size")),
        "depth_to_space": lambda: g.space_to_depth(b.dy, b.p("block_size")),
        "pixel_shuffle": lambda: g.pixel_unshuffle(b.dy, b.p("upscale_factor")),
        "pixel_unshuffle": lambda: g.pixel_shuffle(b.dy, b.p("downscale_factor")),
        "space_to_batch": lambda: g.batch_to_space(b.dy, b.p("block_shape"), b.p("paddings")),
        "batch_to_space": lambda: g.space_to_batch(b.dy, b.p("block_shape"), b.p("crops")),
    }
    b.put("x", made[op])


def resampling(s: Statement) -> list[tuple[int, Any]]:
    """(axis, matrix) of each resized axis of an upsample or resize operation."""
    x, y, op = s.value("x"), s.results[0], s.op
    mode = s.params.get("sampling_mode", "DEFAULT")
    if op == "upsample_bilinear":
        mode = "STRICT_ALIGN_CORNERS" if s.params.get("align_corners", True) else "UNALIGN_CORNERS"
    nearest = op.endswith("nearest_neighbor") or (
        s.params.get("interpolation_mode") == "NEAREST_NEIGHBOR"
    )
    made = []
    for axis in range(x.ndim - (s.params.get("resized_dims", 2)), x.ndim):
        n, m = x.shape[axis], y.shape[axis]
        if nearest:
            made.append((axis, np.eye(n)[np.arange(m) * n // m]))
            continue
        at = grid_points(mode, n, m)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, n - 1)
        part = (at - low)[:, None]
        made.append((axis, np.eye(n)[low] * (1 - part) + np.eye(n)[high] * part))
    return made


def _resize(b: Back) -> None:
    def dx() -> Value:
        v = b.dy
        for axis, matrix in resampling(b.s):
            v = along(b.g, v, axis, matrix.T)
        return v

    b.put("x", dx)


# =============================== Indices ========================================


def _indices(b: Back) -> Any:
    s = b.s.value("indices").statement
    if s is None or s.literal is None:
        b.fail("indices that do not stand in the text")
    assert s is not None
    return np.asarray(s.literal).reshape(b.s.value("indices").shape)


def _gather(b: Back) -> None:
    g, x = b.g, b.x
    axis = b.p("axis", 0) % x.ndim

    def dx() -> Value:
        index = _indices(b)
        flat = (*x.shape[:axis], index.size, *x.shape[axis + 1 :])
        v = b.dy if b.dy.shape == flat else g.reshape(b.dy, flat)
        return along(g, v, axis, picks(index, x.shape[axis]).T)

    b.put("x", dx)


def _scatter_last(b: Back, hot: Value, dy: Value, axis: int) -> Value:
    """sum_k dy[.., k] hot[.., k, n], with `axis` of x moved last and back."""
    g = b.g
    made = g.matmul(g.expand_dims(dy, (dy.ndim - 1,)), hot)
    made = g.squeeze(made, (made.ndim - 2,))
    order = list(range(made.ndim))
    order.insert(axis, order.pop())
    return made if order == sorted(order) else g.transpose(made, order)


def _axis_last(g: Graph, v: Value, axis: int) -> Value:
    order = [i for i in range(v.ndim) if i != axis] + [axis]
    return v if order == sorted(order) else g.transpose(v, order)


def _gather_along(b: Back) -> None:
    axis, n = b.p("axis", 0) % b.x.ndim, b.x.shape[b.p("axis", 0) % b.x.ndim]
    if b.x.ndim > 4:
        b.fail("rank 5 leaves no axis for the one-hot")

    def dx() -> Value:
        hot = np.eye(n)[np.moveaxis(_indices(b), axis, -1)]
        return _scatter_last(b, b.g.const(hot), _axis_last(b.g, b.dy, axis), axis)

    b.put("x", dx)


def _gather_nd(b: Back) -> None:
    g, x = b.g, b.x
    if b.p("batch_dims", 0):
        b.fail("batch_dims above 0")

    def dx() -> Value:
        index = _indices(b)
        named = index.shape[-1]
        flat = np.ravel_multi_index(
            tuple(np.moveaxis(index % np.array(x.shape[:named]), -1, 0)), x.shape[:named]
        )
        rows = math.prod(x.shape[:named])
        v = g.reshape(b.dy, (flat.size, x.size // rows))
        return g.reshape(along(g, v, 0, picks(flat, rows).T), x.shape)

    b.put("x", dx)


def _topk(b: Back) -> None:
    g, x = b.g, b.x
    axis = b.p("axis", -1) % x.ndim
    if x.ndim > 4:
        b.fail("rank 5 leaves no axis for the one-hot")

    def dx() -> Value:
        found = b.s.results
        if len(found) < 2:
            found = g.topk(x, k=b.p("k", 1), axis=axis, ascending=b.p("ascending", False))
        index = _axis_last(g, found[1], axis)
        hot = g.one_hot(index, x.shape[axis], on_value=1.0, off_value=0.0)
        return _scatter_last(b, hot, _axis_last(g, b.dy, axis), axis)

    if b.dys[0] is not None:
        b.put("x", dx)


def _band(b: Back) -> None:
    b.put("x", lambda: b.g.band_part(b.dy, lower=b.p("lower", -1), upper=b.p("upper", -1)))


_U = _unary
_R = _reduction
RULES: dict[str, Rule] = {
    **{"add": _add, "sub": _sub, "mul": _mul, "real_div": _div, "mod": _mod, "pow": _pow},
    **{"maximum": _extreme, "minimum": _extreme, "select": _select, "cast": _cast},
    "abs": _U(lambda b, g, x, y, dy: dy * g.sign(x)),
    "sqrt": _U(lambda b, g, x, y, dy: dy * 0.5 / y),
    "rsqrt": _U(lambda b, g, x, y, dy: dy * (y * y * y * -0.5)),
    "inverse": _U(lambda b, g, x, y, dy: -(dy * (y * y))),
    "square": _U(lambda b, g, x, y, dy: dy * (x * 2.0)),
    "exp": _U(lambda b, g, x, y, dy: dy * y),
    "exp2": _U(lambda b, g, x, y, dy: dy * (y * math.log(2))),
    "log": _U(lambda b, g, x, y, dy: dy / (x + b.p("epsilon"))),
    "erf": _U(lambda b, g, x, y, dy: dy * (g.exp(-(x * x)) * (2 / math.sqrt(math.pi)))),
    "atan": _U(lambda b, g, x, y, dy: dy / (x * x + 1.0)),
    "sin": _U(lambda b, g, x, y, dy: dy * g.cos(x)),
    "cos": _U(lambda b, g, x, y, dy: -(dy * g.sin(x))),
    "tan": _U(lambda b, g, x, y, dy: dy * (y * y + 1.0)),
    "asin": _U(lambda b, g, x, y, dy: dy * g.pow(1.0 - x * x, -0.5)),
    "acos": _U(lambda b, g, x, y, dy: -(dy * g.pow(1.0 - x * x, -0.5))),
    "sinh": _U(lambda b, g, x, y, dy: dy * g.cosh(x)),
    "cosh": _U(lambda b, g, x, y, dy: dy * g.sinh(x)),
    "atanh": _U(lambda b, g, x, y, dy: dy / (1.0 - x * x)),
    "clip": _U(lambda b, g, x, y, dy: _between(g, x, b.p("alpha"), b.p("beta"), dy)),
    "threshold": _U(lambda b, g, x, y, dy: g.select(g.greater(x, b.p("alpha")), dy, 0.0)),
    "sigmoid": _U(lambda b, g, x, y, dy: dy * (y * (1.0 - y))),
    "sigmoid_hard": _U(lambda b, g, x, y, dy: _between(g, y, 0.0, 1.0, dy) * b.p("alpha", 0.2)),
    "tanh": _U(lambda b, g, x, y, dy: dy * (1.0 - y * y)),
    "scaled_tanh": _U(
        lambda b, g, x, y, dy: (
            dy
            * (
                (1.0 - g.square(g.tanh(x * b.p("beta", 1.0))))
                * (b.p("alpha", 1.0) * b.p("beta", 1.0))
            )
        )
    ),
    "relu": _U(lambda b, g, x, y, dy: g.select(g.greater(x, 0.0), dy, 0.0)),  # 0 at 0
    "relu6": _U(lambda b, g, x, y, dy: _between(g, x, 0.0, 6.0, dy)),
    "leaky_relu": _U(lambda b, g, x, y, dy: g.select(g.less(x, 0.0), dy * b.p("alpha", 0.01), dy)),
    "prelu": _per_channel,
    "softplus_parametric": _per_channel,
    "elu": _U(lambda b, g, x, y, dy: g.select(g.greater(x, 0.0), dy, dy * (y + b.p("alpha", 1.0)))),
    "silu": _U(_silu),
    "softplus": _U(lambda b, g, x, y, dy: dy * g.sigmoid(x)),
    "softsign": _U(lambda b, g, x, y, dy: dy * g.pow(g.abs(x) + 1.0, -2.0)),
    "clamped_relu": _U(
        lambda b, g, x, y, dy: g.select(
            g.less(y, b.p("beta")), g.select(g.less(x, 0.0), dy * b.p("alpha"), dy), 0.0
        )
    ),
    "linear_activation": _U(lambda b, g, x, y, dy: dy * b.p("alpha")),
    "thresholded_relu": _U(lambda b, g, x, y, dy: g.select(g.less(x, b.p("alpha")), 0.0, dy)),
    "gelu": _U(_gelu),
    "reduce_sum": _R(lambda b, g, x, y, dy: dy),
    "reduce_mean": _R(lambda b, g, x, y, dy: dy * (y.size / x.size)),
    "reduce_max": _R(_reduce_extreme),
    "reduce_min": _R(_reduce_extreme),
    "reduce_l1_norm": _R(lambda b, g, x, y, dy: dy * g.sign(x)),
    "reduce_l2_norm": _R(lambda b, g, x, y, dy: x * (dy / y)),
    "reduce_log_sum": _R(
        lambda b, g, x, y, dy: dy / kept(b, g.reduce_sum(x, b.p("axes"), keep_dims=True))
    ),
    "reduce_log_sum_exp": _R(lambda b, g, x, y, dy: dy * g.exp(x - y)),
    "reduce_sum_square": _R(lambda b, g, x, y, dy: x * (dy * 2.0)),
    "reduce_prod": _R(lambda b, g, x, y, dy: dy * y / x),
    **{"cumsum": _cumsum, "softmax": _softmax, "layer_norm": _layer_norm},
    **{"instance_norm": _instance_norm, "batch_norm": _batch_norm, "l2_norm": _l2_norm},
    **{"local_response_norm": _lrn, "matmul": _matmul, "linear": _linear, "einsum": _einsum},
    **{"scaled_dot_product_attention": _attention, "conv": _conv},
    **{"conv_transpose": _conv_transpose, "avg_pool": _avg_pool, "l2_pool": _l2_pool},
    **{"max_pool": _max_pool, "identity": _reshape, "reshape": _reshape},
    **{"expand_dims": _reshape, "squeeze": _reshape, "flatten2d": _reshape},
    **{"transpose": _transpose, "slice_by_size": _slice, "slice_by_index": _slice},
    **{"concat": _concat, "stack": _stack, "split": _split, "pad": _pad, "tile": _tile},
    **{"reverse": _reverse, "sliding_windows": _windows, "crop": _crop},
    **dict.fromkeys(
        ("space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle"), _shuffle
    ),
    **{"space_to_batch": _shuffle, "batch_to_space": _shuffle},
    **dict.fromkeys(
        (
            *("upsample_nearest_neighbor", "upsample_bilinear", "resize_nearest_neighbor"),
            *("resize_bilinear", "resize"),
        ),
        _resize,
    ),
    **{"gather": _gather, "gather_along_axis": _gather_along, "gather_nd": _gather_nd},
    **{"topk": _topk, "band_part": _band},
}
"""Operation -> how adjoints go back through it."""

ZERO = frozenset({"sign", "ceil", "floor", "round", "floor_div"})
"""Steps: their derivative is 0 wherever there is one."""

NOT_DIFFERENTIABLE: dict[str, str] = {
    **dict.fromkeys(
        ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"),
        "the result is true or false",
    ),
    **dict.fromkeys(("logical_not", "logical_and", "logical_or", "logical_xor"), "bools"),
    **dict.fromkeys(("reduce_argmax", "reduce_argmin", "argsort"), "the results are indices"),
    **dict.fromkeys(("one_hot", "fill", "fill_like", "range_1d"), "no operand it varies with"),
    "quantize": "the results are whole numbers",
    "dequantize": "the operands are whole numbers",
    **dict.fromkeys(
        (
            *("constexpr_affine_dequantize", "constexpr_blockwise_shift_scale"),
            *("constexpr_lut_to_dense", "constexpr_sparse_to_dense", "constexpr_cast"),
        ),
        "a compressed constant is made before a run",
    ),
}
"""Operation -> why it has no derivative."""
