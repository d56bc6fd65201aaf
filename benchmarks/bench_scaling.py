# SPDX-License-Identifier: MIT
"""What the engine's fixed point costs training, and what powers of two in the bake give back.

    python benchmarks/bench_scaling.py                 all of it, on softane; nice -n 10
    python benchmarks/bench_scaling.py --only product gradients
    python benchmarks/bench_scaling.py --keep DIR      runs that are finished there are not repeated

Four parts: the relative error of one product with K = 4096 under ``numerics=silicon``; the error
of every gradient of the model, at its initial weights and after training; the model trained with
one seed under ``fast`` and ``silicon``, with and without scaling; and what scaling costs. The tables go into
docs/SCALING.md, the curves into docs/scaling.png, the numbers into benchmarks/scaling.json.
Only the cost is a time (``--only cost``: printed, a ratio of medians of turns in one process).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ane_native as ane
from ane_native import mil, soft
from ane_native.checkpoint import load_checkpoint
from ane_native.data import fixed_windows, open_corpus
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaConfig, LlamaProgram, init_params
from ane_native.models.llama_scales import PRODUCT, fit
from ane_native.scaling import Scales
from ane_native.train import TrainConfig, train

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "SCALING.md"
PICTURE = ROOT / "docs" / "scaling.png"
NUMBERS = ROOT / "benchmarks" / "scaling.json"

Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """One way to run the model."""

    key: str
    label: str
    numerics: str
    scaling: str
    loss_scale: float
    style: str  # of its curve


SETTINGS = (
    Setting("fast", "fast, loss scale 1024", "fast", "off", 1024.0, "k-"),
    Setting("fast-auto", "fast, scaling", "fast", "auto", 1024.0, "c:"),
    Setting("silicon-auto", "silicon, scaling", "silicon", "auto", 1.0, "g--"),
    Setting("silicon", "silicon, loss scale 1024", "silicon", "off", 1024.0, "b:"),
    Setting("fast-1", "fast, no loss scale", "fast", "off", 1.0, "y:"),
    Setting("silicon-1", "silicon, no loss scale", "silicon", "off", 1.0, "r-"),
)

# =============================== One product ====================================


def product_errors(k: int = 4096, rows: int = 512, tokens: int = 256) -> dict[str, Any]:
    """Relative error of y = W x by the power of two that W carries, operands N(0, 1/K)."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((k, tokens)) / np.sqrt(k)).astype(np.float32)
    w = (rng.standard_normal((rows, k)) / np.sqrt(k)).astype(np.float32)
    exact = w.astype(np.float64) @ x.astype(np.float64)
    f = mil.Function()
    f.output(
        "y",
        f.conv(f.input("x", (1, k, 1, tokens)), f.weight("w", (rows, k, 1, 1), "w")),
    )
    text = f.build()
    kernel = ane.Kernel(
        "conv",
        text.text,
        inputs=text.inputs,
        outputs=text.outputs,
        weights=text.weights,
    )
    chosen = fit(float(np.abs(exact).max()), PRODUCT)
    errors: dict[str, float] = {}
    for numerics, exponents in (("silicon", (0, 2, 4, 6, 8)), ("fast", (0, chosen))):
        with soft.using(numerics=numerics):
            for s in sorted({*exponents, chosen}):
                with ane.Program(kernel, {"w": w * np.float32(2.0**s)}) as program:
                    y = program.eval(x.reshape(1, k, 1, tokens)).reshape(rows, tokens)
                y = y.astype(np.float64) * 2.0**-s
                error = float(np.linalg.norm(y - exact) / np.linalg.norm(exact))
                errors[f"{numerics} {s}"] = error
    return {"k": k, "chosen": chosen, "errors": errors}


# =============================== Gradients ======================================


def gradients(
    model: LlamaConfig,
    params: dict[str, Float],
    windows: Sequence[Any],
    numerics: str,
    loss_scale: float,
    chosen: dict[str, int] | None,
) -> tuple[float, dict[str, Float], dict[str, int]]:
    """Mean loss and gradients over some windows; and what scaling would choose next."""
    with soft.using(numerics=numerics, compile_limit=0):
        program = LlamaProgram(model, scaled=chosen is not None)
        scales, weights = None, dict(params)
        if chosen is not None:
            scales = Scales(program)
            scales.chosen = chosen or scales.chosen
            weights |= scales.tensors(0)
        with ane.DoubleBufferedTrainer(program.kernel_set(), weights) as trainer:
            grads = {n: np.zeros_like(p) for n, p in params.items()}
            step = MicroStep(program, trainer, grads, scales=scales)
            losses = []
            for x, y in windows:
                losses.append(step(x, y, loss_scale))
                assert scales is None or step.watch(), "a surface overflowed"
            if scales is not None:
                scales.choose(params, 0)
    unscale = np.float32(1.0 / (loss_scale * len(windows)))
    found = {n: g * unscale for n, g in grads.items()}
    return float(np.mean(losses)), found, {} if scales is None else scales.chosen


def gradient_errors(
    model: LlamaConfig, params: dict[str, Float], windows: Sequence[Any]
) -> dict[str, Any]:
    """Relative error of every gradient against ``fast`` with scaling, by setting."""
    _, _, chosen = gradients(model, params, windows, "fast", 1.0, {})
    _, exact, _ = gradients(model, params, windows, "fast", 1.0, chosen)
    best = model.loss_scale
    made = {}
    for label, numerics, scale, scaled in (
        ("fast, loss scale 1024", "fast", 1024.0, None),
        ("silicon, scaling", "silicon", 1.0, chosen),
        (f"silicon, loss scale {best:.0f}", "silicon", best, None),
        ("silicon, loss scale 1024", "silicon", 1024.0, None),
        ("fast, no loss scale", "fast", 1.0, None),
        ("silicon, no loss scale", "silicon", 1.0, None),
    ):
        _, found, _ = gradients(model, params, windows, numerics, scale, scaled)
        errors = {
            n: float(np.linalg.norm(found[n] - g) / np.linalg.norm(g)) for n, g in exact.items()
        }
        off = sum(float(np.sum((found[n] - g) ** 2.0)) for n, g in exact.items())
        norm = sum(float(np.sum(g**2.0)) for g in exact.values())
        worst = max(errors, key=lambda n: errors[n])
        made[label] = {
            "all": float(np.sqrt(off / norm)),
            "median": float(np.median(list(errors.values()))),
            "worst": errors[worst],
            "where": worst,
        }
    return made


# =============================== Cost ===========================================


def cost(model: LlamaConfig, numerics: str, rounds: int = 24) -> list[str]:
    """Micro-steps without and with powers of two, in turns; the choice at a boundary."""
    rng = np.random.default_rng(0)
    params = init_params(model, rng)
    window = rng.integers(0, model.vocab, model.seq + 1).astype(np.int32)
    taken: tuple[list[float], ...] = ([], [], [], [])
    with soft.using(numerics=numerics, compile_limit=0), ExitStack() as stack:
        steps = []
        for scaled in (False, True):
            program = LlamaProgram(model, scaled=scaled)
            scales = Scales(program) if scaled else None
            weights = {**params, **(scales.tensors(0) if scales else {})}
            trainer = stack.enter_context(ane.DoubleBufferedTrainer(program.kernel_set(), weights))
            grads = {n: np.zeros_like(p) for n, p in params.items()}
            steps.append(MicroStep(program, trainer, grads, scales=scales))
        assert scales is not None

        def timed(into: list[float], call: Callable[[], object]) -> None:
            begin = time.perf_counter()
            call()
            into.append(time.perf_counter() - begin)

        for i in range(rounds):
            for step, into in zip(steps, taken, strict=False):
                timed(into, lambda step=step: step(window[:-1], window[1:], 1024.0))
            timed(taken[2], steps[1].watch)
            timed(taken[3], lambda i=i: scales.choose(params, i))
    off, on, watch, choose = (1000 * float(np.median(t[1:])) for t in taken)
    return [
        f"micro-step {off:.1f} ms, with powers of two {on:.1f} ms, ratio {on / off:.3f}",
        f"at a boundary: ranges {watch:.2f} ms, choice {choose:.2f} ms",
    ]


# =============================== Training =======================================


def settings_of(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Fields of the run's TrainConfig."""
    return {
        "model": args.model,
        "updates": args.updates,
        "accumulate": args.windows,
        "valid_every": max(1, args.updates // 8),
        "valid_windows": 16,
        "lr": args.lr,
        "seed": args.seed,
        "trace_events": 0,
        "extrapolate": False,  # one thing at a time
        "scaling": setting.scaling,
        "loss_scale": setting.loss_scale,
        "loss_scale_interval": 200 if setting.loss_scale > 1 else 0,
    }


def run_setting(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Train in a process of its own, unless that was done in ``args.keep`` already."""
    folder = Path(args.keep) / setting.key
    done = folder / "finished.json"
    if not (done.exists() and json.loads(done.read_text()) == settings_of(setting, args)):
        command = [
            sys.executable,
            __file__,
            "--train",
            setting.key,
            "--keep",
            str(args.keep),
        ]
        for name in ("model", "updates", "windows", "lr", "seed"):
            command += [f"--{name}", str(getattr(args, name))]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "SOFTANE_NUMERICS": setting.numerics},
        )
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    updates = [r for r in records if r["kind"] == "update"]
    valid = {r["update"]: r["valid_loss"] for r in records if r.get("valid_loss") is not None}
    return {
        "loss": [r["loss"] for r in updates],
        "valid": valid,
        "skipped": sum(not r["applied"] for r in updates),
        "grad_norm": [r["grad_norm"] for r in updates],
    }


def train_here(key: str, args: argparse.Namespace) -> None:
    """The process of one run."""
    setting = next(s for s in SETTINGS if s.key == key)
    settings = settings_of(setting, args)
    result = train(TrainConfig(**settings), out=args.keep, name=key)
    (result.folder / "finished.json").write_text(json.dumps(settings))


# =============================== Report =========================================


def percent(x: float) -> str:
    """Three significant digits."""
    return f"{100 * x:.3g} %"


def product_table(found: dict[str, Any]) -> list[str]:
    chosen, errors = found["chosen"], found["errors"]
    lines = [f"### One product, K = {found['k']}, operands N(0, 1/K)", ""]
    lines += ["| W baked as | relative error |", "|---|--:|"]
    for name, error in errors.items():
        numerics, s = name.split()
        mark = ", the choice" if int(s) == chosen and numerics == "silicon" else ""
        lines.append(f"| W·2^{s}, {numerics}{mark} | {percent(error)} |")
    return lines


def gradient_table(when: str, found: dict[str, Any]) -> list[str]:
    lines = [f"### Error of the gradients, {when}", ""]
    lines += [
        "| setting | of all | median tensor | worst tensor | |",
        "|---|--:|--:|--:|---|",
    ]
    for label, row in found.items():
        cells = " | ".join(percent(row[k]) for k in ("all", "median", "worst"))
        lines.append(f"| {label} | {cells} | `{row['where']}` |")
    return lines


def training_table(runs: dict[str, Any], args: argparse.Namespace) -> list[str]:
    base = runs["fast"]
    lines = [
        f"### {args.model}, {args.updates} updates of {args.windows} windows, seed {args.seed}",
        "",
        "| setting | training loss, last tenth | validation | against fast | distance | skipped |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for setting in SETTINGS:
        run = runs.get(setting.key)
        if run is None:
            continue
        tenth = max(1, len(run["loss"]) // 10)
        last = list(run["valid"].values())[-1]
        apart = last - list(base["valid"].values())[-1]
        pairs = zip(run["loss"][-tenth:], base["loss"][-tenth:], strict=True)
        distance = np.mean([abs(a - b) for a, b in pairs])
        lines.append(
            f"| {setting.label} | {np.mean(run['loss'][-tenth:]):.4f} | {last:.4f} "
            f"| {apart:+.4f} | {distance:.4f} | {run['skipped']} |"
        )
    lines += [
        "",
        "Distance: mean difference of an update's loss from `fast`, last tenth of the run.",
    ]
    return lines


def draw(runs: dict[str, Any], args: argparse.Namespace) -> None:
    """Loss by update, and how far each is from ``fast``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), constrained_layout=True)
    base = np.array(runs["fast"]["loss"])
    for setting in SETTINGS:
        if setting.key not in runs:
            continue
        loss = np.array(runs[setting.key]["loss"])
        left.plot(range(1, len(loss) + 1), loss, setting.style, label=setting.label, lw=1.4)
        if setting.key != "fast":
            apart = np.maximum(np.abs(loss - base), 1e-6)
            window = min(8, len(loss))
            smooth = np.convolve(apart, np.ones(window) / window, "valid")
            at = range(window, len(loss) + 1)
            right.semilogy(at, smooth, setting.style, label=setting.label, lw=1.4)
    left.set(xlabel="update", ylabel="training loss, nats per byte")
    left.set_title(f"{args.model} on softane, seed {args.seed}")
    right.set(xlabel="update", ylabel="|loss - loss of fast|, mean of 8")
    right.set_title("distance from numerics=fast")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(PICTURE, dpi=110)


def write_page(lines: list[str]) -> None:
    """Exchange what stands between the markers."""
    begin, end = "<!-- tables begin -->", "<!-- tables end -->"
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    PAGE.write_text(head + "\n\n".join([begin, "\n".join(lines), end]) + tail, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", choices=PRESETS)
    parser.add_argument("--updates", type=int, default=160)
    parser.add_argument("--windows", type=int, default=3, help="micro-steps of an update")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", help="directory of the runs; none: a temporary one")
    parser.add_argument("--only", nargs="+", choices=("product", "gradients", "train", "cost"))
    parser.add_argument("--train", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train_here(args.train, args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        args.keep = args.keep or scratch
        report(args)


def report(args: argparse.Namespace) -> None:
    """All parts asked for; the page only where none is left out."""
    parts = args.only or ("product", "train", "gradients")
    model = PRESETS[args.model]
    numbers: dict[str, Any] = {"engine": ane.Engine().label}
    lines: list[str] = []
    if "product" in parts:
        numbers["product"] = product_errors()
        lines += [*product_table(numbers["product"]), ""]
    if "gradients" in parts:
        corpus = open_corpus(None, seq=model.seq)
        windows = fixed_windows(corpus.valid, model.seq, 2, corpus.lookup)
        params = init_params(model, np.random.Generator(np.random.PCG64(args.seed)))
        numbers["initial"] = gradient_errors(model, params, windows)
        lines += [*gradient_table("at the initial weights", numbers["initial"]), ""]
    if "train" in parts:
        runs = {s.key: run_setting(s, args) for s in SETTINGS}
        numbers["train"] = runs
        lines += [*training_table(runs, args), ""]
        draw(runs, args)
        if "gradients" in parts:
            params = load_checkpoint(Path(args.keep) / "fast").weights
            numbers["trained"] = gradient_errors(model, params, windows)
            when = f"after {args.updates} updates"
            lines += [*gradient_table(when, numbers["trained"]), ""]
    if "cost" in parts:
        lines += [
            f"{numerics}: {line}"
            for numerics in ("fast", "silicon")
            for line in cost(model, numerics)
        ]
    print("\n".join(lines))
    if not args.only:
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        write_page(lines[:-1])


if __name__ == "__main__":
    main()
