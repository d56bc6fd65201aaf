# SPDX-License-Identifier: MIT
"""Whole models against JAX: an MLP, a CNN and a transformer block, gradients of every weight.

In float64 both agree to rounding (but for scalars, which a MIL text holds as fp16, and which
JAX is therefore given rounded too); on the engine to fp16. Needs the extra ``jax``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gradcases import Problem, gradients

import ane_native as ane
from ane_native import mil
from ane_native.autodiff import differentiate

jax = pytest.importorskip("jax", reason="JAX is not installed: pip install 'ane-native[jax]'")
jax.config.update("jax_enable_x64", True)
jnp = jax.numpy

Case = tuple[mil.Graph, Callable[[dict[str, Any], Any], Any]]


def mlp() -> Case:
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    w1, b1, w2 = g.weight("w1", (24, 16)), g.weight("b1", (1, 24, 1, 1)), g.weight("w2", (8, 24))
    g.output("y", w2 @ mil.tanh(w1 @ x + b1))

    def f(w: dict[str, Any], x: Any) -> Any:
        h = jnp.tanh(w["w1"] @ x[0, :, 0] + w["b1"][0, :, 0])
        return (w["w2"] @ h)[None, :, None]

    return g, f


def cnn() -> Case:
    g = mil.Graph()
    x = g.input("x", (4, 3, 8, 8))
    h = mil.conv(
        x, g.weight("k1", (8, 3, 3, 3)), pad_type="custom", pad=(1, 1, 1, 1), strides=(2, 2)
    )
    h = mil.silu(h + g.weight("b1", (1, 8, 1, 1)))
    h = mil.conv(h, g.weight("k2", (8, 2, 2, 2)), groups=4)
    h = mil.max_pool(h, (2, 2), strides=(1, 1), pad_type="valid")
    g.output("y", h.reshape(4, 32) @ g.weight("w", (32, 5)))

    def f(w: dict[str, Any], x: Any) -> Any:
        conv = jax.lax.conv_general_dilated
        h = conv(x, w["k1"], (2, 2), ((1, 1), (1, 1))) + w["b1"]
        h = conv(jax.nn.silu(h), w["k2"], (1, 1), "VALID", feature_group_count=4)
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 1, 1), "VALID")
        return h.reshape(4, -1) @ w["w"]

    return g, f


D, F, H, T = 32, 48, 4, 32


def transformer() -> Case:
    """RMSNorm, causal attention, SwiGLU, residuals, in [1, D, 1, T]."""
    g = mil.Graph()
    x = g.input("x", (1, D, 1, T))
    eps, inv = 2.0**-10, 1.0 / D

    def norm(v: mil.Value, name: str) -> mil.Value:
        r = ((v * v).sum(1, keepdims=True) * inv + eps) ** -0.5
        return v * r * g.weight(name, (1, D, 1, 1))

    def heads(v: mil.Value) -> mil.Value:
        return v.reshape(1, H, D // H, T)

    n = norm(x, "g1")
    q, k, v = (heads(g.weight(name, (D, D)) @ n) for name in ("wq", "wk", "wv"))
    mask = g.const(np.triu(np.full((T, T), -30000.0), 1).reshape(1, 1, T, T))
    scores = mil.matmul(q, k, transpose_x=True) * 0.375 + mask
    p = mil.softmax(scores, -1)
    a = mil.matmul(v, p, transpose_y=True).reshape(1, D, 1, T)
    y = x + g.weight("wo", (D, D)) @ a
    n = norm(y, "g2")
    gate = mil.silu(g.weight("w1", (F, D)) @ n) * (g.weight("w3", (F, D)) @ n)
    g.output("y", y + g.weight("w2", (D, F)) @ gate)

    def f(w: dict[str, Any], x: Any) -> Any:
        x = x[0, :, 0]

        def norm(v: Any, gain: Any) -> Any:
            return v * ((v * v).sum(0) * inv + eps) ** -0.5 * gain[0, :, 0]

        n = norm(x, w["g1"])
        q, k, v = ((w[name] @ n).reshape(H, D // H, T) for name in ("wq", "wk", "wv"))
        scores = jnp.einsum("het,hes->hts", q, k) * 0.375
        scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf)
        a = jnp.einsum("hes,hts->het", v, jax.nn.softmax(scores, -1)).reshape(D, T)
        y = x + w["wo"] @ a
        n = norm(y, w["g2"])
        return (y + w["w2"] @ (jax.nn.silu(w["w1"] @ n) * (w["w3"] @ n)))[None, :, None]

    return g, f


CASES = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def compare(name: str, engine: bool, keep_bytes: int | None = None, how: Any = "cpu") -> float:
    """Largest error of any gradient over that gradient's largest element."""
    g, f = CASES[name]()
    rng = np.random.default_rng(5)
    weights: dict[str, Any] = {}
    for s in g.statements:
        found = g.weight_source(s.results[0]) if s.op == "const" else None
        if found is not None and found[0] not in weights:
            shape = s.results[0].shape
            made = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            weights[found[0]] = made.astype(np.float16).astype(float)
    x = rng.standard_normal(g.inputs[0].shape).astype(np.float16).astype(float)
    parts = differentiate(g, [*weights, "x"], keep_bytes=keep_bytes, weight_gradients=how)
    if keep_bytes is not None and name != "mlp":  # there the products need all the taps
        assert parts.recomputed > 0
    dy = rng.integers(-4, 5, g.outputs[0].shape) / 4.0

    def run(graph: mil.Graph, inputs: dict[str, Any]) -> dict[str, Any]:
        text = graph.build()
        kernel = ane.Kernel(
            name, text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
        )
        with ane.Program(kernel, weights) as program:
            made = program.eval(*(inputs[port] for port in text.inputs))
        return dict(zip(text.outputs, made if isinstance(made, tuple) else (made,), strict=True))

    p = Problem(g, {g.inputs[0].name: x}, weights)
    got = gradients(parts, p, {"y": dy}, run if engine else None)
    # a rank-2 weight may be seen as [O, I, 1, 1]
    seen = {
        k: w.reshape(w.shape[:2]) if w.shape[2:] == (1, 1) and k[0] == "w" else w
        for k, w in weights.items()
    }
    dw, dx = jax.grad(lambda w, x: (f(w, x) * dy).sum(), argnums=(0, 1))(seen, x)
    want = {**{k: np.asarray(v) for k, v in dw.items()}, "x": np.asarray(dx)}
    return max(
        float(np.abs(got[k].reshape(v.shape) - v).max() / np.abs(v).max()) for k, v in want.items()
    )


@pytest.mark.parametrize("how", ["cpu", "engine"])
@pytest.mark.parametrize("keep_bytes", [None, 0])
@pytest.mark.parametrize("name", CASES)
def test_gradients_in_float64_are_those_of_jax(name: str, keep_bytes: int | None, how: Any) -> None:
    # 1 / D and eps are powers of two or exact in fp16: nothing but float64 rounding is left
    assert compare(name, False, keep_bytes, how) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_the_engine_are_those_of_jax(name: str) -> None:
    assert compare(name, True) < 2.0**-6
