# SPDX-License-Identifier: MIT
"""The update in the background: the same weights as in the foreground to the bit, errors told
once, and nothing lost when a set fails, a wait is interrupted or the trainer is closed."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from programs import conv

import ane_native as ane
from ane_native import soft
from ane_native.optim import AdamW, LossScale

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")
X = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(1, 64, 1, 32)
DY = np.linspace(1, -1, 32 * 32, dtype=np.float32).reshape(1, 32, 1, 32)


def kernels() -> ane.KernelSet:
    """One weight baked twice, plain and transposed, and one that no kernel bakes."""
    back = conv("back", cin=32, cout=64, weight=ane.Weight("w", transpose=True))
    return ane.KernelSet([conv("fwd"), back])


def start(rng: np.random.Generator) -> dict[str, np.ndarray]:
    made = {"w": (32, 64), "gain": (7,)}
    return {n: (rng.standard_normal(s) / 8).astype(np.float32) for n, s in made.items()}


_serial = itertools.count(100)


@pytest.fixture
def rng() -> np.random.Generator:
    """Weights no other test has compiled, so that nothing comes from a cache."""
    return np.random.default_rng(next(_serial))


def optimizer(params: dict[str, np.ndarray], bake: str | None = None) -> AdamW:
    scale = LossScale(64.0)
    return AdamW(params, lr=lambda update: 0.05 / (1 + update), loss_scale=scale, bake=bake)


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    soft.set("compile_limit", 0)
    yield
    soft.set("failpoints", "")
    soft.set("compile_limit", None)


def batch(trainer: ane.DoubleBufferedTrainer, adam: AdamW, number: int) -> np.ndarray:
    """Gradients that depend on what the active generation computes; some are not finite."""
    y = np.concatenate([trainer.eval("fwd", X).ravel(), trainer.eval("back", DY).ravel()])
    adam.grads["w"] += 64.0 * y[: 32 * 64 : 1][:2048].reshape(32, 64) * (number + 1)
    adam.grads["gain"] += float(np.float16(trainer.active_weights["gain"][0])) + number
    if number % 5 == 3:
        adam.grads["w"][3, 4] = np.inf if number % 2 else np.nan
    return y


def ready(trainer: ane.DoubleBufferedTrainer) -> None:
    """Wait until nothing is being built."""
    until = time.monotonic() + 60
    while trainer.compiling:
        assert time.monotonic() < until
        time.sleep(0.001)


def run(
    staleness: int,
    background: bool,
    updates: int = 40,
    bake: str | None = None,
    extrapolate: float = 0.0,
    install: bool = False,
) -> tuple[list[bytes], AdamW]:
    """What each batch computed, and the optimizer at the end."""
    adam = optimizer(start(np.random.default_rng(1)), bake)
    adam.extrapolate = extrapolate
    seen = []
    with ane.DoubleBufferedTrainer(
        *(kernels(), adam.baked),
        staleness=staleness,
        update=adam if background else None,
        handover=True,
    ) as trainer:
        adam.handed_over(0, True)
        scale = adam.loss_scale.scale
        for number in range(updates):
            seen.append(batch(trainer, adam, number).tobytes())
            before = adam.loss_scale.scale
            if background:
                trainer.step_update(micro_steps=2, loss_scale=scale)
                scale = adam.loss_scale.scale
                continue
            if install:
                ready(trainer)
                trainer.install()
            info = adam.update(
                lr=0.05 / (1 + number),
                micro_steps=2,
                oldest_needed=trainer.oldest_needed,
                loss_scale=scale,
            )
            if info.applied:
                stats = trainer.step(adam.baked, handover=True)
                adam.handed_over(stats.newest, stats.submitted)
            else:
                trainer.step(None)
            scale = before if staleness else adam.loss_scale.scale
        if background:
            trainer.settle()
    return seen, adam


@pytest.mark.parametrize("staleness", [0, 1])
def test_background_updates_equal_foreground_updates_to_the_bit(staleness: int) -> None:
    (one, fore), (two, back) = run(staleness, False), run(staleness, True)
    assert one == two
    assert fore.steps == back.steps == 32
    assert fore.loss_scale.state_dict() == back.loss_scale.state_dict()
    assert fore.loss_scale.skipped == 8
    for name, value in fore.params.items():
        assert value.tobytes() == back.params[name].tobytes()
    for name, value in fore.state_dict()[0].items():
        assert value.tobytes() == back.state_dict()[0][name].tobytes()


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("extrapolate", [0.0, 1.0])
def test_masters_in_place_give_the_bits_of_those_that_are_handed_over(
    staleness: int, extrapolate: float
) -> None:
    """Kernels made from rounded arrays, in the foreground and behind the boundary."""
    turns, _ = run(staleness, False, bake="float32", extrapolate=extrapolate)
    same, _ = run(staleness, False, extrapolate=extrapolate)
    assert turns == same
    one, fore = run(staleness, False, bake="float16", extrapolate=extrapolate)
    two, back = run(staleness, True, bake="float16", extrapolate=extrapolate)
    assert one == two == turns
    for name, value in fore.params.items():
        assert value.tobytes() == back.params[name].tobytes()
    for name, value in fore.state_dict()[0].items():
        assert value.tobytes() == back.state_dict()[0][name].tobytes()
    size = fore.nbytes["masters"]
    assert size == back.nbytes["masters"] == fore.nbytes["gradients"]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize(("background", "install"), [(True, False), (False, True), (False, False)])
def test_two_buffers_are_enough_for_what_is_handed_over(
    background: bool, install: bool, staleness: int
) -> None:
    """Active and pending: behind the boundary, or where what is ready is installed first."""
    settings = {"bake": "float16", "extrapolate": 1.0}
    seen, adam = run(staleness, background, install=install, **settings)
    wanted = 2 if background or install or not staleness else 3
    assert len(adam._ahead.buffers) == wanted
    assert len(adam._masters.buffers) == 1
    assert seen == run(staleness, background, **settings)[0]


def test_install_takes_what_is_ready_and_leaves_an_error_to_the_step(
    rng: np.random.Generator,
) -> None:
    params = start(rng)
    with ane.DoubleBufferedTrainer(kernels(), params, handover=True) as trainer:
        assert not trainer.install()  # there is nothing
        trainer.step({n: 2 * p for n, p in params.items()}, handover=True)
        ready(trainer)
        before = trainer.generation, trainer.oldest_needed
        assert trainer.install()
        assert (before, trainer.generation, trainer.oldest_needed) == ((0, 0), 1, 1)
        assert not trainer.install()
        stats = trainer.step({n: 3 * p for n, p in params.items()}, handover=True)
        assert (stats.swapped, stats.generation, stats.newest) == (True, 1, 2)
        trainer.step(None)
        soft.set("failpoints", "facade.compile=return(1)")
        trainer.step({n: 5 * p for n, p in params.items()})
        ready(trainer)
        assert not trainer.install()
        soft.set("failpoints", "")
        with pytest.raises(ane.CompileError):
            trainer.step(params)
        assert trainer.step(params).newest == 4
    with pytest.raises(ane.ClosedError):
        trainer.install()


@pytest.mark.parametrize("bake", [None, "float16", "float32"])
def test_the_update_writes_the_bytes_that_a_bake_writes(
    bake: str | None, rng: np.random.Generator
) -> None:
    adam = optimizer(start(rng), bake)
    with ane.DoubleBufferedTrainer(kernels(), adam.baked, staleness=0, update=adam) as trainer:
        for number in (0, 1, 2):
            batch(trainer, adam, number)
            assert trainer.step_update().generation == number + 1
            fused = trainer.eval("fwd", X), trainer.eval("back", DY)
            with ane.DoubleBufferedTrainer(kernels(), adam.params) as plain:  # copies
                assert plain.active_weights["w"].dtype == np.float32
                assert fused[0].tobytes() == plain.eval("fwd", X).tobytes()
                assert fused[1].tobytes() == plain.eval("back", DY).tobytes()
            assert trainer.active_weights["w"] is adam.baked["w"]


@pytest.mark.parametrize("staleness", [2, None])
def test_with_a_loose_bound_every_update_is_applied_in_order(staleness: int | None) -> None:
    adam, lone = (optimizer(start(np.random.default_rng(2))) for _ in range(2))
    given = np.random.default_rng(3)
    with ane.DoubleBufferedTrainer(
        kernels(), adam.params, staleness=staleness, update=adam
    ) as trainer:
        soft.set("failpoints", "facade.compile=50%delay(5)")
        for number in range(40):
            grad = {n: given.standard_normal(p.shape) for n, p in adam.params.items()}
            stats = trainer.step_update({n: g.astype(np.float32) for n, g in grad.items()})
            assert staleness is None or stats.staleness <= staleness
            for name, g in grad.items():
                lone.grads[name][...] = g
            lone.update(lr=0.05 / (1 + number), micro_steps=1, oldest_needed=lone.version)
        trainer.settle()
    assert all(adam.params[n].tobytes() == lone.params[n].tobytes() for n in adam.params)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("bake", [None, "float16"])
def test_a_failed_set_loses_no_update(
    bake: str | None, staleness: int, rng: np.random.Generator
) -> None:
    adam = optimizer(start(rng), bake)
    with ane.DoubleBufferedTrainer(
        kernels(), adam.baked, staleness=staleness, update=adam
    ) as trainer:
        batch(trainer, adam, 0)
        soft.set("failpoints", "facade.compile=1*return(1)")
        if staleness == 0:
            with pytest.raises(ane.CompileError):
                trainer.step_update()
        else:
            trainer.step_update()
            batch(trainer, adam, 1)
            with pytest.raises(ane.CompileError):
                trainer.step_update()
        trainer.settle()
        assert adam.steps == 1
        stats = trainer.step(adam.baked, handover=True)
        adam.handed_over(stats.newest, stats.submitted)
        batch(trainer, adam, 2)
        trainer.step_update()
        assert trainer.newest - trainer.generation <= 1


def test_an_update_under_way_is_finished_by_close(rng: np.random.Generator) -> None:
    params = start(rng)
    adam, lone = optimizer(params), optimizer(params)
    trainer = ane.DoubleBufferedTrainer(kernels(), adam.params, update=adam)
    for a in (adam, lone):
        a.grads["w"][...] = 3.0
    trainer.step_update()
    with pytest.raises(ane.StateError):
        adam.state_dict()
    trainer.close()
    lone.update(lr=0.05, micro_steps=1, oldest_needed=0)
    assert adam.settled
    assert adam.params["w"].tobytes() == lone.params["w"].tobytes()


# =============================== A function =====================================


def test_a_function_makes_the_weights_on_a_thread_of_the_trainer(rng: np.random.Generator) -> None:
    params = start(rng)
    threads, versions = set(), []

    def update(gradients: float, version: int) -> dict[str, np.ndarray] | None:
        threads.add(threading.current_thread())
        versions.append(version)
        return None if version == 3 else {n: p * gradients for n, p in params.items()}

    with ane.DoubleBufferedTrainer(kernels(), params, update=update) as trainer:
        base = trainer.eval("fwd", X)
        factors = [2.0, 4.0, 9.0, 0.5, 1.0]
        ran_on = [1.0]
        for factor in factors:
            trainer.step_update(factor)
            ran_on.append(float(trainer.eval("fwd", X)[0, 0, 0, 0] / base[0, 0, 0, 0]))
        # one behind; the third was left out, so the fourth batch stays on the second
        assert ran_on == [1.0, 1.0, 2.0, 4.0, 4.0, 0.5]
        trainer.settle()
        assert versions == [1, 2, 3, 4, 5]
        assert len(threads) == 1
        assert threading.main_thread() not in threads
    (thread,) = threads
    thread.join(10)
    assert not thread.is_alive()


def test_an_error_of_the_function_is_told_once(rng: np.random.Generator) -> None:
    params = start(rng)

    def update(gradients: object, version: int) -> dict[str, np.ndarray]:
        if version == 2:
            raise RuntimeError("no idea")
        return {"w": np.zeros(3)} if version == 3 else params

    with ane.DoubleBufferedTrainer(kernels(), params, update=update) as trainer:
        trainer.step_update()
        trainer.step_update()
        with pytest.raises(ane.UpdateError, match="no idea") as told:
            trainer.step_update()
        assert isinstance(told.value.__cause__, RuntimeError)
        assert trainer.step_update().generation == 1  # version 3, which does not fit
        with pytest.raises(ane.UpdateError, match="missing"):
            trainer.settle()
        trainer.settle()
        assert trainer.step_update().staleness == 1


def test_close_does_not_wait_for_a_function_that_hangs(rng: np.random.Generator) -> None:
    released = threading.Event()

    def update(gradients: object, version: int) -> None:
        released.wait(60)

    trainer = ane.DoubleBufferedTrainer(kernels(), start(rng), update=update)
    trainer.step_update()
    begin = time.monotonic()
    trainer.close(timeout=0.2)
    assert time.monotonic() - begin < 30
    released.set()


def test_an_interrupted_wait_keeps_what_was_taken(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam = optimizer(start(rng))
    with ane.DoubleBufferedTrainer(kernels(), adam.params, staleness=0, update=adam) as trainer:
        batch(trainer, adam, 0)

        def interrupted() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(type(trainer), "_finish", lambda self: interrupted())
            with pytest.raises(KeyboardInterrupt):
                trainer.step_update()
        assert trainer.newest == 1
        batch(trainer, adam, 1)
        assert trainer.step_update().generation == 2
        assert adam.steps == 2


def test_wrong_calls_are_told(rng: np.random.Generator) -> None:
    params = start(rng)
    with pytest.raises(TypeError):
        ane.DoubleBufferedTrainer(kernels(), params, update=3)  # type: ignore[arg-type]
    with (
        ane.DoubleBufferedTrainer(kernels(), params) as trainer,
        pytest.raises(ane.StateError, match="without update"),
    ):
        trainer.step_update()
    adam = optimizer(params)
    with ane.DoubleBufferedTrainer(kernels(), params, update=adam) as trainer:
        with pytest.raises(ValueError, match="expected"):
            trainer.step_update({"w": params["w"]})
        with pytest.raises(ValueError, match="shape"):
            trainer.step_update({"w": params["w"].T, "gain": params["gain"]})
        with pytest.raises(TypeError, match="expected a mapping, got int"):
            trainer.step_update(5)
        before = adam.grads["w"].copy()
        words = np.full(params["gain"].shape, "x")
        with pytest.raises(TypeError, match="gradient 'gain': expected numbers, got <U1"):
            trainer.step_update({"w": params["w"] + 1, "gain": words})
        assert np.array_equal(adam.grads["w"], before)
        with pytest.raises(ValueError, match="lr"):
            trainer.step_update(lr=-1.0)
        assert adam.settled
        assert trainer.step_update().newest == 1


def test_masters_that_are_updated_in_place_are_not_handed_over(rng: np.random.Generator) -> None:
    params = start(rng)
    adam = optimizer(params, "float16")
    refused = pytest.raises(ValueError, match="updated in place.*hand over `baked`")
    with refused:
        ane.DoubleBufferedTrainer(kernels(), adam.params, handover=True)
    with ane.DoubleBufferedTrainer(kernels(), params, staleness=0) as trainer:
        for call in (trainer.step, trainer.offer):
            with pytest.raises(ValueError, match="updated in place"):
                call(adam.params, handover=True)
        assert trainer.newest == 0
        assert trainer.step(adam.params).generation == 1  # a copy is safe
    # Of kernels made from rounded arrays masters are rounded, that is copied.
    with ane.DoubleBufferedTrainer(kernels(), adam.baked, staleness=0) as trainer:
        trainer.step(adam.params, handover=True)
        assert trainer.active_weights["w"].dtype == np.float16
        assert trainer.active_weights["w"].tobytes() == adam.baked["w"].tobytes()
    with (
        ane.DoubleBufferedTrainer(kernels(), params, update=adam) as trainer,
        pytest.raises(ValueError, match="makes weights of float16, the trainer was made with"),
    ):
        trainer.step_update()
    assert adam.settled
    plain = optimizer(params)
    with (
        ane.DoubleBufferedTrainer(kernels(), adam.baked, update=plain) as trainer,
        pytest.raises(ValueError, match="makes weights of float32, the trainer was made with"),
    ):
        trainer.step_update()


# =============================== A failed set, then nothing new =================


def fail_in_the_call(trainer: ane.DoubleBufferedTrainer, give: object) -> None:
    """A set fails in the very call that took its gradients: the bound is broken afterwards."""
    soft.set("failpoints", "facade.compile=return(1)")
    for _ in range(4):
        with contextlib.suppress(ane.CompileError):
            trainer.step_update(give)
        if trainer.newest - trainer.generation > trainer.staleness:
            break
    else:
        pytest.fail("no set failed after its gradients were taken")
    soft.set("failpoints", "")


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("bake", [None, "float16"])
def test_a_skipped_update_after_a_failed_set_builds_the_newest_weights(
    bake: str | None, staleness: int, rng: np.random.Generator
) -> None:
    adam = optimizer(start(rng), bake)
    good = {n: np.full(p.shape, 64.0, np.float32) for n, p in adam.params.items()}
    bad = {n: np.full(p.shape, np.nan, np.float32) for n, p in adam.params.items()}
    with ane.DoubleBufferedTrainer(
        kernels(), adam.baked, staleness=staleness, update=adam
    ) as trainer:
        fail_in_the_call(trainer, good)
        trainer.settle()
        applied = adam.steps
        for _ in range(3):
            assert trainer.step_update(bad).staleness <= staleness
            trainer.settle()
            assert not trainer.update_info.applied
        assert adam.steps == applied
        assert trainer.active_weights["w"] is adam.baked["w"]
        for _ in range(5):  # buffers of the masters take turns as before
            trainer.step_update(good)
            active = {n: p.copy() for n, p in trainer.active_weights.items()}
            y = trainer.eval("fwd", X)
            with ane.DoubleBufferedTrainer(kernels(), active) as plain:
                assert y.tobytes() == plain.eval("fwd", X).tobytes()
            trainer.settle()
            assert all(
                p.tobytes() == active[n].tobytes() for n, p in trainer.active_weights.items()
            )
        assert adam.steps == applied + 5


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_function_that_has_nothing_after_a_failed_set(
    staleness: int, rng: np.random.Generator
) -> None:
    params = start(rng)

    def update(factor: float | None, version: int) -> dict[str, np.ndarray] | None:
        if factor == 0.0:
            raise RuntimeError("no idea")
        return None if factor is None else {n: p * factor for n, p in params.items()}

    with ane.DoubleBufferedTrainer(
        kernels(), params, staleness=staleness, update=update
    ) as trainer:
        fail_in_the_call(trainer, 3.0)
        if staleness == 0:
            with pytest.raises(ane.UpdateError, match="no idea"):
                trainer.step_update(
                    0.0
                )  # what it raised is told, and the set is built all the same
        assert trainer.step_update(None).staleness <= staleness
        trainer.settle()
        trainer.step_update(None)
        np.testing.assert_array_equal(trainer.active_weights["w"], params["w"] * 3)
        for factor in (4.0, 5.0, 6.0, 7.0, 8.0):  # the copies are not used twice
            trainer.step_update(factor)
            seen = trainer.active_weights["w"].copy()
            trainer.settle()
            np.testing.assert_array_equal(trainer.active_weights["w"], seen)
            behind = max(3.0, factor - staleness)
            np.testing.assert_array_equal(seen, params["w"] * np.float32(behind))


def test_weights_given_after_a_failed_set_replace_what_a_function_made(
    rng: np.random.Generator,
) -> None:
    params = start(rng)

    def update(factor: float | None, version: int) -> dict[str, np.ndarray] | None:
        return None if factor is None else {n: p * factor for n, p in params.items()}

    with ane.DoubleBufferedTrainer(kernels(), params, staleness=0, update=update) as trainer:
        fail_in_the_call(trainer, 3.0)
        soft.set("failpoints", "facade.compile=return(1)")
        with pytest.raises(ane.CompileError):
            trainer.step({n: p * 5 for n, p in params.items()})
        soft.set("failpoints", "")
        trainer.step_update(None)
        np.testing.assert_array_equal(trainer.active_weights["w"], params["w"] * 5)
        soft.set("failpoints", "facade.compile=return(1)")
        with pytest.raises(ane.CompileError):
            trainer.step({n: p * 7 for n, p in params.items()}, handover=True)
        soft.set("failpoints", "")
        with pytest.raises(ane.StateError, match="not here"):  # those may be written again
            trainer.step_update(None)
        assert trainer.step({n: p * 7 for n, p in params.items()}).staleness == 0


@pytest.mark.parametrize("staleness", [0, 1])
def test_weights_beside_those_of_the_optimizer_are_built_again_too(
    staleness: int, rng: np.random.Generator
) -> None:
    first = start(rng)
    trained = {n: p for n, p in first.items() if n != "w"}
    made: dict[int, np.ndarray] = {}

    def beside(version: int) -> dict[str, np.ndarray]:
        made[version] = first["w"] * np.float32(1 + version / 64)
        return {"w": made[version]}

    adam = AdamW(trained, bake="float32", beside=beside)
    good = {n: np.full(p.shape, 64.0, np.float32) for n, p in trained.items()}
    bad = {n: np.full(p.shape, np.nan, np.float32) for n, p in trained.items()}
    with ane.DoubleBufferedTrainer(
        kernels(), {**adam.baked, "w": first["w"]}, staleness=staleness, update=adam
    ) as trainer:
        fail_in_the_call(trainer, good)
        trainer.settle()
        stats = trainer.step_update(bad)
        assert stats.staleness <= staleness
        assert max(made) == stats.newest
        assert trainer.active_weights["w"].tobytes() == made[stats.generation].tobytes()
        y = trainer.eval("fwd", X)
        with ane.DoubleBufferedTrainer(kernels(), dict(trainer.active_weights)) as plain:
            assert y.tobytes() == plain.eval("fwd", X).tobytes()
