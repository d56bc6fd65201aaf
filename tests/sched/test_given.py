# SPDX-License-Identifier: MIT
"""What a trainer makes of the arrays it is given: they are read at once, by the hundred, and still
nothing that a caller does to them between two boundaries goes unnoticed."""

from __future__ import annotations

import random
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from programs import conv, scale

import ane_native as ane
from ane_native import _native, stats
from ane_native.packing import Packing
from ane_native.versions import Versions

X = np.ones((1, 4, 1, 32), np.float32)
SHAPES = {"w": (4, 4), "g": (4,)}


def kernels() -> ane.KernelSet:
    return ane.KernelSet([conv("proj", 4, 4, weight="w"), scale("norm", weight="g")])


def weights(value: float) -> dict[str, Any]:
    return {n: np.full(shape, value, np.float32) for n, shape in SHAPES.items()}


def running(trainer: ane.DoubleBufferedTrainer) -> tuple[float, float]:
    return float(trainer.eval("proj", X)[0, 0, 0, 0]) / 4, float(
        trainer.eval("norm", X)[0, 0, 0, 0]
    )


@pytest.fixture(params=[False, True], ids=["copy", "handover"])
def step(request: pytest.FixtureRequest) -> Any:
    """A trainer without lag, and its step."""
    with ane.DoubleBufferedTrainer(kernels(), weights(1.0), staleness=0) as trainer:
        yield trainer, lambda given: trainer.step(given, handover=request.param)


def test_an_array_replaced_in_the_same_dictionary_is_the_one_that_is_baked(step: Any) -> None:
    trainer, to = step
    given = weights(2.0)
    to(given)
    given["g"] = np.full(4, 3.0, np.float32)
    to(given)
    assert running(trainer) == (2.0, 3.0)
    given["g"], given["w"] = np.full(4, 5.0, np.float32), np.full((4, 4), 4.0, np.float32)
    to(dict(reversed(list(given.items()))))  # another order
    assert running(trainer) == (4.0, 5.0)


@pytest.mark.parametrize(
    "other",
    [
        lambda w: w.astype(np.float64),
        lambda w: w.astype(">f4"),
        lambda w: np.asfortranarray(w),
        lambda w: np.repeat(w, 2, axis=0)[::2],
        lambda w: w.view(type("Sub", (np.ndarray,), {})),
        lambda w: np.frombuffer(b"\0" + w.tobytes(), np.float32, offset=1).reshape(w.shape),
        lambda w: w.tolist(),
    ],
    ids=["float64", "swapped", "fortran", "strided", "subclass", "unaligned", "list"],
)
def test_arrays_that_cannot_be_read_as_they_are_give_the_same_weights(
    step: Any, other: Any
) -> None:
    trainer, to = step
    draw = np.random.default_rng(1).integers(-8, 8, (4, 4)).astype(np.float32)
    to({"w": other(draw), "g": np.full(4, 2.0, np.float32)})
    got = trainer.active_weights["w"]
    assert type(got) is np.ndarray
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got.flags.aligned
    assert np.array_equal(got, draw)
    y = trainer.eval("proj", X)
    assert np.array_equal(y[0, :, 0, 0], draw.sum(axis=1))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda w: w.update(w=np.ones((2, 8), np.float32)),
            r"expected shape \(4, 4\), got \(2, 8\)",
        ),
        (lambda w: w.update(g=np.ones((4, 1), np.float32)), r"expected shape \(4,\), got \(4, 1\)"),
        (lambda w: w.update(g=np.ones((), np.float32)), r"expected shape \(4,\), got \(\)"),
        (lambda w: w.pop("g"), r"missing \['g'\]"),
        (lambda w: w.update(more=np.ones(4, np.float32)), r"not known \['more'\]"),
        (lambda w: w.__setitem__("G", w.pop("g")), r"missing \['g'\], not known \['G'\]"),
    ],
    ids=["shape", "rank", "scalar", "missing", "extra", "renamed"],
)
def test_what_does_not_fit_is_named_and_changes_nothing(step: Any, change: Any, text: str) -> None:
    trainer, to = step
    given = weights(2.0)
    to(given)
    change(given)
    with pytest.raises(ValueError, match=text):
        to(given)
    assert trainer.newest == 1
    assert running(trainer) == (2.0, 2.0)


class Fickle(dict[str, Any]):
    """Says one thing of its names and another of its items."""

    def items(self) -> Any:
        return iter([("other", 1)])


def test_a_mapping_that_contradicts_itself_is_asked_once(step: Any) -> None:
    trainer, to = step
    to(Fickle(weights(2.0)))
    assert running(trainer) == (2.0, 2.0)
    to(MappingProxyType(Fickle(weights(3.0))))
    assert running(trainer) == (3.0, 3.0)


def test_scalars_stay_scalars_however_they_are_given(step: Any) -> None:
    first = {**weights(1.0), "s": np.array(1.0, np.float32)}
    with ane.DoubleBufferedTrainer(kernels(), first, staleness=0) as trainer:
        for value in (2.0, np.float64(3.0), np.array(4.0, np.float16)):
            trainer.step({**first, "s": value})
            assert trainer.active_weights["s"].shape == ()
            assert trainer.active_weights["s"] == value


@pytest.mark.parametrize(
    "other",
    [
        lambda w: np.asfortranarray(w),
        lambda w: w.astype(">f2"),
        lambda w: w.view(type("Sub", (np.ndarray,), {})),
        lambda w: np.frombuffer(b"\0" + w.tobytes(), np.float16, offset=1).reshape(w.shape),
    ],
    ids=["fortran", "swapped", "subclass", "unaligned"],
)
def test_a_first_version_of_float16_stays_so_however_it_lies(other: Any) -> None:
    draw = np.random.default_rng(1).integers(-8, 8, (4, 4)).astype(np.float16)
    first = {"w": other(draw), "g": np.ones(4, np.float32)}
    with ane.DoubleBufferedTrainer(kernels(), first, handover=True) as trainer:
        got = trainer.active_weights["w"]
        assert (type(got), got.dtype) == (np.ndarray, np.float16)
        assert got.flags.c_contiguous
        assert got.flags.aligned
        assert np.array_equal(got, draw)


def test_an_array_reshaped_or_grown_in_place_is_noticed(step: Any) -> None:
    trainer, to = step
    given = weights(2.0)
    to(given)
    given["w"].shape = (16,)
    with pytest.raises(ValueError, match=r"expected shape \(4, 4\), got \(16,\)"):
        to(given)
    given["w"].shape = (4, 4)
    grown = {n: w.copy() for n, w in given.items()}
    grown["g"].resize(1 << 20, refcheck=False)  # its memory is elsewhere now
    with pytest.raises(ValueError, match=r"expected shape \(4,\), got \(1048576,\)"):
        to(grown)
    grown["g"].resize(4, refcheck=False)
    grown["g"][:] = 7.0
    to(grown)
    assert running(trainer) == (2.0, 7.0)


def test_a_mapping_that_is_no_dictionary_will_do(step: Any) -> None:
    trainer, to = step
    to(MappingProxyType(weights(3.0)))
    assert running(trainer) == (3.0, 3.0)


def test_float16_stays_float16_and_other_types_are_rounded_to_it() -> None:
    half = {n: w.astype(np.float16) for n, w in weights(1.0).items()}
    with ane.DoubleBufferedTrainer(kernels(), half, staleness=0) as trainer:
        for value, kind in [(2.0, np.float16), (3.0, np.float32), (4.0, np.float16)]:
            trainer.step({n: w.astype(kind) for n, w in weights(value).items()})
            assert running(trainer) == (value, value)
            assert {w.dtype for w in trainer.active_weights.values()} == {np.dtype(np.float16)}


def test_weights_that_are_the_active_ones_may_be_given_back() -> None:
    with ane.DoubleBufferedTrainer(kernels(), weights(1.0), staleness=0) as trainer:
        for _ in range(4):
            trainer.step(dict(trainer.active_weights))
            assert running(trainer) == (1.0, 1.0)


def test_tables_are_remembered_by_name_and_array_not_by_dictionary() -> None:
    versions = Versions()
    first = weights(1.0) | {"free": np.ones((), np.float32)}
    versions.expect(versions.first(first, ()), ["g", "w"])
    given, table = versions.remembered(first)
    assert versions.remembered(first)[1] is table
    where = [given[n].ctypes.data for n in ("g", "w", "free")]
    ffi = _native.core().ffi
    assert [int(ffi.cast("uintptr_t", p)) for p in table] == where
    first["w"] = np.ones((4, 4), np.float32)
    changed, other = versions.remembered(first)
    assert changed["w"] is first["w"]
    assert int(ffi.cast("uintptr_t", other[1])) == first["w"].ctypes.data
    both = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    versions = Versions()
    versions.expect(versions.first(both, ()), ["a", "b"])
    versions.remembered(both)
    both["b"], both["a"] = both.pop("a"), both.pop("b")  # the same arrays, in the same order
    _, swapped = versions.remembered(both)
    assert int(ffi.cast("uintptr_t", swapped[0])) == both["a"].ctypes.data


def test_the_table_refuses_what_is_not_asked_for_in_its_terms() -> None:
    arrays = _native.arrays()
    one = {"a": np.ones(3, np.float32)}
    layout = np.array([4, 1, 3], np.int64).tobytes()
    assert len(arrays.table(one, ("a",), layout, np.ndarray)) == 8
    assert arrays.table(one, ("b",), layout, np.ndarray) is None
    assert arrays.table(one, (), layout, np.ndarray) is None
    assert arrays.table({"a": 1}, ("a",), layout, np.ndarray) is None
    for short in (b"", layout[:16], np.array([4, -1, 3]).tobytes(), np.array([4, 9, 3]).tobytes()):
        with pytest.raises(ValueError, match="layout"):
            arrays.table(one, ("a",), short, np.ndarray)
    with pytest.raises(AttributeError):
        arrays.table({"a": 1}, ("a",), layout, int)
    with pytest.raises(TypeError):
        arrays.table({"a": 1}, ([],), layout, int)  # a name that cannot be a key
    for wrong in ([one, ["a"], layout, int], [[], ("a",), layout, int], [one, ("a",), "", int]):
        with pytest.raises(TypeError):
            arrays.table(*wrong)
    assert arrays.unchanged(one, ("a",), (one["a"],))
    assert not arrays.unchanged(one, ("a",), ())
    assert not arrays.unchanged({}, ("a",), (one["a"],))
    assert not arrays.unchanged(one, ("a",), (one["a"].copy(),))


def test_the_figures_of_a_boundary_are_the_core_s_field_by_field() -> None:
    ffi = _native.core().ffi
    out = ffi.new("AneBatchStats *")
    fields = [n for n, f in ffi.typeof("AneBatchStats").fields if f.type.kind == "primitive"]
    for name, value in zip(
        fields, random.Random(3).sample(range(1, 10**6), len(fields)), strict=True
    ):
        setattr(out, name, value)
    out.compile_limit = out.compiles_used + 5
    made = stats.batch_stats(
        bytes(ffi.buffer(out)), "an engine", Packing((), "why"), None
    ).as_dict()
    renamed = {"active": "generation", "update_ns": "optimizer_ms"}
    renamed |= {
        f"{k}_p{p}_ns": f"eval_{k}_p{p}_ms" for k in ("idle", "compiling") for p in (50, 90, 99)
    }
    not_told = {"evals_idle", "evals_compiling", "compile_limit"}
    told = set()
    for name in set(fields) - not_told:
        field = renamed.get(name, name.replace("_ns", "_ms"))
        expected = getattr(out, name) / 1e6 if name.endswith("_ns") else getattr(out, name)
        if field in ("swapped", "submitted"):
            expected = True
        assert made[field] == expected, name
        told.add(field)
    left = {"compile_stall_ms", "hidden_ms", "programs", "packing", "budget_left", "engine"}
    assert made.keys() - told == left
    assert made["budget_left"] == 5
    assert made["compile_stall_ms"] == pytest.approx(
        sum(made[n] for n in ("snapshot_ms", "wait_ms", "swap_ms", "submit_ms"))
    )
