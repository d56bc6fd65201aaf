# SPDX-License-Identifier: MIT
"""Statements of a MIL function, their spelling in both dialects, and the finished text."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native import mil_blob
from ane_native.mil_literal import literal_text
from ane_native.mil_ops import DTYPES, Shape, Type
from ane_native.mil_table import TABLE
from ane_native.mil_value import Value

if TYPE_CHECKING:
    from ane_native.kernel import Weight

__all__ = ["BLOB_OFFSET", "DIALECTS", "Dialect", "MilText", "Statement", "Text", "WeightSource"]

Dialect: TypeAlias = Literal["A", "B"]
WeightSource: TypeAlias = "str | Weight | npt.NDArray[Any]"

BLOB_OFFSET = 64  # of the first blob's metadata; 128 reads garbage: mechramc/Orion issue 8

# =============================== Results ========================================


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
        adjoints: input ports that are gradients.
    """

    text: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    weights: dict[str, WeightSource]
    operations: int
    blobs: dict[str, tuple[Type, int]] = field(default_factory=dict)
    adjoints: frozenset[str] = frozenset()

    def save(self, folder: str | os.PathLike[str], weights: Mapping[str, npt.NDArray[Any]]) -> Path:
        """Write ``model.mil`` and the blob files beside it, as compilers read them.

        Args:
            folder: made when it is not there.
            weights: name -> array of every named weight; rounded to fp16 as the bake does.

        Returns:
            Path of the text.

        Raises:
            ValueError: a weight is missing or has another size.
        """
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        for path, source in self.weights.items():
            type_, _ = self.blobs[path]
            array = baked(source, type_, weights)
            target = root / path.removeprefix("@model_path/")
            target.parent.mkdir(parents=True, exist_ok=True)
            mil_blob.write(target, [(type_.dtype, array)])
        text = root / "model.mil"
        text.write_text(self.text, encoding="utf-8")
        return text


def baked(
    source: WeightSource, type_: Type, weights: Mapping[str, npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """The elements of a blob, in the dtype of its constant."""
    if isinstance(source, np.ndarray):
        array = source
    else:
        name = source if isinstance(source, str) else source.name
        if name not in weights:
            raise ValueError(f"weight {name!r} is not among the {len(weights)} given")
        array = np.asarray(weights[name])
        if not isinstance(source, str) and source.transpose:
            array = array.reshape(array.shape[0], -1).T
        if not isinstance(source, str) and source.scale is not None:
            array = array * np.asarray(weights[source.scale])
    if array.size != type_.count:
        raise ValueError(f"expected {type_.count} elements for {type_}, got {array.size}")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, DTYPES[type_.dtype]).reshape(type_.shape)


# =============================== Dialects =======================================


@dataclass(frozen=True)
class Spelling:
    """How one dialect spells the head of a program and its scalars."""

    head: str
    target: str
    scalar: str  # format of a scalar type, {} = dtype


DIALECTS = {
    "A": Spelling(
        head=(
            "program(1.3)\n"
            "[buildInfo = dict<string, string>({"
            '{"coremlc-component-MIL", "3510.2.1"}, {"coremlc-version", "3505.4.1"}, '
            '{"coremltools-component-milinternal", ""}, {"coremltools-version", "9.0"}})]\n'
        ),
        target="ios18",
        scalar="{}",
    ),
    "B": Spelling(
        head=(
            "program(1.0)\n"
            "[buildInfo = dict<tensor<string, []>, tensor<string, []>>({"
            '{"coremlc-version", "3505.4.1"}})]\n'
        ),
        target="ios16",
        scalar="tensor<{}, []>",
    ),
}

# =============================== Statements =====================================


@dataclass(eq=False)
class Statement:
    """``TYPE name = op(operands)[name=…]``, of several results for some operations.

    Attributes:
        op: the operation, or ``"const"``.
        results: what it makes.
        operands: key -> value, or tuple of values, in the order of the text.
        params: the operands that are constants of Python, by key.
        literal: of a const without a file: Python scalar, text or array.
        blob: of a const from a file: its path; ``offset`` is that of its metadata.
        source: what is baked into that file.
        attributes: keys of operands written as attributes, behind the parentheses.
        back: the rule it is differentiated by (:class:`ane_native.autodiff_base.Back`) in the place
            of its operation's: a layer may know more of its operands. Not in the text.
    """

    op: str
    results: tuple[Value, ...]
    operands: dict[str, Value | tuple[Value, ...]] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    literal: Any = None
    blob: str | None = None
    offset: int = BLOB_OFFSET
    source: Any = None
    attributes: frozenset[str] = frozenset()
    back: Callable[[Any], None] | None = None

    @property
    def is_constant(self) -> bool:
        """A const, or a compressed constant."""
        return self.op == "const" or TABLE[self.op].constexpr

    def tensors(self) -> list[Value]:
        """All operands that are values, constants of Python among them."""
        flat: list[Value] = []
        for operand in self.operands.values():
            flat.extend(operand if isinstance(operand, tuple) else (operand,))
        return flat

    def value(self, key: str) -> Value:
        """The single operand `key`."""
        found = self.operands[key]
        assert isinstance(found, Value)
        return found


# =============================== Text ===========================================


class Text:
    """Spells statements in one dialect."""

    def __init__(self, dialect: Spelling, statements: Sequence[Statement]) -> None:
        self.dialect = dialect
        self.statements = statements

    def function(
        self, name: str, target: str, inputs: Sequence[Value], outputs: Sequence[Value]
    ) -> str:
        params = ", ".join(f"{self.type(v.type)} {v.name}" for v in inputs)
        lines = [f"    func {name}<{target}>({params}) {{"]
        lines += [f"        {self.const(s)}" for s in self.statements if s.op == "const"]
        lines += [f"        {self.operation(s)}" for s in self.statements if s.op != "const"]
        lines += [f"    }} -> ({', '.join(v.name for v in outputs)});"]
        return "\n".join(lines) + "\n"

    def type(self, type_: Type) -> str:
        if not type_.shape:
            return self.dialect.scalar.format(type_.dtype)
        return f"tensor<{type_.dtype}, [{', '.join(map(str, type_.shape))}]>"

    def scalar(self, dtype: str, literal: str) -> str:
        return f"{self.dialect.scalar.format(dtype)}({literal})"

    def constant(self, s: Statement) -> str:
        """TYPE(literal) of a const statement."""
        type_ = s.results[0].type
        if s.blob is not None:
            path = self.scalar("string", f'"{s.blob}"')
            literal = f"BLOBFILE(path={path}, offset={self.scalar('uint64', str(s.offset))})"
        elif type_.shape:
            literal = f"[{', '.join(map(literal_text, s.literal))}]"
        else:
            literal = literal_text(s.literal)
        return f"{self.type(type_)}({literal})"

    def const(self, s: Statement) -> str:
        v = s.results[0]
        name = self.scalar("string", f'"{v.name}"')
        return f"{self.type(v.type)} {v.name} = const()[name={name}, val={self.constant(s)}];"

    def operation(self, s: Statement) -> str:
        arguments = ", ".join(
            f"{key}=({', '.join(v.name for v in operand)})"
            if isinstance(operand, tuple)
            else f"{key}={operand.name}"
            for key, operand in s.operands.items()
        )
        name = self.scalar("string", f'"{s.results[0].name}"')
        results = ", ".join(f"{self.type(v.type)} {v.name}" for v in s.results)
        return f"{results} = {s.op}({arguments})[name={name}];"
