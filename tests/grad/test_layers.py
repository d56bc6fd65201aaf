# SPDX-License-Identifier: MIT
"""Layers for images and tokens, losses, first weights; a CNN and an embedding train on chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradcases import finite_differences, gradients, problem, worst

import ane_native as ane
from ane_native import mil, nn
from ane_native.autodiff import differentiate
from ane_native.graphmodel import differentiate as model_of
from ane_native.mil import Graph
from ane_native.models.cnn import CnnConfig, cnn, init_params
from ane_native.partition import Limits
from ane_native.reference import evaluate

IMAGES = {
    "same": lambda x: nn.conv2d(x, 6, "c"),
    "strided": lambda x: nn.conv2d(x, 6, "c", kernel=(3, 5), stride=(2, 1), padding=(1, 2)),
    "grouped": lambda x: nn.conv2d(x, 8, "c", groups=4, kernel=2, padding="valid", bias=False),
    "max_pool": lambda x: nn.max_pool(nn.conv2d(x, 4, "c")),
    "mean_pool": lambda x: nn.mean_pool(nn.conv2d(x, 4, "c"), 4),
    "mean of all": lambda x: nn.mean_pool(nn.conv2d(x, 4, "c")),
    "residual": lambda x: nn.residual(x, lambda v: nn.conv2d(v, 4, "c")),
}
SIZES = {
    "same": (2, 6, 8, 8),
    "strided": (2, 6, 4, 8),
    "grouped": (2, 8, 7, 7),
    "max_pool": (2, 4, 4, 4),
    "mean_pool": (2, 4, 2, 2),
    "mean of all": (2, 4, 1, 1),
    "residual": (2, 4, 8, 8),
}


@pytest.mark.parametrize("name", IMAGES)
def test_gradients_of_layers_for_images(name: str, rng: np.random.Generator) -> None:
    g = Graph()
    g.output("y", IMAGES[name](g.input("x", (2, 4, 8, 8))))
    assert g.outputs[0].shape == SIZES[name]
    p = problem(g, "conv", rng)
    parts = differentiate(g, ["x", *p.weights])
    dys = {"y": rng.standard_normal(g.outputs[0].shape)}
    want = {k.removeprefix("i00_"): v for k, v in finite_differences(p, dys, rng).items()}
    assert want.keys() > {"x"}
    assert worst(gradients(parts, p, dys), want) < 1e-4


def direct(x: Any, w: Any, stride: tuple[int, int], pad: tuple[int, int], groups: int) -> Any:
    """A convolution by its definition."""
    x = np.pad(x, ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    n, d, h, wide = x.shape
    o, per, kh, kw = w.shape
    rows, cols = (h - kh) // stride[0] + 1, (wide - kw) // stride[1] + 1
    y = np.zeros((n, o, rows, cols))
    for k in range(o):
        first = k // (o // groups) * per
        for i, j in np.ndindex(rows, cols):
            at = x[:, first : first + per, i * stride[0] :, j * stride[1] :][..., :kh, :kw]
            y[:, k, i, j] = (at * w[k]).sum((1, 2, 3))
    assert d == per * groups
    return y


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [((3, 3), (1, 1), (1, 1), 1), ((3, 5), (2, 1), (1, 2), 1), ((2, 2), (1, 1), (0, 0), 4)],
)
def test_conv2d_is_the_convolution_of_its_definition(
    kernel: Any, stride: Any, padding: Any, groups: int, rng: np.random.Generator
) -> None:
    g = Graph()
    y = nn.conv2d(
        g.input("x", (2, 4, 8, 8)), 8, "c",
        kernel=kernel, stride=stride, padding=padding, groups=groups,
    )  # fmt: skip
    g.output("y", y)
    x, w = rng.standard_normal((2, 4, 8, 8)), rng.standard_normal((8, 4 // groups, *kernel))
    b = rng.standard_normal((1, 8, 1, 1))
    made = evaluate(g, {"i00_x": x}, {"c.weight": w, "c.bias": b})
    want = direct(x, w, stride, padding, groups) + b
    assert np.allclose(made["o00_y"], want, rtol=1e-12, atol=1e-12)


def test_wrong_shapes_are_told() -> None:
    g = Graph()
    x = g.input("x", (2, 4, 8, 8))
    for call, message in (
        (lambda: nn.conv2d(x, 6, "c", kernel=0), "kernel: expected one or two ints from 1, got 0"),
        (lambda: nn.conv2d(x, 6, "c", kernel=(3, 3, 3)), "expected one or two ints"),
        (lambda: nn.conv2d(x, 6, "c", stride=1.5), "stride: expected one or two ints"),
        (lambda: nn.conv2d(x, 6, "c", padding="full"), "padding: expected a number, same or valid"),
        (lambda: nn.conv2d(x, 6, "c", kernel=2), "padding: expected odd kernels with same"),
        (lambda: nn.conv2d(x, 6, "c", groups=4), "groups: expected a divisor of 4 and 6, got 4"),
        (lambda: nn.conv2d(x, 6, "c", bake=False), "bake=False: expected N = 1 and one group"),
        (lambda: nn.max_pool(x, 3), "max_pool: size: expected a divisor of 8 and 8, got 3"),
        (lambda: nn.residual(x, lambda v: nn.conv2d(v, 3, "r")), r"to \[2, 4, 8, 8\], got"),
        (lambda: nn.embedding(x, 4, "e"), r"embedding: operand 'x': expected shape \[1, D, 1, T\]"),
        (
            lambda: nn.embedding(g.input("hot", (1, 32000, 1, 32)), 4, "e"),
            "expected at most 31999 channels",
        ),
        (lambda: CnnConfig(6, 1, (4, 4), 10, 2), "size: expected a multiple of 4, got 6"),
        (lambda: CnnConfig(8, 1, (), 10, 2), "at least one stage"),
        (lambda: CnnConfig(8, 1, (4,), 10, 2, pools=2), "pools: expected 0 to 1, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# =============================== Embedding ======================================

V, D, T = 40, 16, 32


@pytest.mark.parametrize("bake", [True, False])
def test_embedding_takes_rows_of_the_table(bake: bool, rng: np.random.Generator) -> None:
    g = Graph()
    g.output("y", nn.embedding(g.input("hot", (1, V, 1, T)), D, "e", bake=bake))
    tokens = rng.integers(0, V, T)
    hot = np.zeros((1, V, 1, T), np.float16)
    nn.one_hot(tokens, hot)
    assert hot.sum() == T
    table = rng.standard_normal((V, D)).astype(np.float16).astype(np.float32)
    text = g.build()
    kernel = ane.Kernel(
        "e", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
    )
    with ane.Program(kernel, {"e.table": table} if bake else {}) as program:
        y = program.eval(hot) if bake else program.eval(hot, table.reshape(1, V, 1, D))
    assert np.array_equal(y.reshape(D, T), table[tokens].T)


def test_gradient_of_an_embedding_counts_repeated_tokens(rng: np.random.Generator) -> None:
    g = Graph()
    g.output("y", nn.embedding(g.input("hot", (1, V, 1, T)), D, "e"))
    model = model_of(g)
    table = rng.standard_normal((V, D)).astype(np.float32)
    grads = {"e.table": np.zeros((V, D), np.float32)}
    tokens = rng.integers(0, 5, T)
    dy = rng.integers(-4, 5, (D, T)).astype(np.float32)
    with ane.DoubleBufferedTrainer(model.kernel_set(), {"e.table": table}) as trainer:
        step = model.on(trainer, grads)
        nn.one_hot(tokens, step.inputs["hot"])
        step.forward()
        step.backward(dy)
    want = np.zeros((V, D), np.float32)
    np.add.at(want, tokens, dy.T)
    assert np.array_equal(grads["e.table"], want)


def test_tokens_that_are_none() -> None:
    out = np.zeros((4, 3), np.float16)
    nn.one_hot([1, 0, 3], out)
    assert np.array_equal(out.argmax(axis=0), [1, 0, 3])
    with pytest.raises(ValueError, match="one_hot: tokens: expected 0 to 3, got 4"):
        nn.one_hot([1, 4, 0], out)
    with pytest.raises(ValueError, match="one_hot: tokens: expected 3 of them, got 2"):
        nn.one_hot([1, 2], out)
    with pytest.raises(TypeError, match="one_hot: tokens: expected ints, got float64"):
        nn.one_hot([1.0, 2.0, 3.0], out)
    with pytest.raises(ValueError, match=r"one_hot: out: expected \[1, V, 1, T\]"):
        nn.one_hot([1], np.zeros(3, np.float16))


# =============================== Losses =========================================


def numeric(loss: Any, y: Any) -> Any:
    """Central differences of every element."""
    made = np.zeros(y.shape)
    for at in np.ndindex(y.shape):
        old, h = y[at], 1e-6
        y[at] = old + h
        up = loss(y)
        y[at] = old - h
        made[at] = (up - loss(y)) / (2 * h)
        y[at] = old
    return made


@pytest.mark.parametrize(
    ("shape", "axis"), [((1, 7, 1, 5), 1), ((5, 7, 1, 1), 1), ((5, 7), -1), ((2, 3, 7), 2)]
)
def test_cross_entropy_against_differences(
    shape: tuple[int, ...], axis: int, rng: np.random.Generator
) -> None:
    logits = rng.standard_normal(shape) * 3
    targets = rng.integers(0, 7, logits.size // 7)
    loss, gradient = nn.cross_entropy(logits, targets, axis=axis, scale=8.0)
    flat = np.moveaxis(logits, axis, -1).reshape(-1, 7)
    p = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    assert loss == pytest.approx(-np.log(p[np.arange(len(p)), targets]).mean(), rel=1e-12)
    want = numeric(lambda y: nn.cross_entropy(y, targets, axis=axis)[0], logits)
    assert gradient.dtype == np.float32
    assert np.allclose(gradient, 8 * want, atol=1e-5)


def test_cross_entropy_of_surfaces_is_that_of_arrays(rng: np.random.Generator) -> None:
    logits = (rng.standard_normal((1, 24, 1, 32)) * 4).astype(np.float16)
    targets = rng.integers(0, 24, 32)
    out = np.zeros_like(logits)
    loss, made = nn.cross_entropy(logits, targets, scale=32.0, out=out)
    assert made is out
    want, gradient = nn.cross_entropy(logits.astype(np.float32), targets, scale=32.0)
    assert loss == pytest.approx(want, rel=1e-6)
    assert np.allclose(out, gradient, rtol=2e-3, atol=1e-6)
    huge = np.full((1, 3), 6e4)
    assert nn.cross_entropy(huge, [1], axis=1)[0] == pytest.approx(np.log(3))


def test_mse_against_differences(rng: np.random.Generator) -> None:
    y, target = rng.standard_normal((1, 3, 1, 4)), rng.standard_normal((3, 4))
    loss, gradient = nn.mse(y, target, scale=4.0)
    assert loss == pytest.approx(((y.reshape(3, 4) - target) ** 2).mean(), rel=1e-12)
    assert np.allclose(gradient, 4 * numeric(lambda v: nn.mse(v, target)[0], y), atol=1e-5)
    out = np.zeros(y.shape, np.float16)
    assert nn.mse(y, target, out=out)[1] is out
    assert np.allclose(out, gradient / 4, rtol=2e-3)


def test_losses_of_what_does_not_fit() -> None:
    z = np.zeros((1, 4, 1, 2))
    for call, message in (
        (lambda: nn.cross_entropy(z, [0, 4]), "targets: expected 0 to 3, got 4"),
        (lambda: nn.cross_entropy(z, [0]), "targets: expected 2 of them, got 1"),
        (lambda: nn.cross_entropy(z, [0, 1], axis=4), "axis: expected an axis of"),
        (lambda: nn.cross_entropy(z, [0, 1], out=z[0]), "out: expected shape"),
        (lambda: nn.mse(z, np.zeros(7)), "mse: target: expected 8 elements, got 7"),
        (lambda: nn.mse(z, z, out=z[0]), "mse: out: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="targets: expected ints, got float64"):
        nn.cross_entropy(z, [0.5, 1.0])


# =============================== Models =========================================


def test_first_weights(rng: np.random.Generator) -> None:
    g = Graph()
    hot = g.input("hot", (1, V, 1, T))
    x = nn.rms_norm(nn.embedding(hot, 256, "e"), "n")
    g.output("y", nn.linear(x, 512, "l", bias=True))
    made = nn.init_weights(g, rng)
    assert {k: v.shape for k, v in made.items()} == {
        "e.table": (V, 256),
        "n.weight": (1, 256, 1, 1),
        "l.weight": (512, 256),
        "l.bias": (1, 512, 1, 1),
    }
    assert np.all(made["n.weight"] == 1)
    assert not made["l.bias"].any()
    assert made["l.weight"].std() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert made["e.table"].std() == pytest.approx(0.02, rel=0.03)


def test_cnn_gradients_on_the_engine_are_those_of_float64(rng: np.random.Generator) -> None:
    config = CnnConfig(size=8, channels=2, widths=(4, 8), classes=5, batch=4)
    graph = cnn(config)
    weights = init_params(config, rng)
    weights = {k: v.astype(np.float16).astype(np.float32) for k, v in weights.items()}
    x = rng.standard_normal((4, 2, 8, 8)).astype(np.float16).astype(float)
    dy = rng.integers(-4, 5, (4, 5, 1, 1)) / 4.0
    p = problem(graph, "conv", rng)
    p.inputs, p.weights = {"i00_x": x}, {k: v.astype(float) for k, v in weights.items()}
    want = gradients(differentiate(graph), p, {"logits": dy})
    whole: dict[str, Any] = {}
    for limits in (Limits.of(), Limits.of().but(operations=9)):
        model = model_of(graph, limits=limits)
        grads = {k: np.zeros_like(v) for k, v in weights.items()}
        with ane.DoubleBufferedTrainer(model.kernel_set(), weights) as trainer:
            step = model.on(trainer, grads)
            step.forward(x)
            for _ in range(3):  # products of copied columns are queued again and again
                step.backward(dy)
        for key, value in want.items():
            error = np.abs(grads[key].reshape(value.shape) / 3 - value).max()
            assert error < 2.0**-6 * np.abs(value).max(), key
        if whole:
            assert sum(len(plan) for plan in model.plans.values()) > 5
            assert all(np.array_equal(grads[k], v) for k, v in whole.items())
        whole = grads


def test_embedding_and_head_learn_with_losses_on_surfaces(rng: np.random.Generator) -> None:
    g = Graph()
    x = nn.embedding(g.input("hot", (1, V, 1, T)), D, "e")
    x = nn.residual(x, lambda v: nn.gelu_mlp(nn.layer_norm(v, "n", eps=2.0**-10), 32, "mlp"))
    g.output("logits", nn.linear(x, V, "head"))
    model = model_of(g, limits=Limits.of().but(operations=12))
    weights = nn.init_weights(g, rng)
    grads = {k: np.zeros_like(v) for k, v in weights.items()}
    losses = []
    with ane.DoubleBufferedTrainer(model.kernel_set(), weights, staleness=1) as trainer:
        step = model.on(trainer, grads)
        for _ in range(60):
            tokens = rng.integers(0, V, T)
            nn.one_hot(tokens, step.inputs["hot"])
            step.forward()
            loss, _ = nn.cross_entropy(
                step.outputs["logits"],
                (tokens * 7 + 3) % V,
                scale=64.0,
                out=step.adjoints["logits"],
            )
            step.backward()
            losses.append(loss)
            weights = {n: w - np.float32(0.3 / 64) * grads[n] for n, w in weights.items()}
            trainer.step(weights)
            for gradient in grads.values():
                gradient[:] = 0
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert mil.partition(g, limits=Limits.of().but(operations=12)).pieces
