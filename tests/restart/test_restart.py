# SPDX-License-Identifier: MIT
"""A process that replaces itself by its own command: what comes back, and what is refused.

Every test is a process of its own. The scripts print one line per life.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BAD = "a=b\n\udc80 \N{SNOWMAN}"  # a newline, a byte that is no UTF-8, a letter of three bytes

LIVES = """
import json, os, sys
import ane_native as ane
begun = ane.restart.state()
life = 0 if begun is None else begun.count
print(json.dumps({
    "life": life, "keep": begun.keep if begun else None, "pid": os.getpid(), "argv": sys.argv[1:],
    "flags": [sys.flags.optimize, sys.flags.dev_mode, list(sys.warnoptions)],
    "odd": os.environ["ODD"], "cwd": os.getcwd(), "grown": os.environ["GROWN"], "name": __name__,
}), flush=True)
os.environ["GROWN"] += "x"
os.chdir("/")
if life < 3:
    ane.restart.exec_again(progress=life, keep={"life": life})
"""


def run(*command: str, cwd: Path, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `command`; the package is found whatever the directory is."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, input=stdin, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path, "ODD": BAD, "GROWN": "x", **env}, check=False,
        errors="surrogateescape",
    )  # fmt: skip


def refused(script: str, cwd: Path, *flags: str, **env: str) -> str:
    """The words of BudgetExhausted when `script` asks for a restart."""
    path = cwd / "script.py"
    path.write_text(f"import ane_native as ane\n{script}\n")
    done = run(*flags, str(path), cwd=cwd, **env)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert "BudgetExhausted" in done.stderr
    assert "ways out: packing" in done.stderr
    return done.stderr


AGAIN = "ane.restart.exec_again(progress=1)"


@pytest.mark.parametrize("how", ["file", "module", "-c", "script"])
def test_command_flags_environment_and_directory_come_back(tmp_path: Path, how: str) -> None:
    (tmp_path / "lives.py").write_text(LIVES)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(LIVES)
    console = tmp_path / "console"
    console.write_text(f"#!{sys.executable}\n{LIVES}")
    start = {
        "file": ["lives.py"],
        "module": ["-m", "package"],
        "-c": ["-c", LIVES],
        "script": [str(console)],
    }[how]
    arguments = ["--name", "two words", "", "-m", "é\udc80"]
    done = run("-O", "-X", "dev", "-W", "error", *start, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lives = [json.loads(line) for line in done.stdout.splitlines()]
    assert [life.pop("life") for life in lives] == [0, 1, 2, 3]
    assert [life.pop("keep") for life in lives] == [None, *({"life": n} for n in range(3))]
    assert lives[0] == lives[1] == lives[2] == lives[3]
    assert lives[0]["argv"] == arguments
    assert lives[0]["odd"] == BAD
    assert lives[0]["grown"] == "x"
    assert lives[0]["cwd"] == str(tmp_path)
    assert lives[0]["flags"][:2] == [1, True]


def test_descriptors_of_ours_close_and_inherited_ones_stay(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, json\n"
        "import ane_native as ane\n"
        "print(json.dumps(sorted(int(n) for n in os.listdir('/proc/self/fd'))), flush=True)\n"
        "if ane.restart.state() is None:\n"
        "    fd = os.open(__file__, os.O_RDONLY); os.set_inheritable(fd, True)\n"
        "    ane.Engine()\n"
        "    ane.restart.exec_again(progress=1)\n"
    )
    with open(script, "rb") as stream:
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False,
            pass_fds=[stream.fileno()], env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        before, after = (json.loads(line) for line in done.stdout.splitlines())
        assert before == after
        assert stream.fileno() in after


def test_exit_functions_run_and_output_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import atexit, sys\nimport ane_native as ane\n"
        "n = ane.restart.state().count if ane.restart.state() else 0\n"
        "atexit.register(lambda: sys.stdout.write(f'exit {n}\\n'))\n"
        "sys.stdout.write(f'life {n}\\n')\n"
        "if n < 2: ane.restart.exec_again(progress=n)\n"
    )
    done = run("s.py", cwd=tmp_path)
    assert done.stdout.split("\n") == [
        "life 0",
        "exit 0",
        "life 1",
        "exit 1",
        "life 2",
        "exit 2",
        "",
    ]


def test_a_child_of_a_restarted_process_is_not_restarted(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import subprocess, sys\nimport ane_native as ane\n"
        "if ane.restart.state() is None: ane.restart.exec_again(progress=1)\n"
        "code = 'import ane_native as a; print(a.restart.state())'\n"
        "print(subprocess.run([sys.executable, '-c', code], capture_output=True).stdout)\n"
    )
    assert "None" in run("s.py", cwd=tmp_path).stdout


def test_restarts_without_progress_end_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import ane_native as ane\nprint('life', flush=True)\nane.restart.exec_again(progress=5)\n"
    )
    done = run("s.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "life\nlife\n"
    assert "at 5 again after a restart at 5" in done.stderr
    assert "ways out: packing" in done.stderr


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import sys; sys.settrace(lambda *a: None)", "a debugger or a tracer"),
        ("import sys, types; sys.modules['pydevd'] = types.ModuleType('p')", "a debugger is loaded"),
        ("import sys, types; sys.modules['ipykernel'] = types.ModuleType('i')", "a notebook"),
        ("import sys; sys.ps1 = '>>> '", "interactive"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(3,)).start()", "threads"),
    ],
)  # fmt: skip
def test_who_must_not_be_replaced_gets_the_way_out(tmp_path: Path, before: str, words: str) -> None:
    assert words in refused(f"{before}\n{AGAIN}", tmp_path)


@pytest.mark.parametrize(
    "env",
    [{"OMPI_COMM_WORLD_RANK": "0"}, {"PMI_RANK": "1"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}],
)
def test_ranks_of_a_parallel_job_are_not_replaced_unless_asked(
    tmp_path: Path, env: dict[str, str]
) -> None:
    assert "job" in refused(AGAIN, tmp_path, **env)
    (tmp_path / "lives.py").write_text(LIVES.replace("progress=life", "progress=life, anyway=True"))
    assert len(run("lives.py", cwd=tmp_path, **env).stdout.splitlines()) == 4


def test_other_threads_interactive_flags_and_standard_input_are_refused(tmp_path: Path) -> None:
    script = (
        "import threading\nfailed = []\n"
        "def ask():\n    try: ane.restart.exec_again(progress=1)\n"
        "    except ane.BudgetExhausted as e: failed.append(e)\n"
        "t = threading.Thread(target=ask, daemon=True); t.start(); t.join(); raise failed[0]"
    )
    assert "not the main one" in refused(script, tmp_path)
    done = run("-", cwd=tmp_path, stdin=f"import ane_native as ane\n{AGAIN}\n")
    assert "standard input" in done.stderr


def test_what_cannot_be_handed_over_is_said(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        "import ane_native as ane\n"
        "for keep, progress in (({'x': 'y' * 70000}, 1), ({'x': object()}, 1), ({}, 1.5)):\n"
        "    try: ane.restart.exec_again(progress=progress, keep=keep)\n"
        "    except (TypeError, ValueError) as e: print(type(e).__name__)\n"
    )
    done = run("s.py", cwd=tmp_path)
    assert done.stdout.split() == ["ValueError", "TypeError", "TypeError"]
