# SPDX-License-Identifier: MIT
"""The map's rows follow from what a bound means: the scheduler is real, the clock is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cffi")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import map as chip_map
import map_set


def row(policy: str, micro_steps: int, workers: int = 2) -> dict[str, Any]:
    case = {"chip": "m4", "packed": True, "workers": workers}
    return chip_map.lead({**case, "accumulate": micro_steps, "policy": policy})


@pytest.mark.parametrize("micro_steps", [4, 10, 40])
def test_a_row_is_what_its_bound_promises(micro_steps: int) -> None:
    train = micro_steps * map_set.MICRO_STEP_MS["m4"]  # workers do not slow evaluations
    rows = {policy: row(policy, micro_steps) for policy in map_set.POLICIES}
    compiled = rows["1"]["compile_ms"]
    for r in rows.values():
        assert r["train_ms"] == pytest.approx(train)
        assert r["batches"] >= chip_map.BATCHES
    assert rows["synchronous"]["batch_ms"] == pytest.approx(train + compiled)
    assert rows["synchronous"]["staleness_max"] == 0
    assert rows["1"]["batch_ms"] == pytest.approx(max(train, compiled))
    assert (rows["1"]["staleness_mean"], rows["1"]["staleness_max"]) == (1, 1)
    for policy, bound in (("2", 2), ("4", 4)):
        assert rows[policy]["staleness_max"] <= bound
        least = max(train, 2 * compiled / (bound + 1))
        assert least * 0.97 <= rows[policy]["batch_ms"] <= max(train, compiled) * 1.0001
    whole = -(-compiled // train)  # batches that hold a compile
    ready = rows["when ready"]
    assert ready["stall_share"] == 0
    assert ready["staleness_max"] == max(1, 2 * whole - 1)
    assert ready["staleness_mean"] == pytest.approx((3 * whole - 1) / 2, rel=0.02)


def test_the_profile_is_what_softane_charges() -> None:
    c = map_set.chip("m4")
    ks = map_set.kernels()
    alone, packed = map_set.groups(ks, packed=False), map_set.groups(ks, packed=True)
    assert sorted(n for g in packed for n in g) == sorted(k.name for k in ks.kernels)
    assert len(alone) == 60
    assert 2 <= len(packed) <= 12
    one = c.compile_ms(alone, 0)
    assert one == pytest.approx(3387 + 60 * 1.8, rel=0.01)  # published fit, and the loads
    saved = (60 - len(packed)) * (c.base + c.load)
    assert c.compile_ms(packed, 0) == pytest.approx(one - saved)
    assert c.compile_ms(packed, 1) < c.compile_ms(packed, 0)  # loads beside compiles
    assert c.compile_ms(alone, 2) == pytest.approx(c.compile_ms(alone, 1) / 2, rel=0.05)


def test_the_small_set_takes_what_the_real_one_would() -> None:
    from ane_native import soft
    from ane_native.kernel import Program

    c, ks = map_set.chip("m4"), map_set.kernels()
    with soft.using(**map_set.settings(c, 1.0)):
        for kernel in ks.kernels[:2]:
            w = {kernel.name: map_set.weights(ks, np.random.default_rng(3))[kernel.name]}
            with Program(kernel, w) as program:
                took = float(str(program.info()["compile_ms"]))
            assert took >= c.program_ms([kernel.name]) * 0.999  # it sleeps at least that long
            assert took < 20 * c.program_ms([kernel.name])
