# SPDX-License-Identifier: MIT
"""What a background job costs the evaluations beside it, with the policy off and on.

    python benchmarks/bench_background.py [--kernels 8] [--dim 768] [--rounds 6] [--evals 600]

Two trainers of the same kernels take turns, batch by batch: one whose background thread stays at
full priority (ANE_NATIVE_BACKGROUND=full), one that is led by the expected boundary (auto). Every
batch evaluates the whole chain a fixed number of times; an update (AdamW, bake, compile) runs
behind it, and its end is followed by evaluations with nothing behind them. Prints p50 and p99 of
evaluations idle and beside the job, their ratio, and whether the set was on time: how many
boundaries waited. The figures are of this machine's processor; run it on a quiet one.
"""

from __future__ import annotations

import argparse
import os
import statistics

import numpy as np

import ane_native as ane
from ane_native import mil, soft
from ane_native.optim import AdamW


def kernels(count: int, dim: int) -> ane.KernelSet:
    """1x1 convolutions [dim, dim] on 256 columns, each with a weight of its own."""
    made = []
    for i in range(count):
        f = mil.Function()
        w = f.weight("w", (dim, dim, 1, 1), f"w{i}")
        f.output("y", f.conv(f.input("x", (1, dim, 1, 256)), w))
        t = f.build()
        made.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    return ane.KernelSet(made)


class Side:
    """One trainer under one policy, and what its boundaries measured."""

    def __init__(self, policy: str, count: int, dim: int) -> None:
        rng = np.random.default_rng(len(policy) + ord(policy[0]))  # sets nobody else has compiled
        params = {f"w{i}": rng.standard_normal((dim, dim), np.float32) / dim for i in range(count)}
        os.environ["ANE_NATIVE_BACKGROUND"] = policy  # read when a trainer is made
        self.policy = policy
        self.adam = AdamW(params, lr=1e-3)
        self.trainer = ane.DoubleBufferedTrainer(
            kernels(count, dim), self.adam.params, update=self.adam
        )
        del os.environ["ANE_NATIVE_BACKGROUND"]
        self.names = [k.name for k in self.trainer.kernels.kernels]
        self.stats: list[ane.BatchStats] = []

    def batch(self, evals: int) -> None:
        """A batch of evaluations, then the boundary with an update behind it."""
        for g in self.adam.grads.values():
            g.fill(1.0)
        for _ in range(evals // len(self.names)):
            self.trainer.run(self.names)
        self.stats.append(self.trainer.step_update())

    def line(self) -> str:
        """Medians over the batches after the first two."""
        kept = self.stats[2:]

        def median(name: str) -> float:
            values = [getattr(s, name) for s in kept if getattr(s, name) is not None]
            return statistics.median(values) if values else float("nan")

        idle, beside = median("eval_idle_p50_ms"), median("eval_compiling_p50_ms")
        late = sum(s.wait_ms > 0 for s in kept)
        return (
            f"{self.policy:5s} p50 idle {idle:7.3f} ms, beside the job {beside:7.3f} ms "
            f"({beside / idle:5.2f} x); p99 {median('eval_idle_p99_ms'):7.3f}, "
            f"{median('eval_compiling_p99_ms'):7.3f} ms; job {median('compile_ms'):7.1f} ms, "
            f"processor {median('background_cpu_ms'):7.1f} ms, "
            f"full {median('background_full_ms'):7.1f} ms; "
            f"{late} of {len(kept)} boundaries waited, batch {median('batch_ms'):7.1f} ms"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of the background job.")
    parser.add_argument("--kernels", type=int, default=8)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--evals", type=int, default=600, help="evaluations of one batch")
    args = parser.parse_args()
    if ane.Engine().software:
        soft.set("compile_limit", 0)
    sides = [Side(policy, args.kernels, args.dim) for policy in ("full", "auto")]
    for _ in range(args.rounds + 2):
        for side in sides:
            side.batch(args.evals)
            while side.trainer.compiling:  # the other side's batch must not run beside it
                side.trainer.run(side.names)
    print(f"{ane.Engine().label}: {args.kernels} kernels {args.dim} x {args.dim} x 256")
    for side in sides:
        print(side.line())
        side.trainer.close()


if __name__ == "__main__":
    main()
