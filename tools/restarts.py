# SPDX-License-Identifier: MIT
"""Train through many restarts and compare the weights with those of a run that had none.

python tools/restarts.py [--restarts 1000] [--budget 36] [--staleness 1]

Both runs are `ane-native train` on the tiny model and the text of README.md; one has no limit
of compiles, the other so small a budget that it must execute itself again every few updates.
Prints the seconds per restart and exits with 1 when the final checkpoints are not the same
bytes, or a restart is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def train(folder: Path, name: str, *flags: str) -> float:
    """Run the command to its end; seconds it took."""
    command = [sys.executable, "-m", "ane_native", "train", "--preset", "tiny", "--plain"]
    data = ["--data", str(ROOT / "README.md"), "--valid-every", "0", "--trace-events", "0"]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, *data, "--out", str(folder), "--name", name, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return time.monotonic() - begin


def records(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of each file of the last checkpoint."""
    last = max((run / "checkpoints").iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.iterdir())}


def updates_per_restart(folder: Path, limited: list[str]) -> int:
    """Updates between two restarts with this budget, seen in a short run."""
    train(folder, "short", "--updates", "16", *limited)
    at = [r["update"] for r in records(folder / "short") if r.get("restarts")]
    if len(at) < 3:
        raise SystemExit(f"only {len(at)} restarts in 16 updates: the budget is too large")
    return int(at[2] - at[1])


def percentile(values: list[float], share: float) -> float:
    """A value that occurred."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--restarts", type=int, default=100)
    parser.add_argument("--budget", type=int, default=36, help="compiles of one process [36]")
    parser.add_argument("--staleness", default="1")
    args = parser.parse_args()
    limited = ["--compile-limit", str(args.budget), "--staleness", args.staleness]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        updates = args.restarts * updates_per_restart(folder, limited) + 8
        flags = ["--updates", str(updates)]
        free = train(folder, "free", *flags, "--staleness", args.staleness)
        whole = train(folder, "limited", *flags, *limited)
        seen = records(folder / "limited")
        lives = [float(r["restart_ms"]) for r in seen if r.get("restarts")]
        same = digests(folder / "limited") == digests(folder / "free")
        losses = [
            [r["loss"] for r in records(folder / name) if r["kind"] == "update"]
            for name in ("free", "limited")
        ]
        engine = next(r["engine"] for r in seen if r.get("engine"))
        print(f"engine       {engine}")
        print(f"updates      {updates}, budget {args.budget} compiles per process")
        print(f"restarts     {len(lives)}")
        print(
            f"per restart  p50 {percentile(lives, 0.5) / 1e3:.3f} s, p99 "
            f"{percentile(lives, 0.99) / 1e3:.3f} s: from the end of a process to the next update"
        )
        print(f"wall time    {whole:.1f} s, {free:.1f} s without a limit")
        print(f"losses       {'equal' if losses[0] == losses[1] else 'DIFFERENT'}")
        print(f"checkpoints  {'equal, byte for byte' if same else 'DIFFERENT'}")
        return 0 if same and losses[0] == losses[1] and len(lives) >= args.restarts else 1


if __name__ == "__main__":
    sys.exit(main())
