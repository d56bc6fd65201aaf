# SPDX-License-Identifier: MIT
"""Blob containers: the weight files beside a MIL text, the same in both dialects.

Little endian: a storage header of 64 bytes (count, version 2), then for each blob metadata
and data, both aligned to 64. A text names a blob by the offset of its metadata
(apple/coremltools mlmodel/src/MILBlob/Blob/StorageFormat.hpp).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native.mil_ops import DTYPES, SMALL_BITS

__all__ = ["pack", "read", "write"]

SENTINEL = 0xDEADBEEF
CODES = {
    **{"fp16": 1, "fp32": 2, "uint8": 3, "int8": 4, "int16": 6, "uint16": 7, "int4": 8},
    **{"uint1": 9, "uint2": 10, "uint4": 11, "uint3": 12, "uint6": 13, "int32": 14, "uint32": 15},
}


def pack(blobs: Sequence[tuple[str, npt.NDArray[Any]]]) -> bytes:
    """A container of (dtype, array); elements of fewer than 8 bits fill bytes from below."""
    out = bytearray(struct.pack("<II", len(blobs), 2).ljust(64, b"\0"))
    for dtype, array in blobs:
        if dtype not in CODES:
            raise ValueError(f"blob: expected a dtype of {', '.join(CODES)}, got {dtype!r}")
        data, unused = _data(dtype, np.ascontiguousarray(array, DTYPES[dtype]))
        at = len(out) + 64
        out += struct.pack("<IIQQQ", SENTINEL, CODES[dtype], len(data), at, unused).ljust(64, b"\0")
        out += data
        out += b"\0" * (-len(out) % 64)
    return bytes(out)


def _data(dtype: str, array: npt.NDArray[Any]) -> tuple[bytes, int]:
    """Bytes of the elements, and how many bits of the last byte are not used."""
    bits = SMALL_BITS.get(dtype)
    if bits is None:
        return array.tobytes(), 0
    fields = array.reshape(-1).astype(np.uint8) & ((1 << bits) - 1)
    stream = ((fields[:, None] >> np.arange(bits, dtype=np.uint8)) & 1).reshape(-1)
    return np.packbits(stream, bitorder="little").tobytes(), -len(stream) % 8


def write(path: str | os.PathLike[str], blobs: Sequence[tuple[str, npt.NDArray[Any]]]) -> None:
    """Write a container; see :func:`pack`."""
    Path(path).write_bytes(pack(blobs))


def read(
    path: str | os.PathLike[str], dtype: str, count: int, offset: int = 64
) -> npt.NDArray[Any]:
    """The `count` elements of the blob whose metadata is at `offset`.

    Raises:
        ValueError: no such blob, another dtype or size, or a damaged container.
    """
    file = Path(path).read_bytes()
    where = f"{Path(path).name}: blob at {offset}"
    if dtype not in CODES:
        raise ValueError(f"{where}: no container holds {dtype}")
    if len(file) < 64 or struct.unpack_from("<I", file, 4)[0] != 2:
        raise ValueError(f"{where}: expected a container of version 2")
    if offset % 64 or not 64 <= offset <= len(file) - 64:
        raise ValueError(f"{where}: expected a multiple of 64 inside {len(file)} bytes")
    sentinel, code, size, at, unused = struct.unpack_from("<IIQQQ", file, offset)
    if sentinel != SENTINEL or code != CODES[dtype]:
        raise ValueError(f"{where}: expected {dtype}, got sentinel {sentinel:#x}, dtype {code}")
    bits = SMALL_BITS.get(dtype, 8 * np.dtype(DTYPES[dtype]).itemsize)
    if size != (count * bits + 7) // 8 or at + size > len(file) or unused > 7:
        raise ValueError(f"{where}: expected {count} elements of {bits} bits, got {size} bytes")
    raw = file[at : at + size]
    if dtype not in SMALL_BITS:
        plain: npt.NDArray[Any] = np.frombuffer(raw, DTYPES[dtype]).copy()
        return plain
    stream = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: count * bits]
    fields = stream.reshape(count, bits).astype(np.int16) @ (1 << np.arange(bits, dtype=np.int16))
    if dtype == "int4":
        fields = np.where(fields > 7, fields - 16, fields)
    made: npt.NDArray[Any] = np.asarray(fields, DTYPES[dtype])
    return made
