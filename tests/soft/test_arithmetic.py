# SPDX-License-Identifier: MIT
"""What is known of the engine's arithmetic beside products, row by row (docs/NUMERICS.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from programs import plain

import ane_native as ane
from ane_native import soft

Array = npt.NDArray[np.float32]
INF = np.inf
HALVES = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE = HALVES[np.isfinite(HALVES)]
POSITIVE = FINITE[FINITE > 0]


def away(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """float64 to fp16, half away from zero; subnormals rounded to 11 bits first."""
    y = np.asarray(y, np.float64)
    a = np.abs(y)
    step = 2.0 ** (np.floor(np.log2(np.where(a > 0, a, 1.0))) - 10)
    a = np.floor(a / step + 0.5) * step
    a = np.where(a < 2.0**-14, np.floor(a * 2.0**24 + 0.5) * 2.0**-24, a)
    return np.copysign(np.where(a >= 65520, INF, a), y).astype(np.float16)


def apply(statement: str, *inputs: npt.ArrayLike) -> Array:
    """Evaluate `statement` (an expression over a, b, …) on vectors; constants are inline."""
    arrays = [np.asarray(x, np.float32).reshape(-1) for x in inputs]
    count = max(len(x) for x in arrays)
    width = -(-count // 32) * 32
    shape = (1, 1, 1, width)
    ports = {}
    for name, x in zip("abc", arrays, strict=False):
        ports[name] = np.ones(shape, np.float32)
        ports[name][0, 0, 0, : len(x)] = x
    body = f'        tensor<fp16, {list(shape)}> y = {statement}[name=string("y")];'
    kernel = plain(body, {name: shape for name in ports}, {"y": shape})
    with ane.Program(kernel) as program:
        y = program.eval(*ports.values())
    return np.array(y, np.float32).reshape(-1)[:count]


def unary(op: str, x: npt.ArrayLike, extra: str = "") -> Array:
    return apply(f"{op}(x=a{extra})", x)


def half_const(name: str, value: str) -> str:
    return f'        fp16 {name} = const()[name=string("{name}"), val=fp16({value})];\n'


@pytest.fixture(autouse=True)
def _silicon() -> None:
    soft.set("numerics", "silicon")


# ---- stores ----


def test_bytes_scaled_by_the_inverse_of_255_are_those_of_a_host() -> None:
    u = np.arange(256, dtype=np.float64)
    scale = np.float64(np.float16(1 / 255))
    y = apply("mul(x=a, y=b)", u, np.full(256, scale))
    assert np.array_equal(y.astype(np.float16), away(u * scale))
    even = (u * scale).astype(np.float16)
    assert np.count_nonzero(y.astype(np.float16) != even) == 10  # what half to even would miss


def test_subnormal_results_are_kept_and_rounded_twice(rng: np.random.Generator) -> None:
    a = rng.choice(POSITIVE[POSITIVE < 2**-6], 4096)
    b = rng.choice(POSITIVE[POSITIVE < 2**-6], 4096)
    y = apply("mul(x=a, y=b)", a, b).astype(np.float16)
    assert np.array_equal(y, away(a.astype(np.float64) * b.astype(np.float64)))
    assert np.count_nonzero((y > 0) & (y < 2**-14)) > 100


def test_subnormals_can_be_flushed() -> None:
    x = np.float16([2**-14, 2**-15, -(2**-15), 2**-24, 1.0])
    with soft.using(subnormals="flush"):
        assert apply("mul(x=a, y=b)", x, np.ones(5)).tolist() == [2**-14, 0, 0, 0, 1]
        soft.set("numerics", "fast")
        assert apply("mul(x=a, y=b)", x, np.ones(5)).tolist() == [2**-14, 0, 0, 0, 1]
    assert apply("mul(x=a, y=b)", x, np.ones(5)).tolist() == x.astype(np.float32).tolist()


# ---- division, NaN, odd values ----


@pytest.mark.parametrize("numerics", ["fast", "silicon"])
def test_a_division_by_zero_gives_zero(numerics: str) -> None:
    soft.set("numerics", numerics)
    y = apply("real_div(x=a, y=b)", [0, 1, -1, 65504, 1], [0, 0, 0, 0, 2])
    assert y.tolist() == [0, 0, 0, 0, 0.5]


def test_no_operation_gives_nan() -> None:
    assert unary("sqrt", [-1.0, 4.0]).tolist() == [INF, 2]
    assert apply("sub(x=a, y=b)", [INF, 1], [INF, 1]).tolist() == [INF, 0]
    assert not np.isnan(apply("mul(x=a, y=b)", [INF, np.nan], [0, 1])).any()


def test_a_nan_that_comes_in_equals_itself() -> None:
    body = """        tensor<bool, [1, 1, 1, 32]> c = not_equal(x=a, y=a)[name=string("c")];
        string to = const()[name=string("to"), val=string("fp16")];
        tensor<fp16, [1, 1, 1, 32]> y = cast(x=c, dtype=to)[name=string("y")];"""
    kernel = plain(body, {"a": (1, 1, 1, 32)}, {"y": (1, 1, 1, 32)})
    with ane.Program(kernel) as program:
        assert np.all(program.eval(np.full((1, 1, 1, 32), np.nan)) == 0)
        soft.set("numerics", "fast")
        assert np.all(program.eval(np.full((1, 1, 1, 32), np.nan)) == 1)


@pytest.mark.parametrize(
    ("op", "x", "y"),
    [
        ("softplus", INF, 0.0),
        ("softplus", 11.09375, 0.0),
        ("cos", INF, 0.0),
        ("round", 1024.0, 1025.0),
        ("round", -2047.0, -2048.0),
        ("round", 1023.0, 1023.0),
        ("round", 2048.0, 2048.0),
    ],
)
def test_odd_values(op: str, x: float, y: float) -> None:
    assert unary(op, [x])[0] == y


def test_odd_value_of_log() -> None:
    body = (
        half_const("e", "0x0p+0")
        + '        tensor<fp16, [1, 1, 1, 32]> y = log(x=a, epsilon=e)[name=string("y")];'
    )
    kernel = plain(body, {"a": (1, 1, 1, 32)}, {"y": (1, 1, 1, 32)})
    x = np.ones((1, 1, 1, 32))
    x[..., :3] = INF, -1.0, 1.0
    with ane.Program(kernel) as program:
        y = program.eval(x)[0, 0, 0]
    assert y[0] == 0.0
    assert np.isfinite(y[1])
    assert y[2] == 0.0


def test_odd_value_of_gelu() -> None:
    body = """        string m = const()[name=string("m"), val=string("EXACT")];
        tensor<fp16, [1, 1, 1, 32]> y = gelu(x=a, mode=m)[name=string("y")];"""
    kernel = plain(body, {"a": (1, 1, 1, 32)}, {"y": (1, 1, 1, 32)})
    with ane.Program(kernel) as program:
        assert program.eval(np.zeros((1, 1, 1, 32)))[0, 0, 0, 0] == np.float16(-0.000754)
        soft.set("numerics", "fast")
        assert program.eval(np.zeros((1, 1, 1, 32)))[0, 0, 0, 0] == 0


def test_softplus_goes_through_an_exponential_in_fp16() -> None:
    x = np.linspace(-12, 11, 500).astype(np.float16)
    with np.errstate(over="ignore"):
        exact = away(np.log1p(away(np.exp(x.astype(np.float64))).astype(np.float64)))
    assert np.allclose(unary("softplus", x), exact.astype(np.float32), rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("op", ["floor", "ceil", "round"])
def test_a_scalar_factor_behind_a_rounding_is_dropped(op: str) -> None:
    def run(constant: str) -> float:
        body = (
            constant
            + f'        tensor<fp16, [1, 1, 1, 32]> r = {op}(x=a)[name=string("r")];\n'
            + '        tensor<fp16, [1, 1, 1, 32]> y = mul(x=r, y=f)[name=string("y")];'
        )
        kernel = plain(body, {"a": (1, 1, 1, 32)}, {"y": (1, 1, 1, 32)})
        with ane.Program(kernel) as program:
            return float(program.eval(np.full((1, 1, 1, 32), 2.75))[0, 0, 0, 0])

    plainly = {"floor": 2.0, "ceil": 3.0, "round": 3.0}[op]
    full = ", ".join(["0.25"] * 32)
    tensor = (
        '        tensor<fp16, [1, 1, 1, 32]> f = const()[name=string("f"), '
        f"val=tensor<fp16, [1, 1, 1, 32]>([[[[{full}]]]])];\n"
    )
    assert run(half_const("f", "0x1p-2")) == plainly
    assert run(tensor) == plainly / 4
    soft.set("numerics", "fast")
    assert run(half_const("f", "0x1p-2")) == plainly / 4


# ---- sums ----


def test_sums_of_integers_are_exact_to_2048() -> None:
    body = """        tensor<int32, [1]> ax = const()[name=string("ax"), val=tensor<int32, [1]>([3])];
        bool k = const()[name=string("k"), val=bool(true)];
        tensor<fp16, [1, 32, 1, 1]> y = reduce_sum(x=a, axes=ax, keep_dims=k)[name=string("y")];"""
    kernel = plain(body, {"a": (1, 32, 1, 4096)}, {"y": (1, 32, 1, 1)})
    x = np.zeros((1, 32, 1, 4096))
    x[0, 0, 0, :2048] = 1
    x[0, 1, 0, :2049] = 1
    with ane.Program(kernel) as program:
        y = program.eval(x)[0, :, 0, 0]
    assert y[0] == 2048
    assert y[1] == 2050  # the fp16 grid; half away


# ---- products ----


def dot(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """One dot product of two inputs by matmul."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    k = -(-len(a) // 32) * 32
    x, y = np.zeros((1, 1, 32, k)), np.zeros((1, 1, 32, k))
    x[0, 0, 0, : len(a)] = a
    y[0, 0, 0, : len(b)] = b
    body = """        bool no = const()[name=string("no"), val=bool(false)];
        bool yes = const()[name=string("yes"), val=bool(true)];
        tensor<fp16, [1, 1, 32, 32]> y = matmul(x=a, y=b, transpose_x=no, transpose_y=yes)[name=string("y")];"""
    kernel = plain(body, {"a": x.shape, "b": y.shape}, {"y": (1, 1, 32, 32)})
    with ane.Program(kernel) as program:
        return float(program.eval(x, y)[0, 0, 0, 0])


@pytest.mark.parametrize("numerics", ["fast", "silicon"])
def test_products_end_at_32768(numerics: str) -> None:
    soft.set("numerics", numerics)
    assert dot([32752, 15], [1, 1]) == 32768  # below the limit, rounded to fp16
    assert dot([32752, 16], [1, 1]) == INF
    assert dot([-32752, -16], [1, 1]) == -INF


def test_sums_of_many_ones_and_a_one_beside_16000_are_exact() -> None:
    ones = np.ones(16384)
    assert dot(ones, ones) == 16384
    assert dot([16000, 1, -16000], [1, 1, 1]) == 1


def test_small_products_vanish() -> None:
    assert dot([2**-8], [2**-8]) == 2**-16
    assert dot([2**-8], [2**-9]) == 0  # dropped by its exponent, though it would round to 2^-16
    assert dot([2**-8 * 1.5], [2**-8]) == 2**-15  # a tie, away from zero
    soft.set("numerics", "fast")
    assert dot([2**-8], [2**-9]) == 2**-17


def test_infinite_operands_are_infinite_and_never_nan() -> None:
    assert dot([INF, 1], [1, 1]) == INF
    assert dot([INF, 1], [-1, 1]) == -INF
    assert dot([INF, 1], [0, 1]) == 1
    assert dot([INF, INF], [1, -1]) == INF
    assert dot([np.nan, 1], [1, 1]) == INF


def test_the_limit_of_products_is_a_setting_of_fast() -> None:
    soft.set("numerics", "fast")
    with soft.using(dot_limit=0):
        assert dot([40000, 0], [1, 1]) == 40000
    with soft.using(dot_limit=1000):
        assert dot([1000, 0], [1, 1]) == INF
        assert dot([999, 0], [1, 1]) == 999


# ---- quirks of some chips ----


@pytest.mark.parametrize("shape", [(1, 1, 1, 64), (1, 3, 4, 64)])
@pytest.mark.parametrize("begin", [0, 32])
def test_a_last_axis_slice_with_an_offset_is_limited(begin: int, shape: tuple[int, ...]) -> None:
    small = (*shape[:3], 32)
    body = f"""        tensor<int32, [4]> b = const()[name=string("b"), val=tensor<int32, [4]>([0, 0, 0, {begin}])];
        tensor<int32, [4]> s = const()[name=string("s"), val=tensor<int32, [4]>({list(small)})];
        tensor<fp16, {list(small)}> y = slice_by_size(x=a, begin=b, size=s)[name=string("y")];"""
    x = np.zeros(shape)
    x[..., [begin, begin + 1, begin + 2]] = 4094, 4096, -5000
    with ane.Program(plain(body, {"a": shape}, {"y": small})) as program:
        assert np.array_equal(program.eval(x), x[..., begin : begin + 32])
        with soft.using(slice_clamp=4094):
            y = program.eval(x)[..., :3]
    assert np.all(y == ([4094, INF, -INF] if begin else [4094, 4096, -5000]))


#: statement -> published relative error; a constant k stands before it
TABLES = {
    "atan(x=a)": 0.0188,
    "silu(x=a)": 0.0100,
    "elu(x=a, alpha=k)": 0.0051,
    "sigmoid(x=a)": 0.0038,
    "gelu(x=a, mode=exact)": 0.0024,
    "gelu(x=a, mode=tanh)": 0.0024,
    "gelu(x=a, mode=sigmoid)": 0.0024,
    "scaled_tanh(x=a, alpha=k, beta=k)": 0.0017,
    "tanh(x=a)": 0.0013,
    "rsqrt(x=b, epsilon=e)": 0.0010,
}


@pytest.mark.parametrize("numerics", ["fast", "silicon", "ieee"])
@pytest.mark.parametrize("call", TABLES)
def test_quantised_tables_stay_in_the_published_envelope(call: str, numerics: str) -> None:
    x = np.linspace(-6, 6, 4000).astype(np.float16)
    modes = {"exact": "EXACT", "tanh": "TANH_APPROXIMATION", "sigmoid": "SIGMOID_APPROXIMATION"}
    body = half_const("k", "0x1p+0") + half_const("e", "0x0p+0")
    for name, mode in modes.items():
        body += f'        string {name} = const()[name=string("{name}"), val=string("{mode}")];\n'
    shape = (1, 1, 1, 4000)
    body += f'        tensor<fp16, {list(shape)}> b = abs(x=a)[name=string("b")];\n'
    body += f'        tensor<fp16, {list(shape)}> y = {call}[name=string("y")];'
    soft.set("numerics", numerics)
    with ane.Program(plain(body, {"a": shape}, {"y": shape})) as program:
        exact = program.eval(x.reshape(shape)).astype(np.float64)
        with soft.using(tables="quantised"):
            y = program.eval(x.reshape(shape))
    if numerics == "ieee":
        assert np.array_equal(y, exact)
        return
    off = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    assert TABLES[call] / 16 < off <= TABLES[call]
    assert len(np.unique(y)) < len(np.unique(exact))
