# SPDX-License-Identifier: MIT
"""Files a user asked for by name: refused before the work begins, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ane_native.errors import ConfigError

__all__ = ["check_output", "open_output"]

PARTIAL = ".partial"


def check_output(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a file that cannot be written, as far as that is known before.

    Args:
        what: name of the argument, for the message.

    Raises:
        ConfigError: empty, a directory, or in a directory that does not exist or takes no file.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise ConfigError(f"{what}: expected a file to write, got {text!r}")
    target = Path(text)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = 0
    except OSError as error:
        raise ConfigError(f"{what}: {text}: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{what}: expected a file to write, got the directory {text}")
    if mode and not stat.S_ISREG(mode):
        return  # a terminal, a pipe
    folder = Path(os.path.realpath(target)).parent if target.is_symlink() else target.parent
    if not folder.is_dir():
        raise ConfigError(f"{what}: {text}: expected a directory {folder}, found none")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{what}: {text}: the directory {folder} takes no file")


@contextlib.contextmanager
def open_output(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose content is ``path`` once the block has ended well; else nothing changes.

    What is there and is no regular file (a terminal, a pipe) is written to directly. A link stays: it is
    the file it leads to that is replaced.

    Raises:
        OSError: as the system says, with the name of the file.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
            return
        place = Path(os.path.realpath(target))
        partial = place.with_name(place.name + PARTIAL)
        try:
            with partial.open("wb") as stream:
                yield stream
            os.replace(partial, place)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.filename not in (None, str(target), os.path.realpath(target) + PARTIAL):
            raise  # of something else in the block
        raise OSError(error.errno, error.strerror, str(target)) from error
