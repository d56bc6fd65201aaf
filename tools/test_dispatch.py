# SPDX-License-Identifier: MIT
"""Builds and runs tests/c/test_dispatch.c: against the bundled GCD and a real libdispatch.

    python tools/test_dispatch.py [--sanitize thread] [--repeat N]

The bundled one is always tested; a libdispatch only where one is found (said so when
not) and never under a sanitizer, which cannot see into it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc


def build(gcd, sanitize: str) -> Path:
    """Build the test program for one GCD and return it."""
    out = ROOT / "build" / "-".join(["dispatch", gcd.name, *filter(None, [sanitize])])
    flags = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Wshadow"]
    flags += [f"-I{ROOT / 'ane_native'}", *gcd.flags(), *tc.sanitize_flags(sanitize)]
    flags += ["-Wconversion", "-Wno-sign-conversion"]
    sources = [ROOT / "tests" / "c" / "test_dispatch.c"]
    if gcd.name == "bundled":
        flags += ["-DANE_GCD_IDLE_MS=300"]
        sources.append(ROOT / "ane_native" / "_dispatch_small.c")
    with tc.build_lock(out):
        units = [tc.Unit(s, out / f"{s.name}.o", tuple(flags)) for s in sources]
        tc.compile_all(units)
        program = out / "test_dispatch"
        libs = [*tc.sanitize_flags(sanitize), *gcd.libs(), "-lpthread"]
        tc.link([u.object for u in units], program, libs)
    return program


def main() -> int:
    """Build and run; the exit status is 1 when any run failed."""
    parser = argparse.ArgumentParser(description="Test the bundled GCD and a real one.")
    parser.add_argument("--sanitize", default="", help="thread, or address,undefined")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    try:
        kinds = [tc.gcd("bundled")]
        if not args.sanitize:
            try:
                kinds.append(tc.gcd("system"))
            except tc.ToolchainError:
                print("dispatch: no libdispatch here, only the bundled one is tested")
        programs = [(kind, build(kind, args.sanitize)) for kind in kinds]
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    bad = 0
    for kind, program in programs:
        for _ in range(args.repeat):
            done = subprocess.run(
                [program], capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode != 0:
                bad += 1
                print(done.stdout, done.stderr, f"exit status {done.returncode}", sep="\n")
            verdict = done.stdout.strip().splitlines()[-1:] or ["no verdict"]
            print(f"dispatch ({kind.name}): {verdict[0]}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
