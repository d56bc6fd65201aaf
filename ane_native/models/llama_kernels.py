# SPDX-License-Identifier: MIT
"""The six kinds of kernels of a Llama-family model: what each computes, in operations.

Letters, and how the kernels are wired, are those of :mod:`ane_native.models.llama`.

Conventions and why:

* RoPE pairs channel i of a head with channel i + E/2 (rotate-half, as Hugging Face stores
  weights). llama2.c pairs 2i with 2i + 1: permute the rows of wq and wk when loading one.
  Halves are cut along the head-dim axis: a slice that starts inside the last axis
  saturates at 4094 before A16 (sbryngelson/ANEForge op-quirks).
* 1/sqrt(E) is part of the RoPE tables of q. Forward that costs no operation and keeps
  scores small before the product rounds them; backward it multiplies dq after the product
  and not dS before it, where the engine's absolute step (2^-16 a product) would eat it.
* The causal mask adds -30000. Products are below 2^15 in magnitude or inf (ANEForge
  numerics.md), so a masked score stays above -62768: finite in fp16, zero after softmax.
  -65504, as others use, can reach -inf.
* rmsnorm is mul, reduce_sum, mul, add eps, pow -0.5, mul, the form every trainer was seen to
  run (maderix/ANE training/stories_mil.h), of x / 16. Of x itself it overflows when
  sum x^2 > 65504, an rms of 9.2 at D = 768, and gives zeros: a Stories110M died of that after
  20 updates, when the residual stream of single tokens had grown. Of x / 16 the limit is 147.
  Squares of a small x are subnormal then, which the engine keeps (ANEForge numerics.md): an rms
  of 0.02 has a mean square of 26 steps, and the sum's error is some 1e-3.
* Norms of q and k are over a head's channels, with these in the place of channels: [1, E, H, T].
* rmsnorm taps both xhat = x r and n = xhat g. Then dW = dy n^T and dg = sum_t dn xhat hold
  for the generation that ran, and the CPU needs no weight at all for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ane_native.kernel import Weight
from ane_native.mil import Dialect, Function, MilText, Value
from ane_native.models.llama_config import LlamaConfig
from ane_native.models.llama_scales import KernelScale

__all__ = ["attn_bwd", "attn_fwd", "ffn_bwd", "ffn_fwd", "head_bwd", "head_fwd", "rope_tables"]

MASK = -30000.0  # see "Conventions" above
NORM_SCALE = 1 / 16  # the same
# A conv with 32000 input channels is refused (maderix/ANE training/ane_classifier.h).
MAX_CONV_INPUTS = 31999

# =============================== Constant tables ================================


def rope_tables(
    config: LlamaConfig, scale: float = 1.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Tables for :func:`_rope`: cos and signed sin, each [1, 1, E, T] float64.

    Channel c of a head turns by the angle t theta^(-2 (c mod E/2) / E). The upper half of
    the sine is negative: rope(x) = x cos + swap(x) sin, where swap exchanges the halves.

    Args:
        config: sizes and theta.
        scale: factor on both tables.
    """
    half = config.head_dim // 2
    frequency = config.rope_theta ** (-np.arange(half) * 2.0 / config.head_dim)
    angle = np.outer(frequency, np.arange(config.seq))
    cos = np.concatenate([np.cos(angle), np.cos(angle)]) * scale
    sin = np.concatenate([-np.sin(angle), np.sin(angle)]) * scale
    shape = (1, 1, config.head_dim, config.seq)
    return cos.reshape(shape), sin.reshape(shape)


def _causal_mask(seq: int) -> npt.NDArray[np.float64]:
    """[1, 1, T, T]: 0 where key s is not after query t, else MASK; rows are queries."""
    return np.triu(np.full((seq, seq), MASK), 1).reshape(1, 1, seq, seq)


# =============================== Parts of kernels ===============================


def _channels(config: LlamaConfig, channels: int) -> tuple[int, int, int, int]:
    """Shape of an activation with that many channels."""
    return (1, channels, 1, config.seq)


def _linear(f: Function, name: str, x: Value, rows: int, weight: str | Weight) -> Value:
    """y[o,t] = sum_i W[o,i] x[i,t], W baked as [rows, channels of x]."""
    return f.conv(x, f.weight(name, (rows, x.shape[1], 1, 1), weight))


def _gain(f: Function, x: Value, weight: str, name: str = "gain") -> Value:
    """x times the norm's gain, per channel."""
    return f.mul(x, f.weight(name, (1, x.shape[1], 1, 1), weight))


@dataclass(frozen=True)
class _Norm:
    """rmsnorm and its taps: n = xhat g, xhat = x r, r with one channel."""

    n: Value
    xhat: Value
    r: Value


def _rmsnorm(f: Function, config: LlamaConfig, x: Value, gain: str, name: str = "gain") -> _Norm:
    """n = x r g with r = (mean_c x^2 + eps)^(-1/2), over the channels of x."""
    small = f.mul(x, NORM_SCALE)
    total = f.reduce_sum(f.mul(small, small), (1,))
    mean = f.mul(total, 1.0 / (x.shape[1] * NORM_SCALE * NORM_SCALE))
    r = f.pow(f.add(mean, config.norm_eps), -0.5)
    xhat = f.mul(x, r)
    return _Norm(_gain(f, xhat, gain, name), xhat, r)


def _rmsnorm_backward(
    f: Function, dn: Value, xhat: Value, r: Value, gain: str, name: str = "gain"
) -> Value:
    """dx = r (u - xhat mean_c(u xhat)) with u = g dn."""
    u = _gain(f, dn, gain, name)
    mean = f.mul(f.reduce_sum(f.mul(u, xhat), (1,)), 1.0 / xhat.shape[1])
    return f.mul(r, f.sub(u, f.mul(xhat, mean)))


def _heads(f: Function, config: LlamaConfig, x: Value) -> Value:
    """[1, H E, 1, T] -> [1, H, E, T]; H as many as there are channels for."""
    return f.reshape(x, (1, x.shape[1] // config.head_dim, config.head_dim, config.seq))


def _merge(f: Function, config: LlamaConfig, x: Value) -> Value:
    """[1, H, E, T] -> [1, H E, 1, T]."""
    return f.reshape(x, _channels(config, x.shape[1] * config.head_dim))


def _turned(f: Function, x: Value) -> Value:
    """[1, H, E, T] <-> [1, E, H, T]: a head's channels where norms and gains have theirs."""
    return f.transpose(x, (0, 2, 1, 3))


def _spread(f: Function, config: LlamaConfig, x: Value) -> Value:
    """Every key head for each of its query heads: [1, K, E, T] -> [1, H, E, T]."""
    kv, e, t = x.shape[1], config.head_dim, config.seq
    if kv == config.heads:
        return x
    copies = f.concat((f.reshape(x, (kv, 1, e, t)),) * (config.heads // kv), 1)
    return f.reshape(copies, (1, config.heads, e, t))


def _gather(f: Function, config: LlamaConfig, dx: Value) -> Value:
    """The transpose of :func:`_spread`: sums over the query heads of each key head."""
    kv, e, t = config.kv_dim // config.head_dim, config.head_dim, config.seq
    if kv == config.heads:
        return dx
    total = f.reduce_sum(f.reshape(dx, (kv, config.heads // kv, e, t)), (1,))
    return f.reshape(total, (1, kv, e, t))


def _swap(f: Function, config: LlamaConfig, x: Value) -> Value:
    """Exchange the halves of the head dim of [1, H, E, T]."""
    half = config.head_dim // 2
    size = (1, x.shape[1], half, config.seq)
    upper = f.slice_by_size(x, (0, 0, 0, 0), size)
    lower = f.slice_by_size(x, (0, 0, half, 0), size)
    return f.concat((lower, upper), 2)


def _rope(f: Function, config: LlamaConfig, x: Value, cos: Value, sin: Value) -> Value:
    """Turn each channel pair of [1, H, E, T]: x cos + swap(x) sin."""
    return f.add(f.mul(x, cos), f.mul(_swap(f, config, x), sin))


def _rope_backward(f: Function, config: LlamaConfig, dy: Value, cos: Value, sin: Value) -> Value:
    """Turn back, the transpose of :func:`_rope`: dy cos - swap(dy) sin."""
    return f.sub(f.mul(dy, cos), f.mul(_swap(f, config, dy), sin))


def _rope_constants(f: Function, config: LlamaConfig) -> dict[str, tuple[Value, Value]]:
    """The tables of q (with 1/sqrt(E)) and k as constants of `f`."""
    result = {}
    for name, scale in (("q", config.head_dim**-0.5), ("k", 1.0)):
        cos, sin = rope_tables(config, scale)
        result[name] = (
            f.weight(f"cos_{name}", cos.shape, cos),
            f.weight(f"sin_{name}", sin.shape, sin),
        )
    return result


def _probabilities(f: Function, config: LlamaConfig, q: Value, k: Value) -> Value:
    """P[h,t,s] = softmax_s(q_t . k_s + mask), from turned and scaled q, k [1, H, E, T]."""
    mask = f.weight("mask", (1, 1, config.seq, config.seq), _causal_mask(config.seq))
    return f.softmax(f.add(f.matmul(q, k, transpose_x=True), mask), -1)


# =============================== The six kernels ================================


def attn_fwd(
    config: LlamaConfig, layer: int, dialect: Dialect = "A", scaled: bool = False
) -> MilText:
    """y = x + Wo attention(rmsnorm(x)).

    Inputs: x. Outputs: y; taps q, k (turned by RoPE, q also scaled), v, a (what Wo sees),
    n, xhat and r [1, 1, 1, T]; q and a are [1, H E, 1, T], k and v [1, K E, 1, T]; with norms of
    q and k also qhat [1, E, H, T], khat [1, E, K, T] and rq, rk with one channel. With `scaled` v
    and a carry the power of two of wv.
    """
    p = f"layers.{layer}.attention"
    d = config.dim
    f = Function(dialect)
    x = f.input("x", _channels(config, d))
    norm = _rmsnorm(f, config, x, f"{p}_norm.weight")
    tables = _rope_constants(f, config)
    s = KernelScale(f"L{layer}.attn_fwd", scaled)
    q = _linear(f, "wq", norm.n, config.q_dim, s.weight("wq", f"{p}.wq.weight"))
    k = _linear(f, "wk", norm.n, config.kv_dim, s.weight("wk", f"{p}.wk.weight"))
    v = _linear(f, "wv", norm.n, config.kv_dim, s.weight("wv", f"{p}.wv.weight"))
    q = _heads(f, config, s.undo(f, q, "wq"))
    k = _heads(f, config, s.undo(f, k, "wk"))
    normed: list[_Norm] = []
    if config.qk_norm:
        normed = [
            _rmsnorm(f, config, _turned(f, m), f"{p}.{name}_norm.weight", f"{name}_gain")
            for name, m in (("q", q), ("k", k))
        ]
        q, k = (_turned(f, norm.n) for norm in normed)
    q = _rope(f, config, q, *tables["q"])
    k = _rope(f, config, k, *tables["k"])
    prob = _probabilities(f, config, q, _spread(f, config, k))
    values = _spread(f, config, _heads(f, config, v))
    a = _merge(f, config, f.matmul(values, prob, transpose_y=True))
    y = _linear(f, "wo", a, d, s.weight("wo", f"{p}.wo.weight"))
    y = f.add(x, s.undo(f, y, "wo"))
    f.output("y", y)
    f.output("q", _merge(f, config, q))
    f.output("k", _merge(f, config, k))
    f.output("v", v)
    f.output("a", a)
    f.output("n", norm.n)
    f.output("xhat", norm.xhat)
    f.output("r", norm.r)
    for name, one in zip("qk", normed, strict=False):
        f.output(f"{name}hat", one.xhat)
        f.output(f"r{name}", one.r)
    return f.build()


def attn_bwd(
    config: LlamaConfig, layer: int, dialect: Dialect = "A", scaled: bool = False
) -> MilText:
    """Gradients of :func:`attn_fwd`.

    Inputs: dy, taps q, k, v, xhat, r. Outputs: dx for the layer below; dq, dk (before
    RoPE), dv, dn for the gradients of wq, wk, wv and the gain. With norms of q and k also their
    taps, and dqn [1, E, H, T], dkn [1, E, K, T] for the gradients of their gains. With `scaled` dv
    carries the power of two of wo_t, dq and dk (dqn, dkn) also that of v, dn also that of wq_t
    and wk_t.
    """
    p = f"layers.{layer}.attention"
    d = config.dim
    f = Function(dialect)
    dy = f.input("dy", _channels(config, d), adjoint=True)
    q = _heads(f, config, f.input("q", _channels(config, config.q_dim)))
    k = _heads(f, config, f.input("k", _channels(config, config.kv_dim)))
    v = _heads(f, config, f.input("v", _channels(config, config.kv_dim)))
    k, v = _spread(f, config, k), _spread(f, config, v)
    xhat = f.input("xhat", _channels(config, d))
    r = f.input("r", _channels(config, 1))
    normed: dict[str, tuple[Value, Value]] = {}
    if config.qk_norm:
        for name, dim in (("q", config.q_dim), ("k", config.kv_dim)):
            e, heads, t = config.head_dim, dim // config.head_dim, config.seq
            normed[name] = (
                f.input(f"{name}hat", (1, e, heads, t)),
                f.input(f"r{name}", (1, 1, heads, t)),
            )
    tables = _rope_constants(f, config)
    s = KernelScale(f"L{layer}.attn_bwd", scaled)
    wo_t = s.weight("wo_t", f"{p}.wo.weight", transpose=True)
    da = _heads(f, config, _linear(f, "wo_t", dy, config.q_dim, wo_t))
    prob = _probabilities(f, config, q, k)
    # a[e,t] = sum_s v[e,s] P[t,s]
    dv = _merge(f, config, _gather(f, config, f.matmul(da, prob)))
    dprob = f.matmul(da, v, transpose_x=True)
    # dS = P (dP - sum_s P dP)
    ds = f.mul(prob, f.sub(dprob, f.reduce_sum(f.mul(prob, dprob), (-1,))))
    # S[t,s] = sum_e q[e,t] k[e,s]
    dq = _rope_backward(f, config, f.matmul(k, ds, transpose_y=True), *tables["q"])
    dk = _rope_backward(f, config, _gather(f, config, f.matmul(q, ds)), *tables["k"])
    results: dict[str, Value] = {}
    if config.qk_norm:
        for name, dm in (("q", dq), ("k", dk)):
            results[name] = _turned(f, dm)
        dq, dk = (
            _turned(
                f,
                _rmsnorm_backward(f, dm, *normed[name], f"{p}.{name}_norm.weight", f"{name}_gain"),
            )
            for name, dm in results.items()
        )
    dq, dk = _merge(f, config, dq), _merge(f, config, dk)
    dn = f.add(
        f.add(
            _linear(f, "wq_t", dq, d, s.weight("qk_t", f"{p}.wq.weight", transpose=True)),
            _linear(f, "wk_t", dk, d, s.weight("qk_t", f"{p}.wk.weight", transpose=True)),
        ),
        _linear(f, "wv_t", dv, d, s.weight("v_t", f"{p}.wv.weight", transpose=True)),
    )
    u = s.undo(f, dn, "dn")
    dx = f.add(dy, _rmsnorm_backward(f, u, xhat, r, f"{p}_norm.weight"))
    f.output("dx", dx)
    f.output("dq", dq)
    f.output("dk", dk)
    f.output("dv", dv)
    f.output("dn", dn)
    for name, dm in results.items():
        f.output(f"d{name}n", dm)
    return f.build()


def ffn_fwd(
    config: LlamaConfig, layer: int, dialect: Dialect = "A", scaled: bool = False
) -> MilText:
    """y = x + W2 (silu(W1 n) * W3 n), n = rmsnorm(x).

    Inputs: x. Outputs: y; taps h1, h3, gate = silu(h1) * h3 ([1, F, 1, T]), n, xhat, r.
    """
    p = f"layers.{layer}.feed_forward"
    d, hidden = config.dim, config.hidden
    f = Function(dialect)
    x = f.input("x", _channels(config, d))
    norm = _rmsnorm(f, config, x, f"layers.{layer}.ffn_norm.weight")
    s = KernelScale(f"L{layer}.ffn_fwd", scaled)
    h1 = s.undo(f, _linear(f, "w1", norm.n, hidden, s.weight("w1", f"{p}.w1.weight")), "w1")
    h3 = s.undo(f, _linear(f, "w3", norm.n, hidden, s.weight("w3", f"{p}.w3.weight")), "w3")
    gate = f.mul(f.mul(h1, f.sigmoid(h1)), h3)
    y = _linear(f, "w2", gate, d, s.weight("w2", f"{p}.w2.weight"))
    y = f.add(x, s.undo(f, y, "w2"))
    f.output("y", y)
    f.output("h1", h1)
    f.output("h3", h3)
    f.output("gate", gate)
    f.output("n", norm.n)
    f.output("xhat", norm.xhat)
    f.output("r", norm.r)
    return f.build()


def ffn_bwd(
    config: LlamaConfig, layer: int, dialect: Dialect = "A", scaled: bool = False
) -> MilText:
    """Gradients of :func:`ffn_fwd`.

    Inputs: dy, taps h1, h3, xhat, r. Outputs: dx; dh1, dh3, dn for the gradients of w1, w3
    and the gain. With `scaled` dh1 and dh3 carry the power of two of w2_t, dn also that of
    w1_t and w3_t.
    """
    p = f"layers.{layer}.feed_forward"
    d, hidden = config.dim, config.hidden
    f = Function(dialect)
    dy = f.input("dy", _channels(config, d), adjoint=True)
    h1 = f.input("h1", _channels(config, hidden))
    h3 = f.input("h3", _channels(config, hidden))
    xhat = f.input("xhat", _channels(config, d))
    r = f.input("r", _channels(config, 1))
    scales = KernelScale(f"L{layer}.ffn_bwd", scaled)
    w2_t = scales.weight("w2_t", f"{p}.w2.weight", transpose=True)
    dgate = _linear(f, "w2_t", dy, hidden, w2_t)
    s = f.sigmoid(h1)
    # silu' = s (1 + h1 (1 - s))
    slope = f.mul(s, f.add(1.0, f.mul(h1, f.sub(1.0, s))))
    dh1 = f.mul(f.mul(dgate, h3), slope)
    dh3 = f.mul(dgate, f.mul(h1, s))
    dn = f.add(
        _linear(f, "w1_t", dh1, d, scales.weight("w13_t", f"{p}.w1.weight", transpose=True)),
        _linear(f, "w3_t", dh3, d, scales.weight("w13_t", f"{p}.w3.weight", transpose=True)),
    )
    u = scales.undo(f, dn, "dn")
    gain = f"layers.{layer}.ffn_norm.weight"
    dx = f.add(dy, _rmsnorm_backward(f, u, xhat, r, gain))
    f.output("dx", dx)
    f.output("dh1", dh1)
    f.output("dh3", dh3)
    f.output("dn", dn)
    return f.build()


def head_fwd(config: LlamaConfig, dialect: Dialect = "A") -> MilText:
    """logits = E rmsnorm(x), with the embedding E [V, D].

    Inputs: x. Outputs: logits [1, V, 1, T]; taps n, xhat, r.
    """
    f = Function(dialect)
    x = f.input("x", _channels(config, config.dim))
    norm = _rmsnorm(f, config, x, "norm.weight")
    logits = _linear(f, "embedding", norm.n, config.vocab, "tok_embeddings.weight")
    f.output("logits", logits)
    f.output("n", norm.n)
    f.output("xhat", norm.xhat)
    f.output("r", norm.r)
    return f.build()


def head_bwd(config: LlamaConfig, dialect: Dialect = "A", scaled: bool = False) -> MilText:
    """Gradients of :func:`head_fwd`.

    Inputs: dlogits [1, V, 1, T], taps xhat, r. Outputs: dx; dn for the gradient of the gain,
    with `scaled` times the power of two of the embedding.
    """
    d, vocab, seq = config.dim, config.vocab, config.seq
    f = Function(dialect)
    dlogits = f.input("dlogits", _channels(config, vocab), adjoint=True)
    xhat = f.input("xhat", _channels(config, d))
    r = f.input("r", _channels(config, 1))
    s = KernelScale("head_bwd", scaled)
    transposed = s.weight("embedding_t", "tok_embeddings.weight", transpose=True)
    if vocab <= MAX_CONV_INPUTS:
        dn = _linear(f, "embedding_t", dlogits, d, transposed)
    else:
        table = f.weight("embedding_t", (1, d, vocab), transposed)
        product = f.matmul(table, f.reshape(dlogits, (1, vocab, seq)))
        dn = f.reshape(product, _channels(config, d))
    u = s.undo(f, dn, "dn")
    f.output("dx", _rmsnorm_backward(f, u, xhat, r, "norm.weight"))
    f.output("dn", dn)
    return f.build()
