# SPDX-License-Identifier: MIT
"""What packing makes of a 12-layer model: compiles per update, programs loaded at the peak.

    python benchmarks/compiles_per_update.py [--full] [--dim D] [--updates N] [--packing auto|none|N]

The default is the shape of Stories110M with small matrices (12 layers, 4 kernels each, and
two for the head) on whatever engine is there; ``--full`` takes the true sizes, on which the
cost model decides as it would in a real run (needs about 4 GB and some minutes). The engine's
limits of a process are left as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np

import ane_native as ane
from ane_native.models.llama import (
    PRESETS,
    LlamaConfig,
    LlamaProgram,
    init_params,
    parameter_shapes,
)
from ane_native.packing import pack


def measure(config: LlamaConfig, choice: object, updates: int) -> dict[str, object]:
    """Run some updates with other weights each; counts of the engine, not of the plan."""
    program = LlamaProgram(config)
    kernels = program.kernel_set()
    weights = init_params(config, np.random.default_rng(0))
    if isinstance(choice, int) or choice == "like stories110m":
        choice = choice if isinstance(choice, int) else stories_groups()
    peak, compiles = 0, []
    with ane.DoubleBufferedTrainer(kernels, weights, packing=choice) as trainer:
        for _ in range(updates):
            weights = {n: w * np.float32(1.001) for n, w in weights.items()}
            before = int(ane.Engine().info()["compiles"])
            while trainer.compiling:  # let the pending set be whole beside the active one
                time.sleep(0.001)
            peak = max(peak, int(ane.Engine().info()["loaded"]))
            trainer.step(weights)
            while trainer.compiling:
                time.sleep(0.001)
            peak = max(peak, int(ane.Engine().info()["loaded"]))
            compiles.append(int(ane.Engine().info()["compiles"]) - before)
            trainer.run(program.forward)
        return {
            "engine": trainer.engine.label,
            "kernels": len(kernels),
            "packing": trainer.packing.why,
            "fallback": trainer.packing.fallback,
            "programs": [len(s.kernels) for s in trainer.packing.sources],
            "compiles_per_update": max(compiles),
            "programs_loaded_peak": peak,
        }


def stories_groups() -> list[list[str]]:
    """The groups that the cost model chooses for the true sizes; needs no engine."""
    config = PRESETS["stories110m"]
    kernels = LlamaProgram(config).kernel_set()
    sizes = {n: int(np.prod(s)) for n, s in parameter_shapes(config).items()}
    return [
        [kernels.kernels[k].name for k in source.kernels]
        for source in pack(kernels, sizes, "auto").sources
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compiles per update of a 12-layer model.")
    parser.add_argument("--full", action="store_true", help="the true sizes of Stories110M")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument(
        "--packing", default="like stories110m", help="auto, none, a number of programs"
    )
    args = parser.parse_args()
    config = PRESETS["stories110m"]
    if not args.full:
        config = LlamaConfig(dim=args.dim, hidden=2 * args.dim, layers=12, heads=2, seq=32)
    choice: object = args.packing
    choice = None if choice == "none" else int(args.packing) if args.packing.isdigit() else choice
    print(json.dumps(measure(config, choice, args.updates), indent=1))


if __name__ == "__main__":
    os.environ.setdefault("ANE_NATIVE_ENGINE", "softane")
    main()
