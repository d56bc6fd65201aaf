# SPDX-License-Identifier: MIT
"""AdamW over rotating masters: the formula, and that nobody's buffer is ever written."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ane_native.errors import CheckpointError, ConfigError, StateError
from ane_native.optim import AdamW, LossScale, constant, warmup_cosine

SHAPES = {"w": (8, 5), "gain": (8,), "table": (17, 3)}


def params(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}


def give_grads(adam: AdamW, rng: np.random.Generator, scale: float = 1.0) -> dict[str, np.ndarray]:
    made = {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in SHAPES.items()}
    for name, grad in made.items():
        adam.grads[name] += grad
    return made


# =============================== The update =====================================


def test_updates_follow_the_formula_with_clipping_and_unscaling(rng: np.random.Generator) -> None:
    start = params(rng)
    adam = AdamW(start, weight_decay=0.1, clip=0.5, loss_scale=LossScale(256.0))
    p = {n: a.astype(np.float64) for n, a in start.items()}
    m = {n: np.zeros(s) for n, s in SHAPES.items()}
    v = {n: np.zeros(s) for n, s in SHAPES.items()}
    for t in range(1, 6):
        given = give_grads(adam, rng, 100.0)
        g = {n: a.astype(np.float64) / (256.0 * 4) for n, a in given.items()}
        norm = math.sqrt(sum((a**2).sum() for a in g.values()))
        info = adam.update(lr=0.01, micro_steps=4, oldest_needed=adam.version)
        assert info.applied
        assert info.grad_norm == pytest.approx(norm, rel=1e-6)
        assert info.clip == pytest.approx(min(1.0, 0.5 / (norm + 1e-6)), rel=1e-6)
        for n in SHAPES:
            g[n] *= info.clip
            m[n] = 0.9 * m[n] + 0.1 * g[n]
            v[n] = 0.95 * v[n] + 0.05 * g[n] ** 2
            decay = 0.1 if p[n].ndim > 1 else 0.0  # gains are not decayed
            step = m[n] / (1 - 0.9**t) / (np.sqrt(v[n] / (1 - 0.95**t)) + 1e-8)
            p[n] = p[n] * (1 - 0.01 * decay) - 0.01 * step
            np.testing.assert_allclose(adam.params[n], p[n], rtol=1e-5, atol=1e-6)
        assert not any(a.any() for a in adam.grads.values())


def test_the_learning_rate_is_not_divided_by_the_loss_scale(rng: np.random.Generator) -> None:
    start = params(rng)
    ends = []
    for scale in (1.0, 4096.0):
        adam = AdamW(start, loss_scale=LossScale(scale), clip=0.0)
        grads = np.random.default_rng(1)
        for _ in range(3):
            give_grads(adam, grads, scale)
            adam.update(lr=0.1, micro_steps=1, oldest_needed=adam.version)
        ends.append(adam.params["w"].copy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_a_bad_gradient_changes_nothing_but_the_loss_scale(
    poison: float, rng: np.random.Generator
) -> None:
    adam = AdamW(params(rng))
    give_grads(adam, rng)
    adam.update(lr=0.1, micro_steps=1, oldest_needed=0)
    before = {n: a.copy() for n, a in adam.params.items()}
    moments = {n: a.copy() for n, a in adam.state_dict()[0].items()}
    give_grads(adam, rng)
    adam.grads["gain"][3] = poison
    info = adam.update(lr=0.1, micro_steps=1, oldest_needed=0)
    assert not info.applied
    assert adam.version == adam.steps == 1
    assert adam.loss_scale.scale == 512.0
    assert adam.loss_scale.skipped == 1
    assert all((adam.params[n] == before[n]).all() for n in before)
    assert all((adam.state_dict()[0][n] == moments[n]).all() for n in moments)
    assert not any(a.any() for a in adam.grads.values())


# =============================== Buffers ========================================


class Scheduler:
    """Reads versions as the real one may: active, pending and everything between.

    Keeps a copy of what it was handed and complains when the arrays changed while needed."""

    def __init__(self, first: dict[str, np.ndarray]) -> None:
        self.held: dict[int, tuple[dict[str, np.ndarray], dict[str, np.ndarray]]] = {}
        self.newest = 0
        self.active = 0

    def take(self, params: dict[str, np.ndarray], submit: bool) -> int:
        self.newest += 1
        if submit:
            self.held[self.newest] = (params, {n: a.copy() for n, a in params.items()})
        return self.newest

    def swap_to(self, version: int) -> None:
        self.active = version
        self.held = {v: h for v, h in self.held.items() if v >= version}

    def check(self) -> None:
        for live, copy in self.held.values():
            assert all((live[n] == copy[n]).all() for n in copy)


@pytest.mark.parametrize("staleness", [0, 1])
def test_three_buffers_are_enough_up_to_a_staleness_of_one(
    staleness: int, rng: np.random.Generator
) -> None:
    adam = AdamW(params(rng))
    scheduler = Scheduler(adam.params)
    for _ in range(20):
        give_grads(adam, rng)
        adam.update(lr=0.1, micro_steps=1, oldest_needed=scheduler.active)
        scheduler.check()
        version = scheduler.take(adam.params, submit=True)
        adam.handed_over(version, True)
        scheduler.swap_to(version - staleness)
    assert len(adam._masters.buffers) <= 3


@pytest.mark.parametrize("seed", range(10))
def test_no_schedule_of_swaps_ever_sees_a_buffer_change(seed: int) -> None:
    rng = np.random.default_rng(seed)
    adam = AdamW(params(rng))
    scheduler = Scheduler(adam.params)
    pending: int | None = None
    for _ in range(200):
        if rng.random() < 0.1:
            adam.grads["w"][0, 0] = np.nan
        info = adam.update(lr=0.01, micro_steps=1, oldest_needed=scheduler.active)
        scheduler.check()
        if not info.applied:
            continue
        if pending is not None and rng.random() < 0.4:  # the compile is ready
            scheduler.swap_to(pending)
            pending = None
        submit = pending is None
        version = scheduler.take(adam.params, submit)
        adam.handed_over(version, submit)
        if submit:
            pending = version
    assert len(adam._masters.buffers) <= 4


# =============================== State ==========================================


def test_a_reloaded_optimizer_continues_to_the_bit(rng: np.random.Generator) -> None:
    adam = AdamW(params(rng))
    grads = np.random.default_rng(3)
    for _ in range(3):
        give_grads(adam, grads)
        adam.update(lr=0.1, micro_steps=1, oldest_needed=adam.version)
    saved = {n: a.copy() for n, a in adam.params.items()}
    tensors, numbers = adam.state_dict()
    tensors = {n: a.copy() for n, a in tensors.items()}
    other = AdamW({n: np.zeros(s, np.float32) for n, s in SHAPES.items()})
    other.load_state_dict(saved, tensors, numbers)
    for a in (adam, other):
        more = np.random.default_rng(4)
        for _ in range(3):
            give_grads(a, more)
            a.update(lr=0.1, micro_steps=1, oldest_needed=a.version)
    assert all(adam.params[n].tobytes() == other.params[n].tobytes() for n in SHAPES)
    assert other.steps == 6


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "steps", "scale"])
def test_a_state_that_does_not_fit_is_refused(change: str, rng: np.random.Generator) -> None:
    adam = AdamW(params(rng))
    tensors, numbers = adam.state_dict()
    if change == "missing":
        del tensors["v.gain"]
    if change == "extra":
        tensors["m.other"] = np.zeros(3, np.float32)
    if change == "shape":
        tensors["m.w"] = np.zeros((5, 8), np.float32)
    if change == "steps":
        del numbers["steps"]
    if change == "scale":
        numbers["loss_scale"] = {"scale": "x"}
    with pytest.raises(CheckpointError):
        adam.load_state_dict(adam.params, tensors, numbers)


@pytest.mark.parametrize("bad", [{"betas": (1.0, 0.9)}, {"betas": (0.9, -1.0)}])
def test_settings_outside_their_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        AdamW({"w": np.zeros(3, np.float32)}, **bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AdamW({})
    with pytest.raises(ConfigError):
        LossScale(1000.0)


# =============================== Loss scale and schedules =======================


def test_loss_scale_doubles_after_good_updates_and_halves_after_a_bad_one() -> None:
    scale = LossScale(1024.0, growth_interval=3, largest=4096.0)
    for _ in range(3):
        scale.update(True)
    assert scale.scale == 2048.0
    scale.update(True)
    scale.update(False)
    assert (scale.scale, scale.skipped, scale.skipped_in_a_row) == (1024.0, 1, 1)
    for _ in range(2):
        scale.update(True)
    assert scale.scale == 1024.0  # counting began again
    for _ in range(20):
        scale.update(True)
    assert scale.scale == 4096.0  # the largest
    for _ in range(50):
        scale.update(False)
    assert scale.scale == 1.0
    assert scale.skipped_in_a_row == 50


def test_warm_up_is_linear_and_the_cosine_ends_at_its_floor() -> None:
    rate = warmup_cosine(1.0, warmup=10, total=110, floor=0.1)
    assert [rate(i) for i in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert rate(10) == pytest.approx(1.0)
    assert rate(60) == pytest.approx(0.55)
    assert rate(110) == rate(10**6) == pytest.approx(0.1)
    falling = [rate(i) for i in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert warmup_cosine(1.0, 0, 1)(0) == pytest.approx(1.0)
    assert constant(0.5)(123) == 0.5


# =============================== Predictions ====================================


def test_predictions_are_handed_over_and_masters_stay_what_they_are(
    rng: np.random.Generator,
) -> None:
    start = params(rng)
    plain, ahead = AdamW(start), AdamW(start, extrapolate=2.0)
    scheduler = Scheduler(ahead.baked)
    assert ahead.baked is ahead.params
    for update in range(1, 9):
        given = give_grads(plain, rng)
        for name, grad in given.items():
            ahead.grads[name] += grad
        before = {n: a.copy() for n, a in plain.params.items()}
        plain.update(lr=0.1, micro_steps=1, oldest_needed=plain.version)
        ahead.update(lr=0.1, micro_steps=1, oldest_needed=scheduler.active)
        for name, w in plain.params.items():
            assert ahead.params[name].tobytes() == w.tobytes()
            want = w + 2 * (w - before[name])
            np.testing.assert_allclose(ahead.baked[name], want, rtol=1e-5, atol=1e-6)
        version = scheduler.take(ahead.baked, submit=True)
        ahead.handed_over(version, True)
        assert ahead.version == version == update
        scheduler.swap_to(max(0, version - 1))
        scheduler.check()
    assert (len(ahead._masters.buffers), len(ahead._ahead.buffers)) == (2, 3)
    kept = {n: a.copy() for n, a in ahead.baked.items()}
    ahead.restart_versions(1, kept)
    assert all((ahead.baked[n] == kept[n]).all() for n in kept)
    ahead.restart_versions(0)
    assert ahead.baked is ahead.params
    with pytest.raises(ConfigError):
        AdamW(start, extrapolate=-1.0)


# =============================== In place =======================================


def half(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


@pytest.mark.parametrize("bake", ["float16", "float32"])
@pytest.mark.parametrize("ahead", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("staleness", [0, 1])
def test_masters_in_place_have_the_bits_of_those_that_take_turns(
    bake: str, ahead: float, staleness: int, rng: np.random.Generator
) -> None:
    start = params(rng)
    start["w"][0, 0], start["w"][0, 1] = -0.0, 1e-6  # a zero with a sign; subnormal in fp16
    turns, place = AdamW(start, extrapolate=ahead), AdamW(start, extrapolate=ahead, bake=bake)
    scheduler = Scheduler(place.baked)
    place.handed_over(0, True)
    for update in range(1, 12):
        for name, grad in give_grads(turns, rng).items():
            place.grads[name] += grad
        if update in (4, 5):
            turns.grads["table"][1, 1] = place.grads["table"][1, 1] = np.nan
        before = {n: (a.tobytes(), place.baked[n].tobytes()) for n, a in place.params.items()}
        one = turns.update(lr=0.1, micro_steps=2, oldest_needed=turns.version)
        two = place.update(lr=0.1, micro_steps=2, oldest_needed=scheduler.active)
        assert one == two
        scheduler.check()
        for name, w in turns.params.items():
            want = turns.baked[name]
            assert place.params[name].tobytes() == w.tobytes()
            made = place.baked[name]
            assert made.tobytes() == (half(want) if bake == "float16" else want).tobytes()
        if not two.applied:
            now = {n: (a.tobytes(), place.baked[n].tobytes()) for n, a in place.params.items()}
            assert now == before
            continue
        assert place.predicted == bool(ahead)
        version = scheduler.take(place.baked, submit=True)
        place.handed_over(version, True)
        scheduler.swap_to(version - staleness)
    for a, b in zip(*(x.state_dict()[0].items() for x in (turns, place)), strict=True):
        assert a[1].tobytes() == b[1].tobytes(), a[0]


def test_masters_in_place_are_one_buffer_and_what_is_handed_over_is_half_of_it(
    rng: np.random.Generator,
) -> None:
    shapes = {"w": (64, 64), "v": (64, 32)}
    start = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    one = sum(w.nbytes for w in start.values())
    counts = {}
    for bake in (None, "float16"):
        adam = AdamW(start, bake=bake, extrapolate=1.0)
        scheduler = Scheduler(adam.baked)
        adam.handed_over(0, True)
        for _ in range(6):
            adam.grads["w"][...] = 1.0
            adam.update(lr=0.1, micro_steps=1, oldest_needed=scheduler.active)
            version = scheduler.take(adam.baked, submit=True)
            adam.handed_over(version, True)
            scheduler.swap_to(version - 1)
        counts[bake] = {kind: size / one for kind, size in adam.nbytes.items()}
    fixed = {"gradients": 1, "moments": 2}
    assert counts[None] == {"masters": 3, "handed over": 3, **fixed}
    assert counts["float16"] == {"masters": 1, "handed over": 1.5, **fixed}


def test_masters_in_place_are_not_to_be_read_while_they_are_written(
    rng: np.random.Generator,
) -> None:
    adam = AdamW(params(rng), bake="float16")
    kept = adam.params
    adam.begin(1, ["w"], oldest_needed=0)
    with pytest.raises(StateError, match="in the background"):
        _ = adam.params
    with pytest.raises(StateError, match="in the background"):
        adam.restart_versions(0)
    adam.cancel()
    assert adam.params is kept
    with pytest.raises(StateError, match="in place"):
        _ = adam.previous
    with pytest.raises(StateError, match="bake None"):
        AdamW(params(rng), bake="float16", clip=0.0).parts(lr=0.1, micro_steps=1, oldest_needed=0)
    with pytest.raises(ConfigError, match="float8"):
        AdamW(params(rng), bake="float8")


@pytest.mark.parametrize("bake", [None, "float16", "float32"])
def test_a_rehearsal_changes_nothing(bake: str | None, rng: np.random.Generator) -> None:
    adam = AdamW(params(rng), bake=bake)
    before = [a.tobytes() for a in (*adam.params.values(), *adam.baked.values())]
    assert adam.rehearse() >= 0
    assert before == [a.tobytes() for a in (*adam.params.values(), *adam.baked.values())]


@pytest.mark.parametrize("bake", ["float16", "float32"])
def test_a_new_scheduler_gets_masters_or_what_was_predicted(
    bake: str, rng: np.random.Generator
) -> None:
    adam = AdamW(params(rng), bake=bake, extrapolate=1.0)
    give_grads(adam, rng)
    adam.update(lr=0.1, micro_steps=1, oldest_needed=0)
    assert adam.predicted
    other = params(rng)
    adam.restart_versions(3, other)
    assert (adam.version, adam.predicted) == (3, True)
    for name, w in adam.as_baked(other).items():
        assert w.tobytes() == adam.baked[name].tobytes()
        assert w.dtype == np.dtype(bake)
    adam.restart_versions(0)
    assert not adam.predicted
    for name, w in adam.as_baked(adam.params).items():
        assert w.tobytes() == adam.baked[name].tobytes()
    with pytest.raises(CheckpointError, match="shape"):
        adam.restart_versions(0, {**other, "w": np.zeros((2, 2), np.float32)})
    with pytest.raises(CheckpointError, match="missing"):
        adam.as_baked({"w": other["w"]})
    moments, numbers = adam.state_dict()
    moments["m.w"] = moments["m.w"].astype(np.float16)
    with pytest.raises(CheckpointError, match="expected float32"):
        adam.load_state_dict(other, moments, numbers)


# =============================== In parts =======================================


@pytest.mark.parametrize("order", [("w", "gain", "table"), ("table", "w"), ()])
def test_an_update_in_parts_has_the_bits_of_one_at_once(
    order: tuple[str, ...], rng: np.random.Generator
) -> None:
    start = params(rng)
    one, parts = AdamW(start, clip=0.0), AdamW(start, clip=0.0)
    for update in range(7):
        given = give_grads(one, rng)
        for name, grad in given.items():
            parts.grads[name] += grad
        if update == 3:
            for adam in (one, parts):
                adam.grads["table"][2, 1] = np.nan
        numbers = {"lr": 0.1, "micro_steps": 2, "oldest_needed": one.version}
        want = one.update(**numbers)
        under_way = parts.parts(**numbers)
        for name in order:
            made = under_way.apply([name])
            if want.applied:
                assert made[name].tobytes() == one.params[name].tobytes()
                assert (parts.params[name] != made[name]).any()  # it does not count yet
        info = under_way.finish()
        assert info.applied == want.applied == (update != 3)
        assert info.grad_norm == pytest.approx(want.grad_norm, rel=1e-12)
        for a, b in zip(*(a.state_dict()[0].items() for a in (one, parts)), strict=True):
            assert a[1].tobytes() == b[1].tobytes(), a[0]
        assert one.state_dict()[1] == parts.state_dict()[1]
        assert all(one.params[n].tobytes() == parts.params[n].tobytes() for n in start)
        assert not any(a.any() for a in parts.grads.values())
    assert parts.version == 6
    assert len(parts._masters.buffers) == 2


def test_parts_that_are_not_finished_leave_nothing(rng: np.random.Generator) -> None:
    adam = AdamW(params(rng), clip=0.0)
    give_grads(adam, rng)
    before = [a.tobytes() for a in (*adam.params.values(), *adam.state_dict()[0].values())]
    under_way = adam.parts(lr=0.1, micro_steps=1, oldest_needed=0)
    under_way.apply(["w", "gain"])
    with pytest.raises(StateError, match="'gain'"):
        under_way.apply(["gain"])
    assert before == [a.tobytes() for a in (*adam.params.values(), *adam.state_dict()[0].values())]
    for refused in (AdamW(params(rng)), AdamW(params(rng), clip=0.0, extrapolate=1.0)):
        with pytest.raises(StateError, match="clip 0"):
            refused.parts(lr=0.1, micro_steps=1, oldest_needed=0)


@pytest.mark.parametrize("bake", [None, "float16", "float32"])
def test_parameters_without_axes_are_parameters(bake: str | None) -> None:
    adam = AdamW({"s": np.float32(2.0), "w": np.ones((2, 2), np.float32)}, bake=bake)
    assert adam.baked["s"].shape == ()
    adam.grads["s"][...] = adam.loss_scale.scale
    assert adam.update(lr=0.5, micro_steps=1, oldest_needed=0).applied
    assert adam.baked["s"] == adam.params["s"] == 1.5
    given = adam.as_baked({"s": 3.0, "w": [[1.0, 2.0], [3.0, 4.0]]})
    assert {n: (w.shape, w.dtype) for n, w in given.items()} == {
        n: (w.shape, w.dtype) for n, w in adam.baked.items()
    }
    assert given["s"] == 3
