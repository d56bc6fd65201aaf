# SPDX-License-Identifier: MIT
"""All states the scheduler can reach within small bounds, and the real one led through them.

First the model (model.py) is explored exhaustively: every order of submitting, finishing and
failing compiles, boundaries, evaluations, interrupts and closing, for every bound on staleness.
Then the real ``_core_sched.c``, built with an engine that does nothing and stops where it is
told to (tests/c/null_engine.c), is led along every transition of a smaller set of bounds; what
it shows is compared with the model after every single event.

    python tests/sched/test_explorer.py     # wider bounds; prints what was visited
"""

from __future__ import annotations

import functools
import importlib.util
import queue
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from model import BUGS, EMPTY, OFFER_BUGS, READY, SLOTS, UPDATE_BUGS, Model, State

ROOT = Path(__file__).resolve().parents[2]
STALENESS = [0, 1, 2, None]
DEPTH = 20  # longest event sequences that are counted
LONG_MS = 60_000

# ============================== The model ==============================


class Graph:
    """All reachable states of a model, how they were reached and where they lead."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.start = model.start()
        self.came: dict[State, tuple[State, str] | None] = {self.start: None}
        self.edges: dict[State, list[tuple[str, State, str]]] = {}
        self.broken = ""  # the promise that was broken first, and on which path
        todo = deque([self.start])
        while todo and not self.broken:
            state = todo.popleft()
            self.edges[state] = []
            for event in model.events(state):
                after, told = model.apply(state, event)
                self.edges[state].append((event, after, told))
                why = model.check_step(state, event, after, told)
                if after not in self.came:
                    why = why or model.check(after)
                    self.came[after] = (state, event)
                    todo.append(after)
                if why:
                    self.broken = f"{why}: {' · '.join([*self.path(state), event])}"
                    break

    def path(self, state: State) -> list[str]:
        """Events that lead from the start to a state, as few as possible."""
        events = []
        came = self.came[state]
        while came is not None:
            events.append(came[1])
            came = self.came[came[0]]
        return events[::-1]

    def transitions(self) -> int:
        return sum(len(e) for e in self.edges.values())

    def sequences(self, depth: int) -> int:
        """Number of different event sequences of exactly this length, or that end before."""
        here, ended = {self.start: 1}, 0
        for _ in range(depth):
            following: dict[State, int] = {}
            for state, n in here.items():
                ended += n if not self.edges[state] else 0
                for _, after, _ in self.edges[state]:
                    following[after] = following.get(after, 0) + n
            here = following
        return ended + sum(here.values())

    def stuck(self) -> int:
        """States from which no end (closed, nothing left) can be reached any more."""
        before: dict[State, list[State]] = {s: [] for s in self.edges}
        for state, edges in self.edges.items():
            for _, after, _ in edges:
                before[after].append(state)
        good = {s for s in self.edges if s.closed and not s.gens}
        todo = list(good)
        while todo:
            for state in before[todo.pop()]:
                if state not in good:
                    good.add(state)
                    todo.append(state)
        return len(self.edges) - len(good)


def explore(staleness: int | None, **bounds: int) -> Graph:
    """Visit all states; every promise must hold, and an end be in reach."""
    begin = time.monotonic()
    graph = Graph(Model(staleness, **bounds))
    assert not graph.broken, graph.broken
    assert graph.stuck() == 0
    print(
        f"staleness {staleness}, {bounds}: {len(graph.edges)} states, "
        f"{graph.transitions()} transitions, {graph.sequences(DEPTH)} sequences "
        f"of up to {DEPTH} events, {time.monotonic() - begin:.1f} s"
    )
    return graph


@pytest.mark.parametrize("staleness", STALENESS)
def test_every_reachable_state_keeps_the_promises(staleness: int | None) -> None:
    for bounds in ({"versions": 4}, {"versions": 4, "limit": 6}, {"versions": 3, "threads": 2}):
        graph = explore(staleness, **bounds)
        assert len(graph.edges) > 7_000
        assert graph.transitions() > 35_000
        assert graph.sequences(DEPTH) > 10**9
        assert {"out", "submit", "finish", "finish+"} <= {s.place for s in graph.edges}
        assert {s.slot for s in graph.edges} == set(range(len(SLOTS)))
        assert max(s.active for s in graph.edges) == bounds["versions"] - 1


@pytest.mark.parametrize("staleness", STALENESS)
def test_every_state_with_offers_keeps_the_promises(staleness: int | None) -> None:
    few = explore(staleness, versions=3, offers=0, limit=5, eager=True)
    states = list(few.edges)
    assert any(s.offered >= 0 and s.gen(s.offered).loaded == 2 for s in states)
    assert any(s.offered >= 0 and s.gen(s.offered).failed for s in states)
    more = {"kernels": 2 if staleness in (0, 1) else 1}
    states += explore(staleness, versions=2, offers=1, eager=True, **more).edges
    assert any(s.leaving and s.offered >= 0 for s in states)
    assert any(s.offered >= 0 and s.slot == READY for s in states)


@pytest.mark.parametrize("staleness", STALENESS)
def test_every_state_with_updates_keeps_the_promises(staleness: int | None) -> None:
    bounds: dict[str, Any] = {"versions": 3, "updates": True}
    for more in ({}, {"limit": 3, "eager": True}, {"threads": 2, "eager": True}):
        graph = explore(staleness, **bounds, **more)
        states = graph.edges
        assert any(s.updating >= 0 and s.closing for s in states)
        assert any(s.updating >= 0 and s.slot == EMPTY for s in states)  # closed above it
        assert any(
            s.updating >= 0 and s.pending != s.updating and s.pending >= 0 for s in states
        ) == (
            staleness in (2, None)  # counted while the set of another version is built
        )
        assert {"", "applied", "skipped"} == {s.outcome for s in states}
        assert max(s.skips for s in states) == 2


@pytest.mark.parametrize("bug", BUGS)
def test_every_planted_mistake_is_found(bug: str) -> None:
    for staleness in (1, 0, 2, None):
        for limit in (5, 0):
            bounds: dict[str, Any] = {"versions": 2, "offers": 1} if bug in OFFER_BUGS else {}
            if bug in UPDATE_BUGS:
                bounds = {"versions": 3, "updates": True, "kernels": 1, "eager": True}
            model = Model(staleness, limit=limit, bugs=frozenset([bug]), **bounds)
            graph = Graph(model)
            found = graph.broken or ("an end cannot be reached" if graph.stuck() else "")
            if found:
                print(f"{bug}: {found}")
                return
    pytest.fail(f"{bug} ({BUGS[bug]}) breaks no promise")


# ============================== The real scheduler ==============================

OUTCOME = {"ok": 0, "again": 1, "skip": 2}
REFUSAL = {"bake": -4, "budget": -7, "closed": -8, "compile": -6, "canary": -13, "state": -15}
ALLOW = {"bake fails": -4, "load fails": -6, "canary fails": -13}
STEP_CODE = {"bake": 0, "load": 2}  # NULL_BAKE, NULL_LOAD
COUNT = 8  # elements of a weight

NULL_CDEF = """
typedef struct {
    int64_t programs_made, programs_freed, requests_made, requests_freed, surfaces_made;
    int64_t surfaces_freed, loaded, peak_loaded, compiles, evals, reserved, limit, violations;
    int64_t files_taken;
} NullCounts;
typedef struct { int64_t version; int evals; bool mixed; } NullChain;
void null_reset(void);
void null_set_limit(int64_t limit);
void null_counts(NullCounts *out);
const char *null_first_violation(void);
void null_chain_begin(void);
NullChain null_chain_end(void);
void null_gate_job(bool shut);
void null_gate_eval(bool shut);
int null_job_wait(int ms);
void null_job_allow(int status);
void null_thread(int id);
void null_gate_update(bool shut);
bool null_update_wait(int ms);
void null_update_allow(int status);
void null_update_sync(AneHandle sched);
int null_eval_wait(int id, int ms);
void null_eval_allow(int id, int status);
void null_queue_sync(AneHandle sched);
"""


@functools.cache
def load_null() -> tuple[Any, Any]:
    """The scheduler on the null engine: (ffi, library). Kept: threads of its pool live on in it."""
    cffi = pytest.importorskip("cffi")
    spec = importlib.util.spec_from_file_location("sched_tool", ROOT / "tools" / "test_sched.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    ffi = cffi.FFI()
    ffi.cdef((ROOT / "ane_native" / "_core.cdef").read_text(encoding="utf-8"))
    ffi.cdef(NULL_CDEF)
    return ffi, ffi.dlopen(str(tool.library()))


class Evaluator:
    """A thread that evaluates the whole chain when told, and stops at the gate in between."""

    def __init__(self, ffi: Any, lib: Any, number: int) -> None:
        self._ffi, self._lib, self.number = ffi, lib, number
        self._orders: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._ready.wait()

    def _work(self) -> None:
        self._lib.null_thread(self.number)
        self._ready.set()
        while (order := self._orders.get()) is not None:
            handle, kernels = order
            chain = self._ffi.new("int32_t[]", list(range(kernels)))
            self._lib.null_chain_begin()
            status = self._lib.ane_sched_eval(handle, chain, kernels, self._ffi.NULL)
            self.results.put((status, self._lib.null_chain_end()))

    def begin(self, handle: int, kernels: int) -> None:
        self._orders.put((handle, kernels))

    def end(self) -> None:
        self._orders.put(None)
        self._thread.join()


class Real:
    """One real scheduler, led event by event; raises AssertionError where it leaves the model."""

    def __init__(
        self, ffi: Any, lib: Any, model: Model, evaluators: list[Evaluator], native: bool
    ) -> None:
        self._ffi, self._lib, self._model, self._evaluators = ffi, lib, model, evaluators
        self._micro = 0
        self._native = native  # the core runs the optimizer; else somebody provides the weights
        self._job: list[Any] = []  # arrays of the native update under way
        self._weights: dict[int, list[Any]] = {}
        self._offered: list[Any] = []  # arrays of the version to come, made at its first offer
        self._withdrawn: list[list[Any]] = []
        self._stamp: dict[int, int] = {}  # version: what its weights show
        lib.null_reset()
        lib.null_set_limit(model.limit)
        lib.null_gate_job(True)
        lib.null_gate_eval(True)
        lib.null_gate_update(True)
        shape = [1, 4, 1, 32]
        keep = [ffi.new("char[]", name) for name in (b"x", b"y", b"null")]
        ports = ffi.new("AnePort[]", [(keep[0], 1, 4, shape), (keep[1], 1, 4, shape)])
        sources = ffi.new("AneSource[]", model.kernels)
        kernels = ffi.new("AneKernel[]", model.kernels)
        for k in range(model.kernels):
            path = ffi.new("char[]", b"@model_path/weights/w.bin")
            blob = ffi.new("AneBlob[]", [(path, k, 0, 1, COUNT, ffi.NULL)])
            name = ffi.new("char[]", b"k%d" % k)
            keep += [path, blob, name]
            sources[k] = (name, keep[2], 4, blob, 1)
            kernels[k] = (name, k, ffi.NULL, ports, 1, ports + 1, 1)
        bound = -1 if model.staleness is None else model.staleness
        options = ffi.new("AneSchedOptions *", [bound, 17, 21, 1, 0])
        counts = ffi.new("int64_t[]", [COUNT] * model.kernels)
        out = ffi.new("AneHandle *")
        n = model.kernels
        assert not lib.ane_sched_create(
            sources, n, kernels, n, counts, n, ffi.NULL, 0, options, out, ffi.NULL
        )
        self.handle = int(out[0])

    def _pointers(self, version: int) -> Any:
        arrays = self._offered or self._fresh(version)
        self._weights[version], self._offered = arrays, []  # kept: never too early
        return self._ffi.new("void *[]", arrays)

    def _fresh(self, version: int) -> list[Any]:
        """Arrays whose content no generation had before, withdrawn ones included."""
        stamp = self._stamp[version] = version + 20 * len(self._withdrawn)
        return [self._ffi.new("float[]", [stamp] * COUNT) for _ in range(self._model.kernels)]

    def _offer(self, kernel: int, version: int) -> None:
        self._offered = self._offered or self._fresh(version)
        some = [self._ffi.NULL] * self._model.kernels
        some[kernel] = self._offered[kernel]
        pointers = self._ffi.new("void *[]", some)
        assert self._lib.ane_sched_offer(self.handle, pointers, self._ffi.NULL) == 0

    def _withdraw(self) -> None:
        if self._offered:
            self._withdrawn.append(self._offered)
            self._offered = []

    def _reuse(self, oldest_needed: int, leaving: int, updating: int) -> None:
        """Overwrite what the scheduler says it does not read any more."""
        for array in [a for arrays in self._withdrawn if not leaving for a in arrays]:
            for i in range(COUNT):
                array[i] = -1 - i
        for version in [v for v in self._weights if v < oldest_needed and v != updating]:
            for array in self._weights.pop(version):
                for i in range(COUNT):
                    array[i] = -1 - i

    def _begin_update(self, before: State, build: bool) -> int:
        """Hand over gradients; nothing is made of them before "update applied" or "skipped"."""
        lib, null, version = self._lib, self._ffi.NULL, before.newest + 1
        if not self._native:
            return int(lib.ane_sched_submit_update(self.handle, null, null, build, null))
        if before.closing or before.updating >= 0:  # refused, and the arrays of another one stay
            job = self._describe(version)[0]
            return int(lib.ane_sched_submit_update(self.handle, job, null, 0, null))
        job, made, self._job = self._describe(version)
        pointers = self._ffi.new("void *[]", made)
        status = int(lib.ane_sched_submit_update(self.handle, job, pointers, build, null))
        self._weights[version] = made
        assert lib.null_update_wait(LONG_MS)
        return status

    def _describe(self, version: int) -> tuple[Any, list[Any], list[Any]]:
        """An AdamW step at rate 0: its result are the masters before, which hold the stamp."""
        ffi, n = self._ffi, self._model.kernels
        masters, made = self._fresh(version), [ffi.new("float[]", [-7.0] * COUNT) for _ in range(n)]
        state = [[ffi.new("float[]", COUNT) for _ in range(n)] for _ in range(2)]
        gradients = ffi.new("float[]", COUNT * n)
        tensors = ffi.new(
            "AneUpdateTensor[]",
            [
                (
                    masters[k],
                    made[k],
                    state[0][k],
                    state[1][k],
                    gradients + k * COUNT,
                    COUNT,
                    0.0,
                    k,
                )
                for k in range(n)
            ],
        )
        job = ffi.new(
            "AneUpdateJob *",
            (tensors, n, gradients, COUNT * n, 0.0, 0.9, 0.95, 1e-8, 0.0, 1.0, 1, version),
        )
        return job, made, [masters, state, gradients, tensors, job]

    def _end_update(self, before: State, applied: bool) -> None:
        lib, null, version = self._lib, self._ffi.NULL, before.updating
        if self._native:
            lib.null_update_allow(0 if applied else -1)
            lib.null_update_sync(self.handle)
            return
        if applied:
            self._weights[version] = self._fresh(version)
        weights = self._ffi.new("void *[]", self._weights[version]) if applied else null
        failed = not applied and version % 2
        assert lib.ane_sched_provide(self.handle, version, weights, failed, null) == 0
        assert (
            lib.ane_sched_provide(self.handle, version, weights, failed, null) == REFUSAL["state"]
        )

    def _collect(self, before: State, told: str) -> None:
        out = self._ffi.new("AneUpdateResult *")
        status = int(self._lib.ane_sched_collect(self.handle, 0, out, self._ffi.NULL))
        assert status == {"again": 1, "none": 2}.get(told, 0), (told, status)
        if status == 0:
            assert bool(out.applied) == (told == "applied")
            assert out.version <= before.newest
            assert out.failed == (not self._native and told == "skipped" and out.version % 2)

    def _call(self, event: str, before: State, after: State) -> int:
        lib, null = self._lib, self._ffi.NULL
        if event == "boundary":
            return int(lib.ane_sched_boundary(self.handle, 0, null))
        if event == "submit":
            return int(
                lib.ane_sched_submit(self.handle, self._pointers(before.newest + 1), 0, null)
            )
        if event == "skip":
            self._withdraw()
            return int(lib.ane_sched_submit(self.handle, null, 0, null))
        if event in ("update", "count"):
            return self._begin_update(before, build=event == "update")
        stats = self._ffi.new("AneBatchStats *")
        status = int(lib.ane_sched_finish(self.handle, 0, stats, null))
        if status == 0:
            assert (stats.active, stats.newest) == (before.active, before.newest) or stats.swapped
            assert stats.micro_steps == self._micro
            assert stats.staleness == self._model.lag(after, after.newest)
            self._micro = 0
        return status

    def do(self, event: str, before: State, after: State, told: str) -> None:
        """Let one event happen and compare what can be seen with the model."""
        lib = self._lib
        if event in ("boundary", "submit", "skip", "finish", "update", "count"):
            status = self._call(event, before, after)
            assert status == OUTCOME.get(told, REFUSAL.get(told)), (event, told, status)
        elif event == "close":
            status = lib.ane_sched_close(self.handle, 0, self._ffi.NULL)
            for _ in range(LONG_MS):
                if status != 1 or told == "again":
                    break
                time.sleep(0.001)  # its queue is unloading
                status = lib.ane_sched_close(self.handle, 0, self._ffi.NULL)
            assert status == OUTCOME[told]
        elif event == "withdraw":
            self._withdraw()
            status = lib.ane_sched_withdraw(self.handle, 0, self._ffi.NULL)
            for _ in range(LONG_MS):
                if status != 1 or told == "again":
                    break
                time.sleep(0.001)  # the job's last words
                status = lib.ane_sched_withdraw(self.handle, 0, self._ffi.NULL)
            assert status == OUTCOME[told]
        elif event == "collect":
            self._collect(before, told)
        elif event.startswith("update"):
            self._end_update(before, applied=event.endswith("applied"))
        elif event.startswith("offer"):
            self._offer(int(event.split()[1]), before.newest + 1)
        elif event == "micro-step":
            assert lib.ane_sched_micro_step(self.handle, self._ffi.NULL) == 0
            self._micro += 1
        elif event.startswith("eval"):
            self._eval(event, before, told)
        elif event != "interrupt":
            lib.null_job_allow(ALLOW.get(event, 0))
        self._compare(after)

    def _eval(self, event: str, before: State, told: str) -> None:
        i = int(event.split()[1])
        if event.endswith("begins"):
            self._evaluators[i].begin(self.handle, self._model.kernels)
        else:
            self._lib.null_eval_allow(i, 0)
        if told == "stands":
            assert self._lib.null_eval_wait(i, LONG_MS) >= 0
            return
        status, chain = self._evaluators[i].results.get(timeout=LONG_MS / 1000)
        assert status == 0
        assert not chain.mixed
        version = self._stamp[before.evals[i][0]]
        assert (chain.version, chain.evals) == (version, self._model.kernels)

    def _compare(self, expected: State) -> None:
        lib = self._lib
        if expected.job is not None:
            step, kernel = expected.job
            assert lib.null_job_wait(LONG_MS) == STEP_CODE[step] * 1000 + kernel
        elif not expected.closed:
            lib.null_queue_sync(self.handle)
        counts = self._ffi.new("NullCounts *")
        lib.null_counts(counts)
        assert counts.violations == 0, self._ffi.string(lib.null_first_violation())
        shown = {"loaded": counts.loaded, "reserved": counts.reserved, "used": counts.compiles}
        state = self._ffi.new("AneSchedState *")
        status = lib.ane_sched_state(self.handle, state, self._ffi.NULL)
        assert status == (REFUSAL["closed"] if expected.closed else 0)
        if not expected.closed:
            names = ("slot", "active", "newest", "pending", "failures", "oldest_needed")
            names += ("offered", "leaving")
            shown |= {n: int(getattr(state, n)) for n in names}
            self._reuse(shown["oldest_needed"], shown["leaving"], expected.updating)
        wanted = self._model.shows(expected)
        assert shown == {n: wanted[n] for n in shown}

    def end(self, last: State) -> None:
        """Open all gates, close, and see that nothing is left."""
        lib = self._lib
        lib.null_gate_job(False)
        lib.null_gate_eval(False)
        lib.null_gate_update(False)
        if last.updating >= 0 and not self._native:
            lib.ane_sched_provide(self.handle, last.updating, self._ffi.NULL, 1, self._ffi.NULL)
        for i, (version, _) in enumerate(last.evals):
            if version >= 0:
                assert self._evaluators[i].results.get(timeout=LONG_MS / 1000)[0] == 0
        until = time.monotonic() + LONG_MS / 1000
        while lib.ane_sched_close(self.handle, 50, self._ffi.NULL) == 1:
            assert time.monotonic() < until
        counts = self._ffi.new("NullCounts *")
        while True:
            lib.null_counts(counts)
            if counts.surfaces_made == counts.surfaces_freed:  # the queue lets go last
                break
            assert time.monotonic() < until
            time.sleep(0.0005)
        assert counts.programs_made == counts.programs_freed
        assert counts.requests_made == counts.requests_freed
        assert (counts.loaded, counts.reserved, counts.violations) == (0, 0, 0)


Step = tuple[State, str, State, str]  # (before, event, after, what the caller is told)
Walk = list[Step]
OF_THE_BOUND = ("boundary", "finish")  # what the core looks at the bound for


def tours(graph: Graph, done: set[Step]) -> Iterator[Walk]:
    """Walks from the start that together use every transition of the graph that is not `done`.

    `done` grows. Graphs of other bounds share most of their states; what happens at the boundary
    is walked again for each of them.
    """
    left = {
        s: [e for e in edges if e[0] in OF_THE_BOUND or (s, *e) not in done]
        for s, edges in graph.edges.items()
    }

    def take(at: State, edge: tuple[str, State, str]) -> Step:
        if edge in left[at]:
            left[at].remove(edge)
        done.add((at, *edge))
        return (at, *edge)

    for state in sorted(graph.edges, key=lambda s: -len(graph.path(s))):
        while left[state]:
            walk, at = [], graph.start
            for event in graph.path(state):
                walk += [take(at, e) for e in list(left[at]) if e[1] == at]
                walk.append(take(at, next(e for e in graph.edges[at] if e[0] == event)))
                at = walk[-1][2]
            while left[at]:  # what stays here first, what leads on before what ends soon
                edge = max(left[at], key=lambda e: (e[1] == at, bool(left[e[1]]), e[0] != "close"))
                walk.append(take(at, edge))
                at = edge[1]
            yield walk


def random_walks(model: Model, count: int, length: int) -> Iterator[Walk]:
    """Walks beyond the bounds that can be covered; the same ones in every run."""
    dice = random.Random(20260101)
    for _ in range(count):
        walk, at = [], model.start()
        while len(walk) < length and (events := model.events(at)):
            quiet = [e for e in events if e not in ("close", "micro-step", "interrupt")]
            event = dice.choice(quiet if quiet and dice.random() < 0.95 else events)
            after, told = model.apply(at, event)
            walk.append((at, event, after, told))
            at = after
        yield walk


def drive(model: Model, walks: Iterable[Walk]) -> tuple[int, int]:
    """Lead the real scheduler along these walks; (walks, events)."""
    ffi, lib = load_null()
    evaluators = [Evaluator(ffi, lib, i) for i in range(model.threads)]
    count = events = 0
    for walk in walks:
        real = Real(ffi, lib, model, evaluators, native=model.updates and count % 2 == 1)
        for i, (before, event, after, told) in enumerate(walk):
            try:
                real.do(event, before, after, told)
            except AssertionError as error:
                so_far = " · ".join(e for _, e, _, _ in walk[: i + 1])
                raise AssertionError(f"after {so_far}: {error}") from error
        real.end(walk[-1][2])
        count += 1
        events += len(walk)
    for e in evaluators:
        e.end()
    return count, events


def follow(bounds: Iterable[dict[str, Any]], what: str) -> int:
    """Lead the real scheduler through all transitions of these models; how many those are."""
    done: set[Step] = set()
    for bound in bounds:
        begin = time.monotonic()
        graph = Graph(Model(eager=True, **bound))
        assert not graph.broken, graph.broken
        before = len(done)
        walks, events = drive(graph.model, tours(graph, done))
        assert all((s, *e) in done for s, edges in graph.edges.items() for e in edges)
        print(
            f"real scheduler{what}, {bound}: {graph.transitions()} transitions, {len(done) - before} "
            f"of them new, in {walks} walks of {events} events, {time.monotonic() - begin:.1f} s"
        )
    return len(done)


def test_the_real_scheduler_follows_the_model_through_every_transition() -> None:
    bounds: list[dict[str, Any]] = [{"staleness": n, "versions": 3} for n in (1, 0, 2, None)]
    assert follow([*bounds, *({**b, "limit": 5} for b in bounds)], "") > 12_000


def test_the_real_scheduler_follows_the_model_through_offers() -> None:
    one = {"versions": 2, "kernels": 1, "offers": 1}
    assert follow([{"staleness": n, **one} for n in (0, 2)], " with offers") > 10_000
    two = {"versions": 2, "offers": 0}  # the command withdraws one of these, too
    assert follow([{"staleness": n, **two} for n in (0, 2)], " with offers") > 5_000


def test_the_real_scheduler_follows_the_model_through_updates() -> None:
    small = {"versions": 3, "kernels": 1, "updates": True}  # a version is counted and not built
    assert follow([{"staleness": n, **small} for n in (2, 1, 0, None)], " with updates") > 9_000
    two = {"versions": 2, "updates": True}
    assert follow([{"staleness": n, **two} for n in (1, 0)], " with updates") > 4_000


@pytest.mark.parametrize("staleness", STALENESS)
def test_the_real_scheduler_follows_the_model_on_long_walks(staleness: int | None) -> None:
    events = walks = 0
    for more in ({}, {"offers": 20}, {"updates": True}):
        bounds: dict[str, Any] = {"versions": 12, "kernels": 3, "threads": 3, "eager": True}
        model = Model(staleness, **bounds, **more)
        some = drive(model, random_walks(model, count=60, length=120))
        walks, events = walks + some[0], events + some[1]
    print(f"real scheduler, staleness {staleness}: {walks} random walks of {events} events")
    assert events > 5_000


if __name__ == "__main__":
    for bound in STALENESS:
        for size in ({"versions": 6}, {"versions": 4, "threads": 2}, {"versions": 4, "kernels": 3}):
            explore(bound, **size)
        explore(bound, versions=2, offers=1)
        explore(bound, versions=4, updates=True)
        explore(bound, versions=3, offers=0, limit=5)
    offers = [{"staleness": n, "versions": 2, "offers": 1} for n in (0, 1, 2, None)]
    follow(offers, " with offers")
    follow(
        [{"staleness": n, "versions": 3, "updates": True} for n in (2, 1, 0, None)], " with updates"
    )
    sys.path.insert(0, str(ROOT))
    sys.exit(pytest.main([__file__, "-q", "-s", "-p", "no:cacheprovider"]))
