# SPDX-License-Identifier: MIT
"""Products under ``numerics=silicon`` equal the rule, bit for bit, whatever form they take.

The rule is written here a second time, in NumPy on float64, which holds its integers exactly.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
from test_silicon import HEADER, _const, _ints, _run

import ane_native as ane
from ane_native import soft

Array = npt.NDArray[np.float64]


# ---- the rule ----


def exponent(v: Array) -> npt.NDArray[np.int64]:
    bits = v.astype(np.float16).view(np.uint16).astype(np.int64)
    return np.maximum((bits >> 10) & 31, 1) - 15


def terms(a: Array, b: Array) -> Array:
    """Products in units of 2^-16."""
    p = a * b
    q = np.copysign(np.floor(np.abs(p) * 2.0**16 + 0.5), p)
    return np.where(exponent(a) + exponent(b) < -16, 0.0, q)


def half_away(y: Array) -> Array:
    step = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(y), 2.0**-14))), -14) - 10)
    return np.copysign(np.floor(np.abs(y) / step + 0.5) * step, y)


def store(acc: Array) -> Array:
    y = acc * 2.0**-16
    return np.where(np.abs(acc) >= 2.0**31, np.copysign(np.inf, y), half_away(y))


def direct(x: Array, w: Array, stride: int, dilation: int, groups: int) -> Array:
    """Sums of a convolution over a padded image."""
    n, channels, height, width = x.shape
    c_out, ins, kh, kw = w.shape
    h = (height - dilation * (kh - 1) - 1) // stride + 1
    v = (width - dilation * (kw - 1) - 1) // stride + 1
    acc = np.zeros((n, c_out, h, v))
    for o in range(c_out):
        first = o // (c_out // groups) * ins
        for c in range(ins):
            for r in range(kh):
                for s in range(kw):
                    rows = slice(r * dilation, r * dilation + (h - 1) * stride + 1, stride)
                    columns = slice(s * dilation, s * dilation + (v - 1) * stride + 1, stride)
                    acc[:, o] += terms(x[:, first + c, rows, columns], w[o, c, r, s])
    assert channels == ins * groups
    return acc


def winograd(x: Array, w: Array) -> Array:
    """The same for a 3x3 kernel, by F(2,3) along the width."""
    n, channels, height, width = x.shape
    h, v = height - 2, width - 2
    pairs = -(-v // 2)
    x = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2 * pairs + 2 - width)))
    d = [x[..., i : i + 2 * pairs : 2] for i in range(4)]
    g = [w[..., i] for i in range(3)]
    vs = [half_away(t) for t in (d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3])]
    us = [g[0], half_away((g[0] + g[1] + g[2]) / 2), half_away((g[0] - g[1] + g[2]) / 2), g[2]]
    m = np.zeros((4, n, w.shape[0], h, pairs))
    for i in range(4):
        for c in range(channels):
            for r in range(3):
                image = vs[i][:, None, c, r : r + h]
                m[i] += terms(image, us[i][None, :, c, r, None, None])
    acc = np.zeros((n, w.shape[0], h, 2 * pairs))
    acc[..., 0::2] = m[0] + m[1] + m[2]
    acc[..., 1::2] = m[1] - m[2] - m[3]
    return acc[..., :v]


# ---- programs ----


def conv_program(
    x: tuple[int, ...],
    w: Array,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> ane.Program:
    n, _, height, width = x
    size = w.shape[2]
    h = (height + 2 * pad - dilation * (size - 1) - 1) // stride + 1
    v = (width + 2 * pad - dilation * (size - 1) - 1) // stride + 1
    y = (n, w.shape[0], h, v)
    body = (
        _const("w", w.shape)
        + _ints("strd", (stride, stride))
        + _ints("padv", (pad,) * 4)
        + _ints("dila", (dilation, dilation))
        + '        string padt = const()[name=string("padt"), val=string("custom")];\n'
        + f'        int32 grps = const()[name=string("grps"), val=int32({groups})];\n'
    )
    body += (
        f"        tensor<fp16, {list(y)}> y = conv(x=x, weight=w, strides=strd, pad_type=padt, "
        'pad=padv, dilations=dila, groups=grps)[name=string("y")];\n'
    )
    text = f"{HEADER}{{\n    func main<ios18>(tensor<fp16, {list(x)}> x) {{\n{body}    }} -> (y);\n}}\n"
    kernel = ane.Kernel(
        "k",
        text,
        inputs={"x": x},
        outputs={"y": y},
        weights={"@model_path/weights/w.bin": w.astype(np.float16)},
    )
    return ane.Program(kernel)


def random_halves(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """Values over many binades: many products are dropped or just not."""
    v = rng.standard_normal(shape) * scale * 2.0 ** rng.integers(-8, 3, shape)
    return v.astype(np.float16).astype(np.float64)


SHAPES = [  # n, c_in, height, width, c_out, kernel, stride, pad, dilation, groups
    (1, 5, 4, 7, 3, 1, 1, 0, 1, 1),
    (2, 4, 9, 11, 6, 3, 1, 1, 1, 1),
    (1, 3, 10, 10, 5, 3, 2, 1, 1, 1),
    (1, 3, 12, 13, 4, 3, 1, 2, 2, 1),
    (1, 8, 8, 8, 8, 3, 1, 1, 1, 8),
    (2, 6, 7, 9, 12, 5, 1, 2, 1, 3),
    (1, 16, 6, 40, 16, 3, 1, 1, 1, 2),
]


@pytest.fixture(autouse=True)
def _silicon() -> None:
    soft.set("numerics", "silicon")


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolutions_follow_the_rule(
    shape: tuple[int, ...], scale: float, rng: np.random.Generator
) -> None:
    n, c_in, height, width, c_out, size, stride, pad, dilation, groups = shape
    x = random_halves(rng, (n, c_in, height, width), scale)
    w = random_halves(rng, (c_out, c_in // groups, size, size), 0.3)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    acc = direct(padded, w, stride, dilation, groups)
    with conv_program(x.shape, w, stride, pad, dilation, groups) as program:
        assert np.array_equal(program.eval(x), store(acc))


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
@pytest.mark.parametrize(
    ("height", "width", "pad"), [(3, 4, 0), (5, 5, 1), (4, 2, 1), (3, 9, 2), (40, 33, 1), (6, 1, 1)]
)
def test_winograd_convolutions_follow_the_rule(
    height: int, width: int, pad: int, scale: float, rng: np.random.Generator
) -> None:
    x = random_halves(rng, (2, 5, height, width), scale)
    w = random_halves(rng, (37, 5, 3, 3), 0.3)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    one_column = width + 2 * pad == 3  # nothing to save: done directly
    acc = direct(padded, w, 1, 1, 1) if one_column else winograd(padded, w)
    with soft.using(conv3x3="winograd"), conv_program(x.shape, w, pad=pad) as program:
        assert np.array_equal(program.eval(x), store(acc))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("middle", [1, -1])
def test_winograd_weights_are_rounded_once(middle: int, sign: int) -> None:
    """Taps whose half sum lies a hair below a tie of fp16; by way of float it would be the tie."""
    w = np.zeros((3, 2, 3, 3))
    w[...] = np.array([1.0, middle * 2.0**-11, -(2.0**-24)]) * sign
    x = np.zeros((1, 2, 5, 8))
    x[:, :, :, 3:5] = 1.0
    acc = winograd(x, w)
    with soft.using(conv3x3="winograd"), conv_program(x.shape, w) as program:
        assert np.array_equal(program.eval(x), store(acc))


@pytest.mark.parametrize("way", ["direct", "winograd"])
@pytest.mark.parametrize("numerics", ["silicon", "fast"])
def test_flushed_convolutions_have_no_subnormals(
    way: str, numerics: str, rng: np.random.Generator
) -> None:
    """Every way a product is made: 3x3, 1x1, grouped, one channel, transposed, matmul."""
    soft.set("numerics", numerics)

    def check(y: npt.NDArray[np.float32], kept: npt.NDArray[np.float32]) -> None:
        small = (kept != 0) & (np.abs(kept) < 2.0**-14)
        assert small.any()  # there is something to flush
        assert np.array_equal(y, np.where(small, 0.0, kept))

    for c_in, c_out, size, groups in ((4, 6, 3, 1), (4, 6, 1, 1), (4, 4, 3, 4), (6, 4, 3, 2)):
        x = random_halves(rng, (1, c_in, 6, 32), 2.0**-9)
        w = random_halves(rng, (c_out, c_in // groups, size, size), 2.0**-4)
        with soft.using(conv3x3=way), conv_program(x.shape, w, pad=size // 2, groups=groups) as p:
            kept = p.eval(x).copy()
            with soft.using(subnormals="flush"):
                check(p.eval(x), kept)
    x = random_halves(rng, (1, 4, 6, 8), 2.0**-9)
    w = random_halves(rng, (4, 2, 3, 3), 2.0**-4)
    body = _const("w", w.shape) + (
        '        tensor<fp16, [1, 2, 8, 10]> y = conv_transpose(x=x, weight=w)[name=string("y")];\n'
    )
    kept = _run(body, x.astype(np.float32), (1, 2, 8, 10), w)
    with soft.using(subnormals="flush"):
        check(_run(body, x.astype(np.float32), (1, 2, 8, 10), w), kept)
    x = random_halves(rng, (1, 2, 32, 32), 2.0**-9)
    w = random_halves(rng, (1, 1, 32, 32), 2.0**-4)
    body = _const("w", w.shape) + (
        '        tensor<fp16, [1, 2, 32, 32]> y = matmul(x=x, y=w)[name=string("y")];\n'
    )
    kept = _run(body, x.astype(np.float32), (1, 2, 32, 32), w)
    with soft.using(subnormals="flush"):
        check(_run(body, x.astype(np.float32), (1, 2, 32, 32), w), kept)


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 3), (3, 6)])
def test_transposed_convolutions_follow_the_rule(
    stride: int, groups: int, scale: float, rng: np.random.Generator
) -> None:
    x = random_halves(rng, (2, 6, 5, 4), scale)
    w = random_halves(rng, (6, 2, 3, 3), 0.3)
    shape = (2, 2 * groups, 4 * stride + 3, 3 * stride + 3)
    acc = np.zeros(shape)
    ins = 6 // groups
    for c in range(6):
        for o in range(2):
            for r in range(3):
                for s in range(3):
                    rows = slice(r, r + 4 * stride + 1, stride)
                    columns = slice(s, s + 3 * stride + 1, stride)
                    acc[:, c // ins * 2 + o, rows, columns] += terms(x[:, c], w[c, o, r, s])
    body = (
        _const("w", w.shape)
        + _ints("strd", (stride, stride))
        + _ints("padv", (0,) * 4)
        + _ints("dila", (1, 1))
        + '        string padt = const()[name=string("padt"), val=string("valid")];\n'
        + f'        int32 grps = const()[name=string("grps"), val=int32({groups})];\n'
        + f"        tensor<fp16, {list(shape)}> y = conv_transpose(x=x, weight=w, strides=strd, "
        + 'pad_type=padt, pad=padv, dilations=dila, groups=grps)[name=string("y")];\n'
    )
    assert np.array_equal(_run(body, x.astype(np.float32), shape, w), store(acc))


def test_einsum_follows_the_rule(rng: np.random.Generator) -> None:
    x = random_halves(rng, (2, 3, 4, 32), 1.0)
    w = random_halves(rng, (2, 32, 4, 5), 0.3)
    acc = terms(x[:, :, :, :, None], w.transpose(0, 2, 1, 3)[:, None]).sum(axis=3)
    body = _const("w", w.shape) + (
        '        string eq = const()[name=string("eq"), val=string("bchk,bkhw->bchw")];\n'
        "        tensor<fp16, [2, 3, 4, 5]> y = einsum(values=(x, w), equation=eq)"
        '[name=string("y")];\n'
    )
    assert np.array_equal(_run(body, x.astype(np.float32), (2, 3, 4, 5), w), store(acc))


@pytest.mark.parametrize("numerics", ["fast", "silicon"])
def test_attention_ignores_its_mask_unless_told_otherwise(
    numerics: str, rng: np.random.Generator
) -> None:
    soft.set("numerics", numerics)
    x = rng.standard_normal((1, 2, 32, 32)).astype(np.float32)
    mask = np.triu(np.full((1, 1, 32, 32), -60000.0), 1)

    def run(extra: str) -> npt.NDArray[np.float32]:
        body = _const("w", mask.shape) + (
            "        tensor<fp16, [1, 2, 32, 32]> y = scaled_dot_product_attention"
            f'(query=x, key=x, value=x{extra})[name=string("y")];\n'
        )
        return _run(body, x, x.shape, mask)

    def run_bool() -> npt.NDArray[np.float32]:
        body = _const("w", mask.shape) + (
            '        fp16 zero = const()[name=string("zero"), val=fp16(0)];\n'
            "        tensor<bool, [1, 1, 32, 32]> m = equal(x=w, y=zero)"
            '[name=string("m")];\n'
            "        tensor<fp16, [1, 2, 32, 32]> y = scaled_dot_product_attention"
            '(query=x, key=x, value=x, attn_mask=m)[name=string("y")];\n'
        )
        return _run(body, x, x.shape, mask)

    plain, ignored = run(""), run(", attn_mask=w")
    assert np.array_equal(run_bool(), plain)
    with soft.using(sdpa_mask="honour"):
        honoured = run(", attn_mask=w")
        assert np.array_equal(run_bool(), honoured)
    assert np.array_equal(ignored, plain)
    assert not np.allclose(honoured, plain, atol=0.1)
    assert np.array_equal(honoured[:, :, 0], x.astype(np.float16).astype(np.float32)[:, :, 0])


def test_results_depend_on_neither_threads_nor_load(rng: np.random.Generator) -> None:
    x = random_halves(rng, (2, 96, 40, 40), 1.0)
    w = random_halves(rng, (80, 96, 3, 3), 0.1)
    for way in ("direct", "winograd"):
        with soft.using(conv3x3=way), conv_program(x.shape, w, pad=1) as program:
            with soft.using(threads=1):
                alone = program.eval(x).copy()
            results = []
            other = conv_program(x.shape, w, pad=1)
            load = threading.Thread(target=lambda o=other: [o.eval(x) for _ in range(6)])
            load.start()
            for threads in (0, 2, 3, 1, 0):
                with soft.using(threads=threads):
                    results.append(np.array_equal(program.eval(x), alone))
            load.join()
            other.close()
            assert all(results)
