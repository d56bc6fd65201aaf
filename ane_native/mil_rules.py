# SPDX-License-Identifier: MIT
"""Rules of the operations that compute: elementwise, along axes, products, windows.

Each rule may assume that required operands are there, of the kinds and dtypes of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ane_native.mil_ops import Call, Rule, Shape, Type, broadcast_shapes

__all__ = ["RULES", "Window", "einsum_known", "window"]


def same(c: Call) -> Type:
    """The type of x."""
    return c.types["x"]


def with_shape(c: Call, shape: Shape, key: str = "x") -> Type:
    return Type(c.types[key].dtype, shape)


# =============================== Elementwise ====================================


def binary(c: Call) -> Type:
    """x and y broadcast."""
    return with_shape(c, c.broadcast("x", "y", c.shape("x"), c.shape("y")))


def compare(c: Call) -> Type:
    return Type("bool", binary(c).shape)


def select(c: Call) -> Type:
    """cond, a and b broadcast."""
    both = c.broadcast("a", "b", c.shape("a"), c.shape("b"))
    return with_shape(c, c.broadcast("a", "cond", both, c.shape("cond")), "a")


def clip(c: Call) -> Type:
    low, high = c.constants["alpha"], c.constants["beta"]
    c.require(low <= high, "beta", f"at least alpha, {low}", high)
    return same(c)


def prelu(c: Call) -> Type:
    """alpha [C], C = axis 1 of x."""
    c.vector("alpha", c.rank("x", 3)[1])
    return same(c)


def cast(c: Call) -> Type:
    return Type(c.constants["dtype"], c.shape("x"))


# =============================== Along axes =====================================


def reduce(c: Call) -> Type:
    """Listed axes become 1, or go."""
    shape = c.shape("x")
    axes = c.axes("axes", len(shape))
    if c.flag("keep_dims"):
        return with_shape(c, tuple(1 if i in axes else n for i, n in enumerate(shape)))
    return with_shape(c, tuple(n for i, n in enumerate(shape) if i not in axes))


def along(c: Call) -> Type:
    """softmax, cumsum: axis into x."""
    shape = c.rank("x", 1)
    c.axis("axis", len(shape), 0 if c.op == "cumsum" else -1)
    return same(c)


def layer_norm(c: Call) -> Type:
    """gamma and beta have the normalised axes of x, in order."""
    shape = c.shape("x")
    axes = sorted(c.axes("axes", len(shape)))
    want = tuple(shape[i] for i in axes)
    for key in ("gamma", "beta"):
        if key in c.types:
            c.require(c.shape(key) == want, key, f"shape {list(want)}", list(c.shape(key)))
    return same(c)


def l2_norm(c: Call) -> Type:
    c.rank("x", 3)
    return same(c)


def channel_norm(c: Call) -> Type:
    """batch_norm and instance_norm: parameters [C]."""
    channels = c.rank("x", 3, 5 if c.op == "batch_norm" else 4)[1]
    for key in ("mean", "variance", "gamma", "beta"):
        c.vector(key, channels)
    return same(c)


def channel_vectors(c: Call) -> Type:
    channels = c.rank("x", 3)[1]
    c.vector("alpha", channels)
    c.vector("beta", channels)
    return same(c)


def local_response_norm(c: Call) -> Type:
    channels = c.rank("x", 3, 4)[1]
    c.integer("size", 1, 1)
    ok = channels < 16 or c.allow_refused
    c.require(ok, "x", "fewer than 16 channels: the engine refuses more", channels)
    return same(c)


# =============================== Products =======================================


def matmul(c: Call) -> Type:
    """[..., M, K] @ [..., K, N] after the flags; leading axes broadcast."""
    x, y = c.rank("x", 2), c.rank("y", 2)
    m, k = x[-2:][::-1] if c.flag("transpose_x") else x[-2:]
    k2, n = y[-2:][::-1] if c.flag("transpose_y") else y[-2:]
    flags = f"transpose_x={c.flag('transpose_x')}, transpose_y={c.flag('transpose_y')}"
    c.require(k == k2, "y", f"contraction of {k} ({flags}, x {list(x)})", list(y))
    batch = broadcast_shapes(x[:-2], y[:-2])
    c.require(batch is not None, "y", f"leading axes that broadcast with {list(x[:-2])}", list(y))
    return with_shape(c, (*(batch or ()), m, n))


def linear(c: Call) -> Type:
    """x [.., I] · weight [O, I] + bias [O]."""
    x, w = c.rank("x", 1), c.shape("weight")
    ok = len(w) == 2 and w[1] == x[-1]
    c.require(ok, "weight", f"[out, {x[-1]}]", list(w))
    c.vector("bias", w[0])
    return with_shape(c, (*x[:-1], w[0]))


def einsum_known(equation: str, rank: int) -> bool:
    """``nchw,nwhu->nchu`` or ``chw,whr->chr`` under any letters."""
    sides = equation.replace(" ", "").replace("->", ",").split(",")
    letters: dict[str, str] = {}
    named = []
    for side in sides:
        if not all(ch.isascii() and ch.isalpha() for ch in side):
            return False
        named.append("".join(letters.setdefault(ch, str(len(letters))) for ch in side))
    want = ["0123", "0324", "0124"] if rank == 4 else ["012", "213", "013"]
    return named == want and equation.count("->") == 1


def einsum(c: Call) -> Type:
    """[(B,) C, H, K] · [(B,) K, H, W] -> [(B,) C, H, W]; B and H broadcast."""
    values = c.tuples["values"]
    c.require(len(values) == 2, "values", "two tensors", len(values))
    x, y = values[0].shape, values[1].shape
    rank = len(x)
    ok = rank == len(y) and rank in (3, 4)
    c.require(ok, "values", "two tensors of rank 3 or of rank 4", f"{list(x)} and {list(y)}")
    known = "nchw,nwhu->nchu" if rank == 4 else "chw,whr->chr"
    equation = c.constants["equation"]
    c.require(einsum_known(equation, rank), "equation", repr(known), repr(equation))
    c.require(x[-1] == y[-3], "values", f"a contraction of {x[-1]}", list(y))
    fits = broadcast_shapes((*x[: rank - 3], x[-2]), (*y[: rank - 3], y[-2]))
    c.require(fits is not None, "values", "batch and height that broadcast", f"{x} and {y}")
    fits = fits or ()
    return Type(values[0].dtype, (*fits[:-1], x[-3], fits[-1], y[-1]))


def attention(c: Call) -> Type:
    """query [*B, L, E], key [*B, S, E], value [*B, S, V] (+ attn_mask) -> [*B, L, V]."""
    q = c.rank("query", 3)
    k, v = c.rank("key", len(q), len(q)), c.rank("value", len(q), len(q))
    c.require(k[:-2] == q[:-2], "key", f"leading axes {list(q[:-2])}", list(k))
    c.require(v[:-2] == q[:-2], "value", f"leading axes {list(q[:-2])}", list(v))
    c.require(k[-1] == q[-1], "key", f"vectors of {q[-1]}", list(k))
    c.require(v[-2] == k[-2], "value", f"{k[-2]} vectors", list(v))
    if "attn_mask" in c.types:
        mask, scores = c.shape("attn_mask"), (*q[:-1], k[-2])
        ok = bool(mask) and mask[-1] == k[-2] and broadcast_shapes(scores, mask) == scores
        c.require(ok, "attn_mask", f"a shape that broadcasts to {list(scores)}", list(mask))
    return with_shape(c, (*q[:-1], v[-1]), "query")


# =============================== Windows ========================================


@dataclass(frozen=True)
class Window:
    """How a window moves over the spatial axes: a tuple of one number per axis each.

    Of a transposed convolution ``before`` and ``after`` are what is cut off the full result
    (``after`` may be negative: zeros are added).
    """

    size_in: Shape
    size_out: Shape
    kernel: Shape
    stride: Shape
    dilation: Shape
    before: Shape
    after: Shape


def _pads(c: Call, n: int) -> Shape:
    kind = c.word("pad_type", "valid")
    pad = c.integers("pad", 2 * n, 0, 0)
    if kind == "custom":
        c.require("pad" in c.constants, "pad", "a value, pad_type custom needs it", "none")
        return pad
    return (0,) * (2 * n)


def _window(c: Call, size: Shape, kernel: Shape, key: str) -> Window:
    n = len(size)
    kind, pads, ceil = c.word("pad_type", "valid"), _pads(c, n), c.flag("ceil_mode")
    stride = c.integers("strides", n, 1, 1)
    dilation = c.integers("dilations", n, 1, 1)
    out, before, after = [], [], []
    for i in range(n):
        span = dilation[i] * (kernel[i] - 1) + 1
        if kind.startswith("same"):
            count = -(-size[i] // stride[i])
            missing = max(0, (count - 1) * stride[i] + span - size[i])
            low = missing - missing // 2 if kind == "same_lower" else missing // 2
            out.append(count)
            before.append(low)
            after.append(missing - low)
            continue
        low, high = pads[2 * i], pads[2 * i + 1]
        room = size[i] + low + high
        want = f"a window of at most {room} along axis {2 + i}, padding included"
        c.require(span <= room, key, want, span)
        count = (room - span) // stride[i] + 1
        if ceil and (room - span) % stride[i]:
            count += 1
            if (low or high) and (count - 1) * stride[i] >= size[i] + low:
                count -= 1
        out.append(count)
        before.append(low)
        after.append(high)
    return Window(size, tuple(out), kernel, stride, dilation, tuple(before), tuple(after))


def _transposed_window(c: Call, size: Shape, kernel: Shape, wanted: Shape | None) -> Window:
    n = len(size)
    kind, pads = c.word("pad_type", "valid"), _pads(c, n)
    stride = c.integers("strides", n, 1, 1)
    dilation = c.integers("dilations", n, 1, 1)
    out, before, after = [], [], []
    for i in range(n):
        full = (size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        cut = full - size[i] * stride[i] if kind == "same" else pads[2 * i] + pads[2 * i + 1]
        count = wanted[i] if wanted else full - cut
        low = pads[2 * i] if kind == "custom" else max(cut, 0) // 2 if kind == "same" else 0
        high = full - low - count
        c.require(count >= 1 and low < full, "pad", f"to keep some of {full} elements", count)
        ok = not wanted or high > -stride[i]
        c.require(ok, "output_shape", f"at most {full - low + stride[i] - 1}", count)
        out.append(count)
        before.append(low)
        after.append(high)
    return Window(size, tuple(out), kernel, stride, dilation, tuple(before), tuple(after))


def _call_window(c: Call) -> Window:
    x = c.shape("x")
    if c.op == "conv":
        return _window(c, x[2:], c.shape("weight")[2:], "weight")
    if c.op == "conv_transpose":
        wanted = c.constants.get("output_shape")
        return _transposed_window(
            c, x[2:], c.shape("weight")[2:], tuple(wanted[2:]) if wanted else None
        )
    return _window(c, x[2:], c.integers("kernel_sizes", len(x) - 2, 1), "kernel_sizes")


def window(op: str, types: Mapping[str, Type], constants: Mapping[str, Any]) -> Window:
    """The window of a ``conv``, ``conv_transpose`` or pool that passed its rule."""
    c = Call(op, allow_refused=True)
    c.types, c.constants = dict(types), dict(constants)
    return _call_window(c)


def conv(c: Call) -> Type:
    """x [N,C,(H,)W] * weight [O,C/groups,(kh,)kw] -> [N,O,…]."""
    x = c.rank("x", 3, 4)
    w = c.rank("weight", len(x), len(x))
    groups = c.integer("groups", 1)
    ok = groups >= 1 and w[0] % groups == 0 and x[1] % groups == 0
    c.require(ok, "groups", f"a divisor of {w[0]} and {x[1]} channels", groups)
    sizes = "kh, kw" if len(x) == 4 else "kw"
    c.require(
        x[1] == w[1] * groups,
        "weight",
        f"[O, {x[1]}/groups, {sizes}] for an input of {x[1]} channels",
        f"{list(w)} with groups {groups}",
    )
    plain = "weight" in c.baked or (groups == 1 and x[0] == 1)
    c.require(plain, "weight", "groups 1 and batch 1 for a weight that is computed", list(x))
    return with_shape(c, (x[0], w[0], *_call_window(c).size_out))


def conv_transpose(c: Call) -> Type:
    """x [N,C,(H,)W], weight [C,O/groups,(kh,)kw] -> [N,O,…]."""
    x = c.rank("x", 3, 4)
    w = c.rank("weight", len(x), len(x))
    groups = c.integer("groups", 1)
    c.require(groups >= 1 and x[1] % groups == 0, "groups", f"a divisor of {x[1]} channels", groups)
    c.require(w[0] == x[1], "weight", f"{x[1]} input channels on axis 0", list(w))
    out = w[1] * groups
    if "output_shape" in c.constants:
        told = c.integers("output_shape", len(x), 1)
        c.require(told[:2] == (x[0], out), "output_shape", f"[{x[0]}, {out}, …]", list(told))
    return with_shape(c, (x[0], out, *_call_window(c).size_out))


def pool(c: Call) -> Type:
    """x [N, C, *D] -> [N, C, *out]."""
    x = c.rank("x", 3, 4 if c.op == "l2_pool" else 5)
    w = _call_window(c)
    ceil, kind = c.flag("ceil_mode"), c.word("pad_type", "valid")
    c.require(not (ceil and kind.startswith("same")), "ceil_mode", "pad_type valid or custom", kind)
    for low, high, size in zip(w.before, w.after, w.kernel, strict=True):
        c.require(not ceil or low == high, "pad", "symmetry under ceil_mode", (low, high))
        c.require(max(low, high) < size, "pad", f"less than the window of {size}", (low, high))
    return with_shape(c, (*x[:2], *w.size_out))


RULES: dict[str, Rule] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
    "matmul": matmul,
    "linear": linear,
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
    "select": select,
    "clip": clip,
    "prelu": prelu,
    "cast": cast,
    "softmax": along,
    "cumsum": along,
    "layer_norm": layer_norm,
    "l2_norm": l2_norm,
    "batch_norm": channel_norm,
    "instance_norm": channel_norm,
    "softplus_parametric": channel_vectors,
    "local_response_norm": local_response_norm,
    "max_pool": pool,
    "avg_pool": pool,
    "l2_pool": pool,
}
"""Operation -> rule; those of whole groups are added in :mod:`ane_native.mil_rules_shape`."""
