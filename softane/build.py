# SPDX-License-Identifier: MIT
"""Builds libsoftane.so and softane's C tests with clang; no make, no cmake.

    python softane/build.py [--out DIR] [--debug] [--sanitize KINDS] [--tests] [--tools]

Also imported by setup.py and by the tools. Compiles every .c and .m below
the stage directories; a new file needs no entry anywhere. Files exec/k_*.c are
compiled once per kernel variant (SA_ISA=base, v3, v4 on x86-64). The device profiles
(profiles/*.profile) become one C file of string constants. Only what changed is
compiled again. There is no macOS build of softane yet: there the real engine is used.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

sys.path.append(str(ROOT / "ane_native"))  # for this one file; the package is not imported
import _toolchain as tc

STAGES = ("base", "mil", "plan", "exec", "device", "surface", "facade")


COMMON = ["-std=gnu11", "-g", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-D_GNU_SOURCE="]
NUMERIC = ["-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
C_ONLY = ["-Wconversion", "-Wshadow"]
ISAS = {"base": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}


def default_out(debug: bool = False, sanitize: str = "") -> Path:
    """Where a kind of build lives: kinds never share objects."""
    parts = ["softane", *(["debug"] if debug else []), *(sanitize.split(",") if sanitize else [])]
    return ROOT / "build" / "-".join(parts)


def flags_for(source: Path, debug: bool, sanitize: str) -> list[str]:
    level = "-O1" if sanitize else "-O0" if debug else "-O3"
    flags = [level, *COMMON, *NUMERIC, f"-I{HERE}", f"-I{HERE / 'include'}"]
    flags += tc.objc_flags() if source.suffix == ".m" else C_ONLY
    if sanitize or debug:
        flags.append("-Wno-pass-failed")  # "loop not vectorized": not asked for here
    return flags + tc.sanitize_flags(sanitize) + tc.env_flags("CFLAGS")


def units_for(source: Path, out: Path, debug: bool, sanitize: str) -> list:
    """The objects of one source: one, or one per variant for a vector kernel."""
    flags = flags_for(source, debug, sanitize)
    stem = out / "obj" / source.relative_to(HERE)
    if source.parent.name == "exec" and source.name.startswith("k_"):
        x86 = platform.machine() in ("x86_64", "AMD64")
        isas = ISAS if x86 else {"base": []}
        return [
            tc.Unit(source, stem.with_suffix(f".{isa}.o"), (*flags, f"-DSA_ISA={isa}", *extra))
            for isa, extra in isas.items()
        ]
    return [tc.Unit(source, stem.with_suffix(f"{source.suffix}.o"), tuple(flags))]


def sources(folder: str) -> list[Path]:
    found = [p for p in (HERE / folder).rglob("*") if p.suffix in (".c", ".m")]
    return sorted(p for p in found if "tests" not in p.parts or folder == "tests")


def c_string(text: str) -> str:
    """One C string literal per line of `text`."""
    lines = []
    for line in text.splitlines(keepends=True):
        escaped = line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'    "{escaped}"')
    return "\n".join(lines) or '    ""'


def profile_source(out: Path) -> Path:
    """Write the profiles as C constants below `out`, if they changed; default comes first."""
    files = sorted(
        (HERE / "profiles").glob("*.profile"), key=lambda p: (p.stem != "default", p.stem)
    )
    if not files or files[0].stem != "default":
        raise tc.ToolchainError(f"default.profile is missing under {HERE / 'profiles'}")
    parts = [
        "/* Made by softane/build.py from softane/profiles; do not edit. */",
        '#include "device/device.h"\n',
    ]
    rows = []
    for i, path in enumerate(files):
        parts.append(f"static const char text_{i}[] =\n{c_string(path.read_text('ascii'))};\n")
        rows.append(f'    {{"{path.stem}", text_{i}, sizeof text_{i} - 1}},')
    parts += ["const SaProfileText sa_profile_texts[] = {", *rows, "    {0, 0, 0},", "};", ""]
    text, made = "\n".join(parts), out / "gen" / "profile_texts.c"
    if not made.is_file() or made.read_text() != text:
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(text)
    return made


def compile_objects(out: Path, debug: bool, sanitize: str) -> list[Path]:
    units = [
        unit
        for stage in STAGES
        for source in sources(stage)
        for unit in units_for(source, out, debug, sanitize)
    ]
    if not units:
        raise tc.ToolchainError(f"there are no sources of softane under {HERE}")
    texts = profile_source(out)
    flags = tuple(flags_for(texts, debug, sanitize))
    units.append(tc.Unit(texts, out / "obj" / "gen" / "profile_texts.c.o", flags))
    tc.compile_all(units)
    return [u.object for u in units]


def build(out: Path | None = None, debug: bool = False, sanitize: str = "") -> Path:
    """Build the shared library and return its path.

    Raises:
        ToolchainError: a tool is missing or a file does not compile.
    """
    if tc.MACOS:
        raise tc.ToolchainError("softane is not built on macOS yet")
    out = out or default_out(debug, sanitize)
    library = out / "libsoftane.so"
    tc.probe_objc(out)
    with tc.build_lock(out):
        objects = compile_objects(out, debug, sanitize)
        flags = ["-shared", "-Wl,-soname,libsoftane.so", *tc.sanitize_flags(sanitize)]
        if not sanitize:
            flags.append("-Wl,--no-undefined")  # the sanitizers' own symbols come later
        exports = HERE / "facade" / "exports.map"
        if exports.is_file():
            flags.append(f"-Wl,--version-script={exports}")
        tc.link(objects, library, [*flags, *tc.objc_libs(), *tc.env_flags("LDFLAGS")])
    return library


def build_tests(
    out: Path | None = None,
    debug: bool = False,
    sanitize: str = "",
    prefix: tuple[str, ...] = ("test_", "prove_"),
) -> list[Path]:
    """Build softane/tests/test_* and prove_*, one program each, and return the programs.

    With another `prefix` other programs of that directory: "bench_".

    They are linked with the objects and not with the library, so that they reach what
    the library hides: C tests with those they use, Objective-C tests with all of them
    (a class that is found by its name is used by nobody as far as a linker can see).
    """
    out = out or default_out(debug, sanitize)
    flags = [*tc.sanitize_flags(sanitize), "-Wl,--as-needed", *tc.objc_libs()]
    flags += tc.env_flags("LDFLAGS")
    programs = []
    with tc.build_lock(out):
        objects = compile_objects(out, debug, sanitize)
        archive = out / "softane.a"
        archive.unlink(missing_ok=True)
        tc.run(["ar", "rcs", str(archive), *map(str, objects)], "making softane.a")
        mine = [s for s in sources("tests") if s.name.startswith(prefix)]
        units = [u for s in mine for u in units_for(s, out, debug, sanitize)]
        tc.compile_all(units)
        for unit in units:
            program = out / "tests" / unit.source.stem
            code = objects if unit.source.suffix == ".m" else [archive]
            tc.link([unit.object, *code], program, flags)
            programs.append(program)
    return programs


TOOLS = {"softane-run": "run", "softane-dump": "dump"}
TOOL_STAGES = ("base", "mil", "plan", "exec")  # plain C: they need neither device nor facade


def build_tools(out: Path | None = None, debug: bool = False, sanitize: str = "") -> list[Path]:
    """Build the programs of softane/tools and return them: tools/softane-run, …"""
    out = out or default_out(debug, sanitize)
    flags = [*tc.sanitize_flags(sanitize), "-lm", "-ldl", "-lpthread", *tc.env_flags("LDFLAGS")]
    programs = []
    with tc.build_lock(out):
        objects = compile_objects(out, debug, sanitize)
        code = [o for o in objects if o.relative_to(out / "obj").parts[0] in TOOL_STAGES]
        # gen_ops is a program of its own, built where docs/OPS.md is checked
        parts = [s for s in sources("tools") if s.stem != "gen_ops"]
        units = {s.stem: units_for(s, out, debug, sanitize)[0] for s in parts}
        tc.compile_all(list(units.values()))
        shared = [u.object for stem, u in units.items() if stem not in TOOLS.values()]
        for name, stem in TOOLS.items():
            programs.append(out / "tools" / name)
            tc.link([units[stem].object, *shared, *code], programs[-1], flags)
    return programs


def main() -> int:
    """The command line: build, print what was built."""
    parser = argparse.ArgumentParser(description="Build softane.")
    parser.add_argument("--out", type=Path, help="build directory [build/softane]")
    parser.add_argument("--debug", action="store_true", help="no optimisation")
    parser.add_argument("--sanitize", default="", help="address,undefined or thread")
    parser.add_argument("--tests", action="store_true", help="also the C tests and benchmarks")
    parser.add_argument("--tools", action="store_true", help="also softane-run and softane-dump")
    args = parser.parse_args()
    out = args.out.resolve() if args.out else None
    try:
        print(build(out, args.debug, args.sanitize))
        if args.tests:
            for prefix in (("test_", "prove_"), ("bench_",)):
                for program in build_tests(out, args.debug, args.sanitize, prefix):
                    print(program)
        if args.tools:
            for program in build_tools(out, args.debug, args.sanitize):
                print(program)
    except tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
