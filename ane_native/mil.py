# SPDX-License-Identifier: MIT
"""Write MIL text: one method per operation, every shape computed, never typed by hand.

A :class:`Graph` collects operations and ends in :meth:`Graph.build`, whose
:class:`MilText` holds what :class:`ane_native.kernel.Kernel` needs: the text, the ports
with their shapes, and which weight goes into which blob file. The writer knows MIL's
grammar and the shape rules of its operations; it knows nothing of an engine, of its
limits or of a model. Operations are rows of one table (:data:`OPS`), each a method of the
graph and a function of this module; values have numpy's operators (docs/BUILDER.md).

What the text looks like follows what compilers of Neural Engine programs were seen to
accept (maderix/ANE, mechramc/Orion, sbryngelson/ANEForge):

* Two dialects. ``"A"``: ``program(1.3)``, target ios18, scalar types such as ``int32(1)``.
  ``"B"``: ``program(1.0)``, target ios16, ``tensor<int32, []>(1)``; some M1 and M2 machines
  take only this one (maderix/ANE pull request 6). A text never mixes them.
* Operands are identifiers: each bool, integer and string becomes a named constant
  (mechramc/Orion README: literals are refused), written once however often it is used.
* Symbols are bound in the order of their names, not in the order of declaration, so ports
  are called ``i00_x``, ``i01_y``, ``o00_z`` (and ``ix0100_x`` after the first hundred): both
  orders are then the same.
* A result nobody needs is refused by the compiler when it is returned (Orion), so
  operations no output depends on are left out.

Example:
    >>> g = Graph()
    >>> x = g.input("x", (1, 64, 1, 32))
    >>> w = g.weight("w", (16, 64), "layer.weight")
    >>> g.output("y", w @ x * 0.5)
    >>> mil = g.build()
    >>> mil.inputs, mil.outputs
    ({'i00_x': (1, 64, 1, 32)}, {'o00_y': (1, 16, 1, 32)})
    >>> mil.weights
    {'@model_path/weights/w_v.bin': 'layer.weight'}
    >>> [line.split(" = ")[1] for line in mil.text.splitlines() if "mul(" in line]
    ['mul(x=conv_0, y=fp16_0)[name=string("o00_y")];']
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ane_native import mil_calls
from ane_native.mil_calls import *  # noqa: F403
from ane_native.mil_literal import (
    checked_constant,
    checked_fp16,
    checked_int32,
    default_of,
    literal_text,
    number_dtype,
)
from ane_native.mil_ops import DEEP_RANK, DTYPES, Call, Rule, Shape, Type, checked_shape
from ane_native.mil_rules import RULES as MATH_RULES
from ane_native.mil_rules import binary, compare, reduce, same
from ane_native.mil_rules_shape import RULES as SHAPE_RULES
from ane_native.mil_table import TABLE as OPS
from ane_native.mil_table import OperandRow, OpRow
from ane_native.mil_text import (
    DIALECTS,
    Dialect,
    MilText,
    Statement,
    Text,
    WeightSource,
)
from ane_native.mil_value import Operand, Value

if TYPE_CHECKING:
    from ane_native.partition import Plan

__all__ = [
    "OPS",
    "Dialect",
    "Function",
    "Graph",
    "MilText",
    "Operand",
    "Statement",
    "Type",
    "Value",
    "label",
    "parse",
    "partition",
]
__all__ += mil_calls.__all__


def _rule(op: str, row: OpRow) -> Rule:
    if op in MATH_RULES or op in SHAPE_RULES:
        return MATH_RULES.get(op) or SHAPE_RULES[op]
    if row.operands[-1].key == "keep_dims":
        return reduce
    if row.group == "Two operands":
        compared = op in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal")
        return compare if compared else binary
    return same


_RULES: dict[str, Rule] = {op: _rule(op, row) for op, row in OPS.items()}

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_PORT = re.compile(r"[io](?:[0-9]{2}|x[0-9]{4})_")
_WORD = re.compile(
    "fp16|fp32|u?int(8|16|32|64)|bool|string|tensor|dict|program|func|const|main|true|false"
)

# =============================== The writer =====================================


class Graph(mil_calls.Operations):
    """Collects operations and writes them as the MIL function ``main``.

    Methods named after operations return the :class:`Value` of the result (a tuple of them for
    ``split`` and ``topk``). Where a method takes an ``Operand``, a Python number stands for a
    scalar constant; where it takes a value, an array stands for a constant in the text. A
    mistake raises at the call that makes it: TypeError for an operand of the wrong kind,
    ValueError for a wrong shape, dtype, name or number; both name operation, operand, what was
    expected and what was got.

    Args:
        dialect: ``"A"`` (default) or ``"B"``; see the module's text.
        allow_refused: True lets operations pass that the engine was seen to refuse.

    Attributes:
        inputs, outputs: values, in declared order. adjoints: the inputs that are gradients.
        statements: constants and operations, in the order they were added.
    """

    def __init__(self, dialect: Dialect = "A", *, allow_refused: bool = False) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect: expected 'A' or 'B', got {dialect!r}")
        self.dialect: Dialect = dialect
        self.allow_refused = allow_refused
        self.function_name, self.target = "main", DIALECTS[dialect].target
        self._names: set[str] = set()
        self.inputs: list[Value] = []
        self.adjoints: set[Value] = set()
        self.outputs: list[Value] = []
        self.statements: list[Statement] = []
        self._constants: dict[tuple[str, Shape, object], Value] = {}
        self._counters: dict[str, int] = {}

    # ------------------------------- ports --------------------------------------

    def input(
        self, name: str, shape: Sequence[int], dtype: str = "fp16", *, adjoint: bool = False
    ) -> Value:
        """Declare the next input port.

        Args:
            name: what it is; the port is called ``i00_name``, ``i01_name``, …
            shape: outermost axis first, e.g. ``(1, channels, 1, tokens)``.
            dtype: ``"fp16"`` or ``"fp32"``; fp32 must be cast before anything computes with it.
            adjoint: it is a gradient, and the graph is linear in it.
        """
        port = self._port_name("i", len(self.inputs), name)
        if dtype not in ("fp16", "fp32"):
            raise ValueError(f"input {name!r}: expected dtype fp16 or fp32, got {dtype!r}")
        value = Value(self, port, Type(dtype, checked_shape("input", shape)))
        self.inputs.append(value)
        if adjoint:
            self.adjoints.add(value)
        return value

    def output(self, name: str, value: Value) -> None:
        """Declare the next output port: `value` under the name ``o00_name``, ``o01_name``, …

        Raises:
            ValueError: `value` is an input, a constant, already an output, or not fp16.
        """
        self._own("output", "value", value)
        if value.statement is None or value.is_constant or value in self.outputs:
            got = "an output already" if value in self.outputs else "an input or a constant"
            expected = "the result of an operation, once"
            raise ValueError(f"output {name!r}: expected {expected}, got {value!r}, {got}")
        if value.type.dtype not in ("fp16", "fp32"):
            raise ValueError(f"output {name!r}: expected dtype fp16, got {value.type}")
        value.name = self._port_name("o", len(self.outputs), name)
        self.outputs.append(value)

    # ------------------------------- constants ----------------------------------

    def const(
        self,
        value: bool | float | str | Sequence[int] | npt.NDArray[Any],
        dtype: str | None = None,
    ) -> Value:
        """A constant written into the text; equal ones are written once.

        Args:
            value: bool, int (int32), float (fp16), str, a sequence of int (int32), or an
                array (floats become fp16; for small tables; use :meth:`weight` for large ones).
            dtype: MIL's word, where it is to be another one.

        Raises:
            ValueError: a float that fp16 cannot hold: not finite, above 65504, or not zero
                but rounded to zero; a string that is no printable ASCII.
        """
        if isinstance(value, str):
            if not re.fullmatch(r"[ -!#-\[\]-~]*", value):
                raise ValueError(f"const: expected printable ASCII without quotes, got {value!r}")
            return self._constant(Type("string", ()), value)
        if isinstance(value, bool):
            return self._constant(Type("bool", ()), value)
        if isinstance(value, int) and dtype in (None, "int32"):
            return self._constant(Type("int32", ()), checked_int32(value))
        if isinstance(value, float) and dtype in (None, "fp16"):
            return self._constant(Type("fp16", ()), checked_fp16(value))
        array = np.asarray(value)
        if dtype is None:
            kinds = {"f": "fp16", "i": "int32", "u": "int32", "b": "bool"}
            exact = {"uint8": "uint8", "int8": "int8", "uint16": "uint16", "int16": "int16"}
            dtype = exact.get(array.dtype.name) if isinstance(value, np.ndarray) else None
            dtype = dtype or kinds.get(array.dtype.kind)
        if dtype not in DTYPES or dtype == "string":
            raise TypeError(f"const: expected numbers or bools, got {array.dtype}")
        flat: tuple[Any, ...]
        if dtype == "fp16":
            flat = tuple(checked_fp16(float(v)) for v in array.reshape(-1))
        elif dtype == "int32":
            flat = tuple(checked_int32(v) for v in array.reshape(-1))
        else:
            flat = tuple(v.item() for v in array.astype(DTYPES[dtype]).reshape(-1))
        if not array.shape:
            return self._constant(Type(dtype, ()), flat[0])
        return self._constant(Type(dtype, checked_shape("const", array.shape, DEEP_RANK)), flat)

    def weight(self, name: str, shape: Sequence[int], source: WeightSource | None = None) -> Value:
        """An fp16 constant read from its own blob file ``@model_path/weights/<name>.bin``.

        One file per tensor is the portable choice: files with several blobs fail on M1
        (maderix/ANE benchmarks/ANE_BENCHMARK_REPORT.md).

        Args:
            name: identifier and file name, unique in this function. Without a `source` it is
                the name of the weight, of any spelling, and asking again gives the same value.
            shape: as the operation sees it, e.g. ``(out, in, 1, 1)`` for a 1x1 convolution.
            source: what is baked: the name of a weight, a :class:`ane_native.kernel.Weight`,
                or a constant array with as many elements as `shape` (stored as float16).

        Raises:
            ValueError: the name is taken or malformed; an array of another size, or one
                whose values fp16 cannot hold.
        """
        type_ = Type("fp16", checked_shape(f"weight {name!r}", shape))
        identifier = name
        if source is None:
            source = name
            identifier = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
            if (
                not _IDENTIFIER.fullmatch(identifier)
                or identifier in OPS
                or _PORT.match(identifier)
            ):
                identifier = "w_" + identifier
            for s in self.statements:
                if isinstance(s.source, str) and s.source == name and s.results[0].type == type_:
                    return s.results[0]
            identifier = self._free(identifier)
        elif isinstance(source, np.ndarray):
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
        value = Value(self, self._take_name(identifier), type_)
        path = f"@model_path/weights/{identifier}.bin"
        self._add(Statement("const", (value,), blob=path, source=source))
        return value

    def weight_source(self, value: Value) -> tuple[str, bool] | None:
        """(name, transposed) of a value baked from a named weight, else None."""
        s = value.statement
        if s is None or s.blob is None or isinstance(s.source, np.ndarray) or s.source is None:
            return None
        if isinstance(s.source, str):
            return s.source, False
        return s.source.name, s.source.transpose

    def weight_view(self, value: Value, shape: Sequence[int], *, transpose: bool = False) -> Value:
        """A weight again in another shape, or its transpose [shape[0], rest] baked.

        Raises:
            ValueError: `value` is not baked from a named weight.
        """
        from ane_native.kernel import Weight

        found = self.weight_source(value)
        if found is None:
            raise ValueError(f"weight_view: expected a weight, got {value!r}")
        name, transposed = found
        source = Weight(name, transpose=transposed != transpose)
        type_ = Type("fp16", checked_shape("weight_view", shape))
        for s in self.statements:
            if s.blob is None or s.results[0].type != type_:
                continue
            if self.weight_source(s.results[0]) == (source.name, source.transpose):
                return s.results[0]
        stem = value.name + ("_t" if transpose else "_v")
        return self.weight(self._free(stem), shape, source if source.transpose else name)

    def transposed_weight(self, value: Value) -> Value | None:
        """The transpose of a rank-2 weight as another weight; None when it is none."""
        if self.weight_source(value) is None:
            return None
        return self.weight_view(value, value.shape[::-1], transpose=True)

    def channel_product(self, weight: Value, x: Value) -> Value:
        """y[n,o,h,w] = sum_i weight[o,i] x[n,i,h,w]: a 1x1 convolution.

        Args:
            weight: [O, I], a constant. x: [N, I, H, W].
        """
        shape = (*weight.shape, 1, 1)
        if self.weight_source(weight) is not None:
            return self.conv(x, self.weight_view(weight, shape))
        s = weight.statement
        if s is not None and s.blob is not None and isinstance(s.source, np.ndarray):
            name = self._free(weight.name + "_v")
            return self.conv(x, self.weight(name, shape, s.source))
        return self.conv(x, self.reshape(weight, shape))

    # ------------------------------- the text -----------------------------------

    def build(self, dialect: Dialect | None = None) -> MilText:
        """Write the text. The graph may be extended and built again.

        Args:
            dialect: other than the one the graph was made with.

        Raises:
            ValueError: no input, no output, or an input that no output depends on.
        """
        if not self.inputs or not self.outputs:
            raise ValueError("build: expected at least one input and one output")
        live = self.live()
        for value in self.inputs:
            if value not in live:
                raise ValueError(f"build: input {value.name!r}: no output depends on it")
        spelling = DIALECTS[dialect or self.dialect]
        kept = [s for s in self.statements if any(v in live for v in s.results)]
        text = Text(spelling, kept)
        target = self.target if dialect in (None, self.dialect) else spelling.target
        body = text.function(self.function_name, target, self.inputs, self.outputs)
        blobs = {s.blob: s for s in kept if s.blob is not None}
        return MilText(
            text=spelling.head + "{\n" + body + "}\n",
            inputs={v.name: v.shape for v in self.inputs},
            outputs={v.name: v.shape for v in self.outputs},
            weights={path: s.source for path, s in blobs.items()},
            operations=sum(not s.is_constant for s in kept),
            blobs={path: (s.results[0].type, s.offset) for path, s in blobs.items()},
            adjoints=frozenset(v.name for v in self.adjoints),
        )

    def live(self, outputs: Sequence[Value] | None = None) -> set[Value]:
        """All values that `outputs` (the declared ones by default) depend on."""
        live: set[Value] = set()
        todo = list(self.outputs if outputs is None else outputs)
        while todo:
            value = todo.pop()
            if value in live:
                continue
            live.add(value)
            if value.statement is not None:
                todo.extend(value.statement.tensors())
        return live

    # ------------------------------- from other graphs --------------------------

    def input_like(self, name: str, value: Value, *, adjoint: bool = False) -> Value:
        """Declare the next input port, of the type of `value`; scalars too, which parsed
        programs may put out."""
        made = self.input(name, value.shape or (1,), value.dtype, adjoint=adjoint)
        made.type = value.type
        return made

    def add_copy(self, s: Statement, at: dict[Value, Value]) -> None:
        """Add statement `s` of another graph; `at` maps its values to ours, and is extended."""
        if s.op == "const" and s.blob is None:
            at[s.results[0]] = self._constant(s.results[0].type, s.literal)
            return
        if s.op == "const":
            old = s.results[0]
            for t in self.statements:
                if t.blob == s.blob and t.offset == s.offset and t.results[0].type == old.type:
                    at[old] = t.results[0]
                    return
            made = Value(self, self._free(old.name), old.type)
            self._names.add(made.name)
            self._add(Statement("const", (made,), blob=s.blob, offset=s.offset, source=s.source))
            at[old] = made
            return
        given = {
            k: tuple(at[x] for x in v) if isinstance(v, tuple) else at[v]
            for k, v in s.operands.items()
        }
        made_here = self.add_operation(s.op, given, fill=False, attributes=s.attributes)
        made_here[0].statement.back = s.back  # type: ignore[union-attr]
        for old, new in zip(s.results, made_here, strict=True):
            at[old] = new

    def add_constants(self, value: Value, at: dict[Value, Value]) -> None:
        """Copy what a value of another graph is made of, down to what `at` knows."""
        if value in at or value.statement is None:
            return
        for operand in value.statement.tensors():
            self.add_constants(operand, at)
        self.add_copy(value.statement, at)

    # ------------------------------- inside -------------------------------------

    def _op(self, op: str, **given: Any) -> Value:
        return self.add_operation(op, given)[0]

    def _op_many(self, op: str, **given: Any) -> tuple[Value, ...]:
        return self.add_operation(op, given)

    def add_operation(
        self,
        op: str,
        given: Mapping[str, Any],
        *,
        fill: bool = True,
        names: Sequence[str] | None = None,
        attributes: frozenset[str] = frozenset(),
    ) -> tuple[Value, ...]:
        """Add one operation by name: operands by the table's kinds, results by its rule.

        Args:
            op: a key of :data:`OPS`.
            given: operand -> value; None is absent.
            fill: write defaults of absent operands where engines were seen to want them.
            names: of the results, where they are to be others than generated ones.
            attributes: operands that are written as attributes (compressed constants).
        """
        row = OPS.get(op)
        if row is None:
            raise ValueError(f"operation: expected one of {len(OPS)} known ones, got {op!r}")
        if row.refused and not self.allow_refused:
            raise ValueError(
                f"{op}: refused by the engine: {row.refused}; Graph(allow_refused=True) lets it pass"
            )
        call = Call(op, allow_refused=self.allow_refused)
        known = {o.key: o for o in row.operands}
        for key, value in given.items():
            if key not in known and value is not None:
                raise TypeError(f"{op}: operand {key!r}: expected one of {list(known)}")
            if value is not None and known[key].kind == "REFUSED":
                raise ValueError(f"{op}: operand {key!r}: {known[key].hint}")
        operands: dict[str, Value | tuple[Value, ...]] = {}
        self._need_value(op, row, given)
        pending: list[OperandRow] = []
        for o in row.operands:
            value = given.get(o.key)
            if value is None and o.required:
                raise TypeError(f"{op}: operand {o.key!r}: missing")
            if value is None:
                pending.append(o)
                continue
            operands[o.key] = self._operand(call, o, value)
        for o in pending if fill else ():
            value = default_of(call, o)
            if value is not None:
                operands[o.key] = self._operand(call, o, value)
        made = _RULES[op](call)
        types = made if isinstance(made, list) else [made]
        if names is not None and len(names) != len(types):
            raise ValueError(f"{op}: expected {len(types)} results, got {len(names)}")
        for t in types:
            checked_shape(op, t.shape, least=0)
        labels = [self._auto_name(op) for _ in types] if names is None else list(names)
        results = tuple(Value(self, n, t) for n, t in zip(labels, types, strict=True))
        ordered = {o.key: operands[o.key] for o in row.operands if o.key in operands}
        self._add(Statement(op, results, ordered, call.constants, attributes=attributes))
        return results

    def _need_value(self, op: str, row: OpRow, given: Mapping[str, Any]) -> None:
        """Numbers alone tell no type."""
        keys = [o.key for o in row.operands if o.kind == "OPERAND"]
        plain = [isinstance(given.get(k), (Value, np.ndarray)) for k in keys]
        if keys and not any(plain):
            raise TypeError(f"{op}: operand {keys[0]!r}: expected a Value on one side at least")

    def _operand(self, call: Call, o: OperandRow, given: Any) -> Value | tuple[Value, ...]:
        where = f"{call.op}: operand {o.key!r}"
        if o.kind == "TENSORS":
            values = tuple(self._own(call.op, o.key, v) for v in given)
            for v in values:
                self._check_dtype(call.op, o, v)
            call.tuples[o.key] = [v.type for v in values]
            return values
        if o.kind in ("TENSOR", "CONST", "OPERAND"):
            return self._tensor(call, o, given, where)
        if isinstance(given, Value):  # a parsed constant
            value = self._own(call.op, o.key, given)
            s = value.statement
            if s is None or s.op != "const" or s.blob is not None:
                raise TypeError(f"{where}: expected a constant of the text, got {value!r}")
            literal = s.literal
            if o.kind == "PAIRS":
                literal = np.asarray(literal).reshape(value.shape).tolist()
            elif o.kind == "FLOAT" and not isinstance(literal, bool):
                literal = float(literal)
            elif o.kind in ("INT", "INTS") and value.dtype in ("fp16", "fp32", "bool", "string"):
                raise TypeError(f"{where}: expected integers, got {value.type}")
            call.constants[o.key] = checked_constant(where, o, literal)
            if o.kind == "NUMBER":
                self._check_dtype(call.op, o, value)
                call.constants[f"{o.key}.dtype"] = value.dtype
            return value
        call.constants[o.key] = python = checked_constant(where, o, given)
        if o.kind == "NUMBER":
            dtype = number_dtype(python, o)
            call.constants[f"{o.key}.dtype"] = dtype
            return self.const(float(python) if dtype == "fp16" else python)
        if o.kind == "FLOAT":
            try:
                call.constants[o.key] = checked_fp16(python)
                return self.const(python)
            except ValueError:  # 1e-12 is zero in fp16
                return self.const(np.float32(python), dtype="fp32")
        if o.kind == "MASK":
            return self.const(np.array(python, bool))
        if o.kind == "PAIRS":
            return self.const(np.array(python, np.int32))
        return self.const(python)

    def _tensor(self, call: Call, o: OperandRow, given: Any, where: str) -> Value:
        if isinstance(given, np.ndarray):
            value = self.const(given)
        elif isinstance(given, Value) or o.kind != "OPERAND":
            value = self._own(call.op, o.key, given)
        elif isinstance(given, bool) or not isinstance(given, (int, float, np.number)):
            got = type(given).__name__
            raise TypeError(f"{where}: expected a Value or a number, got {got}")
        else:
            try:
                value = self.const(float(given))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
        self._check_dtype(call.op, o, value)
        if value.is_constant:
            call.baked.add(o.key)
            s = value.statement
            if s is not None and s.literal is not None and value.dtype not in ("fp16", "fp32"):
                call.arrays[o.key] = np.asarray(s.literal).reshape(value.shape)
        elif o.kind == "CONST":
            raise ValueError(f"{where}: expected a constant, got the computed {value!r}")
        call.types[o.key] = value.type
        return value

    def _check_dtype(self, op: str, o: OperandRow, value: Value) -> None:
        if o.dtypes and value.dtype not in o.dtypes:
            want = " or ".join(o.dtypes)
            raise ValueError(f"{op}: operand {o.key!r}: expected dtype {want}, got {value.type}")
        most = DEEP_RANK if o.deep else 5
        if value.ndim > most:
            raise ValueError(
                f"{op}: operand {o.key!r}: expected rank at most {most}, got {value.type}"
            )

    def _own(self, op: str, key: str, value: object) -> Value:
        if not isinstance(value, Value):
            got = type(value).__name__
            raise TypeError(f"{op}: operand {key!r}: expected a Value, got {got}")
        if value.graph is not self:
            raise ValueError(f"{op}: operand {key!r}: expected a Value of this function")
        return value

    def _constant(self, type_: Type, literal: Any) -> Value:
        # repr tells -0.0 from 0.0 and True from 1
        key = (type_.dtype, type_.shape, repr(literal))
        found = self._constants.get(key)
        if found is None:
            found = Value(self, self._constant_name(type_, literal), type_)
            self._constants[key] = found
            self._add(Statement("const", (found,), literal=literal))
        return found

    def _constant_name(self, type_: Type, literal: Any) -> str:
        """A readable name: bool_false, str_valid, int32_1_64_1, fp16_0."""
        if type_.dtype == "bool" and not type_.shape:
            return self._take_name(self._free(f"bool_{literal_text(literal)}"))
        if type_.dtype == "string":
            stem = "str_" + re.sub(r"[^a-z0-9]", "_", literal.lower())
        elif type_.dtype == "int32" and len(type_.shape) < 2 and type_.count <= 16:
            items = literal if type_.shape else (literal,)
            stem = "_".join(["int32", *(str(v).replace("-", "m") for v in items)])
            stem = stem + "_v" if type_.shape == (1,) else stem
        else:
            return self._auto_name(type_.dtype)
        return self._take_name(stem) if stem not in self._names else self._auto_name(stem)

    def _free(self, name: str) -> str:
        """`name`, with a number behind it when it is taken."""
        made, n = name, 1
        while made in self._names:
            n += 1
            made = f"{name}_{n}"
        return made

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
        if index > 9999:
            raise ValueError(f"port {name!r}: expected at most 10000 of a kind")
        return f"{kind}{index:02d}_{name}" if index < 100 else f"{kind}x{index:04d}_{name}"

    def _add(self, statement: Statement) -> None:
        for value in statement.results:
            value.statement = statement
        self.statements.append(statement)

    def __repr__(self) -> str:
        made = sum(not s.is_constant for s in self.statements)
        return (
            f"<Graph of {made} operations, {len(self.inputs)} inputs, {len(self.outputs)} outputs>"
        )


def label(port: Value | str) -> str:
    """What a port was declared as: its name without ``i00_`` (from the 101st on ``ix0100_``)."""
    name = port if isinstance(port, str) else port.name
    found = _PORT.match(name)
    return name[found.end() :] if found else name.lower()


Function = Graph  # the older name; MIL's word for what a graph writes


def parse(text: str) -> dict[str, Graph]:
    """The functions of a MIL program as graphs, by name; see :mod:`ane_native.mil_parse`.

    Raises:
        ane_native.mil_parse.MilSyntaxError: with line and column.
        ValueError, TypeError: an operation whose operands do not fit, or whose declared type is not
            the one that follows from them.
    """
    from ane_native.mil_parse import parse as read

    return read(text)


def partition(graph: Graph, **how: Any) -> Plan:
    """Cut a graph into kernels; see :func:`ane_native.partition.partition` and docs/PARTITION.md."""
    from ane_native.partition import partition as cut

    return cut(graph, **how)
