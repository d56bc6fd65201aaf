# SPDX-License-Identifier: MIT
"""One run in one process: generations, batches, boundaries, checkpoints, what comes after."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ane_native import generate, report, restart
from ane_native.checkpoint import Checkpoint, verify_checkpoint
from ane_native.data import Corpus, WindowSampler, fixed_windows
from ane_native.engine import Engine
from ane_native.errors import BudgetExhausted, EngineError, ProgramLostError
from ane_native.loggers import open_loggers
from ane_native.metrics import MetricsLog
from ane_native.microstep import MicroStep
from ane_native.models.llama import LlamaConfig, LlamaProgram
from ane_native.optim import AdamW, LossScale, UpdateInfo, warmup_cosine
from ane_native.progress import Progress
from ane_native.scaling import Scales
from ane_native.scheduler import BatchStats, DoubleBufferedTrainer
from ane_native.totals import TrainerReport
from ane_native.trace import TraceLog
from ane_native.train import state
from ane_native.train.adapt import Settings, fit_to
from ane_native.train.boundary import TRIES, Boundary, Ended
from ane_native.train.interrupts import Interrupts
from ane_native.train.prepare import first_weights, kernels_of
from ane_native.train.state import EngineState
from ane_native.workers import WorkerPool

__all__ = ["GoesOn", "Run", "TrainResult"]

MOST_SKIPS = 20  # updates skipped in a row before the run counts as diverged
TRACE_RING = 65536  # events the core keeps between two reads
NEWEST = EngineState(None, None, lags=False)
T = TypeVar("T")


@dataclass(frozen=True)
class TrainResult:
    """What a run left behind.

    Attributes:
        folder: the run's directory.
        checkpoint: the last checkpoint.
        updates: updates done, of the whole run.
        interrupted: True when Ctrl-C or SIGTERM ended it early.
        signal: number of the signal that did, else 0.
        summary: content of summary.json.
        sample: the generated text, None when there is none.
    """

    folder: Path
    checkpoint: Path
    updates: int
    interrupted: bool
    summary: dict[str, Any]
    sample: str | None
    signal: int = 0


class GoesOn(Exception):
    """The run is saved and closed, and goes on in a new process."""

    def __init__(
        self, folder: Path, progress: int, settings: Settings, epilogue: bool = False
    ) -> None:
        super().__init__(f"{folder} at {progress}")
        self.keep = {
            "run": str(folder.resolve()),
            "epilogue": epilogue,
            "settings": settings.as_dict(),
        }
        self.progress = progress + epilogue


class Run:
    """One run, from its first generation to its summary. Use :func:`train`."""

    def __init__(
        self,
        settings: Settings,
        model: LlamaConfig,
        corpus: Corpus,
        engine: Engine,
        folder: Path,
        progress: Progress,
        stop: Interrupts,
        pool: WorkerPool | None = None,
    ) -> None:
        self.settings, self.config = settings, settings.config
        config = self.config
        self.model, self.corpus, self.engine = model, corpus, engine
        self.folder, self.progress, self.stop, self.pool = folder, progress, stop, pool
        self.program = kernels_of(config, model, engine)
        if config.cut == "auto":
            forward, backward = len(self.program.forward), len(self.program.backward)
            progress.say(f"kernels  {forward} forward, {backward} backward, as the cost model cuts")
        by_hand = self.program if isinstance(self.program, LlamaProgram) else None
        self.scales = Scales(by_hand) if by_hand is not None and by_hand.scaled else None
        lookup = corpus.lookup
        self.sampler = WindowSampler(corpus.train, model.seq, config.seed + 1, lookup)
        self.valid = fixed_windows(corpus.valid, model.seq, config.valid_windows, lookup)
        self.schedule = warmup_cosine(config.lr, config.warmup, config.updates, config.lr_floor)
        rng = np.random.Generator(np.random.PCG64(config.seed))
        self.optimizer = AdamW(
            first_weights(config, model, corpus, rng),
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            clip=config.clip,
            loss_scale=LossScale(
                config.loss_scale, config.loss_scale_interval, dynamic=self.scales is None
            ),
            bake=self._bake(),
            beside=None if self.scales is None else self.scales.tensors,
        )
        self.accumulate = 0 if isinstance(config.accumulate, str) else config.accumulate
        self.at = NEWEST
        self.done = self.first_update = 0
        self.started = self.in_epilogue = False
        self.dead_in_a_row = 0
        self.batch_scale = config.loss_scale  # loss scale of the batch under way
        self.first_scales: dict[str, int] | None = None  # of an active generation that lags
        self.held: dict[str, Any] | None = None  # record of a batch whose update has not ended
        self.held_until = 0  # optimizer.tried when it has
        self.spent: BudgetExhausted | None = None  # no compile is left for another set
        self.saved = folder  # the last checkpoint, once there is one
        self.trace = TraceLog(max(2, config.trace_events))
        self.metrics = MetricsLog(folder / "metrics.jsonl")
        self.sync_records: list[dict[str, Any]] = []
        self.report: TrainerReport | None = None
        self.final_valid: float | None = None
        self.sample: str | None = None
        self.trainer: DoubleBufferedTrainer
        self.boundary: Boundary
        self.step: MicroStep

    def _bake(self) -> str | None:
        """What AdamW hands over. Weights that are baked times a power of two must not be rounded
        before it; an update in parts (:mod:`.overlap`) needs masters beside the old ones."""
        config = self.config
        exact = config.staleness == 0 and config.update == "foreground" and not config.clip
        if self.scales is not None:
            return "float32"
        return None if exact and config.overlap_exact else "float16"

    # ------------------------------ life ------------------------------

    def go(self) -> TrainResult:
        """Train from the start, or from the checkpoint that was restored, to the end, or to Ctrl-C."""
        at, self.at = self.at, NEWEST  # not kept: it is whole versions of the weights
        config = self.config.as_dict()
        self.metrics.also = open_loggers(self.config.log, self.folder, config, self.done)
        begun = restart.state()
        if begun is None:
            report.write_config(self.folder, self.config, self.model, self.corpus, self.engine)
        if begun is not None and begun.keep.get("epilogue"):  # a new process for that alone
            return self._finish(interrupted=False)
        at_the_end = self.done >= self.config.updates  # only the last boundary is missing
        begin = time.monotonic_ns()
        self._open(at, self.config.staleness)
        try:
            lags = at.lags
            del at
            if lags:  # version 0 is what the engine ran on, 1 the newest
                self._submit_newest()
            first = self.trainer.stats
            self._settle_accumulation()
            self._record_start(begin, begun, first)
            self.progress.start(self.config.updates, self.done)
            interrupted = not self._loop()
            if not interrupted and not at_the_end:
                self._save(self.sampler.state_dict(), failed=self.spent is not None)
        except KeyboardInterrupt:
            self._close(timeout=2.0)
            raise
        except BaseException:
            self._close()
            raise
        self._close()
        return self._finish(interrupted)

    def _settle_accumulation(self) -> None:
        """Choose it, in a run that has not chosen before."""
        if self.accumulate:
            return
        chosen = fit_to(
            *(self.config, self.trainer, self.step, self.optimizer, self.valid, self.engine)
        )
        self.accumulate = self.boundary.micro_steps = chosen.accumulate
        if self.trainer.newest == self.trainer.generation:
            self.trainer.step(None)  # what was measured belongs to no batch of the run
        self.progress.say(f"accumulate {chosen.accumulate}: {chosen.why}")

    def _submit_newest(self) -> None:
        try:
            self.boundary.submit(self.done)
        except EngineError:
            self._give_up()
            raise

    def _finish(self, interrupted: bool) -> TrainResult:
        """What comes after the updates: the epilogue and the report."""
        if not interrupted and not self.stop.requested:
            self._epilogue()
        self.progress.close()
        summary = report.write_report(
            self.folder,
            self.metrics.records,
            self.sync_records,
            corpus=self.corpus,
            engine=self.engine,
            config=self.config,
            final_valid=self.final_valid,
            sample=self.sample,
            trainer=self.report,
        )
        return TrainResult(
            *(self.folder, self.saved, self.done, interrupted, summary, self.sample),
            signal=self.stop.signal,
        )

    def _open(self, at: EngineState, staleness: int | None) -> None:
        """Compile a first generation of the active weights; it becomes version 0."""
        first = self._first_version(at)
        ring = TRACE_RING if self.config.trace_events and not self.in_epilogue else 0
        self.trainer = DoubleBufferedTrainer(
            self.program.kernel_set(),
            {**first, **self._scale_tensors(at.lags)},
            staleness=staleness,
            update=self.optimizer if self.config.update == "background" else None,
            trace=ring,
            workers=self.pool or 0,
            packing=None if self.config.packing == "off" else self.config.packing,
            packing_limits=self.settings.limits,
            handover=True,
        )
        self.boundary = Boundary(
            self.trainer,
            self.optimizer,
            micro_steps=self.accumulate,
            overlap=self.config.overlap_exact and not self.in_epilogue and self.scales is None,
            extrapolate=self.config.extrapolate,
            trace=self.trace,
            say=self.progress.say,
            note=self._emit,
            scales=self.scales,
        )
        if not at.lags:
            self.optimizer.handed_over(0, True)
        try:
            self.step = MicroStep(
                self.program,
                self.trainer,
                self.optimizer.gradient_sets
                if self.config.update == "background"
                else self.optimizer.grads,
                overlap=self.config.overlap_gradients,
                scales=self.scales,
            )
        except BaseException:
            self.trainer.close()
            raise

    def _first_version(self, at: EngineState) -> Mapping[str, Any]:
        """Weights of version 0. Where they lag, the newest masters become version 1."""
        if at.lags and at.active is not None:
            self.optimizer.restart_versions(1, at.baked)
            return self.optimizer.as_baked(at.active)
        self.optimizer.restart_versions(0, at.active)
        return self.optimizer.baked

    def _scale_tensors(self, lags: bool) -> Mapping[str, Any]:
        """The powers of two of version 0."""
        if self.scales is None:
            return {}
        before = self.first_scales if lags else None
        chosen = self.scales.chosen if before is None else before
        self.scales.restart_versions()
        self.scales.handed(0, chosen)
        return self.scales.tensors_of(chosen)

    def _close(self, timeout: float | None = None) -> None:
        self._drain()
        self.trainer.close(timeout)
        self.report = self.trainer.report()
        self._emit(closing=True)
        if self.config.trace_events:
            self.trace.write(
                self.folder / report.trace_name(self.folder, self.first_update),
                engine=self.engine.label,
                model=self.config.model,
                staleness=self.config.staleness,
            )
            report.forget_traces(self.folder)

    def _drain(self) -> None:
        if self.config.trace_events:
            self.trace.add(self.trainer.drain_trace())

    # ------------------------------ checkpoints ------------------------------

    def _save(self, windows: Mapping[str, Any], failed: bool = False) -> None:
        """Save the state after `self.done` updates; `windows`: the sampler's state there."""
        self.boundary.settle()
        engine = self.boundary.engine_state(failed)
        scales = self.boundary.scales_state(engine, failed)
        at = state.Position(self.done, windows, self.batch_scale, engine, scales, self.accumulate)
        with self.trace.main("save"):
            self.saved = state.save(self.folder, at, self.optimizer, self.model, self.corpus)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint; what the engine is to run on is in :attr:`at`."""
        at = state.restore(checkpoint, self.optimizer, self.sampler)
        self.done, self.batch_scale, self.saved = at.updates, at.batch_scale, checkpoint.path
        if self.scales is not None and at.scales is not None:
            self.first_scales = self.scales.load_state_dict(at.scales)
        self.accumulate = self.accumulate or at.accumulate
        self.metrics.close()
        self.metrics = MetricsLog(
            self.folder / "metrics.jsonl", keep=lambda r: int(r.get("update", 0)) <= self.done
        )
        if restart.state() is None:
            self.progress.say(f"resumed  {checkpoint.path}, {self.done} updates done")
        if self.config.staleness != 0 and (self.config.extrapolate or at.engine.lags):
            self.at = at.engine

    # ------------------------------ the loop ------------------------------

    def _record_start(
        self, begin_ns: int, begun: restart.Restarted | None, first_set: BatchStats | None
    ) -> None:
        assert first_set is not None
        self.first_update = self.done
        self.started = True
        valid = None
        every = self.config.valid_every
        last = self.done == self.config.updates
        if begun is None or last or (every and self.done % every == 0):
            valid = self._validate()
        now = time.monotonic_ns()
        ready_ms = (now - begin_ns) / 1e6
        first = {"kind": "start", "update": self.done, "valid_loss": valid, "ready_ms": ready_ms}
        first |= {"accumulate": self.accumulate, "first_retries": self.trainer.first_retries}
        if begun is not None:
            first |= {"restarts": begun.count, "restart_ms": (now - begun.at_ns) / 1e6}
        self.metrics.add({**first, **first_set.as_dict()})
        if begun is not None:
            self.progress.say(
                f"restart  {begun.count}: going on after update {self.done}, "
                f"{(now - begun.at_ns) / 1e6:,.0f} ms"
            )
            return
        if self.config.packing not in (None, "off"):
            self.progress.say(f"packing  {first_set.packing}")
        self.progress.say(
            f"start    validation loss {valid:.3f}, first generation after {ready_ms:,.0f} ms"
        )

    def _loop(self) -> bool:
        """Train to the end; False when Ctrl-C came first (a checkpoint is saved then)."""
        while self.done < self.config.updates:
            windows = self.sampler.state_dict()
            record = self._update()
            if record is None:
                self._save(windows)
                return False
            if self.spent is not None:
                self._drain()
                self._keep(record)
                if self.stop.requested:
                    self._save(self.sampler.state_dict(), failed=True)
                    return False
                if self.done == self.config.updates and self._refused(self.spent) is not None:
                    self.progress.say(f"no validation after the last update: {self.spent}")
                    return True  # nothing is left to go on for
                self._restart(self.spent)
            last = self.done == self.config.updates
            every = self.config.valid_every
            record["valid_loss"] = None
            if last or (every and self.done % every == 0):
                record["valid_loss"] = self._validate()
            self._drain()
            self._keep(record)
            if self.config.save_every and self.done % self.config.save_every == 0 and not last:
                self._save(self.sampler.state_dict())
        return True

    def _batch(self, lr: float) -> float | None:
        """The micro-steps of one update; their mean loss, or None when Ctrl-C came."""
        losses, scale, final = [], self.batch_scale, None
        try:
            for left in reversed(range(self.accumulate)):
                tokens, targets = self.sampler.next()
                if not left:
                    final = self.boundary.last_micro_step(lr, scale)
                with self.trace.main("micro-step"):
                    losses.append(self.step(tokens, targets, scale, final=final))
                if self.stop.requested:
                    self.boundary.cancel()
                    return None
        except ProgramLostError:
            self.boundary.cancel()
            raise
        except BaseException:
            self.boundary.abandon()
            raise
        return float(np.mean(losses))

    def _rebuild(self, windows: dict[str, Any], tried: int, lost: ProgramLostError) -> None:
        """The engine lost the programs in use, as when its daemon restarts: others are made of the
        same weights, and what was under way begins again at `windows`. Sets from before it
        happened may still be installed on the way, one for each step of staleness."""
        if tried == TRIES + (self.config.staleness or 0):
            self._give_up()
            raise lost
        self.progress.say(
            f"update {self.done + 1}: the engine lost its programs; new ones are made"
        )
        self.boundary.settle()
        self.optimizer.zero_grads()
        self.sampler.load_state_dict(windows)
        try:
            self.boundary.restore(self.done)
        except BudgetExhausted as spent:
            if self.in_epilogue:  # which says so; what is saved is whole
                raise
            self._restart(spent)
        except EngineError:
            self._give_up()
            raise

    def _anew_if_lost(self, work: Callable[[], T]) -> T:
        """What `work` returns; it begins again where the engine lost its programs amid it."""
        windows = self.sampler.state_dict()
        for tried in itertools.count():
            try:
                return work()
            except ProgramLostError as lost:
                self._rebuild(windows, tried, lost)
        raise AssertionError

    def _validate(self) -> float:
        """Loss on the validation windows, between two batches."""
        with self.trace.main("validation"):
            return self._anew_if_lost(lambda: self.step.evaluate(self.valid))

    def _update(self) -> dict[str, Any] | None:
        """One batch and its boundary; the record of it. None when Ctrl-C came."""
        begin = time.monotonic_ns()
        self.step.gradients = self.optimizer.gradients
        lr = self.schedule(self.done)
        loss = self._anew_if_lost(lambda: self._batch(lr))
        ran = {} if self.scales is None else self.scales.summary(self.trainer.generation)
        if loss is None:
            self.optimizer.zero_grads()
            return None
        self.done += not self.in_epilogue
        try:
            in_range = self.scales is None or self.step.watch()
            ended = self.boundary.end(self.done, lr, self.batch_scale, in_range)
        except EngineError:
            gave_up = self.boundary.gave_up
            if gave_up is not None and not self.in_epilogue:
                self.batch_scale = gave_up.scale
                self._keep({**self._record(loss, gave_up, begin), **ran, "valid_loss": None})
            self._give_up()
            raise
        self.batch_scale = ended.scale
        if ended.spent is not None and self.in_epilogue:
            raise ended.spent
        self.spent = ended.spent
        if ended.info is not None:
            self._look_at(ended.info)
        else:
            self.held_until = self.optimizer.tried + 1
        if ended.stats is not None:
            self.trace.counter("staleness", ended.stats.staleness)
        return {**self._record(loss, ended, begin), **ran}

    def _give_up(self) -> None:
        """Say so, and save."""
        self.progress.say(f"giving up after {TRIES} failures{self._save_and_say(failed=True)}")

    def _look_at(self, info: UpdateInfo) -> None:
        """Stop a run that does not recover."""
        self.dead_in_a_row = self.dead_in_a_row + 1 if info.grad_norm == 0.0 else 0
        if self.dead_in_a_row >= TRIES:
            raise FloatingPointError(
                f"no gradient at all in {TRIES} updates: activations left the range of fp16 (a "
                "norm's sum of squares above 65504 gives zero); try a smaller learning rate"
            )
        if self.optimizer.loss_scale.skipped_in_a_row >= MOST_SKIPS:
            raise FloatingPointError(
                f"the run diverged: gradients were not finite in {MOST_SKIPS} updates in a row"
                + self._save_and_say(failed=False)
            )

    def _record(self, loss: float, ended: Ended, begin: int) -> dict[str, Any]:
        update_ms = (time.monotonic_ns() - begin) / 1e6
        tokens = self.accumulate * self.model.seq
        return {
            "kind": "update",
            "update": self.done,
            "loss": loss,
            **({} if ended.info is None else dataclasses.asdict(ended.info)),
            "tokens": tokens,
            "tokens_per_s": tokens / update_ms * 1000,
            "update_ms": update_ms,
            "adam_ms": ended.adam_ms,
            "micro_steps": self.accumulate,
            **({} if ended.stats is None else ended.stats.as_dict()),
        }

    def _keep(self, record: dict[str, Any]) -> None:
        """Write a record, or hold it until its update has ended in the background."""
        if "applied" not in record:
            self.held = record
            self._emit()  # it may have ended: what lost its programs in between was waited for
            return
        self.metrics.add(record)
        self.progress.update(record)

    def _emit(self, closing: bool = False) -> None:
        """Write the held record if its update has ended."""
        record, info = self.held, self.trainer.update_info
        if record is None or info is None or self.optimizer.tried < self.held_until:
            return
        self.held = None
        self._keep({**record, **dataclasses.asdict(info)})
        if not closing:
            self._look_at(info)

    # ------------------------------ leaving ------------------------------

    def _refused(self, spent: BudgetExhausted) -> BudgetExhausted | None:
        """Why the run does not go on in a new process; None: it does."""
        if self.config.budget_end == "stop":
            return spent
        try:
            restart.check(self.done)
        except BudgetExhausted as error:
            return BudgetExhausted(f"{spent}\n  {error}")
        return None

    def _restart(self, spent: BudgetExhausted) -> None:
        """Save, verify, and leave this process for a new one; raises in any case."""
        refused = self._refused(spent)
        if refused is not None:
            raise BudgetExhausted(f"{refused}{self._save_and_say(failed=True)}") from spent
        with self.trace.main("restart"):
            self._save(self.sampler.state_dict(), failed=True)
            verify_checkpoint(self.saved)  # before anything is given up
        raise GoesOn(self.folder, self.done, self.settings)

    def _save_and_say(self, failed: bool) -> str:
        """Save before an error ends the run; the words that say so."""
        if self.in_epilogue or not self.started:
            return ""  # nothing new, and the checkpoint that exists is exact
        self._save(self.sampler.state_dict(), failed)
        return (
            f"\n  saved {self.saved}; a new process goes on from there: "
            f"ane-native train --resume {self.folder}"
        )

    # ------------------------------ after it ------------------------------

    def _epilogue(self) -> None:
        """On a generation of the newest weights: final validation, a sample, a few
        synchronous updates for comparison. Nothing of it is saved in the checkpoint."""
        config = self.config
        if not config.sync_updates and not config.sample_tokens:
            return
        self.progress.say("newest weights: compiling a generation of their own")
        self.in_epilogue = True
        try:
            self._open(NEWEST, staleness=0)
        except BudgetExhausted as error:
            if self.config.budget_end == "restart" and restart.why_not() is None:
                restart.check(self.done + 1)
                raise GoesOn(self.folder, self.done, self.settings, epilogue=True) from error
            self.progress.say(f"left out: {error}")
            return
        try:
            self.final_valid = self._validate()
            if config.sample_tokens:
                self.sample = self._anew_if_lost(lambda: self._sample(config.sample_tokens))
            if config.sync_updates:
                self.progress.say(f"{config.sync_updates} updates with staleness=0, to compare")
            for _ in range(config.sync_updates):
                try:
                    record = None if self.stop.requested else self._update()
                except BudgetExhausted:
                    self.progress.say(f"the budget ended after {len(self.sync_records)} of them")
                    break
                if record is None:
                    break
                self.sync_records.append(record)
        except BudgetExhausted as error:  # after the engine had lost its programs
            self.progress.say(f"left out: {error}")
        finally:
            self.trainer.close()

    def _sample(self, count: int) -> str:
        """The corpus's first validation bytes continued by the model."""
        prompt = [int(t) for t in self.valid[0][0][:32]]
        drawn = generate.sample(
            self.step.forward,
            prompt,
            count,
            seq=self.model.seq,
            vocab=self.model.vocab,
            seed=self.config.seed,
        )
        if self.corpus.compaction is not None:
            drawn = iter(self.corpus.compaction.expand(list(drawn)).tolist())
        if not self.corpus.is_bytes:
            return " ".join(str(token) for token in drawn)
        text = "".join(generate.decode_bytes(drawn))
        return bytes(prompt).decode("utf-8", "replace") + "|" + text
