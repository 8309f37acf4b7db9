"""``python -m tests.results``: write the figures of tests/README.md anew; see tables.py."""

from __future__ import annotations

from tests.results.tables import DOCUMENT, filled

DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
