# SPDX-License-Identifier: MIT
"""A run as a timeline: Chrome trace JSON, opened by ui.perfetto.dev or chrome://tracing.

Four tracks: the training thread (micro-steps, optimizer, boundaries), the engine's
evaluations, the compile queue and the update's; and one for each compile worker, in a process
of their own. Evaluations run on the training thread; they have a track of their own so that
they and the compiles lie side by side.

Two kinds of arrows. One for each generation: from the snapshot of its weights (or its
submit) over the background job and its publishing to the boundary that swapped it in. One for
each program that a worker compiled: from the snapshot over the compile in the worker to the
publishing of the set.

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

MAIN, EVALS, COMPILES, UPDATES = 1, 2, 3, 4
TRACKS = {
    MAIN: "training thread",
    EVALS: "evaluations",
    COMPILES: "compile queue (GCD, utility)",
    UPDATES: "updates (GCD, utility)",
}
TRAINER, WORKERS = 1, 2  # processes of the timeline
OPEN = 64  # generations whose arrows are not complete: more are never under way
TRACK_OF = {
    "eval": EVALS,
    "bake": COMPILES,
    "compile": COMPILES,
    "load": COMPILES,
    "canary": COMPILES,
    "unload": COMPILES,
    "generation": COMPILES,
    "publish": COMPILES,
    "update": UPDATES,
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
        self._workers: dict[int, None] = {}  # process ids, in the order they were seen
        self._begins: dict[int, float] = {}  # version -> time of its snapshot
        self._started: set[int] = set()  # versions whose arrow has begun
        self._compiled: dict[int, list[str]] = {}  # version -> arrows of its programs

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

    def span(
        self, name: str, track: int, begin_ns: int, end_ns: int, process: int = TRAINER, **args: Any
    ) -> None:
        """One span on a track; times of the monotonic clock."""
        event = {
            "name": name,
            "ph": "X",
            "pid": process,
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
        # a job may tell of its compile before the thread that began it tells of the submit
        for e in sorted(events, key=lambda e: e.begin_ns):
            track = TRACK_OF.get(e.kind, MAIN)
            name = e.kernel if e.kind == "eval" and e.kernel else e.kind
            if e.kind == "generation":
                name = f"generation {e.version}"
            elif e.kernel and e.kind != "eval":
                name = f"{e.kind} {e.kernel}"
            if e.process:
                self._workers[e.process] = None
                self.span(name, e.process, e.begin_ns, e.end_ns, WORKERS, version=e.version)
            else:
                self.span(name, track, e.begin_ns, e.end_ns, version=e.version)
            self._arrows(e)

    def _arrow(
        self, phase: str, kind: str, name: str, ts: float, track: int, process: int = TRAINER
    ) -> None:
        """One point of an arrow; it binds to the span of that track around that time."""
        arrow = {"name": kind, "cat": kind, "ph": phase, "id": name, "pid": process}
        arrow |= {"tid": track, "ts": ts}
        self._keep({**arrow, "bp": "e"} if phase == "f" else arrow)

    def _arrows(self, e: TraceEvent) -> None:
        """What an event adds to the arrows of its version."""
        middle = self._us((e.begin_ns + e.end_ns) // 2)
        version = str(e.version)
        if e.kind in ("snapshot", "submit"):  # no snapshot where nothing is copied
            self._begins.setdefault(e.version, middle)
            while len(self._begins) > OPEN:  # failed, or only counted
                oldest = next(iter(self._begins))
                del self._begins[oldest]
                self._started.discard(oldest)
                self._compiled.pop(oldest, None)
        elif e.kind in ("generation", "publish", "swap") and e.version in self._begins:
            if e.version not in self._started:  # not every version is built
                self._started.add(e.version)
                self._arrow("s", "generation", version, self._begins[e.version], MAIN)
            phase = "f" if e.kind == "swap" else "t"
            self._arrow(phase, "generation", version, middle, TRACK_OF.get(e.kind, MAIN))
        elif e.kind == "compile" and e.process and e.version in self._begins:
            name = f"{version} {e.kernel}"
            self._arrow("s", "program", name, self._begins[e.version], MAIN)
            self._arrow("t", "program", name, middle, e.process, WORKERS)
            self._compiled.setdefault(e.version, []).append(name)
        if e.kind in ("publish", "swap"):  # without a publish a set became ready in the submit
            track = TRACK_OF.get(e.kind, MAIN)
            for name in self._compiled.pop(e.version, []):
                self._arrow("f", "program", name, middle, track)

    def write(self, path: Path, **about: Any) -> None:
        """Write the file, whole or not at all.

        Args:
            path: replaced when it exists.
            about: kept in ``otherData``: engine, model, settings.
        """
        tracks = [(TRAINER, tid, name) for tid, name in TRACKS.items()]
        tracks += [(WORKERS, pid, f"worker {pid}") for pid in self._workers]
        named = [(TRAINER, "trainer"), *([(WORKERS, "compile workers")] if self._workers else [])]
        names: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": name}}
            for pid, name in named
        ]
        for order, (pid, tid, name) in enumerate(tracks, 1):
            track = {"ph": "M", "pid": pid, "tid": tid}
            names.append({"name": "thread_name", **track, "args": {"name": name}})
            names.append({"name": "thread_sort_index", **track, "args": {"sort_index": order}})
        document = {
            "displayTimeUnit": "ms",
            "otherData": {**about, "events_left_out": self.left_out},
            "traceEvents": [*names, *self._first, *self._rest],
        }
        replace_file(path, json.dumps(document, separators=(",", ":")).encode())
