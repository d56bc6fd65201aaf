# SPDX-License-Identifier: MIT
"""Go on in a fresh process when the compile budget of this one ends.

An engine is reported to allow about 119 compiles per process (maderix/ANE README; disputed).
:func:`exec_again` replaces the process by the same command with the same arguments,
environment and working directory; the process id stays. A script of one's own::

    begun = ane.restart.state()                   # None in a process somebody started
    step = load(begun.keep["checkpoint"]) if begun else 0
    ...
    try:
        trainer.step(weights)
    except ane.BudgetExhausted:
        path = save(...)                          # whole on the medium before the exec
        trainer.close()
        ane.restart.exec_again(progress=step, keep={"checkpoint": str(path)})

What the next process is told travels in one environment variable, which counts only for the
process id it was written for: a child never takes itself for a restarted process. See
``docs/RESTART.md`` for what is refused and why.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ane_native.errors import BudgetExhausted

__all__ = ["Restarted", "command", "exec_again", "state", "why_not"]

VARIABLE = "ANE_NATIVE_RESTART"
MOST_BYTES = 65536  # of the variable: Linux allows 128 KiB per string
ELSEWHERE = (
    "ways out: packing (fewer programs per set), compile workers, a larger budget, or save and "
    "start the command again by hand"
)
# Variables that a launcher of parallel jobs gives each rank. Sources: the manuals of Open MPI,
# MPICH (Hydra), PMIx and MVAPICH.
MPI = ("OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "MPI_LOCALRANKID")


def _descriptors() -> set[int]:
    """Open descriptors above standard error."""
    found: set[int] = set()
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return found
    for fd in (int(name) for name in names if name.isdigit() and int(name) > 2):
        try:
            os.fstat(fd)
            found.add(fd)
        except OSError:
            pass  # it was the listing's own
    return found


# As the process was started: exec_again gives it back. Scripts change these as they like.
_environment = dict(os.environ)
_inherited = _descriptors()
try:
    _folder: str | None = os.getcwd()
except OSError:  # it was removed
    _folder = None


@dataclass(frozen=True)
class Restarted:
    """What the process before this one said.

    Attributes:
        count: restarts so far; 1 in the first process that was restarted.
        progress: the number given to :func:`exec_again`.
        keep: the mapping given to it.
        at_ns: monotonic clock when it began to restart.
    """

    count: int
    progress: int
    keep: dict[str, Any] = field(default_factory=dict)
    at_ns: int = 0


_read: tuple[int, Restarted | None] | None = None  # (process id, state)


def state() -> Restarted | None:
    """What the process before this one handed over; None when this one was not restarted."""
    global _read
    pid = os.getpid()
    if _read is not None and _read[0] == pid:
        return _read[1]
    found = None
    try:
        said = json.loads(_environment.get(VARIABLE, "null"))
        if isinstance(said, dict) and said.get("pid") == pid:
            found = Restarted(
                int(said["count"]), int(said["progress"]), dict(said["keep"]), int(said["at_ns"])
            )
    except (ValueError, KeyError, TypeError):
        pass  # not written by us
    _read = (pid, found)
    return found


def command() -> list[str]:
    """The command that started this process: interpreter, its flags, script or ``-m``, arguments."""
    return [sys.executable, *sys.orig_argv[1:]]


# =============================== May it? ========================================


def _debugger() -> str | None:
    if sys.gettrace() is not None:
        return "a debugger or a tracer is attached (sys.gettrace)"
    monitoring = getattr(sys, "monitoring", None)  # Python 3.12
    if monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None:
        return "a debugger is attached (sys.monitoring)"
    for module in ("pydevd", "debugpy"):
        if module in sys.modules:
            return f"a debugger is loaded ({module})"
    return None


def _mpi() -> str | None:
    for name in os.environ:
        if name.startswith(MPI):
            return f"the process is a rank of an MPI job ({name} is set)"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or "1"
    if "SLURM_PROCID" in os.environ and tasks != "1":
        return f"the process is one of {tasks} tasks of a Slurm job"
    module = sys.modules.get("mpi4py.MPI")
    if module is not None and module.Is_initialized() and module.COMM_WORLD.Get_size() > 1:
        return "MPI is initialised (mpi4py)"
    return None


def _host() -> str | None:
    """Who else lives in this process, so that it must not be replaced even when asked."""
    if "ipykernel" in sys.modules or "google.colab" in sys.modules:
        return "the process is a notebook's kernel"
    if hasattr(sys, "ps1") or sys.flags.interactive or "PYTHONINSPECT" in os.environ:
        return "the interpreter is interactive"
    ipython = sys.modules.get("IPython")
    if ipython is not None and getattr(ipython, "get_ipython", lambda: None)() is not None:
        return "the process is an IPython session"
    if "pytest" in sys.modules and "PYTEST_CURRENT_TEST" in os.environ:
        return "the process runs tests (pytest)"
    parent = sys.modules.get("multiprocessing.process")
    if parent is not None and parent.parent_process() is not None:
        return "the process is a child of multiprocessing"
    return None


def _command() -> str | None:
    argv = sys.orig_argv
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        return f"the interpreter cannot be started again (sys.executable is {sys.executable!r})"
    if not argv:
        return "the command is not known (Python is embedded)"
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) in (None, "<stdin>") and "-c" not in argv:
        return "the program came from standard input"
    if _folder is None:
        return "the working directory at the start is not known"
    return None


def _threads() -> str | None:
    if threading.current_thread() is not threading.main_thread():
        return "it was asked for on a thread that is not the main one"
    others = [
        t.name
        for t in threading.enumerate()
        if t is not threading.current_thread() and not t.daemon
    ]
    return f"threads are running that it would end: {', '.join(others[:5])}" if others else None


def why_not(anyway: bool = False) -> str | None:
    """Why this process must not be replaced by a new one; None when it may.

    Args:
        anyway: the caller has been asked: debuggers and MPI are no reason.
    """
    asked = () if anyway else (_debugger, _mpi)
    for reason in (*asked, _host, _command, _threads):
        text: str | None = reason()
        if text is not None:
            return text
    return None


def check(progress: int, anyway: bool = False) -> None:
    """Raise what :func:`exec_again` would raise, so that it is known before anything is closed.

    Raises:
        BudgetExhausted: see :func:`exec_again`.
    """
    reason = why_not(anyway)
    if reason is not None:
        raise BudgetExhausted(
            f"the compile budget of this process is spent, and it is not restarted: {reason}\n"
            f"  {ELSEWHERE}"
        )
    before = state()
    if before is not None and progress <= before.progress:
        raise BudgetExhausted(
            f"restarted {before.count} times and no further: at {progress} again after a restart "
            f"at {before.progress}. The budget of a fresh process does not hold what one step "
            f"needs\n  {ELSEWHERE}"
        )


# =============================== Doing it =======================================


def _close_descriptors() -> None:
    """Let nothing of ours leak: what was opened here closes at the exec, what came in stays."""
    for fd in _descriptors() - _inherited:
        os.set_inheritable(fd, False)


def exec_again(
    *, progress: int, keep: Mapping[str, Any] | None = None, anyway: bool = False
) -> NoReturn:
    """Replace this process by the same command; never returns.

    Close trainers and files and save what must live on before: other threads end with the
    process. Functions registered with :mod:`atexit` run, standard streams are flushed.

    Args:
        progress: a number that grows from restart to restart, e.g. updates done. One that did
            not grow ends an endless loop.
        keep: what JSON can hold, for :func:`state` in the next process; at most 64 KiB.
        anyway: also under a debugger or MPI. Notebooks, interactive sessions and test runners
            are never replaced.

    Raises:
        BudgetExhausted: the process must not be replaced (the message says why and what to do
            instead), there was no progress since the last restart, or the system refused.
        TypeError, ValueError: `keep` cannot be handed over.
    """
    if isinstance(progress, bool) or not isinstance(progress, int):
        raise TypeError(f"progress: expected a whole number, got {progress!r}")
    check(progress, anyway)
    before = state()
    said = {
        "pid": os.getpid(),
        "count": 1 if before is None else before.count + 1,
        "progress": progress,
        "keep": dict(keep or {}),
        "at_ns": time.monotonic_ns(),
    }
    text = json.dumps(said, allow_nan=False)
    if len(text) > MOST_BYTES:
        raise ValueError(f"keep: {len(text)} bytes as JSON, expected at most {MOST_BYTES}")
    environment = {**_environment, VARIABLE: text}
    argv = command()
    assert _folder is not None  # check() has seen to it
    # To a program with exit functions, an exec is an exit.
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a reader that has gone must not keep the run from going on
    _close_descriptors()
    try:
        os.chdir(_folder)
        os.execve(argv[0], argv, environment)
    except OSError as error:
        raise BudgetExhausted(
            f"the compile budget is spent and {' '.join(argv)!r} could not be started again: "
            f"{error}\n  {ELSEWHERE}"
        ) from error
