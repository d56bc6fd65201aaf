# SPDX-License-Identifier: MIT
"""Counts the operations of softane, by what becomes of each name.

    python softane/tools/count_ops.py

Three sorts: computed; computed only where the limits allow what the engine was seen to refuse;
refused by name, with what to write instead. Where coremltools is installed, the operations
that it registers for Core ML are looked up too: the exit status is 1 when softane has never
heard of one.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict

import gen_ops

SORTS = ("computed", "guarded", "refused")


def names() -> dict[str, set[str]]:
    """Sort -> the names of its operations."""
    program = gen_ops.build_generator(gen_ops.build.default_out())
    made: dict[str, set[str]] = defaultdict(set)
    text = subprocess.run(
        [program, "--names"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    for line in text.splitlines():
        sort, name = line.split("\t")
        made[sort].add(name)
    return made


def core_ml() -> set[str] | None:
    """The operations that coremltools registers for Core ML; None without coremltools."""
    try:
        from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
    except ImportError:
        return None
    # its own dialects (complex numbers, for example) and names with _ never leave its front end
    return {name for name in SSAOpRegistry.core_ops if not name.startswith("_")}


def main() -> int:
    """Count and print."""
    ours = names()
    computed, guarded, refused = (ours[s] for s in SORTS)
    listed = computed | guarded | refused
    print(f"{len(computed | guarded)} of {len(listed)} operations are computed,")
    print(f"{len(guarded)} of them only where the limits allow what the engine refuses;")
    print(f"{len(refused)} are refused by name, with a reason")
    theirs = core_ml()
    if theirs is None:
        print("coremltools is not installed: not compared with Core ML")
        return 0
    unknown = sorted(theirs - listed)
    print(
        f"of the {len(theirs)} that coremltools registers {len(theirs & (computed | guarded))} are "
        f"computed, {len(theirs & refused)} refused by name, {len(unknown)} unknown"
    )
    if unknown:
        print("unknown:", ", ".join(unknown))
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
