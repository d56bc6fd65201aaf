# SPDX-License-Identifier: MIT
"""Builds and runs tests/c/test_core.c: the C API of the core, with softane, without Python.

    python tools/test_core.py [--gcd bundled|system] [--sanitize thread] [--repeat N]

Under a sanitizer the bundled GCD is used, because a libdispatch cannot be looked into.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path[:0] = [str(ROOT / "softane")]
sys.path.append(str(ROOT / "ane_native"))
import _core_build as core

import build as softane

tc = softane.tc


def build_program(gcd_choice: str | None, sanitize: str) -> Path:
    """Link the test with the objects of the core and return the program."""
    gcd = tc.gcd("bundled" if sanitize else gcd_choice)
    out = core.default_out(gcd.name, sanitize)
    tc.probe_objc(out)
    test = ROOT / "tests" / "c" / "test_core.c"
    with tc.build_lock(out):
        flags = (*core.common_flags(gcd, sanitize), "-Wshadow", "-Werror")
        units = [*core.units(out, gcd, sanitize), tc.Unit(test, out / "test_core.c.o", flags)]
        tc.compile_all(units)
        program = out / "test_core"
        # -rdynamic: the engine is opened later and needs the sanitizer's symbols too
        libs = ["-rdynamic", *tc.sanitize_flags(sanitize), *gcd.libs(), *tc.objc_libs()]
        tc.link([u.object for u in units], program, libs)
    return program


def main() -> int:
    """Build and run; the exit status is 1 when a run failed."""
    parser = argparse.ArgumentParser(description="Test the C API of the core from C.")
    parser.add_argument("--gcd", choices=("bundled", "system"))
    parser.add_argument("--sanitize", default="", help="thread, or address,undefined")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    try:
        program = build_program(args.gcd, args.sanitize)
        engine = softane.build(None, False, args.sanitize)
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    env = {**tc.sanitizer_options(ROOT / "tools"), **os.environ}
    bad = 0
    for _ in range(args.repeat):
        done = subprocess.run(
            [program, engine],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            env=env,
            check=False,
        )
        lines = done.stdout.strip().splitlines() or ["no verdict"]
        if done.returncode != 0:
            bad += 1
            print(done.stdout, f"exit status {done.returncode}", sep="\n")
        verdict = [line for line in lines if "passed" in line][-1:] or lines[-1:]
        print(f"core ({args.sanitize or args.gcd or 'default GCD'}): {verdict[0]}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
