# SPDX-License-Identifier: MIT
"""What a boundary costs the training thread, with AdamW before it and behind it.

    python benchmarks/bench_update.py [--weights 12] [--dim 768] [--rounds 15]

Each weight [dim, dim] is baked by two kernels, plain and transposed. Both ways run in turns in
one process; every boundary finds its set ready, so nothing is waited for. Prints medians in
milliseconds. The last lines are the background work of one update: optimizer and bake as one
pass against one after the other. The figures are of this machine's processor and say the engine.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import ane_native as ane
from ane_native import mil, soft
from ane_native.optim import AdamW


def kernels(count: int, dim: int) -> ane.KernelSet:
    """`count` pairs of 1x1 convolutions over the same weight, plain and transposed."""
    made = []
    for i in range(count):
        for side, weight in (("f", f"w{i}"), ("b", ane.Weight(f"w{i}", transpose=True))):
            f = mil.Function()
            w = f.weight("w", (dim, dim, 1, 1), weight)
            f.output("y", f.conv(f.input("x", (1, dim, 1, 32)), w))
            t = f.build()
            made.append(
                ane.Kernel(
                    f"{side}{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights
                )
            )
    return ane.KernelSet(made)


def ready(trainer: ane.DoubleBufferedTrainer) -> None:
    """Wait, as a long batch would, until the set is there."""
    while trainer.compiling:
        time.sleep(0.002)


class Side:
    """One trainer with its optimizer, and what it measured."""

    def __init__(self, background: bool, count: int, dim: int) -> None:
        rng = np.random.default_rng(int(background))  # sets the other has not compiled
        shape = (dim, dim)
        params = {f"w{i}": rng.standard_normal(shape, np.float32) / dim for i in range(count)}
        self.background = background
        self.adam = AdamW(params)
        self.trainer = ane.DoubleBufferedTrainer(
            kernels(count, dim), self.adam.params, update=self.adam if background else None
        )
        self.boundary: list[float] = []
        self.optimizer: list[float] = []
        self.bake: list[float] = []

    def step(self) -> None:
        """One batch without evaluations."""
        for g in self.adam.grads.values():
            g.fill(1.0)
        ready(self.trainer)
        begin = time.perf_counter()
        if self.background:
            stats = self.trainer.step_update(lr=1e-3)
            self.optimizer.append(stats.optimizer_ms)
        else:
            self.adam.update(lr=1e-3, micro_steps=1, oldest_needed=self.trainer.oldest_needed)
            self.optimizer.append((time.perf_counter() - begin) * 1e3)
            stats = self.trainer.step(self.adam.params, handover=True)
            self.adam.handed_over(stats.newest, stats.submitted)
        self.boundary.append((time.perf_counter() - begin) * 1e3)
        if stats.bake_ms is not None:
            self.bake.append(stats.bake_ms)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of the update at a boundary.")
    parser.add_argument("--weights", type=int, default=12)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if ane.Engine().software:
        soft.set("compile_limit", 0)
    sides = [Side(background, args.weights, args.dim) for background in (False, True)]
    for _ in range(args.rounds + 3):
        for side in sides:
            side.step()
    print(f"{ane.Engine().label}: {args.weights} weights of {args.dim} x {args.dim}")
    for side in sides:
        parts = (side.boundary, side.optimizer, side.bake)
        boundary, optimizer, bake = (statistics.median(p[3:]) for p in parts)
        where = "background" if side.background else "foreground"
        print(
            f"{where}: boundary {boundary:8.3f} ms of the training thread; "
            f"optimizer {optimizer:7.2f} ms, bake {bake:7.2f} ms (files and hashing included)"
        )
        side.trainer.close()


if __name__ == "__main__":
    main()
