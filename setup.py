# SPDX-License-Identifier: MIT
"""Builds ane-native: the extension ane_native._core and, beside it, the software engine.

What there is to say about the package stands in pyproject.toml. This file only joins
setuptools to the two builders (ane_native/_core_build.py, softane/build.py), which
compile incrementally below build/ and know nothing of setuptools.

    ANE_NATIVE_GCD=bundled|system   which Grand Central Dispatch to use
    SWIFT_TOOLCHAIN=DIR             where to look for libdispatch first
    CC, CFLAGS, LDFLAGS, V=1        the usual
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent

# First and last, so that neither hides a module of Python's own.
sys.path[:0] = [str(ROOT / "softane")]
sys.path.append(str(ROOT / "ane_native"))
import _core_build as core

import build as softane

tc = softane.tc


class BuildNative(build_ext):
    """Runs the two builders and puts what they made into the package directory."""

    def package_dir(self, in_place: bool) -> Path:
        return ROOT / "ane_native" if in_place else Path(self.build_lib) / "ane_native"

    def names(self) -> list[str]:
        return [core.module_name(), *([] if tc.MACOS else ["libsoftane.so"])]

    def run(self) -> None:
        try:
            made = [core.build()]
            if not tc.MACOS:  # softane is not built there yet: Apple's engine is used
                made.append(softane.build())
        except tc.ToolchainError as error:
            # One message for the user; a traceback would only bury it.
            print(f"\n{error}\n", file=sys.stderr, flush=True)
            raise SystemExit(1) from None
        for path in made:
            tc.install(path, self.package_dir(bool(self.inplace)) / path.name)

    def get_outputs(self) -> list[str]:
        return [str(self.package_dir(bool(self.inplace)) / n) for n in self.names()]

    def get_output_mapping(self) -> dict[str, str]:
        if not self.inplace:
            return {}
        built, source = self.package_dir(False), self.package_dir(True)
        return {str(built / n): str(source / n) for n in self.names()}


setup(
    ext_modules=[Extension(core.MODULE, sources=[], py_limited_api=core.limited_api())],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if core.limited_api() else {},
)
