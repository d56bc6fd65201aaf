# SPDX-License-Identifier: MIT
"""Evaluate the text of one MIL function with NumPy: a second opinion on an engine.

Reads exactly what :mod:`ane_native.mil` writes, nothing more. Three arithmetics:

* ``float64``  no rounding at all: shows that the text means what its author intended.
* ``fp16``     every result rounded to fp16 (nearest even), products summed wide.
* ``silicon``  products in the fixed point of the hardware, as fitted to published error
  figures of sbryngelson/ANEForge: each product rounded to 2^-16, results half away from
  zero, |y| >= 2^15 is inf. Everything else as ``fp16``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ane_native.mil import MilText

Array = npt.NDArray[np.float64]
Arithmetic = Literal["float64", "fp16", "silicon"]

_CONST = re.compile(r"(\S.*?) (\w+) = const\(\)\[name=.*?, val=(.*)\];")
_CALL = re.compile(r"(\S.*?) (\w+) = (\w+)\((.*)\)\[name=.*\];")
_ARGUMENT = re.compile(r"(\w+)=(\([^)]*\)|\w+)")


def evaluate(
    mil: MilText,
    weights: Mapping[str, npt.NDArray[Any]],
    inputs: Mapping[str, npt.NDArray[Any]],
    arithmetic: Arithmetic = "float64",
) -> dict[str, Array]:
    """Run `mil` on `inputs` (port name -> array), with blobs made from `weights`.

    Returns:
        Port name -> float64 array (of fp16 values, unless the arithmetic is float64).
    """
    rounded = arithmetic != "float64"
    values: dict[str, Any] = {
        name: _half(np.float64(x)) if rounded else np.float64(x) for name, x in inputs.items()
    }
    types: dict[str, str] = {}
    results: list[str] = []
    for line in mil.text.splitlines():
        line = line.strip()
        if line.startswith("} -> ("):
            results = line[len("} -> (") : -2].split(", ")
        elif match := _CONST.fullmatch(line):
            type_, name, literal = match.groups()
            value = _constant(mil, literal, type_, weights)
            values[name] = _half(value) if rounded and "fp16" in type_ else value
        elif match := _CALL.fullmatch(line):
            type_, name, op, arguments = match.groups()
            operands = {
                key: tuple(values[v] for v in text[1:-1].split(", "))
                if text.startswith("(")
                else values[text]
                for key, text in _ARGUMENT.findall(arguments)
            }
            if op in ("conv", "matmul") and arithmetic == "silicon":
                operands["product"] = silicon_product
            value = _OPS[op](**operands)
            values[name] = _half(value) if rounded else value
            types[name] = type_
            shape = [int(n) for n in re.findall(r"\d+", type_.split("[")[1])]
            assert list(value.shape) == shape, f"{line}: declared {shape}, got {value.shape}"
    return {name: values[name] for name in results}


def _half(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x, dtype=np.float16).astype(np.float64)


def _constant(mil: MilText, literal: str, type_: str, weights: Mapping[str, Any]) -> Any:
    if blob := re.search(r'"(@model_path[^"]*)"', literal):
        source = mil.weights[blob.group(1)]
        shape = [int(n) for n in re.findall(r"\d+", type_.split("[")[1])]
        if isinstance(source, str):
            data = weights[source]
        elif isinstance(source, np.ndarray):
            data = source
        else:
            data = weights[source.name].T if source.transpose else weights[source.name]
        return np.float64(data).reshape(shape)
    text = literal[literal.rindex("(") + 1 : literal.rindex(")")]
    if text.startswith("["):
        numbers = text[1:-1].split(", ")
        return np.array(numbers, np.float64) if "fp16" in type_ else tuple(map(int, numbers))
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"'):
        return text[1:-1]
    return int(text) if "int32" in type_ else np.float64(text)


def silicon_product(x: Array, y: Array) -> Array:
    """x [..., M, K] @ y [..., K, N] in fixed point."""

    def exponent(v: Array) -> npt.NDArray[np.int64]:
        bits = v.astype(np.float16).view(np.uint16).astype(np.int64)
        return np.maximum((bits >> 10) & 31, 1) - 15

    ex, ey = exponent(x), exponent(y)
    total = np.zeros((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]))
    for k in range(x.shape[-1]):
        p = x[..., :, k, None] * y[..., None, k, :]
        q = np.sign(p) * np.floor(np.abs(p) * 2.0**16 + 0.5)
        q[ex[..., :, k, None] + ey[..., None, k, :] < -16] = 0.0
        total += q
    y_ = total * 2.0**-16
    # half away from zero: fp16 has 11 significant bits, and a grid of 2^-24 at the bottom
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(y_), 2.0**-14))), -14) - 10)
    y_ = np.sign(y_) * np.floor(np.abs(y_) / step + 0.5) * step
    return np.where(np.abs(total) >= 2.0**31, np.copysign(np.inf, total), y_)


def _conv(
    x: Array, weight: Array, product: Callable[[Array, Array], Array] = np.matmul, **_: Any
) -> Array:
    assert weight.shape[2:] == (1, 1), "this evaluator knows 1x1 kernels only"
    n, channels, height, width = x.shape
    y = product(weight[:, :, 0, 0], x.reshape(n, channels, height * width))
    return y.reshape(n, -1, height, width)


def _matmul(
    x: Array,
    y: Array,
    transpose_x: bool,
    transpose_y: bool,
    product: Callable[[Array, Array], Array] = np.matmul,
) -> Array:
    return product(
        np.swapaxes(x, -1, -2) if transpose_x else x, np.swapaxes(y, -1, -2) if transpose_y else y
    )


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


_OPS: dict[str, Callable[..., Array]] = {
    "conv": _conv,
    "matmul": _matmul,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "pow": lambda x, y: x**y,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(axis=axes, keepdims=keep_dims),
    "softmax": _softmax,
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, perm: x.transpose(perm),
    "slice_by_size": lambda x, begin, size: x[
        tuple(slice(b, b + s) for b, s in zip(begin, size, strict=True))
    ],
    "concat": lambda axis, interleave, values: np.concatenate(values, axis=axis),
}
