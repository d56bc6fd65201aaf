# SPDX-License-Identifier: MIT
"""What one kernel may hold and what it costs: the numbers :mod:`ane_native.partition` plans with.

Every number has a source, and every number can be replaced: :meth:`Limits.but`,
:meth:`Cost.but`, or a subclass of :class:`Cost` with other formulas (docs/PARTITION.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from ane_native.device_table import PROFILES

__all__ = ["Cost", "Figure", "Limits", "Terms", "Work"]

MIB = float(1 << 20)
GIVEN = "given"
S = TypeVar("S", bound="_Sourced")


class Figure(NamedTuple):
    """A number and where it comes from."""

    value: float
    source: str


class Work(NamedTuple):
    """What a run of operations holds and does.

    Attributes:
        operations: constants not counted. flops: floating-point operations.
        weight_bytes: of blob files. program_bytes: those and constants of the text.
        inputs, outputs: ports. input_bytes, output_bytes: of them.
        peak_bytes: most bytes of values made inside that are alive at one time.
    """

    operations: int
    flops: float
    weight_bytes: int
    program_bytes: int
    inputs: int
    outputs: int
    input_bytes: int
    output_bytes: int
    peak_bytes: int


class Terms(NamedTuple):
    """Cost of a kernel in milliseconds for each evaluation.

    Attributes:
        dispatch: of asking the engine. compute: of the arithmetic. memory: of weights, inputs
            and outputs. spill: of values that outgrow the chip's memory. compile: what its
            background compile takes from the evaluations, divided by their number.
    """

    dispatch: float
    compute: float
    memory: float
    spill: float
    compile: float

    @property
    def total(self) -> float:
        """Compute and memory overlap, the rest adds up."""
        return self.dispatch + max(self.compute, self.memory) + self.spill + self.compile


class _Sourced:
    """A dataclass of numbers with a source for each."""

    sources: Mapping[str, str]

    def but(self: S, **changes: Any) -> S:
        """The same with other numbers, whose source is "given".

        Raises:
            TypeError: no number of that name. ValueError: not a positive number, or None where
                there must be one.
        """
        known = {f.name for f in dataclasses.fields(self) if f.name != "sources"}  # type: ignore[arg-type]
        for name in changes:
            if name not in known:
                raise TypeError(
                    f"{type(self).__name__}: expected one of {', '.join(sorted(known))}, got {name!r}"
                )
        sources = {**self.sources, **dict.fromkeys(changes, GIVEN)}
        return dataclasses.replace(self, **changes, sources=sources)  # type: ignore[type-var]

    def figure(self, name: str) -> str:
        """Name, number and source of one of them."""
        value = getattr(self, name)
        if value is None:
            shown = "none"
        else:
            shown = f"{int(value):,}" if value == int(value) else f"{value:g}"
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        return f"{name} {shown} ({self.sources.get(name, 'default')})"

    def __str__(self) -> str:
        names = [f.name for f in dataclasses.fields(self) if f.name != "sources"]  # type: ignore[arg-type]
        told = [name for name in names if getattr(self, name) is not None]
        return "\n".join(self.figure(name) for name in told)


def _table(profile: str) -> dict[str, Figure]:
    """The figures of a chip, those of the default profile where it has none."""
    if profile not in PROFILES:
        known = ", ".join(sorted(PROFILES))
        raise ValueError(f"profile: expected one of {known}, got {profile!r}")
    made = {k: Figure(*v) for k, v in {**PROFILES["default"], **PROFILES[profile]}.items()}
    for key, (value, source) in made.items():
        other, _, rest = source.removeprefix("as ").partition(" ")
        if source.startswith("as ") and key in PROFILES.get(other.strip(",;"), {}):
            note = f" {rest}" if rest else ""
            made[key] = Figure(value, f"{other}{note}: {PROFILES[other.strip(',;')][key][1]}")
    return made


# =============================== Limits =========================================


@dataclass(frozen=True)
class Limits(_Sourced):
    """What one kernel, one tensor and one set may be; None is no limit.

    Attributes:
        operations: of a kernel, constants not counted.
        ports: inputs, and outputs, of a kernel.
        weight_bytes: in the weight files of a kernel, fp16.
        program_bytes: weights and constants of a kernel.
        compile_ms: time one kernel's compile may take by the cost model.
        surface_bytes: of a port.
        rank: axes of a value. axis: size of any axis. width: size of the last axis of a value
            that is no constant. channels: size of axis 1 of a value of rank 4.
        conv_in: input channels of a convolution. kernel_width: last axis of its kernel.
        kernels: of a plan. set_bytes: ``program_bytes`` of all kernels of a plan.
        moves_alone: whether a kernel may do nothing but move elements.
        sources: where each number comes from.
    """

    operations: int | None = None
    ports: int | None = 255
    weight_bytes: int | None = None
    program_bytes: int | None = None
    compile_ms: float | None = None
    surface_bytes: int | None = None
    rank: int | None = 5
    axis: int | None = None
    width: int | None = None
    channels: int | None = None
    conv_in: int | None = None
    kernel_width: int | None = None
    kernels: int | None = None
    set_bytes: int | None = None
    moves_alone: bool = False
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "sources" or value is None or isinstance(value, bool):
                continue
            if not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(
                    f"limits: {f.name}: expected a positive number or None, got {value!r}"
                )

    @classmethod
    def of(cls, profile: str = "default", known: Mapping[str, Figure] | None = None) -> Limits:
        """Limits of a chip.

        Args:
            profile: a device profile of softane, such as ``"m1"`` or ``"m4"``.
            known: figures that replace the profile's, by its keys.

        Raises:
            ValueError: no such profile.
        """
        table = {**_table(profile), **(known or {})}
        given: dict[str, Figure] = {
            "ports": Figure(255, "listing of _ANERequest: counts above 255 are refused"),
            "rank": Figure(5, "measured, sbryngelson/ANEForge docs/developer/op-quirks.md"),
            "channels": Figure(65536, "measured, ANEForge op-quirks.md"),
            "program_bytes": table["program_bytes"],
            "axis": table["max_dim"],
            "width": table["max_width"],
            "conv_in": table["max_conv_in"],
            "kernel_width": table["max_kernel_width"],
        }
        for name, key in (("kernels", "loaded_limit"), ("set_bytes", "loaded_bytes")):
            value, source = table[key]
            given[name] = Figure(value // 2, f"half, for two generations: {source}")
        values = {k: int(f.value) if f.value else None for k, f in given.items()}
        sources = {k: f.source for k, f in given.items()}
        sources["moves_alone"] = "measured, ironmill: programs of one reshape, slice or tile fail"
        return cls(**values, sources=sources)  # type: ignore[arg-type]

    def exceeded(self, work: Work, compile_ms: float) -> tuple[str, float, float] | None:
        """The first limit of a kernel that `work` breaks: (name, most, got); the last one does
        not grow with the kernel."""
        if self.operations is not None and work.operations > self.operations:
            return "operations", self.operations, work.operations
        if self.weight_bytes is not None and work.weight_bytes > self.weight_bytes:
            return "weight_bytes", self.weight_bytes, work.weight_bytes
        if self.program_bytes is not None and work.program_bytes > self.program_bytes:
            return "program_bytes", self.program_bytes, work.program_bytes
        if self.compile_ms is not None and compile_ms > self.compile_ms:
            return "compile_ms", self.compile_ms, compile_ms
        ports = max(work.inputs, work.outputs)
        if self.ports is not None and ports > self.ports:
            return "ports", self.ports, ports
        return None


# =============================== Cost ===========================================


@dataclass(frozen=True)
class Cost(_Sourced):
    """What a kernel costs; a subclass may compute :meth:`terms` and :meth:`compiling` otherwise.

    Attributes:
        dispatch_ms: floor of an evaluation.
        tflops: rate of the arithmetic. gbytes_s: of weights, inputs and outputs.
        onchip_bytes: values inside a kernel that fit. spill: factor where they do not.
        compile_ms, op_ms, op2_ms, mib_ms: of one compile, of each operation, of each square of
            the number of operations, of each MiB of weights.
        busy: factor on evaluations while something compiles.
        evaluations: of a kernel between two compiles.
        sources: where each number comes from.
    """

    dispatch_ms: float
    tflops: float
    gbytes_s: float
    compile_ms: float
    op_ms: float
    mib_ms: float
    busy: float
    op2_ms: float = 0.0
    evaluations: float = 10.0
    onchip_bytes: float = 32 * MIB
    spill: float = 1.3
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "sources":
                continue
            least = 0 if f.name.endswith("_ms") else 1 if f.name in ("busy", "spill") else None
            fits = isinstance(value, (int, float)) and (
                value > 0 if least is None else value >= least
            )
            if not fits:
                expected = "a positive number" if least is None else f"at least {least}"
                raise ValueError(f"cost: {f.name}: expected {expected}, got {value!r}")

    @classmethod
    def of(cls, profile: str = "default", known: Mapping[str, Figure] | None = None) -> Cost:
        """Costs of a chip; arguments and errors as :meth:`Limits.of`."""
        table = {**_table(profile), **(known or {})}
        keys = {"dispatch_ms": "floor_ms"} | {
            k: k for k in ("tflops", "gbytes_s", "compile_ms", "op_ms", "mib_ms", "busy")
        }
        sources = {name: table[key].source for name, key in keys.items()} | {
            "op2_ms": "not known; that it is not 0 is: ANEForge, 162 s for eight unrolled layers",
            "evaluations": "choice: the accumulation of published runs, maderix/ANE train_large",
            "onchip_bytes": "measured, libane probe_sram_spill and Orion: about 32 MB",
            "spill": "measured, Orion: about 30 % lost beyond it",
        }
        return cls(**{name: table[key].value for name, key in keys.items()}, sources=sources)

    def one_is_best(self, work: Work) -> bool:
        """Whether no cut of `work` can be cheaper than one kernel: the terms of pieces add up to
        no less, unless compiling grows faster than the program, or values inside spill. Only
        these formulas say so, not those of a subclass."""
        return type(self) is Cost and not self.op2_ms and work.peak_bytes <= self.onchip_bytes

    def compiling(self, work: Work) -> float:
        """Milliseconds of one compile."""
        grown = self.op_ms * work.operations + self.op2_ms * work.operations**2
        return self.compile_ms + grown + self.mib_ms * work.weight_bytes / MIB

    def terms(self, work: Work) -> Terms:
        """What a kernel costs each time it is evaluated."""
        compute = work.flops / self.tflops / 1e9
        moved = work.weight_bytes + work.input_bytes + work.output_bytes
        memory = moved / self.gbytes_s / 1e6
        spills = work.peak_bytes > self.onchip_bytes
        return Terms(
            self.dispatch_ms,
            compute,
            memory,
            (self.spill - 1) * max(compute, memory) if spills else 0.0,
            self.compiling(work) * (self.busy - 1) / self.evaluations,
        )
