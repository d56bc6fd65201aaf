# SPDX-License-Identifier: MIT
"""The loop in this process: exact mode that overlaps, and kernels made from predicted weights.

Both are checked by what they leave in checkpoints, byte by byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import checkpoint, cpu
from ane_native.checkpoint import load_checkpoint
from ane_native.progress import PlainProgress
from ane_native.scheduler import DoubleBufferedTrainer
from ane_native.train import RUNS, TrainResult, train
from ane_native.train.run import Run

software = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")
EXACT = {"staleness": 0, "clip": 0.0, "update": "foreground"}
TOO_LARGE = 2.0**24  # a loss scale with which the first updates are skipped


def run(
    folder: Path, name: str = "run", resume: Path | None = None, **settings: Any
) -> TrainResult:
    text = folder / "text.txt"
    if not text.exists():
        text.write_bytes(
            np.random.default_rng(3).integers(32, 127, 60_000).astype(np.uint8).tobytes()
        )
    numbers: dict[str, Any] = {
        "data": str(text),
        "updates": 6,
        "valid_every": 3,
        "valid_windows": 2,
        **settings,
    }
    config = dataclasses.replace(RUNS["tiny"], **numbers)
    return train(config, out=folder, name=name, resume=resume, progress=PlainProgress())


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


@pytest.fixture
def offers(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of every offer that is made."""
    seen: list[list[str]] = []
    offer = DoubleBufferedTrainer.offer

    def noted(self: DoubleBufferedTrainer, weights: Mapping[str, Any], **how: Any) -> None:
        seen.append(list(weights))
        offer(self, weights, **how)

    monkeypatch.setattr(DoubleBufferedTrainer, "offer", noted)
    return seen


# =============================== Exact, overlapping =============================


@pytest.mark.parametrize("gradients", [True, False], ids=["beside", "after"])
@pytest.mark.parametrize("loss_scale", [1024.0, TOO_LARGE])
def test_overlapping_leaves_the_bytes_of_waiting(
    loss_scale: float, gradients: bool, offers: list[list[str]], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {**EXACT, "loss_scale": loss_scale, "overlap_gradients": gradients}
    over = run(tmp_path, "over", **settings)
    made, offers[:] = offers[:], []
    plain = run(tmp_path, "plain", overlap_exact=False, **settings)
    assert not offers
    assert digest(plain.checkpoint) == digest(over.checkpoint)
    records = [[r for r in lines(result) if r["kind"] == "update"] for result in (plain, over)]
    assert [r["loss"] for r in records[0]] == [r["loss"] for r in records[1]]
    assert [r["applied"] for r in records[0]] == [r["applied"] for r in records[1]]
    assert any(not r["applied"] for r in records[1]) == (loss_scale == TOO_LARGE)
    if loss_scale != TOO_LARGE:
        names = sorted(load_checkpoint(over.checkpoint).weights)
        per_update = len(made) // 6
        # Each kernel's products of inputs and of outputs, two kernels a layer; head, embedding.
        assert per_update == (2 * 2 * 2 + 2 if gradients else 2)
        for update in range(6):
            batch = made[update * per_update : (update + 1) * per_update]
            assert sorted(name for part in batch for name in part) == names
            assert batch[-1] == ["tok_embeddings.weight"]


def lines(result: TrainResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]


@software
def test_layers_compile_while_earlier_ones_go_backward(tmp_path: Path) -> None:
    """With slow evaluations the first programs are compiling before the last one went back."""
    with ane.soft.using(failpoints="exec.run=delay(10)"):
        result = run(tmp_path, updates=3, valid_every=0, accumulate=1, seed=77, **EXACT)
    events = json.loads((result.folder / "trace.json").read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    boundaries = [e["ts"] for e in spans if e["name"] == "boundary"]
    for version, begin in enumerate(boundaries, 1):
        compiles = [
            e["ts"]
            for e in spans
            if e["name"].startswith("compile ") and e.get("args", {}).get("version") == version
        ]
        assert min(compiles) < begin


@pytest.mark.parametrize(
    "change",
    [{"clip": 1.0}, {"update": "background"}, {"staleness": 1}],
    ids=lambda c: next(iter(c)),
)
def test_what_cannot_overlap_is_said_and_waits(
    change: dict[str, Any],
    offers: list[list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path, updates=2, **{**EXACT, **change})
    assert not offers
    said = capsys.readouterr().out
    if "clip" in change:
        assert "clip 1 needs the norm of all gradients before any weight is final" in said
    assert ("waited for as a whole" in said) == ("staleness" not in change)


@software
def test_a_set_that_fails_is_built_again_from_the_same_weights(tmp_path: Path) -> None:
    with ane.soft.using(failpoints="facade.compile=30*off->2*return(1)->off"):
        over = run(tmp_path, "over", seed=78, **EXACT)
    plain = run(tmp_path, "plain", seed=78, overlap_exact=False, **EXACT)
    assert lines(over)[-1]["failures"] > 0
    assert digest(plain.checkpoint) == digest(over.checkpoint)


@software
def test_an_error_in_the_last_micro_step_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError("no gradient of the embedding")

    monkeypatch.setattr(cpu, "embed_backward", fail)
    with pytest.raises(MemoryError, match="embedding"):
        run(tmp_path, accumulate=1, **EXACT)
    until = time.monotonic() + 20
    while any(t.name == "ane_native parts" for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


# =============================== Predicted weights ==============================


def weights(run: Path, update: int, prefix: str = "") -> dict[str, np.ndarray]:
    saved = load_checkpoint(run / "checkpoints" / f"step-{update:06d}")
    if not prefix:
        return dict(saved.weights)
    found = saved.optimizer.items()
    return {n[len(prefix) :]: t for n, t in found if n.startswith(prefix)}


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "KEEP", 100)


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("update", ["background", "foreground"])
def test_kernels_are_made_from_predictions_and_the_results_are_masters(
    update: str, tmp_path: Path
) -> None:
    on = run(tmp_path, "on", update=update, save_every=1).folder
    off = run(tmp_path, "off", update=update, save_every=1, extrapolate=False).folder
    for k in (3, 4, 5):
        w = [weights(on, i) for i in (k - 2, k - 1, k)]
        for prefix, (before, now) in {"active.": w[:2], "baked.": w[1:]}.items():
            made = weights(on, k, prefix)
            for name, value in made.items():
                want = now[name] + (now[name] - before[name])
                assert value.dtype == np.float16  # as the kernels have it
                np.testing.assert_allclose(value, want, rtol=2**-10, atol=2**-24)
            assert any((made[n] != now[n]).any() for n in made)
        plain = weights(off, k - 1)
        active = weights(off, k, "active.").items()
        assert all((a == cpu.half_from_float(plain[n])).all() for n, a in active)
        assert not weights(off, k, "baked.")
    assert any((weights(on, 6)[n] != w).any() for n, w in weights(off, 6).items())


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("update", ["background", "foreground"])
@pytest.mark.parametrize("skips", [False, True])
def test_a_resumed_run_predicts_what_it_would_have_predicted(
    skips: bool, update: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From every update on; with skipped ones no newer version waits behind the active one."""
    backward = cpu.embed_backward

    def poisoned(dx: Any, tokens: Any, dtable: Any, exponent: int = 0) -> None:
        backward(dx, tokens, dtable, exponent)
        if skips and int(tokens.sum()) % 4 == 0:  # a property of the batch, also after a resume
            dtable[0, 0] = np.inf

    monkeypatch.setattr(cpu, "embed_backward", poisoned)
    settings: dict[str, Any] = {"save_every": 1, "update": update, "seed": 5}
    whole = run(tmp_path, "whole", **settings)
    applied = [r["applied"] for r in lines(whole) if r["kind"] == "update"]
    after_the_first = applied[applied.index(True) : -1]
    assert (False in after_the_first) == skips
    for stop in range(1, 6):
        part = tmp_path / f"part-{stop}"
        shutil.copytree(whole.folder, part)
        for kept in (part / "checkpoints").iterdir():
            if int(kept.name[-6:]) > stop:
                shutil.rmtree(kept)
        resumed = run(tmp_path, resume=part, **settings)
        assert digest(whole.checkpoint) == digest(resumed.checkpoint)
        assert len(lines(resumed)) == len(lines(whole)) + 1  # a start more


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("update", ["background", "foreground"])
@pytest.mark.parametrize("extrapolate", [False, True])
def test_what_is_handed_over_rounded_trains_the_bits_of_masters(
    extrapolate: bool, update: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checkpoint of the one goes on as the other: it holds float32 where that one did."""
    settings: dict[str, Any] = {"update": update, "extrapolate": extrapolate, "save_every": 3}
    rounded = run(tmp_path, "rounded", seed=9, **settings).folder
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_bake", lambda self: None)
        masters = run(tmp_path, "masters", seed=9, **settings).folder
    active = weights(masters, 3, "active.")
    assert {w.dtype for w in active.values()} == {np.dtype(np.float32)}
    assert {w.dtype for w in weights(rounded, 3, "active.").values()} == {np.dtype(np.float16)}
    shutil.rmtree(masters / "checkpoints" / "step-000006")
    resumed = run(tmp_path, resume=masters, seed=9, **settings).folder
    for prefix in ("", "m.", "v.", "active.", "baked."):
        one, two = weights(rounded, 6, prefix), weights(resumed, 6, prefix)
        assert one.keys() == two.keys()
        assert all(w.tobytes() == two[n].tobytes() for n, w in one.items()), prefix
    assert bool(weights(rounded, 6, "baked.")) == extrapolate


@software
@pytest.mark.parametrize("staleness", [2, None])
def test_a_loose_bound_predicts_as_far_as_sets_take(staleness: int | None, tmp_path: Path) -> None:
    with ane.soft.using(failpoints="facade.compile=delay(5)"):
        folder = run(tmp_path, staleness=staleness, updates=12, save_every=6).folder
    assert weights(folder, 12).keys() == weights(folder, 6).keys()
    assert (folder / "summary.json").exists()
