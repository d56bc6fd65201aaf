# SPDX-License-Identifier: MIT
"""The timeline is what Perfetto reads: valid JSON, sane spans, arrows that connect, bounded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest

import ane_native as ane
from ane_native.scheduler import TraceEvent
from ane_native.trace import COMPILES, EVALS, MAIN, WORKERS, TraceLog


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
    assert len(names) == 4


def test_arrows_start_in_a_submit_pass_the_job_and_end_in_a_swap(tmp_path: Path) -> None:
    trace = TraceLog(origin_ns=0)
    events = [("submit", 10, 20), ("generation", 30, 90), ("swap", 100, 110)]
    trace.add(TraceEvent(kind, None, 5, a, b, 1) for kind, a, b in events)
    document = written(trace, tmp_path / "t.json")
    arrows = [e for e in document["traceEvents"] if e.get("cat") == "generation"]
    assert [e["ph"] for e in arrows] == ["s", "t", "f"]
    assert {e["id"] for e in arrows} == {"5"}
    for arrow in arrows:  # an arrow binds to the span around it
        assert any(
            s["tid"] == arrow["tid"] and s["ts"] <= arrow["ts"] <= s["ts"] + s["dur"]
            for s in spans(document)
        )


def check_arrows(document: dict[str, Any], kind: str) -> dict[str, list[dict[str, Any]]]:
    """Arrows of a kind by id: each has a start, an end and one way in time; each point binds to a span."""
    arrows: dict[str, list[dict[str, Any]]] = {}
    for e in document["traceEvents"]:
        if e.get("cat") == kind:
            arrows.setdefault(e["id"], []).append(e)
            assert any(
                (s["pid"], s["tid"]) == (e["pid"], e["tid"])
                and s["ts"] <= e["ts"] <= s["ts"] + s["dur"]
                for s in spans(document)
            ), e
    for points in arrows.values():
        points.sort(key=lambda e: float(e["ts"]))
        phases = "".join(e["ph"] for e in points)
        assert phases[0] == "s", points
        assert phases.replace("t", "") in ("s", "sf")
    return arrows


def test_workers_have_tracks_and_arrows_of_their_own(tmp_path: Path) -> None:
    trace = TraceLog(origin_ns=0)
    events = [
        ("snapshot", None, 5, 10, 20, 0),
        ("submit", None, 5, 20, 30, 0),
        ("submit", None, 6, 35, 36, 0),  # only counted: no arrow
        ("stage", "a", 5, 40, 50, 77),
        ("compile", "a", 5, 50, 80, 77),
        ("stage", "b", 5, 42, 52, 88),
        ("compile", "b", 5, 52, 70, 88),
        ("publish", None, 5, 90, 92, 0),
        ("generation", None, 5, 30, 93, 0),
        ("swap", None, 5, 100, 110, 0),
    ]
    trace.add(TraceEvent(kind, k, v, a, b, 1, p) for kind, k, v, a, b, p in events)
    document = written(trace, tmp_path / "t.json")
    named = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in document["traceEvents"]
        if e["name"] == "thread_name"
    }
    assert named[WORKERS, 77] == "worker 77"
    assert named[WORKERS, 88] == "worker 88"
    assert {(e["pid"], e["tid"]) for e in spans(document)} <= set(named)
    assert set(check_arrows(document, "generation")) == {"5"}
    programs = check_arrows(document, "program")
    assert {k: "".join(e["ph"] for e in v) for k, v in programs.items()} == {
        "5 a": "stf",
        "5 b": "stf",
    }
    assert [e["pid"] for e in programs["5 a"]] == [1, WORKERS, 1]


def test_a_run_with_workers_makes_a_timeline_whose_arrows_join(tmp_path: Path) -> None:
    engine = ane.Engine()
    rng = np.random.default_rng(5)
    updates = 6
    trace = TraceLog()
    kernel = programs.conv("traced", 8, 4, 32)
    weights = {"w": rng.standard_normal((4, 8), dtype=np.float32)}
    with ane.DoubleBufferedTrainer(
        ane.KernelSet([kernel]), weights, workers=1, trace=1000
    ) as trainer:
        for _ in range(updates):
            trainer.eval("traced", rng.standard_normal((1, 8, 1, 32), dtype=np.float32))
            trainer.step({"w": rng.standard_normal((4, 8), dtype=np.float32)})
            trace.add(trainer.drain_trace())
        assert trainer.workers is not None
        by_workers = trainer.workers.stats().compiles
        trace.add(trainer.drain_trace())
    document = written(trace, tmp_path / "t.json", engine=engine.name)
    for e in document["traceEvents"]:  # what the format asks for
        assert e["ph"] in ("X", "M", "s", "t", "f")
        assert {"name", "pid"} <= set(e)
        assert e["ph"] == "M" or e["ts"] >= 0
        assert e["ph"] != "X" or e["dur"] >= 0
    ends = {k: v[-1]["ph"] for k, v in check_arrows(document, "generation").items()}
    assert {k for k, ph in ends.items() if ph == "f"} >= {str(v) for v in range(updates - 1)}
    programs_made = check_arrows(document, "program")
    assert len(programs_made) >= min(by_workers, updates - 1) > 0
    for name, points in programs_made.items():
        assert "".join(e["ph"] for e in points) == "stf", name
        assert points[1]["pid"] == WORKERS
        snapshot, compiled, published = (float(e["ts"]) for e in points)
        assert snapshot < compiled < published


def test_a_compile_that_is_told_before_its_submit_has_its_arrow(tmp_path: Path) -> None:
    trace = TraceLog(origin_ns=0)
    events = [  # as they were recorded: the job was quicker than the thread that began it
        ("compile", "a", 3, 40, 60, 77),
        ("publish", None, 3, 70, 72, 0),
        ("snapshot", None, 3, 10, 20, 0),
        ("submit", None, 3, 20, 65, 0),
    ]
    trace.add(TraceEvent(kind, k, v, a, b, 1, p) for kind, k, v, a, b, p in events)
    programs = check_arrows(written(trace, tmp_path / "t.json"), "program")
    assert {k: "".join(e["ph"] for e in v) for k, v in programs.items()} == {"3 a": "stf"}


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
