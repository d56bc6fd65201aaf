# SPDX-License-Identifier: MIT
"""Files that programs make: written, or only compared so that drift is seen."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_or_compare(files: Mapping[Path, bytes], *, check: bool) -> int:
    """Write what differs from the files there, or with `check` only say so.

    Returns:
        The exit status: 1 when `check` found a difference.
    """
    drifted = 0
    for path, made in files.items():
        if path.is_file() and path.read_bytes() == made:
            continue
        drifted += 1
        print(f"{path.relative_to(ROOT)}: {'has drifted' if check else 'written'}")
        if not check:
            path.write_bytes(made)
    return 1 if check and drifted else 0


def main(description: str, make: Callable[[], Mapping[Path, bytes]]) -> int:
    """The command line of a generator: ``[--check]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="only compare")
    args = parser.parse_args()
    return write_or_compare(make(), check=args.check)
