# SPDX-License-Identifier: MIT
"""Keep one set of compiled kernels running while the next one compiles.

The mechanism (slots, the GCD queue, counters) is in the core, ``_core_sched.c``, reached by
``sched_calls.py``; ``versions.py`` holds the weights alive while they are read, ``updates.py``
runs the optimizer behind the boundary, ``stats.py`` turns counters into :class:`BatchStats`.
What is promised is in ``docs/SEMANTICS.md``.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import threading
import time
import warnings
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from . import _native, restart
from .engine import Engine
from .errors import (
    AneError,
    BusyError,
    ClosedError,
    EngineError,
    ProgramLostError,
    StateError,
    UpdateError,
)
from .kernel import BACKGROUND_QOS, FOREGROUND_QOS, CKernels, KernelSet, Port, Surface
from .packing import LIMITS, Limits, PackingChoice, pack
from .sched_calls import Calls
from .stats import BatchStats, TraceEvent, batch_stats, trace_event
from .totals import Totals, TrainerReport, make_report
from .updates import NativeUpdate, PythonUpdate, Updates
from .versions import Arrays, Versions
from .workers import WorkerPool

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .cpu import Stages

__all__ = ["BatchStats", "DoubleBufferedTrainer", "TraceEvent"]

log = logging.getLogger("ane_native")

_FIRST_TRIES = 3  # of the first generation, where the engine loses its programs meanwhile
_EXIT_SECONDS = 5.0  # how long the interpreter's exit waits for a background compile


@final
class DoubleBufferedTrainer:
    """Two generations of a kernel set: one evaluates, the next compiles in the background.

    A *generation* is a kernel set baked from one version of the weights. The active one
    changes only in :meth:`step`, so forward and backward of a batch always see the same
    generation.

    Args:
        kernels: the :class:`KernelSet` to bake.
        weights: name -> array; version 0, compiled before the constructor returns. Every
            later version must have the same names and shapes. Arrays of float16 that no kernel
            bakes times a scale stay float16, here and in later versions (which are rounded where
            they are not); everything else is float32. Weights no kernel bakes may be among them:
            they come back in :attr:`active_weights`.
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
        packing_limits: what one program may hold and what compiling costs, for ``packing="auto"``
            or a number; those that :mod:`ane_native.strategy` took from a probe.
        background_qos, foreground_qos: the engine's quality-of-service classes for compiling
            and for evaluating. They must differ on hardware: compile, load and unload of one
            class are serial (listing of _ANEClient).
        workers: processes that compile, so that this one only loads and its budget of compiles
            is left alone: a number, ``"auto"``, 0 for none, or a :class:`WorkerPool` that the
            caller closes.
        handover: the caller will not write the arrays of ``weights`` again until
            :attr:`oldest_needed` is above 0; they are not copied then.

    Attributes:
        first_retries: how often the first generation was begun again because the engine lost its
            programs meanwhile (its daemon restarted); a warning is logged each time.

    Raises:
        CompileError, CanaryError, …: the first generation could not be built. ProgramLostError: nor
            in three tries.
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
        packing_limits: Limits = LIMITS,
        background_qos: int = BACKGROUND_QOS,
        foreground_qos: int = FOREGROUND_QOS,
        workers: int | str | WorkerPool = 0,
        handover: bool = False,
    ) -> None:
        self.workers: WorkerPool | None = None
        self._own_workers = False
        if not isinstance(kernels, KernelSet):
            raise TypeError(f"kernels: expected a KernelSet, got {type(kernels).__name__}")
        if staleness is not None and (
            isinstance(staleness, bool) or not isinstance(staleness, int) or staleness < 0
        ):
            raise ValueError(f"staleness {staleness!r}: expected 0, 1, 2, … or None")
        self.kernels = kernels
        self.staleness = staleness
        self.engine = Engine()
        self._label = self.engine.label
        self.stats: BatchStats | None = None
        self.first_retries = 0
        self._totals = Totals()
        self._names = [k.name for k in kernels.kernels]
        self._calls = Calls(self._names, self.engine.name)
        self._versions = Versions()
        self._updates = Updates(update, self._calls, self._versions)
        self._alone = _Alone(self._calls)
        self._locks = [threading.Lock() for _ in kernels.kernels]
        self._chains: dict[tuple[str, ...], Any] = {}
        self._surfaces: dict[tuple[str, str], Surface] = {}

        self._open_workers(workers)
        try:
            self._build(
                weights,
                bound=-1 if staleness is None else staleness,
                qos=(background_qos, foreground_qos),
                canary=canary,
                trace=trace,
                packing=packing,
                limits=packing_limits,
                handover=handover,
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
        limits: Limits,
        handover: bool,
    ) -> None:
        """Pack the kernels and wait for the first generation; unpack them if it fails."""
        kernels = self.kernels
        first = self._versions.first(weights, exact=kernels.scaled_names)
        missing = [n for n in kernels.weight_names if n not in first]
        if missing:
            raise ValueError(f"weights: {missing} are baked by the kernels but were not given")
        options = {"staleness": bound, "background_qos": qos[0], "foreground_qos": qos[1]}
        options |= {"canary": int(canary), "trace": int(trace), "tell_apart": 1}
        options["pool"] = self.workers.handle if self.workers is not None else 0
        self.packing = pack(kernels, {n: w.size for n, w in first.items()}, packing, limits)
        packed = len(self.packing.sources) < len(kernels)
        try:
            self._open(first, options, handover)
        except ProgramLostError:  # no fault of the packing
            raise
        except EngineError as error:
            if not packed or not (packing == "auto" or isinstance(packing, int)):
                raise
            why = f"{self.packing.why} failed: {error}"
            if self._calls.handle:
                self._close_scheduler(None)
            self.packing = dataclasses.replace(pack(kernels, {}, None), fallback=why)
            self._open(first, options, handover)
            log.warning("packing given up, every kernel is a program of its own: %s", why)

    def _open(self, first: Arrays, settings: dict[str, int], handover: bool) -> None:
        """Make the core's scheduler for this packing and build the first generation; again where
        the engine's daemon restarts amid it."""
        while True:
            try:
                return self._open_once(first, settings, handover)
            except ProgramLostError as lost:
                if self.first_retries + 1 >= _FIRST_TRIES:
                    raise
                self.first_retries += 1
                self._close_scheduler(None)
                log.warning("the engine lost programs of the first generation, once more: %s", lost)

    def _open_once(self, first: Arrays, settings: dict[str, int], handover: bool) -> None:
        self._c = CKernels(self.kernels.kernels, first, self.packing.sources)
        counts = [first[n].size for n in self._c.names]
        self._calls.open(self._c, counts, self.kernels, settings)
        _open_trainers.add(self)
        versions = self._versions
        versions.expect(first, self._c.names)
        snapshot, table, ns = versions.snapshot(first, versions.table(first), handover)
        self._submit(snapshot, table, 0, ns, owned=not handover)
        self._finish()

    # ------------------------------ weights ------------------------------

    @property
    def active_weights(self) -> Mapping[str, NDArray[Any]]:
        """What the active generation was baked from (do not write to it).

        CPU mathematics that is paired with the kernels must use these, not newer ones. They
        stay as they are until the next :meth:`step` (or :meth:`install`) begins; its copies are
        made in buffers of older versions.
        """
        while True:
            active = int(self._calls.state().active)
            if active < 0:
                raise ClosedError("the trainer is being closed")
            found = self._versions.kept.get(active)
            if found is not None:  # else another thread is in step() and has just swapped
                return MappingProxyType(found)

    @property
    def oldest_needed(self) -> int:
        """Arrays handed over for versions before this one may be written again."""
        state = self._calls.state()
        return min(int(state.oldest_needed), int(state.active))

    # ------------------------------ offers ------------------------------

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
        with self._alone:
            if self._updates.make is not None:
                raise StateError("a trainer with update= makes the next weights itself")
            versions = self._versions
            checked = versions.checked(weights, some=True)
            state = self._calls.state()
            versions.settle_offers(state)
            versions.check_offered(checked)
            before = versions.offer_version
            fresh = versions.add_offers(checked, int(state.newest) + 1, handover)
            if not fresh:
                return
            try:  # kept before the call: the job reads at once
                self._calls.offer(self._c.pointers(fresh))
            except AneError:
                versions.undo_offers(fresh, before)
                raise

    def withdraw(self) -> None:
        """Forget the offers made since the last :meth:`step`.

        Returns when the background no longer reads their arrays: what it is compiling at the
        moment is waited for (Ctrl-C works; the arrays are kept alive as long as needed).

        Raises:
            BusyError: another thread is in ``step``. ClosedError: the trainer is closed.
        """
        with self._alone:
            self._calls.withdraw()
            self._versions.settle_offers(self._calls.state())

    # ------------------------------ boundary ------------------------------

    def _submit(
        self, weights: Arrays, table: Any, version: int, snapshot_ns: int, owned: bool
    ) -> None:
        self._versions.keep(version, weights, owned)  # before the call: the job reads at once
        try:
            self._calls.submit(table, snapshot_ns)
        except BaseException:
            if int(self._calls.state().newest) < version:
                self._versions.forget(version)
            raise

    def _finish(self) -> BatchStats:
        out = self._calls.finish()
        workers = None if self.workers is None else self.workers.stats()
        told = bytes(_native.core().ffi.buffer(out)), self._label, self.packing, workers
        self.stats = stats = batch_stats(*told)
        self._totals.add_raw(*told)
        self._versions.follow(out.state, self._updates.built)
        return stats

    def install(self) -> bool:
        """Begin the end of a batch: install the pending generation, if it is ready; never wait.

        :meth:`step` does it anyway, and must follow. Calling this first frees the arrays of the
        generation that was active, so that an optimizer can make the next version in them:
        :attr:`oldest_needed` has grown then.

        Returns:
            Whether one was installed. One that failed is told by :meth:`step`.

        Raises:
            BusyError: another thread is in ``step``. ClosedError: the trainer is closed.
        """
        with self._alone:
            installed = self._calls.install()
            if installed:
                self._versions.follow(self._calls.state_here(), self._updates.built)
            return installed

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
                Arrays that are not C-contiguous and of the first version's type are copied
                all the same.

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
        with self._alone:
            versions, calls, updates = self._versions, self._calls, self._updates
            given: Arrays = {}
            if weights is not None:
                given, table = versions.given(weights)
            if versions.holds_offers:
                versions.settle_offers(calls.state_here())
                versions.check_offered(given)
            updates.collect()
            submit = calls.boundary()
            if weights is None:
                pass
            elif not submit:
                calls.submit(_native.core().ffi.NULL, 0)
            else:
                state = calls.state_here()
                versions.follow(state, updates.built)
                version = state.newest + 1
                owned = not handover and (not versions.offered or versions.copies is not None)
                given, table, ns = versions.with_offers(given, table, handover)
                self._submit(given, table, version, ns, owned)
                updates.given(version if owned else -1)
            return self._finish()

    # ------------------------------ updates ------------------------------

    @property
    def update(self) -> Any:
        """The optimizer or function that makes the next weights; None: the caller does."""
        return self._updates.make

    @property
    def update_info(self) -> Any:
        """What the last update that ended did; None before the first, and with a function."""
        return self._updates.info

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
                were taken all the same, and only the set failed: ``step(weights)`` of what the
                optimizer hands over (``baked``) builds it again.
            StateError: the trainer was made without ``update``.
        """
        self._calls.need_open()
        if self._updates.make is None:
            raise StateError("the trainer was made without update=")
        with self._alone:
            self._updates.collect()
            build = self._calls.boundary()
            state = self._calls.state_here()
            self._versions.follow(state, self._updates.built)
            self._updates.begin(
                *(self._c, gradients, build, state),
                lr=lr,
                micro_steps=micro_steps,
                loss_scale=loss_scale,
            )
            try:
                stats = self._finish()
            except StateError:
                stats = self._build_again()
            if self.staleness == 0:
                self._updates.collect()
            return stats

    def _build_again(self) -> BatchStats:
        """A set failed at the last boundary, and now the update changed nothing, so there is no set
        that could restore the bound: build the newest weights again."""
        told: UpdateError | None = None
        try:
            self._updates.collect()
        except UpdateError as error:
            told = error
        version = int(self._calls.state().newest) + 1
        weights = self._updates.newest(version)
        if weights is None:
            raise StateError(
                "nothing is compiling that could restore the bound on staleness, and the newest "
                "weights are not here: call step(weights)"
            )
        given, table = self._versions.given(weights)
        self._calls.boundary()
        try:
            self._submit(given, table, version, 0, owned=not self._updates.native)
        finally:
            if int(self._calls.state().newest) >= version:
                self._updates.handed_over(version)
        stats = self._finish()
        if told is not None:
            raise told
        return stats

    def resubmit(self, weights: Mapping[str, ArrayLike]) -> int:
        """Build these weights again after their set failed, without ending the batch.

        They are a version of their own, the newest. The next :meth:`step` or :meth:`step_update`
        installs their set first, waiting for it where the bound asks for that: with
        ``staleness=1`` always. So a run in which a set failed once goes on as if none had. Without
        it the next step builds its own weights, and the bound alone is kept.

        Args:
            weights: name -> array, as of :meth:`step`; copied.

        Returns:
            Their version.

        Raises:
            StateError: another set is compiling, within the bound; or weights of the next version
                were offered. CompileError and others: of a pending set, see :meth:`step`; the
                weights were not taken.
        """
        with self._alone:
            versions = self._versions
            given, table = versions.given(weights)
            if versions.holds_offers:
                versions.settle_offers(self._calls.state_here())
                if versions.offered:
                    raise StateError(
                        "weights of the next version were offered: call withdraw() first"
                    )
            self._updates.collect()
            if not self._calls.boundary():
                raise StateError("a set is compiling: none has failed that could be built again")
            state = self._calls.state_here()
            versions.follow(state, self._updates.built)
            version = int(state.newest) + 1
            given, table, ns = versions.snapshot(given, table, False)
            self._submit(given, table, version, ns, owned=True)
            self._updates.given(version)
            return version

    def settle(self) -> None:
        """Wait until the update under way has ended (not its compile) and take note of it.

        Raises:
            UpdateError: once, when the function raised.
        """
        self._calls.need_open()
        self._updates.collect()

    # ------------------------------ evaluation ------------------------------

    def eval(self, kernel: str, *inputs: ArrayLike) -> Any:
        """Evaluate one kernel of the active generation on ``inputs``, in declared order.

        Returns:
            A float32 array, or a tuple of them when the kernel has several outputs.

        Raises:
            ValueError: unknown kernel, number or shape of inputs.
            EngineError: the engine answered NO.
        """
        self._calls.need_open()
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
        self._calls.need_open()
        key = tuple(kernels)
        chain = self._chains.get(key)
        if chain is None:
            chain = self._chains[key] = _native.core().ffi.new(
                "int32_t[]", [self.kernels.position(k) for k in key]
            )
        self._calls.evaluate(chain, len(key))

    def run_stages(self, stages: Stages) -> None:
        """Evaluate a chain and queue the weight gradients of each stage as its kernels have run.

        Args:
            stages: an :class:`ane_native.cpu.Stages` of this trainer's :attr:`kernels`.

        All kernels run on one generation, and all of it is one native call. Call
        :func:`ane_native.cpu.grad_wait` afterwards, also when this raises.

        Raises:
            ValueError: two products that have not been waited for add to the same array.
            EngineError and others: a kernel failed; later stages were not begun.
        """
        self._calls.need_open()
        self._calls.evaluate_stages(stages.array, stages.count)

    def surface(self, kernel: str, port: str) -> Surface:
        """The surface of a port; ``.array`` is a view without a copy."""
        key = (kernel, port)
        found = self._surfaces.get(key)
        if found is None:
            self._calls.need_open()
            position = self.kernels.position(kernel)
            described = self.kernels.kernels[position]
            is_output, i = described.port(port)
            shape: Port = (described.outputs if is_output else described.inputs)[i]
            found = self._surfaces[key] = Surface(
                self._calls.surface(position, is_output, i), shape, owned=False
            )
        return found

    def micro_step(self) -> None:
        """Count a micro-step (one forward and backward pass of an accumulated batch)."""
        self._calls.need_open()
        self._calls.micro_step()

    # ------------------------------ questions ------------------------------

    @property
    def generation(self) -> int:
        """Version of the weights the active generation was baked from."""
        return int(self._calls.state().active)

    @property
    def newest(self) -> int:
        """Version of the newest weights given to :meth:`step`."""
        return int(self._calls.state().newest)

    @property
    def compiling(self) -> bool:
        """Whether a background compile is under way."""
        return int(self._calls.state().slot) == int(_native.core().lib.ANE_SLOT_COMPILING)

    def report(self) -> TrainerReport:
        """Everything the boundaries so far have measured; ``print`` shows it as a table.

        It can also be asked for after :meth:`close`.
        """
        begun = restart.state()
        return make_report(
            self._totals,
            kernels=len(self.kernels),
            packing_fallback=self.packing.fallback,
            staleness_bound=self.staleness,
            restarts=0 if begun is None else begun.count,
        )

    def drain_trace(self) -> list[TraceEvent]:
        """Take the trace events recorded since the last call (needs ``trace=N``)."""
        self._calls.need_open()
        made: list[TraceEvent] = []
        dropped = 0
        for event, lost in self._calls.events():
            dropped += lost
            made.append(trace_event(event, self._names, self._calls.programs))
        if dropped:
            log.warning("trace: %d events did not fit and were dropped", dropped)
        return made

    # ------------------------------ life ------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Wait for the background compile, unload everything. May be called twice.

        Args:
            timeout: seconds to wait at most; None waits as long as it takes (Ctrl-C works).
        """
        if self._calls.handle:
            self._close_scheduler(timeout)
        if self.workers is not None and self._own_workers:
            self._own_workers = False
            self.workers.close()

    def _close_scheduler(self, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        self._updates.finish(until)
        while not (closed := self._calls.close()):
            if until is not None and time.monotonic() >= until:
                break
        self._calls.handle = 0
        _open_trainers.discard(self)
        versions = self._versions
        if not closed:  # the job may be reading the newest
            newest = versions.kept.get(max(versions.kept, default=-1))
            left = versions.offered, list(versions.left)
            _abandoned.append((newest, left, self._updates.make))
        versions.clear()

    def __enter__(self) -> DoubleBufferedTrainer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(getattr(self, "_calls", None), "handle", 0):
            warnings.warn("a DoubleBufferedTrainer was not closed", ResourceWarning, stacklevel=2)
            try:
                self.close(timeout=_EXIT_SECONDS)
            except (AneError, AttributeError, TypeError):
                pass  # the interpreter is going down

    def __repr__(self) -> str:
        if not self._calls.handle:
            return f"<DoubleBufferedTrainer on {self.engine.label}, closed>"
        return (
            f"<DoubleBufferedTrainer on {self.engine.label}: {len(self.kernels)} kernels, "
            f"generation {self.generation} of {self.newest}, staleness {self.staleness}>"
        )


class _Alone:
    """Nobody else gives or takes weights meanwhile."""

    def __init__(self, calls: Calls) -> None:
        self._calls, self._stepping = calls, threading.Lock()

    def __enter__(self) -> None:
        self._calls.need_open()
        if not self._stepping.acquire(blocking=False):
            raise BusyError("another thread is in step() of this trainer")

    def __exit__(self, *exc: object) -> None:
        self._stepping.release()


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
