# SPDX-License-Identifier: MIT
"""The build tools' own rules: the thread sanitizer links with whatever clang was chosen, or it is
said what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "ane_native" / "_toolchain.py"
RACE = """
#include <pthread.h>
static int shared;
static void *work(void *context) { shared++; return context; }
int main(void) {
    pthread_t other;
    if (pthread_create(&other, NULL, work, NULL) != 0) return 1;
    shared++;
    return pthread_join(other, NULL);
}
"""


@pytest.fixture
def tc(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module as the tools see it, by file, with nothing remembered."""
    spec = importlib.util.spec_from_file_location("toolchain_under_test", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("clang", ["the chosen one", "clang", "clang-14"])
def test_a_program_under_the_thread_sanitizer_links_and_reports(
    tc: Any, clang: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if clang != "the chosen one":
        if shutil.which(clang) is None:
            pytest.skip(f"{clang} is not installed")
        monkeypatch.setenv("CC", clang)
    (tmp_path / "race.c").write_text(RACE)
    flags = tuple(tc.sanitize_flags("thread"))
    unit = tc.Unit(tmp_path / "race.c", tmp_path / "race.o", ("-g", *flags))
    tc.compile_all([unit])
    tc.link([unit.object], tmp_path / "race", [*flags, "-lpthread"])
    environment = {**os.environ, "TSAN_OPTIONS": "exitcode=66"}
    done = subprocess.run(
        [tmp_path / "race"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 66, done.stderr
    assert "data race" in done.stderr


def complaint(tc: Any, monkeypatch: pytest.MonkeyPatch, said: str, works: str = "") -> str:
    """What is raised where linking says `said`, except with the compiler `works`."""
    monkeypatch.setattr(tc, "compiler", lambda: ["clang"])
    monkeypatch.setattr(tc, "numbered_clangs", lambda: ["clang-19", "clang-14"])
    monkeypatch.setattr(tc, "is_clang", lambda _: True)
    monkeypatch.setattr(
        tc, "link_thread_sanitizer", lambda clang, libs=(): "" if works in clang else said
    )
    with pytest.raises(tc.ToolchainError) as caught:
        tc.thread_sanitizer_libs()
    return str(caught.value)


UNDEFINED = "undefined reference to '_Block_copy'"


def test_what_is_missing_is_said_and_which_clang_would_do(
    tc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = complaint(tc, monkeypatch, UNDEFINED, works="clang-14")
    assert "libdispatch.so and libBlocksRuntime.so" in text
    assert text.endswith("CC=clang-14 make tsan")


def test_without_any_that_works_both_ways_out_are_named(
    tc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = complaint(tc, monkeypatch, UNDEFINED)
    assert "SWIFT_TOOLCHAIN=DIR make tsan" in text
    assert "apt-get install clang-14" in text


def test_another_reason_is_passed_on(tc: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = complaint(tc, monkeypatch, "cannot find libclang_rt.tsan-x86_64.a")
    assert "cannot find libclang_rt.tsan-x86_64.a" in text
    assert "libBlocksRuntime" not in text
