# SPDX-License-Identifier: MIT
"""What an experiment is, and the small kernels they share. MIL texts come from ane_native.mil."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native import _native, soft
from ane_native.engine import Engine
from ane_native.errors import EngineError
from ane_native.kernel import Kernel, Program
from ane_native.mil import Dialect, Function, MilText

Array = npt.NDArray[np.float32]


class Impossible(Exception):
    """The experiment cannot be made with this engine or this build; the text says why."""


@dataclass
class Bench:
    """What an experiment gets.

    Attributes:
        engine: open.
        quick: fewer repetitions and sizes.
        tell: sends values that stay if the process dies in the next moment.
    """

    engine: Engine
    quick: bool
    tell: Callable[[dict[str, Any]], None] = field(default=lambda values: None)

    @property
    def software(self) -> bool:
        """Whether softane's settings exist."""
        return self.engine.name.startswith("softane")

    def lift_compile_limit(self, engines_too: bool) -> None:
        """Stop counting in the core; with softane and `engines_too` also in the engine."""
        if self.software and engines_too:
            soft.set("compile_limit", 0)
        error = _native.new_error()
        _native.check(_native.core().lib.ane_engine_set_compile_limit(0, error), error)


@dataclass(frozen=True)
class Experiment:
    """One row of the report.

    Attributes:
        name: for ``--only``.
        settles: the question it answers.
        quick: also made with ``--quick``.
        seconds: time-out.
        make: the experiment; returns ``(sentence, values)``, raises Impossible or EngineError.
    """

    name: str
    settles: str
    quick: bool
    seconds: float
    make: Callable[[Bench], tuple[str, dict[str, Any]]]


EXPERIMENTS: dict[str, Experiment] = {}
Made = tuple[str, dict[str, Any]]


def experiment(
    name: str, settles: str, *, quick: bool = True, seconds: float = 120.0
) -> Callable[[Callable[[Bench], Made]], Callable[[Bench], Made]]:
    """Register a function as an experiment."""

    def register(make: Callable[[Bench], Made]) -> Callable[[Bench], Made]:
        EXPERIMENTS[name] = Experiment(name, settles, quick, seconds, make)
        return make

    return register


# =============================== Kernels ========================================


def kernel_of(name: str, mil: MilText, text: str | None = None) -> Kernel:
    """A kernel of a written text; `text` replaces the writer's."""
    return Kernel(
        name, text or mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights
    )


def conv(channels: int, width: int, depth: int = 1, dialect: Dialect = "A") -> Kernel:
    """`depth` 1x1 convolutions [channels, channels] of one baked weight ``w``, on [channels, width]."""
    f = Function(dialect)
    x = f.input("x", (1, channels, 1, width))
    w = f.weight("w", (channels, channels, 1, 1), "w")
    for _ in range(depth):
        x = f.conv(x, w)
    f.output("y", x)
    return kernel_of(f"conv {depth}x{channels}x{width}", f.build())


def weight(channels: int, seed: int, scale: float | None = None) -> dict[str, Array]:
    """The weight of :func:`conv`; other seeds make other programs of one text."""
    rng = np.random.default_rng(seed)
    made = rng.standard_normal((channels, channels, 1, 1)).astype(np.float32)
    return {"w": made * np.float32(channels**-0.5 if scale is None else scale)}


def flop(channels: int, width: int, depth: int = 1) -> float:
    """Multiplications and additions of :func:`conv`."""
    return 2.0 * channels * channels * width * depth


# =============================== Measuring ======================================


def laps(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    made = []
    for _ in range(count):
        begin = time.perf_counter_ns()
        call()
        made.append((time.perf_counter_ns() - begin) / 1e6)
    return made


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile (values that occurred), least, greatest and number."""
    ordered = sorted(values)
    n = len(ordered)
    return {
        "p50": ordered[n // 2],
        "p99": ordered[min(n - 1, int(0.99 * n))],
        "min": ordered[0],
        "max": ordered[-1],
        "count": n,
    }


def shape_of(error: EngineError) -> dict[str, Any]:
    """The form of a refusal, for the report."""
    return {
        "type": type(error).__name__,
        "step": error.step,
        "domain": error.domain,
        "code": error.code,
        "text": error.text[:200],
        "detail": error.detail[:200],
    }


def staging_of(bench: Bench, program: Program) -> Path:
    """The directory the engine's compiler read the program from.

    Raises:
        Impossible: it is not where it is known to be.
    """
    import tempfile

    base = (soft.get("staging") if bench.software else "") or tempfile.gettempdir()
    path = Path(base) / str(program.info()["identity"])
    if not path.is_dir():
        raise Impossible(
            f"no staging directory {path}: this engine keeps it elsewhere or removes it"
        )
    return path
