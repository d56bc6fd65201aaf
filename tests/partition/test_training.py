# SPDX-License-Identifier: MIT
"""A transformer cut at different limits: the same losses and gradients, trained with staleness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, nn
from ane_native.graphmodel import GraphModel, differentiate
from ane_native.partition import Limits

D, F, T, V, LAYERS = 16, 32, 32, 24, 4
LIMITS: dict[str, Limits] = {
    "operations": Limits.of().but(operations=40),
    "ports": Limits.of().but(operations=70, ports=24),
    "weight_bytes": Limits.of().but(weight_bytes=4 * D * D * 2 + T * T * 2 + 1000),
    "compile_ms": Limits.of().but(compile_ms=60.0),
}
EPS = 2.0**-10


def transformer(layers: int = LAYERS) -> mil.Graph:
    g = mil.Graph()
    h = x = g.input("x", (1, D, 1, T))
    for i in range(layers):
        h = h + nn.attention(nn.rms_norm(h, f"l{i}.n1", eps=EPS), f"l{i}.att", heads=2)
        h = h + nn.swiglu(nn.rms_norm(h, f"l{i}.n2", eps=EPS), F, f"l{i}.ffn")
    g.output("logits", nn.linear(nn.rms_norm(h, "norm", eps=EPS), V, "head", bias=True))
    assert x in g.live()
    return g


def fresh(graph: mil.Graph) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    made: dict[str, Any] = {}
    for s in graph.statements:
        found = graph.weight_source(s.results[0]) if s.op == "const" else None
        if found is not None:
            shape = s.results[0].shape[:2]
            scale = 1.0 if "norm" in found[0] or ".n" in found[0] else 0.25
            made[found[0]] = (rng.standard_normal(shape) * scale).astype(np.float32)
            made[found[0]] = made[found[0]].reshape(s.results[0].shape)
    return made


def train(model: GraphModel, updates: int = 3, staleness: int = 1) -> tuple[list[float], Any]:
    """Losses, and every gradient of the first micro-step."""
    graph = model.parts.forward_graph
    weights = fresh(graph)
    grads = {name: np.zeros_like(w) for name, w in weights.items()}
    rng = np.random.default_rng(4)
    losses, first = [], {}
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights, staleness=staleness) as trainer:
        step = model.on(trainer, grads)
        for update in range(updates):
            for gradient in grads.values():
                gradient[:] = 0
            for _ in range(2):
                x = rng.standard_normal((1, D, 1, T)).astype(np.float16)
                y = rng.integers(0, V, T)
                logits = step.forward(x).reshape(V, T)
                e = np.exp(logits - logits.max(axis=0))
                p = e / e.sum(axis=0)
                losses.append(float(-np.log(p[y, np.arange(T)]).mean()))
                p[y, np.arange(T)] -= 1
                made = step.backward(p)
                if not first:
                    first = {k: v.copy() for k, v in {**grads, **made}.items()}
            weights = {n: w - np.float32(0.02) * grads[n] for n, w in weights.items()}
            stats = trainer.step(weights)
            assert stats.staleness == (min(1, update + 1) if staleness else 0)
    return losses, first


@pytest.fixture(scope="module")
def as_one() -> tuple[list[float], Any]:
    model = differentiate(transformer(), cuts={"forward": (), "backward": ()})
    assert [len(p) for p in model.plans.values()] == [1, 1]
    assert [k.name for k in model.kernels()] == ["model_forward", "model_backward"]
    return train(model)


@pytest.mark.parametrize("name", LIMITS)
def test_losses_and_gradients_do_not_depend_on_the_cuts(
    name: str, as_one: tuple[list[float], Any]
) -> None:
    model = differentiate(transformer(), limits=LIMITS[name])
    assert min(len(p) for p in model.plans.values()) > 2
    losses, gradients = train(model)
    assert losses == as_one[0]
    assert gradients.keys() == as_one[1].keys()
    for key, value in as_one[1].items():
        assert np.array_equal(gradients[key], value), key
    assert losses[-1] < losses[0]


def test_recomputed_values_and_engine_gradients_may_be_cut_too(
    as_one: tuple[list[float], Any],
) -> None:
    model = differentiate(transformer(), limits=LIMITS["operations"], keep_bytes=0)
    assert model.parts.recomputed > 0
    losses, _ = train(model)
    assert losses == as_one[0]
    engine = differentiate(transformer(), limits=LIMITS["operations"], weight_gradients="engine")
    losses, gradients = train(engine, updates=1)
    assert losses[:2] == as_one[0][:2]
    for key, value in as_one[1].items():  # fp16 sums of fp16 products
        assert np.allclose(gradients[key], value, rtol=0.02, atol=0.02 * np.abs(value).max()), key


def test_nothing_is_copied_between_kernels() -> None:
    model = differentiate(transformer(2), ["x", "head.weight"], limits=LIMITS["operations"])
    weights = fresh(model.parts.forward_graph)
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
        for to, source in model.wires.items():
            ends = [trainer.surface(*end.rsplit(".", 1)).array for end in (to, source)]
            assert np.shares_memory(*ends)
        for to in [*model.parts.wires, *model.parts.copies]:
            reads = trainer.surface(*model.port("backward", to)).array
            source = {**model.parts.wires, **model.parts.copies}[to]
            made = trainer.surface(*model.port("forward", source)).array
            assert np.shares_memory(reads, made)
        step = model.on(trainer)
        step.inputs["x"][...] = 0.5
        written = step.forward()
        assert np.array_equal(written, step.forward(np.full((D, T), 0.5)))
        assert np.array_equal(written, step.outputs["logits"].astype(np.float32))


def test_sets_of_gradients_take_turns_and_must_be_whole() -> None:
    model = differentiate(transformer(1))
    weights = fresh(model.parts.forward_graph)
    sets = [{n: np.zeros_like(w) for n, w in weights.items()} for _ in range(2)]
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
        step = model.on(trainer, sets)
        for turn in (0, 1):
            step.gradients = turn
            step.forward(np.full((D, T), 0.5))
            step.backward(np.full((V, T), 0.25))
        for name in weights:
            assert np.array_equal(sets[0][name], sets[1][name])
        with pytest.raises(ValueError, match=r"grads: expected an array for weight 'head"):
            model.on(trainer, {n: w for n, w in sets[0].items() if not n.startswith("head")})


def test_cuts_are_those_of_either_chain() -> None:
    graph = transformer(1)
    model = differentiate(graph, cuts={"forward": [10, 20], "backward": [5]}, name="t")
    assert [p.name for plan in model.plans.values() for p in plan] == [
        *("t_forward_0", "t_forward_1", "t_forward_2", "t_backward_0", "t_backward_1"),
    ]
    assert "backward: " in str(model)
    with pytest.raises(ValueError, match="cuts: expected forward and backward, got 'front'"):
        differentiate(graph, cuts={"front": []})


def test_the_optimizer_may_update_in_the_background_while_chains_run() -> None:
    model = differentiate(transformer(1), limits=Limits.of().but(operations=30))
    graph = model.parts.forward_graph
    adam = ane.AdamW(fresh(graph))
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((1, D, 1, T)).astype(np.float16), rng.integers(0, V, T)
    losses = []
    with ane.DoubleBufferedTrainer(
        model.kernel_set(), adam.params, staleness=1, update=adam
    ) as trainer:
        step = model.on(trainer, adam.gradient_sets)
        step.inputs["x"][...] = x
        for _ in range(12):
            step.gradients = adam.gradients
            step.forward()
            scale = adam.loss_scale.scale
            loss, _ = nn.cross_entropy(
                step.outputs["logits"], y, scale=scale, out=step.adjoints["logits"]
            )
            step.backward()
            losses.append(loss)
            trainer.step_update(lr=1e-2, micro_steps=1)
    assert losses[-1] < 0.7 * losses[0]
