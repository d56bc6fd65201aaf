# SPDX-License-Identifier: MIT
"""Token files, compaction, export, import and settings files through the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ane_native.checkpoint import load_checkpoint
from ane_native.llama2c import read_llama2c
from ane_native.tokenizer import Llama2cTokenizer


def cli(folder: Path, *args: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ane_native", *args],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a text, and a run on its tokens with a compacted vocabulary."""
    made = tmp_path_factory.mktemp("models")
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [f"<0x{b:02X}>".encode() for b in range(256)]
    pieces += [chr(c).encode() for c in range(32, 127)] + [b"on", b"ce", b"once", b" upon"]
    Llama2cTokenizer(pieces, [float(-i) for i in range(len(pieces))]).write(made / "tok.bin")
    (made / "story.txt").write_text("once upon a time there was a fox. " * 400, "utf-8")
    cli(made, "tokenize", "story.txt", "--tokenizer", "tok.bin", "--out", "data.bin")
    (made / "run.toml").write_text(
        'preset = "tiny"\nmodel = "tiny"\ndata = "data.bin"\nvocab = 400\n'
        "compact-vocab = true\nupdates = 6\nstaleness = 1\n",
        "utf-8",
    )
    cli(made, "train", "--config", "run.toml", "--name", "a", "--plain")
    return made


def test_only_tokens_that_occur_are_trained_and_export_has_them_all(folder: Path) -> None:
    tokens = np.fromfile(folder / "data.bin", "<u2")
    saved = load_checkpoint(folder / "runs" / "a")
    assert saved.weights["tok_embeddings.weight"].shape == (32, 64)
    assert len(set(tokens.tolist())) < 32
    cli(folder, "export", "runs/a", "full.bin")
    config, weights = read_llama2c(folder / "full.bin")
    assert config.vocab == 400
    kept = np.concatenate([np.arange(a, a + n) for a, n in saved.state["vocabulary"]["runs"]])
    assert set(tokens.tolist()) <= set(kept.tolist())
    table = weights["tok_embeddings.weight"]
    assert np.array_equal(table[kept], saved.weights["tok_embeddings.weight"])
    for name in set(weights) - {"tok_embeddings.weight"}:
        assert np.array_equal(weights[name], saved.weights[name]), name


def test_safetensors_have_the_usual_names(folder: Path) -> None:
    from safetensors.numpy import load_file

    cli(folder, "export", "runs/a", "full.safetensors")
    found = load_file(folder / "full.safetensors")
    assert found["model.embed_tokens.weight"].shape == (400, 64)
    assert found["model.layers.1.self_attn.q_proj.weight"].shape == (64, 64)
    assert found["model.layers.0.mlp.down_proj.weight"].shape == (64, 128)
    assert len(found) == 2 + 2 * 9


def test_text_comes_from_a_run_and_from_its_export(folder: Path) -> None:
    common = ("--prompt", "once upon", "--tokens", "12", "--tokenizer", "tok.bin", "--seed", "3")
    text = cli(folder, "generate", "runs/a", *common, "--temperature", "0")
    assert text.startswith("once upon")
    assert text == cli(folder, "generate", "runs/a", *common, "--temperature", "0")
    cli(folder, "export", "runs/a", "again.bin", "--version", "1")
    cli(folder, "generate", "again.bin", *common, "--top-p", "0.9")
    cli(folder, "generate", "runs/a", *common, "--no-cache")
    said = cli(folder, "generate", "runs/a", "--prompt", "x", code=2)
    assert "a vocabulary of 400 needs --tokenizer" in said
    said = cli(folder, "generate", "runs/a", *common[2:], "--prompt", "Zebra!", code=2)
    assert "the model was trained without it" in said


def test_a_resumed_compacted_run_ends_with_the_same_bits(folder: Path) -> None:
    config = ("--config", "run.toml", "--plain")
    cli(folder, "train", *config, "--name", "c", "--updates", "6", "--save-every", "3")
    newest = folder / "runs" / "c" / "checkpoints" / "step-000006"
    want = (newest / "weights.safetensors").read_bytes()
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    cli(folder, "train", "--resume", "runs/c", "--plain")
    assert (newest / "weights.safetensors").read_bytes() == want


def test_training_starts_from_an_imported_model(folder: Path) -> None:
    cli(folder, "export", "runs/a", "start.bin")
    options = ("--config", "run.toml", "--init", "start.bin", "--updates", "1", "--lr", "1e-9")
    cli(folder, "train", *options, "--name", "d", "--plain")
    a, d = (load_checkpoint(folder / "runs" / n).weights for n in "ad")
    for name in a:
        assert np.allclose(a[name], d[name], atol=1e-6), name
    said = cli(folder, "train", "--preset", "tiny", "--init", "start.bin", "--plain", code=2)
    assert "init: expected a model of the shape" in said


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "updates = ", "a.toml"),
        ("b.toml", "nonsense = 1", "unknown settings nonsense"),
        ("c.ini", "", "expected a .toml or .yaml file"),
        ("d.toml", 'updates = "many"', "updates: expected 1 or more"),
        ("missing.toml", None, "could not be read"),
    ],
)
def test_settings_files_with_mistakes_are_named(
    tmp_path: Path, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, "utf-8")
    assert said in cli(tmp_path, "train", "--config", name, code=2)
