# SPDX-License-Identifier: MIT
"""Every operation of the corpus as a problem of differentiation, checked in float64."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.autodiff import Differentiated, Port, label
from ane_native.graphmodel import grouped, matrices
from ane_native.mil import Graph
from ane_native.mil_parse import parse
from ane_native.reference import evaluate

VALID = Path(__file__).parents[2] / "softane" / "tests" / "corpus" / "valid"
Array = npt.NDArray[Any]

# Where an operation is smooth, or defined: numbers are drawn from here.
DOMAIN = {
    **dict.fromkeys(("log", "sqrt", "rsqrt", "inverse", "pow", "reduce_log_sum"), (0.5, 2.0)),
    **dict.fromkeys(("real_div", "mod", "floor_div", "reduce_prod", "batch_norm"), (0.5, 2.0)),
    **dict.fromkeys(("asin", "acos", "atanh"), (-0.8, 0.8)),
}


@dataclass
class Problem:
    """A graph with numbers: inputs by port, weights by name."""

    graph: Graph
    inputs: dict[str, Array]
    weights: dict[str, Array]


def corpus(name: str) -> Graph:
    """The function of a valid program of the corpus."""
    lines = (VALID / f"{name}.mil").read_text().splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    return next(iter(parse(text, allow_refused=True).values()))


def problem(graph: Graph, op: str, rng: np.random.Generator) -> Problem:
    """Distinct random numbers, a good step apart from each other and from zero."""
    low, high = DOMAIN.get(op, (-1.5, 1.5))

    def draw(shape: tuple[int, ...]) -> Array:
        n = int(np.prod(shape))
        grid = low + (high - low) * (np.arange(n) + 0.5) / n
        return rng.permutation(grid).reshape(shape)

    weights: dict[str, Array] = {}
    for s in graph.statements:
        found = graph.weight_source(s.results[0]) if s.op == "const" else None
        if found is not None:
            shape = s.results[0].shape
            weights[found[0]] = draw(shape[::-1] if found[1] else shape)
    return Problem(graph, {v.name: draw(v.shape) for v in graph.inputs}, weights)


def gradients(
    parts: Differentiated, p: Problem, dys: dict[str, Array], engine: Any = None
) -> dict[str, Array]:
    """Name -> gradient of sum(dy y), from both kernels, in float64 or on an engine."""
    run = engine or (lambda g, i: evaluate(g, i, p.weights))
    ports = dict(zip((v.name for v in p.graph.inputs), parts.forward_graph.inputs, strict=True))
    fwd = {ports[k].name: v for k, v in p.inputs.items()}
    outs = run(parts.forward_graph, fwd)
    bwd = {parts.adjoints[k]: v for k, v in dys.items() if k in parts.adjoints}
    bwd |= {to: outs[source] for to, source in parts.wires.items()}
    bwd |= {to: fwd[source] for to, source in parts.copies.items()}
    back = run(parts.backward_graph, bwd)

    def at(port: Port) -> Array:
        known = {**fwd, **outs} if port.kernel == "forward" else {**bwd, **back}
        return np.asarray(known[port.name], np.float64)

    made = {name: at(port) for name, port in parts.gradients.items()}
    for m in parts.products:
        dy, x = at(m.dy), None if m.x is None else at(m.x)
        if m.kind in ("sum", "value"):
            value = dy * m.sign if m.kind == "sum" else dy
            value = value if x is None else value * x
            shape = (1,) * (value.ndim - len(m.shape)) + tuple(m.shape)
            axes = tuple(
                i for i, (a, b) in enumerate(zip(shape, value.shape, strict=True)) if a != b
            )
            value = value.sum(axis=axes, keepdims=True) if axes else value
        elif m.groups > 1:
            value = grouped(m, dy, x)
        else:
            rows, cols = matrices(m, dy, x)
            value = rows @ cols.T
        value = np.asarray(value).reshape(m.shape)
        if m.transposed:
            value = value.reshape(m.shape[0], -1).T
        shape = p.weights[m.weight].shape
        made[m.weight] = made.get(m.weight, 0.0) + value.reshape(shape)
    return made


def finite_differences(
    p: Problem, dys: dict[str, Array], rng: np.random.Generator, samples: int = 12
) -> dict[str, list[tuple[int, float]]]:
    """Name -> (flat index, central difference of sum(dy y)) for some elements."""

    def loss() -> float:
        outs = evaluate(p.graph, p.inputs, p.weights)
        by = {label(v): v for v in p.graph.outputs}
        return float(sum((outs[by[k].name] * dy).sum() for k, dy in dys.items()))

    made: dict[str, list[tuple[int, float]]] = {}
    for name, array in [*p.inputs.items(), *p.weights.items()]:
        flat = array.reshape(-1)
        made[name] = []
        for i in rng.choice(flat.size, min(samples, flat.size), replace=False):
            old, h = flat[i], 1e-6
            flat[i] = old + h
            up = loss()
            flat[i] = old - h
            made[name].append((int(i), (up - loss()) / (2 * h)))
            flat[i] = old
    return made


def worst(got: dict[str, Array], want: dict[str, list[tuple[int, float]]]) -> float:
    """Largest |got - want| over the largest |want| of its tensor (or 1)."""
    most = 0.0
    for name, pairs in want.items():
        if name not in got:
            continue
        scale = max(1.0, *(abs(v) for _, v in pairs))
        flat = got[name].reshape(-1)
        errors = [abs(flat[i] - v) / scale for i, v in pairs]
        assert np.isfinite(errors).all(), f"{name}: not finite"
        most = max(most, *errors)
    return most
