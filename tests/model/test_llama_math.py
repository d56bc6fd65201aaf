# SPDX-License-Identifier: MIT
"""Is the mathematics right? Kernel formulas against finite differences, the whole model
against automatic differentiation, and the MIL text against both. No engine.

The chain of evidence: finite differences check the reference's gradients (float64, 1e-6);
an independent model differentiated by ``autograd`` checks the reference as a whole
(float64, 1e-9); the MIL text evaluated without rounding must equal the reference up to its
fp16 constants; evaluated with rounding it shows what fp16 and the engine's fixed-point
products cost.
"""

from __future__ import annotations

from typing import Any

import llama_autograd
import llama_reference as reference
import mil_eval
import numpy as np
import numpy.typing as npt
import pytest
from llama_problem import GROUPED, NORMED, ODD, WIDE, Problem, fp16_tolerance, fresh, half, lively

from ane_native.models.llama import PRESETS, LlamaConfig, LlamaProgram

Array = npt.NDArray[np.float64]
KERNELS = sorted(LlamaProgram(PRESETS["tiny"]).mil)
FORWARD = [name for name in KERNELS if name.endswith("_fwd")]


def relative(got: Array, want: Array) -> float:
    """Error norm over norm."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def cosine(a: Array, b: Array) -> float:
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def evaluate(
    problem: Problem, kernel: str, arithmetic: mil_eval.Arithmetic, inputs: dict[str, Array]
) -> dict[str, Array]:
    """Run the kernel's MIL; [C, T] by port in, [C, T] by port out."""
    mil = problem.program.mil[kernel]
    shaped = {port: x.reshape(mil.inputs[port]) for port, x in inputs.items()}
    made = mil_eval.evaluate(mil, problem.params, shaped, arithmetic)
    return {port: x.reshape(x.shape[1], -1) for port, x in made.items()}


# =============================== Against finite differences =====================


@pytest.mark.parametrize("kernel", FORWARD)
def test_kernel_gradients_equal_finite_differences(problem: Problem, kernel: str) -> None:
    """d<dy, y>/dx and /dW of one forward kernel, by its backward kernel and gradient jobs.

    Each tensor is moved along random directions and along single coordinates; central
    differences with h = 1e-5 are good to about h^2 = 1e-10 and 1e-16 / h = 1e-11, relative
    to the tensor's gradient.
    """
    config, program = problem.program.config, problem.program
    backward = kernel.replace("_fwd", "_bwd")
    rng = np.random.default_rng(5)
    x = problem.inputs[kernel]["x"]
    y_name = "logits" if kernel == "head_fwd" else "y"
    dy_name = "dlogits" if kernel == "head_fwd" else "dy"
    params = {name: value.astype(np.float64) for name, value in problem.params.items()}

    forward = reference.run_kernel(config, params, kernel, {"x": x})
    dy = rng.standard_normal(forward[y_name].shape)
    back = reference.run_kernel(config, params, backward, {**forward, dy_name: dy})

    def value(at: dict[str, Array], x_at: Array) -> float:
        return float(np.vdot(dy, reference.run_kernel(config, at, kernel, {"x": x_at})[y_name]))

    gradients = {"x": back["dx"]}
    for job in program.grad_jobs:
        if job.dy.kernel != backward:
            continue
        made = {dy_name: dy, **back}[job.dy.port[4:]]
        tap = forward[job.x.port[4:]]
        gradients[job.parameter] = made @ tap.T if job.cols else (made * tap).sum(axis=1)
    assert (
        len(gradients)
        == {
            "attn_fwd": 8 if config.qk_norm else 6,
            "ffn_fwd": 5,
            "head_fwd": 3,
        }[kernel.split(".")[-1]]
    )

    h = 1e-5
    for name, gradient in gradients.items():
        size = float(np.linalg.norm(gradient))
        directions = [rng.standard_normal(gradient.shape) for _ in range(3)]
        directions = [d / np.linalg.norm(d) for d in directions]
        for flat in rng.integers(0, gradient.size, 6):
            unit = np.zeros(gradient.size)
            unit[flat] = 1.0
            directions.append(unit.reshape(gradient.shape))
        for d in directions:
            ends = []
            for step in (h, -h):
                if name == "x":
                    ends.append(value(params, x + step * d))
                else:
                    ends.append(value({**params, name: params[name] + step * d}, x))
            numeric = (ends[0] - ends[1]) / (2 * h)
            assert abs(numeric - np.vdot(gradient, d)) < 1e-6 * size, name


# =============================== Against automatic differentiation ==============


@pytest.mark.parametrize(
    "config",
    [PRESETS["tiny"], ODD, WIDE, GROUPED, NORMED],
    ids=["tiny", "odd", "wide", "grouped", "normed"],
)
def test_model_gradients_equal_automatic_differentiation(config: LlamaConfig) -> None:
    """Chains, wires and gradient jobs, all parameters, float64 on both sides."""
    case = lively(config)
    loss, grads = reference.loss_and_gradients(case.program, case.params, case.tokens, case.targets)
    want_loss, want = llama_autograd.loss_and_gradients(
        config, case.params, case.tokens, case.targets
    )
    assert abs(loss - want_loss) < 1e-12
    assert set(grads) == set(want)
    for name in want:
        assert relative(grads[name], want[name]) < 1e-9, name


# =============================== The MIL text ===================================


@pytest.mark.parametrize("kernel", KERNELS)
def test_text_without_rounding_is_the_formula(problem: Problem, kernel: str) -> None:
    """What differs are constants: RoPE tables (2^-12 each) and eps in fp16.

    The mask is finite in the text and -inf in the reference; both give exact zeros.
    """
    inputs = problem.inputs[kernel]
    want = reference.run_kernel(problem.program.config, problem.params, kernel, inputs)
    ports = problem.program.mil[kernel].inputs
    got = evaluate(problem, kernel, "float64", {port: inputs[port[4:]] for port in ports})
    assert [port[4:] for port in got] == got_names(problem, kernel)
    for port, value in got.items():
        exact = "attn" not in kernel
        assert relative(value, want[port[4:]]) < (1e-7 if exact else 2.0**-11), port


def got_names(problem: Problem, kernel: str) -> list[str]:
    return [port[4:] for port in problem.program.mil[kernel].outputs]


@pytest.mark.parametrize("arithmetic", ["fp16", "silicon"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_text_with_rounding_stays_close(
    problem: Problem, kernel: str, arithmetic: mil_eval.Arithmetic
) -> None:
    inputs = problem.inputs[kernel]
    want = reference.run_kernel(problem.program.config, problem.params, kernel, inputs)
    mil = problem.program.mil[kernel]
    got = evaluate(problem, kernel, arithmetic, {port: inputs[port[4:]] for port in mil.inputs})
    for port, value in got.items():
        assert np.isfinite(value).all()
        assert relative(value, want[port[4:]]) < fp16_tolerance(mil.operations), port


# =============================== Whole model in the engine's arithmetic =========


def run_text(problem: Problem, arithmetic: mil_eval.Arithmetic) -> Any:
    def run(kernel: str, inputs: dict[str, Array]) -> dict[str, Array]:
        return evaluate(problem, kernel, arithmetic, inputs)

    return run


@pytest.mark.parametrize("arithmetic", ["fp16", "silicon"])
@pytest.mark.parametrize("start", [True, False], ids=["fresh", "lively"])
def test_recommended_loss_scale_keeps_every_gradient(
    problem: Problem, start: bool, arithmetic: mil_eval.Arithmetic
) -> None:
    case = fresh(8) if start else problem
    want_loss, want = llama_autograd.loss_and_gradients(
        case.program.config, case.params, case.tokens, case.targets
    )
    loss, grads = reference.loss_and_gradients(
        case.program,
        case.params,
        case.tokens,
        case.targets,
        run_text(case, arithmetic),
        case.program.config.loss_scale,
    )
    assert abs(loss - want_loss) < 2e-3
    for name in want:
        assert cosine(grads[name], want[name]) > 0.9995, name
        assert abs(np.linalg.norm(grads[name]) / np.linalg.norm(want[name]) - 1) < 0.01, name


def test_fixed_point_products_lose_gradients_without_a_loss_scale() -> None:
    """Why there is one: below 2^-16 a product is nothing (ANEForge's published errors)."""
    case = fresh(8)
    _, want = llama_autograd.loss_and_gradients(
        case.program.config, case.params, case.tokens, case.targets
    )
    _, grads = reference.loss_and_gradients(
        case.program, case.params, case.tokens, case.targets, run_text(case, "silicon"), 1.0
    )
    worst = min(cosine(grads[name], want[name]) for name in want if np.any(grads[name]))
    assert worst < 0.5


# =============================== The arithmetic itself ==========================


def test_emulated_products_reproduce_a_published_error() -> None:
    """0.0012522854527169441 for 64x256x256 on M1, M2 Pro and M5 (ANEForge bench/results)."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 256)).astype(np.float32) / np.float32(16)
    w = rng.standard_normal((256, 256)).astype(np.float32) / np.float32(16)
    got = mil_eval.silicon_product(half(x), half(w).T)
    want = x.astype(np.float64) @ w.astype(np.float64).T
    assert relative(got, want) == pytest.approx(0.0012522854527169441, rel=1e-9)


def test_emulated_products_overflow_where_the_engine_does() -> None:
    ones = np.ones((1, 128))
    assert np.isfinite(mil_eval.silicon_product(ones, 255.75 * ones.T)).all()
    assert np.isposinf(mil_eval.silicon_product(ones, 256.0 * ones.T)).all()
