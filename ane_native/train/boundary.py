# SPDX-License-Identifier: MIT
"""The end of a batch: AdamW on its gradients, then the new weights to the scheduler.

Where AdamW runs (``update=``, and overlap.py) changes what is handed over, gradients or masters; what
happens to a set that fails is the same. It is built again, up to :data:`TRIES` times, while the active
generation stays in use. Whatever error leaves here, the masters are whole: the gradients of the
batch are in them, so a checkpoint loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ane_native.errors import BudgetExhausted, CanaryError, EngineError
from ane_native.optim import AdamW, UpdateInfo
from ane_native.scaling import Scales
from ane_native.scheduler import BatchStats, DoubleBufferedTrainer
from ane_native.trace import TraceLog
from ane_native.train.overlap import Final, Overlap
from ane_native.train.state import EngineState

__all__ = ["TRIES", "Boundary", "Ended"]

TRIES = 3  # failures of one kind in a row before the run stops


@dataclass(frozen=True)
class Ended:
    """What came of a batch.

    Attributes:
        stats: what the boundary measured; None: the budget is spent and no set was begun.
        info: what AdamW did; None: it runs in the background, known one boundary later.
        adam_ms: time this thread gave to it, milliseconds.
        scale: loss scale of the next batch.
        spent: why no set was begun.
    """

    stats: BatchStats | None
    info: UpdateInfo | None
    adam_ms: float
    scale: float
    spent: BudgetExhausted | None = None


class Boundary:
    """Ends the batches of one trainer.

    Args:
        trainer, optimizer: the optimizer is the trainer's ``update`` when AdamW is to run in the
            background.
        micro_steps: gradients that are added up.
        overlap: whether AdamW and the compiles of a ``staleness=0`` may begin beside the last
            micro-step (:mod:`ane_native.train.overlap`).
        extrapolate: whether kernels are made from predicted weights
            (:attr:`ane_native.optim.AdamW.extrapolate`).
        trace: receives the spans of the training thread.
        say: shows a line to the user.
        note: called when an update in the background is known to have ended, before the next
            one can end.
        scales: powers of two that are chosen at every boundary; None: the kernels have none.
    """

    def __init__(
        self,
        trainer: DoubleBufferedTrainer,
        optimizer: AdamW,
        *,
        micro_steps: int,
        overlap: bool,
        extrapolate: bool,
        trace: TraceLog,
        say: Callable[[str], None],
        note: Callable[[], None],
        scales: Scales | None = None,
    ) -> None:
        self.trainer, self.optimizer = trainer, optimizer
        self.behind = trainer.update is not None
        self.micro_steps = micro_steps
        self._trace, self._say, self._note = trace, say, note
        self._scales = scales
        self._lr = self._batch_scale = 0.0  # of the batch that is being ended
        self._extrapolate = extrapolate and trainer.staleness != 0
        optimizer.extrapolate = float(self._extrapolate)
        self._overlap: Overlap | None = None
        if overlap and trainer.staleness == 0 and not self.behind and not optimizer.clip:
            self._overlap = Overlap(trainer, optimizer, micro_steps, trace)
        self._begun = False  # whether the overlap has begun the update of this batch

    def last_micro_step(self, lr: float, loss_scale: float) -> Final | None:
        """What the last micro-step of a batch is to be given as ``final``; :meth:`end` or
        :meth:`cancel` follows. The arguments are those of :meth:`end`."""
        if self._overlap is None:
            return None
        self._begun = True
        return self._overlap.begin(lr, loss_scale)

    def cancel(self) -> None:
        """The batch will not be ended."""
        if self._overlap is not None:
            self._begun = False
            self._overlap.cancel()

    def abandon(self) -> None:
        """The same before the trainer is closed: nothing is waited for that takes long."""
        if self._overlap is not None:
            self._begun = False
            self._overlap.abandon()

    def end(self, update: int, lr: float, loss_scale: float, in_range: bool = True) -> Ended:
        """End a batch.

        Args:
            update: its number, counted from 1, for messages.
            lr: learning rate.
            loss_scale: that its gradients were computed with.
            in_range: none of the surfaces that the scales watch has overflowed.

        Raises:
            EngineError: a set failed three times in a row.
        """
        self._lr, self._batch_scale = lr, loss_scale
        again = self._rescale(update, in_range)
        info: UpdateInfo | None = None
        begin = adam_end = time.monotonic_ns()
        scale = self.optimizer.loss_scale.scale
        if not self.behind or again:
            info = self._whole_update()
            adam_end = time.monotonic_ns()
        if again and self._scales is not None:
            self._scales.skips = self.optimizer.loss_scale.skipped  # this one is answered
        ended = self._hand_over(update, info, made=again)
        if self.behind:
            scale, adam_end = ended.scale, time.monotonic_ns()
        # The loss scale lags like the weights: the update may be in the background.
        if self.trainer.staleness == 0:
            scale = self.optimizer.loss_scale.scale
        self._look_ahead(ended.stats)
        return replace(ended, adam_ms=(adam_end - begin) / 1e6, scale=scale)

    def submit(self, update: int) -> None:
        """Only hand the newest masters over, as after a resume.

        Raises:
            EngineError: see :meth:`end`. BudgetExhausted: no compile is left.
        """
        spent = self._hand_over(update, None, made=True).spent
        if spent is not None:
            raise spent

    def settle(self) -> None:
        """Wait until masters and moments are whole."""
        if self.behind:
            self.trainer.settle()
            self._note()

    def engine_state(self, failed: bool) -> EngineState:
        """What the next batch runs on, between two batches and with everything settled.

        Args:
            failed: the last boundary raised, so the scheduler is behind where it should be.
        """
        adam = self.optimizer
        baked = adam.baked if adam.predicted else None
        if failed and self.trainer.staleness == 0:
            return EngineState(None, None, lags=False)
        if failed and self.trainer.staleness == 1:
            if adam.loss_scale.skipped_in_a_row:  # no version was due but the newest
                return EngineState(baked, None, lags=False)
            return EngineState(adam.baked_before, baked, lags=True)
        if self.trainer.generation == adam.version:
            return EngineState(baked, None, lags=False)
        return EngineState(self.trainer.active_weights, baked, lags=True)

    # ------------------------------ inside ------------------------------

    def _look_ahead(self, stats: BatchStats | None) -> None:
        """How far the next weights are predicted: until their first batch. With a bound of one that
        is one update; otherwise as many as the last set took that was installed."""
        if self._extrapolate and self.trainer.staleness != 1 and stats and stats.swapped:
            self.optimizer.extrapolate = float(max(1, stats.staleness))

    def _whole_update(self) -> UpdateInfo:
        """AdamW on this thread, or the end of what was begun beside the micro-step."""
        if self._overlap is not None and self._begun:
            self._begun = False
            return self._overlap.end()
        begin = time.monotonic_ns()
        info = self._adamw()
        self._trace.span("AdamW", 1, begin, time.monotonic_ns())
        return info

    def _hand_over(self, update: int, info: UpdateInfo | None, made: bool = False) -> Ended:
        """Gradients or masters, until they are taken.

        Args:
            update: for messages.
            info: of AdamW, where it ran already.
            made: the newest masters are to be handed over, though AdamW may have left them.
        """
        again, made = made, made or info is not None
        scale = self.optimizer.loss_scale.scale
        failed = 0
        while True:
            newest = self.trainer.newest
            try:
                with self._trace.main("boundary"):
                    if made:
                        skipped = info is not None and not info.applied and not again
                        stats = self._masters(skipped)
                        return Ended(stats, info, 0.0, scale)
                    stats = self._gradients()
                self._note()
                scale = self.optimizer.loss_scale.scale
                if self.optimizer.settled:
                    info = self.trainer.update_info
                return Ended(stats, info, 0.0, scale)
            except (EngineError, BudgetExhausted) as error:
                if not made:  # from here on with masters
                    self._note()
                    scale = self.optimizer.loss_scale.scale
                    info = self._whole(taken=self.trainer.newest > newest)
                    made = True
                if isinstance(error, BudgetExhausted):
                    return Ended(None, info, 0.0, scale, error)
                failed += 1
                self._say(f"update {update}: a generation failed: {error}")
                if self._scales is not None and isinstance(error, CanaryError):
                    self._scales.be_careful()  # its powers of two may be at fault
                    self._scales.choose(self.optimizer.params, update)
                if failed == TRIES:
                    raise

    def _masters(self, skipped: bool) -> BatchStats:
        """Hand the newest over; `skipped`: there are no new ones."""
        weights = None if skipped else self.optimizer.baked
        if weights is not None and self._scales is not None:
            weights = {**weights, **self._scales.tensors()}
        stats = self.trainer.step(weights, handover=True)
        if not skipped:
            self.optimizer.handed_over(stats.newest, stats.submitted)
            if self._scales is not None:
                self._scales.handed(stats.newest)
        return stats

    def _rescale(self, update: int, in_range: bool) -> bool:
        """Choose the powers of two of the next bake; whether one is due in any case.

        What is read: the batch that has ended, and whether the update *before* its own was
        skipped, wherever AdamW runs. After an overflow the masters are baked again with
        smaller powers of two, though they are the same.
        """
        if self._scales is None:
            return False
        self.settle()
        skipped = self.optimizer.loss_scale.skipped
        good = in_range and skipped == self._scales.skips
        self._scales.skips = skipped
        if good:
            self._scales.be_calm()
        else:
            self._scales.be_careful()
        self._scales.choose(self.optimizer.params, update)
        return not good

    def _gradients(self) -> BatchStats:
        return self.trainer.step_update(
            lr=self._lr, micro_steps=self.micro_steps, loss_scale=self._batch_scale
        )

    def _whole(self, taken: bool) -> UpdateInfo:
        """The masters of this batch after its gradients were `taken` by an update whose set
        failed, or were not."""
        if not taken:
            return self._adamw()
        self.trainer.settle()
        info: UpdateInfo = self.trainer.update_info
        return info

    def _adamw(self) -> UpdateInfo:
        """On this thread. What is ready is installed first: its buffer is written next."""
        self.trainer.install()
        return self.optimizer.update(
            lr=self._lr,
            micro_steps=self.micro_steps,
            oldest_needed=self.trainer.oldest_needed,
            loss_scale=self._batch_scale,
        )
