# SPDX-License-Identifier: MIT
"""What all tests share: the engine's name in the header, softane's settings restored.

Tests that need an engine use whatever engine this machine opens; none passes because one was
missing. Limits of compiles are lifted by default, because one test process makes thousands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

import ane_native as ane
from ane_native import soft

SETTINGS = (
    *("failpoints", "compile_limit", "loaded_limit", "timing", "timing_scale", "numerics"),
    *("conv3x3", "subnormals", "tables", "dot_limit", "slice_clamp"),
)


def pytest_report_header() -> str:
    return f"engine: {ane.Engine()!r}, gcd: {ane.Engine().info()['gcd']}"


@pytest.fixture(autouse=True, scope="session")
def _probes_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a probe measured beside other tests is not kept for the user's runs, nor read from them."""
    before = os.environ.get("ANE_NATIVE_CACHE")
    os.environ["ANE_NATIVE_CACHE"] = str(tmp_path_factory.mktemp("probes"))
    yield
    del os.environ["ANE_NATIVE_CACHE"]
    if before is not None:
        os.environ["ANE_NATIVE_CACHE"] = before


@pytest.fixture(autouse=True)
def _softane_as_it_was() -> Iterator[None]:
    if not ane.Engine().name.startswith("softane"):
        yield
        return
    soft.set("compile_limit", 0)
    yield
    for key in SETTINGS:
        soft.set(key, None)
    soft.set("compile_limit", 0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)
