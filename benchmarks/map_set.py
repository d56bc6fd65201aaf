# SPDX-License-Identifier: MIT
"""The kernel set of the map: what a chip's profile says of Stories110M's 60 baked kernels, and the
same kernels in small for runs that sleep.

softane's timing model charges a compile ``compile_ms + op_ms x operations + mib_ms x MiB of
weights``. So every stand-in has the operations of the real kernel (on tiny tensors), 1/256 of
its weights, and the engine is told 256 times ``mib_ms``: the engine itself works out what a program
costs, packed or not, and the machine's arithmetic hardly counts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import packing, soft
from ane_native.mil import Function

LAYERS = 12
SMALLER = 256  # of the weights
WIDTH = 32
# kind: (operations, MiB of weights, FLOP of an evaluation) in maderix/ANE's static pipeline
# (T 256, D 768, H 2048). sdpaBwd2 bakes nothing: it is compiled once and only evaluated.
KINDS = {
    "fwdAttn": (25, 4.63, 1.41e9),
    "fwdFFN": (14, 9.00, 2.42e9),
    "ffnBwd": (17, 9.00, 2.42e9),
    "sdpaBwd1": (24, 1.25, 0.60e9),
    "qkvBwd": (8, 3.38, 0.91e9),
}
SDPA_BWD2_FLOP = 0.20e9
# Micro-step in ms, published (maderix/ANE training reports and community results; means). There
# is none for an M2, so its profile has no rows.
MICRO_STEP_MS = {"m1": 150.0, "m3-ultra": 81.2, "m4": 106.7, "m4-pro": 71.0, "m4-max": 64.0, "m5": 110.0}  # fmt: skip

#: What a boundary does, by the trainer's bound on staleness. "when ready" is what maderix/ANE pull
#: request #23 meant to do (as published its first swap frees the set it activates).
POLICIES: dict[str, int | None] = {"synchronous": 0, "1": 1, "2": 2, "4": 4, "when ready": None}


@dataclass(frozen=True)
class Chip:
    """What a profile says, in milliseconds (MiB and FLOP are the real set's)."""

    name: str
    base: float
    operation: float
    mib: float
    load: float
    floor: float
    tflops: float
    busy: float

    @property
    def eval_ms(self) -> float:
        """All evaluations of a micro-step: 60 of baked kernels, 12 of the one that bakes nothing."""
        flop = [f for *_, f in KINDS.values()] + [SDPA_BWD2_FLOP]
        return LAYERS * sum(self.floor + f / self.tflops / 1e9 for f in flop)

    @property
    def cpu_ms(self) -> float:
        """The rest of the published micro-step."""
        return max(0.0, MICRO_STEP_MS[self.name] - self.eval_ms)

    def program_ms(self, kernels: list[str]) -> float:
        """One compile of a program of these kernels."""
        kinds = [KINDS[k.split("-")[0]] for k in kernels]
        return self.base + sum(self.operation * ops + self.mib * mib for ops, mib, _ in kinds)

    def compile_ms(self, groups: list[list[str]], workers: int) -> float:
        """A whole set: compiled in order by this process, or each program by the next worker that
        is free; loaded in order by this process."""
        free = [0.0] * max(1, workers)
        loaded = 0.0
        for group in groups:
            first = free.index(min(free))
            free[first] += self.program_ms(group)
            begin = max(loaded, free[first])
            loaded = begin + self.load
            if workers == 0:  # compiling and loading take turns
                free[0] = loaded
        return loaded


@functools.cache
def chip(name: str) -> Chip:
    """A chip's profile as softane has it."""
    with soft.using(profile=name):
        lines = [line.split("#")[0].split("=") for line in soft.get("profile.values").splitlines()]
    p = {x[0].strip(): x[1].strip() for x in lines if len(x) == 2}
    keys = ("compile_ms", "op_ms", "mib_ms", "load_ms", "floor_ms", "tflops", "busy")
    return Chip(name, *(float(p[k]) for k in keys))


def settings(c: Chip, scale: float) -> dict[str, Any]:
    """softane's settings for the small set: one evaluation stands for all of a micro-step."""
    return {
        "profile": c.name, "timing": "on", "timing_scale": scale, "compile_limit": 0, "threads": 1,
        "loaded_limit": 0, "mib_ms": c.mib * SMALLER, "floor_ms": c.eval_ms, "tflops": 1e6, "gbytes_s": 1e6,
    }  # fmt: skip


def elements(kernel: str) -> int:
    """Of the small weight of a kernel."""
    return round(KINDS[kernel.split("-")[0]][1] * 2**20 / 2 / SMALLER / WIDTH) * WIDTH


@functools.cache
def kernels() -> ane.KernelSet:
    """The 60, in order of the layers."""
    made = []
    for layer in range(LAYERS):
        for kind, (ops, _, _) in KINDS.items():
            channels = elements(kind) // WIDTH
            f = Function()
            w = f.weight("w", (1, channels, 1, WIDTH), f"{kind}-{layer}")
            y = f.mul(f.input("x", (1, channels, 1, WIDTH)), w)
            for i in range(ops - 1):
                y = f.sigmoid(y) if i % 2 else f.relu(y)
            f.output("y", y)
            m = f.build()
            made.append(
                ane.Kernel(
                    f"{kind}-{layer}", m.text, inputs=m.inputs, outputs=m.outputs, weights=m.weights
                )
            )
    return ane.KernelSet(made)


@functools.cache
def groups(ks: ane.KernelSet, packed: bool) -> list[list[str]]:
    """Names of the kernels of each program: as ``packing="auto"`` would for the real sizes."""
    names = [k.name for k in ks.kernels]
    if not packed:
        return [[n] for n in names]
    real = {n: elements(n) * SMALLER for n in names}
    return [[names[i] for i in g] for g in packing.plan(ks, real)]


def weights(ks: ane.KernelSet, rng: np.random.Generator) -> dict[str, Any]:
    """Values that no program had before: an equal program would not be compiled again."""
    return {n: rng.standard_normal(elements(n)).astype(np.float32) for n in ks.weight_names}
