# SPDX-License-Identifier: MIT
"""Keep one set of compiled kernels running while the next one compiles.

The mechanism (slots, the GCD queue, counters) is in the core, ``_core_sched.c``; this file
holds the weights alive while they are read, waits in slices so that Ctrl-C works, and turns
counters into :class:`BatchStats`. What is promised is in ``docs/SEMANTICS.md``.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import queue
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, final

import numpy as np

from . import _native
from .engine import Engine
from .errors import AneError, BusyError, ClosedError, EngineError, StateError, UpdateError
from .kernel import (
    BACKGROUND_QOS,
    FOREGROUND_QOS,
    CKernels,
    KernelSet,
    Port,
    Surface,
    as_float32,
)
from .packing import PackingChoice, pack
from .stats import BatchStats, TraceEvent, batch_stats
from .workers import WorkerPool

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["BatchStats", "DoubleBufferedTrainer", "TraceEvent"]

log = logging.getLogger("ane_native")

_EVENT_KINDS = {
    1: "bake", 2: "compile", 3: "load", 4: "canary", 5: "unload",
    6: "eval", 7: "wait", 8: "swap", 9: "submit", 10: "generation", 11: "update",
}  # fmt: skip
_PROGRAM_EVENTS = ("bake", "compile", "load", "unload")
_EXIT_SECONDS = 5.0  # how long the interpreter's exit waits for a background compile


class NativeUpdate(Protocol):
    """An optimizer whose step the core can run: :class:`ane_native.optim.AdamW`."""

    @property
    def grads(self) -> dict[str, NDArray[np.float32]]: ...
    def begin(
        self,
        version: int,
        weights: Sequence[str],
        *,
        oldest_needed: int,
        lr: float | None = None,
        micro_steps: int = 1,
        loss_scale: float | None = None,
        build: bool = True,
    ) -> tuple[Any, dict[str, NDArray[np.float32]]]: ...
    def began(self) -> None: ...
    def cancel(self) -> None: ...
    def ended(self, applied: bool, grad_norm: float, clip: float) -> Any: ...


#: A slower update: ``(gradients, version) -> weights``, or None to leave them as they are.
PythonUpdate = Callable[[Any, int], "Mapping[str, ArrayLike] | None"]


@final
class DoubleBufferedTrainer:
    """Two generations of a kernel set: one evaluates, the next compiles in the background.

    A *generation* is a kernel set baked from one version of the weights. The active one
    changes only in :meth:`step`, so forward and backward of a batch always see the same
    generation.

    Args:
        kernels: the :class:`KernelSet` to bake.
        weights: name -> array; version 0, compiled before the constructor returns. Every
            later version must have the same names and shapes. Weights no kernel bakes may be
            among them: they come back in :attr:`active_weights`.
        staleness: how many updates the active generation may lag. 0 waits for every compile;
            1 (default) lags by exactly one and repeats bit for bit; ``n`` lags by at most n;
            None swaps whenever a compile is ready and never waits.
        canary: evaluate every new program once, on surfaces of its own, before its generation
            may become active; unwritten or non-finite outputs refuse it.
        update: who makes the next weights in :meth:`step_update`: an :class:`ane.AdamW`, whose
            step the core runs, or any function ``(gradients, version) -> weights`` (None: leave
            them as they are), which runs on one Python thread of this trainer. None: the caller
            does, and hands weights to :meth:`step`.
        trace: number of trace events kept between two :meth:`drain_trace`; 0 keeps none.
        packing: how kernels are put into programs, see :func:`ane_native.packing.pack`:
            ``"auto"``, a number, groups of names, or None (default) for one program each.
            When the first generation fails with ``"auto"`` or a number and succeeds with one
            program for each kernel, that is kept, a warning is logged and
            ``packing.fallback`` says why.
        background_qos, foreground_qos: the engine's quality-of-service classes for compiling
            and for evaluating. They must differ on hardware: compile, load and unload of one
            class are serial (listing of _ANEClient).
        workers: processes that compile, so that this one only loads and its budget of compiles
            is left alone: a number, ``"auto"``, 0 for none, or a :class:`WorkerPool` that the
            caller closes.

    Raises:
        CompileError, CanaryError, …: the first generation could not be built.
        BudgetExhausted: this process cannot compile one whole set.
        ValueError, TypeError: weights or kernels that do not fit.

    Example:
        >>> with ane.DoubleBufferedTrainer(kernels, weights) as trainer:   # doctest: +SKIP
        ...     for batch in batches:
        ...         for x in batch:
        ...             y = trainer.eval("forward", x)
        ...         stats = trainer.step(update(weights))
    """

    def __init__(
        self,
        kernels: KernelSet,
        weights: Mapping[str, ArrayLike],
        *,
        staleness: int | None = 1,
        update: NativeUpdate | PythonUpdate | None = None,
        canary: bool = True,
        trace: int = 0,
        packing: PackingChoice = None,
        background_qos: int = BACKGROUND_QOS,
        foreground_qos: int = FOREGROUND_QOS,
        workers: int | str | WorkerPool = 0,
    ) -> None:
        self._handle = 0
        self.workers: WorkerPool | None = None
        self._own_workers = False
        if not isinstance(kernels, KernelSet):
            raise TypeError(f"kernels: expected a KernelSet, got {type(kernels).__name__}")
        if staleness is not None and (
            isinstance(staleness, bool) or not isinstance(staleness, int) or staleness < 0
        ):
            raise ValueError(f"staleness {staleness!r}: expected 0, 1, 2, … or None")
        if update is not None and not hasattr(update, "begin") and not callable(update):
            raise TypeError(
                f"update: expected an optimizer or a function, got {type(update).__name__}"
            )
        self.kernels = kernels
        self.staleness = staleness
        self.update = update
        self.update_info: Any = None
        self._updating: int | None = None  # version of the update that has not been collected
        self._update_error: BaseException | None = None
        self._update_work: queue.SimpleQueue[tuple[Any, int, bool] | None] = queue.SimpleQueue()
        self._update_thread: threading.Thread | None = None
        self.engine = Engine()
        self._label = self.engine.label
        self.stats: BatchStats | None = None
        self._names = [k.name for k in kernels.kernels]
        self._stepping = threading.Lock()
        self._locks = [threading.Lock() for _ in kernels.kernels]
        self._chains: dict[tuple[str, ...], Any] = {}
        self._surfaces: dict[tuple[str, str], Surface] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._versions: dict[int, dict[str, NDArray[np.float32]]] = {}
        self._owned: set[int] = set()  # versions whose arrays are our copies
        self._spare: list[dict[str, NDArray[np.float32]]] = []
        self._offered: dict[str, NDArray[np.float32]] = {}  # as the core was given them
        self._offer_version = -1
        self._copies: dict[str, NDArray[np.float32]] | None = None  # of offers, if all are copies
        self._left: list[dict[str, NDArray[np.float32]]] = []  # withdrawn, perhaps still read

        self._open_workers(workers)
        try:
            self._build(
                weights,
                bound=-1 if staleness is None else staleness,
                qos=(background_qos, foreground_qos),
                canary=canary,
                trace=trace,
                packing=packing,
            )
        except BaseException:
            self.close()
            raise

    def _open_workers(self, workers: int | str | WorkerPool) -> None:
        if isinstance(workers, WorkerPool):
            self.workers = workers
        elif workers != 0:
            self.workers, self._own_workers = WorkerPool(workers), True

    def _build(
        self,
        weights: Mapping[str, ArrayLike],
        *,
        bound: int,
        qos: tuple[int, int],
        canary: bool,
        trace: int,
        packing: PackingChoice,
    ) -> None:
        """Pack the kernels and wait for the first generation; unpack them if it fails."""
        kernels = self.kernels
        first = self._checked(weights)
        self._shapes = {name: w.shape for name, w in first.items()}
        missing = [n for n in kernels.weight_names if n not in first]
        if missing:
            raise ValueError(f"weights: {missing} are baked by the kernels but were not given")
        options = {"staleness": bound, "background_qos": qos[0], "foreground_qos": qos[1]}
        options |= {"canary": int(canary), "trace": int(trace), "tell_apart": 1}
        options["pool"] = self.workers.handle if self.workers is not None else 0
        self.packing = pack(kernels, {n: w.size for n, w in first.items()}, packing)
        packed = len(self.packing.sources) < len(kernels)
        try:
            self._open(first, options)
        except EngineError as error:
            if not packed or not (packing == "auto" or isinstance(packing, int)):
                raise
            why = f"{self.packing.why} failed: {error}"
            if self._handle:
                self._close_scheduler(None)
            self.packing = dataclasses.replace(pack(kernels, {}, None), fallback=why)
            self._open(first, options)
            log.warning("packing given up, every kernel is a program of its own: %s", why)

    def _open(self, first: dict[str, NDArray[np.float32]], settings: dict[str, int]) -> None:
        """Make the core's scheduler for this packing and build the first generation."""
        kernels = self.kernels
        c, error = _native.core(), _native.new_error()
        self._c = CKernels(kernels.kernels, first, self.packing.sources)
        self._programs = self._c.programs
        counts = c.ffi.new("int64_t[]", [first[n].size for n in self._c.names] or [0])
        wires = c.ffi.new("AneWire[]", kernels.wires or [(0, 0, 0, 0, 0)])
        options = c.ffi.new("AneSchedOptions *", settings)
        out = c.ffi.new("AneHandle *")
        status = c.lib.ane_sched_create(
            self._c.sources,
            self._c.n_sources,
            self._c.array,
            self._c.count,
            counts,
            len(self._c.names),
            wires,
            len(kernels.wires),
            options,
            out,
            error,
        )
        self._check(status, error)
        self._handle = int(out[0])
        _open_trainers.add(self)
        snapshot, ns = self._snapshot(first, handover=False)
        self._submit(snapshot, 0, ns)
        self._finish()

    # ------------------------------ weights ------------------------------

    def _checked(
        self, weights: Mapping[str, ArrayLike], some: bool = False
    ) -> dict[str, NDArray[np.float32]]:
        """All weights (or `some` of them) as float32 arrays, names and shapes as before; copies only what must be."""
        if not isinstance(weights, Mapping):
            raise TypeError(
                f"weights: expected a mapping of names to arrays, got {type(weights).__name__}"
            )
        if self._shapes and weights.keys() != self._shapes.keys():
            missing = [] if some else sorted(self._shapes.keys() - weights.keys())
            extra = sorted(str(k) for k in weights.keys() - self._shapes.keys())
            if missing or extra:
                raise ValueError(f"weights: missing {missing}, not known {extra}")
        made = {}
        for name, value in weights.items():
            array = as_float32(f"weight {name!r}", value)
            if self._shapes and array.shape != self._shapes[name]:
                raise ValueError(
                    f"weight {name!r}: expected shape {self._shapes[name]}, got {array.shape}"
                )
            made[name] = array
        return made

    def _snapshot(
        self, weights: dict[str, NDArray[np.float32]], handover: bool
    ) -> tuple[dict[str, NDArray[np.float32]], int]:
        """A version nobody will write: the arrays themselves, or copies in recycled buffers."""
        if handover:
            return weights, 0
        begin = time.monotonic_ns()
        copies = self._buffers()
        for name, array in weights.items():
            np.copyto(copies[name], array)
        return copies, time.monotonic_ns() - begin

    def _with_offers(
        self, weights: dict[str, NDArray[np.float32]], handover: bool
    ) -> tuple[dict[str, NDArray[np.float32]], int]:
        """The same for a version of which some weights were offered: those are there already."""
        if not self._offered or handover:
            return self._snapshot({**weights, **self._offered}, handover)
        begin = time.monotonic_ns()
        copies = self._copies or self._buffers()
        for name in weights.keys() - self._offered.keys():
            np.copyto(copies[name], weights[name])
        return {**copies, **self._offered}, time.monotonic_ns() - begin

    def _buffers(self) -> dict[str, NDArray[np.float32]]:
        """Arrays of our own for a whole version."""
        try:
            return self._spare.pop()
        except IndexError:
            return {n: np.empty(shape, np.float32) for n, shape in self._shapes.items()}

    def _release_versions(self) -> None:
        """Forget versions that neither the scheduler nor the active generation needs."""
        state = self._settle_offers()
        needed = (int(state.active), int(state.pending))
        for version in [v for v in list(self._versions) if v not in needed]:  # failed ones, too
            if version < int(state.oldest_needed):
                copies = self._versions.pop(version)
                if version in self._owned:
                    self._owned.discard(version)
                    if len(self._spare) < 2:
                        self._spare.append(copies)

    @property
    def active_weights(self) -> Mapping[str, NDArray[np.float32]]:
        """What the active generation was baked from (do not write to it).

        CPU mathematics that is paired with the kernels must use these, not newer ones. They
        stay as they are until the next :meth:`step` begins; its copies are made in buffers of
        older versions.
        """
        while True:
            active = int(self._state().active)
            if active < 0:
                raise ClosedError("the trainer is being closed")
            found = self._versions.get(active)
            if found is not None:  # else another thread is in step() and has just swapped
                return MappingProxyType(found)

    @property
    def oldest_needed(self) -> int:
        """Arrays handed over for versions before this one may be written again."""
        state = self._state()
        return min(int(state.oldest_needed), int(state.active))

    # ------------------------------ offers ------------------------------

    def _settle_offers(self) -> Any:
        """Bring what is held for offers in line with the core, and return its state."""
        state = self._state()
        if int(state.offered) != self._offer_version:
            self._left.append(self._offered)
            self._offered, self._copies, self._offer_version = {}, None, -1
        if not int(state.leaving):
            self._left.clear()
        return state

    def _check_offered(self, given: Mapping[str, NDArray[np.float32]]) -> None:
        """What is given again must be what was offered, bit for bit."""
        for name, offered in self._offered.items():
            array = given.get(name, offered)
            if array is not offered and not np.array_equal(
                array.view(np.uint32), offered.view(np.uint32)
            ):
                raise ValueError(
                    f"weight {name!r} differs from what was offered for this version; offer a "
                    "weight when it is final, or call withdraw() first"
                )

    def offer(self, weights: Mapping[str, ArrayLike], *, handover: bool = False) -> None:
        """Give some of the next version's weights before :meth:`step`, as they become final.

        Every program all of whose weights are there is baked, compiled and loaded in the
        background from now on, while this batch still runs on the active generation; ``step``
        then waits only for the rest. It must be given all weights, the offered ones
        unchanged. An offer is begun while no generation is pending: with ``staleness=0`` at
        any time between two steps, with more only where the last one has been installed.
        What fails is raised by ``step``, once, like any other failed generation.

        Args:
            weights: name -> array, any of the names; those offered before must be the same.
            handover: the caller will not write these arrays again until
                :attr:`oldest_needed` has passed the version, or :meth:`withdraw` has
                returned; then nothing is copied.

        Raises:
            ValueError: unknown name, other shape, or not what was offered before; nothing of
                this call is taken then. StateError: the trainer was made with ``update``.
            BusyError: another thread is in ``step``. ClosedError: the trainer is closed.
        """
        with self._alone():
            if self.update is not None:
                raise StateError("a trainer with update= makes the next weights itself")
            checked = self._checked(weights, some=True)
            self._settle_offers()
            self._check_offered(checked)
            fresh = {n: w for n, w in checked.items() if n not in self._offered}
            if not fresh:
                return
            if not self._offered:
                self._copies = None if handover else self._buffers()
            copies = None
            if handover:
                self._copies = None  # no longer a whole version of our own
            else:
                copies = self._copies or {n: np.empty_like(w) for n, w in fresh.items()}
                for name, array in fresh.items():
                    np.copyto(copies[name], array)
                fresh = {n: copies[n] for n in fresh}
            before = self._offered, self._offer_version
            self._offered = {**self._offered, **fresh}  # before the call: the job reads at once
            self._offer_version = int(self._state().newest) + 1
            c, error = _native.core(), _native.new_error()
            try:
                self._check(
                    c.lib.ane_sched_offer(self._handle, self._c.pointers(fresh), error), error
                )
            except AneError:
                self._offered, self._offer_version = before
                raise

    def withdraw(self) -> None:
        """Forget the offers made since the last :meth:`step`.

        Returns when the background no longer reads their arrays: what it is compiling at the
        moment is waited for (Ctrl-C works; the arrays are kept alive as long as needed).

        Raises:
            BusyError: another thread is in ``step``. ClosedError: the trainer is closed.
        """
        with self._alone():
            c, error = _native.core(), _native.new_error()
            while (
                self._check(c.lib.ane_sched_withdraw(self._handle, _native.SLICE_MS, error), error)
                == c.lib.ANE_AGAIN
            ):
                pass
            self._settle_offers()

    # ------------------------------ boundary ------------------------------

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else gives or takes weights meanwhile."""
        self._need_open()
        if not self._stepping.acquire(blocking=False):
            raise BusyError("another thread is in step() of this trainer")
        try:
            yield
        finally:
            self._stepping.release()

    def _submit(
        self,
        weights: dict[str, NDArray[np.float32]] | None,
        version: int,
        snapshot_ns: int,
        owned: bool = True,
    ) -> None:
        c, error = _native.core(), _native.new_error()
        if weights is None:
            self._check(c.lib.ane_sched_submit(self._handle, c.ffi.NULL, 0, error), error)
            return
        self._versions[version] = weights  # before the call: the job starts reading at once
        (self._owned.add if owned else self._owned.discard)(version)
        try:
            self._check(
                c.lib.ane_sched_submit(self._handle, self._c.pointers(weights), snapshot_ns, error),
                error,
            )
        except BaseException:
            if int(self._state().newest) < version:
                del self._versions[version]
                self._owned.discard(version)
            raise

    def _finish(self) -> BatchStats:
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneBatchStats *")
        while (
            self._check(c.lib.ane_sched_finish(self._handle, _native.SLICE_MS, out, error), error)
            == c.lib.ANE_AGAIN
        ):
            pass
        workers = None if self.workers is None else self.workers.stats()
        self.stats = batch_stats(out, self._label, self.packing, workers)
        self._release_versions()
        return self.stats

    def step(
        self, weights: Mapping[str, ArrayLike] | None, *, handover: bool = False
    ) -> BatchStats:
        """End the batch: install what is ready, compile these weights in the background.

        Args:
            weights: name -> array, same names and shapes as at first; the next version. None:
                the update was skipped, the newest weights stay what they are; a pending set
                is installed all the same.
            handover: the caller will not write these arrays again until
                :attr:`oldest_needed` has passed this version; then nothing is copied.
                Arrays that are not C-contiguous float32 are copied all the same.

        Returns:
            What the boundary measured.

        Raises:
            CompileError and other :class:`EngineError`: once, when the pending generation
                failed. The active one stays in use and ``weights`` were not taken: call
                ``step`` again to retry.
            BudgetExhausted: the pending set needs more compiles than this process has left.
            ValueError: names or shapes that do not fit, or a weight that is not what was
                offered; nothing is changed.
            BusyError: another thread is in ``step``. ClosedError: the trainer is closed.
        """
        self._need_open()
        if not self._stepping.acquire(blocking=False):
            raise BusyError("another thread is in step() of this trainer")
        try:
            checked = None if weights is None else self._checked(weights)
            self._settle_offers()
            self._check_offered(checked or {})
            self._collect()
            submit = self._boundary()
            if checked is None:
                pass
            elif not submit:
                self._submit(None, -1, 0)
            else:
                self._release_versions()
                version = int(self._state().newest) + 1
                owned = not handover and (not self._offered or self._copies is not None)
                snapshot, ns = self._with_offers(checked, handover)
                self._submit(snapshot, version, ns, owned=owned)
            return self._finish()
        finally:
            self._stepping.release()

    def _boundary(self) -> bool:
        """Install what is ready, waiting at the bound; whether a set may be submitted."""
        c, error = _native.core(), _native.new_error()
        while True:
            status = self._check(
                c.lib.ane_sched_boundary(self._handle, _native.SLICE_MS, error), error
            )
            if status != c.lib.ANE_AGAIN:
                return bool(status != c.lib.ANE_SKIP)

    # ------------------------------ updates ------------------------------

    def step_update(
        self,
        gradients: Any = None,
        *,
        lr: float | None = None,
        micro_steps: int = 1,
        loss_scale: float | None = None,
    ) -> BatchStats:
        """End the batch: install what is ready; the optimizer's step on these gradients, the bake
        and the compile follow in the background while the next batch runs.

        Args:
            gradients: for an :class:`ane.AdamW` name -> float32 array, the sums of the micro-steps;
                None or its ``grads``: nothing is copied. Its ``grads`` are the other set
                afterwards. For a function whatever it takes; it may read them until the next
                boundary begins.
            lr, micro_steps, loss_scale: of an :class:`ane.AdamW`, see its ``update``.

        Returns:
            What the boundary measured. :attr:`update_info` is what the update of the batch
            *before* did (with ``staleness=0``: this one).

        Raises:
            UpdateError: once, when the function raised for the batch before; the weights stayed
                what they were, and these gradients were not taken.
            CompileError and others: see :meth:`step`. When :attr:`newest` has grown the gradients
                were taken all the same, and only the set failed: ``step(weights)`` of the
                newest masters builds it again.
            StateError: the trainer was made without ``update``.
        """
        self._need_open()
        if self.update is None:
            raise StateError("the trainer was made without update=")
        if not self._stepping.acquire(blocking=False):
            raise BusyError("another thread is in step() of this trainer")
        try:
            self._collect()
            build = self._boundary()
            self._release_versions()
            version = int(self._state().newest) + 1
            if hasattr(self.update, "begin"):
                self._copy_gradients(gradients)
                self._begin_native(version, build, lr, micro_steps, loss_scale)
            else:
                self._begin_python(gradients, version, build)
            stats = self._finish()
            if self.staleness == 0:
                self._collect()
            return stats
        finally:
            self._stepping.release()

    def settle(self) -> None:
        """Wait until the update under way has ended (not its compile) and take note of it.

        Raises:
            UpdateError: once, when the function raised.
        """
        self._need_open()
        self._collect()

    def _copy_gradients(self, gradients: Any) -> None:
        own = self.update.grads  # type: ignore[union-attr]
        if gradients is None or gradients is own:
            return
        if gradients.keys() != own.keys():
            raise ValueError(
                f"gradients: expected {sorted(own)}, got {sorted(str(k) for k in gradients)}"
            )
        for name, array in own.items():
            if np.shape(gradients[name]) != array.shape:
                raise ValueError(
                    f"gradient {name!r}: expected shape {array.shape}, "
                    f"got {np.shape(gradients[name])}"
                )
        for name, array in own.items():
            np.copyto(array, gradients[name])

    def _begin_native(
        self,
        version: int,
        build: bool,
        lr: float | None,
        micro_steps: int,
        loss_scale: float | None,
    ) -> None:
        c, error = _native.core(), _native.new_error()
        optimizer: Any = self.update
        job, weights = optimizer.begin(
            version,
            self._c.names,
            oldest_needed=self.oldest_needed,
            lr=lr,
            micro_steps=micro_steps,
            loss_scale=loss_scale,
            build=build,
        )
        try:
            checked = self._checked(weights)
            if build:
                self._versions[version] = checked
                self._owned.discard(version)
            self._updating = version
            pointers = self._c.pointers(checked)
            status = c.lib.ane_sched_submit_update(self._handle, job, pointers, int(build), error)
            self._check(status, error)
        except BaseException:
            if int(self._state().newest) < version:
                self._updating = None
                self._versions.pop(version, None)
                optimizer.cancel()
                raise
            optimizer.began()
            raise
        optimizer.began()

    def _begin_python(self, gradients: Any, version: int, build: bool) -> None:
        c, error = _native.core(), _native.new_error()
        if self._update_thread is None:
            self._update_thread = threading.Thread(
                target=_run_updates,
                args=(weakref.ref(self), self._update_work),
                name="ane_native update",
                daemon=True,
            )
            self._update_thread.start()
        self._updating = version
        status = c.lib.ane_sched_submit_update(
            self._handle, c.ffi.NULL, c.ffi.NULL, int(build), error
        )
        if status < 0:
            self._updating = None
        self._check(status, error)
        self._update_work.put((gradients, version, build))

    def _run_python(self, gradients: Any, version: int, build: bool) -> None:
        """On the update thread: call the function, give the core what came of it."""
        c, error = _native.core(), _native.new_error()
        pointers = c.ffi.NULL
        try:
            weights = self.update(gradients, version)  # type: ignore[operator, misc]
            if weights is not None:
                copies, _ = self._snapshot(self._checked(weights), handover=False)
                if build:
                    self._versions[version] = copies
                    self._owned.add(version)
                pointers = self._c.pointers(copies)
        except BaseException as raised:  # told at the next boundary
            self._update_error = raised
        failed = int(self._update_error is not None)
        c.lib.ane_sched_provide(self._handle, version, pointers, failed, error)

    def _collect(self) -> None:
        """Wait for the update under way, if there is one, and take note of its end."""
        if self._updating is None:
            return
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneUpdateResult *")
        while (
            self._check(c.lib.ane_sched_collect(self._handle, _native.SLICE_MS, out, error), error)
            == c.lib.ANE_AGAIN
        ):
            pass
        self._take_note(out)

    def _take_note(self, out: Any) -> None:
        version, self._updating = self._updating, None
        assert version == int(out.version)
        if not out.applied:
            self._versions.pop(version, None)
            self._owned.discard(version)
        if hasattr(self.update, "ended"):
            optimizer: Any = self.update
            self.update_info = optimizer.ended(
                bool(out.applied), float(out.grad_norm), float(out.clip)
            )
        raised, self._update_error = self._update_error, None
        if raised is not None:
            raise UpdateError(f"the update of version {version} raised {raised!r}") from raised

    def _end_update(self, until: float | None) -> None:
        """Before closing: the update under way ends, or is given up when time is over."""
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneUpdateResult *")
        while self._updating is not None:
            status = c.lib.ane_sched_collect(self._handle, _native.SLICE_MS, out, error)
            if status == c.lib.ANE_OK:
                try:
                    self._take_note(out)
                except UpdateError as lost:
                    log.warning("%s; the trainer is being closed", lost)
            elif status != c.lib.ANE_AGAIN:
                break
            elif until is not None and time.monotonic() >= until:
                if not hasattr(self.update, "begin"):  # the function may never come back
                    c.lib.ane_sched_provide(self._handle, self._updating, c.ffi.NULL, 1, error)
                break
        if self._update_thread is not None:
            self._update_work.put(None)

    # ------------------------------ evaluation ------------------------------

    def eval(self, kernel: str, *inputs: ArrayLike) -> Any:
        """Evaluate one kernel of the active generation on ``inputs``, in declared order.

        Returns:
            A float32 array, or a tuple of them when the kernel has several outputs.

        Raises:
            ValueError: unknown kernel, number or shape of inputs.
            EngineError: the engine answered NO.
        """
        self._need_open()
        position = self.kernels.position(kernel)
        described = self.kernels.kernels[position]
        if len(inputs) != len(described.inputs):
            raise ValueError(
                f"kernel {kernel!r}: expected {len(described.inputs)} inputs, got {len(inputs)}"
            )
        with self._locks[position]:
            for port, value in zip(described.inputs, inputs, strict=True):
                self.surface(kernel, port.name).write(value)
            self.run([kernel])
            outputs = tuple(self.surface(kernel, port.name).read() for port in described.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self, kernels: Sequence[str]) -> None:
        """Evaluate kernels one after the other, on the surfaces as they are.

        All of them run on one generation. One native call: nothing is copied or converted.
        """
        self._need_open()
        key = tuple(kernels)
        c = _native.core()
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = c.ffi.new(
                "int32_t[]", [self.kernels.position(k) for k in key]
            )
        error = _native.new_error()
        self._check(c.lib.ane_sched_eval(self._handle, chain, len(key), error), error)

    def surface(self, kernel: str, port: str) -> Surface:
        """The surface of a port; ``.array`` is a view without a copy."""
        key = (kernel, port)
        found = self._surfaces.get(key)
        if found is None:
            self._need_open()
            position = self.kernels.position(kernel)
            described = self.kernels.kernels[position]
            is_output, i = described.port(port)
            c, error = _native.core(), _native.new_error()
            out = c.ffi.new("AneHandle *")
            self._check(
                c.lib.ane_sched_surface(self._handle, position, int(is_output), i, out, error),
                error,
            )
            shape: Port = (described.outputs if is_output else described.inputs)[i]
            found = self._surfaces[key] = Surface(int(out[0]), shape, owned=False)
        return found

    def micro_step(self) -> None:
        """Count a micro-step (one forward and backward pass of an accumulated batch)."""
        self._need_open()
        error = _native.new_error()
        self._check(_native.core().lib.ane_sched_micro_step(self._handle, error), error)

    # ------------------------------ questions ------------------------------

    def _state(self) -> Any:
        self._need_open()
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneSchedState *")
        self._check(c.lib.ane_sched_state(self._handle, out, error), error)
        return out

    @property
    def generation(self) -> int:
        """Version of the weights the active generation was baked from."""
        return int(self._state().active)

    @property
    def newest(self) -> int:
        """Version of the newest weights given to :meth:`step`."""
        return int(self._state().newest)

    @property
    def compiling(self) -> bool:
        """Whether a background compile is under way."""
        return int(self._state().slot) == int(_native.core().lib.ANE_SLOT_COMPILING)

    def drain_trace(self) -> list[TraceEvent]:
        """Take the trace events recorded since the last call (needs ``trace=N``)."""
        self._need_open()
        c, error = _native.core(), _native.new_error()
        size = 4096
        buffer, n, lost = (
            c.ffi.new("AneEvent[]", size),
            c.ffi.new("int32_t *"),
            c.ffi.new("int64_t *"),
        )
        made: list[TraceEvent] = []
        while True:
            self._check(c.lib.ane_sched_trace(self._handle, buffer, size, n, lost, error), error)
            for i in range(int(n[0])):
                e = buffer[i]
                kind = _EVENT_KINDS[e.kind]
                names = self._programs if kind in _PROGRAM_EVENTS else self._names
                kernel = names[e.kernel] if e.kernel >= 0 else None
                made.append(
                    TraceEvent(
                        kind,
                        kernel,
                        int(e.version),
                        int(e.begin_ns),
                        int(e.end_ns),
                        int(e.thread),
                    )
                )
            if int(lost[0]):
                log.warning("trace: %d events did not fit and were dropped", int(lost[0]))
            if int(n[0]) < size:
                return made

    # ------------------------------ life ------------------------------

    def _check(self, status: int, error: Any) -> int:
        return _native.check(status, error, self._names, self.engine.name, self._programs)

    def _need_open(self) -> None:
        if not self._handle:
            raise ClosedError("the trainer is closed")

    def close(self, timeout: float | None = None) -> None:
        """Wait for the background compile, unload everything. May be called twice.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes (Ctrl-C works).
        """
        if self._handle:
            self._close_scheduler(timeout)
        if self.workers is not None and self._own_workers:
            self._own_workers = False
            self.workers.close()

    def _close_scheduler(self, timeout: float | None) -> None:
        c, error = _native.core(), _native.new_error()
        until = None if timeout is None else time.monotonic() + timeout
        self._end_update(until)
        while True:
            status = c.lib.ane_sched_close(self._handle, _native.SLICE_MS, error)
            if status != c.lib.ANE_AGAIN or (until is not None and time.monotonic() >= until):
                break
        self._handle = 0
        _open_trainers.discard(self)
        if status == c.lib.ANE_AGAIN:  # the job may be reading the newest
            newest = self._versions.get(max(self._versions, default=-1))
            _abandoned.append((newest, self._offered, list(self._left), self.update))
        self._offered, self._copies, self._offer_version = {}, None, -1
        self._left.clear()
        self._versions.clear()
        self._spare.clear()

    def __enter__(self) -> DoubleBufferedTrainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            warnings.warn("a DoubleBufferedTrainer was not closed", ResourceWarning, stacklevel=2)
            try:
                self.close(timeout=_EXIT_SECONDS)
            except (AneError, AttributeError, TypeError):
                pass  # the interpreter is going down

    def __repr__(self) -> str:
        if not self._handle:
            return f"<DoubleBufferedTrainer on {self.engine.label}, closed>"
        return (
            f"<DoubleBufferedTrainer on {self.engine.label}: {len(self.kernels)} kernels, "
            f"generation {self.generation} of {self.newest}, staleness {self.staleness}>"
        )


def _run_updates(
    trainer: weakref.ref[DoubleBufferedTrainer],
    work: queue.SimpleQueue[tuple[Any, int, bool] | None],
) -> None:
    """The thread of a trainer whose update is a function; ends when the trainer is closed."""
    while (item := work.get()) is not None:
        alive = trainer()
        if alive is None:
            return
        alive._run_python(*item)
        del alive, item


_open_trainers: weakref.WeakSet[DoubleBufferedTrainer] = weakref.WeakSet()
_abandoned: list[object] = []  # arrays of trainers whose close timed out: never freed


@atexit.register
def _close_all() -> None:
    """Bounded: a compile that hangs must not keep the interpreter from ending."""
    for trainer in list(_open_trainers):
        try:
            trainer.close(timeout=_EXIT_SECONDS)
        except AneError:
            pass  # a forked child: its parent closes
