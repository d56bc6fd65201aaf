# SPDX-License-Identifier: MIT
"""A differentiated graph on a trainer: kernels cut from it, their wires, and weight gradients on
the CPU beside the kernels that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native import autodiff, cpu
from ane_native.errors import PartitionError
from ane_native.kernel import Kernel, KernelSet, Surface
from ane_native.mil import Graph, label
from ane_native.partition import Cost, Cut, Limits, Plan, partition
from ane_native.scheduler import DoubleBufferedTrainer

__all__ = ["GraphModel", "GraphStep", "differentiate"]

Float = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]
Side: TypeAlias = Literal["forward", "backward"]
PortProduct: TypeAlias = "autodiff.Product[autodiff.Port]"


class GraphModel:
    """Forward and backward kernels of a graph.

    Args:
        parts: what :func:`ane_native.autodiff.differentiate` made.
        name: prefix of the kernels' names: ``<name>_forward`` and ``<name>_backward``, numbered
            where there are several.
        limits, cost: how both graphs are cut, see :func:`ane_native.partition.partition`.
        cuts: ``{"forward": cuts, "backward": cuts}`` instead: positions as there.

    Attributes:
        parts, name: as given.
        plans: ``"forward"`` and ``"backward"`` as :class:`ane_native.partition.Plan`.
        wires: ``kernel.port`` -> ``kernel.port`` whose surface it uses: nothing is copied
            between kernels.

    Raises:
        LimitError, PartitionError: the graph cannot be cut so.
    """

    def __init__(
        self,
        parts: autodiff.Differentiated,
        name: str = "model",
        *,
        limits: Limits | None = None,
        cost: Cost | None = None,
        cuts: Mapping[str, Sequence[Cut]] | None = None,
    ) -> None:
        self.parts, self.name = parts, name
        graphs: dict[Side, Graph] = {
            "forward": parts.forward_graph,
            "backward": parts.backward_graph,
        }
        unknown = sorted(set(cuts or {}) - set(graphs))
        if unknown:
            raise ValueError(f"cuts: expected forward and backward, got {unknown[0]!r}")
        self.plans: dict[Side, Plan] = {
            which: partition(
                graph,
                limits=limits,
                cost=cost,
                cuts=(cuts or {}).get(which),
                name=f"{name}_{which}",
            )
            for which, graph in graphs.items()
        }
        forward, backward = self.plans["forward"], self.plans["backward"]
        both, most = len(forward) + len(backward), forward.limits.kernels
        if most is not None and both > most:
            raise PartitionError(f"forward and backward have kernels {both}, at most {most}")
        self.wires = {**forward.wires, **backward.wires}
        sources = {to: forward.outputs[out] for to, out in parts.wires.items()}
        sources |= {to: forward.inputs[port][0] for to, port in parts.copies.items()}
        for to, source in sources.items():
            self.wires |= dict.fromkeys(backward.inputs[to], source)

    def kernels(self) -> list[Kernel]:
        """All kernels: the forward chain, then the backward chain, each in order."""
        return [kernel for plan in self.plans.values() for kernel in plan.kernels()]

    def kernel_set(self) -> KernelSet:
        """The kernels and their wires, as the trainer takes them."""
        return KernelSet(self.kernels(), wires=self.wires)

    def port(self, which: Side, name: str) -> tuple[str, str]:
        """(kernel, port) where a port of the forward or backward graph is."""
        kernel, _, port = self.plans[which].port(name).rpartition(".")
        return kernel, port

    def on(
        self,
        trainer: DoubleBufferedTrainer,
        grads: dict[str, Float] | Sequence[dict[str, Float]] | None = None,
    ) -> GraphStep:
        """Run it on a trainer; see :class:`GraphStep`."""
        return GraphStep(self, trainer, grads)

    def __str__(self) -> str:
        return "\n".join(f"{which}: {plan}" for which, plan in self.plans.items())


class GraphStep:
    """Forward and backward of one batch, numpy in and out.

    Everything belongs to the trainer's *active* generation, whatever its staleness: call
    ``trainer.step(weights)`` between batches, and the next set compiles in the background
    while the micro-steps after it run.

    Args:
        model: what runs. trainer: made from its kernel set.
        grads: weight name -> C-contiguous float32 array that gradients are added to. Several
            of them: sets that take turns, see :attr:`gradients`.

    Attributes:
        inputs: input of the graph -> its surface, float16; what is written there needs no copy:
            ``step.inputs["x"][...] = x; step.forward()``.
        outputs: output of the graph -> its surface, which the next forward writes over.
        adjoints: output of the graph -> the surface of its adjoint.
        gradients: which set of gradients is added to.

    Raises:
        ValueError: a weight without an array in `grads`.
    """

    def __init__(
        self,
        model: GraphModel,
        trainer: DoubleBufferedTrainer,
        grads: dict[str, Float] | Sequence[dict[str, Float]] | None,
    ) -> None:
        self.model, self.trainer = model, trainer
        sets = [] if grads is None else [grads] if isinstance(grads, dict) else list(grads)
        self.gradients = 0
        parts = model.parts
        graph = parts.forward_graph
        self._in = {label(v): self._surface("forward", v.name) for v in graph.inputs}
        self._out = {label(v): self._surface("forward", v) for v in parts.outputs}
        self._seeds = {out: self._surface("backward", to) for out, to in parts.adjoints.items()}
        self.inputs: dict[str, Half] = {k: s.array for k, s in self._in.items()}
        self.outputs: dict[str, Half] = {k: s.array for k, s in self._out.items()}
        self.adjoints: dict[str, Half] = {k: s.array for k, s in self._seeds.items()}
        self._products: list[list[cpu.Stages | _Stage]] = []
        if sets:
            cpu.open_blas()
            self._products = [self._plan(one) for one in sets]

    def _surface(self, which: Side, port: str) -> Surface:
        return self.trainer.surface(*self.model.port(which, port))

    def _array(self, port: autodiff.Port) -> Half:
        array: Half = self._surface(port.kernel, port.name).array
        return array

    def forward(self, *inputs: npt.ArrayLike) -> Any:
        """Evaluate the graph.

        Args:
            inputs: in declared order; any real dtype, anything with as many elements. None at
                all: what was written to :attr:`inputs` is taken.

        Returns:
            The output in float32, or a tuple of them.
        """
        if inputs and len(inputs) != len(self._in):
            raise ValueError(f"forward: expected {len(self._in)} inputs, got {len(inputs)}")
        for surface, value in zip(self._in.values(), inputs, strict=False):
            surface.write(np.asarray(value).reshape(surface.shape))
        self.trainer.run(self.model.plans["forward"].names)
        made = tuple(surface.read() for surface in self._out.values())
        return made[0] if len(made) == 1 else made

    def backward(self, *adjoints: npt.ArrayLike) -> dict[str, Float]:
        """Gradients of the last forward; counts a micro-step.

        Gradients of weights are queued as soon as both of their surfaces are written, and are
        summed beside the kernels that follow; all of them are complete on return.

        Args:
            adjoints: gradient of the loss by each output that depends on what was asked for.
                None at all: what was written to :attr:`adjoints` is taken.

        Returns:
            Gradients of the inputs asked for; those of weights are added to ``grads``.
        """
        parts = self.model.parts
        if adjoints and len(adjoints) != len(self._seeds):
            raise ValueError(f"backward: expected {len(self._seeds)}, got {len(adjoints)}")
        for surface, value in zip(self._seeds.values(), adjoints, strict=False):
            surface.write(np.asarray(value).reshape(surface.shape))
        if not self._products:
            self.trainer.run(self.model.plans["backward"].names)
        else:
            try:
                for stage in self._products[self.gradients]:
                    if isinstance(stage, cpu.Stages):
                        self.trainer.run_stages(stage)
                    else:
                        stage.run(self.trainer)
            finally:
                cpu.grad_wait()  # also after an error: nothing may add to grads later
        self.trainer.micro_step()
        return {
            name: self._array(port).astype(np.float32) for name, port in parts.gradients.items()
        }

    # ------------------------------ weight gradients ------------------------------

    def _plan(self, grads: dict[str, Float]) -> list[cpu.Stages | _Stage]:
        """Kernels of the backward chain, and what is queued behind each of them; what needs no
        Python goes to the core as one call."""
        names = self.model.plans["backward"].names
        stages = [_Stage([])] + [_Stage([name]) for name in names]
        last: dict[str, int] = {}
        later: list[_Stage] = []
        for p in self.model.parts.products:
            if p.weight not in grads:
                raise ValueError(f"grads: expected an array for weight {p.weight!r}")
            at = max(self._ready(port, names) for port in (p.dy, p.x) if port is not None)
            turn = last[p.weight] = last.get(p.weight, -1) + 1
            if turn == 0:
                stage = stages[at]
            else:  # no two products may add to one array at a time
                while len(later) < turn:
                    later.append(_Stage([], wait=True))
                stage = later[turn - 1]
            stage.add(p, self._array(p.dy), None if p.x is None else self._array(p.x), grads)
        runs: list[cpu.Stages | _Stage] = []
        group: list[_Stage] = []

        def end() -> None:
            if any(stage.kernels for stage in group):
                parts = [(stage.kernels, stage.jobs) for stage in group]
                runs.append(cpu.Stages(self.trainer.kernels, parts))
            else:  # the core runs kernels, or nothing
                runs.extend(stage for stage in group if stage.jobs is not None)
            group.clear()

        for stage in [*stages, *later]:
            stage.close()
            if not stage.native:
                end()
                runs.append(stage)
            else:
                group.append(stage)
        end()
        return runs

    def _ready(self, port: autodiff.Port, names: list[str]) -> int:
        """The stage after which a surface holds its values."""
        kernel, name = self.model.port(port.kernel, port.name)
        if port.kernel == "forward":
            return 0
        made = self.trainer.kernels.kernels[self.trainer.kernels.position(kernel)].port(name)[0]
        return names.index(kernel) + 1 if made else 0


class _Stage:
    """Kernels to run, and the products that their surfaces complete."""

    def __init__(self, kernels: list[str], *, wait: bool = False) -> None:
        self.kernels, self.wait = kernels, wait
        self._fixed: list[cpu.GradProduct] = []  # on surfaces themselves
        self._moved: list[tuple[PortProduct, Half, Half, Float]] = []  # columns must be copied
        self._summed: list[tuple[PortProduct, Half, Half | None, Float]] = []
        self.jobs: cpu.GradJobs | None = None
        self._columns: cpu.GradJobs | None = None

    def add(self, p: PortProduct, dy: Half, x: Half | None, grads: dict[str, Float]) -> None:
        """Take a product, in the cheapest form that its shapes allow."""
        dw = grads[p.weight]
        by_hand = p.groups > 1 or (p.transposed and len(p.shape) > 2 and max(p.shape[2:]) > 1)
        if p.kind in ("sum", "value"):
            fast = _channel_sum(p, dy, x, dw)
            if fast is not None:
                self._fixed.append(fast)
            else:
                self._summed.append((p, dy, x, dw))
            return
        assert x is not None
        if by_hand:
            self._summed.append((p, dy, x, dw))
            return
        rows, cols = matrices(p, dy, x)
        if np.shares_memory(rows, dy) and np.shares_memory(cols, x):
            self._fixed.append(_product(p, rows, cols, dw))
        else:
            self._moved.append((p, dy, x, dw))

    def close(self) -> None:
        """No more products: check those on surfaces once."""
        self.jobs = cpu.GradJobs(self._fixed) if self._fixed else None

    @property
    def native(self) -> bool:
        """Nothing of it needs Python."""
        return not (self.wait or self._moved or self._summed)

    def run(self, trainer: DoubleBufferedTrainer) -> None:
        """Run the kernels and queue the products."""
        if self.wait:
            cpu.grad_wait()
        if self.kernels:
            trainer.run(self.kernels)
        if self.jobs is not None:
            cpu.grad_submit(self.jobs)
        if self._moved:
            moved = [_product(p, *matrices(p, dy, x), dw) for p, dy, x, dw in self._moved]
            self._columns = cpu.GradJobs(moved)  # held until the next run: the queue reads them
            cpu.grad_submit(self._columns)
        for p, dy, x, dw in self._summed:
            _add(dw, grouped(p, dy, x) if p.kind == "conv" else summed(p, dy, x), p)


def _product(p: PortProduct, rows: Half, cols: Half, dw: Float) -> cpu.GradProduct:
    if p.transposed:
        rows, cols = cols, rows
    return cpu.GradProduct(rows, cols, dw.reshape(rows.shape[0], cols.shape[0]))


def _channel_sum(p: PortProduct, dy: Half, x: Half | None, dw: Float) -> cpu.GradProduct | None:
    """dw of a bias or gain of each channel of [1, C, H, T] as the core sums it; else None."""
    if p.kind != "sum" or p.transposed or dy.ndim != 4 or dy.shape[0] != 1:
        return None
    channels = dy.shape[1]
    if tuple(p.shape) != (1, channels, 1, 1) or (x is not None and x.shape != dy.shape):
        return None
    if not dy.flags.c_contiguous or not (x is None or x.flags.c_contiguous):
        return None
    if x is not None and p.sign != 1.0:
        return None
    factor = np.full(dy.shape, p.sign, np.float16) if x is None else x
    return cpu.GradProduct(dy, factor, dw.reshape(channels))


def _add(dw: Float, value: Any, p: PortProduct) -> None:
    if p.transposed:
        value = value.reshape(p.shape[0], -1).T
    dw += value.reshape(dw.shape)


def summed(p: PortProduct, dy: Any, x: Any) -> Any:
    """dw of a weight that was added or multiplied, in float32."""
    value = dy.astype(np.float32) * np.float32(p.sign)
    if x is not None:
        value = value * x.astype(np.float32)
    if p.kind == "value":
        return value
    shape = (1,) * (value.ndim - len(p.shape)) + tuple(p.shape)
    axes = tuple(i for i, (m, n) in enumerate(zip(shape, value.shape, strict=True)) if m != n)
    return value.sum(axis=axes, keepdims=True) if axes else value


def _columns(p: PortProduct, x: Any) -> Any:
    """x [N, C, *S] -> [C, *kernel, N, *S']: the elements every tap of the kernel meets."""
    w = p.window
    assert w is not None
    edge = [(0, 0), (0, 0)]
    edge += [(max(a, 0), max(b, 0)) for a, b in zip(w.before, w.after, strict=True)]
    x = np.pad(x, edge)
    parts = []
    for offset in np.ndindex(*w.kernel):
        index = [slice(None), slice(None)]
        for o, d, s, n in zip(offset, w.dilation, w.stride, w.size_out, strict=True):
            index.append(slice(o * d, o * d + (n - 1) * s + 1, s))
        parts.append(np.moveaxis(x[tuple(index)], 1, 0))
    stacked = np.stack(parts, 1)
    return stacked.reshape(x.shape[1], *w.kernel, *stacked.shape[2:])


def matrices(p: PortProduct, dy: Any, x: Any) -> tuple[Half, Half]:
    """[rows, T] and [cols, T] fp16 with dw = rows colsᵀ."""

    def lead(v: Any, axis: int) -> Half:
        return np.ascontiguousarray(np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1))

    if p.kind == "conv":
        w = p.window
        assert w is not None
        if set(w.kernel) == {1} and set(w.stride) == {1} and not any((*w.before, *w.after)):
            return lead(dy, 1), lead(x, 1)
        columns = _columns(p, x)
        taps = columns.shape[0] * int(np.prod(w.kernel))
        return lead(dy, 1), np.ascontiguousarray(columns.reshape(taps, -1))
    if p.kind == "linear":
        return lead(dy, dy.ndim - 1), lead(x, x.ndim - 1)
    if p.kind == "left":
        return lead(dy, dy.ndim - 2), lead(x, x.ndim - 2)
    return lead(x, x.ndim - 1), lead(dy, dy.ndim - 1)


def grouped(p: PortProduct, dy: Any, x: Any) -> Any:
    """dw of a grouped convolution, in float32 or better."""
    kind = np.result_type(x, np.float32)
    columns = _columns(p, x).astype(kind)
    per = columns.shape[0] // p.groups
    rows = np.moveaxis(dy, 1, 0).reshape(p.groups, dy.shape[1] // p.groups, -1)
    cols = columns.reshape(p.groups, per * int(np.prod(p.shape[2:])), -1)
    return (rows.astype(kind) @ cols.swapaxes(1, 2)).reshape(p.shape)


def differentiate(
    graph: Graph,
    wrt: Sequence[str] | None = None,
    *,
    name: str = "model",
    keep_bytes: int | None = None,
    weight_gradients: Literal["cpu", "engine"] = "cpu",
    limits: Limits | None = None,
    cost: Cost | None = None,
    cuts: Mapping[str, Sequence[Cut]] | None = None,
) -> GraphModel:
    """:func:`ane_native.autodiff.differentiate`, cut into kernels and ready to run on a trainer.

    Args:
        graph, wrt, keep_bytes, weight_gradients: as there.
        name, limits, cost, cuts: as of :class:`GraphModel`.
    """
    parts = autodiff.differentiate(
        graph, wrt, keep_bytes=keep_bytes, weight_gradients=weight_gradients
    )
    return GraphModel(parts, name, limits=limits, cost=cost, cuts=cuts)
