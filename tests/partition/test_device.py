# SPDX-License-Identifier: MIT
"""Figures of the engine that is open: settings and a stored probe replace the profile's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ane_native as ane
from ane_native import device, probe, soft
from ane_native.probe import Report

software = pytest.mark.skipif(not ane.Engine().software, reason="settings are softane's")


def report(rows: dict[str, dict[str, Any]]) -> Report:
    made = Report({"complete": True}, [])
    for name, values in rows.items():
        made.rows.append({"name": name, "status": "measured", "values": values})
    return made


@pytest.fixture(autouse=True)
def _nothing_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find", lambda engine: None)


@pytest.mark.parametrize(
    ("chip", "profile"),
    [("h13g", "m1"), ("H16G", "m4"), ("m4-max", "m4-max"), ("h99", "default"), ("", "default")],
)
def test_profiles_of_chips(chip: str, profile: str) -> None:
    assert device.profile_of(chip) == profile


@software
def test_settings_of_softane_are_the_limits_here() -> None:
    limits, cost = device.here()
    assert limits.width == 65536
    assert "ANEForge" in limits.sources["width"]
    with soft.using(max_width=4096, floor_ms=0.5):
        limits, cost = device.here()
        assert (limits.width, cost.dispatch_ms) == (4096, 0.5)
        assert limits.sources["width"] == cost.sources["dispatch_ms"] == "softane setting"
    for key in ("max_width", "floor_ms"):
        soft.set(key, None)  # using() has set what the profile said
    with soft.using(profile="m1"):
        limits, cost = device.here()
        assert (limits.width, limits.kernel_width, cost.op_ms) == (16384, 13, 3.4)
        assert "maderix" in cost.sources["op_ms"]
    soft.set("profile", None)


@software
def test_a_profile_of_a_file_has_its_own_sources(tmp_path: Path) -> None:
    path = tmp_path / "mine.profile"
    path.write_text("max_width = 512   # source: measured, me\n")
    with soft.using(profile=path):
        limits, _ = device.here()
        assert limits.width == 512
        assert limits.sources["width"] == f"{path}: measured, me"
    soft.set("profile", None)


def test_what_the_probe_measured_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(
        {
            "throughput": {"floor_ms": 0.031},
            "compile-cost": {"base_ms": -0.2, "op_ms": 0.04, "mib_ms": 1.5},
            "overlap": {"factor": 0.97},
            "peak": {"rows": [{"refused": "no"}, {"tflops": 2.5}, {"tflops": 3.5}]},
            "loaded-limit": {"limit": 100},
            "compile-limit": {"limit": None},
        }
    )
    monkeypatch.setattr(probe, "find", lambda engine: found)
    limits, cost = device.here()
    assert (cost.dispatch_ms, cost.compile_ms, cost.op_ms, cost.mib_ms) == (0.031, 0.0, 0.04, 1.5)
    assert (cost.busy, cost.tflops, limits.kernels) == (1.0, 3.5, 50)
    assert cost.sources["dispatch_ms"] == "measured here by the probe, throughput"
    assert "measured here by the probe, loaded-limit" in limits.sources["kernels"]
