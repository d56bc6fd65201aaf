# SPDX-License-Identifier: MIT
"""Runs whose sets fail and whose engine forgets its programs, against the run without: with
staleness 0 and 1 the bytes of the checkpoint are the same.

Gradients of some batches are not finite, so that failures also meet boundaries that have nothing
new to hand over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import cpu, soft
from ane_native.progress import PlainProgress
from ane_native.train import RUNS, TrainResult, train

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's failpoints")

_seeds = itertools.count(4000)  # weights of no other test: nothing comes from a cache
PROGRAMS = 10  # of the tiny model's set


@pytest.fixture(autouse=True)
def _some_gradients_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = cpu.embed_backward

    def poisoned(dx: Any, tokens: Any, dtable: Any, exponent: int = 0) -> None:
        backward(dx, tokens, dtable, exponent)
        if int(tokens.sum()) % 5 == 0:  # of the batch, also where it is begun again
            dtable[0, 0] = np.inf

    monkeypatch.setattr(cpu, "embed_backward", poisoned)


def run(
    folder: Path, name: str, failpoints: str = "", resume: Path | None = None, **settings: Any
) -> TrainResult:
    text = folder / "text.txt"
    if not text.exists():
        drawn = np.random.default_rng(3).integers(32, 127, 60_000)
        text.write_bytes(drawn.astype(np.uint8).tobytes())
    numbers = {"data": str(text), "updates": 8, "valid_every": 4, "valid_windows": 2, **settings}
    with soft.using(failpoints=failpoints):
        config = dataclasses.replace(RUNS["tiny"], **{"trace_events": 0, **numbers})
        return train(config, out=folder, name=name, resume=resume, progress=PlainProgress())


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


def records(result: TrainResult) -> list[dict[str, Any]]:
    text = (result.folder / "metrics.jsonl").read_text()
    return [r for r in map(json.loads, text.splitlines()) if r["kind"] == "update"]


def same(one: TrainResult, other: TrainResult) -> None:
    """Bit for bit, and update for update."""
    for a, b in zip(records(one), records(other), strict=True):
        names = ("update", "loss", "grad_norm", "applied", "loss_scale", "valid_loss")
        assert [a[n] for n in names] == [b[n] for n in names]
    assert digest(one.checkpoint) == digest(other.checkpoint)


def settings() -> Iterator[Any]:
    for staleness, update in itertools.product((0, 1), ("background", "foreground")):
        for more in ({}, {"scaling": "auto"}, {"extrapolate": False}):
            if staleness or "extrapolate" not in more:
                name = "-".join([str(staleness), update, *more])
                yield pytest.param({"staleness": staleness, "update": update, **more}, id=name)


@pytest.mark.parametrize("how", list(settings()))
def test_a_set_that_fails_leaves_the_bits_of_a_run_without(
    how: dict[str, Any], tmp_path: Path
) -> None:
    """One set of each run, from the second on; some meet a boundary with nothing new."""
    said = skipped = 0
    for number in (1, 2, 4, 5):
        seed = next(_seeds)
        point = f"facade.compile={number * PROGRAMS + 3}*off->1*return(1)->off"
        failed = run(tmp_path, f"failed-{number}", point, seed=seed, **how)
        plain = run(tmp_path, f"plain-{number}", seed=seed, **how)
        same(plain, failed)
        said += records(failed)[-1]["failures"]
        skipped += [r["applied"] for r in records(plain)].count(False)
    assert said >= 2  # a skipped update needs no set
    assert skipped >= 2


@pytest.mark.parametrize("how", list(settings()))
def test_an_engine_that_forgets_leaves_the_bits_of_a_run_that_it_served(
    how: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At evaluations all over a run: amid batches, canaries and validations. The last may be the
    canary of a set that the end of the run drops, about which there is nothing to say."""
    seed = next(_seeds)
    plain = run(tmp_path, "plain", seed=seed, **how)
    met = 0
    for after in (35, 92, 150, 203):
        point = f"device.gone={after}*off->1*return->off"
        capsys.readouterr()
        lost = run(tmp_path, f"lost-{after}", point, seed=seed, **how)
        said = capsys.readouterr().out
        met += "the engine lost its programs" in said or "a generation failed" in said
        same(plain, lost)
    assert met >= 2


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_budget_that_ends_with_the_last_update_ends_a_run_that_is_whole(
    staleness: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is nothing to go on for: no error that advises to resume what cannot be resumed."""
    seed = next(_seeds)
    monkeypatch.undo()  # every gradient is finite
    how = {"staleness": staleness, "seed": seed, "updates": 1 + staleness, "valid_every": 0}
    used = int(str(ane.Engine().info()["compiles"]))
    limited = run(tmp_path, "limited", compile_limit=used + PROGRAMS + 5, budget_end="stop", **how)
    said = capsys.readouterr().out
    plain = run(tmp_path, "plain", **how)
    assert digest(plain.checkpoint) == digest(limited.checkpoint)
    assert "no validation after the last update" in said
    assert records(limited)[-1]["update"] == limited.updates == 1 + staleness


@pytest.mark.parametrize("how", list(settings()))
def test_a_run_that_gave_up_goes_on_with_the_bits_of_one_that_did_not(
    how: dict[str, Any], tmp_path: Path
) -> None:
    """A compiler that fails from some set on; the set that was due was tried three times."""
    stops = set()
    how = {**how, "valid_every": 0, "updates": 16}  # the batch that was lost is not validated
    for sets in (1, 2, 3):
        seed = next(_seeds)
        name = f"part-{sets}"
        point = f"facade.compile={sets * PROGRAMS + 3}*off->return(1)"
        with pytest.raises(ane.CompileError):
            run(tmp_path, name, point, seed=seed, **how)
        again = run(tmp_path, "", resume=tmp_path / name, seed=seed, **how)
        plain = run(tmp_path, f"plain-{sets}", seed=seed, **how)
        same(plain, again)
        starts = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        stops |= {r["update"] for r in map(json.loads, starts) if r["kind"] == "start"}
    assert len(stops) >= 3
