# SPDX-License-Identifier: MIT
"""Kernels with powers of two, and whole runs whose powers of two are chosen.

Under ``fast`` a kernel gives the same bits with and without powers of two where nothing is
subnormal in fp16; where something is, the scaled one is nearer to the truth. Under ``silicon``
the gradients of a scaled model are nearly those of ``fast``, and without scaling they are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ane_native as ane
from ane_native import scaling, soft
from ane_native.microstep import MicroStep
from ane_native.models import llama_scales
from ane_native.models.llama import (
    PRESETS,
    LlamaConfig,
    LlamaProgram,
    init_params,
    parameter_shapes,
)
from ane_native.models.llama_scales import STREAM, carried
from ane_native.scaling import Scales
from ane_native.train import RUNS, TrainConfig, train

pytestmark = pytest.mark.skipif(not ane.Engine().software, reason="needs softane's settings")

SMALL = LlamaConfig(dim=64, hidden=96, layers=1, heads=2, kv_heads=1, seq=32, vocab=64)
NORMAL = 2.0**-14

# =============================== Kernels ========================================


def grid_params(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights that fp16 holds exactly, none of them small."""
    made = {}
    for name, shape in parameter_shapes(SMALL).items():
        steps = rng.integers(1, 65, shape) * rng.choice([-1, 1], shape)
        made[name] = (steps if shape[1:] else rng.integers(64, 256, shape)).astype("f4") / 256
    return made


def some_exponents(rng: np.random.Generator, most: int) -> dict[str, int]:
    chosen = {slot: int(rng.integers(0, most + 1)) for slot in llama_scales.none_chosen(SMALL)}
    chosen["L0.attn_bwd.v_t"] = chosen["L0.attn_bwd.qk_t"] + chosen["L0.attn_fwd.wv"]
    return chosen | {STREAM: 0}


def evaluated(
    program: LlamaProgram, name: str, weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Outputs of one kernel by their plain names."""
    kernel = program.kernel_set().kernels[program.kernel_set().position(name)]
    with ane.Program(kernel, weights) as compiled:
        given = [inputs[port.name[4:]].reshape(port.shape) for port in kernel.inputs]
        made = compiled.eval(*given)
    return {port.name[4:]: y for port, y in zip(kernel.outputs, made, strict=True)}


def both(
    rng: np.random.Generator, name: str, inputs: dict[str, np.ndarray], most: int = 3
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, int]]:
    """Outputs without and with powers of two; the latter without what they carry."""
    params, plain = grid_params(rng), LlamaProgram(SMALL)
    scaled = LlamaProgram(SMALL, scaled=True)
    chosen = some_exponents(rng, most)
    carry = carried(SMALL, chosen)
    weights = params | Scales(scaled).tensors_of(chosen)
    given = {n: x * np.float32(2.0 ** taps(name, n, carry)) for n, x in inputs.items()}
    off = evaluated(plain, name, params, inputs)
    on = evaluated(scaled, name, weights, given)
    on = {n: y * np.float32(2.0 ** -carry.get(f"{name}.{n}", 0)) for n, y in on.items()}
    return off, on, chosen


def taps(kernel: str, name: str, carry: dict[str, int]) -> int:
    """What an input carries: v is a tap of the forward kernel, the stream is 0 here."""
    return carry["L0.attn_fwd.v"] if (kernel, name) == ("L0.attn_bwd", "v") else 0


def inputs_of(rng: np.random.Generator, name: str, size: float) -> dict[str, np.ndarray]:
    """Values on a grid that fp16 holds, gradients of that size."""
    kernel = LlamaProgram(SMALL).mil[name]
    made = {}
    for port, shape in kernel.inputs.items():
        plain = port[4:]
        unit = size if plain.startswith("d") else 1.0
        made[plain] = (rng.integers(1, 65, shape) * rng.choice([-1, 1], shape)).astype("f4")
        made[plain] *= np.float32(unit / 64)
        if plain == "r":
            made[plain] = np.abs(made[plain])
    return made


KERNELS = ("L0.attn_fwd", "L0.ffn_fwd", "L0.ffn_bwd", "L0.attn_bwd", "head_bwd")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_powers_of_two_change_no_bit_where_nothing_is_subnormal(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with soft.using(numerics="fast"):
        off, on, chosen = both(rng, name, inputs_of(rng, name, 16.0))
    assert any(e for slot, e in chosen.items() if slot.startswith(name))
    for output, plain in off.items():
        assert np.isfinite(plain).all()
        subnormal = (plain != 0) & (np.abs(plain) < NORMAL)
        same = plain == on[output]
        assert same[~subnormal].mean() > 0.999, output
        if not subnormal.any():
            np.testing.assert_array_equal(plain, on[output], err_msg=output)


@pytest.mark.parametrize("name", ["L0.ffn_bwd", "L0.attn_bwd"])
def test_where_something_is_subnormal_the_scaled_kernel_is_nearer_to_the_truth(name: str) -> None:
    """The truth: the same kernel on gradients 2^12 times as large, which nothing makes small."""
    rng = np.random.default_rng(5)
    inputs = inputs_of(rng, name, 2.0**-9)
    large = {n: x * np.float32(4096 if n.startswith("d") else 1) for n, x in inputs.items()}
    with soft.using(numerics="fast"):
        off, on, _ = both(np.random.default_rng(6), name, inputs, most=6)
        truth, _, _ = both(np.random.default_rng(6), name, large, most=6)
    for output in (n for n in off if n != "dx"):  # dx is undone: as fp16 holds it
        exact = truth[output] / 4096
        errors = [float(np.linalg.norm(y[output] - exact)) for y in (off, on)]
        assert errors[1] <= errors[0], output
    exact = truth["dn"] / 4096
    assert np.linalg.norm(on["dn"] - exact) < 0.5 * np.linalg.norm(off["dn"] - exact)


@pytest.mark.parametrize("name", KERNELS)
def test_powers_of_two_lift_products_above_the_engines_step(name: str) -> None:
    """On silicon, against the same inputs under fast."""
    rng = np.random.default_rng(7)
    inputs = inputs_of(rng, name, 2.0**-7)
    with soft.using(numerics="fast"):
        exact, _, _ = both(np.random.default_rng(8), name, inputs, most=7)
    with soft.using(numerics="silicon"):
        off, on, _ = both(np.random.default_rng(8), name, inputs, most=7)
    output = {"L0.attn_fwd": "a", "L0.ffn_fwd": "y"}.get(name, "dn")
    lost, kept = (float(np.linalg.norm(y[output] - exact[output])) for y in (off, on))
    assert kept <= lost
    if name.endswith("bwd"):
        assert kept < 0.3 * lost


# =============================== A model's gradients ============================


def gradients(
    numerics: str, loss_scale: float, scaled: bool, packing: Any = None
) -> dict[str, np.ndarray]:
    """Of the mean loss of the tiny model on one window; scaled: with exponents chosen from a
    first micro-step."""
    model = PRESETS["tiny"]
    rng = np.random.default_rng(11)
    params = init_params(model, rng)
    window = rng.integers(0, model.vocab, model.seq + 1).astype(np.int32)
    with soft.using(numerics=numerics, compile_limit=0):
        program = LlamaProgram(model, scaled=scaled)
        scales = Scales(program) if scaled else None
        weights = dict(params) | (scales.tensors(0) if scales else {})
        with ane.DoubleBufferedTrainer(
            program.kernel_set(), weights, staleness=0, packing=packing
        ) as trainer:
            grads = {n: np.zeros_like(p) for n, p in params.items()}
            step = MicroStep(program, trainer, grads, scales=scales)
            if scales is not None:
                step(window[:-1], window[1:], loss_scale)
                assert step.watch()
                scales.choose(params, 0)
                trainer.step({**params, **scales.tensors(1)})
                for g in grads.values():
                    g.fill(0.0)
            step(window[:-1], window[1:], loss_scale)
            assert scales is None or step.watch()
    return {n: g / np.float32(loss_scale) for n, g in grads.items()}


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    off = sum(float(np.sum((a[n] - b[n]) ** 2.0)) for n in a)
    return float(np.sqrt(off / sum(float(np.sum(b[n] ** 2.0)) for n in b)))


def test_gradients_on_silicon_need_scaling_to_be_those_of_fast() -> None:
    exact = gradients("fast", 1.0, scaled=True)
    assert apart(gradients("silicon", 1.0, scaled=True), exact) < 1e-3
    best = PRESETS["tiny"].loss_scale
    assert 1e-3 < apart(gradients("silicon", best, scaled=False), exact) < 2e-2
    assert apart(gradients("silicon", 1.0, scaled=False), exact) > 0.1
    assert apart(gradients("fast", best, scaled=False), exact) < 1e-3


@pytest.mark.parametrize("numerics", ["fast", "silicon"])
def test_neither_packing_nor_the_loss_scale_changes_a_bit(numerics: str) -> None:
    first = gradients(numerics, 1.0, scaled=True)
    for loss_scale, packing in ((1.0, "auto"), (4096.0, 2)):
        other = gradients(numerics, loss_scale, scaled=True, packing=packing)
        for name, g in first.items():
            np.testing.assert_array_equal(g, other[name], err_msg=name)


# =============================== Runs ===========================================


def config(**changes: Any) -> TrainConfig:
    settings = {"updates": 6, "valid_every": 3, "scaling": "auto", "trace_events": 0}
    return dataclasses.replace(RUNS["tiny"], **{**settings, **changes})


def digest(checkpoint: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(checkpoint.iterdir())
    }


def updates(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["kind"] == "update"]


@pytest.fixture(autouse=True)
def on_silicon() -> Any:
    with soft.using(numerics="silicon"):
        yield


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("where", ["background", "foreground"])
def test_a_resumed_run_ends_with_the_same_bits(staleness: int, where: str, tmp_path: Path) -> None:
    made = config(staleness=staleness, update=where, save_every=2)
    whole = train(made, out=tmp_path, name="whole")
    part = tmp_path / "part"
    shutil.copytree(whole.folder, part)
    for later in ("step-000004", "step-000006"):
        shutil.rmtree(part / "checkpoints" / later)
    again = train(made, resume=part)
    assert digest(again.checkpoint) == digest(whole.checkpoint)
    for mine, other in zip(updates(part), updates(whole.folder), strict=True):
        for name in ("loss", "grad_norm", "scale_stream", "scale_most", "scale_caution"):
            assert mine[name] == other[name]
    assert updates(part)[-1]["scale_most"] > 0


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_overflow_is_answered_by_smaller_powers_of_two_wherever_updates_run(
    staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third choice is far too large for the gradients; what follows must not be."""
    right = llama_scales.choose
    calls: list[int] = []

    def wrong(*args: Any, **kwargs: Any) -> dict[str, int]:
        calls.append(1)
        chosen = right(*args, **kwargs)
        return chosen | {STREAM: 24} if len(calls) == 3 else chosen

    seen = []
    monkeypatch.setattr(scaling.llama_scales, "choose", wrong)
    for where in ("background", "foreground"):
        calls.clear()
        made = config(staleness=staleness, update=where, updates=10)
        result = train(made, out=tmp_path, name=where)
        records = updates(result.folder)
        names = ("update", "loss", "applied", "scale_stream", "scale_most", "scale_caution")
        seen.append((digest(result.checkpoint), [[r[n] for n in names] for r in records]))
        skipped = [r["update"] for r in records if not r["applied"]]
        assert skipped
        assert all(r["scale_stream"] == 24 for r in records if not r["applied"])
        assert all(r["applied"] for r in records[max(skipped) :])
        assert records[-1]["scale_caution"] == 2 * len(skipped)
        assert {r["loss_scale"] for r in records} == {1024.0}  # nothing fights it
    assert seen[0] == seen[1]


def test_a_checkpoint_without_scales_can_be_continued_with_them(tmp_path: Path) -> None:
    made = config(scaling="off", save_every=2)
    first = train(made, out=tmp_path, name="off")
    for later in ("step-000004", "step-000006"):
        shutil.rmtree(first.folder / "checkpoints" / later)
    again = train(dataclasses.replace(made, scaling="auto"), resume=first.folder)
    assert again.updates == 6
    assert updates(first.folder)[-1]["scale_most"] > 0
