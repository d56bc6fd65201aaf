# SPDX-License-Identifier: MIT
"""A Llama loss written for the ``autograd`` package: an oracle that shares no code with us.

Row-major tokens, batched heads by einsum, RoPE by complex numbers' real form on the other
layout ([T, H, E]), log-softmax by logsumexp. float64 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import autograd
import autograd.numpy as anp
import numpy as np
import numpy.typing as npt

from ane_native.models.llama import LlamaConfig


def _norm(x: Any, gain: Any, eps: float) -> Any:
    return x / anp.sqrt(anp.mean(x**2, axis=-1, keepdims=True) + eps) * gain


def loss(params: Any, config: LlamaConfig, tokens: Any, targets: Any) -> Any:
    """Mean cross entropy of `targets` [T] given `tokens` [T]."""
    t, e, h = config.seq, config.head_dim, config.heads
    inv = 1.0 / config.rope_theta ** (np.arange(0, e, 2) / e)
    phase = np.arange(t)[:, None] * inv[None, :]
    cos, sin = np.cos(phase)[:, None, :], np.sin(phase)[:, None, :]

    def rotate(x: Any) -> Any:
        a, b = x[..., : e // 2], x[..., e // 2 :]
        return anp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    table = params["tok_embeddings.weight"]
    x = table[tokens]
    future = np.triu(np.ones((t, t), bool), 1)
    for i in range(config.layers):
        w = {k.split(".", 2)[2]: v for k, v in params.items() if k.startswith(f"layers.{i}.")}
        n = _norm(x, w["attention_norm.weight"], config.norm_eps)
        q = (n @ w["attention.wq.weight"].T).reshape((t, h, e))
        k = (n @ w["attention.wk.weight"].T).reshape((t, -1, e))
        if config.qk_norm:
            q = _norm(q, w["attention.q_norm.weight"], config.norm_eps)
            k = _norm(k, w["attention.k_norm.weight"], config.norm_eps)
        q, k = rotate(q), rotate(k)
        v = (n @ w["attention.wv.weight"].T).reshape((t, -1, e))
        k, v = (anp.repeat(m, h // m.shape[1], axis=1) for m in (k, v))
        s = anp.einsum("qhe,khe->hqk", q, k) / np.sqrt(e)
        s = anp.where(future[None], -1e30, s)
        s = anp.exp(s - anp.max(s, axis=-1, keepdims=True))
        s = s / anp.sum(s, axis=-1, keepdims=True)
        a = anp.einsum("hqk,khe->qhe", s, v).reshape((t, h * e))
        x = x + a @ w["attention.wo.weight"].T
        n = _norm(x, w["ffn_norm.weight"], config.norm_eps)
        up = n @ w["feed_forward.w1.weight"].T
        up = up / (1.0 + anp.exp(-up)) * (n @ w["feed_forward.w3.weight"].T)
        x = x + up @ w["feed_forward.w2.weight"].T
    logits = _norm(x, params["norm.weight"], config.norm_eps) @ table.T
    top = anp.max(logits, axis=-1, keepdims=True)
    lse = anp.log(anp.sum(anp.exp(logits - top), axis=-1)) + top[:, 0]
    return anp.mean(lse - logits[np.arange(t), targets])


def loss_and_gradients(
    config: LlamaConfig,
    params: Mapping[str, npt.NDArray[Any]],
    tokens: npt.NDArray[np.int32],
    targets: npt.NDArray[np.int32],
) -> tuple[float, dict[str, npt.NDArray[np.float64]]]:
    """Loss and the gradient of every parameter, float64."""
    wide = {name: np.asarray(value, dtype=np.float64) for name, value in params.items()}
    value, grads = autograd.value_and_grad(loss)(wide, config, tokens, targets)
    return float(value), grads
