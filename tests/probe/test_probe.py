# SPDX-License-Identifier: MIT
"""The probe: rows, isolation, Ctrl-C, the report's file, what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ane_native as ane
from ane_native import probe
from ane_native.errors import ConfigError
from ane_native.probe.base import EXPERIMENTS, Experiment
from ane_native.probe.runner import one

ROOT = Path(__file__).parents[2]
software = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")


def made(name: str) -> Experiment:
    return EXPERIMENTS[name]


@software
def test_limits_are_met_where_the_engine_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_COMPILE_LIMIT", "11")
    monkeypatch.setenv("SOFTANE_LOADED_LIMIT", "7")
    report = probe.run(only=["compile-limit", "loaded-limit"], quick=True)
    assert report.value("compile-limit", "limit") == 11
    assert report.value("loaded-limit", "limit") == 7
    assert report.value("loaded-limit", "freed_by_unload") is True
    assert report.about["complete"]
    assert report.about["engine"]["software"] is True


@software
def test_a_crash_costs_its_row_and_keeps_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_COMPILE_LIMIT", "5")
    monkeypatch.setenv("SOFTANE_COMPILE_LIMIT_MODE", "crash")
    report = probe.run(only=["compile-limit", "symbol-order", "numerics"], quick=True)
    limit = report.row("compile-limit")
    assert limit is not None
    assert limit["status"] == "crashed"
    assert "SIG" in limit["said"]
    assert limit["values"] == {"good": 5}
    numbers = report.row("numerics")
    assert numbers is not None
    assert numbers["status"] == "measured"


@software
def test_a_hang_ends_at_the_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_TIMING", "m4")
    monkeypatch.setenv("SOFTANE_TIMING_SCALE", "100")
    begin = time.monotonic()
    row = one(made("numerics"), True, timeout=2.0)
    assert row["status"] == "timeout"
    assert time.monotonic() - begin < 60


@software
def test_what_differs_between_engines_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = one(made("symbol-order"), True)
    assert by_name["values"]["by_name"] is True
    monkeypatch.setenv("SOFTANE_ORDER", "declaration")
    assert one(made("symbol-order"), True)["values"]["by_name"] is False
    monkeypatch.delenv("SOFTANE_ORDER")
    assert one(made("staging"), True)["values"]["evals"] is None
    monkeypatch.setenv("SOFTANE_STAGING_EVALS", "3")
    missed = one(made("staging"), True)["values"]
    assert (missed["evals"], missed["form"]["code"]) == (3, 8)
    plain = one(made("numerics"), True)["values"]["rows"]
    assert plain["dot 32704"] != "inf"
    assert plain["dot 32768"] == "inf"
    monkeypatch.setenv("SOFTANE_SLICE_CLAMP", "4094")
    assert one(made("numerics"), True)["values"]["rows"]["slice 8192"] == "inf"
    assert plain["slice 8192"] == "8192.0"


def test_reload_other_processes_and_spellings() -> None:
    reload = one(made("weight-reload"), True)
    assert reload["status"] == "measured", reload
    assert reload["values"]["unchanged_loaded"] is True
    assert one(made("cross-process"), True)["values"]["works"] is True
    rows = one(made("spellings"), True)["values"]["rows"]
    assert rows["concat"] == rows["dialect A"] == "right"
    assert rows["unknown operation"].startswith("refused")


@software
def test_chip_timing_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_TIMING", "m4")  # 22 ms + 0.75 per operation + 3.9 per MiB
    found = one(made("compile-cost"), True)["values"]
    for row in found["rows"]:  # it sleeps at least as long
        assert row["ms"] > 0.99 * (22 + 0.75 * row["operations"] + 3.9 * row["mib"])
    assert (
        not found["fits"] or 15 < found["base_ms"] < 60
    )  # a machine with much other work: no line
    monkeypatch.setenv("SOFTANE_FLOOR_MS", "5")  # long beside what other work adds
    monkeypatch.setenv("SOFTANE_BUSY", "2")
    overlap = one(made("overlap"), True)["values"]
    assert overlap["evals_during"] > 0
    assert overlap["factor"] > 1.2
    assert overlap["timeline"]["compiles"]


def test_the_file_comes_back_and_damage_is_said(tmp_path: Path) -> None:
    report = probe.run(only=["alternate", "client-path"], quick=True)
    path = tmp_path / "report.json"
    report.write(path)
    again = probe.Report.read(path)
    assert again.rows == json.loads(path.read_text())["rows"]
    assert [r["status"] for r in again.rows] == ["impossible", "measured"]
    for text in ("", "[]", '{"format": "other"}', '{"format": "ane_native probe 1", "rows": [1]}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="expected"):
            probe.Report.read(path)
    with pytest.raises(ConfigError, match="no experiment"):
        probe.run(only=["nothing"])


def test_what_is_kept_is_found_and_damage_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ANE_NATIVE_CACHE", str(tmp_path / "cache"))
    engine = ane.Engine()
    assert probe.find(engine) is None
    report = probe.run(only=["client-path"], quick=True)
    path = probe.remember(engine, report)
    assert path is not None
    found = probe.find(engine)
    assert found is not None
    assert found.about == json.loads(json.dumps(report.about))
    path.write_bytes(path.read_bytes()[:40])
    assert probe.find(engine) is None
    assert "ignored" in caplog.text
    report.about["complete"] = False
    assert probe.remember(engine, report) is None


def command(*args: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ane_native", "probe", *args], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ANE_NATIVE_CACHE": str(cwd / "cache")},
    )  # fmt: skip


def test_the_command_prints_a_table_writes_and_draws(tmp_path: Path) -> None:
    child = command(
        "--quick", "--only", "overlap", "--json", "r.json", "--plot", "o.png", cwd=tmp_path
    )
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "measured" in out
    assert probe.Report.read(tmp_path / "r.json").value("overlap", "idle")["p50"] > 0
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


@software
def test_ctrl_c_leaves_a_partial_report_and_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFTANE_TIMING", "m4")
    monkeypatch.setenv("SOFTANE_TIMING_SCALE", "20")
    child = command("--only", "client-path", "--only", "compiles", "--json", "r.json", cwd=tmp_path)
    time.sleep(4)  # the first is over at once, the second takes ten seconds
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, (out, err)
    report = probe.Report.read(tmp_path / "r.json")
    assert report.about["complete"] is False
    assert report.about["stopped_at"] in ("compiles", "client-path")
    assert len(report.rows) <= 1


@software
def test_the_table_says_whose_figures_they_are_and_no_paths(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    monkeypatch.setenv("SOFTANE_COMPILE_LIMIT", "5")
    report = probe.run(only=["compile-limit", "throughput", "numerics"], quick=True)
    Console(width=200, highlight=False).print(report.table())
    shown = capsys.readouterr().out
    assert "computed by this machine's processor" in shown
    assert "first infinite sum of products: 32768" in shown
    assert "ANECCompile(<program>) FAILED" in shown
    assert "outcome" in shown
    assert shown.splitlines()[0].count(report.about["os_build"]) == 1


def test_a_build_that_the_system_does_not_name_is_in_the_title() -> None:
    report = probe.Report.begin(quick=True, os_build="25F84", version="1", format="x")
    report.about["engine"] = {"name": "apple", "software": False, "chip": "M4"}
    report.about["system"] = "Darwin 25.5.0"
    assert report.title() == "apple: M4; Darwin 25.5.0 25F84"
