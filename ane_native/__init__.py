# SPDX-License-Identifier: MIT
"""ane_native: train on the Apple Neural Engine while the next weights compile in the background.

The engine runs programs whose weights are constants. Training changes the weights, so every
batch needs a recompile. This package keeps two kernel sets, one active and one being compiled
on a Grand Central Dispatch queue, and swaps them at the batch boundary::

    import ane_native as ane

    with ane.DoubleBufferedTrainer(kernels, weights, staleness=1) as trainer:
        for batch in batches:
            for x in batch:
                y = trainer.eval("forward", x)
            stats = trainer.step(new_weights)
            print(stats.compile_stall_ms, stats.compile_ms, stats.staleness)

Importing opens no engine, starts no thread and prints nothing.
"""

import logging as _logging

from . import restart, soft
from ._version import __version__
from .engine import Device, Engine, devices
from .errors import (
    AneError,
    BindError,
    BudgetExhausted,
    BusyError,
    CanaryError,
    CancelledError,
    CheckpointError,
    ClosedError,
    CompileError,
    ConfigError,
    DataError,
    EngineError,
    EngineOpenError,
    ForkedError,
    ProgramLostError,
    SilentEngineError,
    StagingError,
    StaleError,
    StateError,
    UpdateError,
    WorkerError,
)
from .kernel import Kernel, KernelSet, Port, Program, Surface, Weight
from .optim import AdamW
from .scheduler import BatchStats, DoubleBufferedTrainer, TraceEvent
from .totals import TrainerReport
from .workers import PoolStats, WorkerPool

_logging.getLogger("ane_native").addHandler(_logging.NullHandler())

__all__ = [
    "AdamW",
    "AneError",
    "BatchStats",
    "BindError",
    "BudgetExhausted",
    "BusyError",
    "CanaryError",
    "CancelledError",
    "CheckpointError",
    "ClosedError",
    "CompileError",
    "ConfigError",
    "DataError",
    "Device",
    "DoubleBufferedTrainer",
    "Engine",
    "EngineError",
    "EngineOpenError",
    "ForkedError",
    "Kernel",
    "KernelSet",
    "PoolStats",
    "Port",
    "Program",
    "ProgramLostError",
    "SilentEngineError",
    "StagingError",
    "StaleError",
    "StateError",
    "UpdateError",
    "Surface",
    "TraceEvent",
    "TrainerReport",
    "Weight",
    "WorkerError",
    "WorkerPool",
    "__version__",
    "devices",
    "restart",
    "soft",
]
