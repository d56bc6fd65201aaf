# SPDX-License-Identifier: MIT
"""``trainer.report()``: every figure is the sum of what the boundaries said, and people can read it."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import programs
import pytest

import ane_native as ane
from ane_native import soft
from ane_native.optim import AdamW
from ane_native.stats import BatchStats
from ane_native.totals import Histogram, Totals

X = np.ones((1, 4, 1, 32), np.float32)


def kernels() -> ane.KernelSet:
    return ane.KernelSet([programs.scale(f"k{i}", weight=f"g{i}") for i in range(3)])


def gains(factor: float = 1.0) -> dict[str, np.ndarray]:
    return {f"g{i}": np.full(4, (i + 1) * factor, np.float32) for i in range(3)}


def test_percentiles_are_right_to_a_twentieth() -> None:
    draw = random.Random(7)
    values = [math.exp(draw.uniform(-9, 9)) for _ in range(4000)]
    seen = Histogram()
    for value in values:
        seen.add(value)
    values.sort()
    for share in (1, 50, 90, 99, 100):
        exact = values[max(0, math.ceil(share / 100 * len(values)) - 1)]
        found = seen.percentile(share)
        assert found is not None
        assert exact / 1.06 < found < exact * 1.06
    assert len(seen.counts) < 400  # however many are added
    assert Histogram().percentile(50) is None
    for odd in (0.0, -1.0, 1e30):
        seen.add(odd)
    assert seen.percentile(100) is not None


def test_a_boundary_says_every_field_of_its_statistics() -> None:
    with ane.DoubleBufferedTrainer(kernels(), gains()) as trainer:
        stats = trainer.step(gains(2.0))
        assert stats.__dict__.keys() == {f.name for f in dataclasses.fields(BatchStats)}
        assert dataclasses.replace(stats, batch=3).batch == 3
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.batch = 4  # type: ignore[misc]


@pytest.mark.parametrize("count", [3, 300])
def test_a_report_is_the_sum_of_the_boundaries(count: int) -> None:
    seen: list[BatchStats] = []
    with ane.DoubleBufferedTrainer(kernels(), gains(), packing=1) as trainer:
        assert trainer.stats is not None
        first = trainer.stats
        for step in range(count):
            trainer.run(["k0", "k1"])
            trainer.micro_step()
            seen.append(trainer.step(gains(1 + (step + 1) / 512)))
    report = trainer.report()  # it is closed
    assert report.batches == count
    assert report.generations == count
    assert report.installed == sum(s.swapped for s in seen) == count - 1
    assert (report.evals, report.micro_steps) == (2 * count, count)
    assert report.evals_during_compile == sum(s.evals_during_compile for s in seen)
    assert report.first_compile_ms == first.compile_ms
    for total, of in (("stall_ms", "compile_stall_ms"), ("wait_ms", "wait_ms"),
                      ("batch_ms", "batch_ms"), ("compile_ms", "compile_ms"),
                      ("hidden_ms", "hidden_ms"), ("load_ms", "load_ms")):  # fmt: skip
        expected = sum(getattr(s, of) or 0.0 for s in seen)
        assert getattr(report, total) == pytest.approx(expected)
    assert report.stall_share == pytest.approx(report.stall_ms / report.batch_ms)
    assert report.batch_p99_ms is not None
    assert report.batch_p99_ms <= max(s.batch_ms for s in seen)
    assert (report.programs, report.kernels) == (1, 3)
    assert (report.staleness_most, report.staleness_bound) == (1, 1)
    assert (report.generation, report.newest) == (count - 1, count)
    assert report.compiles_used == seen[-1].compiles_used
    assert report.workers is None
    assert "3 kernels in 1 program" in str(report)
    assert f"running version {count - 1} of {count}" in str(report)
    assert all(text for _, text in report.rows())


@pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")
def test_a_report_says_what_went_wrong() -> None:
    used = int(ane.Engine().info()["compiles"])  # type: ignore[call-overload]
    adam = AdamW(gains(), lr=0.125)
    with soft.using(compile_limit=used + 50, procedures="first"):
        ane.Engine.refresh_limit()
        with ane.DoubleBufferedTrainer(
            kernels(), gains(), staleness=0, update=adam, packing=1
        ) as trainer:
            text = str(trainer.report())
            assert "no batch has ended yet" in text
            assert "given up: 3 kernels in 1 programs failed" in text
            adam.grads["g0"][:] = np.nan
            trainer.step_update()
            adam.grads["g0"][:] = 1.0
            soft.set("failpoints", "facade.compile=1*return(1)->off;facade.eval=1*return(18)->off")
            with pytest.raises(ane.CompileError):
                trainer.step_update()
            trainer.step(adam.params)
            report = trainer.report()
        ane.Engine.refresh_limit()
    assert (report.updates, report.updates_skipped, report.failures) == (2, 1, 1)
    assert report.packing_fallback is not None
    assert report.compile_limit == used + 50
    text = str(report)
    assert "1 failed" in text
    assert "1 skipped" in text
    assert f"of {used + 50:,} compiles used" in text
    assert report.as_dict()["failures"] == 1


def test_the_totals_do_not_grow_with_the_run() -> None:
    with ane.DoubleBufferedTrainer(kernels(), gains()) as trainer:
        stats = trainer.step(gains(2.0))
    totals = Totals()
    for step in range(5000):
        totals.add(dataclasses.replace(stats, batch_ms=1.0 + step % 100))
    assert len(totals._waiting) < 256
    assert sum(len(h.counts) for h in totals.spread.values()) < 300
