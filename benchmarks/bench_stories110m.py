# SPDX-License-Identifier: MIT
"""Training at full size against PyTorch on the same CPU: speed, memory, loss curves.

    python benchmarks/bench_stories110m.py --torch /path/to/python-with-torch
    python benchmarks/bench_stories110m.py --updates 50 --json out.json --png curves.png

Not part of any test run: minutes of full load. Every side is a process of its own with the
same initial weights, the same windows in the same order, two threads and AdamW with the same
numbers. Speed is measured in rounds: each side in turn does a few micro-steps and an update
while the others sleep, so a disturbance meets all of them; what is reported are medians over
all rounds and the ratio of every round to its neighbours (``ratio``), which holds on a busy
machine too. Peak memory is the largest resident size of the process.

``blas`` is the bare product: sgemm of the wheel over the products of the micro-step, two
threads, split as the micro-step splits them; the share of it that a whole micro-step reaches
is ``of BLAS``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SETTINGS = {"clip": 1.0, "weight_decay": 0.1, "betas": (0.9, 0.95), "threads": 2}
LR, WARMUP = 5e-4, 10
VARIANTS = {"eager": "PyTorch eager fp32", "bf16": "PyTorch bf16", "compile": "torch.compile"}

# =============================== Our side =======================================


class Worker:
    """The same answers as stories_torch.py's, by the engine."""

    def __init__(self, setup: dict[str, Any]) -> None:
        from safetensors.numpy import load_file

        import ane_native as ane
        from ane_native import soft
        from ane_native.microstep import MicroStep
        from ane_native.models.llama import LlamaConfig, LlamaProgram
        from ane_native.optim import AdamW, LossScale

        if ane.Engine().software:
            soft.set("compile_limit", 0)
        config = LlamaConfig(**setup["config"])
        self.seq = config.seq
        self.optimizer = AdamW(
            load_file(setup["weights"]),
            betas=tuple(setup["betas"]),
            weight_decay=setup["weight_decay"],
            clip=setup["clip"],
            loss_scale=LossScale(1024.0),
            extrapolate=float(setup["staleness"]),  # as a training run does
            bake="float16",
        )
        program = LlamaProgram(config)
        self.trainer = ane.DoubleBufferedTrainer(
            program.kernel_set(),
            self.optimizer.baked,
            staleness=setup["staleness"],
            handover=True,
        )
        self.optimizer.handed_over(0, True)
        self.step = MicroStep(program, self.trainer, self.optimizer.grads)
        self.tokens = np.fromfile(setup["tokens"], "<u2").astype(np.int32)

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        losses, micro_ms = [], []
        for start in order["starts"]:
            begin = time.perf_counter()
            window = self.tokens[start : start + self.seq + 1]
            scale = self.optimizer.loss_scale.scale
            losses.append(self.step(window[:-1].copy(), window[1:].copy(), scale))
            micro_ms.append((time.perf_counter() - begin) * 1e3)
        begin = time.perf_counter()
        stall_ms = 0.0
        if order.get("lr") is not None:
            self.trainer.install()  # the buffer of what was active is written next
            info = self.optimizer.update(
                lr=order["lr"],
                micro_steps=len(order["starts"]),
                oldest_needed=self.trainer.oldest_needed,
            )
            stats = self.trainer.step(self.optimizer.baked if info.applied else None, handover=True)
            if info.applied:
                self.optimizer.handed_over(stats.newest, stats.submitted)
            stall_ms = stats.compile_stall_ms
        update_ms = (time.perf_counter() - begin) * 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"losses": losses, "micro_ms": micro_ms, "update_ms": update_ms, "peak_mb": peak}
        return answer | {"stall_ms": stall_ms}


def serve() -> None:
    worker = Worker(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": "ane_native"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


# =============================== The bare products ==============================


def product_shapes(config: Any) -> list[tuple[int, int, int, int]]:
    """(times, M, N, K) of every product of a micro-step, without attention's."""
    d, f, t, v = config.dim, config.hidden, config.seq, config.vocab
    kv, q = config.kv_dim, config.q_dim
    one = [(q, d), (kv, d), (kv, d), (d, q), (f, d), (f, d), (d, f)]
    shapes = []
    for rows, cols in one:
        shapes += [(config.layers, rows, t, cols), (config.layers, cols, t, rows)]
        shapes += [(config.layers, rows, cols, t)]
    return [*shapes, (1, v, t, d), (1, d, t, v), (1, v, d, t)]


def blas_gflops(config: Any, repeats: int) -> float:
    """Rate of sgemm over those products, as two halves on two threads."""
    import ctypes
    from concurrent.futures import ThreadPoolExecutor

    from ane_native import cpu

    library = ctypes.CDLL(cpu.open_blas())
    sgemm = getattr(library, "scipy_cblas_sgemm", None) or library.cblas_sgemm
    pointer = ctypes.POINTER(ctypes.c_float)
    threads = SETTINGS["threads"]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    rng = np.random.default_rng(0)
    flops = seconds = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for times, m, n, k in product_shapes(config):
            a = rng.standard_normal((m, k), dtype=np.float32)
            b = rng.standard_normal((k, n), dtype=np.float32)
            c = np.zeros((m, n), np.float32)
            cuts = [m * i // threads for i in range(threads + 1)]

            def part(i: int, a: Any = a, b: Any = b, c: Any = c, cuts: Any = cuts) -> None:
                (_, k), n = a.shape, b.shape[1]
                rows = slice(cuts[i], cuts[i + 1])
                pa, pb, pc = (x.ctypes.data_as(pointer) for x in (a[rows], b, c[rows]))
                count = cuts[i + 1] - cuts[i]
                sgemm(101, 111, 111, count, n, k, one, pa, k, pb, n, zero, pc, n)

            best = 1e9
            for _ in range(repeats):
                begin = time.perf_counter()
                list(pool.map(part, range(threads)))
                best = min(best, time.perf_counter() - begin)
            flops += times * 2.0 * m * n * k
            seconds += times * best
    return flops / seconds / 1e9


# =============================== The comparison =================================


class Side:
    """A worker process, asked one question at a time."""

    def __init__(self, command: list[str], setup: dict[str, Any]) -> None:
        quiet = {"OMP_NUM_THREADS": str(setup["threads"]), "SOFTANE_THREADS": str(setup["threads"])}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **quiet},
        )
        self.losses: list[float] = []
        self.micro_ms: list[float] = []
        self.update_ms: list[float] = []
        self.stall_ms: list[float] = []
        self.peak_mb = 0.0
        self.ask(setup)

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self.process.wait()}")
        return dict(json.loads(line))

    def round(self, starts: list[int], lr: float, keep: bool) -> None:
        answer = self.ask({"starts": starts, "lr": lr})
        self.losses.append(float(np.mean(answer["losses"])))
        self.peak_mb = answer["peak_mb"]
        if keep:
            self.micro_ms.append(statistics.mean(answer["micro_ms"]))
            self.update_ms.append(answer["update_ms"])
            self.stall_ms.append(answer.get("stall_ms", 0.0))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def tokens_for(path: str | None, vocab: int, count: int) -> np.ndarray:
    """uint16 tokens: of a file, or with the statistics of text (Zipf, repeated phrases)."""
    if path is not None:
        tokens = np.fromfile(path, "<u2")
        if int(tokens.max()) >= vocab:
            raise SystemExit(f"{path}: a token is outside the vocabulary of {vocab}")
        return tokens
    rng = np.random.default_rng(7)
    share = 1.0 / np.arange(1, vocab + 1)
    phrases = rng.choice(vocab, size=(400, 12), p=share / share.sum())
    return phrases[rng.integers(0, 400, -(-count // 12))].reshape(-1)[:count].astype("<u2")


def compare(args: argparse.Namespace) -> dict[str, Any]:
    from safetensors.numpy import save_file

    from ane_native.models.llama import PRESETS, init_params

    config = PRESETS[args.model]
    config = dataclasses.replace(config, vocab=args.vocab or config.vocab)
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        weights, tokens = Path(folder, "weights.safetensors"), Path(folder, "tokens.bin")
        save_file(init_params(config, np.random.default_rng(0)), weights)
        corpus = tokens_for(args.tokens, config.vocab, 1 << 18)
        corpus.tofile(tokens)
        setup = {
            **SETTINGS,
            "config": dataclasses.asdict(config),
            "weights": str(weights),
            "tokens": str(tokens),
            "lr": LR,
            "staleness": args.staleness,
        }
        commands = {"ane_native": [sys.executable, __file__, "--serve"]}
        if args.torch:
            for variant in args.variants.split(","):
                commands[variant] = [args.torch, str(here / "stories_torch.py")]
        sides: dict[str, Side] = {}
        try:
            for name, command in commands.items():
                print(f"starting {name}", flush=True)
                sides[name] = Side(command, {**setup, "variant": name})
            rng = np.random.default_rng(3)
            for update in range(args.updates):
                starts = rng.integers(0, len(corpus) - config.seq - 1, args.accumulate).tolist()
                lr = LR * min(1.0, (update + 1) / WARMUP)
                for side in sides.values():
                    side.round(starts, lr, keep=update >= args.warm)
                shown = "  ".join(f"{n} {s.losses[-1]:.4f}" for n, s in sides.items())
                print(f"update {update + 1}/{args.updates}  loss {shown}", flush=True)
        finally:
            for side in sides.values():
                side.close()
    return summary(args, config, sides)


def summary(args: argparse.Namespace, config: Any, sides: dict[str, Side]) -> dict[str, Any]:
    gflop = config.micro_step_mflop / 1e3
    blas = blas_gflops(config, 5)
    ours = sides["ane_native"]
    rows = {}
    for name, side in sides.items():
        micro = statistics.median(side.micro_ms)
        whole = [
            m * args.accumulate + u for m, u in zip(side.micro_ms, side.update_ms, strict=True)
        ]
        mine = [m * args.accumulate + u for m, u in zip(ours.micro_ms, ours.update_ms, strict=True)]
        tokens = config.seq * args.accumulate
        rows[name] = {
            "micro_ms": micro,
            "micro_best_ms": min(side.micro_ms),
            "update_ms": statistics.median(side.update_ms),
            "tokens_per_s": tokens / statistics.median(whole) * 1e3,
            "speedup_of_ours": statistics.median(w / m for w, m in zip(whole, mine, strict=True)),
            "micro_speedup_of_ours": statistics.median(
                s / o for s, o in zip(side.micro_ms, ours.micro_ms, strict=True)
            ),
            "gflops": gflop / micro * 1e3,
            "of_blas": gflop / micro * 1e3 / blas,
            "peak_mb": side.peak_mb,
            "stall_ms": statistics.median(side.stall_ms),
            "losses": side.losses,
        }
    return {
        "model": dataclasses.asdict(config),
        "parameters": config.parameter_count,
        "gflop_per_micro_step": gflop,
        "blas_gflops": blas,
        "accumulate": args.accumulate,
        "staleness": args.staleness,
        "updates": args.updates,
        "sides": rows,
    }


def table(result: dict[str, Any]) -> str:
    head = (
        f"{'':<12}{'micro-step':>11}{'best':>8}{'update':>8}{'tokens/s':>10}"
        f"{'ours is':>9}{'GFLOP/s':>9}{'of BLAS':>9}{'peak MB':>9}{'last loss':>11}"
    )
    lines = [
        f"{result['gflop_per_micro_step']:.1f} GFLOP a micro-step of {result['model']['seq']} "
        f"tokens, {result['accumulate']} an update; bare products {result['blas_gflops']:.0f} "
        "GFLOP/s on two threads; times in ms",
        head,
    ]
    for name, row in result["sides"].items():
        lines.append(
            f"{name:<12}{row['micro_ms']:>11.0f}{row['micro_best_ms']:>8.0f}"
            f"{row['update_ms']:>8.0f}{row['tokens_per_s']:>10.0f}"
            f"{row['speedup_of_ours']:>8.2f}x{row['gflops']:>9.0f}{row['of_blas']:>8.0%} "
            f"{row['peak_mb']:>8.0f}{row['losses'][-1]:>11.4f}"
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, row in result["sides"].items():
        label = VARIANTS.get(name, f"ane_native, staleness {result['staleness']}")
        axes.plot(range(1, len(row["losses"]) + 1), row["losses"], label=label)
    axes.set(xlabel="update", ylabel="training loss, nats per token")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter that has PyTorch")
    parser.add_argument("--variants", default="eager", help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--model", default="stories110m")
    parser.add_argument("--vocab", type=int, help="another vocabulary [the model's]")
    parser.add_argument("--tokens", metavar="FILE", help="uint16 tokens [made up]")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--accumulate", type=int, default=4, help="micro-steps per update [4]")
    parser.add_argument("--warm", type=int, default=2, help="updates not measured [2]")
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--png", metavar="FILE")
    args = parser.parse_args()
    if args.serve:
        return serve()
    result = compare(args)
    print(table(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(result, args.png)


if __name__ == "__main__":
    main()
