# SPDX-License-Identifier: MIT
"""The compiled core, loaded on first use, and the few idioms every caller of it needs.

Importing ane_native must be quick and open nothing, so no module imports ``_core`` at its
top. Nothing here is public.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

from . import errors

SLICE_MS = 50  # longest uninterrupted wait: Ctrl-C is served within two of these

_core: Any = None
_arrays: Any = None


def core() -> Any:
    """The extension module: ``core().ffi`` and ``core().lib``.

    Raises:
        EngineOpenError: the extension was not built, or its libraries are missing.
    """
    global _core
    if _core is None:
        try:
            module = importlib.import_module("ane_native._core")
        except ImportError as error:
            raise errors.EngineOpenError(
                f"ane_native's compiled core cannot be loaded: {error}\n"
                "  build it with: pip install -e .   (Debian needs clang and libgnustep-base-dev)"
            ) from error
        _core = module
    return _core


def arrays() -> Any:
    """The module ``_core_arrays``, which is in the same file as :func:`core`."""
    global _arrays
    if _arrays is None:
        name = "ane_native._core_arrays"
        loader = importlib.machinery.ExtensionFileLoader(name, core().__file__)
        spec = importlib.util.spec_from_file_location(name, core().__file__, loader=loader)
        assert spec is not None
        _arrays = importlib.util.module_from_spec(spec)
        loader.exec_module(_arrays)
    return _arrays


def check(
    status: int,
    error: Any,
    kernels: list[str] | None = None,
    engine: str = "",
    programs: list[str] | None = None,
) -> int:
    """Return a status that is not an error, raise the exception of one that is."""
    if status < 0:
        c = core()
        raise errors.from_status(c.ffi, c.lib, error, kernels, engine, programs)
    return status


def new_error() -> Any:
    """A fresh error structure, to be passed to one call."""
    return core().ffi.new("AneError *")


def sliced(call: Callable[[], int]) -> int:
    """Run a call that may take as long as the engine takes, and stay interruptible.

    The call runs on a thread of its own; this one waits in slices. After a
    KeyboardInterrupt the call goes on in the background and its result is dropped.
    """
    done = threading.Event()
    result: list[int] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="ane-native-call", daemon=True).start()
    while not done.wait(SLICE_MS / 1000):
        pass
    if failure:
        raise failure[0]
    return result[0]
