# SPDX-License-Identifier: MIT
"""A value of a graph, with the operators of numpy.

The operators mean what they mean in numpy, element by element with broadcasting, and add one
operation each. One case goes beyond it: a rank-2 weight ``@`` an activation [N, C, H, W] is
the product over the channels (numpy refuses these shapes), written as a 1x1 convolution,
which is the engine's own matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native.mil_ops import Shape, Type

if TYPE_CHECKING:
    from ane_native.mil import Graph, Statement

__all__ = ["Operand", "Value", "graph_of"]

Index: TypeAlias = "int | slice | ellipsis | None | tuple[Any, ...]"  # noqa: F821


class Value:
    """One value of a graph: an input, a constant or the result of an operation.

    Attributes:
        type: its :class:`~ane_native.mil_ops.Type`.
        name: its identifier in the text; an output has the name of its port.
        statement: what makes it; None for an input.
    """

    __slots__ = ("graph", "name", "statement", "type")
    __array_ufunc__ = None  # numpy leaves the operators to us
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, name: str, type_: Type) -> None:
        self.graph = graph
        self.statement: Statement | None = None
        self.name = name
        self.type = type_

    @property
    def shape(self) -> Shape:
        """The shape, outermost axis first."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """MIL's word for the element type, such as ``"fp16"``."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.type.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.type.count

    @property
    def is_constant(self) -> bool:
        """Known before a run: a constant, or made by a ``constexpr`` operation."""
        return self.statement is not None and self.statement.is_constant

    def __repr__(self) -> str:
        return f"<Value {self.name} {self.type}>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a scalar has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        raise TypeError("a value of a graph is not known yet; use select()")

    def __iter__(self) -> Any:
        raise TypeError("a value of a graph cannot be iterated; use split() or slices")

    # ------------------------------- operators ----------------------------------

    def __add__(self, y: Operand) -> Value:
        return self.graph.add(self, y)

    def __radd__(self, x: Operand) -> Value:
        return self.graph.add(x, self)

    def __sub__(self, y: Operand) -> Value:
        return self.graph.sub(self, y)

    def __rsub__(self, x: Operand) -> Value:
        return self.graph.sub(x, self)

    def __mul__(self, y: Operand) -> Value:
        return self.graph.mul(self, y)

    def __rmul__(self, x: Operand) -> Value:
        return self.graph.mul(x, self)

    def __truediv__(self, y: Operand) -> Value:
        return self.graph.real_div(self, y)

    def __rtruediv__(self, x: Operand) -> Value:
        return self.graph.real_div(x, self)

    def __floordiv__(self, y: Operand) -> Value:
        return self.graph.floor_div(self, y)

    def __pow__(self, y: Operand) -> Value:
        if y == 2:
            return self.graph.mul(self, self)  # x * x is the more portable form
        return self.graph.pow(self, y)

    def __rpow__(self, x: Operand) -> Value:
        return self.graph.pow(x, self)

    def __neg__(self) -> Value:
        return self.graph.mul(self, -1.0)

    def __pos__(self) -> Value:
        return self

    def __abs__(self) -> Value:
        return self.graph.abs(self)

    def __lt__(self, y: Operand) -> Value:  # type: ignore[misc]
        return self.graph.less(self, y)

    def __le__(self, y: Operand) -> Value:  # type: ignore[misc]
        return self.graph.less_equal(self, y)

    def __gt__(self, y: Operand) -> Value:  # type: ignore[misc]
        return self.graph.greater(self, y)

    def __ge__(self, y: Operand) -> Value:  # type: ignore[misc]
        return self.graph.greater_equal(self, y)

    def __matmul__(self, y: Value) -> Value:
        if isinstance(y, Value) and self.is_constant and self.ndim == 2 and y.ndim == 4:
            return self.graph.channel_product(self, y)
        return self.graph.matmul(self, y)

    def __rmatmul__(self, x: npt.NDArray[Any]) -> Value:
        return self.graph.matmul(x, self)

    def __getitem__(self, index: Index) -> Value:
        items = list(index) if isinstance(index, tuple) else [index]
        if sum(i is Ellipsis for i in items) > 1:
            raise IndexError("an index can only have a single ellipsis ('...')")
        taken = sum(i is not None and i is not Ellipsis for i in items)
        if taken > self.ndim:
            raise IndexError(f"too many indices: {self!r} has {self.ndim} axes, got {taken}")
        rest = [slice(None)] * (self.ndim - taken)
        at = next((k for k, i in enumerate(items) if i is Ellipsis), None)
        items = [*items, *rest] if at is None else [*items[:at], *rest, *items[at + 1 :]]
        new = []
        result_axis = 0
        parts = []
        for i in items:
            if i is None:
                new.append(result_axis)
                result_axis += 1
                continue
            parts.append(i)
            result_axis += not isinstance(i, (int, np.integer))
        value = self._slice(parts)
        return self.graph.expand_dims(value, new) if new else value

    def _slice(self, parts: Sequence[Any]) -> Value:
        begin, end, stride, to_end, drop = [], [], [], [], []
        for axis, (part, n) in enumerate(zip(parts, self.shape, strict=True)):
            if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
                at = int(part) + (n if part < 0 else 0)
                if not 0 <= at < n:
                    raise IndexError(f"index {part} is out of bounds for axis {axis} of size {n}")
                begin.append(at)
                end.append(at + 1)
                stride.append(1)
            elif isinstance(part, slice):
                first, last, step = part.indices(n)
                if not len(range(first, last, step)):
                    raise IndexError(f"axis {axis} of size {n}: the slice {part} leaves nothing")
                begin.append(first)
                end.append(max(last, 0))
                stride.append(step)
            else:
                raise TypeError(f"index: expected int, slice, ... or None, got {part!r}")
            to_end.append(isinstance(part, slice) and step < 0 and last < 0)
            drop.append(not isinstance(part, slice))
        whole = all(b == 0 and e == n for b, e, n in zip(begin, end, self.shape, strict=True))
        if whole and not any(drop) and set(stride) == {1}:
            return self
        if set(stride) == {1} and not any(drop):
            sizes = [e - b for b, e in zip(begin, end, strict=True)]
            return self.graph.slice_by_size(self, begin, sizes)
        return self.graph.slice_by_index(
            self,
            begin,
            end,
            stride=stride,
            begin_mask=[False] * self.ndim,
            end_mask=to_end,
            squeeze_mask=drop,
        )

    # ------------------------------- as numpy's methods -------------------------

    @property
    def T(self) -> Value:
        """The axes in reverse order. Of a rank-2 weight: baked transposed, no operation."""
        if self.ndim < 2:
            return self
        if self.ndim == 2:
            baked = self.graph.transposed_weight(self)
            if baked is not None:
                return baked
        return self.graph.transpose(self, tuple(reversed(range(self.ndim))))

    def reshape(self, *shape: Any) -> Value:
        """The same elements in another shape, row-major; one size may be -1."""
        sizes = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self if sizes == self.shape else self.graph.reshape(self, sizes)

    def transpose(self, *axes: Any) -> Value:
        """Axis i of the result is axis ``axes[i]``; all in reverse order without any."""
        if not axes:
            return self.T
        order = tuple(axes[0]) if len(axes) == 1 and not isinstance(axes[0], int) else axes
        return self.graph.transpose(self, order)

    def swapaxes(self, a: int, b: int) -> Value:
        """Exchange two axes."""
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.graph.transpose(self, order)

    def _reduce(self, op: str, axis: int | Sequence[int] | None, keepdims: bool) -> Value:
        axes = range(self.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
        made: Value = getattr(self.graph, op)(self, tuple(axes), keep_dims=keepdims)
        return made

    def sum(self, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Value:
        """Sum over the axes."""
        return self._reduce("reduce_sum", axis, keepdims)

    def mean(self, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Value:
        """Mean over the axes: a sum times 1/n, which is more portable than ``reduce_mean``."""
        total = self._reduce("reduce_sum", axis, keepdims)
        return total * (total.size / self.size)

    def max(self, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Value:
        """Largest element over the axes."""
        return self._reduce("reduce_max", axis, keepdims)

    def min(self, axis: int | Sequence[int] | None = None, *, keepdims: bool = False) -> Value:
        """Smallest element over the axes."""
        return self._reduce("reduce_min", axis, keepdims)

    def astype(self, dtype: str) -> Value:
        """Cast to ``"fp16"``, ``"fp32"``, ``"bool"``, ``"int8"`` or ``"uint8"``."""
        return self.graph.cast(self, dtype)


Operand: TypeAlias = "Value | float | npt.NDArray[Any]"


def graph_of(op: str, *operands: Any) -> Graph:
    """The graph of the first operand that is a value.

    Raises:
        TypeError: none is.
    """
    for operand in operands:
        for item in operand if isinstance(operand, (list, tuple)) else (operand,):
            if isinstance(item, Value):
                return item.graph
    raise TypeError(f"{op}: expected a Value among the operands")
