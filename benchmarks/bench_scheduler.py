# SPDX-License-Identifier: MIT
"""What the scheduler itself costs: a boundary whose set is ready, and one evaluation call.

    pytest --benchmark-only benchmarks/bench_scheduler.py

The kernels are as small as kernels can be, and each measured step() finds its set READY, so
nothing waits and what is left is the scheduler and its Python. The same without Python and
without any engine: ``test_null_engine`` runs the C harness (tools/test_sched.py --cost). Goal:
at most 50 us per boundary on an engine that does nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = (0, 64, 1024)  # per boundary
ROUNDS = 300


def tiny(count: int) -> ane.KernelSet:
    """`count` kernels of one multiplication."""
    kernels = []
    for i in range(count):
        f = mil.Function()
        f.output("y", f.mul(f.input("x", (1, 4, 1, 32)), f.weight("g", (1, 4, 1, 1), f"g{i}")))
        t = f.build()
        kernels.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    return ane.KernelSet(kernels)


@pytest.mark.parametrize("evaluations", EVALUATIONS)
@pytest.mark.parametrize("handover", [True, False], ids=["handover", "copy"])
def test_step(benchmark: Any, handover: bool, evaluations: int) -> None:
    version = 0
    waits: list[float] = []

    def weights() -> dict[str, np.ndarray]:
        return {f"g{i}": np.full(4, version % 2000 + i / 4, np.float32) for i in range(2)}

    with ane.DoubleBufferedTrainer(tiny(2), weights()) as trainer:

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            nonlocal version
            version += 1
            for _ in range(evaluations // 2):
                trainer.run(["k0", "k1"])
            while trainer.compiling:
                time.sleep(0.0002)
            return (weights(),), {"handover": handover}

        def step(given: dict[str, np.ndarray], handover: bool) -> None:
            waits.append(trainer.step(given, handover=handover).wait_ms)

        benchmark.pedantic(step, setup=setup, rounds=ROUNDS, warmup_rounds=2)
    assert not any(waits)  # no compile was measured
    benchmark.extra_info.update(engine=ane.Engine().label, evaluations=evaluations)


def test_run(benchmark: Any) -> None:
    """One call of run(): pin the generation, evaluate two tiny kernels, unpin."""
    weights = {f"g{i}": np.ones(4, np.float32) for i in range(2)}
    with ane.DoubleBufferedTrainer(tiny(2), weights) as trainer:
        benchmark(trainer.run, ["k0", "k1"])
    benchmark.extra_info.update(engine=ane.Engine().label)


def test_null_engine(benchmark: Any) -> None:
    """The C harness's own figures; p50 in microseconds go into extra_info."""

    def harness() -> str:
        tool = [sys.executable, str(ROOT / "tools" / "test_sched.py"), "--cost"]
        return subprocess.run(tool, capture_output=True, text=True, check=True).stdout

    text = benchmark.pedantic(harness, rounds=1)
    found = re.findall(r"staleness +(-?\d+), +(\d+) eval.*?p50 ([\d.]+) us, p99 ([\d.]+)", text)
    assert found, text
    for staleness, evaluations, p50, p99 in found:
        benchmark.extra_info[f"staleness {staleness}, {evaluations} evaluations"] = {
            "p50_us": float(p50),
            "p99_us": float(p99),
        }
    print(text)
