# SPDX-License-Identifier: MIT
"""The kernels of :mod:`ane_native.models.llama` in float64 NumPy, plainly.

Written from the formulas, not from the MIL: activations are [channels, T] matrices, heads
are a loop, RoPE turns pairs explicitly. One function per kernel, taking and returning
dictionaries with the names of the kernel's ports (without their ``i00_`` prefix), so tests
can compare port by port. A second, independent whole-model loss for the ``autograd``
package is in ``llama_autograd.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.models.llama import LlamaConfig, LlamaProgram

Array = npt.NDArray[np.float64]
Params = Mapping[str, npt.NDArray[Any]]
Tensors = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def rope(config: LlamaConfig, x: Array, direction: float = 1.0) -> Array:
    """Turn channel pairs (i, i + E/2) of each head by direction * t theta^(-2i/E)."""
    y = x.copy()
    half = config.head_dim // 2
    t = np.arange(config.seq)
    for head in range(len(x) // config.head_dim):
        for i in range(half):
            a, b = head * config.head_dim + i, head * config.head_dim + i + half
            angle = direction * t * config.rope_theta ** (-2.0 * i / config.head_dim)
            y[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
            y[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return y


def rmsnorm(config: LlamaConfig, x: Array, gain: Array) -> Tensors:
    r = (np.mean(x * x, axis=0, keepdims=True) + config.norm_eps) ** -0.5
    return {"n": gain[:, None] * x * r, "xhat": x * r, "r": r}


def rmsnorm_backward(dn: Array, xhat: Array, r: Array, gain: Array) -> Array:
    """dx = r (g dn - xhat mean(g dn xhat)); in x itself: r (g dn - x r^2/D sum(g dn x))."""
    u = gain[:, None] * dn
    return r * (u - xhat * np.mean(u * xhat, axis=0, keepdims=True))


def probabilities(q: Array, k: Array) -> Array:
    """Causal softmax of q^T k for one head: [T queries, T keys]."""
    s = q.T @ k
    s = np.where(np.tril(np.ones_like(s)) > 0, s, -np.inf)
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def key_channels(config: LlamaConfig, head: int) -> slice:
    """Channels of the key head that a query head reads."""
    shared = config.heads // (config.kv_heads or config.heads)
    first = head // shared * config.head_dim
    return slice(first, first + config.head_dim)


def head_norm(config: LlamaConfig, x: Array, gain: Array) -> tuple[Array, Array, Array]:
    """Every head of [H E, T] by itself: the result, and xhat [E, H T] and r [1, H T]."""
    e = config.head_dim
    parts = [rmsnorm(config, x[i : i + e], gain) for i in range(0, len(x), e)]
    return (
        np.concatenate([part["n"] for part in parts]),
        np.concatenate([part["xhat"] for part in parts], axis=1),
        np.concatenate([part["r"] for part in parts], axis=1),
    )


def head_norm_backward(
    config: LlamaConfig, dn: Array, xhat: Array, r: Array, gain: Array
) -> tuple[Array, Array]:
    """dx [H E, T], and dn as [E, H T]."""
    e, t = config.head_dim, config.seq
    made, turned = np.empty_like(dn), np.empty_like(xhat)
    for head in range(len(dn) // e):
        rows, cols = slice(head * e, (head + 1) * e), slice(head * t, (head + 1) * t)
        made[rows] = rmsnorm_backward(dn[rows], xhat[:, cols], r[:, cols], gain)
        turned[:, cols] = dn[rows]
    return made, turned


def attn_fwd(config: LlamaConfig, p: Params, layer: int, x: Array) -> Tensors:
    w = {
        name: np.float64(p[f"layers.{layer}.attention.{name}.weight"])
        for name in ["wq", "wk", "wv", "wo"]
    }
    norm = rmsnorm(config, x, np.float64(p[f"layers.{layer}.attention_norm.weight"]))
    n = norm["n"]
    q, k, v = w["wq"] @ n, w["wk"] @ n, w["wv"] @ n
    taps: Tensors = {}
    if config.qk_norm:
        gains = [np.float64(p[f"layers.{layer}.attention.{m}_norm.weight"]) for m in "qk"]
        q, taps["qhat"], taps["rq"] = head_norm(config, q, gains[0])
        k, taps["khat"], taps["rk"] = head_norm(config, k, gains[1])
    q = rope(config, q) / np.sqrt(config.head_dim)
    k = rope(config, k)
    a = np.empty_like(q)
    for head in range(config.heads):
        c = slice(head * config.head_dim, (head + 1) * config.head_dim)
        g = key_channels(config, head)
        a[c] = v[g] @ probabilities(q[c], k[g]).T
    return {"y": x + w["wo"] @ a, "q": q, "k": k, "v": v, "a": a, **norm, **taps}


def attn_bwd(config: LlamaConfig, p: Params, layer: int, taps: Tensors) -> Tensors:
    w = {
        name: np.float64(p[f"layers.{layer}.attention.{name}.weight"])
        for name in ["wq", "wk", "wv", "wo"]
    }
    dy, q, k, v = taps["dy"], taps["q"], taps["k"], taps["v"]
    da = w["wo"].T @ dy
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    for head in range(config.heads):
        c = slice(head * config.head_dim, (head + 1) * config.head_dim)
        g = key_channels(config, head)
        prob = probabilities(q[c], k[g])
        dprob = da[c].T @ v[g]
        ds = prob * (dprob - np.sum(prob * dprob, axis=1, keepdims=True))
        dv[g] += da[c] @ prob
        dq[c] = k[g] @ ds.T
        dk[g] += q[c] @ ds
    dq = rope(config, dq, -1.0) / np.sqrt(config.head_dim)
    dk = rope(config, dk, -1.0)
    more: Tensors = {}
    if config.qk_norm:
        gains = [np.float64(p[f"layers.{layer}.attention.{m}_norm.weight"]) for m in "qk"]
        dq, more["dqn"] = head_norm_backward(config, dq, taps["qhat"], taps["rq"], gains[0])
        dk, more["dkn"] = head_norm_backward(config, dk, taps["khat"], taps["rk"], gains[1])
    dn = w["wq"].T @ dq + w["wk"].T @ dk + w["wv"].T @ dv
    gain = np.float64(p[f"layers.{layer}.attention_norm.weight"])
    dx = dy + rmsnorm_backward(dn, taps["xhat"], taps["r"], gain)
    return {"dx": dx, "dq": dq, "dk": dk, "dv": dv, "dn": dn, **more}


def ffn_fwd(config: LlamaConfig, p: Params, layer: int, x: Array) -> Tensors:
    w1, w2, w3 = (np.float64(p[f"layers.{layer}.feed_forward.w{i}.weight"]) for i in (1, 2, 3))
    norm = rmsnorm(config, x, np.float64(p[f"layers.{layer}.ffn_norm.weight"]))
    h1, h3 = w1 @ norm["n"], w3 @ norm["n"]
    gate = h1 * sigmoid(h1) * h3
    return {"y": x + w2 @ gate, "h1": h1, "h3": h3, "gate": gate, **norm}


def ffn_bwd(config: LlamaConfig, p: Params, layer: int, taps: Tensors) -> Tensors:
    w1, w2, w3 = (np.float64(p[f"layers.{layer}.feed_forward.w{i}.weight"]) for i in (1, 2, 3))
    h1, h3 = taps["h1"], taps["h3"]
    dgate = w2.T @ taps["dy"]
    s = sigmoid(h1)
    dh1 = dgate * h3 * s * (1.0 + h1 * (1.0 - s))
    dh3 = dgate * h1 * s
    dn = w1.T @ dh1 + w3.T @ dh3
    gain = np.float64(p[f"layers.{layer}.ffn_norm.weight"])
    dx = taps["dy"] + rmsnorm_backward(dn, taps["xhat"], taps["r"], gain)
    return {"dx": dx, "dh1": dh1, "dh3": dh3, "dn": dn}


def head_fwd(config: LlamaConfig, p: Params, x: Array) -> Tensors:
    norm = rmsnorm(config, x, np.float64(p["norm.weight"]))
    return {"logits": np.float64(p["tok_embeddings.weight"]) @ norm["n"], **norm}


def head_bwd(config: LlamaConfig, p: Params, taps: Tensors) -> Tensors:
    dn = np.float64(p["tok_embeddings.weight"]).T @ taps["dlogits"]
    gain = np.float64(p["norm.weight"])
    return {"dx": rmsnorm_backward(dn, taps["xhat"], taps["r"], gain), "dn": dn}


def run_kernel(config: LlamaConfig, p: Params, kernel: str, inputs: Tensors) -> Tensors:
    """The kernel called `kernel` (``L0.attn_fwd``, ``head_bwd``, …) on inputs by short name."""
    part = kernel.rpartition(".")[2]
    if part in ("attn_fwd", "ffn_fwd", "attn_bwd", "ffn_bwd"):
        function = {
            "attn_fwd": attn_fwd,
            "ffn_fwd": ffn_fwd,
            "attn_bwd": attn_bwd,
            "ffn_bwd": ffn_bwd,
        }
        layer = int(kernel[1 : kernel.index(".")])
        given: Any = inputs["x"] if part.endswith("_fwd") else inputs
        return function[part](config, p, layer, given)
    if part == "head_fwd":
        return head_fwd(config, p, inputs["x"])
    return head_bwd(config, p, inputs)


def cross_entropy(logits: Array, targets: npt.NDArray[np.int32]) -> tuple[float, Array]:
    """Mean of -ln softmax(logits[:, t])[targets[t]] and its gradient, [V, T]."""
    count = logits.shape[1]
    e = np.exp(logits - logits.max(axis=0))
    p = e / e.sum(axis=0)
    loss = float(-np.log(p[targets, np.arange(count)]).mean())
    p[targets, np.arange(count)] -= 1.0
    return loss, p / count


def loss_and_gradients(
    program: LlamaProgram,
    params: Params,
    tokens: npt.NDArray[np.int32],
    targets: npt.NDArray[np.int32],
    run: Any = None,
    scale: float = 1.0,
) -> tuple[float, Tensors]:
    """One micro-step as a trainer does it: chains over wires, then the gradient jobs.

    Args:
        run: ``run(kernel name, inputs by port) -> outputs by port``; float64 [C, T] arrays.
            Default: the reference kernels.
        scale: factor on dlogits, taken out of the gradients again.

    Returns:
        The loss, and the gradients by parameter name.
    """
    config = program.config
    surfaces: Tensors = {}

    def reference(kernel: str, inputs: Tensors) -> Tensors:
        short = {port[4:]: x for port, x in inputs.items()}
        made = run_kernel(config, params, kernel, short)
        return {port: made[port[4:]] for port in program.mil[kernel].outputs}

    def chain(kernels: list[str]) -> None:
        for kernel in kernels:
            inputs = {}
            for port in program.mil[kernel].inputs:
                full = f"{kernel}.{port}"
                inputs[port] = surfaces[program.wires.get(full, full)]
            for port, x in (run or reference)(kernel, inputs).items():
                surfaces[f"{kernel}.{port}"] = x

    def read(port: Any) -> Array:
        return surfaces[program.wires.get(str(port), str(port))]

    table = np.float64(params["tok_embeddings.weight"])
    surfaces[str(program.x)] = table[tokens].T
    chain(program.forward)
    loss, dlogits = cross_entropy(read(program.logits), targets)
    place = str(program.dlogits)  # in the memory of the logits, where it is wired so
    surfaces[program.wires.get(place, place)] = dlogits * scale
    chain(program.backward)
    grads = {name: np.zeros(value.shape) for name, value in params.items()}
    for job in program.grad_jobs:
        dy, x = read(job.dy), read(job.x)
        grads[job.parameter] += dy @ x.T if job.cols else np.sum(dy * x, axis=1)
    np.add.at(grads["tok_embeddings.weight"], tokens, read(program.dx).T)
    return loss, {name: g / scale for name, g in grads.items()}
