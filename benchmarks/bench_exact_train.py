# SPDX-License-Identifier: MIT
"""The training loop in exact mode (staleness=0): compiles that overlap against plain ones.

    python benchmarks/bench_exact_train.py [--model demo] [--timing m4] [--scale 1] [--batches 8]

One model, one trainer, one optimizer; batches that overlap (``overlap_exact``) and batches that
wait take turns, which changes no bit of the weights. A batch is its micro-steps, AdamW and the
boundary. Printed: medians of the stall (time lost to compiling at the boundary), of AdamW on the
training thread and of the whole batch, and the ratios. Evaluation and compile times are
softane's model of the chip (sleeping), the CPU's part is real: not a measurement of hardware.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

import ane_native as ane
from ane_native import soft
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaProgram, init_params
from ane_native.optim import AdamW
from ane_native.scheduler import DoubleBufferedTrainer
from ane_native.trace import TraceLog
from ane_native.train.boundary import Boundary

COLUMNS = ("stall ms", "AdamW ms", "batch ms")


def main() -> None:
    """Measure and print one line for each number of micro-steps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", choices=PRESETS, default="demo")
    parser.add_argument("--timing", default="m4")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the chip's times")
    parser.add_argument("--batches", type=int, default=8, help="of each kind")
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 4], metavar="N")
    args = parser.parse_args()
    if ane.Engine().software:
        soft.set("timing", args.timing)
        soft.set("timing_scale", args.scale)
        soft.set("compile_limit", 0)
    model = PRESETS[args.model]
    rng = np.random.default_rng(7)
    program = LlamaProgram(model)
    adam = AdamW(init_params(model, rng), clip=0.0)
    print(
        f"{ane.Engine().label}, timing {args.timing} x {args.scale:g}, {args.model}, {len(program.kernel_set())} kernels"
    )
    with DoubleBufferedTrainer(program.kernel_set(), adam.params, staleness=0) as trainer:
        step = MicroStep(program, trainer, adam.grads)
        for accumulate in args.accumulate:
            ends = [
                Boundary(
                    *(trainer, adam),
                    micro_steps=accumulate,
                    overlap=overlap,
                    extrapolate=False,
                    trace=TraceLog(),
                    say=print,
                    note=lambda: None,
                )
                for overlap in (False, True)
            ]
            seen: list[list[tuple[float, ...]]] = [[], []]
            for n in range(2 * args.batches + 2):
                overlap = (n + n // 2) % 2
                boundary, scale, lr = ends[overlap], adam.loss_scale.scale, 1e-4
                final = None
                for left in reversed(range(accumulate)):
                    tokens, targets = rng.integers(0, model.vocab, (2, model.seq), np.int32)
                    if not left:
                        final = boundary.last_micro_step(lr, scale)
                    step(tokens, targets, scale, final=final)
                ended = boundary.end(n, lr, scale)
                assert ended.stats is not None
                stats = ended.stats
                if n >= 2:  # the first of each kind makes buffers
                    seen[overlap].append((stats.compile_stall_ms, ended.adam_ms, stats.batch_ms))
            plain, over = (
                [statistics.median(column) for column in zip(*rows, strict=True)] for rows in seen
            )
            print(f"{accumulate} micro-steps a batch")
            for name, a, b in zip(COLUMNS, plain, over, strict=True):
                print(f"  {name:9s} plain {a:8.1f}   overlapping {b:8.1f}   ratio {b / a:.3f}")


if __name__ == "__main__":
    main()
