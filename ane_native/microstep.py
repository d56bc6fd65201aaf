# SPDX-License-Identifier: MIT
"""One micro-step of a model: embed, forward chain, loss, backward chain, weight gradients.

The engine runs the chains; the CPU does the rest. Weight gradients are queued on GCD as soon
as the surfaces they read are written, so they run beside the kernels that follow; at the end
of the micro-step all of them are waited for. No surface is written twice within a micro-step,
so nothing that a queued product reads can change under it.

Everything here belongs to the *active* generation: the embedding table is the one the head
was baked from, and the loss is the loss of those weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ane_native import cpu
from ane_native.data import Window
from ane_native.models.llama import GradJob, LlamaChains, PortRef
from ane_native.models.llama_scales import STREAM, carried
from ane_native.scaling import Scales
from ane_native.scheduler import DoubleBufferedTrainer

__all__ = ["EMBEDDING", "MicroStep"]

EMBEDDING = "tok_embeddings.weight"

Half = npt.NDArray[np.float16]
Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Part:
    """Kernels to run, then weight gradients to queue."""

    kernels: list[str]
    jobs: cpu.GradJobs | None
    final: list[str]  # parameters that nothing after these jobs adds to


class MicroStep:
    """Runs a model's chains on a trainer.

    Args:
        program: the model; the trainer was made from its kernels (the forward ones are
            enough for :meth:`forward` and :meth:`evaluate`).
        trainer: whose active generation is run.
        grads: name -> float32 array that gradients are added to; None: forward only. Several
            of them: sets that take turns, see :attr:`gradients`.
        overlap: queue weight gradients while the backward chain runs. False queues them
            after it; the sums are the same bits.
        scales: of a scaled program: what each surface carries is undone in the gradients.

    Attributes:
        gradients: which set of gradients is added to.
    """

    def __init__(
        self,
        program: LlamaChains,
        trainer: DoubleBufferedTrainer,
        grads: dict[str, Float] | Sequence[dict[str, Float]] | None = None,
        *,
        overlap: bool = True,
        scales: Scales | None = None,
    ) -> None:
        self.program = program
        self.trainer = trainer
        sets = [] if grads is None else [grads] if isinstance(grads, dict) else list(grads)
        self._grads = sets
        self.gradients = 0
        self.scales = scales
        self._watched: dict[str, Half] = {}
        self._undone: list[tuple[cpu.GradJobs, list[GradJob]]] = []
        self._followed = (-1, 0.0, 0)  # generation, loss scale, what came of them
        self._x: Half = trainer.surface(*program.x).array
        self._logits: Half = trainer.surface(*program.logits).array
        self._stages: list[cpu.Stages] = []
        self._parts: list[list[_Part]] = []
        if sets:
            cpu.open_blas()
            self._dlogits: Half = trainer.surface(*program.dlogits).array
            self._dx: Half = trainer.surface(*program.dx).array
            for one in sets:
                plan = self._plan(one, overlap)
                self._parts.append(plan)
                stages = [(part.kernels, part.jobs) for part in plan]
                self._stages.append(cpu.Stages(trainer.kernels, stages))

    def _plan(self, grads: dict[str, Float], overlap: bool) -> list[_Part]:
        """The backward chain in order."""
        all_jobs = self.program.grad_jobs
        last = {job.parameter: job for job in all_jobs if job.parameter != EMBEDDING}

        def stage(kernels: list[str], of: Iterable[GradJob]) -> _Part:
            mine = list(of)
            made = [
                cpu.GradProduct(
                    self.trainer.surface(*job.dy).array,
                    self.trainer.surface(*job.x).array,
                    grads[job.parameter],
                )
                for job in mine
            ]
            final = [job.parameter for job in mine if last.get(job.parameter) is job]
            jobs = cpu.GradJobs(made) if made else None
            if jobs is not None:
                self._undone.append((jobs, mine))
            return _Part(kernels, jobs, final)

        if not overlap:
            return [stage(list(self.program.backward), all_jobs)]

        # dy is an input of its kernel, written before it runs, or one of its outputs.
        def is_input(job: GradJob) -> bool:
            described = self.trainer.kernels.kernels[self.trainer.kernels.position(job.dy.kernel)]
            return not described.port(job.dy.port)[0]

        stages = []
        for kernel in self.program.backward:
            mine = [job for job in all_jobs if job.dy.kernel == kernel]
            stages.append(stage([], (j for j in mine if is_input(j))))
            stages.append(stage([kernel], (j for j in mine if not is_input(j))))
        return stages

    # ------------------------------ forward ------------------------------

    def forward(self, tokens: Int) -> Half:
        """Run the forward chain on tokens, int32 [T].

        Returns:
            The logits, [1, V, 1, T] float16: a view that the next forward writes over.
        """
        table = self.trainer.active_weights[EMBEDDING]
        cpu.embed_forward(table, tokens, self._x)
        self.trainer.run(self.program.forward)
        return self._logits

    def evaluate(self, windows: Iterable[Window]) -> float:
        """Mean loss over windows, nats per token; changes no gradient."""
        losses = [cpu.cross_entropy(self.forward(x), y) for x, y in windows]
        return float(np.mean(losses))

    # ------------------------------ both ways ------------------------------

    def __call__(
        self,
        tokens: Int,
        targets: Int,
        loss_scale: float,
        *,
        final: Callable[[Sequence[str], cpu.GradJobs | None], None] | None = None,
    ) -> float:
        """Forward, backward and weight gradients of one window.

        Args:
            tokens, targets: int32 [T].
            loss_scale: factor on every gradient that is added to ``grads``.
            final: called with names of parameters and jobs, on this thread, as soon as nothing but
                these jobs will add to their gradients: after
                :func:`ane_native.cpu.grad_wait_for` of the jobs (None: now) they are final. Every
                parameter is named once.

        Returns:
            The loss in nats per token, unscaled. The gradients are complete.
        """
        assert self._grads, "made without gradients"
        exponent = self._follow(loss_scale)
        scale = loss_scale * 2.0**-exponent
        logits = self.forward(tokens)
        loss = cpu.cross_entropy(logits, targets, scale=scale, dlogits=self._dlogits)
        try:
            if final is None:
                self.trainer.run_stages(self._stages[self.gradients])
            else:
                for part in self._parts[self.gradients]:
                    if part.kernels:
                        self.trainer.run(part.kernels)
                    if part.jobs is not None:
                        cpu.grad_submit(part.jobs)
                    if part.final:
                        final(part.final, part.jobs)
        finally:
            cpu.grad_wait()  # also after an error: nothing may write to grads later
        cpu.embed_backward(self._dx, tokens, self._grads[self.gradients][EMBEDDING], exponent)
        if final is not None:
            final([EMBEDDING], None)
        self.trainer.micro_step()
        return loss

    # ------------------------------ powers of two ------------------------------

    def _follow(self, loss_scale: float) -> int:
        """Undo in the gradients what surfaces of the active generation carry.

        Returns:
            Exponent e with ``loss_scale = 2**e * scale of dlogits``; 0 of a program that is not
            scaled.
        """
        if self.scales is None:
            return 0
        generation = self.trainer.generation
        if self._followed[:2] == (generation, loss_scale):
            return self._followed[2]
        chosen = self.scales.of(generation)
        wanted = int(math.log2(loss_scale))
        exponents = carried(self.program.config, chosen)

        def of(port: PortRef) -> int:
            return exponents.get(f"{port.kernel}.{port.port[4:]}", 0)

        for queued, jobs in self._undone:
            queued.undo([wanted - of(job.dy) - of(job.x) for job in jobs])
        self._followed = generation, loss_scale, wanted - chosen[STREAM]
        return self._followed[2]

    def watch(self) -> bool:
        """Show the last micro-step's surfaces to the scales; False when one overflowed."""
        assert self.scales is not None, "made without scales"
        if not self._watched:
            ports = self.scales.ports.items()
            self._watched = {name: self.trainer.surface(*port).array for name, port in ports}
        return self.scales.watch(self._watched, self.trainer.generation)

    def __repr__(self) -> str:
        stages = self._stages[0].count if self._stages else 0
        return f"<MicroStep of {len(self.program.forward)} forward kernels, {stages} stages>"
