# SPDX-License-Identifier: MIT
"""Layers: baked and run-time weights agree, gradients are right, LoRA compiles nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gradcases import finite_differences, gradients, problem, worst

import ane_native as ane
from ane_native import nn, soft
from ane_native.autodiff import differentiate
from ane_native.graphmodel import differentiate as model_of
from ane_native.mil import Graph, Value

D, T = 16, 32
Layer = Callable[..., Value]
LAYERS: dict[str, Layer] = {
    "linear": lambda x, bake: nn.linear(x, 24, "l", bias=True, bake=bake),
    "rms_norm": lambda x, bake: nn.rms_norm(x, "n", eps=2.0**-10, bake=bake),
    "layer_norm": lambda x, bake: nn.layer_norm(x, "n", eps=2.0**-10, bake=bake),
    "attention": lambda x, bake: nn.attention(x, "a", heads=4, bake=bake),
    "grouped": lambda x, bake: nn.attention(x, "a", heads=4, kv_heads=2, bake=bake),
    "swiglu": lambda x, bake: nn.swiglu(x, 24, "f", bake=bake),
    "gelu_mlp": lambda x, bake: nn.gelu_mlp(x, 24, "f", bake=bake),
}


def graph(layer: Layer, *, bake: bool) -> Graph:
    g = Graph()
    g.output("y", layer(g.input("x", (1, D, 1, T)), bake))
    return g


@pytest.mark.parametrize("bake", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_a_layer(name: str, bake: bool, rng: np.random.Generator) -> None:
    g = graph(LAYERS[name], bake=bake)
    p = problem(g, "conv", rng)
    names = {v.name: v.name[4:] for v in g.inputs}
    parts = differentiate(g, [*names.values(), *p.weights])
    dys = {"y": rng.standard_normal(g.outputs[0].shape)}
    want = {names.get(k, k): v for k, v in finite_differences(p, dys, rng).items()}
    # gelu's and rope's constants stand in the text as fp16, in both directions alike
    assert worst(gradients(parts, p, dys), want) < 1e-4


@pytest.mark.parametrize("name", LAYERS)
def test_baked_and_run_time_weights_give_the_same_result(
    name: str, rng: np.random.Generator
) -> None:
    baked, dynamic = graph(LAYERS[name], bake=True), graph(LAYERS[name], bake=False)
    p = problem(baked, "conv", rng)
    x = rng.standard_normal((1, D, 1, T))
    by_port = {k.replace(".", "_"): v for k, v in p.weights.items()}
    outs = []
    for g, inputs in (
        (baked, [x]),
        (dynamic, [by_port.get(v.name[4:], x).reshape(v.shape) for v in dynamic.inputs]),
    ):
        text = g.build()
        kernel = ane.Kernel(
            name, text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
        )
        with ane.Program(kernel, p.weights if g is baked else {}) as program:
            outs.append(program.eval(*inputs))
    assert np.allclose(outs[0], outs[1], rtol=2.0**-8, atol=2.0**-8)


def test_lora_trains_without_a_compile(rng: np.random.Generator) -> None:
    g = Graph()
    g.output("y", nn.lora(g.input("x", (1, D, 1, T)), D, "q", rank=4, alpha=8.0))
    model = model_of(g, ["q_lora_a_weight", "q_lora_b_weight"])
    base = rng.standard_normal((D, D)).astype(np.float32) / 4
    target = base + rng.standard_normal((D, 2)) @ rng.standard_normal((2, D)) / 8
    a, b = rng.standard_normal((4, D)) / 4, np.zeros((D, 4))
    order = [v.name[4:] for v in g.inputs]
    losses = []
    software = ane.Engine().software
    with ane.DoubleBufferedTrainer(model.kernel_set(), {"q.weight": base}) as trainer:
        step = model.on(trainer)
        before = soft.get("compiles") if software else ""
        for _ in range(150):
            x = rng.standard_normal((D, T))
            given: dict[str, Any] = {"x": x, "q_lora_a_weight": a, "q_lora_b_weight": b}
            error = step.forward(*(given[name] for name in order)).reshape(D, T) - target @ x
            grads = step.backward(error)
            a = a - 0.1 / T * grads["q_lora_a_weight"].reshape(a.shape)
            b = b - 0.1 / T * grads["q_lora_b_weight"].reshape(b.shape)
            losses.append(float(np.mean(error**2)))
        assert (soft.get("compiles") if software else "") == before
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])


def test_wrong_shapes_are_told() -> None:
    g = Graph()
    x = g.input("x", (1, D, 1, T))
    with pytest.raises(ValueError, match="attention: expected heads that divide 16"):
        nn.attention(x, "a", heads=3)
    with pytest.raises(ValueError, match=r"linear: operand 'x': expected shape \[1, D, 1, T\]"):
        nn.linear(g.input("z", (2, D, 1, T)), 4, "l")
