# SPDX-License-Identifier: MIT
"""Problems the model tests share: a model with lively weights, tokens, well-scaled taps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import llama_reference as reference
import numpy as np
import numpy.typing as npt

from ane_native.models.llama import (
    PRESETS,
    LlamaConfig,
    LlamaProgram,
    init_params,
    parameter_shapes,
)


@dataclass
class Problem:
    """A model whose activations are of order 1 everywhere.

    Attributes:
        program: its kernels.
        params: fp16-valued parameters: matrices N(0, 1/in), gains near 1 but not equal, so
            that a gain in the wrong place shows.
        tokens, targets: one sequence.
        inputs: kernel -> short port name -> fp16-valued inputs: x and dy N(0, 1), taps made
            by the reference.
    """

    program: LlamaProgram
    params: dict[str, npt.NDArray[np.float32]]
    tokens: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    inputs: dict[str, dict[str, npt.NDArray[np.float64]]]


# Nothing here is a power of two but T: mixed-up axes and lost factors show.
ODD = LlamaConfig(
    dim=120, hidden=160, layers=3, heads=5, seq=32, vocab=100, norm_eps=1e-3, rope_theta=300.0
)
# One head, one layer, more classes than a conv may have inputs.
WIDE = LlamaConfig(dim=32, hidden=32, layers=1, heads=1, seq=32, vocab=32000)

# Six query heads on two key heads, wider together than the residual stream.
GROUPED = LlamaConfig(
    dim=96, hidden=160, layers=2, heads=6, kv_heads=2, head_width=24, seq=32, vocab=100
)

# The same with norms of q and k, as Qwen3 has them; eps is large enough to show.
NORMED = dataclasses.replace(GROUPED, qk_norm=True, norm_eps=1e-2)


def half(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rounded to what fp16 holds."""
    return x.astype(np.float16).astype(np.float64)


def lively(config: LlamaConfig = PRESETS["tiny"]) -> Problem:
    """The problem most tests use; about 20 ms to make."""
    program = LlamaProgram(config)
    rng = np.random.default_rng(20)
    params = {}
    for name, shape in parameter_shapes(config).items():
        noise = rng.standard_normal(shape)
        value = 1.0 + 0.3 * noise if len(shape) == 1 else noise / np.sqrt(shape[-1])
        params[name] = half(value).astype(np.float32)
    tokens = rng.integers(0, config.vocab, config.seq + 1).astype(np.int32)
    inputs: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for kernel in program.forward:
        inputs[kernel] = {"x": half(rng.standard_normal((config.dim, config.seq)))}
    for kernel in program.backward:
        forward = kernel.replace("_bwd", "_fwd")
        taps = reference.run_kernel(config, params, forward, inputs[forward])
        inputs[kernel] = {}
        for port, shape in program.mil[kernel].inputs.items():
            fresh = rng.standard_normal((shape[1], shape[2] * shape[3]))
            inputs[kernel][port[4:]] = half(taps.get(port[4:], fresh))
    return Problem(program, params, tokens[:-1], tokens[1:], inputs)


def fresh(seed: int, config: LlamaConfig = PRESETS["tiny"]) -> Problem:
    """A model as it starts training, where gradients are smallest."""
    rng = np.random.default_rng(seed)
    params = init_params(config, rng)
    tokens = rng.integers(0, config.vocab, config.seq + 1).astype(np.int32)
    return Problem(LlamaProgram(config), params, tokens[:-1], tokens[1:], {})


def fp16_tolerance(operations: int) -> float:
    """Relative error norm a kernel may have in fp16: 2^-11 sqrt(operations).

    A rounding moves a number by at most 2^-11 of itself (half a step). Between an input
    and an output lie no more roundings than the text has operations; they are independent,
    so their squares add. Measured: at most half of it.
    """
    return float(2.0**-11 * np.sqrt(operations))
