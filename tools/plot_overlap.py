# SPDX-License-Identifier: MIT
"""Draw a few batches of a run's trace: evaluations above, the background compile below.

    python tools/plot_overlap.py runs/demo docs/overlap.png [--batches 4] [--skip 20]

Reads trace.json as `ane-native train` writes it; needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

COLOURS = {
    "eval": "#2b6cb0",
    "bake": "#d69e2e",
    "compile": "#c53030",
    "load": "#6b46c1",
    "canary": "#2f855a",
    "unload": "#a0aec0",
}


def kind_of(event: dict[str, Any]) -> str | None:
    """The drawn kind of a span, None for the others."""
    word = str(event["name"]).split(" ")[0]
    if word in COLOURS:
        return word
    return (
        "eval"
        if "kernel" in event.get("args", {}) or word.split(".")[-1].endswith(("fwd", "bwd"))
        else None
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--skip", type=int, default=20, help="batches left out at the start")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    trace = json.loads((args.run / "trace.json").read_text())
    spans = [e for e in trace["traceEvents"] if e.get("ph") == "X"]
    swaps = sorted(e["ts"] + e["dur"] for e in spans if e["name"] == "boundary")
    if len(swaps) < args.skip + args.batches + 1:
        print(f"{args.run}: {len(swaps)} boundaries in the trace, too few", file=sys.stderr)
        return 1
    begin, end = swaps[args.skip], swaps[args.skip + args.batches]
    figure, axes = plt.subplots(figsize=(11, 2.6), dpi=110)
    rows = {"eval": 1, "rest": 0}
    drawn = set()
    for e in spans:
        kind = kind_of(e)
        if kind is None or e["ts"] + e["dur"] < begin or e["ts"] > end:
            continue
        row = rows["eval"] if kind == "eval" else rows["rest"]
        label = None if kind in drawn else {"eval": "evaluate"}.get(kind, kind)
        drawn.add(kind)
        axes.broken_barh(
            [((e["ts"] - begin) / 1000, e["dur"] / 1000)], (row - 0.36, 0.72),
            facecolors=COLOURS[kind], label=label,
        )  # fmt: skip
    for swap in swaps:
        if begin <= swap <= end:
            axes.axvline((swap - begin) / 1000, color="black", lw=0.8, ls=":")
    axes.set_yticks([0, 1], ["background:\nnext kernel set", "training:\nactive kernel set"])
    axes.set_xlim(0, (end - begin) / 1000)
    axes.set_xlabel("milliseconds; dotted: batch boundary (swap)")
    axes.legend(ncol=6, loc="upper center", bbox_to_anchor=(0.5, 1.24), frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(args.picture)
    print(args.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
