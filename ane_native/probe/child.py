# SPDX-License-Identifier: MIT
"""One experiment in a process of its own: python -m ane_native.probe.child NAME [--quick]

Writes JSON lines to standard output; the last one says how it ended.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from ane_native.engine import Engine
from ane_native.errors import AneError, EngineError

from . import limits, meaning, reflection, speed  # noqa: F401 - they register themselves
from .base import EXPERIMENTS, Bench, Impossible, shape_of


def main() -> int:
    """Run the experiment named on the command line."""
    name, quick = sys.argv[1], "--quick" in sys.argv
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever an engine prints must not end in the answer

    def tell(kind: str, **values: Any) -> None:
        print(json.dumps({"kind": kind, **values}, default=str), file=out, flush=True)

    begin = time.monotonic()
    end: dict[str, Any]
    try:
        bench = Bench(Engine(), quick, lambda values: tell("partial", values=values))
        tell("engine", info=bench.engine.info())
        said, values = EXPERIMENTS[name].make(bench)
        end = {"status": "measured", "said": said, "values": values}
    except Impossible as why:
        end = {"status": "impossible", "said": str(why), "values": {}}
    except EngineError as error:
        end = {"status": "refused", "said": str(error).splitlines()[0], "values": shape_of(error)}
    except (AneError, ValueError, OSError) as error:
        end = {"status": "failed", "said": f"{type(error).__name__}: {error}", "values": {}}
    tell("end", seconds=time.monotonic() - begin, **end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
