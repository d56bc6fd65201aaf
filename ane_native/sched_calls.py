# SPDX-License-Identifier: MIT
"""The core's scheduler as Python calls: a bad status is raised, a wait is cut into slices.

Nothing here decides anything; the order of the calls is the trainer's (``scheduler.py``), what
they promise stands in ``_core.cdef`` and ``docs/SEMANTICS.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import _native
from .errors import ClosedError
from .kernel import CKernels, KernelSet

__all__ = ["Calls"]

_EVENTS = 4096  # trace events taken in one call


class Calls:
    """One scheduler of the core.

    What is called at every boundary, by the one thread that is at it, uses one set of structures
    again and again; what it returns is good until the next of these calls.

    Args:
        kernels: names, by index; errors name them.
        engine: name of the engine, for errors.

    Attributes:
        handle: 0 before :meth:`open` and after :meth:`close`.
        programs: names of the programs, by index.
    """

    def __init__(self, kernels: list[str], engine: str) -> None:
        self.handle = 0
        self.programs: list[str] = []
        self._kernels, self._engine = kernels, engine
        c = _native.core()
        self._lib, self._again, self._skip = c.lib, c.lib.ANE_AGAIN, c.lib.ANE_SKIP
        self._error = _native.new_error()
        self._state, self._stats = c.ffi.new("AneSchedState *"), c.ffi.new("AneBatchStats *")

    def check(self, status: int, error: Any) -> int:
        """A status that is no error; the exception of one that is."""
        return _native.check(status, error, self._kernels, self._engine, self.programs)

    def need_open(self) -> None:
        if not self.handle:
            raise ClosedError("the trainer is closed")

    def _waited(self, call: Callable[[Any], int]) -> int:
        """Call again while the slice of a wait is over: Ctrl-C is served in between."""
        error, again = _native.new_error(), _native.core().lib.ANE_AGAIN
        while (status := self.check(call(error), error)) == again:
            pass
        return status

    # ------------------------------ life ------------------------------

    def open(
        self,
        described: CKernels,
        counts: Sequence[int],
        kernels: KernelSet,
        settings: Mapping[str, int],
    ) -> None:
        """Make the scheduler.

        Args:
            described: kernels and programs.
            counts: elements of each weight, in the order of ``described.names``.
            kernels: whose outputs are wired to whose inputs.
            settings: fields of ``AneSchedOptions``.
        """
        c, error = _native.core(), _native.new_error()
        self.programs = described.programs
        wires = kernels.wires
        out = c.ffi.new("AneHandle *")
        status = c.lib.ane_sched_create(
            described.sources,
            described.n_sources,
            described.array,
            described.count,
            c.ffi.new("int64_t[]", list(counts) or [0]),
            len(counts),
            c.ffi.new("AneWire[]", wires or [(0, 0, 0, 0, 0)]),
            len(wires),
            c.ffi.new("AneSchedOptions *", settings),
            out,
            error,
        )
        self.check(status, error)
        self.handle = int(out[0])

    def close(self) -> bool:
        """Close for one slice; whether it is done. It is not to be called after that."""
        c = _native.core()
        status = c.lib.ane_sched_close(self.handle, _native.SLICE_MS, _native.new_error())
        return bool(status != c.lib.ANE_AGAIN)

    # ------------------------------ boundary ------------------------------

    def boundary(self) -> bool:
        """Install what is ready, waiting at the bound; whether a set may be submitted."""
        call, error, status = self._lib.ane_sched_boundary, self._error, self._again
        while status == self._again:  # Ctrl-C is served in between
            status = self.check(call(self.handle, _native.SLICE_MS, error), error)
        return bool(status != self._skip)

    def install(self) -> bool:
        """Install what is ready, without waiting; whether something was."""
        c, error = _native.core(), _native.new_error()
        status = self.check(c.lib.ane_sched_install(self.handle, error), error)
        return bool(status != c.lib.ANE_SKIP)

    def submit(self, weights: Any, snapshot_ns: int) -> None:
        """Compile the next version; ``weights`` NULL: it is only counted."""
        error = self._error
        self.check(self._lib.ane_sched_submit(self.handle, weights, snapshot_ns, error), error)

    def finish(self) -> Any:
        """Wait while the bound is broken; ``AneBatchStats``."""
        call, error, status = self._lib.ane_sched_finish, self._error, self._again
        while status == self._again:
            status = self.check(call(self.handle, _native.SLICE_MS, self._stats, error), error)
        return self._stats

    def state_here(self) -> Any:
        """:meth:`state`, for the thread at the boundary."""
        self.check(self._lib.ane_sched_state(self.handle, self._state, self._error), self._error)
        return self._state

    # ------------------------------ offers ------------------------------

    def offer(self, weights: Any) -> None:
        error = _native.new_error()
        self.check(_native.core().lib.ane_sched_offer(self.handle, weights, error), error)

    def withdraw(self) -> None:
        c = _native.core()
        self._waited(lambda error: c.lib.ane_sched_withdraw(self.handle, _native.SLICE_MS, error))

    # ------------------------------ updates ------------------------------

    def submit_update(self, job: Any, weights: Any, build: bool) -> None:
        """The next version is made by this job, or, with NULL, provided by somebody."""
        error = self._error
        status = self._lib.ane_sched_submit_update(self.handle, job, weights, build, error)
        self.check(status, error)

    def provide(self, version: int, weights: Any, failed: bool) -> None:
        """The weights of an update without a job. Any thread; nobody to tell when it is too late."""
        _native.core().lib.ane_sched_provide(
            self.handle, version, weights, int(failed), _native.new_error()
        )

    def collect(self) -> Any:
        """Wait for the update under way; ``AneUpdateResult``."""
        call, error, status = self._lib.ane_sched_collect, _native.new_error(), self._again
        out = _native.core().ffi.new("AneUpdateResult *")
        while status == self._again:
            status = self.check(call(self.handle, _native.SLICE_MS, out, error), error)
        return out

    def collect_slice(self) -> tuple[int, Any]:
        """The same for one slice, whatever comes: (status, result)."""
        c = _native.core()
        out = c.ffi.new("AneUpdateResult *")
        status = c.lib.ane_sched_collect(self.handle, _native.SLICE_MS, out, _native.new_error())
        return int(status), out

    # ------------------------------ evaluation, questions ------------------------------

    def evaluate(self, chain: Any, count: int) -> None:
        error = _native.new_error()
        self.check(_native.core().lib.ane_sched_eval(self.handle, chain, count, error), error)

    def evaluate_stages(self, stages: Any, count: int) -> None:
        """``AneStage[]``; gradients may be queued when it raises."""
        error = _native.new_error()
        lib = _native.core().lib
        self.check(lib.ane_sched_eval_stages(self.handle, stages, count, error), error)

    def micro_step(self) -> None:
        error = _native.new_error()
        self.check(_native.core().lib.ane_sched_micro_step(self.handle, error), error)

    def surface(self, kernel: int, is_output: bool, port: int) -> int:
        """Handle of a port's surface."""
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneHandle *")
        self.check(
            c.lib.ane_sched_surface(self.handle, kernel, int(is_output), port, out, error), error
        )
        return int(out[0])

    def state(self) -> Any:
        """``AneSchedState``. Raises :class:`ClosedError`."""
        self.need_open()
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneSchedState *")
        self.check(c.lib.ane_sched_state(self.handle, out, error), error)
        return out

    def events(self) -> Iterator[tuple[Any, int]]:
        """``AneEvent`` after ``AneEvent``, each with the number that was lost before the read; the
        structure is used again."""
        c, error = _native.core(), _native.new_error()
        buffer = c.ffi.new("AneEvent[]", _EVENTS)
        n, lost = c.ffi.new("int32_t *"), c.ffi.new("int64_t *")
        while True:
            self.check(c.lib.ane_sched_trace(self.handle, buffer, _EVENTS, n, lost, error), error)
            for i in range(int(n[0])):
                yield buffer[i], 0 if i else int(lost[0])
            if int(n[0]) < _EVENTS:
                return
