"""``python -m tests.fault_matrix``: an error at every call of every write and flush; see matrix.py."""

from __future__ import annotations

import sys

from tests.fault_matrix.matrix import main

sys.exit(main(sys.argv[1:]))
