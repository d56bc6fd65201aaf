# SPDX-License-Identifier: MIT
"""A baked 1x1 convolution through the whole stack against the bare products, in one run.

    pytest --benchmark-only benchmarks/bench_product.py

The measured call is ``Program.run()`` of a 768x768 convolution at width 256: Python, core,
engine, conversion of the fp16 surfaces, the product, the fp16 stores. Before and after it the
same product is timed alone, the better block counting: numpy's BLAS, and scipy-openblas32 with
its default threads. extra_info holds the medians and their ratios; on a busy machine only
ratios mean something.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import mil, soft

CHANNELS, WIDTH, ROUNDS = 768, 256, 200
PAUSE_S = 0.3


def wheel_sgemm(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> Callable[[], None] | None:
    """The bare call of the scipy-openblas32 wheel; None where it is not installed."""
    path = soft.blas_path()
    if path is None:
        return None
    call = ctypes.CDLL(str(path)).scipy_cblas_sgemm
    m, k, n = w.shape[0], w.shape[1], x.shape[1]
    pointer = ctypes.POINTER(ctypes.c_float)
    arrays = [a.ctypes.data_as(pointer) for a in (w, x, y)]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)

    def run() -> None:
        call(101, 111, 111, m, n, k, one, arrays[0], k, arrays[1], n, zero, arrays[2], n)

    return run


def block(call: Callable[[], object]) -> float:
    """Median of a block of calls. Blocks do not mix: each library's own threads spin for a
    while after a call and would be measured in the next one's."""
    time.sleep(PAUSE_S)
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def test_convolution_against_the_bare_product(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((CHANNELS, CHANNELS)) / np.sqrt(CHANNELS)).astype(np.float32)
    x = rng.standard_normal((CHANNELS, WIDTH)).astype(np.float32)
    y = np.empty((CHANNELS, WIDTH), np.float32)
    f = mil.Function()
    weight = f.weight("w", (CHANNELS, CHANNELS, 1, 1), "w")
    f.output("y", f.conv(f.input("x", (1, CHANNELS, 1, WIDTH)), weight))
    text = f.build()
    kernel = ane.Kernel(
        "conv", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
    )
    bare: dict[str, Callable[[], object]] = {"numpy": lambda: np.matmul(w, x, out=y)}
    wheel = wheel_sgemm(w, x, y)
    if wheel is not None:
        bare["scipy_openblas32"] = wheel
    own: list[float] = []
    times: dict[str, float] = {}
    with ane.Program(kernel, {"w": w}) as program:
        program.eval(x.reshape(1, CHANNELS, 1, WIDTH))

        def run() -> None:
            begin = time.perf_counter()
            program.run()
            own.append(time.perf_counter() - begin)

        for name, call in bare.items():
            times[name] = block(call)
        time.sleep(PAUSE_S)
        benchmark.pedantic(run, rounds=ROUNDS, warmup_rounds=5)
        for name, call in bare.items():
            times[name] = min(times[name], block(call))
    mine = float(np.median(own))
    benchmark.extra_info.update(
        engine=ane.Engine().label,
        engine_blas=soft.get("blas") if ane.Engine().software else "",
        convolution_ms=mine * 1e3,
        gflops=2 * CHANNELS * CHANNELS * WIDTH / mine / 1e9,
        **{f"{name}_ms": t * 1e3 for name, t in times.items()},
        **{f"ratio_to_{name}": mine / t for name, t in times.items()},
    )


def test_evaluation_of_nearly_nothing(benchmark: Any) -> None:
    f = mil.Function()
    x = f.input("x", (1, 1, 1, 32))
    f.output("y", f.add(x, 1.0))
    t = f.build()
    kernel = ane.Kernel("tiny", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
    with ane.Program(kernel) as program:
        benchmark(program.run)
    benchmark.extra_info["engine"] = ane.Engine().label
