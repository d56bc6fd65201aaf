# SPDX-License-Identifier: MIT
"""How much of the MIL front end the corpus reaches: lines of softane/mil, file by file.

    python softane/fuzz/coverage.py [--below PERCENT]

Replays corpus, seeds and past findings through every target in C on a build with clang's coverage.
Exit status 1 when the share of lines is below PERCENT [90].
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# fuzz/build.py under another name: it imports softane/build.py as "build" itself
spec = importlib.util.spec_from_file_location("fuzz_targets", Path(__file__).with_name("build.py"))
assert spec is not None
assert spec.loader is not None
targets = importlib.util.module_from_spec(spec)
spec.loader.exec_module(targets)

FLAGS = ("-fprofile-instr-generate", "-fcoverage-mapping")


def tool(name: str) -> str:
    """A tool of the compiler in use, which must be of its version."""
    beside = Path(shutil.which(targets.build.tc.compiler()[0]) or "").resolve().parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise targets.build.tc.ToolchainError(f"{name} is missing: it comes with clang")
    return found


def link(out: Path) -> list[Path]:
    """Every target in C with the replaying driver, instrumented, without sanitizers."""
    tc = targets.build.tc
    mine = [p for p in targets.targets([]) if p.suffix == ".c"]
    engine = [s for stage in targets.STAGES for s in targets.build.sources(stage)]
    units = []
    for source in (*engine, targets.HERE / "regression_driver.c", *mine):
        for unit in targets.build.units_for(source, out, True, ""):
            units.append(tc.Unit(unit.source, unit.object, (*unit.flags, *FLAGS)))
    programs = []
    with tc.build_lock(out):
        tc.compile_all(units)
        own = {targets.object_of(p, out) for p in mine}
        shared = [u.object for u in units if u.object not in own]
        for p in mine:
            programs.append(out / p.stem)
            libs = ["-fprofile-instr-generate", "-lm", "-lpthread", "-ldl"]
            tc.link([targets.object_of(p, out), *shared], programs[-1], libs)
    return programs


def measure(out: Path, programs: list[Path]) -> list[tuple[str, int, int]]:
    """(file, lines reached, lines) for every file of softane/mil."""
    raw = []
    paths = [str(p) for p in (targets.CORPUS, targets.SEEDS, targets.CRASHES) if p.exists()]
    for program in programs:
        raw.append(out / f"{program.name}.profraw")
        env = {**os.environ, "LLVM_PROFILE_FILE": str(raw[-1])}
        subprocess.run([program, *paths], env=env, stdout=subprocess.DEVNULL, check=True)
    merged = out / "all.profdata"
    subprocess.run([tool("llvm-profdata"), "merge", "-o", merged, *raw], check=True)
    objects = [w for p in programs[1:] for w in ("-object", str(p))]
    command = [tool("llvm-cov"), "export", "-summary-only", f"-instr-profile={merged}"]
    text = subprocess.run(
        [*command, str(programs[0]), *objects], stdout=subprocess.PIPE, check=True
    ).stdout
    rows = []
    for file in json.loads(text)["data"][0]["files"]:
        path, lines = Path(file["filename"]), file["summary"]["lines"]
        if path.parent.name == "mil":
            rows.append((path.name, lines["covered"], lines["count"]))
    return sorted(rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Line coverage of softane/mil by the corpus.")
    parser.add_argument("--below", type=float, default=90, metavar="PERCENT")
    args = parser.parse_args()
    out = targets.ROOT / "build" / "softane-coverage"
    try:
        rows = measure(out, link(out))
    except targets.build.tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    for name, reached, lines in rows:
        print(f"{name:20} {reached:5} of {lines:5}  {100 * reached / max(lines, 1):5.1f} %")
    reached, lines = sum(r[1] for r in rows), sum(r[2] for r in rows)
    share = 100 * reached / max(lines, 1)
    print(f"{'softane/mil':20} {reached:5} of {lines:5}  {share:5.1f} %")
    return 1 if share < args.below else 0


if __name__ == "__main__":
    sys.exit(main())
