# SPDX-License-Identifier: MIT
"""Fork, Ctrl-C and interpreter exit, each in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent

PRELUDE = """
import os, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np
import ane_native as ane
from ane_native import soft
from programs import scale
kernels = ane.KernelSet([scale("fwd", weight="a")])
X = np.ones((1, 4, 1, 32), np.float32)
W = lambda v: {{"a": np.full(4, float(v))}}
"""


IMPORT_ONLY = """
import os, pathlib, sys, ane_native
threads = len(os.listdir("/proc/self/task"))
print(threads, "ane_native._core" in sys.modules,
      "softane" in pathlib.Path("/proc/self/maps").read_text())
"""


def run(body: str, **popen: object) -> subprocess.Popen[str]:
    code = PRELUDE.format(tests=str(TESTS)) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **popen,  # type: ignore[call-overload]
    )


def test_child_raises_forked_error_and_parent_goes_on() -> None:
    process = run("""
    trainer = ane.DoubleBufferedTrainer(kernels, W(1))
    trainer.step(W(2))
    pid = os.fork()
    if pid == 0:
        told = 0
        for call in (lambda: trainer.eval("fwd", X), lambda: trainer.step(W(3)), lambda: ane.Program(scale(), {"g": np.ones(4)})):
            try:
                call()
            except ane.ForkedError:
                told += 1
        os._exit(told)
    _, status = os.waitpid(pid, 0)
    print("child", os.waitstatus_to_exitcode(status))
    trainer.step(W(3))
    print("parent", trainer.eval("fwd", X).flat[0])
    trainer.close()
    """)
    out, err = process.communicate(timeout=120)
    assert "child 3" in out, err
    assert "parent 2.0" in out, err
    assert process.returncode == 0, err


def test_child_may_exit_normally_without_hanging() -> None:
    process = run("""
    trainer = ane.DoubleBufferedTrainer(kernels, W(1))
    if os.fork() == 0:
        sys.exit(7)      # runs atexit handlers and destructors with inherited handles
    print(os.waitstatus_to_exitcode(os.wait()[1]))
    trainer.close()
    """)
    out, err = process.communicate(timeout=120)
    assert out.strip() == "7", err
    assert process.returncode == 0, err


def test_ctrl_c_interrupts_a_wait_and_the_trainer_goes_on() -> None:
    process = run("""
    trainer = ane.DoubleBufferedTrainer(kernels, W(0))
    soft.set("failpoints", "facade.compile=hold")
    trainer.step(W(1))
    try:
        print("waiting", flush=True)
        trainer.step(W(2))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    soft.set("failpoints", "")
    stats = trainer.step(W(2))
    print("then", stats.generation, stats.newest, trainer.eval("fwd", X).flat[0])
    trainer.close()
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - begin < 5  # typically two slices, 0.1 s; generous for a busy machine
    out, err = process.communicate(timeout=120)
    assert "then 1 2 1.0" in out, err
    assert process.returncode == 0, err


def test_ctrl_c_interrupts_a_single_compile() -> None:
    process = run("""
    ane.Engine()
    soft.set("failpoints", "facade.compile=hold")
    try:
        print("waiting", flush=True)
        ane.Program(scale(), {"g": np.ones(4)})
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    soft.set("failpoints", "")
    with ane.Program(scale(tag="x"), {"g": np.full(4, 6.0)}) as program:
        print("then", program.eval(X).flat[0])
    """)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    out, err = process.communicate(timeout=120)
    assert "then 6.0" in out, err


def test_exit_with_a_compile_in_flight_ends_in_time_with_status_zero() -> None:
    process = run("""
    trainer = ane.DoubleBufferedTrainer(kernels, W(0))
    soft.set("failpoints", "facade.compile=delay(300)")
    trainer.step(W(1))
    print("bye", flush=True)
    """)
    out, err = process.communicate(timeout=60)
    assert out == "bye\n", err
    assert process.returncode == 0, err


def test_staging_of_a_killed_process_is_removed_by_the_next() -> None:
    killed = run("""
    if soft.get("staging") == "":
        ane.Engine()
    trainer = ane.DoubleBufferedTrainer(kernels, W(0))
    print(soft.get("staging"), flush=True)
    time.sleep(60)
    """)
    assert killed.stdout is not None
    staging = killed.stdout.readline().strip()
    killed.kill()
    killed.communicate()
    if not staging:
        return  # no shared memory here: the engine's own temporary directory is used
    assert Path(staging).is_dir()
    after = run("ane.Engine(); print(soft.get('staging'))")
    out, err = after.communicate(timeout=60)
    assert not Path(staging).exists(), err
    assert not Path(out.strip()).exists()  # its own went with it


def test_import_is_silent_and_starts_no_thread_and_opens_no_engine() -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            IMPORT_ONLY,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={"PATH": "/usr/bin:/bin", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdout == "1 False False\n"
    assert process.stderr == ""
