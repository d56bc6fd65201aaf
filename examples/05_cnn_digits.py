# SPDX-License-Identifier: MIT
"""A small convolutional network on scikit-learn's handwritten digits, written as in numpy.

Forward and backward run as kernels with baked weights; every update they are compiled anew
while the next batch runs. Needs ``pip install 'ane-native[examples]'``.

    python examples/05_cnn_digits.py [--updates 150]
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

C1, C2, CLASSES, BATCH, MICRO_STEPS, RATE, SCALE = 8, 16, 10, 64, 4, 0.4, 64.0
SAME = {"pad_type": "custom", "pad": (1, 1, 1, 1)}  # a 3x3 kernel keeps the size

g = mil.Graph()
x_in = g.input("x", (BATCH, 1, 8, 8))
h = mil.conv(x_in, g.weight("k1", (C1, 1, 3, 3)), **SAME) + g.weight("b1", (1, C1, 1, 1))
h = mil.max_pool(mil.relu(h), (2, 2), strides=(2, 2), pad_type="valid")  # [BATCH, C1, 4, 4]
h = mil.conv(h, g.weight("k2", (C2, C1, 3, 3)), **SAME) + g.weight("b2", (1, C2, 1, 1))
h = mil.relu(h).reshape(BATCH, C2 * 16)
g.output("logits", h @ g.weight("w", (C2 * 16, CLASSES)) + g.weight("b3", (1, CLASSES)))
model = differentiate(g)

digits = load_digits()
images = (digits.images / 16.0).astype(np.float32)  # [1797, 8, 8]
labels = digits.target
train, valid = np.arange(1500), np.arange(len(labels) - 2 * BATCH, len(labels))

rng = np.random.default_rng(0)


def normal(*shape: int, fan_in: int) -> np.ndarray:
    return (rng.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)


weights = {
    "k1": normal(C1, 1, 3, 3, fan_in=9),
    "b1": np.zeros(C1, np.float32),
    "k2": normal(C2, C1, 3, 3, fan_in=9 * C1),
    "b2": np.zeros(C2, np.float32),
    "w": normal(C2 * 16, CLASSES, fan_in=16 * C2),
    "b3": np.zeros(CLASSES, np.float32),
}
grads = {name: np.zeros_like(w) for name, w in weights.items()}


def cross_entropy(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean loss, and its gradient by the logits [batch, classes]."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    row = np.arange(target.size)
    loss = -np.log(p[row, target]).mean()
    p[row, target] -= 1
    return float(loss), p / target.size


print(ane.Engine())
if ane.Engine().software:
    soft.set("compile_limit", 0)
with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
    step = model.on(trainer, grads)

    def logits_of(batch: np.ndarray) -> np.ndarray:
        return step.forward(images[batch])

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
    parts = valid.reshape(-1, BATCH)
    right = np.mean([logits_of(part).argmax(axis=1) == labels[part] for part in parts])
print(f"accuracy {right:.3f} on {valid.size} images the network was not trained on")
