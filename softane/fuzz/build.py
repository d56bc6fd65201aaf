# SPDX-License-Identifier: MIT
"""Builds the fuzz targets with AddressSanitizer and UndefinedBehaviorSanitizer; replays or fuzzes.

    python softane/fuzz/build.py                     build all, with the regression driver, and replay the corpus
    python softane/fuzz/build.py --fuzz 60 [NAME…]   libFuzzer on each target for 60 seconds; --seed N repeats a run

What a fuzzer finds is left in softane/fuzz/crashes; keep the file when the fault is fixed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

sys.path[:0] = [str(ROOT / "softane")]
import build

SANITIZE = "address,undefined"
COVERAGE = "-fsanitize=fuzzer-no-link"
STAGES = ("base", "mil", "plan", "exec")  # what targets in C reach; those in Objective-C reach all
CORPUS = ROOT / "softane" / "tests" / "corpus"
CRASHES = HERE / "crashes"
SEEDS = HERE / "seeds"  # of targets that do not take MIL text
EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def targets(names: list[str]) -> list[Path]:
    """The fuzz_*.c and fuzz_*.m that are asked for."""
    found = sorted(HERE.glob("fuzz_*.[cm]"))
    return [p for p in found if not names or any(n in p.stem for n in names)]


def object_of(source: Path, out: Path) -> Path:
    """Where the object of a file of this directory lies."""
    return out / "obj" / source.relative_to(build.HERE).with_suffix(f"{source.suffix}.o")


def compile_all(out: Path, sources: list[Path], extra: tuple[str, ...]) -> list[Path]:
    """Objects of the engine (of all stages when a source is Objective-C), then of these sources."""
    stages = build.STAGES if any(s.suffix == ".m" for s in sources) else STAGES
    engine = [s for stage in stages for s in build.sources(stage)]
    units = [u for s in (*engine, *sources) for u in build.units_for(s, out, False, SANITIZE)]
    if "device" in stages:
        texts = build.profile_source(out)
        flags = tuple(build.flags_for(texts, False, SANITIZE))
        units.append(build.tc.Unit(texts, out / "obj" / "gen" / "profile_texts.c.o", flags))
    units = [build.tc.Unit(u.source, u.object, (*u.flags, *extra)) for u in units]
    build.tc.compile_all(units)
    return [u.object for u in units]


def link_targets(out: Path, names: list[str], fuzz: bool) -> list[Path]:
    """One program for each target."""
    mine = targets(names)
    driver = [] if fuzz else [HERE / "regression_driver.c"]
    with build.tc.build_lock(out):
        objects = compile_all(out, [*mine, *driver], (COVERAGE,) if fuzz else ())
        own = {object_of(p, out) for p in mine}
        shared = [o for o in objects if o not in own]
        plain = [o for o in shared if o.relative_to(out / "obj").parts[0] in (*STAGES, "fuzz")]
        flags = build.tc.sanitize_flags(SANITIZE) + (["-fsanitize=fuzzer"] if fuzz else [])
        programs = []
        for p in mine:
            objc = p.suffix == ".m"
            libs = build.tc.objc_libs() if objc else ["-lm", "-lpthread", "-ldl"]
            program = out / p.stem
            build.tc.link(
                [object_of(p, out), *(shared if objc else plain)], program, [*flags, *libs]
            )
            programs.append(program)
    return programs


def replay(programs: list[Path]) -> int:
    """Run every program over the corpus and past findings. Returns how many failed."""
    bad = 0
    for program in programs:
        paths = [str(p) for p in (CORPUS, SEEDS, CRASHES) if p.exists()]
        env = {**build.tc.sanitizer_options(ROOT / "tools"), **os.environ}
        done = subprocess.run(
            [program, *paths], env=env, stdout=subprocess.PIPE, text=True, check=False
        )
        print(
            f"{program.name}: {done.stdout.strip() or f'exit status {done.returncode}'}", flush=True
        )
        bad += done.returncode != 0
    return bad


def fuzz(programs: list[Path], seconds: int, work: Path, seed: int) -> int:
    """Run libFuzzer on every program. Returns how many found something."""
    CRASHES.mkdir(exist_ok=True)
    bad = 0
    for program in programs:
        found = work / "corpus" / program.name
        found.mkdir(parents=True, exist_ok=True)
        mine = SEEDS / program.name.removeprefix("fuzz_")
        seeds = [mine] if mine.is_dir() else [CORPUS / "valid", CORPUS / "errors"]
        command = [
            program, found, *seeds, f"-seed={seed}",
            f"-max_total_time={seconds}", f"-dict={HERE / 'mil.dict'}", f"-artifact_prefix={CRASHES}/{program.name}-",
            "-max_len=16384", "-timeout=20", "-rss_limit_mb=3000", "-print_final_stats=1", "-verbosity=0",
        ]  # fmt: skip
        env = {
            **build.tc.sanitizer_options(ROOT / "tools"),
            "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=1024",
            **os.environ,
        }
        done = subprocess.run(
            command, env=env, stderr=subprocess.PIPE, text=True, errors="replace", check=False
        )
        runs = EXECUTIONS.search(done.stderr)
        print(
            f"{program.name}: {runs.group(1) if runs else '?'} executions, exit status {done.returncode}, "
            f"seed {seed}",
            flush=True,
        )
        if done.returncode != 0:
            bad += 1
            print(done.stderr[-6000:])
    return bad


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build and run softane's fuzz targets.")
    parser.add_argument(
        "--fuzz", type=int, default=0, metavar="SECONDS", help="run libFuzzer on each target"
    )
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer; by default a new one")
    parser.add_argument("names", nargs="*", help="only targets whose name contains one of these")
    args = parser.parse_args()
    kind = "fuzz" if args.fuzz else "replay"
    out = ROOT / "build" / f"softane-{kind}"
    try:
        programs = link_targets(out, args.names, bool(args.fuzz))
    except build.tc.ToolchainError as error:
        print(error, file=sys.stderr)
        return 1
    if not args.fuzz:
        return 1 if replay(programs) else 0
    seed = args.seed or int.from_bytes(os.urandom(4), "little") or 1
    return 1 if fuzz(programs, args.fuzz, out, seed) else 0


if __name__ == "__main__":
    sys.exit(main())
