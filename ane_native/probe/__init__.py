# SPDX-License-Identifier: MIT
"""What this engine can do, by experiment: ``ane-native probe``.

Data flows one way::

    base.py       what an experiment is; small kernels to experiment with
      speed.py, limits.py, meaning.py     the experiments
        child.py  runs one of them in a process of its own
          runner.py  starts the children, bounds their time, collects the rows
            report.py  table, JSON, plot        store.py  the result per engine and OS build

See ``docs/PROBE.md``.
"""

from .base import EXPERIMENTS, Experiment
from .report import Report
from .runner import run
from .store import find, folder, remember

__all__ = ["EXPERIMENTS", "Experiment", "Report", "find", "folder", "remember", "run"]
