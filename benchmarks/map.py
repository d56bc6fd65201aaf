# SPDX-License-Identifier: MIT
"""The map: stall and staleness against accumulation and bound, per chip, on softane's chip timing.

python benchmarks/map.py [--scale 0.1] [--batches 6] [--json FILE] [--page docs/MAP.md]

The kernel set has the 60 baked kernels of Stories110M's published static pipeline, but tiny ones: the engine
sleeps for the mean compile and evaluation time that the chip's profile gives for the real 60
(operations, MiB and FLOP of each kind below), so totals are the profile's and the machine's
arithmetic hardly counts. The part of a micro-step that is not evaluation (the CPU's) is slept
in this process: published micro-step time less the evaluations. All times are multiplied by
--scale, and divided by it in what is printed. These are model times, not measurements of a chip.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import soft
from ane_native.checkpoint import replace_file, to_json
from ane_native.mil import Function

LAYERS = 12
# kind: (operations, MiB of weights, FLOP of an evaluation); facts of maderix/ANE's static
# pipeline (T 256, D 768, H 2048).
KINDS = {
    "fwdAttn": (25, 4.63, 1.41e9),
    "fwdFFN": (14, 9.00, 2.42e9),
    "ffnBwd": (17, 9.00, 2.42e9),
    "sdpaBwd1": (24, 1.25, 0.60e9),
    "qkvBwd": (8, 3.38, 0.91e9),
}
# Micro-step in ms, published (maderix/ANE training reports and community results; means).
CHIPS = {"m1": 150.0, "m3-ultra": 81.2, "m4": 106.7, "m4-max": 64.0, "m5": 110.0}
TIMING = ("compile_ms", "op_ms", "mib_ms", "floor_ms", "tflops")
SEEDS = iter(range(1, 1_000_000))  # of the weights: an equal program would not be compiled again
POLICIES: dict[str, int | None] = {"synchronous": 0, "1": 1, "2": 2, "4": 4, "when ready": None}


def kernels() -> ane.KernelSet:
    """60 kernels that the engine evaluates in no time."""
    made = []
    for i in range(LAYERS * len(KINDS)):
        f = Function()
        f.output("y", f.mul(f.input("x", (1, 4, 1, 32)), f.weight("g", (1, 4, 1, 1), f"g{i}")))
        m = f.build()
        made.append(
            ane.Kernel(f"k{i}", m.text, inputs=m.inputs, outputs=m.outputs, weights=m.weights)
        )
    return ane.KernelSet(made)


def profile_values(chip: str) -> dict[str, float]:
    """The timing numbers of a built-in profile."""
    for key in TIMING:
        soft.set(key, None)  # one that was set by hand would hide the profile's
    with soft.using(profile=chip):
        lines = [line.split("#")[0].split("=") for line in soft.get("profile.values").splitlines()]
    made = {}
    for key, value in ((p[0].strip(), p[1].strip()) for p in lines if len(p) == 2):
        try:
            made[key] = float(value)
        except ValueError:
            pass
    return made


def one(chip: str, accumulate: int, policy: str, batches: int, scale: float) -> dict[str, Any]:
    """Run a trainer; what it measured, in unscaled milliseconds."""
    p = profile_values(chip)
    compile_ms = statistics.mean(
        p["compile_ms"] + p["op_ms"] * ops + p["mib_ms"] * mib for ops, mib, _ in KINDS.values()
    )
    eval_ms = p["floor_ms"] + statistics.mean(f for *_, f in KINDS.values()) / p["tflops"] / 1e9
    count = LAYERS * len(KINDS)
    cpu_ms = max(0.0, CHIPS[chip] - count * eval_ms)
    ks = kernels()
    names = [k.name for k in ks.kernels]
    rng = np.random.default_rng(next(SEEDS))

    def weights() -> dict[str, Any]:
        return {n: rng.standard_normal((1, 4, 1, 1)).astype(np.float32) for n in ks.weight_names}

    rows = []
    settings = {
        "profile": chip, "timing": "on", "timing_scale": scale, "compile_limit": 0,
        "compile_ms": compile_ms, "op_ms": 0, "mib_ms": 0, "floor_ms": eval_ms, "tflops": 1e6,
    }  # fmt: skip
    with soft.using(**settings):
        with ane.DoubleBufferedTrainer(ks, weights(), staleness=POLICIES[policy]) as trainer:
            begin = time.monotonic()
            for _ in range(batches):
                start = time.monotonic()
                for _ in range(accumulate):
                    trainer.run(names)
                    time.sleep(cpu_ms * scale / 1e3)
                    trainer.micro_step()
                train = (time.monotonic() - start) * 1e3
                s = trainer.step(weights())
                if s.programs_reused:
                    raise SystemExit(f"{s.programs_reused} programs were not compiled: no figure")
                rows.append((train, s.compile_stall_ms, s.staleness, s.compile_ms))
            wall = (time.monotonic() - begin) * 1e3 / batches
    rows = rows[3:]  # before that nothing has been swapped
    compiles = [c for *_, c in rows if c is not None]
    train, compiled = statistics.mean(r[0] for r in rows), statistics.mean(compiles or [0.0])
    steady = statistics.mean(r[0] + r[1] for r in rows)
    return {
        "chip": chip, "accumulate": accumulate, "policy": policy, "batch_ms": steady / scale,
        "train_ms": train / scale, "compile_ms": compiled / scale, "wall_ms": wall / scale,
        "model_compile_ms": compile_ms * count, "model_train_ms": CHIPS[chip] * accumulate,
        "stall_ms": statistics.mean(r[1] for r in rows) / scale,
        "stall_share": sum(r[1] for r in rows) / sum(r[0] + r[1] for r in rows),
        "staleness_mean": statistics.mean(r[2] for r in rows),
        "staleness_max": max(r[2] for r in rows), "over_ideal": steady / max(train, compiled, 1e-9),
    }  # fmt: skip


def page(made: dict[str, Any]) -> str:
    """docs/MAP.md."""
    out = [
        "# Stall and staleness of a Stories110M-shaped set",
        "",
        f"Made by `python benchmarks/map.py` from `{made['json']}` (softane's chip timing, scale "
        f"{made['scale']:g}, {made['batches']} batches each, the first three left out). Model times:",
        "nobody on this project owns a Mac. The set is the 60 baked kernels of the published static",
        "pipeline as 60 tiny ones; each sleeps for the mean compile and evaluation time that the chip's",
        "profile gives for the real sizes, and the CPU's part of the published micro-step is slept, too.",
        "One process compiles; no packing, no workers. `synchronous` is staleness 0; `when ready` is the",
        "policy of maderix/ANE pull request #23. In brackets what the profile asks for: the difference is",
        "this machine.",
        "",
        "| chip | micro-steps | bound | batch ms | training ms | compile ms | stall | staleness mean, max | batch / max(compile, train) |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    if made["note"]:
        out[-2:-2] = [made["note"], ""]
    for r in made["rows"]:
        out.append(
            f"| {r['chip']} | {r['accumulate']} | {r['policy']} | {r['batch_ms']:,.0f} | "
            f"{r['train_ms']:,.0f} ({r['model_train_ms']:,.0f}) | "
            f"{r['compile_ms']:,.0f} ({r['model_compile_ms']:,.0f}) | {r['stall_share']:.1%} | "
            f"{r['staleness_mean']:.1f}, {r['staleness_max']} | {r['over_ideal']:.3f} |"
        )
    out += ["", "Settings with less than 1 % stall, and the least staleness they cost:", ""]
    for chip in dict.fromkeys(r["chip"] for r in made["rows"]):
        for n in sorted({r["accumulate"] for r in made["rows"]}):
            good = [
                r for r in made["rows"]
                if r["chip"] == chip and r["accumulate"] == n and r["stall_share"] < 0.01
            ]  # fmt: skip
            best = min(good, key=lambda r: r["staleness_mean"], default=None)
            said = (
                "none"
                if best is None
                else f"bound {best['policy']}, mean {best['staleness_mean']:.1f}"
            )
            out.append(f"* {chip}, {n} micro-steps: {said}")
    return "\n".join(out) + "\n"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Stall and staleness on softane's chip timing.")
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--chips", nargs="+", default=list(CHIPS), choices=list(CHIPS))
    parser.add_argument("--merge", type=Path, nargs="*", default=[], help="JSON of other runs")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/map.json"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--note", default="", help="a sentence about the run, for the page")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for path in args.merge:
        rows += json.loads(path.read_text())["rows"]
    for chip in [] if args.merge else args.chips:
        for accumulate in args.accumulate:
            for policy in POLICIES:
                rows.append(one(chip, accumulate, policy, args.batches, args.scale))
                print(json.dumps(rows[-1]), flush=True)
    made = {"scale": args.scale, "batches": args.batches, "rows": rows, "json": str(args.json)}
    made["note"] = args.note
    made["engine"] = ane.Engine().label
    replace_file(args.json, to_json(made))
    if args.page:
        replace_file(args.page, page(made).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
