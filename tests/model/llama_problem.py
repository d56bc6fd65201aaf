# SPDX-License-Identifier: MIT
"""Problems the model tests share: a model with lively weights, tokens, well-scaled taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_reference as reference
import numpy as np
import numpy.typing as npt

from ane_native.models.llama import PRESETS, LlamaProgram, parameter_shapes


@dataclass
class Problem:
    """A tiny model whose activations are of order 1 everywhere.

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


def half(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rounded to what fp16 holds."""
    return x.astype(np.float16).astype(np.float64)


def lively() -> Problem:
    """The problem most tests use; about 20 ms to make."""
    config = PRESETS["tiny"]
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
            fresh = rng.standard_normal((shape[1], shape[3]))
            inputs[kernel][port[4:]] = half(taps.get(port[4:], fresh))
    return Problem(program, params, tokens[:-1], tokens[1:], inputs)
