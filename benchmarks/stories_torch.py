# SPDX-License-Identifier: MIT
"""The PyTorch side of bench_stories110m.py: the same model as plain modules, told what to do.

A process of its own, so that its peak memory is its own and any interpreter that has PyTorch
will do; it imports nothing of ane_native. Reads one JSON object per line from standard input
and answers each with one on standard output; the first line is the set-up::

    {"config": {...LlamaConfig...}, "weights": "w.safetensors", "variant": "eager", ...}

Variants: ``eager`` (fp32), ``bf16`` (autocast of the forward pass), ``compile``
(``torch.compile`` of the fp32 model).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        dim, self.heads = c["dim"], c["heads"]
        self.kv_heads = c.get("kv_heads") or self.heads
        self.head_dim = c.get("head_width") or dim // self.heads
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.wq = nn.Linear(dim, wide, bias=False)
        self.wk = nn.Linear(dim, narrow, bias=False)
        self.wv = nn.Linear(dim, narrow, bias=False)
        self.wo = nn.Linear(wide, dim, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        t = x.shape[0]
        q = self.wq(x).view(t, self.heads, self.head_dim).transpose(0, 1)
        k = self.wk(x).view(t, self.kv_heads, self.head_dim).transpose(0, 1)
        v = self.wv(x).view(t, self.kv_heads, self.head_dim).transpose(0, 1)
        q, k = rope(q, cos, sin), rope(k, cos, sin)
        a = F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, enable_gqa=self.kv_heads != self.heads
        )
        return self.wo(a[0].transpose(0, 1).reshape(t, -1))


class FeedForward(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.w1 = nn.Linear(c["dim"], c["hidden"], bias=False)
        self.w2 = nn.Linear(c["hidden"], c["dim"], bias=False)
        self.w3 = nn.Linear(c["dim"], c["hidden"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.attention_norm = Norm(c["dim"], c["norm_eps"])
        self.attention = Attention(c)
        self.ffn_norm = Norm(c["dim"], c["norm_eps"])
        self.feed_forward = FeedForward(c)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """tokens [T] -> logits [T, V]; parameter names are those of parameter_shapes()."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(c["vocab"], c["dim"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["layers"]))
        self.norm = Norm(c["dim"], c["norm_eps"])
        half = (c.get("head_width") or c["dim"] // c["heads"]) // 2
        turn = c["rope_theta"] ** (-np.arange(half) / half)
        angle = np.outer(np.arange(c["seq"]), np.concatenate([turn, turn]))
        self.register_buffer("cos", torch.tensor(np.cos(angle), dtype=torch.float32))
        self.register_buffer("sin", torch.tensor(np.sin(angle), dtype=torch.float32))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.linear(self.norm(x), self.tok_embeddings.weight)


class Worker:
    def __init__(self, setup: dict[str, Any]) -> None:
        from safetensors.torch import load_file

        torch.set_num_threads(setup["threads"])
        self.model = Llama(setup["config"])
        missing = self.model.load_state_dict(load_file(setup["weights"]), strict=False)
        if set(missing.missing_keys) - {"cos", "sin"} or missing.unexpected_keys:
            raise ValueError(str(missing))
        self.bf16 = setup["variant"] == "bf16"
        self.call = torch.compile(self.model) if setup["variant"] == "compile" else self.model
        tokens = np.fromfile(setup["tokens"], "<u2").astype(np.int64)
        self.tokens = torch.from_numpy(tokens)
        self.seq = setup["config"]["seq"]
        self.clip = setup["clip"]
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim == 1]
        self.adam = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": setup["weight_decay"]},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=setup["lr"],
            betas=tuple(setup["betas"]),
            eps=1e-8,
            fused=True,
        )

    def micro_step(self, start: int, share: float) -> float:
        window = self.tokens[start : start + self.seq + 1]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = F.cross_entropy(self.call(window[:-1]), window[1:])
        (loss * share).backward()
        return float(loss.detach())

    def update(self, lr: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = lr
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=False)

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Micro-steps at `starts`, then an update when a learning rate is given."""
        losses, micro_ms = [], []
        for start in order["starts"]:
            begin = time.perf_counter()
            losses.append(self.micro_step(start, 1.0 / len(order["starts"])))
            micro_ms.append((time.perf_counter() - begin) * 1e3)
        begin = time.perf_counter()
        if order.get("lr") is not None:
            self.update(order["lr"])
        update_ms = (time.perf_counter() - begin) * 1e3
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"losses": losses, "micro_ms": micro_ms, "update_ms": update_ms, "peak_mb": peak}


def main() -> None:
    worker = Worker(json.loads(sys.stdin.readline()))
    print(json.dumps({"ready": torch.__version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
