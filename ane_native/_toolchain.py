# SPDX-License-Identifier: MIT
"""Finds the compiler, GNUstep and libdispatch, and compiles C and Objective-C incrementally.

Used while building (setup.py, _core_build.py, softane/build.py, tools/), by file and
not through the package: it imports the standard library only and knows neither the
core nor softane. What it finds is cached for the life of the process; nothing here
is needed once the package is built.

    compiler()      a clang; gcc does not speak the Objective-C used here
    objc_flags()    flags for .m files, objc_libs() what to link with them
    gcd()           a libdispatch, or the decision to compile the bundled one
    compile_all()   sources -> objects, only what changed, several at a time
    link()          objects -> shared library or program, swapped in atomically
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MACOS = sys.platform == "darwin"

FIX_LINUX = "sudo apt-get install clang libgnustep-base-dev"
MAX_LINES = 60  # of a failing compiler that are shown
FIX_MACOS = "xcode-select --install"


class ToolchainError(Exception):
    """Something to build with is missing, or did not do its work; str() is for the user."""


def missing(what: str) -> ToolchainError:
    """The one message for everything that a package manager can put right."""
    fix = FIX_MACOS if MACOS else FIX_LINUX
    return ToolchainError(
        f"cannot build ane-native: {what}\nThis puts it right on {system_name()}:\n    {fix}"
    )


def system_name() -> str:
    return "macOS" if MACOS else "Debian and Ubuntu (other systems: the packages of that name)"


# ============================== Compiler ==================================== #


def is_clang(command: str) -> bool:
    """True when `command` can be run and is some clang."""
    try:
        out = subprocess.run(
            [*shlex.split(command), "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return out.returncode == 0 and "clang" in out.stdout


def numbered_clangs() -> list[str]:
    """Every clang-NN of the search path, the newest first."""
    found: set[str] = set()
    for folder in os.get_exec_path():
        with contextlib.suppress(OSError):
            found.update(n for n in os.listdir(folder) if re.fullmatch(r"clang-\d+", n))
    return sorted(found, key=lambda n: -int(n.split("-")[1]))


@functools.cache
def compiler() -> list[str]:
    """The clang to use: $CC if that is one, clang, the newest clang-NN, then a Swift toolchain's.

    Raises:
        ToolchainError: there is none.
    """
    names = [os.environ.get("CC", ""), "clang", *numbered_clangs()]
    names += [str(root / "usr/bin/clang") for root in swift_roots()]
    for name in names:
        if name and is_clang(name):
            return shlex.split(name)
    raise missing("no clang was found (gcc cannot compile the Objective-C used here)")


# ============================== GNUstep ===================================== #


def gcc_dir() -> Path | None:
    """The newest GCC directory that holds the Objective-C runtime's headers."""
    found = [p.parents[2] for p in Path("/usr/lib/gcc").glob("*/*/include/objc/objc.h")]

    def version(path: Path) -> list[int]:
        return [int(n) for n in re.findall(r"\d+", path.name)]

    machine = os.uname().machine
    native = [p for p in found if p.parent.name.startswith(machine)] or found
    return max(native, key=version, default=None)


@functools.cache
def gnustep_include() -> Path:
    """The directory that holds Foundation/Foundation.h.

    Raises:
        ToolchainError: GNUstep Base is not installed for development.
    """
    places = [Path("/usr/include/GNUstep"), Path("/usr/local/include/GNUstep")]
    places += Path("/usr/include").glob("*/GNUstep")
    config = shutil.which("gnustep-config")
    if config:
        for domain in ("SYSTEM", "LOCAL"):
            out = subprocess.run(
                [config, f"--variable=GNUSTEP_{domain}_HEADERS"],
                capture_output=True,
                text=True,
                check=False,
            )
            if out.stdout.strip():
                places.append(Path(out.stdout.strip()))
    for place in places:
        if (place / "Foundation/Foundation.h").is_file():
            return place
    raise missing("GNUstep's Foundation headers were not found (Foundation/Foundation.h)")


@functools.cache
def objc_flags() -> list[str]:
    """Flags that every Objective-C file needs: the dialect, and where its headers are."""
    if MACOS:
        return []
    flags = shlex.split(
        "-fobjc-runtime=gcc -fexceptions -fobjc-exceptions -D_NATIVE_OBJC_EXCEPTIONS "
        "-fconstant-string-class=NSConstantString "
        "-DGNUSTEP -DGNUSTEP_BASE_LIBRARY=1 -DGNU_RUNTIME=1"
    )
    flags += ["-isystem", str(gnustep_include())]
    gcc = gcc_dir()
    if gcc:
        flags += ["-idirafter", str(gcc / "include")]
    elif not Path("/usr/include/objc/objc.h").is_file():
        raise missing("the headers of the Objective-C runtime were not found (objc/objc.h)")
    return flags


@functools.cache
def objc_libs() -> list[str]:
    """What a program with Objective-C in it is linked with."""
    if MACOS:
        return ["-framework", "Foundation", "-lobjc"]
    gcc = gcc_dir()
    libs = ["-lgnustep-base", "-lobjc", "-ldl", "-lpthread", "-lm"]
    return [f"-L{gcc}", *libs] if gcc and (gcc / "libobjc.so").exists() else libs


PROBE = """#import <Foundation/Foundation.h>
int main(void) { @autoreleasepool { return [@"x" length] != 1; } }
"""


def probe_objc(folder: Path) -> None:
    """Make sure that an Objective-C program compiles and links; remembered in `folder`.

    Raises:
        ToolchainError: it does not: part of the Objective-C runtime is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, stamp = folder / "probe.m", folder / "probe.cmd"
    command = [*compiler(), *objc_flags(), str(source), *objc_libs(), "-o", str(folder / "probe")]
    with contextlib.suppress(OSError):
        if stamp.read_text() == fingerprint(command):
            return
    source.write_text(PROBE)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = re.findall(r".*(?:cannot find|undefined|not found|error:).*", done.stderr)
        why = said[0] if said else done.stderr.strip()[:200]
        raise missing(f"a small Objective-C program does not compile and link\n({why})")
    stamp.write_text(fingerprint(command))


# ============================== GCD ========================================= #


@dataclass(frozen=True)
class Gcd:
    """Where Grand Central Dispatch comes from."""

    name: str  # "libdispatch" or "bundled", reported by the core
    library: Path | None = None  # the libdispatch.so; None on a Mac and when bundled

    def flags(self) -> list[str]:
        own = ["-DANE_GCD_BUNDLED=1"] if self.name == "bundled" else []
        return [f'-DANE_GCD_NAME="{self.name}"', *own]

    def libs(self) -> list[str]:
        if self.library is None:
            return []
        return [str(self.library), f"-Wl,-rpath,{self.library.parent}"]


def swift_roots() -> list[Path]:
    """Swift toolchains: directories that hold usr/bin/swift. May be empty."""
    roots = []
    if os.environ.get("SWIFT_TOOLCHAIN"):
        named = Path(os.environ["SWIFT_TOOLCHAIN"])
        roots += [named, named.parent]  # both TOOLCHAIN and TOOLCHAIN/usr may have been meant
    swift = shutil.which("swift")
    if swift:
        roots.append(Path(swift).resolve().parents[2])
    roots.append(Path("/opt/swift"))
    return [r for r in roots if (r / "usr").is_dir()]


def dispatch_candidates() -> Iterator[Path]:
    """Every place where a libdispatch.so is looked for, best first."""
    folders = [r / "usr/lib/swift/linux" for r in swift_roots()]
    folders += [Path(p) for p in ("/usr/libexec/swift/lib/swift/linux", "/usr/lib/swift/linux")]
    multiarch = f"{os.uname().machine}-linux-gnu"
    folders += [Path(p) for p in (f"/usr/lib/{multiarch}", "/usr/lib64", "/usr/lib")]
    folders += [Path("/usr/local/lib")]
    for folder in folders:
        yield folder / "libdispatch.so"
    for root in (Path("/usr/libexec"), Path("/usr/lib")):  # Debian's swiftlang-N
        yield from sorted(root.glob("swift*/lib/swift/linux/libdispatch.so"), reverse=True)


def usable_dispatch(path: Path) -> bool:
    """True when the library loads on this machine and has what _gcd.h declares."""
    if not path.is_file():
        return False
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return False
    needed = ("dispatch_async_f", "dispatch_group_async_f", "dispatch_apply_f", "dispatch_once_f")
    return all(hasattr(library, name) for name in needed)


@functools.cache
def gcd(choice: str | None = None) -> Gcd:
    """Decide between a libdispatch and the bundled file.

    Args:
        choice: "bundled", "system", or None/"" for $ANE_NATIVE_GCD, and without that for
            "system if there is one".

    Raises:
        ToolchainError: "system" was asked for and there is none, or an unknown word.
    """
    choice = choice or os.environ.get("ANE_NATIVE_GCD", "")
    if choice not in ("", "bundled", "system"):
        raise ToolchainError(f"ANE_NATIVE_GCD must be 'bundled' or 'system', not '{choice}'")
    if choice == "bundled":
        return Gcd("bundled")
    if MACOS:
        return Gcd("libdispatch")
    for path in dispatch_candidates():
        if usable_dispatch(path):
            return Gcd("libdispatch", path)
    if choice == "system":
        raise ToolchainError(
            "ANE_NATIVE_GCD=system, but no libdispatch.so was found. Install a Swift toolchain "
            "and name it in SWIFT_TOOLCHAIN (the directory that holds usr/bin/swift), or unset "
            "ANE_NATIVE_GCD to use the bundled one."
        )
    return Gcd("bundled")


# ============================== Compiling =================================== #


@dataclass(frozen=True)
class Unit:
    """One object file to make."""

    source: Path
    object: Path
    flags: tuple[str, ...] = ()


def command_for(unit: Unit) -> list[str]:
    made = ["-MMD", "-MF", str(unit.object.with_suffix(".d")), "-c", str(unit.source)]
    return [*compiler(), *unit.flags, *made, "-o", str(unit.object)]


def fingerprint(command: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(command).encode()).hexdigest()


def up_to_date(unit: Unit, command: Sequence[str]) -> bool:
    """True when the object is newer than all it was made from, and made by this command."""
    try:
        made = unit.object.stat().st_mtime_ns
        if unit.object.with_suffix(".cmd").read_text() != fingerprint(command):
            return False
        depends = unit.object.with_suffix(".d").read_text()
        names = depends.partition(":")[2].replace("\\\n", " ")
        for name in re.split(r"(?<!\\)\s+", names.strip()):
            if Path(name.replace("\\ ", " ")).stat().st_mtime_ns >= made:
                return False
    except OSError:
        return False
    return True


def run(command: Sequence[str], what: str) -> None:
    """Run a compiler; pass its warnings on.

    Raises:
        ToolchainError: it failed; the text holds the command and all it said.
    """
    if os.environ.get("V"):
        print(shlex.join(command), flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stdout.splitlines()
        if len(lines) > MAX_LINES:
            lines[MAX_LINES:] = [f"... and {len(lines) - MAX_LINES} lines more"]
        raise ToolchainError("\n".join([f"{what} failed:", shlex.join(command), *lines]))
    if done.stdout:
        print(done.stdout, end="", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """One whole line, also when several threads speak."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def compile_one(unit: Unit) -> bool:
    """Compile unless nothing changed. Returns True when the compiler ran."""
    command = command_for(unit)
    if up_to_date(unit, command):
        return False
    unit.object.parent.mkdir(parents=True, exist_ok=True)
    stamp = unit.object.with_suffix(".cmd")
    stamp.unlink(missing_ok=True)
    say(f"  compile {unit.source.name} -> {unit.object.name}")
    run(command, f"compiling {unit.source}")
    stamp.write_text(fingerprint(command))
    return True


def compile_all(units: Sequence[Unit]) -> bool:
    """Compile what changed, at least two at a time. Returns True when anything was compiled.

    Raises:
        ToolchainError: with the messages of every file that failed.
    """
    objects = [u.object for u in units]
    if len(set(objects)) != len(objects):
        raise ToolchainError("two sources would make the same object file")

    def attempt(unit: Unit) -> bool | ToolchainError:
        try:
            return compile_one(unit)
        except ToolchainError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        results = list(pool.map(attempt, units))
    errors = [str(r) for r in results if isinstance(r, ToolchainError)]
    if errors:
        raise ToolchainError("\n".join(errors))
    return any(results)


def link(objects: Sequence[Path], out: Path, flags: Sequence[str] = ()) -> bool:
    """Link when an object changed. A running process keeps the file it has mapped.

    Returns True when the linker ran.
    """
    fresh = out.with_name(f"{out.name}.new")
    if "-shared" not in flags and "-fsanitize=thread" in flags:
        flags = [*flags, *thread_sanitizer_libs()]
    command = [*compiler(), *map(str, objects), *flags, "-o", str(fresh)]
    stamp = out.with_name(f"{out.name}.cmd")
    newest = max((o.stat().st_mtime_ns for o in objects), default=0)
    scripts = [f.partition("=")[2] for f in flags if f.startswith("-Wl,--version-script=")]
    newest = max([newest, *(Path(s).stat().st_mtime_ns for s in scripts)])
    with contextlib.suppress(OSError):
        if out.stat().st_mtime_ns > newest and stamp.read_text() == fingerprint(command):
            return False
    out.parent.mkdir(parents=True, exist_ok=True)
    say(f"  link    {out.name}")
    run(command, f"linking {out.name}")
    os.replace(fresh, out)
    stamp.write_text(fingerprint(command))
    return True


def sanitize_flags(kinds: str) -> list[str]:
    """Compiler and linker flags for "address,undefined" or "thread"; "" gives none."""
    if not kinds:
        return []
    return [f"-fsanitize={kinds}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]


def link_thread_sanitizer(clang: Sequence[str], libs: Sequence[str] = ()) -> str:
    """What is said when an empty program is linked with the thread sanitizer; "" when it works."""
    with tempfile.TemporaryDirectory(prefix="ane-tsan-") as folder:
        source, program = Path(folder) / "empty.c", Path(folder) / "empty"
        source.write_text("int main(void) { return 0; }\n")
        command = [*clang, "-fsanitize=thread", str(source), *libs, "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr or "no reason was given"


@functools.cache
def thread_sanitizer_libs() -> tuple[str, ...]:
    """What a program under the thread sanitizer is linked with besides: nothing, or, where the
    runtime stands before libdispatch (a Swift toolchain's clang), that and the blocks runtime. The
    program itself goes on using the GCD it was built with.

    Raises:
        ToolchainError: it cannot be linked; what is missing, and which clang of this system can.
    """
    said = link_thread_sanitizer(compiler())
    if not said:
        return ()
    needs_dispatch = "dispatch" in said or "_Block" in said
    if needs_dispatch:
        for library in dispatch_candidates():
            blocks = library.parent / "libBlocksRuntime.so"
            if not (library.is_file() and blocks.is_file()):
                continue
            libs = (str(library), str(blocks), f"-Wl,-rpath,{library.parent}")
            if not link_thread_sanitizer(compiler(), libs):
                return libs
    lines = [f"no program links under the thread sanitizer of {shlex.join(compiler())}:"]
    if needs_dispatch:
        folders = dict.fromkeys(str(c.parent) for c in dispatch_candidates())
        lines += [
            "its runtime needs libdispatch.so and libBlocksRuntime.so, in one directory; none of",
            f"these has both, in a form that fits: {', '.join(folders)}",
        ]
    else:
        lines += said.splitlines()[:5]
    others = [c for c in numbered_clangs() if is_clang(c) and not link_thread_sanitizer([c])]
    lines.append("This puts it right:")
    if others:
        lines.append(f"    CC={others[0]} make tsan")
    elif needs_dispatch:
        lines.append(
            "    SWIFT_TOOLCHAIN=DIR make tsan     (the directory that holds usr/bin/swift)"
        )
    if not others and not MACOS:
        lines.append("    sudo apt-get install clang-14 && CC=clang-14 make tsan")
    raise ToolchainError("\n".join(lines))


def sanitizer_options(folder: Path) -> dict[str, str]:
    """Environment under which sanitizers are silent about libraries that are not ours."""
    return {
        f"{kind.upper()}_OPTIONS": f"suppressions={folder / kind}.supp:print_suppressions=0"
        for kind in ("lsan", "tsan")
    }


def env_flags(name: str) -> list[str]:
    """Extra flags of the user, such as $CFLAGS."""
    return shlex.split(os.environ.get(name, ""))


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """One build at a time in a build directory; a second one waits for the first."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install(made: Path, target: Path) -> Path:
    """Copy a built file to where it is used, atomically, unless it is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if made.resolve() == target.resolve():
        return target
    if target.is_file() and target.read_bytes() == made.read_bytes():
        return target
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(made, fresh)
    os.replace(fresh, target)
    return target
