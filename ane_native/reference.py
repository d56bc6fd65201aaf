# SPDX-License-Identifier: MIT
"""A graph in float64 with numpy: slow, plainly right, a second opinion on any engine.

What each operation computes is taken from its definition in docs/OPS.md. Nothing is rounded;
comparisons and indices are exact. Quantised values and compressed constants are not here.
"""

# numpy's functions are typed as Any where they depend on their arguments
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native import reference_quantised
from ane_native.autodiff_shape import resampling
from ane_native.mil import Graph, Statement
from ane_native.mil_ops import DTYPES
from ane_native.mil_rules import window
from ane_native.mil_rules_shape import slices

__all__ = ["OPERATIONS", "evaluate"]

Array: TypeAlias = npt.NDArray[Any]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def evaluate(
    graph: Graph, inputs: Mapping[str, npt.ArrayLike], weights: Mapping[str, npt.ArrayLike]
) -> dict[str, Array]:
    """The outputs of a graph.

    Args:
        graph: to evaluate. inputs: port name -> array of the port's shape.
        weights: name -> array of every weight the graph bakes.

    Returns:
        Output port -> float64 array.

    Raises:
        NotImplementedError: an operation that is not among :data:`OPERATIONS`.
    """
    at: dict[Any, Array] = {}
    for v in graph.inputs:
        at[v] = np.asarray(inputs[v.name], np.float64).reshape(v.shape)
    live = graph.live()
    for s in graph.statements:
        if not any(v in live for v in s.results):
            continue
        if s.op == "const":
            at[s.results[0]] = _constant(s, weights)
            continue
        if s.op not in OPERATIONS:
            raise NotImplementedError(f"reference: {s.op}")
        a = {
            k: [at[x] for x in v] if isinstance(v, tuple) else at[v] for k, v in s.operands.items()
        }
        with np.errstate(all="ignore"):
            made = OPERATIONS[s.op](s, a)
        for v, y in zip(s.results, made if isinstance(made, list) else [made], strict=True):
            if y.shape != v.shape:
                raise AssertionError(f"{s.op}: computed {y.shape}, typed {v.type}")
            at[v] = y
    return {v.name: at[v] for v in graph.outputs}


def _constant(s: Statement, weights: Mapping[str, npt.ArrayLike]) -> Array:
    t = s.results[0].type
    kind = np.float64 if t.dtype in ("fp16", "fp32") else DTYPES[t.dtype]
    if s.blob is None:
        return np.asarray(s.literal, kind).reshape(t.shape)
    if isinstance(s.source, np.ndarray):
        return s.source.astype(np.float64).reshape(t.shape)
    name, transposed = (
        (s.source, False) if isinstance(s.source, str) else (s.source.name, s.source.transpose)
    )
    w = np.asarray(weights[name], np.float64)
    return (w.reshape(w.shape[0], -1).T if transposed else w).reshape(t.shape)


# =============================== Operations =====================================

Op: TypeAlias = Callable[[Statement, dict[str, Any]], Any]


def _p(s: Statement, key: str, absent: Any = None) -> Any:
    return s.params.get(key, absent)


def _u(f: Callable[[Array], Array]) -> Op:
    return lambda s, a: f(a["x"])


def _b(f: Callable[[Array, Array], Array]) -> Op:
    return lambda s, a: np.asarray(f(a["x"], a["y"]))


def _sig(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _gelu(s: Statement, a: dict[str, Any]) -> Array:
    x, mode = a["x"], _p(s, "mode")
    if mode == "EXACT":
        return np.asarray(x * 0.5 * (1 + _erf(x / math.sqrt(2))))
    if mode == "SIGMOID_APPROXIMATION":
        return np.asarray(x * _sig(1.702 * x))
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _channel(v: Array, like: Array) -> Array:
    return v.reshape(1, -1, *(1,) * (like.ndim - 2))


def _reduce(f: Callable[..., Array]) -> Op:
    def op(s: Statement, a: dict[str, Any]) -> Array:
        axes = _p(s, "axes")
        axes = tuple(range(a["x"].ndim)) if axes is None else tuple(axes)
        return np.asarray(f(a["x"], axis=axes, keepdims=_p(s, "keep_dims", False)))

    return op


def _lse(x: Array, axis: Any, keepdims: bool) -> Array:
    top = x.max(axis=axis, keepdims=True)
    made = np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top
    return np.asarray(made if keepdims else made.squeeze(axis))


def _softmax(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def _norm(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"]
    if s.op == "layer_norm":
        axes = _p(s, "axes")
        axes = tuple(range(x.ndim)) if axes is None else tuple(sorted(i % x.ndim for i in axes))
        shape = [n if i in axes else 1 for i, n in enumerate(x.shape)]
    else:
        axes, shape = tuple(range(2, x.ndim)), [1, x.shape[1], *(1,) * (x.ndim - 2)]
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    if s.op == "batch_norm":
        mean, var = a["mean"].reshape(shape), a["variance"].reshape(shape)
    y = (x - mean) / np.sqrt(var + _p(s, "epsilon", 1e-5))
    if "gamma" in a:
        y = y * a["gamma"].reshape(shape)
    return np.asarray(y + a["beta"].reshape(shape) if "beta" in a else y)


def _lrn(s: Statement, a: dict[str, Any]) -> Array:
    x, size = a["x"], _p(s, "size")
    total = np.zeros_like(x)
    for c in range(x.shape[1]):
        near = x[:, max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        total[:, c] = (near**2).sum(axis=1)
    scale = _p(s, "k", 1.0) + _p(s, "alpha", 1e-4) / size * total
    return np.asarray(x / scale ** _p(s, "beta", 0.75))


def _cumsum(s: Statement, a: dict[str, Any]) -> Array:
    x, axis = a["x"], _p(s, "axis", 0)
    x = np.flip(x, axis) if _p(s, "reverse", False) else x
    y = np.cumsum(x, axis=axis)
    y = y - x if _p(s, "exclusive", False) else y
    return np.asarray(np.flip(y, axis) if _p(s, "reverse", False) else y)


def _matmul(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"].swapaxes(-1, -2) if _p(s, "transpose_x", False) else a["x"]
    y = a["y"].swapaxes(-1, -2) if _p(s, "transpose_y", False) else a["y"]
    return np.asarray(x @ y)


def _einsum(s: Statement, a: dict[str, Any]) -> Array:
    x, y = a["values"]
    shape = np.broadcast_shapes(x.shape[:-3] + x.shape[-2:-1], y.shape[:-3] + y.shape[-2:-1])
    x = np.broadcast_to(x, (*shape[:-1], x.shape[-3], shape[-1], x.shape[-1]))
    y = np.broadcast_to(y, (*shape[:-1], y.shape[-3], shape[-1], y.shape[-1]))
    return np.einsum(_p(s, "equation").replace(" ", ""), x, y)


def _attention(s: Statement, a: dict[str, Any]) -> Array:
    q, k, v = a["query"], a["key"], a["value"]
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if "attn_mask" in a:
        m = a["attn_mask"]
        scores = np.where(m, scores, -np.inf) if m.dtype == np.bool_ else scores + m
    return np.asarray(_softmax(scores) @ v)


def _taps(s: Statement, x: Array, fill: float) -> tuple[Any, Array]:
    """(window, [taps, N, C, *out]): the element of every window at each tap."""
    w = window(
        s.op, {k: v.type for k, v in s.operands.items() if not isinstance(v, tuple)}, s.params
    )
    need = [
        (o - 1) * t + d * (k - 1) + 1
        for o, t, d, k in zip(w.size_out, w.stride, w.dilation, w.kernel, strict=True)
    ]
    edge = [(0, 0), (0, 0)]
    edge += [(b, max(0, n - m - b)) for b, n, m in zip(w.before, need, w.size_in, strict=True)]
    wide = np.pad(x, edge, constant_values=fill)
    parts = []
    for at in np.ndindex(*w.kernel):
        index = [slice(None), slice(None)]
        for o, d, t, n in zip(at, w.dilation, w.stride, w.size_out, strict=True):
            index.append(slice(o * d, o * d + (n - 1) * t + 1, t))
        parts.append(wide[tuple(index)])
    return w, np.stack(parts)


def _conv(s: Statement, a: dict[str, Any]) -> Array:
    x, k, groups = a["x"], a["weight"], _p(s, "groups", 1)
    _, taps = _taps(s, x, 0.0)
    n, out = x.shape[0], k.shape[0]
    t = taps.reshape(len(taps), n, groups, -1, *taps.shape[3:])
    m = k.reshape(groups, out // groups, k.shape[1], -1)
    made = np.einsum("kngi...,goik->ngo...", t, m)
    return np.asarray(made.reshape(n, out, *taps.shape[3:]))


def _conv_transpose(s: Statement, a: dict[str, Any]) -> Array:
    x, k, groups = a["x"], a["weight"], _p(s, "groups", 1)
    w = window(
        s.op, {q: v.type for q, v in s.operands.items() if not isinstance(v, tuple)}, s.params
    )
    n, per = x.shape[0], k.shape[1]
    full = [
        (i - 1) * t + d * (q - 1) + 1
        for i, t, d, q in zip(w.size_in, w.stride, w.dilation, w.kernel, strict=True)
    ]
    wide = np.zeros((n, groups, per, *(f + max(0, -c) for f, c in zip(full, w.after, strict=True))))
    xs = x.reshape(n, groups, -1, *x.shape[2:])
    ks = k.reshape(groups, k.shape[0] // groups, *k.shape[1:])
    for at in np.ndindex(*w.kernel):
        index: list[Any] = [slice(None)] * 3
        tap: Any = (Ellipsis, *at)
        for o, d, t, i in zip(at, w.dilation, w.stride, w.size_in, strict=True):
            index.append(slice(o * d, o * d + (i - 1) * t + 1, t))
        wide[tuple(index)] += np.einsum("ngc...,gco->ngo...", xs, ks[tap])
    cut = [slice(None)] * 3
    cut += [slice(b, b + o) for b, o in zip(w.before, w.size_out, strict=True)]
    return wide[tuple(cut)].reshape(n, groups * per, *w.size_out)


def _pool(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"]
    if s.op == "max_pool":
        return np.asarray(_taps(s, x, -np.inf)[1].max(axis=0))
    if s.op == "l2_pool":
        return np.asarray(np.sqrt((_taps(s, x, 0.0)[1] ** 2).sum(axis=0)))
    w, taps = _taps(s, x, 0.0)
    inside = np.ones_like(x)
    if not _p(s, "exclude_padding_from_average", False):
        edge = [(0, 0), (0, 0), *zip(w.before, (max(0, n) for n in w.after), strict=True)]
        counted = np.ones(np.pad(x, edge).shape)
        shifted = _taps_of(counted, w)
    else:
        shifted = _taps(s, inside, 0.0)[1]
    return np.asarray(taps.sum(axis=0) / shifted.sum(axis=0))


def _taps_of(x: Array, w: Any) -> Array:
    """As :func:`_taps` of an array that is padded already, zeros beyond it."""
    parts = []
    for at in np.ndindex(*w.kernel):
        part = x
        for i, (o, t, n) in enumerate(zip(at, w.stride, w.size_out, strict=True)):
            index = o + t * np.arange(n)
            some = np.take(part, np.minimum(index, part.shape[2 + i] - 1), axis=2 + i)
            shape = [-1 if k == 2 + i else 1 for k in range(x.ndim)]
            part = some * (index < part.shape[2 + i]).reshape(shape)
        parts.append(part)
    return np.stack(parts)


def _pad(s: Statement, a: dict[str, Any]) -> Array:
    x, told = a["x"], _p(s, "pad")
    edge = [(0, 0)] * (x.ndim - len(told) // 2)
    edge += [(told[2 * i], told[2 * i + 1]) for i in range(len(told) // 2)]
    mode = _p(s, "mode", "constant")
    if mode == "constant":
        return np.pad(x, edge, constant_values=_p(s, "constant_val", 0.0))
    return np.pad(x, edge, mode="reflect" if mode == "reflect" else "edge")


def _split(s: Statement, a: dict[str, Any]) -> list[Array]:
    axis = _p(s, "axis") % a["x"].ndim
    sizes = [v.shape[axis] for v in s.results]
    return np.split(a["x"], np.cumsum(sizes)[:-1], axis=axis)


def _shuffle(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"]
    n, c, h, w = x.shape
    b = _p(s, "block_size") or _p(s, "upscale_factor") or _p(s, "downscale_factor")
    if s.op in ("space_to_depth", "pixel_unshuffle"):
        t = x.reshape(n, c, h // b, b, w // b, b)
        order = (0, 3, 5, 1, 2, 4) if s.op == "space_to_depth" else (0, 1, 3, 5, 2, 4)
        return t.transpose(order).reshape(n, c * b * b, h // b, w // b)
    c //= b * b
    if s.op == "depth_to_space":
        return x.reshape(n, b, b, c, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c, h * b, w * b)
    return x.reshape(n, c, b, b, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h * b, w * b)


def _space_batch(s: Statement, a: dict[str, Any]) -> Array:
    x, (p, q) = a["x"], _p(s, "block_shape")
    if s.op == "space_to_batch":
        x = np.pad(x, [(0, 0), (0, 0), *_p(s, "paddings")])
        n, c, h, w = x.shape
        t = x.reshape(n, c, h // p, p, w // q, q).transpose(3, 5, 0, 1, 2, 4)
        return t.reshape(n * p * q, c, h // p, w // q)
    n, c, h, w = x.shape
    t = x.reshape(p, q, n // (p * q), c, h, w).transpose(2, 3, 4, 0, 5, 1)
    (top, bottom), (left, right) = _p(s, "crops")
    made = t.reshape(n // (p * q), c, h * p, w * q)
    return made[:, :, top : h * p - bottom, left : w * q - right]


def _windows(s: Statement, a: dict[str, Any]) -> Array:
    x, size, stride = a["x"], _p(s, "size"), _p(s, "stride", 1)
    axis = _p(s, "axis") % x.ndim
    count = (x.shape[axis] - size) // stride + 1
    return np.take(x, np.arange(count)[:, None] * stride + np.arange(size), axis=axis)


def _resize(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"]
    for axis, matrix in resampling(s):
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return np.asarray(x)


def _topk(s: Statement, a: dict[str, Any]) -> list[Array]:
    x, axis = a["x"], _p(s, "axis", -1)
    k = s.results[0].shape[axis]
    order = np.argsort(x if _p(s, "ascending", False) else -x, axis=axis, kind="stable")
    index = np.take(order, np.arange(k), axis=axis)
    made = [np.take_along_axis(x, index, axis=axis), index]
    return made[: len(s.results)]


def _one_hot(s: Statement, a: dict[str, Any]) -> Array:
    hot = np.arange(_p(s, "one_hot_vector_size")) == a["indices"][..., None]
    made = np.where(hot, _p(s, "on_value", 1), _p(s, "off_value", 0))
    return np.moveaxis(made, -1, _p(s, "axis", -1))


def _gather(s: Statement, a: dict[str, Any]) -> Array:
    index = a["indices"].astype(np.int64)
    if s.op == "gather":
        return np.take(a["x"], index, axis=_p(s, "axis", 0))
    if s.op == "gather_along_axis":
        return np.take_along_axis(a["x"], index, axis=_p(s, "axis", 0))
    lead = _p(s, "batch_dims", 0)
    if not lead:
        return np.asarray(a["x"][tuple(np.moveaxis(index, -1, 0))])
    made = [
        a["x"][at][tuple(np.moveaxis(index[at], -1, 0))] for at in np.ndindex(*index.shape[:lead])
    ]
    return np.stack(made).reshape(s.results[0].shape)


def _band(s: Statement, a: dict[str, Any]) -> Array:
    x, low, high = a["x"], _p(s, "lower", -1), _p(s, "upper", -1)
    x = x if low < 0 else np.triu(x, -low)
    return np.asarray(x if high < 0 else np.tril(x, high))


def _cast(s: Statement, a: dict[str, Any]) -> Array:
    to = _p(s, "dtype")
    return np.asarray(a["x"].astype(np.float64 if to in ("fp16", "fp32") else DTYPES[to]))


def _argsort(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"] if _p(s, "ascending", False) else -a["x"]
    return np.argsort(x, axis=_p(s, "axis", -1), kind="stable")


def _argmax(s: Statement, a: dict[str, Any]) -> Array:
    f = np.argmax if s.op == "reduce_argmax" else np.argmin
    return np.asarray(f(a["x"], axis=_p(s, "axis", -1), keepdims=_p(s, "keep_dims", False)))


def _l2_norm(s: Statement, a: dict[str, Any]) -> Array:
    x = a["x"]
    ss = (x * x).sum(axis=(-3, -2, -1), keepdims=True)
    return np.asarray(x / np.sqrt(ss + _p(s, "epsilon", 1e-6)))


def _sum_of(f: Callable[[Array], Array], g: Callable[[Array], Array] = lambda v: v) -> Op:
    return _reduce(lambda x, axis, keepdims: g(f(x).sum(axis=axis, keepdims=keepdims)))


def _like(s: Statement, a: dict[str, Any]) -> Array:
    return np.asarray(a["x"]).reshape(s.results[0].shape)


OPERATIONS: dict[str, Op] = {
    **{"add": _b(np.add), "sub": _b(np.subtract), "mul": _b(np.multiply)},
    **{"real_div": _b(np.divide), "pow": _b(np.power), "maximum": _b(np.maximum)},
    **{"minimum": _b(np.minimum), "floor_div": _b(lambda x, y: np.floor(x / y))},
    **{"mod": _b(lambda x, y: x - np.floor(x / y) * y), "greater": _b(np.greater)},
    **{"greater_equal": _b(np.greater_equal), "less": _b(np.less)},
    **{"less_equal": _b(np.less_equal), "equal": _b(np.equal), "not_equal": _b(np.not_equal)},
    **{"logical_and": _b(np.logical_and), "logical_or": _b(np.logical_or)},
    **{"logical_xor": _b(np.logical_xor), "logical_not": _u(np.logical_not)},
    "select": lambda s, a: np.where(a["cond"], a["a"], a["b"]),
    **{"abs": _u(np.abs), "sign": _u(np.sign), "sqrt": _u(np.sqrt), "square": _u(np.square)},
    **{"exp": _u(np.exp), "exp2": _u(np.exp2), "erf": _u(_erf), "ceil": _u(np.ceil)},
    **{"floor": _u(np.floor), "round": _u(np.rint), "atan": _u(np.arctan), "sin": _u(np.sin)},
    **{"cos": _u(np.cos), "tan": _u(np.tan), "asin": _u(np.arcsin), "acos": _u(np.arccos)},
    **{"sinh": _u(np.sinh), "cosh": _u(np.cosh), "atanh": _u(np.arctanh)},
    "rsqrt": lambda s, a: 1 / np.sqrt(a["x"] + _p(s, "epsilon", 1e-12)),
    "inverse": lambda s, a: 1 / (a["x"] + _p(s, "epsilon", 1e-4)),
    "log": lambda s, a: np.log(a["x"] + _p(s, "epsilon")),
    "clip": lambda s, a: np.clip(a["x"], _p(s, "alpha"), _p(s, "beta")),
    "threshold": lambda s, a: np.maximum(a["x"], _p(s, "alpha")),
    **{"sigmoid": _u(_sig), "tanh": _u(np.tanh), "relu": _u(lambda x: np.maximum(x, 0))},
    **{"relu6": _u(lambda x: np.clip(x, 0, 6)), "silu": _u(lambda x: x * _sig(x))},
    **{"softplus": _u(_softplus), "softsign": _u(lambda x: x / (1 + np.abs(x)))},
    "sigmoid_hard": lambda s, a: np.clip(a["x"] * _p(s, "alpha", 0.2) + _p(s, "beta", 0.5), 0, 1),
    "scaled_tanh": lambda s, a: _p(s, "alpha", 1.0) * np.tanh(a["x"] * _p(s, "beta", 1.0)),
    "leaky_relu": lambda s, a: np.where(a["x"] < 0, _p(s, "alpha", 0.01) * a["x"], a["x"]),
    "elu": lambda s, a: np.where(a["x"] > 0, a["x"], _p(s, "alpha", 1.0) * np.expm1(a["x"])),
    "clamped_relu": lambda s, a: np.minimum(
        np.where(a["x"] < 0, _p(s, "alpha") * a["x"], a["x"]), _p(s, "beta")
    ),
    "linear_activation": lambda s, a: _p(s, "alpha") * a["x"] + _p(s, "beta"),
    "thresholded_relu": lambda s, a: np.where(a["x"] < _p(s, "alpha"), 0.0, a["x"]),
    "prelu": lambda s, a: np.where(a["x"] < 0, _channel(a["alpha"], a["x"]) * a["x"], a["x"]),
    "softplus_parametric": lambda s, a: (
        _channel(a["alpha"], a["x"]) * _softplus(_channel(a["beta"], a["x"]) * a["x"])
    ),
    "gelu": _gelu,
    **{"reduce_sum": _reduce(np.sum), "reduce_mean": _reduce(np.mean)},
    **{"reduce_max": _reduce(np.max), "reduce_min": _reduce(np.min)},
    **{"reduce_prod": _reduce(np.prod), "reduce_log_sum_exp": _reduce(_lse)},
    **{"reduce_l1_norm": _sum_of(np.abs), "reduce_l2_norm": _sum_of(np.square, np.sqrt)},
    **{"reduce_log_sum": _sum_of(lambda x: x, np.log), "reduce_sum_square": _sum_of(np.square)},
    **{"reduce_argmax": _argmax, "reduce_argmin": _argmax, "cumsum": _cumsum},
    "softmax": lambda s, a: _softmax(a["x"], _p(s, "axis", -1)),
    **{"layer_norm": _norm, "instance_norm": _norm, "batch_norm": _norm, "l2_norm": _l2_norm},
    **{"local_response_norm": _lrn, "matmul": _matmul, "einsum": _einsum, "conv": _conv},
    "linear": lambda s, a: a["x"] @ a["weight"].T + a.get("bias", 0.0),
    **{"scaled_dot_product_attention": _attention, "conv_transpose": _conv_transpose},
    **{"max_pool": _pool, "avg_pool": _pool, "l2_pool": _pool},
    **dict.fromkeys(("identity", "reshape", "expand_dims", "squeeze", "flatten2d"), _like),
    "transpose": lambda s, a: a["x"].transpose(_p(s, "perm")),
    "slice_by_size": lambda s, a: a["x"][slices(s.op, a["x"].shape, s.params)[0]],
    "slice_by_index": lambda s, a: a["x"][slices(s.op, a["x"].shape, s.params)[0]],
    "concat": lambda s, a: np.concatenate(a["values"], axis=_p(s, "axis")),
    "stack": lambda s, a: np.stack(a["values"], axis=_p(s, "axis")),
    **{"split": _split, "pad": _pad, "cast": _cast, "sliding_windows": _windows},
    "tile": lambda s, a: np.tile(a["x"], _p(s, "reps")),
    "reverse": lambda s, a: np.flip(a["x"], _p(s, "axes")),
    **dict.fromkeys(
        ("space_to_depth", "depth_to_space", "pixel_shuffle", "pixel_unshuffle"), _shuffle
    ),
    **{"space_to_batch": _space_batch, "batch_to_space": _space_batch},
    **dict.fromkeys(
        (
            *("upsample_nearest_neighbor", "upsample_bilinear", "resize_nearest_neighbor"),
            *("resize_bilinear", "resize"),
        ),
        _resize,
    ),
    "crop": lambda s, a: a["x"][
        ...,
        _p(s, "crop_height")[0] : a["x"].shape[-2] - _p(s, "crop_height")[1],
        _p(s, "crop_width")[0] : a["x"].shape[-1] - _p(s, "crop_width")[1],
    ],
    **{"topk": _topk, "argsort": _argsort, "one_hot": _one_hot, "band_part": _band},
    **{"gather": _gather, "gather_along_axis": _gather, "gather_nd": _gather},
    "fill": lambda s, a: np.full(s.results[0].shape, _p(s, "value")),
    "fill_like": lambda s, a: np.full(s.results[0].shape, _p(s, "value")),
    **reference_quantised.OPERATIONS,
    "range_1d": lambda s, a: _p(s, "start") + np.arange(s.results[0].shape[0]) * _p(s, "step"),
}
"""Operation -> what it computes."""
