# SPDX-License-Identifier: MIT
"""Ctrl-C and SIGTERM end a run between two micro-steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]


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
