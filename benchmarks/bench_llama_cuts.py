# SPDX-License-Identifier: MIT
"""A Llama cut by hand, four kernels a layer, beside the plan of the cost model.

    python benchmarks/bench_llama_cuts.py [--profile m4] [--vocab N] [PRESET ...]
    python benchmarks/bench_llama_cuts.py --measure [--laps 20] [--timing m4] tiny demo

The first prints what the cost model says, for both cuts by the same formulas: kernels of a set,
evaluations of a micro-step (dispatch, arithmetic, memory, spilling), the background compile's
share of them, ports' bytes. The second runs micro-steps of both in turn on the engine, and prints
how far apart their losses are. Models are shown with a vocabulary of 8192 rows, as many as a
compacted one has; --vocab changes that.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterable

import numpy as np

import ane_native as ane
from ane_native import soft
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaChains, LlamaConfig, LlamaProgram, init_params
from ane_native.models.llama_graph import PartitionedLlama, hand_cut_plans
from ane_native.partition import Cost, Limits, Piece

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("presets", nargs="*", default=["tiny", "demo", "stories15m", "stories110m"])
parser.add_argument("--profile", default="m4", help="whose limits and costs [m4]")
parser.add_argument("--vocab", type=int, default=8192, help="rows of large vocabularies [8192]")
parser.add_argument("--measure", action="store_true", help="run both on the engine")
parser.add_argument("--laps", type=int, default=20)
parser.add_argument("--timing", default=None, help="softane only: a profile, such as m4")


def row(name: str, cut: str, pieces: Iterable[Piece]) -> str:
    """One line of the table."""
    pieces = list(pieces)
    spent = sum(p.terms.total for p in pieces)
    compiled = sum(p.terms.compile for p in pieces)
    dispatch = sum(p.terms.dispatch for p in pieces)
    moved = sum(p.work.input_bytes + p.work.output_bytes for p in pieces) / (1 << 20)
    return (
        f"{name:12} {cut:6} {len(pieces):7} {spent - compiled:12.2f} {dispatch:9.2f} "
        f"{compiled:8.2f} {spent:7.2f} {moved:10.1f}"
    )


def of_model(name: str, config: LlamaConfig, profile: str) -> None:
    """Both cuts by the cost model's figures."""
    limits, cost = Limits.of(profile), Cost.of(profile)
    by_hand = hand_cut_plans(LlamaProgram(config), cost=cost)
    print(row(name, "layers", (p for plans in by_hand.values() for plan in plans for p in plan)))
    made = PartitionedLlama(config, limits=limits, cost=cost)
    print(row("", "auto", (p for plan in made.plans.values() for p in plan)))


def measured(name: str, config: LlamaConfig, profile: str, laps: int) -> None:
    """Micro-steps of both in turn."""
    params = init_params(config, np.random.default_rng(0))
    tokens = np.random.default_rng(1).integers(0, config.vocab, config.seq + 1).astype(np.int32)
    programs: dict[str, LlamaChains] = {
        "layers": LlamaProgram(config),
        "auto": PartitionedLlama(config, limits=Limits.of(profile), cost=Cost.of(profile)),
    }
    trainers, steps = [], {}
    times: dict[str, list[float]] = {cut: [] for cut in programs}
    losses = {}
    for cut, program in programs.items():
        trainer = ane.DoubleBufferedTrainer(program.kernel_set(), params)
        trainers.append(trainer)
        grads = {n: np.zeros_like(w) for n, w in params.items()}
        steps[cut] = MicroStep(program, trainer, grads)
    for lap in range(laps + 2):
        for cut, step in steps.items():
            begin = time.perf_counter()
            losses[cut] = step(tokens[:-1], tokens[1:], config.loss_scale)
            if lap > 1:
                times[cut].append((time.perf_counter() - begin) * 1e3)
    for trainer in trainers:
        trainer.close()
    by_hand, auto = (statistics.median(times[cut]) for cut in ("layers", "auto"))
    apart = abs(losses["layers"] - losses["auto"])
    print(
        f"{name:12} layers {by_hand:8.2f} ms, auto {auto:8.2f} ms, {auto / by_hand:.2f} of it; "
        f"losses {apart:.1e} apart"
    )


def main() -> None:
    """Print the table."""
    args = parser.parse_args()
    if args.measure:
        engine = ane.Engine()
        if engine.software:
            soft.set("compile_limit", 0)
            soft.set("loaded_limit", 0)
            if args.timing:
                soft.set("timing", args.timing)
        print(engine)
    else:
        print(f"by the cost model of {args.profile}, ms for each micro-step")
        print(
            f"{'model':12} {'cut':6} {'kernels':>7} {'evaluations':>12} {'dispatch':>9} "
            f"{'compile':>8} {'total':>7} {'ports MiB':>10}"
        )
    for name in args.presets:
        config = PRESETS[name]
        if config.vocab > args.vocab:
            config = dataclasses.replace(config, vocab=args.vocab)
        if args.measure:
            measured(name, config, args.profile, args.laps)
        else:
            of_model(name, config, args.profile)


if __name__ == "__main__":
    main()
