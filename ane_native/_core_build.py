# SPDX-License-Identifier: MIT
"""Builds the extension module ane_native._core: cffi API mode, out of line.

    python ane_native/_core_build.py [--out DIR] [--gcd bundled|system] [--sanitize KINDS]

Also imported by setup.py and the tools, which put this directory on their path. The C API is read from _core.cdef;
cffi writes its wrapper into the build directory, never beside the sources, and every
object file carries the full name of its source, so that _core.m and the generated
wrapper do not meet. Knows nothing of softane.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import sysconfig
from pathlib import Path
from typing import Any

import _toolchain as tc  # not ane_native._toolchain: that would import the package

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODULE = "ane_native._core"
BUNDLED_GCD = "_dispatch_small.c"
FOR_PYTHON = "_core_arrays.c"  # a module of its own in the same file

COMMON = ["-std=gnu11", "-g", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]


def limited_api() -> bool:
    """True when one binary serves all later Pythons (not on a free-threaded or debug one)."""
    variables = sysconfig.get_config_vars("Py_GIL_DISABLED", "Py_DEBUG")
    return not any(variables)


def module_name() -> str:
    """File name of the extension, as the import system looks for it."""
    suffix = ".abi3.so" if limited_api() else sysconfig.get_config_var("EXT_SUFFIX")
    return f"_core{suffix}"


def default_out(gcd: str, sanitize: str = "") -> Path:
    """Where a kind of build lives: kinds and Pythons never share objects."""
    tag = sys.implementation.cache_tag or "python"
    parts = ["core", tag, gcd, *(sanitize.split(",") if sanitize else [])]
    return ROOT / "build" / "-".join(parts)


def sources(bundled: bool) -> list[Path]:
    """Every C and Objective-C file beside this one that knows no Python; the bundled GCD only when
    it is used."""
    skip = {"_core.c", FOR_PYTHON, *(() if bundled else (BUNDLED_GCD,))}
    found = [*HERE.glob("_*.m"), *HERE.glob("_*.c")]
    return sorted(p for p in found if p.name not in skip)


def write_wrapper(out: Path) -> Path:
    """Let cffi write the C file of the wrapper; untouched when it would be the same."""
    try:
        import cffi
    except ImportError:
        raise tc.ToolchainError(
            "cannot build ane-native: the Python package cffi is missing\n"
            f"This puts it right:\n    {sys.executable} -m pip install cffi"
        ) from None
    ffi = cffi.FFI()
    ffi.cdef((HERE / "_core.cdef").read_text(encoding="utf-8"))
    ffi.set_source(MODULE, '#include "_core.h"')
    path = out / "_core_wrapper.c"
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its life story otherwise
        ffi.emit_c_code(str(path))
    return path


def python_include() -> list[str]:
    """Include flags for Python.h.

    Raises:
        ToolchainError: this Python came without its headers.
    """
    folders = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any((Path(f) / "Python.h").is_file() for f in folders):
        raise tc.ToolchainError(
            f"cannot build ane-native: Python.h was not found in {', '.join(sorted(folders))}\n"
            "This puts it right on Debian and Ubuntu:\n    sudo apt-get install python3-dev"
        )
    return [f"-I{f}" for f in sorted(folders)]


def common_flags(gcd: Any, sanitize: str) -> list[str]:
    level = ["-O1" if sanitize else "-O2", *tc.sanitize_flags(sanitize)]
    return [*level, *COMMON, *gcd.flags(), f"-I{HERE}"]


def units(out: Path, gcd: Any, sanitize: str) -> list[Any]:
    """The object files of the core, without the wrapper for Python."""
    made = []
    for source in sources(gcd.name == "bundled"):
        objc = tc.objc_flags() if source.suffix == ".m" else []
        flags = (*common_flags(gcd, sanitize), *objc, *tc.env_flags("CFLAGS"))
        made.append(tc.Unit(source, out / f"{source.name}.o", flags))
    return made


def python_units(out: Path, gcd: Any, sanitize: str) -> list[Any]:
    """The object files that need Python: cffi's wrapper, whose warnings are not ours to act on, and
    ``_core_arrays.c``."""
    flags = (*common_flags(gcd, sanitize), *python_include())
    arrays = (*flags, "-DANE_LIMITED_API") if limited_api() else flags
    return [
        tc.Unit(write_wrapper(out), out / "_core_wrapper.c.o", (*flags, "-w")),
        tc.Unit(HERE / FOR_PYTHON, out / f"{FOR_PYTHON}.o", (*arrays, *tc.env_flags("CFLAGS"))),
    ]


def build(out: Path | None = None, gcd_choice: str | None = None, sanitize: str = "") -> Path:
    """Build the extension module and return its path (inside the build directory).

    Args:
        out: build directory.
        gcd_choice: "bundled", "system" or None, see _toolchain.gcd().
        sanitize: "address,undefined", "thread" or "".

    Raises:
        ToolchainError: a tool is missing or a file does not compile.
    """
    gcd = tc.gcd(gcd_choice)
    out = out or default_out(gcd.name, sanitize)
    tc.probe_objc(out)  # what is missing is said before anything is compiled
    with tc.build_lock(out):
        made = [*units(out, gcd, sanitize), *python_units(out, gcd, sanitize)]
        tc.compile_all(made)
        if tc.MACOS:
            flags = ["-bundle", "-undefined", "dynamic_lookup"]
        else:
            flags = ["-shared"]
        flags += [*tc.sanitize_flags(sanitize), *gcd.libs(), *tc.objc_libs()]
        module: Path = out / module_name()
        tc.link([u.object for u in made], module, [*flags, *tc.env_flags("LDFLAGS")])
    return module


def main() -> int:
    """The command line: build, print what was built."""
    parser = argparse.ArgumentParser(description="Build ane_native._core.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gcd", choices=("bundled", "system"))
    parser.add_argument("--sanitize", default="")
    args = parser.parse_args()
    try:
        print(build(args.out.resolve() if args.out else None, args.gcd, args.sanitize))
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Run as a script, Python puts the package's own directory first on the path.
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != HERE]
    sys.exit(main())
