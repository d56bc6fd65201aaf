# SPDX-License-Identifier: MIT
"""The timeline is what Perfetto reads: valid JSON, sane spans, arrows that connect, bounded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ane_native.scheduler import TraceEvent
from ane_native.trace import COMPILES, EVALS, MAIN, TraceLog


def written(trace: TraceLog, path: Path, **about: Any) -> dict[str, Any]:
    trace.write(path, **about)
    loaded: dict[str, Any] = json.loads(path.read_bytes())
    return loaded


def spans(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in document["traceEvents"] if e["ph"] == "X"]


def test_events_land_on_their_tracks_with_their_times(tmp_path: Path) -> None:
    trace = TraceLog(origin_ns=1_000_000)
    trace.add(
        [
            TraceEvent("submit", None, 3, 1_000_000, 1_001_000, 7),
            TraceEvent("bake", "L0.attn_fwd", 3, 1_002_000, 1_003_000, 8),
            TraceEvent("compile", "L0.attn_fwd", 3, 1_003_000, 1_009_000, 8),
            TraceEvent("eval", "L0.attn_fwd", 2, 1_004_000, 1_006_500, 7),
            TraceEvent("generation", None, 3, 1_002_000, 1_010_000, 8),
            TraceEvent("swap", None, 3, 1_011_000, 1_012_000, 7),
        ]
    )
    document = written(trace, tmp_path / "t.json", engine="softane")
    by_name = {e["name"]: e for e in spans(document)}
    assert by_name["L0.attn_fwd"]["tid"] == EVALS
    assert by_name["L0.attn_fwd"]["ts"] == 4.0
    assert by_name["L0.attn_fwd"]["dur"] == 2.5
    assert by_name["compile L0.attn_fwd"]["tid"] == COMPILES
    assert by_name["generation 3"]["tid"] == COMPILES
    assert by_name["submit"]["tid"] == by_name["swap"]["tid"] == MAIN
    assert document["otherData"]["engine"] == "softane"
    names = {e["args"]["name"] for e in document["traceEvents"] if e["name"] == "thread_name"}
    assert len(names) == 3


def test_arrows_start_in_a_submit_pass_the_job_and_end_in_a_swap(tmp_path: Path) -> None:
    trace = TraceLog(origin_ns=0)
    events = [("submit", 10, 20), ("generation", 30, 90), ("swap", 100, 110)]
    trace.add(TraceEvent(kind, None, 5, a, b, 1) for kind, a, b in events)
    document = written(trace, tmp_path / "t.json")
    arrows = [e for e in document["traceEvents"] if e.get("cat") == "generation"]
    assert [e["ph"] for e in arrows] == ["s", "t", "f"]
    assert {e["id"] for e in arrows} == {5}
    for arrow in arrows:  # an arrow binds to the span around it
        assert any(
            s["tid"] == arrow["tid"] and s["ts"] <= arrow["ts"] <= s["ts"] + s["dur"]
            for s in spans(document)
        )


def test_the_file_is_bounded_and_says_what_it_left_out(tmp_path: Path) -> None:
    trace = TraceLog(limit=100, origin_ns=0)
    for i in range(1000):
        trace.span(f"s{i}", MAIN, i * 10, i * 10 + 5)
    assert len(trace) == 100
    document = written(trace, tmp_path / "t.json")
    names = [e["name"] for e in spans(document)]
    assert names == [f"s{i}" for i in (*range(50), *range(950, 1000))]
    assert document["otherData"]["events_left_out"] == 900


def test_a_span_is_kept_when_its_block_fails(tmp_path: Path) -> None:
    trace = TraceLog()

    def fail() -> None:
        with trace.main("step", update=3):
            time.sleep(0.002)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    trace.counter("staleness", 1)
    (span,) = spans(written(trace, tmp_path / "t.json"))
    assert span["dur"] >= 2000
    assert span["args"] == {"update": 3}
    assert span["ts"] >= 0
