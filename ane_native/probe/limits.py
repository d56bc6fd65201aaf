# SPDX-License-Identifier: MIT
"""Where the engine stops. These exhaust or crash their process, which is why each has its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ane_native.errors import EngineError
from ane_native.kernel import Program

from .base import Bench, Made, conv, experiment, shape_of, weight

MOST = 200  # tiny programs, as in the facts this settles: 119 to 132, 128, 169 and 280 are claimed


@experiment("compile-limit", "how many compiles a process has (119 is reported, disputed)")
def compile_limit(bench: Bench) -> Made:
    bench.lift_compile_limit(engines_too=False)
    good = 0
    for i in range(MOST):
        try:
            with Program(conv(32, 32), weight(32, i)) as program:
                program.eval(np.ones((1, 32, 1, 32), np.float32))
        except EngineError as error:
            values = {"limit": good, "form": shape_of(error)}
            return f"{good} compiles; then {error.step}: {error.text or 'NO without error'}", values
        good += 1
        bench.tell({"good": good})
    return f"none within {MOST} compiles", {"limit": None, "good": good}


@experiment("loaded-limit", "how many programs a process may hold (128 reported)")
def loaded_limit(bench: Bench) -> Made:
    bench.lift_compile_limit(engines_too=True)
    live: list[Program] = []
    try:
        for i in range(MOST):
            try:
                live.append(Program(conv(32, 32), weight(32, i)))
            except EngineError as error:
                values: dict[str, Any] = {"limit": len(live), "form": shape_of(error)}
                live.pop().close()
                try:
                    live.append(Program(conv(32, 32), weight(32, MOST + 1)))
                    values["freed_by_unload"] = True
                except EngineError:
                    values["freed_by_unload"] = False
                what = "compiles" if error.step == "compile" else "loaded programs"
                return f"{values['limit']} {what}; then {error.step}: {error.text}", values
            bench.tell({"good": len(live)})
        return f"none within {MOST} programs", {"limit": None, "good": MOST}
    finally:
        for program in live:
            program.close()


@experiment(
    "shapes", "which widths and channels evaluate right, and the least surface", quick=False
)
def shapes(bench: Bench) -> Made:
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(3)
    for channels in (16, 64, 256, 768, 1024):
        for width in (1, 2, 8, 16, 31, 32, 33, 64):
            row: dict[str, Any] = {
                "channels": channels,
                "width": width,
                "bytes": channels * width * 2,
            }
            w = weight(channels, 1)
            x = rng.standard_normal((channels, width)).astype(np.float32)
            try:
                with Program(conv(channels, width), w) as program:
                    got = np.asarray(program.eval(x.reshape(1, channels, 1, width)))[0, :, 0]
                want = w["w"][:, :, 0, 0] @ x
                right = bool(np.abs(got - want).max() < 0.03 * np.abs(want).max())
                row["result"] = "right" if right else "wrong"
            except EngineError as error:
                row |= {"result": "refused", "form": shape_of(error)}
            rows.append(row)
            bench.tell({"rows": rows})
    good = [r for r in rows if r["result"] == "right"]
    bad = [f"{r['channels']}x{r['width']}" for r in rows if r["result"] != "right"]
    least = min((r["bytes"] for r in good), default=None)
    return (
        f"{len(good)} of {len(rows)} right; least {least} bytes; not: {', '.join(bad) or '-'}",
        {"rows": rows},
    )


@experiment(
    "values", "does a recompile fail for some weights? 50 random sets of one text", quick=False
)
def values_of_weights(bench: Bench) -> Made:
    bench.lift_compile_limit(engines_too=False)
    failures = []
    for i in range(50):
        try:
            with Program(conv(64, 64), weight(64, 5000 + i)):
                pass
        except EngineError as error:
            failures.append({"seed": 5000 + i, **shape_of(error)})
        bench.tell({"made": i + 1, "failures": failures})
    return f"{len(failures)} of 50 failed", {"failures": failures}
