# SPDX-License-Identifier: MIT
"""Long random sequences on the trainer that ships, through its Python methods and softane.

Hypothesis chooses among stepping (also at the bound, interrupted there by Ctrl-C), finishing
and failing the compile at each of its steps, evaluating, handing arrays over and lifting or
spending the budget; model.py says what must be seen after each. The background job stands
at the failpoint ``facade.compile=hold`` until a rule lets it end. Below that: what
interrupts and closes must not do to the caller's arrays.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from programs import scale

import ane_native as ane
from ane_native import _native, soft

sys.path.insert(0, str(Path(__file__).parent))
from model import COMPILING, EMPTY, Model, State

X = np.ones((1, 4, 1, 32), np.float32)
LONG = 60.0  # seconds; nothing here takes as long
pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")

# how a job can end: failpoints, the model's events that lead there, what the trainer raises
ENDS: dict[str, tuple[str, list[str], type[Exception] | None]] = {
    "ok": ("", ["bake ok", "bake ok", "load ok", "load ok"], None),
    "a compile fails": (
        "facade.compile=1*return(1)->off",
        ["bake ok", "bake ok", "load fails"],
        ane.CompileError,
    ),
    "the first load fails": (
        "facade.load=1*return(1)->off",
        ["bake ok", "bake ok", "load fails"],
        ane.EngineError,
    ),
    "the second load fails": (
        "facade.load=1*off->1*return(1)->off",
        ["bake ok", "bake ok", "load ok", "load fails"],
        ane.EngineError,
    ),
    "the canary fails": (
        "run.nan=1*return->off",
        ["bake ok", "bake ok", "canary fails"],
        ane.CanaryError,
    ),
}
INTERRUPT, NO_BUDGET = "Ctrl-C", "no budget"


def weights(version: int) -> dict[str, np.ndarray]:
    return {"a": np.full(4, version, np.float32), "b": np.full(4, 2.0 * version, np.float32)}


def kernels() -> ane.KernelSet:
    """Two kernels nobody has compiled, in no process, so that nothing comes from a cache."""
    tag = uuid.uuid4().hex
    return ane.KernelSet(
        [scale("fwd", weight="a", tag=tag), scale("bwd", weight="b", tag=tag + "b")]
    )


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


class CtrlC(Exception):
    """Stands for KeyboardInterrupt, which Hypothesis itself would obey."""


class Trainer(RuleBasedStateMachine):
    """The trainer and the model side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.trainer: Any = None
        self.given: dict[int, dict[str, np.ndarray]] = {}
        self.waits: list[str] = []  # what shall happen at each wait of the step under way
        self.error: type[Exception] | None = None  # of the set that failed last
        self.micro, self.waited = 0, False

    @initialize(staleness=st.sampled_from([0, 1, 2, None]))
    def make(self, staleness: int | None) -> None:
        soft.set("failpoints", "")
        self.trainer = ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=staleness)
        soft.set("failpoints", "facade.compile=hold")
        self.model = Model(staleness, versions=10**6, eager=True)
        self.state: State = self.model.start()
        for event in ("boundary", "submit", *ENDS["ok"][1], "finish"):
            self.apply(event)
        check = self.trainer._calls.check

        def checked(status: int, error: Any) -> int:
            if check(status, error) == _native.core().lib.ANE_AGAIN:
                self.at_wait(self.waits.pop(0) if len(self.waits) > 1 else self.waits[0])
            return int(status)

        self.trainer._calls.check = checked

    def apply(self, event: str) -> str:
        self.state, told = self.model.apply(self.state, event)
        return told

    def at_wait(self, what: str) -> None:
        """A slice of a wait in step() is over: what a test's signal or compiler does now."""
        if what == INTERRUPT:
            raise CtrlC
        if what != NO_BUDGET:  # that job ends by itself
            self.end_job(what)

    def end_job(self, how: str) -> None:
        """The real job goes on from where it is held, to this end."""
        soft.set("failpoints", ENDS[how][0])
        until = time.monotonic() + LONG
        while self.trainer.compiling:
            assert time.monotonic() < until
            time.sleep(0.0002)
        soft.set("failpoints", "facade.compile=hold")

    def model_step(self, how: str) -> str:
        """step() in the model; a wait ends by `how`, further ones well. "ok" or why it raised."""
        waits = [how, "ok"]
        self.waits = []

        def call(event: str) -> str:
            told = self.apply(event)
            while told == "again":
                what = waits.pop(0)
                self.waits.append(what)
                if what == INTERRUPT:
                    self.apply("interrupt")
                    return INTERRUPT
                for e in ENDS[what][1]:
                    self.apply(e)
                self.error = ENDS[what][2]
                told = self.apply(event)
            return told

        told = call("boundary")
        if told not in ("ok", "skip"):
            return told
        self.apply("submit" if told == "ok" else "skip")
        if how == NO_BUDGET:
            self.waits, self.error = [NO_BUDGET], ane.BudgetExhausted
            self.apply("bake fails")  # before its first bake, which looks the same from here
        return call("finish")

    @rule(handover=st.booleans(), how=st.sampled_from(["ok", INTERRUPT, *ENDS]))
    def step(self, handover: bool, how: str) -> None:
        self.real_step(handover, how)

    @precondition(lambda self: self.state.slot == EMPTY)
    @rule(handover=st.booleans())
    def step_without_budget(self, handover: bool) -> None:
        used = int(soft.get("compiles"))
        soft.set("compile_limit", used + 1)
        self.real_step(handover, NO_BUDGET)
        until = time.monotonic() + LONG
        while self.trainer.compiling:
            assert time.monotonic() < until
            time.sleep(0.0002)
        soft.set("compile_limit", 0)

    def real_step(self, handover: bool, how: str) -> None:
        before, given = self.state, weights(self.state.newest + 1)
        told = self.model_step(how)
        waits = len(self.waits)
        try:
            stats = self.trainer.step(given, handover=handover)
        except CtrlC:
            assert told == INTERRUPT
            self.waited = True  # counted in the batch that ends later
        except ane.AneError as error:
            self.waited |= waits > 0
            if told in ("ok", INTERRUPT) or not isinstance(error, self.error or ()):
                raise
        else:
            assert told == "ok"
            assert stats.generation == self.state.active
            assert stats.newest == self.state.newest == before.newest + 1
            assert stats.submitted == (self.state.newest in (self.state.active, self.state.pending))
            assert stats.micro_steps == self.micro
            if how != NO_BUDGET:  # that job fails before or after these were counted
                assert stats.failures == self.state.failures
            self.waited |= waits > 0
            assert stats.wait_ms == 0 or self.waited
            self.waited = False
            assert stats.snapshot_ms == 0 or stats.submitted
            self.micro = 0
        if handover and self.state.newest > before.newest:
            self.given[self.state.newest] = given

    @precondition(lambda self: self.state.slot == COMPILING)
    @rule(how=st.sampled_from(sorted(ENDS)))
    def job_ends(self, how: str) -> None:
        self.end_job(how)
        for event in ENDS[how][1]:
            self.apply(event)
        self.error = ENDS[how][2]

    @rule()
    def evaluate(self) -> None:
        fwd, bwd = (self.trainer.eval(k, X) for k in ("fwd", "bwd"))
        assert np.all(fwd == self.state.active)
        assert np.all(bwd == 2 * self.state.active)

    @rule()
    def micro_step(self) -> None:
        self.trainer.micro_step()
        self.micro += 1

    @rule()
    def write_to_what_is_free(self) -> None:
        """Arrays handed over may be overwritten once oldest_needed has passed their version."""
        for version in [v for v in self.given if v < self.trainer.oldest_needed]:
            for array in self.given.pop(version).values():
                array[:] = -99

    @invariant()
    def shows_what_the_model_shows(self) -> None:
        if self.trainer is None:
            return
        state, shown = self.trainer._calls.state(), self.model.shows(self.state)
        for name in ("slot", "active", "newest", "pending", "failures"):
            assert int(getattr(state, name)) == shown[name], name
        if self.state.slot != COMPILING:  # else the job may have baked already, or not yet
            assert int(state.oldest_needed) == shown["oldest_needed"]
        assert np.all(self.trainer.active_weights["a"] == self.state.active)
        assert np.all(self.trainer.active_weights["b"] == 2 * self.state.active)
        assert len(self.trainer._versions.kept) + len(self.trainer._versions.spare) <= 4

    def teardown(self) -> None:
        soft.set("failpoints", "")
        soft.set("compile_limit", 0)
        if self.trainer is not None:
            self.trainer.close()


def test_trainer_follows_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "SLICE_MS", 1)
    before = ane.Engine().info()["loaded"]
    run_state_machine_as_test(
        Trainer,
        settings=settings(
            max_examples=200,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
        ),
    )
    assert ane.Engine().info()["loaded"] == before


# ============================== Arrays of the caller ==============================


def test_a_submit_that_was_interrupted_does_not_make_later_arrays_ours() -> None:
    """Else an array handed over would be recycled as a buffer and overwritten."""
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        submit = trainer._calls.submit

        def interrupted(*_: object) -> None:
            trainer._calls.submit = submit  # type: ignore[method-assign]
            raise KeyboardInterrupt

        trainer._calls.submit = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            trainer.step(weights(1))
        mine = weights(1)
        trainer.step(mine, handover=True)
        for version in range(2, 8):
            trainer.step(weights(version))
        assert np.all(mine["a"] == 1)


@pytest.mark.parametrize("staleness", [0, 1])
def test_sets_that_fail_again_and_again_do_not_pile_up_copies(staleness: int) -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=staleness) as trainer:
        soft.set("failpoints", "facade.compile=return(1)")
        failures = 0
        for version in range(1, 30):
            try:
                trainer.step(weights(version))
            except ane.CompileError:
                failures += 1
            assert len(trainer._versions.kept) + len(trainer._versions.spare) <= 4
        assert failures >= 14
        assert np.all(trainer.active_weights["a"] == 0)


def test_a_close_that_times_out_keeps_the_arrays_the_job_may_read() -> None:
    for attempt in range(100):  # until the job stands in its compile when close is called
        trainer = ane.DoubleBufferedTrainer(kernels(), weights(0))
        given = weights(1)
        soft.set("failpoints", "facade.compile=hold")
        trainer.step(given, handover=True)
        array = weakref.ref(given["a"])
        del given
        time.sleep(0.01 * attempt)
        trainer.close(timeout=0)
        kept = array() is not None
        soft.set("failpoints", "")
        if kept:
            break
    else:
        pytest.fail("every time the arrays were gone after the close that timed out")


def test_active_weights_can_be_asked_for_while_another_thread_steps() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        stop, errors = threading.Event(), []

        def ask() -> None:
            try:
                while not stop.is_set():
                    assert set(trainer.active_weights) == {"a", "b"}
            except BaseException as error:  # noqa: BLE001 - looked at below
                errors.append(error)

        real = trainer._calls.state

        def slow_state() -> Any:  # the other thread swaps between question and look-up
            state = real()
            if threading.current_thread() is asker:
                time.sleep(0.002)
            return state

        trainer._calls.state = slow_state  # type: ignore[method-assign]
        asker = threading.Thread(target=ask)
        asker.start()
        for version in range(1, 60):
            trainer.step(weights(version))
        stop.set()
        asker.join(LONG)
        assert not errors
