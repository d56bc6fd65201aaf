# SPDX-License-Identifier: MIT
"""The engine loses all programs, as when its daemon restarts (code 23): loaded again from its
cache, or made anew by the next steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import scale

import ane_native as ane
from ane_native import soft

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")

X = np.ones((1, 4, 1, 32), np.float32)
_serial = itertools.count()


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    for key in ("failpoints", "store", "store_dir"):
        soft.set(key, None)


@pytest.fixture
def cache(tmp_path: Path) -> None:
    """The engine's cache outlives its daemon."""
    soft.set("store_dir", str(tmp_path / "store"))
    soft.set("store", "shared")


def new_scale(name: str = "k", weight: str = "g") -> ane.Kernel:
    return scale(name, weight=weight, tag=f"lost{next(_serial)}")


def lose_all() -> None:
    """At the next evaluation."""
    soft.set("failpoints", "device.gone=1*return->off")


def counts() -> dict[str, int]:
    info = ane.Engine().info()
    return {k: int(str(info[k])) for k in ("compiles", "loaded", "reloads")}


def wait_ready(trainer: ane.DoubleBufferedTrainer) -> None:
    until = time.monotonic() + 60
    while trainer.compiling:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_a_program_in_the_cache_is_loaded_again(cache: None) -> None:
    before = counts()
    with ane.Program(new_scale(), {"g": np.full(4, 3.0)}) as program:
        assert np.all(program.eval(X) == 3)
        made = counts()
        lose_all()
        assert np.all(program.eval(2 * X) == 6)
        after = counts()
        assert after == {**made, "reloads": made["reloads"] + 1}
        assert np.all(program.eval(3 * X) == 9)
        assert counts() == after
    assert counts()["loaded"] == before["loaded"]


def test_a_program_that_is_nowhere_is_an_error_and_can_be_made_anew() -> None:
    before = counts()
    kernel = new_scale()
    with ane.Program(kernel, {"g": np.full(4, 3.0)}) as program:
        lose_all()
        for _ in range(2):  # it stays lost
            with pytest.raises(ane.ProgramLostError, match="Program not found") as caught:
                program.eval(X)
            assert (caught.value.step, caught.value.code) == ("evaluate", 23)
        assert counts()["loaded"] == before["loaded"]
        with ane.Program(kernel, {"g": np.full(4, 3.0)}) as again:
            assert np.all(again.eval(X) == 3)
            program.close()  # must not take anything from the new one
            soft.set("staging_evals", 0)
            assert np.all(again.eval(X) == 3)
            soft.set("staging_evals", None)
    assert counts()["loaded"] == before["loaded"]
    assert counts()["compiles"] == before["compiles"] + 2
    base = soft.staging_base()
    if base is not None:
        assert [p for p in Path(base).iterdir() if not p.name.startswith(".")] == []


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_training_goes_on_with_new_sets(staleness: int, ready: bool) -> None:
    """Also where a program is shared by all sets, because its weights never change."""
    before = counts()
    kernels = ane.KernelSet([new_scale("fwd"), new_scale("frozen", "h")])
    frozen = np.full(4, 7.0)
    with ane.DoubleBufferedTrainer(
        kernels, {"g": np.zeros(4), "h": frozen}, staleness=staleness
    ) as trainer:
        trainer.step({"g": np.full(4, 1.0), "h": frozen})
        if ready:
            wait_ready(trainer)
        lose_all()
        with pytest.raises(ane.ProgramLostError) as caught:
            trainer.eval("fwd", X)
        assert caught.value.kernel == "fwd"
        lost = 0
        for version in range(2, 9):
            try:
                stats = trainer.step({"g": np.full(4, version), "h": frozen})
                assert stats.staleness <= staleness
                y = trainer.eval("fwd", X).flat[0], trainer.eval("frozen", X).flat[0]
                assert y == (stats.generation, 7)
            except ane.ProgramLostError:
                lost += 1
        assert lost <= staleness  # sets from before it happened
        assert stats.generation >= 8 - staleness
    assert counts()["loaded"] == before["loaded"]
    assert counts()["reloads"] == before["reloads"]


def test_training_with_a_cache_does_not_notice(cache: None) -> None:
    kernels = ane.KernelSet([new_scale("fwd"), new_scale("frozen", "h")])
    frozen = np.full(4, 7.0)
    with ane.DoubleBufferedTrainer(kernels, {"g": np.zeros(4), "h": frozen}) as trainer:
        trainer.step({"g": np.full(4, 1.0), "h": frozen})
        wait_ready(trainer)
        trainer.step({"g": np.full(4, 2.0), "h": frozen})
        wait_ready(trainer)
        lose_all()
        y = trainer.eval("fwd", X).flat[0], trainer.eval("frozen", X).flat[0]
        assert y == (1, 7)
        stats = trainer.step({"g": np.full(4, 3.0), "h": frozen})
        assert (stats.programs_reloaded, stats.failures, stats.generation) == (2, 0, 2)
        y = trainer.eval("fwd", X).flat[0], trainer.eval("frozen", X).flat[0]
        assert y == (2, 7)
        stats = trainer.step({"g": np.full(4, 4.0), "h": frozen})
        assert stats.programs_reloaded == 1  # of the set that was ready; the other one is shared


@pytest.mark.parametrize("packing", [None, 1])
@pytest.mark.parametrize("after", range(12))
def test_a_first_generation_that_meets_the_loss_is_begun_again(
    after: int, packing: int | None
) -> None:
    """At any of its compiles, loads and canaries: no reason to give packing up."""
    before = counts()
    kernels = ane.KernelSet([new_scale("fwd"), new_scale("more", "h")])
    first = {"g": np.full(4, 3.0), "h": np.full(4, 5.0)}
    soft.set("failpoints", f"device.gone={after}*off->1*return->off")
    with ane.DoubleBufferedTrainer(kernels, first, packing=packing) as trainer:
        soft.set("failpoints", "")
        assert trainer.first_retries <= 1
        assert trainer.packing.fallback is None
        try:
            y = trainer.eval("fwd", X).flat[0], trainer.eval("more", X).flat[0]
            assert y == (3, 5)
        except ane.ProgramLostError:  # after its canary: as at any later time
            assert trainer.first_retries == 0
        assert trainer.step({"g": np.full(4, 4.0), "h": first["h"]}).failures == 0
    assert counts()["loaded"] == before["loaded"]


def test_a_first_generation_is_not_begun_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    before = counts()
    soft.set("failpoints", "device.gone=1*off->return")
    with pytest.raises(ane.ProgramLostError):
        ane.DoubleBufferedTrainer(ane.KernelSet([new_scale("fwd")]), {"g": np.full(4, 3.0)})
    said = [r for r in caplog.records if "lost programs of the first generation" in r.message]
    assert len(said) == 2
    assert counts()["loaded"] == before["loaded"]
