# SPDX-License-Identifier: MIT
"""numpy in, numpy out over the CPU section of the core (_cpu.c): loss, gradients, AdamW.

Thin on purpose: every function checks dtype, layout and shape, then makes one C call with
the GIL released. Arrays are used in place, never copied. Activations are [channels, tokens]
float16 with dense rows; leading and middle axes of length one (``[1, C, 1, T]``, as surfaces
have them) are fine.

Letters: D channels, T tokens, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ane_native import _native, soft

if TYPE_CHECKING:
    from ane_native.kernel import KernelSet

__all__ = [
    "AdamTensor",
    "AdamTensors",
    "GradJobs",
    "GradProduct",
    "Stages",
    "UpdateTensor",
    "UpdateTensors",
    "blas",
    "cross_entropy",
    "embed_backward",
    "embed_forward",
    "float_from_half",
    "grad_submit",
    "grad_wait",
    "grad_wait_for",
    "half_from_float",
    "half_peak",
    "open_blas",
    "sum_squares",
]

Half = npt.NDArray[np.float16]
Float = npt.NDArray[np.float32]
Int = npt.NDArray[np.int32]

# =============================== Arrays =========================================


def _pointer(name: str, array: npt.NDArray[Any], dtype: Any, ctype: str) -> Any:
    """The array's address as a C pointer; the array must outlive the call.

    Raises:
        TypeError: another dtype. ValueError: not C-contiguous.
    """
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name}: expected an array of {np.dtype(dtype)}, got {got}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {array.strides}")
    return _native.core().ffi.cast(ctype, array.ctypes.data)


def _half(name: str, array: npt.NDArray[Any]) -> Any:
    return _pointer(name, array, np.float16, "uint16_t *")


def _float(name: str, array: npt.NDArray[Any]) -> Any:
    return _pointer(name, array, np.float32, "float *")


def _ints(name: str, array: Int) -> Any:
    return _pointer(name, array, np.int32, "int32_t *")


def _writeable(name: str, array: npt.NDArray[Any]) -> None:
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise ValueError(f"{name}: expected an array that can be written to")


def _plane(name: str, array: npt.NDArray[Any]) -> tuple[int, int]:
    """(channels, tokens) of an activation; heads and tokens together, where it has both."""
    shape = array.shape
    if len(shape) == 4 and shape[0] == 1:
        shape = (shape[1], shape[2] * shape[3])
    if len(shape) != 2:
        raise ValueError(f"{name}: expected shape [C, T] or [1, C, H, T], got {array.shape}")
    return int(shape[0]), int(shape[1])


def _count(name: str, array: npt.NDArray[Any], count: int) -> None:
    if array.shape != (count,):
        raise ValueError(f"{name}: expected shape ({count},), got {array.shape}")


# =============================== BLAS ===========================================


def open_blas(path: str | os.PathLike[str] | None = None) -> str:
    """Load the BLAS that weight gradients use, once per process, and return its path.

    Args:
        path: a library with ``cblas_sgemm`` or ``scipy_cblas_sgemm`` and 32-bit integers.
            None takes what is open already, else what ``ANE_NATIVE_BLAS`` names, else the
            scipy-openblas32 wheel, else the system's (Accelerate on a Mac).

    Raises:
        EngineOpenError: it cannot be loaded or computes a small product wrongly.
        StateError: another one is open already.
    """
    if path is None:
        if blas():
            return blas()
        path = os.environ.get("ANE_NATIVE_BLAS") or soft.blas_path()
    c, error = _native.core(), _native.new_error()
    name = c.ffi.NULL if path is None else c.ffi.new("char[]", os.fsencode(path))
    _native.check(c.lib.ane_cpu_open_blas(name, error), error)
    return blas()


def blas() -> str:
    """Path of the BLAS in use, empty before :func:`open_blas`."""
    c = _native.core()
    return str(c.ffi.string(c.lib.ane_cpu_blas()).decode("utf-8", "replace"))


# =============================== Half precision =================================


def half_from_float(x: Float, out: Half | None = None) -> Half:
    """Round to float16, nearest even, as the bake does. Same shape as ``x``."""
    made = np.empty(x.shape, np.float16) if out is None else out
    if made.shape != x.shape:
        raise ValueError(f"out: expected shape {x.shape}, got {made.shape}")
    _writeable("out", made)
    lib = _native.core().lib
    lib.ane_cpu_half_from_float(_float("x", x), _half("out", made), x.size)
    return made


def float_from_half(x: Half, out: Float | None = None) -> Float:
    """float16 to float32, exact. Same shape as ``x``."""
    made = np.empty(x.shape, np.float32) if out is None else out
    if made.shape != x.shape:
        raise ValueError(f"out: expected shape {x.shape}, got {made.shape}")
    _writeable("out", made)
    lib = _native.core().lib
    lib.ane_cpu_float_from_half(_half("x", x), _float("out", made), x.size)
    return made


def half_peak(x: Half) -> float:
    """The largest magnitude in a float16 array; infinity or NaN where there is one, 0 of none."""
    bits = _native.core().lib.ane_cpu_half_peak(_half("x", x), x.size)
    return float(np.uint16(bits).view(np.float16))


# =============================== Embedding and loss =============================


def embed_forward(table: Float | Half, tokens: Int, x: Half) -> None:
    """``x[d,t] = table[tokens[t],d]``, rounded to float16.

    Args:
        table: [V, D] float32, or float16: rounded before.
        tokens: [T] int32.
        x: [D, T] or [1, D, 1, T] float16, written.

    Raises:
        ValueError: a token outside 0..V-1, or shapes that do not fit.
    """
    _writeable("x", x)
    if table.ndim != 2:
        raise ValueError(f"table: expected shape [V, D], got {table.shape}")
    vocab, dim = table.shape
    channels, count = _plane("x", x)
    if channels != dim:
        raise ValueError(f"x: expected {dim} channels as in the table, got {channels}")
    _count("tokens", tokens, count)
    lib, error = _native.core().lib, _native.new_error()
    half = isinstance(table, np.ndarray) and table.dtype == np.float16
    forward = lib.ane_cpu_embed_forward_half if half else lib.ane_cpu_embed_forward
    values = (_half if half else _float)("table", table)
    args = (values, _ints("tokens", tokens), vocab, dim, count, _half("x", x))
    _native.check(forward(*args, error), error)


def embed_backward(dx: Half, tokens: Int, dtable: Float, exponent: int = 0) -> None:
    """``dtable[tokens[t],d] += 2**exponent dx[d,t]``, tokens in ascending order of t.

    Args:
        dx: [D, T] or [1, D, 1, T] float16.
        tokens: [T] int32.
        dtable: [V, D] float32, added to.
        exponent: -120 to 120.

    Raises:
        ValueError: a token outside 0..V-1, or shapes that do not fit.
    """
    _writeable("dtable", dtable)
    if dtable.ndim != 2:
        raise ValueError(f"dtable: expected shape [V, D], got {dtable.shape}")
    vocab, dim = dtable.shape
    channels, count = _plane("dx", dx)
    if channels != dim:
        raise ValueError(f"dx: expected {dim} channels as in the table, got {channels}")
    _count("tokens", tokens, count)
    c, error = _native.core(), _native.new_error()
    args = (_half("dx", dx), _ints("tokens", tokens), vocab, dim, count, exponent)
    _native.check(c.lib.ane_cpu_embed_backward(*args, _float("dtable", dtable), error), error)


def cross_entropy(
    logits: Half, targets: Int, *, scale: float = 1.0, dlogits: Half | None = None
) -> float:
    """Mean cross entropy in nats, computed in float64 from float16 logits.

    Args:
        logits: [V, T] or [1, V, 1, T] float16.
        targets: [T] int32.
        scale: loss scale; multiplies the gradient, not the result.
        dlogits: receives ``(softmax - onehot) * scale / T``; None: only the loss. May be
            ``logits`` itself.

    Raises:
        ValueError: a target outside 0..V-1, or shapes that do not fit.
    """
    vocab, count = _plane("logits", logits)
    _count("targets", targets, count)
    c, error = _native.core(), _native.new_error()
    out = c.ffi.NULL
    if dlogits is not None:
        _writeable("dlogits", dlogits)
        if _plane("dlogits", dlogits) != (vocab, count):
            raise ValueError(f"dlogits: expected shape {logits.shape}, got {dlogits.shape}")
        out = _half("dlogits", dlogits)
    loss = c.ffi.new("double *")
    args = (_half("logits", logits), _ints("targets", targets), vocab, count, scale, out, loss)
    _native.check(c.lib.ane_cpu_cross_entropy(*args, error), error)
    return float(loss[0])


# =============================== Weight gradients ===============================


@dataclass(frozen=True)
class GradProduct:
    """``dw[o,i] += sum_t dy[o,t] x[i,t]``, or for a 1-D ``dw`` (the gain of a norm)
    ``dw[o] += sum_t dy[o,t] x[o,t]``.

    Attributes:
        dy: [O, T], [1, O, 1, T] or [1, O, H, T] float16, where t counts H T.
        x: likewise with I; with O for a gain.
        dw: [O, I] or [O] float32, added to.
    """

    dy: Half
    x: Half
    dw: Float


class GradJobs:
    """A list of products, checked once and queued many times; keeps its arrays alive."""

    def __init__(self, products: Sequence[GradProduct]) -> None:
        self.products = tuple(products)
        self._array = _native.core().ffi.new("AneGradJob[]", max(1, len(self.products)))
        for job, product in zip(self._array, self.products, strict=False):
            _writeable("dw", product.dw)
            rows, count = _plane("dy", product.dy)
            channels, tokens = _plane("x", product.x)
            gain = product.dw.ndim == 1
            expected = (rows,) if gain else (rows, channels)
            if tokens != count or product.dw.shape != expected or (gain and channels != rows):
                raise ValueError(
                    f"dy {product.dy.shape}, x {product.x.shape} and dw {product.dw.shape} "
                    "do not fit each other"
                )
            job.dy_f16, job.x_f16 = _half("dy", product.dy), _half("x", product.x)
            job.dw = _float("dw", product.dw)
            job.rows, job.cols, job.count = rows, 0 if gain else channels, count

    def undo(self, exponents: Sequence[int]) -> None:
        """From now on every product is multiplied by ``2**exponent``, which is exact."""
        for job, exponent in zip(self._array, exponents, strict=True):
            job.exponent = exponent


class Stages:
    """Chains of kernels and the products that follow each, as the core takes them.

    Args:
        kernels: that the names are of.
        stages: (names of kernels, products or None), in order.

    Raises:
        ValueError: a name that is no kernel's.
    """

    def __init__(
        self, kernels: KernelSet, stages: Iterable[tuple[Sequence[str], GradJobs | None]]
    ) -> None:
        ffi = _native.core().ffi
        self.stages = tuple((tuple(names), jobs) for names, jobs in stages)
        self.count = len(self.stages)
        self.array = ffi.new("AneStage[]", max(1, self.count))
        self._chains = []  # the core reads them at every run
        for stage, (names, jobs) in zip(self.array, self.stages, strict=False):
            chain = ffi.new("int32_t[]", [kernels.position(name) for name in names] or [0])
            self._chains.append(chain)
            stage.kernels, stage.n_kernels = chain, len(names)
            if jobs is not None:
                stage.jobs, stage.n_jobs = jobs._array, len(jobs.products)


def grad_submit(jobs: GradJobs) -> None:
    """Queue the products on the GCD group; returns at once.

    Until :func:`grad_wait` has returned, the arrays must not change and no other product may
    add to the same ``dw``.

    Raises:
        ValueError: a ``dw`` that another product is adding to. StateError: no BLAS is open.
    """
    c, error = _native.core(), _native.new_error()
    array, count = jobs._array, len(jobs.products)
    _native.check(c.lib.ane_cpu_grad_submit(array, count, error), error)


def grad_wait() -> None:
    """Wait for all queued products, in slices, so that Ctrl-C arrives.

    Raises:
        MemoryError: one of them ran out of memory; the sums since the last wait are in doubt.
    """
    c, error = _native.core(), _native.new_error()
    while c.lib.ane_cpu_grad_wait(_native.SLICE_MS, error) == c.lib.ANE_AGAIN:
        pass
    if error.status < 0:
        _native.check(error.status, error)


def grad_wait_for(jobs: GradJobs) -> None:
    """Wait until nothing that was queued adds to a ``dw`` of these, from any thread.

    :func:`grad_wait` is needed all the same, by the thread that queued them.

    Raises:
        MemoryError: a product, one of these or another, ran out of memory.
    """
    c, error = _native.core(), _native.new_error()
    array, count = jobs._array, len(jobs.products)
    while c.lib.ane_cpu_grad_wait_for(array, count, _native.SLICE_MS, error) == c.lib.ANE_AGAIN:
        pass
    if error.status < 0:
        _native.check(error.status, error)


# =============================== Optimizer ======================================


def sum_squares(x: Float) -> tuple[float, bool]:
    """Sum of squares in float64, and whether every element is finite."""
    c, error = _native.core(), _native.new_error()
    out, finite = c.ffi.new("double *"), c.ffi.new("int32_t *")
    _native.check(c.lib.ane_cpu_sum_squares(_float("x", x), x.size, out, finite, error), error)
    return float(out[0]), bool(finite[0])


class AdamTensor(NamedTuple):
    """One tensor of an AdamW pass: float32 arrays of one shape.

    Attributes:
        p_in, p_out: masters before and after; one array for in place.
        m, v: moments, written.
        g: gradient.
        weight_decay: decoupled.
        m_in, v_in: moments before; None: ``m`` and ``v`` themselves.
        ahead: receives ``p_out + extrapolate * (p_out - p_in)``; None: not wanted.
        ahead_f16: receives the same rounded to float16; None: not wanted.
    """

    p_in: Float
    p_out: Float
    m: Float
    v: Float
    g: Float
    weight_decay: float
    m_in: Float | None = None
    v_in: Float | None = None
    ahead: Float | None = None
    ahead_f16: Half | None = None


class UpdateTensor(NamedTuple):
    """One tensor of a whole update; see :class:`AdamTensor`.

    Attributes:
        weight: index among the trainer's weights, -1 when no kernel bakes it.
    """

    p_in: Float
    p_out: Float
    m: Float
    v: Float
    g: Float
    weight_decay: float
    weight: int
    ahead: Float | None = None
    ahead_f16: Half | None = None


def _fill(c: Any, tensor: AdamTensor | UpdateTensor, written: Sequence[str]) -> None:
    """Check the arrays of a tensor and point the C structure at them."""
    c.count, c.weight_decay = tensor.p_in.size, tensor.weight_decay
    for name, array in tensor._asdict().items():
        if array is None or not isinstance(array, np.ndarray):
            continue
        if array.shape != tensor.p_in.shape:
            raise ValueError(f"{name}: expected shape {tensor.p_in.shape}, got {array.shape}")
        setattr(c, name, (_half if name.endswith("_f16") else _float)(name, array))
        if name in written:
            _writeable(name, array)


class AdamTensors:
    """Tensors of one AdamW pass, checked once; keeps its arrays alive.

    Args:
        tensors: :class:`AdamTensor` or its fields in order.
    """

    def __init__(self, tensors: Sequence[AdamTensor | tuple[Any, ...]]) -> None:
        self._keep = tuple(AdamTensor(*t) for t in tensors)
        self._array = _native.core().ffi.new("AneAdamTensor[]", max(1, len(self._keep)))
        for c, tensor in zip(self._array, self._keep, strict=False):
            _fill(c, tensor, ("p_out", "m", "v", "ahead", "ahead_f16"))

    def step(
        self,
        *,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
        grad_scale: float,
        extrapolate: float = 0.0,
    ) -> None:
        """One AdamW update, decoupled weight decay, bias corrected; ``step`` counts from 1.

        Raises:
            ValueError: a number outside its range.
        """
        c, error = _native.core(), _native.new_error()
        args = (self._array, len(self._keep), lr, beta1, beta2, eps, step, grad_scale, extrapolate)
        _native.check(c.lib.ane_cpu_adamw(*args, error), error)


class UpdateTensors:
    """Tensors of one whole update (``AneUpdateJob``), checked once; keeps its arrays alive.

    Args:
        tensors: :class:`UpdateTensor` or its fields in order.
        gradients: one array that holds all ``g`` and zeros between them.
    """

    def __init__(self, tensors: Sequence[UpdateTensor | tuple[Any, ...]], gradients: Float) -> None:
        rows = tuple(UpdateTensor(*t) for t in tensors)
        self._keep = (rows, gradients)
        ffi = _native.core().ffi
        self._array = ffi.new("AneUpdateTensor[]", max(1, len(rows)))
        for c, tensor in zip(self._array, rows, strict=False):
            _fill(c, tensor, ("p_out", "m", "v", "g", "ahead", "ahead_f16"))
            c.weight = tensor.weight
        self._job = ffi.new("AneUpdateJob *")
        self._job.tensors, self._job.n_tensors = self._array, len(tensors)
        self._job.gradients = _float("gradients", gradients)
        self._job.n_gradients = gradients.size

    def run(self, job: Any) -> float:
        """Make the update on this thread, as the background would; milliseconds it took.

        Args:
            job: what :meth:`job` returned.
        """
        c, error = _native.core(), _native.new_error()
        out = c.ffi.new("AneUpdateResult *")
        _native.check(c.lib.ane_cpu_update(job, out, error), error)
        return int(out.update_ns) / 1e6

    def job(
        self,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        clip: float,
        loss_scale: float,
        micro_steps: int,
        step: int,
        extrapolate: float = 0.0,
    ) -> Any:
        """The C structure with these numbers in it; it is this object's and used again."""
        job = self._job
        job.lr, (job.beta1, job.beta2), job.eps, job.clip = lr, betas, eps, clip
        job.loss_scale, job.micro_steps, job.step = loss_scale, micro_steps, step
        job.extrapolate = extrapolate
        return job
