# SPDX-License-Identifier: MIT
"""The core under every choice where sources about the engine disagree.

The package must work whatever the real engine turns out to do: order of symbols, files that
must stay, entries that vanish. Each choice is a setting of softane.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from programs import conv, plain, scale

import ane_native as ane
from ane_native import soft

SETTINGS = (
    "order",
    "staging_evals",
    "after_unload",
    "unload_purges",
    "qos_overlap",
    "compile_limit_mode",
    "profile",
    "store_bytes",
    "seed",
)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    for key in SETTINGS:
        soft.set(key, None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["name", "declaration", "size", "random"])
def test_ports_are_found_by_name_in_any_order_of_symbols(order: str, seed: int) -> None:
    soft.set("order", order)
    soft.set("seed", seed)
    shapes = {"c": (1, 4, 1, 32), "a": (1, 4, 1, 32), "b": (1, 4, 1, 1), "d": (1, 1, 1, 32)}
    body = f"""        tensor<fp16, [1, 4, 1, 32]> t{order}{seed} = mul(x=c, y=b)[name=string("t")];
        tensor<fp16, [1, 4, 1, 32]> z = sub(x=t{order}{seed}, y=a)[name=string("z")];
        tensor<fp16, [1, 4, 1, 32]> y = add(x=z, y=d)[name=string("y")];"""
    outputs = {"z": (1, 4, 1, 32), "y": (1, 4, 1, 32)}
    with ane.Program(plain(body, shapes, outputs)) as program:
        z, y = program.eval(
            np.full(shapes["c"], 3.0),
            np.full(shapes["a"], 5.0),
            np.full(shapes["b"], 7.0),
            np.full(shapes["d"], 100.0),
        )
    assert np.all(z == 16)
    assert np.all(y == 116)


def test_an_engine_that_reads_staging_while_loaded_keeps_working() -> None:
    soft.set("staging_evals", 2)
    with ane.Program(scale(tag="staging"), {"g": np.full(4, 3.0)}) as program:
        for _ in range(10):
            assert np.all(program.eval(np.ones((1, 4, 1, 32))) == 3)


@pytest.mark.parametrize("setting", [("unload_purges", 1), ("store_bytes", 0), ("qos_overlap", 0)])
def test_training_goes_on(setting: tuple[str, int]) -> None:
    soft.set(*setting)
    kernels = ane.KernelSet([scale("k", tag="-".join(map(str, setting)))])
    with ane.DoubleBufferedTrainer(kernels, {"g": np.zeros(4)}) as trainer:
        for version in range(1, 8):
            stats = trainer.step({"g": np.full(4, version)})
            assert stats.staleness == 1
            assert trainer.eval("k", np.ones((1, 4, 1, 32))).flat[0] == version - 1


def spend_compiles() -> None:
    for i in range(200):
        ane.Program(scale(tag=f"limit-{i}"), {"g": np.ones(4)}).close()


def test_a_compile_limit_that_shows_only_at_load_is_a_typed_error() -> None:
    used = int(soft.get("compiles"))  # softane's own count: the core's may differ
    soft.set("compile_limit_mode", "load")
    soft.set("compile_limit", used + 1)
    # the core is told of no limit, as on an engine whose limit is not known
    error = ane._native.new_error()
    ane._native.core().lib.ane_engine_set_compile_limit(0, error)
    ane.Program(scale(tag="limit-a"), {"g": np.ones(4)}).close()
    with pytest.raises(ane.EngineError, match="Program load failure") as caught:
        spend_compiles()
    assert caught.value.code == 6
    assert caught.value.step == "load"


@pytest.mark.parametrize("profile", ["m1", "m2", "m3-ultra", "m4", "m4-pro", "m4-max", "m5"])
def test_a_kernel_runs_on_every_profile(profile: str, rng: np.random.Generator) -> None:
    soft.set("profile", profile)
    soft.set("compile_limit", 0)
    w = rng.integers(-4, 4, (32, 64)).astype(np.float32)
    x = rng.integers(-4, 4, (1, 64, 1, 32)).astype(np.float32)
    with ane.Program(conv(weight="w"), {"w": w}) as program:
        assert np.array_equal(program.eval(x)[0, :, 0], w @ x[0, :, 0])
