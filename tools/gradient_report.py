# SPDX-License-Identifier: MIT
"""Prints which operations are differentiated, and the largest error of each gradient.

    python tools/gradient_report.py

Two figures per operation, on the programs of softane's corpus: against central differences in
float64, and the kernels on the engine that is open against float64 (both relative to the
largest element of the gradient, or 1).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests" / "grad")]

import test_rules as t
from gradcases import finite_differences, gradients, problem, worst

import ane_native as ane
from ane_native import soft
from ane_native.autodiff import differentiate


def against_differences(op: str) -> float:
    """Largest error of one rule in float64."""
    rng = np.random.default_rng(1)
    graph = t.case(op)
    p = problem(graph, op, rng)
    parts = differentiate(graph, t.wanted(graph, p.weights))
    shapes = {v.name: v.shape for v in parts.backward_graph.inputs}
    dys = {name: rng.standard_normal(shapes[port]) for name, port in parts.adjoints.items()}
    want = finite_differences(p, dys, rng)
    names = {v.name: t.label(v) for v in graph.inputs}
    return worst(gradients(parts, p, dys), {names.get(k, k): v for k, v in want.items()})


def main() -> int:
    """Print the table."""
    if ane.Engine().software:
        soft.set("compile_limit", 0)
    print(f"{'operation':32} {'differences':>12} {'engine':>12}   ({ane.Engine()!r})")
    for op in sorted(t.RULES):
        engine = "-"
        if op in t.ON_ENGINE:
            engine = f"{t.engine_error(op, np.random.default_rng(2)):.1e}"
        print(f"{op:32} {against_differences(op):12.1e} {engine:>12}")
    print(
        f"{len(t.RULES)} of {len(t.TABLE)} operations differentiated, {len(t.ZERO)} with "
        f"derivative 0, {len(t.NOT_DIFFERENTIABLE)} without a derivative"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
