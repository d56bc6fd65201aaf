# SPDX-License-Identifier: MIT
"""softane against coremltools' own value inference of MIL operations.

A development-only check (``pip install -e '.[oracle]'``): coremltools computes an operation on
constants with NumPy, softane runs the same operation as a program. Skipped, visibly, without
coremltools. Operations without value inference there (windows, resizing, …) and those that the
engine refuses are compared with softane's own reference only (softane/tests/test_ops.c).
"""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from programs import plain

import ane_native as ane

logging.getLogger("coremltools").setLevel(logging.CRITICAL)
coremltools = pytest.importorskip(
    "coremltools", reason="coremltools is not installed (pip install -e '.[oracle]')"
)
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import Function  # noqa: E402

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def normal(*shape: int) -> Array:
    """N(0, 1) that fp16 can hold."""
    return RNG.standard_normal(shape).astype(np.float16).astype(np.float32)


X = normal(2, 3, 4, 32)
Y = normal(2, 3, 4, 32)
P = np.abs(X) + np.float32(0.5)
P = P.astype(np.float16).astype(np.float32)
U = np.clip(X / 4, -0.9, 0.9).astype(np.float16).astype(np.float32)

SAME = "abs ceil floor round sign square exp exp2 erf atan sin cos sigmoid tanh relu relu6"
SAME += " softplus softsign"
TWO = "add sub mul maximum minimum"
COMPARE = "greater greater_equal less less_equal equal not_equal"
REDUCE = "sum mean max min l1_norm l2_norm sum_square log_sum_exp"

# name of the case -> operation, tensors, constants
Case = tuple[str, dict[str, Array], dict[str, Any]]
CASES: dict[str, Case] = {op: (op, {"x": X}, {}) for op in SAME.split()}
CASES |= {op: (op, {"x": X, "y": Y}, {}) for op in (TWO + " " + COMPARE).split()}
CASES |= {f"{op}_broadcast": (op, {"x": X, "y": Y[:1, :, :1]}, {}) for op in TWO.split()}
for kind in REDUCE.split():
    op = f"reduce_{kind}"
    CASES[op] = (op, {"x": X}, {"axes": [1, -1], "keep_dims": True})
    CASES[f"{op}_dropped"] = (op, {"x": X}, {"axes": [2], "keep_dims": False})
CASES |= {
    "sqrt": ("sqrt", {"x": P}, {}),
    "rsqrt": ("rsqrt", {"x": P}, {"epsilon": 1e-3}),
    "inverse": ("inverse", {"x": P}, {"epsilon": 1e-3}),
    "log": ("log", {"x": P}, {"epsilon": 1e-3}),
    "real_div": ("real_div", {"x": X, "y": P}, {}),
    "floor_div": ("floor_div", {"x": X * 8, "y": P}, {}),
    "pow": ("pow", {"x": P, "y": U}, {}),
    "reduce_log_sum": ("reduce_log_sum", {"x": P}, {"axes": [3], "keep_dims": True}),
    "reduce_argmax": ("reduce_argmax", {"x": X}, {"axis": 2, "keep_dims": True}),
    "reduce_argmin": ("reduce_argmin", {"x": X}, {"axis": -1, "keep_dims": False}),
    "clip": ("clip", {"x": X}, {"alpha": -0.5, "beta": 0.75}),
    "threshold": ("threshold", {"x": X}, {"alpha": 0.25}),
    "leaky_relu": ("leaky_relu", {"x": X}, {"alpha": 0.125}),
    "elu": ("elu", {"x": X}, {"alpha": 1.5}),
    "clamped_relu": ("clamped_relu", {"x": X}, {"alpha": 0.25, "beta": 1.5}),
    "linear_activation": ("linear_activation", {"x": X}, {"alpha": 1.5, "beta": 0.25}),
    "thresholded_relu": ("thresholded_relu", {"x": X}, {"alpha": 0.5}),
    "scaled_tanh": ("scaled_tanh", {"x": X}, {"alpha": 1.5, "beta": 0.5}),
    "sigmoid_hard": ("sigmoid_hard", {"x": X}, {"alpha": 0.25, "beta": 0.5}),
    "prelu": ("prelu", {"x": X}, {"alpha": np.float32([0.25, -0.5, 2])}),
    "softplus_parametric": (
        "softplus_parametric",
        {"x": X},
        {"alpha": np.float32([0.25, -0.5, 2]), "beta": np.float32([1, 0.5, 0.25])},
    ),
    "softmax": ("softmax", {"x": X}, {"axis": 1}),
    "layer_norm": ("layer_norm", {"x": X}, {"axes": [3], "epsilon": 1e-3}),
    "l2_norm": ("l2_norm", {"x": X}, {"epsilon": 1e-3}),
    "matmul": ("matmul", {"x": X, "y": Y}, {"transpose_x": False, "transpose_y": True}),
    "matmul_transposed": ("matmul", {"x": X, "y": Y}, {"transpose_x": True, "transpose_y": False}),
    "einsum": (
        "einsum",
        {"values": (X, normal(2, 32, 4, 5))},
        {"equation": "nchw,nwhu->nchu"},
    ),
    "linear": ("linear", {"x": X}, {"weight": normal(8, 32), "bias": normal(8)}),
    "scaled_dot_product_attention": (
        "scaled_dot_product_attention",
        {"query": X, "key": Y, "value": normal(2, 3, 4, 32)},
        {},
    ),
    "select": ("select", {"cond": X > 0, "a": X, "b": Y}, {}),
    "reshape": ("reshape", {"x": X}, {"shape": [3, 8, 32]}),
    "transpose": ("transpose", {"x": X}, {"perm": [0, 2, 3, 1]}),
    "expand_dims": ("expand_dims", {"x": X[0]}, {"axes": [1]}),
    "squeeze": ("squeeze", {"x": X[:1]}, {"axes": [0]}),
    "slice_by_size": ("slice_by_size", {"x": X}, {"begin": [0, 1, 2, 0], "size": [2, 2, 2, 32]}),
    "slice_by_index": (
        "slice_by_index",
        {"x": X},
        {"begin": [1, 0, 3, 0], "end": [2, 3, 0, 32], "stride": [1, 2, -1, 1]},
    ),
    "concat": ("concat", {"values": (X, Y[:, :1])}, {"axis": 1, "interleave": False}),
    "stack": ("stack", {"values": (X[0], Y[0])}, {"axis": 1}),
    "split": ("split", {"x": X}, {"axis": 2, "num_splits": 2}),
    "tile": ("tile", {"x": X[:, :, :, :4]}, {"reps": [1, 2, 1, 3]}),
    "reverse": ("reverse", {"x": X}, {"axes": [1, 3]}),
    "pad": (
        "pad",
        {"x": X},
        {"pad": [0, 0, 1, 2, 3, 0], "mode": "constant", "constant_val": 1.5},
    ),
    "pad_reflect": ("pad", {"x": X}, {"pad": [1, 2, 3, 0], "mode": "reflect"}),
    "pad_replicate": ("pad", {"x": X}, {"pad": [1, 2, 3, 0], "mode": "replicate"}),
    "gather": ("gather", {"x": X}, {"indices": np.int32([2, 0]), "axis": 1, "batch_dims": 0}),
    "gather_along_axis": (
        "gather_along_axis",
        {"x": X[0, 0]},
        {"indices": RNG.integers(0, 4, (4, 32)).astype(np.int32), "axis": 0},
    ),
    "flatten2d": ("flatten2d", {"x": X}, {"axis": 2}),
    "identity": ("identity", {"x": X}, {}),
    "fill_like": ("fill_like", {"ref_tensor": X}, {"value": 1.5}),
    "band_part": ("band_part", {"x": X}, {"lower": 1, "upper": 2}),
    "topk": ("topk", {"x": X}, {"k": 2, "axis": 3, "ascending": False}),
    "topk_ascending": ("topk", {"x": X}, {"k": 5, "axis": 3, "ascending": True}),
    "argsort": ("argsort", {"x": X}, {"axis": 3, "ascending": False}),
}
CASES |= {
    f"gelu_{mode.lower()}": ("gelu", {"x": X}, {"mode": mode})
    for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
}

NAMES = {"float32": "fp16", "int32": "int32", "bool": "bool"}


def literal(v: Any) -> str:
    """One number of MIL text."""
    if isinstance(v, (bool, np.bool_)):
        return str(bool(v)).lower()
    return str(int(v)) if isinstance(v, (int, np.integer)) else float(np.float16(v)).hex()


def const(name: str, value: Any) -> str:
    """A const statement for an operand."""
    if isinstance(value, str):
        type_, text = "string", f'string("{value}")'
    elif np.ndim(value) == 0:
        type_ = {bool: "bool", int: "int32"}.get(type(value), "fp16")
        text = f"{type_}({literal(value)})"
    else:
        a = np.asarray(value)
        a = a.astype(np.int32) if a.dtype == np.int64 else a
        type_ = f"tensor<{NAMES[str(a.dtype)]}, {list(a.shape)}>"
        text = f"{type_}([{', '.join(literal(v) for v in a.reshape(-1))}])"
    return f'        {type_} {name} = const()[name=string("{name}"), val={text}];'


def oracle(op: str, tensors: dict[str, Any], consts: dict[str, Any]) -> list[Array]:
    """What coremltools computes; on copies, because some of its operations write to their input."""
    tensors = copy.deepcopy(tensors)
    with Function({}, opset_version=coremltools.target.iOS18):
        given = {k: np.float32(v) if isinstance(v, float) else v for k, v in consts.items()}
        made = getattr(mb, op)(**tensors, **given)
    values = made if isinstance(made, (list, tuple)) else [made]
    return [np.asarray(v.val) for v in values]


def engine(op: str, tensors: dict[str, Any], consts: dict[str, Any], want: list[Array]) -> Any:
    """What softane computes, all results as fp16."""
    inputs: dict[str, Array] = {}
    lines, words = [const(f"k_{k}", v) for k, v in consts.items()], []
    for key, value in tensors.items():
        parts = value if isinstance(value, tuple) else (value,)
        names = [f"i_{key}{n}" for n in range(len(parts))]
        inputs |= dict(zip(names, parts, strict=True))
        words.append(
            f"{key}=({', '.join(names)})" if isinstance(value, tuple) else f"{key}={names[0]}"
        )
        if parts[0].dtype == bool:  # bools come in as numbers
            shape = list(parts[0].shape)
            lines += [const("half", 0.5)]
            lines += [
                f'        tensor<bool, {shape}> b_{key} = greater(x={names[0]}, y=half)[name=string("b")];'
            ]
            words[-1] = f"{key}=b_{key}"
    words += [f"{k}=k_{k}" for k in consts]
    types = {"bool": "bool", "int32": "int32"}
    results, outputs = [], {}
    for n, v in enumerate(want):
        kind = types.get(str(v.dtype), "fp16")
        results.append(f"tensor<{kind}, {list(v.shape)}> r{n}")
        outputs[f"o{n}"] = v.shape
    lines.append(f'        {", ".join(results)} = {op}({", ".join(words)})[name=string("r")];')
    lines.append(const("f16", "fp16"))
    for n, v in enumerate(want):
        last = f"cast(x=r{n}, dtype=f16)" if str(v.dtype) in types else f"identity(x=r{n})"
        lines.append(f'        tensor<fp16, {list(v.shape)}> o{n} = {last}[name=string("o{n}")];')
    kernel = plain("\n".join(lines), {k: v.shape for k, v in inputs.items()}, outputs)
    with ane.Program(kernel) as program:
        got = program.eval(*[np.asarray(v, np.float32) for v in inputs.values()])
    return list(got) if isinstance(got, (list, tuple)) else [got]


@pytest.mark.parametrize("case", sorted(CASES))
def test_operation_computes_what_coremltools_does(case: str) -> None:
    op, tensors, consts = CASES[case]
    want = oracle(op, tensors, consts)
    got = engine(op, tensors, consts, want)
    for g, w in zip(got, want, strict=True):
        # constants and the result are rounded to fp16: four units, and sums of 32 terms
        assert np.allclose(g, np.float64(w), rtol=2.0**-9, atol=2.0**-9), case


def test_softane_knows_every_operation_of_core_ml_by_name() -> None:
    """Computed, or refused with what to write instead; `python softane/tools/count_ops.py`."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, root / "softane" / "tools" / "count_ops.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 unknown" in done.stdout
