# SPDX-License-Identifier: MIT
"""Reverse-mode differentiation of a graph into a forward and a backward kernel.

See docs/BUILDER.md for the steps. What comes out is described by :class:`Differentiated`;
:mod:`ane_native.graphmodel` runs it on a trainer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar, cast

from ane_native.autodiff_rules import NOT_DIFFERENTIABLE, RULES, ZERO, Back, NotDifferentiable
from ane_native.mil import Graph, MilText, Statement, Value, label
from ane_native.mil_ops import Shape
from ane_native.mil_rules import Window, window
from ane_native.mil_work import flops

__all__ = ["Differentiated", "NotDifferentiable", "Port", "Product", "differentiate", "label"]

FLOATS = ("fp16", "fp32")
At = TypeVar("At")


@dataclass(frozen=True)
class Port:
    """A surface of the pair: kernel ``"forward"`` or ``"backward"``, and its port."""

    kernel: Literal["forward", "backward"]
    name: str


@dataclass(frozen=True)
class Product(Generic[At]):
    """A weight gradient that the CPU sums from surfaces after the backward kernel.

    Attributes:
        weight: name of the weight whose gradient it adds to.
        transposed: the use was baked transposed, so the product is too.
        kind: ``conv``, ``linear``, ``left`` (weight @ x), ``right`` (x @ weight): dw = dy xᵀ;
            ``sum``: dw = sign * dy * x summed over broadcast axes; ``value``: dy is dw.
        dy: where the gradient of the product's result is: a :class:`Port`, or a value of the
            joint graph while ports have no names yet. x: what the weight was applied to, or None.
        shape: of the weight as the operation saw it.
        window, groups: of a convolution.
        sign: -1 for the second operand of ``sub``.
    """

    weight: str
    transposed: bool
    kind: Literal["conv", "linear", "left", "right", "sum", "value"]
    dy: At
    x: At | None
    shape: Shape
    window: Window | None = None
    groups: int = 1
    sign: float = 1.0


@dataclass(frozen=True)
class Differentiated:
    """Forward and backward kernel of a graph, and the products the CPU does.

    Attributes:
        forward: the graph's text with taps as further outputs.
        backward: inputs are the adjoints of the outputs, then taps.
        forward_graph, backward_graph: what they were written from.
        wires: input of the backward -> output of the forward whose surface it uses.
        copies: input of the backward -> input of the forward that holds the same.
        outputs: outputs of the forward that the graph has itself; those behind are taps.
        adjoints: output of the graph -> input of the backward for its adjoint.
        gradients: input of the graph (of those wanted) -> where its gradient is.
        products: the weight gradients.
        tap_bytes: bytes of all further outputs of the forward.
        recomputed: operations the backward does again.
    """

    forward: MilText
    backward: MilText
    forward_graph: Graph
    backward_graph: Graph
    wires: dict[str, str]
    copies: dict[str, str]
    outputs: tuple[str, ...]
    adjoints: dict[str, str]
    gradients: dict[str, Port]
    products: tuple[Product[Port], ...]
    tap_bytes: int
    recomputed: int


# =============================== Reverse mode ===================================


class _Joint:
    """Forward and adjoints in one graph."""

    def __init__(self, graph: Graph, wrt: Sequence[str] | None, engine: bool) -> None:
        self.source = graph
        self.engine = engine
        self.g = Graph(graph.dialect, allow_refused=graph.allow_refused)
        self.at: dict[Value, Value] = {}
        for v in graph.inputs:
            self.at[v] = self.g.input_like(label(v), v)
        live = graph.live()
        for s in graph.statements:
            if any(v in live for v in s.results):
                self.g.add_copy(s, self.at)
        self.inputs = [self.at[v] for v in graph.inputs]
        self.outputs = [self.at[v] for v in graph.outputs]
        self.forward = list(self.g.statements)
        self.names = self._wanted(wrt)
        self.varies = self._varying()
        self.adjoint: dict[Value, Value] = {}
        self.sums: list[Product[Value]] = []
        self.seeds: dict[Value, Value] = {}

    def _wanted(self, wrt: Sequence[str] | None) -> set[str]:
        weights = {
            found[0]
            for s in self.forward
            if s.op == "const" and (found := self.g.weight_source(s.results[0])) is not None
        }
        inputs = {label(v) for v in self.source.inputs}
        if wrt is None:
            return weights
        for name in wrt:
            if name not in weights and name not in inputs:
                known = ", ".join(sorted(weights | inputs))
                raise ValueError(f"wrt: expected names among {known}; got {name!r}")
        return set(wrt)

    def is_wanted(self, v: Value) -> bool:
        """An input or weight whose gradient was asked for."""
        if v.statement is None:
            return v in self.inputs and label(v) in self.names
        found = self.g.weight_source(v)
        return found is not None and found[0] in self.names

    def _varying(self) -> set[Value]:
        made = {v for v in self.inputs if self.is_wanted(v)}
        for s in self.forward:
            mine = any(v in made for v in s.tensors())
            if mine or any(self.is_wanted(v) for v in s.results):
                made |= {v for v in s.results if v.dtype in FLOATS}
                blocked = NOT_DIFFERENTIABLE.get(s.op)
                if blocked and any(v in self.outputs for v in s.results):
                    raise NotDifferentiable(f"{s.op}: not differentiable: {blocked}")
        return made

    def run(self) -> None:
        for i, v in enumerate(self.outputs):
            if v in self.varies:
                seed = self.g.input_like(f"d{label(self.source.outputs[i])}", v)
                self.seeds[v] = seed
                self.adjoint[v] = seed
        for s in reversed(self.forward):
            dys = [self.adjoint.get(v) for v in s.results]
            if s.op == "const" or not any(d is not None for d in dys):
                continue
            if not any(v in self.varies for v in s.tensors()) or s.op in ZERO:
                continue
            why = NOT_DIFFERENTIABLE.get(s.op)
            if why is not None:
                raise NotDifferentiable(f"{s.op}: not differentiable: {why}")
            done: set[Value] = set() if self.engine or dys[0] is None else self._products(s, dys[0])

            def wanted(v: Value, done: set[Value] = done) -> bool:
                return v in self.varies and v not in done

            (s.back or RULES[s.op])(Back(self.g, s, dys, wanted, self._give))

    def _give(self, v: Value, adjoint: Value) -> None:
        old = self.adjoint.get(v)
        self.adjoint[v] = adjoint if old is None else self.g.add(old, adjoint)

    def _products(self, s: Statement, dy: Value) -> set[Value]:
        """Weights of `s` whose gradient the CPU sums; notes how."""
        done: set[Value] = set()

        def note(v: Value, kind: str, x: Value | None, **more: object) -> None:
            found = self.g.weight_source(v)
            if found is None or not self.is_wanted(v) or (x is not None and x.is_constant):
                return
            self.sums.append(Product(found[0], found[1], kind, dy, x, v.shape, **more))  # type: ignore[arg-type]
            done.add(v)

        values = {k: v for k, v in s.operands.items() if isinstance(v, Value)}
        if s.op == "conv":
            types = {k: v.type for k, v in values.items()}
            groups = s.params.get("groups", 1)
            area = window("conv", types, s.params)
            note(values["weight"], "conv", values["x"], window=area, groups=groups)
        elif s.op == "linear":
            note(values["weight"], "linear", values["x"])
            if "bias" in values:
                note(values["bias"], "sum", None)
        elif s.op == "matmul" and not (s.params.get("transpose_x") or s.params.get("transpose_y")):
            x, y = values["x"], values["y"]
            if x.ndim == 2:
                note(x, "left", y)
            if y.ndim == 2 and x.ndim >= 2:
                note(y, "right", x)
        elif s.op in ("add", "sub", "mul"):
            x, y = values["x"], values["y"]
            for v, other, sign in ((x, y, 1.0), (y, x, -1.0 if s.op == "sub" else 1.0)):
                if v not in done:
                    note(v, "sum", other if s.op == "mul" else None, sign=sign)
        return done


# =============================== The cut ========================================


class _Cut:
    """Which forward values are kept."""

    def __init__(self, joint: _Joint, needed: Iterable[Value], forced: Iterable[Value]) -> None:
        self.free = {*joint.inputs, *joint.outputs}
        self.needed = [v for v in dict.fromkeys(needed) if not v.is_constant]
        self.forced = {v for v in forced if v not in self.free}
        self.kept = {v for v in self.needed if self.keepable(v)} | self.forced

    def keepable(self, v: Value) -> bool:
        if v in self.free or v.dtype != "fp16" or not 1 <= v.ndim <= 4:
            return False
        s = v.statement
        return s is not None and any(not t.is_constant for t in s.tensors())

    def again(self, kept: set[Value]) -> list[Statement]:
        """Operations to repeat when `kept` is there, unordered."""
        made: dict[Statement, None] = {}
        todo = list(self.needed)
        seen: set[Value] = set()
        while todo:
            v = todo.pop()
            s = v.statement
            if v in seen or v in kept or v in self.free or s is None or s.op == "const":
                continue
            seen.add(v)
            made[s] = None
            todo.extend(s.tensors())
        return list(made)

    def cost(self, kept: set[Value]) -> float:
        return sum(flops(s) for s in self.again(kept) if not s.is_constant)

    def shrink(self, budget: int | None) -> None:
        """Recompute what costs least per byte until the taps fit; views always."""
        for v in list(self.kept - self.forced):
            s = v.statement
            if s is not None and s.op in ("reshape", "expand_dims", "squeeze", "identity"):
                source = s.value("x")
                if source in self.kept or source in self.free:
                    self.kept.discard(v)
        while budget is not None and self.bytes() > budget and self.kept - self.forced:
            now = self.cost(self.kept)
            best = min(
                sorted(self.kept - self.forced, key=lambda v: v.name),
                key=lambda v: (self.cost(self.kept - {v}) - now) / v.type.nbytes,
            )
            self.kept.discard(best)

    def bytes(self) -> int:
        return sum(v.type.nbytes for v in self.kept)


# =============================== Putting it together ============================


def differentiate(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    *,
    keep_bytes: int | None = None,
    weight_gradients: Literal["cpu", "engine"] = "cpu",
) -> Differentiated:
    """Forward kernel with taps, backward kernel, and the products the CPU does.

    Args:
        graph: with inputs and outputs; it is not changed.
        wrt: names of weights and of inputs (as declared) to differentiate by; all weights
            when None.
        keep_bytes: bytes of taps the forward may put out beside what the products need;
            what does not fit is computed again in the backward. None keeps all.
        weight_gradients: who computes dw = dy xᵀ.

    Raises:
        NotDifferentiable: an operation on the way has no derivative.
        ValueError: unknown names, or an output depends on nothing that was asked for.
    """
    if weight_gradients not in ("cpu", "engine"):
        raise ValueError(f"weight_gradients: expected cpu or engine, got {weight_gradients!r}")
    joint = _Joint(graph, wrt, weight_gradients == "engine")
    joint.run()
    results: list[tuple[str, Value]] = []
    for v in joint.inputs:
        if joint.is_wanted(v):
            if v not in joint.adjoint:
                raise NotDifferentiable(f"no differentiable path from {label(v)!r} to an output")
            results.append((label(v), joint.adjoint[v]))
    for s in joint.forward:
        v = s.results[0]
        found = joint.g.weight_source(v) if s.op == "const" else None
        if found is not None and v in joint.adjoint:
            made = joint.adjoint[v]
            joint.sums.append(Product(found[0], found[1], "value", made, None, v.shape))
    reached = {m.weight for m in joint.sums} | {name for name, _ in results}
    missing = sorted(joint.names - reached)
    if missing:
        raise NotDifferentiable(f"no differentiable path from {missing[0]!r} to an output")
    return _emit(joint, results, keep_bytes)


def _emit(
    joint: _Joint, results: list[tuple[str, Value]], keep_bytes: int | None
) -> Differentiated:
    first = set(joint.forward)
    ends = [v for _, v in results] + [m.dy for m in joint.sums]
    live = joint.g.live(ends)
    backward = [
        s
        for s in joint.g.statements
        if s not in first and s.op != "const" and any(v in live for v in s.results)
    ]
    made_first = {v for s in joint.forward for v in s.results} | set(joint.inputs)
    needed = [v for s in backward for v in s.tensors() if v in made_first]
    needed += [v for v in ends if v in made_first]
    taps = [m.x for m in joint.sums if m.x is not None]
    cut = _Cut(joint, needed, taps)
    cut.shrink(None if keep_bytes is None else keep_bytes + _size(cut.forced))

    # the forward: the graph, and taps as further outputs
    source = joint.source
    fwd = Graph(source.dialect, allow_refused=source.allow_refused)
    at: dict[Value, Value] = {}
    for v in joint.inputs:
        at[v] = fwd.input_like(label(v), v)
    for s in joint.forward:
        fwd.add_copy(s, at)
    for old, v in zip(source.outputs, joint.outputs, strict=True):
        fwd.output(label(old), at[v])
    order = {v: i for i, v in enumerate(v for s in joint.forward for v in s.results)}
    kept = sorted(cut.kept, key=lambda v: order[v])
    for i, v in enumerate(kept):
        fwd.output(f"tap{i}", at[v])

    # the backward: adjoints, then taps and whatever else has a surface
    bwd = Graph(source.dialect, allow_refused=source.allow_refused)
    to: dict[Value, Value] = {}
    used = joint.g.live(ends)
    adjoints = {}
    for out, (v, seed) in zip_outputs(joint):
        if seed in used:
            to[seed] = bwd.input_like(label(seed), v, adjoint=True)
            adjoints[out] = to[seed].name
    again = set(cut.again(cut.kept))
    read = {v for s in [*backward, *again] for v in s.tensors()} | set(ends)
    wires, copies = {}, {}
    for v in [*joint.inputs, *joint.outputs, *kept]:
        if v not in read or v in to:
            continue
        to[v] = bwd.input_like(f"t_{label(at[v])}", v)
        if v in joint.inputs:
            copies[to[v].name] = at[v].name
        else:
            wires[to[v].name] = at[v].name
    for s in [*(s for s in joint.forward if s in again), *backward]:
        if all(v in to for v in s.results):
            continue
        for v in s.tensors():
            bwd.add_constants(v, to)
        keep = {v: to[v] for v in s.results if v in to}
        bwd.add_copy(s, to)
        to.update(keep)

    def surface(v: Value, name: str) -> Port:
        """Where a value of the joint graph can be read."""
        if v in at and (at[v] in fwd.outputs or at[v] in fwd.inputs):
            return Port("forward", at[v].name)
        bwd.add_constants(v, to)
        there = to[v]
        if there in bwd.inputs or there in bwd.outputs:
            return Port("backward", there.name)
        if there.is_constant:
            there = bwd.identity(there)
        bwd.output(name, there)
        return Port("backward", there.name)

    gradients = {name: surface(v, f"d{name}") for name, v in results}
    products: list[Product[Port]] = []
    for i, m in enumerate(joint.sums):
        dy = surface(m.dy, f"dy{i}")
        x = None if m.x is None else surface(m.x, f"x{i}")
        products.append(cast("Product[Port]", replace(cast(Any, m), dy=dy, x=x)))
    if not bwd.outputs:  # everything is on surfaces already: a kernel must put out something
        bwd.output("none", bwd.identity(bwd.inputs[0]))
    alive = bwd.live()
    for v in [v for v in bwd.inputs if v not in alive]:  # read by the CPU only
        bwd.output(f"same_{label(v)}", bwd.identity(v))
    return Differentiated(
        forward=fwd.build(),
        backward=bwd.build(),
        forward_graph=fwd,
        backward_graph=bwd,
        wires=wires,
        copies=copies,
        outputs=tuple(v.name for v in fwd.outputs[: len(source.outputs)]),
        adjoints=adjoints,
        gradients=gradients,
        products=tuple(products),
        tap_bytes=cut.bytes(),
        recomputed=sum(not s.is_constant for s in again),
    )


def _size(values: Iterable[Value]) -> int:
    return sum(v.type.nbytes for v in values)


def zip_outputs(joint: _Joint) -> list[tuple[str, tuple[Value, Value]]]:
    """(name of the graph's output, (value, its seed)) of those that vary."""
    return [
        (label(out), (v, joint.seeds[v]))
        for out, v in zip(joint.source.outputs, joint.outputs, strict=True)
        if v in joint.seeds
    ]
