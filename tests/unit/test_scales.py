# SPDX-License-Identifier: MIT
"""The choice of powers of two at its edges, and that undoing them is exact."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import ane_native as ane
from ane_native import cpu, mil
from ane_native.errors import CheckpointError
from ane_native.models import llama_scales
from ane_native.models.llama import PRESETS, LlamaConfig, LlamaProgram, parameter_shapes
from ane_native.models.llama_scales import STREAM, Peak, carried, choose, fit, none_chosen, undone
from ane_native.optim import LossScale
from ane_native.scaling import FORGET, Ranges, Scales

TINY = PRESETS["tiny"]
SMALLEST = 2.0**-24  # subnormal in fp16

# =============================== fit ============================================


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        (0.0, 9, 8),  # nothing there: nothing to lose
        (-0.0, 9, 8),
        (math.inf, 9, 0),
        (-math.inf, 9, 0),
        (math.nan, 9, 0),
        (SMALLEST, 9, 8),
        (5e-324, 9, 8),
        (2.0, 9, 8),  # the border belongs to the window
        (math.nextafter(2.0, 3.0), 9, 7),
        (math.nextafter(2.0, 1.0), 9, 8),
        (-4.0, 9, 7),
        (512.0, 9, 0),
        (math.nextafter(512.0, 0.0), 9, 0),
        (256.0, 9, 1),
        (32768.0, 9, 0),  # above: a scale never makes smaller
        (65504.0, 9, 0),
        (1e300, 9, 0),
        (1.0, -4, 0),
    ],
)
def test_fit_at_its_edges(value: float, limit: int, expected: int) -> None:
    assert fit(value, limit) == expected


def test_fit_is_the_largest_that_stays_within(rng: np.random.Generator) -> None:
    for value in 2.0 ** rng.uniform(-30, 20, 500):
        s = fit(float(value), 9)
        assert 0 <= s <= 8
        assert s == 0 or value * 2.0**s <= 512
        assert s == 8 or value * 2.0 ** (s + 1) > 512


# =============================== ranges =========================================


def halves(*bits: int) -> np.ndarray:
    return np.array(bits, np.uint16).view(np.float16)


def test_the_peak_of_a_surface_is_numpys() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 7, 31, 4096, 70001):
        x = rng.integers(0, 0x7C00, n, dtype=np.uint16) | (rng.integers(0, 2, n) << 15)
        x = x.astype(np.uint16).view(np.float16)
        assert cpu.half_peak(x) == float(np.abs(x.astype(np.float32)).max())
    assert cpu.half_peak(np.zeros(5, np.float16)) == 0.0
    assert cpu.half_peak(halves(0x8000)) == 0.0
    assert cpu.half_peak(halves(0x8001, 0)) == SMALLEST
    assert cpu.half_peak(halves(0x7BFF, 0xFC00)) == math.inf
    assert math.isnan(cpu.half_peak(halves(0x7C00, 0xFE00)))
    assert cpu.half_peak(np.empty(0, np.float16)) == 0.0


def test_a_range_forgets_slowly_and_keeps_no_infinity() -> None:
    ranges = Ranges()
    assert ranges.add("a", 96.0, 5)
    assert ranges.largest["a"] == 3.0
    assert not ranges.add("a", math.inf, 5)
    assert not ranges.add("a", math.nan, 5)
    assert ranges.largest["a"] == 3.0
    assert ranges.add("a", 0.0, 5)
    assert ranges.largest["a"] == 3.0 * FORGET
    assert ranges.add("a", SMALLEST, 24)
    assert ranges.largest["a"] == 3.0 * FORGET * FORGET
    assert ranges.add("b", SMALLEST, 24)
    assert ranges.largest["b"] == 2.0**-48


# =============================== choose =========================================


def a_choice(
    config: LlamaConfig, ranges: dict[str, float], peak: float, caution: int = 0
) -> dict[str, int]:
    peaks = {
        n: Peak(peak, 4 * peak, 4 * peak) for n, s in parameter_shapes(config).items() if s[1:]
    }
    return choose(config, ranges, peaks, caution)


def names() -> list[str]:
    return list(Scales(LlamaProgram(TINY, scaled=True)).ports)


def check(
    config: LlamaConfig, ranges: dict[str, float], chosen: dict[str, int], peak: float
) -> None:
    """What must hold of every choice."""
    assert chosen.keys() == none_chosen(config).keys()
    assert 0 <= chosen[STREAM] <= 24
    assert all(0 <= e <= 16 for slot, e in chosen.items() if slot != STREAM)
    assert all(0 <= e <= 14 for _, e in undone(config, chosen).values())
    carry = carried(config, chosen)
    for i in range(config.layers):
        at = f"L{i}.attn_bwd."
        assert carry[f"{at}dq"] + chosen[f"{at}qk_t"] == carry[f"{at}dv"] + chosen[f"{at}v_t"]
        assert carry[f"{at}dn"] == carry[f"{at}dq"] + chosen[f"{at}qk_t"]
    for slot, e in chosen.items():
        if slot != STREAM and e:
            assert peak * 2.0**e <= 2.0**13
    stream = chosen[STREAM]
    for name, value in ranges.items():
        at = value * 2.0 ** carry.get(name, 0)
        if name.endswith(".dx"):
            assert stream == 0 or at <= 256
        elif carry.get(name, 0) > stream and "_bwd." in name:  # lifted by a slot
            assert at <= 512


def test_choices_hold_for_ranges_of_all_sizes(rng: np.random.Generator) -> None:
    for _ in range(200):
        peak = float(2.0 ** rng.uniform(-20, 6))
        ranges = {n: float(2.0 ** rng.uniform(-40, 15)) for n in names()}
        check(TINY, ranges, a_choice(TINY, ranges, peak), peak)


@pytest.mark.parametrize("value", [0.0, SMALLEST, 2.0**-14, 1.0, 32752.0, 65504.0])
@pytest.mark.parametrize("peak", [0.0, SMALLEST, 0.02, 65504.0])
@pytest.mark.parametrize("caution", [0, 8])
def test_choices_hold_at_the_borders_of_fp16(value: float, peak: float, caution: int) -> None:
    ranges = dict.fromkeys(names(), value)
    chosen = a_choice(TINY, ranges, peak, caution)
    check(TINY, ranges, chosen, peak)
    if (value == 65504.0 and peak >= 0.02) or peak == 65504.0:
        assert all(e == 0 for slot, e in chosen.items() if slot != STREAM)
    if value == peak == 0.0 and not caution:
        assert chosen["head_bwd.embedding_t"] == 8
        assert max(e for _, e in undone(TINY, chosen).values()) == 14


def test_a_larger_gradient_lowers_the_stream_by_as_much(rng: np.random.Generator) -> None:
    ranges = {n: 2.0**-6 for n in names()}
    before = a_choice(TINY, ranges, 0.02)[STREAM]
    after = a_choice(TINY, {**ranges, "L0.attn_bwd.dx": 2.0**-3}, 0.02)[STREAM]
    assert (before, after) == (14, 11)


def test_caution_lowers_what_products_reach() -> None:
    ranges = dict.fromkeys(names(), 0.25)
    usual, careful = (a_choice(TINY, ranges, 0.02, c) for c in (0, 4))
    assert careful[STREAM] == usual[STREAM] - 4
    for name, total in carried(TINY, usual).items():
        if "_bwd." in name:  # a smaller stream may leave more room to a slot: never more in all
            assert carried(TINY, careful)[name] <= total - 4


# =============================== names ==========================================


def test_the_tensors_are_what_the_kernels_bake() -> None:
    program = LlamaProgram(TINY, scaled=True)
    scales = Scales(program)
    made = scales.tensors(0)
    baked = set(program.kernel_set().weight_names)
    assert baked - set(parameter_shapes(TINY)) == set(made)
    assert not set(LlamaProgram(TINY).kernel_set().weight_names) - set(parameter_shapes(TINY))
    for name, array in made.items():
        assert (array == 1.0).all(), name  # nothing is known yet
    for file in (w for k in program.kernel_set().kernels for w in k.weights.values()):
        if isinstance(file, ane.Weight) and file.scale is not None:
            assert made[file.scale].shape == (1,)


def test_exponents_belong_to_versions_and_old_ones_are_forgotten() -> None:
    scales = Scales(LlamaProgram(TINY, scaled=True))
    for version in range(12):
        scales.chosen = {**scales.chosen, STREAM: version}
        tensors = scales.tensors(version)
        assert tensors is not scales.tensors()
    assert scales.of(11)[STREAM] == 11
    assert scales.of(4)[STREAM] == 4
    with pytest.raises(KeyError):
        scales.of(3)


# =============================== state ==========================================


def test_the_state_comes_back_through_json(rng: np.random.Generator) -> None:
    scales = Scales(LlamaProgram(TINY, scaled=True))
    scales.handed(3, {**scales.chosen, STREAM: 7})
    scales.handed(4, {**scales.chosen, STREAM: 9})
    scales.ranges.largest = {n: float(rng.uniform(0, 1)) * FORGET for n in names()}
    scales.caution, scales.skips = 2, 5
    params = {n: rng.standard_normal(s).astype("f4") for n, s in parameter_shapes(TINY).items()}
    scales.choose(params, 16)
    text = json.dumps(scales.state_dict(newest=4, active=3))
    other = Scales(LlamaProgram(TINY, scaled=True))
    active = other.load_state_dict(json.loads(text))
    assert active[STREAM] == 7
    assert other.chosen[STREAM] == 9
    other.handed(3, active)
    other.handed(4)
    assert json.dumps(other.state_dict(4, 3)) == text
    scales.choose(params, 17)
    other.choose(params, 17)
    assert scales.chosen == other.chosen


def test_a_state_that_does_not_fit_is_an_error_of_the_checkpoint() -> None:
    good = Scales(LlamaProgram(TINY, scaled=True)).state_dict(0, 0)
    for broken in (
        {},
        {**good, "newest": None},
        {**good, "newest": {STREAM: 3}},
        {**good, "ranges": {"a": "much"}},
        {**good, "peaks": {"a": [1, 2, 3, 4]}},
        {**good, "caution": "x"},
    ):
        with pytest.raises(CheckpointError, match="scales"):
            Scales(LlamaProgram(TINY, scaled=True)).load_state_dict(broken)


def test_a_loss_scale_that_is_a_constant_only_counts() -> None:
    scale = LossScale(64.0, 1, dynamic=False)
    for finite in (True, False, True, True):
        scale.update(finite)
    assert (scale.scale, scale.skipped, scale.grown, scale.halved) == (64.0, 1, 0, 0)


# =============================== exact ==========================================


def test_gradients_undo_powers_of_two_exactly(rng: np.random.Generator) -> None:
    cpu.open_blas()
    dy, x = (rng.standard_normal((n, 96)).astype(np.float16) for n in (48, 80))
    tokens = rng.integers(0, 16, 96).astype(np.int32)
    plain: list[np.ndarray] = []
    for exponent in (0, -13, 24, 7):
        carrying = dy * np.float16(2.0**3)  # exact: no subnormal among them times 8
        dw, gain = np.zeros((48, 80), "f4"), np.zeros(48, "f4")
        jobs = cpu.GradJobs(
            [cpu.GradProduct(carrying, x, dw), cpu.GradProduct(carrying, x[:48], gain)]
        )
        jobs.undo([exponent - 3, exponent - 3])
        cpu.grad_submit(jobs)
        cpu.grad_wait()
        table = np.zeros((16, 48), "f4")
        cpu.embed_backward(carrying, tokens, table, exponent - 3)
        made = [dw, gain, table]
        plain = plain or made
        for mine, first in zip(made, plain, strict=True):
            np.testing.assert_array_equal(mine, first * np.float32(2.0**exponent))


@pytest.mark.parametrize("exponent", [-121, 121, 2**31 - 1])
def test_exponents_outside_fp32_are_refused(exponent: int) -> None:
    cpu.open_blas()
    h, f = np.zeros((4, 32), np.float16), np.zeros((4, 4), "f4")
    jobs = cpu.GradJobs([cpu.GradProduct(h, h, f)])
    jobs.undo([exponent])
    with pytest.raises(ValueError, match="-120 to 120"):
        cpu.grad_submit(jobs)
    with pytest.raises(ValueError, match="-120 to 120"):
        cpu.embed_backward(h, np.zeros(32, np.int32), f, exponent)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("exponent", [-9, 0, 8, 14])
def test_a_scaled_bake_is_the_rounded_product(transpose: bool, exponent: int) -> None:
    """Also where the weight alone is subnormal in fp16: it is multiplied before it is rounded."""
    rng = np.random.default_rng(exponent + 9)
    w = (rng.standard_normal((64, 64)) * 2.0 ** rng.uniform(-22, -1, (64, 64))).astype(np.float32)
    f = mil.Function()
    weight = f.weight("w", (64, 64, 1, 1), ane.Weight("w", transpose=transpose, scale="s"))
    f.output("y", f.conv(f.input("x", (1, 64, 1, 64)), weight))
    text = f.build()
    kernel = ane.Kernel(
        "k", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
    )
    factor = np.float32(2.0**exponent)
    identity = np.eye(64, dtype=np.float32).reshape(1, 64, 1, 64)
    with ane.Program(kernel, {"w": w, "s": np.full(1, factor)}) as program:
        got = program.eval(identity).reshape(64, 64)
    expected = ((w.T if transpose else w) * factor).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


def test_a_scale_is_one_number_and_among_the_weights() -> None:
    f = mil.Function()
    weight = f.weight("w", (32, 32, 1, 1), ane.Weight("w", scale="s"))
    f.output("y", f.conv(f.input("x", (1, 32, 1, 32)), weight))
    text = f.build()
    kernel = ane.Kernel(
        "k", text.text, inputs=text.inputs, outputs=text.outputs, weights=text.weights
    )
    w = np.ones((32, 32), np.float32)
    with pytest.raises(ValueError, match="'s'"):
        ane.DoubleBufferedTrainer(ane.KernelSet([kernel]), {"w": w})
    with pytest.raises(ValueError, match="its scale has 2 elements, expected 1"):
        ane.DoubleBufferedTrainer(ane.KernelSet([kernel]), {"w": w, "s": np.ones(2, "f4")})
    assert llama_scales.HIGHEST == 8
