# SPDX-License-Identifier: MIT
"""Every rule of differentiation against central differences in float64, over the corpus.

Both ways of making weight gradients, kept and recomputed values; and the kernels on the
engine against the same graph in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradcases import corpus, finite_differences, gradients, problem, worst

import ane_native as ane
from ane_native import mil, nn
from ane_native.autodiff import NotDifferentiable, differentiate, label
from ane_native.autodiff_rules import NOT_DIFFERENTIABLE, RULES, ZERO
from ane_native.graphmodel import GraphModel
from ane_native.mil import Graph
from ane_native.mil_table import TABLE
from ane_native.reference import evaluate

# Scalars stand in the text as fp16: 2 / sqrt(pi), 1 / n, epsilon are rounded once.
ROUNDED = {
    *("erf", "exp2", "gelu", "instance_norm", "layer_norm", "reduce_mean", "resize"),
    *("scaled_dot_product_attention", "sigmoid_hard", "upsample_bilinear", "avg_pool"),
    *("resize_bilinear", "batch_norm", "leaky_relu", "scaled_tanh", "softplus_parametric"),
    *("local_response_norm", "l2_norm"),
}
# Their program of the corpus has ports of rank 5, which the engine does not take.
WINDOWED = ("max_pool", "avg_pool")
# Differentiated by their scales and tables: a graph where these are named weights.
QUANTISED = {
    "dequantize": lambda g, x: g.dequantize(
        g.quantize(x, scale=g.const(0.25), output_dtype="int8"),
        scale=g.weight("s", (4,)),
        zero_point=np.array([1, -2, 0, 3], np.int8),
        axis=1,
    ),
    "constexpr_affine_dequantize": lambda g, x: (
        x
        * g.constexpr_affine_dequantize(
            np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1)[:1],
            zero_point=np.array(3, np.int8),
            scale=g.weight("s", (4,)),
            axis=1,
        )
    ),
    "constexpr_blockwise_shift_scale": lambda g, x: g.conv(
        x,
        g.constexpr_blockwise_shift_scale(
            np.arange(-12, 12, dtype=np.int8).reshape(6, 4, 1, 1),
            scale=g.weight("s", (3, 2, 1, 1)),
            offset=g.weight("o", (3, 2, 1, 1)),
        ),
    ),
    "constexpr_lut_to_dense": lambda g, x: g.conv(
        x,
        g.constexpr_lut_to_dense(
            g.const(np.arange(24).reshape(6, 4) % 4, "uint2"), g.weight("t", (2, 1, 4, 1))
        ).reshape(6, 4, 1, 1),
    ),
    "constexpr_sparse_to_dense": lambda g, x: g.conv(
        x,
        g.constexpr_sparse_to_dense(
            g.weight("d", (12,)), g.const(np.arange(24).reshape(6, 4, 1, 1) % 2, "uint1")
        ),
    ),
    "constexpr_cast": lambda g, x: (
        x * g.cast(g.constexpr_cast(g.weight("w", (1, 4, 1, 1)), output_dtype="fp32"), "fp16")
    ),
}


def quantised(op: str) -> Graph:
    g = Graph()
    g.output("y", QUANTISED[op](g, g.input("x", (1, 4, 1, 32))))
    return g


def case(op: str, *, engine: bool = False) -> Graph:
    """The graph an operation's rule is tested with."""
    if op in QUANTISED:
        return quantised(op)
    graph = windows() if engine and op in WINDOWED else corpus(f"op_{op}_a")
    if op in WINDOWED and not engine:  # maximum and mean of an empty window are no numbers
        p = problem(graph, op, np.random.default_rng(0))
        made = evaluate(graph, p.inputs, p.weights)
        graph.outputs = [v for v in graph.outputs if np.isfinite(made[v.name]).all()]
    return graph


@pytest.mark.parametrize("op", WINDOWED)
def test_an_empty_window_gives_nothing_back(op: str, rng: np.random.Generator) -> None:
    graph = corpus(f"op_{op}_a")
    assert len(case(op).outputs) < len(graph.outputs)
    p = problem(graph, op, rng)
    parts = differentiate(graph, wanted(graph, p.weights))
    shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
    dys = {name: np.ones(shapes[port]) for name, port in parts.adjoints.items()}
    assert all(np.isfinite(v).all() for v in gradients(parts, p, dys).values())


def wanted(graph: Graph, weights: dict[str, Any]) -> list[str]:
    """Everything an output depends on in a way that has a derivative."""
    names = [label(v) for v in graph.inputs] + list(weights)
    while names:
        try:
            differentiate(graph, names)
            return names
        except NotDifferentiable as error:
            blocked = next((n for n in names if f"path from {n!r}" in str(error)), None)
            if blocked is None:
                raise
            names.remove(blocked)
    return names


def test_every_operation_has_a_rule_or_a_reason() -> None:
    known = [set(RULES), set(ZERO), set(NOT_DIFFERENTIABLE)]
    assert set.union(*known) == set(TABLE)
    assert sum(map(len, known)) == len(TABLE)


@pytest.mark.parametrize("weight_gradients", ["cpu", "engine"])
@pytest.mark.parametrize("keep_bytes", [None, 0])
@pytest.mark.parametrize("op", sorted(RULES))
def test_rule_against_central_differences(
    op: str, keep_bytes: int | None, weight_gradients: Any, rng: np.random.Generator
) -> None:
    graph = case(op)
    p = problem(graph, op, rng)
    parts = differentiate(
        graph,
        wanted(graph, p.weights),
        keep_bytes=keep_bytes,
        weight_gradients=weight_gradients,
    )
    shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
    dys = {name: rng.standard_normal(shapes[port]) for name, port in parts.adjoints.items()}
    got = gradients(parts, p, dys)
    want = finite_differences(p, dys, rng)
    want = {k.lower() if k in p.inputs else k: v for k, v in want.items()}
    assert got
    assert worst(got, want) < (2.0**-10 if op in ROUNDED else 1e-6)


def test_forms_without_a_rule_say_so() -> None:
    g = Graph(allow_refused=True)
    x = g.input("x", (32, 4))
    index = g.reshape(g.topk(x, k=2, axis=0)[1], (8, 1))
    g.output("y", g.gather_nd(x, index))
    with pytest.raises(NotDifferentiable, match="^gather_nd: .*that do not stand in the text"):
        differentiate(g, ["x"])


def check(graph: Graph, names: list[str], rng: np.random.Generator, bound: float = 1e-6) -> None:
    """Both ways of making weight gradients against central differences in float64."""
    p = problem(graph, "conv", rng)
    for where in ("cpu", "engine"):
        parts = differentiate(graph, names, weight_gradients=where)  # type: ignore[arg-type]
        shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
        dys = {name: rng.standard_normal(shapes[port]) for name, port in parts.adjoints.items()}
        got = gradients(parts, p, dys)
        plain = {v.name: label(v) for v in graph.inputs}
        want = {plain.get(k, k): v for k, v in finite_differences(p, dys, rng).items()}
        assert set(got) == set(names)
        assert worst(got, {k: want[k] for k in names}) < bound


@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pad"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((3, 2), (1, 1), (1, 2), (0, 2, 1, 0)),
        ((3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
        ((2, 3), (3, 2), (2, 1), (1, 0, 0, 2)),
        ((3, 1), (1, 2), (1, 1), (2, 2, 0, 0)),
        ((2, 2), (1, 1), (1, 1), (3, 0, 1, 2)),
        ((2, 2), (2, 3), (1, 1), (0, 3, 2, 2)),
    ],
)
def test_a_convolution_by_an_input_has_both_gradients(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pad: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    g = Graph()
    x, w = g.input("x", (1, 3, 9, 8)), g.input("w", (5, 3, *kernel))
    g.output(
        "y",
        g.conv(x, w, strides=strides, dilations=dilations, pad_type="custom", pad=pad),
    )
    check(g, ["x", "w"], rng)


def test_layers_of_convolutions_by_inputs_are_differentiated(rng: np.random.Generator) -> None:
    g = Graph()
    h = mil.tanh(nn.conv2d(g.input("x", (1, 3, 8, 8)), 4, "a", bake=False))
    g.output("y", nn.conv2d(h, 5, "b", stride=2, bake=False))
    names = [label(v) for v in g.inputs]
    assert names == ["x", "a_weight", "a_bias", "b_weight", "b_bias"]
    check(g, names, rng)


def test_the_engine_has_the_gradients_of_a_convolution_by_an_input(
    rng: np.random.Generator,
) -> None:
    g = Graph()
    x, w = g.input("x", (1, 16, 8, 32)), g.input("w", (16, 16, 3, 3))
    g.output("y", g.conv(mil.tanh(g.conv(x, w, pad_type="same")), w, pad_type="same"))
    p = problem(g, "conv", rng)
    model = GraphModel(differentiate(g, ["x", "w"]))
    dy = np.float16(rng.standard_normal((1, 16, 8, 32))).astype(np.float64)
    values = [np.float16(v).astype(np.float64) for v in p.inputs.values()]
    exact = type(p)(p.graph, dict(zip(p.inputs, values, strict=True)), p.weights)
    with ane.DoubleBufferedTrainer(model.kernel_set(), {}) as trainer:
        step = model.on(trainer)
        step.forward(*values)
        got = step.backward(dy)
    want = gradients(model.parts, exact, {"y": dy})
    for name, value in want.items():
        assert np.linalg.norm(got[name] - value) < 4e-3 * np.linalg.norm(value), name


def test_tables_of_vectors_and_packed_masks_are_trained(rng: np.random.Generator) -> None:
    g = Graph()
    x = g.input("x", (1, 4, 1, 32))
    index = np.arange(12).reshape(6, 2) * 7 % 4
    table = g.constexpr_lut_to_dense(
        g.const(index, "uint2"), g.weight("t", (2, 1, 4, 2)), vector_axis=1
    )
    rows = g.constexpr_lut_to_dense(
        g.const(index[:3].T.copy(), "uint2"), g.weight("r", (1, 3, 4, 2)), vector_axis=0
    )
    mask = np.packbits(np.arange(24) % 3 != 1, bitorder="little")
    sparse = g.constexpr_sparse_to_dense(
        g.weight("d", (16,)), g.const(mask, "uint8"), shape=(6, 4, 1, 1)
    )
    h = g.conv(x, table.reshape(6, 4, 1, 1)) * g.conv(x, sparse)
    g.output("y", g.conv(h[:, :3], rows.reshape(4, 3, 1, 1)))
    check(g, ["t", "r", "d"], rng)


@pytest.mark.parametrize("axis", [0, 2, 4])
def test_rank_5_is_picked_from_and_scattered_to(axis: int, rng: np.random.Generator) -> None:
    g = Graph()
    x = g.input("x", (2, 3, 4, 10)).reshape(2, 3, 4, 2, 5)
    best = g.topk(x, k=2, axis=axis)[0]
    index = rng.integers(0, x.shape[axis], best.shape).astype(np.int32)
    taken = g.gather_along_axis(x, index, axis=axis)
    g.output("y", (best * taken).reshape(1, best.size, 1, 1))
    check(g, ["x"], rng)


def test_indices_of_a_run_pick_and_scatter(rng: np.random.Generator) -> None:
    g = Graph(allow_refused=True)
    x, w = g.input("x", (3, 8, 6)), g.input("w", (5, 8, 3))
    _, index = g.topk(x, k=2, axis=1)  # [3, 2, 6]: of x alone, by which nothing moves
    y = g.gather_along_axis(x, index, axis=1)
    first = g.reshape(g.reduce_argmax(x[:, :, 0], axis=1, keep_dims=False), (3,))
    z = g.gather(w, first, axis=1)  # [5, 3, 3]
    g.output("y", y.reshape(1, 36, 1, 1))
    g.output("z", z.reshape(1, 45, 1, 1))
    check(g, ["x", "w"], rng)


def test_of_fill_like_only_the_shape_counts(rng: np.random.Generator) -> None:
    g = Graph()
    x = g.input("x", (1, 4, 1, 32))
    g.output("y", x * g.fill_like(x, 3.0))
    p = problem(g, "mul", rng)
    dy = rng.standard_normal((1, 4, 1, 32))
    assert np.array_equal(gradients(differentiate(g, ["x"]), p, {"y": dy})["x"], 3 * dy)


@pytest.mark.parametrize("op", sorted(ZERO))
def test_steps_have_derivative_zero(op: str, rng: np.random.Generator) -> None:
    g = Graph()
    x = g.input("x", (1, 4, 1, 32))
    more = {"floor_div": (0.3,), "fill_like": (2.0,)}.get(op, ())
    y = getattr(g, op)(x, *more)
    g.output("y", x + y)
    parts = differentiate(g, ["x"])
    p = problem(g, op, rng)
    dy = rng.standard_normal((1, 4, 1, 32))
    assert np.array_equal(gradients(parts, p, {"y": dy})["x"], dy)


def test_a_path_only_through_a_comparison_is_told() -> None:
    g = Graph()
    x = g.input("x", (1, 4, 1, 32))
    g.output("y", g.cast(g.greater(x, 0.5), "fp16"))
    with pytest.raises(NotDifferentiable, match="no differentiable path from 'x'"):
        differentiate(g, ["x"])


def windows() -> Graph:
    """max_pool of rank 4, strided and padded, and a gather_nd without batch axes."""
    g = Graph()
    x = g.input("x", (2, 3, 9, 8))
    y = g.max_pool(x, (3, 2), pad_type="custom", strides=(2, 1), pad=(1, 0, 1, 0))
    index = np.array([[0, 2], [1, 1], [0, 2]], np.int32)
    g.output("y", y)
    g.output("z", g.gather_nd(x, index))
    same = {"pad_type": "same", "strides": (2, 3)}
    g.output("u", g.avg_pool(x, (2, 3), exclude_padding_from_average=True, **same))
    g.output("v", g.avg_pool(x, (3, 3), **same))
    return g


def test_windows_and_picked_slices(rng: np.random.Generator) -> None:
    graph = windows()
    p = problem(graph, "max_pool", rng)
    parts = differentiate(graph, ["x"])
    shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
    dys = {name: rng.standard_normal(shapes[port]) for name, port in parts.adjoints.items()}
    want = {"x": finite_differences(p, dys, rng, samples=60)["i00_x"]}
    # 1/6 and 1/9 stand in the text as fp16
    assert worst(gradients(parts, p, dys), want) < 2.0**-10


def engine_error(op: str, rng: np.random.Generator) -> float:
    """Largest error of the kernels on the engine, against float64, of the largest gradient."""
    graph = case(op, engine=True)
    p = problem(graph, op, rng)
    for name, v in [*p.inputs.items(), *p.weights.items()]:
        (p.inputs if name in p.inputs else p.weights)[name] = v.astype(np.float16).astype(float)
    parts = differentiate(graph, wanted(graph, p.weights))

    def run(g: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
        text = g.build()
        kernel = ane.Kernel(
            op, text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
        )
        with ane.Program(kernel, p.weights) as program:
            made = program.eval(*(inputs[name] for name in text.inputs))
        return dict(zip(text.outputs, made if isinstance(made, tuple) else (made,), strict=True))

    shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
    dys = {name: rng.integers(-4, 5, shapes[port]) / 4.0 for name, port in parts.adjoints.items()}
    want = gradients(parts, p, dys)
    got = gradients(parts, p, dys, run)
    return max(
        float(np.abs(got[k] - want[k]).max() / max(1.0, np.abs(want[k]).max())) for k in want
    )


def fits_ports(op: str) -> bool:
    """The engine takes the operation, and its ports have one to four axes."""
    graph = case(op, engine=True)
    ports = [*graph.inputs, *graph.outputs]
    refused = any(TABLE[s.op].refused for s in graph.statements if s.op != "const")
    return not refused and all(1 <= v.ndim <= 4 and v.dtype == "fp16" for v in ports)


ON_ENGINE = sorted(op for op in RULES if op != "topk" and fits_ports(op))


@pytest.mark.parametrize("op", ON_ENGINE)
def test_kernels_on_the_engine(op: str, rng: np.random.Generator) -> None:
    # taps, and each step of a rule, are rounded to fp16
    assert engine_error(op, rng) < 2.0**-7


def test_most_operations_run_on_the_engine() -> None:
    assert len(ON_ENGINE) > 0.7 * len(RULES)


def test_a_weight_that_is_a_runtime_input_has_the_gradient_of_a_baked_one(
    rng: np.random.Generator,
) -> None:
    def graph(*, baked: bool) -> Graph:
        g = Graph()
        x = g.input("x", (1, 16, 1, 32))
        w = g.weight("w", (8, 16)) if baked else g.input("w", (8, 16))
        y = w @ x if baked else g.conv(x, w.reshape(8, 16, 1, 1))
        g.output("y", g.sigmoid(y))
        return g

    w, x, dy = (rng.standard_normal(s) for s in ((8, 16), (1, 16, 1, 32), (1, 8, 1, 32)))
    made = []
    for baked in (True, False):
        p = problem(graph(baked=baked), "sigmoid", rng)
        p.inputs = {k: x if k.endswith("x") else w for k in p.inputs}
        p.weights = {k: w for k in p.weights}
        parts = differentiate(p.graph, ["w", "x"])
        made.append(gradients(parts, p, {"y": dy}))
    for name in ("w", "x"):
        assert np.allclose(made[0][name], made[1][name], rtol=1e-12, atol=1e-12)


def test_transposed_weights_are_baked_and_their_gradients_turned_back(
    rng: np.random.Generator,
) -> None:
    g = Graph()
    x = g.input("x", (1, 16, 1, 32))
    w = g.weight("w", (16, 8))
    g.output("y", w @ (w.T @ x))
    assert not any(s.op == "transpose" for s in g.statements)
    p = problem(g, "conv", rng)
    parts = differentiate(g, ["w", "x"])
    dys = {"y": rng.standard_normal((1, 16, 1, 32))}
    want = finite_differences(p, dys, rng, samples=40)
    want = {k.removeprefix("i00_"): v for k, v in want.items()}
    assert worst(gradients(parts, p, dys), want) < 1e-6


@pytest.mark.parametrize("keep_bytes", [0, 2048, 5000, 10**9])
def test_taps_fit_the_budget(keep_bytes: int) -> None:
    g = Graph()
    h = g.input("x", (1, 16, 1, 32))
    for i in range(6):
        h = g.gelu(g.mul(h, 1.0 + i / 8), "EXACT")
    g.output("y", h)
    parts = differentiate(g, ["x"], keep_bytes=keep_bytes)
    assert parts.tap_bytes <= keep_bytes
    assert (parts.recomputed > 0) == (keep_bytes < 10**9)
