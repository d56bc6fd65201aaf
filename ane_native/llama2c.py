# SPDX-License-Identifier: MIT
"""Model files of karpathy/llama2.c: ``.bin``, versions 0 and 1, read and written.

fp32, little endian. Version 0 (legacy_export of its export.py): seven int32 (dim, hidden_dim,
n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len), a negative vocabulary when the
classifier is a matrix of its own; tensors by kind, layers together; the tables of RoPE; the
classifier. Version 1: "ak42", the version, the same seven numbers, a byte that says whether the
classifier is shared, zeros up to 256 bytes; the norms first, no tables.

llama2.c turns the channel pairs (2i, 2i + 1), this package (i, i + E/2): the rows of wq and wk
are moved on the way in and back on the way out, which is exact.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.errors import CheckpointError, ConfigError
from ane_native.models.llama import LlamaConfig, parameter_shapes
from ane_native.outputs import open_output

__all__ = ["read_llama2c", "write_llama2c"]

MAGIC, HEADER = 0x616B3432, 256
SEQ = 256  # of the kernels, where the file allows more

Float = npt.NDArray[np.float32]
PER_LAYER = (
    "attention_norm",
    "attention.wq",
    "attention.wk",
    "attention.wv",
    "attention.wo",
    "ffn_norm",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
)


def _order(config: LlamaConfig, version: int) -> Iterator[str]:
    """Parameter names as they follow each other in a file."""

    def kinds(*names: str) -> Iterator[str]:
        for name in names:
            for i in range(config.layers):
                yield f"layers.{i}.{name}.weight"

    norms = ("attention_norm", "ffn_norm")
    if version == 0:
        yield "tok_embeddings.weight"
        yield from kinds(*PER_LAYER)
        yield "norm.weight"
    else:
        yield from kinds(*norms)
        yield "norm.weight"
        yield "tok_embeddings.weight"
        yield from kinds(*(name for name in PER_LAYER if name not in norms))


def _halves(w: Float, head_dim: int) -> Float:
    """Rows in pairs (2i, 2i + 1) -> rows (i, i + E/2), per head."""
    parts = w.reshape(-1, head_dim // 2, 2, w.shape[1])
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3).reshape(w.shape))


def _pairs(w: Float, head_dim: int) -> Float:
    """The inverse of :func:`_halves`."""
    parts = w.reshape(-1, 2, head_dim // 2, w.shape[1])
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3).reshape(w.shape))


def _is_turned(name: str) -> bool:
    return name.endswith((".wq.weight", ".wk.weight"))


def read_llama2c(
    path: str | os.PathLike[str], *, seq: int | None = None
) -> tuple[LlamaConfig, dict[str, Float]]:
    """Read a model.

    Args:
        path: a file of version 0 or 1.
        seq: tokens of a sequence for the kernels; None: the file's, at most 256.

    Returns:
        Its shape, and its parameters under the names of
        :func:`ane_native.models.llama.parameter_shapes`.

    Raises:
        CheckpointError: unreadable, another format, of another size than its header says, or a
            classifier of its own that is not the embedding.
    """
    try:
        raw = np.memmap(path, np.uint8, "r")
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror}") from error
    except ValueError as error:  # numpy's word for a file without a byte
        raise CheckpointError(f"{path}: expected a llama2.c model, got 0 bytes") from error
    head = bytes(raw[:HEADER])
    version, shared, begin = 0, True, 28
    if len(head) < 28:
        raise CheckpointError(f"{path}: expected a llama2.c model, got {len(head)} bytes")
    sizes = struct.unpack_from("<7i", head, 0)
    if struct.unpack_from("<I", head, 0)[0] == MAGIC:
        version = struct.unpack_from("<i", head, 4)[0]
        if version != 1 or len(head) < HEADER:
            raise CheckpointError(f"{path}: expected version 0 or 1 of the format, got {version}")
        sizes, shared, begin = struct.unpack_from("<7i", head, 8), bool(head[36]), HEADER
    dim, hidden, layers, heads, kv_heads, vocab, longest = sizes
    if version == 0 and vocab < 0:
        vocab, shared = -vocab, False
    try:
        if longest < 1:
            raise ValueError(f"max_seq_len: expected at least 1, got {longest}")
        config = LlamaConfig(
            dim=dim,
            hidden=hidden,
            layers=layers,
            heads=heads,
            seq=seq if seq is not None else max(32, min(longest, SEQ) // 32 * 32),
            vocab=vocab,
            kv_heads=None if kv_heads == heads else kv_heads,
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: header: {error}") from error
    tables = longest * config.head_dim if version == 0 else 0
    floats = config.parameter_count + tables + (0 if shared else vocab * dim)
    if len(raw) != begin + 4 * floats:
        raise CheckpointError(
            f"{path}: expected {begin + 4 * floats:,} bytes after its header, got {len(raw):,}"
        )
    numbers = raw[begin:].view("<f4")
    shapes = parameter_shapes(config)
    weights: dict[str, Float] = {}
    at = 0
    for name in _order(config, version):
        shape = shapes[name]
        count = int(np.prod(shape))
        value = np.array(numbers[at : at + count], np.float32).reshape(shape)
        weights[name] = _halves(value, config.head_dim) if _is_turned(name) else value
        at += count
    own = numbers[at + tables :]
    if not shared and not np.array_equal(own, weights["tok_embeddings.weight"].reshape(-1)):
        raise CheckpointError(f"{path}: its classifier is not its embedding: not supported")
    return config, {name: weights[name] for name in shapes}


def _rope_tables(config: LlamaConfig) -> tuple[Float, Float]:
    """cos and sin [T, E/2] as version 0 holds them."""
    half = config.head_dim // 2
    turn = config.rope_theta ** (-np.arange(half) / half)
    angle = np.outer(np.arange(config.seq), turn)
    return np.cos(angle).astype("<f4"), np.sin(angle).astype("<f4")


def write_llama2c(
    path: str | os.PathLike[str],
    config: LlamaConfig,
    weights: Mapping[str, npt.NDArray[Any]],
    *,
    version: int = 0,
) -> None:
    """Write a model; the inverse of :func:`read_llama2c`.

    Raises:
        ConfigError: a shape the format cannot hold, or another version than 0 and 1.
        OSError: as the system says; no file is left behind then.
    """
    if version not in (0, 1):
        raise ConfigError(f"version: expected 0 or 1, got {version}")
    if config.q_dim != config.dim:
        raise ConfigError(
            f"llama2.c needs heads x head_width = dim = {config.dim}, got {config.q_dim}"
        )
    if config.qk_norm:
        raise ConfigError(
            "llama2.c has no place for the norms of q and k (qk_norm); write .safetensors"
        )
    if config.rope_theta != 10000.0 or config.norm_eps != 1e-5:
        raise ConfigError("llama2.c has rope_theta 10000 and norm_eps 1e-5 only")
    kv = config.kv_heads or config.heads
    sizes = (config.dim, config.hidden, config.layers, config.heads, kv, config.vocab, config.seq)

    with open_output(path) as stream:
        if version == 0:
            stream.write(struct.pack("<7i", *sizes))
        else:
            stream.write(struct.pack("<Ii7iB", MAGIC, 1, *sizes, 1).ljust(HEADER, b"\0"))
        for name in _order(config, version):
            value = np.asarray(weights[name], "<f4")
            stream.write((_pairs(value, config.head_dim) if _is_turned(name) else value).tobytes())
        if version == 0:
            for table in _rope_tables(config):
                stream.write(table.tobytes())
