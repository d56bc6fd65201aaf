# SPDX-License-Identifier: MIT
"""``python -m ane_native`` is the command ``ane-native``."""

import sys

from ane_native.cli import main

if __name__ == "__main__":
    sys.exit(main())
