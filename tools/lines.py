# SPDX-License-Identifier: MIT
"""Prints the size of every source file, by directory; marks those above 800 lines.

python tools/lines.py [--all]

Counts lines as wc does. Without --all only the sums and the large files are shown.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = {".py", ".c", ".m", ".h", ".cdef", ".md", ".sh", ".mil"}
LARGE = 800


def tracked() -> list[Path]:
    """Files git knows or would add, without those that were deleted."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {ROOT / line for line in done.stdout.splitlines()}
    return sorted(p for p in found if p.suffix in KINDS and p.is_file())


def main() -> int:
    """Print the table."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    large = []
    for path in tracked():
        name = path.relative_to(ROOT)
        lines = path.read_bytes().count(b"\n")
        folder = str(name.parent) if name.parent.parts else "."
        sums[folder][0] += 1
        sums[folder][1] += lines
        if lines > LARGE:
            large.append((lines, name))
        if "--all" in sys.argv[1:]:
            print(f"{lines:7d}  {name}")
    print(f"{'lines':>7}  files  directory")
    for folder, (files, lines) in sorted(sums.items()):
        print(f"{lines:7d}  {files:5d}  {folder}")
    print(f"{sum(n for _, n in sums.values()):7d}  {sum(f for f, _ in sums.values()):5d}  in all")
    for lines, name in sorted(large, reverse=True):
        print(f"above {LARGE}: {name} ({lines})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
