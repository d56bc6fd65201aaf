# SPDX-License-Identifier: MIT
"""The version of the package, read by pyproject.toml and by ane_native: the only place."""

__version__ = "0.1.0"
