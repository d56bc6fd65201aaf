# SPDX-License-Identifier: MIT
"""The command line: ``ane-native train | generate | probe | info``.

Exit codes: 0 done, 1 an error (one line on standard error; ``--debug`` shows the traceback),
2 wrong arguments, 130 stopped by Ctrl-C, 143 by SIGTERM. What a command needs is imported when it runs, so
``--help`` and ``--version`` are quick and work without a built core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ane_native._version import __version__
from ane_native.errors import AneError, ConfigError, DataError
from ane_native.outputs import check_output, open_output

__all__ = ["main"]

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

# Flags of `train` that set the field of TrainConfig of the same name.
# (flag, type, metavar, help); None as type: a switch; bool: one with a --no-.
TRAIN_FLAGS: tuple[tuple[str, Any, str, str], ...] = (
    ("model", str, "NAME", "shape: tiny, demo, stories15m, stories42m, stories110m, qwen3-0.6b"),
    ("data", str, "PATH", "text file, directory of text, or .bin of uint16 tokens [stdlib]"),
    ("vocab", int, "N", "vocabulary of a .bin file [the model's]"),
    ("compact-vocab", None, "", "train only the tokens of a .bin file that occur in it"),
    ("init", str, "FILE", "llama2.c model (.bin) to start from [random weights]"),
    ("include-tests", None, "", "with the default corpus: also the library's tests"),
    ("updates", int, "N", "weight updates of the whole run"),
    ("accumulate", "accumulate", "N", "micro-steps per update; auto: so many that compiles hide"),
    ("staleness", "staleness", "N", "updates the engine may lag: 0 waits, 1, n, none: any"),
    ("lr", float, "X", "highest learning rate"),
    ("warmup", int, "N", "updates of linear warm-up"),
    ("weight-decay", float, "X", "decay of matrices"),
    ("clip", float, "X", "global norm to clip to; 0: never"),
    ("loss-scale", float, "X", "first loss scale, a power of two"),
    ("seed", int, "N", "of the initial weights and the windows"),
    ("valid-every", int, "N", "updates between two validations"),
    ("valid-windows", int, "N", "windows of a validation"),
    ("save-every", int, "N", "updates between two checkpoints; 0: at the end"),
    ("sync-updates", int, "N", "synchronous updates after the run, to compare stalls"),
    ("sample-tokens", int, "N", "length of the sample after the run"),
    ("compile-limit", int, "N", "compiles a process may make; 0: no limit [softane: 0]"),
    ("budget-end", str, "WAY", "when they are used up: restart (exec) or stop [restart]"),
    ("workers", "workers", "N", "processes that compile, or auto; 0: this one"),
    ("packing", "packing", "N", "kernels in about N programs, or auto, or off [off]"),
    ("strategy", str, "auto", "choose from what the probe measured; says what and why"),
    ("update", str, "WHERE", "where AdamW runs: background or foreground [background]"),
    (
        "overlap-exact",
        bool,
        "",
        "with --staleness 0 --clip 0 --update foreground: compile layer by layer [on]",
    ),
    ("extrapolate", bool, "", "with a staleness: kernels from predicted weights [on]"),
    ("scaling", str, "HOW", "powers of two in the baked matrices: auto or off [off]"),
    ("cut", str, "HOW", "kernels by layers, or as the cost model cuts: layers or auto [layers]"),
    ("timing", str, "NAME", "softane only: off, m1, m4, ...: sleep as that chip would"),
    ("log", str, "NAMES", "also to tensorboard, wandb or both (extras)"),
    ("trace-events", int, "N", "events kept in trace.json; 0: no trace"),
)
FIXED_ON_RESUME = (
    "preset",
    "config",
    "model",
    "data",
    "vocab",
    "compact_vocab",
    "init",
    "include_tests",
    "seed",
    "out",
    "name",
)

# =============================== Arguments ======================================


def _staleness(text: str) -> int | str:
    """A whole number, or ``"none"``."""
    if text.lower() in ("none", "any"):
        return "none"
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0, 1, 2, ... or none, got {text!r}")
    return value


def _workers(text: str) -> int | str:
    """A whole number, or ``"auto"``."""
    if text == "auto" or text.isdigit():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"expected 0, 1, 2, ... or auto, got {text!r}")


def _number_or(*words: str) -> Callable[[str], int | str]:
    """Reads a whole number of 1 or more, or one of these words."""

    def read(text: str) -> int | str:
        if text in words:
            return text
        if text.isdigit() and int(text) >= 1:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected 1, 2, ... or {' or '.join(words)}, got {text!r}"
        )

    return read


READERS: dict[str, Callable[[str], int | str]] = {
    "staleness": _staleness,
    "workers": _workers,
    "accumulate": _number_or("auto"),
    "packing": _number_or("auto", "off"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ane-native",
        description="Train on the Apple Neural Engine while the next weights compile.",
    )
    parser.add_argument("--version", action="version", version=f"ane-native {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--engine", metavar="NAME", help="softane, apple or a path")

    train = commands.add_parser(
        "train",
        parents=[common],
        help="train a model",
        description="Train a model and keep everything in runs/NAME. Without arguments: the "
        "demo, a byte-level model on the sources of Python's standard library.",
    )
    train.add_argument(
        "--preset", metavar="NAME", help="settings to start from: demo, tiny, ... [--model's, demo]"
    )
    train.add_argument("--config", metavar="FILE", help="settings in a .toml or .yaml file")
    for flag, kind, metavar, text in TRAIN_FLAGS:
        if kind is None:
            train.add_argument(f"--{flag}", action="store_true", default=None, help=text)
        elif kind is bool:
            train.add_argument(
                f"--{flag}", action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            read = READERS.get(kind, kind)
            train.add_argument(f"--{flag}", type=read, metavar=metavar, help=text)
    train.add_argument("--out", metavar="DIR", help="directory of runs [runs]")
    train.add_argument("--name", metavar="NAME", help="name of the run [the preset's]")
    train.add_argument("--resume", metavar="DIR", help="continue the run in this directory")
    train.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    train.set_defaults(run=_train, parser=train)

    generate = commands.add_parser("generate", parents=[common], help="sample from a model")
    generate.add_argument(
        "checkpoint", help="a run's directory, a checkpoint in it, or a llama2.c .bin file"
    )
    generate.add_argument("--prompt", default="", help="text to continue")
    generate.add_argument("--tokens", type=int, default=200, metavar="N", help="how many [200]")
    generate.add_argument("--temperature", type=float, default=0.8, metavar="X", help="[0.8]")
    generate.add_argument("--top-k", type=int, default=0, metavar="N", help="0: all [0]")
    generate.add_argument(
        "--top-p", type=float, default=1.0, metavar="X", help="nucleus; 1: all [1]"
    )
    generate.add_argument("--tokenizer", metavar="FILE", help="tokenizer.bin or .json [bytes]")
    generate.add_argument(
        "--no-cache", action="store_true", help="recompute the window on the engine for each token"
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="[0]")
    generate.set_defaults(run=_generate, parser=generate)

    evaluate = commands.add_parser("evaluate", parents=[common], help="loss of a model on a corpus")
    evaluate.add_argument("checkpoint", help="a run's directory, a checkpoint in it, or .bin")
    evaluate.add_argument(
        "--data", metavar="PATH", help="text file, directory of text, or .bin of tokens [stdlib]"
    )
    evaluate.add_argument("--windows", type=int, default=0, metavar="N", help="0: all [0]")
    evaluate.add_argument("--part", default="valid", metavar="PART", help="valid or train [valid]")
    evaluate.add_argument("--json", action="store_true", help="as JSON")
    evaluate.set_defaults(run=_evaluate, parser=evaluate)

    probe = commands.add_parser(
        "probe",
        parents=[common],
        help="measure what the engine can do",
        description="Experiments on whatever engine is here, each in a process of its own. "
        "Owners of a Mac: please send in the file of --json.",
    )
    probe.add_argument("--quick", action="store_true", help="the short ones only")
    probe.add_argument("--only", metavar="NAME", action="append", help="one experiment; repeat")
    probe.add_argument("--json", metavar="FILE", help="write the report")
    probe.add_argument("--plot", metavar="FILE", help="draw the overlap (needs matplotlib)")
    probe.add_argument("--timeout", type=float, metavar="S", help="seconds for each [its own]")
    probe.add_argument("--list", action="store_true", help="name the experiments")
    probe.set_defaults(run=_probe, parser=probe)

    export = commands.add_parser("export", parents=[common], help="write a model for others")
    export.add_argument("checkpoint", help="a run's directory, a checkpoint in it, or a .bin file")
    export.add_argument("to", help=".bin (llama2.c) or .safetensors (Hugging Face's names)")
    export.add_argument("--version", type=int, default=0, metavar="N", help="of .bin: 0 or 1 [0]")
    export.set_defaults(run=_export, parser=export)

    tokenize = commands.add_parser(
        "tokenize", parents=[common], help="text files -> a .bin of uint16 tokens"
    )
    tokenize.add_argument("text", nargs="+", help="text files; each begins with the BOS token")
    tokenize.add_argument("--tokenizer", metavar="FILE", required=True, help=".bin or .json")
    tokenize.add_argument("--out", metavar="FILE", required=True, help="file to write")
    tokenize.set_defaults(run=_tokenize, parser=tokenize)

    info = commands.add_parser("info", parents=[common], help="what runs here")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.add_argument(
        "--profile", action="store_true", help="softane only: every value of the chip profile"
    )
    info.set_defaults(run=_info, parser=info)
    return parser


# =============================== train ==========================================


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that stand on the command line."""
    names = [flag.replace("-", "_") for flag, *_ in TRAIN_FLAGS]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if given.get("staleness") == "none":
        given["staleness"] = None
    return given


def _settings_file(path: str) -> dict[str, Any]:
    """Settings of a run, by the names of TrainConfig's fields (``-`` may stand for ``_``).

    Raises:
        ConfigError: unreadable, or not a table.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: could not be read: {error}") from error
    kind = Path(path).suffix
    if kind not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"--config: expected a .toml or .yaml file, got {path}")
    try:
        if kind == ".toml":
            import tomllib

            values: Any = tomllib.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except ImportError as error:
        package = "Python 3.11" if kind == ".toml" else "pip install 'ane-native[yaml]'"
        raise ConfigError(f"{path}: reading it needs {package}") from error
    except Exception as error:  # the parsers' errors have no base in common
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings, got {type(values).__name__}")
    named = {str(key).replace("-", "_"): value for key, value in values.items()}
    if named.get("staleness") == "none":
        named["staleness"] = None
    return named


def _train(args: argparse.Namespace) -> int:
    from ane_native import report
    from ane_native.progress import make_progress
    from ane_native.train import RUNS, config_from, train

    begin = time.monotonic()
    given = _given(args)
    if args.resume is not None:
        fixed = [name for name in FIXED_ON_RESUME if getattr(args, name) is not None]
        if fixed:
            raise ConfigError(f"--{fixed[0].replace('_', '-')} cannot be changed with --resume")
        saved = report.read_config(Path(args.resume))
        config = config_from({**saved, **given}, "command line and config.json")
    else:
        file = _settings_file(args.config) if args.config else {}
        preset = args.preset or file.pop("preset", None)
        if preset is None:
            model = given.get("model", file.get("model"))
            preset = model if model in RUNS else "demo"
        if not isinstance(preset, str) or preset not in RUNS:
            raise ConfigError(f"--preset: expected one of {', '.join(RUNS)}, got {preset!r}")
        where = f"command line and {args.config}" if args.config else "command line"
        config = config_from({**RUNS[preset].as_dict(), **file, **given}, where)
    result = train(
        config,
        out=args.out or "runs",
        name=args.name
        if args.name is not None
        else args.preset or (config.model if args.model else "demo"),
        resume=args.resume,
        progress=make_progress(False if args.plain else None),
    )
    print()
    print(result.summary["text"])
    if result.sample is not None:
        print(f"sample\n------\n{result.sample}\n")
    print(f"kept in {result.folder}; checkpoint {result.checkpoint}")
    if result.interrupted:
        print(f"stopped after {result.updates} updates; go on with:")
        print(f"    ane-native train --resume {result.folder}")
        return 128 + (result.signal or signal.SIGINT)
    print(f"{time.monotonic() - begin:.0f} s in all")
    return 0


# =============================== generate =======================================


def _generate(args: argparse.Namespace) -> int:
    from ane_native.generate import sample_from_checkpoint

    pieces = sample_from_checkpoint(
        args.checkpoint,
        args.prompt,
        args.tokens,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        tokenizer=args.tokenizer,
        cache=not args.no_cache,
        seed=args.seed,
    )
    first = next(pieces, "")  # errors come before the prompt is printed
    print(args.prompt + first, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


# =============================== evaluate =======================================


def _evaluate(args: argparse.Namespace) -> int:
    from ane_native.evaluate import evaluate_checkpoint

    found = evaluate_checkpoint(args.checkpoint, args.data, windows=args.windows, part=args.part)
    if args.json:
        print(json.dumps({**dataclasses.asdict(found), "perplexity": found.perplexity}))
        return 0
    print(f"{found.corpus}; {args.part} part")
    print(
        f"loss {found.loss:.4f} +- {found.error:.4f} nats per token, perplexity "
        f"{found.perplexity:.3f}: {found.windows} windows, {found.tokens:,} tokens"
    )
    return 0


# =============================== probe ==========================================


def _probe(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ane_native import probe
    from ane_native.engine import Engine

    for option in ("json", "plot"):
        if getattr(args, option) is not None:
            check_output(getattr(args, option), f"--{option}")
    if args.plot is not None and Path(args.plot).suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--plot: expected a .png, .svg or .pdf file, got {args.plot}")
    if args.list:
        for made in probe.EXPERIMENTS.values():
            print(f"{made.name:<16}{'quick  ' if made.quick else '       '}{made.settles}")
        return 0
    console = Console(highlight=False)
    status = console.status("")

    def shown(name: str, row: dict[str, Any] | None) -> None:
        if row is None:
            status.update(f"{name} ...")
        elif not console.is_terminal:
            print(f"{name}: {row['status']}: {row['said']}", flush=True)

    with status:
        report = probe.run(only=args.only, quick=args.quick, timeout=args.timeout, shown=shown)
    console.print(report.table())
    if args.json:
        report.write(args.json)
        console.print(f"written: {args.json}", markup=False)
    if args.plot:
        drawn = report.plot(args.plot)
        why = "needs the experiment overlap and matplotlib (pip install 'ane-native[plot]')"
        console.print(f"drawn: {args.plot}" if drawn else f"no plot: {why}", markup=False)
    if not report.about["complete"]:
        console.print(f"stopped at {report.about['stopped_at']}: the report is not complete")
        return EXIT_INTERRUPTED
    if not args.only:
        kept = probe.remember(Engine(), report)
        if kept is not None:
            console.print(f"kept for strategy=auto: {kept}", markup=False, soft_wrap=True)
    return 0 if report.about["engine"] is not None else EXIT_ERROR


# =============================== export, tokenize ===============================


def _export(args: argparse.Namespace) -> int:
    from ane_native.generate import export_model

    config = export_model(args.checkpoint, args.to, version=args.version)
    print(f"{args.to}: {config.parameter_count:,} parameters, {config}")
    return 0


def _tokenize(args: argparse.Namespace) -> int:
    import numpy as np

    from ane_native.tokenizer import open_tokenizer

    check_output(args.out, "--out")
    for name in (args.tokenizer, *args.text):
        if os.path.exists(name) and os.path.exists(args.out) and os.path.samefile(name, args.out):
            raise ConfigError(f"--out: expected another file than {name}, which is read")
    tokenizer = open_tokenizer(args.tokenizer)
    if tokenizer.vocab > 65536:
        raise ConfigError(f"tokenizer: expected at most 65536 tokens, got {tokenizer.vocab}")
    total = 0
    with open_output(args.out) as stream:
        for name in args.text:
            text = Path(name).read_text(encoding="utf-8", errors="surrogateescape")
            if not text:
                raise DataError(f"{name}: expected text, got 0 bytes")
            if "\0" in text:
                raise DataError(
                    f"{name}: expected text, got a NUL at character {text.index(chr(0)):,}"
                )
            tokens = np.asarray(tokenizer.encode(text), "<u2")
            stream.write(tokens.tobytes())
            total += len(tokens)
    print(f"{args.out}: {total:,} tokens of a vocabulary of {tokenizer.vocab}")
    return 0


# =============================== info ===========================================


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gather() -> dict[str, Any]:
    import cffi
    import numpy

    from ane_native import cpu
    from ane_native.engine import Engine

    engine = Engine()
    told = engine.info()
    try:
        blas = cpu.open_blas()
    except AneError as error:
        blas = f"none: {error}"
    limit = told["compile_limit"]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "ane_native": __version__,
        "engine": {**told, "hardware": not engine.software},
        "budget": {"compiles_used": told["compiles"], "compile_limit": limit},
        "gcd": told["gcd"],
        "blas": blas,
        "python": platform.python_version(),
        "gil": bool(gil),
        "numpy": numpy.__version__,
        "cffi": cffi.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{_cpu_name()}, {os.cpu_count()} threads",
    }


def _info(args: argparse.Namespace) -> int:
    about = _gather()
    if args.json:
        print(json.dumps(about, indent=2))
        return 0
    engine = about["engine"]
    kind = "hardware" if engine["hardware"] else "SOFTWARE - not Apple hardware"
    name = f"{engine['name']} {engine.get('version', '')}".strip()
    limit = engine["compile_limit"]
    rows = [
        ("ane_native", about["ane_native"]),
        ("engine", f"{name}   {kind}"),
        ("", engine["path"]),
    ]
    if engine.get("timing") is not None:
        settings = ("profile", "timing", "numerics")
        rows.append(("", " ".join(f"{key}={engine[key]}" for key in settings)))
        rows.append(("", f"isa {engine['isa']}, blas {engine['blas']}"))
    if engine["chip"]:
        cores = f"{engine['engine_count']} engine(s), {engine['core_count']} cores"
        rows.append(("chip", f"{engine['chip']}, {cores}"))
    told = "no limit" if limit is None else f"{limit} compiles per process"
    rows += [
        ("budget", f"{told}, {engine['compiles']} used; {engine['loaded']} programs loaded"),
        ("gcd", about["gcd"]),
        ("blas", about["blas"]),
        ("python", f"{about['python']} (GIL {'on' if about['gil'] else 'off'})"),
        ("", f"numpy {about['numpy']}, cffi {about['cffi']}"),
        ("system", about["system"]),
        ("cpu", about["cpu"]),
    ]
    if args.profile and engine["hardware"]:
        rows.append(("profile", "hardware has no profile: its limits are its own"))
    elif args.profile:
        from ane_native import soft

        lines = soft.get("profile.values").splitlines()
        rows += [("profile" if i == 0 else "", line) for i, line in enumerate(lines)]
    for label, text in rows:
        print(f"{label:<11}{text}")
    return 0


# =============================== main ===========================================


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit code."""
    args = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.engine:
        os.environ["ANE_NATIVE_ENGINE"] = args.engine
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except (AneError, OSError, ArithmeticError, ValueError, MemoryError) as error:
        if args.debug:
            raise
        text = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror and error.filename:
            text = f"{error.filename}: {error.strerror}"
        print(f"ane-native {args.command}: {text}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR
