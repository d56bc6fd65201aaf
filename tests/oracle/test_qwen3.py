# SPDX-License-Identifier: MIT
"""A small Qwen3 with its norms of q and k, against Hugging Face's implementation in float64:
loss, and the gradient of every parameter by its name there. Needs the extra ``oracle``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ane_native.decode import CachedDecoder
from ane_native.generate import hf_name

torch: Any = pytest.importorskip("torch", reason="pip install 'ane-native[oracle]'")
transformers: Any = pytest.importorskip("transformers", reason="pip install 'ane-native[oracle]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))

import llama_reference as reference  # noqa: E402
from llama_problem import NORMED, lively  # noqa: E402


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Their model with our weights."""
    c = NORMED
    made = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=c.vocab,
            hidden_size=c.dim,
            intermediate_size=c.hidden,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            num_key_value_heads=c.kv_heads,
            head_dim=c.head_dim,
            rms_norm_eps=c.norm_eps,
            rope_theta=c.rope_theta,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
            max_position_embeddings=c.seq,
            tie_word_embeddings=True,
            attention_bias=False,
        )
    ).double()
    weights = {
        hf_name(name): torch.tensor(value.astype(np.float64))
        for name, value in lively(c).params.items()
    }
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert missing == ["lm_head.weight"]  # tied
    assert unexpected == []
    return made


def test_loss_and_gradients_are_theirs(theirs: Any) -> None:
    case = lively(NORMED)
    loss, grads = reference.loss_and_gradients(case.program, case.params, case.tokens, case.targets)
    logits = theirs(torch.tensor(case.tokens[None].astype(np.int64))).logits[0]
    want = torch.nn.functional.cross_entropy(logits, torch.tensor(case.targets.astype(np.int64)))
    theirs.zero_grad()
    want.backward()
    # their tables of RoPE are float32
    assert abs(loss - want.item()) < 1e-6
    found = dict(theirs.named_parameters())
    assert set(found) == {hf_name(name) for name in grads}
    for name, gradient in grads.items():
        other = found[hf_name(name)].grad.numpy()
        assert np.linalg.norm(gradient - other) < 1e-5 * np.linalg.norm(other), name


def test_cached_decoding_gives_their_logits(theirs: Any) -> None:
    case = lively(NORMED)
    with torch.no_grad():
        want = theirs(torch.tensor(case.tokens[None].astype(np.int64))).logits[0].numpy()
    decoder = CachedDecoder(NORMED, case.params)
    for at, token in enumerate(case.tokens.tolist()):
        got = decoder.step([token])
        assert np.linalg.norm(got - want[at]) < 1e-4 * np.linalg.norm(want[at])
