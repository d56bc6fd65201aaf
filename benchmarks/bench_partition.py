# SPDX-License-Identifier: MIT
"""A micro-step of one graph, as one kernel each way and cut into more and more of them.

    python benchmarks/bench_partition.py [--layers 4] [--dim 128] [--laps 20] [--timing m4]

The same transformer, the same gradients; forward and backward of all plans in turn, so that
all meet the same machine. Without --timing softane computes as fast as it can; with it,
evaluations take what the chip's would. ``model`` is what the plan's cost model says of the
evaluations, without the share of compiles.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import ane_native as ane
from ane_native import mil, nn, soft
from ane_native.graphmodel import GraphModel, differentiate
from ane_native.partition import Cost, Limits

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--dim", type=int, default=128)
parser.add_argument("--tokens", type=int, default=128)
parser.add_argument("--laps", type=int, default=20)
parser.add_argument("--timing", default=None, help="a profile, such as m4")


def transformer(layers: int, dim: int, tokens: int) -> mil.Graph:
    """Layers of attention and SwiGLU, a head of 256."""
    g = mil.Graph()
    h = g.input("x", (1, dim, 1, tokens))
    for i in range(layers):
        h = h + nn.attention(nn.rms_norm(h, f"l{i}.n1"), f"l{i}.att", heads=4)
        h = h + nn.swiglu(nn.rms_norm(h, f"l{i}.n2"), 2 * dim, f"l{i}.ffn")
    g.output("logits", nn.linear(nn.rms_norm(h, "norm"), 256, "head"))
    return g


def evaluations(model: GraphModel) -> float:
    """Milliseconds of both chains by the cost model, compiles left out."""
    pieces = [p for plan in model.plans.values() for p in plan]
    return sum(p.terms.total - p.terms.compile for p in pieces)


def main() -> None:
    """Print a row for each plan."""
    args = parser.parse_args()
    graph = transformer(args.layers, args.dim, args.tokens)
    chip = args.timing or "default"
    weights = nn.init_weights(graph, np.random.default_rng(0))
    engine = ane.Engine()
    if engine.software:
        soft.set("compile_limit", 0)
        soft.set("loaded_limit", 0)
        if args.timing:
            soft.set("timing", args.timing)
    print(engine)
    limits = Limits.of(chip).but(kernels=None)
    plans = {"whole": limits}
    plans |= {f"{n} operations": limits.but(operations=n) for n in (160, 80, 40, 20, 10)}
    steps, trainers, times = {}, [], {}
    x = np.random.default_rng(1).standard_normal(graph.inputs[0].shape)
    dy = np.random.default_rng(2).standard_normal(graph.outputs[0].shape) / args.tokens
    for name, given in plans.items():
        model = differentiate(graph, limits=given, cost=Cost.of(chip))
        trainer = ane.DoubleBufferedTrainer(model.kernel_set(), weights)
        grads = {n: np.zeros_like(w) for n, w in weights.items()}
        trainers.append(trainer)
        steps[name] = model, model.on(trainer, grads), grads
        times[name] = []
    for lap in range(args.laps + 2):
        for name, (_, step, _) in steps.items():
            begin = time.perf_counter()
            step.forward(x)
            step.backward(dy)
            if lap > 1:
                times[name].append((time.perf_counter() - begin) * 1e3)
    whole = statistics.median(times["whole"])
    first = steps["whole"][2]
    print(f"{'plan':16} {'kernels':>8} {'ms':>8} {'of whole':>9} {'model ms':>9} {'same bits':>10}")
    for name, (model, _, grads) in steps.items():
        ms = statistics.median(times[name])
        kernels = sum(len(p) for p in model.plans.values())
        same = all(np.array_equal(grads[n], first[n]) for n in grads)
        print(
            f"{name:16} {kernels:8} {ms:8.2f} {ms / whole:9.2f} {evaluations(model):9.2f} "
            f"{'yes' if same else 'NO':>10}"
        )
    for trainer in trainers:
        trainer.close()


if __name__ == "__main__":
    main()
