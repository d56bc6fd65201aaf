# SPDX-License-Identifier: MIT
"""A Llama-family transformer as Neural Engine kernels with baked weights.

What is here: a model's kernels with everything a training loop must know about them
(:class:`LlamaProgram`). Its shape and its parameters are in
:mod:`ane_native.models.llama_config`, what the kernels compute in
:mod:`ane_native.models.llama_kernels`; both can be imported from here. What is not: the loop, the
optimizer, the engine. A micro-step is: write the embedded tokens, run the forward chain, compute the
loss on the CPU, write dlogits, run the backward chain, collect the weight gradients from
the surfaces (:class:`LlamaProgram` has an example).

Letters: D model dim, F hidden dim of the feed-forward part, H heads, K heads of keys and
values (grouped-query attention when K < H: head h reads key head h K // H), E head dim
(D / H unless given), T tokens of the sequence, V vocabulary. Tensors are fp16
[1, channels, 1, T] in surfaces; weights are fp32 [out, in] as in llama2.c and Hugging Face
checkpoints.

Four kernels a layer and two for the head::

    attn_fwd   x -> y = x + Wo attention(rope(Wq n), rope(Wk n), Wv n),  n = rmsnorm(x)
               (with qk_norm: rope(rmsnorm(Wq n)), rope(rmsnorm(Wk n)), head by head)
    ffn_fwd    x -> y = x + W2 (silu(W1 n) * W3 n),                      n = rmsnorm(x)
    head_fwd   x -> logits = E n,                                        n = rmsnorm(x)
    head_bwd, ffn_bwd, attn_bwd: the same backwards, on transposed baked weights

Forward kernels also put out what the backward kernels and the weight gradients need (the
taps). Wires give both ends of an edge one surface, so each chain runs from its first
kernel to its last without the CPU touching a tensor.

Gradients are fp16 in surfaces and the engine's products have an absolute step of 2^-16:
scale the loss (:attr:`LlamaConfig.loss_scale`), or let every baked matrix carry a power of two
(``LlamaProgram(scaled=True)``, chosen by :mod:`ane_native.models.llama_scales`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ane_native.kernel import Kernel, KernelSet
from ane_native.mil import Dialect, MilText
from ane_native.models.llama_config import PRESETS, LlamaConfig, init_params, parameter_shapes
from ane_native.models.llama_kernels import (
    attn_bwd,
    attn_fwd,
    ffn_bwd,
    ffn_fwd,
    head_bwd,
    head_fwd,
    rope_tables,
)

__all__ = [
    "PRESETS",
    "GradJob",
    "LlamaChains",
    "LlamaConfig",
    "LlamaProgram",
    "PortRef",
    "init_params",
    "parameter_shapes",
    "rope_tables",
]


class PortRef(NamedTuple):
    """One port of one kernel; ``trainer.surface(*port)`` is its surface."""

    kernel: str
    port: str

    def __str__(self) -> str:
        return f"{self.kernel}.{self.port}"


@dataclass(frozen=True)
class GradJob:
    """One weight gradient, computed on the CPU from two surfaces after the backward chain.

    ``dw[o, i] += sum_t dy[o, t] x[i, t]``, or with ``cols == 0`` (the gain of a norm)
    ``dw[o] += sum_t dy[o, t] x[o, t]``: the fields of ``AneGradJob``.

    Attributes:
        parameter: whose gradient it is. ``tok_embeddings.weight`` gets the head's part
            here; the input's part is added by the embedding's backward pass.
        dy: gradient of the product's result, [rows, T] fp16.
        x: what the product was applied to, [cols, T] fp16; [rows, T] for a gain. Those of the
            norms of q and k are [rows, heads, T]; t counts heads and tokens then.
        rows: first axis of the parameter.
        cols: second axis of the parameter, 0 for a gain.
    """

    parameter: str
    dy: PortRef
    x: PortRef
    rows: int
    cols: int


class LlamaChains:
    """What a training loop drives, whoever cut the model into kernels.

    Attributes:
        config: sizes.
        scaled: every matrix is baked times a power of two.
        wires: input port -> port whose surface it uses.
        forward: kernel names of the forward chain, in order.
        backward: kernel names of the backward chain, in order.
        x: write before forward: embedded tokens, [1, D, 1, T].
        logits: read after forward, [1, V, 1, T].
        dlogits: write before backward, [1, V, 1, T]; in the memory of the logits.
        dx: read after backward: gradient of the embedded tokens, [1, D, 1, T].
        grad_jobs: the weight gradients; their ports may be read until the next forward.
    """

    config: LlamaConfig
    scaled: bool
    wires: dict[str, str]
    forward: list[str]
    backward: list[str]
    x: PortRef
    logits: PortRef
    dlogits: PortRef
    dx: PortRef
    grad_jobs: list[GradJob]

    def kernel_set(self) -> KernelSet:
        """The kernels and wires as the trainer takes them."""
        raise NotImplementedError


class LlamaProgram(LlamaChains):
    """The kernels of one model, cut by hand, and how a training loop drives them.

    Args:
        config: sizes.
        dialect: of the MIL text, see :mod:`ane_native.mil`.
        scaled: every matrix is baked times a power of two that is among the weights and
            changes with them, see :mod:`ane_native.models.llama_scales`.

    Example:
        One micro-step in NumPy; ``grads`` holds fp32 zeros in the parameters' shapes and
        ends up multiplied by ``scale``. A training loop does the same with the passes of
        the core instead::

            program = LlamaProgram(PRESETS["tiny"])
            with ane.DoubleBufferedTrainer(program.kernel_set(), params) as trainer:
                def surface(port):                           # [channels, T] fp16, no copy
                    return trainer.surface(*port).array.reshape(-1, program.config.seq)

                table = trainer.active_weights["tok_embeddings.weight"]
                surface(program.x)[:] = table[tokens].T
                trainer.run(program.forward)
                loss, dlogits = cross_entropy(surface(program.logits), targets)
                surface(program.dlogits)[:] = dlogits * scale
                trainer.run(program.backward)
                for job in program.grad_jobs:
                    dy, x = surface(job.dy).astype("f4"), surface(job.x).astype("f4")
                    grads[job.parameter] += dy @ x.T if job.cols else (dy * x).sum(axis=1)
                np.add.at(grads["tok_embeddings.weight"], tokens, surface(program.dx).T)
                trainer.micro_step()

    Attributes:
        mil: kernel name -> its text and ports; 4 * layers + 2 of them.
        The others: see :class:`LlamaChains`.
    """

    def __init__(
        self, config: LlamaConfig, dialect: Dialect = "A", *, scaled: bool = False
    ) -> None:
        layers = range(config.layers)
        last = config.layers - 1
        self.config, self.scaled = config, scaled
        self.forward = [f"L{i}.{part}" for i in layers for part in ("attn_fwd", "ffn_fwd")]
        self.forward += ["head_fwd"]
        self.backward = ["head_bwd"]
        self.backward += [
            f"L{i}.{part}" for i in reversed(layers) for part in ("ffn_bwd", "attn_bwd")
        ]
        self.mil: dict[str, MilText] = {}
        for i in layers:
            parts: dict[str, Callable[[LlamaConfig, int, Dialect, bool], MilText]] = {
                "attn_fwd": attn_fwd,
                "ffn_fwd": ffn_fwd,
                "ffn_bwd": ffn_bwd,
                "attn_bwd": attn_bwd,
            }
            self.mil |= {
                f"L{i}.{part}": make(config, i, dialect, scaled) for part, make in parts.items()
            }
        self.mil["head_fwd"] = head_fwd(config, dialect)
        self.mil["head_bwd"] = head_bwd(config, dialect, scaled)

        self.x = PortRef("L0.attn_fwd", "i00_x")
        self.logits = PortRef("head_fwd", "o00_logits")
        self.dlogits = PortRef("head_bwd", "i00_dlogits")
        self.dx = PortRef("L0.attn_bwd", "o00_dx")
        self.wires: dict[str, str] = {}
        for i in layers:
            below = f"L{i - 1}.ffn_fwd" if i > 0 else None
            above = f"L{i + 1}.attn_bwd" if i < last else "head_bwd"
            if below is not None:
                self._wire(f"L{i}.attn_fwd", below, x="y")
            self._wire(f"L{i}.ffn_fwd", f"L{i}.attn_fwd", x="y")
            self._wire(f"L{i}.ffn_bwd", above, dy="dx")
            self._wire(f"L{i}.ffn_bwd", f"L{i}.ffn_fwd", h1="h1", h3="h3", xhat="xhat", r="r")
            self._wire(f"L{i}.attn_bwd", f"L{i}.ffn_bwd", dy="dx")
            taps = {tap: tap for tap in ("q", "k", "v", "xhat", "r")}
            if config.qk_norm:
                taps |= {tap: tap for tap in ("qhat", "rq", "khat", "rk")}
            self._wire(f"L{i}.attn_bwd", f"L{i}.attn_fwd", **taps)
        self._wire("head_fwd", f"L{last}.ffn_fwd", x="y")
        # The loss writes dlogits over the logits, the largest of all surfaces.
        self._wire("head_bwd", "head_fwd", dlogits="logits", xhat="xhat", r="r")
        self.grad_jobs = self._grad_jobs()

    def kernel_set(self) -> KernelSet:
        """The kernels and wires as the trainer takes them."""
        kernels = [
            Kernel(
                name,
                mil.text,
                inputs=mil.inputs,
                outputs=mil.outputs,
                weights=mil.weights,
                adjoints=mil.adjoints,
            )
            for name, mil in self.mil.items()
        ]
        return KernelSet(kernels, wires=self.wires)

    def port(self, kernel: str, kind: str, name: str) -> PortRef:
        """The port of `kernel` that was declared as `name`; kind ``"inputs"`` or ``"outputs"``."""
        ports: dict[str, tuple[int, ...]] = getattr(self.mil[kernel], kind)
        return PortRef(kernel, next(port for port in ports if port[4:] == name))

    def _wire(self, to: str, source: str, **ports: str) -> None:
        """Inputs of `to` (keys) use the surfaces of outputs of `source` (values)."""
        for into, out in ports.items():
            target = self.port(to, "inputs", into)
            self.wires[str(target)] = str(self.port(source, "outputs", out))

    def _grad_jobs(self) -> list[GradJob]:
        shapes = parameter_shapes(self.config)

        def job(parameter: str, bwd: str, dy: str, fwd: str, x: str) -> GradJob:
            kind = "inputs" if dy in ("dy", "dlogits") else "outputs"
            rows, cols = (*shapes[parameter], 0)[:2]
            tap = self.port(fwd, "outputs", x)
            return GradJob(parameter, self.port(bwd, kind, dy), tap, rows, cols)

        jobs = [
            job("tok_embeddings.weight", "head_bwd", "dlogits", "head_fwd", "n"),
            job("norm.weight", "head_bwd", "dn", "head_fwd", "xhat"),
        ]
        for i in reversed(range(self.config.layers)):
            ffn, attention = f"layers.{i}.feed_forward", f"layers.{i}.attention"
            norms = [(f"{attention}.{m}_norm.weight", "attn", f"d{m}n", f"{m}hat") for m in "qk"]
            for parameter, part, dy, x in (
                (f"{ffn}.w2.weight", "ffn", "dy", "gate"),
                (f"{ffn}.w1.weight", "ffn", "dh1", "n"),
                (f"{ffn}.w3.weight", "ffn", "dh3", "n"),
                (f"layers.{i}.ffn_norm.weight", "ffn", "dn", "xhat"),
                (f"{attention}.wo.weight", "attn", "dy", "a"),
                (f"{attention}.wq.weight", "attn", "dq", "n"),
                (f"{attention}.wk.weight", "attn", "dk", "n"),
                (f"{attention}.wv.weight", "attn", "dv", "n"),
                (f"{attention}_norm.weight", "attn", "dn", "xhat"),
                *(norms if self.config.qk_norm else []),
            ):
                jobs.append(job(parameter, f"L{i}.{part}_bwd", dy, f"L{i}.{part}_fwd", x))
        return jobs
