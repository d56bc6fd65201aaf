# SPDX-License-Identifier: MIT
"""A graph cut into kernels gives what the graph gives, bit for bit, on the engine.

Random programs come from softane's own generator (``softane/tests/gen_text.c``), which takes
its operations from the table; random cuts and random limits of ports and operations.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil
from ane_native.errors import PartitionError
from ane_native.mil_parse import parse
from ane_native.mil_table import TABLE
from ane_native.partition import Limits, Plan, partition

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS, OPERATIONS = 600, 10
FREE = Limits(ports=None, rank=None, moves_alone=True)


@pytest.fixture(scope="module")
def generator() -> Path:
    sys.path.insert(0, str(ROOT / "softane"))
    import build

    out = build.default_out()
    parts = [*build.sources("base"), *build.sources("mil")]
    sources = [ROOT / "softane" / "tests" / "gen_text.c", *parts]
    with build.tc.build_lock(out):
        units = [u for s in sources for u in build.units_for(s, out, False, "")]
        build.tc.compile_all(units)
        program = out / "gen_text"
        build.tc.link([u.object for u in units], program, ["-lm", "-lpthread"])
    return Path(program)


def with_blobs(graph: mil.Graph, rng: np.random.Generator) -> bool:
    """Give weight files of fp16 their numbers; False for a program with others."""
    for i, s in enumerate(graph.statements):
        if s.blob is None:
            continue
        if s.results[0].dtype != "fp16":
            return False
        s.blob, s.offset = f"@model_path/weights/blob{i}.bin", 64
        s.source = rng.uniform(-1, 1, s.results[0].shape).astype(np.float16)
    return True


def run(kernel: ane.Kernel, values: dict[str, Any]) -> dict[str, Any]:
    """Port -> array, as the surface holds it."""
    with ane.Program(kernel) as program:
        for port in kernel.inputs:
            program.surfaces[port.name].write(values[port.name])
        program.run()
        return {p.name: program.surfaces[p.name].array.copy() for p in kernel.outputs}


def whole(graph: mil.Graph) -> ane.Kernel:
    text = graph.build()
    return ane.Kernel(
        "whole", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
    )


def chained(plan: Plan, inputs: dict[str, Any]) -> dict[str, Any]:
    """The kernels in turn, values handed on over the plan's wires."""
    at: dict[str, Any] = {}
    for port, readers in plan.inputs.items():
        at |= dict.fromkeys(readers, inputs[port])
    for piece in plan:
        given = {
            port: at[plan.wires.get(f"{piece.name}.{port}", f"{piece.name}.{port}")]
            for port in piece.text.inputs
        }
        at |= {f"{piece.name}.{k}": v for k, v in run(piece.kernel(), given).items()}
    return {port: at[where] for port, where in plan.outputs.items()}


def usable(graph: mil.Graph, rng: np.random.Generator) -> bool:
    live = graph.live()
    graph.inputs = [v for v in graph.inputs if v in live]
    ports = [*graph.inputs, *graph.outputs]
    plain = all(v.dtype == "fp16" and 1 <= v.ndim <= 4 for v in ports)
    taken = not any(TABLE[s.op].refused for s in graph.statements if s.op != "const")
    return plain and taken and bool(graph.inputs) and with_blobs(graph, rng)


def test_random_programs_in_pieces_give_the_same_bits(
    generator: Path, rng: np.random.Generator
) -> None:
    text = subprocess.run(
        [generator, "1", str(PROGRAMS), str(OPERATIONS)], check=True, capture_output=True, text=True
    ).stdout
    tried = cut = pieces = refused = 0
    seen: set[str] = set()
    for part in text.split("// seed ")[1:]:
        seed, _, program = part.partition("\n")
        graph = next(iter(parse(program, allow_refused=True).values()))
        if not usable(graph, rng):
            continue
        inputs = {v.name: rng.uniform(-2, 2, v.shape).astype(np.float16) for v in graph.inputs}
        kernel = whole(graph)
        try:
            want = run(kernel, inputs)
        except ane.CompileError:  # a value the engine's compiler minds, such as a product by 0
            refused += 1
            continue
        tried += 1
        for operations, ports in ((1, 9), (2, 5), (4, 4), (6, 255)):
            try:
                plan = partition(graph, limits=FREE.but(operations=operations, ports=ports))
            except PartitionError:
                continue
            if len(plan) == 1:
                continue
            cut, pieces = cut + 1, pieces + len(plan)
            seen |= {s.op for p in plan for s in p.graph.statements}
            got = chained(plan, inputs)
            for name, array in want.items():
                same = np.array_equal(got[name].view(np.uint16), array.view(np.uint16))
                assert same, f"seed {seed}: {name} differs, {operations} operations a kernel"
    assert tried > max(50, 10 * refused)
    assert cut > tried
    assert pieces > 3 * cut
    assert len(seen) > 60  # of the table's operations
