# SPDX-License-Identifier: MIT
"""Norms of q and k over each head's channels, with fewer heads of keys than of queries."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import llama_autograd
import llama_reference as reference
import numpy as np
import pytest
import test_llama_math as maths
from llama_problem import NORMED, Problem, fp16_tolerance, lively

import ane_native as ane
from ane_native import soft
from ane_native.checkpoint import save_checkpoint
from ane_native.errors import ConfigError
from ane_native.generate import export_model, load_model
from ane_native.microstep import MicroStep
from ane_native.models.llama import (
    PRESETS,
    LlamaConfig,
    LlamaProgram,
    init_params,
    parameter_shapes,
)
from ane_native.scaling import Scales

KERNELS = ("L0.attn_fwd", "L0.attn_bwd", "L1.attn_fwd", "L1.attn_bwd")


@pytest.fixture(scope="module")
def case() -> Problem:
    return lively(NORMED)


def test_there_is_a_gain_for_q_and_one_for_k() -> None:
    plain = dataclasses.replace(NORMED, qk_norm=False)
    shapes = parameter_shapes(NORMED)
    new = set(shapes) - set(parameter_shapes(plain))
    assert new == {f"layers.{i}.attention.{m}_norm.weight" for i in range(2) for m in "qk"}
    assert all(shapes[name] == (NORMED.head_dim,) for name in new)
    assert NORMED.parameter_count == plain.parameter_count + 4 * NORMED.head_dim
    made = init_params(NORMED, np.random.default_rng(0))
    assert all((made[name] == 1.0).all() for name in new)


def test_the_preset_has_as_many_parameters_as_qwen3_has() -> None:
    """Its model card: 0.6B parameters, 0.44B without the embedding."""
    config = PRESETS["qwen3-0.6b"]
    table = config.vocab * config.dim
    assert round(config.parameter_count / 1e9, 1) == 0.6
    assert round((config.parameter_count - table) / 1e9, 2) == 0.44
    assert config.qk_norm


def test_the_switch_is_a_bool() -> None:
    with pytest.raises(TypeError, match="qk_norm: expected a bool, got int"):
        dataclasses.replace(NORMED, qk_norm=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", ["L0.attn_fwd", "L1.attn_fwd"])
def test_gradients_equal_finite_differences(case: Problem, kernel: str) -> None:
    maths.test_kernel_gradients_equal_finite_differences(case, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_text_is_the_formula(case: Problem, kernel: str) -> None:
    maths.test_text_without_rounding_is_the_formula(case, kernel)
    maths.test_text_with_rounding_stays_close(case, kernel, "fp16")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dialect", ["A", "B"])
def test_the_engine_computes_the_formula(case: Problem, kernel: str, dialect: str) -> None:
    program = LlamaProgram(NORMED, dialect)  # type: ignore[arg-type]
    inputs = case.inputs[kernel]
    want = reference.run_kernel(NORMED, case.params, kernel, inputs)
    described = program.kernel_set().kernels[program.kernel_set().position(kernel)]
    given = [inputs[p.name[4:]].reshape(p.shape) for p in described.inputs]
    with ane.Program(described, case.params) as loaded:
        got = loaded.eval(*given)
    for port, value in zip(described.outputs, got, strict=True):
        name = port.name[4:]
        made = value.reshape(want[name].shape)
        tolerance = fp16_tolerance(program.mil[kernel].operations)
        assert maths.relative(made, want[name]) < tolerance, name


def test_what_an_implementation_without_them_gives_is_something_else(case: Problem) -> None:
    plain = dataclasses.replace(NORMED, qk_norm=False)
    with_norms, _ = llama_autograd.loss_and_gradients(
        NORMED, case.params, case.tokens, case.targets
    )
    without, _ = llama_autograd.loss_and_gradients(plain, case.params, case.tokens, case.targets)
    assert abs(with_norms - without) > 1e-2


@pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")
def test_gradients_on_silicon_are_right_with_powers_of_two() -> None:
    config = NORMED
    rng = np.random.default_rng(4)
    params = init_params(config, rng)
    tokens = rng.integers(0, config.vocab, config.seq + 1).astype(np.int32)
    _, want = llama_autograd.loss_and_gradients(config, params, tokens[:-1], tokens[1:])
    program = LlamaProgram(config, scaled=True)
    scales = Scales(program)
    grads = {name: np.zeros_like(value) for name, value in params.items()}
    with soft.using(numerics="silicon"):
        weights = params | scales.tensors(0)
        with ane.DoubleBufferedTrainer(program.kernel_set(), weights, staleness=0) as trainer:
            step = MicroStep(program, trainer, grads, scales=scales)
            for version in (1, 2):
                for gradient in grads.values():
                    gradient[:] = 0.0
                step(tokens[:-1], tokens[1:], 1024.0)
                assert step.watch()
                scales.choose(params, 0)
                trainer.step(params | scales.tensors(version))
            for gradient in grads.values():
                gradient[:] = 0.0
            step(tokens[:-1], tokens[1:], 1024.0)
    assert max(scales.chosen.values()) > 0
    for name, value in want.items():
        assert maths.cosine(grads[name].astype(np.float64), value) > 0.999, name
        ratio = float(np.linalg.norm(grads[name]) / 1024 / np.linalg.norm(value))
        assert math.isclose(ratio, 1.0, abs_tol=0.01), name


def test_a_checkpoint_of_them_exports_with_the_usual_names(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    config = LlamaConfig(
        dim=64, hidden=64, layers=2, heads=2, kv_heads=1, seq=32, vocab=50, qk_norm=True
    )
    params = init_params(config, np.random.default_rng(1))
    state = {"model": dataclasses.asdict(config)}
    save_checkpoint(tmp_path / "run", 1, params, {}, state)
    again, weights, _ = load_model(tmp_path / "run")
    assert again == config
    assert set(weights) == set(params)
    export_model(str(tmp_path / "run"), str(tmp_path / "m.safetensors"))
    found = load_file(tmp_path / "m.safetensors")
    assert found["model.layers.1.self_attn.q_norm.weight"].shape == (32,)
    assert found["model.layers.0.self_attn.k_norm.weight"].shape == (32,)
    with pytest.raises(ConfigError, match=r"no place for the norms of q and k \(qk_norm\)"):
        export_model(str(tmp_path / "run"), str(tmp_path / "m.bin"))
    assert not (tmp_path / "m.bin").exists()
