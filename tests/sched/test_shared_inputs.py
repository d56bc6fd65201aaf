# SPDX-License-Identifier: MIT
"""One surface for the inputs of several kernels: written once, read by all."""

from __future__ import annotations

import numpy as np
import pytest
from programs import fp16, scale

import ane_native as ane


def kernels() -> list[ane.Kernel]:
    return [scale(name, weight=name, tag=name) for name in ("a", "b", "c")]


def test_an_input_that_is_shared_is_written_once(rng: np.random.Generator) -> None:
    g = {n: fp16(rng.standard_normal(4)) for n in "abc"}
    wires = {"b.i00_x": "a.i00_x", "c.i00_x": "a.i00_x"}
    with ane.DoubleBufferedTrainer(ane.KernelSet(kernels(), wires=wires), g) as trainer:
        x = fp16(rng.standard_normal((1, 4, 1, 32)))
        trainer.surface("a", "i00_x").write(x)
        for n in "abc":
            assert np.array_equal(trainer.surface(n, "i00_x").array, x)
            trainer.run([n])
            assert np.array_equal(
                trainer.surface(n, "o00_y").read(), fp16(x * g[n].reshape(1, 4, 1, 1))
            )


def test_an_input_may_be_shared_whatever_the_order_of_the_kernels() -> None:
    g = {n: np.ones(4) for n in "abc"}
    wires = {"a.i00_x": "c.i00_x", "b.i00_x": "c.i00_x"}
    with ane.DoubleBufferedTrainer(ane.KernelSet(kernels(), wires=wires), g) as trainer:
        trainer.surface("b", "i00_x").write(np.full((1, 4, 1, 32), 3.0))
        assert trainer.surface("a", "i00_x").array.min() == 3.0


@pytest.mark.parametrize(
    ("wires", "message"),
    [
        ({"b.i00_x": "a.i00_x", "c.i00_x": "b.i00_x"}, "its source is wired itself"),
        ({"b.o00_y": "a.i00_x"}, "expected an input at its end"),
        ({"b.i00_x": "b.i00_x"}, "its source is wired itself"),
    ],
)
def test_wires_that_cannot_be_are_refused(wires: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ane.KernelSet(kernels(), wires=wires)


def test_shared_inputs_must_be_alike() -> None:
    wide = scale("wide", channels=8, weight="w")
    pair = ane.KernelSet([scale("a"), wide], wires={"wide.i00_x": "a.i00_x"})
    with pytest.raises(ValueError, match="shapes or dtypes differ"):
        ane.DoubleBufferedTrainer(pair, {"g": np.ones(4), "w": np.ones(8)})
