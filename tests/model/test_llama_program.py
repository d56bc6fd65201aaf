# SPDX-License-Identifier: MIT
"""Structure of the Llama program: sizes, names, wires, gradient jobs. No engine."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from ane_native.kernel import KernelSet, Weight
from ane_native.models.llama import (
    PRESETS,
    LlamaProgram,
    init_params,
    parameter_shapes,
    rope_tables,
)

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module", params=sorted(PRESETS))
def program(request: pytest.FixtureRequest) -> LlamaProgram:
    return LlamaProgram(PRESETS[request.param])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dim": 65}, ValueError, "dim: expected a multiple of heads = 2, got 65"),
        ({"dim": 66, "heads": 22}, ValueError, "dim / heads: expected even, got 3.0"),
        ({"hidden": 100}, ValueError, "hidden: expected a multiple of 32, got 100"),
        ({"seq": 48}, ValueError, "seq: expected a multiple of 32, got 48"),
        ({"layers": 0}, ValueError, "layers: expected at least 1, got 0"),
        ({"vocab": -1}, ValueError, "vocab: expected at least 1, got -1"),
        ({"dim": 64.0}, TypeError, "dim: expected an int, got float"),
        ({"heads": True}, TypeError, "heads: expected an int, got bool"),
        ({"norm_eps": 1e-9}, ValueError, "norm_eps: expected positive in fp16, got 1e-09"),
        ({"norm_eps": float("nan")}, ValueError, "norm_eps"),
        ({"kv_heads": 3}, ValueError, "kv_heads: expected a divisor of heads = 2, got 3"),
        ({"kv_heads": 0}, ValueError, "kv_heads: expected at least 1, got 0"),
        ({"head_width": 33}, ValueError, "head_width: expected even, got 33"),
        ({"rope_theta": 0.0}, ValueError, "rope_theta: expected positive, got 0.0"),
    ],
)
def test_sizes_are_checked(change: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]


def test_four_kernels_a_layer_and_two_for_the_head(program: LlamaProgram) -> None:
    assert len(program.mil) == 4 * program.config.layers + 2
    assert sorted(program.forward + program.backward) == sorted(program.mil)


def test_names_are_those_a_kernel_set_takes(program: LlamaProgram) -> None:
    kernels = program.kernel_set()
    assert isinstance(kernels, KernelSet)
    assert set(kernels.weight_names) == set(parameter_shapes(program.config))
    for kernel in kernels.kernels:
        inputs = [port.name for port in kernel.inputs]
        outputs = [port.name for port in kernel.outputs]
        assert inputs == sorted(inputs)
        assert outputs == sorted(outputs)


def test_every_input_has_one_source_of_its_shape_that_ran_before(program: LlamaProgram) -> None:
    """Only x and dlogits come from outside, so each chain runs without the CPU; dlogits lie where the
    logits were."""
    order = program.forward + program.backward
    written_by_hand = {str(program.x)}
    assert program.wires[str(program.dlogits)] == str(program.logits)
    for kernel, mil in program.mil.items():
        for port, shape in mil.inputs.items():
            name = f"{kernel}.{port}"
            assert (name in program.wires) != (name in written_by_hand)
            if name in program.wires:
                source, out = program.wires[name].rsplit(".", 1)
                assert program.mil[source].outputs[out] == shape
                assert order.index(source) < order.index(kernel)
    assert all(
        name.rsplit(".", 1)[1] in program.mil[name.rsplit(".", 1)[0]].inputs
        for name in program.wires
    )


def test_every_parameter_has_one_gradient_job_of_its_shape(program: LlamaProgram) -> None:
    shapes = parameter_shapes(program.config)
    assert sorted(job.parameter for job in program.grad_jobs) == sorted(shapes)
    for job in program.grad_jobs:
        shape = shapes[job.parameter]
        assert (job.rows, job.cols) == (shape if len(shape) == 2 else (shape[0], 0))
        dy = {**program.mil[job.dy.kernel].inputs, **program.mil[job.dy.kernel].outputs}[
            job.dy.port
        ]
        x = program.mil[job.x.kernel].outputs[job.x.port]
        heads = 1
        if job.parameter.endswith(("q_norm.weight", "k_norm.weight")):
            of_k = program.config.kv_heads or program.config.heads
            heads = of_k if job.parameter.endswith("k_norm.weight") else program.config.heads
        assert dy == (1, job.rows, heads, program.config.seq)
        assert x == (1, job.cols or job.rows, heads, program.config.seq)


def test_all_ports_are_dense_rows(program: LlamaProgram) -> None:
    """[1, C, 1, T], by the head [1, E, H, T], T a multiple of 32: what lies in a surface is a
    plain array."""
    by_head = {"qhat", "khat", "rq", "rk", "dqn", "dkn"} if program.config.qk_norm else set()
    for mil in program.mil.values():
        for port, (n, _, h, t) in (*mil.inputs.items(), *mil.outputs.items()):
            assert (n, t) == (1, program.config.seq)
            assert (h == 1) != (port[4:] in by_head)
            assert t % 32 == 0


def test_backward_kernels_bake_transposes_of_what_forward_kernels_bake(
    program: LlamaProgram,
) -> None:
    def matrices(kernels: list[str]) -> set[tuple[str, bool]]:
        found = set()
        for kernel in kernels:
            for path, source in program.mil[kernel].weights.items():
                if isinstance(source, Weight):
                    found.add((source.name, source.transpose))
                elif isinstance(source, str) and not path.endswith("gain.bin"):
                    found.add((source, False))
        return found

    forward, backward = matrices(program.forward), matrices(program.backward)
    assert {name for name, _ in forward} == {name for name, _ in backward}
    assert not any(transpose for _, transpose in forward)
    assert all(transpose for _, transpose in backward)


def test_layers_have_one_text_and_other_weights(program: LlamaProgram) -> None:
    for part in ("attn_fwd", "ffn_fwd", "attn_bwd", "ffn_bwd"):
        texts = {program.mil[f"L{i}.{part}"].text for i in range(program.config.layers)}
        assert len(texts) == 1


def test_no_slice_starts_inside_the_last_axis(program: LlamaProgram) -> None:
    for mil in program.mil.values():
        for begin in re.findall(r"begin=int32_(\w+)", mil.text):
            assert begin.endswith("_0")


def test_a_large_vocabulary_goes_back_through_matmul() -> None:
    """A conv with 32000 input channels is refused by the compiler."""
    text = LlamaProgram(PRESETS["stories110m"]).mil["head_bwd"].text
    assert "conv(" not in text
    assert "matmul(" in text
    assert "conv(" in LlamaProgram(TINY).mil["head_bwd"].text


def test_dialect_b_has_the_same_operations() -> None:
    a, b = LlamaProgram(TINY), LlamaProgram(TINY, dialect="B")
    for kernel in a.mil:
        assert b.mil[kernel].text.startswith("program(1.0)")
        assert a.mil[kernel].operations == b.mil[kernel].operations
        assert list(a.mil[kernel].weights) == list(b.mil[kernel].weights)


# =============================== Parameters =====================================


def test_parameter_counts_are_the_published_ones() -> None:
    """Stories110M: 109.53M (llama2.c, maderix/ANE), input and output embedding shared."""
    assert PRESETS["stories110m"].parameter_count == 109_529_856
    assert sum(p.size for p in init_params(TINY, np.random.default_rng(0)).values()) == (
        TINY.parameter_count
    )


def test_parameters_start_as_documented() -> None:
    params = init_params(PRESETS["demo"], np.random.default_rng(1))
    for name, value in params.items():
        assert value.dtype == np.float32
        assert value.flags.c_contiguous
        if value.ndim == 1:
            assert np.array_equal(value, np.ones_like(value))
            continue
        std = 0.02 / np.sqrt(8) if name.endswith(("wo.weight", "w2.weight")) else 0.02
        assert abs(value.mean()) < 5 * std / np.sqrt(value.size)
        assert abs(value.std() / std - 1) < 5 / np.sqrt(2 * value.size)


def test_parameters_repeat_with_the_seed() -> None:
    first, again, other = (init_params(TINY, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["tok_embeddings.weight"], other["tok_embeddings.weight"])


def test_rope_turns_and_does_not_stretch() -> None:
    cos, sin = rope_tables(TINY)
    half = TINY.head_dim // 2
    assert cos.shape == sin.shape == (1, 1, TINY.head_dim, TINY.seq)
    assert np.allclose(cos**2 + sin**2, 1.0)
    assert np.array_equal(sin[:, :, :half], -sin[:, :, half:])
    assert np.array_equal(cos[..., 0], np.ones((1, 1, TINY.head_dim)))


# =============================== Work ===========================================


def test_flop_counts_are_those_of_the_published_kernels() -> None:
    """Stories110M, one layer, in maderix/ANE: fwdAttn 1409, fwdFFN 2416 MFLOP."""
    config = dataclasses.replace(PRESETS["stories110m"], layers=1)
    head = 2 * 256 * 32000 * 768 / 1e6
    assert round(config.forward_mflop - head) == 1409 + 2416
    # ffnBwd, sdpaBwd1, sdpaBwd2, qkvBwd
    assert round(config.backward_mflop - head) == 2416 + 604 + 201 + 906


def test_the_demo_is_small_enough_for_a_laptop() -> None:
    assert PRESETS["demo"].micro_step_mflop < 6000
