# SPDX-License-Identifier: MIT
"""What a compile worker runs; started by ``workers.py``, never imported.

    python -I -S _worker.py CORE CFFI ENGINE OWNER REAP      (its socket is descriptor 3)

Loads the compiled core by path and hands over to it: no package, no numpy, no site
directory, because every replacement of a worker pays for what is imported here.
"""

import os
import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location

SOCKET = 3
MOST_DESCRIPTORS = 4096


def load(name: str, path: str):  # type: ignore[no-untyped-def]
    """An extension module from its file."""
    spec = spec_from_file_location(name, path, loader=ExtensionFileLoader(name, path))
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    core_path, cffi_path, engine, owner, reap = sys.argv[1:]
    os.closerange(SOCKET + 1, MOST_DESCRIPTORS)  # what others of the trainer's libraries left open
    load("_cffi_backend", cffi_path)
    core = load("_core", core_path)
    sys.exit(core.lib.ane_worker_main(SOCKET, os.fsencode(engine), int(owner), os.fsencode(reap)))
