# SPDX-License-Identifier: MIT
"""The arrays of each version of the weights, alive and unwritten while the core may read them.

Three kinds of arrays: the caller's, handed over; copies in buffers of the trainer, used again
when nobody needs their version; and those offered for the version to come, of either kind.
"""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _native
from .buffers import any_in_place, written_in_place
from .kernel import as_float16, as_float32, is_dense

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Arrays", "Versions"]

_SPARE = 2  # buffers kept for later versions
_REMEMBERED = 8  # dictionaries whose tables are kept

_F32, _F16 = np.dtype(np.float32), np.dtype(np.float16)

#: name -> C-contiguous array, float32 or float16
Arrays = dict[str, "NDArray[Any]"]


def _is_half(value: object) -> bool:
    """Whether these are fp16 numbers, however they lie."""
    return isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") == _F16


def _need_kept(weights: Arrays) -> None:
    """What is handed over is not updated in place."""
    if not any_in_place():
        return
    for name, array in weights.items():
        if written_in_place(array):
            raise ValueError(
                f"weight {name!r}: these masters are updated in place, so they cannot be handed "
                "over: hand over `baked` of their optimizer"
            )


class Versions:
    """Arrays by version.

    What is done for each weight at each boundary is done by one call of C for all of them: a
    trainer has hundreds. A *table* is ``void *[]`` of a whole version, the baked weights first.

    Attributes:
        shapes: of the first version, which all others must have.
        types: of the first version; others are converted.
        kept: version -> its arrays.
        owned: versions whose arrays are copies of this object's making.
        spare: buffers for a whole version that nobody needs now, at most ``keep_spare``.
        offered: weights of version ``offer_version`` as the core was given them.
        copies: the buffers of these offers, when all of them are copies.
        left: offers that were withdrawn and are perhaps still read.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype[Any]] = {}
        self._names: tuple[str, ...] = ()
        self._layout = b""
        self._bytes: Any = None
        self._tables: dict[int, tuple[Arrays, tuple[str, ...], tuple[Any, ...], Any]] = {}
        self.kept: dict[int, Arrays] = {}
        self.owned: set[int] = set()
        self.spare: list[Arrays] = []
        self.keep_spare = _SPARE
        self.offered: Arrays = {}
        self.offer_version = -1
        self.copies: Arrays | None = None
        self.left: list[Arrays] = []

    def first(self, weights: Mapping[str, ArrayLike], exact: Container[str]) -> Arrays:
        """The first version: arrays of float16 stay what they are, but for those named in `exact`."""
        if isinstance(weights, Mapping):
            weights = dict(weights)
            self.types = {
                name: _F16 if name not in exact and _is_half(value) else _F32
                for name, value in weights.items()
            }
        made = self.checked(weights)
        self.shapes = {name: array.shape for name, array in made.items()}
        return made

    # ------------------------------ what is given ------------------------------

    def expect(self, first: Arrays, baked: Sequence[str]) -> None:
        """All versions are like the first one.

        Args:
            baked: names of the weights the core bakes, in its order.
        """
        ffi = _native.core().ffi
        self._names = (*baked, *(name for name in first if name not in set(baked)))
        ordered = [first[name] for name in self._names]
        layout = [n for w in ordered for n in (w.itemsize, w.ndim, *w.shape)]
        self._layout = np.array(layout, np.int64).tobytes()
        self._bytes = ffi.new("int64_t[]", [w.nbytes for w in ordered])
        self._read, self._pointers = _native.arrays().table, ffi.typeof("void *[]")

    def given(self, weights: Mapping[str, ArrayLike]) -> tuple[Arrays, Any]:
        """:meth:`checked` weights of a whole version, in a dictionary of our own, and their table."""
        if type(weights) is dict:
            arrays: Any = dict(weights)
            found = self._read(arrays, self._names, self._layout, np.ndarray)
            if found is not None:
                return arrays, _native.core().ffi.from_buffer(self._pointers, found)
        arrays = self.checked(weights)
        return arrays, self.table(arrays)

    def table(self, arrays: Arrays) -> Any:
        """The table of checked arrays, which must outlive its use."""
        found = self._read(arrays, self._names, self._layout, np.ndarray)
        assert found is not None
        return _native.core().ffi.from_buffer(self._pointers, found)

    def checked(self, weights: Mapping[str, ArrayLike], some: bool = False) -> Arrays:
        """All weights (or `some` of them) as arrays of names, shapes and types as before; copies
        only what must be."""
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"weights: expected a mapping of names to arrays, got {type(weights).__name__}"
            )
        if type(weights) is not dict:
            weights = dict(weights)  # asked once: it may answer differently the next time
        if self.shapes and weights.keys() != self.shapes.keys():
            missing = [] if some else sorted(self.shapes.keys() - weights.keys())
            extra = sorted(str(k) for k in weights.keys() - self.shapes.keys())
            if missing or extra:
                raise ValueError(f"weights: missing {missing}, not known {extra}")
        made, shapes, types = {}, self.shapes, self.types
        for name, value in weights.items():
            dtype = types[name]
            array: Any = value
            if not is_dense(value, dtype):
                array = (as_float32 if dtype is _F32 else as_float16)(f"weight {name!r}", value)
            if shapes and array.shape != shapes[name]:
                raise ValueError(
                    f"weight {name!r}: expected shape {shapes[name]}, got {array.shape}"
                )
            made[name] = array
        return made

    def remembered(self, weights: Mapping[str, ArrayLike]) -> tuple[Arrays, Any]:
        """:meth:`given` weights whose table is remembered while the same arrays come in the same
        dictionary again, as those of an optimizer do, which take turns."""
        known = self._tables.get(id(weights))
        if known is not None:
            mapping, names, each, table = known
            if mapping is weights and _native.arrays().unchanged(mapping, names, each):
                return mapping, table
        arrays, table = self.given(weights)
        if type(weights) is dict and all(arrays[n] is w for n, w in weights.items()):
            arrays = weights
            self._remember(arrays, table)  # else copies, made now and then again
        return arrays, table

    def _remember(self, arrays: Arrays, table: Any) -> None:
        if len(self._tables) >= _REMEMBERED:  # they hold the arrays alive
            self._tables.clear()
        self._tables[id(arrays)] = arrays, tuple(arrays), tuple(arrays.values()), table

    # ------------------------------ keeping ------------------------------

    def keep(self, version: int, arrays: Arrays, owned: bool) -> None:
        """These are read as `version` from now on."""
        self.kept[version] = arrays
        (self.owned.add if owned else self.owned.discard)(version)

    def forget(self, version: int) -> None:
        """The core has not taken this version."""
        arrays = self.kept.pop(version, None)
        self._tables.pop(id(arrays), None)
        self.owned.discard(version)

    @property
    def holds_offers(self) -> bool:
        return self.offer_version >= 0 or bool(self.left)

    def follow(self, state: Any, held: int = -1) -> None:
        """The scheduler has come to `state`: :meth:`settle_offers`, :meth:`release`."""
        if self.holds_offers or state.offered >= 0:
            self.settle_offers(state)
        self.release(state, held)

    def release(self, state: Any, held: int = -1) -> None:
        """Forget versions that neither the scheduler nor the active generation needs.

        Args:
            state: ``AneSchedState``.
            held: one that is kept all the same.
        """
        needed = (state.active, state.pending, held)
        oldest = state.oldest_needed
        for version in list(self.kept):
            if version in needed or version >= oldest:
                continue
            copies = self.kept.pop(version)  # of a set that failed, too
            if version in self.owned:
                self.owned.discard(version)
                if len(self.spare) < self.keep_spare:
                    self.spare.append(copies)
                else:
                    self._tables.pop(id(copies), None)

    def clear(self) -> None:
        """Forget everything."""
        self.offered, self.copies, self.offer_version = {}, None, -1
        for each in (self.left, self.kept, self.spare, self.owned, self._tables):
            each.clear()

    # ------------------------------ copying ------------------------------

    def snapshot(self, weights: Arrays, table: Any, handover: bool) -> tuple[Arrays, Any, int]:
        """A version nobody will write, its table, and the nanoseconds it took: the arrays
        themselves, or copies in recycled buffers.

        Args:
            weights, table: as :meth:`given` says.
        """
        if handover:
            _need_kept(weights)
            self.keep_spare = 0  # nobody copies any more
            while self.spare:
                self._tables.pop(id(self.spare.pop()), None)
            return weights, table, 0
        begin = time.monotonic_ns()
        self.keep_spare = _SPARE
        copies = self.buffers()
        known = self._tables.get(id(copies))
        if known is not None and known[0] is copies:
            to = known[-1]
        else:
            to = self.table(copies)
            self._remember(copies, to)
        _native.core().lib.ane_sched_snapshot(to, table, self._bytes, len(self._names))
        return copies, to, time.monotonic_ns() - begin

    def with_offers(self, weights: Arrays, table: Any, handover: bool) -> tuple[Arrays, Any, int]:
        """The same for a version of which some weights may have been offered: those are there
        already."""
        if not self.offered:
            return self.snapshot(weights, table, handover)
        if handover:
            made = {**weights, **self.offered}
            return self.snapshot(made, self.table(made), handover)
        begin = time.monotonic_ns()
        copies = self.copies or self.buffers()
        for name in weights.keys() - self.offered.keys():
            np.copyto(copies[name], weights[name])
        made = {**copies, **self.offered}
        return made, self.table(made), time.monotonic_ns() - begin

    def buffers(self) -> Arrays:
        """Arrays of our own for a whole version."""
        try:
            return self.spare.pop()
        except IndexError:
            return {n: np.empty(shape, self.types[n]) for n, shape in self.shapes.items()}

    # ------------------------------ offers ------------------------------

    def settle_offers(self, state: Any) -> None:
        """Bring what is held for offers in line with the core (``AneSchedState``)."""
        if int(state.offered) != self.offer_version:
            self.left.append(self.offered)
            self.offered, self.copies, self.offer_version = {}, None, -1
        if not int(state.leaving):
            self.left.clear()

    def check_offered(self, given: Mapping[str, NDArray[Any]]) -> None:
        """What is given again must be what was offered, bit for bit."""
        for name, offered in self.offered.items():
            array = given.get(name, offered)
            bits = np.uint32 if offered.dtype == _F32 else np.uint16
            if array is not offered and not np.array_equal(array.view(bits), offered.view(bits)):
                raise ValueError(
                    f"weight {name!r} differs from what was offered for this version; offer a "
                    "weight when it is final, or call withdraw() first"
                )

    def add_offers(self, checked: Arrays, version: int, handover: bool) -> Arrays:
        """Keep those that are new for `version`; they are what the core is to be given.

        The caller undoes it with :meth:`undo_offers` when the core refuses them.
        """
        fresh = {n: w for n, w in checked.items() if n not in self.offered}
        if not fresh:
            return fresh
        if handover:
            _need_kept(fresh)
        if not self.offered:
            self.copies = None if handover else self.buffers()
        if handover:
            self.copies = None  # no longer a whole version of our own
        else:
            copies = self.copies or {n: np.empty_like(w) for n, w in fresh.items()}
            for name, array in fresh.items():
                np.copyto(copies[name], array)
            fresh = {n: copies[n] for n in fresh}
        self.offered = {**self.offered, **fresh}
        self.offer_version = version
        return fresh

    def undo_offers(self, fresh: Arrays, version_before: int) -> None:
        """The core has not taken these."""
        self.offered = {n: w for n, w in self.offered.items() if n not in fresh}
        self.offer_version = version_before
