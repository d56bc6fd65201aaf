# SPDX-License-Identifier: MIT
"""Kills trainers and their compile workers at random moments, and looks at what is left.

    python tools/kill_campaign.py [--kills 200] [--workers 2] [--seed 1] [--out kills.json]

Trainings of the tiny model run one after the other, in processes that compile with workers.
At random moments a worker is killed or stopped (SIGKILL, SIGSTOP), or the trainer (SIGKILL,
SIGTERM, SIGINT). After each kill of a trainer: no process, zombie, shared memory or staging
directory is left, the newest checkpoint verifies, and the run is resumed. When a run is
complete, its last checkpoint must have the bytes of the one of a run that nobody disturbed.
Between kills of workers: the trainer has no zombie and no more descriptors than at its start.
Figures as JSON; exit status 1 with a finding.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ane_native.checkpoint import list_checkpoints, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
GONE_S = 20.0  # until everything of a killed trainer has to be gone
SPARE_DESCRIPTORS = 6  # successors of workers, segments in flight, a checkpoint being written
WORKER_TIMEOUT = 1.0  # a stopped worker is replaced after so many seconds
STUCK_S = 240.0  # a run that makes no end
ACTIONS = (
    *(("worker", signal.SIGKILL),) * 5,
    *(("worker", signal.SIGSTOP),) * 2,
    *(("trainer", signal.SIGKILL), ("trainer", signal.SIGTERM), ("trainer", signal.SIGINT)),
)
#: The command, with a short deadline for workers, which the command line does not offer.
START = f"""
import sys
from ane_native import workers
workers.WorkerPool.__init__.__kwdefaults__["timeout"] = {WORKER_TIMEOUT}
from ane_native.cli import main
sys.exit(main(sys.argv[1:]))
"""


def state_of(pid: int) -> str:
    """Letter of the process state, "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    """Child processes, zombies included."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(p) for p in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def descriptors(pid: int) -> int:
    """Open descriptors; 0 when the process is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def shared(pid: int) -> list[str]:
    """Names in shared memory that a trainer made: its staging base."""
    mine = f"ane_native-{os.getuid()}-{pid}"
    return [n for n in os.listdir("/dev/shm") if n == mine or n.startswith(f"{mine}.")]


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of each file of the last checkpoint."""
    last = list_checkpoints(run / "checkpoints")[-1]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.iterdir())}


class Campaign:
    """Runs, kills, findings."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args
        self.random = random.Random(args.seed)
        self.kills: Counter[str] = Counter()
        self.findings: list[str] = []
        self.trainers = self.runs = self.equal = self.loads = 0
        self.seconds_until_gone: list[float] = []
        self.held = self.most_descriptors = 0
        self.data, self.log = folder / "data.txt", folder / "stderr.txt"
        shutil.copy(ROOT / "README.md", self.data)

    def finding(self, text: str) -> None:
        """Something that must not be."""
        self.findings.append(f"after {sum(self.kills.values())} kills: {text}")
        print(f"FINDING {self.findings[-1]}", file=sys.stderr, flush=True)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """A trainer that begins this run, or goes on with it."""
        run = self.folder / name
        if list_checkpoints(run / "checkpoints"):
            flags = ["--resume", str(run)]
        else:  # killed before its first checkpoint: once more from the start
            shutil.rmtree(run, ignore_errors=True)
            flags = ["--preset", "tiny", "--data", str(self.data), "--valid-every", "0"]
            flags += ["--trace-events", "0", "--workers", str(self.args.workers)]
            flags += ["--updates", str(self.args.updates), "--save-every", "10"]
            flags += ["--out", str(self.folder), "--name", name]
        self.trainers += 1
        with self.log.open("w") as log:  # not a pipe: its end would wait for the workers
            return subprocess.Popen(
                [sys.executable, "-c", START, "train", "--plain", *flags],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def undisturbed(self) -> dict[str, str]:
        """Files of the last checkpoint of a run that nobody kills; its descriptors are the bound."""
        process = self.start("undisturbed")
        pids: set[int] = set()
        while process.poll() is None:
            self.held = max(self.held, descriptors(process.pid))
            pids |= set(children(process.pid))
            time.sleep(0.01)
        if process.returncode:
            said = self.log.read_text()
            raise SystemExit(f"the undisturbed run ended with {process.returncode}:\n{said}")
        self.left(process.pid, pids, "the undisturbed run")
        return digests(self.folder / "undisturbed")

    def look_at(self, pid: int) -> None:
        """Zombies and descriptors of a running trainer."""
        dead = [p for p in children(pid) if state_of(p) == "Z"]
        until = time.monotonic() + 5
        while dead and time.monotonic() < until and state_of(pid) not in ("", "Z"):
            time.sleep(0.02)
            dead = [p for p in dead if state_of(p) == "Z"]
        if dead and state_of(pid) not in ("", "Z"):
            self.finding(f"zombies of a running trainer: {dead}")
        now = descriptors(pid)
        self.most_descriptors = max(self.most_descriptors, now)
        if now > self.held + SPARE_DESCRIPTORS:
            self.finding(f"{now} descriptors, at most {self.held} in a run without kills")

    def left(self, trainer: int, pids: set[int], how: str) -> None:
        """Everything of a trainer that has ended goes, soon."""
        begin = time.monotonic()
        here: list[int] = []
        names: list[str] = []
        while time.monotonic() - begin < GONE_S:
            here = [p for p in pids if state_of(p) not in ("", "Z")]
            names = shared(trainer)
            if not here and not names:
                self.seconds_until_gone.append(time.monotonic() - begin)
                return
            time.sleep(0.005)
        self.finding(f"{how}: left are processes {here}, shared memory {names}")

    def verify(self, run: Path) -> None:
        """The newest checkpoint, if there is one, is whole."""
        if list_checkpoints(run / "checkpoints"):
            try:
                load_checkpoint(run)
                self.loads += 1
            except Exception as error:  # every kind of it is a finding
                self.finding(f"the checkpoint does not load: {error}")

    def life(self, name: str) -> bool:
        """One trainer, until it ends or is killed. True when the run is complete."""
        process = self.start(name)
        pids: set[int] = set()
        how = "a normal end"
        begin = time.monotonic()
        while process.poll() is None:
            time.sleep(self.random.uniform(0.02, 0.5))
            workers = children(process.pid)
            pids |= set(workers)
            if time.monotonic() - begin > STUCK_S:
                self.finding("a trainer does not end")
                process.kill()
                break
            if sum(self.kills.values()) >= self.args.kills or not workers:
                continue
            who, number = self.random.choice(ACTIONS)
            victim = process.pid if who == "trainer" else self.random.choice(workers)
            try:
                os.kill(victim, number)
            except ProcessLookupError:
                continue
            self.kills[f"{who} {signal.Signals(number).name}"] += 1
            if who == "trainer":
                how = f"the trainer's {signal.Signals(number).name}"
                pids |= set(children(process.pid))
                break
            self.look_at(process.pid)
        try:
            process.wait(timeout=STUCK_S)
        except subprocess.TimeoutExpired:
            self.finding(f"{how}: the trainer does not end")
            process.kill()
            process.wait()
        wanted = {"a normal end": 0, "the trainer's SIGKILL": -signal.SIGKILL}
        codes = {wanted.get(how, 0), 0, 130, 143} if "trainer" in how else {0}
        if how == "the trainer's SIGTERM" and process.returncode == -signal.SIGTERM:
            codes.add(process.returncode)  # before the handler was there
        if how == "the trainer's SIGINT" and process.returncode in (1, -signal.SIGINT):
            codes.add(process.returncode)  # the same: Python's own
        if process.returncode not in codes:
            self.finding(f"{how}: exit status {process.returncode}: {self.log.read_text()[-2000:]}")
        self.left(process.pid, pids, how)
        self.verify(self.folder / name)
        done = list_checkpoints(self.folder / name / "checkpoints")
        return bool(done) and done[-1].name == f"step-{self.args.updates:06d}"

    def campaign(self) -> dict[str, Any]:
        """Run all of it."""
        begin = time.monotonic()
        expected = self.undisturbed()
        while sum(self.kills.values()) < self.args.kills:
            name = f"run-{self.runs}"
            while not self.life(name):
                pass
            self.runs += 1
            if digests(self.folder / name) == expected:
                self.equal += 1
            else:
                self.finding(f"{name}: the last checkpoint differs from the undisturbed one's")
            shutil.rmtree(self.folder / name)
            print(
                f"{sum(self.kills.values())} kills, {self.runs} runs", file=sys.stderr, flush=True
            )
        gone = sorted(self.seconds_until_gone)
        return {
            "kills": sum(self.kills.values()),
            "by_kind": dict(sorted(self.kills.items())),
            "runs_completed": self.runs,
            "runs_equal_to_the_undisturbed": self.equal,
            "trainers_started": self.trainers,
            "checkpoints_verified_after_an_end": self.loads,
            "seconds_until_all_was_gone_p50": round(gone[len(gone) // 2], 3),
            "seconds_until_all_was_gone_most": round(gone[-1], 3),
            "most_descriptors": self.most_descriptors,
            "most_descriptors_without_kills": self.held,
            "seconds": round(time.monotonic() - begin, 1),
            "findings": self.findings,
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--updates", type=int, default=80, help="of one run [80]")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.kills < 1 or args.updates < 10 or args.updates % 10:
        parser.error("expected 1 kill or more, and a multiple of 10 updates")
    with tempfile.TemporaryDirectory() as made:
        result = Campaign(Path(made), args).campaign()
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
