# SPDX-License-Identifier: MIT
"""No worker comes up: it is tried again, and said how the last one ended."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import programs
import pytest
from workers.test_workers import _nothing_left, children, kernels, run, weights  # noqa: F401

import ane_native as ane
from ane_native import soft
from ane_native.workers import _command

pytestmark = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane"), reason="softane's limits"
)


@pytest.fixture
def _spent() -> Iterator[None]:
    """This process has no compile left."""
    soft.set("compile_limit", 0)
    ane.Program(programs.conv("one"), {"w": np.ones((32, 64))}).close()
    soft.set("compile_limit", int(str(ane.Engine().info()["compiles"])))
    yield
    soft.set("compile_limit", 0)


def once(flag: Path) -> list[str]:
    """A worker that ends with status 3 before it is ready, until the file is there."""
    pool = ane.WorkerPool(1)  # for the command of this engine and staging directory
    pool.close()
    real = _command(pool.engine.path, soft.staging_base() or "")
    text = f"import os\nif not os.path.exists({str(flag)!r}): os._exit(3)\nos.execv({real[0]!r}, {real!r})"
    return [sys.executable, "-S", "-c", text]


@pytest.mark.usefixtures("_spent")
@pytest.mark.parametrize(
    ("argv", "how", "code", "said"),
    [
        (["/nowhere/python"], "spawn", errno.ENOENT, "cannot start /nowhere/python: No such file"),
        ([sys.executable, "-c", "raise SystemExit(3)"], "exit", 3, "exit status 3 before it was"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "signal", 9, "by signal 9"),
        (_command("/nowhere/engine.so", ""), "engine", -3, "cannot open the engine's library"),
    ],
)
def test_the_error_says_how_the_last_process_ended(
    argv: list[str], how: str, code: int, said: str
) -> None:
    with ane.WorkerPool(1, patience=0.3, _argv=argv) as pool:
        with pytest.raises(ane.WorkerError, match=said) as caught:
            ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool)
        stats = pool.stats()
    assert (caught.value.how, caught.value.code) == (how, code)
    assert isinstance(caught.value, ane.BudgetExhausted)
    assert "compiles" in str(caught.value)  # what this process has used
    assert stats.given_up >= 1
    assert stats.fallbacks == 0


@pytest.mark.usefixtures("_spent")
def test_a_worker_that_comes_up_late_saves_the_run(tmp_path: Path) -> None:
    flag = tmp_path / "go"
    with ane.WorkerPool(2, patience=60, _argv=once(flag)) as pool:

        def later() -> None:
            while pool.stats().given_up == 0:  # no worker came up; the trainer insists
                time.sleep(0.005)
            time.sleep(0.2)
            flag.touch()

        thread = threading.Thread(target=later)
        thread.start()
        try:
            with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
                run(trainer, 5)
        finally:
            thread.join()
        stats = pool.stats()
    assert stats.deaths >= 4
    assert stats.fallbacks == 0
    assert stats.compiles + stats.cached >= 2


def test_starting_goes_on_by_itself_with_growing_pauses(tmp_path: Path) -> None:
    flag = tmp_path / "go"
    with ane.WorkerPool(1, _argv=once(flag)) as pool:
        times: list[float] = []
        while len(times) < 5:
            if pool.stats().deaths > len(times):
                times.append(time.monotonic())
            time.sleep(0.001)
        pauses = np.diff(times)
        assert pauses[-1] > 2 * pauses[0]
        flag.touch()
        begin = time.monotonic()
        while pool.stats().idle == 0:
            assert time.monotonic() - begin < 30
            time.sleep(0.005)
        # the next start is due after twice the last pause; nothing else wakes the pool
        assert time.monotonic() - begin < 2.5 * pauses[-1] + 2


def test_a_worker_that_ends_after_its_greeting_is_not_started_in_a_rush() -> None:
    real = _command(ane.Engine().path, "")
    text = (
        "import os, socket, sys, threading, runpy\n"
        "threading.Timer(0.02, lambda: os._exit(5)).start()\n"
        f"sys.argv = {real[real.index('utf8') + 1 :]!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    with ane.WorkerPool(1, _argv=[*real[: real.index("utf8") + 1], "-c", text]) as pool:
        begin = time.monotonic()
        while pool.stats().deaths < 5:
            assert time.monotonic() - begin < 60
            time.sleep(0.01)
        # pauses of 50, 100, 200, 400 ms lie between five of them
        assert time.monotonic() - begin > 0.6


@pytest.mark.parametrize("patience", [-1, 1e9])
def test_patience_has_bounds(patience: float) -> None:
    with pytest.raises(ValueError, match="patience: expected 0 to 86400"):
        ane.WorkerPool(1, patience=patience)


@pytest.mark.skipif(sys.platform != "linux", reason="a spawn that can be stopped half way")
def test_a_process_stopped_before_it_began_holds_up_nobody() -> None:
    stopped = []

    def stopper(pool_made: threading.Event) -> None:
        before = children()
        pool_made.set()
        until = time.monotonic() + 5
        while not stopped and time.monotonic() < until:
            for pid in children() - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stopped.append(pid)

    def waker(pool: ane.WorkerPool, done: threading.Event) -> None:
        """Who was on his way goes on: a worker's deadline is another test. The pool knows him some
        time after he was stopped."""
        while not done.wait(0.01):
            for pid in set(stopped) & set(pool.stats().pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    for _ in range(3):  # some are hit before they execute the worker, some later
        stopped.clear()
        ready, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=stopper, args=(ready,))
        thread.start()
        ready.wait()
        with ane.WorkerPool(1, timeout=0.5) as pool:
            thread.join()
            waking = threading.Thread(target=waker, args=(pool, done))
            waking.start()
            begin = time.monotonic()
            try:
                with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
                    run(trainer, 2)
            finally:
                done.set()
                waking.join()
        assert time.monotonic() - begin < 60
