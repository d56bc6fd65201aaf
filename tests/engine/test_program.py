# SPDX-License-Identifier: MIT
"""One program on whatever engine is there: numbers, names, layout, errors, life cycle."""

from __future__ import annotations

import gc
import threading
import warnings

import numpy as np
import pytest
from programs import HEADER, conv, fp16, plain, scale

import ane_native as ane
from ane_native import soft


def test_baked_convolution_gives_the_product(rng: np.random.Generator) -> None:
    w = rng.standard_normal((32, 64)).astype(np.float32)
    x = rng.standard_normal((1, 64, 1, 32)).astype(np.float32)
    with ane.Program(conv(), {"w": w}) as program:
        y = program.eval(x)
    expected = np.einsum("oi,ncis->ncos", fp16(w), fp16(x).transpose(0, 2, 1, 3)).transpose(
        0, 2, 1, 3
    )
    magnitude = np.einsum(
        "oi,ncis->ncos", abs(fp16(w)), abs(fp16(x)).transpose(0, 2, 1, 3)
    ).transpose(0, 2, 1, 3)
    # derived: one fp16 store, and 64 products summed in fp32
    assert np.all(abs(y - expected) <= 2**-11 * abs(expected) + 64 * 2**-24 * magnitude)
    assert y.dtype == np.float32
    assert y.shape == (1, 32, 1, 32)


def test_transposed_weight_is_the_transpose_of_the_plain_one(rng: np.random.Generator) -> None:
    w = rng.integers(-8, 8, (64, 96)).astype(np.float32)
    x = rng.integers(-4, 4, (1, 64, 1, 32)).astype(np.float32)
    kernel = conv(cin=64, cout=96, weight=ane.Weight("w", transpose=True))
    with ane.Program(kernel, {"w": w}) as program:
        y = program.eval(x)
    assert np.array_equal(y[0, :, 0], w.T @ x[0, :, 0])  # integers: exact


def test_constant_weight_needs_no_weights(rng: np.random.Generator) -> None:
    w = rng.integers(-8, 8, (32, 64)).astype(np.float16)
    x = rng.integers(-4, 4, (1, 64, 1, 32)).astype(np.float32)
    with ane.Program(conv(weight=w)) as program:
        assert np.array_equal(program.eval(x)[0, :, 0], w.astype(np.float32) @ x[0, :, 0])


@pytest.mark.parametrize("width", [1, 4, 31, 32, 33, 100])
def test_rows_of_any_width_come_back_in_place(width: int, rng: np.random.Generator) -> None:
    g = np.arange(1, 6, dtype=np.float32)
    x = rng.integers(-100, 100, (1, 5, 1, width)).astype(np.float32)
    with ane.Program(scale(channels=5, width=width), {"g": g}) as program:
        y = program.eval(x)
        view = program.surfaces["o00_y"].array
        assert view.shape == (1, 5, 1, width)
        assert np.array_equal(view.astype(np.float32), y)
    assert np.array_equal(y, x * g[None, :, None, None])


def test_ports_are_bound_by_name_whatever_the_declared_order() -> None:
    # sorted order is (a, b) -> (p, q): declared the other way round, with unequal meaning
    shape = (1, 2, 1, 32)
    body = """        tensor<fp16, [1, 2, 1, 32]> q = sub(x=b, y=a)[name=string("q")];
        tensor<fp16, [1, 2, 1, 32]> p = add(x=b, y=a)[name=string("p")];"""
    kernel = plain(body, {"b": shape, "a": shape}, {"q": shape, "p": shape})
    b, a = np.full(shape, 5.0), np.full(shape, 3.0)
    with ane.Program(kernel) as program:
        q, p = program.eval(b, a)
        assert program.symbols() == ["a", "b"]
        assert program.symbols(outputs=True) == ["p", "q"]
    assert np.all(q == 2)
    assert np.all(p == 8)


def test_declared_port_that_the_program_lacks_is_a_bind_error() -> None:
    shape = (1, 2, 1, 32)
    kernel = plain(
        '        tensor<fp16, [1, 2, 1, 32]> y = add(x=x, y=x)[name=string("y")];',
        {"x": shape},
        {"y": shape},
    )
    wrong = ane.Kernel("k", kernel.mil, inputs={"z": shape}, outputs={"y": shape})
    with ane.Program(wrong) as program, pytest.raises(ane.BindError, match="'z'"):
        program.run()


def test_declared_shape_that_differs_is_a_bind_error() -> None:
    shape = (1, 2, 1, 32)
    kernel = plain(
        '        tensor<fp16, [1, 2, 1, 32]> y = add(x=x, y=x)[name=string("y")];',
        {"x": shape},
        {"y": shape},
    )
    wrong = ane.Kernel("k", kernel.mil, inputs={"x": (1, 2, 1, 64)}, outputs={"y": shape})
    with ane.Program(wrong) as program, pytest.raises(ane.BindError, match="Width"):
        program.run()


def test_compile_error_names_kernel_domain_and_place() -> None:
    body = '        tensor<fp16, [1, 2, 1, 32]> y = frobnicate(x=x)[name=string("y")];'
    kernel = plain(body, {"x": (1, 2, 1, 32)}, {"y": (1, 2, 1, 32)}, name="bad")
    with pytest.raises(ane.CompileError) as caught:
        ane.Program(kernel)
    error = caught.value
    assert error.kernel == "bad"
    assert error.domain == "com.apple.appleneuralengine.compiler"
    assert error.code == 1
    assert "ANECCompile" in error.text
    assert error.step == "compile"
    assert ane.Engine().name in str(error)
    if ane.Engine().software:
        line = kernel.mil.splitlines().index(body) + 1
        assert error.line == line
        assert "frobnicate" in error.detail


def test_empty_and_binary_text_are_refused_not_fatal() -> None:
    shape = (1, 2, 1, 32)
    with pytest.raises(ValueError, match="empty"):
        ane.Kernel("k", "  ", inputs={"x": shape}, outputs={"y": shape})
    for text in ("\x00\x01\x02", "program(1.3)", HEADER, HEADER + "{" * 10000, "é" * 100):
        with pytest.raises(ane.CompileError):
            ane.Program(ane.Kernel("k", text, inputs={"x": shape}, outputs={"y": shape}))


def test_wrong_inputs_name_expected_and_got(rng: np.random.Generator) -> None:
    with ane.Program(conv(), {"w": np.zeros((32, 64))}) as program:
        with pytest.raises(ValueError, match=r"expected shape \(1, 64, 1, 32\), got \(64, 32\)"):
            program.eval(np.zeros((64, 32)))
        with pytest.raises(ValueError, match="expected 1 inputs, got 2"):
            program.eval(np.zeros((1, 64, 1, 32)), np.zeros(3))
        with pytest.raises(TypeError, match="real numbers"):
            program.eval(np.zeros((1, 64, 1, 32), complex))
        assert np.all(program.eval(np.zeros((1, 64, 1, 32), np.int64)) == 0)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({}, "'w'"),
        ({"w": np.zeros((3, 3))}, "(?s)E_BLOB|elements|ANECCompile"),
        ({"w": np.zeros((0,))}, "no elements"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, np.ndarray], match: str) -> None:
    with pytest.raises((ValueError, ane.CompileError), match=match):
        ane.Program(conv(), weights)


def test_closed_program_says_so_and_closes_twice() -> None:
    program = ane.Program(conv(), {"w": np.zeros((32, 64))})
    program.close()
    program.close()
    with pytest.raises(ane.ClosedError):
        program.eval(np.zeros((1, 64, 1, 32)))
    with pytest.raises(ane.ClosedError):
        program.info()
    assert "closed" in repr(program)


def test_view_outlives_program() -> None:
    program = ane.Program(scale(), {"g": np.ones(4)})
    program.eval(np.full((1, 4, 1, 32), 7.0))
    view = program.surfaces["o00_y"].array
    program.close()
    del program
    gc.collect()
    assert np.all(view == 7)
    view[:] = 1  # writing is harmless too


def test_unclosed_program_warns() -> None:
    program = ane.Program(scale(), {"g": np.ones(4)})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del program
        gc.collect()
    assert any(issubclass(w.category, ResourceWarning) for w in seen)


def test_equal_programs_share_one_and_survive_each_other(rng: np.random.Generator) -> None:
    w = rng.standard_normal((32, 64))
    x = rng.standard_normal((1, 64, 1, 32))
    before = ane.Engine().info()["loaded"]
    a = ane.Program(conv("a"), {"w": w})
    b = ane.Program(conv("b"), {"w": w})
    assert a.info()["identity"] == b.info()["identity"]
    assert b.info()["cached"]
    assert ane.Engine().info()["loaded"] == before + 1
    expected = a.eval(x)
    a.close()
    assert np.array_equal(b.eval(x), expected)
    b.close()
    assert ane.Engine().info()["loaded"] == before


def test_threads_evaluate_different_programs_at_once(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 64, 1, 32)).astype(np.float32)
    programs = [ane.Program(conv(), {"w": rng.standard_normal((32, 64))}) for _ in range(4)]
    expected = [p.eval(x) for p in programs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(50):
            if not np.array_equal(programs[i].eval(x), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for p in programs:
        p.close()
    assert not wrong


@pytest.mark.parametrize("rounds", [60])
def test_rounds_of_compile_and_close_leak_nothing(rounds: int) -> None:
    import os

    def counts() -> tuple[int, object]:
        return len(os.listdir("/proc/self/fd")), ane.Engine().info()["loaded"]

    def round_(i: int) -> None:
        with ane.Program(scale(tag=str(i)), {"g": np.full(4, i % 7)}) as program:
            program.eval(np.ones((1, 4, 1, 32)))

    for i in range(5):
        round_(i)
    before = counts()
    for i in range(rounds):
        round_(i)
    gc.collect()
    assert counts() == before


def test_budget_is_spent_by_compiles_and_says_so() -> None:
    if not ane.Engine().software:
        pytest.skip("would spend the real budget of this process")
    used = ane.Engine().info()["compiles"]
    assert isinstance(used, int)
    soft.set("compile_limit", used + 2)
    ane.Program(scale(tag="budget-a"), {"g": np.ones(4)}).close()
    ane.Program(scale(tag="budget-b"), {"g": np.ones(4)}).close()
    with pytest.raises(ane.BudgetExhausted, match=f"of {used + 2} compiles"):
        ane.Program(scale(tag="budget-c"), {"g": np.ones(4)})


def test_silent_no_is_its_own_error() -> None:
    if not ane.Engine().software:
        pytest.skip("needs a failpoint")
    with ane.Program(scale(), {"g": np.ones(4)}) as program:
        soft.set("failpoints", "facade.error.nil=return(1);facade.eval=1*return(1)")
        with pytest.raises(ane.SilentEngineError, match="gave no error"):
            program.run()
        soft.set("failpoints", "")
        program.run()
