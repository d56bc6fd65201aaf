# SPDX-License-Identifier: MIT
"""The Llama kernels on an engine: one by one, then as a training loop drives them.

Uses whatever engine this machine opens. Expected values come from the float64 reference
(kernels) and from the ``autograd`` package (whole model).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import llama_autograd
import llama_reference as reference
import numpy as np
import numpy.typing as npt
import pytest
from llama_problem import GROUPED, NORMED, ODD, WIDE, Problem, fp16_tolerance, fresh

import ane_native as ane
from ane_native import cpu
from ane_native.microstep import MicroStep
from ane_native.mil import Dialect
from ane_native.models.llama import PRESETS, LlamaProgram, PortRef

Array = npt.NDArray[Any]
Params = Mapping[str, Array]


def relative(got: Array, want: Array) -> float:
    """Error norm over norm."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def cosine(a: Array, b: Array) -> float:
    a, b = np.float64(a), np.float64(b)
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


# =============================== One kernel =====================================

ONE_OF_EACH = [name for name in LlamaProgram(PRESETS["tiny"]).mil if not name.startswith("L0")]


@pytest.mark.parametrize("rms", [0.02, 1.0, 100.0])
def test_the_norm_holds_for_small_and_for_large_residual_streams(
    problem: Problem, rms: float
) -> None:
    """A sum of plain squares leaves fp16 at an rms of sqrt(65504 / D), 32 here."""
    program = LlamaProgram(problem.program.config)
    mil = program.mil["head_fwd"]
    x = np.float64(problem.inputs["head_fwd"]["x"])
    x = np.float64(np.float16(x * rms / np.sqrt(np.mean(x * x))))
    assert rms < 32 or (x * x).sum(axis=0).max() > 65504
    want = reference.run_kernel(program.config, problem.params, "head_fwd", {"x": x})
    described = ane.Kernel(
        "head", mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights
    )
    with ane.Program(described, problem.params) as loaded:
        got = loaded.eval(*[x.reshape(shape) for shape in mil.inputs.values()])
    for port, value in zip(mil.outputs, got, strict=True):
        made = value.reshape(want[port[4:]].shape)
        assert relative(made, want[port[4:]]) < fp16_tolerance(mil.operations), port


@pytest.mark.parametrize("dialect", ["A", "B"])
@pytest.mark.parametrize("kernel", ONE_OF_EACH)
def test_kernel_computes_its_formula(problem: Problem, kernel: str, dialect: Dialect) -> None:
    program = LlamaProgram(problem.program.config, dialect)
    mil = program.mil[kernel]
    inputs = problem.inputs[kernel]
    want = reference.run_kernel(program.config, problem.params, kernel, inputs)
    described = ane.Kernel(
        kernel, mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights
    )
    given = [inputs[port[4:]].reshape(shape) for port, shape in mil.inputs.items()]
    with ane.Program(described, problem.params) as loaded:
        got = loaded.eval(*given)
    for port, value in zip(mil.outputs, got, strict=True):
        made = value.reshape(want[port[4:]].shape)
        assert relative(made, want[port[4:]]) < fp16_tolerance(mil.operations), port


# =============================== Micro-steps ====================================


class Model:
    """A trainer and the CPU side of a micro-step, as a training loop has them."""

    def __init__(self, program: LlamaProgram, params: Params, staleness: int = 1) -> None:
        self.program = program
        self.scale = program.config.loss_scale
        self.trainer = ane.DoubleBufferedTrainer(program.kernel_set(), params, staleness=staleness)
        self.grads = {name: np.zeros(value.shape, np.float32) for name, value in params.items()}
        cpu.open_blas()
        self.jobs = cpu.GradJobs(
            [
                cpu.GradProduct(
                    self.surface(job.dy), self.surface(job.x), self.grads[job.parameter]
                )
                for job in program.grad_jobs
            ]
        )

    def surface(self, port: PortRef) -> Array:
        return self.trainer.surface(*port).array

    def micro_step(self, tokens: Array, targets: Array) -> float:
        """Adds to `grads` (times the loss scale); returns the loss."""
        table = "tok_embeddings.weight"
        active = self.trainer.active_weights
        cpu.embed_forward(active[table], tokens, self.surface(self.program.x))
        self.trainer.run(self.program.forward)
        loss = cpu.cross_entropy(
            self.surface(self.program.logits),
            targets,
            scale=self.scale,
            dlogits=self.surface(self.program.dlogits),
        )
        self.trainer.run(self.program.backward)
        cpu.grad_submit(self.jobs)
        cpu.grad_wait()
        cpu.embed_backward(self.surface(self.program.dx), tokens, self.grads[table])
        self.trainer.micro_step()
        return loss

    def take_gradients(self) -> dict[str, Array]:
        """The gradients so far, without the loss scale; starts again from zero."""
        taken = {name: g / np.float32(self.scale) for name, g in self.grads.items()}
        for g in self.grads.values():
            g[:] = 0.0
        return taken


def assert_gradients_agree(got: Params, want: Params) -> None:
    for name in want:
        assert cosine(got[name], want[name]) > 0.999, name
        ratio = np.linalg.norm(got[name]) / np.linalg.norm(want[name])
        assert abs(ratio - 1) < 0.01, name


@pytest.fixture(params=["fresh", "lively", "odd", "wide", "grouped", "normed"])
def case(request: pytest.FixtureRequest, problem: Problem) -> Problem:
    if request.param == "lively":
        return problem
    shapes = {"fresh": PRESETS["tiny"], "odd": ODD, "wide": WIDE}
    shapes |= {"grouped": GROUPED, "normed": NORMED}
    return fresh(8, shapes[request.param])


@pytest.fixture
def model(case: Problem) -> Iterator[Model]:
    made = Model(case.program, case.params)
    with made.trainer:
        yield made


def test_loss_and_gradients_are_those_of_automatic_differentiation(
    case: Problem, model: Model
) -> None:
    loss = model.micro_step(case.tokens, case.targets)
    want_loss, want = llama_autograd.loss_and_gradients(
        case.program.config, case.params, case.tokens, case.targets
    )
    assert abs(loss - want_loss) < 2e-3
    assert_gradients_agree(model.take_gradients(), want)


def test_a_micro_step_repeats_to_the_bit(case: Problem, model: Model) -> None:
    losses, grads = [], []
    for _ in range(3):
        losses.append(model.micro_step(case.tokens, case.targets))
        grads.append(model.take_gradients())
    assert losses[0] == losses[1] == losses[2]
    for name in grads[0]:
        assert np.array_equal(grads[0][name], grads[1][name]), name
        assert np.array_equal(grads[0][name], grads[2][name]), name


@pytest.mark.parametrize("overlap", [True, False])
def test_one_native_call_gives_the_bits_of_the_single_ones(problem: Problem, overlap: bool) -> None:
    model = Model(problem.program, problem.params)
    with model.trainer:
        want_loss = model.micro_step(problem.tokens, problem.targets)
        want = {name: g.copy() for name, g in model.grads.items()}
        for g in model.grads.values():
            g[:] = 0.0
        step = MicroStep(problem.program, model.trainer, model.grads, overlap=overlap)
        assert step(problem.tokens, problem.targets, model.scale) == want_loss
    for name, g in model.grads.items():
        assert np.array_equal(g, want[name]), name


def test_micro_steps_accumulate(case: Problem, model: Model) -> None:
    other = np.ascontiguousarray(case.tokens[::-1]), np.ascontiguousarray(case.targets[::-1])
    model.micro_step(case.tokens, case.targets)
    first = model.take_gradients()
    model.micro_step(*other)
    second = model.take_gradients()
    model.micro_step(case.tokens, case.targets)
    model.micro_step(*other)
    both = model.take_gradients()
    for name in both:
        assert relative(both[name], first[name] + second[name]) < 1e-5, name


def test_micro_steps_use_the_weights_of_the_active_generation(problem: Problem) -> None:
    """With staleness 1, batch k + 1 runs on the weights of update k - 1, CPU side included."""
    case = problem
    rng = np.random.default_rng(3)
    config = case.program.config
    versions = [dict(case.params)]
    for _ in range(3):
        versions.append(
            {
                name: (value + 0.1 * value.std() * rng.standard_normal(value.shape)).astype("f4")
                + np.float32(0.05 if value.ndim == 1 else 0.0)
                for name, value in versions[-1].items()
            }
        )
    model = Model(case.program, versions[0], staleness=1)
    with model.trainer as trainer:
        for k, version in enumerate(versions[1:]):
            trainer.step(version)
            assert trainer.generation == k
            loss = model.micro_step(case.tokens, case.targets)
            want_loss, want = llama_autograd.loss_and_gradients(
                config, versions[k], case.tokens, case.targets
            )
            assert abs(loss - want_loss) < 2e-3
            assert_gradients_agree(model.take_gradients(), want)


# =============================== Training =======================================


def test_losses_follow_float64_training() -> None:
    """Ten updates of plain gradient descent with momentum, one sequence, no staleness."""
    case = fresh(11)
    rate, momentum = 0.3, 0.8
    ours = {name: value.copy() for name, value in case.params.items()}
    theirs = {name: value.astype(np.float64) for name, value in case.params.items()}
    speed = {name: np.zeros(value.shape) for name, value in theirs.items()}
    speed_ours = {name: np.zeros(value.shape, np.float32) for name, value in ours.items()}
    model = Model(case.program, ours, staleness=0)
    losses, want_losses = [], []
    with model.trainer as trainer:
        for _ in range(10):
            losses.append(model.micro_step(case.tokens, case.targets))
            grads = model.take_gradients()
            want_loss, want = llama_autograd.loss_and_gradients(
                case.program.config, theirs, case.tokens, case.targets
            )
            want_losses.append(want_loss)
            for name, weight in ours.items():
                speed_ours[name] = np.float32(momentum) * speed_ours[name] + grads[name]
                weight -= np.float32(rate) * speed_ours[name]
                speed[name] = momentum * speed[name] + want[name]
                theirs[name] = theirs[name] - rate * speed[name]
            trainer.step(ours)
    assert want_losses[-1] < want_losses[0] - 0.5
    assert np.max(np.abs(np.array(losses) - want_losses)) < 5e-3
