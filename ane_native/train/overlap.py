# SPDX-License-Identifier: MIT
"""Exact training that overlaps: AdamW and the compile of a layer while earlier layers go backward.

In the last micro-step of a batch the gradients of the last layers are final first. A helper
thread waits for them (:func:`ane_native.cpu.grad_wait_for`), makes the new weights of these tensors
(:class:`ane_native.optim.PartUpdate`) and offers them to the trainer, which compiles every
program whose weights are all there. The boundary then waits for the rest only. The weights are
those of ``staleness=0`` without it, to the bit.

Only without clipping: with a global norm no weight is final before the last gradient is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from ane_native import cpu
from ane_native.optim import AdamW, PartUpdate, UpdateInfo
from ane_native.scheduler import DoubleBufferedTrainer
from ane_native.trace import TraceLog

__all__ = ["Overlap"]

Final = Callable[[Sequence[str], "cpu.GradJobs | None"], None]


class Overlap:
    """The update of one batch after the other, each beside its last micro-step.

    Args:
        trainer: with ``staleness=0``.
        optimizer: without clipping and without extrapolation.
        micro_steps: gradients that are added up.
        trace: receives a span for each part.
    """

    def __init__(
        self, trainer: DoubleBufferedTrainer, optimizer: AdamW, micro_steps: int, trace: TraceLog
    ) -> None:
        self._trainer, self._optimizer = trainer, optimizer
        self._micro_steps, self._trace = micro_steps, trace
        self._thread: threading.Thread | None = None
        self._parts: PartUpdate | None = None
        self._work: queue.SimpleQueue[tuple[Sequence[str], cpu.GradJobs | None] | None]
        self._spans: list[tuple[int, int]] = []
        self._error: BaseException | None = None

    def begin(self, lr: float, loss_scale: float) -> Final:
        """Begin an update; what is returned is for ``MicroStep(final=...)`` of the last one."""
        self._parts = self._optimizer.parts(
            lr=lr,
            micro_steps=self._micro_steps,
            oldest_needed=self._trainer.oldest_needed,
            loss_scale=loss_scale,
        )
        self._work, self._spans, self._error = queue.SimpleQueue(), [], None
        self._thread = threading.Thread(
            target=self._run, args=(self._parts, self._work), name="ane_native parts", daemon=True
        )
        self._thread.start()
        return lambda names, jobs: self._work.put((names, jobs))

    def end(self) -> UpdateInfo:
        """Every gradient is final: the update of them all, the newest masters of which are to be
        handed over next.

        Raises:
            AneError: what the helper thread met; the update did not happen, its gradients are
                there.
        """
        parts = self._parts
        assert parts is not None, "no update was begun"
        self._join()
        if self._error is not None:
            self.cancel()
            raise self._error
        if not parts.finite:
            self._trainer.withdraw()
        begin = time.monotonic_ns()
        info = parts.finish()
        self._parts = None
        for span in (*self._spans, (begin, time.monotonic_ns())):
            self._trace.span("AdamW", 1, *span)
        return info

    def cancel(self) -> None:
        """Forget the update that was begun, if one was; the gradients are left as they are."""
        if self._parts is None:
            return
        self._join()
        self._parts = None
        self._trainer.withdraw()

    def abandon(self) -> None:
        """The trainer is about to be closed: stop beginning parts."""
        self._parts = None
        self._join(timeout=2.0)

    def _join(self, timeout: float | None = None) -> None:
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(timeout)
            self._thread = None

    def _run(
        self,
        parts: PartUpdate,
        work: queue.SimpleQueue[tuple[Sequence[str], cpu.GradJobs | None] | None],
    ) -> None:
        """The helper thread."""
        try:
            while (item := work.get()) is not None:
                names, jobs = item
                if jobs is not None:
                    cpu.grad_wait_for(jobs)
                begin = time.monotonic_ns()
                made = parts.apply(names)
                self._spans.append((begin, time.monotonic_ns()))
                if made:
                    self._trainer.offer(made, handover=True)
        except BaseException as error:  # told by end()
            self._error = error
