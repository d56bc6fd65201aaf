# SPDX-License-Identifier: MIT
"""Which Neural Engine this process talks to, and what it counts.

A process opens one engine, because the engine's classes are global. The rule:
the library that ``ANE_NATIVE_ENGINE`` names (``softane``, ``apple`` or a path), else Apple's
framework on a Mac, else the packaged softane. An engine that fails is an error; there is no
fallback.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from . import _native, soft
from .errors import EngineOpenError

#: Where Apple's framework is found (it exists in the system's shared cache, not as a file);
#: source: maderix/ANE training/ane_runtime.h.
APPLE_PATH = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"
#: Compiles one process may make on Apple's engine, as reported (disputed) by maderix/ANE and
#: others. ``ANE_NATIVE_COMPILE_LIMIT`` overrides it; 0 means no limit.
APPLE_COMPILE_LIMIT = 119


@dataclass(frozen=True)
class Device:
    """An engine that could be opened here.

    Attributes:
        name: ``"apple"`` or ``"softane"``.
        path: the library.
        software: True for softane: its figures are not hardware figures.
        default: True for the one :class:`Engine` opens when nothing is named.
    """

    name: str
    path: str
    software: bool
    default: bool


def _name_of(path: str) -> str:
    if "AppleNeuralEngine.framework" in path:
        return "apple"
    stem = Path(path).name.split(".")[0]
    return stem.removeprefix("lib")


def devices() -> list[Device]:
    """Engines that can be opened on this machine, without opening any.

    Example:
        >>> import ane_native as ane
        >>> any(d.default for d in ane.devices())
        True
    """
    mac = sys.platform == "darwin"
    found = []
    if mac:
        found.append(Device("apple", APPLE_PATH, software=False, default=True))
    packaged = soft.library_path()
    if packaged.exists():
        found.append(Device("softane", str(packaged), software=True, default=not mac))
    return found


def resolve(name: str | None = None) -> str:
    """The library path for an engine name, a path, or None for the rule above.

    Raises:
        EngineOpenError: softane was asked for and is not installed.
    """
    name = name or os.environ.get("ANE_NATIVE_ENGINE") or None
    if name is None:
        name = "apple" if sys.platform == "darwin" else "softane"
    if name == "apple":
        return APPLE_PATH
    if name == "softane":
        path = soft.library_path()
        if not path.exists():
            raise EngineOpenError(
                f"softane is not installed: {path} does not exist; build the package first"
            )
        return str(path)
    if "/" not in name:
        raise EngineOpenError(
            f"engine {name!r}: expected 'softane', 'apple' or a path with a slash in it"
        )
    return name


class Engine:
    """The engine of this process; opened on first use and kept until the process ends.

    Args:
        name: ``"softane"``, ``"apple"``, a path, or None for the documented rule.

    Raises:
        EngineOpenError: it cannot be opened, lacks a class or selector, or another engine is
            open in this process already.
        ForkedError: the process is a forked child of one that had opened it.

    Example:
        >>> import ane_native as ane
        >>> engine = ane.Engine()
        >>> engine.name in ("softane", "apple")
        True
    """

    _opened: ClassVar[str | None] = None

    def __init__(self, name: str | None = None) -> None:
        path = resolve(name) if name is not None or Engine._opened is None else Engine._opened
        self.path = path
        self.name = _name_of(path)
        self.software = self.name != "apple"
        if Engine._opened != path:
            if self.name.startswith("softane"):
                soft.prepare(path)
            error = _native.new_error()
            status = _native.core().lib.ane_engine_open(path.encode(), error)
            if status == _native.core().lib.ANE_E_STATE:
                raise EngineOpenError(_native.core().ffi.string(error.text).decode())
            _native.check(status, error)
            base = soft.staging_base() if self.name.startswith("softane") else None
            if base is not None:
                own = _native.core().lib.ane_engine_own_base(os.fsencode(base), error)
                _native.check(own, error)
            Engine._opened = path
            Engine.refresh_limit()

    @classmethod
    def refresh_limit(cls) -> None:
        """Tell the core how many compiles this engine allows (after a setting changed)."""
        if cls._opened is None:
            return
        if _name_of(cls._opened).startswith("softane"):
            limit = int(soft.get("compile_limit"))
        else:
            text = os.environ.get("ANE_NATIVE_COMPILE_LIMIT", str(APPLE_COMPILE_LIMIT))
            if not text.isdigit():
                raise EngineOpenError(
                    f"ANE_NATIVE_COMPILE_LIMIT={text!r}: expected a whole number, 0 for no limit"
                )
            limit = int(text)
        error = _native.new_error()
        _native.check(_native.core().lib.ane_engine_set_compile_limit(limit, error), error)

    def info(self) -> dict[str, object]:
        """What a report needs: engine, chip, GCD in use, counters, limit.

        Returns:
            ``name``, ``path``, ``software``, ``chip``, ``gcd``, ``engine_count``, ``core_count``,
            ``compiles``, ``compile_failures``, ``loads``, ``loaded``, ``evals``, ``evals_retried``
            (cancelled by the engine, status 0x12, and tried again), ``reloads`` (programs that the
            engine had lost, loaded again), ``compile_limit`` (None: no limit); for softane also ``version``, ``profile``, ``timing``,
            ``numerics``, ``blas`` and ``isa``.
        """
        c = _native.core()
        out, error = c.ffi.new("AneEngineInfo *"), _native.new_error()
        _native.check(c.lib.ane_engine_info(out, error), error)
        made: dict[str, object] = {
            "name": self.name,
            "path": self.path,
            "software": self.software,
            "chip": c.ffi.string(out.chip).decode(),
            "gcd": c.ffi.string(out.gcd).decode(),
        }
        for key in (
            "engine_count",
            "core_count",
            "compiles",
            "compile_failures",
            "loads",
            "loaded",
            "evals",
            "evals_retried",
            "reloads",
        ):
            made[key] = int(getattr(out, key))
        made["compile_limit"] = int(out.compile_limit) or None
        if self.name.startswith("softane"):
            made["version"] = soft.version()
            for key in ("profile", "timing", "numerics", "blas", "isa"):
                made[key] = soft.get(key)
        return made

    @property
    def label(self) -> str:
        """The name as reports print it: says when it is software, and its timing."""
        if not self.software:
            return self.name
        timing = soft.get("timing") if self.name.startswith("softane") else "?"
        return f"{self.name} (SOFTWARE, timing={timing})"

    def __repr__(self) -> str:
        return f"<Engine {self.label} {self.path}>"
