"""What several tests of a node's start share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.opened_directories import COMMIT


@pytest.fixture(params=["lmdb", "journal"])
def both_commits(request: pytest.FixtureRequest) -> Iterator[None]:
    """Open every directory in both ways: what is in it was written without a journal."""
    COMMIT[0] = request.param
    yield
    COMMIT[0] = "lmdb"
