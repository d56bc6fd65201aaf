# SPDX-License-Identifier: MIT
"""A differentiated graph on a trainer: kernels, wires, and weight gradients on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ane_native import autodiff, cpu
from ane_native.kernel import Kernel, KernelSet
from ane_native.mil import Graph, label
from ane_native.scheduler import DoubleBufferedTrainer

__all__ = ["GraphModel", "GraphStep", "differentiate"]

Float = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]
PortProduct: TypeAlias = "autodiff.Product[autodiff.Port]"


class GraphModel:
    """Forward and backward kernel of a graph.

    Attributes:
        parts: what :func:`ane_native.autodiff.differentiate` made.
        name: prefix of the kernels' names.
    """

    def __init__(self, parts: autodiff.Differentiated, name: str = "model") -> None:
        self.parts, self.name = parts, name

    def kernels(self) -> list[Kernel]:
        """The two kernels, ``<name>.forward`` and ``<name>.backward``."""
        return [
            Kernel(
                f"{self.name}_{which}",
                text.text,
                inputs=text.inputs,
                outputs=text.outputs,
                weights=text.weights,
            )
            for which, text in (
                ("forward", self.parts.forward),
                ("backward", self.parts.backward),
            )
        ]

    def kernel_set(self) -> KernelSet:
        """Both kernels and their wires, as the trainer takes them."""
        wires = {
            f"{self.name}_backward.{to}": f"{self.name}_forward.{out}"
            for to, out in self.parts.wires.items()
        }
        return KernelSet(self.kernels(), wires=wires)

    def on(
        self, trainer: DoubleBufferedTrainer, grads: dict[str, Float] | None = None
    ) -> GraphStep:
        """Run it on a trainer; see :class:`GraphStep`."""
        return GraphStep(self, trainer, grads)


class GraphStep:
    """Forward and backward of one batch, numpy in and out.

    Args:
        model: what runs. trainer: made from its kernel set.
        grads: weight name -> C-contiguous float32 array that gradients are added to.
    """

    def __init__(
        self, model: GraphModel, trainer: DoubleBufferedTrainer, grads: dict[str, Float] | None
    ) -> None:
        self.model, self.trainer, self.grads = model, trainer, grads
        parts = model.parts
        self._inputs = [v.name for v in parts.forward_graph.inputs]
        count = len(parts.forward_graph.outputs) - sum(
            label(v).startswith("tap") for v in parts.forward_graph.outputs
        )
        self._outputs = [v.name for v in parts.forward_graph.outputs[:count]]
        for p in parts.products:
            if grads is not None and p.weight not in grads:
                raise ValueError(f"grads: expected an array for weight {p.weight!r}")
        if grads is not None:
            cpu.open_blas()

    def _surface(self, which: Literal["forward", "backward"], port: str) -> Any:
        return self.trainer.surface(f"{self.model.name}_{which}", port)

    def _array(self, port: autodiff.Port) -> Half:
        array: Half = self._surface(port.kernel, port.name).array
        return array

    def forward(self, *inputs: npt.ArrayLike) -> Any:
        """Evaluate the graph.

        Args:
            inputs: in declared order; any real dtype, anything with as many elements.

        Returns:
            The output in float32, or a tuple of them.
        """
        if len(inputs) != len(self._inputs):
            raise ValueError(f"forward: expected {len(self._inputs)} inputs, got {len(inputs)}")
        for port, value in zip(self._inputs, inputs, strict=True):
            self._write("forward", port, value)
            for to, source in self.model.parts.copies.items():
                if source == port:
                    self._write("backward", to, value)
        self.trainer.run([f"{self.model.name}_forward"])
        made = tuple(self._surface("forward", name).read() for name in self._outputs)
        return made[0] if len(made) == 1 else made

    def _write(self, which: Literal["forward", "backward"], port: str, value: Any) -> None:
        surface = self._surface(which, port)
        surface.write(np.asarray(value).reshape(surface.shape))

    def backward(self, *adjoints: npt.ArrayLike) -> dict[str, Float]:
        """Gradients of the last forward; counts a micro-step.

        Args:
            adjoints: gradient of the loss by each output that depends on what was asked for.

        Returns:
            Gradients of the inputs asked for; those of weights are added to ``grads``.
        """
        parts = self.model.parts
        if len(adjoints) != len(parts.adjoints):
            raise ValueError(f"backward: expected {len(parts.adjoints)}, got {len(adjoints)}")
        for port, value in zip(parts.adjoints.values(), adjoints, strict=True):
            self._write("backward", port, value)
        self.trainer.run([f"{self.model.name}_backward"])
        if self.grads is not None:
            self._products(self.grads)
        self.trainer.micro_step()
        return {
            name: self._array(port).astype(np.float32) for name, port in parts.gradients.items()
        }

    def _products(self, grads: dict[str, Float]) -> None:
        waves: dict[str, list[cpu.GradProduct]] = {}
        for p in self.model.parts.products:
            dy = self._array(p.dy)
            x = None if p.x is None else self._array(p.x)
            dw = grads[p.weight]
            if p.kind in ("sum", "value"):
                _add(dw, summed(p, dy, x), p)
                continue
            assert x is not None
            rows, cols = matrices(p, dy, x)
            if p.transposed:
                rows, cols = cols, rows
            if p.groups > 1 or (p.transposed and len(p.shape) > 2 and max(p.shape[2:]) > 1):
                _add(dw, grouped(p, dy, x), p)
                continue
            view = dw.reshape(rows.shape[0], cols.shape[0])
            waves.setdefault(p.weight, []).append(cpu.GradProduct(rows, cols, view))
        while waves:  # no two products may add to one array at a time
            jobs = cpu.GradJobs([queue.pop() for queue in waves.values()])
            cpu.grad_submit(jobs)
            cpu.grad_wait()
            waves = {name: queue for name, queue in waves.items() if queue}


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
) -> GraphModel:
    """:func:`ane_native.autodiff.differentiate`, ready to run on a trainer."""
    parts = autodiff.differentiate(
        graph, wrt, keep_bytes=keep_bytes, weight_gradients=weight_gradients
    )
    return GraphModel(parts, name)
