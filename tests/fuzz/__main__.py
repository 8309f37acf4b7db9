"""``python -m tests.fuzz``: see campaign.py."""

from __future__ import annotations

import sys

from tests.fuzz.campaign import main

sys.exit(main(sys.argv[1:]))
