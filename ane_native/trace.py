# SPDX-License-Identifier: MIT
"""A run as a timeline: Chrome trace JSON, opened by ui.perfetto.dev or chrome://tracing.

Three tracks: the training thread (micro-steps, optimizer, boundaries), the engine's
evaluations, and the compile queue. Arrows lead from the boundary that submitted a generation
over its background job to the boundary that installed it. Evaluations run on the training
thread; they have a track of their own so that they and the compiles lie side by side.

The file is bounded: of more events than fit, the first half and the newest are kept, and the
number left out is written into the file.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ane_native.checkpoint import replace_file

if TYPE_CHECKING:
    from ane_native.scheduler import TraceEvent

__all__ = ["TraceLog"]

MAIN, EVALS, COMPILES = 1, 2, 3
TRACKS = {MAIN: "training thread", EVALS: "evaluations", COMPILES: "compile queue (GCD, utility)"}
TRACK_OF = {
    "eval": EVALS,
    "bake": COMPILES,
    "compile": COMPILES,
    "load": COMPILES,
    "canary": COMPILES,
    "unload": COMPILES,
    "generation": COMPILES,
}  # everything else: the training thread


class TraceLog:
    """Collects events and writes them as Chrome trace JSON.

    Args:
        limit: events kept; about 110 bytes each in the file.
        origin_ns: monotonic time that becomes 0; None: now.
    """

    def __init__(self, limit: int = 60_000, origin_ns: int | None = None) -> None:
        self._origin = time.monotonic_ns() if origin_ns is None else origin_ns
        self._first: list[dict[str, Any]] = []
        self._half = max(1, limit // 2)
        self._rest: deque[dict[str, Any]] = deque(maxlen=max(1, limit - self._half))
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._first) + len(self._rest)

    def _keep(self, event: dict[str, Any]) -> None:
        if len(self._first) < self._half:
            self._first.append(event)
            return
        if len(self._rest) == self._rest.maxlen:
            self.left_out += 1
        self._rest.append(event)

    def _us(self, ns: int) -> float:
        return (ns - self._origin) / 1000

    def span(self, name: str, track: int, begin_ns: int, end_ns: int, **args: Any) -> None:
        """One span on a track; times of the monotonic clock."""
        event = {
            "name": name,
            "ph": "X",
            "pid": 1,
            "tid": track,
            "ts": self._us(begin_ns),
            "dur": max(0, end_ns - begin_ns) / 1000,
        }
        self._keep({**event, "args": args} if args else event)

    @contextmanager
    def main(self, name: str, **args: Any) -> Iterator[None]:
        """A span on the training thread around a block."""
        begin = time.monotonic_ns()
        try:
            yield
        finally:
            self.span(name, MAIN, begin, time.monotonic_ns(), **args)

    def counter(self, name: str, value: float) -> None:
        """A value over time, now."""
        ts = self._us(time.monotonic_ns())
        self._keep({"name": name, "ph": "C", "pid": 1, "ts": ts, "args": {name: value}})

    def add(self, events: Iterable[TraceEvent]) -> None:
        """Take over what :meth:`DoubleBufferedTrainer.drain_trace` gave."""
        for e in events:
            track = TRACK_OF.get(e.kind, MAIN)
            name = e.kernel if e.kind == "eval" and e.kernel else e.kind
            if e.kind == "generation":
                name = f"generation {e.version}"
            elif e.kernel and e.kind != "eval":
                name = f"{e.kind} {e.kernel}"
            self.span(name, track, e.begin_ns, e.end_ns, version=e.version)
            self._arrow(e)

    def _arrow(self, e: TraceEvent) -> None:
        """A step of the arrow submit -> background job -> swap of one version."""
        phase = {"submit": "s", "generation": "t", "swap": "f"}.get(e.kind)
        if phase is None:
            return
        arrow = {
            "name": "generation",
            "cat": "generation",
            "ph": phase,
            "id": e.version,
            "pid": 1,
            "tid": TRACK_OF.get(e.kind, MAIN),
            "ts": self._us((e.begin_ns + e.end_ns) // 2),
        }
        self._keep({**arrow, "bp": "e"} if phase == "f" else arrow)

    def write(self, path: Path, **about: Any) -> None:
        """Write the file, whole or not at all.

        Args:
            path: replaced when it exists.
            about: kept in ``otherData``: engine, model, settings.
        """
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": name}}
            for tid, name in TRACKS.items()
        ]
        names += [
            {"name": "thread_sort_index", "ph": "M", "pid": 1, "tid": t, "args": {"sort_index": t}}
            for t in TRACKS
        ]
        document = {
            "displayTimeUnit": "ms",
            "otherData": {**about, "events_left_out": self.left_out},
            "traceEvents": [*names, *self._first, *self._rest],
        }
        replace_file(path, json.dumps(document, separators=(",", ":")).encode())
