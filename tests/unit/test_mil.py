# SPDX-License-Identifier: MIT
"""The MIL writer: text in both dialects, ports, constants, shapes, errors. No engine."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable

import numpy as np
import pytest

from ane_native import mil
from ane_native.mil import OPS, Function, Value

SMALLEST_A = """\
program(1.3)
[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, \
{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, \
{"coremltools-version", "9.0"}})]
{
    func main<ios18>(tensor<fp16, [1, 64, 1, 32]> i00_x) {
        tensor<fp16, [16, 64, 1, 1]> w = const()[name=string("w"), \
val=tensor<fp16, [16, 64, 1, 1]>(BLOBFILE(path=string("@model_path/weights/w.bin"), \
offset=uint64(64)))];
        tensor<int32, [2]> int32_1_1 = const()[name=string("int32_1_1"), \
val=tensor<int32, [2]>([1, 1])];
        string str_valid = const()[name=string("str_valid"), val=string("valid")];
        tensor<int32, [4]> int32_0_0_0_0 = const()[name=string("int32_0_0_0_0"), \
val=tensor<int32, [4]>([0, 0, 0, 0])];
        int32 int32_1 = const()[name=string("int32_1"), val=int32(1)];
        tensor<fp16, [1, 16, 1, 32]> o00_y = conv(x=i00_x, weight=w, strides=int32_1_1, \
pad_type=str_valid, pad=int32_0_0_0_0, dilations=int32_1_1, groups=int32_1)[name=string("o00_y")];
    } -> (o00_y);
}
"""

SMALLEST_B = """\
program(1.0)
[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{"coremlc-version", "3505.4.1"}})]
{
    func main<ios16>(tensor<fp16, [1, 64, 1, 32]> i00_x) {
        tensor<fp16, [16, 64, 1, 1]> w = const()[name=tensor<string, []>("w"), \
val=tensor<fp16, [16, 64, 1, 1]>(BLOBFILE(\
path=tensor<string, []>("@model_path/weights/w.bin"), offset=tensor<uint64, []>(64)))];
        tensor<int32, [2]> int32_1_1 = const()[name=tensor<string, []>("int32_1_1"), \
val=tensor<int32, [2]>([1, 1])];
        tensor<string, []> str_valid = const()[name=tensor<string, []>("str_valid"), \
val=tensor<string, []>("valid")];
        tensor<int32, [4]> int32_0_0_0_0 = const()[name=tensor<string, []>("int32_0_0_0_0"), \
val=tensor<int32, [4]>([0, 0, 0, 0])];
        tensor<int32, []> int32_1 = const()[name=tensor<string, []>("int32_1"), \
val=tensor<int32, []>(1)];
        tensor<fp16, [1, 16, 1, 32]> o00_y = conv(x=i00_x, weight=w, strides=int32_1_1, \
pad_type=str_valid, pad=int32_0_0_0_0, dilations=int32_1_1, groups=int32_1)\
[name=tensor<string, []>("o00_y")];
    } -> (o00_y);
}
"""


def smallest(dialect: str) -> str:
    f = Function(dialect)  # type: ignore[arg-type]
    f.output("y", f.conv(f.input("x", (1, 64, 1, 32)), f.weight("w", (16, 64, 1, 1), "w")))
    return f.build().text


def test_dialect_a_is_written_to_the_letter() -> None:
    assert smallest("A") == SMALLEST_A


def test_dialect_b_is_written_to_the_letter() -> None:
    assert smallest("B") == SMALLEST_B


def test_dialects_never_mix() -> None:
    def everything(dialect: str) -> str:
        f = Function(dialect)  # type: ignore[arg-type]
        x = f.input("x", (1, 4, 8, 32))
        y = f.softmax(f.add(f.matmul(x, x, transpose_y=True), -0.5), -1)
        y = f.concat((y, f.cast(f.reduce_sum(y, (1,)), "fp16")), 1)
        f.output("y", f.slice_by_size(y, (0, 1, 0, 0), (1, 2, 8, 8)))
        return f.build().text

    scalar_a = re.compile(
        r"\b(string|bool|int32|uint64|fp16)\(|^\s+(string|bool|int32|fp16) ", re.MULTILINE
    )
    scalar_b = re.compile(r"tensor<\w+, \[\]>")
    assert scalar_a.search(everything("A"))
    assert not scalar_b.search(everything("A"))
    assert scalar_b.search(everything("B"))
    assert not scalar_a.search(everything("B"))


def test_ports_sort_by_name_in_declared_order() -> None:
    f = Function()
    shape = (1, 32, 1, 32)
    inputs = [f.input(name, shape) for name in ("zeta", "alpha", "mid")]
    total = f.add(f.add(inputs[0], inputs[1]), inputs[2])
    for i, name in enumerate("zyxwvutsrqpo"):
        f.output(name, f.mul(total, float(i + 1)))
    made = f.build()
    assert list(made.inputs) == ["i00_zeta", "i01_alpha", "i02_mid"]
    assert list(made.outputs) == sorted(made.outputs)
    assert [name[4:] for name in made.outputs] == list("zyxwvutsrqpo")
    returned = re.search(r"-> \((.*)\);", made.text)
    assert returned is not None
    assert returned.group(1).split(", ") == list(made.outputs)


def test_no_port_name_is_a_prefix_of_another() -> None:
    f = Function()
    x = f.input("x", (1, 32, 1, 32))
    for _ in range(12):
        f.output("a", f.mul(x, 2.0))
    names = list(f.build().outputs)
    assert len(set(names)) == 12
    assert not any(a != b and b.startswith(a) for a in names for b in names)


def test_equal_constants_are_written_once_and_unequal_ones_apart() -> None:
    f = Function()
    x = f.input("x", (1, 32, 1, 32))
    y = f.mul(f.mul(x, 0.5), 0.5)
    y = f.sub(f.add(y, 0.25), 0.25)
    y = f.reduce_sum(f.reduce_sum(y, (1,)), (1,))  # [1], and not the scalar 1 below
    y = f.softmax(y, 1)
    y = f.mul(f.mul(y, 0.0), -0.0)
    f.output("y", y)
    text = f.build().text
    assert text.count("fp16(0.5)") == 1
    assert text.count("fp16(0.25)") == 1
    assert text.count("tensor<int32, [1]>([1])") == 1
    assert text.count("int32(1)") == 1
    assert text.count("fp16(0.0)") == 1
    assert text.count("fp16(-0.0)") == 1
    assert text.count("bool(true)") == 1


def test_every_identifier_is_defined_once_before_its_use() -> None:
    f = Function()
    x = f.input("x", (1, 4, 16, 32))
    y = f.matmul(x, f.transpose(x, (0, 1, 3, 2)))
    f.output("y", f.concat((y, f.sigmoid(y)), 1))
    defined = ["i00_x"]
    for line in f.build().text.splitlines():
        if match := re.fullmatch(r"\s+\S.*? (\w+) = (\w+)\((.*)\)\[.*\];", line):
            name, op, arguments = match.groups()
            used = re.findall(r"\w+", re.sub(r"\w+=", "", arguments))
            assert set(used) <= set(defined), line
            assert name not in defined
            assert op == "const" or op in OPS
            defined.append(name)


@pytest.mark.parametrize("value", [1.0, 1 / 768, 1e-5, 6e-8, -30000.0, 65504.0, 0.1, -0.0, 3e-5])
def test_fp16_scalars_read_back_exactly(value: float) -> None:
    f = Function()
    f.output("y", f.mul(f.input("x", (1, 32, 1, 32)), value))
    literal = re.search(r"val=fp16\((.*?)\)", f.build().text)
    assert literal is not None
    assert "e" not in literal.group(1)
    assert np.float32(literal.group(1)) == np.float16(value)
    assert np.signbit(np.float16(literal.group(1))) == np.signbit(value)


@pytest.mark.parametrize("value", [65520.0, 1e-8, float("nan"), float("inf"), -1e9])
def test_scalars_fp16_cannot_hold_are_refused(value: float) -> None:
    f = Function()
    x = f.input("x", (1, 32, 1, 32))
    with pytest.raises(ValueError, match="mul: operand 'y': expected a number fp16 can hold"):
        f.mul(x, value)


def test_operations_without_use_are_left_out() -> None:
    f = Function()
    x = f.input("x", (1, 32, 1, 32))
    f.exp(f.mul(x, 7.0))
    f.weight("unused", (1, 32, 1, 1), "unused")
    f.output("y", f.abs(x))
    made = f.build()
    assert made.operations == 1
    assert made.weights == {}
    assert "exp" not in made.text
    assert "7.0" not in made.text


def test_weight_sources_become_the_weights_map() -> None:
    f = Function()
    x = f.input("x", (1, 2, 1, 32))
    table = np.arange(4, dtype=np.float64).reshape(2, 2) + 1e-5
    y = f.conv(f.conv(x, f.weight("a", (2, 2, 1, 1), "name")), f.weight("b", (2, 2, 1, 1), table))
    f.output("y", y)
    weights = f.build().weights
    assert weights["@model_path/weights/a.bin"] == "name"
    constant = weights["@model_path/weights/b.bin"]
    assert isinstance(constant, np.ndarray)
    assert constant.dtype == np.float16
    assert constant.shape == (2, 2, 1, 1)
    assert np.array_equal(constant.reshape(2, 2), table.astype(np.float16))


def test_inline_arrays_are_flat_decimal_lists() -> None:
    f = Function()
    x = f.input("x", (1, 2, 1, 2))
    f.output("y", f.mul(x, f.const(np.array([[[[1.0, 0.5]]]]))))
    assert "val=tensor<fp16, [1, 1, 1, 2]>([1.0, 0.5])" in f.build().text


# =============================== Shapes =========================================

Make = Callable[[Function, Value], Value]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda f, x: f.matmul(x, x, transpose_x=True), (1, 4, 32, 32)),
        (lambda f, x: f.matmul(x, x, transpose_y=True), (1, 4, 16, 16)),
        (lambda f, x: f.add(x, f.const(np.ones((1, 4, 1, 1)))), (1, 4, 16, 32)),
        (lambda f, x: f.sub(1.0, x), (1, 4, 16, 32)),
        (lambda f, x: f.reduce_sum(x, (1, -1)), (1, 1, 16, 1)),
        (lambda f, x: f.reduce_sum(x, (1,), keep_dims=False), (1, 16, 32)),
        (lambda f, x: f.softmax(x, -1), (1, 4, 16, 32)),
        (lambda f, x: f.reshape(x, (64, 32)), (64, 32)),
        (lambda f, x: f.transpose(x, (0, 3, 1, 2)), (1, 32, 4, 16)),
        (lambda f, x: f.slice_by_size(x, (0, 1, 8, 0), (1, 2, 8, 32)), (1, 2, 8, 32)),
        (lambda f, x: f.concat((x, x, x), -2), (1, 4, 48, 32)),
        (lambda f, x: f.cast(f.cast(x, "fp32"), "fp16"), (1, 4, 16, 32)),
        (lambda f, x: f.select(f.greater(x, 0.0), x, 0.0), (1, 4, 16, 32)),
        (lambda f, x: f.conv(x, f.weight("w", (8, 2, 3, 3), "w"), groups=2), (1, 8, 14, 30)),
        (
            lambda f, x: f.conv(
                x, f.weight("w", (8, 4, 3, 3), "w"), strides=(2, 2), pad_type="same"
            ),
            (1, 8, 8, 16),
        ),
        (
            lambda f, x: f.conv(
                x, f.weight("w", (8, 4, 3, 3), "w"), pad_type="custom", pad=(1, 1, 0, 2)
            ),
            (1, 8, 16, 32),
        ),
    ],
)
def test_shapes_are_computed(make: Make, shape: tuple[int, ...]) -> None:
    f = Function()
    value = make(f, f.input("x", (1, 4, 16, 32)))
    assert value.shape == shape
    f.output("y", value)
    assert f.build().outputs == {"o00_y": shape}
    assert f"tensor<fp16, [{', '.join(map(str, shape))}]> o00_y = " in f.build().text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f, x: f.conv(x, f.weight("w", (8, 5, 1, 1), "w")),
            (
                "conv: operand 'weight': expected [O, 4/groups, kh, kw] for an input of 4 channels, "
                "got [8, 5, 1, 1] with groups 1"
            ),
        ),
        (
            lambda f, x: f.matmul(x, x),
            (
                "matmul: operand 'y': expected contraction of 32 (transpose_x=False, "
                "transpose_y=False, x [1, 4, 16, 32]), got [1, 4, 16, 32]"
            ),
        ),
        (
            lambda f, x: f.add(x, f.reshape(x, (1, 4, 32, 16))),
            (
                "add: operand 'y': expected a shape that broadcasts with [1, 4, 16, 32] "
                "of operand 'x', got [1, 4, 32, 16]"
            ),
        ),
        (
            lambda f, x: f.mul(x, f.reshape(x, (16, 4, 32))),
            (
                "mul: operand 'y': expected a shape that broadcasts with [1, 4, 16, 32] "
                "of operand 'x', got [16, 4, 32]"
            ),
        ),
        (
            lambda f, x: f.add(x, f.cast(x, "fp32")),
            "add: operand 'y': expected dtype fp16, got fp32[1, 4, 16, 32]",
        ),
        (
            lambda f, x: f.reduce_sum(x, (4,)),
            "reduce_sum: operand 'axes': expected an axis in [-4, 4), got 4",
        ),
        (
            lambda f, x: f.reduce_sum(x, (1, -3)),
            "reduce_sum: operand 'axes': expected one or more distinct axes, got [1, -3]",
        ),
        (
            lambda f, x: f.softmax(x, 7),
            "softmax: operand 'axis': expected an axis in [-4, 4), got 7",
        ),
        (
            lambda f, x: f.reshape(x, (1, 4, 16, 33)),
            "reshape: operand 'shape': expected 2048 elements, got [1, 4, 16, 33]",
        ),
        (
            lambda f, x: f.reshape(x, (1, 1, 1, 4, 16, 32)),
            (
                "reshape: operand 'shape': expected 1 to 5 integers >= 1 (one may be -1), "
                "got [1, 1, 1, 4, 16, 32]"
            ),
        ),
        (
            lambda f, x: f.transpose(x, (0, 1, 1, 2)),
            "transpose: operand 'perm': expected a permutation of 0..3, got [0, 1, 1, 2]",
        ),
        (
            lambda f, x: f.slice_by_size(x, (0, 0, 8, 0), (1, 4, 9, 32)),
            (
                "slice_by_size: operand 'size': expected a part of [1, 4, 16, 32] from [0, 0, 8, 0], "
                "got [1, 4, 9, 32]"
            ),
        ),
        (
            lambda f, x: f.concat((x, f.reshape(x, (1, 8, 8, 32))), 1),
            (
                "concat: operand 'values': expected fp16[1, 4, 16, 32] but for axis 1, "
                "got fp16[1, 8, 8, 32]"
            ),
        ),
        (
            lambda f, x: f.cast(x, "int32"),
            "cast: operand 'dtype': expected fp16, fp32, bool, int8 or uint8, got 'int32'",
        ),
        (
            lambda f, x: f.select(x, x, x),
            "select: operand 'cond': expected dtype bool, got fp16[1, 4, 16, 32]",
        ),
        (
            lambda f, x: f.mul(x, Function().input("x", (1, 4, 16, 32))),
            "mul: operand 'y': expected a Value of this function",
        ),
    ],
)
def test_wrong_shapes_name_op_operand_expected_and_got(make: Make, message: str) -> None:
    f = Function()
    x = f.input("x", (1, 4, 16, 32))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(f, x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f, x: f.conv(x, 3.0), "conv: operand 'weight': expected a Value, got float"),
        (lambda f, x: f.add(1.0, 2.0), "add: operand 'x': expected a Value on one side at least"),
        (lambda f, x: f.add(x, "1"), "add: operand 'y': expected a Value or a number, got str"),
        (lambda f, x: f.add(x, True), "add: operand 'y': expected a Value or a number, got bool"),
        (
            lambda f, x: f.matmul(x, x, transpose_x=1),
            "matmul: operand 'transpose_x': expected bool, got int",
        ),
        (lambda f, x: f.softmax(x, 1.0), "softmax: operand 'axis': expected int, got float"),
        (
            lambda f, x: f.reshape(x, (2048.0,)),
            "reshape: operand 'shape': expected a sequence of int, got (2048.0,)",
        ),
        (
            lambda f, x: f.reduce_sum(x, 1),
            "reduce_sum: operand 'axes': expected a sequence of int, got int",
        ),
        (
            lambda f, x: f.concat((x, None), 1),
            "concat: operand 'values': expected a Value, got NoneType",
        ),
    ],
)
def test_wrong_kinds_are_type_errors(make: Make, message: str) -> None:
    f = Function()
    x = f.input("x", (1, 4, 16, 32))
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make(f, x)


# =============================== Names and ports ================================


@pytest.mark.parametrize(
    "name", ["W", "1w", "w-1", "", "i00_w", "o01_w", "conv", "tensor", "const"]
)
def test_bad_weight_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name: expected"):
        Function().weight(name, (1, 1, 1, 1), "w")


def test_a_name_is_taken_once() -> None:
    f = Function()
    f.weight("w", (1, 1, 1, 1), "a")
    with pytest.raises(ValueError, match="name: expected a new one, got 'w' again"):
        f.weight("w", (1, 1, 1, 1), "b")


def test_generated_names_avoid_given_ones() -> None:
    f = Function()
    x = f.input("x", (1, 8, 1, 32))
    w = f.weight("mul_0", (8, 8, 1, 1), "w")
    y = f.conv(f.mul(x, 2.0), w)
    f.output("y", f.mul(y, 2.0))
    names = re.findall(r"(\w+) = \w+\(", f.build().text)
    assert len(names) == len(set(names))


def test_outputs_must_be_results_once_and_fp16() -> None:
    f = Function()
    x = f.input("x", (1, 8, 1, 32))
    y = f.abs(x)
    f.output("y", y)
    for value, message in (
        (x, "got <Value i00_x fp16[1, 8, 1, 32]>, an input or a constant"),
        (f.const(1.0), "an input or a constant"),
        (y, "an output already"),
        (f.greater(x, 0.0), "expected dtype fp16, got bool[1, 8, 1, 32]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            f.output("z", value)


def test_a_text_needs_ports_and_uses_them_all() -> None:
    with pytest.raises(ValueError, match="at least one input and one output"):
        Function().build()
    f = Function()
    x = f.input("x", (1, 8, 1, 32))
    f.input("idle", (1, 8, 1, 32))
    f.output("y", f.abs(x))
    with pytest.raises(ValueError, match="input 'i01_idle': no output depends on it"):
        f.build()


def test_constant_arrays_are_checked() -> None:
    f = Function()
    with pytest.raises(ValueError, match="weight 'w': expected 4 elements for .2, 2., got 3"):
        f.weight("w", (2, 2), np.ones(3))
    with pytest.raises(ValueError, match="weight 'v': expected values within fp16"):
        f.weight("v", (2,), np.array([1.0, 1e6]))


def test_unknown_dialects_are_refused() -> None:
    with pytest.raises(ValueError, match="dialect: expected 'A' or 'B', got 'C'"):
        Function("C")  # type: ignore[arg-type]


def test_every_operation_of_the_table_has_a_method() -> None:
    assert all(callable(getattr(Function, op, None)) for op in OPS)


def test_the_example_of_the_module_runs() -> None:
    assert doctest.testmod(mil).failed == 0


def test_ports_stay_in_order_beyond_the_first_hundred() -> None:
    g = mil.Graph()
    x = g.input("x", (1, 4, 1, 32))
    values = [g.add(x, 1.0 + i) for i in range(205)]
    for i, v in enumerate(values):
        g.output(f"y{i}", v)
    names = [v.name for v in g.outputs]
    assert names == sorted(names)
    assert names[99:101] == ["o99_y99", "ox0100_y100"]
    assert [mil.label(v) for v in g.outputs] == [f"y{i}" for i in range(205)]
