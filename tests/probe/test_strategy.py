# SPDX-License-Identifier: MIT
"""What is chosen from what the probe measured, and that it says why."""

from __future__ import annotations

from pathlib import Path

import pytest

import ane_native as ane
from ane_native import probe, strategy
from ane_native.probe import Report
from ane_native.strategy import choose


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
    assert strategy.measured(ane.Engine()).rows == first.rows
    assert strategy.auto(ane.Engine()).budget == "none"  # tests have no limit of compiles
