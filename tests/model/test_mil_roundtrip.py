# SPDX-License-Identifier: MIT
"""Corpus programs and what the builder writes of them: the engine computes the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ane_native as ane
from ane_native.mil import Graph
from ane_native.mil_parse import parse
from ane_native.mil_table import TABLE

VALID = Path(__file__).parents[2] / "softane" / "tests" / "corpus" / "valid"


def program(path: Path) -> tuple[str, Graph] | None:
    """(text, graph) of a program that an engine can be asked to run as it stands."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    functions = parse(text, allow_refused=True)
    g = next(iter(functions.values()))
    ports = [*g.inputs, *g.outputs]
    fits = all(1 <= v.ndim <= 4 and v.dtype == "fp16" for v in ports)
    fits = fits and len(functions) == 1 and g.live() >= set(g.inputs)
    plain = all(s.blob is None or s.results[0].dtype == "fp16" for s in g.statements)
    refused = any(s.op != "const" and TABLE[s.op].refused for s in g.statements)
    return (text, g) if fits and plain and not refused else None


RUNNABLE = [path for path in sorted(VALID.glob("*.mil")) if program(path) is not None]


def test_most_of_the_corpus_runs() -> None:
    assert len(RUNNABLE) > 150


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda p: p.stem)
def test_text_graph_text_computes_the_same_bits(path: Path, rng: np.random.Generator) -> None:
    found = program(path)
    assert found is not None
    text, g = found
    made = g.build()
    weights = {
        p: rng.standard_normal(t.shape).astype(np.float16) for p, (t, _) in made.blobs.items()
    }
    inputs = [rng.uniform(0.2, 2.0, v.shape).astype(np.float16) for v in g.inputs]
    outs = []
    for written in (text, made.text, g.build("A" if g.dialect == "B" else "B").text):
        kernel = ane.Kernel("k", written, inputs=made.inputs, outputs=made.outputs, weights=weights)
        with ane.Program(kernel) as loaded:
            y = loaded.eval(*inputs)
        outs.append(y if isinstance(y, tuple) else (y,))
    for other in outs[1:]:
        for a, b in zip(outs[0], other, strict=True):
            assert np.array_equal(a, b, equal_nan=True)
