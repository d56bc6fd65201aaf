# SPDX-License-Identifier: MIT
"""Makes the faults of tools/mutations.txt, one at a time, and asks the tests named there.

    python tools/mutate.py [--only TEXT] [--list]

Works in a copy of the tracked files below build/, so nothing here changes. A fault is
caught when one of its tests fails (or the program no longer builds). The exit status is 1
when one is not caught, or when its text no longer stands in the file exactly once. Takes
about ten seconds for each fault; --only takes those whose file or tests contain TEXT.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tools" / "mutations.txt"
COPY = ROOT / "build" / "mutate"
TIMEOUT_S = 1200


@dataclass
class Mutation:
    """One fault.

    Attributes:
        path: of the file, relative to the root.
        tests: names of C tests of softane, or paths for pytest.
        old, new: what stands there once, and what takes its place.
    """

    path: str
    tests: list[str]
    old: str = ""
    new: str = ""
    lines: dict[str, list[str]] = field(default_factory=lambda: {"-": [], "+": []})

    def __str__(self) -> str:
        def short(text: str) -> str:
            return " ".join(text.split())[:60]

        return f"{self.path}: {short(self.old)!r} -> {short(self.new)!r}"


def read(path: Path = LIST) -> list[Mutation]:
    """The faults of a list.

    Raises:
        ValueError: a line that is neither head, text nor comment.
    """
    found: list[Mutation] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("@ "):
            name, _, tests = line[2:].partition(" | ")
            found.append(Mutation(name.strip(), tests.split()))
        elif line[:1] in ("-", "+") and found:
            found[-1].lines[line[0]].append(line[1:])
        elif line.strip() and not line.startswith("#"):
            raise ValueError(f"{path.name}:{number}: expected '@ file | tests', - or +")
    for m in found:
        m.old, m.new = "\n".join(m.lines["-"]), "\n".join(m.lines["+"])
    return found


def refresh() -> None:
    """Bring the copy to the state of the tracked files; what was built there stays."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    for name in filter(None, names.split("\0")):
        source, copy = ROOT / name, COPY / name
        if not source.is_file():
            continue
        data = source.read_bytes()
        if not copy.is_file() or copy.read_bytes() != data:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)
            copy.chmod(source.stat().st_mode)


def passes(tests: list[str]) -> bool:
    """Whether all of these tests pass in the copy."""
    in_python = [t for t in tests if "/" in t]
    in_c = [t for t in tests if "/" not in t]
    commands = []
    if in_c:
        commands.append([sys.executable, "softane/tests/run.py", *in_c])
    if in_python:
        commands.append([sys.executable, "setup.py", "-q", "build_ext", "--inplace"])
        commands.append([sys.executable, "-m", "pytest", "-q", "-x", *in_python])
    env = {**os.environ, "PYTHONPATH": str(COPY)}
    for command in commands:
        try:
            done = subprocess.run(
                command, cwd=COPY, env=env, capture_output=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Try the tests against deliberate faults.")
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--list", action="store_true", help="name them, try none")
    args = parser.parse_args()
    chosen = [m for m in read() if args.only in m.path or args.only in " ".join(m.tests)]
    refresh()
    stale = [m for m in chosen if (COPY / m.path).read_text().count(m.old) != 1]
    for m in stale:
        print(f"stale: {m}")
    if args.list:
        for m in chosen:
            print(m)
        return 1 if stale else 0
    caught = 0
    for m in chosen:
        if m in stale:
            continue
        path = COPY / m.path
        whole = path.read_text()
        path.write_text(whole.replace(m.old, m.new))
        try:
            good = passes(m.tests)
        finally:
            path.write_text(whole)
        caught += not good
        print(f"{'NOT CAUGHT' if good else 'caught'}: {m}", flush=True)
    print(f"{caught} of {len(chosen)} faults caught, {len(stale)} stale")
    return 0 if caught == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
