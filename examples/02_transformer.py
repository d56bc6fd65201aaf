# SPDX-License-Identifier: MIT
"""The transformer of `make demo`, driven from a script instead of the command line.

A Llama-style byte-level model learns the Python standard library. Forward and backward are
kernels with baked weights; weight gradients, AdamW, embedding and loss run on the CPU. After
every update all kernels are compiled anew, in the background.

    python examples/02_transformer.py [--updates 100] [--preset demo] [--staleness 1]
"""

import argparse

import numpy as np

import ane_native as ane
from ane_native import soft
from ane_native.data import WindowSampler, fixed_windows, open_corpus
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaProgram, init_params
from ane_native.optim import AdamW, warmup_cosine

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--updates", type=int, default=100)
parser.add_argument("--accumulate", type=int, default=4, help="micro-steps per update")
parser.add_argument("--preset", choices=PRESETS, default="demo")
parser.add_argument("--staleness", type=int, default=1)
parser.add_argument("--lr", type=float, default=4e-4)
args = parser.parse_args()

model = PRESETS[args.preset]
program = LlamaProgram(model)  # the kernels as MIL text, and how their surfaces are wired
corpus = open_corpus(None, seq=model.seq)
valid = fixed_windows(corpus.valid, model.seq, 8)
windows = WindowSampler(corpus.train, model.seq, seed=0)
# Gradients are one update old: momentum is smaller than usual, and kernels are made from weights
# predicted for the update at which they will run (docs/STALENESS.md).
adam = AdamW(
    init_params(model, np.random.default_rng(0)),
    betas=(0.7, 0.95),
    extrapolate=float(args.staleness),
    bake="float16",  # what kernels are made from; the masters themselves are updated in place
)
rate = warmup_cosine(args.lr, warmup=min(20, args.updates // 4), total=args.updates)

engine = ane.Engine()
print(engine, corpus.describe(), sep="\n")
if engine.software:
    # A set of 18 programs per update would use up the ~119 compiles a process is reported to
    # have on hardware after six updates; in software the limit is a setting.
    soft.set("compile_limit", 0)

stall = wall = 0.0
with ane.DoubleBufferedTrainer(
    program.kernel_set(), adam.baked, staleness=args.staleness
) as trainer:
    micro_step = MicroStep(program, trainer, adam.grads)
    before = micro_step.evaluate(valid)
    for update in range(1, args.updates + 1):
        losses = []
        for _ in range(args.accumulate):
            tokens, targets = windows.next()
            losses.append(micro_step(tokens, targets, adam.loss_scale.scale))
        trainer.install()  # what is ready: the buffer of what was active is written next
        info = adam.update(
            lr=rate(update - 1),
            micro_steps=args.accumulate,
            oldest_needed=trainer.oldest_needed,
        )
        if not info.applied:
            print(f"update {update}: gradients were not finite, loss scale halved")
            trainer.step(None)
            continue
        stats = trainer.step(adam.baked, handover=True)  # nothing is copied
        adam.handed_over(stats.newest, stats.submitted)
        stall += stats.compile_stall_ms
        wall += stats.batch_ms
        print(
            f"update {update:4}/{args.updates}  loss {np.mean(losses):.3f}  "
            f"stall {stats.compile_stall_ms:6.2f} ms of {stats.batch_ms:6.1f}  "
            f"compile {stats.compile_ms or 0:6.1f} ms beside {stats.evals_during_compile} evals  "
            f"generation {stats.generation}  staleness {stats.staleness}"
        )
    after = micro_step.evaluate(valid)
print(
    f"validation {before:.3f} -> {after:.3f} nats per byte (unigram entropy "
    f"{corpus.unigram_entropy:.3f}); stalled {stall:.0f} ms of {wall:.0f} ({stall / wall:.2%})"
)
