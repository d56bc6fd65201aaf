# SPDX-License-Identifier: MIT
"""Trains a tiny kernel set for very long in one process, and measures what may not grow.

    python tools/soak.py [--updates 100000] [--workers 2] [--budget 119] [--out soak.json]

Every update evaluates once, makes the next weights from the output, steps, and so compiles two
programs. With workers, this process never compiles: the budget of 119 is that of each worker.
Beside it a second process makes the first --compare of the same updates without workers and
without a limit: the weights of all of them must be the same bytes. At the end the last
output is compared with numpy. JSON on standard output (and in --out): restarts of this process, share
of the time spent stalled, slope of the resident memory over the last 80 % of the updates,
descriptors, threads, child processes and directories before and after. Exit status 1 when
something grew that must not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import mil, soft

SAMPLES = 400  # of the resident memory
CHANNELS, OUT, WIDTH = 32, 32, 32
SLOPE_LIMIT = 1 << 20  # bytes per hour; at least STEP_LIMIT bytes over the run are let pass
STEP_LIMIT = 1 << 20


def kernels() -> ane.KernelSet:
    """Two programs: y = w x, and y = v x."""
    made = []
    for name, weight in (("forward", "w"), ("backward", "v")):
        f = mil.Function()
        x = f.input("x", (1, CHANNELS, 1, WIDTH))
        f.output("y", f.conv(x, f.weight("weight", (OUT, CHANNELS, 1, 1), weight)))
        text = f.build()
        made.append(
            ane.Kernel(
                name, text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
            )
        )
    return ane.KernelSet(made)


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def children() -> list[int]:
    """Child processes, zombies included."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(p) for p in (task / "children").read_text().split()]
    return sorted(found)


def holdings() -> dict[str, int]:
    """What the process holds now."""
    return {
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,
        "threads": len(os.listdir("/proc/self/task")),
        "python_threads": threading.active_count(),
        "children": len(children()),
        "maps": len(Path("/proc/self/maps").read_text().splitlines()),
    }


def slope(samples: list[tuple[float, int]]) -> tuple[float, int]:
    """(bytes per hour by least squares, bytes from the first to the last quarter's median)."""
    t = np.array([a for a, _ in samples])
    y = np.array([b for _, b in samples], dtype=np.float64)
    t = t - t.mean()
    per_second = float((t * (y - y.mean())).sum() / (t * t).sum())
    quarter = max(1, len(y) // 4)
    return per_second * 3600, int(np.median(y[-quarter:]) - np.median(y[:quarter]))


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """Run; returns what was measured."""
    engine = ane.Engine()
    started = os.getpid()
    soft.set("compile_limit", args.budget)
    rng = np.random.default_rng(0)
    masters = [
        {n: rng.standard_normal((OUT, CHANNELS)).astype(np.float32) for n in ("w", "v")}
        for _ in range(4)
    ]
    start = {name: w.copy() for name, w in masters[0].items()}
    x = rng.standard_normal((1, CHANNELS, 1, WIDTH)).astype(np.float16)
    weights = hashlib.blake2b()  # of all updates, in their order
    before = holdings()
    base = soft.staging_base()
    samples: list[tuple[float, int]] = []
    stalls = np.zeros(args.updates, dtype=np.float32)
    shown = stats = None
    warm: dict[str, int] = {}
    with ane.DoubleBufferedTrainer(
        kernels(), masters[0], staleness=args.staleness, workers=args.workers
    ) as trainer:
        trainer.surface("forward", "i00_x").write(x)
        output = trainer.surface("forward", "o00_y")
        chain = ["forward"]
        begin = time.monotonic()
        for update in range(args.updates):
            trainer.run(chain)
            new = masters[(update + 1) % len(masters)]
            mean = output.read().mean(dtype=np.float32)  # of the generation that is active
            for name, w in new.items():  # never the same twice: each program is a new one
                np.add(start[name], rng.standard_normal((OUT, 1), dtype=np.float32), out=w)
                w += np.float32(0.01) * mean
                if update < args.compare:
                    weights.update(w)
            stats = trainer.step(new)
            stalls[update] = stats.compile_stall_ms
            if update % max(1, args.updates // SAMPLES) == 0:
                samples.append((time.monotonic() - begin, resident()))
                if update >= args.updates // 5 and not warm:
                    warm = holdings()
                if args.progress and time.monotonic() - (shown or begin) > 10:
                    shown = time.monotonic()
                    print(f"{update} updates, {update / (shown - begin):.0f}/s", file=sys.stderr)
        wall = time.monotonic() - begin
        after = holdings()
        trainer.run(chain)
        got = trainer.surface("forward", "o00_y").read().reshape(OUT, WIDTH)
        w = trainer.active_weights["w"].astype(np.float16).astype(np.float32)
        error = float(np.abs(got - w @ x.astype(np.float32).reshape(CHANNELS, WIDTH)).max())
        entries = len(os.listdir(base)) if base else 0
    assert stats is not None
    closed = holdings()
    kept = samples[len(samples) // 5 :]
    trajectory = weights.hexdigest()[:32]
    per_hour, growth = slope(kept)
    return {
        "engine": engine.label,
        "updates": args.updates,
        "programs_compiled": int(stats.workers.compiles) if stats.workers else stats.compiles_used,
        "budget": args.budget,
        "restarts": int(os.getpid() != started),
        "compiles_in_this_process": stats.compiles_used,
        "workers": stats.workers.as_dict() if stats.workers else None,
        "seconds": round(wall, 2),
        "updates_per_second": round(args.updates / wall, 1),
        "stall_share": round(float(stalls.sum(dtype=np.float64)) / 1e3 / wall, 4),
        "stall_p50_ms": round(float(np.percentile(stalls, 50)), 4),
        "stall_p99_ms": round(float(np.percentile(stalls, 99)), 4),
        "rss_bytes_first_last": [kept[0][1], kept[-1][1]],
        "rss_slope_bytes_per_hour": round(per_hour),
        "rss_growth_bytes_last_80_percent": growth,
        "staging_entries_at_the_end": entries,
        "holdings": {
            "before": before,
            "at_20_percent": warm,
            "at_the_end": after,
            "closed": closed,
        },
        "max_abs_error_of_the_last_output": error,
        "updates_compared": min(args.compare, args.updates),
        "weights_of_the_compared": trajectory,
    }


def grown(result: dict[str, Any]) -> list[str]:
    """What must not have grown and has."""
    held = result["holdings"]
    bad = []
    for name in ("descriptors", "threads"):
        # a worker's successor, started ahead of time, has a descriptor while both live
        most = held["at_20_percent"][name] + (result["workers"] is not None) * 4
        if held["at_the_end"][name] > most:
            bad.append(name)
    if held["closed"]["children"] > held["before"]["children"]:
        bad.append("processes")
    if held["closed"]["descriptors"] > held["before"]["descriptors"] + 2:
        bad.append("descriptors after close")
    if result["rss_growth_bytes_last_80_percent"] > STEP_LIMIT and (
        result["rss_slope_bytes_per_hour"] > SLOPE_LIMIT
    ):
        bad.append("resident memory")
    if (
        result.get("weights_of_the_unlimited_run", result["weights_of_the_compared"])
        != (result["weights_of_the_compared"])
    ):
        bad.append("the weights differ from the unlimited run's")
    if result["restarts"] or result["max_abs_error_of_the_last_output"] > 0.5:
        bad.append("the run")
    return bad


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--updates", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2, help="0: this process compiles")
    parser.add_argument("--budget", type=int, default=119, help="compiles per process; 0: no limit")
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--compare", type=int, default=10_000, help="updates that an unlimited run repeats [10000]"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--progress", action="store_true", help="a line every ten seconds")
    args = parser.parse_args()
    if args.updates < 100:
        parser.error("--updates: expected 100 or more")
    beside = None
    compared = min(args.compare, args.updates)
    if compared >= 100 and not args.alone:
        flags = ["--updates", str(compared), "--compare", str(compared)]
        flags += ["--staleness", str(args.staleness)]
        beside = subprocess.Popen(
            [sys.executable, __file__, *flags, "--workers", "0", "--budget", "0", "--alone"],
            stdout=subprocess.PIPE,
            text=True,
        )
    result = soak(args)
    if beside is not None:
        said = beside.communicate()[0]
        result["weights_of_the_unlimited_run"] = json.loads(said)["weights_of_the_compared"]
    result["grown"] = grown(result)
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 1 if result["grown"] else 0


if __name__ == "__main__":
    sys.exit(main())
