# SPDX-License-Identifier: MIT
"""The record of a run and its summary."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ane_native import metrics
from ane_native.metrics import MetricsLog, percentile, read_metrics, summarise, summary_text


def record(update: int, **fields: Any) -> dict[str, Any]:
    made = {
        "kind": "update", "update": update, "loss": 5.0 - update / 10, "applied": True,
        "tokens": 100, "update_ms": 50.0, "micro_steps": 4, "swapped": True, "submitted": True,
        "compile_stall_ms": 2.0, "snapshot_ms": 0.5, "wait_ms": 1.0, "swap_ms": 0.25,
        "submit_ms": 0.25, "compile_ms": 40.0, "hidden_ms": 39.0, "bake_ms": 1.0,
        "engine_compile_ms": 30.0, "load_ms": 1.0, "canary_ms": 2.0, "evals": 72,
        "evals_during_compile": 60, "micro_steps_during_compile": 3, "programs_compiled": 18,
        "programs_reused": 0, "failures": 0, "compiles_used": 18 * update, "budget_left": None,
        "programs_loaded": 36, "staleness": 1, "engine": "softane (SOFTWARE, timing=off)",
        "eval_idle_p50_ms": 1.0, "eval_idle_p99_ms": 2.0, "eval_compiling_p50_ms": None,
        "eval_compiling_p99_ms": None, "valid_loss": None,
    }  # fmt: skip
    return {**made, **fields}


# =============================== The file =======================================


def test_every_line_is_json_and_nan_becomes_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl")
    log.add(record(1))
    log.add(record(2, loss=float("nan"), grad_norm=float("inf")))
    lines = (tmp_path / "m.jsonl").read_text().splitlines()  # flushed before it is closed
    assert [json.loads(line)["update"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["loss"] is None
    assert json.loads(lines[1])["grad_norm"] is None
    log.close()
    log.close()


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    log = MetricsLog(path)
    for i in range(1, 6):
        log.add(record(i))
    log.close()
    path.write_bytes(path.read_bytes() + b'{"kind": "upd')  # cut off by a crash
    log = MetricsLog(path, keep=lambda r: r["update"] <= 3)
    log.add(record(4, loss=1.0))
    log.close()
    assert [r["update"] for r in read_metrics(path)] == [1, 2, 3, 4]
    assert read_metrics(path) == log.records


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2"):
        read_metrics(path)


# =============================== The summary ====================================


def test_percentiles_are_values_that_occurred() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert percentile(values, 50) == 3.0
    assert percentile(values, 99) == 5.0
    assert percentile(values, 1) == 1.0
    assert percentile([], 50) is None
    assert percentile([7.0], 99) == 7.0
    assert percentile(list(range(1, 1001)), 99) == 990


def test_the_summary_adds_up() -> None:
    records = [{"kind": "start", "update": 0, "valid_loss": 5.5, "compile_ms": 100.0}]
    records += [record(i, compile_stall_ms=float(i)) for i in range(1, 11)]
    records[10]["valid_loss"] = 4.0
    # skipped: no boundary, so no counters
    skipped = {"kind": "update", "update": 11, "loss": float("nan"), "applied": False}
    records.append({**skipped, "tokens": 100, "update_ms": 50.0, "micro_steps": 4})
    s = summarise(records)
    assert s["updates"] == 11
    assert s["updates_skipped"] == 1
    assert s["stall_ms"] == {"p50": 5.0, "p99": 10.0, "max": 10.0, "total": 55.0}
    assert s["stall_share"] == pytest.approx(55 / 550)
    assert s["compile_ms"]["total"] == 400.0
    assert s["compile_hidden_share"] == pytest.approx(390 / 400)
    assert s["tokens_per_s"] == pytest.approx(1100 / 0.55)
    assert (s["valid_loss_first"], s["valid_loss_last"]) == (5.5, 4.0)
    assert s["loss_last"] == 4.0
    assert s["evals"] == 720
    assert s["programs_compiled"] == 180
    assert s["first_compile_ms"] == 100.0
    json.dumps(s, allow_nan=False)


def test_nothing_measured_is_shown_as_nothing() -> None:
    for records in ([], [{"kind": "start", "update": 0}]):
        s = summarise(records)
        assert s["stall_share"] is None
        assert s["stall_ms"]["p50"] is None
        json.dumps(s, allow_nan=False)
        assert "-" in summary_text({"empty": s})


def test_the_table_compares_runs_in_aligned_columns() -> None:
    s = summarise([record(i) for i in range(1, 4)])
    text = summary_text({"one": s, "another run": s}, [("budget", "unlimited")], ["A note."])
    head, rule, one, other, *_ = text.splitlines()
    assert len(rule) == len(head)
    assert one.rindex("2,000") == other.rindex("2,000")
    assert "97.50 % of it hidden" in text
    assert "unlimited" in text
    assert text.endswith("A note.\n")


# =============================== The figure =====================================


def test_the_figure_is_a_png_even_of_a_run_that_measured_nothing(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for i, records in enumerate(([], [record(1, valid_loss=4.0), record(2)])):
        path = tmp_path / f"{i}.png"
        assert metrics.plot(records, path, 3.2)
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not list(tmp_path.glob("*.partial"))


def test_without_matplotlib_there_is_no_figure_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert metrics.plot([record(1)], tmp_path / "x.png") is False
    assert list(tmp_path.iterdir()) == []
