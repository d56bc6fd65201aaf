# SPDX-License-Identifier: MIT
"""The end of a batch: AdamW on its gradients, then the new weights to the scheduler.

Where AdamW runs (``update=``, and overlap.py) changes what is handed over, gradients or masters; what
happens to a set that fails is the same. It is built again, up to :data:`TRIES` times, while the active
generation stays in use. With ``staleness=1`` that is the very set that was due, so the batches after
it run on what they would have run on; otherwise one of the newest masters. Whatever error leaves
here, the masters are whole: the gradients of the batch are in them, so a checkpoint loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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


@dataclass(frozen=True)
class _Due:
    """A set that must be installed before the next batch, and is to be built for that.

    Attributes:
        weights: without powers of two.
        exponents: chosen for it; None: those chosen last, or none at all.
        newer: whether there are masters that are one update newer.
    """

    weights: Mapping[str, Any]
    exponents: Mapping[str, int] | None
    newer: bool


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
        self.gave_up: Ended | None = None  # what came of a batch whose set failed for good
        self._lost: tuple[EngineState, Mapping[str, Any] | None] | None = None

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
        self.gave_up = None
        try:
            ended = self._hand_over(update, info, newest=again)
        except EngineError:
            if self.gave_up is not None and not self.behind:
                self.gave_up = replace(self.gave_up, scale=self._next_scale(scale))
            raise
        if self.behind:
            scale, adam_end = ended.scale, time.monotonic_ns()
        self._look_ahead(ended.stats)
        return replace(ended, adam_ms=(adam_end - begin) / 1e6, scale=self._next_scale(scale))

    def _next_scale(self, known: float) -> float:
        """The loss scale lags like the weights: the update may be in the background."""
        return self.optimizer.loss_scale.scale if self.trainer.staleness == 0 else known

    def submit(self, update: int) -> None:
        """Only hand the newest masters over, as after a resume.

        Raises:
            EngineError: see :meth:`end`. BudgetExhausted: no compile is left.
        """
        spent = self._hand_over(update, newest=True).spent
        if spent is not None:
            raise spent

    def restore(self, update: int) -> None:
        """New sets after the engine has lost its programs, in the middle of a batch: of the newest
        masters, and with ``staleness=1`` first of the weights that the batch ran on.

        Raises:
            EngineError, BudgetExhausted: see :meth:`submit`. What is saved then goes on with the
                weights that the batch ran on.
        """
        self.settle()
        at = self.engine_state(False)
        if at.active is not None:  # the trainer's arrays
            at = replace(at, active={n: at.active[n].copy() for n in self.optimizer.params})
        self._lost = at, self.scales_state(at, False)
        due = None
        if self.trainer.staleness == 1:
            exponents = None if self._scales is None else self._scales.of(self.trainer.generation)
            weights = self.optimizer.baked if at.active is None else at.active
            due = _Due(weights, exponents, newer=at.lags)
        spent = self._hand_over(update, newest=due is None or at.lags, due=due).spent
        if spent is not None:
            raise spent
        self._lost = None

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
        if failed and self._lost is not None:
            return self._lost[0]
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

    def scales_state(self, engine: EngineState, failed: bool) -> Mapping[str, Any] | None:
        """State of the powers of two for a checkpoint; None: there are none.

        Args:
            engine, failed: result and argument of :meth:`engine_state`.
        """
        if failed and self._lost is not None:
            return self._lost[1]
        if self._scales is None:
            return None
        newest = active = self.optimizer.version
        if engine.lags:
            due = failed and self.trainer.staleness == 1  # the swap has not happened
            active = newest - 1 if due else self.trainer.generation
        return self._scales.state_dict(newest, active)

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

    def _hand_over(
        self,
        update: int,
        info: UpdateInfo | None = None,
        *,
        newest: bool = False,
        due: _Due | None = None,
    ) -> Ended:
        """Gradients or masters, until they are taken.

        Args:
            update: for messages.
            info: of AdamW, where it ran already.
            newest: masters are handed over, also where AdamW has left them as they were.
            due: to be built before that.
        """
        made = newest or info is not None or due is not None
        scale = self.optimizer.loss_scale.scale
        failed = 0
        while True:
            version = self.trainer.newest
            try:
                with self._trace.main("boundary"):
                    if due is not None:
                        self._resubmit(due)
                        version = self.trainer.newest
                    if made:
                        stats = self._masters(newest or (info is not None and info.applied))
                        return Ended(stats, info, 0.0, scale)
                    stats = self._gradients()
                self._note()
                scale = self.optimizer.loss_scale.scale
                if self.optimizer.settled:
                    info = self.trainer.update_info
                return Ended(stats, info, 0.0, scale)
            except (EngineError, BudgetExhausted) as error:
                failed += isinstance(error, EngineError)
                taken = not made and self.trainer.newest > version
                exact = self.trainer.staleness == 1 and not taken
                if not made and not (exact and 0 < failed < TRIES):  # from here on with masters
                    self._note()
                    scale = self.optimizer.loss_scale.scale
                    info = self._whole(taken)
                    made = True
                if isinstance(error, BudgetExhausted):
                    return Ended(None, info, 0.0, scale, error)
                self._say(f"update {update}: a generation failed: {error}")
                careful = isinstance(error, CanaryError)
                if self._scales is not None and careful:
                    self._scales.be_careful()  # its powers of two may be at fault
                    self._scales.choose(self.optimizer.params, update)
                if failed == TRIES:
                    self.gave_up = Ended(None, info, 0.0, self._next_scale(scale))
                    raise
                if exact:
                    due = due or self._due(info)
                    due = replace(due, exponents=None) if careful else due
                else:
                    newest = True  # also where AdamW left them: the bound may be broken

    def _due(self, info: UpdateInfo | None) -> _Due:
        """Of the set that failed, the newest that was handed over.

        Args:
            info: of AdamW, where it ran since then.
        """
        exponents = None if self._scales is None else self._scales.of(self.trainer.newest)
        newer = info is not None and info.applied
        adam = self.optimizer
        return _Due(adam.baked_before if newer else adam.baked, exponents, newer)

    def _resubmit(self, due: _Due) -> None:
        """Have it built; the next step waits for it."""
        weights = due.weights
        if self._scales is not None:
            exponents = self._scales.chosen if due.exponents is None else due.exponents
            weights = {**weights, **self._scales.tensors_of(exponents)}
        version = self.trainer.resubmit(weights)
        if self._scales is not None:
            self._scales.handed(version, due.exponents)
        self.optimizer.handed_over(version + due.newer, False)

    def _masters(self, new: bool) -> BatchStats:
        """Hand the newest over; not `new`: there are none."""
        weights = self.optimizer.baked if new else None
        if weights is not None and self._scales is not None:
            weights = {**weights, **self._scales.tensors()}
        before = self.trainer.newest
        submitted = True
        try:
            stats = self.trainer.step(weights, handover=True)
            submitted = stats.submitted
            return stats
        finally:  # an interrupted wait, or a set that failed at once, leaves them taken
            newest = self.trainer.newest
            if new and newest > before:
                self.optimizer.handed_over(newest, submitted)
                if self._scales is not None:
                    self._scales.handed(newest)

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
