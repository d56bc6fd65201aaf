# SPDX-License-Identifier: MIT
"""The exception tree, and the one place where a status of the core becomes an exception.

Everything the package raises on its own account is an :class:`AneError`. A caller's mistake
(a wrong shape, an unknown name) is a ``ValueError`` or ``TypeError``, as in numpy.
"""

from __future__ import annotations

import re
from typing import Any


class AneError(Exception):
    """Base of all errors of this package; never raised itself."""


class EngineOpenError(AneError):
    """No engine could be opened, or it lacks a class or selector. Never a reason to fall back."""


class EngineError(AneError):
    """The engine answered NO.

    Attributes:
        engine: name of the engine, e.g. ``"softane"``.
        step: what was asked: ``"compile"``, ``"load"``, ``"evaluate"``, ``"unload"``.
        kernel: name of the kernel, or None when it is not known.
        domain, code, text: the engine's own NSError; ``domain`` is empty when it gave none.
        detail: the precise reason, where the engine gives one (softane does), else empty.
        identity: the program's identity (hash of text and weights).
        qos: quality-of-service class of the call.
        ms: how long the failing call took, in milliseconds.
    """

    engine: str = ""
    step: str = ""
    kernel: str | None = None
    domain: str = ""
    code: int = 0
    text: str = ""
    detail: str = ""
    identity: str = ""
    qos: int = 0
    ms: float = 0.0


class SilentEngineError(EngineError):
    """The engine answered NO without an NSError: not loaded, a bad request, or refused at once."""


class CompileError(EngineError):
    """The engine's compiler refused a program.

    Attributes:
        op: the MIL operation at fault, or None.
        line, column: place in the MIL text (1-based), or None where the engine does not say.
            Apple's engine never does; softane does.
    """

    op: str | None = None
    line: int | None = None
    column: int | None = None


class CancelledError(EngineError):
    """The engine cancelled an evaluation (status 0x12), and its repetition as well.

    Reported from macOS 27, where an evaluation meets an engine that powers down. Weights, programs
    and inputs are as before: the evaluation can be asked for again. Outputs are not to be read. An
    evaluation with a surface that is input and output at once is not repeated: that surface may hold
    a part of the results.
    """


class ProgramLostError(EngineError):
    """The engine no longer has the program (code 23 of an evaluation), neither loaded nor in its cache:
    its daemon restarted. Also of a load, when the program had just been compiled and is gone.

    Programs that its cache still has are loaded again without a word (counted in
    ``stats.programs_reloaded``). Weights are not lost: a trainer's next :meth:`step` builds a whole new
    set, after which evaluations work again, at the latest when the sets from before are out of use
    (``staleness`` further steps). A single :class:`Program` is to be made anew.
    """


class BindError(EngineError):
    """Symbols or layout of a loaded program differ from the declared ports."""


class CanaryError(EngineError):
    """The first evaluation of a new program left an output unwritten or not finite."""


class StagingError(EngineError):
    """The files a compile reads could not be written."""


class BudgetExhausted(AneError):
    """This process may not compile another whole kernel set.

    The engine is reported to allow about 119 compiles per process (maderix/ANE README;
    disputed). softane reproduces the limit; there it is a setting:
    ``ane_native.soft.set("compile_limit", 0)`` or ``SOFTANE_COMPILE_LIMIT=0`` lifts it.
    """


class WorkerError(BudgetExhausted):
    """No compile worker could make a program, and this process may not compile it either.

    Attributes:
        how: what happened to the last process: ``"spawn"`` (the system did not start it),
            ``"exit"``, ``"signal"``, ``"hang"``, ``"answer"`` (one that cannot be right),
            ``"engine"`` (it could not open the engine), ``"worker"`` (not known).
        code: errno of the spawn, exit status, or number of the signal; 0 where there is none.
    """

    how: str = ""
    code: int = 0


class PartitionError(AneError, ValueError):
    """A graph cannot be cut into kernels that keep the limits; the message says where and why."""


class LimitError(PartitionError):
    """One operation, or one port, alone exceeds a limit.

    Attributes:
        limit: name of the limit. most: what it allows. got: what was found.
        op: the operation, or ``"input"`` or ``"output"``.
        value: name of its result, or of the port.
    """

    def __init__(
        self, limit: str, most: float, got: float, *, op: str, value: str, what: str = ""
    ) -> None:
        self.limit, self.most, self.got, self.op, self.value = limit, most, got, op, value
        said = f" ({what})" if what else ""
        super().__init__(f"{op} {value!r}: {limit}{said}: expected at most {most:g}, got {got:g}")


class ClosedError(AneError):
    """The object was closed."""


class StaleError(ClosedError):
    """A handle of a generation that is gone."""


class BusyError(AneError):
    """Another thread is inside a call that must be alone."""


class ForkedError(AneError):
    """The engine, or a handle, was inherited through ``fork()``. Start children by spawn."""


class StateError(AneError):
    """Calls in an order that cannot work."""


class UpdateError(AneError):
    """An update that ran in the background raised; ``__cause__`` is what it raised."""


class CheckpointError(AneError):
    """A checkpoint is damaged or does not fit; names the file and the tensor."""


class DataError(AneError, ValueError):
    """Training data that cannot be used; names the file, what was expected and what came."""


class ConfigError(AneError, ValueError):
    """Settings that cannot work together; names the setting, what was expected and what came."""


# Detail of softane: "12:34: E_SHAPE: conv: operand 'x': ..."
_PLACE = re.compile(r"^(\d+):(\d+): (E_[A-Z]+)(?:: ([a-z_0-9]+))?")


def from_status(
    ffi: Any,
    lib: Any,
    error: Any,
    kernels: list[str] | None = None,
    engine: str = "",
    programs: list[str] | None = None,
) -> Exception:
    """The exception for a filled ``AneError`` structure.

    Args:
        ffi, lib: the cffi module.
        error: pointer to the structure.
        kernels: names by kernel index, where the call knew them.
        engine: name of the engine, for the message.
        programs: names by program index, for what concerns all kernels of one.
    """

    def text_of(field: Any) -> str:
        return str(ffi.string(field).decode("utf-8", "replace"))

    status = int(error.status)
    text = text_of(error.text)
    index = int(error.kernel)
    kernel = kernels[index] if kernels is not None and 0 <= index < len(kernels) else None
    where = f"kernel '{kernel}': " if kernel else ""
    program = int(error.program)
    if kernel is None and programs is not None and 0 <= program < len(programs):
        where = f"program '{programs[program]}': "

    plain: dict[int, type[Exception]] = {
        lib.ANE_E_ARG: ValueError,
        lib.ANE_E_MEMORY: MemoryError,
        lib.ANE_E_OPEN: EngineOpenError,
        lib.ANE_E_BUDGET: BudgetExhausted,
        lib.ANE_E_CLOSED: ClosedError,
        lib.ANE_E_FORKED: ForkedError,
        lib.ANE_E_BUSY: BusyError,
        lib.ANE_E_STATE: StateError,
    }
    if status in plain:
        return plain[status](where + text)

    if status == lib.ANE_E_WORKER:
        failed = WorkerError(where + text)
        failed.how, failed.code = text_of(error.domain), int(error.code)
        return failed

    typed: dict[int, type[EngineError]] = {
        lib.ANE_E_SILENT: SilentEngineError,
        lib.ANE_E_COMPILE: CompileError,
        lib.ANE_E_BIND: BindError,
        lib.ANE_E_CANCELLED: CancelledError,
        lib.ANE_E_LOST: ProgramLostError,
        lib.ANE_E_CANARY: CanaryError,
        lib.ANE_E_IO: StagingError,
    }
    cls = typed.get(status, EngineError)
    domain, detail, step = text_of(error.domain), text_of(error.detail), text_of(error.step)
    message = f"{engine + ': ' if engine else ''}{where}{text}"
    if domain:
        message += f" ({domain} code {int(error.code)})"
    if detail:
        message += f"\n  {detail}"
    made = cls(message)
    made.engine, made.step, made.kernel = engine, step, kernel
    made.domain, made.code, made.text, made.detail = domain, int(error.code), text, detail
    made.identity, made.qos, made.ms = text_of(error.identity), int(error.qos), float(error.ms)
    if isinstance(made, CompileError):
        place = _PLACE.match(detail)
        if place:
            made.line, made.column = int(place[1]) or None, int(place[2]) or None
            made.op = place[4]
    return made
