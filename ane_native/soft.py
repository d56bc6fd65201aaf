# SPDX-License-Identifier: MIT
"""Settings and counters of softane, the software Neural Engine.

These exist only where softane runs; Apple's engine has no such door. Names, values and
defaults are listed in ``softane/include/softane.h``::

    from ane_native import soft
    soft.set("compile_limit", 0)     # lift the limit of compiles per process
    soft.set("timing", "m4")         # compile, load and evaluate take what an M4 takes
    soft.get("evals")
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import importlib.util
import os
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_library: ctypes.CDLL | None = None

#: Where staging directories go on Linux when it has room: compiling writes and deletes a
#: handful of files per program, which a disk's file system can make slower than the compile.
SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_BYTES = 256 << 20  # least free space to use it
LEFT_AFTER_S = 60.0  # a base without a lock file is being made for no longer than this


_changed: dict[str, str] = {}  # by set(), in this process


def library_path() -> Path:
    """Where the packaged softane lies (it may not exist)."""
    return Path(__file__).with_name(
        "libsoftane.dylib" if sys.platform == "darwin" else "libsoftane.so"
    )


def blas_path() -> Path | None:
    """The BLAS of the scipy-openblas32 wheel, or None when it is not installed."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    found = sorted(folder.glob("libscipy_openblas*.so")) + sorted(
        folder.glob("libscipy_openblas*.dylib")
    )
    return found[0] if found else None


def _shared_memory_has_room() -> bool:
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    writable = os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
    return writable and room.f_bavail * room.f_frsize >= SHARED_MEMORY_BYTES


#: The base this process made, its process id, and the descriptor that shows that it lives.
_base: tuple[str, int, int] | None = None
_ALIVE = ".alive"


def _in_forked_child() -> None:
    """Its parent's base is not its own: it must not keep it alive."""
    global _base
    if _base is not None and _base[2] >= 0:
        os.close(_base[2])
        _base = (*_base[:2], -1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def _is_left(path: Path) -> bool:
    """Whether nobody living owns a base.

    Its owner holds a lock on a file in it for its life; a process id says nothing where it was
    used again, or comes from another namespace.
    """
    try:
        fd = os.open(path / _ALIVE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:  # being made now, or half removed
        try:
            return time.time() - path.stat().st_mtime > LEFT_AFTER_S
        except OSError:
            return False
    except OSError:
        return False  # not ours
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _make_base(path: Path) -> int | None:
    """Make a base and lock it; None: somebody was faster."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return None
    beside = path / f"{_ALIVE}.new"  # nobody may see it before it is locked
    fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    beside.rename(path / _ALIVE)
    return fd


def _staging_directory() -> str:
    """A directory of this process in shared memory; those of dead processes are removed."""
    global _base
    prefix = f"ane_native-{os.getuid()}-"
    for old in Path(SHARED_MEMORY).glob(f"{prefix}[0-9]*"):
        if _is_left(old):
            shutil.rmtree(old, ignore_errors=True)
    owner = os.getpid()
    fd, number = None, 0
    while fd is None:  # the same process id may live in another namespace
        path = Path(SHARED_MEMORY) / f"{prefix}{owner}{f'.{number}' if number else ''}"
        fd = _make_base(path)
        number += 1
    _base = str(path), owner, fd

    def remove() -> None:
        if os.getpid() == owner:  # not in a forked child
            shutil.rmtree(path, ignore_errors=True)

    atexit.register(remove)
    return str(path)


def staging_base() -> str | None:
    """The staging directory that belongs to this process and goes with it; None: a shared one.

    Removing it whole is safe for the first kind only. In a shared one, programs are told apart
    by leases (``docs/WORKERS.md``).
    """
    if _base is None or _base[1] != os.getpid():  # a forked child owns nothing
        return None
    return _base[0] if get("staging") == _base[0] else None


def _leave_base_of_parent(library: ctypes.CDLL) -> None:
    """In a forked child whose parent had not opened the engine yet: stage elsewhere, because the
    parent removes its base when it ends."""
    global _base
    assert _base is not None
    text = ctypes.create_string_buffer(4096)
    library.softane_get(b"staging", text, len(text))
    inherited = text.value == os.fsencode(_base[0])
    _base = None
    if inherited:
        place = _staging_directory() if _shared_memory_has_room() else None
        library.softane_set(b"staging", None if place is None else os.fsencode(place))


def prepare(path: Path | str | None = None) -> ctypes.CDLL:
    """Load softane's library (once); say where BLAS is and where staging goes.

    Raises:
        EngineOpenError: the library does not exist or cannot be loaded.
    """
    global _library
    if _library is None:
        from .errors import EngineOpenError

        blas = blas_path()
        if blas is not None:
            os.environ.setdefault("SOFTANE_BLAS_HINT", str(blas))
        try:
            library = ctypes.CDLL(str(path or library_path()))
        except OSError as error:
            raise EngineOpenError(f"softane cannot be loaded: {error}") from error
        library.softane_set.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        library.softane_get.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
        library.softane_version.restype = ctypes.c_char_p
        _library = library
        if "SOFTANE_STAGING" not in os.environ and _shared_memory_has_room():
            set("staging", _staging_directory())
    elif _base is not None and _base[1] != os.getpid():
        _leave_base_of_parent(_library)
    return _library


def version() -> str:
    """softane's version."""
    return str(prepare().softane_version().decode())


def set(key: str, value: object) -> None:
    """Change one setting; ``None`` restores its default.

    Raises:
        ValueError: softane does not know the key, or does not take the value.
    """
    text = None if value is None else str(value).encode()
    if prepare().softane_set(key.encode(), text) != 0:
        raise ValueError(f"softane setting {key!r} does not exist or does not take {value!r}")
    if text is None:
        _changed.pop(key, None)
    else:
        _changed[key] = text.decode()
    if key in ("compile_limit", "profile"):
        from .engine import Engine

        Engine.refresh_limit()


def changed() -> dict[str, str]:
    """The settings that this process has changed from what its environment says."""
    return dict(_changed)


def get(key: str) -> str:
    """Read a setting or a counter as text.

    Raises:
        ValueError: softane does not know the key.
    """
    buffer = ctypes.create_string_buffer(1 << 16)
    if prepare().softane_get(key.encode(), buffer, len(buffer)) != 0:
        raise ValueError(f"softane has no setting or counter {key!r}")
    return buffer.value.decode()


@contextmanager
def using(**settings: object) -> Iterator[None]:
    """Change settings for a while: ``with soft.using(timing="m4", timing_scale=0.1): ...``"""
    before = {key: _changed.get(key) for key in settings}
    try:
        for key, value in settings.items():
            set(key, value)
        yield
    finally:
        for key, text in before.items():
            set(key, text)
