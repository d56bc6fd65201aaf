# SPDX-License-Identifier: MIT
"""Builds and runs tests/c/test_pool.c: workers, segments and leases, with all that can go wrong.

    python tools/test_pool.py [--sanitize thread|address,undefined] [--jobs N] [--seed N]

The C files of the pool are compiled under the sanitizer, and none of its reports is
suppressed. The workers of the test are the same program, so they run under it too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = (
    *("_core_pool.c", "_core_pool_process.c", "_core_segment.c", "_core_lease.c"),
    "_core_handle.c",
)
LIMIT_SECONDS = 600

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc
from test_sched import run


def program(sanitize: str) -> Path:
    """Build the test program and return it."""
    out = ROOT / "build" / "-".join(["pool", *filter(None, [sanitize.replace(",", "-")])])
    flags = tc.sanitize_flags(sanitize)
    common = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
    common += [f"-I{ROOT / 'ane_native'}", *flags]
    sources = [ROOT / "ane_native" / name for name in CORE]
    sources.append(ROOT / "tests" / "c" / "test_pool.c")
    units = [tc.Unit(s, out / f"{s.name}.o", tuple(common)) for s in sources]
    with tc.build_lock(out):
        tc.compile_all(units)
        tc.link([u.object for u in units], out / "test_pool", [*flags, "-lpthread"])
    return out / "test_pool"


def main() -> int:
    """Build and run; the exit status is 1 when the run failed."""
    parser = argparse.ArgumentParser(description="Test the worker pool from C.")
    parser.add_argument("--sanitize", default="", help="thread, or address,undefined")
    parser.add_argument("--jobs", type=int, default=200, help="programs asked for in all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    options = ["--jobs", str(args.jobs), "--seed", str(args.seed)]
    return run(lambda: program(args.sanitize), options, LIMIT_SECONDS + args.jobs)


if __name__ == "__main__":
    sys.exit(main())
