# SPDX-License-Identifier: MIT
"""The run directory: its name, its settings, and the report at the end.

::

    runs/NAME/
        config.json      settings, model, corpus, engine, versions
        metrics.jsonl    one line per update (a "start" line per process before them)
        metrics-sync.jsonl  the synchronous updates made for comparison
        checkpoints/     see checkpoint.py
        summary.json, summary.txt, loss.png, sample.txt, trace.json
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ane_native import metrics
from ane_native._version import __version__
from ane_native.checkpoint import replace_file, to_json
from ane_native.data import Corpus
from ane_native.engine import Engine
from ane_native.errors import ConfigError
from ane_native.totals import TrainerReport

if TYPE_CHECKING:
    from ane_native.models.llama import LlamaConfig
    from ane_native.train import TrainConfig

__all__ = ["make_folder", "read_config", "trace_name", "write_config", "write_report"]

KEEP_TRACES = 8  # of resumed and restarted processes
HARDWARE_COMPILES = 119  # per process, as reported by maderix/ANE and others; disputed

# =============================== The directory ==================================


def make_folder(out: str | os.PathLike[str], name: str) -> Path:
    """A new directory ``out/name``, or ``out/name-2`` and so on when that exists.

    Raises:
        ConfigError: the name is no plain file name, or the directory cannot be made.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"name: expected a plain directory name, got {name!r}")
    attempt = 1
    while True:
        folder = Path(out, name if attempt == 1 else f"{name}-{attempt}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError:
            attempt += 1
            if not folder.parent.is_dir():
                raise ConfigError(f"out: expected a directory, got {folder.parent}") from None
        except OSError as error:
            raise ConfigError(f"out: {folder}: {error.strerror}") from error


def write_config(
    folder: Path, config: TrainConfig, model: LlamaConfig, corpus: Corpus, engine: Engine
) -> None:
    """Write config.json: what is needed to resume, and what a reader wants to know."""
    about = {
        "config": config.as_dict(),
        "model": dataclasses.asdict(model),
        "parameters": model.parameter_count,
        "corpus": {
            "name": corpus.name,
            "train": len(corpus.train),
            "valid": len(corpus.valid),
            "split": corpus.split,
            "files": corpus.files,
            "vocab": corpus.vocab,
            "fingerprint": corpus.fingerprint,
            "unigram_entropy": corpus.unigram_entropy,
            "unigram_entropy_valid": corpus.unigram_entropy_valid,
        },
        "engine": {k: v for k, v in engine.info().items() if isinstance(v, (str, int, bool))},
        "versions": {
            "ane_native": __version__,
            "python": platform.python_version(),
            "system": sys.platform,
            "machine": platform.machine(),
        },
    }
    replace_file(folder / "config.json", to_json(about))


def read_config(folder: Path) -> dict[str, Any]:
    """The settings in config.json, for :func:`ane_native.train.config_from`.

    Raises:
        ConfigError: it is missing or not readable.
    """
    path = folder / "config.json"
    try:
        about = json.loads(path.read_bytes())
        if not isinstance(about, dict) or "config" not in about:
            raise ConfigError(f"{path}: damaged: expected the settings of a run")
        values = about["config"]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected the directory of a run") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: damaged: expected text: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: damaged: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: damaged: expected settings, got {type(values).__name__}")
    return values


def trace_name(folder: Path, first_update: int) -> str:
    """trace.json, or trace-from-N.json for a resumed process."""
    if first_update == 0 and not (folder / "trace.json").exists():
        return "trace.json"
    return f"trace-from-{first_update:06d}.json"


def forget_traces(folder: Path) -> None:
    """Keep the first trace and those of the last few processes: a run may have many."""
    for old in sorted(folder.glob("trace-from-*.json"))[:-KEEP_TRACES]:
        old.unlink(missing_ok=True)


# =============================== The report =====================================


def _budget(summary: Mapping[str, Any], engine: Engine) -> str:
    used = summary["compiles_used"]
    limit = engine.info()["compile_limit"]
    if limit is not None:
        restarts = summary["restarts"]
        again = (
            ""
            if not restarts
            else (f"; {restarts} restarts, {summary['restart_ms']['p50']:,.0f} ms each (median)")
        )
        return f"{used} of {limit} compiles of this process used{again}"
    if engine.software:
        return (
            f"{used} compiles used; unlimited (softane setting; hardware is reported to allow "
            f"about {HARDWARE_COMPILES} per process)"
        )
    return f"{used} compiles used; no limit set"


def _label(staleness: int | None) -> str:
    if staleness == 0:
        return "staleness 0 (synchronous)"
    return f"staleness {'any' if staleness is None else staleness} (double-buffered)"


def write_report(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    sync_records: Sequence[Mapping[str, Any]],
    *,
    corpus: Corpus,
    engine: Engine,
    config: TrainConfig,
    final_valid: float | None,
    sample: str | None,
    trainer: TrainerReport | None = None,
) -> dict[str, Any]:
    """Write summary.json, summary.txt, loss.png, sample.txt; the content of summary.json.

    `trainer`: of the process that ended the run.
    """
    main = metrics.summarise(records)
    runs = {_label(config.staleness): main}
    if sync_records:
        lines = b"".join(metrics.MetricsLog.line(r) for r in sync_records)
        replace_file(folder / "metrics-sync.jsonl", lines)
        label = f"{_label(0)}, {len(sync_records)} updates after it"
        runs[label] = metrics.summarise(sync_records)
    plotted = metrics.plot(records, folder / "loss.png", corpus.unigram_entropy)
    text = metrics.summary_text(
        runs, _extra(main, corpus, engine, final_valid), _notes(main, engine, plotted)
    )
    if trainer is not None:
        head = "the trainer of this process"
        text += f"\n{head}\n{'-' * len(head)}\n{trainer}\n"
    summary = {
        "run": main,
        "trainer": None if trainer is None else trainer.as_dict(),
        "synchronous": runs[label] if sync_records else None,
        "staleness": config.staleness,
        "valid_loss_newest": final_valid,
        "unigram_entropy": corpus.unigram_entropy,
        "unigram_entropy_valid": corpus.unigram_entropy_valid,
        "software": engine.software,
        "plot": plotted,
        "text": text,
    }
    replace_file(folder / "summary.json", to_json(summary))
    replace_file(folder / "summary.txt", text.encode())
    if sample is not None:
        replace_file(folder / "sample.txt", sample.encode())
    return summary


def _extra(
    main: Mapping[str, Any], corpus: Corpus, engine: Engine, final_valid: float | None
) -> list[tuple[str, str]]:
    def nats(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    valid = f"{nats(main['valid_loss_first'])} -> {nats(main['valid_loss_last'])}"
    if final_valid is not None:
        valid += f", newest weights {nats(final_valid)}"
    return [
        ("validation", f"{valid} nats per token"),
        (
            "unigram entropy",
            f"{corpus.unigram_entropy:.3f} nats per token "
            f"(validation part {corpus.unigram_entropy_valid:.3f})",
        ),
        ("compile budget", _budget(main, engine)),
    ]


def _notes(main: Mapping[str, Any], engine: Engine, plotted: bool) -> list[str]:
    notes = []
    if engine.software:
        notes.append("Figures of a software engine: they say nothing about Apple hardware.")
    if main["evals_during_compile"] == 0 and main["compiles"]:
        notes.append("No evaluation ran during a compile: nothing was overlapped.")
    if not plotted:
        notes.append("No loss.png: matplotlib is not installed (pip install 'ane-native[plot]').")
    return notes
