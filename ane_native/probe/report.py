# SPDX-License-Identifier: MIT
"""The report: table on a terminal, JSON to send in, plot of the overlap."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ane_native.checkpoint import to_json
from ane_native.errors import ConfigError
from ane_native.outputs import open_output

FORMAT = "ane_native probe 1"
STYLE = {
    "measured": "green", "refused": "yellow", "impossible": "dim",
    "failed": "red", "timeout": "red", "crashed": "red",
}  # fmt: skip
WORDS = {"impossible": "not possible here"}


@dataclass
class Report:
    """Rows of experiments and what they were made on.

    Attributes:
        about: format, engine, system, versions, ``quick``, ``complete``.
        rows: one per experiment: name, settles, status, said, values, seconds. Status is
            ``measured``, ``refused`` (the engine said no to the experiment itself),
            ``impossible``, ``failed``, ``timeout`` or ``crashed``.
    """

    about: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def begin(cls, *, quick: bool, os_build: str, version: str, format: str) -> Report:
        """A report without rows."""
        about = {
            "format": format,
            "engine": None,
            "system": f"{platform.system()} {platform.release()}",
            "os_build": os_build,
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "versions": {
                "ane_native": version,
                "python": platform.python_version(),
                "numpy": numpy.__version__,
            },
            "quick": quick,
            "complete": False,
        }
        return cls(about, [])

    def add(self, row: dict[str, Any]) -> None:
        """Take over a row of the runner; the engine is kept once."""
        told = row.pop("engine", None)
        if told is not None and self.about["engine"] is None:
            keep = (
                *("name", "software", "chip", "gcd", "engine_count", "core_count", "version"),
                *("profile", "timing", "numerics", "isa"),
            )
            self.about["engine"] = {k: told[k] for k in keep if k in told}
        self.rows.append(row)

    def row(self, name: str) -> dict[str, Any] | None:
        """The row of an experiment."""
        return next((r for r in self.rows if r["name"] == name), None)

    def value(self, name: str, key: str) -> Any:
        """A value an experiment measured; None where it was not measured."""
        found = self.row(name)
        if found is None or found["status"] != "measured":
            return None
        return found["values"].get(key)

    # ------------------------------ JSON ------------------------------

    def as_json(self) -> bytes:
        """The bytes to send in."""
        plain = json.loads(json.dumps({**self.about, "rows": self.rows}, default=str))
        return to_json(_public(plain))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON, whole or not at all. Raises OSError."""
        with open_output(path) as stream:
            stream.write(self.as_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report.

        Raises:
            ConfigError: it is not one; OSError: it cannot be read.
        """
        data = Path(path).read_bytes()
        try:
            about = json.loads(data)
        except ValueError as error:
            raise ConfigError(f"{path}: expected JSON: {error}") from error
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ConfigError(f"{path}: expected format {FORMAT!r}")
        rows = about.pop("rows", None)
        needed = ("name", "status", "said", "values")
        if not isinstance(rows, list) or not all(
            isinstance(r, dict) and all(k in r for k in needed) and isinstance(r["values"], dict)
            for r in rows
        ):
            raise ConfigError(f"{path}: expected rows with {', '.join(needed)}")
        return cls(about, rows)

    # ------------------------------ for people ------------------------------

    def title(self) -> str:
        """Which engine, and that software is software."""
        engine = self.about["engine"]
        if engine is None:
            return "no engine answered"
        kind = (
            "SOFTWARE - says nothing about Apple hardware" if engine["software"] else engine["chip"]
        )
        timing = f", timing={engine['timing']}" if engine.get("timing") else ""
        system, build = self.about["system"], self.about["os_build"]
        on = system if build in system else f"{system} {build}"
        return f"{engine['name']}{timing}: {kind}; {on}"

    def table(self) -> Any:
        """A table for rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.title(), title_justify="left", expand=False)
        for column in ("experiment", "outcome", "what was seen", "s"):
            table.add_column(column, justify="right" if column == "s" else "left", overflow="fold")
        for row in self.rows:
            status = Text(
                WORDS.get(row["status"], row["status"]), style=STYLE.get(row["status"], "")
            )
            said = Text(_PROGRAM.sub("<program>", row["said"]))
            said.append(f"\n{row['settles']}", style="dim")
            table.add_row(row["name"], status, said, f"{row['seconds']:.1f}")
        return table

    def plot(self, path: str | os.PathLike[str]) -> bool:
        """Draw evaluations beside compiles (experiment ``overlap``).

        Returns:
            False when matplotlib is not installed or the overlap was not measured.
        """
        timeline = self.value("overlap", "timeline")
        if not timeline:
            return False
        try:
            import matplotlib

            matplotlib.use("Agg")
            import matplotlib.pyplot as plt
        except ImportError:
            return False
        figure, axes = plt.subplots(figsize=(9, 3))
        begin = [b for b, _ in timeline["evals"]]
        axes.plot(begin, [e - b for b, e in timeline["evals"]], ".", ms=2, color="#1f77b4")
        for b, e in timeline["compiles"]:
            axes.axvspan(b, e, color="#ff7f0e", alpha=0.3, lw=0)
        axes.set(
            xlabel="ms",
            ylabel="evaluation, ms",
            title=f"Evaluations beside compiles (shaded)\n{self.title()}",
        )
        axes.set_ylim(bottom=0)
        figure.tight_layout()
        figure.savefig(path, dpi=120)
        plt.close(figure)
        return True


#: The staging directory of a program: three hashes, which tell a reader nothing.
_PROGRAM = re.compile(r"(?:/[^\s'\"()]*/|<staging>/)[0-9A-F]{64}(?:_[0-9A-F]{64})*")

#: Parts of error texts that name a user or a place: temporary and home directories, staging.
_PLACES = (
    (re.compile(r"/[^\s'\"()]*/(?=[0-9A-F]{64}_)"), "<staging>/"),  # before a program's identity
    (re.compile(r"(?:/private)?/var/folders/[^/\s]+/[^/\s]+"), "<tmp>"),
    (re.compile(r"/(Users|home)/[^/\s:,)'\"]+"), r"/\1/<user>"),
    (re.compile(r"ane_native-\d+-\d+"), "ane_native-<uid>-<pid>"),
)


def _private() -> dict[str, str]:
    """Names that must not be sent in, and what stands for them."""
    named = {tempfile.gettempdir(): "<tmp>", str(Path.home()): "<home>"}
    hosts = {platform.node(), platform.node().split(".")[0]}
    users = {os.environ.get(k, "") for k in ("USER", "LOGNAME", "USERNAME")}
    named |= dict.fromkeys(hosts, "<host>") | dict.fromkeys(users, "<user>")
    too_short = 4  # "/", "root" as a word: they name nobody
    return {
        k: v for k, v in named.items() if len(k) >= too_short and k not in ("root", "/root", "/tmp")
    }


def _public(value: Any, private: dict[str, str] | None = None) -> Any:
    """As JSON can hold it (no NaN, no infinity) and without names of users and hosts."""
    private = _private() if private is None else private
    if isinstance(value, float) and value != value or value in (float("inf"), float("-inf")):
        return str(value)
    if isinstance(value, str):
        for name in sorted(private, key=len, reverse=True):
            value = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", private[name], value)
        for pattern, stands in _PLACES:
            value = pattern.sub(stands, value)
        return value
    if isinstance(value, dict):
        return {k: _public(v, private) for k, v in value.items()}
    if isinstance(value, list):
        return [_public(v, private) for v in value]
    return value
