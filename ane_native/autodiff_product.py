# SPDX-License-Identifier: MIT
"""Derivatives of matrix products, convolutions, attention and pools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ane_native.autodiff_base import Back, along, pads, win
from ane_native.mil import Graph, Value
from ane_native.mil_rules import Window

# A convolution with 32000 input channels is refused (maderix/ANE training/ane_classifier.h).
MOST_CONV_INPUTS = 31999

# =============================== Products =======================================


def matmul_back(b: Back) -> None:
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


def linear_back(b: Back) -> None:
    g, x, w, dy = b.g, b.x, b.s.value("weight"), b.dy
    rows = x.size // x.shape[-1]

    def flat(v: Value) -> Value:
        return g.reshape(v, (rows, v.shape[-1]))

    b.put("x", lambda: g.reshape(g.matmul(flat(dy), w), x.shape))
    b.put("weight", lambda: g.matmul(flat(dy), flat(x), transpose_x=True))
    b.put("bias", lambda: g.reduce_sum(flat(dy), (0,), keep_dims=False))


def einsum_back(b: Back) -> None:
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


def attention_back(b: Back) -> None:
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


def _turned_conv(b: Back, area: Window) -> Value:
    """dx of a convolution whose weight is computed: conv_transpose takes constants only, so dy,
    with the zeros that strides leave out, is convolved with the weight turned round."""
    g, x, w, dy = b.g, b.x, b.s.value("weight"), b.dy
    out = dy.shape[1]  # one group: others are refused for computed weights
    if set(area.stride) != {1}:
        ones = g.const(np.ones((out, 1, *(1,) * len(area.kernel))))
        dy = g.conv_transpose(dy, ones, pad_type="valid", strides=area.stride, groups=out)
    pad = []
    sides = zip(area.kernel, area.dilation, area.before, x.shape[2:], dy.shape[2:], strict=True)
    for k, d, before, size, has in sides:
        first = d * (k - 1) - before
        pad += [first, size - has - first + d * (k - 1)]
    if min(pad) < 0:  # the padding was larger than the kernel: dy at the edge is of zeros only
        cut = [
            (max(-a, 0), n - max(-z, 0))
            for a, z, n in zip(pad[::2], pad[1::2], dy.shape[2:], strict=True)
        ]
        dy = g.slice_by_index(
            dy, (0, 0, *(a for a, _ in cut)), (*dy.shape[:2], *(z for _, z in cut))
        )
        pad = [max(n, 0) for n in pad]
    spatial = tuple(range(2, w.ndim))
    turned = g.transpose(g.reverse(w, spatial), (1, 0, *spatial))
    return g.conv(dy, turned, pad_type="custom", pad=pad, dilations=area.dilation)


def conv_back(b: Back) -> None:
    g, x, w, dy = b.g, b.x, b.s.value("weight"), b.dy
    groups, area = b.p("groups", 1), win(b)
    point = set(area.kernel) == {1} and set(area.stride) == {1} and not any(pads(area))

    def dx() -> Value:
        turned = (w.shape[1], w.shape[0], *w.shape[2:])
        wide = dy.shape[1] > MOST_CONV_INPUTS and dy.shape[0] == 1
        if point and wide and groups == 1 and g.weight_source(w) is not None:
            table = g.weight_view(w, (1, *turned[:2]), transpose=True)
            return g.reshape(g.matmul(table, g.reshape(dy, (1, dy.shape[1], -1))), x.shape)
        if point and groups == 1 and g.weight_source(w) is not None:
            return g.conv(dy, g.weight_view(w, turned, transpose=True))
        if point and groups == 1:
            order = (1, 0, *range(2, w.ndim))
            if w.is_constant or dy.shape[0] == 1:
                return g.conv(dy, g.transpose(w, order))
        if not w.is_constant:
            return _turned_conv(b, area)
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


def conv_transpose_back(b: Back) -> None:
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


def _spread_evenly(g: Graph, dy: Value, area: Window, shape: Sequence[int]) -> Value:
    """Every dy to all elements of its window. Rank 5 has no transposed convolution: there axis by
    axis, by a product with the matrix that says which window holds which element."""
    if len(shape) < 5:
        return _spread(g, dy, np.ones((shape[1], 1, *area.kernel)), area, shape)
    for i in range(3):
        matrix = sum(_place(area, i, k) for k in range(area.kernel[i]))
        dy = along(g, dy, 2 + i, np.asarray(matrix).T)
    return dy


def _place(area: Window, i: int, tap: int) -> Any:
    """[out, in]: 1 where window `out` has element `in` of axis `i` at place `tap`."""
    made = np.zeros((area.size_out[i], area.size_in[i]))
    at = np.arange(area.size_out[i]) * area.stride[i] - area.before[i] + tap * area.dilation[i]
    inside = (at >= 0) & (at < area.size_in[i])
    made[np.flatnonzero(inside), at[inside]] = 1
    return made


def avg_pool_back(b: Back) -> None:
    g, x, dy, area = b.g, b.x, b.dy, win(b)

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

    b.put("x", lambda: _spread_evenly(g, dy * scale(), area, x.shape))


def l2_pool_back(b: Back) -> None:
    g, x, y, dy, area = b.g, b.x, b.y, b.dy, win(b)
    b.put("x", lambda: x * _spread_evenly(g, dy / y, area, x.shape))


def max_pool_back(b: Back) -> None:
    """Ties share alike. One-hot kernels take the elements of each window apart."""
    g, x, y, dy, area = b.g, b.x, b.y, b.dy, win(b)
    if x.ndim > 4:
        b.put("x", lambda: _max_pool_by_taps(b, area))
        return
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
        count = g.reduce_sum(hit, (2,), keep_dims=True)
        share = g.reshape(dy, top) / g.maximum(count, 1.0)  # a window may be empty
        parts = g.reshape(hit * share, (n, channels * taps, *size))
        return _spread(g, parts, one_hot, area, x.shape)

    b.put("x", dx)


def _max_pool_by_taps(b: Back, area: Window) -> Value:
    """The same without convolutions: one place of all windows at a time."""
    g, x, y, dy = b.g, b.x, b.y, b.dy
    reach = [
        max(0, (o - 1) * s + k - i - b0)
        for o, s, k, i, b0 in zip(
            area.size_out, area.stride, area.kernel, area.size_in, area.before, strict=True
        )
    ]
    edge = [m for pair in zip(area.before, reach, strict=True) for m in pair]
    wide = g.pad(x, edge, constant_val=-30000.0) if any(edge) else x
    hits = []
    for offset in np.ndindex(*area.kernel):
        end = [
            o + (n - 1) * s + 1 for o, n, s in zip(offset, area.size_out, area.stride, strict=True)
        ]
        at = g.slice_by_index(
            wide, (0, 0, *offset), (*x.shape[:2], *end), stride=(1, 1, *area.stride)
        )
        hits.append((offset, g.cast(g.equal(at, y), "fp16")))
    count = hits[0][1]
    for _, hit in hits[1:]:
        count = count + hit
    share = dy / g.maximum(count, 1.0)  # a window may be empty
    total: Value | None = None
    for offset, hit in hits:
        part = hit * share
        for i, tap in enumerate(offset):
            part = along(g, part, 2 + i, _place(area, i, tap).T)
        total = part if total is None else total + part
    assert total is not None
    return total
