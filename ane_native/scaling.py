# SPDX-License-Identifier: MIT
"""Powers of two for every bake, from the ranges of the batches before (docs/SCALING.md).

The engine's products have an absolute step of 2^-16 and end at 2^15. A baked matrix can carry
a power of two for free; :class:`Scales` chooses one for each matrix of a model at every
boundary, and remembers which generation was baked with which.

    batch k                    surfaces of its last micro-step: watch()
    boundary after batch k     choose(), then the bake takes tensors()
    batches of that version    their gradients are read through carried(version)

The choice reads nothing but what was watched up to batch k and whether update k-1 was applied,
so it is the same wherever the update runs, and a resumed run makes it again from its checkpoint.
Not here: which powers of two are right for a model; see models/llama_scales.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ane_native import cpu
from ane_native.errors import CheckpointError
from ane_native.models import llama_scales
from ane_native.models.llama import LlamaProgram
from ane_native.models.llama_scales import STREAM, Exponents, Peak

__all__ = ["Ranges", "Scales"]

Float = npt.NDArray[np.float32]

FORGET = 0.97  # what a range keeps from one batch to the next: half after 23
PEAKS_EVERY = 16  # updates between two looks at the matrices
CAUTION = 2  # exponents given up after an overflow
MOST_CAUTION = 8
CALM = 100  # batches without one until an exponent is taken back
KEPT = 8  # versions whose exponents are remembered

# =============================== Ranges =========================================


class Ranges:
    """Largest magnitudes of surfaces, forgotten slowly.

    Attributes:
        largest: KERNEL.NAME -> magnitude without what the surface carried.
    """

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}

    def add(self, name: str, peak: float, carried: int) -> bool:
        """Take note of one surface; False when it held infinity or NaN, which is not kept.

        Args:
            name: of the surface.
            peak: largest magnitude in it.
            carried: exponent of the power of two it carried.
        """
        before = self.largest.get(name, 0.0) * FORGET
        if not math.isfinite(peak):
            return False
        self.largest[name] = max(before, math.ldexp(peak, -carried))
        return True


# =============================== The run's scales ===============================


class Scales:
    """Chooses and remembers the powers of two of one run.

    Args:
        program: a scaled one.

    Attributes:
        chosen: slot -> exponent for the next bake.
        ranges: what was watched.
        caution: exponents below the usual aim, because something has overflowed.
        skips: updates skipped so far that were answered with more caution.
    """

    def __init__(self, program: LlamaProgram) -> None:
        assert program.scaled
        self.config = program.config
        self.chosen: Exponents = llama_scales.none_chosen(self.config)
        self.ranges = Ranges()
        self.caution = self._calm = self.skips = 0
        self._peaks: dict[str, Peak] = {}
        self._versions: dict[int, Exponents] = {}
        ports = [
            program.port(kernel, kind, name)
            for kernel, kind, names in _watched(self.config)
            for name in names
        ]
        self.ports = {f"{port.kernel}.{port.port[4:]}": port for port in ports}

    # ------------------------------ versions ------------------------------

    def tensors(self, version: int | None = None) -> dict[str, Float]:
        """The weights that kernels bake for :attr:`chosen`: new arrays each time.

        Args:
            version: which will be baked with them; None: :meth:`handed` follows.
        """
        if version is not None:
            self.handed(version)
        return self.tensors_of(self.chosen)

    def tensors_of(self, chosen: Mapping[str, int]) -> dict[str, Float]:
        """The same for any exponents."""
        made = {
            name: np.full(1, math.ldexp(1.0, e), np.float32)
            for name, e in llama_scales.factors(chosen).items()
        }
        for name, (channels, e) in llama_scales.undone(self.config, chosen).items():
            made[name] = np.full(channels, math.ldexp(1.0, -e), np.float32)
        return made

    def handed(self, version: int, chosen: Mapping[str, int] | None = None) -> None:
        """A version is baked with these exponents; None: with :attr:`chosen`."""
        self._versions[version] = dict(self.chosen if chosen is None else chosen)
        for old in sorted(self._versions)[:-KEPT]:
            del self._versions[old]

    def restart_versions(self) -> None:
        """A new scheduler counts from 0."""
        self._versions.clear()

    def of(self, version: int) -> Exponents:
        """Exponents that a version was baked with."""
        return self._versions[version]

    # ------------------------------ batches ------------------------------

    def watch(self, surfaces: Mapping[str, npt.NDArray[np.float16]], version: int) -> bool:
        """Take note of the surfaces after a micro-step; False when one of them overflowed.

        Args:
            surfaces: of :attr:`ports`, by their keys.
            version: that ran.
        """
        carried = llama_scales.carried(self.config, self.of(version))
        good = [
            self.ranges.add(name, cpu.half_peak(array), carried.get(name, 0))
            for name, array in surfaces.items()
        ]
        return all(good)

    def choose(self, params: Mapping[str, Float], update: int) -> None:
        """Choose for the next bake.

        Args:
            params: newest weights whose update has ended.
            update: number of the batch that has ended; the weights are looked at now and then.
        """
        if not self._peaks or update % PEAKS_EVERY == 0:
            self._peaks = {
                name: _peak(name, w, self.config.qk_norm)
                for name, w in params.items()
                if w.ndim == 2
            }
        if self.ranges.largest.keys() >= self.ports.keys():
            self.chosen = llama_scales.choose(
                self.config, self.ranges.largest, self._peaks, self.caution
            )

    def be_calm(self) -> None:
        """Nothing has overflowed in a batch."""
        self._calm += 1
        if self._calm >= CALM:
            self._calm, self.caution = 0, max(0, self.caution - 1)

    def be_careful(self) -> None:
        """Something overflowed: aim lower from the next choice on."""
        self._calm, self.caution = 0, min(MOST_CAUTION, self.caution + CAUTION)

    def summary(self, version: int) -> dict[str, int]:
        """For the record of an update: exponents of the generation that ran."""
        mine = self.of(version)
        slots = [e for slot, e in mine.items() if slot != STREAM]
        return {
            "scale_stream": mine[STREAM],
            "scale_least": min(slots),
            "scale_most": max(slots),
            "scale_caution": self.caution,
        }

    # ------------------------------ state ------------------------------

    def state_dict(self, newest: int, active: int) -> dict[str, Any]:
        """Plain numbers, fit for JSON, which keeps every bit of a float.

        Args:
            newest, active: versions that a resumed run bakes again.
        """
        return {
            "newest": self._versions.get(newest, self.chosen),
            "active": self._versions.get(active, self.chosen),
            "ranges": self.ranges.largest,
            "peaks": {n: [p.largest, p.row, p.column] for n, p in self._peaks.items()},
            "caution": self.caution,
            "calm": self._calm,
            "skips": self.skips,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> Exponents:
        """Continue where :meth:`state_dict` was taken; returns the exponents of `active`."""
        try:
            newest, active = (
                {str(slot): int(e) for slot, e in state[which].items()}
                for which in ("newest", "active")
            )
            ranges = {str(n): float(v) for n, v in state["ranges"].items()}
            peaks = {str(n): Peak(*map(float, p)) for n, p in state["peaks"].items()}
            caution, calm, skips = (int(state[k]) for k in ("caution", "calm", "skips"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"state of the scales: {error!r}") from error
        if not newest.keys() == active.keys() == self.chosen.keys():
            raise CheckpointError("state of the scales: the slots are those of another model")
        self.chosen, self.ranges.largest, self._peaks = newest, ranges, peaks
        self.caution, self._calm, self.skips = caution, calm, skips
        return active


def _watched(config: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """(kernel, "inputs" or "outputs", names) of the surfaces whose ranges are watched."""
    made: list[tuple[str, str, tuple[str, ...]]] = [("head_bwd", "outputs", ("dx", "dn"))]
    behind = (("n",), ("dqn", "dkn")) if config.qk_norm else ((), ())
    for i in range(config.layers):
        made += [
            (f"L{i}.attn_fwd", "outputs", ("q", "k", "v", "a", *behind[0])),
            (f"L{i}.ffn_fwd", "outputs", ("h1", "h3", "gate")),
            (f"L{i}.ffn_bwd", "outputs", ("dx", "dh1", "dh3", "dn")),
            (f"L{i}.attn_bwd", "outputs", ("dx", "dq", "dk", "dv", "dn", *behind[1])),
        ]
    return made


def _peak(name: str, w: Float, norms: bool) -> Peak:
    """Largest magnitude, and for the matrices whose products no surface shows their norms."""
    largest = float(max(w.max(), -w.min()))
    if not name.endswith(
        ("wo.weight", "w2.weight", *(("wq.weight", "wk.weight") if norms else ()))
    ):
        return Peak(largest)
    row = float(np.sqrt(np.einsum("ij,ij->i", w, w).max()))
    return Peak(largest, row, float(np.sqrt(np.einsum("ij,ij->j", w, w).max())))
