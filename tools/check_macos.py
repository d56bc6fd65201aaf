# SPDX-License-Identifier: MIT
"""Compiles the core for Apple silicon with the cross compiler of the ziglang package.

    python tools/check_macos.py

What this shows: the sources are valid for Darwin's libc, Objective-C runtime and
dispatch; and both compilers, the one for macOS and the one for this system, see the
same messages: their syntax trees are asked for the selector of every send and every
@selector. What it cannot show: that it runs. Foundation's declarations are our own
(ane_native/_darwin), and nothing is linked. The exit status is 1 when something does
not compile or differs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ane_native"

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc

BUILD = ROOT / "build" / "macos"
TARGET = "aarch64-macos"
NOT_CHECKED = {"_core.c", "_dispatch_small.c", "_core_arrays.c"}  # the last one needs Python.h

SENT = re.compile(r"ObjCMessageExpr .*? selector=(\S+)|ObjCSelectorExpr .* 'SEL\S* ?\*?' (\S+)")
NAMED = re.compile(r'StringLiteral .*? "((?:\w+:)+|_ANE\w+)"')


def sources() -> list[Path]:
    found = [*PACKAGE.glob("_*.m"), *PACKAGE.glob("_*.c")]
    return sorted(p for p in found if p.name not in NOT_CHECKED)


def zig(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the cross compiler; its caches stay in the build directory."""
    cache = BUILD / "zig"
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "ziglang", "cc", "-target", TARGET, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def flags_for(source: Path) -> list[str]:
    objc = [f"-I{PACKAGE / '_darwin'}", "-fobjc-exceptions"] if source.suffix == ".m" else []
    return ["-std=gnu11", "-fexceptions", *objc]


def compile_one(source: Path) -> str:
    """What the compiler has to say; "" when all is well."""
    strict = ["-Wall", "-Wextra", "-Werror"]
    out = BUILD / f"{source.name}.o"
    done = zig(["-c", *flags_for(source), *strict, str(source), "-o", str(out)])
    if done.returncode == 0:
        return ""
    return done.stdout + done.stderr or f"{source.name}: exit status {done.returncode}"


def said(tree: str) -> Counter[str]:
    """What a syntax tree says to objects: selectors sent, and those in string tables."""
    sent = Counter(a or b for a, b in SENT.findall(tree))
    return sent + Counter(f"named {name}" for name in NAMED.findall(tree))


def said_on_both(source: Path) -> tuple[Counter[str], Counter[str]]:
    """(on macOS, here): the messages of one Objective-C file as each compiler sees them."""
    dump = ["-fsyntax-only", "-w", "-Xclang", "-ast-dump"]
    there = zig([*dump, *flags_for(source), str(source), "-o", str(BUILD / "tree")]).stdout
    command = [*tc.compiler(), *dump, "-std=gnu11", *tc.objc_flags(), str(source)]
    here = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return said(there), said(here)


def main() -> int:
    """Compile, scan, print."""
    try:
        import ziglang  # noqa: F401
    except ImportError:
        print("macos-check: the package ziglang is not installed (pip install ziglang)")
        return 1
    BUILD.mkdir(parents=True, exist_ok=True)
    files = sources()
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        complaints = [text for text in pool.map(compile_one, files) if text]
    for text in complaints:
        print(text)
    objc = [f for f in files if f.suffix == ".m"]
    sends = differ = 0
    for source in objc:
        there, here = said_on_both(source)
        sends += sum(n for name, n in there.items() if not name.startswith("named "))
        for name in sorted((there - here) + (here - there)):
            differ += 1
            print(f"{source.name}: {name}: {there[name]} on macOS, {here[name]} here")
    good = len(files) - len(complaints)
    print(f"macos-check: {good} of {len(files)} files compile for {TARGET}, no warnings allowed")
    print(f"macos-check: {sends} message sends in {len(objc)} Objective-C files, seen by both")
    print(f"private selectors that differ between the platforms: {differ}")
    return 1 if complaints or differ or not sends else 0


if __name__ == "__main__":
    sys.exit(main())
