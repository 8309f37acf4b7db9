"""``python -m tests.mutation``: see campaign.py."""

from __future__ import annotations

import sys

from tests.mutation.campaign import main

sys.exit(main(sys.argv[1:]))
