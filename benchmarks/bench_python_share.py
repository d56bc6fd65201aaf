# SPDX-License-Identifier: MIT
"""What Python costs the training thread: micro-steps on an engine that only waits.

    pytest --benchmark-only benchmarks/bench_python_share.py

A model of Stories110M's depth (12 layers: 50 kernels, 110 weight gradients) whose tensors are so
small that the engine's and the CPU's mathematics hardly count, on chip timing of 0.2 ms an
evaluation. ``native`` is the time of a micro-step inside the core: measured by a stopwatch around
each call of it. What is left of the step is Python, and ``share`` is that part of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 200
EVAL_MS = 0.2


class Stopwatch:
    """Stands for the core's library; adds up the time inside its functions."""

    def __init__(self, lib: Any) -> None:
        self._lib, self.seconds = lib, 0.0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._lib, name)
        if not callable(value):
            return value

        def timed(*args: Any) -> Any:
            begin = time.perf_counter()
            try:
                return value(*args)
            finally:
                self.seconds += time.perf_counter() - begin

        setattr(self, name, timed)
        return timed


def measure() -> dict[str, float]:
    """Medians over the steps, in milliseconds."""
    import numpy as np

    import ane_native as ane
    from ane_native import _native, soft
    from ane_native.microstep import MicroStep
    from ane_native.models.llama import LlamaConfig, LlamaProgram, init_params
    from ane_native.optim import AdamW

    engine = ane.Engine()
    if engine.software:
        soft.set("compile_limit", 0)
        soft.set("profile", "m4")
        soft.set("floor_ms", EVAL_MS)
        soft.set("tflops", 1000)  # nothing but the wait
        soft.set("compile_ms", 0)
        soft.set("timing", "on")
    config = LlamaConfig(dim=32, hidden=32, layers=12, heads=1, seq=32, vocab=64)
    program = LlamaProgram(config)
    optimizer = AdamW(init_params(config, np.random.default_rng(0)))
    rng = np.random.default_rng(1)
    whole, native = [], []
    with ane.DoubleBufferedTrainer(program.kernel_set(), optimizer.params) as trainer:
        step = MicroStep(program, trainer, optimizer.grads)
        core = _native.core()
        plain = core.lib
        for i in range(2 * STEPS):
            tokens = rng.integers(0, config.vocab, config.seq + 1).astype(np.int32)
            x, y = tokens[:-1].copy(), tokens[1:].copy()
            timed = i % 2 == 1  # plain steps in between: the stopwatch is Python, too
            core.lib = Stopwatch(plain) if timed else plain
            begin = time.perf_counter()
            step(x, y, 1.0)
            spent = (time.perf_counter() - begin) * 1e3
            if timed:
                native.append(core.lib.seconds * 1e3)
            else:
                whole.append(spent)
        core.lib = plain
    result = {"step_ms": statistics.median(whole), "native_ms": statistics.median(native)}
    result["kernels"] = float(len(program.forward) + len(program.backward))
    result["python_ms"] = max(0.0, result["step_ms"] - result["native_ms"])
    result["share"] = result["python_ms"] / result["step_ms"]
    return result


def test_python_share(benchmark: Any) -> None:
    command = [sys.executable, str(Path(__file__)), "--measure"]

    def once() -> dict[str, float]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    result = benchmark.pedantic(once, rounds=1)
    benchmark.extra_info.update(result)
    print(
        f"\nmicro-step {result['step_ms']:.2f} ms of {result['kernels']:.0f} kernels; in the core "
        f"{result['native_ms']:.2f}; Python {result['python_ms'] * 1e3:.0f} us, {result['share']:.2%}"
    )


if __name__ == "__main__":
    print(json.dumps(measure()))
