# SPDX-License-Identifier: MIT
"""Every example runs, in a process of its own, and learns; none is longer than a page or two."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_two_weights_learns_and_prints_the_stall_of_every_batch() -> None:
    out = run("01_two_weights.py")
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", out)]
    assert len(losses) == 40
    assert losses[-1] < 0.7 * losses[0]
    assert len(re.findall(r"stall +\d+\.\d+ ms", out)) == 40
    assert "staleness 1" in out


def test_transformer_learns() -> None:
    out = run("02_transformer.py", "--preset", "tiny", "--updates", "60", "--lr", "2e-3")
    before, after = map(float, re.search(r"validation (\S+) -> (\S+) nats", out).groups())  # type: ignore[union-attr]
    assert after < before - 0.7
    assert "SOFTWARE" in out or "apple" in out


def losses(out: str) -> list[float]:
    return [float(x) for x in re.findall(r"loss (\d+\.\d+)", out)]


def test_linear_regression_finds_the_coefficients() -> None:
    out = run("03_linear_regression.py", "--updates", "25")
    assert len(losses(out)) == 25
    assert losses(out)[-1] < 1e-3 * losses(out)[0]
    error = re.search(r"largest error of a coefficient: (\S+)", out)
    assert error is not None
    assert float(error[1]) < 0.01
    assert "staleness 1" in out


@pytest.mark.parametrize(("name", "updates"), [("04_mlp_digits", 30), ("05_cnn_digits", 50)])
def test_digits_are_learnt(name: str, updates: int) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn: pip install 'ane-native[examples]'")
    out = run(f"{name}.py", "--updates", str(updates))
    assert len(losses(out)) == updates
    assert losses(out)[-1] < 0.5 * losses(out)[0]
    accuracy = re.search(r"accuracy (\S+) on", out)
    assert accuracy is not None
    assert float(accuracy[1]) > 0.6


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 120
