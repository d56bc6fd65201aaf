# SPDX-License-Identifier: MIT
"""A Llama-family transformer as Neural Engine kernels with baked weights.

What is here: the shape of a model (:class:`LlamaConfig`), its parameters
(:func:`parameter_shapes`, :func:`init_params`) and its kernels with everything a training
loop must know about them (:class:`LlamaProgram`). What is not: the loop, the optimizer,
the engine. A micro-step is: write the embedded tokens, run the forward chain, compute the
loss on the CPU, write dlogits, run the backward chain, collect the weight gradients from
the surfaces (:class:`LlamaProgram` has an example).

Letters: D model dim, F hidden dim of the feed-forward part, H heads, K heads of keys and
values (grouped-query attention when K < H: head h reads key head h K // H), E head dim
(D / H unless given), T tokens of the sequence, V vocabulary. Tensors are fp16 [1, channels, 1, T] in surfaces;
weights are fp32 [out, in] as in llama2.c and Hugging Face checkpoints.

Four kernels a layer and two for the head::

    attn_fwd   x -> y = x + Wo attention(rope(Wq n), rope(Wk n), Wv n),  n = rmsnorm(x)
               (with qk_norm: rope(rmsnorm(Wq n)), rope(rmsnorm(Wk n)), head by head)
    ffn_fwd    x -> y = x + W2 (silu(W1 n) * W3 n),                      n = rmsnorm(x)
    head_fwd   x -> logits = E n,                                        n = rmsnorm(x)
    head_bwd, ffn_bwd, attn_bwd: the same backwards, on transposed baked weights

Forward kernels also put out what the backward kernels and the weight gradients need (the
taps). Wires give both ends of an edge one surface, so each chain runs from its first
kernel to its last without the CPU touching a tensor.

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

Gradients are fp16 in surfaces and the engine's products have an absolute step of 2^-16:
scale the loss (:attr:`LlamaConfig.loss_scale`), or let every baked matrix carry a power of two
(``LlamaProgram(scaled=True)``, chosen by :mod:`ane_native.models.llama_scales`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ane_native.kernel import Kernel, KernelSet, Weight
from ane_native.mil import Dialect, Function, MilText, Value
from ane_native.models.llama_scales import KernelScale

__all__ = [
    "PRESETS",
    "GradJob",
    "LlamaConfig",
    "LlamaProgram",
    "PortRef",
    "init_params",
    "parameter_shapes",
    "rope_tables",
]

MASK = -30000.0  # see "Conventions" above
NORM_SCALE = 1 / 16  # the same
# A conv with 32000 input channels is refused (maderix/ANE training/ane_classifier.h).
MAX_CONV_INPUTS = 31999

# =============================== Shape of a model ===============================


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a model; checked when made.

    Attributes:
        dim: channels of the residual stream, D.
        hidden: channels inside the feed-forward part, F; a multiple of 32.
        layers: how many.
        heads: attention heads, H; D / H must be even (RoPE turns pairs of channels). A
            head dim that is not a multiple of 32 gives zeros on M1 (imperatormk/ane-train).
        seq: tokens of a sequence, T; a multiple of 32, because rows of a surface are
            padded to 64 bytes otherwise.
        vocab: token ids are 0..vocab-1; 256 for bytes.
        norm_eps: added to the mean square; fp16 must hold it (1e-5 becomes 1.0014e-5).
        rope_theta: base of the RoPE frequencies.
        kv_heads: heads of keys and values, K, which divides H; None: H.
        head_width: channels of a head, E, where it is not D / H (Qwen3); None: D / H.
        qk_norm: rmsnorm over the channels of each head's q and k, before RoPE, with one gain of
            E for all heads of q and one for those of k (Qwen3).

    Raises:
        TypeError: a size that is not an int.
        ValueError: sizes that do not fit each other.
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    seq: int
    vocab: int = 256
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    kv_heads: int | None = None
    head_width: int | None = None
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for field in ("dim", "hidden", "layers", "heads", "seq", "vocab"):
            _check_size(field, getattr(self, field))
        for field in ("kv_heads", "head_width"):
            if getattr(self, field) is not None:
                _check_size(field, getattr(self, field))
        if not isinstance(self.qk_norm, bool):
            raise TypeError(f"qk_norm: expected a bool, got {type(self.qk_norm).__name__}")
        whole = self.head_width is not None or self.dim % self.heads == 0
        checks = (
            (whole, "dim", f"a multiple of heads = {self.heads}", self.dim),
            (
                self.head_dim % 2 == 0,
                "dim / heads" if self.head_width is None else "head_width",
                "even",
                self.head_width or self.dim / self.heads,
            ),
            (
                self.heads % (self.kv_heads or self.heads) == 0,
                "kv_heads",
                f"a divisor of heads = {self.heads}",
                self.kv_heads,
            ),
            (self.hidden % 32 == 0, "hidden", "a multiple of 32", self.hidden),
            (self.seq % 32 == 0, "seq", "a multiple of 32", self.seq),
            (float(np.float16(self.norm_eps)) > 0, "norm_eps", "positive in fp16", self.norm_eps),
            (self.rope_theta > 0, "rope_theta", "positive", self.rope_theta),
        )
        for ok, name, expected, got in checks:
            if not ok:
                raise ValueError(f"{name}: expected {expected}, got {got}")

    @property
    def head_dim(self) -> int:
        """Channels of one head, E."""
        return self.head_width or self.dim // self.heads

    @property
    def q_dim(self) -> int:
        """Channels of all queries, H E."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Channels of all keys, K E; as many of values."""
        return (self.kv_heads or self.heads) * self.head_dim

    @property
    def layer_products(self) -> int:
        """Weights of a layer's matrices."""
        return 2 * self.dim * (self.q_dim + self.kv_dim) + 3 * self.dim * self.hidden

    @property
    def parameter_count(self) -> int:
        """Numbers in all parameters together."""
        return sum(math.prod(shape) for shape in parameter_shapes(self).values())

    @property
    def loss_scale(self) -> float:
        """A factor on dlogits to start from, 16 T: dlogits then stay within +-16.

        With the engine's products emulated (numerics of sbryngelson/ANEForge) the ``demo``
        shape loses up to 100 % of a gradient at 1, 4 % at 4 T, and from 16 T on as little
        as at any scale (1.4 %, 0.2 % with wide products); the largest gradient, dx of
        layer 0, is then 1200 of the 32752 a product can hold. Divide the gradients by it.
        """
        return 16.0 * self.seq

    @property
    def forward_mflop(self) -> float:
        """Million floating-point operations of the products in one forward chain.

        A multiply and an add count as two. Attention is counted as computed: all T x T
        scores, the masked ones too.
        """
        t = self.seq
        layer = 2 * t * self.layer_products + 4 * t * t * self.q_dim
        return (self.layers * layer + 2 * t * self.vocab * self.dim) / 1e6

    @property
    def backward_mflop(self) -> float:
        """The same for one backward chain: input gradients, scores recomputed."""
        t = self.seq
        layer = 2 * t * self.layer_products + 10 * t * t * self.q_dim
        return (self.layers * layer + 2 * t * self.vocab * self.dim) / 1e6

    @property
    def gradient_mflop(self) -> float:
        """The same for the weight gradients, which the CPU computes."""
        t = self.seq
        return (self.layers * 2 * t * self.layer_products + 2 * t * self.vocab * self.dim) / 1e6

    @property
    def micro_step_mflop(self) -> float:
        """Forward, backward and weight gradients of one sequence together."""
        return self.forward_mflop + self.backward_mflop + self.gradient_mflop


def _check_size(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field}: expected an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{field}: expected at least 1, got {value}")


PRESETS: dict[str, LlamaConfig] = {
    "tiny": LlamaConfig(dim=64, hidden=128, layers=2, heads=2, seq=64),
    "demo": LlamaConfig(dim=256, hidden=704, layers=4, heads=4, seq=256),
    "stories15m": LlamaConfig(dim=288, hidden=768, layers=6, heads=6, seq=256, vocab=32000),
    "stories42m": LlamaConfig(dim=512, hidden=1376, layers=8, heads=8, seq=256, vocab=32000),
    "stories110m": LlamaConfig(dim=768, hidden=2048, layers=12, heads=12, seq=256, vocab=32000),
    "qwen3-0.6b": LlamaConfig(
        dim=1024,
        hidden=3072,
        layers=28,
        heads=16,
        kv_heads=8,
        head_width=128,
        qk_norm=True,
        seq=256,
        vocab=151936,
        norm_eps=1e-6,
        rope_theta=1e6,
    ),
}
"""Named shapes: ``tiny`` for tests, ``demo`` (bytes, 3.2M) for laptops, those of karpathy's
TinyStories models (https://huggingface.co/karpathy/tinyllamas; 42M has 1024 tokens there) and
Qwen3-0.6B (its config.json)."""

# =============================== Parameters =====================================


def parameter_shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, in a fixed order.

    Names are those of llama2.c; norms of q and k, which it has not, are called like the matrices
    whose results they take. The classifier is tied to ``tok_embeddings.weight``.
    """
    d, f, q, kv = config.dim, config.hidden, config.q_dim, config.kv_dim
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (config.vocab, d)}
    for i in range(config.layers):
        shapes |= {
            f"layers.{i}.attention_norm.weight": (d,),
            f"layers.{i}.attention.wq.weight": (q, d),
            f"layers.{i}.attention.wk.weight": (kv, d),
            f"layers.{i}.attention.wv.weight": (kv, d),
            f"layers.{i}.attention.wo.weight": (d, q),
        }
        if config.qk_norm:
            shapes |= {f"layers.{i}.attention.{m}_norm.weight": (config.head_dim,) for m in "qk"}
        shapes |= {
            f"layers.{i}.ffn_norm.weight": (d,),
            f"layers.{i}.feed_forward.w1.weight": (f, d),
            f"layers.{i}.feed_forward.w2.weight": (d, f),
            f"layers.{i}.feed_forward.w3.weight": (f, d),
        }
    shapes["norm.weight"] = (d,)
    return shapes


def init_params(
    config: LlamaConfig, rng: np.random.Generator
) -> dict[str, npt.NDArray[np.float32]]:
    """Fresh parameters, fp32: matrices N(0, 0.02), gains 1.

    wo and w2, which write into the residual stream, are divided by sqrt(2 layers), so that
    its variance does not grow with depth.

    Args:
        config: sizes.
        rng: the same state gives the same parameters, to the bit.
    """
    params: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in parameter_shapes(config).items():
        if len(shape) == 1:
            params[name] = np.ones(shape, dtype=np.float32)
            continue
        residual = name.endswith(("wo.weight", "w2.weight"))
        std = 0.02 / math.sqrt(2 * config.layers) if residual else 0.02
        params[name] = rng.standard_normal(shape, dtype=np.float32) * np.float32(std)
    return params


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


# =============================== The program ====================================


class PortRef(NamedTuple):
    """One port of one kernel; ``trainer.surface(*port)`` is its surface."""

    kernel: str
    port: str

    def __str__(self) -> str:
        return f"{self.kernel}.{self.port}"


@dataclass(frozen=True)
class GradJob:
    """One weight gradient, computed on the CPU from two surfaces after the backward chain.

    ``dw[o, i] += sum_t dy[o, t] x[i, t]``, or with ``cols == 0`` (the gain of a norm)
    ``dw[o] += sum_t dy[o, t] x[o, t]``: the fields of ``AneGradJob``.

    Attributes:
        parameter: whose gradient it is. ``tok_embeddings.weight`` gets the head's part
            here; the input's part is added by the embedding's backward pass.
        dy: gradient of the product's result, [rows, T] fp16.
        x: what the product was applied to, [cols, T] fp16; [rows, T] for a gain. Those of the
            norms of q and k are [rows, heads, T]; t counts heads and tokens then.
        rows: first axis of the parameter.
        cols: second axis of the parameter, 0 for a gain.
    """

    parameter: str
    dy: PortRef
    x: PortRef
    rows: int
    cols: int


class LlamaProgram:
    """The kernels of one model and how a training loop drives them.

    Args:
        config: sizes.
        dialect: of the MIL text, see :mod:`ane_native.mil`.
        scaled: every matrix is baked times a power of two that is among the weights and
            changes with them, see :mod:`ane_native.models.llama_scales`.

    Example:
        One micro-step in NumPy; ``grads`` holds fp32 zeros in the parameters' shapes and
        ends up multiplied by ``scale``. A training loop does the same with the passes of
        the core instead::

            program = LlamaProgram(PRESETS["tiny"])
            with ane.DoubleBufferedTrainer(program.kernel_set(), params) as trainer:
                def surface(port):                           # [channels, T] fp16, no copy
                    return trainer.surface(*port).array.reshape(-1, program.config.seq)

                table = trainer.active_weights["tok_embeddings.weight"]
                surface(program.x)[:] = table[tokens].T
                trainer.run(program.forward)
                loss, dlogits = cross_entropy(surface(program.logits), targets)
                surface(program.dlogits)[:] = dlogits * scale
                trainer.run(program.backward)
                for job in program.grad_jobs:
                    dy, x = surface(job.dy).astype("f4"), surface(job.x).astype("f4")
                    grads[job.parameter] += dy @ x.T if job.cols else (dy * x).sum(axis=1)
                np.add.at(grads["tok_embeddings.weight"], tokens, surface(program.dx).T)
                trainer.micro_step()

    Attributes:
        config, scaled: as given.
        mil: kernel name -> its text and ports; 4 * layers + 2 of them.
        wires: input port -> output port whose surface it uses.
        forward: kernel names of the forward chain, in order.
        backward: kernel names of the backward chain, in order.
        x: write before forward: embedded tokens, [1, D, 1, T].
        logits: read after forward, [1, V, 1, T].
        dlogits: write before backward, [1, V, 1, T]; in the memory of the logits.
        dx: read after backward: gradient of the embedded tokens, [1, D, 1, T].
        grad_jobs: the weight gradients; their ports may be read until the next forward.
    """

    def __init__(
        self, config: LlamaConfig, dialect: Dialect = "A", *, scaled: bool = False
    ) -> None:
        layers = range(config.layers)
        last = config.layers - 1
        self.config, self.scaled = config, scaled
        self.forward = [f"L{i}.{part}" for i in layers for part in ("attn_fwd", "ffn_fwd")]
        self.forward += ["head_fwd"]
        self.backward = ["head_bwd"]
        self.backward += [
            f"L{i}.{part}" for i in reversed(layers) for part in ("ffn_bwd", "attn_bwd")
        ]
        self.mil: dict[str, MilText] = {}
        for i in layers:
            parts: dict[str, Callable[[LlamaConfig, int, Dialect, bool], MilText]] = {
                "attn_fwd": attn_fwd,
                "ffn_fwd": ffn_fwd,
                "ffn_bwd": ffn_bwd,
                "attn_bwd": attn_bwd,
            }
            self.mil |= {
                f"L{i}.{part}": make(config, i, dialect, scaled) for part, make in parts.items()
            }
        self.mil["head_fwd"] = head_fwd(config, dialect)
        self.mil["head_bwd"] = head_bwd(config, dialect, scaled)

        self.x = PortRef("L0.attn_fwd", "i00_x")
        self.logits = PortRef("head_fwd", "o00_logits")
        self.dlogits = PortRef("head_bwd", "i00_dlogits")
        self.dx = PortRef("L0.attn_bwd", "o00_dx")
        self.wires: dict[str, str] = {}
        for i in layers:
            below = f"L{i - 1}.ffn_fwd" if i > 0 else None
            above = f"L{i + 1}.attn_bwd" if i < last else "head_bwd"
            if below is not None:
                self._wire(f"L{i}.attn_fwd", below, x="y")
            self._wire(f"L{i}.ffn_fwd", f"L{i}.attn_fwd", x="y")
            self._wire(f"L{i}.ffn_bwd", above, dy="dx")
            self._wire(f"L{i}.ffn_bwd", f"L{i}.ffn_fwd", h1="h1", h3="h3", xhat="xhat", r="r")
            self._wire(f"L{i}.attn_bwd", f"L{i}.ffn_bwd", dy="dx")
            taps = {tap: tap for tap in ("q", "k", "v", "xhat", "r")}
            if config.qk_norm:
                taps |= {tap: tap for tap in ("qhat", "rq", "khat", "rk")}
            self._wire(f"L{i}.attn_bwd", f"L{i}.attn_fwd", **taps)
        self._wire("head_fwd", f"L{last}.ffn_fwd", x="y")
        # The loss writes dlogits over the logits, the largest of all surfaces.
        self._wire("head_bwd", "head_fwd", dlogits="logits", xhat="xhat", r="r")
        self.grad_jobs = self._grad_jobs()

    def kernel_set(self) -> KernelSet:
        """The kernels and wires as the trainer takes them."""
        kernels = [
            Kernel(
                name,
                mil.text,
                inputs=mil.inputs,
                outputs=mil.outputs,
                weights=mil.weights,
                adjoints=mil.adjoints,
            )
            for name, mil in self.mil.items()
        ]
        return KernelSet(kernels, wires=self.wires)

    def port(self, kernel: str, kind: str, name: str) -> PortRef:
        """The port of `kernel` that was declared as `name`; kind ``"inputs"`` or ``"outputs"``."""
        ports: dict[str, tuple[int, ...]] = getattr(self.mil[kernel], kind)
        return PortRef(kernel, next(port for port in ports if port[4:] == name))

    def _wire(self, to: str, source: str, **ports: str) -> None:
        """Inputs of `to` (keys) use the surfaces of outputs of `source` (values)."""
        for into, out in ports.items():
            target = self.port(to, "inputs", into)
            self.wires[str(target)] = str(self.port(source, "outputs", out))

    def _grad_jobs(self) -> list[GradJob]:
        shapes = parameter_shapes(self.config)

        def job(parameter: str, bwd: str, dy: str, fwd: str, x: str) -> GradJob:
            kind = "inputs" if dy in ("dy", "dlogits") else "outputs"
            rows, cols = (*shapes[parameter], 0)[:2]
            tap = self.port(fwd, "outputs", x)
            return GradJob(parameter, self.port(bwd, kind, dy), tap, rows, cols)

        jobs = [
            job("tok_embeddings.weight", "head_bwd", "dlogits", "head_fwd", "n"),
            job("norm.weight", "head_bwd", "dn", "head_fwd", "xhat"),
        ]
        for i in reversed(range(self.config.layers)):
            ffn, attention = f"layers.{i}.feed_forward", f"layers.{i}.attention"
            norms = [(f"{attention}.{m}_norm.weight", "attn", f"d{m}n", f"{m}hat") for m in "qk"]
            for parameter, part, dy, x in (
                (f"{ffn}.w2.weight", "ffn", "dy", "gate"),
                (f"{ffn}.w1.weight", "ffn", "dh1", "n"),
                (f"{ffn}.w3.weight", "ffn", "dh3", "n"),
                (f"layers.{i}.ffn_norm.weight", "ffn", "dn", "xhat"),
                (f"{attention}.wo.weight", "attn", "dy", "a"),
                (f"{attention}.wq.weight", "attn", "dq", "n"),
                (f"{attention}.wk.weight", "attn", "dk", "n"),
                (f"{attention}.wv.weight", "attn", "dv", "n"),
                (f"{attention}_norm.weight", "attn", "dn", "xhat"),
                *(norms if self.config.qk_norm else []),
            ):
                jobs.append(job(parameter, f"L{i}.{part}_bwd", dy, f"L{i}.{part}_fwd", x))
        return jobs
