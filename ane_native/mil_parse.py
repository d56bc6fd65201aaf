# SPDX-License-Identifier: MIT
"""MIL text -> graphs: either dialect, as softane's parser reads it (softane/mil/parse.c).

One method per grammar symbol. Names of ports and values stay as they are written; operands
given as attributes become constants with names; operations keep exactly the operands they
have. Every operation passes the rules of the builder, and what the text declares must be
what follows from them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from ane_native.errors import AneError
from ane_native.mil import Graph, Statement
from ane_native.mil_ops import DTYPES, SMALL_BITS, Type, checked_shape
from ane_native.mil_table import TABLE
from ane_native.mil_value import Value

__all__ = ["MilSyntaxError", "parse"]

_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t\r\n]|//[^\n]*)+)
      | (?P<id>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>-?(?:0[xX][0-9A-Fa-f.]*(?:[pP][+-]?[0-9]+)?
                     |(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?))
      | (?P<string>"(?:[^"\\\n\0]|\\["\\nt])*")
      | (?P<arrow>->)
      | (?P<mark>[(){}\[\]<>,=;])""",
    re.VERBOSE,
)


class MilSyntaxError(AneError, ValueError):
    """The text is no MIL; the message begins with line and column, from 1.

    Attributes:
        line, column: of the place, columns in characters.
    """

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"{line}:{column}: {message}")
        self.line, self.column = line, column


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[_Token] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                self.fail(f"unexpected character {text[at]!r}", at)
            if found.lastgroup != "blank":
                self.tokens.append(_Token(str(found.lastgroup), found.group(), at))
            at = found.end()
        self.tokens.append(_Token("end", "", len(text)))
        self.i = 0
        self.dialect = "A"

    # ------------------------------- tokens -------------------------------------

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        at = self.tokens[self.i].at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        raise MilSyntaxError(line, at - self.text.rfind("\n", 0, at), message)

    @property
    def next(self) -> _Token:
        return self.tokens[self.i]

    def take(self, kind: str, what: str) -> str:
        token = self.next
        if token.kind != kind:
            self.fail(f"expected {what}, got {token.text or 'end of text'!r}")
        self.i += 1
        return token.text

    def mark(self, text: str) -> None:
        if self.next.text != text or self.next.kind not in ("mark", "arrow"):
            self.fail(f"expected {text!r}, got {self.next.text or 'end of text'!r}")
        self.i += 1

    def word(self, text: str) -> None:
        if self.next.text != text:
            self.fail(f"expected {text!r}, got {self.next.text or 'end of text'!r}")
        self.i += 1

    def has(self, text: str) -> bool:
        """Move past `text` if it comes next."""
        if self.next.text == text and self.next.kind != "string":
            self.i += 1
            return True
        return False

    # ------------------------------- types, constants ---------------------------

    def type(self) -> Type:
        """tensor<DT, [dims]> | DT."""
        start = self.next.at
        spelled = self.has("tensor")
        if spelled:
            self.mark("<")
        dtype = self.take("id", "a data type")
        if dtype not in DTYPES:
            self.fail(f"unknown data type {dtype!r}", start)
        shape: list[int] = []
        if spelled:
            self.mark(",")
            self.mark("[")
            while not self.has("]"):
                if shape:
                    self.mark(",")
                size = self.take("number", "a dimension")
                if not size.isdecimal():
                    self.fail(f"expected a dimension, got {size!r}")
                shape.append(int(size))
            self.mark(">")
        if not shape and spelled != (self.dialect == "B"):
            self.fail("dialects mixed in the type of a scalar", start)
        if shape and dtype == "string":
            self.fail("tensors of strings are not supported", start)
        try:
            checked_shape("type", shape, most=7, least=0)
        except ValueError as error:
            self.fail(str(error), start)
        return Type(dtype, tuple(shape))

    def string(self) -> str:
        """STR | string(STR)."""
        if self.next.kind != "string":
            if self.type().dtype != "string":
                self.fail("expected a string")
            self.mark("(")
            text = self.string()
            self.mark(")")
            return text
        raw = self.take("string", "a string")[1:-1]
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), raw)

    def value(self) -> tuple[Type, Any, str | None, int]:
        """TYPE(literal | list | BLOBFILE): type, literal or None, path or None, offset."""
        type_ = self.type()
        self.mark("(")
        if self.has("BLOBFILE"):
            path, offset = self.blob()
            if not type_.shape or type_.dtype in ("bool", "uint64"):
                self.fail("BLOBFILE cannot hold this type")
            self.mark(")")
            return type_, None, path, offset
        literal: Any
        if type_.dtype == "string":
            literal = self.string()
        elif not type_.shape:
            literal = self.number(type_.dtype)
        else:
            literal = self.elements(type_)
        self.mark(")")
        return type_, literal, None, 64

    def elements(self, type_: Type) -> tuple[Any, ...]:
        if self.next.text != "[":
            if type_.count != 1:
                self.fail(f"one literal for {type_.count} elements")
            return (self.number(type_.dtype),)
        nested = len(type_.shape) > 1 and self.tokens[self.i + 1].text == "["
        flat: list[Any] = []
        self.items(type_, flat, 0, nested)
        return tuple(flat)

    def items(self, type_: Type, flat: list[Any], level: int, nested: bool) -> None:
        start, count = self.next.at, 0
        want = type_.shape[level] if nested else type_.count
        self.mark("[")
        while not (count == 0 and self.next.text == "]"):
            if nested and level < len(type_.shape) - 1:
                self.items(type_, flat, level + 1, nested)
            else:
                flat.append(self.number(type_.dtype))
            count += 1
            if self.next.text == "]":
                break
            self.mark(",")
        self.mark("]")
        if count != want:
            self.fail(f"list of {count} elements, expected {want}", start)

    def number(self, dtype: str) -> Any:
        token = self.next
        self.i += 1
        if dtype == "bool":
            if token.text not in ("true", "false"):
                self.fail("true or false is needed", token.at)
            return token.text == "true"
        if token.kind != "number":
            self.fail("a number is needed", token.at)
        text = token.text
        hexadecimal = text.lower().lstrip("-").startswith("0x")
        whole = re.fullmatch(r"-?(0[xX][0-9A-Fa-f]+|[0-9]+)", text) is not None
        try:
            if dtype in ("fp16", "fp32"):
                return self.floating(text, dtype, hexadecimal and whole)
            if not whole:
                raise ValueError
            made = int(text, 16 if hexadecimal else 10)
        except ValueError:
            self.fail(f"literal {text!r} for {dtype} is malformed", token.at)
        bits = SMALL_BITS.get(dtype, 8 * np.dtype(DTYPES[dtype]).itemsize)
        signed = dtype.startswith("int")
        low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
        if not low <= made < high:
            self.fail(f"literal {text!r} for {dtype} is out of range", token.at)
        return made

    def floating(self, text: str, dtype: str, bit_pattern: bool) -> float:
        """A decimal, a hexadecimal float, or the bits of an element."""
        if bit_pattern:
            word, most = (np.uint16, 1 << 16) if dtype == "fp16" else (np.uint32, 1 << 32)
            bits = int(text, 16)
            if not 0 <= bits < most:
                raise ValueError
            return float(np.array(bits, word).view(DTYPES[dtype]))
        exact = float.fromhex(text) if text.lower().lstrip("-").startswith("0x") else float(text)
        with np.errstate(over="ignore"):
            rounded = float(DTYPES[dtype](exact))
        if not np.isfinite(rounded):
            raise ValueError
        return rounded

    def blob(self) -> tuple[str, int]:
        path, offset = None, None
        self.mark("(")
        for first in (True, False):
            if not first:
                self.mark(",")
            if self.has("path"):
                self.mark("=")
                path = self.string()
            elif self.has("offset"):
                self.mark("=")
                if self.has("tensor"):
                    self.i -= 1
                    self.type()
                else:
                    self.word("uint64")
                self.mark("(")
                offset = int(self.number("uint64"))
                self.mark(")")
        if path is None or offset is None:
            self.fail("expected path= and offset=")
        self.mark(")")
        return path, offset

    # ------------------------------- statements ---------------------------------

    def results(self) -> list[tuple[Type, str]]:
        """TYPE ID, …"""
        made = [(self.type(), self.take("id", "a name"))]
        while self.has(","):
            made.append((self.type(), self.take("id", "a name")))
        return made

    def new_const(self, g: Graph, name: str, value: tuple[Type, Any, str | None, int]) -> Value:
        type_, literal, path, offset = value
        made = Value(g, name, type_)
        source = None if path is None else path.rsplit("/", 1)[-1].removesuffix(".bin")
        statement = Statement(
            "const", (made,), literal=literal, blob=path, offset=offset, source=source
        )
        g._add(statement)
        return made

    def operand(self, g: Graph, scope: dict[str, Value]) -> Any:
        if self.has("("):
            made = [self.use(scope)]
            while self.has(","):
                made.append(self.use(scope))
            self.mark(")")
            return tuple(made)
        if self.next.text in DTYPES or self.next.text == "tensor":
            value = self.value()
            if value[0].shape or value[0].dtype not in ("fp16", "fp32"):
                self.fail("expected the name of a const, got an inline literal")
            return self.new_const(g, g._auto_name("inline"), value)
        return self.use(scope)

    def use(self, scope: dict[str, Value]) -> Value:
        at = self.next.at
        name = self.take("id", "an identifier")
        if name not in scope:
            self.fail(f"{name!r} is not defined", at)
        return scope[name]

    def statement(self, g: Graph, scope: dict[str, Value]) -> None:
        declared = self.results()
        self.mark("=")
        at = self.next.at
        op = self.take("id", "an operation")
        if op != "const" and op not in TABLE:
            self.fail(f"unknown operation {op!r}", at)
        given: dict[str, Any] = {}
        self.mark("(")
        while not self.has(")"):
            if given:
                self.mark(",")
            key = self.take("id", "an operand")
            self.mark("=")
            if key in given:
                self.fail(f"operand {key!r} is given twice")
            given[key] = self.operand(g, scope)
        value, named = None, False
        self.mark("[")
        while True:
            key = self.take("id", "an attribute")
            self.mark("=")
            if key == "name":
                if named:
                    self.fail("attribute 'name' is given twice")
                named = True
                self.string()
            elif op == "const" and key == "val":
                value = self.value()
            elif op != "const" and TABLE[op].constexpr:
                given[key] = self.new_const(g, g._auto_name(key), self.value())
            else:
                self.fail(f"unknown attribute {key!r}")
            if not self.has(","):
                break
        self.mark("]")
        self.mark(";")
        if not named or (op == "const" and given):
            self.fail(f"{op}: expected an attribute 'name', and no operands of a const", at)
        if op == "const":
            if value is None or value[0] != declared[0][0] or len(declared) != 1:
                self.fail(f"const: declared {declared[0][0]}, got {value and value[0]}", at)
            made: tuple[Value, ...] = (self.new_const(g, declared[0][1], value),)
        else:
            try:
                names = [name for _, name in declared]
                made = g.add_operation(op, given, fill=False, names=names)
            except (ValueError, TypeError) as error:
                self.fail(str(error), at)
            for v, (type_, name) in zip(made, declared, strict=True):
                if v.type != type_:
                    self.fail(f"{op}: result {name!r}: declared {type_}, inferred {v.type}", at)
        for v in made:
            if v.name in scope:
                self.fail(f"{v.name!r} is already defined", at)
            scope[v.name] = v

    # ------------------------------- functions ----------------------------------

    def function(self, allow_refused: bool) -> Graph:
        self.word("func")
        g = Graph("B" if self.dialect == "B" else "A", allow_refused=allow_refused)
        g.function_name = self.take("id", "the name of a function")
        self.mark("<")
        g.target = self.take("id", "a target such as ios18")
        self.mark(">")
        g._names |= {t.text for t in self.tokens if t.kind == "id"}
        self.mark("(")
        scope: dict[str, Value] = {}
        if not self.has(")"):
            for type_, name in self.results():
                if name in scope:
                    self.fail(f"{name!r} is already defined")
                scope[name] = Value(g, name, type_)
            self.mark(")")
        g.inputs = list(scope.values())
        self.mark("{")
        while not self.has("}"):
            self.statement(g, scope)
        self.mark("->")
        self.mark("(")
        g.outputs = [self.use(scope)]
        while self.has(","):
            g.outputs.append(self.use(scope))
        self.mark(")")
        self.mark(";")
        for v in g.outputs:
            if v.statement is None or v.is_constant or g.outputs.count(v) > 1:
                self.fail(f"{v.name!r} is no result of an operation, or returned twice")
            if v.dtype not in ("fp16", "fp32"):
                self.fail(f"output {v.name!r}: expected fp16 or fp32, got {v.dtype}")
        return g

    def program(self, allow_refused: bool) -> dict[str, Graph]:
        self.word("program")
        self.mark("(")
        if not re.fullmatch(r"[0-9]+\.[0-9]+", self.take("number", "a version such as 1.3")):
            self.fail("expected a version such as 1.3")
        self.mark(")")
        for text in ("[", "buildInfo", "=", "dict", "<"):
            self.word(text)
        self.dialect = "B" if self.next.text == "tensor" else "A"
        self.type()
        self.mark(",")
        self.type()
        for text in (">", "(", "{"):
            self.mark(text)
        while not self.has("}"):
            if self.tokens[self.i - 1].text == "}":
                self.mark(",")
            self.mark("{")
            self.take("string", "a string")
            self.mark(",")
            self.take("string", "a string")
            self.mark("}")
        self.mark(")")
        self.mark("]")
        self.mark("{")
        functions: dict[str, Graph] = {}
        while not self.has("}"):
            g = self.function(allow_refused)
            if g.function_name in functions:
                self.fail(f"function {g.function_name!r} is already defined")
            functions[g.function_name] = g
        if self.next.kind != "end" or not functions:
            self.fail("expected one program of one or more functions")
        return functions


def parse(text: str, *, allow_refused: bool = False) -> dict[str, Graph]:
    """The functions of a program, by name.

    A constant read from a file has the file's name (without ``.bin``) as the name of its
    weight; :func:`ane_native.mil_blob.read` reads the elements.

    Raises:
        MilSyntaxError: with the place: wrong grammar, names, operands, shapes or types.
    """
    return _Parser(text).program(allow_refused)
