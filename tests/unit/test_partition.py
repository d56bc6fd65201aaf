# SPDX-License-Identifier: MIT
"""Cutting graphs: every limit at N and N + 1, cheapest among all cuts, errors that say why."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ane_native import mil
from ane_native.device_table import PROFILES
from ane_native.errors import LimitError, PartitionError
from ane_native.partition import Cost, Figure, Limits, Plan, Terms, Work, partition

FREE = Limits(ports=None, rank=None, moves_alone=True)


def chain(n: int = 4, weights: bool = True) -> mil.Graph:
    """x -> n products by a [16, 16] weight, with a relu behind each."""
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    for i in range(n):
        x = g.relu(g.weight(f"w{i}", (16, 16)) @ x if weights else x)
    g.output("y", x)
    return g


def wide() -> mil.Graph:
    """Five values made and used at once: one kernel has one input, cuts have up to five."""
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    parts = [g.mul(x, 1.0 + i) for i in range(5)]
    total = parts[0]
    for v in parts[1:]:
        total = g.add(total, v)
    g.output("y", total)
    return g


def ports(inputs: int) -> mil.Graph:
    g = mil.Graph()
    values = [g.input(f"x{i}", (1, 4, 1, 32)) for i in range(inputs)]
    total = values[0]
    for v in values[1:]:
        total = g.add(total, v)
    g.output("y", total)
    return g


def cover(plan: Plan, graph: mil.Graph) -> None:
    """What every plan promises: all operations once, ports named, wires from earlier to later."""
    live = graph.live()
    wanted = sum(not s.is_constant and any(v in live for v in s.results) for s in graph.statements)
    assert sum(p.work.operations for p in plan) == wanted
    assert plan.pieces[0].first == 0
    for a, b in itertools.pairwise(plan):
        assert b.first == a.last + 1
    place = {name: i for i, name in enumerate(plan.names)}
    for p in plan:
        for port, shape in p.text.inputs.items():
            full = f"{p.name}.{port}"
            given = any(full in readers for readers in plan.inputs.values())
            assert given or full in plan.wires
            if full in plan.wires:
                kernel, _, source = plan.wires[full].rpartition(".")
                assert place[kernel] < place[p.name] or (kernel == p.name and given)
                there = plan[place[kernel]].text
                assert {**there.inputs, **there.outputs}[source] == shape
        most = plan.limits
        assert most.operations is None or p.work.operations <= most.operations
        assert most.ports is None or max(p.work.inputs, p.work.outputs) <= most.ports
        assert (len(p.inputs), len(p.outputs)) == (p.work.inputs, p.work.outputs)
        assert most.weight_bytes is None or p.work.weight_bytes <= most.weight_bytes
    assert set(plan.outputs) == {v.name for v in graph.outputs}
    plan.kernel_set()  # names and wires are those of kernels


# =============================== Limits =========================================

# name -> (graph, what it holds): with that number it is one kernel, with one less it is cut
CUTTING: dict[str, tuple[Callable[[], mil.Graph], float]] = {
    "operations": (chain, 8),
    "weight_bytes": (chain, 4 * 16 * 16 * 2),
    "program_bytes": (lambda: chain(4), 0),  # filled in below: weights and constants of the text
    "ports": (lambda: ports(7), 7),
    "compile_ms": (chain, 22 + 8 * 0.75 + 3.9 * 4 * 512 / 2**20),
}


@pytest.mark.parametrize("name", CUTTING)
def test_a_limit_of_a_kernel_cuts_at_one_less(name: str) -> None:
    make, holds = CUTTING[name]
    graph = make()
    if name == "program_bytes":
        holds = partition(graph, limits=FREE)[0].work.program_bytes
        assert holds > 4 * 512
    fits = partition(graph, limits=FREE.but(**{name: holds}))
    cover(fits, graph)
    assert len(fits) == 1
    cut = partition(graph, limits=FREE.but(**{name: holds - (1e-9 if name == "compile_ms" else 1)}))
    cover(cut, graph)
    assert len(cut) == 2
    assert f"with the next: {name} " in cut[0].why
    assert name in cut.whole[1]
    assert name in str(cut)


def alone(name: str) -> tuple[mil.Graph, int]:
    """A graph of which one tensor or operation holds that much of something."""
    g = mil.Graph()
    if name in ("conv_in", "kernel_width"):
        x = g.input("x", (1, 24, 1, 64))
        w = g.weight("w", (8, 24, 1, 7))
        g.output("y", g.conv(x, w, pad_type="same"))
        return g, 24 if name == "conv_in" else 7
    if name == "rank":
        x = g.input("x", (2, 4, 1, 32))
        g.output("y", g.relu(g.expand_dims(x, (0,))).reshape(2, 4, 1, 32))
        return g, 5
    shape = {"channels": (1, 96, 1, 32), "width": (1, 8, 1, 96), "axis": (1, 8, 96, 32)}
    g.output("y", g.relu(g.input("x", shape.get(name, (1, 16, 1, 32)))))
    return g, 16 * 32 * 2 if name == "surface_bytes" else 96


@pytest.mark.parametrize(
    "name", ["rank", "axis", "width", "channels", "conv_in", "kernel_width", "surface_bytes"]
)
def test_an_operation_that_alone_exceeds_a_limit_is_named(name: str) -> None:
    graph, holds = alone(name)
    cover(partition(graph, limits=FREE.but(**{name: holds})), graph)
    with pytest.raises(LimitError, match=f"{name}.*expected at most {holds - 1}, got {holds}") as e:
        partition(graph, limits=FREE.but(**{name: holds - 1}))
    assert (e.value.limit, e.value.most, e.value.got) == (name, holds - 1, holds)
    assert e.value.op in ("input", "conv", "expand_dims", "relu")


@pytest.mark.parametrize("name", ["weight_bytes", "program_bytes", "compile_ms"])
def test_one_operation_with_too_much_is_named(name: str) -> None:
    graph = chain(2)
    one = partition(graph, cuts=[2], limits=FREE)[0].work
    holds = {
        "weight_bytes": 512.0,
        "program_bytes": one.program_bytes,
        "compile_ms": 22 + 0.75 + 3.9 / 2048,
    }[name]
    step = 1e-9 if name == "compile_ms" else 1
    cover(partition(graph, limits=FREE.but(**{name: holds + step})), graph)
    with pytest.raises(LimitError, match=f"^conv 'conv_0': {name}: expected at most") as e:
        partition(graph, limits=FREE.but(**{name: holds - step}))
    assert (e.value.op, e.value.value) == ("conv", "conv_0")


def test_limits_of_a_set() -> None:
    graph = chain(4)
    two = FREE.but(operations=4)
    total = partition(graph, limits=two).program_bytes
    assert len(partition(graph, limits=two.but(kernels=2, set_bytes=total))) == 2
    with pytest.raises(PartitionError, match="kernels 2, at most 1"):
        partition(graph, limits=two.but(kernels=1))
    with pytest.raises(PartitionError, match=f"set_bytes {total:,}, at most {total - 1:,}"):
        partition(graph, limits=two.but(set_bytes=total - 1))


def test_fewer_kernels_when_the_cheapest_plan_has_too_many() -> None:
    steep = Cost.of().but(op2_ms=10.0)
    graph = chain(4)
    free = partition(graph, limits=FREE, cost=steep)
    assert len(free) > 3
    few = partition(graph, limits=FREE.but(kernels=3), cost=steep)
    cover(few, graph)
    assert len(few) <= 3
    assert few.total_ms > free.total_ms


def test_a_kernel_that_only_moves_elements_is_not_made() -> None:
    g = mil.Graph()
    x = g.relu(g.input("x", (1, 16, 1, 32)))
    y = g.transpose(g.reshape(x, (1, 32, 1, 16)), (0, 3, 2, 1))
    g.output("y", y)
    limits = FREE.but(operations=2, moves_alone=False)
    with pytest.raises(PartitionError, match="moves_alone"):
        partition(g, limits=limits)
    assert len(partition(g, limits=limits.but(moves_alone=True))) == 2
    assert len(partition(g, limits=limits.but(operations=3))) == 1
    alone = mil.Graph()
    alone.output("y", alone.reshape(alone.input("x", (1, 16, 1, 32)), (1, 32, 1, 16)))
    assert len(partition(alone, limits=limits)) == 1  # a whole graph is the caller's business


# =============================== Graphs that cannot be cut ======================


def test_a_graph_that_cannot_be_cut_says_where_and_why() -> None:
    g = mil.Graph(allow_refused=True)
    x = g.input("x", (1, 16, 1, 32))
    y = g.relu(x)
    for _ in range(3):
        y = g.select(g.greater(y, 0.5), y, x)
    both = g.logical_and(g.greater(x, 0.0), g.less(y, 1.0))
    g.output("y", g.select(both, x, y))
    cover(partition(g, limits=FREE.but(operations=4)), g)  # greater, less, and, select
    with pytest.raises(PartitionError) as e:
        partition(g, limits=FREE.but(operations=3))
    text = str(e.value)
    assert "the graph cannot be cut" in text
    assert "cannot be a port" in text
    assert "operations 4 of at most 3" in text


def test_values_that_no_surface_holds_stay_inside() -> None:
    g = mil.Graph()
    x = g.relu(g.input("x", (2, 4, 8, 32)))
    h = g.relu(g.relu(g.expand_dims(x, (0,))))  # rank 5
    g.output("y", g.relu(g.squeeze(h, (0,))))
    plan = partition(g, limits=FREE.but(operations=4))
    cover(plan, g)
    assert all(len(shape) <= 4 for p in plan for shape in p.text.outputs.values())
    with pytest.raises(PartitionError, match=r"fp16\[1, 2, 4, 8, 32\] cannot be a port"):
        partition(g, limits=FREE.but(operations=3))


def test_a_wide_value_may_stay_inside_by_its_bytes() -> None:
    g = mil.Graph()
    x = g.input("x", (1, 8, 1, 32))
    h = g.weight("up", (64, 8)) @ x
    g.output("y", g.weight("down", (8, 64)) @ g.relu(h))
    big = 64 * 32 * 2
    assert len(partition(g, limits=FREE.but(operations=2, surface_bytes=big))) == 2
    with pytest.raises(PartitionError, match="cannot be a port"):
        partition(g, limits=FREE.but(operations=2, surface_bytes=big - 1))
    assert len(partition(g, limits=FREE.but(operations=3, surface_bytes=big - 1))) == 1


def test_no_kernel_is_without_inputs() -> None:
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    g.output("y", g.relu(g.add(g.fill((1, 16, 1, 32), 2.0), x)))
    plan = partition(g, limits=FREE.but(operations=2))
    cover(plan, g)
    assert [p.work.inputs for p in plan] == [1, 1]
    with pytest.raises(PartitionError, match="no input"):
        partition(g, limits=FREE.but(operations=1))


# =============================== Costs ==========================================


class Uneven(Cost):
    """Kernels of three operations are cheap, all others dear."""

    def terms(self, work: Work) -> Terms:
        return Terms(0.0, 0.0, abs(work.operations - 3) + 1.0, 0.0, 0.0)


def random_graph(rng: np.random.Generator, n: int) -> mil.Graph:
    g = mil.Graph()
    values = [g.input("x", (1, 16, 1, 32)), g.input("z", (1, 16, 1, 32))]
    for i in range(n):
        a, b = rng.choice(len(values), 2)
        kind = rng.integers(4)
        if kind == 0:
            values.append(g.weight(f"w{i}", (16, 16)) @ values[a])
        elif kind == 1:
            values.append(g.relu(values[a]))
        else:
            values.append(g.add(values[a], values[b]))
    unused = set(values) - {v for s in g.statements for v in s.tensors()}
    for i, v in enumerate(sorted(unused - set(g.inputs), key=lambda v: v.name)):
        g.output(f"y{i}", v)
    live = g.live()
    for v in [v for v in g.inputs if v not in live]:
        g.output(f"z{v.name}", g.mul(v, 2.0))
    return g


@pytest.mark.parametrize("seed", range(12))
def test_no_cut_of_the_written_order_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 7)
    cost = Cost.of("m1").but(op2_ms=float(rng.uniform(0, 20)), onchip_bytes=2048.0 * (1 + seed % 3))
    limits = FREE.but(ports=int(rng.integers(3, 6)))
    n = partition(graph, limits=FREE)[0].last + 1
    every = []
    for cuts in itertools.product([0, 1], repeat=n - 1):
        try:
            at = [i + 1 for i, cut in enumerate(cuts) if cut]
            every.append(partition(graph, limits=limits, cost=cost, cuts=at).total_ms)
        except PartitionError:
            continue
    if not every:
        with pytest.raises(PartitionError):
            partition(graph, limits=limits, cost=cost)
        return
    plan = partition(graph, limits=limits, cost=cost)
    cover(plan, graph)
    if plan.order == "as written":
        assert plan.total_ms == pytest.approx(min(every), rel=1e-12)
    else:  # another order, and cheaper than the best of this one
        assert plan.total_ms < min(every)


def test_the_cost_model_can_be_another() -> None:
    plan = partition(chain(3), limits=FREE, cost=Uneven(**vars(Cost.of())))
    assert [p.work.operations for p in plan] == [3, 3]
    assert plan.total_ms == 2.0


def test_a_whole_forward_is_one_kernel_where_it_may_be() -> None:
    for profile in PROFILES:
        plan = partition(chain(12), limits=Limits.of(profile), cost=Cost.of(profile))
        assert len(plan) == 1
        apart = partition(
            chain(12), limits=Limits.of(profile), cost=Cost.of(profile), cuts=range(2, 24, 2)
        )
        assert apart.total_ms > plan.total_ms


def test_values_that_outgrow_the_chip_are_cut() -> None:
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    for i in range(6):
        h = g.weight(f"up{i}", (512, 16)) @ x
        x = g.weight(f"down{i}", (16, 512)) @ g.relu(h)
    g.output("y", x)
    one = partition(g, limits=FREE)
    assert len(one) == 1
    assert one[0].terms.spill == 0
    tight = Cost.of().but(onchip_bytes=512 * 32 * 2, spill=9.0, dispatch_ms=0.0, compile_ms=0.0)
    assert tight.terms(one[0].work).spill > 0
    plan = partition(g, limits=FREE, cost=tight)
    cover(plan, g)
    assert len(plan) > 1
    assert all(p.terms.spill == 0 for p in plan)


def test_the_nearest_use_order_saves_ports() -> None:
    graph = wide()
    for most in (5, 4, 3, 2):
        plan = partition(graph, limits=FREE.but(ports=most, operations=4))
        cover(plan, graph)
    assert plan.order == "nearest use"
    with pytest.raises(PartitionError, match="ports 2 of at most 1"):
        partition(graph, limits=FREE.but(ports=1, operations=4))


# =============================== Cuts by hand ===================================


def test_cuts_by_hand() -> None:
    graph = chain(3)
    relus = [s.results[0] for s in graph.statements if s.op == "relu"]
    plan = partition(graph, cuts=[relus[0], 4], name="mine")
    cover(plan, graph)
    assert plan.names == ["mine_0", "mine_1", "mine_2"]
    assert [p.last for p in plan] == [1, 3, 5]
    assert plan[1].inputs == {"i00_relu_0": "relu_0"}
    assert plan.wires == {
        "mine_1.i00_relu_0": "mine_0.o00_relu_0",
        "mine_2.i00_relu_1": "mine_1.o00_relu_1",
    }
    assert plan[0].why == "cut as given"
    assert partition(graph, cuts=(), name="mine").names == ["mine"]
    with pytest.raises(PartitionError, match="cuts: operations 0 to 3: operations 4 of at most 3"):
        partition(graph, cuts=[4], limits=FREE.but(operations=3))


@pytest.mark.parametrize("cuts", [[0], [6], [True], ["relu_0"], [1.5]])
def test_cuts_that_are_none(cuts: list[Any]) -> None:
    with pytest.raises(ValueError, match="cuts: expected values, or numbers from 1 to 5"):
        partition(chain(3), cuts=cuts)
    with pytest.raises(ValueError, match="cuts: expected results of operations of the graph"):
        partition(chain(3), cuts=[chain(3).outputs[0]])


def test_an_input_that_several_kernels_read_is_one_surface() -> None:
    g = mil.Graph()
    x = g.input("x", (1, 16, 1, 32))
    h = g.relu(x)
    g.output("y", g.add(g.relu(g.add(h, x)), x))
    plan = partition(g, cuts=[1, 2, 3])
    cover(plan, g)
    assert plan.inputs["i00_x"] == ("kernel_0.i00_x", "kernel_1.i00_x", "kernel_3.i00_x")
    assert plan.wires["kernel_3.i00_x"] == plan.wires["kernel_1.i00_x"] == "kernel_0.i00_x"


# =============================== Figures ========================================


@pytest.mark.parametrize("profile", PROFILES)
def test_every_figure_has_a_source(profile: str) -> None:
    for made in (Limits.of(profile), Cost.of(profile)):
        shown = str(made)
        for name in vars(made):
            if name != "sources" and getattr(made, name) is not None:
                assert made.sources[name]
                assert made.sources[name] in shown
        assert not any(source.startswith("as ") for source in made.sources.values())


def test_figures_can_be_replaced() -> None:
    known = {"floor_ms": Figure(0.5, "probe"), "max_width": Figure(128, "probe")}
    assert Cost.of("m1", known).dispatch_ms == 0.5
    assert Cost.of("m1", known).sources["dispatch_ms"] == "probe"
    assert Limits.of("m1", known).width == 128
    assert Limits.of("m1").width == 16384
    assert Limits.of().but(ports=9).sources["ports"] == "given"
    with pytest.raises(TypeError, match="Limits: expected one of axis, .* got 'prots'"):
        Limits.of().but(prots=9)
    with pytest.raises(ValueError, match="ports: expected a positive number or None, got 0"):
        Limits.of().but(ports=0)
    with pytest.raises(ValueError, match="busy: expected at least 1, got 0.5"):
        Cost.of().but(busy=0.5)
    with pytest.raises(ValueError, match="tflops: expected a positive number, got 0"):
        Cost.of().but(tflops=0)
    with pytest.raises(ValueError, match="profile: expected one of default, m1"):
        Limits.of("m99")


def test_graphs_without_ports_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one input and one output"):
        mil.partition(mil.Graph())
    g = chain(1)
    g.input("unused", (1, 4, 1, 32))
    with pytest.raises(ValueError, match="input 'i01_unused': no output depends on it"):
        mil.partition(g)
