# SPDX-License-Identifier: MIT
"""Evaluations that the engine cancels (status 0x12): tried once more, counted, never silent."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import pytest
from programs import scale

import ane_native as ane
from ane_native import _native, soft

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")

X = np.ones((1, 4, 1, 32), np.float32)
CANCELLED = 0x12
_serial = itertools.count()


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


def cancel(times: int, after: int = 0, status: int = CANCELLED) -> None:
    """The engine answers `times` evaluations with `status`, when `after` more have been good."""
    good = f"{after}*off->" if after else ""
    soft.set("failpoints", f"facade.eval={good}{times}*return({status})->off")


def retried() -> int:
    count = ane.Engine().info()["evals_retried"]
    assert isinstance(count, int)
    return count


def new_scale(name: str = "k") -> ane.Kernel:
    return scale(name, tag=f"cancelled{next(_serial)}")


def wait_ready(trainer: ane.DoubleBufferedTrainer) -> None:
    until = time.monotonic() + 60
    while trainer.compiling:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_cancelled_once_gives_the_right_result_and_is_counted() -> None:
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        assert np.all(program.eval(X) == 3)
        before = retried()
        cancel(1)
        assert np.all(program.eval(2 * X) == 6)  # not the first result, which the surface held
        assert retried() == before + 1
        assert np.all(program.eval(3 * X) == 9)
        assert retried() == before + 1


def test_cancelled_twice_is_an_error_of_its_own_and_loses_nothing() -> None:
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        before = retried()
        cancel(2)
        with pytest.raises(ane.CancelledError, match="status=0x12 : statusType=0x9") as caught:
            program.eval(X)
        error = caught.value
        assert (error.step, error.code) == ("evaluate", 8)
        assert error.domain == "com.apple.appleneuralengine"
        assert retried() == before + 1  # one repetition, not two
        assert np.all(program.eval(X) == 3)


@pytest.mark.parametrize("status", [0x1D, 0x2, 0x120, 0x1, 15, 999, 19018])
def test_nothing_else_is_tried_again(status: int) -> None:
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        before = retried()
        cancel(1, status=status)
        with pytest.raises(ane.EngineError) as caught:
            program.eval(X)
        assert not isinstance(caught.value, ane.CancelledError)
        assert retried() == before
        assert np.all(program.eval(X) == 3)


@pytest.mark.parametrize("second", [0x1D, 999])
def test_the_error_is_that_of_the_second_try(second: int) -> None:
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        soft.set("failpoints", f"facade.eval=1*return({CANCELLED})->1*return({second})->off")
        with pytest.raises(ane.EngineError) as caught:
            program.eval(X)
        assert type(caught.value) is (ane.SilentEngineError if second == 999 else ane.EngineError)


def test_an_input_that_is_an_output_too_may_have_been_written() -> None:
    c = _native.core()
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        surface, error = program.surfaces["i00_x"], _native.new_error()
        ports = c.ffi.new("AneHandle[]", [surface._handle])

        def run() -> int:
            return int(c.lib.ane_program_eval(program._handle, ports, 1, ports, 1, 21, error))

        surface.write(X)
        assert run() == c.lib.ANE_OK
        assert np.all(surface.read() == 3)
        before = retried()
        cancel(1)
        assert run() == c.lib.ANE_E_CANCELLED
        assert retried() == before
        assert np.all(surface.read() == 3)
        assert run() == c.lib.ANE_OK
        assert np.all(surface.read() == 9)


def test_a_batch_counts_its_own() -> None:
    kernels = ane.KernelSet([new_scale()])
    with ane.DoubleBufferedTrainer(kernels, {"g": np.full(4, 0.0)}) as trainer:
        assert trainer.stats is not None
        assert trainer.stats.evals_retried == 0
        trainer.step({"g": np.full(4, 1.0)})
        wait_ready(trainer)
        cancel(1, after=1)
        assert [float(trainer.eval("k", X).flat[0]) for _ in range(3)] == [0, 0, 0]
        stats = trainer.step({"g": np.full(4, 2.0)})
        assert (stats.evals, stats.evals_retried, stats.generation) == (3, 1, 1)
        wait_ready(trainer)
        cancel(2)
        with pytest.raises(ane.CancelledError) as caught:
            trainer.eval("k", X)
        assert caught.value.kernel == "k"
        assert trainer.eval("k", X).flat[0] == 1  # the generation is still there
        stats = trainer.step({"g": np.full(4, 3.0)})
        assert (stats.evals_retried, stats.failures, stats.generation) == (1, 0, 2)
        assert trainer.eval("k", X).flat[0] == 2


def test_a_canary_that_is_cancelled_is_tried_again() -> None:
    kernels = ane.KernelSet([new_scale()])
    with ane.DoubleBufferedTrainer(kernels, {"g": np.full(4, 0.0)}) as trainer:
        cancel(1)
        counted = trainer.step({"g": np.full(4, 1.0)}).evals_retried  # it may run before this ends
        wait_ready(trainer)
        stats = trainer.step({"g": np.full(4, 2.0)})
        assert (stats.generation, stats.failures) == (1, 0)
        assert counted + stats.evals_retried == 1
        wait_ready(trainer)
        cancel(2)  # of the set of version 3
        trainer.step({"g": np.full(4, 3.0)})
        wait_ready(trainer)
        with pytest.raises(ane.CancelledError):
            trainer.step({"g": np.full(4, 4.0)})
        assert trainer.eval("k", X).flat[0] == 2  # the set before it stays
        stats = trainer.step({"g": np.full(4, 4.0)})
        assert stats.failures == 1
        wait_ready(trainer)
        trainer.step({"g": np.full(4, 5.0)})
        assert trainer.eval("k", X).flat[0] == 4
