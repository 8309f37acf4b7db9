"""``python -m tests.corruption``: see campaign.py."""

from __future__ import annotations

import sys

from tests.corruption.campaign import main

sys.exit(main(sys.argv[1:]))
