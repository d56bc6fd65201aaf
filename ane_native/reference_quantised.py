# SPDX-License-Identifier: MIT
"""Quantised values and compressed constants in float64; see :mod:`ane_native.reference`."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native.mil import Statement
from ane_native.mil_ops import SMALL_BITS

Array: TypeAlias = npt.NDArray[Any]


def _along(s: Statement, v: Array, like: Array) -> Array:
    """A scalar, or a vector along the operation's axis."""
    if not v.ndim:
        return v
    shape = [1] * like.ndim
    shape[s.params["axis"] % like.ndim] = v.size
    return v.reshape(shape)


def quantize(s: Statement, a: dict[str, Any]) -> Array:
    """Rounded to nearest, ties to even, and kept within the dtype."""
    x, dtype = a["input"], s.results[0].dtype
    zero = _along(s, np.asarray(a.get("zero_point", 0), np.float64), x)
    low, high = (-128, 127) if dtype == "int8" else (0, 255)
    return np.asarray(np.clip(np.rint(x / _along(s, a["scale"], x)) + zero, low, high))


def affine(s: Statement, a: dict[str, Any]) -> Array:
    """scale (q - zero point)."""
    q = np.asarray(a["input"] if "input" in a else a["quantized_data"], np.float64)
    zero = np.asarray(a.get("zero_point", 0), np.float64)
    return np.asarray((q - _along(s, zero, q)) * _along(s, a["scale"], q))


def _blocks(v: Array, shape: tuple[int, ...]) -> Array:
    for axis, n in enumerate(shape):
        v = np.repeat(v, n // v.shape[axis], axis)
    return v


def blockwise(s: Statement, a: dict[str, Any]) -> Array:
    """scale (data - offset), one of both for each block."""
    data = np.asarray(a["data"], np.float64)
    offset = np.asarray(a.get("offset", np.zeros_like(a["scale"])), np.float64)
    return (data - _blocks(offset, data.shape)) * _blocks(a["scale"], data.shape)


def _unpacked(data: Array, bits: int, count: int) -> Array:
    """Small integers of bytes, the lowest bits first."""
    flat = np.unpackbits(np.asarray(data, np.uint8), bitorder="little")
    fields = flat[: count * bits].reshape(count, bits).astype(np.int64)
    return np.asarray(fields @ (1 << np.arange(bits)))


def sparse(s: Statement, a: dict[str, Any]) -> Array:
    """The values in order where the mask is 1, else 0."""
    shape, mask = s.results[0].shape, np.asarray(a["mask"])
    made = np.zeros(int(np.prod(shape)))
    on = _unpacked(mask, 1, made.size) if "shape" in s.params else mask.reshape(-1)
    at = np.flatnonzero(on)
    data = a["nonzero_data"]
    made[at[: data.size]] = data[: at.size]
    return made.reshape(shape)


def lut(s: Statement, a: dict[str, Any]) -> Array:
    """table[index], a table for each block of indices, of numbers or vectors along an axis."""
    shape, table = s.results[0].shape, a["lut"]
    if "shape" in s.params:
        bits = table.size.bit_length() - 1
        return np.asarray(table[_unpacked(a["indices"], bits, int(np.prod(shape)))].reshape(shape))
    index = np.asarray(a["indices"], np.int64)
    index = index % (1 << SMALL_BITS.get(s.value("indices").dtype, 8))
    where = np.indices(index.shape)
    per = [n // t for n, t in zip(index.shape, table.shape, strict=False)]
    group = tuple(w // p for w, p in zip(where, per, strict=True))
    place = (*group, index)
    found = np.asarray(table[place])
    if table.shape[-1] == 1:
        return found[..., 0]
    axis = s.params["vector_axis"] % index.ndim
    return np.moveaxis(found, -1, axis + 1).reshape(shape)


OPERATIONS = {
    "quantize": quantize,
    "dequantize": affine,
    "constexpr_affine_dequantize": affine,
    "constexpr_blockwise_shift_scale": blockwise,
    "constexpr_sparse_to_dense": sparse,
    "constexpr_lut_to_dense": lut,
    "constexpr_cast": lambda s, a: a["source_val"],
}
