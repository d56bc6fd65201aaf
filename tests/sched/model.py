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
    "failed offer compiles": "an offered set that failed is submitted as if it were under way",
    "withdrawal not waited for": "the arrays of a withdrawn offer are given back at once",
    "built before the update": "a set is baked while its weights are being made",
    "skipped set stays": "the set of a skipped update is left in the slot",
    "skips count": "a skipped update counts as one the active set lags",
    "update overtaken": "an update is begun while another one runs",
    "update left behind": "a close does not wait for the update under way",
}
OFFER_BUGS = ("failed offer compiles", "withdrawal not waited for")
UPDATE_BUGS = (
    *("built before the update", "skipped set stays", "skips count", "update overtaken"),
    "update left behind",
)


class Gen(NamedTuple):
    """A generation that was offered or submitted and is not gone.

    Kernels are bits. ``key`` is the version, or for a withdrawn offer a number below -1.
    """

    key: int
    refs: int = 1
    given: int = 0
    baked: int = 0
    up: int = 0  # loaded
    held: int = 0  # of the budget
    baking: bool = True
    started: bool = False
    running: bool = False
    submitted: bool = False
    failed: str = ""
    updating: bool = False  # its weights are being made
    skips: int = 0  # updates skipped before its weights were made

    @property
    def loaded(self) -> int:
        return self.up.bit_count()


class State(NamedTuple):
    slot: int = EMPTY
    active: int = -1
    pending: int = -1
    newest: int = -1
    place: str = "out"  # of the training thread: what it calls next
    gens: tuple[Gen, ...] = ()
    queue: tuple[tuple[str, int], ...] = ()  # ("compile" or "retire", version), the first runs
    job: tuple[str, int] | None = None  # (bake or load, kernel) the first job stands before
    offered: int = -1
    withdrawn: int = 0  # offers so far
    leaving: int = 0
    closing: bool = False
    closed: bool = False
    evals: tuple[tuple[int, int], ...] = ()  # per thread: (version, kernel it stands before)
    leaked: int = 0
    used: int = 0
    failures: int = 0
    told: int = 0
    dropped: int = 0  # errors nobody could be told any more
    updating: int = -1  # version of the update under way
    outcome: str = ""  # of the last update: applied or skipped
    skips: int = 0

    def gen(self, key: int) -> Gen:
        return next(g for g in self.gens if g.key == key)

    @property
    def reserved(self) -> int:
        return self.leaked + sum(g.held for g in self.gens)

    @property
    def sets(self) -> int:
        return sum(g.started for g in self.gens)

    @property
    def oldest_needed(self) -> int:
        """Weights of versions before this one may be overwritten."""
        if self.pending >= 0 and self.gen(self.pending).baking:
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
        offers: how many offers may be withdrawn, after which none is made any more; None: the
            caller makes none.
        updates: the caller may hand over gradients in place of weights; each update is applied
            or leaves the weights as they are.
        eager: the queue retires and starts what it can at once, as it does when nothing
            holds it up; else this happens at any later time.
    """

    staleness: int | None = 1
    versions: int = 4
    kernels: int = 2
    threads: int = 1
    limit: int = 0
    offers: int | None = None
    updates: bool = False
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
            if self.updates and s.newest >= 0 and s.place in ("submit", "skip"):
                found.append({"submit": "update", "skip": "count"}[s.place])
        elif s.newest + 1 < self.versions and not s.closing:
            found.append("boundary")
            found += self._offers(s)
        if s.updating >= 0:
            found += ["update applied", "update skipped"]
        if s.place == "out" and self.updates and not s.closed:
            found.append("collect")
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

    def _offers(self, s: State) -> list[str]:
        if self.offers is None or s.newest < 0:
            return []
        given = s.gen(s.offered).given if s.offered >= 0 else 0
        found = []
        if s.offered >= 0 or s.withdrawn <= self.offers:
            found = [f"offer {k}" for k in range(self.kernels) if not given >> k & 1]
        if s.leaving or (s.offered >= 0 and s.withdrawn < self.offers):
            found.append("withdraw")
        return found

    def apply(self, s: State, event: str) -> tuple[State, str]:
        """The state after an event, and what the caller of it is told."""
        if event in (
            "boundary",
            "submit",
            "skip",
            "finish",
            "update",
            "count",
            "close",
            "withdraw",
        ):
            s, told = getattr(self, f"_{event}")(s)
        elif event == "interrupt":  # Ctrl-C, inside a wait or between two calls
            s, told = s._replace(place="out"), ""
        elif event == "collect":
            told = "again" if s.updating >= 0 else s.outcome or "none"
        elif event.startswith("update"):
            s, told = self._end_update(s, applied=event.endswith("applied")), ""
        elif event.startswith("offer"):
            s, told = self._offer(s, 1 << int(event.split()[1])), "ok"
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

    def lag(self, s: State, newest_then: int) -> int:
        """Updates the active set lags behind; skipped ones changed nothing."""
        return newest_then - s.active - (s.skips - s.gen(s.active).skips)

    def _broken(self, s: State, newest_then: int) -> bool:
        if s.active < 0:
            return True
        lag = self.lag(s, newest_then)
        if "skips count" in self.bugs:
            lag = newest_then - s.active
        return self.staleness is not None and lag > self.staleness

    def _settle(self, s: State, newest_then: int) -> tuple[State, str]:
        if s.closing and "install after close" not in self.bugs:
            return s, "closed"
        slot = s.slot
        if slot == FAILED and "install a failed set" in self.bugs:
            slot = READY
        if slot == READY:
            old = s.active
            s = s._replace(active=s.pending, pending=-1, slot=EMPTY)
            return (self._drop(s, old) if old >= 0 else s), "ok"
        if slot == FAILED:
            failed = s.pending
            told = s.gen(failed).failed
            if "error twice" in self.bugs:
                return s._replace(told=s.told + 1), told
            s = s._replace(pending=-1, slot=EMPTY)
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

    def _refusal(self, s: State) -> str:
        """Why no version can be taken now."""
        if s.closing:
            return "closed"
        return "state" if s.updating >= 0 and "update overtaken" not in self.bugs else ""

    def _submit(self, s: State) -> tuple[State, str]:
        if refusal := self._refusal(s):
            return s._replace(place="out"), refusal
        s = self._give(s, self.all)
        gen = s.gen(s.offered)
        slot = COMPILING
        if gen.failed and "failed offer compiles" not in self.bugs:
            slot = FAILED
        elif gen.up == self.all and not gen.running and not gen.failed:
            slot = READY
        baking = not gen.failed and gen.baked != self.all
        s = self._put(s, gen._replace(submitted=True, baking=baking, skips=s.skips))
        s = s._replace(newest=gen.key, pending=gen.key, offered=-1, slot=slot, place="finish")
        return self._wake(s), "ok"

    def _skip(self, s: State) -> tuple[State, str]:
        if refusal := self._refusal(s):
            return s._replace(place="out"), refusal
        if s.offered >= 0:
            s, _ = self._withdraw(s)
        return s._replace(newest=s.newest + 1, place="finish"), "ok"

    # ------------------------------ updates ------------------------------

    def _update(self, s: State) -> tuple[State, str]:
        """Gradients for the next version, whose set is built from what the update makes."""
        if refusal := self._refusal(s):
            return s._replace(place="out"), refusal
        key = s.newest + 1
        gen = Gen(key, refs=2, given=self.all, submitted=True, updating=True, skips=s.skips)
        s = s._replace(gens=(*s.gens, gen), newest=key, pending=key, slot=COMPILING)
        return self._wake(s._replace(updating=key, outcome="", place="finish")), "ok"

    def _count(self, s: State) -> tuple[State, str]:
        """The same while the slot is full: no set is built of that version."""
        if refusal := self._refusal(s):
            return s._replace(place="out"), refusal
        key = s.newest + 1
        return s._replace(newest=key, updating=key, outcome="", place="finish"), "ok"

    def _end_update(self, s: State, applied: bool) -> State:
        key = s.updating
        s = s._replace(updating=-1, outcome="applied" if applied else "skipped")
        s = s._replace(skips=s.skips + (not applied))
        if all(g.key != key for g in s.gens):
            return s
        gen = s.gen(key)
        gen = gen._replace(updating=False, skips=s.skips, baking=gen.baking and applied)
        s = self._put(s, gen)
        empty = not applied and s.pending == key and "skipped set stays" not in self.bugs
        if empty:  # as if it had never been asked for
            s = s._replace(pending=-1, slot=EMPTY)
        if applied:
            s = self._wake(s)
        for _ in range(1 + empty):
            s = self._drop(s, key)
        return s

    # ------------------------------ offers ------------------------------

    @property
    def all(self) -> int:
        return (1 << self.kernels) - 1

    def _give(self, s: State, kernels: int) -> State:
        if s.offered < 0:
            key = s.newest + 1
            s = s._replace(gens=(*s.gens, Gen(key)), offered=key)
        gen = s.gen(s.offered)
        return self._put(s, gen._replace(given=gen.given | kernels))

    def _offer(self, s: State, kernels: int) -> State:
        return self._wake(self._give(s, kernels))

    def _withdraw(self, s: State) -> tuple[State, str]:
        if s.offered >= 0:
            gen, key = s.gen(s.offered), -2 - s.withdrawn
            renamed = tuple((kind, key if k == gen.key else k) for kind, k in s.queue)
            gens = tuple(g._replace(key=key) if g is gen else g for g in s.gens)
            waits = gen.running and "withdrawal not waited for" not in self.bugs
            s = s._replace(gens=gens, queue=renamed, offered=-1, withdrawn=s.withdrawn + 1)
            s = s._replace(leaving=s.leaving + waits, dropped=s.dropped + self._counts(gen.failed))
            s = self._drop(s, key)
        return s, "again" if s.leaving else "ok"

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
        gone = [s.active, s.offered]
        s = s._replace(closing=True, active=-1, offered=-1)
        if gone[1] >= 0:
            s = s._replace(dropped=s.dropped + self._counts(s.gen(gone[1]).failed))
        if s.pending >= 0 and not s.gen(s.pending).running:
            gone.append(s.pending)
            s = s._replace(dropped=s.dropped + (s.slot == FAILED), pending=-1, slot=EMPTY)
        for key in gone:
            if key >= 0:
                s = self._drop(s, key)
        if self.eager:
            while s.queue and s.queue[0][0] == "retire":
                s = self._retire(s)
        updating = s.updating >= 0 and "update left behind" not in self.bugs
        if s.gens or updating:
            return s, "again"
        return s._replace(closed=True), "ok"

    # ------------------------------ the compile queue ------------------------------

    def _put(self, s: State, gen: Gen) -> State:
        return s._replace(gens=tuple(gen if g.key == gen.key else g for g in s.gens))

    def _drop(self, s: State, key: int) -> State:
        gen = s.gen(key)
        gen = gen._replace(refs=gen.refs - 1)
        s = self._put(s, gen)
        return s._replace(queue=(*s.queue, ("retire", key))) if gen.refs == 0 else s

    def _retire(self, s: State) -> State:
        key = s.queue[0][1]
        s = s._replace(queue=s.queue[1:], gens=tuple(g for g in s.gens if g.key != key))
        return self._wake(s)

    def _wake(self, s: State) -> State:
        """Give the job that may run now to the queue, if there is one."""
        key = {COMPILING: s.pending, EMPTY: s.offered}.get(s.slot, -1)
        gen = s.gen(key) if key >= 0 else None
        if gen is None or gen.running or gen.failed or s.closing:
            return s
        if gen.updating and "built before the update" not in self.bugs:
            return s
        if not gen.started and s.sets >= MAX_ALIVE and "third set" not in self.bugs:
            return s
        if not gen.submitted and self._next(gen) is None:
            return s
        s = self._put(s, gen._replace(started=True, running=True, refs=gen.refs + 1))
        return s._replace(queue=(*s.queue, ("compile", key)))

    def _next(self, gen: Gen) -> tuple[str, int] | None:
        """The step of a generation that can be taken: bake what was given, else load."""
        for step, able, done in (("bake", gen.given, gen.baked), ("load", gen.baked, gen.up)):
            for k in range(self.kernels):
                if able >> k & 1 and not done >> k & 1:
                    return step, k
        return None

    def _start(self, s: State) -> State:
        gen = s.gen(s.queue[0][1])
        if not gen.held:
            wanted = 1 if "budget by kernel" in self.bugs else self.kernels
            if self.limit and s.used + s.reserved + wanted > self.limit:
                return self._publish(s, "budget")
            s = self._put(s, gen._replace(held=self.kernels))
        return self._go_on(s)

    def _go_on(self, s: State) -> State:
        gen = s.gen(s.queue[0][1])
        if s.closing or gen.key < -1:
            return self._publish(s, "closed")
        step = self._next(gen)
        return self._publish(s, "") if step is None else s._replace(job=step)

    def _job(self, s: State, step: str, outcome: str) -> State:
        assert s.job is not None
        gen, bit = s.gen(s.queue[0][1]), 1 << s.job[1]
        if step == "bake":
            if outcome == "fails":
                return self._publish(s, "bake")
            baked = gen.baked | bit
            baking = baked != self.all and "weights free too early" not in self.bugs
            return self._go_on(self._put(s, gen._replace(baked=baked, baking=baking)))
        s, gen = s._replace(used=s.used + 1), gen._replace(held=gen.held - 1)
        if (step, outcome) == ("load", "fails"):
            return self._publish(self._put(s, gen), "compile")
        s = self._put(s, gen._replace(up=gen.up | bit))
        return self._publish(s, "canary") if step == "canary" else self._go_on(s)

    def _counts(self, error: str) -> bool:
        return error not in ("", "closed")

    def _publish(self, s: State, error: str) -> State:
        """The job leaves the queue: the set is whole, failed, or more weights are to come."""
        key = s.queue[0][1]
        gen = s.gen(key)
        if error or gen.up == self.all:
            leaks = error and "budget leaks" in self.bugs
            s = s._replace(leaked=s.leaked + gen.held if leaks else s.leaked)
            gen = gen._replace(held=0)
        gen = gen._replace(
            running=False, failed=error, baking=gen.baking and not (error or gen.submitted)
        )
        counts = self._counts(error)
        waited = key < -1 and "withdrawal not waited for" not in self.bugs
        s = self._put(s, gen)._replace(queue=s.queue[1:], job=None, failures=s.failures + counts)
        s = s._replace(leaving=s.leaving - waited)
        if key == s.pending:
            s = s._replace(slot=FAILED if error else READY)
            if s.closing and not self.bugs & {"left after close", "install after close"}:
                s = s._replace(slot=EMPTY, pending=-1, dropped=s.dropped + counts)
                s = self._drop(s, key)
        elif key != s.offered:  # withdrawn, or closed
            s = s._replace(dropped=s.dropped + counts)
        return self._drop(s, key)

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
        versions = [g.key for g in s.gens]
        for g in s.gens:
            reads = (g.running or g.key == s.pending) and not g.failed and g.baked != self.all
            if reads and g.submitted and s.oldest_needed > g.key:
                return "P1: weights may be overwritten before they were all baked"
        if s.leaving != sum(g.running and g.key < -1 for g in s.gens):
            return "P1: weights of a withdrawn offer may be overwritten while they are baked"
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
        untold = s.offered >= 0 and self._counts(s.gen(s.offered).failed)
        if s.failures != s.told + s.dropped + (s.slot == FAILED) + untold:
            return "P7: a failure was not told exactly once"
        if self.limit and s.used + s.reserved > self.limit:
            return "P8: more was compiled or reserved than the budget allows"
        for g in s.gens:
            comes = g.key == s.offered and not g.failed and g.up != self.all
            if g.held and not (g.running or comes or g.refs == 0):
                return "P8: budget is reserved and nobody compiles"
        if s.leaked:
            return "P8: budget is reserved and nobody compiles"
        if s.slot == COMPILING:
            gen = s.gen(s.pending)
            if not (gen.running or gen.updating) and (gen.started or s.sets < MAX_ALIVE):
                return "the slot waits for a job that does not exist"
        if s.closing and s.active >= 0:
            return "a set became active after close"
        if s.closed and (s.gens or s.queue or s.updating >= 0):
            return "closed, and something is left"
        return self._check_updates(s)

    def _check_updates(self, s: State) -> str | None:
        made = [g for g in s.gens if g.updating]
        if any(g.started or g.baked for g in made):
            return "P1: a set is built from weights that are not made yet"
        if s.updating not in (-1, s.newest) or any(g.key != s.updating for g in made):
            return "an update was overtaken by another one"
        if s.active >= 0 and self.lag(s, s.newest) < 0:
            return "P4: the staleness is below zero"
        return None

    def check_step(self, s: State, event: str, after: State, told: str) -> str | None:
        """The promise this transition breaks, or None."""
        if after.active < s.active and not after.closing:
            return "P3: the active version went back"
        if after.active != s.active and event not in ("boundary", "finish", "close"):
            return "P5: the active set changed outside a boundary"
        if event == "finish" and told == "ok" and self._broken(after, after.newest):
            return "P4: a boundary returned beyond the bound on staleness"
        if event == "finish" and told == "state" and s.active >= 0:
            bound = self.staleness
            if bound is not None and self.lag(after, after.newest) <= bound:
                return "P4: a boundary within the bound is refused"
        if event == "update skipped" and s.updating in (after.pending, after.active):
            return "a skipped update has a set"
        waits = told == "again" and event not in ("close", "withdraw", "collect")
        if self.staleness is None and waits and s.active >= 0:
            return "P4: a boundary waits without a bound"
        return None

    def shows(self, s: State) -> dict[str, int]:
        """What ane_sched_state and the engine's counters say in this state."""
        return {
            "slot": s.slot,
            "active": s.active,
            "newest": s.newest,
            "pending": s.pending,
            "offered": s.offered,
            "leaving": s.leaving,
            "failures": s.failures,
            "oldest_needed": s.oldest_needed,
            "loaded": s.loaded,
            "reserved": s.reserved,
            "used": s.used,
        }
