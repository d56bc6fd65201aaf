# SPDX-License-Identifier: MIT
"""Ctrl-C and SIGTERM at random moments of a run with compile workers, updates in the background and
powers of two: it ends in time with a checkpoint, leaves nothing behind, and resumed to its end has the
bits of a run that nobody stopped. tools/kill_campaign.py does the same for longer, with SIGKILL."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ane_native as ane
from ane_native.checkpoint import list_checkpoints

pytestmark = pytest.mark.skipif(
    not ane.Engine().software or sys.platform != "linux",
    reason="looks at /proc and softane's files",
)
ROOT = Path(__file__).parents[2]
MOMENTS = 20
UPDATES = 800
ENDS_WITHIN = 120.0  # seconds; machines are busy


def processes_of(base: Path) -> list[int]:
    """Living ones and zombies that were started for a run in this directory."""
    mark = f"INTERRUPTS_TEST={base}".encode()
    found = []
    for place in Path("/proc").iterdir():
        try:
            if place.name.isdigit() and mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:  # it has gone, or is another user's
            pass
    return found


def shared_memory(pid: int) -> list[str]:
    """What lies there in the name of a process."""
    return [
        name for name in os.listdir("/dev/shm") if str(pid) in name.replace(".", "-").split("-")
    ]


class Trained:
    """Starts the command in one directory, again and again."""

    def __init__(self, base: Path, name: str) -> None:
        self.base, self.runs = base, base / name
        text = base / "text.txt"
        if not text.exists():
            drawn = np.random.default_rng(3).integers(32, 127, 60_000)
            text.write_bytes(drawn.astype(np.uint8).tobytes())
        self.command = [sys.executable, "-m", "ane_native", "train"]
        self.fresh = ["--preset", "tiny", "--seed", "90", "--data", str(text)]
        self.fresh += ["--out", str(self.runs), "--name", "x"]
        self.settings = ["--plain", "--updates", str(UPDATES), "--valid-every", "250"]
        self.settings += ["--workers", "2", "--scaling", "auto", "--update", "background"]

    def checkpoints(self) -> list[Path]:
        """Whole ones, oldest first."""
        return list_checkpoints(self.runs / "x" / "checkpoints")

    def saved(self) -> int:
        """Updates in the newest; a process that was stopped before its first saves them again."""
        there = self.checkpoints()
        return int(there[-1].name.split("-")[1]) if there else 0

    def start(self) -> subprocess.Popen[str]:
        if self.checkpoints():
            args = ["--resume", str(self.runs / "x"), *self.settings]
        else:
            shutil.rmtree(self.runs, ignore_errors=True)
            args = [*self.fresh, *self.settings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environment |= {"INTERRUPTS_TEST": str(self.base), "SOFTANE_NUMERICS": "silicon"}
        return subprocess.Popen(
            [*self.command, *args], env=environment, cwd=self.base, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, restore_signals=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


def test_a_run_stopped_at_random_moments_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path,
) -> None:
    whole = Trained(tmp_path, "whole")
    out, _ = (process := whole.start()).communicate(timeout=ENDS_WITHIN)
    assert process.returncode == 0, out
    stopped = Trained(tmp_path, "stopped")
    draw = random.Random(17)
    saved = stops = 0
    for moment in range(MOMENTS + 1):
        process = stopped.start()
        sent, begin, head = None, "", ""
        if moment < MOMENTS:
            assert process.stdout is not None
            begin = "" if moment % 4 == 3 else "start    "  # at any time, or when it trains
            while begin and (line := process.stdout.readline()):
                head += line
                if line.startswith(begin):
                    break
            time.sleep(draw.uniform(0.0, 0.15 if begin else 1.5))
            sent = draw.choice([signal.SIGINT, signal.SIGTERM])
            process.send_signal(sent)
        assert process.stdout is not None
        out = head + process.stdout.read()
        process.wait(timeout=ENDS_WITHIN)
        if process.returncode == 0:
            break
        if sent is None:
            pytest.fail(f"not stopped, and ended with {process.returncode}: {out}")
        if stopped.saved() == UPDATES:
            break  # it was complete when the signal came
        in_time = 128 + sent
        if "start    " in out or begin:
            assert process.returncode == in_time, (process.returncode, out)
            assert stopped.checkpoints(), out
            stops += 1
        else:  # before the run could take the signal it is the interpreter's
            assert process.returncode in (in_time, -sent, 1), (process.returncode, out)
        assert "Traceback" not in out or not begin, out
        assert stopped.saved() >= saved
        saved = stopped.saved()
        until = time.monotonic() + 30
        while (left := processes_of(tmp_path)) or shared_memory(process.pid):
            assert time.monotonic() < until, (left, shared_memory(process.pid))
            time.sleep(0.02)
        assert not list(stopped.runs.rglob("*.partial"))
    else:
        pytest.fail("the run has not come to its end")
    assert stops >= MOMENTS // 4
    assert digest(stopped.checkpoints()[-1]) == digest(whole.checkpoints()[-1])
