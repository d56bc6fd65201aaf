# SPDX-License-Identifier: MIT
"""compile_stall per batch: what a training thread loses to compiling, by staleness and size.

    pytest --benchmark-only benchmarks

The measured round is one batch: micro-steps of evaluations, then the boundary. extra_info
holds the stall (p50, p99), the background compile, how much of it was hidden, and the engine
with its timing mode, so that no software figure passes for a hardware one. ``timing`` chooses
softane's model of a chip's compile and evaluation times (sleeping) where it is not ``off``.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, soft

WIDTH = 256
SIZES = {"small": (4, 128, 40), "large": (8, 512, 12)}  # kernels, channels, micro-steps
BATCHES = 20
STALENESS = {"synchronous": 0, "staleness1": 1, "opportunistic": None}


def chain(count: int, channels: int) -> ane.KernelSet:
    """`count` kernels of a 1x1 convolution and a relu, each feeding the next."""
    kernels = []
    for i in range(count):
        f = mil.Function()
        x = f.input("x", (1, channels, 1, WIDTH))
        w = f.weight("w", (channels, channels, 1, 1), f"w{i}")
        f.output("y", f.relu(f.conv(x, w)))
        t = f.build()
        kernels.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    wires = {f"k{i + 1}.i00_x": f"k{i}.o00_y" for i in range(count - 1)}
    return ane.KernelSet(kernels, wires)


@pytest.mark.parametrize("timing", ["off", "m4"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", STALENESS)
def test_compile_stall(benchmark: Any, mode: str, size: str, timing: str) -> None:
    engine = ane.Engine()
    if timing != "off":
        if not engine.software:
            pytest.skip("real hardware has its own timing")
        soft.set("timing", timing)
    count, channels, micro_steps = SIZES[size]
    # other weights in every case: bytes the engine has seen before it would not compile again
    rng = np.random.default_rng(zlib.crc32(f"{mode} {size} {timing}".encode()))
    scale = np.float32(1 / np.sqrt(channels))
    weights = {
        f"w{i}": rng.standard_normal((channels, channels)).astype(np.float32) * scale
        for i in range(count)
    }
    names = [f"k{i}" for i in range(count)]
    stats: list[ane.BatchStats] = []
    with ane.DoubleBufferedTrainer(
        chain(count, channels), weights, staleness=STALENESS[mode]
    ) as trainer:
        trainer.surface("k0", "i00_x").write(rng.standard_normal((1, channels, 1, WIDTH)))

        def batch() -> None:
            for _ in range(micro_steps):
                trainer.run(names)
                trainer.micro_step()
            for w in weights.values():  # every weight changes, as in training
                w *= np.float32(0.999)
            stats.append(trainer.step(weights))

        benchmark.pedantic(batch, rounds=BATCHES, warmup_rounds=2)
    measured = stats[2:]
    stalls = [s.compile_stall_ms for s in measured]
    compiles = [s.compile_ms for s in measured if s.compile_ms is not None]
    hidden = [s.hidden_ms for s in measured if s.hidden_ms is not None]
    benchmark.extra_info.update(
        compile_stall_p50_ms=float(np.percentile(stalls, 50)),
        compile_stall_p99_ms=float(np.percentile(stalls, 99)),
        stall_share=sum(stalls) / sum(s.batch_ms for s in measured),
        compile_ms=float(np.median(compiles)) if compiles else None,
        hidden_percent=100 * sum(hidden) / sum(compiles) if compiles else None,
        generations_installed=len(compiles),
        max_staleness=max(s.staleness for s in measured),
        engine=engine.label,
        timing=timing,
        staleness=mode,
        size=size,
    )
    assert all(s.compile_stall_ms >= s.wait_ms for s in measured)
