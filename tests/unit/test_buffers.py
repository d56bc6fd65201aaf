# SPDX-License-Identifier: MIT
"""Buffers for versions of the weights: where tensors lie, and which buffer may be written."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from ane_native.buffers import Flat, Rotation, written_in_place

SHAPES = {"w": (3, 5), "gain": (7,), "scalar": ()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_tensor_starts_on_a_cache_line_and_zeros_lie_between(dtype: type) -> None:
    flat = Flat(SHAPES, dtype)
    for name, view in flat.views.items():
        assert (view.shape, view.dtype) == (SHAPES[name], dtype)
        assert view.ctypes.data % 64 == 0
        view[...] = 1
    assert flat.all.sum() == 15 + 7 + 1
    assert flat.all.nbytes == 3 * 64


def test_only_arrays_of_a_buffer_that_says_so_are_written_in_place() -> None:
    plain, kept = Flat(SHAPES), Flat(SHAPES)
    kept.keep_in_place()
    assert all(written_in_place(v) for v in kept.views.values())
    assert written_in_place(kept.views["w"][1:].T)
    assert not any(written_in_place(v) for v in plain.views.values())
    assert not written_in_place(kept.views["w"].copy())
    assert not written_in_place(np.zeros(3))
    del kept
    gc.collect()
    assert not any(written_in_place(Flat(SHAPES).views["w"]) for _ in range(20))


def test_a_buffer_is_free_when_nobody_reads_it() -> None:
    rotation = Rotation(SHAPES, np.float16)
    one = rotation.make()
    assert rotation.free(one, 0) is not one
    two = rotation.buffers[1]
    one.version, one.submitted = 3, True
    two.version, two.submitted = 4, True
    three = rotation.free(two, 3)
    assert three not in (one, two)
    three.submitted, three.version = True, 5
    assert rotation.free(three, 4) is one
    rotation.forget()
    assert rotation.free(three, 0) is one
    assert len(rotation.buffers) == 3
