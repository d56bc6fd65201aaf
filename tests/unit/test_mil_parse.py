# SPDX-License-Identifier: MIT
"""MIL text read back into graphs, held to softane's corpus of programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ane_native import mil, mil_blob
from ane_native.mil_parse import MilSyntaxError, parse
from ane_native.mil_table import TABLE

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "softane" / "tests" / "corpus"
VALID = sorted((CORPUS / "valid").glob("*.mil"))
ERRORS = sorted((CORPUS / "errors").glob("*.mil"))


def read(path: Path) -> tuple[str, str]:
    """(what is expected, the text)."""
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True)
    return lines[0], "".join(line for line in lines if not line.startswith("#"))


def meaning(g: mil.Graph) -> list[object]:
    """A graph without names: operations, operands by position, constants by value."""
    number = {v: ("input", i) for i, v in enumerate(g.inputs)}
    live = g.live()
    out: list[object] = [[str(v.type) for v in g.inputs]]
    for s in g.statements:
        if s.op == "const":
            key = (s.blob, s.offset) if s.blob else repr(s.literal)
            number[s.results[0]] = (str(s.results[0].type), key)  # type: ignore[assignment]
    n = 0
    for s in g.statements:
        if s.op == "const" or not any(v in live for v in s.results):
            continue
        operands = {
            k: [number[x] for x in (v if isinstance(v, tuple) else (v,))]
            for k, v in s.operands.items()
        }
        out.append((s.op, operands, [str(v.type) for v in s.results]))
        for v in s.results:
            number[v] = ("made", n)
            n += 1
    out.append([(v.name, number[v]) for v in g.outputs])
    return out


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_round_trip_over_the_corpus(path: Path) -> None:
    expected, text = read(path)
    functions = parse(text, allow_refused=True)
    for g in functions.values():
        live = {s for v in g.live() if (s := v.statement) is not None}
        written = g.build().text if g.live() >= set(g.inputs) else None
        if written is None:  # an input nobody uses: fine in a text, refused by the writer
            continue
        again = parse(written, allow_refused=True)[g.function_name]
        assert meaning(again) == meaning(g)
        assert again.target == g.target
        assert again.dialect == g.dialect
        other: mil.Dialect = "A" if g.dialect == "B" else "B"
        assert meaning(parse(g.build(other).text, allow_refused=True)[g.function_name]) == meaning(
            g
        )
        assert live
    count = re.search(r"ok (\d+) live", expected)
    assert count is not None
    live_ops = sum(
        not s.is_constant and any(v in g.live() for v in s.results)
        for g in functions.values()
        for s in g.statements
    )
    assert live_ops == int(count[1])


def test_the_corpus_holds_every_operation() -> None:
    seen = {
        s.op
        for p in VALID
        for g in parse(read(p)[1], allow_refused=True).values()
        for s in g.statements
    }
    assert seen - {"const"} == set(TABLE)


# What softane refuses for reasons of a device or of a front end that the builder does not know.
LIMITS_ONLY = re.compile(r"E_LIMIT|E_BLOB")


@pytest.mark.parametrize("path", ERRORS, ids=lambda p: p.stem)
def test_what_softane_refuses_raises_or_is_a_limit(path: Path) -> None:
    expected, text = read(path)
    try:
        for g in parse(text).values():
            g.build()
    except (MilSyntaxError, ValueError):
        return
    assert LIMITS_ONLY.search(expected), f"{path.name} passed, softane says: {expected}"


def test_errors_name_line_and_column() -> None:
    g = mil.Graph()
    g.output("y", mil.relu(g.input("x", (1, 4, 1, 32))))
    text = g.build().text.replace("relu(x=i00_x)", "relu(x=missing)")
    with pytest.raises(MilSyntaxError, match=r"^5:\d+: 'missing' is not defined") as caught:
        parse(text)
    line = text.splitlines()[caught.value.line - 1]
    assert line[caught.value.column - 1 :].startswith("missing")


@pytest.mark.parametrize("name", ["gen_mil.py", "gen_profiles.py"])
def test_generated_files_have_not_drifted(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dtype", sorted(mil_blob.CODES))
def test_blobs_read_back(dtype: str, tmp_path: Path, rng: np.random.Generator) -> None:
    bits = mil_blob.SMALL_BITS.get(dtype)
    kind = mil_blob.DTYPES[dtype]
    low, high = (-8, 8) if dtype == "int4" else (0, 1 << bits) if bits else (-90, 90)
    if dtype.startswith("uint"):
        low = 0
    first = rng.integers(low, high, 37).astype(kind)
    second = rng.integers(low, high, (3, 5)).astype(kind)
    path = tmp_path / "w.bin"
    mil_blob.write(path, [(dtype, first), (dtype, second)])
    assert np.array_equal(mil_blob.read(path, dtype, 37), first)
    size = -(-(37 * (bits or 8 * np.dtype(kind).itemsize)) // 8)
    offset = 128 + -(-size // 64) * 64
    assert np.array_equal(mil_blob.read(path, dtype, 15, offset), second.reshape(-1))
    with pytest.raises(ValueError, match="blob at 64: expected"):
        mil_blob.read(path, dtype, 20)
    with pytest.raises(ValueError, match="blob at 128"):
        mil_blob.read(path, dtype, 37, 128)


def test_a_blob_is_the_documented_bytes() -> None:
    got = mil_blob.pack([("fp16", np.array([[1, 2], [3, 4]]))])[:136]
    want = bytes.fromhex("0100000002000000") + bytes(56)
    want += bytes.fromhex("EFBEADDE0100000008000000000000008000000000000000") + bytes(40)
    assert got == want + bytes.fromhex("003C004000420044")
