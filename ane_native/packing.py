# SPDX-License-Identifier: MIT
"""Several kernels as the procedures of one program: fewer compiles, fewer loaded programs.

A process may compile about 119 programs and hold about 128; a compile has a fixed cost. So
kernels are merged: their texts become functions of one text (:func:`merge`), weight files that
hold the same are stored once, functions that are the same exist once. Which kernels go
together is decided by :func:`plan`: kernels that bake the same weights stay together, in the
order of the set, and kernels that never change stay apart from the others, so that later
generations find their program loaded already.

How many programs? With one compile costing ``fixed`` + the ``content`` of its kernels, P
programs cost P fixed + content in all, and of that about content / P cannot begin before the
last weights are final (the program that holds them). P fixed + content / P is least at
P = sqrt(content / fixed); limits on procedures and bytes of one program may ask for more.

Programs are told apart by name through the loaded program's attributes (``_core_bind.m``),
and the canaries of a new packed program must differ (``_core_canary.c``).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .errors import ConfigError
from .kernel import WEIGHTS_PREFIX, Kernel, KernelSet, Source, Weight, single_sources

__all__ = ["LIMITS", "Limits", "Packing", "PackingChoice", "merge", "pack", "plan", "predicted_ms"]

log = logging.getLogger("ane_native")

PackingChoice = Literal["auto"] | int | Sequence[Sequence[str]] | None

# =============================== Limits and costs ===============================


@dataclass(frozen=True)
class Limits:
    """What one program may hold, and what compiling costs (only ratios matter).

    Attributes:
        procedures: functions of a program. On one M5 Pro evaluation failed from procedure 55
            or 69 of 128 on (jundot/omlx #2940); 112 in two programs ran on an M3 Ultra.
        program_mib: baked weights of a program, MiB. About 2 GB are refused
            (sbryngelson/ANEForge).
        loaded: programs a process may hold; 121 to 128 were reported. Two generations are.
        fixed_ms, operation_ms, mib_ms: of one compile, of each operation, of each MiB of
            weights; fitted to 60 kernels on an M4 (maderix/ANE #3).
    """

    procedures: int = 48
    program_mib: float = 1024.0
    loaded: int = 120
    fixed_ms: float = 22.0
    operation_ms: float = 0.75
    mib_ms: float = 3.9


LIMITS = Limits()


@dataclass(frozen=True)
class Packing:
    """How a set's kernels were put into programs.

    Attributes:
        sources: one for each program.
        why: for people.
        fallback: why packing was given up, None when it was not.
    """

    sources: tuple[Source, ...]
    why: str
    fallback: str | None = None

    def __repr__(self) -> str:
        return f"<Packing: {self.why}>"


def predicted_ms(
    packing: Packing, kernels: KernelSet, sizes: Mapping[str, int], limits: Limits
) -> float:
    """What compiling a whole set takes by these costs, one program after the other.

    Args:
        packing: of the set.
        kernels: the set.
        sizes: elements of each weight.
        limits: whose ``fixed_ms``, ``operation_ms`` and ``mib_ms`` are meant absolutely.
    """
    return len(packing.sources) * limits.fixed_ms + sum(
        limits.operation_ms * _operations(k) + limits.mib_ms * _mib(k, sizes)
        for k in kernels.kernels
    )


# =============================== Reading a text =================================

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|[A-Za-z_][A-Za-z0-9_]*|->|[^\s]', re.DOTALL)
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}


class UnpackableError(ValueError):
    """A kernel's text cannot be merged with others; says why."""


@dataclass(frozen=True)
class Function:
    """One function of a text: where it stands and what must agree to share a program."""

    header: str  # everything before the body, white space outside strings collapsed
    opset: str
    before: str  # "func "
    after: str  # from behind the name to the semicolon


def read_function(kernel: str, text: str) -> Function:
    """The one function of a program text.

    Strings, comments and all kinds of brackets are respected; nothing else is understood.

    Raises:
        UnpackableError: not one function, or brackets that do not match.
    """
    stack: list[str] = []
    header_end = -1
    functions: list[tuple[int, int, int]] = []  # func, end of its name, end
    start = name_end = -1
    arrow = False
    tokens = [m for m in _TOKEN.finditer(text) if not m[0].startswith("//")]
    for i, token in enumerate(tokens):
        word = token[0]
        if word in _OPEN:
            if header_end < 0 and word == "{" and not stack:
                header_end = token.start()
            stack.append(_OPEN[word])
        elif word in _CLOSE:
            if not stack or stack.pop() != word:
                raise UnpackableError(f"kernel {kernel!r}: brackets of the text do not match")
        elif len(stack) == 1 and header_end >= 0:
            if word == "func" and start < 0 and i + 1 < len(tokens):
                start, name_end, arrow = token.start(), tokens[i + 1].end(), False
            elif word == "->":
                arrow = True
            elif word == ";" and start >= 0 and arrow:
                functions.append((start, name_end, token.end()))
                start = -1
    if stack or header_end < 0:
        raise UnpackableError(f"kernel {kernel!r}: the text has no program body that ends")
    if len(functions) != 1:
        raise UnpackableError(
            f"kernel {kernel!r}: expected one function in its text, got {len(functions)}"
        )
    begin, name_end, end = functions[0]
    after = text[name_end:end]
    opset = re.match(r"\s*<\s*([^>]*?)\s*>", after)
    header = " ".join(m[0] for m in _TOKEN.finditer(text[:header_end]) if not m[0].startswith("//"))
    return Function(header, opset[1] if opset else "", text[begin : begin + 5], after)


def _with_paths(after: str, paths: Mapping[str, str]) -> str:
    """The text with the strings that are weight paths exchanged."""

    def exchange(m: re.Match[str]) -> str:
        word = m[0]
        return f'"{paths[word[1:-1]]}"' if word[0] == '"' and word[1:-1] in paths else word

    return _TOKEN.sub(exchange, after)


# =============================== Merging ========================================


def merge(kernels: Sequence[Kernel], positions: Sequence[int]) -> Source:
    """One source with a function for each of these kernels of a set.

    Weight files of the same weight and transform are one file, equal constants too; equal
    functions over the same files are one function.

    Args:
        kernels: of the whole set.
        positions: those to merge.

    Raises:
        UnpackableError: a text has several functions, or headers or opsets differ.
    """
    chosen = [kernels[p] for p in positions]
    read = [read_function(k.name, k.mil) for k in chosen]
    for kernel, function in zip(chosen, read, strict=True):
        for what in ("header", "opset"):
            if getattr(function, what) != getattr(read[0], what):
                raise UnpackableError(
                    f"kernels {chosen[0].name!r} and {kernel.name!r} differ in the {what} of their "
                    "texts: they cannot share a program"
                )
    files: dict[str, Weight | np.ndarray] = {}
    known: dict[object, str] = {}
    bodies: dict[str, str] = {}  # text behind the name -> name
    functions = []
    for kernel, function in zip(chosen, read, strict=True):
        paths = {}
        for path, value in kernel.weights.items():
            key = value if isinstance(value, Weight) else value.tobytes()
            if key not in known:
                base = re.sub(r"[^A-Za-z0-9_.]", "_", path[len(WEIGHTS_PREFIX) :])[-80:]
                known[key] = f"{WEIGHTS_PREFIX}w{len(files):04d}_{base}"
                files[known[key]] = value
            paths[path] = known[key]
        body = _with_paths(function.after, paths)
        if body not in bodies:
            clean = re.sub(r"[^A-Za-z0-9_]", "_", kernel.name)[:80]
            bodies[body] = f"p{len(bodies):03d}_{clean}"
        functions.append(bodies[body])
    open_at = _body_start(chosen[0].mil)
    text = chosen[0].mil[:open_at] + "{\n"
    text += "\n".join(f"    func {name}{body}" for body, name in bodies.items()) + "\n}\n"
    name = chosen[0].name
    if len(chosen) > 1:
        name += f" … {chosen[-1].name} ({len(chosen)} kernels)"
    return Source(name, text, files, tuple(positions), tuple(functions))


def _body_start(text: str) -> int:
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] == "{" and depth == 0:
            return token.start()
        depth += (token[0] in _OPEN) - (token[0] in _CLOSE)
    raise UnpackableError("the text has no program body")


# =============================== Choosing =======================================


def _mib(kernel: Kernel, sizes: Mapping[str, int]) -> float:
    elements = sum(
        sizes.get(w.name, 0) if isinstance(w, Weight) else w.size for w in kernel.weights.values()
    )
    return elements * 2 / 2**20


def _operations(kernel: Kernel) -> int:
    """Operations of a text that are no constants."""
    return max(1, kernel.mil.count("[name") - len(re.findall(r"\bconst\(\)", kernel.mil)))


def _clusters(kernels: Sequence[Kernel], members: Sequence[int]) -> list[list[int]]:
    """Kernels that bake a weight in common stand together; in order of the set."""
    owner: dict[str, int] = {}
    parent = {m: m for m in members}

    def root(m: int) -> int:
        while parent[m] != m:
            parent[m] = parent[parent[m]]
            m = parent[m]
        return m

    for m in members:
        for w in kernels[m].weights.values():
            if isinstance(w, Weight):
                a, b = sorted((root(owner.setdefault(w.name, m)), root(m)))
                parent[b] = a
    found: dict[int, list[int]] = {}
    for m in members:
        found.setdefault(root(m), []).append(m)
    return list(found.values())


def plan(
    kernels: KernelSet,
    sizes: Mapping[str, int],
    programs: int | None = None,
    limits: Limits = LIMITS,
) -> list[list[int]]:
    """Groups of positions, one for each program.

    Args:
        kernels: the set.
        sizes: elements of each weight.
        programs: how many are wanted for the kernels that change; None: what costs least.
        limits: of a program and a process.
    """
    all_of = kernels.kernels
    shapes = {i: read_function(k.name, k.mil) for i, k in enumerate(all_of)}
    families: dict[tuple[bool, str, str], list[int]] = {}
    for i, k in enumerate(all_of):
        fixed = all(
            not isinstance(w, Weight) or {w.name, w.scale or w.name} <= kernels.frozen
            for w in k.weights.values()
        )
        families.setdefault((fixed, shapes[i].header, shapes[i].opset), []).append(i)
    cost = [limits.operation_ms * _operations(k) + limits.mib_ms * _mib(k, sizes) for k in all_of]
    mib = [_mib(k, sizes) for k in all_of]
    changing = sum(cost[i] for (fixed, *_), m in families.items() if not fixed for i in m)
    most = max(1, limits.loaded // 2 - sum(bool(f) for f, *_ in families))
    wanted = programs or max(1, min(most, round(math.sqrt(changing / limits.fixed_ms))))
    groups: list[list[int]] = []
    for (fixed, *_), members in families.items():
        total = sum(cost[i] for i in members)
        share = 1 if fixed or not changing else max(1, round(wanted * total / changing))
        groups += _partition(_clusters(all_of, members), cost, mib, total / share, limits)
    return groups


def _partition(
    clusters: list[list[int]], cost: list[float], mib: list[float], target: float, limits: Limits
) -> list[list[int]]:
    """Neighbouring clusters filled into groups of about `target`, within the limits of each."""
    groups: list[list[int]] = []
    now: list[int] = []
    spent = done = 0.0
    for cluster in clusters:
        for piece in _pieces(cluster, mib, limits):
            mine = sum(cost[i] for i in piece)
            full = len(now) + len(piece) > limits.procedures
            full |= sum(mib[i] for i in now + piece) > limits.program_mib
            # nearer to the end of this group's share before or after this piece?
            if now and (full or spent + mine / 2 > target * (len(groups) + 1) - done):
                groups.append(now)
                now, done, spent = [], done + spent, 0.0
            now = now + piece
            spent += mine
    return [*groups, now] if now else groups


def _pieces(cluster: list[int], mib: list[float], limits: Limits) -> list[list[int]]:
    """A cluster that fits into no program, cut."""
    pieces: list[list[int]] = [[]]
    for i in cluster:
        size = sum(mib[j] for j in pieces[-1]) + mib[i]
        if pieces[-1] and (len(pieces[-1]) >= limits.procedures or size > limits.program_mib):
            pieces.append([])
        pieces[-1].append(i)
    return pieces


def pack(
    kernels: KernelSet,
    sizes: Mapping[str, int],
    choice: PackingChoice = "auto",
    limits: Limits = LIMITS,
) -> Packing:
    """Sources of a set's programs.

    Args:
        kernels: the set.
        sizes: elements of each weight.
        choice: ``"auto"``: as :func:`plan` says, one program for each kernel where texts
            cannot be merged; an int: about that many programs; groups of kernel names: these,
            and every kernel that is not named by itself; None: one program for each kernel.
        limits: see :class:`Limits`.

    Raises:
        ConfigError: a choice that is none of these, or names unknown or repeated kernels.
        UnpackableError: with groups or a number, texts that cannot be merged.
    """
    n = len(kernels.kernels)
    if choice is None:
        return Packing(tuple(single_sources(kernels.kernels)), f"{n} kernels, one program each")
    if isinstance(choice, str):
        if choice != "auto":
            raise ConfigError(f"packing: expected 'auto', a number, groups or None, got {choice!r}")
        try:
            groups = plan(kernels, sizes, None, limits)
        except UnpackableError as error:
            log.warning("packing: %s; every kernel is a program of its own", error)
            alone = tuple(single_sources(kernels.kernels))
            return Packing(alone, f"{n} kernels, one program each", str(error))
    elif isinstance(choice, int) and not isinstance(choice, bool):
        if choice < 1:
            raise ConfigError(f"packing: expected at least 1 program, got {choice}")
        groups = plan(kernels, sizes, choice, limits)
    else:
        groups = _named(kernels, choice)
    single = single_sources(kernels.kernels)
    sources = [single[g[0]] if len(g) == 1 else merge(kernels.kernels, g) for g in groups]
    return Packing(tuple(sources), f"{n} kernels in {len(sources)} programs")


def _named(kernels: KernelSet, choice: object) -> list[list[int]]:
    """Explicit groups as positions."""
    if isinstance(choice, bool) or not isinstance(choice, Sequence):
        raise ConfigError(f"packing: expected 'auto', a number, groups or None, got {choice!r}")
    groups = []
    seen: set[int] = set()
    for names in choice:
        if isinstance(names, str) or not isinstance(names, Sequence) or not names:
            raise ConfigError(f"packing: expected groups of kernel names, got {names!r}")
        group = []
        for name in names:
            if name not in kernels.index:
                raise ConfigError(f"packing: no kernel {name!r} in the set")
            if kernels.index[name] in seen:
                raise ConfigError(f"packing: kernel {name!r} is named twice")
            seen.add(kernels.index[name])
            group.append(kernels.index[name])
        groups.append(group)
    return groups + [[i] for i in range(len(kernels.kernels)) if i not in seen]
