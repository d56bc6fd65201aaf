# SPDX-License-Identifier: MIT
"""The shape of a Llama-family model (:class:`LlamaConfig`, :data:`PRESETS`) and its parameters.

Letters are those of :mod:`ane_native.models.llama`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["PRESETS", "LlamaConfig", "init_params", "parameter_shapes"]

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
