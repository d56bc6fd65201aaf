# SPDX-License-Identifier: MIT
"""Experiments of the probe on engines that differ: each finds what is there, and what is not."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import probe
from ane_native.probe import reflection, report, speed
from ane_native.probe.base import EXPERIMENTS, Bench
from ane_native.probe.runner import one

ROOT = Path(__file__).parents[2]
software = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")


def measured(name: str, quick: bool = False) -> tuple[str, dict[str, Any]]:
    row = one(EXPERIMENTS[name], quick)
    assert row["status"] == "measured", row
    return row["said"], row["values"]


# =============================== Classes and QoS ================================


def test_the_core_needs_what_the_table_says() -> None:
    text = (ROOT / "ane_native" / "_core.m").read_text(encoding="utf-8")
    body = text[text.index("g_needed[] = {") : text.index("};", text.index("g_needed[] = {"))]
    needed = set(re.findall(r'\{\w+, "(\w+)", (true|false),\s+"([^"]+)"\}', body))
    listed = {
        (name, {"+": "true", "-": "false"}[m[0]], m[1:])
        for name, methods in reflection.CORE.items()
        for m in methods.split()
    }
    assert needed == listed


def test_classes_and_selectors() -> None:
    runtime = reflection.Runtime()
    assert runtime.has("_ANEClient")
    assert not runtime.has("_ANENoSuchClass")
    assert runtime.answers("_ANEClient", "+sharedConnection")
    assert not runtime.answers("_ANEClient", "-sharedConnection")  # of the class only
    assert not runtime.answers("_ANEClient", "-noSuchSelector:")
    assert not runtime.answers("_ANENoSuchClass", "+sharedConnection")
    assert runtime.number("_ANEQoSMapper", "aneUtilityTaskQoS") == 17
    assert runtime.number("_ANEQoSMapper", "noSuchSelector") is None
    said, values = measured("selectors")
    assert values["missing"] == []
    asked = [m for t in values["classes"].values() for m in t]
    assert said.startswith(f"{len(asked)} of {len(asked)} selectors")
    assert len(asked) > 100


@software
def test_missing_selectors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reflection.OTHERS, "_ANEWeight", "+oneThatIsMissing:")
    monkeypatch.setitem(reflection.OTHERS, "_ANENoSuchClass", "+a -b")
    said, values = reflection.selectors(Bench(ane.Engine(), True))
    assert values["missing"] == ["+[_ANEWeight oneThatIsMissing:]", "_ANENoSuchClass"]
    assert values["classes"]["_ANENoSuchClass"] is None
    assert "oneThatIsMissing" in said


@software
def test_qos_levels_and_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    _, values = measured("qos")
    assert values["taken"] == list(reflection.LEVELS)
    queues = {r["qos"]: r["queue"] for r in values["rows"]}
    assert (queues[0], queues[1], queues[1000]) == (2, 5, 5)
    monkeypatch.setenv("SOFTANE_REALTIME", "refuse")
    said, values = measured("qos")
    assert values["taken"] == [n for n in reflection.LEVELS if n]
    assert "0 compile refused" in said


# =============================== Speed ==========================================


@software
def test_peak_is_what_the_chip_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_TIMING", "m4")
    for tflops in (6.8, 0.5):  # an evaluation takes at least what the profile says
        monkeypatch.setenv("SOFTANE_TFLOPS", str(tflops))
        said, values = measured("peak", quick=True)
        rates = [r["tflops"] for r in values["rows"]]
        assert len(rates) == 6
        assert 0 < max(rates) < tflops
        assert said.startswith(f"{max(rates):.2f} TFLOPS")


@software
def test_refused_chains_cost_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_MAX_CONV_IN", "300")
    _, values = measured("peak", quick=True)
    assert [("refused" in r) for r in values["rows"]] == [True] * 5 + [False]
    monkeypatch.setenv("SOFTANE_MAX_CONV_IN", "200")
    assert measured("peak", quick=True)[0] == "every chain was refused"


@software
def test_parallel_compiles_are_told_from_serial_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTANE_TIMING", "m4")

    def gains() -> dict[tuple[int, int], float]:
        return {tuple(r["qos"]): r["gain"] for r in measured("parallel")[1]["rows"]}

    apart = gains()
    assert apart[21, 17] > 1.25  # 2 on a machine without other work
    assert apart[21, 17] > apart[21, 21]
    monkeypatch.setenv("SOFTANE_QOS_OVERLAP", "0")
    assert gains()[21, 17] < apart[21, 17]


def test_a_line_is_told_from_none() -> None:
    table = np.array([[1.0, d, m] for d, m in ((1, 0), (16, 0), (48, 0), (1, 0.5), (1, 2), (8, 2))])
    said, values = speed._line_through(table, table @ np.array([22.0, 0.75, 3.9]))
    assert values["fits"]
    assert (values["base_ms"], values["op_ms"], values["mib_ms"]) == pytest.approx((22, 0.75, 3.9))
    assert values["error"] < 1e-6
    assert said.startswith("22.00 ms + 0.750 per operation + 3.90 per MiB")
    said, values = speed._line_through(table, np.array([0.3, 0.2, 0.4, 9.0, 1.0, 20.0]))
    assert not values["fits"]
    assert values["base_ms"] is values["op_ms"] is values["mib_ms"] is None
    assert "no line: 0.20 to 20.00 ms" in said
    assert f"{values['error']:.0%}" in said


# =============================== Meaning ========================================


@software
def test_widths_that_fail_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    _, values = measured("shapes")
    assert {r["result"] for r in values["rows"]} == {"right"}
    monkeypatch.setenv("SOFTANE_WIDTH_RULE", "fail")
    said, values = measured("shapes")
    good = {r["width"] for r in values["rows"] if r["result"] == "right"}
    assert good == {32, 64}  # rows of whole 64 bytes
    assert "16x31" in said
    refused = [r for r in values["rows"] if r["result"] != "right"]
    assert all(r["form"]["step"] == "evaluate" for r in refused)


@software
def test_compiles_that_fail_for_some_weights_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured("values")[0] == "0 of 50 failed"
    monkeypatch.setenv("SOFTANE_VALUE_FAILS", "7")
    said, values = measured("values")
    assert said == "1 of 50 failed"
    assert values["failures"][0]["seed"] == 5007
    assert values["failures"][0]["step"] == "compile"


@software
def test_precision_sees_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = measured("precision")
    assert exact["cosine"] > 0.9999
    assert exact["error"] < 0.01
    assert (exact["repeats"], exact["finite"]) == (True, 1.0)
    monkeypatch.setenv("SOFTANE_DOT_LIMIT", "2")
    said, values = measured("precision")
    assert values["finite"] < 1
    assert "not finite" in said


@software
def test_one_procedure_for_all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    said, values = measured("procedures")
    assert (values["works"], values["programs"]) == (True, 1)
    assert said == f"yes, {values['most']} in one program"
    monkeypatch.setenv("SOFTANE_PROCEDURES", "first")
    said, values = measured("procedures")
    assert (values["works"], values["most"]) == (False, 0)
    assert "same results" in said


# =============================== The file to send in ============================


@software
def test_the_file_names_no_user_and_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "jane.doe"
    place.mkdir()
    monkeypatch.setenv("SOFTANE_COMPILE_LIMIT", "3")
    monkeypatch.setenv("SOFTANE_STAGING", str(place))
    monkeypatch.setenv("USER", "jane.doe")
    monkeypatch.setattr(report.platform, "node", lambda: "janes-macbook.local")
    made = probe.run(only=["compile-limit"], quick=True)
    row = made.row("compile-limit")
    assert row is not None
    assert "jane.doe" in row["said"]  # the terminal shows it whole
    row["values"]["more"] = [
        "janes-macbook said no",
        "/private/var/folders/ab/c_d123/T/x.mil",
        "/Users/jane/Library",
        f"{tempfile.gettempdir()}/ane_native-501-1234/ABC",
        float("nan"),
    ]
    made.write(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    for private in ("jane", "c_d123", "501", str(tmp_path)):
        assert private not in text, private
    about = json.loads(text)
    assert about["versions"].keys() >= {"ane_native", "python", "numpy"}
    assert about["machine"]
    assert about["engine"]["version"]
    assert about["rows"][0]["values"]["limit"] == 3
    assert about["rows"][0]["values"]["more"][-1] == "nan"
