# SPDX-License-Identifier: MIT
"""What a call costs through the whole stack, and softane beside BLAS and STREAM.

    pytest --benchmark-only -s benchmarks/bench_softane.py

The table of products, steps and passes comes from ``softane/tests/bench_speed.c``, which
measures both sides of every ratio turn by turn; it is printed (-s) and kept in extra_info.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, soft
from ane_native.models import llama

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="measures softane")


def test_products_steps_and_passes(benchmark: Any) -> None:
    sys.path[:0] = [str(ROOT / "softane")]
    import build

    program = {p.name: p for p in build.build_tests(prefix=("bench_",))}["bench_speed"]
    blas = soft.blas_path()
    env = {**os.environ, **({"SOFTANE_BLAS": str(blas)} if blas else {})}

    def run() -> str:
        done = subprocess.run([program], env=env, capture_output=True, text=True, check=True)
        return done.stdout

    table = benchmark.pedantic(run, rounds=1)
    print("\n" + table)
    benchmark.extra_info["table"] = table.splitlines()


def test_evaluation_of_an_empty_program(benchmark: Any) -> None:
    f = mil.Function()
    f.output("y", f.identity(f.input("x", (1, 1, 1, 32))))
    t = f.build()
    kernel = ane.Kernel("empty", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
    with ane.Program(kernel) as program:
        benchmark(program.run)


def test_compile_of_an_attention_kernel(benchmark: Any) -> None:
    """Stories110M: 768 wide, 12 heads, 256 tokens; other weights each time, so no cache hit."""
    config = llama.LlamaConfig(dim=768, hidden=2048, layers=12, heads=12, seq=256)
    t = llama.attn_fwd(config, 0)
    kernel = ane.Kernel("attention", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
    rng = np.random.default_rng(0)
    soft.set("timing", "off")
    taken: list[float] = []

    def fresh() -> tuple[tuple[dict[str, np.ndarray]], dict[str, object]]:
        weights = {
            f"layers.0.attention.{w}.weight": rng.standard_normal((768, 768)).astype(np.float32)
            for w in ("wq", "wk", "wv", "wo")
        }
        weights["layers.0.attention_norm.weight"] = rng.standard_normal(768).astype(np.float32)
        return (weights,), {}

    def compile_one(weights: dict[str, np.ndarray]) -> None:
        begin = time.perf_counter()
        ane.Program(kernel, weights).close()
        taken.append(time.perf_counter() - begin)

    benchmark.pedantic(compile_one, setup=fresh, rounds=20)
    benchmark.extra_info["median_ms"] = float(np.median(taken)) * 1e3


def test_two_evaluations_and_a_compile_at_once(benchmark: Any) -> None:
    """Two threads evaluate, a third compiles fresh weights, on what processors there are.

    Each side is done alone and all at once, turn by turn; a loss-free machine needs the
    processor time of all sides divided by its processors, or the longest side.
    """
    config = llama.LlamaConfig(dim=768, hidden=2048, layers=12, heads=12, seq=256)
    t = llama.attn_fwd(config, 0)
    kernel = ane.Kernel("attention", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
    rng = np.random.default_rng(1)
    soft.set("timing", "off")
    names = [f"layers.0.attention.{w}.weight" for w in ("wq", "wk", "wv", "wo")]

    def weights() -> dict[str, np.ndarray]:
        made = {n: rng.standard_normal((768, 768)).astype(np.float32) for n in names}
        made["layers.0.attention_norm.weight"] = rng.standard_normal(768).astype(np.float32)
        return made

    def evaluate(program: ane.Program) -> None:
        for _ in range(20):
            program.run()

    def compile_some(fresh: list[dict[str, np.ndarray]]) -> None:
        for w in fresh:
            ane.Program(kernel, w).close()

    def together(*work: threading.Thread) -> tuple[float, float]:
        begin, busy = time.perf_counter(), time.process_time()
        for w in work:
            w.start()
        for w in work:
            w.join()
        return time.perf_counter() - begin, time.process_time() - busy

    losses: list[float] = []
    with ane.Program(kernel, weights()) as one, ane.Program(kernel, weights()) as two:

        def round_of_all() -> None:
            fresh = [[weights() for _ in range(5)] for _ in range(2)]
            sides = [(evaluate, one), (evaluate, two), (compile_some, fresh[0])]
            alone = [together(threading.Thread(target=f, args=(x,))) for f, x in sides]
            sides[2] = (compile_some, fresh[1])
            wall, _ = together(*(threading.Thread(target=f, args=(x,)) for f, x in sides))
            least = max(sum(a[1] for a in alone) / (os.cpu_count() or 1), *(a[0] for a in alone))
            losses.append(wall / least)

        benchmark.pedantic(round_of_all, rounds=5)
    benchmark.extra_info["of_the_time_without_loss"] = min(losses)
    print(f"\ntwo evaluations and a compile at once: {min(losses):.2f} of the time without loss")
