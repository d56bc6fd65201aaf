# SPDX-License-Identifier: MIT
"""`cut="auto"`: training with kernels that the cost model cuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import digest, run

from ane_native.checkpoint import load_checkpoint
from ane_native.errors import ConfigError
from ane_native.train import RUNS, config_from


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [r["loss"] for r in map(json.loads, lines) if "loss" in r]


def test_it_trains_as_the_kernels_cut_by_layers_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_layers = run(tmp_path, "layers", cut="layers", sample_tokens=8)
    assert "as the cost model cuts" not in capsys.readouterr().out
    auto = run(tmp_path, "auto", cut="auto", sample_tokens=8)
    assert "kernels  1 forward, 1 backward, as the cost model cuts" in capsys.readouterr().out
    a, b = losses(by_layers.folder), losses(auto.folder)
    assert len(a) == len(b) >= 6
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) < 5e-3
    one, other = (load_checkpoint(r.checkpoint).weights for r in (by_layers, auto))
    assert set(one) == set(other)
    # AdamW moves a weight by lr at most; where a gradient is all rounding it may turn round
    assert max(float(np.abs(one[n] - other[n]).max()) for n in one) < 12 * 4e-4


@pytest.mark.parametrize("update", ["foreground", "background"])
def test_a_resumed_run_ends_with_the_same_bits(update: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"cut": "auto", "update": update}
    whole = run(tmp_path, "whole", **settings)
    part = run(tmp_path, "part", updates=4, **settings)
    rest = run(tmp_path, resume=part.folder, updates=6, **settings)
    assert (
        digest(rest.checkpoint)["weights.safetensors"]
        == (digest(whole.checkpoint)["weights.safetensors"])
    )


def test_what_does_not_go_together_is_refused() -> None:
    tiny = RUNS["tiny"].as_dict()
    with pytest.raises(ConfigError, match="cut: expected layers or auto, got 'by hand'"):
        config_from({**tiny, "cut": "by hand"}, "here")
    with pytest.raises(ConfigError, match="scaling: auto needs kernels cut by layers"):
        config_from({**tiny, "cut": "auto", "scaling": "auto"}, "here")
