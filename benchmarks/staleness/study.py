# SPDX-License-Identifier: MIT
"""What stale weights do to convergence: real training runs under a fixed delay.

    python benchmarks/staleness/study.py --plan small --out results.jsonl
    python benchmarks/staleness/show.py results.jsonl        # table and curves

A run trains a Llama-family model on its kernels (softane, ``numerics=fast``) with AdamW. The
delay is imposed, not timed: the trainer runs with ``staleness=0`` and is handed, at every
boundary, exactly the weights that a delayed run would be using. So a run repeats bit for bit
and says nothing about speed.

    delay n        batch k runs on the weights of update k - n (what ``staleness=n`` allows at
                   worst, and what ``staleness=1`` does)
    ready c        swap whenever ready (``staleness=None``) with compiles that take c batches:
                   the delay goes c, c + 1, ... 2c - 1, c, ...

Remedies. ``extrapolate`` bakes w + s (w - w_previous) in place of w, where s is the delay at
which the weights will first be used: AdamW's last step is its momentum's direction, so this
predicts where the masters will be by then (the idea of SpecTrain, Chen et al. 2018, for
pipelines). A smaller rate and less momentum are in the grid as such.

Results are JSON lines, one a run; a run whose line exists is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ane_native as ane
from ane_native import soft
from ane_native.data import WindowSampler, fixed_windows, open_corpus
from ane_native.microstep import MicroStep
from ane_native.models.llama import PRESETS, LlamaConfig, LlamaProgram, init_params
from ane_native.optim import AdamW, LossScale, warmup_cosine

MODELS = {
    "small": LlamaConfig(dim=128, hidden=352, layers=2, heads=2, seq=128),
    "demo": PRESETS["demo"],
    "larger": LlamaConfig(dim=384, hidden=1024, layers=6, heads=6, seq=256),
}


@dataclass(frozen=True)
class Case:
    """One run.

    Attributes:
        model: name in :data:`MODELS`.
        policy: ``delay`` or ``ready``.
        n: the delay in updates, or the batches a compile takes.
        remedy: ``none`` or ``extrapolate``.
        lr, beta1: of AdamW; lr is the peak of a warm-up and half a cosine.
        seed: of the initial weights and of the windows.
        updates, accumulate, warmup: as in a training run.
    """

    model: str
    policy: str
    n: int
    remedy: str
    lr: float
    beta1: float
    seed: int
    updates: int
    accumulate: int
    warmup: int

    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def due_version(case: Case, batch: int) -> int:
    """Version of the weights that `batch` runs on, when versions 0..batch exist."""
    if case.policy == "delay":
        return max(0, batch - case.n)
    # Ready: a compile starts at every boundary that is a multiple of n, from the newest.
    return max(0, (batch // case.n - 1) * case.n)


def first_delay(case: Case) -> int:
    """Updates between baking a version and its first batch."""
    return case.n


class Masters:
    """The versions of the weights that delayed batches still need."""

    def __init__(self, first: Mapping[str, np.ndarray]) -> None:
        self._kept = {0: {name: w.copy() for name, w in first.items()}}

    def add(self, version: int, weights: Mapping[str, np.ndarray], oldest: int) -> None:
        self._kept[version] = {name: w.copy() for name, w in weights.items()}
        for old in [v for v in self._kept if v < oldest]:
            del self._kept[old]

    def baked(self, version: int, ahead: int) -> dict[str, np.ndarray]:
        """Version, extrapolated `ahead` updates along its last step."""
        weights = self._kept[version]
        if not ahead or version == 0:
            return weights
        before = self._kept[version - 1]
        made = {}
        for name, w in weights.items():
            made[name] = w + np.float32(ahead) * (w - before[name])
        return made


class Study:
    """Runs cases on one corpus."""

    def __init__(self) -> None:
        self.corpus: dict[int, Any] = {}

    def _corpus(self, seq: int) -> Any:
        if seq not in self.corpus:
            self.corpus[seq] = open_corpus(None, seq=seq, vocab=None, include_tests=False)
        return self.corpus[seq]

    def run(self, case: Case, points: int, valid_windows: int) -> dict[str, Any]:
        """Train; the loss of the newest weights at `points` places, and of every batch."""
        model = MODELS[case.model]
        corpus = self._corpus(model.seq)
        model = replace(model, vocab=corpus.vocab)
        program = LlamaProgram(model)
        params = init_params(model, np.random.Generator(np.random.PCG64(case.seed)))
        adam = AdamW(params, betas=(case.beta1, 0.95), loss_scale=LossScale(1024.0, 200))
        sampler = WindowSampler(corpus.train, model.seq, case.seed + 1)
        valid = fixed_windows(corpus.valid, model.seq, valid_windows)
        rate = warmup_cosine(case.lr, case.warmup, case.updates, 0.1)
        every = max(1, case.updates // points)
        masters = Masters(adam.params)
        curve: list[tuple[int, float]] = []
        train: list[tuple[int, float]] = []
        losses: list[float] = []
        version, active, skipped = 0, 0, 0
        begin = time.monotonic()
        with ane.DoubleBufferedTrainer(
            program.kernel_set(), adam.params, staleness=0, canary=False
        ) as trainer:
            step = MicroStep(program, trainer, adam.grads)
            for batch in range(case.updates):
                due = due_version(case, version)
                if due != active:
                    ahead = first_delay(case) if case.remedy == "extrapolate" else 0
                    trainer.step(masters.baked(due, ahead))
                    active = due
                scale = adam.loss_scale.scale
                mean = np.mean([step(*sampler.next(), scale) for _ in range(case.accumulate)])
                losses.append(float(mean))
                info = adam.update(
                    lr=rate(batch), micro_steps=case.accumulate, oldest_needed=1 << 40
                )
                if info.applied:
                    version += 1
                    masters.add(version, adam.params, version - 2 * case.n - 2)
                else:
                    skipped += 1
                if (batch + 1) % every == 0 or batch + 1 == case.updates:
                    trainer.step(adam.params)
                    active = -1  # not a version of the schedule
                    curve.append((batch + 1, round(step.evaluate(valid), 5)))
                    train.append((batch + 1, round(float(np.mean(losses)), 5)))
                    losses.clear()
                    if not math.isfinite(curve[-1][1]):
                        break
        return {
            "case": asdict(case),
            "engine": trainer.engine.label,
            "parameters": model.parameter_count,
            "unigram_entropy": corpus.unigram_entropy,
            "valid": curve,
            "train": train,
            "skipped": skipped,
            "seconds": round(time.monotonic() - begin, 1),
        }


# =============================== Plans ==========================================

POLICIES = (("delay", 0), ("delay", 1), ("delay", 2), ("delay", 4), ("ready", 4))


def plan_small() -> Iterator[Case]:
    """Rate x momentum x remedy x delay on a small model, three seeds."""
    grid = itertools.product((0, 1, 2), (3e-4, 1e-3, 3e-3), POLICIES)
    for seed, lr, (policy, n) in grid:
        for beta1, remedy in ((0.9, "none"), (0.7, "none"), (0.9, "extrapolate")):
            if n or remedy == "none":
                yield Case("small", policy, n, remedy, lr, beta1, seed, 240, 2, 20)


def plan_demo() -> Iterator[Case]:
    """The demo model, three seeds at the rate of the demo; one at a rate that is too high."""
    for seed, (policy, n) in itertools.product((0, 1, 2), POLICIES):
        for lr in (4e-4, 1e-3) if seed == 0 else (4e-4,):
            for beta1, remedy in ((0.9, "none"), (0.7, "none"), (0.9, "extrapolate")):
                if n or remedy == "none":
                    yield Case("demo", policy, n, remedy, lr, beta1, seed, 120, 3, 15)


def plan_larger() -> Iterator[Case]:
    """A 10.7M model, two seeds; where the trainer's default is decided, less
    momentum and half the rate as well."""
    for seed, (policy, n) in itertools.product((0, 1), POLICIES):
        momenta = (0.9, 0.7) if policy == "delay" and n < 2 else (0.9,)
        for beta1, remedy in itertools.product(momenta, ("none", "extrapolate")):
            if n or remedy == "none":
                yield Case("larger", policy, n, remedy, 4e-4, beta1, seed, 100, 2, 12)
    for seed, (n, remedy) in itertools.product((0, 1), ((0, "none"), (1, "extrapolate"))):
        yield Case("larger", "delay", n, remedy, 2e-4, 0.7, seed, 100, 2, 12)


def plan_both() -> Iterator[Case]:
    """The small model with the rate between, and both remedies together; three seeds."""
    for seed, lr, (policy, n) in itertools.product((0, 1, 2), (3e-4, 6e-4, 1e-3), POLICIES):
        for beta1, remedy in (
            ((0.7, "extrapolate"),)
            if lr != 6e-4
            else ((0.9, "none"), (0.7, "none"), (0.9, "extrapolate"), (0.7, "extrapolate"))
        ):
            if n or remedy == "none":
                yield Case("small", policy, n, remedy, lr, beta1, seed, 240, 2, 20)


def plan_pair() -> Iterator[Case]:
    """The demo model with both remedies together at the rate of the demo; three seeds."""
    for (policy, n), seed in itertools.product(POLICIES[1:3], (0, 1, 2)):
        yield Case("demo", policy, n, "extrapolate", 4e-4, 0.7, seed, 120, 3, 15)


def plan_quick() -> Iterator[Case]:
    """A look at whether everything runs: seconds."""
    for policy, n in POLICIES:
        yield Case("small", policy, n, "extrapolate" if n else "none", 1e-3, 0.9, 0, 8, 1, 2)


PLANS = {
    "small": plan_small,
    "both": plan_both,
    "demo": plan_demo,
    "larger": plan_larger,
    "pair": plan_pair,
    "quick": plan_quick,
}


def finished(out: Path) -> set[str]:
    if not out.exists():
        return set()
    lines = out.read_text().splitlines()
    return {json.dumps(json.loads(line)["case"], sort_keys=True) for line in lines if line}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--plan", choices=PLANS, default="quick")
    parser.add_argument("--out", type=Path, default=Path("runs/staleness.jsonl"))
    parser.add_argument("--points", type=int, default=12, help="places of a curve")
    parser.add_argument("--valid-windows", type=int, default=16)
    args = parser.parse_args(argv)
    engine = ane.Engine()
    if not engine.software:
        parser.error(f"the engine is {engine.label}: the study compiles without end, use softane")
    soft.set("compile_limit", 0)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cases = list(PLANS[args.plan]())
    done = finished(args.out)
    study = Study()
    for i, case in enumerate(cases):
        if case.key() in done:
            continue
        result = study.run(case, args.points, args.valid_windows)
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        loss = result["valid"][-1][1]
        print(
            f"{i + 1}/{len(cases)} {case.model} {case.policy} {case.n} {case.remedy} lr {case.lr:g}"
            f" beta1 {case.beta1:g} seed {case.seed}: {loss:.4f} in {result['seconds']} s",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
