# SPDX-License-Identifier: MIT
"""Stall of exact training (staleness=0): weights offered layer by layer against all at once.

    python benchmarks/bench_exact_overlap.py [--timing m4] [--kernels 12] [--batches 6]

One trainer, batches of both kinds in turn. A batch is the backward chain of the last
micro-step: after each kernel, last one first, that kernel's weights are final; ``offer`` gives
them away at once, the plain batch keeps them for ``step``. How long the backward takes beside
a compile decides what can be hidden, so it is swept: evaluations per kernel. Every program is
new in every batch. Printed: medians of the stall and their ratio. The chip's times are
softane's model of it (sleeping), not a measurement of hardware.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from bench_compile_stall import WIDTH, chain

import ane_native as ane
from ane_native import soft


def batch(
    trainer: ane.DoubleBufferedTrainer, weights: dict[str, np.ndarray], evals: int, offers: bool
) -> ane.BatchStats:
    """One backward chain and the boundary; all weights are new afterwards."""
    following = {}
    for i in reversed(range(len(weights))):
        for _ in range(evals):
            trainer.run([f"k{i}"])
        name = f"w{i}"
        following[name] = weights[name] * np.float32(0.999)
        if offers:
            trainer.offer({name: following[name]}, handover=True)
    trainer.micro_step()
    weights.update(following)
    return trainer.step(following, handover=True)


def main() -> None:
    """Measure and print one line for each length of the backward chain."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--timing", default="m4")
    parser.add_argument("--kernels", type=int, default=12)
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batches", type=int, default=6, help="of each kind and length")
    parser.add_argument("--evals", type=int, nargs="+", default=[1, 20, 100, 400])
    args = parser.parse_args()
    if ane.Engine().software:
        soft.set("timing", args.timing)
        soft.set("compile_limit", 0)
    rng = np.random.default_rng(7)
    shape, scale = (args.channels, args.channels), np.float32(1 / np.sqrt(args.channels))
    weights = {
        f"w{i}": rng.standard_normal(shape).astype(np.float32) * scale for i in range(args.kernels)
    }
    with ane.DoubleBufferedTrainer(
        chain(args.kernels, args.channels), weights, staleness=0
    ) as trainer:
        x = rng.standard_normal((1, args.channels, 1, WIDTH))
        trainer.surface("k0", "i00_x").write(x)
        trainer.run([f"k{i}" for i in range(args.kernels)])
        print(f"{ane.Engine().label}, timing {args.timing}, {args.kernels} kernels")
        for evals in args.evals:
            stall: dict[bool, list[float]] = {False: [], True: []}
            whole: dict[bool, list[float]] = {False: [], True: []}
            for n in range(2 * args.batches):
                offers = bool((n + n // 2) % 2)
                stats = batch(trainer, weights, evals, offers)
                stall[offers].append(stats.compile_stall_ms)
                whole[offers].append(stats.batch_ms)
            plain, offered = (statistics.median(stall[k]) for k in (False, True))
            backward = statistics.median(whole[False]) - plain
            ratio = statistics.median(whole[True]) / statistics.median(whole[False])
            print(
                f"backward {backward:8.1f} ms: stall at once {plain:7.1f} ms, offered "
                f"{offered:7.1f} ms, ratio {offered / plain:.3f}; batch ratio {ratio:.3f}"
            )


if __name__ == "__main__":
    main()
