# SPDX-License-Identifier: MIT
"""Linear regression from numpy: the graph is three lines, its backward kernel is derived.

The next weights compile in the background while the current ones train.

    python examples/03_linear_regression.py [--updates 30]
"""

import argparse

import numpy as np

import ane_native as ane
from ane_native import mil, nn, soft
from ane_native.graphmodel import differentiate

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--updates", type=int, default=30)
args = parser.parse_args()

FEATURES, SAMPLES, MICRO_STEPS, RATE, SCALE = 16, 64, 4, 0.1, 64.0

g = mil.Graph()
x_in = g.input("x", (1, FEATURES, 1, SAMPLES))  # one column per sample
g.output("y", g.weight("w", (1, FEATURES)) @ x_in + g.weight("b", (1, 1, 1, 1)))
model = differentiate(g)

rng = np.random.default_rng(0)
true_w, true_b = rng.standard_normal((1, FEATURES)), 0.5
weights = {"w": np.zeros((1, FEATURES), np.float32), "b": np.zeros(1, np.float32)}
grads = {name: np.zeros_like(w) for name, w in weights.items()}

print(ane.Engine())
if ane.Engine().software:
    soft.set("compile_limit", 0)
with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
    step = model.on(trainer, grads)
    for update in range(args.updates):
        loss = 0.0
        for gradient in grads.values():
            gradient[:] = 0
        for _ in range(MICRO_STEPS):
            x = rng.standard_normal((FEATURES, SAMPLES))
            error, dy = nn.mse(step.forward(x), true_w @ x + true_b, scale=SCALE)
            step.backward(dy)
            loss += error / MICRO_STEPS
        weights = {n: w - RATE / (MICRO_STEPS * SCALE) * grads[n] for n, w in weights.items()}
        stats = trainer.step(weights)
        print(
            f"update {update:3}  loss {loss:.5f}  stall {stats.compile_stall_ms:6.3f} ms  "
            f"generation {stats.generation}  staleness {stats.staleness}"
        )
print(f"largest error of a coefficient: {np.abs(weights['w'] - true_w).max():.4f}")
