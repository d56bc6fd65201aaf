# SPDX-License-Identifier: MIT
"""Kernels, kernel sets, surfaces and single programs: objects over the core's handles.

A :class:`Kernel` is a description (MIL text, ports, weight files) and needs no engine. A
:class:`Program` is one kernel compiled and loaded. Sets of kernels that follow a training run
are the business of :mod:`ane_native.scheduler`.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

import numpy as np

from . import _native
from .engine import Engine
from .errors import AneError, ClosedError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

WEIGHTS_PREFIX = "@model_path/weights/"
FOREGROUND_QOS = 21  # the engine's default class (listing of _ANEQoSMapper)
BACKGROUND_QOS = 17  # utility


@dataclass(frozen=True)
class Weight:
    """How a weight file is baked from a named weight.

    Attributes:
        name: key in the weights mapping.
        transpose: bake the transpose of the weight seen as [shape[0], rest].
        scale: name of a weight of one element, a power of two, which multiplies all of them
            before they are rounded to fp16; None: none does.
    """

    name: str
    transpose: bool = False
    scale: str | None = None


@dataclass(frozen=True)
class Port:
    """An input or output: identifier in the MIL text, shape, dtype (``float16`` or ``float32``).

    ``adjoint``: an input that the kernel is linear in, because it is the gradient of something.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float16"
    adjoint: bool = False


def _ports(
    kernel: str, what: str, given: Mapping[str, Any], adjoints: Collection[str] = ()
) -> tuple[Port, ...]:
    """Check a mapping name -> shape (or (shape, dtype)) and make ports of it."""
    if not given:
        raise ValueError(f"kernel {kernel!r}: no {what}s; expected at least one")
    made = []
    for name, value in given.items():
        shape, dtype = value, "float16"
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
            shape, dtype = value
        shape = tuple(int(n) for n in shape)
        if not 1 <= len(shape) <= 4 or any(n < 1 for n in shape):
            raise ValueError(
                f"kernel {kernel!r}, {what} {name!r}: shape {shape}, expected 1 to 4 axes of at least 1"
            )
        if dtype not in ("float16", "float32"):
            raise ValueError(
                f"kernel {kernel!r}, {what} {name!r}: dtype {dtype!r}, expected float16 or float32"
            )
        made.append(Port(name, shape, dtype, name in adjoints))
    return tuple(made)


class Kernel:
    """One function that the engine evaluates.

    Args:
        name: how the kernel is called; unique in its set.
        mil: program text (one function), in either dialect.
        inputs: identifier -> shape, e.g. ``{"i00_x": (1, 64, 1, 32)}``; fp16 unless the value is
            ``(shape, "float32")``. Up to four axes.
        outputs: identifier -> shape.
        weights: path in the text (``@model_path/weights/NAME``) -> name of a weight, a
            :class:`Weight`, or a constant array. All become fp16 (rounded to nearest even).
        adjoints: inputs that are gradients, so that the kernel is linear in them: a backward
            kernel. Its first evaluation then takes numbers that keep it in fp16's range.

    Raises:
        ValueError, TypeError: naming the part, what was expected and what came. The text itself
            is not read here: the engine's compiler judges it.

    Example:
        >>> import ane_native as ane
        >>> k = ane.Kernel("id", "program(1.3)...", inputs={"x": (1, 64, 1, 32)},
        ...                outputs={"y": (1, 64, 1, 32)})
        >>> k
        <Kernel id x[1,64,1,32] -> y[1,64,1,32], 0 weight files>
    """

    def __init__(
        self,
        name: str,
        mil: str,
        *,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
        weights: Mapping[str, str | Weight | NDArray[Any]] | None = None,
        adjoints: Iterable[str] = (),
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"kernel name {name!r}: expected a non-empty string")
        if not isinstance(mil, str):
            raise TypeError(f"kernel {name!r}: MIL text is {type(mil).__name__}, expected str")
        if not mil.strip():
            raise ValueError(f"kernel {name!r}: MIL text is empty")
        self.name = name
        self.mil = mil
        gradients = set(adjoints)
        self.inputs = _ports(name, "input", inputs, gradients)
        unknown = sorted(gradients - set(inputs))
        if unknown:
            known = ", ".join(inputs)
            raise ValueError(
                f"kernel {name!r}: adjoints: expected among {known}; got {unknown[0]!r}"
            )
        self.outputs = _ports(name, "output", outputs)
        self.weights: dict[str, Weight | NDArray[np.float16]] = {}
        for path, value in (weights or {}).items():
            if (
                not path.startswith(WEIGHTS_PREFIX)
                or "/" in path[len(WEIGHTS_PREFIX) :]
                or len(path) == len(WEIGHTS_PREFIX)
            ):
                raise ValueError(
                    f"kernel {name!r}: weight path {path!r}, expected {WEIGHTS_PREFIX}NAME"
                )
            if isinstance(value, str):
                value = Weight(value)
            if isinstance(value, Weight):
                self.weights[path] = value
            else:
                array = np.ascontiguousarray(np.asarray(value).astype(np.float16))
                if array.size == 0:
                    raise ValueError(f"kernel {name!r}: constant {path!r} is empty")
                self.weights[path] = array

    def port(self, name: str) -> tuple[bool, int]:
        """(is output, position) of a port."""
        for is_output, ports in ((False, self.inputs), (True, self.outputs)):
            for i, port in enumerate(ports):
                if port.name == name:
                    return is_output, i
        known = ", ".join(p.name for p in (*self.inputs, *self.outputs))
        raise ValueError(f"kernel {self.name!r} has no port {name!r}; it has {known}")

    def __repr__(self) -> str:
        def show(ports: tuple[Port, ...]) -> str:
            return ", ".join(f"{p.name}[{','.join(map(str, p.shape))}]" for p in ports)

        return f"<Kernel {self.name} {show(self.inputs)} -> {show(self.outputs)}, {len(self.weights)} weight files>"


def _weight_names(kernels: Iterable[Kernel]) -> list[str]:
    """Weights that kernels bake and their scales, each once, in order."""
    files = [w for k in kernels for w in k.weights.values() if isinstance(w, Weight)]
    return list(dict.fromkeys(n for w in files for n in (w.name, w.scale) if n is not None))


class KernelSet:
    """All kernels of one batch, and which of them share surfaces.

    Args:
        kernels: unique names.
        wires: ``{"ffn.i00_x": "attn.o00_y"}``: the input of one kernel is the output of another,
            in the same memory. An output may feed any number of inputs. The source may be an
            input, too: both kernels then read what is written once; it must not be wired itself.
        frozen: names of weights that are the same in every version. Kernels that bake only
            such weights are packed apart, so that their programs stay loaded. A promise, not
            checked; without it they cost a compile with each update.

    Raises:
        ValueError: a name that does not exist or exists twice.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        wires: Mapping[str, str] | None = None,
        frozen: Iterable[str] = (),
    ) -> None:
        self.kernels = tuple(kernels)
        if not self.kernels:
            raise ValueError("a kernel set needs at least one kernel")
        self.index: dict[str, int] = {}
        for i, kernel in enumerate(self.kernels):
            if not isinstance(kernel, Kernel):
                raise TypeError(
                    f"kernel {i} of the set is {type(kernel).__name__}, expected Kernel"
                )
            if kernel.name in self.index:
                raise ValueError(f"two kernels are named {kernel.name!r}")
            self.index[kernel.name] = i
        self.wires: list[tuple[int, int, int, int, int]] = []
        for to, source in (wires or {}).items():
            to_kernel, to_output, to_port = self._locate(to)
            from_kernel, from_output, from_port = self._locate(source)
            if to_output:
                raise ValueError(f"wire {source!r} -> {to!r}: expected an input at its end")
            if not from_output and source in (wires or {}):
                raise ValueError(f"wire {source!r} -> {to!r}: its source is wired itself")
            self.wires.append((from_kernel, from_port, to_kernel, to_port, int(not from_output)))
        self.weight_names: tuple[str, ...] = tuple(_weight_names(self.kernels))
        files = [w for k in self.kernels for w in k.weights.values() if isinstance(w, Weight)]
        scaled = [w for w in files if w.scale is not None]
        #: Weights that are baked times a scale, and these scales.
        self.scaled_names = frozenset(n for w in scaled for n in (w.name, w.scale) if n is not None)
        self.frozen = frozenset(frozen)
        unknown = sorted(self.frozen - set(self.weight_names))
        if unknown:
            raise ValueError(f"frozen: no kernel bakes {', '.join(map(repr, unknown))}")

    def _locate(self, dotted: str) -> tuple[int, bool, int]:
        kernel, dot, port = dotted.rpartition(".")
        if not dot or kernel not in self.index:
            raise ValueError(f"wire end {dotted!r}: expected KERNEL.PORT of a kernel in the set")
        is_output, i = self.kernels[self.index[kernel]].port(port)
        return self.index[kernel], is_output, i

    def position(self, name: str) -> int:
        """Index of a kernel."""
        if name not in self.index:
            raise ValueError(f"no kernel {name!r}; the set has {', '.join(self.index)}")
        return self.index[name]

    def __len__(self) -> int:
        return len(self.kernels)

    def __repr__(self) -> str:
        return f"<KernelSet of {len(self)} kernels, {len(self.weight_names)} weights, {len(self.wires)} wires>"


# ============================== programs ==============================


@dataclass(frozen=True)
class Source:
    """What one compile makes a program from: a text with a function for each of its kernels.

    Attributes:
        name: for errors and traces.
        mil: program text.
        weights: as those of :class:`Kernel`.
        kernels: positions in the set.
        functions: name of each kernel's function; None where it is the only one.
    """

    name: str
    mil: str
    weights: Mapping[str, Weight | NDArray[np.float16]]
    kernels: tuple[int, ...]
    functions: tuple[str | None, ...]


def single_sources(kernels: Sequence[Kernel]) -> list[Source]:
    """One program for each kernel."""
    return [Source(k.name, k.mil, k.weights, (i,), (None,)) for i, k in enumerate(kernels)]


# ============================== to C ==============================


class CKernels:
    """Kernels and their programs as C structures; keeps alive what they point to.

    Attributes:
        sources, n_sources, array, count: for the core.
        names: weights in the order of their indices.
        kernels: kernel names; programs: names of the sources.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        weights: Mapping[str, NDArray[Any]],
        sources: Sequence[Source] | None = None,
    ) -> None:
        ffi, lib = _native.core().ffi, _native.core().lib
        self._keep: list[Any] = []
        made = single_sources(kernels) if sources is None else sources
        self.kernels, self.programs = [k.name for k in kernels], [s.name for s in made]
        self.names = tuple(_weight_names(kernels))
        for name in self.names:
            if name not in weights:
                raise ValueError(f"weight {name!r} is not among the {len(weights)} given")
        index = {name: i for i, name in enumerate(self.names)}
        self.array = ffi.new("AneKernel[]", len(kernels))
        self.count = len(kernels)
        for c, kernel in zip(self.array, kernels, strict=True):
            c.name = self._text(kernel.name)
            c.inputs, c.n_inputs = self._ports(kernel.inputs), len(kernel.inputs)
            c.outputs, c.n_outputs = self._ports(kernel.outputs), len(kernel.outputs)
        self.sources = ffi.new("AneSource[]", len(made))
        self.n_sources = len(made)
        for i, (c, source) in enumerate(zip(self.sources, made, strict=True)):
            for position, function in zip(source.kernels, source.functions, strict=True):
                self.array[position].program = i
                if function is not None:
                    self.array[position].function = self._text(function)
            c.name = self._text(source.name)
            c.mil, c.mil_bytes = self._text(source.mil), len(source.mil.encode())
            blobs = ffi.new("AneBlob[]", max(1, len(source.weights)))
            self._keep.append(blobs)
            c.blobs, c.n_blobs = blobs, len(source.weights)
            for b, (path, value) in zip(blobs, source.weights.items(), strict=False):
                b.path = self._text(path)
                if isinstance(value, Weight):
                    shape = weights[value.name].shape
                    b.rows = shape[0] if shape else 1
                    b.cols = int(np.prod(shape[1:], dtype=np.int64)) if len(shape) > 1 else 1
                    b.weight = index[value.name]
                    b.transform = lib.ANE_BAKE_TRANSPOSE if value.transpose else lib.ANE_BAKE_PLAIN
                    b.scale = 0 if value.scale is None else 1 + index[value.scale]
                    b.dtype = lib.ANE_F16 if weights[value.name].dtype == _F16 else lib.ANE_F32
                else:
                    b.rows, b.cols, b.weight = value.size, 1, -1
                    b.data_f16 = ffi.cast("uint16_t *", value.ctypes.data)
                    self._keep.append(value)

    def _text(self, text: str) -> Any:
        made = _native.core().ffi.new("char[]", text.encode())
        self._keep.append(made)
        return made

    def _ports(self, ports: tuple[Port, ...]) -> Any:
        ffi, lib = _native.core().ffi, _native.core().lib
        array = ffi.new("AnePort[]", len(ports))
        self._keep.append(array)
        for c, port in zip(array, ports, strict=True):
            c.name = self._text(port.name)
            c.dtype = lib.ANE_F16 if port.dtype == "float16" else lib.ANE_F32
            c.rank = len(port.shape)
            c.adjoint = int(port.adjoint)
            for i, n in enumerate(port.shape):
                c.shape[i] = n
        return array

    def pointers(self, weights: Mapping[str, NDArray[Any]]) -> Any:
        """``void *[]`` in the order of the indices, NULL for what is not among `weights`; the
        arrays must outlive its use."""
        ffi = _native.core().ffi
        array = ffi.new("void *[]", max(1, len(self.names)))
        for i, name in enumerate(self.names):
            if name not in weights:
                continue
            array[i] = ffi.from_buffer(weights[name])
        return array


_F32, _F16 = np.dtype(np.float32), np.dtype(np.float16)


def is_dense(value: object, dtype: np.dtype[Any] = _F32) -> bool:
    """Whether an array can be used as it is; asked of every weight at every boundary."""
    return (
        type(value) is np.ndarray
        and value.dtype is dtype
        and value.flags.c_contiguous
        and value.flags.aligned
        and value.size > 0
    )


def as_float16(name: str, value: ArrayLike) -> NDArray[np.float16]:
    """The same as :func:`as_float32`, rounded to nearest even as a bake rounds."""
    if is_dense(value, _F16):
        return cast("NDArray[np.float16]", value)
    exact = as_float32(name, value)
    made = np.empty(exact.shape, np.float16)
    c = _native.core()
    c.lib.ane_cpu_half_from_float(
        c.ffi.from_buffer("float[]", exact), c.ffi.from_buffer("uint16_t[]", made), exact.size
    )
    return made


def as_float32(name: str, value: ArrayLike) -> NDArray[np.float32]:
    """A C-contiguous, aligned float32 array; ``value`` itself when it is one already.

    Raises:
        TypeError: complex, object or text data. ValueError: empty.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: dtype {array.dtype}, expected real numbers")
    if array.size == 0:
        raise ValueError(f"{name}: shape {array.shape} has no elements")
    return np.require(array, np.float32, ["C", "A"])


# ============================== surfaces ==============================


class Surface:
    """Memory shared with the engine, laid out as the engine wants it.

    ``array`` is a numpy view of it: what is written there the next evaluation reads, with no
    copy. Rows are padded to 64 bytes, so make the last axis a multiple of 32 for fp16 to have a
    dense array. The memory lives as long as any view of it.
    """

    def __init__(self, handle: int, port: Port, owned: bool) -> None:
        self._handle = handle
        self._owned = owned
        self.name, self.shape, self.dtype = port.name, port.shape, np.dtype(port.dtype)
        self._array: NDArray[Any] | None = None

    @property
    def array(self) -> NDArray[Any]:
        """View of the surface: ``shape``, fp16 or fp32, strided where rows are padded."""
        if self._array is None:
            c = _native.core()
            info, error = c.ffi.new("AneSurfaceInfo *"), _native.new_error()
            _native.check(c.lib.ane_surface_map(self._handle, info, error), error)
            base = c.ffi.gc(info.base, c.lib.ane_surface_unmap)
            strides = (info.batch_stride, info.plane_stride, info.row_stride, self.dtype.itemsize)
            self._array = np.ndarray(
                self.shape,
                self.dtype,
                buffer=c.ffi.buffer(base, info.bytes),
                strides=[int(s) for s in strides[4 - len(self.shape) :]],
            )
        return self._array

    def write(self, value: ArrayLike) -> None:
        """Copy ``value`` (the surface's shape; any real dtype) into the surface.

        Raises:
            ValueError: another shape. TypeError: not real numbers.
        """
        array = np.asarray(value)
        if array.shape != self.shape:
            raise ValueError(f"port {self.name!r}: expected shape {self.shape}, got {array.shape}")
        c, error = _native.core(), _native.new_error()
        if array.dtype == np.float16 and self.dtype == np.float16:
            array = np.ascontiguousarray(array)
            data = c.ffi.cast("uint16_t *", array.ctypes.data)
            status = c.lib.ane_surface_write_f16(self._handle, data, array.size, error)
        else:
            array = as_float32(f"port {self.name!r}", array)
            data = c.ffi.cast("float *", array.ctypes.data)
            status = c.lib.ane_surface_write_f32(self._handle, data, array.size, error)
        _native.check(status, error)

    def read(self) -> NDArray[np.float32]:
        """A float32 copy of the surface."""
        c, error = _native.core(), _native.new_error()
        out = np.empty(self.shape, np.float32)
        data = c.ffi.cast("float *", out.ctypes.data)
        _native.check(c.lib.ane_surface_read_f32(self._handle, data, out.size, error), error)
        return out

    def close(self) -> None:
        """Give the surface back; views that exist stay valid. May be called twice."""
        if self._owned:
            self._owned = False
            _native.core().lib.ane_close(self._handle, _native.core().ffi.NULL)

    def __repr__(self) -> str:
        return f"<Surface {self.name} {list(self.shape)} {self.dtype}>"


def make_surface(port: Port) -> Surface:
    """A surface of its own for a port (the trainer makes those of its kernels itself)."""
    c, error = _native.core(), _native.new_error()
    shape = [*port.shape, *([1] * (4 - len(port.shape)))]
    name = c.ffi.new("char[]", port.name.encode())
    dtype = c.lib.ANE_F16 if port.dtype == "float16" else c.lib.ANE_F32
    out, description = (
        c.ffi.new("AneHandle *"),
        c.ffi.new("AnePort *", [name, dtype, len(port.shape), shape]),
    )
    _native.check(c.lib.ane_surface_create(description, out, error), error)
    return Surface(int(out[0]), port, owned=True)


# ============================== one program ==============================


@final
class Program:
    """One kernel, compiled and loaded with one set of weights.

    Args:
        kernel: what to compile.
        weights: name -> array (any real dtype; baked to fp16).
        qos: quality-of-service class of compile, load and evaluation.

    Raises:
        CompileError: the engine refused the text; ``line`` and ``column`` where it says so.
        BudgetExhausted: no compile is left in this process.
        BindError: the compiled program's ports are not the declared ones.

    Example:
        >>> import ane_native as ane
        >>> with ane.Program(kernel, {"w": w}) as program:   # doctest: +SKIP
        ...     y = program.eval(x)
    """

    def __init__(
        self,
        kernel: Kernel,
        weights: Mapping[str, ArrayLike] | None = None,
        *,
        qos: int = FOREGROUND_QOS,
    ) -> None:
        self._handle = 0
        self.kernel = kernel
        self.engine = Engine()
        self._qos = qos
        self.surfaces: dict[str, Surface] = {}
        arrays = {name: as_float32(f"weight {name!r}", w) for name, w in (weights or {}).items()}
        c, error = _native.core(), _native.new_error()
        described = CKernels([kernel], arrays)
        out = c.ffi.new("AneHandle *")
        status = c.lib.ane_program_create(
            described.sources,
            described.array,
            described.pointers(arrays),
            len(described.names),
            out,
            error,
        )
        self._check(status, error)
        self._handle = int(out[0])
        try:
            self._check(
                _native.sliced(lambda: int(c.lib.ane_program_load(self._handle, qos, error))), error
            )
            for port in (*kernel.inputs, *kernel.outputs):
                self.surfaces[port.name] = make_surface(port)
            self._inputs = c.ffi.new(
                "AneHandle[]", [self.surfaces[p.name]._handle for p in kernel.inputs]
            )
            self._outputs = c.ffi.new(
                "AneHandle[]", [self.surfaces[p.name]._handle for p in kernel.outputs]
            )
        except BaseException:
            self.close()
            raise

    def _check(self, status: int, error: Any) -> None:
        error.kernel = 0  # a single program is always kernel 0 of its list of names
        _native.check(status, error, [self.kernel.name], self.engine.name)

    def eval(self, *inputs: ArrayLike) -> Any:
        """Evaluate on ``inputs`` in declared order.

        Returns:
            A float32 array, or a tuple of them when the kernel has several outputs.

        Raises:
            ValueError: number or shape of inputs. EngineError: the engine answered NO.
        """
        if not self._handle:
            raise ClosedError(f"program of kernel {self.kernel.name!r} is closed")
        if len(inputs) != len(self.kernel.inputs):
            raise ValueError(
                f"kernel {self.kernel.name!r}: expected {len(self.kernel.inputs)} inputs, got {len(inputs)}"
            )
        for port, value in zip(self.kernel.inputs, inputs, strict=True):
            self.surfaces[port.name].write(value)
        self.run()
        outputs = tuple(self.surfaces[p.name].read() for p in self.kernel.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def run(self) -> None:
        """Evaluate on the surfaces as they are."""
        if not self._handle:
            raise ClosedError(f"program of kernel {self.kernel.name!r} is closed")
        c, error = _native.core(), _native.new_error()
        status = c.lib.ane_program_eval(
            self._handle,
            self._inputs,
            len(self.kernel.inputs),
            self._outputs,
            len(self.kernel.outputs),
            self._qos,
            error,
        )
        self._check(status, error)

    def info(self) -> dict[str, object]:
        """``identity``, ``cached`` (nothing was compiled), ``bake_ms``, ``compile_ms``, ``load_ms``."""
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneProgramInfo *")
        self._check(c.lib.ane_program_info(self._handle, out, error), error)
        return {
            "identity": c.ffi.string(out.identity).decode(),
            "cached": bool(out.cached),
            "bake_ms": out.bake_ns / 1e6,
            "compile_ms": out.compile_ns / 1e6,
            "load_ms": out.load_ns / 1e6,
        }

    def symbols(self, outputs: bool = False) -> list[str]:
        """Port names in the engine's own order (ASCII-sorted on every engine measured so far)."""
        c, error = _native.core(), _native.new_error()
        buffer = c.ffi.new("char[]", 256)
        names = []
        for i in range(len(self.kernel.outputs if outputs else self.kernel.inputs)):
            self._check(
                c.lib.ane_program_symbol(self._handle, int(outputs), i, buffer, 256, error), error
            )
            names.append(c.ffi.string(buffer).decode())
        return names

    def close(self) -> None:
        """Unload and give everything back. May be called twice."""
        handle, self._handle = self._handle, 0
        for surface in self.surfaces.values():
            surface.close()
        if handle:
            lib, null = _native.core().lib, _native.core().ffi.NULL
            _native.sliced(lambda: int(lib.ane_close(handle, null)))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", 0):
            warnings.warn(
                f"program of kernel {self.kernel.name!r} was not closed",
                ResourceWarning,
                stacklevel=2,
            )
            try:
                _native.core().lib.ane_close(self._handle, _native.core().ffi.NULL)
            except (AneError, AttributeError, TypeError):
                pass  # the interpreter is going down

    def __repr__(self) -> str:
        state = "closed" if not self._handle else "loaded"
        return f"<Program {self.kernel.name} on {self.engine.label}, {state}>"
