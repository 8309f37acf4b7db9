"""Fixtures of the storage tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.log_building import LmdbShelf


@pytest.fixture
def lmdb_shelf(tmp_path: Path) -> Iterator[LmdbShelf]:
    """A fresh data directory with an empty log."""
    shelf = LmdbShelf(tmp_path / "node")
    yield shelf
    shelf.close()
