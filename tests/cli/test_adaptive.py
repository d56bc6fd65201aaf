# SPDX-License-Identifier: MIT
"""``accumulate="auto"``, ``strategy="auto"`` and ``packing`` in a run: what is chosen is right, said,
kept, and changes no bit that it should not."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import probe, soft
from ane_native.optim import AdamW
from ane_native.probe import Report
from ane_native.probe.report import FORMAT
from ane_native.probe.store import path_for
from ane_native.train import TrainConfig, TrainResult, train
from ane_native.train.adapt import MARGIN, MOST, fit

pytestmark = pytest.mark.skipif(
    not ane.Engine().name.startswith("softane"), reason="needs softane's timing"
)
SCALE = 0.3  # of an M4's times: a set takes about 0.1 s


class Said:
    """A Progress that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, total: int, done: int) -> None: ...
    def update(self, record: Any) -> None: ...
    def say(self, text: str) -> None:
        self.lines.append(text)

    def close(self) -> None: ...


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    rng = np.random.default_rng(3)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 5)) for _ in range(40)]
    path.write_text(" ".join(words[i] for i in rng.integers(0, 40, 8000)))
    return str(path)


def config(text: str, **more: Any) -> TrainConfig:
    common = {"model": "tiny", "data": text, "updates": 6, "warmup": 2, "valid_every": 0}
    return TrainConfig(**{**common, "valid_windows": 4, "trace_events": 0, **more})


def go(settings: TrainConfig, where: Path, **more: Any) -> tuple[TrainResult, list[str]]:
    said = Said()
    return train(settings, out=where, progress=said, **more), said.lines


def records(result: TrainResult | Path, kind: str) -> list[dict[str, Any]]:
    folder = result if isinstance(result, Path) else result.folder
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r for r in map(json.loads, lines) if r["kind"] == kind]


def bits(result: TrainResult | Path) -> dict[str, str]:
    folder = result if isinstance(result, Path) else result.folder
    last = max((folder / "checkpoints").iterdir())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(last.iterdir())}


# =============================== The smallest ===================================


@pytest.mark.parametrize("staleness", [1, 2, 4, None])
def test_the_smallest_accumulation_that_hides_the_job(staleness: int | None) -> None:
    batches = staleness or 1
    rng = np.random.default_rng(1)
    for _ in range(300):
        job, micro = math.exp(rng.uniform(-2, 8)), math.exp(rng.uniform(-1, 4))
        n = fit(job, micro, staleness)
        assert 1 <= n <= MOST
        hides = n * micro * batches >= MARGIN * job * (1 - 1e-12)
        assert hides or n == MOST
        assert n == 1 or (n - 1) * micro * batches < MARGIN * job
    assert fit(0.0, 1.0, staleness) == 1


def test_what_cannot_be_hidden_is_refused(text: str) -> None:
    with pytest.raises(ane.ConfigError, match="staleness of 1 or more"):
        fit(10.0, 1.0, 0)
    with pytest.raises(ane.ConfigError, match="staleness of 1 or more"):
        config(text, accumulate="auto", staleness=0)
    for wrong in (0, -1, True, "some", 1.5):
        with pytest.raises(ane.ConfigError, match="accumulate"):
            config(text, accumulate=wrong)
        with pytest.raises(ane.ConfigError, match="packing"):
            config(text, packing=wrong)


def test_a_rehearsal_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    params = {"a": rng.standard_normal((33, 65)).astype(np.float32), "b": np.ones(7, np.float32)}
    one, other = AdamW(params), AdamW(params)
    assert one.rehearse() > 0
    for adam in (one, other):
        for step in range(3):
            for g in adam.grads.values():
                g[:] = step + 1
            if adam is one and step == 0:
                with pytest.raises(ane.StateError, match="before its first gradients"):
                    adam.rehearse()
            adam.update(lr=0.1, micro_steps=1, oldest_needed=0)
    with pytest.raises(ane.StateError):
        one.rehearse()
    for name in params:
        assert one.params[name].tobytes() == other.params[name].tobytes()
    for name, tensor in one.state_dict()[0].items():
        assert tensor.tobytes() == other.state_dict()[0][name].tobytes()


# =============================== In a run =======================================


def stall_share(result: TrainResult) -> float:
    """Waiting at boundaries over the time of the batches that could wait."""
    later = records(result, "update")[1:]
    return sum(r["wait_ms"] for r in later) / sum(r["batch_ms"] for r in later)


def test_it_picks_rightly_on_both_sides(text: str, tmp_path: Path) -> None:
    """Timed like a chip, the number chosen hides the compile and a tenth of it does not. Not
    scaled, because then nearly all of a micro-step is the chip's time, not this machine's."""
    with soft.using(timing_scale=1.0):
        how: dict[str, Any] = {"timing": "m4", "updates": 4, "seed": 690}  # of this test alone
        auto, said = go(config(text, accumulate="auto", **how), tmp_path)
        chosen = records(auto, "start")[0]["accumulate"]
        assert chosen >= 8
        assert any(line.startswith(f"accumulate {chosen}: a set compiles in ") for line in said)
        assert {r["micro_steps"] for r in records(auto, "update")} == {chosen}
        less, _ = go(config(text, accumulate=chosen // 10, **how), tmp_path)
    assert stall_share(less) > 0.3
    assert stall_share(auto) < 0.6 * stall_share(less)  # a busy machine adds to both
    assert records(auto, "start")[0]["compile_ms"] > 100


def test_more_staleness_or_packing_needs_less_accumulation(text: str, tmp_path: Path) -> None:
    seeds = itertools.count(700)  # weights that no test has compiled
    cases = ("1", {}), ("4", {"staleness": 4}), ("packed", {"packing": 1})
    for _ in range(3):  # what is compared was measured one after the other: other work counts
        chosen = {}
        with soft.using(timing_scale=SCALE):
            for name, more in cases:
                seed = next(seeds)
                how: dict[str, Any] = {"timing": "m4", "updates": 1, "seed": seed, **more}
                settings = config(text, accumulate="auto", **how)
                result, _ = go(settings, tmp_path, name=f"{name}-{seed}")
                chosen[name] = records(result, "start")[0]["accumulate"]
        if chosen["4"] < 0.6 * chosen["1"] and chosen["packed"] < chosen["1"]:
            return
    pytest.fail(f"none of three times: {chosen}")


def test_measuring_leaves_the_run_as_it_is_and_the_choice_outlives_it(
    text: str, tmp_path: Path
) -> None:
    used = int(ane.Engine().info()["compiles"])  # type: ignore[call-overload]
    settings = config(
        text, accumulate="auto", timing="m4", budget_end="stop", compile_limit=used + 35, seed=41
    )
    with soft.using(timing_scale=0.05):
        with pytest.raises(ane.BudgetExhausted, match="saved"):
            go(settings, tmp_path, name="auto")
        folder = tmp_path / "auto"
        first = records(folder, "start")[0]["accumulate"]
        assert 0 < len(records(folder, "update")) < 6
        # a machine on which something else would be right
        with soft.using(timing_scale=0.5):
            more = config(text, accumulate="auto", timing="m4", compile_limit=0, seed=41)
            resumed, said = go(more, tmp_path, resume=folder)
        assert [r["accumulate"] for r in records(resumed, "start")] == [first, first]
        assert not any(line.startswith("accumulate") for line in said)
        plain, _ = go(config(text, accumulate=first, seed=41), tmp_path, name="plain")
    assert bits(plain) == bits(resumed)


def test_where_the_engine_had_the_set_the_probe_says_what_a_compile_takes(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANE_NATIVE_CACHE", str(tmp_path / "cache"))
    settings = config(text, accumulate="auto", timing="m4", updates=1, seed=77)
    with soft.using(timing_scale=SCALE):
        first, _ = go(settings, tmp_path)
        with soft.using(timing="m4", compile_limit=0):
            keep(fake(base=22 * SCALE, op=0.75 * SCALE, mib=3.9 * SCALE), path_for(ane.Engine()))
        monkeypatch.setattr(probe, "run", lambda **_: pytest.fail("there is a stored one"))
        again, said = go(settings, tmp_path)  # softane keeps what this process has compiled
    line = next(line for line in said if line.startswith("accumulate"))
    assert "by the probe (the engine had the first already)" in line
    predicted = float(line.split("compiles in ")[1].split(" ms")[0].replace(",", ""))
    measured = records(first, "start")[0]["compile_ms"]
    assert 0.3 * measured < predicted < 2 * measured + 100
    assert records(again, "start")[0]["accumulate"] >= 1


# =============================== Packing and strategy ===========================


def test_packing_changes_no_bit_and_is_said(text: str, tmp_path: Path) -> None:
    plain, _ = go(config(text), tmp_path, name="plain")
    packed, said = go(config(text, packing="auto", workers=1), tmp_path, name="packed")
    off, _ = go(config(text, packing="off"), tmp_path, name="off")
    assert bits(plain) == bits(packed) == bits(off)
    programs = records(packed, "update")[-1]["programs"]
    assert programs < records(off, "update")[-1]["programs"]
    assert f"packing  10 kernels in {programs} programs" in said
    assert f"10 kernels in {programs} programs" in packed.summary["text"]
    with soft.using(procedures="first"):
        refused, said = go(config(text, packing="auto"), tmp_path, name="refused")
    assert bits(refused) == bits(plain)
    assert any(line.startswith("packing") and "failed: softane" in line for line in said)


def fake(base: float = 22.0, op: float = 0.75, mib: float = 3.9) -> Report:
    """What a probe of an engine says on which only packing and restarts help."""
    values: dict[str, dict[str, Any]] = {
        "procedures": {"works": True, "most": 3},
        "cross-process": {"works": False},
        "compile-limit": {"limit": 45},
        "loaded-limit": {"limit": 128},
        "compile-cost": {"base_ms": base, "op_ms": op, "mib_ms": mib},
    }
    rows = [
        {"name": n, "settles": "", "status": "measured", "said": "", "values": v, "seconds": 0.0}
        for n, v in values.items()
    ]
    return Report({"format": FORMAT, "complete": True, "engine": None}, rows)


def keep(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(report.as_json())


def test_a_stored_probe_decides_and_the_next_process_keeps_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing and restarts, chosen once; several processes later the bits are those of one."""
    monkeypatch.setenv("ANE_NATIVE_CACHE", str(tmp_path / "cache"))
    with soft.using(compile_limit=13):
        keep(fake(), path_for(ane.Engine()))
    more = ["--data", text, "--updates", "6", "--warmup", "2", "--valid-every", "0"]
    command = [sys.executable, "-m", "ane_native", "train", "--model", "tiny", *more]
    command += ["--strategy", "auto", "--compile-limit", "13", "--accumulate", "auto", "--plain"]
    done = subprocess.run(
        [*command, "--name", "part"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "strategy restart, packing: packing: procedures of one program" in done.stdout
    assert "3 in one worked" in done.stdout
    assert done.stdout.count("strategy ") == done.stdout.count("accumulate ") == 1
    starts = records(tmp_path / "runs" / "part", "start")
    assert len(starts) >= 3
    assert len({s["accumulate"] for s in starts}) == 1
    assert {s["programs"] for s in starts} == {5}  # ten kernels, three in one at most
    whole = train(
        TrainConfig(
            model="tiny", data=text, updates=6, warmup=2, valid_every=0, valid_windows=24,
            accumulate=starts[0]["accumulate"],
        ),
        out=tmp_path / "runs", name="whole", progress=Said(),
    )  # fmt: skip
    assert bits(tmp_path / "runs" / "part") == bits(whole)
