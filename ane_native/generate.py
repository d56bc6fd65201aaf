# SPDX-License-Identifier: MIT
"""Text from a checkpoint: the forward kernels, compiled once, and a sampler.

On the engine each token recomputes the whole window of T positions, because kernels have
fixed shapes; a longer text slides, the window holds its last T tokens. With the cache of keys
and values (:mod:`ane_native.decode`, the default of the command line) the CPU computes one
position a token; a text that fills the cache goes on from its last T / 2 tokens.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.decode import CachedDecoder
from ane_native.errors import CheckpointError, ConfigError
from ane_native.kernel import Kernel, KernelSet
from ane_native.llama2c import read_llama2c, write_llama2c
from ane_native.models.llama import LlamaConfig, LlamaProgram, parameter_shapes
from ane_native.outputs import check_output, open_output
from ane_native.tokenizer import open_tokenizer
from ane_native.vocabulary import Compaction

__all__ = [
    "cached_logits",
    "decode_bytes",
    "draw_tokens",
    "export_model",
    "engine_forward",
    "forward_set",
    "load_model",
    "model_of",
    "sample",
    "sample_from_checkpoint",
]

Forward = Callable[[npt.NDArray[np.int32]], npt.NDArray[np.float16]]
NextLogits = Callable[[Sequence[int]], npt.NDArray[np.float64]]


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
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Draw tokens one after the other, by a forward pass over a window.

    Args:
        forward: int32 [T] tokens -> float16 logits with V * T elements, [V, T] in order.
        prompt: tokens to continue; empty starts from token 0.
        count: tokens to draw.
        seq: T.
        vocab: V.
        temperature: 0 takes the likeliest token.
        top_k: draw among the k likeliest; 0: among all.
        top_p: draw among the likeliest that together have this probability; 1: among all.
        seed: the same seed and weights draw the same tokens.

    Raises:
        ConfigError: a number out of its range, or a prompt token outside the vocabulary.
    """
    window = np.zeros(seq, np.int32)

    def next_logits(text: Sequence[int]) -> npt.NDArray[np.float64]:
        tail = text[-seq:]
        window[: len(tail)] = tail  # what follows cannot reach back: attention is causal
        return forward(window).reshape(vocab, seq)[:, len(tail) - 1].astype(np.float64)

    return draw_tokens(
        next_logits,
        prompt,
        count,
        vocab=vocab,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )


def cached_logits(decoder: CachedDecoder) -> NextLogits:
    """For :func:`draw_tokens`, by a decoder with a cache."""
    seq = decoder.config.seq
    held: list[int] = []

    def next_logits(text: Sequence[int]) -> npt.NDArray[np.float64]:
        fresh = list(text[len(held) :]) if held else list(text[-seq:])
        if held and len(fresh) + decoder.length > seq:
            decoder.reset()
            fresh = list(text[-(seq // 2) :])
        held[:] = text
        return decoder.step(fresh).astype(np.float64)

    return next_logits


def draw_tokens(
    next_logits: NextLogits,
    prompt: Sequence[int],
    count: int,
    *,
    vocab: int,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Iterator[int]:
    """Draw tokens one after the other; see :func:`sample`.

    Args:
        next_logits: the text so far -> float64 [V]. Called with one token more each time.
    """
    if not 0 < top_p <= 1:
        raise ConfigError(f"top_p: expected more than 0 and at most 1, got {top_p}")
    if temperature < 0 or not np.isfinite(temperature):
        raise ConfigError(f"temperature: expected 0 or more, got {temperature}")
    if top_k < 0:
        raise ConfigError(f"top_k: expected 0 or more, got {top_k}")
    for name, value in (("tokens", count), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {value}")
    text = list(prompt) or [0]
    for i, token in enumerate(text):
        if not 0 <= token < vocab:
            raise ConfigError(f"prompt token {i}: expected 0 to {vocab - 1}, got {token}")
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(count):
        text.append(_draw(next_logits(text), temperature, top_k, top_p, rng))
        yield text[-1]


def _draw(
    logits: npt.NDArray[np.float64],
    temperature: float,
    top_k: int,
    top_p: float,
    rng: np.random.Generator,
) -> int:
    if temperature == 0:
        return int(np.argmax(logits))
    if 0 < top_k < len(logits):
        # Ties at the edge are all kept, so the result does not depend on the sort.
        logits = np.where(logits >= np.sort(logits)[-top_k], logits, -np.inf)
    scaled = (logits - logits.max()) / temperature
    weight = np.exp(scaled)
    if top_p < 1:
        order = np.argsort(-weight, kind="stable")
        reached = np.cumsum(weight[order]) >= top_p * weight.sum()
        weight[order[int(np.argmax(reached)) + 1 :]] = 0.0
    total = np.cumsum(weight)
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
    prompt: str = "",
    tokens: int = 200,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    tokenizer: str | None = None,
    cache: bool = True,
) -> Iterator[str]:
    """Yield pieces of text that continue a prompt.

    Args:
        path: what :func:`load_model` takes.
        prompt: text to continue; not part of the result.
        tokens: how many to draw.
        temperature, top_k, top_p, seed: see :func:`sample`.
        tokenizer: file for :func:`ane_native.tokenizer.open_tokenizer`; None: bytes, or
            numbers where the vocabulary is another one.
        cache: decode on the CPU with a cache; False: compile the forward kernels and
            recompute the window on the engine.

    Raises:
        CheckpointError: damaged or not a checkpoint. ConfigError: see :func:`sample`.
    """
    config, weights, compaction = load_model(path)
    text = open_tokenizer(tokenizer)
    plain = tokenizer is None and (compaction is not None or config.vocab != 256)
    full = config.vocab if compaction is None else compaction.size
    if plain and prompt:
        raise ConfigError(f"prompt: a vocabulary of {full} needs --tokenizer")
    if not plain and text.vocab > full:
        raise ConfigError(f"tokenizer: expected at most {full} tokens, got {text.vocab}")
    begin = [] if plain else text.encode(prompt)
    given = begin if compaction is None else compaction.compact(begin).tolist()
    options: dict[str, Any] = {
        "vocab": config.vocab,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    with ExitStack() as stack:
        if cache:
            logits = cached_logits(CachedDecoder(config, weights))
            drawn = draw_tokens(logits, given, tokens, **options)
        else:
            forward = stack.enter_context(engine_forward(config, weights))
            drawn = sample(forward, given, tokens, seq=config.seq, **options)
        if compaction is not None:
            kept = compaction.kept
            drawn = (int(kept[token]) for token in drawn)
        if plain:
            yield from (f"{token} " for token in drawn)
        else:
            yield from text.decode(drawn)


@contextmanager
def engine_forward(config: LlamaConfig, weights: Mapping[str, Any]) -> Iterator[Forward]:
    """The forward kernels, compiled once."""
    from ane_native.microstep import MicroStep
    from ane_native.scheduler import DoubleBufferedTrainer

    program = LlamaProgram(config)
    with DoubleBufferedTrainer(forward_set(program), weights, staleness=0) as trainer:
        yield MicroStep(program, trainer).forward


# =============================== Models in files ================================


def load_model(
    path: str | os.PathLike[str],
) -> tuple[LlamaConfig, dict[str, Any], Compaction | None]:
    """Shape, weights and compaction of a llama2.c ``.bin`` file or a checkpoint.

    Raises:
        CheckpointError: damaged, or neither.
    """
    from ane_native.checkpoint import load_checkpoint

    if Path(path).suffix == ".bin":
        return (*read_llama2c(path), None)
    checkpoint = load_checkpoint(path, optimizer=False)
    config = model_of(checkpoint.state, checkpoint.weights, checkpoint.path)
    kept = checkpoint.state.get("vocabulary")
    compaction = None if kept is None else Compaction.of_state(kept, checkpoint.path)
    if compaction is not None and len(compaction) != config.vocab:
        raise CheckpointError(
            f"{checkpoint.path}: expected {config.vocab} tokens in its vocabulary, "
            f"got {len(compaction)}"
        )
    return config, dict(checkpoint.weights), compaction


HF_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}


def hf_name(name: str) -> str:
    """A parameter's name in Hugging Face's Llama files; values are the same."""
    if name == "tok_embeddings.weight":
        return "model.embed_tokens.weight"
    if name == "norm.weight":
        return "model.norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{HF_NAMES[rest.removesuffix('.weight')]}.weight"


def export_model(path: str, to: str, *, version: int = 0) -> LlamaConfig:
    """Write a model for other programs, with its whole vocabulary.

    Args:
        path: what :func:`load_model` takes.
        to: ``.bin`` for llama2.c, ``.safetensors`` with Hugging Face's names.
        version: of the ``.bin`` format, 0 or 1.

    Returns:
        The shape that was written.

    Raises:
        CheckpointError, ConfigError: what the message says.
    """
    from safetensors.numpy import save

    kind = Path(to).suffix
    if kind not in (".bin", ".safetensors"):
        raise ConfigError(f"to: expected a .bin or .safetensors file, got {to!r}")
    if kind == ".bin" and version not in (0, 1):
        raise ConfigError(f"version: expected 0 or 1, got {version}")
    if kind != ".bin" and version:
        raise ConfigError(f"version: expected it with a .bin file only, got {version} and {to}")
    check_output(to, "to")
    config, weights, compaction = load_model(path)
    if compaction is not None:
        config = dataclasses.replace(config, vocab=compaction.size)
        table = weights["tok_embeddings.weight"]
        weights["tok_embeddings.weight"] = compaction.expand_rows(table)
    if kind == ".bin":
        write_llama2c(to, config, weights, version=version)
    else:
        with open_output(to) as stream:
            stream.write(save({hf_name(name): value for name, value in weights.items()}))
    return config
