# SPDX-License-Identifier: MIT
"""Weights offered one by one before the boundary: the same generations, built earlier."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
from programs import scale

import ane_native as ane
from ane_native import soft

X = np.ones((1, 4, 1, 32), np.float32)
pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")
_serial = itertools.count()


def kernels() -> ane.KernelSet:
    """Two kernels whose text no other test has compiled, so that nothing comes from a cache."""
    tag = f"o{next(_serial)}"
    return ane.KernelSet(
        [scale("fwd", weight="a", tag=tag), scale("bwd", weight="b", tag=tag + "b")]
    )


def weights(version: float) -> dict[str, np.ndarray]:
    return {"a": np.full(4, version, np.float32), "b": np.full(4, 2.0 * version, np.float32)}


def versions(trainer: ane.DoubleBufferedTrainer) -> tuple[float, float]:
    return float(trainer.eval("fwd", X)[0, 0, 0, 0]), float(trainer.eval("bwd", X)[0, 0, 0, 0]) / 2


def kinds(trainer: ane.DoubleBufferedTrainer, version: int) -> list[tuple[str, str | None]]:
    return [(e.kind, e.kernel) for e in trainer.drain_trace() if e.version == version]


def wait_for(trainer: ane.DoubleBufferedTrainer, what: tuple[str, str]) -> None:
    until = time.monotonic() + 60
    while not any((e.kind, e.kernel) == what for e in trainer.drain_trace()):
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


@pytest.mark.parametrize("handover", [False, True])
def test_an_offered_kernel_is_loaded_before_the_step(handover: bool) -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0, trace=4096) as trainer:
        for version in range(1, 5):
            given = weights(version)
            trainer.drain_trace()
            trainer.offer({"b": given["b"]}, handover=handover)
            wait_for(trainer, ("canary", "bwd"))
            assert trainer.newest == trainer.generation == version - 1
            assert versions(trainer) == (version - 1, version - 1)
            stats = trainer.step(given, handover=handover)
            built = kinds(trainer, version)
            assert ("compile", "fwd") in built
            assert ("compile", "bwd") not in built
            assert (stats.generation, stats.programs_compiled) == (version, 2)
            assert versions(trainer) == (version, version)
            assert (trainer.active_weights["b"] is given["b"]) == handover


def test_a_set_offered_as_a_whole_is_installed_by_the_step() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0, trace=4096) as trainer:
        trainer.offer(weights(1), handover=False)
        wait_for(trainer, ("canary", "bwd"))
        trainer.offer({})
        assert trainer.step(weights(1)).generation == 1
        assert versions(trainer) == (1, 1)


def test_weights_that_changed_after_the_offer_are_refused_and_nothing_is_lost() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0) as trainer:
        mine = weights(1)
        trainer.offer({"a": mine["a"]})
        mine["a"][2] = 9
        with pytest.raises(ValueError, match="'a' differs"):
            trainer.step(mine)
        with pytest.raises(ValueError, match="'a' differs"):
            trainer.offer(mine)
        assert trainer.newest == 0
        assert trainer.step(weights(1)).generation == 1
        trainer.offer({"a": np.full(4, -0.0, np.float32)})
        with pytest.raises(ValueError, match="'a' differs"):  # bits, not numbers
            trainer.step({**weights(2), "a": np.zeros(4, np.float32)})
        trainer.withdraw()
        assert trainer.step(weights(2)).generation == 2
        assert versions(trainer) == (2, 2)
        for bad in ({"c": X}, {"a": np.zeros(5, np.float32)}):
            with pytest.raises(ValueError, match="not known|expected shape"):
                trainer.offer(bad)


def test_a_withdrawn_offer_leaves_nothing_behind() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0) as trainer:
        soft.set("failpoints", "facade.compile=delay(20)")
        for version in range(1, 6):
            wrong = weights(100 + version)
            trainer.offer(wrong, handover=True)
            if version % 2:
                time.sleep(0.005)
            trainer.withdraw()
            for array in wrong.values():
                array[:] = np.nan
            trainer.withdraw()
            stats = trainer.step(weights(version))
            assert (stats.generation, stats.failures) == (version, 0)
            assert versions(trainer) == (version, version)
            assert stats.programs_loaded <= 4


def test_a_failed_offer_is_told_once_by_the_step() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0) as trainer:
        soft.set("failpoints", "facade.compile=1*return(1)->off")
        trainer.offer({"b": weights(1)["b"]})
        until = time.monotonic() + 60
        while not trainer._calls.state().failures:
            assert time.monotonic() < until
            time.sleep(0.001)
        trainer.offer({"a": weights(1)["a"]})
        with pytest.raises(ane.CompileError) as caught:
            trainer.step(weights(1))
        assert caught.value.kernel == "bwd"
        assert versions(trainer) == (0, 0)
        stats = trainer.step(weights(2))
        assert (stats.generation, stats.failures) == (2, 1)
        assert versions(trainer) == (2, 2)


@pytest.mark.parametrize("staleness", [1, 2, None])
def test_an_offer_waits_while_a_set_is_pending(staleness: int | None) -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=staleness) as trainer:
        soft.set("failpoints", "facade.compile=hold")
        trainer.step(weights(1))
        trainer.offer(weights(2))
        assert (trainer._calls.state().pending, trainer._calls.state().offered) == (1, 2)
        soft.set("failpoints", "")
        for version in range(2, 6):
            stats = trainer.step(weights(version))
            assert stats.newest == version
            assert staleness is None or stats.staleness <= staleness
            trainer.offer({"a": weights(version + 1)["a"]})
            assert len(set(versions(trainer))) == 1


def test_close_with_an_open_offer() -> None:
    for hold in (False, True):
        trainer = ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0)
        if hold:
            soft.set("failpoints", "facade.compile=hold")
        trainer.offer(weights(1))
        if hold:
            trainer.close(timeout=0.2)
            soft.set("failpoints", "")
        trainer.close()
        with pytest.raises(ane.ClosedError):
            trainer.offer(weights(1))
        with pytest.raises(ane.ClosedError):
            trainer.withdraw()
