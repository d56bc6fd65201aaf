# SPDX-License-Identifier: MIT
"""A forked child holds nothing: what its parent staged goes when the parent ends, however, and
stays while the parent lives, whatever the child does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ane_native as ane

TESTS = Path(__file__).resolve().parents[1]
software = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane") or sys.platform == "win32",
    reason="a base for all processes is softane's",
)
pytestmark = software

# A parent that loads a program, forks and says so; the child lives until it is told to end.
PARENT = """
import os, sys, threading
sys.path.insert(0, {tests!r})
import numpy as np
import ane_native as ane
from ane_native import soft
from programs import scale
soft.set("staging_evals", 0)  # an evaluation fails without the staging directory
program = ane.Program(scale(), {{"g": np.full(4, 3.0)}})
pid = os.fork()
if pid == 0:
    sys.stdin.readline()
    if sys.argv[1] == "exit":
        sys.exit(0)
    if sys.argv[1] == "close":
        try:
            program.close()
        except ane.ForkedError:
            pass
    os._exit(0)
print(pid, soft.staging_base() or "shared", flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
os.waitpid(pid, 0)
x = np.ones((1, 4, 1, 32), np.float32)
for _ in range(3):
    assert np.all(program.eval(x) == 3)
program.close()
print("good", flush=True)
"""

# Another process of the same user: its first program removes what the dead left.
OTHER = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
import ane_native as ane
from programs import scale
with ane.Program(scale(tag="other"), {{"g": np.ones(4)}}):
    pass
"""


def start(code: str, base: Path | None, *args: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "SOFTANE_STAGING"}
    environment["PYTHONPATH"] = str(TESTS.parent)
    if base is not None:
        environment["SOFTANE_STAGING"] = str(base)
    return subprocess.Popen(
        [sys.executable, "-c", code.format(tests=str(TESTS)), *args],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def programs_in(base: Path) -> list[str]:
    return [p.name for p in base.iterdir() if not p.name.startswith(".")]


@pytest.fixture(params=["shared", "own"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A base for all processes, or (None) each process's own."""
    made = tmp_path / "base"
    made.mkdir()
    return made if request.param == "shared" else None


def test_a_child_that_outlives_its_parent_keeps_nothing(base: Path | None) -> None:
    parent = start(PARENT, base, "killed")
    assert parent.stdout is not None
    child, place = parent.stdout.readline().split()
    parent.wait()
    try:
        if base is None and place == "shared":
            pytest.skip("no room in shared memory for a base of its own")
        left = base or Path(place)
        assert programs_in(left)
        other = start(OTHER, base)
        out, err = other.communicate(timeout=120)
        assert other.returncode == 0, out + err
        os.kill(int(child), 0)  # it lives
        assert not left.exists() or not list(left.iterdir())
    finally:
        os.kill(int(child), signal.SIGKILL)
        parent.communicate()


@pytest.mark.parametrize("how", ["exit", "close", "at once"])
def test_a_child_that_ends_takes_nothing_from_its_parent(how: str, base: Path | None) -> None:
    parent = start(PARENT, base, how)
    out, err = parent.communicate("\n", timeout=120)
    assert parent.returncode == 0, err
    assert out.splitlines()[-1] == "good"
    assert base is None or not list(base.iterdir())


# Forks again and again while another thread stages; the children stay.
BUSY = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np
import ane_native as ane
from programs import scale
def work():
    for i in range(60):
        with ane.Program(scale(tag="busy"), {{"g": np.full(4, i % 3)}}):
            pass
thread = threading.Thread(target=work)
ane.Engine()
thread.start()
children = []
while thread.is_alive() and len(children) < 200:
    pid = os.fork()
    if pid == 0:
        time.sleep(300)
        os._exit(0)
    children.append(pid)
    time.sleep(0.002)
thread.join()
print(len(children), flush=True)
sys.stdin.readline()
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def test_children_of_any_moment_hold_no_lock(tmp_path: Path) -> None:
    """Equal programs of another process need the locks that the busy one took and gave back."""
    base = tmp_path / "base"
    base.mkdir()
    busy = start(BUSY, base)
    assert busy.stdout is not None
    assert int(busy.stdout.readline()) > 3
    try:
        begin = time.monotonic()
        other = start(OTHER.replace('tag="other"', 'tag="busy"'), base)
        out, err = other.communicate(timeout=120)
        assert other.returncode == 0, out + err
        assert time.monotonic() - begin < 60
    finally:
        out, err = busy.communicate("\n", timeout=120)
    assert busy.returncode == 0, err


# The parent has only asked softane for a setting, so the child may open the engine.
ELDER = """
import os, sys, time
sys.path.insert(0, {tests!r})
from ane_native import soft
soft.get("staging")
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0) if sys.argv[1] == "killed" else sys.exit(0)
import numpy as np
import ane_native as ane
from programs import scale
soft.set("staging_evals", 0)
x = np.ones((1, 4, 1, 32), np.float32)
with ane.Program(scale(), {{"g": np.full(4, 3.0)}}) as program:
    sys.stdin.readline()
    assert np.all(program.eval(x) == 3)
    print(soft.staging_base(), flush=True)
"""


@pytest.mark.parametrize("how", ["killed", "exit"])
def test_a_child_that_opens_the_engine_stages_in_a_base_of_its_own(how: str) -> None:
    parent = start(ELDER, None, how)
    assert parent.stdout is not None
    parent.stdout.readline()
    parent.wait()  # its base has gone, or is there to be removed
    other = start(OTHER, None)
    assert other.wait(120) == 0
    out, err = parent.communicate("\n", timeout=120)
    assert out.strip(), err
    assert not Path(out.strip()).exists()  # removed by the child
