# SPDX-License-Identifier: MIT
"""A small lint of the C and Objective-C files: mistakes that compilers let pass.

python tools/core_lint.py

Looks for: malloc without a check, unbounded string functions, a status that is dropped,
a return between lock and unlock, exit/abort/printf/assert and NSLog in libraries,
blocks. It reads lines, not C: where it is wrong, write `lint: why` into a comment on
that line. Exit status 1 when something was found.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOC = re.compile(
    r"([\w.>\[\]-]+)\s*=\s*(?:\([^()]*\)\s*)?(?:malloc|calloc|realloc|strdup|strndup)\("
)
UNBOUNDED = re.compile(r"(?<![\w.>])(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol)\s*\(")
UNWANTED = re.compile(r"(?<![\w.>])(exit|_exit|abort|printf|puts|assert|NSLog)\s*\(")
BLOCK = re.compile(r"(?<![\w)\]])\s\^\s*[({]|[(,=]\s*\^\s*[({]")
LOCK = re.compile(r"(pthread_mutex_(?:un)?lock)\(&?([^;]*?)\)\s*;")
ON_PURPOSE = {"softane/base/failpoint.c": {"abort"}}  # a test asks for it
FUNCTION_END = re.compile(r"^}")


def sources() -> list[Path]:
    """Library code: the core and softane, without tests and programs."""
    found = [*(ROOT / "ane_native").glob("*.[cm]")]
    for stage in ("base", "mil", "plan", "exec", "device", "surface", "facade"):
        found += (ROOT / "softane" / stage).rglob("*.[cm]")
    return sorted(found)


def status_functions() -> re.Pattern[str]:
    """A statement that is only a call of a function whose status must be looked at."""
    names = set()
    headers = [*(ROOT / "softane").rglob("*.h"), *(ROOT / "ane_native").glob("*.h")]
    headers += (ROOT / "ane_native").glob("*.cdef")
    for path in headers:
        text = path.read_text(encoding="utf-8")
        names |= set(re.findall(r"^SaStatus (sa_\w+)\(", text, re.MULTILINE))
        names |= set(re.findall(r"^int (ane_\w+)\([^;]*AneError \*err\)", text, re.MULTILINE))
    names = {n for n in names if not re.search(r"_(fail|set|format)$", n)}  # they report one
    return re.compile(rf"^\s*({'|'.join(sorted(names)) or '(?!)'})\(")


def strip(text: str) -> list[str]:
    """Lines without strings and comments; a line with a `lint:` comment is emptied."""
    allowed = {i for i, line in enumerate(text.splitlines()) if "lint:" in line}

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\''
    lines = re.sub(pattern, blank, text, flags=re.DOTALL).splitlines()
    return ["" if i in allowed else line for i, line in enumerate(lines)]


def unchecked(lines: list[str], at: int, name: str) -> bool:
    """True when `name`, allocated in line `at`, is not tested in the next lines."""
    near = " ".join(lines[at : at + 8])
    if re.search(rf"!\(\*?{re.escape(name)}\s*=", lines[at]):
        return False
    last = re.escape(name.split(">")[-1].split(".")[-1].split("[")[0])
    test = rf"!\(*\s*[\w.>\[\]()-]*{last}\b|{last}\S*\s*(==|!=)\s*NULL|[=(&|]\s*[\w.>-]*{last}\S*?\s*[&|)?;]"
    return not re.search(test, near)


def check(path: Path, status: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """(line, what) for everything found in one file."""
    lines = strip(path.read_text(encoding="utf-8"))
    held: list[str] = []
    for i, line in enumerate(lines):
        number = i + 1
        for found in ALLOC.finditer(line):
            if unchecked(lines, i, found[1]):
                yield number, f"the result '{found[1]}' of an allocation is not checked"
        for found in UNBOUNDED.finditer(line):
            yield number, f"{found[1]}() knows no bound"
        for found in UNWANTED.finditer(line):
            if found[1] in ON_PURPOSE.get(str(path.relative_to(ROOT)), ()):
                continue
            yield number, f"{found[1]}() has no place in a library"
        if BLOCK.search(line):
            yield number, "a block: only the function forms of GCD are used here"
        called, before = status.match(line), lines[i - 1].strip()
        wanted = not line.rstrip().endswith("NULL);")  # NULL: the error is not wanted
        alone = not before or before.endswith((";", "{", "}", ")", "else", ":"))
        if called and wanted and alone:
            yield number, f"the status of {called[1]}() is dropped"
        for found in LOCK.finditer(line):
            if found[1] == "pthread_mutex_lock":
                held.append(found[2])
            elif found[2] in held:
                held.remove(found[2])
        if held and re.search(r"\breturn\b", line) and "unlock" not in line:
            later = " ".join(lines[i + 1 : i + 60]).split("\n}")[0]
            if f"pthread_mutex_unlock(&{held[-1]}" in later or f"unlock({held[-1]}" in later:
                yield number, f"return while {held[-1]} is held"
        if FUNCTION_END.match(line):
            held.clear()


def main() -> int:
    """Print what was found."""
    status = status_functions()
    count = 0
    for path in sources():
        for number, what in check(path, status):
            count += 1
            print(f"{path.relative_to(ROOT)}:{number}: {what}")
    print(f"core_lint: {len(sources())} files, {count} findings")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
