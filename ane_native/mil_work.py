# SPDX-License-Identifier: MIT
"""How much work an operation is: floating-point operations from the shapes."""

from __future__ import annotations

import math

from ane_native.mil_text import Statement

__all__ = ["MOVES", "flops"]

# Operations that only move elements, or repeat them.
MOVES = frozenset(
    (
        *("identity", "reshape", "expand_dims", "squeeze", "flatten2d", "transpose"),
        *("slice_by_size", "slice_by_index", "concat", "stack", "split", "pad", "tile"),
        *("reverse", "crop", "sliding_windows", "gather", "gather_along_axis", "gather_nd"),
        *("space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle"),
        *("space_to_batch", "batch_to_space", "cast", "fill", "fill_like", "range_1d"),
    )
)


def flops(s: Statement) -> float:
    """Floating-point operations of `s`; a multiply and an add count as two, all else as one for
    each element of the result."""
    size = float(sum(v.size for v in s.results))
    if s.op == "conv":
        return 2 * size * math.prod(s.value("weight").shape[1:])
    if s.op == "conv_transpose":  # every input element meets the whole kernel
        return 2.0 * s.value("x").size * math.prod(s.value("weight").shape[1:])
    if s.op == "matmul":
        return 2 * size * s.value("x").shape[-2 if s.params.get("transpose_x") else -1]
    if s.op == "linear":
        return 2 * size * s.value("x").shape[-1]
    if s.op == "einsum":
        return 2 * size * s.tensors()[0].shape[-1]
    if s.op == "scaled_dot_product_attention":
        return 4 * size * s.value("key").shape[-2]
    return size
