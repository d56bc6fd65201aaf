# SPDX-License-Identifier: MIT
"""softane-cc: compiles ANE programs written for macOS, so that they run on softane.

    softane-cc prog.m -o prog              as `clang -fobjc-arc … prog.m -o prog` on a Mac

Every option of clang may be given. Apple's own are understood: -framework NAME, -F,
-arch, -isysroot, -mmacosx-version-min, -ObjC and the like are dropped, because what
they ask for is always there or never; a framework that is missing here is named in a
warning. Own options:

    --help        this text
    --print       show the compiler command
    --paths       show where headers, library and engine are, and stop

Environment: CC, SWIFT_TOOLCHAIN, ANE_NATIVE_GCD as for building ane-native;
SOFTANE_LIBRARY a libsoftane.so; SOFTANE_SDK_BUILD where the SDK's library is made.
What works and what does not is told in docs/SDK.md.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc

# ============================== Options ===================================== #

FRAMEWORKS = {
    "Accelerate",
    "AppleNeuralEngine",
    "Cocoa",
    "CoreFoundation",
    "Foundation",
    "IOKit",
    "IOSurface",
    "vecLib",
}
DROP = {
    "-ObjC",
    "-dead_strip",
    "-fapplication-extension",
    "-fcxx-modules",
    "-fmodules",
    "-fobjc-link-runtime",
    "-lSystem",
    "-ldl",
    "-lobjc",
    "-lpthread",
    "-no_compact_unwind",
}
DROP_WITH_VALUE = {"-F", "-arch", "-iframework", "-isysroot", "-target", "-weak_library"}
DROP_PREFIX = (
    "-F/",
    "-F.",
    "-F~",
    "-Wl,-dead_strip",
    "-Wl,-framework",
    "-Wl,-no_",
    "-Wl,-sectcreate",
    "-Wl,-stack_size",
    "-Wl,-undefined",
    "-fmodule",
    "-iframework",
    "-mmacos-version-min=",
    "-mmacosx-version-min=",
    "-miphoneos-version-min=",
    "-stdlib=libc++",
    "--target=",
)
DROP_ON_X86 = ("-mcpu=", "-march=arm", "-mtune=apple")
TAKES_VALUE = {"-o", "-x", "-D", "-U", "-I", "-L", "-l", "-include", "-isystem", "-idirafter"}
TAKES_VALUE |= {"-MF", "-MT", "-MQ", "-Xclang", "-Xlinker", "-Xpreprocessor", "-T", "-u", "-z"}
NO_LINK = {"-c", "-S", "-E", "-fsyntax-only", "-M", "-MM"}
CPLUSPLUS = {".mm", ".cpp", ".cc", ".cxx", ".C"}


@dataclass
class Request:
    """What the command line asks for, without what is Apple's."""

    args: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    link: bool = True
    cplusplus: bool = False
    show: bool = False


def missing_framework(name: str) -> list[str]:
    if name in FRAMEWORKS:
        return []
    return [f"there is no framework {name} here; programs that need it do not link"]


def read_args(argv: Sequence[str]) -> Request:
    """Sort the command line.

    Raises:
        ToolchainError: an option lacks its value.
    """
    r = Request()
    words = iter(argv)
    x86 = platform.machine() in ("x86_64", "AMD64")

    def value(option: str) -> str:
        try:
            return next(words)
        except StopIteration:
            raise tc.ToolchainError(f"softane-cc: {option} wants a value") from None

    for word in words:
        if word in ("-framework", "-weak_framework", "-needed_framework"):
            r.warnings += missing_framework(value(word))
        elif word == "--print":
            r.show = True
        elif word in DROP_WITH_VALUE:
            value(word)
        elif word in DROP or word.startswith(DROP_PREFIX):
            continue
        elif x86 and word.startswith(DROP_ON_X86):
            continue
        elif word.startswith("-Wl,-rpath,@"):
            continue
        elif word in TAKES_VALUE:
            r.args += [word, value(word)]
        elif word.startswith("-"):
            r.link = r.link and word not in NO_LINK
            r.args.append(word)
        else:
            r.cplusplus |= Path(word).suffix in CPLUSPLUS
            r.inputs.append(word)
            r.args.append(word)
    return r


# ============================== Compiling =================================== #


def native_half() -> bool:
    """Does this compiler know _Float16 here?"""
    done = subprocess.run(
        [*tc.compiler(), "-dM", "-E", "-x", "c", "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "__FLT16_MAX__" in done.stdout


def half_flags() -> list[str]:
    """__fp16 and _Float16, the second as another name of the first where it is unknown."""
    flags = []
    if not native_half():
        flags = ["-Xclang", "-fallow-half-arguments-and-returns", "-D_Float16=__fp16"]
    with contextlib.suppress(OSError):
        if " f16c " in Path("/proc/cpuinfo").read_text():
            flags.append("-mf16c")
    return flags


def objc_flags(runtime: str) -> list[str]:
    """The dialect and the headers: the SDK's before GNUstep's, GCC's not at all."""
    flags = "-fblocks -fexceptions -fobjc-exceptions -D_NATIVE_OBJC_EXCEPTIONS "
    flags += "-fconstant-string-class=NSConstantString "
    flags += "-DGNUSTEP -DGNUSTEP_BASE_LIBRARY=1 -DGNU_RUNTIME=1 -D_GNU_SOURCE"
    headers = ["-isystem", str(HERE / "include"), "-isystem", str(tc.gnustep_include())]
    return [f"-fobjc-runtime={runtime}", *flags.split(), *headers]


def compile_flags() -> list[str]:
    """What turns clang on Linux into a compiler of macOS programs.

    GNUstep's runtime is named because clang allows ARC and subscripts for it; lib/module.c
    makes GCC's runtime, which is the one installed, understand the result.
    """
    quiet = ["-Wno-unused-command-line-argument", "-Wno-nullability-completeness"]
    return [*objc_flags("gnustep-1.6"), "-DSOFTANE_SDK=1", *quiet, *half_flags()]


# ============================== The library ================================= #


def build_dir() -> Path:
    """Where the SDK's library is made: in the checkout when that can be written to."""
    named = os.environ.get("SOFTANE_SDK_BUILD")
    kind = f"sdk-{tc.gcd().name}"
    if named:
        return Path(named).resolve() / kind
    if os.access(ROOT, os.W_OK):
        return ROOT / "build" / kind
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ane_native" / kind


def library_units(out: Path) -> list[tc.Unit]:
    """One unit per source; Objective-C ones for GCC's runtime, without ARC."""
    common = [
        "-std=gnu11",
        "-O2",
        "-g",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Wno-deprecated-declarations",
    ]
    common += ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fexceptions"]
    common += tc.env_flags("CFLAGS")
    if tc.gcd().name == "bundled":
        common.append("-DSDK_GCD_BUNDLED=1")
    sources = sorted((HERE / "lib").glob("*.[cm]"))
    half = HERE.parent / "base" / "half.c"
    units = []
    for source in [*sources, half]:
        objc = objc_flags("gcc") if source.suffix == ".m" else ["-isystem", str(HERE / "include")]
        hidden = ["-fvisibility=hidden"] if source == half else []
        target = out / f"{source.stem}{source.suffix}.o"
        units.append(tc.Unit(source, target, (*common, *objc, *hidden)))
    return units


def library() -> Path:
    """Build libsoftane_sdk.a when needed and return it."""
    out = build_dir()
    archive = out / "libsoftane_sdk.a"
    with tc.build_lock(out), contextlib.redirect_stdout(sys.stderr):
        units = library_units(out)
        if tc.compile_all(units) or not archive.is_file():
            fresh = out / f"libsoftane_sdk.{os.getpid()}.a"
            fresh.unlink(missing_ok=True)
            tc.run(["ar", "rcs", str(fresh), *(str(u.object) for u in units)], "making the library")
            os.replace(fresh, archive)
    return archive


def engine() -> Path:
    """The libsoftane.so to link.

    Raises:
        ToolchainError: it is not built.
    """
    named = os.environ.get("SOFTANE_LIBRARY")
    places = [ROOT / "ane_native/libsoftane.so", ROOT / "build/softane/libsoftane.so"]
    for place in [Path(named)] if named else places:
        if place.is_file():
            return place.resolve()
    what = named or "libsoftane.so"
    raise tc.ToolchainError(f"softane-cc: {what} is not there; build it: python softane/build.py")


def link_flags(cplusplus: bool) -> list[str]:
    """The SDK's library as a whole (nobody names its constructors), the engine, GNUstep."""
    softane = engine()
    gcd = tc.gcd().libs()
    flags = ["-Wl,--wrap=dlopen", "-Wl,--wrap=__objc_exec_class", "-Wl,--no-as-needed"]
    flags += ["-Wl,--whole-archive", str(library()), "-Wl,--no-whole-archive"]
    flags += [str(softane), f"-Wl,-rpath,{softane.parent}", *gcd, *tc.objc_libs()]
    return flags + (["-lstdc++"] if cplusplus else [])


# ============================== Command line ================================ #


def command(r: Request) -> list[str]:
    made = [*tc.compiler(), *compile_flags(), *r.args]
    return made + link_flags(r.cplusplus) if r.link and r.inputs else made


def print_paths() -> None:
    print(f"headers   {HERE / 'include'}")
    print(f"library   {library()}")
    print(f"engine    {engine()}")
    print(f"gcd       {tc.gcd().library or tc.gcd().name}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the compiler's exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or "--help" in argv:
        print(__doc__.strip(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    try:
        if tc.MACOS:
            raise tc.ToolchainError("softane-cc is for Linux; on a Mac use clang itself")
        if "--paths" in argv:
            print_paths()
            return 0
        request = read_args(argv)
        for warning in request.warnings:
            print(f"softane-cc: warning: {warning}", file=sys.stderr)
        words = command(request)
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    if request.show:
        print(shlex.join(words), file=sys.stderr)
    return subprocess.run(words, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
