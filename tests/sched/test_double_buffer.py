# SPDX-License-Identifier: MIT
"""The promises of the scheduler, on a set of two kernels whose weights carry their version.

The compiler is held, failed and delayed through softane's failpoints; the scheduler under
test is the one that ships.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from programs import conv, scale

import ane_native as ane
from ane_native import cpu, soft

X = np.ones((1, 4, 1, 32), np.float32)
pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")


def weights(version: int) -> dict[str, np.ndarray]:
    return {"a": np.full(4, version, np.float32), "b": np.full(4, 2.0 * version, np.float32)}


_serial = itertools.count()


def kernels() -> ane.KernelSet:
    """Two kernels whose text no other test has compiled, so that nothing comes from a cache."""
    tag = f"t{next(_serial)}"
    return ane.KernelSet(
        [scale("fwd", weight="a", tag=tag), scale("bwd", weight="b", tag=tag + "b")]
    )


def versions(trainer: ane.DoubleBufferedTrainer) -> tuple[float, float]:
    """The versions the two kernels were baked from, read through the engine."""
    return float(trainer.eval("fwd", X)[0, 0, 0, 0]), float(trainer.eval("bwd", X)[0, 0, 0, 0]) / 2


def wait_ready(trainer: ane.DoubleBufferedTrainer) -> None:
    until = time.monotonic() + 60
    while trainer.compiling:
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    soft.set("failpoints", "")


def test_first_generation_is_compiled_before_the_constructor_returns() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        assert trainer.generation == 0
        assert trainer.stats is not None
        assert trainer.stats.programs_compiled + trainer.stats.programs_reused == 2
        assert versions(trainer) == (0, 0)


def test_staleness_one_lags_by_exactly_one() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=1) as trainer:
        for version in range(1, 8):
            stats = trainer.step(weights(version))
            assert (stats.generation, stats.newest, stats.staleness) == (version - 1, version, 1)
            assert versions(trainer) == (version - 1, version - 1)


def test_staleness_zero_runs_on_the_newest_weights() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0) as trainer:
        soft.set("failpoints", "facade.compile=delay(20)")
        for version in range(1, 5):
            stats = trainer.step(weights(version))
            assert (stats.generation, stats.staleness) == (version, 0)
            assert stats.wait_ms > 0
            assert versions(trainer) == (version, version)


def test_staleness_n_never_exceeds_its_bound_and_waits_only_at_it() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=3) as trainer:
        soft.set("failpoints", "facade.compile=delay(120)")
        seen = []
        for version in range(1, 12):
            stats = trainer.step(weights(version))
            seen.append(stats.staleness)
            assert stats.staleness <= 3
            assert len(set(versions(trainer))) == 1
        assert max(seen) == 3  # the slow compiler pushed it to the bound


def test_opportunistic_never_waits() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=None) as trainer:
        soft.set("failpoints", "facade.compile=hold")
        for version in range(1, 6):
            stats = trainer.step(weights(version))
            assert stats.wait_ms == 0
            assert stats.generation == 0
            assert stats.staleness == version
        soft.set("failpoints", "")
        wait_ready(trainer)
        stats = trainer.step(weights(6))
        assert stats.swapped
        assert stats.generation == 1  # the version that was submitted; 2 to 5 were superseded
        wait_ready(trainer)
        assert trainer.step(weights(7)).generation == 6


def test_step_waits_at_the_bound_and_counts_the_wait() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=1) as trainer:
        soft.set("failpoints", "facade.compile=hold")
        trainer.step(weights(1))
        done: list[ane.BatchStats] = []
        thread = threading.Thread(target=lambda: done.append(trainer.step(weights(2))))
        begin = time.monotonic()
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        assert versions(trainer) == (0, 0)  # the old set keeps running
        with pytest.raises(ane.BusyError):
            trainer.step(weights(2))
        soft.set("failpoints", "")
        thread.join(60)
        waited = (time.monotonic() - begin) * 1000
        assert 250 < done[0].wait_ms <= waited
        assert done[0].compile_stall_ms >= done[0].wait_ms
        assert done[0].evals_during_compile >= 2
        assert versions(trainer) == (1, 1)


def test_swap_happens_only_at_a_boundary() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        trainer.step(weights(1))
        wait_ready(trainer)
        for _ in range(5):
            assert versions(trainer) == (0, 0)
        trainer.step(weights(2))
        assert versions(trainer) == (1, 1)


def test_generation_is_baked_from_a_snapshot() -> None:
    """The caller overwrites its arrays while the bake has not begun: the copy counts."""
    mine = weights(1)
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        soft.set("failpoints", "facade.compile=delay(50)")
        stats = trainer.step(mine)
        assert stats.snapshot_ms > 0
        for w in mine.values():
            w[:] = 99
        trainer.step(weights(2))
        assert versions(trainer) == (1, 1)
        assert trainer.active_weights["a"][0] == 1


def test_handover_copies_nothing_and_says_when_arrays_are_free() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        given = [weights(v) for v in range(6)]
        for version in range(1, 6):
            stats = trainer.step(given[version], handover=True)
            assert stats.snapshot_ms == 0
            assert trainer.active_weights["a"] is given[version - 1]["a"] or version == 1
            assert trainer.oldest_needed <= version - 1
        assert versions(trainer) == (4, 4)


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_compile_leaves_old_kernels_running_and_raises_once(failing: int) -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        trainer.step(weights(1))
        wait_ready(trainer)
        soft.set("failpoints", f"facade.compile={failing - 1}*off->1*return(1)->off")
        trainer.step(weights(2))  # active 1, compiling 2: kernel `failing` fails
        wait_ready(trainer)
        assert versions(trainer) == (1, 1)
        with pytest.raises(ane.CompileError) as caught:
            trainer.step(weights(3))
        assert caught.value.kernel == ("fwd", "bwd")[failing - 1]
        assert caught.value.domain == "com.apple.appleneuralengine.compiler"
        assert versions(trainer) == (1, 1)
        stats = trainer.step(weights(3))  # the retry: waits, because the bound would break
        assert stats.failures == 1
        assert stats.staleness <= 1
        assert versions(trainer) == (3, 3)


def test_failed_load_is_a_failure_too() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        soft.set("failpoints", "facade.load=1*return(1)->off")
        trainer.step(weights(1))
        wait_ready(trainer)
        with pytest.raises(ane.EngineError) as caught:
            trainer.step(weights(2))
        assert caught.value.step == "load"
        assert versions(trainer) == (0, 0)
        trainer.step(weights(2))
        assert versions(trainer)[0] >= 1


def test_canary_refuses_a_program_that_writes_nan() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        trainer.step({"a": np.full(4, np.nan), "b": np.ones(4)})
        wait_ready(trainer)
        with pytest.raises(ane.CanaryError, match="not finite") as caught:
            trainer.step(weights(2))
        assert caught.value.kernel == "fwd"
        assert versions(trainer) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "message"), [("run.nan", "not finite"), ("run.stale", "was not written")]
)
def test_canary_catches_an_evaluation_that_only_says_yes(fault: str, message: str) -> None:
    soft.set("failpoints", f"{fault}=1*return->off")
    with pytest.raises(ane.CanaryError, match=message):
        ane.DoubleBufferedTrainer(kernels(), weights(1))
    with ane.DoubleBufferedTrainer(kernels(), weights(1)) as trainer:
        assert versions(trainer) == (1, 1)  # the fault was in one evaluation only
        soft.set("failpoints", f"{fault}=1*return->off")
        trainer.step(weights(2))
        wait_ready(trainer)
        with pytest.raises(ane.CanaryError, match=message):
            trainer.step(weights(3))
        assert versions(trainer) == (1, 1)  # the active set is the good one


def test_canary_can_be_left_out() -> None:
    bad = {"a": np.full(4, np.nan), "b": np.ones(4)}
    with ane.DoubleBufferedTrainer(kernels(), weights(0), canary=False) as trainer:
        trainer.step(bad)
        stats = trainer.step(weights(2))
        assert stats.generation == 1
        assert stats.canary_ms == 0


def test_failing_eval_is_never_silent() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(3)) as trainer:
        soft.set("failpoints", "facade.eval=1*return(8)->off")
        with pytest.raises(ane.EngineError) as caught:
            trainer.eval("fwd", X)
        assert caught.value.kernel == "fwd"
        assert versions(trainer) == (3, 3)


def test_equal_weights_are_not_compiled_again() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        used = trainer.step({**weights(0), "b": np.full(4, 5.0)}).compiles_used
        trainer.step({**weights(0), "b": np.full(4, 6.0)})
        wait_ready(trainer)
        stats = trainer.step({**weights(0), "b": np.full(4, 7.0)})
        assert stats.programs_reused == 1
        assert stats.programs_compiled == 1
        assert stats.compiles_used - used <= 3


def test_frozen_weights_survive_many_generations() -> None:
    """The old set's unload must not take the shared program or its files away."""
    with ane.DoubleBufferedTrainer(kernels(), weights(4)) as trainer:
        for _ in range(6):
            trainer.step(weights(4))
            assert versions(trainer) == (4, 4)


def test_budget_is_reserved_before_the_first_compile() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        trainer.step(weights(1))
        wait_ready(trainer)
        used = int(ane.Engine().info()["compiles"])  # type: ignore[call-overload]
        soft.set("compile_limit", used + 1)  # a set needs two
        trainer.step(weights(2))
        wait_ready(trainer)
        assert ane.Engine().info()["compiles"] == used  # not one of them was begun
        with pytest.raises(ane.BudgetExhausted):
            trainer.step(weights(3))
        assert versions(trainer) == (1, 1)


def test_loaded_programs_stay_within_two_sets() -> None:
    before = int(ane.Engine().info()["loaded"])  # type: ignore[call-overload]
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        peak = 0
        for version in range(1, 12):
            peak = max(peak, trainer.step(weights(version)).programs_loaded)
        assert peak - before <= 4
    assert ane.Engine().info()["loaded"] == before


def test_two_runs_are_identical_to_the_bit(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 64, 1, 32)).astype(np.float32)

    def run() -> np.ndarray:
        w = np.random.default_rng(1).standard_normal((32, 64)).astype(np.float32)
        with ane.DoubleBufferedTrainer(ane.KernelSet([conv()]), {"w": w}) as trainer:
            for _ in range(12):
                y = trainer.eval("conv", x)
                w = w - 0.01 * (y[0, :, 0] @ x[0, :, 0].T)
                trainer.step({"w": w})
        return w

    assert run().tobytes() == run().tobytes()


def test_counters_move_with_the_speed_of_the_engine() -> None:
    def measure() -> ane.BatchStats:
        with ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=0) as trainer:
            for _ in range(3):
                trainer.eval("fwd", X)
            trainer.micro_step()
            return trainer.step(weights(1))

    fast = measure()
    soft.set("failpoints", "facade.compile=delay(40);facade.load=delay(30);facade.eval=delay(20)")
    slow = measure()
    for name in ("engine_compile_ms", "load_ms", "canary_ms", "compile_ms", "wait_ms", "batch_ms"):
        assert getattr(slow, name) > getattr(fast, name) + 15, name
    assert slow.eval_idle_p50_ms is not None
    assert slow.eval_idle_p50_ms >= 20
    assert (slow.evals, slow.micro_steps) == (3, 1)


def test_trace_shows_evals_during_a_compile() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0), trace=1000) as trainer:
        soft.set("failpoints", "facade.compile=delay(50)")
        trainer.step(weights(1))
        while trainer.compiling:
            versions(trainer)
            time.sleep(0.002)
        trainer.step(weights(2))
        events = trainer.drain_trace()
        jobs = [e for e in events if e.kind == "generation" and e.version == 1]
        evals = [e for e in events if e.kind == "eval"]
        assert len(jobs) == 1
        assert any(jobs[0].begin_ns < e.begin_ns and e.end_ns < jobs[0].end_ns for e in evals)
        assert {e.thread for e in evals}.isdisjoint({jobs[0].thread})
        assert {"bake", "compile", "load", "canary", "swap", "submit"} <= {e.kind for e in events}
        assert all(e.begin_ns <= e.end_ns for e in events)
        assert not {e.kind for e in trainer.drain_trace()} & {"swap", "submit"}  # taken once


def test_wired_kernels_share_memory() -> None:
    pair = ane.KernelSet(
        [scale("first", weight="a"), scale("second", weight="b", tag="b")],
        wires={"second.i00_x": "first.o00_y"},
    )
    with ane.DoubleBufferedTrainer(pair, {"a": np.full(4, 3.0), "b": np.full(4, 5.0)}) as trainer:
        trainer.surface("first", "i00_x").array[:] = 2
        trainer.run(["first", "second"])
        assert np.all(trainer.surface("second", "o00_y").array == 30)
        assert np.all(trainer.surface("second", "i00_x").array == 6)
        trainer.surface("first", "o00_y").array[:] = 1
        assert np.all(trainer.surface("second", "i00_x").array == 1)


def test_stages_run_on_one_generation_and_stop_at_the_first_error() -> None:
    cpu.open_blas()
    half = np.ones((1, 4, 1, 32), np.float16)
    dw = np.zeros((4, 4), np.float32)
    jobs = cpu.GradJobs([cpu.GradProduct(half, half, dw)])
    with ane.DoubleBufferedTrainer(kernels(), weights(3)) as trainer:
        for name, value in (("fwd", 2), ("bwd", 4)):
            trainer.surface(name, "i00_x").array[:] = value
        trainer.run_stages(
            cpu.Stages(trainer.kernels, [(["fwd"], jobs), ([], None), (["bwd"], None)])
        )
        cpu.grad_wait()
        assert np.all(trainer.surface("fwd", "o00_y").array == 6)
        assert np.all(trainer.surface("bwd", "o00_y").array == 24)
        assert np.all(dw == 32)
        with pytest.raises(ValueError, match="no kernels"):
            trainer.run_stages(cpu.Stages(trainer.kernels, []))
        with pytest.raises((KeyError, ValueError), match="nobody"):
            cpu.Stages(trainer.kernels, [(["nobody"], None)])
        trainer.surface("bwd", "i00_x").array[:] = 1
        twice = cpu.Stages(trainer.kernels, [(["fwd"], jobs), ([], jobs), (["bwd"], None)])
        with pytest.raises(ValueError, match="same dw"):
            trainer.run_stages(twice)
        cpu.grad_wait()
        assert np.all(dw == 64)  # of the first only
        assert np.all(trainer.surface("bwd", "o00_y").array == 24)  # was not begun
        soft.set("failpoints", "facade.eval=1*return(8)")
        with pytest.raises(ane.EngineError, match="fwd"):
            trainer.run_stages(cpu.Stages(trainer.kernels, [(["fwd"], jobs), (["bwd"], None)]))
        cpu.grad_wait()
        assert np.all(dw == 64)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"a": np.zeros(5)}, ValueError, r"expected shape \(4,\), got \(5,\)"),
        ({"c": np.zeros(4)}, ValueError, "not known"),
        ({"a": np.zeros(4, complex)}, TypeError, "real"),
        ({"a": "text"}, TypeError, "real"),
    ],
)
def test_wrong_weights_are_refused_and_lose_nothing(
    change: dict[str, object], error: type[Exception], match: str
) -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        with pytest.raises(error, match=match):
            trainer.step({**weights(1), **change})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="missing"):
            trainer.step({"a": np.zeros(4)})
        assert trainer.newest == 0
        trainer.step(weights(1))
        assert trainer.newest == 1


@pytest.mark.parametrize("staleness", [-1, 1.5, "1", True])
def test_wrong_staleness_is_refused(staleness: object) -> None:
    with pytest.raises(ValueError, match="staleness"):
        ane.DoubleBufferedTrainer(kernels(), weights(0), staleness=staleness)  # type: ignore[arg-type]


def test_first_compile_that_fails_raises_and_leaves_nothing_loaded() -> None:
    before = ane.Engine().info()["loaded"]
    soft.set("failpoints", "facade.compile=1*off->return(1)")
    with pytest.raises(ane.CompileError):
        ane.DoubleBufferedTrainer(kernels(), weights(0))
    assert ane.Engine().info()["loaded"] == before


def test_close_with_a_compile_in_flight_waits_for_it() -> None:
    before = ane.Engine().info()["loaded"]
    trainer = ane.DoubleBufferedTrainer(kernels(), weights(0))
    soft.set("failpoints", "facade.compile=delay(200)")
    trainer.step(weights(1))
    trainer.close()
    assert ane.Engine().info()["loaded"] == before
    trainer.close()
    for call in (
        lambda: trainer.step(weights(2)),
        lambda: trainer.eval("fwd", X),
        lambda: trainer.run(["fwd"]),
        lambda: trainer.surface("fwd", "o00_y"),
        lambda: trainer.generation,
        lambda: trainer.active_weights,
        trainer.micro_step,
        trainer.drain_trace,
    ):
        with pytest.raises(ane.ClosedError):
            call()


def test_no_eval_mixes_generations_while_steps_go_on() -> None:
    """Threads evaluate without pause; each result must be of one version, never older than before."""
    with ane.DoubleBufferedTrainer(kernels(), weights(0)) as trainer:
        stop = threading.Event()
        errors: list[object] = []

        def work(kernel: str, factor: float) -> None:
            last = 0.0
            while not stop.is_set():
                y = trainer.eval(kernel, X)
                version = float(y.flat[0]) / factor
                if not np.all(y == y.flat[0]) or version < last:
                    errors.append((kernel, version, last))
                last = version

        threads = [threading.Thread(target=work, args=a) for a in (("fwd", 1.0), ("bwd", 2.0))]
        for t in threads:
            t.start()
        for version in range(1, 60):
            trainer.step(weights(version))
        stop.set()
        for t in threads:
            t.join()
        assert not errors
