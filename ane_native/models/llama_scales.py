# SPDX-License-Identifier: MIT
"""Powers of two in the kernels of a Llama model: where each enters, where it is undone, which
one fits. The rules are in docs/SCALING.md; when they are applied is in ane_native/scaling.py.

A *slot* is a power of two of one kernel, ``KERNEL.SLOT``: an exponent, 0 to 8. Slot
``stream`` is that of the gradients between kernels, 2^stream times the mean loss's.

    kernel     slots, matrices baked with them    what carries them          undone
    attn_fwd   wq, wk                              -                          behind the product
               wv, wo                              v, a: wv                   wv + wo before the sum with x
    ffn_fwd    w1, w3, w2                          -                          behind each product
    head_bwd   embedding_t                         dn                         before the norm
    ffn_bwd    w2_t, w13_t (w1 and w3)             dh1, dh3: w2_t; dn: both   before the norm
    attn_bwd   wo_t, qk_t (wq and wk), v_t         dv: wo_t; dq, dk: wo_t + wv; dn: + qk_t
               (norms of q and k: dqn, dkn as dq and dk)
               v_t = qk_t + wv, so that the three products that dn sums agree

What surfaces carry when the CPU reads them is in :func:`carried`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ane_native.kernel import Weight
from ane_native.mil import Function, Value

if TYPE_CHECKING:
    from ane_native.models.llama_config import LlamaConfig

__all__ = [
    "HIGHEST",
    "STREAM",
    "KernelScale",
    "Peak",
    "carried",
    "choose",
    "factors",
    "fit",
    "none_chosen",
    "undone",
]

STREAM = "stream"
HIGHEST = 8  # exponent of a slot; at 8 a product of K = 4096 is as exact as fp16 is
MOST_UNDONE = 14  # 2^-14 is the least normal fp16
LARGEST_STREAM = 24
# Largest magnitudes aimed at, as exponents; a product may reach 2^15.
PRODUCT = 9  # of a result that is watched, or estimated: room for 2^6 times as much
VALUES = 6  # of v, which meets the gradient in one product and the probabilities in another
STREAMED = 8  # of gradients between kernels: a norm sums up to D of them
INNER = 13  # of a result inside a kernel, by an estimate that is already wide
WEIGHT = 13  # of a baked matrix

# =============================== In the kernels =================================


@dataclass(frozen=True)
class KernelScale:
    """The powers of two of one kernel as its builder uses them; none where `on` is False."""

    kernel: str
    on: bool

    def weight(self, slot: str, parameter: str, transpose: bool = False) -> Weight:
        """The parameter times the power of two of `slot`."""
        scale = f"scale.{self.kernel}.{slot}" if self.on else None
        return Weight(parameter, transpose=transpose, scale=scale)

    def undo(self, f: Function, x: Value, slot: str) -> Value:
        """x times the inverse of what it carries: a file per channel, the form that gains have."""
        if not self.on:
            return x
        shape = (1, x.shape[1], 1, 1)
        return f.mul(x, f.weight(f"undo_{slot}", shape, f"undo.{self.kernel}.{slot}"))


Exponents = dict[str, int]


def none_chosen(config: LlamaConfig) -> Exponents:
    """Every slot 0, and the stream at the model's loss scale: where a run begins."""
    made = {STREAM: round(math.log2(config.loss_scale)), "head_bwd.embedding_t": 0}
    for i in range(config.layers):
        made |= {f"L{i}.attn_fwd.{slot}": 0 for slot in ("wq", "wk", "wv", "wo")}
        made |= {f"L{i}.ffn_fwd.{slot}": 0 for slot in ("w1", "w3", "w2")}
        made |= {f"L{i}.ffn_bwd.{slot}": 0 for slot in ("w2_t", "w13_t")}
        made |= {f"L{i}.attn_bwd.{slot}": 0 for slot in ("wo_t", "qk_t", "v_t")}
    return made


def factors(chosen: Mapping[str, int]) -> Exponents:
    """Name of the weight of one element -> exponent, for every slot but the stream."""
    return {f"scale.{slot}": e for slot, e in chosen.items() if slot != STREAM}


def undone(config: LlamaConfig, chosen: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Name of the weight that undoes -> (its channels, the exponent it takes away)."""
    d, made = config.dim, {"undo.head_bwd.dn": (config.dim, chosen["head_bwd.embedding_t"])}
    for i in range(config.layers):
        a, f = f"L{i}.attn_fwd.", f"L{i}.ffn_fwd."
        made[f"undo.{a}wq"] = config.q_dim, chosen[f"{a}wq"]
        made[f"undo.{a}wk"] = config.kv_dim, chosen[f"{a}wk"]
        made[f"undo.{a}wo"] = d, chosen[f"{a}wv"] + chosen[f"{a}wo"]
        made[f"undo.{f}w1"] = config.hidden, chosen[f"{f}w1"]
        made[f"undo.{f}w3"] = config.hidden, chosen[f"{f}w3"]
        made[f"undo.{f}w2"] = d, chosen[f"{f}w2"]
        carry = carried(config, chosen)
        for part in ("ffn_bwd", "attn_bwd"):
            made[f"undo.L{i}.{part}.dn"] = d, carry[f"L{i}.{part}.dn"] - chosen[STREAM]
    return made


def carried(config: LlamaConfig, chosen: Mapping[str, int]) -> Exponents:
    """KERNEL.NAME of a surface -> exponent of the power of two that it carries.

    Those of gradients include the stream's; what is not named carries none.
    """
    stream = chosen[STREAM]
    made = {"head_bwd.dlogits": stream, "head_bwd.dx": stream}
    made["head_bwd.dn"] = stream + chosen["head_bwd.embedding_t"]
    for i in range(config.layers):
        wv = chosen[f"L{i}.attn_fwd.wv"]
        made |= {f"L{i}.attn_fwd.v": wv, f"L{i}.attn_fwd.a": wv}
        for part in ("ffn_bwd", "attn_bwd"):
            made |= {f"L{i}.{part}.dy": stream, f"L{i}.{part}.dx": stream}
        inner = stream + chosen[f"L{i}.ffn_bwd.w2_t"]
        made |= {f"L{i}.ffn_bwd.dh1": inner, f"L{i}.ffn_bwd.dh3": inner}
        made[f"L{i}.ffn_bwd.dn"] = inner + chosen[f"L{i}.ffn_bwd.w13_t"]
        inner = stream + chosen[f"L{i}.attn_bwd.wo_t"]
        made[f"L{i}.attn_bwd.dv"] = inner
        made |= {f"L{i}.attn_bwd.{name}": inner + wv for name in ("dq", "dk", "dqn", "dkn")}
        made[f"L{i}.attn_bwd.dn"] = inner + wv + chosen[f"L{i}.attn_bwd.qk_t"]
    return made


# =============================== The choice =====================================


def fit(value: float, limit: int, high: int = HIGHEST) -> int:
    """The largest s from 0 to `high` with ``value * 2**s <= 2**limit``.

    A value of 0 says that there is nothing to lose: `high`. Infinity or NaN: 0.
    """
    if math.isnan(value) or math.isinf(value):
        return 0
    if value == 0.0:
        return high
    mantissa, exponent = math.frexp(abs(value))  # 0.5 <= mantissa < 1
    return max(0, min(high, limit - exponent + (mantissa == 0.5)))


@dataclass(frozen=True)
class Peak:
    """What is known of a matrix.

    Attributes:
        largest: magnitude of an element.
        row, column: Euclidean norm of a row, of a column, the largest; 0 where not asked for.
    """

    largest: float
    row: float = 0.0
    column: float = 0.0


def choose(
    config: LlamaConfig,
    ranges: Mapping[str, float],
    peaks: Mapping[str, Peak],
    caution: int = 0,
) -> Exponents:
    """The exponent of every slot.

    Args:
        config: sizes.
        ranges: KERNEL.NAME of a surface -> the largest magnitude seen, without what it carried:
            activations as they are, gradients of the mean loss.
        peaks: of the matrices, by parameter.
        caution: exponents to stay below the usual aim, after something has overflowed.

    A product that no surface shows is estimated: norm of a row times the largest operand.
    By Cauchy and Schwarz it is at most sqrt(K) times that.
    """
    c = _Choice(config, ranges, peaks, caution)
    made = {STREAM: c.stream}
    dn = c.fit(c.gradient("head_bwd.dn"), PRODUCT)
    made["head_bwd.embedding_t"] = min(dn, c.room("tok_embeddings.weight"))
    for i in range(config.layers):
        forward = c.attention_forward(i)
        made |= forward | c.feed_forward(i) | c.feed_forward_backward(i)
        made |= c.attention_backward(i, forward[f"L{i}.attn_fwd.wv"])
    return made


class _Choice:
    """The choice for each kernel; all aims are lowered by `caution`."""

    def __init__(
        self,
        config: LlamaConfig,
        ranges: Mapping[str, float],
        peaks: Mapping[str, Peak],
        caution: int,
    ) -> None:
        self.config, self.ranges, self.peaks, self.caution = config, ranges, peaks, caution
        self.turned = math.sqrt(config.head_dim)  # q is scaled by 1 / sqrt(E) behind its product
        self.stream = min(
            self.fit(1.0 / config.seq, PRODUCT, LARGEST_STREAM),  # dlogits
            *(
                self.fit(value, STREAMED, LARGEST_STREAM)
                for name, value in ranges.items()
                if name.endswith(".dx")
            ),
        )

    def fit(self, value: float, limit: int, high: int = HIGHEST) -> int:
        return fit(value, limit - self.caution, high)

    def room(self, parameter: str, high: int = HIGHEST) -> int:
        """What the matrix itself allows."""
        return self.fit(self.peaks[parameter].largest, WEIGHT, high)

    def gradient(self, name: str) -> float:
        """The largest magnitude of a surface that carries the stream alone."""
        return self.ranges[name] * 2.0**self.stream

    def attention_forward(self, i: int) -> Exponents:
        at, w, back = f"L{i}.attn_fwd.", f"layers.{i}.attention.", f"L{i}.attn_bwd."
        q, k, v, a = (self.ranges[f"{at}{name}"] for name in "qkva")
        wv = min(  # it lifts attention's backward pass too
            self.fit(v, VALUES),
            *(self.fit(value, PRODUCT) for value in self.products(i)),
            self.fit(self.gradient(f"{back}dn"), PRODUCT),
            self.room(f"{w}wv.weight"),
        )
        written = self.peaks[f"{w}wo.weight"].row * a * 2.0**wv
        wo = min(self.fit(written, PRODUCT), self.room(f"{w}wo.weight"), MOST_UNDONE - wv)
        # RoPE turns pairs: a product may be sqrt(2) times what is seen of it
        q = q * self.turned
        if self.config.qk_norm:  # behind a norm nothing is seen of it
            n = self.ranges[f"{at}n"]
            q, k = (self.peaks[f"{w}{m}.weight"].row * n for m in ("wq", "wk"))
        wq = min(self.fit(q, PRODUCT - 1), self.room(f"{w}wq.weight"))
        wk = min(self.fit(k, PRODUCT - 1), self.room(f"{w}wk.weight"))
        return {f"{at}wq": wq, f"{at}wk": wk, f"{at}wv": wv, f"{at}wo": wo}

    def products(self, i: int) -> list[float]:
        """Gradients that the products of attention's backward pass make: of q before it is scaled,
        of k; behind norms of q and k also what the norms make of them."""
        back = f"L{i}.attn_bwd."
        norms = [self.gradient(f"{back}{n}") for n in ("dq", "dk") if self.config.qk_norm]
        dq, dk = ("dqn", "dkn") if self.config.qk_norm else ("dq", "dk")
        return [self.gradient(f"{back}{dq}") * self.turned, self.gradient(f"{back}{dk}"), *norms]

    def feed_forward(self, i: int) -> Exponents:
        at, w = f"L{i}.ffn_fwd.", f"layers.{i}.feed_forward."
        results = {
            "w1": self.ranges[f"{at}h1"],
            "w3": self.ranges[f"{at}h3"],
            "w2": self.peaks[f"{w}w2.weight"].row * self.ranges[f"{at}gate"],
        }
        return {
            f"{at}{slot}": min(self.fit(value, PRODUCT), self.room(f"{w}{slot}.weight"))
            for slot, value in results.items()
        }

    def feed_forward_backward(self, i: int) -> Exponents:
        """dgate shows in no surface, nor dgate h3."""
        at, w = f"L{i}.ffn_bwd.", f"layers.{i}.feed_forward."
        last = i == self.config.layers - 1
        dy = self.gradient("head_bwd.dx" if last else f"L{i + 1}.attn_bwd.dx")
        dgate = self.peaks[f"{w}w2.weight"].column * dy
        w2_t = min(
            self.fit(dgate, PRODUCT),
            self.fit(dgate * self.ranges[f"L{i}.ffn_fwd.h3"], INNER),
            *(self.fit(self.gradient(f"{at}{name}"), PRODUCT) for name in ("dh1", "dh3", "dn")),
            self.room(f"{w}w2.weight"),
        )
        w13_t = min(
            self.fit(self.gradient(f"{at}dn") * 2.0**w2_t, PRODUCT),
            self.room(f"{w}w1.weight"),
            self.room(f"{w}w3.weight"),
            MOST_UNDONE - w2_t,
        )
        return {f"{at}w2_t": w2_t, f"{at}w13_t": w13_t}

    def attention_backward(self, i: int, wv: int) -> Exponents:
        """da and dprob = da v show in no surface. `wv`: what v carries."""
        at, w = f"L{i}.attn_bwd.", f"layers.{i}.attention."
        da = self.peaks[f"{w}wo.weight"].column * self.gradient(f"L{i}.ffn_bwd.dx")
        v = self.ranges[f"L{i}.attn_fwd.v"] * 2.0**wv
        dv, dn = (self.gradient(f"{at}{name}") for name in ("dv", "dn"))
        wo_t = min(
            self.fit(da, PRODUCT),
            self.fit(da * v * self.turned, INNER),
            self.fit(dv, PRODUCT),
            *(self.fit(value * 2.0**wv, PRODUCT) for value in self.products(i)),
            self.fit(dn * 2.0**wv, PRODUCT),
            self.room(f"{w}wo.weight"),
            MOST_UNDONE - wv,
        )
        qk_t = min(
            self.fit(dn * 2.0 ** (wo_t + wv), PRODUCT),
            self.room(f"{w}wq.weight"),
            self.room(f"{w}wk.weight"),
            max(0, self.room(f"{w}wv.weight", HIGHEST + wv) - wv),
            MOST_UNDONE - wo_t - wv,
        )
        return {f"{at}wo_t": wo_t, f"{at}qk_t": qk_t, f"{at}v_t": qk_t + wv}
