# SPDX-License-Identifier: MIT
"""Builds softane's C tests and runs them; prints one verdict line for each program.

    python softane/tests/run.py [--sanitize address,undefined] [--debug] [--full] [NAME ...]

--full tries everything where the short run samples (prove_half, test_numerics).
The exit status is 1 when a program failed. Each program prints "N passed, M failed".
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

sys.path[:0] = [str(ROOT / "softane")]
import build

LONGER = ("prove_half", "test_numerics")  # take the argument "full"
VERDICT = re.compile(r"(\d+) passed, (\d+) failed")


def run_program(
    program: Path, timeout: float = 600, arguments: tuple[str, ...] = ()
) -> tuple[bool, str, str]:
    """Run one test program. Returns (passed, verdict line, everything it printed)."""
    try:
        done = subprocess.run(
            [program, *arguments],
            env={**build.tc.sanitizer_options(ROOT / "tools"), **os.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return False, f"no verdict within {timeout:.0f} s", str(late.stdout or "")
    verdicts = VERDICT.findall(done.stdout)
    if not verdicts:
        return False, f"no verdict, exit status {done.returncode}", done.stdout
    passed, failed = verdicts[-1]
    line = f"{passed} passed, {failed} failed"
    if done.returncode != 0:
        line += f", exit status {done.returncode}"
    return failed == "0" and done.returncode == 0, line, done.stdout


def main() -> int:
    """Build, run, print."""
    parser = argparse.ArgumentParser(description="Run softane's C tests.")
    parser.add_argument("--sanitize", default="")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--full", action="store_true", help="longer runs of some programs")
    parser.add_argument("names", nargs="*", help="only programs whose name contains one of these")
    args = parser.parse_args()
    try:
        programs = build.build_tests(None, args.debug, args.sanitize)
    except build.tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    if args.names:
        programs = [p for p in programs if any(n in p.name for n in args.names)]
    bad = 0
    for program in programs:
        full = ("full",) if args.full and program.name in LONGER else ()
        good, line, output = run_program(program, 3600 if full else 600, full)
        if not good:
            bad += 1
            print(output, end="")
        print(f"{program.name}: {line}", flush=True)
    print(f"softane: {len(programs) - bad} programs good, {bad} bad")
    return 1 if bad or not programs else 0


if __name__ == "__main__":
    sys.exit(main())
