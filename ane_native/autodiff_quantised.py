# SPDX-License-Identifier: MIT
"""Derivatives of dequantised values and compressed constants, by their scales and tables.

What is stored as whole numbers has no derivative; what it is multiplied by, or looked up in, is
a weight like any other, and can be trained with the whole numbers as they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ane_native.autodiff_base import Back, along, unbroadcast
from ane_native.mil import Graph, Value

__all__ = ["affine_back", "blockwise_back", "compressed_cast_back", "lut_back", "sparse_back"]


def _again(b: Back, **others: Any) -> Value:
    """The operation with other operands: values, or arrays for constants."""
    given = {**b.s.operands, **others}
    return b.g.add_operation(b.s.op, given, fill=False, attributes=b.s.attributes)[0]


def _ones(v: Value) -> Value:
    """A constant 1 of the type of a scale."""
    return v.graph.const(np.ones(v.shape), v.dtype)


def affine_back(b: Back) -> None:
    """dequantize, constexpr_affine_dequantize: y = scale (q - zero point), scale along an axis."""
    scale = b.s.value("scale")

    def dscale() -> Value:
        made = b.dy * _again(b, scale=_ones(scale))
        shape = [1] * b.y.ndim
        if scale.ndim:
            shape[b.p("axis") % b.y.ndim] = scale.size
        made = unbroadcast(b.g, made, shape)
        return b.g.reshape(made, scale.shape) if scale.ndim else b.g.squeeze(made)

    b.put("scale", dscale)


def _block_sums(g: Graph, v: Value, shape: tuple[int, ...]) -> Value:
    """Sums over blocks of neighbours, down to `shape`, whose sizes divide those of `v`."""
    for axis, (n, blocks) in enumerate(zip(v.shape, shape, strict=True)):
        if n != blocks:
            v = along(g, v, axis, np.kron(np.eye(blocks), np.ones((1, n // blocks))))
    return v


def blockwise_back(b: Back) -> None:
    """y = scale (data - offset), one scale for each block."""
    scale = b.s.value("scale")
    b.put("scale", lambda: _block_sums(b.g, b.dy * _again(b, scale=_ones(scale)), scale.shape))
    b.put("offset", lambda: -(_block_sums(b.g, b.dy, scale.shape) * scale))


def compressed_cast_back(b: Back) -> None:
    """The same numbers in another dtype."""
    b.put("source_val", lambda: b.g.cast(b.dy, b.s.value("source_val").dtype))


def _literal(b: Back, key: str) -> Any:
    s = b.s.value(key).statement
    if s is None or s.literal is None:
        b.fail(f"{key} that does not stand in the text")
    assert s is not None
    return np.asarray(s.literal).reshape(b.s.value(key).shape)


def sparse_back(b: Back) -> None:
    """y has the values, in order, where the mask is 1."""

    def ddata() -> Value:
        mask = _literal(b, "mask").reshape(-1)
        if "shape" in b.s.params:  # bytes of bits, the lowest first
            mask = np.unpackbits(mask.astype(np.uint8), bitorder="little")[: b.y.size]
        at = np.flatnonzero(mask).astype(np.int32)  # as many as there are values
        return b.g.gather(b.g.reshape(b.dy, (b.y.size,)), at, axis=0)

    b.put("nonzero_data", ddata)


def lut_back(b: Back) -> None:
    """y = table[index]: the gradient of an entry, or of a number of a vector, is the sum over the
    places where a table with a 1 there and 0 elsewhere gives 1."""
    table = b.s.value("lut")
    packed = "shape" in b.s.params
    entries, width = (table.shape[0], 1) if packed else table.shape[-2:]
    groups = (1,) * b.y.ndim if packed else table.shape[:-2]

    def dtable() -> Value:
        parts = []
        for entry in range(entries * width):
            hot = np.zeros((*(() if packed else table.shape[:-2]), entries * width))
            hot[..., entry] = 1
            hot = hot.reshape(table.shape)
            here = _again(b, lut=b.g.const(hot, table.dtype))
            sums = _block_sums(b.g, b.dy * here, groups)
            parts.append(b.g.reshape(sums, (math.prod(groups), 1)))
        return b.g.reshape(b.g.concat(parts, 1), table.shape)

    b.put("lut", dtable)
