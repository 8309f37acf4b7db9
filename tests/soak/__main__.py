"""``python -m tests.soak``: a real cluster at default timeouts, under load, beside other work; see soak.py."""

from __future__ import annotations

import sys

from tests.soak.soak import main

sys.exit(main(sys.argv[1:]))
