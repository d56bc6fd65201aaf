# SPDX-License-Identifier: MIT
"""``numerics=silicon`` through the whole engine: the error figures measured on real chips.

sbryngelson/ANEForge publishes, for seeded random inputs, the relative error of products on
M1 … M5 to 16 digits. The fixed-point rule of docs/NUMERICS.md reproduces them; so must softane.
Run this file as a program to print the table of docs/NUMERICS.md.
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest

import ane_native as ane
from ane_native import soft

HEADER = (
    "program(1.3)\n"
    '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, '
    '{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, '
    '{"coremltools-version", "9.0"}})]\n'
)
Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

#: rows, inner length, columns; what is published
PRODUCTS = {
    "64x256x256": (64, 256, 256, 0.0012522854527169441),
    "128x1024x1024": (128, 1024, 1024, 0.0055214934910669524),
    "square 512": (256, 512, 512, 0.0025780039702379184),
    "square 1024": (256, 1024, 1024, 0.005528352999597524),
    "square 2048": (256, 2048, 2048, 0.012131920427695626),
}
CONVOLUTIONS = {"direct": 0.00036636558584241826, "winograd": 0.0005102488034377338}
FORMS = ("conv", "linear", "matmul", "matmul transposed")


def _const(name: str, shape: Shape) -> str:
    type_ = f"tensor<fp16, {list(shape)}>"
    return (
        f'        {type_} {name} = const()[name=string("{name}"), val={type_}(BLOBFILE('
        'path=string("@model_path/weights/w.bin"), offset=uint64(64)))];\n'
    )


def _ints(name: str, values: tuple[int, ...]) -> str:
    type_ = f"tensor<int32, [{len(values)}]>"
    return (
        f'        {type_} {name} = const()[name=string("{name}"), val={type_}({list(values)})];\n'
    )


def _run(body: str, x: Array, y_shape: Shape, weight: Array) -> Array:
    """One evaluation of a program with input x, output y and one weight blob."""
    text = (
        f"{HEADER}{{\n    func main<ios18>(tensor<fp16, {list(x.shape)}> x) {{\n{body}"
        "    } -> (y);\n}\n"
    )
    kernel = ane.Kernel(
        "k",
        text,
        inputs={"x": x.shape},
        outputs={"y": y_shape},
        weights={"@model_path/weights/w.bin": np.ascontiguousarray(weight, np.float16)},
    )
    with ane.Program(kernel) as program:
        return np.array(program.eval(x), np.float32).reshape(y_shape)


def _conv(x: Array, w: Array, pad: int = 0, groups: int = 1, relu: bool = False) -> Array:
    n, _, height, width = x.shape
    kernel = w.shape[2]
    grow = 2 * pad + 1 - kernel
    shape = (n, w.shape[0], height + grow, width + grow)
    name = "z" if relu else "y"
    body = (
        _const("w", w.shape)
        + _ints("strd", (1, 1))
        + _ints("padv", (pad,) * 4)
        + _ints("dila", (1, 1))
        + '        string padt = const()[name=string("padt"), val=string("custom")];\n'
        + f'        int32 grps = const()[name=string("grps"), val=int32({groups})];\n'
        + f"        tensor<fp16, {list(shape)}> {name} = conv(x=x, weight=w, strides=strd, "
        + "pad_type=padt, pad=padv, dilations=dila, groups=grps)"
        + f'[name=string("{name}")];\n'
    )
    if relu:
        body += f'        tensor<fp16, {list(shape)}> y = relu(x=z)[name=string("y")];\n'
    return _run(body, x, shape, w)


def product(x: Array, w: Array, form: str) -> Array:
    """x [m, k] times w [n, k] transposed, by one of the operations that make products."""
    m, k = x.shape
    n = w.shape[0]
    if form == "conv":
        image = np.ascontiguousarray(x.T).reshape(1, k, 1, m)
        return _conv(image, w.reshape(n, k, 1, 1)).reshape(n, m).T
    y = f"tensor<fp16, [1, 1, {m}, {n}]> y"
    if form == "linear":
        body = _const("w", (n, k)) + f'        {y} = linear(x=x, weight=w)[name=string("y")];\n'
        return _run(body, x.reshape(1, 1, m, k), (1, 1, m, n), w).reshape(m, n)
    flip = form == "matmul transposed"
    shape = (1, 1, n, k) if flip else (1, 1, k, n)
    body = (
        _const("w", shape)
        + '        bool no = const()[name=string("no"), val=bool(false)];\n'
        + f'        bool ty = const()[name=string("ty"), val=bool({str(flip).lower()})];\n'
        + f"        {y} = matmul(x=x, y=w, transpose_x=no, transpose_y=ty)"
        + '[name=string("y")];\n'
    )
    return _run(body, x.reshape(1, 1, m, k), (1, 1, m, n), (w if flip else w.T)).reshape(m, n)


def relerr(y: Array, reference: npt.NDArray[np.float64]) -> float:
    """The published measure: |y - reference| / |reference|, in float64."""
    return float(np.linalg.norm(y.astype(np.float64) - reference) / np.linalg.norm(reference))


def product_operands(case: str) -> tuple[Array, Array]:
    m, k, n, _ = PRODUCTS[case]
    rng = np.random.default_rng(0)
    if case.startswith("square"):
        x = rng.standard_normal((k, k)).astype(np.float32) / np.float32(np.sqrt(k))
        w = rng.standard_normal((n, k)).astype(np.float32) / np.float32(np.sqrt(k))
        return x[:m], w
    x = rng.standard_normal((m, k)).astype(np.float32) / np.float32(np.sqrt(k))
    return x, rng.standard_normal((n, k)).astype(np.float32) / np.float32(np.sqrt(k))


def product_figure(case: str, form: str) -> float:
    x, w = product_operands(case)
    y = product(x.astype(np.float16).astype(np.float32), w, form)
    return relerr(y, x.astype(np.float64) @ w.astype(np.float64).T)


def convolution_figure() -> float:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, 16, 32, 32)).astype(np.float32)
    w = rng.standard_normal((64, 16, 3, 3)).astype(np.float32).astype(np.float64)
    w *= np.sqrt(2.0 / (16 * 9))
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    reference = np.maximum(np.einsum("nchwrs,ocrs->nohw", windows, w), 0.0)
    y = _conv(x.astype(np.float16).astype(np.float32), w.astype(np.float16), 1, relu=True)
    return relerr(y, reference)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", PRODUCTS)
def test_published_error_of_a_product_is_reproduced(case: str, form: str) -> None:
    with soft.using(numerics="silicon"):
        assert product_figure(case, form) == pytest.approx(PRODUCTS[case][3], rel=1e-13)


@pytest.mark.parametrize("way", CONVOLUTIONS)
def test_published_error_of_a_convolution_is_reproduced(way: str) -> None:
    with soft.using(numerics="silicon", conv3x3=way):
        assert convolution_figure() == pytest.approx(CONVOLUTIONS[way], rel=1e-13)


def main() -> None:
    """Print published and own figures side by side."""
    print("| case | published | softane | relative difference |\n|---|--:|--:|--:|")
    for case, (*_, published) in PRODUCTS.items():
        for form in FORMS:
            with soft.using(numerics="silicon"):
                own = product_figure(case, form)
            print(f"| {case}, {form} | {published!r} | {own!r} | {own / published - 1:.0e} |")
    for way, published in CONVOLUTIONS.items():
        with soft.using(numerics="silicon", conv3x3=way):
            own = convolution_figure()
        print(f"| 3x3, {way} | {published!r} | {own!r} | {own / published - 1:.0e} |")


if __name__ == "__main__":
    sys.exit(main())
