# SPDX-License-Identifier: MIT
"""The command line as a user meets it: every test is a process of its own.

Training runs use the tiny model and a few updates; what they check is what stays behind: files,
exit codes, words, and that the same run leaves the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ane_native as ane
from ane_native.trace import TRACKS

ROOT = Path(__file__).parents[2]
TINY = ["train", "--preset", "tiny", "--updates", "6", "--valid-every", "3"]
software = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "ane_native", *args]


def environment(**extra: str) -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


def run(*args: str, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(*args), cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


def last(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# =============================== Without an engine ==============================


def test_version_and_help_are_quick(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert run("--version", cwd=tmp_path).stdout.strip() == f"ane-native {ane.__version__}"
    assert "--staleness" in run("train", "--help", cwd=tmp_path).stdout
    assert time.monotonic() - begin < 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice"),
        (["train", "--preset", "huge"], "qwen3-0.6b, got 'huge'"),
        (["train", "--model", "gpt5"], "model: expected one of tiny, demo"),
        (["train", "--updates", "0"], "updates: expected 1 or more, got 0"),
        (["train", "--updates", "many"], "invalid int value: 'many'"),
        (["train", "--staleness", "-1"], "--staleness"),
        (["train", "--staleness", "soon"], "expected 0, 1, 2, ... or none, got 'soon'"),
        (["train", "--lr", "nan"], "lr: expected 0 or more, got nan"),
        (["train", "--loss-scale", "1000"], "power of two"),
        (["train", "--name", "../x", "--preset", "tiny"], "plain directory name"),
        (["train", "--resume", "nowhere"], "nowhere/config.json: No such file"),
        (["train", "--resume", "x", "--seed", "3"], "--seed cannot be changed with --resume"),
        (["generate"], "checkpoint"),
    ],
)
def test_wrong_arguments_are_said_and_end_with_2(
    args: list[str], said: str, tmp_path: Path
) -> None:
    done = run(*args, cwd=tmp_path, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_unusable_data_is_one_line_and_ends_with_1(tmp_path: Path) -> None:
    done = run("train", "--data", "nothing.txt", cwd=tmp_path, code=1)
    assert done.stderr == "ane-native train: nothing.txt: No such file or directory\n"
    (tmp_path / "odd.bin").write_bytes(b"abc")
    assert "even number" in run("train", "--data", "odd.bin", cwd=tmp_path, code=1).stderr
    done = run("train", "--data", "nothing.txt", "--debug", cwd=tmp_path, code=1)
    assert "Traceback" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_engine_that_is_not_there_is_an_error_and_nothing_else_runs(tmp_path: Path) -> None:
    done = run("info", "--engine", "/no/such/engine.so", cwd=tmp_path, code=1)
    assert "/no/such/engine.so" in done.stderr
    assert done.stdout == ""


# =============================== info ===========================================


def test_info_says_what_runs_and_that_software_is_software(tmp_path: Path) -> None:
    text = run("info", cwd=tmp_path).stdout
    about = json.loads(run("info", "--json", cwd=tmp_path).stdout)
    assert about["engine"]["name"] in text
    assert about["gcd"] in text
    assert about["blas"]
    assert ("SOFTWARE" in text) == about["engine"]["software"] == (not about["engine"]["hardware"])
    assert about["budget"]["compiles_used"] == 0
    assert about["python"] == ".".join(map(str, sys.version_info[:3]))


# =============================== train ==========================================


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it; tests only read it."""
    base = tmp_path_factory.mktemp("finished")
    extra = ["--sync-updates", "2", "--sample-tokens", "20", "--save-every", "2"]
    done = run(*TINY, *extra, cwd=base)
    (base / "output").write_text(done.stdout)
    return base / "runs" / "tiny"


def test_a_run_leaves_every_file_readable(finished: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["updates"] == 6
    assert config["engine"]["name"] == ane.Engine().name
    records = lines(finished)
    assert [r["update"] for r in records] == list(range(7))
    assert records[0]["kind"] == "start"
    names = {f for f in ane.BatchStats.__dataclass_fields__} - {"workers"}  # spread: workers_…
    assert all(names <= r.keys() for r in records)
    assert [r["update"] for r in records if r["valid_loss"] is not None] == [0, 3, 6]
    trace = json.loads((finished / "trace.json").read_text())
    tracks = {e["tid"] for e in trace["traceEvents"] if e["ph"] == "X"}
    assert tracks == set(TRACKS)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["run"]["updates"] == 6
    assert summary["synchronous"]["updates"] == 2
    assert (finished / "summary.txt").read_text() == summary["text"]
    assert (finished / "loss.png").exists() == summary["plot"]
    assert (finished / "sample.txt").stat().st_size > 0
    assert len(list((finished / "checkpoints").iterdir())) == 3
    assert not list(finished.rglob("*.partial"))


def test_what_it_prints_holds_the_stall_beside_the_synchronous_one(finished: Path) -> None:
    text = (finished.parent.parent / "output").read_text()
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["text"] in text
    assert "staleness 1 (double-buffered)" in text
    assert "staleness 0 (synchronous), 2 updates" in text
    assert re.search(r"\d[\d,]* of [\d,]+ evaluations", text)
    assert ("SOFTWARE" in text) == summary["software"]
    if summary["software"]:
        assert "unlimited (softane setting; hardware is reported to allow about 119" in text


def test_counters_are_measured_not_written(finished: Path) -> None:
    records = lines(finished)[1:]
    stalls = [float(str(r["compile_stall_ms"])) for r in records]
    assert len(set(stalls)) == len(stalls)
    assert all(s > 0 for s in stalls)
    for r in records:
        parts = sum(float(str(r[k])) for k in ("snapshot_ms", "wait_ms", "swap_ms", "submit_ms"))
        assert r["compile_stall_ms"] == pytest.approx(parts)
    assert [r["staleness"] for r in records] == [1] * 6
    assert [r["generation"] for r in records] == list(range(6))
    assert all(r["snapshot_ms"] == 0 for r in records)  # masters are handed over, not copied


def test_a_run_that_exists_is_never_written_over(tmp_path: Path) -> None:
    for _ in range(2):
        run(*TINY, "--updates", "1", "--name", "same", cwd=tmp_path)
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"same", "same-2"}


def test_the_same_seed_leaves_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        run(*TINY, "--seed", seed, "--name", name, cwd=tmp_path)
    a, b, c = (digest(last(tmp_path / "runs" / name)) for name in "abc")
    assert a == b
    assert a["weights.safetensors"] != c["weights.safetensors"]


@software
def test_workers_compile_and_leave_the_same_bits(tmp_path: Path) -> None:
    run(*TINY, "--name", "here", cwd=tmp_path)
    said = run(*TINY, "--workers", "2", "--name", "workers", cwd=tmp_path).stdout
    assert "2 worker processes compile" in said
    here, there = (tmp_path / "runs" / name for name in ("here", "workers"))
    assert digest(last(here)) == digest(last(there))
    lines = (there / "metrics.jsonl").read_text().splitlines()
    record = json.loads(lines[-1])
    assert record["programs_by_workers"] > 0
    assert record["programs_compiled"] == record["compiles_used"] == 0
    assert record["workers_compiles"] > record["programs_by_workers"]


def test_gradients_beside_the_kernels_have_the_bits_of_gradients_after_them(tmp_path: Path) -> None:
    from ane_native.train import RUNS, train

    made = []
    for overlap in (True, False):
        settings = {**RUNS["tiny"].as_dict(), "updates": 3, "overlap_gradients": overlap}
        config = type(RUNS["tiny"])(**settings)
        result = train(config, out=tmp_path, name=str(overlap))
        made.append(digest(result.checkpoint))
    assert made[0] == made[1]


def test_text_and_token_files_train(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox " * 200)
    run(*TINY, "--updates", "2", "--data", "text.txt", cwd=tmp_path)
    (tmp_path / "t.bin").write_bytes(bytes(i % 90 if i % 2 == 0 else 0 for i in range(4000)))
    run(
        *TINY,
        "--updates",
        "2",
        "--data",
        "t.bin",
        "--vocab",
        "96",
        "--sample-tokens",
        "5",
        cwd=tmp_path,
    )
    assert "model" in json.loads((tmp_path / "runs" / "tiny-2" / "config.json").read_text())


# =============================== Resume =========================================


@pytest.mark.parametrize("staleness", ["0", "1"])
def test_a_resumed_run_ends_with_the_bits_of_one_that_never_stopped(
    staleness: str, tmp_path: Path
) -> None:
    run(*TINY, "--staleness", staleness, "--save-every", "2", "--name", "whole", cwd=tmp_path)
    whole, part = tmp_path / "runs" / "whole", tmp_path / "runs" / "part"
    shutil.copytree(whole, part)
    for later in ("step-000004", "step-000006"):
        shutil.rmtree(part / "checkpoints" / later)
    done = run("train", "--resume", "runs/part", cwd=tmp_path)
    assert "2 updates done" in done.stdout
    assert digest(last(part)) == digest(last(whole))
    kept = [r["update"] for r in lines(part) if r["kind"] == "update"]
    assert kept == [1, 2, 3, 4, 5, 6]
    for mine, other in zip(
        (r for r in lines(part) if r["kind"] == "update"),
        (r for r in lines(whole) if r["kind"] == "update"),
        strict=True,
    ):
        assert mine["loss"] == other["loss"]
    assert (part / "trace.json").read_bytes() == (whole / "trace.json").read_bytes()


def test_a_finished_run_has_nothing_to_resume_and_another_corpus_is_refused(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished, folder)
    done = run("train", "--resume", "tiny", cwd=tmp_path, code=2)
    assert "has 6 already" in done.stderr
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "other.txt").write_text("another text " * 200)
    config["config"]["data"] = "other.txt"
    (folder / "config.json").write_text(json.dumps(config))
    done = run("train", "--resume", "tiny", "--updates", "9", cwd=tmp_path, code=2)
    assert "expected the corpus" in done.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('{"lr": "fast"}', "lr: expected a number, got 'fast'"),
        ('{"updates": 2.5}', "updates: expected 1 or more, got 2.5"),
        ('{"data": 7}', "data: expected a text or none, got 7"),
        ('{"model": ["tiny"]}', "model: expected one of"),
        ('{"nonsense": 1}', "unknown settings nonsense"),
        ("[]", "damaged"),
        ("{", "damaged"),
    ],
)
def test_settings_damaged_by_hand_are_named(
    change: str, said: str, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished, folder)
    text = f'{{"config": {change}}}' if change != "{" else change
    (folder / "config.json").write_text(text)
    done = run("train", "--resume", "tiny", cwd=tmp_path, code=2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_checkpoint_is_named_or_skipped(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(finished, folder)
    file = last(folder) / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    done = run("generate", str(file.parent), cwd=tmp_path, code=1)
    assert f"{file}: damaged" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("train", "--resume", "tiny", cwd=tmp_path)
    assert "step-000004" in done.stdout
    assert "step-000006" in done.stderr
    assert "damaged" in done.stderr


# =============================== Ctrl-C =========================================


def start(*args: str, cwd: Path, until: str) -> subprocess.Popen[str]:
    """Start a run and wait until it has printed a line that begins like this."""
    process = subprocess.Popen(
        command(*args), cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(until):
            return process
    raise AssertionError(process.communicate())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_and_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    args = ["train", "--preset", "tiny", "--updates", "40", "--valid-every", "0"]
    run(*args, "--name", "whole", cwd=tmp_path)
    process = start(*args, "--name", "part", cwd=tmp_path, until="5/40")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "stopping after this micro-step" in err
    assert "ane-native train --resume runs/part" in out
    part = tmp_path / "runs" / "part"
    stopped = int(last(part).name.removeprefix("step-"))
    assert 5 <= stopped < 40
    assert json.loads((part / "summary.json").read_text())["run"]["updates"] == stopped
    run("train", "--resume", "runs/part", cwd=tmp_path)
    assert digest(last(part)) == digest(last(tmp_path / "runs" / "whole"))


@software
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    args = [*TINY, "--updates", "1000", "--timing", "m4", "--accumulate", "100000"]
    process = start(*args, cwd=tmp_path, until="start")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert time.monotonic() - begin < 15
    assert "Traceback" not in err


# =============================== When things go wrong ===========================


@software
def test_a_spent_budget_saves_and_a_new_process_goes_on(tmp_path: Path) -> None:
    run(*TINY, "--name", "whole", cwd=tmp_path)
    stop = ("--compile-limit", "45", "--budget-end", "stop")
    done = run(*TINY, *stop, "--name", "part", cwd=tmp_path, code=1)
    assert "ane-native train --resume runs/part" in done.stderr
    assert "Traceback" not in done.stderr
    part = tmp_path / "runs" / "part"
    stopped = int(last(part).name.removeprefix("step-"))
    assert 0 < stopped < 6
    # A process that cannot make its first generation leaves the checkpoint as it is.
    before = {p.name: digest(p) for p in (part / "checkpoints").iterdir()}
    run("train", "--resume", "runs/part", "--compile-limit", "5", cwd=tmp_path, code=1)
    assert {p.name: digest(p) for p in (part / "checkpoints").iterdir()} == before
    run("train", "--resume", "runs/part", "--compile-limit", "500", cwd=tmp_path)
    assert digest(last(part)) == digest(last(tmp_path / "runs" / "whole"))


@software
def test_a_spent_budget_goes_on_in_a_new_process_with_the_same_bits(tmp_path: Path) -> None:
    extra = ("--sync-updates", "2")  # the budget of the last process does not hold these, too
    run(*TINY, *extra, "--name", "whole", cwd=tmp_path)
    done = run(*TINY, *extra, "--compile-limit", "12", "--name", "part", cwd=tmp_path)
    whole, part = (tmp_path / "runs" / name for name in ("whole", "part"))
    assert digest(last(part)) == digest(last(whole))
    starts = [r for r in lines(part) if r["kind"] == "start"]
    assert len(starts) >= 3
    assert [r.get("restarts", 0) for r in starts] == list(range(len(starts)))
    assert all(int(str(r.get("compiles_used", 0))) <= 12 for r in lines(part))
    assert "runs/part; checkpoint" in done.stdout
    for name in ("loss", "grad_norm"):  # no record is lost or made twice
        got = [(r["update"], r[name]) for r in lines(part) if r["kind"] == "update"]
        assert got == [(r["update"], r[name]) for r in lines(whole) if r["kind"] == "update"]
    valid = [
        [(r["update"], r["valid_loss"]) for r in lines(f) if r.get("valid_loss") is not None]
        for f in (whole, part)
    ]
    assert valid[0] == valid[1]


@software
def test_strategy_auto_says_what_it_chose_and_trains_to_the_same_bits(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    run(*TINY, "--name", "plain", cwd=tmp_path)
    done = run(*TINY, "--strategy", "auto", "--name", "auto", cwd=tmp_path, ANE_NATIVE_CACHE=cache)
    said = next(line for line in done.stdout.splitlines() if line.startswith("strategy "))
    assert said.startswith("strategy workers")
    assert "119 compiles per process" in said
    runs = tmp_path / "runs"
    assert digest(last(runs / "auto")) == digest(last(runs / "plain"))
    stop = ("--strategy", "auto", "--compile-limit", "0", "--name", "free")
    done = run(*TINY, *stop, cwd=tmp_path, ANE_NATIVE_CACHE=cache)
    assert "no limit of compiles" in done.stdout


@software
def test_a_generation_that_fails_is_said_and_training_goes_on(tmp_path: Path) -> None:
    done = run(*TINY, cwd=tmp_path, ANE_FAILPOINTS="facade.compile=25*off->1*return")
    assert "a generation failed" in done.stdout
    records = lines(tmp_path / "runs" / "tiny")
    assert records[-1]["update"] == 6
    assert records[-1]["failures"] == 1


@software
@pytest.mark.parametrize("after", [30, 75])
@pytest.mark.parametrize("more", [(), ("--update", "foreground"), ("--staleness", "0")])
def test_an_engine_that_loses_its_programs_costs_a_batch(
    more: tuple[str, ...], after: int, tmp_path: Path
) -> None:
    """At the first validation, and in the middle."""
    point = f"device.gone={after}*off->1*return->off"
    done = run(*TINY, *more, cwd=tmp_path, ANE_FAILPOINTS=point)
    assert "the engine lost its programs; new ones are made" in done.stdout
    records = lines(tmp_path / "runs" / "tiny")
    assert [r["update"] for r in records if r["kind"] == "update"] == [1, 2, 3, 4, 5, 6]
    assert last(tmp_path / "runs" / "tiny").exists()


@software
def test_a_compiler_that_keeps_failing_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    done = run(*TINY, cwd=tmp_path, code=1, ANE_FAILPOINTS="facade.compile=25*off->return")
    assert "giving up after 3 failures" in done.stdout
    assert "Traceback" not in done.stderr
    assert last(tmp_path / "runs" / "tiny").exists()


def test_a_loss_scale_that_is_too_large_finds_its_level(tmp_path: Path) -> None:
    run(*TINY, "--loss-scale", str(2.0**26), "--updates", "12", cwd=tmp_path)
    records = lines(tmp_path / "runs" / "tiny")[1:]
    skipped = [r for r in records if not r["applied"]]
    # how far it must come down depends on the text, which is this Python's own library
    assert not records[0]["applied"]
    assert 0 < len(skipped) < 12
    assert records[-1]["loss_scale"] < 2.0**26
    summary = json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text())
    assert summary["run"]["updates_skipped"] == len(skipped)


def test_a_run_that_diverged_says_so_and_saves(tmp_path: Path) -> None:
    args = ["--loss-scale", str(2.0**60), "--updates", "60"]
    done = run(*TINY, *args, cwd=tmp_path, code=1)
    assert "diverged" in done.stderr
    assert "Traceback" not in done.stderr
    assert last(tmp_path / "runs" / "tiny").name == "step-000021"  # known one boundary later


@pytest.mark.parametrize("staleness", ["0", "1"])
def test_the_update_in_the_background_gives_the_same_run_to_the_bit(
    staleness: str, tmp_path: Path
) -> None:
    """With skipped updates among them; the loss scale starts too high."""
    args = [*TINY, "--staleness", staleness, "--loss-scale", str(2.0**24), "--updates", "16"]
    seen = []
    for where in ("background", "foreground"):
        run(*args, "--update", where, "--name", where, cwd=tmp_path)
        folder = tmp_path / "runs" / where
        records = [r for r in lines(folder) if r["kind"] == "update"]
        names = ("update", "loss", "grad_norm", "applied", "loss_scale", "lr", "valid_loss")
        seen.append((digest(last(folder)), [[r[n] for n in names] for r in records]))
        assert {r["applied"] for r in records} == {True, False}
    assert seen[0] == seen[1]


# =============================== generate =======================================


def test_generating_repeats_with_the_seed_and_keeps_the_prompt(finished: Path) -> None:
    def text(*args: str) -> str:
        return run("generate", str(finished), "--tokens", "12", *args, cwd=finished).stdout

    first = text("--prompt", "def f(", "--seed", "3")
    assert first.startswith("def f(")
    assert text("--prompt", "def f(", "--seed", "3") == first
    assert text("--prompt", "def f(", "--seed", "4") != first
    assert text("--temperature", "0") == text("--temperature", "0", "--seed", "9")
    assert text("--top-k", "1") == text("--temperature", "0")


def test_generate_refuses_what_it_cannot_do(finished: Path, tmp_path: Path) -> None:
    assert "no such file" in run("generate", "nowhere", cwd=tmp_path, code=1).stderr
    for args in (["--temperature", "-1"], ["--tokens", "-1"], ["--top-k", "-2"]):
        assert (
            "expected 0 or more"
            in run("generate", str(finished), *args, cwd=tmp_path, code=2).stderr
        )


def test_a_reader_that_goes_away_is_no_traceback(finished: Path) -> None:
    process = subprocess.Popen(
        command("generate", str(finished), "--tokens", "400"), env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) != 0
    assert "Traceback" not in err
