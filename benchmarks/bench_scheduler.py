# SPDX-License-Identifier: MIT
"""What the scheduler itself costs: a boundary whose set is ready, and one evaluation call.

    pytest --benchmark-only benchmarks/bench_scheduler.py
    python benchmarks/bench_scheduler.py          # the boundary alone, a table

The kernels are as small as kernels can be, and each measured step() finds its set READY, so
nothing waits and what is left is the scheduler and its Python. The same without Python and
without any engine: ``test_null_engine`` runs the C harness (tools/test_sched.py --cost). Goal:
at most 50 us per boundary on an engine that does nothing.

The table also has updates of a set with as many weights as Stories110M (111), and gives the
processor time of the calling thread besides the time that passed: handing a job over wakes
another thread, and on a machine that is busy that one may run first.
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
from ane_native import mil, soft

ROOT = Path(__file__).resolve().parents[1]
EVALUATIONS = (0, 64, 1024)  # per boundary
ROUNDS = 300


def tiny(count: int, weights: int = 1) -> ane.KernelSet:
    """`count` kernels of some multiplications."""
    kernels = []
    for i in range(count):
        f = mil.Function()
        x = f.input("x", (1, 4, 1, 32))
        for w in range(weights):
            x = f.mul(x, f.weight(f"g{w}", (1, 4, 1, 1), f"g{i * weights + w}"))
        f.output("y", x)
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


# =============================== The table ======================================

SHAPES = ((2, 1), (3, 37))  # kernels, weights of each


def boundary_us(way: str, kernels: int, each: int, rounds: int) -> list[tuple[float, float]]:
    """(processor time of this thread, time passed) of boundaries that wait for nothing, in
    microseconds. `way`: update (AdamW behind it), handover or copy."""
    names = [f"g{i}" for i in range(kernels * each)]
    weights = {name: np.ones(4, np.float32) for name in names}
    adam = ane.AdamW(weights, lr=1e-3)
    made = []
    with ane.DoubleBufferedTrainer(
        tiny(kernels, each), weights, update=adam if way == "update" else None
    ) as trainer:
        for number in range(rounds + 20):
            new = {n: np.full(4, 1 + number / 4096, np.float32) for n in names}
            if way == "update":
                for name in names:
                    adam.grads[name][:] = 1.0
            while trainer.compiling:
                time.sleep(0.0002)
            trainer.settle()
            cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
            if way == "update":
                stats = trainer.step_update()
            else:
                stats = trainer.step(new, handover=way == "handover")
            took = (time.thread_time_ns() - cpu) / 1e3, (time.perf_counter_ns() - wall) / 1e3
            if number >= 20 and not stats.wait_ms:
                made.append(took)
    return made


def main() -> None:
    if ane.Engine().software:
        soft.set("compile_limit", 0)
    print(f"{ane.Engine().label}; a boundary that waits for nothing, microseconds")
    print(f"{'':32}{'processor p50':>14}{'p99':>8}{'passed p50':>12}{'p99':>8}")
    for kernels, each in SHAPES:
        for way in ("update", "handover", "copy"):
            cpu, wall = np.array(boundary_us(way, kernels, each, ROUNDS)).T
            name = f"{way}, {kernels} kernels, {kernels * each} weights"
            figures = [np.percentile(v, p) for v in (cpu, wall) for p in (50, 99)]
            print(
                f"{name:32}{figures[0]:14.1f}{figures[1]:8.1f}{figures[2]:12.1f}{figures[3]:8.1f}"
            )


if __name__ == "__main__":
    main()
