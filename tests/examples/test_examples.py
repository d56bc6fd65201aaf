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


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 120
