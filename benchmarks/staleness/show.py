# SPDX-License-Identifier: MIT
"""Table and curves of the staleness study.

    python benchmarks/staleness/show.py results/*.jsonl --markdown docs/STALENESS.md \
        --plot docs/staleness.png

Without options the tables go to standard output. ``--markdown`` replaces what stands between
the two marks of a page; nothing in a table is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- tables begin -->", "<!-- tables end -->"
DIVERGED = 1.3  # a loss above this share of the best of its model is a run that did not learn
REMEDY = {("none", 0.9): "none", ("none", 0.7): "beta1 0.7", ("extrapolate", 0.9): "extrapolate"}
REMEDY |= {("extrapolate", 0.7): "extrapolate, beta1 0.7"}

STYLES = {("none", 0.9): "-", ("extrapolate", 0.9): "--", ("extrapolate", 0.7): ":"}  # of curves

Key = tuple[str, str, int, str, float, float]


def read(paths: list[Path]) -> list[dict[str, Any]]:
    """The results, one dictionary a run."""
    runs = []
    for path in paths:
        runs += [json.loads(line) for line in path.read_text().splitlines() if line]
    return runs


def policy_name(policy: str, n: int) -> str:
    return f"staleness {n}" if policy == "delay" else f"when ready, compile of {n} batches"


def grouped(runs: list[dict[str, Any]]) -> dict[Key, list[dict[str, Any]]]:
    """Runs that differ by the seed alone."""
    groups: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        c = run["case"]
        key = (c["model"], c["policy"], c["n"], c["remedy"], c["beta1"], c["lr"])
        groups[key].append(run)
    return groups


def by_size(runs: list[dict[str, Any]]) -> list[str]:
    """The models, smallest first."""
    return list(dict.fromkeys(r["case"]["model"] for r in sorted(runs, key=parameters)))


def parameters(run: dict[str, Any]) -> int:
    return int(run["parameters"])


def final(run: dict[str, Any]) -> float:
    return float(run["valid"][-1][1])


def cell(runs: list[dict[str, Any]], best: float) -> str:
    """Mean and half the range over the seeds, or how many did not learn."""
    losses = [final(r) for r in runs]
    lost = sum(loss > DIVERGED * best or loss != loss for loss in losses)
    if lost:
        return f"{lost} of {len(losses)} failed"
    half = (max(losses) - min(losses)) / 2
    return f"{statistics.fmean(losses):.3f} ± {half:.3f}"


def tables(runs: list[dict[str, Any]]) -> str:
    """A Markdown table per model: rows are delay and remedy, columns learning rates."""
    groups = grouped(runs)
    text = []
    for model in by_size(runs):
        mine = {k: v for k, v in groups.items() if k[0] == model}
        one = next(iter(mine.values()))[0]
        best = min(final(r) for v in mine.values() for r in v)
        rates = sorted({k[5] for k in mine})
        case = one["case"]
        seeds = max(len(v) for v in mine.values())
        text += [
            f"### {model}: {one['parameters']:,} parameters, {case['updates']} updates of "
            f"{case['accumulate']} windows, {seeds} seeds",
            "",
            "| the batch runs on weights of | remedy | "
            + " | ".join(f"lr {rate:g}" for rate in rates)
            + " | best against synchronous |",
            "|---|---|" + "--:|" * (len(rates) + 1),
        ]

        def best_of(select: dict[Key, list[dict[str, Any]]]) -> float:
            return min(statistics.fmean(final(r) for r in v) for v in select.values())

        synchronous = best_of({k: v for k, v in mine.items() if k[1:3] == ("delay", 0)})
        for row in dict.fromkeys(k[1:5] for k in sorted(mine, key=order)):
            cells = {k[5]: cell(v, best) for k, v in mine.items() if k[1:5] == row}
            gap = best_of({k: v for k, v in mine.items() if k[1:5] == row}) - synchronous
            text.append(
                f"| {policy_name(row[0], row[1])} | {REMEDY[row[2], row[3]]} | "
                + " | ".join(cells.get(rate, "–") for rate in rates)
                + f" | {gap:+.3f} |"
            )
        text.append("")
    engines = sorted({r["engine"] for r in runs})
    minutes = sum(r["seconds"] for r in runs) / 60
    text.append(
        f"{len(runs)} runs, {minutes:.0f} minutes of training, engine {', '.join(engines)}."
    )
    return "\n".join(text)


def order(key: Key) -> tuple[Any, ...]:
    return (key[1] != "delay", key[2], key[3] != "none", -key[4], key[5])


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Validation loss against updates: a panel per model, a band over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = grouped(runs)
    models = by_size(runs)
    figure, axes = plt.subplots(1, len(models), figsize=(6 * len(models), 6.2), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        mine = {k: v for k, v in groups.items() if k[0] == model}
        policies = list(dict.fromkeys(k[1:3] for k in sorted(mine, key=order)))
        for i, policy in enumerate(policies):
            for (remedy, beta1), style in STYLES.items():
                row = (*policy, remedy, beta1)
                some = {k: v for k, v in mine.items() if k[1:5] == row}
                if not some:
                    continue
                rate = min(some.items(), key=lambda kv: statistics.fmean(map(final, kv[1])))
                curves = [dict(r["valid"]) for r in rate[1]]
                at = sorted(set.intersection(*(set(c) for c in curves)))
                low = [min(c[u] for c in curves) for u in at]
                high = [max(c[u] for c in curves) for u in at]
                mean = [statistics.fmean(c[u] for c in curves) for u in at]
                label = "staleness {1}" if policy[0] == "delay" else "when ready ({1})"
                label = label.format(*policy) + f", {REMEDY[remedy, beta1]}".replace(", none", "")
                axis.plot(at, mean, style, color=f"C{i}", label=f"{label} (lr {rate[0][5]:g})")
                axis.fill_between(at, low, high, color=f"C{i}", alpha=0.15)
        axis.set_title(f"{model} model, best rate of each")
        axis.set_xlabel("updates")
        axis.set_ylabel("validation loss of the newest weights, nats per byte")
        axis.set_ylim(top=min(4.0, axis.get_ylim()[1]))
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--markdown", type=Path, help="page whose tables are replaced")
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    args = parser.parse_args(argv)
    runs = read(args.results)
    if not runs:
        parser.error("the files hold no results")
    text = tables(runs)
    if args.markdown:
        page = args.markdown.read_text()
        if BEGIN not in page or END not in page:
            parser.error(f"{args.markdown}: the marks {BEGIN} and {END} are missing")
        head, _, rest = page.partition(BEGIN)
        args.markdown.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    else:
        print(text)
    if args.plot:
        plot(runs, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
