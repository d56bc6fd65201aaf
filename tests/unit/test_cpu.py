# SPDX-License-Identifier: MIT
"""The CPU part of training against numpy in float64; repeated bits; hostile arguments.

All of it runs again in a process of its own for every slower instruction set this processor
has, because a dispatch nobody takes is a dispatch nobody tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ane_native import _native, cpu

Array = np.ndarray


@pytest.fixture(autouse=True, scope="module")
def _blas() -> None:
    cpu.open_blas()


def bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# =============================== Half precision =================================


def test_every_half_becomes_the_float_numpy_makes_of_it() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    made, want = cpu.float_from_half(halves), halves.astype(np.float32)
    number = ~np.isnan(want)
    assert bits(made[number]) == bits(want[number])
    assert np.isnan(made[~number]).all()


def test_floats_round_to_the_nearest_half_and_ties_to_even() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = ((halves[:-1] + halves[1:]) / 2).astype(np.float32)  # exact in fp32
    near = np.concatenate([np.nextafter(middles, np.float32(s)) for s in (-1, 1e9)])
    edges = np.array([65519.996, 65520.0, 65536.0, 3e38, np.inf, 2**-25, 2**-24, 1e-45, 0.0])
    x = np.concatenate([middles, near, edges.astype(np.float32)])
    x = np.concatenate([x, -x])
    with np.errstate(over="ignore", under="ignore"):
        want = x.astype(np.float16)
    assert bits(cpu.half_from_float(x)) == bits(want)


def test_nan_stays_nan_with_its_sign() -> None:
    x = np.array([0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF], np.uint32).view(np.float32)
    made = cpu.half_from_float(x)
    assert np.isnan(made).all()
    assert (np.signbit(made) == np.signbit(x)).all()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 31, 33])
def test_short_rows_touch_nothing_beyond_their_end(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(n + 2).astype(np.float32)
    out = np.full(n + 2, 7.0, np.float16)
    cpu.half_from_float(x[1 : n + 1], out[1 : n + 1])
    assert out[0] == out[-1] == 7.0
    assert bits(out[1:-1]) == bits(x[1:-1].astype(np.float16))


# =============================== Embedding ======================================


@pytest.mark.parametrize(
    ("vocab", "dim", "count"), [(1, 1, 1), (5, 3, 17), (256, 64, 64), (300, 33, 100)]
)
def test_embedding_forward_gathers_and_backward_scatters(
    vocab: int, dim: int, count: int, rng: np.random.Generator
) -> None:
    table = rng.standard_normal((vocab, dim)).astype(np.float32)
    tokens = rng.integers(0, vocab, count).astype(np.int32)
    x = np.empty((1, dim, 1, count), np.float16)
    cpu.embed_forward(table, tokens, x)
    assert bits(x.reshape(dim, count)) == bits(table[tokens].T.astype(np.float16))
    dx = rng.standard_normal((dim, count)).astype(np.float16)
    got = table.copy()
    cpu.embed_backward(dx, tokens, got)
    want = table.astype(np.float64)
    np.add.at(want, tokens, dx.T.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 4, 2**31 - 1])
def test_a_token_outside_the_vocabulary_is_named(bad: int) -> None:
    tokens = np.array([0, bad, 1], np.int32)
    table, x = np.zeros((4, 2), np.float32), np.zeros((2, 3), np.float16)
    with pytest.raises(ValueError, match=rf"tokens\[1\]: expected 0 to 3, got {bad}"):
        cpu.embed_forward(table, tokens, x)
    with pytest.raises(ValueError, match=r"tokens\[1\]"):
        cpu.embed_backward(x, tokens, table)
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        cpu.cross_entropy(np.zeros((4, 3), np.float16), tokens)
    assert not table.any()


# =============================== Loss ===========================================


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


@pytest.mark.parametrize(
    ("vocab", "count"), [(1, 1), (2, 3), (256, 64), (65, 100), (1000, 257), (7, 20000)]
)
def test_cross_entropy_and_its_gradient_match_float64(
    vocab: int, count: int, rng: np.random.Generator
) -> None:
    logits = (rng.standard_normal((vocab, count)) * 4).astype(np.float16)
    targets = rng.integers(0, vocab, count).astype(np.int32)
    d = np.empty_like(logits)
    loss = cpu.cross_entropy(logits, targets, scale=1024.0, dlogits=d)
    p = softmax(logits.astype(np.float64))
    at = (targets, np.arange(count))
    assert loss == pytest.approx(-np.log(p[at]).mean(), rel=1e-6, abs=1e-7)
    p[at] -= 1
    want = p * 1024.0 / count
    # half a unit in the last place of fp16, and the fp32 exponential
    np.testing.assert_allclose(d.astype(np.float64), want, rtol=2**-11 + 1e-5, atol=3.1e-8)
    assert cpu.cross_entropy(logits, targets) == loss


def test_gradient_may_be_written_over_the_logits(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((100, 70)).astype(np.float16)
    targets = rng.integers(0, 100, 70).astype(np.int32)
    d = np.empty_like(logits)
    loss = cpu.cross_entropy(logits, targets, dlogits=d)
    assert cpu.cross_entropy(logits, targets, dlogits=logits) == loss
    assert bits(d) == bits(logits)


def test_largest_logits_give_a_finite_loss_and_infinite_ones_show() -> None:
    logits = np.full((3, 2), -65504, np.float16)
    logits[0] = 65504
    assert cpu.cross_entropy(logits, np.zeros(2, np.int32)) == 0.0
    assert cpu.cross_entropy(logits, np.array([0, 1], np.int32)) == pytest.approx(65504.0)
    for poison in (np.inf, np.nan):
        logits[1, 1] = poison
        assert not np.isfinite(cpu.cross_entropy(logits, np.zeros(2, np.int32)))
    logits[1, 1] = -np.inf  # a masked token: probability 0
    assert cpu.cross_entropy(logits, np.zeros(2, np.int32)) == pytest.approx(0.0)


# =============================== Weight gradients ===============================


@pytest.mark.parametrize(
    ("rows", "cols", "count"),
    [(1, 1, 1), (3, 5, 7), (64, 64, 64), (704, 256, 256), (2048, 768, 64)],
)
def test_weight_gradients_add_the_product(
    rows: int, cols: int, count: int, rng: np.random.Generator
) -> None:
    dy = rng.standard_normal((rows, count)).astype(np.float16)
    x = rng.standard_normal((1, cols, 1, count)).astype(np.float16)
    dw = rng.standard_normal((rows, cols)).astype(np.float32)
    want = dw + dy.astype(np.float64) @ x.reshape(cols, count).astype(np.float64).T
    cpu.grad_submit(cpu.GradJobs([cpu.GradProduct(dy, x, dw)]))
    cpu.grad_wait()
    np.testing.assert_allclose(dw, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "count"), [(1, 1), (5, 300), (256, 256), (64, 31)])
def test_gain_gradients_add_row_products(rows: int, count: int, rng: np.random.Generator) -> None:
    dy = rng.standard_normal((rows, count)).astype(np.float16)
    x = rng.standard_normal((rows, count)).astype(np.float16)
    dw = rng.standard_normal(rows).astype(np.float32)
    want = dw + (dy.astype(np.float64) * x.astype(np.float64)).sum(1)
    cpu.grad_submit(cpu.GradJobs([cpu.GradProduct(dy, x, dw)]))
    cpu.grad_wait()
    np.testing.assert_allclose(dw, want, rtol=1e-5, atol=1e-5)


def many_products(rng: np.random.Generator) -> list[cpu.GradProduct]:
    made = []
    for rows, cols in ((704, 256), (256, 704), (256, 256), (256, 0), (31, 17)) * 3:
        dy = rng.standard_normal((rows, 96)).astype(np.float16)
        x = rng.standard_normal((cols or rows, 96)).astype(np.float16)
        made.append(cpu.GradProduct(dy, x, np.zeros((rows, cols) if cols else rows, np.float32)))
    return made


def test_the_same_gradients_have_the_same_bits_on_busy_cores(rng: np.random.Generator) -> None:
    products = many_products(rng)
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            np.dot(np.ones((200, 200)), np.ones((200, 200)))

    seen = set()
    workers = [threading.Thread(target=burn) for _ in range(3)]
    for i in range(12):
        if i == 4:
            for worker in workers:
                worker.start()
        for product in products:
            product.dw.fill(0)
        if i % 2:  # one by one, or together
            for product in products:
                cpu.grad_submit(cpu.GradJobs([product]))
        else:
            cpu.grad_submit(cpu.GradJobs(products))
        cpu.grad_wait()
        seen.add(b"".join(bits(p.dw) for p in products))
    stop.set()
    for worker in workers:
        worker.join()
    assert len(seen) == 1


def test_two_products_must_not_race_for_one_sum(rng: np.random.Generator) -> None:
    dy = rng.standard_normal((8, 32)).astype(np.float16)
    dw = np.zeros((8, 8), np.float32)
    product = cpu.GradProduct(dy, dy, dw)
    with pytest.raises(ValueError, match="same dw"):
        cpu.grad_submit(cpu.GradJobs([product, product]))
    cpu.grad_wait()
    assert not dw.any()
    cpu.grad_submit(cpu.GradJobs([product]))
    with pytest.raises(ValueError, match="same dw"):
        cpu.grad_submit(cpu.GradJobs([cpu.GradProduct(dy[:4], dy, dw[:4])]))
    cpu.grad_wait()
    cpu.grad_submit(cpu.GradJobs([product]))
    cpu.grad_wait()
    square = dy.astype(np.float64) @ dy.astype(np.float64).T
    np.testing.assert_allclose(dw, 2 * square, rtol=1e-4, atol=1e-4)


def test_products_from_several_threads_all_arrive(rng: np.random.Generator) -> None:
    groups = [many_products(np.random.default_rng(i)) for i in range(4)]

    def work(products: list[cpu.GradProduct]) -> None:
        jobs = cpu.GradJobs(products)
        for _ in range(5):
            cpu.grad_submit(jobs)
            cpu.grad_wait()

    workers = [threading.Thread(target=work, args=(g,)) for g in groups]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for products in groups:
        p = products[0]
        want = 5 * (p.dy.astype(np.float64) @ p.x.astype(np.float64).T)
        np.testing.assert_allclose(p.dw, want, rtol=1e-3, atol=1e-3)


# =============================== Optimizer ======================================


@pytest.mark.parametrize("n", [0, 1, 15, 1000, 300_001])
def test_sum_of_squares_matches_float64(n: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(n).astype(np.float32)
    total, finite = cpu.sum_squares(x)
    assert finite
    assert total == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("at", [0, 77_777, 99_999])
def test_one_bad_element_is_noticed_and_the_largest_float_is_not_bad(
    poison: float, at: int
) -> None:
    x = np.full(100_000, np.finfo(np.float32).max)
    assert cpu.sum_squares(x)[1]
    x[at] = poison
    assert not cpu.sum_squares(x)[1]


def adam_case(rng: np.random.Generator, n: int) -> list[Array]:
    p, g = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
    m = rng.standard_normal(n).astype(np.float32) * np.float32(0.1)
    v = rng.random(n).astype(np.float32) * np.float32(0.1)
    return [p, m, v, g]


HYPER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "step": 3, "grad_scale": 0.5}


@pytest.mark.parametrize("n", [1, 255, 256, 257, 100_003])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_matches_its_formula(n: int, decay: float, rng: np.random.Generator) -> None:
    p, m, v, g = adam_case(rng, n)
    g64, m64, v64, p64 = (a.astype(np.float64) for a in (g, m, v, p))
    m64 = 0.9 * m64 + 0.1 * (g64 * 0.5)
    v64 = 0.95 * v64 + 0.05 * (g64 * 0.5) ** 2
    step = 1e-2 * (m64 / (1 - 0.9**3)) / (np.sqrt(v64 / (1 - 0.95**3)) + 1e-8)
    want = p64 * (1 - 1e-2 * decay) - step
    out = np.empty_like(p)
    before = p.copy()
    cpu.AdamTensors([(p, out, m, v, g, decay)]).step(**HYPER)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(m, m64, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(v, v64, rtol=1e-5, atol=1e-7)
    assert bits(p) == bits(before)


def test_adamw_in_place_has_the_bits_of_adamw_elsewhere(rng: np.random.Generator) -> None:
    p, m, v, g = adam_case(rng, 70_001)
    out = np.empty_like(p)
    cpu.AdamTensors([(p, out, m.copy(), v.copy(), g, 0.1)]).step(**HYPER)
    cpu.AdamTensors([(p, p, m, v, g, 0.1)]).step(**HYPER)
    assert bits(p) == bits(out)


def test_adamw_over_many_tensors_leaves_none_out(rng: np.random.Generator) -> None:
    sizes = [1, 40_000, 7, 0, 32_768, 3, 0]
    cases = [adam_case(rng, n) for n in sizes]
    outs = [np.zeros(n, np.float32) for n in sizes]
    alone = []
    for p, m, v, g in cases:
        out = np.zeros_like(p)
        cpu.AdamTensors([(p, out, m.copy(), v.copy(), g, 0.0)]).step(**HYPER)
        alone.append(out)
    tensors = [(p, o, m, v, g, 0.0) for (p, m, v, g), o in zip(cases, outs, strict=True)]
    cpu.AdamTensors(tensors).step(**HYPER)
    assert [bits(o) for o in outs] == [bits(o) for o in alone]


def test_adamw_with_moments_elsewhere_leaves_the_old_ones(rng: np.random.Generator) -> None:
    p, m, v, g = adam_case(rng, 40_001)
    old = bits(m), bits(v)
    outs = [np.empty_like(p) for _ in range(3)]
    cpu.AdamTensors([cpu.AdamTensor(p, *outs, g, 0.1, m_in=m, v_in=v)]).step(**HYPER)
    assert (bits(m), bits(v)) == old
    cpu.AdamTensors([(p, p, m, v, g, 0.1)]).step(**HYPER)
    assert [bits(o) for o in outs] == [bits(p), bits(m), bits(v)]
    with pytest.raises(ValueError, match="overlaps"):
        cpu.AdamTensors([cpu.AdamTensor(p, p, m, v, g, 0.1, m_in=v)]).step(**HYPER)


@pytest.mark.parametrize("n", [1, 257, 40_001])
def test_adamw_predicts_along_its_last_step(n: int, rng: np.random.Generator) -> None:
    p, m, v, g = adam_case(rng, n)
    out, ahead, lone = (np.empty_like(p) for _ in range(3))
    cpu.AdamTensors([(p, lone, m.copy(), v.copy(), g, 0.1)]).step(**HYPER)
    tensor = cpu.AdamTensor(p, out, m, v, g, 0.1, ahead=ahead)
    cpu.AdamTensors([tensor]).step(**HYPER, extrapolate=3.0)
    assert bits(out) == bits(lone)
    want = out.astype(np.float64) + 3.0 * (out.astype(np.float64) - p)
    np.testing.assert_allclose(ahead, want, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="overlaps"):
        cpu.AdamTensors([tensor._replace(ahead=p)]).step(**HYPER)
    with pytest.raises(ValueError, match="extrapolate"):
        cpu.AdamTensors([tensor]).step(**HYPER, extrapolate=-1.0)


@pytest.mark.parametrize("n", [1, 257, 40_001])
@pytest.mark.parametrize("extrapolate", [0.0, 1.0])
def test_adamw_rounds_what_it_predicts_in_place(
    n: int, extrapolate: float, rng: np.random.Generator
) -> None:
    p, m, v, g = adam_case(rng, n)
    p[0] = -0.0
    out, ahead = np.empty_like(p), np.empty_like(p)
    whole = cpu.AdamTensor(p, out, m.copy(), v.copy(), g, 0.1, ahead=ahead)
    cpu.AdamTensors([whole]).step(**HYPER, extrapolate=extrapolate)
    if not extrapolate:
        assert bits(ahead) == bits(out)
    rounded, place = np.empty(n, np.float16), p.copy()
    tensor = cpu.AdamTensor(place, place, m, v, g, 0.1, ahead_f16=rounded)
    cpu.AdamTensors([tensor]).step(**HYPER, extrapolate=extrapolate)
    assert bits(place) == bits(out)
    assert rounded.tobytes() == cpu.half_from_float(ahead).tobytes()
    with pytest.raises(TypeError, match="ahead_f16: expected an array of float16"):
        cpu.AdamTensors([tensor._replace(ahead_f16=ahead)])
    inside = g.view(np.float16)[:n]
    with pytest.raises(ValueError, match="ahead_f16 overlaps g"):
        cpu.AdamTensors([tensor._replace(ahead_f16=inside)]).step(**HYPER)


def test_the_embedding_of_a_rounded_table_has_the_same_bits(rng: np.random.Generator) -> None:
    table = rng.standard_normal((50, 37)).astype(np.float32)
    table[3, 4], table[5, 6] = 1e6, 3e-8  # infinite and subnormal once rounded
    tokens = rng.integers(0, 50, 53).astype(np.int32)
    tokens[:2] = 3, 5
    one, two = (np.zeros((37, 53), np.float16) for _ in range(2))
    cpu.embed_forward(table, tokens, one)
    rounded = cpu.half_from_float(table)
    cpu.embed_forward(rounded, tokens, two)
    assert one.tobytes() == two.tobytes()
    with pytest.raises(ValueError, match=r"tokens\[0\]"):
        cpu.embed_forward(rounded, tokens + 47, two)
    with pytest.raises(TypeError, match="float32"):
        cpu.embed_forward(table.astype(np.float64), tokens, two)


def test_gradients_can_be_waited_for_alone(rng: np.random.Generator) -> None:
    """Whoever waited sees the whole product, while others are still queued behind it."""
    cpu.open_blas()
    dy, x = (rng.standard_normal((256, 256)).astype(np.float16) for _ in range(2))
    dws = [np.zeros((256, 256), np.float32) for _ in range(24)]
    jobs = [cpu.GradJobs([cpu.GradProduct(dy, x, dw)]) for dw in dws]
    seen: list[bytes] = []
    left: list[BaseException] = []

    def helper() -> None:
        try:
            for one, dw in zip(jobs, dws, strict=True):
                cpu.grad_wait_for(one)
                seen.append(dw.tobytes())
        except BaseException as error:
            left.append(error)

    for _ in range(5):
        for dw in dws:
            dw[:] = 0
        seen.clear()
        for one in jobs:
            cpu.grad_submit(one)
        thread = threading.Thread(target=helper)
        thread.start()
        cpu.grad_wait()  # frees what the helper is asking about
        thread.join(60)
        assert not left
        assert len(seen) == len(dws)
        assert seen == [dw.tobytes() for dw in dws]
        assert dws[0].any()


# =============================== Hostile arguments ==============================


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0),
        ("lr", float("nan")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("eps", 0.0),
        ("step", 0),
        ("grad_scale", float("inf")),
    ],
)
def test_adamw_refuses_numbers_outside_their_range(name: str, value: float) -> None:
    a = [np.ones(4, np.float32) for _ in range(5)]
    with pytest.raises(ValueError, match=name):
        cpu.AdamTensors([(a[0], a[1], a[2], a[3], a[4], 0.0)]).step(**{**HYPER, name: value})
    assert (a[1] == 1).all()


def test_adamw_refuses_arrays_that_overlap() -> None:
    a = np.ones(40, np.float32)
    b = [np.ones(20, np.float32) for _ in range(3)]
    with pytest.raises(ValueError, match="overlaps"):
        cpu.AdamTensors([(a[:20], a[10:30], b[0], b[1], b[2], 0.0)]).step(**HYPER)
    with pytest.raises(ValueError, match="overlaps"):
        cpu.AdamTensors([(b[0], b[1], a[:20], a[:20], b[2], 0.0)]).step(**HYPER)


def test_wrong_dtypes_shapes_and_layouts_are_refused() -> None:
    half, single = np.zeros((4, 8), np.float16), np.zeros((4, 8), np.float32)
    tokens = np.zeros(8, np.int32)
    with pytest.raises(TypeError, match="float16"):
        cpu.cross_entropy(single, tokens)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int32"):
        cpu.cross_entropy(half, tokens.astype(np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="contiguous"):
        cpu.cross_entropy(np.zeros((8, 4), np.float16).T, tokens)
    with pytest.raises(ValueError, match="targets"):
        cpu.cross_entropy(half, tokens[:7])
    with pytest.raises(ValueError, match="do not fit"):
        cpu.GradJobs([cpu.GradProduct(half, half, np.zeros((4, 5), np.float32))])
    frozen = np.zeros((4, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="written"):
        cpu.GradJobs([cpu.GradProduct(half, half, frozen)])
    with pytest.raises(ValueError, match="channels"):
        cpu.embed_forward(np.zeros((4, 5), np.float32), tokens, half)


def test_null_pointers_and_mad_sizes_are_statuses_not_crashes() -> None:
    c, error = _native.core(), _native.new_error()
    null, lib = c.ffi.NULL, c.lib
    f = c.ffi.new("float[64]")
    h = c.ffi.new("uint16_t[64]")
    i = c.ffi.new("int32_t[64]")
    d = c.ffi.new("double *")
    job = c.ffi.new("AneGradJob *")
    calls = [
        lambda: lib.ane_cpu_embed_forward(null, i, 4, 4, 4, h, error),
        lambda: lib.ane_cpu_embed_forward(f, i, -1, 4, 4, h, error),
        lambda: lib.ane_cpu_embed_forward(f, i, 2**62, 2**62, 4, h, error),
        lambda: lib.ane_cpu_embed_backward(h, null, 4, 4, 4, 0, f, error),
        lambda: lib.ane_cpu_embed_backward(h, i, 4, 4, 4, 121, f, error),
        lambda: lib.ane_cpu_cross_entropy(h, i, 0, 4, 1.0, null, d, error),
        lambda: lib.ane_cpu_cross_entropy(h, i, 4, 4, float("nan"), null, d, error),
        lambda: lib.ane_cpu_cross_entropy(h, i, 4, 4, 1.0, null, null, error),
        lambda: lib.ane_cpu_grad_submit(null, 1, error),
        lambda: lib.ane_cpu_grad_submit(job, -1, error),
        lambda: lib.ane_cpu_grad_submit(job, 1, error),
        lambda: lib.ane_cpu_grad_wait(-1, error),
        lambda: lib.ane_cpu_grad_wait_for(null, -1, 0, error),
        lambda: lib.ane_cpu_grad_wait_for(null, 1, 0, error),
        lambda: lib.ane_cpu_sum_squares(null, 4, d, i, error),
        lambda: lib.ane_cpu_sum_squares(f, 2**63, d, i, error),
        lambda: lib.ane_cpu_adamw(null, 1, 0.1, 0.9, 0.9, 1e-8, 1, 1.0, 0.0, error),
        lambda: lib.ane_cpu_adamw(null, -1, 0.1, 0.9, 0.9, 1e-8, 1, 1.0, 0.0, error),
    ]
    for number, call in enumerate(calls):
        error.text[0] = b"\0"
        assert call() == lib.ANE_E_ARG, number
        assert c.ffi.string(error.text), number
    job.dy_f16, job.x_f16, job.dw = h, h, f
    job.rows, job.cols, job.count = 2**40, 2**40, 2**40
    assert lib.ane_cpu_grad_submit(job, 1, error) == lib.ANE_E_ARG
    assert lib.ane_cpu_embed_forward(null, i, 4, 4, 4, h, null) == lib.ANE_E_ARG  # no error wanted
    assert lib.ane_cpu_grad_submit(null, 0, error) == lib.ANE_OK
    assert lib.ane_cpu_sum_squares(null, 0, d, i, error) == lib.ANE_OK


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_blas_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    junk = tmp_path / "libjunk.so"
    junk.write_bytes(b"not a library")
    script = (
        "import sys; from ane_native import cpu, errors\n"
        "try: cpu.open_blas(sys.argv[1] if len(sys.argv) > 1 else None)\n"
        "except errors.EngineOpenError as e: print(e)\n"
    )
    done = run(script, ANE_NATIVE_BLAS=str(junk))
    assert str(junk) in done.stdout, done.stderr
    done = run(script, ANE_NATIVE_BLAS="/nowhere/at/all.so")
    assert "/nowhere/at/all.so" in done.stdout, done.stderr
    with pytest.raises(Exception, match="open already"):
        cpu.open_blas(junk)


def test_products_without_a_blas_say_so() -> None:
    done = run(
        "import numpy as np; from ane_native import cpu, errors\n"
        "h = np.ones((4, 4), np.float16)\n"
        "try: cpu.grad_submit(cpu.GradJobs([cpu.GradProduct(h, h, np.zeros((4, 4), np.float32))]))\n"
        "except errors.StateError as e: print(e)\n"
    )
    assert "open_blas" in done.stdout, done.stderr


def test_a_forked_child_is_refused_and_not_hung() -> None:
    done = run(
        "import os, numpy as np; from ane_native import cpu, errors\n"
        "cpu.open_blas(); h = np.ones((64, 64), np.float16)\n"
        "jobs = cpu.GradJobs([cpu.GradProduct(h, h, np.zeros((64, 64), np.float32))])\n"
        "cpu.grad_submit(jobs); cpu.grad_wait()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try: cpu.grad_submit(jobs)\n"
        "    except errors.ForkedError: os._exit(7)\n"
        "    os._exit(1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert done.stdout.strip() == "7", done.stderr


# =============================== Other instruction sets =========================


@pytest.mark.skipif("ANE_NATIVE_ISA" in os.environ, reason="runs inside itself")
@pytest.mark.parametrize("isa", ["base", "avx2"])
def test_slower_instruction_sets_compute_the_same(isa: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "ANE_NATIVE_ISA": isa},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
