# SPDX-License-Identifier: MIT
"""Benchmarks name the engine in every record; the compile limit is lifted for their length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import ane_native as ane
from ane_native import soft


def pytest_report_header() -> str:
    return f"engine: {ane.Engine()!r}"


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info["engine"] = ane.Engine().info()


@pytest.fixture(autouse=True)
def _no_limit() -> Iterator[None]:
    if ane.Engine().software:
        soft.set("compile_limit", 0)
    yield
    if ane.Engine().software:
        soft.set("timing", None)
        soft.set("compile_limit", None)
