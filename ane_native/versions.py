# SPDX-License-Identifier: MIT
"""The arrays of each version of the weights, alive and unwritten while the core may read them.

Three kinds of arrays: the caller's, handed over; copies in buffers of the trainer, used again
when nobody needs their version; and those offered for the version to come, of either kind.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernel import as_float32, is_float32

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .kernel import CKernels

__all__ = ["Arrays", "Versions"]

_SPARE = 2  # buffers kept for later versions
_REMEMBERED = 8  # dictionaries whose pointers are kept


#: name -> C-contiguous float32 array
Arrays = dict[str, "NDArray[np.float32]"]


class Versions:
    """Arrays by version.

    Attributes:
        shapes: of the first version, which all others must have.
        kept: version -> its arrays.
        owned: versions whose arrays are copies of this object's making.
        spare: buffers for a whole version that nobody needs now, at most ``keep_spare``.
        offered: weights of version ``offer_version`` as the core was given them.
        copies: the buffers of these offers, when all of them are copies.
        left: offers that were withdrawn and are perhaps still read.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._prepared: dict[int, tuple[CKernels, Arrays, tuple[Any, ...], Any]] = {}
        self.kept: dict[int, Arrays] = {}
        self.owned: set[int] = set()
        self.spare: list[Arrays] = []
        self.keep_spare = _SPARE
        self.offered: Arrays = {}
        self.offer_version = -1
        self.copies: Arrays | None = None
        self.left: list[Arrays] = []

    def checked(self, weights: Mapping[str, ArrayLike], some: bool = False) -> Arrays:
        """All weights (or `some` of them) as float32 arrays, names and shapes as before; copies
        only what must be."""
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"weights: expected a mapping of names to arrays, got {type(weights).__name__}"
            )
        if self.shapes and weights.keys() != self.shapes.keys():
            missing = [] if some else sorted(self.shapes.keys() - weights.keys())
            extra = sorted(str(k) for k in weights.keys() - self.shapes.keys())
            if missing or extra:
                raise ValueError(f"weights: missing {missing}, not known {extra}")
        made, shapes = {}, self.shapes
        for name, value in weights.items():
            array: Any = value if is_float32(value) else as_float32(f"weight {name!r}", value)
            if shapes and array.shape != shapes[name]:
                raise ValueError(
                    f"weight {name!r}: expected shape {shapes[name]}, got {array.shape}"
                )
            made[name] = array
        return made

    def prepared(
        self, kernels: CKernels, weights: Mapping[str, ArrayLike], *, ours: bool = False
    ) -> tuple[Arrays, Any]:
        """:meth:`checked` weights and ``kernels.pointers`` of them.

        Both are remembered while the same arrays come in the same dictionary again, as those of
        an optimizer and our own copies do, which take turns.

        Args:
            ours: they need no check.
        """
        known = self._prepared.get(id(weights))
        if known is not None:
            of, mapping, each, pointers = known
            if of is kernels and mapping is weights and all(map(is_, each, mapping.values())):
                return mapping, pointers
        arrays: Any = weights if ours else self.checked(weights)
        pointers = kernels.pointers(arrays)
        if not ours and not all(map(is_, arrays.values(), weights.values())):
            return arrays, pointers  # copies, made now and then again
        if len(self._prepared) >= _REMEMBERED:  # they hold the arrays alive
            self._prepared.clear()
        kept: Any = weights
        self._prepared[id(weights)] = kernels, kept, tuple(arrays.values()), pointers
        return kept, pointers

    # ------------------------------ keeping ------------------------------

    def keep(self, version: int, arrays: Arrays, owned: bool) -> None:
        """These are read as `version` from now on."""
        self.kept[version] = arrays
        (self.owned.add if owned else self.owned.discard)(version)

    def forget(self, version: int) -> None:
        """The core has not taken this version."""
        arrays = self.kept.pop(version, None)
        self._prepared.pop(id(arrays), None)
        self.owned.discard(version)

    def release(self, state: Any, held: int = -1) -> None:
        """Forget versions that neither the scheduler nor the active generation needs.

        Args:
            state: ``AneSchedState``.
            held: one that is kept all the same.
        """
        needed = (int(state.active), int(state.pending), held)
        oldest = int(state.oldest_needed)
        for version in [v for v in list(self.kept) if v not in needed and v < oldest]:
            copies = self.kept.pop(version)  # of a set that failed, too
            if version in self.owned:
                self.owned.discard(version)
                if len(self.spare) < self.keep_spare:
                    self.spare.append(copies)
                else:
                    self._prepared.pop(id(copies), None)

    def clear(self) -> None:
        """Forget everything."""
        self.offered, self.copies, self.offer_version = {}, None, -1
        for each in (self.left, self.kept, self.spare, self.owned, self._prepared):
            each.clear()

    # ------------------------------ copying ------------------------------

    def snapshot(self, weights: Arrays, handover: bool) -> tuple[Arrays, int]:
        """A version nobody will write, and the nanoseconds it took: the arrays themselves, or
        copies in recycled buffers."""
        if handover:
            self.keep_spare = 0  # nobody copies any more
            self.spare.clear()
            return weights, 0
        begin = time.monotonic_ns()
        self.keep_spare = _SPARE
        copies = self.buffers()
        for name, array in weights.items():
            np.copyto(copies[name], array)
        return copies, time.monotonic_ns() - begin

    def with_offers(self, weights: Arrays, handover: bool) -> tuple[Arrays, int]:
        """The same for a version of which some weights were offered: those are there already."""
        if not self.offered or handover:
            return self.snapshot({**weights, **self.offered}, handover)
        begin = time.monotonic_ns()
        copies = self.copies or self.buffers()
        for name in weights.keys() - self.offered.keys():
            np.copyto(copies[name], weights[name])
        return {**copies, **self.offered}, time.monotonic_ns() - begin

    def buffers(self) -> Arrays:
        """Arrays of our own for a whole version."""
        try:
            return self.spare.pop()
        except IndexError:
            return {n: np.empty(shape, np.float32) for n, shape in self.shapes.items()}

    # ------------------------------ offers ------------------------------

    def settle_offers(self, state: Any) -> None:
        """Bring what is held for offers in line with the core (``AneSchedState``)."""
        if int(state.offered) != self.offer_version:
            self.left.append(self.offered)
            self.offered, self.copies, self.offer_version = {}, None, -1
        if not int(state.leaving):
            self.left.clear()

    def check_offered(self, given: Mapping[str, NDArray[np.float32]]) -> None:
        """What is given again must be what was offered, bit for bit."""
        for name, offered in self.offered.items():
            array = given.get(name, offered)
            if array is not offered and not np.array_equal(
                array.view(np.uint32), offered.view(np.uint32)
            ):
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
