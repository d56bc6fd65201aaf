# SPDX-License-Identifier: MIT
"""Small MIL programs the tests share, written by hand so that they do not depend on the builder."""

from __future__ import annotations

import numpy as np

import ane_native as ane

HEADER = (
    "program(1.3)\n"
    '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, '
    '{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, '
    '{"coremltools-version", "9.0"}})]\n'
)
CONV_CONSTS = """
        string padt = const()[name=string("padt"), val=string("valid")];
        tensor<int32, [2]> strd = const()[name=string("strd"), val=tensor<int32, [2]>([1,1])];
        tensor<int32, [4]> padv = const()[name=string("padv"), val=tensor<int32, [4]>([0,0,0,0])];
        tensor<int32, [2]> dila = const()[name=string("dila"), val=tensor<int32, [2]>([1,1])];
        int32 grps = const()[name=string("grps"), val=int32(1)];
"""


def conv(
    name: str = "conv",
    cin: int = 64,
    cout: int = 32,
    width: int = 32,
    weight: str | ane.Weight | np.ndarray = "w",
) -> ane.Kernel:
    """y[o, s] = sum_i w[o, i] x[i, s]: a 1x1 convolution with a baked weight."""
    text = (
        HEADER
        + f"""{{
    func main<ios18>(tensor<fp16, [1, {cin}, 1, {width}]> i00_x) {{{CONV_CONSTS}
        tensor<fp16, [{cout}, {cin}, 1, 1]> w = const()[name=string("w"), val=tensor<fp16, [{cout}, {cin}, 1, 1]>(BLOBFILE(path=string("@model_path/weights/w.bin"), offset=uint64(64)))];
        tensor<fp16, [1, {cout}, 1, {width}]> o00_y = conv(x=i00_x, weight=w, strides=strd, pad_type=padt, pad=padv, dilations=dila, groups=grps)[name=string("o00_y")];
    }} -> (o00_y);
}}
"""
    )
    return ane.Kernel(
        name,
        text,
        inputs={"i00_x": (1, cin, 1, width)},
        outputs={"o00_y": (1, cout, 1, width)},
        weights={"@model_path/weights/w.bin": weight},
    )


def scale(
    name: str = "scale", channels: int = 4, width: int = 32, weight: str = "g", tag: str = ""
) -> ane.Kernel:
    """y[c, s] = g[c] x[c, s]. `tag` goes into a const's name, so that texts can differ."""
    text = (
        HEADER
        + f"""{{
    func main<ios18>(tensor<fp16, [1, {channels}, 1, {width}]> i00_x) {{
        tensor<fp16, [1, {channels}, 1, 1]> g = const()[name=string("g{tag}"), val=tensor<fp16, [1, {channels}, 1, 1]>(BLOBFILE(path=string("@model_path/weights/g.bin"), offset=uint64(64)))];
        tensor<fp16, [1, {channels}, 1, {width}]> o00_y = mul(x=i00_x, y=g)[name=string("o00_y")];
    }} -> (o00_y);
}}
"""
    )
    return ane.Kernel(
        name,
        text,
        inputs={"i00_x": (1, channels, 1, width)},
        outputs={"o00_y": (1, channels, 1, width)},
        weights={"@model_path/weights/g.bin": weight},
    )


def plain(
    body: str,
    inputs: dict[str, tuple[int, ...]],
    outputs: dict[str, tuple[int, ...]],
    name: str = "k",
) -> ane.Kernel:
    """A kernel without weight files around a body of statements."""
    params = ", ".join(f"tensor<fp16, {list(s)}> {n}" for n, s in inputs.items())
    text = f"{HEADER}{{\n    func main<ios18>({params}) {{\n{body}\n    }} -> ({', '.join(outputs)});\n}}\n"
    return ane.Kernel(name, text, inputs=inputs, outputs=outputs)


def fp16(x: np.ndarray) -> np.ndarray:
    """Round to half precision and back to float32."""
    return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)
