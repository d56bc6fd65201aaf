# SPDX-License-Identifier: MIT
"""One operation as it is checked: types, operands against the table, the rule for the result.

The table (:mod:`ane_native.mil_table`) says which operands an operation takes; a rule
(:mod:`ane_native.mil_rules` and its neighbours) gets a :class:`Call` and returns the type of
the result, or raises a ``ValueError`` that names operation, operand, expected and got. The
rules are those of softane (``softane/mil/type_*.c``), written once more so that a mistake is
found at the line that makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "DTYPES",
    "MAX_RANK",
    "Call",
    "Rule",
    "Shape",
    "Type",
    "broadcast_shapes",
    "checked_shape",
]

Shape: TypeAlias = tuple[int, ...]

MAX_RANK = 5  # ranks above do not compile: ANEForge docs/developer/op-quirks.md
DEEP_RANK = 7  # of constants only: lookup tables

# MIL's word -> how numpy holds an element. The small integers have a byte each in memory;
# in a weight file they are packed.
DTYPES: dict[str, Any] = {
    "fp16": np.float16,
    "fp32": np.float32,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "int4": np.int8,
    "uint1": np.uint8,
    "uint2": np.uint8,
    "uint3": np.uint8,
    "uint4": np.uint8,
    "uint6": np.uint8,
    "string": np.str_,
}
# Bits of an element in a weight file, where it is not the size of the numpy type.
SMALL_BITS = {"int4": 4, "uint1": 1, "uint2": 2, "uint3": 3, "uint4": 4, "uint6": 6}


@dataclass(frozen=True)
class Type:
    """Element type and shape of a value.

    Attributes:
        dtype: one of :data:`DTYPES`, such as ``"fp16"``, ``"int32"``, ``"bool"``.
        shape: outermost axis first; ``()`` is a scalar.
    """

    dtype: str
    shape: Shape

    @property
    def count(self) -> int:
        """Number of elements."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.count * int(np.dtype(DTYPES[self.dtype]).itemsize)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def checked_shape(where: str, shape: Any, most: int = MAX_RANK, least: int = 1) -> Shape:
    """`shape` as a tuple; ValueError unless it has 1 to `most` axes, each of at least 1."""
    result = tuple(int(n) for n in shape)
    if not least <= len(result) <= most or min(result, default=1) < 1:
        expected = f"{least} to {most} axes, each >= 1"
        raise ValueError(f"{where}: shape: expected {expected}, got {list(result)}")
    return result


def broadcast_shapes(a: Shape, b: Shape) -> Shape | None:
    """NumPy's broadcasting: aligned at the last axis, 1 stretches; None when they do not fit."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    if any(m != n and m != 1 and n != 1 for m, n in zip(a, b, strict=True)):
        return None
    return tuple(n if m == 1 else m for m, n in zip(a, b, strict=True))


class Call:
    """The operands of one operation while its rule looks at them.

    Attributes:
        op: name of the operation.
        types: of the tensor operands that were given.
        tuples: of the tuple operands.
        constants: Python values of the others: int, float, bool, str, tuples of them.
        baked: keys of tensor operands that are known before a run.
        arrays: elements of those among them that stand in the text.
        results: number of results a text declares, or None.
        allow_refused: operations and forms the engine was seen to refuse pass.
    """

    def __init__(self, op: str, *, allow_refused: bool = False) -> None:
        self.op = op
        self.allow_refused = allow_refused
        self.types: dict[str, Type] = {}
        self.tuples: dict[str, list[Type]] = {}
        self.constants: dict[str, Any] = {}
        self.baked: set[str] = set()
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.results: int | None = None

    def shape(self, key: str) -> Shape:
        """Shape of the tensor operand `key`."""
        return self.types[key].shape

    def rank(self, key: str, low: int, high: int = MAX_RANK) -> Shape:
        """Shape of `key`, whose rank must lie between the two."""
        shape = self.shape(key)
        if high == low:
            want = f"rank {low}"
        else:
            want = f"rank {low} or more" if high >= MAX_RANK else f"rank {low} to {high}"
        self.require(low <= len(shape) <= high, key, want, list(shape))
        return shape

    def integer(self, key: str, absent: int, low: int | None = None, high: int = 2**31) -> int:
        """An INT operand between the bounds, or `absent`."""
        value: int | None = self.constants.get(key)
        if value is None:
            return absent
        if low is not None:
            self.require(low <= value < high, key, f"at least {low} and below {high}", value)
        return value

    def integers(
        self, key: str, count: int, low: int | None = None, absent: int | None = None
    ) -> Shape:
        """An INTS operand of `count` elements, each >= `low`; or `absent` so many times."""
        value: Shape | None = self.constants.get(key)
        if value is None:
            self.require(absent is not None, key, f"{count} integers", "none")
            return (absent or 0,) * count
        ok = len(value) == count and (low is None or min(value, default=low) >= low)
        bound = "" if low is None else f" >= {low}"
        self.require(ok, key, f"{count} integers{bound}", list(value))
        return value

    def flag(self, key: str, absent: bool = False) -> bool:
        """A BOOL operand."""
        value: bool = self.constants.get(key, absent)
        return value

    def word(self, key: str, absent: str) -> str:
        """A STRING operand."""
        value: str = self.constants.get(key, absent)
        return value

    def require(self, ok: bool, operand: str, expected: str, got: object) -> None:
        """Raise ValueError naming operation, operand, expected and got, unless `ok`."""
        if not ok:
            raise ValueError(f"{self.op}: operand {operand!r}: expected {expected}, got {got}")

    def axis(self, key: str, rank: int, absent: int | None = None) -> int:
        """The axis `key` counted from the front; negative ones count from the back."""
        axis: int | None = self.constants.get(key, absent)
        self.require(axis is not None, key, "an axis", "none")
        return self.one_axis(key, axis or 0, rank)

    def one_axis(self, key: str, axis: int, rank: int) -> int:
        """`axis` counted from the front."""
        self.require(-rank <= axis < rank, key, f"an axis in [{-rank}, {rank})", axis)
        return axis % rank

    def axes(self, key: str, rank: int) -> Shape:
        """Distinct axes from the front; all when absent."""
        given: Shape | None = self.constants.get(key)
        if given is None:
            return tuple(range(rank))
        axes = [self.one_axis(key, a, rank) for a in given]
        ok = bool(axes) and len(set(axes)) == len(axes)
        self.require(ok, key, "one or more distinct axes", list(given))
        return tuple(axes)

    def vector(self, key: str, count: int) -> None:
        """An optional tensor operand must have the shape [count]."""
        if key in self.types:
            self.require(
                self.shape(key) == (count,), key, f"a vector of {count}", list(self.shape(key))
            )

    def broadcast(self, a: str, b: str, shape_a: Shape, shape_b: Shape) -> Shape:
        """What the two shapes broadcast to."""
        made = broadcast_shapes(shape_a, shape_b)
        want = f"a shape that broadcasts with {list(shape_a)} of operand {a!r}"
        self.require(made is not None, b, want, list(shape_b))
        return made or ()


Rule: TypeAlias = Callable[[Call], "Type | list[Type]"]
