# SPDX-License-Identifier: MIT
"""compile_stall per batch: what a training thread loses to compiling, by staleness and size.

    python benchmarks/bench_compile_stall.py        # the table, on an M4's timing (about four minutes)
    pytest --benchmark-only benchmarks/bench_compile_stall.py

The command takes rows of the map (``map.py``): a Stories110M-shaped set on a sleeping engine, all times those
of softane's M4 profile, one process that compiles. It prints batch wall / max(compile, train)
and the stall of three policies: synchronous; staleness 1; and that of maderix/ANE pull request #23, which
swaps when a set is ready and never waits (as meant: as published its first swap frees the set
it activates).

With pytest real arithmetic runs. The measured round is one batch: micro-steps of evaluations, then the boundary. extra_info
holds the stall (p50, p99), the background compile, how much of it was hidden, and the engine
with its timing mode, so that no software figure passes for a hardware one. ``timing`` chooses
softane's model of a chip's compile and evaluation times (sleeping) where it is not ``off``.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import mil, soft

WIDTH = 256
SIZES = {"small": (4, 128, 40), "large": (8, 512, 12)}  # kernels, channels, micro-steps
BATCHES = 20
STALENESS = {"synchronous": 0, "staleness1": 1, "opportunistic": None}


def chain(count: int, channels: int) -> ane.KernelSet:
    """`count` kernels of a 1x1 convolution and a relu, each feeding the next."""
    kernels = []
    for i in range(count):
        f = mil.Function()
        x = f.input("x", (1, channels, 1, WIDTH))
        w = f.weight("w", (channels, channels, 1, 1), f"w{i}")
        f.output("y", f.relu(f.conv(x, w)))
        t = f.build()
        kernels.append(
            ane.Kernel(f"k{i}", t.text, inputs=t.inputs, outputs=t.outputs, weights=t.weights)
        )
    wires = {f"k{i + 1}.i00_x": f"k{i}.o00_y" for i in range(count - 1)}
    return ane.KernelSet(kernels, wires)


@pytest.mark.parametrize("timing", ["off", "m4"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", STALENESS)
def test_compile_stall(benchmark: Any, mode: str, size: str, timing: str) -> None:
    engine = ane.Engine()
    if timing != "off":
        if not engine.software:
            pytest.skip("real hardware has its own timing")
        soft.set("timing", timing)
    count, channels, micro_steps = SIZES[size]
    # other weights in every case: bytes the engine has seen before it would not compile again
    rng = np.random.default_rng(zlib.crc32(f"{mode} {size} {timing}".encode()))
    scale = np.float32(1 / np.sqrt(channels))
    weights = {
        f"w{i}": rng.standard_normal((channels, channels)).astype(np.float32) * scale
        for i in range(count)
    }
    names = [f"k{i}" for i in range(count)]
    stats: list[ane.BatchStats] = []
    train: list[float] = []
    with ane.DoubleBufferedTrainer(
        chain(count, channels), weights, staleness=STALENESS[mode]
    ) as trainer:
        trainer.surface("k0", "i00_x").write(rng.standard_normal((1, channels, 1, WIDTH)))

        def batch() -> None:
            begin = time.monotonic()
            for _ in range(micro_steps):
                trainer.run(names)
                trainer.micro_step()
            for w in weights.values():  # every weight changes, as in training
                w *= np.float32(0.999)
            train.append((time.monotonic() - begin) * 1e3)
            stats.append(trainer.step(weights))

        benchmark.pedantic(batch, rounds=BATCHES, warmup_rounds=2)
    measured = stats[2:]
    wall = float(np.mean([s.batch_ms for s in measured]))
    stalls = [s.compile_stall_ms for s in measured]
    compiles = [s.compile_ms for s in measured if s.compile_ms is not None]
    hidden = [s.hidden_ms for s in measured if s.hidden_ms is not None]
    trained = float(np.mean(train[2:]))
    benchmark.extra_info.update(
        train_ms=trained,
        batch_over_longer=wall / max(trained, float(np.mean(compiles))) if compiles else None,
        compile_stall_p50_ms=float(np.percentile(stalls, 50)),
        compile_stall_p99_ms=float(np.percentile(stalls, 99)),
        stall_share=sum(stalls) / sum(s.batch_ms for s in measured),
        compile_ms=float(np.median(compiles)) if compiles else None,
        hidden_percent=100 * sum(hidden) / sum(compiles) if compiles else None,
        generations_installed=len(compiles),
        max_staleness=max(s.staleness for s in measured),
        engine=engine.label,
        timing=timing,
        staleness=mode,
        size=size,
    )
    assert all(s.compile_stall_ms >= s.wait_ms for s in measured)


# =============================== The command ====================================

POLICIES = {"synchronous": "synchronous", "1": "staleness 1", "when ready": "PR #23 (when ready)"}


def main() -> int:
    """Measure and print the table."""
    sys.path.insert(0, str(Path(__file__).parent))
    from map_sleep import measure_all

    parser = argparse.ArgumentParser(description="Stall of three policies on a chip's timing.")
    parser.add_argument("--chip", default="m4")
    parser.add_argument("--micro-steps", type=int, nargs="+", default=[10, 24])
    parser.add_argument("--unpacked", action="store_true", help="60 programs instead of about ten")
    parser.add_argument("--scale", type=float, default=1.0, help="of all times, see map_sleep.py")
    parser.add_argument("--jobs", type=int, default=6, help="rows at once; they sleep")
    args = parser.parse_args()
    case = {"chip": args.chip, "packed": not args.unpacked, "workers": 0, "scale": args.scale}
    cases = [{**case, "accumulate": n, "policy": p} for n in args.micro_steps for p in POLICIES]
    print(f"{args.chip}, ms of its profile, {'60 programs' if args.unpacked else 'packed'}")
    columns = {
        "micro-steps": 11, "policy": 19, "train": 8, "compile": 8, "batch": 8, "batch / longer": 14,
        "stall p50": 9, "p99": 8, "staleness": 9, "asked": 7,
    }  # fmt: skip
    print("  ".join(h.rjust(w) for h, w in columns.items()))
    for r in measure_all(cases, args.jobs):
        shown = (
            str(r["accumulate"]), POLICIES[r["policy"]], f"{r['train_ms']:,.0f}", f"{r['compile_ms']:,.0f}",
            f"{r['batch_ms']:,.0f}", f"{r['over_longer']:.3f}", f"{r['stall_p50_ms']:,.1f}",
            f"{r['stall_p99_ms']:,.1f}", f"{r['staleness_mean']:.1f}", f"{r['disturbed'] - 1:+.1%}",
        )  # fmt: skip
        print(
            "  ".join(x.rjust(w) for x, w in zip(shown, columns.values(), strict=True)), flush=True
        )
    print(
        "longer: the greater of compile and train; staleness: updates, mean; asked: how much longer"
    )
    print("than asked training or compile took (the machine; above some percent a row says little)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
