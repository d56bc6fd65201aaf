# SPDX-License-Identifier: MIT
"""Wrong arguments of every command: one line that says what was expected and what came, exit code 1
or 2, no traceback, nothing written and nothing left behind."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ane_native as ane
from ane_native import cli
from ane_native.outputs import check_output, open_output

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and files of every wrong kind. Tests work on copies."""
    base = tmp_path_factory.mktemp("made")
    drawn = np.random.default_rng(3).integers(32, 127, 20_000).astype(np.uint8)
    (base / "text.txt").write_bytes(drawn.tobytes())
    (base / "empty.txt").touch()
    (base / "empty.bin").touch()
    (base / "short.txt").write_text("abc")
    (base / "binary.txt").write_bytes(bytes(range(256)) * 100)
    (base / "large.bin").write_bytes(np.full(2000, 60_000, "<u2").tobytes())
    (base / "folder").mkdir()
    (base / "folder.bin").mkdir()
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    pieces += [bytes([c]) for c in range(32, 127)]
    body = b"".join(struct.pack("<fI", -float(i), len(p)) + p for i, p in enumerate(pieces))
    (base / "tokenizer.bin").write_bytes(struct.pack("<I", max(map(len, pieces))) + body)
    for name, text in {
        "list": "preset = ['tiny']",
        "truth": "staleness = true",
        "vocabulary": "vocab = -3",
        "word": "compact_vocab = 'yes'",
        "broken": "a = [",
        "unknown": "colour = 3",
    }.items():
        (base / f"{name}.toml").write_text(text + "\n")
    os.chdir(base)
    train = ["train", "--preset", "tiny", "--plain", "--updates", "1", "--valid-every", "0"]
    assert cli.main([*train, "--data", "text.txt", "--out", ".", "--name", "run"]) == 0
    for name in ("flipped", "settings", "binary", "bare"):
        shutil.copytree(base / "run", base / name)
    weights = next((base / "flipped" / "checkpoints").iterdir()) / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    (base / "settings" / "config.json").write_text("[]")
    (base / "binary" / "config.json").write_bytes(bytes(range(200, 256)))
    shutil.rmtree(base / "bare" / "checkpoints")
    return base


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    there = tmp_path / "here"
    shutil.copytree(made, there)
    monkeypatch.chdir(there)
    return there


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def said(args: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The line; what argparse refuses has its usage before it."""
    capsys.readouterr()
    try:
        ended: object = cli.main(args)
    except SystemExit as end:
        ended = end.code
    out, err = capsys.readouterr()
    assert ended == code, (out, err)
    assert out == "" or "--init" in args  # which is read last
    lines = err.splitlines()
    if not lines[0].startswith("usage:"):
        assert len(lines) == 1, err
    return lines[-1]


TRAIN = ["train", "--preset", "tiny", "--plain", "--updates", "1", "--out", "."]
TEXT = [*TRAIN, "--data", "text.txt"]
TOKENIZE = ["tokenize", "--tokenizer", "tokenizer.bin"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        # train: data
        ([*TRAIN, "--data", ""], 2, "data: expected a file or a directory, got ''"),
        ([*TRAIN, "--data", "folder"], 1, "folder: expected text files in this directory"),
        ([*TRAIN, "--data", "empty.txt"], 1, "empty.txt: expected text, got 0 bytes"),
        ([*TRAIN, "--data", "empty.bin"], 1, "empty.bin: expected uint16 tokens, got 0 bytes"),
        ([*TRAIN, "--data", "short.txt"], 1, "expected at least 65 tokens"),
        ([*TRAIN, "--data", "binary.txt"], 1, "expected text, got a NUL at byte 0"),
        ([*TRAIN, "--data", "large.bin"], 1, "token 0: expected 0 to 255, got 60000"),
        ([*TRAIN, "--data", "large.bin", "--vocab", "-4"], 2, "vocab: expected 1 or more"),
        ([*TRAIN, "--data", "/dev/null"], 1, "expected a file or a directory"),
        # train: settings
        ([*TEXT, "--config", "list.toml"], 2, "unknown settings preset"),
        (["train", "--config", "list.toml"], 2, "--preset: expected one of demo"),
        ([*TEXT, "--config", "truth.toml"], 2, "staleness: expected 0 or more, or none, got True"),
        ([*TEXT, "--config", "vocabulary.toml"], 2, "vocab: expected 1 or more, or none, got -3"),
        ([*TEXT, "--config", "word.toml"], 2, "compact_vocab: expected true or false, got 'yes'"),
        ([*TEXT, "--config", "broken.toml"], 2, "broken.toml: "),
        ([*TEXT, "--config", "unknown.toml"], 2, "unknown settings colour"),
        ([*TEXT, "--config", "folder"], 2, "folder: could not be read"),
        ([*TEXT, "--config", "text.txt"], 2, "expected a .toml or .yaml file, got text.txt"),
        ([*TEXT, "--name", ""], 2, "name: expected a plain directory name, got ''"),
        ([*TEXT, "--out", "text.txt"], 2, "out: expected a directory, got text.txt"),
        ([*TEXT, "--workers", "1000"], 2, "workers: expected 0 to 64 or auto, got 1000"),
        ([*TEXT, "--warmup", "-1"], 2, "warmup: expected 0 or more, got -1"),
        ([*TEXT, "--init", "nothing.bin"], 1, "nothing.bin: could not be read"),
        ([*TEXT, "--init", "empty.bin"], 1, "empty.bin: expected a llama2.c model, got 0 bytes"),
        ([*TEXT, "--init", "short.txt"], 1, "expected a llama2.c model, got 3 bytes"),
        # train --resume
        (["train", "--resume", "flipped", "--updates", "3"], 1, "SHA-256 is not the one"),
        (["train", "--resume", "settings"], 2, "damaged: expected the settings of a run"),
        (["train", "--resume", "binary"], 2, "config.json: damaged: expected text"),
        (["train", "--resume", "bare", "--updates", "3"], 1, "expected a checkpoint"),
        (["train", "--resume", "text.txt"], 2, "expected the directory of a run"),
        (["train", "--resume", "run"], 2, "has 1 already, expected more than that"),
        # a model
        (["generate", ""], 1, "expected the directory of a run or a checkpoint, got ''"),
        (["generate", "flipped"], 1, "SHA-256 is not the one"),
        (["generate", "text.txt"], 1, "or a llama2.c .bin file, got another file"),
        (["generate", "/dev/null"], 1, "expected the directory of a run or a checkpoint"),
        (["generate", "empty.bin"], 1, "expected a llama2.c model, got 0 bytes"),
        (["generate", "large.bin"], 1, "header"),
        (["generate", "run", "--seed", "-1"], 2, "seed: expected 0 or more, got -1"),
        (["generate", "run", "--top-p", "0"], 2, "top_p: expected more than 0"),
        (["generate", "run", "--tokenizer", "folder"], 2, "expected a .bin or .json file"),
        (["generate", "run", "--tokenizer", "short.txt"], 2, "expected a .bin or .json file"),
        (
            ["generate", "run", "--tokenizer", "large.bin"],
            1,
            "large.bin: token 0: expected a length",
        ),
        (["evaluate", "run", "--data", "text.txt", "--windows", "-1"], 2, "windows: expected 0"),
        (["evaluate", "run", "--data", "text.txt", "--part", "all"], 2, "expected valid or train"),
        (["evaluate", "run", "--data", "binary.txt"], 1, "expected text, got a NUL at byte 0"),
        (["evaluate", "run", "--data", "short.txt"], 1, "expected at least 65 tokens"),
        (["export", "run", "x.txt"], 2, "to: expected a .bin or .safetensors file, got 'x.txt'"),
        (["export", "run", "folder.bin"], 2, "expected a file to write, got the directory"),
        (["export", "run", "no/such/x.bin"], 2, "expected a directory no/such, found none"),
        (["export", "run", "x.bin", "--version", "7"], 2, "version: expected 0 or 1, got 7"),
        (["export", "run", "x.safetensors", "--version", "1"], 2, "with a .bin file only"),
        (["export", "flipped", "x.bin"], 1, "SHA-256 is not the one"),
        # tokenize
        ([*TOKENIZE, "nothing", "--out", "t.bin"], 1, "nothing: No such file or directory"),
        ([*TOKENIZE, "folder", "--out", "t.bin"], 1, "folder: Is a directory"),
        ([*TOKENIZE, "empty.txt", "--out", "t.bin"], 1, "empty.txt: expected text, got 0 bytes"),
        ([*TOKENIZE, "binary.txt", "--out", "t.bin"], 1, "expected text, got a NUL"),
        ([*TOKENIZE, "text.txt", "--out", "folder"], 2, "expected a file to write, got the dir"),
        ([*TOKENIZE, "text.txt", "--out", "no/t.bin"], 2, "expected a directory no, found none"),
        ([*TOKENIZE, "text.txt", "--out", ""], 2, "--out: expected a file to write, got ''"),
        ([*TOKENIZE, "text.txt", "--out", "./text.txt"], 2, "another file than text.txt"),
        ([*TOKENIZE, "text.txt", "--out", "tokenizer.bin"], 2, "another file than tokenizer.bin"),
        (
            ["tokenize", "text.txt", "--tokenizer", "large.bin", "--out", "t"],
            1,
            "large.bin: token 0",
        ),
        # probe: refused before anything is measured
        (["probe", "--only", "nothing"], 2, "no experiment 'nothing'"),
        (["probe", "--only", "qos", "--timeout", "0"], 2, "timeout: expected more than 0 seconds"),
        (
            ["probe", "--only", "qos", "--timeout", "nan"],
            2,
            "expected more than 0 seconds, got nan",
        ),
        (["probe", "--json", "folder"], 2, "--json: expected a file to write, got the directory"),
        (["probe", "--json", "no/such.json"], 2, "--json: no/such.json: expected a directory no"),
        (["probe", "--plot", "a.xyz"], 2, "--plot: expected a .png, .svg or .pdf file"),
        # info
        (["info", "--engine", "nothing"], 1, "expected 'softane', 'apple' or a path"),
        (["info", "--engine", "/no/such/engine.so"], 1, "/no/such/engine.so"),
        (["info", "more"], 2, "unrecognized arguments: more"),
    ],
)
def test_wrong_arguments(
    args: list[str],
    code: int,
    words: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if args[0] == "info":  # the engine of this process is open already
        done = subprocess.run(
            [sys.executable, "-m", "ane_native", *args], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, "")
        assert words in done.stderr.splitlines()[-1]
        return
    before = content(here)
    assert words in said(args, code, capsys)
    assert content(here) == before


@pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")
def test_a_chip_that_softane_does_not_know(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(here)
    line = said([*TEXT, "--timing", "m99"], 2, capsys)
    assert "timing: expected off or a chip that softane knows" in line
    assert "got 'm99'" in line
    assert content(here) == before


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
@pytest.mark.parametrize("command", ["tokenize", "probe"])
def test_a_full_device_is_said_and_stays_a_device(command: str, here: Path) -> None:
    (here / "full").symlink_to("/dev/full")
    args = {
        "tokenize": [*TOKENIZE, "text.txt", "--out", "full"],
        "probe": ["probe", "--only", "qos", "--json", "full"],
    }[command]
    done = subprocess.run(
        [sys.executable, "-m", "ane_native", *args], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"ane-native {command}: full: No space left on device\n"
    assert (here / "full").is_symlink()
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(sys.platform == "win32", reason="ulimit")
@pytest.mark.parametrize(
    ("args", "most"),
    [
        (TEXT, 300),  # surfaces are files in memory, and smaller than a checkpoint
        ([*TOKENIZE, "text.txt", "--out", "t.bin"], 16),
        (["export", "run", "x.bin"], 16),
    ],
)
def test_a_disk_that_takes_no_more_is_one_line(args: list[str], most: int, here: Path) -> None:
    """By a limit on the size of a file, in KiB."""
    before = content(here)
    quoted = " ".join(f"'{a}'" for a in (sys.executable, "-m", "ane_native", *args))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {most}; exec {quoted}"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    left = {name for name in content(here) if name not in before}
    assert not [name for name in left if name.endswith((".partial", ".bin", ".safetensors"))]
    assert {name: data for name, data in content(here).items() if name in before} == before


def test_a_link_is_written_through(tmp_path: Path) -> None:
    """As /dev/stdout is one, which must not become a file."""
    (tmp_path / "to").mkdir()
    link, file = tmp_path / "link", tmp_path / "to" / "out"
    link.symlink_to(file)
    for data in (b"new", b"newer"):  # not there yet, then there
        check_output(link, "out")
        with open_output(link) as stream:
            stream.write(data)
        assert link.is_symlink()
        assert file.read_bytes() == data
    assert os.listdir(tmp_path / "to") == ["out"]


def test_an_output_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail() -> None:
        with open_output(path) as stream:
            stream.write(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    with open_output(path) as stream:
        stream.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["out"]
    with pytest.raises(OSError, match="of another"), open_output(path):
        raise FileNotFoundError(2, "No such file", "of another")
    assert path.read_bytes() == b"new"
