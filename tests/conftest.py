"""For all tests: their options, and that nothing which Hypothesis measures by the clock fails one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--rewrite-scripts``, known when pytest is given tests or a path in it."""
    parser.addoption(
        "--rewrite-scripts",
        action="store_true",
        help="write what happens into the scripts (tests/raft, tests/server) instead of comparing; then read the diff",
    )
