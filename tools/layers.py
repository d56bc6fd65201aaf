# SPDX-License-Identifier: MIT
"""Prints imports and includes that point the wrong way; exit status 1 when there are any.

python tools/layers.py

The tables below are the law: a unit may use itself and what stands beside it. Imports
under TYPE_CHECKING are not counted: they are not there when the program runs. KNOWN
holds what breaks the rule on purpose; it is printed, so that it is not forgotten.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANY = {"*"}

PYTHON: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "_native": {"errors"},
    "soft": {"errors"},
    "engine": {"_native", "soft", "errors"},
    "kernel": {"engine", "_native", "errors"},
    "workers": {"engine", "soft", "_native", "errors"},
    "_worker": set(),
    "packing": {"kernel", "errors"},
    "stats": {"packing", "workers", "_native"},
    "totals": {"stats", "workers"},
    "sched_calls": {"kernel", "_native", "errors"},
    "versions": {"buffers", "kernel", "_native"},
    "buffers": set(),
    "updates": {"sched_calls", "versions", "kernel", "_native", "errors"},
    "scheduler": {
        *("stats", "packing", "kernel", "workers", "engine", "sched_calls", "versions"),
        *("updates", "totals", "restart", "_native", "errors"),
    },
    "cpu": {"_native", "soft", "errors"},
    "mil_ops": {"errors"},
    "mil_table": set(),
    "device_table": set(),
    "mil_literal": {"mil_ops", "mil_table"},
    "mil_text": {"mil_blob", "mil_literal", "mil_ops", "mil_table", "mil_value"},
    "mil_blob": {"mil_ops"},
    "mil_rules": {"mil_ops"},
    "mil_rules_shape": {"mil_ops", "mil_rules"},
    "mil_value": {"mil", "mil_ops"},
    "mil_calls": {"mil_value"},
    "autodiff_base": {"mil", "mil_rules", "errors"},
    "autodiff_math": {"autodiff_base", "mil"},
    "autodiff_product": {"autodiff_base", "mil", "mil_rules"},
    "autodiff_shape": {"autodiff_base", "mil", "mil_rules_shape"},
    "autodiff_quantised": {"autodiff_base", "mil"},
    "reference_quantised": {"mil", "mil_ops"},
    "autodiff_rules": {
        "autodiff_quantised",
        "autodiff_base",
        "autodiff_math",
        "autodiff_product",
        "autodiff_shape",
    },
    "autodiff": {"autodiff_rules", "mil", "mil_ops", "mil_rules", "mil_work", "errors"},
    "reference": {
        "reference_quantised",
        "autodiff_shape",
        "mil",
        "mil_ops",
        "mil_rules",
        "mil_rules_shape",
    },
    "mil_work": {"mil_text"},
    "partition_cost": {"device_table"},
    "partition": {"partition_cost", "mil", "mil_work", "kernel", "errors"},
    "nn": {"mil", "cpu"},
    "graphmodel": {"autodiff", "mil", "partition", "cpu", "kernel", "scheduler", "errors"},
    "mil_parse": {"mil", "mil_ops", "mil_table", "mil_value", "errors"},
    "mil": {
        *("mil_ops", "mil_table", "mil_blob", "mil_rules", "mil_rules_shape", "mil_value"),
        *("mil_literal", "mil_text", "mil_calls"),
        *("mil_parse", "partition", "kernel", "errors"),  # when called
    },
    "vocabulary": {"errors"},
    "tokenizer": {"errors"},
    "data": {"vocabulary", "errors"},
    "checkpoint": {"errors"},
    "optim": {"buffers", "cpu", "errors"},
    "loggers": {"errors"},
    "metrics": {"checkpoint", "loggers", "errors"},
    "trace": {"checkpoint", "errors"},
    "models": {
        *("mil", "nn", "kernel", "scheduler", "cpu", "optim", "engine", "errors"),
        *("autodiff", "graphmodel", "partition"),
    },
    "outputs": {"errors"},
    "llama2c": {"models", "outputs", "errors"},
    "decode": {"models", "errors"},
    "scaling": {"models", "cpu", "errors"},
    "microstep": {"scaling", "models", "cpu", "data", "scheduler", "kernel", "errors"},
    "progress": {"metrics", "errors"},
    "report": {"metrics", "totals", "checkpoint", "data", "engine", "cpu", "_version", "errors"},
    "restart": {"errors"},
    "device": {"device_table", "partition", "probe", "engine", "soft"},
    "strategy": {"probe", "restart", "scheduler", "packing", "engine"},
    "probe": {
        *(
            "mil",
            "kernel",
            "scheduler",
            "engine",
            "soft",
            "checkpoint",
            "outputs",
            "_native",
            "_version",
        ),
        "errors",
    },
    "generate": ANY,
    "evaluate": ANY,
    "train": ANY,
    "cli": ANY,
    "__main__": ANY,
    "__init__": ANY,
    # for the build only: they know nothing of the package
    "_toolchain": set(),
    "_core_build": set(),
}

SOFTANE: dict[str, set[str]] = {
    "base": set(),
    "mil": {"base"},
    "plan": {"mil", "base"},
    "exec": {"plan", "base"},
    "surface": {"base"},
    "device": {"plan", "exec", "mil", "base", "include"},
    "facade": {"device", "plan", "mil", "surface", "base", "include"},
    "include": set(),
}

KNOWN = {
    ("ane_native/soft.py", "engine"): "only when a setting is asked of the open engine",
    ("softane/plan", "exec"): "a step holds its kernel; the kernel table is exec's",
    ("softane/surface", "device"): "the device counts surfaces",
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module of the package) of every import that happens at run time."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.dump(tree.test):
        for node in tree.orelse:
            yield from imports(node)
        return
    if isinstance(tree, ast.ImportFrom):
        module = tree.module or ""
        inside = tree.level > 0 or module.split(".")[0] == "ane_native"
        rest = module.split(".")[1:] if tree.level == 0 else module.split(".") if module else []
        if inside and rest:
            yield tree.lineno, rest[0]
        elif inside:
            yield from ((tree.lineno, alias.name) for alias in tree.names)
    elif isinstance(tree, ast.Import):
        for alias in tree.names:
            parts = alias.name.split(".")
            if parts[0] == "ane_native" and len(parts) > 1:
                yield tree.lineno, parts[1]
    for node in ast.iter_child_nodes(tree):
        yield from imports(node)


def python_edges() -> Iterator[tuple[str, str, str, int]]:
    """(file, unit, used unit, line) inside the Python package."""
    package = ROOT / "ane_native"
    for path in sorted(package.rglob("*.py")):
        unit = path.relative_to(package).parts[0].removesuffix(".py")
        relative_to_sub = path.parent != package
        for line, used in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if relative_to_sub and (path.parent / f"{used}.py").exists():
                continue  # a neighbour in the same subpackage
            if used in PYTHON or (package / f"{used}.py").exists():
                yield str(path.relative_to(ROOT)), unit, used, line


def c_edges() -> Iterator[tuple[str, str, str, int]]:
    """(file, stage, used stage, line) inside softane."""
    for path in sorted((ROOT / "softane").rglob("*.[chm]")):
        stage = path.relative_to(ROOT / "softane").parts[0]
        if stage not in SOFTANE:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found = re.match(r'#\s*(?:include|import)\s+"([^"]+)"', line)
            if found:
                target = (path.parent / found[1]).resolve()
                if ROOT / "softane" in target.parents:
                    used = target.relative_to(ROOT / "softane").parts[0]
                    yield str(path.relative_to(ROOT)), stage, used, number


def core_includes() -> Iterator[str]:
    """The core must not know softane: includes of it, and its names."""
    for path in sorted((ROOT / "ane_native").glob("*.[chm]")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.match(r"#\s*(include|import).*softane", line) or re.search(
                r"\bsoftane_\w+\(", line
            ):
                yield f"{path.relative_to(ROOT)}:{number}: the core uses softane: {line.strip()}"


def main() -> int:
    """Print what points the wrong way."""
    wrong, known, strange = list(core_includes()), set(), set()
    tables = ((PYTHON, python_edges()), (SOFTANE, c_edges()))
    for table, edges in tables:
        for file, unit, used, line in edges:
            if unit not in table:
                strange.add(f"{file}: '{unit}' is not in the table of tools/layers.py")
                continue
            if used == unit or used in table[unit] or table[unit] is ANY:
                continue
            stage = str(Path(file).parent)
            key = next((k for k in ((file, used), (stage, used)) if k in KNOWN), None)
            if key:
                known.add(f"known: {key[0]} uses {used}: {KNOWN[key]}")
            else:
                wrong.append(f"{file}:{line}: {unit} must not use {used}")
    for text in [*sorted(known), *sorted(strange), *wrong]:
        print(text)
    print(f"layers: {len(wrong)} point the wrong way, {len(known)} known")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
