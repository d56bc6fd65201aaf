# SPDX-License-Identifier: MIT
"""The first evaluation of a new program: sound deep backward kernels pass, bad weights and bad
engines do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, nn, soft
from ane_native.graphmodel import GraphModel, differentiate
from ane_native.models.llama import PRESETS, LlamaProgram
from ane_native.partition import Limits

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")


def transformer(layers: int, dim: int, tokens: int) -> mil.Graph:
    g = mil.Graph()
    h = g.input("x", (1, dim, 1, tokens))
    for i in range(layers):
        h = h + nn.attention(nn.rms_norm(h, f"l{i}.n1"), f"l{i}.att", heads=4)
        h = h + nn.swiglu(nn.rms_norm(h, f"l{i}.n2"), 2 * dim, f"l{i}.ffn")
    g.output("logits", nn.linear(nn.rms_norm(h, "norm"), 64, "head"))
    return g


def fused(layers: int, dim: int = 64, tokens: int = 64) -> tuple[GraphModel, dict[str, Any]]:
    """Forward and backward as one kernel each, and weights."""
    graph = transformer(layers, dim, tokens)
    limits = Limits.of().but(operations=None, ports=None, kernels=None)
    model = differentiate(graph, limits=limits)
    assert len(model.plans["backward"]) == 1
    return model, nn.init_weights(graph, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("layers", "dim", "tokens", "numerics", "repeats"),
    [
        (4, 128, 128, "fast", 0),
        (8, 128, 128, "fast", 2),
        (8, 64, 256, "fast", 2),
        (4, 64, 64, "silicon", 0),
    ],
)
def test_the_backward_of_many_layers_as_one_kernel_passes(
    layers: int, dim: int, tokens: int, numerics: str, repeats: int
) -> None:
    model, weights = fused(layers, dim, tokens)
    with soft.using(numerics=numerics):
        with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
            assert trainer.stats is not None
            assert trainer.stats.canaries_repeated == repeats
            grads = {n: np.zeros_like(w) for n, w in weights.items()}
            step = model.on(trainer, grads)
            step.forward(np.random.default_rng(1).standard_normal((1, dim, 1, tokens)))
            step.backward(np.full((1, 64, 1, tokens), 1.0 / tokens))
            assert all(np.isfinite(g).all() and g.any() for g in grads.values())


@pytest.mark.parametrize("numerics", ["fast", "silicon", "ieee"])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e6])
@pytest.mark.parametrize("name", ["l0.att.wq.weight", "l1.ffn.w2.weight"])
def test_a_weight_that_is_not_finite_is_refused(name: str, bad: float, numerics: str) -> None:
    model, weights = fused(2, 32, 32)
    weights[name] = weights[name].copy()
    weights[name].flat[5] = bad
    sets = [model.kernel_set(), ane.KernelSet(model.plans["forward"].kernels())]
    if numerics != "silicon":  # there 0 times infinity is nothing
        sets.append(ane.KernelSet(model.plans["backward"].kernels()))
    for kernels in sets:
        with soft.using(numerics=numerics), pytest.raises(ane.CanaryError, match="is not finite"):
            ane.DoubleBufferedTrainer(kernels, weights)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("run.nan=1*return->off", "gives other results"),
        ("run.nan=1*off->1*return->off", "gives other results"),
        ("run.nan=return", "nor with smaller inputs"),
        ("run.stale=1*return->off", "was not written"),
        ("run.stale=return", "was not written"),
        ("run.nan=1*return->off;run.stale=1*off->1*return->off", "was not written"),
    ],
)
def test_an_engine_that_returns_what_it_should_not_is_refused(fault: str, message: str) -> None:
    model, weights = fused(2, 32, 32)
    soft.set("failpoints", fault)
    with pytest.raises(ane.CanaryError, match=message):
        ane.DoubleBufferedTrainer(model.kernel_set(), weights)
    soft.set("failpoints", "")
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
        assert trainer.generation == 0


def squares(times: int, power: int = 2) -> ane.KernelSet:
    """Kernels y = g ** power x, which overflow on the usual inputs where g is large."""
    kernels = []
    for i in range(times):
        g = mil.Graph()
        y = g.input("x", (1, 4, 1, 32))
        for _ in range(power):
            y = y * g.weight(f"g{i}", (1, 4, 1, 1))
        g.output("y", y)
        t = g.build()
        kernels.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    return ane.KernelSet(kernels)


def gains(*values: float) -> dict[str, Any]:
    return {f"g{i}": np.full(4, v, np.float32) for i, v in enumerate(values)}


def test_a_program_that_overflows_is_tried_with_smaller_inputs_and_counted() -> None:
    with ane.DoubleBufferedTrainer(squares(2), gains(1.0, 1000.0), staleness=0) as trainer:
        assert trainer.stats is not None
        assert trainer.stats.canaries_repeated == 2  # the same again, then smaller ones
        # the size that was right is where the next generation begins
        assert trainer.step(gains(2.0, 1001.0)).canaries_repeated == 0
        assert trainer.step(gains(1000.0, 2.0)).canaries_repeated == 2
        with pytest.raises(ane.CanaryError, match="nor with smaller inputs"):
            trainer.step(gains(1.0, 60000.0))
        assert trainer.generation == 2


def test_overflowing_procedures_of_one_program_are_told_apart() -> None:
    for values in ((1000.0, 1001.0, 1.0), (1000.0, 1000.0)):
        kernels, given = squares(len(values)), gains(*values)
        names = [[k.name for k in kernels.kernels]]
        if len(set(values)) == len(values):
            with ane.DoubleBufferedTrainer(kernels, given, packing=names) as trainer:
                assert trainer.stats is not None
                assert trainer.stats.programs == 1
                y = trainer.eval("k1", np.full((1, 4, 1, 32), 2.0**-10))
                np.testing.assert_array_equal(y, np.float32(np.float16(978.5)))
        else:
            with pytest.raises(ane.CanaryError, match="the same results"):
                ane.DoubleBufferedTrainer(kernels, given, packing=names)
    with soft.using(procedures="first"), pytest.raises(ane.CanaryError, match="the same results"):
        ane.DoubleBufferedTrainer(squares(3), gains(1000.0, 1.0, 2.0), packing=[["k0", "k1", "k2"]])


def test_ports_of_gradients_are_marked_whoever_made_the_kernel() -> None:
    graph = transformer(2, 32, 32)
    model = differentiate(graph, limits=Limits.of().but(operations=40, kernels=None))
    forward, backward = (model.plans[w].kernels() for w in ("forward", "backward"))
    assert len(backward) > 2
    assert not any(p.adjoint for k in forward for p in k.inputs)
    for kernel in backward:  # each gets the gradient of what is above it
        assert any(p.adjoint for p in kernel.inputs)
        assert not any("_t_" in p.name and p.adjoint for p in kernel.inputs)
    for kernel in LlamaProgram(PRESETS["tiny"]).kernel_set().kernels:
        marked = [p.name for p in kernel.inputs if p.adjoint]
        expected = "i00_dlogits" if kernel.name == "head_bwd" else "i00_dy"
        assert marked == ([expected] if kernel.name.endswith("_bwd") else [])


def test_an_adjoint_that_is_no_input_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"adjoints: expected among x; got 'y'"):
        ane.Kernel("k", "program", inputs={"x": (1, 2)}, outputs={"y": (1, 2)}, adjoints=["y"])
