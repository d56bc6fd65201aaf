# SPDX-License-Identifier: MIT
"""The end of a batch in ``train`` (train/boundary.py): sets that fail and waits that are
interrupted, followed by updates that change nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from programs import conv, scale

import ane_native as ane
from ane_native import soft
from ane_native.optim import AdamW, LossScale
from ane_native.trace import TraceLog
from ane_native.train.boundary import Boundary

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")
X = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(1, 64, 1, 32)

_serial = itertools.count(70_000)


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


def optimizer(extrapolate: float = 0.0) -> AdamW:
    rng = np.random.default_rng(next(_serial))
    params = {"w": (rng.standard_normal((32, 64)) / 8).astype(np.float32)}
    return AdamW(params, loss_scale=LossScale(1024.0), extrapolate=extrapolate)


def boundary(
    trainer: ane.DoubleBufferedTrainer, adam: AdamW, extrapolate: bool = False
) -> Boundary:
    return Boundary(
        trainer,
        adam,
        micro_steps=1,
        overlap=False,
        extrapolate=extrapolate,
        trace=TraceLog(),
        say=lambda line: None,
        note=lambda: None,
    )


def end(ends: Boundary, adam: AdamW, update: int, good: bool = True) -> ane.BatchStats:
    """A batch whose gradients depend on its number alone."""
    adam.grads["w"][...] = np.float32(1024 * update) if good else np.nan
    stats = ends.end(update, 0.01, 1024.0).stats
    assert stats is not None
    return stats


def until_it_is_there(trainer: ane.DoubleBufferedTrainer) -> None:
    until = time.monotonic() + 60
    while trainer.compiling:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_a_failed_set_then_nothing_new_still_installs_what_was_due(
    staleness: int, interrupted: bool, background: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam = optimizer()
    with ane.DoubleBufferedTrainer(
        ane.KernelSet([conv("fwd")]),
        adam.params,
        staleness=staleness,
        update=adam if background else None,
        handover=True,
    ) as trainer:
        ends = boundary(trainer, adam)
        adam.restart_versions(0)
        adam.handed_over(0, True)
        end(ends, adam, 1)
        ends.settle()
        until_it_is_there(trainer)
        soft.set("failpoints", "facade.compile=1*return(1)->off")
        if interrupted:

            def interrupt(self: Any) -> None:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(type(trainer), "_finish", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    end(ends, adam, 2)
        else:
            end(ends, adam, 2)
        ends.settle()
        until_it_is_there(trainer)
        newest = adam.params["w"].copy()
        for number in (3, 4, 5):
            stats = end(ends, adam, number, good=False)
            assert stats.staleness <= staleness
            if staleness < 2 or number == 5:
                assert trainer.active_weights["w"].tobytes() == newest.tobytes()
            ends.settle()
            until_it_is_there(trainer)
        assert adam.steps == 2
        y = trainer.eval("fwd", X)
        with ane.DoubleBufferedTrainer(ane.KernelSet([conv("fwd")]), {"w": newest}) as plain:
            assert y.tobytes() == plain.eval("fwd", X).tobytes()
        for number in range(6, 12):  # no buffer is written while it is read
            end(ends, adam, number)
            active = trainer.active_weights["w"].copy()
            ends.settle()
            until_it_is_there(trainer)
            assert trainer.active_weights["w"].tobytes() == active.tobytes()


@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("extrapolate", [False, True])
def test_batches_after_a_failed_set_run_on_what_they_would_have_run_on(
    extrapolate: bool, background: bool
) -> None:
    """With staleness 1: also where two sets fail in a row, and the set that is made again fails."""
    seen: list[list[bytes]] = []
    for points in ({}, {2: 1}, {3: 2}, {2: 1, 3: 1, 6: 2}):
        adam = AdamW(
            {"w": np.ones(4, np.float32)},
            loss_scale=LossScale(1024.0),
            extrapolate=float(extrapolate),
        )
        kernels = ane.KernelSet([scale("fwd", weight="w", tag=f"boundary{next(_serial)}")])
        with ane.DoubleBufferedTrainer(
            kernels,
            adam.params,
            staleness=1,
            update=adam if background else None,
            handover=True,
        ) as trainer:
            ends = boundary(trainer, adam, extrapolate)
            adam.restart_versions(0)
            adam.handed_over(0, True)
            ran = []
            for number in range(1, 10):
                if number in points:
                    ends.settle()
                    until_it_is_there(trainer)
                    soft.set("failpoints", f"facade.compile={points[number]}*return(1)->off")
                end(ends, adam, number, good=number != 4)
                ran.append(trainer.active_weights["w"].tobytes())
            ends.settle()
            assert trainer.stats is not None
            assert trainer.stats.failures == sum(points.values())
        seen.append(ran)
    assert seen[1:] == [seen[0]] * 3
    assert len(set(seen[0])) == 8


# =============================== resubmit =======================================


def weights(value: float) -> dict[str, np.ndarray]:
    return {"w": np.full(4, value, np.float32)}


def resubmitting(staleness: int | None) -> ane.DoubleBufferedTrainer:
    kernels = ane.KernelSet([scale("fwd", weight="w", tag=f"resubmit{next(_serial)}")])
    return ane.DoubleBufferedTrainer(kernels, weights(0), staleness=staleness)


def test_resubmit_puts_a_failed_set_in_its_place() -> None:
    x = np.ones((1, 4, 1, 32), np.float32)
    with resubmitting(1) as trainer:
        soft.set("failpoints", "facade.compile=1*return(1)->off")
        trainer.step(weights(1))
        with pytest.raises(ane.CompileError):
            trainer.step(weights(2))
        given = weights(1)
        assert trainer.resubmit(given) == trainer.newest == 2
        given["w"][:] = 9  # copied
        stats = trainer.step(weights(2))
        assert (stats.generation, stats.newest, stats.staleness) == (2, 3, 1)
        assert np.all(trainer.eval("fwd", x) == 1)
        trainer.step(weights(3))
        assert np.all(trainer.eval("fwd", x) == 2)


def test_resubmit_that_fails_is_told_by_the_next_step() -> None:
    with resubmitting(1) as trainer:
        soft.set("failpoints", "facade.compile=2*return(1)->off")
        trainer.step(weights(1))
        with pytest.raises(ane.CompileError):
            trainer.step(weights(2))
        trainer.resubmit(weights(1))
        with pytest.raises(ane.CompileError):
            trainer.step(weights(2))
        trainer.resubmit(weights(1))
        assert trainer.step(None).staleness == 0
        assert np.all(trainer.active_weights["w"] == 1)


def test_resubmit_leaves_offers_alone() -> None:
    with resubmitting(0) as trainer:
        trainer.offer(weights(1))
        with pytest.raises(ane.StateError, match=r"offered: call withdraw\(\)"):
            trainer.resubmit(weights(2))
        assert trainer.step(weights(1)).generation == 1
        trainer.offer(weights(2))
        trainer.withdraw()
        assert trainer.resubmit(weights(3)) == 2
        assert trainer.step(None).generation == 2
        assert np.all(trainer.active_weights["w"] == 3)


def test_resubmit_refuses_what_cannot_be() -> None:
    with resubmitting(2) as trainer:
        with pytest.raises(ValueError, match="expected shape"):
            trainer.resubmit({"w": np.zeros(3)})
        soft.set("failpoints", "facade.compile=delay(200)")
        trainer.step(weights(1))
        with pytest.raises(ane.StateError, match="none has failed"):
            trainer.resubmit(weights(1))
        assert trainer.newest == 1
    with pytest.raises(ane.ClosedError):
        trainer.resubmit(weights(1))
