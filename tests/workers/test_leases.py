# SPDX-License-Identifier: MIT
"""Several processes stage in one base, with equal programs: none harms another, the dead leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workers.test_workers import alive, gone

import ane_native as ane

TESTS = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane"), reason="a base for all processes is softane's"
)

# Trains with weights known by their version until it is told to end, or for so many updates.
# staging_evals=1: an evaluation fails once the staging directory was gone for the one before.
TRAINER = """
import select, sys
sys.path.insert(0, {tests!r})
import ane_native as ane
from ane_native import soft
from workers import test_workers as t
ane.Engine()
soft.set("compile_limit", 0)
soft.set("staging_evals", 1)
assert soft.staging_base() is None
workers, updates = int(sys.argv[1]), int(sys.argv[2])
with ane.DoubleBufferedTrainer(t.kernels(), t.weights(0), workers=workers) as trainer:
    print("ready", *(trainer.workers.stats().pids if workers else ()), flush=True)
    version = 1
    if updates < 0:  # holds its programs and does nothing
        sys.stdin.readline()
    while version <= updates or not updates and not select.select([sys.stdin], [], [], 0)[0]:
        t.run(trainer, 1, version)
        version += 1
print("done", version - 1, flush=True)
"""


class Trainer:
    """A trainer in a process of its own."""

    def __init__(self, base: Path, workers: int, updates: int = 0) -> None:
        settings = {
            "SOFTANE_STAGING": str(base),
            "SOFTANE_STORE_DIR": str(base.parent / "store"),
            "PYTHONPATH": str(TESTS.parent),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAINER.format(tests=str(TESTS)), str(workers), str(updates)],
            env={**os.environ, **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pids: list[int] = []

    def ready(self) -> Trainer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        if line[:1] != ["ready"]:
            raise AssertionError(self.process.communicate()[1])
        self.pids = [int(pid) for pid in line[1:]]
        return self

    def end(self) -> int:
        """Updates it made; it must end well."""
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        out = self.process.stdout.read()  # what readline() has read already is among it
        _, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        assert "deleted while" not in err
        return int(out.split()[-1])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = tmp_path / "base"
    made.mkdir()
    return made


@contextlib.contextmanager
def trainers(*several: Trainer) -> Iterator[None]:
    try:
        yield
    finally:
        for one in several:
            one.process.kill()
            one.process.communicate()


def programs_in(base: Path) -> list[str]:
    return [name for name in os.listdir(base) if not name.startswith(".")]


def empty(base: Path, seconds: float = 20.0) -> bool:
    """Nothing is left in a base, hidden or not."""
    until = time.monotonic() + seconds
    while os.listdir(base):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("workers", [0, 1])
def test_two_trainers_with_equal_weights_do_not_harm_each_other(base: Path, workers: int) -> None:
    one, two = Trainer(base, workers, 60), Trainer(base, workers, 60)
    with trainers(one, two):
        one.ready()
        two.ready()
        assert one.end() == two.end() == 60
    assert empty(base), os.listdir(base)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_living_keep_what_the_killed_shared_with_them(base: Path, workers: int) -> None:
    killed, other = Trainer(base, workers), Trainer(base, workers)
    with trainers(killed, other):
        killed.ready()
        other.ready()
        time.sleep(0.2)
        killed.process.kill()
        killed.process.wait()
        assert gone(killed.pids)
        third = Trainer(base, workers, 10).ready()  # its first program reaps the dead
        with trainers(third):
            third.end()
        assert programs_in(base)  # of the living
        assert other.end() > 0
    assert empty(base), os.listdir(base)


def test_workers_of_a_killed_trainer_remove_what_it_held(base: Path) -> None:
    killed = Trainer(base, 2)
    with trainers(killed):
        killed.ready()
        time.sleep(0.3)
        assert programs_in(base)
        killed.process.kill()
        killed.process.wait()
        assert gone(killed.pids)
    assert empty(base), os.listdir(base)


def test_a_stopped_trainer_is_alive(base: Path) -> None:
    stopped = Trainer(base, 0, -1)
    with trainers(stopped):
        stopped.ready()
        os.kill(stopped.process.pid, signal.SIGSTOP)
        assert alive(stopped.process.pid)
        try:
            held = set(programs_in(base))
            assert held
            other = Trainer(base, 0, 5).ready()
            with trainers(other):
                other.end()
            assert held <= set(programs_in(base))
        finally:
            os.kill(stopped.process.pid, signal.SIGCONT)
        assert stopped.end() == 0
    assert empty(base), os.listdir(base)


HOLDER = """
import os, sys
import ane_native as ane
from ane_native import soft
ane.Engine()
print(soft.staging_base(), flush=True)
sys.stdin.readline()
"""


def holder() -> tuple[subprocess.Popen[str], Path]:
    """A process with a base of its own, and no workers."""
    environment = {k: v for k, v in os.environ.items() if k != "SOFTANE_STAGING"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**environment, "PYTHONPATH": str(TESTS.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_base_lives_as_long_as_its_process_whatever_its_number(tmp_path: Path) -> None:
    stopped, kept = holder()
    killed, left = holder()
    # as if a living process had the number of a dead one
    reused = kept.with_name(f"ane_native-{os.getuid()}-{os.getpid()}.{os.getpid()}")
    try:
        os.kill(stopped.pid, signal.SIGSTOP)
        killed.kill()
        killed.wait()
        assert left.is_dir()
        reused.mkdir()
        (reused / ".alive").touch()
        other, base = holder()  # removes what is left of the dead
        other.communicate("\n")
        assert not base.exists()
        assert not left.exists()
        assert not reused.exists()
        assert kept.is_dir()
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.communicate("\n")
        if reused.exists():
            reused.rmdir()
    assert not kept.exists()
