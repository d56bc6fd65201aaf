# SPDX-License-Identifier: MIT
"""The record of a run: one JSON line per update, and the summary made from those lines.

Nothing in a summary is a literal: every figure is computed from the lines of metrics.jsonl,
so it can be computed again from the file. Times are milliseconds unless a name ends in _s.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ane_native.checkpoint import replace_file
from ane_native.loggers import Logger, numbers

__all__ = ["MetricsLog", "percentile", "plot", "read_metrics", "summarise", "summary_text"]

Record = Mapping[str, Any]
STALL_PARTS = ("snapshot_ms", "wait_ms", "swap_ms", "submit_ms")

# =============================== The file =======================================


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class MetricsLog:
    """Appends records to a JSON Lines file, each flushed as it is written.

    Args:
        path: the file; made when it does not exist.
        keep: predicate for the records to keep of a file that exists (a resumed run drops
            what came after its checkpoint); None keeps all.

    Attributes:
        records: all of them, from before a resume, too.
        also: loggers that get the numbers of each record that is added.
    """

    def __init__(self, path: Path, keep: Any = None) -> None:
        self.path = path
        self.also: list[Logger] = []
        self.records: list[dict[str, Any]] = []
        if path.exists():
            self.records = [r for r in read_metrics(path) if keep is None or keep(r)]
            replace_file(path, b"".join(self.line(r) for r in self.records))
        self._stream = open(path, "ab")  # noqa: SIM115 - closed by close()

    @staticmethod
    def line(record: Record) -> bytes:
        """A record as it stands in the file."""
        clean = {key: _finite(value) for key, value in record.items()}
        return (json.dumps(clean, allow_nan=False) + "\n").encode()

    def add(self, record: Record) -> None:
        """Write one record; it is also kept in :attr:`records`."""
        self.records.append({key: _finite(value) for key, value in record.items()})
        self._stream.write(self.line(record))
        self._stream.flush()
        for logger in self.also:
            logger.add(int(record.get("update", 0)), numbers(record))

    def close(self) -> None:
        """Flush and close. May be called twice."""
        self._stream.close()
        for logger in self.also:
            logger.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records of a file; a last line cut off by a crash is left out.

    Raises:
        ValueError: a line that is not JSON and not the last.
    """
    lines = Path(path).read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break  # no newline after it: the write did not end
            raise ValueError(f"{path}:{number}: not JSON: {error}") from error
    return records


# =============================== Figures ========================================


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest-rank percentile: a value that occurred. None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def _values(records: Iterable[Record], key: str) -> list[float]:
    values = (float(r[key]) for r in records if r.get(key) is not None)
    return [value for value in values if math.isfinite(value)]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "p50": percentile(values, 50),
        "p99": percentile(values, 99),
        "max": max(values, default=None),
        "total": math.fsum(values),
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """The figures of a run from its records (``kind`` "update" and "start").

    Returns:
        Plain numbers for JSON; None where nothing was measured. ``stall_share`` is stall over
        the wall time of the updates; ``compile_hidden_share`` the part of all compile time
        that no boundary waited for.
    """
    # An update that was skipped has no boundary, so no BatchStats fields.
    updates = [r for r in records if r.get("kind") == "update"]
    batches = [r for r in updates if r.get("compile_stall_ms") is not None]
    losses = _values(updates, "loss")
    starts = [r for r in records if r.get("kind") == "start"]
    restarts = [r for r in starts if r.get("restarts")]
    # A restarted process measures what the last one could not: the boundary is in its start.
    validated = [
        r for r in records if r.get("kind") == "update" or r is starts[0] or r.get("restarts")
    ]
    valid = _values(validated, "valid_loss")
    wall_ms = math.fsum(_values(updates, "update_ms"))
    stall = _spread(_values(batches, "compile_stall_ms"))
    compile_ms = _spread(_values(batches, "compile_ms"))
    hidden = math.fsum(_values(batches, "hidden_ms"))
    tokens = int(sum(_values(updates, "tokens")))
    last = batches[-1] if batches else {}
    return {
        "engine": last.get("engine"),
        "updates": len(updates),
        "restarts": len(restarts),
        "restart_ms": _spread(_values(restarts, "restart_ms")),
        "updates_skipped": sum(1 for r in updates if not r.get("applied", True)),
        "micro_steps": int(sum(_values(updates, "micro_steps"))),
        "tokens": tokens,
        "wall_s": wall_ms / 1000,
        "tokens_per_s": tokens / wall_ms * 1000 if wall_ms else None,
        "update_ms_p50": percentile(_values(updates, "update_ms"), 50),
        "first_compile_ms": _mean(_values(starts, "compile_ms")),
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "loss_last10": _mean(losses[-10:]),
        "valid_loss_first": valid[0] if valid else None,
        "valid_loss_last": valid[-1] if valid else None,
        "stall_ms": stall,
        "stall_parts_ms": {k[:-3]: math.fsum(_values(batches, k)) for k in STALL_PARTS},
        "stall_share": (stall["total"] or 0.0) / wall_ms if wall_ms else None,
        "compiles": sum(1 for r in batches if r.get("swapped")),
        "compile_ms": compile_ms,
        "compile_hidden_share": hidden / compile_ms["total"] if compile_ms["total"] else None,
        "bake_ms_total": math.fsum(_values(batches, "bake_ms")),
        "engine_compile_ms_total": math.fsum(_values(batches, "engine_compile_ms")),
        "load_ms_total": math.fsum(_values(batches, "load_ms")),
        "canary_ms_total": math.fsum(_values(batches, "canary_ms")),
        "evals": int(sum(_values(batches, "evals"))),
        "evals_retried": int(sum(_values(batches, "evals_retried"))),
        "evals_during_compile": int(sum(_values(batches, "evals_during_compile"))),
        "micro_steps_during_compile": int(sum(_values(batches, "micro_steps_during_compile"))),
        "eval_idle_p50_ms": percentile(_values(batches, "eval_idle_p50_ms"), 50),
        "eval_idle_p99_ms": percentile(_values(batches, "eval_idle_p99_ms"), 50),
        "eval_compiling_p50_ms": percentile(_values(batches, "eval_compiling_p50_ms"), 50),
        "eval_compiling_p99_ms": percentile(_values(batches, "eval_compiling_p99_ms"), 50),
        "staleness_max": max(_values(batches, "staleness"), default=None),
        "programs_compiled": int(sum(_values(batches, "programs_compiled"))),
        "programs_reused": int(sum(_values(batches, "programs_reused"))),
        "failures": int(last.get("failures") or 0),
        "compiles_used": last.get("compiles_used"),
        "budget_left": last.get("budget_left"),
        "programs_loaded": last.get("programs_loaded"),
    }


STALL_HEAD = (
    "stall per update, ms", "p50", "p99", "max", "total", "of wall", "update ms", "tokens/s",
)  # fmt: skip

# =============================== For people =====================================


def _show(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:,.{digits}f}{unit}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _stall_row(name: str, s: Record) -> list[str]:
    stall = s["stall_ms"]
    return [
        name,
        *(_show(stall[key]) for key in ("p50", "p99", "max")),
        _show(stall["total"], 1),
        _share(s["stall_share"]),
        _show(s["update_ms_p50"], 1),
        _show(s["tokens_per_s"], 0),
    ]


def summary_rows(s: Record, extra: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Name and text of each line of a summary; `extra` follow the training loss."""
    total, parts, last10 = s["compile_ms"]["total"], s["stall_parts_ms"], s["loss_last10"]
    speed = _show(s["tokens_per_s"], 0)
    median = _show(s["compile_ms"]["p50"], 1)
    hidden = _share(s["compile_hidden_share"])
    evals, micro = f"{s['evals']:,}", s["micro_steps"]
    idle, busy = (
        [_show(s[f"eval_{k}_{p}_ms"], 3) for p in ("p50", "p99")] for k in ("idle", "compiling")
    )
    split = ", ".join(f"{name} {_show(ms)}" for name, ms in parts.items())
    return [
        ("engine", str(s["engine"])),
        ("updates", f"{s['updates']} ({s['updates_skipped']} skipped), {micro} micro-steps"),
        ("tokens", f"{s['tokens']:,} in {_show(s['wall_s'], 1)} s, {speed} per s"),
        ("training loss", f"{_show(s['loss_first'], 3)} -> {_show(last10, 3)} (mean of last 10)"),
        *extra,
        ("stall, total", f"{split} ms"),
        (
            "compile time",
            f"{_show(total, 0)} ms in {s['compiles']} generations (p50 {median} ms), "
            f"{hidden} of it hidden",
        ),
        (
            "while compiling",
            f"{s['evals_during_compile']:,} of {evals} evaluations, "
            f"{s['micro_steps_during_compile']} of {micro} micro-steps",
        ),
        (
            "evaluation",
            f"p50 {idle[0]} ms with no compile running, {busy[0]} ms beside one "
            f"(p99 {idle[1]} and {busy[1]}); {s['evals_retried']} cancelled and tried again",
        ),
        (
            "programs",
            f"{s['programs_compiled']:,} compiled, {s['programs_reused']:,} reused, "
            f"{s['programs_loaded']} loaded, {s['failures']} failures",
        ),
    ]


def stall_table(runs: Mapping[str, Record]) -> list[list[str]]:
    """Rows of the table that compares runs; the first is the head."""
    return [list(STALL_HEAD), *(_stall_row(name, s) for name, s in runs.items())]


def summary_text(
    runs: Mapping[str, Record], extra: Sequence[tuple[str, str]] = (), notes: Sequence[str] = ()
) -> str:
    """A summary as plain text.

    Args:
        runs: label -> :func:`summarise`; the first is the run itself.
        extra: more lines, name and text.
        notes: sentences below the table.
    """
    table = stall_table(runs)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * len(lines[0]))
    lines.append("")
    rows = summary_rows(next(iter(runs.values())), extra)
    wide = max(len(name) for name, _ in rows)
    lines += [f"{name.ljust(wide)}  {text}" for name, text in rows]
    if notes:
        lines += ["", *notes]
    return "\n".join(lines) + "\n"


def plot(records: Sequence[Record], path: Path, unigram_entropy: float | None = None) -> bool:
    """Draw losses, and stall against compile time, as PNG.

    Returns:
        False when matplotlib is not installed; nothing is written then.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    updates = [r for r in records if r.get("kind") == "update"]
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    _curve(top, updates, "loss", "training loss", lw=0.8, alpha=0.7)
    starts = [r for r in records if r.get("kind") == "start"]
    _curve(top, [*starts[:1], *updates], "valid_loss", "validation loss", marker="o", ms=3)
    if unigram_entropy is not None:
        top.axhline(unigram_entropy, color="gray", ls="--", lw=0.8, label="unigram entropy")
    top.set_ylabel("nats per token")
    _curve(bottom, updates, "compile_ms", "compile, in the background", lw=0.8)
    _curve(bottom, updates, "compile_stall_ms", "stall", lw=0.8)
    bottom.set_yscale("log")
    bottom.set_ylabel("ms")
    bottom.set_xlabel("update")
    engine = next((r["engine"] for r in updates if r.get("engine")), "")
    figure.suptitle(str(engine))
    for axes in (top, bottom):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)
    os.replace(partial, path)
    return True


def _curve(axes: Any, updates: Sequence[Record], key: str, label: str, **style: Any) -> None:
    points = [(r["update"], r[key]) for r in updates if r.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, **style)
