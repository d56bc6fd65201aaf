# SPDX-License-Identifier: MIT
"""Records of a run for programs that draw them: TensorBoard and Weights & Biases.

Extras (``pip install ane_native[tensorboard]`` or ``[wandb]``). metrics.jsonl is written in any
case and is the record; what is here gets the same numbers, under the names that stand there.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ane_native.errors import ConfigError

__all__ = ["LOGGERS", "Logger", "logger_names", "numbers", "open_loggers"]


class Logger(Protocol):
    """Where records go."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one record."""

    def close(self) -> None:
        """Write what is left. May be called twice."""


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, without ``update``, which is the step."""
    found = {}
    for key, value in record.items():
        if key != "update" and isinstance(value, (int, float)) and math.isfinite(value):
            found[key] = float(value)
    return found


def _need(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"log: {extra} is not installed ({error}): pip install 'ane_native[{extra}]'"
        ) from error


class TensorBoard:
    """Event files in ``tensorboard/`` of the run's directory.

    Args:
        folder: the run's directory.
        config: settings; not shown.
        done: updates done before; TensorBoard drops what it has of later ones.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int) -> None:
        writer = _need("tensorboard.summary.writer.event_file_writer", "tensorboard")
        self._event = _need("tensorboard.compat.proto.event_pb2", "tensorboard")
        self._summary = _need("tensorboard.compat.proto.summary_pb2", "tensorboard")
        self._writer: Any = writer.EventFileWriter(str(folder / "tensorboard"))
        if done:
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(session_log=start, step=done + 1)

    def _write(self, **fields: Any) -> None:
        self._writer.add_event(self._event.Event(wall_time=time.time(), **fields))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        made = [self._summary.Summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._write(summary=self._summary.Summary(value=made), step=step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Wandb:
    """A run of Weights & Biases that carries the name of the run's directory. Where it goes is
    up to its own environment (``WANDB_MODE=offline`` keeps it in the directory).

    Args:
        folder: the run's directory.
        config: settings.
        done: updates done before; not 0: the run goes on.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], done: int) -> None:
        wandb = _need("wandb", "wandb")
        self._run: Any = wandb.init(
            project="ane_native",
            name=folder.name,
            id=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow" if done else None,
        )

    def add(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


LOGGERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}


def open_loggers(
    names: str | None, folder: Path, config: Mapping[str, Any], done: int
) -> list[Logger]:
    """Open those that are named.

    Args:
        names: names in :data:`LOGGERS`, with commas between them; None: none.
        folder, config, done: see :class:`TensorBoard`.

    Raises:
        ConfigError: a name that is not known, or an extra that is not installed.
    """
    wanted = logger_names(names)
    opened: list[Logger] = []
    try:
        for name in wanted:
            opened.append(LOGGERS[name](folder, config, done))
    except BaseException:
        for logger in opened:
            logger.close()
        raise
    return opened


def logger_names(names: str | None) -> list[str]:
    """The single names; ConfigError for one that is not known."""
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in wanted:
        if name not in LOGGERS:
            raise ConfigError(f"log: expected some of {', '.join(LOGGERS)}, got {name!r}")
    return wanted
