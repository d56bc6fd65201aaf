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
    folder = target.parent
    if not folder.is_dir():
        raise ConfigError(f"{what}: {text}: expected a directory {folder}, found none")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{what}: {text}: the directory {folder} takes no file")


@contextlib.contextmanager
def open_output(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A stream whose content is ``path`` once the block has ended well; else nothing changes.

    What is there and is no regular file (a terminal, a pipe) is written to directly.

    Raises:
        OSError: as the system says, with the name of the file.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
            return
        partial = target.with_name(target.name + PARTIAL)
        try:
            with partial.open("wb") as stream:
                yield stream
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.filename not in (None, str(target), str(target) + PARTIAL):
            raise  # of something else in the block
        raise OSError(error.errno, error.strerror, str(target)) from error
