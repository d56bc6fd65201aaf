# SPDX-License-Identifier: MIT
"""Write MIL text: one method per operation, every shape computed, never typed by hand.

A :class:`Function` collects operations and ends in :meth:`Function.build`, whose
:class:`MilText` holds what :class:`ane_native.kernel.Kernel` needs: the text, the ports
with their shapes, and which weight goes into which blob file. The writer knows MIL's
grammar and the shape rules of its operations; it knows nothing of an engine, of its
limits or of a model. Operations are rows of one table (:data:`OPS`).

What the text looks like follows what compilers of Neural Engine programs were seen to
accept (maderix/ANE, mechramc/Orion, sbryngelson/ANEForge):

* Two dialects. ``"A"``: ``program(1.3)``, target ios18, scalar types such as ``int32(1)``.
  ``"B"``: ``program(1.0)``, target ios16, ``tensor<int32, []>(1)``; some M1 and M2 machines
  take only this one (maderix/ANE pull request 6). A text never mixes them.
* Operands are identifiers: each bool, integer and string becomes a named constant
  (mechramc/Orion README: literals are refused), written once however often it is used.
* Symbols are bound in the order of their names, not in the order of declaration, so ports
  are called ``i00_x``, ``i01_y``, ``o00_z``: both orders are then the same.
* A result nobody needs is refused by the compiler when it is returned (Orion), so
  operations no output depends on are left out.

Example:
    >>> f = Function()
    >>> x = f.input("x", (1, 64, 1, 32))
    >>> w = f.weight("w", (16, 64, 1, 1), "layer.weight")
    >>> f.output("y", f.mul(f.conv(x, w), 0.5))
    >>> mil = f.build()
    >>> mil.inputs, mil.outputs
    ({'i00_x': (1, 64, 1, 32)}, {'o00_y': (1, 16, 1, 32)})
    >>> mil.weights
    {'@model_path/weights/w.bin': 'layer.weight'}
    >>> [line.split(" = ")[1] for line in mil.text.splitlines() if "mul(" in line]
    ['mul(x=conv_0, y=fp16_0)[name=string("o00_y")];']
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native.mil_ops import MAX_RANK, OPS, Call, Kind, Op, Shape, Type

if TYPE_CHECKING:
    from ane_native.kernel import Weight

__all__ = ["OPS", "Dialect", "Function", "MilText", "Type", "Value"]

Dialect: TypeAlias = Literal["A", "B"]
WeightSource: TypeAlias = "str | Weight | npt.NDArray[Any]"

BLOB_OFFSET = 64  # of the first blob's metadata; 128 reads garbage: mechramc/Orion issue 8
FP16_MAX = 65504.0

# =============================== Types and values ===============================


class Value:
    """One value of a :class:`Function`: an input, a constant or the result of an operation.

    Attributes:
        type: its :class:`Type`.
        name: its identifier in the text; :meth:`Function.output` gives an output its own.
    """

    __slots__ = ("_function", "_statement", "name", "type")

    def __init__(self, function: Function, name: str, type_: Type) -> None:
        self._function = function
        self._statement: _Statement | None = None  # None: an input
        self.name = name
        self.type = type_

    @property
    def shape(self) -> Shape:
        """The shape, outermost axis first."""
        return self.type.shape

    def __repr__(self) -> str:
        return f"<Value {self.name} {self.type}>"


Operand: TypeAlias = Value | float


@dataclass(frozen=True)
class MilText:
    """A finished function, ready to become a :class:`ane_native.kernel.Kernel`.

    Attributes:
        text: the MIL program.
        inputs: port name -> shape, in declared order (which is ASCII order). All fp16.
        outputs: likewise.
        weights: blob path -> name of the weight, a :class:`ane_native.kernel.Weight`, or a
            constant float16 array of the declared shape.
        operations: how many operations the text has, constants not counted.
    """

    text: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    weights: dict[str, WeightSource]
    operations: int


# =============================== Dialects =======================================


@dataclass(frozen=True)
class _Dialect:
    """How one dialect spells the head of a program and its scalars."""

    head: str
    target: str
    scalar: str  # format of a scalar type, {} = dtype


_DIALECTS = {
    "A": _Dialect(
        head=(
            "program(1.3)\n"
            "[buildInfo = dict<string, string>({"
            '{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, '
            '{"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]\n'
        ),
        target="ios18",
        scalar="{}",
    ),
    "B": _Dialect(
        head=(
            "program(1.0)\n"
            "[buildInfo = dict<tensor<string, []>, tensor<string, []>>({"
            '{"coremlc-version", "3505.4.1"}})]\n'
        ),
        target="ios16",
        scalar="tensor<{}, []>",
    ),
}

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_PORT = re.compile(r"[io][0-9]{2}_")
_WORD = re.compile(
    "fp16|fp32|u?int(8|16|32|64)|bool|string|tensor|dict|program|func|const|main|true|false"
)

# =============================== The writer =====================================


@dataclass(eq=False)
class _Statement:
    """``TYPE name = op(arguments)[name=…]``; constants carry their value instead."""

    result: Value
    op: str
    operands: dict[str, Value | tuple[Value, ...]]
    literal: Any = None  # op "const": Python scalar, tuple of ints or float array
    blob: str | None = None  # op "const": path of the blob file
    source: Any = None  # op "const" with a blob: what is baked


class Function:
    """Collects operations and writes them as the MIL function ``main``.

    Methods named after operations return the :class:`Value` of the result. Where a method
    takes an ``Operand``, a Python number stands for a scalar constant of the other
    operand's type. A mistake raises at the call that makes it: TypeError for an operand of
    the wrong kind, ValueError for a wrong shape, dtype, name or number; both name
    operation, operand, what was expected and what was got.

    Args:
        dialect: ``"A"`` (default) or ``"B"``; see the module's text.
    """

    def __init__(self, dialect: Dialect = "A") -> None:
        if dialect not in _DIALECTS:
            raise ValueError(f"dialect: expected 'A' or 'B', got {dialect!r}")
        self._dialect = _DIALECTS[dialect]
        self._names: set[str] = set()
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._statements: list[_Statement] = []
        self._constants: dict[tuple[str, Shape, object], Value] = {}
        self._counters: dict[str, int] = {}

    # ------------------------------- ports --------------------------------------

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Declare the next input port, fp16.

        Args:
            name: what it is; the port is called ``i00_name``, ``i01_name``, …
            shape: outermost axis first, e.g. ``(1, channels, 1, tokens)``.
        """
        port = self._port_name("i", len(self._inputs), name)
        value = Value(self, port, Type("fp16", self._checked_shape("input", shape)))
        self._inputs.append(value)
        return value

    def output(self, name: str, value: Value) -> None:
        """Declare the next output port: `value` under the name ``o00_name``, ``o01_name``, …

        Raises:
            ValueError: `value` is an input, a constant, already an output, or not fp16.
        """
        self._own("output", "value", value)
        made = value._statement is not None and value._statement.op != "const"
        if not made or value in self._outputs:
            got = "an output already" if value in self._outputs else "an input or a constant"
            expected = "the result of an operation, once"
            raise ValueError(f"output {name!r}: expected {expected}, got {value!r}, {got}")
        if value.type.dtype != "fp16":
            raise ValueError(f"output {name!r}: expected dtype fp16, got {value.type}")
        value.name = self._port_name("o", len(self._outputs), name)
        self._outputs.append(value)

    # ------------------------------- constants ----------------------------------

    def const(self, value: bool | float | str | Sequence[int] | npt.NDArray[Any]) -> Value:
        """A constant written into the text; equal ones are written once.

        Args:
            value: bool, int (int32), float (fp16), str, a sequence of int (int32), or an
                array of floats (fp16, for small tables; use :meth:`weight` for large ones).

        Raises:
            ValueError: a float that fp16 cannot hold: not finite, above 65504, or not zero
                but rounded to zero.
        """
        if isinstance(value, bool):
            return self._constant(Type("bool", ()), value)
        if isinstance(value, int):
            return self._constant(Type("int32", ()), _checked_int32(value))
        if isinstance(value, float):
            return self._constant(Type("fp16", ()), _checked_fp16(value))
        if isinstance(value, str):
            if not re.fullmatch(r"[ -!#-\[\]-~]*", value):
                raise ValueError(f"const: expected printable ASCII without quotes, got {value!r}")
            return self._constant(Type("string", ()), value)
        if isinstance(value, np.ndarray):
            flat = tuple(_checked_fp16(float(v)) for v in value.reshape(-1))
            return self._constant(Type("fp16", self._checked_shape("const", value.shape)), flat)
        ints = tuple(_checked_int32(v) for v in value)
        return self._constant(Type("int32", self._checked_shape("const", (len(ints),))), ints)

    def weight(self, name: str, shape: Sequence[int], source: WeightSource) -> Value:
        """An fp16 constant read from its own blob file ``@model_path/weights/<name>.bin``.

        One file per tensor is the portable choice: files with several blobs fail on M1
        (maderix/ANE benchmarks/ANE_BENCHMARK_REPORT.md).

        Args:
            name: identifier and file name, unique in this function.
            shape: as the operation sees it, e.g. ``(out, in, 1, 1)`` for a 1x1 convolution.
            source: what is baked: the name of a weight, a :class:`ane_native.kernel.Weight`,
                or a constant array with as many elements as `shape` (stored as float16).

        Raises:
            ValueError: the name is taken or malformed; an array of another size, or one
                whose values fp16 cannot hold.
        """
        type_ = Type("fp16", self._checked_shape(f"weight {name!r}", shape))
        if isinstance(source, np.ndarray):
            if source.size != math.prod(type_.shape):
                raise ValueError(
                    f"weight {name!r}: expected {math.prod(type_.shape)} elements for "
                    f"{list(type_.shape)}, got {source.size}"
                )
            with np.errstate(over="ignore"):
                half = np.ascontiguousarray(source, dtype=np.float16).reshape(type_.shape)
            if not np.isfinite(half).all():
                raise ValueError(f"weight {name!r}: expected values within fp16, got inf or NaN")
            source = half
        value = Value(self, self._take_name(name), type_)
        path = f"@model_path/weights/{name}.bin"
        self._add(_Statement(value, "const", {}, blob=path, source=source))
        return value

    # ------------------------------- products -----------------------------------

    def conv(
        self,
        x: Value,
        weight: Value,
        *,
        strides: Sequence[int] = (1, 1),
        pad_type: str = "valid",
        pad: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Value:
        """2-D convolution: ``x`` [N,C,H,W] with ``weight`` [O,C/groups,kh,kw] -> [N,O,H',W'].

        A 1x1 kernel is the engine's matrix product: y[o,t] = sum_i W[o,i] x[i,t]. There is
        no bias: compilers refuse one (mechramc/Orion); add it.
        """
        return self._op(
            "conv",
            x=x,
            weight=weight,
            strides=strides,
            pad_type=pad_type,
            pad=pad,
            dilations=dilations,
            groups=groups,
        )

    def matmul(
        self, x: Value, y: Value, *, transpose_x: bool = False, transpose_y: bool = False
    ) -> Value:
        """Batched product [...,M,K] @ [...,K,N]; the flags swap the last two axes first."""
        return self._op("matmul", x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)

    # ------------------------------- element by element -------------------------

    def add(self, x: Operand, y: Operand) -> Value:
        """x + y, with NumPy broadcasting of equal ranks."""
        return self._op("add", x=x, y=y)

    def sub(self, x: Operand, y: Operand) -> Value:
        """x - y, with broadcasting."""
        return self._op("sub", x=x, y=y)

    def mul(self, x: Operand, y: Operand) -> Value:
        """x * y, with broadcasting."""
        return self._op("mul", x=x, y=y)

    def real_div(self, x: Operand, y: Operand) -> Value:
        """x / y, with broadcasting."""
        return self._op("real_div", x=x, y=y)

    def pow(self, x: Operand, y: Operand) -> Value:
        """x ** y; ``pow(x, -0.5)`` is the portable reciprocal square root."""
        return self._op("pow", x=x, y=y)

    def maximum(self, x: Operand, y: Operand) -> Value:
        """The larger of x and y, with broadcasting."""
        return self._op("maximum", x=x, y=y)

    def minimum(self, x: Operand, y: Operand) -> Value:
        """The smaller of x and y, with broadcasting."""
        return self._op("minimum", x=x, y=y)

    def greater(self, x: Operand, y: Operand) -> Value:
        """x > y, bool."""
        return self._op("greater", x=x, y=y)

    def greater_equal(self, x: Operand, y: Operand) -> Value:
        """x >= y, bool."""
        return self._op("greater_equal", x=x, y=y)

    def less(self, x: Operand, y: Operand) -> Value:
        """x < y, bool."""
        return self._op("less", x=x, y=y)

    def less_equal(self, x: Operand, y: Operand) -> Value:
        """x <= y, bool."""
        return self._op("less_equal", x=x, y=y)

    def equal(self, x: Operand, y: Operand) -> Value:
        """x == y, bool."""
        return self._op("equal", x=x, y=y)

    def not_equal(self, x: Operand, y: Operand) -> Value:
        """x != y, bool."""
        return self._op("not_equal", x=x, y=y)

    def select(self, cond: Value, a: Operand, b: Operand) -> Value:
        """a where cond holds, else b, with broadcasting."""
        return self._op("select", cond=cond, a=a, b=b)

    def abs(self, x: Value) -> Value:
        """|x|."""
        return self._op("abs", x=x)

    def sign(self, x: Value) -> Value:
        """-1, 0 or 1."""
        return self._op("sign", x=x)

    def sqrt(self, x: Value) -> Value:
        """Square root."""
        return self._op("sqrt", x=x)

    def square(self, x: Value) -> Value:
        """x * x; ``mul(x, x)`` is the more portable form (ANEForge op-quirks)."""
        return self._op("square", x=x)

    def exp(self, x: Value) -> Value:
        """e ** x."""
        return self._op("exp", x=x)

    def erf(self, x: Value) -> Value:
        """The error function."""
        return self._op("erf", x=x)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + e ** -x)."""
        return self._op("sigmoid", x=x)

    def tanh(self, x: Value) -> Value:
        """Hyperbolic tangent."""
        return self._op("tanh", x=x)

    def relu(self, x: Value) -> Value:
        """max(x, 0)."""
        return self._op("relu", x=x)

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""
        return self._op("silu", x=x)

    def identity(self, x: Value) -> Value:
        """x itself, under a name of its own."""
        return self._op("identity", x=x)

    def cast(self, x: Value, dtype: str) -> Value:
        """x as ``"fp16"``, ``"fp32"`` or ``"bool"``."""
        return self._op("cast", x=x, dtype=dtype)

    # ------------------------------- along axes ---------------------------------

    def reduce_sum(self, x: Value, axes: Sequence[int], *, keep_dims: bool = True) -> Value:
        """Sum over `axes`; accumulated in fp16 on the engine (ANEForge numerics.md)."""
        return self._op("reduce_sum", x=x, axes=axes, keep_dims=keep_dims)

    def reduce_mean(self, x: Value, axes: Sequence[int], *, keep_dims: bool = True) -> Value:
        """Mean over `axes`; ``mul(reduce_sum(x), 1/n)`` is the more portable form."""
        return self._op("reduce_mean", x=x, axes=axes, keep_dims=keep_dims)

    def reduce_max(self, x: Value, axes: Sequence[int], *, keep_dims: bool = True) -> Value:
        """Largest element over `axes`."""
        return self._op("reduce_max", x=x, axes=axes, keep_dims=keep_dims)

    def reduce_min(self, x: Value, axes: Sequence[int], *, keep_dims: bool = True) -> Value:
        """Smallest element over `axes`."""
        return self._op("reduce_min", x=x, axes=axes, keep_dims=keep_dims)

    def softmax(self, x: Value, axis: int) -> Value:
        """e ** (x - max) divided by its sum, along `axis`."""
        return self._op("softmax", x=x, axis=axis)

    # ------------------------------- shapes -------------------------------------

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """The same elements, row-major, as another shape."""
        return self._op("reshape", x=x, shape=shape)

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """Axis i of the result is axis ``perm[i]`` of x."""
        return self._op("transpose", x=x, perm=perm)

    def slice_by_size(self, x: Value, begin: Sequence[int], size: Sequence[int]) -> Value:
        """The block of `size` elements that starts at `begin`.

        A `begin` above 0 on the last axis turns values beyond 4094 into inf on chips before
        A16 (sbryngelson/ANEForge op-quirks): slice along another axis.
        """
        return self._op("slice_by_size", x=x, begin=begin, size=size)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """The values one after the other along `axis`; other axes must agree."""
        return self._op("concat", axis=axis, interleave=False, values=values)

    # ------------------------------- the text -----------------------------------

    def build(self) -> MilText:
        """Write the text. The function may be extended and built again.

        Raises:
            ValueError: no input, no output, or an input that no output depends on.
        """
        if not self._inputs or not self._outputs:
            raise ValueError("build: expected at least one input and one output")
        live = self._live()
        for value in self._inputs:
            if value not in live:
                raise ValueError(f"build: input {value.name!r}: no output depends on it")
        kept = [s for s in self._statements if s.result in live]
        constants = [s for s in kept if s.op == "const"]
        operations = [s for s in kept if s.op != "const"]
        params = ", ".join(f"{self._type_text(v.type)} {v.name}" for v in self._inputs)
        lines = [f"    func main<{self._dialect.target}>({params}) {{"]
        lines += [f"        {self._const_text(s)}" for s in constants]
        lines += [f"        {self._operation_text(s)}" for s in operations]
        lines += [f"    }} -> ({', '.join(v.name for v in self._outputs)});"]
        return MilText(
            text=self._dialect.head + "{\n" + "\n".join(lines) + "\n}\n",
            inputs={v.name: v.shape for v in self._inputs},
            outputs={v.name: v.shape for v in self._outputs},
            weights={s.blob: s.source for s in constants if s.blob is not None},
            operations=len(operations),
        )

    def _live(self) -> set[Value]:
        """All values the outputs depend on."""
        live: set[Value] = set()
        todo = list(self._outputs)
        while todo:
            value = todo.pop()
            if value in live:
                continue
            live.add(value)
            if value._statement is not None:
                for operand in value._statement.operands.values():
                    todo.extend(operand if isinstance(operand, tuple) else (operand,))
        return live

    def _type_text(self, type_: Type) -> str:
        if not type_.shape:
            return self._dialect.scalar.format(type_.dtype)
        return f"tensor<{type_.dtype}, [{', '.join(map(str, type_.shape))}]>"

    def _scalar_text(self, dtype: str, literal: str) -> str:
        return f"{self._dialect.scalar.format(dtype)}({literal})"

    def _const_text(self, s: _Statement) -> str:
        type_text = self._type_text(s.result.type)
        if s.blob is not None:
            path = self._scalar_text("string", f'"{s.blob}"')
            offset = self._scalar_text("uint64", str(BLOB_OFFSET))
            literal = f"BLOBFILE(path={path}, offset={offset})"
        elif s.result.type.shape:
            literal = f"[{', '.join(map(_literal, s.literal))}]"
        else:
            literal = _literal(s.literal)
        name = self._scalar_text("string", f'"{s.result.name}"')
        return f"{type_text} {s.result.name} = const()[name={name}, val={type_text}({literal})];"

    def _operation_text(self, s: _Statement) -> str:
        arguments = ", ".join(
            f"{key}=({', '.join(v.name for v in operand)})"
            if isinstance(operand, tuple)
            else f"{key}={operand.name}"
            for key, operand in s.operands.items()
        )
        name = self._scalar_text("string", f'"{s.result.name}"')
        type_text = self._type_text(s.result.type)
        return f"{type_text} {s.result.name} = {s.op}({arguments})[name={name}];"

    # ------------------------------- inside -------------------------------------

    def _op(self, op: str, **given: Any) -> Value:
        """Add one operation: operands by the table's kinds, result by the table's rule."""
        row = OPS[op]
        call = Call(op)
        operands: dict[str, Value | tuple[Value, ...]] = {}
        number_type = self._number_type(op, row, given)
        for key, kind in row.operands.items():
            operands[key] = self._operand(call, key, kind, given[key], number_type)
        type_ = row.rule(call)
        value = Value(self, self._auto_name(op), type_)
        self._add(_Statement(value, op, operands))
        return value

    def _operand(
        self, call: Call, key: str, kind: Kind, given: Any, number_type: str
    ) -> Value | tuple[Value, ...]:
        where = f"{call.op}: operand {key!r}"
        if kind == "TENSORS":
            values = tuple(self._own(call.op, key, v) for v in given)
            call.tuples[key] = [v.type for v in values]
            return values
        if kind == "TENSOR" or (kind == "NUMBER" and isinstance(given, Value)):
            value = self._own(call.op, key, given)
        elif kind == "NUMBER":
            if isinstance(given, bool) or not isinstance(given, (int, float)):
                got = type(given).__name__
                raise TypeError(f"{where}: expected a Value or a number, got {got}")
            try:
                value = self._constant(Type(number_type, ()), _checked_fp16(float(given)))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        else:
            call.constants[key] = python = _checked_constant(where, kind, given)
            return self.const(python)
        call.types[key] = value.type
        return value

    def _number_type(self, op: str, row: Op, given: dict[str, Any]) -> str:
        """dtype of Python numbers: that of the first Value among the NUMBER operands."""
        numbers = [key for key, kind in row.operands.items() if kind == "NUMBER"]
        for key in numbers:
            if isinstance(given[key], Value):
                dtype: str = given[key].type.dtype
                return dtype
        if numbers:
            raise TypeError(f"{op}: operand {numbers[0]!r}: expected a Value on one side at least")
        return "fp16"

    def _own(self, op: str, key: str, value: object) -> Value:
        if not isinstance(value, Value):
            got = type(value).__name__
            raise TypeError(f"{op}: operand {key!r}: expected a Value, got {got}")
        if value._function is not self:
            raise ValueError(f"{op}: operand {key!r}: expected a Value of this function")
        return value

    def _constant(self, type_: Type, literal: Any) -> Value:
        # repr tells -0.0 from 0.0 and True from 1
        key = (type_.dtype, type_.shape, repr(literal))
        found = self._constants.get(key)
        if found is None:
            found = Value(self, self._constant_name(type_, literal), type_)
            self._constants[key] = found
            self._add(_Statement(found, "const", {}, literal=literal))
        return found

    def _constant_name(self, type_: Type, literal: Any) -> str:
        """A readable name: bool_false, str_valid, int32_1_64_1, fp16_0."""
        if type_.dtype == "bool":
            return self._take_name(f"bool_{_literal(literal)}")
        if type_.dtype == "string":
            stem = "str_" + re.sub(r"[^a-z0-9]", "_", literal.lower())
        elif type_.dtype == "int32":
            items = literal if type_.shape else (literal,)
            stem = "_".join(["int32", *(str(v).replace("-", "m") for v in items)])
            stem = stem + "_v" if type_.shape == (1,) else stem
        else:
            return self._auto_name(type_.dtype)
        return self._take_name(stem) if stem not in self._names else self._auto_name(stem)

    def _auto_name(self, stem: str) -> str:
        while True:
            n = self._counters.get(stem, 0)
            self._counters[stem] = n + 1
            if f"{stem}_{n}" not in self._names:
                return self._take_name(f"{stem}_{n}")

    def _take_name(self, name: str) -> str:
        if not _IDENTIFIER.fullmatch(name) or _PORT.match(name):
            expected = "[a-z][a-z0-9_]*, not like a port (i00_…)"
            raise ValueError(f"name: expected {expected}, got {name!r}")
        if name in OPS or _WORD.fullmatch(name):
            raise ValueError(f"name: expected none of the words of MIL, got {name!r}")
        if name in self._names:
            raise ValueError(f"name: expected a new one, got {name!r} again")
        self._names.add(name)
        return name

    def _port_name(self, kind: str, index: int, name: str) -> str:
        if not _IDENTIFIER.fullmatch(name):
            raise ValueError(f"port name: expected [a-z][a-z0-9_]*, got {name!r}")
        if index > 99:
            raise ValueError(f"port {name!r}: expected at most 100 of a kind")
        return f"{kind}{index:02d}_{name}"

    def _checked_shape(self, where: str, shape: Sequence[int]) -> Shape:
        result = tuple(int(n) for n in shape)
        if not 1 <= len(result) <= MAX_RANK or min(result) < 1:
            expected = f"1 to {MAX_RANK} axes, each >= 1"
            raise ValueError(f"{where}: shape: expected {expected}, got {list(result)}")
        return result

    def _add(self, statement: _Statement) -> None:
        statement.result._statement = statement
        self._statements.append(statement)


# =============================== Literals =======================================


def _checked_fp16(value: float) -> float:
    """`value` rounded to fp16 (nearest even)."""
    with np.errstate(over="ignore", under="ignore"):
        half = float(np.float16(value))
    if not math.isfinite(half) or (half == 0.0) != (value == 0.0):
        raise ValueError(f"expected a number fp16 can hold (0, 6e-8 to {FP16_MAX:g}), got {value}")
    return half


def _checked_int32(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"const: expected an int, got {type(value).__name__}")
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"const: expected an int32, got {value}")
    return int(value)


def _checked_constant(where: str, kind: Kind, given: Any) -> Any:
    """A constant operand as plain bool, int, str or tuple of int."""
    is_int = isinstance(given, (int, np.integer)) and not isinstance(given, bool)
    if kind == "BOOL" and isinstance(given, bool):
        return given
    if kind == "STRING" and isinstance(given, str):
        return given
    if kind == "INT" and is_int:
        return int(given)
    if kind == "INTS" and isinstance(given, (list, tuple)):
        if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in given):
            return tuple(int(v) for v in given)
        raise TypeError(f"{where}: expected a sequence of int, got {given!r}")
    words = {"BOOL": "bool", "STRING": "str", "INT": "int", "INTS": "a sequence of int"}
    raise TypeError(f"{where}: expected {words[kind]}, got {type(given).__name__}")


def _literal(value: bool | float | str) -> str:
    """One element as MIL writes it; fp16 as a decimal that is exact in fp16 and in fp32."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return np.format_float_positional(value, unique=True, trim="0")
