# SPDX-License-Identifier: MIT
"""Packing: several kernels as procedures of one program give the same bits at fewer compiles."""

from __future__ import annotations

import logging

import numpy as np
import programs
import pytest

import ane_native as ane
from ane_native import soft
from ane_native.models.llama import LlamaConfig, LlamaProgram, init_params, parameter_shapes
from ane_native.packing import Limits, UnpackableError, merge, pack, plan, read_function

SMALL = LlamaConfig(dim=64, hidden=128, layers=12, heads=2, seq=32, vocab=64)


def scales(n: int, **more: str) -> ane.KernelSet:
    return ane.KernelSet([programs.scale(f"k{i}", weight=f"g{i}") for i in range(n)])


def gains(n: int) -> dict[str, np.ndarray]:
    return {f"g{i}": np.full(4, i + 1, np.float32) for i in range(n)}


# ============================== texts ==============================


def test_strings_comments_and_braces_do_not_confuse_the_scanner() -> None:
    text = (
        'program(1.3)\n[info = dict<string, string>({{"a; func {", "}\\" -> "}})]\n'
        "{ // func not { this\n"
        ' func main<ios18>(tensor<fp16, [1, 4]> x) { string s = const()[val=string("} -> (y);")]; '
        "t y = id(x=x)[name=s]; } -> (y);\n}\n"
    )
    found = read_function("k", text)
    assert found.opset == "ios18"
    assert found.after.startswith("<ios18>(tensor")
    assert found.after.endswith("-> (y);")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("program(1.3) { func a<i>(x) { } -> (x); func b<i>(x) { } -> (x); }", "got 2"),
        ("program(1.3) { }", "got 0"),
        ("program(1.3) { func a<i>(x) { ) } -> (x); }", "do not match"),
        ("program(1.3)", "no program body"),
        ("program(1.3) { func a<i>(x) { } -> (x);", "no program body that ends"),
    ],
)
def test_a_text_that_cannot_be_merged_says_why(text: str, why: str) -> None:
    with pytest.raises(UnpackableError, match=why):
        read_function("k", text)


def test_equal_weight_files_and_equal_functions_exist_once() -> None:
    constant = np.arange(4, dtype=np.float16)
    kernels = [
        programs.scale("a", weight="g"),
        programs.scale("b", weight="g"),
        programs.scale("c", weight="h"),
        programs.scale("d", weight=constant),  # type: ignore[arg-type]
        programs.scale("e", weight=constant.copy()),  # type: ignore[arg-type]
    ]
    source = merge(kernels, [0, 1, 2, 3, 4])
    assert len(source.weights) == 3
    assert len(set(source.functions)) == 3
    assert source.functions[0] == source.functions[1]
    assert source.functions[3] == source.functions[4]
    assert source.mil.count("func ") == 3


def test_texts_of_different_headers_are_not_packed_together() -> None:
    a, b = programs.scale("a"), programs.scale("b")
    b.mil = b.mil.replace("3510.2.1", "3510.2.2")
    with pytest.raises(UnpackableError, match="header"):
        merge([a, b], [0, 1])
    assert plan(ane.KernelSet([a, b]), {"g": 4}) == [[0], [1]]


# ============================== the choice ==============================


def test_the_stories_set_needs_at_most_twelve_programs() -> None:
    from ane_native.models.llama import PRESETS

    config = PRESETS["stories110m"]
    sizes = {n: int(np.prod(s)) for n, s in parameter_shapes(config).items()}
    packing = pack(LlamaProgram(config).kernel_set(), sizes, "auto")
    assert sum(len(s.kernels) for s in packing.sources) == 4 * config.layers + 2
    assert len(packing.sources) <= 12
    by_weight: dict[str, set[int]] = {}
    for i, source in enumerate(packing.sources):
        for w in source.weights.values():
            if isinstance(w, ane.Weight):
                by_weight.setdefault(w.name, set()).add(i)
    assert all(len(where) == 1 for where in by_weight.values())  # each weight in one program


def test_limits_of_a_program_are_kept() -> None:
    kernels = scales(40)
    sizes = dict.fromkeys(kernels.weight_names, 2**19)  # 1 MiB each
    for limits, most in ((Limits(procedures=7), 7), (Limits(program_mib=5.0), 5)):
        groups = plan(kernels, sizes, 1, limits)
        assert max(map(len, groups)) <= most
        assert sorted(i for g in groups for i in g) == list(range(40))


def test_kernels_that_never_change_are_apart_and_stay_loaded() -> None:
    kernels = ane.KernelSet(
        [programs.scale(f"k{i}", weight=f"g{i}") for i in range(4)], frozen=["g0", "g1"]
    )
    weights = gains(4)
    with ane.DoubleBufferedTrainer(kernels, weights, staleness=0, packing="auto") as trainer:
        assert sorted(s.kernels for s in trainer.packing.sources) == [(0, 1), (2, 3)]
        weights["g3"] = weights["g3"] + 1
        stats = trainer.step(weights)
        assert (stats.programs, stats.programs_compiled, stats.programs_reused) == (2, 1, 1)
        y = trainer.eval("k3", np.ones((1, 4, 1, 32), np.float32))
        np.testing.assert_array_equal(y, np.full((1, 4, 1, 32), 5.0))


@pytest.mark.parametrize(
    ("choice", "what"),
    [(0, "at least 1"), ("some", "'auto'"), ([["nix"]], "'nix'"), ([["k0", "k0"]], "twice"),
     (True, "groups"), ([["k0"], "k1"], "groups")],
)  # fmt: skip
def test_a_choice_that_makes_no_sense_is_refused(choice: object, what: str) -> None:
    with pytest.raises(ane.ConfigError, match=what):
        ane.DoubleBufferedTrainer(scales(2), gains(2), packing=choice)  # type: ignore[arg-type]


# ============================== on the engine ==============================


def test_twelve_layers_packed_give_the_same_bits_at_a_fifth_of_the_compiles() -> None:
    model = LlamaProgram(SMALL)
    weights = init_params(SMALL, np.random.default_rng(1))
    results = {}
    for choice in ("auto", None):
        with ane.DoubleBufferedTrainer(
            model.kernel_set(), weights, staleness=0, packing=choice
        ) as trainer:
            stats = trainer.step({n: w * np.float32(1.25) for n, w in weights.items()})
            assert trainer.packing.fallback is None
            trainer.surface(*model.x).write(np.full((1, 64, 1, 32), 0.25))
            trainer.run(model.forward)
            trainer.surface(*model.dlogits).array[:] = trainer.surface(*model.logits).array
            trainer.run(model.backward)
            every = [
                trainer.surface(k.name, p.name) for k in trainer.kernels.kernels for p in k.outputs
            ]
            results[choice] = [stats.programs_compiled, [s.read().tobytes() for s in every]]
    assert results["auto"][0] <= 12
    assert results[None][0] == 50
    assert results["auto"][1] == results[None][1]


def test_an_engine_that_runs_one_procedure_for_all_is_found_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with soft.using(procedures="first"), caplog.at_level(logging.WARNING, "ane_native"):
        with pytest.raises(ane.CanaryError, match="the same results"):
            ane.DoubleBufferedTrainer(scales(3), gains(3), packing=[["k0", "k1", "k2"]])
        with ane.DoubleBufferedTrainer(scales(3), gains(3), packing=1) as trainer:
            assert trainer.packing.fallback is not None
            assert "the same results" in trainer.packing.fallback
            assert trainer.stats is not None
            assert trainer.stats.programs == 3
            assert "the same results" in trainer.stats.packing
            y = trainer.eval("k2", np.ones((1, 4, 1, 32), np.float32))
            np.testing.assert_array_equal(y, np.full((1, 4, 1, 32), 3.0))
    assert [r.message for r in caplog.records if "packing given up" in r.message] != []


def test_the_budget_is_reserved_for_programs_not_kernels() -> None:
    used = int(ane.Engine().info()["compiles"])  # type: ignore[call-overload]
    with soft.using(compile_limit=used + 2):
        ane.Engine.refresh_limit()
        with ane.DoubleBufferedTrainer(scales(6), gains(6), staleness=0, packing=1) as trainer:
            more = {n: w + 1 for n, w in gains(6).items()}
            assert trainer.step(more).budget_left == 0
            with pytest.raises(ane.BudgetExhausted):
                trainer.step({n: w + 2 for n, w in more.items()})
    ane.Engine.refresh_limit()


def test_errors_name_the_kernel_or_the_program() -> None:
    kernels = [programs.scale(f"k{i}", weight=f"g{i}") for i in range(2)]
    kernels[1].mil = kernels[1].mil.replace("mul(", "nonsense(")
    with pytest.raises(ane.CompileError, match=r"program 'k0 … k1 \(2 kernels\)'"):
        ane.DoubleBufferedTrainer(ane.KernelSet(kernels), gains(2), packing=[["k0", "k1"]])
    with pytest.raises(ane.CompileError, match="kernel 'k1'"):  # with and without packing
        ane.DoubleBufferedTrainer(ane.KernelSet(kernels), gains(2), packing="auto")
