"""Options of the algorithm's tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--rewrite-scripts``, known when pytest is given tests/raft or a path in it."""
    parser.addoption(
        "--rewrite-scripts",
        action="store_true",
        help="write what happens into tests/raft/scripts/*.txt instead of comparing; then read the diff",
    )
