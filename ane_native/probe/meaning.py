# SPDX-License-Identifier: MIT
"""What calls mean: binding order, reloads, files, other processes, spellings, numbers."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ane_native import soft
from ane_native.errors import CompileError, EngineError
from ane_native.kernel import Kernel, Program
from ane_native.mil import Function, Value

from .base import (
    Bench,
    Impossible,
    Made,
    conv,
    experiment,
    kernel_of,
    shape_of,
    staging_of,
    weight,
)  # fmt: skip


@experiment("symbol-order", "in which order are ports bound? 3 inputs and outputs, all orders")
def symbol_order(bench: Bench) -> Made:
    rows, sizes = [], (32, 64, 96)
    for names in itertools.permutations("abc"):
        f = Function()
        for i, channels in enumerate(sizes):
            f.output(f"y{i}", f.mul(f.input(f"x{i}", (1, channels, 1, 32)), float(i + 2)))
        mil = f.build()
        text = mil.text
        inputs, outputs = {}, {}
        for i, name in enumerate(names):
            text = text.replace(f"i0{i}_x{i}", f"{name}_in").replace(f"o0{i}_y{i}", f"{name}_out")
            inputs[f"{name}_in"] = outputs[f"{name}_out"] = (1, sizes[i], 1, 32)
        row: dict[str, Any] = {"declared": list(names)}
        try:
            with Program(Kernel("order", text, inputs=inputs, outputs=outputs)) as program:
                row["symbols"] = program.symbols(), program.symbols(outputs=True)
                xs = [np.full((1, n, 1, 32), i + 1, np.float32) for i, n in enumerate(sizes)]
                got = program.eval(*xs)
                row["right"] = all(np.all(y == (i + 1) * (i + 2)) for i, y in enumerate(got))
        except EngineError as error:
            row["refused"] = shape_of(error)
        rows.append(row)
    by_name = all(r.get("symbols", ([],))[0] == sorted(r.get("symbols", ([],))[0]) for r in rows)
    right = sum(bool(r.get("right")) for r in rows)
    order = "by name" if by_name else "not by name"
    return f"symbols {order}; {right} of {len(rows)} orders right", {
        "rows": rows,
        "by_name": by_name,
    }


@experiment("weight-reload", "do files edited after the compile change a loaded program?")
def weight_reload(bench: Bench) -> Made:
    x = np.ones((1, 64, 1, 32), np.float32)
    with Program(conv(64, 32), weight(64, 7)) as program:
        before = program.eval(x)
        weights = staging_of(bench, program) / "weights"
        weights.mkdir(exist_ok=True)  # the core removes what the compiler has read
        for path in {*weights.glob("*.bin"), weights / "w.bin"}:
            data = path.read_bytes() if path.exists() else b""
            # header of 64 + 64 bytes, then fp16: all weights become zero
            path.write_bytes(data[:128].ljust(128, b"\0") + bytes(64 * 64 * 2))
        loaded = bool(np.array_equal(program.eval(x), before))
    with Program(conv(64, 32), weight(64, 7)) as program:
        again = bool(np.array_equal(program.eval(x), before))
        cached = bool(program.info()["cached"])
    text = "unchanged" if loaded and again else "CHANGED"
    return f"results {text} while loaded and after a new load (from cache: {cached})", {
        "unchanged_loaded": loaded, "unchanged_after_load": again, "cached": cached,
    }  # fmt: skip


@experiment("staging", "what happens when staging files vanish while loaded?")
def staging(bench: Bench) -> Made:
    x = np.ones((1, 64, 1, 32), np.float32)
    with Program(conv(64, 32), weight(64, 8)) as program:
        before = program.eval(x)
        shutil.rmtree(staging_of(bench, program))
        for i in range(500):
            try:
                right = np.array_equal(program.eval(x), before)
            except EngineError as error:
                return f"evaluation fails after {i}", {"evals": i, "form": shape_of(error)}
            if not right:
                return f"wrong results after {i}", {"evals": i, "form": "wrong results"}
    return "500 evaluations right", {"evals": None}


_OTHER = """
import json, sys
from ane_native import soft
from ane_native.kernel import Program
from ane_native.probe.base import conv, weight
with Program(conv(256, 64, 4), weight(256, int(sys.argv[1]))) as p:
    print(json.dumps(p.info()))
"""


def compile_elsewhere(seed: int) -> dict[str, Any]:
    """Let another process compile a program and end; what it measured."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        [sys.executable, "-c", _OTHER, str(seed)], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path, "SOFTANE_STORE": "shared"}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Impossible(f"the other process failed: {done.stderr.strip()[-300:]}")
    made: dict[str, Any] = json.loads(done.stdout)
    return made


@experiment("cross-process", "does a program another process compiled load without a compile?")
def cross_process(bench: Bench) -> Made:
    if bench.software:
        soft.set("store", "shared")  # hardware's daemon always shares
    rows, base = [], os.getpid() * 1000
    for i in range(2 if bench.quick else 5):
        other = compile_elsewhere(base + i)
        with Program(conv(256, 64, 4), weight(256, base + i)) as program:
            info = program.info()
        rows.append(
            {
                "compiled_there_ms": other["compile_ms"],
                "cached": info["cached"],
                "load_ms": info["load_ms"],
            }
        )
    works = all(r["cached"] for r in rows)
    there = statistics.median(float(r["compiled_there_ms"]) for r in rows)
    here = statistics.median(float(str(r["load_ms"])) for r in rows)
    note = " (store=shared)" if bench.software else ""
    text = (
        f"yes: {there:.1f} ms to compile there, {here:.1f} ms to load here"
        if works
        else "no: compiled again"
    )
    return text + note, {"works": works, "rows": rows, "load_ms": here}


MOST_PROCEDURES = (2, 8, 24, 48, 96)  # tried in turn


@experiment("procedures", "does the procedure index select? how many kernels fit in one program?")
def procedures(bench: Bench) -> Made:
    works = False
    most = programs = 0
    got: tuple[float, ...] = ()
    said = ""
    for count in MOST_PROCEDURES:
        try:
            got, programs = _packed(count)
        except EngineError as error:
            said = str(error).splitlines()[0]
            break
        if got != (1.0, float(count)) or programs > 1:
            break
        works, most = True, count
        bench.tell({"works": works, "most": most})
    values = {"works": works, "most": most, "programs": programs if most else 0}
    if works:
        return f"yes, {most} in one program" + (f"; not {count}: {said}" if said else ""), values
    if programs > 1:
        return f"the engine did not take two in one ({programs} programs)", values
    return f"no: {said or f'expected 1 and 2, got {got}'}", values


def _packed(count: int) -> tuple[tuple[float, ...], int]:
    """What the first and the last of `count` kernels in one program say, and how many programs
    it became; kernel i multiplies ones by i + 1."""
    from ane_native.kernel import KernelSet
    from ane_native.scheduler import DoubleBufferedTrainer

    kernels, weights = [], {}
    for i in range(count):
        f = Function()
        f.output("y", f.conv(f.input("x", (1, 64, 1, 32)), f.weight("w", (64, 64, 1, 1), f"w{i}")))
        kernels.append(kernel_of(f"k{i}", f.build()))
        weights[f"w{i}"] = np.eye(64, dtype=np.float32).reshape(64, 64, 1, 1) * (i + 1)
    x = np.ones((1, 64, 1, 32), np.float32)
    groups = [[k.name for k in kernels]]
    with DoubleBufferedTrainer(KernelSet(kernels), weights, packing=groups) as t:
        got = tuple(float(t.eval(k.name, x).mean()) for k in (kernels[0], kernels[-1]))
        return got, len(t.packing.sources)


# =============================== Spellings ======================================


def _unary(expression: str, consts: str = "") -> Callable[[], Kernel]:
    """y = expression of i00_x, spliced into a text the writer made."""

    def make() -> Kernel:
        f = Function()
        f.output("y", f.relu(f.input("x", (1, 64, 1, 64))))
        mil = f.build()
        lines = []
        for line in mil.text.splitlines():
            if "relu(x=i00_x)" in line:
                lines += [f"        {c.strip()};" for c in consts.split(";") if c.strip()]
            lines.append(line.replace("relu(x=i00_x)", expression))
        return kernel_of("spelling", mil, "\n".join(lines) + "\n")

    return make


def _written(body: Callable[[Function, Value], Value], dialect: Any = "A") -> Callable[[], Kernel]:
    def make() -> Kernel:
        f = Function(dialect)
        f.output("y", body(f, f.input("x", (1, 64, 1, 64))))
        return kernel_of("spelling", f.build())

    return make


_EPS = 'fp16 e = const()[name=string("e"), val=fp16(0x1p-14)]'
SPELLINGS: dict[str, tuple[Callable[[], Kernel], Callable[[Any], Any]]] = {
    "dialect A": (_written(lambda f, x: f.mul(x, 2.0)), lambda x: x * 2),
    "dialect B": (_written(lambda f, x: f.mul(x, 2.0), "B"), lambda x: x * 2),
    "concat": (_written(lambda f, x: f.concat([x, x], 1)), lambda x: np.concatenate([x, x], 1)),
    "softmax": (
        _written(lambda f, x: f.softmax(x, 1)),
        lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    ),
    "reduce_mean": (_written(lambda f, x: f.reduce_mean(x, [1])), lambda x: x.mean(1, keepdims=True)),
    "reduce_sum": (_written(lambda f, x: f.reduce_sum(x, [1])), lambda x: x.sum(1, keepdims=True)),
    "pow -0.5": (_written(lambda f, x: f.pow(x, -0.5)), lambda x: x**-0.5),
    "rsqrt": (_unary("rsqrt(x=i00_x, epsilon=e)", _EPS), lambda x: x**-0.5),
    "log": (_unary("log(x=i00_x, epsilon=e)", _EPS), np.log),
    "gelu, mode": (
        _unary("gelu(x=i00_x, mode=m)", 'string m = const()[name=string("m"), val=string("TANH_APPROXIMATION")]'),
        lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    ),
    "gelu, no mode": (_unary("gelu(x=i00_x)"), lambda x: x),
    "inline literal": (_unary("mul(x=i00_x, y=fp16(2.0))"), lambda x: x * 2),
    "unknown operation": (_unary("no_such_operation(x=i00_x)"), lambda x: x),
    "rank 4 transpose": (
        _written(lambda f, x: f.transpose(x, [0, 3, 2, 1])),
        lambda x: x.transpose(0, 3, 2, 1),
    ),
}  # fmt: skip


@experiment("spellings", "which texts the compiler takes, and whether they compute right")
def spellings(bench: Bench) -> Made:
    x = (
        np.random.default_rng(4)
        .uniform(0.25, 2.0, (1, 64, 1, 64))
        .astype(np.float16)
        .astype(np.float32)
    )
    rows: dict[str, Any] = {}
    for name, (make, reference) in SPELLINGS.items():
        kernel = make()
        want = np.asarray(reference(x))
        kernel.outputs = (type(kernel.outputs[0])(kernel.outputs[0].name, want.shape),)
        try:
            with Program(kernel) as program:
                got = np.asarray(program.eval(x))
            right = np.abs(got - want).max() <= 0.02 * np.abs(want).max()
            rows[name] = "right" if right else "wrong"
        except CompileError as error:
            rows[name] = f"refused: {error.text}"
        except EngineError as error:
            rows[name] = f"{error.step} failed: {error.text}"
        bench.tell({"rows": rows})
    refused = [n for n, r in rows.items() if r.startswith("refused")]
    wrong = [n for n, r in rows.items() if not r.startswith(("refused", "right"))]
    return f"refused: {', '.join(refused) or '-'}; wrong: {', '.join(wrong) or '-'}", {"rows": rows}


# =============================== Numbers ========================================


@experiment("numerics", "sums around 32752, slices above 4094, narrow sums, subnormals")
def numerics(bench: Bench) -> Made:
    found: dict[str, Any] = {}
    ones = {"w": np.ones((64, 64, 1, 1), np.float32)}
    with Program(conv(64, 32), ones) as program:
        for total in (16000, 32704, 32752, 32768, 40960, 65472):
            got = float(program.eval(np.full((1, 64, 1, 32), total / 64, np.float32))[0, 0, 0, 0])
            found[f"dot {total}"] = str(got)
    f = Function()
    f.output("y", f.slice_by_size(f.input("x", (1, 32, 1, 96)), [0, 0, 0, 32], [1, 32, 1, 32]))
    with Program(kernel_of("slice", f.build())) as program:
        for value in (4094, 4096, 8192):
            got = float(program.eval(np.full((1, 32, 1, 96), value, np.float32))[0, 0, 0, 0])
            found[f"slice {value}"] = str(got)
    f = Function()
    f.output("y", f.reduce_sum(f.input("x", (1, 4096, 1, 32)), [1]))
    with Program(kernel_of("sum", f.build())) as program:
        for count in (2048, 2049, 4096):
            x = np.zeros((1, 4096, 1, 32), np.float32)
            x[:, :count] = 1
            found[f"sum of {count} ones"] = str(float(program.eval(x)[0, 0, 0, 0]))
    f = Function()
    f.output("y", f.mul(f.input("x", (1, 32, 1, 32)), 0.5))
    with Program(kernel_of("half", f.build())) as program:
        got = float(program.eval(np.full((1, 32, 1, 32), 2.0**-14, np.float32))[0, 0, 0, 0])
        found["2^-14 * 0.5"] = str(got)
    cliff = next((k for k, v in found.items() if k.startswith("dot") and v == "inf"), "none")
    return (
        f"first infinite sum of products: {cliff.removeprefix('dot ')}; sum of 2049 ones: {found['sum of 2049 ones']}; "
        f"subnormals {'kept' if got else 'flushed'}",
        {"rows": found},
    )


# =============================== Not with this core =============================


def _impossible(name: str, settles: str, why: str) -> None:
    def make(bench: Bench) -> Made:
        raise Impossible(why)

    experiment(name, settles, quick=False)(make)


_impossible(
    "client-path", "is the compile limit in the wrapper object?",
    "the core speaks to _ANEInMemoryModel only, not to _ANEClient",
)  # fmt: skip
_impossible(
    "blob-reader", "are 64-byte headers and offset 128 read?",
    "the core writes blob files itself, always with the 128-byte header",
)  # fmt: skip
_impossible(
    "after-unload", "how does an evaluation after unload fail?",
    "the core refuses to evaluate what it unloaded before the engine is asked",
)  # fmt: skip
