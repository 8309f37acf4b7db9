"""``python -m tests.moves``: members come and go under load, beside etcd; see campaign.py."""

from __future__ import annotations

import sys

from tests.moves.campaign import main

sys.exit(main(sys.argv[1:]))
