# SPDX-License-Identifier: MIT
"""A two-layer network on scikit-learn's handwritten digits, written as in numpy.

Forward and backward run as kernels with baked weights; every update they are compiled anew
while the next batch runs. Needs ``pip install 'ane-native[examples]'``.

    python examples/04_mlp_digits.py [--updates 150]
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits

import ane_native as ane
from ane_native import mil, soft
from ane_native.graphmodel import differentiate

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--updates", type=int, default=150)
args = parser.parse_args()

PIXELS, HIDDEN, CLASSES, BATCH, MICRO_STEPS, RATE, SCALE = 64, 64, 10, 128, 4, 0.5, 64.0

g = mil.Graph()
x_in = g.input("x", (1, PIXELS, 1, BATCH))  # one column per image
w1, b1 = g.weight("w1", (HIDDEN, PIXELS)), g.weight("b1", (1, HIDDEN, 1, 1))
w2, b2 = g.weight("w2", (CLASSES, HIDDEN)), g.weight("b2", (1, CLASSES, 1, 1))
g.output("logits", w2 @ mil.relu(w1 @ x_in + b1) + b2)
model = differentiate(g)

digits = load_digits()
images = (digits.data / 16.0).T.astype(np.float32)  # [64, 1797]
labels = digits.target
train, valid = np.arange(1500), np.arange(len(labels) - 2 * BATCH, len(labels))

rng = np.random.default_rng(0)
weights = {
    "w1": (rng.standard_normal((HIDDEN, PIXELS)) * (2 / PIXELS) ** 0.5).astype(np.float32),
    "b1": np.zeros(HIDDEN, np.float32),
    "w2": (rng.standard_normal((CLASSES, HIDDEN)) * (2 / HIDDEN) ** 0.5).astype(np.float32),
    "b2": np.zeros(CLASSES, np.float32),
}
grads = {name: np.zeros_like(w) for name, w in weights.items()}


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean loss, and its gradient by the logits [classes, batch]."""
    e = np.exp(logits - logits.max(axis=0))
    p = e / e.sum(axis=0)
    column = np.arange(target.size)
    loss = -np.log(p[target, column]).mean()
    p[target, column] -= 1
    return float(loss), p / target.size


print(ane.Engine())
if ane.Engine().software:
    soft.set("compile_limit", 0)
with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
    step = model.on(trainer, grads)

    def logits_of(batch: np.ndarray) -> np.ndarray:
        return step.forward(images[:, batch]).reshape(CLASSES, BATCH)

    for update in range(args.updates):
        losses = []
        for gradient in grads.values():
            gradient[:] = 0
        for _ in range(MICRO_STEPS):
            batch = rng.choice(train, BATCH, replace=False)
            loss, dlogits = cross_entropy(logits_of(batch), labels[batch])
            step.backward(dlogits * SCALE)  # fp16 gradients: keep them away from zero
            losses.append(loss)
        weights = {n: w - RATE / (MICRO_STEPS * SCALE) * grads[n] for n, w in weights.items()}
        stats = trainer.step(weights)
        print(
            f"update {update:3}  loss {np.mean(losses):.4f}  stall {stats.compile_stall_ms:6.3f} "
            f"ms  generation {stats.generation}  staleness {stats.staleness}"
        )
    parts = valid.reshape(2, BATCH)
    right = np.mean([logits_of(part).argmax(axis=0) == labels[part] for part in parts])
print(f"accuracy {right:.3f} on {valid.size} images the network was not trained on")
