# SPDX-License-Identifier: MIT
"""Writes docs/OPS.md and softane/fuzz/mil.dict from the table of operations.

    python softane/tools/gen_ops.py [--check]

With --check nothing is written; the exit status is 1 when a file has drifted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

sys.path[:0] = [str(ROOT / "softane")]
import build

FILES = {ROOT / "docs" / "OPS.md": [], ROOT / "softane" / "fuzz" / "mil.dict": ["--dict"]}


def build_generator(out: Path) -> Path:
    """Compile gen_ops.c with the front end; returns the program."""
    sources = [HERE / "gen_ops.c", *build.sources("base"), *build.sources("mil")]
    with build.tc.build_lock(out):
        units = [u for s in sources for u in build.units_for(s, out, False, "")]
        build.tc.compile_all(units)
        program = out / "gen_ops"
        build.tc.link([u.object for u in units], program, ["-lm", "-lpthread"])
    return program


def main() -> int:
    """Generate, compare or write."""
    parser = argparse.ArgumentParser(description="Write the reference of operations.")
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    try:
        program = build_generator(build.default_out())
    except build.tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    drifted = 0
    for path, flags in FILES.items():
        text = subprocess.run([program, *flags], check=True, stdout=subprocess.PIPE).stdout
        if path.is_file() and path.read_bytes() == text:
            continue
        drifted += 1
        print(f"{path.relative_to(ROOT)}: {'has drifted' if args.check else 'written'}")
        if not args.check:
            path.write_bytes(text)
    return 1 if args.check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
