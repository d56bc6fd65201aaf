# SPDX-License-Identifier: MIT
"""The training loop: micro-steps on the active generation, AdamW, the boundary.

    for each update
        micro-steps       forward, loss, backward, weight gradients   (microstep.py)
        AdamW             masters k -> k+1, into a buffer of its own   (optim.py)
        trainer.step()    swap what was compiled, compile k+1 beside the next batch

Which weights a number belongs to. The training loss is that of the active generation, which
with ``staleness=1`` is one update behind the newest weights, or (``extrapolate``) what was predicted
from there; so is the validation loss in metrics.jsonl. The *final* validation loss of a run with an epilogue (the demo) is measured on
a fresh generation made from the newest weights; a run without one reports the last of the
others.

Stopping and going on. The first Ctrl-C (or SIGTERM) lets the micro-step end, saves and stops; a batch that
was begun is begun again on resume, with the same windows. A checkpoint holds the newest
weights and, when they differ, those the engine was running on (and those waiting to), so a resumed
run with ``staleness`` 0 or 1 continues to the bit. A run that swaps when it is ready (2 and more,
None) depends on timing and is not repeatable in the first place.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack, suppress
from pathlib import Path

from ane_native import report, restart
from ane_native.checkpoint import load_checkpoint
from ane_native.data import open_corpus
from ane_native.models.llama import PRESETS
from ane_native.progress import Progress, make_progress
from ane_native.train.adapt import decide
from ane_native.train.config import RUNS, TrainConfig, config_from
from ane_native.train.interrupts import Interrupts
from ane_native.train.prepare import budget_text, check_resume, open_engine, staleness_text
from ane_native.train.run import GoesOn, Run, TrainResult
from ane_native.workers import WorkerPool

__all__ = ["RUNS", "TrainConfig", "TrainResult", "config_from", "train"]


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
    except GoesOn as end:
        restart.exec_again(progress=end.progress, keep=end.keep)


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
            check_resume(checkpoint, model, corpus, config, finished=begun is not None)
        engine = open_engine(config, stack)
        settings = decide(config, engine, begun, shown.say)
        config = settings.config
        folder = report.make_folder(out, name) if resume is None else Path(resume)
        if begun is None:
            shown.say(f"engine   {engine.label}")
            shown.say(f"budget   {budget_text(config, engine)}")
            shown.say(f"staleness {staleness_text(config)}")
            shown.say(f"data     {corpus.describe()}")
            shown.say(f"model    {config.model}: {model.parameter_count:,} parameters, {model}")
            shown.say(f"run      {folder}")
        pool = stack.enter_context(WorkerPool(config.workers)) if config.workers else None
        try:
            run = Run(settings, model, corpus, engine, folder, shown, stop, pool)
        except BaseException:
            if resume is None:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()
            raise
        stack.callback(lambda: run.metrics.close())  # a restored run has another log
        if checkpoint is not None:
            run.restore(checkpoint)
            del checkpoint  # masters and moments are copied
        return run.go()
