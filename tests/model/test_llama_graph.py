# SPDX-License-Identifier: MIT
"""The Llama model as a graph of layers that the cost model cuts, beside the one cut by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import llama_autograd
import numpy as np
import pytest
from llama_problem import GROUPED, NORMED, ODD, WIDE, Problem, lively

import ane_native as ane
from ane_native import nn, reference
from ane_native.autodiff import differentiate
from ane_native.graphmodel import GraphModel
from ane_native.microstep import MicroStep
from ane_native.mil import Graph
from ane_native.models.llama import (
    PRESETS,
    LlamaChains,
    LlamaConfig,
    LlamaProgram,
    init_params,
    parameter_shapes,
)
from ane_native.models.llama_graph import PartitionedLlama, hand_cut_plans, llama_graph
from ane_native.optim import AdamW, LossScale
from ane_native.partition import Cost, Limits

SHAPES = {"tiny": PRESETS["tiny"], "odd": ODD, "wide": WIDE, "grouped": GROUPED, "normed": NORMED}
PIECES = Limits.of().but(operations=40, kernels=None)
LOSSES = 5e-3  # nats: what fp16 roundings in another order may change, here up to 0.0012


def micro_step(program: LlamaChains, case: Problem) -> tuple[float, dict[str, Any]]:
    grads = {name: np.zeros_like(value) for name, value in case.params.items()}
    with ane.DoubleBufferedTrainer(program.kernel_set(), case.params) as trainer:
        step = MicroStep(program, trainer, grads)
        loss = step(case.tokens, case.targets, program.config.loss_scale)
    return loss, {name: g / np.float32(program.config.loss_scale) for name, g in grads.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_loss_and_gradients_are_those_of_automatic_differentiation(name: str) -> None:
    case = lively(SHAPES[name])
    want_loss, want = llama_autograd.loss_and_gradients(
        SHAPES[name], case.params, case.tokens, case.targets
    )
    whole, cut = PartitionedLlama(SHAPES[name]), PartitionedLlama(SHAPES[name], limits=PIECES)
    assert len(whole.forward) == len(whole.backward) == 1
    assert len(cut.forward) > 1
    loss, grads = micro_step(whole, case)
    by_hand, _ = micro_step(case.program, case)
    assert abs(loss - want_loss) < LOSSES
    assert abs(loss - by_hand) < LOSSES
    for parameter, value in want.items():
        error = np.linalg.norm(grads[parameter] - value) / np.linalg.norm(value)
        assert error < 0.01, parameter
    again, pieces = micro_step(cut, case)
    assert again == loss
    for parameter, g in grads.items():
        assert np.array_equal(g, pieces[parameter]), parameter


@pytest.mark.parametrize("name", ["grouped", "normed"])
def test_the_graph_is_the_model_in_float64(name: str) -> None:
    """But for eps, factors and tables, which the text holds as fp16."""
    config, case = SHAPES[name], lively(SHAPES[name])
    graph = llama_graph(config)
    assert set(nn.init_weights(graph, np.random.default_rng(0))) == set(parameter_shapes(config))
    x = case.params["tok_embeddings.weight"][case.tokens].T.reshape(1, config.dim, 1, config.seq)
    weights = {n: v.astype(np.float64) for n, v in case.params.items()}
    (logits,) = reference.evaluate(graph, {"i00_x": x.astype(np.float64)}, weights).values()
    z = logits.reshape(config.vocab, config.seq)
    top = z.max(axis=0)
    losses = top + np.log(np.exp(z - top).sum(axis=0)) - z[case.targets, np.arange(config.seq)]
    want, _ = llama_autograd.loss_and_gradients(config, case.params, case.tokens, case.targets)
    assert abs(float(losses.mean()) - want) < 1e-3


def losses_of(
    program: LlamaChains, params: dict[str, Any], updates: int, staleness: int
) -> list[float]:
    """AdamW on the same windows, whoever cut the kernels."""
    config = program.config
    rng = np.random.default_rng(8)
    text = rng.integers(0, 12, 4 * config.seq + 1).astype(np.int32)
    optimizer = AdamW(
        {n: v.copy() for n, v in params.items()}, loss_scale=LossScale(1024.0), clip=1.0
    )
    losses = []
    with ane.DoubleBufferedTrainer(
        program.kernel_set(), optimizer.params, staleness=staleness
    ) as trainer:
        step = MicroStep(program, trainer, optimizer.grads)
        for update in range(updates):
            at = update % 4 * config.seq
            window = text[at : at + config.seq + 1]
            scale = optimizer.loss_scale.scale
            losses.append(step(window[:-1], window[1:], scale))
            info = optimizer.update(lr=3e-3, micro_steps=1, oldest_needed=trainer.oldest_needed)
            assert info.applied
            stats = trainer.step(optimizer.baked, handover=True)
            optimizer.handed_over(stats.newest, stats.submitted)
    return losses


@pytest.mark.parametrize("staleness", [0, 1])
def test_training_gives_the_losses_of_the_model_cut_by_hand(staleness: int) -> None:
    config = LlamaConfig(
        dim=64, hidden=96, layers=2, heads=4, kv_heads=2, seq=32, vocab=64, qk_norm=True
    )
    params = init_params(config, np.random.default_rng(2))
    by_hand = losses_of(LlamaProgram(config), params, 24, staleness)
    programs = [PartitionedLlama(config), PartitionedLlama(config, limits=PIECES)]
    whole, cut = (losses_of(p, params, 24, staleness) for p in programs)
    assert whole == cut
    assert by_hand[-1] < by_hand[0] - 1.0
    assert max(abs(a - b) for a, b in zip(by_hand, whole, strict=True)) < 0.02
    assert not math.isnan(sum(whole))


@pytest.mark.parametrize("rms", [0.02, 0.1, 4.0])
def test_a_lifted_gradient_passes_the_norm_without_leaving_fp16(rms: float) -> None:
    """r³ times the gradient is more than 65504 where x is small."""
    g = Graph()
    g.output("y", nn.rms_norm(g.input("x", (1, 64, 1, 32)), "n", eps=1e-5))
    model = GraphModel(differentiate(g, ["x", "n.weight"]))
    rng = np.random.default_rng(0)
    x = np.float16(rng.standard_normal((1, 64, 1, 32)) * rms).astype(np.float64)
    dy = np.float16(rng.standard_normal(x.shape) * 50).astype(np.float64)
    r = (np.mean(x * x, axis=1, keepdims=True) + 1e-5) ** -0.5
    want = r * (dy - x * r * np.mean(dy * x * r, axis=1, keepdims=True))
    weights = {"n.weight": np.ones(64, np.float32)}
    grads = {"n.weight": np.zeros(64, np.float32)}
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
        step = model.on(trainer, grads)
        step.forward(x)
        got = step.backward(dy)["x"]
    assert np.linalg.norm(got - want) < 3e-3 * np.linalg.norm(want)
    gain = (dy * x * r).sum(axis=(0, 2, 3))
    assert np.linalg.norm(grads["n.weight"] - gain) < 3e-3 * np.linalg.norm(gain)


def test_the_plan_costs_no_more_than_the_cut_by_hand() -> None:
    config = dataclasses.replace(PRESETS["stories15m"], vocab=4096)
    limits, cost = Limits.of("m4"), Cost.of("m4")
    program = PartitionedLlama(config, limits=limits, cost=cost)
    by_hand = hand_cut_plans(LlamaProgram(config), cost=cost)
    assert len(by_hand["forward"]) == len(by_hand["backward"]) == 2 * config.layers + 1
    for chain, plan in program.plans.items():
        assert len(plan) < len(by_hand[chain])
        assert plan.total_ms < sum(p.total_ms for p in by_hand[chain])
        assert "operations in" in str(plan)
