# SPDX-License-Identifier: MIT
"""Whole versions of the weights in one allocation each, and which of them may be written again.

The scheduler reads the arrays it was handed while it bakes, and the CPU's part of a micro-step
reads those of the active generation. A buffer is free when neither does any more. Masters that
are updated in place are never free to be read so; they are known here, so that handing them
over can be refused.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Flat", "Rotation", "Version", "any_in_place", "written_in_place"]

Arrays = dict[str, npt.NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]

LINE = 64  # bytes: every tensor starts on a cache line

_in_place: weakref.WeakValueDictionary[int, npt.NDArray[Any]] = weakref.WeakValueDictionary()


class Flat:
    """One allocation with a view per tensor, so that whole passes see one array of zeros.

    Args:
        shapes: name -> shape.
        dtype: of all tensors.

    Attributes:
        all: the tensors one behind the other, zeros between them.
        views: name -> array.
    """

    def __init__(self, shapes: Shapes, dtype: npt.DTypeLike = np.float32) -> None:
        each = np.dtype(dtype).itemsize
        line = LINE // each
        offsets = {}
        at = 0
        for name, shape in shapes.items():
            offsets[name] = at
            at += -(-math.prod(shape) // line) * line
        # numpy aligns to 16 bytes: move the start to a cache line.
        memory = np.zeros(at + line, dtype)
        skew = (-memory.ctypes.data // each) % line
        self.all: npt.NDArray[Any] = memory[skew : skew + at]
        self.views: Arrays = {
            name: self.all[offsets[name] : offsets[name] + math.prod(shape)].reshape(shape)
            for name, shape in shapes.items()
        }

    def keep_in_place(self) -> None:
        """Say that these arrays are written while others may read: see :func:`written_in_place`."""
        memory = self.all.base
        assert memory is not None
        _in_place[id(memory)] = memory


def any_in_place() -> bool:
    """Whether there is an array at all of which :func:`written_in_place` is true."""
    return bool(_in_place)


def written_in_place(array: npt.NDArray[Any]) -> bool:
    """Whether an array lies in a :class:`Flat` that is updated in place."""
    memory = array.base
    return memory is not None and _in_place.get(id(memory)) is memory


class Version(Flat):
    """One version of the weights.

    Attributes:
        version: as the scheduler counts; -1: it holds none.
        submitted: whether the scheduler was given these arrays to read.
        predicted: whether they are a prediction, not the masters of that version.
    """

    version = -1
    submitted = False
    predicted = False


class Rotation:
    """Buffers for versions, which take turns; another one is made when all are in use.

    Args:
        shapes, dtype: of the tensors.

    Attributes:
        buffers: all that were made.
    """

    def __init__(self, shapes: Shapes, dtype: npt.DTypeLike = np.float32) -> None:
        self.buffers: list[Version] = []
        self._shapes, self._dtype = shapes, dtype

    def make(self) -> Version:
        """One more."""
        self.buffers.append(Version(self._shapes, self._dtype))
        return self.buffers[-1]

    def free(self, newest: Version, oldest_needed: int) -> Version:
        """One that nobody reads: not `newest`, nor what the scheduler still bakes or runs."""
        for buffer in self.buffers:
            if buffer is newest:
                continue
            if not buffer.submitted or buffer.version < oldest_needed:
                return buffer
        return self.make()

    def forget(self) -> None:
        """No scheduler reads any of them."""
        for buffer in self.buffers:
            buffer.version, buffer.submitted = -1, False
