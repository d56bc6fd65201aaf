# SPDX-License-Identifier: MIT
"""The same Llama-family model as a graph of layers, cut into kernels by the cost model.

:class:`~ane_native.models.llama.LlamaProgram` is cut by hand, four kernels a layer. Here the model
is written once with :mod:`ane_native.nn` (:func:`llama_graph`), differentiated, and both graphs are
cut where limits demand it or costs advise it (docs/PARTITION.md). Weights have the same names and
shapes, and a training loop drives either by the same attributes. Not the same bits: the order of
a few operations differs, and with it fp16 roundings. Powers of two in the matrices
(docs/SCALING.md) need the kernels cut by hand.
"""

from __future__ import annotations

from ane_native import autodiff, mil, nn
from ane_native.graphmodel import GraphModel
from ane_native.kernel import KernelSet
from ane_native.mil import Dialect, Graph
from ane_native.models.llama import GradJob, LlamaChains, PortRef
from ane_native.models.llama_config import LlamaConfig, parameter_shapes
from ane_native.partition import Cost, Limits, Plan, partition

__all__ = ["PartitionedLlama", "hand_cut_plans", "llama_graph"]


def llama_graph(config: LlamaConfig, dialect: Dialect = "A") -> Graph:
    """Embedded tokens ``x`` [1, D, 1, T] -> ``logits`` [1, V, 1, T].

    Weights are called as :func:`~ane_native.models.llama_config.parameter_shapes` has them; the
    classifier is the embedding.
    """
    g = Graph(dialect)
    h = g.input("x", (1, config.dim, 1, config.seq))
    eps = config.norm_eps
    for i in range(config.layers):
        at = f"layers.{i}"
        h = h + nn.attention(
            nn.rms_norm(h, f"{at}.attention_norm", eps=eps),
            f"{at}.attention",
            heads=config.heads,
            kv_heads=config.kv_heads,
            theta=config.rope_theta,
            head_width=config.head_width,
            qk_norm=config.qk_norm,
            eps=eps,
        )
        normed = nn.rms_norm(h, f"{at}.ffn_norm", eps=eps)
        h = h + nn.swiglu(normed, config.hidden, f"{at}.feed_forward")
    normed = nn.rms_norm(h, "norm", eps=eps)
    g.output("logits", nn.linear(normed, config.vocab, "tok_embeddings"))
    return g


class PartitionedLlama(LlamaChains):
    """The kernels that a plan makes of a model, as a training loop drives them.

    Args:
        config: sizes. dialect: of the MIL text.
        limits, cost: what both graphs are cut by, see :func:`ane_native.partition.partition`; those
            of the default profile when None, of this machine's engine :func:`ane_native.device.here`.

    Attributes:
        plans: ``"forward"`` and ``"backward"``; ``print`` shows cuts, costs and reasons.

    Raises:
        LimitError, PartitionError: the model cannot be cut so.

    Example:
        >>> from ane_native.models.llama import PRESETS
        >>> program = PartitionedLlama(PRESETS["tiny"])
        >>> program.forward, program.backward
        (['llama_forward'], ['llama_backward'])
    """

    def __init__(
        self,
        config: LlamaConfig,
        dialect: Dialect = "A",
        *,
        limits: Limits | None = None,
        cost: Cost | None = None,
    ) -> None:
        shapes = parameter_shapes(config)
        parts = autodiff.differentiate(llama_graph(config, dialect), [*shapes, "x"])
        model = GraphModel(parts, "llama", limits=limits, cost=cost)
        self.config, self.scaled, self.model = config, False, model
        self.plans: dict[str, Plan] = dict(model.plans.items())
        self.forward, self.backward = model.plans["forward"].names, model.plans["backward"].names

        def of(port: autodiff.Port) -> PortRef:
            return PortRef(*model.port(port.kernel, port.name))

        self.x = of(autodiff.Port("forward", parts.forward_graph.inputs[0].name))
        self.logits = of(autodiff.Port("forward", parts.outputs[0]))
        (dlogits,) = parts.adjoints.values()
        self.dlogits = of(autodiff.Port("backward", dlogits))
        # The loss writes dlogits over the logits, the largest of all surfaces.
        readers = model.plans["backward"].inputs[dlogits]
        self.wires = model.wires | dict.fromkeys(readers, str(self.logits))
        self.dx = of(parts.gradients["x"])
        self.grad_jobs = []
        for product in parts.products:
            assert product.kind in ("conv", "sum")
            assert product.x is not None
            rows, cols = (*shapes[product.weight], 0)[:2]
            job = GradJob(product.weight, of(product.dy), of(product.x), rows, cols)
            self.grad_jobs.append(job)

    def kernel_set(self) -> KernelSet:
        """The kernels and wires as the trainer takes them."""
        return KernelSet(self.model.kernels(), wires=self.wires)

    def __str__(self) -> str:
        return str(self.model)


def hand_cut_plans(
    program: LlamaChains, *, limits: Limits | None = None, cost: Cost | None = None
) -> dict[str, list[Plan]]:
    """What the cost model says of kernels that were cut by hand: chain -> a plan of one kernel
    for each of them, in order."""
    limits = Limits() if limits is None else limits
    kernels = {k.name: k for k in program.kernel_set().kernels}
    made: dict[str, list[Plan]] = {}
    for chain, names in (("forward", program.forward), ("backward", program.backward)):
        graphs = [mil.parse(kernels[name].mil)["main"] for name in names]
        made[chain] = [partition(g, limits=limits, cost=cost, cuts=()) for g in graphs]
    return made
