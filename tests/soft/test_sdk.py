# SPDX-License-Identifier: MIT
"""The SDK: macOS programs compiled by softane-cc run here; its library does what Apple's does."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SDK = ROOT / "softane" / "sdk"
PROGRAMS = ROOT / "softane" / "tests" / "sdk"
EXAMPLES = sorted((SDK / "examples").glob("*.m"))

# As the Makefiles of public ANE programs have them.
MAC_FLAGS = "-O2 -Wall -fobjc-arc -mmacosx-version-min=14.0 -F/System/Library/PrivateFrameworks "
MAC_FLAGS += "-framework Foundation -framework IOSurface -framework Accelerate -ldl -lobjc"

# Unused names in the programs; and what gold says of the sanitizer's own symbol list.
HARMLESS = re.compile(r"-Wunused-|Cannot export local symbol '__asan_")

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="a Mac needs no SDK")


def softane_cc(*args: str, gcd: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable}
    if gcd:
        env["ANE_NATIVE_GCD"] = gcd
    return subprocess.run(
        [str(SDK / "softane-cc"), *args], capture_output=True, text=True, env=env, check=False
    )


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("sdk")

    def compile_one(*args: str, gcd: str = "") -> Path:
        program = folder / f"program{len(list(folder.iterdir()))}"
        done = softane_cc(*args, "-o", str(program), gcd=gcd)
        assert done.returncode == 0, done.stderr
        noise = [s for s in done.stderr.splitlines() if "warning:" in s and not HARMLESS.search(s)]
        assert noise == [], done.stderr
        return program

    return compile_one


def run(program: Path, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        [str(program)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), **env},
        timeout=300,
        check=False,
    )


def passes(program: Path, tmp_path: Path, least: int) -> None:
    done = run(program, tmp_path)
    verdict = re.search(r"(\d+) passed, (\d+) failed", done.stdout)
    assert verdict, done.stdout + done.stderr
    assert verdict[2] == "0", done.stdout
    assert int(verdict[1]) >= least
    assert done.returncode == 0


# ============================== Examples ==================================== #

EXPECTED = {
    "background_compile": r"\d+ evaluations in all, [1-9]\d* of them while a compile was running",
    "binding_order": r"verdict: slots are sorted by name",
    "client_report": r'"procedures": \{\s+"(doubled|negated)"',
    "peak": r"512 channels x  4: .* GFLOPS\n",
    "ping_pong": r"ms for each pair of evaluations",
    "resume_trainer": r"(?s)(.*going on in a new process\n){2}.*\n2 restarts, loss 3\.4\d+ -> 0\.",
    "tiny_trainer": r"40 compiles, ",
    "weight_reload": r"verdict: weights are baked at compile time",
}


def test_every_example_has_its_expectation() -> None:
    assert sorted(EXPECTED) == [p.stem for p in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_examples_run_unchanged(example: Path, build: Callable[..., Path], tmp_path: Path) -> None:
    done = run(build(*MAC_FLAGS.split(), str(example)), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert re.search(EXPECTED[example.stem], done.stdout), done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_examples_name_no_platform(example: Path) -> None:
    text = example.read_text() + (SDK / "examples" / "engine.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.S).lower()
    for word in ("linux", "softane", "gnustep", "#if", "sdk"):
        assert word not in code


def test_an_example_says_failed_when_the_engine_refuses(
    build: Callable[..., Path], tmp_path: Path
) -> None:
    program = build(*MAC_FLAGS.split(), str(SDK / "examples" / "ping_pong.m"))
    done = run(program, tmp_path, SOFTANE_FAILPOINTS="facade.load=return(1)")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAILED the programs do not load"
    assert "Program load failure (0x20004)" in done.stdout


def test_a_wrong_result_is_noticed(build: Callable[..., Path], tmp_path: Path) -> None:
    program = build(*MAC_FLAGS.split(), str(SDK / "examples" / "peak.m"))
    done = run(program, tmp_path, SOFTANE_FAILPOINTS="run.flip=return(1)")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith("FAILED")
    assert "WRONG" in done.stdout


# ============================== Language ==================================== #


@pytest.mark.parametrize("flags", [["-O0"], ["-O2", "-fobjc-arc"], ["-fobjc-legacy-dispatch"]])
def test_messages(flags: list[str], build: Callable[..., Path], tmp_path: Path) -> None:
    passes(build(*flags, str(PROGRAMS / "messages.m")), tmp_path, 48)


@pytest.mark.parametrize("gcd", ["bundled", "system"])
@pytest.mark.parametrize("order", [["memory.m", "other.m"], ["other.m", "memory.m"]])
def test_arc_blocks_bridges_and_queues(
    order: list[str], gcd: str, build: Callable[..., Path], tmp_path: Path
) -> None:
    if gcd == "system":
        sys.path.append(str(ROOT / "ane_native"))
        import _toolchain as tc

        if tc.gcd("").name != "libdispatch":
            pytest.skip("there is no libdispatch on this machine")
    sources = [str(PROGRAMS / name) for name in order]
    passes(build("-g", "-O1", "-fobjc-arc", *sources, gcd=gcd), tmp_path, 56)


def test_nothing_is_used_after_it_was_freed(build: Callable[..., Path], tmp_path: Path) -> None:
    sources = [str(PROGRAMS / "memory.m"), str(PROGRAMS / "other.m")]
    program = build("-g", "-fobjc-arc", "-fsanitize=address", *sources)
    done = run(program, tmp_path, ASAN_OPTIONS="detect_leaks=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AddressSanitizer" not in done.stderr


def test_objects_may_be_compiled_one_by_one(build: Callable[..., Path], tmp_path: Path) -> None:
    objects = []
    for name in ("memory", "other"):
        made = tmp_path / f"{name}.o"
        done = softane_cc("-c", "-fobjc-arc", str(PROGRAMS / f"{name}.m"), "-o", str(made))
        assert done.returncode == 0, done.stderr
        objects.append(str(made))
    passes(build("-fobjc-arc", *objects), tmp_path, 56)


def test_halves(build: Callable[..., Path], tmp_path: Path) -> None:
    passes(build(str(PROGRAMS / "halves.c")), tmp_path, 20)


def test_trampolines_assemble_for_aarch64(tmp_path: Path) -> None:
    sys.path.append(str(ROOT / "ane_native"))
    import _toolchain as tc

    out = tmp_path / "msgsend.o"
    target = ["-target", "aarch64-linux-gnu", "-c", str(SDK / "lib" / "msgsend.c")]
    subprocess.run([*tc.compiler(), *target, "-o", str(out)], check=True)
    names = subprocess.run(["nm", str(out)], capture_output=True, text=True, check=True).stdout
    assert re.search(r"T objc_msgSend$", names, re.M)


# ============================== Command line ================================ #


def test_apple_options_are_understood(tmp_path: Path) -> None:
    source = tmp_path / "p.m"
    source.write_text("#import <Foundation/Foundation.h>\nint main(void) { return 0; }\n")
    words = "-isysroot /nowhere -arch arm64 -ObjC -fmodules -mcpu=apple-m1 -Wl,-dead_strip "
    words += "-Wl,-rpath,@loader_path -weak_framework Foundation -F /x -miphoneos-version-min=1"
    if platform.machine() != "x86_64":
        words = words.replace("-mcpu=apple-m1", "")
    done = softane_cc(*words.split(), str(source), "-o", str(tmp_path / "p"))
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


def test_missing_frameworks_are_named(tmp_path: Path) -> None:
    source = tmp_path / "p.m"
    source.write_text("#import <Metal/Metal.h>\nint main(void) { return 0; }\n")
    done = softane_cc("-framework", "Metal", str(source), "-o", str(tmp_path / "p"))
    assert done.returncode == 0, done.stderr  # many programs include what they do not use
    assert "there is no framework Metal here" in done.stderr
    source.write_text(
        "#import <Metal/Metal.h>\nint main(void) { return !MTLCreateSystemDefaultDevice(); }\n"
    )
    done = softane_cc(str(source), "-o", str(tmp_path / "p"))
    assert done.returncode != 0
    assert "MTLCreateSystemDefaultDevice" in done.stderr


def test_help_and_usage() -> None:
    assert softane_cc("--help").stdout.startswith("softane-cc: compiles ANE programs")
    assert softane_cc().returncode == 2
    paths = softane_cc("--paths")
    assert "libsoftane.so" in paths.stdout
    bad = softane_cc("-framework")
    assert bad.returncode == 1
    assert "wants a value" in bad.stderr


def test_a_syntax_error_is_clangs(tmp_path: Path) -> None:
    source = tmp_path / "p.m"
    source.write_text("int main(void) { return }\n")
    done = softane_cc(str(source), "-o", str(tmp_path / "p"))
    assert done.returncode == 1
    assert "p.m:1:" in done.stderr


# ============================== Accelerate ================================== #

F = ctypes.POINTER(ctypes.c_float)


@pytest.fixture(scope="module", params=["built-in", "found"])
def accelerate(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ctypes.CDLL:
    """Accelerate's functions as a library of their own, with and without a BLAS."""
    sys.path.append(str(ROOT / "ane_native"))
    import _toolchain as tc

    folder = tmp_path_factory.mktemp("accelerate")
    library = folder / f"lib{request.param}.so"
    sources = [SDK / "lib" / "cblas.c", SDK / "lib" / "vdsp.c", ROOT / "softane/base/half.c"]
    flags = ["-O2", "-shared", "-fPIC", "-isystem", str(SDK / "include")]
    links = ["-lm", "-ldl", "-lpthread"]
    subprocess.run(
        [*tc.compiler(), *flags, *map(str, sources), *links, "-o", str(library)], check=True
    )
    before = os.environ.get("SOFTANE_BLAS")
    os.environ["SOFTANE_BLAS"] = request.param if request.param == "built-in" else scipy_blas()
    lib = ctypes.CDLL(str(library))
    lib.cblas_sdot.restype = lib.cblas_snrm2.restype = lib.cblas_sasum.restype = ctypes.c_float
    one = np.ones(1, np.float32)
    gemm(lib, one[:, None], one[:, None], False, False, 1, 0, one[:, None].copy())  # finds it now
    if before is None:
        del os.environ["SOFTANE_BLAS"]
    else:
        os.environ["SOFTANE_BLAS"] = before
    return lib


def scipy_blas() -> str:
    import scipy_openblas32

    found = sorted(Path(scipy_openblas32.get_lib_dir()).glob("libscipy_openblas*.so"))
    assert found, "scipy-openblas32 is one of the package's dependencies"
    return str(found[0])


def ptr(a: np.ndarray) -> ctypes._Pointer[ctypes.c_float]:
    assert a.dtype == np.float32
    return a.ctypes.data_as(F)


def gemm(
    lib: ctypes.CDLL,
    a: np.ndarray,
    b: np.ndarray,
    ta: bool,
    tb: bool,
    alpha: float,
    beta: float,
    c: np.ndarray,
) -> np.ndarray:
    m, n = c.shape
    k = a.shape[0] if ta else a.shape[1]
    f = ctypes.c_float
    lib.cblas_sgemm(
        101, 112 if ta else 111, 112 if tb else 111, m, n, k,
        f(alpha), ptr(a), a.shape[1], ptr(b), b.shape[1], f(beta), ptr(c), n,
    )  # fmt: skip
    return c


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (0.5, 2)])
def test_sgemm(
    accelerate: ctypes.CDLL,
    rng: np.random.Generator,
    ta: bool,
    tb: bool,
    alpha: float,
    beta: float,
) -> None:
    a = rng.standard_normal((7, 5) if ta else (5, 7)).astype(np.float32)
    b = rng.standard_normal((9, 7) if tb else (7, 9)).astype(np.float32)
    c = rng.standard_normal((5, 9)).astype(np.float32)
    if beta == 0:
        c[:] = np.nan  # must not be read
    want = alpha * (a.T if ta else a) @ (b.T if tb else b) + (beta * c if beta else 0)
    np.testing.assert_allclose(
        gemm(accelerate, a, b, ta, tb, alpha, beta, c), want, rtol=1e-5, atol=1e-5
    )


def test_sgemm_by_columns(accelerate: ctypes.CDLL, rng: np.random.Generator) -> None:
    a, b = (np.asfortranarray(rng.standard_normal(s), np.float32) for s in ((4, 6), (6, 3)))
    c = np.zeros((4, 3), np.float32, order="F")
    f = ctypes.c_float
    accelerate.cblas_sgemm(102, 111, 111, 4, 3, 6, f(1), ptr(a), 4, ptr(b), 6, f(0), ptr(c), 4)
    np.testing.assert_allclose(c, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", [101, 102])
@pytest.mark.parametrize("ta", [111, 112])
def test_sgemv_and_sger(
    accelerate: ctypes.CDLL, rng: np.random.Generator, order: int, ta: int
) -> None:
    layout = "C" if order == 101 else "F"
    a = np.array(rng.standard_normal((5, 8)), np.float32, order=layout)
    lda = 8 if order == 101 else 5
    op = a if ta == 111 else a.T
    x = rng.standard_normal(op.shape[1]).astype(np.float32)
    y = rng.standard_normal(op.shape[0]).astype(np.float32)
    want = 2 * op @ x[::-1] + 3 * y  # a negative stride: from the end
    f = ctypes.c_float
    accelerate.cblas_sgemv(order, ta, 5, 8, f(2), ptr(a), lda, ptr(x), -1, f(3), ptr(y), 1)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    u, v = rng.standard_normal(5).astype(np.float32), rng.standard_normal(8).astype(np.float32)
    want = a + 0.5 * np.outer(u, v)
    accelerate.cblas_sger(order, 5, 8, f(0.5), ptr(u), 1, ptr(v), 1, ptr(a), lda)
    np.testing.assert_allclose(a, want, rtol=1e-5, atol=1e-5)


def test_blas_level_1(accelerate: ctypes.CDLL, rng: np.random.Generator) -> None:
    x, y = (rng.standard_normal(20).astype(np.float32) for _ in range(2))
    f = ctypes.c_float
    assert accelerate.cblas_sdot(10, ptr(x), 2, ptr(y), 1) == pytest.approx(x[::2] @ y[:10], 1e-5)
    assert accelerate.cblas_snrm2(20, ptr(x), 1) == pytest.approx(np.linalg.norm(x), 1e-5)
    assert accelerate.cblas_sasum(20, ptr(x), 1) == pytest.approx(np.abs(x).sum(), 1e-5)
    assert accelerate.cblas_isamax(20, ptr(x), 1) == np.abs(x).argmax()
    want = y + 3 * x
    accelerate.cblas_saxpy(20, f(3), ptr(x), 1, ptr(y), 1)
    np.testing.assert_allclose(y, want, rtol=1e-6)
    accelerate.cblas_sscal(10, f(2), ptr(y), 2)
    want[::2] *= 2
    np.testing.assert_allclose(y, want, rtol=1e-6)
    z = np.zeros(20, np.float32)
    accelerate.cblas_scopy(20, ptr(y), 1, ptr(z), 1)
    accelerate.cblas_sswap(20, ptr(x), 1, ptr(z), 1)
    np.testing.assert_array_equal(x, y)


TWO = {
    "vDSP_vadd": lambda a, b: a + b,
    "vDSP_vsub": lambda a, b: b - a,
    "vDSP_vmul": lambda a, b: a * b,
    "vDSP_vdiv": lambda a, b: b / a,
    "vDSP_vmax": np.maximum,
    "vDSP_vmin": np.minimum,
}
SCALAR = {
    "vDSP_vsadd": lambda a, s: a + s,
    "vDSP_vsmul": lambda a, s: a * s,
    "vDSP_vsdiv": lambda a, s: a / s,
    "vDSP_vthr": np.maximum,
}
THREE = {
    "vDSP_vma": lambda a, b, c: a * b + c,
    "vDSP_vmsb": lambda a, b, c: a * b - c,
    "vDSP_vam": lambda a, b, c: (a + b) * c,
    "vDSP_vsbm": lambda a, b, c: (a - b) * c,
}
ONE = {"vDSP_vneg": np.negative, "vDSP_vabs": np.abs, "vDSP_vsq": np.square}
SUMS = {
    "vDSP_sve": np.sum,
    "vDSP_svesq": lambda a: np.sum(a * a),
    "vDSP_svemg": lambda a: np.sum(np.abs(a)),
    "vDSP_meanv": np.mean,
    "vDSP_measqv": lambda a: np.mean(a * a),
    "vDSP_rmsqv": lambda a: np.sqrt(np.mean(a * a)),
    "vDSP_maxv": np.max,
    "vDSP_minv": np.min,
    "vDSP_maxmgv": lambda a: np.max(np.abs(a)),
}
N = 37
LONG = ctypes.c_long


def vectors(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [(rng.standard_normal(3 * N) + 0.1).astype(np.float32) for _ in range(count)]


def close(got: np.ndarray | float, want: np.ndarray | float) -> None:
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", TWO)
def test_vdsp_of_two(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    a, b, c = vectors(rng, 3)
    want = c.copy()
    want[: 3 * N : 3] = TWO[name](a[: 2 * N : 2], b[:N])
    accelerate[name](ptr(a), LONG(2), ptr(b), LONG(1), ptr(c), LONG(3), LONG(N))
    close(c, want)


@pytest.mark.parametrize("name", SCALAR)
def test_vdsp_with_a_scalar(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    a, c = vectors(rng, 2)
    s = np.float32(0.7)
    accelerate[name](ptr(a), LONG(1), ctypes.byref(ctypes.c_float(s)), ptr(c), LONG(1), LONG(N))
    close(c[:N], SCALAR[name](a[:N], s))


@pytest.mark.parametrize("name", THREE)
def test_vdsp_of_three(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    a, b, c, d = vectors(rng, 4)
    args = [x for v in (a, b, c, d) for x in (ptr(v), LONG(1))]
    accelerate[name](*args, LONG(N))
    close(d[:N], THREE[name](a[:N], b[:N], c[:N]))


@pytest.mark.parametrize("name", ONE)
def test_vdsp_of_one(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    a, c = vectors(rng, 2)
    accelerate[name](ptr(a), LONG(1), ptr(c), LONG(2), LONG(N))
    close(c[: 2 * N : 2], ONE[name](a[:N]))


@pytest.mark.parametrize("name", SUMS)
def test_vdsp_reductions(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    (a,) = vectors(rng, 1)
    out = ctypes.c_float()
    accelerate[name](ptr(a), LONG(2), ctypes.byref(out), LONG(N))
    close(out.value, SUMS[name](a[: 2 * N : 2]))


def test_vdsp_with_several_scalars(accelerate: ctypes.CDLL, rng: np.random.Generator) -> None:
    a, b, c, d = vectors(rng, 4)
    one = LONG(1)

    def s(x: float) -> ctypes.c_float:
        return ctypes.byref(ctypes.c_float(x))

    accelerate.vDSP_vsma(ptr(a), one, s(0.3), ptr(b), one, ptr(d), one, LONG(N))
    close(d[:N], a[:N] * 0.3 + b[:N])
    accelerate.vDSP_vsmsa(ptr(a), one, s(0.3), s(2), ptr(d), one, LONG(N))
    close(d[:N], a[:N] * 0.3 + 2)
    accelerate.vDSP_vintb(ptr(a), one, ptr(b), one, s(0.25), ptr(d), one, LONG(N))
    close(d[:N], a[:N] + 0.25 * (b[:N] - a[:N]))
    accelerate.vDSP_svdiv(s(2), ptr(a), one, ptr(d), one, LONG(N))
    close(d[:N], 2 / a[:N])
    accelerate.vDSP_vclip(ptr(a), one, s(-0.5), s(0.5), ptr(d), one, LONG(N))
    close(d[:N], np.clip(a[:N], -0.5, 0.5))
    accelerate.vDSP_vfill(s(4), ptr(d), LONG(2), LONG(N))
    assert (d[: 2 * N : 2] == 4).all()
    accelerate.vDSP_vclr(ptr(d), one, LONG(N))
    assert (d[:N] == 0).all()
    accelerate.vDSP_vramp(s(1), s(0.5), ptr(d), one, LONG(N))
    close(d[:N], 1 + 0.5 * np.arange(N))
    out, at = ctypes.c_float(), ctypes.c_ulong()
    accelerate.vDSP_dotpr(ptr(a), one, ptr(b), one, ctypes.byref(out), LONG(N))
    close(out.value, a[:N] @ b[:N])
    accelerate.vDSP_distancesq(ptr(a), one, ptr(b), one, ctypes.byref(out), LONG(N))
    close(out.value, np.sum((a[:N] - b[:N]) ** 2))
    accelerate.vDSP_maxvi(ptr(a), LONG(2), ctypes.byref(out), ctypes.byref(at), LONG(N))
    assert at.value == 2 * np.argmax(a[: 2 * N : 2])
    accelerate.vDSP_minvi(ptr(a), one, ctypes.byref(out), ctypes.byref(at), LONG(N))
    assert at.value == np.argmin(a[:N])
    x = a[:35].copy()
    accelerate.vDSP_mtrans(ptr(x), one, ptr(c), one, LONG(7), LONG(5))
    np.testing.assert_array_equal(c[:35].reshape(7, 5), x.reshape(5, 7).T)
    accelerate.vDSP_mmul(ptr(a), one, ptr(b), one, ptr(d), one, LONG(4), LONG(5), LONG(6))
    close(d[:20].reshape(4, 5), a[:24].reshape(4, 6) @ b[:30].reshape(6, 5))
    accelerate.vDSP_mmov(ptr(a), ptr(d), LONG(3), LONG(2), LONG(10), LONG(4))
    np.testing.assert_array_equal(d[:8].reshape(2, 4)[:, :3], a[:20].reshape(2, 10)[:, :3])
    i16 = np.arange(-N, N, 2, dtype=np.int16)
    accelerate.vDSP_vflt16(i16.ctypes.data_as(F), one, ptr(d), one, LONG(N))
    np.testing.assert_array_equal(d[:N], i16)


FORCE = {
    "vvexpf": np.exp, "vvexp2f": np.exp2, "vvexpm1f": np.expm1, "vvlogf": np.log,
    "vvlog2f": np.log2, "vvlog10f": np.log10, "vvlog1pf": np.log1p, "vvsqrtf": np.sqrt,
    "vvrsqrtf": lambda x: 1 / np.sqrt(x), "vvrecf": np.reciprocal, "vvsinf": np.sin,
    "vvcosf": np.cos, "vvtanf": np.tan, "vvtanhf": np.tanh, "vvatanf": np.arctan,
    "vvfabsf": np.abs, "vvfloorf": np.floor, "vvceilf": np.ceil,
}  # fmt: skip


@pytest.mark.parametrize("name", FORCE)
def test_vforce(accelerate: ctypes.CDLL, rng: np.random.Generator, name: str) -> None:
    x = rng.uniform(0.1, 3, N).astype(np.float32)
    y = np.zeros(N, np.float32)
    accelerate[name](ptr(y), ptr(x), ctypes.byref(ctypes.c_int(N)))
    close(y, FORCE[name](x.astype(np.float64)))


def test_vforce_of_two(accelerate: ctypes.CDLL, rng: np.random.Generator) -> None:
    x, y = (rng.uniform(0.1, 3, N).astype(np.float32) for _ in range(2))
    z, w = np.zeros(N, np.float32), np.zeros(N, np.float32)
    n = ctypes.byref(ctypes.c_int(N))
    accelerate.vvpowf(ptr(z), ptr(y), ptr(x), n)
    close(z, x**y)
    accelerate.vvpowsf(ptr(z), ctypes.byref(ctypes.c_float(1.5)), ptr(x), n)
    close(z, x**1.5)
    accelerate.vvdivf(ptr(z), ptr(y), ptr(x), n)
    close(z, y / x)
    accelerate.vvsincosf(ptr(z), ptr(w), ptr(x), n)
    close(z, np.sin(x))
    close(w, np.cos(x))


class VImage(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_ulong),
        ("width", ctypes.c_ulong),
        ("row_bytes", ctypes.c_size_t),
    ]


def test_vimage_converts_halves_as_numpy(accelerate: ctypes.CDLL, rng: np.random.Generator) -> None:
    x = (rng.standard_normal((5, 9)) * 10.0 ** rng.integers(-8, 6, (5, 9))).astype(np.float32)
    h = np.zeros((5, 12), np.float16)
    back = np.zeros((5, 9), np.float32)
    fx = VImage(x.ctypes.data, 5, 9, x.strides[0])
    fh = VImage(h.ctypes.data, 5, 9, h.strides[0])
    fb = VImage(back.ctypes.data, 5, 9, back.strides[0])
    to, fro = (
        accelerate.vImageConvert_PlanarFtoPlanar16F,
        accelerate.vImageConvert_Planar16FtoPlanarF,
    )
    assert to(ctypes.byref(fx), ctypes.byref(fh), 0) == 0
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    np.testing.assert_array_equal(h[:, :9], want)
    assert fro(ctypes.byref(fh), ctypes.byref(fb), 0) == 0
    np.testing.assert_array_equal(back, want.astype(np.float32))
