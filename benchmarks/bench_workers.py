# SPDX-License-Identifier: MIT
"""What compile workers gain over compiling in the trainer's process, on a chip's timing.

    python benchmarks/bench_workers.py [--timing m4] [--scale 1] [--kernels 12] [--json FILE]

softane sleeps as long as the chip's compiler, loader and engine would take, so the figures
are of the scheduling and not of this machine's compiler: a second worker overlaps what the chip's
compiler service would have to overlap too (not measured on hardware: the probe's experiment
"parallel compiles" tells). A set of programs is compiled per update, staleness 0: the boundary waits for it, so nothing is
held back for the sake of evaluations. The three modes take turns, update by update, so that
noise of the machine meets all of them. Shown per mode: the job of a set (bake + compile + load
+ canary), what of it is the engine's compiler (added up over programs, wherever they were
compiled), the wall time of a batch, and the speed-up of the job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import mil, soft

WIDTH = 64
MODES = (0, 1, 2)  # workers


def chain(count: int, channels: int, tag: int) -> ane.KernelSet:
    """`count` kernels of a 1x1 convolution, each feeding the next; `tag` makes the texts differ."""
    kernels = []
    for i in range(count):
        f = mil.Function()
        x = f.input("x", (1, channels, 1, WIDTH))
        w = f.weight("w", (channels, channels, 1, 1), f"w{i}")
        y = f.conv(x, w)
        for _ in range(tag):
            y = f.relu(y)
        f.output("y", y)
        t = f.build()
        kernels.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    wires = {f"k{i + 1}.i00_x": f"k{i}.o00_y" for i in range(count - 1)}
    return ane.KernelSet(kernels, wires)


class Mode:
    """A trainer of its own, with so many workers."""

    def __init__(self, workers: int, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self.args, self.workers = args, workers
        rng = np.random.default_rng(workers)
        shape = (args.channels, args.channels)
        scale = np.float32(1 / np.sqrt(args.channels))
        self.weights = {
            f"w{i}": rng.standard_normal(shape).astype(np.float32) * scale
            for i in range(args.kernels)
        }
        kernels = chain(args.kernels, args.channels, workers)
        self.trainer = stack.enter_context(
            ane.DoubleBufferedTrainer(kernels, self.weights, staleness=0, workers=workers)
        )
        self.trainer.surface("k0", "i00_x").write(
            rng.standard_normal((1, args.channels, 1, WIDTH)).astype(np.float16)
        )
        self.names = [f"k{i}" for i in range(args.kernels)]
        self.walls: list[float] = []
        self.stats: list[ane.BatchStats] = []

    def batch(self) -> None:
        """Micro-steps, and a boundary that waits for the new weights' set."""
        for w in self.weights.values():  # stands for the optimizer, not timed
            w *= np.float32(0.999)
        begin = time.perf_counter()
        for _ in range(self.args.micro_steps):
            self.trainer.run(self.names)
            self.trainer.micro_step()
        stats = self.trainer.step(self.weights)
        self.walls.append((time.perf_counter() - begin) * 1e3)
        self.stats.append(stats)

    def result(self) -> dict[str, Any]:
        """Medians of all but the first two batches, in milliseconds."""
        stats = self.stats[2:]
        jobs = [s.compile_ms for s in stats if s.compile_ms is not None]
        pool = self.trainer.workers.stats() if self.trainer.workers else None
        return {
            "workers": self.workers,
            "job_ms": round(float(np.median(jobs)), 2),
            "job_p90_ms": round(float(np.percentile(jobs, 90)), 2),
            "compiler_ms": round(float(np.median([s.engine_compile_ms or 0 for s in stats])), 2),
            "batch_ms": round(float(np.median(self.walls[2:])), 2),
            "compiled_here": sum(s.programs_compiled for s in stats),
            "compiled_by_workers": pool.compiles if pool else 0,
            "fallbacks": pool.fallbacks if pool else 0,
        }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All modes in turns."""
    engine = ane.Engine()
    if not engine.software:
        raise SystemExit("the timing of a chip is softane's: on hardware use `ane-native probe`")
    with soft.using(timing=args.timing, timing_scale=args.scale, compile_limit=0):
        with contextlib.ExitStack() as stack:
            modes = [Mode(workers, args, stack) for workers in MODES]
            for _ in range(args.batches + 2):
                for mode in modes:
                    mode.batch()
            rows = [mode.result() for mode in modes]
        for row in rows:
            row["speed_up"] = round(rows[0]["job_ms"] / row["job_ms"], 3)
        return {
            "engine": engine.label,
            "timing_scale": args.scale,
            "kernels": args.kernels,
            "channels": args.channels,
            "micro_steps": args.micro_steps,
            "batches": args.batches,
            "rows": rows,
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--timing", default="m4")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the chip's times [1]")
    parser.add_argument("--kernels", type=int, default=12, help="programs of a set [12]")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--micro-steps", type=int, default=2)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.kernels < 1 or args.batches < 1 or args.scale <= 0:
        parser.error("expected 1 kernel or more, 1 batch or more, a scale above 0")
    result = measure(args)
    print(f"{result['engine']}, scale {args.scale}: {args.kernels} programs per set")
    print("workers   job p50 ms      p90   compiler   batch ms   speed-up")
    for row in result["rows"]:
        print(
            f"{row['workers']:7d}   {row['job_ms']:10.1f}   {row['job_p90_ms']:6.1f}"
            f"   {row['compiler_ms']:8.1f}   {row['batch_ms']:8.1f}   {row['speed_up']:8.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
