# SPDX-License-Identifier: MIT
"""What a rule of differentiation gets, and the helpers that the rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ane_native.errors import AneError
from ane_native.mil import Graph, Statement, Value
from ane_native.mil_rules import Window, window


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
    """y = matrix v along one axis, by a product with a constant or a value."""
    m = matrix if isinstance(matrix, Value) else g.const(np.asarray(matrix, np.float64))
    if v.ndim == 1:
        return g.reshape(g.matmul(m, g.reshape(v, (v.size, 1))), (m.shape[0],))
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
