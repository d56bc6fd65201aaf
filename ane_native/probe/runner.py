# SPDX-License-Identifier: MIT
"""Starts every experiment in a process of its own, bounds its time and collects the rows.

Children are started anew, never forked, and lead a session of their own: Ctrl-C reaches the
parent only, which ends the child and keeps what was measured so far.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ane_native import soft
from ane_native._version import __version__
from ane_native.errors import ConfigError

from . import limits, meaning, reflection, speed  # noqa: F401 - they register themselves
from .base import EXPERIMENTS, Experiment
from .report import FORMAT, Report

# Settings of softane that change what a probe finds.
SETTINGS = (
    *("profile", "timing", "timing_scale", "compile_limit", "loaded_limit", "procedures"),
    *("qos_overlap", "order", "unload_purges"),
)


def os_build() -> str:
    """The build of the operating system: ``25F84`` on a Mac, the kernel's release elsewhere."""
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/bin/sw_vers", "-buildVersion"], capture_output=True, check=False
        )
        build = asked.stdout.decode().strip()
        if build:
            return build
    return platform.release()


def names_of(only: Sequence[str] | None, quick: bool) -> list[str]:
    """The experiments to make, in order.

    Raises:
        ConfigError: one of `only` does not exist.
    """
    unknown = [n for n in only or () if n not in EXPERIMENTS]
    if unknown:
        raise ConfigError(f"no experiment {unknown[0]!r}; there are {', '.join(EXPERIMENTS)}")
    if only:
        return [n for n in EXPERIMENTS if n in only]
    return [n for n, e in EXPERIMENTS.items() if e.quick or not quick]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    return {**os.environ, **_settings(), "PYTHONPATH": path}


def _settings() -> dict[str, str]:
    """softane's settings that this process has changed, for a child: the report is kept under
    them. Not the limit of compiles: an experiment needs some, whatever a run is given."""
    mine = {k: v for k, v in soft.changed().items() if k in SETTINGS and k != "compile_limit"}
    return {f"SOFTANE_{key.upper()}": value for key, value in mine.items()}


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def one(made: Experiment, quick: bool, timeout: float | None = None) -> dict[str, Any]:
    """The row of one experiment; whatever it does costs this row only."""
    command = [
        sys.executable,
        "-m",
        "ane_native.probe.child",
        made.name,
        *(["--quick"] if quick else []),
    ]
    limit = made.seconds if timeout is None else timeout
    begin = time.monotonic()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=_environment(), start_new_session=True,
    )  # fmt: skip
    late = False
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        late = True
        _end(child)
        out, err = child.communicate()
    except BaseException:
        _end(child)
        raise
    row: dict[str, Any] = {
        "name": made.name,
        "settles": made.settles,
        "seconds": time.monotonic() - begin,
    }
    lines = []
    for text in out.splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            pass  # the line the process died in
    row["engine"] = next((x["info"] for x in lines if x.get("kind") == "engine"), None)
    last = lines[-1] if lines else {}
    if last.get("kind") == "end" and not late:
        return {**row, **{k: last[k] for k in ("status", "said", "values", "seconds")}}
    partial: dict[str, Any] = next(
        (x["values"] for x in reversed(lines) if x.get("kind") == "partial"), {}
    )
    row["values"] = partial
    if late:
        return {
            **row,
            "status": "timeout",
            "said": f"no end within {limit:g} s; got {_short(partial)}",
        }
    code = child.returncode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    tail = err.decode("utf-8", "replace").strip().splitlines()[-1:]
    said = f"the process ended with {how}; got {_short(partial)}"
    return {**row, "status": "crashed", "said": said + "".join(f"; {t[:200]}" for t in tail)}


def _short(values: dict[str, Any]) -> str:
    text = json.dumps(values, default=str)
    return text if len(text) < 60 else text[:57] + "..."


def run(
    *,
    only: Sequence[str] | None = None,
    quick: bool = False,
    timeout: float | None = None,
    shown: Callable[[str, dict[str, Any] | None], None] | None = None,
) -> Report:
    """Make experiments, one after the other.

    Args:
        only: names, see :data:`ane_native.probe.EXPERIMENTS`; None: all, or the quick ones.
        quick: fewer experiments and repetitions (about ten seconds on softane).
        timeout: seconds for each; None: its own.
        shown: called with a name before, and with name and row after an experiment.

    Returns:
        The report; after Ctrl-C ``complete`` is False and the rows are those made so far.

    Raises:
        ConfigError: an unknown name, or a time-out that is none.
    """
    if timeout is not None and not 0 < timeout < math.inf:
        raise ConfigError(f"timeout: expected more than 0 seconds, got {timeout:g}")
    names = names_of(only, quick)
    report = Report.begin(quick=quick, os_build=os_build(), version=__version__, format=FORMAT)
    try:
        for name in names:
            if shown:
                shown(name, None)
            row = one(EXPERIMENTS[name], quick, timeout)
            report.add(row)
            if shown:
                shown(name, row)
        report.about["complete"] = True
    except KeyboardInterrupt:
        report.about["stopped_at"] = name
    return report
