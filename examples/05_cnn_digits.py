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
from ane_native import nn, soft
from ane_native.graphmodel import differentiate
from ane_native.models.cnn import CnnConfig, cnn, init_params

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--updates", type=int, default=150)
args = parser.parse_args()

BATCH, MICRO_STEPS, RATE, SCALE = 64, 4, 0.1, 64.0

config = CnnConfig(size=8, channels=1, widths=(16, 32), pools=1, classes=10, batch=BATCH)
model = differentiate(cnn(config))  # x [BATCH, 1, 8, 8] -> logits [BATCH, 10, 1, 1]

digits = load_digits()
images = (digits.images / 16.0).astype(np.float32)  # [1797, 8, 8]
labels = digits.target
train, valid = np.arange(1500), np.arange(len(labels) - 2 * BATCH, len(labels))

rng = np.random.default_rng(0)
weights = init_params(config, rng)
grads = {name: np.zeros_like(w) for name, w in weights.items()}

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
            # fp16 gradients: the scale keeps them away from zero
            loss, dlogits = nn.cross_entropy(logits_of(batch), labels[batch], scale=SCALE)
            step.backward(dlogits)
            losses.append(loss)
        weights = {n: w - RATE / (MICRO_STEPS * SCALE) * grads[n] for n, w in weights.items()}
        stats = trainer.step(weights)
        print(
            f"update {update:3}  loss {np.mean(losses):.4f}  stall {stats.compile_stall_ms:6.3f} "
            f"ms  generation {stats.generation}  staleness {stats.staleness}"
        )
    parts = valid.reshape(-1, BATCH)
    right = np.mean([logits_of(part).argmax(axis=1).ravel() == labels[part] for part in parts])
print(f"accuracy {right:.3f} on {valid.size} images the network was not trained on")
