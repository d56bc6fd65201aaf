# SPDX-License-Identifier: MIT
"""What a training run shows while it runs: a live line, or plain lines where there is no terminal.

Both print to standard output, say the same things and are used the same way; train/ does
not know which one it has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Progress", "make_progress"]

Record = Mapping[str, Any]


class Progress(Protocol):
    """Shows a run."""

    def start(self, total: int, done: int) -> None:
        """Training begins: `done` of `total` updates lie behind it."""

    def update(self, record: Record) -> None:
        """One update ended; the fields of a line of metrics.jsonl."""

    def say(self, text: str) -> None:
        """A sentence that stays on the screen."""

    def close(self) -> None:
        """The run ended or stopped. May be called twice."""


def _number(record: Record, key: str, form: str, missing: str = "-") -> str:
    value = record.get(key)
    return missing if value is None else format(value, form)


def _fields(record: Record) -> str:
    """Loss, speed, stall, staleness, generation of a record."""
    text = (
        f"loss {_number(record, 'loss', '.3f')}  "
        f"{_number(record, 'tokens_per_s', ',.0f')} tokens/s  "
        f"stall {_number(record, 'compile_stall_ms', '.2f')} ms  "
        f"compile {_number(record, 'compile_ms', '.0f')} ms  "
        f"staleness {_number(record, 'staleness', 'd')}  "
        f"generation {_number(record, 'generation', 'd')}"
    )
    if record.get("valid_loss") is not None:
        text += f"  validation {record['valid_loss']:.3f}"
    if not record.get("applied", True):
        text += f"  skipped: gradient not finite, loss scale {record['loss_scale']:g}"
    return text


def _clock(seconds: float) -> str:
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class PlainProgress:
    """One line every few updates, and one for every validation or skipped update.

    Args:
        lines: about how many lines a run prints.
    """

    def __init__(self, lines: int = 40) -> None:
        self._lines = lines
        self._total = self._done = self._first = 0
        self._begin = 0.0

    def start(self, total: int, done: int) -> None:
        self._total, self._done, self._first = total, done, done
        self._begin = time.monotonic()

    def update(self, record: Record) -> None:
        self._done = int(record["update"])
        every = max(1, self._total // self._lines)
        special = record.get("valid_loss") is not None or not record.get("applied", True)
        if self._done % every and not special and self._done not in (1, self._total):
            return
        passed = time.monotonic() - self._begin
        left = passed / max(1, self._done - self._first) * (self._total - self._done)
        print(f"{self._done}/{self._total}  {_fields(record)}  left {_clock(left)}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        sys.stdout.flush()


class LiveProgress:
    """A bar and one live line, drawn by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console(highlight=False)
        self._bar = Bar(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task: Any = None

    def start(self, total: int, done: int) -> None:
        self._bar.start()
        self._task = self._bar.add_task("train", total=total, completed=done, text="")

    def update(self, record: Record) -> None:
        shown = {**record, "valid_loss": None}
        self._bar.update(self._task, completed=record["update"], text=_fields(shown))
        if record.get("valid_loss") is not None:
            self.say(f"update {record['update']}: validation loss {record['valid_loss']:.3f}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def make_progress(live: bool | None = None) -> Progress:
    """A live line on a terminal, plain lines elsewhere; `live` decides it by hand."""
    if sys.stdout.isatty() if live is None else live:
        return LiveProgress()
    return PlainProgress()
