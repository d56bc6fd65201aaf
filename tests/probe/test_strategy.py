# SPDX-License-Identifier: MIT
"""What is chosen from what the probe measured, and that it says why."""

from __future__ import annotations

from pathlib import Path

import pytest

import ane_native as ane
from ane_native import probe, soft, strategy
from ane_native.packing import LIMITS
from ane_native.probe import Report
from ane_native.strategy import choose, costs


def report(**works: bool) -> Report:
    rows = [
        {"name": n.replace("_", "-"), "status": "measured", "said": "", "values": {"works": w}}
        for n, w in works.items()
    ]
    return Report({}, rows)


BOTH = ("workers", "packing")


@pytest.mark.parametrize(
    ("found", "limit", "able", "refused", "budget", "packing"),
    [
        (report(cross_process=True, procedures=True), None, BOTH, None, "none", True),
        (report(cross_process=True, procedures=True), 119, BOTH, None, "workers", True),
        (report(cross_process=True, procedures=True), 119, (), None, "restart", False),
        (report(cross_process=False, procedures=False), 119, BOTH, None, "restart", False),
        (report(), 119, BOTH, "a notebook", "stop", False),
    ],
)
def test_choices(
    found: Report, limit: int | None, able: tuple[str, ...], refused: str | None, budget: str,
    packing: bool,
) -> None:  # fmt: skip
    made = choose(found, compile_limit=limit, able=able, refused=refused)
    assert (made.budget, made.packing) == (budget, packing)
    assert len(made.reasons) >= 2
    if refused:
        assert refused in str(made)


def test_a_row_that_was_not_measured_counts_as_impossible() -> None:
    found = report(cross_process=True)
    found.rows[0]["status"] = "crashed"
    assert choose(found, compile_limit=9, able=BOTH, refused=None).budget == "restart"


def test_the_probe_is_made_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANE_NATIVE_CACHE", str(tmp_path))
    first = strategy.measured(ane.Engine())
    assert {r["name"] for r in first.rows} == set(strategy.NEEDED)
    monkeypatch.setattr(probe, "run", lambda **_: pytest.fail("made again"))
    kept = strategy.measured(ane.Engine())  # texts of errors are kept without private names
    for name in strategy.NEEDED:
        was, now = first.row(name), kept.row(name)
        assert was is not None
        assert now is not None
        assert now["status"] == was["status"]
    assert kept.value("cross-process", "works") == first.value("cross-process", "works")
    assert strategy.auto(ane.Engine()).budget == "none"  # tests have no limit of compiles


# =============================== Packing ========================================


def full(**values: dict[str, object]) -> Report:
    """A report with these values of measured rows."""
    rows = [
        {"name": n.replace("_", "-"), "status": "measured", "said": "", "values": v}
        for n, v in values.items()
    ]
    return Report({}, rows)


LINE = {"base_ms": 22.0, "op_ms": 0.75, "mib_ms": 3.9}


def decided(found: Report) -> strategy.Strategy:
    return choose(found, compile_limit=None, able=BOTH, refused=None)


def test_packing_takes_its_limits_from_what_was_measured() -> None:
    made = decided(
        full(
            procedures={"works": True, "most": 24},
            loaded_limit={"limit": 64},
            compile_cost={"base_ms": 3.5, "op_ms": 0.25, "mib_ms": 1.0},
        )
    )
    assert made.packing
    assert (made.limits.procedures, made.limits.loaded) == (24, 64)
    assert (made.limits.fixed_ms, made.limits.operation_ms, made.limits.mib_ms) == (3.5, 0.25, 1.0)
    for said in ("24 in one worked", "64 programs loaded", "3.50 ms", "0.250 an operation"):
        assert said in str(made)


def test_more_than_hardware_is_reported_to_take_is_not_used() -> None:
    made = decided(full(procedures={"works": True, "most": 96}, loaded_limit={"limit": 500}))
    assert made.packing
    assert made.limits == LIMITS
    assert f"96 in one worked ({LIMITS.procedures} are used)" in str(made)
    assert "figures of an M4 decide" in str(made)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Report({}, []), "the safe choice: several kernels in one program were not tried"),
        (full(procedures={"works": False}), "do not work here"),
        (
            Report({}, [{"name": "procedures", "status": "timeout", "said": "", "values": {}}]),
            "the safe choice: several kernels in one program could not be tried (timeout)",
        ),
    ],
)
def test_without_a_measurement_nothing_is_packed_and_that_is_said(found: Report, said: str) -> None:
    made = decided(found)
    assert not made.packing
    assert made.limits == LIMITS
    assert said in str(made)


@pytest.mark.parametrize(
    "line",
    [
        {"base_ms": -0.3, "op_ms": 0.1, "mib_ms": 1.0},
        {"base_ms": 0.5, "op_ms": -0.1, "mib_ms": 1.0},
        {"base_ms": 0.5, "op_ms": 0.0, "mib_ms": 0.0},
        {"base_ms": "much", "op_ms": 0.0, "mib_ms": 1.0},
        {},
    ],
)
def test_a_line_that_makes_no_sense_is_not_used(line: dict[str, object]) -> None:
    assert costs(full(compile_cost=line)) is None
    assert costs(full(compile_cost=LINE)) is not None
    assert costs(None) is None
    assert costs(Report({}, [])) is None


def test_a_stored_report_decides_and_what_it_lacks_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_NATIVE_CACHE", str(tmp_path))
    stored = full(
        procedures={"works": True, "most": 8}, cross_process={"works": False},
        compile_limit={"limit": 119}, loaded_limit={"limit": 128}, compile_cost=LINE,
    )  # fmt: skip
    stored.about |= {"format": probe.report.FORMAT, "complete": True}
    asked: list[list[str]] = []

    def run(only: list[str], quick: bool) -> Report:
        asked.append(list(only))
        made = full(compile_cost={"base_ms": 7.0, "op_ms": 1.0, "mib_ms": 1.0})
        made.about |= {"format": probe.report.FORMAT, "complete": True}
        return made

    monkeypatch.setattr(probe, "run", run)
    assert probe.remember(ane.Engine(), stored) is not None
    made = strategy.auto(ane.Engine())
    assert not asked
    assert (made.packing, made.limits.procedures, made.limits.fixed_ms) == (True, 8, 22.0)
    stored.rows = [r for r in stored.rows if r["name"] != "compile-cost"]
    probe.remember(ane.Engine(), stored)
    assert strategy.auto(ane.Engine()).limits.fixed_ms == 7.0
    assert asked == [["compile-cost"]]
    assert strategy.auto(ane.Engine()).limits.fixed_ms == 7.0  # kept beside the others
    assert len(asked) == 1


@pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")
def test_the_probe_sees_the_settings_of_the_process_that_asks() -> None:
    with soft.using(procedures="first"):
        refused = probe.run(only=["procedures"], quick=True)
    assert refused.value("procedures", "works") is False
    found = probe.run(only=["procedures", "compile-cost"], quick=True)
    assert found.value("procedures", "works") is True
    assert found.value("procedures", "most") >= LIMITS.procedures
    with soft.using(timing="m4", timing_scale=1.0):
        line = costs(probe.run(only=["compile-cost"], quick=True))
    assert line is not None
    assert line.fixed_ms > 22 * 0.5  # a chip's own compile time, not softane's
