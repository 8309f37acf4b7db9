"""``python -m tests.power_loss``: see campaign.py."""

from __future__ import annotations

import sys

from tests.power_loss.campaign import main

sys.exit(main(sys.argv[1:]))
