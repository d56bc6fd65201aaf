# SPDX-License-Identifier: MIT
"""Cut a graph into kernels that keep the engine's limits, as cheaply as a cost model says.

docs/PARTITION.md has the method, and where it is optimal and where not. What comes out is a
:class:`Plan`: kernels with named ports, and the wires that make a chain of them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ane_native.errors import LimitError, PartitionError
from ane_native.kernel import Kernel, KernelSet
from ane_native.mil import Graph, MilText, Statement, Value, label
from ane_native.mil_work import MOVES, flops
from ane_native.partition_cost import Cost, Figure, Limits, Terms, Work

__all__ = ["Cost", "Figure", "Limits", "Piece", "Plan", "Terms", "Work", "partition"]

Cut: TypeAlias = "Value | int"
ORDERS = ("as written", "nearest use")

# =============================== The plan =======================================


@dataclass(frozen=True, eq=False)
class Piece:
    """One kernel of a plan.

    Attributes:
        name: of the kernel. graph, text: what it computes.
        first, last: its operations, numbered in the plan's order; the last one is in it.
        inputs, outputs: port -> name of the value in the graph that was cut.
        work, terms: what it holds and costs.
        why: why it ends where it does.
    """

    name: str
    graph: Graph
    text: MilText
    first: int
    last: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    work: Work
    terms: Terms
    why: str

    def kernel(self) -> Kernel:
        """As a kernel set takes it."""
        text = self.text
        return Kernel(
            self.name,
            text.text,
            inputs=text.inputs,
            outputs=text.outputs,
            weights=text.weights,
            adjoints=text.adjoints,
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """A graph as a chain of kernels; ``print`` shows cuts, costs and reasons.

    Attributes:
        pieces: in the order they run.
        inputs: port of the graph -> every ``kernel.port`` that reads it.
        outputs: port of the graph -> the ``kernel.port`` it is put out at.
        wires: ``kernel.port`` of an input -> whose surface it uses: the output that makes it,
            or the first input that reads the same port of the graph.
        limits, cost: what was planned with.
        order: which order of operations was cut.
        whole: cost of the graph as one kernel, in ms; the limit that forbids it as text.
    """

    pieces: tuple[Piece, ...]
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, str]
    wires: dict[str, str]
    limits: Limits
    cost: Cost
    order: str
    whole: tuple[float, str]

    @property
    def names(self) -> list[str]:
        """Of the kernels, in the order they run."""
        return [p.name for p in self.pieces]

    @property
    def total_ms(self) -> float:
        """Cost of evaluating all kernels once."""
        return sum(p.terms.total for p in self.pieces)

    @property
    def program_bytes(self) -> int:
        """Of all kernels."""
        return sum(p.work.program_bytes for p in self.pieces)

    def kernels(self) -> list[Kernel]:
        """The kernels, without their wires."""
        return [p.kernel() for p in self.pieces]

    def kernel_set(self) -> KernelSet:
        """Kernels and wires, as the trainer takes them."""
        return KernelSet(self.kernels(), wires=self.wires)

    def port(self, name: str) -> str:
        """``kernel.port`` where a port of the graph, input or output, can be written or read."""
        return self.inputs[name][0] if name in self.inputs else self.outputs[name]

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def __getitem__(self, index: int) -> Piece:
        return self.pieces[index]

    def __str__(self) -> str:
        count = sum(p.work.operations for p in self.pieces)
        kernels = "1 kernel" if len(self) == 1 else f"{len(self)} kernels"
        out = [f"{count} operations in {kernels}, order {self.order}, {self.total_ms:.3f} ms"]
        if len(self) > 1:
            ms, broken = self.whole
            out[0] += f" (as one kernel {ms:.3f} ms{': not allowed, ' + broken if broken else ''})"
        wide = max(6, *(len(p.name) for p in self.pieces))
        head = f"{'kernel':{wide}} {'operations':>11} {'ports':>8} {'weights':>9} {'crossing':>9}"
        out.append(
            f"{head} {'dispatch':>8} {'compute':>8} {'memory':>8} {'spill':>7} {'compile':>8}"
        )
        for p in self.pieces:
            t, w = p.terms, p.work
            moved = _bytes(w.input_bytes + w.output_bytes)
            out.append(
                f"{p.name:{wide}} {f'{p.first}..{p.last}':>11} {f'{w.inputs}>{w.outputs}':>8} "
                f"{_bytes(w.weight_bytes):>9} {moved:>9} {t.dispatch:8.3f} {t.compute:8.3f} "
                f"{t.memory:8.3f} {t.spill:7.3f} {t.compile:8.3f}  {p.why}"
            )
        out += [f"  limit {line}" for line in str(self.limits).splitlines()]
        out += [f"  cost {line}" for line in str(self.cost).splitlines()]
        return "\n".join(out)

    def __repr__(self) -> str:
        return f"<Plan of {len(self)} kernels, {self.total_ms:.3f} ms>"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


# =============================== Orders =========================================


def _operations(graph: Graph) -> list[Statement]:
    """What must be computed, as written."""
    live = graph.live()
    return [s for s in graph.statements if not s.is_constant and any(v in live for v in s.results)]


def _variables(s: Statement) -> list[Value]:
    """Operands that are no constants, each once."""
    return [v for v in dict.fromkeys(s.tensors()) if not v.is_constant]


def _nearest_use(graph: Graph, written: list[Statement]) -> list[Statement]:
    """Of the operations that are ready, always the one that leaves the fewest bytes alive."""
    users: dict[Value, int] = {}
    for s in written:
        for v in _variables(s):
            users[v] = users.get(v, 0) + 1
    keep = set(graph.outputs)
    place = {s: i for i, s in enumerate(written)}
    waits = {s: sum(v.statement in place for v in _variables(s)) for s in written}
    readers: dict[Value, list[Statement]] = {}
    for s in written:
        for v in _variables(s):
            readers.setdefault(v, []).append(s)
    ready = [s for s in written if not waits[s]]
    made: list[Statement] = []

    def grows(s: Statement) -> tuple[int, int]:
        born = sum(v.type.nbytes for v in s.results)
        dies = sum(
            v.type.nbytes for v in _variables(s) if users[v] == 1 and v not in keep and v.statement
        )
        return born - dies, place[s]

    while ready:
        s = min(ready, key=grows)
        ready.remove(s)
        made.append(s)
        for v in _variables(s):
            users[v] -= 1
        for v in s.results:
            for reader in readers.get(v, ()):
                waits[reader] -= 1
                if not waits[reader]:
                    ready.append(reader)
    return made


# =============================== Runs of one order ==============================


class _Runs:
    """The runs of neighbouring operations of one order: what each holds, whether it may be.

    Values that vary have numbers: 0, 1, … in the order they are made, graph inputs first.
    """

    def __init__(self, graph: Graph, order: list[Statement], limits: Limits, cost: Cost) -> None:
        self.graph, self.order, self.limits, self.cost = graph, order, limits, cost
        self.made_at: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for i, s in enumerate(order):
            for v in s.results:
                self.made_at[v] = i
            for v in _variables(s):
                last[v] = i
        for v in graph.outputs:
            last[v] = len(order)  # somebody outside reads it
        self.last = last
        self.values = list(dict.fromkeys([*last, *self.made_at]))
        number = {v: k for k, v in enumerate(self.values)}
        self._made = [self.made_at.get(v, -1) for v in self.values]
        self._last = [last.get(v, -1) for v in self.values]
        self._bytes = [v.type.nbytes for v in self.values]
        # between kernels, or at the edge of the graph, where the ports are given
        self._sticks = [
            not _portable(v, limits) and v in self.made_at and last.get(v, -1) < len(order)
            for v in self.values
        ]
        dies: list[list[int]] = [[] for _ in order]
        for v, at in last.items():
            if v in self.made_at and at < len(order):
                dies[at].append(number[v])
        baked: dict[Value, int] = {}
        self._rows = [
            (
                flops(s),
                s.op in MOVES,
                [
                    (baked.setdefault(v, len(baked)), *_constant_bytes(v))
                    for v in _constants(s)
                    if v.dtype != "string"
                ],
                [number[v] for v in _variables(s)],
                [number[v] for v in s.results],
                dies[i],
            )
            for i, s in enumerate(order)
        ]

    def begin(self, i: int) -> Iterator[tuple[int, Work, str, bool]]:
        """The runs [i, j): (j, work, what forbids it or "", whether longer ones are as well)."""
        limits, compiling, total = self.limits, self.cost.compiling, len(self.order)
        made, last, size, sticks = self._made, self._last, self._bytes, self._sticks
        seen: set[int] = set()
        baked: set[int] = set()
        moves = not limits.moves_alone
        flop, weights, program, in_bytes, out_bytes, now, peak = 0.0, 0, 0, 0, 0, 0, 0
        ends = stuck_in = stuck_out = 0  # outputs, were the run to end here; no ports
        for j in range(i, total):
            more, moved, constants, operands, results, dies = self._rows[j]
            moves = moves and moved
            flop += more
            for v, all_bytes, blob_bytes in constants:
                if v not in baked:
                    baked.add(v)
                    program += all_bytes
                    weights += blob_bytes
            for v in operands:
                if made[v] < i and v not in seen:
                    seen.add(v)
                    in_bytes += size[v]
                    stuck_in += sticks[v]
            for v in results:
                now += size[v]
                if last[v] > j:
                    ends += 1
                    out_bytes += size[v]
                    stuck_out += sticks[v]
            peak = max(peak, now)
            for v in results:
                if last[v] < 0:
                    now -= size[v]
            for v in dies:
                if made[v] >= i:
                    now -= size[v]
                    ends -= 1
                    out_bytes -= size[v]
                    stuck_out -= sticks[v]
            work = Work(
                j + 1 - i, flop, weights, program, len(seen), ends, in_bytes, out_bytes, peak
            )
            broken = limits.exceeded(work, compiling(work))
            if broken is not None:
                name, most, got = broken
                yield j + 1, work, f"{name} {got:g} of at most {most:g}", name != "ports"
                if name != "ports":
                    return
                continue
            why = ""
            if stuck_in or stuck_out:
                why = self._stuck(i, j)
            elif moves and (i > 0 or j + 1 < total):
                why = "moves_alone: nothing but moved elements"
            elif not seen or not ends:
                why = "no input" if ends else "no output"
            yield j + 1, work, why, False

    def _stuck(self, i: int, j: int) -> str:
        """The first value at the edges of [i, j] that cannot be a port."""
        for k, v in enumerate(self.values):
            into = self._made[k] < i and any(k in self._rows[at][3] for at in range(i, j + 1))
            out = i <= self._made[k] <= j < self._last[k]
            if self._sticks[k] and (into or out):
                return f"{v.name} {v.type} cannot be a port"
        raise AssertionError("no value sticks")

    def run(self, i: int, j: int) -> tuple[Work, str]:
        """What the run [i, j) holds, and what forbids it."""
        for at, work, why, final in self.begin(i):
            if at == j:
                return work, why
            if final:
                return work, why
        raise AssertionError("no such run")


def _constants(s: Statement) -> list[Value]:
    """Constants of the text or of files that `s` is made with."""
    made: dict[Value, None] = {}
    todo = [v for v in s.tensors() if v.is_constant]
    while todo:
        v = todo.pop()
        if v in made or v.statement is None:
            continue
        if v.statement.op == "const":
            made[v] = None
        todo.extend(v.statement.tensors())
    return list(made)


def _constant_bytes(v: Value) -> tuple[int, int]:
    """(bytes in the program, of those in a weight file)."""
    blob = v.statement is not None and v.statement.blob is not None
    return v.type.nbytes, v.type.nbytes if blob else 0


def _portable(v: Value, limits: Limits) -> bool:
    """A value that can be a surface between kernels."""
    small = limits.surface_bytes is None or v.type.nbytes <= limits.surface_bytes
    return v.dtype == "fp16" and 1 <= v.ndim <= 4 and small


# =============================== One operation alone ============================


def _check_alone(graph: Graph, order: list[Statement], limits: Limits, cost: Cost) -> None:
    """Raise for an operation or port that no kernel may hold."""
    outside = [("input", v) for v in graph.inputs] + [("output", v) for v in graph.outputs]
    for op, v in outside:
        most = limits.surface_bytes
        if most is not None and v.type.nbytes > most:
            raise LimitError("surface_bytes", most, v.type.nbytes, op=op, value=v.name)
        _check_value(v, op, limits)
    for s in order:
        name = s.results[0].name
        for v in [*s.tensors(), *s.results]:
            _check_value(v, s.op, limits)
        if s.op in ("conv", "conv_transpose"):
            for limit, got in (
                ("conv_in", s.value("x").shape[1]),
                ("kernel_width", s.value("weight").shape[-1]),
            ):
                most = getattr(limits, limit)
                if most is not None and got > most:
                    raise LimitError(limit, most, got, op=s.op, value=name)
        constants = [v for v in _constants(s) if v.dtype != "string"]
        work = Work(
            1,
            flops(s),
            sum(v.type.nbytes for v in constants if v.statement and v.statement.blob),
            sum(v.type.nbytes for v in constants),
            len(_variables(s)),
            1,
            *(0, 0, 0),
        )
        broken = dataclasses.replace(limits, ports=None).exceeded(work, cost.compiling(work))
        if broken is not None:  # ports: its neighbours may take some away
            raise LimitError(*broken, op=s.op, value=name)


def _check_value(v: Value, op: str, limits: Limits) -> None:
    found: list[tuple[str, float | None, int]] = [("rank", limits.rank, v.ndim)]
    found += [("axis", limits.axis, n) for n in v.shape]
    if v.ndim and not v.is_constant:
        found.append(("width", limits.width, v.shape[-1]))
    if v.ndim == 4 and not v.is_constant:
        found.append(("channels", limits.channels, v.shape[1]))
    for name, most, got in found:
        if most is not None and got > most and not (name == "rank" and v.is_constant):
            raise LimitError(name, most, got, op=op, value=v.name, what=str(v.type))


# =============================== The search =====================================


def _cheapest(runs: _Runs, *, fewest: bool) -> list[int] | None:
    """Ends of the runs of the cheapest plan, or of the cheapest with the fewest kernels; None
    when there is none."""
    n = len(runs.order)
    best: list[tuple[int, float]] = [(0, 0.0)] + [(n + 1, math.inf)] * n
    back = [0] * (n + 1)
    for i in range(n):
        count, spent = best[i]
        if math.isinf(spent):
            continue
        for j, work, why, _ in runs.begin(i):
            if why:
                continue
            now = (count + 1 if fewest else 0, spent + runs.cost.terms(work).total)
            if now < best[j] or math.isinf(best[j][1]):
                best[j], back[j] = now, i
    if math.isinf(best[n][1]):
        return None
    ends = [n]
    while back[ends[0]]:
        ends.insert(0, back[ends[0]])
    return ends


def _reachable(runs: _Runs) -> int:
    """The furthest operation that some allowed plan ends before."""
    n = len(runs.order)
    good = [True] + [False] * n
    for i in range(n):
        if good[i]:
            for j, _, why, _ in runs.begin(i):
                good[j] = good[j] or not why
    return max(i for i in range(n + 1) if good[i])


def _cannot(runs: _Runs) -> PartitionError:
    """What stands in the way, from the furthest place that can be reached."""
    i = _reachable(runs)
    said: dict[str, str] = {}  # the first of each kind, and the last of all
    for j, _, why, _ in runs.begin(i):
        if why:
            told = f"with {j - i} operations: {why}"
            said.setdefault(re.split(r"[ :]", why)[0] if why[-1].isdigit() else why, told)
            said["last"] = told
    s = runs.order[i]
    reasons = "; ".join([*dict.fromkeys(said.values())][:5])
    return PartitionError(
        f"the graph cannot be cut: no run of operations that begins with {s.op} "
        f"{s.results[0].name!r} (number {i} of {len(runs.order)}) keeps the limits: {reasons}"
    )


def _given(graph: Graph, order: list[Statement], cuts: Sequence[Cut]) -> list[int]:
    """Ends of the runs that `cuts` ask for."""
    place = {v: i + 1 for i, s in enumerate(order) for v in s.results}
    ends = set()
    for cut in cuts:
        if isinstance(cut, Value):
            if cut.graph is not graph or cut not in place:
                raise ValueError(f"cuts: expected results of operations of the graph, got {cut!r}")
            ends.add(place[cut])
        elif isinstance(cut, int) and not isinstance(cut, bool) and 0 < cut < len(order):
            ends.add(cut)
        else:
            raise ValueError(
                f"cuts: expected values, or numbers from 1 to {len(order) - 1}, got {cut!r}"
            )
    return [*sorted(ends - {len(order)}), len(order)]


def partition(
    graph: Graph,
    *,
    limits: Limits | None = None,
    cost: Cost | None = None,
    cuts: Sequence[Cut] | None = None,
    name: str = "kernel",
) -> Plan:
    """Cut a graph into kernels.

    Args:
        graph: with inputs and outputs; it is not changed.
        limits: what a kernel may be; those of the default profile when None.
        cost: what it costs; likewise.
        cuts: where to cut, and nowhere else: values (behind the operation that makes them) or
            numbers of operations, as written. None: where it is cheapest. ``()``: nowhere.
        name: the kernels are called ``name`` when there is one, else ``name_0``, ``name_1``, …

    Returns:
        The plan; its kernels evaluated in turn give what the graph gives.

    Raises:
        LimitError: one operation or port alone exceeds a limit.
        PartitionError: no cut, or not these cuts, keep the limits.
        ValueError: a graph without inputs or outputs, or with an input that no output depends
            on; `cuts` that are none.
    """
    limits = Limits.of() if limits is None else limits
    cost = Cost.of() if cost is None else cost
    if not graph.inputs or not graph.outputs:
        raise ValueError("partition: expected at least one input and one output")
    live = graph.live()
    for v in graph.inputs:
        if v not in live:
            raise ValueError(f"partition: input {v.name!r}: no output depends on it")
    written = _operations(graph)
    _check_alone(graph, written, limits, cost)
    runs = _Runs(graph, written, limits, cost)
    if cuts is not None:
        ends = _given(graph, written, cuts)
        begin = 0
        for end in ends:
            _, why = runs.run(begin, end)
            if why:
                raise PartitionError(f"cuts: operations {begin} to {end - 1}: {why}")
            begin = end
        return _checked(_Plan(runs, ends, ORDERS[0], name, given=True).made())
    whole, forbidden = runs.run(0, len(written))
    if not forbidden and cost.one_is_best(whole):
        return _checked(_Plan(runs, [len(written)], ORDERS[0], name, given=False).made())
    made: list[Plan] = []
    for order, other in (
        (ORDERS[0], runs),
        (ORDERS[1], _Runs(graph, _nearest_use(graph, written), limits, cost)),
    ):
        found = _cheapest(other, fewest=False)
        if found is None:
            continue
        if limits.kernels is not None and len(found) > limits.kernels:
            found = _cheapest(other, fewest=True) or found
        made.append(_Plan(other, found, order, name, given=False).made())
        if len(found) == 1:
            break  # one kernel is one kernel in any order
    if not made:
        raise _cannot(runs)
    most = limits.kernels
    return _checked(min(made, key=lambda p: (most is not None and len(p) > most, p.total_ms)))


def _checked(plan: Plan) -> Plan:
    """The plan, if it keeps the limits of a set."""
    for name, most, got in (
        ("kernels", plan.limits.kernels, len(plan)),
        ("set_bytes", plan.limits.set_bytes, plan.program_bytes),
    ):
        if most is not None and got > most:
            raise PartitionError(f"the plan has {name} {got:,}, at most {most:,} are allowed")
    return plan


# =============================== Making kernels =================================


class _Plan:
    """Graphs, ports and wires of the runs that were chosen."""

    def __init__(self, runs: _Runs, ends: list[int], order: str, name: str, *, given: bool) -> None:
        self.runs, self.ends, self.order, self.name, self.given = runs, ends, order, name, given
        self.adjoint = set(runs.graph.adjoints)  # and what is made from them, linear in them too
        for s in runs.order:
            if any(v in self.adjoint for v in _variables(s)):
                self.adjoint.update(s.results)

    def made(self) -> Plan:
        runs, graph = self.runs, self.runs.graph
        pieces: list[Piece] = []
        at: dict[Value, str] = {}  # kernel.port that makes it, or reads it first
        readers: dict[Value, list[str]] = {v: [] for v in graph.inputs}
        wires: dict[str, str] = {}
        for number, end in enumerate(self.ends):
            begin = self.ends[number - 1] if number else 0
            name = self.name if len(self.ends) == 1 else f"{self.name}_{number}"
            piece, inputs, outputs = self._piece(name, begin, end, number)
            pieces.append(piece)
            for v, port in inputs.items():
                if v in at:
                    wires[f"{name}.{port}"] = at[v]
                else:
                    at[v] = f"{name}.{port}"
                if v in readers:
                    readers[v].append(f"{name}.{port}")
            at |= {v: f"{name}.{port}" for v, port in outputs.items()}
        _, broken = runs.run(0, len(runs.order))
        return Plan(
            pieces=tuple(pieces),
            inputs={v.name: tuple(readers[v]) for v in graph.inputs},
            outputs={v.name: at[v] for v in graph.outputs},
            wires=wires,
            limits=runs.limits,
            cost=runs.cost,
            order=self.order,
            whole=(runs.cost.terms(self._whole_work()).total, broken),
        )

    def _whole_work(self) -> Work:
        free = _Runs(self.runs.graph, self.runs.order, Limits(ports=None), self.runs.cost)
        return free.run(0, len(free.order))[0]

    def _piece(
        self, name: str, begin: int, end: int, number: int
    ) -> tuple[Piece, dict[Value, str], dict[Value, str]]:
        runs, graph = self.runs, self.runs.graph
        order = runs.order[begin:end]
        g = Graph(graph.dialect, allow_refused=graph.allow_refused)
        g.function_name, g.target = "main", graph.target
        to: dict[Value, Value] = {}
        inputs: dict[Value, str] = {}
        read = {v for s in order for v in _variables(s)}
        outside = [v for v in graph.inputs if v in read]
        outside += sorted(
            (v for v in read if runs.made_at.get(v, end) < begin),
            key=lambda v: (runs.made_at[v], v.name),
        )
        for v in outside:
            to[v] = g.input_like(_word(v), v, adjoint=v in self.adjoint)
            inputs[v] = to[v].name
        for s in order:
            for v in s.tensors():
                if v.is_constant:
                    g.add_constants(v, to)
            g.add_copy(s, to)
        crossing = [
            v for s in order for v in s.results if runs.last.get(v, -1) >= end and v in runs.last
        ]
        mine = [v for v in graph.outputs if begin <= runs.made_at.get(v, -1) < end]
        outputs: dict[Value, str] = {}
        for v in [*mine, *(v for v in crossing if v not in mine)]:
            g.output(_word(v), to[v])
            outputs[v] = to[v].name
        work, _ = runs.run(begin, end)
        piece = Piece(
            name=name,
            graph=g,
            text=g.build(),
            first=begin,
            last=end - 1,
            inputs={port: v.name for v, port in inputs.items()},
            outputs={port: v.name for v, port in outputs.items()},
            work=work,
            terms=runs.cost.terms(work),
            why=self._why(begin, end, number),
        )
        return piece, inputs, outputs

    def _why(self, begin: int, end: int, number: int) -> str:
        """Why this run and the next are not one."""
        runs = self.runs
        if end == len(runs.order):
            return "the end"
        behind = self.ends[number + 1]
        work, broken = runs.run(begin, behind)
        if self.given:
            return "cut as given"
        if broken:
            return f"with the next: {broken}"
        apart = sum(
            runs.cost.terms(runs.run(*span)[0]).total for span in ((begin, end), (end, behind))
        )
        more = runs.cost.terms(work).total - apart
        return f"with the next: {more:+.3f} ms"


def _word(v: Value) -> str:
    """A port name for a value."""
    made = re.sub(r"[^a-z0-9_]+", "_", label(v).lower()).strip("_")
    return made if re.match(r"[a-z]", made) else f"v_{made}"
