# SPDX-License-Identifier: MIT
"""The map: stall and staleness by accumulation, bound, packing and workers, for every chip with a profile.

    python benchmarks/map.py                   # all rows (a minute): docs/MAP.md, docs/map.png
    python benchmarks/map.py --check --jobs 6  # some in real time first, on a machine without other work:
                                               # benchmarks/map.json

The scheduler is the real one (``_core_sched.c``, on the null engine of its tests, whose gates hold
a compile until it is let through) and the clock is not: micro-steps, compiles and loads take
what the chip's profile says, without anybody sleeping, so a row is exact, repeats bit for bit and takes a
moment. ``--check`` runs rows with softane's chip timing, which sleeps (``map_sleep.py``); the page
compares both. What stands for the real set: ``map_set.py``. How to read it: the page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "sched")]
import map_set
from map_sleep import measure_all
from test_explorer import LONG_MS, load_null

from ane_native.checkpoint import replace_file, to_json

ACCUMULATE = (1, 4, 10, 20, 40)
WORKERS = (0, 1, 2)
BATCHES, SWAPS, FIRST = 100, 12, 3  # least of a row; sets installed before it counts
AGAIN = 1
Row = dict[str, Any]
KEY = ("chip", "packed", "workers", "accumulate", "policy")
#: Rows that are also run in real time: (packed, workers, micro-steps).
CHECKED = ((False, 0, 10), (True, 0, 20), (True, 2, 10), (True, 2, 20))


def cases() -> list[Row]:
    """All rows."""
    chips = map_set.MICRO_STEP_MS
    made = itertools.product(chips, (False, True), WORKERS, ACCUMULATE, map_set.POLICIES)
    return [dict(zip(KEY, case, strict=True)) for case in made]


class Led:
    """The scheduler with a set of one program whose compile ends when the clock says so."""

    def __init__(self, staleness: int | None, compile_ms: float) -> None:
        self._ffi, self._lib = load_null()
        self._compile_ms = compile_ms
        self.now = 0.0
        self.ready_at: float | None = None  # of the compile under way
        self._versions: list[Any] = []  # weights, one element each
        ffi, lib = self._ffi, self._lib
        lib.null_reset()
        lib.null_gate_job(True)
        keep = [ffi.new("char[]", name) for name in (b"x", b"y", b"k0", b"@model_path/weights/w")]
        ports = ffi.new(
            "AnePort[]", [(keep[0], 1, 4, [1, 1, 1, 32]), (keep[1], 1, 4, [1, 1, 1, 32])]
        )
        blob = ffi.new("AneBlob[]", [(keep[3], 0, 0, 1, 1, ffi.NULL)])
        source = ffi.new("AneSource[]", [(keep[2], keep[0], 1, blob, 1)])
        kernel = ffi.new("AneKernel[]", [(keep[2], 0, ffi.NULL, ports, 1, ports + 1, 1)])
        bound = -1 if staleness is None else staleness
        options = ffi.new("AneSchedOptions *", [bound, 17, 21, 1, 0])
        counts, out = ffi.new("int64_t[]", [1]), ffi.new("AneHandle *")
        status = lib.ane_sched_create(
            source, 1, kernel, 1, counts, 1, ffi.NULL, 0, options, out, ffi.NULL
        )
        assert status == 0, status
        self._handle = int(out[0])

    def spend(self, ms: float) -> None:
        """Time goes on; a compile that is over by then has ended."""
        self.now += ms
        if self.ready_at is not None and self.ready_at <= self.now:
            self._lib.null_job_allow(0)
            self._lib.null_queue_sync(self._handle)
            self.ready_at = None

    def _wait(self, call: Any) -> int:
        """A part of a boundary, waiting for the compile where it asks for it."""
        while (status := int(call())) == AGAIN:
            assert self.ready_at is not None
            self.spend(self.ready_at - self.now)
        assert status >= 0, status
        return status

    def boundary(self) -> Any:
        """A whole boundary; the batch's counters."""
        lib, ffi, null = self._lib, self._ffi, self._ffi.NULL
        empty = self._wait(lambda: lib.ane_sched_boundary(self._handle, 0, null)) == 0
        pointers = null
        if empty:
            self._versions.append(ffi.new("float[]", [len(self._versions)]))
            pointers = ffi.new("void *[]", [self._versions[-1]])
        assert lib.ane_sched_submit(self._handle, pointers, 0, null) == 0
        if empty:
            lib.null_job_wait(LONG_MS)  # at its bake, which takes no time here
            lib.null_job_allow(0)
            lib.null_job_wait(LONG_MS)  # at its compile
            self.ready_at = self.now + self._compile_ms
        stats = ffi.new("AneBatchStats *")
        self._wait(lambda: lib.ane_sched_finish(self._handle, 0, stats, null))
        return stats

    def close(self) -> None:
        """Let everything go."""
        self._lib.null_gate_job(False)
        while self._lib.ane_sched_close(self._handle, 50, self._ffi.NULL) == AGAIN:
            pass


def lead(case: Row) -> Row:
    """One row, in milliseconds of the chip."""
    c = map_set.chip(case["chip"])
    groups = map_set.groups(map_set.kernels(), case["packed"])
    compile_ms = c.compile_ms(groups, case["workers"])
    sched = Led(map_set.POLICIES[case["policy"]], compile_ms)
    train: list[float] = []
    stalls: list[float] = []
    staleness: list[int] = []
    swaps = 0
    sched.boundary()  # the first set
    while len(stalls) < BATCHES or swaps < SWAPS + FIRST:
        begin = sched.now
        for _ in range(case["accumulate"]):
            # published: evaluations take longer beside a compile of the same process
            busy = c.busy if sched.ready_at is not None and not case["workers"] else 1.0
            sched.spend(c.cpu_ms + c.eval_ms * busy)
        end = sched.now
        stats = sched.boundary()
        swaps += bool(stats.swapped)
        if swaps >= FIRST:
            train.append(end - begin)
            stalls.append(sched.now - end)
            staleness.append(int(stats.staleness))
    sched.close()
    trained, stall = statistics.mean(train), statistics.mean(stalls)
    return {
        **case, "programs": len(groups), "batches": len(stalls), "swaps": swaps - FIRST,
        "batch_ms": trained + stall, "train_ms": trained, "compile_ms": compile_ms,
        "stall_share": stall / (trained + stall), "stall_mean_ms": stall,
        "stall_p50_ms": float(np.percentile(stalls, 50)), "stall_p99_ms": float(np.percentile(stalls, 99)),
        "staleness_mean": statistics.mean(staleness), "staleness_max": max(staleness),
        "over_longer": (trained + stall) / max(trained, compile_ms),
    }  # fmt: skip


def check(jobs: int, scale: float) -> list[Row]:
    """Rows in real time, `jobs` at once."""
    made = [
        {**dict(zip(KEY, ("m4", packed, workers, n, policy), strict=True)), "scale": scale}
        for packed, workers, n in CHECKED
        for policy in map_set.POLICIES
    ]
    return list(measure_all(made, jobs))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Stall and staleness by the chips' profiles.")
    parser.add_argument("--json", type=Path, default=HERE / "map.json", help="rows in real time")
    parser.add_argument("--check", action="store_true", help="run some rows in real time, too")
    parser.add_argument("--jobs", type=int, default=6, help="of --check, at once")
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="of --check's times: more where there is other work",
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "MAP.md")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "map.png")
    args = parser.parse_args()
    from map_page import page, picture

    before = json.loads(args.json.read_text()) if args.json.exists() else {}
    checked = check(args.jobs, args.scale) if args.check else before.get("checked", [])
    rows = [lead(case) for case in cases()]
    if args.check:
        replace_file(args.json, to_json({"checked": checked}))
    replace_file(args.page, page(rows, checked).encode())
    picture(rows, args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
