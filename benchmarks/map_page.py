# SPDX-License-Identifier: MIT
"""The page and the picture of the map."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import map_set

Row = dict[str, Any]
NO_STALL = 0.01  # share of a batch
DISTURBED = 1.05

HOW = """# Stall and staleness of a Stories110M-shaped set

What hiding the compile costs and where it cannot be hidden, for every chip whose profile and
micro-step are published. `python benchmarks/map.py` makes this page and the picture in a minute.

**What is real and what is model.** The scheduler is the real one: `_core_sched.c` decides at every
boundary what is swapped, waited for and compiled. All times are models, from published figures that
nobody on this project could take again (no Mac): the profiles in `softane/profiles` say where each number
comes from, ±25 %. The clock is advanced by these times instead of sleeping them, so a row is exact and
repeats; the machine's own share (copying weights, microseconds of a boundary) is not in it. At the end some
rows stand beside runs in real time on softane, which sleeps.

* **Micro-step**: the published one; its evaluations (72) from the profile, times the published
  slow-down (1.13 to 1.19) while this process compiles. An M2's was never published: no rows.
* **Compile**: 60 baked kernels. Each program costs `base + p per operation + b per MiB` of the profile, then a
  load. Unpacked that is close to what was measured (M4: 3.4 s); **packed is the fit extrapolated**: ten
  programs save fifty times `base` and nothing else. On an M1 the fit has no `base`, so packing gains
  only the limits (programs per process), no time. Nobody has published compile times of such packs.
* **Workers**: compile whole programs side by side in processes of their own, this process loads. That two
  processes compile at the same time without slowing each other, or the evaluations, is **assumed**: no
  figure exists (`ane-native probe --only parallel` would give one).
* **Bound**: `synchronous` is `staleness=0`; 1, 2, 4 the trainer's bound; `when ready` is `staleness=None`, the
  policy of maderix/ANE pull request #23.

A row is {batches} batches or more, the first three sets left out; `synchronous` could do better with offers
(`bench_exact_overlap.py`). Real weights also cost a copy at the boundary unless they are handed over (`handover=True`,
`update=`): 340 MB here.

**How bounds work out.** With a compile of C and batches of T, a set is installed every m batches, m the least
whole number of batches that hold C; the lag then goes from m up to 2 m − 1. A bound n allows
m ≤ (n + 1) / 2 on average and waits for the rest: batch ≈ max(T, 2 C / (n + 1)). With bound 1 that is max(T, C): nothing
is lost but what cannot be hidden.
"""


def cell(r: Row) -> str:
    """Stall and staleness of a row."""
    stall = "–" if r["stall_share"] < 0.0005 else f"{r['stall_share']:.0%}"
    text = f"{stall} · {r['staleness_mean']:.1f}"
    return f"**{text}**" if r["stall_share"] < NO_STALL else text


def best(rows: Iterable[Row]) -> Row | None:
    """Without stall, at the least staleness."""
    good = [r for r in rows if r["stall_share"] < NO_STALL]
    return min(good, key=lambda r: (r["staleness_mean"], r["staleness_max"]), default=None)


def named(r: Row | None) -> str:
    """A setting and what it costs."""
    if r is None:
        return "none"
    return f"{r['policy']}: {r['staleness_mean']:.1f}, at most {r['staleness_max']}"


def _values(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(r[key] for r in rows))


def _setting(packed: bool, workers: int) -> str:
    return f"{'packed' if packed else '60 programs'}, {workers} worker{'s' if workers != 1 else ''}"


def page(rows: list[Row], checked: list[Row]) -> str:
    """docs/MAP.md."""
    out = [HOW.format(batches=min(r["batches"] for r in rows)), "![map](map.png)", ""]
    out += _no_stall(rows) + _tables(rows) + _checked(rows, checked)
    return "\n".join(out) + "\n"


def _no_stall(rows: list[Row]) -> list[str]:
    steps = _values(rows, "accumulate")
    out = [
        "## Settings without stall, and what they cost",
        "",
        f"Less than {NO_STALL:.0%} of the batch is lost. Each cell: the bound with the least staleness, its mean "
        "and its greatest value in updates.",
        "",
        "| chip | set | " + " | ".join(f"{n} micro-step{'s' * (n > 1)}" for n in steps) + " |",
        "|---|---|" + "---|" * len(steps),
    ]
    for chip in _values(rows, "chip"):
        for packed in (False, True):
            for workers in _values(rows, "workers"):
                mine = [
                    r for r in rows
                    if (r["chip"], r["packed"], r["workers"]) == (chip, packed, workers)
                ]  # fmt: skip
                cells = [named(best(r for r in mine if r["accumulate"] == n)) for n in steps]
                out.append(f"| {chip} | {_setting(packed, workers)} | " + " | ".join(cells) + " |")
    out += ["", "The least micro-steps per update with which bound 1 has no stall:", ""]
    for chip in _values(rows, "chip"):
        found = []
        for packed in (False, True):
            for workers in _values(rows, "workers"):
                compiled = next(
                    r["compile_ms"] for r in rows
                    if (r["chip"], r["packed"], r["workers"]) == (chip, packed, workers)
                )  # fmt: skip
                c = map_set.chip(chip)
                step = c.cpu_ms + c.eval_ms * (c.busy if not workers else 1.0)
                found.append(f"{_setting(packed, workers)} {-(-compiled // step):.0f}")
        out.append(f"* {chip}: {'; '.join(found)}")
    return [*out, ""]


def _tables(rows: list[Row]) -> list[str]:
    policies = _values(rows, "policy")
    out = [
        "## All rows",
        "",
        "Stall as a share of the batch · staleness, mean. Bold: no stall.",
        "",
    ]
    for chip in _values(rows, "chip"):
        out += [
            f"### {chip}",
            "",
            "| set | compile ms | micro-steps | training ms | " + " | ".join(policies) + " |",
            "|---|--:|--:|--:|" + "--:|" * len(policies),
        ]
        for packed in (False, True):
            for workers in _values(rows, "workers"):
                for n in _values(rows, "accumulate"):
                    mine = {
                        r["policy"]: r for r in rows
                        if (r["chip"], r["packed"], r["workers"], r["accumulate"]) == (chip, packed, workers, n)
                    }  # fmt: skip
                    first = mine[policies[0]]
                    out.append(
                        f"| {_setting(packed, workers)} | {first['compile_ms']:,.0f} | {n} | "
                        f"{first['train_ms']:,.0f} | "
                        + " | ".join(cell(mine[p]) for p in policies)
                        + " |"
                    )
        out.append("")
    return out


def _checked(rows: list[Row], checked: list[Row]) -> list[str]:
    out = ["## Beside runs in real time", ""]
    if not checked:
        return [
            *out,
            "None were made: `python benchmarks/map.py --check` on a machine without other work.",
        ]
    keys = ("chip", "packed", "workers", "accumulate", "policy")
    exact = {tuple(r[k] for k in keys): r for r in rows}
    scale = max(r["scale"] for r in checked)
    marked = sum(r["disturbed"] > DISTURBED for r in checked)
    out += [
        "softane sleeps the same times; compile, evaluation and boundary are real. `asked`: how much longer than "
        f"asked training or compile took, the greater of both (all times {scale:g} times as long and divided by that); rows above {DISTURBED - 1:.0%} (here {marked} of "
        f"{len(checked)}) say more of this machine than of the trainer and are marked *. Stall in ms.",
        "",
        "| row | bound | batch ms: map, run | batch / max(compile, train) | stall p50, p99: map | run | staleness: map, run | asked |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in checked:
        e = exact[tuple(r[k] for k in keys)]
        mark = "*" if r["disturbed"] > DISTURBED else ""
        out.append(
            f"| {r['chip']}, {_setting(r['packed'], r['workers'])}, {r['accumulate']} micro-steps | {r['policy']} | "
            f"{e['batch_ms']:,.0f}, {r['batch_ms']:,.0f}{mark} | {r['over_longer']:.3f} | "
            f"{e['stall_p50_ms']:,.0f}, {e['stall_p99_ms']:,.0f} | {r['stall_p50_ms']:,.0f}, {r['stall_p99_ms']:,.0f} | "
            f"{e['staleness_mean']:.1f}, {r['staleness_mean']:.1f} | {r['disturbed'] - 1:+.1%} |"
        )
    return out


def picture(rows: list[Row], path: Path) -> None:
    """Above: stall by bound on one chip; below: the least staleness without stall, all chips."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings = [(False, 0), (True, 0), (True, 2)]
    steps, chips = _values(rows, "accumulate"), _values(rows, "chip")
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.4))
    for i, (packed, workers) in enumerate(settings):
        mine = [r for r in rows if (r["packed"], r["workers"]) == (packed, workers)]
        for policy in _values(rows, "policy"):
            line = [r for r in mine if r["chip"] == "m4" and r["policy"] == policy]
            axes[0, i].plot(
                [r["accumulate"] for r in line],
                [100 * r["stall_share"] for r in line],
                "o-",
                ms=3,
                label=policy,
            )
        axes[0, i].set(
            xscale="log",
            xticks=steps,
            xticklabels=steps,
            ylim=(-3, 100),
            title=f"m4, {_setting(packed, workers)}",
        )
        axes[0, i].minorticks_off()
        axes[0, i].set_xlabel("micro-steps per update")
        found = [
            [best(r for r in mine if (r["chip"], r["accumulate"]) == (chip, n)) for n in steps]
            for chip in chips
        ]
        lag = [[r["staleness_mean"] if r else float("nan") for r in line] for line in found]
        axes[1, i].imshow(lag, cmap="YlOrRd", norm=matplotlib.colors.LogNorm(1, 60), aspect="auto")
        for y, line in enumerate(found):
            for x, r in enumerate(line):
                axes[1, i].text(
                    x,
                    y,
                    f"{r['staleness_mean']:.1f}" if r else "–",
                    ha="center",
                    va="center",
                    fontsize=8,
                )
        axes[1, i].set(
            xticks=range(len(steps)), xticklabels=steps, yticks=range(len(chips)), yticklabels=chips
        )
        axes[1, i].set_title("least mean staleness without stall", fontsize=10)
        axes[1, i].set_xlabel("micro-steps per update")
    axes[0, 0].set_ylabel("stall, % of the batch")
    axes[0, 0].legend(title="bound", fontsize=8)
    figure.suptitle(
        "Real scheduler, times of softane's chip profiles (models, not measurements)", fontsize=11
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
