# SPDX-License-Identifier: MIT
"""Records for TensorBoard and Weights & Biases; scores of finished models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from test_cli import TINY, lines, run

from ane_native.errors import ConfigError
from ane_native.loggers import numbers, open_loggers
from ane_native.train import TrainConfig


def test_numbers_are_finite_and_keep_their_names() -> None:
    record = {"update": 3, "loss": 2.5, "applied": True, "kind": "update", "lr": None, "x": np.inf}
    assert numbers(record) == {"loss": 2.5, "applied": 1.0}


def test_unknown_and_missing_loggers_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="expected some of tensorboard, wandb, got 'excel'"):
        TrainConfig(log="tensorboard,excel")
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        open_loggers("wandb", tmp_path, {}, 0)
    assert open_loggers(None, tmp_path, {}, 0) == []


def tensorboard_steps(folder: Path) -> dict[int, float]:
    """step -> loss, as TensorBoard itself reads the files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), {"scalars": 0})
    events.Reload()
    return {e.step: e.value for e in events.Scalars("loss")}


def test_tensorboard_reads_what_metrics_jsonl_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(*TINY, "--log", "tensorboard", "--name", "a", cwd=tmp_path)
    folder = tmp_path / "runs" / "a"
    run("train", "--resume", str(folder), "--updates", "8", cwd=tmp_path)
    wanted = {r["update"]: r["loss"] for r in lines(folder) if r["kind"] == "update"}
    assert len(wanted) == 8
    got = tensorboard_steps(folder)
    assert got.keys() == wanted.keys()
    assert all(math.isclose(got[k], wanted[k], rel_tol=1e-6) for k in wanted)


def test_wandb_takes_a_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    run(*TINY, "--log", "wandb", "--name", "w", cwd=tmp_path, WANDB_MODE="offline")
    assert list((tmp_path / "runs" / "w").glob("wandb/offline-run-*/*.wandb"))


def test_evaluate_repeats_the_validation_loss_of_the_run(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(np.random.default_rng(0).integers(97, 105, 40_000, dtype=np.uint8)))
    run(*TINY, "--staleness", "0", "--data", str(text), "--name", "e", cwd=tmp_path)
    folder = tmp_path / "runs" / "e"
    done = run(
        "evaluate", str(folder), "--data", str(text), "--windows", "8", "--json", cwd=tmp_path
    )
    found = json.loads(done.stdout)
    losses = [r["valid_loss"] for r in lines(folder) if r["kind"] == "update"]
    assert losses[-1] is not None
    assert found["loss"] == pytest.approx(losses[-1], rel=1e-12)
    assert (found["windows"], found["tokens"]) == (8, 8 * 64)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    whole = run("evaluate", str(folder), "--data", str(text), cwd=tmp_path).stdout
    assert "nats per token" in whole
    assert "valid part" in whole
    for code, *wrong in ((2, "--part", "test"), (2, "--windows", "-1"), (1, "--data", "none")):
        run("evaluate", str(folder), *map(str, wrong), cwd=tmp_path, code=int(code))
