# SPDX-License-Identifier: MIT
"""Text from a checkpoint: the forward kernels, compiled once, and a sampler.

Each token recomputes the whole window of T positions: kernels have fixed shapes, and there is
no cache of keys and values. A longer text slides: the window holds its last T tokens.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.errors import CheckpointError, ConfigError
from ane_native.kernel import Kernel, KernelSet
from ane_native.models.llama import LlamaConfig, LlamaProgram, parameter_shapes

__all__ = ["decode_bytes", "forward_set", "model_of", "sample", "sample_from_checkpoint"]

Forward = Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float16]]


def forward_set(program: LlamaProgram) -> KernelSet:
    """The forward kernels of a model and the wires among them."""
    kernels = [
        Kernel(name, mil.text, inputs=mil.inputs, outputs=mil.outputs, weights=mil.weights)
        for name, mil in ((name, program.mil[name]) for name in program.forward)
    ]
    names = set(program.forward)
    wires = {
        to: source
        for to, source in program.wires.items()
        if to.rpartition(".")[0] in names and source.rpartition(".")[0] in names
    }
    return KernelSet(kernels, wires=wires)


def sample(
    forward: Forward,
    prompt: Sequence[int],
    count: int,
    *,
    seq: int,
    vocab: int,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[int]:
    """Draw tokens one after the other.

    Args:
        forward: int32 [T] tokens -> float16 logits with V * T elements, [V, T] in order.
        prompt: tokens to continue; empty starts from token 0.
        count: tokens to draw.
        seq: T.
        vocab: V.
        temperature: 0 takes the likeliest token.
        top_k: draw among the k likeliest; 0: among all.
        seed: the same seed and weights draw the same tokens.

    Raises:
        ConfigError: a number out of its range, or a prompt token outside the vocabulary.
    """
    if temperature < 0 or not np.isfinite(temperature):
        raise ConfigError(f"temperature: expected 0 or more, got {temperature}")
    if top_k < 0:
        raise ConfigError(f"top_k: expected 0 or more, got {top_k}")
    if count < 0:
        raise ConfigError(f"tokens: expected 0 or more, got {count}")
    text = list(prompt) or [0]
    for i, token in enumerate(text):
        if not 0 <= token < vocab:
            raise ConfigError(f"prompt token {i}: expected 0 to {vocab - 1}, got {token}")
    rng = np.random.Generator(np.random.PCG64(seed))
    window = np.zeros(seq, np.int32)
    for _ in range(count):
        tail = text[-seq:]
        window[: len(tail)] = tail  # what follows cannot reach back: attention is causal
        logits = forward(window).reshape(vocab, seq)[:, len(tail) - 1].astype(np.float64)
        text.append(_draw(logits, temperature, top_k, rng))
        yield text[-1]


def _draw(
    logits: npt.NDArray[np.float64], temperature: float, top_k: int, rng: np.random.Generator
) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    if 0 < top_k < len(logits):
        # Ties at the edge are all kept, so the result does not depend on the sort.
        logits = np.where(logits >= np.sort(logits)[-top_k], logits, -np.inf)
    scaled = (logits - logits.max()) / temperature
    total = np.cumsum(np.exp(scaled))
    drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    return min(drawn, len(logits) - 1)


def decode_bytes(tokens: Iterator[int]) -> Iterator[str]:
    """Byte tokens as text, as soon as a character is complete; bad bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        text = decoder.decode(bytes([token]))
        if text:
            yield text
    yield decoder.decode(b"", final=True)


def model_of(state: Mapping[str, Any], weights: Mapping[str, Any], path: object) -> LlamaConfig:
    """The shape of the model in a checkpoint.

    Raises:
        CheckpointError: none is recorded, or the weights are not those of that shape.
    """
    try:
        config = LlamaConfig(**state["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: no usable model description: {error}") from error
    for name, shape in parameter_shapes(config).items():
        got = np.shape(weights[name]) if name in weights else None
        if got != shape:
            raise CheckpointError(f"{path}: tensor {name!r}: expected shape {shape}, got {got}")
    return config


def sample_from_checkpoint(
    path: str,
    prompt: bytes = b"",
    tokens: int = 200,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[str]:
    """Compile the forward kernels of a checkpoint and yield pieces of text.

    Args:
        path: what :func:`ane_native.checkpoint.load_checkpoint` takes.
        prompt: bytes to continue; not part of the result.
        tokens: how many to draw.
        temperature, top_k, seed: see :func:`sample`.

    Raises:
        CheckpointError: damaged or not a checkpoint. ConfigError: see :func:`sample`.
    """
    from ane_native.checkpoint import load_checkpoint
    from ane_native.microstep import MicroStep
    from ane_native.scheduler import DoubleBufferedTrainer

    checkpoint = load_checkpoint(path, optimizer=False)
    config = model_of(checkpoint.state, checkpoint.weights, checkpoint.path)
    program = LlamaProgram(config)
    with DoubleBufferedTrainer(forward_set(program), checkpoint.weights, staleness=0) as trainer:
        step = MicroStep(program, trainer)
        drawn = sample(
            step.forward,
            list(prompt),
            tokens,
            seq=config.seq,
            vocab=config.vocab,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )
        if config.vocab == 256:
            yield from decode_bytes(drawn)
        else:
            yield from (f"{token} " for token in drawn)
