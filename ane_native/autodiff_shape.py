# SPDX-License-Identifier: MIT
"""Derivatives of operations that move elements: slices, pads, resizing, indices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ane_native.autodiff_base import Back, along, picks
from ane_native.mil import Graph, Statement, Value
from ane_native.mil_rules_shape import grid_points, slices

# =============================== Movement =======================================


def reshape_back(b: Back) -> None:
    b.put("x", lambda: b.g.reshape(b.dy, b.x.shape) if b.x.shape else b.g.squeeze(b.dy))


def transpose_back(b: Back) -> None:
    perm = [p % b.x.ndim for p in b.p("perm")]
    b.put("x", lambda: b.g.transpose(b.dy, [perm.index(i) for i in range(len(perm))]))


def slice_back(b: Back) -> None:
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


def concat_back(b: Back) -> None:
    values = b.s.operands["values"]
    assert isinstance(values, tuple)
    axis, at = b.p("axis") % b.y.ndim, 0
    for v in values:
        b.put(v, partial(_cut, b.g, b.dy, axis, at, v.shape[axis]))
        at += v.shape[axis]


def stack_back(b: Back) -> None:
    values = b.s.operands["values"]
    assert isinstance(values, tuple)
    axis = b.p("axis") % b.y.ndim

    def one(i: int, v: Value) -> Value:
        return b.g.reshape(_cut(b.g, b.dy, axis, i, 1), v.shape)

    for i, v in enumerate(values):
        b.put(v, partial(one, i, v))


def split_back(b: Back) -> None:
    g = b.g

    def dx() -> Value:
        parts = [
            g.fill(r.shape, 0.0) if d is None else d
            for r, d in zip(b.s.results, b.dys, strict=True)
        ]
        return g.concat(parts, b.p("axis"))

    b.put("x", dx)


def pad_back(b: Back) -> None:
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


def tile_back(b: Back) -> None:
    def dx() -> Value:
        v = b.dy
        for axis, (n, r) in enumerate(zip(b.x.shape, b.p("reps"), strict=True)):
            if n == 1 and r > 1:
                v = b.g.reduce_sum(v, (axis,), keep_dims=True)
            elif r > 1:
                v = along(b.g, v, axis, np.tile(np.eye(n), (1, r)))
        return v

    b.put("x", dx)


def reverse_back(b: Back) -> None:
    axes = b.p("axes")
    b.put("x", lambda: b.g.reverse(b.dy, range(b.x.ndim) if axes is None else axes))


def windows_back(b: Back) -> None:
    g, x = b.g, b.x
    axis, size, stride = b.p("axis") % x.ndim, b.p("size"), b.p("stride", 1)
    count = b.y.shape[axis]
    index = (np.arange(count)[:, None] * stride + np.arange(size)).reshape(-1)

    def dx() -> Value:
        flat = (*x.shape[:axis], count * size, *x.shape[axis + 1 :])
        return along(g, g.reshape(b.dy, flat), axis, picks(index, x.shape[axis]).T)

    b.put("x", dx)


def crop_back(b: Back) -> None:
    b.put("x", lambda: b.g.pad(b.dy, [*b.p("crop_height"), *b.p("crop_width")]))


def shuffle_back(b: Back) -> None:
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


def resize_back(b: Back) -> None:
    def dx() -> Value:
        v = b.dy
        for axis, matrix in resampling(b.s):
            v = along(b.g, v, axis, matrix.T)
        return v

    b.put("x", dx)


# =============================== Indices ========================================


def _literal_indices(b: Back) -> Any:
    """The indices where they stand in the text, else None."""
    s = b.s.value("indices").statement
    if s is None or s.literal is None:
        return None
    return np.asarray(s.literal).reshape(b.s.value("indices").shape)


def _hot(g: Graph, index: Value, n: int) -> Value:
    return g.one_hot(index, n, on_value=1.0, off_value=0.0)


def gather_back(b: Back) -> None:
    g, x = b.g, b.x
    axis = b.p("axis", 0) % x.ndim

    def dx() -> Value:
        index, told = _literal_indices(b), b.s.value("indices")
        flat = (*x.shape[:axis], told.size, *x.shape[axis + 1 :])
        v = b.dy if b.dy.shape == flat else g.reshape(b.dy, flat)
        if index is None:
            hot = _hot(g, g.reshape(told, (told.size,)), x.shape[axis])
            return along(g, v, axis, g.transpose(hot, (1, 0)))
        return along(g, v, axis, picks(index, x.shape[axis]).T)

    b.put("x", dx)


def _rows(g: Graph, v: Value) -> Value:
    """The axes before the last as one, where there are too many for one more."""
    return v if v.ndim <= 4 else g.reshape(v, (v.size // v.shape[-1], v.shape[-1]))


def _scatter_last(b: Back, hot: Value, dy: Value, axis: int) -> Value:
    """sum_k dy[.., k] hot[.., k, n], with `axis` of x moved last and back; hot as of
    :func:`_rows`."""
    g, lead = b.g, dy.shape[:-1]
    dy = _rows(g, dy)
    made = g.matmul(g.expand_dims(dy, (dy.ndim - 1,)), hot)
    made = g.squeeze(made, (made.ndim - 2,))
    if made.shape[:-1] != lead:
        made = g.reshape(made, (*lead, made.shape[-1]))
    order = list(range(made.ndim))
    order.insert(axis, order.pop())
    return made if order == sorted(order) else g.transpose(made, order)


def _axis_last(g: Graph, v: Value, axis: int) -> Value:
    order = [i for i in range(v.ndim) if i != axis] + [axis]
    return v if order == sorted(order) else g.transpose(v, order)


def gather_along_back(b: Back) -> None:
    axis, n = b.p("axis", 0) % b.x.ndim, b.x.shape[b.p("axis", 0) % b.x.ndim]

    def dx() -> Value:
        g, index = b.g, _literal_indices(b)
        if index is None:
            hot = _hot(g, _rows(g, _axis_last(g, b.s.value("indices"), axis)), n)
        else:
            made = np.eye(n)[np.moveaxis(index, axis, -1)]
            hot = g.const(made if made.ndim <= 5 else made.reshape(-1, *made.shape[-2:]))
        return _scatter_last(b, hot, _axis_last(g, b.dy, axis), axis)

    b.put("x", dx)


def gather_nd_back(b: Back) -> None:
    g, x = b.g, b.x
    lead = b.p("batch_dims", 0)

    def dx() -> Value:
        index = _literal_indices(b)
        if index is None:
            b.fail("indices that do not stand in the text")
        named = index.shape[-1]
        sizes, batch = x.shape[lead : lead + named], x.shape[:lead]
        inside = np.moveaxis(index % np.array(sizes), -1, 0)
        flat = np.ravel_multi_index(tuple(inside), sizes)
        rows, groups = math.prod(sizes), math.prod(batch)
        if not lead:
            v = g.reshape(b.dy, (flat.size, x.size // rows))
            return g.reshape(along(g, v, 0, picks(flat, rows).T), x.shape)
        flat = flat.reshape(groups, -1)
        hot = g.const(np.eye(rows)[flat])  # [groups, picked, rows]
        v = g.reshape(b.dy, (groups, flat.shape[1], x.size // rows // groups))
        return g.reshape(g.matmul(hot, v, transpose_x=True), x.shape)

    b.put("x", dx)


def topk_back(b: Back) -> None:
    g, x = b.g, b.x
    axis = b.p("axis", -1) % x.ndim

    def dx() -> Value:
        found = b.s.results
        if len(found) < 2:
            found = g.topk(x, k=b.p("k", 1), axis=axis, ascending=b.p("ascending", False))
        index = _rows(g, _axis_last(g, found[1], axis))
        hot = _hot(g, index, x.shape[axis])
        return _scatter_last(b, hot, _axis_last(g, b.dy, axis), axis)

    if b.dys[0] is not None:
        b.put("x", dx)


def band_back(b: Back) -> None:
    b.put("x", lambda: b.g.band_part(b.dy, lower=b.p("lower", -1), upper=b.p("upper", -1)))
