# SPDX-License-Identifier: MIT
"""Updates behind the boundary: who makes the next weights, and what became of the last ones.

An optimizer's step is run by the core (``_core_update.c``); a function runs on one Python
thread of the trainer, which gives the core what it returned. ``docs/SEMANTICS.md``, "The
update behind the boundary", says what is promised.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from . import _native
from .errors import UpdateError
from .sched_calls import Calls
from .versions import Arrays, Versions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .kernel import CKernels

__all__ = ["NativeUpdate", "PythonUpdate", "Updates"]

log = logging.getLogger("ane_native")


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
    ) -> tuple[Any, dict[str, NDArray[Any]]]: ...
    def began(self) -> None: ...
    def cancel(self) -> None: ...
    def ended(self, applied: bool, grad_norm: float, clip: float) -> Any: ...
    @property
    def baked(self) -> dict[str, NDArray[Any]]: ...
    def handed_over(self, version: int, submitted: bool) -> None: ...


#: A slower update: ``(gradients, version) -> weights``, or None to leave them as they are.
PythonUpdate = Callable[[Any, int], "Mapping[str, ArrayLike] | None"]


class Updates:
    """The updates of one trainer; one is under way at a time.

    Args:
        make: the optimizer or the function; None: the caller makes the weights himself.

    Attributes:
        make: the same.
        info: what the last update that ended did, None before the first or with a function.
        version: of the update that has not been collected, None when there is none.
        built: version of a function's last weights that were to be built; the trainer keeps
            their copies, in case the set fails. -1: none, or an optimizer makes them.
    """

    def __init__(
        self, make: NativeUpdate | PythonUpdate | None, calls: Calls, versions: Versions
    ) -> None:
        if make is not None and not hasattr(make, "begin") and not callable(make):
            raise TypeError(
                f"update: expected an optimizer or a function, got {type(make).__name__}"
            )
        self.make: Any = make
        self.native = hasattr(make, "begin")
        self.info: Any = None
        self.version: int | None = None
        self.built = -1
        self._calls, self._versions = calls, versions
        self._raised: BaseException | None = None
        self._work: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # ------------------------------ begin ------------------------------

    def begin(
        self, kernels: CKernels, gradients: Any, build: bool, state: Any, **settings: Any
    ) -> None:
        """Hand the next version's update over.

        Args:
            kernels: whose weights are built.
            gradients: of the batch.
            build: False: the version is only counted.
            state: ``AneSchedState`` after the boundary.
            settings: ``lr``, ``micro_steps``, ``loss_scale`` of an optimizer.
        """
        version = int(state.newest) + 1
        if self.native:
            self._copy_gradients(gradients)
            oldest_needed = min(int(state.oldest_needed), int(state.active))
            self._begin_native(kernels, version, build, oldest_needed, settings)
        else:
            self._begin_python(kernels, gradients, version, build)

    def _copy_gradients(self, gradients: Any) -> None:
        own = self.make.grads
        if gradients is None or gradients is own:
            return
        if not isinstance(gradients, Mapping):
            raise TypeError(f"gradients: expected a mapping, got {type(gradients).__name__}")
        if gradients.keys() != own.keys():
            raise ValueError(
                f"gradients: expected {sorted(own)}, got {sorted(str(k) for k in gradients)}"
            )
        given = {name: np.asarray(gradients[name]) for name in own}
        for name, array in own.items():
            if given[name].shape != array.shape:
                raise ValueError(
                    f"gradient {name!r}: expected shape {array.shape}, got {given[name].shape}"
                )
            if given[name].dtype.kind not in "fiub":
                raise TypeError(f"gradient {name!r}: expected numbers, got {given[name].dtype}")
        for name, array in own.items():
            np.copyto(array, given[name])

    def _begin_native(
        self,
        kernels: CKernels,
        version: int,
        build: bool,
        oldest_needed: int,
        settings: dict[str, Any],
    ) -> None:
        job, weights = self.make.begin(
            version, kernels.names, oldest_needed=oldest_needed, build=build, **settings
        )
        versions = self._versions
        try:
            made = weights
            weights, pointers = versions.remembered(made)
            if weights is not made and any(weights[n] is not made[n] for n in self.make.grads):
                kinds = {
                    str(w.dtype) for w in versions.kept[int(self._calls.state().active)].values()
                }
                raise ValueError(
                    f"the optimizer makes weights of {made[next(iter(self.make.grads))].dtype}, the "
                    f"trainer was made with {' and '.join(sorted(kinds))}: make it with `baked`"
                )
            if build:
                versions.keep(version, weights, owned=False)
            self.version = version
            self._calls.submit_update(job, pointers, build)
        except BaseException:
            if int(self._calls.state().newest) < version:
                self.version = None
                self._versions.forget(version)
                self.make.cancel()
                raise
            self.make.began()
            raise
        self.make.began()

    def _begin_python(self, kernels: CKernels, gradients: Any, version: int, build: bool) -> None:
        null = _native.core().ffi.NULL
        if self._thread is None:
            self._thread = threading.Thread(
                target=_run_functions,
                args=(weakref.ref(self), self._work),
                name="ane_native update",
                daemon=True,
            )
            self._thread.start()
        self.version = version
        try:
            self._calls.submit_update(null, null, build)
        except BaseException:
            if int(self._calls.state().newest) < version:
                self.version = None
                raise
            self._work.put((kernels, gradients, version, build))
            raise
        self._work.put((kernels, gradients, version, build))

    def run_function(self, kernels: CKernels, gradients: Any, version: int, build: bool) -> None:
        """On the update thread: call the function, give the core what came of it."""
        pointers = _native.core().ffi.NULL
        try:
            weights = self.make(gradients, version)
            if weights is not None:
                arrays, table = self._versions.given(weights)
                copies, pointers, _ = self._versions.snapshot(arrays, table, False)
                if build:
                    self._versions.keep(version, copies, owned=True)
                    self.built = version
        except BaseException as raised:  # told at the next boundary
            self._raised = raised
        self._calls.provide(version, pointers, self._raised is not None)

    def newest(self, version: int) -> Arrays | None:
        """The newest weights, when they are here to be built again as this version: after a set that
        failed and an update that changed nothing. The caller has collected."""
        if not self.native:
            return self._versions.kept.get(self.built)
        beside = getattr(self.make, "beside", None)
        return {**self.make.baked, **({} if beside is None else beside(version))}

    def given(self, version: int) -> None:
        """The caller has given newer weights himself, as this version (-1: not to be kept)."""
        if self.make is not None and not self.native:
            self.built = version

    def handed_over(self, version: int) -> None:
        """The :meth:`newest` weights are being built as this version."""
        if self.native:
            self.make.handed_over(version, True)
        else:
            self._versions.forget(self.built)  # the same arrays
            self.built = version

    # ------------------------------ end ------------------------------

    def collect(self) -> None:
        """Wait for the update under way, if there is one, and take note of its end.

        Raises:
            UpdateError: once, when the function raised.
        """
        if self.version is not None:
            self._take_note(self._calls.collect())

    def _take_note(self, out: Any) -> None:
        version, self.version = self.version, None
        assert version == int(out.version)
        if not out.applied:
            self._versions.forget(version)
        if hasattr(self.make, "ended"):
            self.info = self.make.ended(bool(out.applied), float(out.grad_norm), float(out.clip))
        raised, self._raised = self._raised, None
        if raised is not None:
            raise UpdateError(f"the update of version {version} raised {raised!r}") from raised

    def finish(self, until: float | None) -> None:
        """Before closing: the update under way ends, or is given up when time is over.

        Args:
            until: of ``time.monotonic``; None: however long it takes.
        """
        lib, null = _native.core().lib, _native.core().ffi.NULL
        while self.version is not None:
            status, out = self._calls.collect_slice()
            if status == lib.ANE_OK:
                try:
                    self._take_note(out)
                except UpdateError as lost:
                    log.warning("%s; the trainer is being closed", lost)
            elif status != lib.ANE_AGAIN:
                break
            elif until is not None and time.monotonic() >= until:
                if not self.native:  # the function may never come back
                    self._calls.provide(self.version, null, failed=True)
                break
        if self._thread is not None:
            self._work.put(None)


def _run_functions(
    updates: weakref.ref[Updates], work: queue.SimpleQueue[tuple[Any, ...] | None]
) -> None:
    """The thread of a trainer whose update is a function; ends when the trainer is closed."""
    while (item := work.get()) is not None:
        alive = updates()
        if alive is None:
            return
        alive.run_function(*item)
        del alive, item
