# SPDX-License-Identifier: MIT
"""Constants of Python as operands: what kind they must be, and how MIL writes them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ane_native.mil_ops import Call
from ane_native.mil_table import OperandRow

__all__ = [
    "checked_constant",
    "checked_fp16",
    "checked_int32",
    "default_of",
    "literal_text",
    "number_dtype",
]

FP16_MAX = 65504.0


def checked_fp16(value: float) -> float:
    """`value` rounded to fp16 (nearest even)."""
    with np.errstate(over="ignore", under="ignore"):
        half = float(np.float16(value))
    if not math.isfinite(half) or (half == 0.0) != (value == 0.0):
        raise ValueError(f"expected a number fp16 can hold (0, 6e-8 to {FP16_MAX:g}), got {value}")
    return half


def checked_int32(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"const: expected an int, got {type(value).__name__}")
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"const: expected an int32, got {value}")
    return int(value)


def checked_constant(where: str, o: OperandRow, given: Any) -> Any:
    """A constant operand as plain bool, int, float, str or tuple of them."""

    def is_int(v: Any) -> bool:
        return isinstance(v, (int, np.integer)) and not isinstance(v, bool)

    def is_number(v: Any) -> bool:
        return is_int(v) or isinstance(v, (float, np.floating))

    kind = o.kind
    listed = isinstance(given, (list, tuple, range))
    if kind == "BOOL" and isinstance(given, (bool, np.bool_)):
        return bool(given)
    if kind == "STRING" and isinstance(given, str):
        if o.choices and given not in o.choices:
            words = (
                f"{', '.join(o.choices[:-1])} or {o.choices[-1]}" if o.choices[1:] else o.choices[0]
            )
            raise ValueError(f"{where}: expected {words}, got {given!r}")
        return given
    if kind == "INT" and is_int(given):
        return int(given)
    if kind == "FLOAT" and is_number(given):
        return float(given)
    if kind == "NUMBER" and (is_number(given) or isinstance(given, (bool, np.bool_))):
        return given.item() if isinstance(given, np.generic) else given
    if kind == "INTS" and listed:
        if all(is_int(v) for v in given):
            return tuple(int(v) for v in given)
        raise TypeError(f"{where}: expected a sequence of int, got {given!r}")
    if kind == "MASK" and listed and all(isinstance(v, (bool, np.bool_)) for v in given):
        return tuple(bool(v) for v in given)
    if (
        kind == "PAIRS"
        and listed
        and all(isinstance(p, (list, tuple)) and len(p) == 2 and all(map(is_int, p)) for p in given)
    ):
        return tuple((int(a), int(b)) for a, b in given)
    words = {
        "BOOL": "bool",
        "STRING": "str",
        "INT": "int",
        "INTS": "a sequence of int",
        "FLOAT": "a number",
        "NUMBER": "a number",
        "MASK": "a sequence of bool",
        "PAIRS": "a sequence of pairs of int",
    }[kind]
    raise TypeError(f"{where}: expected {words}, got {type(given).__name__}")


def number_dtype(value: Any, o: OperandRow) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int32" if isinstance(value, int) and "int32" in o.dtypes else "fp16"


def default_of(call: Call, o: OperandRow) -> Any:
    """What is written for an absent operand, or None."""
    if o.default in ("1 each", "0 each", "all"):
        rank = len(call.shape("x"))
        if o.default == "all":
            return tuple(range(rank))
        spatial = rank if call.op == "slice_by_index" else rank - 2
        n = 2 * spatial if o.key == "pad" else spatial
        return (int(o.default[0]),) * n if n > 0 else None
    if o.kind == "FLOAT" and o.default is not None and 0 < math.fabs(o.default) < 2.0**-24:
        return None
    return o.default


def literal_text(value: bool | float | str) -> str:
    """One element as MIL writes it; fp16 as a decimal that is exact in fp16 and in fp32."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"'
    return np.format_float_positional(value, unique=True, trim="0")
