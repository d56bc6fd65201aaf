# SPDX-License-Identifier: MIT
"""softane-run and softane-dump on small programs: results, files, errors with their place."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="softane is not built there")

HEADER = (
    "program(1.3)\n"
    '[buildInfo = dict<string, string>({{"coremlc-component-MIL", "3510.2.1"}, '
    '{"coremlc-version", "3505.4.1"}, {"coremltools-component-milinternal", ""}, '
    '{"coremltools-version", "9.0"}})]\n'
)
CONV = """{
    func main<ios18>(tensor<fp16, [1, 8, 1, 32]> x) {
        string pt = const()[name=string("pt"), val=string("valid")];
        tensor<int32, [2]> st = const()[name=string("st"), val=tensor<int32, [2]>([1,1])];
        tensor<int32, [4]> pd = const()[name=string("pd"), val=tensor<int32, [4]>([0,0,0,0])];
        int32 gr = const()[name=string("gr"), val=int32(1)];
        tensor<fp16, [4, 8, 1, 1]> w = const()[name=string("w"), val=tensor<fp16, [4, 8, 1, 1]>(BLOBFILE(path=string("@model_path/weights/w.bin"), offset=uint64(64)))];
        tensor<fp16, [1, 4, 1, 32]> y = conv(x=x, weight=w, strides=st, pad_type=pt, pad=pd, dilations=st, groups=gr)[name=string("y")];
    } -> (y);
}
"""
TWO = """{
    func main<ios18>(tensor<fp16, [1, 3, 2, 5]> b, tensor<fp16, [1, 3, 2, 5]> a) {
        tensor<fp16, [1, 3, 2, 5]> d = sub(x=a, y=b)[name=string("d")];
        tensor<fp16, [1, 3, 2, 5]> s = add(x=a, y=b)[name=string("s")];
    } -> (s, d);
    func other<ios18>(tensor<fp16, [1, 2, 1, 32]> a) {
        tensor<fp16, [1, 2, 1, 32]> r = relu(x=a)[name=string("r")];
    } -> (r);
}
"""


@pytest.fixture(scope="session")
def tools() -> dict[str, Path]:
    spec = importlib.util.spec_from_file_location("softane_build", ROOT / "softane" / "build.py")
    assert spec
    assert spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    return {p.name: p for p in build.build_tools()}


class Tool:
    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder = path, folder

    def __call__(self, *args: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(self.path), *map(str, args)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done


@pytest.fixture
def run(tools: dict[str, Path], tmp_path: Path) -> Tool:
    return Tool(tools["softane-run"], tmp_path)


@pytest.fixture
def dump(tools: dict[str, Path], tmp_path: Path) -> Tool:
    return Tool(tools["softane-dump"], tmp_path)


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    path = tmp_path / "conv.mil"
    path.write_text(HEADER + CONV)
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.mil"
    path.write_text(HEADER + TWO)
    return path


def blob(values: np.ndarray) -> bytes:
    data = values.astype(np.float16).tobytes()
    head = np.array([1, 2], "<u4").tobytes().ljust(64, b"\0")
    meta = np.array([0xDEADBEEF, 1], "<u4").tobytes()
    meta += np.array([len(data), 128], "<u8").tobytes()
    return head + meta.ljust(64, b"\0") + data


# ============================== Running ===================================== #


def test_a_convolution_from_arrays(
    run: Tool, conv: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    w = rng.standard_normal((4, 8)).astype(np.float16)
    x = rng.standard_normal((8, 32))
    np.save(tmp_path / "w.npy", w)
    np.save(tmp_path / "x.npy", x)
    done = run(conv, "--weights", "w.bin=w.npy", "--input", "x=x.npy", "--output-dir", "out")
    y = np.load(tmp_path / "out" / "y.npy")
    assert y.shape == (1, 4, 1, 32)
    assert y.dtype == np.float16
    want = w.astype(np.float64) @ x.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(y[0, :, 0], want, rtol=2e-3, atol=2e-3)
    assert re.search(r"^input +x +tensor<fp16, \[1, 8, 1, 32\]> +min", done.stdout, re.M)
    assert re.search(r"^output +y +tensor<fp16, \[1, 4, 1, 32\]> +min", done.stdout, re.M)
    assert f"{float(y[0, 0, 0, 0]):.5g}" in done.stdout
    assert not list(tmp_path.glob("softane-weights-*"))


def test_weights_lie_beside_the_program_or_where_it_is_said(
    run: Tool, conv: Path, tmp_path: Path
) -> None:
    w = np.arange(32).reshape(4, 8)
    for name in ("", "elsewhere"):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / "w.bin").write_bytes(blob(w if name else -w))
    run(conv, "--input", "x=ones", "--output-dir", "a")
    run(conv, "--input=x=ones", "--weights=elsewhere", "--output-dir=b")
    want = w.sum(1)
    np.testing.assert_array_equal(np.load(tmp_path / "a/y.npy")[0, :, 0, 0], -want)
    np.testing.assert_array_equal(np.load(tmp_path / "b/y.npy")[0, :, 0, 0], want)


def test_ports_by_name_and_rows_with_padding(
    run: Tool, two: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    a, b = rng.standard_normal((3, 2, 5)), rng.integers(-5, 5, (1, 3, 2, 5))
    np.save(tmp_path / "a.npy", a.astype(np.float32))
    np.save(tmp_path / "b.npy", b)
    run(two, "--input", "a=a.npy", "--input", "b=b.npy", "--output-dir", "out")
    half = a.astype(np.float32).astype(np.float16).astype(np.float64)
    s, d = (np.load(tmp_path / "out" / f"{n}.npy").astype(np.float64) for n in "sd")
    np.testing.assert_allclose(s, half + b, rtol=1e-3)
    np.testing.assert_allclose(d, half - b, rtol=1e-3)


def test_other_functions_seeds_and_repeats(run: Tool, two: Path, tmp_path: Path) -> None:
    first = run(two, "--function", "other", "--seed", 1, "--output-dir", "a", "--repeat", 5)
    assert re.search(r"^time +best [\d.]+ ms, mean [\d.]+ ms of 5", first.stdout, re.M)
    run(two, "--function", "other", "--seed", 1, "--output-dir", "b", "--numerics", "ieee")
    run(two, "--function", "other", "--seed", 2, "--output-dir", "c", "--threads", 1)
    a, b, c = (np.load(tmp_path / f"{n}/r.npy") for n in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (a >= 0).all()
    assert 0.2 < a.astype(np.float64).mean() < 0.6  # of normal numbers, cut at 0


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
)
def test_arrays_of_every_dtype(run: Tool, two: Path, tmp_path: Path, dtype: str) -> None:
    x = (np.arange(64) % 2 if dtype == "?" else np.arange(64)).astype(dtype)
    np.save(tmp_path / "x.npy", x.reshape(2, 32))
    run(two, "--function", "other", "--input", "a=x.npy", "--output-dir", "o")
    got = np.load(tmp_path / "o/r.npy").ravel()
    np.testing.assert_array_equal(got, x.astype(np.float16))


def test_doubles_are_rounded_once(run: Tool, two: Path, tmp_path: Path) -> None:
    x = np.full((2, 32), 2049.0000001)
    x[1] = [1 + 2**-11 + 2**-30 * (i - 16) for i in range(32)]
    np.save(tmp_path / "x.npy", x)
    run(two, "--function", "other", "--input", "a=x.npy", "--output-dir", "o")
    np.testing.assert_array_equal(np.load(tmp_path / "o/r.npy")[0, :, 0], x.astype(np.float16))


def test_made_up_weights(run: Tool, conv: Path, tmp_path: Path) -> None:
    run(conv, "--weights", "zeros", "--output-dir", "z")
    assert (np.load(tmp_path / "z/y.npy") == 0).all()
    run(conv, "--weights", "random", "--output-dir", "r")
    y = np.load(tmp_path / "r/y.npy").astype(np.float64)
    assert 0.3 < y.std() < 3


# ============================== Mistakes ==================================== #


@pytest.mark.parametrize(
    ("old", "new", "code", "column_of"),
    [
        ("weight=w,", "weight=nothing,", "E_NAME", "nothing"),
        ("> y = conv", "> y = = conv", "E_SYNTAX", "= conv"),
        ("[1, 4, 1, 32]> y", "[1, 5, 1, 32]> y", "E_TYPE", "y = conv"),
        ("= conv(", "= convolve(", "E_OP", "convolve"),
    ],
)
def test_an_error_shows_its_line_and_a_caret(
    run: Tool, dump: Tool, conv: Path, old: str, new: str, code: str, column_of: str
) -> None:
    text = conv.read_text()
    assert old in text
    text = text.replace(old, new)
    conv.write_text(text)
    for tool in (run, dump):
        done = tool(conv, status=1)
        found = re.match(rf".*conv\.mil:(\d+):(\d+): error: .* \[{code}\]\n", done.stderr)
        assert found, done.stderr
        line = text.splitlines()[int(found[1]) - 1]
        assert line[int(found[2]) - 1 :].startswith(column_of)
        shown, caret = done.stderr.splitlines()[1:3]
        assert shown[caret.index("^") :].startswith(column_of[:8])
        assert done.stdout == ""


def test_a_missing_weight_file_is_named_with_its_place(run: Tool, conv: Path) -> None:
    done = run(conv, status=1)
    assert re.search(r"conv\.mil:9:\d+: error: const: @model_path/weights/w\.bin: ", done.stderr)
    assert "[E_IO]" in done.stderr


def test_a_damaged_weight_file(run: Tool, conv: Path, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(blob(np.zeros((4, 8)))[:-2])
    assert "[E_BLOB]" in run(conv, status=1).stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "which program?"),
        (["p.mil", "q.mil"], "one program at a time"),
        (["p.mil", "--frobnicate"], "unknown option '--frobnicate'"),
        (["p.mil", "--repeat", "0"], "--repeat wants a number from 1"),
        (["p.mil", "--repeat", "3x"], "not '3x'"),
        (["p.mil", "--repeat"], "--repeat wants a value"),
        (["p.mil", "--numerics", "exact"], "--numerics wants fast or ieee"),
        (["p.mil", "--input", "x"], "--input wants NAME=VALUE"),
        (["p.mil", "--input", "x=ones", "--input", "x=ones"], "x is given twice"),
        (["p.mil", "--weights", "nowhere"], "there is no such directory"),
    ],
)
def test_wrong_usage(run: Tool, args: list[str], says: str) -> None:
    done = run(*args, status=2)
    assert says in done.stderr
    assert "usage: softane-run" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [([], "which program?"), (["--what"], "unknown option"), (["a", "--weights", "b"], "no such")],
)
def test_wrong_usage_of_dump(dump: Tool, args: list[str], says: str) -> None:
    done = dump(*args, status=2)
    assert says in done.stderr
    assert "usage: softane-dump" in done.stderr


def test_help(run: Tool, dump: Tool) -> None:
    assert run("--help").stdout.startswith("usage: softane-run")
    assert dump("--help").stdout.startswith("usage: softane-dump")


def test_names_nobody_knows(run: Tool, two: Path, conv: Path) -> None:
    assert "main has no input 'q'" in run(two, "--input", "q=ones", status=1).stderr
    assert "there is no function 'f'" in run(two, "--function", "f", status=1).stderr
    assert "no weight file 'v.bin'" in run(conv, "--weights", "v.bin=zeros", status=1).stderr
    assert "nowhere.mil: No such file" in run("nowhere.mil", status=1).stderr


def test_shapes_that_do_not_fit(run: Tool, conv: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((32, 8)))
    done = run(conv, "--weights", "zeros", "--input", "x=x.npy", status=1)
    assert "x.npy has the shape (32, 8), but input x is tensor<fp16, [1, 8, 1, 32]>" in done.stderr
    done = run(conv, "--weights", "w.bin=x.npy", status=1)
    assert "but @model_path/weights/w.bin is tensor<fp16, [4, 8, 1, 1]>" in done.stderr


def npy(header: str, data: bytes, version: int = 1) -> bytes:
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + len(header).to_bytes(2, "little")
        + header.encode()
        + data
    )


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 32), }\n"
BYTES = b"\0" * 256


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is no .npy file"),
        (b"\x93NUMPY\x01", "it is no .npy file"),
        (npy(GOOD, BYTES, 9), "its version is unknown"),
        (npy(GOOD, BYTES[:-1]), "it ends before its last element"),
        (npy(GOOD, BYTES + b"x"), "bytes behind its last element"),
        (npy(GOOD, BYTES)[:40], "it ends inside its header"),
        (npy(GOOD.replace("False", "True"), BYTES), "it is in Fortran order"),
        (npy(GOOD.replace("<f4", ">f4"), BYTES), "big-endian"),
        (npy(GOOD.replace("<f4", "<c8"), BYTES), "this dtype is not supported"),
        (npy(GOOD.replace("'<f4'", "[('a', '<f4')]"), BYTES), "records are not supported"),
        (npy(GOOD.replace("(2, 32)", "(2, -32)"), BYTES), "the shape is damaged"),
        (npy(GOOD.replace("(2, 32)", "(99999999999, 99999999999)"), BYTES), "too large"),
        (npy(GOOD.replace("'shape'", "'form'"), BYTES), "unknown or repeated key"),
        (npy("{'descr': '<f4', 'shape': (2, 32)}", BYTES), "the header lacks a key"),
        (npy(GOOD + "x", BYTES), "text behind the header"),
        (npy("import os", BYTES), "no dictionary"),
    ],
)
def test_damaged_arrays_are_refused(
    run: Tool, two: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    done = run(two, "--function", "other", "--input", "a=x.npy", status=1)
    assert says in done.stderr


def test_the_good_array_of_the_test_above_is_good(run: Tool, two: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy(GOOD, BYTES))
    run(two, "--function", "other", "--input", "a=x.npy")


# ============================== Dumping ===================================== #


def test_dump_shows_program_plan_and_memory(dump: Tool, conv: Path) -> None:
    out = dump(conv).stdout
    assert re.search(r"^ +10 +y +tensor<fp16, \[1, 4, 1, 32\]> +conv\(x=x, weight=w", out, re.M)
    assert "plan of main: 1 steps" in out
    assert re.search(r"^input +0 +x .* row 64 plane 64, surface >= 512 bytes", out, re.M)
    assert re.search(r"^ +0 +product .* 4x32x8 .*fp16, product$", out, re.M)
    assert re.search(r"^ +\d+ +\d+ +\d+ +in-0 ", out, re.M)
    assert re.search(r"workspace \d+ bytes, weights and tables \d+ bytes", out)


def test_dump_of_parts(dump: Tool, conv: Path, two: Path) -> None:
    assert "plan of" not in dump(conv, "--program").stdout
    assert "BLOBFILE" not in dump(conv, "--program").stdout
    assert "@model_path/weights/w.bin @ 64, 64 bytes" in dump(conv, "--program", "--consts").stdout
    assert "function" not in dump(conv, "--plan").stdout
    both = dump(two).stdout
    assert "plan of main" in both
    assert "plan of other" in both
    other = dump(two, "--function", "other").stdout
    assert "plan of main" not in other
    assert "RELU" in other


def test_dumped_text_is_a_program(dump: Tool, two: Path, tmp_path: Path) -> None:
    text = dump(two, "--text").stdout
    (tmp_path / "again.mil").write_text(text)
    assert dump("again.mil", "--text").stdout == text


def test_dump_checks_weights_when_told_where_they_are(
    dump: Tool, conv: Path, tmp_path: Path
) -> None:
    assert "[E_IO]" in dump(conv, "--weights", ".", status=1).stderr
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(blob(np.zeros((4, 8))))
    assert "plan of main" in dump(conv, "--weights", ".").stdout
