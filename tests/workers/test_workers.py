# SPDX-License-Identifier: MIT
"""Compile workers: whatever happens to them, the run goes on with the same numbers."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import programs
import pytest

import ane_native as ane
from ane_native import soft

ROOT = Path(__file__).resolve().parents[2]
UPDATES = 300

pytestmark = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane"), reason="softane's limits and failpoints"
)


serial = 0  # of the test: what another one left in the engine's cache must not be found


def kernels() -> ane.KernelSet:
    conv = programs.conv("a", 16, 8, 32, "w")
    text = conv.mil.replace("padt", f"padt_workers{serial}")
    named = ane.Kernel(
        "a",
        text,
        inputs={"i00_x": (1, 16, 1, 32)},
        outputs={"o00_y": (1, 8, 1, 32)},
        weights={"@model_path/weights/w.bin": "w"},
    )
    return ane.KernelSet([named, programs.scale("b", 4, 32, "g", tag=f"_workers{serial}")])


def weights(version: int) -> dict[str, np.ndarray]:
    """Version n is known by its values."""
    w = np.full((8, 16), (version % 512) / 256, dtype=np.float32)
    return {"w": w, "g": np.full(4, (version % 512) / 256, dtype=np.float32)}


X = np.ones((1, 16, 1, 32), dtype=np.float32)


def run(trainer: ane.DoubleBufferedTrainer, updates: int, first: int = 1) -> None:
    """Steps; every output must be that of exactly the generation that is active."""
    for version in range(first, first + updates):
        y = trainer.eval("a", X)
        assert np.all(y == 16 * (trainer.generation % 512) / 256), (version, y.ravel()[:3])
        trainer.step(weights(version))


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(p) for p in (task / "children").read_text().split()}
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def links() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass  # of the listing itself
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(pids: list[int], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while any(alive(p) for p in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No process, descriptor or file of a program outlives a pool."""
    global serial
    serial += 1
    soft.set("compile_limit", 0)  # the first program opens what is kept for the process's life
    ane.Program(programs.conv("one"), {"w": np.ones((32, 64))}).close()
    soft.set("compile_limit", 12)
    ane.Engine().info()
    with ane.WorkerPool(1):  # what is loaded once is loaded now
        pass
    before, held, was = children(), descriptors(), links()
    yield
    assert children() == before
    until = time.monotonic() + 5  # the last reference goes on the compile queue
    while descriptors() != held and time.monotonic() < until:
        time.sleep(0.01)
    assert descriptors() == held, sorted(set(links()) - set(was))
    base = soft.staging_base()
    assert base is not None
    assert [name for name in os.listdir(base) if not name.startswith(".")] == []
    for folder in Path(base).glob(".ane_native-*"):  # no lease but the owner's own file
        assert all(name.startswith("owner.") for name in os.listdir(folder))
    assert soft.get("store") == "process"


def test_a_budget_of_12_lasts_for_hundreds_of_updates() -> None:
    compiles = ane.Engine().info()["compiles"]
    with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=2) as trainer:
        run(trainer, UPDATES)
        stats = trainer.stats
        assert stats is not None
        assert stats.workers is not None
        assert stats.programs_by_workers == 2
        assert stats.programs_compiled == 0
        assert stats.budget_left == 12 - stats.compiles_used or stats.compiles_used > 12
    assert ane.Engine().info()["compiles"] == compiles
    assert stats.workers.compiles + stats.workers.cached >= 2 * UPDATES
    assert stats.workers.replaced >= stats.workers.compiles // 12 - 2
    assert stats.workers.deaths == stats.workers.hangs == stats.workers.fallbacks == 0


def test_the_numbers_are_those_of_a_run_without_workers() -> None:
    seen = []
    for workers in (0, 2):
        soft.set("compile_limit", 0)
        rng = np.random.default_rng(1)
        w = {"w": rng.standard_normal((8, 16), dtype=np.float32), "g": np.ones(4, np.float32)}
        with ane.DoubleBufferedTrainer(kernels(), w, workers=workers) as trainer:
            outputs = []
            for _ in range(20):
                y = trainer.eval("a", X)
                outputs.append(y.tobytes())
                w = {"w": w["w"] - np.float32(0.01) * y.mean(), "g": w["g"]}
                trainer.step(w)
        seen.append(outputs)
    assert seen[0] == seen[1]


def test_workers_killed_at_random_moments_cost_retries_only() -> None:
    chance = random.Random(7)
    soft.set("compile_limit", 0)
    with (
        ane.WorkerPool(2, budget=12) as pool,
        ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer,
    ):
        stop = threading.Event()

        def killer() -> None:
            done = 0
            while not stop.wait(chance.uniform(0.0, 0.05)):
                now = pool.stats()
                if now.compiles > done and now.pids:  # else nobody would ever get to work
                    done = now.compiles + chance.randrange(12)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(chance.choice(now.pids), signal.SIGKILL)

        thread = threading.Thread(target=killer)
        thread.start()
        try:
            first = 1
            while pool.stats().deaths < 10:
                run(trainer, 10, first)
                first += 10
        finally:
            stop.set()
            thread.join()
        assert pool.stats().deaths >= 10
        assert pool.stats().compiles > 10


def test_a_worker_that_hangs_is_killed_and_the_program_made_elsewhere() -> None:
    with (
        ane.WorkerPool(
            2, timeout=0.3, environment={"SOFTANE_FAILPOINTS": "facade.compile=3*off->hold"}
        ) as pool,
        ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer,
    ):
        run(trainer, 6)
        stats = pool.stats()
    assert stats.hangs >= 1
    assert stats.retries >= 1


def test_where_every_worker_hangs_the_trainer_compiles_itself() -> None:
    soft.set("compile_limit", 0)
    with ane.WorkerPool(
        1, timeout=0.2, environment={"SOFTANE_FAILPOINTS": "facade.compile=hold"}
    ) as pool:
        with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
            assert trainer.stats is not None
            assert trainer.stats.programs_compiled == 2
        stats = pool.stats()
    assert stats.fallbacks == 2
    assert stats.given_up == 2


def test_without_a_budget_of_its_own_the_trainer_says_so() -> None:
    soft.set("compile_limit", 0)
    ane.Program(
        programs.conv("one"), {"w": np.ones((32, 64))}
    ).close()  # a limit of 0 would be none
    used = int(str(ane.Engine().info()["compiles"]))
    hang = {"SOFTANE_FAILPOINTS": "facade.compile=hold"}
    with ane.WorkerPool(1, timeout=0.2, environment=hang) as pool:
        soft.set("compile_limit", used)
        with pytest.raises(ane.BudgetExhausted):
            ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool)


NONSENSE = """
import os, socket, sys
s = socket.socket(fileno=3)
s.sendall(os.urandom(1 << 16))
s.recv(1)
"""
SILENT_EXIT = "raise SystemExit(3)"


@pytest.mark.parametrize("script", [NONSENSE, SILENT_EXIT])
def test_processes_that_are_no_workers_are_given_up(script: str) -> None:
    soft.set("compile_limit", 0)
    with ane.WorkerPool(2, _argv=[sys.executable, "-c", script]) as pool:
        with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
            run(trainer, 3)
        stats = pool.stats()
    assert stats.compiles == 0
    assert stats.fallbacks >= 2
    assert stats.bad_answers + stats.deaths >= 2


def test_an_executable_that_is_not_there_is_given_up() -> None:
    soft.set("compile_limit", 0)
    with ane.WorkerPool(1, _argv=["/nowhere/python"]) as pool:
        with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
            assert trainer.stats is not None
            assert trainer.stats.programs_compiled == 2


def test_a_program_that_is_not_there_after_all_is_made_again() -> None:
    with (
        ane.WorkerPool(1, environment={"SOFTANE_FAILPOINTS": "shared.put=1*return"}) as pool,
        ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer,
    ):
        run(trainer, 3)
        assert pool.stats().retries >= 1


def test_a_program_that_does_not_load_is_made_again() -> None:
    with ane.WorkerPool(1) as pool:
        soft.set("failpoints", "facade.load=1*return")
        with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
            assert pool.stats().retries == 1
            run(trainer, 3)


def test_a_program_that_fails_its_canary_is_made_again() -> None:
    with ane.WorkerPool(1) as pool:
        soft.set("failpoints", "run.nan=1*return")
        with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
            soft.set("failpoints", None)
            assert pool.stats().retries == 1
            run(trainer, 3)


def test_an_error_of_the_compiler_arrives_typed_and_once() -> None:
    bad = programs.conv("bad", 16, 8, 32, "w")
    broken = ane.Kernel(
        "bad",
        bad.mil.replace("conv(x=", "no_such_op(x="),
        inputs={"i00_x": (1, 16, 1, 32)},
        outputs={"o00_y": (1, 8, 1, 32)},
        weights={"@model_path/weights/w.bin": "w"},
    )
    with (
        ane.WorkerPool(2) as pool,
        pytest.raises(ane.CompileError) as caught,
    ):
        ane.DoubleBufferedTrainer(ane.KernelSet([broken]), weights(0), workers=pool)
    assert caught.value.kernel == "bad"
    assert caught.value.domain
    assert caught.value.code
    assert caught.value.line is not None


def test_closing_beside_a_compile_is_prompt_and_one_pool_serves_two_trainers() -> None:
    with ane.WorkerPool(
        2, environment={"SOFTANE_FAILPOINTS": "facade.compile=8*off->delay(60000)"}
    ) as pool:
        one = ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool)
        two = ane.DoubleBufferedTrainer(kernels(), weights(1), workers=pool)
        for version in range(2, 9):
            if pool.stats().compiles >= 10:
                break
            one.step(weights(version * 2)) if version < 4 else None
        begin = time.monotonic()
        one.close()
        two.close()
        assert time.monotonic() - begin < 30
        for closed in (one, two):
            with pytest.raises(ane.ClosedError):
                closed.step(weights(5))


def test_a_closed_pool_leaves_its_trainer_working() -> None:
    soft.set("compile_limit", 0)
    pool = ane.WorkerPool(1)
    with ane.DoubleBufferedTrainer(kernels(), weights(0), workers=pool) as trainer:
        run(trainer, 3)
        pool.close()
        pool.close()
        with pytest.raises(ane.ClosedError):
            pool.stats()
    assert "closed" in repr(pool)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, "workers: expected 1 to 64"),
        ({"workers": 65}, "workers: expected 1 to 64"),
        ({"workers": True}, "workers: expected 1 to 64"),
        ({"workers": 1, "timeout": 0}, "timeout: expected more than 0"),
        ({"workers": 1, "budget": -1}, "budget: expected 0 or more"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ane.WorkerPool(**arguments)  # type: ignore[arg-type]


# ------------------------------ ends of the trainer ------------------------------

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import signal
import ane_native as ane
from ane_native import soft
from workers import test_workers as t
ane.Engine()
soft.set("compile_limit", 12)
with ane.DoubleBufferedTrainer(t.kernels(), t.weights(0), workers=2) as trainer:
    print(soft.staging_base(), *trainer.workers.stats().pids, flush=True)
    version = 1
    while True:
        t.run(trainer, 1, version)
        version += 1
"""


def start() -> tuple[subprocess.Popen[str], Path, list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(tests=str(ROOT / "tests"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    base, *pids = process.stdout.readline().split()
    time.sleep(0.3)
    found = []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return process, Path(base), [*map(int, pids), *found]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_trainer_ends_nothing_is_left(number: int) -> None:
    process, base, pids = start()
    try:
        assert base.is_dir()
        assert pids
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does it
        else:
            process.send_signal(number)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert gone(pids), pids
    until = time.monotonic() + 20
    while base.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not base.exists()


def test_workers_do_not_hear_the_terminal() -> None:
    with ane.WorkerPool(2) as pool:
        while pool.stats().idle < 2:
            time.sleep(0.01)
        for pid in pool.stats().pids:
            assert os.getpgid(pid) == pid != os.getpgrp()
            os.kill(pid, signal.SIGINT)
        time.sleep(0.1)
        assert pool.stats().deaths == 0
        assert pool.stats().idle == 2
