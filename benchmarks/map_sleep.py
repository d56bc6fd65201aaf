# SPDX-License-Identifier: MIT
"""Rows of the map in real time: a trainer on softane's chip timing, which sleeps.

The other half of ``map.py``: there the scheduler is led through virtual time, here it runs and all of
what a row says is measured. A row sleeps nearly all the time, so it needs little of the machine, but a
machine with other work wakes it late: what the sleeps were asked to take is compared with what they took
(``disturbed``), and such rows are worth nothing.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import map_set
import numpy as np

import ane_native as ane
from ane_native import soft

BATCHES, SWAPS, FIRST = 20, 6, 3  # least of a row; generations installed before it counts
Row = dict[str, Any]


class Place:
    """What one process keeps between rows: the workers of a chip."""

    chip = ""
    pool: ane.WorkerPool | None = None
    size = 0

    @classmethod
    def workers(cls, case: Row) -> ane.WorkerPool | int:
        """Workers of this chip's profile; softane's settings reach them when they are made."""
        wanted = (case["chip"], case["workers"])
        if (cls.chip, cls.size) != wanted:
            if cls.pool is not None:
                cls.pool.close()
            cls.chip, cls.size = wanted
            cls.pool = ane.WorkerPool(cls.size, budget=0) if cls.size else None
        return cls.pool or 0


def measure(case: Row) -> Row:
    """Run a trainer; what it measured, in milliseconds of the chip.

    ``case["scale"]`` multiplies all times that are slept, and divides what is returned: on a machine
    with other work longer sleeps are less disturbed.
    """
    # Apple's engine is no CPU: its compiles are not asked to make room for evaluations.
    os.environ["ANE_NATIVE_BACKGROUND"] = "full"
    c, ks = map_set.chip(case["chip"]), map_set.kernels()
    groups = map_set.groups(ks, case["packed"])
    scale = float(case.get("scale", 1.0))
    seed = int.from_bytes(os.urandom(4), "little")
    weights = map_set.weights(ks, np.random.default_rng(seed))
    names, micro_steps = [ks.kernels[0].name], case["accumulate"]
    asked_ms = c.compile_ms(groups, case["workers"])
    batches: list[ane.BatchStats] = []
    train: list[float] = []
    asked_train: list[float] = []
    swaps = 0
    with (
        soft.using(**map_set.settings(c, scale)),
        ane.DoubleBufferedTrainer(
            ks, weights, staleness=map_set.POLICIES[case["policy"]], packing=groups, canary=False,
            workers=Place.workers(case),
        ) as trainer,
    ):  # fmt: skip
        while len(batches) < BATCHES or swaps < SWAPS + FIRST:
            begin, asked = time.monotonic(), 0.0
            for _ in range(micro_steps):
                busy = c.busy if trainer.compiling and not case["workers"] else 1.0
                trainer.run(names)
                time.sleep(c.cpu_ms * scale / 1e3)
                trainer.micro_step()
                asked += c.cpu_ms + c.eval_ms * busy
            took = (time.monotonic() - begin) * 1e3 / scale
            for w in weights.values():
                w *= np.float32(1.003)
            s = trainer.step(weights)
            if s.programs_reused:
                raise SystemExit(f"{s.programs_reused} programs were not compiled: no figure")
            swaps += s.swapped
            if swaps >= FIRST:
                batches.append(s)
                train.append(took)
                asked_train.append(asked)
    stalls = [s.compile_stall_ms / scale for s in batches]
    walls = [s.batch_ms / scale for s in batches]
    compiles = [s.compile_ms / scale for s in batches if s.compile_ms is not None]
    wall, trained, compiled = statistics.mean(walls), statistics.mean(train), statistics.mean(compiles)  # fmt: skip
    return {
        **case, "scale": scale, "programs": len(groups), "batches": len(batches), "swaps": len(compiles),
        "batch_ms": wall, "train_ms": trained, "compile_ms": compiled,
        "asked_train_ms": statistics.mean(asked_train), "asked_compile_ms": asked_ms,
        "stall_share": sum(stalls) / sum(walls), "stall_mean_ms": statistics.mean(stalls),
        "stall_p50_ms": float(np.percentile(stalls, 50)), "stall_p99_ms": float(np.percentile(stalls, 99)),
        "staleness_mean": statistics.mean(s.staleness for s in batches),
        "staleness_max": max(s.staleness for s in batches),
        "over_longer": wall / max(trained, compiled),
        "disturbed": max(trained / statistics.mean(asked_train), compiled / asked_ms),
        "engine": trainer.engine.label,
    }  # fmt: skip


def measure_all(cases: list[Row], jobs: int) -> Iterator[Row]:
    """These rows, in order, `jobs` at once, each in a process started anew."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        yield from pool.map(measure, cases)
