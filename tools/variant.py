# SPDX-License-Identifier: MIT
"""Makes a second copy of the package with another build of the core, and runs a command on it.

    python tools/variant.py [--gcd bundled] [--sanitize address,undefined] [--] COMMAND ...

The copy stands in build/variant-NAME/ane_native: links to the Python files of the tree,
its own _core and libsoftane.so. The command runs in that directory with the copy first
on PYTHONPATH and $ANE_ROOT naming the tree; a pytest run there says which core it used.
Under the sanitizer its runtime is preloaded, because Python itself is not built with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

sys.path[:0] = [str(ROOT / "softane")]
sys.path.append(str(ROOT / "ane_native"))
import _core_build as core

import build as softane

tc = softane.tc


def link_tree(source: Path, target: Path) -> None:
    """Make `target` a directory of links to the Python and data files of `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in target.iterdir():
        if entry.is_symlink():
            entry.unlink()
        elif entry.is_dir():
            shutil.rmtree(entry)
    for entry in source.iterdir():
        if entry.is_dir() and (entry / "__init__.py").exists():
            link_tree(entry, target / entry.name)
        elif entry.suffix in (".py", ".cdef", ".typed"):
            (target / entry.name).symlink_to(entry)


def make(gcd: str | None, sanitize: str) -> Path:
    """Build the copy; returns the directory to put on PYTHONPATH."""
    name = "-".join(["variant", *filter(None, [gcd, sanitize.replace(",", "-")])])
    home = ROOT / "build" / name
    module = core.build(None, gcd, sanitize)
    library = softane.build(None, False, sanitize)
    link_tree(ROOT / "ane_native", home / "ane_native")
    for made in (module, library):
        tc.install(made, home / "ane_native" / made.name)
    return home


def runtime() -> str:
    """Path of the address sanitizer's shared runtime, for LD_PRELOAD."""
    name = f"libclang_rt.asan-{os.uname().machine}.so"
    command = [*tc.compiler(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).is_file():
        raise tc.ToolchainError(
            f"this clang has no {name}; on Debian: sudo apt-get install libclang-rt-14-dev"
        )
    return path


def environment(home: Path, sanitize: str) -> dict[str, str]:
    """The environment of the command."""
    env = {**os.environ, "PYTHONPATH": str(home), "ANE_ROOT": str(ROOT)}
    if sanitize:
        env["LD_PRELOAD"] = runtime()
        env.setdefault("ASAN_OPTIONS", "detect_leaks=0")  # Python leaks by design
    return env


def main() -> int:
    """Build, then run the command and hand on its exit status."""
    parser = argparse.ArgumentParser(description="Run a command on another build of the core.")
    parser.add_argument("--gcd", choices=("bundled", "system"))
    # Not "thread": its runtime cannot be preloaded. See tests/c/test_core.c for that.
    parser.add_argument("--sanitize", default="", choices=("", "address,undefined"))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    try:
        home = make(args.gcd, args.sanitize)
        env = environment(home, args.sanitize)
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"variant: {home}", flush=True)
    return subprocess.run(command, cwd=home, env=env, check=False).returncode if command else 0


if __name__ == "__main__":
    sys.exit(main())
