# SPDX-License-Identifier: MIT
"""The training loop: micro-steps on the active generation, AdamW, the boundary.

    for each update
        micro-steps       forward, loss, backward, weight gradients   (microstep.py)
        AdamW             masters k -> k+1, into a buffer of its own   (optim.py)
        trainer.step()    swap what was compiled, compile k+1 beside the next batch

Which weights a number belongs to. The training loss is that of the active generation, which
with ``staleness=1`` is one update behind the newest weights; so is the validation loss in
metrics.jsonl. The *final* validation loss of a run with an epilogue (the demo) is measured on
a fresh generation made from the newest weights; a run without one reports the last of the
others.

Stopping and going on. The first Ctrl-C (or SIGTERM) lets the micro-step end, saves and stops; a batch that
was begun is begun again on resume, with the same windows. A checkpoint holds the newest
weights and, when they differ, those the engine was running on, so a resumed run with
``staleness`` 0 or 1 continues to the bit. A run that swaps when it is ready (2 and more,
None) depends on timing and is not repeatable in the first place.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from ane_native import generate, report, restart, soft
from ane_native.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ane_native.data import Corpus, WindowSampler, fixed_windows, open_corpus
from ane_native.engine import Engine
from ane_native.errors import (
    AneError,
    BudgetExhausted,
    CheckpointError,
    ConfigError,
    EngineError,
)
from ane_native.llama2c import read_llama2c
from ane_native.metrics import MetricsLog
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaConfig, LlamaProgram, init_params
from ane_native.optim import AdamW, LossScale, UpdateInfo, warmup_cosine
from ane_native.progress import Progress, make_progress
from ane_native.scheduler import BatchStats, DoubleBufferedTrainer
from ane_native.trace import TraceLog
from ane_native.workers import MOST_WORKERS, WorkerPool

__all__ = ["RUNS", "TrainConfig", "TrainResult", "train"]

log = logging.getLogger("ane_native")

TRIES = 3  # failures of one kind in a row before the run stops
MOST_SKIPS = 20  # updates skipped in a row before the run counts as diverged
TRACE_RING = 65536  # events the core keeps between two reads

# =============================== Configuration ==================================


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; checked when made.

    Attributes:
        model: name in :data:`ane_native.models.llama.PRESETS`.
        data: corpus, see :func:`ane_native.data.open_corpus`; None: the standard library.
        vocab: vocabulary of a ``.bin`` corpus; None: the model's.
        compact_vocab: train only the tokens of a ``.bin`` corpus that occur in it.
        init: llama2.c model file to start from instead of random weights; None: random.
        include_tests: with the standard library, also its tests.
        updates: weight updates of the whole run.
        accumulate: micro-steps (windows) per update.
        staleness: see :class:`DoubleBufferedTrainer`.
        lr, warmup, lr_floor: schedule, see :func:`ane_native.optim.warmup_cosine`.
        weight_decay, clip, beta1, beta2: see :class:`ane_native.optim.AdamW`.
        loss_scale, loss_scale_interval: see :class:`ane_native.optim.LossScale`.
        seed: of the initial weights and of the windows.
        valid_every: updates between two validations; 0: only at the start and the end.
        valid_windows: windows of a validation.
        save_every: updates between two checkpoints; 0: only at the end.
        sync_updates: updates with ``staleness=0`` after the run, to compare stalls.
        sample_tokens: length of the sample printed after the run; 0: none.
        compile_limit: compiles this process may make; None: softane's limit is lifted,
            Apple's is what it is. 0: none is counted.
        budget_end: when the process cannot compile another set: ``"restart"`` executes the
            same command again (:mod:`ane_native.restart`), ``"stop"`` saves and ends.
        workers: processes that compile (:class:`ane_native.workers.WorkerPool`): a number, "auto",
            or 0: this process compiles. With workers softane's limit is not lifted.
        strategy: None, or ``"auto"``: how the budget is lived with is chosen from what the
            probe measured (:mod:`ane_native.strategy`); replaces ``budget_end``, and sets
            ``workers`` where none was asked for. softane's limit is not lifted.
        timing: softane's timing ("off", "m4", ...); None leaves it as it is.
        trace_events: events kept in trace.json; 0: no trace.
        update: where AdamW runs: ``"background"``, in the job that compiles its result, or
            ``"foreground"``, before the boundary. The weights are the same to the bit with
            ``staleness`` 0 and 1.
        overlap_gradients: queue weight gradients while the backward chain runs.
    """

    model: str = "demo"
    data: str | None = None
    vocab: int | None = None
    compact_vocab: bool = False
    init: str | None = None
    include_tests: bool = False
    updates: int = 480
    accumulate: int = 6
    staleness: int | None = 1
    lr: float = 4e-4
    warmup: int = 20
    lr_floor: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    beta1: float = 0.7
    beta2: float = 0.95
    loss_scale: float = 1024.0
    loss_scale_interval: int = 200
    seed: int = 0
    valid_every: int = 25
    valid_windows: int = 24
    save_every: int = 0
    sync_updates: int = 0
    sample_tokens: int = 0
    compile_limit: int | None = None
    budget_end: str = "restart"
    workers: int | str = 0
    strategy: str | None = None
    timing: str | None = None
    trace_events: int = 60_000
    update: str = "background"
    overlap_gradients: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or self.model not in PRESETS:
            raise ConfigError(f"model: expected one of {', '.join(PRESETS)}, got {self.model!r}")
        least = {"updates": 1, "accumulate": 1, "valid_windows": 1}
        least |= dict.fromkeys(
            ("warmup", "valid_every", "save_every", "sync_updates", "sample_tokens", "seed"), 0
        )
        least |= {"trace_events": 0, "loss_scale_interval": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(f"{name}: expected {low} or more, got {value!r}")
        for name in ("staleness", "compile_limit"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 0):
                raise ConfigError(f"{name}: expected 0 or more, or none, got {value!r}")
        for name in ("lr", "lr_floor", "weight_decay", "clip", "beta1", "beta2", "loss_scale"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"{name}: expected a number, got {value!r}")
            if not (np.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: expected 0 or more, got {value!r}")
        for name in ("data", "timing", "init"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{name}: expected a text or none, got {value!r}")
        if self.vocab is not None and not isinstance(self.vocab, int):
            raise ConfigError(f"vocab: expected a number or none, got {self.vocab!r}")
        if self.workers != "auto" and (
            isinstance(self.workers, bool)
            or not isinstance(self.workers, int)
            or not 0 <= self.workers <= MOST_WORKERS
        ):
            raise ConfigError(
                f"workers: expected 0 to {MOST_WORKERS} or auto, got {self.workers!r}"
            )
        if self.update not in ("background", "foreground"):
            raise ConfigError(f"update: expected background or foreground, got {self.update!r}")
        if self.budget_end not in ("restart", "stop"):
            raise ConfigError(f"budget_end: expected restart or stop, got {self.budget_end!r}")
        if self.strategy not in (None, "auto"):
            raise ConfigError(f"strategy: expected auto or none, got {self.strategy!r}")
        if self.lr == 0:
            raise ConfigError("lr: expected more than 0, got 0")
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise ConfigError(f"{name}: expected less than 1, got {getattr(self, name)!r}")
        LossScale(self.loss_scale)  # refuses what is no power of two

    def as_dict(self) -> dict[str, Any]:
        """Field name -> value, for JSON."""
        return dataclasses.asdict(self)


RUNS: dict[str, TrainConfig] = {
    "demo": TrainConfig(sync_updates=10, sample_tokens=200),
    "tiny": TrainConfig(
        model="tiny", updates=20, accumulate=2, warmup=5, valid_every=10, valid_windows=8
    ),
    **{
        name: TrainConfig(
            model=name,
            updates=1000,
            accumulate=16,
            compact_vocab=True,
            lr=5e-4,
            warmup=100,
            beta1=0.9,
            save_every=50,
        )
        for name in ("stories15m", "stories42m", "stories110m", "qwen3-0.6b")
    },
}
"""Named settings of runs: ``--preset`` of the command line."""


def config_from(values: Mapping[str, Any], where: object) -> TrainConfig:
    """A configuration from JSON.

    Raises:
        ConfigError: unknown or unusable settings; names `where` they stand.
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{where}: unknown settings {', '.join(unknown)}")
    try:
        return TrainConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


# =============================== Ctrl-C =========================================


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a flag; the second is a KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.requested = False
        self.signal = 0  # the one that came first
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested, self.signal = True, number
        # A handler may not print: the stream could be in the middle of a write.
        os.write(2, b"\nstopping after this micro-step (Ctrl-C again stops at once)\n")


# =============================== The run ========================================


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


def train(
    config: TrainConfig,
    *,
    out: str | os.PathLike[str] = "runs",
    name: str = "train",
    resume: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model and keep everything in a run directory.

    Args:
        config: settings. When resuming, model, data and seed must be those of the run.
        out: directory of runs.
        name: name of the run's directory; one that exists gets a suffix, ``-2`` and so on.
        resume: directory of a run to continue; ``out`` and ``name`` are not used then.
        progress: where the run shows itself; None: a live line, or plain lines.

    Raises:
        DataError, ConfigError, CheckpointError: what the message says.
        EngineError: a generation failed to compile three times in a row. BudgetExhausted: no
            compile is left, and the process must not be replaced (:mod:`ane_native.restart`).
            A checkpoint was saved before either.
        FloatingPointError: the run diverged, or died of an overflow.
        KeyboardInterrupt: on a second Ctrl-C.
    """
    shown = progress or make_progress()
    begun = restart.state()
    if begun is not None and resume is None:
        resume = begun.keep.get("run")  # this command has begun already
    try:
        return _train(config, out, name, resume, shown)
    except _Restart as end:
        restart.exec_again(progress=end.progress, keep=end.keep)


class _Restart(Exception):
    """The run is saved and closed, and goes on in a new process."""

    def __init__(self, folder: Path, progress: int, epilogue: bool = False) -> None:
        super().__init__(f"{folder} at {progress}")
        self.keep = {"run": str(folder.resolve()), "epilogue": epilogue}
        self.progress = progress + epilogue


def _train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    name: str,
    resume: str | os.PathLike[str] | None,
    shown: Progress,
) -> TrainResult:
    """One process of a run; see :func:`train`."""
    begun = restart.state()
    with ExitStack() as stack:
        stack.callback(shown.close)
        stop = stack.enter_context(Interrupts())
        model = PRESETS[config.model]
        vocab = config.vocab
        if config.data is not None and config.data.endswith(".bin") and vocab is None:
            vocab = min(model.vocab, 65536)  # more does not fit in uint16
        corpus = open_corpus(
            config.data, seq=model.seq, vocab=vocab, include_tests=config.include_tests
        )
        if config.compact_vocab:
            corpus = corpus.compacted()
        model = dataclasses.replace(model, vocab=corpus.vocab)
        checkpoint = None if resume is None else load_checkpoint(resume)
        if checkpoint is not None:
            _check_resume(checkpoint, model, corpus, config, finished=begun is not None)
        engine = _open_engine(config, stack)
        if config.strategy == "auto" and begun is None:
            from ane_native import strategy

            chosen = strategy.auto(engine)
            shown.say(f"strategy {chosen}")
            way = "stop" if chosen.budget == "stop" else "restart"
            workers = config.workers or ("auto" if chosen.budget == "workers" else 0)
            config = dataclasses.replace(config, budget_end=way, workers=workers)
        folder = report.make_folder(out, name) if resume is None else Path(resume)
        if begun is None:
            shown.say(f"engine   {engine.label}")
            shown.say(f"budget   {_budget_text(config, engine)}")
            shown.say(f"data     {corpus.describe()}")
            shown.say(f"model    {config.model}: {model.parameter_count:,} parameters, {model}")
            shown.say(f"run      {folder}")
        pool = stack.enter_context(WorkerPool(config.workers)) if config.workers else None
        run = Run(config, model, corpus, engine, folder, shown, stop, pool)
        stack.callback(run.metrics.close)
        return run.go(checkpoint)


def _open_engine(config: TrainConfig, stack: ExitStack) -> Engine:
    """Open the engine and make the run's settings, undone when the stack is left."""
    engine = Engine()
    if engine.name.startswith("softane"):
        kept = config.workers or config.strategy  # softane's limit is as welcome as hardware's
        limit = None if kept and config.compile_limit is None else config.compile_limit or 0
        settings: dict[str, Any] = {} if limit is None else {"compile_limit": limit}
        if config.timing is not None:
            settings["timing"] = config.timing
        try:
            stack.enter_context(soft.using(**settings))
        except ValueError as error:
            raise ConfigError(f"timing: {error}") from error
        return engine
    if config.timing not in (None, "off"):
        raise ConfigError(f"timing: only softane has it, and the engine is {engine.name}")
    if config.compile_limit is not None:
        os.environ["ANE_NATIVE_COMPILE_LIMIT"] = str(config.compile_limit)
        Engine.refresh_limit()
    return engine


def _budget_text(config: TrainConfig, engine: Engine) -> str:
    """How many compiles a process has, and what happens at their end."""
    limit = engine.info()["compile_limit"]
    if config.workers:
        text = "no limit of compiles" if limit is None else f"{limit} compiles per process"
        return f"{text}; {config.workers} worker processes compile"
    if limit is None:
        lifted = engine.software and config.compile_limit is None
        how = "softane's limit is lifted; --compile-limit N keeps one" if lifted else "none counted"
        return f"no limit of compiles ({how})"
    if config.budget_end == "stop":
        return f"{limit} compiles per process, then the run saves and stops"
    refused = restart.why_not()
    if refused is None:
        return f"{limit} compiles per process, then the run goes on in a new process (exec)"
    return f"{limit} compiles per process, then it stops: {refused}"


def _check_resume(
    checkpoint: Checkpoint,
    model: LlamaConfig,
    corpus: Corpus,
    config: TrainConfig,
    finished: bool = False,
) -> None:
    """The checkpoint must be of this model and this corpus, and not past the end.

    `finished`: one at the end is welcome; what comes after the updates is still to be done.
    """
    state, path = checkpoint.state, checkpoint.path
    saved = generate.model_of(state, checkpoint.weights, path)
    if saved != model:
        raise ConfigError(f"model: expected that of {path}, {saved}, got {model}")
    if state.get("corpus") != corpus.fingerprint:
        raise ConfigError(
            f"data: expected the corpus that {path} was trained on, got another: {corpus.name}"
        )
    kept = state.get("vocabulary")
    if kept != (None if corpus.compaction is None else corpus.compaction.state()):
        raise ConfigError(f"compact_vocab: expected the vocabulary of {path}, got another")
    if int(state["updates"]) >= config.updates and not finished:
        raise ConfigError(
            f"updates: {path} has {state['updates']} already, expected more than that, "
            f"got {config.updates}"
        )


def _first_weights(
    config: TrainConfig, model: LlamaConfig, corpus: Corpus, rng: np.random.Generator
) -> Mapping[str, Any]:
    """Random weights, or those of ``config.init`` with the rows that are trained."""
    if config.init is None:
        return init_params(model, rng)
    found, weights = read_llama2c(config.init, seq=model.seq)
    size = model.vocab if corpus.compaction is None else corpus.compaction.size
    wanted = dataclasses.replace(model, vocab=size)
    if found != wanted:
        raise ConfigError(f"init: expected a model of the shape {wanted}, got {found}")
    if corpus.compaction is not None:
        table = weights["tok_embeddings.weight"]
        weights["tok_embeddings.weight"] = corpus.compaction.take_rows(table)
    return weights


class Run:
    """One run, from its first generation to its summary. Use :func:`train`."""

    def __init__(
        self,
        config: TrainConfig,
        model: LlamaConfig,
        corpus: Corpus,
        engine: Engine,
        folder: Path,
        progress: Progress,
        stop: Interrupts,
        pool: WorkerPool | None = None,
    ) -> None:
        self.config, self.model, self.corpus, self.engine = config, model, corpus, engine
        self.folder, self.progress, self.stop, self.pool = folder, progress, stop, pool
        self.program = LlamaProgram(model)
        lookup = corpus.lookup
        self.sampler = WindowSampler(corpus.train, model.seq, config.seed + 1, lookup)
        self.valid = fixed_windows(corpus.valid, model.seq, config.valid_windows, lookup)
        self.schedule = warmup_cosine(config.lr, config.warmup, config.updates, config.lr_floor)
        rng = np.random.Generator(np.random.PCG64(config.seed))
        self.optimizer = AdamW(
            _first_weights(config, model, corpus, rng),
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            clip=config.clip,
            loss_scale=LossScale(config.loss_scale, config.loss_scale_interval),
        )
        self.done = self.first_update = 0
        self.started = self.in_epilogue = False
        self.dead_in_a_row = 0
        self.batch_scale = config.loss_scale  # loss scale of the batch under way
        self.here: UpdateInfo | None = (
            None  # of an update that was made in the foreground after all
        )
        self.held: dict[str, Any] | None = None  # record of a batch whose update has not ended
        self.spent: BudgetExhausted | None = None  # no compile is left for another set
        self.saved = folder  # the last checkpoint, once there is one
        self.trace = TraceLog(max(2, config.trace_events))
        self.metrics = MetricsLog(folder / "metrics.jsonl")
        self.sync_records: list[dict[str, Any]] = []
        self.final_valid: float | None = None
        self.sample: str | None = None
        self.trainer: DoubleBufferedTrainer
        self.step: MicroStep

    # ------------------------------ life ------------------------------

    def go(self, checkpoint: Checkpoint | None) -> TrainResult:
        """Train from the start or from a checkpoint to the end, or to Ctrl-C."""
        active: Mapping[str, Any] = self.optimizer.params
        if checkpoint is not None:
            active = self._restore(checkpoint)
        begun = restart.state()
        if begun is None:
            report.write_config(self.folder, self.config, self.model, self.corpus, self.engine)
        if begun is not None and begun.keep.get("epilogue"):  # a new process for that alone
            return self._finish(interrupted=False)
        at_the_end = self.done >= self.config.updates  # only the last boundary is missing
        begin = time.monotonic_ns()
        self._open(active, self.config.staleness)
        try:
            if checkpoint is not None and active is not self.optimizer.params:
                # The engine lagged behind: version 0 is what it ran on, 1 the newest.
                self._boundary()
            self._record_start(begin, begun)
            self.progress.start(self.config.updates, self.done)
            interrupted = not self._loop()
            if not interrupted and not at_the_end:
                self._save(self.sampler.state_dict())
        except KeyboardInterrupt:
            self._close(timeout=2.0)
            raise
        except BaseException:
            self._close()
            raise
        self._close()
        return self._finish(interrupted)

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
        )
        return TrainResult(
            *(self.folder, self.saved, self.done, interrupted, summary, self.sample),
            signal=self.stop.signal,
        )

    def _open(self, weights: Mapping[str, Any], staleness: int | None) -> None:
        """Compile a first generation; it becomes version 0."""
        ring = TRACE_RING if self.config.trace_events and not self.in_epilogue else 0
        self.trainer = DoubleBufferedTrainer(
            self.program.kernel_set(),
            weights,
            staleness=staleness,
            update=self.optimizer if self.config.update == "background" else None,
            trace=ring,
            workers=self.pool or 0,
        )
        newest_is_0 = weights is self.optimizer.params
        self.optimizer.restart_versions(0 if newest_is_0 else 1)
        try:
            self.step = MicroStep(
                self.program,
                self.trainer,
                self.optimizer.gradient_sets
                if self.config.update == "background"
                else self.optimizer.grads,
                overlap=self.config.overlap_gradients,
            )
        except BaseException:
            self.trainer.close()
            raise

    def _close(self, timeout: float | None = None) -> None:
        self._drain()
        self.trainer.close(timeout)
        if self.optimizer.settled:
            record, self.held, info = self.held, None, self.trainer.update_info
            if record is not None and info is not None:
                self._keep({**record, **dataclasses.asdict(info)})
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

    def _due_weights(self, failed: bool) -> Mapping[str, Any] | None:
        """What the next batch would run on; None when that is the newest weights.

        `failed`: the last boundary raised, so the scheduler is behind where it should be.
        """
        if failed and self.config.staleness == 0:
            return None
        if failed and self.config.staleness == 1:
            return self.optimizer.previous
        if self.trainer.generation == self.optimizer.version:
            return None
        return self.trainer.active_weights

    def _save(self, windows: Mapping[str, Any], failed: bool = False) -> None:
        """Save the state after `self.done` updates; `windows`: the sampler's state there."""
        self._settle()
        tensors, numbers = self.optimizer.state_dict()
        due = self._due_weights(failed)
        if due is not None:
            tensors |= {f"active.{name}": due[name] for name in self.optimizer.params}
        state = {
            "updates": self.done,
            "model": dataclasses.asdict(self.model),
            "corpus": self.corpus.fingerprint,
            "windows": windows,
            "optimizer": numbers,
            "vocabulary": None
            if self.corpus.compaction is None
            else self.corpus.compaction.state(),
            "active_lags": due is not None,
            "batch_scale": self.batch_scale,
        }
        with self.trace.main("save"):
            self.saved = save_checkpoint(
                self.folder / "checkpoints", self.done, self.optimizer.params, tensors, state
            )

    def _restore(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        """Take over a checkpoint; returns the weights the engine was running on."""
        state = checkpoint.state
        moments = {n: t for n, t in checkpoint.optimizer.items() if not n.startswith("active.")}
        try:
            self.optimizer.load_state_dict(checkpoint.weights, moments, state["optimizer"])
            self.sampler.load_state_dict(state["windows"])
            self.done = int(state["updates"])
            lags = bool(state["active_lags"])
            self.batch_scale = float(state.get("batch_scale", self.optimizer.loss_scale.scale))
        except (KeyError, TypeError, ValueError, AneError) as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        self.metrics.close()
        self.metrics = MetricsLog(
            self.folder / "metrics.jsonl", keep=lambda r: int(r.get("update", 0)) <= self.done
        )
        self.saved = checkpoint.path
        if restart.state() is None:
            self.progress.say(f"resumed  {checkpoint.path}, {self.done} updates done")
        if not lags or self.config.staleness == 0:
            return self.optimizer.params
        active = {
            n[len("active.") :]: t
            for n, t in checkpoint.optimizer.items()
            if n.startswith("active.")
        }
        if active.keys() != self.optimizer.params.keys():
            raise CheckpointError(
                f"{checkpoint.path}: the weights of the active generation are missing"
            )
        return active

    # ------------------------------ the loop ------------------------------

    def _record_start(self, begin_ns: int, begun: restart.Restarted | None) -> None:
        assert self.trainer.stats is not None
        self.first_update = self.done
        self.started = True
        valid = None
        every = self.config.valid_every
        last = self.done == self.config.updates
        if begun is None or last or (every and self.done % every == 0):
            with self.trace.main("validation"):
                valid = self.step.evaluate(self.valid)
        now = time.monotonic_ns()
        ready_ms = (now - begin_ns) / 1e6
        first = {"kind": "start", "update": self.done, "valid_loss": valid, "ready_ms": ready_ms}
        if begun is not None:
            first |= {"restarts": begun.count, "restart_ms": (now - begun.at_ns) / 1e6}
        self.metrics.add({**first, **self.trainer.stats.as_dict()})
        if begun is not None:
            self.progress.say(
                f"restart  {begun.count}: going on after update {self.done}, "
                f"{(now - begun.at_ns) / 1e6:,.0f} ms"
            )
            return
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
                self._restart(self.spent)
            last = self.done == self.config.updates
            every = self.config.valid_every
            record["valid_loss"] = None
            if last or (every and self.done % every == 0):
                with self.trace.main("validation"):
                    record["valid_loss"] = self.step.evaluate(self.valid)
            self._drain()
            self._keep(record)
            if self.config.save_every and self.done % self.config.save_every == 0 and not last:
                self._save(self.sampler.state_dict())
        return True

    def _batch(self) -> float | None:
        """The micro-steps of one update; their mean loss, or None when Ctrl-C came."""
        losses = []
        for _ in range(self.config.accumulate):
            tokens, targets = self.sampler.next()
            with self.trace.main("micro-step"):
                losses.append(self.step(tokens, targets, self.batch_scale))
            if self.stop.requested:
                return None
        return float(np.mean(losses))

    def _update(self) -> dict[str, Any] | None:
        """One batch, one AdamW, one boundary; the record of it. None when Ctrl-C came."""
        begin = time.monotonic_ns()
        self.step.gradients = self.optimizer.gradients
        loss = self._batch()
        if loss is None:
            self.optimizer.zero_grads()
            return None
        if self.config.update == "background":
            return self._update_behind(loss, begin)
        scale = self.optimizer.loss_scale.scale
        adam_begin = time.monotonic_ns()
        info = self.optimizer.update(
            lr=self.schedule(self.done),
            micro_steps=self.config.accumulate,
            oldest_needed=self.trainer.oldest_needed,
            loss_scale=self.batch_scale,
        )
        # The loss scale lags like the weights: the update may be in the background.
        lags = not self.in_epilogue and self.config.staleness != 0
        self.batch_scale = scale if lags else self.optimizer.loss_scale.scale
        adam_end = time.monotonic_ns()
        self.trace.span("AdamW", 1, adam_begin, adam_end)
        if not self.in_epilogue:
            self.done += 1
        self._look_at(info)
        stats = None
        if self.spent is None:
            try:
                stats = self._boundary(skipped=not info.applied)
                self.trace.counter("staleness", stats.staleness)
            except BudgetExhausted as error:
                if self.in_epilogue:
                    raise
                self.spent = error
        return self._record(loss, info, stats, begin, (adam_end - adam_begin) / 1e6)

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

    def _record(
        self,
        loss: float,
        info: UpdateInfo | None,
        stats: BatchStats | None,
        begin: int,
        adam_ms: float,
    ) -> dict[str, Any]:
        update_ms = (time.monotonic_ns() - begin) / 1e6
        tokens = self.config.accumulate * self.model.seq
        return {
            "kind": "update",
            "update": self.done,
            "loss": loss,
            **({} if info is None else dataclasses.asdict(info)),
            "tokens": tokens,
            "tokens_per_s": tokens / update_ms * 1000,
            "update_ms": update_ms,
            "adam_ms": adam_ms,
            "micro_steps": self.config.accumulate,
            **(stats.as_dict() if stats is not None else {}),
        }

    # ------------------------------ in the background ------------------------------

    def _update_behind(self, loss: float, begin: int) -> dict[str, Any]:
        """The boundary with AdamW behind it. What that does is known one boundary later (with
        ``staleness=0`` at once), so the record waits for it in :meth:`_keep`."""
        lr, at = self.schedule(self.done), time.monotonic_ns()
        stats = None
        try:
            stats = self._boundary_behind(lr)
            self.trace.counter("staleness", stats.staleness)
        except BudgetExhausted as error:
            if self.in_epilogue:
                raise
            self.spent = error
        self._emit()
        info = self.here
        if info is None and self.optimizer.settled:
            info = self.trainer.update_info
        self.here = None
        if not self.in_epilogue:
            self.done += 1
        self.batch_scale = self.optimizer.loss_scale.scale
        if info is not None:
            self._look_at(info)
        return self._record(loss, info, stats, begin, (time.monotonic_ns() - at) / 1e6)

    def _boundary_behind(self, lr: float) -> BatchStats:
        """Hand the gradients over; a set that failed is built again from the newest masters."""
        failed = 0
        while True:
            newest = self.trainer.newest
            try:
                with self.trace.main("boundary"):
                    return self.trainer.step_update(
                        lr=lr, micro_steps=self.config.accumulate, loss_scale=self.batch_scale
                    )
            except (EngineError, BudgetExhausted) as error:
                taken = self.trainer.newest > newest
                self._settle()
                if isinstance(error, EngineError):
                    failed += 1
                    self.progress.say(f"update {self.done}: a generation failed: {error}")
                    if failed < TRIES and not taken:
                        continue
                    if failed < TRIES:
                        return self._boundary()
                if not taken:  # the gradients are whole: nothing is lost in the checkpoint
                    self.here = self.optimizer.update(
                        lr=lr,
                        micro_steps=self.config.accumulate,
                        oldest_needed=self.trainer.oldest_needed,
                        loss_scale=self.batch_scale,
                    )
                if isinstance(error, EngineError):
                    self.done += not self.in_epilogue
                    self.progress.say(
                        f"giving up after {TRIES} failures{self._save_and_say(failed=True)}"
                    )
                raise

    def _settle(self) -> None:
        """Wait until the masters, moments and the last record are whole."""
        if self.config.update == "background":
            self.trainer.settle()
            self._emit()

    def _keep(self, record: dict[str, Any]) -> None:
        """Write a record, or hold it until its update has ended."""
        if "applied" not in record:
            self.held = record
            return
        self.metrics.add(record)
        self.progress.update(record)

    def _emit(self) -> None:
        """The update of the held record has ended: write it."""
        record, info = self.held, self.trainer.update_info
        if record is None or info is None:
            return
        self.held = None
        self._keep({**record, **dataclasses.asdict(info)})
        self._look_at(info)

    # ------------------------------ boundary ------------------------------

    def _boundary(self, skipped: bool = False) -> BatchStats:
        """Hand the newest masters over. When the pending generation turns out to have failed,
        it is dropped and the newest takes its place; the active one goes on meanwhile."""
        failed = 0
        while True:
            try:
                with self.trace.main("boundary"):
                    masters = None if skipped else self.optimizer.params
                    stats = self.trainer.step(masters, handover=True)
            except EngineError as error:
                failed += 1
                self.progress.say(f"update {self.done}: a generation failed: {error}")
                if failed < TRIES:
                    continue
                self.progress.say(
                    f"giving up after {TRIES} failures{self._save_and_say(failed=True)}"
                )
                raise
            if not skipped:
                self.optimizer.handed_over(stats.newest, stats.submitted)
            return stats

    def _restart(self, spent: BudgetExhausted) -> None:
        """Save, verify, and leave this process for a new one; raises in any case."""
        refused: BudgetExhausted | None = None
        if self.config.budget_end == "stop":
            refused = spent
        else:
            try:
                restart.check(self.done)
            except BudgetExhausted as error:
                refused = BudgetExhausted(f"{spent}\n  {error}")
        if refused is not None:
            raise BudgetExhausted(f"{refused}{self._save_and_say(failed=True)}") from spent
        with self.trace.main("restart"):
            self._save(self.sampler.state_dict(), failed=True)
            load_checkpoint(self.saved)  # every byte, before anything is given up
        raise _Restart(self.folder, self.done)

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
            self._open(self.optimizer.params, staleness=0)
        except BudgetExhausted as error:
            if self.config.budget_end == "restart" and restart.why_not() is None:
                restart.check(self.done + 1)
                raise _Restart(self.folder, self.done, epilogue=True) from error
            self.progress.say(f"left out: {error}")
            return
        try:
            self.final_valid = self.step.evaluate(self.valid)
            if config.sample_tokens:
                self.sample = self._sample(config.sample_tokens)
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
