# SPDX-License-Identifier: MIT
"""What a run needs before it begins: the engine as it is to be, checks of a checkpoint, weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from ane_native import device, generate, restart, soft
from ane_native.checkpoint import Checkpoint
from ane_native.data import Corpus
from ane_native.engine import Engine
from ane_native.errors import ConfigError
from ane_native.llama2c import read_llama2c
from ane_native.models.llama import LlamaChains, LlamaConfig, LlamaProgram, init_params
from ane_native.models.llama_graph import PartitionedLlama
from ane_native.train.config import TrainConfig

__all__ = [
    "budget_text",
    "check_resume",
    "first_weights",
    "kernels_of",
    "open_engine",
    "staleness_text",
]


def open_engine(config: TrainConfig, stack: ExitStack) -> Engine:
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
            text = "expected off or a chip that softane knows (ane-native info --profile)"
            raise ConfigError(f"timing: {text}, got {config.timing!r}") from error
        return engine
    if config.timing not in (None, "off"):
        raise ConfigError(f"timing: only softane has it, and the engine is {engine.name}")
    if config.compile_limit is not None:
        os.environ["ANE_NATIVE_COMPILE_LIMIT"] = str(config.compile_limit)
        Engine.refresh_limit()
    return engine


def kernels_of(config: TrainConfig, model: LlamaConfig, engine: Engine) -> LlamaChains:
    """The kernels of a model, cut as the settings say.

    Raises:
        PartitionError, LimitError: ``cut="auto"`` with a model that this engine does not take.
    """
    if config.cut == "auto":
        limits, cost = device.here(engine)
        return PartitionedLlama(model, limits=limits, cost=cost)
    return LlamaProgram(model, scaled=config.scaling == "auto")


def budget_text(config: TrainConfig, engine: Engine) -> str:
    """How many compiles a process has, and what happens at their end."""
    limit = engine.info()["compile_limit"]
    if config.workers:
        text = "no limit of compiles" if limit is None else f"{limit} compiles per process"
        many = "" if config.workers == "auto" else f"{config.workers} "
        return f"{text}; {many}worker processes compile"
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


def staleness_text(config: TrainConfig) -> str:
    """Which weights a batch runs on, and what is waited for."""
    if config.staleness != 0:
        bound = "any number of updates" if config.staleness is None else f"{config.staleness}"
        how = "as they were"
        if config.extrapolate:
            how = "predicted for the update they are first used at (extrapolate)"
        return f"weights up to {bound} behind, {how}"
    if not config.overlap_exact:
        what = "compiles are waited for as a whole (overlap_exact is off)"
    elif config.clip:
        what = (
            f"compiles are waited for as a whole: clip {config.clip:g} needs the norm of all "
            "gradients before any weight is final; --clip 0 --update foreground overlaps them"
        )
    elif config.update != "foreground":
        what = "compiles are waited for as a whole; --update foreground overlaps them"
    else:
        what = "the compile of a layer begins when its gradients are final (overlap_exact)"
    unused = "; nothing to predict without delay (extrapolate)" if config.extrapolate else ""
    return f"0, {what}{unused}"


def check_resume(
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


def first_weights(
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
