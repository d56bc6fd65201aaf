# SPDX-License-Identifier: MIT
"""The operations the MIL writer knows: operands, and the rule for each result's type.

One row of :data:`OPS` per operation; :mod:`ane_native.mil` makes its methods and its checks
from them. A rule gets a :class:`Call` and returns the result's :class:`Type`, or raises a
``ValueError`` or ``TypeError`` that names operation, operand, expected and got.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["OPS", "Call", "Kind", "Op", "Shape", "Type"]

Shape: TypeAlias = tuple[int, ...]

MAX_RANK = 5  # ranks above do not compile: ANEForge docs/developer/op-quirks.md


@dataclass(frozen=True)
class Type:
    """Element type and shape of a value.

    Attributes:
        dtype: ``"fp16"``, ``"fp32"``, ``"int32"``, ``"bool"`` or ``"string"``.
        shape: outermost axis first; ``()`` is a scalar.
    """

    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


# =============================== Table of operations ============================

# How a Python argument becomes an operand. TENSOR: a Value. NUMBER: a Value, or a Python
# number that becomes a scalar constant. TENSORS: a tuple of Values. The rest: constants.
Kind = Literal["TENSOR", "NUMBER", "TENSORS", "INT", "INTS", "BOOL", "STRING"]


class Call:
    """The operands of one operation while its shape rule looks at them."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.types: dict[str, Type] = {}
        self.tuples: dict[str, list[Type]] = {}
        self.constants: dict[str, Any] = {}

    def shape(self, key: str) -> Shape:
        """Shape of the tensor operand `key`."""
        return self.types[key].shape

    def integer(self, key: str) -> int:
        """Value of the INT operand `key`."""
        value: int = self.constants[key]
        return value

    def integers(self, key: str) -> Shape:
        """Value of the INTS operand `key`."""
        value: Shape = self.constants[key]
        return value

    def flag(self, key: str) -> bool:
        """Value of the BOOL operand `key`."""
        value: bool = self.constants[key]
        return value

    def string(self, key: str) -> str:
        """Value of the STRING operand `key`."""
        value: str = self.constants[key]
        return value

    def require(self, ok: bool, operand: str, expected: str, got: object) -> None:
        """Raise ValueError naming operation, operand, expected and got, unless `ok`."""
        if not ok:
            raise ValueError(f"{self.op}: operand {operand!r}: expected {expected}, got {got}")

    def axis(self, key: str, axis: int, rank: int) -> int:
        """`axis` counted from the front; negative ones count from the back."""
        self.require(-rank <= axis < rank, key, f"an axis in [{-rank}, {rank})", axis)
        return axis % rank


Rule = Callable[[Call], Type]


@dataclass(frozen=True)
class Op:
    """A row of :data:`OPS`: the operands in the order of the text, and the shape rule."""

    operands: dict[str, Kind]
    rule: Rule


def _same(c: Call) -> Type:
    """y = f(x), element by element."""
    return c.types["x"]


def _broadcast_shapes(c: Call, a: Shape, b: Shape, operand: str) -> Shape:
    if not a or not b:
        return a or b
    ok = len(a) == len(b) and all(m == n or m == 1 or n == 1 for m, n in zip(a, b, strict=True))
    c.require(ok, operand, f"a shape of rank {len(a)} that broadcasts with {list(a)}", list(b))
    return tuple(max(m, n) for m, n in zip(a, b, strict=True))


def _broadcast(c: Call) -> Type:
    """Equal ranks, each axis equal or 1; or a scalar on one side."""
    x, y = c.types["x"], c.types["y"]
    c.require(x.dtype == y.dtype, "y", f"dtype {x.dtype}, as operand 'x'", y)
    return Type(x.dtype, _broadcast_shapes(c, x.shape, y.shape, "y"))


def _compare(c: Call) -> Type:
    return Type("bool", _broadcast(c).shape)


def _select(c: Call) -> Type:
    cond, a, b = c.types["cond"], c.types["a"], c.types["b"]
    c.require(cond.dtype == "bool", "cond", "dtype bool", cond)
    c.require(a.dtype == b.dtype, "b", f"dtype {a.dtype}, as operand 'a'", b)
    shape = _broadcast_shapes(c, a.shape, b.shape, "b")
    return Type(a.dtype, _broadcast_shapes(c, shape, cond.shape, "cond"))


def _conv(c: Call) -> Type:
    """x [N,C,H,W] * weight [O,C/groups,kh,kw] -> [N,O,H',W']."""
    x, w = c.types["x"], c.types["weight"]
    strides, dilations, pad = c.integers("strides"), c.integers("dilations"), c.integers("pad")
    groups, pad_type = c.integer("groups"), c.string("pad_type")
    c.require(len(x.shape) == 4, "x", "rank 4", list(x.shape))
    c.require(len(w.shape) == 4, "weight", "rank 4", list(w.shape))
    c.require(x.dtype == w.dtype, "weight", f"dtype {x.dtype}, as operand 'x'", w)
    c.require(groups >= 1 and w.shape[0] % groups == 0, "groups", "a divisor of O", groups)
    c.require(
        x.shape[1] == w.shape[1] * groups,
        "weight",
        f"[O, {x.shape[1]}/groups, kh, kw] for an input of {x.shape[1]} channels",
        f"{list(w.shape)} with groups {groups}",
    )
    for key, value, low, count in (
        ("strides", strides, 1, 2),
        ("dilations", dilations, 1, 2),
        ("pad", pad, 0, 4),
    ):
        ok = len(value) == count and min(value) >= low
        c.require(ok, key, f"{count} integers >= {low}", list(value))
    known = pad_type in ("valid", "custom", "same")
    c.require(known, "pad_type", "valid, custom or same", pad_type)
    if pad_type == "valid":
        pad = (0, 0, 0, 0)
    sides = []
    for i in range(2):
        size, stride = x.shape[2 + i], strides[i]
        if pad_type == "same":
            sides.append(-(-size // stride))
            continue
        reach = dilations[i] * (w.shape[2 + i] - 1) + 1
        padded = size + pad[2 * i] + pad[2 * i + 1]
        c.require(padded >= reach, "x", f"axis {2 + i} of at least {reach} with padding", padded)
        sides.append((padded - reach) // stride + 1)
    return Type(x.dtype, (x.shape[0], w.shape[0], sides[0], sides[1]))


def _matmul(c: Call) -> Type:
    """[..., M, K] @ [..., K, N] after the transpose flags; leading axes broadcast."""
    x, y = c.types["x"], c.types["y"]
    c.require(len(x.shape) >= 2, "x", "rank of at least 2", list(x.shape))
    ok = len(y.shape) == len(x.shape)
    c.require(ok, "y", f"rank {len(x.shape)}, as operand 'x'", list(y.shape))
    c.require(x.dtype == y.dtype, "y", f"dtype {x.dtype}, as operand 'x'", y)
    m, k = x.shape[-2:][::-1] if c.flag("transpose_x") else x.shape[-2:]
    k2, n = y.shape[-2:][::-1] if c.flag("transpose_y") else y.shape[-2:]
    flags = f"transpose_x={c.flag('transpose_x')}, transpose_y={c.flag('transpose_y')}"
    c.require(k == k2, "y", f"contraction of {k} ({flags}, x {list(x.shape)})", list(y.shape))
    batch = _broadcast_shapes(c, x.shape[:-2], y.shape[:-2], "y")
    return Type(x.dtype, (*batch, m, n))


def _reduce(c: Call) -> Type:
    shape = c.shape("x")
    axes = [c.axis("axes", a, len(shape)) for a in c.integers("axes")]
    ok = bool(axes) and len(set(axes)) == len(axes)
    c.require(ok, "axes", "one or more distinct axes", list(c.integers("axes")))
    if c.flag("keep_dims"):
        return Type(c.types["x"].dtype, tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return Type(c.types["x"].dtype, tuple(n for i, n in enumerate(shape) if i not in axes))


def _softmax(c: Call) -> Type:
    c.axis("axis", c.integer("axis"), len(c.shape("x")))
    return c.types["x"]


def _reshape(c: Call) -> Type:
    x, shape = c.types["x"], c.integers("shape")
    ok = 1 <= len(shape) <= MAX_RANK and min(shape, default=0) >= 1
    c.require(ok, "shape", f"1 to {MAX_RANK} integers >= 1", list(shape))
    count = math.prod(x.shape)
    c.require(math.prod(shape) == count, "shape", f"{count} elements", list(shape))
    return Type(x.dtype, shape)


def _transpose(c: Call) -> Type:
    x, perm = c.types["x"], c.integers("perm")
    ok = sorted(perm) == list(range(len(x.shape)))
    c.require(ok, "perm", f"a permutation of 0..{len(x.shape) - 1}", list(perm))
    return Type(x.dtype, tuple(x.shape[i] for i in perm))


def _slice_by_size(c: Call) -> Type:
    x, begin, size = c.types["x"], c.integers("begin"), c.integers("size")
    rank = len(x.shape)
    c.require(len(begin) == rank and min(begin) >= 0, "begin", f"{rank} integers >= 0", list(begin))
    c.require(len(size) == rank and min(size) >= 1, "size", f"{rank} integers >= 1", list(size))
    inside = all(b + s <= n for b, s, n in zip(begin, size, x.shape, strict=True))
    c.require(inside, "size", f"a part of {list(x.shape)} from {list(begin)}", list(size))
    return Type(x.dtype, size)


def _concat(c: Call) -> Type:
    types = c.tuples["values"]
    c.require(len(types) >= 1, "values", "at least one tensor", len(types))
    first = types[0]
    axis = c.axis("axis", c.integer("axis"), len(first.shape))
    for t in types[1:]:
        ok = t.dtype == first.dtype and len(t.shape) == len(first.shape)
        ok = ok and all(
            i == axis or m == n for i, (m, n) in enumerate(zip(first.shape, t.shape, strict=False))
        )
        c.require(ok, "values", f"{first} but for axis {axis}", t)
    total = sum(t.shape[axis] for t in types)
    return Type(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :]))


def _cast(c: Call) -> Type:
    dtype = c.string("dtype")
    c.require(dtype in ("fp16", "fp32", "bool"), "dtype", "fp16, fp32 or bool", repr(dtype))
    return Type(dtype, c.shape("x"))


_UNARY = Op({"x": "TENSOR"}, _same)
_BINARY = Op({"x": "NUMBER", "y": "NUMBER"}, _broadcast)
_COMPARE = Op({"x": "NUMBER", "y": "NUMBER"}, _compare)
_REDUCE = Op({"x": "TENSOR", "axes": "INTS", "keep_dims": "BOOL"}, _reduce)

OPS: dict[str, Op] = {
    "conv": Op(
        {
            "x": "TENSOR",
            "weight": "TENSOR",
            "strides": "INTS",
            "pad_type": "STRING",
            "pad": "INTS",
            "dilations": "INTS",
            "groups": "INT",
        },
        _conv,
    ),
    "matmul": Op(
        {"x": "TENSOR", "y": "TENSOR", "transpose_x": "BOOL", "transpose_y": "BOOL"}, _matmul
    ),
    "add": _BINARY,
    "sub": _BINARY,
    "mul": _BINARY,
    "real_div": _BINARY,
    "pow": _BINARY,
    "maximum": _BINARY,
    "minimum": _BINARY,
    "greater": _COMPARE,
    "greater_equal": _COMPARE,
    "less": _COMPARE,
    "less_equal": _COMPARE,
    "equal": _COMPARE,
    "not_equal": _COMPARE,
    "select": Op({"cond": "TENSOR", "a": "NUMBER", "b": "NUMBER"}, _select),
    "abs": _UNARY,
    "sign": _UNARY,
    "sqrt": _UNARY,
    "square": _UNARY,
    "exp": _UNARY,
    "erf": _UNARY,
    "sigmoid": _UNARY,
    "tanh": _UNARY,
    "relu": _UNARY,
    "silu": _UNARY,
    "identity": _UNARY,
    "reduce_sum": _REDUCE,
    "reduce_mean": _REDUCE,
    "reduce_max": _REDUCE,
    "reduce_min": _REDUCE,
    "softmax": Op({"x": "TENSOR", "axis": "INT"}, _softmax),
    "reshape": Op({"x": "TENSOR", "shape": "INTS"}, _reshape),
    "transpose": Op({"x": "TENSOR", "perm": "INTS"}, _transpose),
    "slice_by_size": Op({"x": "TENSOR", "begin": "INTS", "size": "INTS"}, _slice_by_size),
    "concat": Op({"axis": "INT", "interleave": "BOOL", "values": "TENSORS"}, _concat),
    "cast": Op({"x": "TENSOR", "dtype": "STRING"}, _cast),
}
"""Every operation the writer knows: its operands in text order and its shape rule."""
