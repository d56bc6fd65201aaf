# SPDX-License-Identifier: MIT
"""Packing, compile workers and updates in the background at once: the same bits as without any of
them, whatever fails."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import programs
import pytest

import ane_native as ane
from ane_native import soft
from ane_native.optim import AdamW, LossScale

pytestmark = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane"), reason="needs softane's settings"
)

CHANNELS, KERNELS = 64, 6
X = np.linspace(-1, 1, CHANNELS * 32, dtype=np.float32).reshape(1, CHANNELS, 1, 32)
serial = itertools.count(1)


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    soft.set("compile_limit", 0)
    yield
    soft.set("failpoints", "")
    soft.set("procedures", None)
    soft.set("compile_limit", None)


def kernels(frozen: tuple[str, ...] = ()) -> ane.KernelSet:
    """A plain and a transposed view of each of three weights; texts no other test has compiled."""
    made = []
    tag = next(serial)
    for i in range(KERNELS // 2):
        for transpose in (False, True):
            weight = ane.Weight(f"w{i}", transpose=transpose)
            kernel = programs.conv(
                f"k{i}{'t' if transpose else ''}", cin=CHANNELS, cout=CHANNELS, weight=weight
            )
            kernel.mil = kernel.mil.replace("padt", f"padt_together{tag}_{i}{transpose}")
            made.append(kernel)
    return ane.KernelSet(made, frozen=list(frozen))


def start() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shape = (CHANNELS, CHANNELS)
    return {
        f"w{i}": (rng.standard_normal(shape) / 8).astype(np.float32) for i in range(KERNELS // 2)
    }


def batch(trainer: ane.DoubleBufferedTrainer, adam: AdamW, number: int) -> bytes:
    """Gradients from what the active generation computes; one in seven is not finite."""
    seen = []
    for i in range(KERNELS // 2):
        y = trainer.eval(f"k{i}", X) + trainer.eval(f"k{i}t", X)
        adam.grads[f"w{i}"] += 64.0 * np.resize(y, (CHANNELS, CHANNELS)) * (number + 1)
        seen.append(y.tobytes())
    if number % 7 == 3:
        adam.grads["w1"][2, 5] = np.nan
    return b"".join(seen)


def train(staleness: int, updates: int, fail: str = "", **options: Any) -> dict[str, Any]:
    """What the batches computed, the weights at the end, and the last statistics."""
    adam = AdamW(start(), lr=0.01, loss_scale=LossScale(64.0))
    seen: list[bytes] = []
    failed = 0
    with ane.DoubleBufferedTrainer(
        kernels(), adam.params, staleness=staleness, update=adam, **options
    ) as trainer:
        soft.set("failpoints", fail)
        scale = adam.loss_scale.scale
        by_workers = 0
        for number in range(updates):
            seen.append(batch(trainer, adam, number))
            newest = trainer.newest
            while True:
                try:
                    if trainer.newest > newest:  # the gradients were taken
                        trainer.settle()
                        stats = trainer.step(adam.params, handover=True)
                        adam.handed_over(stats.newest, stats.submitted)
                    else:
                        stats = trainer.step_update(loss_scale=scale)
                    break
                except ane.CompileError:
                    failed += 1
            by_workers += stats.programs_by_workers
            scale = adam.loss_scale.scale
        trainer.settle()
        report = trainer.report()
        return {
            "seen": seen,
            "weights": {n: p.tobytes() for n, p in adam.params.items()},
            "stats": stats,
            "by_workers": by_workers,
            "report": report,
            "failed": failed,
        }


@pytest.mark.parametrize("staleness", [0, 1])
def test_packing_workers_and_updates_give_the_bits_of_none_of_them(staleness: int) -> None:
    plain = train(staleness, 24)
    together = train(staleness, 24, packing="auto", workers=2)
    assert together["weights"] == plain["weights"]
    assert together["seen"] == plain["seen"]
    assert plain["stats"].programs == KERNELS
    assert together["stats"].programs < KERNELS
    assert together["by_workers"] >= 15 * together["stats"].programs
    assert together["stats"].updates_skipped == plain["stats"].updates_skipped
    assert together["report"].packing_fallback is None
    assert together["report"].programs_compiled == 0  # this process has only loaded
    assert together["report"].workers.compiles > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_packed_set_that_fails_costs_no_update(workers: int) -> None:
    plain = train(0, 16)
    # with workers it is this process's load that fails
    where = "facade.load" if workers else "facade.compile"
    fail = f"{where}=3*off->1*return(1)->5*off->1*return(1)->off"
    packed = train(0, 16, fail, packing=2, workers=workers)
    assert packed["weights"] == plain["weights"]
    assert packed["seen"] == plain["seen"]
    assert packed["failed"] + (packed["report"].workers.retries if workers else 0) >= 1
    assert packed["stats"].programs == 2


def test_an_engine_that_refuses_procedures_is_trained_on_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = train(1, 12)
    with soft.using(procedures="first"), caplog.at_level(logging.WARNING, "ane_native"):
        unpacked = train(1, 12, packing="auto", workers=1)
    assert unpacked["weights"] == plain["weights"]
    assert unpacked["seen"] == plain["seen"]
    assert unpacked["stats"].programs == KERNELS
    assert "the same results" in unpacked["stats"].packing
    assert "given up" in str(unpacked["report"])
    assert any("packing given up" in r.message for r in caplog.records)


@pytest.mark.parametrize("workers", [0, 1])
def test_frozen_kernels_stay_loaded_beside_packed_updates(workers: int) -> None:
    first = start()

    def update(factor: float, version: int) -> dict[str, np.ndarray]:
        return {"w0": first["w0"], "w1": first["w1"] * factor, "w2": first["w2"] * factor}

    base = None
    with ane.DoubleBufferedTrainer(
        kernels(frozen=("w0",)), first, update=update, packing="auto", workers=workers
    ) as trainer:
        groups = sorted(s.kernels for s in trainer.packing.sources)
        assert (0, 1) in groups  # the frozen ones together, apart from all others
        changing = len(groups) - 1
        base = {k: trainer.eval(k, X) for k in ("k0", "k1")}
        for number in range(1, 9):
            stats = trainer.step_update(1.0 + number / 8)
            if not stats.swapped:
                continue
            made = stats.programs_by_workers if workers else stats.programs_compiled
            assert (made, stats.programs_reused) == (changing, 1)
        np.testing.assert_array_equal(trainer.eval("k0", X), base["k0"])
        factor = 1.0 + 7 / 8
        np.testing.assert_allclose(trainer.eval("k1", X), base["k1"] * factor, rtol=0.01, atol=0.01)


def test_a_budget_holds_more_packed_updates() -> None:
    """Three compiles a set instead of six: the same budget reaches twice as far."""
    reached = {}
    for packing in (None, 3):
        used = int(ane.Engine().info()["compiles"])  # type: ignore[call-overload]
        adam = AdamW(start(), lr=0.01)
        with soft.using(compile_limit=used + 6 * 5):
            ane.Engine.refresh_limit()
            with ane.DoubleBufferedTrainer(
                kernels(), adam.params, staleness=0, update=adam, packing=packing
            ) as trainer:
                count = 0
                try:
                    for number in range(20):
                        adam.grads["w0"][:] = number + 1.0
                        adam.grads["w1"][:] = adam.grads["w2"][:] = 1.0
                        trainer.step_update()
                        count += 1
                except ane.BudgetExhausted:
                    pass
        ane.Engine.refresh_limit()
        reached[packing] = count
    assert reached == {None: 4, 3: 9}
