# SPDX-License-Identifier: MIT
from __future__ import annotations

import llama_problem
import pytest


@pytest.fixture(scope="session")
def problem() -> llama_problem.Problem:
    return llama_problem.lively()
