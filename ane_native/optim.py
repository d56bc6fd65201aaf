# SPDX-License-Identifier: MIT
"""AdamW on fp32 masters that are never copied: buffers take turns, or masters stay in place.

The scheduler bakes version k+1 in the background while version k trains, and reads the
masters it was handed as it does so. The optimizer therefore never updates in place: it reads
the newest masters and writes the next version into a buffer that nobody reads any more.
Handing the weights over then costs the training thread nothing. With ``staleness`` 0 or 1
three buffers are enough (active, pending, next); a fourth is made when an older bound needs it.
With ``bake`` it is other arrays that are handed over, fp16 as the kernels hold them, written in the
same pass. They take turns; the masters, which nobody else reads, are then updated in place.

Also here: clipping by the global norm, dynamic loss scaling, learning-rate schedules. Not
here: when to step and what to do about a run that does not recover; see train/.

The learning rate is not divided by the loss scale: gradients are unscaled before the moments
see them, and m / sqrt(v) has no scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ane_native import cpu
from ane_native.buffers import Flat, Rotation, Version
from ane_native.errors import CheckpointError, ConfigError, StateError

__all__ = [
    "AdamW",
    "LossScale",
    "PartUpdate",
    "Schedule",
    "UpdateInfo",
    "constant",
    "warmup_cosine",
]

Float = npt.NDArray[np.float32]
Params = dict[str, Float]
Schedule = Callable[[int], float]

BAKES = (None, "float16", "float32")

# =============================== Schedules ======================================


def constant(lr: float) -> Schedule:
    """The same learning rate at every update."""
    return lambda update: lr


def warmup_cosine(lr: float, warmup: int, total: int, floor: float = 0.1) -> Schedule:
    """Linear from lr / warmup to lr, then half a cosine down to ``floor * lr`` at ``total``.

    Args:
        lr: the highest rate.
        warmup: updates of the linear part; 0 for none.
        total: update at which the rate reaches its floor, and stays there.
        floor: share of ``lr`` that remains.

    Returns:
        A function of the update's number, counted from 0.
    """

    def rate(update: int) -> float:
        if update < warmup:
            return lr * (update + 1) / warmup
        if update >= total:
            return lr * floor
        done = (update - warmup) / max(1, total - warmup)
        return lr * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done)))

    return rate


# =============================== Loss scale =====================================


class LossScale:
    """A power of two that keeps fp16 gradients above the engine's rounding.

    Halved when a gradient is not finite (the update is skipped), doubled after
    ``growth_interval`` good updates in a row.

    Args:
        scale: first value.
        growth_interval: good updates before it is doubled; 0 keeps it.
        dynamic: False: a factor of the fp32 gradients alone, which never changes; skipped
            updates are counted all the same.
        largest: never above this. 65536 / T stays finite in fp16 for T >= 2.

    Attributes:
        scale: the current value.
        skipped: updates skipped so far.
        skipped_in_a_row: since the last good one.
        grown, halved: how often it changed.
    """

    SMALLEST = 1.0

    def __init__(
        self,
        scale: float = 1024.0,
        growth_interval: int = 200,
        largest: float = 65536.0,
        dynamic: bool = True,
    ) -> None:
        if not (scale >= self.SMALLEST and math.log2(scale).is_integer()):
            raise ConfigError(f"loss scale: expected a power of two of at least 1, got {scale}")
        self.scale = float(scale)
        self.growth_interval = growth_interval if dynamic else 0
        self.dynamic = dynamic
        self.largest = largest
        self.good = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.grown = 0
        self.halved = 0

    def update(self, finite: bool) -> None:
        """Take note of one update's gradients."""
        if not finite:
            self.good = 0
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.dynamic and self.scale > self.SMALLEST:
                self.scale /= 2
                self.halved += 1
            return
        self.skipped_in_a_row = 0
        self.good += 1
        if self.growth_interval and self.good >= self.growth_interval:
            self.good = 0
            if self.scale * 2 <= self.largest:
                self.scale *= 2
                self.grown += 1

    def state_dict(self) -> dict[str, float | int]:
        """Plain numbers, fit for JSON."""
        names = ("scale", "good", "skipped", "skipped_in_a_row", "grown", "halved")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        try:
            self.scale = float(state["scale"])
            for name in ("good", "skipped", "skipped_in_a_row", "grown", "halved"):
                setattr(self, name, int(state[name]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"state of the loss scale: {error!r}") from error


# =============================== AdamW ==========================================


class _UnderWay(NamedTuple):
    """An update in the background: where it writes and what it was told."""

    target: Version
    baked: Version  # the same, or what is handed over in its place
    version: int
    build: bool
    lr: float
    loss_scale: float


@dataclass(frozen=True)
class UpdateInfo:
    """What one update did.

    Attributes:
        applied: False when a gradient was not finite and nothing was changed.
        grad_norm: global norm of the unscaled mean gradient before clipping.
        clip: factor that clipping applied, 1 when it did nothing.
        lr: learning rate used.
        loss_scale: scale the gradients had been computed with.
    """

    applied: bool
    grad_norm: float
    clip: float
    lr: float
    loss_scale: float


class AdamW:
    """AdamW with decoupled weight decay over fp32 masters, which take turns or stay in place.

    Args:
        params: first masters, name -> float32 array; copied.
        betas: decay rates of the moments.
        eps: added to sqrt(v).
        weight_decay: for tensors with two axes or more; norm gains are never decayed.
        clip: global norm above which gradients are scaled down; 0 for never.
        loss_scale: the scaler; a fresh one when None.
        lr: learning rate of updates that are not told one: a number, or a function of the
            number of updates tried so far.
        extrapolate: with s > 0 the weights to hand over (:attr:`baked`) are not the masters w but
            ``w + s (w - w_previous)``, a prediction of the masters s updates later
            (docs/STALENESS.md). One or two buffers more without ``bake``.
        bake: what to hand over. None: the masters, or their predictions; masters take turns, and
            buffers of them are all that is needed. ``"float16"``: arrays rounded as a bake rounds, so
            the kernels have the same bits; masters are updated in place. For kernels that bake times a
            power of two (docs/SCALING.md) ``"float32"``: the same, not rounded.
        beside: version -> weights that are baked with the masters of an update in the
            background and are not trained.

    Given to ``DoubleBufferedTrainer(update=...)`` it runs in the background; see
    :meth:`begin`. There are two sets of gradients then, and :attr:`grads` is the one to add to.

    Attributes:
        steps: updates applied so far (Adam's t).
        loss_scale: the scaler.
        extrapolate: of the next update; may be changed between two.

    Example:
        >>> import numpy as np
        >>> adam = AdamW({"w": np.ones((2, 2), np.float32)})
        >>> adam.grads["w"][:] = adam.loss_scale.scale      # the gradient of sum(w), scaled
        >>> info = adam.update(lr=0.1, micro_steps=1, oldest_needed=0)
        >>> info.applied, adam.params["w"][0, 0] < 1
        (True, True)
    """

    def __init__(
        self,
        params: Mapping[str, npt.NDArray[Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        clip: float = 1.0,
        loss_scale: LossScale | None = None,
        lr: float | Schedule = 1e-3,
        extrapolate: float = 0.0,
        bake: str | None = None,
        beside: Callable[[int], Params] | None = None,
    ) -> None:
        if bake not in BAKES:
            raise ConfigError(f"bake: expected one of {BAKES}, got {bake!r}")
        if not (math.isfinite(extrapolate) and extrapolate >= 0):
            raise ConfigError(f"extrapolate: expected 0 or more, got {extrapolate}")
        for name, value in zip(("beta1", "beta2"), betas, strict=True):
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"{name}: expected 0 <= {name} < 1, got {value}")
        if not params:
            raise ConfigError("params: expected at least one tensor, got none")
        self.betas, self.eps, self.clip = betas, eps, clip
        self.loss_scale = loss_scale or LossScale()
        self.steps = self.tried = 0
        self.lr, self.beside = lr, beside
        self.extrapolate = extrapolate
        self._shapes = {name: np.shape(p) for name, p in params.items()}
        self._decay = {n: weight_decay if len(s) > 1 else 0.0 for n, s in self._shapes.items()}
        self._moments = [(Flat(self._shapes), Flat(self._shapes))]  # a second by parts()
        self._g = [Flat(self._shapes)]
        self._at = 0  # the set of gradients to add to
        self._jobs: dict[tuple[int, ...], tuple[tuple[str, ...], cpu.UpdateTensors]] = {}
        self._under_way: _UnderWay | None = None
        self.bake = bake
        self._masters = Rotation(self._shapes)
        self._ahead = Rotation(self._shapes, bake or np.float32)  # handed over in their place
        self._newest = self._previous = self._masters.make()
        if bake is not None:
            self._newest.keep_in_place()
        self._baked = self._baked_before = self._newest if bake is None else self._ahead.make()
        self._passes: dict[tuple[Any, ...], cpu.AdamTensors] = {}
        self._fill(self._newest, params, "params")
        self._round()
        self._newest.version = self._baked.version = 0

    @property
    def grads(self) -> Params:
        """name -> float32 array to add gradients to; zeroed by the update that used them."""
        return self._g[self._at].views

    @property
    def gradients(self) -> int:
        """Which of :attr:`gradient_sets` :attr:`grads` is."""
        return self._at

    @property
    def gradient_sets(self) -> tuple[Params, ...]:
        """Both sets of gradients, made when first asked for: they take turns in the background."""
        while len(self._g) < 2:
            self._g.append(Flat(self._shapes))
        return tuple(flat.views for flat in self._g)

    @property
    def settled(self) -> bool:
        """False while an update runs in the background: moments are being written then."""
        return self._under_way is None

    @property
    def params(self) -> Params:
        """The newest masters whose update has ended. Hand them over and do not write to them;
        with ``bake`` hand :attr:`baked` over: the next update writes these.

        Raises:
            StateError: with ``bake``: an update runs in the background.
        """
        if self.bake is not None:
            self._need_settled()
        return self._newest.views

    @property
    def previous(self) -> Params:
        """The masters before the last update that was applied; gone with the next one.

        Raises:
            StateError: with ``bake`` they are gone already.
        """
        if self.bake is not None:
            raise StateError(f"masters are updated in place (bake={self.bake!r}): none are kept")
        return self._previous.views

    @property
    def baked(self) -> Params:
        """What to hand over for :attr:`params`: themselves, their prediction, or with ``bake``
        arrays of that type. Do not write to them."""
        return self._baked.views

    @property
    def predicted(self) -> bool:
        """Whether :attr:`baked` is a prediction, and not the masters, rounded or as they are."""
        return self._baked.predicted

    @property
    def baked_before(self) -> Params:
        """The same for :attr:`previous`."""
        return self._baked_before.views

    @property
    def nbytes(self) -> dict[str, int]:
        """What the buffers made so far take, bytes by kind: masters, what is handed over in their
        place, gradients, moments."""
        moments = [flat for pair in self._moments for flat in pair]
        kinds: dict[str, Sequence[Flat]] = {
            "masters": self._masters.buffers,
            "handed over": self._ahead.buffers,
            "gradients": self._g,
            "moments": moments,
        }
        return {kind: sum(flat.all.nbytes for flat in flats) for kind, flats in kinds.items()}

    @property
    def version(self) -> int:
        """Number of the newest masters, as :class:`DoubleBufferedTrainer` counts versions."""
        return self._newest.version

    # ------------------------------ one update ------------------------------

    def update(
        self,
        *,
        lr: float,
        micro_steps: int,
        oldest_needed: int,
        loss_scale: float | None = None,
    ) -> UpdateInfo:
        """Unscale, clip, step; the gradients are zero afterwards.

        Args:
            lr: learning rate of this update.
            micro_steps: gradients that were added up; their mean is used.
            oldest_needed: of the scheduler: masters it was given for versions before this
                one are free.
            loss_scale: scale the gradients were computed with; None: the scaler's own.

        Returns:
            What was done. After ``applied == False`` (a gradient was not finite) the masters,
            moments and version are as before.
        """
        self._need_settled()
        scale = self.loss_scale.scale if loss_scale is None else loss_scale
        gradients = self._g[self._at].all
        total, finite = cpu.sum_squares(gradients)
        unscale = 1.0 / (scale * micro_steps)
        norm = math.sqrt(total) * unscale if finite else math.inf
        clip = min(1.0, self.clip / (norm + 1e-6)) if self.clip and finite else 1.0
        if finite:
            target, baked = self._places(oldest_needed)
            self._step(lr, unscale * clip, target, ahead=None if baked is target else baked)
            self._take(target, baked, self._newest.version + 1, submitted=False)
        self.tried += 1
        self.loss_scale.update(finite)
        gradients.fill(0.0)
        return UpdateInfo(finite, norm, clip, lr, scale)

    def zero_grads(self) -> None:
        """Forget the gradients added so far."""
        self._g[self._at].all.fill(0.0)

    def parts(
        self,
        *,
        lr: float,
        micro_steps: int,
        oldest_needed: int,
        loss_scale: float | None = None,
    ) -> PartUpdate:
        """Begin an update that is made tensor by tensor; the arguments are those of
        :meth:`update`, and so are its bits.

        Raises:
            StateError: with ``clip`` every tensor needs the norm of all gradients first; with
                ``extrapolate`` there is nothing to gain; with ``bake`` there is one set of masters,
                and parts may turn out not to count.
        """
        self._need_settled()
        if self.clip or self.extrapolate or self.bake is not None:
            raise StateError(
                f"an update in parts: expected clip 0, extrapolate 0 and bake None, got {self.clip}, "
                f"{self.extrapolate} and {self.bake}"
            )
        scale = self.loss_scale.scale if loss_scale is None else loss_scale
        target = self._masters.free(self._newest, oldest_needed)
        return PartUpdate(self, lr, micro_steps, target, scale)

    # ------------------------------ in the background ------------------------------

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
    ) -> tuple[Any, Params]:
        """What the scheduler needs to run this update; :meth:`began` or :meth:`cancel` follows.

        Args:
            version: which the new masters get.
            weights: the trainer's names by index.
            oldest_needed, micro_steps, loss_scale: see :meth:`update`.
            lr: None takes :attr:`lr`.
            build: whether the scheduler will read the new masters.

        Returns:
            The C structure of the update, and the weights it will write for the kernels.

        Raises:
            StateError: the update before has not ended.
        """
        self._need_settled()
        if lr is None:
            lr = self.lr(self.tried) if callable(self.lr) else self.lr
        scale = self.loss_scale.scale if loss_scale is None else loss_scale
        target, baked = self._places(oldest_needed)
        key = (id(self._newest), id(target), id(baked), id(self._moments[0]), self._at)
        known = self._jobs.get(key)
        if known is None or known[0] is not weights and known[0] != tuple(weights):
            index = {name: i for i, name in enumerate(weights)}
            rows = self._rows(target, ahead=None if baked is target else baked)
            tensors = cpu.UpdateTensors(
                [(*row[:6], index.get(n, -1), *row[8:]) for n, row in rows.items()],
                self._g[self._at].all,
            )
            known = self._jobs[key] = tuple(weights), tensors
        job = known[1].job(
            lr=lr,
            betas=self.betas,
            eps=self.eps,
            clip=self.clip,
            loss_scale=scale,
            micro_steps=micro_steps,
            step=self.steps + 1,
            extrapolate=self.extrapolate,
        )
        self._under_way = _UnderWay(target, baked, version, build, lr, scale)
        if self.beside is not None:
            return job, {**baked.views, **self.beside(version)}
        return job, baked.views

    def began(self) -> None:
        """The scheduler has taken it: gradients are added to the other set from now on."""
        assert len(self.gradient_sets) == 2
        self._at ^= 1

    def cancel(self) -> None:
        """The scheduler has not taken it."""
        self._under_way = None

    def ended(self, applied: bool, grad_norm: float, clip: float) -> UpdateInfo:
        """The update has ended as the scheduler says; the masters and moments are ours again."""
        now = self._under_way
        assert now is not None, "no update was begun"
        self._under_way = None
        self.tried += 1
        if applied:
            self._take(now.target, now.baked, now.version, submitted=now.build)
        self.loss_scale.update(applied)
        return UpdateInfo(applied, grad_norm, clip, now.lr, now.loss_scale)

    def rehearse(self) -> float:
        """How long an update takes on one thread, as in the background, in milliseconds.

        Nothing changes: moments and gradients are still zero, so a pass with learning rate 0
        writes the masters as they are, into a spare buffer or over themselves.

        Raises:
            StateError: an update has been made, or gradients were added.
        """
        self._need_settled()
        if self.tried or self.steps or self._g[self._at].all.any():
            raise StateError("rehearse: expected an optimizer before its first gradients")
        target, baked = self._places(0)
        rows = self._rows(target, None if baked is target else baked).values()
        tensors = cpu.UpdateTensors(
            [(*row[:6], -1, *row[8:]) for row in rows], self._g[self._at].all
        )
        job = tensors.job(
            lr=0.0,
            betas=self.betas,
            eps=self.eps,
            clip=self.clip,
            loss_scale=1.0,
            micro_steps=1,
            step=1,
            extrapolate=self.extrapolate,
        )
        tensors.run(job)  # touches memory that is new
        return tensors.run(job)

    def _need_settled(self) -> None:
        if self._under_way is not None:
            raise StateError("an update runs in the background: call settle() of its trainer first")

    def handed_over(self, version: int, submitted: bool) -> None:
        """Say what the scheduler made of the newest masters.

        Args:
            version: ``BatchStats.newest``.
            submitted: ``BatchStats.submitted``: whether it reads them from now on.
        """
        self._newest.version = version
        self._baked.version, self._baked.submitted = version, submitted

    def restart_versions(
        self, version: int, baked: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> None:
        """A new scheduler counts from 0: the newest masters are its ``version``.

        No scheduler may be reading any of the buffers.

        Args:
            version: of the newest masters.
            baked: what the kernels of that version are made from (copied, and rounded with
                ``bake="float16"``); None: the masters.

        Raises:
            CheckpointError: `baked` does not fit.
        """
        self._need_settled()
        self._masters.forget()
        self._ahead.forget()
        if self.bake is None:
            self._baked = self._newest if baked is None else self._ahead.free(self._newest, 0)
        self._baked_before = self._baked
        if baked is None:
            self._round()
        else:
            self._fill(self._baked, baked, "baked")
            self._baked.predicted = True
        self._newest.version = self._baked.version = version

    def as_baked(self, weights: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Weights in the type of :attr:`baked`: themselves, or copies rounded as a bake rounds.

        Raises:
            CheckpointError: they are not those of this optimizer.
        """
        self._check(weights, "weights")
        if self.bake == "float16":
            return {n: _rounded(w) for n, w in weights.items()}
        return {n: _dense(w) for n, w in weights.items()}

    def _places(self, oldest_needed: int) -> tuple[Version, Version]:
        """Where an update writes the masters, and what is to be handed over (or the same)."""
        target = self._newest
        if self.bake is None:
            target = self._masters.free(self._newest, oldest_needed)
            if not self.extrapolate:
                return target, target
        return target, self._ahead.free(self._baked, oldest_needed)

    def _round(self) -> None:
        """The masters as they are into what is handed over."""
        if self._baked is not self._newest:
            self._fill(self._baked, self._newest.views, "masters")
        self._baked.predicted = False

    def _take(self, target: Version, baked: Version, version: int, submitted: bool) -> None:
        """An update was applied: its results are the newest."""
        target.version, target.submitted = version, False
        baked.version, baked.submitted = version, submitted
        baked.predicted = bool(self.extrapolate)
        self._previous, self._newest = self._newest, target
        self._baked_before, self._baked = self._baked, baked
        self.steps += 1

    def _step(
        self,
        lr: float,
        grad_scale: float,
        target: Version,
        *,
        ahead: Version | None = None,
        moments: tuple[Flat, Flat] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """AdamW from the newest masters and moments into `target`, all tensors or those named;
        the new moments are written over the old, or into `moments`."""
        place = (self._newest, target, ahead, self._moments[0], moments)
        key = (*map(id, place), self._at, *(() if names is None else names))
        if key not in self._passes:
            rows = self._rows(target, ahead, moments)
            self._passes[key] = cpu.AdamTensors([rows[n] for n in names or rows])
        self._passes[key].step(
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            step=self.steps + 1,
            grad_scale=grad_scale,
            extrapolate=self.extrapolate,
        )

    def _rows(
        self,
        target: Version,
        ahead: Version | None = None,
        moments: tuple[Flat, Flat] | None = None,
    ) -> dict[str, cpu.AdamTensor]:
        g = self._g[self._at].views
        (m, v), (m_out, v_out) = self._moments[0], moments or self._moments[0]
        out = {} if ahead is None else ahead.views
        half = self.bake == "float16"
        return {
            n: cpu.AdamTensor(
                *(p, target.views[n], m_out.views[n], v_out.views[n], g[n], self._decay[n]),
                m_in=None if moments is None else m.views[n],
                v_in=None if moments is None else v.views[n],
                ahead=None if half else out.get(n),
                ahead_f16=out.get(n) if half else None,
            )
            for n, p in self._newest.views.items()
        }

    # ------------------------------ state ------------------------------

    def state_dict(self) -> tuple[Params, dict[str, Any]]:
        """Tensors (``m.NAME``, ``v.NAME``, views) and numbers; the masters are not among them.

        Raises:
            StateError: an update runs in the background.
        """
        self._need_settled()
        m, v = self._moments[0]
        tensors = {f"m.{name}": view for name, view in m.views.items()}
        tensors |= {f"v.{name}": view for name, view in v.views.items()}
        return tensors, {"steps": self.steps, "loss_scale": self.loss_scale.state_dict()}

    def load_state_dict(
        self, params: Mapping[str, Float], tensors: Mapping[str, Float], numbers: Mapping[str, Any]
    ) -> None:
        """Continue from masters and a :meth:`state_dict`.

        Raises:
            CheckpointError: a tensor is missing, unknown, of another shape or not float32.
        """
        self._need_settled()
        self._fill(self._newest, params, "weights")
        self._round()
        for kind, flat in zip(("m", "v"), self._moments[0], strict=True):
            part = {n[2:]: t for n, t in tensors.items() if n.startswith(f"{kind}.")}
            for name, tensor in part.items():
                if tensor.dtype != np.float32:
                    raise CheckpointError(
                        f"optimizer {kind}: tensor {name!r}: expected float32, got {tensor.dtype}"
                    )
            self._fill(flat, part, f"optimizer {kind}")
        try:
            self.steps = int(numbers["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"state of the optimizer: {error!r}") from error
        self.loss_scale.load_state_dict(numbers.get("loss_scale", {}))
        self.tried = self.steps + self.loss_scale.skipped
        self.zero_grads()

    def _fill(self, flat: Flat, values: Mapping[str, npt.NDArray[Any]], what: str) -> None:
        self._check(values, what)
        for name, view in flat.views.items():
            if view.dtype == np.float16 and np.asarray(values[name]).dtype != np.float16:
                cpu.half_from_float(_dense(values[name]), view)
            else:
                view[...] = values[name]

    def _check(self, values: Mapping[str, npt.NDArray[Any]], what: str) -> None:
        missing, unknown = self._shapes.keys() - values.keys(), values.keys() - self._shapes.keys()
        if missing or unknown:
            name = sorted(missing or unknown)[0]
            problem = "missing" if missing else "not known"
            raise CheckpointError(f"{what}: tensor {name!r} is {problem}")
        for name, shape in self._shapes.items():
            if np.shape(values[name]) != shape:
                raise CheckpointError(
                    f"{what}: tensor {name!r}: expected shape {shape}, got {np.shape(values[name])}"
                )


def _dense(values: npt.ArrayLike, dtype: type = np.float32) -> npt.NDArray[Any]:
    """C-contiguous and aligned, of any rank; the array itself where it is."""
    return np.require(np.asarray(values), dtype, ["C", "A"])


def _rounded(values: npt.ArrayLike) -> npt.NDArray[np.float16]:
    """Dense float16, to nearest even as a bake rounds; the array itself where it is."""
    half = np.asarray(values).dtype == np.float16
    return _dense(values, np.float16) if half else cpu.half_from_float(_dense(values))


class PartUpdate:
    """One update of an :class:`AdamW` made tensor by tensor, as gradients become final.

    Nothing counts before :meth:`finish`: new masters and moments are written beside the old ones,
    so a gradient that turns out not to be finite leaves everything as it was, and one that is
    not finished never was.
    One thread at a time. Made by :meth:`AdamW.parts`.

    Attributes:
        finite: False once a gradient was not finite: the update will be skipped.
    """

    def __init__(
        self, adam: AdamW, lr: float, micro_steps: int, target: Version, loss_scale: float
    ) -> None:
        if len(adam._moments) < 2:
            adam._moments.append((Flat(adam._shapes), Flat(adam._shapes)))
        self.finite = True
        self._adam, self._lr, self._scale, self._target = adam, lr, loss_scale, target
        self._unscale = 1.0 / (loss_scale * micro_steps)
        self._total = 0.0
        self._left = dict.fromkeys(adam._shapes)

    def apply(self, names: Sequence[str]) -> Params:
        """Step these tensors, whose gradients are final.

        Returns:
            Their new masters; nobody writes to them while the scheduler needs them. Empty once
            a gradient was not finite.

        Raises:
            StateError: one of them was stepped before, or is not known.
        """
        adam = self._adam
        for name in names:
            if name not in self._left:
                raise StateError(f"tensor {name!r} is not known, or was stepped before")
            del self._left[name]
            total, finite = cpu.sum_squares(adam.grads[name])
            self._total += total
            self.finite = self.finite and finite
        if not self.finite or not names:
            return {}
        adam._step(self._lr, self._unscale, self._target, moments=adam._moments[1], names=names)
        return {name: self._target.views[name] for name in names}

    def finish(self) -> UpdateInfo:
        """All gradients are final: step what is left, and let the update count if all of them
        are finite; they are zero afterwards."""
        self.apply(tuple(self._left))
        adam = self._adam
        if self.finite:
            adam._take(self._target, self._target, adam._newest.version + 1, submitted=False)
            adam._moments.reverse()
        adam.tried += 1
        adam.loss_scale.update(self.finite)
        adam.zero_grads()
        norm = math.sqrt(self._total) * self._unscale if self.finite else math.inf
        return UpdateInfo(self.finite, norm, 1.0, self._lr, self._scale)
