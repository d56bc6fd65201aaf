# SPDX-License-Identifier: MIT
"""Keeps a probe's report per engine and OS build, so that it is made once.

A file that cannot be used is said and ignored: the probe is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

from ane_native import soft
from ane_native._version import __version__
from ane_native.checkpoint import replace_file
from ane_native.engine import Engine
from ane_native.errors import ConfigError

from .report import FORMAT, Report
from .runner import SETTINGS, os_build

log = logging.getLogger("ane_native")


def folder() -> Path:
    """Where reports are kept: ``ANE_NATIVE_CACHE``, else the user's cache directory."""
    named = os.environ.get("ANE_NATIVE_CACHE")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ane_native"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "ane_native"


def path_for(engine: Engine) -> Path:
    """The file of this engine, this OS build and this version of the package."""
    about = engine.info()
    key = {
        "format": FORMAT,
        "ane_native": __version__,
        "os_build": os_build(),
        **{k: about.get(k) for k in ("name", "chip", "version")},
    }
    if engine.name.startswith("softane"):
        key |= {k: soft.get(k) for k in SETTINGS}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return folder() / f"probe-{engine.name}-{digest}.json"


def find(engine: Engine) -> Report | None:
    """The report kept for this engine and OS build; None when there is none that can be used."""
    path = path_for(engine)
    try:
        report = Report.read(path)
    except FileNotFoundError:
        return None
    except (OSError, ConfigError) as error:
        log.warning("the probe's stored result is ignored: %s", error)
        return None
    return report if report.about.get("complete") else None


def remember(engine: Engine, report: Report) -> Path | None:
    """Keep a complete report; None (and a message) where nothing can be kept."""
    if not report.about["complete"]:
        return None
    path = path_for(engine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, report.as_json())
    except OSError as error:
        log.warning("the probe's result cannot be kept: %s", error)
        return None
    return path
