# SPDX-License-Identifier: MIT
"""Every operation of the MIL writer, compiled by the engine and compared with NumPy.

What this shows is spelling: names of operations and operands, kinds of constants, shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import ane_native as ane
from ane_native.mil import OPS, Dialect, Function, Value

Array = npt.NDArray[Any]
Make = Callable[[Function, Value, Value], Value]
Expect = Callable[[Array, Array], Array]

SHAPE = (1, 8, 4, 32)
ERF = np.vectorize(math.erf, otypes=[np.float64])


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


CASES: dict[str, tuple[Make, Expect]] = {
    "conv": (
        lambda f, x, y: f.conv(f.mul(x, y), f.weight("w", (3, 8, 1, 1), "w")),
        lambda x, y: np.einsum("oi,nihw->nohw", W, x * y),
    ),
    "matmul": (
        lambda f, x, y: f.matmul(x, y, transpose_y=True),
        lambda x, y: x @ y.swapaxes(-1, -2),
    ),
    "add": (lambda f, x, y: f.add(x, y), lambda x, y: x + y),
    "sub": (lambda f, x, y: f.sub(1.5, f.sub(x, y)), lambda x, y: 1.5 - (x - y)),
    "mul": (lambda f, x, y: f.mul(x, y), lambda x, y: x * y),
    "real_div": (lambda f, x, y: f.real_div(x, y), lambda x, y: x / y),
    "pow": (lambda f, x, y: f.mul(f.pow(y, -0.5), x), lambda x, y: x * y**-0.5),
    "maximum": (lambda f, x, y: f.maximum(x, y), lambda x, y: np.maximum(x, y)),
    "minimum": (lambda f, x, y: f.minimum(x, y), lambda x, y: np.minimum(x, y)),
    "greater": (lambda f, x, y: f.select(f.greater(x, y), x, 2.0), lambda x, y: choose(x > y, x)),
    "greater_equal": (
        lambda f, x, y: f.select(f.greater_equal(x, y), x, 2.0),
        lambda x, y: choose(x >= y, x),
    ),
    "less": (lambda f, x, y: f.select(f.less(x, y), x, 2.0), lambda x, y: choose(x < y, x)),
    "less_equal": (
        lambda f, x, y: f.select(f.less_equal(x, y), x, 2.0),
        lambda x, y: choose(x <= y, x),
    ),
    "equal": (lambda f, x, y: f.select(f.equal(x, y), x, 2.0), lambda x, y: choose(x == y, x)),
    "not_equal": (
        lambda f, x, y: f.select(f.not_equal(x, y), x, 2.0),
        lambda x, y: choose(x != y, x),
    ),
    "select": (
        lambda f, x, y: f.select(f.greater(x, 0.0), x, y),
        lambda x, y: np.where(x > 0, x, y),
    ),
    "abs": (lambda f, x, y: f.mul(f.abs(x), y), lambda x, y: abs(x) * y),
    "sign": (lambda f, x, y: f.mul(f.sign(x), y), lambda x, y: np.sign(x) * y),
    "sqrt": (lambda f, x, y: f.mul(f.sqrt(y), x), lambda x, y: np.sqrt(y) * x),
    "square": (lambda f, x, y: f.mul(f.square(x), y), lambda x, y: x * x * y),
    "exp": (lambda f, x, y: f.mul(f.exp(x), y), lambda x, y: np.exp(x) * y),
    "erf": (lambda f, x, y: f.mul(f.erf(x), y), lambda x, y: ERF(x) * y),
    "sigmoid": (lambda f, x, y: f.mul(f.sigmoid(x), y), lambda x, y: y / (1 + np.exp(-x))),
    "tanh": (lambda f, x, y: f.mul(f.tanh(x), y), lambda x, y: np.tanh(x) * y),
    "relu": (lambda f, x, y: f.mul(f.relu(x), y), lambda x, y: np.maximum(x, 0) * y),
    "silu": (lambda f, x, y: f.mul(f.silu(x), y), lambda x, y: x / (1 + np.exp(-x)) * y),
    "identity": (lambda f, x, y: f.mul(f.identity(x), y), lambda x, y: x * y),
    "reduce_sum": (
        lambda f, x, y: f.mul(f.reduce_sum(x, (1, -2)), y),
        lambda x, y: x.sum(axis=(1, 2), keepdims=True) * y,
    ),
    "reduce_mean": (
        lambda f, x, y: f.mul(f.reduce_mean(x, (1,)), y),
        lambda x, y: x.mean(axis=1, keepdims=True) * y,
    ),
    "reduce_max": (
        lambda f, x, y: f.mul(f.reduce_max(x, (3,)), y),
        lambda x, y: x.max(axis=3, keepdims=True) * y,
    ),
    "reduce_min": (
        lambda f, x, y: f.mul(f.reduce_min(x, (2,)), y),
        lambda x, y: x.min(axis=2, keepdims=True) * y,
    ),
    "softmax": (lambda f, x, y: f.mul(f.softmax(x, -1), y), lambda x, y: softmax(x, -1) * y),
    "reshape": (
        lambda f, x, y: f.reshape(f.mul(x, y), (1, 2, 16, 32)),
        lambda x, y: (x * y).reshape(1, 2, 16, 32),
    ),
    "transpose": (
        lambda f, x, y: f.transpose(f.mul(x, y), (0, 2, 1, 3)),
        lambda x, y: (x * y).transpose(0, 2, 1, 3),
    ),
    "slice_by_size": (
        lambda f, x, y: f.slice_by_size(f.mul(x, y), (0, 3, 1, 0), (1, 4, 2, 32)),
        lambda x, y: (x * y)[:, 3:7, 1:3],
    ),
    "concat": (
        lambda f, x, y: f.concat((x, f.mul(x, y), y), 1),
        lambda x, y: np.concatenate([x, x * y, y], axis=1),
    ),
    "cast": (
        lambda f, x, y: f.mul(f.cast(f.cast(f.cast(x, "fp32"), "bool"), "fp16"), y),
        lambda x, y: (x != 0) * y,
    ),
}

W = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float16).astype(np.float64)


def choose(condition: Array, x: Array) -> Array:
    return np.where(condition, x, 2.0)


def test_the_cases_are_operations_of_the_table() -> None:
    assert set(CASES) <= set(OPS)


@pytest.mark.parametrize("dialect", ["A", "B"])
@pytest.mark.parametrize("op", sorted(CASES))
def test_operation_computes_what_numpy_does(op: str, dialect: Dialect) -> None:
    make, expect = CASES[op]
    rng = np.random.default_rng(2)
    x = rng.standard_normal(SHAPE).astype(np.float16).astype(np.float64)
    y = rng.uniform(0.5, 2.0, SHAPE).astype(np.float16).astype(np.float64)
    y[0, :, 1] = abs(x[0, :, 1])  # so that equal and greater_equal have something to find
    y[0, :, 1][y[0, :, 1] < 0.01] = 0.5
    f = Function(dialect)
    f.output("z", make(f, f.input("x", SHAPE), f.input("y", SHAPE)))
    mil = f.build()
    kernel = ane.Kernel(op, mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights)
    with ane.Program(kernel, {"w": W}) as program:
        got = program.eval(x, y)
    want = expect(x, y)
    assert got.shape == want.shape
    # at most four roundings of 2^-11, and sums of 32 numbers up to 8
    assert np.allclose(got, want, rtol=4 * 2.0**-11, atol=32 * 2.0**-11)
