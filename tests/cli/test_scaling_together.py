# SPDX-License-Identifier: MIT
"""``scaling="auto"`` with what else a run can do: accumulation chosen by measuring, compile workers,
a budget that ends. The checkpoint is that of the plain run, bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import cpu, soft
from ane_native.errors import BudgetExhausted
from ane_native.progress import PlainProgress
from ane_native.train import RUNS, TrainResult, train

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")
ROOT = Path(__file__).parents[2]
_seeds = itertools.count(5000)  # weights of no other test: nothing comes from a cache


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    drawn = np.random.default_rng(3).integers(32, 127, 60_000)
    path.write_bytes(drawn.astype(np.uint8).tobytes())
    return str(path)


@pytest.fixture
def overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some gradients are not finite, so that exponents are lowered on the way."""
    backward = cpu.embed_backward

    def poisoned(dx: Any, tokens: Any, dtable: Any, exponent: int = 0) -> None:
        backward(dx, tokens, dtable, exponent)
        if int(tokens.sum()) % 7 == 0:
            dtable[0, 0] = np.inf

    monkeypatch.setattr(cpu, "embed_backward", poisoned)


def run(text: str, name: str, resume: Path | None = None, **more: Any) -> TrainResult:
    numbers = {"data": text, "updates": 8, "valid_every": 4, "valid_windows": 2, **more}
    config = dataclasses.replace(
        RUNS["tiny"], **{"scaling": "auto", "trace_events": 0, "save_every": 2, **numbers}
    )
    with soft.using(numerics="silicon"):
        return train(
            config, out=Path(text).parent, name=name, resume=resume, progress=PlainProgress()
        )


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("overflows")
@pytest.mark.parametrize("update", ["background", "foreground"])
@pytest.mark.parametrize("staleness", [1, 2])
def test_an_accumulation_that_was_measured_changes_no_bit(
    staleness: int, update: str, text: str
) -> None:
    how: dict[str, Any] = {"staleness": staleness, "update": update, "seed": next(_seeds)}
    measured = run(text, "measured", accumulate="auto", **how)
    chosen = int(records(measured.folder)[0]["accumulate"])
    assert chosen >= 1
    told = run(text, "told", accumulate=chosen, **how)
    if staleness == 1:  # 2 depends on timing
        assert digest(told.checkpoint) == digest(measured.checkpoint)
        for later in ("step-000006", "step-000008"):
            shutil.rmtree(measured.folder / "checkpoints" / later)
        again = run(text, "", resume=measured.folder, accumulate="auto", **how)
        assert digest(told.checkpoint) == digest(again.checkpoint)
        starts = [r for r in records(measured.folder) if r["kind"] == "start"]
        assert [r["accumulate"] for r in starts] == [chosen] * 2
    exponents = [r["scale_most"] for r in records(told.folder) if r["kind"] == "update"]
    assert max(exponents) > 0
    assert records(measured.folder)[1]["scale_stream"] == records(told.folder)[1]["scale_stream"]


@pytest.mark.usefixtures("overflows")
@pytest.mark.parametrize("update", ["background", "foreground"])
@pytest.mark.parametrize("staleness", [0, 1])
def test_workers_bake_the_same_powers_of_two(staleness: int, update: str, text: str) -> None:
    how: dict[str, Any] = {"staleness": staleness, "update": update, "seed": next(_seeds)}
    workers = run(text, "workers", workers=2, **how)
    plain = run(text, "plain", **how)
    assert digest(plain.checkpoint) == digest(workers.checkpoint)
    last = records(workers.folder)[-1]
    assert last["workers_compiles"] > 0


@pytest.mark.usefixtures("overflows")
@pytest.mark.parametrize("update", ["background", "foreground"])
@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("sets", [1, 2, 4])
def test_a_run_whose_budget_ended_goes_on_with_the_exponents_it_had(
    sets: int, staleness: int, update: str, text: str
) -> None:
    """Wherever in the run that is: also where only the exponents have changed."""
    how: dict[str, Any] = {"staleness": staleness, "update": update, "seed": next(_seeds)}
    used = int(str(ane.Engine().info()["compiles"]))
    limited: dict[str, Any] = {"compile_limit": used + 10 * sets + 5, "budget_end": "stop", **how}
    part = Path(text).parent / "part"
    try:
        again = run(text, "part", **limited)  # it ended with the last update
        stopped = False
    except BudgetExhausted:
        stopped = True
        again = run(text, "", resume=part, compile_limit=0, **how)
    assert stopped or sets == 4
    whole = run(text, "whole", **how)
    assert digest(whole.checkpoint) == digest(again.checkpoint)
    mine, other = (
        [r for r in records(folder) if r["kind"] == "update"] for folder in (part, whole.folder)
    )
    names = ("loss", "grad_norm", "scale_stream", "scale_most", "scale_least", "scale_caution")
    assert [[r[n] for n in names] for r in mine] == [[r[n] for n in names] for r in other]


@pytest.mark.parametrize("more", [(), ("--workers", "2"), ("--update", "foreground")])
def test_restarted_processes_leave_the_bits_of_one(more: tuple[str, ...], text: str) -> None:
    """By exec, and with workers whose budget ends instead."""
    folder = Path(text).parent
    base = [sys.executable, "-m", "ane_native", "train", "--preset", "tiny", "--plain"]
    base += ["--data", text, "--scaling", "auto", "--updates", "7", "--valid-every", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SOFTANE_NUMERICS": "silicon"}
    for name, extra in (("one", ()), ("many", ("--compile-limit", "25", *more))):
        done = subprocess.run(
            [*base, "--name", name, *extra], cwd=folder, env=environment, capture_output=True,
            text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    one, many = (folder / "runs" / name for name in ("one", "many"))
    assert digest(max((one / "checkpoints").iterdir())) == digest(
        max((many / "checkpoints").iterdir())
    )
    starts = [r for r in records(many) if r["kind"] == "start"]
    assert (len(starts) > 2) == ("--workers" not in more)
