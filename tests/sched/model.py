# SPDX-License-Identifier: MIT
"""The scheduler as a small machine: what _core_sched.c promises, without threads or an engine.

A :class:`State` is everything the scheduler knows, an event is one thing that can happen
next, atomically: one call of the training thread, one step of the background job, the begin
or end of an evaluation, a close. :meth:`Model.apply` gives the state after it,
:meth:`Model.check` says which promise a state breaks. test_explorer.py visits all states;
the real scheduler is driven along the same events and compared.

``bugs`` plants mistakes, to show that they are found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

EMPTY, COMPILING, READY, FAILED = range(4)  # ANE_SLOT_*
SLOTS = ("EMPTY", "COMPILING", "READY", "FAILED")
MAX_ALIVE = 2  # sets: the active one and the one being built

BUGS = {
    "third set": "a set is compiled while an old one is held by an evaluation",
    "install a failed set": "a boundary takes what is in the slot, whatever became of it",
    "weights free too early": "the arrays are given back after the first kernel was baked",
    "error kept": "a failed set is dropped without a word",
    "error twice": "a failed set stays in the slot after its error was told",
    "budget leaks": "what a failed set did not compile is not given back",
    "budget by kernel": "the budget is looked at for one kernel, not for the set",
    "evaluation without a pin": "an evaluation does not hold its generation",
    "install after close": "a waiting boundary does not look whether the trainer was closed",
    "bound ignored": "the end of a boundary does not wait",
    "left after close": "a job that ends after close leaves its set in the slot",
}


class Gen(NamedTuple):
    """A generation that was submitted and is not gone."""

    version: int
    refs: int
    loaded: int = 0
    baked: bool = False


class State(NamedTuple):
    slot: int = EMPTY
    active: int = -1
    pending: int = -1
    newest: int = -1
    place: str = "out"  # of the training thread: what it calls next
    gens: tuple[Gen, ...] = ()
    queue: tuple[tuple[str, int], ...] = ()  # ("compile" or "retire", version), the first runs
    job: tuple[str, int] | None = None  # (bake or load, kernel) the first job stands before
    deferred: int = -1
    closing: bool = False
    closed: bool = False
    evals: tuple[tuple[int, int], ...] = ()  # per thread: (version, kernel it stands before)
    reserved: int = 0
    used: int = 0
    failures: int = 0
    told: int = 0
    dropped: int = 0  # errors nobody could be told any more
    error: str = ""  # of the set in a FAILED slot

    def gen(self, version: int) -> Gen:
        return next(g for g in self.gens if g.version == version)

    @property
    def oldest_needed(self) -> int:
        """Weights of versions before this one may be overwritten."""
        if self.pending >= 0 and not self.gen(self.pending).baked:
            return self.pending
        return self.newest + 1

    @property
    def loaded(self) -> int:
        return sum(g.loaded for g in self.gens)


@dataclass(frozen=True)
class Model:
    """The machine for one bound on staleness.

    Args:
        staleness: as the trainer's; None swaps when ready and never waits.
        versions: how many versions the caller submits at most, the first one included.
        kernels: of the set; two are enough to mix generations.
        threads: that evaluate.
        limit: compiles of the process, 0 for no limit.
        eager: the queue retires and starts what it can at once, as it does when nothing
            holds it up; else this happens at any later time.
    """

    staleness: int | None = 1
    versions: int = 4
    kernels: int = 2
    threads: int = 1
    limit: int = 0
    eager: bool = False
    bugs: frozenset[str] = field(default_factory=frozenset)

    def start(self) -> State:
        return State(evals=((-1, 0),) * self.threads)

    # ------------------------------ what can happen ------------------------------

    def events(self, s: State) -> list[str]:
        """Names of the events that are possible in this state."""
        if s.closed and not s.gens:
            return []
        found = []
        if s.place != "out":
            found += [s.place.rstrip("+"), "interrupt"]
        elif s.newest + 1 < self.versions and not s.closing:
            found.append("boundary")
        if s.queue:
            kind = s.queue[0][0]
            if kind == "retire":
                found.append("retire")
            elif s.job is None:
                found.append("start")
            else:
                found += [f"{s.job[0]} ok", f"{s.job[0]} fails"]
                if s.job[0] == "load":
                    found.append("canary fails")
        for i, (version, _) in enumerate(s.evals):
            if version >= 0:
                found.append(f"eval {i} goes on")
            elif s.active >= 0 and not s.closing:
                found.append(f"eval {i} begins")
        if not s.closed:
            found += ["close", "micro-step"]
        return found

    def apply(self, s: State, event: str) -> tuple[State, str]:
        """The state after an event, and what the caller of it is told."""
        if event in ("boundary", "submit", "skip", "finish"):
            s, told = getattr(self, f"_{event}")(s)
        elif event == "interrupt":  # Ctrl-C, inside a wait or between two calls
            s, told = s._replace(place="out"), ""
        elif event == "close":
            s, told = self._close(s)
        elif event == "micro-step":
            told = "ok"
        elif event.startswith("eval"):
            s, told = self._eval(s, int(event.split()[1]), event.endswith("begins"))
        elif event == "retire":
            s, told = self._retire(s), ""
        elif event == "start":
            s, told = self._start(s), ""
        else:
            s, told = self._job(s, *event.split(" ")), ""
        while self.eager and s.queue and (s.queue[0][0] == "retire" or s.job is None):
            s = self._retire(s) if s.queue[0][0] == "retire" else self._start(s)
        return s, told

    # ------------------------------ the training thread ------------------------------

    def _broken(self, s: State, newest_then: int) -> bool:
        if s.active < 0:
            return True
        return self.staleness is not None and newest_then - s.active > self.staleness

    def _settle(self, s: State, newest_then: int) -> tuple[State, str]:
        if s.closing and "install after close" not in self.bugs:
            return s, "closed"
        slot = s.slot
        if slot == FAILED and "install a failed set" in self.bugs:
            slot = READY
        if slot == READY:
            old = s.active
            s = s._replace(active=s.pending, pending=-1, slot=EMPTY, error="")
            return (self._drop(s, old) if old >= 0 else s), "ok"
        if slot == FAILED:
            told = s.error
            if "error twice" in self.bugs:
                return s._replace(told=s.told + 1), told
            failed = s.pending
            s = s._replace(pending=-1, slot=EMPTY, error="")
            if "error kept" in self.bugs:
                return self._drop(s, failed), "ok"
            return self._drop(s._replace(told=s.told + 1), failed), told
        if slot == COMPILING:
            return s, "again" if self._broken(s, newest_then) else "skip"
        return s, "ok"

    def _boundary(self, s: State) -> tuple[State, str]:
        s, told = self._settle(s, s.newest + 1)
        place = {"ok": "submit", "skip": "skip", "again": "boundary+"}.get(told, "out")
        return s._replace(place=place), told

    def _submit(self, s: State) -> tuple[State, str]:
        if s.closing:
            return s._replace(place="out"), "closed"
        version = s.newest + 1
        gens = (*s.gens, Gen(version, refs=2))
        s = s._replace(newest=version, pending=version, slot=COMPILING, place="finish", gens=gens)
        if len(gens) > MAX_ALIVE and "third set" not in self.bugs:
            return s._replace(deferred=version), "ok"
        return s._replace(queue=(*s.queue, ("compile", version))), "ok"

    def _skip(self, s: State) -> tuple[State, str]:
        if s.closing:
            return s._replace(place="out"), "closed"
        return s._replace(newest=s.newest + 1, place="finish"), "ok"

    def _finish(self, s: State) -> tuple[State, str]:
        told = "ok"
        if s.closing and "install after close" not in self.bugs:
            return s._replace(place="out"), "closed"
        if self._broken(s, s.newest) and "bound ignored" not in self.bugs:
            if s.slot == EMPTY:
                return s._replace(place="out"), "state"
            s, told = self._settle(s, s.newest)
        if told == "again":
            return s._replace(place="finish+"), told
        if told == "skip":
            told = "ok"
        return s._replace(place="out"), told

    def _close(self, s: State) -> tuple[State, str]:
        active, pending = s.active, -1
        s = s._replace(closing=True, active=-1)
        if s.slot in (READY, FAILED):
            pending = s.pending
            s = s._replace(dropped=s.dropped + (s.slot == FAILED), pending=-1, slot=EMPTY, error="")
        if s.deferred >= 0:  # its job was never given to the queue
            s = self._drop(s, s.deferred)
            pending = s.deferred
            s = s._replace(pending=-1, slot=EMPTY, deferred=-1)
        for version in (active, pending):
            if version >= 0:
                s = self._drop(s, version)
        if self.eager:
            while s.queue and s.queue[0][0] == "retire":
                s = self._retire(s)
        if s.gens:
            return s, "again"
        return s._replace(closed=True), "ok"

    # ------------------------------ the compile queue ------------------------------

    def _put(self, s: State, gen: Gen) -> State:
        return s._replace(gens=tuple(gen if g.version == gen.version else g for g in s.gens))

    def _drop(self, s: State, version: int) -> State:
        gen = s.gen(version)
        gen = gen._replace(refs=gen.refs - 1)
        s = self._put(s, gen)
        return s._replace(queue=(*s.queue, ("retire", version))) if gen.refs == 0 else s

    def _retire(self, s: State) -> State:
        version = s.queue[0][1]
        s = s._replace(queue=s.queue[1:], gens=tuple(g for g in s.gens if g.version != version))
        if s.deferred >= 0 and len(s.gens) <= MAX_ALIVE:
            s = s._replace(queue=(*s.queue, ("compile", s.deferred)), deferred=-1)
        return s

    def _start(self, s: State) -> State:
        wanted = 1 if "budget by kernel" in self.bugs else self.kernels
        if self.limit and s.used + s.reserved + wanted > self.limit:
            return self._publish(s, "budget")
        s = s._replace(reserved=s.reserved + self.kernels)
        if s.closing:
            return self._publish(s, "closed")
        return s._replace(job=("bake", 0))

    def _job(self, s: State, step: str, outcome: str) -> State:
        assert s.job is not None
        kernel, version = s.job[1], s.queue[0][1]
        gen, last = s.gen(version), s.job[1] + 1 == self.kernels
        if step == "bake":
            if outcome == "fails":
                return self._publish(s, "bake")
            if last or "weights free too early" in self.bugs:
                s = self._put(s, gen._replace(baked=True))
            following = ("load", 0) if last else ("bake", kernel + 1)
        else:
            s = s._replace(used=s.used + 1, reserved=s.reserved - 1)
            if (step, outcome) == ("load", "fails"):
                return self._publish(s, "compile")
            s = self._put(s, gen._replace(loaded=gen.loaded + 1))
            if step == "canary":
                return self._publish(s, "canary")
            if last:
                return self._publish(s, "")
            following = ("load", kernel + 1)
        if s.closing:
            return self._publish(s, "closed")
        return s._replace(job=following)

    def _publish(self, s: State, error: str) -> State:
        version = s.queue[0][1]
        gen = s.gen(version)
        kept = self.kernels if "budget leaks" in self.bugs and error else 0
        s = self._put(s, gen._replace(baked=True))
        counts = error not in ("", "closed")
        s = s._replace(
            queue=s.queue[1:],
            job=None,
            reserved=min(s.reserved, kept),
            slot=FAILED if error else READY,
            error=error,
            failures=s.failures + counts,
        )
        if s.closing and not self.bugs & {"left after close", "install after close"}:
            s = s._replace(slot=EMPTY, pending=-1, error="", dropped=s.dropped + counts)
            s = self._drop(s, version)
        return self._drop(s, version)

    # ------------------------------ evaluations ------------------------------

    def _eval(self, s: State, i: int, begins: bool) -> tuple[State, str]:
        version, kernel = s.evals[i]
        pin = "evaluation without a pin" not in self.bugs
        if begins:
            version, kernel, told = s.active, 0, "stands"
            if pin:
                gen = s.gen(version)
                s = self._put(s, gen._replace(refs=gen.refs + 1))
        elif kernel + 1 < self.kernels:
            kernel, told = kernel + 1, "stands"
        else:
            if pin:
                s = self._drop(s, version)
            version, kernel, told = -1, 0, "ok"
        return s._replace(evals=(*s.evals[:i], (version, kernel), *s.evals[i + 1 :])), told

    # ------------------------------ promises ------------------------------

    def check(self, s: State) -> str | None:
        """The promise this state breaks, or None."""
        versions = [g.version for g in s.gens]
        waiting = [v for kind, v in s.queue if kind == "compile"]
        if s.deferred >= 0:
            waiting.append(s.deferred)
        for v in waiting:
            stage = s.job if s.queue and s.queue[0] == ("compile", v) else None
            if (stage is None or stage[0] == "bake") and s.oldest_needed > v:
                return "P1: weights may be overwritten before they were all baked"
        if s.active >= 0 and (s.active not in versions or s.gen(s.active).loaded != self.kernels):
            return "P2: the active set is not whole"
        if s.slot == READY and s.gen(s.pending).loaded != self.kernels:
            return "P2: a set is READY and not whole"
        if (s.slot == EMPTY) != (s.pending < 0) or (s.pending >= 0 and s.pending <= s.active):
            return "P3: the slot holds nothing newer than the active set"
        for version, _ in s.evals:
            if version >= 0 and (version not in versions or s.gen(version).loaded != self.kernels):
                return "P5, P6: a set was unloaded under an evaluation"
        if sum(g.loaded > 0 for g in s.gens) > 2:
            return "P6: three sets are loaded"
        if s.failures != s.told + s.dropped + (s.slot == FAILED):
            return "P7: a failure was not told exactly once"
        if self.limit and s.used + s.reserved > self.limit:
            return "P8: more was compiled or reserved than the budget allows"
        if s.reserved and s.job is None:
            return "P8: budget is reserved and nobody compiles"
        if s.slot == COMPILING and s.pending not in waiting:
            return "the slot waits for a job that does not exist"
        if s.closing and s.active >= 0:
            return "a set became active after close"
        if s.closed and (s.gens or s.queue):
            return "closed, and something is left"
        return None

    def check_step(self, s: State, event: str, after: State, told: str) -> str | None:
        """The promise this transition breaks, or None."""
        if after.active < s.active and not after.closing:
            return "P3: the active version went back"
        if after.active != s.active and event not in ("boundary", "finish", "close"):
            return "P5: the active set changed outside a boundary"
        if event == "finish" and told == "ok" and self._broken(after, after.newest):
            return "P4: a boundary returned beyond the bound on staleness"
        if self.staleness is None and told == "again" and s.active >= 0 and event != "close":
            return "P4: a boundary waits without a bound"
        return None

    def shows(self, s: State) -> dict[str, int]:
        """What ane_sched_state and the engine's counters say in this state."""
        return {
            "slot": s.slot,
            "active": s.active,
            "newest": s.newest,
            "pending": s.pending,
            "failures": s.failures,
            "oldest_needed": s.oldest_needed,
            "loaded": s.loaded,
            "reserved": s.reserved,
            "used": s.used,
        }
