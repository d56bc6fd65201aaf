# SPDX-License-Identifier: MIT
"""Writes docs/OPS.md and softane/fuzz/mil.dict from the table of operations.

    python softane/tools/gen_ops.py [--check]

With --check nothing is written; the exit status is 1 when a file has drifted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

sys.path[:0] = [str(ROOT / "softane"), str(HERE)]
import generated

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


def made() -> dict[Path, bytes]:
    """The files as they should be."""
    program = build_generator(build.default_out())
    return {
        path: subprocess.run([program, *flags], check=True, stdout=subprocess.PIPE).stdout
        for path, flags in FILES.items()
    }


if __name__ == "__main__":
    try:
        sys.exit(generated.main("Write the reference of operations.", made))
    except build.tc.ToolchainError as error:
        sys.exit(str(error))
