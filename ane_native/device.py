# SPDX-License-Identifier: MIT
"""Limits and costs of the engine that is open here, for :mod:`ane_native.partition`.

Three places know something, and the later one wins: the profile of the chip
(:mod:`ane_native.device_table`), softane's settings where softane is the engine, and the
probe's stored result of this engine and OS build. Every figure says which it was.
"""

from __future__ import annotations

import re

from ane_native import probe, soft
from ane_native.device_table import PROFILES
from ane_native.engine import Engine
from ane_native.partition import Cost, Figure, Limits
from ane_native.probe import Report

__all__ = ["figures", "here", "profile_of"]

# Runtime names of chips begin with the generation of their Neural Engine: H13 is M1's
# (sbryngelson/ANEForge docs; an M3 Pro was seen to call itself h14g).
GENERATIONS = {"h13": "m1", "h14": "m2", "h15": "m3-ultra", "h16": "m4", "h17": "m5"}


def profile_of(chip: str) -> str:
    """The profile for a chip's runtime name (``"h16g"``) or a profile's own name."""
    name = chip.lower()
    if name in PROFILES:
        return name
    return GENERATIONS.get(name[:3], "default")


def measured(report: Report) -> dict[str, Figure]:
    """What a probe measured, by the keys of profiles; only what is a usable number."""
    rows = (
        ("floor_ms", "throughput", "floor_ms"),
        ("compile_ms", "compile-cost", "base_ms"),
        ("op_ms", "compile-cost", "op_ms"),
        ("mib_ms", "compile-cost", "mib_ms"),
        ("busy", "overlap", "factor"),
        ("compile_limit", "compile-limit", "limit"),
        ("loaded_limit", "loaded-limit", "limit"),
    )
    made: dict[str, Figure] = {}
    for key, experiment, name in rows:
        value = report.value(experiment, name)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        least = 1.0 if key == "busy" else 0.0  # a fit or a noisy ratio may fall below what can be
        made[key] = Figure(max(value, least), f"measured here by the probe, {experiment}")
    best = [r["tflops"] for r in report.value("peak", "rows") or () if "tflops" in r]
    if best:
        made["tflops"] = Figure(max(best), "measured here by the probe, peak")
    return made


def figures(engine: Engine | None = None) -> tuple[str, dict[str, Figure]]:
    """(profile, figures that replace its own) of an engine; the open one when None."""
    engine = Engine() if engine is None else engine
    about = engine.info()
    known: dict[str, Figure] = {}
    if engine.software:
        given = str(about["profile"])
        name = given if given in PROFILES else "default"  # a file is no row of the table
        for line in soft.get("profile.values").splitlines():
            found = re.match(r"(\w+) = ([0-9.]+)\s+# (\S+)", line)
            if not found or found[1] not in PROFILES["default"]:
                continue
            if found[3] == "set":
                known[found[1]] = Figure(float(found[2]), "softane setting")
            elif given not in PROFILES:
                source = soft.get(f"source.{found[1]}").removeprefix("source: ")
                known[found[1]] = Figure(float(found[2]), f"{given}: {source}")
    else:
        name = profile_of(str(about.get("chip", "")))
    report = probe.find(engine)
    return name, known | (measured(report) if report is not None else {})


def here(engine: Engine | None = None) -> tuple[Limits, Cost]:
    """Limits and costs of an engine; the open one when None.

    Nothing is measured now: ``ane-native probe`` does that and keeps its result.
    """
    name, known = figures(engine)
    return Limits.of(name, known), Cost.of(name, known)
