# SPDX-License-Identifier: MIT
"""Compile workers: processes that compile, so that the trainer only loads.

An engine allows a process about 119 compiles. A compiled program is kept by the system under
the hash of its text and weights, and another process of the same executable loads it without
compiling it again (sources: ``docs/WORKERS.md``). The mechanism is in the core,
``_core_pool.c`` and ``_core_worker.m``; this file says how a worker is started and what it
needs to know::

    with ane.DoubleBufferedTrainer(kernels, weights, workers=2) as trainer: ...

    with ane.WorkerPool(2) as pool:                 # or one pool for several trainers
        with ane.DoubleBufferedTrainer(kernels, weights, workers=pool) as trainer: ...
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from . import _native, soft
from .engine import Engine
from .errors import AneError, ClosedError, EngineOpenError

MOST_WORKERS = 64
AUTO_WORKERS = 4  # more than these compile no faster: compiles of one set are a dozen
TRIES = 5  # workers that may fail at a program before the trainer compiles it itself
#: softane's settings that its profile does not hold and that change what a compile makes or takes.
_SETTINGS = ("profile", "timing", "timing_scale", "jitter", "seed", "entitled", "log", "threads")


@dataclass(frozen=True)
class PoolStats:
    """What the workers of a pool have done since it was made.

    Attributes:
        jobs: programs asked for.
        compiles: programs they compiled.
        cached: programs the engine had already.
        refused: programs the engine's compiler refused, also when asked again elsewhere.
        started: processes started.
        replaced: processes ended because their compile budget was used up.
        deaths: processes that ended by themselves or were killed from outside.
        hangs: processes killed because no answer came before the deadline.
        bad_answers: processes killed because of an answer that cannot be right.
        retries: programs given to another worker.
        given_up: programs that no worker could compile.
        fallbacks: programs compiled in the trainer's process instead.
        alive: processes now.
        idle: of them without work.
        pids: their process ids.
    """

    jobs: int
    compiles: int
    cached: int
    refused: int
    started: int
    replaced: int
    deaths: int
    hangs: int
    bad_answers: int
    retries: int
    given_up: int
    fallbacks: int
    alive: int
    idle: int
    pids: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Field name -> value, for JSON."""
        return asdict(self)


def auto_workers() -> int:
    """How many workers ``"auto"`` means: one per processor but one, 1 to 4."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min(AUTO_WORKERS, cores - 1))


def _command(engine: str, reap: str) -> list[str]:
    """How a worker is started: this interpreter, without site-packages or the environment."""
    core = Path(str(_native.core().__file__))
    spec = importlib.util.find_spec("_cffi_backend")
    if spec is None or not spec.origin:
        raise EngineOpenError("compile workers need the package cffi, which has no _cffi_backend")
    entry = Path(__file__).with_name("_worker.py")
    if not sys.executable:
        raise EngineOpenError("compile workers need sys.executable, which is empty here")
    flags = ["-I", "-S", "-E", "-X", "utf8"]
    return [
        sys.executable,
        *flags,
        str(entry),
        str(core),
        spec.origin,
        engine,
        str(os.getpid()),
        reap,
    ]


class _Store:
    """softane's store while any pool is open: shared, in the staging directory of this process
    unless the user has named one; as it was after the last pool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: dict[str, str] = {}
        self._made: Path | None = None

    def open(self, base: str | None) -> None:
        with self._lock:
            self._users += 1
            if self._users > 1 or soft.get("store") == "shared":
                return
            self._before["store"] = soft.get("store")
            if base is not None and "SOFTANE_STORE_DIR" not in os.environ:
                self._before["store_dir"] = soft.get("store_dir")
                self._made = Path(base, "store")
                soft.set("store_dir", self._made)
            soft.set("store", "shared")

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for key, value in self._before.items():
                soft.set(key, value)
            self._before.clear()
            if self._made is not None:  # what is left are programs nobody has loaded
                shutil.rmtree(self._made, ignore_errors=True)
            self._made = None


_store = _Store()


@final
class WorkerPool:
    """Processes that compile for the trainers of this one.

    They are started with ``posix_spawn`` (never forked) in process groups of their own, so
    that Ctrl-C does not reach them, and end when this process does, however it ends.

    Args:
        workers: how many compile at once, 1 to 64, or ``"auto"``.
        timeout: seconds one compile may take before its worker is killed and another tries.
        budget: compiles of one worker before it is replaced by a fresh one; None: the engine's
            limit for a process; 0: never.
        patience: seconds to go on starting workers, with growing pauses, where none comes up and
            this process has no compile left itself; then :class:`WorkerError`.
        environment: added to the workers' environment.

    softane: its compiled programs go to a store on disk (``store=shared``) while the pool is
    open; settings of softane are handed over when the pool is made and not later.

    Raises:
        ValueError: a number out of range.
        EngineOpenError: there is no engine, or nothing to start workers with.
    """

    def __init__(
        self,
        workers: int | str = "auto",
        *,
        timeout: float = 300.0,
        budget: int | None = None,
        patience: float = 30.0,
        environment: Mapping[str, str] | None = None,
        _argv: Sequence[str] | None = None,
    ) -> None:
        self.handle = 0
        if workers == "auto":
            workers = auto_workers()
        if (
            isinstance(workers, bool)
            or not isinstance(workers, int)
            or not 1 <= workers <= MOST_WORKERS
        ):
            raise ValueError(f"workers: expected 1 to {MOST_WORKERS} or 'auto', got {workers!r}")
        if not 0 < timeout <= 86400:
            raise ValueError(f"timeout: expected more than 0 and at most 86400 s, got {timeout!r}")
        if budget is not None and (
            isinstance(budget, bool) or not isinstance(budget, int) or budget < 0
        ):
            raise ValueError(f"budget: expected 0 or more, or None, got {budget!r}")
        if not 0 <= patience <= 86400:
            raise ValueError(f"patience: expected 0 to 86400 s, got {patience!r}")
        self.engine = Engine()
        self.size = workers
        self._shares = False
        base = soft.staging_base() if self.engine.name.startswith("softane") else None
        env = {**os.environ, **self._share(base), **(environment or {})}
        argv = list(_argv) if _argv else _command(self.engine.path, base or "")
        if budget is None:
            budget = int(self.engine.info()["compile_limit"] or 0)  # type: ignore[call-overload]
        c, error, out = _native.core(), _native.new_error(), _native.core().ffi.new("AneHandle *")
        texts = [c.ffi.new("char[]", os.fsencode(text)) for text in argv]
        pairs = [c.ffi.new("char[]", os.fsencode(f"{k}={v}")) for k, v in env.items()]
        options = c.ffi.new(
            "AnePoolOptions *",
            {
                "argv": (argv_array := c.ffi.new("char *[]", [*texts, c.ffi.NULL])),
                "env": (env_array := c.ffi.new("char *[]", [*pairs, c.ffi.NULL])),
                "workers": workers,
                "tries": TRIES,
                "budget": budget,
                "deadline_ms": max(1, int(timeout * 1000)),
                "patience_ms": int(patience * 1000),
            },
        )
        try:
            _native.check(c.lib.ane_pool_create(options, out, error), error)
        except BaseException:
            self._unshare()
            raise
        finally:
            del argv_array, env_array
        self.handle = int(out[0])

    def _share(self, base: str | None) -> dict[str, str]:
        """softane: programs must be visible to the other processes; its settings for them."""
        if not self.engine.name.startswith("softane"):
            return {}
        _store.open(base)
        self._shares = True
        keys = (*_SETTINGS, "store", "store_dir", "partition", "staging")
        values = {key: soft.get(key) for key in keys}
        for line in soft.get("profile.values").splitlines():
            key, _, rest = line.partition(" = ")
            value, _, source = rest.rpartition("  # ")
            if source == "set":
                values[key] = value
        # A worker has no use for a table of its own: what the trainer purges must be gone.
        values["store_bytes"] = "0"
        return {f"SOFTANE_{key.upper()}": value for key, value in values.items() if value}

    def _unshare(self) -> None:
        if self._shares:
            self._shares = False
            _store.close()

    def stats(self) -> PoolStats:
        """Counters so far. Raises :class:`ClosedError` after :meth:`close`."""
        if not self.handle:
            raise ClosedError("the worker pool is closed")
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AnePoolStats *")
        _native.check(c.lib.ane_pool_stats(self.handle, out, error), error)
        names = [name for name in PoolStats.__dataclass_fields__ if name != "pids"]
        counts: dict[str, Any] = {name: int(getattr(out, name)) for name in names}
        return PoolStats(**counts, pids=tuple(int(p) for p in out.pids[0 : out.alive]))

    def close(self) -> None:
        """End the workers and wait for them (at most about a second). May be called twice.

        A trainer that still uses the pool compiles in this process from here on.
        """
        if not self.handle:
            return
        c, error = _native.core(), _native.new_error()
        while c.lib.ane_pool_close(self.handle, _native.SLICE_MS, error) == c.lib.ANE_AGAIN:
            pass
        self.handle = 0
        self._unshare()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "handle", 0):
            warnings.warn("a WorkerPool was not closed", ResourceWarning, stacklevel=2)
            try:
                self.close()
            except (AneError, AttributeError, TypeError, ValueError):
                pass  # the interpreter is going down

    def __repr__(self) -> str:
        if not self.handle:
            return "<WorkerPool, closed>"
        now = self.stats()
        return f"<WorkerPool of {self.size} on {self.engine.label}: {now.alive} alive, {now.compiles} compiles>"
