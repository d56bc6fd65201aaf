# SPDX-License-Identifier: MIT
"""Models written as kernels: their MIL, their wiring, their parameters."""
