# SPDX-License-Identifier: MIT
"""Checkpoints that are whole or not there: directories of safetensors with a manifest.

::

    checkpoints/step-000123/
        weights.safetensors     newest fp32 masters, names as in the model
        optimizer.safetensors   moments (m.NAME, v.NAME); active.NAME: the weights the engine
                                was running on, when they are older than the newest, float16
                                or float32 as they were handed over
        state.json              step, random state, loss scale, model, ...
        manifest.json           size and SHA-256 of each file, written last

The order of a save: files into ``step-000123.partial/``, each synced; the manifest; the
directory synced; rename; the parent synced. A crash at any moment leaves the old checkpoints
and perhaps a ``.partial`` directory, which the next save removes. Any error while saving
removes what was begun and is raised; a checkpoint that exists is never written over.

Files hold no time, no host and no path: the same state gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.errors import CheckpointError

__all__ = [
    "Checkpoint",
    "find_checkpoints",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
    "verify_checkpoint",
]

log = logging.getLogger("ane_native")

Arrays = Mapping[str, npt.NDArray[np.float32]]

FORMAT = "ane_native checkpoint 1"
WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"
PARTIAL = ".partial"
KEEP = 3  # newest checkpoints kept by a save
PIECE = 1 << 22  # bytes that are read at a time where nothing is kept


@dataclass(frozen=True)
class Checkpoint:
    """What :func:`load_checkpoint` read; every byte was checked against the manifest.

    Attributes:
        path: the directory.
        weights: name -> float32 array.
        optimizer: name -> float32 or float16 array, see the head of this file; empty when not
            asked for.
        state: plain numbers, strings, lists and dicts.
    """

    path: Path
    weights: dict[str, npt.NDArray[np.float32]]
    optimizer: dict[str, npt.NDArray[Any]]
    state: dict[str, Any]


# =============================== Durable writes =================================


def _sync(fd: int) -> None:
    """Wait until the file's bytes are on the medium, not in its cache."""
    if sys.platform == "darwin":
        import fcntl

        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
        except OSError:
            pass  # not on this file system
    os.fsync(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(fd)
    finally:
        os.close(fd)


def write_file(path: Path, *parts: bytes | memoryview) -> dict[str, Any]:
    """Create `path`, which must not exist, with these bytes one behind the other, and sync it.

    Returns:
        ``bytes`` and ``sha256`` of the file.

    Raises:
        OSError: as the system says; the file may then exist in part.
    """
    size, digest = 0, hashlib.sha256()
    with open(path, "xb") as stream:
        for part in parts:
            stream.write(part)
            digest.update(part)
            size += len(part)
        stream.flush()
        _sync(stream.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds the old bytes or the new ones, never a mixture."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    try:
        write_file(partial, data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def to_json(value: Any) -> bytes:
    """Readable JSON, the same bytes for the same value."""
    return (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


# =============================== Saving =========================================


def _tensors(arrays: Arrays) -> list[bytes | memoryview]:
    """A safetensors file in parts: its head and the memory of the tensors as it lies, wide types
    first, then by name. The library would copy all of it twice."""
    dense = {}
    for name in sorted(arrays):
        half = arrays[name].dtype == np.float16
        dense[name] = np.ascontiguousarray(arrays[name], np.float16 if half else np.float32)
    entries: dict[str, Any] = {"__metadata__": {"format": FORMAT}}
    at, order = 0, sorted(dense, key=lambda name: (-dense[name].itemsize, name))
    for name in order:
        array = dense[name]
        dtype, end = f"F{8 * array.itemsize}", at + array.nbytes
        entries[name] = {"dtype": dtype, "shape": np.shape(arrays[name]), "data_offsets": [at, end]}
        at = end
    head = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    parts: list[bytes | memoryview] = [len(head).to_bytes(8, "little"), head]
    return parts + [dense[n].reshape(-1).view(np.uint8).data for n in order]


def save_checkpoint(
    folder: Path, step: int, weights: Arrays, optimizer: Arrays, state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint below `folder` and return its directory.

    Args:
        folder: made when it does not exist.
        step: part of the name. A step that exists already gets a suffix.
        weights, optimizer: see the head of this file. They must not change meanwhile.
        state: what JSON can hold.

    Raises:
        CheckpointError: it could not be written; older checkpoints are untouched.
    """
    final = folder / f"step-{step:06d}"
    attempt = 2
    while final.exists():
        final = folder / f"step-{step:06d}-{attempt}"
        attempt += 1
    partial = final.with_name(final.name + PARTIAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(f"step-*{PARTIAL}"):
            shutil.rmtree(left_over)
        partial.mkdir()
        files: dict[str, list[bytes | memoryview]] = {
            WEIGHTS: _tensors(weights),
            OPTIMIZER: _tensors(optimizer),
            STATE: [to_json({"format": FORMAT, **state})],
        }
        listed = {name: write_file(partial / name, *parts) for name, parts in files.items()}
        body = {"format": FORMAT, "files": listed}
        checksum = hashlib.sha256(to_json(body)).hexdigest()
        write_file(partial / MANIFEST, to_json({**body, "sha256": checksum}))
        _sync_directory(partial)
        os.rename(partial, final)
        _sync_directory(folder)
    except (OSError, ValueError, TypeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{final}: could not be saved: {error}") from error
    _forget_old(folder)
    return final


def _forget_old(folder: Path) -> None:
    """Keep the newest; one that cannot be removed is left for the next time."""
    for old in list_checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


# =============================== Loading ========================================


def _order(path: Path) -> tuple[int, int] | None:
    """(step, attempt) of a checkpoint's directory name, None of anything else."""
    match = re.fullmatch(r"step-(\d{6,})(?:-(\d+))?", path.name)
    return (int(match[1]), int(match[2] or 1)) if match else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint directories below `folder`, oldest first; unchecked."""
    found = [(order, p) for p in folder.glob("step-*") if (order := _order(p)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror}") from error


def _parse_json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    data = _read(path)
    manifest = _parse_json(path, data)
    checksum = manifest.pop("sha256", None)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, got {manifest.get('format')!r}")
    expected = hashlib.sha256(to_json(manifest)).hexdigest()
    if checksum != expected or data != to_json({**manifest, "sha256": expected}):
        raise CheckpointError(f"{path}: damaged: its checksum does not match")
    files = manifest.get("files")
    if not isinstance(files, dict) or not {WEIGHTS, OPTIMIZER, STATE} <= files.keys():
        raise CheckpointError(f"{path}: expected an entry for each file of the checkpoint")
    return files


def _verified(folder: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
    """The bytes of a file, which are those that were saved."""
    path = folder / name
    data = _read(path)
    _check_sum(path, len(data), hashlib.sha256(data).hexdigest(), files[name])
    return data


def _check_sum(path: Path, size: int, digest: str, expected: Mapping[str, Any]) -> None:
    """What was read is what was saved."""
    if size != expected.get("bytes"):
        raise CheckpointError(
            f"{path}: damaged: expected {expected.get('bytes')} bytes, got {size}"
        )
    if digest != expected.get("sha256"):
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one in {MANIFEST}")


def _parse(
    path: Path, data: bytes, types: tuple[type, ...] = (np.float32,)
) -> dict[str, npt.NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    for name, array in arrays.items():
        if array.dtype not in types:
            wanted = " or ".join(t.__name__ for t in types)
            raise CheckpointError(f"{path}: tensor {name!r}: expected {wanted}, got {array.dtype}")
    return dict(arrays)


def _load_one(folder: Path, optimizer: bool) -> Checkpoint:
    files = _manifest(folder)
    weights = _parse(folder / WEIGHTS, _verified(folder, WEIGHTS, files))
    moments = {}
    if optimizer:
        data = _verified(folder, OPTIMIZER, files)
        moments = _parse(folder / OPTIMIZER, data, (np.float32, np.float16))
    state = _parse_json(folder / STATE, _verified(folder, STATE, files))
    return Checkpoint(folder, weights, moments, state)


def load_checkpoint(path: str | os.PathLike[str], *, optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint and check every byte.

    Args:
        path: a ``step-...`` directory or a file in it; or a run's directory, or its
            ``checkpoints`` directory: then the newest one that is whole is taken, and a
            damaged newer one is reported as a warning of the ``ane_native`` logger.
        optimizer: False leaves the moments unread.

    Raises:
        CheckpointError: there is none, or a file is damaged; the message names it.
    """
    candidates = find_checkpoints(path)
    first: CheckpointError | None = None
    for folder in reversed(candidates):
        try:
            return _load_one(folder, optimizer)
        except CheckpointError as error:
            first = first or error
            if folder != candidates[0]:
                log.warning("checkpoint skipped: %s", error)
    assert first is not None  # there was at least one candidate
    raise first


def verify_checkpoint(folder: Path) -> None:
    """Check every byte of a checkpoint's files, a piece of them in memory at a time.

    Raises:
        CheckpointError: a file is damaged; the message names it.
    """
    for name, expected in _manifest(folder).items():
        size, digest = 0, hashlib.sha256()
        try:
            with open(folder / name, "rb") as stream:
                while piece := stream.read(PIECE):
                    digest.update(piece)
                    size += len(piece)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: could not be read: {error.strerror}"
            ) from error
        _check_sum(folder / name, size, digest.hexdigest(), expected)


def find_checkpoints(path: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint directories that `path` means, oldest first; see :func:`load_checkpoint`.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(path)
    if not os.fspath(path):
        raise CheckpointError("expected the directory of a run or a checkpoint, got ''")
    if given.is_file():
        given = given.parent  # a file of a checkpoint
        if not (given / MANIFEST).exists() and not _order(given):
            raise CheckpointError(
                f"{path}: expected the directory of a run, a checkpoint in it, or a llama2.c .bin "
                "file, got another file"
            )
    if not given.exists():
        raise CheckpointError(f"{path}: no such file or directory")
    if not given.is_dir():
        raise CheckpointError(f"{path}: expected the directory of a run or a checkpoint")
    if (given / MANIFEST).exists() or _order(given):
        return [given]
    for folder in (given, given / "checkpoints"):
        found = list_checkpoints(folder)
        if found:
            return found
    raise CheckpointError(
        f"{path}: expected a checkpoint (step-...) here or in checkpoints/, found none"
    )
