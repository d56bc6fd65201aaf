# SPDX-License-Identifier: MIT
"""The smallest training script: a numpy loop, two weights, the next compile in the background.

A two-layer network learns y = sin(2x) on 64 points. The forward pass is one kernel with both
weights baked in; the backward pass is four lines of numpy. After every update the kernel is
recompiled while the next batch runs; the line printed per batch shows what that cost.

    python examples/01_two_weights.py
"""

import numpy as np

import ane_native as ane
from ane_native import mil

POINTS, HIDDEN, UPDATES, MICRO_STEPS, RATE = 64, 64, 40, 64, 0.01

# The kernel: y = w2 · tanh(w1 · x), and the tap h that the backward pass needs.
f = mil.Function()
x_in = f.input("x", (1, 2, 1, POINTS))
w1_in = f.weight("w1", (HIDDEN, 2, 1, 1), "w1")
w2_in = f.weight("w2", (1, HIDDEN, 1, 1), "w2")
h_out = f.tanh(f.conv(x_in, w1_in))
f.output("y", f.conv(h_out, w2_in))
f.output("h", h_out)
text = f.build()
kernel = ane.Kernel(
    "forward", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
)

rng = np.random.default_rng(0)
w1 = rng.standard_normal((HIDDEN, 2)).astype(np.float32)
w2 = (rng.standard_normal((1, HIDDEN)) / np.sqrt(HIDDEN)).astype(np.float32)

print(ane.Engine())
with ane.DoubleBufferedTrainer(ane.KernelSet([kernel]), {"w1": w1, "w2": w2}) as trainer:
    for update in range(UPDATES):
        g1, g2, loss = np.zeros_like(w1), np.zeros_like(w2), 0.0
        w2_active = trainer.active_weights["w2"]  # what the kernel in use was baked from
        for _ in range(MICRO_STEPS):
            x = np.stack([rng.uniform(-2, 2, POINTS), np.ones(POINTS)]).astype(np.float32)
            target = np.sin(2 * x[0])
            y, h = trainer.eval("forward", x.reshape(1, 2, 1, POINTS))
            y, h = y.reshape(1, POINTS), h.reshape(HIDDEN, POINTS)
            dy = 2 * (y - target) / POINTS
            g2 += dy @ h.T
            g1 += (w2_active.T @ dy * (1 - h * h)) @ x.T
            loss += float(np.mean((y - target) ** 2))
            trainer.micro_step()
        w1 = w1 - RATE / MICRO_STEPS * g1
        w2 = w2 - RATE / MICRO_STEPS * g2
        s = trainer.step({"w1": w1, "w2": w2})
        print(
            f"update {update:3}  loss {loss / MICRO_STEPS:.4f}  stall {s.compile_stall_ms:6.3f} ms  "
            f"compile {s.compile_ms or 0:6.2f} ms ({s.evals_during_compile} evals meanwhile)  "
            f"generation {s.generation}  staleness {s.staleness}"
        )
