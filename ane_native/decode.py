# SPDX-License-Identifier: MIT
"""Decoding with a cache of keys and values, on the CPU, one token at a time.

Kernels have fixed shapes, so the engine can only recompute the whole window for each token.
Here a token costs one pass over the weights. The weights are rounded to fp16 as a bake does;
arithmetic is fp32, so logits agree with the engine's up to its fp16 activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.models.llama import LlamaConfig, rope_tables

__all__ = ["CachedDecoder"]

Float = npt.NDArray[np.float32]


class CachedDecoder:
    """Logits of the next token, from a cache that grows.

    Args:
        config: shape of the model; the cache holds ``config.seq`` tokens.
        weights: name -> array, as :func:`ane_native.models.llama.parameter_shapes` has them.

    Attributes:
        length: tokens in the cache.
    """

    def __init__(self, config: LlamaConfig, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.config = config
        w = {name: np.float32(np.float16(value)) for name, value in weights.items()}
        self._table, self._norm = w["tok_embeddings.weight"], w["norm.weight"]
        self._layers = []
        for i in range(config.layers):
            p = {n.split(".", 2)[2]: v for n, v in w.items() if n.startswith(f"layers.{i}.")}
            qkv = [p[f"attention.{m}.weight"] for m in ("wq", "wk", "wv")]
            up = [p[f"feed_forward.{m}.weight"] for m in ("w1", "w3")]
            self._layers.append({**p, "qkv": np.concatenate(qkv), "up": np.concatenate(up)})
        # [T, E], the upper half of the sine negative.
        self._cos, self._sin = (np.float32(t[0, 0].T) for t in rope_tables(config))
        shape = (config.layers, config.kv_dim // config.head_dim, config.seq, config.head_dim)
        self._k, self._v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.length = 0

    def reset(self) -> None:
        """Forget all tokens."""
        self.length = 0

    def step(self, tokens: Sequence[int]) -> Float:
        """Append tokens; the logits [V] after the last one.

        Raises:
            ValueError: none, more than the cache has room for, or outside the vocabulary.
        """
        c, begin, count = self.config, self.length, len(tokens)
        if not 0 < count <= c.seq - begin:
            raise ValueError(f"tokens: expected 1 to {c.seq - begin} of them, got {count}")
        if min(tokens) < 0 or max(tokens) >= c.vocab:
            raise ValueError(f"tokens: expected 0 to {c.vocab - 1}")
        x = self._table[list(tokens)]
        future = np.arange(begin + count) > np.arange(begin, begin + count)[:, None]
        for i, p in enumerate(self._layers):
            n = self._rmsnorm(x, p["attention_norm.weight"])
            x = x + self._attention(i, p, n @ p["qkv"].T, future) @ p["attention.wo.weight"].T
            h1, h3 = np.split(self._rmsnorm(x, p["ffn_norm.weight"]) @ p["up"].T, 2, axis=1)
            x = x + (h1 / (1 + np.exp(-h1)) * h3) @ p["feed_forward.w2.weight"].T
        self.length += count
        return np.asarray(self._table @ self._rmsnorm(x[-1:], self._norm)[0], np.float32)

    def _rmsnorm(self, x: Float, gain: Float) -> Float:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return np.asarray(x * (mean + np.float32(self.config.norm_eps)) ** -0.5 * gain)

    def _turn(self, x: Float) -> Float:
        """RoPE on [heads, n, E] at the positions that follow the cache."""
        rows = slice(self.length, self.length + x.shape[1])
        swapped = np.roll(x, self.config.head_dim // 2, axis=2)
        return np.asarray(x * self._cos[rows] + swapped * self._sin[rows])

    def _attention(
        self, layer: int, p: Mapping[str, Float], qkv: Float, future: npt.NDArray[np.bool_]
    ) -> Float:
        """[n, q + k + v channels] -> [n, q channels]; the cache takes k and v."""
        c, count = self.config, len(qkv)
        split = np.split(qkv, [c.q_dim, c.q_dim + c.kv_dim], axis=1)
        q, k, v = (m.reshape(count, -1, c.head_dim).transpose(1, 0, 2) for m in split)
        if c.qk_norm:
            q = self._rmsnorm(q, p["attention.q_norm.weight"])
            k = self._rmsnorm(k, p["attention.k_norm.weight"])
        end = self.length + count
        self._k[layer, :, self.length : end] = self._turn(k)
        self._v[layer, :, self.length : end] = v
        keys, values = self._k[layer, :, :end], self._v[layer, :, :end]
        grouped = self._turn(q).reshape(len(keys), -1, count, c.head_dim)
        scores = grouped @ keys[:, None].transpose(0, 1, 3, 2) * np.float32(c.head_dim**-0.5)
        scores = np.where(future, np.float32(-np.inf), scores)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        a = (scores @ values[:, None]).reshape(c.heads, count, c.head_dim)
        return np.ascontiguousarray(a.transpose(1, 0, 2).reshape(count, -1))
