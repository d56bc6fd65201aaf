# SPDX-License-Identifier: MIT
"""Builds and runs tests/c/test_sched.c: the scheduler on an engine that does nothing.

    python tools/test_sched.py [--sanitize thread|address,undefined] [--swaps N] [--seed N]

The scheduler's C files are compiled together with tests/c/null_engine.c and the bundled
GCD, all of them under the sanitizer, and none of its reports is suppressed. ``--cost``
only measures what a boundary costs. ``library()`` builds the same files as a shared
library, which tests/sched/test_explorer.py drives event by event.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = (
    *(
        "_core_sched.c",
        "_core_background.c",
        "_core_job.c",
        "_core_update.c",
        "_core_set.c",
        "_core_canary.c",
        "_core_stats.c",
    ),
    *("_core_handle.c", "_core_file.c", "_half.c", "_cpu.c"),
)
WRAPPED = "-Wl,--wrap=ane_cpu_sum_squares_here"  # null_engine.c stands before it
LIMIT_SECONDS = 600  # and one for each hundred swaps: on any machine far more than needed

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc


def objects(out: Path, tests: tuple[str, ...], flags: list[str]) -> list[Path]:
    """Compile the scheduler, the bundled GCD and these files of tests/c."""
    common = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
    common += ["-Wconversion", "-Wno-sign-conversion"]
    common += [f"-I{ROOT / 'ane_native'}", f"-I{ROOT / 'tests' / 'c'}"]
    common += tc.gcd("bundled").flags()
    sources = [ROOT / "ane_native" / name for name in (*CORE, "_dispatch_small.c")]
    sources += [ROOT / "tests" / "c" / name for name in tests]
    units = [tc.Unit(s, out / f"{s.name}.o", (*common, *flags)) for s in sources]
    tc.compile_all(units)
    return [u.object for u in units]


def program(sanitize: str) -> Path:
    """Build the test program and return it."""
    out = ROOT / "build" / "-".join(["sched", *filter(None, [sanitize.replace(",", "-")])])
    flags = tc.sanitize_flags(sanitize)
    with tc.build_lock(out):
        made = objects(out, ("null_engine.c", "test_sched.c"), flags)
        wrap = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc")]
        tc.link(made, out / "test_sched", [*flags, *wrap, WRAPPED, "-lpthread", "-lm", "-ldl"])
    return out / "test_sched"


def library() -> Path:
    """Build scheduler and null engine as a shared library and return it."""
    out = ROOT / "build" / "sched-library"
    with tc.build_lock(out):
        made = objects(out, ("null_engine.c",), ["-fPIC"])
        tc.link(made, out / "libsched_null.so", ["-shared", WRAPPED, "-lpthread", "-lm", "-ldl"])
    return out / "libsched_null.so"


def run(build: Callable[[], Path], options: list[str], limit: float) -> int:
    """Build a test program and run it for at most `limit` seconds; 1 when either failed."""
    try:
        test = build()
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=0:exitcode=66"}
    try:
        done = subprocess.run([test, *options], env=environment, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        print(f"stopped after {limit:.0f} s: something waits for ever")
        return 1
    if done.returncode != 0:
        print(f"exit status {done.returncode}")
    return 1 if done.returncode else 0


def main() -> int:
    """Build and run; the exit status is 1 when the run failed."""
    parser = argparse.ArgumentParser(description="Test the scheduler on the null engine.")
    parser.add_argument("--sanitize", default="", help="thread, or address,undefined")
    parser.add_argument("--swaps", type=int, default=20_000, help="sets to install in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cost", action="store_true", help="only measure what a boundary costs")
    args = parser.parse_args()
    options = ["--swaps", str(args.swaps), "--seed", str(args.seed)]
    options += ["--cost"] if args.cost else []
    return run(lambda: program(args.sanitize), options, LIMIT_SECONDS + args.swaps / 100)


if __name__ == "__main__":
    sys.exit(main())
