# SPDX-License-Identifier: MIT
"""How long things take. The first five repeat the probe of maderix/ANE pull request #23."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import numpy as np

from ane_native.errors import EngineError
from ane_native.kernel import BACKGROUND_QOS, Program
from ane_native.mil import Function

from .base import Bench, Made, conv, experiment, flop, kernel_of, laps, shape_of, spread, weight


def _input(program: Program, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    for port in program.kernel.inputs:
        program.surfaces[port.name].write(rng.standard_normal(port.shape).astype(np.float32) * 0.1)


def _whose(bench: Bench) -> str:
    """A software engine computes, whatever chip's times it takes."""
    return " (computed by this machine's processor)" if bench.engine.software else ""


@experiment("throughput", "evaluation time by shape (PR #23: 0.189 ms, 128x128 on M4)")
def throughput(bench: Bench) -> Made:
    shapes = [(64, 32), (128, 64), (256, 64), (512, 64), (768, 256)]
    if not bench.quick:
        shapes += [(1024, 64), (2048, 64), (1024, 256)]
    rows = []
    for channels, width in shapes:
        with Program(conv(channels, width), weight(channels, 1)) as program:
            _input(program)
            first = laps(program.run, 1)[0]
            ms = spread(laps(program.run, 30 if bench.quick else 200))
        gflops = flop(channels, width) / ms["p50"] / 1e6
        rows.append(
            {"channels": channels, "width": width, "first_ms": first, "gflops": gflops, **ms}
        )
    low, best = min(r["p50"] for r in rows), max(rows, key=lambda r: r["gflops"])
    text = f"floor {low:.3f} ms; best {best['gflops']:,.0f} GFLOPS at {best['channels']}x{best['width']}"
    return text + _whose(bench), {"rows": rows, "floor_ms": low}


@experiment("alternate", "two loaded programs in turn (PR #23: +10 %)")
def alternate(bench: Bench) -> Made:
    count = 50 if bench.quick else 300
    kernel = conv(128, 64)
    with Program(kernel, weight(128, 1)) as a, Program(kernel, weight(128, 2)) as b:
        _input(a)
        _input(b)
        one: list[float] = []
        pair: list[float] = []

        def in_turn() -> None:
            a.run()
            b.run()

        for _ in range(count):  # interleaved: both see the same machine
            one += laps(a.run, 1)
            pair += laps(in_turn, 1)
    alone, both = statistics.median(one), statistics.median(pair)
    return (
        f"{alone:.3f} ms alone, {both / 2:.3f} ms each in turn ({both / 2 / alone - 1:+.0%})",
        {"alone_ms": alone, "pair_ms": both},
    )


@experiment("compiles", "twenty compiles in a row: time and drift (PR #23: 23-29 ms, no drift)")
def compiles(bench: Bench) -> Made:
    count = 8 if bench.quick else 20
    live, ms, load = [], [], []
    try:
        for i in range(count):
            live.append(Program(conv(128, 64), weight(128, 100 + i)))
            info: Any = live[-1].info()
            ms.append(float(info["compile_ms"]))
            load.append(float(info["load_ms"]))
            bench.tell({"compile_ms": ms})
    finally:
        for program in live:
            program.close()
    half = len(ms) // 2
    drift = statistics.median(ms[half:]) / statistics.median(ms[:half]) - 1
    text = f"{statistics.median(ms):.2f} ms (first {ms[0]:.2f}), load {statistics.median(load):.2f} ms, drift {drift:+.0%}"
    return text, {"compile_ms": ms, "load_ms": load, "drift": drift}


@experiment("overlap", "evaluations during a background compile (PR #23: 0.189 -> 0.225 ms)")
def overlap(bench: Bench) -> Made:
    kernel, sets = conv(128, 64), 2 if bench.quick else 6
    spans: list[tuple[int, int]] = []
    evals: list[tuple[int, int]] = []
    failed: list[EngineError] = []
    done = threading.Event()

    def compile_some() -> None:
        try:
            for i in range(sets * 4):
                begin = time.perf_counter_ns()
                with Program(conv(512, 64), weight(512, 200 + i), qos=BACKGROUND_QOS):
                    spans.append((begin, time.perf_counter_ns()))
                time.sleep(0.01)
        except EngineError as error:
            failed.append(error)
        finally:
            done.set()

    with Program(kernel, weight(128, 1)) as program:
        _input(program)
        idle = laps(program.run, 100)
        alone = []
        for i in range(3):
            begin = time.perf_counter_ns()
            with Program(conv(512, 64), weight(512, 300 + i), qos=BACKGROUND_QOS):
                alone.append((time.perf_counter_ns() - begin) / 1e6)
        worker = threading.Thread(target=compile_some, daemon=True)
        worker.start()
        while not done.is_set():
            begin = time.perf_counter_ns()
            program.run()
            evals.append((begin, time.perf_counter_ns()))
        worker.join()
    if failed:
        raise failed[0]
    during = [(e - b) / 1e6 for b, e in evals if any(s <= b < t for s, t in spans)]
    if not during:
        return "no evaluation ended during a compile", {"evals_during": 0}
    a, b = spread(idle), spread(during)
    beside = statistics.median([(t - s) / 1e6 for s, t in spans])
    zero = spans[0][0]
    values = {
        "idle": a, "compiling": b, "evals_during": len(during), "factor": b["p50"] / a["p50"],
        "compile_alone_ms": statistics.median(alone), "compile_beside_ms": beside,
        "timeline": {
            "evals": [[(s - zero) / 1e6, (t - zero) / 1e6] for s, t in evals if t > zero][:2000],
            "compiles": [[(s - zero) / 1e6, (t - zero) / 1e6] for s, t in spans],
        },
    }  # fmt: skip
    text = (
        f"{a['p50']:.3f} -> {b['p50']:.3f} ms (x{values['factor']:.2f}), p99 {a['p99']:.3f} -> "
        f"{b['p99']:.3f}; compile {values['compile_alone_ms']:.1f} -> {beside:.1f} ms"
    )
    return text, values


@experiment("peak", "chains of convolutions: TFLOPS (PR #23: 7.5 at 96x512 on M4)", quick=False)
def peak(bench: Bench) -> Made:
    rows: list[dict[str, Any]] = []
    for depth, channels in ((32, 512), (64, 512), (96, 512), (128, 512), (128, 384), (256, 256)):
        row: dict[str, Any] = {"depth": depth, "channels": channels}
        try:
            with Program(conv(channels, 64, depth), weight(channels, 1)) as program:
                _input(program)
                ms = statistics.median(laps(program.run, 5 if bench.quick else 20))
                row |= {"ms": ms, "tflops": flop(channels, 64, depth) / ms / 1e9}
        except EngineError as error:
            row["refused"] = shape_of(error)
        rows.append(row)
        bench.tell({"rows": rows})
    best = max((r for r in rows if "ms" in r), key=lambda r: r["tflops"], default=None)
    if best is None:
        return "every chain was refused", {"rows": rows}
    text = f"{best['tflops']:.2f} TFLOPS at {best['depth']}x{best['channels']}"
    return text + _whose(bench), {"rows": rows}


@experiment("compile-cost", "compile time = a + p per operation + b per MiB of weights")
def compile_cost(bench: Bench) -> Made:
    table, ms = [], []
    shapes = [(32, 1), (32, 16), (32, 48), (512, 1), (1024, 1), (1024, 8)]
    for round_ in range(2 if bench.quick else 4):
        for channels, depth in shapes:
            with Program(conv(channels, 64, depth), weight(channels, 900 + round_)) as program:
                info: Any = program.info()
            table.append([1.0, depth, channels * channels * 2 / 2**20])
            ms.append(float(info["compile_ms"]))
    seen = [statistics.median(ms[i :: len(shapes)]) for i in range(len(shapes))]
    return _line_through(np.array(table[: len(shapes)]), np.array(seen))


FITS = 0.2  # a line that is further off than this share of a compile says nothing


def _line_through(table: Any, seen: Any) -> Made:
    """Fit base, operations and MiB so that the relative errors are least; None where no line fits."""
    found = np.linalg.lstsq(table / seen[:, None], np.ones(len(seen)), rcond=None)[0]
    error = float(np.abs(table @ found / seen - 1).max())
    rows = [
        {"operations": int(t[1]), "mib": float(t[2]), "ms": float(s)}
        for t, s in zip(table, seen, strict=True)
    ]
    fits = error < FITS and bool((found > -FITS * seen.min() / table.max(0)).all())
    names = ("base_ms", "op_ms", "mib_ms")
    values: dict[str, Any] = {
        n: float(v) if fits else None for n, v in zip(names, found, strict=True)
    }
    values |= {"error": error, "fits": fits, "rows": rows}
    if not fits:
        return (
            f"no line: {seen.min():.2f} to {seen.max():.2f} ms; the best one, {found[0]:.2f} ms + {found[1]:.3f} "
            f"per operation + {found[2]:.2f} per MiB, is off by up to {error:.0%}",
            values,
        )
    return (
        f"{found[0]:.2f} ms + {found[1]:.3f} per operation + {found[2]:.2f} per MiB, off by at most {error:.0%}",
        values,
    )


@experiment("parallel", "do compiles at two QoS classes overlap?", quick=False)
def parallel(bench: Bench) -> Made:
    seeds = iter(range(10_000, 20_000))

    def some(qos: int, count: int) -> None:
        for _ in range(count):
            with Program(conv(256, 64, 4), weight(256, next(seeds)), qos=qos):
                pass

    rows: list[dict[str, Any]] = []
    count = 4
    for first, second in ((21, 21), (21, 17), (17, 9)):
        serial = sum(laps(lambda q=qos: some(q, count), 1)[0] for qos in (first, second))  # type: ignore[misc]
        threads = [threading.Thread(target=some, args=(q, count)) for q in (first, second)]
        begin = time.perf_counter_ns()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        both = (time.perf_counter_ns() - begin) / 1e6
        rows.append(
            {
                "qos": [first, second],
                "serial_ms": serial,
                "together_ms": both,
                "gain": serial / both,
            }
        )
    text = ", ".join(f"{r['qos'][0]}/{r['qos'][1]} x{r['gain']:.2f}" for r in rows)
    return f"speed-up of two at once: {text} (1: serial, 2: parallel)", {"rows": rows}


@experiment("precision", "a feed-forward block against fp32", quick=False)
def precision(bench: Bench) -> Made:
    dim, hidden, width = 256, 512, 64
    f = Function()
    x = f.input("x", (1, dim, 1, width))
    gate = f.silu(f.conv(x, f.weight("w1", (hidden, dim, 1, 1), "w1")))
    up = f.conv(x, f.weight("w3", (hidden, dim, 1, 1), "w3"))
    f.output("y", f.conv(f.mul(gate, up), f.weight("w2", (dim, hidden, 1, 1), "w2")))
    rng = np.random.default_rng(5)
    shapes = {"w1": (hidden, dim), "w3": (hidden, dim), "w2": (dim, hidden)}
    w = {
        n: rng.standard_normal(s).astype(np.float32) * np.float32(s[1] ** -0.5)
        for n, s in shapes.items()
    }
    value = rng.standard_normal((dim, width)).astype(np.float32)
    baked = {n: v.reshape(*v.shape, 1, 1) for n, v in w.items()}
    with Program(kernel_of("ffn", f.build()), baked) as program:
        got = np.asarray(program.eval(value.reshape(1, dim, 1, width)))[0, :, 0]
        again = np.asarray(program.eval(value.reshape(1, dim, 1, width)))[0, :, 0]
    z = w["w1"] @ value
    want = w["w2"] @ (z / (1 + np.exp(-z)) * (w["w3"] @ value))
    cosine = float((got * want).sum() / np.linalg.norm(got) / np.linalg.norm(want))
    error = float(np.abs(got - want).max() / np.abs(want).max())
    same = bool(np.array_equal(got, again, equal_nan=True))
    finite = float(np.isfinite(got).mean())
    values = {"cosine": cosine, "error": error, "repeats": same, "finite": finite}
    if finite < 1:
        return f"{1 - finite:.0%} of the results are not finite, repeats: {same}", values
    text = f"cosine {cosine:.6f}, greatest error {error:.1e} of the greatest value, repeats: {same}"
    return text, values
